package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func parseIPv4(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil && !a.Is4() {
		err = errors.New("it is not an IPv4 address")
	}
	return a, err
}

// alias marks a link as ours, and says which network it belongs to.
func alias(id string) string { return "berth network " + id }

// ensureBridge makes the network's bridge as its record says, or corrects the one that is there. A link that somebody
// else made is refused, unless adopt says that it was named by the administrator: then it is taken as it is.
func (n *Networks) ensureBridge(nw *network, adopt bool) error {
	switch {
	case isLAN(nw.rec.Driver):
		return n.ensureParent(nw)
	case nw.rec.Driver == driverCNI: // has what its plugins make, when they make it
		return nil
	}
	l, err := n.handle.LinkByName(nw.rec.Link)
	var notFound netlink.LinkNotFoundError
	fresh := errors.As(err, &notFound)
	switch {
	case fresh:
		if l, err = n.makeBridge(nw); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("look for link %q: %w", nw.rec.Link, err)
	case l.Type() != "bridge":
		return failf(errdefs.ErrConflict, "network %q needs a bridge named %q, but the host has a link of type %q by this name",
			nw.rec.Name, nw.rec.Link, l.Type())
	case l.Attrs().Alias == alias(nw.rec.ID):
	case l.Attrs().Alias == "" && nw.rec.Link == "br-"+nw.rec.ID[:12]: // named after the ID by a daemon that was killed then
		if err := n.handle.LinkSetAlias(l, alias(nw.rec.ID)); err != nil {
			return fmt.Errorf("take over bridge %q: %w", nw.rec.Link, err)
		}
	case adopt:
		nw.foreign = true
	default:
		return failf(errdefs.ErrConflict, "network %q needs a bridge named %q, but the host has one that is not Berth's",
			nw.rec.Name, nw.rec.Link)
	}
	nw.index.Store(int64(l.Attrs().Index))
	nw.mtu.Store(int64(l.Attrs().MTU))
	var learning requests // an administrator's bridge, too: the containers on it are guarded
	learning.learnNothing(l.Attrs().Index)
	if err := n.rt.send(&learning); err != nil {
		return fmt.Errorf("keep bridge %q from learning what containers say of others: %w", nw.rec.Link, err)
	}
	if nw.foreign {
		return nil
	}
	nw.mac = l.Attrs().HardwareAddr
	nw.mtu.Store(int64(nw.wantMTU))
	return n.configureBridge(nw, l, fresh)
}

func (n *Networks) makeBridge(nw *network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.TxQLen = nw.rec.Link, nw.wantMTU, -1
	// With an address of its own the bridge does not change it with every port that comes and goes.
	if nw.mac == nil { // one that is made again keeps it: containers know it
		nw.mac = randomMAC()
	}
	attrs.HardwareAddr = nw.mac
	if err := n.handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, failf(errdefs.ErrNotImplemented, "the kernel has no bridges (CONFIG_BRIDGE): %w", err)
		}
		return nil, fmt.Errorf("make bridge %q: %w", nw.rec.Link, err)
	}
	l, err := n.handle.LinkByName(nw.rec.Link)
	if err == nil {
		err = n.handle.LinkSetAlias(l, alias(nw.rec.ID))
	}
	if err != nil {
		err = fmt.Errorf("make bridge %q: %w", nw.rec.Link, err)
		if l != nil {
			err = errors.Join(err, n.handle.LinkDel(l))
		}
		return nil, err
	}
	return l, nil
}

func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails
	mac[0], mac[1] = 0x02, 0x42
	return mac
}

// configureBridge gives a bridge what its network says; a fresh one has nothing yet.
func (n *Networks) configureBridge(nw *network, l netlink.Link, fresh bool) error {
	fail := func(what string, err error) error {
		return fmt.Errorf("%s of bridge %q: %w", what, nw.rec.Link, err)
	}
	conf := "net/ipv6/conf/" + nw.rec.Link + "/"
	// A container's router advertisements must not become the host's routes (CVE-2020-13401).
	for _, name := range []string{"accept_ra", "accept_redirects"} {
		if err := setSysctlIfThere(conf+name, "0"); err != nil {
			return fail("IPv6", err)
		}
	}
	off := "1"
	if nw.rec.IPv6 {
		off = "0"
	}
	if err := setSysctlIfThere(conf+"disable_ipv6", off); err != nil {
		return fail("IPv6", err)
	}
	if l.Attrs().MTU != nw.wantMTU {
		if err := n.handle.LinkSetMTU(l, nw.wantMTU); err != nil {
			return fail("set the MTU", err)
		}
	}
	if err := n.setAddresses(nw, l, fresh); err != nil {
		return fail("set the addresses", err)
	}
	if err := n.handle.LinkSetUp(l); err != nil {
		return fail("bring up the link", err)
	}
	return nil
}

