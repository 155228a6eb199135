package ocirun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions describe a further process of a container that runs.
type ExecOptions struct {
	Process *specs.Process
	// Pid and Pidfd are the container's first process.
	Pid     int
	Pidfd   *os.File
	Cgroup  *cgroup.Group
	Seccomp []byte

	Stdin, Stdout, Stderr *os.File
	Terminal              bool
	Rows, Cols            uint16
}

// allNamespaces are entered by one setns(2) on the pidfd; those the container shares with the host are entered as well,
// which changes nothing.
const allNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Exec runs a process in a container and returns when its program runs. The caller is its parent and reaps it.
func Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := o.Process
	if p == nil || len(p.Args) == 0 || p.Args[0] == "" {
		return nil, errors.New("there is no program to run")
	}
	for _, list := range [][]string{p.Args, p.Env, {p.Cwd}} {
		for _, text := range list {
			if strings.IndexByte(text, 0) >= 0 {
				return nil, fmt.Errorf("%q contains a NUL byte", text)
			}
		}
	}
	b := &builder{}
	defer b.close()
	stdio := [3]*os.File{o.Stdin, o.Stdout, o.Stderr}
	var master *os.File
	done := false
	defer func() {
		if master != nil && !done {
			_ = master.Close()
		}
	}()
	if o.Terminal {
		// The terminal must be of the container's own devpts, or its name would mean nothing inside.
		top, err := os.Open(fmt.Sprintf("/proc/%d/root", o.Pid))
		if err != nil {
			return nil, fmt.Errorf("the container's root: %w", err)
		}
		root := confine.FromFile(top)
		pts, err := root.OpenFile("/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
		_ = root.Close()
		if err != nil {
			return nil, fmt.Errorf("the container's terminals: %w", err)
		}
		defer pts.Close()
		var slave *os.File
		if master, slave, err = openPty(pts, o.Rows, o.Cols, p.User); err != nil {
			return nil, err
		}
		b.own(slave)
		stdio = [3]*os.File{slave, slave, slave}
	}
	if err := b.begin(o.Cgroup, p.OOMScoreAdj); err != nil {
		return nil, err
	}
	b.p.Step("enter the container's namespaces")
	b.p.Call(unix.SYS_SETNS, linux.FD(o.Pidfd), linux.N(uintptr(allNamespaces)))
	if err := b.process(p, stdio, o.Terminal, o.Seccomp, nil, nil, "_ses"); err != nil {
		return nil, err
	}
	// Entering a pid namespace counts for children only, so it is done before the fork, by this thread.
	pidns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", o.Pid))
	if err != nil {
		return nil, fmt.Errorf("the container's pid namespace: %w", err)
	}
	b.own(pidns)
	var child *linux.Child
	err = withPidNS(pidns, func() (err error) {
		child, err = b.p.Fork(linux.ForkOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make the process: %w", err)
	}
	if err := b.await(child, p); err != nil {
		return nil, err
	}
	done = true
	return &Process{Pid: child.Pid, Pidfd: child.Pidfd, Master: master, Warnings: b.warnings}, nil
}
