package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/tty"
	"golang.org/x/sys/unix"
)

// runContainer creates and starts a container and, in the foreground, stays with it to its end.
func runContainer(c *cli, args []string) error {
	linux.Calm()
	n := &creation{c: c}
	f := n.flags("run")
	var detach, keep bool
	f.bothBool(&detach, "detach", "d", "do not wait for the container's end")
	f.BoolVar(&keep, "keep", false, "do not delete the container when it has ended")
	f.Bool("no-subreaper", false, "accepted: this command is no subreaper")
	id, err := f.id(args, 1)
	if err != nil {
		return err
	}
	return n.inForeground(id, detach, keep)
}

// inForeground makes a container and, unless detach is set, stays with it to its end and then removes it, unless keep is set.
func (n *creation) inForeground(id string, detach, keep bool) (err error) {
	c := n.c
	if detach {
		// As after create, somebody else must hold the terminal.
		if err := n.load(id); err != nil {
			return err
		}
		if n.spec.Process.Terminal && n.consoleSocket == "" {
			return invalid("a terminal needs --console-socket, since nobody else would hold it")
		}
	}
	if c.mustEnter() {
		if n.spec == nil {
			if err := n.load(id); err != nil {
				return err
			}
		}
		return n.enter()
	}
	p, err := n.make(id, false)
	if err != nil {
		return err
	}
	defer p.Close()
	if detach {
		return nil
	}
	code, err := attend(p, n.consoleSocket == "")
	if !keep {
		// Somebody else may have deleted it, and made another of that name.
		if st, dir, loadErr := c.load(id); loadErr == nil && st.Pid == p.Pid && st.StartTime == p.StartTime {
			err = errors.Join(err, c.destroyIn(st, dir, p.Cgroup))
		}
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

// passedOn are the signals that a person or a supervisor sends to a process in the foreground.
var passedOn = [...]unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT,
	unix.SIGTSTP, unix.SIGWINCH}

// attend passes signals and the terminal on to a process in the foreground, and gives its exit code.
func attend(p *ocirun.Process, relay bool) (int, error) {
	signals, err := linux.SignalPipe(passedOn[:])
	if err != nil {
		return 0, err
	}
	defer signals.Close()
	var relayed chan struct{}
	if p.Master != nil && relay {
		if tty.IsTerminal(0) {
			restore, err := tty.MakeRaw(0)
			if err != nil {
				return 0, err
			}
			defer restore()
		}
		resize(p.Master)
		relayed = make(chan struct{})
		go func() {
			_, _ = io.Copy(p.Master, os.Stdin)
		}()
		go func() {
			_, _ = io.Copy(os.Stdout, p.Master) // ends with EIO, when nobody has the other end open any more
			close(relayed)
		}()
	}
	fds := []unix.PollFd{{Fd: int32(p.Pidfd.Fd()), Events: unix.POLLIN}, {Fd: int32(signals.Fd()), Events: unix.POLLIN}}
	for fds[0].Revents == 0 {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if fds[1].Revents != 0 {
			passOn(p, fds[1].Fd)
		}
	}
	ws, err := linux.WaitPidfd(p.Pidfd)
	if err != nil {
		return 0, err
	}
	if relayed != nil {
		<-relayed
	}
	return ws.Code, nil
}

// passOn does what the signals say that have come.
func passOn(p *ocirun.Process, pipe int32) {
	var buf [64]byte
	n, err := unix.Read(int(pipe), buf[:])
	if err != nil {
		return
	}
	for _, b := range buf[:n] {
		sig := unix.Signal(b)
		if sig == unix.SIGWINCH && p.Master != nil {
			resize(p.Master)
			continue
		}
		if err := linux.PidfdSendSignal(p.Pidfd, sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			fmt.Fprintf(os.Stderr, "berth-runtime: pass on signal %v: %v\n", sig, err)
		}
	}
}

// resize gives the terminal the size of ours, if we have one.
func resize(master *os.File) {
	rows, cols, err := tty.Size(0)
	if err != nil {
		return
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = tty.SetSize(int(fd), rows, cols) })
}
