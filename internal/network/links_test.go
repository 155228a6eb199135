package network

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// problems are what Trace finds wrong of an attachment.
func problems(t *testing.T, n *Networks, a *Attachment) string {
	t.Helper()
	tr, err := n.Trace(context.Background(), TraceRequest{ContainerID: n.owner(t, a), Pid: os.Getpid(), NetNS: a.NetNS})
	must(t, err)
	var of []string
	for _, p := range tr.Problems {
		// The process is not in the container, and what the host does with frames on bridges is not the subject.
		if !strings.Contains(p, "nothing listens") && !strings.Contains(p, "bridge-nf-call-ip6tables") {
			of = append(of, p)
		}
	}
	return strings.Join(of, "\n")
}

// twoVersions is a network of IPv4 and IPv6 with a given bridge.
func twoVersions(t *testing.T, n *Networks, name string, more ...string) Network {
	t.Helper()
	options := map[string]string{bridgeOption + "name": "btl-" + name}
	for i := 0; i < len(more); i += 2 {
		options[more[i]] = more[i+1]
	}
	return network1(t, n, CreateRequest{Name: name, IPv6: new(true), Options: options,
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.197.0/24")}, {Prefix: netip.MustParsePrefix("fd00:213:197::/64")}}})
}

// TestBridgeIsMended does to our bridges what others do, and wants them as before, with everything that hangs on them.
func TestBridgeIsMended(t *testing.T) {
	n := room(t, func(o *Options) { o.Warm = 2 })
	out := outside(t, n)
	v := twoVersions(t, n, "mended")
	web := attach(t, n, AttachRequest{Name: "web", Endpoints: on("mended").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18131"}}})
	other := attach(t, n, on("mended"))
	pooled := attach(t, n, AttachRequest{})
	serve(t, n, web.NetNS, "tcp", ":80")
	serve(t, n, pooled.NetNS, "tcp", ":80")
	serve(t, n, out, "tcp", ":82")
	mac := func(link string) string {
		l, err := net.InterfaceByName(link)
		if err != nil {
			return ""
		}
		return l.HardwareAddr.String()
	}
	was := mac(v.Link)
	for _, c := range []struct {
		what     string
		commands []string
	}{
		{"deleted", []string{"ip link del " + v.Link, "ip link del " + n.opts.Bridge}},
		{"set down", []string{"ip link set " + v.Link + " down", "ip link set " + n.opts.Bridge + " down"}},
		{"without addresses", []string{"ip addr flush dev " + v.Link, "ip addr flush dev " + n.opts.Bridge}},
		{"renamed", []string{"ip link set " + v.Link + " down", "ip link set " + v.Link + " name btl-else"}},
	} {
		for _, command := range c.commands {
			// The daemon may be faster than who sets it down to rename it.
			if err := run(strings.Fields(command)...); err != nil && !strings.Contains(command, " name ") {
				t.Fatal(err)
			}
		}
		eventually(t, c.what, func() bool { return problems(t, n, web)+problems(t, n, pooled) == "" && mac(v.Link) == was })
		settled(n)
		when := c.what + ": "
		reaches(t, n, when+"a neighbour", other.NetNS, "tcp", at(web, 80), addrOf(other))
		reaches(t, n, when+"a neighbour by IPv6", other.NetNS, "tcp", at6(web, 80), "")
		reaches(t, n, when+"outside", web.NetNS, "tcp", outsideAddr+":82", hostAddr)
		reaches(t, n, when+"a published port", out, "tcp", hostAddr+":18131", outsideAddr)
		reaches(t, n, when+"a published port on loopback", n.hostNS, "tcp", "127.0.0.1:18131", "")
		reaches(t, n, when+"a published port of a neighbour", other.NetNS, "tcp", hostAddr+":18131", "")
		reaches(t, n, when+"the default network", n.hostNS, "tcp", at(pooled, 80), "")
		reaches(t, n, when+"one from the pool", attach(t, n, AttachRequest{}).NetNS, "tcp", at(pooled, 80), "")
		reaches(t, n, when+"a new one", attach(t, n, on("mended")).NetNS, "tcp", at(web, 80), "")
	}
	if linkNames(t)["btl-else"] {
		t.Error("the renamed bridge is still there")
	}
}

// at6 is at by IPv6.
func at6(a *Attachment, port uint16) string {
	return netip.AddrPortFrom(a.Endpoints[0].IPv6.Addr(), port).String()
}

// TestMendedBridgeIsolates: what keeps containers apart is there again as well.
func TestMendedBridgeIsolates(t *testing.T) {
	n := room(t)
	v := twoVersions(t, n, "apart", bridgeOption+"enable_icc", "false")
	server := attach(t, n, on("apart"))
	serve(t, n, server.NetNS, "tcp", ":80")
	client, linked := attach(t, n, on("apart")), on("apart")
	linked.Peers = []Peer{{Network: "apart", ContainerID: n.owner(t, server), Ports: []PeerPort{{80, "tcp"}}}}
	peer := attach(t, n, linked)
	must(t, run("ip", "link", "del", v.Link))
	eventually(t, "mended", func() bool { return problems(t, n, server) == "" })
	eventually(t, "the link leads there", func() bool { return dial(n, peer.NetNS, "tcp", at(server, 80)) == nil })
	doesNotReach(t, n, "a neighbour that is apart", client.NetNS, "tcp", at(server, 80))
	doesNotReach(t, n, "a neighbour that is apart, by IPv6", client.NetNS, "tcp", at6(server, 80))
}

// TestNameIsTaken: where the host has another link by the bridge's name the network says so, until it is free.
func TestNameIsTaken(t *testing.T) {
	n := room(t)
	v := twoVersions(t, n, "taken")
	a := attach(t, n, on("taken"))
	n.changing <- struct{}{} // nothing is mended meanwhile
	must(t, run("ip", "link", "del", v.Link))
	must(t, run("ip", "link", "add", v.Link, "type", "bridge"))
	n.changed()
	eventually(t, "the network says so", func() bool {
		_, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: on("taken").Endpoints})
		return errdefs.IsUnavailable(err) && strings.Contains(err.Error(), "was deleted, and the host has another link by this name")
	})
	must(t, run("ip", "link", "del", v.Link))
	eventually(t, "it is mended", func() bool { return problems(t, n, a) == "" })
	reaches(t, n, "the gateway's host", attach(t, n, on("taken")).NetNS, "tcp", listening(t, n, a), "")
}

// listening starts a server in an attachment and returns its address.
func listening(t *testing.T, n *Networks, a *Attachment) string {
	t.Helper()
	serve(t, n, a.NetNS, "tcp", ":80")
	return at(a, 80)
}

// dial reports whether an address answers.
func dial(n *Networks, from *os.File, proto, address string) error {
	_, err := ask(n, from, proto, address, quick)
	return err
}

// settled waits until what is being mended is.
func settled(n *Networks) {
	n.changing <- struct{}{}
	n.changed()
}

// TestForeignBridgeGoes: an administrator's bridge is not ours to make, and is taken again when it is back.
func TestForeignBridgeGoes(t *testing.T) {
	must(t, run("ip", "link", "add", "btadmin", "type", "bridge"))
	t.Cleanup(func() { _ = run("ip", "link", "del", "btadmin") })
	back := func() {
		for _, c := range []string{"ip addr add 10.213.196.1/24 dev btadmin", "ip link set btadmin up"} {
			must(t, run(strings.Fields(c)...))
		}
	}
	back()
	n := room(t, func(o *Options) { o.Bridge, o.BIP = "btadmin", "" })
	a, b := attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18132"}}}), attach(t, n, AttachRequest{})
	serve(t, n, a.NetNS, "tcp", ":80")
	reaches(t, n, "before", b.NetNS, "tcp", at(a, 80), "")
	for _, how := range []string{"ip link del btadmin", "ip link set btadmin down name btother"} {
		must(t, run(strings.Fields(how)...))
		eventually(t, "the network says so", func() bool {
			_, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: []EndpointRequest{{Network: defaultName}}})
			return errdefs.IsUnavailable(err) && strings.Contains(err.Error(), `its bridge "btadmin" is gone`)
		})
		if p := problems(t, n, a); !strings.Contains(p, `network "bridge" cannot be used: its bridge "btadmin" is gone`) ||
			!strings.Contains(p, "the host has no bridge btadmin: somebody has deleted or renamed it") {
			t.Errorf("%s: %s", how, p)
		}
		if strings.Contains(how, "name") {
			must(t, run("ip", "link", "set", "btother", "name", "btadmin"))
			must(t, run("ip", "link", "set", "btadmin", "up"))
		} else {
			must(t, run("ip", "link", "add", "btadmin", "type", "bridge"))
			back()
		}
		eventually(t, "it works again", func() bool { return problems(t, n, a) == "" && dial(n, b.NetNS, "tcp", at(a, 80)) == nil })
		reaches(t, n, "a published port again", n.hostNS, "tcp", "127.0.0.1:18132", "")
		attach(t, n, AttachRequest{})
	}
	if w := strings.Join(n.Warnings(), "\n"); strings.Contains(w, "btadmin") {
		t.Errorf("it still warns: %s", w)
	}
}

