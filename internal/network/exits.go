package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/berth-engine/berth/internal/dns"
	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// leash is what an interface of a container may reach: what both policies allow. nil is everything.
type leash struct {
	link         string
	addrs        []netip.Addr
	network, own *egress
}

// mayResolve reports whether any of the interfaces of a container may reach what a name stands for. Without a policy there
// are no bounds, and every name may be resolved.
func mayResolve(bounds []leash, name string) bool {
	return len(bounds) == 0 || slices.ContainsFunc(bounds, func(b leash) bool { return b.network.resolves(name) && b.own.resolves(name) })
}

// source is an interface's address.
type source struct {
	link string
	addr netip.Addr
}

// learnt is one way that a name has opened.
type learnt struct {
	network bool // by the network's policy, otherwise by the container's
	to      netip.Addr
	box
}

// learner writes the addresses of names into the rules. The daemon has one, and the keeper while there is none.
type learner struct {
	table string
	least time.Duration // an address stays for; clients use it longer than the answer says

	mu    sync.Mutex
	conn  *ruleSocket
	known map[source]map[learnt]opened
}

// opened says until when a way is open, and by which names; none where somebody before us opened it.
type opened struct {
	until time.Time
	names []string
}

// call notes one more name. Under a domain whose owner answers for every name a container has as many as it likes to ask for: the
// first ones are forgotten then, and only a change of the policy could make somebody ask again.
func (o *opened) call(name string) {
	if slices.Contains(o.names, name) {
		return
	}
	if len(o.names) >= maxNames {
		o.names = o.names[len(o.names)-maxNames+1:]
	}
	o.names = append(slices.Clip(o.names), name)
}

const (
	leastLearnt = 5 * time.Minute
	mostLearnt  = 24 * time.Hour
	// maxNames is how many names of a way are known.
	maxNames = 64
	// maxLearnt is how many ways of one address of a container are open by names at once.
	maxLearnt = 8192
	// maxRanges is how many of them may be ranges of ports. What the kernel does for each of these grows with their number (a
	// set of concatenated intervals): 4,096 would keep a processor busy for minutes.
	maxRanges = 512
	// learnBytes is room for the messages about as many as maxLearnt, to be put anew.
	learnBytes = 8 << 20
)

// newLearner opens a socket in the calling thread's network namespace.
func newLearner(table string) (*learner, error) {
	conn, err := openRules(learnBytes)
	if err != nil {
		return nil, err
	}
	return &learner{table: table, least: leastLearnt, conn: conn, known: map[source]map[learnt]opened{}}, nil
}

// reset forgets what it knows: another one goes on with the rules.
func (l *learner) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = map[source]map[learnt]opened{}
}

func (l *learner) Close() error { return l.conn.Close() }

