package daemon

import (
	"net/http"
	"runtime/debug"
	"time"
)

// idler gives memory back to the kernel when the daemon has had nothing to do for a while: Go keeps what a burst of
// work needed, and a daemon mostly waits.
type idler struct{ timer *time.Timer }

// idleTime is how long no request must have begun or ended. Collecting costs some milliseconds of one processor.
const idleTime = 2 * time.Second

func newIdler() *idler { return &idler{time.AfterFunc(idleTime, debug.FreeOSMemory)} }

// watch puts the collection off while h is being asked. A stream that goes on for hours does not keep it off: each
// other request that ends starts the time anew.
func (i *idler) watch(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.timer.Stop()
		defer i.timer.Reset(idleTime)
		h.ServeHTTP(w, r)
	})
}

func (i *idler) stop() { i.timer.Stop() }
