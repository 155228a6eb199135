package ocirun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// StartOptions describe one container.
type StartOptions struct {
	ID   string
	Spec *specs.Spec
	// Rootfs is a mount that stands nowhere and becomes "/"; nil takes Spec.Root.Path, below Bundle when relative.
	Rootfs *os.File
	Bundle string
	// Namespaces are joined; they win over paths in the spec.
	Namespaces map[specs.LinuxNamespaceType]*os.File
	// Cgroup has its limits already; nil runs the container in the caller's.
	Cgroup *cgroup.Group
	// Seccomp is the compiled filter; nil for none.
	Seccomp []byte

	// Stdin, Stdout and Stderr are the container's, without a terminal.
	Stdin, Stdout, Stderr *os.File
	Terminal              bool
	Rows, Cols            uint16

	// Init is a program (a descriptor to execute) that runs as process 1 and starts the container's own; nil for none.
	Init *os.File
	// Hold is read before execve: the child waits for one byte, and gives up at the end of the file. nil does not wait.
	Hold *os.File
}

// Process is a process of a container that has been started. The caller reaps it.
type Process struct {
	Pid      int
	Pidfd    *os.File
	Master   *os.File // the terminal's other end; nil without one
	Warnings []string
}

// builder collects what a child will do and what the caller must close.
type builder struct {
	p        linux.Program
	spec     *specs.Spec
	warnings []string
	files    []*os.File
	next     linux.Slot
}

func (b *builder) own(f *os.File) *os.File {
	b.files = append(b.files, f)
	return f
}

func (b *builder) close() {
	for _, f := range b.files {
		_ = f.Close()
	}
}

// slots of a child; a temporary one is free again after the steps that use it.
const (
	slotRoot linux.Slot = iota + 1 // after ReportSlot
	slotTarget
	slotFs
	slotMount
	slotDir
	slotProc
	slotFile
)

// Start makes the container and returns when its program runs, or has reached the Hold. On error nothing is left but the
// cgroup, which is the caller's. Cancelling ctx has no effect once the child exists; it takes milliseconds.
func Start(ctx context.Context, o StartOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := check(o.Spec); err != nil {
		return nil, err
	}
	b := &builder{spec: o.Spec}
	defer b.close()
	proc := o.Spec.Process

	var master *os.File
	done := false
	defer func() {
		if master != nil && !done {
			_ = master.Close()
		}
	}()
	flags, pidns := b.namespaces(o)
	if err := b.begin(o.Cgroup, proc.OOMScoreAdj); err != nil {
		return nil, err
	}
	for _, kind := range joinOrder {
		if f := o.Namespaces[kind]; f != nil && kind != specs.PIDNamespace {
			b.step("join the %s namespace", kind)
			b.p.Call(unix.SYS_SETNS, linux.FD(f), linux.N(nsFlags[kind]))
		}
	}
	stdio := [3]*os.File{o.Stdin, o.Stdout, o.Stderr}
	root, err := b.root(o)
	if err != nil {
		return nil, err
	}
	pts, err := b.mounts(o, root)
	if err != nil {
		return nil, err
	}
	if o.Terminal {
		if pts == nil {
			return nil, errors.New("a terminal needs a devpts mount at /dev/pts")
		}
		var slave *os.File
		if master, slave, err = openPty(pts, o.Rows, o.Cols, proc.User); err != nil {
			return nil, err
		}
		b.own(slave)
		stdio = [3]*os.File{slave, slave, slave}
		b.console(slave)
	}
	b.finishRoot(o)
	if err := b.process(proc, stdio, o.Terminal, o.Seccomp, o.Init, o.Hold, "_ses."+o.ID); err != nil {
		return nil, err
	}
	var child *linux.Child
	fork := func() error {
		var cg *os.File
		if o.Cgroup != nil {
			var err error
			if cg, err = o.Cgroup.DirFile(); err == nil && cg != nil {
				defer cg.Close()
			} else {
				cg = nil
			}
		}
		var err error
		child, err = b.p.Fork(linux.ForkOptions{Flags: flags, Cgroup: cg})
		return err
	}
	if pidns != nil {
		err = withPidNS(pidns, fork)
	} else {
		err = fork()
	}
	if err != nil {
		return nil, fmt.Errorf("make the container's process: %w", err)
	}
	if o.Hold == nil {
		if err := b.await(child, proc); err != nil {
			return nil, err
		}
	}
	done = true
	return &Process{Pid: child.Pid, Pidfd: child.Pidfd, Master: master, Warnings: b.warnings}, nil
}

