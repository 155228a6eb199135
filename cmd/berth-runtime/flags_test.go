package main

import (
	"debug/elf"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container has a session keyring of its own, and with --no-new-keyring its caller's.
func TestNoNewKeyring(t *testing.T) {
	b := newBundle(t, "/bin/keys", "session-keyring")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if f, err := elf.Open("/proc/self/exe"); err == nil && slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("built with cgo, this program does not run in the container")
	}
	if err := os.WriteFile(b.dir+"/rootfs/bin/keys", data, 0o755); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // and never unlocked: its session is another one from here on
	name := fmt.Sprintf("berth-test-%d", os.Getpid())
	own, err := unix.KeyctlJoinSessionKeyring(name)
	if err != nil {
		t.Skip("there are no keyrings here: ", err)
	}
	for _, args := range [][]string{{"run", "c"}, {"run", "--no-new-keyring", "c"}} {
		out, err := b.command(args...).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), " <nil>\n") {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		if same := string(out) == fmt.Sprintln(own, nil); same != slices.Contains(args, "--no-new-keyring") {
			t.Errorf("%q: the caller has keyring %d, the container %s", args, own, out)
		}
	}
}

// Nothing is executed in a paused container, unless it is said to wait there.
func TestExecIgnoresThatItIsPaused(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	b.ok("run", "--detach", "c")
	b.ok("pause", "c")
	b.fails("cannot exec in a paused container", "exec", "c", "true")
	cmd := b.command("exec", "--ignore-paused", "c", "sh", "-c", "exit 7")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if s := b.status(); s != "paused" {
		t.Error(s)
	}
	b.ok("resume", "c")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		t.Error(code)
	}
}

// What the flags of an exec say of a process is what it is.
func TestExecFlags(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	b.spec.Process.NoNewPrivileges = false
	b.write()
	b.ok("run", "--detach", "c")
	status := func(args ...string) string {
		return b.ok(append(append([]string{"exec"}, args...), "c", "cat", "/proc/self/status")...)
	}
	if out := status("--no-new-privs"); !strings.Contains(out, "NoNewPrivs:\t1\n") {
		t.Error(out)
	}
	if out := status(); !strings.Contains(out, "NoNewPrivs:\t0\n") {
		t.Error(out)
	}
	if out := status("-g", "7", "--additional-gids", "8", "-u", "5:6"); !strings.Contains(out, "Groups:\t7 8") || !strings.Contains(out, "Uid:\t5\t5") ||
		!strings.Contains(out, "Gid:\t6\t6") {
		t.Error(out)
	}
}

// Scheduler and I/O priority are what the kernel says of a container's process, and of one that is executed in it.
func TestSchedulerAndPriority(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
	b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	b.write()
	b.ok("run", "--detach", "c")
	pids := []int{b.pid()}
	pidFile := t.TempDir() + "/pid"
	b.ok("exec", "-d", "--pid-file", pidFile, "c", "sleep", "999")
	data, err := os.ReadFile(pidFile)
	var pid int
	if err == nil {
		_, err = fmt.Sscan(string(data), &pid)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(pids, pid) {
		attr, err := unix.SchedGetAttr(pid, 0)
		if err != nil || attr.Policy != unix.SCHED_BATCH || attr.Nice != 3 {
			t.Errorf("%+v, %v", attr, err)
		}
		const whoProcess, bestEffort, classShift = 1, 2, 13
		prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, whoProcess, uintptr(pid), 0)
		if errno != 0 || prio != bestEffort<<classShift|6 {
			t.Errorf("I/O priority %#x, %v", prio, errno)
		}
	}
}
