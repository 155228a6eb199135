package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// What those who drive runc rely on, word by word: tried side by side with runc 1.1 and 1.4.
func TestSaysWhatRuncSays(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("create", "c")
	b.ok("kill", "c", "0") // asks whether it is there
	b.ok("start", "c")
	b.fails("cannot start an already running container", "start", "c")
	b.fails("container not paused", "resume", "c")
	b.ok("pause", "c")
	b.fails("cannot start a container in the paused state", "start", "c")
	b.fails("container not running", "pause", "c")
	b.fails("exec failed: cannot exec in a paused container (use --ignore-paused to override)", "exec", "c", "true")
	b.ok("kill", "c", "KILL") // and v1's frozen processes must be thawed for it
	b.until("stopped")
	b.fails("container not paused", "resume", "c")
	b.fails("container not running", "kill", "c", "0")
	b.fails("container not running", "pause", "c")
	b.fails("container not running", "update", "--pids-limit", "9", "c")
	b.fails("container with id c is not running", "events", "--stats", "c")
	b.fails("cannot start a container that has stopped", "start", "c")
	b.fails("exec failed: cannot exec in a stopped container", "exec", "c", "true")
	b.ok("kill", "--all", "c", "KILL")
	var st map[string]any
	if err := json.Unmarshal([]byte(b.ok("state", "c")), &st); err != nil || st["pid"] != 0. || st["owner"] != "root" {
		t.Error(st, err)
	}
	if out := b.ok("ps", "-f", "json", "c"); out != "[]\n" {
		t.Error(out)
	}
	b.ok("delete", "c")
	for _, args := range [][]string{{"state", "c"}, {"kill", "c"}, {"delete", "c"}, {"start", "c"}, {"ps", "c"}, {"exec", "c", "true"},
		{"pause", "c"}, {"resume", "c"}, {"update", "c"}, {"events", "c"}, {"checkpoint", "c"}} {
		b.fails("container does not exist", args...)
	}
	if out := b.ok("features"); !strings.Contains(out, `"org.opencontainers.runc.checkpoint.enabled": "true"`) {
		t.Error(out)
	}
}

func TestFlagsAfterTheID(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("run", "c", "-d")
	if out, code := b.run("exec", "c", "echo", "-d", "--env", "x"); out != "-d --env x\n" || code != 0 {
		t.Error("exec took the program's flags:", out, code)
	}
	if out := b.ok("ps", "c", "-o", "pid"); !strings.Contains(out, "PID") {
		t.Error(out)
	}
	b.fails("more arguments", "kill", "--", "c", "KILL", "--all")
	b.fails("not defined", "delete", "c", "--nonsense")
	b.ok("kill", "c", "KILL", "--all")
	b.until("stopped")
	b.ok("delete", "c", "--force")
	for _, verb := range verbs() {
		for _, args := range [][]string{{"help", verb.name}, {verb.name, "--help"}} {
			if out := b.ok(args...); !strings.Contains(out, "usage: berth-runtime "+verb.name) {
				t.Errorf("%q: %s", args, out)
			}
		}
	}
}

