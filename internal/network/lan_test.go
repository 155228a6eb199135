package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
)

// macvlan makes a network of neighbours of the outside host, or skips where the kernel cannot.
func macvlan(t *testing.T, n *Networks, name string, options map[string]string) Network {
	t.Helper()
	options["parent"] = "btout"
	r := CreateRequest{Name: name, Driver: driverMacvlan, Options: options, Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.250.0/24"),
		Gateway: netip.MustParseAddr(outsideAddr), Range: netip.MustParsePrefix("10.213.250.64/26")}}}
	res, err := n.Create(context.Background(), r)
	skipWithout(t, err)
	must(t, err)
	v, err := n.Inspect(res.ID)
	must(t, err)
	return v
}

// skipWithout skips where the kernel has not what was asked for. In the guest of test/guest, which sets BERTH_LAN, it has everything.
func skipWithout(t *testing.T, err error) {
	t.Helper()
	if errdefs.IsNotImplemented(err) && os.Getenv("BERTH_LAN") == "" {
		t.Skip(err)
	}
}

// TestMacvlan: containers that are neighbours of what is outside, and not of the host.
func TestMacvlan(t *testing.T) {
	n := room(t, withoutRelay)
	out := outside(t, n)
	ctx := context.Background()
	v := macvlan(t, n, "lan", map[string]string{})
	if _, err := n.Attach(ctx, AttachRequest{ContainerID: newID(), Name: "bound", Endpoints: egressOn("lan", "default=deny")}); !errdefs.IsInvalidArgument(err) ||
		!strings.Contains(err.Error(), "what their containers send does not pass the host's rules") {
		t.Errorf("with an egress policy: %v", err)
	}
	if v.Link != "btout" || v.Driver != driverMacvlan {
		t.Errorf("%+v", v)
	}
	id := newID()
	a := attach(t, n, AttachRequest{ContainerID: id, Name: "a", Endpoints: on("lan").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18121"}}})
	b := attach(t, n, AttachRequest{Name: "b", Endpoints: on("lan").Endpoints})
	serve(t, n, out, "tcp", ":82")
	serve(t, n, b.NetNS, "tcp", ":80")
	reaches(t, n, "outside", a.NetNS, "tcp", outsideAddr+":82", addrOf(a))
	reaches(t, n, "from outside", out, "tcp", at(b, 80), outsideAddr)
	reaches(t, n, "each other", a.NetNS, "tcp", at(b, 80), addrOf(a))
	doesNotReach(t, n, "the host, as with every macvlan", n.hostNS, "tcp", at(b, 80))
	if via := defaultVia(t, n, a.NetNS); via != outsideAddr || len(a.Ports) != 0 {
		t.Errorf("default route via %q, ports %v", via, a.Ports)
	}
	if got, _ := dig(t, n, a.NetNS, "udp", "b.", dns.TypeA); !strings.Contains(got, addrOf(b)) {
		t.Errorf("b is %q", got)
	}
	for driver, options := range map[string]map[string]string{driverIpvlan: {"parent": "btout"}, driverMacvlan: {"parent": "btout", "macvlan_mode": "passthru"}} {
		_, err := n.Create(ctx, CreateRequest{Name: "second", Driver: driver, Options: options})
		if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "network lan is already using parent interface btout") {
			t.Errorf("two networks beside one link: %v", err)
		}
	}

	// Connected and disconnected while it runs, with a bridge that publishes its port meanwhile.
	ports := []PortRequest{{Container: 80, HostPort: "18121"}}
	connected, err := n.Connect(ctx, ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS,
		Endpoint: EndpointRequest{Network: defaultName, GwPriority: 1}, Ports: ports})
	must(t, err)
	if len(connected.Ports) != 1 {
		t.Errorf("%+v", connected)
	}
	_, err = n.Disconnect(ctx, DisconnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Network: "lan", Ports: ports})
	must(t, err)
	if got := interfacesIn(t, n, a.NetNS); got != "lo eth1" {
		t.Errorf("interfaces %q", got)
	}
	again, err := n.Connect(ctx, ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Endpoint: EndpointRequest{Network: "lan"}, Ports: ports})
	must(t, err)
	reaches(t, n, "outside, again", a.NetNS, "tcp", outsideAddr+":82", "")

	// A daemon that dies knows them again; an interface that no record knows goes.
	pid := sleeper(t, n, a.NetNS)
	pidB := sleeper(t, n, b.NetNS)
	die(n)
	m, err := Open(ctx, n.opts)
	must(t, err)
	defer m.Close()
	must(t, m.Retain(ctx, []Live{{ContainerID: id, Name: "a", Pid: pid, Endpoints: again.Endpoints[:1], Ports: again.Ports},
		{ContainerID: "b", Name: "b", Pid: pidB, Endpoints: b.Endpoints}}))
	eventually(t, "the interface that no record knows is gone", func() bool { return interfacesIn(t, m, a.NetNS) == "lo eth1" })
	if at := m.Attached("b"); at == nil || len(at.Endpoints) != 1 {
		t.Errorf("%+v", at)
	}
	must(t, m.Detach(ctx, id))
	must(t, m.Detach(ctx, "b"))
	must(t, m.Remove(ctx, "lan"))
	if !linkNames(t)["btout"] {
		t.Error("the parent was removed with the network")
	}
}

