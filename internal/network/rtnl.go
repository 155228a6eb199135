package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// The start path speaks rtnetlink by hand: several requests travel in one system call, the kernel answers before that
// call returns, and nothing is looked up again. Everything that is not on the start path uses vishvananda/netlink.

// requests is a list of rtnetlink requests that are sent together. The kernel carries them out in order, also after one
// has failed.
type requests struct {
	buf   []byte
	count int
	start int   // of the open request
	nests []int // starts of the open nested attributes
}

func (r *requests) u16(v uint16) { r.buf = binary.NativeEndian.AppendUint16(r.buf, v) }
func (r *requests) u32(v uint32) { r.buf = binary.NativeEndian.AppendUint32(r.buf, v) }

// begin opens a request; its fixed header follows.
func (r *requests) begin(typ, flags uint16) {
	r.start = len(r.buf)
	r.count++
	r.u32(0) // length, set by end
	r.u16(typ)
	r.u16(flags | unix.NLM_F_REQUEST | unix.NLM_F_ACK)
	r.u32(0) // sequence number, set by send
	r.u32(0)
}

func (r *requests) end() {
	binary.NativeEndian.PutUint32(r.buf[r.start:], uint32(len(r.buf)-r.start))
}

func (r *requests) attr(typ uint16, data []byte) {
	r.u16(uint16(unix.SizeofRtAttr + len(data)))
	r.u16(typ)
	r.buf = append(r.buf, data...)
	for len(r.buf)%4 != 0 {
		r.buf = append(r.buf, 0)
	}
}

func (r *requests) attr8(typ uint16, v byte) { r.attr(typ, []byte{v}) }
func (r *requests) attr32(typ uint16, v uint32) {
	r.attr(typ, binary.NativeEndian.AppendUint32(nil, v))
}
func (r *requests) attrText(typ uint16, s string)   { r.attr(typ, append([]byte(s), 0)) }
func (r *requests) attrIP(typ uint16, a netip.Addr) { r.attr(typ, a.AsSlice()) }

func (r *requests) open(typ uint16) {
	r.nests = append(r.nests, len(r.buf))
	r.u16(0)
	r.u16(typ)
}

func (r *requests) close() {
	start := r.nests[len(r.nests)-1]
	r.nests = r.nests[:len(r.nests)-1]
	binary.NativeEndian.PutUint16(r.buf[start:], uint16(len(r.buf)-start))
}

// ifinfo is struct ifinfomsg: which link, and which of its flags are set to what.
func (r *requests) ifinfo(index int, flags, change uint32) {
	r.u32(unix.AF_UNSPEC)
	r.u32(uint32(index))
	r.u32(flags)
	r.u32(change)
}

// linkUp asks for the link with this index, or where that is 0 with this name, to be brought up.
func (r *requests) linkUp(index int, name string) {
	r.begin(unix.RTM_NEWLINK, 0)
	r.ifinfo(index, unix.IFF_UP, unix.IFF_UP)
	if index == 0 {
		r.attrText(unix.IFLA_IFNAME, name)
	}
	r.end()
}

