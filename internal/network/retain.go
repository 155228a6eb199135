package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/berth-engine/berth/internal/cni"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Retain takes over the containers that outlived the last daemon: their addresses stay theirs, their ports are bound
// again, and the rules of all of them replace the old ones in one transaction. What belonged to others is free from
// then on, and the pool begins to fill. It is called once, after Open and before the first Attach. A container whose
// network is gone is reported and left as it is.
func (n *Networks) Retain(ctx context.Context, live []Live) error {
	kept := n.keeper.adopt()
	known := n.knownToPlugins()
	for _, l := range live {
		if err := errors.Join(n.retain(l, kept[l.ContainerID], known), n.retainNames(l, kept[l.ContainerID])); err != nil {
			n.warnOf(l, err)
		}
		n.retainGuard(l)
	}
	if n.exits != nil {
		n.exits.log.adopt(kept)
	}
	for id, sockets := range kept { // of containers that ended, and what nobody wants any more
		for name, fd := range sockets {
			n.keeper.drop(id, name)
			unix.Close(fd)
		}
		if n.Attached(id) == nil {
			n.keeper.drop(id)
		}
	}
	for _, l := range live {
		n.keep(l.ContainerID)
	}
	n.sweepLinks()
	n.sweepPlugins(known)
	if n.exits != nil {
		n.exits.adopt()
	}
	if err := n.settleRules(); err != nil {
		return err
	}
	if n.legacy != nil {
		n.legacy.watch(n.reassertLegacy)
	}
	if n.wall != nil {
		own := []uint32{n.wall.conn.port, n.guard.conn.port}
		if n.exits != nil {
			own = append(own, n.exits.names.conn.port)
		}
		var err error
		if n.changes, err = watchRules(n.tableName(), own, n.reassert); err != nil {
			return err
		}
	}
	var err error
	if n.links, err = watchLinks(n.linkChanged); err != nil {
		return err
	}
	n.mu.Lock()
	byName, err := n.lookup(defaultName)
	usable := err == nil && byName.broken == nil
	var published []*network
	for _, h := range n.held {
		for _, e := range h.endpoints {
			if len(h.ports) > 0 {
				published = append(published, e.network)
			}
		}
	}
	n.mu.Unlock()
	for _, nw := range published {
		nw.routesLoopback.Store(true) // set by the last daemon
	}
	if usable {
		n.warm.start()
	}
	n.bare.start()
	return nil
}

// retain takes the sockets it uses out of kept.
// retainGuard notes the container's links; settleRules writes them down all at once.
func (n *Networks) retainGuard(l Live) {
	n.mu.Lock()
	var endpoints []*endpoint
	if h := n.held[l.ContainerID]; h != nil {
		endpoints = h.endpoints
	}
	n.mu.Unlock()
	for _, e := range endpoints {
		e.trusted = l.Trusted
		if err := n.noteLink(e); err != nil { // the rules come when all are here
			n.warnOf(l, err)
		}
	}
}