// TestLinkOfAContainerGoes: Trace says what is wrong, and connecting anew helps.
func TestLinkOfAContainerGoes(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "net"})
	a, b := attach(t, n, on("net")), attach(t, n, on("net"))
	serve(t, n, b.NetNS, "tcp", ":80")
	host := hostLink(a.Endpoints[0].EndpointID)
	for _, c := range []struct{ command, problem string }{
		{"ip link set " + host + " down", host + ", the host's end of the container's eth0, is down"},
		{"ip link set " + host + " up nomaster", host + ", the host's end of the container's eth0, is not a port of bridge"},
		{"ip link del " + host, "so is the host's end, " + host + ", and whoever deleted one of the two took the other with it"},
	} {
		must(t, run(strings.Fields(c.command)...))
		if p := problems(t, n, a); !strings.Contains(p, c.problem) {
			t.Errorf("%s: %s", c.command, p)
		}
	}
	id := n.owner(t, a)
	_, err := n.Disconnect(context.Background(), DisconnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Network: "net"})
	must(t, err)
	again, err := n.Connect(context.Background(), ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Endpoint: EndpointRequest{Network: "net"}})
	must(t, err)
	reaches(t, n, "connected anew", a.NetNS, "tcp", at(b, 80), "")
	a.Endpoints = again.Endpoints
	if p := problems(t, n, a); p != "" {
		t.Errorf("afterwards: %s", p)
	}
}