// TestMacvlanShared: several networks beside one link, with containers on more than one of them, and a VLAN of theirs that goes with the last.
func TestMacvlanShared(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	ctx := context.Background()
	serve(t, n, out, "tcp", ":82")
	macvlan(t, n, "first", map[string]string{})
	create := func(name, parent, subnet string) {
		_, err := n.Create(ctx, CreateRequest{Name: name, Driver: driverMacvlan, Options: map[string]string{"parent": parent},
			Subnets: []Subnet{{Prefix: netip.MustParsePrefix(subnet)}}})
		skipWithout(t, err)
		must(t, err)
	}
	create("second", "btout", "10.213.193.0/24")
	_, err := n.Create(ctx, CreateRequest{Name: "third", Driver: driverMacvlan, Options: map[string]string{"parent": "btout"},
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.193.128/25")}}})
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("subnets that overlap: %v", err)
	}
	id := newID()
	both := attach(t, n, AttachRequest{ContainerID: id, Name: "both", Endpoints: on("first", "second").Endpoints})
	other := attach(t, n, on("second"))
	serve(t, n, both.NetNS, "tcp", ":80")
	second := netip.AddrPortFrom(both.Endpoints[1].IPv4.Addr(), 80).String()
	reaches(t, n, "outside", both.NetNS, "tcp", outsideAddr+":82", addrOf(both))
	reaches(t, n, "a neighbour of the second", other.NetNS, "tcp", second, addrOf(other))
	_, err = n.Disconnect(ctx, DisconnectRequest{ContainerID: id, Name: "both", NetNS: both.NetNS, Network: "first"})
	must(t, err)
	if got := interfacesIn(t, n, both.NetNS); got != "lo eth1" {
		t.Errorf("interfaces %q", got)
	}
	reaches(t, n, "the second stays", other.NetNS, "tcp", second, addrOf(other))
	again, err := n.Connect(ctx, ConnectRequest{ContainerID: id, Name: "both", NetNS: both.NetNS, Endpoint: EndpointRequest{Network: "first"}})
	must(t, err)

	// A daemon that dies knows each of them, and takes what no record knows.
	pid, pidOther := sleeper(t, n, both.NetNS), sleeper(t, n, other.NetNS)
	die(n)
	m, err := Open(ctx, n.opts)
	must(t, err)
	defer m.Close()
	must(t, m.Retain(ctx, []Live{{ContainerID: id, Name: "both", Pid: pid, Endpoints: again.Endpoints[:1]},
		{ContainerID: "other", Name: "other", Pid: pidOther, Endpoints: other.Endpoints}}))
	eventually(t, "the interface that no record knows is gone", func() bool { return interfacesIn(t, m, both.NetNS) == "lo eth1" })
	reaches(t, m, "the second, of the next daemon", other.NetNS, "tcp", second, addrOf(other))
	must(t, m.Detach(ctx, id))
	must(t, m.Detach(ctx, "other"))
	must(t, m.Remove(ctx, "first"))
	must(t, m.Remove(ctx, "second"))
}

// TestVLANShared: the VLAN that was made with the first of two networks goes with the last.
func TestVLANShared(t *testing.T) {
	n := room(t)
	outside(t, n)
	create := func() {
		for _, name := range []string{"first", "second"} {
			_, err := n.Create(context.Background(), CreateRequest{Name: name, Driver: driverMacvlan, Options: map[string]string{"parent": "btout.10"}})
			skipWithout(t, err)
			must(t, err)
		}
	}
	create()
	for i, name := range []string{"first", "second"} {
		must(t, n.Remove(context.Background(), name))
		if there := linkNames(t)["btout.10"]; there != (i == 0) {
			t.Errorf("with network %s the VLAN has gone: %t", name, !there)
		}
	}
	create()
	must(t, n.Close())
	if linkNames(t)["btout.10"] {
		t.Error("the VLAN is there after the daemon")
	}
}

func TestMacvlanModes(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	serve(t, n, out, "tcp", ":82")
	for _, mode := range []string{"private", "vepa", "passthru"} {
		macvlan(t, n, mode, map[string]string{"macvlan_mode": mode})
		a := attach(t, n, on(mode))
		if mode == "passthru" { // it takes the link over, the host is off the air meanwhile
			if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: on(mode).Endpoints}); !errors.Is(err, errdefs.ErrConflict) {
				t.Errorf("a second interface in passthru mode: %v", err)
			}
			_, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x",
				Endpoints: []EndpointRequest{{Network: mode, MAC: "02:00:00:00:00:01"}}})
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("a hardware address in passthru mode: %v", err)
			}
		} else {
			b := attach(t, n, on(mode))
			serve(t, n, b.NetNS, "tcp", ":80")
			doesNotReach(t, n, mode+", each other", a.NetNS, "tcp", at(b, 80))
			must(t, n.Detach(context.Background(), n.owner(t, b)))
		}
		reaches(t, n, mode, a.NetNS, "tcp", outsideAddr+":82", addrOf(a))
		must(t, n.Detach(context.Background(), n.owner(t, a)))
		must(t, n.Remove(context.Background(), mode))
	}
}