// address gives the link an address. Duplicate detection is left out: we know who has which address.
func (r *requests) address(index int, p netip.Prefix) {
	family := byte(unix.AF_INET)
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	r.begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.buf = append(r.buf, family, byte(p.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE)
	r.u32(uint32(index))
	r.attrIP(unix.IFA_LOCAL, p.Addr())
	r.attrIP(unix.IFA_ADDRESS, p.Addr())
	if family == unix.AF_INET {
		r.attrIP(unix.IFA_BROADCAST, lastAddr(p.Masked()))
	}
	r.end()
}

// defaultRoute sends everything without a better route to gw, in place of where it went before; through the link itself
// where gw is the zero address of its version. Without an address it does nothing.
func (r *requests) defaultRoute(index int, gw netip.Addr) {
	if !gw.IsValid() {
		return
	}
	family := byte(unix.AF_INET)
	if gw.Is6() {
		family = unix.AF_INET6
	}
	r.begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	r.buf = append(r.buf, family, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	r.u32(0)
	if !gw.IsUnspecified() {
		r.attrIP(unix.RTA_GATEWAY, gw)
	}
	r.attr32(unix.RTA_OIF, uint32(index))
	r.end()
}

// removeLink asks for the link with this name to go, and for its other end with it.
func (r *requests) removeLink(name string) {
	r.begin(unix.RTM_DELLINK, 0)
	r.ifinfo(0, 0, 0)
	r.attrText(unix.IFLA_IFNAME, name)
	r.end()
}

// master asks for the link with this name to become a port of the bridge with this index.
func (r *requests) master(name string, bridge int) {
	r.begin(unix.RTM_NEWLINK, 0)
	r.ifinfo(0, 0, 0)
	r.attrText(unix.IFLA_IFNAME, name)
	r.attr32(unix.IFLA_MASTER, uint32(bridge))
	r.end()
}

// vethInfoPeer is VETH_INFO_PEER of linux/veth.h.
const vethInfoPeer = 1

// veth is a pair with one end on a bridge here and the other in a namespace.
type veth struct {
	host, inner string
	bridge      int // index
	mtu         int
	mac         []byte
	ns          int  // descriptor of the namespace of the inner end
	isolated    bool // cannot reach other isolated ports of the bridge
	hairpin     bool // frames may leave by the port they came in by
}

// add asks for the pair. The kernel cannot open the inner end before both exist, so that is done from inside.
func (r *requests) add(v veth) {
	r.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	r.ifinfo(0, unix.IFF_UP, unix.IFF_UP)
	r.attrText(unix.IFLA_IFNAME, v.host)
	r.attr32(unix.IFLA_MTU, uint32(v.mtu))
	r.attr32(unix.IFLA_MASTER, uint32(v.bridge))
	r.open(unix.IFLA_LINKINFO)
	r.attrText(unix.IFLA_INFO_KIND, "veth")
	r.open(unix.IFLA_INFO_DATA)
	r.open(vethInfoPeer)
	r.ifinfo(0, 0, 0)
	r.attrText(unix.IFLA_IFNAME, v.inner)
	r.attr32(unix.IFLA_MTU, uint32(v.mtu))
	r.attr(unix.IFLA_ADDRESS, v.mac)
	r.attr32(unix.IFLA_NET_NS_FD, uint32(v.ns))
	r.close()
	r.close()
	r.close()
	r.end()
	if v.isolated || v.hairpin {
		r.portFlags(v.host, v.isolated, v.hairpin)
	}
}

// portFlags sets what a bridge does with the frames of one of its ports.
func (r *requests) portFlags(link string, isolated, hairpin bool) {
	r.begin(unix.RTM_NEWLINK, 0)
	r.ifinfo(0, 0, 0)
	r.attrText(unix.IFLA_IFNAME, link)
	r.open(unix.IFLA_LINKINFO)
	r.attrText(unix.IFLA_INFO_SLAVE_KIND, "bridge")
	r.open(unix.IFLA_INFO_SLAVE_DATA)
	r.attr8(unix.IFLA_BRPORT_ISOLATED, bit(isolated))
	r.attr8(unix.IFLA_BRPORT_MODE, bit(hairpin))
	r.close()
	r.close()
	r.end()
}

// noLinkLocalLearn is BR_BOOLOPT_NO_LL_LEARN of linux/if_bridge.h, as the bit it is in struct br_boolopt_multi.
const noLinkLocalLearn = 1 << 0

// learnNothing makes a bridge learn nothing from frames to the addresses that bridges keep for themselves (01:80:c2:00:00:0x): these
// pass no hook where the guard could see who sent them. Kernels before 5.0 have no such option and say nothing.
func (r *requests) learnNothing(bridge int) {
	r.begin(unix.RTM_NEWLINK, 0)
	r.ifinfo(bridge, 0, 0)
	r.open(unix.IFLA_LINKINFO)
	r.attrText(unix.IFLA_INFO_KIND, "bridge")
	r.open(unix.IFLA_INFO_DATA)
	options := binary.NativeEndian.AppendUint32(nil, noLinkLocalLearn)                              // their values
	r.attr(unix.IFLA_BR_MULTI_BOOLOPT, binary.NativeEndian.AppendUint32(options, noLinkLocalLearn)) // and which are meant
	r.close()
	r.close()
	r.end()
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// rtnl is an rtnetlink socket. It acts on the namespace it was opened in, whatever thread uses it.
type rtnl struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf [8192]byte
}

// openRTNL opens a socket in the calling thread's namespace.
func openRTNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open an rtnetlink socket: %w", err)
	}
	// Without these two errors are told by number only, or repeat the request; they came with Linux 4.12 and 4.3.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &rtnl{fd: fd}, nil
}

