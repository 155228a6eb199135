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
			Usual()
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

// InPlace is OnThread for a process that does one thing and ends: fn runs on the caller's thread, and what it changes there is put back,
// which saves several switches between threads: namespaces (but those of users, time and pid for children, which fn leaves alone), root,
// working directory, umask. Where it could not be put back fn runs on a thread of its own. When putting it back fails nevertheless the
// process ends, since whoever goes on takes the container's files for the host's.
func InPlace(fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	Usual()
	var place placement
	defer place.close()
	if place.take() != nil || unix.Unshare(unix.CLONE_FS) != nil || place.back() != nil {
		if place.moved {
			place.fatal(place.back())
		}
		return OnThread(fn)
	}
	defer func() {
		if err := place.back(); err != nil {
			place.fatal(err)
		}
	}()
	return fn()
}

// placement is where a thread stands.
type placement struct {
	namespaces [4]*os.File
	root, cwd  *os.File
	umask      int
	moved      bool // by back
}

// placed are the namespaces of a placement, as /proc and setns(2) name them. The mount namespace comes last: it changes the root.
var placed = [...]struct {
	file string
	flag int
}{{"net", unix.CLONE_NEWNET}, {"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"mnt", unix.CLONE_NEWNS}}

// take notes where the calling thread stands.
func (p *placement) take() (err error) {
	open := func(path string, flags int) (f *os.File) {
		if err == nil {
			var fd int
			if fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0); err == nil {
				f = os.NewFile(uintptr(fd), path)
			}
		}
		return f
	}
	for i := range placed {
		p.namespaces[i] = open("/proc/thread-self/ns/"+placed[i].file, unix.O_RDONLY)
	}
	p.root, p.cwd = open("/", unix.O_PATH|unix.O_DIRECTORY), open(".", unix.O_PATH|unix.O_DIRECTORY)
	p.umask = unix.Umask(0o077)
	unix.Umask(p.umask)
	return err
}

// back takes the calling thread there.
func (p *placement) back() error {
	for i := range placed {
		if err := unix.Setns(int(p.namespaces[i].Fd()), placed[i].flag); err != nil {
			return os.NewSyscallError("setns", err)
		}
		p.moved = true
	}
	if err := unix.Fchdir(int(p.root.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.Chroot("."); err != nil {
		return os.NewSyscallError("chroot", err)
	}
	if err := unix.Fchdir(int(p.cwd.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	unix.Umask(p.umask)
	return nil
}

func (p *placement) fatal(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot return to the host's namespaces: %v\n", err)
		os.Exit(1)
	}
}

func (p *placement) close() {
	for _, f := range append(p.namespaces[:], p.root, p.cwd) {
		if f != nil {
			_ = f.Close()
		}
	}
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
