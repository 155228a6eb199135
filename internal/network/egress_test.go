package network

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/dns"
	"github.com/containerd/errdefs"
	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

func mustEgress(text string) *egress {
	p, err := parseEgress(text)
	if err != nil {
		panic(err)
	}
	return p
}

func TestParseEgress(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      "",
		"off":                                   "",
		" ; ,":                                  "",
		"default=deny":                          "default=deny",
		"allow=1.2.3.4 ; allow=b":               "allow=1.2.3.4,allow=b",
		"allow=::1,deny=fd00::/8":               "allow=::1,deny=fd00::/8",
		"allow=[::1]:80/tcp":                    "allow=[::1]:80/tcp",
		"allow=[fd00::/8]:1-2":                  "allow=[fd00::/8]:1-2",
		"allow=*.Example.COM.:443\nresolve=all": "allow=*.Example.COM.:443,resolve=all",
	} {
		if p, err := parseEgress(text); err != nil || p.String() != want {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	for _, text := range badEgress {
		if p, err := parseEgress(text); err == nil {
			t.Errorf("%q is taken as %+v", text, p)
		}
	}
}

var badEgress = []string{"allow", "allow=", "1.2.3.4", "alow=1.2.3.4", "allow=1.2.3.4/33", "allow=10.0.0.1/8", "allow=300.1.1.1",
	"allow=1.2.3.4:0", "allow=1.2.3.4:65536", "allow=1.2.3.4:5-4", "allow=1.2.3.4:+5", "allow=1.2.3.4:", "allow=1.2.3.4:x", "allow=1.2.3.4/icmpx",
	"allow=1.2.3.4:80/icmp", "allow=fe80::1%lo", "allow=[::1", "allow=[::1]80", "allow=[::1]:", "allow=::ffff:1.2.3.0/120", "allow=a..b",
	"allow=-a.b", "allow=*", "allow=*.", "allow=a.*.b", "allow=ä.example", "allow=a_b.c/d", "default=maybe", "default=deny,default=allow",
	"default=allow,allow=1.2.3.4", "deny=example.com", "allow=1.1.1.1,deny=example.com:80", "resolve=1.1.1.1", "resolve=a.b:53",
	"allow=" + strings.Repeat("a", 254), "allow=" + strings.Repeat("a", 64) + ".b", strings.Repeat("allow=1.1.1.1,", 129), strings.Repeat(" ", 9<<10)}

// FuzzParseEgress: what is taken can be written and read again, and makes elements that do not overlap.
func FuzzParseEgress(f *testing.F) {
	for _, s := range append(badEgress, "allow=10.0.0.0/8:80,allow=10.1.0.0/16,deny=all:25/tcp", "deny=all:1-9 deny=[::/0]:5-20/udp") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseEgress(text)
		if err != nil || p == nil {
			return
		}
		again, err := parseEgress(p.String())
		if err != nil || again.String() != p.String() {
			t.Fatalf("%q is %q, which is %v, %v", text, p, again, err)
		}
		if len(p.rules) > 12 {
			return
		}
		for _, v := range []verb{verbAllow, verbDeny} {
			for _, fam := range []family{ip4, ip6} {
				rs := p.fixed(v, fam)
				for i, a := range rs {
					if a.from.Compare(a.to) > 0 || a.proto[0] > a.proto[1] || a.ports[0] > a.ports[1] {
						t.Fatalf("%q: %v is empty", text, a)
					}
					for _, b := range rs[i+1:] {
						if a.from.Compare(b.to) <= 0 && b.from.Compare(a.to) <= 0 && a.proto[0] <= b.proto[1] && b.proto[0] <= a.proto[1] &&
							a.ports[0] <= b.ports[1] && b.ports[0] <= a.ports[1] {
							t.Fatalf("%q: %v and %v overlap", text, a, b)
						}
					}
				}
			}
		}
	})
}

