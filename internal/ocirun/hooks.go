package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Hooks are programs that others put into a container's life (config.md, "POSIX-platform Hooks"):
//
//	           where                          when                                    an error
//	prestart         the runtime's namespaces       the child is in its namespaces,         ends the container
//	createRuntime    the runtime's namespaces       before pivot_root                       ends the container
//	createContainer  the container's namespaces,    after these                             ends the container
//	                 a path of the runtime's
//	startContainer   the container, as its process  started, before execve                  ends the container
//	poststart        the runtime's namespaces       after execve                            is a warning
//	poststop         the runtime's namespaces       after the container was deleted         is a warning
//
// Each gets the container's state as JSON on stdin, and no other descriptor than stdin, stdout and stderr.

// hooksOf are the spec's hooks, never nil.
func hooksOf(s *specs.Spec) *specs.Hooks {
	if s.Hooks == nil {
		return &specs.Hooks{}
	}
	return s.Hooks
}

// hooksBeforePivot says whether there are hooks that must find the host's mounts below the container's root.
func hooksBeforePivot(h *specs.Hooks) bool {
	//lint:ignore SA1019 deprecated, and still to be run
	return len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

func checkHooks(h *specs.Hooks) error {
	//lint:ignore SA1019 deprecated, and still to be run
	for _, list := range [][]specs.Hook{h.Prestart, h.CreateRuntime, h.CreateContainer, h.StartContainer, h.Poststart, h.Poststop} {
		for _, k := range list {
			switch {
			case !path.IsAbs(k.Path):
				return invalid("hook %q is not an absolute path", k.Path)
			case k.Timeout != nil && *k.Timeout <= 0:
				return invalid("hook %q: a timeout of %d s is not above 0", k.Path, *k.Timeout)
			case strings.Contains(k.Path+strings.Join(k.Args, "")+strings.Join(k.Env, ""), "\x00"):
				return invalid("hook %q has a NUL in it", k.Path)
			}
		}
	}
	return nil
}

// hookRun is one hook that is being run.
type hookRun struct {
	hook  specs.Hook
	kind  string
	state []byte
	out   *os.File // collects what it writes
}

// runHooks runs hooks one after the other until one fails; start makes the process of one.
func runHooks(ctx context.Context, kind string, list []specs.Hook, state *specs.State,
	start func(r *hookRun, stdin *os.File) (pidfd *os.File, err error)) error {
	if len(list) == 0 {
		return nil
	}
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i := range list {
		r := &hookRun{hook: list[i], kind: kind, state: data}
		if err := r.run(ctx, start); err != nil {
			return fmt.Errorf("%s hook %d, %q: %w", kind, i, list[i].Path, err)
		}
	}
	return nil
}

func (r *hookRun) run(ctx context.Context, start func(*hookRun, *os.File) (*os.File, error)) error {
	stdin, err := linux.SealedBytes("state", r.state)
	if err != nil {
		return err
	}
	defer stdin.Close()
	if _, err := stdin.Seek(0, 0); err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	r.out = os.NewFile(uintptr(fd), "output")
	defer r.out.Close()
	pidfd, err := start(r, stdin)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	var late error
	if late = r.await(ctx, pidfd); late != nil {
		_ = linux.PidfdSendSignal(pidfd, unix.SIGKILL)
	}
	ws, err := linux.WaitPidfd(pidfd)
	switch {
	case late != nil:
		return errors.Join(late, err)
	case err != nil:
		return err
	case ws.Signal != 0:
		return fmt.Errorf("it was killed by signal %d%s", ws.Signal, r.said())
	case ws.Code != 0:
		return fmt.Errorf("it exited with %d%s", ws.Code, r.said())
	}
	return nil
}

// await returns when the process has ended, or with an error when its time has.
func (r *hookRun) await(ctx context.Context, pidfd *os.File) error {
	wake, waker, err := linux.Pipe()
	if err != nil {
		return err
	}
	defer wake.Close()
	defer waker.Close()
	if ctx.Done() != nil {
		done := make(chan struct{})
		defer func() { <-done }()
		stop := context.AfterFunc(ctx, func() { _, _ = waker.Write([]byte{0}); close(done) })
		defer func() {
			if stop() {
				close(done)
			}
		}()
	}
	var deadline time.Time
	if r.hook.Timeout != nil {
		deadline = time.Now().Add(time.Duration(*r.hook.Timeout) * time.Second)
	}
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
	for {
		ms := -1
		if !deadline.IsZero() {
			ms = int(max(0, time.Until(deadline).Milliseconds()+1))
		}
		n, err := unix.Poll(fds, ms)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case fds[0].Revents != 0:
			return nil
		case fds[1].Revents != 0:
			return ctx.Err()
		case n == 0 && !time.Now().Before(deadline):
			return fmt.Errorf("it did not end within %d s: %w", *r.hook.Timeout, os.ErrDeadlineExceeded)
		}
	}
}

