package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// events prints a container's counters every now and then and a line each time the kernel killed a process for want of
// memory, as JSON, until the container ends.
func events(c *cli, args []string) error {
	f := newFlags("berth-runtime events", "[FLAGS] ID")
	interval := f.Duration("interval", 5*time.Second, "time between two readings of the counters")
	once := f.Bool("stats", false, "print the counters once and end")
	id, err := f.id(args, 1)
	if err != nil {
		return err
	}
	if *interval <= 0 {
		return invalid("--interval %v is not longer than nothing", *interval)
	}
	st, _, err := c.load(id)
	if err != nil {
		return err
	}
	if st.Status() == specs.StateStopped {
		return fmt.Errorf("container with id %s is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	g, err := group(st)
	if err != nil {
		return err
	}
	if *once {
		return c.printStats(st, g)
	}
	return c.follow(st, g, *interval)
}

// follow waits for three things at once: the container's end, a lack of memory, and the time of the next reading.
func (c *cli) follow(st *ocirun.State, g *cgroup.Group, interval time.Duration) error {
	pidfd, err := openInit(st)
	if errdefs.IsFailedPrecondition(err) {
		return nil // ended meanwhile
	}
	if err != nil {
		return err
	}
	defer pidfd.Close()
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLIN}}
	killed, err := g.OOMCount()
	if err != nil {
		return err
	}
	if memory, err := g.OOMEvent(); err == nil {
		defer memory.Close()
		fds[1].Fd = int32(memory.Fd())
	} else {
		c.warn([]string{err.Error()})
	}
	var buf [64]byte
	for next := time.Now().Add(interval); ; {
		// Rounded up, so that it does not wake before its time.
		_, err := unix.Poll(fds, int(max(0, (time.Until(next)+time.Millisecond-1)/time.Millisecond)))
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if fds[1].Revents != 0 {
			if _, err := unix.Read(int(fds[1].Fd), buf[:]); err != nil && err != unix.EAGAIN {
				fds[1].Fd = -1
			}
		}
		// Asked each time: the event of the last kill and the end come together.
		now, err := g.OOMCount()
		for ; err == nil && killed < now; killed++ {
			if err := c.printLine(event{Type: "oom", ID: st.ID}); err != nil {
				return err
			}
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(interval)
		if err := c.printStats(st, g); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the container is being deleted
			}
			return err
		}
	}
}

func (c *cli) printLine(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.out.Write(append(line, '\n'))
	return err
}

func (c *cli) printStats(st *ocirun.State, g *cgroup.Group) error {
	s, err := g.Stats()
	if err != nil {
		return err
	}
	more, err := g.Details()
	if err != nil {
		return err
	}
	data := counters(s)
	data.add(more)
	data.IntelRdt = st.Rdt.Stats()
	data.Interfaces, err = interfaces(st.Pid)
	if err != nil {
		return err
	}
	return c.printLine(event{Type: "stats", ID: st.ID, Data: data})
}

// event is a line of the events command, in runc's form.
type event struct {
	Type string      `json:"type"`
	ID   string      `json:"id"`
	Data *statsEvent `json:"data,omitempty"`
}

type statsEvent struct {
	CPU struct {
		Usage struct {
			Total        uint64   `json:"total,omitempty"`
			Percpu       []uint64 `json:"percpu,omitempty"`
			PercpuKernel []uint64 `json:"percpu_kernel,omitempty"`
			PercpuUser   []uint64 `json:"percpu_user,omitempty"`
			Kernel       uint64   `json:"kernel"`
			User         uint64   `json:"user"`
		} `json:"usage"`
		Throttling struct {
			Periods          uint64 `json:"periods,omitempty"`
			ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
			ThrottledTime    uint64 `json:"throttledTime,omitempty"`
		} `json:"throttling"`
		PSI *pressure `json:"psi,omitempty"`
	} `json:"cpu"`
	Cpuset map[string]any `json:"cpuset"`
	Memory struct {
		Cache     uint64            `json:"cache,omitempty"`
		Usage     memoryEntry       `json:"usage"`
		Swap      memoryEntry       `json:"swap,omitzero"`
		Kernel    memoryEntry       `json:"kernel,omitzero"`
		KernelTCP memoryEntry       `json:"kernelTCP,omitzero"`
		Raw       map[string]uint64 `json:"raw,omitempty"`
		PSI       *pressure         `json:"psi,omitempty"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current,omitempty"`
		Limit   uint64 `json:"limit,omitempty"`
	} `json:"pids"`
	IO struct {
		ServiceBytes []ioEntry `json:"ioServiceBytesRecursive,omitempty"`
		Serviced     []ioEntry `json:"ioServicedRecursive,omitempty"`
		Queued       []ioEntry `json:"ioQueueRecursive,omitempty"`
		ServiceTime  []ioEntry `json:"ioServiceTimeRecursive,omitempty"`
		WaitTime     []ioEntry `json:"ioWaitTimeRecursive,omitempty"`
		Merged       []ioEntry `json:"ioMergedRecursive,omitempty"`
		Time         []ioEntry `json:"ioTimeRecursive,omitempty"`
		Sectors      []ioEntry `json:"sectorsRecursive,omitempty"`
		PSI          *pressure `json:"psi,omitempty"`
	} `json:"blkio"`
	Hugetlb    map[string]pageEntry `json:"hugetlb"`
	IntelRdt   ocirun.RdtStats      `json:"intel_rdt"`
	Interfaces []netInterface       `json:"network_interfaces"`
}

