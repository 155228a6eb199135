package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where published ports respect the host's firewall (Options.RespectFirewall), whoever rules the host's input decides
// about them, with nftables, iptables, iptables-legacy, ufw or firewalld, as if a program of the host listened there.
//
//	first packet ─▶ prerouting (not translated) ─▶ INPUT of everybody ──drop──▶ gone
//	                                                   │ accepted
//	                                                   ▼
//	     chain "ask", the last of INPUT: a copy goes out by the gate, the packet itself is dropped
//	                                                   ▼
//	gate: a pair of links of ours ─▶ prerouting, translated ─▶ FORWARD ─▶ container
//
//	all later packets of the connection ─▶ prerouting, translated as the first was ─▶ FORWARD ─▶ container
//
// So the firewall is asked once per connection, of the address and port that the client named, and the container sees the
// client's own address. Nobody but chain "ask" can send by the gate: it stands on no bridge and has no route but the one
// to its far end, whose hardware address is known. What the host itself sends to its own ports never was input from
// elsewhere and goes the short way.
const (
	gateHere  = "169.254.77.2" // makes the far end a link that may receive (ip-sysctl, rp_filter)
	gateNext  = "169.254.77.1" // nobody has it; it stands for the far end
	gateNext6 = "fe80::77:1"
)

// gate is the pair of links.
type gate struct {
	out, in string // names; "" where ports are open
	index   int    // of out
}

// gateLinks names the pair after our table: two daemons have two.
func (n *Networks) gateLinks() gate {
	sum := sha256.Sum256([]byte(n.tableName()))
	name := fmt.Sprintf("gate%x", sum[:4])
	return gate{out: name + "o", in: name + "i"}
}

// openGate makes the pair of links, or removes the one of an earlier daemon where ports are open to all.
func (n *Networks) openGate() error {
	g := n.gateLinks()
	if !n.opts.RespectFirewall || n.wall == nil {
		return n.closeGate()
	}
	fail := func(err error) error { return fmt.Errorf("make the gate of published ports (link %q): %w", g.out, err) }
	in, err := n.handle.LinkByName(g.in)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if err := n.handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: g.out}, PeerName: g.in}); err != nil {
			return fail(err)
		}
		in, err = n.handle.LinkByName(g.in)
	}
	if err != nil {
		return fail(err)
	}
	out, err := n.handle.LinkByName(g.out)
	if err != nil {
		return fail(err)
	}
	for _, name := range []string{g.in, g.out} {
		for knob, value := range map[string]string{"net/ipv6/conf/%s/accept_ra": "0", "net/ipv6/conf/%s/accept_dad": "0",
			"net/ipv4/conf/%s/rp_filter": "2"} { // from everywhere, whatever the host wants of its own links
			if err := setSysctlIfThere(fmt.Sprintf(knob, name), value); err != nil {
				return fail(err)
			}
		}
	}
	for _, l := range []netlink.Link{in, out} {
		if err := n.handle.LinkSetUp(l); err != nil {
			return fail(err)
		}
	}
	here := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(gateHere).To4(), Mask: net.CIDRMask(32, 32)}, Scope: int(netlink.SCOPE_HOST)}
	if err := n.handle.AddrReplace(in, here); err != nil {
		return fail(err)
	}
	g.index = out.Attrs().Index
	for _, next := range []string{gateNext, gateNext6} {
		err := n.gateWay(netip.MustParseAddr(next), g.index, in.Attrs().HardwareAddr)
		if err != nil && next == gateNext6 {
			n.log.Debug("the gate of published ports has no IPv6", "error", err)
			continue
		}
		if err != nil {
			return fail(err)
		}
	}
	n.mu.Lock()
	n.gate = g
	n.mu.Unlock()
	return nil
}

// gateWay makes what is sent to next by the link go to a hardware address.
func (n *Networks) gateWay(next netip.Addr, link int, mac net.HardwareAddr) error {
	bits := next.BitLen()
	// Routes of two daemons to the same place need different priorities.
	route := &netlink.Route{LinkIndex: link, Dst: &net.IPNet{IP: next.AsSlice(), Mask: net.CIDRMask(bits, bits)},
		Scope: netlink.SCOPE_LINK, Priority: link}
	if err := n.handle.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s: %w", next, err)
	}
	neigh := &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, IP: next.AsSlice(), HardwareAddr: mac}
	if err := n.handle.NeighSet(neigh); err != nil {
		return fmt.Errorf("neighbour %s: %w", next, err)
	}
	return nil
}

func (n *Networks) closeGate() error {
	g := n.gateLinks()
	l, err := n.handle.LinkByName(g.out)
	if err == nil {
		err = n.handle.LinkDel(l)
	}
	if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the gate of published ports (link %q): %w", g.out, err)
	}
	return nil
}
