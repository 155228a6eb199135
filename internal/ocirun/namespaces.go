package ocirun

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

type nsFlag struct {
	kind specs.LinuxNamespaceType
	flag int
	file string // in /proc/PID/ns
}

// nsFlags are the kernel's names for the namespaces, in the order they are joined in.
var nsFlags = [...]nsFlag{
	{specs.NetworkNamespace, unix.CLONE_NEWNET, "net"},
	{specs.IPCNamespace, unix.CLONE_NEWIPC, "ipc"},
	{specs.UTSNamespace, unix.CLONE_NEWUTS, "uts"},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP, "cgroup"},
	{specs.PIDNamespace, unix.CLONE_NEWPID, "pid"},
	{specs.TimeNamespace, unix.CLONE_NEWTIME, "time"},
	{specs.MountNamespace, unix.CLONE_NEWNS, "mnt"},
}

// wanted is what the spec says about one kind of namespace: nothing (the host's), a new one, or one to join.
func (s *setup) wanted(kind specs.LinuxNamespaceType) (fresh bool, join *os.File, err error) {
	if f := s.o.Namespaces[kind]; f != nil {
		return false, f, nil
	}
	i := slices.IndexFunc(s.lin.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	if i < 0 {
		return false, nil, nil
	}
	name := s.lin.Namespaces[i].Path
	if name == "" {
		return true, nil, nil
	}
	f, err := linux.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would be waited for
	var sfs unix.Statfs_t
	if err == nil {
		s.keep(f)
		err = unix.Fstatfs(int(f.Fd()), &sfs)
	}
	if err == nil && sfs.Type != unix.NSFS_MAGIC {
		err = invalid("%q is no namespace", name)
	}
	if err != nil {
		return false, nil, fmt.Errorf("join the %s namespace: %w", kind, err)
	}
	return false, f, nil
}

// has says whether the spec has a word about one kind of namespace, joins whether that is one to join.
func (s *setup) has(kind specs.LinuxNamespaceType) bool {
	return s.o.Namespaces[kind] != nil || slices.ContainsFunc(s.lin.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func (s *setup) joins(kind specs.LinuxNamespaceType) bool {
	return s.o.Namespaces[kind] != nil ||
		slices.ContainsFunc(s.lin.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path != "" })
}

// enterNamespaces gives the thread the container's namespaces. A new pid namespace begins with the fork; a new cgroup
// namespace begins when the child is in its cgroup; a thread of many may not change its time namespace.
func (s *setup) enterNamespaces() error {
	flags := unix.CLONE_NEWNS | unix.CLONE_FS
	_, mounts, err := s.wanted(specs.MountNamespace)
	if err != nil {
		return err
	}
	if mounts != nil {
		flags = unix.CLONE_FS
	}
	for _, ns := range nsFlags {
		if ns.flag == unix.CLONE_NEWNS {
			continue
		}
		fresh, join, err := s.wanted(ns.kind)
		if err != nil {
			return err
		}
		switch {
		case fresh && ns.flag == unix.CLONE_NEWPID:
			s.exec.cloneFlags |= unix.CLONE_NEWPID
			s.exec.freshPid = true
		case fresh && ns.flag == unix.CLONE_NEWCGROUP:
			s.exec.newCgroupNS = true
		case fresh:
			flags |= ns.flag
		case join != nil && ns.flag == unix.CLONE_NEWPID:
			// Joined by the child: see joined.go.
			if !s.o.private(s.lin, ns.kind) {
				continue
			}
			s.exec.pidNS, s.exec.sibling = join, true
			if err := s.mayJoinPids(); err != nil {
				return err
			}
		case join != nil && ns.flag == unix.CLONE_NEWTIME:
			s.exec.timeNS = join
		case join != nil:
			if err := linux.Setns(join, ns.flag); err != nil {
				return fmt.Errorf("join the %s namespace: %w", ns.kind, err)
			}
		}
	}
	within := flags &^ (unix.CLONE_FS | unix.CLONE_NEWTIME)
	remapped, err := s.userNamespace(within)
	if err != nil {
		return err
	}
	if remapped {
		flags &^= within
	}
	s.latePivot = s.latePivot || remapped || s.exec.nested || mounts != nil
	if err := linux.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	flags |= within
	if flags&unix.CLONE_NEWNET != 0 {
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("bring up the loopback link: %w", err)
		}
	}
	if flags&unix.CLONE_NEWTIME != 0 {
		if err := s.timeOffsets(); err != nil {
			return err
		}
	}
	// Where the group may be joined from outside, both children can be kept out of it until there is only one.
	s.exec.moved = s.exec.sibling && s.o.Cgroup != nil && !s.exec.newCgroupNS
	if mounts == nil {
		return nil
	}
	if err := linux.Setns(mounts, unix.CLONE_NEWNS); err != nil { // last, since no path is the host's from here on
		return fmt.Errorf("join the mount namespace: %w", err)
	}
	s.joinedMounts = true
	return nil
}

// checkMountNS refuses a mount namespace that must not become the container's: the root of everybody in it would be the container's.
func (o *StartOptions) checkMountNS(l *specs.Linux) error {
	i := slices.IndexFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace })
	f := o.Namespaces[specs.MountNamespace]
	switch {
	case i < 0 && f == nil:
		return missingFeature("a container without a mount namespace of its own")
	case f == nil && l.Namespaces[i].Path == "":
		return nil
	}
	var its, first unix.Stat_t
	var err error
	if f != nil {
		err = os.NewSyscallError("fstat", unix.Fstat(int(f.Fd()), &its))
	} else if err = unix.Stat(l.Namespaces[i].Path, &its); err != nil {
		err = &fs.PathError{Op: "stat", Path: l.Namespaces[i].Path, Err: err}
	}
	if err != nil {
		return fmt.Errorf("join the mount namespace: %w", err)
	}
	if !o.private(l, specs.MountNamespace) || unix.Stat("/proc/1/ns/mnt", &first) == nil && its.Ino == first.Ino && its.Dev == first.Dev {
		return invalid("the mount namespace to join is the host's, and everybody in it would get the container's root; give the path of another, " +
			"or none for a new one")
	}
	if slices.ContainsFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace && n.Path == "" }) {
		return invalid("a mount namespace cannot be joined from a new user namespace, which has no right to mount there; join the one it belongs to")
	}
	return nil
}

