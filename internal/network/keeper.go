package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/dns"
	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// The keeper is a process beside the daemon that outlives it. It has a copy of the sockets of published ports and name
// servers, and knows what the table of names says. While the daemon lives it does nothing with those of names; from the moment the
// daemon is gone, killed or not, it answers the containers' questions, until the next daemon takes over. What comes to ports by
// IPv6 for containers that have IPv4 only it relays all the time (package relay), so that no daemon's end ends a connection.
//
//	daemon                                    keeper
//	  │ starts it with a socketpair and the listener of keeper.sock
//	  ├─ set  container, places, sockets + fds ─▶ has them; and the log of what egress policies refuse, as a container
//	  ├─ set  container, … relays, inner ───────▶ relays what comes to these sockets, unless it comes from an internal network
//	  ├─ inner links ───────────────────────────▶ those are the bridges of internal networks from now on
//	  ├─ drop container, sockets ───────────────▶ closes them
//	  ◀──────────────────────────────────── done ┤ (now the ports can be taken by others)
//	  ✗ end of the stream                        ├ answers names; with nothing to keep, or without its socket, it ends
//	next daemon
//	  ├─ connects to keeper.sock ───────────────▶ reads no question any more; what it has begun it answers
//	  ◀── have container, sockets + fds … done ──┤
//	  ├─ set, drop …
//
// The sockets are never bound anew in between, so a question that comes meanwhile waits in them. Messages are JSON, one
// each in a SOCK_SEQPACKET. Both sides end the connection at what they do not understand; the daemon then binds the
// sockets itself, as it does where no keeper is. A keeper that ends while the daemon lives is replaced at once: the daemon
// might be the next to go.
const (
	keeperVersion = 1
	keeperSocket  = "keeper.sock"
	keeperName    = "berth-keeper" // what ps shows
	// keeperPatience is how long the daemon waits for the keeper, which answers at once unless somebody has stopped it.
	keeperPatience = 30 * time.Second
	keeperMessage  = 192 << 10 // bytes, less than a socket of the kernel's default size takes
)

type keeperOp string

const (
	keepSet  keeperOp = "set"
	keepDrop keeperOp = "drop"
	keepHave keeperOp = "have"
	keepDone keeperOp = "done"
	// keepInner is of version 3, as are relays.
	keepInner keeperOp = "inner"
)

// keeperDocument is a message. Sockets name the descriptors beside it.
type keeperDocument struct {
	Version   int              `json:"version"`
	Op        keeperOp         `json:"op"`
	Container string           `json:"container,omitempty"`
	Places    []dns.Place      `json:"places,omitempty"`
	Servers   []netip.AddrPort `json:"servers,omitempty"` // to ask in the container's namespace; none means the host's
	Sockets   []string         `json:"sockets,omitempty"` // of drop: none means all
	// Bounds are where the container may go, and Table is where its names are put for that. Version 2 has them; a document
	// without is of version 1.
	Bounds []keptBound `json:"bounds,omitempty"`
	Table  string      `json:"table,omitempty"`
	// Relays say where what comes to sockets goes, and Inner which bridges are of internal networks. Version 3 has them.
	Relays []keptRelay `json:"relays,omitempty"`
	Inner  []string    `json:"inner,omitempty"`
}

// keptRelay is a socket that is relayed; with To the zero value it is no more. Link is the bridge of To's network.
type keptRelay struct {
	Socket string         `json:"socket"`
	To     netip.AddrPort `json:"to"`
	Link   string         `json:"link,omitempty"`
}

// keptBound is a leash with its policies as they are written.
type keptBound struct {
	Link    string       `json:"link,omitempty"`
	Addrs   []netip.Addr `json:"addrs,omitempty"`
	Network string       `json:"network,omitempty"`
	Own     string       `json:"own,omitempty"`
}

// boundsVersion is that of documents with bounds: who does not know them must not answer for them.
const boundsVersion = 2

// relayVersion is that of documents with relays: who does not know them ends the connection, and the next keeper does.
const relayVersion = 3

// Names of sockets: these, and "tcp/0.0.0.0:80" for a port.
const (
	keptNamesUDP = "names/udp"
	keptNamesTCP = "names/tcp"
	keptNetNS    = "netns"
)