func TestEgressVerdict(t *testing.T) {
	for _, c := range []struct{ policy, to, want string }{
		{"default=deny", "1.2.3.4 tcp 80", "unknown"},
		{"deny=10.0.0.0/8", "10.255.255.255 udp 1", "denied"},
		{"deny=10.0.0.0/8", "11.0.0.0 udp 1", "allowed"},
		{"deny=10.0.0.0/8", "fd00::1 udp 1", "allowed"},
		{"allow=10.0.0.0/8:80", "10.0.0.1 tcp 80", "allowed"},
		{"allow=10.0.0.0/8:80", "10.0.0.1 udp 80", "allowed"},
		{"allow=10.0.0.0/8:80", "10.0.0.1 sctp 80", "unknown"},
		{"allow=10.0.0.0/8:80/tcp", "10.0.0.1 udp 80", "unknown"},
		{"allow=10.0.0.0/8:80-90", "10.0.0.1 tcp 90", "allowed"},
		{"allow=10.0.0.0/8:80-90", "10.0.0.1 tcp 91", "unknown"},
		{"allow=all,deny=all:25/tcp", "1.1.1.1 tcp 25", "denied"},
		{"allow=all,deny=all:25/tcp", "fd00::1 tcp 25", "denied"},
		{"allow=all,deny=all:25/tcp", "1.1.1.1 tcp 26", "allowed"},
		{"allow=all/icmp", "1.1.1.1 icmp 0", "allowed"},
		{"allow=all/icmp", "fd00::1 icmp6 0", "allowed"},
		{"allow=all/icmp", "fd00::1 tcp 1", "unknown"},
		{"allow=example.com", "1.1.1.1 tcp 1", "unknown"},
	} {
		var addr, proto string
		var port uint16
		_, err := fmt.Sscan(c.to, &addr, &proto, &port)
		must(t, err)
		p := map[string]protocol{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP,
			"icmp6": unix.IPPROTO_ICMPV6}[proto]
		allowed, known := mustEgress(c.policy).fixedVerdict(netip.MustParseAddr(addr), p, port)
		got := "unknown"
		if known {
			got = map[bool]string{true: "allowed", false: "denied"}[allowed]
		}
		if got != c.want {
			t.Errorf("%s → %s: %s, want %s", c.policy, c.to, got, c.want)
		}
	}
	for _, c := range []struct {
		policy, name string
		want         bool
	}{
		{"", "a.b", true}, {"deny=1.1.1.1", "a.b", true}, {"default=deny", "a.b", false}, {"allow=a.b", "a.b", true}, {"allow=a.b", "c.a.b", false},
		{"allow=*.b", "a.b", true}, {"allow=*.b", "x.a.b", true}, {"allow=*.b", "b", false}, {"allow=*.b", "ab", false},
		{"allow=*.b,deny=x.b", "x.b", false}, {"allow=*.b,deny=x.b", "y.b", true}, {"allow=1.1.1.1,resolve=all", "a.b", true},
		{"allow=1.1.1.1,resolve=*.b", "a.c", false},
	} {
		if got := mustEgress(c.policy).resolves(c.name); got != c.want {
			t.Errorf("%q resolves %s: %t", c.policy, c.name, got)
		}
	}
}

// FuzzParseLog: what the kernel tells of packets is made by containers.
func FuzzParseLog(f *testing.F) {
	f.Add([]byte{})
	f.Add(logMessage(append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 0, 1, 0, 80)))
	f.Add(logMessage(append([]byte{0x60}, make([]byte, 50)...)))
	f.Fuzz(func(t *testing.T, b []byte) { parseLog(b) })
}

