package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

func sub(prefix string) []Subnet { return []Subnet{{Prefix: netip.MustParsePrefix(prefix)}} }

// TestCreateRefuses wants a clear sentence of the right kind, and nothing half made.
func TestCreateRefuses(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "there", Subnets: sub("10.213.140.0/24")})
	must(t, run("ip", "link", "add", "bt-taken", "type", "ifb"))
	must(t, run("ip", "link", "add", "bt-foreign", "type", "bridge"))
	must(t, run("ip", "link", "add", "bt-lan", "type", "ifb"))
	must(t, run("ip", "addr", "add", "10.213.99.7/24", "dev", "bt-lan"))
	t.Cleanup(func() {
		for _, l := range []string{"bt-taken", "bt-foreign", "bt-lan"} {
			_ = run("ip", "link", "del", l)
		}
	})
	option := func(k, v string) map[string]string { return map[string]string{k: v} }
	gw := func(prefix, gateway string) []Subnet {
		return []Subnet{{Prefix: netip.MustParsePrefix(prefix), Gateway: netip.MustParseAddr(gateway)}}
	}
	before := linkNames(t)
	for _, c := range []struct {
		what string
		r    CreateRequest
		kind error
		text string
	}{
		{"no name", CreateRequest{}, errdefs.ErrInvalidArgument, "invalid network name"},
		{"slash", CreateRequest{Name: "a/b"}, errdefs.ErrInvalidArgument, "invalid network name"},
		{"used name", CreateRequest{Name: "there"}, errdefs.ErrConflict, "network with name there already exists"},
		{"predefined", CreateRequest{Name: "host"}, errdefs.ErrPermissionDenied, "predefined host network"},
		{"predefined", CreateRequest{Name: "bridge"}, errdefs.ErrPermissionDenied, "predefined bridge network"},
		{"driver", CreateRequest{Name: "x", Driver: "overlay"}, errdefs.ErrNotFound, `plugin "overlay" not found`},
		{"driver", CreateRequest{Name: "x", Driver: "host"}, errdefs.ErrPermissionDenied, "only one instance"},
		{"ipam", CreateRequest{Name: "x", IPAMDriver: "dhcp"}, errdefs.ErrNotFound, `"dhcp"`},
		{"option", CreateRequest{Name: "x", Options: option("no.such", "1")}, errdefs.ErrInvalidArgument, `"no.such"`},
		{"mtu", CreateRequest{Name: "x", Options: option("com.docker.network.driver.mtu", "12")}, errdefs.ErrInvalidArgument, `"12"`},
		{"mtu of IPv6", CreateRequest{Name: "x", IPv6: new(true), Options: option("com.docker.network.driver.mtu", "1279")}, errdefs.ErrInvalidArgument, "too small for IPv6, which needs 1280"},
		{"bool", CreateRequest{Name: "x", Options: option("com.docker.network.bridge.enable_icc", "perhaps")}, errdefs.ErrInvalidArgument, "perhaps"},
		{"link name", CreateRequest{Name: "x", Options: option("com.docker.network.bridge.name", "../x")}, errdefs.ErrInvalidArgument, `"../x"`},
		{"long link name", CreateRequest{Name: "x", Options: option("com.docker.network.bridge.name", "0123456789abcdef")}, errdefs.ErrInvalidArgument, "cannot be the name"},
		{"link of another kind", CreateRequest{Name: "x", Options: option("com.docker.network.bridge.name", "bt-taken")}, errdefs.ErrConflict, `link of type "ifb"`},
		{"somebody's bridge", CreateRequest{Name: "x", Options: option("com.docker.network.bridge.name", "bt-foreign")}, errdefs.ErrConflict, "not Berth's"},
		{"our own bridge", CreateRequest{Name: "x", Options: option("com.docker.network.bridge.name", n.opts.Bridge)}, errdefs.ErrConflict, "not Berth's"},
		{"same subnet", CreateRequest{Name: "x", Subnets: sub("10.213.140.0/24")}, errdefs.ErrPermissionDenied, "Pool overlaps with other one on this address space"},
		{"wider subnet", CreateRequest{Name: "x", Subnets: sub("10.213.0.0/16")}, errdefs.ErrPermissionDenied, "Pool overlaps"},
		{"narrower subnet", CreateRequest{Name: "x", Subnets: sub("10.213.140.64/26")}, errdefs.ErrPermissionDenied, `of network "there"`},
		{"the host's own", CreateRequest{Name: "x", Subnets: sub("10.213.99.0/24")}, errdefs.ErrPermissionDenied, "the host's own network 10.213.99.7/24"},
		{"subnets that meet", CreateRequest{Name: "x", Subnets: append(sub("10.213.141.0/24"), sub("10.213.141.0/25")...)}, errdefs.ErrInvalidArgument, "overlap"},
		{"host bits", CreateRequest{Name: "x", Subnets: sub("10.213.141.5/24")}, errdefs.ErrInvalidArgument, "it should be 10.213.141.0/24"},
		{"too small", CreateRequest{Name: "x", Subnets: sub("10.213.141.0/31")}, errdefs.ErrInvalidArgument, "no room"},
		{"loopback", CreateRequest{Name: "x", Subnets: sub("127.3.0.0/16")}, errdefs.ErrInvalidArgument, "cannot be a container's"},
		{"gateway outside", CreateRequest{Name: "x", Subnets: gw("10.213.141.0/24", "10.213.142.1")}, errdefs.ErrInvalidArgument, "invalid gateway"},
		{"gateway is broadcast", CreateRequest{Name: "x", Subnets: gw("10.213.141.0/24", "10.213.141.255")}, errdefs.ErrInvalidArgument, "invalid gateway"},
		{"range outside", CreateRequest{Name: "x", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.141.0/24"),
			Range: netip.MustParsePrefix("10.213.142.0/25")}}}, errdefs.ErrInvalidArgument, "ip-range"},
		{"aux outside", CreateRequest{Name: "x", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.141.0/24"),
			Aux: map[string]netip.Addr{"router": netip.MustParseAddr("10.1.1.1")}}}}, errdefs.ErrInvalidArgument, "router=10.1.1.1"},
		{"gateway without subnet", CreateRequest{Name: "x", Subnets: []Subnet{{Gateway: netip.MustParseAddr("10.1.1.1")}}}, errdefs.ErrInvalidArgument, "corresponding subnet"},
		{"no family", CreateRequest{Name: "x", IPv4: new(false)}, errdefs.ErrInvalidArgument, "IPv4 or IPv6"},
		{"family off", CreateRequest{Name: "x", IPv6: new(false), Subnets: sub("fd00:1::/64")}, errdefs.ErrInvalidArgument, "turned off"},
	} {
		_, err := n.Create(context.Background(), c.r)
		if err == nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	after := linkNames(t)
	for l := range after {
		if !before[l] {
			t.Errorf("link %s was left behind", l)
		}
	}
	if l := n.List(); len(l) != 4 {
		t.Errorf("networks %+v", l)
	}
	files, _ := filepath.Glob(filepath.Join(n.opts.DataRoot, "networks", "*.json"))
	if len(files) != 4 {
		t.Errorf("files %v", files)
	}
}