func keptPort(proto protocol, host netip.AddrPort) string {
	return proto.String() + "/" + host.String()
}

// keeper is the daemon's side.
type keeper struct {
	path string // of the socket
	log  *slog.Logger

	mu   sync.Mutex
	argv []string // of the program; none: there shall be no keeper
	fd   int      // -1: not there
	life int      // how many there have been
	// has are the sockets it has of containers, and where they are relayed to.
	has map[string]map[string]keptRelay
	// relays says that it knows relays.
	relays bool
	// told says that the last start of it failed and that this was logged.
	told bool
	// again makes another one after somebody killed it; short is how often in a row it did not live for a second.
	again func()
	short int
}

// manyShort keepers are enough: what ends them at once ends the next one, too. The next change tries again.
const manyShort = 5

func newKeeper(argv []string, runDir string, log *slog.Logger) *keeper {
	return &keeper{argv: argv, path: filepath.Join(runDir, keeperSocket), log: log, fd: -1, has: map[string]map[string]keptRelay{}}
}

// adopt connects to the keeper that the last daemon left, and returns the descriptors it has: the caller's from now on.
func (k *keeper) adopt() map[string]map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.argv) == 0 {
		return nil
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: k.path}); err != nil {
		unix.Close(fd)
		return nil
	}
	k.use(fd, nil)
	found := map[string]map[string]int{}
	err = k.receive(func(d keeperDocument, fds []int) {
		if found[d.Container] == nil {
			found[d.Container], k.has[d.Container] = map[string]int{}, map[string]keptRelay{}
		}
		for i, name := range d.Sockets {
			found[d.Container][name] = fds[i]
			k.has[d.Container][name] = keptRelay{}
		}
	})
	if err != nil {
		k.lose(fmt.Errorf("take over from it: %w", err))
		_ = os.Remove(k.path) // it ends
	}
	return found
}

// use makes fd the connection, and another keeper when this one ends without being told to. Called with mu held.
func (k *keeper) use(fd int, child *os.Process) {
	limit := unix.NsecToTimeval(int64(keeperPatience))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	k.fd, k.relays = fd, false
	k.life++
	watched, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		k.log.Warn("the end of the keeper of ports and names will be noticed late", "error", err)
	}
	go k.watch(watched, k.life, child, time.Now())
}

// watch waits for the end of the connection that watched is a copy of. Where that was not our doing another keeper is made: should
// the daemon be killed next, there must be one. A child is waited for.
func (k *keeper) watch(watched, life int, child *os.Process, since time.Time) {
	if watched >= 0 {
		hung := []unix.PollFd{{Fd: int32(watched)}}
		for _, err := unix.Poll(hung, -1); err == unix.EINTR; _, err = unix.Poll(hung, -1) {
		}
		unix.Close(watched)
	}
	if child != nil {
		_, _ = child.Wait()
	}
	k.mu.Lock()
	ended := k.life == life && k.fd >= 0 && (watched >= 0 || child != nil)
	if ended {
		k.lose(errors.New("it has ended"))
		if k.short++; time.Since(since) > time.Second {
			k.short = 0
		}
	}
	again := ended && k.short < manyShort
	k.mu.Unlock()
	if again {
		k.again()
	}
}

// receive calls have for each message until "done".
func (k *keeper) receive(have func(keeperDocument, []int)) error {
	buf := make([]byte, keeperMessage)
	for {
		d, fds, err := receiveKeeper(k.fd, buf)
		switch {
		case err != nil:
			return err
		case d.Op == keepDone:
			return nil
		case d.Op != keepHave || have == nil:
			closeFds(fds)
			return fmt.Errorf("it said %q unasked", d.Op)
		}
		have(d, fds)
	}
}

func receiveKeeper(fd int, buf []byte) (d keeperDocument, fds []int, err error) {
	n, fds, err := linux.RecvFds(fd, buf)
	if err == nil && n == 0 {
		err = errors.New("the other side has ended")
	}
	if err == nil {
		err = json.Unmarshal(buf[:n], &d)
	}
	if err == nil && (d.Version < keeperVersion || d.Version > relayVersion) {
		err = fmt.Errorf("the other side speaks version %d", d.Version)
	}
	if err == nil && d.Op != keepDrop && len(d.Sockets) != len(fds) {
		err = fmt.Errorf("%d descriptors instead of %d", len(fds), len(d.Sockets))
	}
	if err != nil {
		closeFds(fds)
		return d, nil, err
	}
	return d, fds, nil
}

