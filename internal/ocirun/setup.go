package ocirun

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setup is one container on its way to being started.
type setup struct {
	o    *StartOptions
	spec *specs.Spec
	lin  *specs.Linux
	exec execution

	files    []*os.File // closed at the end, whatever comes
	hostProc *os.File   // the host's /proc
	rootfs   *os.File   // the mount that becomes "/"
	root     *confine.Root
	mounts   []mount
	masks    masks
	ptsMount *os.File            // the container's devpts
	devMount map[string]*os.File // the host's devices, where none can be made, by their paths
	proc     bool                // the container has a /proc of its own

	rdt       *Rdt
	devs      netDevices
	link      *os.File // to the child, until it has what it waits for
	theirs    *os.File // the child's end
	handed    []*mount // those whose trees the child makes and sends before it is in its cgroup
	received  bool     // these trees
	message   []byte   // to the child
	slaveFile *os.File // the terminal's, for the child

	latePivot  bool // the child leaves the host's mounts behind, when hooks have seen them
	gateWriter *os.File
	mountNS    *os.File // where it cannot, since the hooks see a second child
	// joinedMounts: the mount namespace was somebody else's, who keeps it as it was if the start fails before the child leaves its root.
	joinedMounts, placed bool
	prog                 linux.Program
	master               *os.File
	holdWriter           *os.File
	child                *linux.Child
}

// keep closes f when the setup ends, whether it succeeds or not.
func (s *setup) keep(f *os.File) *os.File {
	s.files = append(s.files, f)
	return f
}

