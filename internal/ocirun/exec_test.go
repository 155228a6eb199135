package ocirun

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sleeper starts a container that does nothing until the test ends.
func sleeper(t testing.TB, change func(*StartOptions)) (*Process, *specs.Spec) {
	t.Helper()
	o := StartOptions{Spec: newSpec(newRootfs(t), "sleep", "100000")}
	if change != nil {
		change(&o)
	}
	p, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.discard(); err != nil {
			t.Error(err)
		}
	})
	return p, o.Spec
}

// execIn runs a process in a container to its end.
func execIn(t testing.TB, p *Process, o ExecOptions) (string, linux.WaitStatus, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o.Pid, o.Pidfd = p.Pid, p.Pidfd
	if !o.Terminal {
		o.Stdout, o.Stderr = w, w
	}
	x, err := Exec(context.Background(), o)
	_ = w.Close()
	if err != nil {
		return "", linux.WaitStatus{}, err
	}
	defer x.Close()
	from := r
	if o.Terminal {
		from = x.Master
	}
	out, _ := io.ReadAll(from)
	ws, err := linux.WaitPidfd(x.Pidfd)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), ws, nil
}

func TestExec(t *testing.T) {
	noLeaks(t)
	p, s := sleeper(t, nil)
	proc := *s.Process
	proc.Args = []string{"sh", "-c", `hostname; ps; pwd; for n in mnt net ipc uts pid cgroup; do readlink /proc/self/ns/$n; done
		for f in /proc/self/fd/*; do echo fd ${f##*/} $(readlink $f); done; grep -E 'Cap|Groups|Seccomp:' /proc/self/status; echo $HOME; exit 5`}
	proc.Cwd = "/tmp"
	proc.Env = []string{"PATH=/bin"}
	out, ws, err := execIn(t, p, ExecOptions{Process: &proc})
	if err != nil || ws.Code != 5 {
		t.Fatal(ws, err)
	}
	want := []string{"box\n", "sleep 100000", "\n/tmp\n", "CapInh:\t0000000000000000", "CapPrm:\t00000000a80425fb",
		"CapBnd:\t00000000a80425fb", "Groups:\t \n", "\n/root\n"}
	for _, kind := range []string{"mnt", "net", "ipc", "uts", "pid"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.Pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, link+"\n")
	}
	has(t, out, want...)
	for line := range strings.Lines(out) {
		var n int
		var target string
		if c, _ := fmt.Sscanf(line, "fd %d %s", &n, &target); c == 2 && n > 2 && !strings.HasPrefix(target, "/proc/") {
			t.Error(line)
		}
	}
}

func TestExecUserWithoutRights(t *testing.T) {
	p, s := sleeper(t, nil)
	proc := *s.Process
	proc.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{42}}
	proc.Capabilities = &specs.LinuxCapabilities{Bounding: dockerCaps}
	proc.Args = []string{"sh", "-c", "id; cat /proc/self/status; echo $HOME"}
	proc.Env = []string{"PATH=/bin"}
	out, _, err := execIn(t, p, ExecOptions{Process: &proc})
	if err != nil {
		t.Fatal(err)
	}
	has(t, out, "uid=1000(user) gid=1000 groups=42", "CapPrm:\t0000000000000000", "CapInh:\t0000000000000000", "\n/home/user\n")
}

