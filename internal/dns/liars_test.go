package dns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// liar is a server that says to each question what lies makes of it, in datagrams from its own address, and from another where a lie
// begins with "elsewhere:".
func liar(t *testing.T, lies func(q *dns.Msg) [][]byte) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, maxUDP); ; {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			for _, lie := range lies(q) {
				if rest, ok := strings.CutPrefix(string(lie), "elsewhere:"); ok {
					_, _ = other.WriteTo([]byte(rest), from)
				} else {
					_, _ = pc.WriteTo(lie, from)
				}
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); other.Close(); <-done })
	return addrPort(pc.LocalAddr())
}

// says is an answer to q with these records.
func says(q *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	return m
}

// TestLies: of what comes to the port of a question only the answer to it is one: with its number, its question, and from who was
// asked.
func TestLies(t *testing.T) {
	forged := func(q *dns.Msg) *dns.Msg { return says(q, q.Question[0].Name+" 60 IN A 198.51.100.66") }
	change := func(how func(m *dns.Msg)) func(q *dns.Msg) []byte {
		return func(q *dns.Msg) []byte { m := forged(q); how(m); return pack(m) }
	}
	for name, lie := range map[string]func(q *dns.Msg) []byte{
		"another number":   change(func(m *dns.Msg) { m.Id++ }),
		"another name":     change(func(m *dns.Msg) { m.Question[0].Name = "www." + m.Question[0].Name }),
		"another type":     change(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
		"another class":    change(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
		"no question":      change(func(m *dns.Msg) { m.Question = nil }),
		"no such, of what": change(func(m *dns.Msg) { m.Question, m.Answer, m.Rcode = nil, nil, dns.RcodeNameError }),
		"two questions":    change(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
		"a question":       change(func(m *dns.Msg) { m.Response = false }),
		"somebody else":    func(q *dns.Msg) []byte { return append([]byte("elsewhere:"), pack(forged(q))...) },
		"nothing":          func(*dns.Msg) []byte { return []byte{} },
		"a number only":    func(q *dns.Msg) []byte { return binary.BigEndian.AppendUint16(nil, q.Id) },
		"a name in circles": func(q *dns.Msg) []byte {
			b := message(1, 0xc0, 12, 0, 1, 0, 1)
			binary.BigEndian.PutUint16(b, q.Id)
			b[2] |= 0x80
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			up := liar(t, func(q *dns.Msg) [][]byte {
				return [][]byte{lie(q), pack(says(q, strings.ToUpper(q.Question[0].Name)+" 60 IN A 192.0.2.1"))}
			})
			udp, _ := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
			if m, _ := ask(t, "udp", udp, "exAmple.org.", dns.TypeA); texts(m) != "192.0.2.1" || m.Question[0].Name != "exAmple.org." {
				t.Errorf("%v", m)
			}
		})
	}
}

// TestNumbersAreRandom: the number of a question is not the container's, and does not tell that of the next one.
func TestNumbersAreRandom(t *testing.T) {
	numbers := make(chan uint16, 100)
	up := liar(t, func(q *dns.Msg) [][]byte {
		numbers <- q.Id
		return [][]byte{pack(says(q, q.Question[0].Name+" 0 IN A 192.0.2.1"))}
	})
	udp, _ := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
	seen, steps := map[uint16]bool{}, map[uint16]bool{}
	var last uint16
	const rounds = 64
	for i := range rounds {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		m.Id = 7
		if r, _, err := (&dns.Client{Timeout: time.Minute}).Exchange(m, udp); err != nil || r.Id != 7 {
			t.Fatal(r, err)
		}
		n := <-numbers
		seen[n], steps[n-last], last = true, true, n
	}
	if len(seen) < rounds/2 || len(steps) < rounds/2 {
		t.Errorf("%d numbers of %d questions, %d steps between them", len(seen), rounds, len(steps))
	}
}

// TestHugeAnswers: a datagram larger than any that is asked for is a reason to ask over TCP, and no buffers wait for it.
func TestHugeAnswers(t *testing.T) {
	up := liar(t, func(q *dns.Msg) [][]byte {
		m := says(q)
		for i := range 2000 {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A: net.IPv4(192, 0, byte(i>>8), byte(i))})
		}
		m.Compress = true
		return [][]byte{pack(m)}
	})
	udp, _ := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
	q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	q.SetEdns0(65535, false)
	m, _, err := (&dns.Client{Timeout: time.Minute}).Exchange(q, udp)
	if err != nil || !m.Truncated || len(m.Answer) != 0 || m.Rcode != dns.RcodeSuccess {
		t.Errorf("%v %v", m, err)
	}
}

