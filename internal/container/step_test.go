package container

import (
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

var t0 = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func running(cfg Config) Record {
	return Record{ID: "c1", Name: "one", Config: cfg, State: State{Status: Running, Pid: 7, StartedAt: t0}}
}

func step(t *testing.T, r Record, f Fact) Outcome {
	t.Helper()
	o, err := Step(r, f)
	if err != nil {
		t.Fatalf("%T on a container that is %s: %v", f, r.State.Status, err)
	}
	return o
}

func exitAfter(d time.Duration, code int) ProcessExited {
	return ProcessExited{Exit{Code: code, At: t0.Add(d)}}
}

func TestAnExitIsKeptAndTold(t *testing.T) {
	o := step(t, running(Config{}), ProcessExited{Exit{Code: 3, OOMKilled: true, At: t0.Add(2 * time.Second)}})
	s := o.Record.State
	if s.Status != Exited || s.ExitCode != 3 || !s.OOMKilled || s.Pid != 0 || !s.FinishedAt.Equal(t0.Add(2*time.Second)) {
		t.Errorf("state after the exit: %+v", s)
	}
	if !o.Release || !o.Settled || o.Save != Durable || o.Remove || o.RestartAfter != 0 {
		t.Errorf("outcome: %+v", o)
	}
	if len(o.Events) != 1 || o.Events[0].Action != "die" || o.Events[0].Attributes["exitCode"] != "3" ||
		o.Events[0].Attributes["execDuration"] != "2" {
		t.Errorf("events: %+v", o.Events)
	}
}

func TestRmRemovesAfterTheExitAndIsNeverSynced(t *testing.T) {
	o := step(t, running(Config{AutoRemove: true}), exitAfter(time.Second, 0))
	if !o.Remove || o.Save != NotSaved || !o.Settled {
		t.Errorf("outcome: %+v", o)
	}
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy   Restart
		code     int
		stopped  bool
		restarts int
		again    bool
	}{
		{Restart{Name: "no"}, 1, false, 0, false},
		{Restart{}, 1, false, 0, false},
		{Restart{Name: "always"}, 0, false, 0, true},
		{Restart{Name: "always"}, 0, true, 0, false},
		{Restart{Name: "unless-stopped"}, 1, false, 0, true},
		{Restart{Name: "unless-stopped"}, 1, true, 0, false},
		{Restart{Name: "on-failure"}, 0, false, 0, false},
		{Restart{Name: "on-failure"}, 1, false, 99, true},
		{Restart{Name: "on-failure", MaxRetries: 2}, 1, false, 1, true},
		{Restart{Name: "on-failure", MaxRetries: 2}, 1, false, 2, false},
	} {
		r := running(Config{Restart: c.policy})
		r.State.Stopped, r.State.Restarts = c.stopped, c.restarts
		o := step(t, r, exitAfter(time.Second, c.code))
		if again := o.RestartAfter > 0; again != c.again {
			t.Errorf("%+v: restarts: %v, want %v", c, again, c.again)
		}
		if c.again && (o.Record.State.Status != Restarting || o.Settled) {
			t.Errorf("%+v: %+v", c, o)
		}
	}
}

func TestThePauseBeforeARestartDoublesAndIsForgottenAfterASteadyRun(t *testing.T) {
	r := running(Config{Restart: Restart{Name: "always"}})
	want := []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000}
	for i, ms := range want {
		o := step(t, r, exitAfter(time.Second, 1))
		if o.RestartAfter != ms*time.Millisecond {
			t.Fatalf("restart %d after %s, want %s", i, o.RestartAfter, ms*time.Millisecond)
		}
		s := step(t, o.Record, Starting{ByPolicy: true})
		r = step(t, s.Record, Started{Pid: 8, At: t0}).Record
		if r.State.Restarts != i+1 {
			t.Fatalf("%d restarts counted after %d", r.State.Restarts, i+1)
		}
	}
	if o := step(t, r, exitAfter(10*time.Second, 1)); o.RestartAfter != 100*time.Millisecond {
		t.Errorf("after a steady run the pause is %s", o.RestartAfter)
	}
}

func TestAStartByAPersonForgetsThePast(t *testing.T) {
	r := Record{State: State{Status: Exited, Restarts: 5, Backoff: time.Second, Stopped: true, ExitCode: 4}}
	r = step(t, r, Starting{}).Record
	r = step(t, r, Started{Pid: 9, At: t0}).Record
	if s := r.State; s.Restarts != 0 || s.Stopped || s.ExitCode != 0 || s.Status != Running {
		t.Errorf("%+v", s)
	}
}

func TestWhatCannotBe(t *testing.T) {
	for _, c := range []struct {
		status Status
		fact   Fact
		is     func(error) bool
	}{
		{Running, Starting{}, errdefs.IsNotModified},
		{Paused, Starting{}, errdefs.IsConflict},
		{Removing, Starting{}, errdefs.IsConflict},
		{Dead, Starting{}, errdefs.IsConflict},
		{Exited, PausedFact{}, errdefs.IsConflict},
		{Paused, PausedFact{}, errdefs.IsConflict},
		{Running, UnpausedFact{}, errdefs.IsConflict},
		{Running, RemoveOrdered{}, errdefs.IsConflict},
		{Paused, RemoveOrdered{}, errdefs.IsConflict},
		{Removing, RemoveOrdered{Force: true}, errdefs.IsConflict},
	} {
		r := Record{ID: "c1", Name: "one", State: State{Status: c.status}}
		o, err := Step(r, c.fact)
		if err == nil || !c.is(err) {
			t.Errorf("%T on %s: %v", c.fact, c.status, err)
		}
		if o.Record.State.Status != c.status {
			t.Errorf("%T on %s changed the state to %s", c.fact, c.status, o.Record.State.Status)
		}
	}
}

