package cni

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// Options say where things are.
type Options struct {
	ConfDir  string        // of the configurations; "" is /etc/cni/net.d
	BinDirs  []string      // of the plugins; none is DefaultBinDirs
	StateDir string        // of what is attached; on a disk, for what plugins give out often outlives a reboot
	Timeout  time.Duration // of one call of all plugins of a configuration; 0 is half a minute
}

// DefaultConfDir is where all engines look for configurations.
const DefaultConfDir = "/etc/cni/net.d"

// DefaultBinDirs are where plugins are: by themselves, of Debian, of Fedora.
func DefaultBinDirs() []string {
	return []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}
}

// Host runs the plugins of one daemon. All methods may be called at once, those about one attachment one after the other.
type Host struct {
	opts Options
	run  *runner
	lib  *libcni.CNIConfig
}

// Capabilities a configuration may have, by the names of CNI's conventions.
const (
	PortMappings = "portMappings"
	IPs          = "ips"
	MAC          = "mac"
	Aliases      = "aliases"
	Bandwidth    = "bandwidth"
)

// Attachment is one interface of a container on one network, and what is wanted for it.
type Attachment struct {
	ID        string // names it, 64 hexadecimal digits
	Network   string // whose it is, for the caller
	Config    string // the configuration's name
	Container string
	Interface string // inside
	Ports     []Port
	IPs       []netip.Addr // to be its own; none: any
	MAC       string       // "": any
	Aliases   []string
	Rates     Rates
}

// Rates bound what a container receives and sends, in bytes per second; 0 is no bound.
type Rates struct {
	Receive uint64 `json:"receive,omitempty"`
	Send    uint64 `json:"send,omitempty"`
}

// entry is the bounds in the words of the capability: bits per second, and how many bits may come at once.
func (r Rates) entry() map[string]uint64 {
	const bits, packets = 8, 128 << 10 // as the kernel hands them on, which may be 64 KiB each
	m := map[string]uint64{}
	for way, rate := range map[string]uint64{"ingress": r.Receive, "egress": r.Send} {
		if rate > 0 {
			m[way+"Rate"], m[way+"Burst"] = rate*bits, max(rate/100, packets)*bits
		}
	}
	return m
}

// Port is one that a plugin publishes.
type Port struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// Result is what the plugins made, by their own account.
type Result struct {
	IPv4, IPv6 netip.Prefix
	// Gateway and Gateway6 lead out: they are set where there is a default route of the version, to the unspecified
	// address where that has no gateway.
	Gateway, Gateway6 netip.Addr
	MAC               string
	MTU               int
	Nameservers       []netip.Addr
	Search            []string
}

// Open makes the state directory.
func Open(o Options) (*Host, error) {
	o.ConfDir, o.Timeout = cmp.Or(o.ConfDir, DefaultConfDir), cmp.Or(o.Timeout, 30*time.Second)
	if len(o.BinDirs) == 0 {
		o.BinDirs = DefaultBinDirs()
	}
	if err := os.MkdirAll(o.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of CNI attachments: %w", err)
	}
	h := &Host{opts: o, run: &runner{}}
	h.lib = libcni.NewCNIConfigWithCacheDir(o.BinDirs, o.StateDir, h.run)
	return h, nil
}

// Config is a configuration as its file has it now.
type Config struct {
	Name string
	list *libcni.NetworkConfigList
}