func (s *rtnl) Close() error { return unix.Close(s.fd) }

// index is the number of the named link in the socket's namespace.
func (s *rtnl) index(link string) (int, error) {
	req, err := unix.NewIfreq(link)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(s.fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, fmt.Errorf("look for link %q: %w", link, err)
	}
	return int(req.Uint32()), nil
}

// send carries out the requests and returns the first error, a *kernelError. It does not wait for anything but the
// kernel's lock.
func (s *rtnl) send(r *requests) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.seq + 1
	for off := 0; off < len(r.buf); {
		s.seq++
		binary.NativeEndian.PutUint32(r.buf[off+8:], s.seq)
		off += int(binary.NativeEndian.Uint32(r.buf[off:]))
	}
	for {
		err := unix.Sendto(s.fd, r.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return fmt.Errorf("send to rtnetlink: %w", err)
		}
	}
	var failed error
	for answered := 0; answered < r.count; {
		n, _, err := unix.Recvfrom(s.fd, s.buf[:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from rtnetlink: %w", err)
		}
		for b := s.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr+4 || size > len(b) {
				return fmt.Errorf("receive from rtnetlink: a message of %d bytes in %d", size, len(b))
			}
			seq := binary.NativeEndian.Uint32(b[8:])
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR && seq-first < uint32(r.count) {
				answered++
				if err := parseAck(b[:size], int(seq-first)); err != nil && failed == nil {
					failed = err
				}
			}
			b = b[min(len(b), (size+3)&^3):]
		}
	}
	return failed
}

// kernelError is a refused request: which of the list, and what the kernel says.
type kernelError struct {
	request int
	errno   unix.Errno
	text    string
}

func (e *kernelError) Error() string {
	if e.text != "" {
		return e.errno.Error() + " (" + e.text + ")"
	}
	return e.errno.Error()
}

func (e *kernelError) Unwrap() error { return e.errno }

// parseAck reads one NLMSG_ERROR message; success is error 0.
func parseAck(b []byte, request int) error {
	code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:]))
	if code == 0 {
		return nil
	}
	e := &kernelError{request: request, errno: unix.Errno(-code)}
	if binary.NativeEndian.Uint16(b[6:])&unix.NLM_F_ACK_TLVS == 0 {
		return e
	}
	// With NETLINK_CAP_ACK only the header of the request is repeated before the attributes.
	rest := b[min(len(b), unix.SizeofNlMsghdr+4+unix.SizeofNlMsghdr):]
	for len(rest) >= unix.SizeofRtAttr {
		size, typ := int(binary.NativeEndian.Uint16(rest)), binary.NativeEndian.Uint16(rest[2:])
		if size < unix.SizeofRtAttr || size > len(rest) {
			break
		}
		if typ == unix.NLMSGERR_ATTR_MSG {
			text := rest[unix.SizeofRtAttr:size]
			for len(text) > 0 && text[len(text)-1] == 0 {
				text = text[:len(text)-1]
			}
			e.text = string(text)
		}
		rest = rest[min(len(rest), (size+3)&^3):]
	}
	return e
}
