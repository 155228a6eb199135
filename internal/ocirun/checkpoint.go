package ocirun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/criu"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A checkpoint is a directory of criu's images: what the processes of a container are, their memory, what they have open. Its files are
// not in it, nor is what the host gives a container: both must be there when it is restored. So criu is told which of what it comes upon
// are not its business, and gets something in their place on the way back:
//
//	bind mounts, what hides a file   external, by their mount points       made again from the spec
//	namespaces that the spec joins   external (net, pid)                   joined again, whatever they are then
//	stdin, stdout, stderr            external, as descriptors.json says    those of the restored process
//	a terminal                       its slave is saved                    its master comes over criu's socket
//	the root                         external                              mounted by us, in a mount namespace of criu's
//	/dev, with a user namespace      external                              made again: see checkpointuser.go
//
// descriptors.json, beside the images, is a list of three strings, as other runtimes write it: "pipe:[123]".
const descriptorsFile = "descriptors.json"

// The logs of criu.
const (
	dumpLog    = "dump.log"
	restoreLog = "restore.log"
)

// CheckpointOptions describe a checkpoint of a running container.
type CheckpointOptions struct {
	Spec *specs.Spec // the container's
	// ImagesDir gets the images, and is made if need be; it must hold no other images. WorkDir gets the log; "" is ImagesDir.
	ImagesDir, WorkDir string
	Cgroup             *cgroup.Group // the container's; nil for none
	// PreDump saves memory only, and the container goes on; the next one that names it as its parent saves what has changed.
	PreDump bool
	// Namespaces are those that were handed over when it was started, beside those that the spec joins.
	Namespaces []specs.LinuxNamespaceType
	// Criu has what is handed on as it is.
	Criu criu.Options
}

// Checkpoint saves a container's processes; they end with it, unless they are to go on. The error wraps errdefs.ErrNotImplemented where
// criu is missing or the kernel lacks what was asked for, and quotes criu otherwise.
func Checkpoint(ctx context.Context, st *State, o CheckpointOptions) error {
	talk, err := newTalk()
	if err != nil {
		return err
	}
	if err := checkCheckpoint(o.Spec); err != nil {
		return err
	}
	c := &o.Criu
	c.LockWithNftables = !criu.HasIptables()
	if err := checkParent(o.ImagesDir, c.ParentImage); err != nil {
		return err
	}
	workDir, closeDirs, err := openDirs(c, o.ImagesDir, o.WorkDir)
	if err != nil {
		return err
	}
	defer closeDirs()
	if err := talk.features(ctx, o.PreDump || c.ParentImage != "", c.LazyPages); err != nil {
		return err
	}
	proc, err := openHostProc()
	if err != nil {
		return err
	}
	defer proc.Close()
	c.Pid, c.LogFile, c.OrphanPtsMaster = st.Pid, dumpLog, true
	c.TrackMem = o.PreDump || c.ParentImage != ""
	if o.Cgroup != nil {
		for _, m := range o.Cgroup.Mounts() {
			if m.Type == "cgroup2" || slices.Contains(strings.Split(m.Data, ","), "freezer") {
				c.FreezeGroup = m.Source
			}
		}
	}
	kind := criu.Dump
	if o.PreDump {
		kind = criu.PreDump
	} else if err := o.dumped(st, proc); err != nil {
		return err
	}
	r, err := talk.Ask(ctx, kind, c)
	return criu.Explain(fmt.Sprintf("save container %q", st.ID), r, err, filepath.Join(workDir, dumpLog))
}

// dumped says what of a container is not criu's business, and leaves a note for who restores it.
func (o *CheckpointOptions) dumped(st *State, proc *os.File) error {
	c := &o.Criu
	info, err := readMountinfo(proc, strconv.Itoa(st.Pid))
	if err != nil {
		return err
	}
	host, err := readMountinfo(proc, "self")
	if err != nil {
		return err
	}
	points, err := externalMounts(o.Spec, info, host)
	if err != nil {
		return err
	}
	mounts, err := parseMounts(o.Spec.Mounts)
	if err != nil {
		return err
	}
	if ownDev(o.Spec, mounts) >= 0 {
		if err := plainDev(proc, st.Pid, info); err != nil {
			return err
		}
		points = append(points, "/dev")
	}
	for _, p := range points {
		c.ExternalMounts = append(c.ExternalMounts, criu.Pair{Key: p, Value: p})
	}
	kinds := slices.Clone(o.Namespaces)
	for _, n := range linuxOf(o.Spec).Namespaces {
		if n.Path != "" {
			kinds = append(kinds, n.Type)
		}
	}
	for _, ns := range externalNamespaces {
		if !slices.Contains(kinds, ns.kind) {
			continue
		}
		var own, its unix.Stat_t
		name := "/ns/" + ns.file
		if err := errors.Join(unix.Fstatat(int(proc.Fd()), "self"+name, &own, 0),
			unix.Fstatat(int(proc.Fd()), strconv.Itoa(st.Pid)+name, &its, 0)); err != nil {
			return fmt.Errorf("the container's %s namespace: %w", ns.kind, err)
		}
		if own.Ino != its.Ino {
			c.External = append(c.External, fmt.Sprintf("%s[%d]:%s", ns.file, its.Ino, externalName(ns.file)))
		}
	}
	names, err := describeStdio(c, proc, st.Pid, info)
	if err != nil {
		return err
	}
	data, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(o.ImagesDir, descriptorsFile), data, 0o600)
}

// externalNamespaces are those that criu can leave alone.
var externalNamespaces = [...]nsFlag{{specs.NetworkNamespace, unix.CLONE_NEWNET, "net"}, {specs.PIDNamespace, unix.CLONE_NEWPID, "pid"}}

