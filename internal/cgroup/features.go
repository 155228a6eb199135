package cgroup

import (
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Feature is a limit that some kernels have and others lack.
type Feature int

// The features, in the order in which `docker info` speaks of them.
const (
	MemoryLimit Feature = iota
	SwapLimit
	KernelMemoryTCP
	OOMKillDisable
	CPUQuota
	CPUShares
	Cpuset
	IOWeight
	IOWeightDevice
	IOReadBps
	IOWriteBps
	IOReadIOPS
	IOWriteIOPS
	MemoryReservation
	MemorySwappiness
	CPURealtime
	PidsLimit
	Hugepages
	Devices
	Namespaces
)

// Supports reports whether this machine can keep a kind of limit. It looks each time.
func (h *Host) Supports(f Feature) bool {
	switch f {
	case Namespaces:
		return exists("/proc/self/ns/cgroup")
	case Hugepages:
		return h.tree("hugetlb") != nil
	case Cpuset:
		return h.tree("cpuset") != nil
	case PidsLimit:
		return h.tree("pids") != nil
	case Devices:
		return h.version == 2 || h.tree("devices") != nil
	}
	if h.version == 2 {
		return h.supportsV2(f)
	}
	switch f {
	case MemoryLimit:
		return h.tree("memory") != nil
	case SwapLimit:
		return h.rootHas("memory", "memory.memsw.limit_in_bytes")
	case MemoryReservation:
		return h.rootHas("memory", "memory.soft_limit_in_bytes")
	case MemorySwappiness:
		return h.rootHas("memory", "memory.swappiness")
	case OOMKillDisable:
		return h.rootHas("memory", "memory.oom_control")
	case KernelMemoryTCP:
		return h.rootHas("memory", "memory.kmem.tcp.limit_in_bytes")
	case CPUShares:
		return h.tree("cpu") != nil
	case CPUQuota:
		return h.rootHas("cpu", "cpu.cfs_quota_us")
	case CPURealtime:
		return h.rootHas("cpu", "cpu.rt_runtime_us")
	case IOWeight, IOWeightDevice:
		// The root has no bfq.weight; its counters appear together with it.
		return h.rootHas("blkio", "blkio.weight") || h.rootHas("blkio", "blkio.bfq.io_service_bytes")
	case IOReadBps:
		return h.rootHas("blkio", "blkio.throttle.read_bps_device")
	case IOWriteBps:
		return h.rootHas("blkio", "blkio.throttle.write_bps_device")
	case IOReadIOPS:
		return h.rootHas("blkio", "blkio.throttle.read_iops_device")
	case IOWriteIOPS:
		return h.rootHas("blkio", "blkio.throttle.write_iops_device")
	}
	return false
}

func (h *Host) supportsV2(f Feature) bool {
	switch f {
	case MemoryLimit, MemoryReservation:
		return h.tree("memory") != nil
	case SwapLimit:
		return h.tree("memory") != nil && h.swapAccounting()
	case CPUShares, CPUQuota:
		return h.tree("cpu") != nil
	case IOWeight, IOWeightDevice:
		// The root has no weight. io.weight comes with iocost, whose other files are in the root, io.bfq.weight
		// with bfq.
		return h.tree("io") != nil && (h.rootHas("io", "io.cost.qos") || exists("/sys/module/bfq"))
	case IOReadBps, IOWriteBps, IOReadIOPS, IOWriteIOPS:
		return h.tree("io") != nil
	}
	return false
}

// swapAccounting looks for memory.swap.max in any group but the root, which has none.
func (h *Host) swapAccounting() bool {
	dir := h.trees[0].dir
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.IsDir() && exists(dir+"/"+e.Name()+"/memory.current") {
			return exists(dir + "/" + e.Name() + "/memory.swap.max")
		}
	}
	// No group has memory limits yet: go by the kernel having swap at all, and not having been told otherwise.
	cmdline, _ := readFile("/proc/cmdline")
	return exists("/proc/swaps") && !strings.Contains(cmdline, "swapaccount=0")
}

func (h *Host) rootHas(controller, file string) bool {
	t := h.tree(controller)
	return t != nil && exists(t.dir+"/"+file)
}