func TestPoolsExhausted(t *testing.T) {
	n := room(t, func(o *Options) { o.Pools = []Pool{{netip.MustParsePrefix("10.213.192.0/28"), 29}} })
	must(t, run("ip", "link", "add", "bt-lan", "type", "ifb"))
	must(t, run("ip", "addr", "add", "10.213.192.2/29", "dev", "bt-lan"))
	must(t, run("ip", "link", "set", "bt-lan", "up"))
	t.Cleanup(func() { _ = run("ip", "link", "del", "bt-lan") })
	v := network1(t, n, CreateRequest{Name: "a"})
	if v.Subnets[0].Prefix.String() != "10.213.192.8/29" {
		t.Errorf("the block of the host's route was given away: %s", v.Subnets[0].Prefix)
	}
	_, err := n.Create(context.Background(), CreateRequest{Name: "b"})
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "all predefined address pools have been fully subnetted") {
		t.Errorf("%v", err)
	}
	// A /29 has six hosts, one of which is the gateway.
	for range 5 {
		attach(t, n, on("a"))
	}
	if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Endpoints: on("a").Endpoints}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("%v", err)
	}
	must(t, n.Detach(context.Background(), func() string {
		v, _ := n.Inspect("a")
		for id := range v.Endpoints {
			return id
		}
		return ""
	}()))
	attach(t, n, on("a"))
}

