package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Client is a connection to a container's monitor. It may be used by several goroutines.
type Client struct {
	dir  string
	conn *os.File
	proc *os.Process // of a monitor we started ourselves; reaped when it has gone
	info Started

	events chan Event
	closed chan struct{} // by Close

	mu       sync.Mutex
	next     uint32
	waiting  map[uint32]chan reply
	streams  map[uint32]chan error
	queue    []Event // events that nobody has taken yet
	feeding  bool    // a goroutine is putting the queue into events
	over     bool    // nothing more comes from the monitor
	exit     *Exit
	waiters  []chan Exit
	closeErr error
	shut     bool
}

// reply is the answer to a request; gone is that of a monitor that is no more.
type reply struct {
	failure failure
	message string
	pid     int
	gone    bool
}

// newClient waits for the monitor's first word. conn is the client's from then on.
func newClient(conn *os.File, dir string, proc *os.Process) (*Client, error) {
	c := &Client{dir: dir, conn: conn, proc: proc, events: make(chan Event, 4), closed: make(chan struct{}),
		waiting: map[uint32]chan reply{}, streams: map[uint32]chan error{}}
	buf := make([]byte, maxMessage)
	n, err := c.receive(buf)
	if err == nil && n == 0 {
		err = &StartError{Code: 125, Message: "the container's monitor has ended unexpectedly"}
	}
	if err == nil {
		err = c.hello(buf[:n])
	}
	if err != nil {
		_ = conn.Close()
		c.reap()
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Time{})
	go c.read(buf)
	return c, nil
}

// dialTimeout is how long a monitor may take to say its first word to a daemon that has connected: it may be swapped
// out, but a stuck one shall not hold up everything.
const dialTimeout = 30 * time.Second

// hello takes the first message.
func (c *Client) hello(msg []byte) error {
	o, _, u, err := unpack(msg)
	if err != nil {
		return err
	}
	switch o {
	case opFailed:
		return &StartError{Code: int(u.num()), Message: u.str()}
	case opHello:
	default:
		return fmt.Errorf("a monitor begins with message %d: %w", o, errMessage)
	}
	_ = u.num() // its version: fields are only ever appended
	c.info.Pid, c.info.MonitorPid = int(u.num()), int(u.num())
	c.info.StartedAt = u.time()
	c.info.Note = append([]byte(nil), u.bytes()...)
	for n := u.num(); n > 0 && !u.bad && len(u.b) > 0; n-- {
		c.info.Warnings = append(c.info.Warnings, u.str())
	}
	c.info.TellsExit = u.num()&canTellExit != 0
	if u.bad {
		return errMessage
	}
	return nil
}

