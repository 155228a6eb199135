package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/berth-engine/berth/internal/dns"
	"golang.org/x/sys/unix"
)

// resolverAddr is where containers on networks of the users' ask for names.
const resolverAddr = "127.0.0.11"

const domainPort = 53

// resolverRules turn port 53 of the resolver's address into the ports our sockets have, and back in the answers. Port 53
// itself stays free: a container may run a name server of its own on every address. Both directions are output of the
// same namespace, so no connection needs to be tracked for it.
func resolverRules(udp, tcp uint16) document {
	at := netip.PrefixFrom(netip.MustParseAddr(resolverAddr), 32)
	c := chain{name: "output", hook: hookRawOutput()}
	for _, p := range []struct {
		proto protocol
		port  uint16
	}{{unix.IPPROTO_UDP, udp}, {unix.IPPROTO_TCP, tcp}} {
		c.rules = append(c.rules,
			when(addr{dst: true, block: at}, port{p.proto, true, domainPort}, setPort{p.proto, true, p.port}),
			when(addr{block: at}, port{p.proto, false, p.port}, setPort{p.proto, false, domainPort}))
	}
	return document{tables: []table{{family: ip4, name: "berth-names", chains: []chain{c}}}}
}

// resolver is a container's name server.
type resolver struct {
	server   *dns.Server
	servers  []netip.AddrPort // the user's; none means the host's
	ns       *os.File         // to ask them from; nil without
	udp, tcp int              // descriptors of the sockets, which are the server's
}

func (r *resolver) close() {
	if r == nil {
		return
	}
	_ = r.server.Close()
	if r.ns != nil {
		r.ns.Close()
	}
}

// startResolver opens a name server on the calling thread, which is in the container's namespace ns. servers are those
// the user named. fresh says that no daemon did so before.
func (n *Networks) startResolver(ns *os.File, container string, servers []string, fresh bool) (*resolver, error) {
	pc, l, err := n.listenNames(fresh)
	if err != nil {
		return nil, fmt.Errorf("open the container's name server: %w", err)
	}
	return n.serveNames(pc, l, ns, container, servers)
}

// serveNames answers the questions of a container that come in by pc and l, which it owns.
func (n *Networks) serveNames(pc net.PacketConn, l net.Listener, ns *os.File, container string, servers []string) (*resolver, error) {
	r := &resolver{servers: serverAddrs(servers), udp: descriptor(pc), tcp: descriptor(l)}
	o := dns.Options{Names: n.table.View(container), Servers: hostServers, External: func() bool { return n.table.Leaves(container) }}
	if len(r.servers) > 0 {
		fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			pc.Close()
			l.Close()
			return nil, fmt.Errorf("keep the container's namespace: %w", err)
		}
		r.ns = os.NewFile(uintptr(fd), ns.Name())
		askInside(&o, n, r.ns, r.servers, func() bool { return len(n.boundsOf(container)) > 0 })
	}
	n.obeyEgress(&o, container)
	r.server = dns.Serve(pc, l, o)
	return r, nil
}

// descriptor is the number of a socket's descriptor, which stays the socket's.
func descriptor(c any) int {
	fd := -1
	if s, ok := c.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			_ = raw.Control(func(p uintptr) { fd = int(p) })
		}
	}
	return fd
}

// askInside makes the user's servers those to ask: they may be on a network that only the container can reach. Where it is
// bounded they are asked from the host, so that nobody needs to let the container reach them itself.
func askInside(o *dns.Options, n *Networks, ns *os.File, servers []netip.AddrPort, bounded func() bool) {
	o.Servers = func() []netip.AddrPort { return servers }
	o.Dial = func(ctx context.Context, network, address string) (c net.Conn, err error) {
		if bounded() {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
		err = n.inNetNS(ns, func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, address)
			return err
		})
		return c, err
	}
}