// said is the beginning of what the hook wrote.
func (r *hookRun) said() string {
	buf := make([]byte, 1<<10)
	n, _ := r.out.ReadAt(buf, 0)
	if text := strings.TrimSpace(string(buf[:n])); text != "" {
		return ": " + text
	}
	return ""
}

// program writes down how the hook is executed.
func (r *hookRun) program(p *linux.Program, stdin *os.File) {
	p.Step("set up stdio")
	for i, f := range []*os.File{stdin, r.out, r.out} {
		s := p.NewSlot()
		p.Call(unix.SYS_FCNTL, linux.FD(f), linux.N(unix.F_DUPFD_CLOEXEC), linux.N(3)).Save(s)
		p.Call(unix.SYS_DUP3, linux.From(s), linux.N(i), linux.N(0))
	}
	p.Call(unix.SYS_CLOSE_RANGE, linux.N(3), linux.N(^uint32(0)), linux.N(unix.CLOSE_RANGE_CLOEXEC))
}

func (r *hookRun) execute(p *linux.Program) {
	args := r.hook.Args
	if len(args) == 0 {
		args = []string{r.hook.Path}
	}
	p.Step(stepExec)
	p.Call(unix.SYS_EXECVE, linux.Str(r.hook.Path), linux.Strs(args), linux.Strs(r.hook.Env))
}

func launchHook(p *linux.Program) (*os.File, error) {
	runtime.LockOSThread() // which the hook is a child of
	defer runtime.UnlockOSThread()
	linux.Usual()
	c, err := p.Fork(linux.ForkOptions{})
	if err != nil {
		return nil, err
	}
	if err := c.Wait(); err != nil {
		_, reapErr := linux.WaitPidfd(c.Pidfd)
		return nil, errors.Join(err, reapErr, c.Pidfd.Close())
	}
	return c.Pidfd, nil
}

// onHost starts a hook in the caller's namespaces.
func onHost(r *hookRun, stdin *os.File) (*os.File, error) {
	p := new(linux.Program)
	r.program(p, stdin)
	r.execute(p)
	return launchHook(p)
}

// within starts a hook in the namespaces of the process behind child, whose root it shares.
func within(proc, child *os.File, pid int) func(*hookRun, *os.File) (*os.File, error) {
	return func(r *hookRun, stdin *os.File) (pidfd *os.File, err error) {
		err = linux.OnThread(func() error {
			j := &joining{o: &ExecOptions{Pid: pid}, pidfd: child}
			j.exec.hostProc = proc
			defer j.close()
			if err := j.enter(); err != nil {
				return err
			}
			p := new(linux.Program)
			j.exec.enterNamespaces(p)
			if j.exec.userNS != nil {
				j.exec.joinUser(p)
			}
			r.program(p, stdin)
			p.Sibling()
			r.execute(p)
			pidfd, err = launchHook(p)
			return err
		})
		return pidfd, err
	}
}

// hookState is what a hook reads.
func hookState(st *State, status specs.ContainerState) *specs.State {
	return &specs.State{Version: st.OCIVersion, ID: st.ID, Status: status, Pid: st.Pid, Bundle: st.Bundle, Annotations: st.Annotations}
}

// awaitHooks adds the wait for the hooks of a create.
func awaitHooks(p *linux.Program, gate linux.Arg) {
	p.Step("wait for the hooks")
	p.Notify()
	p.Call(unix.SYS_READ, gate, linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
}

// showToHooks runs the hooks of a create once the process is there that they are told of: the one that becomes the program.
func (s *setup) showToHooks(ctx context.Context, p *Process) error {
	if s.gateWriter == nil {
		return nil
	}
	err := s.after(p, s.child.WaitMark())
	if err == nil && s.mountNS != nil && s.exec.moved {
		err = s.exec.move(p.Pid)
	}
	if err == nil {
		err = s.createHooks(ctx, p)
	}
	if err == nil && s.mountNS != nil {
		err = linux.OnThread(s.leaveHostFor)
	}
	if err == nil {
		_, err = s.gateWriter.Write([]byte{0})
	}
	return err
}

// ownMountNS is the thread's mount namespace.
func (s *setup) ownMountNS() (*os.File, error) {
	fd, err := unix.Openat(int(s.hostProc.Fd()), "thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's mount namespace: %w", err)
	}
	return s.keep(os.NewFile(uintptr(fd), "mnt")), nil
}

