package network

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// OptionEgress is the option, of a bridge network and of an endpoint, that says where containers may go.
const OptionEgress = "com.berth.network.egress"

// egress says which connections containers may open to what is not on their own network: the world, other networks, the
// host itself. Its text is a list of rules, separated by commas, semicolons or spaces:
//
//	allow=WHERE[:PORT[-PORT]][/tcp|udp|sctp|icmp]    deny=…    default=allow|deny    resolve=DOMAIN
//
// WHERE is an address, a block of addresses, a domain (example.com, or *.example.com for every name below it) or all. A
// port without a protocol is of TCP and UDP. What a deny rule means is denied whatever the other rules say; then what an
// allow rule means is allowed; and the rest is as the default says, which is deny where there are allow rules. A domain
// stands for the addresses that the container's name server gave for it. Names that may not be reached are not resolved
// where the default is deny, unless a resolve rule means them.
type egress struct {
	text  string // rules in the order they were given, separated by commas
	open  bool   // the default is allow
	rules []egressRule
}

// String is the policy as parseEgress reads it, "" for none.
func (p *egress) String() string {
	if p == nil {
		return ""
	}
	return p.text
}

type verb string

const (
	verbAllow   = verb("allow")
	verbDeny    = verb("deny")
	verbResolve = verb("resolve")
	verbDefault = verb("default")
)

type egressRule struct {
	verb   verb
	blocks []netip.Prefix // none: a domain
	domain string         // lower case, without the final dot; "*.example.com"; "*" is every name
	proto  string         // "" is any
	ports  [2]uint16      // {0, 65535} is any
}

const (
	maxEgressRules = 128
	maxEgressText  = 8 << 10
)

// CheckEgress refuses a policy that cannot be understood.
func CheckEgress(text string) error {
	if _, err := parseEgress(text); err != nil {
		return failf(errdefs.ErrInvalidArgument, "invalid value %q of option %q: %w", text, OptionEgress, err)
	}
	return nil
}

// parseEgress reads a policy; nil is none: everything is allowed.
func parseEgress(text string) (*egress, error) {
	if len(text) > maxEgressText {
		return nil, fmt.Errorf("it is longer than %d bytes", maxEgressText)
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\t' || r == '\n' })
	if len(words) == 0 || len(words) == 1 && words[0] == "off" {
		return nil, nil
	}
	if len(words) > maxEgressRules {
		return nil, fmt.Errorf("it has more than %d rules", maxEgressRules)
	}
	p := &egress{text: strings.Join(words, ","), open: true}
	chosen := ""
	for _, word := range words {
		v, where, _ := strings.Cut(word, "=")
		if verb(v) == verbDefault {
			if where != "allow" && where != "deny" || chosen != "" && chosen != where {
				return nil, fmt.Errorf("%q: the default is allow or deny, and there is one", word)
			}
			chosen = where
			continue
		}
		r, err := parseEgressRule(verb(v), where)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", word, err)
		}
		p.open = p.open && r.verb == verbDeny
		p.rules = append(p.rules, r)
	}
	if chosen != "" {
		p.open = chosen == "allow"
	}
	for _, r := range p.rules {
		if p.open && r.verb == verbDeny && r.domain != "" {
			return nil, fmt.Errorf("deny=%s: where all is allowed but for some domains their addresses stay reachable; deny their addresses, or deny all (default=deny) and allow what is needed", r.domain)
		}
		if p.open && r.verb != verbDeny {
			return nil, errors.New("allow and resolve have no effect where the default is allow")
		}
	}
	return p, nil
}

func parseEgressRule(v verb, where string) (egressRule, error) {
	r := egressRule{verb: v, ports: [2]uint16{0, 65535}}
	switch v {
	case verbAllow, verbDeny, verbResolve:
	default:
		return r, errors.New("a rule is allow=WHERE[:PORT][/PROTOCOL], deny=…, resolve=DOMAIN, default=allow or default=deny")
	}
	rest := where
	if at := strings.LastIndexByte(rest, '/'); at >= 0 {
		switch p := rest[at+1:]; p {
		case "tcp", "udp", "sctp", "icmp":
			r.proto, rest = p, rest[:at]
		}
	}
	target, ports, err := splitEgressPorts(rest)
	if err != nil {
		return r, err
	}
	if ports != "" {
		if r.proto == "icmp" {
			return r, errors.New("icmp has no ports")
		}
		first, last, ranged := strings.Cut(ports, "-")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || a == 0 || b < a || first[0] == '+' || last[0] == '+' {
			return r, fmt.Errorf("%q is no port and no range of ports: they are from 1 to 65535", ports)
		}
		r.ports = [2]uint16{uint16(a), uint16(b)}
	}
	if target == "all" {
		r.blocks = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
		if v == verbResolve {
			r.blocks, r.domain = nil, "*"
		}
	} else if block, isAddr, err := parseEgressBlock(target); isAddr {
		if err != nil {
			return r, err
		}
		r.blocks = []netip.Prefix{block}
	} else if r.domain, err = parseDomain(target); err != nil {
		return r, err
	}
	if v == verbResolve && (r.blocks != nil || r.proto != "" || ports != "") {
		return r, errors.New("what is resolved is a domain, or all, without port and protocol")
	}
	if v == verbDeny && r.domain != "" && (r.proto != "" || ports != "") {
		return r, errors.New("a domain that is denied is not resolved, for any port")
	}
	return r, nil
}

