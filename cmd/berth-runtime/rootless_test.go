package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// nobodys is a user and a group that no other has: the kernel wants no name.
func nobodys() int { return 1<<21 + os.Getpid() }

// newUserBundle is newBundle for an ordinary user, with what "spec --rootless" writes.
func newUserBundle(t testing.TB, uid int, args ...string) *bundle {
	t.Helper()
	if os.Geteuid() != 0 || linux.InUserNamespace() {
		t.Skip("needs root, to become somebody else")
	}
	if data, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err != nil || strings.TrimSpace(string(data)) == "0" {
		t.Skip("there are no user namespaces here")
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("busybox-static is not installed:", err)
	}
	top, err := os.MkdirTemp("", "berth-rootless")
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{t: t, dir: top + "/bundle", root: top + "/state", user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)},
		spec: ocirun.RootlessExample(uint32(uid), uint32(uid))}
	b.spec.Process.Terminal, b.spec.Process.Args = false, args
	b.fill(busybox)
	if err := os.Mkdir(b.root, 0o700); err != nil {
		t.Fatal(err)
	}
	b.write()
	if err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, uid)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.run("delete", "--force", "c")
		if left, _ := os.ReadDir(b.root); len(left) > 0 {
			t.Error("left behind:", left)
		}
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bundle) firstPid() int {
	b.t.Helper()
	var st specs.State
	if err := json.Unmarshal([]byte(b.ok("state", "c")), &st); err != nil {
		b.t.Fatal(err)
	}
	return st.Pid
}

func TestRootlessLife(t *testing.T) {
	b := newUserBundle(t, nobodys(), "sh", "-c", `trap 'exit 5' TERM; while :; do sleep 0.02; done`)
	b.ok("create", "--pid-file", b.root+"/pid", "c")
	if s := b.status(); s != "created" {
		t.Error(s)
	}
	if out := b.ok("list"); !strings.Contains(out, strconv.Itoa(nobodys())) {
		t.Errorf("no owner in %s", out)
	}
	pid := b.firstPid()
	if data, err := os.ReadFile(b.root + "/pid"); err != nil || string(data) != strconv.Itoa(pid) {
		t.Errorf("pid file %q, %v; want %d", data, err, pid)
	}
	_ = os.Remove(b.root + "/pid")
	b.ok("start", "c")
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil || !strings.Contains(string(data), fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", nobodys())) ||
		!strings.Contains(string(data), "NoNewPrivs:\t1") {
		t.Errorf("%v %s", err, data)
	}
	if out := b.ok("exec", "c", "sh", "-c", "id -u; id -g; id -G; cat /proc/self/uid_map"); strings.Join(strings.Fields(out), " ") != fmt.Sprintf("0 0 0 0 %d 1", nobodys()) {
		t.Error(out)
	}
	if out, code := b.run("exec", "c", "sh", "-c", "exit 9"); code != 9 {
		t.Error(out, code)
	}
	if out, code := b.run("exec", "-u", "3", "c", "true"); code != 255 || !strings.Contains(out, "set the user") {
		t.Error("a user that is not mapped:", out, code)
	}
	b.fails("executable file not found", "exec", "c", "nothing")
	b.ok("exec", "-d", "c", "sleep", "1001")
	var pids []int
	if err := json.Unmarshal([]byte(b.ok("ps", "-f", "json", "c")), &pids); err != nil || !slices.Contains(pids, pid) || len(pids) < 2 {
		t.Error(pids, err)
	}
	if out := b.ok("ps", "c"); !strings.Contains(out, "sleep 1001") {
		t.Error(out)
	}
	b.fails("no cgroup", "pause", "c")
	b.fails("not stopped", "delete", "c")
	b.ok("kill", "c")
	b.until("stopped")
	if out := b.ok("ps", "-f", "json", "c"); strings.TrimSpace(out) != "[]" {
		t.Error(out)
	}
	b.ok("delete", "c")
	b.ok("run", "-d", "c")
	b.ok("kill", "--all", "c", "KILL")
	b.until("stopped")
	b.ok("delete", "c")
	b.ok("create", "c")
	b.ok("delete", "c") // which ends it
	b.ok("run", "-d", "c")
	b.ok("delete", "--force", "c")
	if out := b.ok("list", "-q"); out != "" {
		t.Error(out)
	}
}

func TestRootlessSpecRuns(t *testing.T) {
	b := newUserBundle(t, nobodys(), "true")
	if err := os.Remove(b.dir + "/config.json"); err != nil {
		t.Fatal(err)
	}
	b.ok("spec", "--rootless")
	data, err := os.ReadFile(b.dir + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(data, spec); err != nil {
		t.Fatal(err)
	}
	if l := spec.Linux; l.Resources != nil || len(l.UIDMappings) != 1 || l.UIDMappings[0] != (specs.LinuxIDMapping{ContainerID: 0, HostID: uint32(nobodys()), Size: 1}) {
		t.Errorf("%s", data)
	}
	spec.Process.Terminal = false
	spec.Process.Args = []string{"sh", "-c", "id -u; echo x >/dev/null && cat /dev/zero | head -c 3 | wc -c; ls /sys/kernel >/dev/null && ls /dev/pts; cat /proc/mounts"}
	b.spec = spec
	for _, n := range []string{"head", "wc"} {
		if err := os.Symlink("busybox", b.dir+"/rootfs/bin/"+n); err != nil {
			t.Fatal(err)
		}
	}
	b.write()
	out := b.ok("run", "c")
	mounts, ok := strings.CutPrefix(out, "0\n3\nptmx\n")
	if !ok {
		t.Errorf("%q", out)
	}
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); (f[1] == "/sys" || strings.HasPrefix(f[1], "/sys/")) && !strings.HasPrefix(f[3], "ro") {
			t.Error("can be written to:", line)
		}
	}
}

func TestRootlessTerminal(t *testing.T) {
	b := newUserBundle(t, nobodys(), "sh", "-c", "tty; sleep 1000")
	b.spec.Process.Terminal = true
	b.write()
	socket := filepath.Join(b.root, "console")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(socket, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := l.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	line := func(wanted string) {
		t.Helper()
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, files, err := linux.RecvMsg(conn, make([]byte, 100), 1)
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		defer files[0].Close()
		buf := make([]byte, len(wanted))
		if _, err := io.ReadFull(files[0], buf); err != nil || string(buf) != wanted {
			t.Errorf("%q, %v", buf, err)
		}
	}
	b.ok("run", "-d", "--console-socket", socket, "c")
	line("/dev/pts/0\r\n")
	b.ok("exec", "-d", "-t", "--console-socket", socket, "c", "sh", "-c", "tty; sleep 1000")
	line("/dev/pts/1\r\n")
	b.ok("delete", "--force", "c")
}

func TestRootlessSignalsAndFiles(t *testing.T) {
	b := newUserBundle(t, nobodys(), "sh", "-c", "cat <&3; trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
	once := func() int {
		given, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, "preserved\n")
		_ = w.Close()
		cmd := b.command("run", "--preserve-fds", "1", "c")
		cmd.ExtraFiles = []*os.File{given}
		r, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = given.Close()
		want := "preserved\nready\n"
		buf := make([]byte, len(want))
		if _, err := io.ReadFull(r, buf); err != nil || string(buf) != want {
			t.Errorf("%q, %v", buf, err)
		}
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	}
	untilCaught(t, b, once)
}

// testUser makes a user with ranges of ids, as "adduser" does.
func testUser(t *testing.T) (uid int, name string) {
	t.Helper()
	for _, p := range []string{"useradd", "userdel", "newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip("needs Debian's packages passwd and uidmap:", err)
		}
	}
	name = fmt.Sprintf("brt%d", os.Getpid())
	if out, err := exec.Command("useradd", "--no-create-home", "--home-dir", "/nonexistent", "--add-subids-for-system", "--system", "--user-group",
		name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("userdel", name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	out, err := exec.Command("id", "-u", name).Output()
	if err == nil {
		uid, err = strconv.Atoi(strings.TrimSpace(string(out)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return uid, name
}

// subordinate is the range that a file gives a user.
func subordinate(t *testing.T, file, name string) (first, count uint32) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			if _, err := fmt.Sscanf(rest, "%d:%d", &first, &count); err != nil {
				t.Fatal(line, err)
			}
			return first, count
		}
	}
	t.Fatalf("%s has nothing for %s:\n%s", file, name, data)
	return 0, 0
}

func TestRootlessRange(t *testing.T) {
	uid, name := testUser(t)
	b := newUserBundle(t, uid, "sh", "-c", "id -u; id -g; id -G; touch /tmp/x && ls -ln /tmp/x; cat /proc/self/setgroups")
	first, count := subordinate(t, "/etc/subuid", name)
	firstGroup, groups := subordinate(t, "/etc/subgid", name)
	out, err := exec.Command("id", "-g", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	b.user.Gid = uint32(gid)
	if err := os.Symlink("busybox", b.dir+"/rootfs/bin/touch"); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{b.dir + "/rootfs/tmp"} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	b.spec.Root.Readonly = false
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(uid), Size: 1}, {ContainerID: 1, HostID: first, Size: count}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(gid), Size: 1}, {ContainerID: 1, HostID: firstGroup, Size: groups}}
	b.spec.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}
	b.write()
	text := b.ok("run", "c")
	if f := strings.Fields(text); len(f) < 10 || strings.Join(f[:4], " ") != "7 8 8 9" || f[6] != "7" || f[7] != "8" || f[len(f)-1] != "allow" {
		t.Error(text)
	}
	if fi, err := os.Stat(b.dir + "/rootfs/tmp/x"); err != nil || fi.Sys().(*syscall.Stat_t).Uid != first+6 {
		t.Errorf("%v, %v; want an owner of %d", fi, err, first+6)
	}
	b.spec.Process.Args = []string{"sleep", "1000"}
	b.write()
	b.ok("run", "-d", "c")
	if out := b.ok("exec", "-u", "0:0", "c", "id", "-u"); out != "0\n" {
		t.Error(out)
	}
	if out := b.ok("exec", "-u", "100:101", "-g", "102", "c", "sh", "-c", "echo $(id -u) $(id -g) $(id -G)"); out != "100 101 101 9 102\n" {
		t.Error(out)
	}
	b.ok("kill", "c", "KILL") // a process of another user than who asks
	b.until("stopped")
	b.ok("delete", "c")

	// The container's root may be one of the range, with the user himself somewhere else.
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: 1000}, {ContainerID: 1000, HostID: uint32(uid), Size: 1}}
	b.spec.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstGroup, Size: 1000}, {ContainerID: 1000, HostID: uint32(gid), Size: 1}}
	b.spec.Process.User = specs.User{}
	b.write()
	b.ok("run", "-d", "c")
	if out := b.ok("exec", "c", "sh", "-c", "id -u; ls -lnd /bin"); !strings.HasPrefix(out, "0\n") || !strings.Contains(out, " 1000 ") {
		t.Error(out)
	}
	b.ok("delete", "--force", "c")

	// What is not the user's to map, and what needs a program that is not there.
	b.spec.Linux.UIDMappings[0].HostID = first + count
	b.write()
	b.fails("/etc/subuid", "run", "c")
	b.env = []string{"PATH=/nonexistent"}
	b.fails("apt-get install uidmap", "run", "c")
}