func (n *Networks) retain(l Live, kept map[string]int, known map[string]cni.Known) error {
	endpoints := l.Endpoints
	if len(endpoints) == 0 && l.Pid > 0 {
		var err error
		if endpoints, err = n.lookInside(l.Pid); err != nil {
			return err
		}
	}
	endpoints = n.retainLAN(l, endpoints)
	h := &holding{peers: l.Peers}
	var errs []error
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held[l.ContainerID] != nil {
		return failf(errdefs.ErrConflict, "it is attached already")
	}
	for _, s := range endpoints {
		nw := n.networks[s.NetworkID]
		if nw == nil || !joins(nw.rec.Driver) {
			errs = append(errs, fmt.Errorf("its network %q is gone", s.Network))
			continue
		}
		e := &endpoint{state: s, network: nw, container: l.ContainerID, name: l.Name, hostname: l.Hostname,
			host: cmp.Or(s.host, hostLink(s.EndpointID))}
		var err error
		if e.egress, err = parseEgress(s.Egress); err != nil { // closed is safer than open
			errs = append(errs, fmt.Errorf("its egress policy: %w", err))
			e.egress = &egress{text: s.Egress}
		}
		if isCNI(e) {
			e.host = ""
			n.retainPlugins(h, e, known[s.EndpointID])
		} else if isLAN(nw.rec.Driver) {
			e.host = ""
		} else if on, there := n.found[e.host]; there && on == nil { // the bridge was gone and is made anew
			if err := n.putOn(e.host, nw); err != nil {
				errs = append(errs, err)
			}
		} else if on != nw {
			errs = append(errs, fmt.Errorf("its interface %q on network %q is gone", s.Interface, s.Network))
			continue
		}
		delete(n.found, e.host)
		for _, p := range []netip.Prefix{s.IPv4, s.IPv6} {
			if !p.IsValid() || isCNI(e) {
				continue
			}
			if _, _, err := nw.addrs.take(p.Addr().Is6(), p.Addr(), "container "+l.Name); err != nil {
				errs = append(errs, err)
			}
		}
		for _, p := range s.LinkLocal {
			nw.addrs.taken[p.Addr()] = "container " + l.Name
		}
		nw.enlist(e)
		h.endpoints = append(h.endpoints, e)
	}
	var to4, to6 netip.Addr
	gw4, gw6 := h.gateways()
	gw4, gw6 = gw4.bridged(), gw6.bridged()
	if gw4 != nil {
		to4 = gw4.state.IPv4.Addr()
	}
	if gw6 != nil {
		to6 = gw6.state.IPv6.Addr()
	}
	n.held[l.ContainerID] = h
	n.tell(l.ContainerID)
	if ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", l.Pid)); err == nil {
		errs = append(errs, h.keepLAN(ns))
		ns.Close()
	}
	for _, p := range l.Ports {
		if err := n.retainPort(h, p, to4, to6, kept); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// findLinks remembers which links of containers are on our bridges.
func (n *Networks) findLinks() error {
	links, err := dumpLinks(n.handle)
	if err != nil {
		return fmt.Errorf("list the host's links: %w", err)
	}
	bridges := map[int]*network{}
	for _, nw := range n.networks {
		if index := int(nw.index.Load()); index > 0 && nw.rec.Driver == driverBridge {
			bridges[index] = nw
		}
	}
	n.found = map[string]*network{}
	for _, l := range links {
		nw := bridges[l.Attrs().MasterIndex]
		if (nw != nil || l.Attrs().MasterIndex == 0) && isHostLink(l.Attrs().Name) {
			n.found[l.Attrs().Name] = nw
		}
	}
	return nil
}

func (n *Networks) putOn(link string, nw *network) error {
	var r requests
	r.master(link, int(nw.index.Load()))
	if err := n.rt.send(&r); err != nil {
		return fmt.Errorf("put link %q on bridge %q: %w", link, nw.rec.Link, err)
	}
	return nil
}

// isHostLink reports whether a name is one that hostLink gives.
func isHostLink(name string) bool {
	digits, ok := strings.CutPrefix(name, "veth")
	return ok && len(digits) == 7 && strings.Trim(digits, "0123456789abcdef") == ""
}

// sweepLinks deletes the links that nobody was found for: a daemon was killed before it could save a Connect. Those of
// containers that have ended go by themselves, so nobody waits for this.
func (n *Networks) sweepLinks() {
	n.mu.Lock()
	found := n.found
	n.found = nil
	n.work.Add(1)
	n.mu.Unlock()
	go func() {
		defer n.work.Done()
		for name, nw := range found {
			if nw == nil || nw.foreign {
				continue // others put links there
			}
			var r requests
			r.removeLink(name)
			if err := n.rt.send(&r); err != nil && !errors.Is(err, unix.ENODEV) {
				n.log.Warn("remove a link that was left behind", "link", name, "error", err)
			}
		}
	}()
}

// retainNames gives the container a name server again.
func (n *Networks) retainNames(l Live, kept map[string]int) error {
	n.mu.Lock()
	h := n.held[l.ContainerID]
	n.mu.Unlock()
	if l.Pid <= 0 || h == nil || !h.needsNames() {
		return nil
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", l.Pid))
	if err != nil {
		return fmt.Errorf("open its network namespace: %w", err)
	}
	defer ns.Close()
	udp, okUDP := kept[keptNamesUDP]
	tcp, okTCP := kept[keptNamesTCP]
	if okUDP && okTCP {
		pc, l4, err := socketsOf(udp, tcp)
		if err == nil {
			r, err := n.serveNames(pc, l4, ns, l.ContainerID, h.servers(l.DNS))
			if err == nil {
				for _, name := range []string{keptNamesUDP, keptNamesTCP, keptNetNS} {
					if fd, ok := kept[name]; ok {
						unix.Close(fd)
						delete(kept, name)
					}
				}
				err = n.answerBy(h, r)
			}
			return err
		}
	}
	return n.inNetNS(ns, func() error {
		r, err := n.startResolver(ns, l.ContainerID, h.servers(l.DNS), false)
		if err != nil {
			return err
		}
		return n.answerBy(h, r)
	})
}

// retainPort binds a port again. Where somebody took it meanwhile the port stays translated to the container, which has
// an older right; only the socket is missing. Called with mu held.
func (n *Networks) retainPort(h *holding, p PublishedPort, to4, to6 netip.Addr, kept map[string]int) error {
	var proto protocol
	for _, q := range []protocol{unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP} {
		if q.String() == p.Proto {
			proto = q
		}
	}
	host := netip.AddrPortFrom(p.HostIP, p.HostPort)
	to := to4
	if p.HostIP.Is6() && (to6.IsValid() || p.HostPort == 0) {
		to = to6
	}
	by := h.publisher(p)
	if by != nil {
		to = by.state.IPv4.Addr()
		if p.HostIP.Is6() || !to.IsValid() {
			to = by.state.IPv6.Addr()
		}
	}
	if proto != 0 && host.Addr().IsUnspecified() && host.Port() == 0 && to.IsValid() { // on a routed network
		n.hold(h, heldPort{reservation: &reservation{proto: proto, host: host, fd: -1}, to: netip.AddrPortFrom(to, p.Container)})
		return nil
	}
	if proto == 0 || !host.IsValid() || host.Port() == 0 || !to.IsValid() {
		return fmt.Errorf("its published port %s/%s makes no sense", host, p.Proto)
	}
	if fd, ok := kept[keptPort(proto, host)]; ok {
		delete(kept, keptPort(proto, host))
		n.hold(h, heldPort{reservation: &reservation{proto: proto, host: host, fd: fd}, to: netip.AddrPortFrom(to, p.Container), by: by})
		return nil
	}
	if h.holdsBoth(proto, host, kept) {
		n.hold(h, heldPort{reservation: &reservation{proto: proto, host: host, fd: -1}, to: netip.AddrPortFrom(to, p.Container), by: by})
		return nil
	}
	use := useNone
	if by == nil && host.Addr().Is6() && to.Is4() {
		use = useRelay
	}
	r, err := bind(proto, host, use)
	if err != nil {
		r = &reservation{proto: proto, host: host, fd: -1}
		err = fmt.Errorf("its published port: %w", bindError(proto, host, err))
	}
	n.hold(h, heldPort{reservation: r, to: netip.AddrPortFrom(to, p.Container), by: by})
	return err
}

// lookInside finds the endpoints of a process by the addresses in its network namespace.
func (n *Networks) lookInside(pid int) ([]EndpointState, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, fmt.Errorf("open its network namespace: %w", err)
	}
	defer f.Close()
	var h *netlink.Handle
	if err := n.inNetNS(f, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}); err != nil {
		return nil, fmt.Errorf("look into its network namespace: %w", err)
	}
	defer h.Close()
	links, err := dumpLinks(h)
	if err != nil {
		return nil, fmt.Errorf("list its links: %w", err)
	}
	var found []EndpointState
	for _, l := range links {
		if l.Type() != "veth" {
			continue
		}
		as, err := dumpAddrs(h, l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list its addresses: %w", err)
		}
		s := EndpointState{EndpointID: newID(), Interface: l.Attrs().Name, MAC: l.Attrs().HardwareAddr.String()}
		if outer, err := n.handle.LinkByIndex(l.Attrs().ParentIndex); err == nil {
			s.host = outer.Attrs().Name
		}
		for _, a := range as {
			n.recognize(&s, prefixFromNet(a.IPNet))
		}
		if s.NetworkID != "" {
			found = append(found, s)
		}
	}
	return found, nil
}

func (n *Networks) recognize(s *EndpointState, p netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, nw := range n.networks {
		if nw.rec.ConfigOnly {
			continue
		}
		for _, sub := range nw.rec.Subnets {
			if !p.IsValid() || p.Masked() != sub.Prefix {
				continue
			}
			s.Network, s.NetworkID = nw.rec.Name, nw.rec.ID
			if p.Addr().Is6() {
				s.IPv6, s.Gateway6 = p, sub.Gateway
			} else {
				s.IPv4, s.Gateway = p, sub.Gateway
			}
		}
	}
}
