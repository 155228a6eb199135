package network

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const rulesDir = "../../docs/network"

func prefixes(texts ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, t := range texts {
		ps = append(ps, netip.MustParsePrefix(t))
	}
	return ps
}

// policies are the situations whose rules are documented.
func policies() map[string]policy {
	standard := policyNetwork{link: "berth0", subnets: prefixes("172.17.0.0/16"), masquerade: true, icc: true}
	with := func(change func(*policyNetwork)) policyNetwork {
		n := standard
		change(&n)
		return n
	}
	second := policyNetwork{link: "br-0123456789ab", subnets: prefixes("172.18.0.0/22"), masquerade: true, icc: true}
	port := func(proto protocol, host, to string) policyPort {
		return policyPort{proto: proto, host: netip.MustParseAddrPort(host), to: netip.MustParseAddrPort(to)}
	}
	table := func(p policy) policy {
		p.table = "berth-berth0"
		return p
	}
	return map[string]policy{
		"default-bridge": table(policy{networks: []policyNetwork{standard}}),
		"no-network":     table(policy{}),
		"two-networks":   table(policy{networks: []policyNetwork{standard, second}}),
		"internal": table(policy{networks: []policyNetwork{standard,
			{link: "br-1nternal", subnets: prefixes("172.18.4.0/22"), masquerade: true, icc: true, internal: true}}}),
		"icc-off": table(policy{networks: []policyNetwork{with(func(n *policyNetwork) { n.icc = false })}}),
		"icc-off-linked": table(policy{networks: []policyNetwork{with(func(n *policyNetwork) {
			n.icc, n.subnets = false, prefixes("172.17.0.0/16", "fd00:17::/64")
		})}, peers: []policyPeer{
			{netip.MustParseAddr("172.17.0.3"), netip.MustParseAddrPort("172.17.0.2:5432"), unix.IPPROTO_TCP},
			{netip.MustParseAddr("fd00:17::3"), netip.MustParseAddrPort("[fd00:17::2]:5432"), unix.IPPROTO_TCP},
		}}),
		"masquerade-off": table(policy{networks: []policyNetwork{with(func(n *policyNetwork) { n.masquerade = false })}}),
		"several-subnets": table(policy{networks: []policyNetwork{{link: "br-many", masquerade: true, icc: true,
			subnets: prefixes("10.1.0.0/24", "10.1.1.0/24", "10.2.0.0/16")}}}),
		"ipv6": table(policy{networks: []policyNetwork{standard, {link: "br-dual", masquerade: true, icc: true,
			subnets: prefixes("172.18.0.0/22", "fd00:1:2:3::/64")}},
			ports: []policyPort{port(unix.IPPROTO_TCP, "0.0.0.0:80", "172.18.0.2:80"), port(unix.IPPROTO_TCP, "[::]:80", "[fd00:1:2:3::2]:80"),
				port(unix.IPPROTO_TCP, "[::1]:81", "[fd00:1:2:3::2]:81")}}),
		"ipv6-only": table(policy{networks: []policyNetwork{{link: "br-six", masquerade: true, icc: true, subnets: prefixes("fd00:9::/64")}}}),
		"published": table(policy{networks: []policyNetwork{standard, second}, ports: []policyPort{
			port(unix.IPPROTO_TCP, "0.0.0.0:8080", "172.17.0.2:80"),
			port(unix.IPPROTO_UDP, "0.0.0.0:53", "172.17.0.3:53"),
			port(unix.IPPROTO_SCTP, "0.0.0.0:36412", "172.17.0.3:36412"),
			port(unix.IPPROTO_TCP, "127.0.0.1:5432", "172.18.0.2:5432"),
			port(unix.IPPROTO_TCP, "192.0.2.7:443", "172.18.0.2:8443"),
		}}),
		"published-range": table(policy{networks: []policyNetwork{standard}, ports: []policyPort{
			port(unix.IPPROTO_TCP, "0.0.0.0:9000", "172.17.0.2:9000"),
			port(unix.IPPROTO_TCP, "0.0.0.0:9001", "172.17.0.2:9001"),
			port(unix.IPPROTO_TCP, "0.0.0.0:9002", "172.17.0.2:9002"),
		}}),
		"gateway-modes": table(policy{networks: []policyNetwork{standard,
			{link: "br-routed", subnets: prefixes("10.3.0.0/24", "fd00:3::/64"), masquerade: true, icc: true,
				modes: map[family]gatewayMode{ip4: modeRouted, ip6: modeRouted}},
			{link: "br-open", subnets: prefixes("10.4.0.0/24", "fd00:4::/64"), masquerade: true, icc: true,
				modes: map[family]gatewayMode{ip4: modeUnprotected}},
			{link: "br-alone", subnets: prefixes("10.5.0.0/24"), masquerade: true, icc: true, internal: true,
				modes: map[family]gatewayMode{ip4: modeIsolated}}},
			ports: []policyPort{
				{proto: unix.IPPROTO_TCP, host: netip.MustParseAddrPort("0.0.0.0:0"), to: netip.MustParseAddrPort("10.3.0.2:80"), direct: true},
				{proto: unix.IPPROTO_TCP, host: netip.MustParseAddrPort("[::]:0"), to: netip.MustParseAddrPort("[fd00:3::2]:80"), direct: true},
				port(unix.IPPROTO_TCP, "0.0.0.0:8080", "10.4.0.2:80")}}),
		"trusted-links": table(policy{networks: []policyNetwork{with(func(n *policyNetwork) { n.trusted = []string{"eth1", "vpn0"} })},
			ports: []policyPort{{proto: unix.IPPROTO_TCP, host: netip.MustParseAddrPort("0.0.0.0:8080"),
				to: netip.MustParseAddrPort("172.17.0.2:80"), direct: true}}}),
		"direct-routing": table(policy{networks: []policyNetwork{with(func(n *policyNetwork) { n.direct = true })},
			ports: []policyPort{{proto: unix.IPPROTO_TCP, host: netip.MustParseAddrPort("0.0.0.0:8080"),
				to: netip.MustParseAddrPort("172.17.0.2:80"), direct: true}}}),
		"respect-host-firewall": table(policy{networks: []policyNetwork{standard, {link: "br-six", masquerade: true, icc: true,
			subnets: prefixes("fd00:9::/64")}}, gate: gate{out: "gate1234abcdo", in: "gate1234abcdi", index: testGate},
			ports: []policyPort{port(unix.IPPROTO_TCP, "0.0.0.0:80", "172.17.0.2:80"), port(unix.IPPROTO_UDP, "192.0.2.7:53", "172.17.0.2:53"),
				port(unix.IPPROTO_TCP, "[::]:80", "[fd00:9::2]:80")}}),
		"chosen-source": table(policy{networks: []policyNetwork{standard, {link: "br-chosen", subnets: prefixes("172.18.0.0/22", "172.18.4.0/22", "fd00:1:2:3::/64"),
			masquerade: true, icc: true, behind: map[family]netip.Addr{ip4: netip.MustParseAddr("192.0.2.9"), ip6: netip.MustParseAddr("2001:db8::9")}},
			{link: "br-dual", subnets: prefixes("172.18.8.0/22", "fd00:1:2:4::/64"), masquerade: true, icc: true}}}),
		"beside-docker": table(policy{networks: []policyNetwork{standard, {link: "br-dual", subnets: prefixes("172.18.0.0/22", "fd00:1:2:3::/64"),
			masquerade: true, icc: true}}, docker: map[family][]string{ip4: {"br-fedcba987654", "docker0"}, ip6: {"docker0"}}}),
		"forwarding-was-off": table(policy{networks: []policyNetwork{standard}, closed: map[family][]string{ip4: {"eth0", "eth1"}}}),
	}
}