func (s *setup) close() {
	for _, f := range append(s.files, s.exec.files...) {
		_ = f.Close()
	}
	for _, f := range []*os.File{s.link, s.theirs, s.master, s.holdWriter, s.gateWriter} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// run is everything between the check of the spec and the moment from which on the child goes its own way, on a thread of its own.
func (s *setup) run(ctx context.Context) error {
	if err := s.fromHost(); err != nil {
		return err
	}
	if err := s.enterNamespaces(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.devs.move(s.hostProc); err != nil {
		return err
	}
	if err := s.program(); err != nil {
		s.prog.Discard()
		return err
	}
	if err := s.fork(); err != nil {
		return err
	}
	err := s.pivot()
	if err == nil {
		err = s.inContainer()
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = s.release()
	}
	if err != nil {
		err = s.abandon(err)
	}
	return err
}

// fromHost collects what can be reached only from the host's mount namespace.
func (s *setup) fromHost() (err error) {
	if err := s.openWays(); err != nil {
		return err
	}
	if err := s.devs.fromHost(s.hostProc); err != nil {
		return err
	}
	if err := s.exec.openStdio(); err != nil {
		return err
	}
	if err := s.copyRoot(func(*mount) bool { return true }); err != nil {
		return err
	}
	if err := s.devicesFromHost(); err != nil {
		return err
	}
	return s.masksFromHost()
}

// openWays opens the host's /proc and the ways into the container's groups.
func (s *setup) openWays() (err error) {
	if s.hostProc, err = openHostProc(); err != nil {
		return err
	}
	s.exec.hostProc = s.keep(s.hostProc)
	if err := s.exec.openGroup(s.o.Cgroup, 0); err != nil {
		return err
	}
	return s.exec.openRdt(s.rdt)
}

// copyRoot has the root as a mount that stands nowhere, and likewise what the wanted ones of the mounts bring from the host.
func (s *setup) copyRoot(wanted func(*mount) bool) (err error) {
	if s.rootfs = s.o.Rootfs; s.rootfs == nil {
		if s.rootfs, err = s.cloneRoot(); err != nil {
			return err
		}
		s.keep(s.rootfs)
	}
	if s.mounts, err = parseMounts(s.spec.Mounts); err != nil {
		return err
	}
	for i := range s.mounts {
		if m := &s.mounts[i]; wanted(m) {
			if err := s.mountFromHost(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// openHostProc opens /proc and verifies that it is the root of one, so that what is written below it goes to the kernel.
func openHostProc() (*os.File, error) {
	f, err := linux.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	const procRootInode = 1
	var st unix.Stat_t
	if err = verifyProc(f); err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err == nil && st.Ino != procRootInode {
		err = unix.EXDEV
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("/proc is not a procfs: %w", err)
	}
	return f, nil
}

func verifyProc(f *os.File) error {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &sfs); err != nil {
		return err
	}
	if sfs.Type != unix.PROC_SUPER_MAGIC {
		return unix.EXDEV
	}
	return nil
}

func (s *setup) rootPath() string {
	if dir := s.spec.Root.Path; path.IsAbs(dir) {
		return dir
	}
	return path.Join(s.o.Bundle, s.spec.Root.Path)
}

// cloneRoot copies the mount at the spec's root path.
func (s *setup) cloneRoot() (*os.File, error) {
	dir := s.rootPath()
	f, err := linux.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("root file system %q: %w", dir, unix.ENOTDIR)
	}
	if err == nil {
		// Mounts of the host below the root show through, later ones do not come in.
		err = linux.MountSetattr(f, &unix.MountAttr{Propagation: unix.MS_PRIVATE}, true)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// pivot puts the root in place and leaves the host's mounts behind: from here on no path leads to them.
func (s *setup) pivot() error {
	// Nothing that happens here may be seen by the host, least of all that everything is unmounted.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	place := "/"
	if s.latePivot && s.o.Rootfs == nil && (!s.joinedMounts || hooksBeforePivot(hooksOf(s.spec))) { // where hooks look for it
		place = s.rootPath()
	}
	at, err := linux.OpenFile(place, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := linux.MoveMount(s.rootfs, at); err != nil {
		return fmt.Errorf("put the root file system in place: %w", err)
	}
	s.placed = true
	if s.latePivot {
		s.root = confine.FromFile(s.rootfs)
		if s.exec.sibling && s.exec.hooksGate != nil {
			s.mountNS, err = s.ownMountNS()
		}
		return err
	}
	if err := s.leaveHost(); err != nil {
		return err
	}
	dir, err := linux.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	s.root = confine.FromFile(s.keep(dir))
	return nil
}

// leaveHost takes the thread into the root, and takes the host's mounts from everybody in its namespace.
func (s *setup) leaveHost() error {
	if err := unix.Fchdir(int(s.rootfs.Fd())); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	if s.o.NoPivot {
		if err := unix.Chroot("."); err != nil {
			return fmt.Errorf("chroot: %w", err)
		}
	} else {
		// The old root goes below the new one, at the same place, and is the one that "." finds then.
		if err := unix.PivotRoot(".", "."); err != nil {
			return fmt.Errorf("pivot_root: %w", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("leave the host's mounts: %w", err)
		}
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root file system: %w", err)
	}
	return nil
}

// inContainer makes what is below the container's root. It runs in the container's namespaces, but for pid and cgroup.
func (s *setup) inContainer() error {
	unix.Umask(0) // the thread's own, since it has a root of its own
	for i := range s.mounts {
		m := &s.mounts[i]
		if err := s.mount(m); err != nil {
			return fmt.Errorf("mount %q: %w", m.dest, err)
		}
	}
	if err := s.devices(); err != nil {
		return err
	}
	if s.o.Terminal {
		if err := s.terminal(); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
	}
	if err := s.masksInContainer(); err != nil {
		return err
	}
	if err := s.sysctls(); err != nil {
		return err
	}
	if err := s.names(); err != nil {
		return err
	}
	s.makeCwd()
	hooked := s.latePivot && hooksBeforePivot(hooksOf(s.spec)) // one may bring the program: its execve tells
	if err := s.exec.lookUp(s.root, s.o.Hold); err != nil && (!hooked || s.exec.init) {
		return err
	}
	return s.finishRoot()
}

// makeCwd makes the working directory if it is missing, as runc does; when it cannot be, entering it tells.
func (s *setup) makeCwd() {
	cwd := path.Clean(s.spec.Process.Cwd)
	if cwd == "/" || s.proc && below(cwd, "/proc") {
		return
	}
	_ = s.root.MkdirAll(cwd, 0o755, s.exec.ids.uid(0), s.exec.ids.gid(0))
}

// finishRoot applies what holds for the root mount itself.
func (s *setup) finishRoot() error {
	if err := s.finishTmpfs(""); err != nil {
		return err
	}
	if !s.latePivot {
		if err := s.propagate(); err != nil {
			return err
		}
	}
	if s.spec.Root.Readonly {
		if err := linux.MountSetattr(s.rootfs, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, false); err != nil {
			return fmt.Errorf("make the root file system read-only: %w", err)
		}
	}
	return nil
}

// propagate gives the root mount its propagation, when it stands alone.
func (s *setup) propagate() error {
	p := s.lin.RootfsPropagation
	if p == "" {
		return nil
	}
	word, _ := parsePropagation(p)
	if err := linux.MountSetattr(s.rootfs, &unix.MountAttr{Propagation: word.flag}, word.recursive); err != nil {
		return fmt.Errorf("propagation %q of the root file system: %w", p, err)
	}
	return nil
}

// names sets host name and domain name of the new UTS namespace.
func (s *setup) names() error {
	if s.spec.Hostname != "" {
		if err := unix.Sethostname([]byte(s.spec.Hostname)); err != nil {
			return fmt.Errorf("set the host name %q: %w", s.spec.Hostname, err)
		}
	}
	if s.spec.Domainname != "" {
		if err := unix.Setdomainname([]byte(s.spec.Domainname)); err != nil {
			return fmt.Errorf("set the domain name %q: %w", s.spec.Domainname, err)
		}
	}
	return nil
}

// below says whether p, a clean path, is dir or in it.
func below(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}
