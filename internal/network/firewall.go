package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// firewall brings documents into the kernel, each as one transaction: packets see the old rules or the new ones.
type firewall struct {
	mu      sync.Mutex
	conn    *ruleSocket
	applied *standing // nil: unknown
	// whole and changed count documents that were compared or written as a whole, and elements that were sent.
	whole, changed int
	// also queues what a table has beyond its document when that is written whole.
	also func(d document)
}

// openFirewall opens a socket in the calling thread's network namespace.
func openFirewall() (*firewall, error) {
	conn, err := openRules(transactionBytes)
	if err != nil {
		return nil, err
	}
	return &firewall{conn: conn}, nil
}

// ruleSocket is a connection to nftables. Once it is closed nothing is sent: the library would open another one.
type ruleSocket struct {
	*nftables.Conn
	port uint32 // the kernel's name for it

	mu     sync.Mutex
	closed bool
}

// openRules opens a socket for rules in the calling thread's network namespace, with room for transactions of some size.
func openRules(bytes int) (s *ruleSocket, err error) {
	s = &ruleSocket{}
	s.Conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var name error
		err = raw.Control(func(fd uintptr) {
			var a unix.Sockaddr
			if a, name = unix.Getsockname(int(fd)); name == nil {
				s.port = a.(*unix.SockaddrNetlink).Pid
			}
		})
		return errors.Join(err, name, c.SetWriteBuffer(bytes), c.SetReadBuffer(bytes))
	}))
	if err != nil {
		return nil, noNFTables(err)
	}
	return s, nil
}

var errRulesClosed = errors.New("the rules are no longer this daemon's")

// Flush sends what is queued, as one transaction.
func (s *ruleSocket) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errRulesClosed
	}
	return s.Conn.Flush()
}

func (s *ruleSocket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.CloseLasting()
}

// transactionBytes is room for some 100,000 ports in one transaction; the kernel takes it only while one is under way.
const transactionBytes = 16 << 20

func (w *firewall) Close() error { return w.conn.Close() }

// noNFTables says what to do where the kernel cannot do what we ask.
func noNFTables(err error) error {
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) ||
		errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
		return failf(errdefs.ErrNotImplemented, "the kernel does not take our nftables rules; it needs CONFIG_NF_TABLES, "+
			"NFT_NAT, NFT_MASQ, NFT_CT and NFT_FIB (Linux 5.6 or newer), or start the daemon with --iptables=false "+
			"and without published ports: %w", err)
	}
	return fmt.Errorf("set the nftables rules: %w", err)
}

// apply makes the kernel's rules those of the document want returns. Callers that come while another transaction is
// under way are served by the next one together, because want is asked only when its turn has come.
func (w *firewall) apply(want func() document) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.set(want())
}

func (w *firewall) set(d document) error {
	w.whole++
	now := stand(d)
	if w.applied == nil || !w.update(w.applied, now) {
		old := document{}
		if w.applied != nil {
			old = w.applied.document
		}
		w.replace(old, d)
		if w.also != nil {
			w.also(d)
		}
	}
	if err := w.conn.Flush(); err != nil {
		w.applied = nil
		return noNFTables(err)
	}
	w.applied = now
	return nil
}

// A standing is what the kernel has of a document as far as we know: sets hold the bytes of their elements.
type standing struct {
	document // without elements
	shape    string
	sets     map[place]map[string]struct{}
}

// place is a set's, by the numbers of its table and of itself.
type place struct{ table, set int }

func stand(d document) *standing {
	st := &standing{document: document{tables: slices.Clone(d.tables)}, sets: map[place]map[string]struct{}{}}
	for i, t := range d.tables {
		sets := slices.Clone(t.sets)
		for j := range sets {
			m := make(map[string]struct{}, len(sets[j].elements))
			for _, e := range sets[j].elements {
				m[e.raw] = struct{}{}
			}
			st.sets[place{i, j}] = m
			sets[j].elements = nil
		}
		st.tables[i].sets = sets
	}
	st.shape = st.document.String()
	return st
}

// at is where a set stands, if there is one of this name in the table of the family.
func (st *standing) at(f family, name string) (place, bool) {
	i := slices.IndexFunc(st.tables, func(t table) bool { return t.family == f })
	if i < 0 {
		return place{}, false
	}
	j := slices.IndexFunc(st.tables[i].sets, func(s set) bool { return s.name == name })
	return place{i, j}, j >= 0
}

