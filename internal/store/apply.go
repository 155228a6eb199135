package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

const (
	// maxEntries bounds how many entries a layer may have, the directories it only passes through among them; the largest
	// real ones have some hundred thousand.
	maxEntries = 1 << 23

	// maxSymlinks is how many symbolic links the kernel follows in one path.
	maxSymlinks = 40

	// maxParents is how many directories an applier keeps open.
	maxParents = 32

	// maxSize bounds the size of a layer's files, all together. Sparse ones of a few bytes, or zeros that were compressed,
	// may claim to be as large as they like, take no room on the disk that could end, and are read through.
	maxSize = 1 << 40

	// maxValue is the kernel's bound on an extended attribute.
	maxValue = 64 << 10

	copyBuffer = 128 << 10

	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	opaqueXattr  = "trusted.overlay.opaque"
	paxXattr     = "SCHILY.xattr."
	paxSparse    = "GNU.sparse."
	ownDirectory = "."
)

// blockSize is the unit in which file systems make holes; longRun is how many zeros are worth one in a file that the
// archive does not mark as sparse.
const (
	blockSize = 4 << 10
	longRun   = 64 << 10
)

// zeros is what a hole reads as.
var zeros [longRun]byte

// applier unpacks one layer into one directory that nobody else touches meanwhile. Directories are found through
// openat2 with RESOLVE_IN_ROOT, everything else is done to a last name relative to an open directory and without
// following it.
//
// The directory starts empty, so whatever is met there came out of the same archive.
type applier struct {
	root   *os.File
	plain  bool // names are hidden in the plain form, see Store.probePlain
	bottom bool

	parents map[string]int // open directories by cleaned path
	buf     []byte
	entries int
	size    int64
	used    used

	dirs    []dirTime
	implied map[string]struct{} // directories the archive passes through without an entry of their own
	links   []pendingLink       // hard links to files of layers below
}

type dirTime struct {
	path string
	time unix.Timespec
}

type pendingLink struct{ path, target string }

func newApplier(root *os.File, plain bool) *applier {
	return &applier{root: root, plain: plain, parents: map[string]int{}, implied: map[string]struct{}{ownDirectory: {}},
		used: used{directories: 1, inodes: map[uint64]struct{}{}}}
}

func (a *applier) close() error {
	a.forget()
	return a.root.Close()
}

// forget closes the open directories; needed whenever a name may have come to mean something else.
func (a *applier) forget() {
	for _, fd := range a.parents {
		_ = unix.Close(fd)
	}
	clear(a.parents)
}

func (a *applier) apply(ctx context.Context, r io.Reader, bottom bool) error {
	a.bottom = bottom
	a.buf = make([]byte, copyBuffer)
	defer func() { a.buf = nil }()
	src := &source{r: r}
	tr := tar.NewReader(src)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && src.err != nil {
			return fmt.Errorf("read the layer: %w", src.err)
		}
		if err != nil {
			return badLayer("it is not a whole tar archive: %w", err)
		}
		if err := a.count(); err != nil {
			return err
		}
		if err := a.entry(ctx, h, tr); err != nil {
			var own *layerError
			if errors.As(err, &own) {
				return err
			}
			if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENAMETOOLONG) || errors.Is(err, unix.EINVAL) {
				return badLayer("unpack %q: %w", shorten(h.Name), err)
			}
			return fmt.Errorf("unpack %q: %w", shorten(h.Name), err)
		}
	}
}

// source remembers the error that its reader ended with, to tell it from one in the archive.
type source struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// used is what a layer takes of the disk, counted while it is made: to walk through it afterwards costs as much as a good part of
// the making.
type used struct {
	snapshots.Usage
	directories int64               // that were made
	inodes      map[uint64]struct{} // of directories that are counted
	walk        bool                // something happened after which only a walk tells
}

func (u *used) add(st *unix.Stat_t) {
	u.Inodes++
	u.Size += st.Blocks * 512
}

func (u *used) addDirectory(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if _, counted := u.inodes[st.Ino]; !counted {
		u.inodes[st.Ino] = struct{}{}
		u.add(&st)
	}
	return nil
}

