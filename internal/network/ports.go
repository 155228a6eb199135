package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// reservation is a host port that nobody else can bind while we hold it.
type reservation struct {
	proto protocol
	host  netip.AddrPort
	fd    int // -1 where another reservation's socket has it too, or the kernel does not know the protocol: then only our own book does
}

func (r *reservation) close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
	}
}

// portKey is a port as the book of what is published counts it.
type portKey struct {
	proto protocol
	host  netip.AddrPort
}

// clash reports whether two published ports cannot stand beside each other.
func (k portKey) clash(o portKey) bool {
	return k.proto == o.proto && k.host.Port() == o.host.Port() && k.host.Addr().Is4() == o.host.Addr().Is4() &&
		(k.host.Addr() == o.host.Addr() || k.host.Addr().IsUnspecified() || o.host.Addr().IsUnspecified())
}

// wantedPort is a PortRequest that was read.
type wantedPort struct {
	container uint16
	proto     protocol
	hosts     []netip.Addr // one of each version at most
	lo, hi    uint16       // 0: any
	relayed   bool         // what comes to an address of IPv6
}

// ways are the versions of IP by which a container can be reached.
type ways struct {
	v4, v6 bool
	// relay says that what comes by IPv6 can be carried to a container that has IPv4 only.
	relay bool
}

// parsePorts reads what a user asked for. anyHost is where ports without an address go.
func parsePorts(requests []PortRequest, anyHost netip.Addr, by ways) ([]wantedPort, error) {
	var wanted []wantedPort
	for _, r := range requests {
		bad := func(format string, args ...any) error { return failf(errdefs.ErrInvalidArgument, format, args...) }
		w := wantedPort{container: r.Container}
		switch strings.ToLower(r.Proto) {
		case "", "tcp":
			w.proto = unix.IPPROTO_TCP
		case "udp":
			w.proto = unix.IPPROTO_UDP
		case "sctp":
			w.proto = unix.IPPROTO_SCTP
		default:
			return nil, bad("invalid protocol %q of published port %d: it is tcp, udp or sctp", r.Proto, r.Container)
		}
		if r.Container == 0 {
			return nil, bad("invalid container port 0: ports are 1 to 65535")
		}
		host := anyHost
		if r.HostIP != "" {
			var err error
			if host, err = parseHostIP(r.HostIP); err != nil {
				return nil, bad("invalid host address %q of published port %d: %w", r.HostIP, r.Container, err)
			}
		}
		v4, v6 := by.v4, by.v6
		if by.relay && by.v4 && !by.v6 && w.proto != unix.IPPROTO_SCTP {
			v6, w.relayed = true, true
		}
		switch {
		case !host.IsValid():
			if v4 {
				w.hosts = append(w.hosts, netip.IPv4Unspecified())
			}
			if v6 {
				w.hosts = append(w.hosts, netip.IPv6Unspecified())
			}
		case host.Is4() && !v4, host.Is6() && !v6:
			if r.HostIP == "" {
				return nil, bad("port %d cannot be published on %s, where the daemon publishes ports (\"ip\"): the container has no address of "+
					"that kind; name an address with the port", r.Container, host)
			}
			if !host.Is6() || !host.IsUnspecified() {
				return nil, bad("port %d cannot be published on %s: the container has no address of that kind", r.Container, host)
			}
		default:
			w.hosts = []netip.Addr{host}
		}
		lo, hi, ranged := strings.Cut(r.HostPort, "-")
		if !ranged {
			hi = lo
		}
		var err error
		if lo != "" {
			if w.lo, err = parsePort(lo); err == nil {
				w.hi, err = parsePort(hi)
			}
		}
		if err != nil || w.lo > w.hi || (ranged && w.lo == 0) {
			return nil, bad("invalid host port %q: it is a number up to 65535 or a range as in 8000-8010", r.HostPort)
		}
		if len(w.hosts) > 0 {
			wanted = append(wanted, w)
		}
	}
	return wanted, nil
}

