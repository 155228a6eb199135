package engine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The variables by which a test binary is told what to be.
const (
	runtimeVar = "BERTH_TEST_RUNTIME" // the berth-runtime program that TestMain has built
	daemonVar  = "BERTH_TEST_DAEMON"  // be a daemon over the roots below this directory, until killed
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(daemonVar); dir != "" {
		os.Exit(load(dir))
	}
	os.Exit(withRuntime(m.Run))
}

// withRuntime builds the program that the tests' containers stand beside.
func withRuntime(run func() int) int {
	if os.Getuid() != 0 {
		return run()
	}
	dir, err := os.MkdirTemp("", "berth-engine")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "berth-runtime")
	build := osexec.Command("go", "build", "-o", program, "../cmd/berth-runtime")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build berth-runtime: %v\n%s", err, out)
		return 1
	}
	if err := os.Setenv(runtimeVar, program); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Monitors of a daemon that is killed become this process's children, so that it can tell whether all have ended.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

// options are those of a daemon whose every root is below dir.
func options(dir string) Options {
	o := Options{DataRoot: filepath.Join(dir, "data"), ExecRoot: filepath.Join(dir, "exec"), RuntimePath: os.Getenv(runtimeVar),
		CgroupRoot: "/berth-test-" + filepath.Base(filepath.Dir(dir)) + filepath.Base(dir),
		Network:    network.DefaultOptions("", "")}
	o.Network.Bridge, o.Network.IPTables, o.Network.IPForward, o.Network.Warm = network.NoBridge, false, false, -1
	if os.Getenv("BERTH_TEST_LOG") != "" {
		o.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	return o
}

// open opens an engine over roots of the test's own and imports the image "box". What is left when the test ends is a
// failure.
func open(t *testing.T, change ...func(*Options)) *Engine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	o := options(dir)
	for _, f := range change {
		f(&o)
	}
	e := reopen(t, o)
	importBox(t, e)
	atEnd(t, e, o)
	return e
}

// atEnd removes everything when the test ends, closes the engine and looks for leftovers.
func atEnd(t *testing.T, e *Engine, o Options) {
	t.Helper()
	t.Cleanup(func() {
		for _, rec := range e.Containers.List() {
			err := e.Remove(context.Background(), rec.ID, RemoveOptions{Force: true, Volumes: true})
			if err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		}
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
		nothingLeft(t, o)
	})
}

func reopen(t *testing.T, o Options) *Engine {
	t.Helper()
	e, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// nothingLeft looks for what the containers of a daemon without containers could have left behind.
func nothingLeft(t *testing.T, o Options) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, o.DataRoot) || strings.Contains(line, o.ExecRoot) {
			t.Errorf("left mounted: %s", line)
		}
	}
	for _, dir := range []string{filepath.Join(o.ExecRoot, "containers"), filepath.Join(o.DataRoot, "containers")} {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			t.Errorf("left in %s: %v", dir, entries)
		}
	}
	trees, err := filepath.Glob("/sys/fs/cgroup/*" + o.CgroupRoot)
	if err != nil {
		t.Fatal(err)
	}
	for _, tree := range append(trees, "/sys/fs/cgroup"+o.CgroupRoot) {
		entries, err := os.ReadDir(tree)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("left cgroup %s/%s", tree, e.Name())
			}
		}
		if err := os.Remove(tree); err != nil {
			t.Errorf("remove the tests' cgroup: %v", err)
		}
	}
}

