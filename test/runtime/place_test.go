package runtime

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// place is a temporary folder and a tag that nothing else on the machine has: whatever a test leaves behind can be told by them.
type place struct {
	t       *testing.T
	dir     string
	tag     string
	runtime string // bin/berth-runtime
	env     []string
	at      string // where lines run; dir if empty
}

func newPlace(t *testing.T, tools ...string) *place {
	t.Helper()
	harness.Need(t, "berth-runtime")
	harness.Tool(t, tools...)
	tag := make([]byte, 4)
	if _, err := rand.Read(tag); err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, tag: "brt" + hex.EncodeToString(tag), runtime: filepath.Join(harness.Repo(t), "bin/berth-runtime")}
	var err error
	// The names of sockets are short (unix(7)), so the folder's is too.
	if p.dir, err = os.MkdirTemp("", p.tag); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.finish)
	return p
}

// rootfs unpacks the image that berthd carries.
func (p *place) rootfs(dir string) {
	p.t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xzf", p.image(), "-C", dir).CombinedOutput(); err != nil {
		p.t.Fatalf("%v: %s", err, out)
	}
}

func (p *place) image() string {
	return filepath.Join(harness.Repo(p.t), "internal/image/builtin/files/rootfs.tar.gz")
}

// plainImage is the same without compression.
func (p *place) plainImage() string {
	p.t.Helper()
	in, err := os.Open(p.image())
	if err != nil {
		p.t.Fatal(err)
	}
	defer in.Close()
	r, err := gzip.NewReader(in)
	if err != nil {
		p.t.Fatal(err)
	}
	name := filepath.Join(p.dir, "rootfs.tar")
	out, err := os.Create(name)
	if err != nil {
		p.t.Fatal(err)
	}
	_, err = io.Copy(out, r)
	if err := errors.Join(err, out.Close()); err != nil {
		p.t.Fatal(err)
	}
	return name
}

type result struct {
	out, err string
	code     int
}

// shell runs a line of shell in the folder, for at most three minutes. It never fails the test by itself.
func (p *place) shell(line string) result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Dir = p.dir
	if p.at != "" {
		cmd.Dir = p.at
	}
	cmd.Env = append(append(os.Environ(), "R="+p.runtime, "DIR="+p.dir, "TAG="+p.tag), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	r := result{out: out.String(), err: errOut.String(), code: cmd.ProcessState.ExitCode()}
	if ctx.Err() != nil {
		p.t.Errorf("%s: not done after three minutes\nstdout: %s\nstderr: %s", line, r.out, r.err)
	} else if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit && !errors.Is(err, exec.ErrWaitDelay) {
		p.t.Fatalf("%s: %v", line, err)
	}
	return r
}

// must is shell for a line that succeeds; it gives what was printed, without the last newline.
func (p *place) must(line string) string {
	p.t.Helper()
	r := p.shell(line)
	if r.code != 0 {
		p.t.Fatalf("%s: exit code %d\nstdout: %s\nstderr: %s", line, r.code, r.out, r.err)
	}
	return strings.TrimSuffix(r.out, "\n")
}

// obligation is a line of shell and what must come of it.
type obligation struct {
	line  string
	out   string   // standard output, exactly; "*" for any
	shows []string // parts of standard output
	says  string   // a part of standard error; none means that it must be empty, "*" is any
	code  int
}

func (p *place) holds(list []obligation) {
	p.t.Helper()
	for _, o := range list {
		r := p.shell(o.line)
		ok := r.code == o.code && (o.out == "*" || o.shows != nil || r.out == o.out)
		for _, s := range o.shows {
			ok = ok && strings.Contains(r.out, s)
		}
		switch o.says {
		case "*":
		case "":
			ok = ok && r.err == ""
		default:
			ok = ok && strings.Contains(r.err, o.says)
		}
		if !ok {
			p.t.Errorf("%s\n  got exit code %d, stdout %q, stderr %q\n  wanted %d, %q %q, %q", o.line, r.code, r.out, r.err, o.code,
				o.out, o.shows, o.says)
		}
	}
}

// daemon starts a program that stays, with its output in a log, and stops it by its id when the test ends.
func (p *place) daemon(name string, args ...string) {
	p.t.Helper()
	log, err := os.Create(filepath.Join(p.dir, filepath.Base(name)+".log"))
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is of no interest
		close(exited)
	}()
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(2 * time.Minute):
			p.t.Errorf("%s (pid %d) is still there two minutes after SIGTERM", name, cmd.Process.Pid)
			_ = cmd.Process.Kill()
			<-exited
		}
		if p.t.Failed() {
			if data, err := os.ReadFile(log.Name()); err == nil {
				p.t.Logf("the end of %s:\n%s", log.Name(), data[max(0, len(data)-6000):])
			}
		}
		_ = log.Close()
	})
}

// finish looks for what was left, takes it away, and fails the test for it.
func (p *place) finish() {
	var left []string
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if left = p.left(); len(left) == 0 || time.Now().After(end) {
			break
		}
	}
	if len(left) > 0 {
		p.t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		p.sweep()
	}
	if len(p.mounts()) == 0 { // what is mounted there would be emptied with it
		if err := os.RemoveAll(p.dir); err != nil {
			p.t.Errorf("removing %s: %v", p.dir, err)
		}
	}
}

func (p *place) left() (list []string) {
	for _, pid := range p.processes() {
		cmdline, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		list = append(list, "process "+strconv.Itoa(pid)+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
	}
	for _, m := range p.mounts() {
		list = append(list, "mount "+m)
	}
	for _, c := range p.cgroups() {
		list = append(list, "cgroup "+c)
	}
	return list
}

// sweep ends every process of ours, unmounts every mount and removes every cgroup.
func (p *place) sweep() {
	for _, pid := range p.processes() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	for end := time.Now().Add(time.Minute); len(p.processes()) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	for _, m := range slices.Backward(p.mounts()) {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	p.removeCgroups()
}

// removeCgroups takes away groups that no process is in: those above the containers' own stay with any runtime. Who looks after a container
// ends a moment after it, and is waited for.
func (p *place) removeCgroups() {
	for end := time.Now().Add(time.Minute); len(p.processes()) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	for _, c := range slices.Backward(p.cgroups()) {
		_ = syscall.Rmdir(c)
	}
}

// processes are those whose command line or environment of ours names the folder, or that are in a cgroup of ours.
func (p *place) processes() (list []int) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		cgroup, _ := os.ReadFile(dir + "/cgroup")
		if bytes.Contains(cmdline, []byte(p.dir)) || bytes.Contains(cgroup, []byte(p.tag)) {
			list = append(list, pid)
		}
	}
	return list
}

func (p *place) mounts() (list []string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.Contains(f[4], p.dir) || strings.Contains(line, "="+p.dir)) {
			list = append(list, f[4])
		}
	}
	return list
}

func (p *place) cgroups() (list []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while we look
		case err != nil:
			return fs.SkipDir
		case e.IsDir() && strings.Contains(path, p.tag):
			list = append(list, path)
		}
		return nil
	})
	return list
}

// await waits until a line of shell succeeds.
func (p *place) await(line string) {
	p.t.Helper()
	harness.Eventually(p.t, 2*time.Minute, line, func() bool { return p.shell(line).code == 0 })
	if p.t.Failed() {
		p.t.FailNow()
	}
}