func externalName(file string) string { return "berth-" + file }

func linuxOf(s *specs.Spec) *specs.Linux {
	if s.Linux == nil {
		return &specs.Linux{}
	}
	return s.Linux
}

// checkCheckpoint refuses containers that could not be brought back as they were.
func checkCheckpoint(s *specs.Spec) error {
	l := linuxOf(s)
	for _, n := range l.Namespaces {
		if n.Path == "" {
			continue
		}
		switch n.Type {
		case specs.UserNamespace, specs.CgroupNamespace, specs.MountNamespace:
			return missingFeature(fmt.Sprintf("a checkpoint of a container that joins a %s namespace", n.Type))
		}
	}
	if len(l.NetDevices) > 0 {
		return missingFeature("a checkpoint of a container that was given a network device of the host")
	}
	if l.Seccomp != nil && l.Seccomp.ListenerPath != "" {
		return missingFeature("a checkpoint of a container with a seccomp listener")
	}
	return nil
}

// checkParent wants the path of earlier images from the new ones, where criu puts a link of that text.
func checkParent(images, parent string) error {
	if parent == "" {
		return nil
	}
	if path.IsAbs(parent) {
		return invalid("the parent's path %q counts from the image directory and cannot be absolute", parent)
	}
	if fi, err := os.Stat(filepath.Join(images, parent)); err != nil || !fi.IsDir() {
		return fmt.Errorf("the parent's images %q, seen from %q, are not there: %w", parent, images, errdefs.ErrNotFound)
	}
	return nil
}

// openDirs opens the directories of images and work.
func openDirs(c *criu.Options, images, work string) (workDir string, closeDirs func(), err error) {
	closeDirs = func() {
		for _, f := range []*os.File{c.ImagesDir, c.WorkDir} {
			if f != nil {
				_ = f.Close()
			}
		}
	}
	defer func() {
		if err != nil {
			closeDirs()
		}
	}()
	if c.ImagesDir, err = makeDir(images); err != nil {
		return "", nil, fmt.Errorf("directory of images: %w", err)
	}
	if work == "" {
		return images, closeDirs, nil
	}
	if c.WorkDir, err = makeDir(work); err != nil {
		return "", nil, fmt.Errorf("work directory: %w", err)
	}
	return work, closeDirs, nil
}

// makeDir opens a directory that is made if need be. What is in it is the memory of processes: nobody else may read it.
func makeDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return linux.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// talk is a conversation with the criu of this machine.
type talk struct{ criu.Conversation }

func newTalk() (*talk, error) {
	program, err := criu.Find()
	if err != nil {
		return nil, err
	}
	return &talk{criu.Conversation{Program: program}}, nil
}

// features asks whether criu and the kernel can do what not all can.
func (t *talk) features(ctx context.Context, tracking, lazy bool) error {
	if !tracking && !lazy {
		return nil
	}
	r, err := t.Ask(ctx, criu.Features, nil)
	if err == nil && !r.Success {
		err = errors.New("it cannot tell what it can do on this kernel; see: criu check")
	}
	switch {
	case err != nil:
		return fmt.Errorf("criu: %w", err)
	case tracking && !r.MemTrack:
		return missingFeature("this kernel does not track changes of memory (CONFIG_MEM_SOFT_DIRTY), which a pre-dump and its parent images need")
	case lazy && !r.Lazy:
		return missingFeature("this kernel cannot restore pages when they are needed (userfaultfd)")
	}
	return nil
}

// describeStdio names the container's standard descriptors. Files that are none of its mounts' are the host's: criu leaves them alone.
func describeStdio(c *criu.Options, proc *os.File, pid int, info []mountLine) ([3]string, error) {
	var names [3]string
	for i := range names {
		base := fmt.Sprintf("%d/fd/%d", pid, i)
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(proc.Fd()), base, buf)
		if err == unix.ENOENT { // it has closed it
			continue
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstatat(int(proc.Fd()), base, &st, 0)
		}
		if err != nil {
			return names, fmt.Errorf("descriptor %d of process %d: %w", i, pid, err)
		}
		names[i] = string(buf[:n])
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			// Of a pair with the host one end is somebody else's.
			c.External = append(c.External, fmt.Sprintf("unix[%d]", st.Ino))
			continue
		case unix.S_IFIFO:
			if strings.HasPrefix(names[i], "pipe:[") {
				continue // which criu finds by this name
			}
		}
		id, err := mountOf(proc, pid, i)
		if err != nil {
			return names, err
		}
		if slices.ContainsFunc(info, func(m mountLine) bool { return m.id == id }) {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && unix.Major(st.Rdev) >= 136 && unix.Major(st.Rdev) <= 143 { // Unix98 slaves
			names[i] = fmt.Sprintf("tty[%x:%x]", st.Rdev, st.Dev)
		} else {
			names[i] = fmt.Sprintf("file[%x:%x]", id, st.Ino)
		}
		if !slices.Contains(c.External, names[i]) {
			c.External = append(c.External, names[i])
		}
	}
	return names, nil
}

// mountOf is the number of the mount that an open file belongs to.
func mountOf(proc *os.File, pid, fd int) (int, error) {
	text, err := readProc(proc, fmt.Sprintf("%d/fdinfo/%d", pid, fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, "mnt_id:"); found {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("descriptor %d of process %d has no mount", fd, pid)
}

// readProc reads a file below a verified procfs.
func readProc(proc *os.File, name string) (string, error) {
	fd, err := unix.Openat(int(proc.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /proc/%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var b strings.Builder
	if _, err := f.WriteTo(&b); err != nil {
		return "", fmt.Errorf("read /proc/%s: %w", name, err)
	}
	return b.String(), nil
}
