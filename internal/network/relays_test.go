package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// published renders ports as `docker port` does.
func published(ports []PublishedPort) string {
	var all []string
	for _, p := range ports {
		all = append(all, fmt.Sprintf("%d/%s %s", p.Container, p.Proto, netip.AddrPortFrom(p.HostIP, p.HostPort)))
	}
	return strings.Join(all, ", ")
}

// needLoopback6 skips where programs cannot listen on ::1: there is no relay then.
func needLoopback6(t *testing.T) {
	t.Helper()
	if !hasLoopback6() {
		t.Skip("this host's kernel has no IPv6, or has it turned off for the loopback: nothing is relayed there")
	}
}

// stream is a connection that goes on.
type stream struct{ net.Conn }

func openStream(t *testing.T, address string) stream {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, time.Minute)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return stream{c}
}

func (s stream) goesOn() error {
	_ = s.SetDeadline(time.Now().Add(time.Minute))
	sent, got := []byte(time.Now().String()), make([]byte, 256)
	if _, err := s.Write(sent); err != nil {
		return err
	}
	if _, err := io.ReadFull(s, got[:len(sent)]); err != nil {
		return err
	}
	if !bytes.Equal(got[:len(sent)], sent) {
		return errors.New("something else came back")
	}
	return nil
}

// TestRelay publishes ports of a container with IPv4 only: by IPv4 nothing has changed, and by IPv6 it is reached, too.
func TestRelay(t *testing.T) {
	n := room(t, withKeeper)
	needLoopback6(t)
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "dual", IPv6: new(true)})
	neighbour := attach(t, n, on("dual"))
	id := newID()
	web := attach(t, n, AttachRequest{ContainerID: id, Name: "web", Ports: []PortRequest{
		{Container: 80, HostPort: "18080"}, {Container: 53, Proto: "udp", HostPort: "18053"}, {Container: 81, HostIP: "127.0.0.1", HostPort: "18081"},
		{Container: 80, HostIP: "::1", HostPort: "18082"}, {Container: 80}, {Container: 99, Proto: "sctp", HostPort: "18099"}}})
	chosen := web.Ports[6].HostPort
	if got, want := published(web.Ports), fmt.Sprintf("80/tcp 0.0.0.0:18080, 80/tcp [::]:18080, 53/udp 0.0.0.0:18053, 53/udp [::]:18053, "+
		"81/tcp 127.0.0.1:18081, 80/tcp [::1]:18082, 80/tcp 0.0.0.0:%[1]d, 80/tcp [::]:%[1]d, 99/sctp 0.0.0.0:18099", chosen); got != want {
		t.Fatalf("published: %s\nwant       %s", got, want)
	}
	serve(t, n, web.NetNS, "tcp", "0.0.0.0:80")
	serve(t, n, web.NetNS, "tcp", "0.0.0.0:81")
	serve(t, n, web.NetNS, "udp", "0.0.0.0:53")
	bridge := web.Endpoints[0].Gateway.String()
	check := func(when string) {
		t.Helper()
		reaches(t, n, when+": IPv4, outside", out, "tcp", hostAddr+":18080", outsideAddr)
		reaches(t, n, when+": host by loopback", n.hostNS, "tcp", "[::1]:18080", bridge)
		reaches(t, n, when+": host by its address", n.hostNS, "tcp", "["+hostAddr6+"]:18080", bridge)
		reaches(t, n, when+": outside", out, "tcp", "["+hostAddr6+"]:18080", bridge)
		reaches(t, n, when+": any port", out, "tcp", fmt.Sprintf("[%s]:%d", hostAddr6, chosen), bridge)
		reaches(t, n, when+": UDP, host by loopback", n.hostNS, "udp", "[::1]:18053", bridge)
		reaches(t, n, when+": UDP, outside", out, "udp", "["+hostAddr6+"]:18053", bridge)
		reaches(t, n, when+": UDP, IPv4", out, "udp", hostAddr+":18053", outsideAddr)
		reaches(t, n, when+": on ::1", n.hostNS, "tcp", "[::1]:18082", bridge)
		reaches(t, n, when+": a neighbour with IPv6", neighbour.NetNS, "tcp", "["+hostAddr6+"]:18080", bridge)
		doesNotReach(t, n, when+": on ::1, from outside", out, "tcp", "["+hostAddr6+"]:18082")
		doesNotReach(t, n, when+": on 127.0.0.1", n.hostNS, "tcp", "[::1]:18081")
	}
	check("at first")
	for _, of := range []string{"tcp4", "tcp6", "tcp"} {
		if l, err := net.Listen(of, ":18080"); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: the port can be taken: %v", of, err)
			if err == nil {
				l.Close()
			}
		}
	}
	if n.filters() && n.wall != nil {
		for _, tb := range compile(n.policy()).tables {
			for _, s := range tb.sets {
				if tb.family == ip6 && strings.HasPrefix(s.name, "published") && len(s.elements) > 0 {
					t.Errorf("rules of IPv6 have the port: %v", s.elements)
				}
			}
		}
	}
	// Untranslated IPv4 never comes to the socket that holds the port of both.
	if _, err := ask(n, n.hostNS, "tcp", bridge+":18080", time.Minute); err != nil {
		t.Error(err)
	}
	traceSays(t, n, id, web)

	must(t, n.Detach(context.Background(), id))
	for _, of := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(of, ":18080")
		if err != nil {
			t.Errorf("the port of a container that has ended: %v", err)
			continue
		}
		l.Close()
	}
}

