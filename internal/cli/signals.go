package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// signalProxy passes signals this process gets on to a container.
type signalProxy struct {
	a    *app
	id   string
	got  chan os.Signal
	done chan struct{}
}

func newSignalProxy(a *app, id string) *signalProxy {
	return &signalProxy{a: a, id: id, got: make(chan os.Signal, 128), done: make(chan struct{})}
}

// start catches every signal but those that are about this process itself: its children, its pipes, its window and
// the Go runtime's own.
func (p *signalProxy) start(ctx context.Context) {
	signal.Notify(p.got)
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

func (p *signalProxy) stop() {
	signal.Stop(p.got)
	close(p.done)
}
