package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Execs are the further processes of running containers. They live in memory: a restarted daemon learns the exit codes
// of those that ended while it was not there, from their monitors, and of those that still run when they end; it forgets
// the ones that were never started, as Docker does.
type Execs struct {
	e  *Engine
	mu sync.Mutex
	// byID is guarded by mu, and so are the execs in it.
	byID map[string]*exec
}

type exec struct {
	rec     ExecRecord
	started bool
	settled chan struct{} // closed when it runs, or will not: between that and its order the monitor does not know it
	private bool          // of a health check: nobody asks for it once it has ended
	over    chan struct{} // closed when it has ended
}

// maxExecs bounds how many ended execs are kept per container, so that a health check by a client cannot fill the memory.
const maxExecs = 64

// Create notes an exec; nothing runs yet.
func (x *Execs) Create(_ context.Context, ref string, cfg ExecConfig) (string, error) {
	rec, _, err := x.e.running(ref)
	if err != nil {
		return "", err
	}
	if rec.State.Status == container.Paused {
		return "", fmt.Errorf("container %s is paused, unpause the container before exec%w", ref, kind{errdefs.ErrConflict})
	}
	if len(cfg.Argv) == 0 || cfg.Argv[0] == "" {
		return "", fmt.Errorf("no exec command specified%w", kind{errdefs.ErrInvalidArgument})
	}
	if cfg.WorkingDir != "" && !path.IsAbs(cfg.WorkingDir) {
		return "", fmt.Errorf("the working directory '%s' is invalid, it needs to be an absolute path%w",
			cfg.WorkingDir, kind{errdefs.ErrInvalidArgument})
	}
	if _, err := detachKeys(cfg.DetachKeys); err != nil {
		return "", err
	}
	var raw [32]byte
	rand.Read(raw[:]) // never fails
	id := hex.EncodeToString(raw[:])
	x.mu.Lock()
	x.byID[id] = &exec{rec: ExecRecord{ID: id, ContainerID: rec.ID, Config: cfg}, settled: make(chan struct{}), over: make(chan struct{})}
	x.mu.Unlock()
	x.e.publish(rec, "exec_create: "+strings.Join(cfg.Argv, " "), map[string]string{"execID": id})
	return id, nil
}

// Start runs it. With Detach it returns when the process runs, otherwise when the streams are in the monitor's hands.
func (x *Execs) Start(ctx context.Context, id string, o ExecStartOptions, open Opener) error {
	x.mu.Lock()
	ex := x.byID[id]
	if ex == nil {
		x.mu.Unlock()
		return noExec(id)
	}
	if ex.started {
		running := ex.rec.Running
		x.mu.Unlock()
		if running {
			return fmt.Errorf("exec command %s is already running%w", id, kind{errdefs.ErrConflict})
		}
		return fmt.Errorf("exec command %s has already run%w", id, kind{errdefs.ErrConflict})
	}
	ex.started = true
	rec := ex.rec
	x.mu.Unlock()
	defer close(ex.settled)
	err := x.start(ctx, rec, o, open)
	if err != nil {
		x.ended(id, startCode(err))
	}
	return err
}

// TellsExit reports whether the execs of a running container can end their streams with the exit code. A monitor that an older release
// started cannot.
func (x *Execs) TellsExit(ref string) bool {
	_, c, err := x.e.running(ref)
	return err == nil && c.Info().TellsExit
}

// startCode is the exit code of an exec that could not be started.
func startCode(err error) int {
	var failed *monitor.StartError
	if errors.As(err, &failed) {
		return failed.Code
	}
	return 126
}