// adjust makes the elements of some ports, and of no others, what they shall be: was are ports that may be there, want says
// which shall. It costs what these ports cost, however many there are besides. It reports false where it cannot, and the whole
// document must be applied.
func (w *firewall) adjust(was []policyPort, want func() []policyPort) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.applied == nil {
		return false
	}
	list := func(ports []policyPort) map[place]map[string]struct{} {
		all := map[place]map[string]struct{}{}
		for _, q := range ports {
			for _, x := range q.elements() {
				at, ok := w.applied.at(familyOf(q.to.Addr()), x.set)
				if !ok {
					continue
				}
				if all[at] == nil {
					all[at] = map[string]struct{}{}
				}
				all[at][x.element.bytes()] = struct{}{}
			}
		}
		return all
	}
	now, old := list(want()), list(was)
	gone, fresh := map[place][]string{}, map[place][]string{}
	for at, have := range w.applied.sets {
		for raw := range old[at] {
			_, there := have[raw]
			if _, stays := now[at][raw]; there && !stays {
				gone[at] = append(gone[at], raw)
			}
		}
		for raw := range now[at] {
			if _, there := have[raw]; !there {
				fresh[at] = append(fresh[at], raw)
			}
		}
	}
	if len(gone)+len(fresh) == 0 {
		return true
	}
	w.send(w.applied, gone, fresh)
	if err := w.conn.Flush(); err != nil {
		w.applied = nil
		return false
	}
	for at, raws := range gone {
		for _, raw := range raws {
			delete(w.applied.sets[at], raw)
		}
	}
	for at, raws := range fresh {
		for _, raw := range raws {
			w.applied.sets[at][raw] = struct{}{}
		}
	}
	return true
}

// send queues elements that go and come.
func (w *firewall) send(st *standing, gone, fresh map[place][]string) {
	for i, t := range st.tables {
		kt := &nftables.Table{Family: nftables.TableFamily(t.family), Name: t.name}
		for j, s := range t.sets {
			at := place{i, j}
			for _, step := range []struct {
				raws []string
				do   func(*nftables.Set, []nftables.SetElement) error
			}{{gone[at], w.conn.SetDeleteElements}, {fresh[at], w.conn.SetAddElements}} {
				slices.Sort(step.raws)
				w.changed += len(step.raws)
				for part := range slices.Chunk(step.raws, elementsAtOnce) {
					_ = step.do(kernelSet(kt, s, j), rawElements(s, part)) // errors come out of Flush
				}
			}
		}
	}
}

// written reports whether the kernel has our rules.
func (w *firewall) written() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.applied != nil
}

// forget makes the next apply write everything again.
func (w *firewall) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied = nil
}

// remove deletes the tables of this name of these families; none named means those of IP.
func (w *firewall) remove(table string, families ...family) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.applied = nil
	if len(families) == 0 {
		families = []family{ip4, ip6}
	}
	for _, f := range families {
		t := &nftables.Table{Family: nftables.TableFamily(f), Name: table}
		w.conn.AddTable(t) // so that deleting it succeeds
		w.conn.DelTable(t)
	}
	return w.conn.Flush()
}

// create makes the tables of d in a namespace that has none of them. It saves the deletion, which takes some 10 ms.
func (w *firewall) create(d document) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.add(d)
	if err := w.conn.Flush(); err != nil {
		return noNFTables(err)
	}
	w.applied = stand(d)
	return nil
}

// replace queues the commands that put d in the place of whatever is there.
func (w *firewall) replace(old, d document) {
	for _, t := range slices.Concat(old.tables, d.tables) {
		kt := &nftables.Table{Family: nftables.TableFamily(t.family), Name: t.name}
		w.conn.AddTable(kt)
		w.conn.DelTable(kt)
	}
	w.add(d)
}

