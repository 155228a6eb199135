package network

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests are a hostile container: it has CAP_NET_RAW, as every container of Docker's has, and sends whatever frames it likes.

// wire is a packet socket on an interface of a container's.
type wire struct {
	t     *testing.T
	fd    int
	index int
	mac   net.HardwareAddr
}

func tap(t *testing.T, n *Networks, ns *os.File, link string) *wire {
	t.Helper()
	w := &wire{t: t}
	inside(t, n, ns, func() (err error) {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		w.index, w.mac = l.Index, l.HardwareAddr
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(bigEndian16(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(unix.ETH_P_ALL), Ifindex: l.Index})
	})
	t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func bigEndian16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func (w *wire) send(frame []byte) {
	w.t.Helper()
	if err := unix.Sendto(w.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: w.index, Halen: 6}); err != nil {
		w.t.Fatal(err)
	}
}

// sees reports whether a frame arrives for which ok is true.
func (w *wire) sees(wait time.Duration, ok func(frame []byte) bool) bool {
	w.t.Helper()
	end := time.Now().Add(wait)
	for buf := make([]byte, 2048); time.Now().Before(end); {
		tv := unix.NsecToTimeval(int64(max(time.Until(end), time.Millisecond)))
		_ = unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
		k, from, err := unix.Recvfrom(w.fd, buf, 0)
		if sa, isLink := from.(*unix.SockaddrLinklayer); err == nil && isLink && sa.Pkttype != unix.PACKET_OUTGOING && ok(buf[:k]) {
			return true
		}
	}
	return false
}

func ethernet(to, from net.HardwareAddr, typ uint16, body ...byte) []byte {
	f := append(append([]byte{}, to...), from...)
	f = append(binary.BigEndian.AppendUint16(f, typ), body...)
	for len(f) < 60 {
		f = append(f, 0)
	}
	return f
}

// arpReply says that ip is at mac (RFC 826).
func arpReply(mac net.HardwareAddr, ip netip.Addr, to net.HardwareAddr, toIP netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	return append(append(append(append(b, mac...), ip.AsSlice()...), to...), toIP.AsSlice()...)
}

// udp4 is a datagram to port 9, marked by its content.
func udp4(from, to netip.Addr, mark string) []byte {
	b := []byte{0x45, 0, 0, byte(28 + len(mark)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	b = append(b, 0, 9, 0, 9, 0, byte(8+len(mark)), 0, 0)
	return append(b, mark...)
}

// datagram4 is a datagram with these ports, whose checksum is left out.
func datagram4(from, to netip.Addr, source, destination uint16, mark string) []byte {
	b := udp4(from, to, mark)
	binary.BigEndian.PutUint16(b[20:], source)
	binary.BigEndian.PutUint16(b[22:], destination)
	return b
}

// datagram6 is the same of IPv6.
func datagram6(from, to netip.Addr, source, destination uint16, mark string) []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, byte(8 + len(mark)), unix.IPPROTO_UDP, 64}, from.AsSlice()...)
	b = append(b, to.AsSlice()...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, source), destination)
	return append(append(b, 0, byte(8+len(mark)), 0, 1), mark...)
}

// icmp6Packet is an ICMPv6 message with the hop limit that neighbour discovery wants (RFC 4861, 3.1).
func icmp6Packet(from, to netip.Addr, message ...byte) []byte {
	b := append([]byte{0x60, 0, 0, 0, 0, byte(len(message)), unix.IPPROTO_ICMPV6, 255}, from.AsSlice()...)
	b = append(b, to.AsSlice()...)
	pseudo := append(append([]byte{}, b[8:40]...), 0, 0, 0, byte(len(message)), 0, 0, 0, unix.IPPROTO_ICMPV6)
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))
	return append(b, message...)
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func has(mark string) func([]byte) bool {
	return func(f []byte) bool {
		for i := 0; i+len(mark) <= len(f); i++ {
			if string(f[i:i+len(mark)]) == mark {
				return true
			}
		}
		return false
	}
}

// needBridgeRules skips where the kernel has no nftables for bridges.
func needBridgeRules(t *testing.T, n *Networks) {
	t.Helper()
	n.guard.mu.Lock()
	defer n.guard.mu.Unlock()
	if !n.guard.on {
		t.Skip("the kernel has no nftables rules for bridges")
	}
}

// A forgery is a frame that speaks for somebody else, and what shows that it has arrived.
type forgery struct {
	frame []byte
	mark  string
}

