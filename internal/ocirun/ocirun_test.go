package ocirun

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

const busybox = "/bin/busybox"

// newRootfs makes a root file system of busybox.
func newRootfs(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "root", "proc", "sys", "dev"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Skip("busybox-static is not installed:", err)
	}
	if err := os.WriteFile(dir+"/bin/busybox", data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "ls", "true", "id", "mount", "sleep", "stat", "readlink", "mkdir", "touch",
		"grep", "tty", "hostname", "ps", "kill", "mknod", "stty", "umount", "env", "pwd", "echo", "head", "rm", "ln", "ip"} {
		if err := os.Symlink("busybox", dir+"/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n1000:x:0:0::/evil:/bin/sh\n")
	return dir
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var dockerCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
	"CAP_AUDIT_WRITE"}

// newSpec is Docker's default, without cgroup and seccomp.
func newSpec(rootfs string, args ...string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "box",
		Root:     &specs.Root{Path: rootfs},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin", "HOME=/root"},
			Capabilities: &specs.LinuxCapabilities{Bounding: dockerCaps, Effective: dockerCaps, Permitted: dockerCaps}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
				Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}},
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
				"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
				"/sys/devices/virtual/powercap", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// run starts a container, and gives what it wrote and how it ended.
func run(t testing.TB, o StartOptions) (string, linux.WaitStatus) {
	t.Helper()
	out, ws, _, err := tryRun(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return out, ws
}

func tryRun(t testing.TB, o StartOptions) (string, linux.WaitStatus, []string, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if !o.Terminal && o.Stdout == nil {
		o.Stdout, o.Stderr = w, w
	}
	p, err := Start(context.Background(), o)
	_ = w.Close()
	if err != nil {
		return "", linux.WaitStatus{}, nil, err
	}
	defer p.Close()
	out, _ := io.ReadAll(r)
	ws, err := linux.WaitPidfd(p.Pidfd)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), ws, p.Warnings, nil
}

// sh runs a script in a container with the default spec.
func sh(t testing.TB, script string, change func(*StartOptions)) string {
	t.Helper()
	o := StartOptions{Spec: newSpec(newRootfs(t), "sh", "-c", script)}
	if change != nil {
		change(&o)
	}
	out, _ := run(t, o)
	return out
}

func TestStartTrue(t *testing.T) {
	_, ws := run(t, StartOptions{Spec: newSpec(newRootfs(t), "true")})
	if ws.Code != 0 {
		t.Error(ws)
	}
}

// noLeaks fails the test when one of its mounts is seen on the host.
func noLeaks(t testing.TB) {
	t.Helper()
	own := filepath.Dir(t.TempDir())
	t.Cleanup(func() {
		table, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(table), own) {
			t.Errorf("a mount of the container is on the host:\n%s", table)
		}
	})
}

func has(t *testing.T, out string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("no %q in\n%s", w, out)
		}
	}
}

func TestDefaultContainer(t *testing.T) {
	noLeaks(t)
	out := sh(t, `hostname; echo pid $$; ls /; cat /proc/self/mountinfo; ls -l /dev; pwd; id; echo HOME=$HOME; ip link`, nil)
	has(t, out, "box\npid 1\nbin\ndev\netc\nproc\nroot\nsys\ntmp\n", "1,   3 ", "ptmx -> pts/ptmx", "fd -> /proc/self/fd",
		" /proc rw,nosuid,nodev,noexec,relatime", " /dev rw,nosuid ", " /sys ro,nosuid,nodev,noexec",
		" /dev/pts rw,nosuid,noexec,relatime", " /dev/shm rw,nosuid,nodev,noexec,relatime", " /dev/mqueue rw",
		" /sys/firmware ro,", " /proc/sys ro,", "\n/\nuid=0(root) gid=0", "HOME=/root\n", "lo: <LOOPBACK,UP,LOWER_UP>")
	if strings.Count(out, "link/") != 1 {
		t.Error("more links than lo:", out)
	}
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	out := sh(t, `cat /proc/keys /proc/timer_list /proc/interrupts | head -c 10; ls /sys/firmware /proc/acpi
		echo x > /proc/sys/kernel/hostname || echo sys is closed; echo x > /sys/firmware/x || echo mask is closed
		echo b > /proc/sysrq-trigger || echo sysrq is closed; stat -c %t:%T /proc/keys`, nil)
	has(t, out, "sys is closed", "mask is closed", "sysrq is closed", "1:3\n")
	if strings.Contains(out, "clock") || strings.Contains(out, "CPU0") {
		t.Error(out)
	}
}

