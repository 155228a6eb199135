package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// Launcher starts containers. It keeps one monitor waiting, so that no start waits for a program to begin; starts
// that come at the same time begin their own.
type Launcher struct {
	exe  *os.File // sealed copy of berth-runtime
	path string   // that copy, as a path
	null *os.File

	mu     sync.Mutex
	spare  *process
	later  *time.Timer // makes the next spare; nil: none is due
	closed bool
	busy   sync.WaitGroup // of the goroutine that makes a spare
}

// spareRest is how long after a start the next spare is made, unless Prepare is called before: a container that does little is at its
// end by then, and making a spare would be in its way.
const spareRest = 50 * time.Millisecond

// process is a monitor that we started ourselves.
type process struct {
	conn *os.File
	proc *os.Process
}

// NewLauncher makes a sealed copy of the program at runtimePath, which every monitor is executed from, and a first
// spare.
func NewLauncher(runtimePath string) (*Launcher, error) {
	exe, err := linux.SealedCopy(runtimePath)
	if err != nil {
		return nil, fmt.Errorf("prepare the monitors: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, exe.Close())
	}
	l := &Launcher{exe: exe, null: null}
	// By way of our own pid: in the child the number may stand for another file.
	l.path = "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(exe.Fd()))
	l.refill(0)
	return l, nil
}

// Close ends the spare. Containers are not disturbed.
func (l *Launcher) Close() error {
	l.mu.Lock()
	l.closed = true
	if l.later != nil && l.later.Stop() {
		l.busy.Done()
	}
	l.mu.Unlock()
	l.busy.Wait()
	l.mu.Lock()
	spare := l.spare
	l.spare = nil
	l.mu.Unlock()
	if spare != nil {
		spare.discard()
	}
	return errors.Join(l.null.Close(), l.exe.Close())
}

// discard ends a monitor that has started nothing.
func (p *process) discard() {
	_ = p.conn.Close() // it sees the end of its socket
	_, _ = p.proc.Wait()
}

// spawn starts a monitor that waits.
func (l *Launcher) spawn() (*process, error) {
	ours, theirs, err := linux.SocketPair(unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// A session and a process group of its own: what is meant for the daemon's terminal must not reach it.
	proc, err := os.StartProcess(l.path, []string{"berth-runtime", "monitor"}, &os.ProcAttr{
		Dir: "/", Env: smallEnv(), Files: []*os.File{l.null, l.null, l.null, theirs},
		Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a monitor: %w", err), ours.Close())
	}
	return &process{ours, proc}, nil
}

// take gives a waiting monitor, the spare or a new one.
func (l *Launcher) take() (p *process, wasSpare bool, err error) {
	l.mu.Lock()
	p, l.spare = l.spare, nil
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil, false, errors.New("start a container: the launcher is closed")
	}
	if p != nil {
		return p, true, nil
	}
	p, err = l.spawn()
	return p, false, err
}

// refill makes a spare in the background, after a while, if there is none and none is due.
func (l *Launcher) refill(after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.later != nil && after == 0 && l.later.Stop() {
		l.later.Reset(0)
	}
	if l.spare != nil || l.later != nil || l.closed {
		return
	}
	l.busy.Add(1)
	l.later = time.AfterFunc(after, func() {
		defer l.busy.Done()
		l.mu.Lock()
		l.later = nil
		l.mu.Unlock()
		p, err := l.spawn()
		if err != nil {
			return // the next start will say what is wrong
		}
		l.mu.Lock()
		if l.spare == nil && !l.closed {
			l.spare, p = p, nil
		}
		l.mu.Unlock()
		if p != nil {
			p.discard()
		}
	})
}

// Prepare says that nobody waits for anything at the moment: if a spare is due, it is made now.
func (l *Launcher) Prepare() {
	l.mu.Lock()
	due := l.later != nil
	l.mu.Unlock()
	if due {
		l.refill(0)
	}
}

// Start runs a container and returns when its program does. Once the monitor has the order, cancelling ctx has no
// effect. The streams are the monitor's when it succeeds, and their files are closed here; when it fails they are
// still the caller's. When no program runs the error is a *StartError, and nothing is left behind.
func (l *Launcher) Start(ctx context.Context, c Config, f Files, attach []AttachStream) (*Client, *Started, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	c.Version = Version
	if len(c.Note) > 16<<10 {
		return nil, nil, fmt.Errorf("start container %q: the note has %d bytes", c.ID, len(c.Note))
	}
	msg, files, err := startMessage(c, f, attach)
	if err != nil {
		return nil, nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	p, wasSpare, err := l.take()
	if err != nil {
		return nil, nil, err
	}
	err = sendMessage(p.conn, msg, files)
	if err != nil && wasSpare {
		// Somebody has killed the spare.
		p.discard()
		if p, err = l.spawn(); err != nil {
			return nil, nil, err
		}
		err = sendMessage(p.conn, msg, files)
	}
	if err != nil {
		p.discard()
		return nil, nil, fmt.Errorf("start container %q: %w", c.ID, err)
	}
	client, err := newClient(p.conn, c.Dir, p.proc)
	if wasSpare {
		l.refill(spareRest)
	} else {
		l.refill(0) // they come faster than that
	}
	if err != nil {
		return nil, nil, err
	}
	for _, s := range attach {
		_ = s.Conn.Close()
	}
	started := client.Info()
	return client, &started, nil
}

// startMessage is the order to start a container.
func startMessage(c Config, f Files, attach []AttachStream) (msg []byte, files []*os.File, err error) {
	d := document{Config: c}
	add := func(name string, f *os.File) {
		d.Files = append(d.Files, name)
		files = append(files, f)
	}
	if f.Rootfs != nil {
		add(nameRootfs, f.Rootfs)
	}
	for kind, ns := range f.Namespaces {
		add(nameNamespace+string(kind), ns)
	}
	for destination, tree := range f.Trees {
		add(nameTree+destination, tree)
	}
	for _, s := range attach {
		add(nameStream, s.Conn)
		d.Streams = append(d.Streams, s.Options)
	}
	if len(files) >= linux.MaxFds {
		return nil, nil, fmt.Errorf("%d clients are waiting to be attached, which is too many", len(attach))
	}
	text, err := json.Marshal(&d)
	if err != nil {
		return nil, nil, err
	}
	m := pack(opStart, 0)
	m.bytes(text)
	return m.b, files, nil
}

// sendMessage sends a message, by way of a file if it is too large for the socket.
func sendMessage(conn *os.File, msg []byte, files []*os.File) error {
	if len(msg) > maxMessage {
		if len(msg) > maxLarge {
			return fmt.Errorf("a message of %d bytes is too large for a monitor", len(msg))
		}
		fd, err := unix.MemfdCreate("message", unix.MFD_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("memfd_create", err)
		}
		f := os.NewFile(uintptr(fd), "message")
		defer f.Close()
		if _, err := f.Write(msg); err != nil {
			return err
		}
		msg, files = pack(opLarge, 0).b, append([]*os.File{f}, files...)
	}
	_, err := linux.SendMsg(conn, msg, files...)
	return err
}