// parseHostIP reads an address of the host that programs can listen on.
func parseHostIP(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.Trim(text, "[]"))
	a = a.Unmap()
	switch {
	case err != nil:
		return a, errors.New("it is an address of the host, as in 192.0.2.7 or [2001:db8::7]")
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, errors.New("it is the address of many hosts")
	case a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast():
		return a, errors.New("an address of one link only cannot be published on")
	}
	return a, nil
}

func parsePort(s string) (uint16, error) {
	v, err := strconv.ParseUint(s, 10, 16)
	return uint16(v), err
}

// reserve binds a socket for each host address of the wanted port, all with the same number. taken says whether one of
// our own containers has it already.
func (w wantedPort) reserve(taken func(portKey) bool) ([]*reservation, error) {
	if w.lo == 0 {
		return w.reserveAny(taken)
	}
	var failed error
	for port := int(w.lo); port <= int(w.hi); port++ {
		rs, err := w.reserveAt(uint16(port), taken)
		if err == nil {
			return rs, nil
		}
		failed = err
		if !errors.Is(err, errdefs.ErrConflict) {
			break
		}
	}
	if w.hi > w.lo && errors.Is(failed, errdefs.ErrConflict) {
		return nil, failf(errdefs.ErrConflict, "Bind for %s:%d-%d failed: all ports are allocated", w.hosts[0], w.lo, w.hi)
	}
	return nil, failed
}

// reserveAny lets the kernel choose for the first address and follows for the others.
func (w wantedPort) reserveAny(taken func(portKey) bool) ([]*reservation, error) {
	const attempts = 64
	for range attempts {
		first, rest, err := w.bindFirst(0)
		if err != nil {
			return nil, err
		}
		port := first[0].host.Port()
		if port == 0 {
			closeAll(first)
			return nil, failf(errdefs.ErrInvalidArgument,
				"a free port of protocol %s cannot be found on this kernel: name one", w.proto)
		}
		if slices.ContainsFunc(first, func(r *reservation) bool { return taken(portKey{w.proto, r.host}) }) {
			closeAll(first)
			continue
		}
		more, err := rest.reserveAt(port, taken)
		if err == nil {
			return append(first, more...), nil
		}
		closeAll(first)
		if !errors.Is(err, errdefs.ErrConflict) {
			return nil, err
		}
	}
	return nil, failf(errdefs.ErrResourceExhausted, "no free host port was found for protocol %s", w.proto)
}

func (w wantedPort) reserveAt(port uint16, taken func(portKey) bool) (rs []*reservation, err error) {
	defer func() {
		if err != nil {
			closeAll(rs)
		}
	}()
	for _, h := range w.hosts {
		if host := netip.AddrPortFrom(h, port); taken(portKey{w.proto, host}) {
			return rs, failf(errdefs.ErrConflict, "Bind for %s failed: port is already allocated", host)
		}
	}
	for len(w.hosts) > 0 {
		var more []*reservation
		if more, w, err = w.bindFirst(port); err != nil {
			return rs, err
		}
		rs = append(rs, more...)
	}
	return rs, nil
}

// bindFirst binds the port, which may be 0, of the first host address, and says what is left to be bound. Every address of both
// versions is one socket where those of IPv6 are relayed: half of the descriptors, and the kernel's choice is free in both.
func (w wantedPort) bindFirst(port uint16) (rs []*reservation, rest wantedPort, err error) {
	rest = w
	use := useNone
	if w.relayed && w.hosts[0].Is6() {
		use = useRelay
	}
	if w.relayed && len(w.hosts) == 2 && w.hosts[0] == netip.IPv4Unspecified() && w.hosts[1] == netip.IPv6Unspecified() {
		both, err := bind(w.proto, netip.AddrPortFrom(w.hosts[1], port), useRelayBoth)
		if err == nil {
			rest.hosts = nil
			four := &reservation{proto: w.proto, host: netip.AddrPortFrom(w.hosts[0], both.host.Port()), fd: -1}
			return []*reservation{four, both}, rest, nil
		}
		// Whose address is it? One by one the right one is named.
	}
	host := netip.AddrPortFrom(w.hosts[0], port)
	r, err := bind(w.proto, host, use)
	if err != nil {
		return nil, rest, bindError(w.proto, host, err)
	}
	rest.hosts = w.hosts[1:]
	return []*reservation{r}, rest, nil
}

