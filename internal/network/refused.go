package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Refused is what an egress policy has kept a container from: a connection, or a name that it asked for.
type Refused struct {
	First, Last       time.Time
	Count             int // packets and questions that were told of, which is a part where there were many
	ContainerID, Name string
	Network           string
	To                netip.Addr // not valid for a name
	Proto             string     // "tcp", "udp", "icmp" …, or a number
	Port              uint16     // 0 where there is none
	Domain            string
}

// key is what makes two refusals the same.
func (r Refused) key() Refused {
	r.First, r.Last, r.Count, r.Name = time.Time{}, time.Time{}, 0, ""
	return r
}

const (
	maxRefused  = 1000
	refusedRest = time.Minute // between two times that somebody is told of the same
)

// refusals remember what was refused lately. The kernel tells it by a group of nfnetlink_log, at most so often for each
// container; the name servers tell what they did not ask for.
type refusals struct {
	name string // that the group is made of
	told func(Refused)

	mu     sync.Mutex
	group  uint16 // 0: not yet, or none
	failed bool
	socket *os.File
	fd     int        // socket's
	read   bool       // somebody reads it
	kept   []*Refused // the last ones last
	found  map[Refused]*Refused
}

func newRefusals(name string, told func(Refused)) *refusals {
	return &refusals{name: name, told: told, found: map[Refused]*Refused{}}
}

// note remembers one more, of now unless it says when it was.
func (l *refusals) note(r Refused) {
	now := r.Last
	if now.IsZero() {
		now = time.Now()
	}
	l.mu.Lock()
	k := r.key()
	old := l.found[k]
	fresh := old == nil || now.Sub(old.Last) > refusedRest
	if old == nil {
		if len(l.kept) >= maxRefused {
			delete(l.found, l.kept[0].key())
			l.kept = slices.Delete(l.kept, 0, 1)
		}
		old = &r
		old.First = now
	} else {
		i := slices.Index(l.kept, old)
		l.kept = slices.Delete(l.kept, i, i+1)
	}
	old.Last, old.Name = now, r.Name
	old.Count++
	l.kept = append(l.kept, old)
	l.found[k] = old
	said := *old
	l.mu.Unlock()
	if fresh && l.told != nil {
		l.told(said)
	}
}

// Refused is what egress policies have refused since the daemon began, the latest last, at most 1000.
func (n *Networks) Refused() []Refused {
	if n.exits == nil {
		return nil
	}
	l := n.exits.log
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]Refused, len(l.kept))
	for i, r := range l.kept {
		all[i] = *r
	}
	return all
}

// groups are tried until one is found that nobody listens to.
const groups = 16

// listen opens the log, once, and returns the number of its group, 0 for none. whose tells who sent a packet.
func (l *refusals) listen(log *slog.Logger, whose func(link int, from netip.Addr) Refused) uint16 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.group != 0 && !l.read {
		l.read = true
		go l.hear(l.socket, whose)
	}
	if l.group != 0 || l.failed {
		return l.group
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(l.name))
	first := 1<<12 + uint16(h.Sum32()%(1<<15))
	for i := range uint16(groups) {
		fd, err := listenLog(first + i)
		if err != nil {
			log.Debug("listen to a group of nfnetlink_log", "group", first+i, "error", err)
			continue
		}
		l.use(first+i, fd)
		l.read = true
		go l.hear(l.socket, whose)
		return l.group
	}
	l.failed = true
	return 0
}

func (l *refusals) use(group uint16, fd int) {
	l.group, l.fd, l.socket = group, fd, os.NewFile(uintptr(fd), "nfnetlink_log")
}

// The keeper has a copy of the log's socket, under keptLog as if that were a container, with the group's number in its name. So
// the kernel goes on telling while there is no daemon, into the socket, and the next daemon reads it there.
const (
	keptLog  = "(refused)"
	keptNFLG = "nflog/"
)

// adopt takes over the log that the keeper has kept, if there is one among what it has.
func (l *refusals) adopt(kept map[string]map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, fd := range kept[keptLog] {
		number, ok := strings.CutPrefix(name, keptNFLG)
		group, err := strconv.ParseUint(number, 10, 16)
		if ok && err == nil && group != 0 && l.group == 0 {
			l.use(uint16(group), fd)
			delete(kept[keptLog], name)
		}
	}
	if l.group != 0 {
		delete(kept, keptLog)
	}
}

// keepLog gives the keeper the log's socket, if there is one. Called with the keeper's mu held.
func (n *Networks) keepLog() error {
	k := n.keeper
	if n.exits == nil || k.fd < 0 || k.has[keptLog] != nil {
		return nil
	}
	l := n.exits.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket == nil {
		return nil
	}
	name := keptNFLG + strconv.Itoa(int(l.group))
	if err := sendKeeper(k.fd, keeperDocument{Op: keepSet, Container: keptLog, Sockets: []string{name}}, l.fd); err != nil {
		return fmt.Errorf("give it the log of what is refused: %w", err)
	}
	k.has[keptLog] = map[string]keptRelay{name: {}}
	return nil
}

