// Package registryd keeps a registry running as a service of the daemon: the program berth-registry, a process of its own
// without a container.
//
//	(off) ──Start──▶ starting ──it answers──▶ running ──it ends──▶ waiting ──1 s … 1 min──▶ starting
//	  ▲                 │                        │
//	  └──── it ends ────┘◀───────── Stop ────────┘
//
// Start returns when the registry answers, or with what it said when it ended. What it was started with is kept, so that the
// next daemon starts it again, until Stop; what daemon.json says goes before that.
//
// # Files
//
//	<dir>/registry.json      Settings by Start; Stop removes it
//	<dir>/registry.log       what the process says; a longer one than 10 MiB becomes registry.log.1 at the next start
//	<run>/registry.root      the directory of the process that was started last
//	<Settings.Root>/lock     held by the process, with its pid in it
//
// # When the daemon goes
//
// A daemon that stops in order stops its registry. One that is killed leaves it running, and the next takes it back: the
// process that has the lock, if its command line says that it is this daemon's, by these settings. One by other settings is
// ended first. Processes are only ever ended by a pidfd, whose command line was read after it was opened.
package registryd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Settings are a registry's; see `berth registry serve --help`. The names are those of daemon.json.
type Settings struct {
	Listen      string `json:"listen,omitempty"` // default 127.0.0.1:5000
	Root        string `json:"root,omitempty"`   // default /var/lib/berth-registry
	Htpasswd    string `json:"htpasswd,omitempty"`
	TLSCert     string `json:"tls-cert,omitempty"`
	TLSKey      string `json:"tls-key,omitempty"`
	Mirror      string `json:"mirror,omitempty"`
	AllowDelete bool   `json:"allow-delete,omitempty"`
	ReadOnly    bool   `json:"read-only,omitempty"`
	Insecure    bool   `json:"insecure,omitempty"`
}

// Check says in a sentence what cannot be right, with the defaults filled in. Whether files are what they should be, the program
// says when it starts.
func (s *Settings) Check() error {
	if s.Listen == "" {
		s.Listen = "127.0.0.1:5000"
	}
	if s.Root == "" {
		s.Root = "/var/lib/berth-registry"
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if n, nerr := strconv.ParseUint(port, 10, 16); err != nil || nerr != nil || n == 0 {
		return bad("the registry's address %q is not ADDRESS:PORT, as in 127.0.0.1:5000", s.Listen)
	}
	ip := net.ParseIP(host)
	for _, p := range []struct{ what, path string }{{"root", s.Root}, {"htpasswd", s.Htpasswd}, {"tls-cert", s.TLSCert}, {"tls-key", s.TLSKey}} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return bad("the registry's %s %q must be an absolute path", p.what, p.path)
		}
	}
	switch {
	case (s.TLSCert == "") != (s.TLSKey == ""):
		return bad("the registry's tls-cert and tls-key belong together")
	case s.TLSCert == "" && !s.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()):
		return bad("the registry's address %q is open to other machines: give tls-cert and tls-key, or say insecure if clear text is meant", s.Listen)
	case s.Mirror != "" && (s.ReadOnly || s.AllowDelete):
		return bad("a cache of another registry (mirror) is neither read-only nor does it allow-delete")
	}
	if s.Mirror != "" {
		if u, err := url.Parse(s.Mirror); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return bad("the registry's mirror is no http or https URL of a registry")
		}
	}
	return nil
}

func bad(format string, args ...any) error {
	return kind{fmt.Errorf(format, args...), errdefs.ErrInvalidArgument}
}

// kind gives an error its kind without the kind's name in the text.
type kind struct{ err, is error }

func (k kind) Error() string   { return k.err.Error() }
func (k kind) Unwrap() []error { return []error{k.err, k.is} }

// Options say where a service keeps what.
type Options struct {
	Dir, Run string                 // directories, which exist: one that lasts, one that a boot may empty
	Program  func() (string, error) // finds berth-registry
	Log      *slog.Logger
}

// Status is a service at this moment.
type Status struct {
	On       bool // it was started and not stopped
	Running  bool // it answers
	Fixed    bool // daemon.json says what it is
	URL      string
	Pid      int
	Since    time.Time
	Settings Settings
	Log      string // the file
	Failure  string // why it does not run, or while it runs, how its process before ended; "" if none has
	Restarts int    // how often its process ended unasked and another one took its place, since this daemon has it
}