// learn opens what a name stands for. It returns when the kernel knows.
func (l *learner) learn(bounds []leash, name string, answers []dns.Resolved) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	fresh := map[source][]learnt{}
	until := map[netip.Addr]time.Time{}
	for _, a := range answers {
		to := a.Addr.Unmap()
		if !mayOpen(to) {
			continue
		}
		f := familyOf(to)
		until[to] = now.Add(min(max(time.Duration(a.TTL)*time.Second, l.least), mostLearnt))
		for _, b := range bounds {
			for _, from := range b.addrs {
				if familyOf(from) != f {
					continue
				}
				src := source{b.link, from}
				for _, p := range []struct {
					policy  *egress
					network bool
				}{{b.network, true}, {b.own, false}} {
					for _, piece := range p.policy.opens(name, f) {
						way := learnt{p.network, to, piece}
						old := l.known[src][way]
						if old.until.Sub(now) < until[to].Sub(now)/2 {
							fresh[src] = append(fresh[src], way)
						} else if !slices.Contains(old.names, name) {
							old.call(name) // one more name for what is open
							l.known[src][way] = old
						}
					}
				}
			}
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	b := newBatch()
	for src, ways := range fresh {
		if l.known[src] == nil {
			l.known[src] = map[learnt]opened{}
		}
		known := l.known[src]
		for way, o := range known {
			if o.until.Before(now) {
				delete(known, way)
			}
		}
		if len(known)+len(ways) > maxLearnt {
			return fmt.Errorf("%s has more than %d ways open by names", src.addr, maxLearnt)
		}
		if countRanges(maps.Keys(known))+countRanges(slices.Values(ways)) > maxRanges {
			return fmt.Errorf("%s has more than %d ranges of ports open by names; allow single ports or all of them", src.addr, maxRanges)
		}
		for _, way := range ways {
			o := known[way]
			o.call(name)
			if o.until.Before(until[way.to]) {
				o.until = until[way.to]
			}
			known[way] = o
			b.put(src, way, o.until.Sub(now))
		}
	}
	l.queue(l.conn, b)
	if err := l.conn.Flush(); err != nil {
		for src, ways := range fresh {
			for _, way := range ways {
				delete(l.known[src], way)
			}
		}
		return fmt.Errorf("open the addresses of %q: %w", name, err)
	}
	return nil
}

func countRanges(ways iter.Seq[learnt]) (ranges int) {
	for way := range ways {
		if way.kind() == openRange {
			ranges++
		}
	}
	return ranges
}

// A batch is what becomes of elements of sets.
type batch struct {
	gone, come map[string][]element
	sets       map[string]set
}

func newBatch() batch { return batch{map[string][]element{}, map[string][]element{}, map[string]set{}} }

// put opens a way for some time, also where it is open already: the kernel would keep the time there is.
func (b batch) put(src source, way learnt, lasts time.Duration) {
	b.take(src, way)
	b.add(src, way, lasts)
}

// add opens a way that is not open.
func (b batch) add(src source, way learnt, lasts time.Duration) {
	s, e := wayElement(src, way)
	e.lasts = lasts
	b.sets[s.name] = s
	b.come[s.name] = append(b.come[s.name], e)
}

// take closes a way, whether it is open or not.
func (b batch) take(src source, way learnt) {
	s, e := wayElement(src, way)
	b.sets[s.name] = s
	b.gone[s.name] = append(b.gone[s.name], e)
}

// queue makes messages of the batch. What is to go is made first, so that it is there.
func (l *learner) queue(conn *ruleSocket, b batch) {
	t := &nftables.Table{Family: nftables.TableFamily(inet), Name: l.table}
	for _, step := range []struct {
		of map[string][]element
		do func(*nftables.Set, []nftables.SetElement) error
	}{{b.gone, conn.SetAddElements}, {b.gone, conn.SetDeleteElements}, {b.come, conn.SetAddElements}} {
		for _, name := range slices.Sorted(maps.Keys(step.of)) {
			s := b.sets[name]
			for part := range slices.Chunk(step.of[name], elementsAtOnce) {
				_ = step.do(kernelSet(t, s, -1), kernelElements(s, part)) // errors come out of Flush
			}
		}
	}
}

// opener is whose policy has opened it, in the name of a set.
func opener(network bool) string {
	if network {
		return "network"
	}
	return "member"
}

func wayElement(src source, way learnt) (set, element) {
	kind := way.kind()
	s := openSet(opener(way.network), kind, familyOf(src.addr))
	if kind == openRange {
		key := append([]any{exact(src.link), exact(src.addr)}, reach{way.to, way.to, way.box}.key()...)
		return s, element{key: key}
	}
	key := []any{src.link, src.addr, way.to, way.proto[0], way.ports[0]}
	return s, element{key: key[:len(s.key)]}
}

// forget closes what was open by names for a source, but for what its policies, if there are any, still open by them.
func (l *learner) forget(from []source, network, own *egress) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := newBatch()
	for _, src := range from {
		still := map[learnt]opened{}
		for way, o := range l.known[src] {
			p := own
			if way.network {
				p = network
			}
			for _, name := range o.names {
				for _, piece := range p.opens(name, familyOf(way.to)) {
					w := learnt{way.network, way.to, piece}
					s := still[w]
					if !slices.Contains(s.names, name) {
						s.names = append(s.names, name)
					}
					if s.until.Before(o.until) {
						s.until = o.until
					}
					still[w] = s
				}
			}
		}
		for way := range l.known[src] {
			b.take(src, way)
		}
		for way, o := range still {
			if left := time.Until(o.until); left > 0 {
				b.add(src, way, left)
			}
		}
		if l.known[src] = still; len(still) == 0 {
			delete(l.known, src)
		}
	}
	if len(b.gone) == 0 {
		return nil
	}
	l.queue(l.conn, b)
	if err := l.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) { // the table has gone with its last policy
		return fmt.Errorf("close what was open by names: %w", err)
	}
	return nil
}

