package ocirun

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container with a user namespace is restored by its own root, who can neither read the host's files nor make devices. So the images
// become readable for its group, and the tmpfs at /dev, which has the devices, is none of criu's business: it is made anew, as a start
// makes it. What else a container has put there would be lost; such a one is not saved.

// remappedSpec says whether a spec has a user namespace of its own.
func remappedSpec(s *specs.Spec) bool {
	return slices.ContainsFunc(linuxOf(s).Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace && n.Path == "" })
}

// ownDev is which of a spec's mounts is a tmpfs at /dev that a user namespace's root could not fill again; -1 for none.
func ownDev(s *specs.Spec, mounts []mount) int {
	if !remappedSpec(s) {
		return -1
	}
	return slices.IndexFunc(mounts, func(m mount) bool { return m.dest == "/dev" && m.Type == "tmpfs" && !m.bind && !m.remount })
}

// plainDev refuses a /dev that has more in it than a start puts there, looking at it through the container's first process.
func plainDev(proc *os.File, pid int, info []mountLine) error {
	fd, err := unix.Openat(int(proc.Fd()), fmt.Sprintf("%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the container's root: %w", err)
	}
	root := confine.FromFile(os.NewFile(uintptr(fd), "root"))
	defer root.Close()
	dir, err := root.OpenFile("/dev", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	list, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range list {
		name := "/dev/" + e.Name()
		switch t := e.Type(); {
		case t&fs.ModeDevice != 0:
		case slices.ContainsFunc(info, func(l mountLine) bool { return l.point == name }):
		case t&fs.ModeSymlink != 0 && slices.ContainsFunc(devLinks[:], func(l struct{ name, text string }) bool { return l.name == name }):
		default:
			return fmt.Errorf("a checkpoint of a container with a user namespace that has a file of its own at %q; it is not saved: remove it: %w",
				name, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// makeDev mounts a /dev with its devices at dir/dev.
func (s *setup) makeDev(m *mount, dir string) error {
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	defer unix.Umask(unix.Umask(0)) // the thread's own
	m.kind = kindTmpfs
	tree, err := s.tmpfs(m)
	if err != nil {
		return err
	}
	if err := stageMount(s.keep(tree), filepath.Join(dir, "dev")); err != nil {
		return err
	}
	top, err := os.Open(dir)
	if err != nil {
		return err
	}
	own := s.root
	defer func() { s.root = own }()
	s.root = confine.FromFile(s.keep(top))
	for i := range s.mounts {
		o := &s.mounts[i]
		if o == m || o.remount || !below(o.dest, "/dev") {
			continue
		}
		if err := s.mountPointFor(o); err != nil {
			return err
		}
	}
	if s.o.Terminal {
		f, err := s.root.Create("/dev/console", 0o600, s.exec.ids.uid(0), s.exec.ids.gid(0))
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return s.devices()
}

// letRead gives the images, and those of the pre-dumps they count on, to the group of a user namespace's root: criu reads them as that.
// What is in them is the memory of its own processes, and nobody else on the host has that group.
func letRead(images *os.File, groups []specs.LinuxIDMapping) error {
	gid, mapped := outside(groups, 0)
	if !mapped {
		return missingFeature("to restore into a user namespace that has no group 0")
	}
	const most = 256 // pre-dumps; more are a loop
	list, err := reopen(images, ".")
	for range most {
		if err != nil {
			return err
		}
		parent := list.Name() == parentLink
		if parent && !hasInventory(list) { // where a link leads may be anything
			err = invalid("the link %q of a checkpoint leads to a directory that is none", parentLink)
		} else {
			err = giveImages(list, int(gid), parent)
		}
		var next *os.File
		if err == nil {
			next, err = reopen(list, parentLink)
		}
		if err = errors.Join(err, list.Close()); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		list = next
	}
	return errors.Join(invalid("a checkpoint has more than %d parents", most), list.Close())
}

func reopen(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// parentLink is what criu calls the link to the images that newer ones count on.
const parentLink = "parent"

// giveImages lets a group read a directory of images, only those of memory where it is a parent.
func giveImages(list *os.File, gid int, memory bool) error {
	give := func(f *os.File, mode uint32) error {
		return errors.Join(unix.Fchown(int(f.Fd()), -1, gid), unix.Fchmod(int(f.Fd()), mode))
	}
	names, err := list.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if image, _ := filepath.Match("page*-*.img", name); memory && !image && name != inventory {
			continue
		}
		fd, err := unix.Openat(int(list.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == unix.ELOOP { // to a parent's images
			continue
		}
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		fi, err := f.Stat()
		if err == nil && fi.Mode().IsRegular() {
			err = give(f, 0o640)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return give(list, 0o750)
}

const inventory = "inventory.img"

// hasInventory says whether a directory has the file that every dump of criu has: it begins with a number of its own.
func hasInventory(dir *os.File) bool {
	fd, err := unix.Openat(int(dir.Fd()), inventory, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	f := os.NewFile(uintptr(fd), inventory)
	defer f.Close()
	const magic = 0x58313116
	head := make([]byte, 4)
	_, err = io.ReadFull(f, head)
	return err == nil && binary.LittleEndian.Uint32(head) == magic
}