// traceSays wants the relay in the trace.
func traceSays(t *testing.T, n *Networks, id string, at *Attachment) {
	t.Helper()
	tr, err := n.Trace(context.Background(), TraceRequest{ContainerID: id, Pid: sleeper(t, n, at.NetNS), NetNS: at.NetNS, Port: 80})
	must(t, err)
	if i := slices.IndexFunc(tr.Ports[0].Rules, func(r string) bool {
		return strings.HasPrefix(r, "relay: the process berth-keeper listens on [::]:18080/tcp")
	}); i < 0 {
		t.Errorf("the trace says %q", tr.Ports[0].Rules)
	}
	for _, p := range tr.Problems {
		if strings.Contains(p, "[::]") {
			t.Error(p)
		}
	}
}

// TestRelayOutlivesTheDaemon has a connection that goes on while the daemon goes and the next one comes.
func TestRelayOutlivesTheDaemon(t *testing.T) {
	n := room(t, withKeeper)
	needLoopback6(t)
	r := AttachRequest{ContainerID: newID(), Name: "web", Ports: []PortRequest{{Container: 7, HostPort: "18080"}}}
	web, err := n.Attach(context.Background(), r)
	must(t, err)
	defer web.NetNS.Close()
	echo(t, n, web.NetNS, "0.0.0.0:7")
	s := openStream(t, "[::1]:18080")
	must(t, s.goesOn())
	next := restart(t, n, liveOf(t, n, r.ContainerID, "web", web))
	must(t, s.goesOn())
	must(t, openStream(t, "[::1]:18080").goesOn())
	n = next()
	must(t, s.goesOn())
	must(t, openStream(t, "[::1]:18080").goesOn())
	if got := published(n.Attached(r.ContainerID).Ports); got != "7/tcp 0.0.0.0:18080, 7/tcp [::]:18080" {
		t.Errorf("published: %s", got)
	}
	if w := n.Warnings(); slices.ContainsFunc(w, func(s string) bool { return strings.Contains(s, "18080") }) {
		t.Errorf("%q", w)
	}
	must(t, n.Detach(context.Background(), r.ContainerID))
	if err := s.goesOn(); err == nil {
		t.Error("a connection to a container that has ended goes on")
	}
	l, err := net.Listen("tcp", ":18080")
	must(t, err)
	l.Close()
}

// TestRelayComesBack kills the keeper: what it carried is over, and the next one carries on.
func TestRelayComesBack(t *testing.T) {
	n := room(t, withKeeper)
	needLoopback6(t)
	web := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 7, HostPort: "18080"}}})
	echo(t, n, web.NetNS, "0.0.0.0:7")
	s := openStream(t, "[::1]:18080")
	must(t, s.goesOn())
	for _, pid := range keepersOf(t, n) {
		must(t, unix.Kill(pid, unix.SIGKILL))
	}
	must(t, openStream(t, "[::1]:18080").goesOn()) // it waits in the socket if it must
}

// TestRelayWithoutKeeper relays in the daemon.
func TestRelayWithoutKeeper(t *testing.T) {
	n := room(t)
	needLoopback6(t)
	id := newID()
	web := attach(t, n, AttachRequest{ContainerID: id, Ports: []PortRequest{{Container: 7, HostPort: "18080"}}})
	echo(t, n, web.NetNS, "0.0.0.0:7")
	s := openStream(t, "[::1]:18080")
	must(t, s.goesOn())
	must(t, n.Detach(context.Background(), id))
	if s.goesOn() == nil {
		t.Error("a connection to a container that has ended goes on")
	}
}

