// Package confine resolves paths inside trees that are not trusted. The kernel does the resolution, by
// openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS: absolute links and ".." stay inside, and no race can lead out.
//
// A Root is a directory held open. Its paths are seen as a process that was chrooted there would see them. What comes out
// is a descriptor, so that checking and using is about the same thing.
package confine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is an untrusted tree.
type Root struct{ dir *os.File }

// Open opens the tree below dir, a path of the host that is trusted.
func Open(dir string) (*Root, error) {
	f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &Root{dir: f}, nil
}

// FromFile makes a Root of a directory that is open already. Closing the Root closes it.
func FromFile(f *os.File) *Root { return &Root{dir: f} }

// File is the directory itself.
func (r *Root) File() *os.File { return r.dir }

// Close ends the use of the tree.
func (r *Root) Close() error { return r.dir.Close() }

const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// OpenFile opens name, like open(2) in a chroot. O_CLOEXEC is added.
func (r *Root) OpenFile(name string, flags int, perm fs.FileMode) (*os.File, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return nil, &fs.PathError{Op: "open", Path: name, Err: unix.EINVAL}
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(perm.Perm())
	}
	rel := strings.TrimLeft(name, "/")
	if rel == "" {
		rel = "."
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(r.dir.Fd()), rel, &how)
		// EAGAIN: a rename elsewhere made the kernel unsure whether ".." stayed inside; it asks to try again.
		if err == unix.EINTR || err == unix.EAGAIN && try < 128 {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// OpenPath opens name as a place only (O_PATH), following links.
func (r *Root) OpenPath(name string) (*os.File, error) {
	return r.OpenFile(name, unix.O_PATH, 0)
}

// Stat tells what is at name, following links.
func (r *Root) Stat(name string) (fs.FileInfo, error) { return r.stat(name, unix.O_PATH) }

// Lstat tells what is at name, not following a link there.
func (r *Root) Lstat(name string) (fs.FileInfo, error) { return r.stat(name, unix.O_PATH|unix.O_NOFOLLOW) }

func (r *Root) stat(name string, flags int) (fs.FileInfo, error) {
	f, err := r.OpenFile(name, flags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Stat()
}

// ReadFile reads a regular file of at most limit bytes. Anything else there, a FIFO say, is an error and is not waited for.
func (r *Root) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := r.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%q is larger than %d bytes", name, limit)
	}
	return data, nil
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
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// Resolve is the path, inside the tree, of what name leads to after following every link. It is for showing and for
// building further names, not for opening: only a descriptor stays true.
func (r *Root) Resolve(name string) (string, error) {
	f, err := r.OpenPath(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	top, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", r.dir.Fd()))
	if err != nil {
		return "", err
	}
	full, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	if top == "/" {
		return full, nil
	}
	rel, ok := strings.CutPrefix(full, top)
	if !ok || rel != "" && rel[0] != '/' {
		return "", fmt.Errorf("%q has been moved out of the tree", name)
	}
	return path.Clean("/" + rel), nil
}

// MkdirAll makes the directory name and its parents, with perm, uid and gid for each one that it makes. A name that is a
// link leads on inside the tree, also when what it points to is missing.
func (r *Root) MkdirAll(name string, perm fs.FileMode, uid, gid int) error {
	dir, err := r.mkdirAll(name, perm, uid, gid, 0)
	if err != nil {
		return err
	}
	return dir.Close()
}

const maxLinks = 40 // the kernel's own bound

func (r *Root) mkdirAll(name string, perm fs.FileMode, uid, gid, links int) (*os.File, error) {
	flags := unix.O_PATH | unix.O_DIRECTORY
	f, err := r.OpenFile(name, flags, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	clean := path.Clean("/" + name)
	if clean == "/" {
		return nil, err
	}
	if target, err := r.Readlink(clean); err == nil { // a dangling link
		if links++; links > maxLinks {
			return nil, &fs.PathError{Op: "mkdir", Path: name, Err: unix.ELOOP}
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(clean), target)
		}
		return r.mkdirAll(target, perm, uid, gid, links)
	}
	parent, err := r.mkdirAll(path.Dir(clean), perm, uid, gid, links)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	base := path.Base(clean)
	err = unix.Mkdirat(int(parent.Fd()), base, uint32(perm.Perm()))
	made := err == nil
	if err != nil && err != unix.EEXIST {
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	f = os.NewFile(uintptr(fd), name)
	if made {
		if err := errors.Join(f.Chown(uid, gid), f.Chmod(perm)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// Create makes the regular file name with its directories, or opens what is there; with O_PATH rights only.
func (r *Root) Create(name string, perm fs.FileMode, uid, gid int) (*os.File, error) {
	f, err := r.OpenFile(name, unix.O_PATH, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	clean := path.Clean("/" + name)
	dir, err := r.mkdirAll(path.Dir(clean), 0o755, uid, gid, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), path.Base(clean), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC,
		uint32(perm.Perm()))
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Remove removes the file or empty directory at name; a link itself, not what it points to.
func (r *Root) Remove(name string) error {
	clean := path.Clean("/" + name)
	dir, err := r.OpenFile(path.Dir(clean), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Unlinkat(int(dir.Fd()), path.Base(clean), 0)
	if err == unix.EISDIR || err == unix.EPERM {
		err = unix.Unlinkat(int(dir.Fd()), path.Base(clean), unix.AT_REMOVEDIR)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

