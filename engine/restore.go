package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
)

// restore makes the engine agree with what it finds: containers whose monitors live are taken back, the exit codes of
// those that ended meanwhile are noted, what a crash cut short is swept up, and the restart policies are carried out.
func (e *Engine) restore(ctx context.Context) error {
	type ended struct {
		id   string
		fact container.Fact
	}
	var live []network.Live
	var over []ended
	var removing []string // they run, and their removal was cut short
	var clients = map[string]*monitor.Client{}
	known := map[string]bool{}

	records := e.Containers.List()
	for _, rec := range records {
		known[rec.ID] = true
		for _, v := range rec.Volumes {
			if err := e.Volumes.Claim(v.Name, rec.ID); err != nil {
				e.log.Error("a container's volume is gone", "container", rec.ID, "volume", v.Name)
			}
		}
		dir := e.runDir(rec.ID)
		c, err := dialOrDissolve(ctx, dir)
		switch {
		case err == nil:
			clients[rec.ID] = c
			if !rec.State.Alive() { // killed between the start and its record
				if note, err := readNote(c.Info().Note, dir); err == nil {
					rec.Endpoints, rec.Published = note.Endpoints, note.ports()
				}
			}
			if rec.State.Status == container.Removing {
				removing = append(removing, rec.ID)
			}
			live = append(live, network.Live{ContainerID: rec.ID, Name: rec.Name, Hostname: rec.Config.Hostname, Pid: c.Info().Pid,
				Endpoints: retained(rec), Ports: retainedPorts(rec),
				DNS: first(rec.Config.Net.DNS, e.opts.DNS), Trusted: ownsItsNetwork(rec.Config.Security), Peers: e.peers(rec)})
		case rec.State.Alive() || rec.State.Pid != 0 || hasExit(dir):
			exit, err := monitor.ReadExit(dir)
			if err != nil {
				e.killOrphan(rec.ID)
				over = append(over, ended{rec.ID, container.Lost{At: time.Now().UTC()}})
				continue
			}
			over = append(over, ended{rec.ID, container.ProcessExited{Exit: container.Exit{Code: exit.Code,
				OOMKilled: exit.OOMKilled, At: exit.FinishedAt, Error: exit.Error}}})
		case exists(dir): // its monitor was killed with the daemon, before the start was noted
			e.killOrphan(rec.ID)
			if err := os.RemoveAll(dir); err != nil {
				e.log.Error("remove the run directory", "container", rec.ID, "error", err)
			}
		}
	}
	if err := e.Networks.Retain(ctx, live); err != nil {
		return err
	}
	for id, c := range clients {
		e.takeBack(id, c)
		e.settleNetwork(id)
	}
	for _, id := range removing {
		e.background(func() { e.finishRemoval(id) })
	}
	for _, x := range over {
		o, err := e.Containers.Apply(x.id, x.fact)
		if err != nil {
			return err
		}
		for _, ev := range o.Events {
			e.publish(o.Record, ev.Action, ev.Attributes)
		}
		if !o.Remove {
			_ = os.RemoveAll(e.runDir(x.id))
		}
		switch {
		case o.Remove:
			e.background(func() { e.autoRemove(x.id) })
		case o.RestartAfter > 0:
			e.restartAfter(e.live(x.id), x.id, o.RestartAfter)
		}
	}
	e.sweep(known)
	for _, rec := range e.Containers.List() {
		switch {
		case clients[rec.ID] != nil:
		case rec.State.Status == container.Removing || rec.State.Status == container.Dead:
			e.background(func() { e.finishRemoval(rec.ID) })
		case rec.Config.AutoRemove && rec.State.Status == container.Created && bootedSince(rec.Created):
			// Made for a start that never came before the machine went down.
			e.background(func() { e.autoRemove(rec.ID) })
		case container.StartAtBoot(rec) && rec.State.Status != container.Restarting || rec.State.Status == container.Restarting:
			l := e.live(rec.ID)
			l.mu.Lock()
			pending := l.restart != nil
			l.mu.Unlock()
			if !pending {
				e.background(func() { e.startAtBoot(rec.ID) })
			}
		}
	}
	return nil
}

