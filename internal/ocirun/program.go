package ocirun

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

const resolveInRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// program writes down what the child does.
func (s *setup) program() error {
	p := &s.prog
	if s.exec.userNS != nil {
		if err := s.exec.joinRemapped(p); err != nil {
			return err
		}
	} else {
		s.exec.join(p)
	}
	for i := range s.mounts {
		s.lateMount(p, &s.mounts[i])
	}
	if err := s.pivotInChild(p); err != nil {
		return err
	}
	s.lateMasks(p)
	if err := personality(p, s.lin.Personality); err != nil {
		return err
	}
	if err := s.exec.memory(p, s.lin.MemoryPolicy); err != nil {
		return err
	}
	if s.o.Hold {
		s.exec.hold, s.exec.lateReport = s.o.HoldFile, s.o.ReportFile
		if s.exec.hold == nil {
			r, w, err := linux.Pipe()
			if err != nil {
				return err
			}
			s.exec.hold, s.holdWriter = s.keep(r), w
		}
	}
	return s.exec.become(p)
}

// pivotInChild adds pivot for a child that hooks look at first.
func (s *setup) pivotInChild(p *linux.Program) error {
	if !s.latePivot {
		return nil
	}
	r, w, err := linux.Pipe()
	if err != nil {
		return err
	}
	s.gate, s.gateWriter = s.keep(r), w
	if hooksBeforePivot(hooksOf(s.spec)) {
		p.Step("wait for the hooks")
		p.Notify()
		p.Call(unix.SYS_CLOSE, linux.FD(w)) // or this end would keep it from hearing of the parent's end
		p.Call(unix.SYS_READ, linux.FD(r), linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
	}
	p.Step("enter the root file system")
	p.Call(unix.SYS_FCHDIR, linux.FD(s.rootfs))
	if s.o.NoPivot {
		p.Call(unix.SYS_CHROOT, linux.Str("."))
	} else {
		p.Step("pivot_root")
		p.Call(unix.SYS_PIVOT_ROOT, linux.Str("."), linux.Str("."))
		p.Step("leave the host's mounts")
		p.Call(unix.SYS_UMOUNT2, linux.Str("."), linux.N(unix.MNT_DETACH))
	}
	p.Call(unix.SYS_CHDIR, linux.Str("/"))
	if word := s.lin.RootfsPropagation; word != "" {
		p.Step("propagation of the root file system")
		prop, _ := parsePropagation(word)
		flags := uintptr(unix.AT_EMPTY_PATH)
		if prop.recursive {
			flags |= unix.AT_RECURSIVE
		}
		a := &unix.MountAttr{Propagation: prop.flag}
		p.Call(unix.SYS_MOUNT_SETATTR, linux.FD(s.rootfs), linux.Str(""), linux.N(flags), linux.Ptr(a), linux.N(unsafe.Sizeof(*a)))
	}
	return nil
}

func (s *setup) fork() (err error) {
	s.child, err = s.exec.fork(&s.prog)
	return err
}

// lateMount adds one mount that only the child can make or place.
func (s *setup) lateMount(p *linux.Program, m *mount) {
	if m.kind == kindCgroup1 {
		for i := range m.groups {
			if gm := &m.groups[i]; gm.tree == nil {
				p.Step("mount cgroup " + gm.Name)
				tree := newFs(p, "cgroup", "cgroup", groupOptions(gm.Data), m.set)
				moveOnto(p, linux.From(tree), linux.FD(gm.target))
			}
		}
		return
	}
	if !m.late {
		return
	}
	p.Step(fmt.Sprintf("mount %q", m.dest))
	var tree linux.Arg
	switch m.kind {
	case kindProc:
		tree = linux.From(newFs(p, "proc", m.Source, m.data, m.set|m.rset))
	case kindCgroup2:
		tree = linux.From(newFs(p, "cgroup2", "cgroup", nil, m.set|m.rset))
	default:
		if m.tree == nil { // a tmpfs in /proc, say
			tree = linux.From(newFs(p, m.Type, m.Source, m.data, m.set|m.rset))
		} else {
			tree = linux.FD(m.tree)
		}
	}
	if m.target != nil {
		moveOnto(p, tree, linux.FD(m.target))
		return
	}
	moveOnto(p, tree, linux.From(s.openInRoot(p, m.dest)))
}

// groupOptions turns mount(2)'s data into options one by one.
func groupOptions(data string) []fsOption {
	var list []fsOption
	for word := range strings.SplitSeq(data, ",") {
		key, value, _ := strings.Cut(word, "=")
		list = append(list, fsOption{Key: key, Value: value})
	}
	return list
}

type fsOption = linux.FsOption

// newFs makes a file system in the child's namespaces.
func newFs(p *linux.Program, fstype, source string, options []fsOption, attrs uint64) linux.Slot {
	const setFlag, setString, create = unix.FSCONFIG_SET_FLAG, unix.FSCONFIG_SET_STRING, unix.FSCONFIG_CMD_CREATE
	fs, tree := p.NewSlot(), p.NewSlot()
	p.Call(unix.SYS_FSOPEN, linux.Str(fstype), linux.N(unix.FSOPEN_CLOEXEC)).Save(fs)
	if source != "" {
		options = append([]fsOption{{Key: "source", Value: source}}, options...)
	}
	for _, o := range options {
		if o.Value == "" {
			p.Call(unix.SYS_FSCONFIG, linux.From(fs), linux.N(setFlag), linux.Str(o.Key), linux.N(0), linux.N(0))
		} else {
			p.Call(unix.SYS_FSCONFIG, linux.From(fs), linux.N(setString), linux.Str(o.Key), linux.Str(o.Value), linux.N(0))
		}
	}
	p.Call(unix.SYS_FSCONFIG, linux.From(fs), linux.N(create), linux.N(0), linux.N(0), linux.N(0))
	p.Call(unix.SYS_FSMOUNT, linux.From(fs), linux.N(unix.FSMOUNT_CLOEXEC), linux.N(attrs)).Save(tree)
	return tree
}

func moveOnto(p *linux.Program, tree, target linux.Arg) {
	p.Call(unix.SYS_MOVE_MOUNT, tree, linux.Str(""), target, linux.Str(""),
		linux.N(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// openInRoot opens a path of the container as a place.
func (s *setup) openInRoot(p *linux.Program, name string) linux.Slot {
	slot := p.NewSlot()
	s.openat2(p, name).Save(slot)
	return slot
}

func (s *setup) openat2(p *linux.Program, name string) *linux.Call {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolveInRoot}
	return p.Call(unix.SYS_OPENAT2, linux.FD(s.root.File()), linux.Str(name), linux.Ptr(how), linux.N(unsafe.Sizeof(*how)))
}

// lateMasks adds the masks and read-only paths of /proc.
func (s *setup) lateMasks(p *linux.Program) {
	place, tree := p.NewSlot(), p.NewSlot()
	ro := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	for _, name := range s.masks.ro {
		p.Step(fmt.Sprintf("read-only path %q", name))
		s.openat2(p, name).Save(place).Ignore(unix.ENOENT, unix.ENOTDIR)
		p.Call(unix.SYS_OPEN_TREE, linux.From(place), linux.Str(""),
			linux.N(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)).Save(tree)
		p.Call(unix.SYS_MOUNT_SETATTR, linux.From(tree), linux.Str(""), linux.N(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE),
			linux.Ptr(ro), linux.N(unsafe.Sizeof(*ro)))
		moveOnto(p, linux.From(tree), linux.From(place))
	}
	for _, m := range s.masks.late {
		p.Step(fmt.Sprintf("masked path %q", m.path))
		s.openat2(p, m.path).Save(place).Ignore(unix.ENOENT, unix.ENOTDIR)
		moveOnto(p, linux.FD(m.tree), linux.From(place))
	}
}
