package ocirun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// StartOptions describe a container that is to be started.
type StartOptions struct {
	ID   string
	Spec *specs.Spec
	// StateDir is where state.json is written; "" for none.
	StateDir string
	// Rootfs is a mount that stands nowhere, to become "/"; nil: Spec.Root.Path is copied by open_tree(2). It stays
	// the caller's to close.
	Rootfs *os.File
	// Bundle is what a relative Spec.Root.Path counts from.
	Bundle string
	// Namespaces are joined, and win over the spec's paths. They stay the caller's.
	Namespaces map[specs.LinuxNamespaceType]*os.File
	// Trees are mounts that stand nowhere, by the destination of the bind that each is for, instead of its source. They
	// stay the caller's.
	Trees map[string]*os.File
	// Cgroup exists already, with its limits; nil: it is made from Spec.Linux.CgroupsPath and Resources. Where both
	// are missing the process stays in the caller's.
	Cgroup *cgroup.Group
	// Resctrl is where the resctrl file system is; "" for where it belongs.
	Resctrl string
	// Seccomp is a compiled filter; nil: it is compiled from Spec.Linux.Seccomp.
	Seccomp []byte
	// Filters is a directory of filters that were compiled before; "" for none (see CompileFilter).
	Filters string
	// Stdin, Stdout and Stderr of a process without a terminal; nil is /dev/null. They stay the caller's.
	Stdin, Stdout, Stderr *os.File
	// Terminal gives the process a terminal of its own, from the container's devpts, of the given size.
	Terminal   bool
	Rows, Cols uint16
	// Init runs the program below a small init, as process 2: it passes signals on and reaps orphans.
	Init bool
	// PreserveFiles become descriptors 3, 4, … of the process.
	PreserveFiles []*os.File
	// Hold makes the child wait before execve until Process.Release.
	Hold bool
	// HoldFile and ReportFile serve a Hold that outlives the caller: the child reads one byte from HoldFile, and writes
	// a failed execve to ReportFile (see ReadReport). Both nil otherwise.
	HoldFile, ReportFile *os.File
	// NoNewKeyring leaves the process the caller's session keyring.
	NoNewKeyring bool
	// NoPivot puts the root over the old one and uses chroot(2), for hosts that run from an initramfs.
	NoPivot bool
	// Alone says that the caller's process has nothing else to do meanwhile and soon ends: no thread is made for this
	// (see linux.InPlace).
	Alone bool
}

// Process is a process that was started. It is a child of the calling process.
type Process struct {
	Pid       int
	Pidfd     *os.File
	Master    *os.File  // the terminal's; does not block
	StartTime uint64    // clock ticks after boot, as in /proc/PID/stat
	StartedAt time.Time // by the wall clock
	Warnings  []string  // of limits that could not be granted, in sentences
	Cgroup    *cgroup.Group
	Rdt       *Rdt // nil for none

	child *linux.Child
	hold  *os.File
	exec  *execution
	hooks *State // of those to run when it is released; nil for none
}

// Release lets a held process go on into its program, and returns when it has, or with the *ExecError. It is called at most
// once, and not when StartOptions.HoldFile was given. The hooks of a start are run before and after; when one fails
// the process ends.
func (p *Process) Release() error {
	if p.hold == nil {
		return fmt.Errorf("process %d is not held: %w", p.Pid, errdefs.ErrFailedPrecondition)
	}
	if p.hooks != nil {
		if err := StartHooks(context.Background(), p.hooks); err != nil {
			err = errors.Join(err, p.hold.Close())
			p.hold = nil
			return err
		}
	}
	if err := p.letGo(); err != nil {
		return err
	}
	if p.hooks != nil {
		if err := Poststart(context.Background(), p.hooks); err != nil {
			_ = linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL) // or it has ended by itself
			return err
		}
	}
	return nil
}

func (p *Process) letGo() error {
	_, err := p.hold.Write([]byte{0})
	err = errors.Join(err, p.hold.Close())
	p.hold = nil
	if err != nil {
		return errors.Join(fmt.Errorf("release process %d: %w", p.Pid, err), p.child.Wait())
	}
	return p.exec.explain(p.child.Wait())
}