// leaveHostFor takes the host's mounts from the container's namespace, for a process that may not.
func (s *setup) leaveHostFor() error {
	err := linux.Unshare(unix.CLONE_FS)
	if err == nil {
		err = linux.Setns(s.mountNS, unix.CLONE_NEWNS)
	}
	if err == nil {
		err = s.leaveHost()
	}
	if err == nil {
		err = s.propagate()
	}
	return err
}

// createHooks are those of a create.
func (s *setup) createHooks(ctx context.Context, p *Process) error {
	h := hooksOf(s.spec)
	st := NewState(s.o, p)
	state := hookState(st, specs.StateCreating)
	//lint:ignore SA1019 deprecated, and still to be run
	if err := runHooks(ctx, "prestart", h.Prestart, state, onHost); err != nil {
		return err
	}
	if err := runHooks(ctx, "createRuntime", h.CreateRuntime, state, onHost); err != nil {
		return err
	}
	if len(h.CreateContainer) == 0 {
		return nil
	}
	proc, err := openHostProc()
	if err != nil {
		return err
	}
	defer proc.Close()
	return runHooks(ctx, "createContainer", h.CreateContainer, state, within(proc, p.Pidfd, p.Pid))
}

// StartHooks runs the hooks of a start, in the container and with the rights of its process, before that is released. After an
// error the container must be ended.
func StartHooks(ctx context.Context, st *State) error {
	if st.Hooks == nil || len(st.Hooks.StartContainer) == 0 {
		return nil
	}
	o := ExecOptions{Process: st.Process, Pid: st.Pid}
	if st.Seccomp != nil {
		f, err := seccomp.Compile(st.Seccomp)
		if err != nil {
			return fmt.Errorf("seccomp profile: %w", err)
		}
		o.Seccomp, o.SeccompFlags, o.Listener = f.Prog, f.Flags, ListenerOf(f, st.Seccomp, st)
	}
	if st.CgroupPath != "" {
		host, err := cgroup.Detect()
		if err != nil {
			return err
		}
		o.Cgroup = host.Open(st.CgroupPath)
	}
	return runHooks(ctx, "startContainer", st.Hooks.StartContainer, hookState(st, specs.StateCreated),
		func(r *hookRun, stdin *os.File) (*os.File, error) {
			x, pr := o, *o.Process
			pr.Args, pr.Env, pr.Cwd, pr.Terminal = r.hook.Args, r.hook.Env, "/", false
			if len(pr.Args) == 0 {
				pr.Args = []string{r.hook.Path}
			}
			x.Process, x.File, x.Stdin, x.Stdout, x.Stderr = &pr, r.hook.Path, stdin, r.out, r.out
			p, err := Exec(ctx, x)
			if err != nil {
				return nil, err
			}
			return p.Pidfd, nil
		})
}

// Poststart runs the hooks of a container that has started. After an error the container must be ended (runtime.md, "Lifecycle", step 9).
func Poststart(ctx context.Context, st *State) error {
	if st.Hooks == nil {
		return nil
	}
	return runHooks(ctx, "poststart", st.Hooks.Poststart, hookState(st, specs.StateRunning), onHost)
}

// Poststop runs the hooks of a container that was deleted; what goes wrong with one is a warning, and the others are run.
func Poststop(ctx context.Context, st *State) (warnings []string) {
	if st.Hooks == nil {
		return nil
	}
	state := hookState(st, specs.StateStopped)
	state.Pid = 0
	list := st.Hooks.Poststop
	for i := range list {
		if err := runHooks(ctx, "poststop", list[i:i+1], state, onHost); err != nil {
			warnings = append(warnings, err.Error())
		}
	}
	return warnings
}

// keepHooks puts into the state what the hooks to come need.
func (st *State) keepHooks(s *specs.Spec) {
	h := s.Hooks
	if h == nil {
		return
	}
	st.Hooks = &specs.Hooks{StartContainer: h.StartContainer, Poststart: h.Poststart, Poststop: h.Poststop}
	if len(h.StartContainer) > 0 {
		st.Process = s.Process
		if s.Linux != nil {
			st.Seccomp = s.Linux.Seccomp
		}
	}
}