func TestRootlessLimits(t *testing.T) {
	b := newUserBundle(t, nobodys(), "true")
	if host, err := cgroup.Detect(); err != nil || len(host.Mounts()) == 0 {
		t.Skip("there are no cgroups:", err)
	}
	b.spec.Linux.CgroupsPath = "/berth-test-runtime/rootless" // which is nobody's but root's
	// Device rules are no limits: nobody can make a device there.
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	b.write()
	b.ok("run", "c")
	b.fails("permission denied", "--rootless", "false", "run", "c")
	b.fails("neither true nor false", "--rootless", "maybe", "run", "c")
	memory, pids := int64(64<<20), int64(10)
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	b.write()
	b.fails("(memory, pids) cannot be set", "run", "c")
	b.fails("Delegate=yes", "--rootless=true", "run", "c")
}

func TestRootlessMounts(t *testing.T) {
	b := newUserBundle(t, nobodys(), "sh", "-c", "ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward; ls /sys/fs/cgroup | head -n 1; cat /host/config.json | head -c 1; "+
		"echo x 2>/dev/null >/host/y; echo $?")
	if err := os.Symlink("busybox", b.dir+"/rootfs/bin/head"); err != nil {
		t.Fatal(err)
	}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	for i := range b.spec.Mounts {
		if m := &b.spec.Mounts[i]; m.Destination == "/sys" {
			*m = specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro", "nosuid", "noexec", "nodev"}}
		}
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}},
		specs.Mount{Destination: "/host", Type: "bind", Source: b.dir, Options: []string{"rbind", "ro"}})
	b.spec.Root.Readonly = false
	b.write()
	out := b.ok("run", "c")
	if f := strings.Fields(out); len(f) != 4 || f[0] != "lo" || f[1] != "1" || f[3] != "{1" {
		t.Errorf("%q", out)
	}
	// Without a cgroup namespace nobody else's groups are shown.
	b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[:len(b.spec.Linux.Namespaces)-1]
	b.spec.Process.Args = []string{"sh", "-c", "ls /sys/fs/cgroup; echo >/sys/fs/cgroup/x"}
	b.write()
	if out, code := b.run("run", "c"); code != 1 || !strings.Contains(out, "ead-only file system") || strings.Count(out, "\n") != 1 {
		t.Errorf("%d: %q", code, out)
	}
	b.spec.Process.Args = []string{"true"}
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/nothing-of-the-kind", Type: "c", Major: 1, Minor: 11}}
	b.write()
	b.fails("none can be made", "run", "c")
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/zero", Type: "c", Major: 1, Minor: 11}}
	b.write()
	b.fails("is another", "run", "c")
}

