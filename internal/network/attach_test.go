package network

import (
	"context"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestAttachDefault(t *testing.T) {
	n := room(t)
	a := attach(t, n, AttachRequest{})
	e := a.Endpoints[0]
	if e.Interface != "eth0" || e.IPv4.Addr().String() == "" || e.Gateway.String()[:7] != "10.213." {
		t.Fatalf("endpoint %+v", e)
	}
	inside(t, n, a.NetNS, func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		if l.Attrs().HardwareAddr.String() != e.MAC || l.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("eth0: %+v", l.Attrs())
		}
		as, err := dumpAddrs(h, l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		if len(as) != 1 || prefixFromNet(as[0].IPNet) != e.IPv4 {
			t.Errorf("addresses: %v", as)
		}
		rs, err := dumpRoutes(h, l, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		if len(rs) != 2 {
			t.Errorf("routes: %v", rs)
		}
		for _, want := range []struct{ name, value string }{
			{"net/ipv4/ip_unprivileged_port_start", "0"},
			{"net/ipv4/ping_group_range", "0\t2147483647"},
			{"net/ipv6/conf/eth0/disable_ipv6", "1"},
			{"net/ipv6/conf/lo/disable_ipv6", "0"},
			{"net/ipv6/conf/default/disable_ipv6", "0"},
		} {
			if got, err := readSysctl(want.name); err != nil || got != want.value {
				t.Errorf("%s is %q, %v", want.name, got, err)
			}
		}
		return nil
	})
	if err := n.Detach(context.Background(), "nobody"); err != nil {
		t.Error(err)
	}
}

// Somebody else may be in the namespace of a container that has ended. It must not stay on the network with an address
// that the next container gets.
func TestDetachFromNamespaceInUse(t *testing.T) {
	n := room(t)
	a := attach(t, n, on("bridge"))
	host := hostLink(a.Endpoints[0].EndpointID)
	if !linkNames(t)[host] {
		t.Fatalf("no link %s in %v", host, linkNames(t))
	}
	must(t, n.Detach(context.Background(), n.owner(t, a)))
	eventually(t, "the link goes although the namespace stays", func() bool { return !linkNames(t)[host] })
	b := attach(t, n, on("bridge"))
	host = hostLink(b.Endpoints[0].EndpointID)
	must(t, n.Detach(context.Background(), n.owner(t, b)))
	must(t, n.Close()) // before its time has come
	if linkNames(t)[host] {
		t.Errorf("link %s is left", host)
	}
}

// TestPortsOfWhoHasEnded: a container can end while its ports are opened; nobody looks for its first interface then.
func TestPortsOfWhoHasEnded(t *testing.T) {
	n := room(t)
	a := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18135"}}})
	id := n.owner(t, a)
	n.mu.Lock()
	h := n.held[id]
	n.mu.Unlock()
	must(t, n.Detach(context.Background(), id))
	if err := n.openPorts(h); err == nil {
		t.Error("ports of a container that has ended are opened")
	}
	if _, err := n.Publish(context.Background(), PublishRequest{ContainerID: id, Add: []PortRequest{{Container: 81, HostPort: "18136"}}}); err == nil {
		t.Error("ports of a container that has ended are published")
	}
	if len(n.ports) != 0 {
		t.Errorf("in the book: %v", n.ports)
	}
}
