package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// policy is everything the rules depend on.
type policy struct {
	table    string
	networks []policyNetwork
	ports    []policyPort
	// closed are the links between which nothing was forwarded until we turned forwarding on.
	closed map[family][]string
	// docker are links of Docker's networks, whose containers ours do not reach.
	docker map[family][]string
	gate   gate // none: published ports are open to all
	// peers are ways between containers of networks without icc.
	peers []policyPeer
}

type policyNetwork struct {
	link       string
	subnets    []netip.Prefix
	internal   bool
	masquerade bool
	icc        bool
	modes      map[family]gatewayMode // nothing is nat
	trusted    []string               // links of the host
	direct     bool                   // published ports are reached at the containers' own addresses by everybody
	behind     map[family]netip.Addr  // hidden behind this address, not behind that of the link
}

type policyPort struct {
	host  netip.AddrPort // an unspecified address means every one
	proto protocol
	to    netip.AddrPort
	// direct says that the port is also, and where the host's is 0 only, reached at the container's own address.
	direct bool
}

// placed is an element of a set, where there is such a set.
type placed struct {
	set     string
	element element
}

// elements are the port's in all sets there may be.
func (q policyPort) elements() []placed {
	to := []any{q.to.Addr(), q.to.Port()}
	var list []placed
	if q.direct {
		list = append(list, placed{"direct", element{key: []any{q.to.Addr(), q.proto, q.to.Port()}}})
	}
	if q.host.Port() == 0 {
		return list
	}
	if key := []any{q.proto, q.host.Port()}; q.host.Addr().IsUnspecified() {
		return append(list, placed{"published", element{key: key, data: to}}, placed{"asked", element{key: key}})
	}
	key := []any{q.host.Addr(), q.proto, q.host.Port()}
	return append(list, placed{"published_at", element{key: key, data: to}}, placed{"asked_at", element{key: key}})
}

// compile makes the rules of the whole daemon. It is a pure function: equal policies give equal documents, and the
// number of rules does not depend on how many networks, containers and ports there are.
func compile(p policy) document {
	var d document
	for _, f := range []family{ip4, ip6} {
		if f == ip4 || p.has(ip6) {
			d.tables = append(d.tables, p.compile(f))
		}
	}
	return d
}

func (p policy) has(f family) bool {
	for _, n := range p.networks {
		for _, s := range n.subnets {
			if familyOf(s.Addr()) == f {
				return true
			}
		}
	}
	return false
}

func familyOf(a netip.Addr) family {
	if a.Is6() {
		return ip6
	}
	return ip4
}

