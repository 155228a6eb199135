package network

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Trace is the way of packets between the host and a container, read from the kernel at this moment: what we believe is
// used only to know where to look.
type Trace struct {
	Endpoints []TraceEndpoint
	Ports     []TracePort
	To        []string // what becomes of packets to the destination that was asked for
	// Problems are sentences about what keeps packets from arriving; none means that nothing was found.
	Problems []string
}

// TraceLink is a network interface.
type TraceLink struct {
	Name      string
	Index     int
	Kind      string // "veth", "bridge" …
	MAC       string
	MTU       int
	Up        bool // by its administrator
	Carrier   bool // the other end is up as well
	Addresses []netip.Prefix
}

// TraceEndpoint is one interface of the container and what it hangs on.
type TraceEndpoint struct {
	Network, Driver string
	Inside          TraceLink
	Host            *TraceLink // its other end; nil where there is none
	Bridge          *TraceLink
	Gateways        []netip.Addr // of the container's default routes through this interface
	Rules           []string     // that decide about packets which leave
}

// TracePort is one port of the container.
type TracePort struct {
	Port      uint16
	Proto     string
	Published []netip.AddrPort // on the host
	Rules     []string         // that lead from there to the container
	Listeners []netip.AddrPort // sockets inside
	Flows     []string         // connections that the kernel tracks, at most maxFlows
}

// TraceRequest asks for the trace of a container that runs. Port 0 means every published one.
type TraceRequest struct {
	ContainerID string
	Pid         int      // of a process in it
	NetNS       *os.File // stays the caller's
	Port        uint16
	Proto       string       // "" is "tcp"
	To          *Destination // nil: none
}

// maxFlows bounds what is shown of a busy port.
const maxFlows = 10

// tracing is a Trace in the making.
type tracing struct {
	*Trace
	n       *Networks
	r       TraceRequest
	att     *Attachment
	doc     document
	kernel  map[family]kernelTable
	handle  *netlink.Handle // inside
	inside  []netlink.Link
	onHost  []netlink.Link
	sockets []socket
	plugins map[publishedBy]string // who publishes a port, where our rules do not
	relayed map[publishedBy]netip.AddrPort
	gate    string // the link of it; "" where published ports are open to all
}

// publishedBy is a port of the host.
type publishedBy struct {
	proto string
	host  netip.AddrPort
}

// kernelTable is what the kernel has of our table, element keys in hexadecimal by set.
type kernelTable map[string]map[string]bool

func (k kernelTable) has(set string, key []any) bool {
	return k[set][hex.EncodeToString(partsBytes(edge(key, false)))]
}

func (t *tracing) problem(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(t.Problems, s) {
		t.Problems = append(t.Problems, s)
	}
}

// Trace follows the way of packets to and from a container. It changes nothing.
func (n *Networks) Trace(_ context.Context, r TraceRequest) (*Trace, error) {
	t := &tracing{Trace: &Trace{}, n: n, r: r, att: n.Attached(r.ContainerID), plugins: n.publishers(r.ContainerID),
		relayed: n.relayedPorts(r.ContainerID)}
	if t.att == nil {
		return nil, failf(errdefs.ErrFailedPrecondition, "the container has no network of Berth's: with the network of the host or of "+
			"another container there is nothing of its own to trace")
	}
	var err error
	if n.wall != nil {
		p := n.policy()
		t.doc, t.gate = compile(p), p.gate.out
		if t.kernel, err = n.wall.look(t.doc); err != nil {
			return nil, err
		}
	}
	if t.onHost, err = dumpLinks(n.handle); err != nil {
		return nil, fmt.Errorf("list the host's links: %w", err)
	}
	if err := n.inNetNS(r.NetNS, func() (err error) {
		t.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}); err != nil {
		return nil, fmt.Errorf("look into the container's network namespace: %w", err)
	}
	defer t.handle.Close()
	if t.inside, err = dumpLinks(t.handle); err != nil {
		return nil, fmt.Errorf("list the container's links: %w", err)
	}
	if t.sockets, err = listeners(r.Pid); err != nil {
		return nil, err
	}
	t.forwarding()
	for _, e := range t.att.Endpoints {
		if err := t.endpoint(e); err != nil {
			return nil, err
		}
	}
	if len(t.att.Endpoints) == 0 {
		t.problem("the container is on no network: it has only its loopback interface")
	}
	if err := t.ports(); err != nil {
		return nil, err
	}
	t.wholeTable()
	if err := errors.Join(t.policyTable(), t.destination()); err != nil {
		return nil, err
	}
	for _, w := range n.warningsFor(r.ContainerID) {
		t.problem("%s", w)
	}
	return t.Trace, nil
}

