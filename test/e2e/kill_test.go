package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// TestKillUnderLoad kills the daemon at random moments while containers are run, entered and removed. Afterwards every
// container that a client was told of is there with its exit code, and nothing leaked (the harness looks).
// Short form: 5 rounds; make soak does 100, or BERTH_SOAK of them.
func TestKillUnderLoad(t *testing.T) {
	rounds := 5
	if n, err := strconv.Atoi(os.Getenv("BERTH_SOAK")); err == nil {
		rounds = n
	}
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`$D run -d --name anchor berth/box sleep 100000`)
	anchor := d.Must(`$D inspect -f '{{.State.Pid}}' anchor`)
	d.Must(`$D run --rm berth/box true`)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var (
		workers sync.WaitGroup
		mu      sync.Mutex
		known   = map[string]int{} // containers a client saw started in full, and the code they must end with
		done    atomic.Int64
	)
	load := func(worker int) {
		for i := 0; ctx.Err() == nil; i++ {
			name := fmt.Sprintf("w%d-%d", worker, i)
			code := i % 100
			r := d.Shell(b, fmt.Sprintf(`$D run -d --name %s berth/box sh -c 'sleep 0.%d; exit %d'`, name, i%4, code))
			if r.Code == 0 {
				mu.Lock()
				known[name] = code
				mu.Unlock()
				done.Add(1)
				d.Shell(b, `$D exec anchor true`)
			}
			if i%3 == 2 { // and some are removed by force, at any point of their life
				gone := fmt.Sprintf("w%d-%d", worker, i-1)
				mu.Lock()
				delete(known, gone)
				mu.Unlock()
				d.Shell(b, `$D rm -f `+gone)
			}
			d.Shell(b, `$D run --rm berth/box true`)
		}
	}
	for w := range 3 {
		workers.Go(func() { load(w) })
	}
	for round := range rounds {
		before := done.Load()
		harness.Eventually(t, 2*time.Minute, "a container is started", func() bool { return done.Load() > before })
		time.Sleep(time.Duration(50+rand.IntN(800)) * time.Millisecond)
		d.Kill()
		if err := d.Launch(); err != nil {
			cancel()
			workers.Wait()
			t.Fatalf("round %d: the daemon does not start again: %v", round, err)
		}
	}
	time.Sleep(300 * time.Millisecond)
	cancel()
	workers.Wait()
	t.Logf("%d rounds, %d containers started in full", rounds, done.Load())
	mu.Lock()
	defer mu.Unlock()
	for name, code := range known {
		want := fmt.Sprintf("exited %d\n", code)
		var got harness.Result
		harness.Eventually(t, time.Minute, "container "+name+" has "+want, func() bool {
			got = d.Shell(b, `$D inspect -f '{{.State.Status}} {{.State.ExitCode}}' `+name)
			return got.Out == want
		})
		if got.Out != want {
			t.Errorf("container %s: got %q %q, wanted %q", name, got.Out, got.Err, want)
		}
	}
	d.Shell(b, `$D inspect -f '{{.State.Status}} {{.State.Pid}}' anchor`).Prints("running " + anchor + "\n")
	d.Shell(b, `$D exec anchor echo yes`).Prints("yes\n")
	// Half-made containers are none: what is listed can be inspected and removed. Those made with --rm may go by themselves meanwhile.
	for _, id := range strings.Fields(d.Must(`$D ps -aq --no-trunc`)) {
		seen, gone := d.Shell(b, `$D inspect -f '{{.Id}}' `+id), d.Shell(b, `$D rm -f `+id)
		left := d.Must(`$D ps -aq --no-trunc`)
		if seen.Out != id+"\n" && !strings.Contains(seen.Err, "o such") || gone.Code != 0 && !strings.Contains(gone.Err, "o such") || strings.Contains(left, id) {
			t.Errorf("container %s is listed; inspect: %q %q, rm: %q %q, left: %q", id, seen.Out, seen.Err, gone.Out, gone.Err, left)
		}
	}
	for _, dir := range []string{filepath.Join(d.DataRoot, "containers"), filepath.Join(d.ExecRoot, "containers")} {
		harness.Eventually(t, time.Minute, dir+" is empty after every container was removed", func() bool {
			entries, _ := os.ReadDir(dir)
			return len(entries) == 0
		})
	}
}