// forgeries are what bad sends to victim in the name of other, or of the gateway.
func forgeries(bad, victim, other *Attachment) map[string]forgery {
	ip, mac := func(a *Attachment) netip.Addr { return a.Endpoints[0].IPv4.Addr() }, func(a *Attachment) net.HardwareAddr {
		return parseMAC(a.Endpoints[0].MAC)
	}
	ip6, gw, gw6 := func(a *Attachment) netip.Addr { return a.Endpoints[0].IPv6.Addr() }, bad.Endpoints[0].Gateway, bad.Endpoints[0].Gateway6
	ll := eui64(mac(bad))
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	all6, allMAC6 := netip.MustParseAddr("ff02::1"), net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	linkOption := append([]byte{2, 1}, mac(bad)...)
	target := func(a netip.Addr, typ byte) []byte {
		return append(append([]byte{typ, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice()...), linkOption...)
	}
	router := append([]byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}, linkOption...) // hop limit and lifetimes
	return map[string]forgery{
		"another's hardware address": {ethernet(all, mac(other), unix.ETH_P_IP, udp4(ip(bad), ip(victim), "forged-a")...), "forged-a"},
		"another's address":          {ethernet(all, mac(bad), unix.ETH_P_IP, udp4(ip(other), ip(victim), "forged-b")...), "forged-b"},
		"both of another's":          {ethernet(all, mac(other), unix.ETH_P_IP, udp4(ip(other), ip(victim), "forged-c")...), "forged-c"},
		"the gateway's address":      {ethernet(all, mac(bad), unix.ETH_P_IP, udp4(gw, ip(victim), "forged-d")...), "forged-d"},
		"an address of the outside":  {ethernet(all, mac(bad), unix.ETH_P_IP, udp4(netip.MustParseAddr("192.0.2.1"), ip(victim), "forged-e")...), "forged-e"},
		"ARP for the gateway": {ethernet(all, mac(bad), unix.ETH_P_ARP, arpReply(mac(bad), gw, mac(victim), ip(victim))...),
			string(arpReply(mac(bad), gw, mac(victim), ip(victim)))},
		"ARP for another": {ethernet(all, mac(bad), unix.ETH_P_ARP, arpReply(mac(bad), ip(other), mac(victim), ip(victim))...),
			string(arpReply(mac(bad), ip(other), mac(victim), ip(victim)))},
		"ARP in a tag of no network": {ethernet(all, mac(bad), 0x8100, append([]byte{0, 0, 8, 6}, arpReply(mac(bad), ip(other), mac(victim), ip(victim))...)...),
			string(arpReply(mac(bad), ip(other), mac(victim), ip(victim)))},
		"ARP in two of them": {ethernet(all, mac(bad), 0x88a8, append([]byte{0, 0, 0x81, 0, 0, 0, 8, 6}, arpReply(mac(bad), ip(other), mac(victim), ip(victim))...)...),
			string(arpReply(mac(bad), ip(other), mac(victim), ip(victim)))},
		"neither IP nor ARP": {ethernet(all, mac(bad), 0x88b5, []byte("forged-f")...), "forged-f"},
		"router advertisement": {ethernet(allMAC6, mac(bad), unix.ETH_P_IPV6, icmp6Packet(ll, all6,
			append([]byte{134, 0, 0, 0}, router...)...)...), string(router)},
		"redirect": {ethernet(mac(victim), mac(bad), unix.ETH_P_IPV6, icmp6Packet(ll, ip6(victim),
			append(append([]byte{137, 0, 0, 0, 0, 0, 0, 0}, ll.AsSlice()...), ip6(other).AsSlice()...)...)...), string(ip6(other).AsSlice())},
		"neighbour advertisement for another": {ethernet(mac(victim), mac(bad), unix.ETH_P_IPV6, icmp6Packet(ip6(bad), ip6(victim), target(ip6(other), 136)...)...),
			string(ip6(other).AsSlice())},
		"neighbour advertisement for the gateway": {ethernet(allMAC6, mac(bad), unix.ETH_P_IPV6, icmp6Packet(ll, all6, target(gw6, 136)...)...),
			string(gw6.AsSlice())},
		"DHCP for all":           {ethernet(all, mac(bad), unix.ETH_P_IP, datagram4(ip(bad), netip.AddrFrom4([4]byte{255, 255, 255, 255}), 67, 68, "forged-h")...), "forged-h"},
		"DHCP for one":           {ethernet(mac(victim), mac(bad), unix.ETH_P_IP, datagram4(ip(bad), ip(victim), 67, 68, "forged-i")...), "forged-i"},
		"DHCPv6":                 {ethernet(mac(victim), mac(bad), unix.ETH_P_IPV6, datagram6(ll, eui64(mac(victim)), 547, 546, "forged-j")...), "forged-j"},
		"another's IPv6 address": {ethernet(mac(victim), mac(bad), unix.ETH_P_IPV6, icmp6Packet(ip6(other), ip6(victim), []byte("\x80\x00\x00\x00forged-g")...)...), "forged-g"},
	}
}

