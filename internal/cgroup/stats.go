package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stats is one reading of a group's counters. What the kernel does not count is zero or empty.
type Stats struct {
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	IO     IOStats
}

// CPUStats are processor times in nanoseconds, and what the quota did.
type CPUStats struct {
	Usage, User, System       uint64
	PerCPU                    []uint64 // v1 only
	Periods, ThrottledPeriods uint64
	ThrottledTime             uint64 // nanoseconds
}

// MemoryStats are bytes. Limit is a number near 2⁶³ (v1) or 2⁶⁴−1 (v2) where there is none. Detail is memory.stat,
// by the names of the kernel's version ("total_inactive_file" on v1, "inactive_file" on v2).
type MemoryStats struct {
	Usage, MaxUsage, Limit uint64
	FailCount              uint64 // v1: allocations that hit the limit; v2: times the group ran out of memory
	Detail                 map[string]uint64
}

// PidsStats counts processes and threads; Limit is 0 where there is none.
type PidsStats struct {
	Current, Limit uint64
}

// IOStats are Docker's lists of block I/O. Today's kernels fill the first two, and on v2 the first only is defined.
type IOStats struct {
	ServiceBytes, Serviced, Queued, ServiceTime, WaitTime, Merged, Time, Sectors []IOEntry
}

// IOEntry is a counter of one device and kind of operation ("Read", "Write", "Total" …; lower case on v2).
type IOEntry struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// Stats reads the group's counters. The error wraps fs.ErrNotExist when the group is gone.
func (g *Group) Stats() (*Stats, error) {
	s := &Stats{}
	r := statsReader{g: g}
	if g.host.version == 2 {
		r.v2(s)
	} else {
		r.v1(s)
	}
	if r.err == nil && !exists(g.dir(g.main())) {
		r.err = fs.ErrNotExist
	}
	if r.err != nil {
		return nil, fmt.Errorf("read the counters of cgroup %q: %w", g.path, r.err)
	}
	return s, nil
}

// statsReader keeps the first error. A file or controller that is missing is not one: kernels differ.
type statsReader struct {
	g   *Group
	err error
}

func (r *statsReader) text(controller, file string) string {
	t := r.g.host.tree(controller)
	if t == nil {
		return ""
	}
	return r.read(t, file)
}

// core reads a file that a v2 group has whatever its controllers.
func (r *statsReader) core(file string) string { return r.read(&r.g.host.trees[0], file) }

func (r *statsReader) read(t *tree, file string) string {
	text, err := readFile(r.g.dir(t) + "/" + file)
	// v1 answers EOPNOTSUPP for counters of schedulers that are not in use.
	if err != nil && !gone(err) && !errors.Is(err, unix.EOPNOTSUPP) && r.err == nil {
		r.err = fmt.Errorf("%s: %w", file, err)
	}
	return text
}

func (r *statsReader) number(controller, file string) uint64 {
	n, _ := parseUint(strings.TrimSpace(r.text(controller, file)))
	return n
}

// tick is the unit of cpuacct.stat: USER_HZ is 100 on every architecture that Berth runs on.
const tick = uint64(time.Second / 100)