// has reports whether a name has opened this.
func (l *learner) has(src source, network bool, to netip.Addr, proto protocol, port uint16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := box{[2]protocol{proto, proto}, [2]uint16{port, port}}
	for way, o := range l.known[src] {
		if way.network == network && way.to == to && way.covers(at) && time.Now().Before(o.until) {
			return true
		}
	}
	return false
}

// adopt reads from the kernel what a daemon or keeper before us has opened.
func (l *learner) adopt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &nftables.Table{Family: nftables.TableFamily(inet), Name: l.table}
	for _, f := range []family{ip4, ip6} {
		for _, network := range []bool{true, false} {
			for _, k := range openKinds() {
				elements, err := l.conn.GetSetElements(&nftables.Set{Table: t, Name: openSet(opener(network), k, f).name})
				if err != nil {
					continue // there was no policy
				}
				for _, e := range elements {
					l.read(f, network, k, e)
				}
			}
		}
	}
}

// read notes what an element of a set of ours has opened.
func (l *learner) read(f family, network bool, k openKind, e nftables.SetElement) {
	s := openSet(opener(network), k, f)
	if len(e.Key) != keySize(s.key) || s.interval && len(e.KeyEnd) != len(e.Key) || e.Expires <= 0 {
		return
	}
	if !s.interval {
		e.KeyEnd = e.Key
	}
	words := int(addrWords(f)) * 4
	from, _ := netip.AddrFromSlice(e.Key[unix.IFNAMSIZ : unix.IFNAMSIZ+words])
	to, _ := netip.AddrFromSlice(e.Key[unix.IFNAMSIZ+words : unix.IFNAMSIZ+2*words])
	src := source{unix.ByteSliceToString(e.Key[:unix.IFNAMSIZ]), from}
	way := learnt{network, to, box{[2]protocol{0, anyProtocol}, [2]uint16{0, 65535}}}
	if at := unix.IFNAMSIZ + 2*words; k != openAddress {
		way.proto = [2]protocol{protocol(e.Key[at]), protocol(e.KeyEnd[at])}
		if k != openProtocol {
			way.ports = [2]uint16{binary.BigEndian.Uint16(e.Key[at+4:]), binary.BigEndian.Uint16(e.KeyEnd[at+4:])}
		}
	}
	if l.known[src] == nil {
		l.known[src] = map[learnt]opened{}
	}
	l.known[src][way] = opened{until: time.Now().Add(e.Expires)}
}

// exits keep containers to their policies.
type exits struct {
	wall  *firewall
	names *learner
	log   *refusals

	mu      sync.Mutex
	written bool // there are rules in the kernel, as far as we know
}

// openExits opens sockets in the calling thread's network namespace.
func openExits(table string, told func(Refused)) (*exits, error) {
	wall, err := openFirewall()
	if err != nil {
		return nil, err
	}
	names, err := newLearner(table)
	if err != nil {
		_ = wall.Close()
		return nil, err
	}
	x := &exits{wall: wall, names: names, log: newRefusals(table, told)}
	wall.also = x.again
	return x, nil
}

func (x *exits) Close() error {
	x.log.close()
	return errors.Join(x.wall.Close(), x.names.Close())
}

// again queues the addresses of names, which have gone with the table. Called with names.mu held.
func (x *exits) again(d document) {
	if len(d.tables) == 0 {
		return
	}
	l, b := x.names, newBatch()
	for src, ways := range l.known {
		for way, o := range ways {
			if left := time.Until(o.until); left > 0 {
				b.add(src, way, left)
			}
		}
	}
	l.queue(x.wall.conn, b)
}

