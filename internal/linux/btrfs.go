package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Subvolumes of btrfs (kernel: include/uapi/linux/btrfs.h). Their root directory is the only one with inode 256, and a
// snapshot of one is made at once, however much is in it. Quota groups bound their space.

const (
	btrfsSnapDestroy  = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	btrfsInoLookup    = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	btrfsSnapCreate   = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	btrfsSubvolCreate = 0x50009418 // BTRFS_IOC_SUBVOL_CREATE_V2
	btrfsSetFlags     = 0x4008941a // BTRFS_IOC_SUBVOL_SETFLAGS
	btrfsQuotaCtl     = 0xc0109428 // BTRFS_IOC_QUOTA_CTL
	btrfsQgroupCreate = 0x4010942a // BTRFS_IOC_QGROUP_CREATE
	btrfsQgroupLimit  = 0x8030942b // BTRFS_IOC_QGROUP_LIMIT
	btrfsRescanWait   = 0x942e     // BTRFS_IOC_QUOTA_RESCAN_WAIT

	btrfsFirstInode   = 256 // BTRFS_FIRST_FREE_OBJECTID
	btrfsQuotaEnable  = 1   // BTRFS_QUOTA_CTL_ENABLE
	btrfsLimitExclude = 2   // BTRFS_QGROUP_LIMIT_MAX_EXCL
)

// volArgs is struct btrfs_ioctl_vol_args.
type volArgs struct {
	fd   int64
	name [4088]byte
}

// volArgsV2 is struct btrfs_ioctl_vol_args_v2.
type volArgsV2 struct {
	fd             int64
	transid, flags uint64
	_              [4]uint64
	name           [4040]byte
}

// OnBtrfs tells whether a directory lies on btrfs.
func OnBtrfs(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BTRFS_SUPER_MAGIC
}

// IsSubvolume tells whether a directory is the root of a subvolume.
func IsSubvolume(dir string) bool {
	var st unix.Stat_t
	return unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Ino == btrfsFirstInode && OnBtrfs(dir)
}

// NewSubvolume makes an empty subvolume.
func NewSubvolume(path string) error { return newSubvolume(path, btrfsSubvolCreate, 0) }

// Snapshot makes a subvolume that begins as a copy of another one.
func Snapshot(from, path string) error {
	return withDir(from, func(fd int) error { return newSubvolume(path, btrfsSnapCreate, fd) })
}

func newSubvolume(path string, request uintptr, from int) error {
	dir, name := filepath.Split(path)
	args := volArgsV2{fd: int64(from)}
	if len(name) > 255 {
		return &os.PathError{Op: "make subvolume", Path: path, Err: unix.ENAMETOOLONG}
	}
	copy(args.name[:], name)
	if err := withDir(dir, func(fd int) error { return ioctlPtr(fd, request, unsafe.Pointer(&args)) }); err != nil {
		return &os.PathError{Op: "make subvolume", Path: path, Err: err}
	}
	return nil
}

// RemoveSubvolume removes a subvolume with all that is in it, also other subvolumes, which whoever writes into it can make.
// Nobody else may be changing it.
func RemoveSubvolume(path string) error {
	dir, name := filepath.Split(filepath.Clean(path))
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := removeSubvolume(fd, name); err != nil {
		return &os.PathError{Op: "remove subvolume", Path: path, Err: err}
	}
	return nil
}

func removeSubvolume(at int, name string) error {
	args := volArgs{}
	if len(name) > 255 {
		return unix.ENAMETOOLONG
	}
	copy(args.name[:], name)
	err := ioctlPtr(at, btrfsSnapDestroy, unsafe.Pointer(&args))
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(removeSubvolumesIn(fd, 0), unix.Close(fd))
	if err != nil {
		return err
	}
	return ioctlPtr(at, btrfsSnapDestroy, unsafe.Pointer(&args))
}

// removeSubvolumesIn removes the subvolumes below a directory.
func removeSubvolumesIn(fd, depth int) error {
	if depth > 1024 {
		return unix.ELOOP
	}
	var writable uint64
	_ = ioctlPtr(fd, btrfsSetFlags, unsafe.Pointer(&writable)) // nothing goes from a read-only one; no subvolume: no matter
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(dup), "subvolume")
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return err
	}
	for _, n := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if st.Ino == btrfsFirstInode {
			if err := removeSubvolume(fd, n); err != nil {
				return err
			}
			continue
		}
		sub, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(removeSubvolumesIn(sub, depth+1), unix.Close(sub)); err != nil {
			return err
		}
	}
	return nil
}

// SubvolumeID is the number of a subvolume, and of its quota group.
func SubvolumeID(path string) (uint64, error) {
	args := struct {
		tree, object uint64
		_            [4080]byte
	}{object: btrfsFirstInode}
	if err := withDir(path, func(fd int) error { return ioctlPtr(fd, btrfsInoLookup, unsafe.Pointer(&args)) }); err != nil {
		return 0, &os.PathError{Op: "ask for the subvolume of", Path: path, Err: err}
	}
	return args.tree, nil
}

// LimitSubvolume bounds the space that only this subvolume takes, in bytes: what was written into it, without what it
// shares with the one it is a snapshot of. Where the file system counts no such groups, it is made to.
func LimitSubvolume(path string, bytes int64) error {
	limit := struct {
		group, flags, referenced, exclusive, reservedRef, reservedExcl uint64
	}{flags: btrfsLimitExclude, exclusive: uint64(bytes)}
	err := withDir(path, func(fd int) error {
		err := ioctlPtr(fd, btrfsQgroupLimit, unsafe.Pointer(&limit))
		if !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.EINVAL) {
			return err
		}
		enable := struct{ cmd, status uint64 }{cmd: btrfsQuotaEnable}
		if err := ioctlPtr(fd, btrfsQuotaCtl, unsafe.Pointer(&enable)); err != nil {
			return fmt.Errorf("make the file system count quota groups: %w", err)
		}
		if err := ioctlPtr(fd, btrfsRescanWait, nil); err != nil {
			return fmt.Errorf("wait until the file system has counted: %w", err)
		}
		return ioctlPtr(fd, btrfsQgroupLimit, unsafe.Pointer(&limit))
	})
	if err != nil {
		return &os.PathError{Op: "limit subvolume", Path: path, Err: err}
	}
	return nil
}

// DropQuotaGroup forgets the quota group of a subvolume that is gone. at is any directory of the file system.
func DropQuotaGroup(at string, id uint64) error {
	args := struct{ create, group uint64 }{group: id}
	return withDir(at, func(fd int) error { return ioctlPtr(fd, btrfsQgroupCreate, unsafe.Pointer(&args)) })
}

// CloneFile makes an empty file share the data of another one (FICLONE). The error wraps ENOTSUP's kin where the file
// system cannot.
func CloneFile(to, from *os.File) error {
	return os.NewSyscallError("ficlone", unix.IoctlFileClone(int(to.Fd()), int(from.Fd())))
}
