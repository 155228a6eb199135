package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"golang.org/x/sys/unix"
)

// PackOptions change how a tree is written.
type PackOptions struct {
	// Contents leaves out the top directory itself and names entries relative to it, as export does.
	Contents bool
}

// maxDepth bounds directory nesting: each level holds one file descriptor.
const maxDepth = 1024

// Pack writes the file or tree at name as a tar archive (PAX) to w. Entries are named after the last element of name, "."
// where it ends in "/.". Owners, modes, times, hard links, devices and the attributes security.capability and user.* are
// kept; sockets are left out. It ends early with ctx.
func Pack(ctx context.Context, root *confine.Root, name string, w io.Writer, o PackOptions) error {
	p := packer{ctx: ctx, tw: tar.NewWriter(w), links: map[inode]string{}}
	clean := path.Clean("/" + name)
	parent, base := path.Dir(clean), path.Base(clean)
	if clean == "/" || followsLast(name) {
		parent, base = clean, "."
	}
	dir, err := root.OpenFile(parent, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return notFound(name, err)
	}
	defer dir.Close()
	as := path.Base(clean)
	if strings.HasSuffix(name, "/.") || o.Contents || clean == "/" {
		as = "."
	}
	if err := unix.Faccessat(int(dir.Fd()), base, unix.F_OK, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return notFound(name, err)
	}
	if err := p.add(int(dir.Fd()), base, as, o.Contents, 0); err != nil {
		return fmt.Errorf("archive %q: %w", name, err)
	}
	return p.tw.Close()
}

type inode struct{ dev, ino uint64 }

type packer struct {
	ctx   context.Context
	tw    *tar.Writer
	links map[inode]string
	buf   []byte

	layer bool                   // of an overlay's upper directory
	skip  func(path string) bool // nil: nothing
}

// skips tells whether the entry `as` is left out.
func (p *packer) skips(as string) bool { return p.skip != nil && p.skip(path.Join("/", as)) }

// add writes what name below dirfd is, as `as`.
func (p *packer) add(dirfd int, name, as string, contents bool, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("%q is nested more than %d directories deep", as, maxDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, fs.ErrNotExist) && depth > 0 { // removed while we walked
			return nil
		}
		return &fs.PathError{Op: "stat", Path: as, Err: err}
	}
	h := &tar.Header{Format: tar.FormatPAX, Name: as, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, st.Mtim.Nsec)}
	switch {
	case p.layer && isWhiteout(&st):
		return p.whiteout(as)
	case p.skips(as) && st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.addDir(dirfd, name, h, contents, depth)
	case unix.S_IFREG:
		if st.Nlink > 1 {
			id := inode{uint64(st.Dev), st.Ino}
			if first, seen := p.links[id]; seen {
				h.Typeflag, h.Linkname = tar.TypeLink, first
				return p.tw.WriteHeader(h)
			}
			p.links[id] = as
		}
		return p.addFile(dirfd, name, h)
	case unix.S_IFLNK:
		target, err := readlinkat(dirfd, name)
		if err != nil {
			return &fs.PathError{Op: "readlink", Path: as, Err: err}
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default: // a socket means nothing without its process
		return nil
	}
	return p.tw.WriteHeader(h)
}

func (p *packer) addDir(dirfd int, name string, h *tar.Header, contents bool, depth int) error {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && depth > 0 {
			return nil
		}
		return &fs.PathError{Op: "open", Path: h.Name, Err: err}
	}
	dir := os.NewFile(uintptr(fd), h.Name)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	hides := false // fuse-overlayfs's way to hide what lies below the directory
	if p.layer {
		names = slices.DeleteFunc(names, func(n string) bool {
			hides = hides || n == whiteoutOpaque
			return n == whiteoutOpaque || n == fuseOpaque
		})
	}
	as := h.Name
	if !contents || depth > 0 {
		h.Typeflag, h.Name = tar.TypeDir, as+"/"
		if err := p.dirHeader(fd, h, hides); err != nil {
			return err
		}
	}
	for _, n := range names {
		child := as + "/" + n
		if (contents || p.layer) && depth == 0 {
			child = n
		}
		if err := p.add(fd, n, child, false, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// dirHeader writes the entry of a directory.
func (p *packer) dirHeader(fd int, h *tar.Header, opaque bool) error {
	if p.layer {
		marked, err := overlayState(fd, h.Name)
		if err != nil {
			return err
		}
		opaque = opaque || marked
	}
	if p.skips(h.Name) && !opaque {
		return nil
	}
	if err := attributes(fd, h); err != nil {
		return err
	}
	if err := p.tw.WriteHeader(h); err != nil || !opaque {
		return err
	}
	return p.tw.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: h.Name + whiteoutOpaque,
		Mode: 0o600})
}

func (p *packer) addFile(dirfd int, name string, h *tar.Header) error {
	// O_NONBLOCK: should it have become a FIFO meanwhile, opening it must not wait for a writer.
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: h.Name, Err: err}
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%q changed its type while it was read", h.Name)
	}
	if p.layer {
		if _, err := overlayState(fd, h.Name); err != nil {
			return err
		}
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := attributes(fd, h); err != nil {
		return err
	}
	if err := p.tw.WriteHeader(h); err != nil {
		return err
	}
	if p.buf == nil {
		p.buf = make([]byte, 256<<10)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{p.tw}, struct{ io.Reader }{io.LimitReader(f, st.Size)}, p.buf)
	if err != nil {
		return err
	}
	if n < st.Size { // it shrank: the header has promised its size
		if _, err := io.CopyN(p.tw, zeros{}, st.Size-n); err != nil {
			return err
		}
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

const paxAttribute = "SCHILY.xattr."

// attributes puts the extended attributes that belong in an archive into h.
func attributes(fd int, h *tar.Header) error {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		return nil // the file system has none
	}
	list := make([]byte, n)
	if n, err = unix.Flistxattr(fd, list); err != nil {
		return nil
	}
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.fuseoverlayfs.") {
			continue
		}
		size, err := unix.Fgetxattr(fd, name, nil)
		if err != nil {
			continue
		}
		value := make([]byte, size)
		if size, err = unix.Fgetxattr(fd, name, value); err != nil {
			continue
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxAttribute+name] = string(value[:size])
	}
	return nil
}

func readlinkat(dirfd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dirfd, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
