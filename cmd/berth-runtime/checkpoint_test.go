package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/criu"
	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// needCriu skips where criu cannot work. The guest's kernel (test/guest) is one where Debian's can.
func needCriu(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	name, err := criu.Find()
	if err == nil {
		var out []byte
		if out, err = exec.Command(name, "check").CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
	}
	if err != nil && os.Getenv("BERTH_CRIU") != "" {
		t.Fatal("criu is to work here: ", err)
	}
	if err != nil {
		t.Skip("criu does not work on this machine: ", err)
	}
	return name
}

const counting = "i=0; while :; do i=$((i+1)); echo $i >/tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done"

// newCounter is a bundle whose process counts in a file.
func newCounter(t *testing.T) *bundle {
	t.Helper()
	needCriu(t)
	b := newBundle(t, "sh", "-c", counting)
	t.Cleanup(func() {
		logs, _ := filepath.Glob(b.dir + "/*/*.log")
		for _, name := range logs {
			if text, err := os.ReadFile(name); err == nil && t.Failed() {
				t.Logf("the end of %s:\n%s", name, text[max(0, len(text)-3000):])
			}
		}
	})
	b.spec.Root.Readonly = false
	b.write()
	for _, name := range []string{"mv", "mount", "hostname", "stty", "nc", "grep", "stat", "sed"} {
		if err := os.Symlink("busybox", b.dir+"/rootfs/bin/"+name); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// detached runs a command that leaves a container, whose standard files are the null device.
func (b *bundle) detached(args ...string) {
	b.t.Helper()
	if err := b.start(nil, args...); err != nil {
		b.t.Fatal(err)
	}
}

// start runs a command with the null device, but for its output.
func (b *bundle) start(stdout *os.File, args ...string) error {
	log := filepath.Join(b.t.TempDir(), "log")
	cmd := b.command(append([]string{"--log", log}, args...)...)
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(log)
		return fmt.Errorf("%q: %w: %s", args, err, said)
	}
	return nil
}

func (b *bundle) count() int {
	data, err := os.ReadFile(b.dir + "/rootfs/tmp/count")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

// countsBeyond waits until the counter has passed n.
func (b *bundle) countsBeyond(n int) int {
	b.t.Helper()
	b.waits(fmt.Sprintf("counting beyond %d", n), func() bool { return b.count() > n })
	return b.count()
}

func (b *bundle) waits(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("in vain: ", what)
		}
	}
}

func (b *bundle) gone() {
	b.t.Helper()
	b.fails("container does not exist", "state", "c")
	if left, err := os.ReadDir(b.root); err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.Name() == "c" }) {
		b.t.Error(left, err)
	}
}

func (b *bundle) images(name string) string { return filepath.Join(b.dir, name) }

func TestCheckpoint(t *testing.T) {
	b := newCounter(t)
	b.detached("run", "-d", "c")
	b.countsBeyond(5)
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	b.gone()
	n := b.count()
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.detached("restore", "-d", "--pid-file", pidFile, "--image-path", b.images("images"), "--work-path", b.images("work"), "c")
	if after := b.countsBeyond(n); after < n {
		t.Errorf("it counts from %d on, not from %d", after, n)
	}
	if s := b.status(); s != "running" {
		t.Error(s)
	}
	pid, err := os.ReadFile(pidFile)
	var st specs.State
	if err == nil {
		err = json.Unmarshal([]byte(b.ok("state", "c")), &st)
	}
	if err != nil || string(pid) != strconv.Itoa(st.Pid) {
		t.Errorf("%q, %d, %v", pid, st.Pid, err)
	}
	if _, err := os.Stat(b.images("work") + "/restore.log"); err != nil {
		t.Error(err)
	}
	if out := b.ok("exec", "c", "sh", "-c", "hostname; echo x 2>&- >/proc/sys/kernel/hostname || echo read-only"); out != "berth\nread-only\n" {
		t.Errorf("%q", out)
	}
	b.ok("exec", "c", "sh", "-c", "echo $$")
	b.ok("pause", "c")
	if s := b.status(); s != "paused" {
		t.Error(s)
	}
	b.ok("resume", "c")
	b.countsBeyond(b.count())
	b.fails("already exists", "restore", "--image-path", b.images("images"), "c")

	// And once more, from what was restored.
	b.ok("checkpoint", "--image-path", b.images("again"), "c")
	b.gone()
	n = b.count()
	b.detached("restore", "--detach", "--no-pivot", "--no-subreaper", "--image-path", b.images("again"), "c")
	b.countsBeyond(n)
	b.ok("kill", "c", "KILL")
	b.until("stopped")
	b.ok("delete", "c")
}

