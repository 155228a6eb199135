package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/berth-engine/berth/internal/network"
	"github.com/berth-engine/berth/internal/tty"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Start runs a container that does not run. Cancelling ctx stops being possible once the monitor has been told to go.
func (e *Engine) Start(ctx context.Context, ref string, o StartOptions) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	return e.start(ctx, l, rec, false)
}

// start is Start with the slot held.
func (e *Engine) start(ctx context.Context, l *live, rec container.Record, byPolicy bool) error {
	l.stopTimer()
	o, err := e.Containers.Apply(rec.ID, container.Starting{ByPolicy: byPolicy})
	if err != nil {
		return err
	}
	rec = o.Record
	var waiting []monitor.AttachStream
	var run *launched
	if err = l.settled(ctx); err == nil { // what the last run held is being given back
		waiting, err = l.awaitWaiting(ctx)
	}
	if err == nil {
		run, err = e.launch(ctx, rec, waiting)
	}
	if err != nil {
		for _, s := range append(waiting, l.takeWaiting()...) {
			_ = s.Conn.Close()
		}
		code, text := 128, err.Error()
		var failed *monitor.StartError
		if errors.As(err, &failed) {
			code = failed.Code
		}
		o, _ := e.Containers.Apply(rec.ID, container.StartFailed{Code: code, Message: text, At: time.Now().UTC()})
		if o.Remove {
			e.background(func() { e.autoRemove(rec.ID) })
		}
		return err
	}

	gone := make(chan struct{})
	l.mu.Lock()
	l.client, l.gone = run.client, gone
	late := l.waiting // they came while the container was being started
	l.waiting = nil
	l.mu.Unlock()
	for _, s := range late {
		if _, err := run.client.Attach(ctx, s.Conn, s.Options); err != nil {
			e.log.Warn("attach", "container", rec.ID, "error", err)
		}
		_ = s.Conn.Close()
	}
	o, err = e.Containers.Apply(rec.ID, container.Started{Pid: run.started.Pid, MonitorPid: run.started.MonitorPid,
		At: run.started.StartedAt, Endpoints: run.endpoints, Published: run.published})
	if err != nil {
		e.log.Error("save the start", "container", rec.ID, "error", err)
	}
	attached := rec
	attached.Endpoints = run.endpoints
	e.publishNetworks("connect", attached)
	e.publish(o.Record, "start", nil)
	e.background(func() { e.relink(o.Record) })
	e.watch(l, rec.ID, run.client, gone)
	return nil
}

// launched is a container that runs.
type launched struct {
	client    *monitor.Client
	started   *monitor.Started
	endpoints []container.Attached
	published []container.Published
}

