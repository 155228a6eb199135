package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// defaultVia is the gateway of the namespace's default route of version 4, "" for none.
func defaultVia(t *testing.T, n *Networks, ns *os.File) string {
	t.Helper()
	via := ""
	inside(t, n, ns, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		rs, err := dumpRoutes(h, nil, netlink.FAMILY_V4)
		for _, r := range rs {
			if r.Gw != nil && (r.Dst == nil || isZero(r.Dst.Mask)) {
				via = r.Gw.String()
			}
		}
		return err
	})
	return via
}

func interfacesIn(t *testing.T, n *Networks, ns *os.File) string {
	t.Helper()
	var names []string
	inside(t, n, ns, func() error {
		links, err := net.Interfaces()
		for _, l := range links {
			names = append(names, l.Name)
		}
		return err
	})
	return strings.Join(names, " ")
}

// TestConnect takes a container through its networks: routes, ports and names follow.
func TestConnect(t *testing.T) {
	n := room(t, withoutRelay)
	out := outside(t, n)
	for _, name := range []string{"a", "b"} {
		network1(t, n, CreateRequest{Name: name, Subnets: sub(map[string]string{"a": "10.213.150.0/24", "b": "10.213.151.0/24"}[name])})
	}
	network1(t, n, CreateRequest{Name: "inner", Internal: true})
	ctx := context.Background()
	id := newID()
	ports := []PortRequest{{Container: 80, HostPort: "18095"}}
	c := attach(t, n, AttachRequest{ContainerID: id, Name: "web", Ports: ports})
	other := attach(t, n, AttachRequest{Name: "other", Endpoints: on("a").Endpoints})
	serve(t, n, c.NetNS, "tcp", ":80")
	gateway := c.Endpoints[0].Gateway.String()
	connect := func(e EndpointRequest) (*Attachment, error) {
		return n.Connect(ctx, ConnectRequest{ContainerID: id, Name: "web", NetNS: c.NetNS, Endpoint: e, Ports: ports})
	}
	disconnect := func(name string) (*Attachment, error) {
		return n.Disconnect(ctx, DisconnectRequest{ContainerID: id, Name: "web", NetNS: c.NetNS, Network: name, Ports: ports})
	}

	at, err := connect(EndpointRequest{Network: "a", Aliases: []string{"shop"}, IPv4: netip.MustParseAddr("10.213.150.77"),
		MAC: "02:00:00:00:00:99", LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.9.9")}})
	must(t, err)
	if len(at.Endpoints) != 2 || at.Endpoints[1].Interface != "eth1" || at.Endpoints[1].IPv4.String() != "10.213.150.77/24" ||
		len(at.Resolvers) != 1 || len(at.Ports) != 2-1 {
		t.Fatalf("%+v", at)
	}
	if got := interfacesIn(t, n, c.NetNS); got != "lo eth0 eth1" {
		t.Errorf("interfaces %q", got)
	}
	reaches(t, n, "by the new network", other.NetNS, "tcp", "10.213.150.77:80", "")
	reaches(t, n, "published", out, "tcp", hostAddr+":18095", outsideAddr)
	if via := defaultVia(t, n, c.NetNS); via != gateway {
		t.Errorf("an equal network took the default route: %s", via)
	}
	for _, name := range []string{"web.", "shop."} {
		if a, _ := dig(t, n, other.NetNS, "udp", name, dns.TypeA); !strings.Contains(a, "10.213.150.77") {
			t.Errorf("%s is %q", name, a)
		}
	}
	if a, _ := dig(t, n, c.NetNS, "udp", "other.", dns.TypeA); !strings.Contains(a, addrOf(other)) {
		t.Errorf("other is %q", a)
	}

	// The network with the highest priority gets the default route and the ports.
	at, err = connect(EndpointRequest{Network: "b", GwPriority: 5})
	must(t, err)
	if via := defaultVia(t, n, c.NetNS); via != "10.213.151.1" {
		t.Errorf("default route via %s", via)
	}
	if to := at.Endpoints[2].IPv4.Addr(); !strings.Contains(nft(t, "list", "map", "ip", n.tableName(), "published"), to.String()) {
		t.Errorf("the port does not lead to %s", to)
	}
	reaches(t, n, "published, by another network", out, "tcp", hostAddr+":18095", outsideAddr)

	_, err = connect(EndpointRequest{Network: "a"})
	if !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "already exists in network a") {
		t.Errorf("connected twice: %v", err)
	}
	if _, err = connect(EndpointRequest{Network: "host"}); err == nil {
		t.Error("connected to the host's network")
	}
	if _, err = connect(EndpointRequest{Network: "inner", IPv4: netip.MustParseAddr("10.9.9.9")}); err == nil {
		t.Error("connected with an address of no subnet")
	}
	if err := n.Remove(ctx, "a"); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("a network in use was removed: %v", err)
	}

	// One by one they go: b, the default network, a.
	at, err = disconnect("b")
	must(t, err)
	if via := defaultVia(t, n, c.NetNS); via != gateway || len(at.Endpoints) != 2 {
		t.Errorf("default route via %s, %+v", via, at)
	}
	reaches(t, n, "published, back again", out, "tcp", hostAddr+":18095", outsideAddr)
	if _, err = disconnect("b"); !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "is not connected to network b") {
		t.Errorf("disconnected twice: %v", err)
	}
	_, err = disconnect(defaultName)
	must(t, err)
	reaches(t, n, "published, through the one left", out, "tcp", hostAddr+":18095", outsideAddr)
	_, err = connect(EndpointRequest{Network: "inner"})
	must(t, err)
	at, err = disconnect("a")
	must(t, err)
	if len(at.Ports) != 0 || len(at.Endpoints) != 1 {
		t.Errorf("%+v", at)
	}
	doesNotReach(t, n, "published, from inside an internal network", out, "tcp", hostAddr+":18095")
	if a, _ := dig(t, n, other.NetNS, "udp", "web.", dns.TypeA); strings.Contains(a, "10.213.150.77") {
		t.Error("the name is still known")
	}
	_, err = disconnect("inner")
	must(t, err)
	if got := interfacesIn(t, n, c.NetNS); got != "lo" {
		t.Errorf("interfaces %q", got)
	}
	at, err = connect(EndpointRequest{Network: defaultName})
	must(t, err)
	if len(at.Ports) != 1 || at.Ports[0].HostPort != 18095 {
		t.Errorf("ports %+v", at.Ports)
	}
	reaches(t, n, "published, after it had no network", out, "tcp", hostAddr+":18095", outsideAddr)
	must(t, n.Detach(ctx, id))
	for _, name := range []string{"b", "inner"} {
		must(t, n.Remove(ctx, name))
	}
}

