package dns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of one container's cache.
const (
	cacheBytes = 32 << 10         // of answers and what they are found by
	entryBytes = 2 << 10          // larger answers are asked for again
	maxTTL     = time.Hour        // an answer is fresh, whatever it says itself
	maxStale   = 24 * time.Hour   // an answer is good for when no server can be reached (RFC 8767, 5)
	staleTTL   = 30               // seconds an old answer is handed out for (RFC 8767, 4)
	entryCost  = 200              // bytes an entry takes beside its texts, about
	recovery   = 30 * time.Second // a server that was silent gets no head start
)

// cache keeps answers of servers. It belongs to one container: nobody learns from the time of an answer what another
// one asked, and who tricks a server's answer deceives only itself.
type cache struct {
	mu      sync.Mutex
	servers []netip.AddrPort // who was asked; others make all of it void
	entries map[string]entry
	order   []string // of entries, the oldest first
	bytes   int
	silent  map[netip.AddrPort]time.Time // the servers that did not answer, and when
	now     func() time.Time
}

type entry struct {
	answer []byte
	ttls   []int // where the answer's times to live are
	born   time.Time
	fresh  time.Duration
}

// key is what makes two questions the same, or "" for one whose answer is not kept: the name in any case, type and class,
// and the bits an answer depends on.
func key(q *dns.Msg, network string) string {
	const recursion, checking, authentic, extended, secure = 1, 2, 4, 8, 16
	bits := byte(0)
	if q.RecursionDesired {
		bits |= recursion
	}
	if q.CheckingDisabled {
		bits |= checking
	}
	if q.AuthenticatedData {
		bits |= authentic
	}
	if o := q.IsEdns0(); o != nil {
		if len(o.Option) > 0 || o.Version() != 0 { // a cookie, a client's subnet: between these two alone
			return ""
		}
		bits |= extended
		if o.Do() {
			bits |= secure
		}
	}
	if len(q.Answer)+len(q.Ns) > 0 || len(q.Extra) > 0 && bits&extended == 0 || len(q.Extra) > 1 {
		return ""
	}
	one := q.Question[0]
	return string([]byte{bits, byte(one.Qtype >> 8), byte(one.Qtype), byte(one.Qclass >> 8), byte(one.Qclass)}) +
		dns.CanonicalName(one.Name) + "/" + network
}

// get returns an answer to the question, and whether it is fresh. room is the largest the asker takes.
func (c *cache) get(key string, question []byte, room int) (answer []byte, fresh bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	end := questionEnd(question)
	if !ok || len(e.answer) > room || end == 0 || questionEnd(e.answer) != end {
		return nil, false
	}
	age := c.now().Sub(e.born)
	if age < 0 || age > maxStale {
		return nil, false
	}
	fresh = age < e.fresh
	answer = slices.Clone(e.answer)
	copy(answer, question[:2])
	copy(answer[headerLen:end], question[headerLen:end]) // the same name, written as it was asked for
	for _, at := range e.ttls {
		left := uint32(staleTTL)
		if fresh {
			left = min(binary.BigEndian.Uint32(answer[at:]), uint32(maxTTL.Seconds()))
			left -= min(left, uint32(age.Seconds()))
		}
		binary.BigEndian.PutUint32(answer[at:], left)
	}
	return answer, fresh
}

// put keeps an answer that one of the servers gave to the question, if it is one to be kept.
func (c *cache) put(servers []netip.AddrPort, key string, question, answer []byte) {
	end := questionEnd(question)
	if key == "" || len(answer) > entryBytes || end == 0 || questionEnd(answer) != end {
		return
	}
	ttls, fresh, ok := lifetime(answer)
	if !ok || fresh == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(servers, c.servers) {
		return
	}
	c.drop(key)
	c.entries[key] = entry{slices.Clone(answer), ttls, c.now(), min(fresh, maxTTL)}
	c.order = append(c.order, key)
	c.bytes += len(key) + len(answer) + entryCost
	for c.bytes > cacheBytes {
		c.drop(c.order[0])
	}
}

