package network

import (
	"os"
	"sync"
	"time"
)

// spare is a namespace that waits for a container.
type spare struct {
	ns *os.File
	ep *endpoint // nil: it has a loopback only
}

// pool keeps namespaces ready. It makes them one at a time on a goroutine of its own; who finds it empty makes his own
// and does not wait. How many it keeps follows the demand: the number taken lately, never less than least nor more than
// poolMost, and after a while without demand only least again.
type pool struct {
	least int
	make  func() (*spare, error)
	drop  func(*spare)
	wake  chan struct{} // has room for one
	done  chan struct{}

	mu     sync.Mutex
	ready  []*spare
	target int
	recent []time.Time // takes within poolWindow
	state  poolState
	paused bool // by reclaim
	making bool
	idle   *sync.Cond // signalled when making becomes false
}

type poolState int

const (
	poolIdle   poolState = iota // not started
	poolOn                      // the goroutine runs
	poolClosed                  // nothing is handed out any more
)

const (
	poolMost   = 16
	poolWindow = 500 * time.Millisecond
	poolLinger = 10 * time.Second
	poolRest   = 40 * time.Millisecond
)

func newPool(least int, make func() (*spare, error), drop func(*spare)) *pool {
	p := &pool{least: least, make: make, drop: drop, wake: newSignal(), done: newSignal()}
	p.idle = sync.NewCond(&p.mu)
	return p
}

func newSignal() chan struct{} { return make(chan struct{}, 1) }

// start begins to fill the pool.
func (p *pool) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != poolIdle || p.least == 0 {
		return
	}
	p.state, p.target = poolOn, p.least
	go p.fill()
	p.poke()
}

// poke lets the goroutine look; it never blocks.
func (p *pool) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take is a ready namespace, or nil.
func (p *pool) take() *spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != poolOn {
		return nil
	}
	now := time.Now()
	p.recent = append(p.since(now), now)
	p.target = min(max(p.least, len(p.recent), p.target), poolMost)
	p.poke()
	if len(p.ready) == 0 {
		return nil
	}
	s := p.ready[len(p.ready)-1]
	p.ready = p.ready[:len(p.ready)-1]
	return s
}

// since drops what is older than the window.
func (p *pool) since(now time.Time) []time.Time {
	i := 0
	for i < len(p.recent) && now.Sub(p.recent[i]) > poolWindow {
		i++
	}
	return append(p.recent[:0], p.recent[i:]...)
}

func (p *pool) fill() {
	defer func() { p.done <- struct{}{} }()
	var calm <-chan time.Time // runs while there is more than the least
	for {
		select {
		case <-p.wake:
			p.rest()
		case <-calm:
			calm = nil
			p.shrink()
		}
		if calm == nil && p.grown() {
			calm = time.After(poolLinger)
		}
		for p.wants() {
			s, err := p.make()
			if !p.put(s, err) {
				break
			}
		}
		p.mu.Lock()
		closed := p.state == poolClosed
		p.mu.Unlock()
		if closed {
			return
		}
	}
}

// rest lets a start that has taken from a pool which is not empty come to its end before the next is made.
func (p *pool) rest() {
	for over := time.After(poolRest); ; {
		p.mu.Lock()
		may := p.state == poolOn && !p.paused && len(p.ready) > 0
		p.mu.Unlock()
		if !may {
			return
		}
		select {
		case <-over:
			return
		case <-p.wake:
		}
	}
}

// wants reports whether one more should be made, and then counts on it being made.
func (p *pool) wants() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making = p.state == poolOn && !p.paused && len(p.ready) < p.target
	return p.making
}

// put shelves what was made and reports whether to go on. After an error the next one who takes wakes us again, and
// will see the error himself.
func (p *pool) put(s *spare, err error) bool {
	p.mu.Lock()
	keep := err == nil && p.state == poolOn && !p.paused
	if keep {
		p.ready = append(p.ready, s)
	}
	p.mu.Unlock()
	if err == nil && !keep {
		p.drop(s)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making = false
	p.idle.Broadcast()
	return keep
}

func (p *pool) grown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.target > p.least
}

// shrink gives back what a burst made grow.
func (p *pool) shrink() {
	p.mu.Lock()
	p.recent = p.since(time.Now())
	p.target = min(max(p.least, len(p.recent)), poolMost)
	surplus := p.cut(p.target)
	p.mu.Unlock()
	for _, s := range surplus {
		p.drop(s)
	}
}

func (p *pool) cut(keep int) []*spare {
	if len(p.ready) <= keep {
		return nil
	}
	surplus := append([]*spare(nil), p.ready[keep:]...)
	clear(p.ready[keep:])
	p.ready = p.ready[:keep]
	return surplus
}

// reclaim gives back everything, because somebody needs the addresses, and makes nothing more until resume.
func (p *pool) reclaim() {
	p.mu.Lock()
	p.paused = true
	for p.making {
		p.idle.Wait()
	}
	all := p.cut(0)
	p.mu.Unlock()
	for _, s := range all {
		p.drop(s)
	}
}

// resume ends the pause of reclaim.
func (p *pool) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused {
		p.paused = false
		p.poke()
	}
}

// close gives back everything and waits until nothing more is made.
func (p *pool) close() {
	p.mu.Lock()
	was := p.state
	p.state = poolClosed
	all := p.cut(0)
	p.mu.Unlock()
	if was == poolOn {
		p.poke()
		<-p.done
	}
	for _, s := range all {
		p.drop(s)
	}
}
