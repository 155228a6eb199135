package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// dig asks 127.0.0.11 from inside a namespace, again where it is told that there was no answer in time.
func dig(t *testing.T, n *Networks, ns *os.File, proto, name string, typ uint16) (string, int) {
	t.Helper()
	var m *dns.Msg
	inside(t, n, ns, func() (err error) {
		c := &dns.Client{Net: proto, Timeout: time.Minute}
		for range 5 {
			m, _, err = c.Exchange(new(dns.Msg).SetQuestion(dns.Fqdn(name), typ), resolverAddr+":53")
			if err != nil || m.Rcode != dns.RcodeServerFailure {
				break
			}
		}
		return err
	})
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
	slices.Sort(out)
	return strings.Join(out, ","), m.Rcode
}

// nameServer answers everything with 192.0.2.99 and says what it was asked.
func nameServer(t *testing.T, n *Networks, ns *os.File, address string) (asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var names []string
	inside(t, n, ns, func() error {
		pc, err := net.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			mu.Lock()
			names = append(names, q.Question[0].Name)
			mu.Unlock()
			m := new(dns.Msg).SetReply(q)
			rr, _ := dns.NewRR(q.Question[0].Name + " 1 IN A 192.0.2.99")
			m.Answer = []dns.RR{rr}
			_ = w.WriteMsg(m)
		})}
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() { _ = s.Shutdown() })
		return nil
	})
	return func() []string { mu.Lock(); defer mu.Unlock(); return slices.Clone(names) }
}

func TestNames(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	asked := nameServer(t, n, out, outsideAddr+":53")
	network1(t, n, CreateRequest{Name: "Shop", IPv6: new(true)})
	network1(t, n, CreateRequest{Name: "other"})
	network1(t, n, CreateRequest{Name: "inner", Internal: true})
	named := func(name, nw string, aliases ...string) *Attachment {
		return attach(t, n, AttachRequest{Name: name, Hostname: "Host-of-" + name, DNS: []string{outsideAddr},
			Endpoints: []EndpointRequest{{Network: nw, Aliases: aliases}}})
	}
	web, db, db2 := named("web", "Shop"), named("db1", "Shop", "DB", "postgres."), named("db2", "Shop", "db")
	stranger, locked, locked2 := named("stranger", "other"), named("locked", "inner"), named("locked2", "inner")
	if !slices.Equal(web.Resolvers, []string{resolverAddr}) {
		t.Errorf("resolvers %q", web.Resolvers)
	}
	// A name server of the container's own must find port 53 free.
	nameServer(t, n, web.NetNS, ":53")

	six := db.Endpoints[0].IPv6.Addr().String()
	for _, c := range []struct {
		from *Attachment
		name string
		typ  uint16
		want string
		code int
	}{
		{web, "db1", dns.TypeA, addrOf(db), 0},
		{web, "host-of-DB1", dns.TypeA, addrOf(db), 0},
		{web, "host-of-db1.shop", dns.TypeA, addrOf(db), 0},
		{web, "DB1", dns.TypeA, addrOf(db), 0},
		{web, "db1", dns.TypeAAAA, six, 0},
		{web, "postgres", dns.TypeA, addrOf(db), 0},
		{web, "db1.shop", dns.TypeA, addrOf(db), 0},
		{web, n.owner(t, db)[:12], dns.TypeA, addrOf(db), 0},
		{web, "web", dns.TypeA, addrOf(web), 0},
		{web, "db", dns.TypeA, addrOf(db) + "," + addrOf(db2), 0},
		{web, "example.org", dns.TypeA, "192.0.2.99", 0},
		{stranger, "db1", dns.TypeA, "192.0.2.99", 0}, // another network's names are the outside's
		{locked, "locked2", dns.TypeA, addrOf(locked2), 0},
		{locked, "secret.example.org", dns.TypeA, "", dns.RcodeNameError},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			if proto == "tcp" && c.want == "192.0.2.99" {
				continue // the outside server speaks UDP only
			}
			if got, code := dig(t, n, c.from.NetNS, proto, c.name, c.typ); got != c.want || code != c.code {
				t.Errorf("%s %s %s: %q, %s", proto, c.name, dns.TypeToString[c.typ], got, dns.RcodeToString[code])
			}
		}
	}
	back, err := dns.ReverseAddr(addrOf(db))
	must(t, err)
	if got, _ := dig(t, n, web.NetNS, "udp", back, dns.TypePTR); got != "db1.Shop." {
		t.Errorf("reverse: %q", got)
	}
	for _, name := range asked() {
		if strings.Contains(name, "secret") || name == "web." || strings.HasPrefix(name, "locked") {
			t.Errorf("%q was asked outside", name)
		}
	}
	must(t, n.Detach(context.Background(), n.owner(t, db)))
	if got, _ := dig(t, n, web.NetNS, "udp", "db", dns.TypeA); got != addrOf(db2) {
		t.Errorf("after Detach: %q", got)
	}
	if a := attach(t, n, AttachRequest{}); a.Resolvers != nil {
		t.Errorf("the default network has no names: %q", a.Resolvers)
	}
	// Descriptors of the resolver must not keep a namespace that was left, nor what is in it.
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "btleft"}, PeerName: "left", PeerNamespace: netlink.NsFd(db.NetNS.Fd())}))
	t.Cleanup(func() { _ = run("ip", "link", "del", "btleft") })
	db.NetNS.Close()
	eventually(t, "the namespace of a container that is gone", func() bool { return !linkNames(t)["btleft"] })
}