// setAddresses gives the bridge its networks' gateways and takes away what an older configuration left.
func (n *Networks) setAddresses(nw *network, l netlink.Link, fresh bool) (err error) {
	want := nw.bridgeAddresses()
	var have []netlink.Addr
	if !fresh { // the kernel's list is of all links
		if have, err = dumpAddrs(n.handle, l, netlink.FAMILY_ALL); err != nil {
			return err
		}
	}
	for _, a := range have {
		p := prefixFromNet(a.IPNet)
		if want[p] {
			delete(want, p)
		} else if !p.Addr().IsLinkLocalUnicast() && !(p.Addr().Is4() && nw.options.inhibit4) {
			if err := n.handle.AddrDel(l, &a); err != nil {
				return err
			}
		}
	}
	for p := range want {
		a := &netlink.Addr{IPNet: netFromPrefix(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		} else {
			a.Broadcast = lastAddr(p.Masked()).AsSlice()
		}
		if err := n.handle.AddrAdd(l, a); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	return nil
}

// removeBridge deletes the network's link, unless it is somebody else's.
func (n *Networks) removeBridge(nw *network) error {
	if nw.rec.Link == "" || nw.foreign {
		return nil
	}
	l, err := n.handle.LinkByName(nw.rec.Link)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		return nil
	}
	if err == nil && l.Attrs().Alias == alias(nw.rec.ID) {
		var bequeathed bool
		if bequeathed, err = n.bequeath(nw, l); err == nil && !bequeathed {
			err = n.handle.LinkDel(l)
		}
	}
	if err != nil {
		return fmt.Errorf("remove bridge %q: %w", nw.rec.Link, err)
	}
	return nil
}

// hostPrefixes are the blocks the host knows a way to or has addresses in, by link, without the links in except.
func (n *Networks) hostPrefixes(except func(link string) bool) (routes, local []netip.Prefix, err error) {
	skip := map[int]bool{}
	if except != nil { // of all lists that of thousands of links takes the longest
		links, err := dumpLinks(n.handle)
		if err != nil {
			return nil, nil, fmt.Errorf("list the host's links: %w", err)
		}
		for _, l := range links {
			skip[l.Attrs().Index] = except(l.Attrs().Name)
		}
	}
	rs, err := dumpRoutes(n.handle, nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, r := range rs {
		if r.Dst == nil || skip[r.LinkIndex] {
			continue
		}
		if p := prefixFromNet(r.Dst); p.IsValid() {
			routes = append(routes, p.Masked())
		}
	}
	as, err := dumpAddrs(n.handle, nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, a := range as {
		if p := prefixFromNet(a.IPNet); p.IsValid() && !skip[a.LinkIndex] {
			local = append(local, p)
			routes = append(routes, p.Masked())
		}
	}
	return routes, local, nil
}

// defaultMTU is that of the link that leads out, so that containers do not send what it cannot carry.
func (n *Networks) defaultMTU() int {
	// One question to the kernel, where a list of all routes is longer with every network: the way to an address that is nobody's.
	if ways, err := n.handle.RouteGet(net.IPv4(240, 0, 0, 1)); err == nil && len(ways) > 0 {
		l, err := n.handle.LinkByIndex(ways[0].LinkIndex)
		if err == nil && l.Attrs().MTU >= minMTU && l.Attrs().Flags&net.FlagLoopback == 0 {
			return min(l.Attrs().MTU, 1500)
		}
	}
	rs, err := dumpRoutes(n.handle, nil, netlink.FAMILY_V4)
	if err == nil {
		for _, r := range rs {
			if r.Dst != nil && !(r.Dst.IP.IsUnspecified() && isZero(r.Dst.Mask)) {
				continue
			}
			if l, err := n.handle.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().MTU >= minMTU {
				return min(l.Attrs().MTU, 1500)
			}
		}
	}
	return 1500
}

func isZero(m net.IPMask) bool { return strings.Trim(string(m), "\x00") == "" }

func prefixFromNet(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	a = a.Unmap()
	if !ok || bits != a.BitLen() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, ones)
}

func netFromPrefix(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
