package linux

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func reap(t *testing.T, c *Child) syscall.WaitStatus {
	t.Helper()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(c.Pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return ws
	}
}

func TestAForkedProgramBecomesAnother(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	for range 50 {
		var p Program
		p.Step("open")
		p.Call(unix.SYS_OPENAT, N(unix.AT_FDCWD), Str(out), N(unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC), N(0o600)).Save(0)
		p.Step("dup")
		p.Call(unix.SYS_DUP3, From(0), N(1), N(0))
		p.Step("exec")
		p.Call(unix.SYS_EXECVE, Str(sh), Strs([]string{"sh", "-c", `echo $$ "$A"; exit 7`}), Strs([]string{"A=b"}))
		c, err := p.Fork(ForkOptions{Flags: unix.CLONE_NEWPID})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		if ws := reap(t, c); ws.ExitStatus() != 7 {
			t.Fatal(ws)
		}
		if got, _ := os.ReadFile(out); string(got) != "1 b\n" {
			t.Fatalf("%q", got)
		}
		_ = c.Pidfd.Close()
	}
}

func TestAFailedStepIsNamed(t *testing.T) {
	var p Program
	p.Step("sleep in %q", "a file")
	p.Call(unix.SYS_CHDIR, Str("/etc/passwd")).Ignore(unix.ENOTDIR)
	p.Step("enter %q", "/nowhere")
	p.Call(unix.SYS_CHDIR, Str("/nowhere"))
	c, err := p.Fork(ForkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Wait()
	var fe *ForkError
	if !errors.As(err, &fe) || fe.Step != `enter "/nowhere"` || fe.Errno != unix.ENOENT {
		t.Error(err)
	}
	reap(t, c)
}

func TestASealedCopyRunsAndCannotBeChanged(t *testing.T) {
	src, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	f, err := SealedCopy(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Error("written into a sealed copy:", err)
	}
	if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Error("cut a sealed copy:", err)
	}
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAnOverlayStandsNowhereAndWorks(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a", "b", "up", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"a/one": "a", "b/one": "b", "b/two": "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	f, err := OverlayMount([]string{dir + "/a", dir + "/b"}, dir+"/up", dir+"/work")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(name string) string {
		fd, err := unix.Openat(int(f.Fd()), name, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		buf := make([]byte, 8)
		n, _ := unix.Read(fd, buf)
		return string(buf[:n])
	}
	if read("one") != "a" || read("two") != "b" {
		t.Error("the layers are in the wrong order")
	}
	fd, err := unix.Openat(int(f.Fd()), "three", unix.O_CREAT|unix.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	if _, err := os.Stat(dir + "/up/three"); err != nil {
		t.Error(err)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || string(after) != string(before) {
		t.Error("the mount table has changed", err)
	}
	ro, err := OverlayMount([]string{dir + "/a", dir + "/b"}, "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	if _, err := unix.Openat(int(ro.Fd()), "x", unix.O_CREAT|unix.O_WRONLY, 0o600); err != unix.EROFS {
		t.Error("written into a read-only overlay:", err)
	}
	if _, err := OverlayMount([]string{dir + "/missing"}, dir+"/up", dir+"/work"); err == nil {
		t.Error("a missing layer was mounted")
	}
}

func TestNetNS(t *testing.T) {
	ns, err := NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	own, _ := os.Readlink("/proc/self/ns/net")
	err = WithNetNS(ns, func() error {
		inside, err := os.Readlink("/proc/thread-self/ns/net")
		if inside == own {
			t.Error("still in the old namespace")
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if now, _ := os.Readlink("/proc/thread-self/ns/net"); now != own {
		t.Error("a thread came back in another namespace")
	}
}

func TestASecondForkIsFollowed(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	var p Program
	p.Step("a new pid namespace")
	p.Call(unix.SYS_UNSHARE, N(unix.CLONE_NEWPID))
	p.ForkAgain()
	p.Step("exec")
	p.ExecSearch([]string{"/nowhere/sh", "/etc/passwd", sh}, []string{"sh", "-c", "exit $$"}, nil)
	c, err := p.Fork(ForkOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	if ws := reap(t, c); ws.ExitStatus() != 1 {
		t.Errorf("pid inside: %d, want 1", ws.ExitStatus())
	}
}

func TestASearchRemembersWhatItMayNotRun(t *testing.T) {
	for _, tc := range []struct {
		paths []string
		want  syscall.Errno
	}{{[]string{"/a", "/etc/passwd", "/b"}, unix.EACCES}, {[]string{"/a", "/b"}, unix.ENOENT}} {
		var p Program
		p.Step("exec")
		p.MoveReport(9)
		p.ExecSearch(tc.paths, []string{"x"}, nil)
		c, err := p.Fork(ForkOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); !errors.Is(err, tc.want) {
			t.Error(err)
		}
		reap(t, c)
	}
}
