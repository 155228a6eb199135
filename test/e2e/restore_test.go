package e2e

import (
	"fmt"
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

	// A client that is attached keeps its stream while the daemon dies.
	attached := make(chan harness.Result, 1)
	go func() { attached <- d.Shell(b, `$D attach --no-stdin --sig-proxy=false runs >attached`) }()
	harness.Eventually(t, time.Minute, "the attached client sees lines", func() bool { return lastLine(d) >= 0 })
	d.Kill()
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
	d.Shell(b, `$D inspect -f '{{.State.Status}} {{.State.ExitCode}}' ends`).Prints("exited 42\n")
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
