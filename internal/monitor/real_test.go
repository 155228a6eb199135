package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// buildRuntime builds berth-runtime as it is delivered.
func buildRuntime(t testing.TB) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	exe := filepath.Join(t.TempDir(), "berth-runtime")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, "../../cmd/berth-runtime")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build berth-runtime: %v\n%s", err, out)
	}
	return exe
}

// rootfs makes a root file system of busybox.
func rootfs(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "true", "sleep", "cat", "echo", "head", "stty", "tail", "ps", "dd", "id", "yes"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// real describes a container as the engine makes them, with its own namespaces and cgroup.
func realConfig(t testing.TB, root string, args ...string) Config {
	t.Helper()
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"}
	id := fmt.Sprintf("berth-test-monitor-%d-%d", os.Getpid(), time.Now().UnixNano())
	// The run directory is on tmpfs, as it is in earnest.
	run, err := os.MkdirTemp("/dev/shm", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	dir := filepath.Join(run, "c")
	c := Config{ID: id, Dir: dir, CgroupPath: "/" + id, Log: LogConfig{Driver: "json-file", Path: filepath.Join(t.TempDir(), "log")},
		Spec: &specs.Spec{Version: specs.Version, Hostname: "box", Root: &specs.Root{Path: root},
			Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"},
				Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
			Mounts: []specs.Mount{
				{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
				{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
				{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
					Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
				{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
			},
			Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
				MaskedPaths:   []string{"/proc/kcore", "/proc/keys"},
				ReadonlyPaths: []string{"/proc/sys"}}}}
	t.Cleanup(func() { // what a failing test leaves
		if h, err := cgroup.Detect(); err == nil {
			g := h.Open(c.CgroupPath)
			_ = errors.Join(g.KillAll(), g.Delete())
		}
	})
	return c
}

func realLauncher(t testing.TB) *Launcher {
	t.Helper()
	l, err := NewLauncher(buildRuntime(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func realSetUp(t *testing.T) (*fixture, string) {
	t.Helper()
	l := realLauncher(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return &fixture{t, ctx, l}, rootfs(t)
}

func TestRealContainer(t *testing.T) {
	f, root := realSetUp(t)
	conf := realConfig(t, root, "sh", "-c", "cat /proc/self/timerslack_ns; echo $$; while read x; do echo got $x; done; exit 5")
	conf.OpenStdin, conf.StdinOnce = true, true
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, everything})
	pid := c.Info().MonitorPid
	// What calms the monitor's own threads is none of the container's affair.
	if got := peer.until("1\n"); !strings.Contains(got, "50000\n") {
		t.Errorf("%q", got)
	}
	for _, slim := range []bool{false, true} {
		if slim {
			f.slim(pid)
		}
		execPeer, theirs2 := f.pair()
		e := ExecConfig{ID: fmt.Sprint(slim), Process: &specs.Process{Args: []string{"sh", "-c", "ps; cat /proc/self/timerslack_ns; exit 3"},
			Cwd: "/", Env: []string{"PATH=/bin"}}}
		if _, err := c.Exec(f.ctx, e, theirs2, everything); err != nil {
			t.Fatal(err)
		}
		theirs2.Close()
		if out, _ := frames(t, execPeer.rest()); !strings.Contains(out, "while read x") || !strings.HasSuffix(out, "\n50000\n") {
			t.Errorf("%q", out)
		}
		if ev := f.event(c); ev.Kind != EventExecExit || ev.Exit.Code != 3 {
			t.Errorf("event %+v", ev)
		}
		termPeer, theirs3 := f.pair()
		e = ExecConfig{ID: "tty", Terminal: true, Rows: 12, Cols: 34, Process: &specs.Process{Terminal: true,
			Args: []string{"stty", "size"}, Cwd: "/", Env: []string{"PATH=/bin"}}}
		if _, err := c.Exec(f.ctx, e, theirs3, AttachOptions{Stdout: true}); err != nil {
			t.Fatal(err)
		}
		theirs3.Close()
		if out := termPeer.rest(); out != "12 34\r\n" {
			t.Errorf("%q", out)
		}
		f.event(c)
		e.Process.Args, e.Terminal, e.Process.Terminal = []string{"/none"}, false, false
		var failed *StartError
		if _, err := c.Exec(f.ctx, e, nil, AttachOptions{}); !errors.As(err, &failed) || failed.Code != 127 {
			t.Errorf("%v", err)
		}
	}
	peer.write("x\n")
	peer.until("got x\n")
	peer.closeWrite()
	peer.rest()
	if x := f.exit(c); x.Code != 5 || x.Error != "" {
		t.Errorf("exit %+v", x)
	}
	noCgroup(t, conf.CgroupPath)
}

// With the annotation the program runs below an init.
func TestRealInit(t *testing.T) {
	f, root := realSetUp(t)
	conf := realConfig(t, root, "sh", "-c", "echo $$; exit 4")
	conf.Spec.Annotations = map[string]string{InitAnnotation: "true"}
	if x := f.exit(f.start(conf)); x.Code != 4 {
		t.Errorf("exit %+v", x)
	}
	if out, _ := readLog(t, conf.Log.Path); out == "1\n" {
		t.Error("the program is process 1")
	}
}

func TestRealStartFailures(t *testing.T) {
	f, root := realSetUp(t)
	for path, code := range map[string]int{"/bin/none": 127, "none": 127, "/proc": 126, "/tmp": 126} {
		conf := realConfig(t, root, path)
		_, _, err := f.launcher.Start(f.ctx, conf, Files{}, nil)
		var failed *StartError
		if !errors.As(err, &failed) || failed.Code != code {
			t.Errorf("%s: %v", path, err)
		}
		noCgroup(t, conf.CgroupPath)
	}
}

func noCgroup(t *testing.T, path string) {
	t.Helper()
	found, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	one, _ := filepath.Glob("/sys/fs/cgroup" + path)
	if found = append(found, one...); len(found) > 0 {
		t.Errorf("left: %v", found)
	}
}

func TestRealOOM(t *testing.T) {
	f, root := realSetUp(t)
	h, err := cgroup.Detect()
	if err != nil || !h.Controllers()["memory"] {
		t.Skip("no memory controller")
	}
	limit := int64(32 << 20)
	// A child is killed first, then the first process.
	conf := realConfig(t, root, "sh", "-c", "sh -c 'tail /dev/zero'; read x; exec tail /dev/zero")
	conf.OpenStdin = true
	conf.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	peer, theirs := f.pair()
	c := f.start(conf, AttachStream{theirs, everything})
	e := f.event(c)
	if e.Kind != EventOOM || !e.Exit.OOMKilled {
		t.Errorf("event %+v", e)
	}
	peer.write("\n")
	if x := f.exit(c); x.Code != 137 || !x.OOMKilled || x.OOMKills < 2 {
		t.Errorf("exit %+v", x)
	}
	if x, err := ReadExit(conf.Dir); err != nil || !x.OOMKilled {
		t.Errorf("record %+v, %v", x, err)
	}
	noCgroup(t, conf.CgroupPath)
}

// A container in somebody else's pid namespace leaves nobody behind.
func TestRealSharedPids(t *testing.T) {
	f, root := realSetUp(t)
	conf := realConfig(t, root, "sh", "-c", "sleep 1000 & echo started; exit 2")
	var own []specs.LinuxNamespace
	for _, ns := range conf.Spec.Linux.Namespaces {
		if ns.Type != specs.PIDNamespace {
			own = append(own, ns)
		}
	}
	conf.Spec.Linux.Namespaces = own
	if x := f.exit(f.start(conf)); x.Code != 2 || x.Error != "" {
		t.Errorf("exit %+v", x)
	}
	noCgroup(t, conf.CgroupPath)
}

// The figure of the budget: own memory of a monitor whose container does nothing.
func TestRealMemory(t *testing.T) {
	f, root := realSetUp(t)
	const n = 20
	var clients []*Client
	for range n {
		clients = append(clients, f.start(realConfig(t, root, "sleep", "1000")))
	}
	t.Logf("of %d monitors each, just started: %s", n, memory(t, clients))
	for _, c := range clients {
		f.slim(c.Info().MonitorPid)
	}
	time.Sleep(restAfter + 500*time.Millisecond)
	t.Logf("small: %s", memory(t, clients))
	for _, c := range clients {
		e := ExecConfig{ID: "e", Process: &specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}}}
		if _, err := c.Exec(f.ctx, e, nil, AttachOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(slimAfter + restAfter + time.Second)
	t.Logf("small again after an exec: %s", memory(t, clients))
	for _, c := range clients {
		if err := c.Signal(f.ctx, 9); err != nil {
			t.Error(err)
		}
	}
	for _, c := range clients {
		f.exit(c)
	}
}

// memory is what each of the monitors holds on average.
func memory(t *testing.T, clients []*Client) string {
	t.Helper()
	sum := map[string]int{}
	for _, c := range clients {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", c.Info().MonitorPid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var kb int
			name, rest, _ := strings.Cut(string(line), ":")
			if _, err := fmt.Sscanf(rest, "%d kB", &kb); err == nil {
				sum[name] += kb
			}
		}
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", clients[0].Info().MonitorPid))
	if err != nil {
		t.Fatal(err)
	}
	n := len(clients)
	return fmt.Sprintf("PSS %d kB (%d kB anonymous), private %d kB, RSS %d kB, %d threads", sum["Pss"]/n, sum["Pss_Anon"]/n,
		(sum["Private_Clean"]+sum["Private_Dirty"])/n, sum["Rss"]/n, len(threads))
}

func BenchmarkStart(b *testing.B) {
	l := realLauncher(b)
	root := rootfs(b)
	var start, total []time.Duration
	for b.Loop() {
		b.StopTimer()
		conf := realConfig(b, root, "true")
		for range 200 { // the spare of a daemon that is not hurried
			l.mu.Lock()
			ready := l.spare != nil
			l.mu.Unlock()
			if ready {
				break
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(5 * time.Millisecond)
		b.StartTimer()
		began := time.Now()
		c, _, err := l.Start(b.Context(), conf, Files{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		start = append(start, time.Since(began))
		if x, ok := <-c.Wait(); !ok || x.Code != 0 {
			b.Fatal(x, ok)
		}
		total = append(total, time.Since(began))
		c.Close()
	}
	report(b, "execve", start)
	report(b, "exit", total)
}

// report gives the least and the median: on a machine that does other things, the mean says little.
func report(b *testing.B, what string, d []time.Duration) {
	slices.Sort(d)
	b.ReportMetric(float64(d[0].Microseconds())/1000, "ms-"+what+"-least")
	b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, "ms-"+what+"-median")
}

func BenchmarkExec(b *testing.B) {
	l := realLauncher(b)
	c, _, err := l.Start(b.Context(), realConfig(b, rootfs(b), "sleep", "1000"), Files{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var total []time.Duration
	for b.Loop() {
		began := time.Now()
		ours, theirs, err := linux.SocketPair(unix.SOCK_STREAM)
		if err != nil {
			b.Fatal(err)
		}
		e := ExecConfig{ID: "e", Process: &specs.Process{Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}}}
		if _, err := c.Exec(b.Context(), e, theirs, everything); err != nil {
			b.Fatal(err)
		}
		theirs.Close()
		if ev := <-c.Events(); ev.Kind != EventExecExit || ev.Exit.Code != 0 {
			b.Fatal(ev)
		}
		total = append(total, time.Since(began))
		ours.Close()
	}
	report(b, "exit", total)
	if err := c.Signal(b.Context(), 9); err != nil {
		b.Fatal(err)
	}
	<-c.Wait()
}

// BenchmarkLog is the way of a container's output into its log: lines of 100 bytes.
func BenchmarkLog(b *testing.B) {
	l := realLauncher(b)
	root := rootfs(b)
	const size = 200_000_000
	b.SetBytes(size)
	for b.Loop() {
		conf := realConfig(b, root, "sh", "-c", fmt.Sprintf("yes %s | head -c %d", strings.Repeat("x", 99), size))
		c, _, err := l.Start(b.Context(), conf, Files{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if x, ok := <-c.Wait(); !ok || x.Code != 0 {
			b.Fatal(x, ok)
		}
		c.Close()
	}
}
