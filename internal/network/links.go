package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What others do to a network's link of the host is told by rtnetlink and answered at once:
//
//	our bridge     deleted, renamed, set down, without its addresses: made as the record says, with the ports it had
//	an administrator's bridge or parent that is gone or has another name: the network cannot be used until it is back
//	our own parent (a VLAN, a link that leads nowhere) deleted: made again; the interfaces beside it have gone with the
//	old one, and come with the containers' next start
//
// What is wrong of a link that leads to one container is not mended: Trace says it.

// watchLinks calls changed with the index, and where it has one the name, of each link that is changed or deleted or loses an
// address, until the file is closed; index 0 is any of them. Of a container's start nothing is heard: ports of bridges are left out by
// the kernel.
func watchLinks(changed func(index int, name string)) (*os.File, error) {
	fail := func(err error) (*os.File, error) { return nil, fmt.Errorf("ask for changes of links: %w", err) }
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fail(err)
	}
	filter := withoutPorts()
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, program)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK,
			Groups: unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR})
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "changes of links")
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			if errors.Is(err, unix.ENOBUFS) { // more than the socket could hold
				changed(0, "")
				continue
			}
			if err != nil {
				return
			}
			linkMessages(buf[:n], changed)
		}
	}()
	return f, nil
}

// withoutPorts is a filter of the kernel's (Documentation/networking/filter.rst) that lets everything pass but what is said of links
// with a master and not of their end.
func withoutPorts() []unix.SockFilter {
	const newLink = unix.RTM_NEWLINK << 8 // as it is read: the most significant byte first
	const attributes = unix.SizeofNlMsghdr + unix.SizeofIfInfomsg
	const skfAdOff, skfAdNLAttr = -0x1000, 12 // linux/filter.h
	findAttribute := int32(skfAdOff + skfAdNLAttr)
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: newLink, Jf: 5},
		{Code: unix.BPF_LD | unix.BPF_IMM, K: attributes},
		{Code: unix.BPF_LDX | unix.BPF_IMM, K: unix.IFLA_MASTER},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(findAttribute)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
	}
}

