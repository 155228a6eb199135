package monitor

import (
	"os"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/logfile"
	"golang.org/x/sys/unix"
)

// proc is a process of the container: the first one, or an exec.
type proc struct {
	m        *monitor
	id       string // of the exec; "": the container's own
	pid      int
	pidfd    procWatch
	terminal bool
	input    bool // it has a standard input that clients can write to
	tty      int  // the terminal's master, also what is read; -1 without one
	peer     int  // its other end, held open while nobody in the container does; else -1
	stdin    sink
	out      [2]outlet // standard output and error; a terminal has only the first
	stream   []*stream

	exited   bool
	status   linux.WaitStatus
	at       time.Time // when it exited
	deadline time.Time // when its output is given up; zero while it runs and after it was told
	told     bool
}

// procWatch waits for the process to end.
type procWatch struct {
	watched
	p *proc
}

func newProc(m *monitor, id string) *proc {
	p := &proc{m: m, id: id, tty: -1, peer: -1}
	p.pidfd = procWatch{unwatched(-1), p}
	p.stdin = sink{watched: unwatched(-1), p: p}
	for i := range p.out {
		p.out[i] = outlet{watched: unwatched(-1), p: p, stream: logfile.Stream(i + 1)}
	}
	return p
}

// begin starts waiting for everything the process has.
func (p *proc) begin() {
	poll := p.m.poll
	for i := range p.out {
		p.m.must(poll.want(&p.out[i].watched, &p.out[i], unix.EPOLLIN))
	}
	p.m.must(poll.want(&p.pidfd.watched, &p.pidfd, unix.EPOLLIN))
}

// must is for what only a kernel without memory fails at.
func (m *monitor) must(err error) {
	if err != nil {
		m.complain(err)
	}
}

func (w *procWatch) ready(uint32) {
	p := w.p
	f := borrow(w.fd, "pidfd")
	p.m.poll.forget(&w.watched)
	w.fd = -1
	status, err := linux.WaitPidfd(f)
	f.Close()
	if err != nil {
		p.m.complain(err)
		status = linux.WaitStatus{Code: 255}
	}
	p.exited, p.status, p.at = true, status, time.Now()
	p.deadline = p.at.Add(drainTime)
	if p.peer >= 0 {
		unix.Close(p.peer)
		p.peer = -1
	}
	p.stdin.close()
	if p == p.m.init && p.m.killRest {
		// The pid namespace is somebody else's, so the kernel has not done it.
		if g := p.m.group(); g != nil {
			p.m.must(g.KillAll())
		}
	}
	p.resume() // clients no longer slow it down: what is in the pipes is all there is
	p.check(p.at)
}

// check ends the process's part when everything it printed has been delivered, or the time for that is over.
func (p *proc) check(now time.Time) {
	if !p.exited || p.told {
		return
	}
	late := !now.Before(p.deadline)
	if !late && !p.delivered() {
		return
	}
	if late {
		// It may be us who are late, on a busy machine or because of a slow disk: what it has written is not lost for that.
		for i := range p.out {
			p.out[i].drain()
		}
		if p.told { // the last outlet's end was all that was waited for
			return
		}
	}
	if p == p.m.init {
		// All others have ended with it. They are told of first.
		if late || len(p.m.execs) == 0 && p.m.jobsOpen == 0 {
			p.m.end(now)
		}
		return
	}
	p.finish(now)
	// It may be what the container's own end was waiting for.
	p.m.init.check(now)
}

// finish ends an exec.
func (p *proc) finish(now time.Time) {
	p.release(now)
	p.m.execs = without(p.m.execs, p)
	p.m.tell(Event{Kind: EventExecExit, ExecID: p.id, Exit: p.exit()})
}

func (p *proc) exit() Exit {
	return Exit{Code: p.status.Code, Signal: int(p.status.Signal), FinishedAt: p.at}
}

// delivered reports whether nothing is left in pipes and buffers.
func (p *proc) delivered() bool {
	for i := range p.out {
		if p.out[i].fd >= 0 {
			return false
		}
	}
	for _, s := range p.stream {
		if len(s.pending) > 0 {
			return false
		}
	}
	return true
}