// spoof sends the frame and then an honest one, and tells who has seen the first.
func spoof(t *testing.T, from *wire, to map[string]*wire, c forgery, victim net.HardwareAddr, honest func(string) []byte) map[string]bool {
	t.Helper()
	after := "honest-" + t.Name()
	from.t = t
	from.send(c.frame)
	from.send(honest(after))
	seen := map[string]bool{}
	for who, w := range to {
		w.t = t
		if !w.sees(30*time.Second, func(f []byte) bool {
			// What others say of themselves, as kernels do when they please, is no forgery.
			sender := net.HardwareAddr(f[6:12]).String()
			forged := sender == from.mac.String() || sender != victim.String() && strings.HasPrefix(c.mark, "forged-")
			seen[who] = seen[who] || forged && has(c.mark)(f)
			return has(after)(f)
		}) {
			t.Fatalf("%s does not see the honest frame", who)
		}
	}
	return seen
}

// TestSpoofing: what a container says of others reaches neither neighbours nor the host (CVE-2020-10749, CVE-2020-13401
// and their like). Each attack is followed by an honest frame: when that has arrived, the other would have, too.
func TestSpoofing(t *testing.T) {
	n := room(t)
	needBridgeRules(t, n)
	network1(t, n, CreateRequest{Name: "dual", IPv6: new(true), Subnets: []Subnet{
		{Prefix: netip.MustParsePrefix("10.213.131.0/24")}, {Prefix: netip.MustParsePrefix("fd00:213:2::/64")}}})
	bad, victim, other := attach(t, n, on("dual")), attach(t, n, on("dual")), attach(t, n, on("dual"))
	b, v := tap(t, n, bad.NetNS, "eth0"), tap(t, n, victim.NetNS, "eth0")
	host := tap(t, n, n.hostNS, n.bridgeOf(t, "dual"))
	ip, mac := func(a *Attachment) netip.Addr { return a.Endpoints[0].IPv4.Addr() }, func(a *Attachment) net.HardwareAddr {
		return parseMAC(a.Endpoints[0].MAC)
	}
	ip6 := func(a *Attachment) netip.Addr { return a.Endpoints[0].IPv6.Addr() }
	ll := eui64(mac(bad))
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	linkOption := append([]byte{2, 1}, mac(bad)...)
	target := func(a netip.Addr, typ byte) []byte {
		return append(append([]byte{typ, 0, 0, 0, 0x20, 0, 0, 0}, a.AsSlice()...), linkOption...)
	}
	honest := func(mark string) []byte {
		return ethernet(all, mac(bad), unix.ETH_P_IP, udp4(ip(bad), ip(victim), mark)...)
	}

	for name, c := range forgeries(bad, victim, other) {
		t.Run(name, func(t *testing.T) {
			for who, seen := range spoof(t, b, map[string]*wire{"the neighbour": v, "the host": host}, c, mac(victim), honest) {
				if seen {
					t.Errorf("%s sees it", who)
				}
			}
		})
	}

	// What is allowed: the own addresses, by all ways.
	for name, c := range map[string]struct {
		frame []byte
		mark  string
	}{
		"ARP": {ethernet(all, mac(bad), unix.ETH_P_ARP, arpReply(mac(bad), ip(bad), mac(victim), ip(victim))...), string(arpReply(mac(bad), ip(bad), mac(victim), ip(victim)))},
		"neighbour advertisement": {ethernet(mac(victim), mac(bad), unix.ETH_P_IPV6, icmp6Packet(ip6(bad), ip6(victim), target(ip6(bad), 136)...)...),
			string(target(ip6(bad), 136)[8:24])},
		"link-local echo": {ethernet(mac(victim), mac(bad), unix.ETH_P_IPV6, icmp6Packet(ll, eui64(mac(victim)), []byte("\x80\x00\x00\x00honest-x")...)...), "honest-x"},
	} {
		b.send(c.frame)
		if !v.sees(30*time.Second, has(c.mark)) {
			t.Errorf("%s of its own does not arrive", name)
		}
	}
	reaches(t, n, "the host, by IPv6", n.hostNS, "tcp", serveOn6(t, n, victim), "")

	// A container that has power over its network may be a router, and a network may allow everything.
	free := on("dual")
	free.Trusted = true
	router := attach(t, n, free)
	r := tap(t, n, router.NetNS, "eth0")
	r.send(ethernet(all, mac(router), unix.ETH_P_IP, udp4(netip.MustParseAddr("192.0.2.1"), ip(victim), "routed-a")...))
	if !v.sees(30*time.Second, has("routed-a")) {
		t.Error("what a router passes on does not arrive")
	}
	network1(t, n, CreateRequest{Name: "open", Options: map[string]string{optionSpoofing: "true"}})
	x, y := attach(t, n, on("open")), attach(t, n, on("open"))
	yes := tap(t, n, y.NetNS, "eth0")
	tap(t, n, x.NetNS, "eth0").send(ethernet(all, mac(other), unix.ETH_P_IP, udp4(netip.MustParseAddr("192.0.2.1"), ip(y), "routed-b")...))
	if !yes.sees(30*time.Second, has("routed-b")) {
		t.Error("what a network allows does not arrive")
	}
}