func TestRootlessRefuses(t *testing.T) {
	b := newUserBundle(t, nobodys(), "true")
	spec := *b.spec.Linux
	b.spec.Process.User.AdditionalGids = []uint32{7}
	b.write()
	b.fails("/etc/subgid", "run", "c")
	b.spec.Process.User.AdditionalGids = nil
	b.spec.Process.User.UID = 12
	b.write()
	b.fails("maps nothing to the container's user 12", "run", "c")
	b.spec.Process.User.UID = 0
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(nobodys() + 1), Size: 1}}
	b.write()
	b.fails(fmt.Sprintf("does not map user %d", nobodys()), "run", "c")
	*b.spec.Linux = spec
	b.spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 1, HostID: uint32(nobodys()), Size: 1}}
	b.write()
	b.fails("maps nothing to the container's user 0", "create", "c")
	*b.spec.Linux = spec
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = nil, nil
	b.write()
	b.fails("needs mappings", "run", "c")
	b.spec.Linux.Namespaces = slices.DeleteFunc(slices.Clone(spec.Namespaces), func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	b.write()
	b.fails("spec --rootless", "run", "c")
	// The hidden verb is nothing to an ordinary namespace.
	b.fails("is not a command", enteredVerb, "run", "c")
}

// A create or a run that is killed leaves nothing that "delete --force" does not take away.
func TestRootlessCreateIsKilled(t *testing.T) {
	b := newUserBundle(t, nobodys(), "sleep", "1002")
	for i := range 30 {
		cmd := b.command("create", "c")
		if i >= 15 {
			i -= 15
			cmd = b.command("run", "-d", "c")
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * 300 * time.Microsecond) // the moment is the subject
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
			b.ok("delete", "--force", "c")
			left, err := filepath.Glob(b.root + "/c")
			if err == nil && len(left) == 0 && !running(uint32(nobodys())) {
				break
			}
			if time.Now().After(end) {
				t.Fatal("left behind:", left, err, running(uint32(nobodys())))
			}
		}
	}
}