// testGate is the index of the gate in the documented situation, which nft must find by its name.
const testGate = 471147

func withGate(t *testing.T) {
	t.Helper()
	l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "gate1234abcdo", Index: testGate}, PeerName: "gate1234abcdi"}
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(l) })
}

// guardedLinks are those of three containers; the last one may say what it likes.
func guardedLinks(apart bool) map[string]guarded {
	links := map[string]guarded{
		"veth0123456": {mac: parseMAC("02:42:ac:11:00:02"), addrs: []netip.Addr{netip.MustParseAddr("172.17.0.2")}},
		"veth789abcd": {mac: parseMAC("02:42:ac:12:00:02"), addrs: []netip.Addr{netip.MustParseAddr("172.18.0.2"),
			netip.MustParseAddr("fd00:1:2:3::2"), netip.MustParseAddr("fe80::42:acff:fe12:2")}, apart: apart}}
	if apart {
		links["vethdef0123"] = guarded{free: true, apart: true}
	}
	return links
}

// documents are the rules of policies, and those inside a container's namespace.
func documents() map[string]document {
	ds := map[string]document{"container-names": resolverRules(40001, 40002),
		"guard": compileGuard("berth-berth0", guardedLinks(false), false), "guard-icc-off": compileGuard("berth-berth0", guardedLinks(true), true)}
	for name, p := range policies() {
		ds[name] = compile(p)
	}
	ds["egress"] = compileEgress(fence{table: "berth-berth0", group: 4096,
		within: []policyNetwork{{link: "br-0123456789ab", subnets: prefixes("172.18.0.0/22", "fd00:1:2:3::/64")}},
		who: []limited{
			{link: "br-0123456789ab", policy: mustEgress("allow=10.0.0.0/8,allow=192.0.2.0/24:443/tcp,allow=*.example.com:443,deny=10.1.2.3")},
			{link: "berth0", addrs: []netip.Addr{netip.MustParseAddr("172.17.0.2")}, policy: mustEgress("deny=169.254.0.0/16 deny=all:25/tcp")},
			{link: "br-0123456789ab", addrs: []netip.Addr{netip.MustParseAddr("172.18.0.2"), netip.MustParseAddr("fd00:1:2:3::2")},
				policy: mustEgress("allow=192.0.2.7:53 allow=[fd00:9::/32]:8000-8010/tcp allow=all/icmp")},
		}})
	return ds
}

