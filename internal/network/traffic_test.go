package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// These tests send packets. "The host" is the test's own network namespace, "outside" a neighbour of it.

const (
	hostAddr     = "10.213.250.1"
	outsideAddr  = "10.213.250.2"
	hostAddr6    = "fd00:213:250::1"
	outsideAddr6 = "fd00:213:250::2"
	// quick is how long a packet that must not arrive is waited for.
	quick = 300 * time.Millisecond
)

// outside makes a neighbour host that knows the way to everything behind the host.
func outside(t *testing.T, n *Networks) *os.File {
	t.Helper()
	ns, err := n.inNewNetNS(func(*os.File) error { return run("ip", "link", "set", "lo", "up") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = run("ip", "link", "del", "btout")
		ns.Close()
	})
	peer := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "btout"}, PeerName: "up0", PeerNamespace: netlink.NsFd(ns.Fd())}
	if err := netlink.LinkAdd(peer); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"ip addr add " + hostAddr + "/24 dev btout", "ip -6 addr add " + hostAddr6 + "/64 dev btout nodad",
		"ip link set btout up"} {
		must(t, run(strings.Fields(args)...))
	}
	inside(t, n, ns, func() error {
		for _, args := range []string{"ip addr add " + outsideAddr + "/24 dev up0", "ip -6 addr add " + outsideAddr6 + "/64 dev up0 nodad",
			"ip link set up0 up", "ip route add 10.213.0.0/16 via " + hostAddr} {
			if err := run(strings.Fields(args)...); err != nil {
				return err
			}
		}
		return nil
	})
	return ns
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run executes a program in the namespace of the calling thread.
func run(args ...string) error {
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// serve answers every connection, or every datagram, with the address it came from.
func serve(t *testing.T, n *Networks, ns *os.File, proto, address string) {
	t.Helper()
	inside(t, n, ns, func() error {
		if proto == "udp" {
			c, err := net.ListenPacket(proto, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				var b [1500]byte
				for {
					_, from, err := c.ReadFrom(b[:])
					if err != nil {
						return
					}
					_, _ = c.WriteTo([]byte(from.String()), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(proto, address)
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
				_, _ = c.Write([]byte(c.RemoteAddr().String()))
				c.Close()
			}
		}()
		return nil
	})
}

// ask connects from a namespace and returns the address the other side saw. A datagram that gets no answer is sent again.
func ask(n *Networks, ns *os.File, proto, address string, wait time.Duration) (netip.AddrPort, error) {
	var seen netip.AddrPort
	err := n.inNetNS(ns, func() error {
		c, err := net.DialTimeout(proto, address, wait)
		if err != nil {
			return err
		}
		defer c.Close()
		end := time.Now().Add(wait)
		_ = c.SetDeadline(end)
		var b [256]byte
		for {
			if proto == "udp" {
				if _, err := c.Write([]byte("?")); err != nil {
					return err
				}
				_ = c.SetReadDeadline(time.Now().Add(min(time.Second, time.Until(end))))
			}
			k, err := c.Read(b[:])
			if os.IsTimeout(err) && time.Now().Before(end) {
				continue
			}
			if err == nil {
				seen, err = netip.ParseAddrPort(string(b[:k]))
			}
			return err
		}
	})
	return seen, err
}

func reaches(t *testing.T, n *Networks, what string, from *os.File, proto, address, seenAs string) {
	t.Helper()
	seen, err := ask(n, from, proto, address, time.Minute)
	switch {
	case err != nil:
		t.Errorf("%s: %s %s: %v", what, proto, address, err)
	case seenAs != "" && seen.Addr().Unmap().String() != seenAs:
		t.Errorf("%s: %s %s: it is seen as %s instead of %s", what, proto, address, seen.Addr(), seenAs)
	}
}

func doesNotReach(t *testing.T, n *Networks, what string, from *os.File, proto, address string) {
	t.Helper()
	if seen, err := ask(n, from, proto, address, quick); err == nil {
		t.Errorf("%s: %s %s was reached, seen as %s", what, proto, address, seen)
	}
}

func network1(t *testing.T, n *Networks, r CreateRequest) Network {
	t.Helper()
	res, err := n.Create(context.Background(), r)
	must(t, err)
	v, err := n.Inspect(res.ID)
	must(t, err)
	return v
}

func on(names ...string) AttachRequest {
	var r AttachRequest
	for _, name := range names {
		r.Endpoints = append(r.Endpoints, EndpointRequest{Network: name})
	}
	return r
}

func at(a *Attachment, port int) string {
	return netip.AddrPortFrom(a.Endpoints[0].IPv4.Addr(), uint16(port)).String()
}

func addrOf(a *Attachment) string { return a.Endpoints[0].IPv4.Addr().String() }

func TestTraffic(t *testing.T) {
	n := room(t)
	host := n.hostNS
	out := outside(t, n)
	serve(t, n, out, "tcp", outsideAddr+":7000")
	serve(t, n, out, "udp", outsideAddr+":7000")

	a, b := attach(t, n, AttachRequest{}), attach(t, n, AttachRequest{})
	serve(t, n, a.NetNS, "tcp", ":80")
	serve(t, n, b.NetNS, "tcp", ":80")

	reaches(t, n, "container to outside, hidden", a.NetNS, "tcp", outsideAddr+":7000", hostAddr)
	reaches(t, n, "container to outside, hidden", a.NetNS, "udp", outsideAddr+":7000", hostAddr)
	reaches(t, n, "container to its neighbour", a.NetNS, "tcp", at(b, 80), addrOf(a))
	reaches(t, n, "host to container", host, "tcp", at(a, 80), "")
	doesNotReach(t, n, "outside to a container by its address", out, "tcp", at(a, 80))

	network1(t, n, CreateRequest{Name: "other"})
	c := attach(t, n, on("other"))
	serve(t, n, c.NetNS, "tcp", ":80")
	reaches(t, n, "container of another network to outside", c.NetNS, "tcp", outsideAddr+":7000", hostAddr)
	doesNotReach(t, n, "between networks", a.NetNS, "tcp", at(c, 80))
	doesNotReach(t, n, "between networks", c.NetNS, "tcp", at(a, 80))
	both := attach(t, n, on("bridge", "other"))
	if both.Endpoints[0].Interface != "eth0" || both.Endpoints[1].Interface != "eth1" {
		t.Errorf("interfaces %+v", both.Endpoints)
	}
	reaches(t, n, "container on both", both.NetNS, "tcp", at(a, 80), addrOf(both))
	reaches(t, n, "container on both", both.NetNS, "tcp", at(c, 80), both.Endpoints[1].IPv4.Addr().String())

	network1(t, n, CreateRequest{Name: "inner", Internal: true})
	d, e := attach(t, n, on("inner")), attach(t, n, on("inner"))
	serve(t, n, e.NetNS, "tcp", ":80")
	reaches(t, n, "within an internal network", d.NetNS, "tcp", at(e, 80), addrOf(d))
	doesNotReach(t, n, "out of an internal network", d.NetNS, "tcp", outsideAddr+":7000")
	inside(t, n, d.NetNS, func() error { return run("ip", "route", "add", "default", "via", d.Endpoints[0].Gateway.String()) })
	doesNotReach(t, n, "out of an internal network with a route of its own", d.NetNS, "tcp", outsideAddr+":7000")
	doesNotReach(t, n, "from an internal network to another", d.NetNS, "tcp", at(a, 80))
	doesNotReach(t, n, "into an internal network", a.NetNS, "tcp", at(e, 80))

	network1(t, n, CreateRequest{Name: "lonely", Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"}})
	f, g := attach(t, n, on("lonely")), attach(t, n, on("lonely"))
	serve(t, n, g.NetNS, "tcp", ":80")
	doesNotReach(t, n, "neighbour with icc off", f.NetNS, "tcp", at(g, 80))
	reaches(t, n, "outside with icc off", f.NetNS, "tcp", outsideAddr+":7000", hostAddr)

	network1(t, n, CreateRequest{Name: "plain", Options: map[string]string{"com.docker.network.bridge.enable_ip_masquerade": "false"}})
	h := attach(t, n, on("plain"))
	reaches(t, n, "outside without masquerade", h.NetNS, "tcp", outsideAddr+":7000", addrOf(h))
}

func TestPublished(t *testing.T) {
	n := room(t, withoutRelay)
	host := n.hostNS
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "other"})
	network1(t, n, CreateRequest{Name: "inner", Internal: true})

	web := attach(t, n, AttachRequest{Name: "web", Ports: []PortRequest{
		{Container: 80, Proto: "tcp", HostPort: "18080"},
		{Container: 53, Proto: "udp", HostPort: "18053"},
		{Container: 81, Proto: "tcp", HostIP: "127.0.0.1", HostPort: "18081"},
		{Container: 82, Proto: "tcp", HostIP: hostAddr, HostPort: "18082"},
		{Container: 83, Proto: "tcp"},
		{Container: 84, Proto: "tcp", HostPort: "18084-18090"},
		{Container: 85, Proto: "udp", HostIP: "127.0.0.1", HostPort: "18085"},
	}})
	if len(web.Ports) != 7 || web.Ports[4].HostPort == 0 || web.Ports[5].HostPort != 18084 {
		t.Fatalf("ports %+v", web.Ports)
	}
	for _, p := range []string{"80", "81", "82", "83", "84"} {
		serve(t, n, web.NetNS, "tcp", ":"+p)
	}
	serve(t, n, web.NetNS, "udp", ":53")
	neighbour, stranger, locked := attach(t, n, AttachRequest{}), attach(t, n, on("other")), attach(t, n, on("inner"))

	reaches(t, n, "outside, with its own address", out, "tcp", hostAddr+":18080", outsideAddr)
	reaches(t, n, "outside, udp", out, "udp", hostAddr+":18053", outsideAddr)
	reaches(t, n, "outside, on one address", out, "tcp", hostAddr+":18082", outsideAddr)
	reaches(t, n, "outside, any port", out, "tcp", fmt.Sprintf("%s:%d", hostAddr, web.Ports[4].HostPort), outsideAddr)
	reaches(t, n, "outside, range", out, "tcp", hostAddr+":18084", outsideAddr)
	reaches(t, n, "host by loopback", host, "tcp", "127.0.0.1:18080", "")
	reaches(t, n, "host by loopback, udp", host, "udp", "127.0.0.1:18053", "")
	reaches(t, n, "host by another loopback address", host, "tcp", "127.0.0.9:18080", "")
	reaches(t, n, "host by loopback, published there", host, "tcp", "127.0.0.1:18081", "")
	reaches(t, n, "host by its address", host, "tcp", hostAddr+":18080", hostAddr)
	reaches(t, n, "host by the bridge's address", host, "tcp", web.Endpoints[0].Gateway.String()+":18080", "")
	reaches(t, n, "itself", web.NetNS, "tcp", hostAddr+":18080", "")
	reaches(t, n, "neighbour", neighbour.NetNS, "tcp", hostAddr+":18080", "")
	reaches(t, n, "neighbour by the gateway", neighbour.NetNS, "tcp", web.Endpoints[0].Gateway.String()+":18080", "")
	reaches(t, n, "neighbour, udp", neighbour.NetNS, "udp", hostAddr+":18053", "")
	reaches(t, n, "container of another network", stranger.NetNS, "tcp", hostAddr+":18080", "")

	doesNotReach(t, n, "outside, published on loopback", out, "tcp", hostAddr+":18081")
	doesNotReach(t, n, "outside, not published", out, "tcp", hostAddr+":81")
	doesNotReach(t, n, "from an internal network", locked.NetNS, "tcp", locked.Endpoints[0].Gateway.String()+":18080")
	doesNotReach(t, n, "host, published on another address", host, "tcp", "127.0.0.1:18082")

	// A neighbour host that sends loopback addresses over the wire.
	wire := func(ns *os.File, via, dev string) {
		inside(t, n, ns, func() error {
			for _, c := range []string{"sysctl -qw net.ipv4.conf.all.route_localnet=1", "ip route del table local 127.0.0.0/8 dev lo",
				"ip route del table local 127.0.0.1 dev lo", "ip route add 127.0.0.0/8 via " + via + " dev " + dev} {
				if err := run(strings.Fields(c)...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	wire(out, hostAddr, "up0")
	doesNotReach(t, n, "outside, by a loopback address", out, "tcp", "127.0.0.1:18081")
	// An answer might get lost where the question did not: look whether it comes at all.
	var box net.PacketConn
	inside(t, n, web.NetNS, func() (err error) {
		box, err = net.ListenPacket("udp", ":85")
		return err
	})
	defer box.Close()
	doesNotReach(t, n, "outside, by a loopback address", out, "udp", "127.0.0.1:18085")
	_ = box.SetReadDeadline(time.Now().Add(quick))
	if _, from, err := box.ReadFrom(make([]byte, 16)); err == nil {
		t.Errorf("a datagram from %s reached the port that is published on 127.0.0.1", from)
	}
	serve(t, n, host, "tcp", "127.0.0.77:7077")
	serve(t, n, host, "udp", "127.0.0.77:7077")
	wire(neighbour.NetNS, neighbour.Endpoints[0].Gateway.String(), "eth0")
	doesNotReach(t, n, "container to the host's loopback", neighbour.NetNS, "tcp", "127.0.0.77:7077")
	doesNotReach(t, n, "container to the host's loopback", neighbour.NetNS, "udp", "127.0.0.77:7077")

	// After Detach the port is closed and free.
	must(t, n.Detach(context.Background(), n.owner(t, web)))
	doesNotReach(t, n, "a port that was taken back", out, "tcp", hostAddr+":18080")
	l, err := net.Listen("tcp4", ":18080")
	must(t, err)
	l.Close()
}

// owner is the container that has the attachment's first endpoint.
func (n *Networks) owner(t *testing.T, a *Attachment) string {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, h := range n.held {
		if h.endpoints[0].state.EndpointID == a.Endpoints[0].EndpointID {
			return id
		}
	}
	t.Fatal("nobody has the endpoint")
	return ""
}

func TestTrafficIPv6(t *testing.T) {
	n := room(t)
	if err := run("ip", "-6", "addr", "show"); err != nil {
		t.Skip(err)
	}
	out := outside(t, n)
	serve(t, n, out, "tcp", "["+outsideAddr6+"]:7000")
	v := network1(t, n, CreateRequest{Name: "dual", IPv6: new(true), Subnets: []Subnet{
		{Prefix: netip.MustParsePrefix("10.213.130.0/24")}, {Prefix: netip.MustParsePrefix("fd00:213:1::/64")}}})
	if !v.IPv6 || len(v.Subnets) != 2 {
		t.Fatalf("%+v", v)
	}
	a := attach(t, n, AttachRequest{Endpoints: []EndpointRequest{{Network: "dual", IPv6: netip.MustParseAddr("fd00:213:1::80")}},
		Ports: []PortRequest{{Container: 80, HostPort: "18080"}}})
	b := attach(t, n, on("dual"))
	serve(t, n, a.NetNS, "tcp", ":80")
	if got := a.Endpoints[0].IPv6.String(); got != "fd00:213:1::80/64" {
		t.Errorf("address %s", got)
	}
	if len(a.Ports) != 2 || a.Ports[0].HostPort != a.Ports[1].HostPort {
		t.Errorf("ports %+v", a.Ports)
	}
	reaches(t, n, "neighbour", b.NetNS, "tcp", "[fd00:213:1::80]:80", b.Endpoints[0].IPv6.Addr().String())
	reaches(t, n, "outside, hidden", b.NetNS, "tcp", "["+outsideAddr6+"]:7000", hostAddr6)
	reaches(t, n, "published", out, "tcp", "["+hostAddr6+"]:18080", outsideAddr6)
	reaches(t, n, "published, by the other version", out, "tcp", hostAddr+":18080", outsideAddr)
	reaches(t, n, "published, host", n.hostNS, "tcp", "["+hostAddr6+"]:18080", hostAddr6)
	reaches(t, n, "published, neighbour", b.NetNS, "tcp", "["+hostAddr6+"]:18080", "")
	if err := setSysctlIfThere("net/bridge/bridge-nf-call-ip6tables", "0"); err != nil { // of the test's own namespace
		t.Fatal(err)
	}
	reaches(t, n, "published, host by loopback", n.hostNS, "tcp", "[::1]:18080", "")
	only := attach(t, n, AttachRequest{Endpoints: on("dual").Endpoints, Ports: []PortRequest{{Container: 80, HostIP: "::1", HostPort: "18081"}}})
	serve(t, n, only.NetNS, "tcp", ":80")
	reaches(t, n, "published on the loopback", n.hostNS, "tcp", "[::1]:18081", "")
	doesNotReach(t, n, "published on the loopback", out, "tcp", "["+hostAddr6+"]:18081")
	inside(t, n, out, func() error { return run("ip", "-6", "route", "add", "fd00:213:1::/64", "via", hostAddr6) })
	doesNotReach(t, n, "outside by the container's address", out, "tcp", "[fd00:213:1::80]:80")

	six := network1(t, n, CreateRequest{Name: "six", IPv4: new(false), IPv6: new(true)})
	if six.IPv4 || len(six.Subnets) != 1 || six.Subnets[0].Prefix.Bits() != 64 {
		t.Errorf("%+v", six)
	}
	c := attach(t, n, on("six"))
	reaches(t, n, "outside, IPv6 only", c.NetNS, "tcp", "["+outsideAddr6+"]:7000", hostAddr6)
}

// TestNoIPv6 wants interfaces of networks without IPv6 to have none (CVE-2024-32473), and nobody to believe a router that
// is a container (CVE-2020-13401, CVE-2020-10749).
func TestNoIPv6(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "dual", IPv6: new(true)})
	a := attach(t, n, on("bridge", "dual"))
	inside(t, n, a.NetNS, func() error {
		out, err := exec.Command("ip", "-j", "addr").Output()
		if err != nil {
			return err
		}
		var links []struct {
			Name  string `json:"ifname"`
			Addrs []struct {
				Family string `json:"family"`
			} `json:"addr_info"`
		}
		if err := json.Unmarshal(bytes.TrimSpace(out), &links); err != nil {
			return err
		}
		for _, l := range links {
			six := false
			for _, a := range l.Addrs {
				six = six || a.Family == "inet6"
			}
			if six != (l.Name == "eth1" || l.Name == "lo") {
				t.Errorf("link %s has IPv6: %v\n%s", l.Name, six, out)
			}
		}
		if v, err := readSysctl("net/ipv6/conf/eth1/accept_ra"); v != "0" {
			t.Errorf("the container listens to router advertisements: %q, %v", v, err)
		}
		return nil
	})
	for _, nw := range n.List() {
		if nw.Link == "" {
			continue
		}
		if v, err := readSysctl("net/ipv6/conf/" + nw.Link + "/accept_ra"); v != "0" {
			t.Errorf("the host listens to router advertisements on %s: %q, %v", nw.Link, v, err)
		}
	}
}

func TestSysctls(t *testing.T) {
	n := room(t)
	a := attach(t, n, AttachRequest{Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024",
		"net.ipv4.conf.eth0.rp_filter": "2", "net.ipv4.ip_forward": "1"}})
	inside(t, n, a.NetNS, func() error {
		for name, want := range map[string]string{"ip_unprivileged_port_start": "1024", "conf/eth0/rp_filter": "2", "ip_forward": "1"} {
			if got, err := readSysctl("net/ipv4/" + name); got != want {
				t.Errorf("%s is %q, %v", name, got, err)
			}
		}
		return nil
	})
	for _, bad := range []string{"kernel.shmmax", "net.ipv4.no_such_thing", "net.ipv4.conf.//../../../kernel.hostname", "net/../kernel/hostname"} {
		id := newID()
		if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: id, Sysctls: map[string]string{bad: "1"}}); err == nil {
			t.Errorf("sysctl %q was taken", bad)
		}
		n.mu.Lock()
		if n.held[id] != nil {
			t.Errorf("sysctl %q: the address is still taken", bad)
		}
		n.mu.Unlock()
	}
}
