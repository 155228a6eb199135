package network

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNothingTeachesTheBridge: frames to the addresses that bridges keep for themselves (IEEE 802.1Q, table 8-1: spanning tree, LLDP and
// their like) do not pass the guard's hook, and a bridge would still learn from them where their sender is. Who sends one in a
// neighbour's name would be sent what is the neighbour's.
func TestNothingTeachesTheBridge(t *testing.T) {
	n := room(t)
	needBridgeRules(t, n)
	network1(t, n, CreateRequest{Name: "learn", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.133.0/24")}}})
	bad, victim, other := attach(t, n, on("learn")), attach(t, n, on("learn")), attach(t, n, on("learn"))
	b, v, o := tap(t, n, bad.NetNS, "eth0"), tap(t, n, victim.NetNS, "eth0"), tap(t, n, other.NetNS, "eth0")
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	ip := func(a *Attachment) netip.Addr { return a.Endpoints[0].IPv4.Addr() }
	for last := range byte(16) {
		for _, typ := range []uint16{38 /* LLC */, 0x88cc /* LLDP */, 0x888e, unix.ETH_P_IP} {
			name := fmt.Sprintf("%02x/%04x", last, typ)
			v.send(ethernet(all, v.mac, unix.ETH_P_IP, udp4(ip(victim), ip(other), "here-"+name)...))
			if !b.sees(30*time.Second, has("here-"+name)) {
				t.Fatalf("%s: the victim's broadcast is not seen", name)
			}
			b.send(ethernet(net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, last}, v.mac, typ, 0x42, 0x42, 3, 0))
			b.send(ethernet(all, b.mac, unix.ETH_P_IP, udp4(ip(bad), ip(other), "after-"+name)...))
			if !o.sees(30*time.Second, has("after-"+name)) {
				t.Fatalf("%s: the honest frame is not seen", name)
			}
			o.send(ethernet(v.mac, o.mac, unix.ETH_P_IP, udp4(ip(other), ip(victim), "private-"+name)...))
			o.send(ethernet(all, o.mac, unix.ETH_P_IP, udp4(ip(other), ip(victim), "done-"+name)...))
			stolen := false
			if !b.sees(30*time.Second, func(f []byte) bool { stolen = stolen || has("private-"+name)(f); return has("done-" + name)(f) }) {
				t.Fatalf("%s: the last frame is not seen", name)
			}
			if stolen {
				t.Errorf("a frame to 01:80:c2:00:00:%02x of type %04x takes what is another's", last, typ)
			}
		}
	}
}

// TestLoopbackAsSource: who may be a router, and so is not guarded, still does not speak to the host in the name of the host's
// loopback, which programs trust. Where something is published there the bridge routes these addresses.
func TestLoopbackAsSource(t *testing.T) {
	n := room(t)
	r := AttachRequest{Trusted: true, Ports: []PortRequest{{Container: 80, HostIP: "127.0.0.1", HostPort: "18134"}}}
	a := attach(t, n, r)
	gw := a.Endpoints[0].Gateway
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 9})
	must(t, err)
	defer pc.Close()
	w := tap(t, n, a.NetNS, "eth0")
	bridge, err := net.InterfaceByName(n.opts.Bridge)
	must(t, err)
	for _, from := range []string{"127.0.0.1", "127.0.0.5", "127.255.255.254", gw.String()} {
		w.send(ethernet(bridge.HardwareAddr, w.mac, unix.ETH_P_IP, udp4(netip.MustParseAddr(from), gw, "forged-"+from)...))
	}
	w.send(ethernet(bridge.HardwareAddr, w.mac, unix.ETH_P_IP, udp4(a.Endpoints[0].IPv4.Addr(), gw, "honest")...))
	must(t, pc.SetReadDeadline(time.Now().Add(30*time.Second)))
	for buf := make([]byte, 64); ; {
		k, from, err := pc.ReadFromUDPAddrPort(buf)
		must(t, err)
		if string(buf[:k]) == "honest" {
			return
		}
		t.Errorf("%q arrives from %s", buf[:k], from)
	}
}

// TestBridgeOfKilledDaemon: a bridge that a daemon made and was killed over, before it had marked it, is the network's it is named after.
func TestBridgeOfKilledDaemon(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "half"})
	n.mu.Lock()
	nw, err := n.lookup("half")
	n.mu.Unlock()
	must(t, err)
	l, err := n.handle.LinkByName(nw.rec.Link)
	must(t, err)
	must(t, n.handle.LinkSetAlias(l, ""))
	must(t, n.ensureBridge(nw, false))
	l, err = n.handle.LinkByName(nw.rec.Link)
	must(t, err)
	if l.Attrs().Alias != alias(nw.rec.ID) {
		t.Errorf("its alias is %q", l.Attrs().Alias)
	}
}
