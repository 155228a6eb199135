package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"golang.org/x/sys/unix"
)

// etcDir holds, in a run directory, the files that are mounted below /etc.
const etcDir = "etc"

// writeEtc writes the hosts, hostname and resolv.conf files of one start into the container's run directory. att is nil
// for a container that has no network of its own: it gets the host's files, or those of the container it joins.
func (e *Engine) writeEtc(rec container.Record, att *network.Attachment, links []linked) (string, error) {
	cfg := rec.Config
	if id, ok := strings.CutPrefix(cfg.Net.Mode, "container:"); ok {
		return filepath.Join(e.runDir(id), etcDir), nil
	}
	dir := filepath.Join(e.runDir(rec.ID), etcDir)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the directory of files for /etc: %w", err)
	}
	var hosts []byte
	var err error
	if cfg.Net.Mode == "host" {
		if hosts, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the host's names: %w", err)
		}
	}
	extra, err := e.extraHosts(cfg.Net, att)
	if err != nil {
		return "", err
	}
	extra = append(extra, e.hostNames(cfg.Net, att)...)
	for _, l := range links {
		extra = append(extra, l.hosts())
	}
	if hosts == nil {
		hosts = network.RenderHosts(ownNames(cfg), ownAddrs(att), extra)
	} else {
		hosts = network.AppendHosts(hosts, extra)
	}
	text, err := network.RenderResolvConf(e.resolvConf(cfg), att)
	if err != nil {
		return "", err
	}
	for name, data := range map[string][]byte{"hosts": hosts, "hostname": []byte(cfg.Hostname + "\n"), "resolv.conf": text} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return "", fmt.Errorf("write /etc/%s of container %q: %w", name, rec.Name, err)
		}
	}
	return dir, nil
}

func (e *Engine) resolvConf(cfg container.Config) network.ResolvConf {
	return network.ResolvConf{Nameservers: first(cfg.Net.DNS, e.opts.DNS), Search: first(cfg.Net.DNSSearch, e.opts.DNSSearch),
		Options: first(cfg.Net.DNSOptions, e.opts.DNSOptions)}
}

// hostNames is host.docker.internal, unless the user says what that is.
func (e *Engine) hostNames(cfg container.Network, att *network.Attachment) []network.Host {
	if slices.ContainsFunc(cfg.ExtraHosts, func(s string) bool {
		return strings.HasPrefix(s, dockerHost+":") || strings.HasPrefix(s, dockerHost+"=")
	}) || cfg.Mode == "none" {
		return nil
	}
	var out []network.Host
	for _, addr := range e.hostAddrs(cfg.Mode, att) {
		out = append(out, network.Host{Addr: addr, Names: []string{dockerHost}})
	}
	return out
}

// hostAddrs are the addresses that stand for the host in a container: those the daemon was told, or where it reaches it.
func (e *Engine) hostAddrs(mode string, att *network.Attachment) []netip.Addr {
	switch {
	case len(e.opts.HostGateway) > 0:
		return e.opts.HostGateway
	case mode == "host":
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return valid(e.hostGateway(att))
}

// ownNames are what a container is called in its hosts file.
func ownNames(cfg container.Config) []string {
	if cfg.Domain != "" {
		return []string{cfg.Hostname + "." + cfg.Domain, cfg.Hostname}
	}
	return []string{cfg.Hostname}
}

func ownAddrs(att *network.Attachment) []netip.Addr {
	if att == nil {
		return nil
	}
	var own []netip.Addr
	for _, ep := range att.Endpoints {
		for _, p := range []netip.Prefix{ep.IPv4, ep.IPv6} {
			if p.IsValid() {
				own = append(own, p.Addr())
			}
		}
	}
	return own
}

// updateEtc brings the files of a container that runs up to date with its networks. They are mounted one by one, so they
// are written in place; what the container has made of them meanwhile stays. An error is no reason to undo the change.
func (e *Engine) updateEtc(rec container.Record, before, after *network.Attachment) {
	dir := filepath.Join(e.runDir(rec.ID), etcDir)
	was, is := ownAddrs(before), ownAddrs(after)
	gone := slices.DeleteFunc(slices.Clone(was), func(a netip.Addr) bool { return slices.Contains(is, a) })
	come := slices.DeleteFunc(slices.Clone(is), func(a netip.Addr) bool { return slices.Contains(was, a) })
	err := editFile(filepath.Join(dir, "hosts"), func(text []byte) []byte {
		text = network.EditHosts(text, ownNames(rec.Config), gone, come)
		mode := rec.Config.Net.Mode
		if from, to := e.hostAddrs(mode, before), e.hostAddrs(mode, after); !slices.Equal(from, to) {
			for _, name := range gatewayNames(rec.Config.Net) {
				text = network.EditHosts(text, []string{name}, from, to)
			}
		}
		return text
	})
	if err == nil && (before == nil || len(before.Resolvers) == 0) && len(after.Resolvers) > 0 {
		var resolv []byte
		if resolv, err = network.RenderResolvConf(e.resolvConf(rec.Config), after); err == nil {
			err = editFile(filepath.Join(dir, "resolv.conf"), func(text []byte) []byte {
				if !network.IsRendered(text) {
					return text
				}
				return resolv
			})
		}
	}
	if err != nil {
		e.log.Warn("update the container's files below /etc", "container", rec.ID, "error", err)
	}
}

// gatewayNames are the names that stand for the host.
func gatewayNames(cfg container.Network) []string {
	names := []string{dockerHost}
	for _, entry := range cfg.ExtraHosts {
		name, ok := strings.CutSuffix(entry, ":host-gateway")
		switch {
		case ok && name != dockerHost:
			names = append(names, name)
		case !ok && strings.HasPrefix(entry, dockerHost+":"):
			names = slices.DeleteFunc(names, func(s string) bool { return s == dockerHost })
		}
	}
	return names
}

func valid(a netip.Addr) []netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return []netip.Addr{a}
}

// editFile replaces the text of a file that a container may write to, without making a new one.
func editFile(name string, edit func([]byte) []byte) error {
	const most = 1 << 20
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return err
	}
	if len(text) > most {
		return fmt.Errorf("%s has grown beyond %d bytes and is left as it is", name, most)
	}
	edited := edit(text)
	if bytes.Equal(edited, text) {
		return nil
	}
	// The new text comes over the old one in one piece, and only then goes the rest: a daemon that is killed in between
	// leaves empty lines and no empty file.
	padded := append(bytes.Clone(edited), bytes.Repeat([]byte("\n"), max(0, len(text)-len(edited)))...)
	if _, err := f.WriteAt(padded, 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(edited)))
}

func first(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}