// forwarding looks at the switches without which the kernel routes nothing.
func (t *tracing) forwarding() {
	for _, f := range []struct{ name, what string }{{"net/ipv4/ip_forward", "IPv4"}} {
		if v, err := readSysctl(f.name); err == nil && v == "0" {
			t.problem("the host forwards no %s packets: %s is 0", f.what, strings.ReplaceAll(f.name, "/", "."))
		}
	}
}

func describeLink(h *netlink.Handle, l netlink.Link) (TraceLink, error) {
	a := l.Attrs()
	v := TraceLink{Name: a.Name, Index: a.Index, Kind: l.Type(), MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0}
	as, err := dumpAddrs(h, l, netlink.FAMILY_ALL)
	if err != nil {
		return v, fmt.Errorf("list the addresses of link %q: %w", a.Name, err)
	}
	for _, x := range as {
		v.Addresses = append(v.Addresses, prefixFromNet(x.IPNet))
	}
	return v, nil
}

func byIndex(links []netlink.Link, index int) netlink.Link {
	for _, l := range links {
		if l.Attrs().Index == index {
			return l
		}
	}
	return nil
}

// endpoint follows one interface from the inside out.
func (t *tracing) endpoint(e EndpointState) error {
	v := TraceEndpoint{Network: e.Network}
	nw, err := t.n.Inspect(e.NetworkID)
	if err != nil {
		t.problem("network %q, which %s is on, is gone", e.Network, e.Interface)
	}
	v.Driver = nw.Driver
	i := slices.IndexFunc(t.inside, func(l netlink.Link) bool { return l.Attrs().Name == e.Interface })
	if i < 0 {
		t.problem("the interface %s, by which the container is on network %q, is gone: %s", e.Interface, e.Network, t.whoTook(e, nw))
		v.Inside.Name = e.Interface
		t.Endpoints = append(t.Endpoints, v)
		return nil
	}
	if v.Inside, err = describeLink(t.handle, t.inside[i]); err != nil {
		return err
	}
	if !v.Inside.Up {
		t.problem("the interface %s in the container is down", e.Interface)
	}
	for _, want := range []netip.Prefix{e.IPv4, e.IPv6} {
		if want.IsValid() && !slices.Contains(v.Inside.Addresses, want) {
			t.problem("the interface %s in the container has lost its address %s", e.Interface, want)
		}
	}
	if err := t.outer(&v, nw, t.inside[i]); err != nil {
		return err
	}
	if err := t.routes(&v, e, nw); err != nil {
		return err
	}
	v.Rules = t.leaving(nw)
	t.policies(&v, e)
	t.Endpoints = append(t.Endpoints, v)
	return nil
}