// Dial connects to the monitor of a running container. The error wraps errdefs.ErrNotFound when there is none: ReadExit
// then tells how the container ended.
func Dial(ctx context.Context, dir string) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err == nil {
		defer d.Close()
		var fd int
		if fd, err = dial(underDir(int(d.Fd()), socketName)); err == nil {
			var c *Client
			conn := os.NewFile(uintptr(fd), "monitor")
			stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
			_ = conn.SetReadDeadline(time.Now().Add(dialTimeout))
			if c, err = newClient(conn, dir, nil); err == nil && stop() {
				return c, nil
			}
			if err == nil { // cancelled at the last moment
				_ = c.Close()
				err = ctx.Err()
			}
			var ended *StartError
			if errors.As(err, &ended) { // between our connecting and its looking it has ended
				err = unix.ECONNREFUSED
			}
		}
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("no monitor answers in %q: %w", dir, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("connect to the monitor in %q: %w", dir, err)
}

func dial(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err != unix.EINTR {
			break
		}
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// Info is what is known of the container since its start.
func (c *Client) Info() Started { return c.info }

// Events are what happens to the container, in its order. The channel is closed after the exit event, when the
// monitor is gone without one, and by Close.
func (c *Client) Events() <-chan Event { return c.events }

// Wait gives the container's exit once. The channel is closed without one if the monitor was killed, or Close was
// called first.
func (c *Client) Wait() <-chan Exit {
	ch := make(chan Exit, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.exit != nil:
		ch <- *c.exit
		close(ch)
	case c.over:
		close(ch)
	default:
		c.waiters = append(c.waiters, ch)
	}
	return ch
}

// Attach hands a client's connection to the monitor, which serves it from the moment Attach has returned, daemon or
// no daemon. conn stays open here and is for the caller to close. done gives nil when the attachment is over, or an
// error when the connection to the monitor is lost before.
func (c *Client) Attach(ctx context.Context, conn *os.File, o AttachOptions) (done <-chan error, err error) {
	number, over := c.newStream()
	_, err = c.call(ctx, opAttach, func(p *packer) { p.options(number, o) }, conn)
	if err != nil {
		c.forgetStream(number)
		return nil, fmt.Errorf("attach: %w", err)
	}
	return over, nil
}

func (c *Client) newStream() (uint32, chan error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	over := make(chan error, 1)
	c.streams[c.next] = over
	return c.next, over
}

func (c *Client) forgetStream(number uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, number)
}

// Exec runs a further process in the container and returns when its program does; an "exec-exit" event tells its end.
// With a conn, which the caller closes, the process is attached to it from its first byte on; without one what it
// prints is lost. An exec that does not start is a *StartError, and conn is as it was. When ctx ends first the
// process may run all the same.
func (c *Client) Exec(ctx context.Context, e ExecConfig, conn *os.File, o AttachOptions) (ExecStarted, error) {
	process, err := json.Marshal(e.Process)
	if err != nil {
		return ExecStarted{}, err
	}
	var listener []byte
	if e.Listener != nil {
		if listener, err = json.Marshal(e.Listener); err != nil {
			return ExecStarted{}, err
		}
	}
	if o.Rows == 0 || o.Cols == 0 {
		o.Rows, o.Cols = e.Rows, e.Cols
	}
	var files []*os.File
	if conn != nil {
		files = append(files, conn)
	}
	r, err := c.call(ctx, opExec, func(p *packer) {
		p.options(0, o) // no name: the exit event tells enough
		p.str(e.ID)
		p.num(bit(e.Terminal, flagTerminal) | bit(e.OpenStdin, flagOpenStdin))
		p.bytes(process)
		p.bytes(e.Seccomp)
		p.num(e.SeccompFlags)
		p.bytes(listener)
	}, files...)
	return ExecStarted{Pid: r.pid}, err
}

// Signal sends a signal to the container's first process.
func (c *Client) Signal(ctx context.Context, sig int) error { return c.SignalExec(ctx, "", sig) }

// SignalExec sends a signal to an exec. The error wraps errdefs.ErrNotFound when it has ended.
func (c *Client) SignalExec(ctx context.Context, execID string, sig int) error {
	_, err := c.call(ctx, opSignal, func(p *packer) {
		p.str(execID)
		p.num(uint32(sig))
	})
	if err != nil {
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	return nil
}

// Resize sets the size of a terminal, the container's own or an exec's.
func (c *Client) Resize(ctx context.Context, execID string, rows, cols uint16) error {
	_, err := c.call(ctx, opResize, func(p *packer) {
		p.str(execID)
		p.num(uint32(rows))
		p.num(uint32(cols))
	})
	if err != nil {
		return fmt.Errorf("resize the terminal: %w", err)
	}
	return nil
}

// Close ends the connection. The container and its streams go on.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shut {
		c.shut = true
		close(c.closed)
		c.closeErr = c.conn.Close()
	}
	return c.closeErr
}

// call sends a request and waits for its reply.
func (c *Client) call(ctx context.Context, o op, fields func(*packer), files ...*os.File) (reply, error) {
	if err := ctx.Err(); err != nil {
		return reply{}, err
	}
	answer := make(chan reply, 1)
	c.mu.Lock()
	if c.over || c.shut {
		c.mu.Unlock()
		return reply{}, errGone()
	}
	c.next++
	id := c.next
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	p := pack(o, id)
	fields(p)
	if err := sendMessage(c.conn, p.b, files); err != nil {
		// Closed under our hands, the socket gives an error that only package poll can tell from others.
		c.mu.Lock()
		closed := c.over || c.shut
		c.mu.Unlock()
		if closed || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrClosed) {
			err = errGone()
		}
		return reply{}, err
	}
	select {
	case r := <-answer:
		return r, r.err()
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
}

func errGone() error {
	return fmt.Errorf("the container's monitor is gone: %w", errdefs.ErrNotFound)
}

