package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/cni"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Networks of the driver cni are what a CNI configuration of the host's makes of them: its plugins make the interface, give
// the address, and publish ports where one of them has the capability. Ours are the namespace, the names, and the host ports'
// sockets. Package cni runs the plugins and remembers for whom; here is what they do checked against the namespace.
//
//	conf=NAME    the configuration's name; without it the network's
//	gc=true      the plugins may free what no container of ours has: nobody else uses the configuration
const driverCNI = "cni"

// cniOptions are such a network's options, read.
type cniOptions struct {
	conf string
	gc   bool
}

func parseCNIOptions(name string, options map[string]string) (o cniOptions, err error) {
	o.conf = name
	for _, key := range slices.Sorted(maps.Keys(options)) {
		switch value := options[key]; key {
		case "conf":
			if o.conf = value; value == "" {
				err = errors.New("it is the name of a CNI configuration")
			}
		case "gc":
			o.gc, err = strconv.ParseBool(value)
		default:
			return o, failf(errdefs.ErrInvalidArgument, "unknown option %q of a network of the driver %q", key, driverCNI)
		}
		if err != nil {
			return o, failf(errdefs.ErrInvalidArgument, "invalid value %q of option %q: %w", options[key], key, err)
		}
	}
	return o, nil
}

// checkCNI refuses what the configuration decides.
func checkCNI(r CreateRequest) error {
	for what, asked := range map[string]bool{"a subnet": len(r.Subnets) > 0, "an IPAM driver": r.IPAMDriver != "" && r.IPAMDriver != "default",
		"--internal": r.Internal, "--ipv6": r.IPv6 != nil && *r.IPv6, "--ipv4=false": r.IPv4 != nil && !*r.IPv4} {
		if asked {
			return failf(errdefs.ErrInvalidArgument, "a network of the driver %q takes no %s: its CNI configuration decides that",
				driverCNI, strings.TrimPrefix(strings.TrimPrefix(what, "a "), "an "))
		}
	}
	return nil
}

// openCNI makes ready what runs plugins. What an earlier daemon's containers had is looked at in Retain.
func (n *Networks) openCNI() (err error) {
	n.plugins, err = cni.Open(cni.Options{ConfDir: n.opts.CNIConfDir, BinDirs: n.opts.CNIBinDirs, Timeout: n.opts.CNITimeout,
		StateDir: filepath.Join(n.opts.DataRoot, "networks", "cni")})
	n.swept = make(chan struct{})
	return err
}

// tryCNI asks whether a new network's configuration is one, and its plugins are there.
func (n *Networks) tryCNI(ctx context.Context, nw *network) error {
	_, err := n.plugins.Validate(ctx, nw.cni.conf)
	return err
}

func isCNI(e *endpoint) bool { return e != nil && e.network.rec.Driver == driverCNI }

// leads reports whether packets to elsewhere can go by the endpoint: where plugins made it, they say.
func (e *endpoint) leads(f family) bool { return !isCNI(e) || e.gateway(f).IsValid() }

// byPlugins are the endpoints that plugins make.
func (h *holding) byPlugins() []*endpoint {
	return slices.DeleteFunc(slices.Clone(h.endpoints), func(e *endpoint) bool { return !isCNI(e) })
}

// outermost is the endpoint ports are published by, as far as can be said before plugins gave their addresses.
func (h *holding) outermost() *endpoint {
	var first *endpoint
	for _, e := range h.endpoints {
		if !e.network.rec.Internal && (first == nil || e.state.GwPriority > first.state.GwPriority) {
			first = e
		}
	}
	return first
}