func TestCheckpointLeavesRunning(t *testing.T) {
	b := newCounter(t)
	b.detached("run", "-d", "c")
	saved := b.countsBeyond(3)
	b.ok("checkpoint", "--leave-running", "--image-path", b.images("images"), "c")
	if s := b.status(); s != "running" {
		t.Error(s)
	}
	later := b.countsBeyond(b.count() + 40)
	b.ok("delete", "--force", "c")
	b.detached("restore", "-d", "--image-path", b.images("images"), "c")
	b.waits("counting from what was saved", func() bool { n := b.count(); return n >= saved && n < later })
	b.countsBeyond(b.count())
	b.ok("delete", "--force", "c")
}

func TestCheckpointOfAPausedContainer(t *testing.T) {
	b := newCounter(t)
	b.detached("run", "-d", "c")
	b.countsBeyond(3)
	b.ok("pause", "c")
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	b.gone()
	n := b.count()
	b.detached("restore", "-d", "--image-path", b.images("images"), "c")
	b.countsBeyond(n)
	b.ok("delete", "--force", "c")
}

func TestPreDump(t *testing.T) {
	for _, userns := range []bool{false, true} {
		t.Run(fmt.Sprintf("userns %t", userns), func(t *testing.T) { preDump(t, userns) })
	}
}

func preDump(t *testing.T, userns bool) {
	b := newCounter(t)
	if userns {
		b.remapped()
	}
	b.detached("run", "-d", "c")
	b.countsBeyond(3)
	if out, code := b.run("checkpoint", "--pre-dump", "--image-path", b.images("one"), "c"); code != 0 {
		if !strings.Contains(out, "CONFIG_MEM_SOFT_DIRTY") || os.Getenv("BERTH_CRIU") != "" {
			t.Fatal(out)
		}
		t.Skip("this kernel does not tell which pages were written: ", out)
	}
	b.countsBeyond(b.count())
	b.ok("checkpoint", "--pre-dump", "--image-path", b.images("two"), "--parent-path", "../one", "c")
	b.countsBeyond(b.count())
	b.fails("cannot be absolute", "checkpoint", "--image-path", b.images("three"), "--parent-path", b.images("two"), "c")
	b.fails("not there", "checkpoint", "--image-path", b.images("three"), "--parent-path", "../nothing", "c")
	b.ok("checkpoint", "--auto-dedup", "--image-path", b.images("three"), "--parent-path", "../two", "c")
	b.gone()
	n := b.count()
	if userns { // a link that leads elsewhere gives nothing away
		b.parentsLeadingElsewhere()
	}
	b.detached("restore", "-d", "--image-path", b.images("three"), "c")
	b.countsBeyond(n)
	b.ok("delete", "--force", "c")
}

// parentsLeadingElsewhere has the link to a parent's images lead to a directory that has none, and to itself.
func (b *bundle) parentsLeadingElsewhere() {
	b.t.Helper()
	elsewhere := b.t.TempDir()
	if err := os.WriteFile(elsewhere+"/pages-1.img", nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	link := b.images("three") + "/parent"
	own, err := os.Readlink(link)
	if err != nil {
		b.t.Fatal(err)
	}
	for target, want := range map[string]string{elsewhere: "leads to a directory that is none", ".": "more than 256 parents"} {
		if err := errors.Join(os.Remove(link), os.Symlink(target, link)); err != nil {
			b.t.Fatal(err)
		}
		b.fails(want, "restore", "-d", "--image-path", b.images("three"), "c")
	}
	if fi, err := os.Stat(elsewhere + "/pages-1.img"); err != nil || fi.Mode().Perm() != 0o600 {
		b.t.Error("what is no image was given away: ", fi, err)
	}
	if err := errors.Join(os.Remove(link), os.Symlink(own, link)); err != nil {
		b.t.Fatal(err)
	}
}

// reads reads until what was read contains want.
func reads(t *testing.T, f *os.File, want string) {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 256)
		for !strings.Contains(all.String(), want) {
			n, err := f.Read(buf)
			all.Write(buf[:n])
			if err != nil {
				break
			}
		}
		got <- all.String()
	}()
	select {
	case text := <-got:
		if !strings.Contains(text, want) {
			t.Fatalf("%q, not %q", text, want)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("%q does not come", want)
	}
}