// outer finds the other end of a veth pair, and the bridge it is a port of.
func (t *tracing) outer(v *TraceEndpoint, nw Network, inside netlink.Link) (err error) {
	if nw.Driver == driverCNI {
		return t.outerByPlugins(v, inside)
	}
	if nw.Link == "" {
		return nil
	}
	if isLAN(nw.Driver) {
		return t.outerLAN(v, nw, inside)
	}
	host := byIndex(t.onHost, inside.Attrs().ParentIndex)
	if inside.Type() != "veth" || host == nil {
		t.problem("%s in the container has no other end on the host", v.Inside.Name)
		return nil
	}
	l, err := describeLink(t.n.handle, host)
	if err != nil {
		return err
	}
	v.Host = &l
	if !l.Up {
		t.problem("%s, the host's end of the container's %s, is down", l.Name, v.Inside.Name)
	}
	bridge := byIndex(t.onHost, host.Attrs().MasterIndex)
	if bridge == nil || bridge.Attrs().Name != nw.Link {
		i := slices.IndexFunc(t.onHost, func(l netlink.Link) bool { return l.Attrs().Name == nw.Link })
		if i < 0 {
			t.problem("the host has no bridge %s: somebody has deleted or renamed it", nw.Link)
		}
		t.problem("%s, the host's end of the container's %s, is not a port of bridge %s: put it there with ip link set %s master %s", l.Name,
			v.Inside.Name, nw.Link, l.Name, nw.Link)
		return nil
	}
	b, err := describeLink(t.n.handle, bridge)
	if err != nil {
		return err
	}
	v.Bridge = &b
	if !b.Up {
		t.problem("bridge %s is down", b.Name)
	}
	if b.MTU != v.Inside.MTU {
		t.problem("bridge %s carries packets of %d bytes and %s in the container sends up to %d", b.Name, b.MTU, v.Inside.Name, v.Inside.MTU)
	}
	return nil
}

// whoTook tells who may have taken an interface from a container, and how it gets another.
func (t *tracing) whoTook(e EndpointState, nw Network) string {
	host := hostLink(e.EndpointID)
	const again = "it gets another by network disconnect and connect, or when it is started again"
	switch {
	case isLAN(nw.Driver):
		return fmt.Sprintf("something in the container has removed or renamed it, or somebody has deleted the host's link %s beside which it was; %s",
			nw.Link, again)
	case nw.Driver == driverBridge && !slices.ContainsFunc(t.onHost, func(l netlink.Link) bool { return l.Attrs().Name == host }):
		return fmt.Sprintf("so is the host's end, %s, and whoever deleted one of the two took the other with it; %s", host, again)
	}
	return "something in the container has removed or renamed it"
}

// outerLAN finds the link of the host that an interface stands beside.
func (t *tracing) outerLAN(v *TraceEndpoint, nw Network, inside netlink.Link) error {
	parent := byIndex(t.onHost, inside.Attrs().ParentIndex)
	if parent == nil {
		t.problem("the host's link %s, beside which the container's %s was, is gone", nw.Link, v.Inside.Name)
		return nil
	}
	l, err := describeLink(t.n.handle, parent)
	if err != nil {
		return err
	}
	v.Host = &l
	switch {
	case l.Name != nw.Link:
		t.problem("the host's link %s, beside which the container's %s is, is called %s now: network %q will not find it when the daemon starts again",
			nw.Link, v.Inside.Name, l.Name, nw.Name)
	case !l.Up:
		t.problem("the host's link %s, beside which the container's %s is, is down", l.Name, v.Inside.Name)
	case !l.Carrier:
		t.problem("the host's link %s, beside which the container's %s is, has no carrier: nothing is connected to it", l.Name, v.Inside.Name)
	}
	return nil
}

// outerByPlugins is outer for what plugins made: there may be a link of the host and a bridge, and there may be something else.
func (t *tracing) outerByPlugins(v *TraceEndpoint, inside netlink.Link) (err error) {
	host := byIndex(t.onHost, inside.Attrs().ParentIndex)
	if inside.Type() != "veth" || host == nil {
		return nil
	}
	for _, part := range []struct {
		link netlink.Link
		to   **TraceLink
	}{{host, &v.Host}, {byIndex(t.onHost, host.Attrs().MasterIndex), &v.Bridge}} {
		if part.link == nil {
			return nil
		}
		l, err := describeLink(t.n.handle, part.link)
		if err != nil {
			return err
		}
		if !l.Up {
			t.problem("%s, on the host, which plugins made for the container's %s, is down", l.Name, v.Inside.Name)
		}
		*part.to = &l
	}
	return nil
}

