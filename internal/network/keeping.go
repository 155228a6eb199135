package network

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/berth-engine/berth/internal/dns"
	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// keeping is the keeper's side: one goroutine, the relay's where there is something to relay, and while there is no daemon the name
// servers.
type keeping struct {
	path    string
	name    string    // what socketName says of the path: another one there is another keeper's
	host    *Networks // for its way into namespaces, no more
	kept    map[string]*keptContainer
	table   dns.Table
	retired sync.WaitGroup      // servers that still answer what they have begun
	names   map[string]*learner // by table
	relays  relays
}

type keptContainer struct {
	servers []netip.AddrPort
	sockets map[string]int
	server  *dns.Server
	bounds  []leash
	table   string
}

// Descriptors that the keeper is started with.
const (
	keeperConn     = 3
	keeperListener = 4
)

// Keep is the keeper process: path is its socket. It returns the exit code.
func Keep(path string) int {
	_ = os.WriteFile("/proc/self/comm", []byte(keeperName), 0)
	for _, fd := range []int{keeperConn, keeperListener} {
		unix.CloseOnExec(fd)
	}
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return 1
	}
	k := &keeping{path: path, host: &Networks{hostNS: own}, kept: map[string]*keptContainer{}, names: map[string]*learner{}}
	if _, err := unix.Getpeername(keeperConn); err != nil {
		return 2 // started by hand
	}
	k.name = os.Getenv(keeperSocketName)
	for conn := keeperConn; ; {
		k.obey(conn)
		unix.Close(conn)
		if len(k.kept) == 0 {
			return 0
		}
		k.serve()
		if conn, err = k.next(); err != nil {
			return 0
		}
		k.retire()
		for _, l := range k.names {
			l.reset()
		}
		if !k.handOver(conn) {
			unix.Close(conn)
		}
	}
}

// obey does what the daemon says until that is gone.
func (k *keeping) obey(conn int) {
	buf := make([]byte, keeperMessage)
	for {
		d, fds, err := receiveKeeper(conn, buf)
		if err != nil {
			return
		}
		switch d.Op {
		case keepInner:
			closeFds(fds)
			k.relays.keepFrom(d.Inner)
		case keepSet:
			k.set(d, fds)
		case keepDrop:
			k.drop(d)
			if sendKeeper(conn, keeperDocument{Op: keepDone}) != nil {
				return
			}
		default:
			closeFds(fds)
			return
		}
	}
}

func (k *keeping) set(d keeperDocument, fds []int) {
	c := k.kept[d.Container]
	if c == nil {
		c = &keptContainer{sockets: map[string]int{}}
		k.kept[d.Container] = c
	}
	c.servers, c.bounds, c.table = d.Servers, nil, d.Table
	for _, b := range d.Bounds {
		c.bounds = append(c.bounds, leash{b.Link, b.Addrs, keptPolicy(b.Network), keptPolicy(b.Own)})
	}
	for i, name := range d.Sockets {
		if old, ok := c.sockets[name]; ok {
			k.relays.relay.Stop(old)
			unix.Close(old)
		}
		c.sockets[name] = fds[i]
	}
	if len(d.Relays) > 0 {
		k.relays.keepFrom(d.Inner)
	}
	for _, r := range d.Relays {
		if fd, ok := c.sockets[r.Socket]; ok {
			k.relays.serve(r, fd)
		}
	}
	k.table.Set(d.Container, d.Places)
}

// keptPolicy reads a policy; one that cannot be read allows nothing.
func keptPolicy(text string) *egress {
	p, err := parseEgress(text)
	if err != nil {
		return &egress{text: text}
	}
	return p
}

func (k *keeping) drop(d keeperDocument) {
	c := k.kept[d.Container]
	if c == nil {
		return
	}
	for _, name := range d.Sockets {
		if fd, ok := c.sockets[name]; ok {
			k.relays.relay.Stop(fd)
			unix.Close(fd)
			delete(c.sockets, name)
		}
	}
	if len(d.Sockets) > 0 {
		return
	}
	for _, fd := range c.sockets {
		k.relays.relay.Stop(fd)
		unix.Close(fd)
	}
	delete(k.kept, d.Container)
	k.table.Set(d.Container, nil)
}

