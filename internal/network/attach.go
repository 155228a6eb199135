package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach gives a container a network namespace with all its interfaces, addresses and published ports. What it took it
// gives back when it fails. It finishes in well under two milliseconds and cannot be cancelled, except for plugins of CNI
// configurations, which take what they take.
func (n *Networks) Attach(ctx context.Context, r AttachRequest) (*Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkSysctls(r.Sysctls); err != nil {
		return nil, err
	}
	if r.None {
		return n.attachNone(r)
	}
	if len(r.Endpoints) == 0 {
		r.Endpoints = []EndpointRequest{{Network: defaultName}}
	}
	var taken *spare
	if n.plain(r) {
		taken = n.warm.take()
	}
	a := &attaching{n: n, r: r, holding: &holding{peers: r.Peers}}
	if err := a.reserve(taken); err != nil {
		if taken != nil {
			n.dropWarm(taken)
		}
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			a.undo()
		}
	}()
	if taken != nil {
		a.ns = taken.ns
	} else if err := a.furnish(ctx); err != nil {
		return nil, err
	}
	if taken != nil && r.Trusted && n.guard != nil {
		if err := n.guard.leave(taken.ep.host); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	err := a.holding.keepLAN(a.ns)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := n.applySysctls(a.ns, r.Sysctls); err != nil {
		return nil, err
	}
	if err := n.limit(a.holding.endpoints...); err != nil {
		return nil, err
	}
	if err := a.publish(); err != nil {
		return nil, err
	}
	if err := n.linkPeers(r.ContainerID, a.holding, a.holding.endpoints); err != nil {
		return nil, err
	}
	n.keep(r.ContainerID)
	ok = true
	return a.result(), nil
}

// plain is true where a namespace from the pool has everything that was asked for.
func (n *Networks) plain(r AttachRequest) bool {
	if len(r.Endpoints) != 1 {
		return false
	}
	e := r.Endpoints[0]
	return (e.Network == defaultName || e.Network == "default") && !e.IPv4.IsValid() && !e.IPv6.IsValid() && e.MAC == "" &&
		len(e.DriverOpts) == 0
}

func (n *Networks) attachNone(r AttachRequest) (*Attachment, error) {
	if len(r.Ports) > 0 {
		n.log.Debug("ports of a container without a network are not published", "container", r.ContainerID)
	}
	s := n.bare.take()
	if s == nil {
		var err error
		if s, err = n.makeBare(); err != nil {
			return nil, err
		}
	}
	if err := n.applySysctls(s.ns, r.Sysctls); err != nil {
		s.ns.Close()
		return nil, err
	}
	return &Attachment{NetNS: s.ns}, nil
}

// attaching is one Attach under way.
type attaching struct {
	n       *Networks
	r       AttachRequest
	holding *holding
	ns      *os.File
	gw4     *endpoint // has the default route
	gw6     *endpoint
}

// reserve takes addresses and names. taken is a namespace whose endpoint becomes the container's, or nil.
func (a *attaching) reserve(taken *spare) error {
	n := a.n
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.shut:
		return failf(errdefs.ErrUnavailable, "the networks are closed")
	case n.held[a.r.ContainerID] != nil:
		return failf(errdefs.ErrConflict, "container %s is attached already", a.r.ContainerID)
	}
	if taken != nil {
		e := taken.ep
		e.trusted, e.hostname = a.r.Trusted, a.r.Hostname
		e.container, e.name, e.state.Aliases = a.r.ContainerID, a.r.Name, a.r.Endpoints[0].Aliases
		e.state.GwPriority = a.r.Endpoints[0].GwPriority
		a.holding.endpoints = []*endpoint{e}
		a.gw4, a.gw6 = a.holding.gateways()
		n.held[a.r.ContainerID] = a.holding
		n.tell(a.r.ContainerID)
		return nil
	}
	used := map[string]bool{}
	for _, er := range a.r.Endpoints {
		e, err := n.placeEndpoint(er, a.r, used)
		if err != nil {
			for _, e := range a.holding.endpoints {
				n.freeEndpoint(e)
			}
			return fmt.Errorf("attach to network %q: %w", er.Network, err)
		}
		if slices.ContainsFunc(a.holding.endpoints, func(o *endpoint) bool { return o.network == e.network }) {
			n.freeEndpoint(e)
			for _, e := range a.holding.endpoints {
				n.freeEndpoint(e)
			}
			return failf(errdefs.ErrInvalidArgument, "network %q is named twice", er.Network)
		}
		a.holding.endpoints = append(a.holding.endpoints, e)
	}
	a.gw4, a.gw6 = a.holding.gateways()
	n.held[a.r.ContainerID] = a.holding
	n.tell(a.r.ContainerID)
	return nil
}

