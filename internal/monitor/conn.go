package monitor

import (
	"fmt"
	"io/fs"
	"time"

	"github.com/berth-engine/berth/internal/tty"
	"golang.org/x/sys/unix"
)

// conn is a daemon's connection.
type conn struct {
	watched
	m        *monitor
	queue    [][]byte // what its socket has not taken yet
	deadline time.Time
}

// maxQueue bounds what waits for a daemon that does not read; it has to come back and ask anew.
const maxQueue = 1024

// maxRequestFds is how many descriptors a request may carry.
const maxRequestFds = 4

// manyRequests is after how many requests becoming small pays.
const manyRequests = 256

// connect begins to serve a connection.
func (m *monitor) connect(fd int) *conn {
	c := &conn{watched: unwatched(fd), m: m}
	if err := m.poll.want(&c.watched, c, unix.EPOLLIN); err != nil {
		m.complain(err)
		unix.Close(fd)
		return nil
	}
	m.conns = append(m.conns, c)
	return c
}

func (c *conn) ready(events uint32) {
	if events&unix.EPOLLOUT != 0 {
		c.flush()
	}
	if c.fd >= 0 && events&^unix.EPOLLOUT != 0 {
		c.receive()
	}
}

// receive takes one request.
func (c *conn) receive() {
	m := c.m
	m.mem.dirty = true
	var oob [64]byte
	n, fds, err := recvMessage(c.fd, m.mem.msg, oob[:unix.CmsgSpace(4*maxRequestFds)], unix.MSG_DONTWAIT)
	if err == unix.EAGAIN {
		return
	}
	if err != nil || n == 0 {
		c.drop()
		return
	}
	fds, err = c.request(m.mem.msg[:n], fds)
	closeAll(fds)
	if err != nil {
		c.drop() // it does not speak our language
	}
}

// request carries out one request and returns the descriptors that were not needed.
func (c *conn) request(msg []byte, fds []int) ([]int, error) {
	m := c.m
	if m.requests++; m.requests > manyRequests {
		m.fat() // each costs a few hundred bytes
	}
	o, id, u, err := unpack(msg)
	if err != nil {
		return fds, err
	}
	if o == opLarge {
		if len(fds) == 0 {
			return fds, errMessage
		}
		if msg, err = readLarge(fds[0]); err != nil {
			return fds, err
		}
		m.fat()
		unix.Close(fds[0])
		fds = fds[1:]
		if o, id, u, err = unpack(msg); err != nil {
			return fds, err
		}
	}
	switch o {
	case opAck:
		seq := u.long()
		if u.bad {
			return fds, errMessage
		}
		m.acknowledged(seq)
		return fds, nil
	case opAttach:
		stream, options := u.options()
		if u.bad || len(fds) == 0 {
			return fds, errMessage
		}
		if !isStream(fds[0]) {
			c.reply(id, failedInvalid, "what was handed over to be attached is not a stream socket", 0)
			return fds, nil
		}
		if m.init.exited {
			c.reply(id, failedNotFound, "the container has ended", 0)
			return fds, nil
		}
		if err := m.attach(m.init, fds[0], options, c, stream); err != nil {
			c.reply(id, failedOther, err.Error(), 0)
			return fds, nil
		}
		fds = fds[1:]
		c.reply(id, ok, "", 0)
	case opExec:
		return c.exec(id, u, fds)
	case opSignal:
		execID, sig := u.str(), u.num()
		if u.bad {
			return fds, errMessage
		}
		c.onProc(id, execID, func(p *proc) error { return p.signal(int(sig)) })
	case opResize:
		execID, rows, cols := u.str(), u.num(), u.num()
		if u.bad {
			return fds, errMessage
		}
		if p := m.proc(execID); p != nil && p.tty < 0 {
			c.reply(id, failedInvalid, "there is no terminal", 0)
			break
		}
		c.onProc(id, execID, func(p *proc) error { return tty.SetSize(p.tty, uint16(rows), uint16(cols)) })
	default:
		c.reply(id, failedInvalid, fmt.Sprintf("operation %d is not known to this monitor", o), 0)
	}
	return fds, nil
}

// onProc does something with a process and replies.
func (c *conn) onProc(id uint32, execID string, fn func(*proc) error) {
	p := c.m.proc(execID)
	if p == nil {
		c.reply(id, failedNotFound, "the process has ended", 0)
		return
	}
	switch err := fn(p); {
	case err == nil:
		c.reply(id, ok, "", 0)
	case isErrno(err, unix.ESRCH):
		c.reply(id, failedNotFound, "the process has ended", 0)
	case isErrno(err, unix.EINVAL):
		c.reply(id, failedInvalid, err.Error(), 0)
	default:
		c.reply(id, failedOther, err.Error(), 0)
	}
}

