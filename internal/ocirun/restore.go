package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/criu"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// RestoreOptions describe a container that is to be brought back from a checkpoint.
type RestoreOptions struct {
	// StartOptions are those of a start. What the images know better is not looked at: Seccomp, Init, Hold, Rows, Cols.
	StartOptions
	ImagesDir, WorkDir string
	// Criu has what is handed on as it is.
	Criu criu.Options
}

// Restore brings a container's processes back, its first one as a child of this process. After an error there is none. The errors are
// those of Checkpoint; hooks that belong to a create and find the host are run when the container's namespaces are there.
func Restore(ctx context.Context, o RestoreOptions) (_ *Process, err error) {
	talk, err := newTalk()
	if err != nil {
		return nil, err
	}
	if err := check(&o.StartOptions); err != nil {
		return nil, err
	}
	if err := checkCheckpoint(o.Spec); err != nil {
		return nil, err
	}
	if fi, err := os.Stat(o.ImagesDir); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("the checkpoint %q is not there: %w", o.ImagesDir, errdefs.ErrNotFound)
	}
	c := &o.Criu
	c.LockWithNftables = !criu.HasIptables()
	if err := talk.features(ctx, false, c.LazyPages); err != nil {
		return nil, err
	}
	r := &restoration{o: &o, s: &setup{o: &o.StartOptions, spec: o.Spec, lin: linuxOf(o.Spec)}}
	defer r.s.close()
	if rdt := r.s.lin.IntelRdt; rdt != nil {
		if r.s.rdt, err = makeRdt(o.Resctrl, o.ID, o.StateDir, rdt); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, r.s.rdt.Delete())
			}
		}()
	}
	c.LogFile, c.OrphanPtsMaster, c.NotifyScripts, c.RestoreSibling, c.EvasiveDevices = restoreLog, true, true, true, true
	talk.Stdin, talk.Stdout, talk.Stderr = o.Stdin, o.Stdout, o.Stderr
	talk.Started, talk.Notified = r.joinGroups, func(point string, pid int, f *os.File) error { return r.notified(ctx, point, pid, f) }
	if err := linux.SetDumpable(false); err != nil {
		return nil, err
	}
	var answer *criu.Response
	r.closeDirs = func() {}
	defer func() { r.closeDirs() }()
	err = linux.OnThread(func() error {
		if err := r.prepare(); err != nil {
			return err
		}
		var err error
		answer, err = talk.Ask(ctx, criu.Restore, c)
		return err
	})
	if r.workDir != "" {
		err = criu.Explain(fmt.Sprintf("restore container %q", o.ID), answer, err, filepath.Join(r.workDir, restoreLog))
	}
	if err == nil && answer.Pid <= 0 {
		err = fmt.Errorf("criu says that it has restored process %d: %w", answer.Pid, errdefs.ErrInternal)
	}
	if err != nil {
		return nil, err
	}
	return r.finish(answer.Pid)
}

// restoration is a container on its way back.
type restoration struct {
	o       *RestoreOptions
	s       *setup
	workDir string // where the log is, once criu is asked
	master  *os.File

	closeDirs func()
}

// prepare makes a mount namespace for criu, in which the root and everything external stand below a directory that only it sees.
func (r *restoration) prepare() error {
	s := r.s
	if err := r.standardFiles(); err != nil {
		return err
	}
	if err := s.openWays(); err != nil {
		return err
	}
	if err := r.namespaces(); err != nil {
		return err
	}
	if err := s.copyRoot(func(m *mount) bool { return !m.remount && (m.bind || m.Type == "bind") }); err != nil {
		return err
	}
	host, err := readMountinfo(s.hostProc, "self")
	if err != nil {
		return err
	}
	if err := linux.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	// criu mounts in the work directory, which it can only where that is in its own mount namespace.
	workDir, closeDirs, err := openDirs(&r.o.Criu, r.o.ImagesDir, r.o.WorkDir)
	if err != nil {
		return err
	}
	r.closeDirs = closeDirs
	if remappedSpec(s.spec) {
		s.exec.ids = &ids{s.lin.UIDMappings, s.lin.GIDMappings}
		if err := letRead(r.o.Criu.ImagesDir, s.lin.GIDMappings); err != nil {
			return fmt.Errorf("let the container's root read the images %q: %w", r.o.ImagesDir, err)
		}
	}
	if err := r.stage(host); err != nil {
		return err
	}
	if !s.o.NoNewKeyring { // which processes inherit; criu saves none
		_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
		if errno != 0 && errno != unix.ENOSYS && errno != unix.EPERM {
			return fmt.Errorf("make a session keyring: %w", errno)
		}
	}
	r.workDir = workDir
	return nil
}

