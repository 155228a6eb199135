package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// never is a step that is not reached.
const never = 1 << 30

// stepped runs a command under ptrace(2) and kills it when it has made its nth system call, or with children when the processes that it
// forks have made theirs: then these are killed. It tells how many there were.
func (b *bundle) stepped(children bool, n int, args ...string) (steps int) {
	b.t.Helper()
	result := make(chan int)
	failure := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: what is still traced when the thread ends goes on
		defer close(result)
		steps, err := b.trace(children, n, args)
		if err != nil {
			failure <- err
		}
		result <- steps
	}()
	steps = <-result
	<-result
	select {
	case err := <-failure:
		b.t.Fatalf("%q: %v", args, err)
	default:
	}
	return steps
}

func (b *bundle) trace(children bool, n int, args []string) (steps int, err error) {
	cmd := b.command(args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	first := cmd.Process.Pid
	defer func() { _ = cmd.Process.Release() }() // it is reaped below
	options := unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE
	if children {
		options |= unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK
	}
	victims, known := map[int]bool{first: !children}, false
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return steps, os.NewSyscallError("wait4", err)
		}
		if !ws.Stopped() {
			if pid == first {
				return steps, nil
			}
			continue
		}
		if !known {
			known = true
			if err := unix.PtraceSetOptions(first, options); err != nil {
				return steps, errors.Join(os.NewSyscallError("ptrace", err), unix.Kill(first, unix.SIGKILL))
			}
		}
		pass := 0
		switch sig := ws.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			if !victims[pid] {
				break
			}
			if steps++; steps == n {
				_ = unix.Kill(pid, unix.SIGKILL)
				continue
			}
		case ws.TrapCause() == unix.PTRACE_EVENT_FORK || ws.TrapCause() == unix.PTRACE_EVENT_VFORK:
			if made, err := unix.PtraceGetEventMsg(pid); err == nil {
				victims[int(made)] = true
			}
		case ws.TrapCause() == unix.PTRACE_EVENT_CLONE: // a thread
			if made, err := unix.PtraceGetEventMsg(pid); err == nil {
				victims[int(made)] = victims[pid]
			}
		case sig == unix.SIGTRAP || sig == unix.SIGSTOP:
		default:
			pass = int(sig)
		}
		if err := unix.PtraceSyscall(pid, pass); err != nil && !errors.Is(err, unix.ESRCH) {
			return steps, os.NewSyscallError("ptrace", err)
		}
	}
}

// cleanAfter deletes the container by force and looks that nothing is left of it.
func (b *bundle) cleanAfter(what string, step, mounts int) {
	b.t.Helper()
	b.ok("delete", "--force", "c")
	if left, err := os.ReadDir(b.root); err != nil || len(left) > 0 {
		b.t.Fatalf("%s killed at step %d: %v, %v are left", what, step, left, err)
	}
	if n := b.mounted(); n != mounts {
		b.t.Fatalf("%s killed at step %d: %d mounts are left", what, step, n-mounts)
	}
	for end := time.Now().Add(2 * time.Minute); len(b.processes()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("%s killed at step %d: these go on: %q", what, step, b.processes())
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		if dirs, _ := filepath.Glob(pattern + b.spec.Linux.CgroupsPath); len(dirs) > 0 {
			b.t.Fatalf("%s killed at step %d: %q are left", what, step, dirs)
		}
	}
}

// mounted is how many mounts of the host's are in the bundle.
func (b *bundle) mounted() int {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Count(string(data), b.dir)
}

// processes are the container's, and the commands about it.
func (b *bundle) processes() (list []string) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, dir := range dirs {
		// Until it has become its program the container's process has the command line of the command.
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		group, _ := os.ReadFile(dir + "/cgroup")
		if strings.Contains(string(cmdline), b.root) || strings.Contains(string(group), b.spec.Linux.CgroupsPath) {
			list = append(list, dir+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return list
}

// killedAtEachStep kills commands at their system calls, some of them, and looks that nothing is left. BERTH_SOAK is at how many.
func killedAtEachStep(t *testing.T, b *bundle, commands ...killed) {
	mounts := b.mounted()
	for _, c := range commands {
		prepare := func() {
			if c.before != nil {
				if out, code := b.run(c.before...); code != 0 {
					t.Fatal(out)
				}
			}
		}
		prepare()
		all := b.stepped(c.children, never, c.args...)
		b.cleanAfter(c.what, never, mounts)
		if all < 20 {
			t.Fatalf("%s: %d steps", c.what, all)
		}
		some := 15
		if c.before != nil && !c.often {
			some = 4
		}
		if rounds, err := strconv.Atoi(os.Getenv("BERTH_SOAK")); err == nil && rounds > 0 {
			some = rounds
		}
		pace := max(1, all/some)
		t.Logf("%s: every %d. of %d steps", c.what, pace, all)
		for n := 1 + pace/2; n <= all; n += pace {
			prepare()
			b.stepped(c.children, n, c.args...)
			b.cleanAfter(c.what, n, mounts)
		}
	}
}

// killed is a command that is killed, or whose children are.
type killed struct {
	what     string
	children bool
	before   []string // what comes first, and is not killed
	often    bool     // also when it has something before it
	args     []string
}

func killedCreates() []killed {
	return []killed{{what: "create", args: []string{"create", "c"}}, {what: "the child of create", children: true, args: []string{"create", "c"}}}
}

// Whichever of its system calls a create, a start or a delete is killed at, and whichever its child: what is left can be deleted, and then
// nothing is.
func TestKilledAtEachStep(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	killedAtEachStep(t, b, append(killedCreates(), killed{what: "start", often: true, before: []string{"create", "c"}, args: []string{"start", "c"}},
		killed{what: "delete", often: true, before: []string{"run", "-d", "c"}, args: []string{"delete", "--force", "c"}})...)
}

// The same of what is done to a container that runs: it can still be deleted, and all that was begun in it goes with it.
func TestKilledAtEachStepOfChanges(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	runs := []string{"run", "-d", "c"}
	killedAtEachStep(t, b, killed{what: "exec", before: runs, args: []string{"exec", "-d", "c", "sleep", "999"}},
		killed{what: "the child of exec", children: true, before: runs, args: []string{"exec", "-d", "c", "sleep", "999"}},
		killed{what: "pause", before: runs, args: []string{"pause", "c"}},
		killed{what: "update", before: runs, args: []string{"update", "--memory", "64m", "--pids-limit", "9", "c"}})
}

// The same where there are more processes on the way: with a user namespace, and with hooks in a pid namespace that is joined.
func TestKilledAtEachStepOfSeveral(t *testing.T) {
	t.Run("userns", func(t *testing.T) {
		b := newBundle(t, "sleep", "999")
		b.remapped()
		killedAtEachStep(t, b, killedCreates()...)
	})
	t.Run("joined", func(t *testing.T) {
		other := exec.Command("sleep", "100000")
		other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		b := newBundle(t, "sleep", "999")
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
		for i := range b.spec.Linux.Namespaces {
			if n := &b.spec.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
				n.Path = fmt.Sprintf("/proc/%d/ns/pid", other.Process.Pid)
			}
		}
		b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
		b.write()
		killedAtEachStep(t, b, killedCreates()...)
	})
}
