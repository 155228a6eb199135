package ocirun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// resolveIn is how a child opens a path in the container's root: as a chrooted process would, and never through the
// magic links of /proc.
const resolveIn = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// open opens name inside the container's root, for use by later steps.
func (b *builder) open(name string, flags int, save linux.Slot) *linux.Call {
	rel := strings.TrimPrefix(path.Clean("/"+name), "/")
	if rel == "" {
		rel = "."
	}
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolveIn}
	return b.p.Call(unix.SYS_OPENAT2, linux.From(slotRoot), linux.Str(rel), linux.Ptr(how), linux.N(unix.SizeofOpenHow)).Save(save)
}

func (b *builder) drop(s linux.Slot) {
	b.p.Call(unix.SYS_CLOSE, linux.From(s)).Ignore(unix.EBADF)
}

const moveOnto = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH

// attach moves a mount that stands nowhere onto what slotTarget has open.
func (b *builder) attach(mount linux.Arg) {
	b.p.Call(unix.SYS_MOVE_MOUNT, mount, linux.Str(""), linux.From(slotTarget), linux.Str(""), linux.N(moveOnto))
	b.drop(slotTarget)
}

// root brings the container's root into the child: the host's tree becomes a slave, so that nothing done here shows
// outside, and slotRoot has the root open. The result is the same tree for the caller's own preparations.
func (b *builder) root(o StartOptions) (*confine.Root, error) {
	rootfs := o.Rootfs
	if rootfs == nil {
		if o.Spec.Root == nil || o.Spec.Root.Path == "" {
			return nil, errors.New("the spec names no root file system")
		}
		dir := o.Spec.Root.Path
		if !path.IsAbs(dir) {
			dir = path.Join(o.Bundle, dir)
		}
		f, err := linux.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
		if err != nil {
			return nil, fmt.Errorf("the root file system: %w", err)
		}
		rootfs = b.own(f)
	}
	flag, ok := propagation[o.Spec.Linux.RootfsPropagation]
	if !ok {
		return nil, fmt.Errorf("unknown propagation of the root file system: %q", o.Spec.Linux.RootfsPropagation)
	}
	if flag == 0 {
		flag = unix.MS_SLAVE | unix.MS_REC
	}
	how := uint(unix.AT_EMPTY_PATH)
	if flag&unix.MS_REC != 0 {
		how |= unix.AT_RECURSIVE
	}
	b.p.Step("part from the host's mounts")
	b.p.Call(unix.SYS_MOUNT, linux.N(0), linux.Str("/"), linux.N(0), linux.N(uintptr(unix.MS_REC|unix.MS_SLAVE)), linux.N(0))
	b.p.Step("mount the root file system")
	b.p.Call(unix.SYS_MOVE_MOUNT, linux.FD(rootfs), linux.Str(""), linux.N(unix.AT_FDCWD), linux.Str("/"), linux.N(unix.MOVE_MOUNT_F_EMPTY_PATH))
	b.p.Call(unix.SYS_MOUNT_SETATTR, linux.FD(rootfs), linux.Str(""), linux.N(how),
		linux.Ptr(&unix.MountAttr{Propagation: uint64(flag &^ unix.MS_REC)}), linux.N(mountAttrSize))
	b.p.Call(unix.SYS_DUP3, linux.FD(rootfs), linux.N(rootFD), linux.N(unix.O_CLOEXEC)).Save(slotRoot)
	return confine.FromFile(rootfs), nil
}

// rootFD is a descriptor number above everything a caller's process has, so that dup3 hits nothing.
const rootFD = 1000

