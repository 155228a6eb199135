package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// TestContainersSurviveTheDaemon: a daemon that is killed loses nothing.
func TestContainersSurviveTheDaemon(t *testing.T) {
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`$D run -d --name runs berth/box sh -c 'i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done'`)
	d.Must(`$D run -d --name ends berth/box sh -c 'sleep 1; echo last words; exit 42'`)
	d.Must(`$D run -d --name back --restart always berth/box sh -c 'sleep 1'`)
	d.Must(`$D run -d --name asleep berth/box sleep 1000; $D pause asleep`)
	d.Must(`$D create --name fresh berth/box echo never started`)
	d.Must(`$D run -d --rm --name remove-me berth/box sleep 0.7`)
	pid := d.Must(`$D inspect -f '{{.State.Pid}}' runs`)

	// An exec tells its exit code to its client without the daemon, with and without a terminal.
	coded := make(chan harness.Result, 2)
	for _, flag := range []string{"", "-t"} {
		go func() {
			coded <- d.Shell(b, `$D exec `+flag+` runs sh -c 'while [ ! -e /killed ]; do sleep 0.1; done; exit 43'`)
		}()
	}
	harness.Eventually(t, time.Minute, "both execs run", func() bool {
		return strings.Count(d.Shell(b, `$D top runs`).Out, "! -e /killed") == 2
	})

	// A client that is attached keeps its stream while the daemon dies.
	attached := make(chan harness.Result, 1)
	go func() { attached <- d.Shell(b, `$D attach --no-stdin --sig-proxy=false runs >attached`) }()
	harness.Eventually(t, time.Minute, "the attached client sees lines", func() bool { return lastLine(d) >= 0 })
	d.Kill()
	if err := os.WriteFile(filepath.Join("/proc", pid, "root/killed"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r := <-coded; r.Code != 43 || r.Err != "" {
			t.Errorf("an exec over the daemon's death ended with %d, %q", r.Code, r.Err)
		}
	}
	time.Sleep(1500 * time.Millisecond) // while nobody looks, one container ends and the others go on
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	var now int
	if _, err := fmt.Sscanf(d.Must(`$D logs --tail 1 runs`), "line %d", &now); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, time.Minute, "the attached client sees lines that came after the restart", func() bool { return lastLine(d) > now })
	d.Shell(b, `$D inspect -f '{{.State.Status}} {{.State.Pid}}' runs`).Prints("running " + pid + "\n")
	d.Shell(b, `$D wait ends && $D inspect -f '{{.State.Status}} {{.State.ExitCode}}' ends`).Prints("42\nexited 42\n")
	d.Shell(b, `$D logs ends`).Prints("last words\n")
	d.Shell(b, `$D inspect -f '{{.State.Status}}' asleep`).Prints("paused\n")
	d.Shell(b, `$D unpause asleep && $D exec asleep echo awake`).Prints("asleep\nawake\n")
	d.Shell(b, `$D inspect -f '{{.State.Status}}' fresh`).Prints("created\n")
	d.Shell(b, `$D start -a fresh`).Prints("never started\n")
	harness.Eventually(t, time.Minute, "the container with a restart policy runs", func() bool {
		return d.Shell(b, `$D inspect -f '{{.State.Running}}' back`).Out == "true\n"
	})
	harness.Eventually(t, time.Minute, "the --rm container that ended meanwhile is removed", func() bool {
		return d.Shell(b, `$D inspect remove-me`).Code == 1
	})
	// Its log has no gap.
	log := d.Shell(b, `$D logs runs`).Out
	for i, line := range strings.Split(strings.TrimSpace(log), "\n") {
		if line != fmt.Sprintf("line %d", i) {
			t.Errorf("line %d of the log is %q", i, line)
			break
		}
	}
	// And it is still ours: exec, network, stop.
	d.Shell(b, `$D exec runs sh -c 'ip addr show eth0 | grep -c "inet "'`).Prints("1\n")
	d.Shell(b, `$D stop -t 1 runs`).Prints("runs\n")
	<-attached
}

