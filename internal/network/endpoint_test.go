package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const bridgeOption = "com.docker.network.bridge."

// TestGatewayModes sends packets from outside to containers of each kind.
func TestGatewayModes(t *testing.T) {
	n := room(t, withoutRelay)
	out := outside(t, n)
	mode := func(name, prefix, m string) {
		network1(t, n, CreateRequest{Name: name, Subnets: sub(prefix), Options: map[string]string{bridgeOption + "gateway_mode_ipv4": m}})
	}
	mode("routed", "10.213.161.0/24", "routed")
	mode("open", "10.213.162.0/24", "nat-unprotected")
	network1(t, n, CreateRequest{Name: "trusting", Subnets: sub("10.213.163.0/24"),
		Options: map[string]string{bridgeOption + "trusted_host_interfaces": "btout:bt-other"}})
	ports := []PortRequest{{Container: 80, HostPort: "18101"}}
	id := newID()
	routed := attach(t, n, AttachRequest{ContainerID: id, Name: "r", Endpoints: on("routed").Endpoints, Ports: ports})
	open := attach(t, n, AttachRequest{Endpoints: on("open").Endpoints})
	trusting := attach(t, n, AttachRequest{Endpoints: on("trusting").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18102"}}})
	for _, c := range []*Attachment{routed, open, trusting} {
		serve(t, n, c.NetNS, "tcp", ":80")
		serve(t, n, c.NetNS, "tcp", ":81")
	}
	serve(t, n, out, "tcp", ":82")
	reaches(t, n, "routed, a published port, at its own address", out, "tcp", at(routed, 80), outsideAddr)
	doesNotReach(t, n, "routed, a port that is not published", out, "tcp", at(routed, 81))
	doesNotReach(t, n, "routed, through the host", out, "tcp", hostAddr+":18101")
	reaches(t, n, "routed, on its way out", routed.NetNS, "tcp", outsideAddr+":82", addrOf(routed))
	if len(routed.Ports) != 1 || routed.Ports[0].HostPort != 0 {
		t.Errorf("ports %+v", routed.Ports)
	}
	reaches(t, n, "unprotected, any port", out, "tcp", at(open, 81), outsideAddr)
	reaches(t, n, "unprotected, on its way out", open.NetNS, "tcp", outsideAddr+":82", hostAddr)
	reaches(t, n, "trusted link, a published port", out, "tcp", at(trusting, 80), outsideAddr)
	doesNotReach(t, n, "trusted link, a port that is not published", out, "tcp", at(trusting, 81))
	reaches(t, n, "trusting, through the host", out, "tcp", hostAddr+":18102", outsideAddr)

	// The way in changes with the network that has the default route.
	moved, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "r", NetNS: routed.NetNS,
		Endpoint: EndpointRequest{Network: defaultName, GwPriority: 1}, Ports: ports})
	must(t, err)
	if len(moved.Ports) != 1 || moved.Ports[0].HostPort != 18101 {
		t.Errorf("ports %+v", moved.Ports)
	}
	reaches(t, n, "now through the host", out, "tcp", hostAddr+":18101", outsideAddr)
	moved, err = n.Disconnect(context.Background(), DisconnectRequest{ContainerID: id, Name: "r", NetNS: routed.NetNS,
		Network: defaultName, Ports: ports})
	must(t, err)
	reaches(t, n, "at its own address again", out, "tcp", at(routed, 80), outsideAddr)

	// After a restart it is as it was.
	die(n)
	m, err := Open(context.Background(), n.opts)
	must(t, err)
	defer m.Close()
	must(t, m.Retain(context.Background(), []Live{{ContainerID: id, Name: "r", Endpoints: moved.Endpoints, Ports: moved.Ports}}))
	reaches(t, m, "after a restart", out, "tcp", at(routed, 80), outsideAddr)
	if w := m.Warnings(); len(w) > 0 && m.legacy == nil {
		t.Errorf("warnings %q", w)
	}
	must(t, m.Detach(context.Background(), id))
	doesNotReach(t, m, "after its end", out, "tcp", at(routed, 80))
}

// TestBridgeWithoutAddress: an isolated bridge has none, and one with inhibit_ipv4 keeps what others gave it.
func TestBridgeWithoutAddress(t *testing.T) {
	n := room(t)
	addrs := func(link string) string {
		l, err := net.InterfaceByName(link)
		must(t, err)
		as, err := l.Addrs()
		must(t, err)
		var text []string
		for _, a := range as {
			if !strings.HasPrefix(a.String(), "fe80") {
				text = append(text, a.String())
			}
		}
		return strings.Join(text, " ")
	}
	_, err := n.Create(context.Background(), CreateRequest{Name: "x", Options: map[string]string{bridgeOption + "gateway_mode_ipv4": "isolated"}})
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "internal networks only") {
		t.Errorf("isolated and not internal: %v", err)
	}
	alone := network1(t, n, CreateRequest{Name: "alone", Internal: true, IPv6: new(true), Subnets: sub("10.213.164.0/24"),
		Options: map[string]string{bridgeOption + "gateway_mode_ipv4": "isolated", bridgeOption + "gateway_mode_ipv6": "isolated"}})
	if got := addrs(alone.Link); got != "" {
		t.Errorf("an isolated bridge has %s", got)
	}
	a, b := attach(t, n, on("alone")), attach(t, n, on("alone"))
	if a.Endpoints[0].Gateway.IsValid() || a.Endpoints[0].Gateway6.IsValid() {
		t.Errorf("a gateway: %+v", a.Endpoints[0])
	}
	serve(t, n, b.NetNS, "tcp", ":80")
	reaches(t, n, "each other", a.NetNS, "tcp", at(b, 80), "")

	given := network1(t, n, CreateRequest{Name: "given", Subnets: sub("10.213.165.0/24"), Options: map[string]string{bridgeOption + "inhibit_ipv4": "true"}})
	if got := addrs(given.Link); got != "" {
		t.Errorf("the bridge has %s", got)
	}
	must(t, run("ip", "addr", "add", "10.213.165.1/24", "dev", given.Link))
	must(t, n.ensureBridge(n.networks[given.ID], false))
	if got := addrs(given.Link); got != "10.213.165.1/24" {
		t.Errorf("the bridge has %q now", got)
	}
	c := attach(t, n, on("given"))
	if via := defaultVia(t, n, c.NetNS); via != "10.213.165.1" {
		t.Errorf("default route via %q", via)
	}
}

