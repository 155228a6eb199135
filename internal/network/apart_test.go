package network

import (
	"testing"
)

// TestApartPublished: what a container of a network without icc publishes is everybody's, its neighbours' as well, whether the host
// lets frames on bridges pass the rules of IP or not; and nothing else of it is.
func TestApartPublished(t *testing.T) {
	n := room(t)
	outside(t, n)
	twoVersions(t, n, "apart", bridgeOption+"enable_icc", "false")
	server := attach(t, n, AttachRequest{Name: "web", Endpoints: on("apart").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18133"},
		{Container: 80, HostPort: "18133", Proto: "udp"}}})
	client := attach(t, n, on("apart"))
	for _, proto := range []string{"tcp", "udp"} {
		serve(t, n, server.NetNS, proto, ":80")
		serve(t, n, server.NetNS, proto, ":81")
	}
	for _, nf := range []string{"1", "0"} {
		for _, v := range []string{"iptables", "ip6tables"} {
			if err := setSysctlIfThere("net/bridge/bridge-nf-call-"+v, nf); err != nil { // of the test's own namespace
				t.Fatal(err)
			}
		}
		when := "bridge-nf-call " + nf + ": "
		for _, proto := range []string{"tcp", "udp"} {
			reaches(t, n, when+"the host's address", client.NetNS, proto, hostAddr+":18133", "")
			reaches(t, n, when+"the host's address of IPv6", client.NetNS, proto, "["+hostAddr6+"]:18133", "")
			reaches(t, n, when+"the gateway", client.NetNS, proto, client.Endpoints[0].Gateway.String()+":18133", "")
			reaches(t, n, when+"itself", server.NetNS, proto, hostAddr+":18133", "")
			for _, to := range []string{at(server, 80), at(server, 81), at6(server, 80)} {
				doesNotReach(t, n, when+"a neighbour", client.NetNS, proto, to)
			}
		}
	}
}
