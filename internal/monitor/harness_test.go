package monitor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/ocirun"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The test binary is its own berth-runtime, and, for the tests that kill one, its own daemon.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "monitor" {
		os.Exit(run(os.Args[2:], plainBackend()))
	}
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		os.Exit(daemon(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// plainBackend starts ordinary processes instead of containers.
func plainBackend() backend {
	return backend{exe: "/proc/self/exe", slimAfter: 300 * time.Millisecond,
		start: func(_ context.Context, o ocirun.StartOptions) (*ocirun.Process, error) {
			p, err := plainProcess(o.Spec.Process, [3]*os.File{o.Stdin, o.Stdout, o.Stderr}, o.Terminal)
			if err == nil && o.Cgroup != nil {
				err = joinCgroup(p.Pid, o)
			}
			return p, err
		},
		exec: func(_ context.Context, o ocirun.ExecOptions) (*ocirun.Process, error) {
			return plainProcess(o.Process, [3]*os.File{o.Stdin, o.Stdout, o.Stderr}, o.Terminal)
		}}
}

func joinCgroup(pid int, o ocirun.StartOptions) error {
	files, err := o.Cgroup.ProcsFiles()
	for _, f := range files {
		if _, werr := f.WriteString(strconv.Itoa(pid)); werr != nil {
			err = errors.Join(err, werr)
		}
		f.Close()
	}
	return err
}

func plainProcess(p *specs.Process, stdio [3]*os.File, terminal bool) (*ocirun.Process, error) {
	if p.Args[0] == "/missing" {
		return nil, errors.New("the program is missing")
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var master *os.File
	if terminal {
		var slave *os.File
		if master, slave, err = openTerminal(); err != nil {
			return nil, err
		}
		defer slave.Close()
		stdio = [3]*os.File{slave, slave, slave}
	}
	attr := &syscall.ProcAttr{Env: p.Env, Sys: &syscall.SysProcAttr{Setsid: true, Setctty: terminal}}
	for _, f := range stdio {
		if f == nil {
			f = null
		}
		attr.Files = append(attr.Files, f.Fd())
	}
	fd := -1
	attr.Sys.PidFD = &fd
	pid, err := syscall.ForkExec(p.Args[0], p.Args, attr)
	if err != nil {
		return nil, err
	}
	return &ocirun.Process{Pid: pid, Pidfd: os.NewFile(uintptr(fd), "pidfd"), Master: master}, nil
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, errno
	}
	return os.NewFile(uintptr(fd), "master"), os.NewFile(peer, "slave"), nil
}

// daemon is a daemon for tests that kill one: it does as its words say and then waits to be killed.
func daemon(args []string) int {
	ctx := context.Background()
	l, err := NewLauncher("/proc/self/exe")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, a := range args {
		word, dir, _ := strings.Cut(a, "=")
		switch word {
		case "start":
			c := shell(dir, os.Getenv("SCRIPT"))
			if _, _, err := l.Start(ctx, c, Files{}, nil); err != nil {
				fmt.Println(err)
				return 1
			}
			fmt.Println("started")
		case "loop": // starts, execs, signals, as fast as it can
			for i := 0; ; i++ {
				c := shell(filepath.Join(dir, strconv.Itoa(i)), "read x; exit 3")
				c.OpenStdin = true
				os.MkdirAll(c.Dir, 0o700)
				fmt.Println("starting", i)
				client, _, err := l.Start(ctx, c, Files{}, nil)
				if err != nil {
					fmt.Println(err)
					return 1
				}
				fmt.Println("started", i)
				_, _ = client.Exec(ctx, ExecConfig{ID: "e", Process: command("exit 5")}, nil, AttachOptions{})
				if i%3 == 0 {
					_ = client.Signal(ctx, 9)
				}
			}
		}
	}
	for {
		time.Sleep(time.Hour)
	}
}

func command(script string) *specs.Process {
	return &specs.Process{Args: []string{"/bin/sh", "-c", script}, Env: os.Environ(), Cwd: "/"}
}

func shell(dir, script string) Config {
	return Config{ID: filepath.Base(dir), Dir: dir, Spec: &specs.Spec{Process: command(script),
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}}}},
		Log: LogConfig{Driver: "json-file", Path: filepath.Join(dir, "log")}}
}