// stage mounts, below a tmpfs that stands over the state directory, the root and what is bound from the host.
func (r *restoration) stage(host []mountLine) error {
	s, c := r.s, &r.o.Criu
	dir := s.o.StateDir
	if dir == "" {
		dir = s.o.Bundle
	}
	if err := unix.Mount("criu", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=711"); err != nil { // in a user namespace criu is not root
		return fmt.Errorf("mount a tmpfs for criu at %q: %w", dir, err)
	}
	c.Root = filepath.Join(dir, "root")
	if err := stageMount(s.rootfs, c.Root); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	top, err := linux.OpenFile(c.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	s.root = confine.FromFile(s.keep(top))
	dev := ownDev(s.spec, s.mounts)
	for i := range s.mounts {
		m := &s.mounts[i]
		if err := r.mountPoint(m); err != nil {
			return fmt.Errorf("mount %q: %w", m.dest, err)
		}
		at := filepath.Join(dir, strconv.Itoa(i))
		if i == dev {
			if err := s.makeDev(m, at); err != nil {
				return fmt.Errorf("mount %q: %w", m.dest, err)
			}
			c.ExternalMounts = append(c.ExternalMounts, criu.Pair{Key: m.dest, Value: filepath.Join(at, "dev")})
		}
		if m.tree == nil {
			continue
		}
		if err := stageMount(m.tree, at); err != nil {
			return fmt.Errorf("mount %q: %w", m.dest, err)
		}
		c.ExternalMounts = append(c.ExternalMounts, criu.Pair{Key: m.dest, Value: at})
		if !m.recursive {
			continue
		}
		for _, line := range host { // what came along
			if rest, below := strings.CutPrefix(line.point, strings.TrimSuffix(m.Source, "/")+"/"); below {
				c.ExternalMounts = append(c.ExternalMounts, criu.Pair{Key: path.Join(m.dest, rest), Value: filepath.Join(at, rest)})
			}
		}
	}
	for _, p := range s.lin.MaskedPaths {
		c.ExternalMounts = append(c.ExternalMounts, criu.Pair{Key: path.Clean(p), Value: "/dev/null"})
	}
	if s.o.NoPivot {
		return ownRoot(filepath.Join(dir, "host"))
	}
	return nil
}

// stageMount puts a mount that stands nowhere at a path that is made for it.
func stageMount(tree *os.File, at string) error {
	fi, err := tree.Stat()
	if err != nil {
		return err
	}
	if fi.IsDir() {
		err = os.Mkdir(at, 0o700)
	} else {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		return err
	}
	target, err := linux.OpenFile(at, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer target.Close()
	return linux.MoveMount(tree, target)
}

// mountPoint sees to it that criu, which goes by paths, finds a place for a mount in the container's own files: one that is there, and no
// link on the way to it.
func (r *restoration) mountPoint(m *mount) error {
	s := r.s
	if m.remount || slices.ContainsFunc(s.mounts, func(o mount) bool { return o.dest != m.dest && below(m.dest, o.dest) }) {
		return nil
	}
	if err := s.mountPointFor(m); err != nil {
		return err
	}
	real, err := s.root.Resolve(m.dest)
	if err == nil && real != m.dest {
		err = fmt.Errorf("there is a link on the way to it, which leads to %q: %w", real, errdefs.ErrInvalidArgument)
	}
	return err
}

// mountPointFor makes a directory, or a file for one that is mounted, where there is nothing.
func (s *setup) mountPointFor(m *mount) error {
	uid, gid := s.exec.ids.uid(0), s.exec.ids.gid(0)
	isFile := false
	if m.tree != nil {
		fi, err := m.tree.Stat()
		if err != nil {
			return err
		}
		isFile = !fi.IsDir()
	}
	var place *os.File
	var err error
	if isFile {
		place, err = s.root.Create(m.dest, 0o644, uid, gid)
	} else {
		place, err = s.root.OpenDirAll(m.dest, 0o755, uid, gid)
	}
	if err != nil {
		return err
	}
	return place.Close()
}

// ownRoot makes "/" of the calling thread a mount that can be pivoted away from, which that of an initramfs is not.
func ownRoot(at string) error {
	err := os.Mkdir(at, 0o700)
	if err == nil {
		err = unix.Mount("/", at, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err == nil {
		err = unix.Chdir(at)
	}
	if err == nil {
		err = unix.Mount(".", "/", "", unix.MS_MOVE, "")
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	if err != nil {
		return fmt.Errorf("a root that can be pivoted away from: %w", err)
	}
	return nil
}

// standardFiles hands criu the process's standard files in place of those that are external.
func (r *restoration) standardFiles() error {
	data, err := os.ReadFile(filepath.Join(r.o.ImagesDir, descriptorsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var names []string
	if err == nil {
		err = json.Unmarshal(data, &names)
	}
	if err != nil {
		return fmt.Errorf("%s of the checkpoint: %w", descriptorsFile, err)
	}
	c := &r.o.Criu
	for i, f := range [...]*os.File{r.o.Stdin, r.o.Stdout, r.o.Stderr} {
		if i >= len(names) || !external(names[i]) ||
			slices.ContainsFunc(c.Inherit, func(in criu.Inherit) bool { return in.Key == names[i] }) {
			continue
		}
		if f == nil {
			if f, err = os.OpenFile("/dev/null", os.O_RDWR, 0); err != nil {
				return err
			}
			r.s.keep(f)
		}
		c.Inherit = append(c.Inherit, criu.Inherit{Key: names[i], File: f})
	}
	return nil
}

// external says whether a standard file of descriptors.json is the host's.
func external(name string) bool {
	return slices.ContainsFunc([]string{"pipe:[", "socket:[", "file[", "tty["}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// namespaces has the container join those that are not its own.
func (r *restoration) namespaces() error {
	s, c := r.s, &r.o.Criu
	for _, ns := range nsFlags {
		fresh, join, err := s.wanted(ns.kind)
		if err != nil {
			return err
		}
		if fresh || join == nil || !s.o.private(s.lin, ns.kind) {
			continue
		}
		if slices.ContainsFunc(externalNamespaces[:], func(e nsFlag) bool { return e.kind == ns.kind }) {
			c.Inherit = append(c.Inherit, criu.Inherit{Key: externalName(ns.file), File: join})
		} else {
			c.JoinNamespaces = append(c.JoinNamespaces, criu.Pair{Key: ns.file, Value: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), join.Fd())})
		}
	}
	return nil
}

// joinGroups puts criu, whose children the processes become, into the container's group.
func (r *restoration) joinGroups(pid int) error {
	e, c := &r.s.exec, &r.o.Criu
	if r.s.o.Cgroup == nil {
		return nil
	}
	if err := e.move(pid); err != nil {
		return err
	}
	for _, f := range e.rdtFiles {
		if _, err := f.WriteString(strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("intelRdt: %w", err)
		}
	}
	text, err := readProc(r.s.hostProc, strconv.Itoa(pid)+"/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		part := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(part) != 3 || part[1] == "" && e.groupDir == nil {
			continue
		}
		c.CgroupRoots = append(c.CgroupRoots, criu.Pair{Key: part[1], Value: part[2]})
	}
	return nil
}

// notified is told what criu has reached.
func (r *restoration) notified(ctx context.Context, point string, pid int, file *os.File) error {
	if point == "orphan-pts-master" && file != nil && r.master == nil {
		r.master = file
		return nil
	}
	if file != nil {
		_ = file.Close()
	}
	if point != "setup-namespaces" || r.s.spec.Hooks == nil {
		return nil
	}
	h := r.s.spec.Hooks
	state := hookState(NewState(&r.o.StartOptions, &Process{Pid: pid, Cgroup: r.s.o.Cgroup, exec: &r.s.exec}), specs.StateCreating)
	return linux.OnThread(func() error { // in the host's mount namespace
		//lint:ignore SA1019 deprecated, and still to be run
		if err := runHooks(ctx, "prestart", h.Prestart, state, onHost); err != nil {
			return err
		}
		return runHooks(ctx, "createRuntime", h.CreateRuntime, state, onHost)
	})
}

// finish describes the process that criu has made, which runs.
func (r *restoration) finish(pid int) (*Process, error) {
	p := &Process{Pid: pid, Master: r.master, Cgroup: r.s.o.Cgroup, Rdt: r.s.rdt, StartedAt: time.Now(), exec: &r.s.exec}
	var err error
	if p.Pidfd, err = linux.PidfdOpen(pid); err != nil {
		return nil, err
	}
	if p.Master != nil {
		err = unix.SetNonblock(int(p.Master.Fd()), true) // as Process says
	}
	if err == nil {
		p.StartTime, _, err = linux.StartTime(pid)
	}
	if err == nil && r.o.Spec.Process.NoNewPrivileges {
		var status string
		if status, err = readProc(r.s.hostProc, strconv.Itoa(pid)+"/status"); err == nil && !strings.Contains(status, "\nNoNewPrivs:\t1\n") {
			p.Warnings = append(p.Warnings, "no_new_privs is not set any more: this criu does not save it (version 3.19 does)")
		}
	}
	if err == nil && r.o.StateDir != "" {
		err = WriteState(r.o.StateDir, NewState(&r.o.StartOptions, p))
	}
	if err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}
