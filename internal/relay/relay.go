// Package relay carries what comes to sockets of the host to an address of a container that is of another version of IP than they
// are: rules of a firewall translate addresses and not versions. It owns the connections it makes; the sockets stay their owners'.
//
//	client ══IPv6══▶ socket of the host: one for each port, all in one epoll
//	                   │ TCP: accepted; a connection of our own to the container, and bytes both ways until both have ended
//	                   │ UDP: one socket of our own for each client and address that he asked, until both are silent for Idle
//	                   ▼
//	container's address and port, by the link of its network and by no other
//
// A port that nobody uses costs its entry in the epoll and some hundred bytes, and no goroutine. Of TCP the ends of the two directions
// are carried over one by one, as are resets; who connects while the container refuses is reset. Of UDP an answer leaves from the
// address that was asked.
//
// What it refuses: clients whom Admit does not want; IPv4 on a socket of both versions; more connections than Conns and PortConns,
// which wait in their sockets; more clients of UDP than Sessions and PortSessions, where who was silent the longest goes. It never
// reads what it carries, decides nothing by it, and goes nowhere but to the address that it was told.
package relay

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options are the bounds of a relay; 0 is the usual one.
type Options struct {
	// Admit decides about a client by the index of the link that he came by, as the kernel says; nil admits everybody. It must
	// not call the relay.
	Admit func(link int) bool
	// Conns and PortConns are how many TCP connections there may be, in all and through one port; Sessions and PortSessions the
	// same of clients of UDP.
	Conns, PortConns, Sessions, PortSessions int
	Idle                                     time.Duration // of UDP
	Dial                                     time.Duration // how long the container may take to accept
}

const (
	usualConns        = 8192
	usualPortConns    = 2048
	usualSessions     = 4096
	usualPortSessions = 1024
	usualIdle         = 90 * time.Second
	usualDial         = 30 * time.Second
	// retry is when a port is listened to again that the process had no descriptor or memory for.
	retry = time.Second
	// firstSession is above all descriptors.
	firstSession = 1 << 32
	// batch is how much is taken from one socket before the others have their turn.
	batch = 64
)

// Port is one socket and where it leads.
type Port struct {
	Proto  int // unix.IPPROTO_TCP or unix.IPPROTO_UDP
	Socket int // of IPv6, bound, not blocking; of TCP listening. The caller's, who closes it after Stop
	To     netip.AddrPort
	Link   string // the only one by which To is spoken to; "": any
}

// Relay is a set of ports. All methods may be called at once.
type Relay struct {
	opts  Options
	epoll *os.File

	mu       sync.Mutex
	closed   bool
	last     uint64        // number of a session
	ports    map[int]*port // by socket
	byID     map[uint64]*session
	conns    int
	paused   map[*port]struct{}
	sessions *list.List // the one that was silent the longest first
	sweeper  *time.Timer
	work     sync.WaitGroup
	buf      []byte // of the loop
}

type port struct {
	Port
	conns    map[*conn]struct{}
	sessions map[flow]*session
	order    *list.List
}

// New begins with no port.
func New(o Options) (*Relay, error) {
	for _, b := range []struct {
		value *int
		usual int
	}{{&o.Conns, usualConns}, {&o.PortConns, usualPortConns}, {&o.Sessions, usualSessions}, {&o.PortSessions, usualPortSessions}} {
		if *b.value <= 0 {
			*b.value = b.usual
		}
	}
	if o.Idle <= 0 {
		o.Idle = usualIdle
	}
	if o.Dial <= 0 {
		o.Dial = usualDial
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make an epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that no thread has to wait in it
		unix.Close(fd)
		return nil, err
	}
	r := &Relay{opts: o, epoll: os.NewFile(uintptr(fd), "epoll"), ports: map[int]*port{}, byID: map[uint64]*session{}, last: firstSession,
		paused: map[*port]struct{}{}, sessions: list.New()}
	r.work.Go(r.run)
	return r, nil
}

