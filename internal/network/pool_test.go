package network

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakePool counts what it made and what was given back.
func fakePool(least int) (p *pool, made, dropped *atomic.Int32) {
	made, dropped = new(atomic.Int32), new(atomic.Int32)
	return newPool(least, func() (*spare, error) {
		made.Add(1)
		return &spare{ns: (*os.File)(nil)}, nil
	}, func(*spare) { dropped.Add(1) }), made, dropped
}

func (p *pool) size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.ready)
}

func TestPoolFollowsDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _, dropped := fakePool(2)
		if p.take() != nil {
			t.Error("a pool that was not started gave something")
		}
		p.start()
		synctest.Wait()
		if p.size() != 2 {
			t.Errorf("%d ready", p.size())
		}
		// A container now and then: never more than the least.
		for range 20 {
			if p.take() == nil {
				t.Error("empty")
			}
			time.Sleep(2 * poolWindow)
			if p.size() != 2 {
				t.Errorf("%d ready without demand", p.size())
			}
		}
		// A burst: it grows, but not without end.
		for range 100 {
			p.take()
		}
		synctest.Wait()
		if p.size() != poolMost {
			t.Errorf("%d ready after a burst", p.size())
		}
		for range 4 {
			time.Sleep(poolLinger / 2) // somebody still comes now and then
			p.take()
		}
		time.Sleep(2 * poolRest)
		synctest.Wait()
		// Of those above the least, the four that were taken need no dropping.
		if n := dropped.Load(); p.size() != 2 || n < poolMost-2-4 || n > poolMost-2 {
			t.Errorf("%d ready, %d dropped after the burst", p.size(), n)
		}
		if p.take() == nil {
			t.Error("empty")
		}
		p.close()
		if p.take() != nil || p.size() != 0 {
			t.Error("a closed pool gave something")
		}
	})
}

func TestPoolReclaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, made, dropped := fakePool(3)
		p.start()
		synctest.Wait()
		p.reclaim()
		p.take()
		synctest.Wait()
		if p.size() != 0 || dropped.Load() != made.Load() {
			t.Errorf("%d ready, %d made, %d dropped", p.size(), made.Load(), dropped.Load())
		}
		p.resume()
		synctest.Wait()
		if p.size() != 3 {
			t.Errorf("%d ready after resume", p.size())
		}
		p.close()
		if dropped.Load() != made.Load() {
			t.Errorf("%d made, %d dropped", made.Load(), dropped.Load())
		}
	})
}

func TestPoolErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fail, tries := true, 0
		p := newPool(2, func() (*spare, error) {
			tries++
			if fail {
				return nil, errors.New("no")
			}
			return &spare{}, nil
		}, func(*spare) {})
		p.start()
		synctest.Wait()
		if tries != 1 {
			t.Errorf("%d tries without anybody asking", tries)
		}
		fail = false
		p.take()
		synctest.Wait()
		if p.size() != 2 {
			t.Errorf("%d ready", p.size())
		}
		p.close()
		newPool(0, nil, nil).close() // one that was never used
	})
}