// join has the plugins make the endpoint's interface. It must not run on a thread in another namespace, which the plugins
// would inherit. ports are to be published by it.
func (n *Networks) join(ctx context.Context, h *holding, e *endpoint, ns *os.File, ports []PortRequest) error {
	fail := func(err error) error {
		return fmt.Errorf("connect interface %q to network %q: %w", e.state.Interface, e.network.rec.Name, err)
	}
	select {
	case <-n.swept: // what dead containers had is cleaned up, such as translations of the same ports
	case <-ctx.Done():
		return ctx.Err()
	}
	c, err := n.plugins.Config(e.network.cni.conf)
	if err != nil {
		return fail(err)
	}
	a := cni.Attachment{ID: e.state.EndpointID, Network: e.network.rec.ID, Config: c.Name, Container: e.container,
		Interface: e.state.Interface, Aliases: e.called(), MAC: e.state.MAC,
		Rates: cni.Rates{Receive: e.rates.receive, Send: e.rates.send}}
	for _, p := range []netip.Prefix{e.state.IPv4, e.state.IPv6} {
		if p.IsValid() {
			a.IPs = append(a.IPs, p.Addr())
		}
	}
	if len(ports) > 0 && !c.Capable(cni.PortMappings) {
		return fail(c.Check(cni.Attachment{Ports: []cni.Port{{}}}))
	}
	if len(ports) > 0 && n.opts.RespectFirewall {
		return fail(failf(errdefs.ErrFailedPrecondition, "ports are published by the plugins' own rules, which do not ask the host's firewall, and the "+
			"daemon's publish-policy is respect-host-firewall: publish them by a bridge network with a higher gw-priority, or set the policy to open"))
	}
	if a.Ports, err = n.portsForPlugins(h, e, ports); err != nil {
		return fail(err)
	}
	n.mu.Lock()
	name, err := n.nameFor(a.ID, h.lan)
	n.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	var r cni.Result
	err = n.quietly(ns, func() error {
		r, err = n.plugins.Add(ctx, c, a, name)
		return err
	})
	if err == nil {
		if err = n.believe(e, r, ns); err != nil {
			err = errors.Join(err, n.part(e, ns))
		}
	}
	if err != nil {
		return fail(errors.Join(err, n.sweepInterface(e, ns)))
	}
	return nil
}

// nameFor makes a name of the namespace for the plugins of an endpoint, "" where it is gone. They compare it with the one they
// were told before, and some keep it: so it is the same as long as the endpoint lives, a link to wherever the namespace is
// open now, which ns must be as long.
func (n *Networks) nameFor(endpointID string, ns *os.File) (string, error) {
	if ns == nil {
		return "", nil
	}
	path := n.nameAt(endpointID)
	err := os.MkdirAll(filepath.Dir(path), 0o700)
	if err == nil {
		if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd()), path)
	}
	if err != nil {
		return "", fmt.Errorf("name the container's namespace for plugins: %w", err)
	}
	return path, nil
}

func (n *Networks) nameAt(endpointID string) string {
	return filepath.Join(n.opts.RunDir, "cni", endpointID)
}

// quietly runs fn, during which links that appear in the namespace hear no router advertisements (CVE-2020-10749).
func (n *Networks) quietly(ns *os.File, fn func() error) error {
	const knob = "net/ipv6/conf/default/accept_ra"
	var restore func() error
	if err := n.inNetNS(ns, func() error {
		restore = keepSysctls(knob)
		return setSysctlIfThere(knob, "0")
	}); err != nil {
		return err
	}
	return errors.Join(fn(), n.inNetNS(ns, func() error { return restore() }))
}

