package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// onSystemd is a bundle whose group systemd makes: berth-test.slice/NAME-c.scope. The guest of test/guest has such a systemd.
func onSystemd(t *testing.T, args ...string) (b *bundle, unit string) {
	t.Helper()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd does not run this machine")
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup version 2")
	}
	b = newBundle(t, args...)
	name := strings.ToLower(t.Name())
	b.spec.Linux.CgroupsPath = "berth-test.slice:" + name + ":c"
	b.write()
	unit = name + "-c.scope"
	t.Cleanup(func() {
		b.run("delete", "--force", "c")
		_ = exec.Command("systemctl", "stop", unit, "berth-test.slice").Run()
	})
	return b, unit
}

func scopeDir(unit string) string { return "/sys/fs/cgroup/berth.slice/berth-test.slice/" + unit }

// wantFiles compares control files of the scope.
func wantFiles(t *testing.T, unit string, files map[string]string) {
	t.Helper()
	for name, want := range files {
		data, err := os.ReadFile(scopeDir(unit) + "/" + name)
		if got := strings.TrimSpace(string(data)); err != nil || got != want {
			t.Errorf("%s of %s: %q, %v; want %q", name, unit, got, err, want)
		}
	}
}

// wantProperties compares what systemd says of the scope.
func wantProperties(t *testing.T, unit string, properties map[string]string) {
	t.Helper()
	out, err := exec.Command("systemctl", "show", unit).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		got[name] = value
	}
	for name, want := range properties {
		if got[name] != want {
			t.Errorf("%s of %s: %q, want %q", name, unit, got[name], want)
		}
	}
}

// wantGone waits until systemd knows nothing of the scope any more, and looks that nothing is left.
func wantGone(t *testing.T, b *bundle, unit string) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		out, err := exec.Command("systemctl", "show", "-p", "LoadState,ActiveState", unit).CombinedOutput()
		if err == nil && strings.Contains(string(out), "LoadState=not-found") && strings.Contains(string(out), "ActiveState=inactive") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the unit is still there: %s, %v", out, err)
		}
	}
	if _, err := os.Stat(scopeDir(unit)); !os.IsNotExist(err) {
		t.Errorf("its group is still there: %v", err)
	}
	if left, err := os.ReadDir(b.root); err != nil || len(left) > 0 {
		t.Error("left behind:", left, err)
	}
}

func (b *bundle) pid() int {
	b.t.Helper()
	var st specs.State
	if err := json.Unmarshal([]byte(b.ok("state", "c")), &st); err != nil {
		b.t.Fatal(err)
	}
	return st.Pid
}

// The whole life of a container whose group a real systemd makes.
func TestScopeOfSystemd(t *testing.T) {
	b, unit := onSystemd(t, "sleep", "1000")
	memory, swap, pids, shares, quota, period := int64(64<<20), int64(96<<20), int64(50), uint64(512), int64(50_000), uint64(100_000)
	b.spec.Linux.Resources = &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory, Swap: &swap}, Pids: &specs.LinuxPids{Limit: &pids},
		CPU:     &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0"},
		Unified: map[string]string{"memory.high": "62914560"},
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
	}
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/log-of-the-kernel", Type: "c", Major: 1, Minor: 11}}
	b.write()
	b.ok("--systemd-cgroup", "create", "c")
	if s := b.status(); s != "created" {
		t.Error(s)
	}
	b.ok("start", "c")
	pid := b.pid()
	properties := map[string]string{"ActiveState": "active", "SubState": "running", "Slice": "berth-test.slice", "Delegate": "yes",
		"ControlGroup": "/berth.slice/berth-test.slice/" + unit, "MemoryMax": "67108864", "MemorySwapMax": "33554432", "MemoryHigh": "62914560",
		"TasksMax": "50", "CPUQuotaPerSecUSec": "500ms", "CPUQuotaPeriodUSec": "100ms", "AllowedCPUs": "0"}
	files := map[string]string{"memory.max": "67108864", "memory.swap.max": "33554432", "memory.high": "62914560", "pids.max": "50",
		"cpu.max": "50000 100000", "cpuset.cpus": "0", "cgroup.procs": strconv.Itoa(pid)}
	wantProperties(t, unit, properties)
	wantFiles(t, unit, files)
	if data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup"); err != nil || string(data) != "0::/berth.slice/berth-test.slice/"+unit+"\n" {
		t.Errorf("the container is in %q, %v", data, err)
	}
	devices := func(when string) {
		t.Helper()
		if out, code := b.run("exec", "c", "cat", "/dev/log-of-the-kernel"); code == 0 || !strings.Contains(out, "Operation not permitted") {
			t.Errorf("%s, a device that is not allowed: exit code %d: %.200s", when, code, out)
		}
		if out := b.ok("exec", "c", "sh", "-c", "echo x >/dev/null && echo opened"); out != "opened\n" {
			t.Errorf("%s, a device that is allowed: %s", when, out)
		}
	}
	devices("at first")
	// systemd sets up what is its own once more; what is delegated stays.
	if out, err := exec.Command("systemctl", "daemon-reload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	devices("after daemon-reload")
	wantFiles(t, unit, files)

	b.ok("--systemd-cgroup", "update", "--memory", "128m", "--memory-swap", "192m", "--pids-limit", "77", "--cpu-quota", "25000", "c")
	for name, value := range map[string]string{"MemoryMax": "134217728", "MemorySwapMax": "67108864", "TasksMax": "77", "CPUQuotaPerSecUSec": "250ms"} {
		properties[name] = value
	}
	for name, value := range map[string]string{"memory.max": "134217728", "memory.swap.max": "67108864", "pids.max": "77", "cpu.max": "25000 100000"} {
		files[name] = value
	}
	wantProperties(t, unit, properties)
	wantFiles(t, unit, files)
	// What systemd changes of its own accord is seen, too.
	if out, err := exec.Command("systemctl", "set-property", "--runtime", unit, "TasksMax=66").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wantFiles(t, unit, map[string]string{"pids.max": "66", "memory.max": "134217728"})

	b.ok("pause", "c")
	if s := b.status(); s != "paused" {
		t.Error(s)
	}
	wantFiles(t, unit, map[string]string{"cgroup.freeze": "1"})
	b.ok("resume", "c")
	if s := b.status(); s != "running" {
		t.Error(s)
	}
	if out := b.ok("exec", "c", "sh", "-c", "echo $PPID"); out == "" {
		t.Error("exec said nothing")
	}
	b.ok("exec", "-d", "c", "sleep", "1001")
	data, err := os.ReadFile(scopeDir(unit) + "/cgroup.procs")
	if err != nil || len(strings.Fields(string(data))) != 2 {
		t.Errorf("processes in the scope: %q, %v", data, err)
	}
	b.ok("kill", "c", "KILL")
	b.until("stopped")
	b.ok("delete", "c")
	wantGone(t, b, unit)
}

