package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/cgroup"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Flags that the other tests have no use for: each does what it says.
func TestFlagsOfPlace(t *testing.T) {
	b := newBundle(t, "sh", "-c", "pwd; exit 3")
	elsewhere := t.TempDir()
	from := func(args ...string) (string, int) {
		t.Helper()
		cmd := b.command(args...)
		cmd.Dir = elsewhere
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, flag := range []string{"--bundle", "-b"} {
		if out, code := from("run", flag, b.dir, "c"); out != "/\n" || code != 3 {
			t.Error(flag, out, code)
		}
	}
	if out, code := from("run", "c"); code != 1 || !strings.Contains(out, "config.json") {
		t.Error(out, code)
	}
	if out, code := from("run", "--keep", "--bundle", b.dir, "c"); out != "/\n" || code != 3 {
		t.Error(out, code)
	}
	if s := b.status(); s != "stopped" {
		t.Error(s)
	}
	for _, flag := range []string{"--quiet", "-q"} {
		if out := b.ok("list", flag); out != "c\n" {
			t.Error(flag, out)
		}
	}
	b.ok("delete", "c")
	// A warning is for who asks for it: one more than the host allows.
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{UseHierarchy: new(false)}
	b.write()
	if out, code := b.run("--debug", "run", "c"); code != 3 || !strings.Contains(out, "berth-runtime: warning: ") || !strings.HasSuffix(out, "/\n") {
		t.Error(out, code)
	}
	if out, code := b.run("run", "c"); code != 3 || out != "/\n" {
		t.Error(out, code)
	}
}

func TestFlagsOfExec(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("run", "-d", "c")
	for _, flag := range []string{"--tty", "-t"} {
		if out := b.ok("exec", flag, "c", "tty"); !strings.HasPrefix(out, "/dev/pts/") {
			t.Error(flag, out)
		}
	}
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		b.fails("AppArmor", "exec", "--apparmor", "some", "c", "true")
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		b.fails("SELinux", "exec", "--process-label", "a:b:c:d", "c", "true")
	}
}

// Each limit of update arrives in its control file.
func TestUpdateReachesTheKernel(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("run", "-d", "c")
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if host.Version() != 1 {
		t.Skip("the names of the control files are version 1's; TestOtherMemorySettings and the plans of package cgroup have version 2's")
	}
	tried := 0
	for _, c := range [...]struct{ flag, value, file, want string }{
		{"--cpu-period", "50000", "cpu/cpu.cfs_period_us", "50000"}, {"--cpu-quota", "25000", "cpu/cpu.cfs_quota_us", "25000"},
		{"--cpu-burst", "5000", "cpu/cpu.cfs_burst_us", "5000"}, {"--cpu-share", "512", "cpu/cpu.shares", "512"},
		{"--cpu-idle", "1", "cpu/cpu.idle", "1"}, {"--cpuset-cpus", "0", "cpuset/cpuset.cpus", "0"},
		{"--cpuset-mems", "0", "cpuset/cpuset.mems", "0"}, {"--memory", "64m", "memory/memory.limit_in_bytes", "67108864"},
		{"--memory-reservation", "32m", "memory/memory.soft_limit_in_bytes", "33554432"},
		{"--memory-swap", "128m", "memory/memory.memsw.limit_in_bytes", "134217728"}, {"--pids-limit", "77", "pids/pids.max", "77"},
	} {
		controller, name, _ := strings.Cut(c.file, "/")
		dir := filepath.Join("/sys/fs/cgroup", controller, b.spec.Linux.CgroupsPath)
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Log("this kernel has no", c.file)
			continue
		}
		b.ok("update", c.flag, c.value, "c")
		data, err := os.ReadFile(filepath.Join(dir, name))
		if got := strings.TrimSpace(string(data)); err != nil || got != c.want {
			t.Errorf("%s %s: %s has %q, %v", c.flag, c.value, c.file, got, err)
		}
		tried++
	}
	if tried < 5 {
		t.Error("only", tried, "limits were tried")
	}
	if out := b.ok("--debug", "update", "--kernel-memory", "1m", "--kernel-memory-tcp", "1m", "c"); !strings.Contains(out, "ignored") {
		t.Error(out)
	}
	b.fails("no Intel RDT class", "update", "--mem-bw-schema", "MB:0=50", "c")
	cmd := b.command("update", "-r", "-", "c")
	cmd.Stdin = strings.NewReader(`{"pids":{"limit":66},"memory":{"limit":50331648,"swap":-1}}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Error(err, string(out))
	}
	for file, want := range map[string]string{"pids/%/pids.max": "66", "memory/%/memory.limit_in_bytes": "50331648"} {
		data, err := os.ReadFile("/sys/fs/cgroup/" + strings.Replace(file, "%", b.spec.Linux.CgroupsPath, 1))
		if got := strings.TrimSpace(string(data)); err != nil || got != want {
			t.Error(file, got, err)
		}
	}
}