func (l *refusals) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket != nil {
		_ = l.socket.Close()
	}
}

// Messages and attributes of linux/netfilter/nfnetlink_log.h.
const (
	logPacket, logConfig = unix.NFNL_SUBSYS_ULOG << 8, unix.NFNL_SUBSYS_ULOG<<8 | 1
	logTime              = 3
	logLink, logPayload  = 4, 9
	configCommand        = 1
	configMode           = 2
	commandBind          = 1
	modePacket           = 2
)

// logBytes is room for what the kernel tells while nobody reads: some thousand packets.
const logBytes = 1 << 20

// listenLog makes a socket the listener of a group; the kernel allows one.
func listenLog(group uint16) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	ok := false
	defer func() {
		if !ok {
			unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, logBytes); err != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, logBytes) // as much as there may be
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return -1, err
	}
	mode := binary.BigEndian.AppendUint32(nil, snapLen)
	for _, attr := range [][]byte{nlAttr(configCommand, []byte{commandBind}), nlAttr(configMode, append(mode, modePacket, 0))} {
		body := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, 0}, group) // struct nfgenmsg
		body = append(body, attr...)
		m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
		m = binary.NativeEndian.AppendUint16(m, logConfig)
		m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		m = append(binary.NativeEndian.AppendUint32(m, 1), 0, 0, 0, 0)
		if err := unix.Sendto(fd, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return -1, err
		}
		if err := nlAnswer(fd); err != nil {
			return -1, err
		}
	}
	ok = true
	return fd, nil
}

// nlAnswer reads the kernel's answer to a request, which is there when the request has been sent.
func nlAnswer(fd int) error {
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(buf[4:]) != unix.NLMSG_ERROR {
		return errors.New("the kernel's answer is none")
	}
	if code := int32(binary.NativeEndian.Uint32(buf[unix.SizeofNlMsghdr:])); code != 0 {
		return unix.Errno(-code)
	}
	return nil
}

func nlAttr(typ uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(unix.SizeofRtAttr+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// hear hears what the kernel tells until the socket is closed.
func (l *refusals) hear(f *os.File, whose func(int, netip.Addr) Refused) {
	buf := make([]byte, 64<<10)
	for {
		n, err := f.Read(buf)
		if errors.Is(err, unix.ENOBUFS) { // some were lost
			continue
		}
		if err != nil {
			return
		}
		for _, p := range parseLog(buf[:n]) {
			r := whose(p.link, p.from)
			r.To, r.Proto, r.Port, r.Last = p.to, p.proto, p.port, p.at
			l.note(r)
		}
	}
}

// logged is one packet.
type logged struct {
	link     int
	from, to netip.Addr
	proto    string
	port     uint16
	at       time.Time // zero where the kernel did not say
}

// parseLog reads messages of the kernel; what it cannot read it leaves out.
func parseLog(b []byte) (packets []logged) {
	const header = unix.SizeofNlMsghdr + 4 // struct nfgenmsg
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return packets
		}
		if binary.NativeEndian.Uint16(b[4:]) == logPacket && size >= header {
			var p logged
			ok := false
			for attrs := b[header:size]; len(attrs) >= unix.SizeofRtAttr; {
				n, typ := int(binary.NativeEndian.Uint16(attrs)), binary.NativeEndian.Uint16(attrs[2:])
				if n < unix.SizeofRtAttr || n > len(attrs) {
					break
				}
				switch data := attrs[unix.SizeofRtAttr:n]; typ & 0x3fff {
				case logLink:
					if len(data) == 4 {
						p.link = int(binary.BigEndian.Uint32(data))
					}
				case logTime:
					if len(data) == 16 { // seconds and microseconds
						sec, usec := binary.BigEndian.Uint64(data), binary.BigEndian.Uint64(data[8:])
						if sec < 1<<40 && usec < 1e6 {
							p.at = time.Unix(int64(sec), int64(usec)*1000)
						}
					}
				case logPayload:
					ok = p.read(data)
				}
				attrs = attrs[min(len(attrs), (n+3)&^3):]
			}
			if ok {
				packets = append(packets, p)
			}
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return packets
}

// read takes from a packet's first bytes who, where to and what.
func (p *logged) read(b []byte) bool {
	if len(b) < 20 {
		return false
	}
	var proto byte
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		size := int(b[0]&15) * 4
		if size < 20 || size > len(b) {
			return false
		}
		p.from, p.to = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		proto, rest = b[9], b[size:]
	case 6:
		if len(b) < 40 {
			return false
		}
		p.from, p.to = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		proto, rest = b[6], b[40:]
	default:
		return false
	}
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		if len(rest) >= 4 {
			p.port = binary.BigEndian.Uint16(rest[2:])
		}
		p.proto = protocol(proto).String()
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		p.proto = "icmp"
	default:
		p.proto = strconv.Itoa(int(proto))
	}
	return true
}
