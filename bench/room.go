package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// room is a thread in a network and a mount namespace of its own. Every process an engine needs is started from it and
// so lives in the engine's namespaces, without a helper like nsenter whose time would be measured with it.
type room struct {
	work chan func()
	shut atomic.Bool // nothing is started any more
}

func newRoom() (*room, error) {
	r := &room{work: make(chan func())}
	ready := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ready <- enter()
		for fn := range r.work {
			fn()
		}
	}()
	return r, <-ready
}

func enter() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	if err := freshSysfs(); err != nil {
		return err
	}
	return exec.Command("ip", "link", "set", "lo", "up").Run()
}

// freshSysfs mounts a /sys that shows the new network namespace, where engines look for their bridges, with the cgroup
// hierarchies carried over from the old one.
func freshSysfs() error {
	aside, err := os.MkdirTemp("", "berth-bench-cgroup-")
	if err != nil {
		return err
	}
	if err := unix.Mount("/sys/fs/cgroup", aside, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("binding /sys/fs/cgroup: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mounting /sys: %w", err)
	}
	if err := unix.Mount(aside, "/sys/fs/cgroup", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving /sys/fs/cgroup: %w", err)
	}
	return os.Remove(aside)
}

// do runs fn on the room's thread.
func (r *room) do(fn func()) {
	done := make(chan struct{})
	r.work <- func() { defer close(done); fn() }
	<-done
}

// start starts a command in the room.
func (r *room) start(cmd *exec.Cmd) error {
	if r.shut.Load() {
		return errors.New("the benchmark was interrupted")
	}
	var err error
	r.do(func() { err = cmd.Start() })
	return err
}

// run runs a command in the room and returns how long it took, from just before its start to its end.
func (r *room) run(env []string, args ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	begin := time.Now()
	err := r.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	took := time.Since(begin)
	if err != nil {
		return took, fmt.Errorf("%s: %w: %s", brief(args), err, lastLine(errOut.String()))
	}
	return took, nil
}

// output runs a command in the room and returns what it printed.
func (r *room) output(env []string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := r.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", brief(args), err, lastLine(errOut.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// brief leaves the folders out of a command line.
func brief(args []string) string {
	var words []string
	for _, a := range args {
		if !strings.Contains(a, "/berth-bench-") {
			words = append(words, a)
		}
	}
	return strings.Join(words, " ")
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// daemon is a long-lived process of an engine.
type daemon struct {
	cmd    *exec.Cmd
	exited chan struct{}
	log    *os.File
}

func (r *room) daemon(logFile string, env []string, args ...string) (*daemon, error) {
	log, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.start(cmd); err != nil {
		log.Close()
		return nil, err
	}
	d := &daemon{cmd: cmd, exited: make(chan struct{}), log: log}
	go func() {
		_ = cmd.Wait() // how it ended is told by its log
		close(d.exited)
	}()
	return d, nil
}

// stop asks the daemon to end and, after a while, makes it.
func (d *daemon) stop() {
	if d == nil {
		return
	}
	defer d.log.Close()
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-d.exited:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.exited
	}
}

// ready waits until probe succeeds, the daemon ends, or half a minute is over.
func (d *daemon) ready(probe func() error) error {
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = probe(); err == nil {
			return nil
		}
		select {
		case <-d.exited:
			data, rerr := os.ReadFile(d.log.Name())
			return fmt.Errorf("it ended: %s", errors.Join(errors.New(lastLine(string(data))), rerr))
		default:
		}
	}
	return fmt.Errorf("not ready after 30 s: %w", err)
}
