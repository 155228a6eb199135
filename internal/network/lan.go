package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Networks of the drivers macvlan and ipvlan have no bridge: each interface of a container stands beside a link of the
// host, the parent, and is a neighbour of whatever that is connected to. Addresses and gateway are of that neighbourhood,
// so a subnet may be one that the host is in, and nothing is translated or published.
//
//	parent=eth0       a link of the host, never changed
//	parent=eth0.10    the same, or where it is not there VLAN 10 of eth0, made and removed with the network
//	no parent         a link of the network's own that leads nowhere: containers reach each other and nothing else
const (
	driverMacvlan = "macvlan"
	driverIpvlan  = "ipvlan"
)

// lanOptions are a macvlan or ipvlan network's driver options, read.
type lanOptions struct {
	parent string // "": one of our own
	mode   uint32 // in the kernel's numbers
	flag   uint16 // of ipvlan
	layer3 bool   // of ipvlan: no neighbours, so no gateway
}

// joins reports whether containers can be connected to networks of a driver.
func joins(driver string) bool { return driver == driverBridge || driver == driverCNI || isLAN(driver) }

func isLAN(driver string) bool { return driver == driverMacvlan || driver == driverIpvlan }

// The modes of linux/if_link.h.
const (
	macvlanPrivate  = 1
	macvlanVEPA     = 2
	macvlanBridge   = 4
	macvlanPassthru = 8
)

func macvlanModes() map[string]uint32 {
	return map[string]uint32{"": macvlanBridge, "bridge": macvlanBridge, "private": macvlanPrivate, "vepa": macvlanVEPA,
		"passthru": macvlanPassthru}
}

func parseLANOptions(driver string, options map[string]string) (lanOptions, error) {
	o := lanOptions{mode: macvlanModes()[""]}
	if driver == driverIpvlan {
		o.mode = 0 // l2
	}
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value, known := options[key], true
		var err error
		switch {
		case key == "parent":
			o.parent, err = value, checkLinkName(value)
			if value == "lo" {
				err = errors.New("the loopback link can be no parent")
			}
		case key == "macvlan_mode" && driver == driverMacvlan:
			o.mode, known = macvlanModes()[value]
		case key == "ipvlan_mode" && driver == driverIpvlan:
			var m uint16
			m, known = map[string]uint16{"": 0, "l2": 0, "l3": 1, "l3s": 2}[value] // linux/if_link.h
			o.mode, o.layer3 = uint32(m), m > 0
		case key == "ipvlan_flag" && driver == driverIpvlan:
			o.flag, known = map[string]uint16{"": 0, "bridge": 0, "private": 1, "vepa": 2}[value]
		case key == optionIPv4 || key == optionIPv6:
			_, err = strconv.ParseBool(value)
		case key == OptionEgress:
			return o, errEgressLAN(driver)
		default:
			return o, failf(errdefs.ErrInvalidArgument, "unknown option %q of a network of the driver %q", key, driver)
		}
		if !known {
			err = errors.New("there is no such mode")
		}
		if err != nil {
			return o, failf(errdefs.ErrInvalidArgument, "invalid value %q of option %q: %w", value, key, err)
		}
	}
	return o, nil
}

// ensureParent finds the parent link, or makes it where it is ours to make.
func (n *Networks) ensureParent(nw *network) error {
	l, err := n.handle.LinkByName(nw.rec.Link)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		l, err = n.makeParent(nw)
	}
	if err != nil {
		return err
	}
	nw.mac = l.Attrs().HardwareAddr
	nw.index.Store(int64(l.Attrs().Index))
	nw.mtu.Store(int64(l.Attrs().MTU))
	if l.Attrs().Alias != alias(nw.rec.ID) {
		nw.foreign = true
		return nil
	}
	if err := n.handle.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up link %q: %w", nw.rec.Link, err)
	}
	return nil
}