// TestParentGoes: a macvlan network is where its parent is.
func TestParentGoes(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	macvlan(t, n, "lan", map[string]string{})
	serve(t, n, out, "tcp", ":82")
	a := attach(t, n, on("lan"))
	if p := problems(t, n, a); p != "" {
		t.Errorf("before: %s", p)
	}
	must(t, run("ip", "link", "set", "btout", "down"))
	if p := problems(t, n, a); !strings.Contains(p, "the host's link btout, beside which the container's eth0 is, is down") {
		t.Errorf("down: %s", p)
	}
	must(t, run("ip", "link", "set", "btout", "name", "btelse"))
	if p := problems(t, n, a); !strings.Contains(p, "is called btelse now") {
		t.Errorf("renamed: %s", p)
	}
	must(t, run("ip", "link", "set", "btelse", "name", "btout"))
	must(t, run("ip", "link", "del", "btout"))
	eventually(t, "the network says so", func() bool {
		_, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "x", Endpoints: on("lan").Endpoints})
		return errdefs.IsUnavailable(err) && strings.Contains(err.Error(), `its parent link "btout" is gone`)
	})
	if p := problems(t, n, a); !strings.Contains(p, `network "lan" cannot be used: its parent link "btout" is gone`) ||
		!strings.Contains(p, "somebody has deleted the host's link btout beside which it was") {
		t.Errorf("deleted: %s", p)
	}
	out = outside(t, n)
	serve(t, n, out, "tcp", ":82")
	eventually(t, "the network is back", func() bool { return len(n.Warnings()) == 0 })
	reaches(t, n, "a new one", attach(t, n, on("lan")).NetNS, "tcp", outsideAddr+":82", "")
	must(t, n.Detach(context.Background(), n.owner(t, a)))
}

// TestOwnParentGoes: a link that leads nowhere is made again.
func TestOwnParentGoes(t *testing.T) {
	n := room(t)
	res, err := n.Create(context.Background(), CreateRequest{Name: "alone", Driver: driverMacvlan})
	skipWithout(t, err)
	must(t, err)
	v, err := n.Inspect(res.ID)
	must(t, err)
	a := attach(t, n, on("alone"))
	must(t, run("ip", "link", "del", v.Link))
	eventually(t, "it is made again", func() bool {
		b, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "b", Endpoints: on("alone").Endpoints})
		if err == nil {
			b.NetNS.Close()
		}
		return err == nil
	})
	if p := problems(t, n, a); !strings.Contains(p, "is gone") {
		t.Errorf("%s", p)
	}
}

// TestPortsAreNotHeard: the kernel tells nothing of links that are ports of bridges, except that they go.
func TestPortsAreNotHeard(t *testing.T) {
	type heard struct {
		index int
		name  string
	}
	ch := make(chan heard, 1000)
	f, err := watchLinks(func(index int, name string) { ch <- heard{index, name} })
	must(t, err)
	defer f.Close()
	for _, c := range []string{"ip link add bthear type bridge", "ip link add btport master bthear up type veth peer name btpeer",
		"ip link set btport down", "ip link set btport up", "ip link set btport mtu 1400", "ip link del btport", "ip link del bthear"} {
		must(t, run(strings.Fields(c)...))
	}
	var names []string
	for {
		h := <-ch
		names = append(names, h.name)
		if h.name == "bthear" && slices.Contains(names, "btport") { // that it has ended
			break
		}
	}
	if n := len(slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s != "btport" })); n > 2 {
		t.Errorf("of a port %d messages are heard: %q", n, names)
	}
}

// FuzzLinkMessages: whatever comes in is read to its end.
func FuzzLinkMessages(f *testing.F) {
	message := func(typ uint16, body []byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
		b = binary.NativeEndian.AppendUint16(b, typ)
		return append(append(b, make([]byte, 10)...), body...)
	}
	f.Add(message(unix.RTM_NEWLINK, append(make([]byte, unix.SizeofIfInfomsg), 8, 0, unix.IFLA_IFNAME, 0, 'e', 't', 'h', 0)))
	f.Add(message(unix.RTM_DELLINK, make([]byte, 3)))
	f.Add(message(unix.RTM_DELADDR, make([]byte, 8)))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		linkMessages(b, func(_ int, name string) {
			if strings.Contains(name, "\x00") {
				t.Errorf("a name %q", name)
			}
		})
	})
}