func (x *Execs) start(ctx context.Context, ex ExecRecord, o ExecStartOptions, open Opener) error {
	rec, c, err := x.e.running(ex.ContainerID)
	if err != nil {
		return err
	}
	if rec.State.Status == container.Paused {
		return fmt.Errorf("container %s is paused, unpause the container before exec%w", rec.ID, kind{errdefs.ErrConflict})
	}
	if o.Rows > 0 && o.Cols > 0 {
		ex.Config.Rows, ex.Config.Cols = o.Rows, o.Cols
	}
	proc, load, err := x.process(ctx, rec, c, ex.Config)
	if err != nil {
		return err
	}
	keys, err := detachKeys(ex.Config.DetachKeys)
	if err != nil {
		return err
	}
	var stream *os.File
	ao := monitor.AttachOptions{Stdin: ex.Config.AttachStdin, Stdout: ex.Config.AttachStdout, Stderr: ex.Config.AttachStderr,
		Mux: !ex.Config.Tty || o.TellExit, Exit: o.TellExit, DetachKeys: keys}
	if !o.Detach {
		conn, buffered, err := open()
		if err != nil {
			return err
		}
		if stream, err = handOver(conn, buffered); err != nil {
			return err
		}
		defer stream.Close()
	}
	x.e.publish(rec, "exec_start: "+strings.Join(ex.Config.Argv, " "), map[string]string{"execID": ex.ID})
	x.mu.Lock() // before the process runs, so that its exit cannot come first
	if known := x.byID[ex.ID]; known != nil {
		known.rec.Running = true
	}
	x.mu.Unlock()
	// Once the monitor has the order a caller who goes away cannot take it back.
	started, err := c.Exec(context.WithoutCancel(ctx), monitor.ExecConfig{ID: ex.ID, Process: proc, Terminal: ex.Config.Tty,
		OpenStdin: ex.Config.AttachStdin && !o.Detach, Seccomp: load.prog, SeccompFlags: load.flags,
		Listener: load.listener(rec.Config.Extra.Annotations),
		Rows:     uint16(ex.Config.Rows), Cols: uint16(ex.Config.Cols)}, stream, ao)
	if err != nil {
		x.ended(ex.ID, startCode(err)) // before the client sees its stream end, and asks
		return fmt.Errorf("OCI runtime exec failed: exec failed: %w", err)
	}
	x.mu.Lock()
	if known := x.byID[ex.ID]; known != nil {
		known.rec.Pid = started.Pid
	}
	x.mu.Unlock()
	return nil
}

// process is the OCI process of an exec: the container's own, but for what was asked.
func (x *Execs) process(ctx context.Context, rec container.Record, c *monitor.Client,
	cfg ExecConfig) (*specs.Process, filter, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/root", rec.State.Pid))
	if err != nil {
		return nil, filter{}, fmt.Errorf("container %q is not running%w", rec.Name, kind{errdefs.ErrConflict})
	}
	root := confine.FromFile(f)
	defer root.Close()
	name := cfg.User
	if name == "" {
		name = rec.Config.Process.User
	}
	user, err := resolveUser(root, name, rec.Config.Process.GroupAdd)
	if err != nil {
		// Had the container ended before we looked, its number could be another process's, which was then asked. Only the reason is
		// wrong in that case: the monitor starts nothing in a container that has ended.
		if c.Signal(ctx, 0) != nil {
			err = fmt.Errorf("container %q is not running%w", rec.Name, kind{errdefs.ErrConflict})
		}
		return nil, filter{}, err
	}
	// --privileged gives an exec every capability. What holds for the whole container, its filter and no_new_privs, holds
	// for the exec too, as with Docker.
	sec := rec.Config.Security
	caps, err := capabilities(sec, x.e.caps)
	if err != nil {
		return nil, filter{}, err
	}
	load, err := x.e.seccomp.filter(sec, caps, len(rec.Config.Extra.StorageOpt) > 0)
	if err != nil {
		return nil, filter{}, err
	}
	if cfg.Privileged {
		caps = slices.Clone(x.e.caps)
	}
	own := rec.Config
	own.Process.Tty = cfg.Tty
	own.Process.Env = mergeEnv(rec.Config.Process.Env, cfg.Env)
	if links, err := x.e.links(rec); err == nil { // a linked container that has ended is no hindrance
		for _, l := range links {
			own.Process.Env = mergeEnv(l.env(rec.Name), own.Process.Env)
		}
	}
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = rec.Config.Process.WorkingDir
	}
	p := &specs.Process{
		Terminal: cfg.Tty, Args: cfg.Argv, Cwd: cwd(cfg.WorkingDir),
		User:            specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.Groups},
		Env:             environment(own, user, rec.Config.Hostname),
		NoNewPrivileges: sec.NoNewPrivileges || x.e.opts.NoNewPrivs,
		Capabilities:    capabilitySets(caps, user.UID),
		ApparmorProfile: x.e.apparmorProfile(sec),
	}
	if p.Rlimits, err = rlimits(rec.Config.Limits.Ulimits, x.e.opts.DefaultUlimits); err != nil {
		return nil, filter{}, err
	}
	if adj := rec.Config.Limits.OomScoreAdj; adj != 0 {
		p.OOMScoreAdj = &adj
	}
	return p, load, nil
}