func (r *statsReader) v1(s *Stats) {
	s.CPU.Usage = r.number("cpuacct", "cpuacct.usage")
	eachPair(r.text("cpuacct", "cpuacct.stat"), func(key string, n uint64) {
		switch key {
		case "user":
			s.CPU.User = n * tick
		case "system":
			s.CPU.System = n * tick
		}
	})
	for f := range strings.FieldsSeq(r.text("cpuacct", "cpuacct.usage_percpu")) {
		n, _ := parseUint(f)
		s.CPU.PerCPU = append(s.CPU.PerCPU, n)
	}
	eachPair(r.text("cpu", "cpu.stat"), func(key string, n uint64) {
		switch key {
		case "nr_periods":
			s.CPU.Periods = n
		case "nr_throttled":
			s.CPU.ThrottledPeriods = n
		case "throttled_time":
			s.CPU.ThrottledTime = n
		}
	})
	s.Memory.Usage = r.number("memory", "memory.usage_in_bytes")
	s.Memory.MaxUsage = r.number("memory", "memory.max_usage_in_bytes")
	s.Memory.Limit = r.number("memory", "memory.limit_in_bytes")
	s.Memory.FailCount = r.number("memory", "memory.failcnt")
	s.Memory.Detail = details(r.text("memory", "memory.stat"))
	r.pids(s)
	for _, l := range [...]struct {
		name string
		to   *[]IOEntry
	}{
		{"io_service_bytes", &s.IO.ServiceBytes}, {"io_serviced", &s.IO.Serviced}, {"io_queued", &s.IO.Queued},
		{"io_service_time", &s.IO.ServiceTime}, {"io_wait_time", &s.IO.WaitTime}, {"io_merged", &s.IO.Merged},
		{"time", &s.IO.Time}, {"sectors", &s.IO.Sectors},
	} {
		// CFQ, then BFQ, then what every device has.
		for _, from := range [...]string{"blkio.", "blkio.bfq.", "blkio.throttle."} {
			if *l.to = ioEntries(r.text("blkio", from+l.name+"_recursive")); len(*l.to) > 0 {
				break
			}
		}
	}
}

func (r *statsReader) v2(s *Stats) {
	eachPair(r.core("cpu.stat"), func(key string, n uint64) {
		switch key {
		case "usage_usec":
			s.CPU.Usage = n * 1000
		case "user_usec":
			s.CPU.User = n * 1000
		case "system_usec":
			s.CPU.System = n * 1000
		case "nr_periods":
			s.CPU.Periods = n
		case "nr_throttled":
			s.CPU.ThrottledPeriods = n
		case "throttled_usec":
			s.CPU.ThrottledTime = n * 1000
		}
	})
	s.Memory.Usage = r.number("memory", "memory.current")
	s.Memory.MaxUsage = r.number("memory", "memory.peak")
	s.Memory.Limit = r.number("memory", "memory.max")
	s.Memory.Detail = details(r.text("memory", "memory.stat"))
	eachPair(r.text("memory", "memory.events"), func(key string, n uint64) {
		if key == "oom" {
			s.Memory.FailCount = n
		}
	})
	r.pids(s)
	s.IO.ServiceBytes, s.IO.Serviced = ioStat(r.text("io", "io.stat"))
}

func (r *statsReader) pids(s *Stats) {
	s.Pids.Current = r.number("pids", "pids.current")
	if s.Pids.Limit = r.number("pids", "pids.max"); s.Pids.Limit == unlimited {
		s.Pids.Limit = 0
	}
}

func details(text string) map[string]uint64 {
	d := make(map[string]uint64, 64)
	eachPair(text, func(key string, n uint64) { d[key] = n })
	return d
}

// ioEntries reads v1's lines "8:0 Read 4096" and "8:0 4096"; the sum over all devices at the end is left out.
func ioEntries(text string) (entries []IOEntry) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		e := IOEntry{}
		var ok bool
		if e.Major, e.Minor, ok = deviceNumbers(f[0]); !ok {
			continue
		}
		if len(f) == 3 {
			e.Op = f[1]
		}
		var err error
		if e.Value, err = parseUint(f[len(f)-1]); err == nil {
			entries = append(entries, e)
		}
	}
	return entries
}

// ioStat reads v2's lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0".
func ioStat(text string) (bytes, ios []IOEntry) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		major, minor, ok := deviceNumbers(f[0])
		if !ok {
			continue
		}
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, err := parseUint(value)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				bytes = append(bytes, IOEntry{major, minor, "read", n})
			case "wbytes":
				bytes = append(bytes, IOEntry{major, minor, "write", n})
			case "rios":
				ios = append(ios, IOEntry{major, minor, "read", n})
			case "wios":
				ios = append(ios, IOEntry{major, minor, "write", n})
			}
		}
	}
	return bytes, ios
}

func deviceNumbers(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, false
	}
	major, err1 := parseUint(a)
	minor, err2 := parseUint(b)
	return major, minor, err1 == nil && err2 == nil
}
