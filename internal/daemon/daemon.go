package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/dockerapi"
	"github.com/berth-engine/berth/internal/durable"
	"github.com/berth-engine/berth/internal/image"
	"github.com/berth-engine/berth/internal/network"
	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/registryd"
	"github.com/berth-engine/berth/internal/store"
)

// Build is what the program knows of its own making.
type Build struct{ Version, Commit, Time string }

// Main is the program berthd: it returns the exit status.
func Main(args []string, build Build, stdout, stderr io.Writer) int {
	if len(args) == 2 && args[0] == keeperRole {
		return network.Keep(args[1])
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, "berthd:", err)
		return 1
	}
	c, err := Load(args)
	switch {
	case err != nil:
		return fail(err)
	case c.Help:
		fmt.Fprint(stdout, Usage())
		return 0
	case c.Version:
		fmt.Fprintf(stdout, "Berth version %s, build %s\n", build.Version, build.Commit)
		return 0
	case c.Validate:
		fmt.Fprintln(stdout, "configuration OK")
		return 0
	}
	d := &daemon{args: args, build: build, level: new(slog.LevelVar)}
	if err := d.run(c, stderr); err != nil {
		return fail(err)
	}
	return 0
}

// Values of publish-policy.
const (
	policyOpen    = "open"                  // published is published, as with Docker
	policyRespect = "respect-host-firewall" // the host's input rules decide
)

// keeperRole, and a path, make the program what keeps ports and names while no daemon is there.
const keeperRole = "keeper"

// daemon is one run of the program.
type daemon struct {
	args  []string
	build Build
	log   *slog.Logger
	level *slog.LevelVar
	// now is the configuration in force: a reload replaces it.
	now      atomic.Pointer[Config]
	engine   *engine.Engine
	registry *registryd.Service
}

func (d *daemon) run(c *Config, stderr io.Writer) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("berthd needs root: it makes namespaces, mounts and networks")
	}
	syscall.Umask(0o022) // whatever started us must not decide who may write what we make
	l, err := level(c)
	if err != nil {
		return err
	}
	d.level.Set(l)
	d.now.Store(c)
	d.log = slog.New(handler(c, stderr, d.level))
	setProxies(c)

	// Signals first: one that comes early ends the start instead of being lost.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)

	lock, err := lockExecRoot(c.ExecRoot)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := checkHosts(c); err != nil {
		return err
	}
	runtimePath, err := findRuntime(c.RuntimePath)
	if err != nil {
		return err
	}
	if d.engine, err = d.openEngine(c, runtimePath); err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		err = errors.Join(err, d.engine.Close(ctx))
	}()
	d.registry = registryd.Open(registryd.Options{Dir: c.DataRoot, Run: c.ExecRoot, Log: d.log,
		Program: func() (string, error) { return findProgram("berth-registry") }})
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTime)
		defer cancel()
		d.registry.Close(ctx)
	}()
	sockets, err := listen(c)
	if err != nil {
		return err
	}
	defer sockets.close()
	if err := writePidFile(c.PidFile); err != nil {
		return err
	}
	defer os.Remove(c.PidFile)

	if err := d.registry.Resume(c.Registry); err != nil {
		d.log.Error("start the registry", "error", err)
	}
	server, idle := d.server(c, runtimePath)
	defer idle.stop()
	served := make(chan error, len(sockets.all))
	for _, ln := range sockets.all {
		go func() { served <- server.Serve(ln) }()
	}
	notify("READY=1")
	d.log.Info("ready", "version", d.build.Version, "hosts", strings.Join(c.Hosts, " "), "data-root", c.DataRoot)
	return d.wait(server, served, signals, sockets)
}

// closeTime is how long the engine may take to let go of the containers.
const closeTime = 10 * time.Second

// wait lives until a signal ends the daemon or a listener breaks.
func (d *daemon) wait(server *http.Server, served <-chan error, signals <-chan os.Signal, sockets *listeners) error {
	for {
		select {
		case err := <-served:
			return fmt.Errorf("serve the API: %w", err)
		case sig := <-signals:
			switch sig {
			case syscall.SIGHUP:
				notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic()))
				d.reload()
				notify("READY=1")
			case syscall.SIGUSR1:
				stacks := make([]byte, 1<<20)
				d.log.Info("stacks of all goroutines", "stacks", string(stacks[:runtime.Stack(stacks, true)]))
			default:
				notify("STOPPING=1")
				d.log.Info("stopping; containers keep running", "signal", sig.String())
				return d.shutdown(server, sockets, signals)
			}
		}
	}
}