// TestEndpointOptions: the name, the kernel parameters and the hardware address of one interface.
func TestEndpointOptions(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "a"})
	network1(t, n, CreateRequest{Name: "b"})
	opts := func(k, v string) map[string]string { return map[string]string{k: v} }
	c := attach(t, n, AttachRequest{Endpoints: []EndpointRequest{
		{Network: "a", MAC: "02:00:00:00:00:01", DriverOpts: map[string]string{optionIfname: "lan",
			optionSysctls: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.ifname.forwarding=0"}},
		{Network: "b"}}})
	if got := interfacesIn(t, n, c.NetNS); got != "lo lan eth0" {
		t.Errorf("interfaces %q", got)
	}
	inside(t, n, c.NetNS, func() error {
		v, err := readSysctl("net/ipv4/conf/lan/log_martians")
		if v != "1" {
			t.Errorf("log_martians is %q", v)
		}
		if v, err := readSysctl("net/ipv4/conf/lan/forwarding"); v != "0" {
			t.Errorf("forwarding is %q, %v", v, err)
		}
		return err
	})
	for _, r := range []struct {
		e    EndpointRequest
		kind error
		text string
	}{
		{EndpointRequest{Network: "a", MAC: "02:00:00:00:00:01"}, errdefs.ErrConflict, "already in use on network \"a\""},
		{EndpointRequest{Network: "a", MAC: "01:00:00:00:00:01"}, errdefs.ErrInvalidArgument, "invalid MAC address"},
		{EndpointRequest{Network: "a", DriverOpts: opts(optionIfname, "a/b")}, errdefs.ErrInvalidArgument, `"a/b"`},
		{EndpointRequest{Network: "a", DriverOpts: opts(optionIfname, "lo")}, errdefs.ErrConflict, `"lo"`},
		{EndpointRequest{Network: "a", DriverOpts: opts(optionSysctls, "net.ipv4.conf.eth0.x=1")}, errdefs.ErrInvalidArgument, "IFNAME"},
		{EndpointRequest{Network: "a", DriverOpts: opts(optionSysctls, "net.ipv4.conf.IFNAME./../x=1")}, errdefs.ErrInvalidArgument, "IFNAME"},
		{EndpointRequest{Network: "a", DriverOpts: opts(optionSysctls, "net.ipv4.conf.IFNAME.nonexistent=1")}, errdefs.ErrInvalidArgument, "net.ipv4.conf.eth0.nonexistent"},
		{EndpointRequest{Network: "a", DriverOpts: opts("x", "y")}, errdefs.ErrInvalidArgument, `unknown option "x"`},
		{EndpointRequest{Network: "a", LinkLocal: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, errdefs.ErrInvalidArgument, "link-local"},
	} {
		_, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: []EndpointRequest{r.e}})
		if !errors.Is(err, r.kind) || err == nil || !strings.Contains(err.Error(), r.text) {
			t.Errorf("%+v: %v", r.e, err)
		}
	}
	if v, err := n.Inspect("a"); err != nil || len(v.Endpoints) != 1 {
		t.Errorf("%+v %v", v.Endpoints, err)
	}
	// A made-up hardware address steps aside for one that was asked for.
	b := attach(t, n, AttachRequest{Endpoints: []EndpointRequest{{Network: "b", MAC: macFor(nextAddr(c.Endpoints[1].IPv4.Addr(), 2)).String()}}})
	d := attach(t, n, on("b"))
	if d.Endpoints[0].MAC == b.Endpoints[0].MAC {
		t.Errorf("two endpoints have %s", d.Endpoints[0].MAC)
	}
}

func nextAddr(a netip.Addr, times int) netip.Addr {
	for range times {
		a = a.Next()
	}
	return a
}

func FuzzEndpointSysctls(f *testing.F) {
	f.Add("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2")
	f.Add("net.ipv4.conf.IFNAME.../x=1")
	f.Add("=,")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseEndpointSysctls(text)
		for _, s := range list {
			if err == nil && (strings.Contains(s.path, "..") || !strings.HasPrefix(s.path, "net/")) {
				t.Errorf("%q becomes %q", text, s.path)
			}
		}
	})
}
