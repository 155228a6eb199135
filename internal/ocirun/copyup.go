package ocirun

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// copyUp fills a tmpfs that stands nowhere yet with what the container has at the place it will cover (mount option
// "tmpcopyup"). Both trees are walked by descriptors, and no link is followed.
func (s *setup) copyUp(dest string, tree *os.File) error {
	src, err := s.root.OpenFile(dest, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	if err := copyEntries(src, tree, 0); err != nil {
		return fmt.Errorf("copy what it covers: %w", err)
	}
	return nil
}

func copyEntries(from, to *os.File, depth int) error {
	const deepest = 256
	if depth > deepest {
		return unix.ELOOP
	}
	for {
		names, err := from.Readdirnames(256)
		for _, name := range names {
			if err := copyEntry(from, to, name, depth); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func copyEntry(from, to *os.File, name string, depth int) error {
	src, dst := int(from.Fd()), int(to.Fd())
	var st unix.Stat_t
	if err := unix.Fstatat(src, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	kind := st.Mode & unix.S_IFMT
	switch kind {
	case unix.S_IFDIR:
		err = copyDir(src, dst, name, depth)
	case unix.S_IFREG:
		err = copyFile(src, dst, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(src, name, buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), dst, name)
		}
	default:
		err = unix.Mknodat(dst, name, st.Mode, int(st.Rdev))
	}
	if err == nil {
		err = unix.Fchownat(dst, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == nil && kind != unix.S_IFLNK { // after the owner, whose change takes set-id bits away
		err = unix.Fchmodat(dst, name, st.Mode&0o7777, 0)
	}
	if err == nil {
		err = unix.UtimesNanoAt(dst, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	}
	return err
}

func openIn(dir int, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func copyDir(src, dst int, name string, depth int) error {
	if err := unix.Mkdirat(dst, name, 0o700); err != nil {
		return err
	}
	from, err := openIn(src, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openIn(dst, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer to.Close()
	return copyEntries(from, to, depth+1)
}

func copyFile(src, dst int, name string) error {
	from, err := openIn(src, name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := openIn(dst, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// remount changes the attributes of a mount that is in place already.
func (s *setup) remount(m *mount) error {
	if len(m.data) > 0 {
		return missingFeature(fmt.Sprintf("to remount with options of the file system (%q)", m.Options))
	}
	if err := s.finishTmpfs(m.dest); err != nil { // over which this has the last word
		return err
	}
	target, err := s.root.OpenPath(m.dest)
	if err != nil {
		return err
	}
	defer target.Close()
	for _, a := range []struct {
		unix.MountAttr
		recursive bool
	}{{unix.MountAttr{Attr_set: m.set, Attr_clr: m.clr}, false}, {unix.MountAttr{Attr_set: m.rset, Attr_clr: m.rclr}, true}} {
		if a.Attr_set|a.Attr_clr == 0 {
			continue
		}
		if err := linux.MountSetattr(target, &a.MountAttr, a.recursive); err != nil {
			return fmt.Errorf("options %q: %w", m.Options, err)
		}
	}
	for _, p := range m.propagation {
		if err := linux.MountSetattr(target, &unix.MountAttr{Propagation: p.flag}, p.recursive); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	return nil
}