func logMessage(packet []byte) []byte {
	body := append([]byte{unix.AF_INET, 0, 0, 1}, nlAttr(logLink, []byte{0, 0, 0, 7})...)
	body = append(body, nlAttr(logTime, []byte{0, 0, 0, 0, 0x60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7})...)
	body = append(body, nlAttr(logPayload, packet)...)
	m := []byte{byte(16 + len(body)), byte((16 + len(body)) >> 8), 0, 0, 0, logPacket >> 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return append(m, body...)
}

func TestParseLog(t *testing.T) {
	got := parseLog(logMessage(append([]byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, 0, 1, 0, 80)))
	want := []logged{{7, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), "tcp", 80, time.Unix(0x60000000, 7000)}}
	if !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

// TestRefusals: the same is told once a minute, and there is an end to what is kept.
func TestRefusals(t *testing.T) {
	told := 0
	l := newRefusals("t", func(Refused) { told++ })
	for range 5 {
		l.note(Refused{ContainerID: "a", Domain: "x"})
	}
	for i := range 2 * maxRefused {
		l.note(Refused{ContainerID: "b", Domain: fmt.Sprint(i)})
	}
	n := &Networks{exits: &exits{log: l}}
	all := n.Refused()
	if len(all) != maxRefused || len(l.found) != maxRefused || told != 1+2*maxRefused || all[len(all)-1].Domain != fmt.Sprint(2*maxRefused-1) {
		t.Errorf("%d kept, %d found, %d told", len(all), len(l.found), told)
	}
}

// world is a neighbour host with servers on it, and a name server that the host asks.
type world struct {
	n     *Networks
	ns    *os.File
	mu    sync.Mutex
	zone  map[string][]string // by name: addresses
	asked []string            // the names, in their order; a question may be repeated
}

// far are addresses of the neighbour host beside outsideAddr.
var far = []string{"10.213.251.1", "10.213.251.2", "10.213.252.1", "fd00:213:251::1", "fd00:213:251::2"}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	n := room(t, change...)
	w := &world{n: n, ns: outside(t, n), zone: map[string][]string{}}
	inside(t, n, w.ns, func() error {
		for _, a := range far {
			args := "ip addr add " + a + "/32 dev lo"
			if strings.Contains(a, ":") {
				args = "ip -6 addr add " + a + "/128 dev lo nodad"
			}
			if err := run(strings.Fields(args)...); err != nil {
				return err
			}
		}
		return run("ip", "-6", "route", "add", "default", "via", hostAddr6)
	})
	for _, args := range []string{"ip route add 10.213.251.0/24 via " + outsideAddr, "ip route add 10.213.252.0/24 via " + outsideAddr,
		"ip -6 route add fd00:213:251::/64 via " + outsideAddr6} {
		must(t, run(strings.Fields(args)...))
	}
	serve(t, n, w.ns, "tcp", ":80")
	serve(t, n, w.ns, "tcp", ":81")
	for _, a := range []string{far[0], far[2], "[" + far[3] + "]"} { // an answer over UDP comes from the address that was asked
		serve(t, n, w.ns, "udp", a+":80")
	}
	echo(t, n, w.ns, ":82")
	inside(t, n, w.ns, func() error {
		pc, err := net.ListenPacket("udp", outsideAddr+":53")
		if err != nil {
			return err
		}
		s := &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(w.answer)}
		t.Cleanup(func() { _ = s.Shutdown() })
		go func() { _ = s.ActivateAndServe() }()
		return nil
	})
	return w
}

// echo sends back what it receives.
func echo(t *testing.T, n *Networks, ns *os.File, address string) {
	t.Helper()
	inside(t, n, ns, func() error {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.Copy(c, c)
					c.Close()
				}()
			}
		}()
		return nil
	})
}

// says sets the addresses of a name.
func (w *world) says(name string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.zone[name] = addrs
}

func (w *world) answer(to mdns.ResponseWriter, q *mdns.Msg) {
	m := new(mdns.Msg).SetReply(q)
	name := strings.ToLower(strings.TrimSuffix(q.Question[0].Name, "."))
	w.mu.Lock()
	w.asked = append(w.asked, name)
	addrs, ok := w.zone[name]
	w.mu.Unlock()
	if !ok {
		m.Rcode = mdns.RcodeNameError
	}
	for _, a := range addrs {
		h := mdns.RR_Header{Name: q.Question[0].Name, Class: mdns.ClassINET, Ttl: 5}
		switch ip := net.ParseIP(a); {
		case ip.To4() != nil && q.Question[0].Qtype == mdns.TypeA:
			h.Rrtype = mdns.TypeA
			m.Answer = append(m.Answer, &mdns.A{Hdr: h, A: ip})
		case ip.To4() == nil && q.Question[0].Qtype == mdns.TypeAAAA:
			h.Rrtype = mdns.TypeAAAA
			m.Answer = append(m.Answer, &mdns.AAAA{Hdr: h, AAAA: ip})
		}
	}
	_ = to.WriteMsg(m)
}

// knows tells whether the name server outside was asked for a name.
func (w *world) knows(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.asked, name)
}

// asks looks a name up from inside; "" is no such name.
func (w *world) asks(t *testing.T, a *Attachment, name string, typ uint16) string {
	t.Helper()
	var addrs []string
	inside(t, w.n, a.NetNS, func() error {
		c := &mdns.Client{Timeout: 30 * time.Second}
		r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(mdns.Fqdn(name), typ), resolverAddr+":53")
		if err != nil {
			return err
		}
		for _, rr := range r.Answer {
			switch rr := rr.(type) {
			case *mdns.A:
				addrs = append(addrs, rr.A.String())
			case *mdns.AAAA:
				addrs = append(addrs, rr.AAAA.String())
			}
		}
		return nil
	})
	return strings.Join(addrs, " ")
}

// way tells what happens on the way: "open", "refused" (at once), or "lost".
func (w *world) way(t *testing.T, a *Attachment, proto, address string) string {
	t.Helper()
	result := ""
	inside(t, w.n, a.NetNS, func() error {
		c, err := net.DialTimeout(proto, address, 30*time.Second)
		if err == nil && proto == "udp" {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			_, _ = c.Write([]byte("x"))
			_, err = c.Read(make([]byte, 100))
		}
		switch {
		case err == nil:
			result = "open"
			c.Close()
		case os.IsTimeout(err):
			result = "lost"
		default:
			result = "refused"
		}
		return nil
	})
	return result
}

func (w *world) ways(t *testing.T, when string, a *Attachment, want map[string]string) {
	t.Helper()
	for _, to := range slices.Sorted(maps.Keys(want)) {
		proto, address, _ := strings.Cut(to, " ")
		if got := w.way(t, a, proto, address); got != want[to] {
			t.Errorf("%s: %s is %s, want %s", when, to, got, want[to])
		}
	}
}

func egressOn(network, policy string) []EndpointRequest {
	return []EndpointRequest{{Network: network, DriverOpts: map[string]string{OptionEgress: policy}}}
}

