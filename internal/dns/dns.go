// Package dns answers one container's questions about names: those of its networks' containers itself, all others by
// asking the servers the host or the user named.
//
// # A question's way
//
//	question ─▶ Names knows it ──▶ answer of our own, TTL 600, never forwarded (also when there is no such record type)
//	         ├▶ not external ────▶ NXDOMAIN: a container that cannot reach the outside does not ask it either, for a name
//	         │                     can carry data out (CVE-2024-29018)
//	         ├▶ not allowed ─────▶ NXDOMAIN, for the same reason: an egress policy does not let the container reach the name
//	         ├▶ kept and fresh ──▶ the answer as it was, with what is left of its TTLs
//	         └▶ forwarded ───────▶ the servers in turn, the next one when one fails or is silent for a second, and at
//	                               once when it was silent lately; the first answer wins and is handed back as it is.
//	                               After 1.8 s, or when all fail: what was kept, up to a day old, with a TTL of 30
//
// Before an answer with addresses goes to the container, who wants to hears them (Options.Learned): so rules can let it
// reach just those.
//
// The servers are not asked all at once from the start: where the first knows names of a company and the second is the
// world's, the order is what makes them right.
//
// Messages of a container are hostile input: they are bounded in size and number. A question over UDP is forwarded over
// UDP, one over TCP over TCP, so truncation is the business of who asked. The number of a forwarded question is ours and
// not the container's. Each container has a cache of its own, of 32 KiB: no container learns by the time of an answer what
// another asked, and none can put an answer where another finds it. It is void when the servers are others.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Names is what the server knows by itself. Names come in lower case and without the final dot.
type Names interface {
	// Addresses are those of a name; known is true for a name that has none of a version, too.
	Addresses(name string) (addrs []netip.Addr, known bool)
	// Name is what an address is called, or "". known is true for every address that is not the outside's business.
	Name(addr netip.Addr) (name string, known bool)
}

// Resolved is an address of a name, and for how many seconds.
type Resolved struct {
	Addr netip.Addr
	TTL  uint32
}

// Options configure a server.
type Options struct {
	Names Names
	// Servers are asked what Names does not know, in this order; it is called for each question.
	Servers func() []netip.AddrPort
	// External is false for a container that must not learn of the outside.
	External func() bool
	// Allowed is false for names that shall not be asked for: there are no such names then. nil is true for all. It is asked
	// with the name in lower case and without the final dot.
	Allowed func(name string) bool
	// Learned hears what addresses a name has before the one who asked does; nil is nobody. The name is as for Allowed.
	Learned func(name string, addrs []Resolved)
	// Dial opens a socket to a server; nil is one of the daemon's network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	ttl          = 600                     // seconds, as Docker's answers
	patience     = time.Second             // until the next server is asked, too
	staleAfter   = 1800 * time.Millisecond // until an old answer is better than none (RFC 8767, 5)
	deadline     = 4 * time.Second         // for an answer at all; resolvers wait 5
	idle         = 10 * time.Second        // for the next question on a connection
	maxUDP       = 4096                    // bytes of a datagram either way
	maxAtOnce    = 100                     // forwarded questions of one container under way
	maxConns     = 20                      // connections of one container
	maxAnswer    = dns.MaxMsgSize          // bytes of an answer over TCP
	maxAliases   = 64                      // from a name to its addresses; resolvers give up sooner
	writeTimeout = 500 * time.Millisecond  // to a container that does not read
)

// Server answers on one pair of sockets.
type Server struct {
	o      Options
	pc     net.PacketConn
	l      net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	slots  chan struct{}
	conns  chan struct{}
	cache  cache
	work   sync.WaitGroup // everything
	// retired says that nobody shall read from the sockets; reading counts who still does.
	retired atomic.Bool
	reading sync.WaitGroup
}

// Serve answers questions that come in by pc and l until Close. It owns both.
func Serve(pc net.PacketConn, l net.Listener, o Options) *Server {
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	s := &Server{o: o, pc: pc, l: l, slots: make(chan struct{}, maxAtOnce), conns: make(chan struct{}, maxConns)}
	s.cache.now = time.Now
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.reading.Add(2)
	s.work.Go(s.packets)
	s.work.Go(s.connections)
	return s
}

// Close ends the server and waits for what is under way, which it cuts short.
func (s *Server) Close() error {
	s.cancel()
	err := errors.Join(s.pc.Close(), s.l.Close())
	s.work.Wait()
	return err
}

