package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// A document is a ruleset as a value: what compile makes, what the golden files show, and what apply hands to the
// kernel. Each clause knows its text in nft's language and its expressions in the kernel's; a test loads the text with
// nft and compares the two.
type document struct {
	tables []table
}

type family byte

const (
	ip4 = family(unix.NFPROTO_IPV4)
	ip6 = family(unix.NFPROTO_IPV6)
)

func (f family) String() string {
	switch f {
	case ip6:
		return "ip6"
	case onBridges:
		return "bridge"
	case inet:
		return "inet"
	}
	return "ip"
}

func (f family) addrType() nftables.SetDatatype {
	if f == ip6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

type table struct {
	family family
	name   string
	sets   []set
	chains []chain
}

// set is a set, or a map where it has a data type.
type set struct {
	name     string
	key      []nftables.SetDatatype
	data     []nftables.SetDatatype
	interval bool
	// timeout says that elements go by themselves, dynamic that rules add them, at most size of them, for the time lasts.
	timeout, dynamic bool
	size             uint32
	lasts            time.Duration
	// typeof is how the text names a type that nft cannot name otherwise.
	typeof   string
	elements []element
}

// element is one entry; each part is a netip.Addr, a rawAddr, a net.HardwareAddr, a netip.Prefix, a port (uint16), a protocol,
// a link's name, or a span of two of these.
type element struct {
	key, data []any
	lasts     time.Duration // 0: until it is deleted, or as the set says
	raw       string        // bytes, set by sortElements
}

type protocol byte

func (p protocol) String() string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

type chain struct {
	name  string
	hook  hook // the zero value: only jumped to
	rules []rule
}

type hook struct {
	typ      nftables.ChainType
	name     string
	num      *nftables.ChainHook
	prioName string
	prio     nftables.ChainPriority
}

func hookForward() hook {
	return hook{nftables.ChainTypeFilter, "forward", nftables.ChainHookForward, "filter", *nftables.ChainPriorityFilter}
}

func hookGuard() hook {
	return hook{nftables.ChainTypeFilter, "prerouting", nftables.ChainHookPrerouting, "raw", *nftables.ChainPriorityRaw}
}

func hookPrerouting() hook {
	return hook{nftables.ChainTypeNAT, "prerouting", nftables.ChainHookPrerouting, "dstnat", *nftables.ChainPriorityNATDest}
}

// hookTranslated comes when destinations are translated.
func hookTranslated() hook {
	return hook{nftables.ChainTypeFilter, "prerouting", nftables.ChainHookPrerouting, "-99", *nftables.ChainPriorityRef(-99)}
}

func hookOutput() hook {
	return hook{nftables.ChainTypeNAT, "output", nftables.ChainHookOutput, "-100", *nftables.ChainPriorityNATDest}
}

func hookRawOutput() hook {
	return hook{nftables.ChainTypeFilter, "output", nftables.ChainHookOutput, "raw", *nftables.ChainPriorityRaw}
}

// hookAsk comes after everybody who filters, mangles or marks what is for the host.
func hookAsk() hook {
	return hook{nftables.ChainTypeFilter, "input", nftables.ChainHookInput, "290", *nftables.ChainPriorityRef(290)}
}

func hookPostrouting() hook {
	return hook{nftables.ChainTypeNAT, "postrouting", nftables.ChainHookPostrouting, "srcnat", *nftables.ChainPriorityNATSource}
}

type rule struct {
	clauses []clause
	comment string
}

func when(clauses ...clause) rule { return rule{clauses: clauses} }

// because gives the rule a comment, which `nft list` shows.
func (r rule) because(comment string) rule { r.comment = comment; return r }

// clause is one part of a rule.
type clause interface {
	text(f family) string
	exprs(f family) []expr.Any
}

// Registers: four of 16 bytes each, which the kernel also counts as sixteen of 4 bytes from number 8 on.
const (
	reg1     = unix.NFT_REG_1
	regWords = unix.NFT_REG32_00
	ifnameN  = unix.IFNAMSIZ / 4
)

type direction bool

const (
	in  = direction(false)
	out = direction(true)
)

func (d direction) key() (string, expr.MetaKey) {
	if d == out {
		return "oifname", expr.MetaKeyOIFNAME
	}
	return "iifname", expr.MetaKeyIIFNAME
}

func bang(not bool) string {
	if not {
		return "!= "
	}
	return ""
}

// link matches the name of the link a packet came by or leaves by: one name, or a set of them.
type link struct {
	dir       direction
	not       bool
	name, set string
}

func (c link) text(family) string {
	key, _ := c.dir.key()
	if c.set != "" {
		return key + " " + bang(c.not) + "@" + c.set
	}
	return key + " " + bang(c.not) + strconv.Quote(c.name)
}

func (c link) exprs(family) []expr.Any {
	_, key := c.dir.key()
	load := &expr.Meta{Key: key, Register: reg1}
	if c.set != "" {
		return []expr.Any{load, &expr.Lookup{SourceRegister: reg1, SetName: c.set, Invert: c.not}}
	}
	return []expr.Any{load, &expr.Cmp{Op: compareOp(c.not), Register: reg1, Data: padded(c.name)}}
}

func compareOp(not bool) expr.CmpOp {
	if not {
		return expr.CmpOpNeq
	}
	return expr.CmpOpEq
}

// linkPair matches both links in a set of pairs.
type linkPair struct{ set string }

func (c linkPair) text(family) string { return "iifname . oifname @" + c.set }

func (c linkPair) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regWords},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: regWords + ifnameN},
		&expr.Lookup{SourceRegister: regWords, SetName: c.set},
	}
}

