package cgroup

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OOMCount is how many processes of the group and of the groups below it the kernel has killed for want of memory.
func (g *Group) OOMCount() (uint64, error) {
	path := g.oomFile()
	if path == "" {
		return 0, nil // without the controller nothing is limited
	}
	// Kernels before 4.13 do not count on v1; nothing can be said there.
	n, _, err := readPair(path, "oom_kill")
	if err != nil {
		return 0, fmt.Errorf("read the out-of-memory kills of cgroup %q: %w", g.path, err)
	}
	return n, nil
}

func (g *Group) oomFile() string {
	name := "memory.oom_control"
	if t := g.host.tree("memory"); t != nil && t.v2 {
		name = "memory.events"
	}
	return g.file("memory", name)
}

// OOMEvent gives a descriptor that becomes readable when something may have changed about memory running out: on v1 an
// eventfd of memory.oom_control, which also fires when the group is removed; on v2 an inotify descriptor of
// memory.events, which fires on other events in that file as well. Read it empty (64 bytes are enough for either),
// then ask OOMCount. It is non-blocking, so it works with Go's poller and with poll(2). The caller closes it.
func (g *Group) OOMEvent() (*os.File, error) {
	path := g.oomFile()
	if path == "" {
		return nil, fmt.Errorf("watch cgroup %q for want of memory: the memory controller is not available on this host",
			g.path)
	}
	watch := watchEventfd
	if g.host.tree("memory").v2 {
		watch = watchInotify
	}
	f, err := watch(path, g.file("memory", "cgroup.event_control"))
	if err != nil {
		return nil, fmt.Errorf("watch cgroup %q for want of memory: %w", g.path, err)
	}
	return f, nil
}

func watchInotify(path, _ string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// watchEventfd registers an eventfd (cgroup-v1/memory.rst, section 10): "EVENTFD CONTROLFD" to cgroup.event_control.
func watchEventfd(path, control string) (*os.File, error) {
	watched, err := open(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(watched) // the kernel keeps what it needs
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if err := writeFile(control, decimal(int64(fd))+" "+decimal(int64(watched))); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
