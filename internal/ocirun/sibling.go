package ocirun

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A process that is executed in a container is seen there while it is on its way, and a container with CAP_SYS_PTRACE can
// look into it. So everything is done outside the pid namespace, and only a second child goes in: see linux.Program. What
// that one has: the descriptors that are to be the program's, a pipe, the program itself if it stands in sealed memory.

// enter adds the second child and what only it can do.
func (e *execution) enter(p *linux.Program) {
	if !e.sibling {
		return
	}
	p.Step(stepEnter)
	p.Sibling()
	e.session(p)
	e.takeTerminal(p)
	if e.listener != nil {
		e.notify(p)
	}
	e.showHooks(p)
	e.wait(p)
	_ = e.affinity(p, finalCPUs) // checked already
	if e.lastLimit != nil {
		p.Step("set rlimit RLIMIT_NPROC")
		p.Call(unix.SYS_PRLIMIT64, linux.N(0), linux.N(unix.RLIMIT_NPROC), linux.Ptr(e.lastLimit), linux.N(0))
	}
	if e.lateSched != nil {
		p.Step("set the scheduler")
		p.Call(unix.SYS_SCHED_SETATTR, linux.N(0), linux.Ptr(e.lateSched), linux.N(0))
	}
}

// showHooks adds the wait for the hooks that are to see the process. It is in its root already, since others see it too, and the
// runtime takes the host's mounts away from it when they have run.
func (e *execution) showHooks(p *linux.Program) {
	if e.hooksGate == nil {
		return
	}
	awaitHooks(p, linux.N(e.hooksNumber()))
	f := seccomp.Filter{Prog: e.filter}
	for _, nr := range [...]int32{unix.SYS_CHDIR, unix.SYS_GETCWD} {
		if len(e.filter) > 0 && f.Simulate(nativeAudit(), nr, [6]uint64{}) != unix.SECCOMP_RET_ALLOW {
			return
		}
	}
	p.Step(stepCwd) // a hook may have mounted something there; what is closed to the user was entered before
	p.Call(unix.SYS_CHDIR, linux.Str(e.process.Cwd)).Ignore(unix.EACCES, unix.EPERM)
	buf := make([]byte, unix.PathMax)
	p.Step(stepEscape)
	p.Call(unix.SYS_GETCWD, linux.Bytes(buf), linux.N(len(buf))).Rooted(buf)
}

// lateDeadline says that the second child needs CAP_SYS_NICE: a process of this policy cannot fork.
func (e *execution) lateDeadline() bool {
	sc := e.process.Scheduler
	return e.sibling && sc != nil && sc.Policy == specs.SchedDeadline
}

// passes says whether the profile allows what is left to do once it is loaded, so that it can be loaded, with the right that
// takes, by the first child.
func (e *execution) passes() bool {
	_, ok := e.forbidden()
	return ok
}

// forbidden is the number of a call among them that the profile does not allow, if there is one.
func (e *execution) forbidden() (nr int32, ok bool) {
	if len(e.filter) == 0 {
		return 0, true
	}
	f := seccomp.Filter{Prog: e.filter}
	for _, c := range [...]struct {
		nr  int32
		arg [2]uint64
	}{
		{unix.SYS_CAPSET, [2]uint64{}}, {unix.SYS_PRCTL, [2]uint64{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE}},
		{unix.SYS_MADVISE, [2]uint64{}}, {unix.SYS_CLONE, [2]uint64{unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID | uint64(unix.SIGCHLD)}},
		{unix.SYS_EXIT_GROUP, [2]uint64{}}, {unix.SYS_SETSID, [2]uint64{}}, {unix.SYS_IOCTL, [2]uint64{0, unix.TIOCSCTTY}},
		{unix.SYS_WRITE, [2]uint64{}}, {unix.SYS_READ, [2]uint64{}}, {unix.SYS_PRLIMIT64, [2]uint64{0, unix.RLIMIT_NPROC}},
		{unix.SYS_SCHED_SETATTR, [2]uint64{}}, {unix.SYS_SCHED_SETAFFINITY, [2]uint64{}}, {unix.SYS_CLOSE, [2]uint64{}},
	} {
		if f.Simulate(nativeAudit(), c.nr, [6]uint64{c.arg[0], c.arg[1]}) != unix.SECCOMP_RET_ALLOW {
			return c.nr, false
		}
	}
	return 0, true
}

// mayPass refuses a profile with a listener, or with hooks, under which the second child would not come to be.
func (e *execution) mayPass(what string) error {
	if nr, ok := e.forbidden(); !ok {
		return invalid("a seccomp profile with %s that does not allow system call %d, which joining a pid namespace needs", what, nr)
	}
	return nil
}

// launch makes the child and waits until it has become its program. A group that is one process short of its limit has no
// room for the first child beside the second: then neither is born in it, and the second one is moved while it waits.
func (j *joining) launch() error {
	err := j.attempt()
	var se *linux.StepError
	if errors.As(err, &se) && se.Step == stepEnter && se.Errno == unix.EAGAIN && j.o.Cgroup != nil {
		err = j.reap()
		if err == nil {
			j.exec.moved, j.exec.warnings = true, nil
			err = j.attempt()
		}
	}
	return j.exec.explain(err)
}

func (j *joining) attempt() error {
	e := &j.exec
	p := new(linux.Program)
	var wake *os.File
	if e.moved {
		r, w, err := linux.Pipe()
		if err != nil {
			return err
		}
		defer w.Close()
		j.files = append(j.files, r)
		e.hold, wake = r, w
	}
	err := e.affinity(p, initialCPUs)
	if err == nil {
		e.join(p)
		e.stdioOps(p)
		if err = personality(p, j.o.Personality); err == nil {
			err = e.become(p)
		}
	}
	if err != nil {
		p.Discard()
		return err
	}
	o := linux.ForkOptions{Cgroup: e.groupDir}
	if e.moved {
		o.Cgroup = nil
	}
	if j.child, err = p.Fork(o); err != nil {
		return err
	}
	if e.listener != nil {
		if err := e.pass(j.child, func(int) *specs.State { return &j.o.Listener.State }); err != nil {
			_ = linux.PidfdSendSignal(j.child.Pidfd, unix.SIGKILL)
			return errors.Join(err, j.child.Wait())
		}
	}
	if e.moved {
		err = j.child.WaitMark()
		if err == nil {
			err = e.move(j.child.Pid)
		}
		if err == nil {
			_, err = wake.Write([]byte{0})
		}
		if err != nil {
			return errors.Join(err, wake.Close(), j.child.Wait())
		}
	}
	return j.child.Wait()
}

// move puts a process into the group.
func (e *execution) move(pid int) error {
	text := []byte(strconv.Itoa(pid))
	files := e.groupFiles
	if e.groupDir != nil {
		fd, err := unix.Openat(int(e.groupDir.Fd()), "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("join the cgroup: %w", err)
		}
		f := os.NewFile(uintptr(fd), "cgroup.procs")
		defer f.Close()
		files = []*os.File{f}
	}
	for _, f := range files {
		if _, err := unix.Write(int(f.Fd()), text); err != nil {
			return fmt.Errorf("join the cgroup %s: %w", f.Name(), err)
		}
	}
	return nil
}

// reap ends and reaps a child that did not become the process.
func (j *joining) reap() error {
	if j.child == nil {
		return nil
	}
	p := Process{Pid: j.child.Pid, Pidfd: j.child.Pidfd}
	j.child = nil
	return p.discard()
}
