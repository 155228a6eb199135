package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/image"
	"github.com/berth-engine/berth/internal/network"
	"github.com/berth-engine/berth/internal/store"
)

// maxConfigFile bounds what is read of the configuration file.
const maxConfigFile = 1 << 20

// Load makes the configuration from the command line (without the program's name) and the file that it names.
func Load(args []string) (*Config, error) {
	c := defaults()
	given, err := parseFlags(&c, args)
	if err != nil {
		return nil, err
	}
	if c.Help || c.Version {
		return &c, nil
	}
	data, err := readConfigFile(c.ConfigFile, given["config-file"] == nil)
	if err != nil {
		return nil, err
	}
	if err := applyFile(&c, data, given); err != nil {
		return nil, fmt.Errorf("configuration file %q: %w", c.ConfigFile, err)
	}
	if c.StorageDriver == "" {
		c.StorageDriver = os.Getenv("DOCKER_DRIVER") // as dockerd
	}
	if c.PidFile == "" {
		c.PidFile = filepath.Join(c.ExecRoot, "berthd.pid")
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"unix://" + filepath.Join(c.ExecRoot, "berth.sock")}
	}
	return &c, c.check()
}

// parseFlags reads "--flag value", "--flag=value", "-f value", "-fvalue", and flags without a value, which may be
// joined ("-Dv"). It returns the texts that were given by flag.
func parseFlags(c *Config, args []string) (map[string][]string, error) {
	long, short := map[string]setting{}, map[string]setting{}
	for _, s := range settings() {
		if s.flag != "" {
			long[s.flag] = s
		}
		if s.short != "" {
			short[s.short] = s
		}
	}
	given := map[string][]string{}
	set := func(s setting, shown, text string) error {
		if err := setText(s.to(c), text); err != nil {
			return fmt.Errorf("invalid value for %s: %w", shown, err)
		}
		given[s.flag] = append(given[s.flag], text)
		return nil
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, isLong := strings.CutPrefix(arg, "--")
		switch {
		case arg == "--" || arg == "-" || arg == "" || arg[0] != '-':
			return nil, fmt.Errorf("unexpected argument %q: berthd takes flags only, see berthd --help", arg)
		case isLong:
			name, value, hasValue := strings.Cut(name, "=")
			s, known := long[name]
			if !known {
				return nil, unknownFlag(name)
			}
			if !hasValue {
				if s.value == "" {
					value = "true"
				} else if len(args) == 0 {
					return nil, fmt.Errorf("flag --%s needs a value", name)
				} else {
					value, args = args[0], args[1:]
				}
			}
			if err := set(s, "--"+name, value); err != nil {
				return nil, err
			}
		default:
			for letters := arg[1:]; letters != ""; {
				s, known := short[letters[:1]]
				if !known {
					return nil, fmt.Errorf("unknown flag -%s in %q, see berthd --help", letters[:1], arg)
				}
				value := "true"
				rest := letters[1:]
				if s.value != "" {
					value, rest = strings.TrimPrefix(rest, "="), ""
					if value == "" {
						if len(args) == 0 {
							return nil, fmt.Errorf("flag -%s needs a value", letters[:1])
						}
						value, args = args[0], args[1:]
					}
				} else if strings.HasPrefix(rest, "=") {
					value, rest = rest[1:], ""
				}
				if err := set(s, "-"+letters[:1], value); err != nil {
					return nil, err
				}
				letters = rest
			}
		}
	}
	return given, nil
}

func unknownFlag(name string) error {
	if slices.Contains(foreign(), name) {
		return fmt.Errorf("flag --%s is dockerd's; berthd does not support it", name)
	}
	return fmt.Errorf("unknown flag --%s, see berthd --help", name)
}

// readConfigFile returns nothing for a default file that is not there.
func readConfigFile(path string, isDefault bool) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && isDefault {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the configuration file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration file: %w", err)
	}
	if len(data) > maxConfigFile {
		return nil, fmt.Errorf("the configuration file %q is larger than 1 MiB", path)
	}
	return data, nil
}