// TestConnectNames: an interface the container made itself is not run over, and a name it has taken is told.
func TestConnectNames(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "a"})
	network1(t, n, CreateRequest{Name: "named", Options: map[string]string{"com.docker.network.container_iface_prefix": "web"}})
	id := newID()
	c := attach(t, n, AttachRequest{ContainerID: id})
	inside(t, n, c.NetNS, func() error { return run("ip", "link", "add", "eth1", "type", "ifb") })
	for _, want := range []struct{ network, name string }{{"a", "eth2"}, {"named", "web0"}} {
		at, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Endpoint: EndpointRequest{Network: want.network}})
		must(t, err)
		if got := at.Endpoints[len(at.Endpoints)-1].Interface; got != want.name {
			t.Errorf("interface %q on %s, wanted %q", got, want.network, want.name)
		}
	}
}

// TestConnectAfterTheEnd: a container that ends while it is being connected leaves nothing.
func TestConnectAfterTheEnd(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "a"})
	for range 20 {
		id := newID()
		c := attach(t, n, AttachRequest{ContainerID: id})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = n.Detach(context.Background(), id)
		}()
		_, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Endpoint: EndpointRequest{Network: "a"}})
		<-done
		if err != nil && !errors.Is(err, errdefs.ErrConflict) {
			t.Errorf("%v", err)
		}
		_ = n.Detach(context.Background(), id)
	}
	must(t, n.Remove(context.Background(), "a"))
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.held) != 0 {
		t.Errorf("%d are still held", len(n.held))
	}
}