// splitEgressPorts cuts off what stands behind the last colon that is no part of an address.
func splitEgressPorts(text string) (target, ports string, err error) {
	if rest, ok := strings.CutPrefix(text, "["); ok {
		addr, after, ok := strings.Cut(rest, "]")
		if !ok {
			return "", "", errors.New("the bracket is not closed")
		}
		bits, ports, ranged := strings.Cut(after, ":")
		if bits != "" && bits[0] != '/' || ranged && ports == "" {
			return "", "", errors.New("behind the bracket is a colon and a port")
		}
		return addr + bits, ports, nil
	}
	if strings.Count(text, ":") != 1 {
		return text, "", nil
	}
	target, ports, _ = strings.Cut(text, ":")
	if ports == "" {
		return "", "", errors.New("there is no port behind the colon")
	}
	return target, ports, nil
}

// parseEgressBlock reads an address or a block of them; isAddr is false for what can only be a domain.
func parseEgressBlock(text string) (block netip.Prefix, isAddr bool, err error) {
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return block, true, errors.New("an address has no zone here")
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), true, nil
	}
	if block, err = netip.ParsePrefix(text); err == nil {
		if block.Addr().Is4In6() {
			return block, true, errors.New("write blocks of IPv4 as such")
		}
		if block != block.Masked() {
			return block, true, fmt.Errorf("the block has bits set beyond its length: it would be %s", block.Masked())
		}
		return block, true, nil
	}
	if strings.ContainsAny(text, ":/") {
		return block, true, errors.New("it is no address and no block of addresses")
	}
	return block, false, nil
}

// parseDomain reads example.com or *.example.com.
func parseDomain(text string) (string, error) {
	name := strings.ToLower(strings.TrimSuffix(text, "."))
	labels := strings.Split(strings.TrimPrefix(name, "*."), ".")
	if name == "" || len(name) > 253 {
		return "", errors.New("there is no address and no domain")
	}
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || l[0] == '-' || l[len(l)-1] == '-' {
			return "", errors.New("it is no domain: write example.com, or *.example.com for the names below it, and other letters than ASCII's in their xn-- form")
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return "", errors.New("it is no address and no domain")
	}
	return name, nil
}

// means reports whether a rule's domain is about the name.
func (r egressRule) means(name string) bool {
	if r.domain == "*" {
		return true
	}
	if below, ok := strings.CutPrefix(r.domain, "*"); ok {
		return strings.HasSuffix(name, below)
	}
	return r.domain != "" && r.domain == name
}

// resolves reports whether the name server may ask for a name.
func (p *egress) resolves(name string) bool {
	if p == nil || p.open {
		return true
	}
	found := false
	for _, r := range p.rules {
		if r.means(name) {
			if r.verb == verbDeny {
				return false
			}
			found = true
		}
	}
	return found
}

// A box is a range of protocols and for each a range of ports.
type box struct {
	proto [2]protocol
	ports [2]uint16
}

func (b box) covers(o box) bool {
	return b.proto[0] <= o.proto[0] && o.proto[1] <= b.proto[1] && b.ports[0] <= o.ports[0] && o.ports[1] <= b.ports[1]
}

const anyProtocol = protocol(255)

// boxes are what the rule means, without the addresses.
func (r egressRule) boxes(f family) []box {
	proto := map[string][]protocol{"tcp": {unix.IPPROTO_TCP}, "udp": {unix.IPPROTO_UDP}, "sctp": {unix.IPPROTO_SCTP},
		"icmp": {unix.IPPROTO_ICMP}}[r.proto]
	switch {
	case r.proto == "icmp" && f == ip6:
		proto = []protocol{unix.IPPROTO_ICMPV6}
	case r.proto == "" && r.ports == [2]uint16{0, 65535}:
		return []box{{[2]protocol{0, anyProtocol}, r.ports}}
	case r.proto == "":
		proto = []protocol{unix.IPPROTO_TCP, unix.IPPROTO_UDP}
	}
	var bs []box
	for _, p := range proto {
		bs = append(bs, box{[2]protocol{p, p}, r.ports})
	}
	return bs
}

// cut makes boxes that do not overlap, such that each of bs is a number of them: the kernel takes no overlapping ones.
func cut(bs []box) []box {
	var protos []int
	for _, b := range bs {
		protos = append(protos, int(b.proto[0]), int(b.proto[1])+1)
	}
	slices.Sort(protos)
	protos = slices.Compact(protos)
	var pieces []box
	for i := range len(protos) - 1 {
		proto := [2]protocol{protocol(protos[i]), protocol(protos[i+1] - 1)}
		var ports []int
		for _, b := range bs {
			if b.proto[0] <= proto[0] && proto[1] <= b.proto[1] {
				ports = append(ports, int(b.ports[0]), int(b.ports[1])+1)
			}
		}
		slices.Sort(ports)
		ports = slices.Compact(ports)
		for j := range max(len(ports)-1, 0) {
			piece := box{proto, [2]uint16{uint16(ports[j]), uint16(ports[j+1] - 1)}}
			if slices.ContainsFunc(bs, func(b box) bool { return b.covers(piece) }) {
				pieces = append(pieces, piece)
			}
		}
	}
	return pieces
}

