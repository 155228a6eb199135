package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startLimit bounds the wait for a daemon that neither becomes ready nor dies.
const startLimit = 30 * time.Second

// autostart starts the daemon that stands beside this program and returns when it is ready. answers tells whether one
// answers in the meantime: of several command lines that want a daemon at once, one starts it and the others wait.
//
//	berth ──── setsid, exec ────▶ berthd
//	  │  NOTIFY_SOCKET=@…            │ opens its store, listens
//	  ◀──────── READY=1 ─────────────┘ (the protocol of sd_notify(3))
func (a *app) autostart(ctx context.Context, socket string, answers func() bool) error {
	cannot := func(format string, args ...any) error {
		return &connectError{fmt.Sprintf("cannot connect to the daemon at unix://%s: %s", socket,
			fmt.Sprintf(format, args...))}
	}
	if os.Geteuid() != 0 {
		return cannot("it is not running, and only root can start it: sudo berthd")
	}
	program, err := a.Daemon, error(nil)
	if program == "" {
		program, err = besideProgram("berthd")
	}
	if err != nil {
		return cannot("it is not running, and there is no berthd beside %s to start: install it there, "+
			"or start it by hand", filepath.Base(program))
	}
	dir := filepath.Dir(socket)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return cannot("it is not running and cannot be started: %v", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "autostart.lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return cannot("it is not running and cannot be started: %v", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return cannot("it is not running and cannot be started: lock %s: %v", lock.Name(), err)
	}
	if answers() {
		return nil // another command line started it while this one waited for the lock
	}
	return a.startDaemon(ctx, program, dir, answers, cannot)
}

func besideProgram(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return name, err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if info, err := os.Stat(path); err != nil || info.IsDir() {
		return self, fs.ErrNotExist
	}
	return path, nil
}

func (a *app) startDaemon(ctx context.Context, program, dir string, answers func() bool,
	cannot func(string, ...any) error) error {
	notify, name, err := notifySocket()
	if err != nil {
		return cannot("it is not running and cannot be started: %v", err)
	}
	defer notify.Close()
	log, err := a.daemonLog(dir)
	if err != nil {
		return cannot("it is not running and its log cannot be opened: %v", err)
	}
	defer log.Close()

	cmd := exec.Command(program)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(without(a.Env, "NOTIFY_SOCKET"), "NOTIFY_SOCKET="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return cannot("starting %s failed: %v", program, err)
	}
	a.warn("Started the daemon: %s (log in %s)", program, log.Name())

	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		notify.SetReadDeadline(time.Unix(1, 0)) // wakes the read below
	}()
	notify.SetReadDeadline(time.Now().Add(startLimit))
	stop := context.AfterFunc(ctx, func() { notify.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for buf := make([]byte, 4096); ; {
		n, err := notify.Read(buf)
		if err == nil {
			if ready(buf[:n]) {
				return nil
			}
			continue
		}
		select {
		case err := <-ended:
			if answers() {
				return nil // it gave way to one that was started otherwise
			}
			return cannot("%s ended at once (%v); the end of its log %s:\n%s", program, err, log.Name(),
				lastLines(log.Name(), 5))
		default:
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return cannot("%s was started but is not ready after %s; see its log %s", program, startLimit, log.Name())
		}
		return cannot("waiting for %s: %v", program, err)
	}
}

// notifySocket makes a datagram socket in the abstract name space, which leaves nothing behind in the file system.
func notifySocket() (*net.UnixConn, string, error) {
	name := fmt.Sprintf("@berth-notify-%d-%d", os.Getpid(), time.Now().UnixNano())
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	return conn, name, err
}

func ready(message []byte) bool {
	for line := range strings.Lines(string(message)) {
		if strings.TrimSpace(line) == "READY=1" {
			return true
		}
	}
	return false
}

func (a *app) daemonLog(dir string) (*os.File, error) {
	const flags = os.O_CREATE | os.O_APPEND | os.O_WRONLY
	logs := a.LogDir
	if logs == "" {
		logs = "/var/log"
	}
	if f, err := os.OpenFile(filepath.Join(logs, "berthd.log"), flags, 0o640); err == nil {
		return f, nil
	}
	return os.OpenFile(filepath.Join(dir, "berthd.log"), flags, 0o640)
}

func without(env []string, name string) []string {
	var kept []string
	for _, kv := range env {
		if !strings.HasPrefix(kv, name+"=") {
			kept = append(kept, kv)
		}
	}
	return kept
}

// lastLines returns the end of a text file, for a message.
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	buf := make([]byte, 8<<10)
	if info, err := f.Stat(); err == nil && info.Size() > int64(len(buf)) {
		f.Seek(-int64(len(buf)), 2)
	}
	m, _ := f.Read(buf)
	lines := strings.Split(strings.TrimSpace(string(buf[:m])), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