// portsForPlugins takes the host's ports for the container. Nobody else gets them; the plugins are told the numbers.
func (n *Networks) portsForPlugins(h *holding, e *endpoint, ports []PortRequest) ([]cni.Port, error) {
	wanted, err := parsePorts(ports, n.opts.HostIP, ways{v4: true, v6: slices.ContainsFunc(ports, func(p PortRequest) bool {
		return strings.Contains(p.HostIP, ":")
	})})
	if err != nil {
		return nil, err
	}
	for _, w := range wanted {
		if err := n.reservePortFor(h, w, netip.IPv4Unspecified(), netip.IPv6Unspecified(), e); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []cni.Port
	for _, p := range h.ports {
		if p.by != e {
			continue
		}
		q := cni.Port{HostPort: p.host.Port(), ContainerPort: p.to.Port(), Protocol: p.proto.String()}
		if !p.host.Addr().IsUnspecified() {
			q.HostIP = p.host.Addr().String()
		}
		list = append(list, q)
	}
	return list, nil
}

// believe takes over what the plugins say they made, if it is so.
func (n *Networks) believe(e *endpoint, r cni.Result, ns *os.File) error {
	var mac string
	var mtu int
	err := n.inNetNS(ns, func() error {
		l, err := netlink.LinkByName(e.state.Interface)
		if err != nil {
			return fmt.Errorf("the plugins say they made interface %q, and the container has none: %w", e.state.Interface, err)
		}
		mac, mtu = l.Attrs().HardwareAddr.String(), l.Attrs().MTU
		have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("list the addresses of interface %q: %w", e.state.Interface, err)
		}
		for _, p := range []netip.Prefix{r.IPv4, r.IPv6} {
			if p.IsValid() && !slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixFromNet(a.IPNet).Addr() == p.Addr() }) {
				return fmt.Errorf("the plugins say they gave interface %q the address %s, which it does not have", e.state.Interface, p)
			}
		}
		if !r.IPv6.IsValid() { // (CVE-2024-32473)
			if err := setSysctlIfThere("net/ipv6/conf/"+e.state.Interface+"/disable_ipv6", "1"); err != nil {
				return err
			}
		}
		for _, s := range e.sysctls {
			if err := s.apply(e.state.Interface); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.strange(e, r); err != nil {
		return err
	}
	e.network.delist(e)
	e.state.IPv4, e.state.IPv6, e.state.Gateway, e.state.Gateway6, e.state.MAC = r.IPv4, r.IPv6, r.Gateway, r.Gateway6, mac
	e.servers, e.search, e.mtu = r.Nameservers, r.Search, mtu
	e.network.enlist(e)
	n.place(e, e.container)
	n.tell(e.container)
	return nil
}

// strange says what is wrong with addresses that plugins gave: somebody else has them. Called with mu held.
func (n *Networks) strange(e *endpoint, r cni.Result) error {
	for _, p := range []netip.Prefix{r.IPv4, r.IPv6} {
		if !p.IsValid() {
			continue
		}
		for _, nw := range n.networks {
			for _, s := range nw.rec.Subnets {
				if !nw.rec.ConfigOnly && s.Prefix.Contains(p.Addr()) {
					return failf(errdefs.ErrConflict, "the plugins gave the address %s, which is in the subnet %s of network %q",
						p.Addr(), s.Prefix, nw.rec.Name)
				}
			}
		}
		for o := range e.network.endpoints {
			if o != e && (o.state.IPv4.Addr() == p.Addr() || o.state.IPv6.Addr() == p.Addr()) {
				return failf(errdefs.ErrConflict, "the plugins gave the address %s, which container %q has", p.Addr(), o.name)
			}
		}
	}
	return nil
}

// place makes the ports that plugins publish show where they lead. Called with mu held.
func (n *Networks) place(e *endpoint, container string) {
	h := n.held[container]
	if h == nil {
		return
	}
	ports := slices.Clone(h.ports)
	for i, p := range ports {
		if p.by != e {
			continue
		}
		to := e.state.IPv4.Addr()
		if p.host.Addr().Is6() || !to.IsValid() {
			to = e.state.IPv6.Addr()
		}
		ports[i].to = netip.AddrPortFrom(to, p.to.Port())
	}
	h.ports = ports
}

// part has the plugins take back what they made. Where they fail it is tried again when the daemon starts. It finishes by
// the plugins' deadline.
func (n *Networks) part(e *endpoint, ns *os.File) error {
	name, err := n.nameFor(e.state.EndpointID, ns)
	if err == nil {
		err = n.plugins.Del(context.Background(), e.state.EndpointID, name)
	}
	if removed := os.Remove(n.nameAt(e.state.EndpointID)); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return fmt.Errorf("disconnect interface %q from network %q: %w", e.state.Interface, e.network.rec.Name, err)
	}
	return nil
}

// sweepInterface deletes an interface that plugins made and left behind.
func (n *Networks) sweepInterface(e *endpoint, ns *os.File) error {
	return n.inNetNS(ns, func() error {
		l, err := netlink.LinkByName(e.state.Interface)
		if err != nil {
			return nil //nolint:nilerr // there is none
		}
		if err = netlink.LinkDel(l); errors.Is(err, unix.ENODEV) {
			err = nil
		}
		return err
	})
}

