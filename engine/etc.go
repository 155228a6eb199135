package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
)

// etcDir holds, in a run directory, the files that are mounted below /etc.
const etcDir = "etc"

// writeEtc writes the hosts, hostname and resolv.conf files of one start into the container's run directory. att is nil
// for a container that has no network of its own: it gets the host's files, or those of the container it joins.
func (e *Engine) writeEtc(rec container.Record, att *network.Attachment) (string, error) {
	cfg := rec.Config
	if id, ok := strings.CutPrefix(cfg.Net.Mode, "container:"); ok {
		return filepath.Join(e.runDir(id), etcDir), nil
	}
	dir := filepath.Join(e.runDir(rec.ID), etcDir)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the directory of files for /etc: %w", err)
	}
	var hosts []byte
	var resolve network.ResolvConf
	var err error
	if cfg.Net.Mode == "host" {
		if hosts, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("read the host's names: %w", err)
		}
	}
	extra, err := e.extraHosts(cfg.Net.ExtraHosts, att)
	if err != nil {
		return "", err
	}
	names := []string{cfg.Hostname}
	if cfg.Domain != "" {
		names = []string{cfg.Hostname + "." + cfg.Domain, cfg.Hostname}
	}
	var own []netip.Addr
	if att != nil {
		for _, ep := range att.Endpoints {
			if ep.IPv4.IsValid() {
				own = append(own, ep.IPv4.Addr())
			}
			if ep.IPv6.IsValid() {
				own = append(own, ep.IPv6.Addr())
			}
		}
	}
	if hosts == nil {
		hosts = network.RenderHosts(names, own, extra)
	} else {
		hosts = network.AppendHosts(hosts, extra)
	}
	resolve = network.ResolvConf{Nameservers: first(cfg.Net.DNS, e.opts.DNS), Search: first(cfg.Net.DNSSearch, e.opts.DNSSearch),
		Options: first(cfg.Net.DNSOptions, e.opts.DNSOptions)}
	text, err := network.RenderResolvConf(resolve, att)
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

func first(a, b []string) []string {
	if len(a) > 0 {
		return a
	}
	return b
}