func TestCheckpointWithTerminal(t *testing.T) {
	b := newCounter(t)
	b.spec.Process.Terminal = true
	b.spec.Process.Args = []string{"sh", "-c", "stty -echo; n=0; while read line; do n=$((n+1)); echo \"$n $line $(tty)\"; done"}
	b.write()
	socket, master := files(t)
	b.detached("run", "-d", "--console-socket", socket, "c")
	_, m := master()
	fmt.Fprintln(m, "first")
	reads(t, m, "1 first /dev/pts/0\r\n")
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	b.gone()

	b.fails("--console-socket", "restore", "-d", "--image-path", b.images("images"), "c")
	b.detached("restore", "-d", "--console-socket", socket, "--image-path", b.images("images"), "c")
	_, m = master()
	fmt.Fprintln(m, "second")
	reads(t, m, "2 second /dev/pts/0\r\n")
	b.ok("delete", "--force", "c")
}

func TestRestoreInTheForeground(t *testing.T) {
	b := newCounter(t)
	b.spec.Process.Args = []string{"sh", "-c", "echo before; echo 1 >/tmp/count; while [ ! -e /tmp/go ]; do sleep 0.05; done; read line; echo after $line; exit 7"}
	b.write()
	pipe := func() (r, w *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return r, w
	}
	in, input := pipe()
	output, out := pipe()
	first := b.command("run", "c")
	first.Stdin, first.Stdout, first.Stderr = in, out, out
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	b.countsBeyond(0)
	reads(t, output, "before\n")
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	_ = first.Wait()
	_ = input.Close()

	in, input = pipe()
	output, out = pipe()
	cmd := b.command("restore", "--image-path", b.images("images"), "c")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(input, "all")
	if err := os.WriteFile(b.dir+"/rootfs/tmp/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reads(t, output, "after all\n")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Error(err)
	}
	b.gone()
}