// mayJoinPids refuses what would leave the first process, while others see it, with more than is its own: the host's mounts are still
// around it when hooks look at it, so it may have no right by then that the container lacks.
func (s *setup) mayJoinPids() error {
	e := &s.exec
	if e.listener != nil {
		return e.mayPass("a listener")
	}
	if !hooksBeforePivot(hooksOf(s.spec)) || len(e.filter) == 0 || e.process.NoNewPrivileges {
		return nil
	}
	if e.lateDeadline() {
		return missingFeature("hooks, a seccomp profile and SCHED_DEADLINE without no_new_privs in a pid namespace that is joined")
	}
	return e.mayPass("hooks")
}

// loopbackUp sets lo up in the thread's network namespace (netdevice(7)).
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("ioctl", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req))
}

// clocks are those of a time namespace.
var clocks = [...]string{"monotonic", "boottime"}

// timeOffsets sets the clocks of a time namespace that has no process yet (time_namespaces(7)).
func (s *setup) timeOffsets() error {
	for _, clock := range clocks {
		o, there := s.lin.TimeOffsets[clock]
		if !there {
			continue
		}
		text := fmt.Sprintf("%s %d %d\n", clock, o.Secs, o.Nanosecs)
		name := strconv.Itoa(unix.Gettid()) + "/timens_offsets"
		if err := writeProc(s.hostProc, name, text); err != nil {
			return fmt.Errorf("time offset of %s: %w", clock, err)
		}
	}
	return nil
}

// writeProc writes a file below a verified procfs; nothing that was mounted over it or linked into it is followed.
func writeProc(proc *os.File, name, text string) error {
	fd, err := unix.Openat2(int(proc.Fd()), name, &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := verifyProc(f); err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(text))
	return err
}