// add queues the commands that make the tables of d.
func (w *firewall) add(d document) {
	for _, t := range d.tables {
		kt := w.conn.AddTable(&nftables.Table{Family: nftables.TableFamily(t.family), Name: t.name})
		for i, s := range t.sets {
			ks := kernelSet(kt, s, i)
			_ = w.conn.AddSet(ks, nil) // errors are kept by the connection and come out of Flush
			w.elements(ks, s, s.elements, w.conn.SetAddElements)
		}
		chains := make([]*nftables.Chain, len(t.chains))
		for i, c := range t.chains {
			kc := &nftables.Chain{Table: kt, Name: c.name}
			if c.hook.num != nil {
				policy := nftables.ChainPolicyAccept
				kc.Type, kc.Hooknum, kc.Priority, kc.Policy = c.hook.typ, c.hook.num, &c.hook.prio, &policy
			}
			chains[i] = w.conn.AddChain(kc)
		}
		for i, c := range t.chains {
			for _, r := range c.rules {
				kr := &nftables.Rule{Table: kt, Chain: chains[i], Exprs: r.exprs(t.family)}
				if r.comment != "" {
					kr.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
				}
				w.conn.AddRule(kr)
			}
		}
	}
}

func (r rule) exprs(f family) []expr.Any {
	var es []expr.Any
	for _, c := range r.clauses {
		es = append(es, c.exprs(f)...)
	}
	return es
}

// update queues the difference where old and now differ in the elements of their sets only, and reports whether it did.
func (w *firewall) update(old, now *standing) bool {
	if old.shape != now.shape {
		return false
	}
	gone, fresh := map[place][]string{}, map[place][]string{}
	for at, have := range old.sets {
		for raw := range have {
			if _, stays := now.sets[at][raw]; !stays {
				gone[at] = append(gone[at], raw)
			}
		}
		for raw := range now.sets[at] {
			if _, there := have[raw]; !there {
				fresh[at] = append(fresh[at], raw)
			}
		}
	}
	w.send(now, gone, fresh)
	return true
}

// elementsAtOnce keeps one message's list below the 64 KiB that a netlink attribute can have, also with the longest keys.
const elementsAtOnce = 300

func (w *firewall) elements(ks *nftables.Set, s set, es []element, do func(*nftables.Set, []nftables.SetElement) error) {
	for part := range slices.Chunk(es, elementsAtOnce) {
		_ = do(ks, kernelElements(s, part))
	}
}

func kernelSet(t *nftables.Table, s set, number int) *nftables.Set {
	ks := &nftables.Set{Table: t, Name: s.name, ID: uint32(number + 1), Interval: s.interval, IsMap: s.data != nil,
		HasTimeout: s.timeout, Timeout: s.lasts, Dynamic: s.dynamic, Size: s.size,
		KeyType: concat(s.key), Concatenation: len(s.key) > 1, KeyByteOrder: binaryutil.BigEndian}
	if s.key[0] == nftables.TypeIFName {
		ks.KeyByteOrder = binaryutil.NativeEndian
	}
	if s.data != nil {
		ks.DataType = concat(s.data)
	}
	return ks
}

func concat(types []nftables.SetDatatype) nftables.SetDatatype {
	if len(types) == 1 {
		return types[0]
	}
	return nftables.MustConcatSetType(types...) // three at most
}

func kernelElements(s set, es []element) []nftables.SetElement {
	var kes []nftables.SetElement
	for _, e := range es {
		first := len(kes)
		kes = append(kes, rawElements(s, []string{e.bytes()})...)
		kes[first].Timeout = e.lasts
	}
	return kes
}

// rawElements makes of elements' bytes what the kernel is told.
func rawElements(s set, raws []string) []nftables.SetElement {
	kes := make([]nftables.SetElement, 0, len(raws))
	size := keySize(s.key)
	for _, raw := range raws {
		b := []byte(raw)
		ke := nftables.SetElement{Key: b[:size]}
		if s.interval && len(s.key) > 1 {
			ke.KeyEnd = b[size : 2*size]
		}
		if len(b) > 2*size {
			ke.Val = b[2*size:]
		}
		kes = append(kes, ke)
		if s.interval && len(s.key) == 1 {
			if last, _ := netip.AddrFromSlice(b[size : 2*size]); last.Next().IsValid() {
				kes = append(kes, nftables.SetElement{Key: last.Next().AsSlice(), IntervalEnd: true})
			}
		}
	}
	return kes
}

// keySize is how many bytes partsBytes makes of a key of these types.
func keySize(types []nftables.SetDatatype) int {
	if len(types) == 1 {
		return int(types[0].Bytes)
	}
	size := 0
	for _, t := range types {
		size += int(t.Bytes+3) &^ 3
	}
	return size
}