// limit keeps endpoints to their policies from before the first packet.
func (n *Networks) limit(endpoints ...*endpoint) error {
	if !slices.ContainsFunc(endpoints, func(e *endpoint) bool { return e.egress != nil }) {
		return nil
	}
	return n.applyEgress()
}

// clear takes the rules out of the kernel.
func (x *exits) clear() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.written {
		return nil
	}
	x.written = false
	return x.wall.remove(x.names.table, inet)
}

// adopt looks what a daemon before us has left.
func (x *exits) adopt() {
	x.mu.Lock()
	defer x.mu.Unlock()
	kernel, err := x.wall.look(document{tables: []table{{family: inet, name: x.names.table}}})
	if _, there := kernel[inet]; err != nil || there {
		x.written = true
		x.names.adopt()
	}
}

// fence is a snapshot of the policies of all.
func (n *Networks) fence() fence {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := fence{table: n.tableName(), group: n.exits.log.group}
	for _, nw := range n.networks {
		if nw.rec.Driver != driverBridge || nw.broken != nil {
			continue
		}
		if nw.options.egress != nil {
			w.who = append(w.who, limited{link: nw.rec.Link, policy: nw.options.egress})
		}
		some := nw.options.egress != nil
		for e := range nw.endpoints {
			if e.egress != nil && !e.leaving {
				w.who = append(w.who, limited{nw.rec.Link, e.says().addrs, e.egress})
				some = true
			}
		}
		if some {
			q := policyNetwork{link: nw.rec.Link}
			for _, s := range nw.rec.Subnets {
				q.subnets = append(q.subnets, s.Prefix)
			}
			w.within = append(w.within, q)
		}
	}
	return w
}

// applyEgress makes the kernel's rules agree with the policies of this moment.
func (n *Networks) applyEgress() error {
	x := n.exits
	if x == nil {
		return nil
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	w := n.fence()
	if len(w.who) == 0 {
		n.keeper.drop(keptLog)
		if !x.written {
			return nil
		}
		x.written = false
		return x.wall.remove(w.table, inet)
	}
	if w.group = x.log.listen(n.log, n.whose); w.group == 0 {
		n.warn("what is refused by egress policies is not logged: the kernel has no nfnetlink_log (CONFIG_NETFILTER_NETLINK_LOG), or all its groups are taken")
	}
	x.names.mu.Lock()
	defer x.names.mu.Unlock()
	if err := x.wall.apply(func() document { return compileEgress(w) }); err != nil {
		return fmt.Errorf("limit where containers may go: %w", err)
	}
	x.written = true
	return nil
}

// assertEgress writes the rules again where somebody took them away.
func (n *Networks) assertEgress() {
	x := n.exits
	x.mu.Lock()
	gone := x.written && !x.wall.intact()
	x.mu.Unlock()
	if !gone {
		return
	}
	x.wall.forget()
	if err := n.applyEgress(); err != nil {
		n.log.Error("make the rules about leaving again", "error", err)
	}
}

// sources are the endpoint's.
func (e *endpoint) sources() []source {
	var ss []source
	for _, a := range e.says().addrs {
		ss = append(ss, source{e.network.rec.Link, a})
	}
	return ss
}

// bounds of a container; none where no policy is about it. Called with Networks.mu held.
func (h *holding) bounds() []leash {
	var bs []leash
	some := false
	for _, e := range h.endpoints {
		if e.network.rec.Internal {
			continue
		}
		b := leash{network: e.network.options.egress, own: e.egress}
		if b.network != nil || b.own != nil {
			b.link, b.addrs, some = e.network.rec.Link, e.says().addrs, true
		}
		bs = append(bs, b)
	}
	if !some {
		return nil
	}
	return bs
}

func (n *Networks) boundsOf(container string) []leash {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.held[container]; h != nil {
		return h.bounds()
	}
	return nil
}

// obeyEgress makes a name server keep to the container's policies.
func (n *Networks) obeyEgress(o *dns.Options, container string) {
	if n.exits == nil {
		return
	}
	o.Allowed = func(name string) bool {
		if mayResolve(n.boundsOf(container), name) {
			return true
		}
		n.exits.log.note(Refused{ContainerID: container, Name: n.nameOf(container), Domain: name})
		return false
	}
	o.Learned = func(name string, answers []dns.Resolved) {
		if bounds := n.boundsOf(container); bounds != nil {
			if err := n.exits.names.learn(bounds, name, answers); err != nil {
				n.log.Warn("a name's addresses stay closed", "container", container, "name", name, "error", err)
			}
		}
	}
}

func (n *Networks) nameOf(container string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.held[container]; h != nil && len(h.endpoints) > 0 {
		return h.endpoints[0].name
	}
	return ""
}

// whose is the endpoint that sent something by a bridge.
func (n *Networks) whose(link int, from netip.Addr) (r Refused) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, nw := range n.networks {
		if int(nw.index.Load()) != link || nw.rec.Driver != driverBridge {
			continue
		}
		r.Network = nw.rec.Name
		for e := range nw.endpoints {
			if e.container != "" && slices.Contains(e.says().addrs, from) {
				r.ContainerID, r.Name = e.container, e.name
			}
		}
	}
	return r
}