func TestExecErrors(t *testing.T) {
	p, s := sleeper(t, nil)
	for name, code := range map[string]int{"nothing": 127, "/bin/nothing": 127, "/etc": 126} {
		proc := *s.Process
		proc.Args = []string{name}
		_, _, err := execIn(t, p, ExecOptions{Process: &proc})
		var ee *ExecError
		if !errors.As(err, &ee) || ee.Code() != code {
			t.Error(name, err)
		}
	}
	proc := *s.Process
	proc.Args = []string{"true"}
	for _, cwd := range []string{"/nowhere", "/proc/self/fd/3", "/proc/self/fd/5", "/proc/self/fd/7", "/proc/self/fd/9"} {
		proc.Cwd = cwd
		_, _, err := execIn(t, p, ExecOptions{Process: &proc})
		var ee *ExecError
		if !errors.As(err, &ee) {
			t.Error(cwd, err)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	p, s := sleeper(t, nil)
	proc := *s.Process
	proc.Args = []string{"sh", "-c", "tty; stty size; exit 3"}
	out, ws, err := execIn(t, p, ExecOptions{Process: &proc, Terminal: true, Rows: 12, Cols: 34})
	if err != nil || ws.Code != 3 || out != "/dev/pts/0\r\n12 34\r\n" {
		t.Errorf("%q %v %v", out, ws, err)
	}
	// A container that has put something else at the terminal's place gets none, and nothing of it is opened.
	for _, fake := range []string{"umount /dev/pts && mknod /dev/pts/ptmx c 1 3", "rm -f /dev/pts/ptmx; umount /dev/pts; rm -f /dev/pts/ptmx; ln -s /proc/kmsg /dev/pts/ptmx",
		"umount -l /dev/pts; mkdir -p /dev/pts; rm -f /dev/pts/ptmx; mknod /dev/pts/ptmx p"} {
		evil, s := sleeper(t, func(o *StartOptions) {
			o.Spec.Process.Capabilities = &specs.LinuxCapabilities{}
			caps := append([]string{"CAP_SYS_ADMIN"}, dockerCaps...)
			o.Spec.Process.Capabilities.Bounding, o.Spec.Process.Capabilities.Permitted = caps, caps
			o.Spec.Process.Capabilities.Effective = caps
		})
		do := *s.Process
		do.Args = []string{"sh", "-c", fake}
		if out, ws, err := execIn(t, evil, ExecOptions{Process: &do}); err != nil || ws.Code != 0 {
			t.Fatal(out, ws, err)
		}
		if _, _, err := execIn(t, evil, ExecOptions{Process: &proc, Terminal: true}); err == nil || !strings.Contains(err.Error(), "ptmx") {
			t.Error(fake, err)
		}
	}
}

func TestExecIntoAnEndedContainer(t *testing.T) {
	s := newSpec(newRootfs(t), "true")
	p, err := Start(context.Background(), StartOptions{Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for { // ended, but not reaped
		if ended, err := linux.Ended(p.Pidfd); ended || err != nil {
			break
		}
	}
	if _, _, err := execIn(t, p, ExecOptions{Process: s.Process}); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
	if _, err := linux.WaitPidfd(p.Pidfd); err != nil {
		t.Error(err)
	}
	if _, _, err := execIn(t, p, ExecOptions{Process: s.Process}); err == nil {
		t.Error("executed in a container that is gone")
	}
}

// A process that is executed in a container shows nothing of its parent, at no moment, to one who watches from inside with
// the right to trace.
func TestExecCannotBeTraced(t *testing.T) {
	watch := `while :; do for p in /proc/[0-9]*; do
		case $p in /proc/1|/proc/$$) continue;; esac
		for f in $p/fd/*; do readlink $f; done; done; done 2>/dev/null | grep -E '^/(etc|work|var)' | head -n1`
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, s := sleeper(t, func(o *StartOptions) { o.Spec.Process.Args = []string{"sh", "-c", watch}; o.Stdout = w })
	_ = w.Close()
	// What the parent has open and the container must not see.
	secret, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	proc := *s.Process
	proc.Args = []string{"true"}
	for range 100 {
		if _, _, err := execIn(t, p, ExecOptions{Process: &proc}); err != nil {
			t.Fatal(err)
		}
	}
	if err := linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if seen, _ := io.ReadAll(r); len(seen) > 0 {
		t.Errorf("the container saw %s", seen)
	}
}

func BenchmarkExecTrue(b *testing.B) {
	p, s := sleeper(b, nil)
	proc := *s.Process
	proc.Args = []string{"/bin/true"}
	for b.Loop() {
		x, err := Exec(context.Background(), ExecOptions{Process: &proc, Pid: p.Pid, Pidfd: p.Pidfd})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := linux.WaitPidfd(x.Pidfd); err != nil {
			b.Fatal(err)
		}
		_ = x.Close()
	}
}

func testGroup(t testing.TB, r *specs.LinuxResources) *cgroup.Group {
	t.Helper()
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/berth-test-ocirun/%s-%d", strings.NewReplacer("/", "_", "#", "_").Replace(t.Name()), os.Getpid())
	g, _, err := host.Create(name, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.KillAll(), g.Delete()); err != nil {
			t.Error(err)
		}
		_ = host.Open(filepath.Dir(name)).Delete()
	})
	return g
}

func cgroupMount() specs.Mount {
	return specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}}
}

