package network

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// onBridges is the family of rules that see the frames of bridges.
const onBridges = family(unix.NFPROTO_BRIDGE)

// guard keeps containers from speaking for others on their own network: whatever a guarded link sends has the link's
// hardware address and one of its IP addresses in it. The rules are constant; a link is an element of each set, added
// before the link exists and taken out some time after it has gone.
type guard struct {
	table string

	mu    sync.Mutex
	conn  *ruleSocket
	on    bool // the rules are in the kernel
	sent  int  // elements of sets
	links map[string]guarded
	parts bool // there has been a link of a network whose containers do not reach each other

	goneMu sync.Mutex // below mu, and held for a moment only
	gone   []string   // links to be taken out of the rules
}

// guarded is what a link may say of itself.
type guarded struct {
	mac   net.HardwareAddr
	addrs []netip.Addr
	free  bool // it may say anything
	apart bool // of a network whose containers do not reach each other
}

// rawAddr is an address as nft writes what it knows by its place in the packet only.
type rawAddr netip.Addr

func (a rawAddr) String() string {
	b := netip.Addr(a).As16()
	return fmt.Sprintf("0x%x", b[:])
}

// guardBytes is room for the messages about a thousand links.
const guardBytes = 1 << 20

// openGuard opens a socket in the calling thread's network namespace.
func openGuard(table string) (*guard, error) {
	conn, err := openRules(guardBytes)
	if err != nil {
		return nil, err
	}
	return &guard{table: table, conn: conn, links: map[string]guarded{}}, nil
}

// guardSets are those of the guard with the elements of these links.
func guardSets(links map[string]guarded, parts bool) []set {
	name, mac := nftables.TypeIFName, nftables.TypeEtherAddr
	ports := set{name: "guarded", key: []nftables.SetDatatype{name}}
	own4 := set{name: "own4", key: []nftables.SetDatatype{name, mac, nftables.TypeIPAddr}}
	own6 := set{name: "own6", key: []nftables.SetDatatype{name, mac, nftables.TypeIP6Addr}}
	// nft has had a name for the target of an advertisement since 1.0.9 only.
	targets := set{name: "targets", key: []nftables.SetDatatype{name, nftables.TypeIP6Addr}, typeof: "iifname . " + targetText}
	apart := set{name: "apart", key: []nftables.SetDatatype{name}}
	for _, link := range slices.Sorted(maps.Keys(links)) {
		g := links[link]
		if g.apart {
			apart.elements = append(apart.elements, element{key: []any{link}})
		}
		if g.free {
			continue
		}
		ports.elements = append(ports.elements, element{key: []any{link}})
		for _, a := range g.addrs {
			if a.Is4() {
				own4.elements = append(own4.elements, element{key: []any{link, g.mac, a}})
			} else {
				own6.elements = append(own6.elements, element{key: []any{link, g.mac, a}})
				targets.elements = append(targets.elements, element{key: []any{link, rawAddr(a)}})
			}
		}
	}
	sets := []set{ports, own4, own6, targets}
	if parts {
		sets = append(sets, apart)
	}
	for i := range sets {
		sortElements(sets[i].elements)
	}
	return sets
}

// compileGuard makes the rules for these links. Most hosts have no networks whose containers do not reach each other (parts).
func compileGuard(name string, links map[string]guarded, parts bool) document {
	const routerAdvertisement, neighbourAdvertisement, redirect = 134, 136, 137
	chains := []chain{
		{name: "prerouting", hook: hookBridge(), rules: []rule{
			when(ports{67, 68}, isUDP{}, link{dir: in, set: "guarded"}, drop()).because("a container is nobody's DHCP server"),
			when(speaksFor{as4: true, set: "own4"}, accept()), // early, because most are these
			when(link{dir: in, not: true, set: "guarded"}, accept()),
			when(speaksFor{asARP: true, set: "own4"}, accept()),
			when(icmp6{typ: routerAdvertisement}, drop()).because("a container is nobody's router"),
			when(icmp6{typ: redirect}, drop()),
			when(ports{547, 546}, isUDP{}, drop()).because("DHCPv6"),
			when(icmp6{typ: neighbourAdvertisement}, foreignTarget{"targets"}, drop()).because("an address of somebody else's"),
			when(speaksFor{set: "own6"}, accept()),
			when(drop()).because("not the link's own address, or neither IP nor ARP"),
		}},
	}
	if parts {
		chains = append(chains, chain{name: "forward", hook: hookBridged(), rules: []rule{
			when(link{dir: in, set: "apart"}, link{dir: out, set: "apart"}, marked{not: true}, drop()).
				because("networks without icc: nothing but what a neighbour publishes"),
		}})
	}
	return document{tables: []table{{family: onBridges, name: name, sets: guardSets(links, parts), chains: chains}}}
}

func hookBridge() hook {
	return hook{nftables.ChainTypeFilter, "prerouting", nftables.ChainHookPrerouting, "-300", *nftables.ChainPriorityRef(-300)}
}

