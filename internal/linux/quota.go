package linux

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Project quotas (quotactl(2), ioctl_xfs_fsgetxattr(2)) bound the space of directory trees: what is made in a directory
// of a project belongs to it too, and what belongs to it counts together. ext4 and XFS have them when they are mounted
// with "prjquota".

const (
	fsGetXattr      = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr      = 0x401c5820 // FS_IOC_FSSETXATTR
	projectInherits = 0x200      // FS_XFLAG_PROJINHERIT

	prjQuota    = 2
	qGetInfo    = 0x800005<<8 | prjQuota
	qSetQuota   = 0x800008<<8 | prjQuota
	blockLimits = 1    // QIF_BLIMITS
	quotaBlock  = 1024 // bytes, whatever the file system's blocks are
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, project, cowextsize uint32
	_                                              [8]byte
}

// dqblk is struct if_dqblk of linux/quota.h.
type dqblk struct {
	hardBlocks, softBlocks, space, hardInodes, softInodes, inodes, blockTime, inodeTime uint64

	valid uint32
}

// dqinfo is struct if_dqinfo of linux/quota.h.
type dqinfo struct {
	blockGrace, inodeGrace uint64
	flags, valid           uint32
}

// Project is the project of a directory; 0 is none.
func Project(dir string) (uint32, error) {
	var a fsxattr
	err := withDir(dir, func(fd int) error { return ioctlPtr(fd, fsGetXattr, unsafe.Pointer(&a)) })
	if err != nil {
		return 0, &os.PathError{Op: "ask for the project of", Path: dir, Err: err}
	}
	return a.project, nil
}

// SetProject puts a directory into a project, with all that is made in it from now on.
func SetProject(dir string, id uint32) error {
	err := withDir(dir, func(fd int) error {
		var a fsxattr
		if err := ioctlPtr(fd, fsGetXattr, unsafe.Pointer(&a)); err != nil {
			return err
		}
		a.project = id
		a.xflags |= projectInherits
		return ioctlPtr(fd, fsSetXattr, unsafe.Pointer(&a))
	})
	if err != nil {
		return &os.PathError{Op: "set the project of", Path: dir, Err: err}
	}
	return nil
}

// SetProjectLimit bounds the space that a project takes on the file system of dir, in bytes; 0 ends that. It needs Linux
// 5.14. The error is NoProjectQuotas' where there are none.
func SetProjectLimit(dir string, id uint32, bytes int64) error {
	q := dqblk{hardBlocks: uint64((bytes + quotaBlock - 1) / quotaBlock), valid: blockLimits}
	if err := quotactl(dir, qSetQuota, id, unsafe.Pointer(&q)); err != nil {
		return &os.PathError{Op: "limit a project below", Path: dir, Err: err}
	}
	return nil
}

// ProjectQuotas tells whether the file system of dir counts the space of projects; nil says yes.
func ProjectQuotas(dir string) error {
	var i dqinfo
	if err := quotactl(dir, qGetInfo, 0, unsafe.Pointer(&i)); err != nil {
		return &os.PathError{Op: "ask for the project quotas of", Path: dir, Err: err}
	}
	return nil
}

// NoProjectQuotas tells whether an error says that the file system, or the kernel, has no project quotas.
func NoProjectQuotas(err error) bool {
	for _, e := range []error{unix.ENOSYS, unix.ESRCH, unix.ENOTSUP, unix.ENOTTY, unix.EINVAL, unix.ENODEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func quotactl(dir string, cmd uintptr, id uint32, arg unsafe.Pointer) error {
	return withDir(dir, func(fd int) error {
		_, _, e := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), cmd, uintptr(id), uintptr(arg), 0, 0)
		if e != 0 {
			return e
		}
		return nil
	})
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

func withDir(dir string, f func(fd int) error) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(f(fd), unix.Close(fd))
}

// WithoutCapability runs fn on a thread that lacks a capability, for instance to make a mount: an overlay file system
// writes to its layers with the capabilities of whoever made it.
func WithoutCapability(capability uint, fn func() error) error {
	return OnThread(func() error {
		h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var d [2]unix.CapUserData
		if err := unix.Capget(&h, &d[0]); err != nil {
			return os.NewSyscallError("capget", err)
		}
		d[capability/32].Effective &^= 1 << (capability % 32)
		if err := unix.Capset(&h, &d[0]); err != nil {
			return os.NewSyscallError("capset", err)
		}
		return fn()
	})
}