// letOut closes what was open for endpoints that go, before their addresses can be another's.
func (n *Networks) letOut(endpoints []*endpoint) error {
	if n.exits == nil {
		return nil
	}
	var from []source
	own := false
	n.mu.Lock()
	for _, e := range endpoints {
		e.leaving = true
		if e.bridged() == nil || e.egress == nil && e.network.options.egress == nil {
			continue
		}
		from = append(from, e.sources()...)
		own = own || e.egress != nil
	}
	n.mu.Unlock()
	if len(from) == 0 {
		return nil
	}
	err := n.exits.names.forget(from, nil, nil)
	if own {
		err = errors.Join(err, n.applyEgress())
	}
	return err
}

// setEgress gives an endpoint of a container that runs another policy. It runs with the container's namespace at hand.
func (n *Networks) setEgress(h *holding, e *endpoint, p *egress, ns *os.File, dnsServers []string) error {
	if p != nil {
		if err := n.mayLimit(e.network); err != nil {
			return err
		}
	}
	n.mu.Lock()
	old := e.egress
	if old.String() == p.String() {
		n.mu.Unlock()
		return nil
	}
	e.egress = p
	e.state.Egress = p.String()
	n.tell(e.container)
	resolve := h.resolver == nil && !h.gone && h.needsNames()
	n.mu.Unlock()
	fail := func(err error) error {
		n.mu.Lock()
		e.egress, e.state.Egress = old, old.String()
		n.mu.Unlock()
		return errors.Join(err, n.applyEgress())
	}
	if old == nil && e.trusted {
		if err := n.watchLink(e); err != nil {
			return fail(err)
		}
	}
	if resolve {
		if err := n.nameServer(h, e.container, ns, dnsServers); err != nil {
			return fail(err)
		}
	}
	if err := n.applyEgress(); err != nil {
		return fail(err)
	}
	if p == nil && e.trusted {
		if err := n.guard.leave(e.host); err != nil {
			return err
		}
	}
	return n.tighten([]*endpoint{e})
}

// nameServer gives a container that runs a name server, where it had none.
func (n *Networks) nameServer(h *holding, container string, ns *os.File, servers []string) error {
	var res *resolver
	err := n.inNetNS(ns, func() (err error) {
		res, err = n.startResolver(ns, container, servers, true)
		return err
	})
	if err != nil {
		return err
	}
	return n.answerBy(h, res)
}

// answerBy makes a name server the container's, unless that has ended meanwhile.
func (n *Networks) answerBy(h *holding, res *resolver) error {
	n.mu.Lock()
	gone := h.gone || n.shut
	if !gone {
		h.resolver = res
	}
	n.mu.Unlock()
	if gone {
		res.close()
		return errNotRunning(h.endpoints)
	}
	return nil
}

// needsNames reports whether the container asks our name server: on networks of the users', and where a policy is about
// names. Called with Networks.mu held.
func (h *holding) needsNames() bool {
	return slices.ContainsFunc(h.endpoints, func(e *endpoint) bool { return e.network.named() || e.egress != nil })
}

