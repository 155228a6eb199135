package dns

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// longNames is a book whose network no domain can be called after.
type longNames struct{ book }

func (b longNames) Name(addr netip.Addr) (string, bool) {
	name, known := b.book.Name(addr)
	switch name {
	case "web.net":
		return "web." + strings.Repeat("n", 64), true
	case "db.net":
		return "db.a..b", true
	}
	return name, known
}

// TestNothingOfOursLeaves asks for what is ours in every way that a resolver does not: nobody else hears of it, and there is an
// answer.
func TestNothingOfOursLeaves(t *testing.T) {
	up, upTCP, asked := upstream(t, "192.0.2.1", 0)
	udp, _ := serve(t, Options{Names: longNames{own()}, Servers: func() []netip.AddrPort { return []netip.AddrPort{up} }})
	_, tcp := serve(t, Options{Names: longNames{own()}, Servers: func() []netip.AddrPort { return []netip.AddrPort{upTCP} }})
	for _, q := range []struct {
		name       string
		typ, class uint16
	}{
		{"web.", dns.TypeA, dns.ClassCHAOS},
		{"WeB.", dns.TypeTXT, dns.ClassANY},
		{"web.", dns.TypeANY, dns.ClassINET},
		{"web.", dns.TypePTR, dns.ClassINET},
		{"db.", 65535, dns.ClassNONE},
		{"2.0.0.10.in-addr.arpa.", dns.TypePTR, dns.ClassINET}, // a label of 64 bytes in the answer
		{"3.0.0.10.in-addr.arpa.", dns.TypePTR, dns.ClassINET}, // an empty one
		{"2.0.0.10.in-addr.arpa.", dns.TypeANY, dns.ClassINET},
		{"2.0.0.10.IN-ADDR.arpa.", dns.TypeSOA, dns.ClassINET},
		{"9.9.0.10.in-addr.arpa.", dns.TypePTR, dns.ClassCHAOS},
		{"2.0.0.0.0.0.a.0.f.f.f.f." + strings.Repeat("0.", 20) + "ip6.arpa.", dns.TypePTR, dns.ClassINET},
	} {
		for network, server := range map[string]string{"udp": udp, "tcp": tcp} {
			m := new(dns.Msg).SetQuestion(q.name, q.typ)
			m.Question[0].Qclass = q.class
			m.SetEdns0(1232, true)
			r, _, err := (&dns.Client{Net: network, Timeout: time.Minute}).Exchange(m, server)
			if err != nil {
				t.Errorf("%s %s type %d class %d: %v", network, q.name, q.typ, q.class, err)
			} else if len(r.Answer) != 0 {
				t.Errorf("%s %s type %d class %d: %v", network, q.name, q.typ, q.class, r.Answer)
			}
		}
	}
	if list := asked(); len(list) != 0 {
		t.Errorf("asked outside: %q", list)
	}
}

// TestAllowedNamesOnly: a dot inside of a label makes no name one below an allowed domain.
func TestAllowedNamesOnly(t *testing.T) {
	up, _, asked := upstream(t, "192.0.2.1", 0)
	udp, _ := serve(t, Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up} },
		Allowed: func(name string) bool { return strings.HasSuffix(name, ".example.com") }})
	for name, want := range map[string]int{"www.example.com.": dns.RcodeSuccess, `secret\.example.com.`: dns.RcodeNameError,
		`a\000b.example.com.`: dns.RcodeNameError, `x\046example.com.`: dns.RcodeNameError, "example.com.": dns.RcodeNameError} {
		if m, _ := ask(t, "udp", udp, name, dns.TypeA); m.Rcode != want {
			t.Errorf("%s: %s", name, dns.RcodeToString[m.Rcode])
		}
	}
	if list := asked(); len(list) != 1 {
		t.Errorf("asked outside: %q", list)
	}
}

// message is a question's header with these names, as they are.
func message(count uint16, question ...byte) []byte {
	b := []byte{0x12, 0x34, 1, 0, byte(count >> 8), byte(count), 0, 0, 0, 0, 0, 0}
	return append(b, question...)
}

// TestMalformed: names that go round in circles, labels and names that are too long, lengths that are not true. Nobody is asked,
// nothing hangs, and the next question is answered.
func TestMalformed(t *testing.T) {
	up, upTCP, asked := upstream(t, "192.0.2.1", 0)
	o := Options{Names: own(), Servers: func() []netip.AddrPort { return []netip.AddrPort{up, upTCP} }}
	udp, tcp := serve(t, o)
	ending := []byte{0, 0, 1, 0, 1}
	label := func(n int) []byte { return append([]byte{byte(n)}, strings.Repeat("l", n)...) }
	var long, many []byte
	for range 5 {
		long = append(long, label(63)...)
	}
	for range 130 {
		many = append(many, 1, 'x')
	}
	bad := [][]byte{
		message(1, 0xc0, 12, 0, 1, 0, 1),                                     // itself
		message(1, append([]byte{3, 'w', 'e', 'b', 0xc0, 12}, ending...)...), // round and round
		message(1, 0xc0, 0xff, 0, 1, 0, 1),                                   // behind the end
		message(1, append(append([]byte{0x40}, label(63)...), ending...)...), // a kind of label that there is none of
		message(1, append(long, ending...)...),
		message(1, append(many, ending...)...),
		message(1, 63, 'x'), // cut short
		message(0xffff, append(label(3), ending...)...),
		message(0),
		{0x12, 0x34, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0}, // an answer
	}
	for _, b := range bad {
		c, err := net.Dial("udp", udp)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(b)
		c.Close()
		if c, err = net.Dial("tcp", tcp); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
		c.Close()
	}
	// A length of 65,535 bytes with three behind it, on as many connections as there may be: others are turned away, not kept.
	var open []net.Conn
	for range maxConns + 5 {
		c, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte{0xff, 0xff, 1, 2, 3})
		open = append(open, c)
	}
	last := open[len(open)-1]
	_ = last.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := last.Read(make([]byte, 1)); err != io.EOF && !strings.Contains(err.Error(), "reset") {
		t.Errorf("one connection too many: %v", err)
	}
	if m, _ := ask(t, "udp", udp, "db.", dns.TypeA); texts(m) != "10.0.0.3" {
		t.Errorf("%v", m)
	}
	if list := asked(); len(list) != 0 {
		t.Errorf("asked outside: %q", list)
	}
}
