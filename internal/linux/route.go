package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Route speaks rtnetlink(7) in the network namespace that it was made in, whatever thread uses it. It can do what moving a network
// device between namespaces takes, and no more. Every length is checked before a message is made (CVE-2021-43784).
type Route struct {
	fd  int
	seq uint32
}

// NewRoute opens a socket in the calling thread's network namespace.
func NewRoute() (*Route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &Route{fd: fd}, nil
}

// Close closes the socket.
func (r *Route) Close() error { return unix.Close(r.fd) }

// Addr is an address of a device, as the kernel tells it.
type Addr struct {
	header [unix.SizeofIfAddrmsg]byte
	attrs  []byte
}

const maxAttr = 1 << 12 // far below what the 16 bits of a length can say

func attr(kind uint16, data []byte) ([]byte, error) {
	if len(data) > maxAttr {
		return nil, fmt.Errorf("an attribute of %d bytes: %w", len(data), unix.EMSGSIZE)
	}
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, data...)
	return append(b, make([]byte, -len(b)&3)...), nil
}

// eachAttr calls visit for every attribute of b.
func eachAttr(b []byte, visit func(kind uint16, data []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofRtAttr || n > len(b) {
			return
		}
		visit(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[unix.SizeofRtAttr:n])
		b = b[min(len(b), (n+3)&^3):]
	}
}

// ask sends a message and gives the answers' payloads, without their headers.
func (r *Route) ask(kind, flags uint16, payload []byte) (answers [][]byte, err error) {
	r.seq++
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(payload)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|flags)
	m = binary.NativeEndian.AppendUint32(m, r.seq)
	m = binary.NativeEndian.AppendUint32(m, 0)
	if err := unix.Sendto(r.fd, append(m, payload...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(r.fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("recvfrom", err)
		}
		for b := buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return nil, unix.EBADMSG
			}
			body := b[unix.SizeofNlMsghdr:size]
			answer, seq := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:])
			b = b[min(len(b), (size+3)&^3):]
			switch {
			case seq != r.seq:
			case answer == unix.NLMSG_DONE:
				return answers, nil
			case answer == unix.NLMSG_ERROR:
				if len(body) < 4 {
					return nil, unix.EBADMSG
				}
				if errno := int32(binary.NativeEndian.Uint32(body)); errno != 0 {
					return nil, unix.Errno(-errno)
				}
				return answers, nil
			default:
				answers = append(answers, slices.Clone(body))
			}
		}
	}
}

func link(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// Link finds a device by its name; the error wraps ENODEV when there is none.
func (r *Route) Link(name string) (index int, up bool, err error) {
	a, err := attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	if err != nil {
		return 0, false, err
	}
	answers, err := r.ask(unix.RTM_GETLINK, unix.NLM_F_ACK, append(link(0, 0, 0), a...))
	if err == nil && (len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg) {
		err = unix.EBADMSG
	}
	if err != nil {
		return 0, false, fmt.Errorf("network device %q: %w", name, err)
	}
	return int(binary.NativeEndian.Uint32(answers[0][4:])), binary.NativeEndian.Uint32(answers[0][8:])&unix.IFF_UP != 0, nil
}

// Addrs lists the addresses of a device that are permanent and valid everywhere.
func (r *Route) Addrs(index int) (list []Addr, err error) {
	answers, err := r.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, b := range answers {
		if len(b) < unix.SizeofIfAddrmsg || int(binary.NativeEndian.Uint32(b[4:])) != index || b[3] != unix.RT_SCOPE_UNIVERSE ||
			b[2]&unix.IFA_F_PERMANENT == 0 {
			continue
		}
		var a Addr
		copy(a.header[:], b)
		eachAttr(b[unix.SizeofIfAddrmsg:], func(kind uint16, data []byte) {
			const metric = 9 // IFA_RT_PRIORITY
			if kind == unix.IFA_ADDRESS || kind == unix.IFA_LOCAL || kind == unix.IFA_BROADCAST || kind == metric {
				if one, attrErr := attr(kind, data); attrErr == nil {
					a.attrs = append(a.attrs, one...)
				}
			}
		})
		list = append(list, a)
	}
	return list, nil
}

// AddAddr gives an address to a device; one that it has is no error.
func (r *Route) AddAddr(index int, a Addr) error {
	binary.NativeEndian.PutUint32(a.header[4:], uint32(index))
	_, err := r.ask(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(a.header[:], a.attrs...))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add an address: %w", err)
	}
	return nil
}

// Move sends a device into another network namespace, where it has a new name.
func (r *Route) Move(index int, netns *os.File, name string) error {
	ns, err := attr(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(netns.Fd())))
	if err != nil {
		return err
	}
	as, err := attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	if err != nil {
		return err
	}
	_, err = r.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, slices.Concat(link(index, 0, unix.IFF_UP), ns, as))
	return err
}

// Rename gives a device, which must be down, a name; "%d" in it is a number of the kernel's choice.
func (r *Route) Rename(index int, name string) error {
	as, err := attr(unix.IFLA_IFNAME, append([]byte(name), 0))
	if err != nil {
		return err
	}
	_, err = r.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, append(link(index, 0, 0), as...))
	return err
}

// Up sets a device up.
func (r *Route) Up(index int) error {
	_, err := r.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, link(index, unix.IFF_UP, unix.IFF_UP))
	return err
}
