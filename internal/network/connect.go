package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A container that runs may gain and lose interfaces. What the caller saves of it afterwards is the Attachment (without
// its NetNS); a daemon that is killed in between leaves a link that no record knows, or a record of a link that is gone,
// and Retain puts both right.
//
// The caller sees to it that no two changes of one container are under way. Detach may come at any time.

// Connect gives a container that runs one more interface. The default routes and the published ports go to whichever
// network has the highest priority then. What it made is gone when it fails. It cannot be cancelled, but for plugins of CNI
// configurations.
func (n *Networks) Connect(ctx context.Context, r ConnectRequest) (*Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	names, err := n.interfaceNames(r.NetNS)
	if err != nil {
		return nil, err
	}
	h, e, err := n.reserveMore(r, names)
	if err != nil {
		return nil, err
	}
	res, err := n.plugMore(ctx, r, h, e)
	if err == nil {
		if err = n.limit(e); err == nil {
			err = n.addTo(h, e, res, r.NetNS)
		} else {
			res.close()
		}
	}
	if err == nil {
		err = errors.Join(n.reroute(h, r.ContainerID, r.NetNS, r.Name, r.Ports), n.linkPeers(r.ContainerID, h, []*endpoint{e}))
		if err == nil {
			n.keep(r.ContainerID)
			return n.describe(h), nil
		}
		n.takeFrom(h, e)
	}
	err = errors.Join(err, n.unplug(e, r.NetNS), n.closePorts(r.ContainerID, n.portsBy(h, e), false))
	n.mu.Lock()
	n.freeEndpoint(e)
	if len(h.endpoints) == 0 && n.held[r.ContainerID] == h && h.resolver == nil {
		delete(n.held, r.ContainerID)
	}
	n.mu.Unlock()
	// Back to what it was; where that fails too the first error tells more.
	_ = n.reroute(h, r.ContainerID, r.NetNS, r.Name, nil)
	return nil, err
}

func (n *Networks) describe(h *holding) *Attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	return h.result()
}

// interfaceNames are those in the namespace.
func (n *Networks) interfaceNames(ns *os.File) (map[string]bool, error) {
	names := map[string]bool{}
	err := n.inNetNS(ns, func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names[l.Name] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the container's interfaces: %w", err)
	}
	return names, nil
}

// reserveMore takes addresses on one more network.
func (n *Networks) reserveMore(r ConnectRequest, names map[string]bool) (*holding, *endpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shut {
		return nil, nil, failf(errdefs.ErrUnavailable, "the networks are closed")
	}
	h := n.held[r.ContainerID]
	if h == nil { // it had no network until now
		h = &holding{peers: r.Peers}
	}
	nw, err := n.lookup(r.Endpoint.Network)
	if err != nil {
		return nil, nil, err
	}
	if h.on(nw.rec.ID) != nil {
		return nil, nil, failf(errdefs.ErrPermissionDenied, "endpoint with name %s already exists in network %s", r.Name, nw.rec.Name)
	}
	e, err := n.placeEndpoint(r.Endpoint,
		AttachRequest{ContainerID: r.ContainerID, Name: r.Name, Hostname: r.Hostname, Trusted: r.Trusted}, names)
	if err != nil {
		return nil, nil, err
	}
	n.held[r.ContainerID] = h
	return h, e, nil
}

// on is the endpoint on a network.
func (h *holding) on(networkID string) *endpoint {
	for _, e := range h.endpoints {
		if e.network.rec.ID == networkID {
			return e
		}
	}
	return nil
}

