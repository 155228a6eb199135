package cgroup

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// planV1 says what to write on v1 for r, in which order. read is nil for a group that was just made.
func planV1(r *specs.LinuxResources, read reader) (s []setting, warnings []string, err error) {
	if len(r.Unified) > 0 {
		return nil, nil, fmt.Errorf("unified resources need cgroup v2: %w", errdefs.ErrInvalidArgument)
	}
	if s, err = planMemoryV1(r.Memory, read); err != nil {
		return nil, nil, err
	}
	s = append(s, planCPUV1(r.CPU)...)
	if r.Pids != nil && r.Pids.Limit != nil {
		s = append(s, setting{controller: "pids", file: "pids.max", value: pidsMax(*r.Pids.Limit), warning: noPids})
	}
	s = append(s, planBlockIOV1(r.BlockIO)...)
	for device, l := range r.Rdma {
		s = append(s, setting{controller: "rdma", file: "rdma.max", value: device + rdmaValue(l)})
	}
	if n := r.Network; n != nil {
		if n.ClassID != nil {
			s = append(s, setting{controller: "net_cls", file: "net_cls.classid", value: udecimal(uint64(*n.ClassID))})
		}
		for _, p := range n.Priorities {
			s = append(s, setting{controller: "net_prio", file: "net_prio.ifpriomap",
				value: p.Name + " " + udecimal(uint64(p.Priority))})
		}
	}
	return s, nil, nil
}

// planMemoryV1 orders the two limits so that memory ≤ memory+swap holds after each write, which the kernel insists
// on: growing starts with memory+swap, shrinking with memory. A new group has no limits, so there everything shrinks.
func planMemoryV1(m *specs.LinuxMemory, read reader) (s []setting, err error) {
	if m == nil {
		return nil, nil
	}
	var limit, swap []setting
	if m.Limit != nil && *m.Limit != 0 {
		limit = []setting{{controller: "memory", file: "memory.limit_in_bytes", value: decimal(*m.Limit), warning: noMemory}}
	}
	total := int64(0)
	if m.Swap != nil {
		total = *m.Swap
	}
	if total == 0 && m.Limit != nil && *m.Limit == -1 {
		total = -1 // no memory limit leaves nothing for a limit of both to mean
	}
	if total != 0 && (total != -1 || read != nil) {
		swap = []setting{{controller: "memory", file: "memory.memsw.limit_in_bytes", value: decimal(total), warning: noSwap}}
	}
	grow := false
	if read != nil && limit != nil && swap != nil {
		now, err := read("memory", "memory.memsw.limit_in_bytes")
		if err == nil {
			n, perr := strconv.ParseInt(now, 10, 64)
			grow, err = total == -1 || total > n, perr
		}
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("read memory.memsw.limit_in_bytes: %w", err)
		}
	}
	if grow {
		s = append(swap, limit...)
	} else {
		s = append(limit, swap...)
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		s = append(s, setting{controller: "memory", file: "memory.soft_limit_in_bytes", value: decimal(*m.Reservation),
			warning: noSoftLimit})
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		s = append(s, setting{controller: "memory", file: "memory.kmem.tcp.limit_in_bytes", value: decimal(*m.KernelTCP),
			warning: noKernelTCP})
	}
	if m.Swappiness != nil {
		s = append(s, setting{controller: "memory", file: "memory.swappiness", value: udecimal(*m.Swappiness),
			warning: noSwappiness})
	}
	if d := m.DisableOOMKiller; d != nil && (*d || read != nil) {
		o := setting{controller: "memory", file: "memory.oom_control", value: "0"}
		if *d {
			o.value, o.warning = "1", noOOMDisable
		}
		s = append(s, o)
	}
	return s, nil
}

