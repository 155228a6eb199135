package ocirun

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A profile with SCMP_ACT_NOTIFY lets a program on the host decide about system calls. The child gets the descriptor for that
// from seccomp(2), and waits with its filter in force:
//
//	child                              parent
//	  seccomp ─▶ descriptor
//	  mark ──────────────────────────▶ pidfd_getfd
//	  read                             connect to listenerPath, send state and descriptor
//	  ◀──────────────────────────────── byte
//	  the rest, up to execve
//
// So write and read must be calls that the profile allows.
//
// A process that goes into a pid namespace which has processes already is the second child: the first one, outside, loads the filter
// and has the descriptor, and closes it once the parent has it; only when there is the second one, whose number the state tells, is it
// passed on. Until then everything has to be allowed that they do.
//
//	first child              second child            parent
//	  seccomp, mark ───────────────────────────────▶ pidfd_getfd
//	  ◀───────────────────────────────────────────── byte
//	  close, fork ─────────▶ mark ─────────────────▶ connect, send
//	                         ◀────────────────────── byte
type listener struct {
	path, metadata string
	gate           *os.File // what the child reads
	wake           *os.File
	conn           *os.File // to who listens
}

// nativeAudit is the architecture's number for filters.
func nativeAudit() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// newListener prepares for a filter that notifies.
func newListener(f *seccomp.Filter, path, metadata string) (*listener, error) {
	if path == "" {
		return nil, invalid("the seccomp profile has %q and no listenerPath", specs.ActNotify)
	}
	for _, c := range [...]struct {
		nr   int32
		name string
	}{{unix.SYS_READ, "read"}, {unix.SYS_WRITE, "write"}, {unix.SYS_DUP3, "dup3"}} {
		if f.Simulate(nativeAudit(), c.nr, [6]uint64{}) != unix.SECCOMP_RET_ALLOW {
			return nil, fmt.Errorf("a seccomp profile with a listener that does not allow %s: %w", c.name, errdefs.ErrInvalidArgument)
		}
	}
	r, w, err := linux.Pipe()
	if err != nil {
		return nil, err
	}
	return &listener{path: path, metadata: metadata, gate: r, wake: w}, nil
}

// Listener is who decides about the calls of a process that is executed, as the container's profile names it.
type Listener struct {
	Path, Metadata string
	State          specs.State // of the container
}

// ListenerOf is the profile's, for a process that is executed; nil where the filter does not notify.
func ListenerOf(f *seccomp.Filter, l *specs.LinuxSeccomp, st *State) *Listener {
	if !f.Notifies() {
		return nil
	}
	return &Listener{Path: l.ListenerPath, Metadata: l.ListenerMetadata, State: *hookState(st, st.Status())}
}

func (l *listener) close() {
	_ = l.gate.Close()
	_ = l.wake.Close()
	if l.conn != nil {
		_ = l.conn.Close()
	}
}

// gateNumber is where descriptors put the gate; listenerNumber is what seccomp(2) answers: the lowest that is free.
func (e *execution) gateNumber() int  { return e.reportNumber() + 4 }
func (e *execution) hooksNumber() int { return e.reportNumber() + 5 }

func (e *execution) listenerNumber() int {
	switch {
	case e.hold == nil:
		return e.holdNumber()
	case e.lateReport == nil:
		return e.lateNumber()
	case e.small == nil:
		return e.smallNumber()
	case e.hooksGate == nil:
		return e.hooksNumber()
	}
	return e.hooksNumber() + 1
}

// notify adds the wait for the parent that takes the listener, or passes it on.
func (e *execution) notify(p *linux.Program) {
	p.Step("pass on the seccomp listener")
	p.Notify()
	p.Call(unix.SYS_READ, linux.N(e.gateNumber()), linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
}

// pass takes the listener from the child that has marked and hands it to who listens, with the state of the container of which the child
// is the process.
func (e *execution) pass(child *linux.Child, state func(pid int) *specs.State) error {
	if err := child.WaitMark(); err != nil {
		return e.explain(err)
	}
	l := e.listener
	fd, err := unix.PidfdGetfd(int(child.Pidfd.Fd()), e.listenerNumber(), 0)
	if err != nil {
		return fmt.Errorf("seccomp listener: %w", os.NewSyscallError("pidfd_getfd", err))
	}
	notify := os.NewFile(uintptr(fd), "seccomp listener")
	defer notify.Close()
	if e.sibling {
		if _, err = l.wake.Write([]byte{0}); err != nil {
			return err
		}
		if err := child.WaitMark(); err != nil {
			return e.explain(err)
		}
	}
	data, err := json.Marshal(specs.ContainerProcessState{Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: child.Pid,
		Metadata: l.metadata, State: *state(child.Pid)})
	if err != nil {
		return err
	}
	if err := l.send(data, notify); err != nil {
		return fmt.Errorf("seccomp listener %q: %w", l.path, err)
	}
	_, err = l.wake.Write([]byte{0})
	return err
}

// connect has to be called where the host's paths are seen.
func (l *listener) connect() error {
	var err error
	if l.conn, err = linux.ConnectUnix(l.path); err != nil {
		return fmt.Errorf("seccomp listener %q: %w", l.path, err)
	}
	return nil
}

func (l *listener) send(data []byte, notify *os.File) error {
	n, err := linux.SendMsg(l.conn, data, notify)
	for err == nil && n < len(data) {
		var m int
		if m, err = unix.Write(int(l.conn.Fd()), data[n:]); errors.Is(err, unix.EINTR) {
			err = nil
		}
		n += max(0, m)
	}
	err = errors.Join(err, l.conn.Close()) // the end of the document
	l.conn = nil
	return err
}