// TestWarmAddresses uses up a subnet whose last addresses the pool holds.
func TestWarmAddresses(t *testing.T) {
	n := room(t, func(o *Options) { o.BIP, o.Warm = "10.213.193.1/29", 3 })
	waitReady(t, n)
	for range 5 {
		attach(t, n, AttachRequest{})
	}
	if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID()}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("%v", err)
	}
}

func TestRemove(t *testing.T) {
	n := room(t)
	v := network1(t, n, CreateRequest{Name: "web", Labels: map[string]string{"a": "b"}})
	a := attach(t, n, AttachRequest{ContainerID: newID(), Name: "c1", Endpoints: on("web").Endpoints})
	err := n.Remove(context.Background(), "web")
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "error while removing network: network web has active endpoints") {
		t.Errorf("%v", err)
	}
	for _, name := range []string{"bridge", "host", "none"} {
		if err := n.Remove(context.Background(), name); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := n.Remove(context.Background(), "nowhere"); !errdefs.IsNotFound(err) || err.Error() != "network nowhere not found" {
		t.Errorf("%v", err)
	}
	for _, ref := range []string{"web", v.ID, v.ID[:5]} {
		got, err := n.Inspect(ref)
		if err != nil || got.ID != v.ID || len(got.Endpoints) != 1 || got.Labels["a"] != "b" {
			t.Errorf("inspect %s: %+v, %v", ref, got, err)
		}
	}
	must(t, n.Detach(context.Background(), n.owner(t, a)))
	network1(t, n, CreateRequest{Name: "kept", Labels: map[string]string{"keep": "yes"}})
	removed, err := n.Prune(context.Background(), func(v Network) bool { return v.Labels["keep"] == "" })
	if err != nil || !slices.Equal(removed, []string{"web"}) {
		t.Errorf("pruned %q, %v", removed, err)
	}
	if linkNames(t)[v.Link] {
		t.Error("the bridge is still there")
	}
}