// TestMacvlanAlone: without a parent containers reach each other and nothing else.
func TestMacvlanAlone(t *testing.T) {
	n := room(t)
	res, err := n.Create(context.Background(), CreateRequest{Name: "alone", Driver: driverMacvlan})
	skipWithout(t, err)
	must(t, err)
	v, err := n.Inspect(res.ID)
	must(t, err)
	if !v.Internal || !linkNames(t)[v.Link] {
		t.Errorf("%+v", v)
	}
	a, b := attach(t, n, on("alone")), attach(t, n, on("alone"))
	serve(t, n, b.NetNS, "tcp", ":80")
	reaches(t, n, "each other", a.NetNS, "tcp", at(b, 80), "")
	if via := defaultVia(t, n, a.NetNS); via != "" {
		t.Errorf("default route via %s", via)
	}
	for _, c := range []*Attachment{a, b} {
		must(t, n.Detach(context.Background(), n.owner(t, c)))
	}
	must(t, n.Remove(context.Background(), "alone"))
	if linkNames(t)[v.Link] {
		t.Errorf("link %s was left behind", v.Link)
	}
}

// TestLANRefuses wants a clear sentence, and no link left.
func TestLANRefuses(t *testing.T) {
	n := room(t)
	outside(t, n)
	before := linkNames(t)
	for _, c := range []struct {
		driver  string
		options map[string]string
		text    string
	}{
		{driverMacvlan, map[string]string{"parent": "nonexistent"}, `needs the link "nonexistent", which the host does not have`},
		{driverMacvlan, map[string]string{"parent": "nonexistent.7"}, `needs VLAN 7 of the link "nonexistent"`},
		{driverMacvlan, map[string]string{"parent": "btout.5000"}, `needs the link "btout.5000"`},
		{driverMacvlan, map[string]string{"parent": "lo"}, "loopback link can be no parent"},
		{driverMacvlan, map[string]string{"parent": "../x"}, `"../x"`},
		{driverMacvlan, map[string]string{"macvlan_mode": "loud"}, `invalid value "loud"`},
		{driverMacvlan, map[string]string{"ipvlan_mode": "l2"}, `unknown option "ipvlan_mode"`},
		{driverIpvlan, map[string]string{"ipvlan_mode": "l4"}, `invalid value "l4"`},
		{driverIpvlan, map[string]string{"ipvlan_flag": "l4"}, `invalid value "l4"`},
		{driverMacvlan, map[string]string{OptionEgress: "default=deny"}, "is not for networks of the driver macvlan"},
		{driverIpvlan, map[string]string{OptionEgress: "default=deny"}, "is not for networks of the driver ipvlan"},
	} {
		_, err := n.Create(context.Background(), CreateRequest{Name: "x", Driver: c.driver, Options: c.options})
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v", c.options, err)
		}
	}
	after := linkNames(t)
	for l := range after {
		if !before[l] {
			t.Errorf("link %s was left behind", l)
		}
	}
}

