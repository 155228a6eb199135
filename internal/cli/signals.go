package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// signalProxy passes signals this process gets on to a container.
type signalProxy struct {
	a     *app
	id    string
	got   chan os.Signal
	done  chan struct{}
	later *time.Timer
}

func newSignalProxy(a *app, id string) *signalProxy {
	return &signalProxy{a: a, id: id, got: make(chan os.Signal, 128), done: make(chan struct{})}
}

// rareSignals is when the signals people seldom send are caught too. Go takes some 30 µs for each of the sixty, which
// is together more than everything else this program does for a short container.
const rareSignals = 50 * time.Millisecond

// start catches the signals that end things at once, and every other soon after.
func (p *signalProxy) start(ctx context.Context) {
	signal.Notify(p.got, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	p.later = time.AfterFunc(rareSignals, func() {
		select {
		case <-p.done:
		default:
			signal.Notify(p.got)
		}
	})
	go func() {
		for {
			select {
			case s := <-p.got:
				p.forward(ctx, s)
			case <-p.done:
				return
			}
		}
	}()
}

// forward leaves out what is about this process itself: its children, its pipes, its window and the Go runtime's own.
func (p *signalProxy) forward(ctx context.Context, s os.Signal) {
	number, ok := s.(syscall.Signal)
	if !ok {
		return
	}
	switch number {
	case unix.SIGCHLD, unix.SIGPIPE, unix.SIGURG, unix.SIGWINCH:
		return
	}
	name := unix.SignalName(number)
	if name == "" {
		name = strconv.Itoa(int(number)) // a real-time signal
	}
	_, err := p.a.api.ContainerKill(ctx, p.id, client.ContainerKillOptions{Signal: name})
	if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
		fmt.Fprintf(p.a.Err, "signal %s could not be passed on: %v\n", name, plainError(err))
	}
}

// stop lets signals do to this process what they did before. Nobody waits for it: the program is about to end.
func (p *signalProxy) stop() {
	p.later.Stop()
	close(p.done)
	go signal.Stop(p.got)
}
