package engine

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
)

func TestACreatedContainerRunsAndEndsAndGoes(t *testing.T) {
	e := open(t)
	id, code, out := finish(t, e, shell("echo out; echo err >&2; id -u; exit 7"))
	if code != 7 || out != "out\nerr\n0\n" && out != "out\n0\nerr\n" && out != "err\nout\n0\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
	rec, err := e.Containers.Get(id)
	if err != nil || rec.State.Status != container.Exited || rec.State.ExitCode != 7 || rec.State.Pid != 0 {
		t.Errorf("%+v, %v", rec.State, err)
	}
	start(t, e, id) // again
	if got := await(t, "the second exit", wait(t, e, id, container.NotRunning)); got.Code != 7 {
		t.Error(got)
	}
	if err := e.Remove(t.Context(), id, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Containers.Get(id); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestAContainerMadeToRemoveItselfDoes(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("exit 3", func(c *container.Config) {
		c.AutoRemove, c.Volumes = true, []string{"/seed"}
	}))
	gone := wait(t, e, id, container.Removed)
	start(t, e, id)
	if got := await(t, "the removal", gone); got.Code != 3 || got.Err != nil {
		t.Error(got)
	}
	if _, err := e.Containers.Get(id); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if left := e.Volumes.List(); len(left) != 0 {
		t.Error("its anonymous volume is left:", left)
	}
}

func TestWhatCannotRunTellsWhy(t *testing.T) {
	e := open(t)
	for _, c := range []struct {
		argv []string
		code int
	}{{[]string{"/no/such"}, 127}, {[]string{"/etc/passwd"}, 126}, {[]string{"/etc"}, 126}} {
		o := shell("")
		o.Config.Process.Cmd = c.argv
		id := create(t, e, o)
		if err := e.Start(t.Context(), id, StartOptions{}); err == nil {
			t.Errorf("%v runs", c.argv)
		}
		rec, err := e.Containers.Get(id)
		if err != nil || rec.State.Status != container.Created || rec.State.ExitCode != c.code || rec.State.Error == "" {
			t.Errorf("%v: %+v, %v", c.argv, rec.State, err)
		}
	}
	for _, bad := range []func(*container.Config){
		func(c *container.Config) { c.Log.Driver = "telegraph" },
		func(c *container.Config) { c.Log.Options = container.Map{"max-size": "tiny"} },
		func(c *container.Config) { c.Runtime = "sail" },
		func(c *container.Config) { c.Security.IpcMode = "container:nobody" },
		func(c *container.Config) {
			c.Mounts = []container.Mount{{Type: "bind", Source: "/no/such", Target: "/a"}}
		},
		func(c *container.Config) {
			c.Mounts = []container.Mount{{Type: "volume", Source: "a1", Target: "/a"}, {Type: "volume", Source: "b1", Target: "/a/"}}
		},
		func(c *container.Config) { c.Health = &container.Health{Test: []string{"TELEPATHY", "x"}} },
		func(c *container.Config) { c.Extra.StorageOpt = container.Map{"size": "huge"} },
		func(c *container.Config) { c.Net.Links = []string{"a:b"} },
	} {
		o := shell("true", bad)
		if r, err := e.Create(t.Context(), o); err == nil {
			t.Errorf("created: %+v", o.Config)
			_ = e.Remove(t.Context(), r.ID, RemoveOptions{})
		}
	}
}

func TestARestartPolicyStartsAgainWithPauses(t *testing.T) {
	e := open(t)
	ch := events(t, e)
	id := create(t, e, shell("exit 4", func(c *container.Config) { c.Restart = container.Restart{Name: "on-failure", MaxRetries: 3} }))
	begin := time.Now()
	start(t, e, id)
	for range 4 {
		if ev := awaitEvent(t, ch, "die"); ev.Attributes["exitCode"] != "4" {
			t.Error(ev)
		}
	}
	over := wait(t, e, id, container.NotRunning)
	if got := await(t, "the last exit", over); got.Code != 4 {
		t.Error(got)
	}
	if took := time.Since(begin); took < 700*time.Millisecond { // 100, 200 and 400
		t.Error("four runs took", took)
	}
	rec, err := e.Containers.Get(id)
	if err != nil || rec.State.Restarts != 3 || rec.State.Status != container.Exited {
		t.Errorf("%+v, %v", rec.State, err)
	}
}

func TestStoppingEndsARestart(t *testing.T) {
	e := open(t)
	ch := events(t, e)
	id := create(t, e, shell("exit 1", func(c *container.Config) { c.Restart.Name = "always" }))
	start(t, e, id)
	awaitEvent(t, ch, "die")
	awaitEvent(t, ch, "die")
	if err := e.Stop(t.Context(), id, StopOptions{}); err != nil && !errdefs.IsNotModified(err) {
		t.Fatal(err)
	}
	if rec, err := e.Containers.Get(id); err != nil || rec.State.Status != container.Exited {
		t.Errorf("%+v, %v", rec.State, err)
	}
}

func TestStopSignalsThenKills(t *testing.T) {
	e := open(t)
	polite := create(t, e, shell("trap 'exit 9' TERM; touch /up; while true; do sleep 0.05; done"))
	rude := create(t, e, shell("trap '' TERM; touch /up; while true; do sleep 0.05; done"))
	for id, c := range map[string]struct{ code, patience int }{polite: {9, -1}, rude: {137, 1}} {
		start(t, e, id)
		up(t, e, id)
		begin := time.Now()
		if err := e.Stop(t.Context(), id, StopOptions{Timeout: &c.patience}); err != nil {
			t.Fatal(err)
		}
		took := time.Since(begin)
		rec, err := e.Containers.Get(id)
		if err != nil || rec.State.ExitCode != c.code || took < time.Duration(c.patience)*time.Second {
			t.Errorf("after %s: %+v, %v", took, rec.State, err)
		}
		if err := e.Stop(t.Context(), id, StopOptions{}); !errdefs.IsNotModified(err) {
			t.Error("stopping it again:", err)
		}
	}
}

// Whoever stops or kills a container in the very moment of its own end must not wait for another one, which does not come.
func TestStoppingWhatIsEndingTakesNoTime(t *testing.T) {
	e := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	never := -1
	for i := range 30 {
		id := create(t, e, shell("exit 5"))
		start(t, e, id)
		time.Sleep(time.Duration(i) * 200 * time.Microsecond)
		var err error
		if i%2 == 0 {
			err = e.Stop(ctx, id, StopOptions{Timeout: &never})
		} else {
			err = e.Kill(ctx, id, "")
		}
		if err != nil && !errdefs.IsNotModified(err) && !errdefs.IsConflict(err) {
			t.Errorf("round %d: %v", i, err)
		}
		if rec, err := e.Containers.Get(id); err != nil || rec.State.Status != container.Exited {
			t.Fatalf("round %d: it is over, and %+v, %v", i, rec.State, err)
		}
		if err := e.Remove(t.Context(), id, RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAttachBeforeTheStartGetsTheFirstByte(t *testing.T) {
	e := open(t)
	for i := range 20 {
		want := fmt.Sprint("first ", i, "\n")
		id, code, out := finish(t, e, shell("printf '"+strings.TrimSpace(want)+"\\n'"))
		if code != 0 || out != want {
			t.Fatalf("round %d: %d %q", i, code, out)
		}
		if err := e.Remove(t.Context(), id, RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// A client that comes while the container is being started must be served, not kept for the next start.
func TestAttachDuringTheStartIsServed(t *testing.T) {
	e := open(t)
	for i := range 20 {
		id := create(t, e, shell("until test -f /go; do sleep 0.01; done; echo done"))
		stream := make(chan (<-chan string), 1)
		go func() {
			time.Sleep(time.Duration(i) * 300 * time.Microsecond)
			stream <- attach(t, e, id, AttachOptions{Stream: true, Stdout: true})
		}()
		start(t, e, id)
		out := await(t, "the attachment", stream)
		// The container may end before touch has, and take it along: its file is there all the same.
		if code, _ := run(t, e, id, "touch", "/go"); code != 0 && code != 137 {
			t.Fatal(code)
		}
		if got := await(t, "the output", out); got != "done\n" {
			t.Errorf("round %d: %q", i, got)
		}
		if err := e.Remove(t.Context(), id, RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRemovingLetsWaitingClientsGo(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("true"))
	out := attach(t, e, id, AttachOptions{Stream: true, Stdout: true})
	if err := e.Remove(t.Context(), id, RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of the stream", out)
}

func TestExecsTellTheirCodesAndOutput(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("while true; do sleep 1; done"))
	start(t, e, id)
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	for i := range rounds {
		code, out := run(t, e, id, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))
		if code != i || out != fmt.Sprint(i, "\n") {
			t.Fatalf("round %d: %d, %q", i, code, out)
		}
	}
	if code, _ := run(t, e, id, "/bin/sh", "-c", "kill -9 $$"); code != 137 {
		t.Error("a killed exec:", code)
	}
	execID, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: []string{"/no/such"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Execs.Start(t.Context(), execID, ExecStartOptions{Detach: true}, nil); err == nil {
		t.Error("it runs")
	}
	if rec, err := e.Execs.Inspect(t.Context(), execID); err != nil || rec.ExitCode == nil || *rec.ExitCode != 127 {
		t.Errorf("%+v, %v", rec, err)
	}
	// One that runs when the container is killed dies with it.
	long, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: []string{"sleep", "100"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Execs.Start(t.Context(), long, ExecStartOptions{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Kill(t.Context(), id, "KILL"); err != nil {
		t.Fatal(err)
	}
	if rec, err := e.Execs.Inspect(t.Context(), long); err != nil || rec.Running || rec.ExitCode == nil || *rec.ExitCode != 137 {
		t.Errorf("%+v, %v", rec, err)
	}
}

func TestAForcedRemovalTellsTheRealExitCode(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("trap '' TERM; while true; do sleep 1; done"))
	start(t, e, id)
	stopped, next := wait(t, e, id, container.NotRunning), wait(t, e, id, container.NextExit)
	if err := e.Remove(t.Context(), id, RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, ch := range []<-chan container.Waited{stopped, next} {
		if got := await(t, "the exit", ch); got.Code != 137 {
			t.Error(got)
		}
	}
}

func TestOneNameForOneOfMany(t *testing.T) {
	e := open(t)
	const many = 20
	var mu sync.Mutex
	var won []string
	var all sync.WaitGroup
	for range many {
		all.Go(func() {
			o := shell("true")
			o.Name = "mine"
			r, err := e.Create(t.Context(), o)
			if err != nil && !errdefs.IsConflict(err) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				won = append(won, r.ID)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatal("the name went to", won)
	}
	other := create(t, e, shell("true"))
	var renamed int
	for _, id := range []string{other, create(t, e, shell("true"))} {
		all.Go(func() {
			err := e.Rename(t.Context(), id, "yours")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				renamed++
			} else if !errdefs.IsConflict(err) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if renamed != 1 {
		t.Error(renamed, "containers are called yours")
	}
	if err := e.Rename(t.Context(), "yours", "mine"); !errdefs.IsConflict(err) {
		t.Error(err)
	}
	if err := e.Remove(t.Context(), "mine", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Rename(t.Context(), "yours", "mine"); err != nil {
		t.Error("the name of a removed container:", err)
	}
}

func TestOutOfMemoryIsTold(t *testing.T) {
	e := open(t)
	ch := events(t, e)
	id := create(t, e, shell("dd if=/dev/zero of=/dev/null bs=60M count=1; tail /dev/zero", func(c *container.Config) {
		c.Limits.Memory, c.Limits.MemorySwap = 16<<20, 16<<20
	}))
	start(t, e, id)
	awaitEvent(t, ch, "oom")
	got := await(t, "the exit", wait(t, e, id, container.NotRunning))
	rec, err := e.Containers.Get(id)
	if err != nil || !rec.State.OOMKilled || got.Code == 0 {
		t.Errorf("%+v %+v %v", got, rec.State, err)
	}
}

func TestHealthIsProbed(t *testing.T) {
	e := open(t)
	ch := events(t, e)
	id := create(t, e, shell("sleep 0.2; touch /well; while true; do sleep 1; done", func(c *container.Config) {
		c.Health = &container.Health{Test: []string{"CMD-SHELL", "test -f /well && echo fine"}, Interval: 50 * time.Millisecond,
			Timeout: 2 * time.Minute, Retries: 2}
	}))
	start(t, e, id)
	awaitEvent(t, ch, "health_status: healthy")
	rec, err := e.Containers.Get(id)
	if err != nil || rec.State.Health == nil || rec.State.Health.Status != "healthy" || len(rec.State.Health.Log) == 0 ||
		rec.State.Health.Log[len(rec.State.Health.Log)-1].Output != "fine\n" {
		t.Errorf("%+v, %v", rec.State.Health, err)
	}
	if code, _ := run(t, e, id, "rm", "/well"); code != 0 {
		t.Fatal(code)
	}
	awaitEvent(t, ch, "health_status: unhealthy")
	if err := e.Kill(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
}

func TestAProbeThatHangsIsKilled(t *testing.T) {
	e := open(t)
	ch := events(t, e)
	id := create(t, e, shell("while true; do sleep 1; done", func(c *container.Config) {
		c.Health = &container.Health{Test: []string{"CMD", "sleep", "77"}, Interval: 20 * time.Millisecond,
			Timeout: 100 * time.Millisecond, Retries: 1}
	}))
	start(t, e, id)
	awaitEvent(t, ch, "health_status: unhealthy")
	// One that was killed is listed until its end is told, and the next may have begun.
	for end := time.Now().Add(2 * time.Minute); len(e.Execs.List(id)) > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("probes that are left:", e.Execs.List(id))
		}
	}
}

func TestPausedStandsStill(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("trap 'exit 6' TERM; touch /up; while true; do sleep 0.05; done"))
	start(t, e, id)
	up(t, e, id)
	if err := e.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.Pause(t.Context(), id); !errdefs.IsConflict(err) {
		t.Error("pausing it again:", err)
	}
	if _, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: []string{"true"}}); !errdefs.IsConflict(err) {
		t.Error("an exec in it:", err)
	}
	if err := e.Unpause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := e.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	never := -1
	if err := e.Stop(t.Context(), id, StopOptions{Timeout: &never}); err != nil {
		t.Fatal(err)
	}
	if rec, err := e.Containers.Get(id); err != nil || rec.State.ExitCode != 6 {
		t.Errorf("stopped while paused: %+v, %v", rec.State, err)
	}
}

func TestSharedNamespaces(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("hostname; while true; do sleep 1; done", func(c *container.Config) { c.Hostname = "flagship" }))
	start(t, e, id)
	_, code, out := finish(t, e, shell("hostname; kill -0 1 && cat /etc/hostname; ls -l /proc/1/exe >/dev/null", func(c *container.Config) {
		c.Net.Mode, c.Security.PidMode = "container:"+id, "container:"+id
	}))
	if code != 0 || out != "flagship\nflagship\n" {
		t.Errorf("%d, %q", code, out)
	}
}

func TestAProfileWithFlagsIsLoaded(t *testing.T) {
	e := open(t)
	_, code, out := finish(t, e, shell("grep Seccomp: /proc/self/status", func(c *container.Config) {
		c.Security.Seccomp = `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],
			"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`
	}))
	if code != 0 || out != "Seccomp:\t2\n" {
		t.Errorf("%d %q", code, out)
	}
}

func TestAForcedRemovalDoesNotWaitForAPatientStop(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("trap '' TERM; touch /up; while true; do sleep 0.05; done"))
	start(t, e, id)
	up(t, e, id)
	ch := events(t, e)
	stopped := make(chan error, 1)
	never := -1
	go func() { stopped <- e.Stop(context.Background(), id, StopOptions{Timeout: &never}) }()
	awaitEvent(t, ch, "kill")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := e.Remove(ctx, id, RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	await(t, "the stop", stopped)
}

func TestTheDaemonsDefaultsHold(t *testing.T) {
	e := open(t, func(o *Options) { o.ShmSize, o.NoNewPrivs = 1<<20, true })
	_, code, out := finish(t, e, shell("grep ' /dev/shm ' /proc/mounts | grep -c size=1024k; grep NoNewPrivs /proc/self/status"))
	if code != 0 || out != "1\nNoNewPrivs:\t1\n" {
		t.Errorf("%d %q", code, out)
	}
}

// What an earlier daemon started, its client asks the next one about.
func TestExitCodesOfExecsOutliveTheDaemon(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	o := options(t.TempDir())
	e := reopen(t, o)
	importBox(t, e)
	id := create(t, e, shell("while true; do sleep 1; done"))
	start(t, e, id)
	execID, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: []string{"sh", "-c", "until test -f /up; do sleep 0.01; done; exit 42"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Execs.Start(t.Context(), execID, ExecStartOptions{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := reopen(t, o)
	atEnd(t, next, o)
	ch := events(t, next)
	if code, _ := run(t, next, id, "touch", "/up"); code != 0 {
		t.Fatal(code)
	}
	for awaitEvent(t, ch, "exec_die").Attributes["execID"] != execID {
	}
	if rec, err := next.Execs.Inspect(t.Context(), execID); err != nil || rec.ExitCode == nil || *rec.ExitCode != 42 {
		t.Errorf("%+v, %v", rec, err)
	}
}

func TestSharedMemoryBetweenContainers(t *testing.T) {
	e := open(t)
	donor := create(t, e, shell("echo from the donor >/dev/shm/note; touch /up; while true; do sleep 1; done", func(c *container.Config) {
		c.Security.IpcMode, c.ShmSize = "shareable", 1<<20
	}))
	start(t, e, donor)
	up(t, e, donor)
	rec, err := e.Containers.Get(donor)
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", rec.State.Pid))
	if err != nil {
		t.Fatal(err)
	}
	guest, code, out := finish(t, e, shell("ls -l /proc/self/ns/ipc; cat /dev/shm/note; grep ' /dev/shm ' /proc/mounts; echo from the guest >/dev/shm/answer",
		func(c *container.Config) { c.Security.IpcMode = "container:" + donor[:12] }))
	lines := strings.SplitN(out, "\n", 3)
	if code != 0 || len(lines) < 3 || !strings.HasSuffix(lines[0], own) || lines[1] != "from the donor" ||
		!strings.Contains(lines[2], "tmpfs rw,nosuid,nodev,noexec") || !strings.Contains(lines[2], "size=1024k") {
		t.Errorf("%d %q, the donor's namespace is %q", code, out, own)
	}
	if _, out := run(t, e, donor, "cat", "/dev/shm/answer"); out != "from the guest\n" {
		t.Errorf("the donor reads %q", out)
	}

	// One that did not offer it, and one that has ended.
	alone := create(t, e, shell("while true; do sleep 1; done"))
	start(t, e, alone)
	for ref, text := range map[string]string{alone: "non-shareable IPC", guest: "is not running"} {
		id := create(t, e, shell("true", func(c *container.Config) { c.Security.IpcMode = "container:" + ref }))
		if err := e.Start(t.Context(), id, StartOptions{}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("IPC of %s: %v, want %q", ref, err, text)
		}
	}
}

// A client is told that it is attached a moment before it is, and may have the container started in that moment.
func TestAStartWaitsForWhoIsBeingAttached(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("echo all of it"))
	near, opener := connection(t)
	started := make(chan error, 1)
	err := e.Attach(t.Context(), id, AttachOptions{Stream: true, Stdout: true}, func() (net.Conn, []byte, error) {
		ended := wait(t, e, id, container.NextExit)
		go func() { started <- e.Start(context.Background(), id, StartOptions{}) }()
		select { // a start that does not wait is over by then
		case <-ended:
		case <-time.After(500 * time.Millisecond):
		}
		return opener()
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := await(t, "the start", started); err != nil {
		t.Fatal(err)
	}
	if out := await(t, "the output", plain(near)); out != "all of it\n" {
		t.Errorf("%q", out)
	}
}
