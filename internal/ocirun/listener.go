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
type listener struct {
	path, metadata string
	gate           *os.File // what the child reads
	wake           *os.File
}

// nativeAudit is the architecture's number for filters.
func nativeAudit() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// newListener prepares for a filter that notifies.
func newListener(f *seccomp.Filter, l *specs.LinuxSeccomp) (*listener, error) {
	if l.ListenerPath == "" {
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
	return &listener{path: l.ListenerPath, metadata: l.ListenerMetadata, gate: r, wake: w}, nil
}

func (l *listener) close() {
	_ = l.gate.Close()
	_ = l.wake.Close()
}

// gateNumber is where descriptors put the gate; listenerNumber is what seccomp(2) answers: the lowest that is free.
func (e *execution) gateNumber() int { return e.reportNumber() + 4 }

func (e *execution) listenerNumber() int {
	switch {
	case e.hold == nil:
		return e.holdNumber()
	case e.lateReport == nil:
		return e.lateNumber()
	case e.small == nil:
		return e.smallNumber()
	}
	return e.gateNumber() + 1
}

// notify adds the wait for the parent that passes the listener on.
func (e *execution) notify(p *linux.Program) {
	if e.listener == nil {
		return
	}
	p.Step("pass on the seccomp listener")
	p.Notify()
	p.Call(unix.SYS_READ, linux.N(e.gateNumber()), linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
}

// passListener takes the listener from the child that has marked and hands it to who listens.
func (s *setup) passListener(p *Process) error {
	l := s.exec.listener
	fd, err := unix.PidfdGetfd(int(p.Pidfd.Fd()), s.exec.listenerNumber(), 0)
	if err != nil {
		return fmt.Errorf("seccomp listener: %w", os.NewSyscallError("pidfd_getfd", err))
	}
	notify := os.NewFile(uintptr(fd), "seccomp listener")
	defer notify.Close()
	state := specs.ContainerProcessState{Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: p.Pid,
		Metadata: l.metadata, State: *hookState(NewState(s.o, p), specs.StateCreating)}
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	conn := os.NewFile(uintptr(sock), l.path)
	defer conn.Close()
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: l.path}); err != nil {
		return fmt.Errorf("seccomp listener %q: %w", l.path, err)
	}
	n, err := linux.SendMsg(conn, data, notify)
	for err == nil && n < len(data) {
		var m int
		if m, err = unix.Write(sock, data[n:]); errors.Is(err, unix.EINTR) {
			err = nil
		}
		n += max(0, m)
	}
	if err != nil {
		return fmt.Errorf("seccomp listener %q: %w", l.path, err)
	}
	_, err = l.wake.Write([]byte{0})
	return err
}
