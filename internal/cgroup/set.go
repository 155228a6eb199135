package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// setting is one value to be written. Resources become a list of settings first, by pure functions (planV1,
// planV2), and the list is carried out in order.
type setting struct {
	controller string
	file       string
	value      string
	// other is tried where file does not exist: kernels and I/O schedulers name the same thing differently.
	other *setting
	// warning is what Docker says where the kernel has neither file; without one that is an error.
	warning string
	// turn: when the kernel finds the value invalid, do the next setting first and then this one again. A period and
	// a quota are each valid or not in view of the other.
	turn bool
}

// reader gives a plan the present value of a control file, where the order or the value of what is to be written
// depends on it.
type reader func(controller, file string) (string, error)

// set carries out what r asks for. fresh means that the group has just been made: everything is at its default.
func (g *Group) set(r *specs.LinuxResources, fresh bool) (warnings []string, err error) {
	if err := check(r); err != nil {
		return nil, err
	}
	if c := r.CPU; g.host.strict && g.host.version == 1 && c != nil && c.Shares != nil && *c.Shares != 0 {
		const least, most = 2, 1 << 18 // to which the kernel would put it right
		if *c.Shares < least || *c.Shares > most {
			return nil, fmt.Errorf("cpu shares %d are not between %d and %d: %w", *c.Shares, least, most, errdefs.ErrInvalidArgument)
		}
	}
	read := func(controller, file string) (string, error) {
		return readLine(g.file(controller, file))
	}
	if fresh {
		read = nil
	}
	plan := planV1
	if g.host.version == 2 {
		plan = planV2
	}
	settings, warnings, err := plan(r, read)
	if err != nil {
		return warnings, fmt.Errorf("cgroup %q: %w", g.path, err)
	}
	warnings = append(warnings, bygone(r.Memory)...)
	settings = append(settings, g.planHugepages(r)...)
	for i := 0; i < len(settings); i++ {
		s := &settings[i]
		err := g.write(s)
		if s.turn && errors.Is(err, unix.EINVAL) && i+1 < len(settings) {
			if err = g.write(&settings[i+1]); err == nil {
				err = g.write(s)
				i++
			}
		}
		if gone(err) && s.warning != "" && !errors.Is(err, unix.ENODEV) && (!g.host.strict || s.nothing()) {
			if !slices.Contains(warnings, s.warning) { // one limit for several devices is still one warning
				warnings = append(warnings, s.warning)
			}
			continue
		}
		if err != nil {
			return warnings, g.explain(s, err)
		}
	}
	if fresh || len(r.Devices) > 0 {
		if err := g.setDevices(r.Devices, fresh); err != nil {
			return warnings, fmt.Errorf("set the device rules of cgroup %q: %w", g.path, err)
		}
	}
	return warnings, nil
}

// write writes s, or what stands for it on this kernel. ENOENT says that there is nothing of the kind.
func (g *Group) write(s *setting) error {
	for {
		err := unix.ENOENT
		if t := g.host.tree(s.controller); t != nil {
			werr := writeFile(g.dir(t)+"/"+s.file, s.value)
			if werr == nil {
				return nil
			}
			if !errors.As(werr, &err) {
				return werr
			}
		}
		if err != unix.ENOENT || s.other == nil {
			return err
		}
		s = s.other
	}
}

// nothing tells whether the setting limits nothing, so that a kernel without it does what was asked for.
func (s *setting) nothing() bool { return s.value == "max" || s.value == "-1" || s.value == "0" }

// explain makes a sentence of an error, with what to do about the usual ones.
func (g *Group) explain(s *setting, err error) error {
	hint := ""
	switch {
	case gone(err) && g.host.tree(s.controller) == nil:
		hint = ": the " + s.controller + " controller is not available on this host"
	case errors.Is(err, unix.ENODEV) && (s.controller == "blkio" || s.controller == "io"):
		hint = ": there is no such block device"
	case gone(err):
		hint = ": this kernel has no such limit"
	case errors.Is(err, unix.EBUSY) && s.controller == "memory":
		hint = ": the processes use more than that and not enough of it can be reclaimed"
	case errors.Is(err, unix.EINVAL) && s.file == "memory.limit_in_bytes":
		hint = ": the memory limit must be smaller than the memory and swap limit; set both"
	case errors.Is(err, unix.EINVAL) && s.file == "memory.memsw.limit_in_bytes":
		hint = ": the memory and swap limit must not be smaller than the memory limit"
	case errors.Is(err, unix.EINVAL) && s.file == "cpu.rt_runtime_us":
		hint = ": the parent cgroup must have a realtime runtime at least as large"
	}
	return fmt.Errorf("set %s of cgroup %q to %.200q: %w%s", s.file, g.path, s.value, err, hint)
}