// TestIpvlanAndVLAN make networks where the kernel can, and where it cannot want its module named and nothing left.
func TestIpvlanAndVLAN(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	before := linkNames(t)
	serve(t, n, out, "tcp", ":82")
	subnets := []Subnet{{Prefix: netip.MustParsePrefix("10.213.250.0/24"), Gateway: netip.MustParseAddr(outsideAddr),
		Range: netip.MustParsePrefix("10.213.250.64/26")}}
	for _, mode := range []string{"l2", "l3", "l3s"} {
		_, err := n.Create(context.Background(), CreateRequest{Name: mode, Driver: driverIpvlan, Subnets: subnets,
			Options: map[string]string{"parent": "btout", "ipvlan_mode": mode}})
		if errdefs.IsNotImplemented(err) && os.Getenv("BERTH_LAN") == "" {
			if !strings.Contains(err.Error(), "module ipvlan") {
				t.Errorf("%v", err)
			}
			continue
		}
		must(t, err)
		a := attach(t, n, on(mode))
		if parent, err := net.InterfaceByName("btout"); err != nil || parent.HardwareAddr.String() != a.Endpoints[0].MAC {
			t.Errorf("%+v %v", a.Endpoints[0], err)
		}
		reaches(t, n, mode, a.NetNS, "tcp", outsideAddr+":82", "")
		must(t, n.Detach(context.Background(), n.owner(t, a)))
		a.NetNS.Close()
		must(t, n.Remove(context.Background(), mode))
	}
	_, err := n.Create(context.Background(), CreateRequest{Name: "vlan", Driver: driverMacvlan, Options: map[string]string{"parent": "btout.10"}})
	if errdefs.IsNotImplemented(err) && os.Getenv("BERTH_LAN") == "" {
		if !strings.Contains(err.Error(), "module 8021q") {
			t.Errorf("%v", err)
		}
	} else {
		must(t, err)
		if !linkNames(t)["btout.10"] {
			t.Error("the VLAN was not made")
		}
		must(t, n.Remove(context.Background(), "vlan"))
	}
	for l := range linkNames(t) {
		if !before[l] {
			t.Errorf("link %s was left behind", l)
		}
	}
}

