package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// processes is the one place where children of the shell are made and reaped. Everything that ends is collected by
// one loop, because a shell that is process 1 inherits orphans it never started, and because waiting for single
// children beside such a loop would lose exit codes.
type processes struct {
	mu   sync.Mutex
	live map[int]chan syscall.WaitStatus
}

func startProcesses() *processes {
	p := &processes{live: map[int]chan syscall.WaitStatus{}}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGCHLD)
	go func() {
		for range ch {
			p.reap()
		}
	}()
	return p
}

// reap collects every child that has ended. Signals coalesce, hence the loop.
func (p *processes) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		p.mu.Lock()
		if ch, ok := p.live[pid]; ok {
			delete(p.live, pid)
			ch <- ws
		}
		p.mu.Unlock()
	}
}

// start forks and executes. The lock is held across the fork so that reap cannot see the child before it is known.
func (p *processes) start(path string, args []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	ch := make(chan syscall.WaitStatus, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return 0, nil, err
	}
	p.live[pid] = ch
	return pid, ch, nil
}

// run starts one command with the interpreter's streams and waits for it.
func (s *sh) run(hc interp.HandlerContext, path string, args []string) (int, error) {
	var copies sync.WaitGroup
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	files := make([]uintptr, 3)
	for i, stream := range []any{hc.Stdin, hc.Stdout, hc.Stderr} {
		f, ok := stream.(*os.File)
		switch {
		case ok && f != nil:
		case i == 0:
			null, err := os.Open(os.DevNull)
			if err != nil {
				return 0, err
			}
			closers = append(closers, null)
			f = null
		default: // a command substitution collects into memory
			w := stream.(io.Writer)
			pr, pw, err := os.Pipe()
			if err != nil {
				return 0, err
			}
			closers = append(closers, pw)
			copies.Go(func() {
				_, _ = io.Copy(w, pr) // the writer is memory; a broken pipe is the writer's news, not ours
				pr.Close()
			})
			f = pw
		}
		files[i] = f.Fd()
	}
	pid, done, err := s.procs.start(path, args, &syscall.ProcAttr{Dir: hc.Dir, Env: environ(hc), Files: files})
	if err != nil {
		return 0, err
	}
	job := jobOf(hc)
	s.jobs.started(job, pid)
	ws := <-done
	s.jobs.idle(job)
	for _, c := range closers {
		c.Close()
	}
	closers = nil
	copies.Wait()
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// environ is what the command sees: exported variables only.
func environ(hc interp.HandlerContext) []string {
	var list []string
	hc.Env.Each(func(name string, v expand.Variable) bool {
		if v.Exported && v.Kind == expand.String {
			list = append(list, name+"="+v.String())
		}
		return true
	})
	return list
}

// umask shows or sets the mask of new files; it must happen in the shell's own process.
func umask(hc interp.HandlerContext, args []string) error {
	if len(args) == 0 {
		old := syscall.Umask(0)
		syscall.Umask(old)
		fmt.Fprintf(hc.Stdout, "%04o\n", old)
		return nil
	}
	mask, err := strconv.ParseUint(args[0], 8, 9)
	if err != nil {
		fmt.Fprintf(hc.Stderr, "umask: %s: not an octal number\n", args[0])
		return interp.ExitStatus(1)
	}
	syscall.Umask(int(mask))
	return nil
}

// limit is one row of ulimit's table.
type limit struct {
	letter   string
	resource int
	unit     uint64
	text     string
}

func limits() []limit {
	return []limit{
		{"c", unix.RLIMIT_CORE, 512, "core file size (blocks)"},
		{"d", unix.RLIMIT_DATA, 1024, "data seg size (kbytes)"},
		{"f", unix.RLIMIT_FSIZE, 512, "file size (blocks)"},
		{"l", unix.RLIMIT_MEMLOCK, 1024, "max locked memory (kbytes)"},
		{"m", unix.RLIMIT_RSS, 1024, "max memory size (kbytes)"},
		{"n", unix.RLIMIT_NOFILE, 1, "open files"},
		{"s", unix.RLIMIT_STACK, 1024, "stack size (kbytes)"},
		{"t", unix.RLIMIT_CPU, 1, "cpu time (seconds)"},
		{"u", unix.RLIMIT_NPROC, 1, "max user processes"},
		{"v", unix.RLIMIT_AS, 1024, "virtual memory (kbytes)"},
	}
}

// ulimit shows or sets resource limits (`-H`, `-S`, `-a`, one letter, a number or "unlimited").
func (p *processes) ulimit(hc interp.HandlerContext, args []string) error {
	var hard, soft, all bool
	letter, value := "f", ""
	for _, a := range args {
		if !strings.HasPrefix(a, "-") {
			value = a
			continue
		}
		for _, l := range a[1:] {
			switch l {
			case 'H':
				hard = true
			case 'S':
				soft = true
			case 'a':
				all = true
			default:
				letter = string(l)
			}
		}
	}
	found := false
	for _, l := range limits() {
		if !all && l.letter != letter {
			continue
		}
		found = true
		var r unix.Rlimit
		// prlimit and not Getrlimit: the Go runtime raises its own soft limit of open files, and this asks the kernel
		// through the same call that children inherit by.
		if err := unix.Prlimit(0, l.resource, nil, &r); err != nil {
			return err
		}
		if l.resource == unix.RLIMIT_NOFILE && !hard {
			r.Cur = p.softOpenFiles(r)
		}
		if value == "" {
			cur := r.Cur
			if hard {
				cur = r.Max
			}
			if all {
				fmt.Fprintf(hc.Stdout, "%-32s(-%s) ", l.text, l.letter)
			}
			fmt.Fprintln(hc.Stdout, showLimit(cur, l.unit))
			continue
		}
		want := uint64(unix.RLIM_INFINITY)
		if value != "unlimited" {
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil {
				fmt.Fprintf(hc.Stderr, "ulimit: %s: not a number\n", value)
				return interp.ExitStatus(1)
			}
			want = n * l.unit
		}
		if hard || !soft {
			r.Max = want
		}
		if soft || !hard {
			r.Cur = want
		}
		// syscall and not unix: only this call tells the Go runtime that the limit of open files is now ours.
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: r.Cur, Max: r.Max}); err != nil {
			fmt.Fprintf(hc.Stderr, "ulimit: %v\n", err)
			return interp.ExitStatus(1)
		}
	}
	if !found {
		fmt.Fprintf(hc.Stderr, "ulimit: -%s: invalid option\n", letter)
		return interp.ExitStatus(2)
	}
	return nil
}

// softOpenFiles finds the soft limit this shell was started with. The Go runtime has raised its own, but gives children
// the original back between fork and exec; so a child is stopped right after its exec, before its own runtime does the
// same, and looked at. When that cannot be done the raised value is the answer.
func (p *processes) softOpenFiles(r unix.Rlimit) uint64 {
	self, err := os.Executable()
	if err != nil {
		return r.Cur
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return r.Cur
	}
	defer null.Close()
	runtime.LockOSThread() // ptrace(2): the tracer is a thread
	defer runtime.UnlockOSThread()
	pid, stopped, err := p.start(self, []string{"true"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true},
		Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}})
	if err != nil {
		return r.Cur
	}
	<-stopped
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	_ = syscall.Kill(pid, syscall.SIGKILL)
	if err != nil {
		return r.Cur
	}
	for line := range strings.Lines(string(data)) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		if !ok {
			continue
		}
		if f := strings.Fields(rest); len(f) > 0 {
			if n, err := strconv.ParseUint(f[0], 10, 64); err == nil {
				return n
			}
		}
	}
	return r.Cur
}

func showLimit(v, unit uint64) string {
	if v == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(v/unit, 10)
}
