package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/tty"
	"golang.org/x/sys/unix"
)

// runContainer creates and starts a container and, in the foreground, stays with it to its end.
func runContainer(c *cli, args []string) (err error) {
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
	if detach {
		// As after create, somebody else must hold the terminal.
		if err := n.load(id); err != nil {
			return err
		}
		if n.spec.Process.Terminal && n.consoleSocket == "" {
			return invalid("a terminal needs --console-socket, since nobody else would hold it")
		}
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
		if st, dir, loadErr := c.load(id); loadErr == nil {
			err = errors.Join(err, c.destroy(st, dir))
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

// passedOn are the signals that a person or a supervisor sends to a process in the foreground. Each one that is caught costs
// time at the start, so there are no others.
var passedOn = [...]os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGCONT,
	unix.SIGTSTP, unix.SIGWINCH}

// attend passes signals and the terminal on to a process in the foreground, and gives its exit code.
func attend(p *ocirun.Process, relay bool) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, passedOn[:]...)
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
	ended := make(chan linux.WaitStatus, 1)
	failed := make(chan error, 1)
	go func() {
		ws, err := linux.WaitPidfd(p.Pidfd)
		if err != nil {
			failed <- err
			return
		}
		ended <- ws
	}()
	for {
		select {
		case ws := <-ended:
			if relayed != nil {
				<-relayed
			}
			return ws.Code, nil
		case err := <-failed:
			return 0, err
		case sig := <-signals:
			if sig == unix.SIGWINCH && p.Master != nil {
				resize(p.Master)
				continue
			}
			if s, ok := sig.(unix.Signal); ok {
				if err := linux.PidfdSendSignal(p.Pidfd, s); err != nil && !errors.Is(err, os.ErrProcessDone) {
					fmt.Fprintf(os.Stderr, "berth-runtime: pass on signal %v: %v\n", s, err)
				}
			}
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