// Serve begins to carry what comes to a socket, or sends it elsewhere from now on: connections to where it went before end.
func (r *Relay) Serve(p Port) error {
	if p.Proto != unix.IPPROTO_TCP && p.Proto != unix.IPPROTO_UDP {
		return fmt.Errorf("protocol %d cannot be relayed", p.Proto)
	}
	if !p.To.IsValid() || p.To.Port() == 0 || p.To.Addr().IsUnspecified() || p.To.Addr().IsMulticast() {
		return fmt.Errorf("nothing can be relayed to %s", p.To)
	}
	if p.Proto == unix.IPPROTO_UDP {
		if err := unix.SetsockoptInt(p.Socket, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1); err != nil {
			return fmt.Errorf("ask for the address that clients ask: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return os.ErrClosed
	}
	if old := r.ports[p.Socket]; old != nil {
		if old.Port == p {
			return nil
		}
		r.stop(old)
	}
	if err := r.watch(unix.EPOLL_CTL_ADD, p.Socket, uint64(p.Socket)); err != nil {
		return fmt.Errorf("watch the socket that leads to %s: %w", p.To, err)
	}
	r.ports[p.Socket] = &port{Port: p}
	return nil
}

// Stop ends the port of a socket and all its connections; the socket is no longer used when it returns. What was not there is no error,
// nor is that there is no relay (nil).
func (r *Relay) Stop(socket int) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.ports[socket]; p != nil {
		r.stop(p)
	}
}

// Conns is how many TCP connections and UDP clients there are.
func (r *Relay) Conns() (tcp, udp int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conns, r.sessions.Len()
}

// Close stops all ports and waits for what is under way.
func (r *Relay) Close() {
	r.mu.Lock()
	r.closed = true
	for _, p := range r.ports {
		r.stop(p)
	}
	if r.sweeper != nil {
		r.sweeper.Stop()
	}
	r.mu.Unlock()
	_ = r.epoll.Close()
	r.work.Wait()
}

// watch has the loop see what comes to a descriptor, by the number id: a port's is its socket's, a session's is firstSession or more.
// Called with mu held, as all below that say nothing else.
func (r *Relay) watch(op, fd int, id uint64) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(uint32(id)), Pad: int32(uint32(id >> 32))}
	err := errors.New("the relay is closed")
	raw, rawErr := r.epoll.SyscallConn()
	if rawErr != nil {
		return rawErr
	}
	if ctlErr := raw.Control(func(epoll uintptr) { err = unix.EpollCtl(int(epoll), op, fd, &e) }); ctlErr != nil {
		return ctlErr
	}
	return err
}

func (r *Relay) stop(p *port) {
	delete(r.ports, p.Socket)
	if _, paused := r.paused[p]; paused {
		delete(r.paused, p)
	} else {
		_ = r.watch(unix.EPOLL_CTL_DEL, p.Socket, 0)
	}
	for c := range p.conns {
		c.end()
	}
	for _, s := range p.sessions {
		r.drop(s)
	}
}

// run is the loop: it waits for all sockets at once.
func (r *Relay) run() {
	raw, err := r.epoll.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, batch)
	for {
		n := 0
		if err := raw.Read(func(epoll uintptr) bool {
			n, _ = unix.EpollWait(int(epoll), events, 0)
			return n > 0
		}); err != nil {
			return
		}
		for _, e := range events[:n] {
			r.ready(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
		}
	}
}

// ready takes what has come to a socket. It takes mu.
func (r *Relay) ready(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id >= firstSession {
		if x := r.byID[id]; x != nil {
			r.answer(x)
		}
		return
	}
	switch x := r.ports[int(id)]; {
	case x == nil: // stopped meanwhile
	case x.Proto == unix.IPPROTO_UDP:
		r.receive(x)
	default:
		r.accept(x)
	}
}

// accept takes connections as long as there is room for them.
func (r *Relay) accept(p *port) {
	for range batch {
		if r.conns >= r.opts.Conns || len(p.conns) >= r.opts.PortConns {
			r.pause(p)
			return
		}
		fd, from, err := unix.Accept4(p.Socket, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		switch {
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM):
			r.pause(p)
			time.AfterFunc(retry, r.resume)
			return
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF):
			return
		case err != nil: // of a client who has given up
			continue
		}
		if sa, ok := from.(*unix.SockaddrInet6); !ok || netip.AddrFrom16(sa.Addr).Is4In6() {
			unix.Close(fd)
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		c := &conn{to: p.To, link: p.Link, end: cancel}
		if p.conns == nil {
			p.conns = map[*conn]struct{}{}
		}
		p.conns[c] = struct{}{}
		r.conns++
		r.work.Go(func() {
			c.carry(ctx, fd, &r.opts)
			cancel()
			r.mu.Lock()
			defer r.mu.Unlock()
			delete(p.conns, c)
			r.conns--
			if len(r.paused) > 0 {
				r.wake()
			}
		})
	}
}

// pause leaves connections in a port's socket.
func (r *Relay) pause(p *port) {
	if _, paused := r.paused[p]; paused {
		return
	}
	r.paused[p] = struct{}{}
	_ = r.watch(unix.EPOLL_CTL_DEL, p.Socket, 0)
}

// resume takes mu.
func (r *Relay) resume() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake()
}

// wake listens again to ports that there is room for.
func (r *Relay) wake() {
	for p := range r.paused {
		if r.closed || r.conns >= r.opts.Conns {
			return
		}
		if len(p.conns) < r.opts.PortConns && r.watch(unix.EPOLL_CTL_ADD, p.Socket, uint64(p.Socket)) == nil {
			delete(r.paused, p)
		}
	}
}
