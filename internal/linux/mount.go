package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FsConfig is one option of a file system that is being made.
type FsConfig struct {
	Key   string
	Value string // "" sets a flag
}

// NewMount makes a file system and a mount of it that stands nowhere (fsopen(2), fsmount(2)); attrs are MOUNT_ATTR_ bits. The
// kernel's own words about what it did not like are part of the error.
func NewMount(fstype, source string, options []FsConfig, attrs int) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("file system %q: %w", fstype, err)
	}
	defer unix.Close(fs)
	if source != "" {
		if err := unix.FsconfigSetString(fs, "source", source); err != nil {
			return nil, fsError(fs, fmt.Errorf("source %q: %w", source, err))
		}
	}
	for _, o := range options {
		if o.Value == "" {
			err = unix.FsconfigSetFlag(fs, o.Key)
		} else {
			err = unix.FsconfigSetString(fs, o.Key, o.Value)
		}
		if err != nil {
			return nil, fsError(fs, fmt.Errorf("option %q: %w", o.Key, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fsError(fs, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fsError(fs, fmt.Errorf("mount: %w", err))
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// fsError adds what the kernel says about a failed step: the context's descriptor gives its messages to read.
func fsError(fs int, err error) error {
	buf := make([]byte, 1024)
	var said []string
	for {
		n, e := unix.Read(fs, buf)
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

// OverlayMount puts layers on each other as a mount that stands nowhere (kernel: overlayfs.rst). lower is from the top
// down; without upper the mount is read-only.
func OverlayMount(lower []string, upper, work string) (*os.File, error) {
	if len(lower) == 0 {
		return nil, errors.New("an overlay needs at least one lower layer")
	}
	attrs := 0
	var dirs []FsConfig
	if upper != "" {
		dirs = []FsConfig{{"upperdir", upper}, {"workdir", work}}
	} else {
		attrs = unix.MOUNT_ATTR_RDONLY
		if len(lower) == 1 { // an overlay of one layer alone is refused
			lower = append(lower[:1:1], lower[0])
			return bindReadOnly(lower[0])
		}
	}
	// Layer by layer has no bound but the kernel's 500; it came with Linux 6.5.
	options := make([]FsConfig, 0, len(lower)+2)
	for _, l := range lower {
		options = append(options, FsConfig{"lowerdir+", l})
	}
	f, err := NewMount("overlay", "overlay", append(options, dirs...), attrs)
	if err == nil || !errors.Is(err, unix.EINVAL) {
		return f, err
	}
	old, oldErr := NewMount("overlay", "overlay", append([]FsConfig{{"lowerdir", strings.Join(lower, ":")}}, dirs...), attrs)
	if oldErr != nil {
		return nil, err
	}
	return old, nil
}

func bindReadOnly(dir string) (*os.File, error) {
	f, err := OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE)
	if err != nil {
		return nil, err
	}
	if err := SetAttr(f, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// OpenTree is open_tree(2); with OPEN_TREE_CLONE the result is a copy of the mount that stands nowhere.
func OpenTree(dirfd int, path string, flags uint) (*os.File, error) {
	fd, err := unix.OpenTree(dirfd, path, flags|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// SetAttr is mount_setattr(2) on the mount f.
func SetAttr(f *os.File, a *unix.MountAttr, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(f.Fd()), "", flags, a); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	return nil
}

// MountAttrSize is what mount_setattr(2) wants beside the structure.
const MountAttrSize = unsafe.Sizeof(unix.MountAttr{})
