package container

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// Condition is what a waiter waits for; the words are the Docker API's.
type Condition string

// A waiter is told when the container is not running (at once, if it is not), at its next exit, or when it is gone.
const (
	NotRunning Condition = "not-running"
	NextExit   Condition = "next-exit"
	Removed    Condition = "removed"
)

// Waited is what a waiter is told: the exit code, and an error if the container could not be removed.
type Waited struct {
	Code int
	Err  error
}

type waiter struct {
	until Condition
	ch    chan Waited // holds one
	// done marks a waiter whose context has ended; it is dropped at the next occasion.
	done func() bool
}

// Wait registers a waiter before it returns. The channel gets exactly one value, or none when ctx ends first.
func (c *Containers) Wait(ctx context.Context, id string, until Condition) (<-chan Waited, error) {
	switch until {
	case "":
		until = NotRunning
	case NotRunning, NextExit, Removed:
	default:
		return nil, fmt.Errorf("invalid condition: %q%w", until, kind{errdefs.ErrInvalidArgument})
	}
	ch := make(chan Waited, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.find(id)
	if err != nil {
		return nil, err
	}
	s := e.rec.State
	dying := s.Status == Removing && s.Pid != 0
	if until == NotRunning && !s.Alive() && s.Status != Restarting && !dying {
		ch <- Waited{Code: s.ExitCode}
		return ch, nil
	}
	e.waiters = slices.DeleteFunc(e.waiters, func(w waiter) bool { return w.done() })
	e.waiters = append(e.waiters, waiter{until: until, ch: ch, done: func() bool { return ctx.Err() != nil }})
	return ch, nil
}

// tell informs the waiters that o concerns. Called with c.mu held.
func (c *Containers) tell(e *entry, o Outcome) {
	exited := o.Release
	if !exited && !o.Settled {
		return
	}
	code := o.Record.State.ExitCode
	e.waiters = slices.DeleteFunc(e.waiters, func(w waiter) bool {
		if w.until == Removed || w.until == NotRunning && !o.Settled {
			return false
		}
		w.ch <- Waited{Code: code}
		return true
	})
}

// tellRemoved informs everybody who is left. Called with c.mu held.
func (c *Containers) tellRemoved(e *entry, err error) {
	for _, w := range e.waiters {
		w.ch <- Waited{Code: e.rec.State.ExitCode, Err: err}
	}
	e.waiters = nil
}