func TestScopeIsEndedByForce(t *testing.T) {
	b, unit := onSystemd(t, "sleep", "1000")
	b.ok("--systemd-cgroup", "run", "-d", "c")
	wantProperties(t, unit, map[string]string{"ActiveState": "active"})
	b.ok("delete", "--force", "c")
	wantGone(t, b, unit)
	// The name is free again; and a container in the foreground takes its scope along.
	b.spec.Process.Args = []string{"sh", "-c", "exit 7"}
	b.write()
	if out, code := b.run("--systemd-cgroup", "run", "c"); code != 7 {
		t.Errorf("exit code %d: %s", code, out)
	}
	wantGone(t, b, unit)
}

func TestScopeOfAStartThatFails(t *testing.T) {
	b, unit := onSystemd(t, "nothing")
	b.fails("executable file not found", "--systemd-cgroup", "run", "c")
	wantGone(t, b, unit)
	b.spec.Process.Args = []string{"true"}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/nowhere", Options: []string{"bind"}})
	b.write()
	b.fails("/nowhere", "--systemd-cgroup", "run", "c")
	wantGone(t, b, unit)
	memory := int64(-7)
	b.spec.Mounts = nil
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}
	b.write()
	b.fails("memory limit", "--systemd-cgroup", "run", "c")
	wantGone(t, b, unit)
}

// A unit of that name that is somebody else's is left alone.
func TestScopeOfSomebodyElse(t *testing.T) {
	b, unit := onSystemd(t, "sleep", "1000")
	b.ok("--systemd-cgroup", "run", "-d", "c")
	other := b.root + "-other"
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(other)
	b.fails(unit, "--root", other, "--systemd-cgroup", "run", "-d", "d")
	if left, err := os.ReadDir(other); err != nil || len(left) > 0 {
		t.Error("left behind:", left, err)
	}
	wantProperties(t, unit, map[string]string{"ActiveState": "active"})
	if s := b.status(); s != "running" {
		t.Error("the first container is", s)
	}
	b.ok("delete", "--force", "c")
	wantGone(t, b, unit)
}

// A create that is killed, wherever it was, leaves no unit that "delete --force" does not take away.
func TestScopeOfACreateThatIsKilled(t *testing.T) {
	b, unit := onSystemd(t, "sleep", "999")
	for i := range 6 {
		cmd := b.command("--systemd-cgroup", "create", "c")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * 8 * time.Millisecond) // the moment is the subject
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.ok("delete", "--force", "c")
		wantGone(t, b, unit)
		if left, _ := filepath.Glob(b.root + "/*"); len(left) > 0 {
			t.Fatal(left)
		}
	}
}
