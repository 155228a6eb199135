package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// enableForwarding turns the kernel's forwarding on for one version of IP. The hardware links that are there before keep
// not forwarding to each other: a host does not become a router because it runs containers. The list is kept until the
// next reboot.
func (n *Networks) enableForwarding(f family) error {
	if !n.opts.IPForward {
		return nil
	}
	name, marker := "net/ipv4/ip_forward", "closed-links-4"
	if f == ip6 {
		name, marker = "net/ipv6/conf/all/forwarding", "closed-links-6"
	}
	marker = filepath.Join(n.opts.RunDir, marker)
	was, err := readSysctl(name)
	if err != nil {
		return fmt.Errorf("read the state of forwarding: %w", err)
	}
	if was == "0" {
		if err := n.noteClosed(marker); err != nil {
			return err
		}
		if f == ip6 {
			if err := keepRouterAdvertisements(); err != nil {
				return err
			}
		}
		if err := setSysctl(name, "1"); err != nil {
			return fmt.Errorf("turn forwarding on (or do so yourself and use --ip-forward=false): %w", err)
		}
	}
	if n.opts.IPForwardNoDrop {
		return nil
	}
	b, err := os.ReadFile(marker)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the links that do not forward: %w", err)
	}
	var closed []string
	for name := range strings.Lines(string(b)) {
		if name = strings.TrimSpace(name); checkLinkName(name) == nil && name != n.opts.Bridge {
			closed = append(closed, name)
		}
	}
	n.mu.Lock()
	n.closed[f] = closed
	n.mu.Unlock()
	return nil
}

func (n *Networks) noteClosed(marker string) error {
	links, err := dumpLinks(n.handle)
	if err != nil {
		return fmt.Errorf("list the host's links: %w", err)
	}
	var b strings.Builder
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" && l.Type() == "device" && checkLinkName(name) == nil {
			b.WriteString(name + "\n")
		}
	}
	if err := os.WriteFile(marker, []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("note the links that do not forward: %w", err)
	}
	return nil
}

// keepRouterAdvertisements lets links go on listening to routers: with forwarding on, the kernel ignores them unless
// told twice (Documentation/networking/ip-sysctl, accept_ra), and the host would lose its own way out.
func keepRouterAdvertisements() error {
	files, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || strings.TrimSpace(string(b)) != "1" {
			continue // a link that has gone meanwhile
		}
		if err := os.WriteFile(f, []byte("2"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep listening to routers: %w", err)
		}
	}
	return nil
}
