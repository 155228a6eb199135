// Package harness gives an end-to-end test a daemon of its own and takes everything away again.
//
//	d := harness.Start(t)            berthd from bin/, with its own data root, exec root, bridge, subnet and cgroup
//	for _, c := range d.Clients()    berth, and every docker client of the machine
//	    c.Run("run --rm berth/box echo hi").Prints("hi\n")
//	                                 at the end of the test: containers removed, daemon stopped, leaks reported
//
// Nothing it makes has a name that could be another's: roots lie in one temporary folder, bridge, subnet and cgroup
// carry a random tag, and what is looked for at the end is looked for by these names only, so several tests and
// several people can use one machine. Processes are ended by their id. A leak (mount, cgroup, link, firewall rule,
// process) fails the test and is removed, so that the next test does not suffer for it.
//
// It drives the programs from outside and imports none of their packages.
package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Daemon is one private berthd.
type Daemon struct {
	t        testing.TB
	Repo     string // the repository
	Dir      string // the temporary folder everything lies in
	DataRoot string
	ExecRoot string
	Socket   string
	Bridge   string
	Subnet   string // "10.213.7.1/24", the bridge's address
	Cgroup   string // "/bt1a2b3c"
	Pid      int
	args     []string
	env      []string
	cmd      *exec.Cmd
	exited   chan struct{}
	log      *os.File
}

// Options change how a daemon is started.
type Options struct {
	Args     []string // more flags for berthd
	Env      []string // more environment for berthd
	DataRoot string   // instead of one in the temporary folder
}

// Repo finds the repository above the working directory.
func Repo(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("BERTH_REPO"); dir != "" { // the tests run elsewhere, in a virtual machine
		return dir
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	t.Fatal("no go.mod above the working directory")
	return ""
}

// Need skips the test where end-to-end tests cannot run, and fails it where they must (BERTH_E2E=1, as make test sets). The programs
// are those of bin that it is about, all of them unless it says which.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "end-to-end tests need root"
	}
	if len(programs) == 0 {
		programs = []string{"berth", "berthd", "berth-runtime"}
	}
	for _, p := range programs {
		if _, err := os.Stat(filepath.Join(Repo(t), "bin", p)); err != nil {
			why = "bin/" + p + " is not built: make build"
		}
	}
	switch {
	case why == "" && os.Getenv("BERTH_E2E") == "":
		t.Skip("set BERTH_E2E=1 to run end-to-end tests (make e2e does)")
	case why != "" && os.Getenv("BERTH_E2E") == "":
		t.Skip(why)
	case why != "":
		t.Fatal(why)
	}
}

// Tool skips the test when a program of the machine is missing, or fails it where make test should have installed it.
func Tool(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if os.Getenv("BERTH_E2E") != "" {
				t.Fatalf("%s is not installed: make setup", n)
			}
			t.Skipf("%s is not installed", n)
		}
	}
}

// Start starts a daemon and arranges its end.
func Start(t testing.TB, options ...Options) *Daemon {
	t.Helper()
	Need(t)
	var o Options
	if len(options) > 0 {
		o = options[0]
	}
	tag := make([]byte, 3)
	if _, err := rand.Read(tag); err != nil {
		t.Fatal(err)
	}
	name := "bt" + hex.EncodeToString(tag)
	dir, err := os.MkdirTemp("", "berth-"+name+"-")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{t: t, Repo: Repo(t), Dir: dir, DataRoot: o.DataRoot, ExecRoot: filepath.Join(dir, "run"), Bridge: name,
		Subnet: freeSubnet(t, tag), Cgroup: "/" + name, env: o.Env}
	if d.DataRoot == "" {
		d.DataRoot = filepath.Join(dir, "data")
	}
	d.Socket = filepath.Join(d.ExecRoot, "berth.sock")
	// An empty folder for client configuration: nobody's ~/.docker reaches the tests.
	if err := os.Mkdir(filepath.Join(dir, "client"), 0o700); err != nil {
		t.Fatal(err)
	}
	if d.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	d.args = append([]string{"--data-root", d.DataRoot, "--exec-root", d.ExecRoot, "--bridge", d.Bridge, "--bip", d.Subnet,
		"--cgroup-parent", d.Cgroup}, o.Args...)
	t.Cleanup(d.finish)
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	return d
}

