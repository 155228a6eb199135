package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// keepers are the processes that keep the daemon's sockets: those of its exec root.
func keepers(d *harness.Daemon) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(text), "berth-keeper") || !strings.Contains(string(text), d.ExecRoot) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestNetworksKilledInStorm lets many clients do with containers and networks whatever there is to be done, at once and without a plan,
// while the daemon and its keeper are killed, together and alone. Then everything can be removed, and no rule, port, address or link is
// left (the harness looks, too). For make soak.
func TestNetworksKilledInStorm(t *testing.T) {
	rounds, err := strconv.Atoi(os.Getenv("BERTH_SOAK"))
	if err != nil {
		t.Skip("a soak: set BERTH_SOAK to a number of rounds")
	}
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`for n in n0 n1 n2; do $D network create $n; done`)
	base := 20000 + rand.IntN(1000)*10 // below those that the kernel gives to connections of others
	port := func() int { return base + 1 + rand.IntN(8) }
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var done atomic.Int64
	var workers sync.WaitGroup
	step := func() string {
		c, n := fmt.Sprintf("c%d", rand.IntN(5)), fmt.Sprintf("n%d", rand.IntN(4))
		steps := []string{
			fmt.Sprintf(`$D run -d --name %s --network %s -p %d:80 -p %d:80/udp berth/box sleep 100000`, c, n, port(), port()),
			fmt.Sprintf(`$D run -d --name %s -P --expose 81-83 --egress allow=10.0.0.0/8 berth/box sleep 100000`, c),
			fmt.Sprintf(`$D run --rm --network %s -p %d-%d:80-81 berth/box true`, n, base+1, base+2),
			`$D rm -f ` + c,
			`$D stop -t 0 ` + c,
			`$D start ` + c,
			`$D kill ` + c,
			`$D restart -t 0 ` + c,
			fmt.Sprintf(`$D network connect --alias x%d %s %s`, rand.IntN(3), n, c),
			fmt.Sprintf(`$D network disconnect -f %s %s`, n, c),
			fmt.Sprintf(`$D update --publish-add %d:%d %s`, port(), port(), c),
			fmt.Sprintf(`$D update --publish-rm %d %s`, port(), c),
			fmt.Sprintf(`$D update --egress allow=*.example.com:%d %s`, port(), c),
			`$D network rm ` + n,
			fmt.Sprintf(`$D network create %s %s`, []string{"", "--internal", "--ipv6", "-o com.docker.network.bridge.enable_icc=false"}[rand.IntN(4)], n),
			fmt.Sprintf(`$D network update --egress %s %s`, []string{"off", "deny=192.0.2.0/24"}[rand.IntN(2)], n),
			`$D network inspect ` + n,
			`$D exec ` + c + ` nslookup c1`,
		}
		return steps[rand.IntN(len(steps))]
	}
	for range 6 {
		workers.Go(func() {
			for ctx.Err() == nil {
				r := d.Shell(b, step())
				if r.Code == 0 {
					done.Add(1)
				}
				for _, bad := range []string{"panic", "nil pointer"} {
					if strings.Contains(r.Err, bad) {
						t.Errorf("%s: %s", r.Line, r.Err)
					}
				}
			}
		})
	}
	for round := range rounds {
		before := done.Load()
		harness.Eventually(t, 2*time.Minute, "something is done", func() bool { return done.Load() > before+5 })
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		how := rand.IntN(4)
		if how > 0 { // the keeper alone, before the daemon, after it
			for _, pid := range keepers(d) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if how == 1 {
			continue
		}
		d.Kill()
		if how == 3 {
			for _, pid := range keepers(d) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if err := d.Launch(); err != nil {
			cancel()
			workers.Wait()
			t.Fatalf("round %d: the daemon does not start again: %v", round, err)
		}
	}
	cancel()
	workers.Wait()
	t.Logf("%d steps in %d rounds", done.Load(), rounds)
	if log := d.LogFrom(0); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		at := max(strings.Index(log, "DATA RACE"), strings.Index(log, "panic:"))
		t.Errorf("the daemon says %s", log[at:min(len(log), at+6000)])
	}
	d.Shell(b, `$D ps -aq | xargs -r $D rm -f; $D ps -aq`).Exits(0)
	if left := d.Must(`$D ps -aq`); left != "" {
		t.Errorf("containers are left: %s", left)
	}
	d.Must(`$D network prune -f`)
	d.Shell(b, `$D network ls --format '{{.Name}}' | sort | tr '\n' ' '`).Prints("bridge host none ")
	for p := base; p < base+10; p++ {
		l, err := net.Listen("tcp4", ":"+strconv.Itoa(p))
		if err != nil {
			who, _ := exec.Command("ss", "-Htlnp", "sport", "=", strconv.Itoa(p)).CombinedOutput()
			t.Errorf("port %d is still taken: %v: %s", p, err, who)
			continue
		}
		l.Close()
	}
	rules, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	inOurs := false
	for line := range strings.Lines(string(rules)) {
		if strings.HasPrefix(line, "table ") {
			inOurs = strings.Contains(line, "berth-"+d.Bridge)
		}
		if inOurs && (strings.Contains(line, ". tcp .") || strings.Contains(line, "br-")) {
			t.Errorf("left in the rules: %s", line)
		}
	}
	links, err := filepath.Glob("/sys/class/net/" + d.Bridge + "/brif/*")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d links wait for containers", len(links))
}