// shutdown closes the sockets, ends streams, and waits for requests that change something. A second signal ends the
// waiting.
func (d *daemon) shutdown(server *http.Server, sockets *listeners, signals <-chan os.Signal) error {
	sockets.close()
	timeout := time.Duration(d.now.Load().ShutdownTimeout) * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	go func() {
		for sig := range signals {
			if sig != syscall.SIGHUP && sig != syscall.SIGUSR1 {
				cancel()
			}
		}
	}()
	if err := server.Shutdown(ctx); err != nil {
		d.log.Warn("requests were still under way", "error", err)
		return server.Close()
	}
	return nil
}

// networkOptions are the settings of networks.
func (c *Config) networkOptions() network.Options {
	n := network.DefaultOptions(c.DataRoot, c.ExecRoot)
	n.Bridge, n.BIP, n.FixedCIDR, n.MTU = c.Bridge, c.BIP, c.FixedCIDR, c.MTU
	n.IPv6, n.BIP6, n.FixedCIDR6 = c.IPv6, c.BIP6, c.FixedCIDR6
	n.Gateway, _ = netip.ParseAddr(c.Gateway) // checked by Load, as the next
	n.Gateway6, _ = netip.ParseAddr(c.Gateway6)
	n.DriverOptions, n.DirectRouting = c.NetworkOptions, c.DirectRouting
	n.IPTables, n.IPForward, n.IPForwardNoDrop = c.IPTables, c.IPForward, c.IPForwardNoDrop
	n.IPMasq, n.ICC, n.Relay = c.IPMasq, c.ICC, c.UserlandProxy
	n.Firewall = c.FirewallBackend
	n.CNIConfDir, n.CNIBinDirs = c.CNIConfDir, c.CNIBinDirs
	n.RespectFirewall = c.PublishPolicy == policyRespect
	// By this name the program stays what it is when the file is replaced.
	n.Keeper = []string{"/proc/self/exe", "berth-keeper", keeperRole}
	if c.PublishIP != "" {
		n.HostIP = netip.MustParseAddr(c.PublishIP) // checked by Load
	}
	for _, p := range c.Pools {
		n.Pools = append(n.Pools, network.Pool{Base: netip.MustParsePrefix(p.Base).Masked(), Size: p.Size})
	}
	return n
}

func (d *daemon) openEngine(c *Config, runtimePath string) (*engine.Engine, error) {
	n := c.networkOptions()
	n.Log = d.log
	seccomp, err := seccompProfile(c.Seccomp)
	if err != nil {
		return nil, err
	}
	policy, err := c.imagePolicy()
	if err != nil {
		return nil, err
	}
	driver, _ := store.ParseDriver(c.StorageDriver) // checked by Load
	hostGateway, _ := c.hostGateway()               // the same
	return engine.Open(context.Background(), engine.Options{
		StorageDriver: driver,
		DataRoot:      c.DataRoot, ExecRoot: c.ExecRoot, RuntimePath: runtimePath, CgroupRoot: c.CgroupParent,
		Network: n, Image: image.Options{
			Registry: registry.Options{Mirrors: c.Mirrors, Insecure: c.Insecure, UserAgent: "berth/" + d.build.Version},
			Parallel: c.Downloads, Policy: policy,
		},
		LogDriver: c.LogDriver, LogOptions: c.LogOptions,
		DefaultUlimits: c.ulimits(), ShmSize: c.ShmSize, NoNewPrivs: c.NoNewPrivs, SeccompProfile: seccomp,
		DNS: c.DNS, DNSSearch: c.DNSSearch, DNSOptions: c.DNSOption, HostGateway: hostGateway, Log: d.log,
	})
}

