package network

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// eventually waits for what other goroutines do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within two minutes", what)
		}
	}
}

func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Skipf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestForeignPolicy stands beside an iptables chain that drops by policy, before and after we come.
func TestForeignPolicy(t *testing.T) {
	output(t, "iptables", "-P", "FORWARD", "DROP")
	t.Cleanup(func() { _ = run("nft", "delete", "table", "ip", "filter") })
	output(t, "iptables", "-A", "FORWARD", "-s", "10.9.9.9", "-j", "DROP")
	n := room(t)
	out := outside(t, n)
	serve(t, n, out, "tcp", outsideAddr+":7000")
	a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18080"}}})
	serve(t, n, a.NetNS, "tcp", ":80")
	reaches(t, n, "outside, beside a policy that drops", a.NetNS, "tcp", outsideAddr+":7000", hostAddr)
	reaches(t, n, "published, beside a policy that drops", out, "tcp", hostAddr+":18080", outsideAddr)

	listed := func() string { return output(t, "iptables", "-S", "FORWARD") }
	last := "-A FORWARD -i " + n.opts.Bridge + " -j ACCEPT\n-A FORWARD -o " + n.opts.Bridge + " -j ACCEPT\n"
	if got := listed(); !strings.HasSuffix(got, last) || !strings.Contains(got, "10.9.9.9") {
		t.Errorf("iptables does not show our rules as the last:\n%s", got)
	}
	network1(t, n, CreateRequest{Name: "two", Options: map[string]string{"com.docker.network.bridge.name": "bt-two"}})
	b := attach(t, n, on("two"))
	reaches(t, n, "a second network", b.NetNS, "tcp", outsideAddr+":7000", hostAddr)

	// Somebody appends a rule: it must keep its say.
	must(t, run("iptables", "-A", "FORWARD", "-o", "btout", "-p", "tcp", "--dport", "7000", "-j", "DROP"))
	eventually(t, "our rules are the last again", func() bool { return strings.HasSuffix(listed(), "-o "+n.opts.Bridge+" -j ACCEPT\n") })
	doesNotReach(t, n, "what the administrator drops", a.NetNS, "tcp", outsideAddr+":7000")

	must(t, run("iptables", "-P", "FORWARD", "ACCEPT"))
	eventually(t, "our rules go when they are not needed", func() bool { return !strings.Contains(listed(), n.opts.Bridge) })
	must(t, run("iptables", "-P", "FORWARD", "DROP"))
	eventually(t, "our rules come back", func() bool { return strings.Contains(listed(), n.opts.Bridge) })
	if w := n.Warnings(); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
	for _, id := range []string{n.owner(t, a), n.owner(t, b)} {
		must(t, n.Detach(context.Background(), id))
	}
	must(t, n.Close())
	if got := listed(); strings.Contains(got, "-i bt") {
		t.Errorf("rules were left behind:\n%s", got)
	}
}

// TestForeignDocker: our containers do not reach Docker's, whatever the policy is; what Docker publishes is reached.
func TestForeignDocker(t *testing.T) {
	n := room(t)
	theirs, err := n.inNewNetNS(func(*os.File) error { return run("ip", "link", "set", "lo", "up") })
	must(t, err)
	defer theirs.Close()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "btdockv"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(theirs.Fd())}))
	for _, c := range []string{"ip link add btdock type bridge", "ip link set btdockv master btdock up", "ip addr add 10.213.249.1/24 dev btdock", "ip link set btdock up"} {
		must(t, run(strings.Fields(c)...))
	}
	t.Cleanup(func() { _ = run("ip", "link", "del", "btdock") })
	inside(t, n, theirs, func() error {
		for _, c := range []string{"ip addr add 10.213.249.2/24 dev eth0", "ip link set eth0 up", "ip route add default via 10.213.249.1"} {
			if err := run(strings.Fields(c)...); err != nil {
				return err
			}
		}
		return nil
	})
	output(t, "iptables", "-P", "FORWARD", "DROP")
	t.Cleanup(func() { _ = run("nft", "delete", "table", "ip", "filter") })
	for _, c := range []string{"-t nat -A PREROUTING -m addrtype --dst-type LOCAL -p tcp --dport 18178 -j DNAT --to 10.213.249.2:80", "-N DOCKER", "-A DOCKER -d 10.213.249.2 ! -i btdock -o btdock -p tcp --dport 80 -j ACCEPT", "-A FORWARD -o btdock -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		"-A FORWARD -o btdock -j DOCKER", "-A FORWARD -i btdock ! -o btdock -j ACCEPT"} {
		must(t, run(append([]string{"iptables"}, strings.Fields(c)...)...))
	}
	out := outside(t, n)
	serve(t, n, theirs, "tcp", ":80")
	serve(t, n, theirs, "tcp", ":81")
	serve(t, n, out, "tcp", ":82")
	a := attach(t, n, AttachRequest{})
	serve(t, n, a.NetNS, "tcp", ":80")
	listed := func() string { return output(t, "iptables", "-S", "FORWARD") }
	t.Cleanup(func() { _ = run("nft", "delete", "table", "ip", "nat") })
	known := func() bool { return strings.Contains(listing(t, ip4, n.tableName()), `"btdock"`) }
	for _, policy := range []string{"DROP", "ACCEPT"} { // Docker sets it to drop only where nobody forwarded before it came
		must(t, run("iptables", "-P", "FORWARD", policy))
		eventually(t, "Docker's network is known", func() bool { return known() && strings.Contains(listed(), n.opts.Bridge) == (policy == "DROP") })
		reaches(t, n, policy+": outside", a.NetNS, "tcp", outsideAddr+":82", hostAddr)
		reaches(t, n, policy+": what Docker publishes", a.NetNS, "tcp", hostAddr+":18178", "")
		doesNotReach(t, n, policy+": what Docker does not publish", a.NetNS, "tcp", "10.213.249.2:81")
		doesNotReach(t, n, policy+": ours, from Docker's", theirs, "tcp", at(a, 80))
	}
	must(t, run("iptables", "-D", "FORWARD", "-o", "btdock", "-j", "DOCKER"))
	eventually(t, "Docker's network has gone", func() bool { return !known() })
}

