package monitor

import (
	"time"

	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/tty"
	"golang.org/x/sys/unix"
)

// stream is an attached client.
type stream struct {
	watched
	p       *proc
	o       AttachOptions
	keys    *tty.DetachScanner // nil: nothing detaches
	owner   *conn              // who attached it and is told of its end; nil: nobody, any more
	number  uint32             // the owner's name for it
	pending []byte             // what its socket has not taken yet
	moved   time.Time          // when it last took something, once its process has ended
	over    bool
}

// attach begins to serve a client. On error fd is still the caller's.
func (m *monitor) attach(p *proc, fd int, o AttachOptions, owner *conn, number uint32) error {
	s := &stream{watched: unwatched(fd), p: p, o: o, owner: owner, number: number}
	if !p.terminal {
		s.o.DetachKeys = nil
	} else if !o.Exit {
		s.o.Mux = false
	}
	if !p.input {
		s.o.Stdin = false
	}
	if s.o.Stdin && len(s.o.DetachKeys) > 0 {
		s.keys = tty.NewDetachScanner(s.o.DetachKeys)
	}
	if err := m.poll.want(&s.watched, s, hangup); err != nil {
		return err
	}
	p.stream = append(p.stream, s)
	s.update()
	if o.Rows > 0 && o.Cols > 0 && p.tty >= 0 {
		m.must(tty.SetSize(p.tty, o.Rows, o.Cols))
	}
	return nil
}

func (s *stream) takes(stream logfile.Stream) bool {
	if stream == logfile.Stderr {
		return s.o.Stderr
	}
	return s.o.Stdout
}

// update waits for what the stream can be used for now.
func (s *stream) update() {
	if s.over {
		return
	}
	events := uint32(hangup)
	if s.o.Stdin {
		if len(s.p.stdin.pending) == 0 {
			events |= unix.EPOLLIN
		} else if len(s.pending) == 0 {
			// What was typed before a client went away is still wanted, but not now: its end must not be reported
			// over and over meanwhile.
			events = 0
		}
	}
	if len(s.pending) > 0 {
		events |= unix.EPOLLOUT
	}
	s.p.m.must(s.p.m.poll.want(&s.watched, s, events))
}

func (s *stream) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 && len(s.pending) > 0 {
		if s.flush(); s.over {
			return
		}
	}
	if s.o.Stdin && events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		// A client that has gone may have left something to read.
		if len(s.p.stdin.pending) == 0 {
			s.input()
		}
		return
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.drop(endClosed)
	}
}

// write sends one frame, or keeps what the socket does not take.
func (s *stream) write(frame []byte) {
	if !s.o.Mux {
		frame = frame[frameHeader:]
	}
	if len(s.pending) > 0 {
		s.pending = append(s.pending, frame...)
		return
	}
	n, err := send(s.fd, frame)
	if err != nil && err != unix.EAGAIN {
		s.drop(endClosed)
		return
	}
	if n < len(frame) {
		s.p.m.fat()
		s.pending = append(s.pending, frame[n:]...)
		s.update()
	}
}

// exit sends the exit code, when the client asked for it.
func (s *stream) exit(code int) {
	if s.o.Exit && s.o.Mux {
		s.write([]byte{ExitFrame, 0, 0, 0, 0, 0, 0, 4, byte(code >> 24), byte(code >> 16), byte(code >> 8), byte(code)})
	}
}

// flush sends what is pending.
func (s *stream) flush() {
	n, err := send(s.fd, s.pending)
	if err != nil && err != unix.EAGAIN {
		s.drop(endClosed)
		return
	}
	s.pending = s.pending[:copy(s.pending, s.pending[n:])]
	if n > 0 && !s.moved.IsZero() {
		s.moved = time.Now()
	}
	if len(s.pending) > 0 {
		return
	}
	if s.p.told {
		s.drop(endClosed)
		return
	}
	s.update()
	s.p.resume()
	s.p.check(time.Now())
}

