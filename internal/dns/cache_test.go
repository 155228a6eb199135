package dns

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// resolve is one question's way, with a clock of the test's own.
type resolve struct {
	*Server
	at time.Time
}

func resolving(servers func() []netip.AddrPort) *resolve {
	r := &resolve{Server: &Server{o: Options{Names: own(), Servers: servers, Dial: new(net.Dialer).DialContext}}, at: time.Unix(1e9, 0)}
	r.ctx = context.Background()
	r.cache.now = func() time.Time { return r.at }
	return r
}

func (r *resolve) ask(t *testing.T, name string, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, dns.TypeA)
	for _, c := range change {
		c(q)
	}
	b, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(r.forward("udp", q, b)); err != nil {
		t.Fatal(err)
	}
	if m.Id != q.Id || m.Question[0].Name != name {
		t.Errorf("the answer to %d %q is for %d %q", q.Id, name, m.Id, m.Question[0].Name)
	}
	return m
}

// TestCache follows one answer (TTL 60) until it is too old, and who may not have it.
func TestCache(t *testing.T) {
	good, _, asked := upstream(t, "192.0.2.1", 0)
	other, _, askedOther := upstream(t, "192.0.2.2", 0)
	broken, _, _ := upstream(t, "", dns.RcodeServerFailure)
	servers := []netip.AddrPort{good}
	r := resolving(func() []netip.AddrPort { return servers })
	ttl := func(m *dns.Msg) uint32 { return m.Answer[0].Header().Ttl }

	r.ask(t, "example.org.")
	r.at = r.at.Add(20 * time.Second)
	if m := r.ask(t, "Example.ORG."); ttl(m) != 40 {
		t.Errorf("after 20 s: %v", m.Answer)
	}
	if a := asked(); len(a) != 1 {
		t.Errorf("asked %q", a)
	}
	// Other questions, and those whose answer is between two.
	r.ask(t, "example.org.", func(m *dns.Msg) { m.CheckingDisabled = true })
	r.ask(t, "example.org.", func(m *dns.Msg) { m.SetEdns0(1232, true) })
	cookie := func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"})
	}
	r.ask(t, "example.org.", cookie)
	r.ask(t, "example.org.", cookie)
	if a := asked(); len(a) != 4 {
		t.Errorf("asked %q", a)
	}
	// No longer fresh: asked again.
	r.at = r.at.Add(time.Minute)
	if m := r.ask(t, "example.org."); ttl(m) != 60 || len(asked()) != 1 {
		t.Errorf("after its time: %v", m.Answer)
	}
	// Other servers: void.
	servers = []netip.AddrPort{other}
	if m := r.ask(t, "example.org."); texts(m) != "192.0.2.2" || len(askedOther()) != 1 {
		t.Errorf("other servers: %v", m.Answer)
	}
	// What fails is not kept.
	servers = []netip.AddrPort{broken}
	for range 2 {
		if m := r.ask(t, "example.org."); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("broken: %v", m)
		}
	}
}

// TestStale: when nobody answers any more an old answer is handed out, for a short time, and for no more than a day.
func TestStale(t *testing.T) {
	silent, _, _ := upstream(t, "silence", 0)
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	for what, servers := range map[string][]netip.AddrPort{"silent": {silent}, "dead": {dead}} {
		t.Run(what, func(t *testing.T) {
			r := resolving(func() []netip.AddrPort { return servers })
			q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
			question, err := q.Pack()
			if err != nil {
				t.Fatal(err)
			}
			a := new(dns.Msg).SetReply(q)
			rr, err := dns.NewRR("example.org. 60 IN A 192.0.2.1")
			if err != nil {
				t.Fatal(err)
			}
			a.Answer = []dns.RR{rr}
			r.cache.asks(servers)
			r.cache.put(servers, key(q, "udp"), question, pack(a))
			r.at = r.at.Add(time.Hour)
			if m := r.ask(t, "example.org."); texts(m) != "192.0.2.1" || m.Answer[0].Header().Ttl != staleTTL {
				t.Errorf("an hour old: %v", m)
			}
			r.at = r.at.Add(maxStale)
			if b, _ := r.cache.get(key(q, "udp"), question, maxAnswer); b != nil {
				t.Error("a day old, and still handed out")
			}
		})
	}
}