// linkMessages reads messages of rtnetlink (rtnetlink(7)).
func linkMessages(b []byte, changed func(index int, name string)) {
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return
		}
		switch body := b[unix.SizeofNlMsghdr:size]; binary.NativeEndian.Uint16(b[4:]) {
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			if len(body) >= unix.SizeofIfInfomsg && body[0] == unix.AF_UNSPEC {
				changed(int(int32(binary.NativeEndian.Uint32(body[4:]))), linkName(body[unix.SizeofIfInfomsg:]))
			}
		case unix.RTM_DELADDR:
			if len(body) >= int(unsafe.Sizeof(unix.IfAddrmsg{})) {
				changed(int(int32(binary.NativeEndian.Uint32(body[4:]))), "")
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
}

// linkName is what IFLA_IFNAME says among attributes.
func linkName(b []byte) string {
	for len(b) >= unix.SizeofNlAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return ""
		}
		if binary.NativeEndian.Uint16(b[2:]) == unix.IFLA_IFNAME {
			name, _, _ := strings.Cut(string(b[unix.SizeofNlAttr:size]), "\x00")
			return name
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return ""
}

// linkChanged is told of every link of the host.
func (n *Networks) linkChanged(index int, name string) {
	if !n.begin() {
		return
	}
	defer n.work.Done()
	n.mu.Lock()
	var concerned []*network
	for _, nw := range n.networks {
		if nw.rec.Link != "" && (index == 0 || int(nw.index.Load()) == index || nw.lost != nil && nw.rec.Link == name) {
			concerned = append(concerned, nw)
		}
	}
	gate := n.gate.out != "" && (index == 0 || n.gate.index == index)
	n.mu.Unlock()
	for _, nw := range concerned {
		n.mend(nw)
	}
	if gate {
		n.mendGate()
	}
}

// mend makes a network's link again what the record says it is, and reports whether something was done.
func (n *Networks) mend(nw *network) bool {
	n.changing <- struct{}{} // nobody holds it for long
	defer n.changed()
	n.mu.Lock()
	known := n.networks[nw.rec.ID] == nw && !nw.removing && (nw.broken == nil || nw.lost != nil) && !n.shut
	n.mu.Unlock()
	if !known {
		return false
	}
	what, err := "", error(nil)
	switch {
	case isLAN(nw.rec.Driver):
		what, err = n.mendParent(nw)
	case nw.foreign:
		what, err = n.mendForeign(nw)
	default:
		what, err = n.mendBridge(nw)
	}
	n.mu.Lock()
	was := nw.lost
	nw.lost, nw.broken = err, err
	n.mu.Unlock()
	if err != nil && (was == nil || was.Error() != err.Error()) {
		n.log.Warn(fmt.Sprintf("network %q cannot be used: %s", nw.rec.Name, err))
	}
	if what == "" && (err == nil) == (was == nil) {
		return false
	}
	if what != "" {
		n.log.Warn(fmt.Sprintf("link %q of network %q %s", nw.rec.Link, nw.rec.Name, what))
	}
	if err := n.settleRules(); err != nil {
		n.log.Error("set the rules after a link was changed by somebody else", "link", nw.rec.Link, "error", err)
	}
	return err == nil
}

// mendBridge looks after a bridge of our own.
func (n *Networks) mendBridge(nw *network) (what string, err error) {
	l, err := n.handle.LinkByIndex(int(nw.index.Load()))
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		if other, err := n.handle.LinkByName(nw.rec.Link); err == nil && other.Attrs().Alias != alias(nw.rec.ID) {
			return "", failf(errdefs.ErrConflict, "its bridge %q was deleted, and the host has another link by this name", nw.rec.Link)
		}
		if l, err = n.makeBridge(nw); err != nil {
			return "", err
		}
		nw.index.Store(int64(l.Attrs().Index))
		what = "was deleted by somebody else and is made again"
	case err != nil:
		return "", fmt.Errorf("look for bridge %q: %w", nw.rec.Link, err)
	case l.Attrs().Name != nw.rec.Link:
		if _, err := n.handle.LinkByName(nw.rec.Link); err == nil {
			return "", failf(errdefs.ErrConflict, "its bridge %q was renamed to %q, and the host has another link by this name", nw.rec.Link, l.Attrs().Name)
		}
		// Older kernels rename no link that is up.
		if err := errors.Join(n.handle.LinkSetDown(l), n.handle.LinkSetName(l, nw.rec.Link)); err != nil {
			return "", fmt.Errorf("rename %q back to %q: %w", l.Attrs().Name, nw.rec.Link, err)
		}
		what = fmt.Sprintf("was renamed to %q by somebody else and is renamed back", l.Attrs().Name)
	case l.Attrs().Flags&net.FlagUp == 0:
		what = "was set down by somebody else and is set up again"
	default:
		same, err := n.hasAddresses(nw, l)
		if err != nil || same {
			return "", err
		}
		what = "has lost addresses and gets them back"
	}
	if err := n.configureBridge(nw, l, false); err != nil {
		return what, err
	}
	if err := n.putPorts(nw); err != nil {
		return what, err
	}
	if nw.routesLoopback.Load() {
		return what, n.routeLoopback(nw)
	}
	return what, nil
}

// hasAddresses reports whether a bridge has those of its network.
func (n *Networks) hasAddresses(nw *network, l netlink.Link) (bool, error) {
	have, err := dumpAddrs(n.handle, l, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("list the addresses of bridge %q: %w", nw.rec.Link, err)
	}
	for want := range nw.bridgeAddresses() {
		if !slices.ContainsFunc(have, func(a netlink.Addr) bool { return prefixFromNet(a.IPNet) == want }) {
			return false, nil
		}
	}
	return true, nil
}

// bridgeAddresses are those of the gateways that are the bridge.
func (nw *network) bridgeAddresses() map[netip.Prefix]bool {
	want := map[netip.Prefix]bool{}
	for _, s := range nw.rec.Subnets {
		f := familyOf(s.Prefix.Addr())
		if nw.options.mode(f) == modeIsolated || f == ip4 && nw.options.inhibit4 {
			continue
		}
		want[netip.PrefixFrom(s.Gateway, s.Prefix.Bits())] = true
	}
	return want
}