// reach is a range of addresses and how they may be reached.
type reach struct {
	from, to netip.Addr
	box
}

// fixed are what the allow or the deny rules with addresses mean, without overlaps.
func (p *egress) fixed(v verb, f family) []reach {
	var all []box
	for _, r := range p.rules {
		if r.verb == v && r.domain == "" {
			all = append(all, r.boxes(f)...)
		}
	}
	everything := box{[2]protocol{0, anyProtocol}, [2]uint16{0, 65535}}
	if v == verbAllow && p.open {
		all = append(all, everything)
	}
	var reaches []reach
	for _, piece := range cut(all) {
		var spans [][2]netip.Addr
		add := func(b netip.Prefix) {
			if familyOf(b.Addr()) == f {
				spans = append(spans, [2]netip.Addr{b.Addr(), lastAddr(b)})
			}
		}
		for _, r := range p.rules {
			if r.verb == v && r.domain == "" && slices.ContainsFunc(r.boxes(f), func(b box) bool { return b.covers(piece) }) {
				for _, b := range r.blocks {
					add(b)
				}
			}
		}
		if v == verbAllow && p.open {
			add(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
			add(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
		}
		for _, s := range union(spans) {
			reaches = append(reaches, reach{s[0], s[1], piece})
		}
	}
	return reaches
}

// union joins ranges of addresses that overlap or touch.
func union(spans [][2]netip.Addr) [][2]netip.Addr {
	slices.SortFunc(spans, func(a, b [2]netip.Addr) int { return cmp.Or(a[0].Compare(b[0]), a[1].Compare(b[1])) })
	var joined [][2]netip.Addr
	for _, s := range spans {
		if n := len(joined); n > 0 {
			last := &joined[n-1]
			if next := last[1].Next(); !next.IsValid() || s[0].Compare(next) <= 0 {
				if s[1].Compare(last[1]) > 0 {
					last[1] = s[1]
				}
				continue
			}
		}
		joined = append(joined, s)
	}
	return joined
}

// opens are the boxes that an address given for the name may be reached by. Ranges of ports, and only they, are cut so that
// they do not overlap.
func (p *egress) opens(name string, f family) []box {
	if p == nil || !p.resolves(name) {
		return nil
	}
	var ranges, mine, opened []box
	for _, r := range p.rules {
		if r.verb != verbAllow || r.domain == "" {
			continue
		}
		for _, b := range r.boxes(f) {
			switch means := r.means(name); {
			case b.kind() == openRange:
				if ranges = append(ranges, b); means {
					mine = append(mine, b)
				}
			case means && !slices.Contains(opened, b):
				opened = append(opened, b)
			}
		}
	}
	for _, piece := range cut(ranges) {
		if slices.ContainsFunc(mine, func(b box) bool { return b.covers(piece) }) && !slices.Contains(opened, piece) {
			opened = append(opened, piece)
		}
	}
	return opened
}

// openKind is how much of an address a name opens. Each kind has a set of its own: only ranges need one with intervals, for
// each of whose elements the kernel does more the more there are; the others are looked up by their hash.
type openKind string

const (
	openAddress  = openKind("addresses") // all of it
	openProtocol = openKind("protocols") // one protocol
	openPort     = openKind("ports")     // one port
	openRange    = openKind("names")     // a range of ports
)

func (b box) kind() openKind {
	every := b.ports == [2]uint16{0, 65535}
	switch {
	case every && b.proto == [2]protocol{0, anyProtocol}:
		return openAddress
	case every && b.proto[0] == b.proto[1]:
		return openProtocol
	case b.proto[0] == b.proto[1] && b.ports[0] == b.ports[1]:
		return openPort
	}
	return openRange
}

// fixedVerdict is what the rules with addresses say about a destination: known is false where only names could.
func (p *egress) fixedVerdict(to netip.Addr, proto protocol, port uint16) (allowed, known bool) {
	at := box{[2]protocol{proto, proto}, [2]uint16{port, port}}
	is := func(v verb) bool {
		return slices.ContainsFunc(p.fixed(v, familyOf(to)), func(r reach) bool {
			return r.from.Compare(to) <= 0 && to.Compare(r.to) <= 0 && r.covers(at)
		})
	}
	switch {
	case is(verbDeny):
		return false, true
	case is(verbAllow):
		return true, true
	}
	return false, false
}

// mayOpen reports whether a name may open an address: what only the host itself, its neighbours or a group have must be
// allowed by its address.
func mayOpen(a netip.Addr) bool {
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// errEgressLAN says why a policy is refused.
func errEgressLAN(driver string) error {
	return failf(errdefs.ErrInvalidArgument, "option %q is not for networks of the driver %s: what their containers send does not pass the host's rules",
		OptionEgress, driver)
}