// placeEndpoint is newEndpoint, which on the default network may have the addresses that the pool holds. Called with mu
// held, which it gives up meanwhile.
func (n *Networks) placeEndpoint(er EndpointRequest, r AttachRequest, used map[string]bool) (*endpoint, error) {
	e, err := n.newEndpoint(er, r, used)
	if errors.Is(err, errExhausted) && n.isDefault(er.Network) {
		n.mu.Unlock()
		n.warm.reclaim()
		n.mu.Lock()
		e, err = n.newEndpoint(er, r, used)
	}
	return e, err
}

func (n *Networks) isDefault(name string) bool { return name == defaultName || name == "default" }

// gateways are the endpoints with the default routes: those with the highest priority, the first of equals.
func (h *holding) gateways() (gw4, gw6 *endpoint) {
	for _, e := range h.endpoints {
		if e.network.rec.Internal {
			continue
		}
		if e.state.IPv4.IsValid() && e.leads(ip4) && (gw4 == nil || e.state.GwPriority > gw4.state.GwPriority) {
			gw4 = e
		}
		if e.state.IPv6.IsValid() && e.leads(ip6) && (gw6 == nil || e.state.GwPriority > gw6.state.GwPriority) {
			gw6 = e
		}
	}
	return gw4, gw6
}

// newEndpoint reserves a place in a network. used are the names of the container's interfaces so far. Called with mu held.
func (n *Networks) newEndpoint(er EndpointRequest, r AttachRequest, used map[string]bool) (*endpoint, error) {
	nw, err := n.lookup(er.Network)
	switch {
	case err != nil:
		return nil, err
	case nw.broken != nil:
		return nil, failf(errdefs.ErrUnavailable, "network %q cannot be used: %w", nw.rec.Name, nw.broken)
	case nw.rec.ConfigOnly:
		return nil, failf(errdefs.ErrPermissionDenied, "network %q is a configuration-only network and has no containers", nw.rec.Name)
	case !joins(nw.rec.Driver):
		return nil, failf(errdefs.ErrInvalidArgument, "network %q cannot be combined with others", nw.rec.Name)
	}
	o, err := parseEndpointOptions(er.DriverOpts)
	if err != nil {
		return nil, err
	}
	if o.egress != nil {
		if err := n.mayLimit(nw); err != nil {
			return nil, err
		}
	}
	if err := nw.mayLink(er.Links); err != nil {
		return nil, err
	}
	if o.ifname != "" && used[o.ifname] {
		return nil, failf(errdefs.ErrConflict, "the container has an interface %q already", o.ifname)
	}
	if (er.IPv4.IsValid() || er.IPv6.IsValid()) && nw.rec.Name == defaultName {
		return nil, failf(errdefs.ErrInvalidArgument, "user specified IP address is supported on user defined networks only")
	}
	if (er.IPv4.IsValid() || er.IPv6.IsValid()) && !nw.rec.Configured && nw.rec.Driver != driverCNI {
		return nil, failf(errdefs.ErrInvalidArgument,
			"user specified IP address is supported only when connecting to networks with user configured subnets")
	}
	if er.IPv4.IsValid() && !er.IPv4.Is4() || er.IPv6.IsValid() && !er.IPv6.Is6() {
		return nil, failf(errdefs.ErrInvalidArgument, "invalid IP address %s: wrong version", cmpAddr(er.IPv4, er.IPv6))
	}
	for _, want := range []struct {
		addr netip.Addr
		has  bool
	}{{er.IPv4, nw.rec.IPv4}, {er.IPv6, nw.rec.IPv6}} {
		if want.addr.IsValid() && !want.has && nw.rec.Driver != driverCNI {
			return nil, failf(errdefs.ErrInvalidArgument, "no configured subnet or ip-range contain the IP address %s", want.addr)
		}
	}
	e := &endpoint{network: nw, container: r.ContainerID, name: r.Name, hostname: r.Hostname, trusted: r.Trusted,
		state: EndpointState{Network: nw.rec.Name, NetworkID: nw.rec.ID, Aliases: er.Aliases, GwPriority: er.GwPriority,
			Links: lowerKeys(er.Links)}}
	e.identify()
	if err := n.addressEndpoint(e, er); err != nil {
		return nil, err
	}
	e.sysctls, e.rates, e.state.Interface = o.sysctls, o.rates, o.ifname
	e.egress, e.state.Egress = o.egress, o.egress.String()
	for i := 0; e.state.Interface == "" || o.ifname == ""; i++ {
		e.state.Interface = fmt.Sprintf("%s%d", nw.options.prefix, i)
		if !used[e.state.Interface] {
			break
		}
	}
	used[e.state.Interface] = true
	nw.enlist(e)
	return e, nil
}

