package network

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func trace(t *testing.T, n *Networks, a *Attachment, id string, pid int, port uint16) *Trace {
	t.Helper()
	v, err := n.Trace(t.Context(), TraceRequest{ContainerID: id, Pid: pid, NetNS: a.NetNS, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// mentions checks that there is exactly one problem with each of the texts, and no other.
func mentions(t *testing.T, what string, v *Trace, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !slices.ContainsFunc(v.Problems, func(p string) bool { return strings.Contains(p, text) }) {
			t.Errorf("%s: no problem says %q: %q", what, text, v.Problems)
		}
	}
	if len(v.Problems) != len(texts) {
		t.Errorf("%s: problems %q, want %d", what, v.Problems, len(texts))
	}
}

func TestTrace(t *testing.T) {
	n := room(t)
	ns := outside(t, n)
	r := on("bridge")
	r.ContainerID, r.Name = newID(), "traced"
	r.Ports = []PortRequest{{Container: 80, HostPort: "18980"}, {Container: 81, HostPort: "18981", HostIP: "127.0.0.1"}}
	a := attach(t, n, r)
	pid := sleeper(t, n, a.NetNS)

	mentions(t, "nobody listens", trace(t, n, a, r.ContainerID, pid, 80), "nothing listens on port 80/tcp")
	serve(t, n, a.NetNS, "tcp", ":80")
	serve(t, n, a.NetNS, "tcp", "127.0.0.1:81")
	reaches(t, n, "published", ns, "tcp", hostAddr+":18980", outsideAddr)
	v := trace(t, n, a, r.ContainerID, pid, 0)
	mentions(t, "all ports", v, "port 81/tcp in the container does so on its loopback address 127.0.0.1 only")
	e, p := v.Endpoints[0], v.Ports[0]
	if e.Inside.Name != "eth0" || !e.Inside.Up || !e.Inside.Carrier || e.Host == nil || !e.Host.Up || e.Bridge == nil || e.Bridge.Name != n.opts.Bridge ||
		!slices.Contains(e.Inside.Addresses, a.Endpoints[0].IPv4) || !slices.Contains(e.Gateways, a.Endpoints[0].Gateway) {
		t.Errorf("endpoint %+v, host %+v, bridge %+v", e, e.Host, e.Bridge)
	}
	if text := strings.Join(e.Rules, "\n"); !strings.Contains(text, "@hidden: leaves with the host's address") || !strings.Contains(text, "(@same)") {
		t.Errorf("leaving: %s", text)
	}
	if p.Port != 80 || len(p.Published) == 0 || p.Published[0].Port() != 18980 || len(p.Listeners) == 0 || len(p.Flows) == 0 ||
		!strings.Contains(p.Flows[0], outsideAddr) || !strings.Contains(strings.Join(p.Rules, "\n"), "dnat by @published: tcp . 18980") {
		t.Errorf("port: %+v", p)
	}
	if q := v.Ports[1]; q.Port != 81 || !strings.Contains(strings.Join(q.Rules, "\n"), "output: dnat by @published_at: 127.0.0.1 . tcp . 18981") {
		t.Errorf("port: %+v", q)
	}
	mentions(t, "the host's port", trace(t, n, a, r.ContainerID, pid, 18980), "port 18980/tcp is the host's, and leads to port 80/tcp of the container",
		"nothing listens on port 18980/tcp")
	n.warnOf(Live{ContainerID: "another", Name: "another"}, errors.New("trouble of another"))
	if v := trace(t, n, a, r.ContainerID, pid, 80); strings.Contains(strings.Join(v.Problems, "\n"), "trouble of another") {
		t.Errorf("problems %q", v.Problems)
	}
	must(t, n.Detach(t.Context(), "another"))
	if w := n.Warnings(); strings.Contains(strings.Join(w, "\n"), "trouble of another") {
		t.Errorf("warnings %q", w)
	}
	mentions(t, "not published", trace(t, n, a, r.ContainerID, pid, 9), "port 9/tcp is not published", "nothing listens on port 9/tcp")

	// What others can do to it.
	host, err := netlink.LinkByName(e.Host.Name)
	must(t, err)
	must(t, netlink.LinkSetDown(host))
	mentions(t, "link down", trace(t, n, a, r.ContainerID, pid, 80), "host's end of the container's eth0, is down")
	must(t, netlink.LinkSetUp(host))
	must(t, netlink.LinkSetNoMaster(host))
	mentions(t, "not a port", trace(t, n, a, r.ContainerID, pid, 80), "is not a port of bridge")
	bridge, err := netlink.LinkByName(n.opts.Bridge)
	must(t, err)
	must(t, netlink.LinkSetMaster(host, bridge))
	must(t, n.changes.Close()) // nobody brings them back
	nft(t, "delete", "element", "ip", n.tableName(), "published", "{ tcp . 18980 }")
	mentions(t, "element gone", trace(t, n, a, r.ContainerID, pid, 80), "kernel does not translate port", `the set "published" of firewall table`)
	nft(t, "delete", "table", "ip", n.tableName())
	mentions(t, "table gone", trace(t, n, a, r.ContainerID, pid, 80), "kernel does not translate port", "is gone: somebody has removed Berth's rules")
	inside(t, n, a.NetNS, func() error { return run("ip", "addr", "flush", "dev", "eth0") })
	v = trace(t, n, a, r.ContainerID, pid, 80)
	mentions(t, "address gone", v, "kernel does not translate port", "is gone: somebody has removed Berth's rules", "has lost its address "+a.Endpoints[0].IPv4.String())

	if _, err := n.Trace(t.Context(), TraceRequest{ContainerID: newID(), NetNS: a.NetNS, Pid: pid}); err == nil ||
		!strings.Contains(err.Error(), "no network of Berth's") {
		t.Error(err)
	}
}

func TestSocketAddresses(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000:0050":                         "0.0.0.0:80",
		"00000000000000000000000001000000:0050": "[::1]:80",
		"0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
	} {
		if a, ok := parseSocketAddr(text); !ok || a != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %v %v, want %s", text, a, ok, want)
		}
	}
	for _, text := range []string{"", ":", "0100007F", "0100007F:", "xx:yy", "0100007F:10000", "010000:0050"} {
		if a, ok := parseSocketAddr(text); ok {
			t.Errorf("%q: %v", text, a)
		}
	}
}