func planCPUV1(c *specs.LinuxCPU) (s []setting) {
	if c == nil {
		return nil
	}
	add := func(file, value, warning string) {
		s = append(s, setting{controller: "cpu", file: file, value: value, warning: warning})
	}
	// An idle group takes no shares, so it stops being idle first and becomes idle last.
	if c.Idle != nil && *c.Idle == 0 {
		add("cpu.idle", "0", "")
	}
	if c.Shares != nil && *c.Shares != 0 {
		add("cpu.shares", udecimal(*c.Shares), noShares)
	}
	if c.Idle != nil && *c.Idle != 0 {
		add("cpu.idle", decimal(*c.Idle), "")
	}
	if c.Period != nil && *c.Period != 0 {
		add("cpu.cfs_period_us", udecimal(*c.Period), noQuota)
		s[len(s)-1].turn = c.Quota != nil && *c.Quota != 0
	}
	if c.Quota != nil && *c.Quota != 0 {
		add("cpu.cfs_quota_us", decimal(*c.Quota), noQuota)
	}
	if c.Burst != nil {
		add("cpu.cfs_burst_us", udecimal(*c.Burst), "")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		add("cpu.rt_period_us", udecimal(*c.RealtimePeriod), "")
		s[len(s)-1].turn = c.RealtimeRuntime != nil
	}
	if c.RealtimeRuntime != nil && (*c.RealtimeRuntime != 0 || c.RealtimePeriod != nil) {
		add("cpu.rt_runtime_us", decimal(*c.RealtimeRuntime), "")
	}
	if c.Cpus != "" {
		s = append(s, setting{controller: "cpuset", file: "cpuset.cpus", value: c.Cpus, warning: noCpuset})
	}
	if c.Mems != "" {
		s = append(s, setting{controller: "cpuset", file: "cpuset.mems", value: c.Mems, warning: noCpuset})
	}
	return s
}

// planBlockIOV1 names both schedulers that have weights: CFQ of old kernels, and BFQ.
func planBlockIOV1(io *specs.LinuxBlockIO) (s []setting) {
	if io == nil {
		return nil
	}
	weight := func(file, value, warning string) {
		s = append(s, setting{controller: "blkio", file: "blkio." + file, value: value, warning: warning,
			other: &setting{controller: "blkio", file: "blkio.bfq." + file, value: value}})
	}
	if io.Weight != nil && *io.Weight != 0 {
		weight("weight", udecimal(uint64(*io.Weight)), noWeight)
	}
	if io.LeafWeight != nil && *io.LeafWeight != 0 {
		weight("leaf_weight", udecimal(uint64(*io.LeafWeight)), noWeight)
	}
	for _, d := range io.WeightDevice {
		dev := deviceNumber(d.Major, d.Minor) + " "
		if d.Weight != nil {
			weight("weight_device", dev+udecimal(uint64(*d.Weight)), noWeightOfDev)
		}
		if d.LeafWeight != nil {
			weight("leaf_weight_device", dev+udecimal(uint64(*d.LeafWeight)), noWeightOfDev)
		}
	}
	for _, l := range throttles(io) {
		for _, d := range l.devices {
			s = append(s, setting{controller: "blkio", file: "blkio.throttle." + l.v1 + "_device",
				value: deviceNumber(d.Major, d.Minor) + " " + udecimal(d.Rate), warning: l.warning})
		}
	}
	return s
}

type throttle struct {
	v1, v2, warning string
	devices         []specs.LinuxThrottleDevice
}

func throttles(io *specs.LinuxBlockIO) [4]throttle {
	return [...]throttle{
		{"read_bps", "rbps", noReadBps, io.ThrottleReadBpsDevice},
		{"write_bps", "wbps", noWriteBps, io.ThrottleWriteBpsDevice},
		{"read_iops", "riops", noReadIOPS, io.ThrottleReadIOPSDevice},
		{"write_iops", "wiops", noWriteIOPS, io.ThrottleWriteIOPSDevice},
	}
}

// pidsMax is the limit of a count of processes. None at all (0) becomes the one that is there: it can be no other's parent, which is as
// much, and systemd knows no limit of 0.
func pidsMax(n int64) string {
	if n == 0 {
		n = 1
	}
	return positiveOrMax(n)
}

// positiveOrMax is how a count is written that is unlimited at zero and below.
func positiveOrMax(n int64) string {
	if n <= 0 {
		return "max"
	}
	return decimal(n)
}