type fixture struct {
	*testing.T
	ctx      context.Context
	launcher *Launcher
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l, err := NewLauncher("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return &fixture{t, ctx, l}
}

// container describes a container of a shell script.
func (f *fixture) container(script string) Config {
	return shell(filepath.Join(f.TempDir(), "c"), script)
}

func (f *fixture) start(c Config, attach ...AttachStream) *Client {
	f.Helper()
	client, started, err := f.launcher.Start(f.ctx, c, Files{}, attach)
	if err != nil {
		f.Fatal(err)
	}
	f.guard(started.Pid, started.MonitorPid)
	f.Cleanup(func() { client.Close() })
	return client
}

// guard ends processes that a failing test leaves behind.
func (f *fixture) guard(pids ...int) {
	for _, pid := range pids {
		pidfd, err := linux.PidfdOpen(pid)
		if err != nil {
			continue // gone already
		}
		f.Cleanup(func() {
			_ = linux.PidfdSendSignal(pidfd, unix.SIGKILL)
			pidfd.Close()
		})
	}
}

func (f *fixture) exit(c *Client) Exit {
	f.Helper()
	select {
	case x, ok := <-c.Wait():
		if !ok {
			f.Fatal("the monitor is gone without an exit")
		}
		return x
	case <-f.ctx.Done():
		f.Fatal("no exit")
	}
	return Exit{}
}

func (f *fixture) event(c *Client) Event {
	f.Helper()
	select {
	case e, ok := <-c.Events():
		if !ok {
			f.Fatal("no more events")
		}
		return e
	case <-f.ctx.Done():
		f.Fatal("no event")
	}
	return Event{}
}

// peer is a client's end of an attached stream.
type peer struct {
	f    *fixture
	conn *os.File
}

// pair makes a stream: the client's end and the one that is handed over.
func (f *fixture) pair() (*peer, *os.File) {
	f.Helper()
	ours, theirs, err := linux.SocketPair(unix.SOCK_STREAM)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ours.Close(); theirs.Close() })
	return &peer{f, ours}, theirs
}

func (p *peer) write(s string) {
	p.f.Helper()
	if _, err := p.conn.WriteString(s); err != nil {
		p.f.Fatal(err)
	}
}

func (p *peer) closeWrite() {
	raw, _ := p.conn.SyscallConn()
	raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_WR) })
}

// rest reads to the end of the connection.
func (p *peer) rest() string {
	p.f.Helper()
	p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	b, err := io.ReadAll(p.conn)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		p.f.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

// until reads until the text has come.
func (p *peer) until(want string) string {
	p.f.Helper()
	p.conn.SetReadDeadline(time.Now().Add(time.Minute))
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(want)) {
		n, err := p.conn.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			p.f.Fatalf("%q, then %v; waiting for %q", got, err, want)
		}
	}
	return string(got)
}

// frames takes Docker's frames apart: what came on standard output, and on standard error.
func frames(t testing.TB, s string) (stdout, stderr string) {
	t.Helper()
	b := []byte(s)
	var out [3][]byte
	for len(b) > 0 {
		if len(b) < 8 || b[0] < 1 || b[0] > 2 || len(b) < 8+int(binary.BigEndian.Uint32(b[4:])) {
			t.Fatalf("broken frame at %q", b[:min(len(b), 40)])
		}
		n := int(binary.BigEndian.Uint32(b[4:]))
		out[b[0]] = append(out[b[0]], b[8:8+n]...)
		b = b[8+n:]
	}
	return string(out[1]), string(out[2])
}

func readLog(t testing.TB, path string) (stdout, stderr string) {
	t.Helper()
	var out [3][]byte
	if err := logfile.Read(context.Background(), path, logfile.ReadOptions{Tail: -1, Stdout: true, Stderr: true},
		func(e logfile.Entry) error {
			out[e.Stream] = append(out[e.Stream], e.Line...)
			return nil
		}); err != nil {
		t.Fatal(err)
	}
	return string(out[1]), string(out[2])
}

// inShape waits until a monitor is small, or the container ended.
func (f *fixture) slim(monitorPid int) {
	f.Helper()
	for range 20000 {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", monitorPid))
		if err != nil {
			f.Fatal(err)
		}
		if strings.Contains(string(b), "\x00"+verbWatch+"\x00") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.Fatal("the monitor did not become small")
}

// gone waits for the end of a process that is not our child.
func (f *fixture) gone(pid int) {
	f.Helper()
	for range 20000 {
		_, state, err := linux.StartTime(pid)
		if err != nil || state == 'Z' {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.Fatalf("process %d still lives", pid)
}

// startDaemon runs a daemon in a process of its own, and returns when it has said the word.
func (f *fixture) startDaemon(script, until string, args ...string) *exec.Cmd {
	f.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"daemon"}, args...)...)
	cmd.Env = append(os.Environ(), "SCRIPT="+script)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var got []byte
	buf := make([]byte, 256)
	for !strings.Contains(string(got), until) {
		n, err := out.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			f.Fatalf("the daemon said %q and then %v", got, err)
		}
	}
	go io.Copy(io.Discard, out)
	return cmd
}
