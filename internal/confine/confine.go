// Package confine resolves paths inside trees that are not trusted: images, containers' roots, volumes. The kernel does
// the resolution, by openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS, so that absolute links and ".." stay
// inside and no race of a rename with a look-up can lead out (CVE-2018-15664, CVE-2021-30465, CVE-2024-45310).
//
// A Root is a directory held open. Its paths mean what they would mean to a process that was chrooted there: "/var/run/x"
// works where /var/run is a link to /run, and a link to /etc/passwd is the tree's own /etc/passwd. What comes out is a
// descriptor, so that what was checked is what is used; there is no function that gives a path of the host.
//
// What it refuses: links of /proc that jump ("/proc/self/fd/3", "/proc/self/root"), names with a NUL, and to read what is
// not a regular file or is larger than the caller allows (a FIFO is never waited for).
package confine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is an untrusted tree. It may be used by several goroutines.
type Root struct{ dir *os.File }

// Open opens the tree below dir, a path of the host that is trusted.
func Open(dir string) (*Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Root{dir: f}, nil
}

// FromFile makes a Root of a directory that is open already, by O_PATH or otherwise: a mount that stands nowhere, say, or
// /proc/PID/root. Closing the Root closes it.
func FromFile(f *os.File) *Root { return &Root{dir: f} }

// File is the directory itself, for a look at it; it belongs to the Root.
func (r *Root) File() *os.File { return r.dir }

// Close ends the use of the tree.
func (r *Root) Close() error { return r.dir.Close() }

const resolveFlags = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// maxLinks is how many links are followed for one name, as in the kernel (path_resolution(7)).
const maxLinks = 40

// OpenFile opens name, as open(2) would in a chroot. O_CLOEXEC is added. A terminal never becomes the caller's own.
func (r *Root) OpenFile(name string, flags int, perm fs.FileMode) (*os.File, error) {
	fd, err := r.open(name, flags, perm)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r *Root) open(name string, flags int, perm fs.FileMode) (int, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return -1, unix.EINVAL
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolveFlags}
	if flags&unix.O_PATH == 0 {
		how.Flags |= unix.O_NOCTTY
	}
	if flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE {
		how.Mode = uint64(unixMode(perm))
	}
	if name == "" {
		name = "."
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(r.dir.Fd()), name, &how)
		// EAGAIN: a rename elsewhere made the kernel unsure whether ".." stayed inside; openat2(2) asks to try again.
		if err == unix.EINTR || err == unix.EAGAIN && try < 1000 {
			continue
		}
		return fd, err
	}
}

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		mode |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return mode
}

// OpenPath opens name as a place only (O_PATH), following links.
func (r *Root) OpenPath(name string) (*os.File, error) {
	return r.OpenFile(name, unix.O_PATH, 0)
}

// Stat tells what is at name, following links.
func (r *Root) Stat(name string) (fs.FileInfo, error) { return r.stat(name, unix.O_PATH) }

// Lstat tells what is at name, not following a link there.
func (r *Root) Lstat(name string) (fs.FileInfo, error) {
	return r.stat(name, unix.O_PATH|unix.O_NOFOLLOW)
}

func (r *Root) stat(name string, flags int) (fs.FileInfo, error) {
	f, err := r.OpenFile(name, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// ErrTooLarge is the error for a file that is larger than the caller's limit.
var ErrTooLarge = errors.New("file is too large")

// ErrNotRegular is the error for reading something that is not a regular file.
var ErrNotRegular = errors.New("not a regular file")

// ReadFile reads a regular file of at most limit bytes: as many as it says it has. Those of the kernel that have their reader wait, such as
// /proc/kmsg, to which an image may have a link, say that they have none.
func (r *Root) ReadFile(name string, limit int64) ([]byte, error) {
	// Looked at by O_PATH first: opening a device or a FIFO for reading can already have an effect.
	f, err := r.OpenPath(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrNotRegular}
	}
	if fi.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrTooLarge}
	}
	g, err := r.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	if fi, err = g.Stat(); err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() { // exchanged since
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrNotRegular}
	}
	if fi.Size() > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: ErrTooLarge}
	}
	data := make([]byte, fi.Size())
	n, err := io.ReadFull(g, data)
	if err == io.EOF || err == io.ErrUnexpectedEOF { // it has been cut meanwhile
		err = nil
	}
	return data[:n], err
}