// addr matches the source or destination address: one block, or a set of them.
type addr struct {
	dst   bool
	not   bool
	block netip.Prefix
	set   string
}

func (c addr) text(f family) string {
	key := f.String() + " saddr "
	if c.dst {
		key = f.String() + " daddr "
	}
	if c.set != "" {
		return key + bang(c.not) + "@" + c.set
	}
	return key + bang(c.not) + blockText(c.block)
}

// loadAddr puts an address of the packet into a register.
func loadAddr(f family, dst bool, reg uint32) expr.Any {
	p := &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
	if f == ip6 {
		p.Offset, p.Len = 8, 16
	}
	if dst {
		p.Offset += p.Len
	}
	return p
}

func (c addr) exprs(f family) []expr.Any {
	load := loadAddr(f, c.dst, reg1)
	if c.set != "" {
		return []expr.Any{load, &expr.Lookup{SourceRegister: reg1, SetName: c.set, Invert: c.not}}
	}
	want, bits := c.block.Addr().AsSlice(), c.block.Bits()
	if bits%8 == 0 && bits > 0 {
		// nft, too, loads only the bytes that count.
		load.(*expr.Payload).Len = uint32(bits / 8)
		return []expr.Any{load, &expr.Cmp{Op: compareOp(c.not), Register: reg1, Data: want[:bits/8]}}
	}
	mask := make([]byte, len(want))
	for i := range bits {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{load,
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(want)), Mask: mask, Xor: make([]byte, len(want))},
		&expr.Cmp{Op: compareOp(c.not), Register: reg1, Data: want}}
}

// port matches a source or destination port of one protocol.
type port struct {
	proto protocol
	dst   bool
	port  uint16
}

func portText(p protocol, dst bool) string {
	if dst {
		return p.String() + " dport "
	}
	return p.String() + " sport "
}

// portAt is where a port stands in the transport header.
func portAt(dst bool) uint32 {
	if dst {
		return 2
	}
	return 0
}

func (c port) text(family) string { return portText(c.proto, c.dst) + strconv.Itoa(int(c.port)) }

func (c port) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{byte(c.proto)}},
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: portAt(c.dst), Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.BigEndian.PutUint16(c.port)},
	}
}

// setPort rewrites a port in the packet, without a connection being tracked.
type setPort struct {
	proto protocol
	dst   bool
	port  uint16
}

func (c setPort) text(family) string {
	return portText(c.proto, c.dst) + "set " + strconv.Itoa(int(c.port))
}

func (c setPort) exprs(family) []expr.Any {
	checksum := uint32(16) // in a TCP header
	if c.proto == unix.IPPROTO_UDP {
		checksum = 6
	}
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: binaryutil.BigEndian.PutUint16(c.port)},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg1, Base: expr.PayloadBaseTransportHeader,
			Offset: portAt(c.dst), Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: checksum},
	}
}

// state matches the state of the packet's connection.
type state struct{ bits uint32 }

func (c state) text(family) string {
	var names []string
	for _, s := range []struct {
		bit  uint32
		name string
	}{{expr.CtStateBitNEW, "new"}, {expr.CtStateBitESTABLISHED, "established"}, {expr.CtStateBitRELATED, "related"}, {expr.CtStateBitINVALID, "invalid"}} {
		if c.bits&s.bit != 0 {
			names = append(names, s.name)
		}
	}
	return "ct state " + strings.Join(names, ",")
}

func (c state) exprs(family) []expr.Any { return ctBits(expr.CtKeySTATE, c.bits) }

func ctBits(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: make([]byte, 4)},
	}
}

// translated matches connections whose destination was translated.
type translated struct{}

func (translated) text(family) string { return "ct status dnat" }

