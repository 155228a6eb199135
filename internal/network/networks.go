package network

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-engine/berth/internal/cni"
	"github.com/berth-engine/berth/internal/dns"
	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Networks are the networks of one daemon. All methods may be called at once.
type Networks struct {
	opts   Options
	log    *slog.Logger
	hostNS *os.File
	rt     *rtnl           // the start path
	handle *netlink.Handle // everything else
	wall   *firewall       // nil without IPTables
	guard  *guard          // nil without IPTables
	legacy *legacy         // in the place of wall, guard and exits where the kernel has no nftables
	exits  *exits          // nil without IPTables
	// changes is open while others' changes of the rules are watched, from Retain on.
	changes *os.File
	links   *os.File // the same of links
	warm    *pool    // namespaces on the default network
	bare    *pool    // namespaces with a loopback only
	table   dns.Table
	plugins *cni.Host     // those of CNI configurations
	swept   chan struct{} // closed when plugins have cleaned up after containers that are gone
	keeper  *keeper
	here    relays // while there is no keeper
	gate    gate
	// noTables is why the kernel takes no nftables rules; nil where it does.
	noTables error

	// changing is held, by sending, while a network is made or removed.
	changing chan struct{}
	work     sync.WaitGroup // what runs on after an answer
	// proxying is held while it is settled which addresses the host answers for; below mu.
	proxying sync.Mutex

	mu       sync.Mutex
	shut     bool
	closed   map[family][]string // see policy.closed
	docker   map[family][]string // links of Docker's networks, as of the last look
	networks map[string]*network // by ID
	held     map[string]*holding // by container ID
	ports    map[portIndex][]netip.Addr
	warnings []string
	troubles map[string][]string // the same of containers that outlived a daemon, by ID
	walls    []string            // warnings about other firewalls, as of the last look
	// found are the links that were there when we came and have a name like ours, with the network whose bridge they
	// are on, nil where they are on none. It is nil after Retain.
	found map[string]*network
	// leaving are the links on our side of containers that have ended, and leave the timer that looks after them.
	leaving []string
	leave   *time.Timer
}

// network is a record with what is true of it now. The fields below rec are guarded by Networks.mu once Open is done,
// except those that never change.
type network struct {
	rec     record
	options bridgeOptions
	lan     lanOptions // of macvlan and ipvlan
	cni     cniOptions
	mac     net.HardwareAddr // of the bridge, or of the parent, where containers may have the same
	index   atomic.Int64     // of the bridge or parent
	foreign bool             // the bridge is the administrator's
	direct  bool             // published ports are reached at the containers' own addresses, too
	wantMTU int
	mtu     atomic.Int64
	broken  error // why it cannot be used
	lost    error // the same, where that may pass: somebody took its link away
	// routesLoopback: the bridge carries packets from the host's loopback.
	routesLoopback atomic.Bool

	addrs     *addresses
	endpoints map[*endpoint]struct{}
	macs      map[string]*endpoint
	busy      int // attachments under way
	removing  bool
}

// endpoint is one interface of a container, or of a namespace that waits for one (then container is "").
type endpoint struct {
	state     EndpointState
	network   *network
	container string
	name      string
	hostname  string // "": none
	host      string // the link on our side
	sysctls   []sysctl
	rates     rates
	egress    *egress      // where the container may go by it; nil is everywhere
	leaving   bool         // it has no policy any more, and soon no address
	servers   []netip.Addr // that its plugins named
	search    []string
	mtu       int  // of what plugins made; 0: unknown
	trusted   bool // may speak for others
}

// identify gives the endpoint an ID, and from it its link on our side a name: by that a daemon knows the links of its
// containers from those that one before it was killed over.
func (e *endpoint) identify() {
	e.state.EndpointID = newID()
	e.host = hostLink(e.state.EndpointID)
}

func hostLink(endpointID string) string { return "veth" + endpointID[:min(7, len(endpointID))] }

// holding is what a container has. Networks.mu guards its fields.
type holding struct {
	endpoints []*endpoint
	ports     []heldPort
	resolver  *resolver    // nil without a network of the users'
	lan       *os.File     // the namespace, where Detach has links to delete in it, or plugins have
	byPlugin  []pluginPort // for Retain
	gone      bool         // it has been let go of
	peers     []Peer       // that it has links to
}

type heldPort struct {
	*reservation
	to netip.AddrPort
	by *endpoint // whose plugins publish it; nil: our rules do
}

