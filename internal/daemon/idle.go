package daemon

import (
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// idler gives memory back to the kernel when the daemon has had nothing to do for a while: Go keeps what a burst of work
// needed, and a daemon mostly waits.
type idler struct {
	mu    sync.Mutex
	busy  int
	timer *time.Timer
}

// idleTime is how long nothing must have happened. Collecting costs some milliseconds of one processor.
const idleTime = 2 * time.Second

func newIdler() *idler {
	i := &idler{}
	i.timer = time.AfterFunc(idleTime, debug.FreeOSMemory)
	return i
}

// watch counts the requests that h is answering. Streams that wait for something do not count as work for ever: the
// memory is given back after each request that ends.
func (i *idler) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.timer.Stop()
		defer i.timer.Reset(idleTime)
		h.ServeHTTP(w, r)
	})
}

func (i *idler) stop() { i.timer.Stop() }
