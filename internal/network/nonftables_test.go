package network

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestKernelWithoutNFTables is for a kernel that has no nf_tables (test/guest): the daemon chooses iptables by itself, networks are
// as with nftables, and who asks for what iptables cannot do is told why there is none of it.
func TestKernelWithoutNFTables(t *testing.T) {
	needRoot(t)
	if probeNFTables() == nil {
		t.Skip("this kernel has nftables; test/guest boots one without")
	}
	ctx := context.Background()
	o := DefaultOptions(t.TempDir(), t.TempDir())
	o.Bridge, o.BIP, o.Firewall = "btstrict", "10.213.199.1/24", FirewallNFTables
	if n, err := Open(ctx, o); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "the kernel does not take our nftables rules") {
		t.Errorf("a daemon that insists on nftables: %v, %v", n, err)
	}
	n := room(t)
	if n.Firewall() != FirewallIPTables {
		t.Fatalf("the firewall is %s", n.Firewall())
	}
	if w := strings.Join(n.Warnings(), "\n"); !strings.Contains(w, "the firewall is iptables' (no nftables)") {
		t.Errorf("warnings %q", w)
	}
	_, err := n.Create(ctx, CreateRequest{Name: "x", Options: map[string]string{OptionEgress: "default=deny"}})
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "because the kernel has none") {
		t.Error(err)
	}
	network1(t, n, CreateRequest{Name: "named", IPv6: new(true), Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.198.0/24")},
		{Prefix: netip.MustParsePrefix("fd00:213:198::/64")}}})
	network1(t, n, CreateRequest{Name: "inner", Internal: true})
	network1(t, n, CreateRequest{Name: "apart", Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"}})

	r := AttachRequest{ContainerID: newID(), Name: "web", Ports: []PortRequest{{Container: 80, HostPort: "18080"}, {Container: 80, HostPort: "18081", HostIP: "127.0.0.1"}}}
	web, named := attach(t, n, r), attach(t, n, AttachRequest{Name: "six", Endpoints: on("named").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18082"}}})
	serve(t, n, web.NetNS, "tcp", ":80")
	serve(t, n, named.NetNS, "tcp", ":80")
	neighbour, inner := attach(t, n, AttachRequest{}), attach(t, n, on("inner"))
	apart, other := attach(t, n, on("apart")), attach(t, n, on("apart"))
	serve(t, n, other.NetNS, "tcp", ":80")
	check := func(n *Networks, when string) {
		t.Helper()
		reaches(t, n, when+"a published port", n.hostNS, "tcp", "127.0.0.1:18080", "")
		reaches(t, n, when+"a port published on loopback", n.hostNS, "tcp", "127.0.0.1:18081", "")
		reaches(t, n, when+"a published port of IPv6", n.hostNS, "tcp", "[fd00:213:198::1]:18082", "")
		reaches(t, n, when+"a neighbour", neighbour.NetNS, "tcp", at(web, 80), addrOf(neighbour))
		reaches(t, n, when+"a published port of another network", named.NetNS, "tcp", web.Endpoints[0].Gateway.String()+":18080", "")
		doesNotReach(t, n, when+"another network", named.NetNS, "tcp", at(web, 80))
		doesNotReach(t, n, when+"from an internal network", inner.NetNS, "tcp", at(web, 80))
		doesNotReach(t, n, when+"a neighbour that is apart", apart.NetNS, "tcp", at(other, 80))
	}
	check(n, "")
	if len(named.Resolvers) != 1 {
		t.Errorf("there is no name server: %+v", named)
	}
	must(t, n.Detach(ctx, r.ContainerID))
	doesNotReach(t, n, "a port that was taken back", n.hostNS, "tcp", "127.0.0.1:18080")
}