func cmpAddr(a, b netip.Addr) netip.Addr {
	if a.IsValid() && !a.Is4() {
		return a
	}
	return b
}

func (n *Networks) addressEndpoint(e *endpoint, er EndpointRequest) error {
	if isCNI(e) {
		return e.wish(er)
	}
	nw, owner := e.network, "container "+e.name
	var err error
	var s Subnet
	gives := nw.rec.IPAMDriver != ipamNull
	if nw.rec.IPv4 && gives {
		if e.state.IPv4, s, err = nw.addrs.take(false, er.IPv4, owner); err != nil {
			return err
		}
		if e.state.Gateway = nw.wayOut(s); nw.options.mode(ip4) == modeIsolated {
			e.state.Gateway = netip.Addr{}
		}
	}
	if nw.rec.IPv6 && gives {
		if e.state.IPv6, s, err = nw.addrs.take(true, er.IPv6, owner); err != nil {
			nw.addrs.give(e.state.IPv4)
			return err
		}
		if e.state.Gateway6 = nw.wayOut(s); nw.options.mode(ip6) == modeIsolated {
			e.state.Gateway6 = netip.Addr{}
		}
	}
	if err := e.chooseMAC(er.MAC); err != nil {
		n.freeAddresses(e)
		return err
	}
	return n.linkLocal(e, er)
}

// freeEndpoint gives the addresses back. Called with mu held.
func (n *Networks) freeEndpoint(e *endpoint) {
	if n.guard != nil {
		n.guard.forget(e.host)
	}
	n.freeAddresses(e)
	e.network.delist(e)
}

func (n *Networks) freeAddresses(e *endpoint) {
	for _, p := range append([]netip.Prefix{e.state.IPv4, e.state.IPv6}, e.state.LinkLocal...) {
		e.network.addrs.give(p)
	}
}

// furnish makes the namespace and everything in it.
func (a *attaching) furnish(ctx context.Context) error {
	err := a.furnishOurs()
	if err != nil || len(a.holding.byPlugins()) == 0 {
		return err
	}
	a.n.mu.Lock()
	err = a.holding.keepLAN(a.ns)
	a.n.mu.Unlock()
	if err != nil {
		return err
	}
	return a.joinAll(ctx)
}

// furnishOurs leaves out what plugins make, and what can be done only after them.
func (a *attaching) furnishOurs() error {
	n := a.n
	if s := n.bare.take(); s != nil {
		a.ns = s.ns
		return n.inNetNS(a.ns, func() error {
			rt, err := openRTNL()
			if err != nil {
				return err
			}
			defer rt.Close()
			return a.furnishInside(rt)
		})
	}
	var err error
	a.ns, err = n.inNewNetNS(func(ns *os.File) error {
		a.ns = ns
		rt, err := openRTNL()
		if err != nil {
			return err
		}
		defer rt.Close()
		if err := setUp(rt); err != nil {
			return err
		}
		return a.furnishInside(rt)
	})
	return err
}

