package engine

import (
	"bufio"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	osexec "os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// killOptions are the options of the daemon that is killed; they depend on dir only. It has a bridge, but no rules.
func killOptions(dir string) Options {
	o := options(dir)
	h := fnv.New32a()
	_, _ = h.Write([]byte(dir))
	o.Network.Bridge = fmt.Sprintf("bt%08x", h.Sum32())
	o.Network.BIP = fmt.Sprintf("10.214.%d.1/24", h.Sum32()%256)
	o.Network.Warm = 1
	return o
}

// load is the daemon that is killed: it creates, starts, waits for and removes containers, and says on its standard
// output what it has been told is done.
func load(dir string) int {
	ctx := context.Background()
	e, err := Open(ctx, killOptions(dir))
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	fmt.Println("ready")
	for range 3 {
		go func() {
			for {
				if err := voyage(ctx, e); err != nil {
					fmt.Println("failed", strings.ReplaceAll(err.Error(), "\n", " "))
				}
			}
		}()
	}
	select {}
}

// voyage is the life of one container.
func voyage(ctx context.Context, e *Engine) error {
	code := 1 + rand.IntN(120)
	line := fmt.Sprintf("sleep 0.0%d; exit %d", rand.IntN(10), code)
	own := rand.IntN(4) == 0
	r, err := e.Create(ctx, shell(line, func(c *container.Config) {
		c.AutoRemove = own
		c.Labels = container.Map{"code": strconv.Itoa(code)}
		if rand.IntN(2) == 0 {
			c.Net.Mode = "bridge"
		}
		if rand.IntN(3) == 0 {
			c.Volumes = []string{"/seed"}
		}
	}))
	if err != nil {
		return err
	}
	if !own {
		fmt.Println("created", r.ID)
	}
	next, err := e.Wait(ctx, r.ID, string(container.NextExit))
	if err != nil {
		return err
	}
	if err := e.Start(ctx, r.ID, StartOptions{}); err != nil {
		return err
	}
	if !own {
		fmt.Println("started", r.ID)
	}
	if rand.IntN(3) > 0 {
		if got := <-next; got.Code != code {
			return fmt.Errorf("%s ended with %d, not %d", r.ID, got.Code, code)
		}
		fmt.Println("exited", r.ID)
	}
	if !own && rand.IntN(2) == 0 {
		fmt.Println("removing", r.ID)
		if err := e.Remove(ctx, r.ID, RemoveOptions{Force: true, Volumes: true}); err != nil {
			return err
		}
		fmt.Println("removed", r.ID)
	}
	return nil
}

func TestAKilledDaemonLosesNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	rounds := 100
	if testing.Short() {
		rounds = 30
	}
	dir := t.TempDir()
	o := killOptions(dir)
	t.Cleanup(func() { _ = osexec.Command("ip", "link", "delete", o.Network.Bridge).Run() })
	e := reopen(t, o) // closed at once; each round opens its own
	importBox(t, e)
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	var total int
	doomed := map[string]bool{} // whose removal was begun, in whatever round
	for round := range rounds {
		said := killOnce(t, dir, time.Duration(rand.IntN(150_000))*time.Microsecond)
		for id, word := range said {
			doomed[id] = doomed[id] || word == "removing"
		}
		e := reopen(t, o)
		total += checkAfterKill(t, e, said, doomed)
		last := round == rounds-1
		for _, rec := range e.Containers.List() {
			if last || rand.IntN(2) == 0 {
				err := e.Remove(t.Context(), rec.ID, RemoveOptions{Force: true, Volumes: true})
				if err != nil && !errdefs.IsNotFound(err) { // of those that remove themselves
					t.Errorf("round %d: %v", round, err)
				}
			}
		}
		if last {
			if left := e.Volumes.List(); len(left) > 0 {
				t.Errorf("%d volumes are left: %v", len(left), left)
			}
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatal("in round ", round)
		}
	}
	t.Logf("%d rounds, %d containers", rounds, total)
	nothingLeft(t, o)
	layersGone(t, e)
	childrenGone(t)
}

// killOnce runs the daemon, kills it some time after it is ready, and gives the last word on each container.
func killOnce(t *testing.T, dir string, after time.Duration) map[string]string {
	t.Helper()
	daemon := osexec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), daemonVar+"="+dir)
	daemon.Stderr = os.Stderr
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	var kill sync.Once
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, id, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ready":
			time.AfterFunc(after, func() { kill.Do(func() { _ = daemon.Process.Kill() }) })
		case "failed":
			t.Errorf("the daemon: %s", id)
		default:
			if word != "exited" || said[id] != "" {
				said[id] = word
			}
		}
	}
	_ = daemon.Wait() // it was killed
	return said
}

// checkAfterKill compares what the killed daemon had said with what the next one knows.
func checkAfterKill(t *testing.T, e *Engine, said map[string]string, doomed map[string]bool) int {
	t.Helper()
	for id, word := range said {
		rec, err := e.Containers.Get(id)
		switch {
		case word == "removed" && err == nil:
			t.Errorf("%s was removed and is back: %+v", id, rec.State)
		case (word == "created" || word == "started" || word == "exited") && err != nil:
			t.Errorf("%s was %s and is lost: %v", id, word, err)
		case (word == "started" || word == "exited") && rec.State.Status == container.Created:
			t.Errorf("%s was %s and knows nothing of it: %+v", id, word, rec.State)
		}
	}
	for _, rec := range e.Containers.List() {
		if rec.State.Status == container.Created || rec.State.Status == container.Removing {
			continue
		}
		ended, err := e.Wait(t.Context(), rec.ID, string(container.NotRunning))
		if err != nil {
			continue // removed meanwhile, by itself
		}
		want := rec.Config.Labels["code"]
		got := await(t, "the end of "+rec.ID, ended)
		if strconv.Itoa(got.Code) == want || doomed[rec.ID] && got.Code == 137 {
			continue
		}
		now, _ := e.Containers.Get(rec.ID)
		t.Errorf("%s (%s, now %+v) ended with %d, not %s", rec.ID, said[rec.ID], now.State, got.Code, want)
	}
	return len(said)
}

// layersGone finds layers that no container owns. e is closed: until then they go in the background.
func layersGone(t *testing.T, e *Engine) {
	t.Helper()
	upper, _ := e.store.Layer(strings.Repeat("0", 64))
	at := strings.Index(upper, strings.Repeat("0", 64))
	entries, err := os.ReadDir(upper[:at])
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Errorf("a layer is left: %s%s", upper[:at], entry.Name())
	}
}

// childrenGone waits until every monitor of a daemon that was killed has ended.
func childrenGone(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.ECHILD {
			return
		}
		if pid > 0 {
			continue
		}
		if time.Now().After(end) {
			t.Error("processes are left:")
			out, _ := osexec.Command("ps", "-o", "pid,args", "--ppid", strconv.Itoa(os.Getpid())).Output()
			t.Errorf("%s", out)
			return
		}
	}
}
