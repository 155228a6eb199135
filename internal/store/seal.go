package store

import (
	"context"
	"errors"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// seal takes over from the layers below, the topmost first, what the archive left open, and sets the times of
// directories, which any change in them would have changed again.
func (a *applier) seal(ctx context.Context, lowers []string) error {
	below := &below{dirs: lowers}
	defer below.close()
	for _, l := range a.links {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.linkBelow(below, l); err != nil {
			return err
		}
	}
	implied := make([]string, 0, len(a.implied))
	for dir := range a.implied {
		implied = append(implied, dir)
	}
	slices.Sort(implied)
	for _, dir := range implied {
		fd, st, err := below.find(dir)
		if err != nil {
			return err
		}
		if fd < 0 {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = a.inherit(dir, fd, st)
		}
		_ = unix.Close(fd)
		if err != nil {
			return wrap("take over the attributes of", dir, err)
		}
	}
	for _, d := range a.dirs {
		// The path may lead somewhere else by now, or nowhere, if a later entry replaced the directory.
		fd, err := openIn(int(a.root.Fd()), d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue
		}
		if err != nil {
			return wrap("open directory", d.path, err)
		}
		if err = setTime(fd, ".", d.time); err == nil {
			err = wrap("stat", d.path, a.used.addDirectory(fd))
		}
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return a.used.addDirectory(int(a.root.Fd())) // which the archive may not name
}

// inherit gives a directory of this layer the attributes of the one below it.
func (a *applier) inherit(dir string, from int, st *unix.Stat_t) error {
	fd, err := openIn(int(a.root.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil // a later entry took its place
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, fd); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return err
	}
	a.dirs = append(a.dirs, dirTime{dir, st.Mtim})
	return nil
}

// linkBelow makes a hard link to a file of a layer below: the file is copied up first, as overlayfs would do it.
func (a *applier) linkBelow(below *below, l pendingLink) error {
	at, err := a.parent(path.Dir(l.path), 0)
	if err != nil {
		return err
	}
	// An earlier link of this kind may have brought the file.
	if err := a.linkTo(at, path.Base(l.path), l.target); err == nil || !errors.Is(err, unix.ENOENT) {
		return err
	}
	from, st, err := below.find(l.target)
	if err != nil {
		return err
	}
	if from < 0 {
		return badLayer("%q is a hard link to %q, which does not exist", l.path, l.target)
	}
	defer unix.Close(from)
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return badLayer("%q is a hard link to %q of a layer below, which is no regular file", l.path, l.target)
	}
	a.used.walk = true
	up, err := a.parent(path.Dir(l.target), 0)
	if err != nil {
		return err
	}
	if err := copyUp(from, st, up, path.Base(l.target)); err != nil {
		return wrap("copy up", l.target, err)
	}
	if at, err = a.parent(path.Dir(l.path), 0); err != nil {
		return err
	}
	return a.linkTo(at, path.Base(l.path), l.target)
}

// copyUp copies a regular file with everything it has. It must not exist.
func copyUp(from int, st *unix.Stat_t, at int, base string) error {
	src, err := os.Open(magicLink(from))
	if err != nil {
		return err
	}
	defer src.Close()
	fd, err := unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(fd), base)
	err = clone(dst, src, st.Size)
	if err == nil {
		err = unix.Fchown(fd, int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = copyXattrs(int(src.Fd()), fd)
	}
	if err == nil {
		err = unix.Fchmod(fd, st.Mode&0o7777)
	}
	if err := errors.Join(err, dst.Close()); err != nil {
		return err
	}
	return setTime(at, base, st.Mtim)
}

// copyXattrs copies extended attributes between open files; from may be an O_PATH descriptor.
func copyXattrs(from, to int) error {
	src := magicLink(from)
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(src, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.Trim(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		v, err := unix.Getxattr(src, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, value[:v], 0)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}

// below is the stack of layers under one, seen as overlayfs merges them.
type below struct {
	dirs []string
	fds  []int
}

func (b *below) close() {
	for _, fd := range b.fds {
		_ = unix.Close(fd)
	}
}

// find opens (O_PATH) what the merged layers have at a cleaned path, without following links. The descriptor is -1 if
// there is nothing.
func (b *below) find(name string) (int, *unix.Stat_t, error) {
	for i, dir := range b.dirs {
		if i == len(b.fds) {
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, nil, wrap("open", dir, err)
			}
			b.fds = append(b.fds, fd)
		}
		fd, st, last, err := lookup(b.fds[i], name)
		if err != nil {
			return -1, nil, wrap("look below for", name, err)
		}
		if fd >= 0 || last {
			return fd, st, nil
		}
	}
	return -1, nil, nil
}

// lookup goes down a path in one layer. Last says that the layers further down are hidden at this path.
func lookup(root int, name string) (_ int, _ *unix.Stat_t, last bool, err error) {
	fd := root
	drop := func() {
		if fd != root {
			_ = unix.Close(fd)
		}
	}
	if name == ownDirectory {
		name = ""
	}
	var st unix.Stat_t
	for part := range strings.SplitSeq(name, "/") {
		flags := unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
		if part == "" {
			part = "."
		}
		if part != "." && hiddenPlain(fd, part) {
			last = true // in this directory the name may stand beside it
		}
		next, err := unix.Openat(fd, part, flags, 0)
		drop()
		fd = root
		if errors.Is(err, unix.ENOENT) {
			return -1, nil, last, nil
		}
		if errors.Is(err, unix.ENOTDIR) {
			return -1, nil, true, nil
		}
		if err != nil {
			return -1, nil, false, err
		}
		fd = next
		if err := unix.Fstat(fd, &st); err != nil {
			drop()
			return -1, nil, false, err
		}
		if isWhiteout(&st) {
			drop()
			return -1, nil, true, nil
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			last = last || isOpaque(fd)
		}
	}
	return fd, &st, last, nil
}