// serve answers the questions of every container.
func (k *keeping) serve() {
	for id, c := range k.kept {
		udp, okUDP := c.sockets[keptNamesUDP]
		tcp, okTCP := c.sockets[keptNamesTCP]
		if !okUDP || !okTCP {
			continue
		}
		pc, l, err := socketsOf(udp, tcp)
		if err != nil {
			continue
		}
		o := dns.Options{Names: k.table.View(id), Servers: hostServers, External: func() bool { return k.table.Leaves(id) }}
		bounded := len(c.bounds) > 0
		if ns, ok := c.sockets[keptNetNS]; ok && len(c.servers) > 0 {
			if fd, err := unix.FcntlInt(uintptr(ns), unix.F_DUPFD_CLOEXEC, 0); err == nil {
				askInside(&o, k.host, os.NewFile(uintptr(fd), keptNetNS), c.servers, func() bool { return bounded })
			}
		}
		k.bind(&o, c)
		c.server = dns.Serve(pc, l, o)
	}
}

// bind makes a name server keep to the container's policies, as Networks.obeyEgress does. What it does not ask for it
// tells nobody: there is no log while there is no daemon.
func (k *keeping) bind(o *dns.Options, c *keptContainer) {
	if len(c.bounds) == 0 {
		return
	}
	bounds := c.bounds
	o.Allowed = func(name string) bool { return mayResolve(bounds, name) }
	names := k.names[c.table]
	if names == nil {
		var err error
		if names, err = newLearner(c.table); err != nil {
			return // the addresses stay closed
		}
		k.names[c.table] = names
	}
	o.Learned = func(name string, answers []dns.Resolved) { _ = names.learn(bounds, name, answers) }
}

// socketsOf makes connections of descriptors, which stay the caller's.
func socketsOf(udp, tcp int) (net.PacketConn, net.Listener, error) {
	open := func(fd int) (*os.File, error) {
		fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewFile(uintptr(fd), "names"), err
	}
	u, err := open(udp)
	if err != nil {
		return nil, nil, err
	}
	defer u.Close()
	t, err := open(tcp)
	if err != nil {
		return nil, nil, err
	}
	defer t.Close()
	pc, err := net.FilePacketConn(u)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.FileListener(t)
	if err != nil {
		pc.Close()
		return nil, nil, err
	}
	return pc, l, nil
}

// retire stops reading questions.
func (k *keeping) retire() {
	for _, c := range k.kept {
		if s := c.server; s != nil {
			wait := s.Retire()
			k.retired.Go(func() { wait(); _ = s.Close() })
			c.server = nil
		}
	}
}

// handOver gives the next daemon all there is, and reports whether it took it.
func (k *keeping) handOver(conn int) bool {
	for id, c := range k.kept {
		d := keeperDocument{Op: keepHave, Container: id}
		var fds []int
		send := func() bool {
			err := sendKeeper(conn, d, fds...)
			d.Sockets, fds = nil, nil
			return err == nil
		}
		for name, fd := range c.sockets {
			d.Sockets, fds = append(d.Sockets, name), append(fds, fd)
			if len(fds) == linux.MaxFds && !send() {
				return false
			}
		}
		if !send() {
			return false
		}
	}
	return sendKeeper(conn, keeperDocument{Op: keepDone}) == nil
}

// next waits for a daemon. It fails when the socket is gone from its directory: nobody can come any more.
func (k *keeping) next() (conn int, err error) {
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, err
	}
	defer unix.Close(watch)
	const changes = unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	if _, err := unix.InotifyAddWatch(watch, filepath.Dir(k.path), changes); err != nil {
		return -1, err
	}
	events := make([]byte, 4096)
	for {
		if k.name == "" || socketName(k.path) != k.name {
			return -1, fs.ErrNotExist
		}
		ready := []unix.PollFd{{Fd: keeperListener, Events: unix.POLLIN}, {Fd: int32(watch), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && err != unix.EINTR {
			return -1, err
		}
		if ready[1].Revents != 0 {
			for n, err := unix.Read(watch, events); n > 0 && err == nil; {
				n, err = unix.Read(watch, events)
			}
		}
		if ready[0].Revents == 0 {
			continue
		}
		conn, _, err := unix.Accept4(keeperListener, unix.SOCK_CLOEXEC)
		if err == nil {
			return conn, nil
		}
	}
}

// keeperSocketName tells a keeper which socket is its own. One that looked itself could be late, and see its successor's.
const keeperSocketName = "BERTH_KEEPER_SOCKET"

// socketName tells sockets at a path apart, also where one has the inode of the last one; "" where there is none.
func socketName(path string) string {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d-%d.%d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
}
