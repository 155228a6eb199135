package ocirun

import (
	"strings"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// program writes down what the child does. It is forked before anything is mounted, since only it can make what belongs to its pid
// and cgroup namespaces, and the mounts come in the spec's order:
//
//	the thread                       the child
//	  fork ────────────────────────▶ make /proc
//	  root in place, pivot_root  ◀── its mount, which stands nowhere
//	  mounts in their order          session, cgroup
//	                             ◀── mounts of cgroup hierarchies
//	  devices, masks, …
//	  terminal, HOME ──────────────▶ stdio, and so on up to execve
func (s *setup) program() error {
	p, e := &s.prog, &s.exec
	theirs, err := s.linkUp()
	if err != nil {
		return err
	}
	p.Call(unix.SYS_CLOSE, linux.FD(s.link)) // or this end would keep it from hearing of the parent's end
	p.Call(unix.SYS_CHDIR, linux.Str("/"))   // which becomes the container's with pivot_root
	if e.userNS != nil {
		if err := e.joinRemapped(p); err != nil {
			return err
		}
		s.makeProcs(p, theirs)
	} else {
		s.makeProcs(p, theirs)
		e.join(p)
	}
	s.makeGroups(p, theirs)
	s.await(p, theirs)
	e.stdioOps(p)
	if err := s.pivotInChild(p); err != nil {
		return err
	}
	if err := personality(p, s.lin.Personality); err != nil {
		return err
	}
	if err := e.memory(p, s.lin.MemoryPolicy); err != nil {
		return err
	}
	if s.o.Hold || e.moved {
		e.hold, e.lateReport = s.o.HoldFile, s.o.ReportFile
		if e.hold == nil {
			r, w, err := linux.Pipe()
			if err != nil {
				return err
			}
			e.hold, s.holdWriter = s.keep(r), w
		}
	}
	return e.become(p)
}

// pivotInChild adds pivot for a child that hooks look at first.
func (s *setup) pivotInChild(p *linux.Program) error {
	e := &s.exec
	hooked := s.latePivot && hooksBeforePivot(hooksOf(s.spec))
	if hooked {
		r, w, err := linux.Pipe()
		if err != nil {
			return err
		}
		e.hooksGate, s.gateWriter = s.keep(r), w
	}
	if hooked && e.sibling { // the hooks are shown the second child: see enter and leaveHostFor
		p.Step("enter the root file system")
		p.Call(unix.SYS_FCHDIR, linux.FD(s.rootfs))
		p.Call(unix.SYS_CHROOT, linux.Str("."))
		p.Call(unix.SYS_CHDIR, linux.Str("/"))
		return nil
	}
	if !s.latePivot {
		p.Step("enter the root file system")
		if s.o.NoPivot { // which takes only the thread there
			p.Call(unix.SYS_FCHDIR, linux.FD(s.rootfs))
			p.Call(unix.SYS_CHROOT, linux.Str("."))
		}
		p.Call(unix.SYS_CHDIR, linux.Str("/"))
		return nil
	}
	if hooked {
		p.Call(unix.SYS_CLOSE, linux.FD(s.gateWriter)) // or this end would keep it from hearing of the parent's end
		awaitHooks(p, linux.FD(e.hooksGate))
		e.hooksGate = nil // nothing further is to be kept for it
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