// TestSilentServer: a server that was silent gets no head start until it may have recovered.
func TestSilentServer(t *testing.T) {
	silent, _, askedSilent := upstream(t, "silence", 0)
	good, _, _ := upstream(t, "192.0.2.1", 0)
	r := resolving(func() []netip.AddrPort { return []netip.AddrPort{silent, good} })
	r.ask(t, "one.example.org.")
	if !r.cache.isSilent(silent) || r.cache.isSilent(good) {
		t.Error("who was silent is not known")
	}
	r.ask(t, "two.example.org.")
	if a := askedSilent(); len(a) == 0 {
		t.Error("the first server is not asked at all")
	}
	r.at = r.at.Add(recovery)
	if r.cache.isSilent(silent) {
		t.Error("silent for ever")
	}
}

// TestCacheBound wants the cache to stay in its bounds, whatever is asked.
func TestCacheBound(t *testing.T) {
	c := cache{now: time.Now}
	c.asks(nil)
	for i := range 300 {
		q := new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		a := new(dns.Msg).SetReply(q)
		a.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A: net.IPv4(192, 0, 2, 1)}}
		c.put(nil, key(q, "udp"), pack(q), pack(a))
	}
	if c.bytes > cacheBytes || len(c.order) != len(c.entries) || len(c.entries) < 50 || len(c.entries) > 290 {
		t.Errorf("%d bytes, %d entries, %d in order", c.bytes, len(c.entries), len(c.order))
	}
}

// TestLifetime: negative answers are kept as long as their zone says, and without a zone not at all (RFC 2308, 5).
func TestLifetime(t *testing.T) {
	const soa = "example.org. 900 IN SOA ns.example.org. me.example.org. 1 2 3 4 300"
	for _, c := range []struct {
		what           string
		code           int
		answer, ns, ex string
		cut            bool
		want           time.Duration
		ok             bool
	}{
		{"an address", 0, "example.org. 60 IN A 192.0.2.1", "", "", false, time.Minute, true},
		{"the shortest", 0, "example.org. 60 IN A 192.0.2.1", "", "x.org. 7 IN A 192.0.2.1", false, 7 * time.Second, true},
		{"long", 0, "example.org. 99999999 IN A 192.0.2.1", "", "", false, maxTTL, true},
		{"truncated", 0, "example.org. 60 IN A 192.0.2.1", "", "", true, 0, false},
		{"no such name", dns.RcodeNameError, "", soa, "", false, 300 * time.Second, true},
		{"no such name, no zone", dns.RcodeNameError, "", "", "", false, 0, false},
		{"nothing of this type", 0, "", soa, "", false, 300 * time.Second, true},
		{"a referral", 0, "", "example.org. 60 IN NS ns.example.org.", "", false, 0, false},
		{"refused", dns.RcodeRefused, "example.org. 60 IN A 192.0.2.1", "", "", false, 0, false},
	} {
		m := new(dns.Msg).SetRcode(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), c.code)
		m.Truncated = c.cut
		for text, list := range map[string]*[]dns.RR{c.answer: &m.Answer, c.ns: &m.Ns, c.ex: &m.Extra} {
			if text != "" {
				rr, err := dns.NewRR(text)
				if err != nil {
					t.Fatal(err)
				}
				*list = []dns.RR{rr}
			}
		}
		m.SetEdns0(1232, false)
		if _, got, ok := lifetime(pack(m)); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %v, %v", c.what, got, ok)
		}
	}
}

// FuzzCache keeps any answer to any question and takes it out again, fresh and stale.
func FuzzCache(f *testing.F) {
	q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	a := new(dns.Msg).SetReply(q)
	rr, err := dns.NewRR("example.org. 60 IN A 192.0.2.1")
	if err != nil {
		f.Fatal(err)
	}
	a.Answer = []dns.RR{rr}
	f.Add(pack(q), pack(a))
	f.Fuzz(func(t *testing.T, question, answer []byte) {
		m := new(dns.Msg)
		if m.Unpack(question) != nil || len(m.Question) != 1 || !answers(answer, m.Id, m) {
			return
		}
		now := time.Unix(1e9, 0)
		c := cache{now: func() time.Time { return now }}
		c.asks(nil)
		k := key(m, "udp")
		c.put(nil, k, question, answer)
		if got, fresh := c.get(k, question, maxAnswer); got != nil && (!fresh || len(got) != len(answer) || !bytes.Equal(got[:2], question[:2])) {
			t.Errorf("%x is kept as %x", answer, got)
		}
		now = now.Add(2 * time.Hour)
		if _, fresh := c.get(k, question, maxAnswer); fresh {
			t.Error("fresh after two hours")
		}
		if c.bytes > cacheBytes {
			t.Errorf("%d bytes", c.bytes)
		}
	})
}