// running says whether a user has processes.
func running(uid uint32) bool {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	return slices.ContainsFunc(dirs, func(dir string) bool {
		var st unix.Stat_t
		data, err := os.ReadFile(dir + "/stat")
		return err == nil && unix.Stat(dir, &st) == nil && st.Uid == uid && !strings.Contains(string(data), ") Z ")
	})
}

// delegated makes a group below dir, as the user's, and starts commands in it.
func (b *bundle) delegated(dir string) {
	b.t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		b.run("delete", "--force", "c")
		_ = b.caller.Close()
		b.caller = nil
		for _, below := range []string{"/berth-runtime", "/group", ""} {
			if err := os.Remove(dir + below); err != nil && !os.IsNotExist(err) {
				b.t.Error(err)
			}
		}
	})
	for _, name := range []string{"", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control"} {
		if err := os.Chown(dir+name, int(b.user.Uid), int(b.user.Gid)); err != nil {
			b.t.Fatal(err)
		}
	}
	var err error
	if b.caller, err = os.Open(dir); err != nil {
		b.t.Fatal(err)
	}
}

// groupOf is the directory of the group that the container's first process is in.
func (b *bundle) groupOf() string {
	b.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.firstPid()))
	name, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "0::")
	if err != nil || !ok {
		b.t.Fatalf("%q, %v", data, err)
	}
	return "/sys/fs/cgroup" + name
}

func (b *bundle) wants(dir string, files map[string]string) {
	b.t.Helper()
	for name, want := range files {
		data, err := os.ReadFile(dir + "/" + name)
		if got := strings.TrimSpace(string(data)); err != nil || got != want {
			b.t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func needCgroup2(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		t.Skip("needs cgroup version 2")
	}
}

// A group that somebody has delegated to the user.
func TestRootlessDelegated(t *testing.T) {
	needCgroup2(t)
	b := newUserBundle(t, nobodys(), "sleep", "1000")
	top := "/sys/fs/cgroup/berth-delegated"
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(top); err != nil {
			t.Error(err)
		}
	})
	for _, file := range []string{"/sys/fs/cgroup/cgroup.subtree_control", top + "/cgroup.subtree_control"} {
		if err := os.WriteFile(file, []byte("+memory +pids"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control"} {
		if err := os.Chown(top+name, nobodys(), nobodys()); err != nil {
			t.Fatal(err)
		}
	}
	b.delegated(top + "/caller")
	memory, pids := int64(64<<20), int64(20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids},
		Unified: map[string]string{"memory.high": "62914560"}, Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	b.write()
	b.ok("run", "-d", "c")
	dir := b.groupOf()
	if dir != top+"/berth-runtime/c" {
		t.Errorf("the container is in %q", dir)
	}
	b.wants(dir, map[string]string{"memory.max": "67108864", "pids.max": "20", "memory.high": "62914560"})
	if out := b.ok("exec", "c", "cat", "/sys/fs/cgroup/pids.max", "/proc/self/cgroup"); out != "20\n0::/\n" {
		t.Errorf("%q", out)
	}
	b.ok("update", "--pids-limit", "30", "c")
	b.wants(dir, map[string]string{"pids.max": "30"})
	b.ok("pause", "c")
	if s := b.status(); s != "paused" {
		t.Error(s)
	}
	b.ok("resume", "c")
	if out := b.ok("ps", "-f", "json", "c"); !strings.Contains(out, strconv.Itoa(b.firstPid())) {
		t.Error(out)
	}
	b.ok("delete", "--force", "c")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the group is still there:", err)
	}
	if err := os.Remove(top + "/berth-runtime"); err != nil {
		t.Error(err)
	}
	// A controller that was not delegated cannot be used.
	shares := uint64(100)
	b.spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}
	b.write()
	// Where an earlier group needed it, the root of all hands it down.
	if controllers, err := os.ReadFile(top + "/cgroup.controllers"); err != nil || !slices.Contains(strings.Fields(string(controllers)), "cpu") {
		b.fails("does not have the cpu controller", "run", "c")
	}
	_ = os.Remove(top + "/berth-runtime")
}

