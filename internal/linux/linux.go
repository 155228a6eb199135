// Package linux is where Berth talks to the kernel: mounts without a place, namespaces, process descriptors, descriptors
// sent between processes, sealed programs, and the one raw fork. Callers see Go values; every retry and every quirk of a
// call is dealt with here, with its reason.
//
// It owns nothing and keeps no state. It refuses nothing by itself: the kernel's answer is the answer.
package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// NewNetNS makes a network namespace and returns a descriptor that keeps it.
func NewNetNS() (*os.File, error) {
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// WithNetNS runs fn on a thread that is in the network namespace ns. fn must not start goroutines that count on it.
func WithNetNS(ns *os.File, fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return fn()
	})
}

// OpenTreeIn copies the mount tree at path as the mount namespace ns sees it, as a mount that stands nowhere: open_tree(2)
// copies only what is in the caller's own namespace.
func OpenTreeIn(ns *os.File, path string) (*os.File, error) {
	var tree *os.File
	err := onThread(func() error {
		// A thread that shares its root directory with others cannot change the mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter a mount namespace: %w", err)
		}
		var err error
		tree, err = OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
		return err
	})
	return tree, err
}

// onThread runs fn on a thread that is thrown away afterwards, with whatever fn changed about it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot be thrown away, and /proc/self shows it: keep it busy and take another.
			defer runtime.UnlockOSThread()
			done <- onThread(fn)
			return
		}
		done <- fn() // and never unlocked: the runtime ends the thread with the goroutine
	}()
	return <-done
}

// SealedCopy copies a program into memory that nobody can change any more, so that a container that gets hold of the
// running file cannot rewrite it for the next one (CVE-2019-5736).
func SealedCopy(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("berth-runtime", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 every memfd could be executed
		fd, err = unix.MemfdCreate("berth-runtime", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), path)
	if _, err := io.Copy(f, src); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Fchmod(fd, 0o500); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("seal the copy of %q: %w", path, err), f.Close())
	}
	return f, nil
}

// Pidfd opens a descriptor of a process.
func Pidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Signal sends a signal to the process behind pidfd; a process that has ended is os.ErrProcessDone.
func Signal(pidfd *os.File, sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}
