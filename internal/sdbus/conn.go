package sdbus

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	booted        = "/run/systemd/system" // sd_booted(3)
	privateSocket = "/run/systemd/private"
	systemBus     = "/run/dbus/system_bus_socket"
)

// Property is a unit's property with a value of type string, bool, uint64, []uint32 or []byte.
type Property struct {
	Name  string
	Value any
}

// Error is what systemd answers to a call that it refuses. Name is a D-Bus error name.
type Error struct{ Name, Message string }

// Error tells systemd's own words, which are made for people.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Message
}

// Conn is a connection to systemd, for one caller at a time.
type Conn struct {
	file   io.ReadWriteCloser
	in     *bufio.Reader
	serial uint32
	jobs   map[string]string // the results of jobs that have ended
}

type target struct{ name, path, iface string }

// manager and bus are whom calls go to.
func manager() target {
	return target{"org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"}
}

func bus() target {
	return target{"org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"}
}

// Dial connects to the systemd that runs this machine. ctx's deadline holds for the connection's whole life. An error wraps
// errdefs.ErrFailedPrecondition where systemd does not run.
func Dial(ctx context.Context) (*Conn, error) {
	if err := unix.Access(booted, unix.F_OK); err != nil {
		return nil, fmt.Errorf("systemd does not run this machine (there is no %s): leave --systemd-cgroup out and give cgroupsPath "+
			"as a path: %w", booted, errdefs.ErrFailedPrecondition)
	}
	file, onBus, err := either(ctx, privateSocket, systemBus)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd, which only root can, or who is let in at the system bus: %w", err)
	}
	return login(file, os.Getuid(), onBus)
}

// DialUser connects to the systemd of the user's session, by the number that the user has outside of all user namespaces and the
// directory XDG_RUNTIME_DIR. An error wraps errdefs.ErrFailedPrecondition where there is none.
func DialUser(ctx context.Context, uid int, runtimeDir string) (*Conn, error) {
	const next = "log in, or have one kept: loginctl enable-linger"
	if runtimeDir == "" {
		return nil, fmt.Errorf("user %d has no session of systemd (XDG_RUNTIME_DIR is not set); %s: %w", uid, next, errdefs.ErrFailedPrecondition)
	}
	file, onBus, err := either(ctx, runtimeDir+"/systemd/private", runtimeDir+"/bus")
	if err != nil {
		return nil, fmt.Errorf("user %d has no session of systemd (%w); %s: %w", uid, err, next, errdefs.ErrFailedPrecondition)
	}
	return login(file, uid, onBus)
}

// either connects to systemd's own socket or to a bus.
func either(ctx context.Context, private, bus string) (file *os.File, onBus bool, err error) {
	if file, err = connect(ctx, private); err == nil {
		return file, false, nil
	}
	file, berr := connect(ctx, bus)
	if berr != nil {
		return nil, false, errors.Join(err, berr)
	}
	return file, true, nil
}

func login(file *os.File, uid int, onBus bool) (*Conn, error) {
	c, err := open(file, uid, onBus)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return c, nil
}

func connect(ctx context.Context, socket string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %q: %w", socket, err), unix.Close(fd))
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that deadlines hold
		return nil, errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), socket)
	if until, ok := ctx.Deadline(); ok {
		if err := f.SetDeadline(until); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// open says who we are and, on a bus, what we want to hear.
func open(file io.ReadWriteCloser, user int, onBus bool) (*Conn, error) {
	c := &Conn{file: file, in: bufio.NewReader(file), jobs: map[string]string{}}
	uid := hex.EncodeToString([]byte(strconv.Itoa(user)))
	// BEGIN goes along, as systemd's own clients send it: what comes after it in one piece with the first call, systemd reads and leaves
	// lying until something else comes.
	if _, err := io.WriteString(file, "\x00AUTH EXTERNAL "+uid+"\r\nBEGIN\r\n"); err != nil {
		return nil, fmt.Errorf("log in at systemd: %w", err)
	}
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("log in at systemd: %w", err)
	}
	if answer := strings.TrimSpace(string(line)); answer != "OK" && !strings.HasPrefix(answer, "OK ") {
		return nil, fmt.Errorf("systemd does not let user %d in: it answers %q: %w", user, answer, errdefs.ErrPermissionDenied)
	}
	if !onBus {
		return c, nil
	}
	if _, err := c.call(bus(), "Hello", "", nil); err != nil {
		return nil, fmt.Errorf("greet the system bus: %w", err)
	}
	e := &encoder{}
	e.str("type='signal',sender='org.freedesktop.systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'")
	if _, err := c.call(bus(), "AddMatch", "s", e.b); err != nil {
		return nil, fmt.Errorf("ask the system bus for signals: %w", err)
	}
	if _, err := c.call(manager(), "Subscribe", "", nil); err != nil {
		return nil, fmt.Errorf("ask systemd for signals: %w", err)
	}
	return c, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return c.file.Close() }