// TestCheckpointWithMounts: what the host gives a container is made again by its spec, what is its own is saved.
func TestCheckpointWithMounts(t *testing.T) {
	b := newCounter(t)
	data := t.TempDir()
	for name, text := range map[string]string{"file": "one", "list": "kept"} {
		if err := os.WriteFile(data+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(data+"/below", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data+"/below", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(data+"/below", unix.MNT_DETACH) })
	if err := os.WriteFile(data+"/below/deep", []byte("deep"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/etc/list", Type: "bind", Source: data + "/list", Options: []string{"bind"}},
		specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
	pids, memory := int64(77), int64(64<<20)
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	b.write()
	b.detached("run", "-d", "c")
	b.countsBeyond(2)
	b.ok("exec", "c", "sh", "-c", "echo mine >/scratch/file; mount -t tmpfs none /data/below 2>/dev/null; echo more >>/etc/list")
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	n := b.count()
	b.detached("restore", "-d", "--image-path", b.images("images"), "c")
	b.countsBeyond(n)
	for line, want := range map[string]string{
		"cat /data/file /data/below/deep /etc/list": "onedeepkeptmore\n",
		"cat /scratch/file":                         "mine\n",
		"echo x 2>/dev/null >/data/file || echo no": "no\n",
		"cat /proc/timer_list /proc/interrupts":     "",
		"ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | cat | while read l; do case $l in *:|'') ;; *) echo $l;; esac; done": "",
		"echo x 2>/dev/null >/sys/fs/cgroup/x || echo no":                                                                          "no\n",
	} {
		if out := b.ok("exec", "c", "sh", "-c", line); out != want {
			t.Errorf("%s: %q, not %q", line, out, want)
		}
	}
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	st, err := host.Open(b.spec.Linux.CgroupsPath).Stats()
	if err != nil || st.Pids.Limit != 77 || st.Memory.Limit != 64<<20 || st.Pids.Current < 1 {
		t.Errorf("%+v, %v", st, err)
	}
	b.ok("delete", "--force", "c")
}

func TestCheckpointRunsHooks(t *testing.T) {
	b := newCounter(t)
	log := filepath.Join(t.TempDir(), "log")
	hook := func(kind string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "{ echo " + kind + "; cat; echo; } >>" + log}}}
	}
	b.spec.Hooks = &specs.Hooks{CreateRuntime: hook("createRuntime"), Poststop: hook("poststop")}
	b.write()
	b.detached("run", "-d", "c")
	b.countsBeyond(2)
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	if text, err := os.ReadFile(log); err != nil || !strings.HasPrefix(string(text), "poststop\n") {
		t.Errorf("%s, %v", text, err)
	}
	_ = os.Remove(log)
	b.detached("restore", "-d", "--image-path", b.images("images"), "c")
	text, err := os.ReadFile(log)
	_, document, _ := strings.Cut(string(text), "createRuntime\n")
	var st, now specs.State
	if err == nil {
		err = json.Unmarshal([]byte(document), &st)
	}
	if err == nil {
		err = json.Unmarshal([]byte(b.ok("state", "c")), &now)
	}
	if err != nil || st.Status != specs.StateCreating || st.Pid != now.Pid || st.Pid == 0 {
		t.Errorf("%s, %+v, %v", text, now, err)
	}
	b.ok("delete", "--force", "c")

	b.spec.Hooks.CreateRuntime = []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo not today; exit 3"}}}
	b.write()
	if err := b.start(nil, "restore", "-d", "--image-path", b.images("images"), "c"); err == nil || !strings.Contains(err.Error(), "not today") {
		t.Error(err)
	}
	b.gone()
}