// session starts a systemd as the user's in a group of its own, as logging in does, and waits until it can be asked.
func (b *bundle) session(top, run string) (pid int, log string) {
	b.t.Helper()
	const program = "/lib/systemd/systemd"
	if _, err := os.Stat(program); err != nil {
		b.t.Skip("there is no systemd:", err)
	}
	if err := errors.Join(os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory +pids"), 0), os.Mkdir(top, 0o755)); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range []string{"", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control"} {
		if err := os.Chown(top+name, int(b.user.Uid), int(b.user.Gid)); err != nil {
			b.t.Fatal(err)
		}
	}
	units := run + "/systemd/user" // $XDG_RUNTIME_DIR/systemd/user, see systemd.unit(5)
	if err := errors.Join(os.MkdirAll(units, 0o755), os.WriteFile(units+"/default.target", []byte("[Unit]\nDescription=the session\n"), 0o644)); err != nil {
		b.t.Fatal(err)
	}
	if err := filepath.WalkDir(run, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, int(b.user.Uid), int(b.user.Gid)))
	}); err != nil {
		b.t.Fatal(err)
	}
	group, err := os.Open(top)
	if err != nil {
		b.t.Fatal(err)
	}
	defer group.Close()
	out, err := os.Create(filepath.Dir(run) + "/log")
	if err != nil {
		b.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(program, "--user", "--log-target=console")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", out, out
	cmd.Env = []string{"HOME=" + run, "XDG_RUNTIME_DIR=" + run, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.user, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if host, err := cgroup.Detect(); err != nil {
			b.t.Error(err)
		} else {
			g := host.Open("/" + filepath.Base(top))
			if err := errors.Join(g.KillAll(), g.Delete()); err != nil {
				b.t.Error(err)
			}
		}
	})
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(run + "/systemd/private"); err == nil {
			return cmd.Process.Pid, out.Name()
		}
		select {
		case <-exited:
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		data, _ := os.ReadFile(out.Name())
		b.t.Fatalf("the session's systemd does not start: %s", data)
	}
}

// The systemd of the user's own session makes the group.
func TestRootlessScope(t *testing.T) {
	needCgroup2(t)
	b := newUserBundle(t, nobodys(), "sleep", "1000")
	run := filepath.Dir(b.dir) + "/run"
	if err := errors.Join(os.Mkdir(run, 0o700), os.Chown(run, nobodys(), nobodys())); err != nil {
		t.Fatal(err)
	}
	b.env = []string{"XDG_RUNTIME_DIR=" + run}
	memory := int64(64 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}}
	b.spec.Linux.CgroupsPath = "user.slice:berth:c"
	b.write()
	b.fails("loginctl enable-linger", "--systemd-cgroup", "run", "c")

	top := "/sys/fs/cgroup/berth-session"
	session, log := b.session(top, run)
	b.delegated(top + "/caller")
	defer func() {
		if t.Failed() {
			data, _ := os.ReadFile(log)
			t.Logf("systemd %d of the session says:\n%s", session, data)
		}
	}()
	b.ok("--systemd-cgroup", "run", "-d", "c")
	dir := b.groupOf()
	if !strings.HasSuffix(dir, "/user.slice/berth-c.scope") {
		t.Errorf("the container is in %q", dir)
	}
	b.wants(dir, map[string]string{"memory.max": "67108864"})
	b.ok("--systemd-cgroup", "update", "--memory", "128m", "c")
	b.wants(dir, map[string]string{"memory.max": "134217728"})
	if out := b.ok("exec", "c", "id", "-u"); out != "0\n" {
		t.Error(out)
	}
	b.ok("delete", "--force", "c")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			break
		} else if time.Now().After(end) {
			t.Fatal("the group is still there:", err)
		}
	}
}