// TestEgressOfContainer: addresses, ports and protocols, on the default network, both versions of IP on another; a
// neighbour without a policy is not touched; the host is behind the policy, too; nothing is left of it.
func TestEgressOfContainer(t *testing.T) {
	w := newWorld(t)
	n := w.n
	free := attach(t, n, AttachRequest{})
	bound := attach(t, n, AttachRequest{Endpoints: egressOn("bridge", "allow=10.213.251.0/24:80,deny=10.213.251.2,allow=10.213.252.1/udp")})
	serve(t, n, n.hostNS, "tcp", ":8181")
	serve(t, n, free.NetNS, "tcp", ":80")
	gateway := bound.Endpoints[0].Gateway.String()
	w.ways(t, "bound", bound, map[string]string{
		"tcp 10.213.251.1:80": "open", "tcp 10.213.251.1:81": "refused", "udp 10.213.251.1:80": "open",
		"tcp 10.213.251.2:80": "refused", "tcp 10.213.252.1:80": "refused", "udp 10.213.252.1:80": "open",
		"tcp " + outsideAddr + ":80": "refused", "tcp " + gateway + ":8181": "refused",
		"tcp " + at(free, 80): "open",
	})
	w.ways(t, "free", free, map[string]string{"tcp 10.213.251.2:80": "open", "tcp " + outsideAddr + ":81": "open", "tcp " + gateway + ":8181": "open"})

	network1(t, n, CreateRequest{Name: "six", IPv6: new(true), Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.240.0/24")}, {Prefix: netip.MustParsePrefix("fd00:213:1::/64")}}})
	six := attach(t, n, AttachRequest{Endpoints: egressOn("six", "allow=[fd00:213:251::1]:80/tcp")})
	w.ways(t, "IPv6", six, map[string]string{"tcp [fd00:213:251::1]:80": "open", "tcp [fd00:213:251::1]:81": "refused",
		"tcp [fd00:213:251::2]:80": "refused", "tcp 10.213.251.1:80": "refused", "udp [fd00:213:251::1]:80": "refused"})
	for _, a := range []*Attachment{bound, six} {
		for id := range n.held {
			if n.held[id].endpoints[0].state.EndpointID == a.Endpoints[0].EndpointID {
				must(t, n.Detach(context.Background(), id))
			}
		}
	}
	if text := nft(t, "list", "tables"); strings.Contains(text, "inet "+n.tableName()) {
		t.Errorf("without a policy there are rules: %s", text)
	}
}

// TestEgressOfNetwork: all containers of a network, and one with a policy of its own beside: both must allow it.
func TestEgressOfNetwork(t *testing.T) {
	w := newWorld(t)
	n := w.n
	network1(t, n, CreateRequest{Name: "few", Options: map[string]string{OptionEgress: "allow=10.213.251.0/24"}})
	a := attach(t, n, on("few"))
	b := attach(t, n, AttachRequest{Endpoints: egressOn("few", "allow=10.213.251.1 allow=10.213.252.1")})
	trusted := attach(t, n, AttachRequest{Trusted: true, Endpoints: []EndpointRequest{{Network: "few"}}})
	want := map[string]string{"tcp 10.213.251.1:80": "open", "tcp 10.213.251.2:80": "open", "tcp 10.213.252.1:80": "refused"}
	w.ways(t, "the network's", a, want)
	w.ways(t, "with NET_ADMIN", trusted, want)
	want["tcp 10.213.251.2:80"] = "refused"
	w.ways(t, "both", b, want)
	serve(t, n, b.NetNS, "tcp", ":80")
	if got := w.way(t, a, "tcp", at(b, 80)); got != "open" {
		t.Errorf("a neighbour is %s", got)
	}
	must(t, n.SetEgress(context.Background(), "few", "deny=10.213.251.1"))
	w.ways(t, "changed", a, map[string]string{"tcp 10.213.251.1:80": "refused", "tcp 10.213.251.2:80": "open", "tcp 10.213.252.1:80": "open"})
	if nw, err := n.Inspect("few"); err != nil || nw.Options[OptionEgress] != "deny=10.213.251.1" {
		t.Errorf("%+v %v", nw.Options, err)
	}
	must(t, n.SetEgress(context.Background(), "few", "off"))
	w.ways(t, "without", a, map[string]string{"tcp 10.213.251.1:80": "open"})
	for text, is := range map[string]func(error) bool{"allow=": errdefs.IsInvalidArgument} {
		if err := n.SetEgress(context.Background(), "few", text); !is(err) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := n.SetEgress(context.Background(), "bridge", "off"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("the default network: %v", err)
	}
	if err := n.SetEgress(context.Background(), "nobody", "off"); !errdefs.IsNotFound(err) {
		t.Errorf("no network: %v", err)
	}
}

// TestEgressNames: what a name stands for is open when the name has been asked for, by who asked, and for as long as that
// holds. Other names are not asked for, and other name servers are not reached.
func TestEgressNames(t *testing.T) {
	w := newWorld(t)
	n := w.n
	w.says("a.example", "10.213.251.1", "fd00:213:251::1")
	w.says("b.example", "10.213.252.1")
	w.says("evil.example", "10.213.251.2")
	w.says("meta.example", "169.254.169.254", "127.0.0.1")
	network1(t, n, CreateRequest{Name: "six", IPv6: new(true)})
	r := AttachRequest{Endpoints: egressOn("six", "allow=a.example:80,allow=*.example:81,deny=evil.example"), DNS: []string{outsideAddr}}
	a := attach(t, n, r)
	r.Name = ""
	b := attach(t, n, r)
	six := "[fd00:213:251::1]"
	w.ways(t, "before", a, map[string]string{"tcp 10.213.251.1:80": "refused", "tcp " + six + ":80": "refused", "udp " + outsideAddr + ":53": "refused"})
	if got := w.asks(t, a, "A.example", mdns.TypeA); got != "10.213.251.1" {
		t.Fatalf("a.example is %q", got)
	}
	w.ways(t, "resolved", a, map[string]string{"tcp 10.213.251.1:80": "open", "tcp 10.213.251.1:81": "open", "udp 10.213.251.1:80": "open",
		"tcp " + six + ":80": "refused", "tcp 10.213.252.1:81": "refused"})
	w.ways(t, "the other container", b, map[string]string{"tcp 10.213.251.1:80": "refused"})
	w.asks(t, a, "a.example", mdns.TypeAAAA)
	w.asks(t, a, "b.example", mdns.TypeA)
	w.ways(t, "more resolved", a, map[string]string{"tcp " + six + ":80": "open", "tcp 10.213.252.1:81": "open", "tcp 10.213.252.1:80": "refused"})
	for _, name := range []string{"evil.example", "a.example.net", "example", "secret.evil.net", "1.251.213.10.in-addr.arpa"} {
		if got := w.asks(t, a, name, mdns.TypeA); got != "" || w.knows(name) {
			t.Errorf("%s, which nobody may reach, is %q, asked for outside: %t", name, got, w.knows(name))
		}
	}
	w.asks(t, a, "meta.example", mdns.TypeA)
	n.exits.names.mu.Lock()
	for src, ways := range n.exits.names.known {
		for way := range ways {
			if !mayOpen(way.to) {
				t.Errorf("a name opens %v to %v", way, src)
			}
		}
	}
	n.exits.names.mu.Unlock()
	// An address that has been another's is closed to the next.
	must(t, n.exits.names.forget([]source{{n.networks[a.Endpoints[0].NetworkID].rec.Link, a.Endpoints[0].IPv4.Addr()}}, nil, nil))
	w.ways(t, "forgotten", a, map[string]string{"tcp 10.213.251.1:80": "refused"})
	if got := w.asks(t, a, "a.example", mdns.TypeA); got != "10.213.251.1" { // from the cache
		t.Fatalf("a.example is %q", got)
	}
	w.ways(t, "asked for again", a, map[string]string{"tcp 10.213.251.1:80": "open"})
	for _, want := range []string{"10.213.251.1 tcp 80 ", "fd00:213:251::1 tcp 80 ", "invalid IP  0 evil.example"} {
		eventually(t, fmt.Sprintf("%q is in the log", want), func() bool { // of what the kernel tells later
			return slices.ContainsFunc(n.Refused(), func(r Refused) bool {
				return fmt.Sprintf("%s %s %d %s", r.To, r.Proto, r.Port, r.Domain) == want
			})
		})
	}
}

// TestEgressExpires: an address is open for a time.
func TestEgressExpires(t *testing.T) {
	w := newWorld(t)
	w.says("a.example", "10.213.251.1")
	w.n.exits.names.least = time.Second
	network1(t, w.n, CreateRequest{Name: "net1"})
	a := attach(t, w.n, AttachRequest{Endpoints: egressOn("net1", "allow=a.example"), DNS: []string{outsideAddr}})
	opens := func() bool { // on a busy machine the time may be over before one looks
		w.asks(t, a, "a.example", mdns.TypeA)
		return w.way(t, a, "tcp", "10.213.251.1:80") == "open"
	}
	eventually(t, "what was asked for is open", opens)
	eventually(t, "its time is over", func() bool { return w.way(t, a, "tcp", "10.213.251.1:80") == "refused" })
	eventually(t, "what was asked for again is open", opens)
}

// TestEgressLive: a policy comes, changes and goes while the container runs; connections that it refuses end, others stay.
func TestEgressLive(t *testing.T) {
	w := newWorld(t)
	n := w.n
	r := AttachRequest{ContainerID: newID(), Name: "c", DNS: []string{outsideAddr}}
	a := attach(t, n, r)
	set := func(policy string) error {
		return n.Shape(context.Background(), ShapeRequest{ContainerID: r.ContainerID, NetNS: a.NetNS, Network: "bridge", DNS: r.DNS,
			Options: map[string]string{OptionEgress: policy}})
	}
	connect := func(address string) (c net.Conn) {
		inside(t, n, a.NetNS, func() (err error) { c, err = net.DialTimeout("tcp", address, 30*time.Second); return err })
		t.Cleanup(func() { c.Close() })
		return c
	}
	stays, ends := connect("10.213.251.1:82"), connect("10.213.251.2:82")
	must(t, set("allow=10.213.251.1"))
	alive := func(c net.Conn) bool {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			return false
		}
		_, err := c.Read(make([]byte, 1))
		return err == nil
	}
	if !alive(stays) {
		t.Error("a connection that is allowed has ended")
	}
	if alive(ends) {
		t.Error("a connection that is refused lives on")
	}
	w.ways(t, "set", a, map[string]string{"tcp 10.213.251.1:80": "open", "tcp 10.213.251.2:80": "refused"})
	w.says("a.example", "10.213.251.2")
	w.says("b.example", "10.213.252.1")
	must(t, set("allow=a.example,allow=b.example"))
	w.asks(t, a, "a.example", mdns.TypeA)
	w.asks(t, a, "b.example", mdns.TypeA)
	w.ways(t, "by name", a, map[string]string{"tcp 10.213.251.2:80": "open", "tcp 10.213.252.1:80": "open"})
	must(t, set("allow=a.example:80-100,allow=c.example:90"))
	w.ways(t, "other names", a, map[string]string{"tcp 10.213.251.2:80": "open", "tcp 10.213.252.1:80": "refused"})
	must(t, set("off"))
	w.ways(t, "off", a, map[string]string{"tcp 10.213.252.1:80": "open"})
	for _, bad := range []string{"allow=", "nonsense"} {
		if err := set(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestEgressRestart: a policy, and what names have opened, outlive the daemon and a flush of all rules; what names open
// while there is none is known to the next.
func TestEgressRestart(t *testing.T) {
	w := newWorld(t, withKeeper)
	n := w.n
	w.says("a.example", "10.213.251.1")
	w.says("b.example", "10.213.251.2")
	network1(t, n, CreateRequest{Name: "net1", Options: map[string]string{OptionEgress: "allow=*.example"}})
	r := AttachRequest{ContainerID: newID(), Name: "c", Endpoints: egressOn("net1", "allow=a.example allow=b.example"), DNS: []string{outsideAddr}}
	a, err := n.Attach(context.Background(), r)
	must(t, err)
	defer a.NetNS.Close()
	w.asks(t, a, "a.example", mdns.TypeA)
	live := Live{ContainerID: r.ContainerID, Name: "c", Pid: sleeper(t, n, a.NetNS), Endpoints: a.Endpoints, DNS: r.DNS}
	again := restart(t, n, live)
	w.ways(t, "no daemon", a, map[string]string{"tcp 10.213.251.1:80": "open", "tcp 10.213.251.2:80": "refused"})
	if got := w.asks(t, a, "b.example", mdns.TypeA); got != "10.213.251.2" {
		t.Errorf("the keeper says b.example is %q", got)
	}
	if got := w.asks(t, a, "c.test", mdns.TypeA); got != "" || w.knows("c.test") {
		t.Errorf("the keeper says c.test is %q", got)
	}
	w.ways(t, "by the keeper", a, map[string]string{"tcp 10.213.251.2:80": "open", "tcp 10.213.252.1:81": "refused"})
	n = again()
	w.n = n
	for _, warning := range n.Warnings() {
		if strings.Contains(warning, "egress policy") {
			t.Errorf("after a restart it is warned: %s", warning)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); !slices.ContainsFunc(n.Refused(), func(r Refused) bool {
		return r.To.String() == "10.213.252.1" && r.Port == 81 && r.ContainerID == live.ContainerID
	}); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("what was refused while there was no daemon is not told of: %+v", n.Refused())
		}
	}
	want := map[string]string{"tcp 10.213.251.1:80": "open", "tcp 10.213.251.2:80": "open", "tcp 10.213.252.1:80": "refused"}
	w.ways(t, "after a restart", a, want)
	for range 2 {
		nft(t, "flush", "ruleset")
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(nft(t, "list", "tables"), "inet "+n.tableName()); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the rules do not come back")
			}
		}
		w.ways(t, "after a flush", a, want)
	}
}

// TestEgressBadInput: what cannot be is refused, and leaves nothing.
func TestEgressBadInput(t *testing.T) {
	n := room(t)
	for _, bad := range []string{"allow=", "allow=10.0.0.1/8", "example.com"} {
		if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: egressOn("bridge", bad)}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("endpoint %q: %v", bad, err)
		}
		if _, err := n.Create(context.Background(), CreateRequest{Name: "bad", Options: map[string]string{OptionEgress: bad}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("network %q: %v", bad, err)
		}
	}
	off := room(t, func(o *Options) { o.IPTables = false })
	if _, err := off.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: egressOn("bridge", "default=deny")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without rules: %v", err)
	}
	if _, err := off.Create(context.Background(), CreateRequest{Name: "bad", Options: map[string]string{OptionEgress: "default=deny"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a network without rules: %v", err)
	}
	if len(n.held)+len(off.held) != 0 {
		t.Error("something is attached")
	}
}

// TestEgressManyNames: there is an end to what one container opens.
func TestEgressManyNames(t *testing.T) {
	needRoot(t)
	n := room(t)
	attach(t, n, AttachRequest{Endpoints: egressOn("bridge", "allow=*.example")})
	l := n.exits.names
	for i, c := range []struct {
		policy string
		most   int
	}{{"allow=*.example", maxLearnt}, {"allow=*.example:443/tcp", maxLearnt}, {"allow=*.example/udp", maxLearnt}, {"allow=*.example:80-90/tcp", maxRanges}} {
		b := []leash{{link: n.opts.Bridge, addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 213, 1, byte(100 + i)})}, own: mustEgress(c.policy)}}
		var err error
		learnt := 0
		for i := 0; err == nil && i < 100; i++ {
			var rs []dns.Resolved
			for j := range 100 {
				rs = append(rs, dns.Resolved{Addr: netip.AddrFrom4([4]byte{192, 0, byte(i), byte(j)}), TTL: 1})
			}
			if err = l.learn(b, fmt.Sprintf("n%d.example", i), rs); err == nil {
				learnt += len(rs)
			}
		}
		if err == nil || learnt != c.most/100*100 {
			t.Errorf("%s: %d ways, %v", c.policy, learnt, err)
		}
	}
	// One address of more and more names.
	b := []leash{{link: n.opts.Bridge, addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 213, 1, 99})}, own: mustEgress("allow=*.example")}}
	way := learnt{false, netip.MustParseAddr("192.0.200.1"), box{[2]protocol{0, anyProtocol}, [2]uint16{0, 65535}}}
	for i := range 10 * maxNames {
		must(t, l.learn(b, fmt.Sprintf("n%d.example", i), []dns.Resolved{{Addr: way.to, TTL: 600}}))
	}
	names := l.known[source{n.opts.Bridge, b[0].addrs[0]}][way].names
	if len(names) != maxNames || names[maxNames-1] != fmt.Sprintf("n%d.example", 10*maxNames-1) {
		t.Errorf("%d names: %q", len(names), names)
	}
	// Another daemon reads them all, and closes them all.
	before := maps.Clone(l.known)
	l.reset()
	l.adopt()
	for src, ways := range before {
		if len(l.known[src]) != len(ways) {
			t.Errorf("%v: %d of %d ways are found again", src, len(l.known[src]), len(ways))
		}
		for way := range ways {
			if _, ok := l.known[src][way]; !ok {
				t.Errorf("%v is not found again", way)
				break
			}
		}
		must(t, l.forget([]source{src}, nil, nil))
	}
	if text := nft(t, "list", "table", "inet", n.tableName()); strings.Contains(text, "192.0.") {
		t.Error("some stay open")
	}
}