// usage is what a sealed layer takes of the disk.
func (a *applier) usage(ctx context.Context) (snapshots.Usage, error) {
	if !a.used.walk && int64(len(a.used.inodes)) == a.used.directories {
		return a.used.Usage, nil
	}
	u, err := fs.DiskUsage(ctx, a.root.Name())
	return snapshots.Usage(u), err
}

// count bounds what a layer may make.
func (a *applier) count() error {
	if a.entries >= maxEntries {
		return badLayer("it has more than %d entries", maxEntries)
	}
	a.entries++
	return nil
}

// shorten makes a name of the archive fit into a message.
func shorten(name string) string {
	if len(name) > 200 {
		return name[:100] + "…" + name[len(name)-50:]
	}
	return name
}

// inside cleans a name of the archive to a path relative to the layer's root.
func inside(name string) (string, error) {
	name = path.Clean(strings.TrimLeft(name, "/"))
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", badLayer("%q is outside of its root", name)
	}
	return name, nil
}

func (a *applier) entry(ctx context.Context, h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Uid >= math.MaxUint32 || h.Gid < 0 || h.Gid >= math.MaxUint32 {
		return badLayer("%q has the owner %d:%d", name, h.Uid, h.Gid)
	}
	if name == ownDirectory {
		if h.Typeflag != tar.TypeDir {
			return badLayer("its root is not a directory")
		}
		delete(a.implied, name)
		a.dirs = append(a.dirs, dirTime{name, timeOf(h)})
		return a.attributes(int(a.root.Fd()), ".", h)
	}
	dir, base := path.Split(name)
	dir = path.Clean(dir)
	at, err := a.parent(dir, 0)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteout(at, base)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := a.mkdir(at, base); err != nil {
			return err
		}
		delete(a.implied, name)
		a.dirs = append(a.dirs, dirTime{name, timeOf(h)})
		return a.attributes(at, base, h)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return a.file(ctx, at, base, h, body)
	case tar.TypeLink:
		return a.link(at, name, h.Linkname)
	case tar.TypeSymlink:
		if err := a.create(at, base, func() error { return unix.Symlinkat(h.Linkname, at, base) }); err != nil {
			return err
		}
		return a.finish(at, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		mode := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK,
			tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > math.MaxUint32 || h.Devminor > math.MaxUint32 {
			return badLayer("%q is the device %d:%d", name, h.Devmajor, h.Devminor)
		}
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := a.create(at, base, func() error { return unix.Mknodat(at, base, mode|0o600, int(dev)) }); err != nil {
			return err
		}
		return a.finish(at, base, h)
	}
	return badLayer("%q has the unknown type %q", name, h.Typeflag)
}

// parent opens the directory at a cleaned path, and makes what is missing of it.
func (a *applier) parent(dir string, depth int) (int, error) {
	if dir == ownDirectory {
		return int(a.root.Fd()), nil
	}
	if fd, ok := a.parents[dir]; ok {
		return fd, nil
	}
	fd, err := openIn(int(a.root.Fd()), dir, unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if err := a.imply(dir, depth); err != nil {
			return -1, err
		}
		fd, err = openIn(int(a.root.Fd()), dir, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return -1, &os.PathError{Op: "open directory", Path: dir, Err: err}
	}
	if len(a.parents) >= maxParents {
		a.forget()
	}
	a.parents[dir] = fd
	return fd, nil
}

// imply makes a directory for which no entry has come yet, and where a symbolic link leads into the void, what it
// means.
func (a *applier) imply(dir string, depth int) error {
	if depth > 2*maxSymlinks+strings.Count(dir, "/") {
		return badLayer("%q has too many symbolic links in its path", dir)
	}
	up, base := path.Split(dir)
	up = path.Clean(up)
	at, err := a.parent(up, depth)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT) && a.plain && hiddenPlain(at, base):
		return a.mkdir(at, base)
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	case isWhiteout(&st):
		// The layer removes what was there and makes a new directory in its place.
		return a.mkdir(at, base)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return nil
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		target, err := readlinkat(at, base)
		if err != nil {
			return err
		}
		if !path.IsAbs(target) {
			target = "/" + up + "/" + target
		}
		// As in a chroot, ".." ends at the root. Where the path has further links on its way, this
		// is not what the kernel finds, and opening it afterwards fails: an error, never an escape.
		if target = strings.TrimPrefix(path.Clean(target), "/"); target == "" {
			return nil
		}
		_, err = a.parent(target, depth+2)
		return err
	default:
		return badLayer("%q is used as a directory and is none", dir)
	}
	if err := a.count(); err != nil {
		return err
	}
	if err := unix.Mkdirat(at, base, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir, Err: err}
	}
	if err := unix.Fchmodat(at, base, 0o755, 0); err != nil {
		return &os.PathError{Op: "chmod", Path: dir, Err: err}
	}
	a.implied[dir] = struct{}{}
	a.used.directories++
	return nil
}