// What is said of a process's own files in /proc is meant for the container's first process.
func TestMaskedPathOfItself(t *testing.T) {
	mask := func(o *StartOptions) {
		o.Spec.Linux.MaskedPaths, o.Spec.Linux.ReadonlyPaths = []string{"/proc/self/environ"}, []string{"/proc/self/fdinfo"}
	}
	if out := sh(t, "cat /proc/1/environ; mount | grep -c ' /proc/1/fdinfo type proc (ro'", mask); out != "1\n" {
		t.Error(out)
	}
	s := newSpec(newRootfs(t), "true")
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	mask(&StartOptions{Spec: s})
	if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsNotImplemented(err) {
		t.Error(err)
	}
}

func TestNoDescriptorLeaks(t *testing.T) {
	secret, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	// One that is not closed on exec, as a careless caller has it.
	leaky, err := unix.Dup(int(secret.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leaky)
	out := sh(t, `for f in /proc/self/fd/*; do echo "${f##*/} $(readlink $f)"; done`, nil)
	for line := range strings.Lines(out) {
		n, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		if len(n) > 1 || n > "2" && target != "" && !strings.HasPrefix(target, "/proc/") {
			t.Errorf("descriptor %s", line)
		}
	}
	// And none can be the way out (CVE-2024-21626).
	for n := range 40 {
		o := StartOptions{Spec: newSpec(newRootfs(t), "pwd")}
		o.Spec.Process.Cwd = "/proc/self/fd/" + strconv.Itoa(n)
		out, _, _, err := tryRun(t, o)
		var ee *ExecError
		if !errors.As(err, &ee) {
			t.Fatalf("cwd at descriptor %d: %q %v", n, out, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	const grep = `grep -E 'Cap|NoNew' /proc/self/status`
	has(t, sh(t, grep, nil), "CapInh:\t0000000000000000", "CapPrm:\t00000000a80425fb", "CapEff:\t00000000a80425fb",
		"CapBnd:\t00000000a80425fb", "CapAmb:\t0000000000000000", "NoNewPrivs:\t0")
	has(t, sh(t, grep, func(o *StartOptions) { o.Spec.Process.Capabilities = nil }), "CapPrm:\t0000000000000000",
		"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000")
	user := func(o *StartOptions) {
		o.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
		o.Spec.Process.Capabilities.Effective, o.Spec.Process.Capabilities.Permitted = nil, nil
		o.Spec.Process.NoNewPrivileges = true
	}
	has(t, sh(t, grep, user), "CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t00000000a80425fb", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1")
	has(t, sh(t, grep, func(o *StartOptions) {
		o.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
		c := []string{"CAP_NET_BIND_SERVICE"}
		o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c, Inheritable: c, Ambient: c}
	}), "CapInh:\t0000000000000400", "CapPrm:\t0000000000000400", "CapEff:\t0000000000000400", "CapAmb:\t0000000000000400")
}

func TestUsersAndGroups(t *testing.T) {
	out := sh(t, `id; cat /proc/self/status; touch /tmp/x; stat -c %a /tmp/x; touch /proc/self/fd/1 && echo stdout is ours`,
		func(o *StartOptions) {
			if err := os.Chmod(o.Spec.Root.Path+"/tmp", 0o777); err != nil {
				t.Fatal(err)
			}
			umask := uint32(0o027)
			o.Spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{7, 8}, Umask: &umask}
		})
	has(t, out, "uid=1000(user) gid=1001 groups=7,8", "Uid:\t1000\t1000\t1000\t1000", "Gid:\t1001\t1001\t1001\t1001",
		"Groups:\t7 8", "\n640\n", "stdout is ours")
	// None is none: not those of the caller (CVE-2022-36109).
	has(t, sh(t, "cat /proc/self/status", nil), "Groups:\t \n")
	for _, id := range []uint32{1 << 31, 1<<32 - 1} {
		o := StartOptions{Spec: newSpec(newRootfs(t), "id")}
		o.Spec.Process.User.UID = id
		if _, _, _, err := tryRun(t, o); !errdefs.IsInvalidArgument(err) {
			t.Error(id, err)
		}
	}
}

func TestNoNewPrivilegesAndSeccomp(t *testing.T) {
	errno := uint(unix.EXDEV)
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &errno},
		// What a start without no_new_privs could do after it loaded the filter, but must not need.
		{Names: []string{"setresuid", "setresgid", "setgroups", "chdir", "close_range"}, Action: specs.ActKillProcess},
	}}
	for _, nnp := range []bool{true, false} {
		for _, uid := range []uint32{0, 1000} {
			out := sh(t, `mkdir /tmp/x; grep -E 'Seccomp:|NoNew|CapPrm' /proc/self/status`, func(o *StartOptions) {
				o.Spec.Linux.Seccomp = profile
				o.Spec.Process.NoNewPrivileges = nnp
				o.Spec.Process.User.UID = uid
				if uid != 0 {
					o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: dockerCaps}
				}
			})
			has(t, out, "Invalid cross-device link", "Seccomp:\t2", map[bool]string{true: "NoNewPrivs:\t1", false: "NoNewPrivs:\t0"}[nnp],
				map[uint32]string{0: "CapPrm:\t00000000a80425fb", 1000: "CapPrm:\t0000000000000000"}[uid])
		}
	}
}