// Warnings are the lines about missing limits that `docker info` prints at its end.
func (h *Host) Warnings() (lines []string) {
	for _, w := range [...]struct {
		feature Feature
		v1, v2  string // "" where nobody could do anything about it
	}{
		{MemoryLimit, "memory limit", "memory limit"},
		{SwapLimit, "swap limit", "swap limit"},
		{KernelMemoryTCP, "kernel memory TCP limit", ""},
		{OOMKillDisable, "oom kill disable", ""},
		{CPUQuota, "cpu cfs quota", "cpu cfs quota"},
		{CPUQuota, "cpu cfs period", "cpu cfs period"},
		{CPUShares, "cpu shares", "cpu shares"},
		{Cpuset, "cpuset", "cpuset"},
		{IOWeight, "", "io.weight"},
		{IOWeightDevice, "", "io.weight (per device)"},
		{IOReadBps, "blkio throttle.read_bps_device", "io.max (rbps)"},
		{IOWriteBps, "blkio throttle.write_bps_device", "io.max (wbps)"},
		{IOReadIOPS, "blkio throttle.read_iops_device", "io.max (riops)"},
		{IOWriteIOPS, "blkio throttle.write_iops_device", "io.max (wiops)"},
	} {
		what := w.v1
		if h.version == 2 {
			what = w.v2
		}
		if what != "" && !h.Supports(w.feature) {
			lines = append(lines, "WARNING: No "+what+" support")
		}
	}
	return lines
}

// Adapt returns what of r this machine can keep, and Docker's warnings for the rest, so that they can be given when a
// container is made and not only when it starts. r itself stays as it is.
func (h *Host) Adapt(r *specs.LinuxResources) (*specs.LinuxResources, []string) {
	out := *r
	var warnings []string
	missing := func(f Feature, asked bool, warning string) bool {
		if !asked || h.Supports(f) {
			return false
		}
		warnings = append(warnings, warning)
		return true
	}
	if r.Memory != nil {
		out.Memory = adaptMemory(*r.Memory, missing)
	}
	if r.CPU != nil {
		c := *r.CPU
		if missing(CPUShares, c.Shares != nil && *c.Shares != 0, noShares) {
			c.Shares = nil
		}
		if missing(CPUQuota, c.Quota != nil && *c.Quota != 0 || c.Period != nil && *c.Period != 0, noQuota) {
			c.Quota, c.Period = nil, nil
		}
		if missing(Cpuset, c.Cpus != "" || c.Mems != "", noCpuset) {
			c.Cpus, c.Mems = "", ""
		}
		out.CPU = &c
	}
	if r.Pids != nil && missing(PidsLimit, r.Pids.Limit != nil && *r.Pids.Limit > 0, noPids) {
		out.Pids = nil
	}
	if r.BlockIO != nil {
		b := *r.BlockIO
		if missing(IOWeight, b.Weight != nil && *b.Weight != 0, noWeight) {
			b.Weight = nil
		}
		if missing(IOWeightDevice, len(b.WeightDevice) > 0, noWeightOfDev) {
			b.WeightDevice = nil
		}
		if missing(IOReadBps, len(b.ThrottleReadBpsDevice) > 0, noReadBps) {
			b.ThrottleReadBpsDevice = nil
		}
		if missing(IOWriteBps, len(b.ThrottleWriteBpsDevice) > 0, noWriteBps) {
			b.ThrottleWriteBpsDevice = nil
		}
		if missing(IOReadIOPS, len(b.ThrottleReadIOPSDevice) > 0, noReadIOPS) {
			b.ThrottleReadIOPSDevice = nil
		}
		if missing(IOWriteIOPS, len(b.ThrottleWriteIOPSDevice) > 0, noWriteIOPS) {
			b.ThrottleWriteIOPSDevice = nil
		}
		out.BlockIO = &b
	}
	return &out, warnings
}

func adaptMemory(m specs.LinuxMemory, missing func(f Feature, asked bool, warning string) bool) *specs.LinuxMemory {
	if missing(MemoryLimit, m.Limit != nil && *m.Limit > 0, noMemory) {
		m.Limit, m.Swap = nil, nil
	}
	if missing(SwapLimit, m.Limit != nil && *m.Limit > 0 && m.Swap != nil && *m.Swap > 0, noSwap) {
		m.Swap = nil
	}
	if missing(MemorySwappiness, m.Swappiness != nil, noSwappiness) {
		m.Swappiness = nil
	}
	if missing(MemoryReservation, m.Reservation != nil && *m.Reservation > 0, noSoftLimit) {
		m.Reservation = nil
	}
	if missing(KernelMemoryTCP, m.KernelTCP != nil && *m.KernelTCP > 0, noKernelTCP) {
		m.KernelTCP = nil
	}
	if missing(OOMKillDisable, m.DisableOOMKiller != nil && *m.DisableOOMKiller, noOOMDisable) {
		m.DisableOOMKiller = nil
	}
	return &m
}
