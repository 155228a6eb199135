package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// On a network whose containers may not talk to each other (icc=false) the ports of the bridge are isolated: no frame goes
// from one container to another. A container that has a link to another (--link) reaches that one's exposed ports all
// the same, by way of the host: the host answers for the addresses of neighbours (proxy_arp_pvlan of IPv4, proxies of the
// addresses concerned for IPv6), receives what is meant for them and passes on, by the rules, what a link allows. The ports
// stay isolated, so that without rules there is no way either; but for those of containers that publish ports, see isolates.

// Peer is a container that another has a link to on a network.
type Peer struct {
	Network     string // its name or ID
	ContainerID string
	Ports       []PeerPort // that are reached
}

// PeerPort is a port of a container.
type PeerPort struct {
	Port  uint16
	Proto string // "tcp", "udp", "sctp"
}

// policyPeer is a way from one container to a port of another.
type policyPeer struct {
	from  netip.Addr
	to    netip.AddrPort
	proto protocol
}

func (q policyPeer) element() element {
	return element{key: []any{q.from, q.to.Addr(), q.proto, q.to.Port()}}
}

// peers are the ways between containers of networks where there are no others, by network. Called with mu held.
func (n *Networks) peers() map[*network][]policyPeer {
	ways := map[*network][]policyPeer{}
	for _, h := range n.held {
		for _, p := range h.peers {
			for _, from := range h.endpoints {
				if to := n.peerOf(from, p); to != nil {
					ways[from.network] = append(ways[from.network], p.ways(from, to)...)
				}
			}
		}
	}
	return ways
}

// apart reports whether a network's containers are kept from each other.
func (nw *network) apart() bool {
	return nw.rec.Driver == driverBridge && nw.broken == nil && !nw.options.icc
}

func (e *endpoint) apart() bool { return e.network.apart() }

// isolates reports whether the bridge itself keeps an endpoint from its neighbours. Where a container publishes ports they must reach
// those, and with br_netfilter the frames of that pass the bridge: then its rules alone say what may (compileGuard).
func (n *Networks) isolates(e *endpoint, publishes bool) bool {
	return !e.network.options.icc && !(publishes && n.guard != nil && n.guard.there())
}

// mayLink refuses links that would lead nowhere: they go by way of the host, which must have an address on the bridge.
func (nw *network) mayLink(links map[string]string) error {
	if len(links) == 0 || !nw.apart() || slices.ContainsFunc(nw.rec.Subnets, nw.hostIn) {
		return nil
	}
	return failf(errdefs.ErrInvalidArgument, "a container cannot have links on network %q: its containers do not reach each other (enable_icc=false), "+
		"and the host, by which links go, has no address there (gateway mode %q): leave one of the two options out", nw.rec.Name, modeIsolated)
}

// hostIn reports whether the host may have an address in a subnet of the network.
func (nw *network) hostIn(s Subnet) bool {
	return nw.options.mode(familyOf(s.Prefix.Addr())) != modeIsolated
}

// peerOf is the other end of a link, if both are on its network. Called with mu held.
func (n *Networks) peerOf(from *endpoint, p Peer) *endpoint {
	other := n.held[p.ContainerID]
	if other == nil || !from.apart() || p.Network != from.network.rec.ID && p.Network != from.network.rec.Name {
		return nil
	}
	return other.on(from.network.rec.ID)
}

func (p Peer) ways(from, to *endpoint) (ways []policyPeer) {
	for _, pair := range [][2]netip.Prefix{{from.state.IPv4, to.state.IPv4}, {from.state.IPv6, to.state.IPv6}} {
		if !pair[0].IsValid() || !pair[1].IsValid() {
			continue
		}
		for _, q := range p.Ports {
			if proto, ok := parseProtocol(q.Proto); ok {
				ways = append(ways, policyPeer{pair[0].Addr(), netip.AddrPortFrom(pair[1].Addr(), q.Port), proto})
			}
		}
	}
	return ways
}

func parseProtocol(text string) (protocol, bool) {
	for _, p := range []protocol{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
		if p.String() == text {
			return p, true
		}
	}
	return 0, false
}

// concerned reports whether a link begins or ends at any of these endpoints of a container. Called with mu held.
func (n *Networks) concerned(id string, h *holding, endpoints []*endpoint) bool {
	if !slices.ContainsFunc(endpoints, (*endpoint).apart) {
		return false
	}
	if len(h.peers) > 0 {
		return true
	}
	for _, other := range n.held {
		if slices.ContainsFunc(other.peers, func(p Peer) bool { return p.ContainerID == id }) {
			return true
		}
	}
	return false
}