// readLarge reads a message from the file that stands for it.
func readLarge(fd int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < headerSize || st.Size > maxLarge {
		return nil, fmt.Errorf("a message of %d bytes, mode %v: %w", st.Size, fs.FileMode(st.Mode), errMessage)
	}
	msg := make([]byte, st.Size)
	for at := 0; at < len(msg); {
		n, err := unix.Pread(fd, msg[at:], int64(at))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return nil, errMessage
		}
		at += n
	}
	if op(msg[0]) == opLarge {
		return nil, errMessage
	}
	return msg, nil
}

func (c *conn) reply(id uint32, f failure, message string, pid int) {
	p := pack(opReply, id)
	p.num(uint32(f))
	p.str(clip(message))
	p.num(uint32(pid))
	c.send(p.b)
}

// clip bounds a text that becomes a part of a message.
func clip(s string) string { return s[:min(len(s), 8<<10)] }

func (c *conn) event(e event) {
	p := pack(opEvent, 0)
	p.long(e.seq)
	p.num(kindNumber(e.Kind))
	p.str(e.ExecID)
	p.exit(e.Exit)
	c.send(p.b)
}

func (c *conn) end(stream uint32, why reason) {
	p := pack(opEnd, 0)
	p.num(stream)
	p.num(uint32(why))
	c.send(p.b)
}

// hello introduces the container, and repeats what no daemon has acknowledged.
func (c *conn) hello() {
	m := c.m
	p := pack(opHello, 0)
	p.num(Version)
	p.num(uint32(m.pid))
	p.num(uint32(unix.Getpid()))
	p.time(m.startedAt)
	p.bytes(m.note)
	warnings := m.warnings[:min(len(m.warnings), 4)]
	p.num(uint32(len(warnings)))
	for _, w := range warnings {
		p.str(clip(w))
	}
	p.num(canTellExit)
	c.send(p.b)
	for _, e := range m.events {
		c.event(e)
	}
}

// send sends a message, now or when the socket takes it.
func (c *conn) send(msg []byte) {
	if c.fd < 0 {
		return
	}
	if len(c.queue) == 0 {
		_, err := send(c.fd, msg)
		if err == nil {
			return
		}
		if err != unix.EAGAIN {
			c.drop()
			return
		}
	}
	if len(c.queue) == maxQueue {
		c.drop()
		return
	}
	c.queue = append(c.queue, msg)
	if c.m.poll.want(&c.watched, c, unix.EPOLLIN|unix.EPOLLOUT) != nil {
		c.drop()
	}
}

func (c *conn) flush() {
	for len(c.queue) > 0 {
		_, err := send(c.fd, c.queue[0])
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			c.drop()
			return
		}
		c.queue = c.queue[1:]
	}
	c.queue = nil
	c.m.must(c.m.poll.want(&c.watched, c, unix.EPOLLIN))
}

// drop closes the connection. Its streams go on.
func (c *conn) drop() {
	if c.fd < 0 {
		return
	}
	m := c.m
	m.poll.drop(&c.watched)
	c.queue = nil
	m.conns = without(m.conns, c)
	disown := func(list []*stream) {
		for _, s := range list {
			if s.owner == c {
				s.owner = nil
			}
		}
	}
	disown(m.init.stream)
	disown(m.lingering)
	for _, p := range m.execs {
		disown(p.stream)
	}
}

// listener accepts daemons.
type listener struct {
	watched
	m *monitor
}

func (l *listener) ready(uint32) {
	fd, _, err := unix.Accept4(l.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return // whoever it was has gone
	}
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Uid != 0 || len(l.m.conns) >= maxConns {
		unix.Close(fd)
		return
	}
	if c := l.m.connect(fd); c != nil {
		c.hello()
	}
}

// listen makes the socket in the run directory, which is open as dirFd: a path through it is never too long for a
// socket.
func (m *monitor) listen(dirFd int) error {
	path := underDir(dirFd, socketName)
	if err := unix.Unlink(path); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove the old socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("make the socket: %w", err)
	}
	m.listener.fd = fd
	// Nobody can connect before listen, so the mode is right in time.
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("bind the socket in %q: %w", m.dir, err)
	}
	if err := unix.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("protect the socket in %q: %w", m.dir, err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		return fmt.Errorf("listen on the socket in %q: %w", m.dir, err)
	}
	return nil
}
