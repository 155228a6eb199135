package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
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

// The test's program is berth-runtime itself when it is asked to be.
func TestMain(m *testing.M) {
	if os.Getenv("BERTH_RUNTIME_TEST") != "" {
		_ = os.Unsetenv("BERTH_RUNTIME_TEST")
		os.Exit(command(os.Args[1:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "session-keyring" { // the program of a container
		const session = -3 // KEY_SPEC_SESSION_KEYRING
		id, err := unix.KeyctlGetKeyringID(session, false)
		fmt.Println(id, err)
		os.Exit(0)
	}
	if len(os.Args) > 1 && os.Args[1] == enteredVerb {
		os.Exit(command(os.Args[1:]))
	}
	if len(os.Args) == 2 && os.Args[1] == keepVerb {
		os.Exit(keep())
	}
	os.Exit(m.Run())
}

// bench is a bundle with a state directory and a cgroup of its own.
type bundle struct {
	t         testing.TB
	dir, root string
	spec      *specs.Spec
	user      *syscall.Credential // nil for root
	env       []string
	caller    *os.File // cgroup of version 2 that commands are started in; nil for the test's own
}

func newBundle(t testing.TB, args ...string) *bundle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("busybox-static is not installed:", err)
	}
	b := &bundle{t: t, dir: t.TempDir(), root: t.TempDir(), spec: ocirun.Example()}
	b.fill(data)
	group := "/berth-test-runtime/" + strings.ReplaceAll(t.Name(), "/", "_")
	b.spec.Linux.CgroupsPath = group
	b.spec.Process.Terminal, b.spec.Process.Args = false, args
	b.write()
	t.Cleanup(func() {
		b.run("delete", "--force", "c")
		host, err := cgroup.Detect()
		if err != nil {
			t.Fatal(err)
		}
		g := host.Open(group)
		_, _, _ = g.KillAll(), g.Delete(), host.Open("/berth-test-runtime").Delete()
		if left, _ := os.ReadDir(b.root); len(left) > 0 {
			t.Error("left behind:", left)
		}
	})
	return b
}

// fill makes the container's files.
func (b *bundle) fill(busybox []byte) {
	b.t.Helper()
	for _, d := range []string{"bin", "etc", "tmp", "proc", "sys", "dev"} {
		if err := os.MkdirAll(b.dir+"/rootfs/"+d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.WriteFile(b.dir+"/rootfs/bin/busybox", busybox, 0o755); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range []string{"sh", "cat", "true", "id", "sleep", "echo", "tty", "env", "pwd", "ls", "readlink"} {
		if err := os.Symlink("busybox", b.dir+"/rootfs/bin/"+name); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bundle) write() {
	b.t.Helper()
	data, err := json.Marshal(b.spec)
	if err == nil {
		err = os.WriteFile(b.dir+"/config.json", data, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"--root", b.root}, args...)...)
	cmd.Dir = b.dir
	cmd.Env = append(append(os.Environ(), b.env...), "BERTH_RUNTIME_TEST=1")
	if b.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.user}
		if b.caller != nil {
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(b.caller.Fd())
		}
	}
	return cmd
}

// run gives standard output and error, through files: a container's process may keep a pipe open.
func (b *bundle) run(args ...string) (out string, code int) {
	b.t.Helper()
	f, err := os.CreateTemp("", "berth-runtime-test")
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	cmd := b.command(args...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	data, readErr := os.ReadFile(f.Name())
	var ee *exec.ExitError
	if readErr != nil || err != nil && !errors.As(err, &ee) {
		b.t.Fatal(err, readErr)
	}
	return string(data), cmd.ProcessState.ExitCode()
}

func (b *bundle) ok(args ...string) string {
	b.t.Helper()
	out, code := b.run(args...)
	if code != 0 {
		b.t.Fatalf("%q: exit code %d: %s", args, code, out)
	}
	return out
}

func (b *bundle) fails(want string, args ...string) {
	b.t.Helper()
	if out, code := b.run(args...); code != failureOf(args) || !strings.Contains(out, want) {
		b.t.Errorf("%q: exit code %d, no %q in: %s", args, code, want, out)
	}
}

// failureOf is the exit code of a command that fails: that of exec is none of a program's.
func failureOf(args []string) int {
	if args[0] == "exec" {
		return 255
	}
	return 1
}

// state reads what the command of that name says.
func (b *bundle) state(st *specs.State) {
	b.t.Helper()
	if err := json.Unmarshal([]byte(b.ok("state", "c")), st); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) status() string {
	b.t.Helper()
	var st specs.State
	b.state(&st)
	if (st.Pid == 0) != (st.Status == specs.StateStopped) || st.ID != "c" || st.Bundle != b.dir {
		b.t.Errorf("%+v", st)
	}
	return string(st.Status)
}

// until waits for a status that comes by itself.
func (b *bundle) until(want string) {
	b.t.Helper()
	for end := time.Now().Add(2 * time.Minute); b.status() != want; {
		if time.Now().After(end) {
			b.t.Fatalf("it is %s, not %s", b.status(), want)
		}
	}
}

func TestRun(t *testing.T) {
	b := newBundle(t, "sh", "-c", "echo hello $HOME; exit 7")
	if out, code := b.run("run", "c"); out != "hello /\n" || code != 7 {
		t.Error(out, code)
	}
	b.fails("container does not exist", "state", "c")
	if out := b.ok("list", "-q"); out != "" {
		t.Error(out)
	}
	b.spec.Process.Args = []string{"nothing"}
	b.write()
	b.fails(`exec: "nothing": executable file not found in $PATH`, "run", "c")
	b.fails(`exec: "nothing": executable file not found in $PATH`, "create", "c")
}

func TestLifeOfAContainer(t *testing.T) {
	b := newBundle(t, "sh", "-c", "echo started > /tmp/x; exec sleep 1000")
	b.spec.Root.Readonly = false
	b.write()
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.ok("create", "--pid-file", pidFile, "c")
	if s := b.status(); s != "created" {
		t.Error(s)
	}
	if pid, err := os.ReadFile(pidFile); err != nil || len(pid) == 0 {
		t.Error(string(pid), err)
	}
	b.fails("already exists", "create", "c")
	b.fails("already exists", "run", "c")
	if _, err := os.Stat(b.dir + "/rootfs/tmp/x"); err == nil {
		t.Error("the program runs already")
	}
	b.ok("start", "c")
	if s := b.status(); s != "running" {
		t.Error(s)
	}
	b.fails("cannot start an already running container", "start", "c")
	b.fails("not stopped: running", "delete", "c")
	if out := b.ok("ps", "c"); !strings.Contains(out, "sleep 1000") && !strings.Contains(out, "sh -c") {
		t.Error(out)
	}
	if out := b.ok("list"); !strings.Contains(out, "running") {
		t.Error(out)
	}
	b.ok("pause", "c")
	if s := b.status(); s != "paused" {
		t.Error(s)
	}
	b.fails("paused", "exec", "c", "true")
	b.fails("paused", "pause", "c")
	b.ok("resume", "c")
	b.fails("running", "resume", "c")
	b.ok("update", "--pids-limit", "55", "c")
	b.fails("unknown signal", "kill", "c", "NONSENSE")
	b.ok("kill", "c", "KILL")
	b.until("stopped")
	b.fails("not running", "kill", "c")
	b.fails("stopped", "exec", "c", "true")
	b.fails("stopped", "start", "c")
	b.ok("delete", "c")
	b.fails("container does not exist", "delete", "c")
	b.ok("delete", "--force", "c")
}

func TestStartTellsWhatFailed(t *testing.T) {
	b := newBundle(t, "/bin/script")
	if err := os.WriteFile(b.dir+"/rootfs/bin/script", []byte("#!/nowhere\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.ok("create", "c")
	b.fails(`exec: "/bin/script": stat /bin/script: no such file or directory`, "start", "c")
	b.until("stopped")
	b.ok("delete", "c")
}

func TestDeleteEndsACreatedContainer(t *testing.T) {
	b := newBundle(t, "true")
	b.ok("create", "c")
	b.ok("delete", "c")
	b.ok("create", "c")
	b.ok("kill", "c", "9")
	b.until("stopped")
	b.ok("delete", "c")
}

func TestExecCommand(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("run", "--detach", "c")
	for _, c := range []struct {
		args []string
		out  string
		code int
	}{
		{[]string{"c", "sh", "-c", "exit 5"}, "", 5},
		{[]string{"--user", "1", "c", "id"}, "uid=1 gid=0\n", 0},
		{[]string{"-u", "1000:7", "-g", "8", "-g", "9", "c", "id"}, "uid=1000 gid=7 groups=8,9\n", 0},
		{[]string{"--cwd", "/tmp", "c", "pwd"}, "/tmp\n", 0},
		{[]string{"-e", "A=b", "--env", "C=d", "c", "sh", "-c", "echo $A $C"}, "b d\n", 0},
		{[]string{"--cap", "CAP_CHOWN", "c", "sh", "-c", "while read a b; do case $a in CapInh:|CapEff:) echo $b;; esac; done < /proc/self/status"},
			"0000000000000000\n0000000020000421\n", 0},
	} {
		if out, code := b.run(append([]string{"exec"}, c.args...)...); out != c.out || code != c.code {
			t.Errorf("%q: %q, exit code %d", c.args, out, code)
		}
	}
	b.fails("not the number of a user", "exec", "-u", "root", "c", "id")
	b.fails("not the number of a user", "exec", "-u", "4294967296", "c", "id")
	b.fails("executable file not found in $PATH", "exec", "c", "nothing")
	b.fails("command is missing", "exec", "c")
	process := filepath.Join(t.TempDir(), "process.json")
	p := *b.spec.Process
	p.Args, p.Cwd = []string{"pwd"}, "/bin"
	data, err := json.Marshal(p)
	if err == nil {
		err = os.WriteFile(process, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := b.ok("exec", "--process", process, "c"); out != "/bin\n" {
		t.Error(out)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	b.ok("exec", "-d", "--pid-file", pidFile, "c", "sleep", "999")
	if out := b.ok("ps", "c"); !strings.Contains(out, "sleep 999") {
		t.Error(out)
	}
}

func TestConsoleSocket(t *testing.T) {
	b := newBundle(t, "sh", "-c", "tty; exit 3")
	b.spec.Process.Terminal = true
	b.write()
	b.fails("--console-socket", "create", "c")
	socket, master := files(t)
	b.ok("create", "--console-socket", socket, "c")
	_, f := master()
	b.ok("start", "c")
	out, _ := io.ReadAll(f)
	if string(out) != "/dev/pts/0\r\n" {
		t.Errorf("%q", out)
	}
	b.until("stopped")
	b.ok("delete", "c")
}

// Who asks for it gets a pidfd of the process, of a container or executed in one.
func TestPidfdSocket(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	socket, received := pidfds(t)
	b.ok("create", "--pidfd-socket", socket, "c")
	kind, pid := received()
	if kind != "standard" || pid != b.pid() {
		t.Errorf("%q of process %d, not %d", kind, pid, b.pid())
	}
	b.ok("start", "c")
	file := filepath.Join(t.TempDir(), "pid")
	b.ok("exec", "--detach", "--pid-file", file, "--pidfd-socket", socket, "c", "sleep", "999")
	kind, pid = received()
	if text, err := os.ReadFile(file); kind != "setns" || err != nil || strconv.Itoa(pid) != string(text) {
		t.Errorf("%q of process %d, not %s, %v", kind, pid, text, err)
	}
	b.ok("delete", "--force", "c")
	b.ok("run", "--detach", "--pidfd-socket", socket, "c")
	if kind, pid = received(); kind != "standard" || pid != b.pid() {
		t.Errorf("%q of process %d, not %d", kind, pid, b.pid())
	}
	b.ok("delete", "--force", "c")
	b.fails("pidfd socket", "run", "--detach", "--pidfd-socket", socket+"-none", "c")
	b.gone()
}

// files listens for files that a command sends, one at a time with a word.
func files(t *testing.T) (socket string, next func() (word string, f *os.File)) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "files")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return socket, func() (string, *os.File) {
		t.Helper()
		if err := l.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		conn, err := l.AcceptUnix()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		buf := make([]byte, 100)
		n, got, err := linux.RecvMsg(conn, buf, 1)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		t.Cleanup(func() { got[0].Close() })
		return string(buf[:n]), got[0]
	}
}

// pidfds listens for pidfds, and tells with which word one came and whose it is.
func pidfds(t *testing.T) (socket string, received func() (kind string, pid int)) {
	t.Helper()
	socket, next := files(t)
	return socket, func() (string, int) {
		t.Helper()
		kind, f := next()
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(info), "\nPid:\t")
		pid, _ := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
		return kind, pid
	}
}

func TestPreservedFiles(t *testing.T) {
	b := newBundle(t, "sh", "-c", "cat <&3; cat <&4; for f in /proc/self/fd/*; do echo ${f##*/}; done")
	var files []*os.File
	for i := range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(w, "pipe %d\n", i)
		_ = w.Close()
		files = append(files, r)
	}
	cmd := b.command("run", "--preserve-fds", "2", "c")
	cmd.ExtraFiles = files
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "pipe 0\npipe 1\n0\n1\n2\n3\n4\n") || strings.Count(string(out), "\n") > 8 {
		t.Errorf("%v %s", err, out)
	}
	b.fails("is to be preserved and is not open", "run", "--preserve-fds", "200", "c")
}

func TestForegroundPassesSignalsOn(t *testing.T) {
	b := newBundle(t, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done")
	once := func() int {
		cmd := b.command("run", "c")
		r, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 16)
		if n, err := r.Read(buf); string(buf[:n]) != "ready\n" {
			t.Error(string(buf[:n]), err)
		}
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return cmd.ProcessState.ExitCode()
	}
	untilCaught(t, b, once)
}

// untilCaught does once, which gives an exit code of 9, again while the signal came too early: signals are caught once the program runs,
// which it may have told before the runtime has come to it.
func untilCaught(t *testing.T, b *bundle, once func() int) {
	t.Helper()
	for try := 0; ; try++ {
		code := once()
		if code == 9 {
			return
		}
		b.ok("delete", "--force", "c")
		if code != 128+int(unix.SIGTERM) || try > 50 {
			t.Fatal(code)
		}
	}
}

func TestBadInput(t *testing.T) {
	b := newBundle(t, "true")
	b.fails("is not a command", "nonsense")
	b.fails("flag provided but not defined", "run", "--nonsense", "c")
	b.fails("flag provided but not defined", "--nonsense")
	b.fails("id is missing", "run")
	b.fails("more arguments", "run", "c", "d")
	for _, id := range []string{"../c", "a/b", "..", ".", "", "a b", strings.Repeat("x", 256)} {
		b.fails("cannot be a container's id", "run", id)
	}
	b.fails("container does not exist", "checkpoint", "c")
	b.fails("neither text nor json", "--log-format", "xml", "list")
	for text, want := range map[string]string{"": "cannot be understood", "{": "cannot be understood", `{"ociVersion": 3}`: "cannot be understood",
		"{}": "no process", `{"process":{}}`: `spec version "" is not one of 1.x`} {
		if err := os.WriteFile(b.dir+"/config.json", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b.fails(want, "run", "c")
	}
	if err := os.Remove(b.dir + "/config.json"); err != nil {
		t.Fatal(err)
	}
	b.fails("no such file or directory", "run", "c")
	b.write()
	if err := os.RemoveAll(b.dir + "/rootfs"); err != nil {
		t.Fatal(err)
	}
	b.fails("root file system", "run", "c")
}

func TestDamagedState(t *testing.T) {
	b := newBundle(t, "true")
	if err := os.Mkdir(b.root+"/c", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", "[]", `{"format":99}`, `{"format":1}`, `{"format":1,"id":"d","pid":1,"startTime":1}`,
		`{"format":1,"id":"c","pid":-1,"startTime":1}`, `{"format":1,"id":"c","pid":1}`,
		`{"format":1,"id":"c","pid":1,"startTime":1,"cgroupPath":"/"}`, `{"format":1,"id":"c","pid":1,"startTime":1,"cgroupPath":"/x/.."}`} {
		if err := os.WriteFile(b.root+"/c/state.json", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		b.fails("state file", "state", "c")
		b.fails("state file", "kill", "c")
		b.fails("state file", "delete", "c")
		if out := b.ok("list", "-q"); out != "" {
			t.Error(out)
		}
	}
	// The whole machine is no container's group, whatever a file says.
	if err := os.Symlink("/", b.root+"/c/"+groupMade); err != nil {
		t.Fatal(err)
	}
	b.fails("root of all cgroups", "delete", "-f", "c")
	if err := os.Remove(b.root + "/c/" + groupMade); err != nil {
		t.Fatal(err)
	}
	b.ok("delete", "-f", "c")

	// A state that was cut short is never another one, and the container it was of can be ended.
	b.spec.Process.Args = []string{"sleep", "999"}
	b.write()
	b.ok("run", "--detach", "c")
	whole, err := os.ReadFile(b.root + "/c/state.json")
	if err != nil {
		t.Fatal(err)
	}
	mounts := b.mounted()
	for n := 1; n < len(whole); n += 7 {
		if err := os.WriteFile(b.root+"/c/state.json", whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if st, _, err := (&cli{root: b.root}).load("c"); err == nil {
			t.Errorf("%d bytes are %+v", n, st)
		}
	}
	b.fails("is damaged", "exec", "c", "true")
	b.cleanAfter("a container whose state was", 0, mounts)
}

func TestLogFile(t *testing.T) {
	b := newBundle(t, "true")
	log := filepath.Join(t.TempDir(), "log.json")
	b.fails("does not exist", "--log", log, "--log-format", "json", "state", "c")
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg, Time string }
	if err := json.Unmarshal(data, &line); err != nil || line.Level != "error" || !strings.Contains(line.Msg, "does not exist") {
		t.Error(string(data), err)
	}
}

func TestSpecAndFeatures(t *testing.T) {
	b := newBundle(t, "true")
	dir := t.TempDir()
	b.ok("spec", "-b", dir)
	b.fails("exists", "spec", "-b", dir)
	data, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseConfig("config.json", data); err != nil {
		t.Error(err)
	}
	var f struct{ OCIVersionMax string }
	if err := json.Unmarshal([]byte(b.ok("features")), &f); err != nil || f.OCIVersionMax != specs.Version {
		t.Error(f, err)
	}
	if out := b.ok("--version"); !strings.Contains(out, "spec: "+specs.Version) {
		t.Error(out)
	}
	if out := b.ok("help"); !strings.Contains(out, "checkpoint") {
		t.Error(out)
	}
}

// TestParentsOfGroupsGo: what was made only to hold a container's group goes with the last one, when it is deleted.
func TestParentsOfGroupsGo(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	top := fmt.Sprintf("/berth-test-parents-%d", os.Getpid())
	b.spec.Linux.CgroupsPath = top + "/below/c"
	b.write()
	there := func() []string {
		found, _ := filepath.Glob("/sys/fs/cgroup/*" + top)
		more, _ := filepath.Glob("/sys/fs/cgroup" + top)
		return append(found, more...)
	}
	b.detached("run", "-d", "c")
	if len(there()) == 0 {
		t.Error("the group is not where it is looked for")
	}
	b.ok("delete", "--force", "c")
	if left := there(); len(left) > 0 {
		t.Error("left behind:", left)
	}
	b.spec.Process.Args = []string{"nothing"}
	b.write()
	b.fails("not found", "create", "c")
	if left := there(); len(left) > 0 {
		t.Error("left behind by a create that failed:", left)
	}
}

func TestSignalNames(t *testing.T) {
	for name, want := range map[string]unix.Signal{"KILL": 9, "SIGKILL": 9, "kill": 9, "9": 9, "SIGRTMIN": 34, "RTMIN+3": 37,
		"SIGRTMAX-1": 63, "HUP": 1} {
		if got, err := parseSignal(name); got != want || err != nil {
			t.Error(name, got, err)
		}
	}
	for _, name := range []string{"", "65", "-1", "X", "SIGRTMIN+40", "SIGRTMAX+1", "RTMINx"} {
		if got, err := parseSignal(name); err == nil {
			t.Error(name, got)
		}
	}
}

func FuzzConfig(f *testing.F) {
	data, _ := json.Marshal(ocirun.Example())
	f.Add(data)
	f.Add([]byte(`{"ociVersion":"1.0.0","process":{"args":[""],"cwd":"/"},"mounts":[{"options":["r","=","ro=x"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parseConfig("config.json", data)
		if err != nil {
			return
		}
		_ = ocirun.Check(spec)
	})
}

// Standard error is the container's: a warning there would stand in its logs.
func TestWarningsAreNotTheContainers(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for _, c := range []struct {
		cli      cli
		log, err string
	}{
		{cli{logFile: log, logFormat: "json"}, `"level":"warning","msg":"less"`, ""},
		{cli{logFile: log, logFormat: "text", debug: true}, `level=warning msg="less"`, ""},
		{cli{}, "", ""},
		{cli{debug: true}, "", "berth-runtime: warning: less\n"},
	} {
		stderr := os.Stderr
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		os.Stderr = w
		c.cli.warn([]string{"less"})
		os.Stderr = stderr
		_ = w.Close()
		said, err := io.ReadAll(r)
		_ = r.Close()
		data, _ := os.ReadFile(log)
		_ = os.Remove(log)
		if err != nil || string(said) != c.err || !strings.Contains(string(data), c.log) || c.log == "" && len(data) > 0 {
			t.Errorf("%+v: standard error says %q, the log %q, %v", c.cli, said, data, err)
		}
	}
}

// A list that forbids everything is meant for all devices but those that every container has.
func TestDefaultDevicesCanBeOpened(t *testing.T) {
	b := newBundle(t, "sh", "-c", "echo x > /dev/null && echo opened")
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	b.write()
	if out := b.ok("run", "c"); out != "opened\n" {
		t.Error(out)
	}
}

// A create that is killed, wherever it was, leaves nothing that "delete --force" does not take away.
func TestCreateIsKilled(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	before, without := b.mounted(), 0
	for i := range 60 {
		args := [][]string{{"create", "c"}, {"run", "--detach", "c"}}[i%2]
		cmd := b.command(args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 400 * time.Microsecond) // the moment is the subject
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if _, err := os.Stat(b.root + "/c/state.json"); err != nil {
			without++
		}
		b.cleanAfter("a create", i, before)
	}
	t.Logf("%d of 60 were killed before they had written a state", without)
}

// An exec can be sent into a group that the container, or somebody for it, made below its own.
func TestExecCgroup(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	b.ok("run", "--detach", "c")
	group := b.spec.Linux.CgroupsPath
	dirs, _ := filepath.Glob("/sys/fs/cgroup/pids" + group)
	controllers := "pids:"
	if len(dirs) == 0 {
		dirs, controllers = []string{"/sys/fs/cgroup" + group}, ""
	}
	if err := os.Mkdir(dirs[0]+"/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	if out := b.ok("exec", "--cgroup", controllers+"sub", "c", "cat", "/proc/self/cgroup"); !strings.Contains(out, group+"/sub\n") {
		// In a namespace of its own a path counts from the container's.
		if !strings.Contains(out, ":/sub\n") {
			t.Error(out)
		}
	}
	b.fails("is not there", "exec", "--cgroup", controllers+"other", "c", "true")
	b.fails("no cgroup controller", "exec", "--cgroup", "nonsense:sub", "c", "true")
	if out := b.ok("exec", "--cgroup", controllers+"../../..", "c", "cat", "/proc/self/cgroup"); strings.Contains(out, "..") {
		t.Error("it left the container's group:", out)
	}
}

// A group in which somebody else's processes are is never ended.
func TestDeleteSparesAGroupThatIsNotOurs(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	b.ok("run", "--detach", "c")
	b.fails("already exists", "run", "--detach", "d")
	if err := os.MkdirAll(b.root+"/d", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.spec.Linux.CgroupsPath, b.root+"/d/"+groupMaking); err != nil {
		t.Fatal(err)
	}
	b.ok("delete", "--force", "d")
	if s := b.status(); s != "running" {
		t.Error("the container is", s)
	}
}

// What the rootfs has in the places of /dev, /proc and /sys leads nowhere outside of it.
func TestHostileRootfs(t *testing.T) {
	for _, place := range []string{"dev", "proc", "sys"} {
		for _, to := range []string{"OUTSIDE", "../../../../..OUTSIDE", "/etc", "proc", "/proc/self/root", "loop"} {
			t.Run(place+"→"+strings.ReplaceAll(to, "/", "⁄"), func(t *testing.T) {
				b := newBundle(t, "true")
				outside := t.TempDir()
				if err := os.Remove(b.dir + "/rootfs/" + place); err != nil {
					t.Fatal(err)
				}
				target := strings.ReplaceAll(to, "OUTSIDE", outside)
				if to == "loop" {
					target = place
				}
				if err := os.Symlink(target, b.dir+"/rootfs/"+place); err != nil {
					t.Fatal(err)
				}
				out, code := b.run("run", "c")
				if code != 0 && !strings.Contains(out, "berth-runtime: ") {
					t.Errorf("exit code %d: %s", code, out)
				}
				if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
					t.Errorf("outside of the root there is now %v, %v", left, err)
				}
				if left, _ := os.ReadDir(b.root); len(left) > 0 {
					t.Error("left behind:", left)
				}
			})
		}
	}
}

// What calms the command's own threads (linux.Calm) is none of a container's, a process's or a hook's affair.
func TestTimersOfOthersAreInTime(t *testing.T) {
	b := newBundle(t, "/bin/sleep", "3600")
	said := t.TempDir() + "/said"
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh",
		Args: []string{"sh", "-c", "cat /proc/self/timerslack_ns >" + said}, Env: []string{"PATH=/bin:/usr/bin"}}}}
	b.write()
	slack := func(pid int) string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	want := slack(os.Getpid())
	b.ok("run", "--detach", "c")
	if got := slack(b.firstPid()); got != want {
		t.Errorf("a container's timers may be late by %q, and not by %q", got, want)
	}
	if got, err := os.ReadFile(said); string(got) != want {
		t.Errorf("a hook's timers may be late by %q, and not by %q: %v", got, want, err)
	}
	if got := b.ok("exec", "c", "/bin/cat", "/proc/self/timerslack_ns"); got != want {
		t.Errorf("a process's timers may be late by %q, and not by %q", got, want)
	}
}