// joinAll has the plugins make the endpoints that are theirs, and then settles the default routes and the name server.
func (a *attaching) joinAll(ctx context.Context) error {
	n, outermost := a.n, a.holding.outermost()
	for _, e := range a.holding.byPlugins() {
		var ports []PortRequest
		if e == outermost {
			ports = a.r.Ports
		}
		if err := n.join(ctx, a.holding, e, a.ns, ports); err != nil {
			return err
		}
	}
	n.mu.Lock()
	a.gw4, a.gw6 = a.holding.gateways()
	n.mu.Unlock()
	if len(a.holding.endpoints) > 1 { // plugins made the routes of their own
		if err := n.setRoutes(a.ns, a.gw4, a.gw6); err != nil {
			return err
		}
	}
	return n.nameServer(a.holding, a.r.ContainerID, a.ns, a.holding.servers(a.r.DNS))
}

// servers are the name servers to ask: the user's, or those that plugins named.
func (h *holding) servers(chosen []string) []string {
	if len(chosen) > 0 {
		return chosen
	}
	var texts []string
	for _, e := range h.endpoints {
		for _, s := range e.servers {
			texts = append(texts, s.String())
		}
	}
	return texts
}

// retainPlugins gives an endpoint that lives what the daemon before it knew. Called with mu held.
func (n *Networks) retainPlugins(h *holding, e *endpoint, k cni.Known) {
	e.rates = rates{k.Rates.Receive, k.Rates.Send}
	if k.Result != nil {
		e.servers, e.search, e.mtu = k.Result.Nameservers, k.Result.Search, k.Result.MTU
	}
	for _, p := range k.Ports {
		host, _ := netip.ParseAddr(p.HostIP)
		if !host.IsValid() {
			host = netip.IPv4Unspecified()
		}
		h.byPlugin = append(h.byPlugin, pluginPort{e, p.Protocol, netip.AddrPortFrom(host, p.HostPort)})
	}
}

// pluginPort is one that Retain is told about and that plugins publish.
type pluginPort struct {
	by    *endpoint
	proto string
	host  netip.AddrPort
}

// publisher is the endpoint whose plugins publish a port, or nil. Called with mu held.
func (h *holding) publisher(p PublishedPort) *endpoint {
	for _, q := range h.byPlugin {
		if q.proto == p.Proto && q.host == netip.AddrPortFrom(p.HostIP, p.HostPort) {
			return q.by
		}
	}
	return nil
}

// sweepPlugins has the plugins clean up after containers that are gone, and asks them whether what they made for the
// others is still there. Nothing waits for it but the next container on such a network.
func (n *Networks) sweepPlugins(known map[string]cni.Known) {
	n.mu.Lock()
	live := map[string]*os.File{}
	for _, h := range n.held {
		for _, e := range h.byPlugins() {
			live[e.state.EndpointID] = h.lan
		}
	}
	n.work.Add(1)
	n.mu.Unlock()
	go func() {
		defer n.work.Done()
		late := map[string]bool{} // configurations whose plugins let us wait; nobody waits for them twice
		for id, k := range known {
			if _, ok := live[id]; ok || late[k.Config] {
				continue
			}
			_ = os.Remove(n.nameAt(id)) // there is none after a reboot
			if err := n.plugins.Del(context.Background(), id, ""); err != nil {
				late[k.Config] = errors.Is(err, context.DeadlineExceeded)
				n.warn("what CNI configuration %q gave container %.12s is not cleaned up: %s", k.Config, k.Container, err)
			}
		}
		n.collectPlugins(known, live)
		close(n.swept)
		for id := range live {
			n.checkPlugins(id, known[id])
		}
	}()
}