func (translated) exprs(family) []expr.Any { return ctBits(expr.CtKeySTATUS, 1<<5 /* IPS_DST_NAT */) }

// publishedMark is on packets between containers of a network without icc while they pass its bridge, where the destination is one that
// the rules of IP have translated. Containers cannot set it: it does not leave a network namespace.
const publishedMark = 1 << 12

// marked matches packets with publishedMark.
type marked struct{ not bool }

func (c marked) text(family) string {
	return fmt.Sprintf("meta mark & 0x%08x %s 0x%08x", publishedMark, map[bool]string{false: "==", true: "!="}[c.not], publishedMark)
}

func (c marked) exprs(family) []expr.Any {
	bit := binaryutil.NativeEndian.PutUint32(publishedMark)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: bit, Xor: make([]byte, 4)},
		&expr.Cmp{Op: compareOp(c.not), Register: reg1, Data: bit},
	}
}

// mark sets publishedMark.
type mark struct{}

func (mark) text(family) string {
	return fmt.Sprintf("meta mark set meta mark | 0x%08x", publishedMark)
}

func (mark) exprs(family) []expr.Any {
	others := ^uint32(publishedMark)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(others),
			Xor: binaryutil.NativeEndian.PutUint32(publishedMark)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1, SourceRegister: true},
	}
}

// toThisHost matches packets for one of the host's own addresses.
type toThisHost struct{}

func (toThisHost) text(family) string { return "fib daddr type local" }

func (toThisHost) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// toPort matches packets whose destination address (unless it is any), protocol and port are in a set.
type toPort struct {
	set     string
	anyAddr bool
}

func (c toPort) text(f family) string {
	if c.anyAddr {
		return "meta l4proto . th dport @" + c.set
	}
	return f.String() + " daddr . meta l4proto . th dport @" + c.set
}

func (c toPort) exprs(f family) []expr.Any {
	return append(loadDestination(f, !c.anyAddr), &expr.Lookup{SourceRegister: regWords, SetName: c.set})
}

// duplicate sends a copy of the packet to a neighbour by a link.
type duplicate struct {
	next  netip.Addr
	link  string
	index int
}

func (c duplicate) text(family) string {
	return "dup to " + c.next.String() + " device " + strconv.Quote(c.link)
}

func (c duplicate) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg1, Data: c.next.AsSlice()},
		&expr.Immediate{Register: unix.NFT_REG_2, Data: binaryutil.NativeEndian.PutUint32(uint32(c.index))},
		&expr.Dup{RegAddr: reg1, RegDev: unix.NFT_REG_2, IsRegDevSet: true},
	}
}

// loadDestination puts address (if byAddr), protocol and port of where the packet goes into registers.
func loadDestination(f family, byAddr bool) []expr.Any {
	var es []expr.Any
	reg := uint32(regWords)
	if byAddr {
		es = append(es, loadAddr(f, true, reg))
		reg += addrWords(f)
	}
	return append(es,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Payload{DestRegister: reg + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
}

func addrWords(f family) uint32 {
	if f == ip6 {
		return 4
	}
	return 1
}

// dnat sends the packet where a map says by protocol and port, or by address, protocol and port; where it says
// nothing the rule does not match.
type dnat struct {
	to     string
	byAddr bool
}

func (c dnat) text(f family) string {
	key := "meta l4proto . th dport"
	if c.byAddr {
		key = f.String() + " daddr . " + key
	}
	return "dnat " + f.String() + " to " + key + " map @" + c.to
}

func (c dnat) exprs(f family) []expr.Any {
	return append(loadDestination(f, c.byAddr),
		&expr.Lookup{SourceRegister: regWords, DestRegister: regWords, IsDestRegSet: true, SetName: c.to},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f), RegAddrMin: regWords, RegAddrMax: 0,
			RegProtoMin: regWords + addrWords(f), Specified: true})
}

// snat gives the packet the source that a map of blocks says; where it says nothing the rule does not match.
type snat struct{ to string }

func (c snat) text(f family) string {
	return "snat " + f.String() + " to " + f.String() + " saddr map @" + c.to
}

func (c snat) exprs(f family) []expr.Any {
	return []expr.Any{loadAddr(f, false, reg1),
		&expr.Lookup{SourceRegister: reg1, DestRegister: reg1, IsDestRegSet: true, SetName: c.to},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f), RegAddrMin: reg1}}
}

// masquerade hides the source behind the address of the link the packet leaves by.
type masquerade struct{}

func (masquerade) text(family) string { return "masquerade" }

func (masquerade) exprs(family) []expr.Any { return []expr.Any{&expr.Masq{}} }

// verdict ends the rule.
type verdict struct {
	kind expr.VerdictKind
	to   string
}

