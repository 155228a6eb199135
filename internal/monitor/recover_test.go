package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// children are the processes whose parent this one is. Orphans of killed daemons are among them: see adopt.
func children(t *testing.T) map[int]string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, d := range dirs {
		stat, err := os.ReadFile(d + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(d))
		if fields[0] == "Z" {
			continue
		}
		cmdline, _ := os.ReadFile(d + "/cmdline")
		found[pid] = string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))
	}
	return found
}

// adopt makes orphans below this process its children.
func adopt(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for pid, cmdline := range children(t) {
			if strings.Contains(cmdline, "monitor") || strings.Contains(cmdline, "/bin/sh") {
				unix.Kill(pid, unix.SIGKILL)
				unix.Wait4(pid, nil, 0, nil)
			}
		}
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	})
}

func TestSurvivesItsDaemon(t *testing.T) {
	f := setUp(t)
	for _, slim := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "c")
		d := f.startDaemon("echo one; while [ ! -e "+dir+"/go ]; do sleep 0.05; done; echo two; exec sleep 60", "started",
			"start="+dir)
		d.Process.Kill()
		d.Wait()
		c, err := Dial(f.ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		f.guard(c.Info().Pid, c.Info().MonitorPid)
		if slim {
			f.slim(c.Info().MonitorPid)
		}
		// What ends while nobody is there is told to the next who comes, once.
		var pids []int
		for _, id := range []string{"a", "b"} {
			e, err := c.Exec(f.ctx, ExecConfig{ID: id, Process: command("until test -e " + dir + "/alone; do sleep 0.05; done; exit 9")},
				nil, AttachOptions{})
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, e.Pid)
		}
		c.Close()
		if err := os.WriteFile(filepath.Join(dir, "alone"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, pid := range pids {
			f.gone(pid)
		}
		c2, err := Dial(f.ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if e := f.event(c2); e.Kind != EventExecExit || e.ExecID != "a" && e.ExecID != "b" {
				t.Errorf("event %+v", e)
			}
		}
		c3, err := Dial(f.ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer c3.Close()
		// Acknowledged by now, or very soon: another round trip on the connection that acknowledges is enough.
		if err := c2.Signal(f.ctx, 0); err != nil {
			t.Fatal(err)
		}
		c4, err := Dial(f.ctx, dir)
		if err != nil {
			t.Fatal(err)
		}
		defer c4.Close()
		for _, c := range []*Client{c2, c4} {
			select {
			case e := <-c.Events():
				t.Errorf("event %+v again", e)
			default:
			}
		}
		peer, theirs := f.pair()
		if _, err := c2.Attach(f.ctx, theirs, everything); err != nil {
			t.Fatal(err)
		}
		theirs.Close()
		if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		peer.until("two")
		c2.Close()
		if err := c4.Signal(f.ctx, 9); err != nil {
			t.Fatal(err)
		}
		if x := f.exit(c4); x.Code != 137 {
			t.Errorf("exit %+v", x)
		}
		peer.rest()
		if x, err := ReadExit(dir); err != nil || x.Code != 137 {
			t.Errorf("record %+v, %v", x, err)
		}
		if out, _ := readLog(t, filepath.Join(dir, "log")); out != "one\ntwo\n" {
			t.Errorf("log %q", out)
		}
	}
}

// Nobody is there when it ends, and one of its execs has ended before.
func TestEndsAlone(t *testing.T) {
	f := setUp(t)
	dir := filepath.Join(t.TempDir(), "c")
	d := f.startDaemon("until test -e "+dir+"/alone; do sleep 0.05; done; echo done; exit 42", "started", "start="+dir)
	c, err := Dial(f.ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	pid := c.Info().MonitorPid
	if _, err := c.Exec(f.ctx, ExecConfig{ID: "early", Process: command("exit 11")}, nil, AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	d.Process.Kill()
	d.Wait()
	c.Close()
	if err := os.WriteFile(filepath.Join(dir, "alone"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.gone(pid)
	x, err := ReadExit(dir)
	if err != nil || x.Code != 42 {
		t.Fatalf("record %+v, %v", x, err)
	}
	if _, err := Dial(f.ctx, dir); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("dial: %v", err)
	}
	if out, _ := readLog(t, filepath.Join(dir, "log")); out != "done\n" {
		t.Errorf("log %q", out)
	}
}

// A daemon is killed at any moment between deciding to start a container and using it. Afterwards each container runs
// and answers, or has left its record, or was never there; and no monitor waits for a daemon that is dead.
func TestKilledDaemons(t *testing.T) {
	f := setUp(t)
	adopt(t)
	before := children(t)
	rounds := 25
	if testing.Short() {
		rounds = 8
	}
	for round := range rounds {
		dir := t.TempDir()
		d := f.startDaemon("", "starting 0", "loop="+dir)
		time.Sleep(time.Duration(rand.IntN(60000)) * time.Microsecond)
		d.Process.Kill()
		d.Wait()
		dirs, _ := filepath.Glob(dir + "/*")
		running := 0
		for dir, x := range settle(f, dirs, before) {
			if x.Code != 3 && x.Code != 137 {
				t.Errorf("round %d: %s ended with %+v", round, filepath.Base(dir), x)
			}
			running++
		}
		if len(dirs) > 2 && running < len(dirs)-1 {
			t.Errorf("round %d: of %d containers only %d are known", round, len(dirs), running)
		}
		waitChildren(f, before)
	}
}

// settle ends the containers that run and returns how each one ended; those that never were are missing. An order may have
// been given and not been carried out yet: there is still a monitor then.
func settle(f *fixture, dirs []string, before map[int]string) map[string]Exit {
	f.Helper()
	exits := map[string]Exit{}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		last := len(strays(f, before)) == 0 || time.Now().After(end)
		for _, dir := range dirs {
			if _, known := exits[dir]; known {
				continue
			}
			c, err := Dial(f.ctx, dir)
			if err == nil {
				_ = c.Signal(f.ctx, 9) // it may just be ending
				exits[dir] = f.exit(c)
				c.Close()
				continue
			}
			x, err := ReadExit(dir)
			if err == nil {
				exits[dir] = *x
			} else if !errors.Is(err, errdefs.ErrNotFound) {
				f.Fatalf("%s: %v", filepath.Base(dir), err)
			}
		}
		if last || len(exits) == len(dirs) {
			return exits
		}
	}
}

// strays are the children that were not there before. Our own launcher's spare is a child like the daemons' orphans, and
// stays.
func strays(f *fixture, before map[int]string) map[int]string {
	left := children(f.T)
	f.launcher.mu.Lock()
	defer f.launcher.mu.Unlock()
	for pid, cmdline := range left {
		_, known := before[pid]
		spare := f.launcher.spare != nil && f.launcher.spare.proc.Pid == pid
		if known || spare || strings.Contains(cmdline, "strace") {
			delete(left, pid)
		}
	}
	return left
}

// waitChildren waits until there are no more children than before, reaping orphans.
func waitChildren(f *fixture, before map[int]string) {
	f.Helper()
	var left map[int]string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); {
		left = strays(f, before)
		if len(left) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	f.Errorf("left behind: %v", left)
}

// A spare ends with its daemon and leaves nothing.
func TestSpareEndsWithItsDaemon(t *testing.T) {
	f := setUp(t)
	adopt(t)
	before := children(t)
	d := f.startDaemon("exit 0", "started", "start="+filepath.Join(t.TempDir(), "c"))
	time.Sleep(50 * time.Millisecond)
	d.Process.Kill()
	d.Wait()
	waitChildren(f, before)
}

// A spare that somebody killed does not disturb the next start.
func TestSpareKilled(t *testing.T) {
	f := setUp(t)
	for range 5 {
		f.launcher.busy.Wait()
		f.launcher.mu.Lock()
		spare := f.launcher.spare
		f.launcher.mu.Unlock()
		if spare == nil {
			t.Fatal("no spare")
		}
		if err := spare.proc.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = spare.proc.Wait()
		if x := f.exit(f.start(f.container("exit 1"))); x.Code != 1 {
			t.Errorf("exit %+v", x)
		}
	}
}

// A monitor that is killed leaves a socket that nobody answers, and no record.
func TestMonitorKilled(t *testing.T) {
	f := setUp(t)
	conf := f.container("sleep 60")
	c := f.start(conf)
	done := c.Wait()
	unix.Kill(c.Info().MonitorPid, unix.SIGKILL)
	if x, ok := <-done; ok {
		t.Errorf("exit %+v", x)
	}
	if _, open := <-c.Events(); open {
		t.Error("an event of a dead monitor")
	}
	if _, err := Dial(f.ctx, conf.Dir); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("dial: %v", err)
	}
	if _, err := ReadExit(conf.Dir); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("record: %v", err)
	}
	unix.Kill(c.Info().Pid, unix.SIGKILL)
	// The same directory serves the next run.
	if x := f.exit(f.start(shell(conf.Dir, "exit 9"))); x.Code != 9 {
		t.Errorf("exit %+v", x)
	}
}

func TestSocketIsPrivate(t *testing.T) {
	f := setUp(t)
	conf := f.container("sleep 60")
	if err := os.MkdirAll(conf.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := f.start(conf)
	for name, want := range map[string]os.FileMode{"": 0o700, socketName: 0o600} {
		if st, err := os.Stat(filepath.Join(conf.Dir, name)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%q: %v, %v", name, st.Mode(), err)
		}
	}
	// Even one who gets at the socket is refused if he is not root.
	if err := os.Chmod(conf.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(conf.Dir, socketName), 0o666); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(conf.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	// SO_PEERCRED is taken from the thread that connects. The thread ends with the function.
	err = linux.OnThread(func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1000, 1000, 1000); errno != 0 {
			return errno
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(conf.Dir, socketName)}); err != nil {
			if len(conf.Dir) > 80 || errors.Is(err, unix.EACCES) { // a parent directory forbids it already
				return nil
			}
			return err
		}
		var b [16]byte
		if n, err := unix.Read(fd, b[:]); n > 0 {
			return fmt.Errorf("a stranger got an answer (%v)", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := c.Signal(f.ctx, 9); err != nil {
		t.Error(err)
	}
	f.exit(c)
}

// Who dials a monitor that does not answer can give up.
func TestDialCancelled(t *testing.T) {
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: underDir(int(d.Fd()), socketName)}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, dir); err == nil || errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("dial: %v", err)
	}
}
