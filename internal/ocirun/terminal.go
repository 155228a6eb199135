package ocirun

import (
	"errors"
	"fmt"
	"os"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// terminal opens a terminal of the container's own devpts, and puts its other end at /dev/console.
func (s *setup) terminal() error {
	if s.ptsMount == nil {
		return fmt.Errorf("the container has no devpts mount: %w", errdefs.ErrInvalidArgument)
	}
	fd, err := unix.Openat(int(s.ptsMount.Fd()), "ptmx", ptmxFlags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return os.NewSyscallError("open ptmx", err)
	}
	s.master = os.NewFile(uintptr(fd), "ptmx")
	slave, err := openPeer(s.master, s.o.Rows, s.o.Cols)
	if err != nil {
		return err
	}
	s.slaveFile = s.keep(slave)
	s.exec.stdio = [3]*os.File{slave, slave, slave}
	s.exec.ownStdio()
	// The slave is on the devpts that is mounted in the container now, so its mount can be copied.
	tree, err := linux.OpenTree(int(slave.Fd()), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer tree.Close()
	target, err := s.root.Create("/dev/console", 0o600, s.exec.ids.uid(0), s.exec.ids.gid(0))
	if err != nil {
		return err
	}
	defer target.Close()
	return linux.MoveMount(tree, target)
}

// Not blocking, so that the poller can wait for the master; the slave has flags of its own.
const ptmxFlags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NONBLOCK

// openPeer gives the other end of a master, with the given size.
func openPeer(master *os.File, rows, cols uint16) (*os.File, error) {
	slave, err := linux.TerminalPeer(master)
	if err != nil {
		return nil, err
	}
	if rows > 0 || cols > 0 {
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			return nil, errors.Join(os.NewSyscallError("set the window size", err), slave.Close())
		}
	}
	return slave, nil
}

// containerPtmx opens a new master of a running container's devpts. The container may have put anything at /dev/pts: what
// is found is looked at before it is opened, since opening a device can have effects.
func containerPtmx(root *confine.Root, hostProc *os.File) (*os.File, error) {
	place, err := root.OpenFile("/dev/pts/ptmx", unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(place.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(int(place.Fd()), &sfs); err != nil {
		return nil, os.NewSyscallError("fstatfs", err)
	}
	if sfs.Type != unix.DEVPTS_SUPER_MAGIC || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		return nil, fmt.Errorf("/dev/pts/ptmx is not the ptmx of a devpts: %w", errdefs.ErrFailedPrecondition)
	}
	fd, err := unix.Openat(int(hostProc.Fd()), fmt.Sprintf("self/fd/%d", place.Fd()), ptmxFlags, 0)
	if err != nil {
		return nil, os.NewSyscallError("open ptmx", err)
	}
	return os.NewFile(uintptr(fd), "ptmx"), nil
}
