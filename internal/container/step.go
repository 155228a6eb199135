package container

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Fact is something that happened to a container, or that a person ordered. Each is one of the types below.
type Fact interface{ fact() }

type (
	// Starting asks whether the container may be started now. It changes nothing but the restart counters.
	Starting struct{ ByPolicy bool }
	// Started says that the first process runs.
	Started struct {
		Pid, MonitorPid int
		At              time.Time
		Endpoints       []Attached
		Published       []Published
	}
	// StartFailed says that there was no first process; Code is 125, 126, 127 or 128.
	StartFailed struct {
		Code    int
		Message string
		At      time.Time
	}
	// PausedFact and UnpausedFact say that the container was frozen and thawed.
	PausedFact   struct{}
	UnpausedFact struct{}
	// StopOrdered says that a person wants the container ended.
	StopOrdered struct{}
	// ProcessExited says that the first process ended.
	ProcessExited struct{ Exit Exit }
	// Lost says that the container was running when the machine went down, and nothing of it is left.
	Lost struct{ At time.Time }
	// RemoveOrdered and RemoveFailed are the two ends of a removal that still needs the record.
	RemoveOrdered struct{ Force, Volumes bool }
	RemoveFailed  struct{ Message string }
	// OOMSeen says that the kernel killed a process of the container for want of memory.
	OOMSeen struct{}
	// HealthProbed is the outcome of one health check.
	HealthProbed struct {
		Probe   HealthProbe
		Healthy bool
		// Grace says that failures do not count yet.
		Grace bool
	}
)

func (Starting) fact()      {}
func (Started) fact()       {}
func (StartFailed) fact()   {}
func (PausedFact) fact()    {}
func (UnpausedFact) fact()  {}
func (StopOrdered) fact()   {}
func (ProcessExited) fact() {}
func (Lost) fact()          {}
func (RemoveOrdered) fact() {}
func (RemoveFailed) fact()  {}
func (OOMSeen) fact()       {}
func (HealthProbed) fact()  {}

// Outcome is what must follow a fact.
type Outcome struct {
	Record Record
	// Save says how the new record is to be kept.
	Save Saving
	// Events are published in this order, after saving.
	Events []Event
	// Release says that network, ports and mounts of the dead container must be given back.
	Release bool
	// Remove says that the container must now be removed, because it was made with --rm.
	Remove bool
	// RestartAfter is the pause before an automatic start; zero means none.
	RestartAfter time.Duration
	// Settled says that waiters for "not-running" can be told.
	Settled bool
}

// Event is an action as the events API names it, with the attributes that only Step knows.
type Event struct {
	Action     string
	Attributes map[string]string
}

// Saving is how much a record is worth.
type Saving int

// A record is not written, written so that it survives the daemon, or synced so that it survives the machine.
const (
	NotSaved Saving = iota
	Volatile
	Durable
)

// The pause before an automatic restart doubles from backoffFirst to backoffMost, and starts again for a container that
// ran for at least steadyRun: Docker's figures.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = time.Minute
	steadyRun    = 10 * time.Second
	healthLog    = 5
)

// Step says what follows when fact happens to r. It has no side effects. The error, if any, wraps an errdefs kind and
// means that the fact cannot be: nothing changes.
func Step(r Record, fact Fact) (Outcome, error) {
	o := Outcome{Record: r}
	s := &o.Record.State
	switch f := fact.(type) {
	case Starting:
		return o, mayStart(r, f, &o)
	case Started:
		*s = State{Status: Running, Pid: f.Pid, MonitorPid: f.MonitorPid, StartedAt: f.At, FinishedAt: s.FinishedAt,
			Restarts: s.Restarts, Backoff: s.Backoff}
		if h := r.Config.Health; h != nil && len(h.Test) > 0 && h.Test[0] != "NONE" {
			s.Health = &HealthState{Status: "starting"}
		}
		o.Record.Endpoints, o.Record.Published = f.Endpoints, f.Published
		o.Save = Volatile
		o.Events = []Event{{Action: "start"}}
	case StartFailed:
		*s = State{Status: s.Status, ExitCode: f.Code, Error: f.Message, StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
			Stopped: true}
		if s.Status == Restarting {
			s.Status = Exited
		}
		o.Save, o.Release, o.Settled = Durable, true, true
		if r.Config.AutoRemove {
			o.Save, o.Remove = NotSaved, true
		}
	case PausedFact:
		if s.Status != Running {
			return o, conflict("container %s is not running", r.ID)
		}
		s.Status, o.Save, o.Events = Paused, Volatile, []Event{{Action: "pause"}}
	case UnpausedFact:
		if s.Status != Paused {
			return o, conflict("container %s is not paused", r.ID)
		}
		s.Status, o.Save, o.Events = Running, Volatile, []Event{{Action: "unpause"}}
	case StopOrdered:
		s.Stopped = true
		if s.Status == Restarting {
			s.Status, o.Settled, o.Save = Exited, true, Durable
		} else if s.Alive() && r.Config.Restart.Name != "" && r.Config.Restart.Name != "no" {
			o.Save = Volatile // a daemon killed before the exit must not start it again
		}
	case ProcessExited:
		stepExit(r, f, &o)
	case Lost:
		ended := f.At
		if ended.Before(s.StartedAt) {
			ended = s.StartedAt
		}
		stepExit(r, ProcessExited{Exit{Code: 255, At: ended, Error: "the machine went down while the container ran"}}, &o)
		o.RestartAfter = 0 // the daemon's start decides, by StartAtBoot
		if s.Status == Restarting {
			s.Status, s.Restarts, s.Backoff = Exited, 0, 0
		}
	case RemoveOrdered:
		if s.Status == Removing {
			return o, conflict("removal of container %s is already in progress", r.ID)
		}
		if s.Alive() && !f.Force {
			return o, removeRunning(r)
		}
		// What still has a process is settled by its exit, which brings the code that waiters want.
		o.Settled = !s.Alive()
		s.Status, s.Stopped, s.DropVolumes = Removing, true, f.Volumes
		if !r.Config.AutoRemove {
			o.Save = Volatile
		}
	case RemoveFailed:
		s.Status, s.Error, o.Save = Dead, f.Message, Volatile
		if s.Pid != 0 { // it could not be killed
			s.Status = Running
		}
	case OOMSeen:
		o.Events = []Event{{Action: "oom"}}
	case HealthProbed:
		stepHealth(r, f, &o)
	default:
		return o, fmt.Errorf("container %s: unknown fact %T: %w", r.ID, fact, errdefs.ErrInternal)
	}
	return o, nil
}