// Readlink is the text of the link at name.
func (r *Root) Readlink(name string) (string, error) {
	f, err := r.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err == unix.ENOENT { // what readlinkat(2) says of an empty path that is not a link
		err = unix.EINVAL
	}
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// Resolve is the path, inside the tree, of what name leads to after following every link; it must exist. It is for
// showing and for comparing, not for opening: only a descriptor stays true. It needs the host's /proc.
func (r *Root) Resolve(name string) (string, error) {
	f, err := r.OpenPath(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	top, err := placeOf(r.dir)
	if err != nil {
		return "", err
	}
	full, err := placeOf(f)
	if err != nil {
		return "", err
	}
	if top == "/" {
		return full, nil
	}
	rel, ok := strings.CutPrefix(full, top)
	if !ok || rel != "" && rel[0] != '/' {
		return "", &fs.PathError{Op: "resolve", Path: name, Err: errors.New("it was moved out of the tree")}
	}
	return path.Clean("/" + rel), nil
}

func placeOf(f *os.File) (string, error) {
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
}

// MkdirAll makes the directory name and its parents; the ones it makes get perm, uid and gid. Links lead on inside the
// tree, also when what they point to is missing.
func (r *Root) MkdirAll(name string, perm fs.FileMode, uid, gid int) error {
	dir, err := r.OpenDirAll(name, perm, uid, gid)
	if err != nil {
		return err
	}
	return dir.Close()
}

// OpenDirAll is MkdirAll, and returns the directory opened by O_PATH.
func (r *Root) OpenDirAll(name string, perm fs.FileMode, uid, gid int) (*os.File, error) {
	links := maxLinks
	fd, err := r.mkdirAll(name, perm, uid, gid, &links)
	if err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r *Root) mkdirAll(name string, perm fs.FileMode, uid, gid int, links *int) (int, error) {
	for {
		fd, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != unix.ENOENT {
			return fd, err
		}
		parent, base := split(name)
		if base == "" || base == "." || base == ".." {
			if parent == "" { // the root itself is gone
				return -1, err
			}
			// "missing/..": the missing part is made first, and then the name is looked up again.
			fd, err := r.mkdirAll(parent, perm, uid, gid, links)
			if err != nil {
				return -1, err
			}
			_ = unix.Close(fd)
			return r.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
		}
		if target, err := r.Readlink(join(parent, base)); err == nil { // a link that leads nowhere yet
			if *links--; *links < 0 {
				return -1, unix.ELOOP
			}
			if !path.IsAbs(target) {
				target = join(parent, target)
			}
			name = target
			continue
		}
		dir, err := r.mkdirAll(parent, perm, uid, gid, links)
		if err != nil {
			return -1, err
		}
		err = mkdirOwned(dir, base, perm, uid, gid)
		_ = unix.Close(dir)
		if err == unix.EEXIST {
			err = again(links)
		}
		if err != nil {
			return -1, err
		}
	}
}

// again counts the times that something was not there and is when it shall be made: once when another was faster, always with a link
// of a procfs that has no answer to who asks.
func again(links *int) error {
	if *links--; *links < 0 {
		return unix.ELOOP
	}
	return nil
}

// mkdirOwned makes one directory and gives it its owner and mode before anybody can be misled by it: through its own
// descriptor, so that a link put in its place is not what is changed.
func mkdirOwned(dir int, base string, perm fs.FileMode, uid, gid int) error {
	if err := unix.Mkdirat(dir, base, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return own(fd, perm, uid, gid)
}

func own(fd int, perm fs.FileMode, uid, gid int) error {
	if uid != 0 || gid != 0 {
		if err := unix.Fchown(fd, uid, gid); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, unixMode(perm))
}

// Create makes the regular file name, and its missing directories with mode 0755, or opens what is there, whatever it is;
// by O_PATH in both cases. What it makes gets perm, uid and gid. Links lead on, also when what they point to is missing.
func (r *Root) Create(name string, perm fs.FileMode, uid, gid int) (*os.File, error) {
	links := maxLinks
	for at := name; ; {
		fd, err := r.open(at, unix.O_PATH, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != unix.ENOENT {
			return nil, &fs.PathError{Op: "create", Path: name, Err: err}
		}
		parent, base := split(at)
		if target, err := r.Readlink(at); err == nil {
			if links--; links < 0 {
				return nil, &fs.PathError{Op: "create", Path: name, Err: unix.ELOOP}
			}
			if !path.IsAbs(target) {
				target = join(parent, target)
			}
			at = target
			continue
		}
		if base == "" || base == "." || base == ".." {
			return nil, &fs.PathError{Op: "create", Path: name, Err: unix.EISDIR}
		}
		dir, err := r.mkdirAll(parent, 0o755, uid, gid, &links)
		if err == nil {
			err = createOwned(dir, base, perm, uid, gid)
			_ = unix.Close(dir)
		}
		if err == unix.EEXIST {
			err = again(&links)
		}
		if err != nil {
			return nil, &fs.PathError{Op: "create", Path: name, Err: err}
		}
	}
}

func createOwned(dir int, base string, perm fs.FileMode, uid, gid int) error {
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return own(fd, perm, uid, gid)
}

// OpenParent opens the directory that holds name, by O_PATH, and gives name's last part, which is never "", "." or "..":
// for calls that work on an entry of a directory, such as mknodat(2), symlinkat(2) or unlinkat(2).
func (r *Root) OpenParent(name string) (dir *os.File, base string, err error) {
	parent, base := split(name)
	if base == "" || base == "." || base == ".." {
		return nil, "", &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	dir, err = r.OpenFile(parent, unix.O_PATH|unix.O_DIRECTORY, 0)
	return dir, base, err
}

// Remove removes the file or empty directory at name; a link itself, not what it points to.
func (r *Root) Remove(name string) error {
	dir, base, err := r.OpenParent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Unlinkat(int(dir.Fd()), base, 0)
	if err == unix.EISDIR {
		err = unix.Unlinkat(int(dir.Fd()), base, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// Symlink makes a link at name with the given text, which is not looked at.
func (r *Root) Symlink(text, name string) error {
	dir, base, err := r.OpenParent(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Symlinkat(text, int(dir.Fd()), base); err != nil {
		return fmt.Errorf("symlink %q: %w", name, err)
	}
	return nil
}

// split takes the last part off a name, without looking at what the parts are: ".." after a link is not its parent.
func split(name string) (parent, base string) {
	name = strings.TrimRight(name, "/")
	i := strings.LastIndexByte(name, '/')
	return name[:i+1], name[i+1:]
}

func join(parent, rest string) string {
	if parent == "" {
		return rest
	}
	return parent + "/" + rest
}
