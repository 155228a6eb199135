package network

import (
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func needLegacy(t *testing.T) {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("iptables-legacy-restore"); err != nil {
		t.Skip(err)
	}
	if out, err := exec.Command("iptables-legacy", "-t", "nat", "-S").CombinedOutput(); err != nil {
		t.Skipf("the kernel has no legacy iptables: %s", out)
	}
	t.Setenv(backendOfTests, FirewallIPTables)
}

// TestLegacyTraffic runs with legacy iptables what shows that nftables' rules do what they shall.
func TestLegacyTraffic(t *testing.T) {
	needLegacy(t)
	for name, test := range map[string]func(*testing.T){"Traffic": TestTraffic, "Published": TestPublished, "TrafficIPv6": TestTrafficIPv6, "Peers": TestPeers,
		"GatewayModes": TestGatewayModes, "DirectRouting": TestDirectRouting, "ChosenSource": TestChosenSource} {
		t.Run(name, func(t *testing.T) {
			before := strings.Count(nft(t, "list", "tables"), "berth-bt")
			test(t)
			if tables := nft(t, "list", "tables"); strings.Count(tables, "berth-bt") != before {
				t.Errorf("tables of nftables:\n%s", tables)
			}
		})
	}
}

func legacySave(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("iptables-legacy-save").Output()
	must(t, err)
	return string(out)
}

// TestLegacyFlush: rules that somebody took away come back, and rules of others stay as they are.
func TestLegacyFlush(t *testing.T) {
	needLegacy(t)
	for _, c := range []string{"iptables-legacy -P FORWARD DROP", "iptables-legacy -N OTHERS", "iptables-legacy -I FORWARD -s 192.0.2.9 -j OTHERS",
		"iptables-legacy -A FORWARD -s 192.0.2.10 -j ACCEPT"} {
		must(t, run(strings.Fields(c)...))
	}
	t.Cleanup(func() {
		for _, c := range []string{"-P FORWARD ACCEPT", "-F FORWARD", "-X OTHERS"} {
			_ = run(append([]string{"iptables-legacy"}, strings.Fields(c)...)...)
		}
	})
	n := room(t)
	out := outside(t, n)
	a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18151"}}})
	serve(t, n, a.NetNS, "tcp", ":80")
	reaches(t, n, "published, beside a policy to drop", out, "tcp", hostAddr+":18151", outsideAddr)
	for _, c := range []string{"iptables-legacy -t nat -F", "iptables-legacy -t filter -F", "iptables-legacy -A FORWARD -s 192.0.2.10 -j ACCEPT"} {
		must(t, run(strings.Fields(c)...))
	}
	eventually(t, "the rules come back", func() bool { return n.legacy.intact(false) })
	reaches(t, n, "published, again", out, "tcp", hostAddr+":18151", outsideAddr)

	// Somebody puts himself before us and behind us; a change of our own comes first and last again.
	must(t, run("iptables-legacy", "-I", "FORWARD", "-s", "192.0.2.11", "-j", "ACCEPT"))
	must(t, run("iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.12", "-j", "DROP"))
	b := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18152"}}})
	serve(t, n, b.NetNS, "tcp", ":80")
	reaches(t, n, "published", out, "tcp", hostAddr+":18152", outsideAddr)
	s := n.legacy.names.readSaved(legacySave(t))
	if !s.first || !s.last || len(s.jumps["filter"]) != 2 {
		t.Errorf("%+v\n%s", s, legacySave(t))
	}
	for _, kept := range []string{"-s 192.0.2.10/32 -j ACCEPT", "-s 192.0.2.11/32 -j ACCEPT", "-s 192.0.2.12/32 -j DROP", ":OTHERS"} {
		if !strings.Contains(legacySave(t), kept) {
			t.Errorf("%q of somebody else's is gone:\n%s", kept, legacySave(t))
		}
	}
	must(t, n.Detach(context.Background(), b2id(n, "18152")))
	if strings.Contains(legacySave(t), "18152") {
		t.Errorf("a port that is no longer published:\n%s", legacySave(t))
	}
}

// b2id finds the container that publishes a port.
func b2id(n *Networks, port string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, h := range n.held {
		for _, p := range h.ports {
			if strings.HasSuffix(p.host.String(), ":"+port) {
				return id
			}
		}
	}
	return ""
}

// TestLegacyDocker: Docker's networks are apart from ours.
func TestLegacyDocker(t *testing.T) {
	needLegacy(t)
	for _, c := range []string{"-P FORWARD DROP", "-N DOCKER", "-A FORWARD -o btdock -j DOCKER", "-A FORWARD -i btdock ! -o btdock -j ACCEPT"} {
		must(t, run(append([]string{"iptables-legacy"}, strings.Fields(c)...)...))
	}
	t.Cleanup(func() {
		for _, c := range []string{"-P FORWARD ACCEPT", "-F FORWARD", "-X DOCKER"} {
			_ = run(append([]string{"iptables-legacy"}, strings.Fields(c)...)...)
		}
	})
	n := room(t)
	attach(t, n, AttachRequest{})
	drop := "-A " + n.legacy.names.chain("OURS") + " -o btdock -j DROP\n"
	if text := legacySave(t); !strings.Contains(text, "--ctstate DNAT -j RETURN\n"+drop) {
		t.Errorf("beside Docker:\n%s", text)
	}
	must(t, run("iptables-legacy", "-D", "FORWARD", "-o", "btdock", "-j", "DOCKER"))
	eventually(t, "Docker's network has gone", func() bool { return !strings.Contains(legacySave(t), drop) })
	if !n.legacy.intact(false) {
		t.Error("not intact")
	}
}

// TestLegacyRestart: a daemon that was killed, its successor, one with the other backend, and nothing is left.
func TestLegacyRestart(t *testing.T) {
	needLegacy(t)
	n := room(t)
	out := outside(t, n)
	id := newID()
	a := attach(t, n, AttachRequest{ContainerID: id, Name: "a", Ports: []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18153"}}})
	serve(t, n, a.NetNS, "tcp", ":80")
	pid := sleeper(t, n, a.NetNS)
	n.legacy.close()
	n.warm.close()
	n.bare.close()
	n.mu.Lock()
	n.shut = true
	for _, h := range n.held {
		for i := range h.ports {
			h.ports[i].close()
			h.ports[i].fd = -1
		}
	}
	n.mu.Unlock()
	for _, backend := range []string{FirewallIPTables, FirewallNFTables, FirewallIPTables} {
		o := n.opts
		o.Firewall = backend
		m, err := Open(context.Background(), o)
		must(t, err)
		must(t, m.Retain(context.Background(), []Live{{ContainerID: id, Name: "a", Pid: pid, Endpoints: a.Endpoints, Ports: a.Ports}}))
		if m.Firewall() != backend {
			t.Errorf("%s instead of %s", m.Firewall(), backend)
		}
		reaches(t, m, "published, "+backend, out, "tcp", hostAddr+":18153", outsideAddr)
		if got := strings.Contains(legacySave(t), "-"+o.Bridge); got != (backend == FirewallIPTables) {
			t.Errorf("%s:\n%s", backend, legacySave(t))
		}
		tables, _ := exec.Command("nft", "list", "tables").CombinedOutput()
		if got := strings.Contains(string(tables), "berth-"+o.Bridge); got != (backend == FirewallNFTables) {
			t.Errorf("%s:\n%s", backend, tables)
		}
		if o.Firewall == FirewallIPTables {
			must(t, m.Detach(context.Background(), newID()))
		}
		must(t, m.Close())
	}
	o := n.opts
	o.Firewall = FirewallIPTables
	last := reopen(t, o)
	must(t, last.Close())
	if strings.Contains(legacySave(t), n.legacy.names.suffix) {
		t.Errorf("left behind:\n%s", legacySave(t))
	}
}

// TestLegacyRefuses: what cannot be had with iptables is an error that says so.
func TestLegacyRefuses(t *testing.T) {
	needLegacy(t)
	n := room(t)
	ctx := context.Background()
	_, err := n.Create(ctx, CreateRequest{Name: "x", Options: map[string]string{OptionEgress: "default=deny"}})
	if !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), `option "com.berth.network.egress" needs nftables, and the rules here are iptables' (firewall-backend iptables)`) {
		t.Error(err)
	}
	_, err = n.Attach(ctx, AttachRequest{ContainerID: newID(), Endpoints: []EndpointRequest{{Network: defaultName,
		DriverOpts: map[string]string{OptionEgress: "default=deny"}}}})
	if !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Error(err)
	}
	_, err = n.Create(ctx, CreateRequest{Name: "plus", Options: map[string]string{"com.docker.network.bridge.name": "bt+"}})
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `the link "bt+" cannot stand in rules of iptables`) {
		t.Error(err)
	}
	if _, err := n.Inspect("plus"); err == nil {
		t.Error("a network was made half")
	}
	o := n.opts
	o.RespectFirewall = true
	if _, err := Open(ctx, o); err == nil || !strings.Contains(err.Error(), "publish-policy respect-host-firewall needs nftables") {
		t.Error(err)
	}
	if w := strings.Join(n.Warnings(), "\n"); !strings.Contains(w, "containers of one network can pretend to be each other") {
		t.Error(w)
	}
}

// TestLegacyPortsInOne: a range that keeps its numbers is one rule, and one change.
func TestLegacyPortsInOne(t *testing.T) {
	needLegacy(t)
	n := room(t)
	var ports []PortRequest
	for p := uint16(20000); p < 21000; p++ {
		ports = append(ports, PortRequest{Container: p, Proto: "udp", HostPort: strconv.Itoa(int(p))})
	}
	start := time.Now()
	attach(t, n, AttachRequest{Ports: ports})
	t.Logf("%v", time.Since(start))
	if got := strings.Count(legacySave(t), "--dport"); got != 1 {
		t.Errorf("%d rules:\n%s", got, legacySave(t))
	}
}

func FuzzReadSaved(f *testing.F) {
	f.Add("*filter\n:FORWARD ACCEPT [0:0]\n:BERTH-FWD-b0 - [0:0]\n-A FORWARD -j BERTH-FWD-b0\n-A\n-A FORWARD\nCOMMIT\n")
	f.Fuzz(func(_ *testing.T, text string) {
		s := xtNames{"b0"}.readSaved(text)
		_ = s.clear()
	})
}