// Capable reports whether one of the plugins has a capability.
func (c *Config) Capable(capability string) bool {
	return slices.ContainsFunc(c.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

// Config reads the configuration of a name. A file that is damaged does not hide the others.
func (h *Host) Config(name string) (*Config, error) {
	files, err := libcni.ConfFiles(h.opts.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("list the CNI configurations in %s: %w", h.opts.ConfDir, err)
	}
	slices.Sort(files)
	var names, damaged []string
	for _, path := range files {
		list, err := readFile(path)
		if err == nil && len(list.Plugins) == 0 {
			err = errors.New("it names no plugins")
		}
		switch {
		case err != nil:
			damaged = append(damaged, fmt.Sprintf("%s: %v", filepath.Base(path), err))
		case list.Name == name:
			return &Config{Name: list.Name, list: list}, nil
		case !slices.Contains(names, list.Name):
			names = append(names, list.Name)
		}
	}
	text := ", which has none at all"
	if len(names) > 0 {
		text = "; there are: " + strings.Join(names, ", ")
	}
	if len(damaged) > 0 {
		text += "; not understood: " + strings.Join(damaged, "; ")
	}
	return nil, failf(errdefs.ErrNotFound, "no CNI configuration %q in %s%s", name, h.opts.ConfDir, plain([]byte(text)))
}

// readSingle reads a file of the old form, which is one plugin, as a list of one.
func readSingle(path string) (*libcni.NetworkConfigList, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var of struct{ Name, CNIVersion string }
	if err := json.Unmarshal(b, &of); err != nil {
		return nil, err
	}
	list, err := json.Marshal(map[string]any{"name": of.Name, "cniVersion": of.CNIVersion, "plugins": []json.RawMessage{b}})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(list)
}

// confBytes is the size of the largest configuration that is read; they have some kilobytes.
const confBytes = 1 << 20

func readFile(path string) (*libcni.NetworkConfigList, error) {
	switch st, err := os.Stat(path); { // a pipe would be waited for, and a device read without end
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, errors.New("it is no file")
	case st.Size() > confBytes:
		return nil, fmt.Errorf("it has more than %d bytes", confBytes)
	}
	if filepath.Ext(path) == ".conflist" {
		return libcni.NetworkConfFromFile(path)
	}
	return readSingle(path)
}

// Validate reads a configuration, and asks its plugins whether they are there, know its version, and are ready.
func (h *Host) Validate(ctx context.Context, name string) (*Config, error) {
	c, err := h.Config(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	if _, err = h.lib.ValidateNetworkList(ctx, c.list); err == nil {
		err = h.lib.GetStatusNetworkList(ctx, c.list)
	}
	if err != nil {
		return nil, refused(c.Name, err)
	}
	return c, nil
}

// refused is the error of a plugin.
func refused(config string, err error) error {
	var kind error = errdefs.ErrUnknown
	var said *types.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		kind = errdefs.ErrUnavailable
	case errors.As(err, &said) && said.Code == types.ErrTryAgainLater:
		kind = errdefs.ErrUnavailable
	}
	return failf(kind, "CNI configuration %q: %w", config, err)
}

// wants is the attachment in libcni's words; it refuses what no plugin of the configuration would heed.
func (a Attachment) wants(c *Config, netns string) (*libcni.RuntimeConf, error) {
	rt := &libcni.RuntimeConf{ContainerID: a.Container, NetNS: netns, IfName: a.Interface, CapabilityArgs: map[string]any{},
		// As Kubernetes' runtimes do; without it plugins refuse arguments that they do not know.
		Args: [][2]string{{"IgnoreUnknown", "1"}}}
	var ips []string
	for _, ip := range a.IPs {
		ips = append(ips, ip.String())
	}
	for _, w := range []struct {
		capability, what string
		value            any
		wanted           bool
	}{
		{PortMappings, "publish ports", a.Ports, len(a.Ports) > 0},
		{IPs, "give an address that was asked for", ips, len(ips) > 0},
		{MAC, "give a MAC address that was asked for", a.MAC, a.MAC != ""},
		{Bandwidth, "bound what a container receives or sends", a.Rates.entry(), a.Rates != (Rates{})},
	} {
		if !w.wanted {
			continue
		}
		if !c.Capable(w.capability) {
			return nil, failf(errdefs.ErrInvalidArgument, "CNI configuration %q cannot %s: none of its plugins has the capability %q",
				c.Name, w.what, w.capability)
		}
		rt.CapabilityArgs[w.capability] = w.value
	}
	if len(a.Aliases) > 0 && c.Capable(Aliases) {
		rt.CapabilityArgs[Aliases] = map[string][]string{c.Name: a.Aliases}
	}
	return rt, nil
}

// bytes is the configuration as one list, with the plugins that have files of their own.
func (c *Config) bytes() ([]byte, error) {
	whole := map[string]json.RawMessage{}
	if err := json.Unmarshal(c.list.Bytes, &whole); err != nil {
		return nil, err
	}
	var plugins []json.RawMessage
	for _, p := range c.list.Plugins {
		plugins = append(plugins, p.Bytes)
	}
	list, err := json.Marshal(plugins)
	if err != nil {
		return nil, err
	}
	whole["plugins"], whole["loadOnlyInlinedPlugins"] = list, json.RawMessage("true")
	return json.Marshal(whole)
}

// Check refuses what Add would refuse without asking a plugin.
func (c *Config) Check(a Attachment) error {
	_, err := a.wants(c, "")
	return err
}

// Add runs the plugins for a namespace, given by a path that is good until Add returns. When it fails what the plugins made
// was taken back, or is in List.
func (h *Host) Add(ctx context.Context, c *Config, a Attachment, netns string) (Result, error) {
	rt, err := a.wants(c, netns)
	if err != nil {
		return Result{}, err
	}
	s := &saved{Attachment: a}
	if s.Conf, err = c.bytes(); err != nil {
		return Result{}, err
	}
	if err := h.save(s); err != nil {
		return Result{}, err
	}
	limited, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	made, err := h.lib.AddNetworkList(limited, c.list, rt)
	if err == nil {
		s.Result, err = readResult(made, a.Interface)
	}
	if err == nil {
		err = s.Result.gave(a)
	}
	if err == nil {
		if err = h.save(s); err == nil {
			return *s.Result, nil
		}
	}
	return Result{}, errors.Join(refused(c.Name, err), h.Del(context.WithoutCancel(ctx), a.ID, netns))
}

// gave compares with what was asked for.
func (r *Result) gave(a Attachment) error {
	for _, ip := range a.IPs {
		if ip != r.IPv4.Addr() && ip != r.IPv6.Addr() {
			return fmt.Errorf("the address %s was asked for, and the plugins gave %s", ip, r.IPv4)
		}
	}
	return nil
}

// Del runs the plugins to clean up. netns is "" where the namespace has gone. An attachment that is not known is no error.
func (h *Host) Del(ctx context.Context, id, netns string) error {
	s, err := h.load(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	list, rt, err := s.again(netns)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	if err := h.lib.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("clean up: %w", refused(list.Name, err))
	}
	return h.forget(id)
}

// Check asks the plugins whether what they made is still there. Configurations of before 0.4.0 cannot say.
func (h *Host) Check(ctx context.Context, id, netns string) error {
	s, err := h.load(id)
	if err != nil {
		return fmt.Errorf("CNI attachment %.12s: %w", id, err)
	}
	list, rt, err := s.again(netns)
	if err != nil {
		return err
	}
	if olderThanCheck(list.CNIVersion) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	if err := h.lib.CheckNetworkList(ctx, list, rt); err != nil {
		return refused(list.Name, err)
	}
	return nil
}

func olderThanCheck(version string) bool {
	return version == "" || strings.HasPrefix(version, "0.1.") || strings.HasPrefix(version, "0.2.") || strings.HasPrefix(version, "0.3.")
}

// GC tells the plugins of a configuration which attachments there are; they free what they keep for any others, whoever
// made those. Configurations of before 1.1.0 have none.
func (h *Host) GC(ctx context.Context, c *Config, valid []Attachment) error {
	args := &libcni.GCArgs{}
	for _, a := range valid {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: a.Container, IfName: a.Interface})
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	if err := h.lib.GCNetworkList(ctx, c.list, args); err != nil {
		return refused(c.Name, err)
	}
	return nil
}

// failure is an error of one of errdefs' kinds whose text is the sentence alone.
type failure struct {
	kind error
	error
}

func (f *failure) Unwrap() []error { return []error{f.kind, f.error} }

func failf(kind error, format string, args ...any) error {
	return &failure{kind, fmt.Errorf(format, args...)}
}
