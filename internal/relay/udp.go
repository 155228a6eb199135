package relay

import (
	"container/list"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// flow is a client of UDP and the address of the host that he asked.
type flow struct {
	peer  netip.AddrPort
	local netip.Addr
	link  uint32 // of addresses that have a meaning on one link only
}

// session is a flow with a socket of ours to the container.
type session struct {
	flow
	id      uint64
	fd      int
	port    *port
	used    time.Time
	all, in *list.Element // in the orders of the relay and of the port
}

const largest = 64 << 10 // bytes of a datagram

// receive carries datagrams of clients to the container. What a socket does not take is lost, as datagrams may be.
func (r *Relay) receive(p *port) {
	if r.buf == nil {
		r.buf = make([]byte, largest)
	}
	var oob [128]byte
	for range batch {
		n, oobn, flags, from, err := unix.Recvmsg(p.Socket, r.buf, oob[:], unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBADF) {
				return
			}
			continue // that an answer could not be delivered
		}
		f, link, ok := flowOf(from, oob[:oobn])
		if !ok || flags&unix.MSG_TRUNC != 0 || r.opts.Admit != nil && !r.opts.Admit(link) {
			continue
		}
		s := p.sessions[f]
		if s == nil {
			if s = r.open(p, f); s == nil {
				continue
			}
		}
		r.touch(s)
		_, err = unix.SendmsgN(s.fd, r.buf[:n], nil, nil, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.ECONNREFUSED) { // of an earlier one; this one was not sent
			_, _ = unix.SendmsgN(s.fd, r.buf[:n], nil, nil, unix.MSG_DONTWAIT)
		}
	}
}

// flowOf reads who sent a datagram, to which address, and by which link it came (RFC 3542, section 6).
func flowOf(from unix.Sockaddr, oob []byte) (f flow, link int, ok bool) {
	sa, ok := from.(*unix.SockaddrInet6)
	if !ok || sa.Port <= 0 || sa.Port > 65535 {
		return f, 0, false
	}
	f.peer = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return f, 0, false
		}
		if oob = rest; h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo {
			f.local, link = netip.AddrFrom16([16]byte(data[:16])), int(binary.NativeEndian.Uint32(data[16:20]))
		}
	}
	if !f.local.IsValid() || f.local.IsMulticast() || f.local.Is4In6() || f.peer.Addr().Is4In6() {
		return f, 0, false
	}
	if f.local.IsLinkLocalUnicast() || f.peer.Addr().IsLinkLocalUnicast() {
		f.link = uint32(link)
	}
	return f, link, true
}

// open makes a socket to the container for a client who is new; the longest silent one goes where there are too many.
func (r *Relay) open(p *port, f flow) *session {
	if p.sessions == nil {
		p.sessions, p.order = map[flow]*session{}, list.New()
	}
	for len(p.sessions) >= r.opts.PortSessions {
		r.drop(p.order.Front().Value.(*session))
	}
	for r.sessions.Len() >= r.opts.Sessions {
		r.drop(r.sessions.Front().Value.(*session))
	}
	r.last++
	s := &session{flow: f, id: r.last, port: p}
	var err error
	if s.fd, err = dialUDP(p.Port); err != nil {
		return nil
	}
	if r.watch(unix.EPOLL_CTL_ADD, s.fd, s.id) != nil {
		unix.Close(s.fd)
		return nil
	}
	s.all, s.in = r.sessions.PushBack(s), p.order.PushBack(s)
	p.sessions[f], r.byID[s.id] = s, s
	if r.sweeper == nil {
		r.sweeper = time.AfterFunc(r.opts.Idle, r.sweep)
	}
	return s
}

func dialUDP(p Port) (int, error) {
	family := unix.AF_INET
	var to unix.Sockaddr = &unix.SockaddrInet4{Port: int(p.To.Port())}
	if p.To.Addr().Is6() {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(p.To.Port()), Addr: p.To.Addr().As16()}
	} else {
		to.(*unix.SockaddrInet4).Addr = p.To.Addr().As4()
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if p.Link != "" {
		err = unix.BindToDevice(fd, p.Link)
	}
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// answer carries datagrams of the container to the client, from the address that he asked.
func (r *Relay) answer(s *session) {
	if r.buf == nil {
		r.buf = make([]byte, largest)
	}
	info := unix.Inet6Pktinfo{Addr: s.local.As16(), Ifindex: s.link}
	oob := unix.PktInfo6(&info)
	to := &unix.SockaddrInet6{Addr: s.peer.Addr().As16(), Port: int(s.peer.Port()), ZoneId: s.link}
	for range batch {
		n, _, flags, _, err := unix.Recvmsg(s.fd, r.buf, nil, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		r.touch(s)
		if flags&unix.MSG_TRUNC == 0 {
			_, _ = unix.SendmsgN(s.port.Socket, r.buf[:n], oob, to, unix.MSG_DONTWAIT)
		}
	}
}

func (r *Relay) touch(s *session) {
	s.used = time.Now()
	r.sessions.MoveToBack(s.all)
	s.port.order.MoveToBack(s.in)
}

func (r *Relay) drop(s *session) {
	delete(r.byID, s.id)
	delete(s.port.sessions, s.flow)
	r.sessions.Remove(s.all)
	s.port.order.Remove(s.in)
	unix.Close(s.fd) // which takes it out of the epoll: nobody else has it
}

// sweep forgets clients who are silent. It takes mu.
func (r *Relay) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweeper = nil
	if r.closed {
		return
	}
	for e := r.sessions.Front(); e != nil; e = r.sessions.Front() {
		left := time.Until(e.Value.(*session).used.Add(r.opts.Idle))
		if left > 0 {
			r.sweeper = time.AfterFunc(left, r.sweep)
			return
		}
		r.drop(e.Value.(*session))
	}
}
