package cgroup

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// enableControllers makes every controller of the hierarchy available in the group at path, by listing it in the
// cgroup.subtree_control of each group above. It is an error when a needed one stays away; any other may.
func enableControllers(t *tree, groupPath string, needed func(controller string) bool) error {
	list, err := readLine(t.dir + groupPath + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("read the controllers of cgroup %q: %w", groupPath, err)
	}
	has := strings.Fields(list)
	for _, c := range t.controllers {
		if slices.Contains(has, c) {
			continue
		}
		if err := enableController(t, groupPath, c); err != nil && needed(c) {
			return err
		}
	}
	return nil
}

func enableController(t *tree, groupPath, controller string) error {
	var refused error
	for end := 0; end < len(groupPath); end++ {
		if groupPath[end] != '/' {
			continue
		}
		above := "/" + strings.TrimPrefix(groupPath[:end], "/")
		err := writeFile(t.dir+groupPath[:end]+"/cgroup.subtree_control", "+"+controller)
		switch {
		case err == nil:
			refused = nil
		case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
			// Above what was delegated to a user nothing is his to hand down, and somebody has done it.
			refused = fmt.Errorf("hand the %s controller of cgroup %q down: %w", controller, above, err)
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("cgroup %q has processes of its own and cannot hand the %s controller down to %q; "+
				"move them into a group of their own first: %w", above, controller, groupPath, err)
		case errors.Is(err, unix.ENOENT):
			return fmt.Errorf("cgroup %q does not have the %s controller: %w", above, controller, err)
		default:
			return fmt.Errorf("hand the %s controller of cgroup %q down: %w", controller, above, err)
		}
	}
	return refused
}

// planV2 says what to write on v2 for r, in which order. read is nil for a group that was just made.
func planV2(r *specs.LinuxResources, read reader) (s []setting, warnings []string, err error) {
	if s, warnings, err = planMemoryV2(r.Memory, read); err != nil {
		return nil, nil, err
	}
	cpu, err := planCPUV2(r.CPU, read)
	if err != nil {
		return nil, nil, err
	}
	s = append(s, cpu...)
	if r.Pids != nil && r.Pids.Limit != nil {
		s = append(s, setting{controller: "pids", file: "pids.max", value: pidsMax(*r.Pids.Limit), warning: noPids})
	}
	s = append(s, planIOV2(r.BlockIO)...)
	for device, l := range r.Rdma {
		s = append(s, setting{controller: "rdma", file: "rdma.max", value: device + rdmaValue(l)})
	}
	if n := r.Network; n != nil && (n.ClassID != nil || len(n.Priorities) > 0) {
		return nil, nil, fmt.Errorf("cgroup v2 has no network classes and priorities: %w", errdefs.ErrInvalidArgument)
	}
	if io := r.BlockIO; io != nil && (io.LeafWeight != nil && *io.LeafWeight != 0 ||
		slices.ContainsFunc(io.WeightDevice, func(d specs.LinuxWeightDevice) bool { return d.LeafWeight != nil && *d.LeafWeight != 0 })) {
		warnings = append(warnings, noLeafWeight)
	}
	names := make([]string, 0, len(r.Unified))
	for name := range r.Unified {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		controller, _, _ := strings.Cut(name, ".")
		s = append(s, setting{controller: controller, file: name, value: r.Unified[name]})
	}
	return s, warnings, nil
}

// planMemoryV2 sets swap before memory, so that memory squeezed out has the place it is going to have.
func planMemoryV2(m *specs.LinuxMemory, read reader) (s []setting, warnings []string, err error) {
	if m == nil {
		return nil, nil, nil
	}
	limit := int64(0)
	if m.Limit != nil {
		limit = *m.Limit
	}
	if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate && limit > 0 && read != nil {
		if now, err := readInt(read, "memory", "memory.current"); err == nil && now > limit {
			return nil, nil, fmt.Errorf("a memory limit of %d bytes is less than the %d bytes in use: %w", limit, now,
				errdefs.ErrInvalidArgument)
		}
	}
	swap, err := swapV2(m, limit, read)
	if err != nil {
		return nil, nil, err
	}
	if swap != "" && (swap != "max" || read != nil) { // a new group has no limit
		s = append(s, setting{controller: "memory", file: "memory.swap.max", value: swap, warning: noSwap})
	}
	if limit != 0 {
		s = append(s, setting{controller: "memory", file: "memory.max", value: minusOneIsMax(limit), warning: noMemory})
	}
	if m.Reservation != nil && *m.Reservation != 0 {
		s = append(s, setting{controller: "memory", file: "memory.low", value: minusOneIsMax(*m.Reservation),
			warning: noSoftLimit})
	}
	if m.Swappiness != nil {
		warnings = append(warnings, noSwappiness)
	}
	if m.KernelTCP != nil && *m.KernelTCP != 0 {
		warnings = append(warnings, noKernelTCP)
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		warnings = append(warnings, noOOMDisable)
	}
	return s, warnings, nil
}

