package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/containerd/errdefs"
)

// live is what the engine holds in memory for one container.
type live struct {
	id string
	// op is the one slot for operations: start, stop, restart, remove, rename, update.
	op chan struct{}

	mu      sync.Mutex
	client  *monitor.Client // nil when nothing runs
	gone    chan struct{}   // closed when what the last run held has been given back; nil before the first
	restart *time.Timer     // pending automatic start
	waiting []monitor.AttachStream
	arrived chan struct{} // closed when the clients that are being attached are in waiting; nil: none is
	coming  int           // how many they are
	health  context.CancelFunc
}

// live returns the container's live part, made on first use.
func (e *Engine) live(id string) *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.lives[id]
	if l == nil {
		l = &live{id: id, op: make(chan struct{}, 1)}
		e.lives[id] = l
	}
	return l
}

// acquire takes the operation slot of the container that ref names, and returns its record as it is then.
func (e *Engine) acquire(ctx context.Context, ref string) (*live, container.Record, error) {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return nil, rec, err
	}
	l := e.live(rec.ID)
	select {
	case l.op <- struct{}{}:
	case <-ctx.Done():
		return nil, rec, ctx.Err()
	}
	id := rec.ID
	if rec, err = e.Containers.Get(id); err != nil { // removed while we waited
		<-l.op
		e.forgetLive(id)
		return nil, rec, err
	}
	return l, rec, nil
}

// forgetLive drops what is held for a container that has been removed, and lets go of clients that waited for its start.
func (e *Engine) forgetLive(id string) {
	e.mu.Lock()
	l := e.lives[id]
	delete(e.lives, id)
	e.mu.Unlock()
	if l == nil {
		return
	}
	for _, s := range l.takeWaiting() {
		_ = s.Conn.Close()
	}
}

func (l *live) release() { <-l.op }

// running returns the monitor of a container that runs.
func (e *Engine) running(ref string) (container.Record, *monitor.Client, error) {
	rec, err := e.Containers.Get(ref)
	if err != nil {
		return rec, nil, err
	}
	c := e.client(rec.ID)
	if c == nil || !rec.State.Alive() {
		return rec, nil, fmt.Errorf("container %s is not running%w", rec.ID, kind{errdefs.ErrConflict})
	}
	return rec, c, nil
}

// client is the monitor of a container, nil when it does not run.
func (e *Engine) client(id string) *monitor.Client {
	e.mu.Lock()
	l := e.lives[id]
	e.mu.Unlock()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client
}

// settled waits until everything that the last run held has been given back.
func (l *live) settled(ctx context.Context) error {
	l.mu.Lock()
	gone := l.gone
	l.mu.Unlock()
	if gone == nil {
		return nil
	}
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopTimer forgets a pending automatic start.
func (l *live) stopTimer() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.restart != nil {
		l.restart.Stop()
		l.restart = nil
	}
}

// takeWaiting returns the clients that attached before the start.
// expect announces a client that is about to be attached, until the function it returns is called. A client is told that it is
// attached before it is; a start that it orders then must not come first.
func (l *live) expect() (arrived func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.coming++; l.coming == 1 {
		l.arrived = make(chan struct{})
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.coming--; l.coming == 0 {
			close(l.arrived)
			l.arrived = nil
		}
	})
}

// awaitWaiting is takeWaiting once everybody who was announced is there.
func (l *live) awaitWaiting(ctx context.Context) ([]monitor.AttachStream, error) {
	l.mu.Lock()
	arrived := l.arrived
	l.mu.Unlock()
	if arrived != nil {
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return l.takeWaiting(), nil
}

func (l *live) takeWaiting() []monitor.AttachStream {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.waiting
	l.waiting = nil
	return w
}

// letGo ends the engine's part in a container and leaves the container alone.
func (l *live) letGo() {
	l.stopTimer()
	for _, s := range l.takeWaiting() {
		_ = s.Conn.Close()
	}
	l.mu.Lock()
	c, health := l.client, l.health
	l.mu.Unlock()
	if health != nil {
		health()
	}
	if c != nil {
		_ = c.Close()
	}
}

// kind lets an error carry an errdefs kind without its words, so that the text is exactly the sentence.
type kind struct{ error }

func (kind) Error() string   { return "" }
func (k kind) Unwrap() error { return k.error }