func (p policy) compile(f family) table {
	name, port, proto := nftables.TypeIFName, nftables.TypeInetService, nftables.TypeInetProto
	types := func(ts ...nftables.SetDatatype) []nftables.SetDatatype { return ts }
	links := set{name: "links", key: types(name)}
	same := set{name: "same", key: types(name, name)}
	internal := set{name: "internal", key: types(name)}
	subnets := set{name: "subnets", key: types(f.addrType()), interval: true}
	hidden := set{name: "hidden", key: types(f.addrType()), interval: true}
	behind := set{name: "behind", key: types(f.addrType()), data: types(f.addrType()), interval: true}
	published := set{name: "published", key: types(proto, port), data: types(f.addrType(), port)}
	publishedAt := set{name: "published_at", key: types(f.addrType(), proto, port), data: types(f.addrType(), port)}
	routed, open := set{name: "routed", key: types(name)}, set{name: "open", key: types(name)}
	trusted := set{name: "trusted", key: types(name, name)}
	direct := set{name: "direct", key: types(f.addrType(), proto, port)}
	apart := set{name: "apart", key: types(name)}

	for _, n := range p.networks {
		links.elements = append(links.elements, element{key: []any{n.link}})
		if n.icc {
			same.elements = append(same.elements, element{key: []any{n.link, n.link}})
		} else {
			apart.elements = append(apart.elements, element{key: []any{n.link}})
		}
		if n.internal {
			internal.elements = append(internal.elements, element{key: []any{n.link}})
		}
		switch {
		case n.modes[f] == modeUnprotected:
			open.elements = append(open.elements, element{key: []any{n.link}})
		case n.modes[f] == modeRouted || n.direct:
			routed.elements = append(routed.elements, element{key: []any{n.link}})
		}
		for _, l := range n.trusted {
			trusted.elements = append(trusted.elements, element{key: []any{l, n.link}})
		}
		for _, s := range n.subnets {
			if familyOf(s.Addr()) != f {
				continue
			}
			subnets.elements = append(subnets.elements, element{key: []any{s}})
			switch {
			case !n.leavesHidden(f):
			case n.behind[f].IsValid():
				behind.elements = append(behind.elements, element{key: []any{s}, data: []any{n.behind[f]}})
			default:
				hidden.elements = append(hidden.elements, element{key: []any{s}})
			}
		}
	}
	byName := map[string][]element{} // of ports
	for _, q := range p.ports {
		if familyOf(q.to.Addr()) != f {
			continue
		}
		for _, x := range q.elements() {
			byName[x.set] = append(byName[x.set], x.element)
		}
	}
	published.elements, publishedAt.elements, direct.elements = byName[published.name], byName[publishedAt.name], byName[direct.name]
	sets := []set{links, same, internal, subnets, hidden, published, publishedAt}
	if len(behind.elements) > 0 {
		sets = append(sets, behind)
	}
	if p.reachesInside(f) { // most hosts have no such network
		sets = append(sets, routed, trusted, open, direct)
	}
	if p.keepsApart() {
		sets = append(sets, apart)
	}
	if p.links(f) {
		linked := set{name: "linked" + suffix(f), key: types(f.addrType(), f.addrType(), proto, port)}
		for _, q := range p.peers {
			if familyOf(q.from) == f {
				linked.elements = append(linked.elements, q.element())
			}
		}
		sets = append(sets, linked)
	}
	if p.gate.out != "" {
		asked, askedAt := set{name: "asked", key: published.key}, set{name: "asked_at", key: publishedAt.key}
		asked.elements, askedAt.elements = byName[asked.name], byName[askedAt.name]
		sets = append(sets, asked, askedAt)
	}
	if len(p.docker[f]) > 0 {
		docker := set{name: "docker", key: types(name)}
		for _, l := range p.docker[f] {
			docker.elements = append(docker.elements, element{key: []any{l}})
		}
		sets = append(sets, docker)
	}
	if len(p.closed[f]) > 0 {
		closed := set{name: "closed", key: types(name)}
		for _, l := range p.closed[f] {
			closed.elements = append(closed.elements, element{key: []any{l}})
		}
		sets = append(sets, closed)
	}
	for i := range sets {
		sortElements(sets[i].elements)
		sets[i].elements = slices.CompactFunc(sets[i].elements, func(a, b element) bool { return a.raw == b.raw })
	}
	return table{family: f, name: p.table, sets: sets, chains: p.chains(f)}
}

// leavesHidden reports whether a network's packets leave with an address of the host.
func (n policyNetwork) leavesHidden(f family) bool {
	return n.masquerade && !n.internal && n.modes[f] != modeRouted
}

// choosesSource reports whether there are networks that leave with an address of the host that somebody chose.
func (p policy) choosesSource(f family) bool {
	return slices.ContainsFunc(p.networks, func(n policyNetwork) bool {
		ofVersion := func(s netip.Prefix) bool { return familyOf(s.Addr()) == f }
		return n.leavesHidden(f) && n.behind[f].IsValid() && slices.ContainsFunc(n.subnets, ofVersion)
	})
}

// reachesInside reports whether there are networks whose containers are reached at their own addresses.
func (p policy) reachesInside(f family) bool {
	return slices.ContainsFunc(p.networks, func(n policyNetwork) bool {
		return n.modes[f] == modeRouted || n.modes[f] == modeUnprotected || len(n.trusted) > 0 || n.direct
	})
}

// keepsApart reports whether there are networks whose containers do not reach each other.
func (p policy) keepsApart() bool {
	return slices.ContainsFunc(p.networks, func(n policyNetwork) bool { return !n.icc })
}

// links reports whether containers have links to others that they would not reach without.
func (p policy) links(f family) bool {
	return slices.ContainsFunc(p.peers, func(q policyPeer) bool { return familyOf(q.from) == f })
}