// swapV2 turns a limit of memory and swap together into one of swap, "" where nothing is asked.
func swapV2(m *specs.LinuxMemory, limit int64, read reader) (string, error) {
	switch {
	case m.Swap == nil || *m.Swap == 0:
		if limit == -1 {
			return "max", nil
		}
		return "", nil
	case *m.Swap == -1:
		return "max", nil
	}
	if limit == 0 && read != nil {
		var err error
		if limit, err = readInt(read, "memory", "memory.max"); err != nil {
			return "", fmt.Errorf("read memory.max: %w", err)
		}
	}
	if limit <= 0 {
		return "", fmt.Errorf("you should always set the memory limit when using memoryswap limit: %w",
			errdefs.ErrInvalidArgument)
	}
	if *m.Swap < limit {
		return "", fmt.Errorf("minimum memoryswap limit should be larger than memory limit: %w", errdefs.ErrInvalidArgument)
	}
	return decimal(*m.Swap - limit), nil
}

func planCPUV2(c *specs.LinuxCPU, read reader) (s []setting, err error) {
	if c == nil {
		return nil, nil
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 || c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		return nil, fmt.Errorf("cgroup v2 has no realtime runtime and period: %w", errdefs.ErrInvalidArgument)
	}
	add := func(file, value, warning string) {
		s = append(s, setting{controller: "cpu", file: file, value: value, warning: warning})
	}
	if c.Idle != nil && *c.Idle == 0 {
		add("cpu.idle", "0", "")
	}
	if c.Shares != nil && *c.Shares != 0 {
		add("cpu.weight", udecimal(cpuWeight(*c.Shares)), noShares)
	}
	if c.Idle != nil && *c.Idle != 0 {
		add("cpu.idle", decimal(*c.Idle), "")
	}
	if c.Quota != nil && *c.Quota != 0 || c.Period != nil && *c.Period != 0 {
		value, err := cpuMax(c, read)
		if err != nil {
			return nil, err
		}
		add("cpu.max", value, noQuota)
	}
	if c.Burst != nil {
		add("cpu.max.burst", udecimal(*c.Burst), "")
	}
	if c.Cpus != "" {
		s = append(s, setting{controller: "cpuset", file: "cpuset.cpus", value: c.Cpus, warning: noCpuset})
	}
	if c.Mems != "" {
		s = append(s, setting{controller: "cpuset", file: "cpuset.mems", value: c.Mems, warning: noCpuset})
	}
	return s, nil
}

// cpuMax is "QUOTA PERIOD". Whichever is not asked for stays: a lone quota the kernel takes as such, but a
// period needs its quota beside it.
func cpuMax(c *specs.LinuxCPU, read reader) (string, error) {
	quota := ""
	if c.Quota != nil && *c.Quota != 0 {
		quota = positiveOrMax(*c.Quota)
	}
	if c.Period == nil || *c.Period == 0 {
		return quota, nil
	}
	if quota == "" {
		quota = "max"
		if read != nil {
			now, err := read("cpu", "cpu.max")
			if err != nil && !gone(err) {
				return "", fmt.Errorf("read cpu.max: %w", err)
			}
			if q, _, ok := strings.Cut(now, " "); ok {
				quota = q
			}
		}
	}
	return quota + " " + udecimal(*c.Period), nil
}

// cpuWeight translates shares so that both ranges' ends and both defaults (1024 and 100) meet, by the curve that
// runc and crun use; see the package comment.
func cpuWeight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// ioWeight translates a weight of 10…1000 to 1…10000.
func ioWeight(weight uint16) uint64 {
	if weight < 10 {
		return 0
	}
	return 1 + (uint64(weight)-10)*9999/990
}

func planIOV2(io *specs.LinuxBlockIO) (s []setting) {
	if io == nil {
		return nil
	}
	weight := func(device string, w *uint16, warning string) {
		if w == nil || *w == 0 {
			return
		}
		s = append(s, setting{controller: "io", file: "io.bfq.weight", value: device + udecimal(uint64(*w)), warning: warning,
			other: &setting{controller: "io", file: "io.weight", value: device + udecimal(ioWeight(*w))}})
	}
	weight("", io.Weight, noWeight)
	for _, d := range io.WeightDevice {
		weight(deviceNumber(d.Major, d.Minor)+" ", d.Weight, noWeightOfDev)
	}
	for _, l := range throttles(io) {
		for _, d := range l.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = udecimal(d.Rate)
			}
			s = append(s, setting{controller: "io", file: "io.max", warning: l.warning,
				value: deviceNumber(d.Major, d.Minor) + " " + l.v2 + "=" + rate})
		}
	}
	return s
}

func minusOneIsMax(n int64) string {
	if n == -1 {
		return "max"
	}
	return decimal(n)
}

// readInt reads a number through a plan's reader; "max" is -1.
func readInt(read reader, controller, file string) (int64, error) {
	text, err := read(controller, file)
	if err != nil {
		return 0, err
	}
	if text == "max" {
		return -1, nil
	}
	return strconv.ParseInt(text, 10, 64)
}
