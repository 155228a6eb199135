package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/durable"
	"github.com/berth-engine/berth/internal/image"
	"github.com/berth-engine/berth/internal/monitor"
	"github.com/berth-engine/berth/internal/network"
	"github.com/berth-engine/berth/internal/store"
	"github.com/berth-engine/berth/internal/volume"
	"golang.org/x/sys/unix"
)

// runtimeName is what our own runtime is called where a client names one.
const runtimeName = "berth-runtime"

// Options are the engine's settings. Zero values mean the defaults that the field names.
type Options struct {
	DataRoot    string // default /var/lib/berth
	ExecRoot    string // default /run/berth
	RuntimePath string // the berth-runtime program; required
	CgroupRoot  string // parent group of containers, default "/berth"
	Network     network.Options

	StorageDriver store.Driver // "" chooses what works on the data root's file system
	Image         image.Options

	LogDriver      string // default "json-file"
	LogOptions     map[string]string
	DefaultUlimits []container.Ulimit
	ShmSize        int64 // bytes, default 64 MiB
	Init           bool  // run an init in every container
	NoNewPrivs     bool
	SeccompProfile string // JSON text that takes the place of the default profile, or "unconfined"
	DNS            []string
	DNSSearch      []string
	DNSOptions     []string
	// HostGateway are the addresses that stand for the host in containers; nil is where each of them reaches it.
	HostGateway []netip.Addr

	Log *slog.Logger
}

// Engine is a running engine. The rooms are open for questions and for work that stays inside one of them; whatever
// crosses rooms is a method.
type Engine struct {
	Images     *image.Images
	Networks   *network.Networks
	Volumes    *volume.Volumes
	Containers *container.Containers
	Execs      *Execs
	Files      *Files
	Events     *Events

	opts     Options
	log      *slog.Logger
	lock     *durable.FileLock // of the exec root
	store    *store.Store
	launcher *monitor.Launcher
	cgroups  *cgroup.Host
	seccomp  *seccompCache
	caps     []string // capabilities this process can give
	apparmor bool     // the host's kernel enforces profiles
	cpus     int

	mu     sync.Mutex
	lives  map[string]*live
	closed bool
	work   sync.WaitGroup // goroutines that Close waits for
	ctx    context.Context
	cancel context.CancelFunc
}

// Open opens every room, takes back the containers that run, and starts those whose policy says so. It fails when another
// daemon uses the data root.
func Open(ctx context.Context, o Options) (*Engine, error) {
	if o.DataRoot == "" {
		o.DataRoot = "/var/lib/berth"
	}
	if o.ExecRoot == "" {
		o.ExecRoot = "/run/berth"
	}
	if o.CgroupRoot == "" {
		o.CgroupRoot = "/berth"
	}
	if o.LogDriver == "" {
		o.LogDriver = "json-file"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{o.DataRoot, o.ExecRoot} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make %q: %w", dir, err)
		}
	}
	// Nobody but root gets into the data root, also one made before: images and volumes hold setuid programs (CVE-2021-41091).
	if err := os.Chmod(o.DataRoot, 0o710); err != nil {
		return nil, fmt.Errorf("close %q to others: %w", o.DataRoot, err)
	}
	e := &Engine{opts: o, log: o.Log, Events: newEvents(), lives: map[string]*live{}, seccomp: newSeccompCache(o.SeccompProfile),
		cpus: runtime.NumCPU()}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	e.Execs = &Execs{e: e, byID: map[string]*exec{}}
	e.Files = &Files{e: e}

	var undo undoStack
	defer func() { undo.run() }()
	var err error
	// Restoring ends containers below the exec root that it does not know: two daemons must not share one.
	if e.lock, err = durable.Lock(filepath.Join(o.ExecRoot, "lock")); err != nil {
		if errors.Is(err, durable.ErrLocked) {
			err = fmt.Errorf("another daemon uses the exec root %q; choose another with --exec-root: %w", o.ExecRoot, err)
		}
		return nil, err
	}
	undo.add(func() { _ = e.lock.Unlock() })
	if e.caps, err = ownCapabilities(); err != nil {
		return nil, err
	}
	if text, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil {
		e.apparmor = len(text) > 0 && text[0] == 'Y'
	}
	if e.cgroups, err = cgroup.Detect(); err != nil {
		return nil, err
	}
	if e.store, err = store.Open(ctx, o.DataRoot); err != nil {
		return nil, err
	}
	undo.add(func() { _ = e.store.Close() })
	if err = e.store.Use(o.StorageDriver); err != nil {
		return nil, err
	}
	o.Image.Grown = e.grown
	if e.Images, err = image.Open(e.store, o.Image); err != nil {
		return nil, err
	}
	var damaged, damagedToo []error
	if e.Containers, damaged, err = container.Open(filepath.Join(o.DataRoot, "containers")); err != nil {
		return nil, err
	}
	if e.Volumes, damagedToo, err = volume.Open(filepath.Join(o.DataRoot, "volumes")); err != nil {
		return nil, err
	}
	for _, err := range append(damaged, damagedToo...) {
		e.log.Error("damaged record", "error", err)
	}
	n := o.Network
	n.DataRoot, n.RunDir, n.OnRefused = o.DataRoot, o.ExecRoot, e.refused
	if e.Networks, err = network.Open(ctx, n); err != nil {
		return nil, err
	}
	undo.add(func() { _ = e.Networks.Close() })
	if e.launcher, err = monitor.NewLauncher(o.RuntimePath); err != nil {
		return nil, err
	}
	undo.add(func() { _ = e.launcher.Close() })
	undo.add(e.stopWork)
	if err := e.restore(ctx); err != nil {
		return nil, err
	}
	undo = nil
	e.grown() // the disk may have filled while no daemon looked
	return e, nil
}

// Close ends the engine and leaves every container running. It waits for work under way.
func (e *Engine) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() { e.stopWork(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
	e.Events.close()
	// The parent of all groups goes with the last container, and with the daemon that made it.
	if err := e.cgroups.Open(e.opts.CgroupRoot).Prune(); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, fs.ErrNotExist) {
		e.log.Warn("remove the parent cgroup", "cgroup", e.opts.CgroupRoot, "error", err)
	}
	return errors.Join(e.launcher.Close(), e.Networks.Close(), e.store.Close(), e.lock.Unlock())
}

// stopWork lets go of every container and waits for what runs in the background.
func (e *Engine) stopWork() {
	e.mu.Lock()
	e.closed = true
	lives := make([]*live, 0, len(e.lives))
	for _, l := range e.lives {
		lives = append(lives, l)
	}
	e.mu.Unlock()
	e.cancel()
	for _, l := range lives {
		l.letGo()
	}
	e.work.Wait()
}

// background runs f unless the engine is closing; Close waits for it. f must end soon after e.ctx does.
func (e *Engine) background(f func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		f()
	}()
	return true
}

// publish tells of something that happened to a container, with Docker's attributes.
func (e *Engine) publish(rec container.Record, action string, more map[string]string) {
	attrs := make(map[string]string, len(rec.Config.Labels)+len(more)+2)
	for k, v := range rec.Config.Labels {
		attrs[k] = v
	}
	attrs["name"], attrs["image"] = rec.Name, rec.Config.Image
	for k, v := range more {
		attrs[k] = v
	}
	e.Events.Publish(Event{Type: "container", Action: action, ActorID: rec.ID, Attributes: attrs})
}

// runDir is where the monitor of container id has its socket and its exit record.
func (e *Engine) runDir(id string) string { return filepath.Join(e.opts.ExecRoot, "containers", id) }
