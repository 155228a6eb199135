package network

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/berth-engine/berth/internal/dns"
	"github.com/berth-engine/berth/internal/linux"
)

// keeperMark makes the test binary a keeper.
const keeperMark = "be-a-keeper"

// withKeeper makes the room's daemon start one.
func withKeeper(o *Options) { o.Keeper = []string{"/proc/self/exe", "berth-keeper", keeperMark} }

// withoutRelay leaves IPv6 to containers that have it, where a test counts ports.
func withoutRelay(o *Options) { o.Relay = false }

// liveOf is what the engine would say of an attachment at the next start.
func liveOf(t *testing.T, n *Networks, id, name string, at *Attachment) Live {
	t.Helper()
	return Live{ContainerID: id, Name: name, Pid: sleeper(t, n, at.NetNS), Endpoints: at.Endpoints, Ports: at.Ports, DNS: []string{outsideAddr}}
}

// restart closes the room as a daemon does that leaves containers behind; next opens it again. In between nobody but the
// keeper is there.
func restart(t *testing.T, n *Networks, live ...Live) (next func() *Networks) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	host, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	n.hostNS = host // for the test's own ways into namespaces
	return func() *Networks {
		t.Helper()
		m, err := Open(context.Background(), n.opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, l := range live {
				_ = m.Detach(context.Background(), l.ContainerID)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := m.Retain(context.Background(), live); err != nil {
			t.Fatal(err)
		}
		return m
	}
}

func TestKeeperAnswersAndHoldsPorts(t *testing.T) {
	n := room(t, withKeeper)
	out := outside(t, n)
	nameServer(t, n, out, outsideAddr+":53")
	network1(t, n, CreateRequest{Name: "shop"})
	network1(t, n, CreateRequest{Name: "inner", Internal: true})
	var live []Live
	attached := map[string]*Attachment{}
	for _, name := range []string{"web", "db", "locked"} {
		nw := map[string]string{"web": "shop", "db": "shop", "locked": "inner"}[name]
		r := AttachRequest{ContainerID: newID(), Name: name, DNS: []string{outsideAddr}, Endpoints: []EndpointRequest{{Network: nw, Aliases: []string{name + "-alias"}}}}
		if name == "web" {
			r.Ports = []PortRequest{{Container: 80, HostPort: "18080"}, {Container: 53, Proto: "udp", HostPort: "18053"}}
		}
		at, err := n.Attach(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer at.NetNS.Close()
		attached[name] = at
		live = append(live, liveOf(t, n, r.ContainerID, name, at))
	}
	web, db := attached["web"], attached["db"]
	dbAddr := db.Endpoints[0].IPv4.Addr().String()
	check := func(when string) {
		t.Helper()
		for _, proto := range []string{"udp", "tcp"} {
			for name, want := range map[string]string{"db": dbAddr, "db-alias.shop": dbAddr, "example.org": "192.0.2.99"} {
				if proto == "tcp" && want == "192.0.2.99" {
					continue // the test's outside knows UDP only
				}
				if got, code := dig(t, n, web.NetNS, proto, name, mdns.TypeA); got != want {
					t.Errorf("%s: %s of %q is %q (code %d), want %q", when, proto, name, got, code, want)
				}
			}
		}
		back, _ := netip.ParseAddr(dbAddr)
		arpa, _ := mdns.ReverseAddr(back.String())
		if got, _ := dig(t, n, web.NetNS, "udp", arpa, mdns.TypePTR); got != "db.shop." {
			t.Errorf("%s: the name of %s is %q", when, dbAddr, got)
		}
		if got, code := dig(t, n, attached["locked"].NetNS, "udp", "example.org", mdns.TypeA); got != "" || code != mdns.RcodeNameError {
			t.Errorf("%s: an internal network asked the outside: %q, code %d", when, got, code)
		}
		if l, err := net.Listen("tcp", ":18080"); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: the TCP port can be taken: %v", when, err)
			if err == nil {
				l.Close()
			}
		}
		if c, err := net.ListenPacket("udp", ":18053"); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: the UDP port can be taken: %v", when, err)
			if err == nil {
				c.Close()
			}
		}
	}
	check("with the daemon")
	for range 3 {
		next := restart(t, n, live...)
		check("without a daemon")
		n = next()
		check("with the next daemon")
	}
	n.Rename(live[1].ContainerID, "store")
	next := restart(t, n, live[0])
	if got, _ := dig(t, n, web.NetNS, "udp", "store", mdns.TypeA); got != dbAddr {
		t.Errorf("the keeper knows the new name as %q", got)
	}
	n = next() // db and locked have ended meanwhile
	if got, _ := dig(t, n, web.NetNS, "udp", "store.shop", mdns.TypeA); got == dbAddr {
		t.Error("the name of a container that has ended is known")
	}
	if err := n.Detach(context.Background(), live[0].ContainerID); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ":18080") // at once: the keeper has let go of it
	if err != nil {
		t.Fatalf("after the container's end: %v", err)
	}
	l.Close()
	path := n.keeper.path
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the idle daemon left the keeper's socket: %v", err)
	}
}