// Open reads the networks, makes their bridges again where they are gone, and turns forwarding on. No container can be
// attached to a network before Retain has said who is there already. Cancelling ctx has no effect.
func Open(ctx context.Context, o Options) (*Networks, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	n := &Networks{opts: o, log: o.Log, changing: make(chan struct{}, 1), networks: map[string]*network{},
		held: map[string]*holding{}, ports: map[portIndex][]netip.Addr{},
		closed: map[family][]string{}, keeper: newKeeper(o.Keeper, o.RunDir, o.Log)}
	n.keeper.again = n.keepAll
	ok := false
	defer func() {
		if !ok {
			n.release()
		}
	}()
	if err := os.MkdirAll(o.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	var err error
	if n.hostNS, err = os.Open("/proc/self/ns/net"); err != nil {
		return nil, fmt.Errorf("open the host's network namespace: %w", err)
	}
	if n.rt, err = openRTNL(); err != nil {
		return nil, err
	}
	if n.handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	if err := n.openCNI(); err != nil {
		return nil, err
	}
	n.noTables = probeNFTables()
	switch {
	case o.IPTables && (o.Firewall == FirewallIPTables || o.Firewall == FirewallAuto && n.noTables != nil):
		if err := n.openRulesLegacy(); err != nil {
			return nil, errors.Join(n.noTables, err)
		}
		if n.noTables == nil {
			n.noTables = errors.New("the daemon was told to use iptables")
		}
	case o.IPTables:
		if n.noTables != nil {
			return nil, n.noTables
		}
		n.leaveLegacy()
		if n.wall, err = openFirewall(); err != nil {
			return nil, err
		}
		if n.guard, err = openGuard(n.tableName()); err != nil {
			return nil, err
		}
		if n.exits, err = openExits(n.tableName(), o.OnRefused); err != nil {
			return nil, err
		}
	}
	if err := n.enableForwarding(ip4); err != nil {
		return nil, err
	}
	records, err := n.load()
	if err != nil {
		return nil, err
	}
	if err := n.openAll(records); err != nil {
		return nil, err
	}
	if err := n.openGate(); err != nil {
		return nil, err
	}
	if err := n.findLinks(); err != nil {
		return nil, err
	}
	n.warm = newPool(max(o.Warm, 0), n.makeWarm, n.dropWarm)
	n.bare = newPool(min(max(o.Warm, 0), 1), n.makeBare, n.dropWarm)
	ok = true
	return n, nil
}

// openAll brings up what the records say, and what is always there. The default network must come up; a network of the
// user's that cannot is reported, and an error to whoever uses it.
func (n *Networks) openAll(records []*record) error {
	slices.SortFunc(records, func(a, b *record) int { return a.Created.Compare(b.Created) })
	for _, name := range []string{noneName, hostName} {
		driver := map[string]string{noneName: driverNull, hostName: driverHost}[name]
		rec := find(records, name)
		if rec == nil {
			rec = &record{ID: newID(), Name: name, Driver: driver, Created: time.Now().UTC()}
			if err := n.save(rec); err != nil {
				return err
			}
		}
		n.networks[rec.ID] = plainNetwork(*rec)
	}
	for _, rec := range records {
		if rec.ConfigOnly {
			n.networks[rec.ID] = plainNetwork(*rec)
		}
		if !joins(rec.Driver) || rec.Name == defaultName {
			continue
		}
		nw, err := n.newNetwork(*rec)
		if err == nil && nw.rec.IPv6 && rec.Driver == driverBridge {
			err = n.enableForwarding(ip6)
		}
		if err == nil {
			err = n.ensureBridge(nw, false)
		}
		if err != nil {
			nw.broken = err
			n.warn("network %q cannot be used: %s", rec.Name, err)
		}
		n.networks[rec.ID] = nw
	}
	if n.opts.Bridge == NoBridge {
		return nil
	}
	return n.openDefault(find(records, defaultName))
}

// plainNetwork is one without a link of its own.
func plainNetwork(rec record) *network {
	return &network{rec: rec, addrs: newAddresses(nil), endpoints: map[*endpoint]struct{}{}, macs: map[string]*endpoint{}}
}

func find(records []*record, name string) *record {
	i := slices.IndexFunc(records, func(r *record) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	return records[i]
}

func (n *Networks) newNetwork(rec record) (*network, error) {
	if rec.Driver == driverCNI {
		o, err := parseCNIOptions(rec.Name, rec.Options)
		nw := plainNetwork(rec)
		nw.cni, nw.options.prefix = o, "eth"
		return nw, err
	}
	if isLAN(rec.Driver) {
		o, err := parseLANOptions(rec.Driver, rec.Options)
		nw := plainNetwork(rec)
		nw.lan, nw.addrs, nw.options.prefix, nw.wantMTU = o, newAddresses(rec.Subnets), "eth", n.defaultMTU()
		return nw, err
	}
	o, err := parseBridgeOptions(rec.Options)
	nw := &network{rec: rec, options: o, addrs: newAddresses(rec.Subnets), endpoints: map[*endpoint]struct{}{},
		macs: map[string]*endpoint{}}
	nw.direct = n.opts.DirectRouting && !rec.Internal
	nw.wantMTU = cmp.Or(o.mtu, n.opts.MTU)
	if nw.wantMTU == 0 {
		nw.wantMTU = n.defaultMTU()
	}
	if err == nil && rec.IPv6 && nw.wantMTU < minMTU6 {
		err = failf(errdefs.ErrInvalidArgument, "the MTU %d of network %q is too small for IPv6, which needs %d", nw.wantMTU, rec.Name, minMTU6)
	}
	return nw, err
}

// openDefault makes the default network agree with the options, which may have changed since it was saved.
func (n *Networks) openDefault(old *record) error {
	rec := record{ID: newID(), Name: defaultName, Driver: driverBridge, Created: time.Now().UTC(), IPv4: true,
		IPv6: n.opts.IPv6, Link: n.opts.Bridge}
	if rec.IPv6 {
		if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
			return failf(errdefs.ErrNotImplemented, "the default network cannot have IPv6: it is disabled in the kernel")
		}
		if err := n.enableForwarding(ip6); err != nil {
			return err
		}
	}
	if old != nil {
		rec.ID, rec.Created = old.ID, old.Created
		if old.Link == n.opts.Bridge {
			rec.Subnets = old.Subnets
		}
	}
	rec.Options = map[string]string{
		"com.docker.network.bridge.name":                 n.opts.Bridge,
		"com.docker.network.bridge.default_bridge":       "true",
		"com.docker.network.bridge.enable_icc":           fmt.Sprint(n.opts.ICC),
		"com.docker.network.bridge.enable_ip_masquerade": fmt.Sprint(n.opts.IPMasq),
	}
	if n.opts.HostIP.IsValid() && n.opts.HostIP.Is4() {
		rec.Options["com.docker.network.bridge.host_binding_ipv4"] = n.opts.HostIP.String()
	}
	var err error
	if rec.Subnets, err = n.defaultSubnets(rec.ID, rec.Subnets); err != nil {
		return err
	}
	nw, err := n.newNetwork(rec)
	if err != nil {
		return err
	}
	rec.Options["com.docker.network.driver.mtu"] = fmt.Sprint(nw.wantMTU)
	nw.rec.Options = rec.Options
	if old == nil || !sameRecord(old, &nw.rec) {
		if err := n.save(&nw.rec); err != nil {
			return err
		}
	}
	if err := n.ensureBridge(nw, true); err != nil {
		return err
	}
	n.networks[rec.ID] = nw
	return nil
}

func sameRecord(a, b *record) bool {
	return a.Link == b.Link && a.IPv6 == b.IPv6 && fmt.Sprint(a.Subnets) == fmt.Sprint(b.Subnets) &&
		fmt.Sprint(a.Options) == fmt.Sprint(b.Options)
}

// defaultSubnets are the default network's: of IPv4, and of IPv6 where it has that.
func (n *Networks) defaultSubnets(id string, before []Subnet) ([]Subnet, error) {
	versions := []defaultNet{{bipName: "bip", example: "172.17.0.1/16", bip: n.opts.BIP, cidr: n.opts.FixedCIDR, gateway: n.opts.Gateway}}
	if n.opts.IPv6 {
		versions = append(versions, defaultNet{v6: true, bipName: "bip6", suffix: "-v6", example: "fd00:1::1/64",
			bip: n.opts.BIP6, cidr: n.opts.FixedCIDR6, gateway: n.opts.Gateway6})
	}
	var out []Subnet
	for _, v := range versions {
		s, err := n.defaultSubnet(id, before, v)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return completeSubnets(out, true)
}

// defaultNet is what was said of the default network's addresses of one version of IP.
type defaultNet struct {
	v6        bool
	bipName   string // of the option
	suffix    string // of the names of the others
	example   string // of bip
	bip, cidr string
	gateway   netip.Addr
}

// defaultSubnet is that of bip, that of an administrator's bridge, of IPv6 that of cidr, the one used before, or the first free one.
func (n *Networks) defaultSubnet(id string, before []Subnet, v defaultNet) (s Subnet, err error) {
	bad := func(format string, args ...any) (Subnet, error) {
		return s, failf(errdefs.ErrInvalidArgument, format, args...)
	}
	var cidr netip.Prefix
	if v.cidr != "" {
		if cidr, err = netip.ParsePrefix(v.cidr); err != nil || cidr.Addr().Is6() != v.v6 {
			return bad("invalid fixed-cidr%s %q: it is a subnet of %s", v.suffix, v.cidr, familyName(v.v6))
		}
		cidr = cidr.Masked()
	}
	if v.bip != "" {
		p, err := netip.ParsePrefix(v.bip)
		if err != nil || p.Addr().Is6() != v.v6 || p.Addr() == p.Masked().Addr() {
			return bad("invalid %s %q: it is the bridge's address with the length of its subnet, as in %s", v.bipName, v.bip, v.example)
		}
		s = Subnet{Prefix: p.Masked(), Gateway: p.Addr()}
	} else if l, err := n.handle.LinkByName(n.opts.Bridge); err == nil && l.Attrs().Alias != alias(id) {
		as, err := dumpAddrs(n.handle, l, map[bool]int{false: netlink.FAMILY_V4, true: netlink.FAMILY_V6}[v.v6])
		as = slices.DeleteFunc(as, func(a netlink.Addr) bool { return v.v6 && a.IP.IsLinkLocalUnicast() })
		if err == nil && len(as) > 0 {
			p := prefixFromNet(as[0].IPNet)
			s = Subnet{Prefix: p.Masked(), Gateway: p.Addr()}
		}
	}
	if !s.Prefix.IsValid() && v.v6 {
		s.Prefix = cidr
	}
	if !s.Prefix.IsValid() {
		if s, err = n.freeDefault(id, before, v.v6); err != nil {
			return s, err
		}
	}
	if cidr.IsValid() && cidr != s.Prefix {
		s.Range = cidr
	}
	if v.gateway.IsValid() && v.gateway != s.Gateway {
		if !s.Prefix.Contains(v.gateway) {
			return bad("invalid default-gateway%s %s: it is not inside of subnet %s", v.suffix, v.gateway, s.Prefix)
		}
		s.Aux = map[string]netip.Addr{wayOut(v.v6): v.gateway}
	}
	return s, nil
}

func familyName(v6 bool) string { return map[bool]string{false: "IPv4", true: "IPv6"}[v6] }

// freeDefault is the block used before, where nobody has it now, or the first free one.
func (n *Networks) freeDefault(id string, before []Subnet, v6 bool) (s Subnet, err error) {
	own := func(link string) bool { return link == n.opts.Bridge }
	if i := slices.IndexFunc(before, func(b Subnet) bool { return b.Prefix.Addr().Is6() == v6 }); i >= 0 {
		_, local, err := n.hostPrefixes(own)
		if err != nil {
			return s, err
		}
		if clash(before[i].Prefix, local) == nil {
			return Subnet{Prefix: before[i].Prefix, Gateway: before[i].Gateway}, nil
		}
	}
	used, _, err := n.used(own)
	if err != nil {
		return s, err
	}
	if s.Prefix, err = pickSubnet(n.opts.Pools, v6, used); err != nil && v6 {
		s.Prefix, err = uniqueLocal(id), nil
	}
	return s, err
}

// used are all blocks a new network must stay clear of, and local the host's own among them.
func (n *Networks) used(except func(link string) bool) (used, local []netip.Prefix, err error) {
	used, local, err = n.hostPrefixes(except)
	if err != nil {
		return nil, nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, nw := range n.networks {
		if nw.rec.ConfigOnly {
			continue
		}
		for _, s := range nw.rec.Subnets {
			used = append(used, s.Prefix)
		}
	}
	return used, local, nil
}

// clash is the first of the host's own networks that p meets.
func clash(p netip.Prefix, local []netip.Prefix) *netip.Prefix {
	for _, l := range local {
		if p.Contains(l.Addr()) || l.Masked().Overlaps(p) && l.Bits() >= p.Bits() {
			return &l
		}
	}
	return nil
}

func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// warn notes a condition of the host that somebody should know of; Warnings shows it.
func (n *Networks) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	n.log.Warn(text)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Contains(n.warnings, text) {
		n.warnings = append(n.warnings, text)
	}
}

// warnOf notes one about a container; it is forgotten with the container's end.
func (n *Networks) warnOf(l Live, err error) {
	text := fmt.Sprintf("container %q: %s", l.Name, err)
	n.log.Warn(text)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.troubles == nil {
		n.troubles = map[string][]string{}
	}
	n.troubles[l.ContainerID] = append(n.troubles[l.ContainerID], text)
}

// Warnings are sentences for `info` about what keeps the networks from working as they should.
func (n *Networks) Warnings() []string { return n.warningsFor("") }

// warningsFor are those that concern one container, or all of them.
func (n *Networks) warningsFor(containerID string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := slices.Concat(n.warnings, n.walls)
	for _, id := range slices.Sorted(maps.Keys(n.troubles)) {
		if containerID == "" || containerID == id {
			all = append(all, n.troubles[id]...)
		}
	}
	for _, nw := range n.networks {
		if nw.lost != nil {
			all = append(all, fmt.Sprintf("network %q cannot be used: %s", nw.rec.Name, nw.lost))
		}
	}
	return all
}

// Close gives the pool back. With no container attached the bridges and rules go too, for the next Open makes them
// again; otherwise everything stays, and Retain of the next daemon takes it over.
func (n *Networks) Close() error {
	n.mu.Lock()
	if n.shut {
		n.mu.Unlock()
		return nil
	}
	n.shut = true
	idle := len(n.held) == 0
	var all []*network
	for _, nw := range n.networks {
		all = append(all, nw)
	}
	n.mu.Unlock()
	if n.changes != nil {
		_ = n.changes.Close()
	}
	if n.links != nil {
		_ = n.links.Close()
	}
	if n.legacy != nil {
		n.legacy.close()
	}
	n.warm.close()
	n.bare.close()
	n.work.Wait()
	n.clearAway()
	var errs []error
	if idle {
		if n.legacy != nil {
			errs = append(errs, n.legacy.remove())
		}
		if n.wall != nil {
			n.lookAround(false)
			errs = append(errs, n.wall.remove(n.tableName()), n.exits.clear(), n.closeGate(), n.guard.remove())
		}
		for _, nw := range all {
			n.mu.Lock()
			nw.removing = true
			n.mu.Unlock()
			errs = append(errs, n.removeBridge(nw))
		}
	}
	n.handOver(idle)
	n.release()
	return errors.Join(errs...)
}

// handOver gives the name servers to the keeper: first nobody reads questions here any more, then the keeper does, and
// what was begun is answered meanwhile.
func (n *Networks) handOver(idle bool) {
	if !n.keeper.there() || idle {
		n.keeper.leave(idle)
		return
	}
	n.mu.Lock()
	var resolvers []*resolver
	for _, h := range n.held {
		if h.resolver != nil {
			resolvers = append(resolvers, h.resolver)
			h.resolver = nil
		}
	}
	n.mu.Unlock()
	var waits []func()
	for _, r := range resolvers {
		waits = append(waits, r.server.Retire())
	}
	n.keeper.leave(false)
	for i, wait := range waits {
		wait()
		resolvers[i].close()
	}
}

func (n *Networks) release() {
	if n.wall != nil {
		_ = n.wall.Close()
	}
	if n.guard != nil {
		_ = n.guard.Close()
	}
	if n.exits != nil {
		_ = n.exits.Close()
	}
	n.keeper.leave(false)
	n.here.close()
	if n.handle != nil {
		n.handle.Close()
	}
	if n.rt != nil {
		_ = n.rt.Close()
	}
	if n.hostNS != nil {
		_ = n.hostNS.Close()
	}
	for _, h := range n.held {
		h.resolver.close()
		if h.lan != nil {
			h.lan.Close()
		}
		for _, p := range h.ports {
			p.close()
		}
	}
}

// tableName is the name of our nftables tables; two daemons have different bridges.
func (n *Networks) tableName() string {
	name := n.opts.Bridge
	if name == NoBridge {
		name = strings.Trim(strings.ReplaceAll(filepath.Clean(n.opts.DataRoot), "/", "-"), "-")
	}
	return "berth-" + name
}

// policy is a snapshot of what the rules must say.
func (n *Networks) policy() policy {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := policy{table: n.tableName(), closed: maps.Clone(n.closed), docker: maps.Clone(n.docker), gate: n.gate}
	for _, nw := range n.networks {
		if nw.rec.Driver != driverBridge || nw.broken != nil {
			continue
		}
		q := policyNetwork{link: nw.rec.Link, internal: nw.rec.Internal, masquerade: nw.options.masquerade, icc: nw.options.icc,
			modes: nw.options.modes, trusted: nw.options.trusted, behind: nw.options.behind, direct: nw.direct}
		for _, s := range nw.rec.Subnets {
			q.subnets = append(q.subnets, s.Prefix)
		}
		p.networks = append(p.networks, q)
	}
	slices.SortFunc(p.networks, func(a, b policyNetwork) int { return strings.Compare(a.link, b.link) })
	for _, h := range n.held {
		p.ports = append(p.ports, h.policyPorts()...)
	}
	for _, ways := range n.peers() {
		p.peers = append(p.peers, ways...)
	}
	return p
}

// policyPorts are the holding's ports as the rules need them. Called with Networks.mu held.
func (h *holding) policyPorts() []policyPort {
	ports := make([]policyPort, 0, len(h.ports))
	for _, p := range h.ports {
		if p.by != nil || p.relayed() {
			continue
		}
		ports = append(ports, policyPort{host: p.host, proto: p.proto, to: p.to, direct: h.direct(p)})
	}
	return ports
}

// applyPorts makes the kernel's rules agree with the ports a container has, and without those that it had.
func (n *Networks) applyPorts(id string, had []heldPort) error {
	if n.wall == nil {
		return n.applyRules()
	}
	var was []policyPort
	for _, p := range had {
		if p.relayed() {
			continue
		}
		was = append(was, policyPort{host: p.host, proto: p.proto, to: p.to, direct: true})
	}
	if n.wall.adjust(was, func() []policyPort {
		n.mu.Lock()
		defer n.mu.Unlock()
		if h := n.held[id]; h != nil {
			return h.policyPorts()
		}
		return nil
	}) {
		return nil
	}
	return n.applyRules()
}

// applyRules makes the kernel's rules agree with the networks and published ports of this moment.
func (n *Networks) applyRules() error {
	if n.legacy != nil {
		return n.legacy.apply(n.policy)
	}
	if n.wall == nil {
		return nil
	}
	return n.wall.apply(func() document { return compile(n.policy()) })
}

// settleRules is applyRules, and then looks whether other firewalls let our links through.
func (n *Networks) settleRules() error {
	if n.legacy != nil {
		return errors.Join(n.applyRules(), n.answerForPeers())
	}
	if n.wall == nil {
		return nil
	}
	if err := errors.Join(n.applyRules(), n.applyEgress(), n.answerForPeers()); err != nil {
		return err
	}
	n.lookAround(true)
	n.assertGuard()
	return nil
}

// lookAround corrects what depends on other owners of the firewall. want is false when the daemon leaves.
func (n *Networks) lookAround(want bool) {
	links := map[family][]string{}
	p := n.policy()
	for _, f := range []family{ip4, ip6} {
		for _, nw := range p.networks {
			if want && slices.ContainsFunc(nw.subnets, func(s netip.Prefix) bool { return familyOf(s.Addr()) == f }) {
				links[f] = append(links[f], nw.link)
			}
		}
	}
	walls, err := n.wall.besides(p.table, links)
	if err != nil {
		walls = []string{err.Error()}
	}
	docker := n.wall.dockerBridges()
	n.mu.Lock()
	old := n.walls
	n.walls = walls
	moved := !maps.EqualFunc(n.docker, docker, slices.Equal)
	n.docker = docker
	n.mu.Unlock()
	if moved && want {
		if err := n.applyRules(); err != nil {
			n.log.Error("keep containers from Docker's", "error", err)
		}
	}
	for _, text := range walls {
		if !slices.Contains(old, text) {
			n.log.Warn(text)
		}
	}
}

// begin counts a piece of work that Close waits for; it is false once there is to be no more.
func (n *Networks) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shut {
		return false
	}
	n.work.Add(1)
	return true
}

// reassert runs when somebody else changed the rules of the host: ours come back when they were flushed, whole or in part.
func (n *Networks) reassert(touched bool) {
	if !n.begin() {
		return
	}
	defer n.work.Done()
	if touched && !n.wall.intact() {
		n.log.Warn("the firewall rules were removed by somebody else and are made again")
		n.wall.forget()
		if err := n.applyRules(); err != nil {
			n.log.Error("make the firewall rules again", "error", err)
			return
		}
	}
	if touched {
		n.assertGuard()
		n.assertEgress()
	}
	n.lookAround(true)
}
