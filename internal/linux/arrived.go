package linux

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ArrivedBy is the index of the link by which the first packet of a TCP connection over IPv6 came that was accepted; 0 where the
// kernel does not say. It does so in the control messages of the connection (RFC 2292, section 4.1), if the socket wants to know.
func ArrivedBy(fd int) int {
	if unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1) != nil {
		return 0
	}
	defer func() { // or the kernel would keep one of each packet's
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 0)
	}()
	var buf [128]byte
	size := uint32(len(buf))
	for {
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_IPV6, unix.IPV6_2292PKTOPTIONS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0
		}
		break
	}
	for oob := buf[:min(int(size), len(buf))]; len(oob) > 0; {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0
		}
		if h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo {
			return int(binary.NativeEndian.Uint32(data[16:20]))
		}
		oob = rest
	}
	return 0
}

// LinkName is the name of the link with an index in the network namespace that a socket is of.
func LinkName(socket, index int) (string, error) {
	r, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	r.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFNAME, r); err != nil {
		return "", err
	}
	return r.Name(), nil
}
