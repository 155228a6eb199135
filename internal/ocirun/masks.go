package ocirun

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// masks are what paths are hidden by. Whether one is a file or a directory is known beforehand where it lies in /proc or /sys: the
// host has the same.
type masks struct {
	nulls []*os.File // copies of the null device's mount, one for each file that may need one
	dir   *os.File   // an empty directory, read-only; further ones are copies of it once it is mounted
}

// masksFromHost prepares the masks that need the host's view.
func (s *setup) masksFromHost() error {
	files := 0
	for _, p := range s.lin.MaskedPaths {
		var st unix.Stat_t
		switch {
		case s.inProc(p):
			err := unix.Fstatat(int(s.hostProc.Fd()), path.Clean(p)[len("/proc/"):], &st, unix.AT_SYMLINK_NOFOLLOW)
			if err != nil { // this kernel does not have it
				continue
			}
		case below(path.Clean(p), "/sys"):
			if err := unix.Lstat(p, &st); err != nil && s.sysfs() {
				continue
			}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			files++
		}
	}
	for range files {
		tree, err := nullMount()
		if err != nil {
			return err
		}
		s.masks.nulls = append(s.masks.nulls, s.keep(tree))
	}
	return nil
}

// nullMount copies the mount of the host's null device.
func nullMount() (*os.File, error) {
	f, err := linux.OpenTree(unix.AT_FDCWD, "/dev/null", unix.OPEN_TREE_CLONE)
	if err != nil {
		return nil, err
	}
	err = nullDevice(f)
	if err == nil {
		const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
		err = linux.MountSetattr(f, &unix.MountAttr{Attr_set: attrs, Propagation: unix.MS_PRIVATE}, false)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("/dev/null: %w", err)
	}
	return f, nil
}

// sysfs says whether what is below the container's /sys is what is below the host's. A mask that is made for nothing costs most of what
// a start may: the kernel waits for all processors when it goes.
func (s *setup) sysfs() bool {
	return slices.ContainsFunc(s.mounts, func(m mount) bool { return m.dest == "/sys" && m.Type == "sysfs" && m.kind == kindInside })
}

func (s *setup) inProc(p string) bool {
	p = path.Clean(p)
	return s.proc && p != "/proc" && below(p, "/proc")
}

// masksInContainer applies the masks.
func (s *setup) masksInContainer() error {
	for _, p := range s.lin.ReadonlyPaths {
		if err := s.onOwnPath(p, s.readOnly); err != nil {
			return fmt.Errorf("read-only path %q: %w", p, err)
		}
	}
	for _, p := range s.lin.MaskedPaths {
		if err := s.onOwnPath(p, s.mask); err != nil {
			return fmt.Errorf("masked path %q: %w", p, err)
		}
	}
	return nil
}

// onOwnPath calls fn with p, or with the path of the container's first process where p is about "self": this process is not in there.
func (s *setup) onOwnPath(p string, fn func(string) error) error {
	for _, self := range [...]string{"/proc/self", "/proc/thread-self"} {
		if p = path.Clean(p); !s.proc || !below(p, self) {
			continue
		}
		if !s.exec.freshPid {
			return missingFeature("it would be another's, without a new pid namespace")
		}
		p = "/proc/1" + p[len(self):]
	}
	return fn(p)
}

func (s *setup) mask(p string) error {
	target, err := s.root.OpenPath(p)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	fi, err := target.Stat()
	if err != nil {
		return err
	}
	var tree *os.File
	if fi.IsDir() {
		if tree, err = s.emptyDir(); err != nil {
			return err
		}
	} else if len(s.masks.nulls) > 0 {
		tree, s.masks.nulls = s.masks.nulls[0], s.masks.nulls[1:]
	} else {
		return fmt.Errorf("a directory of the host and a file in the container: %w", unix.ENOTDIR)
	}
	return linux.MoveMount(tree, target)
}

// emptyDir is a mount of an empty directory that nobody can write to.
func (s *setup) emptyDir() (*os.File, error) {
	if s.masks.dir != nil {
		// A copy is ten times cheaper than a file system; older kernels copy only what is mounted somewhere.
		f, err := linux.OpenTree(int(s.masks.dir.Fd()), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
		if err == nil {
			return s.keep(f), nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return nil, err
		}
	}
	const attrs = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	f, err := linux.NewMount("tmpfs", "tmpfs", attrs, linux.FsOption{Key: "mode", Value: "555"},
		linux.FsOption{Key: "size", Value: "4k"})
	if err != nil {
		return nil, err
	}
	s.masks.dir = s.keep(f)
	return f, nil
}

// readOnly puts a read-only copy of what is mounted at p over it.
func (s *setup) readOnly(p string) error {
	target, err := s.root.OpenPath(p)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	tree, err := linux.OpenTree(int(target.Fd()), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := linux.MountSetattr(tree, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, true); err != nil {
		return err
	}
	return linux.MoveMount(tree, target)
}

// missing says that there is nothing to hide.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }
