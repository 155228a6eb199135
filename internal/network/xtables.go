package network

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// On a kernel without nftables the policy is rendered for its predecessor, as text for iptables-legacy-restore. Each of our
// chains ends in the name of our bridge, and nothing of others' is touched but for jumps to them:
//
//	raw     PREROUTING            ─▶ BERTH-RAW    containers do not reach the host's loopback
//	nat     PREROUTING, OUTPUT    ─▶ BERTH-DNAT   published ports
//	        POSTROUTING           ─▶ BERTH-POST   what leaves is hidden, what comes back by the host is, too (BERTH-BACK)
//	filter  OUTPUT                ─▶ BERTH-OUT    while containers have links without icc: none is told of a shorter way
//	        FORWARD, the first    ─▶ BERTH-FWD    drops, by BERTH-OURS, what must not reach or leave a container
//	        FORWARD, the last     ─▶ BERTH-END    accepts the rest of ours
//
// So everybody else's rules of FORWARD still decide between our first and our last word, as they do in nftables.
// A port is a rule here, except for ranges that keep their numbers.

// xtTable is what we have in one table.
type xtTable struct {
	name   string
	chains []xtChain
	jumps  []xtJump
}

type xtChain struct {
	name  string
	rules []string
}

// xtJump leads from a chain of the kernel's to one of ours.
type xtJump struct {
	from, rule string
	last       bool
}

// xtNames are our chains' names.
type xtNames struct{ suffix string }

// maxLinkName is the length of the kernel's longest name of a link.
const maxLinkName = unix.IFNAMSIZ - 1

func xtNamesOf(table string) xtNames {
	suffix := strings.TrimPrefix(table, "berth-")
	if len(suffix) > maxLinkName || !plainName(suffix) {
		sum := sha256.Sum256([]byte(suffix))
		suffix = fmt.Sprintf("%x", sum[:6])
	}
	return xtNames{suffix}
}

func (x xtNames) chain(part string) string { return "BERTH-" + part + "-" + x.suffix }

// owns reports whether a word of a rule is a chain of ours.
func (x xtNames) owns(word string) bool {
	return strings.HasPrefix(word, "BERTH-") && strings.HasSuffix(word, "-"+x.suffix) &&
		!strings.Contains(strings.TrimSuffix(strings.TrimPrefix(word, "BERTH-"), "-"+x.suffix), "-")
}

// plainName is true for names that mean themselves in rules: a + at the end would stand for many.
func plainName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("_.@-", r)
	}) && name[0] != '-'
}

// xtCheck refuses what this mode cannot do.
func (p policy) xtCheck() error {
	links := slices.Concat(p.closed[ip4], p.closed[ip6])
	for _, n := range p.networks {
		links = append(append(links, n.link), n.trusted...)
	}
	for _, l := range links {
		if !plainName(l) {
			return failf(errdefs.ErrInvalidArgument, "the link %q cannot stand in rules of iptables: with firewall-backend iptables the names of links have "+
				"letters, digits and _.@- in them", l)
		}
	}
	return nil
}

// xtPublished lets in what a published port has translated.
const xtPublished = "-m conntrack --ctstate DNAT -j RETURN"

// compileXT is compile for iptables.
func compileXT(p policy, f family) []xtTable {
	x := xtNamesOf(p.table)
	tables := []xtTable{p.xtFilter(x, f), p.xtNAT(x, f)}
	if f == ip4 { // raw first: nothing is translated to us before the loopback is guarded
		raw := xtChain{name: x.chain("RAW")}
		for _, n := range p.networks {
			raw.add("-i %s -d 127.0.0.0/8 -j DROP", n.link)
			raw.add("-i %s -s 127.0.0.0/8 -j DROP", n.link)
		}
		tables = slices.Insert(tables, 0, xtTable{name: "raw", chains: []xtChain{raw},
			jumps: []xtJump{{from: "PREROUTING", rule: "-j " + raw.name}}})
	}
	return tables
}

func (c *xtChain) add(format string, args ...any) {
	c.rules = append(c.rules, fmt.Sprintf(format, args...))
}

