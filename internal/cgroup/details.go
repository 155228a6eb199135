package cgroup

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Details are the counters and settings that few ask for, beside Stats.
type Details struct {
	// Swap counts memory and swap together, on v2, too. Kernel and KernelTCP are v1's.
	Swap, Kernel, KernelTCP Counter
	Hugepages               map[string]Counter // by size, as "2MB"
	// PerCPUUser and PerCPUSystem are nanoseconds; v1 only.
	PerCPUUser, PerCPUSystem []uint64
	CPUs, Mems               []uint16          // what the group may use
	Cpuset                   map[string]uint64 // v1's flags by their names, as "cpu_exclusive"
	// Pressure on processors, memory and I/O; nil where the kernel does not measure it. v2 only.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// Counter is what is used of something, at most, and how often the limit was hit. Limit is as in MemoryStats.
type Counter struct {
	Usage, Max, Limit, FailCount uint64
}

// Pressure says how much of the time some, or all, processes waited (Documentation/accounting/psi.rst).
type Pressure struct {
	Some, Full PressureLine
}

// PressureLine holds shares of the last 10, 60 and 300 seconds in percent, and microseconds altogether.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// Details reads them; what the kernel does not have is zero or empty.
func (g *Group) Details() (*Details, error) {
	r := statsReader{g: g}
	d := &Details{Hugepages: map[string]Counter{}, Cpuset: map[string]uint64{}}
	d.CPUs, d.Mems = r.list("cpuset.effective_cpus", "cpuset.cpus.effective"), r.list("cpuset.effective_mems", "cpuset.mems.effective")
	if g.host.tree("hugetlb") != nil {
		for _, size := range pageSizes() {
			d.Hugepages[size] = r.hugepages(size)
		}
	}
	if g.host.version == 2 {
		r.detailsV2(d)
	} else {
		r.detailsV1(d)
	}
	return d, r.err
}

func (r *statsReader) detailsV1(d *Details) {
	for _, c := range [...]struct {
		to   *Counter
		name string
	}{{&d.Swap, "memory.memsw."}, {&d.Kernel, "memory.kmem."}, {&d.KernelTCP, "memory.kmem.tcp."}} {
		*c.to = Counter{Usage: r.number("memory", c.name+"usage_in_bytes"), Max: r.number("memory", c.name+"max_usage_in_bytes"),
			Limit: r.number("memory", c.name+"limit_in_bytes"), FailCount: r.number("memory", c.name+"failcnt")}
	}
	for line := range strings.Lines(r.text("cpuacct", "cpuacct.usage_all")) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "cpu" {
			continue
		}
		user, err := parseUint(f[1])
		system, err2 := parseUint(f[2])
		if err == nil && err2 == nil {
			d.PerCPUUser, d.PerCPUSystem = append(d.PerCPUUser, user), append(d.PerCPUSystem, system)
		}
	}
	for _, name := range [...]string{"cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
		"memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level"} {
		text := strings.TrimSpace(r.text("cpuset", "cpuset."+name))
		if n, err := strconv.ParseInt(text, 10, 64); err == nil { // the last one may be −1
			d.Cpuset[name] = uint64(n)
		}
	}
}

func (r *statsReader) detailsV2(d *Details) {
	d.Swap = Counter{Usage: r.number("memory", "memory.swap.current") + r.number("memory", "memory.current"),
		Max: r.number("memory", "memory.swap.peak"), Limit: r.number("memory", "memory.swap.max")}
	if limit := r.number("memory", "memory.max"); d.Swap.Limit == unlimited || limit == unlimited {
		d.Swap.Limit = math.MaxUint64
	} else {
		d.Swap.Limit += limit
	}
	d.CPUPressure, d.MemoryPressure, d.IOPressure = parsePressure(r.core("cpu.pressure")), parsePressure(r.core("memory.pressure")),
		parsePressure(r.core("io.pressure"))
}

// hugepages prefers what counts reservations, as it is these that hit the limit.
func (r *statsReader) hugepages(size string) (c Counter) {
	t := r.g.host.tree("hugetlb")
	name := "hugetlb." + size + "."
	usage, most := "usage_in_bytes", "max_usage_in_bytes"
	if t.v2 {
		usage, most = "current", "peak"
	}
	if exists(r.g.dir(t) + "/" + name + "rsvd." + usage) {
		name += "rsvd."
	}
	c = Counter{Usage: r.number("hugetlb", name+usage), Max: r.number("hugetlb", name+most), FailCount: r.number("hugetlb", name+"failcnt")}
	if t.v2 {
		eachPair(r.text("hugetlb", "hugetlb."+size+".events"), func(key string, n uint64) {
			if key == "max" {
				c.FailCount = n
			}
		})
	}
	return c
}

// pageSizes are the huge pages of this machine, as the control files call them.
func pageSizes() (list []string) {
	entries, err := os.ReadDir("/sys/kernel/mm/hugepages")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		text, _ := strings.CutPrefix(e.Name(), "hugepages-")
		kb, err := parseUint(strings.TrimSuffix(text, "kB"))
		switch {
		case err != nil:
		case kb >= 1<<20:
			list = append(list, udecimal(kb>>20)+"GB")
		case kb >= 1<<10:
			list = append(list, udecimal(kb>>10)+"MB")
		default:
			list = append(list, udecimal(kb)+"KB")
		}
	}
	slices.Sort(list)
	return list
}

// list reads "0-2,7".
func (r *statsReader) list(v1, v2 string) (list []uint16) {
	file := v1
	if r.g.host.version == 2 {
		file = v2
	}
	for part := range strings.SplitSeq(strings.TrimSpace(r.text("cpuset", file)), ",") {
		first, last, some := strings.Cut(part, "-")
		if !some {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		b, err2 := strconv.ParseUint(last, 10, 16)
		for n := a; err == nil && err2 == nil && n <= b; n++ {
			list = append(list, uint16(n))
		}
	}
	return list
}

// parsePressure reads lines as "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
func parsePressure(text string) *Pressure {
	p := &Pressure{}
	found := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		var to *PressureLine
		switch f[0] {
		case "some":
			to = &p.Some
		case "full":
			to = &p.Full
		default:
			continue
		}
		found = true
		for _, pair := range f[1:] {
			key, value, _ := strings.Cut(pair, "=")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch key {
			case "avg10":
				to.Avg10 = n
			case "avg60":
				to.Avg60 = n
			case "avg300":
				to.Avg300 = n
			case "total":
				to.Total, _ = parseUint(value)
			}
		}
	}
	if !found {
		return nil
	}
	return p
}
