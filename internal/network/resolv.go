package network

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// ResolvConf is what a resolv.conf(5) says. In the options of a container an empty list means the host's, and the one
// search domain "." means none.
type ResolvConf struct {
	Nameservers []string
	Search      []string
	Options     []string
}

const (
	hostResolvConf = "/etc/resolv.conf"
	// systemd-resolved's file with the servers behind its own listener, which containers cannot reach.
	upstreamResolvConf = "/run/systemd/resolve/resolv.conf"
)

// HostResolvConf is how the host resolves names, with servers that containers can reach: those on its loopback are
// replaced by what systemd-resolved asks, or left out. Where none is left Docker's default servers stand in.
func HostResolvConf() ResolvConf {
	host, _ := os.ReadFile(hostResolvConf)
	c := ParseResolvConf(host)
	if len(c.Nameservers) > 0 && !slices.ContainsFunc(c.Nameservers, reachable) {
		if up, err := os.ReadFile(upstreamResolvConf); err == nil {
			behind := ParseResolvConf(up)
			c.Nameservers = behind.Nameservers
			if len(c.Search) == 0 {
				c.Search = behind.Search
			}
		}
	}
	c.Nameservers = slices.DeleteFunc(c.Nameservers, func(s string) bool { return !reachable(s) })
	if len(c.Nameservers) == 0 {
		c.Nameservers = []string{"8.8.8.8", "8.8.4.4"}
	}
	return c
}

// reachable is false for addresses of the host's loopback, and for those that need a link of the host's.
func reachable(server string) bool {
	a, err := netip.ParseAddr(server)
	return err == nil && !a.IsLoopback() && a.Zone() == "" && !a.IsUnspecified()
}

// ParseResolvConf reads a resolv.conf. Lines it does not know it leaves out, as resolvers do.
func ParseResolvConf(text []byte) ResolvConf {
	var c ResolvConf
	for line := range strings.Lines(string(text)) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			c.Nameservers = append(c.Nameservers, f[1])
		case "search", "domain":
			c.Search = f[1:] // the last one counts
		case "options":
			c.Options = append(c.Options, f[1:]...)
		}
	}
	return c
}

// RenderResolvConf is the resolv.conf of a container: the host's, with what the user chose in its place. A container on
// the host's network (at is nil) has the host's servers as they are.
func RenderResolvConf(chosen ResolvConf, at *Attachment) ([]byte, error) {
	if at != nil {
		return renderResolvConf(HostResolvConf(), chosen, at), nil
	}
	host, err := os.ReadFile(hostResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read how the host resolves names: %w", err)
	}
	if len(chosen.Nameservers)+len(chosen.Search)+len(chosen.Options) == 0 {
		return host, nil
	}
	return renderResolvConf(ParseResolvConf(host), chosen, nil), nil
}

func renderResolvConf(host, chosen ResolvConf, at *Attachment) []byte {
	c := host
	switch {
	case at != nil && len(at.Resolvers) > 0:
		c.Nameservers = at.Resolvers
	case len(chosen.Nameservers) > 0:
		c.Nameservers = chosen.Nameservers
	case at != nil && !at.hasIPv6():
		// A server the container cannot reach costs every lookup a timeout.
		only4 := slices.DeleteFunc(slices.Clone(c.Nameservers), func(s string) bool { return strings.Contains(s, ":") })
		if len(only4) > 0 {
			c.Nameservers = only4
		}
	}
	switch {
	case len(chosen.Search) > 0:
		c.Search = chosen.Search
	case at != nil && len(at.Search) > 0:
		c.Search = at.Search
	}
	c.Search = slices.DeleteFunc(slices.Clone(c.Search), func(s string) bool { return s == "." })
	if len(chosen.Options) > 0 {
		c.Options = chosen.Options
	}
	ndots := func(o string) bool { return strings.HasPrefix(o, "ndots:") }
	if at != nil && len(at.Resolvers) > 0 && !slices.ContainsFunc(c.Options, ndots) {
		// The names of containers have no dot and no domain; they are asked for as they are, and first.
		c.Options = append(slices.Clone(c.Options), "ndots:0")
	}
	var b bytes.Buffer
	b.WriteString(rendered)
	for _, s := range c.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Search, " "))
	}
	if len(c.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(c.Options, " "))
	}
	return b.Bytes()
}

// rendered begins every resolv.conf of ours.
const rendered = "# Made by Berth for this container.\n"

// IsRendered reports whether a resolv.conf is ours, and not one that the container has put in its place.
func IsRendered(text []byte) bool { return bytes.HasPrefix(text, []byte(rendered)) }

func (at *Attachment) hasIPv6() bool {
	return slices.ContainsFunc(at.Endpoints, func(e EndpointState) bool { return e.IPv6.IsValid() })
}

// Host is a line of a hosts(5) file.
type Host struct {
	Addr  netip.Addr
	Names []string
}

// RenderHosts is the hosts file of a container: the loopback names, what the user added, and the container's own names
// at each of its addresses.
func RenderHosts(names []string, own []netip.Addr, extra []Host) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::\tip6-localnet\n" +
		"ff00::\tip6-mcastprefix\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	writeHosts(&b, extra)
	names = slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" })
	for _, a := range own {
		if len(names) > 0 {
			writeHosts(&b, []Host{{a, names}})
		}
	}
	return b.Bytes()
}

// AppendHosts adds lines to a hosts file.
func AppendHosts(hosts []byte, extra []Host) []byte {
	var b bytes.Buffer
	b.Write(hosts)
	if len(extra) > 0 && len(hosts) > 0 && hosts[len(hosts)-1] != '\n' {
		b.WriteByte('\n')
	}
	writeHosts(&b, extra)
	return b.Bytes()
}

func writeHosts(b *bytes.Buffer, hosts []Host) {
	for _, h := range hosts {
		fmt.Fprintf(b, "%s\t%s\n", h.Addr, strings.Join(h.Names, " "))
	}
}

// MoveHosts gives the line of a hosts file with just these names another address. Where there is none it changes nothing.
func MoveHosts(hosts []byte, names []string, to netip.Addr) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(hosts) {
		f := strings.Fields(string(line))
		if len(f) > 1 && slices.Equal(f[1:], names) {
			if a, err := netip.ParseAddr(f[0]); err == nil && a != to {
				writeHosts(&b, []Host{{to, names}})
				continue
			}
		}
		b.Write(line)
	}
	return b.Bytes()
}

// EditHosts takes the container's names at the addresses that are gone out of a hosts file, and adds those at the ones
// that have come. Other lines stay as they are.
func EditHosts(hosts []byte, names []string, gone, come []netip.Addr) []byte {
	names = slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == "" })
	if len(names) == 0 {
		return hosts
	}
	var drop bytes.Buffer
	lines := map[string]bool{}
	for _, a := range gone {
		drop.Reset()
		writeHosts(&drop, []Host{{a, names}})
		lines[drop.String()] = true
	}
	var b bytes.Buffer
	for line := range bytes.Lines(hosts) {
		if !lines[string(line)] {
			b.Write(line)
		}
	}
	var extra []Host
	for _, a := range come {
		extra = append(extra, Host{a, names})
	}
	return AppendHosts(b.Bytes(), extra)
}