func TestAttachRefuses(t *testing.T) {
	n := room(t, withoutRelay)
	network1(t, n, CreateRequest{Name: "fixed", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.150.0/24"),
		Range: netip.MustParsePrefix("10.213.150.128/25"), Aux: map[string]netip.Addr{"router": netip.MustParseAddr("10.213.150.130")}}}})
	network1(t, n, CreateRequest{Name: "auto"})
	l, err := net.Listen("tcp4", ":18888")
	must(t, err)
	defer l.Close()
	u, err := net.ListenPacket("udp4", ":18889")
	must(t, err)
	defer u.Close()
	attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18887"}}})
	ip := netip.MustParseAddr
	first := attach(t, n, AttachRequest{Endpoints: []EndpointRequest{{Network: "fixed", IPv4: ip("10.213.150.9"), MAC: "02:00:00:00:00:09"}}})
	if first.Endpoints[0].IPv4.String() != "10.213.150.9/24" || first.Endpoints[0].MAC != "02:00:00:00:00:09" {
		t.Errorf("%+v", first.Endpoints)
	}
	if a := attach(t, n, on("fixed")); a.Endpoints[0].IPv4.String() != "10.213.150.128/24" {
		t.Errorf("the range was not kept: %s", a.Endpoints[0].IPv4)
	}
	attach(t, n, on("fixed"))
	if a := attach(t, n, on("fixed")); a.Endpoints[0].IPv4.String() != "10.213.150.131/24" {
		t.Errorf("the auxiliary address was given away: %s", a.Endpoints[0].IPv4)
	}
	port := func(p PortRequest) AttachRequest { return AttachRequest{Ports: []PortRequest{p}} }
	end := func(e EndpointRequest) AttachRequest { return AttachRequest{Endpoints: []EndpointRequest{e}} }
	for _, c := range []struct {
		what string
		r    AttachRequest
		kind error
		text string
	}{
		{"no network", end(EndpointRequest{Network: "nowhere"}), errdefs.ErrNotFound, "network nowhere not found"},
		{"host", end(EndpointRequest{Network: "host"}), errdefs.ErrInvalidArgument, "cannot be combined"},
		{"twice", on("auto", "auto"), errdefs.ErrInvalidArgument, "named twice"},
		{"address on the default network", end(EndpointRequest{Network: "bridge", IPv4: ip("10.213.1.9")}), errdefs.ErrInvalidArgument,
			"user specified IP address is supported on user defined networks only"},
		{"address without subnet", end(EndpointRequest{Network: "auto", IPv4: ip("10.213.128.9")}), errdefs.ErrInvalidArgument,
			"networks with user configured subnets"},
		{"address outside", end(EndpointRequest{Network: "fixed", IPv4: ip("10.1.2.3")}), errdefs.ErrInvalidArgument, "10.1.2.3"},
		{"address taken", end(EndpointRequest{Network: "fixed", IPv4: ip("10.213.150.9")}), errdefs.ErrConflict, "Address already in use"},
		{"gateway's address", end(EndpointRequest{Network: "fixed", IPv4: ip("10.213.150.1")}), errdefs.ErrConflict, "the gateway"},
		{"broadcast", end(EndpointRequest{Network: "fixed", IPv4: ip("10.213.150.255")}), errdefs.ErrInvalidArgument, "10.213.150.255"},
		{"MAC", end(EndpointRequest{Network: "fixed", MAC: "ff:ff:ff:ff:ff:ff"}), errdefs.ErrInvalidArgument, "MAC"},
		{"MAC", end(EndpointRequest{Network: "fixed", MAC: "nonsense"}), errdefs.ErrInvalidArgument, "MAC"},
		{"port of another container", port(PortRequest{Container: 1, HostPort: "18887"}), errdefs.ErrConflict,
			"Bind for 0.0.0.0:18887 failed: port is already allocated"},
		{"port of another container, on one address", port(PortRequest{Container: 1, HostIP: "127.0.0.1", HostPort: "18887"}), errdefs.ErrConflict,
			"Bind for 127.0.0.1:18887 failed: port is already allocated"},
		{"port of a program", port(PortRequest{Container: 1, HostPort: "18888"}), errdefs.ErrConflict, "Bind for 0.0.0.0:18888 failed: port is already allocated"},
		{"udp port of a program", port(PortRequest{Container: 1, Proto: "udp", HostPort: "18889"}), errdefs.ErrConflict, "Bind for 0.0.0.0:18889 failed"},
		{"range all taken", port(PortRequest{Container: 1, HostPort: "18887-18888"}), errdefs.ErrConflict, "all ports are allocated"},
		{"range backwards", port(PortRequest{Container: 1, HostPort: "9-8"}), errdefs.ErrInvalidArgument, "invalid host port"},
		{"port too high", port(PortRequest{Container: 1, HostPort: "70000"}), errdefs.ErrInvalidArgument, "invalid host port"},
		{"port 0", port(PortRequest{Container: 0}), errdefs.ErrInvalidArgument, "container port 0"},
		{"protocol", port(PortRequest{Container: 1, Proto: "dccp"}), errdefs.ErrInvalidArgument, `"dccp"`},
		{"address not ours", port(PortRequest{Container: 1, HostIP: "192.0.2.99", HostPort: "1"}), errdefs.ErrInvalidArgument, "the host has no address 192.0.2.99"},
		{"no address", port(PortRequest{Container: 1, HostIP: "localhost"}), errdefs.ErrInvalidArgument, `"localhost"`},
		{"IPv6 without", port(PortRequest{Container: 1, HostIP: "::1"}), errdefs.ErrInvalidArgument, "no address of that kind"},
		{"half of it", AttachRequest{Ports: []PortRequest{{Container: 1, HostPort: "18890"}, {Container: 2, HostPort: "18888"}}}, errdefs.ErrConflict, "18888"},
	} {
		c.r.ContainerID, c.r.Name = newID(), "bad"
		_, err := n.Attach(context.Background(), c.r)
		if err == nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	for _, nw := range n.List() {
		v, err := n.Inspect(nw.ID)
		must(t, err)
		for _, e := range v.Endpoints {
			if e.Name == "bad" {
				t.Errorf("an endpoint was left behind: %+v", e)
			}
		}
	}
	// What half succeeded is free again.
	attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 1, HostPort: "18890"}}})
	eventually(t, "the links of failed attachments go", func() bool {
		count := 0
		for l := range linkNames(t) {
			if strings.HasPrefix(l, "veth") {
				count++
			}
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		return count == len(n.held)
	})
}

