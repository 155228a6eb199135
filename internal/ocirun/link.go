package ocirun

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// The thread and the child speak over a pair of sockets: see program.

// linkUp makes the pair and gives the child's end.
func (s *setup) linkUp() (theirs *os.File, err error) {
	s.link, s.theirs, err = linux.BlockingPair()
	return s.theirs, err
}

func (s *setup) fork() (err error) {
	s.child, err = s.exec.fork(&s.prog)
	err = errors.Join(err, s.theirs.Close()) // or the child's end would not be heard of
	s.theirs = nil
	if err != nil && s.child != nil {
		err = s.abandon(err)
	}
	return err
}

// makeProcs adds the making of every /proc that belongs to a pid namespace which begins with the child.
func (s *setup) makeProcs(p *linux.Program, link *os.File) {
	var trees []linux.Slot
	for i := range s.mounts {
		if m := &s.mounts[i]; m.kind == kindProc && s.exec.freshPid {
			p.Step(fmt.Sprintf("mount %q", m.dest))
			trees = append(trees, newFs(p, "proc", m.Source, m.data, m.set|m.rset))
			s.handed = append(s.handed, m)
		}
	}
	if len(trees) > 0 {
		p.Send(linux.FD(link), trees...)
	}
}

// procTree is the mount for a /proc, verified to be one.
func (s *setup) procTree(m *mount) (*os.File, error) {
	if !s.exec.freshPid {
		fs, err := procContext(s.exec.pidNS)
		if err != nil {
			return nil, err
		}
		defer fs.Close()
		if m.tree, err = fs.Make(m.Source, int(m.set|m.rset), m.data...); err != nil {
			return nil, err
		}
		s.keep(m.tree)
	} else if !s.received {
		trees, err := s.receive(len(s.handed))
		if err != nil {
			return nil, err
		}
		for i, tree := range trees {
			s.handed[i].tree = tree
		}
		s.received = true
	}
	if err := verifyProc(m.tree); err != nil {
		return nil, fmt.Errorf("it is not a procfs: %w", err)
	}
	return m.tree, nil
}

// makeGroups adds the making of cgroup mounts that show a namespace in which the child is alone.
func (s *setup) makeGroups(p *linux.Program, link *os.File) {
	for i := range s.mounts {
		var trees []linux.Slot
		m := &s.mounts[i]
		for _, g := range m.groups {
			switch {
			case g.tree != nil: // the host's
			case m.kind == kindCgroup2:
				p.Step(fmt.Sprintf("mount %q", m.dest))
				trees = append(trees, newFs(p, "cgroup2", "cgroup", nil, m.set|m.rset))
			default:
				p.Step("mount cgroup " + g.Name)
				trees = append(trees, newFs(p, "cgroup", "cgroup", groupOptions(g.Data), m.set))
			}
		}
		if len(trees) > 0 {
			p.Send(linux.FD(link), trees...)
		}
	}
}

// receiveGroups takes what makeGroups made for a mount.
func (s *setup) receiveGroups(m *mount) error {
	if len(m.groups) == 0 || m.groups[0].tree != nil {
		return nil
	}
	trees, err := s.receive(len(m.groups))
	if err != nil {
		return err
	}
	for i, tree := range trees {
		m.groups[i].tree = tree
	}
	return nil
}

// errChildEnded says that the child's own report has the reason.
var errChildEnded = errors.New("the container's process was killed on its way; a memory limit may be too small for it")

// receive waits for a message of the child with as many descriptors.
func (s *setup) receive(count int) ([]*os.File, error) {
	n, files, err := linux.RecvMsg(s.link, make([]byte, 1), count)
	for _, f := range files {
		s.keep(f)
	}
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, errChildEnded
	case len(files) != count:
		return nil, fmt.Errorf("the child sent %d mounts in place of %d: %w", len(files), count, unix.EPROTO)
	}
	return files, nil
}

// What the child is told when all is in place, since it must be looked up in the container: text ends with a NUL.
const (
	homeSize  = len("HOME=") + unix.PathMax
	foundSize = 1 + unix.PathMax
)

// await adds the wait for that.
func (s *setup) await(p *linux.Program, link *os.File) {
	e := &s.exec
	size := 1
	if !hasHome(e.env) {
		size += homeSize
	}
	if e.init {
		size += foundSize
	}
	s.message = make([]byte, size)
	rest := s.message[1:]
	if !hasHome(e.env) {
		e.home, rest = rest[:homeSize], rest[homeSize:]
	}
	if e.init {
		e.order = rest
	}
	p.Step("wait for the mounts")
	if s.o.Terminal {
		e.slave = p.NewSlot()
	}
	p.Receive(link, s.message, e.slave)
}

// release sends it. A child that has ended meanwhile tells why by its report.
func (s *setup) release() error {
	e := &s.exec
	if e.home != nil {
		copy(e.home, "HOME="+homeOf(s.root, e.process.User.UID))
	}
	if e.order != nil {
		if len(e.found) >= foundSize-1 || strings.Contains(e.found, separator) {
			return &ExecError{Errno: unix.ENOENT, Path: e.process.Args[0], Step: stepExec}
		}
		copy(e.order, e.orderText(e.found))
	}
	var files []*os.File
	if s.slaveFile != nil {
		files = append(files, s.slaveFile)
	}
	_, err := linux.SendMsg(s.link, s.message, files...)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return nil
	}
	return err
}

// abandon ends a child for which err came in the way.
func (s *setup) abandon(err error) error {
	_ = s.link.Close() // which ends its wait
	s.link = nil
	told := s.exec.explain(s.child.Wait())
	if errors.Is(err, errChildEnded) && told != nil {
		err = told
	}
	p := Process{Pid: s.child.Pid, Pidfd: s.child.Pidfd, Master: s.master}
	s.master = nil
	err = errors.Join(err, p.discard())
	if s.joinedMounts && s.placed && unix.Fchdir(int(s.rootfs.Fd())) == nil {
		_ = unix.Unmount(".", unix.MNT_DETACH) // with all that was mounted below it
	}
	return err
}