// freeSubnet picks a /24 that no interface of the machine lies in.
func freeSubnet(t testing.TB, tag []byte) string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 * 256 {
		ip := net.IPv4(10, byte(210+(int(tag[0])+i/256)%40), tag[1]+byte(i), 1)
		taken := false
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.Contains(ip) {
				taken = true
			}
		}
		if !taken {
			return ip.String() + "/24"
		}
	}
	t.Fatal("no free subnet")
	return ""
}

// Launch starts the daemon (again) and returns when it says that it is ready, or with what it printed when it ended.
func (d *Daemon) Launch() error {
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(d.Dir, "notify"), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Join(d.Dir, "notify"))
	defer ready.Close()
	from, err := d.log.Seek(0, 2)
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(d.Repo, "bin/berthd"), d.args...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(d.Dir, "notify")), d.env...)
	// A group of its own: a Ctrl-C at the terminal ends the test, which then ends the daemon in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.cmd, d.Pid, d.exited = cmd, cmd.Process.Pid, make(chan struct{})
	go func(exited chan struct{}) {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(exited)
	}(d.exited)
	told := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := ready.Read(buf)
			if err != nil || strings.Contains(string(buf[:n]), "READY=1") {
				told <- err
				return
			}
		}
	}()
	select {
	case err := <-told:
		return err
	case <-d.exited:
		return fmt.Errorf("berthd ended at once (%s):\n%s", cmd.ProcessState, d.LogFrom(from))
	case <-time.After(2 * time.Minute):
		return fmt.Errorf("berthd is not ready after two minutes:\n%s", d.LogFrom(from))
	}
}

// LogFrom is what the daemon wrote from an offset on.
func (d *Daemon) LogFrom(offset int64) string {
	data, err := os.ReadFile(filepath.Join(d.Dir, "log"))
	if err != nil || offset > int64(len(data)) {
		return ""
	}
	return string(data[offset:])
}

// Args gives the daemon more flags from its next start on.
func (d *Daemon) Args(more ...string) { d.args = append(d.args, more...) }

// Kill ends the daemon with SIGKILL, as a crash would, and waits for its end.
func (d *Daemon) Kill() { d.signal(syscall.SIGKILL) }

// Stop ends the daemon in order; containers stay.
func (d *Daemon) Stop() { d.signal(syscall.SIGTERM) }

func (d *Daemon) signal(sig syscall.Signal) {
	d.t.Helper()
	if !d.Running() {
		return
	}
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Errorf("signalling berthd: %v", err)
	}
	select {
	case <-d.exited:
	case <-time.After(2 * time.Minute):
		d.t.Errorf("berthd (pid %d) is still there two minutes after %v", d.Pid, sig)
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
}

// Running tells whether the daemon lives.
func (d *Daemon) Running() bool {
	if d.cmd == nil {
		return false
	}
	select {
	case <-d.exited:
		return false
	default:
		return true
	}
}

// Env is the environment that leads a client to this daemon and to no configuration of the user's.
func (d *Daemon) Env() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DOCKER_") && !strings.HasPrefix(e, "BERTH_") {
			env = append(env, e)
		}
	}
	return append(env, "DOCKER_HOST=unix://"+d.Socket, "DOCKER_CONFIG="+filepath.Join(d.Dir, "client"),
		"BERTH_HOST=unix://"+d.Socket, "DOCKER_CLI_HINTS=false")
}

// Result is how a command ended.
type Result struct {
	t        testing.TB
	Line     string
	Out, Err string
	Code     int
	Took     time.Duration
}

// Shell runs a line of shell with the daemon's environment; $D is the client. It never fails the test by itself.
func (d *Daemon) Shell(client Client, line string) Result {
	d.t.Helper()
	return d.ShellT(d.t, client, line)
}