// TestCheckpointOfAJoinedNetwork: a network namespace of somebody else's is left alone, and another may take its place.
func TestCheckpointOfAJoinedNetwork(t *testing.T) {
	b := newCounter(t)
	join := func() uint64 {
		ns, err := linux.NewNetNS()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		i := slices.IndexFunc(b.spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
		b.spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
		b.write()
		var st unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	its := func() string { return strings.TrimSpace(b.ok("exec", "c", "readlink", "/proc/1/ns/net")) }
	first := join()
	b.detached("run", "-d", "c")
	if want := fmt.Sprintf("net:[%d]", first); its() != want {
		t.Error(its(), want)
	}
	b.countsBeyond(2)
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	n := b.count()
	second := join()
	b.detached("restore", "-d", "--image-path", b.images("images"), "c")
	b.countsBeyond(n)
	if want := fmt.Sprintf("net:[%d]", second); its() != want {
		t.Error(its(), want)
	}
	b.ok("delete", "--force", "c")
}

// TestCheckpointOfAJoinedTime: a time namespace of somebody else's is joined again, or another in its place.
func TestCheckpointOfAJoinedTime(t *testing.T) {
	b := newCounter(t)
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	own := &b.spec.Linux.Namespaces[len(b.spec.Linux.Namespaces)-1]
	days := 0
	join := func() string { // another container's
		days += 100
		other := newBundle(t, "sleep", "100000")
		other.spec.Linux.CgroupsPath += fmt.Sprint("-", days)
		other.spec.Linux.Namespaces = append(other.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		other.spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: int64(days) * 86400}, "monotonic": {Secs: int64(days) * 86400}}
		other.write()
		other.detached("run", "-d", "c")
		own.Path = fmt.Sprintf("/proc/%d/ns/time", other.pid())
		b.write()
		link, err := os.Readlink(own.Path)
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	its := func() string { return strings.TrimSpace(b.ok("exec", "c", "readlink", "/proc/1/ns/time")) }
	first := join()
	b.detached("run", "-d", "c")
	if its() != first {
		t.Error(its(), first)
	}
	b.countsBeyond(2)
	for _, again := range []bool{false, true} {
		images := b.images(fmt.Sprint("images", again))
		b.ok("checkpoint", "--image-path", images, "c")
		n := b.count()
		want := first
		if again {
			want = join()
		}
		b.detached("restore", "-d", "--image-path", images, "c")
		b.countsBeyond(n)
		if its() != want {
			t.Error(its(), want)
		}
	}
	b.ok("delete", "--force", "c")
}

// TestCheckpointRefusesJoined: what criu could only give back as a namespace of the container's own is not saved as somebody else's.
func TestCheckpointRefusesJoined(t *testing.T) {
	b := newBundle(t, "sleep", "100000")
	b.detached("run", "-d", "c")
	t.Setenv("PATH", fakeCriu(t)+":"+os.Getenv("PATH"))
	plain := slices.Clone(b.spec.Linux.Namespaces)
	for _, kind := range []specs.LinuxNamespaceType{specs.UserNamespace, specs.CgroupNamespace, specs.MountNamespace} {
		b.spec.Linux.Namespaces = append(slices.DeleteFunc(slices.Clone(plain), func(n specs.LinuxNamespace) bool { return n.Type == kind }),
			specs.LinuxNamespace{Type: kind, Path: "/proc/1/ns/net"})
		b.write()
		b.fails(fmt.Sprintf("a checkpoint of a container that joins a %s namespace", kind), "checkpoint", "c")
		if s := b.status(); s != "running" {
			t.Error(s)
		}
	}
	if left, _ := filepath.Glob(b.dir + "/checkpoint*"); len(left) > 0 {
		t.Error("left behind: ", left)
	}
}

// fakeCriu is a directory with a program of criu's name, which is not to be run.
func fakeCriu(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/criu", []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLazyPages: the memory stays with the first criu until the restored process wants it.
func TestLazyPages(t *testing.T) {
	b := newCounter(t)
	program := needCriu(t)
	b.detached("run", "-d", "c")
	b.countsBeyond(3)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	ready, status, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	log := filepath.Join(t.TempDir(), "log")
	dump := b.command("--log", log, "checkpoint", "--lazy-pages", "--page-server", address, "--status-fd", "3", "--image-path", b.images("images"), "c")
	dump.ExtraFiles = []*os.File{status}
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	// None of them waits for good for one that has ended.
	stop := time.AfterFunc(time.Minute, func() { _ = dump.Process.Kill() })
	defer stop.Stop()
	_ = status.Close()
	one := make([]byte, 1)
	if n, err := ready.Read(one); n != 1 || err != nil {
		_ = dump.Wait()
		said, _ := os.ReadFile(log)
		if strings.Contains(string(said), "userfaultfd") && os.Getenv("BERTH_CRIU") == "" {
			t.Skip("this kernel, or this criu, cannot bring pages when they are asked for: ", string(said))
		}
		t.Fatalf("%v %s", err, said)
	}
	n := b.count()
	work := t.TempDir()
	host, port, _ := net.SplitHostPort(address)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lazy := exec.CommandContext(ctx, program, "lazy-pages", "--page-server", "--address", host, "--port", port, "-D", b.images("images"), "-W", work)
	if err := lazy.Start(); err != nil {
		t.Fatal(err)
	}
	b.waits("the socket of lazy pages", func() bool { _, err := os.Stat(work + "/lazy-pages.socket"); return err == nil })
	// The first one is there until its memory has been fetched: what comes back has another name.
	other := *b.spec
	linuxPart := *b.spec.Linux
	linuxPart.CgroupsPath += "-lazy"
	other.Linux = &linuxPart
	b2 := &bundle{t: t, dir: b.dir, root: b.root, spec: &other}
	b2.write()
	b2.detached("restore", "-d", "--lazy-pages", "--image-path", b.images("images"), "--work-path", work, "lazy")
	if err := lazy.Wait(); err != nil {
		t.Error(err)
	}
	if err := dump.Wait(); err != nil {
		said, _ := os.ReadFile(log)
		t.Errorf("%v %s", err, said)
	}
	b.countsBeyond(n)
	b.gone()
	b.ok("delete", "--force", "lazy")
}

func TestCheckpointTCP(t *testing.T) {
	b := newCounter(t)
	b.spec.Process.Args = []string{"sh", "-c", "nc -l -p 4000 -e cat & until grep -q :0FA0 /proc/net/tcp; do sleep 0.05; done; (while :; do i=$((i+1)); echo $i; sleep 0.1; done) | nc 127.0.0.1 4000 |" +
		" while read n; do echo $n >/tmp/new; mv /tmp/new /tmp/count; done"}
	b.write()
	b.detached("run", "-d", "c")
	b.countsBeyond(2)
	if out, code := b.run("checkpoint", "--image-path", b.images("without"), "c"); code != 1 || !strings.Contains(out, "TCP") {
		t.Error(code, out)
	}
	b.countsBeyond(b.count())
	if out, code := b.run("checkpoint", "--tcp-established", "--image-path", b.images("images"), "c"); code != 0 {
		if !strings.Contains(out, "sockets: Can't get") || os.Getenv("BERTH_CRIU") != "" {
			t.Fatal(out)
		}
		t.Skip("this criu does not know the sockets of this kernel: ", out) // from 6.16 on SO_PASSCRED is for unix sockets only
	}
	n := b.count()
	b.detached("restore", "-d", "--tcp-established", "--image-path", b.images("images"), "c")
	b.countsBeyond(n)
	b.ok("delete", "--force", "c")
}

func TestCheckpointBadInput(t *testing.T) {
	b := newCounter(t)
	b.fails("does not exist", "checkpoint", "c")
	b.ok("create", "c")
	b.fails("that is created", "checkpoint", "c")
	b.ok("delete", "--force", "c")
	b.detached("run", "-d", "c")
	b.countsBeyond(1)
	for _, bad := range []struct {
		want string
		args []string
	}{
		{"none of the modes", []string{"--manage-cgroups-mode", "gently"}},
		{"only \"network\"", []string{"--empty-ns", "user"}},
		{"not ADDRESS:PORT", []string{"--page-server", "here"}},
		{"not ADDRESS:PORT", []string{"--page-server", "here:99999"}},
		{"needs --page-server", []string{"--lazy-pages"}},
		{"is for --lazy-pages", []string{"--status-fd", "9"}},
		{"is not open", []string{"--lazy-pages", "--page-server", "127.0.0.1:1", "--status-fd", "99"}},
		{"exclude each other", []string{"--lazy-pages", "--page-server", "127.0.0.1:1", "--pre-dump"}},
		{"flag provided but not defined", []string{"--nonsense"}},
	} {
		b.fails(bad.want, slices.Concat([]string{"checkpoint"}, bad.args, []string{"c"})...)
	}
	b.countsBeyond(b.count())
	b.ok("checkpoint", "--image-path", b.images("images"), "c")
	b.fails("is not there", "restore", "-d", "--image-path", b.images("nothing"), "c")
	b.gone()

	// A damaged checkpoint, a place that is no longer one, and a mount point that leads elsewhere.
	if err := os.Mkdir(b.images("empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.fails("criu cannot restore", "restore", "-d", "--image-path", b.images("empty"), "c")
	b.gone()
	elsewhere := t.TempDir()
	for _, err := range []error{os.Rename(b.dir+"/rootfs/dev", b.dir+"/rootfs/dev.real"), os.Symlink(elsewhere, b.dir+"/rootfs/dev")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(b.dir+"/rootfs"+elsewhere, 0o755); err != nil {
		t.Fatal(err)
	}
	b.fails("there is a link on the way", "restore", "-d", "--image-path", b.images("images"), "c")
	b.gone()
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

// remapped gives the bundle a user namespace, whose root owns the container's files.
func (b *bundle) remapped() {
	b.t.Helper()
	const first = 300_000
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: first, Size: 65536}}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids, ids
	if err := filepath.WalkDir(b.dir+"/rootfs", func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(p, first, first)
	}); err != nil {
		b.t.Fatal(err)
	}
	for _, dir := range []string{b.dir, filepath.Dir(b.dir), b.root} { // that root is nobody on the way there
		if err := os.Chmod(dir, 0o711); err != nil {
			b.t.Fatal(err)
		}
	}
	b.write()
}

// TestCheckpointWithUserNamespace: what comes back has the same users, and no right of the host's.
func TestCheckpointWithUserNamespace(t *testing.T) {
	b := newCounter(t)
	data := t.TempDir()
	if err := os.WriteFile(data+"/file", []byte("the host's\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=1m"}})
	b.remapped()
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	look := func() string {
		t.Helper()
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid()))
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for line := range strings.Lines(string(status)) {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Seccomp", "NSpid": // no_new_privs is not saved by every criu: a warning says so
				if name == "NSpid" { // the host's number is another one
					line = line[strings.LastIndexByte(line, '\t'):]
				}
				text += line
			}
		}
		return text + b.ok("exec", "c", "sh", "-c", "id; cat /proc/self/uid_map /proc/self/gid_map /data/file; stat -c '%u %g %a' /scratch /dev /dev/shm /proc/1; "+
			"echo x 2>/dev/null >/data/file || echo read-only; cat /scratch/kept; grep -c . /proc/self/mountinfo; ls -ln /dev | grep ^c | sed 's/ [A-Z].*:.. / /'")
	}
	b.detached("run", "-d", "c")
	b.countsBeyond(2)
	b.ok("exec", "c", "sh", "-c", "echo kept >/scratch/kept")
	before := look()
	for i := range 2 { // and once more, from what was restored
		images := b.images(fmt.Sprint("images", i))
		b.ok("checkpoint", "--image-path", images, "c")
		b.gone()
		n := b.count()
		b.detached("restore", "-d", "--image-path", images, "c")
		b.countsBeyond(n)
		if after := look(); after != before {
			t.Errorf("it was\n%s\nand is\n%s", before, after)
		}
	}
	b.ok("exec", "c", "sh", "-c", "echo >/dev/mine")
	b.fails("a file of its own at \"/dev/mine\"", "checkpoint", "--image-path", b.images("own"), "c")
	b.countsBeyond(b.count())
	b.ok("delete", "--force", "c")
}

