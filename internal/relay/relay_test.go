package relay

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = time.Minute

// socket binds one of the host's on [::1], as who publishes a port does.
func socket(t *testing.T, proto int) (fd int, addr string) {
	t.Helper()
	typ := unix.SOCK_STREAM
	if proto == unix.IPPROTO_UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET6, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip("this host's kernel has no IPv6")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	err = unix.Bind(fd, &unix.SockaddrInet6{})
	if err == nil && proto == unix.IPPROTO_TCP {
		err = unix.Listen(fd, 64)
	}
	name, nameErr := unix.Getsockname(fd)
	if err = errors.Join(err, nameErr); err != nil {
		t.Fatal(err)
	}
	return fd, net.JoinHostPort("::1", strconv.Itoa(name.(*unix.SockaddrInet6).Port))
}

func newRelay(t *testing.T, o Options) *Relay {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// container is a server over IPv4, one goroutine for each connection.
func container(t *testing.T, serve func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func dial(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func serve(t *testing.T, r *Relay, p Port) {
	t.Helper()
	if err := r.Serve(p); err != nil {
		t.Fatal(err)
	}
}

// TestHalfClose sends more than any buffer holds, ends its direction, and only then is answered.
func TestHalfClose(t *testing.T) {
	to := container(t, func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(append([]byte("seen: "), all...))
		}
	})
	fd, addr := socket(t, unix.IPPROTO_TCP)
	r := newRelay(t, Options{})
	serve(t, r, Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: to, Link: "lo"})
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	c := dial(t, "tcp6", addr).(*net.TCPConn)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, append([]byte("seen: "), sent...)) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
	eventually(t, "the connection is over", func() bool { n, _ := r.Conns(); return n == 0 })
}

// isReset connects and is refused, at once or soon.
func isReset(t *testing.T, addr string) {
	t.Helper()
	c, err := net.DialTimeout("tcp6", addr, patience)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client sees %v", err)
	}
}

func TestRefusedIsReset(t *testing.T) {
	gone, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	fd, addr := socket(t, unix.IPPROTO_TCP)
	serve(t, newRelay(t, Options{}), Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: gone.Addr().(*net.TCPAddr).AddrPort()})
	isReset(t, addr)
}

func TestResetsGoThrough(t *testing.T) {
	seen := make(chan error, 1)
	to := container(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("x"))
		_, err := c.Read(make([]byte, 1))
		seen <- err
	})
	fd, addr := socket(t, unix.IPPROTO_TCP)
	serve(t, newRelay(t, Options{}), Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: to})
	c := dial(t, "tcp6", addr).(*net.TCPConn)
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetLinger(0)
	c.Close()
	if err := <-seen; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the container sees %v", err)
	}
}

// TestStop ends what is under way, and the socket can be closed or served anew.
func TestStop(t *testing.T) {
	echo := func(c *net.TCPConn) { _, _ = io.Copy(c, c) }
	first, second := container(t, echo), container(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("second")) })
	fd, addr := socket(t, unix.IPPROTO_TCP)
	r := newRelay(t, Options{})
	p := Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: first}
	serve(t, r, p)
	c := dial(t, "tcp6", addr)
	ping := func() error {
		_, err := c.Write([]byte("ping"))
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 4))
		}
		return err
	}
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	serve(t, r, p) // nothing has changed, and nobody sees it
	if err := ping(); err != nil {
		t.Fatal(err)
	}
	p.To = second
	serve(t, r, p)
	eventually(t, "a connection to where the port led before ends", func() bool { return ping() != nil })
	if got, err := io.ReadAll(dial(t, "tcp6", addr)); err != nil || string(got) != "second" {
		t.Errorf("%q, %v", got, err)
	}
	r.Stop(p.Socket)
	r.Stop(p.Socket)
	waiting := dial(t, "tcp6", addr) // in the socket, which nobody serves
	serve(t, r, p)
	if got, err := io.ReadAll(waiting); err != nil || string(got) != "second" {
		t.Errorf("who came in between has %q, %v", got, err)
	}
	r.Close()
	if err := r.Serve(p); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed relay serves: %v", err)
	}
}

// TestConnectionsWait has more clients than there may be connections: the others wait and have their turn.
func TestConnectionsWait(t *testing.T) {
	for name, o := range map[string]Options{"of a port": {PortConns: 2}, "of all": {Conns: 2}} {
		t.Run(name, func(t *testing.T) {
			var now, most atomic.Int32
			to := container(t, func(c *net.TCPConn) {
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				_, _ = io.ReadFull(c, make([]byte, 1))
				now.Add(-1)
				_, _ = c.Write([]byte("done"))
			})
			fd, addr := socket(t, unix.IPPROTO_TCP)
			serve(t, newRelay(t, o), Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: to})
			var cs []net.Conn
			for range 7 {
				cs = append(cs, dial(t, "tcp6", addr))
			}
			for _, c := range cs {
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
			}
			for i, c := range cs {
				if got, err := io.ReadAll(c); err != nil || string(got) != "done" {
					t.Errorf("client %d: %q, %v", i, got, err)
				}
				c.Close()
			}
			if most.Load() > 2 {
				t.Errorf("%d connections at once", most.Load())
			}
		})
	}
}

