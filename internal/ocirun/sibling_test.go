package ocirun

import (
	"bufio"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestMain lets the test's own program be one that runs in a container.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "watch-newcomers" {
		watchNewcomers()
		return
	}
	os.Exit(m.Run())
}

// watchNewcomers looks into every process that appears in its pid namespace, as often as it can, and tells what it held.
func watchNewcomers() {
	fmt.Println("watching")
	seen := map[string]bool{}
	tell := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); !seen[line] {
			seen[line] = true
			fmt.Println(line)
		}
	}
	// Numbers are given out one after the other.
	for next := os.Getpid() + 1; ; {
		for pid := next; pid < next+3; pid++ {
			dir := "/proc/" + strconv.Itoa(pid)
			fds, err := os.ReadDir(dir + "/fd")
			if err != nil {
				continue
			}
			next = max(next, pid)
			status, _ := os.ReadFile(dir + "/status")
			if !strings.Contains(string(status), "\nTgid:\t"+strconv.Itoa(pid)+"\n") {
				continue // a thread of this program
			}
			if !strings.HasPrefix(string(status), "Name:\ttrue\n") {
				tell("looked")
			}
			for line := range strings.Lines(string(status)) {
				if text, ok := strings.CutPrefix(line, "CapPrm:\t"); ok {
					tell("rights %s", strings.TrimSpace(text))
				}
			}
			for _, fd := range fds {
				if link, err := os.Readlink(dir + "/fd/" + fd.Name()); err == nil {
					if kind, _, is := strings.Cut(link, ":["); is {
						link = kind
					}
					tell("holds %s", link)
				}
			}
		}
	}
}

// A container that may trace finds nothing of the host's in a process that is executed in it, however often it looks.
func TestExecShowsNothingToATracer(t *testing.T) {
	showsNothing(t, func(p *Process, s *specs.Spec, g *cgroup.Group, i int, seccomp []byte) {
		proc := *s.Process
		proc.Args = []string{"true"}
		proc.NoNewPrivileges = i%3 == 0
		if _, _, err := execIn(t, p, ExecOptions{Process: &proc, Cgroup: g, Seccomp: seccomp}); err != nil {
			t.Fatal(err)
		}
	})
}

// Nor in the first process of another container that joins its pid namespace.
func TestStartInAPidNamespaceShowsNothingToATracer(t *testing.T) {
	rootfs := newRootfs(t)
	showsNothing(t, func(p *Process, _ *specs.Spec, g *cgroup.Group, i int, seccomp []byte) {
		s := newSpec(rootfs, "true")
		for k := range s.Linux.Namespaces {
			if n := &s.Linux.Namespaces[k]; n.Type == specs.PIDNamespace {
				n.Path = fmt.Sprintf("/proc/%d/ns/pid", p.Pid)
			}
		}
		s.Process.NoNewPrivileges = i%3 == 0
		o := StartOptions{Spec: s, Seccomp: seccomp, Hold: i%5 == 0}
		if i%4 < 2 {
			o.Cgroup = g
		}
		if i%7 == 0 {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}}
		}
		x, err := Start(context.Background(), o)
		if err == nil && o.Hold {
			err = x.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
		if ws, err := linux.WaitPidfd(x.Pidfd); err != nil || ws.Code != 0 {
			t.Fatal(ws, err)
		}
		_ = x.Close()
		if n := children(t); n != 1 {
			t.Fatalf("%d children beside the first container, of %d", n-1, i)
		}
	})
}

// showsNothing calls run 200 times beside a container that looks into whatever appears in its pid namespace.
func showsNothing(t *testing.T, run func(p *Process, s *specs.Spec, g *cgroup.Group, i int, seccomp []byte)) {
	if f, err := elf.Open("/proc/self/exe"); err == nil && slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("built with cgo, this program does not run in the container")
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	caps := append([]string{"CAP_SYS_PTRACE"}, dockerCaps...)
	g := testGroup(t, nil)
	p, s := sleeper(t, func(o *StartOptions) {
		if err := os.WriteFile(o.Spec.Root.Path+"/bin/watch", self, 0o755); err != nil {
			t.Fatal(err)
		}
		o.Spec.Process.Args = []string{"/bin/watch", "watch-newcomers"}
		o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		o.Stdout, o.Stderr, o.Cgroup = w, w, g
	})
	_ = w.Close()
	lines := bufio.NewReader(r)
	if line, err := lines.ReadString('\n'); line != "watching\n" {
		t.Fatal(line, err)
	}
	secret, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	errno := uint(1)
	filter := testFilter(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &errno}}})
	for i := range 200 {
		var seccomp []byte
		if i%2 == 0 {
			seccomp = filter
		}
		run(p, s, g, i, seccomp)
	}
	if err := linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	all, _ := io.ReadAll(lines)
	seen := strings.Split(strings.TrimSpace(string(all)), "\n")
	if !slices.Contains(seen, "looked") {
		t.Skip("the machine was too busy: the container saw no process on its way")
	}
	for _, line := range seen {
		what, value, _ := strings.Cut(line, " ")
		switch {
		case what == "looked":
		case what == "rights" && (value == "00000000a80c25fb" || value == "00000000a80425fb"): // Docker's, with CAP_SYS_PTRACE or not
		case what == "holds" && (value == "pipe" || value == "/dev/null" || strings.HasPrefix(value, "/memfd:shield")):
		default:
			t.Error("the container saw", line)
		}
	}
}