func TestAFailedStartKeepsTheReason(t *testing.T) {
	r := Record{State: State{Status: Created}, Config: Config{Restart: Restart{Name: "always"}}}
	o := step(t, r, StartFailed{Code: 127, Message: "no such program", At: t0})
	if s := o.Record.State; s.Status != Created || s.ExitCode != 127 || s.Error != "no such program" {
		t.Errorf("%+v", s)
	}
	if StartAtBoot(o.Record) {
		t.Error("a container that never ran is started at boot")
	}
}

func TestStopEndsARestartLoop(t *testing.T) {
	o := step(t, Record{State: State{Status: Restarting, ExitCode: 1}}, StopOrdered{})
	if o.Record.State.Status != Exited || !o.Settled || !o.Record.State.Stopped {
		t.Errorf("%+v", o)
	}
}

func TestAMachineThatWentDown(t *testing.T) {
	r := running(Config{Restart: Restart{Name: "unless-stopped"}})
	o := step(t, r, Lost{At: t0.Add(-time.Hour)})
	if s := o.Record.State; s.ExitCode != 255 || s.Status != Exited || s.FinishedAt.Before(s.StartedAt) {
		t.Errorf("%+v", s)
	}
	if !StartAtBoot(o.Record) {
		t.Error("unless-stopped is not started after the machine went down")
	}
	o.Record.State.Stopped = true
	if StartAtBoot(o.Record) {
		t.Error("unless-stopped is started although a person stopped it")
	}
	o.Record.Config.Restart.Name = "always"
	if !StartAtBoot(o.Record) {
		t.Error("always is not started at boot")
	}
}

func TestHealth(t *testing.T) {
	r := step(t, Record{State: State{Status: Created}, Config: Config{Health: &Health{Test: []string{"CMD", "x"}, Retries: 2}}},
		Started{Pid: 1, At: t0}).Record
	probe := func(ok, grace bool) string {
		code := 0
		if !ok {
			code = 1
		}
		o := step(t, r, HealthProbed{Probe: HealthProbe{ExitCode: code}, Healthy: ok, Grace: grace})
		r = o.Record
		if len(o.Events) > 0 {
			return o.Events[0].Action
		}
		return ""
	}
	for i, c := range []struct {
		ok, grace bool
		event     string
	}{
		{false, true, ""}, {false, true, ""}, {false, true, ""}, // failures in the start period do not count
		{true, true, "health_status: healthy"},
		{false, false, ""}, {false, false, "health_status: unhealthy"}, {false, false, ""},
		{true, false, "health_status: healthy"},
	} {
		if got := probe(c.ok, c.grace); got != c.event {
			t.Errorf("probe %d: event %q, want %q", i, got, c.event)
		}
	}
	if n := len(r.State.Health.Log); n != 5 {
		t.Errorf("%d probes kept, want the last five", n)
	}
}

func TestStepNeverChangesTheRecordItWasGiven(t *testing.T) {
	r := running(Config{Health: &Health{Test: []string{"CMD", "x"}}})
	r.State.Health = &HealthState{Status: "starting", Log: make([]HealthProbe, 1, 8)}
	before := *r.State.Health
	step(t, r, HealthProbed{Probe: HealthProbe{ExitCode: 1}})
	if r.State.Health.Failing != before.Failing || len(r.State.Health.Log) != 1 || r.State.Health.Log[:2][1].ExitCode != 0 {
		t.Error("Step wrote into its argument")
	}
}

// Whoever waits for a container that is removed by force wants the code of its end, which is still to come.
func TestARemovalByForceSettlesWithTheExit(t *testing.T) {
	r := Record{ID: "x", State: State{Status: Running, Pid: 7}}
	o, err := Step(r, RemoveOrdered{Force: true, Volumes: true})
	if err != nil || o.Settled || o.Record.State.Status != Removing || !o.Record.State.DropVolumes {
		t.Fatalf("%+v, %v", o, err)
	}
	if failed, err := Step(o.Record, RemoveFailed{Message: "stuck"}); err != nil || failed.Record.State.Status != Running {
		t.Errorf("what cannot be killed runs: %+v, %v", failed.Record.State, err)
	}
	o, err = Step(o.Record, ProcessExited{Exit{Code: 137}})
	if err != nil || !o.Settled || o.Record.State.Status != Removing || o.Record.State.Pid != 0 || !o.Record.State.DropVolumes {
		t.Fatalf("%+v, %v", o, err)
	}
	if failed, err := Step(o.Record, RemoveFailed{Message: "stuck"}); err != nil || failed.Record.State.Status != Dead {
		t.Errorf("%+v, %v", failed.Record.State, err)
	}
}
