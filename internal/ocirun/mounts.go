package ocirun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mount is one entry of the spec's mounts on its way into the container.
type mount struct {
	specs.Mount
	dest string // clean
	mountOptions

	kind   mountKind
	tree   *os.File     // the mount that stands nowhere yet
	groups []groupMount // of a cgroup mount
	late   bool         // a tmpfs that has yet to become read-only
}

type mountKind int

const (
	kindBind    mountKind = iota
	kindHost              // a file system made from the host's side, since its source may be a path there
	kindTmpfs             // takes its mode from what it covers
	kindInside            // belongs to the namespaces of who makes it (sysfs, mqueue), or to nobody else (devpts)
	kindProc              // belongs to the container's pid namespace
	kindCgroup1           // the container's part of every hierarchy
	kindCgroup2
	kindRemount // of what an earlier entry mounted
)

// groupMount is one hierarchy of a cgroup mount.
type groupMount struct {
	cgroup.Mount
	tree *os.File
}

// mountOptions are a mount's options, parsed.
type mountOptions struct {
	bind, recursive bool
	remount, copyUp bool
	idmap           string // "idmap" or "ridmap"
	set, clr        uint64 // MOUNT_ATTR_ bits of the mount
	rset, rclr      uint64 // of the mount and all below it
	propagation     []propagationWord
	data            []linux.FsOption
}

type propagationWord struct {
	flag      uint64
	recursive bool
}

// parsePropagation reads "private", "rslave" and so on.
func parsePropagation(word string) (p propagationWord, known bool) {
	switch strings.TrimPrefix(word, "r") {
	case "private":
		p.flag = unix.MS_PRIVATE
	case "slave":
		p.flag = unix.MS_SLAVE
	case "shared":
		p.flag = unix.MS_SHARED
	case "unbindable":
		p.flag = unix.MS_UNBINDABLE
	}
	p.recursive = word[:min(1, len(word))] == "r"
	return p, p.flag != 0
}

func isPropagation(word string) bool {
	_, known := parsePropagation(word)
	return known
}

// attrWord is what an option does to a mount's attributes.
type attrWord struct {
	name     string
	set, clr uint64
}

