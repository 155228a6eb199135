package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/specjson"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execRequest is an exec that is being started.
type execRequest struct {
	conn    *conn
	request uint32
	number  uint32 // of the stream
	fd      int    // connection, or -1
	options AttachOptions
	p       *proc
}

// execResult is what came of it.
type execResult struct {
	execRequest
	started *ocirun.Process
	err     error
}

// exec begins an exec. Starting it runs beside the loop: the container can make it take any time, by freezing, or by
// a file system of its own making.
func (c *conn) exec(id uint32, u *unpacker, fds []int) ([]int, error) {
	m := c.m
	r := execRequest{conn: c, request: id, fd: -1}
	r.number, r.options = u.options()
	execID, flags := u.str(), u.num()
	process, filter := u.bytes(), append([]byte(nil), u.bytes()...)
	filterFlags := u.num()
	asked := u.bytes()
	if u.bad || execID == "" {
		return fds, errMessage
	}
	m.fat()
	var spec specs.Process
	if err := specjson.Unmarshal(process, &spec); err != nil {
		c.reply(id, failedInvalid, "the process of the exec cannot be understood: "+err.Error(), 0)
		return fds, nil
	}
	listener, err := m.listenerOf(asked)
	if err != nil {
		c.reply(id, failedInvalid, "the seccomp listener of the exec cannot be understood: "+err.Error(), 0)
		return fds, nil
	}
	if len(spec.Args) == 0 {
		c.reply(id, failedInvalid, "the exec has no program", 0)
		return fds, nil
	}
	if m.init.exited {
		c.reply(id, failedNotFound, "the container has ended", 0)
		return fds, nil
	}
	if m.proc(execID) != nil {
		c.reply(id, failedConflict, "an exec of this name runs already", 0)
		return fds, nil
	}
	if len(fds) > 0 {
		if !isStream(fds[0]) {
			c.reply(id, failedInvalid, "what was handed over to be attached is not a stream socket", 0)
			return fds, nil
		}
		r.fd, fds = fds[0], fds[1:]
	}
	o := ocirun.ExecOptions{Process: &spec, Pid: m.pid, Cgroup: m.group(), Seccomp: filter, SeccompFlags: filterFlags, Listener: listener,
		Terminal: flags&flagTerminal != 0, Rows: r.options.Rows, Cols: r.options.Cols}
	p := newProc(m, execID)
	p.terminal = o.Terminal
	p.stdin.once = true
	r.p = p
	theirs, err := p.pipes(o.Terminal, r.fd >= 0 && flags&flagOpenStdin != 0 && r.options.Stdin,
		r.fd >= 0 && r.options.Stdout, r.fd >= 0 && r.options.Stderr, spec.User)
	if err == nil {
		o.Stdin, o.Stdout, o.Stderr = theirs[0], theirs[1], theirs[2]
		var fd int
		if fd, err = unix.FcntlInt(uintptr(m.init.pidfd.fd), unix.F_DUPFD_CLOEXEC, 3); err == nil {
			o.Pidfd = borrow(fd, "pidfd")
		}
	}
	if err == nil {
		err = m.openJobs()
	}
	if err != nil {
		theirs.close()
		m.execDone(execResult{r, nil, err})
		return fds, nil
	}
	m.jobsOpen++
	// With one thread for Go code, the loop and the start would hand it to each other, which the scheduler does late.
	runtime.GOMAXPROCS(2)
	go func() {
		started, err := m.startExec(o)
		theirs.close()
		o.Pidfd.Close()
		m.jobs <- execResult{r, started, err}
		_, _ = write(m.jobsFd.fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}()
	return fds, nil
}

// listenerOf is who an exec's filter asks, from the JSON of its request, with the state of the container as it is now.
func (m *monitor) listenerOf(text []byte) (*ocirun.Listener, error) {
	if len(text) == 0 {
		return nil, nil
	}
	l := &ocirun.Listener{}
	if err := specjson.Unmarshal(text, l); err != nil {
		return nil, err
	}
	l.State = specs.State{Version: specs.Version, ID: m.id, Status: specs.StateRunning, Pid: m.pid, Bundle: m.dir,
		Annotations: l.State.Annotations}
	return l, nil
}

// startExec starts the process. Should it panic, that is the end of this exec and not of the container's supervision.
func (m *monitor) startExec(o ocirun.ExecOptions) (p *ocirun.Process, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("start the exec: %v", r)
			m.complain(fmt.Errorf("%w\n%s", err, debug.Stack()))
		}
	}()
	return m.rt.exec(context.Background(), o)
}

