package container

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func open(t *testing.T, root string) *Containers {
	t.Helper()
	c, damaged, err := Open(root)
	if err != nil || len(damaged) > 0 {
		t.Fatal(err, damaged)
	}
	return c
}

func create(t *testing.T, c *Containers, name string, cfg Config) Record {
	t.Helper()
	r, err := c.Reserve(name)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := r.Commit(Record{Created: now(), Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func TestARecordSurvivesTheDaemon(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	rec := create(t, c, "web", Config{Image: "busybox"})
	if _, err := c.Apply(rec.ID, Started{Pid: 42, At: t0}); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, root).Get("web")
	if err != nil || got.State.Pid != 42 || got.State.Status != Running || got.Config.Image != "busybox" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestNames(t *testing.T) {
	c := open(t, t.TempDir())
	rec := create(t, c, "web", Config{})
	if _, err := c.Reserve("/web"); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), `"/web" is already in use`) {
		t.Errorf("a name given twice: %v", err)
	}
	for _, bad := range []string{"-x", "a b", "a/b", "ü", "x", strings.Repeat("a", 256), "../x"} {
		if _, err := c.Reserve(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	for _, ref := range []string{"web", "/web", rec.ID, rec.ID[:12], rec.ID[:4]} {
		if got, err := c.Get(ref); err != nil || got.ID != rec.ID {
			t.Errorf("Get(%q): %v", ref, err)
		}
	}
	if _, err := c.Get("nothing"); !errdefs.IsNotFound(err) || err.Error() != "No such container: nothing" {
		t.Errorf("an unknown name: %v", err)
	}
	if _, err := c.Rename(rec.ID, "shop"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("web"); !errdefs.IsNotFound(err) {
		t.Errorf("the old name still answers: %v", err)
	}
	create(t, c, "web", Config{})
	if _, err := c.Rename(rec.ID, "web"); !errdefs.IsConflict(err) {
		t.Errorf("rename to a used name: %v", err)
	}
	r, err := c.Reserve("gone")
	if err != nil {
		t.Fatal(err)
	}
	r.Cancel()
	create(t, c, "gone", Config{})
}

func TestANameIsReservedOnceUnderContention(t *testing.T) {
	c := open(t, t.TempDir())
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 32 {
		wg.Go(func() {
			if _, err := c.Reserve("one"); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d got the name", won)
	}
}

func TestDamagedRecordsAreSetAside(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	good := create(t, c, "good", Config{})
	bad := create(t, c, "bad", Config{})
	torn := create(t, c, "torn", Config{})
	if err := os.WriteFile(c.path(bad.ID), []byte(`{"version":1,"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.path(torn.ID)); err != nil { // a removal cut short
		t.Fatal(err)
	}
	again, damaged, err := Open(root)
	if err != nil || len(damaged) != 1 {
		t.Fatal(err, damaged)
	}
	if _, err := again.Get(good.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.path(bad.ID) + ".damaged"); err != nil {
		t.Error("the damaged record is gone:", err)
	}
	if _, err := os.Stat(c.Dir(torn.ID)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the rest of a removal is still there")
	}
}

func TestWaiters(t *testing.T) {
	c := open(t, t.TempDir())
	rec := create(t, c, "ww", Config{})
	ctx := context.Background()
	wait := func(cond Condition) <-chan Waited {
		ch, err := c.Wait(ctx, "ww", cond)
		if err != nil {
			t.Fatal(err)
		}
		return ch
	}
	if w := <-wait(NotRunning); w.Code != 0 {
		t.Error("a container that was never started:", w)
	}
	next, removed := wait(NextExit), wait(Removed)
	if _, err := c.Apply(rec.ID, Started{Pid: 1, At: now()}); err != nil {
		t.Fatal(err)
	}
	not := wait(NotRunning)
	if _, err := c.Apply(rec.ID, ProcessExited{Exit{Code: 9, At: now()}}); err != nil {
		t.Fatal(err)
	}
	if a, b := <-next, <-not; a.Code != 9 || b.Code != 9 {
		t.Error(a, b)
	}
	select {
	case <-removed:
		t.Error("told of the removal before it")
	default:
	}
	if err := c.Delete(rec.ID); err != nil {
		t.Fatal(err)
	}
	if w := <-removed; w.Code != 9 || w.Err != nil {
		t.Error(w)
	}
	if _, err := c.Wait(ctx, "ww", "nonsense"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(c.root, rec.ID)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the directory of a removed container is still there")
	}
}

func TestAnOlderRecordNeverReplacesANewer(t *testing.T) {
	root := t.TempDir()
	c := open(t, root)
	rec := create(t, c, "busy", Config{Restart: Restart{Name: "always"}})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				_, _ = c.Apply(rec.ID, Started{Pid: 1, At: now()})
				_, _ = c.Apply(rec.ID, ProcessExited{Exit{Code: 1, At: now().Add(time.Second)}})
			}
		})
	}
	wg.Wait()
	want, err := c.Get("busy")
	if err != nil {
		t.Fatal(err)
	}
	got, err := open(t, root).Get("busy")
	if err != nil || got.State.Restarts != want.State.Restarts || got.State.Status != want.State.Status {
		t.Errorf("on disk %+v, in memory %+v, %v", got.State, want.State, err)
	}
}
