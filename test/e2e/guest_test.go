package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-engine/berth/test/guest"
	"github.com/berth-engine/berth/test/harness"
)

// TestOnCgroupVersion2 runs whole tests of this package, with our three programs, on a kernel that has cgroup v2 alone.
func TestOnCgroupVersion2(t *testing.T) {
	if os.Getenv("BERTH_GUEST") != "" {
		t.Skip("this is the guest")
	}
	harness.Need(t)
	repo := harness.Repo(t)
	files := map[string]string{"/repo/go.mod": filepath.Join(repo, "go.mod")}
	for _, p := range []string{"berth", "berthd", "berth-runtime"} {
		files["/repo/bin/"+p] = filepath.Join(repo, "bin", p)
	}
	modules := []string{"crc32c_generic", "bridge", "nf_tables", "nft_ct", "nft_masq", "nft_nat", "nft_chain_nat", "nf_conntrack",
		"nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet", "ext4", "xfs", "quota_v2", "virtio_pci", "virtio_blk"}
	var programs []guest.Program
	for name, tests := range map[string]string{
		"sizes": "^TestLayerSize$", "limits": "^TestLimits$", "restore": "^TestContainersSurviveTheDaemon$",
		"everyday": "^TestEverydayCommands$/^berth$/^(run|life|exec)$",
	} {
		programs = append(programs, guest.Program{Name: name, Package: "github.com/berth-engine/berth/test/e2e",
			Args: []string{"-test.run=" + tests}, Env: []string{"BERTH_E2E=1", "BERTH_GUEST=1", "BERTH_REPO=/repo"},
			Files: files, Modules: modules})
	}
	guest.Prepare(t, programs).Run(t, sizeDisk(t))
}