// TestManyNames: an alias of more containers than fit into any message is answered with as many as fit.
func TestManyNames(t *testing.T) {
	b := book{}
	for i := range 6000 {
		b["svc"] = append(b["svc"], netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	_, tcp := serve(t, Options{Names: b, Servers: func() []netip.AddrPort { return nil }})
	if m, _ := ask(t, "tcp", tcp, "svc.", dns.TypeA); m.Rcode != dns.RcodeSuccess || len(m.Answer) < 3000 {
		t.Errorf("%s, %d answers", dns.RcodeToString[m.Rcode], len(m.Answer))
	}
}

// TestZonesAreNotHandedOn: a transfer is many messages, of which only the first would come through.
func TestZonesAreNotHandedOn(t *testing.T) {
	_, up, asked := upstream(t, "192.0.2.1", 0)
	_, tcp := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
	for _, typ := range []uint16{dns.TypeAXFR, dns.TypeIXFR} {
		if m, _ := ask(t, "tcp", tcp, "example.org.", typ); m.Rcode != dns.RcodeRefused {
			t.Errorf("%v", m)
		}
	}
	if list := asked(); len(list) != 0 {
		t.Errorf("asked outside: %q", list)
	}
}

// TestAliases: the addresses of an answer are those that its chain of aliases leads to, however long or round it is.
func TestAliases(t *testing.T) {
	q := new(dns.Msg).SetQuestion("a0.", dns.TypeA)
	chain := func(length int, more ...string) []byte {
		var records []string
		for i := range length {
			records = append(records, fmt.Sprintf("a%d. 300 IN CNAME A%d.", i, i+1))
		}
		m := says(q, append(records, more...)...)
		slices.Reverse(m.Answer)
		return pack(m)
	}
	for name, c := range map[string]struct {
		answer []byte
		want   string
	}{
		"none":       {chain(0, "a0. 5 IN A 192.0.2.1", "b. 5 IN A 198.51.100.66"), "[{192.0.2.1 5}]"},
		"some":       {chain(20, "a20. 600 IN A 192.0.2.1", "a21. 5 IN A 198.51.100.66"), "[{192.0.2.1 300}]"},
		"too many":   {chain(2500, "a2500. 5 IN A 192.0.2.1"), "[]"},
		"round":      {chain(1, "a1. 5 IN CNAME a0.", "a2. 5 IN A 198.51.100.66"), "[]"},
		"to nowhere": {chain(3), "[]"},
	} {
		if c.answer == nil {
			t.Fatalf("%s: no message", name)
		}
		if got := fmt.Sprint(addresses(q, c.answer)); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// stuck is a socket whose peer has no room left.
type stuck struct {
	net.PacketConn
	mu      sync.Mutex
	started chan struct{}
	late    chan struct{}
}

func (s *stuck) WriteTo([]byte, net.Addr) (int, error) {
	s.started <- struct{}{}
	<-s.late
	return 0, os.ErrDeadlineExceeded
}

func (s *stuck) SetWriteDeadline(time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.late:
	default:
		close(s.late)
	}
	return nil
}

// TestRetireFromStuck: a container whose loopback takes nothing more keeps no daemon from taking over.
func TestRetireFromStuck(t *testing.T) {
	pc, l := listen(t)
	held := &stuck{PacketConn: pc, started: make(chan struct{}, 10), late: make(chan struct{})}
	s := Serve(held, l, Options{Names: own(), Servers: func() []netip.AddrPort { return nil }})
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(pack(new(dns.Msg).SetQuestion("db.", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	<-held.started
	s.Retire()()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
