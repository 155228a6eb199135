package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

type book map[string][]netip.Addr

func (b book) Addresses(name string) ([]netip.Addr, bool) { a, ok := b[name]; return a, ok }

func (b book) Name(addr netip.Addr) (string, bool) {
	for name, as := range b {
		for _, a := range as {
			if a == addr {
				return name + ".net", true
			}
		}
	}
	return "", addr.IsPrivate()
}

func listen(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return pc, l
}

// upstream is a server that answers with one address, or code, or not at all.
func upstream(t *testing.T, answer string, code int) (udp, tcp netip.AddrPort, asked func() []string) {
	t.Helper()
	pc, l := listen(t)
	names := make(chan string, 100)
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		names <- q.Question[0].Name
		if answer == "silence" {
			return
		}
		m := new(dns.Msg).SetRcode(q, code)
		if answer != "" {
			rr, err := dns.NewRR(q.Question[0].Name + " 60 IN A " + answer)
			if err != nil {
				t.Error(err)
			}
			m.Answer = []dns.RR{rr}
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return addrPort(pc.LocalAddr()), addrPort(l.Addr()), func() (list []string) {
		for {
			select {
			case n := <-names:
				list = append(list, n)
			default:
				return list
			}
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

func serve(t *testing.T, o Options) (udp, tcp string) {
	t.Helper()
	pc, l := listen(t)
	s := Serve(pc, l, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return pc.LocalAddr().String(), l.Addr().String()
}

func ask(t *testing.T, network, server, name string, typ uint16) (*dns.Msg, time.Duration) {
	t.Helper()
	c := &dns.Client{Net: network, Timeout: time.Minute}
	m, took, err := c.Exchange(new(dns.Msg).SetQuestion(name, typ), server)
	if err != nil {
		t.Fatalf("%s %s: %v", network, name, err)
	}
	return m, took
}

func texts(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.PTR:
			out = append(out, rr.Ptr)
		}
	}
	return strings.Join(out, ",")
}

func own() book {
	return book{"web": {netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}, "db": {netip.MustParseAddr("10.0.0.3")}}
}

func TestOwnNames(t *testing.T) {
	up, _, asked := upstream(t, "192.0.2.1", 0)
	udp, tcp := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web.", dns.TypeA, "10.0.0.2"}, {"WEB.", dns.TypeA, "10.0.0.2"}, {"web.", dns.TypeAAAA, "fd00::2"},
		{"db.", dns.TypeAAAA, ""}, {"db.", dns.TypeMX, ""}, {"2.0.0.10.in-addr.arpa.", dns.TypePTR, "web.net."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, "web.net."},
		{"9.0.0.10.in-addr.arpa.", dns.TypePTR, ""},
	} {
		for network, server := range map[string]string{"udp": udp, "tcp": tcp} {
			m, _ := ask(t, network, server, c.name, c.typ)
			if got := texts(m); got != c.want || m.Rcode != dns.RcodeSuccess || !m.RecursionAvailable {
				t.Errorf("%s %s %s: %q, %s", network, c.name, dns.TypeToString[c.typ], got, dns.RcodeToString[m.Rcode])
			}
		}
	}
	if a := asked(); len(a) != 0 {
		t.Errorf("our own names were asked outside: %q", a)
	}
}

func TestForward(t *testing.T) {
	good, goodTCP, asked := upstream(t, "192.0.2.1", 0)
	bad, _, _ := upstream(t, "", dns.RcodeServerFailure)
	silent, _, _ := upstream(t, "silence", 0)
	none, _, _ := upstream(t, "", dns.RcodeNameError)
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	for _, c := range []struct {
		what    string
		network string
		servers []netip.AddrPort
		want    string
		code    int
		atLeast time.Duration
	}{
		{"one", "udp", []netip.AddrPort{good}, "192.0.2.1", 0, 0},
		{"tcp", "tcp", []netip.AddrPort{goodTCP}, "192.0.2.1", 0, 0},
		{"failing first", "udp", []netip.AddrPort{bad, good}, "192.0.2.1", 0, 0},
		{"dead first", "udp", []netip.AddrPort{dead, good}, "192.0.2.1", 0, 0},
		{"silent first", "udp", []netip.AddrPort{silent, good}, "192.0.2.1", 0, patience},
		{"no such name", "udp", []netip.AddrPort{none, good}, "", dns.RcodeNameError, 0},
		{"all fail", "udp", []netip.AddrPort{bad, dead}, "", dns.RcodeServerFailure, 0},
		{"nobody", "udp", nil, "", dns.RcodeServerFailure, 0},
	} {
		t.Run(c.what, func(t *testing.T) {
			udp, tcp := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return c.servers }})
			server := map[string]string{"udp": udp, "tcp": tcp}[c.network]
			m, took := ask(t, c.network, server, "example.org.", dns.TypeA)
			if texts(m) != c.want || m.Rcode != c.code || took < c.atLeast {
				t.Errorf("%q, %s, after %v", texts(m), dns.RcodeToString[m.Rcode], took)
			}
		})
	}
	if len(asked()) == 0 {
		t.Error("nothing was forwarded")
	}
}

