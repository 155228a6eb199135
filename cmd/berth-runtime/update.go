package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/sdbus"
	"github.com/berth-engine/berth/internal/specjson"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// update changes limits, by a JSON document or by flags.
func update(c *cli, args []string) error {
	f := newFlags("berth-runtime update", "[FLAGS] ID")
	var file, l3, bandwidth, kernel, kernelTCP string
	f.both(&file, "resources", "r", "", "file with the resources as JSON, - for standard input; wins over the flags")
	limits := updateLimits()
	values := make([]string, len(limits))
	for i, l := range limits {
		f.StringVar(&values[i], l.flag, "", l.help)
	}
	f.StringVar(&kernel, "kernel-memory", "", "without effect: kernels have no such limit any more")
	f.StringVar(&kernelTCP, "kernel-memory-tcp", "", "without effect: kernels have no such limit any more")
	f.StringVar(&l3, "l3-cache-schema", "", "what the container's class of Intel RDT has of the cache, as L3:0=f")
	f.StringVar(&bandwidth, "mem-bw-schema", "", "what it has of memory bandwidth, as MB:0=50")
	id, err := f.id(args, 1)
	if err != nil {
		return err
	}
	st, dir, err := c.load(id)
	if err != nil {
		return err
	}
	var r *resources
	if file != "" {
		r, err = readResources(file)
	} else {
		r, err = givenLimits(limits, values)
	}
	if err != nil {
		return err
	}
	if s := status(st); s == specs.StateStopped {
		return fmt.Errorf("container not running: cannot update a stopped container: %w", errdefs.ErrFailedPrecondition)
	}
	if kernel != "" || kernelTCP != "" {
		c.warn([]string{"kernel memory settings are ignored: kernels have no such limit any more"})
	}
	if l3 != "" || bandwidth != "" {
		if err := st.Rdt.Update(&specs.LinuxIntelRdt{L3CacheSchema: l3, MemBwSchema: bandwidth}); err != nil {
			return fmt.Errorf("container %q: %w", id, err)
		}
		if file == "" && !slices.ContainsFunc(values, func(v string) bool { return v != "" }) {
			return nil
		}
	}
	g, err := group(st)
	if err != nil {
		return err
	}
	unit, err := unitOf(dir)
	if err != nil {
		return err
	}
	var warnings []string
	if unit == "" {
		warnings, err = g.Update(r)
	} else {
		err = systemd(func(s *sdbus.Conn) (err error) {
			warnings, err = g.UpdateScope(s, unit, r)
			return err
		})
	}
	c.warn(warnings)
	return err
}

type resources = specs.LinuxResources

// limit is a flag of update and what it changes.
type limit struct {
	flag, help string
	set        func(r *resources, value string) error
}

// updateLimits is the table of update's limits. Units are those of the OCI runtime specification, except that a size may have a
// unit of its own, as "64m".
func updateLimits() []limit {
	return []limit{
		{"blkio-weight", "weight of block I/O, 10 to 1000", func(r *resources, v string) error {
			n, err := strconv.ParseUint(v, 10, 16)
			w := uint16(n)
			r.BlockIO.Weight = &w
			return err
		}},
		{"cpu-period", "period of the quota, in µs", unsigned(func(r *resources) **uint64 { return &r.CPU.Period })},
		{"cpu-quota", "processor time in each period, in µs", signed(func(r *resources) **int64 { return &r.CPU.Quota })},
		{"cpu-burst", "processor time that can be saved up, in µs", unsigned(func(r *resources) **uint64 { return &r.CPU.Burst })},
		{"cpu-share", "weight of processor time", unsigned(func(r *resources) **uint64 { return &r.CPU.Shares })},
		{"cpu-rt-period", "period of the realtime runtime, in µs",
			unsigned(func(r *resources) **uint64 { return &r.CPU.RealtimePeriod })},
		{"cpu-rt-runtime", "realtime in each period, in µs",
			signed(func(r *resources) **int64 { return &r.CPU.RealtimeRuntime })},
		{"cpu-idle", "1: run only when nobody else wants to", signed(func(r *resources) **int64 { return &r.CPU.Idle })},
		{"cpuset-cpus", "processors, as 0-2,7", func(r *resources, v string) error { r.CPU.Cpus = v; return nil }},
		{"cpuset-mems", "memory nodes, as 0,1", func(r *resources, v string) error { r.CPU.Mems = v; return nil }},
		{"memory", "limit of memory, -1 for none", size(func(r *resources) **int64 { return &r.Memory.Limit })},
		{"memory-reservation", "memory left alone when it is scarce",
			size(func(r *resources) **int64 { return &r.Memory.Reservation })},
		{"memory-swap", "limit of memory and swap together, -1 for none", size(func(r *resources) **int64 { return &r.Memory.Swap })},
		{"pids-limit", "limit of processes and threads, -1 for none", func(r *resources, v string) error {
			n, err := strconv.ParseInt(v, 10, 64)
			r.Pids = &specs.LinuxPids{Limit: &n}
			return err
		}},
	}
}

func unsigned(field func(*resources) **uint64) func(*resources, string) error {
	return func(r *resources, v string) error {
		n, err := strconv.ParseUint(v, 10, 64)
		*field(r) = &n
		return err
	}
}

func signed(field func(*resources) **int64) func(*resources, string) error {
	return func(r *resources, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		*field(r) = &n
		return err
	}
}

func size(field func(*resources) **int64) func(*resources, string) error {
	return func(r *resources, v string) error {
		n := int64(-1)
		var err error
		if v != "-1" {
			n, err = units.RAMInBytes(v)
		}
		*field(r) = &n
		return err
	}
}

// givenLimits are the resources that the flags ask for: those without a value ask for nothing.
func givenLimits(limits []limit, values []string) (*resources, error) {
	r := &resources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}, BlockIO: &specs.LinuxBlockIO{}}
	for i, l := range limits {
		if values[i] == "" {
			continue
		}
		if err := l.set(r, values[i]); err != nil {
			return nil, invalid("--%s %q cannot be understood: %v", l.flag, values[i], err)
		}
	}
	return r, nil
}

// readResources reads the resources from a file, - for standard input.
func readResources(file string) (*resources, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(os.Stdin, linux.MostRead))
	} else {
		data, err = linux.ReadFile(file)
	}
	if err != nil {
		return nil, err
	}
	r := &resources{}
	if err := specjson.Unmarshal(data, r); err != nil {
		return nil, invalid("resources cannot be understood: %v", err)
	}
	return r, nil
}
