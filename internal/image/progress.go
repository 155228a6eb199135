package image

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-engine/berth/internal/registry"
)

// Progress is one line of what is going on, in Docker's words.
type Progress struct {
	ID             string // of the layer, or the tag; "" if the line is about the whole
	Status         string
	Current, Total int64 // bytes, 0 if the line has none
}

// progressEvery is how often a moving number is told again.
const progressEvery = 100 * time.Millisecond

// reporter tells progress to a function that need not cope with concurrent calls.
type reporter struct {
	mu   sync.Mutex
	f    func(Progress)
	last map[string]time.Time
}

func newReporter(f func(Progress)) *reporter { return &reporter{f: f, last: map[string]time.Time{}} }

func (r *reporter) say(id, status string) { r.tell(Progress{ID: id, Status: status}) }

func (r *reporter) tell(p Progress) {
	if r.f == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.f(p)
}

// bytes tells a number that moves, if the last one of this layer is old enough.
func (r *reporter) bytes(id, status string, current, total int64) {
	if r.f == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.last[id]) >= progressEvery {
		r.last[id] = now
		r.f(Progress{id, status, current, total})
	}
}

// pause tells why nothing moves at the moment.
func (r *reporter) pause(p registry.Pause) {
	id := p.Of
	if d := digest.Digest(id); d.Validate() == nil {
		id = short(d)
	}
	seconds := int(math.Ceil(p.For.Seconds()))
	unit := "seconds"
	if seconds == 1 {
		unit = "second"
	}
	r.say(id, fmt.Sprintf("Retrying in %d %s: %s", seconds, unit, p.Why))
}