// release closes what the process had. Clients that have not taken everything keep what is theirs, and are closed when
// they have.
func (p *proc) release(now time.Time) {
	p.told, p.deadline = true, time.Time{}
	for i := range p.out {
		p.m.poll.drop(&p.out[i].watched)
	}
	p.stdin.close()
	for len(p.stream) > 0 {
		s := p.stream[len(p.stream)-1]
		if p.exited {
			if s.exit(p.status.Code); s.over { // it has gone, and has taken itself out
				continue
			}
		}
		if len(s.pending) == 0 {
			s.drop(endClosed)
			continue
		}
		p.stream = p.stream[:len(p.stream)-1]
		s.o.Stdin = false
		s.moved = now
		p.m.lingering = append(p.m.lingering, s)
		s.update()
	}
}

// outlet is one end of what a process prints.
type outlet struct {
	watched
	p      *proc
	stream logfile.Stream
}

// maxRounds is how much of one outlet is read before others have their turn.
const maxRounds = 8

// maxRest bounds what is kept for a slow client once its process has ended: pipes can be made this large.
const maxRest = 1 << 20

// held reports whether the outlet has to wait for a client.
func (o *outlet) held() bool {
	limit := 0
	if o.p.exited {
		limit = maxRest
	}
	for _, s := range o.p.stream {
		if s.takes(o.stream) && len(s.pending) > limit {
			return true
		}
	}
	return false
}

func (o *outlet) ready(uint32) {
	m := o.p.m
	for range maxRounds {
		if o.held() {
			m.must(m.poll.want(&o.watched, o, 0))
			return
		}
		m.mem.dirty = true
		buf := m.mem.read
		n, err := read(o.fd, buf[frameHeader:])
		switch {
		case n > 0:
			o.deliver(buf[:frameHeader+n])
		case err == unix.EAGAIN:
			return
		case err == unix.EIO && o.p.tty == o.fd && !o.p.exited && o.p.hold():
			return
		default:
			o.end()
			return
		}
		if n < readSize && o.p.tty < 0 {
			return // the pipe was empty; epoll will tell
		}
	}
}

// drain reads what is in the pipe now and no more, since somebody else may still write, and waits for no client.
func (o *outlet) drain() {
	if o.fd < 0 {
		return
	}
	m := o.p.m
	rest, err := unix.IoctlGetInt(o.fd, unix.TIOCINQ)
	for err == nil && rest > 0 && o.fd >= 0 {
		m.mem.dirty = true
		buf := m.mem.read
		n, rerr := read(o.fd, buf[frameHeader:])
		if n <= 0 || rerr != nil {
			return
		}
		o.deliver(buf[:frameHeader+n])
		rest -= n
	}
}

// hold keeps a terminal alive that nobody in the container has open at the moment: an init may close its standard
// streams and open the terminal again.
func (p *proc) hold() bool {
	if p.peer >= 0 {
		return false
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.tty), unix.TIOCGPTPEER,
		unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return false
	}
	p.peer = int(fd)
	return true
}

// deliver hands on what is in frame behind the room for its header.
func (o *outlet) deliver(frame []byte) {
	p := o.p
	if p == p.m.init && p.m.writer != nil {
		p.m.writer.Write(o.stream, frame[frameHeader:], time.Now())
		p.m.writer.Flush()
	}
	if len(p.stream) == 0 {
		return
	}
	n := len(frame) - frameHeader
	copy(frame, []byte{byte(o.stream), 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	for i := len(p.stream) - 1; i >= 0; i-- { // a stream that fails takes itself out
		if s := p.stream[i]; s.takes(o.stream) {
			s.write(frame)
		}
	}
}

// end is the end of the file.
func (o *outlet) end() {
	m := o.p.m
	if o.p.tty == o.fd {
		o.p.tty = -1
	}
	m.poll.drop(&o.watched)
	if o.p == m.init && m.writer != nil {
		m.writer.End(o.stream, time.Now())
		m.writer.Flush()
	}
	o.p.check(time.Now())
}

// resume reads on after a client has caught up or gone.
func (p *proc) resume() {
	for i := range p.out {
		if o := &p.out[i]; o.fd >= 0 && o.events == 0 && !o.held() {
			p.m.must(p.m.poll.want(&o.watched, o, unix.EPOLLIN))
		}
	}
}

// signal sends a signal to the process.
func (p *proc) signal(sig int) error {
	err := unix.PidfdSendSignal(p.pidfd.fd, unix.Signal(sig), nil, 0)
	return os.NewSyscallError("pidfd_send_signal", err)
}