// tighten closes what the policies of these endpoints do not allow any more: ways that names opened, and connections.
func (n *Networks) tighten(endpoints []*endpoint) error {
	type judged struct {
		source
		within []Subnet
		leash
	}
	byAddr := map[netip.Addr]judged{}
	var errs []error
	for _, e := range endpoints {
		n.mu.Lock()
		b := leash{network: e.network.options.egress, own: e.egress}
		sources := e.sources()
		subnets := e.network.rec.Subnets
		n.mu.Unlock()
		errs = append(errs, n.exits.names.forget(sources, b.network, b.own))
		for _, s := range sources {
			byAddr[s.addr] = judged{s, subnets, b}
		}
	}
	refused := flowFilter(func(src, dst netip.Addr, proto protocol, port uint16) bool {
		j, ok := byAddr[src]
		if !ok || slices.ContainsFunc(j.within, func(s Subnet) bool { return s.Prefix.Contains(dst) && s.Gateway != dst }) {
			return false
		}
		return !n.allows(j.source, j.network, true, dst, proto, port) || !n.allows(j.source, j.own, false, dst, proto, port)
	})
	for _, f := range []family{ip4, ip6} {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f), refused)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("end the connections that a policy refuses: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (n *Networks) allows(src source, p *egress, network bool, dst netip.Addr, proto protocol, port uint16) bool {
	if p == nil {
		return true
	}
	allowed, known := p.fixedVerdict(dst, proto, port)
	return allowed || !known && n.exits.names.has(src, network, dst, proto, port)
}

// flowFilter chooses connections by who opened them, and to where.
type flowFilter func(src, dst netip.Addr, proto protocol, port uint16) bool

func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	addr := func(ip net.IP) netip.Addr { a, _ := netip.AddrFromSlice(ip); return a.Unmap() }
	return f(addr(flow.Forward.SrcIP), addr(flow.Forward.DstIP), protocol(flow.Forward.Protocol), flow.Forward.DstPort)
}

// mayLimit refuses policies for containers of networks whose packets the host's rules do not see.
func (n *Networks) mayLimit(nw *network) error {
	switch {
	case nw.rec.Driver != driverBridge:
		return errEgressLAN(nw.rec.Driver)
	case n.exits == nil:
		return n.noRules(fmt.Sprintf("option %q", OptionEgress))
	}
	return nil
}

// SetEgress gives a network another policy, at once and for good; "off" or "" is none.
func (n *Networks) SetEgress(ctx context.Context, nameOrID, text string) error {
	p, err := parseEgress(text)
	if err != nil {
		return failf(errdefs.ErrInvalidArgument, "invalid egress policy: %w", err)
	}
	if err := n.change(ctx); err != nil {
		return err
	}
	defer n.changed()
	n.mu.Lock()
	nw, err := n.lookup(nameOrID)
	n.mu.Unlock()
	if err != nil {
		return err
	}
	if nw.rec.predefined() || nw.rec.ConfigOnly {
		return failf(errdefs.ErrPermissionDenied, "network %s cannot have an egress policy of its own; give one to its containers", nw.rec.Name)
	}
	if err := n.mayLimit(nw); err != nil {
		return err
	}
	rec := nw.rec
	rec.Options = cloneWithout(rec.Options, OptionEgress)
	if p != nil {
		rec.Options[OptionEgress] = p.text
	}
	if err := n.save(&rec); err != nil {
		return err
	}
	n.mu.Lock()
	nw.rec.Options, nw.options.egress = rec.Options, p // the rest of a record is read by everybody
	var endpoints []*endpoint
	var containers []string
	for e := range nw.endpoints {
		endpoints = append(endpoints, e)
		containers = append(containers, e.container)
	}
	n.mu.Unlock()
	err = errors.Join(n.applyEgress(), n.tighten(endpoints))
	for _, id := range containers {
		n.keep(id)
	}
	return err
}

func cloneWithout(m map[string]string, key string) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if k != key {
			out[k] = v
		}
	}
	return out
}