func accept() clause           { return verdict{kind: expr.VerdictAccept} }
func drop() clause             { return verdict{kind: expr.VerdictDrop} }
func jump(chain string) clause { return verdict{kind: expr.VerdictJump, to: chain} }

func (c verdict) text(family) string {
	switch c.kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	default:
		return "jump " + c.to
	}
}

func (c verdict) exprs(family) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: c.kind, Chain: c.to}}
}

// String is the document in nft's language: loading it into a host without these tables has the effect of apply.
func (d document) String() string {
	var b strings.Builder
	for i, t := range d.tables {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "table %s %s {\n", t.family, t.name)
		gap := ""
		for _, s := range t.sets {
			b.WriteString(gap)
			s.write(&b)
			gap = "\n"
		}
		for _, c := range t.chains {
			b.WriteString(gap)
			c.write(&b, t.family)
			gap = "\n"
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func (s set) write(b *strings.Builder) {
	if s.typeof != "" {
		fmt.Fprintf(b, "\tset %s {\n\t\ttypeof %s\n", s.name, s.typeof)
	} else if s.data == nil {
		fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n", s.name, typeNames(s.key))
	} else {
		fmt.Fprintf(b, "\tmap %s {\n\t\ttype %s : %s\n", s.name, typeNames(s.key), typeNames(s.data))
	}
	if s.size > 0 {
		fmt.Fprintf(b, "\t\tsize %d\n", s.size)
	}
	var flags []string
	for _, f := range []struct {
		on   bool
		name string
	}{{s.interval, "interval"}, {s.dynamic, "dynamic"}, {s.timeout, "timeout"}} {
		if f.on {
			flags = append(flags, f.name)
		}
	}
	if len(flags) > 0 {
		b.WriteString("\t\tflags " + strings.Join(flags, ",") + "\n")
	}
	if s.lasts > 0 {
		fmt.Fprintf(b, "\t\ttimeout %ds\n", int(s.lasts.Seconds()))
	}
	if len(s.elements) > 0 {
		b.WriteString("\t\telements = {\n")
		for _, e := range s.elements {
			fmt.Fprintf(b, "\t\t\t%s,\n", e)
		}
		b.WriteString("\t\t}\n")
	}
	b.WriteString("\t}\n")
}

func typeNames(ts []nftables.SetDatatype) string {
	names := make([]string, len(ts))
	for i, t := range ts {
		names[i] = t.Name
	}
	return strings.Join(names, " . ")
}

func (c chain) write(b *strings.Builder, f family) {
	fmt.Fprintf(b, "\tchain %s {\n", c.name)
	if c.hook.num != nil {
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %s; policy accept;\n", c.hook.typ, c.hook.name, c.hook.prioName)
	}
	for _, r := range c.rules {
		b.WriteString("\t\t")
		for i, cl := range r.clauses {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(cl.text(f))
		}
		if r.comment != "" {
			fmt.Fprintf(b, " comment %q", r.comment)
		}
		b.WriteByte('\n')
	}
	b.WriteString("\t}\n")
}

func (e element) String() string {
	text := partsText(e.key)
	if e.data != nil {
		text += " : " + partsText(e.data)
	}
	return text
}

func partsText(parts []any) string {
	texts := make([]string, len(parts))
	for i, p := range parts {
		switch p := p.(type) {
		case string:
			texts[i] = strconv.Quote(p)
		case netip.Prefix:
			texts[i] = blockText(p)
		default:
			texts[i] = fmt.Sprint(p)
		}
	}
	return strings.Join(texts, " . ")
}

func blockText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// partsBytes is the kernel's form: every part padded to whole registers of four bytes when there are several.
func partsBytes(parts []any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, padded(p)...)
		case netip.Addr:
			b = append(b, p.AsSlice()...)
		case netip.Prefix:
			b = append(b, p.Addr().AsSlice()...)
		case rawAddr:
			b = append(b, netip.Addr(p).AsSlice()...)
		case net.HardwareAddr:
			b = append(b, p...)
		case uint16:
			b = append(b, byte(p>>8), byte(p))
		case protocol:
			b = append(b, byte(p))
		}
		for len(parts) > 1 && len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func padded(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// bytes are the key's first and last values and the data: equal ones are the same element.
func (e element) bytes() string {
	return string(slices.Concat(partsBytes(edge(e.key, false)), partsBytes(edge(e.key, true)), partsBytes(e.data)))
}

// sortElements gives equal sets equal texts.
func sortElements(es []element) {
	for i, e := range es {
		es[i].raw = e.bytes()
	}
	slices.SortFunc(es, func(a, b element) int { return strings.Compare(a.raw, b.raw) })
}