func hookBridged() hook {
	return hook{nftables.ChainTypeFilter, "forward", nftables.ChainHookForward, "filter", *nftables.ChainPriorityRef(-200)}
}

// speaksFor matches packets of IPv6, or of IPv4, or of ARP, whose link, sender's hardware address and sender's IP
// address are in a set.
type speaksFor struct {
	as4, asARP bool
	set        string
}

func (c speaksFor) parts() (name, address string, etherType uint16, offset, size uint32) {
	switch {
	case c.as4:
		return "ip", "ip saddr", unix.ETH_P_IP, 12, 4
	case c.asARP:
		return "arp", "arp saddr ip", unix.ETH_P_ARP, 14, 4
	}
	return "ip6", "ip6 saddr", unix.ETH_P_IPV6, 8, 16
}

func (c speaksFor) text(family) string {
	name, address, _, _, _ := c.parts()
	return "meta protocol " + name + " iifname . ether saddr . " + address + " @" + c.set
}

func (c speaksFor) exprs(family) []expr.Any {
	_, _, etherType, offset, size := c.parts()
	const sender, macWords = 6, 2
	return append(isProtocol(etherType),
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regWords},
		&expr.Payload{DestRegister: regWords + ifnameN, Base: expr.PayloadBaseLLHeader, Offset: sender, Len: 6},
		&expr.Payload{DestRegister: regWords + ifnameN + macWords, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: regWords, SetName: c.set})
}

func isProtocol(etherType uint16) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{byte(etherType >> 8), byte(etherType)}}}
}

// ports matches a source and a destination port in one look, which nearly every packet fails; of which protocol says another clause.
type ports struct{ from, to uint16 }

func (c ports) text(family) string { return fmt.Sprintf("th sport %d th dport %d", c.from, c.to) }

func (c ports) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{byte(c.from >> 8), byte(c.from), byte(c.to >> 8), byte(c.to)}},
	}
}

type isUDP struct{}

func (isUDP) text(family) string { return "meta l4proto udp" }

func (isUDP) exprs(family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{unix.IPPROTO_UDP}}}
}

// icmp6 matches ICMPv6 of a type (RFC 4861, 4); bare is without a look at the frame.
type icmp6 struct {
	typ  byte
	bare bool
}

func (c icmp6) text(family) string {
	text := "icmpv6 type " + map[byte]string{134: "nd-router-advert", 135: "nd-neighbor-solicit", 136: "nd-neighbor-advert",
		137: "nd-redirect"}[c.typ]
	if c.bare {
		return text
	}
	return "meta protocol ip6 meta l4proto ipv6-icmp " + text
}

func (c icmp6) exprs(family) []expr.Any {
	first := isProtocol(unix.ETH_P_IPV6)
	if c.bare {
		first = version{ip6}.exprs(inet)
	}
	return append(first,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{c.typ}})
}

// foreignTarget matches neighbour advertisements whose target is not in a set together with the link.
type foreignTarget struct{ set string }

const targetText = "@th,64,128"

func (c foreignTarget) text(family) string { return "iifname . " + targetText + " != @" + c.set }

func (c foreignTarget) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regWords},
		&expr.Payload{DestRegister: regWords + ifnameN, Base: expr.PayloadBaseTransportHeader, Offset: 8, Len: 16},
		&expr.Lookup{SourceRegister: regWords, SetName: c.set, Invert: true},
	}
}

// manyGone is how many links that are gone may stay in the rules until the next one comes.
const manyGone = 32

// watch guards a link from now on. It is one transaction of a few elements, whatever else is there.
func (g *guard) watch(link string, as guarded) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.links[link] = as
	first := as.apart && !g.parts
	g.parts = g.parts || as.apart
	if !g.on {
		return nil
	}
	if first {
		return g.write()
	}
	g.goneMu.Lock()
	many := len(g.gone) >= manyGone
	g.goneMu.Unlock()
	if many {
		if err := g.dropGone(); err != nil {
			return err
		}
	}
	return g.change(map[string]guarded{link: as}, g.conn.SetAddElements)
}

// leave ends the guard of a link that lives on.
func (g *guard) leave(link string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	as, ok := g.links[link]
	delete(g.links, link)
	if !ok || !g.on {
		return nil
	}
	return g.change(map[string]guarded{link: as}, g.conn.SetDeleteElements)
}

// forget notes that a link is gone or was never made; it never waits for the kernel.
func (g *guard) forget(link string) {
	g.goneMu.Lock()
	defer g.goneMu.Unlock()
	g.gone = append(g.gone, link)
}

// sweep takes out of the rules what forget noted.
func (g *guard) sweep() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dropGone()
}

// dropGone is sweep with mu held.
func (g *guard) dropGone() error {
	g.goneMu.Lock()
	names := g.gone
	g.gone = nil
	g.goneMu.Unlock()
	gone := map[string]guarded{}
	for _, link := range names {
		if as, ok := g.links[link]; ok {
			gone[link] = as
			delete(g.links, link)
		}
	}
	if !g.on || len(gone) == 0 {
		return nil
	}
	return g.change(gone, g.conn.SetDeleteElements)
}

