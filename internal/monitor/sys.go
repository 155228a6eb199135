package monitor

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The process side works on bare descriptors: an os.File costs memory, and its poller would be a second loop beside
// ours.

// read is read(2) without EINTR.
func read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func write(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Write(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// send writes to a socket without waiting. The descriptor's own mode does not matter: somebody else may share it.
func send(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// recv reads from a socket without waiting.
func recv(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))),
			uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// recvMessage takes one message with its descriptors from a SOCK_SEQPACKET socket. n is 0 at the end.
func recvMessage(fd int, p, oob []byte, flags int) (n int, fds []int, err error) {
	var oobn, got int
	for {
		n, oobn, got, _, err = unix.Recvmsg(fd, p, oob, unix.MSG_CMSG_CLOEXEC|flags)
		if err == unix.EINTR {
			continue
		}
		// A peer that closed with messages of ours unread leaves an error before the messages that it had sent.
		if err == unix.ECONNRESET {
			flags |= unix.MSG_DONTWAIT
			if n, oobn, got, _, err = unix.Recvmsg(fd, p, oob, unix.MSG_CMSG_CLOEXEC|flags); err != nil {
				return 0, nil, nil
			}
		}
		break
	}
	if err != nil {
		return 0, nil, err
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return 0, nil, err
		}
		for i := range msgs {
			if some, err := unix.ParseUnixRights(&msgs[i]); err == nil {
				fds = append(fds, some...)
			}
		}
	}
	if got&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(fds)
		return 0, nil, errMessage
	}
	return n, fds, nil
}

func ptr(b *byte) uintptr { return uintptr(unsafe.Pointer(b)) }

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// take makes a bare descriptor of a file, which is closed.
func take(f *os.File) (int, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	f.Close()
	return fd, err
}

// borrow makes a file of a bare descriptor; closing one closes the other.
func borrow(fd int, name string) *os.File { return os.NewFile(uintptr(fd), name) }

// isStream reports whether fd is a stream socket.
func isStream(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && kind == unix.SOCK_STREAM
}

// pipe makes a pipe of which our end does not block; the container's has a mode of its own.
func pipe(oursReads bool) (ours, theirs int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return -1, -1, os.NewSyscallError("pipe2", err)
	}
	ours, theirs = fds[0], fds[1]
	if !oursReads {
		ours, theirs = theirs, ours
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		closeAll(fds[:])
		return -1, -1, os.NewSyscallError("fcntl", err)
	}
	return ours, theirs, nil
}

// scratch is memory that is needed only while something is being done. It is not from Go's heap, so that it can be
// given back when nothing is.
type scratch struct {
	all   []byte
	msg   []byte // a message
	read  []byte // what was read, with room for a frame's header before it
	log   []byte
	dirty bool
}

const (
	frameHeader = 8
	readSize    = 64 << 10
)

func newScratch(logBuffer int) (*scratch, error) {
	sizes := [...]int{maxMessage, frameHeader + readSize, logBuffer}
	total := 0
	for _, n := range sizes {
		total += pageUp(n)
	}
	all, err := unix.Mmap(-1, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	// A huge page for a few bytes would be the largest thing in this process. Kernels without them do not know the
	// advice.
	_ = unix.Madvise(all, unix.MADV_NOHUGEPAGE)
	s := &scratch{all: all}
	for i, to := range []*[]byte{&s.msg, &s.read, &s.log} {
		n := pageUp(sizes[i])
		*to, all = all[:sizes[i]:sizes[i]], all[n:]
	}
	return s, nil
}

func pageUp(n int) int {
	page := os.Getpagesize()
	return (n + page - 1) / page * page
}

// release gives the memory back. Its content is lost.
func (s *scratch) release() {
	s.dirty = false
	_ = unix.Madvise(s.all, unix.MADV_DONTNEED)
}
