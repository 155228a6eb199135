package ocirun

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func busybox(t testing.TB) string {
	t.Helper()
	bb, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("these tests need Debian's busybox-static:", err)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(bb)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"sh", "true", "cat", "ls", "id", "mount", "ps", "sleep", "hostname", "tty", "readlink", "grep", "stat"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", n)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func spec(rootfs string, args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD"}
	return &specs.Spec{
		Version: specs.Version, Hostname: "box", Root: &specs.Root{Path: rootfs},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/sbin:/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=67108864"}},
		},
		Linux: &specs.Linux{
			Namespaces:    []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}, {Type: "uts"}, {Type: "ipc"}, {Type: "network"}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/acpi", "/proc/keys", "/proc/nothing", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/sys", "/proc/nothing"},
		},
	}
}

func wait(t testing.TB, pid int) syscall.WaitStatus {
	t.Helper()
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return ws
	}
}

// run runs a container to its end.
func run(t testing.TB, o StartOptions) (string, int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.Stdout, o.Stderr = w, w
	p, err := Start(context.Background(), o)
	_ = w.Close()
	if err != nil {
		_ = r.Close()
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	_ = r.Close()
	ws := wait(t, p.Pid)
	_ = p.Pidfd.Close()
	code := ws.ExitStatus()
	if ws.Signaled() {
		code = 128 + int(ws.Signal())
	}
	return string(out), code
}

func sh(t testing.TB, s *specs.Spec, script string) string {
	t.Helper()
	s.Process.Args = []string{"sh", "-c", script}
	out, code := run(t, StartOptions{ID: "test", Spec: s})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	return out
}

func TestAContainerHasNamespacesMountsAndDevicesOfItsOwn(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	out := sh(t, spec(busybox(t)), `
		echo pid $$; hostname; ls /proc | grep -c '^[0-9]'; ls /dev; ls -l /dev/null; echo x > /dev/null && cat /dev/zero | read -n1 x
		cat /proc/keys | wc -c; ls /sys/firmware; cat /proc/sys/kernel/hostname
		(echo x > /proc/sys/kernel/hostname) 2>/dev/null || echo sys is read-only
		ls /proc/self/fd; id; cat /proc/net/dev | grep -c :; readlink /dev/fd; readlink /dev/ptmx; pwd`)
	for _, want := range []string{"pid 1\nbox\n", "/dev/null\n0\nbox\n", "1,   3 ", "sys is read-only", "uid=0", "/proc/self/fd\npts/ptmx\n/\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\n4\n") {
		t.Errorf("descriptors leaked:\n%s", out)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the host's mounts have changed: %v", err)
	}
}

func TestCapabilitiesUsersAndGroups(t *testing.T) {
	s := spec(busybox(t))
	s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 7}}
	s.Process.Capabilities.Effective, s.Process.Capabilities.Permitted = nil, nil
	s.Process.NoNewPrivileges = true
	out := sh(t, s, `id; grep -E 'Cap|NoNew|Groups' /proc/self/status`)
	for _, want := range []string{"uid=1000 gid=1001 groups=7,1001", "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000",
		"CapEff:\t0000000000000000", "CapBnd:\t00000000080000e1", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	out = sh(t, spec(busybox(t)), `grep -E 'Cap' /proc/self/status`)
	for _, want := range []string{"CapInh:\t0000000000000000", "CapEff:\t00000000080000e1"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

func TestWhatCannotBeRun(t *testing.T) {
	root := busybox(t)
	if err := os.WriteFile(filepath.Join(root, "bin/text"), []byte("hello"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		argv0 string
		code  int
		text  string
	}{
		{"nothing", 127, `exec: "nothing": executable file not found in $PATH`},
		{"/bin/nothing", 127, `exec: "/bin/nothing": no such file or directory`},
		{"/etc", 126, `exec: "/etc": permission denied`},
		{"/bin/text", 126, `exec: "/bin/text": exec format error`},
	} {
		_, err := Start(context.Background(), StartOptions{ID: "x", Spec: spec(root, c.argv0)})
		var ee *ExecError
		if !errors.As(err, &ee) || ee.Code() != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.argv0, err)
		}
	}
	s := spec(root, "true")
	s.Process.Cwd = "/nowhere"
	_, err := Start(context.Background(), StartOptions{ID: "x", Spec: s})
	var ee *ExecError
	if !errors.As(err, &ee) || ee.Code() != 125 || !strings.Contains(err.Error(), `enter the working directory "/nowhere"`) {
		t.Error(err)
	}
}

func TestAnImagesLinksLeadNowhere(t *testing.T) {
	victim := t.TempDir()
	for _, name := range []string{"proc", "sys", "dev", "etc"} {
		root := busybox(t)
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		s := spec(root, "true")
		src := filepath.Join(victim, "..", "src")
		if err := os.WriteFile(src, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: src, Options: []string{"bind"}})
		if p, err := Start(context.Background(), StartOptions{ID: "x", Spec: s}); err == nil {
			wait(t, p.Pid)
			p.Pidfd.Close()
		}
		if left, _ := os.ReadDir(victim); len(left) > 0 {
			t.Errorf("/%s as a link: %v was made on the host", name, left)
		}
	}
}