// putPorts puts all links that lead to containers on the network's bridge, the pool's as well.
func (n *Networks) putPorts(nw *network) error {
	type port struct {
		link              string
		isolated, hairpin bool
	}
	var ports []port
	n.mu.Lock()
	for e := range nw.endpoints {
		if e.host != "" {
			h := n.held[e.container]
			publishes := h != nil && len(h.ports) > 0
			ports = append(ports, port{e.host, n.isolates(e, publishes), publishes})
		}
	}
	n.mu.Unlock()
	var errs []error
	for _, p := range ports {
		var r requests
		r.master(p.link, int(nw.index.Load()))
		if p.isolated || p.hairpin {
			r.portFlags(p.link, p.isolated, p.hairpin)
		}
		if err := n.rt.send(&r); err != nil && !errors.Is(err, unix.ENODEV) { // a container may be ending
			errs = append(errs, fmt.Errorf("put link %q on bridge %q: %w", p.link, nw.rec.Link, err))
		}
	}
	return errors.Join(errs...)
}

// mendForeign looks whether an administrator's bridge is there.
func (n *Networks) mendForeign(nw *network) (what string, err error) {
	l, err := n.handle.LinkByName(nw.rec.Link)
	var gone netlink.LinkNotFoundError
	switch {
	case errors.As(err, &gone):
		return "", failf(errdefs.ErrUnavailable, "its bridge %q is gone: the host must have it again, it is not Berth's to make", nw.rec.Link)
	case err != nil:
		return "", fmt.Errorf("look for bridge %q: %w", nw.rec.Link, err)
	case l.Type() != "bridge":
		return "", failf(errdefs.ErrConflict, "its bridge %q is gone, and the host has a link of type %q by this name", nw.rec.Link, l.Type())
	}
	if int(nw.index.Swap(int64(l.Attrs().Index))) == l.Attrs().Index {
		return "", nil
	}
	if err := n.putPorts(nw); err != nil {
		return "", err
	}
	if nw.routesLoopback.Load() {
		err = n.routeLoopback(nw)
	}
	return "is back and gets its ports", err
}

// mendParent looks whether the parent of a macvlan or ipvlan network is there. Its name is of no account while it is.
func (n *Networks) mendParent(nw *network) (what string, err error) {
	var gone netlink.LinkNotFoundError
	if _, err := n.handle.LinkByIndex(int(nw.index.Load())); !errors.As(err, &gone) {
		return "", err
	}
	l, err := n.handle.LinkByName(nw.rec.Link)
	what = "is back: containers that were beside it need to be started again"
	if errors.As(err, &gone) && !nw.foreign {
		if l, err = n.makeParent(nw); err == nil {
			err = n.handle.LinkSetUp(l)
		}
		what = "was deleted by somebody else and is made again: containers that were beside it need to be started again"
	}
	if errors.As(err, &gone) {
		return "", failf(errdefs.ErrUnavailable, "its parent link %q is gone", nw.rec.Link)
	}
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	nw.mac = l.Attrs().HardwareAddr
	nw.mtu.Store(int64(l.Attrs().MTU))
	nw.index.Store(int64(l.Attrs().Index))
	return what, nil
}

// mendGate makes the gate of published ports again.
func (n *Networks) mendGate() {
	n.mu.Lock()
	g := n.gate
	n.mu.Unlock()
	out, err := n.handle.LinkByIndex(g.index)
	if err == nil && out.Attrs().Name == g.out && out.Attrs().Flags&net.FlagUp != 0 {
		if in, err := n.handle.LinkByName(g.in); err == nil && in.Attrs().Flags&net.FlagUp != 0 {
			return
		}
	}
	n.log.Warn("the gate of published ports was changed by somebody else and is made again", "link", g.out)
	n.changing <- struct{}{}
	if err == nil { // it may have another name
		err = n.handle.LinkDel(out)
	}
	var gone netlink.LinkNotFoundError
	if err == nil || errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
		err = errors.Join(n.closeGate(), n.openGate())
	}
	n.changed()
	if err == nil {
		n.wall.forget() // the kernel knows the gate by its number
		err = n.applyRules()
	}
	if err != nil {
		n.log.Error("make the gate of published ports again", "error", err)
	}
}
