package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Driver is a way to make a container's root file system of the layers of an image.
type Driver string

// The drivers. All keep the layers of images in the same form, so that images serve all of them.
const (
	Overlay     Driver = "overlay2"       // the kernel's overlayfs
	FuseOverlay Driver = "fuse-overlayfs" // the same as a process
	Btrfs       Driver = "btrfs"          // the image is put together as a subvolume, a container is a snapshot of it
	VFS         Driver = "vfs"            // a container is a copy
)

// directory is what holds the files of a container, in its directory below layers/. Its name tells by which driver the
// container was made, and it is mounted by the same again.
func (d Driver) directory() string {
	switch d {
	case FuseOverlay:
		return "fuse"
	case Btrfs:
		return "btrfs"
	case VFS:
		return "vfs"
	}
	return "upper"
}

// whole tells that a container's directory has all of its files, not only what it changed.
func (d Driver) whole() bool { return d == Btrfs || d == VFS }

// ParseDriver reads a driver's name; "" is none. The error lists them.
func ParseDriver(name string) (Driver, error) {
	switch d := Driver(name); d {
	case "", Overlay, FuseOverlay, Btrfs, VFS:
		return d, nil
	case "overlayfs":
		return Overlay, nil
	}
	return "", fmt.Errorf("%q is no storage driver: overlay2, fuse-overlayfs, btrfs and vfs are", name)
}

// Use makes new containers by this driver; "" chooses the first that works on the file system of the data root, of overlay2,
// fuse-overlayfs and vfs. Containers that are there stay with theirs. The error says why it cannot work here.
func (s *Store) Use(d Driver) error {
	if d != "" {
		if err := s.works(d); err != nil {
			return fmt.Errorf("the storage driver %s does not work with the data root %s: %w", d, s.root, err)
		}
		s.driver, s.why = d, "it was asked for"
		return nil
	}
	var not []string
	for _, d := range []Driver{Overlay, FuseOverlay, VFS} {
		err := s.works(d)
		if err != nil {
			not = append(not, fmt.Sprintf("%s does not work: %v", d, err))
			continue
		}
		s.driver, s.why = d, "it is the default"
		if len(not) > 0 {
			s.why = strings.Join(not, "; ")
		}
		return nil
	}
	return errors.New(strings.Join(not, "; "))
}

// Driver is what makes new containers, and why it does.
func (s *Store) Driver() (d Driver, why string) { return s.driver, s.why }

// works tries a driver; nil says that it works here.
func (s *Store) works(d Driver) error {
	if d == VFS {
		return nil
	}
	if d == Btrfs && !linux.OnBtrfs(s.root) {
		return fmt.Errorf("it lies on %s and not on btrfs", s.Filesystem())
	}
	if d == Overlay && s.plain {
		return fmt.Errorf("%s can not hold what overlayfs hides files with (0:0 character devices and trusted.overlay attributes)",
			s.Filesystem())
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, "snapshots"), ".try-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if d == Btrfs {
		sub := filepath.Join(dir, "sub")
		if err := linux.NewSubvolume(sub); err != nil {
			return err
		}
		return linux.RemoveSubvolume(sub)
	}
	paths := make([]string, 3)
	for i, n := range []string{"lower", "upper", "work"} {
		paths[i] = filepath.Join(dir, n)
		if err := os.Mkdir(paths[i], 0o700); err != nil {
			return err
		}
	}
	mount := linux.OverlayMount
	if d == FuseOverlay {
		mount = fuseMount
	}
	f, err := mount(paths[:1], paths[1], paths[2])
	if err != nil {
		return err
	}
	// A file system that cannot be an upper layer is mounted read only.
	fd, err := unix.Openat(int(f.Fd()), "probe", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Close(fd)
	}
	return errors.Join(wrap("write to", "a first file", err), f.Close())
}

// plainFile says that layers were unpacked in the plain form.
const plainFile = "plain-whiteouts"