func TestBindMountsAndReadOnlyRoot(t *testing.T) {
	s := spec(busybox(t))
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "f"), []byte("bound\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.Root.Readonly = true
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/a/b", Type: "bind", Source: src, Options: []string{"rbind", "rro", "rprivate"}},
		specs.Mount{Destination: "/a/b2/file", Type: "bind", Source: filepath.Join(src, "f"), Options: []string{"bind"}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "nosuid"}},
		specs.Mount{Destination: "/tmp/deep/er", Type: "bind", Source: src, Options: []string{"rbind"}})
	out := sh(t, s, `cat /a/b/f /a/b2/file /tmp/deep/er/f
		(echo x > /a/b/g) 2>/dev/null || echo ro1; (echo x > /new) 2>/dev/null || echo ro2; echo y > /tmp/deep/er/g && echo rw; mount | grep -c ' /tmp '`)
	if out != "bound\nbound\nbound\nro1\nro2\nrw\n1\n" {
		t.Errorf("%q", out)
	}
}

func TestATerminal(t *testing.T) {
	s := spec(busybox(t), "sh", "-c", "tty; ls /dev/console; stat -c %u /dev/pts/0; exit 3")
	s.Process.Terminal = true
	p, err := Start(context.Background(), StartOptions{ID: "t", Spec: s, Terminal: true, Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	buf := make([]byte, 1024)
	for {
		n, err := p.Master.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			break
		}
	}
	if ws := wait(t, p.Pid); ws.ExitStatus() != 3 || !strings.Contains(string(out), "/dev/pts/0\r\n/dev/console\r\n0\r\n") {
		t.Errorf("%v %q", ws, out)
	}
	p.Master.Close()
	p.Pidfd.Close()
}

func TestExec(t *testing.T) {
	s := spec(busybox(t), "sleep", "1000")
	p, err := Start(context.Background(), StartOptions{ID: "e", Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(p.Pid, unix.SIGKILL)
		wait(t, p.Pid)
		p.Pidfd.Close()
	}()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	proc := *s.Process
	proc.Args = []string{"sh", "-c", "hostname; ps | grep -c '[s]leep 1000'; ls /proc/self/fd | wc -l; pwd; exit 5"}
	proc.Cwd = "/tmp"
	x, err := Exec(context.Background(), ExecOptions{Process: &proc, Pid: p.Pid, Pidfd: p.Pidfd, Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	if ws := wait(t, x.Pid); ws.ExitStatus() != 5 || string(out) != "box\n1\n4\n/tmp\n" {
		t.Errorf("%v %q", ws, out)
	}
	x.Pidfd.Close()
	proc.Args = []string{"nothing"}
	_, err = Exec(context.Background(), ExecOptions{Process: &proc, Pid: p.Pid, Pidfd: p.Pidfd})
	var ee *ExecError
	if !errors.As(err, &ee) || ee.Code() != 127 {
		t.Error(err)
	}
}

func BenchmarkStartTrue(b *testing.B) {
	s := spec(busybox(b), "true")
	for b.Loop() {
		p, err := Start(context.Background(), StartOptions{ID: "b", Spec: s})
		if err != nil {
			b.Fatal(err)
		}
		wait(b, p.Pid)
		p.Pidfd.Close()
	}
}
