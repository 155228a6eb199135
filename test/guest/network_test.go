package guest

import "testing"

// Networks of the drivers macvlan and ipvlan, with VLANs and links that lead nowhere, on a kernel that has them all.
func TestNeighbours(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine, for a minute: the whole form does")
	}
	files := map[string]string{}
	path := hostProgram(t, "ip")
	if path == "" {
		t.Skip("there is no ip")
	}
	files["/bin/ip"] = path // busybox's does less
	libraries(t, files, path)
	Run(t, []Program{{Name: "network", Package: "github.com/berth-engine/berth/internal/network",
		Args: []string{"-test.run=^Test(Macvlan|Ipvlan|VLAN|LAN|ParentGoes|OwnParentGoes)"}, Env: []string{"BERTH_LAN=1"}, Files: files,
		Modules: []string{"crc32c_generic", "bridge", "nf_tables", "nft_ct", "nft_masq", "nft_nat", "nft_chain_nat", "nf_conntrack", "nf_conntrack_netlink",
			"nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet", "nft_reject_inet", "nft_limit", "nft_log", "nfnetlink_log", "nft_meta_bridge", "xfrm_user",
			"macvlan", "ipvlan", "8021q", "dummy"}}})
}