// furnishInside runs on a thread in the namespace.
func (a *attaching) furnishInside(rt *rtnl) error {
	if err := a.plugAll(rt); err != nil {
		return err
	}
	if !a.holding.needsNames() || len(a.holding.byPlugins()) > 0 {
		return nil
	}
	res, err := a.n.startResolver(a.ns, a.r.ContainerID, a.r.DNS, true)
	if err != nil {
		return err
	}
	return a.n.answerBy(a.holding, res) // a new keeper is told of everybody, whoever is on the way
}

// setUp gives a new namespace what each has. It runs inside.
func setUp(rt *rtnl) error {
	// Docker's defaults: without capabilities a program may listen on low ports and send pings.
	if err := setSysctl("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
		return err
	}
	if err := setSysctl("net/ipv4/ping_group_range", "0 2147483647"); err != nil {
		return err
	}
	var r requests
	r.linkUp(loopbackIndex, "")
	if err := rt.send(&r); err != nil {
		return fmt.Errorf("bring up the loopback link: %w", err)
	}
	return nil
}

const loopbackIndex = 1 // the first link of every namespace

func (a *attaching) plugAll(inside *rtnl) error {
	for _, e := range a.holding.endpoints {
		if isCNI(e) {
			continue
		}
		ports := len(a.r.Ports) > 0
		if err := a.n.plug(e, a.ns, inside, e == a.gw4, e == a.gw6, ports); err != nil {
			return err
		}
	}
	return nil
}

// plug makes the pair of links between the network's bridge and the namespace of the calling thread, to which inside
// belongs, and sets the inner one up.
func (n *Networks) plug(e *endpoint, ns *os.File, inside *rtnl, gw4, gw6, hairpin bool) error {
	fail := func(err error) error {
		return fmt.Errorf("connect interface %q to network %q: %w", e.state.Interface, e.network.rec.Name, err)
	}
	// A link takes these over when it is made. IPv6 stays off where the network has none (CVE-2024-32473), and
	// neighbours do not tell a container its routes (CVE-2020-10749).
	v6 := e.state.IPv6.IsValid()
	knob := "net/ipv6/conf/default/accept_ra"
	on, off := "1", "0"
	if !v6 {
		knob, on, off = "net/ipv6/conf/default/disable_ipv6", "0", "1"
	}
	if err := setSysctlIfThere(knob, off); err != nil {
		return fail(err)
	}
	add := n.addPair
	if isLAN(e.network.rec.Driver) {
		add = func(e *endpoint, ns *os.File, _ *rtnl, _ bool) error { return n.addLAN(e, ns) }
	}
	if err := add(e, ns, inside, hairpin); err != nil {
		return fail(err)
	}
	index, err := inside.index(e.state.Interface)
	if err != nil {
		return fail(err)
	}
	for _, s := range e.sysctls {
		if err := s.apply(e.state.Interface); err != nil {
			return fail(err)
		}
	}
	var r requests
	if e.state.IPv4.IsValid() {
		r.address(index, e.state.IPv4)
	}
	if v6 {
		r.address(index, e.state.IPv6)
	}
	for _, p := range e.state.LinkLocal {
		r.address(index, p)
	}
	r.linkUp(index, "")
	if gw4 {
		r.defaultRoute(index, e.gateway(ip4))
	}
	if gw6 {
		r.defaultRoute(index, e.gateway(ip6))
	}
	if err := inside.send(&r); err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			err = failf(errdefs.ErrConflict, "another interface beside link %q has the MAC address %s: %w", e.network.rec.Link, e.state.MAC, err)
		}
		return fail(err)
	}
	// Links that the container itself makes have the kernel's own defaults.
	if err := setSysctlIfThere(knob, on); err != nil {
		return fail(err)
	}
	if err := n.shape(e, e.rates, false); err != nil {
		return fail(err)
	}
	return nil
}