func TestAdmit(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skip(err)
	}
	var link, asked atomic.Int64
	var closed atomic.Bool
	to := container(t, func(c *net.TCPConn) { _, _ = c.Write([]byte("in")) })
	back, udp := echoUDP(t)
	fd, addr := socket(t, unix.IPPROTO_TCP)
	ufd, uaddr := socket(t, unix.IPPROTO_UDP)
	r := newRelay(t, Options{Admit: func(by int) bool {
		link.Store(int64(by))
		defer asked.Add(1)
		return !closed.Load()
	}})
	byLo := func() {
		if got := link.Swap(0); got != int64(lo.Index) {
			t.Errorf("the link is %d, and lo is %d", got, lo.Index)
		}
	}
	serve(t, r, Port{Proto: unix.IPPROTO_TCP, Socket: fd, To: to})
	serve(t, r, Port{Proto: unix.IPPROTO_UDP, Socket: ufd, To: udp})
	if got, err := io.ReadAll(dial(t, "tcp6", addr)); err != nil || string(got) != "in" {
		t.Errorf("%q, %v", got, err)
	}
	byLo()
	c := dial(t, "udp6", uaddr)
	ask(t, c, "hello")
	byLo()
	closed.Store(true)
	isReset(t, addr)
	before := asked.Load()
	if _, err := c.Write([]byte("no")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the datagram is there", func() bool { return asked.Load() > before })
	closed.Store(false)
	ask(t, c, "again")
	if got := back.Load(); got != 2 {
		t.Errorf("%d datagrams arrived", got)
	}
}

// echoUDP answers over IPv4 and counts.
func echoUDP(t *testing.T) (*atomic.Int64, netip.AddrPort) {
	t.Helper()
	pc, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	count := new(atomic.Int64)
	go func() {
		buf := make([]byte, largest)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			count.Add(1)
			_, _ = pc.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return count, pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// ask sends a datagram and waits for it to come back.
func ask(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, largest)
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != text {
		t.Fatalf("%d bytes back, %v", n, err)
	}
}

func TestDatagrams(t *testing.T) {
	_, to := echoUDP(t)
	fd, addr := socket(t, unix.IPPROTO_UDP)
	r := newRelay(t, Options{PortSessions: 3})
	serve(t, r, Port{Proto: unix.IPPROTO_UDP, Socket: fd, To: to, Link: "lo"})
	first := dial(t, "udp6", addr) // connected: it hears only who it has asked
	ask(t, first, "one")
	ask(t, first, "")
	ask(t, first, string(make([]byte, 60000)))
	for range 4 {
		ask(t, dial(t, "udp6", addr), "another client")
	}
	if _, udp := r.Conns(); udp != 3 {
		t.Errorf("%d clients are known, 3 may be", udp)
	}
	ask(t, first, "known no more, and known again")
	r.Stop(fd)
	if _, udp := r.Conns(); udp != 0 {
		t.Errorf("%d clients are known of a port that is not served", udp)
	}
}

func TestSilentClientsAreForgotten(t *testing.T) {
	_, to := echoUDP(t)
	fd, addr := socket(t, unix.IPPROTO_UDP)
	r := newRelay(t, Options{Idle: 20 * time.Millisecond})
	serve(t, r, Port{Proto: unix.IPPROTO_UDP, Socket: fd, To: to})
	c := dial(t, "udp6", addr)
	for range 2 {
		ask(t, c, "x")
		eventually(t, "the client is forgotten", func() bool { _, udp := r.Conns(); return udp == 0 })
	}
}

func TestServeRefuses(t *testing.T) {
	fd, _ := socket(t, unix.IPPROTO_TCP)
	r := newRelay(t, Options{})
	good := netip.MustParseAddrPort("192.0.2.1:80")
	for name, p := range map[string]Port{
		"no protocol":     {Socket: fd, To: good},
		"SCTP":            {Proto: unix.IPPROTO_SCTP, Socket: fd, To: good},
		"nowhere":         {Proto: unix.IPPROTO_TCP, Socket: fd},
		"no port":         {Proto: unix.IPPROTO_TCP, Socket: fd, To: netip.AddrPortFrom(good.Addr(), 0)},
		"everywhere":      {Proto: unix.IPPROTO_TCP, Socket: fd, To: netip.MustParseAddrPort("0.0.0.0:80")},
		"many":            {Proto: unix.IPPROTO_UDP, Socket: fd, To: netip.MustParseAddrPort("224.0.0.1:80")},
		"no socket":       {Proto: unix.IPPROTO_TCP, Socket: -1, To: good},
		"no socket (UDP)": {Proto: unix.IPPROTO_UDP, Socket: -1, To: good},
	} {
		if err := r.Serve(p); err == nil {
			t.Errorf("%s is served", name)
		}
	}
}

// FuzzFlow reads control messages of any bytes.
func FuzzFlow(f *testing.F) {
	f.Add(unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte{15: 1}, Ifindex: 1}), 53)
	f.Add([]byte{20}, 0)
	f.Fuzz(func(t *testing.T, oob []byte, port int) {
		got, _, ok := flowOf(&unix.SockaddrInet6{Port: port, Addr: [16]byte{15: 1}}, oob)
		if ok && (!got.local.IsValid() || got.local.IsMulticast() || got.peer.Port() == 0) {
			t.Errorf("%+v", got)
		}
	})
}