// publishers are the ports of a container that plugins publish, and whose those are.
func (n *Networks) publishers(id string) map[publishedBy]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[publishedBy]string{}
	if h := n.held[id]; h != nil {
		for _, p := range h.ports {
			if p.by != nil {
				all[publishedBy{p.proto.String(), p.host}] = p.by.network.cni.conf
			}
		}
	}
	return all
}

// routes reads the default routes through the interface, and whether the gateway is at the other end.
func (t *tracing) routes(v *TraceEndpoint, e EndpointState, nw Network) error {
	i := slices.IndexFunc(t.inside, func(l netlink.Link) bool { return l.Attrs().Name == e.Interface })
	rs, err := dumpRoutes(t.handle, t.inside[i], netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the container's routes: %w", err)
	}
	for _, r := range rs {
		if gw, ok := netip.AddrFromSlice(r.Gw); ok && (r.Dst == nil || isZero(r.Dst.Mask)) {
			v.Gateways = append(v.Gateways, gw.Unmap())
		}
	}
	if v.Bridge == nil || nw.Driver == driverCNI {
		return nil
	}
	for _, gw := range v.Gateways {
		if !slices.ContainsFunc(v.Bridge.Addresses, func(p netip.Prefix) bool { return p.Addr() == gw }) && !nw.gatewayElsewhere(gw) {
			t.problem("the container sends to the outside through %s, and bridge %s does not have that address", gw, v.Bridge.Name)
		}
	}
	return nil
}

// gatewayElsewhere reports whether a network was made with a gateway that is not its bridge.
func (nw Network) gatewayElsewhere(gw netip.Addr) bool {
	return gw.Is4() && nw.Options["com.docker.network.bridge.inhibit_ipv4"] == "true"
}

// leaving are the rules for packets that leave by a network.
func (t *tracing) leaving(nw Network) (rules []string) {
	if isLAN(nw.Driver) {
		return []string{"none: what the container sends goes out by " + nw.Link + ", and the host's rules have no part in it"}
	}
	if nw.Driver == driverCNI {
		return []string{"whatever the plugins of the network's CNI configuration made: Berth has no rules for it"}
	}
	for _, tb := range t.doc.tables {
		if !slices.ContainsFunc(nw.Subnets, func(s Subnet) bool { return familyOf(s.Prefix.Addr()) == tb.family }) {
			continue
		}
		at := tb.family.String() + " " + tb.name + " "
		for _, s := range nw.Subnets {
			if familyOf(s.Prefix.Addr()) != tb.family {
				continue
			}
			switch {
			case t.has(tb, "internal", nw.Link):
				rules = append(rules, at+"forward → ours: "+nw.Link+" is in @internal: dropped, whatever leaves the network")
			case t.has(tb, "behind", s.Prefix):
				rules = append(rules, at+"postrouting: "+s.Prefix.String()+" is in @behind: leaves with the address of the host that the network names")
			case t.has(tb, "hidden", s.Prefix):
				rules = append(rules, at+"postrouting: "+s.Prefix.String()+" is in @hidden: leaves with the host's address (masquerade)")
			default:
				rules = append(rules, at+"postrouting: "+s.Prefix.String()+" is not in @hidden: leaves with its own address")
			}
		}
		if t.has(tb, "same", nw.Link, nw.Link) {
			rules = append(rules, at+"forward → ours: neighbours on "+nw.Link+" talk to each other (@same)")
		} else {
			rules = append(rules, at+"forward → ours: neighbours on "+nw.Link+" do not talk to each other (not in @same)")
		}
	}
	return rules
}

// has reports whether the kernel's set has an element with this key.
func (t *tracing) has(tb table, set string, key ...any) bool {
	return t.kernel[tb.family].has(set, key)
}

