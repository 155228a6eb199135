package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckpoint runs berth-runtime's checkpoints with Debian's criu on Debian's kernel: criu has to know the kernel it runs on, and the
// one of Debian 12 knows none from 6.13 on, where the vDSO has one more mapping ("Unexpected rt vDSO area bounds").
func TestCheckpoint(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	program := criuProgram(t)
	second := program
	program.Name, second.Name, second.Before = "cgroup v2", "cgroup v1 with joint controllers", joint
	second.Args = []string{"-test.run=^TestCheckpoint$", "-test.timeout=" + patience()}
	if os.Getenv("BERTH_SOAK") == "" { // emulated, all of it takes some minutes
		program.Args[0] = "-test.run=^TestCheckpoint$|TestCheckpointBadInput"
		Run(t, []Program{program})
		return
	}
	Run(t, []Program{program, second})
}

// criuProgram is the tests of berth-runtime's checkpoints with Debian's criu.
func criuProgram(t *testing.T) Program {
	t.Helper()
	files := map[string]string{}
	for _, name := range []string{"criu", "tar", "gzip", "ip"} {
		path := hostProgram(t, name)
		if path == "" {
			t.Skipf("there is no %s", name)
		}
		files["/criu/"+name] = path
		libraries(t, files, path)
	}
	// What keeps packets from connections while they are saved: the rules are in the kernel's older tables.
	for name, path := range map[string]string{"/criu/iptables-restore": "/usr/sbin/xtables-legacy-multi", "/criu/ip6tables-restore": "/usr/sbin/xtables-legacy-multi"} {
		files[name] = path
	}
	for _, plugin := range []string{"libxt_mark.so", "libxt_standard.so"} {
		path := "/usr/lib/x86_64-linux-gnu/xtables/" + plugin
		files[path] = path
	}
	libraries(t, files, "/usr/sbin/xtables-legacy-multi")
	return Program{Package: "github.com/berth-engine/berth/cmd/berth-runtime", Files: files,
		Args: []string{"-test.run=Checkpoint|PreDump|LazyPages|RestoreInTheForeground", "-test.timeout=" + patience()},
		Env:  []string{"BERTH_CRIU=1", "PATH=/criu:/usr/bin:/bin"},
		Modules: []string{"crc32c_generic", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag", "af_packet_diag", "nf_tables", "nft_ct", "nf_conntrack", "nf_conntrack_netlink", "tun",
			"ip_tables", "iptable_filter", "ip6_tables", "ip6table_filter", "xt_mark"}}
}

// patience is how long a program in the guest may take, a little less than the guest itself.
func patience() string {
	if os.Getenv("BERTH_SOAK") != "" {
		return "38m"
	}
	return "8m"
}

// hostProgram is the path of a program of the host's, "" where there is none; on CI there has to be.
func hostProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("there is no %s: make setup", name)
	}
	return path
}

// libraries adds those that a program is linked with.
func libraries(t *testing.T, files map[string]string, path string) {
	t.Helper()
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", path, err)
	}
	for line := range strings.Lines(string(out)) {
		for _, word := range strings.Fields(line) {
			if filepath.IsAbs(word) {
				files[word] = word
			}
		}
	}
}
