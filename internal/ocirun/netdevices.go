package ocirun

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// netDevices are the host's network devices on their way into the container (config-linux.md, "Network Devices"). They keep their
// permanent addresses. When the start fails they go back: with the namespace's end a virtual one would be gone.
type netDevices struct {
	spec         map[string]specs.LinuxNetDevice
	host, inside *linux.Route
	hostNS       *os.File
	moved        []movedDevice
}

type movedDevice struct {
	name  string // of the host
	index int    // in the container
	up    bool
	addrs []linux.Addr
}

func checkNetDevices(l *specs.Linux, private bool) error {
	if len(l.NetDevices) > 0 && !private {
		return invalid("network devices need a network namespace of the container's own")
	}
	for name, d := range l.NetDevices {
		for _, n := range []string{name, d.Name} {
			if n == "" && n == d.Name {
				continue // it keeps the host's
			}
			// What the kernel accepts (dev_valid_name), and one "%d" in the new one.
			plain := n
			if n != name {
				plain = strings.Replace(n, "%d", "0", 1)
			}
			if plain == "" || len(n) >= unix.IFNAMSIZ || plain == "." || plain == ".." || strings.ContainsAny(plain, "/:% \t\n\v\f\r\x00") {
				return invalid("network device %q: %q cannot be the name of one", name, n)
			}
		}
	}
	return nil
}

// fromHost opens what is the host's, while the thread is there.
func (d *netDevices) fromHost(proc *os.File) (err error) {
	if len(d.spec) == 0 {
		return nil
	}
	fd, err := unix.Openat(int(proc.Fd()), "thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d.hostNS = os.NewFile(uintptr(fd), "net")
	d.host, err = linux.NewRoute()
	return err
}

// move takes the devices into the thread's network namespace.
func (d *netDevices) move(proc *os.File) (err error) {
	if len(d.spec) == 0 {
		return nil
	}
	fd, err := unix.Openat(int(proc.Fd()), "thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	here := os.NewFile(uintptr(fd), "net")
	defer here.Close()
	if d.inside, err = linux.NewRoute(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(d.spec)) {
		as := d.spec[name].Name
		if as == "" {
			as = name
		}
		if err := d.moveOne(here, name, as); err != nil {
			return fmt.Errorf("network device %q: %w", name, err)
		}
	}
	return nil
}

func (d *netDevices) moveOne(here *os.File, name, as string) error {
	if _, _, err := d.inside.Link(as); err == nil {
		return fmt.Errorf("the container's network namespace has a device %q already: %w", as, unix.EEXIST)
	} else if !errors.Is(err, unix.ENODEV) {
		return err
	}
	index, up, err := d.host.Link(name)
	if err != nil {
		return errors.Unwrap(err)
	}
	m := movedDevice{name: name, up: up}
	if m.addrs, err = d.host.Addrs(index); err != nil {
		return err
	}
	if m.index, err = transfer(d.host, d.inside, index, here, as); err != nil {
		return err
	}
	d.moved = append(d.moved, m)
	return settle(d.inside, m.index, m.addrs, true)
}

// transfer moves a device. Its number may be another one there, and its name of the kernel's choice, so it has one of its own between.
func transfer(from, to *linux.Route, index int, ns *os.File, name string) (int, error) {
	between := fmt.Sprintf("berth%d.%d", os.Getpid()%1e5, index%1e3)
	if err := from.Move(index, ns, between); err != nil {
		return 0, fmt.Errorf("move it: %w", err)
	}
	there, _, err := to.Link(between)
	if err != nil {
		return 0, err
	}
	if err := to.Rename(there, name); err != nil {
		return there, fmt.Errorf("name it %q: %w", name, err)
	}
	return there, nil
}

func settle(r *linux.Route, index int, addrs []linux.Addr, up bool) error {
	for _, a := range addrs {
		if err := r.AddAddr(index, a); err != nil {
			return err
		}
	}
	if !up {
		return nil
	}
	return r.Up(index)
}

// giveBack is for a start that failed.
func (d *netDevices) giveBack() error {
	var errs []error
	for _, m := range d.moved {
		index, err := transfer(d.inside, d.host, m.index, d.hostNS, m.name)
		if err == nil {
			err = settle(d.host, index, m.addrs, m.up)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("give network device %q back: %w", m.name, err))
		}
	}
	d.moved = nil
	return errors.Join(errs...)
}

func (d *netDevices) close() {
	for _, r := range []*linux.Route{d.host, d.inside} {
		if r != nil {
			_ = r.Close()
		}
	}
	if d.hostNS != nil {
		_ = d.hostNS.Close()
	}
}
