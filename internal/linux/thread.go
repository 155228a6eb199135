package linux

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs fn on a thread of its own and waits for it. The thread ends with fn, with whatever fn changed about it:
// namespaces, root, umask, credentials. fn must not count on goroutines it starts being on that thread.
func OnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- fn()
			return
		}
		// The first thread of a process cannot end before the others: the runtime would park it for good, in the
		// namespaces fn took it to, and /proc/PID shows the first thread's. While it is locked here, another
		// goroutine cannot be on it.
		err := OnThread(fn)
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// NewNetNS makes a network namespace, with its loopback link down, and returns a descriptor that keeps it.
func NewNetNS() (*os.File, error) {
	var ns *os.File
	err := OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// WithNetNS runs fn in the network namespace ns, on a thread of its own. Sockets that fn makes stay in that namespace
// and may be used anywhere.
func WithNetNS(ns *os.File, fn func() error) error {
	return OnThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return fn()
	})
}

// Unshare is unshare(2) for the calling thread, which must be one of OnThread's.
func Unshare(flags int) error {
	if flags == 0 {
		return nil
	}
	return os.NewSyscallError("unshare", unix.Unshare(flags))
}

// Setns is setns(2) for the calling thread, which must be one of OnThread's. ns is a namespace, or with several flags a
// pidfd. A thread that enters a mount namespace must have unshared CLONE_FS first.
func Setns(ns *os.File, flags int) error {
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), flags))
}

// OpenTreeIn copies the mount tree at path as the mount namespace ns sees it, as a mount that stands nowhere:
// open_tree(2) copies only what is in the caller's own namespace.
func OpenTreeIn(ns *os.File, path string) (*os.File, error) {
	var tree *os.File
	err := OnThread(func() error {
		// A thread that shares its root directory with others cannot change the mount namespace.
		if err := Unshare(unix.CLONE_FS); err != nil {
			return err
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
