package linux

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxFds is how many descriptors one message can carry (SCM_MAX_FD, unix(7)).
const MaxFds = 253

// SendMsg sends p and the files as one message over a unix socket. p must not be empty: a stream carries descriptors
// only beside a byte. The files stay open here. On a stream socket fewer bytes than len(p) may be sent, with all files;
// the rest goes by ordinary writes.
func SendMsg(conn syscall.Conn, p []byte, files ...*os.File) (int, error) {
	if len(p) == 0 || len(files) > MaxFds {
		return 0, fmt.Errorf("send %d bytes with %d files: %w", len(p), len(files), unix.EINVAL)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var sendErr error
	err = raw.Write(func(fd uintptr) bool {
		n, sendErr = unix.SendmsgN(int(fd), p, oob, nil, unix.MSG_NOSIGNAL)
		for sendErr == unix.EINTR {
			n, sendErr = unix.SendmsgN(int(fd), p, oob, nil, unix.MSG_NOSIGNAL)
		}
		return sendErr != unix.EAGAIN
	})
	if err == nil {
		err = os.NewSyscallError("sendmsg", sendErr)
	}
	return n, err
}

// RecvMsg receives one message into p and the files that came with it, closed on exec. At the end of the stream n is 0
// and the error nil. More than maxFiles files, or a message cut short, are an error, and no file stays open.
func RecvMsg(conn syscall.Conn, p []byte, maxFiles int) (n int, files []*os.File, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	oob := make([]byte, unix.CmsgSpace(4*min(maxFiles, MaxFds)))
	var oobn, flags int
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, recvErr = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
		for recvErr == unix.EINTR {
			n, oobn, flags, _, recvErr = unix.Recvmsg(int(fd), p, oob, unix.MSG_CMSG_CLOEXEC)
		}
		return recvErr != unix.EAGAIN
	})
	if err == nil {
		err = os.NewSyscallError("recvmsg", recvErr)
	}
	if err != nil {
		return 0, nil, err
	}
	files, err = filesOf(oob[:oobn])
	if err == nil && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		err = errors.New("received a message that is too large or has too many files")
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return 0, nil, err
	}
	return n, files, nil
}

func filesOf(oob []byte) ([]*os.File, error) {
	var files []*os.File
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("received a malformed control message: %w", err)
	}
	for i := range msgs {
		if msgs[i].Header.Level != unix.SOL_SOCKET || msgs[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return files, fmt.Errorf("received malformed descriptors: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// BlockingPair makes two connected unix sockets that keep messages apart (SOCK_SEQPACKET), closed on exec, for a child and a thread
// that has nothing else to do than to wait for it.
func BlockingPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// SocketPair makes two connected unix sockets, of type SOCK_STREAM or SOCK_SEQPACKET, closed on exec and not blocking,
// so that the runtime's poller waits for them.
func SocketPair(kind int) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// SendFds sends p, which must not be empty, and descriptors over a unix socket that blocks. It changes nothing of what
// the descriptors stand for, also where other programs have them.
func SendFds(socket int, p []byte, fds ...int) error {
	if len(p) == 0 || len(fds) > MaxFds {
		return fmt.Errorf("send %d bytes with %d files: %w", len(p), len(fds), unix.EINVAL)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for {
		n, err := unix.SendmsgN(socket, p, oob, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("sendmsg", err)
		case n < len(p):
			return fmt.Errorf("send a message: %w", unix.EMSGSIZE)
		}
		return nil
	}
}

// RecvFds receives what SendFds sent, closed on exec. At the end of the stream n is 0 and the error nil.
func RecvFds(socket int, p []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFds))
	var oobn, flags int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(socket, p, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, nil, os.NewSyscallError("recvmsg", err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range msgs {
		if got, rightsErr := unix.ParseUnixRights(&msgs[i]); rightsErr == nil {
			fds = append(fds, got...)
		}
	}
	if err == nil && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		err = unix.EMSGSIZE
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return 0, nil, fmt.Errorf("receive a message: %w", err)
	}
	return n, fds, nil
}

// ConnectUnix connects to who listens at a path. One who has stopped to accept is waited for ten seconds, and so is one who does not read
// what is sent.
func ConnectUnix(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(fd), path)
	if err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 10}); err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	switch err {
	case nil:
		return conn, nil
	case unix.EAGAIN:
		err = errors.New("nobody accepts a connection to it")
	case unix.EINVAL:
		err = fmt.Errorf("a socket's path has at most %d bytes: %w", len(unix.RawSockaddrUnix{}.Path)-1, err)
	}
	return nil, errors.Join(err, conn.Close())
}