// Retire makes the server take no further question, so that another one can go on with the same sockets: what waits in
// them is that one's. Once it returns nothing is read any more; what is under way is answered, and wait returns when it is.
func (s *Server) Retire() (wait func()) {
	s.retired.Store(true)
	past := time.Unix(1, 0)
	_ = s.pc.SetReadDeadline(past)
	_ = s.pc.SetWriteDeadline(time.Now().Add(writeTimeout)) // the container can keep its loopback from taking any more
	if l, ok := s.l.(interface{ SetDeadline(time.Time) error }); ok {
		_ = l.SetDeadline(past)
	}
	s.reading.Wait()
	_ = s.pc.SetWriteDeadline(time.Now().Add(deadline + writeTimeout))
	return s.work.Wait
}

// over reports whether the sockets are read no more.
func (s *Server) over(err error) bool {
	return s.retired.Load() || s.ctx.Err() != nil || errors.Is(err, net.ErrClosed)
}

func (s *Server) packets() {
	defer s.reading.Done()
	var buf [maxUDP]byte
	for !s.retired.Load() {
		n, from, err := s.pc.ReadFrom(buf[:])
		if err != nil {
			if s.over(err) {
				return
			}
			continue // an ICMP error of an earlier answer
		}
		q, answer := s.own(buf[:n], true)
		if answer != nil {
			_, _ = s.pc.WriteTo(answer, from)
			continue
		}
		if q == nil {
			continue
		}
		question := append([]byte(nil), buf[:n]...)
		select {
		case s.slots <- struct{}{}:
		default:
			_, _ = s.pc.WriteTo(failure(q, dns.RcodeServerFailure), from)
			continue
		}
		s.work.Go(func() {
			defer func() { <-s.slots }()
			_, _ = s.pc.WriteTo(s.forward("udp", q, question), from)
		})
	}
}

// rest waits a moment, or until the server is closed.
func (s *Server) rest() {
	select {
	case <-time.After(writeTimeout):
	case <-s.ctx.Done():
	}
}

func (s *Server) connections() {
	defer s.reading.Done()
	for !s.retired.Load() {
		c, err := s.l.Accept()
		if err != nil {
			if s.over(err) {
				return
			}
			s.rest() // no descriptors are left, and none will be at once
			continue
		}
		select {
		case s.conns <- struct{}{}:
		default:
			c.Close()
			continue
		}
		s.work.Go(func() {
			defer func() { <-s.conns }()
			defer c.Close()
			stop := context.AfterFunc(s.ctx, func() { c.Close() })
			defer stop()
			s.converse(c)
		})
	}
}

// converse answers the questions of one connection, one after the other.
func (s *Server) converse(c net.Conn) {
	for {
		_ = c.SetReadDeadline(time.Now().Add(idle))
		question, err := readMessage(c)
		if err != nil {
			return
		}
		q, answer := s.own(question, false)
		if q == nil && answer == nil {
			return
		}
		if answer == nil {
			answer = s.forward("tcp", q, question)
		}
		_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if writeMessage(c, answer) != nil {
			return
		}
	}
}