// checkPlugins says in the log where what plugins made is not what it was.
func (n *Networks) checkPlugins(id string, k cni.Known) {
	n.mu.Lock()
	var name string
	var err error
	if h := n.held[k.Container]; h != nil {
		name, err = n.nameFor(id, h.lan)
	}
	n.mu.Unlock()
	if err == nil && name == "" {
		return // it has ended meanwhile
	}
	if err == nil {
		err = n.plugins.Check(context.Background(), id, name)
	}
	if err != nil {
		n.mu.Lock()
		there := n.held[k.Container] != nil
		n.mu.Unlock()
		if there {
			// Not among Warnings: portmap 1.1, which Debian 12 has, says so of every container with a published port and no IPv6.
			n.log.Warn("the plugins do not find all that they made for a container", "container", k.Container, "error", err)
		}
	}
}

// collectPlugins tells plugins whom there is, for networks that ask for it.
func (n *Networks) collectPlugins(known map[string]cni.Known, live map[string]*os.File) {
	n.mu.Lock()
	configs := map[string]bool{}
	for _, nw := range n.networks {
		if nw.cni.gc && nw.broken == nil {
			configs[nw.cni.conf] = true
		}
	}
	n.mu.Unlock()
	for conf := range configs {
		var valid []cni.Attachment
		for id, k := range known {
			if _, ok := live[id]; ok && k.Config == conf {
				valid = append(valid, k.Attachment)
			}
		}
		c, err := n.plugins.Config(conf)
		if err == nil {
			err = n.plugins.GC(context.Background(), c, valid)
		}
		if err != nil {
			n.warn("the plugins of CNI configuration %q were not told which containers there are: %s", conf, err)
		}
	}
}

// knownToPlugins are the attachments that plugins made and have not cleaned up, by endpoint ID.
func (n *Networks) knownToPlugins() map[string]cni.Known {
	all, damaged := n.plugins.List()
	for _, err := range damaged {
		n.warn("what a CNI configuration gave a container cannot be cleaned up: %s", err)
	}
	known := map[string]cni.Known{}
	for _, k := range all {
		known[k.ID] = k
	}
	return known
}

// joinMore is plugMore for an endpoint that plugins make.
func (n *Networks) joinMore(ctx context.Context, r ConnectRequest, h *holding, e *endpoint) (res *resolver, err error) {
	n.mu.Lock()
	needs, published := h.resolver == nil, len(h.ports) > 0
	var ports []PortRequest
	with := &holding{endpoints: append(slices.Clone(h.endpoints), e)}
	if !published && with.outermost() == e {
		ports = r.Ports
	}
	err = h.keepNetNS(r.NetNS)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := n.join(ctx, h, e, r.NetNS, ports); err != nil {
		return nil, err
	}
	if !needs {
		return nil, nil
	}
	err = n.inNetNS(r.NetNS, func() error {
		res, err = n.startResolver(r.NetNS, r.ContainerID, with.servers(r.DNS), true)
		return err
	})
	return res, err
}

// portsBy takes those ports out of the holding that the endpoint's plugins published.
func (n *Networks) portsBy(h *holding, e *endpoint) []heldPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	var gone, kept []heldPort
	for _, p := range h.ports {
		if p.by == e {
			gone = append(gone, p)
		} else {
			kept = append(kept, p)
		}
	}
	if len(gone) > 0 {
		h.ports = kept
	}
	return gone
}

// dropPlugins has the plugins clean up after a container that has ended.
func (n *Networks) dropPlugins(h *holding) error {
	var errs []error
	for _, e := range h.byPlugins() {
		errs = append(errs, n.part(e, h.lan))
	}
	return errors.Join(errs...)
}

// wish notes what was asked for; the plugins say later what they give. Called with mu held.
func (e *endpoint) wish(er EndpointRequest) error {
	if len(er.LinkLocal) > 0 {
		return failf(errdefs.ErrInvalidArgument, "network %q gives no link-local addresses that were asked for: its CNI configuration decides", e.network.rec.Name)
	}
	for _, w := range []struct {
		addr netip.Addr
		to   *netip.Prefix
	}{{er.IPv4, &e.state.IPv4}, {er.IPv6, &e.state.IPv6}} {
		if w.addr.IsValid() {
			*w.to = netip.PrefixFrom(w.addr, w.addr.BitLen())
		}
	}
	e.host = ""
	return e.chooseMAC(er.MAC)
}