// A kernel that cannot be told the pid namespace of a procfs is asked by a process within, which has nothing but that.
func TestProcBegunWithin(t *testing.T) {
	first, _ := sleeper(t, nil)
	pidns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", first.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer pidns.Close()
	before := children(t)
	fs, err := procBegun(pidns)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	tree, err := fs.Mount(unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	fd, err := unix.Openat(int(tree.Fd()), "1/comm", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "comm")
	defer f.Close()
	if comm, err := io.ReadAll(f); err != nil || string(comm) != "sleep\n" {
		t.Errorf("%q %v", comm, err)
	}
	if err := verifyProc(tree); err != nil {
		t.Error(err)
	}
	if after := children(t); after != before {
		t.Errorf("%d processes are left", after-before)
	}
}

// What a container with one process at most may have, it has also in the pid namespace of another.
func TestStartIntoTheLastPlaceOfAGroup(t *testing.T) {
	needRoot(t)
	first, _ := sleeper(t, nil)
	limit := int64(1)
	g := testGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
	for _, userns := range []bool{false, true} {
		out := sh(t, "exec cat /proc/self/cgroup /proc/1/comm /proc/self/mountinfo", func(o *StartOptions) {
			o.Cgroup = g
			if userns {
				remapped(t)(o)
			}
			for k := range o.Spec.Linux.Namespaces {
				if n := &o.Spec.Linux.Namespaces[k]; n.Type == specs.PIDNamespace {
					n.Path = fmt.Sprintf("/proc/%d/ns/pid", first.Pid)
				}
			}
		})
		has(t, out, ":"+g.Path()+"\n", "\nsleep\n", " /proc rw,nosuid")
	}
}

func testFilter(t testing.TB, profile *specs.LinuxSeccomp) []byte {
	t.Helper()
	f, err := seccomp.Compile(profile)
	if err != nil {
		t.Fatal(err)
	}
	return f.Prog
}

// A group with room for one more process has room for an exec.
func TestExecIntoTheLastPlaceOfAGroup(t *testing.T) {
	needRoot(t)
	limit := int64(2)
	g := testGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
	p, s := sleeper(t, func(o *StartOptions) { o.Cgroup = g })
	proc := *s.Process
	proc.Args = []string{"cat", "/proc/self/cgroup"}
	for _, user := range []uint32{0, 1000} {
		proc.User.UID = user
		out, ws, err := execIn(t, p, ExecOptions{Process: &proc, Cgroup: g})
		if err != nil || ws.Code != 0 {
			t.Fatal(out, ws, err)
		}
		has(t, out, ":"+g.Path()+"\n")
	}
}

// What is inherited over a fork, and what is not, is what was asked for.
func TestExecAttributesSurviveTheSecondChild(t *testing.T) {
	p, s := sleeper(t, nil)
	proc := *s.Process
	adj := 321
	proc.OOMScoreAdj = &adj
	proc.User = specs.User{UID: 4321, GID: 4321}
	proc.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 1, Hard: 7}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
	proc.Args = []string{"cat", "/proc/self/limits", "/proc/self/oom_score_adj", "/proc/self/sched", "/proc/self/stat"}
	proc.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	out, ws, err := execIn(t, p, ExecOptions{Process: &proc})
	if err != nil {
		t.Fatal(out, ws, err)
	}
	flat := strings.Join(strings.Fields(out), " ")
	has(t, flat, "Max processes 1 7 processes", "Max core file size 0 0 bytes", " 321 ")
	stat := strings.Fields(out[strings.LastIndexByte(out, ')')+1:])
	const pgrp, session, nice, policy = 2, 3, 16, 38
	if stat[nice] != "5" || stat[policy] != "3" || stat[pgrp] != stat[session] || stat[session] == "0" {
		t.Error(stat)
	}
}

// A process on its way whose container is killed is nobody's orphan.
func TestExecWhileTheContainerIsKilled(t *testing.T) {
	needRoot(t)
	g := testGroup(t, nil)
	for range 20 {
		p, s := sleeper(t, func(o *StartOptions) { o.Cgroup = g })
		proc := *s.Process
		proc.Args = []string{"sleep", "1000"}
		done := make(chan error, 1)
		go func() {
			x, err := Exec(context.Background(), ExecOptions{Process: &proc, Pid: p.Pid, Pidfd: p.Pidfd, Cgroup: g})
			if err == nil {
				_, err = linux.WaitPidfd(x.Pidfd)
				err = errors.Join(err, x.Close())
			}
			done <- err
		}()
		if err := g.KillAll(); err != nil {
			t.Fatal(err)
		}
		if err := linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		<-done // with or without an error: it ends, since its pid namespace does
		if pids, err := g.Pids(); err == nil && len(pids) > 1 {
			t.Error(pids)
		}
	}
}
