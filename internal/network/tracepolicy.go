package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Destination is where packets of a container shall go: an address or a domain.
type Destination struct {
	Addr   netip.Addr // not valid for a domain
	Domain string
	Proto  string // "tcp", "udp", "sctp", "icmp"
	Port   uint16 // 0 for icmp
}

// ParseDestination reads 192.0.2.7:443, [fd00::1]:53/udp, example.com:80 or, without a port, where a ping goes.
func ParseDestination(text string) (d Destination, err error) {
	rest, proto, given := strings.Cut(text, "/")
	target, port, err := splitEgressPorts(rest)
	if err != nil {
		return d, err
	}
	if d.Proto = proto; !given {
		if d.Proto = "tcp"; port == "" {
			d.Proto = "icmp"
		}
	}
	switch _, ok := parseProtocol(d.Proto); {
	case !ok && d.Proto != "icmp":
		return d, fmt.Errorf("%q is none of tcp, udp, sctp and icmp", d.Proto)
	case d.Proto == "icmp" && port != "":
		return d, errors.New("icmp has no ports")
	case d.Proto != "icmp":
		if d.Port, err = parsePort(port); err != nil || d.Port == 0 {
			return d, errors.New("behind the address is a colon and a port from 1 to 65535")
		}
	}
	if a, err := netip.ParseAddr(target); err == nil {
		if a.Zone() != "" {
			return d, errors.New("an address has no zone here")
		}
		d.Addr = a.Unmap()
		return d, nil
	}
	d.Domain, err = parseDomain(target)
	if err == nil && strings.HasPrefix(d.Domain, "*") {
		err = errors.New("it is no address and no domain")
	}
	return d, err
}

// String is the destination as ParseDestination reads it.
func (d Destination) String() string {
	host := d.Domain
	if d.Addr.IsValid() {
		host = d.Addr.String()
	}
	if d.Proto == "icmp" {
		return host + "/icmp"
	}
	return net.JoinHostPort(host, strconv.Itoa(int(d.Port))) + "/" + d.Proto
}

func (d Destination) box(f family) box {
	p, ok := parseProtocol(d.Proto)
	switch {
	case !ok && f == ip6:
		p = unix.IPPROTO_ICMPV6
	case !ok:
		p = unix.IPPROTO_ICMP
	}
	return box{[2]protocol{p, p}, [2]uint16{d.Port, d.Port}}
}

// bound is the policies about an interface of the container, nil for none.
func (t *tracing) bound(e EndpointState) (ep *endpoint, b leash) {
	t.n.mu.Lock()
	defer t.n.mu.Unlock()
	if h := t.n.held[t.r.ContainerID]; h != nil {
		if ep = h.on(e.NetworkID); ep != nil {
			b = leash{link: ep.network.rec.Link, addrs: ep.says().addrs, network: ep.network.options.egress, own: ep.egress}
		}
	}
	return ep, b
}

// maxOpen bounds what is shown of what names have opened.
const maxOpen = 10

// policies are the rules about where the container may go by an interface.
func (t *tracing) policies(v *TraceEndpoint, e EndpointState) {
	_, b := t.bound(e)
	if t.n.exits == nil || b.network == nil && b.own == nil {
		return
	}
	at := inet.String() + " " + t.n.tableName() + " leaving → "
	if b.network != nil {
		v.Rules = append(v.Rules, at+"network4, network6: the policy of network "+e.Network+": "+b.network.text)
	}
	if b.own != nil {
		v.Rules = append(v.Rules, at+"member4, member6: the container's own policy: "+b.own.text)
	}
	v.Rules = append(v.Rules, t.n.exits.names.describe(b)...)
}

// describe lists what names have opened, the latest first.
func (l *learner) describe(b leash) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	type open struct {
		learnt
		opened
	}
	var all []open
	for _, a := range b.addrs {
		for way, o := range l.known[source{b.link, a}] {
			if time.Now().Before(o.until) {
				all = append(all, open{way, o})
			}
		}
	}
	slices.SortFunc(all, func(a, b open) int { return b.until.Compare(a.until) })
	for i, o := range all {
		if i == maxOpen {
			return append(lines, fmt.Sprintf("and %d more that names have opened", len(all)-i))
		}
		names := strings.Join(o.names, ", ")
		if names == "" {
			names = "a name"
		}
		set := openSet(opener(o.network), o.kind(), familyOf(o.to)).name
		lines = append(lines, fmt.Sprintf("@%s: %s is open by %s for %s more", set, o.to, names, time.Until(o.until).Round(time.Second)))
	}
	return lines
}