// Service is one registry. Its methods may be called from any goroutine.
type Service struct {
	o     Options
	fixed bool

	change sync.Mutex // held while Start, Stop or Close work

	mu     sync.Mutex
	st     Status
	proc   *process
	cancel context.CancelFunc // ends the goroutine that watches; nil when off
	done   chan struct{}
}

// process is one run of the program.
type process struct {
	pid   int
	pidfd *os.File
	how   chan string // gets how it ended; nil for what another daemon has started
}

// since is when it was started.
func (p *process) since() time.Time {
	var up unix.Timespec
	ticks, _, err := linux.StartTime(p.pid)
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) != nil {
		return time.Now()
	}
	return time.Now().Add(time.Duration(ticks)*(time.Second/100) - time.Duration(up.Nano()))
}

// ended says how it ended, once it has.
func (p *process) ended() string {
	if p.how == nil {
		return "it ended"
	}
	return <-p.how
}

// Open prepares a service that is off.
func Open(o Options) *Service {
	return &Service{o: o, st: Status{Log: filepath.Join(o.Dir, "registry.log")}}
}

func (s *Service) file(name string) string { return filepath.Join(s.o.Dir, name) }

// Resume starts what the daemon's configuration says (fixed), or else what was on when the last daemon went, or takes it back
// if it runs. It waits for nothing: what goes wrong is in Status and in the log, and is tried again.
func (s *Service) Resume(fixed *Settings) error {
	s.change.Lock()
	defer s.change.Unlock()
	var set Settings
	if s.fixed = fixed != nil; s.fixed {
		set = *fixed
	} else {
		data, err := os.ReadFile(s.file("registry.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return s.endStray(nil)
		}
		if err == nil {
			err = json.Unmarshal(data, &set)
		}
		if err != nil {
			return fmt.Errorf("read what the registry was started with: %w", err)
		}
	}
	if err := set.Check(); err != nil {
		return err
	}
	s.launch(set, nil)
	return nil
}

// Start starts the registry, and keeps it running from then on. It returns when it answers. The error wraps
// errdefs.ErrConflict when it is on already.
func (s *Service) Start(ctx context.Context, set Settings) error {
	if err := set.Check(); err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	if st := s.Status(); st.On {
		return kind{fmt.Errorf("the registry is on already, at %s: stop it first", st.URL), errdefs.ErrConflict}
	}
	if s.fixed {
		return kind{errors.New("daemon.json says what the registry is: change it there and start the daemon again"), errdefs.ErrConflict}
	}
	first := make(chan error, 1)
	s.launch(set, first)
	select {
	case err := <-first:
		if err != nil {
			s.halt(context.WithoutCancel(ctx))
			return kind{err, errdefs.ErrFailedPrecondition}
		}
	case <-ctx.Done():
		s.halt(context.WithoutCancel(ctx))
		return context.Cause(ctx)
	}
	data, err := json.MarshalIndent(set, "", "\t")
	if err == nil {
		err = durable.ReplaceFile(s.file("registry.json"), append(data, '\n'), 0o600)
	}
	if err != nil {
		s.halt(context.WithoutCancel(ctx))
		return fmt.Errorf("keep what the registry was started with: %w", err)
	}
	return nil
}

// Stop ends the registry: open requests have some seconds to end. It stays off until Start, or until the next daemon where
// daemon.json has it. The error wraps errdefs.ErrNotFound when it is off.
func (s *Service) Stop(ctx context.Context) error {
	s.change.Lock()
	defer s.change.Unlock()
	if !s.Status().On {
		return kind{errors.New("the registry is not on"), errdefs.ErrNotFound}
	}
	if err := os.Remove(s.file("registry.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.halt(ctx)
	return nil
}

// Close ends the process, which the next daemon starts again.
func (s *Service) Close(ctx context.Context) {
	s.change.Lock()
	defer s.change.Unlock()
	s.halt(ctx)
}

// Status tells how it is.
func (s *Service) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st
}

// launch begins to keep a process running. first gets what came of the first try.
func (s *Service) launch(set Settings, first chan<- error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	scheme := "http"
	if set.TLSCert != "" {
		scheme = "https"
	}
	s.mu.Lock()
	s.cancel, s.done = cancel, done
	s.st = Status{On: true, Fixed: s.fixed, URL: scheme + "://" + set.Listen, Settings: set, Log: s.st.Log}
	s.mu.Unlock()
	go func() {
		defer close(done)
		s.keep(ctx, set, first)
	}()
}

// halt ends what launch has begun.
func (s *Service) halt(ctx context.Context) {
	s.mu.Lock()
	cancel, done := s.cancel, s.done
	s.mu.Unlock()
	if cancel == nil {
		return
	}
	cancel()
	select {
	case <-done:
	case <-ctx.Done():
		s.mu.Lock()
		if s.proc != nil {
			_ = linux.PidfdSendSignal(s.proc.pidfd, unix.SIGKILL)
		}
		s.mu.Unlock()
		<-done
	}
	s.mu.Lock()
	s.cancel, s.done = nil, nil
	s.st = Status{Log: s.st.Log, Failure: s.st.Failure}
	s.mu.Unlock()
}

// keep runs the process again and again until ctx ends, and then ends it.
func (s *Service) keep(ctx context.Context, set Settings, first chan<- error) {
	pause := time.Second
	ends, last := 0, ""
	for {
		begun := time.Now()
		p, err := s.run(ctx, set)
		var since time.Time
		if p != nil {
			since = p.since()
		}
		s.mu.Lock()
		if s.proc = p; p != nil {
			s.st.Running, s.st.Pid, s.st.Since = true, p.pid, since
			s.st.Restarts, s.st.Failure = ends, last
		} else {
			s.st.Failure = err.Error()
		}
		s.mu.Unlock()
		if first != nil {
			first <- err
			if first = nil; err != nil {
				return
			}
		}
		if p != nil {
			ended := await(ctx, p.pidfd)
			if !ended {
				_ = linux.PidfdSendSignal(p.pidfd, unix.SIGTERM)
				_ = await(context.Background(), p.pidfd)
			} else {
				ends, last = ends+1, p.ended()
			}
			s.mu.Lock()
			s.proc = nil
			s.st.Running, s.st.Pid, s.st.Failure = false, 0, last
			_ = p.pidfd.Close()
			s.mu.Unlock()
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > time.Minute {
			pause = time.Second
		}
		s.o.Log.Error("the registry does not run", "error", s.Status().Failure, "again-in", pause.String())
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, time.Minute)
	}
}

// await waits until a process has ended, and returns false when ctx has ended first.
func await(ctx context.Context, pidfd *os.File) bool {
	wake, waker, err := os.Pipe()
	if err != nil {
		return true
	}
	defer wake.Close()
	stop := context.AfterFunc(ctx, func() { _ = waker.Close() })
	defer func() {
		if stop() {
			_ = waker.Close()
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if fds[0].Revents != 0 || err != nil {
			return true
		}
		return false
	}
}

// argv is the command line of a registry. The second word after "serve" says whose it is, and by which settings.
func (s *Service) argv(set Settings) []string {
	data, _ := json.Marshal(set) // strings and truth values
	sum := sha256.Sum256(data)
	return []string{"berth-registry", "serve", "--service=" + s.o.Dir + "#" + hex.EncodeToString(sum[:8]), "--listen=" + set.Listen,
		"--root=" + set.Root, "--htpasswd=" + set.Htpasswd, "--tls-cert=" + set.TLSCert, "--tls-key=" + set.TLSKey,
		fmt.Sprintf("--allow-delete=%t", set.AllowDelete), fmt.Sprintf("--read-only=%t", set.ReadOnly), fmt.Sprintf("--insecure=%t", set.Insecure)}
}

// run takes back the process that runs by these settings, or starts one and waits until it answers.
func (s *Service) run(ctx context.Context, set Settings) (*process, error) {
	argv := s.argv(set)
	p, err := s.ours(set.Root)
	if err != nil {
		return nil, err
	}
	if p != nil && slices.Equal(commandLine(p.pid), argv) {
		s.o.Log.Info("the registry runs on", "pid", p.pid, "url", s.Status().URL)
		return p, nil
	}
	if p != nil {
		endProcess(p)
	}
	if err := s.endStray(&set); err != nil {
		return nil, err
	}
	return s.start(ctx, set, argv)
}

func (s *Service) start(ctx context.Context, set Settings, argv []string) (*process, error) {
	program, err := s.o.Program()
	if err != nil {
		return nil, err
	}
	// Before it starts: whatever is killed when, what it may have started can be found.
	if err := durable.WriteVolatile(filepath.Join(s.o.Run, "registry.root"), []byte(set.Root), 0o600); err != nil {
		return nil, fmt.Errorf("note where the registry is: %w", err)
	}
	log, from, err := s.openLog()
	if err != nil {
		return nil, fmt.Errorf("open the registry's log: %w", err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	ready, readying, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ready.Close()
	var pidfd int
	// The mirror may have a password in it, which is nothing for a command line.
	proc, err := os.StartProcess(program, argv, &os.ProcAttr{Dir: "/", Files: []*os.File{null, log, log, readying},
		Env: []string{"PATH=" + os.Getenv("PATH"), "BERTH_REGISTRY_MIRROR=" + set.Mirror, "HTTP_PROXY=" + os.Getenv("HTTP_PROXY"),
			"HTTPS_PROXY=" + os.Getenv("HTTPS_PROXY"), "NO_PROXY=" + os.Getenv("NO_PROXY")},
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}})
	err = errors.Join(err, readying.Close())
	if err != nil {
		return nil, fmt.Errorf("start the registry: %w", err)
	}
	p := &process{pid: proc.Pid, pidfd: os.NewFile(uintptr(pidfd), "registry"), how: make(chan string, 1)}
	go func() {
		state, err := proc.Wait()
		p.how <- s.howEnded(state, err, from)
	}()
	stop := context.AfterFunc(ctx, func() { _ = linux.PidfdSendSignal(p.pidfd, unix.SIGTERM) })
	defer stop()
	said, _ := io.ReadAll(io.LimitReader(ready, 16)) // it closes its end when it answers, or ends
	if string(said) == "ready\n" {
		s.o.Log.Info("the registry answers", "pid", p.pid, "url", s.Status().URL)
		return p, nil
	}
	_ = await(context.Background(), p.pidfd)
	_ = p.pidfd.Close()
	return nil, errors.New(s.lastWords(from))
}

// howEnded says it in words. from is where the log was when it began.
func (s *Service) howEnded(state *os.ProcessState, err error, from int64) string {
	if err != nil {
		return "it ended"
	}
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return "it was ended by " + unix.SignalName(w.Signal())
	}
	return fmt.Sprintf("it ended with code %d: %s", state.ExitCode(), s.lastWords(from))
}

// openLog opens the log to be appended to, and tells where its end is.
func (s *Service) openLog() (*os.File, int64, error) {
	path := s.file("registry.log")
	if fi, err := os.Stat(path); err == nil && fi.Size() > 10<<20 {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, 0, err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, end, nil
}

// lastWords is the last line of the log behind an offset.
func (s *Service) lastWords(from int64) string {
	f, err := os.Open(s.file("registry.log"))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	buf := make([]byte, 8<<10)
	n, _ := f.ReadAt(buf, max(from, end-int64(len(buf))))
	text := bytes.TrimSpace(bytes.ToValidUTF8(buf[:n], nil))
	if i := bytes.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	if len(text) == 0 {
		return "it said nothing"
	}
	return strings.TrimPrefix(string(text), "berth-registry: ")
}

// ours finds this daemon's process that has the lock of a root; nil is none.
func (s *Service) ours(root string) (*process, error) {
	data, err := os.ReadFile(filepath.Join(root, "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look who has the registry's directory: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return nil, nil
	}
	pidfd, err := linux.PidfdOpen(pid)
	if err != nil {
		return nil, nil // it has ended
	}
	if a := commandLine(pid); len(a) > 2 && a[0] == "berth-registry" && strings.HasPrefix(a[2], "--service="+s.o.Dir+"#") {
		return &process{pid: pid, pidfd: pidfd}, nil
	}
	_ = pidfd.Close()
	return nil, nil
}

// endStray ends what an earlier daemon has left running in another directory than set's; nil is none.
func (s *Service) endStray(set *Settings) error {
	data, err := os.ReadFile(filepath.Join(s.o.Run, "registry.root"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if root := string(data); set == nil || root != set.Root {
		p, err := s.ours(root)
		if p == nil || err != nil {
			return err
		}
		endProcess(p)
	}
	return nil
}

func endProcess(p *process) {
	_ = linux.PidfdSendSignal(p.pidfd, unix.SIGTERM)
	_ = await(context.Background(), p.pidfd)
	_ = p.pidfd.Close()
}

// commandLine is that of a process; nil when it has none any more.
func commandLine(pid int) []string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}