// TestSpoofingSeen: without the guard every one of the forgeries arrives, which is how one knows that TestSpoofing would see it.
func TestSpoofingSeen(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "open", IPv6: new(true), Options: map[string]string{optionSpoofing: "true"}, Subnets: []Subnet{
		{Prefix: netip.MustParsePrefix("10.213.132.0/24")}, {Prefix: netip.MustParsePrefix("fd00:213:3::/64")}}})
	bad, victim, other := attach(t, n, on("open")), attach(t, n, on("open")), attach(t, n, on("open"))
	from := tap(t, n, bad.NetNS, bad.Endpoints[0].Interface)
	to := map[string]*wire{"the neighbour": tap(t, n, victim.NetNS, victim.Endpoints[0].Interface), "the host": tap(t, n, n.hostNS, n.bridgeOf(t, "open"))}
	mac := parseMAC(bad.Endpoints[0].MAC)
	honest := func(mark string) []byte {
		return ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_IP,
			udp4(bad.Endpoints[0].IPv4.Addr(), victim.Endpoints[0].IPv4.Addr(), mark)...)
	}
	for name, c := range forgeries(bad, victim, other) {
		t.Run(name, func(t *testing.T) {
			if seen := spoof(t, from, to, c, parseMAC(victim.Endpoints[0].MAC), honest); !seen["the neighbour"] && !seen["the host"] {
				t.Error("nobody sees it")
			}
		})
	}
}

func serveOn6(t *testing.T, n *Networks, a *Attachment) string {
	serve(t, n, a.NetNS, "tcp", ":80")
	return netip.AddrPortFrom(a.Endpoints[0].IPv6.Addr(), 80).String()
}

// bridgeOf is the link of a network.
func (n *Networks) bridgeOf(t *testing.T, name string) string {
	t.Helper()
	v, err := n.Inspect(name)
	must(t, err)
	return v.Link
}

// TestGuardKept: the pool's namespaces, those of containers that outlive the daemon and those that gain a network are
// guarded; what others take out of the rules comes back; and nothing stays of who has gone.
func TestGuardKept(t *testing.T) {
	n := room(t, func(o *Options) { o.Warm = 2 })
	needBridgeRules(t, n)
	waitReady(t, n)
	a := attach(t, n, AttachRequest{ContainerID: newID(), Name: "a"})
	inKernel := func(n *Networks, link string) bool {
		n.guard.mu.Lock()
		defer n.guard.mu.Unlock()
		d := compileGuard(n.guard.table, map[string]guarded{link: n.guard.links[link]}, false)
		return len(n.guard.links[link].addrs) > 0 && (&firewall{conn: n.guard.conn, applied: stand(d)}).intact()
	}
	link := hostLink(a.Endpoints[0].EndpointID)
	if !inKernel(n, link) {
		t.Error("a container from the pool is not guarded")
	}
	network1(t, n, CreateRequest{Name: "more"})
	id := n.owner(t, a)
	more, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Endpoint: EndpointRequest{Network: "more"}})
	must(t, err)
	second := hostLink(more.Endpoints[1].EndpointID)
	if !inKernel(n, second) {
		t.Error("a second interface is not guarded")
	}
	nft(t, "delete", "table", "bridge", n.tableName())
	for end := time.Now().Add(30 * time.Second); !inKernel(n, link) || !inKernel(n, second); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the rules do not come back")
		}
	}
	_, err = n.Disconnect(context.Background(), DisconnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Network: "more"})
	must(t, err)
	free := attach(t, n, AttachRequest{Trusted: true})
	if inKernel(n, hostLink(free.Endpoints[0].EndpointID)) {
		t.Error("a router is guarded")
	}
	must(t, n.Detach(context.Background(), id))
	n.clearAway()
	n.guard.mu.Lock()
	defer n.guard.mu.Unlock()
	for _, l := range []string{link, second} {
		if strings.Contains(nft(t, "list", "table", "bridge", n.tableName()), l) {
			t.Errorf("link %s stays in the rules", l)
		}
		if _, there := n.guard.links[l]; there {
			t.Errorf("link %s is still guarded", l)
		}
	}
}
