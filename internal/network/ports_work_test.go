package network

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
)

// TestPortsWork counts what a change of published ports costs: what changes, and nothing for the ports of others. What the
// kernel has in the end is what the whole document says.
func TestPortsWork(t *testing.T) {
	n := room(t)
	const crowd = 40
	for i := range crowd {
		attach(t, n, AttachRequest{Ports: []PortRequest{{Container: uint16(1 + i)}, {Container: 7, Proto: "udp", HostIP: "127.0.0.1"}}})
	}
	r := AttachRequest{ContainerID: newID(), Name: "c"}
	attach(t, n, r)
	count := func(what string, elements int, do func() error) {
		t.Helper()
		whole, changed := n.wall.whole, n.wall.changed
		must(t, do())
		if n.wall.whole != whole || n.wall.changed-changed != elements {
			t.Errorf("%s: %d documents and %d elements, want 0 and %d", what, n.wall.whole-whole, n.wall.changed-changed, elements)
		}
	}
	publish := func(add, remove []PortRequest) func() error {
		return func() error {
			_, err := n.Publish(context.Background(), PublishRequest{ContainerID: r.ContainerID, Name: "c", Add: add, Remove: remove})
			return err
		}
	}
	web := []PortRequest{{Container: 80, Proto: "tcp", HostIP: "127.0.0.1"}}
	count("one more", 1, publish(web, nil))
	count("one more of another", 1, publish([]PortRequest{{Container: 81}}, nil))
	count("one fewer", 1, publish(nil, web))
	count("the container ends", 1, func() error { return n.Detach(context.Background(), r.ContainerID) })
	s := AttachRequest{ContainerID: newID(), Name: "d", Ports: []PortRequest{{Container: 80}, {Container: 81}}}
	count("another begins", 2, func() error { attach(t, n, s); return nil })

	list := func() string { return nft(t, "-n", "list", "table", "ip", n.tableName()) }
	adjusted := list()
	n.wall.forget()
	must(t, n.applyRules())
	if whole := list(); whole != adjusted {
		t.Errorf("by changes:\n%s\nas a whole:\n%s", adjusted, whole)
	}
	// Somebody has taken the rules away, and nobody has noticed yet: the next change brings all of them back.
	n.changes.Close()
	nft(t, "delete", "table", "ip", n.tableName())
	must(t, n.Detach(context.Background(), s.ContainerID))
	if !n.wall.intact() {
		t.Error("the rules are not whole")
	}
}

// TestManyEndpoints: the thousandth container of a network costs what the first did, counted in elements of rules.
func TestManyEndpoints(t *testing.T) {
	g, err := openGuard("bt-many")
	must(t, err)
	defer g.Close()
	must(t, g.assert())
	defer func() { must(t, g.remove()) }()
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)})
		must(t, g.watch(fmt.Sprintf("veth%07x", i), guarded{mac: macFor(a), addrs: []netip.Addr{a}}))
	}
	if g.sent != 2*1000 {
		t.Errorf("%d elements for 1000 links", g.sent)
	}
}