// TestIpvlanNeighbours: containers beside a link of the host, of one network and, in the modes that route, of several subnets.
func TestIpvlanNeighbours(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	ctx := context.Background()
	serve(t, n, out, "tcp", ":82")
	two := []Subnet{{Prefix: netip.MustParsePrefix("10.213.194.0/24")}, {Prefix: netip.MustParsePrefix("10.213.195.0/24")},
		{Prefix: netip.MustParsePrefix("fd00:213:194::/64")}}
	for _, c := range []struct {
		mode, flag string
		talk       bool
	}{{"l2", "", true}, {"l3", "bridge", true}, {"l3s", "bridge", true}, {"l2", "private", false}, {"l3", "private", false}} {
		what := c.mode + " " + c.flag
		options := map[string]string{"parent": "btout", "ipvlan_mode": c.mode}
		if c.flag != "" {
			options["ipvlan_flag"] = c.flag
		}
		_, err := n.Create(ctx, CreateRequest{Name: "iv", Driver: driverIpvlan, Subnets: two, IPv6: new(true), Options: options})
		skipWithout(t, err)
		must(t, err)
		a := attach(t, n, on("iv"))
		b := attach(t, n, AttachRequest{Name: "bea", Endpoints: []EndpointRequest{{Network: "iv", IPv4: netip.MustParseAddr("10.213.194.77")}}})
		serve(t, n, b.NetNS, "tcp", ":80")
		if c.talk {
			reaches(t, n, what, a.NetNS, "tcp", at(b, 80), addrOf(a))
			reaches(t, n, what+" by IPv6", a.NetNS, "tcp", at6(b, 80), "")
			if got, _ := dig(t, n, a.NetNS, "udp", "bea.", dns.TypeA); !strings.Contains(got, addrOf(b)) {
				t.Errorf("%s: bea is %q", what, got)
			}
		} else {
			doesNotReach(t, n, what, a.NetNS, "tcp", at(b, 80))
		}
		far := attach(t, n, AttachRequest{Endpoints: []EndpointRequest{{Network: "iv", IPv4: netip.MustParseAddr("10.213.195.9")}}})
		serve(t, n, far.NetNS, "tcp", ":80")
		if c.talk && c.mode != "l2" {
			reaches(t, n, what+", the other subnet", a.NetNS, "tcp", at(far, 80), addrOf(a))
		}
		if p := problems(t, n, a); p != "" {
			t.Errorf("%s: %s", what, p)
		}
		doesNotReach(t, n, what+", the host, as with every ipvlan", n.hostNS, "tcp", at(b, 80))
		for _, x := range []*Attachment{a, b, far} {
			must(t, n.Detach(ctx, n.owner(t, x)))
		}
		must(t, n.Remove(ctx, "iv"))
	}
	_, err := n.Create(ctx, CreateRequest{Name: "one", Driver: driverIpvlan, Subnets: two[:1], Options: map[string]string{"parent": "btout"}})
	must(t, err)
	_, err = n.Create(ctx, CreateRequest{Name: "two", Driver: driverIpvlan, Options: map[string]string{"parent": "btout"}})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "network one is already using parent interface btout") {
		t.Errorf("two networks beside one link: %v", err)
	}
	must(t, n.Remove(ctx, "one"))

	// VLANs of a link, made and removed with their networks, and connected while a container runs.
	for _, name := range []string{"btout.10", "btout.20"} {
		_, err := n.Create(ctx, CreateRequest{Name: name, Driver: driverIpvlan, Options: map[string]string{"parent": name}})
		must(t, err)
	}
	id := newID()
	a := attach(t, n, AttachRequest{ContainerID: id, Name: "a", Endpoints: on("btout.10").Endpoints})
	serve(t, n, a.NetNS, "tcp", ":80")
	b, c := attach(t, n, on("btout.10")), attach(t, n, on("btout.20"))
	reaches(t, n, "the same VLAN", b.NetNS, "tcp", at(a, 80), addrOf(b))
	doesNotReach(t, n, "another VLAN", c.NetNS, "tcp", at(a, 80))
	more, err := n.Connect(ctx, ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Endpoint: EndpointRequest{Network: "btout.20"}})
	must(t, err)
	there := netip.AddrPortFrom(more.Endpoints[1].IPv4.Addr(), 80).String()
	reaches(t, n, "connected", c.NetNS, "tcp", there, addrOf(c))
	_, err = n.Disconnect(ctx, DisconnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Network: "btout.20"})
	must(t, err)
	doesNotReach(t, n, "disconnected", c.NetNS, "tcp", there)
	reaches(t, n, "the first one stays", b.NetNS, "tcp", at(a, 80), addrOf(b))
	for _, x := range []*Attachment{a, b, c} {
		must(t, n.Detach(ctx, n.owner(t, x)))
	}
	for _, name := range []string{"btout.10", "btout.20"} {
		must(t, n.Remove(ctx, name))
		if linkNames(t)[name] {
			t.Errorf("link %s was left behind", name)
		}
	}
}

func FuzzVLANName(f *testing.F) {
	f.Add("eth0.10")
	f.Add(".1")
	f.Add("eth0.01")
	f.Fuzz(func(t *testing.T, s string) {
		base, tag, ok := vlanName(s)
		if ok && (base == "" || tag < 1 || tag > 4094) {
			t.Errorf("%q is VLAN %d of %q", s, tag, base)
		}
	})
}