func closeFds(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

var errKeeperMessage = errors.New("a message that is too long")

func sendKeeper(socket int, d keeperDocument, fds ...int) error {
	d.Version = keeperVersion
	if len(d.Bounds) > 0 {
		d.Version = boundsVersion
	}
	if len(d.Relays) > 0 || d.Op == keepInner {
		d.Version = relayVersion
	}
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if len(text) > keeperMessage {
		return fmt.Errorf("%w: %d bytes", errKeeperMessage, len(text))
	}
	return linux.SendFds(socket, text, fds...)
}

// lose ends the connection; the keeper ends or serves, as its state is.
func (k *keeper) lose(err error) {
	if k.fd < 0 {
		return
	}
	k.log.Warn("the keeper of ports and names is lost", "error", err)
	k.hangUp()
	k.has = map[string]map[string]keptRelay{}
}

// hangUp ends the connection for whoever holds a copy of it, too. Called with mu held.
func (k *keeper) hangUp() {
	_ = unix.Shutdown(k.fd, unix.SHUT_RDWR)
	unix.Close(k.fd)
	k.fd = -1
}

// start runs a new keeper. What is sent to it waits until it has begun.
func (k *keeper) start() (err error) {
	_ = os.Remove(k.path) // one that is lost ends when its socket goes
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	listener := os.NewFile(uintptr(l), keeperSocket)
	defer listener.Close()
	if err := unix.Bind(l, &unix.SockaddrUnix{Name: k.path}); err != nil {
		return fmt.Errorf("make %q: %w", k.path, err)
	}
	if err := errors.Join(unix.Chmod(k.path, 0o600), unix.Listen(l, 1)); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(pair[1]), "socketpair")
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	defer null.Close()
	// A session of its own: what is meant for the daemon's terminal must not reach it.
	argv := append(slices.Clone(k.argv[1:]), k.path)
	p, err := os.StartProcess(k.argv[0], argv, &os.ProcAttr{Dir: "/", Env: append(keeperEnv(), keeperSocketName+"="+socketName(k.path)),
		Files: []*os.File{null, null, null, theirs, listener}, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		unix.Close(pair[0])
		return err
	}
	k.use(pair[0], p)
	return nil
}

// keeperEnv keeps the keeper small: it has next to nothing to collect, and one thing to do at a time.
func keeperEnv() []string { return []string{"GOGC=25", "GOMAXPROCS=1"} }

// keep tells the keeper what a container has.
func (n *Networks) keep(id string) {
	k := n.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.argv) == 0 {
		n.relayHere(id)
		return
	}
	all, fresh := []string{id}, k.fd < 0
	if fresh {
		if !n.worthKeeping(id) {
			return
		}
		if err := k.start(); err != nil {
			if !k.told {
				k.log.Warn("ports and names of containers rest while the daemon is away, because their keeper cannot start", "error", err)
			}
			k.told = true
			n.relayHere(id)
			return
		}
		k.told = false
		n.mu.Lock()
		all = slices.Collect(maps.Keys(n.held))
		n.mu.Unlock()
	}
	for _, id := range all {
		if err := n.keepOne(id); err != nil {
			k.lose(err)
			if !fresh { // the next one has ports to relay
				go k.again()
			}
			return
		}
	}
	if err := n.keepLog(); err != nil {
		k.lose(err)
	}
}

// keepAll gives a new keeper what the last one had.
func (n *Networks) keepAll() {
	n.mu.Lock()
	ids := slices.Collect(maps.Keys(n.held))
	n.mu.Unlock()
	for _, id := range ids {
		if n.worthKeeping(id) {
			n.keep(id) // the first one brings the others with it
			return
		}
	}
}

func (n *Networks) worthKeeping(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.held[id]
	return h != nil && !n.shut && (h.resolver != nil || slices.ContainsFunc(h.ports, func(p heldPort) bool { return p.fd >= 0 }))
}