func (n *Networks) makeParent(nw *network) (netlink.Link, error) {
	if nw.lan.parent == "" {
		return n.makeNowhere(nw)
	}
	base, tag, ok := vlanName(nw.lan.parent)
	if !ok {
		return nil, failf(errdefs.ErrNotFound, "network %q needs the link %q, which the host does not have", nw.rec.Name, nw.lan.parent)
	}
	under, err := n.handle.LinkByName(base)
	if err != nil {
		return nil, failf(errdefs.ErrNotFound, "network %q needs VLAN %d of the link %q, which the host does not have", nw.rec.Name, tag, base)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = nw.lan.parent, under.Attrs().Index
	if err := n.handle.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: tag}); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, failf(errdefs.ErrNotImplemented, "the kernel has no VLANs (CONFIG_VLAN_8021Q, module 8021q): %w", err)
		}
		return nil, fmt.Errorf("make VLAN %d of link %q: %w", tag, base, err)
	}
	return n.claim(nw)
}

// claim marks a link that was just made as the network's.
func (n *Networks) claim(nw *network) (netlink.Link, error) {
	l, err := n.handle.LinkByName(nw.rec.Link)
	if err == nil {
		if err = n.handle.LinkSetAlias(l, alias(nw.rec.ID)); err == nil {
			return n.handle.LinkByName(nw.rec.Link)
		}
		err = errors.Join(err, n.handle.LinkDel(l))
	}
	return nil, fmt.Errorf("make link %q: %w", nw.rec.Link, err)
}

// makeNowhere makes a link that leads nowhere: what is sent into it is dropped. A bridge without ports would not do, for
// without a carrier the containers could not send to each other.
func (n *Networks) makeNowhere(nw *network) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nw.rec.Link
	err := n.handle.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = n.handle.LinkAdd(&netlink.Ifb{LinkAttrs: attrs})
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, failf(errdefs.ErrNotImplemented, "a network without a parent needs the kernel's dummy links (CONFIG_DUMMY, module dummy): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("make link %q: %w", nw.rec.Link, err)
	}
	return n.claim(nw)
}

// vlanName takes "eth0.10" apart.
func vlanName(link string) (base string, tag int, ok bool) {
	i := strings.LastIndexByte(link, '.')
	if i < 1 {
		return "", 0, false
	}
	tag, err := strconv.Atoi(link[i+1:])
	return link[:i], tag, err == nil && tag >= 1 && tag <= 4094 && strconv.Itoa(tag) == link[i+1:]
}

// tryLAN makes an interface of the network in a namespace of its own and removes it, so that what the kernel or the parent
// cannot do is told when the network is made, and not when a container starts.
func (n *Networks) tryLAN(nw *network) error {
	ns, err := n.inNewNetNS(func(ns *os.File) error {
		rt, err := openRTNL()
		if err != nil {
			return err
		}
		defer rt.Close()
		e := &endpoint{network: nw, state: EndpointState{Interface: "try0", MAC: randomMAC().String()}}
		if err := n.addLAN(e, ns); err != nil {
			return err
		}
		// In passthru mode the parent takes one interface at a time, so this one must not linger with its namespace.
		var r requests
		r.removeLink("try0")
		return rt.send(&r)
	})
	if err != nil {
		return fmt.Errorf("network %q: %w", nw.rec.Name, err)
	}
	return ns.Close()
}

// addLAN makes the endpoint's interface, in the namespace ns at once.
func (n *Networks) addLAN(e *endpoint, ns *os.File) error {
	mac, err := net.ParseMAC(e.state.MAC)
	if err != nil {
		return err
	}
	nw := e.network
	var r requests
	r.addLAN(nw.rec.Driver, e.state.Interface, int(nw.index.Load()), int(ns.Fd()), mac, nw.lan)
	err = n.rt.send(&r)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return failf(errdefs.ErrNotImplemented, "the kernel has no %s (CONFIG_%s, module %s): load the module or use another driver: %w",
			nw.rec.Driver, strings.ToUpper(nw.rec.Driver), nw.rec.Driver, err)
	case errors.Is(err, unix.ENODEV):
		return failf(errdefs.ErrUnavailable, "the parent link %q is gone: %w", nw.rec.Link, err)
	case errors.Is(err, unix.EEXIST):
		return failf(errdefs.ErrConflict, "the container has an interface %q already: %w", e.state.Interface, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EBUSY):
		return failf(errdefs.ErrConflict, "the link %q cannot be the parent of one more %s interface: %w", nw.rec.Link, nw.rec.Driver, err)
	}
	return err
}

// IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE and IFLA_IPVLAN_FLAGS of linux/if_link.h.
const (
	macvlanMode = 1
	ipvlanMode  = 1
	ipvlanFlags = 2
)

func (r *requests) addLAN(driver, name string, parent, ns int, mac []byte, o lanOptions) {
	r.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.ifinfo(0, 0, 0)
	r.attrText(unix.IFLA_IFNAME, name)
	r.attr32(unix.IFLA_LINK, uint32(parent))
	r.attr32(unix.IFLA_NET_NS_FD, uint32(ns))
	if driver == driverMacvlan && o.mode != macvlanPassthru { // which has its parent's, and would change that
		r.attr(unix.IFLA_ADDRESS, mac)
	}
	r.open(unix.IFLA_LINKINFO)
	r.attrText(unix.IFLA_INFO_KIND, driver)
	r.open(unix.IFLA_INFO_DATA)
	if driver == driverMacvlan {
		r.attr32(macvlanMode, o.mode)
	} else {
		r.attr(ipvlanMode, binary.NativeEndian.AppendUint16(nil, uint16(o.mode)))
		r.attr(ipvlanFlags, binary.NativeEndian.AppendUint16(nil, o.flag))
	}
	r.close()
	r.close()
	r.end()
}

// unplugLAN deletes the endpoint's interface from inside its namespace, also when the container has renamed it.
func (n *Networks) unplugLAN(e *endpoint, ns *os.File) error {
	n.mu.Lock()
	shared := len(n.beside(e.network)) > 0
	n.mu.Unlock()
	return n.inLAN(ns, func(h *netlink.Handle, l netlink.Link) error {
		if shared && l.Attrs().HardwareAddr.String() != e.state.MAC {
			return nil
		}
		if l.Type() != e.network.rec.Driver || l.Attrs().ParentIndex != int(e.network.index.Load()) {
			return nil
		}
		return h.LinkDel(l)
	})
}

// keepLAN remembers the namespace of a container that is on such a network. The links go with Detach and not, some time
// later, with the namespace: until they have gone, nobody else can have the container's hardware address. Called with mu
// held.
func (h *holding) keepLAN(ns *os.File) error {
	if h.lan != nil || !slices.ContainsFunc(h.endpoints, func(e *endpoint) bool { return isLAN(e.network.rec.Driver) || isCNI(e) }) {
		return nil
	}
	return h.keepNetNS(ns)
}

// keepNetNS is keepLAN in any case. Called with mu held.
func (h *holding) keepNetNS(ns *os.File) error {
	if h.lan != nil {
		return nil
	}
	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("keep the container's namespace: %w", err)
	}
	h.lan = os.NewFile(uintptr(fd), ns.Name())
	return nil
}

// dropLAN deletes the container's interfaces on such networks.
func (n *Networks) dropLAN(h *holding) error {
	if h.lan == nil {
		return nil
	}
	defer h.lan.Close()
	var errs []error
	for _, e := range h.endpoints {
		if isLAN(e.network.rec.Driver) {
			errs = append(errs, n.unplugLAN(e, h.lan))
		}
	}
	return errors.Join(errs...)
}

// inLAN calls fn for each link of a namespace.
func (n *Networks) inLAN(ns *os.File, fn func(*netlink.Handle, netlink.Link) error) error {
	var h *netlink.Handle
	if err := n.inNetNS(ns, func() (err error) {
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	}); err != nil {
		return fmt.Errorf("look into a container's network namespace: %w", err)
	}
	defer h.Close()
	links, err := dumpLinks(h)
	for _, l := range links {
		err = errors.Join(err, fn(h, l))
	}
	return err
}