// launch is the start path: everything between the order and the first instruction of the container's program. What it
// takes it gives back when it fails.
func (e *Engine) launch(ctx context.Context, rec container.Record, attach []monitor.AttachStream) (*launched, error) {
	cfg := rec.Config
	var undo undoStack
	defer func() { undo.run() }()

	rootfs, err := e.mountRoot(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer rootfs.Close()
	root := confine.FromFile(rootfs)
	user, err := resolveUser(root, cfg.Process.User, cfg.Process.GroupAdd)
	if err != nil {
		return nil, err
	}
	if err := ensureWorkdir(root, cfg.Process.WorkingDir); err != nil {
		return nil, err
	}

	in := specInput{Record: rec, User: user, DefaultUlimits: e.opts.DefaultUlimits,
		Cgroup: cgroupTraits{Version: e.cgroups.Version()}, CgroupPath: e.cgroupPath(rec)}
	files := monitor.Files{Rootfs: rootfs, Namespaces: map[specs.LinuxNamespaceType]*os.File{}}
	defer func() {
		for _, f := range files.Namespaces {
			_ = f.Close()
		}
		for _, f := range files.Trees {
			_ = f.Close()
		}
	}()
	if err := e.joinNamespaces(ctx, &in, &files); err != nil {
		return nil, err
	}

	var att *network.Attachment
	if _, joined := files.Namespaces[specs.NetworkNamespace]; !joined && !in.NetHost {
		req, err := attachRequest(rec, first(cfg.Net.DNS, e.opts.DNS))
		if err != nil {
			return nil, err
		}
		req.Peers = e.peers(rec)
		if att, err = e.Networks.Attach(ctx, req); err != nil {
			return nil, err
		}
		undo.add(func() {
			ctx, cancel := undoContext(ctx)
			defer cancel()
			_ = e.Networks.Detach(ctx, rec.ID)
		})
		files.Namespaces[specs.NetworkNamespace] = att.NetNS
	}
	dir := e.runDir(rec.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the run directory of container %q: %w", rec.Name, err)
	}
	undo.add(func() { _ = os.RemoveAll(dir) })
	links, err := e.links(rec)
	if err != nil {
		return nil, err
	}
	if in.EtcFiles, err = e.writeEtc(rec, att, links); err != nil {
		return nil, err
	}
	mounts, pinned, err := e.userMounts(ctx, rec)
	defer closeAll(pinned)
	if err != nil {
		return nil, err
	}
	in.Mounts = mounts
	if in.Devices, err = resolveDevices(cfg.Limits.Devices); err != nil {
		return nil, err
	}
	if cfg.Security.Privileged {
		all, err := hostDevices()
		if err != nil {
			return nil, err
		}
		in.Devices = append(all, in.Devices...)
	}
	caps, err := capabilities(cfg.Security, e.caps)
	if err != nil {
		return nil, err
	}
	if e.opts.NoNewPrivs {
		in.Record.Config.Security.NoNewPrivileges = true
	}
	spec, err := buildSpec(in, caps)
	if err != nil {
		return nil, err
	}
	for _, l := range links { // what the user set wins
		spec.Process.Env = mergeEnv(l.env(rec.Name), spec.Process.Env)
	}
	spec.Process.ApparmorProfile = e.apparmorProfile(cfg.Security)
	if in.Record.Config.Init || e.opts.Init {
		spec.Annotations = withAnnotation(spec.Annotations, monitor.InitAnnotation, "true")
	}
	filter, err := e.seccomp.filter(cfg.Security, caps, len(cfg.Extra.StorageOpt) > 0)
	if err != nil {
		return nil, err
	}
	if filter.flags != 0 {
		spec.Linux.Seccomp, filter.prog = filter.rules, nil
	}
	log, err := e.logConfig(rec)
	if err != nil {
		return nil, err
	}
	run := &launched{}
	if att != nil {
		run.endpoints, run.published = attachedRecord(att)
	}
	note, err := noteOf(run, dir)
	if err != nil {
		return nil, err
	}
	client, started, err := e.launcher.Start(ctx, monitor.Config{
		ID: rec.ID, Dir: dir, Spec: spec, CgroupPath: in.CgroupPath, Seccomp: filter.prog,
		Terminal: cfg.Process.Tty, OpenStdin: cfg.Process.OpenStdin, StdinOnce: cfg.Process.StdinOnce,
		Rows: uint16(cfg.Process.ConsoleRows), Cols: uint16(cfg.Process.ConsoleCols), Log: log, Note: note,
	}, files, attach)
	if err != nil {
		return nil, err
	}
	for _, w := range started.Warnings {
		e.log.Warn("start", "container", rec.ID, "warning", w)
	}
	undo = nil
	run.client, run.started = client, started
	return run, nil
}

// apparmorProfile is the profile that was asked for, where the kernel has such; "" is none.
func (e *Engine) apparmorProfile(sec container.Security) string {
	if !e.apparmor || sec.AppArmor == "unconfined" {
		return ""
	}
	return sec.AppArmor
}

// mountRoot makes the container's root file system, as a mount that stands nowhere.
func (e *Engine) mountRoot(ctx context.Context, rec container.Record) (*os.File, error) {
	f, err := e.store.MountLayer(ctx, rec.ID, digest.Digest(rec.Chain), len(rec.Config.Extra.StorageOpt) > 0)
	if err != nil {
		return nil, fmt.Errorf("mount the root file system of container %q: %w", rec.Name, err)
	}
	return f, nil
}

// mountToRead is the same to be read only, while the container may run.
func (e *Engine) mountToRead(ctx context.Context, rec container.Record) (*os.File, error) {
	f, err := e.store.MountToRead(ctx, rec.ID, digest.Digest(rec.Chain))
	if err != nil {
		return nil, fmt.Errorf("mount the file system of container %q for reading: %w", rec.Name, err)
	}
	return f, nil
}

// joinNamespaces opens the namespaces of other containers that this one shares, and notes the host's.
func (e *Engine) joinNamespaces(ctx context.Context, in *specInput, files *monitor.Files) error {
	sec := in.Record.Config.Security
	in.PidHost, in.IpcHost = sec.PidMode == "host", sec.IpcMode == "host"
	in.UTSHost, in.CgroupHost = sec.UTSMode == "host", sec.CgroupnsMode == "host"
	if in.Cgroup.Version == 1 && sec.CgroupnsMode == "" {
		in.CgroupHost = true // Docker's default where the hierarchy is the old one
	}
	in.NetHost = in.Record.Config.Net.Mode == "host"
	if in.NetHost && in.Record.Config.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("ask for the host's name: %w", err)
		}
		in.Record.Config.Hostname = name
	}
	if in.IpcHost {
		in.ShmFrom = shmDir
	}
	for _, j := range []struct {
		mode string
		kind specs.LinuxNamespaceType
		file string
	}{
		{in.Record.Config.Net.Mode, specs.NetworkNamespace, "net"},
		{sec.PidMode, specs.PIDNamespace, "pid"},
		{sec.IpcMode, specs.IPCNamespace, "ipc"},
	} {
		id, ok := strings.CutPrefix(j.mode, "container:")
		if !ok {
			continue
		}
		other, c, err := e.running(id)
		if err != nil {
			return fmt.Errorf("cannot join the %s namespace of container %s: %w", j.file, id, err)
		}
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", other.State.Pid, j.file))
		if err != nil {
			return fmt.Errorf("cannot join the %s namespace of container %q: %w", j.file, other.Name, err)
		}
		files.Namespaces[j.kind] = f
		if j.kind == specs.IPCNamespace {
			tree, err := sharedMemory(other)
			if err != nil {
				return err
			}
			files.Trees = map[string]*os.File{shmDir: tree}
			in.ShmFrom = shmDir
		}
		// Had it ended before we looked, its number could be another process's by now: of the host, for instance.
		if err := c.Signal(ctx, 0); err != nil {
			return fmt.Errorf("cannot join the %s namespace of container %q: it has ended%w", j.file, other.Name,
				kind{errdefs.ErrConflict})
		}
		if j.kind == specs.NetworkNamespace {
			in.Record.Config.Hostname = other.Config.Hostname // a shared network shows one name
		}
	}
	return nil
}