// mkdir makes a directory, or leaves the one that is there. In the place of a whiteout it hides what the layers below
// have.
func (a *applier) mkdir(at int, base string) error {
	err := unix.Mkdirat(at, base, 0o755)
	if err == nil {
		a.used.directories++
	}
	if err == nil && a.plain && unix.Unlinkat(at, whiteoutPrefix+base, 0) == nil {
		return a.setOpaque(at, base)
	}
	if !errors.Is(err, unix.EEXIST) {
		return wrap("mkdir", base, err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wrap("stat", base, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	a.used.walk = true
	if err := unix.Unlinkat(at, base, 0); err != nil {
		return wrap("replace", base, err)
	}
	a.forgetOthers(at)
	if err := unix.Mkdirat(at, base, 0o755); err != nil {
		return wrap("mkdir", base, err)
	}
	if isWhiteout(&st) {
		return a.setOpaque(at, base)
	}
	return nil
}

// create runs make and, when the name is taken, once more after removing what has it.
func (a *applier) create(at int, base string, make func() error) error {
	err := make()
	if err == nil && a.plain {
		_ = unix.Unlinkat(at, whiteoutPrefix+base, 0) // it hides nothing any more: the new one does
	}
	if !errors.Is(err, unix.EEXIST) {
		return wrap("create", base, err)
	}
	// What was found through the old one must be found anew.
	a.forgetOthers(at)
	a.used.walk = true
	err = unix.Unlinkat(at, base, 0)
	if errors.Is(err, unix.EISDIR) {
		err = removeTree(at, base, 0)
	}
	if err != nil {
		return wrap("replace", base, err)
	}
	return wrap("create", base, make())
}

// forgetOthers closes the open directories but one.
func (a *applier) forgetOthers(at int) {
	for name, fd := range a.parents {
		if fd != at {
			_ = unix.Close(fd)
			delete(a.parents, name)
		}
	}
}

func (a *applier) file(ctx context.Context, at int, base string, h *tar.Header, body io.Reader) error {
	fd := -1
	mode := uint32(h.Mode) & 0o7777
	err := a.create(at, base, func() (err error) {
		fd, err = unix.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
		return err
	})
	if err != nil {
		return err
	}
	// Most files have their owner and mode from their making: to look is much cheaper than to change what is right.
	var st unix.Stat_t
	err = wrap("stat", base, unix.Fstat(fd, &st))
	if err == nil {
		err = a.fill(ctx, fd, h, body)
	}
	// Changing the owner takes file capabilities and set-user-ID bits away, so both come after it.
	if err == nil && (st.Uid != uint32(h.Uid) || st.Gid != uint32(h.Gid)) {
		err = wrap("chown", base, unix.Fchown(fd, h.Uid, h.Gid))
	}
	if err == nil {
		err = a.xattrs(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
	}
	if err == nil && st.Mode&0o7777 != mode {
		err = wrap("chmod", base, unix.Fchmod(fd, mode))
	}
	if cerr := unix.Close(fd); err == nil {
		err = wrap("close", base, cerr)
	}
	if err != nil {
		return err
	}
	if err := setTime(at, base, timeOf(h)); err != nil {
		return err
	}
	return a.made(at, base)
}

// fill copies the content of a file. Runs of zeros become holes: short ones where the archive marks the file as sparse,
// long ones everywhere, since most programs write a sparse file without the mark.
func (a *applier) fill(ctx context.Context, fd int, h *tar.Header, body io.Reader) error {
	grain := longRun
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, paxSparse) {
			grain = blockSize
		}
	}
	if h.Typeflag == tar.TypeGNUSparse {
		grain = blockSize
	}
	if h.Size > maxSize-a.size {
		return badLayer("with the %d bytes of %q it has more than %d", h.Size, shorten(h.Name), maxSize)
	}
	a.size += h.Size
	var off, written int64
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(body, a.buf)
		for chunk := a.buf[:n]; len(chunk) > 0; {
			n, hole := run(chunk, grain)
			for part, at := chunk[:n], off; !hole && len(part) > 0; {
				w, err := unix.Pwrite(fd, part, at)
				if errors.Is(err, unix.EINTR) {
					continue
				}
				if err != nil {
					return wrap("write", h.Name, err)
				}
				at += int64(w)
				part, written = part[w:], at
			}
			off += int64(n)
			chunk = chunk[n:]
		}
		switch {
		case err == nil:
			continue
		case (err == io.EOF || err == io.ErrUnexpectedEOF) && off == h.Size:
			if written < off {
				return wrap("truncate", h.Name, unix.Ftruncate(fd, off))
			}
			return nil
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return badLayer("%q is cut short", h.Name)
		}
		return fmt.Errorf("read the layer: %w", err)
	}
}

// run is the length of the zeros that b begins with, or of what comes before the next zeros, in pieces of grain.
func run(b []byte, grain int) (n int, hole bool) {
	for len(b) > n {
		piece := b[n:min(len(b), n+grain)]
		// Of an unmarked file the last, short piece is not worth a look.
		zero := (len(piece) == grain || grain == blockSize) && bytes.Equal(piece, zeros[:len(piece)])
		if n == 0 {
			hole = zero
		}
		if zero != hole {
			break
		}
		n += len(piece)
	}
	return n, hole
}

// link makes a hard link. A target that this layer does not have is looked for in those below when the layer is sealed.
func (a *applier) link(at int, name, target string) error {
	target, err := inside(target)
	if err != nil {
		return err
	}
	if target == name || target == ownDirectory {
		return badLayer("%q is a hard link to %q", name, target)
	}
	err = a.linkTo(at, path.Base(name), target)
	if errors.Is(err, unix.ENOENT) && !a.bottom {
		a.links = append(a.links, pendingLink{name, target})
		return nil
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOTDIR) {
		return badLayer("%q is a hard link to %q, which is no file of it", name, target)
	}
	return err
}

func (a *applier) linkTo(at int, base, target string) error {
	dir := int(a.root.Fd())
	if up := path.Dir(target); up != ownDirectory {
		fd, err := openIn(dir, up, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return wrap("link to", target, err)
		}
		defer unix.Close(fd)
		dir = fd
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, path.Base(target), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wrap("link to", target, err)
	}
	if isWhiteout(&st) {
		return wrap("link to", target, unix.ENOENT)
	}
	return a.create(at, base, func() error { return unix.Linkat(dir, path.Base(target), at, base, 0) })
}

// whiteout hides names of the layers below.
func (a *applier) whiteout(at int, base string) error {
	name := strings.TrimPrefix(base, whiteoutPrefix)
	switch {
	case base == whiteoutOpaque:
		if a.bottom {
			return nil
		}
		a.used.walk = true
		return a.setOpaque(at, ".")
	case strings.HasPrefix(base, whiteoutMeta):
		return nil // AUFS kept its own things under such names
	case name == "" || name == "." || name == "..":
		return badLayer("%q is no valid whiteout", base)
	case a.bottom:
		return nil
	}
	a.used.walk = true
	var st unix.Stat_t
	err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		if a.plain {
			return wrap("hide", name, touch(at, whiteoutPrefix+name))
		}
		return wrap("hide", name, unix.Mknodat(at, name, unix.S_IFCHR, 0))
	case err != nil:
		return wrap("stat", name, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		// The layer has a directory of its own by that name: it stays, and only what is below it goes.
		return a.setOpaque(at, name)
	}
	return nil
}

// finish gives what was made and is no file its attributes.
func (a *applier) finish(at int, base string, h *tar.Header) error {
	if err := a.attributes(at, base, h); err != nil {
		return err
	}
	return a.made(at, base)
}

// made counts what was made and is no directory.
func (a *applier) made(at int, base string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wrap("stat", base, err)
	}
	a.used.add(&st)
	return nil
}