// TestInternal wants nothing of a container without a way out to be asked outside (CVE-2024-29018).
func TestInternal(t *testing.T) {
	up, _, asked := upstream(t, "192.0.2.1", 0)
	udp, _ := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }, External: func() bool { return false }})
	if m, _ := ask(t, "udp", udp, "secret-data.example.org.", dns.TypeTXT); m.Rcode != dns.RcodeNameError {
		t.Errorf("%s", dns.RcodeToString[m.Rcode])
	}
	if m, _ := ask(t, "udp", udp, "web.", dns.TypeA); texts(m) != "10.0.0.2" {
		t.Errorf("%v", m)
	}
	if a := asked(); len(a) != 0 {
		t.Errorf("asked outside: %q", a)
	}
}

// TestManyAddresses does not fit into a datagram.
func TestManyAddresses(t *testing.T) {
	b := book{}
	for i := range 200 {
		b["svc"] = append(b["svc"], netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	udp, tcp := serve(t, Options{Names: b, Servers: func() []netip.AddrPort { return nil }})
	m, _ := ask(t, "udp", udp, "svc.", dns.TypeA)
	m.Compress = true
	if !m.Truncated || m.Len() > dns.MinMsgSize {
		t.Errorf("truncated %v, %d bytes", m.Truncated, m.Len())
	}
	first := map[string]bool{}
	for range 20 {
		m, _ = ask(t, "tcp", tcp, "svc.", dns.TypeA)
		if len(m.Answer) != 200 {
			t.Fatalf("%d answers", len(m.Answer))
		}
		first[m.Answer[0].String()] = true
	}
	if len(first) < 2 {
		t.Error("the answers always begin with the same")
	}
}

func TestGarbage(t *testing.T) {
	udp, tcp := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return nil }})
	for _, network := range []string{"udp", "tcp"} {
		server := map[string]string{"udp": udp, "tcp": tcp}[network]
		for _, b := range [][]byte{{}, {1}, make([]byte, 12), []byte(strings.Repeat("x", 600))} {
			c, err := net.Dial(network, server)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write(b)
			c.Close()
		}
	}
	if m, _ := ask(t, "udp", udp, "db.", dns.TypeA); texts(m) != "10.0.0.3" {
		t.Errorf("%v", m)
	}
}

func FuzzOwn(f *testing.F) {
	q, err := new(dns.Msg).SetQuestion("web.", dns.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q)
	s := &Server{o: Options{Names: own(), External: func() bool { return false }}}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, datagram := range []bool{true, false} {
			m, a := s.own(b, datagram)
			if m != nil && a == nil {
				t.Error("a question without an answer")
			}
			if datagram && len(a) > maxUDP {
				t.Errorf("%d bytes", len(a))
			}
		}
		if m := new(dns.Msg); m.Unpack(b) == nil && len(m.Question) == 1 {
			answers(b, m.Id, m)
		}
	})
}

func FuzzReverse(f *testing.F) {
	f.Add("1.0.0.127.in-addr.arpa")
	f.Fuzz(func(t *testing.T, s string) {
		if a, ok := reverse(s); ok {
			back, err := dns.ReverseAddr(a.String())
			if err == nil && !strings.EqualFold(strings.TrimSuffix(back, "."), s) && !a.Is4In6() && a.Zone() == "" {
				t.Errorf("%q is %s is %q", s, a, back)
			}
		}
	})
}