// importBox makes the image "box": a static busybox, a user, and a directory /seed with content.
func importBox(t *testing.T, e *Engine, changes ...string) {
	t.Helper()
	program, err := osexec.LookPath("busybox")
	if err != nil {
		t.Skip("needs busybox")
	}
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(body); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "etc", "seed", "tmp", "proc", "sys", "dev"} {
		add(tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, text)
	for _, name := range strings.Fields("sh true false sleep cat echo ls id hostname wc seq dd mount grep stat touch kill test mkdir rm printf tail head") {
		add(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\nsailor:x:7:8::/home:/bin/sh\n"))
	add(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\ncrew:x:8:\n"))
	add(tar.Header{Name: "seed/grain", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 7, Gid: 8}, []byte("wheat\n"))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Images.Import(context.Background(), "box", &buf, changes, "", ""); err != nil {
		t.Fatal(err)
	}
}

// shell is a container of the image "box", without a network, that runs a line of shell.
func shell(line string, change ...func(*container.Config)) CreateOptions {
	o := CreateOptions{Config: container.Config{Image: "box", Process: container.Process{Cmd: []string{"/bin/sh", "-c", line}}}}
	o.Config.Net.Mode = "none"
	for _, f := range change {
		f(&o.Config)
	}
	return o
}

func create(t *testing.T, e *Engine, o CreateOptions) string {
	t.Helper()
	r, err := e.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func start(t *testing.T, e *Engine, id string) {
	t.Helper()
	if err := e.Start(t.Context(), id, StartOptions{}); err != nil {
		t.Fatal(err)
	}
}

// await gives the value that ch brings, and fails when it does not come.
func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v, open := <-ch:
		if !open {
			t.Fatalf("%s: closed", what)
		}
		return v
	case <-time.After(2 * time.Minute):
		t.Fatalf("%s: did not come", what)
	}
	panic("unreachable")
}

func wait(t *testing.T, e *Engine, id string, until container.Condition) <-chan container.Waited {
	t.Helper()
	ch, err := e.Wait(t.Context(), id, string(until))
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// finish runs a new container to its end and gives its exit code and output. It stays.
func finish(t *testing.T, e *Engine, o CreateOptions) (id string, code int, out string) {
	t.Helper()
	id = create(t, e, o)
	stream := attach(t, e, id, AttachOptions{Stream: true, Stdout: true, Stderr: true})
	ended := wait(t, e, id, container.NextExit)
	start(t, e, id)
	code = await(t, "the exit", ended).Code
	return id, code, await(t, "the output", stream)
}

// attach connects to a container and gives what it prints, when it is over.
func attach(t *testing.T, e *Engine, id string, o AttachOptions) <-chan string {
	t.Helper()
	near, open := connection(t)
	if err := e.Attach(t.Context(), id, o, open); err != nil {
		t.Fatal(err)
	}
	return plain(near)
}

// connection is a client's end of a stream and the opener that gives the engine the other.
func connection(t *testing.T) (net.Conn, Opener) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, func() (net.Conn, []byte, error) { return far, nil, nil }
}

// plain takes the frames off a stream.
func plain(r io.Reader) <-chan string {
	out := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(r) // a reset at the end takes nothing away from what was read
		var text strings.Builder
		for len(data) >= 8 {
			n := int(data[4])<<24 | int(data[5])<<16 | int(data[6])<<8 | int(data[7])
			n = min(n, len(data)-8)
			text.Write(data[8 : 8+n])
			data = data[8+n:]
		}
		out <- text.String()
	}()
	return out
}

// run runs an exec to its end.
func run(t *testing.T, e *Engine, id string, argv ...string) (code int, out string) {
	t.Helper()
	execID, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: argv, AttachStdout: true, AttachStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	near, open := connection(t)
	if err := e.Execs.Start(t.Context(), execID, ExecStartOptions{}, open); err != nil {
		t.Fatal(err)
	}
	out = await(t, "the exec's output", plain(near))
	rec, err := e.Execs.Inspect(t.Context(), execID)
	if err != nil {
		t.Fatal(err)
	}
	if rec.Running || rec.ExitCode == nil {
		t.Fatalf("the exec's stream is over and it runs: %+v", rec)
	}
	return *rec.ExitCode, out
}

// up waits until the container's program has made the file /up: what it says of signals holds from then on.
func up(t *testing.T, e *Engine, id string) {
	t.Helper()
	if code, out := run(t, e, id, "sh", "-c", "until test -f /up; do sleep 0.01; done"); code != 0 {
		t.Fatalf("wait for /up: %d %q", code, out)
	}
}

// events collects what is published of containers from now on.
func events(t *testing.T, e *Engine) <-chan Event {
	t.Helper()
	_, ch := e.Events.Subscribe(t.Context(), time.Time{}, time.Time{}, func(ev Event) bool { return ev.Type == "container" })
	return ch
}

// awaitEvent skips events until one with this action has come.
func awaitEvent(t *testing.T, ch <-chan Event, action string) Event {
	t.Helper()
	for {
		if ev := await(t, "event "+action, ch); ev.Action == action {
			return ev
		}
	}
}