// readMessage and writeMessage put the length before each message (RFC 1035, 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	if len(b) > maxAnswer {
		return errors.New("the message is too long")
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// own reads a question and returns our own answer to it, or the question alone where it is to be forwarded. Both are nil
// for what is no question.
func (s *Server) own(b []byte, datagram bool) (q *dns.Msg, answer []byte) {
	q = new(dns.Msg)
	if q.Unpack(b) != nil || q.Response {
		return nil, nil
	}
	if q.Opcode != dns.OpcodeQuery {
		return q, failure(q, dns.RcodeNotImplemented)
	}
	if len(q.Question) != 1 {
		return q, failure(q, dns.RcodeFormatError)
	}
	records, known := s.records(q.Question[0])
	switch {
	case known:
		return q, reply(q, records, datagram)
	case q.Question[0].Qtype == dns.TypeAXFR || q.Question[0].Qtype == dns.TypeIXFR: // answers of more than one message
		return q, failure(q, dns.RcodeRefused)
	case s.o.External != nil && !s.o.External(),
		s.o.Allowed != nil && (strings.Contains(q.Question[0].Name, `\`) || !s.o.Allowed(plainName(q.Question[0].Name))):
		// A name with a dot or worse inside of a label is none of those that an egress policy means, and looks like them.
		return q, failure(q, dns.RcodeNameError)
	}
	return q, nil
}

// records are our own answer's. What is known is so of every type and class: there may be no such records, and others are
// not asked for them.
func (s *Server) records(q dns.Question) ([]dns.RR, bool) {
	header := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	name := plainName(q.Name)
	if addr, ok := reverse(name); ok {
		called, known := s.o.Names.Name(addr.Unmap())
		called = dns.Fqdn(called)
		if _, valid := dns.IsDomainName(called); !valid || called == "." || q.Qtype != dns.TypePTR || q.Qclass != dns.ClassINET {
			return nil, known // a network can be called what no domain can
		}
		return []dns.RR{&dns.PTR{Hdr: header, Ptr: called}}, true
	}
	addrs, known := s.o.Names.Addresses(name)
	var records []dns.RR
	for _, a := range addrs {
		switch {
		case q.Qclass != dns.ClassINET:
		case q.Qtype == dns.TypeA && a.Is4():
			records = append(records, &dns.A{Hdr: header, A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			records = append(records, &dns.AAAA{Hdr: header, AAAA: a.AsSlice()})
		}
	}
	// Every answer begins with another one, so that clients share the load.
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	return records, known
}

func reply(q *dns.Msg, records []dns.RR, datagram bool) []byte {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	m.Answer = records
	m.Compress = true
	size := maxAnswer
	if datagram {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = min(max(int(o.UDPSize()), dns.MinMsgSize), maxUDP)
			m.SetEdns0(maxUDP, false)
		}
	}
	m.Truncate(size)
	b, err := m.Pack()
	if err != nil {
		return failure(q, dns.RcodeServerFailure)
	}
	return b
}

// failure always has an answer, for without one the question would go to others.
func failure(q *dns.Msg, code int) []byte {
	m := new(dns.Msg).SetRcode(q, code)
	m.RecursionAvailable = true
	b, err := m.Pack()
	if err != nil { // a header alone
		const response, recursion = 0x80, 0x80
		b = append(binary.BigEndian.AppendUint16(nil, q.Id), response, recursion|byte(code&0x0f), 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return b
}

// reverse reads the name under which an address is asked for (RFC 1035, 3.5; RFC 3596, 2.5).
func reverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		f := strings.Split(rest, ".")
		if len(f) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(f[3] + "." + f[2] + "." + f[1] + "." + f[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(rest) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		b.WriteByte(rest[i])
		if i%8 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// forward is resolve, and tells of the addresses in the answer.
func (s *Server) forward(network string, q *dns.Msg, question []byte) []byte {
	b := s.resolve(network, q, question)
	if s.o.Learned != nil {
		if addrs := addresses(q, b); len(addrs) > 0 {
			s.o.Learned(plainName(q.Question[0].Name), addrs)
		}
	}
	return b
}

func plainName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// addresses are those that an answer gives the name that was asked for, by way of other names it may be an alias of.
func addresses(q *dns.Msg, answer []byte) (found []Resolved) {
	var m dns.Msg
	if t := q.Question[0].Qtype; t != dns.TypeA && t != dns.TypeAAAA || m.Unpack(answer) != nil || m.Rcode != dns.RcodeSuccess {
		return nil
	}
	byName := map[string][]dns.RR{}
	for _, r := range m.Answer {
		owner := dns.CanonicalName(r.Header().Name)
		byName[owner] = append(byName[owner], r)
	}
	name, ttl := dns.CanonicalName(q.Question[0].Name), ^uint32(0)
	for range maxAliases {
		next := ""
		for _, r := range byName[name] {
			switch r := r.(type) {
			case *dns.CNAME:
				next, ttl = dns.CanonicalName(r.Target), min(ttl, r.Hdr.Ttl)
			case *dns.A:
				if a, ok := netip.AddrFromSlice(r.A.To4()); ok {
					found = append(found, Resolved{a, min(ttl, r.Hdr.Ttl)})
				}
			case *dns.AAAA:
				if a, ok := netip.AddrFromSlice(r.AAAA); ok {
					found = append(found, Resolved{a.Unmap(), min(ttl, r.Hdr.Ttl)})
				}
			}
		}
		if next == "" || len(found) > 0 {
			return found
		}
		name = next
	}
	return nil
}

// resolve answers from what is kept or asks the servers. It always returns an answer, if only that there was none.
func (s *Server) resolve(network string, q *dns.Msg, question []byte) []byte {
	servers := s.o.Servers()
	s.cache.asks(servers)
	kept := key(q, network)
	old, fresh := s.cache.get(kept, question, room(network, q))
	if fresh {
		return old
	}
	ctx, cancel := context.WithTimeout(s.ctx, deadline)
	defer cancel()
	type answered struct {
		by netip.AddrPort
		b  []byte
	}
	answers := make(chan answered, len(servers))
	asked, pending := 0, 0
	next := func() {
		for more := true; more && asked < len(servers); {
			server := servers[asked]
			asked, pending = asked+1, pending+1
			more = s.cache.isSilent(server)
			go func() { answers <- answered{server, s.ask(ctx, network, server, q, question)} }()
		}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var enough <-chan time.Time
	if old != nil {
		t := time.NewTimer(staleAfter)
		defer t.Stop()
		enough = t.C
	}
	var second []byte // an answer that says the server could not
	for next(); pending > 0; {
		select {
		case a := <-answers:
			pending--
			if a.b != nil {
				s.cache.heard(a.by)
				if !failed(a.b) {
					s.cache.put(servers, kept, question, a.b)
					return a.b
				}
				second = a.b
			}
			next()
		case <-timer.C:
			s.cache.unheard(servers[asked-1])
			next()
			timer.Reset(patience)
		case <-enough:
			return old
		}
	}
	switch {
	case old != nil:
		return old
	case second != nil:
		return second
	}
	return failure(q, dns.RcodeServerFailure)
}

// room is the size of the largest answer that the asker takes.
func room(network string, q *dns.Msg) int {
	if network == "tcp" {
		return maxAnswer
	}
	if o := q.IsEdns0(); o != nil {
		return max(int(o.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// failed is true for the answers after which another server may know more.
func failed(b []byte) bool {
	code := int(b[3] & 0x0f)
	return code == dns.RcodeServerFailure || code == dns.RcodeRefused
}

// ask returns one server's answer, or nil. ctx ends it.
func (s *Server) ask(ctx context.Context, network string, server netip.AddrPort, q *dns.Msg, question []byte) []byte {
	c, err := s.o.Dial(ctx, network, server.String())
	if err != nil {
		return nil
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	id := uint16(rand.Uint32()) // of the system's random source, as any forged answer must guess it
	question = slices.Clone(question)
	binary.BigEndian.PutUint16(question, id)
	named := func(b []byte) []byte {
		binary.BigEndian.PutUint16(b, q.Id)
		return b
	}
	if network == "tcp" {
		if writeMessage(c, question) != nil {
			return nil
		}
		if b, err := readMessage(c); err == nil && answers(b, id, q) {
			return named(b)
		}
		return nil
	}
	if _, err := c.Write(question); err != nil {
		return nil
	}
	buf := make([]byte, maxUDP+1) // a server that is silent holds it for as long, and so does each of its like
	for {
		n, err := c.Read(buf)
		switch {
		case err != nil:
			return nil
		case !answers(buf[:n], id, q): // anybody can send us anything; wait for the right one
		case n > maxUDP:
			return truncated(q)
		default:
			return named(buf[:n])
		}
	}
}

// truncated tells who asked to ask again over TCP.
func truncated(q *dns.Msg) []byte {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Truncated = true, true
	b, err := m.Pack()
	if err != nil {
		return failure(q, dns.RcodeServerFailure)
	}
	return b
}

// answers reports whether b is an answer to q, sent with the number id: the same number and the same question. A server that says
// it could not may leave the question out.
func answers(b []byte, id uint16, q *dns.Msg) bool {
	const header, response = 12, 0x80
	if len(b) < header || binary.BigEndian.Uint16(b) != id || b[2]&response == 0 {
		return false
	}
	switch binary.BigEndian.Uint16(b[4:]) {
	case 0:
		return b[3]&0x0f != dns.RcodeSuccess && b[3]&0x0f != dns.RcodeNameError
	case 1:
	default:
		return false
	}
	name, off, err := dns.UnpackDomainName(b, header)
	if err != nil || off+4 > len(b) {
		return false
	}
	want := q.Question[0]
	return strings.EqualFold(name, want.Name) && binary.BigEndian.Uint16(b[off:]) == want.Qtype &&
		binary.BigEndian.Uint16(b[off+2:]) == want.Qclass
}