func TestNamesAfterRestart(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "shop"})
	idA, idB := newID(), newID()
	a := attach(t, n, AttachRequest{ContainerID: idA, Name: "a", Endpoints: on("shop").Endpoints})
	b := attach(t, n, AttachRequest{ContainerID: idB, Name: "b", Endpoints: []EndpointRequest{{Network: "shop", Aliases: []string{"svc"}}}})
	pid := sleeper(t, n, a.NetNS)
	must(t, n.Close()) // leaves the containers
	m, err := Open(context.Background(), n.opts)
	must(t, err)
	t.Cleanup(func() { m.Close() })
	must(t, m.Retain(context.Background(), []Live{{ContainerID: idA, Name: "a", Pid: pid, Endpoints: a.Endpoints},
		{ContainerID: idB, Name: "b", Endpoints: b.Endpoints}}))
	for _, name := range []string{"b", "svc"} {
		if got, _ := dig(t, m, a.NetNS, "udp", name, dns.TypeA); got != addrOf(b) {
			t.Errorf("%s: %q", name, got)
		}
	}
	must(t, m.Detach(context.Background(), idA))
	must(t, m.Detach(context.Background(), idB))
}

func TestServerAddrs(t *testing.T) {
	got := serverAddrs([]string{"192.0.2.1", "x", "::1"})
	if want := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[::1]:53")}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// TestLinkNames: a link is a name that only the container that has it can ask for.
func TestLinkNames(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "a"})
	db := attach(t, n, AttachRequest{Name: "postgres", Endpoints: on("a").Endpoints})
	web := attach(t, n, AttachRequest{Name: "web", Endpoints: []EndpointRequest{{Network: "a", Links: map[string]string{"DB": "Postgres"}}}})
	other := attach(t, n, AttachRequest{Name: "other", Endpoints: on("a").Endpoints})
	if a, _ := dig(t, n, web.NetNS, "udp", "db.", dns.TypeA); !strings.Contains(a, addrOf(db)) {
		t.Errorf("db is %q", a)
	}
	if a, _ := dig(t, n, other.NetNS, "udp", "db.", dns.TypeA); strings.Contains(a, addrOf(db)) {
		t.Error("another container knows the link")
	}
}