// probePlain finds out whether the layers of this data root hide names in the plain form, because its file system cannot hold
// the kernel's or could not earlier: "name" of the layers below is hidden by an empty file ".wh.name", and all there is in a
// directory by ".wh..wh..opq", as in archives. No image can have such names of its own. fuse-overlayfs knows both forms.
func (s *Store) probePlain() error {
	marker := filepath.Join(s.root, plainFile)
	if _, err := os.Lstat(marker); err == nil {
		s.plain = true
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Join(s.root, "snapshots"), ".try-")
	if err != nil {
		return err
	}
	err = unix.Mknod(filepath.Join(dir, "whiteout"), unix.S_IFCHR, 0)
	if err == nil {
		err = unix.Setxattr(dir, opaqueXattr, []byte{'y'}, 0)
	}
	if rerr := os.RemoveAll(dir); rerr != nil {
		return rerr
	}
	if err == nil {
		return nil
	}
	s.plain = true
	f, err := os.OpenFile(marker, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// MadeBy is the driver by which a container's layer was made: the current one where there is none.
func (s *Store) MadeBy(id string) Driver {
	dir := filepath.Join(s.root, "layers", id)
	for _, d := range []Driver{s.driver, Overlay, FuseOverlay, Btrfs, VFS} {
		if unix.Access(filepath.Join(dir, d.directory()), unix.F_OK) == nil {
			return d
		}
	}
	return s.driver
}

// MountLayer makes the root file system of a container on the chain, as a mount that stands nowhere. limited says that
// LimitLayer has bounded it.
func (s *Store) MountLayer(ctx context.Context, id string, chain digest.Digest, limited bool) (f *os.File, err error) {
	d := s.MadeBy(id)
	upper, work := s.Layer(id)
	if d.whole() {
		return linux.BindMount(upper, false)
	}
	lowers, err := s.Lowers(ctx, chain)
	if err != nil {
		return nil, err
	}
	if d == FuseOverlay {
		return fuseMount(lowers, upper, work)
	}
	mount := func() (err error) {
		f, err = linux.OverlayMount(lowers, upper, work)
		return err
	}
	if limited {
		// ext4 lets those who have it write beyond a quota.
		err = linux.WithoutCapability(unix.CAP_SYS_RESOURCE, mount)
	} else {
		err = mount()
	}
	return f, err
}

// MountToRead is the same to be read only, while the container may run: mounting an overlay for writing a second time would
// take the work directory from the first.
func (s *Store) MountToRead(ctx context.Context, id string, chain digest.Digest) (*os.File, error) {
	d := s.MadeBy(id)
	upper, _ := s.Layer(id)
	if d.whole() {
		return linux.BindMount(upper, true)
	}
	lowers, err := s.Lowers(ctx, chain)
	if err != nil {
		return nil, err
	}
	if lowers = append([]string{upper}, lowers...); d == FuseOverlay {
		return fuseMount(lowers, "", "")
	}
	return linux.OverlayMount(lowers, "", "")
}

// MountNew makes what a container that has never run shows, to be read only: what its image has.
func (s *Store) MountNew(ctx context.Context, id string, chain digest.Digest) (*os.File, error) {
	d := s.MadeBy(id)
	if d.whole() {
		return s.MountToRead(ctx, id, chain)
	}
	return s.mountImage(ctx, d, chain)
}

// mountImage puts the layers of an image on each other.
func (s *Store) mountImage(ctx context.Context, d Driver, chain digest.Digest) (*os.File, error) {
	lowers, err := s.Lowers(ctx, chain)
	if err != nil {
		return nil, err
	}
	if d == FuseOverlay {
		return fuseMount(lowers, "", "")
	}
	return linux.OverlayMount(lowers, "", "")
}

// fuseMount is linux.OverlayMount by fuse-overlayfs: a process that ends with the mount.
func fuseMount(lower []string, upper, work string, _ ...linux.FsOption) (*os.File, error) {
	program, err := exec.LookPath("fuse-overlayfs")
	if err != nil {
		return nil, errors.New("the program fuse-overlayfs is not installed")
	}
	for _, p := range append([]string{upper, work}, lower...) {
		if strings.ContainsAny(p, ",:\\") {
			return nil, fmt.Errorf("fuse-overlayfs cannot be given the path %q: %w", p, errdefs.ErrInvalidArgument)
		}
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if upper != "" {
		options += ",upperdir=" + upper + ",workdir=" + work
	}
	f, err := linux.FuseMount(upper == "", func(dev string) []string {
		return []string{program, "-f", "-o", options, dev}
	})
	if err != nil {
		return nil, fmt.Errorf("fuse-overlayfs: %w", err)
	}
	return f, nil
}