func (p policy) xtFilter(x xtNames, f family) xtTable {
	fwd, ours, closed, end := xtChain{name: x.chain("FWD")}, xtChain{name: x.chain("OURS")}, xtChain{name: x.chain("CLOSED")}, xtChain{name: x.chain("END")}
	for _, n := range p.networks {
		fwd.add("-i %s -j %s", n.link, ours.name)
		fwd.add("-o %s -j %s", n.link, ours.name)
		end.add("-i %s -j ACCEPT", n.link)
		end.add("-o %s -j ACCEPT", n.link)
		if n.icc {
			ours.add("-i %s -o %s -j RETURN", n.link, n.link)
		}
	}
	ours.add("-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN")
	for _, q := range p.peers {
		if familyOf(q.from) == f {
			ours.add("-s %s -d %s -p %s --dport %d -j RETURN", q.from, q.to.Addr(), q.proto, q.to.Port())
		}
	}
	for _, n := range p.networks {
		if n.internal {
			ours.add("-i %s -j DROP", n.link)
			ours.add("-o %s -j DROP", n.link)
		}
	}
	ours.add(xtPublished)
	for _, n := range p.networks {
		p.xtInside(&ours, n, f)
	}
	for _, n := range p.networks {
		ours.add("-o %s -j DROP", n.link)
	}
	for _, l := range p.closed[f] {
		fwd.add("-i %s -j %s", l, closed.name)
		closed.add("-o %s -j DROP", l)
	}
	t := xtTable{name: "filter", chains: []xtChain{closed, end, fwd, ours},
		jumps: []xtJump{{from: "FORWARD", rule: "-j " + fwd.name}, {from: "FORWARD", rule: "-j " + end.name, last: true}}}
	if p.links(f) { // who has a link would be told to go straight to the other, where no way is
		out, redirect := xtChain{name: x.chain("OUT")}, "icmp --icmp-type redirect"
		if f == ip6 {
			redirect = "icmpv6 --icmpv6-type redirect"
		}
		for _, n := range p.networks {
			out.add("-o %s -p %s -j DROP", n.link, redirect)
		}
		t.chains = append(t.chains, out)
		t.jumps = append(t.jumps, xtJump{from: "OUTPUT", rule: "-j " + out.name})
	}
	return t
}

// xtInside opens what is reached at a container's own address.
func (p policy) xtInside(ours *xtChain, n policyNetwork, f family) {
	var from []string
	for _, l := range n.trusted {
		from = append(from, "-i "+l+" ")
	}
	if n.modes[f] == modeRouted || n.direct {
		from = []string{""}
	}
	for _, q := range p.ports {
		if !q.direct || familyOf(q.to.Addr()) != f || !n.contains(q.to.Addr()) {
			continue
		}
		for _, i := range from {
			ours.add("%s-o %s -d %s -p %s --dport %d -j RETURN", i, n.link, q.to.Addr(), q.proto, q.to.Port())
		}
	}
	if n.modes[f] == modeUnprotected {
		ours.add("-o %s -j RETURN", n.link)
	}
}

func (n policyNetwork) contains(a netip.Addr) bool {
	return slices.ContainsFunc(n.subnets, func(s netip.Prefix) bool { return s.Contains(a) })
}

func (p policy) xtNAT(x xtNames, f family) xtTable {
	ports, post, back := xtChain{name: x.chain("DNAT")}, xtChain{name: x.chain("POST")}, xtChain{name: x.chain("BACK")}
	for _, r := range p.xtRanges(f) {
		ports.add("%s", r)
	}
	for _, n := range p.networks {
		post.add("-o %s -g %s", n.link, back.name)
	}
	for _, n := range p.networks {
		for _, s := range n.subnets {
			if familyOf(s.Addr()) != f {
				continue
			}
			back.add("-s %s -m conntrack --ctstate DNAT -j MASQUERADE", s)
			switch {
			case !n.leavesHidden(f):
			case n.behind[f].IsValid():
				post.add("-s %s -j SNAT --to-source %s", s, n.behind[f])
			default:
				post.add("-s %s -j MASQUERADE", s)
			}
		}
	}
	loopback, notLoopback := "127.0.0.0/8", "! -d 127.0.0.0/8 "
	if f == ip6 {
		loopback, notLoopback = "::1/128", ""
	}
	back.add("-s %s -j MASQUERADE", loopback)
	return xtTable{name: "nat", chains: []xtChain{back, ports, post}, jumps: []xtJump{
		{from: "PREROUTING", rule: notLoopback + "-m addrtype --dst-type LOCAL -j " + ports.name},
		{from: "OUTPUT", rule: "-m addrtype --dst-type LOCAL -j " + ports.name},
		{from: "POSTROUTING", rule: "-j " + post.name}}}
}