// attributes sets owner, extended attributes, mode and time of the entry base in the directory at.
func (a *applier) attributes(at int, base string, h *tar.Header) error {
	if err := unix.Fchownat(at, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return wrap("chown", base, err)
	}
	err := a.xattrs(h, func(name string, value []byte) error {
		return unix.Lsetxattr(procPath(at, base), name, value, 0)
	})
	if err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(at, base, uint32(h.Mode)&0o7777, 0); err != nil {
			return wrap("chmod", base, err)
		}
	}
	return setTime(at, base, timeOf(h))
}

// xattrs hands the extended attributes of an entry to set. Those by which overlayfs does its own book-keeping are
// dropped: an image could make directories appear elsewhere with them. What the file system does not know is dropped too.
func (a *applier) xattrs(h *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		if len(value) > maxValue {
			return badLayer("the extended attribute %q of %q has %d bytes", shorten(name), shorten(h.Name), len(value))
		}
		err := set(name, []byte(value))
		ordinary := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") && !ordinary {
			continue
		}
		// Most file systems have one block for all attributes of a file, and say that the disk is full when it is.
		if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ERANGE) || errors.Is(err, unix.ENOSPC) && a.hasRoom() {
			return badLayer("%q has more extended attributes than the file system can hold", shorten(h.Name))
		}
		if err != nil {
			return fmt.Errorf("set attribute %q: %w", shorten(name), err)
		}
	}
	return nil
}