// drop is called with mu held.
func (c *cache) drop(key string) {
	e, ok := c.entries[key]
	if !ok {
		return
	}
	delete(c.entries, key)
	at := slices.Index(c.order, key)
	c.order = slices.Delete(c.order, at, at+1)
	c.bytes -= len(key) + len(e.answer) + entryCost
}

// asks says who is asked from now on. What others said may be wrong where the host is now.
func (c *cache) asks(servers []netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || !slices.Equal(servers, c.servers) {
		c.servers, c.order, c.bytes = slices.Clone(servers), nil, 0
		c.entries, c.silent = map[string]entry{}, map[netip.AddrPort]time.Time{}
	}
}

// heard and unheard note whether a server answers.
func (c *cache) heard(server netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.silent, server)
}

func (c *cache) unheard(server netip.AddrPort) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.servers, server) { // so that there are no more than those
		c.silent[server] = c.now()
	}
}

// isSilent reports whether the server did not answer lately.
func (c *cache) isSilent(server netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.silent[server]
	return ok && c.now().Sub(since) < recovery
}

const headerLen = 12 // RFC 1035, 4.1.1

// questionEnd is where the only question of a message ends, or 0 where that is not so simple.
func questionEnd(b []byte) int {
	if len(b) < headerLen || binary.BigEndian.Uint16(b[4:]) != 1 {
		return 0
	}
	at := headerLen
	for at < len(b) && b[at] != 0 {
		if b[at] > 63 { // a pointer, which a first name has no use for
			return 0
		}
		at += 1 + int(b[at])
	}
	if at += 1 + 4; at > len(b) {
		return 0
	}
	return at
}

// lifetime reads where the times to live of an answer's records are and how long it may be kept: the shortest of them, and
// for an answer that there is nothing what the zone says (RFC 2308, 5). ok is false for what is not to be kept.
func lifetime(b []byte) (ttls []int, fresh time.Duration, ok bool) {
	at := questionEnd(b)
	if at == 0 {
		return nil, 0, false
	}
	const truncated, codeMask = 0x02, 0x0f
	code := int(b[3] & codeMask)
	if b[2]&truncated != 0 || code != dns.RcodeSuccess && code != dns.RcodeNameError {
		return nil, 0, false
	}
	answers, authorities := int(binary.BigEndian.Uint16(b[6:])), int(binary.BigEndian.Uint16(b[8:]))
	records := answers + authorities + int(binary.BigEndian.Uint16(b[10:]))
	shortest, zone := ^uint32(0), false
	for i := range records {
		_, after, err := dns.UnpackDomainName(b, at)
		if err != nil || after+10 > len(b) {
			return nil, 0, false
		}
		typ, size := binary.BigEndian.Uint16(b[after:]), int(binary.BigEndian.Uint16(b[after+8:]))
		at = after + 10 + size
		if at > len(b) {
			return nil, 0, false
		}
		if typ == dns.TypeOPT {
			if b[after+4] != 0 { // the upper bits of an extended code
				return nil, 0, false
			}
			continue
		}
		ttls = append(ttls, after+4)
		ttl := binary.BigEndian.Uint32(b[after+4:])
		if ttl > 1<<31-1 {
			ttl = 0 // RFC 2181, 8
		}
		shortest = min(shortest, ttl)
		if typ == dns.TypeSOA && i >= answers && i < answers+authorities && size >= 22 {
			shortest, zone = min(shortest, binary.BigEndian.Uint32(b[at-4:])), true
		}
	}
	if at != len(b) || len(ttls) == 0 || (code == dns.RcodeNameError || answers == 0) && !zone {
		return nil, 0, false
	}
	return ttls, min(time.Duration(shortest)*time.Second, maxTTL), true
}
