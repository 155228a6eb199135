package network

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

func TestParseRate(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "8kbit": 1000, "10mbit": 1250000, "1.5Gbit": 187500000, "8000": 1000, "9000bit": 1125} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "mbit", "10mb", "10 mbit", "-1mbit", "1e9", "7kbit", "1001gbit", "1..2mbit", "10mbitmbit", "Inf", "0x10", "\x00"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q is taken as %d", text, got)
		}
	}
}

func FuzzParseRate(f *testing.F) {
	for _, s := range []string{"10mbit", "1.5gbit", "", "k", "0", "99999999999999999999gbit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := parseRate(s); err == nil && v > 125e9 {
			t.Errorf("%q is %d bytes per second", s, v)
		}
	})
}

// buckets are the token buckets of an endpoint in bits per second: what it receives, what it sends.
func buckets(t *testing.T, n *Networks, a *Attachment, i int) string {
	t.Helper()
	rate := func(link string) (bits uint64) {
		l, err := netlink.LinkByName(link)
		must(t, err)
		qs, err := netlink.QdiscList(l)
		must(t, err)
		for _, q := range qs {
			if tbf, ok := q.(*netlink.Tbf); ok {
				bits = tbf.Rate * 8
			}
		}
		return bits
	}
	rx := rate(hostLink(a.Endpoints[i].EndpointID))
	var tx uint64
	inside(t, n, a.NetNS, func() error { tx = rate(a.Endpoints[i].Interface); return nil })
	return fmt.Sprintf("%d %d", rx, tx)
}

// TestBandwidth: bounds are there from the start, change while the container runs, survive the daemon, and go.
func TestBandwidth(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "slow"})
	r := AttachRequest{ContainerID: newID(), Name: "c", Endpoints: []EndpointRequest{{Network: "bridge"},
		{Network: "slow", DriverOpts: map[string]string{"rx": "10mbit", "tx": "800kbit"}}}}
	a, err := n.Attach(context.Background(), r)
	must(t, err)
	defer a.NetNS.Close()
	check := func(when, want string) {
		t.Helper()
		if got := buckets(t, n, a, 1); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
		if got := buckets(t, n, a, 0); got != "0 0" {
			t.Errorf("%s: the other network has %q", when, got)
		}
	}
	shape := func(options ...string) error {
		o := map[string]string{}
		for _, s := range options {
			k, v, _ := strings.Cut(s, "=")
			o[k] = v
		}
		return n.Shape(context.Background(), ShapeRequest{ContainerID: r.ContainerID, NetNS: a.NetNS, Network: "slow", Options: o})
	}
	check("at the start", "10000000 800000")
	must(t, shape("rx=40gbit", "tx=1mbit"))
	check("changed", "40000000000 1000000")
	live := Live{ContainerID: r.ContainerID, Name: "c", Pid: sleeper(t, n, a.NetNS), Endpoints: a.Endpoints}
	n = restart(t, n, live)()
	check("after a restart", "40000000000 1000000")
	must(t, shape("tx=2mbit"))
	check("one of them", "0 2000000")
	must(t, shape())
	must(t, shape("rx=0", "tx=0")) // again: nothing is there to take away
	check("taken away", "0 0")
	for _, bad := range []string{"rx=fast", "rx=1bit", "mtu=100"} {
		if err := shape(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := n.Shape(context.Background(), ShapeRequest{ContainerID: r.ContainerID, NetNS: a.NetNS, Network: "host"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a network it is not on: %v", err)
	}
	_, err = n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "d",
		Endpoints: []EndpointRequest{{Network: "slow", DriverOpts: map[string]string{"tx": "nothing"}}}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad rate at the start: %v", err)
	}
	// Packets pass a bound link.
	must(t, shape("rx=100mbit", "tx=100mbit"))
	b := attach(t, n, on("slow"))
	serve(t, n, b.NetNS, "tcp", ":80")
	reaches(t, n, "through the buckets", a.NetNS, "tcp", at(b, 80), a.Endpoints[1].IPv4.Addr().String())
}

// TestPublishLive: ports open and close while a container runs, whole or not at all.
func TestPublishLive(t *testing.T) {
	n := room(t, withKeeper, withoutRelay)
	out := outside(t, n)
	r := AttachRequest{ContainerID: newID(), Name: "web", Ports: []PortRequest{{Container: 80, HostPort: "18080"}}}
	a, err := n.Attach(context.Background(), r)
	must(t, err)
	defer a.NetNS.Close()
	serve(t, n, a.NetNS, "tcp", ":80")
	serve(t, n, a.NetNS, "udp", ":53")
	publish := func(remove, add []PortRequest) (*Attachment, error) {
		return n.Publish(context.Background(), PublishRequest{ContainerID: r.ContainerID, Name: r.Name, Remove: remove, Add: add})
	}
	ports := func(at *Attachment) string {
		var list []string
		for _, p := range at.Ports {
			list = append(list, fmt.Sprintf("%d>%d/%s", p.HostPort, p.Container, p.Proto))
		}
		return strings.Join(list, " ")
	}
	free := func(address string) bool {
		l, err := net.Listen("tcp", address)
		if err == nil {
			l.Close()
		}
		return err == nil
	}
	at, err := publish(nil, []PortRequest{{Container: 80, HostPort: "18081"}, {Container: 53, Proto: "udp", HostPort: "18053"}})
	must(t, err)
	if got := ports(at); got != "18080>80/tcp 18081>80/tcp 18053>53/udp" {
		t.Errorf("published: %s", got)
	}
	for _, address := range []string{"18080", "18081"} {
		reaches(t, n, "opened", out, "tcp", net.JoinHostPort(hostAddr, address), outsideAddr)
	}
	reaches(t, n, "opened", out, "udp", hostAddr+":18053", outsideAddr)

	// One of what is asked for cannot be had: nothing changes.
	taken, err := net.Listen("tcp", ":18083")
	must(t, err)
	defer taken.Close()
	if _, err := publish([]PortRequest{{Container: 80, Proto: "tcp", HostPort: "18080"}},
		[]PortRequest{{Container: 80, HostPort: "18082"}, {Container: 80, HostPort: "18083"}}); !errdefs.IsConflict(err) {
		t.Errorf("a taken port: %v", err)
	}
	if !free(":18082") {
		t.Error("a port of a change that failed is held")
	}
	reaches(t, n, "as before", out, "tcp", hostAddr+":18080", outsideAddr)

	at, err = publish([]PortRequest{{Container: 80, Proto: "tcp", HostPort: "18080"}, {Container: 53, Proto: "udp"}}, nil)
	must(t, err)
	if got := ports(at); got != "18081>80/tcp" {
		t.Errorf("published: %s", got)
	}
	doesNotReach(t, n, "closed", out, "tcp", hostAddr+":18080")
	if !free(":18080") || free(":18081") {
		t.Error("the sockets of ports do not follow")
	}
	// The same host port for another port of the container, in one change.
	at, err = publish([]PortRequest{{Container: 80, Proto: "tcp"}}, []PortRequest{{Container: 81, HostPort: "18081"}})
	must(t, err)
	if got := ports(at); got != "18081>81/tcp" {
		t.Errorf("published: %s", got)
	}
	must(t, n.Detach(context.Background(), r.ContainerID))
	if !free(":18081") {
		t.Error("a port outlives its container")
	}
	if _, err := publish(nil, []PortRequest{{Container: 1}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("of a container that is not there: %v", err)
	}
}