// Close gives up the descriptors of a process, which goes on; a held one ends.
func (p *Process) Close() error {
	var errs []error
	for _, f := range []*os.File{p.Pidfd, p.Master, p.hold} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Start starts a container's first process. It returns when the process has become its program or, with Hold, is ready
// to; after an error there is no process. Cancelling ctx is heeded until the fork.
//
// An error of the program itself is an *ExecError. Others wrap errdefs.ErrInvalidArgument for a spec that makes no sense,
// errdefs.ErrNotImplemented for one that asks for what is not there, or the kernel's errno.
func Start(ctx context.Context, o StartOptions) (_ *Process, err error) {
	if err := check(&o); err != nil {
		return nil, err
	}
	hooks := hooksOf(o.Spec)
	s := &setup{o: &o, spec: o.Spec, lin: o.Spec.Linux, latePivot: hooksBeforePivot(hooks)}
	if s.lin == nil {
		s.lin = &specs.Linux{}
	}
	through := !o.Hold && len(hooks.StartContainer)+len(hooks.Poststart) > 0
	if o.Cgroup == nil && s.lin.CgroupsPath == "" && o.StateDir != "" {
		// Should we be killed there is no group to find its processes in: it runs when the state has its number.
		through = !o.Hold
	}
	o.Hold = o.Hold || through
	defer s.close()
	if o.Cgroup == nil && s.lin.CgroupsPath != "" {
		undo, groupErr := s.makeCgroup()
		if groupErr != nil {
			return nil, groupErr
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, undo())
			}
		}()
	}
	s.devs.spec = s.lin.NetDevices
	defer func() {
		if err != nil {
			err = errors.Join(err, s.devs.giveBack())
		}
		s.devs.close()
	}()
	if r := s.lin.IntelRdt; r != nil {
		if s.rdt, err = makeRdt(o.Resctrl, o.ID, o.StateDir, r); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, s.rdt.Delete())
			}
		}()
	}
	s.exec = execution{process: o.Spec.Process, filter: o.Seccomp, preserve: o.PreserveFiles, keepKeyring: o.NoNewKeyring,
		stdio: [3]*os.File{o.Stdin, o.Stdout, o.Stderr}, init: o.Init, shield: exposed(), env: environment(o.Spec.Process.Env),
		tty: o.Terminal, nested: linux.InUserNamespace()}
	if o.Terminal {
		s.exec.stdio = [3]*os.File{} // which comes later
	}
	if o.Seccomp == nil && s.lin.Seccomp != nil {
		f, err := CompileFilter(o.Filters, s.lin.Seccomp)
		if err != nil {
			return nil, err
		}
		if f.Notifies() {
			if s.exec.listener, err = newListener(f, s.lin.Seccomp.ListenerPath, s.lin.Seccomp.ListenerMetadata); err != nil {
				return nil, err
			}
			defer s.exec.listener.close()
		}
		s.exec.filter, s.exec.filterFlags = f.Prog, uint(f.Flags)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := linux.SetDumpable(false); err != nil {
		return nil, err
	}
	onThread := linux.OnThread
	if o.Alone && !s.has(specs.UserNamespace) && !s.has(specs.TimeNamespace) && !s.joins(specs.PIDNamespace) { // which cannot be left again
		onThread = linux.InPlace
	}
	if err := onThread(func() error { return s.run(ctx) }); err != nil {
		return nil, err
	}
	p, err := s.finish(ctx)
	if err != nil || !through {
		return p, err
	}
	o.Hold = false
	if err := p.Release(); err != nil {
		return nil, errors.Join(err, p.discard())
	}
	if o.StateDir != "" {
		if err := WriteState(o.StateDir, NewState(&o, p)); err != nil {
			return nil, errors.Join(err, p.discard())
		}
	}
	return p, nil
}

// makeCgroup makes the group the spec asks for.
func (s *setup) makeCgroup() (undo func() error, err error) {
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	g, warnings, err := host.Strict().Create(s.lin.CgroupsPath, s.lin.Resources)
	if err != nil {
		return nil, err
	}
	s.o.Cgroup = g
	s.exec.warnings = append(s.exec.warnings, warnings...)
	return g.Delete, nil
}

// finish waits for the child to be what it shall be.
func (s *setup) finish(ctx context.Context) (*Process, error) {
	p := &Process{Pid: s.child.Pid, Pidfd: s.child.Pidfd, Master: s.master, Cgroup: s.o.Cgroup, Rdt: s.rdt, StartedAt: time.Now(),
		child: s.child, hold: s.holdWriter, exec: &s.exec}
	s.master, s.holdWriter = nil, nil
	first, second := s.showToHooks, s.passListener
	if s.exec.sibling { // whose first child has the listener
		first, second = second, first
	}
	err := first(ctx, p)
	if err == nil {
		err = second(ctx, p)
	}
	if err == nil && (s.o.Hold || s.exec.moved) {
		err = s.after(p, s.child.WaitMark())
	}
	if err == nil && s.exec.moved {
		if s.mountNS == nil { // or it was moved for the hooks
			err = s.exec.move(p.Pid)
		}
		if err == nil && !s.o.Hold {
			_, err = p.hold.Write([]byte{0})
			err = errors.Join(err, p.hold.Close())
			p.hold = nil
		}
	}
	if err == nil && !s.o.Hold {
		err = s.after(p, s.child.Wait())
	}
	if err == nil {
		if p.StartTime, _, err = linux.StartTime(p.Pid); err == nil && s.o.StateDir != "" {
			err = WriteState(s.o.StateDir, NewState(s.o, p))
		}
	}
	p.Warnings = s.exec.warnings
	if err == nil && s.o.Hold && s.spec.Hooks != nil {
		p.hooks = NewState(s.o, p)
	}
	if err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// passListener hands a seccomp listener to who waits for it.
func (s *setup) passListener(_ context.Context, p *Process) error {
	if s.exec.listener == nil {
		return nil
	}
	if err := s.exec.listener.connect(); err != nil {
		return err
	}
	return s.after(p, s.exec.pass(s.child, func(pid int) *specs.State {
		p.Pid = pid
		return hookState(NewState(s.o, p), specs.StateCreating)
	}))
}

// after explains what the child told; with a user namespace it may be another process by then.
func (s *setup) after(p *Process, err error) error {
	p.Pid, p.Pidfd = s.child.Pid, s.child.Pidfd
	return s.exec.explain(err)
}

// discard ends and reaps a process that must not be.
func (p *Process) discard() error {
	err := linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	_, waitErr := linux.WaitPidfd(p.Pidfd)
	return errors.Join(err, waitErr, p.Close())
}