// bygone warns of what no kernel does any more, whatever the version of its groups.
func bygone(m *specs.LinuxMemory) (warnings []string) {
	//lint:ignore SA1019 deprecated, and still asked for
	if m != nil && m.Kernel != nil && *m.Kernel > 0 {
		warnings = append(warnings, noKernelMemory)
	}
	if m != nil && m.UseHierarchy != nil && !*m.UseHierarchy {
		warnings = append(warnings, alwaysHierarchy)
	}
	return warnings
}

// check refuses values that would not be understood as meant.
func check(r *specs.LinuxResources) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if m := r.Memory; m != nil {
		for _, v := range [...]*int64{m.Limit, m.Swap, m.Reservation, m.KernelTCP} {
			if v != nil && *v < -1 {
				return bad("a memory limit of %d bytes is not possible", *v)
			}
		}
		if m.Limit != nil && m.Swap != nil && *m.Limit > 0 && *m.Swap > 0 && *m.Swap < *m.Limit {
			return bad("minimum memoryswap limit should be larger than memory limit")
		}
		if m.Swappiness != nil && *m.Swappiness > 100 {
			return bad("invalid value: %d, valid memory swappiness range is 0-100", *m.Swappiness)
		}
	}
	if io := r.BlockIO; io != nil {
		weights := []*uint16{io.Weight, io.LeafWeight}
		for _, d := range io.WeightDevice {
			weights = append(weights, d.Weight, d.LeafWeight)
		}
		for _, w := range weights {
			if w != nil && *w != 0 && (*w < 10 || *w > 1000) {
				return bad("range of blkio weight is from 10 to 1000")
			}
		}
	}
	for _, l := range r.HugepageLimits {
		if !validPagesize(l.Pagesize) {
			return bad("huge page size %q is not a number with KB, MB or GB", l.Pagesize)
		}
	}
	for name := range r.Unified {
		if !validFile(name) {
			return bad("unified resource %q is not the name of a control file", name)
		}
	}
	return nil
}

func validPagesize(s string) bool {
	n := len(s)
	if n < 3 || s[n-1] != 'B' || s[n-2] != 'K' && s[n-2] != 'M' && s[n-2] != 'G' {
		return false
	}
	_, err := strconv.ParseUint(s[:n-2], 10, 32)
	return err == nil
}

// validFile accepts "memory.high", not a path and not one of the files that run the group itself.
func validFile(name string) bool {
	dot := false
	for _, c := range []byte(name) {
		if c == '.' {
			dot = true
		} else if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			return false
		}
	}
	return dot && name[0] != '.' && (len(name) < 7 || name[:7] != "cgroup.")
}

// asks reports whether r has a limit that needs the controller.
func asks(r *specs.LinuxResources, controller string) bool {
	switch controller {
	case "memory":
		return r.Memory != nil
	case "cpu":
		c := r.CPU
		return c != nil && (c.Shares != nil || c.Quota != nil || c.Period != nil || c.Burst != nil || c.Idle != nil ||
			c.RealtimeRuntime != nil || c.RealtimePeriod != nil)
	case "cpuset":
		return r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "")
	case "pids":
		return r.Pids != nil
	case "io", "blkio":
		return r.BlockIO != nil
	case "hugetlb":
		return len(r.HugepageLimits) > 0
	case "rdma":
		return len(r.Rdma) > 0
	}
	for name := range r.Unified {
		if len(name) > len(controller) && name[:len(controller)] == controller && name[len(controller)] == '.' {
			return true
		}
	}
	return false
}

// planHugepages serves both versions: on a hybrid host hugetlb may be in either hierarchy.
func (g *Group) planHugepages(r *specs.LinuxResources) (s []setting) {
	file := func(size, what string) string { return "hugetlb." + size + "." + what }
	for _, l := range r.HugepageLimits {
		value, limit, reserved := strconv.FormatUint(l.Limit, 10), "limit_in_bytes", "rsvd.limit_in_bytes"
		if t := g.host.tree("hugetlb"); t != nil && t.v2 {
			limit, reserved = "max", "rsvd.max"
		}
		// The reservation is what counts when a program maps pages; kernels before 5.7 have only the limit.
		s = append(s, setting{controller: "hugetlb", file: file(l.Pagesize, reserved), value: value,
			other: &setting{controller: "hugetlb", file: file(l.Pagesize, limit), value: value}},
			setting{controller: "hugetlb", file: file(l.Pagesize, limit), value: value})
	}
	return s
}

func rdmaValue(l specs.LinuxRdma) string {
	var v string
	if l.HcaHandles != nil {
		v += " hca_handle=" + strconv.FormatUint(uint64(*l.HcaHandles), 10)
	}
	if l.HcaObjects != nil {
		v += " hca_object=" + strconv.FormatUint(uint64(*l.HcaObjects), 10)
	}
	return v
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

func udecimal(n uint64) string { return strconv.FormatUint(n, 10) }

func deviceNumber(major, minor int64) string { return decimal(major) + ":" + decimal(minor) }
