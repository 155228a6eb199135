package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	layers "github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep directories may be nested: each level holds open files.
const maxDepth = 1024

// merged is one directory as layers show it that stand on each other: the directories that have a part in it, the topmost
// first.
type merged struct{ dirs []*os.File }

// mergedEntry is a name in it: layer says which directory has it.
type mergedEntry struct {
	name  string
	layer int
	st    unix.Stat_t
}

func openMerged(dirs []string) (*merged, error) {
	m := &merged{}
	for _, l := range dirs {
		f, err := openDir(unix.AT_FDCWD, l)
		if err != nil {
			return nil, errors.Join(wrap("open", l, err), m.close())
		}
		m.dirs = append(m.dirs, f)
	}
	return m, nil
}

func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (m *merged) close() error {
	var errs []error
	for _, d := range m.dirs {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

// entries lists the names, in order.
func (m *merged) entries() ([]mergedEntry, error) {
	seen := map[string]bool{} // also what is hidden
	var out []mergedEntry
	for i, d := range m.dirs {
		names, err := d.Readdirnames(-1)
		if err != nil {
			return nil, err
		}
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		var hidden []string
		for _, n := range names {
			if h, ok := strings.CutPrefix(n, whiteoutPrefix); ok {
				hidden = append(hidden, h)
				continue
			}
			if seen[n] {
				continue
			}
			seen[n] = true
			e := mergedEntry{name: n, layer: i}
			if err := unix.Fstatat(int(d.Fd()), n, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return nil, wrap("stat", n, err)
			}
			if !isWhiteout(&e.st) {
				out = append(out, e)
			}
		}
		for _, h := range hidden {
			seen[h] = true
		}
	}
	slices.SortFunc(out, func(a, b mergedEntry) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// down opens the directory e of this one.
func (m *merged) down(e mergedEntry) (_ *merged, err error) {
	next := &merged{}
	defer func() {
		if err != nil {
			_ = next.close()
		}
	}()
	for i, d := range m.dirs[e.layer:] {
		f, err := openDir(int(d.Fd()), e.name)
		switch {
		case err == nil:
			next.dirs = append(next.dirs, f)
			if isOpaque(int(f.Fd())) {
				return next, nil
			}
		case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP):
			return next, nil // a file, or what hides the name, ends the directory further up
		case !errors.Is(err, unix.ENOENT) || i == 0:
			return nil, wrap("open", e.name, err)
		}
		if hiddenPlain(int(d.Fd()), e.name) {
			break
		}
	}
	return next, nil
}

// copier makes one tree of layers.
type copier struct {
	ctx   context.Context
	links map[inode]string // hard links: where the first one is, from the top
	top   *os.File
}

type inode struct{ dev, ino uint64 }

// copyMerged fills the empty directory dst with what the layers show, and gives it the attributes of theirs. Data is shared
// where the file system can do that.
func copyMerged(ctx context.Context, lowers []string, dst string) error {
	m, err := openMerged(lowers)
	if err != nil {
		return err
	}
	defer m.close()
	f, err := openDir(unix.AT_FDCWD, dst)
	if err != nil {
		return wrap("open", dst, err)
	}
	defer f.Close()
	c := &copier{ctx: ctx, links: map[inode]string{}, top: f}
	return c.dir(m, f, "", 0)
}

func (c *copier) dir(m *merged, to *os.File, at string, depth int) error {
	if depth > maxDepth {
		return badLayer("%q is nested more than %d directories deep", shorten(at), maxDepth)
	}
	all, err := m.entries()
	if err != nil {
		return err
	}
	for _, e := range all {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		name := path.Join(at, e.name)
		if e.st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err := c.file(m, e, to, name); err != nil {
				return wrap("copy", name, err)
			}
			continue
		}
		sub, err := m.down(e)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(int(to.Fd()), e.name, 0o700)
		var f *os.File
		if err == nil {
			f, err = openDir(int(to.Fd()), e.name)
		}
		if err == nil {
			err = errors.Join(c.dir(sub, f, name, depth+1), f.Close())
		}
		if err := errors.Join(wrap("copy", name, err), sub.close()); err != nil {
			return err
		}
	}
	// Last: what was made in it has changed its time.
	from := m.dirs[0]
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return err
	}
	if err := unix.Fchown(int(to.Fd()), int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(int(from.Fd()), int(to.Fd())); err != nil {
		return err
	}
	if err := unix.Fchmod(int(to.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	return setTime(int(to.Fd()), ".", st.Mtim)
}

// file copies anything but a directory.
func (c *copier) file(m *merged, e mergedEntry, to *os.File, name string) error {
	id := inode{uint64(e.st.Dev), e.st.Ino}
	if e.st.Nlink > 1 {
		if first, ok := c.links[id]; ok {
			return unix.Linkat(int(c.top.Fd()), first, int(to.Fd()), e.name, 0)
		}
		c.links[id] = name
	}
	from, at := int(m.dirs[e.layer].Fd()), int(to.Fd())
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		fd, err := unix.Openat(from, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(copyUp(fd, &e.st, at, e.name), unix.Close(fd))
	case unix.S_IFLNK:
		target, err := readlinkat(from, e.name)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, at, e.name); err != nil {
			return err
		}
	default:
		if err := unix.Mknodat(at, e.name, e.st.Mode, int(e.st.Rdev)); err != nil {
			return err
		}
	}
	if err := unix.Fchownat(at, e.name, int(e.st.Uid), int(e.st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if e.st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(at, e.name, e.st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	attributes, err := xattrsOf(procPath(from, e.name))
	if err != nil {
		return err
	}
	for k, v := range attributes {
		err := unix.Lsetxattr(procPath(at, e.name), k, v, 0)
		if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return setTime(at, e.name, e.st.Mtim)
}

// xattrsOf reads the extended attributes of what path names, without following it and without overlayfs's own.
func xattrsOf(path string) (map[string][]byte, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.Trim(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		v, err := unix.Lgetxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = bytes.Clone(value[:v])
	}
	return out, nil
}

// comparer finds what a tree that began as a copy of layers has become. What has a later change time (ctime, which nobody
// can set) than the copy is looked into; the rest is as it was.
type comparer struct {
	ctx   context.Context
	since unix.Timespec
	out   []layers.Change
	size  int64 // of what was added or modified on the disk, without directories
	seen  map[inode]struct{}
}

// compare lists what is different in the tree from what the layers show. The tree may be changed meanwhile.
func compare(ctx context.Context, tree string, lowers []string, since unix.Timespec) (*comparer, error) {
	m, err := openMerged(lowers)
	if err != nil {
		return nil, err
	}
	defer m.close()
	f, err := openDir(unix.AT_FDCWD, tree)
	if err != nil {
		return nil, wrap("open", tree, err)
	}
	defer f.Close()
	c := &comparer{ctx: ctx, since: since, seen: map[inode]struct{}{}}
	if err := c.dir(f, m, "/", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(c.out, func(a, b layers.Change) int { return strings.Compare(a.Path, b.Path) })
	return c, nil
}

// dir compares a directory; without m all in it is new.
func (c *comparer) dir(dir *os.File, m *merged, at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is nested more than %d directories deep", shorten(at), maxDepth)
	}
	was := map[string]mergedEntry{}
	if m != nil {
		all, err := m.entries()
		if err != nil {
			return err
		}
		for _, e := range all {
			was[e.name] = e
		}
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(int(dir.Fd()), n, &st, unix.AT_SYMLINK_NOFOLLOW); errors.Is(err, unix.ENOENT) {
			continue // it counts as deleted if it was in the image
		} else if err != nil {
			return wrap("stat", path.Join(at, n), err)
		}
		e, there := was[n]
		delete(was, n)
		if err := c.entry(dir, m, e, there, n, &st, path.Join(at, n), depth); err != nil {
			return err
		}
	}
	for n := range was {
		c.out = append(c.out, layers.Change{Path: path.Join(at, n), Kind: layers.Deleted})
	}
	return nil
}

func (c *comparer) entry(dir *os.File, m *merged, e mergedEntry, there bool, n string, st *unix.Stat_t, at string, depth int) (err error) {
	kind, count := layers.Modified, len(c.out)
	if !there {
		kind = layers.Added
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	both := isDir && there && e.st.Mode&unix.S_IFMT == unix.S_IFDIR
	changed := !there
	if there {
		if changed, err = c.changed(dir, m, e, n, st); err != nil {
			return err
		}
	}
	if isDir {
		f, err := openDir(int(dir.Fd()), n)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil // gone while we looked
		}
		if err != nil {
			return wrap("open", at, err)
		}
		defer f.Close()
		var sub *merged
		if both {
			if sub, err = m.down(e); err != nil {
				return err
			}
			defer sub.close()
		}
		if err := c.dir(f, sub, at, depth+1); err != nil {
			return err
		}
		changed = changed || len(c.out) > count
	}
	if !changed {
		return nil
	}
	c.out = append(c.out, layers.Change{Path: at, Kind: kind})
	id := inode{uint64(st.Dev), st.Ino}
	if _, dup := c.seen[id]; !isDir && !dup {
		c.seen[id] = struct{}{}
		c.size += st.Blocks * 512
	}
	return nil
}

// changed compares an entry with what the image has by the name.
func (c *comparer) changed(dir *os.File, m *merged, e mergedEntry, n string, st *unix.Stat_t) (bool, error) {
	was := &e.st
	if st.Mode != was.Mode || st.Uid != was.Uid || st.Gid != was.Gid || st.Mtim != was.Mtim {
		return true, nil
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFREG && st.Size != was.Size || (kind == unix.S_IFCHR || kind == unix.S_IFBLK) && st.Rdev != was.Rdev {
		return true, nil
	}
	if st.Ctim.Sec < c.since.Sec || st.Ctim.Sec == c.since.Sec && st.Ctim.Nsec < c.since.Nsec {
		return false, nil
	}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		return true, nil // a new link to a file of the image takes the file along, so that both are one file again
	}
	now, then := procPath(int(dir.Fd()), n), procPath(int(m.dirs[e.layer].Fd()), n)
	a, err := xattrsOf(now)
	if err != nil {
		return !errors.Is(err, unix.ENOENT), nil
	}
	b, err := xattrsOf(then)
	if err != nil {
		return false, err
	}
	if len(a) != len(b) {
		return true, nil
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || !bytes.Equal(v, w) {
			return true, nil
		}
	}
	switch kind {
	case unix.S_IFLNK:
		a, err := readlinkat(int(dir.Fd()), n)
		if err != nil {
			return true, nil
		}
		b, err := readlinkat(int(m.dirs[e.layer].Fd()), n)
		return a != b, err
	case unix.S_IFREG:
		return c.differ(int(dir.Fd()), int(m.dirs[e.layer].Fd()), n)
	}
	return false, nil
}

// differ compares the content of two regular files of one size.
func (c *comparer) differ(now, then int, n string) (bool, error) {
	var files [2]*os.File
	for i, at := range []int{now, then} {
		fd, err := unix.Openat(at, n, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return true, nil // replaced meanwhile
		}
		files[i] = os.NewFile(uintptr(fd), n)
		defer files[i].Close()
	}
	a, b := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for {
		if err := c.ctx.Err(); err != nil {
			return false, context.Cause(c.ctx)
		}
		n, err := io.ReadFull(files[0], a)
		k, errThen := io.ReadFull(files[1], b)
		if !bytes.Equal(a[:n], b[:k]) {
			return true, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return false, nil
		}
		if err := errors.Join(err, errThen); err != nil {
			return false, err
		}
	}
}

// clone makes dst share the data of src, or copies it; holes stay holes.
func clone(dst, src *os.File, size int64) error {
	if linux.CloneFile(dst, src) == nil {
		return nil
	}
	for at := int64(0); at < size; {
		from, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil {
			from = at // the file system does not tell
		}
		end := size
		if err == nil {
			if end, err = unix.Seek(int(src.Fd()), from, unix.SEEK_HOLE); err != nil {
				return err
			}
		}
		if _, err := src.Seek(from, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(from, io.SeekStart); err != nil {
			return err
		}
		n, err := io.CopyN(dst, src, end-from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		at = from + n
		if n < end-from {
			break
		}
	}
	return dst.Truncate(size)
}