func closeAll(rs []*reservation) {
	for _, r := range rs {
		r.close()
	}
}

func bindError(proto protocol, host netip.AddrPort, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return failf(errdefs.ErrConflict, "Bind for %s failed: port is already allocated: a program on the host has %s port %d",
			host, proto, host.Port())
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return failf(errdefs.ErrInvalidArgument, "Bind for %s failed: the host has no address %s", host, host.Addr())
	}
	return fmt.Errorf("reserve host port %s/%s: %w", host, proto, err)
}

// socketUse is what becomes of packets that reach a socket which holds a port.
type socketUse byte

const (
	useNone      socketUse = iota // they are dropped rather than queued
	useRelay                      // those of IPv6 are relayed
	useRelayBoth                  // the same, and the port of IPv4 is held as well
)

// relayBacklog is how many connections wait for the relay.
const relayBacklog = 512

// bind takes the port from the host. The socket is there to be seen in lists and to keep others out: packets to the port
// are translated before they could reach it, but for those of IPv6 to a port that is relayed.
func bind(proto protocol, host netip.AddrPort, use socketUse) (*reservation, error) {
	r := &reservation{proto: proto, host: host, fd: -1}
	family, typ := unix.AF_INET, unix.SOCK_STREAM
	if host.Addr().Is6() {
		family = unix.AF_INET6
	}
	if proto == unix.IPPROTO_UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(proto))
	if errors.Is(err, unix.EPROTONOSUPPORT) && proto == unix.IPPROTO_SCTP {
		return r, nil // no program on this host can take it either
	}
	if err != nil {
		return nil, err
	}
	if err := bindTo(fd, proto, host, use); err != nil {
		unix.Close(fd)
		return nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	switch sa := name.(type) {
	case *unix.SockaddrInet4:
		r.host = netip.AddrPortFrom(host.Addr(), uint16(sa.Port))
	case *unix.SockaddrInet6:
		r.host = netip.AddrPortFrom(host.Addr(), uint16(sa.Port))
	}
	r.fd = fd
	return r, nil
}

func bindTo(fd int, proto protocol, host netip.AddrPort, use socketUse) error {
	if err := sift(fd, use); err != nil {
		return err
	}
	if proto == unix.IPPROTO_TCP {
		// Connections that a program had here and that linger must not stand in the way. A socket that listens is
		// not shared by this option; one of UDP would be.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(host.Port()), Addr: as4(host.Addr())}
	if host.Addr().Is6() {
		only := 1
		if use == useRelayBoth {
			only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return err
		}
		sa = &unix.SockaddrInet6{Port: int(host.Port()), Addr: host.Addr().As16()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	return listen(fd, proto, use)
}

func listen(fd int, proto protocol, use socketUse) error {
	switch {
	case proto != unix.IPPROTO_TCP:
		return nil
	case use == useNone:
		return unix.Listen(fd, 0)
	}
	return unix.Listen(fd, relayBacklog)
}

// sift makes a socket take nothing, or nothing but IPv6 (by what the link layer calls the packet, filter.txt of the kernel's
// documents: SKF_AD_PROTOCOL).
func sift(fd int, use socketUse) error {
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	if use != useNone {
		const adOffset = 1<<32 - 0x1000 // SKF_AD_OFF, SKF_AD_PROTOCOL being 0
		program = []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: adOffset},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.ETH_P_IPV6},
			{Code: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// reuse gives a socket that holds a port another use.
func (r *reservation) reuse(use socketUse) error {
	if r.fd < 0 {
		return nil
	}
	return errors.Join(sift(r.fd, use), listen(r.fd, r.proto, use))
}

func as4(a netip.Addr) [4]byte {
	if a.Is4() {
		return a.As4()
	}
	return [4]byte{}
}