// linkPeers opens what links open, and closes what they do not open any more, where endpoints of a container come or go. What
// closes is closed before an address can be another's.
func (n *Networks) linkPeers(id string, h *holding, endpoints []*endpoint) error {
	n.mu.Lock()
	concerned := n.concerned(id, h, endpoints)
	n.mu.Unlock()
	if !concerned || !n.filters() {
		return nil
	}
	return errors.Join(n.applyRules(), n.answerForPeers())
}

// SetPeers says what a container that runs has links to from now on.
func (n *Networks) SetPeers(_ context.Context, id string, peers []Peer) error {
	n.mu.Lock()
	h := n.held[id]
	if h == nil {
		n.mu.Unlock()
		return failf(errdefs.ErrNotFound, "container %s has no network", id)
	}
	had := &holding{peers: append(slices.Clone(h.peers), peers...)}
	endpoints := slices.Clone(h.endpoints)
	h.peers = peers
	n.mu.Unlock()
	return n.linkPeers(id, had, endpoints)
}

// answerForPeers makes the host answer for the addresses of containers with links.
func (n *Networks) answerForPeers() error {
	n.proxying.Lock()
	defer n.proxying.Unlock()
	n.mu.Lock()
	ways := n.peers()
	var apart []*network
	for _, nw := range n.networks {
		if nw.apart() {
			apart = append(apart, nw)
		}
	}
	n.mu.Unlock()
	var errs []error
	for _, nw := range apart {
		want := map[netip.Addr]bool{}
		for _, w := range ways[nw] {
			if w.from.Is6() {
				want[w.from], want[w.to.Addr()] = true, true
			}
		}
		if len(ways[nw]) > 0 {
			errs = append(errs, turnProxyOn(nw.rec.Link, len(want) > 0))
		}
		if nw.rec.IPv6 {
			errs = append(errs, n.proxyAddresses(nw, want))
		}
	}
	return errors.Join(errs...)
}

// redirect matches what a router says of a shorter way (RFC 792, RFC 4861 4.5).
type redirect struct{}

func (redirect) text(f family) string {
	if f == ip6 {
		return "icmpv6 type nd-redirect"
	}
	return "icmp type redirect"
}

func (redirect) exprs(f family) []expr.Any {
	proto, typ := byte(unix.IPPROTO_ICMP), byte(5)
	if f == ip6 {
		proto, typ = unix.IPPROTO_ICMPV6, 137
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{proto}},
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{typ}}}
}

// turnProxyOn makes the host answer, and at once: the kernel waits up to 0.8 s otherwise.
func turnProxyOn(link string, v6 bool) error {
	knobs := []string{"net/ipv4/neigh/" + link + "/proxy_delay=0", "net/ipv4/conf/" + link + "/proxy_arp_pvlan=1"}
	if v6 {
		knobs = append(knobs, "net/ipv6/neigh/"+link+"/proxy_delay=0", "net/ipv6/conf/"+link+"/proxy_ndp=1")
	}
	for _, k := range knobs {
		name, value := k[:len(k)-2], k[len(k)-1:]
		if err := setSysctl(name, value); err != nil {
			return fmt.Errorf("let linked containers find each other: %w", err)
		}
	}
	return nil
}

// proxyAddresses answers for these addresses of IPv6 on a bridge, and for no others any more. Called with proxying held.
func (n *Networks) proxyAddresses(nw *network, want map[netip.Addr]bool) error {
	list, err := whole(func() ([]netlink.Neigh, error) { return n.handle.NeighProxyList(int(nw.index.Load()), unix.AF_INET6) })
	if err != nil {
		return fmt.Errorf("list the addresses that the host answers for: %w", err)
	}
	neighbour := func(a netip.Addr) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: int(nw.index.Load()), Family: unix.AF_INET6, Flags: netlink.NTF_PROXY, IP: a.AsSlice()}
	}
	missing := maps.Clone(want)
	var errs []error
	for _, x := range list {
		a, ok := netip.AddrFromSlice(x.IP)
		if !ok || want[a] {
			delete(missing, a)
			continue
		}
		if nw.foreign && !slices.ContainsFunc(nw.rec.Subnets, func(s Subnet) bool { return s.Prefix.Contains(a) }) {
			continue // somebody else's
		}
		if err := n.handle.NeighDel(neighbour(a)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("answer for %s no more: %w", a, err))
		}
	}
	for a := range missing {
		if err := n.handle.NeighSet(neighbour(a)); err != nil {
			errs = append(errs, fmt.Errorf("answer for %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}