// ShellT is Shell on behalf of a subtest.
func (d *Daemon) ShellT(t testing.TB, client Client, line string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(d.Env(), "D="+client.Path, "DIR="+d.Dir, "PATH="+os.Getenv("PATH"))
	cmd.Dir = d.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	start := time.Now()
	err := cmd.Run()
	r := Result{t: t, Line: strings.ReplaceAll(line, "$D", client.Name), Out: out.String(), Err: errOut.String(),
		Took: time.Since(start)}
	if ctx.Err() != nil {
		t.Errorf("%s: not done after 5 minutes\nstdout: %s\nstderr: %s", r.Line, r.Out, r.Err)
		r.Code = -1
		return r
	}
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		r.Code = ee.ExitCode()
	} else if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%s: %v", r.Line, err)
	}
	return r
}

// Client is one command line: berth or a docker.
type Client struct {
	Name string // "berth", "docker-28", "docker-20"
	Path string
}

// Berth is our own client.
func (d *Daemon) Berth() Client { return Client{"berth", filepath.Join(d.Repo, "bin/berth")} }

// Clients lists our client and every docker client of the machine, named by its major version.
func (d *Daemon) Clients() []Client {
	list := []Client{d.Berth()}
	seen := map[string]bool{}
	for _, path := range []string{"/usr/local/bin/docker", "/usr/bin/docker"} {
		out, err := exec.Command(path, "--version").Output()
		fields := strings.Fields(string(out))
		if err != nil || len(fields) < 3 {
			continue
		}
		major, _, _ := strings.Cut(fields[2], ".")
		if name := "docker-" + major; !seen[name] {
			seen[name] = true
			list = append(list, Client{name, path})
		}
	}
	return list
}

// Must runs a line with our own client and fails the test at once when its exit code is not 0; it returns what was
// printed, without the last newline.
func (d *Daemon) Must(line string) string {
	d.t.Helper()
	r := d.Shell(d.Berth(), line)
	if r.Code != 0 {
		d.t.Fatalf("%s: exit code %d\nstdout: %s\nstderr: %s", r.Line, r.Code, r.Out, r.Err)
	}
	return strings.TrimSuffix(r.Out, "\n")
}

// Exits checks the exit code.
func (r Result) Exits(code int) Result {
	r.t.Helper()
	if r.Code != code {
		r.t.Errorf("%s\n  got exit code %d, wanted %d\n  stdout: %q\n  stderr: %q", r.Line, r.Code, code, clip(r.Out), clip(r.Err))
	}
	return r
}

// Prints checks that standard output is exactly text and the exit code 0.
func (r Result) Prints(text string) Result {
	r.t.Helper()
	if r.Code != 0 || r.Out != text {
		r.t.Errorf("%s\n  got exit code %d, stdout %q, stderr %q\n  wanted stdout %q", r.Line, r.Code, clip(r.Out), clip(r.Err), text)
	}
	return r
}

// Shows checks that standard output contains each text.
func (r Result) Shows(texts ...string) Result {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.Out, text) {
			r.t.Errorf("%s\n  got exit code %d, stdout %q, stderr %q\n  wanted %q in stdout", r.Line, r.Code, clip(r.Out), clip(r.Err), text)
		}
	}
	return r
}

// Complains checks that standard error contains each text, whatever the case of its letters.
func (r Result) Complains(texts ...string) Result {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(strings.ToLower(r.Err), strings.ToLower(text)) {
			r.t.Errorf("%s\n  got exit code %d, stderr %q\n  wanted %q in stderr", r.Line, r.Code, clip(r.Err), text)
		}
	}
	return r
}

func clip(s string) string {
	if len(s) > 600 {
		return s[:400] + " … " + s[len(s)-200:]
	}
	return s
}

// Eventually waits until ok is true, asking again every 20 ms, and fails the test after limit.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("after %v: not so: %s", limit, what)
}