// A profile that forbids everything forbids the process to say so, and to end: it is killed, and nobody waits for it.
func TestProfileThatForbidsEverything(t *testing.T) {
	noLeaks(t)
	forbids := func(action specs.LinuxSeccompAction) func(*StartOptions) {
		return func(o *StartOptions) { o.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: action} }
	}
	for _, action := range []specs.LinuxSeccompAction{specs.ActErrno, specs.ActTrace, specs.ActTrap, specs.ActKillProcess} {
		for _, nnp := range []bool{false, true} {
			o := StartOptions{Spec: newSpec(newRootfs(t), "true")}
			forbids(action)(&o)
			o.Spec.Process.NoNewPrivileges = nnp
			out, ws, _, err := tryRun(t, o)
			if err == nil && ws.Signal == 0 {
				t.Errorf("%s: it ends with %+v: %s", action, ws, out)
			}
		}
	}
	p, err := Start(context.Background(), StartOptions{Spec: newSpec(newRootfs(t), "sleep", "1000")})
	if err != nil {
		t.Fatal(err)
	}
	defer p.discard()
	f, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno})
	if err != nil {
		t.Fatal(err)
	}
	x, err := Exec(context.Background(), ExecOptions{Pid: p.Pid, Seccomp: f.Prog, Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"}})
	if err != nil {
		return
	}
	if ws, err := linux.WaitPidfd(x.Pidfd); err != nil || ws.Signal == 0 {
		t.Error(ws, err)
	}
	_ = x.Close()
}

func TestWhatCannotBeRun(t *testing.T) {
	rootfs := newRootfs(t)
	if err := os.WriteFile(rootfs+"/bin/text", []byte("hello"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, rootfs+"/bin/closed", "#!/bin/sh\n")
	for _, hold := range []bool{false, true} {
		for _, c := range []struct {
			argv0 string
			code  int
			text  string
		}{
			{"nothing", 127, `exec: "nothing": executable file not found in $PATH`},
			{"", 127, `exec: "": executable file not found in $PATH`},
			{"/bin/nothing", 127, `exec: "/bin/nothing": stat /bin/nothing: no such file or directory`},
			{"./nothing", 127, `no such file or directory`},
			{"/etc", 126, `exec: "/etc": permission denied`},
			{"/bin/closed", 126, `exec: "/bin/closed": permission denied`},
			{"closed", 127, `exec: "closed": executable file not found in $PATH`},
			{"/bin/text", 126, `exec: "/bin/text": exec format error`},
		} {
			p, err := Start(context.Background(), StartOptions{Spec: newSpec(rootfs, c.argv0), Hold: hold})
			if err == nil && hold {
				err = p.Release()
				if _, e := linux.WaitPidfd(p.Pidfd); e != nil {
					t.Error(e)
				}
				_ = p.Close()
			}
			var ee *ExecError
			if !errors.As(err, &ee) || ee.Code() != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", c.argv0, err)
			}
		}
	}
	s := newSpec(rootfs, "true")
	s.Process.Cwd = "/etc/passwd"
	_, err := Start(context.Background(), StartOptions{Spec: s})
	has(t, err.Error(), `chdir to cwd ("/etc/passwd") set in config.json failed: not a directory`)
}

func TestWorkingDirectoryIsMade(t *testing.T) {
	if out := sh(t, "pwd", func(o *StartOptions) { o.Spec.Process.Cwd = "/a/b" }); out != "/a/b\n" {
		t.Error(out)
	}
	if out := sh(t, "pwd", func(o *StartOptions) { o.Spec.Process.Cwd = "/proc/sys" }); out != "/proc/sys\n" {
		t.Error(out)
	}
}

func TestBindMounts(t *testing.T) {
	noLeaks(t)
	src := t.TempDir()
	write(t, src+"/f", "bound\n")
	var rootfs string
	out := sh(t, `cat /a/b/f /a/b2/file /tmp/deep/er/f /etc/link
		(echo x > /a/b/g) 2>/dev/null || echo ro; (echo x > /new) 2>/dev/null || echo root is ro
		echo y > /tmp/deep/er/g && echo rw; stat -L -c %a /tmp /lnk; grep -E ' /(a|tmp)' /proc/self/mountinfo`,
		func(o *StartOptions) {
			s := o.Spec
			rootfs = s.Root.Path
			s.Root.Readonly = true
			for link, text := range map[string]string{"/lnk": "/made", "/etc/link": "../run/some/file"} {
				if err := os.Symlink(text, rootfs+link); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(rootfs+"/tmp", 0o777|os.ModeSticky); err != nil {
				t.Fatal(err)
			}
			s.Mounts = append(s.Mounts,
				specs.Mount{Destination: "/a/b", Type: "bind", Source: src, Options: []string{"rbind", "rro", "rprivate"}},
				specs.Mount{Destination: "/a/b2/file", Type: "bind", Source: src + "/f", Options: []string{"bind", "ro"}},
				specs.Mount{Destination: "/etc/link", Type: "bind", Source: src + "/f", Options: []string{"bind"}},
				specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m", "nosuid", "noexec"}},
				specs.Mount{Destination: "/lnk", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=700"}},
				specs.Mount{Destination: "/tmp/deep/er", Source: src, Options: []string{"rbind"}})
		})
	has(t, out, "bound\nbound\nbound\nbound\nro\nroot is ro\nrw\n1777\n700\n", " /a/b ro,", " /tmp rw,nosuid,noexec,relatime")
	for _, made := range []string{"/a/b", "/a/b2/file", "/made", "/run/some/file"} {
		if _, err := os.Lstat(rootfs + made); err != nil {
			t.Error(err)
		}
	}
}

func TestMountErrors(t *testing.T) {
	noLeaks(t)
	dir := t.TempDir()
	write(t, dir+"/f", "")
	for _, c := range []struct {
		m    specs.Mount
		text string
	}{
		{specs.Mount{Destination: "/x", Type: "bind", Source: "/nowhere/x"}, `mount "/x": source "/nowhere/x": no such file or directory`},
		{specs.Mount{Destination: "/bin/busybox", Type: "bind", Source: dir}, "cannot be mounted onto a file"},
		{specs.Mount{Destination: "/etc", Type: "bind", Source: dir + "/f"}, "a file cannot be mounted onto a directory"},
		{specs.Mount{Destination: "/x", Type: "nosuchfs"}, `file system "nosuchfs": no such device`},
		{specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"size=many"}}, "size=many"},
		{specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"nonsense"}}, "nonsense"},
		{specs.Mount{Destination: "/x", Type: "bind", Source: dir, Options: []string{"tmpcopyup"}}, "tmpcopyup is for a tmpfs"},
		{specs.Mount{Destination: "/", Type: "bind", Source: dir}, "the root is not a mount point"},
		{specs.Mount{Destination: "/../", Type: "bind", Source: dir}, "the root is not a mount point"},
		{specs.Mount{Destination: "/x", Source: dir}, "has no type"},
		{specs.Mount{Destination: "/proc/nothing", Type: "bind", Source: dir}, `mount "/proc/nothing": mkdir /proc/nothing: no such file or directory`},
		{specs.Mount{Destination: "/x", Type: "proc", Options: []string{"nonsense"}}, `mount "/x": invalid argument`},
	} {
		s := newSpec(newRootfs(t), "true")
		s.Mounts = append(s.Mounts, c.m)
		before := children(t)
		if _, err := Start(context.Background(), StartOptions{Spec: s}); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%+v: %v", c.m, err)
		}
		if after := children(t); after != before {
			t.Errorf("%+v: there were %d child processes, and then %d", c.m, before, after)
		}
	}
}