func mayStart(r Record, f Starting, o *Outcome) error {
	switch r.State.Status {
	case Running:
		return fmt.Errorf("container %s is already running%w", r.ID, kind{errdefs.ErrNotModified})
	case Paused:
		return conflict("cannot start a paused container, try unpause instead")
	case Removing, Dead:
		return conflict("container is marked for removal and cannot be started")
	}
	if f.ByPolicy {
		if r.State.Stopped {
			return conflict("container %s was stopped by its user", r.ID)
		}
	} else {
		o.Record.State.Restarts, o.Record.State.Backoff = 0, 0
	}
	return nil
}

func stepExit(r Record, f ProcessExited, o *Outcome) {
	s := &o.Record.State
	ran := f.Exit.At.Sub(s.StartedAt)
	*s = State{Status: Exited, ExitCode: f.Exit.Code, Error: f.Exit.Error, OOMKilled: f.Exit.OOMKilled,
		StartedAt: s.StartedAt, FinishedAt: f.Exit.At, Stopped: s.Stopped, Restarts: s.Restarts, Backoff: s.Backoff,
		Health: s.Health}
	o.Release, o.Settled, o.Save = true, true, Durable
	o.Events = []Event{{Action: "die", Attributes: map[string]string{
		"exitCode":     fmt.Sprint(f.Exit.Code),
		"execDuration": fmt.Sprint(int64(max(ran, 0).Seconds())),
	}}}
	if r.State.Status == Removing { // removed by force: the remover goes on from here
		s.Status, s.DropVolumes, o.Save, o.Settled = Removing, r.State.DropVolumes, NotSaved, true
		return
	}
	if wantsRestart(r, f.Exit.Code) {
		if ran >= steadyRun || s.Backoff == 0 {
			s.Backoff = backoffFirst
		} else {
			s.Backoff = min(2*s.Backoff, backoffMost)
		}
		s.Status, s.Restarts, o.RestartAfter = Restarting, s.Restarts+1, s.Backoff
		o.Save = Volatile
		o.Settled = false
		return
	}
	if r.Config.AutoRemove {
		o.Remove, o.Save = true, NotSaved
	}
}

// wantsRestart applies the restart policy to an exit that was not ordered.
func wantsRestart(r Record, code int) bool {
	if r.State.Stopped {
		return false
	}
	switch r.Config.Restart.Name {
	case "always", "unless-stopped":
		return true
	case "on-failure":
		most := r.Config.Restart.MaxRetries
		return code != 0 && (most == 0 || r.State.Restarts < most)
	}
	return false
}

// StartAtBoot says whether the daemon, when it starts, must start this container, which has no process.
func StartAtBoot(r Record) bool {
	switch r.Config.Restart.Name {
	case "always":
		return r.State.Status != Created && r.State.Status != Removing && r.State.Status != Dead
	case "unless-stopped":
		return r.State.Status != Created && r.State.Status != Removing && r.State.Status != Dead && !r.State.Stopped
	case "on-failure":
		return r.State.Status == Restarting || (r.State.Status == Exited && r.State.ExitCode != 0 && !r.State.Stopped &&
			(r.Config.Restart.MaxRetries == 0 || r.State.Restarts < r.Config.Restart.MaxRetries))
	}
	return false
}

func stepHealth(r Record, f HealthProbed, o *Outcome) {
	old := r.State.Health
	if old == nil || r.State.Status != Running {
		return
	}
	h := HealthState{Status: old.Status, Failing: old.Failing}
	log := append(append([]HealthProbe(nil), old.Log...), f.Probe)
	h.Log = log[max(0, len(log)-healthLog):]
	retries := r.Config.Health.Retries
	if retries <= 0 {
		retries = 3
	}
	switch {
	case f.Healthy:
		h.Status, h.Failing = "healthy", 0
	case f.Grace && old.Status == "starting":
	default:
		h.Failing++
		if h.Failing >= retries {
			h.Status = "unhealthy"
		}
	}
	o.Record.State.Health = &h
	if h.Status != old.Status {
		o.Events = []Event{{Action: "health_status: " + h.Status}}
	}
}

func removeRunning(r Record) error {
	hint := "stop the container before removing or force remove"
	if r.State.Status == Paused {
		hint = "unpause and then " + hint
	}
	return conflict("cannot remove container %q: container is %s: %s", "/"+r.Name, r.State.Status, hint)
}

func conflict(format string, args ...any) error {
	return fmt.Errorf(format+"%w", append(args, kind{errdefs.ErrConflict})...)
}

// kind lets an error carry an errdefs kind without its words, so that the text is exactly the sentence.
type kind struct{ error }

func (kind) Error() string   { return "" }
func (k kind) Unwrap() error { return k.error }