// lastLine is the number in the last whole line the attached client has written; -1 is none.
func lastLine(d *harness.Daemon) int {
	data, err := os.ReadFile(filepath.Join(d.Dir, "attached"))
	if err != nil {
		return -1
	}
	lines := strings.Split(string(data), "\n")
	n := -1
	if len(lines) > 1 {
		if _, err := fmt.Sscanf(lines[len(lines)-2], "line %d", &n); err != nil {
			return -1
		}
	}
	return n
}

// TestStopInOrder: SIGTERM to the daemon leaves containers alone, too, and a second daemon is refused while it runs.
func TestStopInOrder(t *testing.T) {
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`$D run -d --name cc berth/box sleep 1000`)
	second := d.Shell(b, fmt.Sprintf("%s/bin/berthd --data-root %s --exec-root %s/other --bridge none", d.Repo, d.DataRoot, d.Dir))
	second.Exits(1).Complains(fmt.Sprint(d.Pid))
	if n := strings.Count(strings.TrimSpace(second.Err), "\n"); n > 0 {
		t.Errorf("a second daemon on the data root should say one sentence, said:\n%s", second.Err)
	}
	third := d.Shell(b, fmt.Sprintf("%s/bin/berthd --data-root %s/third --exec-root %s --bridge none", d.Repo, d.Dir, d.ExecRoot))
	third.Exits(1)
	d.Stop()
	d.Shell(b, "$D ps").Exits(1).Complains("daemon")
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	d.Shell(b, `$D exec cc echo here`).Prints("here\n")
	if left, err := filepath.Glob(filepath.Join(d.Dir, "third/*")); err != nil || len(left) > 2 {
		t.Errorf("the refused daemon left %v in its data root (%v)", left, err)
	}
	if err := os.RemoveAll(filepath.Join(d.Dir, "other")); err != nil {
		t.Error(err)
	}
}

// TestNamesAndPortsWithoutTheDaemon: while no daemon is there containers find each other by name, a host port that is
// published can be used and taken by nobody else, and the next daemon goes on with both.
func TestNamesAndPortsWithoutTheDaemon(t *testing.T) {
	d := harness.Start(t)
	b := d.Berth()
	port := func() string {
		_, p, _ := strings.Cut(d.Must(`$D port shop 80/tcp | head -n 1`), ":")
		return p
	}
	// The client writes a line for each of its questions, without end.
	d.Must(`$D network create mall`)
	d.Must(`$D run -d --name shop --network mall -p 127.0.0.1::80 berth/box sh -c 'while :; do echo open | nc -l -p 80; done'`)
	d.Must(`$D run -d --name client --network mall --dns 192.0.2.1 -v ` + d.Dir + `:/out berth/box sh -c 'while :; do if ping -c 1 -W 30 shop >/dev/null; then echo found; else echo lost; fi; sleep 0.1; done >>/out/answers'`)
	answers := func() (found, lost int) {
		data, err := os.ReadFile(filepath.Join(d.Dir, "answers"))
		if err != nil {
			return 0, 0
		}
		return strings.Count(string(data), "found\n"), strings.Count(string(data), "lost\n")
	}
	more := func(when string) {
		t.Helper()
		before, _ := answers()
		harness.Eventually(t, time.Minute, "the client finds the shop "+when, func() bool { now, _ := answers(); return now > before+2 })
	}
	more("with the daemon")
	at := "127.0.0.1:" + port()
	for range 3 {
		d.Kill()
		more("without the daemon")
		if l, err := net.Listen("tcp", at); err == nil {
			l.Close()
			t.Errorf("%s can be taken while the daemon is away", at)
		}
		harness.Eventually(t, time.Minute, "the published port answers without the daemon", func() bool {
			c, err := net.DialTimeout("tcp", at, time.Minute)
			if err != nil {
				return false
			}
			defer c.Close()
			text, _ := io.ReadAll(c)
			return string(text) == "open\n"
		})
		if err := d.Launch(); err != nil {
			t.Fatal(err)
		}
		more("with the next daemon")
	}
	if _, lost := answers(); lost > 0 {
		t.Errorf("%d questions had no answer", lost)
	}
	d.Shell(b, `$D rename shop store && $D exec client ping -c 1 -W 30 store >/dev/null && echo renamed`).Prints("renamed\n")
	d.Must(`$D rm -f store`)
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatalf("the port of a removed container is still taken: %v", err)
	}
	l.Close()
}