// children counts this process's child processes, also those that have ended.
func children(t *testing.T) (count int) {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range files {
		data, _ := os.ReadFile(name) // it may have ended meanwhile
		if f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:])); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			count++
		}
	}
	return count
}

// The kernel lists mounts in the order of the spec's, /proc and the cgroup hierarchies among them.
func TestMountsStandInTheirOrder(t *testing.T) {
	first, _ := sleeper(t, nil)
	for name, change := range map[string]func(*StartOptions){
		"plain": nil,
		"host's processes": func(o *StartOptions) {
			o.Spec.Linux.Namespaces = slices.DeleteFunc(o.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
				return n.Type == specs.PIDNamespace
			})
		},
		"hooks":          func(o *StartOptions) { o.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true"}}} },
		"user namespace": remapped(t),
		"another's processes": func(o *StartOptions) {
			for k := range o.Spec.Linux.Namespaces {
				if n := &o.Spec.Linux.Namespaces[k]; n.Type == specs.PIDNamespace {
					n.Path = fmt.Sprintf("/proc/%d/ns/pid", first.Pid)
				}
			}
		},
		"no pivot": func(o *StartOptions) { o.NoPivot = true },
	} {
		g := testGroup(t, nil)
		var want []string
		out := sh(t, "cat /proc/self/mountinfo; pwd; ls /", func(o *StartOptions) {
			o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			o.Spec.Mounts = slices.Insert(o.Spec.Mounts, 4, cgroupMount())
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/proc/bus", Type: "tmpfs"}, specs.Mount{Destination: "/tmp", Type: "tmpfs"})
			o.Cgroup = g
			for _, m := range o.Spec.Mounts {
				want = append(want, m.Destination)
			}
			if change != nil {
				change(o)
			}
		})
		has(t, out, "\n/\nbin\n")
		var got []string
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 5 && slices.Contains(want, f[4]) && !slices.Contains(got, f[4]) {
				got = append(got, f[4])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestHomeIsThatOfThePasswdFile(t *testing.T) {
	for _, init := range []bool{false, true} {
		for uid, home := range map[uint32]string{0: "/root", 1000: "/home/user", 7: "/"} {
			out := sh(t, "echo $HOME. $ONE", func(o *StartOptions) {
				o.Spec.Process.Env = []string{"PATH=/bin", "ONE=1"}
				o.Spec.Process.User.UID = uid
				o.Init = init
			})
			if out != home+". 1\n" {
				t.Errorf("init %v, user %d: %q", init, uid, out)
			}
		}
	}
}

// An image's passwd file that would have its reader wait, or never end, is none.
func TestPasswdFileThatHasNoEnd(t *testing.T) {
	for _, to := range []string{"/proc/kmsg", "/dev/zero", "/dev/tty", "/proc/kcore", "passwd", "/"} {
		o := StartOptions{Spec: newSpec(newRootfs(t), "sh", "-c", "echo $HOME")}
		o.Spec.Process.Env = o.Spec.Process.Env[:1]
		passwd := o.Spec.Root.Path + "/etc/passwd"
		if err := errors.Join(os.Remove(passwd), os.Symlink(to, passwd)); err != nil {
			t.Fatal(err)
		}
		if out, _ := run(t, o); out != "/\n" {
			t.Errorf("%s: the home is %q", to, out)
		}
	}
}

func TestMountBelowProc(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/uptime", "1.00 1.00\n")
	has(t, sh(t, "cat /proc/uptime; mount", func(o *StartOptions) {
		o.Spec.Mounts = append(o.Spec.Mounts,
			specs.Mount{Destination: "/proc/uptime", Type: "bind", Source: dir + "/uptime", Options: []string{"ro", "bind"}})
	}), "1.00 1.00\n", " on /proc/uptime type ")
}

func TestPropagation(t *testing.T) {
	needRoot(t)
	for option, want := range map[string]string{"rprivate": " - ", "rslave": " master:", "rshared": " shared:", "": " master:"} {
		err := linux.OnThread(func() error { // the test's own shared mount, in a namespace of its own
			if err := linux.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			src := t.TempDir()
			for _, step := range []error{
				unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
				unix.Mount("tmpfs", src, "tmpfs", 0, ""),
				unix.Mount("", src, "", unix.MS_SHARED, ""),
			} {
				if step != nil {
					return step
				}
			}
			// Start works from a thread of its own, so it is led there through the mount namespace's root.
			tree, err := linux.OpenTree(unix.AT_FDCWD, src, unix.OPEN_TREE_CLONE)
			if err != nil {
				return err
			}
			defer tree.Close()
			m := &mount{tree: tree}
			if option != "" {
				word, _ := parsePropagation(option)
				m.propagation = []propagationWord{word}
			}
			if err := m.attributes(); err != nil {
				return err
			}
			target, err := os.OpenFile("/mnt", unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer target.Close()
			if err := linux.MoveMount(tree, target); err != nil {
				return err
			}
			info, err := os.ReadFile("/proc/thread-self/mountinfo")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(info)) {
				if strings.Contains(line, " /mnt ") && !strings.Contains(line, want) {
					t.Errorf("%q: %s", option, line)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// Whatever an image has at the places where mounts go, nothing is made or mounted outside of it.
func TestHostileRootfs(t *testing.T) {
	noLeaks(t)
	for _, name := range []string{"proc", "sys", "dev", "etc", "tmp"} {
		for _, target := range []string{"", "../../../../../../.."} {
			victim := t.TempDir()
			rootfs := newRootfs(t)
			if err := os.RemoveAll(rootfs + "/" + name); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target+victim, rootfs+"/"+name); err != nil {
				t.Fatal(err)
			}
			s := newSpec(rootfs, "true")
			src := filepath.Join(t.TempDir(), "src")
			write(t, src, "")
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: src, Options: []string{"bind"}},
				specs.Mount{Destination: "/tmp/dir", Type: "tmpfs"})
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
			_, _, _, err := tryRun(t, StartOptions{Spec: s})
			// In the image, /tmp as a link to /tmp/x/y leads back to itself.
			if refused := name == "proc" || name == "sys" || name == "tmp"; refused != (err != nil) {
				t.Errorf("/%s as a link: %v", name, err)
			}
			if left, _ := os.ReadDir(victim); len(left) > 0 {
				t.Errorf("/%s as a link: %v was made on the host", name, left)
			}
		}
	}
	// A device that the image pretends to have.
	for _, fake := range []string{"null", "tty"} {
		rootfs := newRootfs(t)
		write(t, rootfs+"/dev/"+fake, "")
		s := newSpec(rootfs, "true")
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
		if _, err := Start(context.Background(), StartOptions{Spec: s}); !errors.Is(err, unix.EEXIST) {
			t.Error(fake, err)
		}
	}
}

func TestDevices(t *testing.T) {
	mode := os.FileMode(0o640)
	gid := uint32(7)
	out := sh(t, `stat -c '%F %t:%T %a %g' /dev/net/tun /dev/pipe /dev/null; echo x > /dev/null && echo ok`, func(o *StartOptions) {
		o.Spec.Linux.Devices = []specs.LinuxDevice{
			{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode, GID: &gid},
			{Path: "/dev/pipe", Type: "p"},
			{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}
	})
	if out != "character special file a:c8 640 7\nfifo 0:0 666 0\ncharacter special file 1:3 666 0\nok\n" {
		t.Error(out)
	}
}

func TestTerminal(t *testing.T) {
	noLeaks(t)
	s := newSpec(newRootfs(t), "sh", "-c", "tty; stty size; ls -l /dev/console; stat -c '%u %g' /dev/pts/0; cat /proc/self/stat; exit 3")
	s.Process.User.UID = 1000
	p, err := Start(context.Background(), StartOptions{Spec: s, Terminal: true, Rows: 33, Cols: 111})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	out, _ := io.ReadAll(p.Master)
	if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 3 {
		t.Error(ws, err)
	}
	has(t, string(out), "/dev/pts/0\r\n33 111\r\n", "136,   0", "1000 5\r\n", " 34816 1 ") // 34816: its controlling terminal is pts/0
}

func TestSysctlsAndNames(t *testing.T) {
	out := sh(t, `cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax /proc/sys/kernel/domainname`, func(o *StartOptions) {
		o.Spec.Domainname = "example.org"
		o.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7", "kernel.msgmax": "4096"}
	})
	if out != "7\n4096\nexample.org\n" {
		t.Error(out)
	}
	for _, key := range []string{"kernel.core_pattern", "net/../kernel/core_pattern", "net..kernel.core_pattern", "vm.swappiness",
		"net.//.kernel.core_pattern", "kernel.hostname", "", "net", "/net/ipv4/ip_forward", "net/ipv4/./ip_forward"} {
		s := newSpec(newRootfs(t), "true")
		s.Linux.Sysctl = map[string]string{key: "1"}
		if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", key, err)
		}
	}
	s := newSpec(newRootfs(t), "true")
	s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	s.Linux.Namespaces[1].Path = "/proc/self/ns/net"
	if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsInvalidArgument(err) {
		t.Error("a sysctl of the host:", err)
	}
}

// TestDecoysInProc: what the runtime writes goes to the kernel, whatever is mounted over the container's procfs (CVE-2025-52881).
func TestDecoysInProc(t *testing.T) {
	decoy := t.TempDir()
	if err := os.MkdirAll(decoy+"/ipv4", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, decoy+"/ipv4/ip_unprivileged_port_start", "decoy")
	score := 77
	out := sh(t, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo; umount /proc/sys/net && cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /proc/self/oom_score_adj",
		func(o *StartOptions) {
			o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/proc/sys/net", Type: "bind", Source: decoy, Options: []string{"bind"}})
			o.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}
			o.Spec.Linux.ReadonlyPaths, o.Spec.Linux.MaskedPaths = nil, nil
			o.Spec.Process.OOMScoreAdj = &score
			caps := []string{"CAP_SYS_ADMIN"}
			o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}
		})
	if out != "decoy\n7\n77\n" {
		t.Errorf("%q", out)
	}
	if text, err := os.ReadFile(decoy + "/ipv4/ip_unprivileged_port_start"); err != nil || string(text) != "decoy" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestHostNamespaces(t *testing.T) {
	own := func(kind string) string {
		link, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	out := sh(t, `for n in net uts ipc pid mnt cgroup; do readlink /proc/self/ns/$n; done`, func(o *StartOptions) {
		o.Spec.Hostname = ""
		o.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	})
	has(t, out, own("net"), own("uts"), own("ipc"), own("pid"), own("cgroup"))
	if strings.Contains(out, own("mnt")) {
		t.Error(out)
	}
	s := newSpec(newRootfs(t), "true")
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsInvalidArgument(err) {
		t.Error("the host's name would be set:", err)
	}
}

func TestJoinedNamespaces(t *testing.T) {
	first, err := Start(context.Background(), StartOptions{Spec: newSpec(newRootfs(t), "sleep", "1000")})
	if err != nil {
		t.Fatal(err)
	}
	defer first.discard()
	netns, err := linux.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	dir := fmt.Sprintf("/proc/%d/ns/", first.Pid)
	out := sh(t, `for n in net uts ipc pid; do readlink /proc/self/ns/$n; done; ps; echo $$`, func(o *StartOptions) {
		o.Spec.Hostname = ""
		o.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			{Type: specs.UTSNamespace, Path: dir + "uts"}, {Type: specs.IPCNamespace, Path: dir + "ipc"},
			{Type: specs.PIDNamespace, Path: dir + "pid"}}
		o.Namespaces = map[specs.LinuxNamespaceType]*os.File{specs.NetworkNamespace: netns}
	})
	var st unix.Stat_t
	if err := unix.Fstat(int(netns.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	// And its /proc shows no more than that namespace has.
	if pid := fmt.Sprintf("%5d ", os.Getpid()); strings.Contains(out, pid) || !strings.Contains(out, "\n    1 ") {
		t.Error("the host's processes are seen:", out)
	}
	want := []string{fmt.Sprintf("net:[%d]", st.Ino), "sleep 1000"}
	for _, kind := range []string{"uts", "ipc", "pid"} {
		link, err := os.Readlink(dir + kind)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, link)
	}
	has(t, out, want...)
}

func TestTimeNamespace(t *testing.T) {
	out := sh(t, "cat /proc/uptime", func(o *StartOptions) {
		o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		o.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1_000_000_000}}
	})
	if len(strings.Split(out, ".")[0]) != 10 {
		t.Error(out)
	}
}

func TestLimitsAndPriorities(t *testing.T) {
	adj := 321
	out := sh(t, `cat /proc/self/limits /proc/self/oom_score_adj`, func(o *StartOptions) {
		o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}, {Type: "RLIMIT_NOFILE", Soft: 17, Hard: 18}}
		o.Spec.Process.OOMScoreAdj = &adj
		o.Spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		o.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
	})
	has(t, out, "Max core file size        1                    2 ", "Max open files            17                   18 ", "\n321\n")
	// Without a word about it, what programs expect: not what the Go runtime raised it to.
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	if own.Cur == own.Max-1 {
		has(t, sh(t, `cat /proc/self/limits`, nil), "Max open files            1024 ")
	}

	o := StartOptions{Spec: newSpec(newRootfs(t), "cat", "/proc/self/limits")}
	o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NPROC", Soft: 1 << 40, Hard: 1 << 41}}
	out, _, warnings, err := tryRun(t, o)
	if err != nil {
		t.Fatal(err)
	}
	if own, err := ownCaps(); err == nil && !own.permitted.has(unix.CAP_SYS_RESOURCE) && len(warnings) != 1 {
		t.Errorf("warnings %q of\n%s", warnings, out)
	}
	for _, l := range []specs.POSIXRlimit{{Type: "RLIMIT_X"}, {Type: "RLIMIT_CORE", Soft: 2, Hard: 1}} {
		o.Spec.Process.Rlimits = []specs.POSIXRlimit{l}
		if _, err := Start(context.Background(), o); !errdefs.IsInvalidArgument(err) {
			t.Error(err)
		}
	}
}

func TestRefusedFields(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"mountns": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"windows": func(s *specs.Spec) { s.Windows = &specs.Windows{} },
	} {
		s := newSpec(newRootfs(t), "true")
		change(s)
		if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*specs.Spec){
		"idmapped": func(s *specs.Spec) { s.Mounts[1].UIDMappings = []specs.LinuxIDMapping{{Size: 1}} },
		"idmap": func(s *specs.Spec) {
			s.Mounts[1].Type, s.Mounts[1].Source, s.Mounts[1].Options = "bind", "/tmp", []string{"idmap"}
		},
		"unmapped": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"copyup":    func(s *specs.Spec) { s.Mounts[0].Options = []string{"tmpcopyup"} },
		"version":   func(s *specs.Spec) { s.Version = "2.0.0" },
		"no args":   func(s *specs.Spec) { s.Process.Args = nil },
		"cwd":       func(s *specs.Spec) { s.Process.Cwd = "tmp" },
		"nul":       func(s *specs.Spec) { s.Process.Env = []string{"A=\x00"} },
		"twice":     func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) },
		"unknown":   func(s *specs.Spec) { s.Linux.Namespaces[1].Type = "x" },
		"mask":      func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"x"} },
		"device":    func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "z"}} },
		"no root":   func(s *specs.Spec) { s.Root = nil },
		"no proc":   func(s *specs.Spec) { s.Process = nil },
		"propagate": func(s *specs.Spec) { s.Linux.RootfsPropagation = "x" },
	} {
		s := newSpec(newRootfs(t), "true")
		change(s)
		if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A container cannot reach the file of the program that starts containers (CVE-2019-5736).
func TestProgramCannotBeRewritten(t *testing.T) {
	if f, err := elf.Open("/proc/self/exe"); err == nil && slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Skip("built with cgo, this program does not run in the container")
	}
	exe, err := linux.SealedCopy("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	rootfs := newRootfs(t)
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", 3), "-test.run=^TestHelperExecsItself$")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = append(os.Environ(), "BERTH_TEST_ROOTFS="+rootfs)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	has(t, string(out), "opened for writing: text file busy")
}

// TestHelperExecsItself is the other process of TestProgramCannotBeRewritten: it runs a container whose program is
// /proc/self/exe, which is this very program, and which tries to write to itself.
func TestHelperExecsItself(t *testing.T) {
	if os.Getenv("BERTH_TEST_WRITE") != "" {
		for _, flags := range []int{os.O_WRONLY, os.O_WRONLY | os.O_TRUNC} {
			_, err := os.OpenFile("/proc/self/exe", flags, 0)
			fmt.Println("opened for writing:", errnoOf(err))
		}
		return
	}
	rootfs := os.Getenv("BERTH_TEST_ROOTFS")
	if rootfs == "" {
		t.Skip("not by itself")
	}
	s := newSpec(rootfs, "/proc/self/exe", "-test.run=^TestHelperExecsItself$")
	s.Process.Env = append(s.Process.Env, "BERTH_TEST_WRITE=1")
	p, err := Start(context.Background(), StartOptions{Spec: s, Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 0 {
		t.Error(ws, err)
	}
}

// A container lives on when the process that started it dies.
func TestContainerOutlivesItsParent(t *testing.T) {
	if rootfs := os.Getenv("BERTH_TEST_PARENT"); rootfs != "" {
		p, err := Start(context.Background(), StartOptions{Spec: newSpec(rootfs, "sleep", "1000")})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pid=%d\n", p.Pid)
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	rootfs := newRootfs(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestContainerOutlivesItsParent$")
	cmd.Env = append(os.Environ(), "BERTH_TEST_PARENT="+rootfs)
	out, _ := cmd.Output()
	_, rest, _ := strings.Cut(string(out), "pid=")
	pid, err := strconv.Atoi(strings.TrimSpace(rest))
	if err != nil {
		t.Fatalf("%q", out)
	}
	pidfd, err := linux.PidfdOpen(pid)
	if err != nil {
		t.Fatal("it died with its parent:", err)
	}
	defer pidfd.Close()
	defer linux.PidfdSendSignal(pidfd, unix.SIGKILL)
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err != nil || string(comm) != "sleep\n" {
		t.Error(string(comm), err)
	}
	if _, state, err := linux.StartTime(pid); err != nil || state == 'Z' {
		t.Error(string(state), err)
	}
}

func TestHold(t *testing.T) {
	s := newSpec(newRootfs(t), "echo", "hello")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := Start(context.Background(), StartOptions{Spec: s, Hold: true, Stdout: w})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if ended, err := linux.Ended(p.Pidfd); ended || err != nil {
		t.Error("it did not wait", err)
	}
	if err := p.Release(); err != nil {
		t.Error(err)
	}
	out, _ := io.ReadAll(r)
	if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 0 || string(out) != "hello\n" {
		t.Error(ws, string(out), err)
	}
	if err := p.Release(); err == nil {
		t.Error("released twice")
	}
	// One that nobody will release ends.
	if p, err = Start(context.Background(), StartOptions{Spec: s, Hold: true}); err != nil {
		t.Fatal(err)
	}
	if err := p.hold.Close(); err != nil {
		t.Fatal(err)
	}
	p.hold = nil
	if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 127 {
		t.Error(ws, err)
	}
	_ = p.Close()
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Start(ctx, StartOptions{Spec: newSpec(newRootfs(t), "true")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The set-up changes nothing of its own process: not its namespaces, its root, its umask, its directory.
func TestCallerIsUnchanged(t *testing.T) {
	state := func() string {
		var b strings.Builder
		for _, name := range []string{"ns/mnt", "ns/net", "ns/ipc", "ns/uts", "ns/pid_for_children", "ns/cgroup", "root", "cwd"} {
			link, err := os.Readlink("/proc/self/" + name)
			fmt.Fprintln(&b, name, link, err)
		}
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			if strings.HasPrefix(line, "Umask") || strings.HasPrefix(line, "Cap") {
				b.WriteString(line)
			}
		}
		return b.String()
	}
	before := state()
	rootfs := newRootfs(t)
	for range 30 {
		run(t, StartOptions{Spec: newSpec(rootfs, "true")})
	}
	if after := state(); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	// A thread that was in a container ends, and the kernel takes its time for it.
	own, _ := os.Readlink("/proc/self/ns/mnt")
	stayed := func() bool {
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/mnt")
		return slices.ContainsFunc(tasks, func(task string) bool {
			link, err := os.Readlink(task)
			return err == nil && link != own
		})
	}
	for end := time.Now().Add(time.Minute); stayed(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a thread stayed in a container")
		}
	}
	if fds, _ := os.ReadDir("/proc/self/fd"); len(fds) > 20 {
		t.Errorf("%d descriptors are open", len(fds))
	}
}

func BenchmarkStartTrue(b *testing.B) {
	rootfs := newRootfs(b)
	for b.Loop() {
		p, err := Start(context.Background(), StartOptions{Spec: newSpec(rootfs, "/bin/true")})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := linux.WaitPidfd(p.Pidfd); err != nil {
			b.Fatal(err)
		}
		_ = p.Close()
	}
}
