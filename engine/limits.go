package engine

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowedDevices is what every container may use: it may make any node (mknod is a capability of its own) but open only
// the harmless ones. Docker's list.
var allowedDevices = [...]struct {
	kind         string
	major, minor int64
	access       string
}{
	{"c", -1, -1, "m"}, {"b", -1, -1, "m"},
	{"c", 1, 3, "rwm"}, {"c", 1, 5, "rwm"}, {"c", 1, 7, "rwm"}, {"c", 1, 8, "rwm"}, {"c", 1, 9, "rwm"}, // null zero full random urandom
	{"c", 5, 0, "rwm"}, {"c", 5, 1, "rwm"}, {"c", 5, 2, "rwm"}, {"c", 136, -1, "rwm"}, // tty console ptmx pts
}

// resources turns limits into the OCI spec's (runtime-spec config-linux.md, "Control groups").
func resources(cfg container.Config, in specInput) *specs.LinuxResources {
	r := limitResources(cfg.Limits)
	if cfg.Security.Privileged {
		r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		return r
	}
	r.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range allowedDevices {
		r.Devices = append(r.Devices, deviceRule(d.kind, d.major, d.minor, d.access))
	}
	for _, d := range in.Devices {
		r.Devices = append(r.Devices, deviceRule(d.Type, d.Major, d.Minor, d.Access))
	}
	for _, text := range cfg.Limits.DeviceRules {
		if rule, err := parseDeviceRule(text); err == nil { // checked at create
			r.Devices = append(r.Devices, rule)
		}
	}
	return r
}

func deviceRule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	rule := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	if major >= 0 {
		rule.Major = &major
	}
	if minor >= 0 {
		rule.Minor = &minor
	}
	return rule
}

// limitResources leaves out what is not set, so that it serves updates as well.
func limitResources(l container.Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{}
	mem := specs.LinuxMemory{}
	setIf(&mem.Limit, l.Memory, l.Memory != 0)
	setIf(&mem.Swap, l.MemorySwap, l.MemorySwap != 0)
	setIf(&mem.Reservation, l.MemoryReservation, l.MemoryReservation != 0)
	if l.MemorySwappiness != nil && *l.MemorySwappiness >= 0 {
		v := uint64(*l.MemorySwappiness)
		mem.Swappiness = &v
	}
	setIf(&mem.DisableOOMKiller, true, l.OomKillDisable)
	if mem != (specs.LinuxMemory{}) {
		r.Memory = &mem
	}

	cpu := specs.LinuxCPU{Cpus: l.CpusetCpus, Mems: l.CpusetMems}
	setIf(&cpu.Shares, uint64(l.CPUShares), l.CPUShares != 0)
	quota, period := l.CPUQuota, uint64(l.CPUPeriod)
	if l.NanoCPUs > 0 {
		period = 100_000
		quota = l.NanoCPUs * int64(period) / 1e9
	}
	setIf(&cpu.Quota, quota, quota != 0)
	setIf(&cpu.Period, period, period != 0)
	setIf(&cpu.RealtimePeriod, uint64(l.CPURtPeriod), l.CPURtPeriod != 0)
	setIf(&cpu.RealtimeRuntime, l.CPURtRuntime, l.CPURtRuntime != 0)
	if cpu != (specs.LinuxCPU{}) {
		r.CPU = &cpu
	}

	if l.PidsLimit != nil {
		limit := *l.PidsLimit
		if limit <= 0 {
			limit = -1
		}
		r.Pids = &specs.LinuxPids{Limit: &limit}
	}

	io := specs.LinuxBlockIO{}
	if l.BlkioWeight != 0 {
		w := l.BlkioWeight
		io.Weight = &w
	}
	for _, d := range l.BlkioWeightDevice {
		if major, minor, err := blockDevice(d.Path); err == nil {
			w := uint16(d.Rate)
			dev := specs.LinuxWeightDevice{Weight: &w}
			dev.Major, dev.Minor = major, minor
			io.WeightDevice = append(io.WeightDevice, dev)
		}
	}
	for _, t := range []struct {
		from []container.Rate
		to   *[]specs.LinuxThrottleDevice
	}{
		{l.ReadBps, &io.ThrottleReadBpsDevice}, {l.WriteBps, &io.ThrottleWriteBpsDevice},
		{l.ReadIOps, &io.ThrottleReadIOPSDevice}, {l.WriteIOps, &io.ThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			if major, minor, err := blockDevice(d.Path); err == nil { // checked at create
				dev := specs.LinuxThrottleDevice{Rate: d.Rate}
				dev.Major, dev.Minor = major, minor
				*t.to = append(*t.to, dev)
			}
		}
	}
	if io.Weight != nil || io.WeightDevice != nil || io.ThrottleReadBpsDevice != nil || io.ThrottleWriteBpsDevice != nil ||
		io.ThrottleReadIOPSDevice != nil || io.ThrottleWriteIOPSDevice != nil {
		r.BlockIO = &io
	}
	return r
}