// applyFile reads the settings of the file into c; given are those of the command line, which must not stand in both.
func applyFile(c *Config, data []byte, given map[string][]string) error {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // editors on Windows put a mark before UTF-8
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	var file map[string]json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&file); err != nil {
		return fmt.Errorf("it is no JSON object: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is something after the JSON object")
	}
	byKey := map[string]setting{}
	for _, s := range settings() {
		if s.key != "" {
			byKey[s.key] = s
		}
	}
	var unknown, both []string
	for _, key := range slices.Sorted(maps.Keys(file)) {
		s, known := byKey[key]
		switch {
		case !known && slices.Contains(foreign(), key):
			return fmt.Errorf("%q is dockerd's; berthd does not support it", key)
		case !known:
			unknown = append(unknown, key)
		case given[s.flag] != nil && s.flag != "":
			both = append(both, fmt.Sprintf("%s: (from flag: %s, from file: %s)", key, flagText(given[s.flag]), file[key]))
		}
	}
	if unknown != nil {
		return fmt.Errorf("the following directives don't match any configuration option: %s", strings.Join(unknown, ", "))
	}
	if both != nil {
		return fmt.Errorf("the following directives are specified both as a flag and in the configuration file: %s",
			strings.Join(both, ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(file)) {
		if string(file[key]) == "null" {
			continue
		}
		if err := setJSON(byKey[key].to(c), file[key]); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
	}
	return nil
}

func flagText(values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return "[" + strings.Join(values, ", ") + "]"
}

// check refuses settings that contradict each other or cannot be.
func (c *Config) check() error {
	for _, dir := range []struct{ what, path string }{
		{"data-root", c.DataRoot}, {"exec-root", c.ExecRoot}, {"pidfile", c.PidFile},
	} {
		if !filepath.IsAbs(dir.path) {
			return fmt.Errorf("%s %q must be an absolute path", dir.what, dir.path)
		}
	}
	if filepath.Clean(c.DataRoot) == filepath.Clean(c.ExecRoot) {
		return fmt.Errorf("data-root and exec-root must not be the same directory, %q", c.DataRoot)
	}
	if c.Registry != nil {
		if err := c.Registry.Check(); err != nil {
			return fmt.Errorf("\"registry\": %w", err)
		}
	}
	if _, err := store.ParseDriver(c.StorageDriver); err != nil {
		return fmt.Errorf("storage-driver: %w", err)
	}
	for _, host := range c.Hosts {
		if _, err := parseHost(host); err != nil {
			return err
		}
	}
	if err := c.checkDefaultNetwork(); err != nil {
		return err
	}
	if !c.ICC && !c.IPTables {
		return errors.New("You specified --iptables=false with --icc=false. ICC=false uses iptables to function. " +
			"Please set --icc or --iptables to true")
	}
	for _, p := range c.Pools {
		base, err := netip.ParsePrefix(p.Base)
		if err != nil || p.Size < base.Bits() || p.Size > base.Addr().BitLen() {
			return fmt.Errorf("default address pool base=%s,size=%d: it needs a CIDR and a prefix length within it",
				p.Base, p.Size)
		}
	}
	for _, a := range c.DNS {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("dns %q is not an address", a)
		}
	}
	if _, err := c.hostGateway(); err != nil {
		return err
	}
	if c.PublishPolicy != policyOpen && c.PublishPolicy != policyRespect {
		return fmt.Errorf("publish-policy %q is neither %s nor %s", c.PublishPolicy, policyOpen, policyRespect)
	}
	switch c.FirewallBackend {
	case network.FirewallAuto, network.FirewallNFTables, network.FirewallIPTables:
	default:
		return fmt.Errorf("firewall-backend %q is neither auto, nftables nor iptables", c.FirewallBackend)
	}
	if c.PublishPolicy == policyRespect && c.FirewallBackend == network.FirewallIPTables {
		return fmt.Errorf("publish-policy %s needs nftables, which firewall-backend iptables forbids", policyRespect)
	}
	if c.PublishPolicy == policyRespect && !c.IPTables {
		return fmt.Errorf("publish-policy %s needs firewall rules, which --iptables=false forbids", policyRespect)
	}
	if c.PublishIP != "" {
		if _, err := netip.ParseAddr(c.PublishIP); err != nil {
			return fmt.Errorf("ip %q is not an address", c.PublishIP)
		}
	}
	switch c.LogDriver {
	case "json-file", "none":
	default:
		return fmt.Errorf("log-driver %q is not supported: use json-file or none", c.LogDriver)
	}
	for _, l := range c.Labels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			return fmt.Errorf("label %q is not of the form KEY=VALUE", l)
		}
	}
	if c.Downloads < 1 {
		return errors.New("max-concurrent-downloads must be at least 1")
	}
	if _, err := c.imagePolicy(); err != nil {
		return err
	}
	if _, err := level(c); err != nil {
		return err
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		return fmt.Errorf("log-format %q is neither text nor json", c.LogFormat)
	}
	if _, err := minVersion(c.MinAPIVersion); err != nil {
		return err
	}
	if err := c.networkOptions().Check(); err != nil {
		return err
	}
	return c.checkTLS()
}