// TestConnectCutShort: a daemon killed in the middle of Connect leaves a link that no record knows, and one killed in
// the middle of Disconnect a record of a link that is gone. The next one puts both right.
func TestConnectCutShort(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "a"})
	network1(t, n, CreateRequest{Name: "b"})
	id := newID()
	c := attach(t, n, AttachRequest{ContainerID: id, Name: "c", Endpoints: on(defaultName, "b").Endpoints})
	saved := c.Endpoints
	_, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Endpoint: EndpointRequest{Network: "a"}})
	must(t, err)
	_, err = n.Disconnect(context.Background(), DisconnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Network: "b"})
	must(t, err)
	die(n)

	m, err := Open(context.Background(), n.opts)
	must(t, err)
	defer m.Close()
	must(t, m.Retain(context.Background(), []Live{{ContainerID: id, Name: "c", Endpoints: saved}}))
	eventually(t, "the link that no record knows is gone", func() bool { return interfacesIn(t, m, c.NetNS) == "lo eth0" })
	at := m.Attached(id)
	if len(at.Endpoints) != 1 || at.Endpoints[0].EndpointID != saved[0].EndpointID {
		t.Errorf("%+v", at)
	}
	for _, name := range []string{"a", "b"} {
		must(t, m.Remove(context.Background(), name))
	}
	must(t, m.Detach(context.Background(), id))
}

// die is what is left of a daemon that was killed: descriptors are closed, nothing is tidied up.
func die(n *Networks) {
	n.changes.Close()
	n.links.Close()
	n.warm.close()
	n.bare.close()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shut = true
	for _, h := range n.held {
		h.resolver.close()
		h.resolver = nil
		for i := range h.ports {
			h.ports[i].close()
			h.ports[i].fd = -1
		}
	}
}

// TestConnectRounds connects, disconnects and dies, again and again, and wants nothing to be left. BERTH_SOAK makes it long.
func TestConnectRounds(t *testing.T) {
	rounds := 40
	if os.Getenv("BERTH_SOAK") != "" {
		rounds = 3000
	}
	n := room(t)
	opts := n.opts
	network1(t, n, CreateRequest{Name: "a", Subnets: sub("10.213.152.0/29")})
	id := newID()
	c := attach(t, n, AttachRequest{ContainerID: id, Name: "c"})
	saved := c.Endpoints
	var next *Networks
	for i := range rounds {
		at, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Endpoint: EndpointRequest{Network: "a"}})
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if i%3 == 1 {
			saved = at.Endpoints
		}
		if i%8 != 7 {
			at, err := n.Disconnect(context.Background(), DisconnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Network: "a"})
			must(t, err)
			if i%2 == 0 {
				saved = at.Endpoints
			}
			continue
		}
		die(n)
		next, err = Open(context.Background(), opts)
		must(t, err)
		must(t, next.Retain(context.Background(), []Live{{ContainerID: id, Name: "c", Endpoints: saved}}))
		if n = next; n.Attached(id) != nil && len(n.Attached(id).Endpoints) > 1 {
			_, err = n.Disconnect(context.Background(), DisconnectRequest{ContainerID: id, Name: "c", NetNS: c.NetNS, Network: "a"})
			must(t, err)
		}
		n.work.Wait()
		saved = n.Attached(id).Endpoints
	}
	if got := interfacesIn(t, n, c.NetNS); got != "lo eth0" {
		t.Errorf("interfaces %q", got)
	}
	must(t, n.Remove(context.Background(), "a"))
	must(t, n.Detach(context.Background(), id))
	c.NetNS.Close()
	harmless := func() bool {
		for name := range linkNames(t) {
			if isHostLink(name) {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(2 * time.Minute); !harmless() && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if !harmless() {
		out, _ := exec.Command("ip", "-d", "link").CombinedOutput()
		t.Errorf("links are left: %v; saved %+v\n%s", linkNames(t), saved, out)
	}
	must(t, n.Close())
}

func TestEditHosts(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.1.2")
	hosts := "127.0.0.1\tlocalhost\n10.0.0.2\tweb\n10.0.0.2\tmine\n# 10.0.0.2\tweb"
	got := string(EditHosts([]byte(hosts), []string{"web"}, []netip.Addr{a}, []netip.Addr{b}))
	if want := "127.0.0.1\tlocalhost\n10.0.0.2\tmine\n# 10.0.0.2\tweb\n10.0.1.2\tweb\n"; got != want {
		t.Errorf("got %q", got)
	}
}