// retainLAN puts right what a daemon that was killed in the middle of Connect or Disconnect left of a container's
// interfaces: those that no endpoint stands for go, and so do endpoints without one.
func (n *Networks) retainLAN(l Live, endpoints []EndpointState) []EndpointState {
	n.mu.Lock()
	parents := map[int][]*network{}
	for _, nw := range n.networks {
		if isLAN(nw.rec.Driver) && nw.broken == nil {
			parents[int(nw.index.Load())] = append(parents[int(nw.index.Load())], nw)
		}
	}
	n.mu.Unlock()
	if len(parents) == 0 || l.Pid <= 0 {
		return endpoints
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", l.Pid))
	if err != nil {
		return endpoints
	}
	defer ns.Close()
	there := map[string]bool{}
	err = n.inLAN(ns, func(h *netlink.Handle, link netlink.Link) error {
		beside := parents[link.Attrs().ParentIndex]
		if len(beside) == 0 || link.Type() != beside[0].rec.Driver {
			return nil
		}
		for _, nw := range beside {
			if slices.ContainsFunc(endpoints, func(s EndpointState) bool {
				return s.NetworkID == nw.rec.ID && (len(beside) == 1 || s.MAC == link.Attrs().HardwareAddr.String())
			}) {
				there[nw.rec.ID] = true
				return nil
			}
		}
		return h.LinkDel(link)
	})
	if err != nil {
		n.log.Warn("look for interfaces of a container", "container", l.ContainerID, "error", err)
		return endpoints
	}
	return slices.DeleteFunc(slices.Clone(endpoints), func(s EndpointState) bool {
		n.mu.Lock()
		nw := n.networks[s.NetworkID]
		n.mu.Unlock()
		return nw != nil && isLAN(nw.rec.Driver) && nw.broken == nil && !there[s.NetworkID]
	})
}

// checkParent refuses a second network beside the same link, but for macvlan: its interfaces are told from each other by their hardware
// addresses, unless the one in passthru mode has them all. Called with mu held.
func (n *Networks) checkParent(rec *record, o lanOptions) error {
	for _, nw := range n.networks {
		if !isLAN(nw.rec.Driver) || nw.rec.Link != rec.Link {
			continue
		}
		switch {
		case nw.rec.Driver != driverMacvlan || rec.Driver != driverMacvlan:
			return failf(errdefs.ErrPermissionDenied, "network %s is already using parent interface %s", nw.rec.Name, rec.Link)
		case o.mode == macvlanPassthru:
			return failf(errdefs.ErrPermissionDenied, "cannot use mode passthru, macvlan network %s is already using parent interface %s",
				nw.rec.Name, rec.Link)
		case nw.lan.mode == macvlanPassthru:
			return failf(errdefs.ErrPermissionDenied, "macvlan network %s is already using parent interface %s in mode passthru",
				nw.rec.Name, rec.Link)
		}
	}
	return nil
}

// beside are the other networks beside the same link. Called with mu held.
func (n *Networks) beside(nw *network) (others []*network) {
	for _, other := range n.networks {
		if other != nw && isLAN(nw.rec.Driver) && isLAN(other.rec.Driver) && other.rec.Link == nw.rec.Link {
			others = append(others, other)
		}
	}
	return others
}

// bequeath gives a link of our own to another network beside it, and reports whether there is one.
func (n *Networks) bequeath(nw *network, l netlink.Link) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, heir := range n.beside(nw) {
		if heir.removing {
			continue
		}
		if err := n.handle.LinkSetAlias(l, alias(heir.rec.ID)); err != nil {
			return false, fmt.Errorf("give link %q to network %q: %w", nw.rec.Link, heir.rec.Name, err)
		}
		heir.foreign, nw.foreign = false, true
		return true, nil
	}
	return false, nil
}