// Inspect tells what is known of an exec. A client asks for the exit code as soon as its stream has ended, which may be
// before the event of it has come here: the monitor is asked, and if the process is over its event is waited for.
func (x *Execs) Inspect(ctx context.Context, id string) (ExecRecord, error) {
	x.mu.Lock()
	ex := x.byID[id]
	if ex == nil {
		x.mu.Unlock()
		return ExecRecord{}, noExec(id)
	}
	rec, over := ex.rec, ex.over
	x.mu.Unlock()
	if rec.Running && rec.Pid == 0 { // a short process ends, and its stream with it, before the monitor's answer is read
		select {
		case <-ex.settled:
		case <-ctx.Done():
			return rec, ctx.Err()
		}
		x.mu.Lock()
		rec = ex.rec
		x.mu.Unlock()
	}
	if !rec.Running || rec.Pid == 0 {
		return rec, nil
	}
	if _, c, err := x.e.running(rec.ContainerID); err == nil && !errdefs.IsNotFound(c.SignalExec(ctx, id, 0)) {
		return rec, nil
	}
	t := time.NewTimer(undoTime)
	defer t.Stop()
	select {
	case <-over:
	case <-t.C:
	case <-ctx.Done():
		return rec, ctx.Err()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return ex.rec, nil
}

// Resize sets the size of its terminal. A client does so as soon as its stream is open, which is before the process runs.
func (x *Execs) Resize(ctx context.Context, id string, rows, cols uint16) error {
	x.mu.Lock()
	ex := x.byID[id]
	if ex == nil {
		x.mu.Unlock()
		return noExec(id)
	}
	begun := ex.started
	x.mu.Unlock()
	if begun {
		select {
		case <-ex.settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	x.mu.Lock()
	rec := ex.rec
	x.mu.Unlock()
	if !rec.Running {
		return fmt.Errorf("exec command %s is not running%w", id, kind{errdefs.ErrConflict})
	}
	_, c, err := x.e.running(rec.ContainerID)
	if err != nil {
		return err
	}
	return c.Resize(ctx, id, rows, cols)
}

// List are the execs of a container that run.
func (x *Execs) List(containerID string) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var ids []string
	for id, ex := range x.byID {
		if ex.rec.ContainerID == containerID && ex.rec.Running {
			ids = append(ids, id)
		}
	}
	return ids
}

// exited notes the end that the monitor told.
func (x *Execs) exited(containerID, id string, code int) {
	x.mu.Lock()
	if x.byID[id] == nil { // an earlier daemon started it, and its client may come to ask us
		ex := &exec{rec: ExecRecord{ID: id, ContainerID: containerID, CanRemove: true}, started: true,
			settled: make(chan struct{}), over: make(chan struct{})}
		close(ex.settled)
		x.byID[id] = ex
	}
	x.mu.Unlock()
	x.ended(id, code)
	if rec, err := x.e.Containers.Get(containerID); err == nil {
		x.e.publish(rec, "exec_die", map[string]string{"execID": id, "exitCode": fmt.Sprint(code)})
	}
}

func (x *Execs) ended(id string, code int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ex := x.byID[id]
	if ex == nil {
		return
	}
	ex.end(code)
	if ex.private {
		delete(x.byID, id)
		return
	}
	var old []string
	for other, o := range x.byID {
		if o.rec.ContainerID == ex.rec.ContainerID && o.started && !o.rec.Running && other != id {
			old = append(old, other)
		}
	}
	for i := 0; len(old)-i > maxExecs; i++ {
		delete(x.byID, old[i])
	}
}

// forgetRuns ends every exec of a container whose first process ended: the kernel killed them with it.
func (x *Execs) forgetRuns(containerID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, ex := range x.byID {
		if ex.rec.ContainerID == containerID && ex.rec.Running {
			ex.end(137)
		}
	}
}

// end notes the exit code, once. Called with Execs.mu held.
func (ex *exec) end(code int) {
	if ex.rec.ExitCode != nil {
		return
	}
	ex.rec.Running, ex.rec.ExitCode = false, &code
	close(ex.over)
}

func (x *Execs) forget(containerID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for id, ex := range x.byID {
		if ex.rec.ContainerID == containerID {
			delete(x.byID, id)
		}
	}
}

func noExec(id string) error {
	return fmt.Errorf("No such exec instance: %s%w", id, kind{errdefs.ErrNotFound})
}