// TestForeignFlush takes our rules away (CVE-2025-54388 and -54410 are what happens to those who do not notice).
func TestForeignFlush(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18080"}}})
	serve(t, n, a.NetNS, "tcp", ":80")
	before := listing(t, ip4, n.tableName())
	for _, harm := range []string{"flush ruleset", "delete table ip " + n.tableName(), "flush ruleset", "flush chain ip " + n.tableName() + " prerouting",
		"delete element ip " + n.tableName() + " published { tcp . 18080 }", "flush set ip " + n.tableName() + " links"} {
		nft(t, harm)
		eventually(t, "our rules come back", func() bool {
			b, _ := exec.Command("nft", "-n", "list", "table", "ip", n.tableName()).Output()
			return string(b) == before
		})
	}
	reaches(t, n, "published, after a flush", out, "tcp", hostAddr+":18080", outsideAddr)
}

// TestOwnRulesAreNotForeign: looking after every change of our own whether all is as it was would make each start dearer.
func TestOwnRulesAreNotForeign(t *testing.T) {
	n := room(t)
	var foreign atomic.Int32
	must(t, n.onThread(func() error {
		f, err := watchRules(n.tableName(), []uint32{n.wall.conn.port, n.guard.conn.port}, func(bool) { foreign.Add(1) })
		if err == nil {
			t.Cleanup(func() { _ = f.Close() })
		}
		return err
	}))
	for range 8 { // from whatever thread
		id := n.owner(t, attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18080"}}}))
		must(t, n.Detach(context.Background(), id))
	}
	if c := foreign.Load(); c != 0 {
		t.Errorf("%d changes of our own were taken for others'", c)
	}
	nft(t, "add table inet other")
	eventually(t, "somebody else's change is noticed", func() bool { return foreign.Load() > 0 })
	nft(t, "delete table inet other")
}

func TestForeignWarnings(t *testing.T) {
	n := room(t)
	warned := func(part string) func() bool {
		return func() bool { return strings.Contains(strings.Join(n.Warnings(), "\n"), part) }
	}
	nft(t, "add table inet fw; add chain inet fw strict { type filter hook forward priority 0; policy drop; }")
	eventually(t, "a chain of nftables that drops", warned(`the chain "strict" of table "fw" drops`))
	nft(t, "delete table inet fw")
	eventually(t, "the warning goes", func() bool { return len(n.Warnings()) == 0 })
	nft(t, "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }")
	eventually(t, "firewalld", warned("--zone=trusted --add-interface="+n.opts.Bridge))
	nft(t, "delete table inet firewalld")

	output(t, "iptables-legacy", "-P", "FORWARD", "DROP")
	defer run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
	if !legacyDrops(ip4) {
		t.Error("the policy of iptables-legacy is not seen")
	}
	network1(t, n, CreateRequest{Name: "x"})
	if !warned("iptables-legacy -A FORWARD -i " + n.opts.Bridge)() {
		t.Errorf("warnings %q", n.Warnings())
	}
	output(t, "iptables-legacy", "-P", "FORWARD", "ACCEPT")
	if legacyDrops(ip4) {
		t.Error("iptables-legacy drops although it does not")
	}
	output(t, "ip6tables-legacy", "-P", "FORWARD", "DROP")
	defer run("ip6tables-legacy", "-P", "FORWARD", "ACCEPT")
	if !legacyDrops(ip6) {
		t.Error("the policy of ip6tables-legacy is not seen")
	}
}
