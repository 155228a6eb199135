package linux

import (
	"bytes"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func fork(t *testing.T, p *Program, o ForkOptions) (*Child, WaitStatus, error) {
	t.Helper()
	c, err := p.Fork(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Pidfd.Close()
	err = c.Wait()
	ws, reapErr := WaitPidfd(c.Pidfd)
	if reapErr != nil {
		t.Fatal(reapErr)
	}
	return c, ws, err
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestForkedProgramBecomesAnother(t *testing.T) {
	needRoot(t)
	out := filepath.Join(t.TempDir(), "out")
	for range 50 {
		var p Program
		fd := p.NewSlot()
		p.Step("open")
		p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str(out), N(unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC), N(0o600)).Save(fd)
		p.Step("dup")
		p.Call(unix.SYS_DUP3, From(fd), N(1), N(0))
		p.Step("exec")
		p.Call(unix.SYS_EXECVE, Str("/bin/sh"), Strs([]string{"sh", "-c", `echo $$ "$A"; exit 7`}), Strs([]string{"A=b"}))
		_, ws, err := fork(t, &p, ForkOptions{Flags: unix.CLONE_NEWPID})
		if err != nil || ws.Code != 7 || ws.Signal != 0 {
			t.Fatal(ws, err)
		}
		if got, _ := os.ReadFile(out); string(got) != "1 b\n" {
			t.Fatalf("%q", got)
		}
	}
}

// Signals that the parent handles or blocks are the defaults in the child.
func TestForkResetsSignals(t *testing.T) {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGUSR1)
	defer signal.Stop(ch)
	out := filepath.Join(t.TempDir(), "out")
	var p Program
	fd := p.NewSlot()
	p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str(out), N(unix.O_WRONLY|unix.O_CREAT), N(0o600)).Save(fd)
	p.Call(unix.SYS_DUP3, From(fd), N(1), N(0))
	p.Call(unix.SYS_EXECVE, Str("/bin/cat"), Strs([]string{"cat", "/proc/self/status"}), Strs(nil))
	if _, _, err := fork(t, &p, ForkOptions{}); err != nil {
		t.Fatal(err)
	}
	status, _ := os.ReadFile(out)
	for _, field := range []string{"SigBlk", "SigCgt"} {
		if !bytes.Contains(status, []byte(field+":\t0000000000000000\n")) {
			t.Errorf("%s is not empty in\n%s", field, status)
		}
	}
}

func TestFailedStepIsNamed(t *testing.T) {
	var p Program
	p.Step("look into a file")
	p.Call(unix.SYS_CHDIR, Str("/etc/passwd")).Ignore(unix.ENOTDIR)
	p.Step(`enter "/nowhere"`)
	p.Call(unix.SYS_CHDIR, Str("/nowhere"))
	_, ws, err := fork(t, &p, ForkOptions{})
	var se *StepError
	if !errors.As(err, &se) || se.Step != `enter "/nowhere"` || se.Errno != unix.ENOENT || se.Call != 1 {
		t.Error(err)
	}
	if ws.Code != 127 {
		t.Error(ws)
	}
}

func TestCallsWithAFailedSlotAreLeftOut(t *testing.T) {
	var p Program
	a, b := p.NewSlot(), p.NewSlot()
	p.Step("first")
	p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str("/nowhere"), N(unix.O_PATH), N(0)).Ignore(unix.ENOENT).Save(a)
	p.Step("second")
	p.Call(unix.SYS_DUP3, From(a), N(99), N(0)).Save(b) // would fail, is left out and fails b
	p.Call(unix.SYS_FCHDIR, From(b))
	p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str("/"), N(unix.O_PATH), N(0)).Unless(a).Save(a)
	p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str("/nowhere"), N(unix.O_PATH), N(0)).Unless(a)
	p.Step("third")
	p.Call(unix.SYS_FCHDIR, From(a))
	p.Step("end")
	p.Fail(unix.EXDEV)
	_, _, err := fork(t, &p, ForkOptions{})
	var se *StepError
	if !errors.As(err, &se) || se.Step != "end" || se.Errno != unix.EXDEV {
		t.Error(err)
	}
}

func TestWorkingDirectoryOutsideTheRootIsAnError(t *testing.T) {
	needRoot(t)
	var p Program
	out := p.NewSlot()
	buf := make([]byte, unix.PathMax)
	p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str("/"), N(unix.O_PATH), N(0)).Save(out)
	p.Call(unix.SYS_CHROOT, Str("/etc"))
	p.Call(unix.SYS_CHDIR, Str("/"))
	p.Step("inside")
	p.Call(unix.SYS_GETCWD, Bytes(buf), N(len(buf))).Rooted(buf)
	p.Call(unix.SYS_FCHDIR, From(out))
	p.Step("outside")
	p.Call(unix.SYS_GETCWD, Bytes(buf), N(len(buf))).Rooted(buf)
	_, _, err := fork(t, &p, ForkOptions{})
	var se *StepError
	if !errors.As(err, &se) || se.Step != "outside" {
		t.Error(err)
	}
}

func TestMarkAndRelease(t *testing.T) {
	r, w, err := Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var p Program
	p.Notify()
	p.Call(unix.SYS_READ, FD(r), Bytes(make([]byte, 1)), N(1)).NeedsData()
	p.Step("after")
	p.Fail(unix.EXDEV)
	c, err := p.Fork(ForkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Pidfd.Close()
	if err := c.WaitMark(); err != nil {
		t.Error(err)
	}
	if ended, err := Ended(c.Pidfd); ended || err != nil {
		t.Error("it did not wait", err)
	}
	if _, err := w.Write([]byte{0}); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); !errors.Is(err, unix.EXDEV) {
		t.Error(err)
	}
	_ = w.Close()
	if _, err := WaitPidfd(c.Pidfd); err != nil {
		t.Error(err)
	}
}

func TestStringsWithNulAreRefused(t *testing.T) {
	var p Program
	p.Step("enter")
	p.Call(unix.SYS_CHDIR, Str("/etc\x00/x"))
	if _, err := p.Fork(ForkOptions{}); err == nil || !strings.Contains(err.Error(), "enter") {
		t.Error(err)
	}
}

// Forks stand beside a busy garbage collector and other forks.
func TestForkUnderLoad(t *testing.T) {
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	defer close(stop)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				var p Program
				p.Call(unix.SYS_EXECVE, Str("/bin/true"), Strs([]string{"true"}), Strs(nil))
				c, err := p.Fork(ForkOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.Wait(); err != nil {
					t.Error(err)
				}
				if ws, err := WaitPidfd(c.Pidfd); err != nil || ws.Code != 0 {
					t.Error(ws, err)
				}
				_ = c.Pidfd.Close()
			}
		})
	}
	wg.Wait()
}

func BenchmarkForkTrue(b *testing.B) {
	for b.Loop() {
		var p Program
		p.Call(unix.SYS_EXECVE, Str("/bin/true"), Strs([]string{"true"}), Strs(nil))
		c, err := p.Fork(ForkOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			b.Fatal(err)
		}
		_, _ = WaitPidfd(c.Pidfd)
		_ = c.Pidfd.Close()
	}
}
