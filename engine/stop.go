package engine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
)

// Stop ends a container with its stop signal, and kills it when the time is over. Stopping one that does not run is
// errdefs.ErrNotModified.
func (e *Engine) Stop(ctx context.Context, ref string, o StopOptions) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	return e.stop(ctx, l, rec, o)
}

func (e *Engine) stop(ctx context.Context, l *live, rec container.Record, o StopOptions) error {
	sig, err := stopSignal(rec, o.Signal)
	if err != nil {
		return err
	}
	l.stopTimer()
	if out, err := e.Containers.Apply(rec.ID, container.StopOrdered{}); err != nil {
		return err
	} else if rec.State.Status == container.Restarting {
		e.publish(out.Record, "stop", nil)
		return nil
	}
	if !rec.State.Alive() {
		return fmt.Errorf("container %s is already stopped%w", rec.ID, kind{errdefs.ErrNotModified})
	}
	timeout := stopTimeout(rec, o.Timeout)
	if timeout >= 0 { // whoever asked may go away: the container is stopped all the same, and killed if need be
		ctx = context.WithoutCancel(ctx)
	}
	if err := e.end(ctx, l, rec, sig, timeout); err != nil {
		return err
	}
	e.publish(rec, "stop", nil)
	return nil
}

// errClosing is for operations that the engine's own end cuts short; the container stays as it is.
func errClosing() error {
	return fmt.Errorf("the daemon is shutting down%w", kind{errdefs.ErrUnavailable})
}

// end sends sig, waits until everything of the run has been given back, and kills after the timeout (negative: never).
func (e *Engine) end(ctx context.Context, l *live, rec container.Record, sig syscall.Signal, timeout time.Duration) error {
	if rec.State.Status == container.Paused { // a frozen process handles no signal
		if err := e.thaw(ctx, rec); err != nil {
			return err
		}
	}
	gone, err := e.signal(ctx, l, rec, sig)
	if err != nil {
		return err
	}
	var after <-chan time.Time
	if timeout >= 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errClosing()
	case <-after:
	}
	if _, err := e.signal(ctx, l, rec, syscall.SIGKILL); err != nil {
		return err
	}
	// A process in the kernel's uninterruptible sleep cannot be killed: say so rather than wait for ever.
	t := time.NewTimer(undoTime)
	defer t.Stop()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errClosing()
	case <-t.C:
		return fmt.Errorf("container %q did not end within %s of being killed; a process of it may wait for a device%w",
			rec.Name, undoTime, kind{errdefs.ErrUnavailable})
	}
}

// signal sends sig to the first process; one that has just ended is no error. The channel is closed when everything that
// this very run held has been given back, and nil when the container has never run.
func (e *Engine) signal(ctx context.Context, l *live, rec container.Record, sig syscall.Signal) (<-chan struct{}, error) {
	l.mu.Lock()
	c, gone := l.client, l.gone
	l.mu.Unlock()
	if c == nil {
		return gone, nil
	}
	err := c.Signal(ctx, int(sig))
	if errdefs.IsNotFound(err) {
		return gone, nil
	}
	if err != nil {
		return gone, fmt.Errorf("send signal %d to container %q: %w", sig, rec.Name, err)
	}
	e.publish(rec, "kill", map[string]string{"signal": strconv.Itoa(int(sig))})
	return gone, nil
}

// Kill sends a signal ("" is KILL) to a container that runs.
func (e *Engine) Kill(ctx context.Context, ref, name string) error {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return err
	}
	if name == "" {
		name = "KILL"
	}
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	if !rec.State.Alive() {
		return fmt.Errorf("container %s is not running%w", rec.ID, kind{errdefs.ErrConflict})
	}
	own, err := stopSignal(rec, "")
	if err != nil {
		return err
	}
	l := e.live(rec.ID)
	if sig != syscall.SIGKILL {
		if sig == own {
			e.apply(rec.ID, container.StopOrdered{})
		}
		_, err := e.signal(ctx, l, rec, sig)
		return err
	}
	e.apply(rec.ID, container.StopOrdered{})
	if rec.State.Status == container.Paused {
		if err := e.thaw(ctx, rec); err != nil {
			return err
		}
	}
	gone, err := e.signal(ctx, l, rec, sig)
	if err != nil {
		return err
	}
	t := time.NewTimer(undoTime)
	defer t.Stop()
	select {
	case <-gone:
	case <-ctx.Done():
	case <-e.ctx.Done():
	case <-t.C:
	}
	return nil
}

// Restart stops the container, if it runs, and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	if rec.State.Alive() || rec.State.Status == container.Restarting {
		// A container made with --rm lives on through a restart: its removal waits for the slot and then finds it running.
		if err := e.stop(ctx, l, rec, o); err != nil && !errdefs.IsNotModified(err) {
			return err
		}
		if rec, err = e.Containers.Get(rec.ID); err != nil {
			return err
		}
	}
	if err := e.start(ctx, l, rec, false); err != nil {
		return err
	}
	e.publish(rec, "restart", nil)
	return nil
}