// shmDir is where POSIX shared memory lives (shm_overview(7)).
const shmDir = "/dev/shm"

// sharedMemory copies the mount that holds a running container's shared memory, if it allows others to have it.
func sharedMemory(other container.Record) (*os.File, error) {
	switch mode := other.Config.Security.IpcMode; {
	case mode == "shareable", mode == "host", strings.HasPrefix(mode, "container:"):
	default:
		return nil, fmt.Errorf("container %s: non-shareable IPC (hint: use IpcMode:shareable for the donor container)%w",
			other.ID, kind{errdefs.ErrInvalidArgument})
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", other.State.Pid))
	if err != nil {
		return nil, fmt.Errorf("cannot join the ipc namespace of container %q: %w", other.Name, err)
	}
	defer ns.Close()
	tree, err := linux.OpenTreeIn(ns, shmDir)
	if err != nil {
		return nil, fmt.Errorf("cannot share %s of container %q: %w", shmDir, other.Name, err)
	}
	// The other container may have mounted anything there, or made it a link.
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(tree.Fd()), &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		_ = tree.Close()
		return nil, fmt.Errorf("cannot share %s of container %q: it is no tmpfs any more%w", shmDir, other.Name,
			kind{errdefs.ErrConflict})
	}
	return tree, nil
}

// ensureWorkdir makes the working directory where the image has none, as root's, without following a link out of the
// container (CVE-2026-55686).
func ensureWorkdir(root *confine.Root, dir string) error {
	if dir == "" || dir == "/" {
		return nil
	}
	if err := root.MkdirAll(dir, 0o755, 0, 0); err != nil {
		return fmt.Errorf("make the working directory %q: %w", dir, err)
	}
	return nil
}

func (e *Engine) cgroupPath(rec container.Record) string {
	parent := rec.Config.Limits.CgroupParent
	if parent == "" {
		parent = e.opts.CgroupRoot
	}
	return filepath.Join("/", parent, rec.ID)
}

func withAnnotation(a map[string]string, k, v string) map[string]string {
	out := map[string]string{k: v}
	for k, v := range a {
		out[k] = v
	}
	return out
}

// detachKeys parses the keys that end an attachment; "" means Docker's.
func detachKeys(text string) ([]byte, error) {
	if text == "" {
		text = "ctrl-p,ctrl-q"
	}
	keys, err := tty.ParseDetachKeys(text)
	if err != nil {
		return nil, fmt.Errorf("detach keys %q: %w%w", text, err, kind{errdefs.ErrInvalidArgument})
	}
	return keys, nil
}
