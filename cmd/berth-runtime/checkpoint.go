package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/criu"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// imaging are the flags that checkpoint and restore have in common.
type imaging struct {
	images, work, cgroups string
	emptyNS               words
	options               criu.Options
}

func (m *imaging) flags(f *flags) {
	o := &m.options
	f.StringVar(&m.images, "image-path", "checkpoint", "directory of the images")
	f.StringVar(&m.work, "work-path", "", "directory of criu's log (default: that of the images)")
	f.BoolVar(&o.TCPEstablished, "tcp-established", false, "with established TCP connections")
	f.BoolVar(&o.ExtUnixSk, "ext-unix-sk", false, "with unix sockets whose other end is outside")
	f.BoolVar(&o.ShellJob, "shell-job", false, "with a terminal or session of somebody else's")
	f.BoolVar(&o.FileLocks, "file-locks", false, "with locks on files")
	f.StringVar(&m.cgroups, "manage-cgroups-mode", "soft", "what criu does about groups below the container's: soft, full, strict or ignore")
	f.Var(&m.emptyNS, "empty-ns", "\"network\": without what is in that namespace")
	f.BoolVar(&o.AutoDedup, "auto-dedup", false, "remove from the parent's images what newer ones have; when restoring, what has been restored")
	f.BoolVar(&o.LinkRemap, "link-remap", false, "with files that were removed while a link to them is left")
}

func (m *imaging) finish() (err error) {
	if m.options.CgroupMode, err = criu.ParseCgroupMode(m.cgroups); err != nil {
		return fmt.Errorf("--manage-cgroups-mode: %w", err)
	}
	for _, ns := range m.emptyNS {
		if ns != "network" {
			return fmt.Errorf("--empty-ns %q: only \"network\" can be left empty: %w", ns, errdefs.ErrInvalidArgument)
		}
		m.options.EmptyNamespaces |= unix.CLONE_NEWNET
	}
	if m.images == "" {
		return invalid("--image-path is empty")
	}
	if m.images, err = filepath.Abs(m.images); err == nil && m.work != "" {
		m.work, err = filepath.Abs(m.work)
	}
	return err
}

// checkpoint saves a container to files and, unless it shall go on, removes it.
func checkpoint(c *cli, args []string) error {
	f := newFlags("berth-runtime checkpoint", "[FLAGS] ID")
	m := &imaging{}
	m.flags(f)
	var server string
	var preDump bool
	o := &m.options
	f.StringVar(&o.ParentImage, "parent-path", "", "directory of an earlier --pre-dump, from --image-path on: only what has changed is saved")
	f.BoolVar(&preDump, "pre-dump", false, "save memory only, while the container runs")
	f.BoolVar(&o.LeaveRunning, "leave-running", false, "the container goes on")
	f.BoolVar(&o.TCPSkipInFlight, "tcp-skip-in-flight", false, "without TCP connections that are being made")
	f.BoolVar(&o.LazyPages, "lazy-pages", false, "leave memory here until it is asked for, at --page-server")
	f.StringVar(&server, "page-server", "", "ADDRESS:PORT of the criu that gets the memory or, with --lazy-pages, to serve it at")
	f.IntVar(&o.StatusFd, "status-fd", -1, "descriptor that is written to and closed when --lazy-pages serves")
	id, err := f.id(args, 1)
	if err != nil {
		return err
	}
	if err := m.finish(); err != nil {
		return err
	}
	if server != "" {
		if o.PageServer, err = pageServer(server); err != nil {
			return err
		}
	}
	switch {
	case o.LazyPages && o.PageServer == nil:
		return invalid("--lazy-pages needs --page-server, where the memory is asked for")
	case o.LazyPages && preDump:
		return invalid("--lazy-pages and --pre-dump exclude each other")
	case o.StatusFd >= 0 && !o.LazyPages:
		return invalid("--status-fd is for --lazy-pages")
	case o.StatusFd >= 0:
		if _, err := unix.FcntlInt(uintptr(o.StatusFd), unix.F_GETFD, 0); err != nil {
			return invalid("--status-fd %d is not open", o.StatusFd)
		}
	default:
		o.StatusFd = 0
	}
	st, dir, err := c.load(id)
	if err != nil {
		return err
	}
	if s := status(st); s != specs.StateRunning && s != "paused" {
		return fmt.Errorf("cannot checkpoint container %q that is %s: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	spec, err := readConfig(st.Bundle)
	if err != nil {
		return err
	}
	x := ocirun.CheckpointOptions{Spec: spec, ImagesDir: m.images, WorkDir: m.work, PreDump: preDump, Criu: *o}
	if st.CgroupPath != "" {
		if x.Cgroup, err = group(st); err != nil {
			return err
		}
	}
	if err := ocirun.Checkpoint(context.Background(), st, x); err != nil {
		return err
	}
	if preDump || o.LeaveRunning {
		return nil
	}
	if err := end(st); err != nil { // its parent has yet to hear of it
		return err
	}
	return c.destroy(st, dir)
}

func pageServer(text string) (*criu.PageServer, error) {
	colon := strings.LastIndexByte(text, ':')
	host := strings.TrimSuffix(strings.TrimPrefix(text[:max(colon, 0)], "["), "]")
	n, err := strconv.ParseUint(text[colon+1:], 10, 16)
	if err != nil || n == 0 || host == "" {
		return nil, invalid("--page-server %q is not ADDRESS:PORT", text)
	}
	return &criu.PageServer{Address: host, Port: int(n)}, nil
}

// restore makes a container from a checkpoint and, in the foreground, stays with it to its end.
func restore(c *cli, args []string) error {
	n := &creation{c: c}
	f := newFlags("berth-runtime restore", "[FLAGS] ID")
	n.place(f)
	m := &imaging{}
	m.flags(f)
	o := &m.options
	var detach bool
	f.bothBool(&detach, "detach", "d", "do not wait for the container's end")
	f.Bool("no-subreaper", false, "accepted: this command is no subreaper")
	f.BoolVar(&o.LazyPages, "lazy-pages", false, "memory comes when it is needed, from criu lazy-pages, which runs in --work-path")
	f.StringVar(&o.LSMProfile, "lsm-profile", "", "\"apparmor:NAME\" or \"selinux:LABEL\" in place of what it had")
	f.StringVar(&o.LSMMountContext, "lsm-mount-context", "", "SELinux context of mounts that had one")
	id, err := f.id(args, 1)
	if err != nil {
		return err
	}
	if err := m.finish(); err != nil {
		return err
	}
	n.begin = func(ctx context.Context, s ocirun.StartOptions) (*ocirun.Process, error) {
		if s.Terminal { // criu's own standard files, for what it has to say
			s.Stdin, s.Stdout, s.Stderr = nil, nil, os.Stderr
		}
		return ocirun.Restore(ctx, ocirun.RestoreOptions{StartOptions: s, ImagesDir: m.images, WorkDir: m.work, Criu: *o})
	}
	return n.inForeground(id, detach, false)
}
