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
	conn    *nftables.Conn
	port    uint32    // of its socket: what the kernel calls whoever sends
	applied *document // nil: unknown
	// also queues what a table has beyond its document when that is written whole.
	also func(d document)
}

// openFirewall opens a socket in the calling thread's network namespace.
func openFirewall() (*firewall, error) {
	conn, port, err := openRules(transactionBytes)
	if err != nil {
		return nil, err
	}
	return &firewall{conn: conn, port: port}, nil
}

// openRules opens a socket for rules in the calling thread's network namespace, with room for transactions of some size. port is the
// kernel's name for it.
func openRules(bytes int) (conn *nftables.Conn, port uint32, err error) {
	conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		var name error
		err = raw.Control(func(fd uintptr) {
			var a unix.Sockaddr
			if a, name = unix.Getsockname(int(fd)); name == nil {
				port = a.(*unix.SockaddrNetlink).Pid
			}
		})
		return errors.Join(err, name, c.SetWriteBuffer(bytes), c.SetReadBuffer(bytes))
	}))
	if err != nil {
		return nil, 0, noNFTables(err)
	}
	return conn, port, nil
}

// transactionBytes is room for some 100,000 ports in one transaction; the kernel takes it only while one is under way.
const transactionBytes = 16 << 20

func (w *firewall) Close() error { return w.conn.CloseLasting() }

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
	if w.applied == nil || !w.update(*w.applied, d) {
		old := document{}
		if w.applied != nil {
			old = *w.applied
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
	w.applied = &d
	return nil
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
	w.applied = &d
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

// update queues the difference where old and d differ in the elements of their sets only, and reports whether it did.
func (w *firewall) update(old, d document) bool {
	if !sameShape(old, d) {
		return false
	}
	for i, t := range d.tables {
		kt := &nftables.Table{Family: nftables.TableFamily(t.family), Name: t.name}
		for j, s := range t.sets {
			gone, fresh := difference(old.tables[i].sets[j].elements, s.elements)
			ks := kernelSet(kt, s, j)
			w.elements(ks, s, gone, w.conn.SetDeleteElements)
			w.elements(ks, s, fresh, w.conn.SetAddElements)
		}
	}
	return true
}

func sameShape(a, b document) bool {
	shape := func(d document) string {
		bare := document{tables: slices.Clone(d.tables)}
		for i := range bare.tables {
			sets := slices.Clone(bare.tables[i].sets)
			for j := range sets {
				sets[j].elements = nil
			}
			bare.tables[i].sets = sets
		}
		return bare.String()
	}
	return shape(a) == shape(b)
}

// difference is what must go and come; both lists are sorted. An element whose data changed goes and comes.
func difference(old, now []element) (gone, fresh []element) {
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].raw < now[0].raw:
			gone, old = append(gone, old[0]), old[1:]
		case len(old) == 0 || now[0].raw < old[0].raw:
			fresh, now = append(fresh, now[0]), now[1:]
		default:
			old, now = old[1:], now[1:]
		}
	}
	return gone, fresh
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
		ke := nftables.SetElement{Key: partsBytes(edge(e.key, false))}
		ke.Timeout = e.lasts
		if s.interval && len(s.key) > 1 {
			ke.KeyEnd = partsBytes(edge(e.key, true))
		}
		if e.data != nil {
			ke.Val = partsBytes(e.data)
		}
		kes = append(kes, ke)
		if s.interval && len(s.key) == 1 {
			if after := lastAddr(prefixOf(e)).Next(); after.IsValid() {
				kes = append(kes, nftables.SetElement{Key: after.AsSlice(), IntervalEnd: true})
			}
		}
	}
	return kes
}

// prefixOf is the block an element of an interval set stands for.
func prefixOf(e element) netip.Prefix { return e.key[0].(netip.Prefix) }
