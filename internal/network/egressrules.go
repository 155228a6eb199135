package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// inet is the family of rules for both versions of IP.
const inet = family(unix.NFPROTO_INET)

// limited is one for whom there is a policy: all of a network, or one interface of a container.
type limited struct {
	link   string       // the bridge
	addrs  []netip.Addr // of the interface; none: all of the network
	policy *egress
}

// fence is everything the rules about leaving depend on.
type fence struct {
	table  string
	group  uint16 // of the log
	within []policyNetwork
	who    []limited
}

// compileEgress makes the rules about leaving; there are none where there is no policy. The rules are always the same
// few; policies are elements of sets, what names stand for is put into the sets of openSets as they
// are resolved.
func compileEgress(w fence) document {
	if len(w.who) == 0 {
		return document{}
	}
	t := table{family: inet, name: w.table, sets: w.sets()}
	both := func(rs ...func(f family) rule) (rules []rule) {
		for _, r := range rs {
			rules = append(rules, r(ip4), r(ip6))
		}
		return rules
	}
	leaving := chain{name: "leaving", hook: hookLeaving(), rules: []rule{
		when(state{expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED}, accept()),
	}}
	leaving.rules = append(leaving.rules, both(
		func(f family) rule {
			return when(version{f}, inSet{f, "within", []field{fieldLink, fieldDestination}}, notKind{unix.RTN_LOCAL}, accept())
		})...)
	leaving.rules = append(leaving.rules,
		when(icmp6{typ: 135, bare: true}, notKind{unix.RTN_UNICAST}, accept()).because("who has an address; not to be sent on"),
		when(icmp6{typ: 136, bare: true}, notKind{unix.RTN_UNICAST}, accept()))
	leaving.rules = append(leaving.rules, both(
		func(f family) rule {
			return when(version{f}, link{dir: in, set: "networks"}, jump("network"+suffix(f)))
		},
		func(f family) rule {
			return when(version{f}, inSet{f, "members", []field{fieldLink, fieldSource}}, jump("member"+suffix(f)))
		})...)
	t.chains = append(t.chains, chain{name: "refuse", rules: append(both(
		func(f family) rule {
			return when(version{f}, meter{f, "noise"}, logTo{w.group})
		}),
		when(isTCP{}, reject{tcp: true}),
		when(reject{}))})
	for _, f := range []family{ip4, ip6} {
		of := []field{fieldLink, fieldDestination, fieldProtocol, fieldPort}
		from := []field{fieldLink, fieldSource, fieldDestination, fieldProtocol, fieldPort}
		t.chains = append(t.chains,
			chain{name: "network" + suffix(f), rules: slices.Concat([]rule{
				when(version{f}, inSet{f, "network_deny", of}, jump("refuse")),
				when(version{f}, inSet{f, "network_allow", of}, back())},
				openedBy(f, "network"), []rule{when(jump("refuse"))})},
			chain{name: "member" + suffix(f), rules: slices.Concat([]rule{
				when(version{f}, inSet{f, "member_deny", from}, jump("refuse")),
				when(version{f}, inSet{f, "member_allow", from}, back())},
				openedBy(f, "member"), []rule{when(jump("refuse"))})})
	}
	t.chains = append(t.chains, leaving)
	return document{tables: []table{t}}
}

// openKinds are in the order they are asked.
func openKinds() []openKind { return []openKind{openAddress, openProtocol, openPort, openRange} }

// fields are what the set of a kind is asked for.
func (k openKind) fields() []field {
	fields := []field{fieldLink, fieldSource, fieldDestination, fieldProtocol, fieldPort}
	switch k {
	case openAddress:
		return fields[:3]
	case openProtocol:
		return fields[:4]
	}
	return fields
}

// openSet is the set for what names have opened by a network's policy or a container's, without its elements.
func openSet(of string, k openKind, f family) set {
	all := []nftables.SetDatatype{nftables.TypeIFName, f.addrType(), f.addrType(), nftables.TypeInetProto, nftables.TypeInetService}
	return set{name: of + "_" + string(k) + suffix(f), key: all[:len(k.fields())], interval: k == openRange, timeout: true}
}

func openSets(of string, f family) (sets []set) {
	for _, k := range openKinds() {
		sets = append(sets, openSet(of, k, f))
	}
	return sets
}