// TestRulesGolden compares the rules of every situation with the documented ones.
func TestRulesGolden(t *testing.T) {
	for name, d := range documents() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(rulesDir, name+".nft.txt")
			got := []byte(d.String())
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the rules differ from %s (go test -update writes them):\n%s", path, got)
			}
		})
	}
	files, err := filepath.Glob(filepath.Join(rulesDir, "*.nft.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, ok := documents()[strings.TrimSuffix(filepath.Base(f), ".nft.txt")]; !ok {
			t.Errorf("%s belongs to no situation", f)
		}
	}
}

// TestRulesOfIPTables compares what is rendered for kernels without nftables with the documented texts, loads them, and wants
// them to be what the kernel then has, and to go without a trace.
func TestRulesOfIPTables(t *testing.T) {
	needRoot(t)
	for name, p := range policies() {
		if p.gate.out != "" || p.docker != nil {
			continue // needs nftables, or is found when the rules are set
		}
		t.Run(name, func(t *testing.T) {
			var all strings.Builder
			for _, f := range []family{ip4, ip6} {
				if f == ip4 || p.has(ip6) {
					fmt.Fprintf(&all, "# %s\n%s", legacyProgram(f, "restore --noflush"), xtRestore(compileXT(p, f), nil))
				}
			}
			path := filepath.Join(rulesDir, "iptables", name+".txt")
			if *update {
				must(t, os.WriteFile(path, []byte(all.String()), 0o644))
			}
			want, err := os.ReadFile(path)
			must(t, err)
			if all.String() != string(want) {
				t.Errorf("the rules differ from %s (go test -update writes them):\n%s", path, all.String())
			}
			p := p
			p.table = "berth-btrules"
			l, err := openLegacy(p.table)
			must(t, err)
			before, _ := l.run(ip4, "save", "")
			must(t, l.apply(func() policy { return p }))
			if !l.intact(false) || !l.written() {
				t.Error("not intact")
			}
			one := l.prints[ip4]
			l.forget()
			must(t, l.apply(func() policy { return p }))
			if l.prints[ip4] != one {
				t.Errorf("the second time\n%s\nthe first time\n%s", l.prints[ip4], one)
			}
			must(t, l.remove())
			rulesOf := func(text string) string { // without dates and packets counted
				return regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]`).ReplaceAllString(text, "")
			}
			if after, _ := l.run(ip4, "save", ""); strings.Contains(after, "-btrules") || before != "" && rulesOf(after) != rulesOf(before) {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// listing is what nft shows of a table, which is the same for the same rules.
func listing(t *testing.T, f family, name string) string {
	text := nft(t, "-n", "list", "table", f.String(), name)
	// A type that nft was told by example is not among what we tell the kernel.
	text = strings.Replace(text, "type ifname . ipv6_addr", "typeof iifname . @th,64,128", 1)
	return regexp.MustCompile(`0x(fd|fe)[0-9a-f]{30}|(fd|fe)[0-9a-f]*:[0-9a-f:]*`).ReplaceAllString(text, "ADDRESS")
}

// TestRulesReachKernel loads each document twice, as text by nft and as expressions by us, and wants the kernel to hold
// the same both times.
func TestRulesReachKernel(t *testing.T) {
	needRoot(t)
	w, err := openFirewall()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	withGate(t)
	for name, d := range documents() {
		t.Run(name, func(t *testing.T) {
			for i := range d.tables {
				d.tables[i].name = "bt-rules"
			}
			defer w.remove("bt-rules", ip4, ip6, inet, onBridges)
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(d.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("nft refuses the text: %v\n%s\n%s", err, out, d)
			}
			byText := map[family]string{}
			for _, tb := range d.tables {
				byText[tb.family] = listing(t, tb.family, tb.name)
			}
			w.forget()
			if err := w.apply(func() document { return d }); err != nil {
				t.Fatal(err)
			}
			for _, tb := range d.tables {
				if got := listing(t, tb.family, tb.name); got != byText[tb.family] {
					t.Errorf("by nft:\n%s\nby us:\n%s", byText[tb.family], got)
				}
			}
		})
	}
}

// TestRulesUpdate goes from every situation to every other one; the kernel must end with the rules of the last, whether
// they came as a difference or whole.
func TestRulesUpdate(t *testing.T) {
	needRoot(t)
	w, err := openFirewall()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer w.remove("bt-rules")
	withGate(t)
	whole := map[string]string{}
	set := func(name string) string {
		p := policies()[name]
		p.table = "bt-rules"
		d := compile(p)
		if err := w.apply(func() document { return d }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return nft(t, "-n", "list", "ruleset")
	}
	for name := range policies() {
		w.forget()
		if err := w.remove("bt-rules"); err != nil {
			t.Fatal(err)
		}
		whole[name] = set(name)
	}
	for from := range policies() {
		for to := range policies() {
			if testing.Short() && from != "no-network" && to != "no-network" {
				continue
			}
			set(from)
			if got := set(to); got != whole[to] {
				t.Fatalf("from %s to %s:\n%s\ninstead of\n%s", from, to, got, whole[to])
			}
		}
	}
}

// TestManyPorts publishes 10,000 ports at once and then one more.
func TestManyPorts(t *testing.T) {
	needRoot(t)
	w, err := openFirewall()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer w.remove("bt-rules")
	p := policies()["default-bridge"]
	p.table = "bt-rules"
	for i := range 10000 {
		p.ports = append(p.ports, policyPort{proto: unix.IPPROTO_TCP, host: netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(10000+i)),
			to: netip.AddrPortFrom(netip.MustParseAddr("172.17.0.2"), uint16(10000+i))})
	}
	for _, step := range []string{"10,000 ports", "one more"} {
		t0 := time.Now()
		if err := w.apply(func() document { return compile(p) }); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v", step, time.Since(t0))
		p.ports = append(p.ports, policyPort{proto: unix.IPPROTO_TCP, host: netip.MustParseAddrPort("0.0.0.0:80"),
			to: netip.MustParseAddrPort("172.17.0.2:80")})
	}
	if got := strings.Count(nft(t, "list", "map", "ip", "bt-rules", "published"), " : "); got != 10002 { // one is the type's
		t.Errorf("%d elements in the map", got)
	}
}

func parseMAC(text string) net.HardwareAddr {
	mac, err := net.ParseMAC(text)
	if err != nil {
		panic(err)
	}
	return mac
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

func Example_protocol() {
	fmt.Println(protocol(unix.IPPROTO_TCP), protocol(unix.IPPROTO_UDP), protocol(unix.IPPROTO_SCTP), protocol(89))
	// Output: tcp udp sctp 89
}
