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
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// UnpackOptions change how an archive is laid out.
type UnpackOptions struct {
	// NoOverwriteDirNonDir refuses to replace a directory by something else, and the reverse.
	NoOverwriteDirNonDir bool
	// Owner, when not nil, owns everything that is made, whatever the archive says.
	Owner *Owner
	// Devices allows device nodes.
	Devices bool
}

// Owner is a pair of numbers.
type Owner struct{ UID, GID int }

// Unpack lays out a tar archive in the directory at dest. It ends early with ctx; what it has made by then stays.
func Unpack(ctx context.Context, root *confine.Root, dest string, r io.Reader, o UnpackOptions) error {
	dir, err := root.OpenFile(path.Clean("/"+dest), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return notFound(dest, err)
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err != nil {
		return fmt.Errorf("look at %q in the container: %w", dest, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("extraction point is not a directory%w", kind{errdefs.ErrInvalidArgument})
	}
	// Names in the archive are resolved in the container, so that a link inside dest leads where the container's
	// processes would go; dest itself is pinned by its resolved path.
	base, err := root.Resolve(dest)
	if err != nil {
		return notFound(dest, err)
	}
	u := unpacker{root: root, base: base, o: o, made: map[string]time.Time{}}
	tr := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return u.finish()
		}
		if err != nil {
			return fmt.Errorf("the archive cannot be read: %w%w", err, kind{errdefs.ErrInvalidArgument})
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("unpack %q: %w", h.Name, err)
		}
	}
}

type unpacker struct {
	root *confine.Root
	base string
	o    UnpackOptions
	made map[string]time.Time // directories whose time is set last
	buf  []byte
}

// entry lays out one entry.
func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	rel := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if rel == "" {
		return nil // the destination itself exists
	}
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeChar, tar.TypeBlock:
		if !u.o.Devices {
			return fmt.Errorf("device nodes are not allowed here%w", kind{errdefs.ErrPermissionDenied})
		}
	}
	parent, err := u.parent(path.Dir("/" + rel))
	if err != nil {
		return err
	}
	defer parent.Close()
	at, name := int(parent.Fd()), path.Base(rel)
	exists, err := u.clear(at, name, h)
	if err != nil {
		return err
	}
	owner := Owner{h.Uid, h.Gid}
	if u.o.Owner != nil {
		owner = *u.o.Owner
	}
	mode := uint32(h.Mode & 0o7777)
	switch h.Typeflag {
	case tar.TypeDir:
		if !exists {
			if err := unix.Mkdirat(at, name, 0o700); err != nil {
				return err
			}
		}
		u.made["/"+rel] = h.ModTime
	case tar.TypeReg:
		return u.file(at, name, h, body, owner)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, at, name); err != nil {
			return err
		}
		return u.stamp(at, name, owner, h.ModTime)
	case tar.TypeLink:
		return u.link(at, name, h.Linkname)
	case tar.TypeFifo:
		if err := unix.Mknodat(at, name, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
	case tar.TypeChar, tar.TypeBlock:
		kindBits := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kindBits = unix.S_IFBLK
		}
		if err := unix.Mknodat(at, name, kindBits|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
	default:
		return fmt.Errorf("entries of type %q are not known%w", h.Typeflag, kind{errdefs.ErrInvalidArgument})
	}
	// Owner, then mode (chown clears set-id bits), both on the very thing, through a descriptor that pins it.
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := unix.Fchownat(fd, "", owner.UID, owner.GID, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if err := chmodPath(fd, mode); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return u.times(at, name, h.ModTime)
}