type pageEntry struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type pressure struct {
	Some pressureLine `json:"some,omitzero"`
	Full pressureLine `json:"full,omitzero"`
}

type pressureLine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

type memoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type ioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

func counters(s *cgroup.Stats) *statsEvent {
	e := &statsEvent{}
	e.CPU.Usage.Total, e.CPU.Usage.Percpu = s.CPU.Usage, s.CPU.PerCPU
	e.CPU.Usage.Kernel, e.CPU.Usage.User = s.CPU.System, s.CPU.User
	e.CPU.Throttling.Periods, e.CPU.Throttling.ThrottledPeriods = s.CPU.Periods, s.CPU.ThrottledPeriods
	e.CPU.Throttling.ThrottledTime = s.CPU.ThrottledTime
	e.Memory.Usage = memoryEntry{Limit: s.Memory.Limit, Usage: s.Memory.Usage, Max: s.Memory.MaxUsage, Failcnt: s.Memory.FailCount}
	e.Memory.Raw = s.Memory.Detail
	e.Memory.Cache = s.Memory.Detail["cache"] // v1
	if n, ok := s.Memory.Detail["file"]; ok {
		e.Memory.Cache = n // v2
	}
	e.Pids.Current, e.Pids.Limit = s.Pids.Current, s.Pids.Limit
	for _, l := range []struct {
		to   *[]ioEntry
		from []cgroup.IOEntry
	}{
		{&e.IO.ServiceBytes, s.IO.ServiceBytes}, {&e.IO.Serviced, s.IO.Serviced}, {&e.IO.Queued, s.IO.Queued},
		{&e.IO.ServiceTime, s.IO.ServiceTime}, {&e.IO.WaitTime, s.IO.WaitTime}, {&e.IO.Merged, s.IO.Merged},
		{&e.IO.Time, s.IO.Time}, {&e.IO.Sectors, s.IO.Sectors},
	} {
		for _, n := range l.from {
			*l.to = append(*l.to, ioEntry(n))
		}
	}
	return e
}

func (e *statsEvent) add(d *cgroup.Details) {
	e.CPU.Usage.PercpuKernel, e.CPU.Usage.PercpuUser = d.PerCPUSystem, d.PerCPUUser
	entry := func(c cgroup.Counter) memoryEntry {
		return memoryEntry{Limit: c.Limit, Usage: c.Usage, Max: c.Max, Failcnt: c.FailCount}
	}
	e.Memory.Swap, e.Memory.Kernel, e.Memory.KernelTCP = entry(d.Swap), entry(d.Kernel), entry(d.KernelTCP)
	e.Cpuset = map[string]any{}
	for _, l := range []struct {
		name string
		list []uint16
	}{{"cpus", d.CPUs}, {"mems", d.Mems}} {
		if len(l.list) > 0 {
			e.Cpuset[l.name] = l.list
		}
	}
	for name, n := range d.Cpuset {
		e.Cpuset[name] = int64(n)
	}
	e.Hugetlb = map[string]pageEntry{}
	for size, c := range d.Hugepages {
		e.Hugetlb[size] = pageEntry{Usage: c.Usage, Max: c.Max, Failcnt: c.FailCount}
	}
	for _, p := range []struct {
		to   **pressure
		from *cgroup.Pressure
	}{{&e.CPU.PSI, d.CPUPressure}, {&e.Memory.PSI, d.MemoryPressure}, {&e.IO.PSI, d.IOPressure}} {
		if p.from != nil {
			*p.to = &pressure{pressureLine(p.from.Some), pressureLine(p.from.Full)}
		}
	}
}

type netInterface struct {
	Name      string
	RxBytes   uint64
	RxPackets uint64
	RxErrors  uint64
	RxDropped uint64
	TxBytes   uint64
	TxPackets uint64
	TxErrors  uint64
	TxDropped uint64
}

// interfaces reads the counters of the links that the container's first process sees, loopback apart.
func interfaces(pid int) ([]netInterface, error) {
	links, err := linux.NetDev(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has ended
	}
	var list []netInterface
	for _, l := range links {
		if l.Name != "lo" {
			list = append(list, netInterface(l))
		}
	}
	return list, err
}
