package ocirun

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container with a user namespace is made by the same thread, which stays who it is: it may do in the container's namespaces
// what the container's root may, since those belong to a namespace below its own, and it can still reach what is the host's.
// What it makes it gives to the container's root.
//
//	the thread                 a keeper (linux.Keeper)     first child               second child, the container's
//	  clone ──────────────────▶ new user namespace
//	  write the mappings        net, ipc, uts, mnt
//	  join net, ipc, uts, mnt
//	  fork ────────────────────────────────────────────────▶ cgroup, limits
//	  mounts, devices, …                                     join the user namespace
//	                                                         new cgroup and pid ns.
//	                                                         clone ──────────────────▶ /proc, pivot_root, …
//
// /proc is made before pivot_root: the kernel lets a user namespace mount one only where another can be seen in full.

func checkUserNS(l *specs.Linux) error {
	mapped := len(l.UIDMappings)+len(l.GIDMappings) > 0
	fresh := false
	for _, n := range l.Namespaces {
		fresh = fresh || n.Type == specs.UserNamespace && n.Path == ""
	}
	switch {
	case fresh && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0):
		return invalid("a new user namespace needs mappings of users and of groups")
	case mapped && !fresh:
		return invalid("id mappings need a new user namespace")
	}
	return checkMappings(l.UIDMappings, l.GIDMappings)
}

func checkMappings(lists ...[]specs.LinuxIDMapping) error {
	for _, l := range lists {
		for _, e := range l {
			if e.Size == 0 || uint64(e.ContainerID)+uint64(e.Size) > maxID+1 || uint64(e.HostID)+uint64(e.Size) > maxID+1 {
				return invalid("id mapping %d:%d:%d is out of range", e.ContainerID, e.HostID, e.Size)
			}
		}
	}
	return nil
}

// ids are the mappings of a container's user namespace; nil maps nothing.
type ids struct{ uids, gids []specs.LinuxIDMapping }

func outside(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, true
		}
	}
	return 0, false
}

// uid and gid are the host's numbers of the container's; one that is not mapped is the host's root, which nobody in the
// container is.
func (i *ids) uid(id uint32) int { return i.host(id, func() []specs.LinuxIDMapping { return i.uids }) }
func (i *ids) gid(id uint32) int { return i.host(id, func() []specs.LinuxIDMapping { return i.gids }) }

func (i *ids) host(id uint32, list func() []specs.LinuxIDMapping) int {
	if i == nil {
		return int(id)
	}
	n, _ := outside(list(), id)
	return int(n)
}

// readIDs reads the mappings of a process.
func readIDs(proc *os.File, pid int) (*ids, error) {
	var i ids
	for file, list := range map[string]*[]specs.LinuxIDMapping{"uid_map": &i.uids, "gid_map": &i.gids} {
		fd, err := unix.Openat(int(proc.Fd()), strconv.Itoa(pid)+"/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("read the container's %s: %w", file, err)
		}
		f := os.NewFile(uintptr(fd), file)
		data, err := io.ReadAll(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("read the container's %s: %w", file, err)
		}
		for line := range strings.Lines(string(data)) {
			var m specs.LinuxIDMapping
			if _, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); err != nil {
				return nil, fmt.Errorf("the container's %s has the line %q", file, line)
			}
			*list = append(*list, m)
		}
	}
	return &i, nil
}

// userNamespace makes the namespaces of flags within the spec's user namespace, and takes the thread into them. It answers
// false when the spec has none.
func (s *setup) userNamespace(flags int) (bool, error) {
	fresh, join, err := s.wanted(specs.UserNamespace)
	if err != nil || !fresh && join == nil {
		return false, err
	}
	if join != nil && sameAsOwnUser(join) {
		return false, nil
	}
	s.exec.ids = &ids{s.lin.UIDMappings, s.lin.GIDMappings}
	k, err := linux.KeepNamespaces(join, idMappings(s.lin.UIDMappings), idMappings(s.lin.GIDMappings), flags)
	if err != nil {
		return false, err
	}
	s.exec.userNS, k.User = s.keep(k.User), nil
	if join != nil {
		pid, err := pidOf(s.hostProc, k.Pidfd)
		if err == nil {
			s.exec.ids, err = readIDs(s.hostProc, pid)
		}
		if err != nil {
			return false, errors.Join(err, k.Close())
		}
	}
	if err = linux.Unshare(unix.CLONE_FS); err == nil && flags != 0 {
		err = linux.Setns(k.Pidfd, flags)
	}
	if err := errors.Join(err, k.Close()); err != nil {
		return false, fmt.Errorf("enter namespaces: %w", err)
	}
	return true, nil
}

// pidOf is the number of the process behind a pidfd.
func pidOf(proc, pidfd *os.File) (int, error) {
	fd, err := unix.Openat(int(proc.Fd()), fmt.Sprintf("self/fdinfo/%d", pidfd.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	f := os.NewFile(uintptr(fd), "fdinfo")
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(text))
		}
	}
	return 0, errors.New("the kernel does not tell the number of a process")
}

func sameAsOwnUser(f *os.File) bool {
	var own, other unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &own) == nil && unix.Fstat(int(f.Fd()), &other) == nil &&
		own.Ino == other.Ino && own.Dev == other.Dev
}

// joinUser adds the way into the user namespace. What needs a right of the host's goes before.
func (e *execution) joinUser(p *linux.Program) {
	p.Step("join the user namespace")
	p.Call(unix.SYS_SETNS, linux.FD(e.userNS), linux.N(unix.CLONE_NEWUSER))
	p.BecomeRoot()
	if e.newCgroupNS {
		p.Step("make a cgroup namespace")
		p.Call(unix.SYS_UNSHARE, linux.N(unix.CLONE_NEWCGROUP))
	}
}

// joinRemapped is join for a container's first process that has a user namespace.
func (e *execution) joinRemapped(p *linux.Program) error {
	e.remapped = true
	if !e.moved {
		e.joinGroup(p)
	}
	e.joinRdt(p)
	if err := e.privileged(p); err != nil {
		return err
	}
	e.enterNamespaces(p)
	e.joinUser(p)
	if e.cloneFlags&unix.CLONE_NEWPID != 0 {
		e.cloneFlags &^= unix.CLONE_NEWPID
		p.Step("make a pid namespace")
		p.Call(unix.SYS_UNSHARE, linux.N(unix.CLONE_NEWPID))
	}
	if !e.sibling {
		p.Step(stepEnter)
		p.Sibling()
		e.session(p)
	}
	return nil
}

// privileged adds what only the host's root may do, before it becomes the container's.
func (e *execution) privileged(p *linux.Program) (err error) {
	if e.own, err = ownCaps(); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	if err := e.attributes(p); err != nil {
		return err
	}
	for _, l := range e.process.Rlimits {
		nr, there := rlimitNumber(l.Type)
		var own unix.Rlimit
		if !there || unix.Getrlimit(nr, &own) != nil || l.Hard <= own.Max || !e.mayRaise(e.own) {
			continue
		}
		p.Step("set rlimit " + l.Type)
		p.Call(unix.SYS_PRLIMIT64, linux.N(0), linux.N(nr), linux.Ptr(&unix.Rlimit{Cur: own.Cur, Max: l.Hard}), linux.N(0))
	}
	return nil
}

// rootCaps are those of who joins a user namespace: all that the kernel has.
func rootCaps() (c capSets) {
	for n := range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil {
			break
		}
		c.bounding |= 1 << n
	}
	c.permitted = c.bounding
	return c
}