// chmodPath changes the mode behind an O_PATH descriptor, which fchmod(2) refuses; the kernel's own link to it does.
func chmodPath(fd int, mode uint32) error {
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// parent opens the directory of an entry, making what is missing.
func (u *unpacker) parent(dir string) (*os.File, error) {
	full := path.Join(u.base, dir)
	f, err := u.root.OpenFile(full, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	owner := Owner{}
	if u.o.Owner != nil {
		owner = *u.o.Owner
	}
	if err := u.root.MkdirAll(full, 0o755, owner.UID, owner.GID); err != nil {
		return nil, err
	}
	return u.root.OpenFile(full, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// clear makes room for an entry: a directory stays where a directory comes, everything else is replaced.
func (u *unpacker) clear(at int, name string, h *tar.Header) (exists bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	isDir, comesDir := st.Mode&unix.S_IFMT == unix.S_IFDIR, h.Typeflag == tar.TypeDir
	if isDir && comesDir {
		return true, nil
	}
	if u.o.NoOverwriteDirNonDir && isDir != comesDir {
		what := map[bool]string{true: "directory", false: "non-directory"}
		return false, fmt.Errorf("cannot overwrite %s %q with %s %q%w", what[isDir], h.Name, what[comesDir], h.Name,
			kind{errdefs.ErrInvalidArgument})
	}
	if isDir {
		return false, removeTree(at, name, 0)
	}
	return false, unix.Unlinkat(at, name, 0)
}

// removeTree removes a directory without following anything.
func removeTree(at int, name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is nested more than %d directories deep", name, maxDepth)
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unix.Unlinkat(fd, n, 0)
		if errors.Is(err, unix.EISDIR) {
			err = removeTree(fd, n, depth+1)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
}

func (u *unpacker) file(at int, name string, h *tar.Header, body io.Reader, owner Owner) error {
	fd, err := unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	if u.buf == nil {
		u.buf = make([]byte, 256<<10)
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{body}, u.buf)
	if err == nil {
		err = unix.Fchown(fd, owner.UID, owner.GID)
	}
	if err == nil {
		err = unix.Fchmod(fd, uint32(h.Mode&0o7777))
	}
	for k, v := range h.PAXRecords {
		attr, ok := strings.CutPrefix(k, paxAttribute)
		if err != nil || !ok || attr != "security.capability" && !strings.HasPrefix(attr, "user.") {
			continue
		}
		if err = unix.Fsetxattr(fd, attr, []byte(v), 0); errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
	}
	if err == nil {
		err = u.times(at, name, h.ModTime)
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err != nil {
		_ = unix.Unlinkat(at, name, 0) // half a file is worse than none
	}
	return err
}

// link makes a hard link to something unpacked before; the target is resolved inside the destination.
func (u *unpacker) link(at int, name, target string) error {
	rel := path.Clean("/" + target)
	dir, err := u.root.OpenFile(path.Join(u.base, path.Dir(rel)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	defer dir.Close()
	if err := unix.Linkat(int(dir.Fd()), path.Base(rel), at, name, 0); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

func (u *unpacker) stamp(at int, name string, owner Owner, t time.Time) error {
	if err := unix.Fchownat(at, name, owner.UID, owner.GID, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return u.times(at, name, t)
}

func (u *unpacker) times(at int, name string, t time.Time) error {
	if t.IsZero() || t.Unix() < 0 {
		return nil
	}
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return nil
	}
	return unix.UtimesNanoAt(at, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// finish sets the times of directories, which filling them changed.
func (u *unpacker) finish() error {
	for rel, t := range u.made {
		dir, err := u.root.OpenFile(path.Join(u.base, path.Dir(rel)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // replaced meanwhile
		}
		err = u.times(int(dir.Fd()), path.Base(rel), t)
		_ = dir.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// CopyUp copies what is at name in root into the host directory dest, which is empty: content, owners, modes. fs.ErrNotExist
// means that there is nothing at name; dest then stays as it is.
func CopyUp(ctx context.Context, root *confine.Root, name, dest string) error {
	dir, err := root.OpenFile(path.Clean("/"+name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%q is not a directory: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(int(dir.Fd()), &st)
	_ = dir.Close()
	if err != nil {
		return err
	}
	to, err := confine.Open(dest)
	if err != nil {
		return err
	}
	defer to.Close()
	r, w := io.Pipe()
	go func() { w.CloseWithError(Pack(ctx, root, name+"/.", w, PackOptions{Contents: true})) }()
	if err := Unpack(ctx, to, "/", r, UnpackOptions{Devices: true}); err != nil {
		_ = r.CloseWithError(err)
		return err
	}
	_, err = io.Copy(io.Discard, r) // the archive's padding, and with it the packer's error
	if err != nil {
		return err
	}
	if err := os.Chown(dest, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(dest, st.Mode&0o7777)
}