func TestOpenRefuses(t *testing.T) {
	needRoot(t)
	must(t, run("ip", "link", "add", "bt-dummy", "type", "ifb"))
	defer run("ip", "link", "del", "bt-dummy")
	for _, c := range []struct {
		change func(*Options)
		text   string
	}{
		{func(o *Options) { o.BIP = "10.213.0.0/24" }, "invalid bip"},
		{func(o *Options) { o.BIP = "nonsense" }, "invalid bip"},
		{func(o *Options) { o.FixedCIDR = "10.1.0.0/24" }, "ip-range"},
		{func(o *Options) { o.Bridge = "a/b" }, "cannot be the name of a link"},
		{func(o *Options) { o.Bridge = "bt-dummy" }, `link of type "ifb"`},
		{func(o *Options) { o.MTU = 7 }, "MTU 7"},
		{func(o *Options) { o.Pools = []Pool{{netip.MustParsePrefix("10.0.0.0/8"), 4}} }, "pool"},
	} {
		o := DefaultOptions(t.TempDir(), t.TempDir())
		o.Bridge, o.BIP, o.IPForward = "bt-bad", "10.213.200.1/24", false
		c.change(&o)
		n, err := Open(context.Background(), o)
		if err == nil {
			n.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.text, err)
		}
	}
}

// TestMinikubeOptions: what minikube says to dockerd, which does not look at it, says what is the case anyway.
func TestMinikubeOptions(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "minikube", Options: map[string]string{"--icc": "", "--ip-masq": "", "com.docker.network.driver.mtu": "1500"}})
	_, err := n.Create(context.Background(), CreateRequest{Name: "x", Options: map[string]string{"--icc": "false"}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "com.docker.network.bridge.enable_icc") {
		t.Error(err)
	}
}

// TestDefaultNetworkOptions: where containers of the default network get their addresses, how long their packets are, and where
// their ports are open.
func TestDefaultNetworkOptions(t *testing.T) {
	n := room(t, func(o *Options) {
		o.HostIP, o.MTU, o.FixedCIDR = netip.MustParseAddr("127.0.0.1"), 1400, strings.Replace(o.BIP, ".1/24", ".192/26", 1)
	})
	a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18175"}, {Container: 80, HostIP: "0.0.0.0", HostPort: "18176"}}})
	if len(a.Ports) != 2 || a.Ports[0].HostIP.String() != "127.0.0.1" || !a.Ports[1].HostIP.IsUnspecified() {
		t.Errorf("ports %+v", a.Ports)
	}
	if last := a.Endpoints[0].IPv4.Addr().As4()[3]; last < 192 || a.Endpoints[0].IPv4.Bits() != 24 {
		t.Errorf("address %s", a.Endpoints[0].IPv4)
	}
	inside(t, n, a.NetNS, func() error {
		l, err := net.InterfaceByName("eth0")
		if err == nil && l.MTU != 1400 {
			t.Errorf("MTU %d", l.MTU)
		}
		return err
	})
	serve(t, n, a.NetNS, "tcp", ":80")
	out := outside(t, n)
	reaches(t, n, "on the loopback", n.hostNS, "tcp", "127.0.0.1:18175", "")
	reaches(t, n, "on every address", out, "tcp", hostAddr+":18176", outsideAddr)
	doesNotReach(t, n, "on the loopback, from outside", out, "tcp", hostAddr+":18175")
}