// addPair makes the pair of links between bridge and namespace.
func (n *Networks) addPair(e *endpoint, ns *os.File, inside *rtnl, hairpin bool) error {
	mac, err := net.ParseMAC(e.state.MAC)
	if err != nil {
		return err
	}
	for {
		if err := n.watchLink(e); err != nil {
			return err
		}
		var r requests
		r.add(veth{host: e.host, inner: e.state.Interface, bridge: int(e.network.index.Load()), mtu: int(e.network.mtu.Load()), mac: mac,
			ns: int(ns.Fd()), isolated: n.isolates(e, hairpin), hairpin: hairpin})
		err := n.rt.send(&r)
		if err == nil {
			return nil
		}
		var gone netlink.LinkNotFoundError
		if _, linkErr := n.handle.LinkByIndex(int(e.network.index.Load())); errors.Is(err, unix.EINVAL) && errors.As(linkErr, &gone) {
			err = fmt.Errorf("%w: %w", unix.ENODEV, linkErr)
		}
		if !errors.Is(err, unix.EEXIST) {
			return explainPlug(err)
		}
		if there, lookErr := inside.index(e.state.Interface); lookErr == nil && there > 0 {
			return failf(errdefs.ErrConflict, "the container has an interface of this name already: %w", err)
		}
		if n.guard != nil {
			n.guard.forget(e.host)
		}
		e.identify()
	}
}

func explainPlug(err error) error {
	switch {
	case errors.Is(err, unix.EXFULL):
		return failf(errdefs.ErrResourceExhausted, "the bridge has no port left; the kernel allows 1023: %w", err)
	case errors.Is(err, unix.ENODEV):
		return failf(errdefs.ErrUnavailable, "the network's bridge is gone; try again, it is made anew: %w", err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return failf(errdefs.ErrNotImplemented, "the kernel has no pairs of links (CONFIG_VETH): %w", err)
	}
	return err
}

// checkSysctls refuses what does not belong to a network namespace.
func checkSysctls(sysctls map[string]string) error {
	for key := range sysctls {
		if !strings.HasPrefix(key, "net.") || strings.Contains(key, "..") {
			return failf(errdefs.ErrInvalidArgument, "sysctl %q does not belong to the network", key)
		}
	}
	return nil
}

// applySysctls sets the user's kernel parameters. A name's dots are slashes and its slashes dots, as sysctl(8) has it.
func (n *Networks) applySysctls(ns *os.File, sysctls map[string]string) error {
	if len(sysctls) == 0 {
		return nil
	}
	swap := strings.NewReplacer(".", "/", "/", ".")
	return n.inNetNS(ns, func() error {
		for _, key := range slices.Sorted(maps.Keys(sysctls)) {
			path := swap.Replace(key)
			if strings.Contains(path, "..") || strings.ContainsRune(path, 0) {
				return failf(errdefs.ErrInvalidArgument, "sysctl %q has no meaning", key)
			}
			if err := setSysctl(path, sysctls[key]); err != nil {
				if notSettable(err) {
					return failf(errdefs.ErrInvalidArgument, "sysctl %q cannot be %q in a container: %w", key, sysctls[key], err)
				}
				return err
			}
		}
		return nil
	})
}

// publish reserves the ports and brings them into the rules.
func (a *attaching) publish() error {
	if len(a.r.Ports) == 0 || isCNI(a.holding.outermost()) {
		return a.n.ensureRules()
	}
	return a.n.publish(a.holding, a.r.Name, a.r.Ports, a.gw4, a.gw6)
}

func (n *Networks) publish(h *holding, name string, ports []PortRequest, gw4, gw6 *endpoint) error {
	gw4, gw6 = gw4.bridged(), gw6.bridged()
	target := gw4
	if target == nil {
		target = gw6
	}
	if target == nil {
		return nil // every network is internal: nothing can come in, as with Docker
	}
	fail := func(err error) error {
		return fmt.Errorf("driver failed programming external connectivity on endpoint %s (%s): %w",
			name, target.state.EndpointID, err)
	}
	if !n.filters() {
		return fail(failf(errdefs.ErrInvalidArgument, "ports cannot be published without nftables rules (--iptables=false)"))
	}
	host := n.opts.HostIP
	if text := target.network.options.hostIP; text != "" {
		host, _ = parseIPv4(text) // was checked when the network was made
	}
	if host.Is4() && host.IsUnspecified() { // as with Docker, whose default it is: every address
		host = netip.Addr{}
	}
	var to4, to6 netip.Addr
	if gw4 != nil {
		to4 = gw4.state.IPv4.Addr()
	}
	if gw6 != nil {
		to6 = gw6.state.IPv6.Addr()
	}
	wanted, err := parsePorts(ports, host, ways{v4: to4.IsValid(), v6: to6.IsValid(), relay: n.mayRelay(h, gw4)})
	if err != nil {
		return fail(err)
	}
	for _, w := range n.openRouted(h, wanted, gw4, gw6) {
		if err := n.reservePort(h, w, to4, to6); err != nil {
			return fail(err)
		}
	}
	if err := n.openPorts(h); err != nil {
		return fail(err)
	}
	return nil
}

// reservePort takes a port for the holding.
func (n *Networks) reservePort(h *holding, w wantedPort, to4, to6 netip.Addr) error {
	return n.reservePortFor(h, w, to4, to6, nil)
}

// reservePortFor takes one that the plugins of by, unless that is nil, publish.
func (n *Networks) reservePortFor(h *holding, w wantedPort, to4, to6 netip.Addr, by *endpoint) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.gone {
		return errNotRunning(h.endpoints)
	}
	rs, err := w.reserve(n.portTaken)
	if err != nil {
		return err
	}
	for _, r := range rs {
		to := to4
		if r.host.Addr().Is6() && !w.relayed {
			to = to6
		}
		n.hold(h, heldPort{reservation: r, to: netip.AddrPortFrom(to, w.container), by: by})
	}
	return nil
}

