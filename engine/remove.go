package engine

import (
	"context"
	"os"
	"syscall"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
)

// Remove deletes a container, its layer and its logs.
func (e *Engine) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	if o.Force {
		e.hurry(ctx, ref)
	}
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	return e.remove(ctx, l, rec, o)
}

// hurry kills a container whose slot is taken, by a patient stop for instance, so that a forced removal does not wait for it.
func (e *Engine) hurry(ctx context.Context, ref string) {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return
	}
	l := e.live(rec.ID)
	if len(l.op) == 0 {
		return
	}
	if _, err := e.signal(ctx, l, rec, syscall.SIGKILL); err != nil {
		e.log.Warn("removal by force", "container", rec.ID, "error", err)
	}
}

// remove is Remove with the slot held. Once the container is marked, cancelling stops being possible.
func (e *Engine) remove(ctx context.Context, l *live, rec container.Record, o RemoveOptions) error {
	ctx = context.WithoutCancel(ctx)
	l.stopTimer()
	// One that is being removed while we hold the slot is what a killed daemon left.
	if rec.State.Status != container.Dead && rec.State.Status != container.Removing {
		if _, err := e.Containers.Apply(rec.ID, container.RemoveOrdered{Force: o.Force, Volumes: o.Volumes}); err != nil {
			return err
		}
	}
	if e.client(rec.ID) != nil {
		if err := e.end(ctx, l, rec, syscall.SIGKILL, undoTime); err != nil {
			_, _ = e.Containers.Apply(rec.ID, container.RemoveFailed{Message: err.Error()})
			return err
		}
	}
	return e.erase(ctx, l, rec, o.Volumes)
}

// erase removes what a container without processes still has.
func (e *Engine) erase(ctx context.Context, l *live, rec container.Record, volumes bool) error {
	ctx, cancel := undoContext(ctx)
	defer cancel()
	if err := l.settled(ctx); err != nil {
		_, _ = e.Containers.Apply(rec.ID, container.RemoveFailed{Message: err.Error()})
		return err
	}
	if err := e.store.RemoveLayer(rec.ID); err != nil {
		_, _ = e.Containers.Apply(rec.ID, container.RemoveFailed{Message: err.Error()})
		return err
	}
	e.Volumes.Release(rec.ID)
	if volumes {
		for _, v := range rec.Volumes {
			if !v.Anonymous {
				continue
			}
			if err := e.Volumes.Remove(ctx, v.Name, true); err != nil && !errdefs.IsConflict(err) {
				e.log.Error("remove an anonymous volume", "container", rec.ID, "volume", v.Name, "error", err)
			}
		}
	}
	e.Execs.forget(rec.ID)
	if err := e.Containers.Delete(rec.ID); err != nil {
		return err
	}
	if err := os.RemoveAll(e.runDir(rec.ID)); err != nil {
		e.log.Error("remove the run directory", "container", rec.ID, "error", err)
	}
	if rec.Config.Limits.CgroupParent != "" { // the daemon's own is kept for the next container
		e.cgroups.Open(e.cgroupPath(rec)).PruneParents()
	}
	e.forgetLive(rec.ID)
	e.publish(rec, "destroy", nil)
	e.Images.Touch(rec.Config.ImageID)
	e.Images.ReleaseLayers(rec.Chain, e.chainsInUse)
	return nil
}

// autoRemove removes a container made with --rm after its end, unless it has been started again.
func (e *Engine) autoRemove(id string) {
	l, rec, err := e.acquire(e.ctx, id)
	if err != nil {
		return
	}
	defer l.release()
	if rec.State.Alive() || rec.State.Status == container.Removing {
		return
	}
	if err := e.remove(e.ctx, l, rec, RemoveOptions{Force: true, Volumes: true}); err != nil {
		e.log.Error("automatic removal", "container", id, "error", err)
	}
	e.launcher.Prepare()
}

// chainsInUse tells which images' layers containers still stand on.
func (e *Engine) chainsInUse() map[string]bool {
	used := map[string]bool{}
	for _, rec := range e.Containers.List() {
		used[rec.Chain] = true
	}
	return used
}