// openedBy lets pass what names have opened.
func openedBy(f family, of string) (rules []rule) {
	for _, k := range openKinds() {
		rules = append(rules, when(version{f}, inSet{f, of + "_" + string(k), k.fields()}, back()))
	}
	return rules
}

func suffix(f family) string {
	if f == ip6 {
		return "6"
	}
	return "4"
}

const (
	noiseSize = 4096
	noiseTime = time.Minute
)

func (w fence) sets() []set {
	name, port, proto := nftables.TypeIFName, nftables.TypeInetService, nftables.TypeInetProto
	types := func(ts ...nftables.SetDatatype) []nftables.SetDatatype { return ts }
	networks := set{name: "networks", key: types(name)}
	var sets []set
	for _, f := range []family{ip4, ip6} {
		a := f.addrType()
		within := set{name: "within" + suffix(f), key: types(name, a), interval: true}
		for _, n := range w.within {
			for _, s := range n.subnets {
				if familyOf(s.Addr()) == f {
					within.elements = append(within.elements, element{key: []any{exact(n.link), span{s.Addr(), lastAddr(s)}}})
				}
			}
		}
		members := set{name: "members" + suffix(f), key: types(name, a)}
		of, from := types(name, a, proto, port), types(name, a, a, proto, port)
		deny := set{name: "network_deny" + suffix(f), key: of, interval: true}
		allow := set{name: "network_allow" + suffix(f), key: of, interval: true}
		deny1 := set{name: "member_deny" + suffix(f), key: from, interval: true}
		allow1 := set{name: "member_allow" + suffix(f), key: from, interval: true}
		for _, who := range w.who {
			if len(who.addrs) == 0 {
				if f == ip4 {
					networks.elements = append(networks.elements, element{key: []any{who.link}})
				}
				deny.elements = append(deny.elements, who.policy.elements(verbDeny, f, exact(who.link))...)
				allow.elements = append(allow.elements, who.policy.elements(verbAllow, f, exact(who.link))...)
			}
			for _, addr := range who.addrs {
				if familyOf(addr) != f {
					continue
				}
				members.elements = append(members.elements, element{key: []any{who.link, addr}})
				deny1.elements = append(deny1.elements, who.policy.elements(verbDeny, f, exact(who.link), exact(addr))...)
				allow1.elements = append(allow1.elements, who.policy.elements(verbAllow, f, exact(who.link), exact(addr))...)
			}
		}
		sets = slices.Concat(sets, []set{within, members, deny, allow}, openSets("network", f), []set{deny1, allow1}, openSets("member", f))
		sets = append(sets, set{name: "noise" + suffix(f), key: types(name, a), timeout: true, dynamic: true, size: noiseSize, lasts: noiseTime})
	}
	sets = append([]set{networks}, sets...)
	for i := range sets {
		sortElements(sets[i].elements)
	}
	return sets
}

func (p *egress) elements(v verb, f family, who ...any) []element {
	var es []element
	for _, r := range p.fixed(v, f) {
		es = append(es, element{key: append(slices.Clone(who), r.key()...)})
	}
	return es
}

// key are the last parts of an element's key.
func (r reach) key() []any {
	return []any{span{r.from, r.to}, span{r.proto[0], r.proto[1]}, span{r.ports[0], r.ports[1]}}
}

// span is a part of a key that stands for all from its first to its last.
type span struct{ first, last any }

func exact(v any) span { return span{v, v} }

func (s span) String() string {
	first, isAddr := s.first.(netip.Addr)
	switch {
	case s.first == s.last:
		return partsText([]any{s.first})
	case isAddr:
		for bits := range first.BitLen() {
			if p := netip.PrefixFrom(first, bits); p == p.Masked() && lastAddr(p) == s.last {
				return p.String()
			}
		}
	}
	return partsText([]any{s.first}) + "-" + partsText([]any{s.last})
}

// edge is a key with the first or last of each span and block.
func edge(key []any, last bool) []any {
	parts := slices.Clone(key)
	for i, p := range parts {
		switch p := p.(type) {
		case span:
			if parts[i] = p.first; last {
				parts[i] = p.last
			}
		case netip.Prefix:
			if parts[i] = p.Addr(); last {
				parts[i] = lastAddr(p)
			}
		}
	}
	return parts
}

// hookLeaving comes when the connection is known and before its destination is translated.
func hookLeaving() hook {
	return hook{nftables.ChainTypeFilter, "prerouting", nftables.ChainHookPrerouting, "-150", *nftables.ChainPriorityRef(-150)}
}