// await waits for execve; a child that failed is reaped.
func (b *builder) await(child *linux.Child, proc *specs.Process) error {
	err := child.Wait()
	if err == nil {
		return nil
	}
	_ = linux.PidfdSendSignal(child.Pidfd, unix.SIGKILL)
	var ws syscall.WaitStatus
	for {
		if _, e := syscall.Wait4(child.Pid, &ws, 0, nil); e != syscall.EINTR {
			break
		}
	}
	_ = child.Pidfd.Close()
	return explain(err, proc.Args[0], !strings.Contains(proc.Args[0], "/"))
}

var nsFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.MountNamespace: unix.CLONE_NEWNS, specs.NetworkNamespace: unix.CLONE_NEWNET, specs.UTSNamespace: unix.CLONE_NEWUTS,
	specs.IPCNamespace: unix.CLONE_NEWIPC, specs.PIDNamespace: unix.CLONE_NEWPID, specs.CgroupNamespace: unix.CLONE_NEWCGROUP,
}

var joinOrder = [...]specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace}

// namespaces says which namespaces the clone makes, and which pid namespace must be entered before it.
func (b *builder) namespaces(o StartOptions) (flags uintptr, pidns *os.File) {
	for _, ns := range o.Spec.Linux.Namespaces {
		switch {
		case o.Namespaces[ns.Type] != nil:
			if ns.Type == specs.PIDNamespace {
				pidns = o.Namespaces[ns.Type]
			}
		case ns.Type == specs.CgroupNamespace: // after the process is in its group: the namespace's root is where it is then
		default:
			flags |= nsFlags[ns.Type]
		}
	}
	return flags, pidns
}

func hasNamespace(s *specs.Spec, kind specs.LinuxNamespaceType) bool {
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == kind {
			return true
		}
	}
	return false
}

// withPidNS runs fork on a thread whose children are born in the pid namespace ns.
func withPidNS(ns *os.File, fork func() error) error {
	own, err := os.Open("/proc/thread-self/ns/pid")
	if err != nil {
		return err
	}
	defer own.Close()
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the pid namespace: %w", err)
	}
	err = fork()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWPID); back != nil {
		return errors.Join(err, fmt.Errorf("leave the pid namespace: %w", back)) // the thread stays locked and is lost
	}
	runtime.UnlockOSThread()
	return err
}

// begin is what every child does first.
func (b *builder) begin(g *cgroup.Group, oom *int) error {
	b.p.Step("become undumpable")
	b.p.Call(unix.SYS_PRCTL, linux.N(unix.PR_SET_DUMPABLE), linux.N(0), linux.N(0), linux.N(0), linux.N(0))
	if g != nil {
		files, err := g.ProcsFiles()
		if err != nil {
			return fmt.Errorf("join the cgroup: %w", err)
		}
		zero := linux.Bytes([]byte("0"))
		for _, f := range files {
			b.own(f)
			b.step("join the cgroup %s", f.Name())
			b.p.Call(unix.SYS_WRITE, linux.FD(f), zero, linux.N(1))
		}
	}
	if oom != nil {
		f, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		b.own(f)
		text := []byte(strconv.Itoa(*oom))
		b.step("set oom_score_adj to %d", *oom)
		b.p.Call(unix.SYS_OPENAT, linux.FD(f), linux.Str("self/oom_score_adj"), linux.N(unix.O_WRONLY|unix.O_CLOEXEC)).Save(slotFile)
		b.p.Call(unix.SYS_WRITE, linux.From(slotFile), linux.Bytes(text), linux.N(len(text)))
		b.p.Call(unix.SYS_CLOSE, linux.From(slotFile))
	}
	return nil
}