// wholeTable compares all our rules with the kernel's.
func (t *tracing) wholeTable() {
	if t.n.legacy != nil && !t.n.legacy.intact(false) {
		t.problem("somebody has changed Berth's rules of iptables, or put himself before them: they are made again within seconds")
	}
	if !t.n.filters() {
		t.problem("the daemon makes no firewall rules (--iptables=false): nothing is published, and packets to the outside keep the container's " +
			"address unless somebody else translates them")
	}
	t.compare(t.doc, t.kernel)
}

// compare looks for what the kernel does not have of a document.
func (t *tracing) compare(doc document, kernel map[family]kernelTable) {
	for _, tb := range doc.tables {
		have, there := kernel[tb.family]
		if !there {
			t.problem("the firewall table %q of family %s is gone: somebody has removed Berth's rules; the next container that starts brings "+
				"them back", tb.name, tb.family)
			continue
		}
		for _, s := range tb.sets {
			for _, e := range s.elements {
				if !have.has(s.name, e.key) {
					t.problem("the set %q of firewall table %s %s lacks the element %s: somebody has changed Berth's rules", s.name, tb.family,
						tb.name, e)
				}
			}
		}
	}
}

// ports follows the published ports, or the one that was asked for.
func (t *tracing) ports() error {
	proto := t.r.Proto
	if proto == "" {
		proto = "tcp"
	}
	var list []TracePort
	add := func(port uint16, proto string) *TracePort {
		i := slices.IndexFunc(list, func(p TracePort) bool { return p.Port == port && p.Proto == proto })
		if i < 0 {
			list = append(list, TracePort{Port: port, Proto: proto})
			i = len(list) - 1
		}
		return &list[i]
	}
	if t.r.Port != 0 {
		add(t.r.Port, proto)
	}
	for _, p := range t.att.Ports {
		if t.r.Port == 0 || p.Container == t.r.Port && p.Proto == proto {
			v := add(p.Container, p.Proto)
			v.Published = append(v.Published, netip.AddrPortFrom(p.HostIP, p.HostPort))
		}
	}
	for i := range list {
		if err := t.port(&list[i]); err != nil {
			return err
		}
	}
	t.Ports = list
	return nil
}

func (t *tracing) port(p *TracePort) error {
	i := slices.IndexFunc(t.att.Ports, func(q PublishedPort) bool { return q.HostPort == p.Port && q.Proto == p.Proto })
	switch {
	case len(p.Published) > 0:
	case i >= 0:
		to := t.att.Ports[i].Container
		t.problem("port %d/%s is the host's, and leads to port %d/%s of the container: trace that one, with the number %d", p.Port, p.Proto, to, p.Proto, to)
	default:
		t.problem("port %d/%s is not published: it is reached at the container's own address, from the host and from containers on the same "+
			"network; to publish it, say berth update --publish-add, or -p when the container is made", p.Port, p.Proto)
	}
	for _, host := range p.Published {
		if conf := t.plugins[publishedBy{p.Proto, host}]; conf != "" {
			p.Rules = append(p.Rules, fmt.Sprintf("the rules of the plugins of CNI configuration %q: Berth keeps %s/%s for them, and does not look into "+
				"theirs (iptables-save, nft list ruleset)", conf, host, p.Proto))
			continue
		}
		if to, ok := t.relayed[publishedBy{p.Proto, host}]; ok {
			p.Rules = append(p.Rules, t.relaying(p.Proto, host, to)...)
			continue
		}
		p.Rules = append(p.Rules, t.n.legacyRules(host, p.Proto)...)
		p.Rules = append(p.Rules, t.translation(p, host)...)
	}
	t.listening(p)
	return t.flows(p)
}