// TestEgressSpoofed: with a policy even a container that owns its network cannot take an address that has none.
func TestEgressSpoofed(t *testing.T) {
	w := newWorld(t)
	n := w.n
	r := AttachRequest{ContainerID: newID(), Name: "router", Trusted: true, Endpoints: egressOn("bridge", "allow=10.213.251.2")}
	a := attach(t, n, r)
	free := attach(t, n, AttachRequest{})
	other := free.Endpoints[0].IPv4
	dial := func() error {
		return n.inNetNS(a.NetNS, func() error {
			d := net.Dialer{Timeout: quick, LocalAddr: &net.TCPAddr{IP: other.Addr().AsSlice()}}
			c, err := d.Dial("tcp", "10.213.251.1:80")
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	inside(t, n, a.NetNS, func() error { return run("ip", "addr", "add", other.String(), "dev", a.Endpoints[0].Interface) })
	if dial() == nil {
		t.Error("it goes out in another's name")
	}
	w.ways(t, "by its own name", a, map[string]string{"tcp 10.213.251.1:80": "refused", "tcp 10.213.251.2:80": "open"})
	// Without a policy it may again what a router may.
	must(t, n.Shape(context.Background(), ShapeRequest{ContainerID: r.ContainerID, NetNS: a.NetNS, Network: "bridge", Options: map[string]string{}}))
	n.guard.mu.Lock()
	_, watched := n.guard.links[hostLink(a.Endpoints[0].EndpointID)]
	n.guard.mu.Unlock()
	if watched {
		t.Error("it is guarded without a policy")
	}
}