// plugMore makes the interface, and the name server where the container needs one now.
func (n *Networks) plugMore(ctx context.Context, r ConnectRequest, h *holding, e *endpoint) (res *resolver, err error) {
	if isCNI(e) {
		return n.joinMore(ctx, r, h, e)
	}
	n.mu.Lock()
	hairpin, needs := len(h.ports) > 0, (e.network.named() || e.egress != nil) && h.resolver == nil
	n.mu.Unlock()
	err = n.inNetNS(r.NetNS, func() error {
		rt, err := openRTNL()
		if err != nil {
			return err
		}
		defer rt.Close()
		restore := keepSysctls("net/ipv6/conf/default/accept_ra", "net/ipv6/conf/default/disable_ipv6")
		err = n.plug(e, r.NetNS, rt, false, false, hairpin)
		if err = errors.Join(err, restore()); err != nil || !needs {
			return err
		}
		res, err = n.startResolver(r.NetNS, r.ContainerID, r.DNS, true)
		return err
	})
	return res, err
}

// keepSysctls reads kernel parameters and returns what gives them the values back that they have now.
func keepSysctls(names ...string) (restore func() error) {
	values := map[string]string{}
	for _, name := range names {
		if v, err := readSysctl(name); err == nil {
			values[name] = v
		}
	}
	return func() error {
		var errs []error
		for name, v := range values {
			errs = append(errs, setSysctlIfThere(name, v))
		}
		return errors.Join(errs...)
	}
}

// addTo makes the endpoint one of the container's, unless that has ended meanwhile.
func (n *Networks) addTo(h *holding, e *endpoint, res *resolver, ns *os.File) error {
	n.mu.Lock()
	gone := h.gone || n.shut
	if !gone {
		h.endpoints = append(slices.Clone(h.endpoints), e)
		n.tell(e.container)
		if res != nil {
			h.resolver = res
		}
		if err := h.keepLAN(ns); err != nil {
			n.log.Warn("connect", "container", e.container, "error", err)
		}
	}
	n.mu.Unlock()
	if gone {
		res.close()
		return errNotRunning([]*endpoint{e})
	}
	return nil
}

func (n *Networks) takeFrom(h *holding, e *endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h.endpoints = slices.DeleteFunc(slices.Clone(h.endpoints), func(o *endpoint) bool { return o == e })
	n.tell(e.container)
}

func errNotRunning(endpoints []*endpoint) error {
	id := ""
	if len(endpoints) > 0 {
		id = endpoints[0].container + " "
	}
	return failf(errdefs.ErrConflict, "container %sis not running", id)
}

// unplug deletes the endpoint's links. Where somebody did so already there is nothing to do.
func (n *Networks) unplug(e *endpoint, ns *os.File) error {
	switch {
	case isCNI(e):
		return n.part(e, ns)
	case isLAN(e.network.rec.Driver):
		return n.unplugLAN(e, ns)
	}
	var r requests
	r.removeLink(e.host)
	if err := n.rt.send(&r); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %q from network %q: %w", e.state.Interface, e.network.rec.Name, err)
	}
	return nil
}

// Disconnect takes an interface away from a container that runs.
func (n *Networks) Disconnect(ctx context.Context, r DisconnectRequest) (*Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	h := n.held[r.ContainerID]
	var e *endpoint
	if h != nil {
		for _, o := range h.endpoints {
			if o.network.rec.ID == r.Network || o.network.rec.Name == r.Network {
				e = o
			}
		}
	}
	if e == nil {
		n.mu.Unlock()
		return nil, failf(errdefs.ErrPermissionDenied, "container %s is not connected to network %s", r.ContainerID, r.Network)
	}
	h.endpoints = slices.DeleteFunc(slices.Clone(h.endpoints), func(o *endpoint) bool { return o == e })
	n.tell(r.ContainerID) // nobody shall be told an address that is going away
	n.mu.Unlock()
	err := n.unplug(e, r.NetNS)
	err = errors.Join(err, n.closePorts(r.ContainerID, n.portsBy(h, e), false), n.letOut([]*endpoint{e}),
		n.linkPeers(r.ContainerID, h, []*endpoint{e}))
	n.mu.Lock()
	n.freeEndpoint(e)
	n.mu.Unlock()
	n.warm.resume()
	if err = errors.Join(err, n.reroute(h, r.ContainerID, r.NetNS, r.Name, r.Ports)); err != nil {
		return nil, err
	}
	n.keep(r.ContainerID)
	return n.describe(h), nil
}