// change adds or deletes elements; where that fails, because somebody took our rules away, it makes them anew. Called
// with mu held.
func (g *guard) change(links map[string]guarded, do func(*nftables.Set, []nftables.SetElement) error) error {
	t := &nftables.Table{Family: nftables.TableFamily(onBridges), Name: g.table}
	for i, s := range guardSets(links, g.parts) {
		g.sent += len(s.elements)
		for part := range slices.Chunk(s.elements, elementsAtOnce) {
			_ = do(kernelSet(t, s, i), kernelElements(s, part)) // errors come out of Flush
		}
	}
	if g.conn.Flush() == nil {
		return nil
	}
	return g.write()
}

// there reports whether the rules are in the kernel.
func (g *guard) there() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.on
}

// write puts the rules for all links in the place of whatever is there. Called with mu held.
func (g *guard) write() error {
	w := &firewall{conn: g.conn}
	err := w.set(compileGuard(g.table, g.links, g.parts))
	g.on = err == nil // without them nobody is stopped from anything
	return err
}

// assert writes the rules unless the kernel has all of them.
func (g *guard) assert() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.on {
		d := compileGuard(g.table, g.links, g.parts)
		w := &firewall{conn: g.conn, applied: stand(d)}
		if w.intact() {
			return nil
		}
	}
	return g.write()
}

func noBridgeRules(err error) bool {
	// ENOENT is what a kernel says whose module for this family cannot be loaded.
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) ||
		errors.Is(err, unix.EAFNOSUPPORT)
}

func (g *guard) remove() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.on {
		return nil
	}
	g.on = false
	g.conn.DelTable(&nftables.Table{Family: nftables.TableFamily(onBridges), Name: g.table})
	if err := g.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the rules of the bridges: %w", err)
	}
	return nil
}

func (g *guard) Close() error { return g.conn.Close() }

// guards reports whether an endpoint is one that must not speak for others; who is bound to a policy must not in any case,
// for the policy is known by the sender's address. Without addresses of ours there is nothing that could be compared.
func (n *Networks) guards(e *endpoint) bool {
	return n.guard != nil && e.bridged() != nil && e.host != "" && (!e.trusted && !e.network.options.spoofing || e.egress != nil) &&
		(e.state.IPv4.IsValid() || e.state.IPv6.IsValid())
}

// says is what the endpoint may say of itself.
func (e *endpoint) says() guarded {
	var g guarded
	g.mac, _ = net.ParseMAC(e.state.MAC) // of our own making, or was checked
	for _, p := range append([]netip.Prefix{e.state.IPv4, e.state.IPv6}, e.state.LinkLocal...) {
		if p.IsValid() {
			g.addrs = append(g.addrs, p.Addr())
		}
	}
	if e.state.IPv6.IsValid() {
		g.addrs = append(g.addrs, eui64(g.mac))
	}
	slices.SortFunc(g.addrs, netip.Addr.Compare)
	g.addrs = slices.Compact(g.addrs)
	return g
}

// eui64 is the link-local address that an interface makes of its hardware address (RFC 4291, appendix A).
func eui64(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe,
		13: mac[3], 14: mac[4], 15: mac[5]})
}

// watchLink guards the endpoint's link, which may not exist yet. Who has a policy must be guarded.
func (n *Networks) watchLink(e *endpoint) error {
	if err := n.noteLink(e); err != nil {
		return err
	}
	if n.guards(e) && e.egress != nil && !n.guard.there() {
		return failf(errdefs.ErrNotImplemented, "a container cannot be kept to an egress policy: the kernel has no nftables rules for bridges (CONFIG_NF_TABLES_BRIDGE), so that it could pretend to be another")
	}
	return nil
}

// noteLink guards the endpoint's link as soon as there are rules.
func (n *Networks) noteLink(e *endpoint) error {
	says := guarded{free: true}
	if n.guards(e) {
		says = e.says()
	}
	if says.apart = n.guard != nil && e.bridged() != nil && e.host != "" && !e.network.options.icc; says.free && !says.apart {
		return nil
	}
	if err := n.guard.watch(e.host, says); err != nil {
		return fmt.Errorf("guard link %q: %w", e.host, err)
	}
	return nil
}

// assertGuard brings the rules of bridges into the kernel where they are not. On a kernel that has none containers of
// one network can pretend to be each other, as with Docker; that is no reason not to start.
func (n *Networks) assertGuard() {
	if n.guard == nil {
		return
	}
	err := n.guard.assert()
	switch {
	case noBridgeRules(err):
		n.warn("containers of one network can pretend to be each other: the kernel has no nftables rules for bridges (CONFIG_NF_TABLES_BRIDGE)")
	case err != nil:
		n.warn("containers of one network can pretend to be each other: %s", err)
	}
}
