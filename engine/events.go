package engine

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Event is something that happened to an object, as the events API tells it.
type Event struct {
	Type       string // "container", "image", "network", "volume", "daemon"
	Action     string
	ActorID    string
	Attributes map[string]string
	Time       time.Time
}

// Events keeps the last events and hands new ones to subscribers. A subscriber that does not keep up loses its
// subscription rather than holding up the engine.
type Events struct {
	mu          sync.Mutex
	past        []Event // at most keptEvents, oldest first
	subscribers map[*subscriber]struct{}
	closed      bool
}

type subscriber struct {
	wants func(Event) bool
	ch    chan Event
}

// keptEvents is Docker's figure; eventBuffer is how far a subscriber may lag.
const (
	keptEvents  = 256
	eventBuffer = 1024
)

func newEvents() *Events { return &Events{subscribers: map[*subscriber]struct{}{}} }

// Publish tells everybody of e. A zero time means now.
func (ev *Events) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if len(ev.past) == keptEvents {
		ev.past = slices.Delete(ev.past, 0, 1)
	}
	ev.past = append(ev.past, e)
	for s := range ev.subscribers {
		if s.wants != nil && !s.wants(e) {
			continue
		}
		select {
		case s.ch <- e:
		default:
			delete(ev.subscribers, s)
			close(s.ch)
		}
	}
}

// Subscribe returns the kept events from since (the zero time means none of them) to until, and a channel of the ones
// that follow, without gap or repetition. The channel is closed when ctx ends, when the engine closes, or when the
// subscriber lags more than a thousand events behind. wants may be nil; it must not block.
func (ev *Events) Subscribe(ctx context.Context, since, until time.Time, wants func(Event) bool) ([]Event, <-chan Event) {
	s := &subscriber{wants: wants, ch: make(chan Event, eventBuffer)}
	ev.mu.Lock()
	defer ev.mu.Unlock()
	var backlog []Event
	for _, e := range ev.past {
		if since.IsZero() || e.Time.Before(since) || !until.IsZero() && e.Time.After(until) || wants != nil && !wants(e) {
			continue
		}
		backlog = append(backlog, e)
	}
	if ev.closed {
		close(s.ch)
		return backlog, s.ch
	}
	ev.subscribers[s] = struct{}{}
	context.AfterFunc(ctx, func() { ev.drop(s) })
	return backlog, s.ch
}

func (ev *Events) drop(s *subscriber) {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	if _, there := ev.subscribers[s]; there {
		delete(ev.subscribers, s)
		close(s.ch)
	}
}

func (ev *Events) close() {
	ev.mu.Lock()
	defer ev.mu.Unlock()
	ev.closed = true
	for s := range ev.subscribers {
		delete(ev.subscribers, s)
		close(s.ch)
	}
}