// Without a pid namespace of its own the end of the first process is nobody else's: a SIGKILL is for all, as with runc since 1.2.
func TestKillWithoutAPidNamespace(t *testing.T) {
	b := newBundle(t, "sh", "-c", "sleep 1000 & sleep 1000 & exec sleep 1000")
	var list []specs.LinuxNamespace
	for _, n := range b.spec.Linux.Namespaces {
		if n.Type != specs.PIDNamespace {
			list = append(list, n)
		}
	}
	b.spec.Linux.Namespaces = list
	b.write()
	b.ok("run", "-d", "c")
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	pids := func() int {
		list, err := host.Open(b.spec.Linux.CgroupsPath).Pids()
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	await := func(want int) {
		t.Helper()
		for end := time.Now().Add(2 * time.Minute); pids() != want; {
			if time.Now().After(end) {
				t.Fatalf("%d processes, not %d", pids(), want)
			}
		}
	}
	await(3)
	b.ok("kill", "c", "KILL")
	await(0)
	b.until("stopped")
	b.ok("delete", "c")
}

// Most programs take the first of two variables with one name, and runc gives them the last one.
func TestEnvironmentHasEachNameOnce(t *testing.T) {
	b := newBundle(t, "sh", "-c", "env; sleep 1000")
	b.spec.Process.Env = []string{"PATH=/nowhere", "A=1", "PATH=/bin", "A=2", "HOME="}
	b.spec.Process.Args = []string{"env"}
	b.write()
	if out := b.ok("run", "c"); out != "PATH=/bin\nA=2\nHOME=/\n" {
		t.Error(out)
	}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.write()
	b.ok("run", "-d", "c")
	if out := b.ok("exec", "-e", "A=3", "-e", "HOME=/x", "c", "env"); out != "PATH=/bin\nA=3\nHOME=/x\n" {
		t.Error(out)
	}
	b.spec.Linux.CgroupsPath += "-other"
	for _, wrong := range []string{"A", "", "=x"} {
		b.fails("invalid environment variable", "exec", "-e", wrong, "c", "true")
		b.spec.Process.Env = []string{"PATH=/bin", wrong}
		b.write()
		b.fails("invalid environment variable", "create", "other")
	}
}

// A poststart hook that fails is an error since runtime-spec 1.3, and ends the container (runtime.md, "Lifecycle", step 9).
func TestPoststartHookFails(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/true"}, {Path: "/bin/false"}}}
	b.write()
	b.fails("poststart hook 1", "run", "-d", "c")
	b.fails("does not exist", "state", "c")
	b.ok("create", "c")
	b.fails("poststart hook 1", "start", "c")
	if s := b.status(); s != "stopped" {
		t.Error(s)
	}
	b.ok("delete", "c")
}

// What the kernel would pass over is refused.
func TestLimitsThatCannotBeKept(t *testing.T) {
	b := newBundle(t, "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2> /dev/null || true")
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	none := specs.LinuxThrottleDevice{Rate: 1000}
	none.Major, none.Minor = 999, 3
	limits := map[string]*specs.LinuxResources{
		"read_bps_device": {BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{none}}},
	}
	if host.Version() == 1 {
		limits["cpu shares 1"] = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(1))}}
	} else {
		limits["io.max"] = limits["read_bps_device"]
		delete(limits, "read_bps_device")
	}
	for want, r := range limits {
		b.spec.Linux.Resources = r
		b.write()
		b.fails(want, "create", "c")
	}
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(0))}}
	b.spec.Process.Args = []string{"cat", "/sys/fs/cgroup/pids/pids.max"}
	if host.Version() == 2 {
		b.spec.Process.Args[1] = "/sys/fs/cgroup/pids.max"
	}
	b.write()
	if out := b.ok("run", "c"); out != "1\n" {
		t.Error(out)
	}
}

// A tmpfs becomes read-only when what is to be on it is there: other mounts, devices, the working directory.
func TestReadOnlyTmpfsHoldsMounts(t *testing.T) {
	b := newBundle(t, "sh", "-c", "for d in /x /dev /dev/deep /y; do echo > $d/z || echo $d; done 2> /dev/null; cat /x/y/f /dev/deep/f; ls /dev/mine; pwd")
	if err := os.Mkdir(b.dir+"/bound", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.dir+"/bound/f", []byte("f"), 0o644); err != nil {
		t.Fatal(err)
	}
	bound := specs.Mount{Type: "bind", Source: b.dir + "/bound", Options: []string{"bind"}}
	at := func(dest string) specs.Mount { bound.Destination = dest; return bound }
	for i := range b.spec.Mounts {
		if b.spec.Mounts[i].Destination == "/dev" {
			b.spec.Mounts[i].Options = append(b.spec.Mounts[i].Options, "ro")
		}
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/x", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}}, at("/x/y"), at("/dev/deep"),
		specs.Mount{Destination: "/y", Type: "tmpfs", Source: "tmpfs", Options: []string{"ro"}},
		specs.Mount{Destination: "/y", Type: "none", Options: []string{"remount", "rw"}})
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3}}
	b.spec.Process.Cwd = "/x/made"
	b.spec.Root.Readonly = false
	b.write()
	if out := b.ok("run", "c"); out != "/x\n/dev\nff/dev/mine\n/x/made\n" {
		t.Error(out)
	}
}