func (r reply) err() error {
	switch {
	case r.gone:
		return errGone()
	case r.failure == ok:
		return nil
	case r.failure >= failedStart:
		return &StartError{Code: int(r.failure - failedStart), Message: r.message}
	case r.failure == failedNotFound:
		return fmt.Errorf("%s: %w", r.message, errdefs.ErrNotFound)
	case r.failure == failedInvalid:
		return fmt.Errorf("%s: %w", r.message, errdefs.ErrInvalidArgument)
	case r.failure == failedConflict:
		return fmt.Errorf("%s: %w", r.message, errdefs.ErrConflict)
	}
	return errors.New(r.message)
}

// receive takes one message; n is 0 at the end of the connection.
func (c *Client) receive(buf []byte) (n int, err error) {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		var fds []int
		n, fds, recvErr = recvMessage(int(fd), buf, nil, unix.MSG_DONTWAIT)
		closeAll(fds)
		return recvErr != unix.EAGAIN
	})
	if err == nil {
		err = recvErr
	}
	return n, err
}

// read takes what the monitor says until it is gone.
func (c *Client) read(buf []byte) {
	for {
		n, err := c.receive(buf)
		if n == 0 || err != nil || !c.message(buf[:n]) {
			break
		}
	}
	c.finish()
	c.reap()
}

// message handles one message; false ends the conversation.
func (c *Client) message(msg []byte) bool {
	o, id, u, err := unpack(msg)
	if err != nil {
		return false
	}
	switch o {
	case opReply:
		r := reply{failure: failure(u.num()), message: u.str(), pid: int(u.num())}
		c.mu.Lock()
		answer := c.waiting[id]
		delete(c.waiting, id)
		c.mu.Unlock()
		if answer != nil {
			answer <- r
		}
	case opEvent:
		seq := u.long()
		kind := u.num()
		e := Event{ExecID: u.str(), Exit: u.exit()}
		if u.bad {
			return false
		}
		if int(kind) >= len(kinds) || kinds[kind] == "" {
			break // of a newer monitor
		}
		e.Kind = kinds[kind]
		c.deliver(e)
		if e.Kind == EventExit {
			return false
		}
		p := pack(opAck, 0)
		p.long(seq)
		_ = sendMessage(c.conn, p.b, nil) // if the monitor is gone, we shall read so
	case opEnd:
		number, why := u.num(), reason(u.num())
		_ = why // an event tells of keys that were typed
		c.mu.Lock()
		over := c.streams[number]
		delete(c.streams, number)
		c.mu.Unlock()
		if over != nil {
			over <- nil
		}
	}
	return true
}

// deliver puts an event into the channel, now or when somebody takes what is before it. The reader never waits, as
// whoever takes the events may be waiting for a reply.
func (c *Client) deliver(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Kind == EventExit {
		c.exit = &e.Exit
	}
	c.queue = append(c.queue, e)
	if c.feeding {
		return
	}
	for len(c.queue) > 0 {
		select {
		case c.events <- c.queue[0]:
			c.queue = c.queue[1:]
			continue
		default:
		}
		c.feeding = true
		go c.feed()
		return
	}
}

// feed waits for somebody to take the events. It closes the channel if that was left to it.
func (c *Client) feed() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.feeding = false
			if c.over {
				close(c.events)
			}
			c.mu.Unlock()
			return
		}
		e := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		select {
		case c.events <- e:
		case <-c.closed:
			c.mu.Lock()
			c.queue = nil
			c.mu.Unlock()
		}
	}
}

// finish tells everybody who waits that nothing more will come.
func (c *Client) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for id, answer := range c.waiting {
		delete(c.waiting, id)
		answer <- reply{gone: true}
	}
	for number, over := range c.streams {
		delete(c.streams, number)
		if c.exit != nil {
			over <- nil
		} else {
			over <- errGone()
		}
	}
	for _, w := range c.waiters {
		if c.exit != nil {
			w <- *c.exit
		}
		close(w)
	}
	c.waiters = nil
	if !c.feeding {
		close(c.events)
	}
}

// reap waits for the end of a monitor that we started; after its exit event that takes no time, unless a client is
// slow to take what the container printed.
func (c *Client) reap() {
	if c.proc == nil {
		return
	}
	go func() {
		_, _ = c.proc.Wait()
		_ = c.Close()
	}()
}