// TestForeignBridge uses a bridge that the administrator made, and leaves it as it was.
func TestForeignBridge(t *testing.T) {
	needRoot(t)
	must(t, run("ip", "link", "add", "bt-admin", "type", "bridge"))
	must(t, run("ip", "addr", "add", "10.213.201.5/24", "dev", "bt-admin"))
	must(t, run("ip", "link", "set", "bt-admin", "up"))
	defer run("ip", "link", "del", "bt-admin")
	n := room(t, func(o *Options) { o.Bridge, o.BIP = "bt-admin", "" })
	a := attach(t, n, AttachRequest{})
	if a.Endpoints[0].Gateway.String() != "10.213.201.5" || a.Endpoints[0].IPv4.String() != "10.213.201.1/24" {
		t.Errorf("%+v", a.Endpoints[0])
	}
	must(t, n.Detach(context.Background(), n.owner(t, a)))
	must(t, n.Close())
	l, err := netlink.LinkByName("bt-admin")
	must(t, err)
	as, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil || len(as) != 1 {
		t.Errorf("addresses %v, %v", as, err)
	}
}

// TestRestart opens again what a daemon left that was killed.
func TestRestart(t *testing.T) {
	n := room(t, func(o *Options) { o.Warm = 2 })
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "web", Subnets: sub("10.213.160.0/24")})
	ports := []PortRequest{{Container: 80, HostPort: "18080"}, {Container: 53, Proto: "udp", HostPort: "18053"}}
	idA, idB, idC := newID(), newID(), newID()
	a := attach(t, n, AttachRequest{ContainerID: idA, Name: "a", Ports: ports})
	b := attach(t, n, AttachRequest{ContainerID: idB, Name: "b", Endpoints: on("web").Endpoints})
	attach(t, n, AttachRequest{ContainerID: idC, Name: "c"})
	serve(t, n, a.NetNS, "tcp", ":80")
	// The daemon dies: descriptors are closed, nothing is tidied up.
	n.changes.Close()
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
	reaches(t, n, "published, without a daemon", out, "tcp", hostAddr+":18080", outsideAddr)
	must(t, os.WriteFile(filepath.Join(n.opts.DataRoot, "networks", strings.Repeat("0", 64)+".json"), []byte("{"), 0o600))

	m, err := Open(context.Background(), n.opts)
	must(t, err)
	defer m.Close()
	reaches(t, m, "published, before Retain", out, "tcp", hostAddr+":18080", outsideAddr)
	pid := sleeper(t, m, b.NetNS)
	must(t, m.Retain(context.Background(), []Live{
		{ContainerID: idA, Name: "a", Endpoints: a.Endpoints, Ports: a.Ports},
		{ContainerID: idB, Name: "b", Pid: pid}, // its record is lost
	}))
	if w := m.Warnings(); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
	reaches(t, m, "published, after Retain", out, "tcp", hostAddr+":18080", outsideAddr)
	if _, err := net.Listen("tcp4", ":18080"); err == nil {
		t.Error("the port is not bound again")
	}
	v, err := m.Inspect("web")
	must(t, err)
	if e := v.Endpoints[idB]; e.IPv4 != b.Endpoints[0].IPv4 {
		t.Errorf("endpoint %+v", e)
	}
	taken := map[netip.Addr]bool{a.Endpoints[0].IPv4.Addr(): true}
	for range 200 {
		x, err := m.Attach(context.Background(), AttachRequest{ContainerID: "x", Name: "x"})
		must(t, err)
		if taken[x.Endpoints[0].IPv4.Addr()] {
			t.Fatalf("address %s was given away twice", x.Endpoints[0].IPv4)
		}
		x.NetNS.Close()
		must(t, m.Detach(context.Background(), "x"))
	}
	files, _ := filepath.Glob(filepath.Join(n.opts.DataRoot, "networks", "*.damaged"))
	if len(files) != 1 {
		t.Error("the damaged record was not set aside")
	}
	must(t, m.Detach(context.Background(), idA))
	must(t, m.Detach(context.Background(), idB))
	doesNotReach(t, m, "after Detach", out, "tcp", hostAddr+":18080")
}