// takeBack continues with a container whose monitor lived on.
func (e *Engine) takeBack(id string, c *monitor.Client) {
	rec, err := e.Containers.Get(id)
	if err != nil {
		return
	}
	if !rec.State.Alive() && rec.State.Status != container.Removing { // the daemon was killed between the start and its note
		info := c.Info()
		note, err := readNote(info.Note, e.runDir(id))
		if err != nil {
			e.log.Error("read what a monitor kept", "container", id, "error", err)
		}
		if _, err := e.Containers.Apply(id, container.Started{Pid: info.Pid, MonitorPid: info.MonitorPid, At: info.StartedAt,
			Endpoints: note.Endpoints, Published: note.ports()}); err != nil {
			e.log.Error("save a start found again", "container", id, "error", err)
		}
	}
	l := e.live(id)
	gone := make(chan struct{})
	l.mu.Lock()
	l.client, l.gone = c, gone
	l.mu.Unlock()
	e.watch(l, id, c, gone)
}

// sweep removes run directories and layers that no container owns: leftovers of creations cut short.
func (e *Engine) sweep(known map[string]bool) {
	dirs, err := os.ReadDir(filepath.Join(e.opts.ExecRoot, "containers"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.log.Error("look for leftovers", "error", err)
	}
	for _, d := range dirs {
		if known[d.Name()] {
			continue
		}
		if c, err := monitor.Dial(e.ctx, e.runDir(d.Name())); err == nil {
			// Its record is gone, so nobody can reach it any more.
			_ = c.Signal(e.ctx, 9)
			_ = c.Close()
		}
		_ = os.RemoveAll(e.runDir(d.Name()))
	}
	// What belongs to a container whose record cannot be read is somebody's data.
	damaged, err := e.Containers.Damaged()
	if err != nil {
		e.log.Error("look for damaged records", "error", err)
		return
	}
	keep := func(id string) bool { return known[id] || slices.Contains(damaged, id) }
	if err := e.Volumes.Sweep(e.ctx, keep); err != nil {
		e.log.Error("sweep volumes", "error", err)
	}
	if err := e.store.SweepLayers(keep); err != nil {
		e.log.Error("sweep layers", "error", err)
	}
}

func (e *Engine) finishRemoval(id string) {
	l, rec, err := e.acquire(e.ctx, id)
	if err != nil {
		return
	}
	defer l.release()
	if e.client(id) != nil {
		if err := e.end(e.ctx, l, rec, syscall.SIGKILL, undoTime); err != nil {
			e.apply(id, container.RemoveFailed{Message: err.Error()})
			e.log.Error("finish a removal", "container", id, "error", err)
			return
		}
	}
	if err := e.erase(e.ctx, l, rec, rec.Config.AutoRemove || rec.State.DropVolumes); err != nil {
		e.log.Error("finish a removal", "container", id, "error", err)
	}
}

func (e *Engine) startAtBoot(id string) {
	l, rec, err := e.acquire(e.ctx, id)
	if err != nil {
		return
	}
	defer l.release()
	if rec.State.Alive() {
		return
	}
	if err := e.start(e.ctx, l, rec, false); err != nil && e.ctx.Err() == nil {
		e.log.Error("start at boot", "container", id, "error", err)
	}
}

// dialOrDissolve connects to the monitor of a container. A daemon that was killed in the middle of a start may have left
// one that has its order and has not made its socket yet: taking the directory away from it, which works only as long as
// neither socket nor exit record is in there, makes it undo what it did.
func dialOrDissolve(ctx context.Context, dir string) (*monitor.Client, error) {
	c, err := monitor.Dial(ctx, dir)
	if err == nil || !errdefs.IsNotFound(err) || hasExit(dir) {
		return c, err
	}
	_ = os.RemoveAll(filepath.Join(dir, etcDir))
	if rmErr := os.Remove(dir); rmErr == nil || errors.Is(rmErr, os.ErrNotExist) {
		return nil, err
	}
	return monitor.Dial(ctx, dir)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func hasExit(dir string) bool {
	_, err := monitor.ReadExit(dir)
	return err == nil
}