// portIndex is where the book of published ports is opened.
type portIndex struct {
	proto protocol
	port  uint16
}

// hold enters a port into the book. Called with mu held.
func (n *Networks) hold(h *holding, p heldPort) {
	h.ports = append(h.ports, p)
	k := portIndex{p.proto, p.host.Port()}
	n.ports[k] = append(n.ports[k], p.host.Addr())
}

// unhold takes it out again. Called with mu held.
func (n *Networks) unhold(p heldPort) {
	k := portIndex{p.proto, p.host.Port()}
	if i := slices.Index(n.ports[k], p.host.Addr()); i >= 0 {
		n.ports[k] = slices.Delete(n.ports[k], i, i+1)
	}
	if len(n.ports[k]) == 0 {
		delete(n.ports, k)
	}
}

// portTaken reports whether a container of ours has the port. Called with mu held.
func (n *Networks) portTaken(k portKey) bool {
	for _, a := range n.ports[portIndex{k.proto, k.host.Port()}] {
		if k.clash(portKey{k.proto, netip.AddrPortFrom(a, k.host.Port())}) {
			return true
		}
	}
	return false
}

// openPorts makes the kernel translate the holding's ports. The container may end meanwhile.
func (n *Networks) openPorts(h *holding) error {
	n.mu.Lock()
	endpoints, ports := h.endpoints, slices.Clone(h.ports)
	n.mu.Unlock()
	if len(endpoints) == 0 {
		return errNotRunning(endpoints)
	}
	if err := n.applyPorts(endpoints[0].container, nil); err != nil {
		return err
	}
	for _, e := range endpoints {
		if e.bridged() == nil {
			continue
		}
		if !e.network.routesLoopback.Swap(true) {
			if err := n.routeLoopback(e.network); err != nil {
				e.network.routesLoopback.Store(false)
				return err
			}
		}
		if e.host != "" {
			var r requests
			r.portFlags(e.host, n.isolates(e, true), true)
			if err := n.rt.send(&r); err != nil {
				return fmt.Errorf("let link %q turn frames around: %w", e.host, err)
			}
		}
	}
	n.forgetFlows(ports)
	return nil
}

// routeLoopback lets a bridge carry packets between the host's loopback and containers. The guard chain keeps containers from using
// this to reach what listens there.
func (n *Networks) routeLoopback(nw *network) error {
	if err := setSysctl("net/ipv4/conf/"+nw.rec.Link+"/route_localnet", "1"); err != nil {
		return err
	}
	if nw.rec.IPv6 {
		if err := n.acceptLoopback6(int(nw.index.Load())); err != nil {
			return fmt.Errorf("let ports of network %q be used at [::1]: %w", nw.rec.Name, err)
		}
	}
	return nil
}