// xtRanges are the rules of published ports: those of one address of the host first, neighbours that keep their numbers in one.
func (p policy) xtRanges(f family) []string {
	var list []policyPort
	for _, q := range p.ports {
		if familyOf(q.to.Addr()) == f && q.host.Port() != 0 {
			list = append(list, q)
		}
	}
	slices.SortFunc(list, func(a, b policyPort) int {
		return cmp.Or(boolCompare(a.host.Addr().IsUnspecified(), b.host.Addr().IsUnspecified()), a.host.Addr().Compare(b.host.Addr()),
			int(a.proto)-int(b.proto), int(a.host.Port())-int(b.host.Port()), a.to.Compare(b.to))
	})
	list = slices.Compact(list)
	var rules []string
	for i := 0; i < len(list); {
		q, j := list[i], i+1
		if q.host.Port() == q.to.Port() {
			for j < len(list) && list[j].follows(list[j-1]) {
				j++
			}
		}
		var b strings.Builder
		if !q.host.Addr().IsUnspecified() {
			fmt.Fprintf(&b, "-d %s ", q.host.Addr())
		}
		fmt.Fprintf(&b, "-p %s --dport %d", q.proto, q.host.Port())
		to := q.to.String()
		if j-i > 1 {
			fmt.Fprintf(&b, ":%d", list[j-1].host.Port())
			to = q.to.Addr().String()
		}
		fmt.Fprintf(&b, " -j DNAT --to-destination %s", to)
		rules = append(rules, b.String())
		i = j
	}
	return rules
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// follows reports whether q is the next port of a range that keeps its numbers.
func (q policyPort) follows(p policyPort) bool {
	return q.host.Addr() == p.host.Addr() && q.to.Addr() == p.to.Addr() && q.proto == p.proto &&
		q.host.Port() == p.host.Port()+1 && q.to.Port() == q.host.Port()
}

// restore is the text that puts the tables into the kernel where these jumps to our chains are there already, by table.
func xtRestore(tables []xtTable, there map[string][]string) string {
	var b strings.Builder
	for _, t := range tables {
		fmt.Fprintf(&b, "*%s\n", t.name)
		for _, c := range t.chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c.name)
		}
		for _, rule := range there[t.name] {
			fmt.Fprintf(&b, "-D %s\n", rule)
		}
		for _, j := range t.jumps {
			if j.last {
				fmt.Fprintf(&b, "-A %s %s\n", j.from, j.rule)
			} else {
				fmt.Fprintf(&b, "-I %s 1 %s\n", j.from, j.rule)
			}
		}
		for _, c := range t.chains {
			for _, r := range c.rules {
				fmt.Fprintf(&b, "-A %s %s\n", c.name, r)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// xtSaved is what iptables-legacy-save says of us.
type xtSaved struct {
	jumps  map[string][]string // by table: chain and rule, as they stand behind -A
	chains map[string][]string // by table
	// print is everything of ours, to be compared with later; first and last say that our jumps stand so in FORWARD.
	print       string
	first, last bool
	// docker are the links of Docker's networks, as firewall.dockerBridges has them.
	docker []string
}

// readSaved understands the output of iptables-legacy-save. What others have is looked at for its place only.
func (x xtNames) readSaved(text string) xtSaved {
	s := xtSaved{jumps: map[string][]string{}, chains: map[string][]string{}}
	var print strings.Builder
	var forward []string
	table := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); x.owns(name) {
				s.chains[table] = append(s.chains[table], name)
				fmt.Fprintf(&print, "%s :%s\n", table, name)
			}
		case strings.HasPrefix(line, "-A "):
			words := strings.Fields(line)
			own := len(words) > 1 && x.owns(words[1])
			if !own && len(words) > 3 && words[len(words)-2] == "-j" && x.owns(words[len(words)-1]) {
				s.jumps[table] = append(s.jumps[table], strings.TrimPrefix(line, "-A "))
				own = true
			}
			if own {
				fmt.Fprintf(&print, "%s %s\n", table, line)
			}
			if table == "filter" && words[1] == "FORWARD" {
				forward = append(forward, words[len(words)-1])
			}
			if table == "filter" && len(words) == 6 && (words[1] == "FORWARD" || words[1] == "DOCKER-BRIDGE") && words[2] == "-o" &&
				words[5] == "DOCKER" && plainName(words[3]) {
				s.docker = append(s.docker, words[3])
			}
		}
	}
	// Another Berth has its own first and last rules there.
	others := slices.DeleteFunc(slices.Clone(forward), func(to string) bool { return strings.HasPrefix(to, "BERTH-") && !x.owns(to) })
	if len(others) > 0 {
		s.first, s.last = others[0] == x.chain("FWD"), others[len(others)-1] == x.chain("END")
	}
	slices.Sort(s.docker)
	fmt.Fprintf(&print, "%q\n", s.docker)
	s.print = print.String()
	return s
}

// besideDocker are the tables with rules that keep our containers from Docker's.
func (x xtNames) besideDocker(tables []xtTable, bridges []string) []xtTable {
	tables = slices.Clone(tables)
	for i := range tables {
		chains := slices.Clone(tables[i].chains)
		for j := range chains {
			at := slices.Index(chains[j].rules, xtPublished)
			if chains[j].name != x.chain("OURS") || at < 0 {
				continue
			}
			var rules []string
			for _, b := range slices.Compact(bridges) {
				rules = append(rules, "-o "+b+" -j DROP")
			}
			chains[j].rules = slices.Insert(slices.Clone(chains[j].rules), at+1, rules...)
		}
		tables[i].chains = chains
	}
	return tables
}

// clear is the text that takes everything of ours away.
func (s xtSaved) clear() string {
	var b strings.Builder
	for _, table := range []string{"filter", "nat", "raw"} {
		if len(s.jumps[table])+len(s.chains[table]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", table)
		for _, rule := range s.jumps[table] {
			fmt.Fprintf(&b, "-D %s\n", rule)
		}
		for _, c := range s.chains[table] {
			fmt.Fprintf(&b, "-F %s\n", c)
		}
		for _, c := range s.chains[table] {
			fmt.Fprintf(&b, "-X %s\n", c)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}
