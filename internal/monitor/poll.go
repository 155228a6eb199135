package monitor

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// source is something the loop waits for.
type source interface {
	ready(events uint32)
}

// watched is a descriptor in the loop; the zero value is none. Its owner embeds it.
type watched struct {
	fd     int
	slot   int32 // in poller.slots, from 1
	events uint32
}

func unwatched(fd int) watched { return watched{fd: fd} }

// hangup is the interest in nothing but the end of a connection, which the kernel reports always.
const hangup = unix.EPOLLERR

// poller is an epoll instance. Removing a source while events are handed out is safe: an event that was fetched for it
// carries an old generation.
type poller struct {
	fd    int
	slots []slot
	free  []int32
	batch [16]unix.EpollEvent
}

type slot struct {
	src source
	gen int32
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &poller{fd: fd, slots: make([]slot, 1, 16)}, nil
}

// want changes which events of w are waited for: 0 parks it. What can fail is adding one, when the kernel has no
// memory.
func (p *poller) want(w *watched, src source, events uint32) error {
	if w.fd < 0 || w.slot != 0 && w.events == events || w.slot == 0 && events == 0 {
		return nil
	}
	if w.slot == 0 {
		if n := len(p.free); n > 0 {
			w.slot, p.free = p.free[n-1], p.free[:n-1]
		} else {
			w.slot = int32(len(p.slots))
			p.slots = append(p.slots, slot{})
		}
		p.slots[w.slot].src = src
	}
	ev := unix.EpollEvent{Events: events, Fd: w.slot, Pad: p.slots[w.slot].gen}
	var err error
	switch {
	case events == 0:
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, w.fd, nil)
	case w.events == 0:
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, w.fd, &ev)
	default:
		err = unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, w.fd, &ev)
	}
	if err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	w.events = events
	return nil
}

// drop stops waiting for w and closes it.
func (p *poller) drop(w *watched) {
	if w.fd < 0 {
		return
	}
	p.forget(w)
	unix.Close(w.fd)
	w.fd = -1
}

// forget stops waiting for w. The descriptor must be taken out before it is closed: somebody else may hold the same
// connection open, and the kernel would go on reporting it.
func (p *poller) forget(w *watched) {
	if w.slot == 0 {
		return
	}
	if w.events != 0 {
		_ = unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, w.fd, nil)
	}
	p.slots[w.slot].src = nil
	p.slots[w.slot].gen++
	p.free = append(p.free, w.slot)
	w.slot, w.events = 0, 0
}

// wait hands out events until the deadline at the latest; zero is none.
func (p *poller) wait(deadline time.Time) error {
	timeout := -1
	if !deadline.IsZero() {
		// Rounded up: a wait that is too short would only be repeated.
		timeout = max(0, int((time.Until(deadline)+time.Millisecond-1)/time.Millisecond))
	}
	n, err := unix.EpollWait(p.fd, p.batch[:], timeout)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("epoll_wait", err)
	}
	for i := range n {
		ev := &p.batch[i]
		if s := &p.slots[ev.Fd]; s.gen == ev.Pad && s.src != nil {
			s.src.ready(ev.Events)
		}
	}
	return nil
}