// call calls a method and waits for the answer.
func (c *Conn) call(to target, member, signature string, body []byte) (*message, error) {
	c.serial++
	if _, err := c.file.Write(call(c.serial, to, member, signature, body)); err != nil {
		return nil, err
	}
	for {
		m, err := c.next()
		if err != nil {
			return nil, err
		}
		if m.replySerial != c.serial {
			continue
		}
		switch m.kind {
		case typeReply:
			return m, nil
		case typeError:
			e := &Error{Name: m.errorName}
			if strings.HasPrefix(m.signature, "s") {
				e.Message = m.body.str()
			}
			return nil, e
		}
	}
}

// next reads a message and keeps the end of a job.
func (c *Conn) next() (*message, error) {
	m, err := readMessage(c.in)
	if err != nil {
		return nil, fmt.Errorf("listen to systemd: %w", err)
	}
	if m.kind == typeSignal && m.member == "JobRemoved" && m.iface == manager().iface && m.signature == "uoss" {
		m.body.u32()
		job := m.body.str()
		m.body.str()
		result := m.body.str()
		if m.body.err != nil {
			return nil, m.body.err
		}
		c.jobs[job] = result
	}
	return m, nil
}

// finish calls a method that answers with a job, and waits for the job's end.
func (c *Conn) finish(member, signature string, body []byte) error {
	m, err := c.call(manager(), member, signature, body)
	if err != nil {
		return err
	}
	if m.signature != "o" {
		return fmt.Errorf("systemd answers %s with %q and not with a job", member, m.signature)
	}
	job := m.body.str()
	if m.body.err != nil {
		return m.body.err
	}
	for {
		if result, ended := c.jobs[job]; ended {
			if result != "done" {
				return fmt.Errorf("systemd's job ended with %q; see journalctl", result)
			}
			return nil
		}
		if _, err := c.next(); err != nil {
			return err
		}
	}
}

// Start makes a transient unit and waits until it has started. The error wraps errdefs.ErrAlreadyExists for a name in use.
func (c *Conn) Start(unit string, properties []Property) error {
	e := &encoder{}
	e.str(unit)
	e.str("fail")
	if err := e.properties(properties); err != nil {
		return err
	}
	e.array(8, func() {}) // no units beside it
	err := c.finish("StartTransientUnit", "ssa(sv)a(sa(sv))", e.b)
	if named(err, "org.freedesktop.systemd1.UnitExists") {
		return fmt.Errorf("systemd has a unit %q already; systemctl stop it, or choose another name: %w", unit, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("start unit %q: %w", unit, err)
	}
	return nil
}

// Set changes properties until the unit's end. An empty list changes nothing.
func (c *Conn) Set(unit string, properties []Property) error {
	if len(properties) == 0 {
		return nil
	}
	e := &encoder{}
	e.str(unit)
	e.boolean(true) // for the run alone, nothing is kept
	if err := e.properties(properties); err != nil {
		return err
	}
	if _, err := c.call(manager(), "SetUnitProperties", "sba(sv)", e.b); err != nil {
		return fmt.Errorf("set the properties of unit %q: %w", unit, err)
	}
	return nil
}

// Stop ends a unit and lets systemd forget how. One that does not exist (any more) is not an error: a scope ends with its last
// process.
func (c *Conn) Stop(unit string) error {
	e := &encoder{}
	e.str(unit)
	e.str("replace")
	if err := c.finish("StopUnit", "ss", e.b); err != nil && !unknown(err) {
		return fmt.Errorf("stop unit %q: %w", unit, err)
	}
	e = &encoder{}
	e.str(unit)
	if _, err := c.call(manager(), "ResetFailedUnit", "s", e.b); err != nil && !unknown(err) {
		return fmt.Errorf("reset unit %q: %w", unit, err)
	}
	return nil
}

func unknown(err error) bool { return named(err, "org.freedesktop.systemd1.NoSuchUnit") }

func named(err error, name string) bool {
	var e *Error
	return errors.As(err, &e) && e.Name == name
}

// Timeout is how long systemd may take for what a connection is for.
const Timeout = time.Minute
