package network

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestKernelWithoutIPv6 is for a kernel that was booted with ipv6.disable=1 (test/guest): everything of IPv4 works, and who
// asks for IPv6 is told why there is none.
func TestKernelWithoutIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); err == nil {
		t.Skip("this kernel has IPv6; test/guest boots one without")
	}
	n := room(t, withKeeper)
	for _, w := range n.Warnings() {
		t.Logf("warning: %s", w)
	}
	for what, r := range map[string]CreateRequest{
		"asked for": {Name: "six", IPv6: new(true)},
		"a subnet":  {Name: "six", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:213:9::/64")}}},
	} {
		if _, err := n.Create(context.Background(), r); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "disabled in the kernel") {
			t.Errorf("%s: %v", what, err)
		}
	}
	network1(t, n, CreateRequest{Name: "named"})
	network1(t, n, CreateRequest{Name: "inner", Internal: true})
	network1(t, n, CreateRequest{Name: "apart", Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"}})
	web := attach(t, n, AttachRequest{Name: "web", Ports: []PortRequest{{Container: 80, HostPort: "18080"}, {Container: 80, HostPort: "18081", HostIP: "127.0.0.1"}}})
	for _, p := range web.Ports {
		if p.HostIP.Is6() {
			t.Errorf("a port is published by IPv6: %+v", p)
		}
	}
	serve(t, n, web.NetNS, "tcp", "0.0.0.0:80")
	reaches(t, n, "the container", n.hostNS, "tcp", at(web, 80), "")
	reaches(t, n, "a published port", n.hostNS, "tcp", "127.0.0.1:18080", "")
	reaches(t, n, "a port published on loopback", n.hostNS, "tcp", "127.0.0.1:18081", "")
	reaches(t, n, "a neighbour", attach(t, n, AttachRequest{}).NetNS, "tcp", at(web, 80), "")

	named, inner := attach(t, n, on("named")), attach(t, n, on("inner"))
	if len(named.Resolvers) != 1 {
		t.Errorf("there is no name server: %+v", named)
	}
	doesNotReach(t, n, "an internal network", inner.NetNS, "tcp", at(web, 80))
	more, err := n.Connect(context.Background(), ConnectRequest{ContainerID: n.owner(t, web), Name: "web", NetNS: web.NetNS,
		Endpoint: EndpointRequest{Network: "named"}})
	must(t, err)
	address := netip.AddrPortFrom(more.Endpoints[1].IPv4.Addr(), 80).String()
	reaches(t, n, "a network that was connected", named.NetNS, "tcp", address, "")
	_, err = n.Disconnect(context.Background(), DisconnectRequest{ContainerID: n.owner(t, web), Name: "web", NetNS: web.NetNS, Network: "named"})
	must(t, err)
	doesNotReach(t, n, "a network that was disconnected", named.NetNS, "tcp", address)

	db := on("apart")
	db.ContainerID = newID()
	server := attach(t, n, db)
	client := on("apart")
	client.Peers = []Peer{{Network: "apart", ContainerID: db.ContainerID, Ports: []PeerPort{{80, "tcp"}}}}
	serve(t, n, server.NetNS, "tcp", "0.0.0.0:80")
	reaches(t, n, "by a link", attach(t, n, client).NetNS, "tcp", at(server, 80), "")
	doesNotReach(t, n, "without a link", attach(t, n, on("apart")).NetNS, "tcp", at(server, 80))

	bound := attach(t, n, AttachRequest{Endpoints: egressOn("named", "allow="+web.Endpoints[0].Gateway.String()+":8100")})
	serve(t, n, n.hostNS, "tcp", "0.0.0.0:8100")
	serve(t, n, n.hostNS, "tcp", "0.0.0.0:8101")
	gateway := web.Endpoints[0].Gateway.String()
	reaches(t, n, "what a policy allows", bound.NetNS, "tcp", gateway+":8100", "")
	doesNotReach(t, n, "what a policy refuses", bound.NetNS, "tcp", gateway+":8101")
}