// attrWords are the options that are attributes of the mount; each may have an "r" before it, for all mounts below.
var attrWords = [...]attrWord{
	{"ro", unix.MOUNT_ATTR_RDONLY, 0}, {"rw", 0, unix.MOUNT_ATTR_RDONLY},
	{"nosuid", unix.MOUNT_ATTR_NOSUID, 0}, {"suid", 0, unix.MOUNT_ATTR_NOSUID},
	{"nodev", unix.MOUNT_ATTR_NODEV, 0}, {"dev", 0, unix.MOUNT_ATTR_NODEV},
	{"noexec", unix.MOUNT_ATTR_NOEXEC, 0}, {"exec", 0, unix.MOUNT_ATTR_NOEXEC},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME, 0}, {"diratime", 0, unix.MOUNT_ATTR_NODIRATIME},
	{"relatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME}, {"norelatime", 0, unix.MOUNT_ATTR__ATIME},
	{"noatime", unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME}, {"atime", 0, unix.MOUNT_ATTR__ATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME}, {"nostrictatime", 0, unix.MOUNT_ATTR__ATIME},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW, 0}, {"symfollow", 0, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

func findAttr(word string) (attrWord, bool) {
	for _, a := range attrWords {
		if a.name == word {
			return a, true
		}
	}
	return attrWord{}, false
}

// parseOptions sorts a mount's options (runtime-spec, config.md, "Linux mount options").
func parseOptions(options []string) (o mountOptions, err error) {
	for _, word := range options {
		switch word {
		case "bind":
			o.bind = true
			continue
		case "rbind":
			o.bind, o.recursive = true, true
			continue
		case "defaults", "async", "silent", "loud", "":
			continue
		case "remount":
			o.remount = true
			continue
		case "tmpcopyup":
			o.copyUp = true
			continue
		case "idmap", "ridmap":
			o.idmap = word
			continue
		}
		if genericOption(word) {
			o.data = append(o.data, linux.FsOption{Key: word})
			continue
		}
		if a, there := findAttr(word); there {
			apply(a, &o.set, &o.clr)
			continue
		}
		if p, there := parsePropagation(word); there {
			o.propagation = append(o.propagation, p)
			continue
		}
		if a, there := findAttr(strings.TrimPrefix(word, "r")); there {
			apply(a, &o.rset, &o.rclr)
			continue
		}
		key, value, _ := strings.Cut(word, "=")
		o.data = append(o.data, linux.FsOption{Key: key, Value: value})
	}
	return o, nil
}

// genericOption tells of an option that every file system may have, by the kernel's generic parser. A bind mount can have it, too, and
// shows what its file system has.
func genericOption(word string) bool {
	switch word {
	case "sync", "dirsync", "lazytime", "mand", "nolazytime", "nomand", "iversion", "noiversion", "acl", "noacl":
		return true
	}
	return false
}

// apply makes a later option win over an earlier one.
func apply(a attrWord, set, clr *uint64) {
	*set = *set&^a.clr | a.set
	*clr = *clr&^a.set | a.clr
}

func parseMounts(list []specs.Mount) ([]mount, error) {
	mounts := make([]mount, len(list))
	for i, m := range list {
		o, err := parseOptions(m.Options)
		if err != nil {
			return nil, fmt.Errorf("mount %q: %w", m.Destination, err)
		}
		if !path.IsAbs(m.Destination) {
			// The spec wants absolute ones; what was written for older versions of it counts from the root.
			m.Destination = "/" + m.Destination
		}
		mounts[i] = mount{Mount: m, dest: path.Clean(m.Destination), mountOptions: o}
		if err := mounts[i].checkIDMap(); err != nil {
			return nil, err
		}
		if o.copyUp && m.Type != "tmpfs" {
			return nil, invalid("mount %q: tmpcopyup is for a tmpfs", m.Destination)
		}
		if bind := o.bind || m.Type == "bind"; bind && !o.remount {
			if i := slices.IndexFunc(o.data, func(d linux.FsOption) bool { return !genericOption(d.Key) }); i >= 0 {
				return nil, invalid("mount %q: a bind mount cannot have the option %q of a file system", m.Destination, o.data[i].Key)
			}
		}
		if mounts[i].dest == "/" {
			return nil, fmt.Errorf("mount %q: the root is not a mount point: %w", m.Destination, errdefs.ErrInvalidArgument)
		}
	}
	return mounts, nil
}

// mountFromHost decides what kind of mount m is and prepares what needs the host's view.
func (s *setup) mountFromHost(m *mount) (err error) {
	switch {
	case m.remount:
		m.kind = kindRemount
		return nil
	case m.bind || m.Type == "bind":
		m.kind = kindBind
	case m.Type == "tmpfs":
		m.kind = kindTmpfs
	case m.Type == "proc":
		m.kind = kindProc
		s.proc = s.proc || m.dest == "/proc"
	case m.Type == "sysfs" || m.Type == "mqueue" || m.Type == "devpts":
		m.kind = kindInside
	case m.Type == "cgroup" || m.Type == "cgroup2":
		return s.cgroupFromHost(m)
	case m.Type == "":
		return fmt.Errorf("mount %q has no type: %w", m.dest, errdefs.ErrInvalidArgument)
	default:
		m.kind = kindHost
	}
	switch m.kind {
	case kindBind:
		err = s.bindFromHost(m)
	case kindHost:
		m.tree, err = linux.NewMount(m.Type, m.Source, int(m.set|m.rset), labelled(s.lin.MountLabel, m.Type, m.data)...)
	default:
		return nil
	}
	if err != nil {
		return fmt.Errorf("mount %q: %w", m.dest, err)
	}
	s.keep(m.tree)
	return nil
}

// bindFromHost copies the mount at the source, or takes the one that was handed over for it.
func (s *setup) bindFromHost(m *mount) (err error) {
	if tree := s.o.Trees[m.Destination]; tree != nil {
		fd, err := unix.FcntlInt(tree.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		m.tree = os.NewFile(uintptr(fd), m.dest)
		if err = m.attributes(); err != nil {
			_ = m.tree.Close()
		}
		return err
	}
	src := m.Source
	if !path.IsAbs(src) {
		src = path.Join(s.o.Bundle, src)
	}
	flags := uint(unix.OPEN_TREE_CLONE)
	if m.recursive {
		flags |= unix.AT_RECURSIVE
	}
	if m.tree, err = linux.OpenTree(unix.AT_FDCWD, src, flags); err != nil {
		return fmt.Errorf("source %q: %w", src, errnoOf(err))
	}
	if err = m.applyIDMap(s.lin); err == nil {
		err = m.attributes()
	}
	if err != nil {
		_ = m.tree.Close()
	}
	return err
}

// attributes gives a copied mount what its options say; without a word about propagation it hears of the host's mounts
// and tells nothing back.
func (m *mount) attributes() error {
	if m.set|m.clr != 0 {
		a := unix.MountAttr{Attr_set: m.set, Attr_clr: m.clr}
		if err := linux.MountSetattr(m.tree, &a, false); err != nil {
			return fmt.Errorf("options %q: %w", m.Options, err)
		}
	}
	if m.rset|m.rclr != 0 {
		a := unix.MountAttr{Attr_set: m.rset, Attr_clr: m.rclr}
		if err := linux.MountSetattr(m.tree, &a, true); err != nil {
			return fmt.Errorf("options %q: %w", m.Options, err)
		}
	}
	words := m.propagation
	if len(words) == 0 {
		words = []propagationWord{{unix.MS_SLAVE, true}}
	}
	for _, p := range words {
		if err := linux.MountSetattr(m.tree, &unix.MountAttr{Propagation: p.flag}, p.recursive); err != nil {
			return fmt.Errorf("propagation: %w", err)
		}
	}
	return nil
}

// mount makes, from within the container, what could not be made from outside, and puts m in place.
func (s *setup) mount(m *mount) (err error) {
	switch m.kind {
	case kindProc:
		if m.tree, err = s.procTree(m); err == nil {
			err = s.place(m.tree, m.dest, true)
		}
		return err
	case kindRemount:
		return s.remount(m)
	case kindCgroup1, kindCgroup2:
		return s.mountCgroup(m)
	case kindTmpfs:
		m.tree, err = s.tmpfs(m)
		m.late = (m.set|m.rset)&unix.MOUNT_ATTR_RDONLY != 0
	case kindInside:
		m.tree, err = linux.NewMount(m.Type, m.Source, int(m.set|m.rset), labelled(s.lin.MountLabel, m.Type, s.owned(m.data, false))...)
	case kindBind, kindHost:
		return s.place(m.tree, m.dest, false)
	}
	if err != nil {
		return err
	}
	s.keep(m.tree)
	if m.Type == "devpts" {
		s.ptsMount = m.tree
	}
	return s.place(m.tree, m.dest, m.Type == "sysfs")
}

// tmpfs makes one that has the mode of the directory it covers, if no other was asked for.
func (s *setup) tmpfs(m *mount) (*os.File, error) {
	data := m.data
	if !slices.ContainsFunc(data, func(o linux.FsOption) bool { return o.Key == "mode" }) {
		if fi, err := s.root.Stat(m.dest); err == nil && fi.IsDir() {
			mode := uint32(fi.Mode().Perm())
			if fi.Mode()&fs.ModeSticky != 0 {
				mode |= unix.S_ISVTX
			}
			data = append(slices.Clone(data), linux.FsOption{Key: "mode", Value: fmt.Sprintf("%o", mode)})
		}
	}
	data = labelled(s.lin.MountLabel, m.Type, s.owned(data, true))
	tree, err := linux.NewMount("tmpfs", m.Source, int((m.set|m.rset)&^unix.MOUNT_ATTR_RDONLY), data...)
	if err != nil || !m.copyUp {
		return tree, err
	}
	if err = s.copyUp(m.dest, tree); err != nil {
		return nil, errors.Join(err, tree.Close())
	}
	return tree, nil
}

// finishTmpfs makes those read-only that shall be, when what is to be mounted or made on them is there; "" stands for all, wherever
// they are.
func (s *setup) finishTmpfs(dest string) error {
	for i := range s.mounts {
		m := &s.mounts[i]
		if !m.late || dest != "" && m.dest != dest {
			continue
		}
		m.late = false
		if err := linux.MountSetattr(m.tree, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
			return fmt.Errorf("mount %q: make it read-only: %w", m.dest, err)
		}
	}
	return nil
}

// owned turns the users and groups in a file system's options into the host's, as who makes it is; with root it is the
// container's root's where nobody else is named.
func (s *setup) owned(data []linux.FsOption, root bool) []linux.FsOption {
	if s.exec.ids == nil {
		return data
	}
	data = slices.Clone(data)
	for _, k := range [...]struct {
		key  string
		host func(uint32) int
	}{{"uid", s.exec.ids.uid}, {"gid", s.exec.ids.gid}} {
		i := slices.IndexFunc(data, func(o linux.FsOption) bool { return o.Key == k.key })
		if i < 0 && root {
			data = append(data, linux.FsOption{Key: k.key, Value: strconv.Itoa(k.host(0))})
		} else if i >= 0 {
			if n, err := strconv.ParseUint(data[i].Value, 10, 31); err == nil {
				data[i].Value = strconv.Itoa(k.host(uint32(n)))
			}
		}
	}
	return data
}

// place puts a mount on dest, which is made if it is missing. Where a later step trusts the place itself, a link there is
// refused (CVE-2023-27561).
func (s *setup) place(tree *os.File, dest string, noLink bool) error {
	fi, err := tree.Stat()
	if err != nil {
		return err
	}
	var target *os.File
	switch {
	case !fi.IsDir():
		target, err = s.root.Create(dest, 0o644, s.exec.ids.uid(0), s.exec.ids.gid(0))
	case noLink:
		target, err = s.plainDir(dest)
	default:
		target, err = s.root.OpenDirAll(dest, 0o755, s.exec.ids.uid(0), s.exec.ids.gid(0))
	}
	if err != nil {
		if errors.Is(err, unix.ENOTDIR) && fi.IsDir() {
			return fmt.Errorf("a directory cannot be mounted onto a file: %w", err)
		}
		return err
	}
	defer target.Close()
	if at, err := target.Stat(); err == nil && at.IsDir() && !fi.IsDir() {
		return fmt.Errorf("a file cannot be mounted onto a directory: %w", unix.EISDIR)
	}
	return linux.MoveMount(tree, target)
}

// plainDir opens dest, or makes it, where its last part must be a directory and no link.
func (s *setup) plainDir(dest string) (*os.File, error) {
	if fi, err := s.root.Lstat(dest); err == nil && !fi.IsDir() {
		return nil, fmt.Errorf("it must be an ordinary directory of the image, not a link or a file: %w",
			errdefs.ErrInvalidArgument)
	}
	if err := s.root.MkdirAll(dest, 0o755, s.exec.ids.uid(0), s.exec.ids.gid(0)); err != nil {
		return nil, err
	}
	return s.root.OpenFile(dest, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// cgroupFromHost prepares a cgroup mount: from within a cgroup namespace of its own the child can make it; otherwise
// the container's groups are bound from the host, so that it sees no others (CVE-2023-25809).
func (s *setup) cgroupFromHost(m *mount) error {
	fresh, join, err := s.wanted(specs.CgroupNamespace)
	if err != nil {
		return err
	}
	inside := fresh || join != nil
	var list []cgroup.Mount
	switch g := s.o.Cgroup; {
	case g != nil:
		list = g.Mounts()
	case inside: // the caller's group, as the root of the namespace
		host, err := cgroup.Detect()
		if err != nil {
			return fmt.Errorf("mount %q: %w", m.dest, err)
		}
		list = host.Mounts()
		m.set |= unix.MOUNT_ATTR_RDONLY
	case s.exec.nested: // others' are not shown
		s.exec.warn("mount %q is empty: the container has neither a cgroup nor a cgroup namespace", m.dest)
	default:
		return fmt.Errorf("mount %q: the container has no cgroup to show; add a cgroup namespace, or leave the mount out: %w", m.dest,
			errdefs.ErrInvalidArgument)
	}
	m.kind = kindCgroup1
	for _, gm := range list {
		one := groupMount{Mount: gm}
		if gm.Name == "" {
			m.kind = kindCgroup2
		}
		if !inside {
			one.tree, err = linux.OpenTree(unix.AT_FDCWD, gm.Source, unix.OPEN_TREE_CLONE)
			if errors.Is(err, fs.ErrNotExist) {
				continue // a hierarchy the group has no part in
			}
			if err != nil {
				return fmt.Errorf("mount %q: %w", m.dest, err)
			}
			s.keep(one.tree)
			a := unix.MountAttr{Attr_set: m.set | m.rset, Propagation: unix.MS_PRIVATE}
			if err := linux.MountSetattr(one.tree, &a, false); err != nil {
				return fmt.Errorf("mount %q: %w", m.dest, err)
			}
		}
		m.groups = append(m.groups, one)
	}
	return nil
}

// mountCgroup mounts version 2, or the tmpfs of version 1 with a directory for each hierarchy.
func (s *setup) mountCgroup(m *mount) error {
	if err := s.receiveGroups(m); err != nil {
		return err
	}
	if m.kind == kindCgroup2 && len(m.groups) > 0 {
		return s.place(m.groups[0].tree, m.dest, false)
	}
	top, err := linux.NewMount("tmpfs", "cgroup", int(m.set&^unix.MOUNT_ATTR_RDONLY),
		s.owned([]linux.FsOption{{Key: "mode", Value: "755"}}, true)...)
	if err != nil {
		return err
	}
	s.keep(top)
	if err := s.place(top, m.dest, false); err != nil {
		return err
	}
	for i := range m.groups {
		gm := &m.groups[i]
		if err := unix.Mkdirat(int(top.Fd()), gm.Name, 0o755); err != nil {
			return os.NewSyscallError("mkdirat", err)
		}
		fd, err := unix.Openat(int(top.Fd()), gm.Name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		target := os.NewFile(uintptr(fd), gm.Name)
		err = linux.MoveMount(gm.tree, target)
		if err = errors.Join(err, target.Close()); err != nil {
			return fmt.Errorf("%s: %w", gm.Name, err)
		}
		for _, l := range gm.Links {
			if err := unix.Symlinkat(gm.Name, int(top.Fd()), l); err != nil {
				return os.NewSyscallError("symlinkat", err)
			}
		}
	}
	if m.set&unix.MOUNT_ATTR_RDONLY == 0 {
		return nil
	}
	return linux.MountSetattr(top, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false)
}

// errnoOf drops the path that an error names, for a sentence that names it already.
func errnoOf(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