// TestRelayFollows connects and disconnects networks: a port is relayed while there is no IPv6, translated while there is, and its
// number stays.
func TestRelayFollows(t *testing.T) {
	n := room(t, withKeeper)
	needLoopback6(t)
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "dual", IPv6: new(true)})
	network1(t, n, CreateRequest{Name: "four"})
	// A bridge is a way of IPv6 some time after its first port is up.
	first := attach(t, n, on("dual"))
	serve(t, n, first.NetNS, "tcp", ":80")
	eventually(t, "the host has a way to the network with IPv6", func() bool {
		_, err := ask(n, n.hostNS, "tcp", netip.AddrPortFrom(first.Endpoints[0].IPv6.Addr(), 80).String(), time.Minute)
		return err == nil
	})
	r := on("four")
	r.ContainerID, r.Name, r.Ports = newID(), "web", []PortRequest{{Container: 80}}
	web := attach(t, n, r)
	port := web.Ports[0].HostPort
	want := fmt.Sprintf("80/tcp 0.0.0.0:%[1]d, 80/tcp [::]:%[1]d", port)
	at6, at4 := fmt.Sprintf("[%s]:%d", hostAddr6, port), fmt.Sprintf("%s:%d", hostAddr, port)
	serve(t, n, web.NetNS, "tcp", ":80")
	check := func(when, seen string, ports []PublishedPort) {
		t.Helper()
		if got := published(ports); got != want {
			t.Fatalf("%s: published: %s", when, got)
		}
		reaches(t, n, when+", by IPv6", out, "tcp", at6, seen)
		reaches(t, n, when+", by IPv4", out, "tcp", at4, outsideAddr)
	}
	check("at first", web.Endpoints[0].Gateway.String(), web.Ports)
	move := func(network string, away bool) *Attachment {
		t.Helper()
		if away {
			at, err := n.Disconnect(context.Background(), DisconnectRequest{ContainerID: r.ContainerID, Name: "web", Network: network, NetNS: web.NetNS, Ports: r.Ports})
			must(t, err)
			return at
		}
		at, err := n.Connect(context.Background(), ConnectRequest{ContainerID: r.ContainerID, Name: "web", Endpoint: EndpointRequest{Network: network},
			NetNS: web.NetNS, Ports: r.Ports})
		must(t, err)
		return at
	}
	check("with IPv6", outsideAddr6, move("dual", false).Ports)
	at := move("four", true)
	check("with the other network only", outsideAddr6, at.Ports)
	move("four", false)
	at = move("dual", true)
	check("without IPv6 again", at.Endpoints[0].Gateway.String(), at.Ports)
}

// TestInternalNetworksDoNotUseTheRelay: who cannot use published ports by IPv4 cannot by IPv6.
func TestInternalNetworksDoNotUseTheRelay(t *testing.T) {
	n := room(t, withKeeper)
	needLoopback6(t)
	network1(t, n, CreateRequest{Name: "early", Internal: true, IPv6: new(true)})
	web := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18080"}, {Container: 53, Proto: "udp", HostPort: "18053"}}})
	serve(t, n, web.NetNS, "tcp", ":80")
	serve(t, n, web.NetNS, "udp", ":53")
	network1(t, n, CreateRequest{Name: "late", Internal: true, IPv6: new(true)})
	network1(t, n, CreateRequest{Name: "open", IPv6: new(true)})
	reach := attach(t, n, on("open"))
	gw := reach.Endpoints[0].Gateway6.String()
	reaches(t, n, "from another network", reach.NetNS, "tcp", "["+gw+"]:18080", "")
	for _, name := range []string{"early", "late"} {
		nw, err := n.Inspect(name)
		must(t, err)
		locked := attach(t, n, on(name))
		gw := nw.Subnets[len(nw.Subnets)-1].Gateway.String()
		doesNotReach(t, n, name, locked.NetNS, "tcp", "["+gw+"]:18080")
		doesNotReach(t, n, name, locked.NetNS, "udp", "["+gw+"]:18053")
	}
}

// TestRelayRefused: a program of the host that has the port of IPv6 has it, as with Docker, and who wants no relay has none.
func TestRelayRefused(t *testing.T) {
	n := room(t)
	needLoopback6(t)
	l, err := net.Listen("tcp6", "[::]:18080")
	must(t, err)
	defer l.Close()
	_, err = n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "c", Ports: []PortRequest{{Container: 80, HostPort: "18080"}}})
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "Bind for [::]:18080 failed: port is already allocated: a program on the host has tcp port 18080") {
		t.Errorf("%v", err)
	}
	m := room(t, withoutRelay)
	if got := published(attach(t, m, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18080"}}}).Ports); got != "80/tcp 0.0.0.0:18080" {
		t.Errorf("without the relay: %s", got)
	}
	// Where the host's programs have no IPv6 nobody is told that he could use it.
	must(t, setSysctl("net/ipv6/conf/lo/disable_ipv6", "1"))
	defer func() { must(t, setSysctl("net/ipv6/conf/lo/disable_ipv6", "0")) }()
	if got := published(attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18083"}}}).Ports); got != "80/tcp 0.0.0.0:18083" {
		t.Errorf("on a host without IPv6: %s", got)
	}
}