// relaying tells how a port leads to a container that has IPv4 only.
func (t *tracing) relaying(proto string, host, to netip.AddrPort) []string {
	who := keeperName
	if !t.n.keeper.there() {
		who = "berthd"
	}
	at := "the address of its bridge"
	for _, e := range t.att.Endpoints {
		if e.IPv4.Addr() == to.Addr() && e.Gateway.IsValid() {
			at = e.Gateway.String()
		}
	}
	if proto == "tcp" && !slices.Contains(t.hostListeners(), host) {
		t.problem("nobody on the host listens on %s: what comes there by IPv6 is not relayed to the container; stop it and start it again", host)
	}
	return []string{fmt.Sprintf("relay: the process %s listens on %s/%s, because the container has IPv4 only, and speaks to %s; the container sees %s",
		who, host, proto, to, at), "whether a packet comes to " + host.String() + " is for the host's own input rules to say"}
}

// hostListeners are the addresses of IPv6 where somebody on the host takes TCP connections.
func (t *tracing) hostListeners() (all []netip.AddrPort) {
	sockets, err := listeners(os.Getpid())
	if err != nil {
		t.problem("%s", err)
	}
	for _, s := range sockets {
		if s.proto == "tcp" && s.at.Addr().Is6() {
			all = append(all, s.at)
		}
	}
	return all
}

// translation finds the element that leads from a port of the host to the container.
func (t *tracing) translation(p *TracePort, host netip.AddrPort) (rules []string) {
	for _, tb := range t.doc.tables {
		for _, s := range tb.sets {
			if s.name != "published" && s.name != "published_at" {
				continue
			}
			for _, e := range s.elements {
				if len(e.data) != 2 || !slices.Contains(e.key, any(host.Port())) || e.data[1] != any(p.Port) || !t.ours(e.data[0]) {
					continue
				}
				if s.name == "published_at" && e.key[0] != any(host.Addr()) || s.name == "published" && familyOf(host.Addr()) != tb.family {
					continue
				}
				if !strings.Contains(e.String(), p.Proto) {
					continue
				}
				at := tb.family.String() + " " + tb.name + " "
				chains := "prerouting and output"
				if s.name == "published_at" && host.Addr().IsLoopback() {
					chains = "output"
				}
				if t.gate != "" && !host.Addr().IsLoopback() {
					rules = append(rules, at+"ask: what the host's own input rules let in goes to prerouting by link "+t.gate)
				}
				rules = append(rules, fmt.Sprintf("%s%s: dnat by @%s: %s", at, chains, s.name, e),
					at+"forward → ours: accepted, since its destination was translated")
				if !t.kernel[tb.family].has(s.name, e.key) {
					t.problem("the kernel does not translate port %s/%s of the host: the set %q of firewall table %s %s lacks it", host, p.Proto,
						s.name, tb.family, tb.name)
				}
			}
		}
	}
	if len(rules) == 0 {
		t.problem("no rule leads from port %s/%s of the host to the container", host, p.Proto)
	}
	return rules
}

// ours reports whether an address is the container's.
func (t *tracing) ours(a any) bool {
	return slices.ContainsFunc(t.att.Endpoints, func(e EndpointState) bool { return a == any(e.IPv4.Addr()) || a == any(e.IPv6.Addr()) })
}

// listening finds who waits for packets inside.
func (t *tracing) listening(p *TracePort) {
	for _, s := range t.sockets {
		if s.proto == p.Proto && s.at.Port() == p.Port {
			p.Listeners = append(p.Listeners, s.at)
		}
	}
	switch {
	case p.Proto == "sctp":
		// The kernel tells of SCTP endpoints by port only and not everywhere; silence is no fault.
	case len(p.Listeners) == 0:
		t.problem("nothing listens on port %d/%s in the container", p.Port, p.Proto)
	case !slices.ContainsFunc(p.Listeners, func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() }):
		t.problem("what listens on port %d/%s in the container does so on its loopback address %s only: let it listen on 0.0.0.0 or ::", p.Port,
			p.Proto, p.Listeners[0].Addr())
	case !slices.ContainsFunc(p.Listeners, func(a netip.AddrPort) bool { return a.Addr().IsUnspecified() || t.ours(a.Addr()) }):
		t.problem("what listens on port %d/%s in the container does so on %s, which is not an address of its networks", p.Port, p.Proto,
			p.Listeners[0].Addr())
	}
}