// A server that retires answers what it has begun, and leaves the rest in the sockets for the next one.
func TestRetire(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := pc.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	second, err := net.FilePacketConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	var table Table
	table.Set("c", []Place{{Network: "n", Domain: "Net", Named: true, Name: "c", Called: []string{"c"}, Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}}})
	asked, answer := make(chan struct{}), make(chan struct{})
	first := Serve(pc, l, Options{Names: table.View("c"), Servers: func() []netip.AddrPort {
		close(asked)
		<-answer
		return nil
	}})
	ask := func(name string) net.Conn {
		c, err := net.Dial("udp4", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		b, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		return c
	}
	code := func(c net.Conn) int {
		t.Helper()
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		b := make([]byte, 512)
		n, err := c.Read(b)
		m := new(dns.Msg)
		if err == nil {
			err = m.Unpack(b[:n])
		}
		if err != nil {
			t.Fatal(err)
		}
		return m.Rcode
	}
	begun := ask("example.org.")
	<-asked
	wait := first.Retire()
	waiting := ask("c.net.")
	l2, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	next := Serve(second, l2, Options{Names: table.View("c"), Servers: func() []netip.AddrPort { return nil }})
	defer next.Close()
	if got := code(waiting); got != dns.RcodeSuccess {
		t.Errorf("the question that waited has code %d", got)
	}
	close(answer)
	if got := code(begun); got != dns.RcodeServerFailure {
		t.Errorf("the question that was begun has code %d", got)
	}
	wait()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

// TestTable: what a container is called comes and goes with its places.
func TestTable(t *testing.T) {
	var table Table
	addr := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	place := func(network, name, a string, called ...string) Place {
		return Place{Network: network, Domain: strings.ToUpper(network), Named: true, Leaves: network != "in", Name: name,
			Called: append(called, name), Addrs: []netip.Addr{addr(a)}, Subnets: []netip.Prefix{netip.PrefixFrom(addr(a), 24).Masked()}}
	}
	linked := place("a", "web", "10.0.0.2")
	linked.Links = map[string]string{"store": "db"}
	table.Set("1", []Place{linked})
	table.Set("2", []Place{place("a", "db", "10.0.0.3", "data"), place("in", "db", "10.0.1.3")})
	table.Set("3", []Place{place("in", "data", "10.0.1.4")})
	for _, c := range []struct{ who, name, want string }{
		{"1", "db", "10.0.0.3"}, {"1", "store", "10.0.0.3"}, {"1", "data.a", "10.0.0.3"}, {"1", "data", "10.0.0.3"},
		{"2", "store", ""}, {"2", "data", "10.0.0.3 10.0.1.4"}, {"3", "web", ""}, {"3", "db", "10.0.1.3"}, {"nobody", "db", ""},
	} {
		addrs, known := table.View(c.who).Addresses(c.name)
		if got := strings.Trim(fmt.Sprint(addrs), "[]"); got != c.want || known != (c.want != "") {
			t.Errorf("%s asks for %s: %q (%t), want %q", c.who, c.name, got, known, c.want)
		}
	}
	if name, known := table.View("3").Name(addr("10.0.1.3")); name != "db.IN" || !known {
		t.Errorf("10.0.1.3 is %q, %t", name, known)
	}
	if name, known := table.View("3").Name(addr("10.0.0.3")); name != "" || known {
		t.Errorf("another network's address is %q, %t", name, known)
	}
	if table.Leaves("3") || !table.Leaves("2") {
		t.Error("who leaves")
	}
	table.Set("2", []Place{place("a", "base", "10.0.0.3")})
	if addrs, known := table.View("1").Addresses("db"); known {
		t.Errorf("db is still %v", addrs)
	}
	table.Set("1", nil)
	table.Set("2", nil)
	table.Set("3", nil)
	if len(table.names)+len(table.addrs)+len(table.containers) > 0 {
		t.Errorf("left: %v %v %v", table.names, table.addrs, table.containers)
	}
}

// pack is a message as bytes; none where it has no form.
func pack(m *dns.Msg) []byte {
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}
