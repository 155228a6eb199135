package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// restores loads a rule set as iptables-save writes it, with the programs of either backend.
func restores(t *testing.T, program, rules string) {
	t.Helper()
	cmd := exec.Command(program)
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("%s: %v\n%s", program, err, out)
	}
}

// hostFirewalls are rule sets that let tcp 18080 and udp 18053 in, and nothing else that is new.
var hostFirewalls = []struct {
	name         string
	set          func(t *testing.T)
	allow, clear func(t *testing.T) // allow lets tcp 18081 in, too
}{
	{"nftables",
		func(t *testing.T) {
			nft(t, `add table inet fw
add chain inet fw input { type filter hook input priority filter; policy drop; }
add rule inet fw input ct state established,related accept
add rule inet fw input iif lo accept
add rule inet fw input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
add rule inet fw input tcp dport 18080 accept
add rule inet fw input udp dport 18053 accept`)
		},
		func(t *testing.T) { nft(t, "add rule inet fw input tcp dport 18081 accept") },
		func(t *testing.T) { nft(t, "delete table inet fw") }},
	{"iptables", // and a FORWARD policy that drops, as beside Docker
		func(t *testing.T) {
			for _, program := range []string{"iptables-restore", "ip6tables-restore"} {
				restores(t, program, `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p ipv6-icmp -j ACCEPT
-A INPUT -p tcp -m tcp --dport 18080 -m conntrack --ctstate NEW -j ACCEPT
-A INPUT -p udp -m udp --dport 18053 -j ACCEPT
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
`)
			}
		},
		func(t *testing.T) {
			must(t, run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "18081", "-j", "ACCEPT"))
			must(t, run("ip6tables", "-A", "INPUT", "-p", "tcp", "--dport", "18081", "-j", "ACCEPT"))
		},
		func(t *testing.T) {
			_ = run("nft", "delete", "table", "ip", "filter")
			_ = run("nft", "delete", "table", "ip6", "filter")
		}},
	{"ufw on iptables-legacy", // its chains, with what `ufw allow` appends
		func(t *testing.T) {
			for program, v := range map[string]string{"iptables-legacy-restore": "", "ip6tables-legacy-restore": "6"} {
				restores(t, program, strings.ReplaceAll(`*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ufw%-before-input - [0:0]
:ufw%-user-input - [0:0]
:ufw%-after-input - [0:0]
:ufw%-skip-to-policy-input - [0:0]
-A INPUT -j ufw%-before-input
-A INPUT -j ufw%-after-input
-A ufw%-before-input -i lo -j ACCEPT
-A ufw%-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw%-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw%-before-input -p ipv6-icmp -j ACCEPT
-A ufw%-before-input -j ufw%-user-input
-A ufw%-user-input -p tcp -m tcp --dport 18080 -j ACCEPT
-A ufw%-user-input -p udp -m udp --dport 18053 -j ACCEPT
-A ufw%-after-input -p udp -m udp --dport 137 -j ufw%-skip-to-policy-input
-A ufw%-skip-to-policy-input -j DROP
COMMIT
`, "%", v))
			}
		},
		func(t *testing.T) {
			must(t, run("iptables-legacy", "-A", "ufw-user-input", "-p", "tcp", "--dport", "18081", "-j", "ACCEPT"))
			must(t, run("ip6tables-legacy", "-A", "ufw6-user-input", "-p", "tcp", "--dport", "18081", "-j", "ACCEPT"))
		},
		func(t *testing.T) {
			for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
				_ = run(program, "-P", "INPUT", "ACCEPT")
				_ = run(program, "-F")
				_ = run(program, "-X")
			}
		}},
}

