package network

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// TestPeers: on a network without icc a container reaches the exposed ports of one that it has a link to, by both versions of
// IP, and nothing else reaches anything; across restarts of both and of the daemon, and without a trace when the link is gone.
func TestPeers(t *testing.T) {
	n := room(t, withKeeper)
	network1(t, n, CreateRequest{Name: "apart", IPv6: new(true), Options: map[string]string{"com.docker.network.bridge.enable_icc": "false"},
		Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.150.0/24")}, {Prefix: netip.MustParsePrefix("fd00:213:150::/64")}}})
	link := n.bridgeOf(t, "apart")
	dbID := newID()
	db := on("apart")
	db.ContainerID, db.Name = dbID, "db"
	server, err := n.Attach(context.Background(), db)
	must(t, err)
	defer func() { server.NetNS.Close() }()
	web := on("apart")
	web.ContainerID, web.Name = newID(), "web"
	web.Peers = []Peer{{Network: "apart", ContainerID: dbID, Ports: []PeerPort{{80, "tcp"}, {53, "udp"}}}}
	client, err := n.Attach(context.Background(), web)
	must(t, err)
	defer client.NetNS.Close()
	stranger := attach(t, n, on("apart"))
	serveAll := func(a *Attachment) {
		for _, to := range []string{"tcp :80", "tcp :81", "udp " + a.Endpoints[0].IPv4.Addr().String() + ":53",
			"udp [" + a.Endpoints[0].IPv6.Addr().String() + "]:53"} {
			proto, address, _ := strings.Cut(to, " ")
			serve(t, n, a.NetNS, proto, address)
		}
	}
	serveAll(server)
	serve(t, n, client.NetNS, "tcp", ":80")
	at := func(a *Attachment, v6 bool, port uint16) string {
		if v6 {
			return netip.AddrPortFrom(a.Endpoints[0].IPv6.Addr(), port).String()
		}
		return netip.AddrPortFrom(a.Endpoints[0].IPv4.Addr(), port).String()
	}
	check := func(when string, linked bool) {
		t.Helper()
		var closed sync.WaitGroup
		not := func(what string, from *Attachment, address string) {
			closed.Go(func() { doesNotReach(t, n, when+what, from.NetNS, "tcp", address) })
		}
		for _, v6 := range []bool{false, true} {
			if linked {
				reaches(t, n, when, client.NetNS, "tcp", at(server, v6, 80), "")
				reaches(t, n, when, client.NetNS, "udp", at(server, v6, 53), "")
			} else {
				not("", client, at(server, v6, 80))
			}
			not(", a port that is not exposed", client, at(server, v6, 81))
			not(", backwards", server, at(client, v6, 80))
			not(", a stranger", stranger, at(server, v6, 80))
			not(", a stranger to the other", stranger, at(client, v6, 80))
		}
		closed.Wait()
	}
	check("linked", true)
	must(t, n.SetPeers(context.Background(), web.ContainerID, nil))
	check("without the link", false)
	must(t, n.SetPeers(context.Background(), web.ContainerID, web.Peers))
	check("with it again", true)

	server.NetNS.Close()
	must(t, n.Detach(context.Background(), dbID))
	if n.wall != nil && strings.Contains(nft(t, "list", "table", "ip", n.tableName()), "linked4") {
		t.Error("a link is left")
	}
	third := attach(t, n, on("apart")) // it may have the address
	serve(t, n, third.NetNS, "tcp", ":80")
	doesNotReach(t, n, "after the other has ended", client.NetNS, "tcp", at(third, false, 80))
	if server, err = n.Attach(context.Background(), db); err != nil {
		t.Fatal(err)
	}
	serveAll(server)
	check("after a restart of the other", true)

	var live []Live
	for _, c := range []struct {
		r AttachRequest
		a *Attachment
	}{{db, server}, {web, client}} {
		l := liveOf(t, n, c.r.ContainerID, c.r.Name, c.a)
		l.Peers = c.r.Peers
		live = append(live, l)
	}
	check("with the daemon", true)
	n = restart(t, n, live...)()
	check("after a restart of the daemon", true)
	must(t, n.Detach(context.Background(), web.ContainerID))
	must(t, n.Detach(context.Background(), dbID))
	if out, err := exec.Command("ip", "-6", "neigh", "show", "proxy", "dev", link).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("the host answers for %s, %v", out, err)
	}
}

// TestLinksWithoutHost: where the host has no part in a network whose containers are kept from each other, links lead nowhere, and
// are refused.
func TestLinksWithoutHost(t *testing.T) {
	n := room(t)
	icc := bridgeOption + "enable_icc"
	for name, options := range map[string]map[string]string{
		"alone":  {icc: "false", bridgeOption + "gateway_mode_ipv4": "isolated"},
		"apart":  {icc: "false"},
		"shared": {bridgeOption + "gateway_mode_ipv4": "isolated"},
	} {
		network1(t, n, CreateRequest{Name: name, Internal: true, Options: options})
		r := on(name)
		r.Endpoints[0].Links = map[string]string{"db": "other"}
		r.ContainerID, r.Name = newID(), "web"
		a, err := n.Attach(context.Background(), r)
		if err == nil {
			a.NetNS.Close()
			must(t, n.Detach(context.Background(), r.ContainerID))
		}
		refused := err != nil && strings.Contains(err.Error(), "cannot have links on network \""+name+"\"")
		if err != nil && !refused || refused != (name == "alone") {
			t.Errorf("%s: %v", name, err)
		}
		if err := n.CheckEndpoint(r.Endpoints[0]); (err != nil) != refused {
			t.Errorf("%s, of a container that does not run: %v", name, err)
		}
	}
}