// reroute brings the default routes and the published ports to the endpoints that should have them. wanted are all ports
// of the container; those that could not be published for want of a way in are now.
func (n *Networks) reroute(h *holding, id string, ns *os.File, name string, wanted []PortRequest) error {
	n.mu.Lock()
	gw4, gw6 := h.gateways()
	gone := h.gone
	n.mu.Unlock()
	if gone {
		return nil
	}
	if err := n.setRoutes(ns, gw4, gw6); err != nil {
		return err
	}
	gw4, gw6 = gw4.bridged(), gw6.bridged()
	closed, moved := n.movePorts(h, gw4, gw6)
	if err := n.closePorts(id, closed, false); err != nil {
		return err
	}
	if moved {
		if err := errors.Join(n.applyRules(), n.openPorts(h)); err != nil {
			return err
		}
	}
	n.mu.Lock()
	was4, was6 := h.published()
	n.mu.Unlock()
	relay := !was4 && !was6 && n.mayRelay(h, gw4)
	if was4 {
		gw4 = nil
	}
	if was6 {
		gw6 = nil
	}
	if wanted = portsFor(wanted, gw4 != nil, gw6 != nil || relay); len(wanted) == 0 {
		return n.ensureRules()
	}
	return n.publish(h, name, wanted, gw4, gw6)
}

// published says for which versions the holding has ports. Called with mu held.
func (h *holding) published() (v4, v6 bool) {
	for _, p := range h.ports {
		v4 = v4 || p.host.Addr().Is4()
		v6 = v6 || p.host.Addr().Is6()
	}
	return v4, v6
}

// portsFor leaves out what names an address of a version that is not asked for.
func portsFor(ports []PortRequest, v4, v6 bool) []PortRequest {
	return slices.DeleteFunc(slices.Clone(ports), func(p PortRequest) bool {
		if p.HostIP == "" {
			return !v4 && !v6
		}
		a, err := parseHostIP(p.HostIP)
		return err == nil && (a.Is4() && !v4 || a.Is6() && !v6)
	})
}

// setRoutes sends what leaves the container's networks through the gateways of these endpoints.
func (n *Networks) setRoutes(ns *os.File, gw4, gw6 *endpoint) error {
	if gw4 == nil && gw6 == nil {
		return nil
	}
	return n.inNetNS(ns, func() error {
		rt, err := openRTNL()
		if err != nil {
			return err
		}
		defer rt.Close()
		for _, to := range []struct {
			e *endpoint
			f family
		}{{gw4, ip4}, {gw6, ip6}} {
			if to.e == nil || !to.e.gateway(to.f).IsValid() {
				continue
			}
			index, err := rt.index(to.e.state.Interface)
			if errors.Is(err, unix.ENODEV) || errors.Is(err, fs.ErrNotExist) {
				continue // the container has renamed it, and cares for its routes itself
			}
			if err != nil {
				return err
			}
			var r requests
			r.defaultRoute(index, to.e.gateway(to.f))
			err = rt.send(&r)
			if errors.Is(err, unix.EEXIST) { // it is there, behind one that plugins put first
				err = dropOtherDefaults(to.f, index)
			}
			if err != nil {
				return fmt.Errorf("set the default route through network %q: %w", to.e.network.rec.Name, err)
			}
		}
		return nil
	})
}

// dropOtherDefaults deletes the default routes through other links than one. It runs inside.
func dropOtherDefaults(f family, index int) error {
	rs, err := whole(func() ([]netlink.Route, error) { return netlink.RouteList(nil, int(f)) })
	if err != nil {
		return fmt.Errorf("list the container's routes: %w", err)
	}
	for _, r := range rs {
		if (r.Dst == nil || isZero(r.Dst.Mask)) && r.LinkIndex != index && r.Priority == 0 {
			err = errors.Join(err, netlink.RouteDel(&r))
		}
	}
	return err
}