// TestRespectHostFirewall: of the ports that are published those are reached that the host's own rules let in.
func TestRespectHostFirewall(t *testing.T) {
	needRoot(t)
	must(t, setSysctl("net/ipv4/conf/all/rp_filter", "1")) // the strictest that hosts have
	t.Cleanup(func() { _ = setSysctl("net/ipv4/conf/all/rp_filter", "0") })
	n := room(t, func(o *Options) { o.RespectFirewall = true })
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "dual", IPv6: new(true)})
	request := on("dual")
	for _, p := range []string{"18080", "18081", "18082"} {
		request.Ports = append(request.Ports, PortRequest{Container: 80, HostPort: p})
	}
	request.Ports = append(request.Ports, PortRequest{Container: 53, Proto: "udp", HostPort: "18053"},
		PortRequest{Container: 53, Proto: "udp", HostPort: "18054"},
		PortRequest{Container: 80, HostIP: hostAddr, HostPort: "18090"}, PortRequest{Container: 80, HostIP: "127.0.0.1", HostPort: "18091"})
	web := attach(t, n, request)
	serve(t, n, web.NetNS, "tcp", ":80")
	serve(t, n, web.NetNS, "udp", ":53")
	neighbour := attach(t, n, AttachRequest{})
	v4 := func(port string) string { return net.JoinHostPort(hostAddr, port) }
	v6 := func(port string) string { return net.JoinHostPort(hostAddr6, port) }

	reaches(t, n, "no firewall", out, "tcp", v4("18080"), outsideAddr)
	reaches(t, n, "no firewall, one address", out, "tcp", v4("18090"), outsideAddr)
	reaches(t, n, "no firewall, IPv6", out, "tcp", v6("18080"), outsideAddr6)
	for _, fw := range hostFirewalls {
		t.Run(fw.name, func(t *testing.T) {
			fw.set(t)
			defer fw.clear(t)
			reaches(t, n, "allowed", out, "tcp", v4("18080"), outsideAddr)
			reaches(t, n, "allowed", out, "udp", v4("18053"), outsideAddr)
			reaches(t, n, "allowed, IPv6", out, "tcp", v6("18080"), outsideAddr6)
			reaches(t, n, "allowed, IPv6", out, "udp", v6("18053"), outsideAddr6)
			reaches(t, n, "allowed, from a container", neighbour.NetNS, "tcp", v4("18080"), "")
			reaches(t, n, "the host itself", n.hostNS, "tcp", v4("18081"), "")
			reaches(t, n, "the host's loopback", n.hostNS, "tcp", "127.0.0.1:18091", "")
			for _, port := range []string{"18081", "18082", "18090"} {
				doesNotReach(t, n, "not allowed", out, "tcp", v4(port))
				doesNotReach(t, n, "not allowed, from a container", neighbour.NetNS, "tcp", v4(port))
			}
			doesNotReach(t, n, "not allowed, IPv6", out, "tcp", v6("18081"))
			doesNotReach(t, n, "not allowed", out, "udp", v4("18054"))
			fw.allow(t)
			reaches(t, n, "allowed now", out, "tcp", v4("18081"), outsideAddr)
			reaches(t, n, "allowed now, IPv6", out, "tcp", v6("18081"), outsideAddr6)
		})
	}

	// A connection that was let in stays when the rules change, as those of the host's programs do with "established".
	nft(t, "add table inet fw; add chain inet fw input { type filter hook input priority filter; policy accept; }")
	defer nft(t, "delete table inet fw")
	var c net.Conn
	id := n.owner(t, web)
	must(t, n.Detach(context.Background(), id)) // ports change with a new start
	request.ContainerID, request.Name = id, "again"
	request.Ports = []PortRequest{{Container: 81, HostPort: "18081"}}
	again := attach(t, n, request)
	inside(t, n, again.NetNS, func() error {
		l, err := net.Listen("tcp", ":81")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			if c, err := l.Accept(); err == nil {
				var b [16]byte
				for {
					k, err := c.Read(b[:])
					if err != nil {
						c.Close()
						return
					}
					_, _ = c.Write(b[:k])
				}
			}
		}()
		return nil
	})
	inside(t, n, out, func() (err error) {
		c, err = net.DialTimeout("tcp", v4("18081"), time.Minute)
		return err
	})
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	echo := func(when string) {
		var b [4]byte
		if _, err := c.Write([]byte("echo")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if _, err := c.Read(b[:]); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	echo("before the rules change")
	nft(t, "add chain inet fw input { policy drop; }")
	echo("after the rules have changed")
	doesNotReach(t, n, "a new connection", out, "tcp", v4("18081"))
}

// What others do to the gate is undone.
func TestGateIsMended(t *testing.T) {
	n := room(t, func(o *Options) { o.RespectFirewall = true })
	out := outside(t, n)
	web := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18080"}}})
	serve(t, n, web.NetNS, "tcp", ":80")
	g := n.gateLinks()
	for _, c := range []string{"del " + g.out, "del " + g.in, "set " + g.out + " down", "set " + g.in + " down"} {
		reaches(t, n, "before "+c, out, "tcp", hostAddr+":18080", outsideAddr)
		must(t, run(append([]string{"ip", "link"}, strings.Fields(c)...)...))
		eventually(t, c, func() bool { return dial(n, out, "tcp", hostAddr+":18080") == nil })
		settled(n)
	}
	reaches(t, n, "at the end", out, "tcp", hostAddr+":18080", outsideAddr)
	// The daemon may be faster than who sets it down to rename it.
	_ = run("ip", "link", "set", g.out, "down", "name", "gate-else")
	eventually(t, "renamed", func() bool { return linkNames(t)[g.out] && dial(n, out, "tcp", hostAddr+":18080") == nil })
	if linkNames(t)["gate-else"] {
		t.Error("the renamed link is still there")
	}
}

// The gate goes with the daemon, with the policy, and comes back when it does.
func TestGateComesAndGoes(t *testing.T) {
	n := room(t, func(o *Options) { o.RespectFirewall = true })
	there := func(g gate) bool {
		_, err := netlink.LinkByName(g.out)
		return err == nil
	}
	g := n.gateLinks()
	if !there(g) {
		t.Fatal("there is no gate")
	}
	at, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "c", Ports: []PortRequest{{Container: 80, HostPort: "18080"}}})
	must(t, err)
	defer at.NetNS.Close()
	id := n.owner(t, at)
	live := Live{ContainerID: id, Name: "c", Pid: sleeper(t, n, at.NetNS), Endpoints: at.Endpoints, Ports: at.Ports}
	for _, respect := range []bool{true, false, true} {
		must(t, n.Close())
		if !there(g) && n.opts.RespectFirewall {
			t.Error("the gate went although a container runs")
		}
		o := n.opts
		o.RespectFirewall = respect
		n, err = Open(context.Background(), o)
		must(t, err)
		must(t, n.Retain(context.Background(), []Live{live}))
		if there(g) != respect {
			t.Errorf("respect is %t, the gate is there: %t", respect, there(g))
		}
		text := nft(t, "list", "table", "ip", n.tableName())
		if strings.Contains(text, "dup to") != respect {
			t.Errorf("respect is %t:\n%s", respect, text)
		}
	}
	must(t, n.Detach(context.Background(), id))
	must(t, n.Close())
	if there(g) {
		t.Error("the gate was left behind")
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/class/net/%s", g.in)); err == nil {
		t.Error("its other end was left behind")
	}
}
