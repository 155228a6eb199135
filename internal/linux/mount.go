package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// FsOption is one option of a file system that is being made. A Value of "" sets a flag.
type FsOption struct{ Key, Value string }

// Fs is a file system that is being made (fsopen(2)).
type Fs struct {
	fd     int
	fstype string
}

// FsFromFile goes on with one that another process began.
func FsFromFile(fstype string, f *os.File) (*Fs, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &Fs{fd, fstype}, nil
}

// Fsopen begins a file system of the given type.
func Fsopen(fstype string) (*Fs, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("file system %q: %w", fstype, err)
	}
	return &Fs{fd, fstype}, nil
}

// Close gives up the descriptor; what was mounted stays.
func (fs *Fs) Close() error { return unix.Close(fs.fd) }

// Set sets an option.
func (fs *Fs) Set(o FsOption) error {
	var err error
	if o.Value == "" {
		err = unix.FsconfigSetFlag(fs.fd, o.Key)
	} else {
		err = unix.FsconfigSetString(fs.fd, o.Key, o.Value)
	}
	if err != nil {
		return fs.explain(fmt.Errorf("%s option %q: %w", fs.fstype, o.Key+"="+o.Value, err))
	}
	return nil
}

// SetFile sets an option to an open file.
func (fs *Fs) SetFile(key string, f *os.File) error {
	return os.NewSyscallError("fsconfig", unix.FsconfigSetFd(fs.fd, key, int(f.Fd())))
}

// Mount makes the file system and a mount of it that stands nowhere; attrs are MOUNT_ATTR_ bits. The mount is undone
// when its descriptor is closed without having been moved anywhere.
func (fs *Fs) Mount(attrs int) (*os.File, error) {
	if err := unix.FsconfigCreate(fs.fd); err != nil {
		return nil, fs.explain(fmt.Errorf("make a %s file system: %w", fs.fstype, err))
	}
	fd, err := unix.Fsmount(fs.fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fs.explain(fmt.Errorf("mount a %s file system: %w", fs.fstype, err))
	}
	return os.NewFile(uintptr(fd), fs.fstype), nil
}

// explain adds what the kernel says about a failed step: the descriptor gives its messages to read.
func (fs *Fs) explain(err error) error {
	buf := make([]byte, 1024)
	var said []string
	for {
		n, e := unix.Read(fs.fd, buf)
		if e != nil || n <= 0 {
			break
		}
		said = append(said, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	if len(said) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(said, "; "))
}

// NewMount makes a file system with these options and a mount of it that stands nowhere.
func NewMount(fstype, source string, attrs int, options ...FsOption) (*os.File, error) {
	fs, err := Fsopen(fstype)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	return fs.Make(source, attrs, options...)
}

// Make sets source and options, and is then Mount.
func (fs *Fs) Make(source string, attrs int, options ...FsOption) (*os.File, error) {
	if source != "" {
		options = append([]FsOption{{"source", source}}, options...)
	}
	for _, o := range options {
		if err := fs.Set(o); err != nil {
			return nil, err
		}
	}
	return fs.Mount(attrs)
}

// OverlayMount puts layers on each other as a mount that stands nowhere (kernel: Documentation/filesystems/overlayfs).
// lower is from the top down; without upper the mount is read-only and work is not used.
func OverlayMount(lower []string, upper, work string, options ...FsOption) (*os.File, error) {
	if len(lower) == 0 {
		return nil, fmt.Errorf("an overlay needs at least one lower layer: %w", unix.EINVAL)
	}
	if upper == "" && len(lower) == 1 {
		return BindMount(lower[0], true) // an overlay of a single layer is refused
	}
	attrs := unix.MOUNT_ATTR_RDONLY
	if upper != "" {
		attrs = 0
		options = append([]FsOption{{"upperdir", overlayEscape(upper)}, {"workdir", overlayEscape(work)}}, options...)
	}
	// With the inode index a layer whose earlier mount is still being torn down is "busy"; Berth moves no layer, so
	// the index has nothing to protect.
	options = append(options, FsOption{"index", "off"})

	// Layers given one by one have no bound but the kernel's 500. Before Linux 6.5 they must be one string, which must
	// fit into 255 bytes; such a kernel may take the new option and refuse it only when the file system is made.
	single := make([]FsOption, len(lower), len(lower)+len(options))
	for i, l := range lower {
		single[i] = FsOption{"lowerdir+", l}
	}
	f, err := NewMount("overlay", "overlay", attrs, append(single, options...)...)
	if !errors.Is(err, unix.EINVAL) {
		return f, err
	}
	escaped := make([]string, len(lower))
	for i, l := range lower {
		escaped[i] = overlayEscape(l)
	}
	f, oldErr := NewMount("overlay", "overlay", attrs, append([]FsOption{{"lowerdir", strings.Join(escaped, ":")}}, options...)...)
	if oldErr != nil {
		return nil, errors.Join(err, oldErr)
	}
	return f, nil
}

// overlayEscape protects what the file system's own option parser would take for a separator.
func overlayEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`).Replace(path)
}

// BindMount makes a mount of a directory that stands nowhere. Whether devices and set-user-ID programs work on it does not
// depend on the mount that the directory lies on.
func BindMount(dir string, readOnly bool) (*os.File, error) {
	f, err := OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE)
	if err != nil {
		return nil, err
	}
	a := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE}
	if readOnly {
		a.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	if err := MountSetattr(f, &a, false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// OpenTree is open_tree(2); with OPEN_TREE_CLONE the result is a copy of the mount that stands nowhere, with
// AT_RECURSIVE also of those below it. OPEN_TREE_CLOEXEC is added.
func OpenTree(dirfd int, path string, flags uint) (*os.File, error) {
	for {
		fd, err := unix.OpenTree(dirfd, path, flags|unix.OPEN_TREE_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// MoveMount puts the mount f, which stands nowhere, on the place that target holds open (move_mount(2)). No path is
// looked up: what was checked is what is covered.
func MoveMount(f, target *os.File) error {
	err := unix.MoveMount(int(f.Fd()), "", int(target.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// MountSetattr changes attributes and propagation of the mount f (mount_setattr(2)), with recursive of all below it.
func MountSetattr(f *os.File, a *unix.MountAttr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(f.Fd()), "", flags, a))
}
