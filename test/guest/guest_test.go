package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The packages that meet the kernel's control groups, on version 2.
func TestOnCgroupV2(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	Run(t, []Program{
		{Name: "cgroup", Package: "github.com/berth-engine/berth/internal/cgroup", Args: []string{"-test.bench=."}},
		{Name: "seccomp", Package: "github.com/berth-engine/berth/internal/seccomp",
			Args: []string{"-test.run=TestKernelAgrees"}},
		withoutNFTables(t), // before control groups are on version 1
		{Name: "cgroup on v1 with joint controllers", Package: "github.com/berth-engine/berth/internal/cgroup",
			Before: joint},
	})
}

// withoutNFTables is networks on a kernel to which nf_tables was not given.
func withoutNFTables(t *testing.T) Program {
	t.Helper()
	const plugins, program = "/usr/lib/x86_64-linux-gnu/xtables/", "/usr/sbin/xtables-legacy-multi"
	files := map[string]string{}
	for _, name := range []string{"libxt_standard.so", "libxt_conntrack.so", "libxt_addrtype.so", "libxt_tcp.so", "libxt_udp.so", "libxt_icmp.so", "libipt_icmp.so",
		"libip6t_icmp6.so", "libxt_DNAT.so", "libipt_DNAT.so", "libip6t_DNAT.so", "libxt_NAT.so", "libxt_MASQUERADE.so", "libipt_MASQUERADE.so", "libip6t_MASQUERADE.so"} {
		if _, err := os.Stat(plugins + name); err == nil { // their names change with the version
			files[plugins+name] = plugins + name
		}
	}
	for _, v := range []string{"iptables", "ip6tables"} {
		for _, what := range []string{"save", "restore"} {
			files["/usr/sbin/"+v+"-legacy-"+what] = program
		}
	}
	if hostProgram(t, "iptables-legacy-restore") == "" {
		t.Skip("there is no iptables-legacy-restore")
	}
	libraries(t, files, program)
	return Program{Name: "network without nftables", Package: "github.com/berth-engine/berth/internal/network",
		Args: []string{"-test.run=^TestKernelWithoutNFTables$"}, Files: files,
		Modules: []string{"crc32c_generic", "bridge", "nf_conntrack", "nf_conntrack_netlink", "ip_tables", "iptable_filter", "iptable_nat", "iptable_raw",
			"ip6_tables", "ip6table_filter", "ip6table_nat", "xt_conntrack", "xt_addrtype", "xt_tcpudp", "xt_nat", "xt_MASQUERADE"}}
}

// Networks on a kernel that was told to have no IPv6; a part of `make soak`.
func TestWithoutIPv6(t *testing.T) {
	if os.Getenv("BERTH_SOAK") == "" {
		t.Skip("boots a virtual machine; BERTH_SOAK=1 runs it")
	}
	Prepare(t, []Program{{Name: "network", Package: "github.com/berth-engine/berth/internal/network", Args: []string{"-test.run=^TestKernelWithoutIPv6$"},
		Modules: []string{"crc32c_generic", "bridge", "nf_tables", "nft_ct", "nft_masq", "nft_nat", "nft_chain_nat", "nf_conntrack", "nf_conntrack_netlink",
			"nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet", "nft_reject_inet", "nft_limit", "nft_log", "nfnetlink_log",
			"nft_meta_bridge"}}}).Run(t, "", "ipv6.disable=1")
}

// The runtime on a machine that systemd runs: with groups that systemd makes, root's and an ordinary user's, and with some that it
// makes itself. In short form the lives of those; BERTH_SOAK makes it all.
func TestOnSystemd(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine")
	}
	const runtime = "github.com/berth-engine/berth/cmd/berth-runtime"
	tests := "Scope(OfSystemd|IsEndedByForce)|Rootless(Delegated|Scope)"
	if os.Getenv("BERTH_SOAK") != "" {
		tests = "Scope.*|LifeOfAContainer|Update|Events|Paused.*|DefaultDevices.*|DeleteSpares.*|Rootless.*"
	}
	programs := []Program{{Name: "runtime", Package: runtime, Args: []string{"-test.run=^Test(" + tests + ")$"}}}
	if os.Getenv("BERTH_SOAK") != "" {
		checkpoint := criuProgram(t)
		checkpoint.Name, checkpoint.Args = "checkpoint", []string{"-test.run=^TestScopeCheckpoint$", "-test.timeout=" + patience()}
		programs = append(programs, checkpoint)
	}
	if podman := podman(t, runtime); podman != nil {
		programs = append(programs, *podman)
		if os.Getenv("BERTH_SOAK") != "" { // one for each manager
			programs = append(programs, *podman)
			for i, manager := range []string{"systemd", "cgroupfs"} {
				p := &programs[len(programs)-2+i]
				p.Name, p.Args = p.Name+" "+manager, []string{"-test.run=^TestPodmanOnSystemd$/^" + manager + "$"}
			}
		}
	}
	if os.Getenv("BERTH_SOAK") == "" {
		PrepareSystemd(t, programs).Run(t, "")
		return
	}
	for _, p := range programs { // each of them takes minutes
		PrepareSystemd(t, []Program{p}).Run(t, "")
	}
}