func TestKeeperLosesNoQuestion(t *testing.T) {
	n := room(t, withKeeper)
	network1(t, n, CreateRequest{Name: "shop"})
	id := newID()
	at, err := n.Attach(context.Background(), AttachRequest{ContainerID: id, Name: "web", Endpoints: []EndpointRequest{{Network: "shop"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer at.NetNS.Close()
	live := liveOf(t, n, id, "web", at)
	stop := make(chan struct{})
	var asking sync.WaitGroup
	for _, proto := range []string{"udp", "tcp"} {
		var conn func() (net.Conn, error)
		ns := n // only for its way into namespaces, which Close ends
		host, err := os.Open("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		ns = &Networks{hostNS: host}
		conn = func() (c net.Conn, err error) {
			err = ns.inNetNS(at.NetNS, func() error {
				c, err = net.Dial(proto, resolverAddr+":53")
				return err
			})
			return c, err
		}
		asking.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				c, err := conn()
				if err != nil {
					t.Errorf("%s question %d: %v", proto, i, err)
					return
				}
				// One question, never repeated: an answer that does not come was lost.
				client := &mdns.Client{Net: proto, Timeout: time.Minute}
				m, _, err := client.ExchangeWithConn(new(mdns.Msg).SetQuestion("web.", mdns.TypeA), &mdns.Conn{Conn: c})
				c.Close()
				if err != nil || len(m.Answer) != 1 {
					t.Errorf("%s question %d: %v, %v", proto, i, m, err)
					return
				}
			}
		})
	}
	for range 5 {
		next := restart(t, n, live)
		n = next()
	}
	close(stop)
	asking.Wait()
}

// A keeper that is of another version, or no keeper at all, or dead: the daemon does without.
func TestKeeperThatIsNone(t *testing.T) {
	n := room(t, withKeeper)
	network1(t, n, CreateRequest{Name: "shop"})
	id := newID()
	at, err := n.Attach(context.Background(), AttachRequest{ContainerID: id, Name: "web", Endpoints: []EndpointRequest{{Network: "shop"}},
		Ports: []PortRequest{{Container: 80, HostPort: "18081"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer at.NetNS.Close()
	live := liveOf(t, n, id, "web", at)
	next := restart(t, n, live)
	if err := os.Remove(n.keeper.path); err != nil {
		t.Fatal(err)
	}
	// Without its socket the keeper ends; a program of another kind listens in its place.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: n.keeper.path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	go func() {
		if c, _, err := unix.Accept(fd); err == nil {
			_ = linux.SendFds(c, []byte(`{"version":99,"op":"have","container":"x"}`))
			unix.Close(c)
		}
	}()
	n = next()
	if got, _ := dig(t, n, at.NetNS, "udp", "web", mdns.TypeA); got != at.Endpoints[0].IPv4.Addr().String() {
		t.Errorf("without a keeper the daemon answers %q", got)
	}
	// The one it starts then is killed: the next change makes another.
	n.keeper.mu.Lock()
	n.keeper.lose(errors.New("the test says so"))
	n.keeper.mu.Unlock()
	n.keep(id)
	if !n.keeper.there() {
		t.Error("a lost keeper was not replaced")
	}
	next = restart(t, n, live)
	if got, _ := dig(t, n, at.NetNS, "udp", "web", mdns.TypeA); got == "" {
		t.Error("the second keeper does not answer")
	}
	n = next()
	// The lost one may have been slow to start; until it has ended it has the port that other tests use.
	eventually(t, "the lost keeper has ended", func() bool { return len(keepersOf(t, n)) <= 1 })
}

// What a keeper receives comes from a daemon, perhaps of another version: it must not break over it.
func FuzzKeeperMessage(f *testing.F) {
	for _, d := range []keeperDocument{{Version: 1, Op: keepSet, Container: "a", Sockets: []string{keptNamesUDP}},
		{Version: 1, Op: keepDrop, Container: "a"}, {Version: 1, Op: keepSet, Container: "a", Places: []dns.Place{{Network: "n", Named: true,
			Called: []string{"x"}, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}}} {
		text, err := json.Marshal(d)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(`{"version":1,"op":"set","sockets":["a","a"]}`)
	f.Add(strings.Repeat("[", 100))
	f.Fuzz(func(t *testing.T, text string) {
		if text == "" {
			return
		}
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		k := &keeping{kept: map[string]*keptContainer{}}
		err = linux.SendFds(pair[0], []byte(text), pair[1])
		unix.Close(pair[0])
		if err != nil {
			return // longer than a message can be
		}
		k.obey(pair[1])
		k.serve()
		for id := range k.kept {
			k.drop(keeperDocument{Container: id})
		}
		if k.table.Leaves("a") && len(k.kept) > 0 {
			t.Error("a container that was dropped is known")
		}
	})
}

// TestKeeperIsMadeAgain: a keeper that somebody ends while the daemon lives has a successor with all that it had, before anything
// changes; also one that a daemon before us has left.
func TestKeeperIsMadeAgain(t *testing.T) {
	n := room(t, withKeeper)
	r := AttachRequest{ContainerID: newID(), Name: "web", Ports: []PortRequest{{Container: 80, HostPort: "18085"}}}
	at, err := n.Attach(context.Background(), r)
	must(t, err)
	defer at.NetNS.Close()
	end := func(n *Networks) {
		t.Helper()
		pids := keepersOf(t, n)
		if len(pids) != 1 {
			t.Fatalf("keepers: %v", pids)
		}
		must(t, unix.Kill(pids[0], unix.SIGKILL))
		eventually(t, "there is another keeper", func() bool {
			n.keeper.mu.Lock()
			defer n.keeper.mu.Unlock()
			others := keepersOf(t, n)
			return len(others) == 1 && others[0] != pids[0] && len(n.keeper.has[r.ContainerID]) == 1
		})
	}
	end(n)
	again := restart(t, n, liveOf(t, n, r.ContainerID, "web", at))
	if l, err := net.Listen("tcp4", ":18085"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("while there is no daemon the port can be taken: %v", err)
		if err == nil {
			l.Close()
		}
	}
	n = again()
	end(n)
	must(t, n.Detach(context.Background(), r.ContainerID))
	l, err := net.Listen("tcp4", ":18085")
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	l.Close()
}

// keepersOf are the processes that say they are keepers at the socket of n.
func keepersOf(t *testing.T, n *Networks) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), n.keeper.path) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}