// acceptLoopback6 lets answers to [::1] come in by a bridge. There is no route_localnet for IPv6; but what comes in by a
// link for ::1 needs only a local route on that link, and what came from the wire with ::1 in it the kernel has dropped
// before our translation put it there (RFC 4291, 2.5.3). Where bridges hand their frames to the rules of IP first
// (br_netfilter) the translation comes before that check, and the kernel drops the answers.
func (n *Networks) acceptLoopback6(link int) error {
	if v, err := readSysctl("net/bridge/bridge-nf-call-ip6tables"); err == nil && v != "0" {
		n.warn("published ports are not reached at [::1], because frames on bridges pass the rules of IPv6 first: set net.bridge.bridge-nf-call-ip6tables=0, or use 127.0.0.1")
	}
	err := n.handle.RouteAdd(&netlink.Route{LinkIndex: link, Dst: netFromPrefix(netip.MustParsePrefix("::1/128")),
		Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Priority: 1024})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// ensureRules writes the rules when no one has yet.
func (n *Networks) ensureRules() error {
	if !n.filters() || n.wall != nil && n.wall.written() || n.legacy != nil && n.legacy.written() {
		return nil
	}
	return n.applyRules()
}

func (a *attaching) undo() {
	if a.ns != nil {
		a.ns.Close()
	}
	a.n.letGo(a.r.ContainerID)
}

func (a *attaching) result() *Attachment {
	at := a.holding.result()
	at.NetNS = a.ns
	return at
}

// result is what the container has. Nobody else may change the holding meanwhile.
func (h *holding) result() *Attachment {
	at := &Attachment{}
	for _, e := range h.endpoints {
		at.Endpoints, at.Search = append(at.Endpoints, e.state), append(at.Search, e.search...)
	}
	if h.resolver != nil {
		at.Resolvers = []string{resolverAddr}
	}
	for _, p := range h.ports {
		at.Ports = append(at.Ports, PublishedPort{Container: p.to.Port(), Proto: p.proto.String(), HostIP: p.host.Addr(),
			HostPort: p.host.Port()})
	}
	return at
}

// Detach gives back the container's addresses and ports. The links and the namespace go by themselves when the last
// process has left it; Detach does not wait for that. A container that has nothing is not an error.
func (n *Networks) Detach(ctx context.Context, containerID string) error {
	return n.letGo(containerID)
}

func (n *Networks) letGo(id string) error {
	n.mu.Lock()
	delete(n.troubles, id)
	h := n.held[id]
	if h == nil {
		n.mu.Unlock()
		return nil
	}
	delete(n.held, id)
	h.gone = true // a Connect under way sees it and takes back what it did
	had := &holding{endpoints: h.endpoints, ports: h.ports, resolver: h.resolver, lan: h.lan, peers: h.peers}
	h.endpoints, h.ports, h.resolver, h.lan, h.peers = nil, nil, nil, nil, nil
	n.tell(id)
	n.mu.Unlock()
	err := errors.Join(n.dropPlugins(had), n.closePorts(id, had.ports, true), n.dropLAN(had))
	had.resolver.close() // its sockets are the last that keep the namespace
	err = errors.Join(err, n.letOut(had.endpoints), n.linkPeers(id, had, had.endpoints))
	n.mu.Lock()
	for _, e := range had.endpoints {
		n.freeEndpoint(e)
		if !isLAN(e.network.rec.Driver) && !isCNI(e) && e.host != "" {
			n.leaving = append(n.leaving, e.host)
		}
	}
	if len(n.leaving) > 0 && n.leave == nil && !n.shut {
		n.leave = time.AfterFunc(leaveTime, n.leaveBehind)
	}
	n.mu.Unlock()
	n.warm.resume()
	return err
}

// leaveTime is how long a container's links have to go with its namespace, which costs nobody anything, before they are
// removed one by one: somebody else may be in that namespace, with addresses that are no longer his.
const leaveTime = time.Second

// leaveBehind is what the timer of letGo does.
func (n *Networks) leaveBehind() {
	if !n.begin() {
		return
	}
	defer n.work.Done()
	n.clearAway()
}

// clearAway removes the links of containers that have ended where their namespaces have not ended with them.
func (n *Networks) clearAway() {
	n.mu.Lock()
	names := n.leaving
	n.leaving = nil
	if n.leave != nil {
		n.leave.Stop()
		n.leave = nil
	}
	n.mu.Unlock()
	for _, name := range names {
		var r requests
		r.removeLink(name)
		if err := n.rt.send(&r); err != nil && !errors.Is(err, unix.ENODEV) {
			n.log.Error("remove the link of a container that has ended", "link", name, "error", err)
		}
	}
	if n.guard != nil {
		if err := n.guard.sweep(); err != nil {
			n.log.Error("take links of containers that have ended out of the rules", "error", err)
		}
	}
}

// closePorts makes the kernel, and the keeper, forget ports that are in no holding any more. whole says that the
// container has nothing else either.
func (n *Networks) closePorts(id string, ports []heldPort, whole bool) error {
	if len(ports) == 0 {
		if whole {
			n.keeper.drop(id)
		}
		return nil
	}
	// The rules go before the sockets: who takes the port next must not be translated to us.
	err := n.applyPorts(id, ports)
	var kept []string
	for _, p := range ports {
		if !whole {
			kept = append(kept, keptPort(p.proto, p.host))
		}
	}
	n.keeper.drop(id, kept...)
	for _, p := range ports {
		n.here.stop(p.fd)
		p.close()
	}
	n.forgetFlows(ports)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range ports {
		n.unhold(p)
	}
	return err
}

// forgetFlows makes the kernel forget what it knows of connections through UDP ports: they have no end of their own, and
// would go on to where they went before.
func (n *Networks) forgetFlows(ports []heldPort) {
	filters := map[family][]netlink.CustomConntrackFilter{}
	for _, p := range ports {
		if p.proto != unix.IPPROTO_UDP || p.relayed() {
			continue
		}
		f := &netlink.ConntrackFilter{}
		if f.AddProtocol(unix.IPPROTO_UDP) == nil && f.AddPort(netlink.ConntrackOrigDstPort, p.host.Port()) == nil {
			filters[familyOf(p.to.Addr())] = append(filters[familyOf(p.to.Addr())], f)
		}
	}
	n.mu.Lock()
	shut := n.shut
	if len(filters) > 0 && !shut {
		n.work.Add(1)
	}
	n.mu.Unlock()
	if len(filters) == 0 || shut {
		return
	}
	go func() {
		defer n.work.Done()
		for f, fs := range filters {
			if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f), fs...); err != nil {
				n.log.Warn("forget flows of published UDP ports", "error", err)
			}
		}
	}()
}