func setIf[T any](to **T, v T, set bool) {
	if set {
		*to = &v
	}
}

func blockDevice(p string) (major, minor int64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return 0, 0, fmt.Errorf("device %q: %w", p, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("device %q is not a block device%w", p, kind{errdefs.ErrInvalidArgument})
	}
	return int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev)), nil
}

// parseDeviceRule reads "c 42:* rmw".
func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	bad := func() (specs.LinuxDeviceCgroup, error) {
		return specs.LinuxDeviceCgroup{}, fmt.Errorf("invalid device cgroup rule format: '%s'%w", text, kind{errdefs.ErrInvalidArgument})
	}
	f := strings.Fields(text)
	if len(f) != 3 || len(f[0]) != 1 || !strings.Contains("acb", f[0]) {
		return bad()
	}
	majorText, minorText, ok := strings.Cut(f[1], ":")
	if !ok || strings.Trim(f[2], "rwm") != "" || len(f[2]) > 3 {
		return bad()
	}
	number := func(s string) (int64, bool) {
		if s == "*" {
			return -1, true
		}
		n, err := strconv.ParseInt(s, 10, 32)
		return n, err == nil && n >= 0
	}
	major, ok1 := number(majorText)
	minor, ok2 := number(minorText)
	if !ok1 || !ok2 {
		return bad()
	}
	return deviceRule(f[0], major, minor, f[2]), nil
}

// resolveDevices finds the nodes behind --device; a directory stands for every device below it.
func resolveDevices(asked []container.Device) ([]hostDevice, error) {
	var out []hostDevice
	for _, d := range asked {
		real, err := filepath.EvalSymlinks(d.Host)
		if err != nil {
			return nil, fmt.Errorf("error gathering device information while adding custom device %q: no such file or directory%w",
				d.Host, kind{errdefs.ErrInvalidArgument})
		}
		inside, access := d.Container, d.Permissions
		if inside == "" {
			inside = d.Host
		}
		if access == "" {
			access = "rwm"
		}
		st, err := os.Stat(real)
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", d.Host, err)
		}
		if !st.IsDir() {
			dev, err := hostNode(real, inside, access)
			if err != nil {
				return nil, err
			}
			out = append(out, dev)
			continue
		}
		err = filepath.WalkDir(real, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.Type()&fs.ModeDevice == 0 {
				return err
			}
			rel, err := filepath.Rel(real, p)
			if err != nil {
				return err
			}
			dev, err := hostNode(p, filepath.Join(inside, rel), access)
			if err == nil {
				out = append(out, dev)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for devices below %q: %w", d.Host, err)
		}
	}
	return out, nil
}

func hostNode(p, inside, access string) (hostDevice, error) {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return hostDevice{}, fmt.Errorf("device %q: %w", p, err)
	}
	dev := hostDevice{Path: inside, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid, Access: access}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		dev.Type = "c"
	case unix.S_IFBLK:
		dev.Type = "b"
	default:
		return dev, fmt.Errorf("%q is not a device node%w", p, kind{errdefs.ErrInvalidArgument})
	}
	return dev, nil
}

// hostDevices is every device of the host, for --privileged; ptys, shared memory and the like are the container's own.
func hostDevices() ([]hostDevice, error) {
	var out []hostDevice
	err := filepath.WalkDir("/dev", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		if e.IsDir() {
			switch p {
			case "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/.lxc", "/dev/.udev":
				return filepath.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 || p == "/dev/console" || p == "/dev/ptmx" {
			return nil
		}
		dev, err := hostNode(p, p, "rwm")
		if err == nil {
			out = append(out, dev)
		}
		return nil // a device may go while we look
	})
	return out, err
}

func fileMode(mode uint32) fs.FileMode { return fs.FileMode(mode & 0o777) }