// podman is Debian's with our runtime, for a guest that systemd runs; nil where it is not installed.
func podman(t *testing.T, runtime string) *Program {
	t.Helper()
	built, policy := filepath.Join(t.TempDir(), "berth-runtime"), filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	const image = "internal/image/builtin/files/rootfs.tar.gz"
	files := map[string]string{"/etc/containers/policy.json": policy, "/repo/go.mod": "../../go.mod", "/repo/bin/berth-runtime": built,
		"/repo/" + image: "../../" + image}
	for _, name := range []string{"podman", "conmon"} {
		path := hostProgram(t, name)
		if path == "" {
			return nil
		}
		files[path] = path
		libraries(t, files, path)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", built, runtime)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build berth-runtime: %v: %s", err, out)
	}
	return &Program{Name: "podman", Before: "mkdir -p /var/tmp", Package: "github.com/berth-engine/berth/test/runtime", Args: []string{"-test.run=^TestPodmanOnSystemd$"},
		Env: []string{"BERTH_E2E=1", "BERTH_GUEST=1", "BERTH_REPO=/repo", "TMPDIR=/tmp", "BERTH_SOAK=" + os.Getenv("BERTH_SOAK")}, Files: files}
}

// joint mounts version 1 as systemd did: two controllers in one hierarchy, a hierarchy with a name only, and version 2
// beside them with what is left.
const joint = `
umount /sys/fs/cgroup
mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
for c in cpu,cpuacct cpuset memory devices freezer blkio net_cls,net_prio perf_event pids none,name=systemd; do
	d=/sys/fs/cgroup/${c#none,name=}
	mkdir $d
	mount -t cgroup -o $c cgroup $d
done
mkdir /sys/fs/cgroup/unified
mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
`

func TestSerialLine(t *testing.T) {
	booted := 0
	results, noise := read(strings.NewReader("SeaBIOS\r\n[ 1.0] kernel\r\n@guest begin 0\r\n=== RUN TestA\r\nPASS\r\n"+
		"@guest end 0 0\r\nbetween\r\n@guest begin 1\r\nhalf a line@guest end 1 2\r\n@guest begin 2\r\n@guest begin 9\r\n"+
		"@guest end x 0\r\nlost"), 4, func() { booted++ }, func(string) {})
	for i, want := range []struct {
		begun          bool
		status, output string
	}{
		{true, "0", "=== RUN TestA\nPASS\n"}, {true, "2", "half a line"}, {true, "", "\n\nlost\n"}, {false, "", ""},
	} {
		r := &results[i]
		if r.begun != want.begun || r.status != want.status || r.output.String() != want.output {
			t.Errorf("program %d: %v, %q, %q; want %+v", i, r.begun, r.status, r.output.String(), want)
		}
	}
	if noise != "SeaBIOS\n[ 1.0] kernel\nbetween\n" || booted != 1 {
		t.Errorf("noise %q, booted %d times", noise, booted)
	}
}

func TestSummary(t *testing.T) {
	got := summary("=== RUN TestA\n--- PASS: TestA (0.00s)\n--- SKIP: TestB (0.00s)\nBenchmarkC 1 ns/op\nPASS\n")
	if want := "1 tests passed\n--- SKIP: TestB (0.00s)\nBenchmarkC 1 ns/op\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestQuote(t *testing.T) {
	if got := quote("it's $HOME"); got != `'it'\''s $HOME'` {
		t.Error(got)
	}
}
