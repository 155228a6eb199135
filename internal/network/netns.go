package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"golang.org/x/sys/unix"
)

// inNewNetNS makes a network namespace and calls fn on a thread that is inside it.
func (n *Networks) inNewNetNS(fn func(ns *os.File) error) (*os.File, error) {
	var ns *os.File
	err := n.onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		if ns, err = openOwnNetNS(); err != nil {
			return err
		}
		return fn(ns)
	})
	if err != nil {
		if ns != nil {
			ns.Close()
		}
		return nil, err
	}
	return ns, nil
}

// inNetNS calls fn on a thread that is inside ns.
func (n *Networks) inNetNS(ns *os.File, fn func() error) error {
	return n.onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return fn()
	})
}

// onThread calls fn, which may leave its thread in another network namespace, and brings the thread back. Where that
// fails the thread is not used again: a locked goroutine that ends takes its thread along. linux.OnThread would do, but
// a new thread for each costs 0.1 ms, a tenth of what the start of a container may cost here.
func (n *Networks) onThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// What others read below /proc/self/net is the first thread's.
			result <- linux.OnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		err := fn()
		if back := unix.Setns(int(n.hostNS.Fd()), unix.CLONE_NEWNET); back != nil {
			result <- fmt.Errorf("return to the host's network namespace: %w", back)
			return
		}
		runtime.UnlockOSThread()
		result <- err
	}()
	return <-result
}

// openOwnNetNS opens the network namespace of the calling thread.
func openOwnNetNS() (*os.File, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the thread's network namespace: %w", err)
	}
	return os.NewFile(uintptr(fd), "net:[]"), nil
}

// setSysctl writes a kernel parameter in the network namespace of the calling thread; name is the path below /proc/sys.
func setSysctl(name, value string) error {
	fd, err := unix.Open("/proc/sys/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("set %q: %w", name, err)
	}
	_, err = unix.Write(fd, []byte(value))
	unix.Close(fd)
	if err != nil {
		return fmt.Errorf("set %q to %q: %w", name, value, err)
	}
	return nil
}

// setSysctlIfThere is setSysctl for parameters that some kernels do not have.
func setSysctlIfThere(name, value string) error {
	if err := setSysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readSysctl(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join("/proc/sys", name))
	return strings.TrimSpace(string(b)), err
}