// checkDefaultNetwork is about the addresses of the default network.
func (c *Config) checkDefaultNetwork() error {
	for _, s := range []struct {
		key, value string
		v6, prefix bool
	}{
		{"bip", c.BIP, false, true}, {"bip6", c.BIP6, true, true},
		{"fixed-cidr", c.FixedCIDR, false, true}, {"fixed-cidr-v6", c.FixedCIDR6, true, true},
		{"default-gateway", c.Gateway, false, false}, {"default-gateway-v6", c.Gateway6, true, false},
	} {
		if s.value == "" {
			continue
		}
		what, example := "IPv4", "10.1.0.1"
		if s.v6 {
			what, example = "IPv6", "fd00:1::1"
		}
		var a netip.Addr
		var err error
		if s.prefix {
			var p netip.Prefix
			p, err = netip.ParsePrefix(s.value)
			a, what, example = p.Addr(), what+" address with a prefix length", example+map[bool]string{false: "/24", true: "/64"}[s.v6]
		} else {
			a, err = netip.ParseAddr(s.value)
			what += " address"
		}
		switch {
		case err != nil || a.Is6() != s.v6 || a.Is4In6():
			return fmt.Errorf("%s %q is not an %s, such as %s", s.key, s.value, what, example)
		case c.Bridge == network.NoBridge:
			return fmt.Errorf("%s is about the default network's bridge, and bridge \"none\" says that there is no bridge", s.key)
		case s.v6 && !c.IPv6:
			return fmt.Errorf("%s is about IPv6, which the default network has with ipv6 only: add \"ipv6\": true", s.key)
		}
	}
	return nil
}

// hostGateway are the addresses that "host-gateway" stands for, IPv4 first.
func (c *Config) hostGateway() ([]netip.Addr, error) {
	var out []netip.Addr
	texts := slices.Clone(c.HostGateway)
	if c.HostGatewayIP != "" {
		texts = append(texts, c.HostGatewayIP)
	}
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("host-gateway-ips: %q is not an address", text)
		case slices.ContainsFunc(out, func(b netip.Addr) bool { return a.Is4() == b.Is4() }):
			return nil, fmt.Errorf("host-gateway-ips: only one IPv4 and one IPv6 address can be given, not also %s", a)
		}
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}

// imagePolicy says when images are collected.
func (c *Config) imagePolicy() (p image.Policy, err error) {
	for _, m := range []struct {
		name, text string
		to         *image.Mark
	}{{"image-gc-high", c.ImageGCHigh, &p.High}, {"image-gc-low", c.ImageGCLow, &p.Low}} {
		if m.text == "" {
			continue
		}
		if *m.to, err = image.ParseMark(m.text); err != nil {
			return p, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if p.MinAge, err = time.ParseDuration(c.ImageGCMinAge); err != nil || p.MinAge < 0 {
		return p, fmt.Errorf("image-gc-min-age %q is no duration, such as 30m or 24h", c.ImageGCMinAge)
	}
	return p, p.Check()
}

func (c *Config) checkTLS() error {
	if c.TLSVerify && c.TLS != nil && !*c.TLS {
		return errors.New("--tls=false contradicts --tlsverify")
	}
	tls := c.TLSVerify || c.TLS != nil && *c.TLS
	if tls && (c.TLSCert == "" || c.TLSKey == "") {
		return errors.New("TLS needs --tlscert and --tlskey")
	}
	if c.TLSVerify && c.TLSCACert == "" {
		return errors.New("--tlsverify needs --tlscacert: only that CA's clients are let in")
	}
	for _, host := range c.Hosts {
		if h, err := parseHost(host); err == nil && h.scheme == "tcp" && !tls && c.TLS == nil {
			return fmt.Errorf("%s without TLS gives root on this machine to whoever reaches it: "+
				"use --tlsverify, or say --tls=false if that is meant", host)
		}
	}
	return nil
}

// Usage is the text of --help.
func Usage() string {
	var b strings.Builder
	b.WriteString("Usage: berthd [flags]\n\n" +
		"The daemon of Berth: runs containers and serves the Docker Engine API.\n\nFlags:\n")
	for _, s := range settings() {
		if s.flag == "" {
			continue
		}
		name := "    "
		if s.short != "" {
			name = "-" + s.short + ", "
		}
		name += "--" + s.flag
		if s.value != "" {
			name += " " + s.value
		}
		fmt.Fprintf(&b, "  %-44s %s\n", name, s.help)
	}
	b.WriteString("\nMost flags may stand in the configuration file as well, under dockerd's names for them.\n")
	return b.String()
}