// Pause freezes every process of a container.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	switch rec.State.Status {
	case container.Running:
	case container.Paused:
		return fmt.Errorf("container %s is already paused%w", rec.ID, kind{errdefs.ErrConflict})
	default:
		return fmt.Errorf("container %s is not running%w", rec.ID, kind{errdefs.ErrConflict})
	}
	if err := e.cgroups.Open(e.cgroupPath(rec)).Freeze(ctx); err != nil {
		return fmt.Errorf("pause container %q: %w", rec.Name, err)
	}
	e.apply(rec.ID, container.PausedFact{})
	return nil
}

// Unpause lets it go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	if rec.State.Status != container.Paused {
		return fmt.Errorf("container %s is not paused%w", rec.ID, kind{errdefs.ErrConflict})
	}
	return e.thaw(ctx, rec)
}

func (e *Engine) thaw(ctx context.Context, rec container.Record) error {
	if err := e.cgroups.Open(e.cgroupPath(rec)).Thaw(ctx); err != nil {
		return fmt.Errorf("unpause container %q: %w", rec.Name, err)
	}
	e.apply(rec.ID, container.UnpausedFact{})
	return nil
}

// Wait registers a waiter before it returns; the channel gets one value, or none when ctx ends first.
func (e *Engine) Wait(ctx context.Context, ref, condition string) (<-chan container.Waited, error) {
	return e.Containers.Wait(ctx, ref, container.Condition(condition))
}

// Rename gives a container a new name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	old := rec.Name
	if strings.TrimPrefix(name, "/") == "" {
		return fmt.Errorf("Neither old nor new names may be empty%w", kind{errdefs.ErrInvalidArgument})
	}
	if rec, err = e.Containers.Rename(rec.ID, name); err != nil {
		return err
	}
	e.Networks.Rename(rec.ID, rec.Name)
	e.publish(rec, "rename", map[string]string{"oldName": "/" + old})
	return nil
}

// Update changes limits and the restart policy of a container, at once if it runs.
func (e *Engine) Update(ctx context.Context, ref string, o UpdateOptions) ([]string, error) {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer l.release()
	if rec.State.Status == container.Removing || rec.State.Status == container.Dead {
		return nil, fmt.Errorf("container is marked for removal and cannot be \"update\"%w", kind{errdefs.ErrConflict})
	}
	limits := rec.Config.Limits
	var warnings []string
	if o.Limits != nil {
		mergeLimits(&limits, *o.Limits)
		if warnings, err = e.checkLimits(&limits); err != nil {
			return nil, err
		}
		if rec.State.Alive() {
			more, err := e.cgroups.Open(e.cgroupPath(rec)).Update(limitResources(limits))
			if err != nil {
				return nil, fmt.Errorf("cannot update container %s: %w", rec.ID, err)
			}
			warnings = append(warnings, more...)
		}
	}
	if o.Restart != nil && o.Restart.Name != "" && o.Restart.Name != "no" && rec.Config.AutoRemove {
		return nil, fmt.Errorf("restart policy cannot be updated because AutoRemove is enabled for the container%w",
			kind{errdefs.ErrInvalidArgument})
	}
	rec, err = e.Containers.Change(rec.ID, func(r *container.Record) error {
		r.Config.Limits = limits
		if o.Restart != nil {
			r.Config.Restart = *o.Restart
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.publish(rec, "update", nil)
	return warnings, nil
}

// Resize sets the size of a container's terminal.
func (e *Engine) Resize(ctx context.Context, ref string, rows, cols uint16) error {
	rec, c, err := e.running(ref)
	if err != nil {
		return err
	}
	if err := c.Resize(ctx, "", rows, cols); err != nil {
		return err
	}
	e.publish(rec, "resize", map[string]string{"height": strconv.Itoa(int(rows)), "width": strconv.Itoa(int(cols))})
	return nil
}

func stopSignal(rec container.Record, asked string) (syscall.Signal, error) {
	if asked == "" {
		asked = rec.Config.StopSignal
	}
	if asked == "" {
		return syscall.SIGTERM, nil
	}
	return parseSignal(asked)
}

func parseSignal(name string) (syscall.Signal, error) {
	sig, err := signal.ParseSignal(name)
	if err != nil {
		return 0, fmt.Errorf("invalid signal: %s%w", name, kind{errdefs.ErrInvalidArgument})
	}
	return sig, nil
}

func stopTimeout(rec container.Record, asked *int) time.Duration {
	if asked == nil {
		asked = rec.Config.StopTimeout
	}
	if asked == nil {
		return defaultStop * time.Second
	}
	return time.Duration(*asked) * time.Second
}