// listenNames binds the resolver's sockets: behind port 53 where the kernel rewrites ports for us, else on it.
func (n *Networks) listenNames(fresh bool) (net.PacketConn, net.Listener, error) {
	pc, l, err := listenBoth(0)
	if err != nil {
		return nil, nil, err
	}
	var w *firewall
	if err = n.noTables; err == nil {
		w, err = openFirewall()
	}
	if err == nil {
		d := resolverRules(portOf(pc.LocalAddr()), portOf(l.Addr()))
		if fresh {
			err = w.create(d)
		} else {
			err = w.apply(func() document { return d })
		}
		_ = w.Close()
	}
	if err == nil {
		return pc, l, nil
	}
	pc.Close()
	l.Close()
	n.log.Warn("the name servers of containers take port 53, because the kernel does not rewrite it", "error", err)
	return listenBoth(domainPort)
}

func listenBoth(port int) (net.PacketConn, net.Listener, error) {
	at := fmt.Sprintf("%s:%d", resolverAddr, port)
	pc, err := net.ListenPacket("udp4", at)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp4", at)
	if err != nil {
		pc.Close()
		return nil, nil, err
	}
	return pc, l, nil
}

func portOf(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.UDPAddr:
		return uint16(a.Port)
	case *net.TCPAddr:
		return uint16(a.Port)
	}
	return 0
}

// hostServers are those of the host. The daemon asks them from the host's network, where its loopback is reachable.
func hostServers() []netip.AddrPort {
	text, _ := os.ReadFile(hostResolvConf)
	if servers := serverAddrs(ParseResolvConf(text).Nameservers); len(servers) > 0 {
		return servers
	}
	return serverAddrs(HostResolvConf().Nameservers)
}

func serverAddrs(texts []string) []netip.AddrPort {
	var servers []netip.AddrPort
	for _, t := range texts {
		if a, err := netip.ParseAddr(t); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, domainPort))
		}
	}
	return servers
}

// named is true for the networks on which containers find each other by name.
func (nw *network) named() bool { return joins(nw.rec.Driver) && nw.rec.Name != defaultName }

// called lists what the endpoint is called on its network: the container's name, the beginning of its ID, its aliases.
func (e *endpoint) called() []string {
	names := []string{strings.ToLower(e.name)}
	if len(e.container) >= 12 {
		names = append(names, e.container[:12])
	}
	for _, a := range append(e.state.Aliases[:len(e.state.Aliases):len(e.state.Aliases)], e.hostname) {
		if a = strings.ToLower(strings.TrimSuffix(a, ".")); a != "" && !slices.Contains(names, a) {
			names = append(names, a)
		}
	}
	return names
}

// enlist and delist keep who is on a network. Called with mu held.
func (nw *network) enlist(e *endpoint) {
	nw.endpoints[e] = struct{}{}
	if e.state.MAC != "" {
		nw.macs[e.state.MAC] = e
	}
}

func (nw *network) delist(e *endpoint) {
	delete(nw.endpoints, e)
	if nw.macs[e.state.MAC] == e {
		delete(nw.macs, e.state.MAC)
	}
}

// tell makes the table of names agree with what the container has. Called with mu held, after every change of that.
func (n *Networks) tell(container string) {
	var places []dns.Place
	if h := n.held[container]; h != nil {
		places = h.places()
	}
	n.table.Set(container, places)
}

// places are where the container can be found, and what it can ask for; none where it is on no network with names.
// Called with Networks.mu held.
func (h *holding) places() []dns.Place {
	if !h.needsNames() {
		return nil
	}
	var places []dns.Place
	for _, e := range h.endpoints {
		nw := e.network
		p := dns.Place{Network: nw.rec.ID, Domain: nw.rec.Name, Named: nw.named(), Leaves: !nw.rec.Internal, Name: e.name,
			Links: e.state.Links}
		for _, s := range nw.rec.Subnets {
			p.Subnets = append(p.Subnets, s.Prefix)
		}
		if isCNI(e) {
			for _, a := range []netip.Prefix{e.state.IPv4, e.state.IPv6} {
				if a.IsValid() {
					p.Subnets = append(p.Subnets, a.Masked())
				}
			}
		}
		if p.Named {
			p.Called = e.called()
		}
		for _, a := range []netip.Prefix{e.state.IPv4, e.state.IPv6} {
			if a.IsValid() {
				p.Addrs = append(p.Addrs, a.Addr())
			}
		}
		places = append(places, p)
	}
	return places
}
