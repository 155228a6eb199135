package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

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
	server *dns.Server
	ns     *os.File // to ask the user's servers from; nil without
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
func (n *Networks) startResolver(ns *os.File, h *holding, servers []string, fresh bool) (*resolver, error) {
	pc, l, err := n.listenNames(fresh)
	if err != nil {
		return nil, fmt.Errorf("open the container's name server: %w", err)
	}
	r := &resolver{}
	o := dns.Options{Names: &view{n, h}, Servers: hostServers, External: func() bool { return n.leaves(h) }}
	if chosen := serverAddrs(servers); len(chosen) > 0 {
		fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			pc.Close()
			l.Close()
			return nil, fmt.Errorf("keep the container's namespace: %w", err)
		}
		// They may be on a network that only the container can reach.
		r.ns = os.NewFile(uintptr(fd), ns.Name())
		o.Servers = func() []netip.AddrPort { return chosen }
		o.Dial = func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = n.inNetNS(r.ns, func() error {
				c, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return c, err
		}
	}
	r.server = dns.Serve(pc, l, o)
	return r, nil
}

// listenNames binds the resolver's sockets: behind port 53 where the kernel rewrites ports for us, else on it.
func (n *Networks) listenNames(fresh bool) (net.PacketConn, net.Listener, error) {
	pc, l, err := listenBoth(0)
	if err != nil {
		return nil, nil, err
	}
	w, err := openFirewall()
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

// leaves reports whether the container can reach more than its own networks.
func (n *Networks) leaves(h *holding) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(h.endpoints, func(e *endpoint) bool { return !e.network.rec.Internal })
}

// named is true for the networks on which containers find each other by name.
func (nw *network) named() bool { return joins(nw.rec.Driver) && nw.rec.Name != defaultName }

// called lists what the endpoint is called on its network: the container's name, the beginning of its ID, its aliases.
func (e *endpoint) called() []string {
	names := []string{strings.ToLower(e.name)}
	if len(e.container) >= 12 {
		names = append(names, e.container[:12])
	}
	for _, a := range e.state.Aliases {
		if a = strings.ToLower(strings.TrimSuffix(a, ".")); !slices.Contains(names, a) {
			names = append(names, a)
		}
	}
	return names
}

// enlist and delist keep the names of a network. Called with mu held.
func (nw *network) enlist(e *endpoint) {
	nw.endpoints[e] = struct{}{}
	nw.macs[e.state.MAC] = e
	for _, p := range []netip.Prefix{e.state.IPv4, e.state.IPv6} {
		if p.IsValid() {
			nw.byAddr[p.Addr()] = e
		}
	}
	if e.container == "" || !nw.named() {
		return
	}
	for _, name := range e.called() {
		nw.names[name] = append(nw.names[name], e)
	}
}

func (nw *network) delist(e *endpoint) {
	delete(nw.endpoints, e)
	if nw.macs[e.state.MAC] == e {
		delete(nw.macs, e.state.MAC)
	}
	for _, p := range []netip.Prefix{e.state.IPv4, e.state.IPv6} {
		if nw.byAddr[p.Addr()] == e {
			delete(nw.byAddr, p.Addr())
		}
	}
	nw.unname(e)
}

// unname makes the endpoint unknown to the name servers.
func (nw *network) unname(e *endpoint) {
	if e.container == "" || !nw.named() {
		return
	}
	for _, name := range e.called() {
		nw.names[name] = slices.DeleteFunc(nw.names[name], func(o *endpoint) bool { return o == e })
		if len(nw.names[name]) == 0 {
			delete(nw.names, name)
		}
	}
}

// view is what one container may know: the names of its own networks.
type view struct {
	n *Networks
	h *holding
}

// Addresses knows "name" on any of the networks and "name.network", and the container's own links first.
func (v *view) Addresses(name string) (addrs []netip.Addr, known bool) {
	v.n.mu.Lock()
	defer v.n.mu.Unlock()
	for _, own := range v.h.endpoints {
		nw := own.network
		if !nw.named() {
			continue
		}
		found := nw.names[name]
		if target, ok := own.state.Links[name]; ok {
			found = nw.names[target]
		}
		if short, ok := strings.CutSuffix(name, "."+strings.ToLower(nw.rec.Name)); ok && len(found) == 0 {
			found = nw.names[short]
		}
		for _, e := range found {
			known = true
			for _, p := range []netip.Prefix{e.state.IPv4, e.state.IPv6} {
				if p.IsValid() {
					addrs = append(addrs, p.Addr())
				}
			}
		}
	}
	return addrs, known
}

// Name knows every address of the networks' subnets, most of which have none.
func (v *view) Name(a netip.Addr) (name string, known bool) {
	v.n.mu.Lock()
	defer v.n.mu.Unlock()
	for _, own := range v.h.endpoints {
		nw := own.network
		if !slices.ContainsFunc(nw.rec.Subnets, func(s Subnet) bool { return s.Prefix.Contains(a) }) {
			continue
		}
		known = true
		if e := nw.byAddr[a]; e != nil && nw.named() && e.container != "" {
			return e.name + "." + nw.rec.Name, true
		}
	}
	return "", known
}
