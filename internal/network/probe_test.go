package network

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestProbeNFTables(t *testing.T) {
	needRoot(t)
	if err := probeNFTables(); err != nil {
		t.Errorf("this kernel has nftables: %v", err)
	}
	failed := make([]byte, unix.SizeofNlMsghdr+4)
	binary.NativeEndian.PutUint32(failed, uint32(len(failed)))
	binary.NativeEndian.PutUint16(failed[4:], unix.NLMSG_ERROR)
	code := -int32(unix.EOPNOTSUPP)
	binary.NativeEndian.PutUint32(failed[unix.SizeofNlMsghdr:], uint32(code))
	for name, c := range map[string]struct {
		answer []byte
		kind   func(error) bool
	}{
		"a kernel without it":        {failed, errdefs.IsNotImplemented},
		"one that is silent":         {nil, errdefs.IsNotImplemented},
		"half an answer":             {failed[:8], func(err error) bool { return err != nil }},
		"an error that is cut short": {failed[:18], func(err error) bool { return err != nil }},
	} {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if c.answer != nil {
			if _, err := unix.Write(pair[1], c.answer); err != nil {
				t.Fatal(err)
			}
		}
		if err := askGeneration(pair[0], 50*time.Millisecond); err == nil || !c.kind(noNFTables(err)) {
			t.Errorf("%s: %v", name, err)
		}
		unix.Close(pair[0])
		unix.Close(pair[1])
	}
}
