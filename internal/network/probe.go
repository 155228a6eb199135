package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// probeTime is how long the kernel may take to say whether it has nf_tables; it answers within the call.
const probeTime = 5 * time.Second

// probeNFTables asks the kernel, in the calling thread's network namespace, whether it has nf_tables. Without it a
// transaction gets a single error for all its messages, and the library, which expects one for each, waits for ever.
func probeNFTables() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return noNFTables(err)
	}
	defer unix.Close(fd)
	if err := askGeneration(fd, probeTime); err != nil {
		return noNFTables(err)
	}
	return nil
}

// askGeneration asks on a socket for the number of the current rules, which every kernel with nf_tables tells.
func askGeneration(fd int, wait time.Duration) error {
	const header = unix.SizeofNlMsghdr + 4 // struct nfgenmsg
	q := make([]byte, header)
	binary.NativeEndian.PutUint32(q, header)
	binary.NativeEndian.PutUint16(q[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(q[6:], unix.NLM_F_REQUEST)
	limit := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Send(fd, q, 0); err != nil {
		return err
	}
	b := make([]byte, 4096)
	for {
		n, _, err := unix.Recvfrom(fd, b, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return fmt.Errorf("the kernel does not answer a question about nftables: %w", unix.EOPNOTSUPP)
		case err != nil:
			return err
		case n < unix.SizeofNlMsghdr:
			return errors.New("the kernel's answer to a question about nftables is cut short")
		}
		if binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
			return nil
		}
		if n < unix.SizeofNlMsghdr+4 {
			return errors.New("the kernel's answer to a question about nftables is cut short")
		}
		if code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); code < 0 {
			return unix.Errno(-code)
		}
		return nil
	}
}