// flows lists the connections to the port that the kernel tracks.
func (t *tracing) flows(p *TracePort) error {
	number := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}[p.Proto]
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		list, err := whole(func() ([]*netlink.ConntrackFlow, error) { return netlink.ConntrackTableList(netlink.ConntrackTable, f) })
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
			continue // the kernel tracks none of this family
		}
		if err != nil {
			return fmt.Errorf("list the connections that the kernel tracks: %w", err)
		}
		for _, c := range list {
			at, _ := netip.AddrFromSlice(c.Reverse.SrcIP) // who answers
			if c.Forward.Protocol != number || c.Reverse.SrcPort != p.Port || !t.ours(at.Unmap()) {
				continue
			}
			if len(p.Flows) == maxFlows {
				return nil
			}
			from := net.JoinHostPort(c.Forward.SrcIP.String(), strconv.Itoa(int(c.Forward.SrcPort)))
			to := net.JoinHostPort(c.Forward.DstIP.String(), strconv.Itoa(int(c.Forward.DstPort)))
			p.Flows = append(p.Flows, fmt.Sprintf("%s → %s, answered by %s: %d packets there, %d back", from, to,
				net.JoinHostPort(c.Reverse.SrcIP.String(), strconv.Itoa(int(c.Reverse.SrcPort))), c.Forward.Packets, c.Reverse.Packets))
		}
	}
	return nil
}

// socket is one that waits for packets.
type socket struct {
	proto string
	at    netip.AddrPort
}

// listeners reads the sockets that wait in the network namespace of a process (proc(5), /proc/PID/net/tcp). UDP has no
// state for it: an unconnected socket has 07.
func listeners(pid int) ([]socket, error) {
	var all []socket
	for _, f := range []struct{ file, proto, state string }{
		{"tcp", "tcp", "0A"}, {"tcp6", "tcp", "0A"}, {"udp", "udp", "07"}, {"udp6", "udp", "07"},
	} {
		file, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, f.file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list the container's sockets: %w", err)
		}
		s := bufio.NewScanner(file)
		for s.Scan() {
			fields := strings.Fields(s.Text())
			if len(fields) < 4 || fields[3] != f.state {
				continue
			}
			if at, ok := parseSocketAddr(fields[1]); ok {
				all = append(all, socket{f.proto, at})
			}
		}
		err = s.Err()
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("list the container's sockets: %w", err)
		}
	}
	return all, nil
}

// parseSocketAddr reads "0100007F:1F90": 32-bit words in the machine's order, all of Berth's being little-endian.
func parseSocketAddr(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || perr != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		slices.Reverse(raw[i : i+4])
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// look reads from the kernel what it has of a document's sets. A table that is missing is missing in the result.
func (w *firewall) look(d document) (map[family]kernelTable, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.elementsOf(d)
}

// elementsOf is look with mu held.
func (w *firewall) elementsOf(d document) (map[family]kernelTable, error) {
	all := map[family]kernelTable{}
	tables, err := w.conn.ListTables()
	if err != nil {
		return nil, noNFTables(err)
	}
	for _, tb := range d.tables {
		i := slices.IndexFunc(tables, func(k *nftables.Table) bool { return k.Name == tb.name && family(k.Family) == tb.family })
		if i < 0 {
			continue
		}
		have := kernelTable{}
		sets, err := w.conn.GetSets(tables[i])
		if err != nil {
			return nil, fmt.Errorf("list the sets of firewall table %q: %w", tb.name, err)
		}
		for _, s := range sets {
			elements, err := w.conn.GetSetElements(s)
			if err != nil {
				return nil, fmt.Errorf("list the set %q of firewall table %q: %w", s.Name, tb.name, err)
			}
			keys := map[string]bool{}
			for _, e := range elements {
				if !e.IntervalEnd {
					keys[hex.EncodeToString(e.Key)] = true
				}
			}
			have[s.Name] = keys
		}
		all[tb.family] = have
	}
	return all, nil
}