func TestCgroup(t *testing.T) {
	needRoot(t)
	for _, private := range []bool{false, true} {
		t.Run(fmt.Sprint("private=", private), func(t *testing.T) {
			noLeaks(t)
			limit := int64(77)
			g := testGroup(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}})
			p, s := sleeper(t, func(o *StartOptions) {
				o.Cgroup = g
				o.Spec.Mounts = append(o.Spec.Mounts, cgroupMount())
				if private {
					o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
				}
			})
			proc := *s.Process
			proc.Args = []string{"sh", "-c", `cat /proc/self/cgroup; cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
				grep cgroup /proc/self/mountinfo; mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/pids/x || echo closed; ls /sys/fs/cgroup`}
			out, _, err := execIn(t, p, ExecOptions{Process: &proc, Cgroup: g})
			if err != nil {
				t.Fatal(err)
			}
			has(t, out, "77\n", "closed")
			if shown := strings.Contains(out, ":"+g.Path()+"\n"); shown == private {
				t.Error("the group's path is not as it should be in", out)
			}
			pids, err := g.Pids()
			if err != nil || len(pids) != 1 || pids[0] != p.Pid {
				t.Error(pids, err)
			}
			if host, err := cgroup.Detect(); err == nil && host.Version() == 1 {
				has(t, out, " /sys/fs/cgroup/memory ro,", " /sys/fs/cgroup ro,")
			}
		})
	}
}

// The whole start fits into a small memory limit.
func TestSmallMemoryLimit(t *testing.T) {
	needRoot(t)
	limit := int64(6 << 20)
	g := testGroup(t, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	_, ws := run(t, StartOptions{Spec: newSpec(newRootfs(t), "true"), Cgroup: g})
	if ws.Code != 0 {
		t.Error(ws)
	}
}

func TestDeviceOutsideTheListCannotBeOpened(t *testing.T) {
	needRoot(t)
	g := testGroup(t, nil)
	out, _ := run(t, StartOptions{Cgroup: g, Spec: newSpec(newRootfs(t), "sh", "-c",
		"mknod /tmp/mem c 1 1 && (head -c1 /tmp/mem >/dev/null || echo closed); head -c1 /dev/zero >/dev/null && echo open")})
	has(t, out, "closed", "open")
}

func TestOwnCgroup(t *testing.T) {
	needRoot(t)
	o := StartOptions{Spec: newSpec(newRootfs(t), "cat", "/proc/self/cgroup")}
	o.Spec.Linux.CgroupsPath = "/berth-test-ocirun/own"
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	g := host.Open(o.Spec.Linux.CgroupsPath)
	t.Cleanup(func() {
		_, _ = g.Delete(), host.Open("/berth-test-ocirun").Delete()
	})
	out, _ := run(t, o)
	has(t, out, ":/berth-test-ocirun/own\n")
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	o.Spec.Process.Args = []string{"nothing"}
	if _, err := Start(context.Background(), o); err == nil {
		t.Fatal("it started")
	}
	if pids, _ := g.Pids(); len(pids) > 0 {
		t.Error(pids)
	}
	for _, dir := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(dir + o.Spec.Linux.CgroupsPath); err == nil {
			t.Error("the cgroup of a failed start was left")
		}
	}
}

func BenchmarkStartTrueInCgroup(b *testing.B) {
	rootfs := newRootfs(b)
	g := testGroup(b, nil)
	for b.Loop() {
		s := newSpec(rootfs, "/bin/true")
		s.Mounts = append(s.Mounts, cgroupMount())
		p, err := Start(context.Background(), StartOptions{Spec: s, Cgroup: g})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := linux.WaitPidfd(p.Pidfd); err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
	}
}