func back() clause { return verdict{kind: expr.VerdictReturn} }

// version matches packets of one version of IP, in a table that sees both.
type version struct{ f family }

func (c version) text(family) string {
	if c.f == ip6 {
		return "meta nfproto ipv6"
	}
	return "meta nfproto ipv4"
}

func (c version) exprs(family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{byte(c.f)}}}
}

type field int

const (
	fieldLink field = iota // the packet came by
	fieldSource
	fieldDestination
	fieldProtocol
	fieldPort // of the destination
)

func fieldsText(f family, fields []field) string {
	text := ""
	for i, x := range fields {
		if i > 0 {
			text += " . "
		}
		text += []string{"iifname", f.String() + " saddr", f.String() + " daddr", "meta l4proto", "th dport"}[x]
	}
	return text
}

// loadFields puts fields into registers as they stand in a set's key.
func loadFields(f family, fields []field) []expr.Any {
	var es []expr.Any
	reg := uint32(regWords)
	for _, x := range fields {
		switch x {
		case fieldLink:
			es = append(es, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg})
			reg += ifnameN
		case fieldSource, fieldDestination:
			es = append(es, loadAddr(f, x == fieldDestination, reg))
			reg += addrWords(f)
		case fieldProtocol:
			es = append(es, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg})
			reg++
		case fieldPort:
			es = append(es, &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
			reg++
		}
	}
	return es
}

// inSet matches packets whose fields are in a set for their version of IP.
type inSet struct {
	f      family
	set    string
	fields []field
}

func (c inSet) text(family) string { return fieldsText(c.f, c.fields) + " @" + c.set + suffix(c.f) }

func (c inSet) exprs(family) []expr.Any {
	return append(loadFields(c.f, c.fields), &expr.Lookup{SourceRegister: regWords, SetName: c.set + suffix(c.f)})
}

// notKind matches packets for other kinds of addresses than one, as the routes say.
type notKind struct{ kind uint32 }

func (c notKind) text(family) string {
	return "fib daddr type != " + map[uint32]string{unix.RTN_LOCAL: "local", unix.RTN_UNICAST: "unicast"}[c.kind]
}

func (c notKind) exprs(family) []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: reg1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: binaryutil.NativeEndian.PutUint32(c.kind)},
	}
}

// Refused packets of one container that are told of.
const (
	noiseRate  = 10 // a second
	noiseBurst = 20
)

// meter matches so many packets of each link and source address a second.
type meter struct {
	f   family
	set string
}

func (c meter) text(family) string {
	return fmt.Sprintf("update @%s%s { %s limit rate %d/second burst %d packets }", c.set, suffix(c.f),
		fieldsText(c.f, []field{fieldLink, fieldSource}), noiseRate, noiseBurst)
}

func (c meter) exprs(family) []expr.Any {
	return append(loadFields(c.f, []field{fieldLink, fieldSource}), &expr.Dynset{SrcRegKey: regWords, SetName: c.set + suffix(c.f),
		Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{
			&expr.Limit{Type: expr.LimitTypePkts, Rate: noiseRate, Unit: expr.LimitTimeSecond, Burst: noiseBurst}}})
}

// logTo hands the beginning of the packet to who listens to a group of nfnetlink_log.
type logTo struct{ group uint16 }

const snapLen = 96 // bytes: the headers of IPv6 and of what is in it

func (c logTo) text(family) string {
	return "log group " + strconv.Itoa(int(c.group)) + " snaplen " + strconv.Itoa(snapLen) + " queue-threshold 1"
}

func (c logTo) exprs(family) []expr.Any {
	return []expr.Any{&expr.Log{Key: 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN | 1<<unix.NFTA_LOG_QTHRESHOLD,
		Group: c.group, Snaplen: snapLen, QThreshold: 1}}
}

type isTCP struct{}

func (isTCP) text(family) string { return "meta l4proto tcp" }

func (isTCP) exprs(family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: []byte{unix.IPPROTO_TCP}}}
}

// reject drops the packet and tells its sender.
type reject struct{ tcp bool }

func (c reject) text(family) string {
	if c.tcp {
		return "reject with tcp reset"
	}
	return "reject with icmpx admin-prohibited"
}

func (c reject) exprs(family) []expr.Any {
	if c.tcp {
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
	}
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}