// TestScopeCheckpoint: a container whose group systemd makes has one again when it comes back, with its limits.
func TestScopeCheckpoint(t *testing.T) {
	needCriu(t)
	b, unit := onSystemd(t, "sh", "-c", counting)
	b.spec.Root.Readonly = false
	pids, memory := int64(77), int64(64<<20)
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}, Memory: &specs.LinuxMemory{Limit: &memory}}
	if err := os.Symlink("busybox", b.dir+"/rootfs/bin/mv"); err != nil {
		t.Fatal(err)
	}
	for _, userns := range []bool{false, true} {
		if userns {
			b.remapped()
		}
		b.write()
		b.detached("--systemd-cgroup", "run", "-d", "c")
		b.countsBeyond(2)
		images := b.images(fmt.Sprint("images", userns))
		b.ok("--systemd-cgroup", "checkpoint", "--image-path", images, "c")
		wantGone(t, b, unit)
		n := b.count()
		b.detached("--systemd-cgroup", "restore", "-d", "--image-path", images, "c")
		b.countsBeyond(n)
		wantProperties(t, unit, map[string]string{"ActiveState": "active", "Delegate": "yes", "TasksMax": "77", "MemoryMax": "67108864"})
		wantFiles(t, unit, map[string]string{"pids.max": "77", "memory.max": "67108864"})
		group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.pid()))
		if want := "0::" + strings.TrimPrefix(scopeDir(unit), "/sys/fs/cgroup"); err != nil || strings.TrimSpace(string(group)) != want {
			t.Errorf("it is in %s, not in %s: %v", group, want, err)
		}
		if out := b.ok("--systemd-cgroup", "exec", "c", "cat", "/proc/self/cgroup"); !strings.HasPrefix(out, "0::/") || strings.Contains(out, "..") {
			t.Errorf("an exec is in %q", out)
		}
		b.ok("--systemd-cgroup", "delete", "--force", "c")
		wantGone(t, b, unit)
	}
}
