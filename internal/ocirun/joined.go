package ocirun

import (
	"errors"
	"fmt"
	"os"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// A container that joins a pid namespace is seen by who is in it, as a process that is executed is: see sibling.go. So its first
// process is the second child too, and its /proc is made by the thread, outside.
//
// Hooks that must run before pivot_root are told of that second child, which they have to find in its namespaces. It has its root by then,
// by chroot(2), and its final rights: whoever traces it gets neither the host's files nor a way to them. The runtime pivots when the hooks
// have run:
//
//	first child, outside         second child, inside            the runtime
//	chroot, limits, user, …
//	fork ──────────────────────▶ session
//	                             mark ───────────────────────────▶ put it into its group, run the hooks,
//	                                                               pivot_root in its mount namespace
//	                             ◀──────────────────────────────── byte
//	                             execve

// procContext begins the procfs of a pid namespace; nil is this process's.
func procContext(pidns *os.File) (*linux.Fs, error) {
	fs, err := linux.Fsopen("proc")
	if err != nil || pidns == nil {
		return fs, err
	}
	if err = fs.SetFile("pidns", pidns); err == nil {
		return fs, nil
	}
	err = errors.Join(err, fs.Close())
	if !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	return procBegun(pidns) // before Linux 6.17
}

// procBegun has the procfs begun from within: whose it is, is settled by who begins it. That is a process which is seen there, so it
// has no right but in a user namespace of its own, and no descriptor but a socket; the rights to go on with it are this process's.
func procBegun(pidns *os.File) (*linux.Fs, error) {
	ours, theirs, err := linux.BlockingPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	p := new(linux.Program)
	p.Step("join the pid namespace")
	p.Call(unix.SYS_SETNS, linux.FD(pidns), linux.N(unix.CLONE_NEWPID))
	p.Step("give up all rights")
	p.Call(unix.SYS_UNSHARE, linux.N(unix.CLONE_NEWUSER|unix.CLONE_NEWNS))
	const socket, report, high = 0, 1, 3
	moved := p.NewSlot()
	p.Call(unix.SYS_FCNTL, linux.FD(theirs), linux.N(unix.F_DUPFD_CLOEXEC), linux.N(high)).Save(moved)
	p.Call(unix.SYS_FCNTL, linux.From(linux.ReportSlot), linux.N(unix.F_DUPFD_CLOEXEC), linux.N(high)).Save(linux.ReportSlot)
	p.Call(unix.SYS_DUP3, linux.From(moved), linux.N(socket), linux.N(unix.O_CLOEXEC))
	p.Call(unix.SYS_DUP3, linux.From(linux.ReportSlot), linux.N(report), linux.N(unix.O_CLOEXEC)).Save(linux.ReportSlot)
	p.Call(unix.SYS_CLOSE_RANGE, linux.N(report+1), linux.N(^uint32(0)), linux.N(0))
	p.Sibling()
	p.Step("begin a procfs")
	begun := p.NewSlot()
	p.Call(unix.SYS_FSOPEN, linux.Str("proc"), linux.N(unix.FSOPEN_CLOEXEC)).Save(begun)
	p.Send(linux.N(socket), begun)
	c, err := p.Fork(linux.ForkOptions{})
	err = errors.Join(err, theirs.Close())
	if c == nil {
		return nil, err
	}
	_, files, recvErr := linux.RecvMsg(ours, make([]byte, 1), 1)
	err = errors.Join(err, c.Wait())
	end := Process{Pid: c.Pid, Pidfd: c.Pidfd}
	err = errors.Join(err, end.discard())
	for _, f := range files {
		defer f.Close()
	}
	if err == nil {
		err = recvErr
	}
	if err == nil && len(files) == 0 {
		err = unix.EPROTO
	}
	if err != nil {
		return nil, fmt.Errorf("a procfs of the pid namespace: %w", err)
	}
	fs, err := linux.FsFromFile("proc", files[0])
	if err != nil {
		return nil, err
	}
	// Only a procfs knows this option: who traced that process could have sent something else.
	if err := fs.Set(linux.FsOption{Key: "hidepid", Value: "0"}); err != nil {
		return nil, errors.Join(err, fs.Close())
	}
	return fs, nil
}