// hasRoom tells whether blocks and inodes are left on the disk.
func (a *applier) hasRoom() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(a.root.Fd()), &st) == nil && st.Bavail > 0 && st.Ffree > 0
}

// openIn opens a path as a process would whose root directory is root. The kernel gives up with EAGAIN when something
// on the file system is renamed meanwhile and a ".." is in the path.
func openIn(root int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range 128 {
		fd, err := unix.Openat2(root, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// removeTree removes a directory with everything in it, without following links.
func removeTree(at int, base string, depth int) error {
	if depth > 4096 {
		return unix.ELOOP
	}
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unix.Unlinkat(fd, n, 0)
		if errors.Is(err, unix.EISDIR) {
			err = removeTree(fd, n, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(at, base, unix.AT_REMOVEDIR)
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// setOpaque hides what the layers below have in a directory.
func (a *applier) setOpaque(at int, base string) error {
	if !a.plain {
		return wrap("hide the content of", base, unix.Setxattr(procPath(at, base), opaqueXattr, []byte{'y'}, 0))
	}
	fd, err := unix.Openat(at, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(touch(fd, whiteoutOpaque), unix.Close(fd))
	}
	return wrap("hide the content of", base, err)
}

// isOpaque tells whether a directory hides what the layers below have in it, in either form.
func isOpaque(dir int) bool {
	var y [1]byte
	n, err := unix.Getxattr(magicLink(dir), opaqueXattr, y[:])
	return err == nil && n == 1 && y[0] == 'y' || hasName(dir, whiteoutOpaque)
}

// hiddenPlain tells whether a directory hides a name in the plain form.
func hiddenPlain(dir int, name string) bool { return hasName(dir, whiteoutPrefix+name) }

func hasName(dir int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// touch makes an empty file, or leaves the one that is there.
func touch(at int, name string) error {
	fd, err := unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// procPath names an entry of an open directory for the calls that have no variant with a directory.
func procPath(at int, base string) string {
	return magicLink(at) + "/" + base
}

// magicLink names an open file for calls that refuse O_PATH descriptors.
func magicLink(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func readlinkat(at int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, base, buf)
	if err != nil {
		return "", wrap("readlink", base, err)
	}
	return string(buf[:n]), nil
}

// timeOf is the modification time of an entry. Times before 1970, which not every file system can hold, become 1970.
func timeOf(h *tar.Header) unix.Timespec {
	t := h.ModTime
	if t.Before(time.Unix(0, 0)) {
		t = time.Unix(0, 0)
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

func setTime(at int, base string, t unix.Timespec) error {
	return wrap("set the time of", base, unix.UtimesNanoAt(at, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW))
}

// wrap returns nil for nil.
func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: name, Err: err}
}