// TestCloseLeavesNothing wants no link, table or file of a daemon that ended without containers.
func TestCloseLeavesNothing(t *testing.T) {
	before := linkNames(t)
	n := room(t, func(o *Options) { o.Warm = 4 })
	network1(t, n, CreateRequest{Name: "dual", IPv6: new(true)})
	a := attach(t, n, on("dual"))
	a.NetNS.Close()
	waitReady(t, n)
	must(t, n.Detach(context.Background(), n.owner(t, a)))
	must(t, n.Close())
	eventually(t, "the links go", func() bool {
		for l := range linkNames(t) {
			if !before[l] {
				return false
			}
		}
		return true
	})
	if got := nft(t, "list", "tables"); strings.Contains(got, n.opts.Bridge) {
		t.Errorf("tables:\n%s", got)
	}
	if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: "x"}); !errdefs.IsUnavailable(err) {
		t.Errorf("attach after close: %v", err)
	}
	// The network is still known.
	m := reopen(t, n.opts)
	if v, err := m.Inspect("dual"); err != nil || !v.IPv6 {
		t.Errorf("%+v, %v", v, err)
	}
}

// TestConfigOnly: settings that stand for no network, and networks that have theirs from there.
func TestConfigOnly(t *testing.T) {
	n := room(t)
	ctx := context.Background()
	links := linkNames(t)
	network1(t, n, CreateRequest{Name: "settings", ConfigOnly: true, Subnets: sub("10.213.170.0/24"), Labels: map[string]string{"a": "b"},
		Options: map[string]string{"com.docker.network.driver.mtu": "1300"}})
	for l := range linkNames(t) { // those of containers of other tests may go meanwhile
		if !links[l] {
			t.Errorf("settings made the link %s", l)
		}
	}
	_, err := n.Attach(ctx, AttachRequest{ContainerID: newID(), Endpoints: on("settings").Endpoints})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "configuration-only") {
		t.Errorf("attached to settings: %v", err)
	}
	v := network1(t, n, CreateRequest{Name: "real", ConfigFrom: "settings", Internal: true})
	if v.Subnets[0].Prefix.String() != "10.213.170.0/24" || v.Options["com.docker.network.driver.mtu"] != "1300" || v.Labels["a"] != "b" ||
		v.ConfigFrom != "settings" || v.Driver != "bridge" {
		t.Errorf("%+v", v)
	}
	for _, c := range []struct {
		r    CreateRequest
		text string
	}{
		{CreateRequest{Name: "x", ConfigFrom: "nonexistent"}, `configuration network "nonexistent" does not exist`},
		{CreateRequest{Name: "x", ConfigFrom: "real"}, "is not a configuration network"},
		{CreateRequest{Name: "x", ConfigFrom: "settings", Subnets: sub("10.213.171.0/24")}, "user supplied configurations are not supported"},
		{CreateRequest{Name: "x", ConfigFrom: "settings", ConfigOnly: true}, "cannot depend"},
		{CreateRequest{Name: "x", ConfigFrom: "settings"}, "Pool overlaps"},
		{CreateRequest{Name: "settings"}, "already exists"},
	} {
		if _, err := n.Create(ctx, c.r); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	if err := n.Remove(ctx, "settings"); !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("settings in use were removed: %v", err)
	}
	must(t, n.Close())
	m := reopen(t, n.opts)
	if v, err := m.Inspect("settings"); err != nil || !v.ConfigOnly {
		t.Errorf("after a restart: %+v %v", v, err)
	}
	must(t, m.Remove(ctx, "real"))
	must(t, m.Remove(ctx, "settings"))
}

// TestNullIPAM: interfaces without addresses, which containers give themselves.
func TestNullIPAM(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "bare", IPAMDriver: "null"})
	a, b := attach(t, n, on("bare")), attach(t, n, on("bare"))
	if e := a.Endpoints[0]; e.IPv4.IsValid() || e.IPv6.IsValid() || e.MAC == b.Endpoints[0].MAC {
		t.Errorf("%+v", e)
	}
	for c, addr := range map[*Attachment]string{a: "10.213.172.2/24", b: "10.213.172.3/24"} {
		inside(t, n, c.NetNS, func() error { return run("ip", "addr", "add", addr, "dev", "eth0") })
	}
	serve(t, n, b.NetNS, "tcp", ":80")
	reaches(t, n, "each other", a.NetNS, "tcp", "10.213.172.3:80", "10.213.172.2")
	if _, err := n.Create(context.Background(), CreateRequest{Name: "x", IPAMDriver: "null", Subnets: sub("10.213.173.0/24")}); err == nil {
		t.Error("a subnet was accepted")
	}
}
