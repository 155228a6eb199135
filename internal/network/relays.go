package network

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/relay"
	"golang.org/x/sys/unix"
)

// A container that has IPv4 only is reached by the host's IPv6 addresses, too, as with Docker: no rule translates between the two, so
// what comes to a published port by IPv6 is relayed (package relay), by the keeper, or by the daemon where no keeper can be started.
// The socket that holds the port anyway is the one that listens; "-p 80:80" has one for both versions of IP, of which the rules
// translate IPv4 before it is reached, and a filter on it drops what they did not.
//
// The socket is the host's, so the host's own rules for input decide who comes to it, whatever the policy of published ports is. Internal
// networks stay inside: who came by one of their bridges is not served. The relay speaks to the container by the bridge of its
// network, as the host does, and is seen with that bridge's address.

// relayed reports whether a port leads to a container of the other version of IP.
func (p heldPort) relayed() bool { return p.by == nil && p.host.Addr().Is6() && p.to.Addr().Is4() }

// mayRelay reports whether a container whose way in is gw4 can have ports relayed. It takes mu.
func (n *Networks) mayRelay(h *holding, gw4 *endpoint) bool {
	if !n.opts.Relay || gw4 == nil || gw4.routed(ip4) {
		return false
	}
	n.mu.Lock()
	_, gw6 := h.gateways()
	n.mu.Unlock()
	return gw6.bridged() == nil && hasLoopback6()
}

// hasLoopback6 reports whether programs of this host listen on addresses of IPv6.
func hasLoopback6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}) == nil
}

// linkTo is the bridge by which an address of the container is reached. Called with Networks.mu held.
func (h *holding) linkTo(a netip.Addr) string {
	for _, e := range h.endpoints {
		if e.state.IPv4.Addr() == a {
			return e.network.rec.Link
		}
	}
	return ""
}

// isBoth reports whether a socket holds a port of both versions of IP.
func isBoth(fd int) bool {
	only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	return err == nil && only == 0
}

// holdsBoth reports whether the socket of a port of IPv6, which the keeper gave back, holds this one of IPv4 as well. Called with
// Networks.mu held.
func (h *holding) holdsBoth(proto protocol, host netip.AddrPort, kept map[string]int) bool {
	if host.Addr() != netip.IPv4Unspecified() {
		return false
	}
	six := netip.AddrPortFrom(netip.IPv6Unspecified(), host.Port())
	if fd, ok := kept[keptPort(proto, six)]; ok {
		return isBoth(fd)
	}
	return slices.ContainsFunc(h.ports, func(p heldPort) bool { return p.proto == proto && p.host == six && p.fd >= 0 && isBoth(p.fd) })
}

// leaveSocket gives the socket of a port that closes to the one of IPv4 that stays and is held by it. Called with mu held.
func (n *Networks) leaveSocket(p heldPort, kept []heldPort) {
	if p.fd < 0 || !p.host.Addr().Is6() || !isBoth(p.fd) {
		return
	}
	i := slices.IndexFunc(kept, func(q heldPort) bool {
		return q.proto == p.proto && q.fd < 0 && q.host == netip.AddrPortFrom(netip.IPv4Unspecified(), p.host.Port())
	})
	if i < 0 {
		return
	}
	n.here.stop(p.fd)
	if err := p.reuse(useNone); err != nil {
		n.log.Error("keep a published port", "port", kept[i].host, "error", err)
	}
	kept[i].fd, p.fd = p.fd, -1
}

// innerLinks are the bridges of internal networks. Called with mu held.
func (n *Networks) innerLinks() (links []string) {
	for _, nw := range n.networks {
		if nw.rec.Internal && nw.rec.Driver == driverBridge {
			links = append(links, nw.rec.Link)
		}
	}
	slices.Sort(links)
	return links
}

// tellInner tells who relays which networks are internal, when there is another one.
func (n *Networks) tellInner() {
	n.mu.Lock()
	links := n.innerLinks()
	n.mu.Unlock()
	n.here.keepFrom(links)
	k := n.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fd < 0 || !k.relays {
		return
	}
	if err := sendKeeper(k.fd, keeperDocument{Op: keepInner, Inner: links}); err != nil {
		k.lose(fmt.Errorf("tell it the internal networks: %w", err))
	}
}

// relayHere relays a container's ports in this process.
func (n *Networks) relayHere(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.held[id]
	if h == nil || n.shut {
		return
	}
	n.here.keepFrom(n.innerLinks())
	for _, p := range h.ports {
		switch {
		case p.fd < 0:
		case p.relayed():
			n.here.serve(keptRelay{keptPort(p.proto, p.host), p.to, h.linkTo(p.to.Addr())}, p.fd)
		default:
			n.here.stop(p.fd)
		}
	}
}

// relayedPorts are the ports of a container that are relayed, and where to.
func (n *Networks) relayedPorts(id string) map[publishedBy]netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := map[publishedBy]netip.AddrPort{}
	if h := n.held[id]; h != nil {
		for _, p := range h.ports {
			if p.relayed() {
				all[publishedBy{p.proto.String(), p.host}] = p.to
			}
		}
	}
	return all
}

// relays are the ports that this process relays.
type relays struct {
	mu     sync.Mutex
	relay  *relay.Relay // nil: there were none yet
	inner  atomic.Pointer[[]string]
	socket *os.File // to ask for names of links
}

// keepFrom names the links from which nobody is served.
func (r *relays) keepFrom(links []string) { r.inner.Store(&links) }

// serve relays the port of a socket, or no more.
func (r *relays) serve(k keptRelay, fd int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !k.To.IsValid() {
		r.relay.Stop(fd)
		return
	}
	if r.relay == nil {
		socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return
		}
		if r.relay, err = relay.New(relay.Options{Admit: func(link int) bool { return r.admit(socket, link) }}); err != nil {
			unix.Close(socket)
			return
		}
		r.socket = os.NewFile(uintptr(socket), "links")
	}
	p := relay.Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: k.To, Link: k.Link}
	if strings.HasPrefix(k.Socket, "udp/") {
		p.Proto = unix.IPPROTO_UDP
	}
	_ = r.relay.Serve(p) // the socket is one that was bound for it
}

// admit keeps internal networks inside.
func (r *relays) admit(socket, link int) bool {
	inner := r.inner.Load()
	if inner == nil || len(*inner) == 0 {
		return true
	}
	name, err := linux.LinkName(socket, link)
	return err == nil && !slices.Contains(*inner, name)
}

func (r *relays) stop(socket int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.relay.Stop(socket)
}

func (r *relays) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.relay != nil {
		r.relay.Close()
		r.socket.Close()
	}
}