// execDone takes over a process that runs, or says why there is none.
func (m *monitor) execDone(r execResult) {
	p := r.p
	if r.err == nil {
		if r.err = p.adopt(r.started); r.err != nil {
			abandon(r.started.Pid)
		}
	}
	if r.err != nil {
		p.release(p.at)
		if r.fd >= 0 {
			unix.Close(r.fd) // and no more: the daemon has it as well, and tells the client why
		}
		code, message := startFailure(r.err)
		r.conn.reply(r.request, failedStart+failure(code), message, 0)
		m.init.check(m.init.at)
		return
	}
	m.execs = append(m.execs, p)
	if r.fd >= 0 {
		owner := r.conn
		if owner.fd < 0 {
			owner = nil
		}
		if err := m.attach(p, r.fd, r.options, owner, r.number); err != nil {
			m.complain(err)
			closeStream(m, r.fd)
		}
	}
	// The answer is on its way before the first event of the process.
	r.conn.reply(r.request, ok, "", p.pid)
	p.begin()
}

// startFailure is the exit code and the sentence of a failed start.
func startFailure(err error) (code int, message string) {
	var failed *ocirun.ExecError
	if errors.As(err, &failed) {
		return failed.Code(), err.Error()
	}
	return 125, err.Error()
}

// jobsWatch waits for execs that were being started.
type jobsWatch struct {
	watched
	m *monitor
}

func (m *monitor) openJobs() error {
	if m.jobsFd.fd >= 0 {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	m.jobs = make(chan execResult, 16)
	m.jobsFd.fd = fd
	return m.poll.want(&m.jobsFd.watched, &m.jobsFd, unix.EPOLLIN)
}

func (w *jobsWatch) ready(uint32) {
	var n [8]byte
	_, _ = read(w.fd, n[:])
	for w.m.jobsOpen > 0 {
		select {
		case r := <-w.m.jobs:
			w.m.jobsOpen--
			w.m.fat()
			w.m.execDone(r)
		default:
			return
		}
	}
}

// ends are the container's ends of its standard streams; nil is /dev/null.
type ends [3]*os.File

func (e ends) close() {
	for _, f := range e {
		if f != nil {
			f.Close()
		}
	}
}

// pipes makes the standard streams of a process that has no terminal, those that are wanted. They belong to the
// process's user, so that it can open /dev/stdout.
func (p *proc) pipes(terminal, stdin, stdout, stderr bool, user specs.User) (theirs ends, err error) {
	p.input = stdin
	if terminal {
		return theirs, nil
	}
	defer func() {
		if err != nil {
			theirs.close()
			p.release(p.at)
		}
	}()
	for i, wanted := range [...]bool{stdin, stdout, stderr} {
		if !wanted {
			continue
		}
		ours, other, err := pipe(i > 0)
		if err != nil {
			return theirs, err
		}
		theirs[i] = borrow(other, "standard stream")
		if i == 0 {
			p.stdin.fd = ours
		} else {
			p.out[i-1].fd = ours
		}
		if user.UID != 0 || user.GID != 0 {
			if err := unix.Fchown(other, int(user.UID), int(user.GID)); err != nil {
				return theirs, os.NewSyscallError("fchown", err)
			}
		}
	}
	return theirs, nil
}

// adopt takes over a process that was started.
func (p *proc) adopt(started *ocirun.Process) (err error) {
	p.pid = started.Pid
	if p.pidfd.fd, err = take(started.Pidfd); err != nil {
		return err
	}
	if started.Master == nil {
		return nil
	}
	if p.tty, err = take(started.Master); err != nil {
		return err
	}
	p.out[0].fd = p.tty
	if err := unix.SetNonblock(p.tty, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if !p.input {
		return nil
	}
	// A descriptor of its own: the loop waits for reading and for writing separately.
	p.stdin.fd, err = unix.FcntlInt(uintptr(p.tty), unix.F_DUPFD_CLOEXEC, 3)
	return err
}

// abandon ends a child that cannot be taken care of.
func abandon(pid int) {
	_ = unix.Kill(pid, unix.SIGKILL)
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

func isErrno(err error, want syscall.Errno) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && errno == want
}