// makeBare makes a namespace with a loopback only.
func (n *Networks) makeBare() (*spare, error) {
	ns, err := n.inNewNetNS(func(*os.File) error {
		rt, err := openRTNL()
		if err != nil {
			return err
		}
		defer rt.Close()
		return setUp(rt)
	})
	if err != nil {
		return nil, err
	}
	return &spare{ns: ns}, nil
}

// makeWarm makes a namespace on the default network.
func (n *Networks) makeWarm() (*spare, error) {
	n.mu.Lock()
	if n.shut {
		n.mu.Unlock()
		return nil, failf(errdefs.ErrUnavailable, "the networks are closed")
	}
	e, err := n.newEndpoint(EndpointRequest{Network: defaultName}, AttachRequest{Name: "(to come)"}, map[string]bool{})
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	a := &attaching{n: n, holding: &holding{endpoints: []*endpoint{e}}}
	a.gw4, a.gw6 = a.holding.gateways()
	if a.ns, err = n.inNewNetNS(func(ns *os.File) error {
		a.ns = ns
		rt, err := openRTNL()
		if err != nil {
			return err
		}
		defer rt.Close()
		if err := setUp(rt); err != nil {
			return err
		}
		return a.plugAll(rt)
	}); err != nil {
		n.mu.Lock()
		n.freeEndpoint(e)
		n.mu.Unlock()
		return nil, err
	}
	return &spare{ns: a.ns, ep: e}, nil
}

func (n *Networks) dropWarm(s *spare) {
	s.ns.Close()
	if s.ep != nil {
		n.mu.Lock()
		n.freeEndpoint(s.ep)
		n.mu.Unlock()
	}
}