// input reads what a client sends to the process.
func (s *stream) input() {
	m := s.p.m
	m.mem.dirty = true
	buf := m.mem.read[:16<<10]
	n, err := recv(s.fd, buf)
	switch {
	case err == unix.EAGAIN:
		return
	case n == 0: // also when the connection was reset
		s.endInput()
		return
	}
	typed := buf[:n]
	if s.keys == nil {
		s.p.stdin.write(typed)
		return
	}
	// Bytes that were held back may come before those just read.
	room := m.mem.read[len(buf) : len(buf) : len(m.mem.read)-len(buf)]
	out, _, detached := s.keys.Scan(room, typed)
	s.p.stdin.write(out)
	if detached {
		id := s.p.id
		s.drop(endDetached)
		m.tell(Event{Kind: EventDetach, ExecID: id})
	}
}

// endInput is what happens when a client's input ends; see the package comment.
func (s *stream) endInput() {
	p := s.p
	if s.keys != nil {
		p.stdin.write(s.keys.Flush(nil))
	}
	if p.stdin.once && !p.terminal {
		s.o.Stdin = false
		s.update()
		p.stdin.closeSoon()
		return
	}
	s.drop(endClosed)
}

// drop ends the attachment and closes the connection.
func (s *stream) drop(why reason) {
	if s.over {
		return
	}
	s.over = true
	m := s.p.m
	m.poll.forget(&s.watched)
	closeStream(m, s.fd)
	s.fd = -1
	s.pending = nil
	s.p.stream = without(s.p.stream, s)
	m.lingering = without(m.lingering, s)
	if s.owner != nil {
		s.owner.end(s.number, why)
	}
	if p := s.p; !p.told {
		if s.o.Stdin && p.stdin.once && !p.terminal && why == endClosed && !p.exited {
			p.stdin.closeSoon() // the client died
		}
		p.resume()
	}
}

// closeStream closes a client's connection so that it can read everything that was sent: what it sent to us and
// nobody read would make the kernel reset the connection.
func closeStream(m *monitor, fd int) {
	_ = unix.Shutdown(fd, unix.SHUT_WR)
	for range 64 {
		m.mem.dirty = true
		if n, err := recv(fd, m.mem.read[:4096]); n == 0 || err != nil {
			break
		}
	}
	// Others may hold the same connection open.
	_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	unix.Close(fd)
}

func without[T comparable](list []T, x T) []T {
	for i, v := range list {
		if v == x {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// sink is the standard input of a process.
type sink struct {
	watched
	p       *proc
	once    bool   // it ends with the first client's input
	closing bool   // to be closed when nothing is pending
	pending []byte // what the process has not taken yet; clients are not read meanwhile
}

func (k *sink) ready(events uint32) {
	if len(k.pending) == 0 {
		// Nobody reads it any more.
		k.close()
		return
	}
	n, err := write(k.fd, k.pending)
	if err != nil && err != unix.EAGAIN {
		k.close()
	} else {
		k.pending = k.pending[:copy(k.pending, k.pending[n:])]
	}
	if len(k.pending) > 0 {
		return
	}
	k.pending = nil
	if k.closing {
		k.close()
	}
	k.p.m.must(k.p.m.poll.want(&k.watched, k, 0))
	for i := len(k.p.stream) - 1; i >= 0; i-- {
		k.p.stream[i].update()
	}
}

// write hands input to the process. What it does not take at once is kept, and no more is read until it is gone.
func (k *sink) write(p []byte) {
	if k.fd < 0 || k.closing || len(p) == 0 {
		return // nobody reads it: as in a pipeline
	}
	if len(k.pending) > 0 {
		k.pending = append(k.pending, p...)
		return
	}
	n, err := write(k.fd, p)
	if err != nil && err != unix.EAGAIN {
		k.close()
		return
	}
	if n == len(p) {
		return
	}
	k.pending = append([]byte(nil), p[n:]...)
	k.p.m.must(k.p.m.poll.want(&k.watched, k, unix.EPOLLOUT))
	for _, s := range k.p.stream {
		s.update()
	}
}

// closeSoon closes the input after what is pending has been taken.
func (k *sink) closeSoon() {
	if len(k.pending) > 0 {
		k.closing = true
		return
	}
	k.close()
}

func (k *sink) close() {
	if k.fd < 0 {
		return
	}
	k.p.m.poll.drop(&k.watched)
	k.pending = nil
	for _, s := range k.p.stream {
		s.update()
	}
}