// destination says what becomes of packets to where the user asked for.
func (t *tracing) destination() error {
	if t.r.To == nil {
		return nil
	}
	d := *t.r.To
	addrs := []netip.Addr{d.Addr}
	if d.Domain != "" {
		addrs = nil
		if !t.resolves(d.Domain) {
			t.problem("no policy of the container's networks means the name %s, and so it is not resolved", d.Domain)
			return nil
		}
		if t.n.exits != nil {
			addrs = t.n.exits.names.addressesOf(d.Domain, t.allSources())
		}
		if len(addrs) == 0 {
			t.To = append(t.To, d.String()+": as far as is known the container has not asked for the name; its addresses are judged when it does")
			return nil
		}
	}
	for _, a := range addrs {
		to := d
		to.Addr, to.Domain = a, ""
		if err := t.judge(to); err != nil {
			return err
		}
	}
	return nil
}

// resolves reports whether the name server of the container asks for a name.
func (t *tracing) resolves(name string) bool { return mayResolve(t.n.boundsOf(t.r.ContainerID), name) }

func (t *tracing) allSources() map[source]bool {
	all := map[source]bool{}
	for _, e := range t.att.Endpoints {
		_, b := t.bound(e)
		for _, a := range b.addrs {
			all[source{b.link, a}] = true
		}
	}
	return all
}

// addressesOf are those that a name has opened for these.
func (l *learner) addressesOf(name string, of map[source]bool) (addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for src := range of {
		for way, o := range l.known[src] {
			if slices.Contains(o.names, name) {
				addrs = append(addrs, way.to)
			}
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// judge says by which interface packets to an address leave, and what its policies say.
func (t *tracing) judge(d Destination) error {
	routes, err := t.handle.RouteGet(d.Addr.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || err == nil && len(routes) == 0 {
		t.problem("the container has no route to %s", d.Addr)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for the container's route to %s: %w", d.Addr, err)
	}
	link := byIndex(t.inside, routes[0].LinkIndex)
	i := slices.IndexFunc(t.att.Endpoints, func(e EndpointState) bool { return link != nil && link.Attrs().Name == e.Interface })
	if i < 0 {
		t.To = append(t.To, d.String()+": does not leave by an interface of Berth's")
		return nil
	}
	e := t.att.Endpoints[i]
	ep, b := t.bound(e)
	switch {
	case ep == nil || b.network == nil && b.own == nil:
		t.To = append(t.To, fmt.Sprintf("%s: leaves by %s; no policy is about it", d, e.Interface))
		return nil
	case ep.neighbour(d.Addr):
		t.To = append(t.To, fmt.Sprintf("%s: leaves by %s; it is on the container's own network, which no policy is about", d, e.Interface))
		return nil
	}
	f := familyOf(d.Addr)
	for _, of := range []struct {
		policy  *egress
		network bool
		whose   string
	}{{b.network, true, "the policy of network " + e.Network}, {b.own, false, "the container's own policy"}} {
		if of.policy == nil {
			continue
		}
		verdict, ok := t.verdict(of.policy, of.network, b, d, f)
		t.To = append(t.To, fmt.Sprintf("%s: leaves by %s; %s %s", d, e.Interface, of.whose, verdict))
		if !ok {
			t.problem("packets to %s are refused: %s %s", d, of.whose, verdict)
		}
	}
	return nil
}

// neighbour reports whether an address is on the endpoint's network and not the host's.
func (e *endpoint) neighbour(a netip.Addr) bool {
	return slices.ContainsFunc(e.network.rec.Subnets, func(s Subnet) bool { return s.Prefix.Contains(a) && s.Gateway != a })
}

// verdict is that of one policy.
func (t *tracing) verdict(p *egress, network bool, b leash, d Destination, f family) (text string, ok bool) {
	at := d.box(f)
	of := opener(network) + "_"
	allowed, known := p.fixedVerdict(d.Addr, at.proto[0], d.Port)
	switch {
	case known && allowed:
		return "allows it (@" + of + "allow" + suffix(f) + ")", true
	case known:
		return "denies it (@" + of + "deny" + suffix(f) + ")", false
	}
	for _, a := range b.addrs {
		if familyOf(a) == f && t.n.exits.names.has(source{b.link, a}, network, d.Addr, at.proto[0], d.Port) {
			return "allows it for as long as a name stands for it", true
		}
	}
	return "has no rule that allows it", false
}

// policyTable compares the rules about leaving with the kernel's.
func (t *tracing) policyTable() error {
	if t.n.exits == nil {
		return nil
	}
	doc := compileEgress(t.n.fence())
	if len(doc.tables) == 0 {
		return nil
	}
	kernel, err := t.n.exits.wall.look(doc)
	if err != nil {
		return err
	}
	t.compare(doc, kernel)
	return nil
}
