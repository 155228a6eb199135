package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/sdbus"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// StartScope has systemd make the group: a transient scope in slice ("" is system.slice), with pid as its first process, which
// keeps it until another has joined, and with the limits of r. What systemd has a property for it is told, so that it never sets
// anything else; then every limit is written as Create writes it, of which some have no property. The group is handed over
// (Delegate=), so that systemd leaves alone what is below it. After an error the scope ends with its process.
//
// Errors are those of Create and of sdbus; errdefs.ErrFailedPrecondition on a host that is not of version 2 throughout.
func (h *Host) StartScope(c *sdbus.Conn, unit, slice string, pid int, r *specs.LinuxResources) (*Group, []string, error) {
	if h.version != 2 {
		return nil, nil, fmt.Errorf("systemd makes groups for containers on hosts with cgroup version 2 alone, and this one has "+
			"version 1; boot it with systemd.unified_cgroup_hierarchy=1 or leave --systemd-cgroup out: %w", errdefs.ErrFailedPrecondition)
	}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	if slice == "" {
		slice = "system.slice"
	}
	limits, err := unitProperties(r, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("unit %q: %w", unit, err)
	}
	err = c.Start(unit, append([]sdbus.Property{
		{Name: "Description", Value: "container " + strings.TrimSuffix(unit, ".scope")},
		{Name: "Slice", Value: slice},
		{Name: "PIDs", Value: []uint32{uint32(pid)}},
		{Name: "Delegate", Value: true},
		{Name: "DefaultDependencies", Value: false},
		{Name: "CollectMode", Value: "inactive-or-failed"},
	}, limits...))
	if err != nil {
		return nil, nil, err
	}
	line, err := readLine("/proc/" + decimal(int64(pid)) + "/cgroup")
	if err != nil {
		return nil, nil, fmt.Errorf("find the cgroup of unit %q: %w", unit, err)
	}
	name, ok := strings.CutPrefix(line, "0::")
	if !ok || path.Base(name) != unit || path.Clean(name) != name || !path.IsAbs(name) {
		return nil, nil, fmt.Errorf("systemd put process %d into cgroup %q, which is not that of unit %q", pid, line, unit)
	}
	g := h.Open(name)
	warnings, err := g.set(r, true)
	return g, warnings, err
}

// UpdateScope is Update for a group that StartScope made.
func (g *Group) UpdateScope(c *sdbus.Conn, unit string, r *specs.LinuxResources) (warnings []string, err error) {
	limits, err := unitProperties(r, func(controller, file string) (string, error) {
		return readLine(g.file(controller, file))
	})
	if err != nil {
		return nil, fmt.Errorf("unit %q: %w", unit, err)
	}
	if err := c.Set(unit, limits); err != nil {
		return nil, err
	}
	return g.Update(r)
}

// unitProperties are the limits for which systemd has properties (systemd.resource-control(5)), read off the settings that would be
// written. read is nil for a new group.
func unitProperties(r *specs.LinuxResources, read reader) (p []sdbus.Property, err error) {
	if err := check(r); err != nil {
		return nil, err
	}
	settings, _, err := planV2(r, read)
	if err != nil {
		return nil, err
	}
	names := map[string]string{"memory.max": "MemoryMax", "memory.swap.max": "MemorySwapMax", "memory.low": "MemoryLow",
		"memory.high": "MemoryHigh", "memory.min": "MemoryMin", "cpu.weight": "CPUWeight", "pids.max": "TasksMax",
		"io.weight": "IOWeight", "cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}
	at := map[string]int{} // a later setting of the same file wins
	add := func(name string, value any) {
		if i, ok := at[name]; ok {
			p[i].Value = value
			return
		}
		at[name] = len(p)
		p = append(p, sdbus.Property{Name: name, Value: value})
	}
	for _, s := range settings {
		if s.file == "io.bfq.weight" && s.other != nil {
			s = *s.other
		}
		name := names[s.file]
		switch {
		case s.file == "cpu.max":
			quota, period, err := unitQuota(s.value, read)
			if err != nil {
				return nil, fmt.Errorf("%s of %q: %w", s.file, s.value, err)
			}
			add("CPUQuotaPerSecUSec", quota)
			add("CPUQuotaPeriodUSec", period)
		case name == "" || s.controller == "io" && strings.ContainsAny(s.value, " :"): // no property, or a device's own weight
		case s.controller == "cpuset":
			bits, err := cpuBits(s.value)
			if err != nil {
				return nil, fmt.Errorf("cpuset %q: %w: %w", s.value, err, errdefs.ErrInvalidArgument)
			}
			add(name, bits)
		default:
			n, err := unitNumber(s.value)
			if err != nil {
				return nil, fmt.Errorf("%s of %q: %w: %w", s.file, s.value, err, errdefs.ErrInvalidArgument)
			}
			add(name, n)
		}
	}
	return p, nil
}

// unitNumber reads a value; systemd's infinity is the largest number.
func unitNumber(value string) (uint64, error) {
	if value == "max" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(value, 10, 64)
}

// unitQuota turns "QUOTA [PERIOD]" into processor time for each second, and the period. Where the period is not given it is that which
// the group has, 100 ms for a new one.
func unitQuota(value string, read reader) (quota, period uint64, err error) {
	q, p, given := strings.Cut(value, " ")
	if !given {
		p = "100000"
		if read != nil {
			now, err := read("cpu", "cpu.max")
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return 0, 0, err
			}
			if _, was, ok := strings.Cut(now, " "); ok {
				p = was
			}
		}
	}
	if period, err = strconv.ParseUint(p, 10, 32); err != nil || period == 0 {
		return 0, 0, fmt.Errorf("%q is not a period: %w", p, errdefs.ErrInvalidArgument)
	}
	if quota, err = unitNumber(q); err != nil || quota == math.MaxUint64 {
		return quota, period, err
	}
	if quota > math.MaxUint64/2_000_000 {
		return 0, 0, fmt.Errorf("%d is too large a quota: %w", quota, errdefs.ErrInvalidArgument)
	}
	return (quota*1_000_000 + period - 1) / period, period, nil
}

// cpuBits is a list as systemd takes it: bit n%8 of byte n/8 for number n.
func cpuBits(list string) ([]byte, error) {
	ranges, err := parseCPUList(list)
	if err != nil {
		return nil, err
	}
	var bits []byte
	for _, r := range ranges {
		for n := r.first; n <= r.last; n++ {
			for uint64(len(bits)) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	return bits, nil
}