func (p policy) chains(f family) []chain {
	loopback := addr{dst: true, block: netip.MustParsePrefix("127.0.0.0/8")}
	notLoopback := loopback
	notLoopback.not = true
	fromLoopback := addr{block: loopback.block}

	ours := chain{name: "ours", rules: []rule{when(linkPair{"same"}, accept())}}
	if p.links(f) {
		ours.rules = append(ours.rules, when(inSet{f, "linked", []field{fieldSource, fieldDestination, fieldProtocol, fieldPort}}, accept()).
			because("links of containers that are apart otherwise"))
	}
	ours.rules = append(ours.rules,
		when(link{dir: in, set: "internal"}, drop()).because("internal networks stay inside"),
		when(link{dir: out, set: "internal"}, drop()),
		when(translated{}, accept()).because("published ports"))
	if len(p.docker[f]) > 0 {
		ours.rules = append(ours.rules, when(link{dir: out, set: "docker"}, drop()).because("Docker's networks are apart from ours, too"))
	}
	if p.reachesInside(f) {
		ours.rules = append(ours.rules,
			when(link{dir: out, set: "routed"}, toPort{set: "direct"}, accept()).because("routed networks: ports at the container's own address"),
			when(linkPair{"trusted"}, toPort{set: "direct"}, accept()).because("trusted links of the host: the same"),
			when(link{dir: out, set: "open"}, accept()).because("unprotected networks"))
	}
	ours.rules = append(ours.rules,
		when(link{dir: out, set: "links"}, drop()).because("nothing else reaches a container, networks are apart"),
		when(accept()))
	// Nearly every packet ends at the first rule, which looks into no set.
	forward := chain{name: "forward", hook: hookForward(), rules: []rule{
		when(state{expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED}, accept()),
		when(link{dir: in, set: "links"}, jump("ours")),
		when(link{dir: out, set: "links"}, jump("ours")),
	}}
	if len(p.closed[f]) > 0 {
		forward.rules = append(forward.rules, when(link{dir: in, set: "closed"}, link{dir: out, set: "closed"}, drop()).
			because("the kernel forwarded nothing here before"))
	}
	toPorts := func(first ...clause) []rule {
		first = append(first, toThisHost{})
		return []rule{
			when(append(first[:len(first):len(first)], dnat{to: "published_at", byAddr: true})...),
			when(append(first[:len(first):len(first)], dnat{to: "published"})...),
		}
	}
	var gated []clause // what is translated for others than the host
	if p.gate.out != "" {
		gated = append(gated, link{dir: in, name: p.gate.in})
	}
	hairpin := when(translated{}, addr{set: "subnets"}, link{dir: out, set: "links"}, masquerade{}).
		because("containers that use a published port")
	leaving := []rule{when(addr{set: "hidden"}, link{dir: out, not: true, set: "links"}, masquerade{})}
	if p.choosesSource(f) {
		leaving = append(leaving, when(link{dir: out, not: true, set: "links"}, snat{to: "behind"}).because("networks with a host_ipv4 or host_ipv6"))
	}

	last := p.ask(gateNext)
	if f == ip6 {
		last = p.ask(gateNext6)
	}
	if p.keepsApart() {
		last = append(last, chain{name: "published_apart", hook: hookTranslated(), rules: []rule{
			when(link{dir: in, set: "apart"}, translated{}, addr{dst: true, set: "subnets"}, mark{}).
				because("bridges of networks without icc pass it, if frames of theirs come here"),
		}})
	}
	if p.links(f) {
		last = append(last, chain{name: "no_redirects", hook: hookRawOutput(), rules: []rule{
			when(link{dir: out, set: "links"}, redirect{}, drop()).because("who has a link would be told to go straight to the other, where no way is"),
		}})
	}
	if f == ip6 {
		return append([]chain{ours, forward,
			{name: "prerouting", hook: hookPrerouting(), rules: toPorts(gated...)},
			{name: "output", hook: hookOutput(), rules: toPorts()},
			{name: "postrouting", hook: hookPostrouting(), rules: append(leaving, hairpin,
				when(addr{block: netip.MustParsePrefix("::1/128")}, link{dir: out, set: "links"}, masquerade{}).because("the host itself, through ::1"),
			)},
		}, last...)
	}
	return append([]chain{ours, forward,
		{name: "guard", hook: hookGuard(), rules: []rule{
			when(loopback, link{dir: in, set: "links"}, drop()).because("the bridges route 127/8 for ports published there"),
			when(fromLoopback, link{dir: in, set: "links"}, drop()),
		}},
		// Nobody but the host itself reaches what is published on 127.0.0.1, so only output translates that.
		{name: "prerouting", hook: hookPrerouting(), rules: toPorts(append(gated, notLoopback)...)},
		{name: "output", hook: hookOutput(), rules: toPorts()},
		{name: "postrouting", hook: hookPostrouting(), rules: append(leaving, hairpin,
			when(fromLoopback, link{dir: out, set: "links"}, masquerade{}).because("the host itself, through 127.0.0.1"),
		)},
	}, last...)
}

// ask is the last of the host's input: what came so far for a published port may go on.
func (p policy) ask(next string) []chain {
	if p.gate.out == "" {
		return nil
	}
	through := duplicate{next: netip.MustParseAddr(next), link: p.gate.out, index: p.gate.index}
	return []chain{{name: "ask", hook: hookAsk(), rules: []rule{
		when(state{expr.CtStateBitNEW}, toThisHost{}, toPort{set: "asked_at"}, through, drop()).because("the host's firewall lets it in"),
		when(state{expr.CtStateBitNEW}, toThisHost{}, toPort{set: "asked", anyAddr: true}, through, drop()),
	}}}
}
