package engine

import (
	"context"
	"os"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/monitor"
)

// watch follows a running container until it exits or the engine closes. gone is closed when everything the run held has
// been given back.
func (e *Engine) watch(l *live, id string, c *monitor.Client, gone chan struct{}) {
	e.startHealth(l, id, c)
	ok := e.background(func() {
		for {
			select {
			case ev, open := <-c.Events():
				if !open {
					e.monitorGone(l, id, gone)
					return
				}
				switch ev.Kind {
				case monitor.EventExit:
					e.exited(l, id, ev.Exit, gone)
					return
				case monitor.EventExecExit:
					e.Execs.exited(id, ev.ExecID, ev.Exit.Code)
				case monitor.EventOOM:
					e.apply(id, container.OOMSeen{})
				case monitor.EventDetach:
					e.detached(id, ev.ExecID)
				}
			case <-e.ctx.Done():
				return
			}
		}
	})
	if !ok {
		_ = c.Close()
	}
}

// monitorGone handles the end of the conversation without an exit event: the record the monitor left tells, and without
// one the container was killed together with its monitor.
func (e *Engine) monitorGone(l *live, id string, gone chan struct{}) {
	if e.ctx.Err() != nil {
		return
	}
	if c, err := monitor.Dial(e.ctx, e.runDir(id)); err == nil { // it only dropped us
		l.mu.Lock()
		l.client = c
		l.mu.Unlock()
		e.watch(l, id, c, gone)
		return
	}
	exit, err := monitor.ReadExit(e.runDir(id))
	if err != nil {
		e.log.Error("the monitor of a container has died without a word", "container", id, "error", err)
		exit = &monitor.Exit{Code: 137, FinishedAt: time.Now().UTC(), Error: "the container's monitor was killed"}
		e.killOrphan(id)
	}
	e.exited(l, id, *exit, gone)
}

// killOrphan ends what a dead monitor left behind.
func (e *Engine) killOrphan(id string) {
	rec, err := e.Containers.Get(id)
	if err != nil {
		return
	}
	g := e.cgroups.Open(e.cgroupPath(rec))
	if err := g.KillAll(); err != nil {
		e.log.Error("kill what is left of a container", "container", id, "error", err)
	}
	if err := g.Delete(); err != nil {
		e.log.Error("remove the cgroup of a container", "container", id, "error", err)
	}
}

// exited turns the end of a container into its record, events and what the policy says, and gives back what the run held.
func (e *Engine) exited(l *live, id string, x monitor.Exit, gone chan struct{}) {
	l.mu.Lock()
	c, health := l.client, l.health
	l.client, l.health = nil, nil
	l.mu.Unlock()
	if health != nil {
		health()
	}
	if c != nil {
		_ = c.Close()
	}
	// The run directory holds the exit record: it goes once the record has it.
	o, err := e.Containers.Apply(id, container.ProcessExited{Exit: container.Exit{Code: x.Code, OOMKilled: x.OOMKilled,
		At: x.FinishedAt, Error: x.Error}})
	if err != nil {
		e.log.Error("save the exit", "container", id, "error", err)
	}
	for _, ev := range o.Events {
		e.publish(o.Record, ev.Action, ev.Attributes)
	}
	e.Execs.forgetRuns(id)
	// A container that removes itself saves no exit: the monitor's record must stay until the removal is done.
	e.giveBack(o.Record, !o.Remove)
	close(gone)
	switch {
	case o.Remove:
		e.background(func() { e.autoRemove(id) })
	case o.RestartAfter > 0:
		e.restartAfter(l, id, o.RestartAfter)
	default:
		e.launcher.Prepare()
	}
}

// giveBack returns the network of a container that has ended, and its run directory if that has told all.
func (e *Engine) giveBack(rec container.Record, told bool) {
	ctx, cancel := undoContext(e.ctx)
	defer cancel()
	if err := e.Networks.Detach(ctx, rec.ID); err != nil {
		e.log.Error("give back the network", "container", rec.ID, "error", err)
	}
	e.publishNetworks("disconnect", rec)
	if !told {
		return
	}
	if err := os.RemoveAll(e.runDir(rec.ID)); err != nil {
		e.log.Error("remove the run directory", "container", rec.ID, "error", err)
	}
}

// restartAfter starts the container again, after the pause its policy asks for.
func (e *Engine) restartAfter(l *live, id string, pause time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.restart = time.AfterFunc(pause, func() {
		e.background(func() { e.startByPolicy(id) })
	})
}

func (e *Engine) startByPolicy(id string) {
	ctx, cancel := context.WithCancel(e.ctx)
	defer cancel()
	l, rec, err := e.acquire(ctx, id)
	if err != nil {
		return // removed meanwhile
	}
	defer l.release()
	if rec.State.Alive() || rec.State.Stopped && rec.State.Status != container.Restarting {
		return
	}
	if err := e.start(ctx, l, rec, true); err != nil && e.ctx.Err() == nil {
		e.log.Error("automatic start", "container", id, "error", err)
	}
}

// apply lets a fact happen that nobody waits for, and publishes what follows.
func (e *Engine) apply(id string, f container.Fact) {
	o, err := e.Containers.Apply(id, f)
	if err != nil {
		return
	}
	for _, ev := range o.Events {
		e.publish(o.Record, ev.Action, ev.Attributes)
	}
}