// keepOne sends the sockets that the keeper does not have yet. No socket is closed meanwhile: whoever closes one takes it
// from the holding first and then asks the keeper to drop it, which waits for k.mu, held here.
func (n *Networks) keepOne(id string) error {
	k := n.keeper
	if !n.worthKeeping(id) {
		return nil
	}
	n.mu.Lock()
	h := n.held[id]
	if h == nil {
		n.mu.Unlock()
		return nil
	}
	d := keeperDocument{Op: keepSet, Container: id, Places: h.places()}
	for _, b := range h.bounds() {
		d.Bounds = append(d.Bounds, keptBound{b.link, b.addrs, b.network.String(), b.own.String()})
		d.Table = n.tableName()
	}
	sockets, relays := map[string]int{}, map[string]keptRelay{}
	for _, p := range h.ports {
		if p.fd < 0 {
			continue
		}
		name := keptPort(p.proto, p.host)
		sockets[name] = p.fd
		if p.relayed() {
			relays[name] = keptRelay{name, p.to, h.linkTo(p.to.Addr())}
		}
	}
	if r := h.resolver; r != nil {
		sockets[keptNamesUDP], sockets[keptNamesTCP] = r.udp, r.tcp
		if d.Servers = r.servers; r.ns != nil {
			sockets[keptNetNS] = int(r.ns.Fd())
		}
	}
	inner := n.innerLinks()
	n.mu.Unlock()
	has := k.has[id]
	if has == nil {
		has = map[string]keptRelay{}
		k.has[id] = has
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(sockets)), func(name string) bool {
		told, ok := has[name]
		return ok && told == relays[name]
	})
	for first := true; first || len(names) > 0; first = false {
		part := names[:min(len(names), linux.MaxFds)]
		names = names[len(part):]
		var fds []int
		d.Sockets, d.Relays, d.Inner = nil, nil, nil
		for _, name := range part {
			told, ok := has[name]
			if !ok {
				d.Sockets, fds = append(d.Sockets, name), append(fds, sockets[name])
			}
			if r := relays[name]; r != told {
				r.Socket = name
				d.Relays, d.Inner = append(d.Relays, r), inner
			}
		}
		err := sendKeeper(k.fd, d, fds...)
		if errors.Is(err, errKeeperMessage) { // of the names and links of one container
			k.log.Warn("the ports and names of a container rest while the daemon is away", "container", id, "error", err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("give it the sockets of container %s: %w", id, err)
		}
		for _, name := range part {
			has[name] = relays[name]
		}
		k.relays = k.relays || len(d.Relays) > 0
	}
	return nil
}

// drop returns when the keeper has closed these sockets of a container, or all of them when none is named. It must come
// between taking a socket out of the holding and closing it.
func (k *keeper) drop(id string, sockets ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	has := k.has[id]
	whole := len(sockets) == 0
	sockets = slices.DeleteFunc(sockets, func(name string) bool { _, ok := has[name]; return !ok })
	if k.fd < 0 || has == nil || !whole && len(sockets) == 0 {
		return
	}
	if whole {
		delete(k.has, id)
	}
	for part := range chunks(sockets, whole) {
		err := sendKeeper(k.fd, keeperDocument{Op: keepDrop, Container: id, Sockets: part})
		if err == nil {
			err = k.receive(nil)
		}
		if err != nil {
			k.lose(fmt.Errorf("let it drop the sockets of container %s: %w", id, err))
			_ = os.Remove(k.path) // so that it ends
			return
		}
	}
	for _, name := range sockets {
		delete(has, name)
	}
}

// chunks gives lists that fit into a message; one empty list where all is meant.
func chunks(names []string, whole bool) func(func([]string) bool) {
	if whole {
		return func(yield func([]string) bool) { yield(nil) }
	}
	return slices.Chunk(names, 1000)
}

func (k *keeper) there() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fd >= 0
}

// leave ends the connection: with something to keep the keeper goes to work; idle, it ends.
func (k *keeper) leave(idle bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fd >= 0 {
		k.hangUp()
		if idle {
			_ = os.Remove(k.path)
		}
	}
	k.argv = nil
}