// server is the HTTP server of the API.
func (d *daemon) server(c *Config, runtimePath string) (*http.Server, *idler) {
	least, _ := minVersion(c.MinAPIVersion) // checked by Load
	api := dockerapi.New(dockerapi.Options{
		Engine: d.engine, Registry: d.registry, Log: d.log, ExecRoot: c.ExecRoot, DataRoot: c.DataRoot,
		Version: d.build.Version, Commit: d.build.Commit, BuildTime: d.build.Time,
		Facts: func() dockerapi.Facts { return d.facts(runtimePath) }, DefaultInit: c.Init, MinVersion: least,
	})
	idle := newIdler()
	streams, end := context.WithCancel(context.Background())
	server := &http.Server{
		Handler:           idle.watch(api),
		ReadHeaderTimeout: time.Minute,
		BaseContext:       func(net.Listener) context.Context { return streams },
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	// Streams end with the daemon; what changes something is carried through (dockerapi keeps the two apart).
	server.RegisterOnShutdown(end)
	return server, idle
}

// reload reads the file again and puts into force what can change.
func (d *daemon) reload() {
	fresh, err := Load(d.args)
	if err != nil {
		d.log.Error("reload: nothing has changed", "error", err)
		return
	}
	old := d.now.Load()
	next := *old
	l, err := level(fresh)
	if err != nil {
		d.log.Error("reload: nothing has changed", "error", err)
		return
	}
	next.Labels, next.Debug, next.LogLevel = fresh.Labels, fresh.Debug, fresh.LogLevel
	next.ShutdownTimeout = fresh.ShutdownTimeout
	d.level.Set(l)
	d.now.Store(&next)
	if waiting := differing(&next, fresh); len(waiting) > 0 {
		d.log.Warn("reload: these settings change at the next start of the daemon", "settings", strings.Join(waiting, " "))
	}
	d.engine.Events.Publish(engine.Event{Type: "daemon", Action: "reload", ActorID: hostname(),
		Attributes: map[string]string{"name": hostname(), "debug": strconv.FormatBool(next.Debug)}})
	d.log.Info("reloaded", "file", next.ConfigFile)
}

// differing names the settings in which a and b differ.
func differing(a, b *Config) []string {
	var names []string
	for _, s := range settings() {
		va, vb := s.to(a), s.to(b)
		if _, fixed := va.(only); fixed || s.key == "" {
			continue
		}
		if fmt.Sprint(deref(va)) != fmt.Sprint(deref(vb)) {
			names = append(names, s.key)
		}
	}
	return names
}

// deref is what a setting's pointer points at.
func deref(p any) any {
	switch p := p.(type) {
	case *string:
		return *p
	case *bool:
		return *p
	case **bool:
		return *p != nil && **p
	case *int:
		return *p
	case *bytesValue:
		return *p
	case *[]string:
		return *p
	case **registryd.Settings:
		if *p != nil {
			return **p
		}
		return nil
	case proxies:
		return [...]string{p.c.HTTPProxy, p.c.HTTPSProxy, p.c.NoProxy}
	}
	return fmt.Sprintf("%+v", p) // maps and lists of structs print their content
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}

// lockExecRoot makes the exec root ours; the error names the process that has it. The data root is locked by its store.
func lockExecRoot(dir string) (*durable.FileLock, error) {
	// Others may pass through, to the socket, but not look around.
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("make the exec root: %w", err)
	}
	lock, err := durable.Lock(filepath.Join(dir, "berthd.lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("another berthd works on the exec root %q: %w", dir, err)
	}
	return lock, err
}

// writePidFile refuses a file that a living daemon wrote.
func writePidFile(path string) error {
	if data, err := os.ReadFile(path); err == nil {
		pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		// One that has been killed and not yet waited for has no program any more; an upgraded one's is "… (deleted)".
		program, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
		if pid > 0 && pid != os.Getpid() && strings.HasPrefix(filepath.Base(program), "berthd") {
			return fmt.Errorf("process with PID %d is still running and wrote %q: use another --pidfile", pid, path)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the pid file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the directory of the pid file: %w", err)
	}
	if err := durable.WriteVolatile(path, []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("write the pid file: %w", err)
	}
	return nil
}

// findRuntime looks for berth-runtime where it was named, else where programs of ours are.
func findRuntime(path string) (string, error) {
	if path != "" {
		if _, err := exec.LookPath(path); err != nil {
			return "", fmt.Errorf("runtime-path: %w", err)
		}
		return path, nil
	}
	found, err := findProgram("berth-runtime")
	if err != nil {
		return "", fmt.Errorf("%w: name it with --runtime-path", err)
	}
	return found, nil
}

// findProgram looks for a program of ours beside this one, in PATH and in libexec.
func findProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if p, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return p, nil
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	for _, dir := range []string{"/usr/local/libexec/berth", "/usr/libexec/berth", "/usr/lib/berth"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is neither beside berthd nor in PATH", name)
}

func seccompProfile(path string) (string, error) {
	if path == "" || path == "unconfined" || path == "builtin" {
		return strings.TrimSuffix(path, "builtin"), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the seccomp profile: %w", err)
	}
	return string(data), nil
}

func minVersion(text string) (int, error) {
	minor, ok := strings.CutPrefix(text, "1.")
	n, err := strconv.Atoi(minor)
	if !ok || err != nil || n < int(dockerapi.MinVersion) || n > int(dockerapi.MaxVersion) {
		return 0, fmt.Errorf("min-api-version %q must be from %s to %s", text, dockerapi.MinVersion, dockerapi.MaxVersion)
	}
	return n, nil
}