var propagation = map[string]uintptr{
	"": 0, "private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "shared": unix.MS_SHARED,
	"rshared": unix.MS_SHARED | unix.MS_REC, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// mountOptions are the options of one mount, sorted out.
type mountOptions struct {
	set, clear   uint64 // MOUNT_ATTR_
	rset, rclear uint64 // the same, for the whole tree
	propagation  uintptr
	bind, rec    bool
	copyUp       bool
	config       []linux.FsOption
}

var attrOptions = map[string]struct {
	set, clear uint64
}{
	"ro": {unix.MOUNT_ATTR_RDONLY, 0}, "rw": {0, unix.MOUNT_ATTR_RDONLY},
	"nosuid": {unix.MOUNT_ATTR_NOSUID, 0}, "suid": {0, unix.MOUNT_ATTR_NOSUID},
	"nodev": {unix.MOUNT_ATTR_NODEV, 0}, "dev": {0, unix.MOUNT_ATTR_NODEV},
	"noexec": {unix.MOUNT_ATTR_NOEXEC, 0}, "exec": {0, unix.MOUNT_ATTR_NOEXEC},
	"nodiratime": {unix.MOUNT_ATTR_NODIRATIME, 0}, "diratime": {0, unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {unix.MOUNT_ATTR_NOSYMFOLLOW, 0}, "symfollow": {0, unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime": {unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME}, "relatime": {0, unix.MOUNT_ATTR__ATIME},
	"strictatime": {unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME}, "norelatime": {0, 0}, "nostrictatime": {0, 0},
	"atime": {0, 0}, "defaults": {0, 0}, "async": {0, 0}, "silent": {0, 0}, "loud": {0, 0},
}

func parseOptions(m specs.Mount) (mountOptions, error) {
	var o mountOptions
	for _, text := range m.Options {
		if a, ok := attrOptions[text]; ok {
			o.set = o.set&^a.clear | a.set
			o.clear = o.clear&^a.set | a.clear
			continue
		}
		if a, ok := attrOptions[strings.TrimPrefix(text, "r")]; ok && strings.HasPrefix(text, "r") {
			o.rset = o.rset&^a.clear | a.set
			o.rclear = o.rclear&^a.set | a.clear
			continue
		}
		if p, ok := propagation[text]; ok && text != "" {
			o.propagation = p
			continue
		}
		switch text {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.rec = true, true
		case "tmpcopyup":
			o.copyUp = true
		case "newinstance": // every devpts is one of its own since Linux 4.7
		case "sync", "dirsync", "lazytime", "mand":
			o.config = append(o.config, linux.FsOption{Key: text})
		case "":
			return o, fmt.Errorf("mount %q: an option is empty", m.Destination)
		default:
			key, value, ok := strings.Cut(text, "=")
			if ok && value == "" {
				return o, fmt.Errorf("mount %q: option %q has no value", m.Destination, key)
			}
			o.config = append(o.config, linux.FsOption{Key: key, Value: value})
		}
	}
	if m.Type == "bind" {
		o.bind = true
	}
	if o.bind && len(o.config) > 0 {
		return o, fmt.Errorf("mount %q: a bind mount has no option %q", m.Destination, o.config[0].Key)
	}
	return o, nil
}

// mounts prepares the spec's mounts in their order, then devices, masks and read-only paths. It returns the devpts.
func (b *builder) mounts(o StartOptions, root *confine.Root) (pts *os.File, err error) {
	if hasNamespace(b.spec, specs.CgroupNamespace) && o.Namespaces[specs.CgroupNamespace] == nil {
		b.p.Step("make a cgroup namespace")
		b.p.Call(unix.SYS_UNSHARE, linux.N(unix.CLONE_NEWCGROUP))
	}
	covered := map[string]bool{} // destinations below which the image's own tree is hidden
	for _, m := range b.spec.Mounts {
		dest := path.Clean("/" + m.Destination)
		if m.Destination == "" || dest == "/" {
			return nil, fmt.Errorf("a mount's destination cannot be %q", m.Destination)
		}
		mo, err := parseOptions(m)
		if err != nil {
			return nil, err
		}
		under := false
		for c := range covered {
			under = under || strings.HasPrefix(dest, c+"/")
		}
		isFile := false
		var mount linux.Arg
		switch {
		case mo.bind:
			var f *os.File
			if f, isFile, err = bindTree(o.Bundle, m, mo); err != nil {
				return nil, err
			}
			mount = linux.FD(b.own(f))
		case m.Type == "tmpfs":
			f, err := linux.NewMount("tmpfs", "tmpfs", int(mo.set), mo.config...)
			if err != nil {
				return nil, fmt.Errorf("mount %q: %w", dest, err)
			}
			mount = linux.FD(b.own(f))
			if dest == "/dev" {
				if err := b.fillDev(f); err != nil {
					return nil, fmt.Errorf("fill /dev: %w", err)
				}
			}
			if mo.copyUp {
				return nil, fmt.Errorf("mount %q: tmpcopyup is not carried out by this version", dest)
			}
		case m.Type == "devpts":
			f, err := linux.NewMount("devpts", "devpts", int(mo.set), mo.config...)
			if err != nil {
				return nil, fmt.Errorf("mount %q: %w", dest, err)
			}
			mount = linux.FD(b.own(f))
			if dest == "/dev/pts" {
				pts = f
			}
		case m.Type == "cgroup" || m.Type == "cgroup2":
			if err := b.target(root, dest, false, under); err != nil {
				return nil, err
			}
			if err := b.cgroupMount(o, dest, mo); err != nil {
				return nil, err
			}
			covered[dest] = true
			continue
		default: // proc, sysfs, mqueue and whatever else: of the new namespaces, so the child makes it
			if err := b.target(root, dest, false, under); err != nil {
				return nil, err
			}
			source := m.Source
			if source == "" {
				source = m.Type
			}
			b.newMount(m.Type, source, mo, dest)
			b.attach(linux.From(slotMount))
			if dest == "/proc" && m.Type == "proc" {
				b.p.Call(unix.SYS_DUP3, linux.From(slotMount), linux.N(rootFD+1), linux.N(unix.O_CLOEXEC)).Save(slotProc)
			}
			b.setPropagation(linux.From(slotMount), mo)
			b.drop(slotMount)
			covered[dest] = true
			continue
		}
		if err := b.target(root, dest, isFile, under); err != nil {
			return nil, err
		}
		b.step("mount %s", dest)
		b.attach(mount)
		b.setPropagation(mount, mo)
		covered[dest] = true
	}
	if err := b.sysctls(); err != nil {
		return nil, err
	}
	if err := b.devices(root); err != nil {
		return nil, err
	}
	if err := b.masks(root); err != nil {
		return nil, err
	}
	return pts, nil
}

// setPropagation applies the propagation a mount asks for, once it is attached.
func (b *builder) setPropagation(mount linux.Arg, mo mountOptions) {
	if mo.propagation == 0 {
		return
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if mo.propagation&unix.MS_REC != 0 {
		flags |= unix.AT_RECURSIVE
	}
	b.p.Call(unix.SYS_MOUNT_SETATTR, mount, linux.Str(""), linux.N(flags),
		linux.Ptr(&unix.MountAttr{Propagation: uint64(mo.propagation &^ unix.MS_REC)}), linux.N(mountAttrSize))
}

// newMount makes a file system in the child and leaves its mount in slotMount.
func (b *builder) newMount(kind, source string, mo mountOptions, dest string) {
	b.step("mount %s (%s)", dest, kind)
	b.p.Call(unix.SYS_FSOPEN, linux.Str(kind), linux.N(unix.FSOPEN_CLOEXEC)).Save(slotFs)
	b.p.Call(unix.SYS_FSCONFIG, linux.From(slotFs), linux.N(unix.FSCONFIG_SET_STRING), linux.Str("source"), linux.Str(source), linux.N(0))
	for _, c := range mo.config {
		if c.Value == "" {
			b.p.Call(unix.SYS_FSCONFIG, linux.From(slotFs), linux.N(unix.FSCONFIG_SET_FLAG), linux.Str(c.Key), linux.N(0), linux.N(0))
		} else {
			b.p.Call(unix.SYS_FSCONFIG, linux.From(slotFs), linux.N(unix.FSCONFIG_SET_STRING), linux.Str(c.Key), linux.Str(c.Value), linux.N(0))
		}
	}
	b.p.Call(unix.SYS_FSCONFIG, linux.From(slotFs), linux.N(unix.FSCONFIG_CMD_CREATE), linux.N(0), linux.N(0), linux.N(0))
	b.p.Call(unix.SYS_FSMOUNT, linux.From(slotFs), linux.N(unix.FSMOUNT_CLOEXEC), linux.N(mo.set)).Save(slotMount)
	b.drop(slotFs)
}

// target opens the mount point in slotTarget, made where it is missing: by the caller in the image's own tree, by the child
// below another mount.
func (b *builder) target(root *confine.Root, dest string, isFile, under bool) error {
	if !under {
		var err error
		if isFile {
			var f *os.File
			if f, err = root.Create(dest, 0o755, 0, 0); err == nil {
				err = f.Close()
			}
		} else {
			err = root.MkdirAll(dest, 0o755, 0, 0)
		}
		if err != nil && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("make the mount point %q: %w", dest, err)
		}
	} else {
		b.makeBelow(dest, isFile)
	}
	b.step("open the mount point %s", dest)
	b.open(dest, unix.O_PATH, slotTarget)
	return nil
}

// makeBelow makes dest and its parents in the child, one name at a time, each below the opened directory before it.
func (b *builder) makeBelow(dest string, isFile bool) {
	b.step("make the mount point %s", dest)
	parts := strings.Split(strings.Trim(dest, "/"), "/")
	for i, name := range parts {
		b.open(path.Join(parts[:i]...), unix.O_PATH|unix.O_DIRECTORY, slotDir)
		if i == len(parts)-1 && isFile {
			b.p.Call(unix.SYS_MKNODAT, linux.From(slotDir), linux.Str(name), linux.N(unix.S_IFREG|0o755), linux.N(0)).
				Ignore(unix.EEXIST, unix.EROFS, unix.EACCES)
		} else {
			b.p.Call(unix.SYS_MKDIRAT, linux.From(slotDir), linux.Str(name), linux.N(0o755)).Ignore(unix.EEXIST, unix.EROFS, unix.EACCES)
		}
		b.drop(slotDir)
	}
}

// bindTree copies a tree of the host as a mount that stands nowhere, with its attributes.
func bindTree(bundle string, m specs.Mount, mo mountOptions) (f *os.File, isFile bool, err error) {
	source := m.Source
	if !path.IsAbs(source) {
		source = path.Join(bundle, source)
	}
	flags := uint(unix.OPEN_TREE_CLONE)
	if mo.rec {
		flags |= unix.AT_RECURSIVE
	}
	if f, err = linux.OpenTree(unix.AT_FDCWD, source, flags); err != nil {
		return nil, false, fmt.Errorf("bind %q on %q: %w", m.Source, m.Destination, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, false, fmt.Errorf("bind %q: %w", m.Source, err)
	}
	if mo.set|mo.clear != 0 {
		if err := linux.MountSetattr(f, &unix.MountAttr{Attr_set: mo.set, Attr_clr: mo.clear &^ mo.set}, false); err != nil {
			return nil, false, fmt.Errorf("bind %q: %w", m.Source, err)
		}
	}
	if mo.rset|mo.rclear != 0 {
		if err := linux.MountSetattr(f, &unix.MountAttr{Attr_set: mo.rset, Attr_clr: mo.rclear &^ mo.rset}, true); err != nil {
			return nil, false, fmt.Errorf("bind %q: %w", m.Source, err)
		}
	}
	// A copy of a shared mount is shared too: without this, a mount made inside would appear outside.
	if mo.propagation == 0 || mo.propagation&(unix.MS_PRIVATE|unix.MS_SLAVE) != 0 {
		if err := linux.MountSetattr(f, &unix.MountAttr{Propagation: unix.MS_SLAVE}, true); err != nil && !errors.Is(err, unix.EINVAL) {
			return nil, false, fmt.Errorf("bind %q: %w", m.Source, err)
		}
	}
	return f, !fi.IsDir(), nil
}

// devNodes are in every container (config-linux.md, "Default Devices").
var devNodes = [...]struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

var devLinks = [...][2]string{{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"}, {"core", "/proc/kcore"}, {"ptmx", "pts/ptmx"}}

// fillDev puts the default devices into the new /dev, before anybody can see it.
func (b *builder) fillDev(dev *os.File) error {
	at := int(dev.Fd())
	for _, d := range devNodes {
		if err := unix.Mknodat(at, d.name, unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		if err := unix.Fchmodat(at, d.name, 0o666, 0); err != nil { // the umask took bits away
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	for _, l := range devLinks {
		if err := unix.Symlinkat(l[1], at, l[0]); err != nil {
			return fmt.Errorf("%s: %w", l[0], err)
		}
	}
	for _, d := range [...]string{"pts", "shm", "mqueue"} {
		if err := unix.Mkdirat(at, d, 0o755); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	for _, d := range b.spec.Linux.Devices { // those that stand directly in /dev
		if path.Dir(path.Clean(d.Path)) != "/dev" {
			continue
		}
		if err := makeNode(at, path.Base(path.Clean(d.Path)), d); err != nil {
			return err
		}
	}
	if b.spec.Process.Terminal {
		fd, err := unix.Openat(at, "console", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o620)
		if err != nil {
			return fmt.Errorf("console: %w", err)
		}
		return unix.Close(fd)
	}
	return nil
}

func nodeMode(d specs.LinuxDevice) (uint32, error) {
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	switch d.Type {
	case "c", "u":
		return mode | unix.S_IFCHR, nil
	case "b":
		return mode | unix.S_IFBLK, nil
	case "p":
		return mode | unix.S_IFIFO, nil
	}
	return 0, fmt.Errorf("device %q: unknown type %q", d.Path, d.Type)
}

func makeNode(at int, name string, d specs.LinuxDevice) error {
	mode, err := nodeMode(d)
	if err != nil {
		return err
	}
	err = unix.Mknodat(at, name, mode, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor))))
	if err == unix.EEXIST { // one of the default ones
		return nil
	}
	if err == nil {
		err = unix.Fchmodat(at, name, mode&0o777, 0)
	}
	if err == nil {
		uid, gid := 0, 0
		if d.UID != nil {
			uid = int(*d.UID)
		}
		if d.GID != nil {
			gid = int(*d.GID)
		}
		err = unix.Fchownat(at, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("device %q: %w", d.Path, err)
	}
	return nil
}

// devices makes the spec's nodes that are deeper than /dev, or in a /dev that is not a new tmpfs, in the child.
func (b *builder) devices(*confine.Root) error {
	fresh := slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool {
		return path.Clean(m.Destination) == "/dev" && m.Type == "tmpfs"
	})
	for _, d := range b.spec.Linux.Devices {
		name := path.Clean("/" + d.Path)
		if fresh && path.Dir(name) == "/dev" {
			continue
		}
		mode, err := nodeMode(d)
		if err != nil {
			return err
		}
		if dir := path.Dir(name); dir != "/" {
			b.makeBelow(dir, false)
		}
		b.step("make the device %s", name)
		b.open(path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, slotDir)
		b.p.Call(unix.SYS_UMASK, linux.N(0))
		b.p.Call(unix.SYS_MKNODAT, linux.From(slotDir), linux.Str(path.Base(name)), linux.N(mode),
			linux.N(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))).Ignore(unix.EEXIST)
		if d.UID != nil && d.GID != nil {
			b.p.Call(unix.SYS_FCHOWNAT, linux.From(slotDir), linux.Str(path.Base(name)), linux.N(*d.UID), linux.N(*d.GID),
				linux.N(unix.AT_SYMLINK_NOFOLLOW))
		}
		b.p.Call(unix.SYS_UMASK, linux.N(0o022))
		b.drop(slotDir)
	}
	return nil
}

// masks hides and freezes paths. What a path of /proc or /sys is, the host's own tells; of others, the image.
func (b *builder) masks(root *confine.Root) error {
	var null *os.File
	for _, name := range b.spec.Linux.MaskedPaths {
		fi, err := maskedInfo(root, name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("mask %q: %w", name, err)
		}
		var f *os.File
		if fi.IsDir() {
			f, err = linux.NewMount("tmpfs", "tmpfs",
				unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC,
				linux.FsOption{Key: "size", Value: "4k"}, linux.FsOption{Key: "nr_inodes", Value: "2"})
		} else {
			if null == nil {
				if null, err = hostNull(); err != nil {
					return err
				}
				b.own(null)
			}
			f, err = linux.OpenTree(int(null.Fd()), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
		}
		if err != nil {
			return fmt.Errorf("mask %q: %w", name, err)
		}
		b.own(f)
		b.step("mask %s", name)
		b.open(name, unix.O_PATH, slotTarget).Ignore(unix.ENOENT, unix.ENOTDIR)
		b.attach(linux.FD(f))
	}
	for _, name := range b.spec.Linux.ReadonlyPaths {
		b.step("make %s read-only", name)
		b.open(name, unix.O_PATH, slotTarget).Ignore(unix.ENOENT, unix.ENOTDIR)
		b.p.Call(unix.SYS_OPEN_TREE, linux.From(slotTarget), linux.Str(""),
			linux.N(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)).Save(slotMount)
		b.p.Call(unix.SYS_MOUNT_SETATTR, linux.From(slotMount), linux.Str(""), linux.N(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE),
			linux.Ptr(&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), linux.N(mountAttrSize))
		b.attach(linux.From(slotMount))
		b.drop(slotMount)
	}
	return nil
}

func maskedInfo(root *confine.Root, name string) (fs.FileInfo, error) {
	clean := path.Clean("/" + name)
	if strings.HasPrefix(clean, "/proc/") || strings.HasPrefix(clean, "/sys/") {
		return os.Stat(clean)
	}
	return root.Stat(clean)
}

// hostNull opens the host's /dev/null and makes sure that it is that (CVE-2025-31133).
func hostNull() (*os.File, error) {
	f, err := os.OpenFile("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		return nil, errors.Join(errors.New("the host's /dev/null is not the null device; masks would show what they hide"), err, f.Close())
	}
	return f, nil
}

// cgroupMount shows the container its own group at dest, whose mount point is open in slotTarget.
func (b *builder) cgroupMount(o StartOptions, dest string, mo mountOptions) error {
	if o.Cgroup == nil {
		b.drop(slotTarget)
		return nil
	}
	own := hasNamespace(b.spec, specs.CgroupNamespace)
	parts := o.Cgroup.Mounts()
	if len(parts) == 1 && parts[0].Name == "" { // version 2
		return b.cgroupPart(parts[0].Type, "", parts[0].Source, dest, own, mo)
	}
	b.step("mount %s", dest)
	top, err := linux.NewMount("tmpfs", "tmpfs", int(mo.set&^unix.MOUNT_ATTR_RDONLY), linux.FsOption{Key: "mode", Value: "755"})
	if err != nil {
		return fmt.Errorf("mount %q: %w", dest, err)
	}
	b.own(top)
	for _, p := range parts {
		if err := unix.Mkdirat(int(top.Fd()), p.Name, 0o755); err != nil {
			return fmt.Errorf("mount %q: %w", path.Join(dest, p.Name), err)
		}
		for _, l := range p.Links {
			if err := unix.Symlinkat(p.Name, int(top.Fd()), l); err != nil {
				return fmt.Errorf("mount %q: %w", path.Join(dest, l), err)
			}
		}
	}
	b.attach(linux.FD(top))
	for _, p := range parts {
		where := path.Join(dest, p.Name)
		if !own {
			if _, err := os.Stat(p.Source); errors.Is(err, fs.ErrNotExist) {
				continue // a hierarchy this group needed nothing of
			}
		}
		b.step("open the mount point %s", where)
		b.open(where, unix.O_PATH, slotTarget)
		if err := b.cgroupPart(p.Type, p.Data, p.Source, where, own, mo); err != nil {
			return err
		}
	}
	if mo.set&unix.MOUNT_ATTR_RDONLY != 0 {
		b.step("make %s read-only", dest)
		b.p.Call(unix.SYS_MOUNT_SETATTR, linux.FD(top), linux.Str(""), linux.N(unix.AT_EMPTY_PATH),
			linux.Ptr(&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), linux.N(mountAttrSize))
	}
	return nil
}

// cgroupPart mounts one hierarchy on slotTarget: itself in a cgroup namespace, otherwise a bind of the group's directory.
func (b *builder) cgroupPart(kind, data, source, dest string, own bool, mo mountOptions) error {
	if !own {
		f, _, err := bindTree("", specs.Mount{Source: source, Destination: dest}, mo)
		if err != nil {
			return err
		}
		b.own(f)
		b.step("mount %s", dest)
		b.attach(linux.FD(f))
		return nil
	}
	part := mo
	part.config = nil
	for c := range strings.SplitSeq(data, ",") {
		if key, value, _ := strings.Cut(c, "="); key != "" {
			part.config = append(part.config, linux.FsOption{Key: key, Value: value})
		}
	}
	b.newMount(kind, "cgroup", part, dest)
	b.attach(linux.From(slotMount))
	b.drop(slotMount)
	return nil
}

// sysctls are written through the new procfs itself, so that no link or mount can turn the write elsewhere
// (CVE-2025-52881).
func (b *builder) sysctls() error {
	names := make([]string, 0, len(b.spec.Linux.Sysctl))
	for name := range b.spec.Linux.Sysctl {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Type == "proc" && path.Clean(m.Destination) == "/proc" }) {
			return fmt.Errorf("sysctl %q needs a procfs at /proc", name)
		}
		file := "sys/" + strings.ReplaceAll(name, ".", "/")
		if strings.Contains(name, "/") { // as sysctl(8): a slash keeps dots of interface names apart
			file = "sys/" + name
		}
		if !isLocal(file) {
			return fmt.Errorf("sysctl %q is not a name of one", name)
		}
		how := &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV}
		value := []byte(b.spec.Linux.Sysctl[name] + "\n")
		b.step("set the sysctl %s to %q", name, b.spec.Linux.Sysctl[name])
		b.p.Call(unix.SYS_OPENAT2, linux.From(slotProc), linux.Str(file), linux.Ptr(how), linux.N(unix.SizeofOpenHow)).Save(slotFile)
		b.p.Call(unix.SYS_WRITE, linux.From(slotFile), linux.Bytes(value), linux.N(len(value)))
		b.drop(slotFile)
	}
	return nil
}

func isLocal(name string) bool {
	return !path.IsAbs(name) && path.Clean(name) == name && name != ".." && !strings.HasPrefix(name, "../")
}

// openPty makes a terminal in a devpts nobody else sees yet.
func openPty(pts *os.File, rows, cols uint16, user specs.User) (master, slave *os.File, err error) {
	m, err := unix.Openat(int(pts.Fd()), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(m), "terminal")
	defer func() {
		if err != nil {
			_ = master.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	s, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, nil, fmt.Errorf("open a terminal's other end: %w", errno)
	}
	slave = os.NewFile(s, "terminal")
	defer func() {
		if err != nil {
			_ = slave.Close()
		}
	}()
	if rows > 0 && cols > 0 {
		if err := unix.IoctlSetWinsize(m, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			return nil, nil, fmt.Errorf("set the terminal's size: %w", err)
		}
	}
	if err := slave.Chown(int(user.UID), -1); err != nil {
		return nil, nil, fmt.Errorf("give the terminal to its user: %w", err)
	}
	return master, slave, nil
}

// console shows the terminal at /dev/console as well. slave is in the devpts that was mounted before.
func (b *builder) console(slave *os.File) {
	b.p.Step("mount /dev/console")
	b.open("/dev/console", unix.O_PATH|unix.O_NOFOLLOW, slotTarget).Ignore(unix.ENOENT)
	b.p.Call(unix.SYS_OPEN_TREE, linux.FD(slave), linux.Str(""), linux.N(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)).
		Save(slotMount)
	b.attach(linux.From(slotMount))
	b.drop(slotMount)
}
