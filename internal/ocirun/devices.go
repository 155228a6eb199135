package ocirun

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are there in every container (config-linux.md, "Default Devices").
var defaultDevices = [...]struct {
	path         string
	major, minor uint32
}{
	{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9},
	{"/dev/tty", 5, 0},
}

// devLinks are the links every container has in /dev.
var devLinks = [...]struct{ name, text string }{
	{"/dev/fd", "/proc/self/fd"}, {"/dev/stdin", "/proc/self/fd/0"}, {"/dev/stdout", "/proc/self/fd/1"},
	{"/dev/stderr", "/proc/self/fd/2"}, {"/dev/core", "/proc/kcore"}, {"/dev/ptmx", "pts/ptmx"},
}

// devices makes device nodes and links. A container that brings the host's /dev by a bind has them.
func (s *setup) devices() error {
	if s.bindsDev() {
		return nil
	}
	for _, d := range defaultDevices {
		if slices.ContainsFunc(s.lin.Devices, func(o specs.LinuxDevice) bool { return o.Path == d.path }) {
			continue
		}
		if err := s.device(d.path, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor), 0, 0); err != nil {
			return err
		}
	}
	for i := range s.lin.Devices {
		if err := s.specDevice(&s.lin.Devices[i]); err != nil {
			return err
		}
	}
	for _, l := range devLinks {
		if err := s.root.Symlink(l.text, l.name); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

func (s *setup) bindsDev() bool {
	return slices.ContainsFunc(s.mounts, func(m mount) bool { return m.dest == "/dev" && m.kind == kindBind })
}

func (s *setup) specDevice(d *specs.LinuxDevice) error {
	var mode uint32
	switch d.Type {
	case "c", "u":
		mode = unix.S_IFCHR
	case "b":
		mode = unix.S_IFBLK
	case "p":
		mode = unix.S_IFIFO
	default:
		return fmt.Errorf("device %q has the unknown type %q: %w", d.Path, d.Type, errdefs.ErrInvalidArgument)
	}
	perm := uint32(0o666)
	if d.FileMode != nil {
		perm = uint32(*d.FileMode) & 0o7777
	}
	var uid, gid uint32
	if d.UID != nil {
		uid = *d.UID
	}
	if d.GID != nil {
		gid = *d.GID
	}
	dev := uint64(0)
	if d.Type != "p" {
		dev = unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	}
	return s.device(d.Path, mode|perm, dev, uid, gid)
}

// device makes one node. One that is there already must be the same.
func (s *setup) device(name string, mode uint32, dev uint64, uid, gid uint32) error {
	if tree := s.devMount[name]; tree != nil {
		if err := s.place(tree, name, false); err != nil {
			return fmt.Errorf("device %q: %w", name, err)
		}
		return nil
	}
	dir, base, err := s.root.OpenParent(name)
	if errors.Is(err, unix.ENOENT) {
		if err = s.root.MkdirAll(name[:len(name)-len(base)], 0o755, s.exec.ids.uid(0), s.exec.ids.gid(0)); err == nil {
			dir, base, err = s.root.OpenParent(name)
		}
	}
	if err != nil {
		return fmt.Errorf("device %q: %w", name, err)
	}
	defer dir.Close()
	err = unix.Mknodat(int(dir.Fd()), base, mode, int(dev))
	if err == unix.EEXIST {
		var st unix.Stat_t
		err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && (st.Mode&unix.S_IFMT != mode&unix.S_IFMT || st.Rdev != dev) {
			err = fmt.Errorf("something else is there: %w", unix.EEXIST)
		}
		if err == nil {
			return nil
		}
	}
	if hostUID, hostGID := s.exec.ids.uid(uid), s.exec.ids.gid(gid); err == nil && (hostUID != 0 || hostGID != 0) {
		err = unix.Fchownat(int(dir.Fd()), base, hostUID, hostGID, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("device %q: %w", name, err)
	}
	return nil
}

// nullDevice says whether f is the kernel's null device, by whatever name it was found.
func nullDevice(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return errors.New("it is not the null device")
	}
	return nil
}