// movePorts points the holding's ports at the endpoints, and takes those out that have nowhere to go.
func (n *Networks) movePorts(h *holding, gw4, gw6 *endpoint) (closed []heldPort, moved bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var kept []heldPort
	for _, p := range h.ports {
		if p.by != nil {
			kept = append(kept, p)
			continue
		}
		to := n.target(p, gw4, gw6)
		if !to.IsValid() {
			closed = append(closed, p)
			continue
		}
		moved = moved || to != p.to.Addr()
		was := p.relayed()
		p.to = netip.AddrPortFrom(to, p.to.Port())
		if is := p.relayed(); is != was {
			use := useNone
			if is {
				use = useRelay
			}
			if err := p.reuse(use); err != nil {
				n.log.Error("use the socket of a published port otherwise", "port", p.host, "error", err)
			}
		}
		kept = append(kept, p)
	}
	for _, p := range closed {
		n.leaveSocket(p, kept)
	}
	if len(closed) > 0 || moved {
		h.ports = kept
	}
	return closed, moved
}

// target is where a port leads when these endpoints are the container's ways out; the zero address is nowhere.
func (n *Networks) target(p heldPort, gw4, gw6 *endpoint) netip.Addr {
	f, gw := ip4, gw4
	if p.host.Addr().Is6() {
		f, gw = ip6, gw6
	}
	switch {
	case gw == nil && f == ip6 && gw4 != nil && !gw4.routed(ip4) && p.host.Port() != 0 && p.fd >= 0 && p.proto != unix.IPPROTO_SCTP &&
		(p.relayed() || n.opts.Relay):
		return gw4.state.IPv4.Addr()
	case gw == nil, gw.routed(f) != (p.host.Port() == 0): // another way in
		return netip.Addr{}
	case f == ip6:
		return gw.state.IPv6.Addr()
	}
	return gw.state.IPv4.Addr()
}

// Rename tells the networks that a container has another name now.
func (n *Networks) Rename(containerID, name string) {
	n.mu.Lock()
	if h := n.held[containerID]; h != nil {
		for _, e := range h.endpoints {
			e.name = name
		}
		n.tell(containerID)
	}
	n.mu.Unlock()
	n.keep(containerID)
}

// Attached is what a container that runs has, as Retain found it; nil when it has nothing.
func (n *Networks) Attached(containerID string) *Attachment {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.held[containerID]; h != nil {
		return h.result()
	}
	return nil
}

// CheckEndpoint refuses what no start could carry out, for a container that does not run.
func (n *Networks) CheckEndpoint(er EndpointRequest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	e, err := n.newEndpoint(er, AttachRequest{ContainerID: newID(), Name: "(check)"}, map[string]bool{})
	if err != nil {
		if errdefs.IsResourceExhausted(err) || errdefs.IsConflict(err) {
			return nil // by the time it starts there may be room
		}
		return err
	}
	n.freeEndpoint(e)
	return nil
}

// linkLocal reserves the further addresses that were asked for. Called with mu held.
func (n *Networks) linkLocal(e *endpoint, er EndpointRequest) error {
	for _, a := range er.LinkLocal {
		bits := 16
		if a.Is6() {
			bits = 64
		}
		err := error(nil)
		switch {
		case !a.IsLinkLocalUnicast() || a.Is4In6() || a.Zone() != "":
			err = failf(errdefs.ErrInvalidArgument, "invalid link-local IP address: %s", a)
		case a.Is6() && !e.state.IPv6.IsValid():
			err = failf(errdefs.ErrInvalidArgument, "invalid link-local IP address %s: network %q has no IPv6", a, e.network.rec.Name)
		case e.network.addrs.taken[a] != "":
			err = failf(errdefs.ErrConflict, "Address already in use: %s belongs to %s", a, e.network.addrs.taken[a])
		}
		if err != nil {
			n.freeAddresses(e)
			return err
		}
		e.network.addrs.taken[a] = "container " + e.name
		e.state.LinkLocal = append(e.state.LinkLocal, netip.PrefixFrom(a, bits))
	}
	return nil
}
