package dockerapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"
)

// createRequest is the body of POST /containers/create as every version sends it.
type createRequest struct {
	*api.Config
	// Docker takes one string for a command line of one word; these two win over those of Config.
	Cmd        words
	Entrypoint words
	// MacAddress was container-wide until 1.43.
	MacAddress       string
	HostConfig       *api.HostConfig
	NetworkingConfig *network.NetworkingConfig

	// readOnlyNonRecursive keeps submounts of read-only binds writable, as before 1.44.
	readOnlyNonRecursive bool
}

// words is a list of strings that may come as a single string.
type words []string

// UnmarshalJSON reads either form.
func (w *words) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var one string
		if err := json.Unmarshal(data, &one); err != nil {
			return err
		}
		*w = words{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(w))
}

// decodeCreate reads a create body and brings it up to the newest version.
func decodeCreate(data []byte, v version) (*createRequest, []string, error) {
	var q createRequest
	if err := decodeJSON(data, &q); err != nil {
		return nil, nil, err
	}
	if q.Config == nil {
		if q.Cmd == nil && q.Entrypoint == nil {
			return nil, nil, invalid("config cannot be empty in order to create a container")
		}
		q.Config = &api.Config{}
	}
	if q.HostConfig == nil {
		q.HostConfig = &api.HostConfig{}
	}
	if q.NetworkingConfig == nil {
		q.NetworkingConfig = &network.NetworkingConfig{}
	}
	endpoints := map[string]*network.EndpointSettings{}
	for name, e := range q.NetworkingConfig.EndpointsConfig {
		if e == nil { // what docker-py sends for "just join it"
			e = &network.EndpointSettings{}
		}
		endpoints[name] = e
	}
	hc := q.HostConfig
	if hc.NetworkMode == "" || hc.NetworkMode.IsDefault() {
		hc.NetworkMode = network.NetworkBridge
	}
	if e, ok := endpoints[network.NetworkDefault]; ok {
		delete(endpoints, network.NetworkDefault)
		endpoints[network.NetworkBridge] = e
	}
	q.NetworkingConfig.EndpointsConfig = endpoints
	warnings, err := upgradeCreate(&q, v)
	return &q, warnings, err
}

// config translates the request into the engine's own shape and refuses what is contradictory or not implemented. It
// touches nothing but its arguments.
func (q *createRequest) config(defaultInit bool) (container.Config, []string, error) {
	hc := q.HostConfig
	c := container.Config{
		Image:       q.Image,
		Hostname:    q.Hostname,
		Domain:      q.Domainname,
		Labels:      q.Labels,
		StopSignal:  q.StopSignal,
		StopTimeout: q.StopTimeout,
		AutoRemove:  hc.AutoRemove,
		Init:        defaultInit,
		ReadOnly:    hc.ReadonlyRootfs,
		ShmSize:     hc.ShmSize,
		CIDFile:     hc.ContainerIDFile,
		VolumesFrom: hc.VolumesFrom,
		Restart:     container.Restart{Name: string(hc.RestartPolicy.Name), MaxRetries: hc.RestartPolicy.MaximumRetryCount},
		Log:         container.Log{Driver: hc.LogConfig.Type, Options: hc.LogConfig.Config},
		Process: container.Process{
			Entrypoint:   q.Entrypoint,
			Cmd:          q.Cmd,
			Env:          q.Env,
			WorkingDir:   q.WorkingDir,
			User:         q.User,
			Tty:          q.Tty,
			OpenStdin:    q.OpenStdin,
			StdinOnce:    q.StdinOnce,
			AttachStdin:  q.AttachStdin,
			AttachStdout: q.AttachStdout,
			AttachStderr: q.AttachStderr,
			ConsoleRows:  hc.ConsoleSize[0],
			ConsoleCols:  hc.ConsoleSize[1],
			GroupAdd:     hc.GroupAdd,
		},
		Extra: container.Passthrough{OnBuild: q.OnBuild, Shell: q.Shell, Annotations: hc.Annotations, StorageOpt: hc.StorageOpt},
	}
	if hc.Init != nil {
		c.Init = *hc.Init
	}
	if h := q.Healthcheck; h != nil {
		c.Health = &container.Health{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
			StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	var warnings []string
	for _, step := range []func(*container.Config) ([]string, error){
		q.checkProcess, q.checkUnsupported, q.limits, q.security, q.mounts, q.network,
	} {
		w, err := step(&c)
		if err != nil {
			return c, nil, err
		}
		warnings = append(warnings, w...)
	}
	return c, warnings, nil
}

// checkProcess refuses contradictions among the plain fields.
func (q *createRequest) checkProcess(c *container.Config) ([]string, error) {
	hc := q.HostConfig
	if wd := c.Process.WorkingDir; wd != "" {
		if !path.IsAbs(wd) {
			return nil, invalid("the working directory '%s' is invalid, it needs to be an absolute path", wd)
		}
		c.Process.WorkingDir = path.Clean(wd)
	}
	if c.StopSignal != "" {
		if _, err := signal.ParseSignal(c.StopSignal); err != nil {
			return nil, invalid("%w", err)
		}
	}
	for _, e := range c.Process.Env {
		if name, _, _ := strings.Cut(e, "="); name == "" {
			return nil, invalid("invalid environment variable: %s", e)
		}
	}
	for _, name := range []string{c.Hostname, c.Domain} {
		if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f }) || len(name) > 253 {
			return nil, invalid("invalid hostname format: %q", name)
		}
	}
	if len(c.Hostname) > 64 {
		return nil, invalid("invalid hostname format: %q is longer than the 64 characters the kernel takes", c.Hostname)
	}
	if err := checkHealth(c.Health); err != nil {
		return nil, err
	}
	if err := api.ValidateRestartPolicy(hc.RestartPolicy); err != nil {
		return nil, invalid("%w", err)
	}
	if hc.AutoRemove && !hc.RestartPolicy.IsNone() {
		return nil, invalid("can't create 'AutoRemove' container with restart policy")
	}
	if hc.ShmSize < 0 {
		return nil, invalid("SHM size can not be less than 0")
	}
	for key := range hc.Annotations {
		if key == "" {
			return nil, invalid("invalid Annotations: the empty string is not permitted as an annotation key")
		}
	}
	if s := hc.ConsoleSize; s[0] > 65535 || s[1] > 65535 {
		return nil, invalid("invalid console size %dx%d", s[0], s[1])
	}
	return nil, nil
}

func checkHealth(h *container.Health) error {
	if h == nil {
		return nil
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"Interval", int64(h.Interval)}, {"Timeout", int64(h.Timeout)},
		{"StartPeriod", int64(h.StartPeriod)}, {"StartInterval", int64(h.StartInterval)},
	} {
		if d.value != 0 && d.value < int64(api.MinimumDuration) {
			return invalid("%s in Healthcheck cannot be less than %s", d.name, api.MinimumDuration)
		}
	}
	if h.Retries < 0 {
		return invalid("Retries in Healthcheck cannot be negative")
	}
	if len(h.Test) > 0 {
		switch h.Test[0] {
		case "", "NONE":
		case "CMD", "CMD-SHELL":
			if len(h.Test) < 2 {
				return invalid("Healthcheck of type %q needs a command", h.Test[0])
			}
		default:
			return invalid("Unknown healthcheck type '%s' (expected 'CMD' or 'CMD-SHELL')", h.Test[0])
		}
	}
	return nil
}

// checkUnsupported refuses, in a sentence each, what Docker's API offers and Berth does not do.
func (q *createRequest) checkUnsupported(c *container.Config) ([]string, error) {
	hc := q.HostConfig
	var warnings []string
	if !hc.Isolation.IsValid() {
		return nil, invalid("invalid isolation '%s' on %s", hc.Isolation, runtime.GOOS)
	}
	if hc.IOMaximumBandwidth != 0 || hc.IOMaximumIOps != 0 {
		return nil, invalid("Invalid QoS settings: %s does not support Maximum IO Bandwidth or Maximum IO IOps",
			runtime.GOOS)
	}
	if hc.CPUPercent > 0 {
		warnings = append(warnings, runtime.GOOS+" does not support CPU percent. Percent discarded.")
	}
	if hc.CPUCount > 0 {
		warnings = append(warnings, runtime.GOOS+" does not support CPU count. Count discarded.")
	}
	if len(hc.DeviceRequests) > 0 {
		r := hc.DeviceRequests[0]
		return nil, unsupported("could not select device driver %q with capabilities: %v", r.Driver, r.Capabilities)
	}
	if hc.VolumeDriver != "" && hc.VolumeDriver != "local" {
		return nil, kindf(errdefs.ErrNotFound, "error looking up volume plugin %s: plugin %q not found",
			hc.VolumeDriver, hc.VolumeDriver)
	}
	if hc.Cgroup != "" {
		return nil, unsupported("a cgroup shared with another container is not supported")
	}
	if hc.Umask != nil {
		return nil, unsupported("HostConfig.Umask is not supported")
	}
	switch hc.Runtime {
	case "", RuntimeName:
	default:
		return nil, invalid("unknown or invalid runtime name: %s", hc.Runtime)
	}
	if m := hc.UsernsMode; m != "" && !m.IsHost() {
		return nil, invalid("invalid user namespace mode: %s", m)
	}
	return warnings, nil
}

// RuntimeName is what `docker info` calls the one OCI runtime there is.
const RuntimeName = "berth-runtime"

// minMemory is the least memory limit: below it a container cannot even start.
const minMemory = 6 << 20

// limits translates the resources.
func (q *createRequest) limits(c *container.Config) ([]string, error) {
	hc := q.HostConfig
	l, warnings, err := limitsOf(&hc.Resources, false)
	if err != nil {
		return nil, err
	}
	if hc.OomScoreAdj < -1000 || hc.OomScoreAdj > 1000 {
		return nil, invalid("Invalid value %d, range for oom score adj is [-1000, 1000]", hc.OomScoreAdj)
	}
	l.OomScoreAdj = hc.OomScoreAdj
	c.Limits = l
	return warnings, nil
}

// limitsOf translates and checks resources, of a create request or an update.
func limitsOf(r *api.Resources, update bool) (container.Limits, []string, error) {
	var warnings []string
	l := container.Limits{
		Memory: r.Memory, MemorySwap: r.MemorySwap, MemoryReservation: r.MemoryReservation,
		NanoCPUs: r.NanoCPUs, CPUShares: r.CPUShares, CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota,
		CPURtPeriod: r.CPURealtimePeriod, CPURtRuntime: r.CPURealtimeRuntime,
		CpusetCpus: r.CpusetCpus, CpusetMems: r.CpusetMems, BlkioWeight: r.BlkioWeight,
		DeviceRules: r.DeviceCgroupRules, CgroupParent: r.CgroupParent,
		ReadBps: rates(r.BlkioDeviceReadBps), WriteBps: rates(r.BlkioDeviceWriteBps),
		ReadIOps: rates(r.BlkioDeviceReadIOps), WriteIOps: rates(r.BlkioDeviceWriteIOps),
	}
	if err := checkMemory(r, update); err != nil {
		return l, nil, err
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness != -1 { // -1 is how old clients say "not given"
		l.MemorySwappiness = r.MemorySwappiness
	}
	if r.OomKillDisable != nil && *r.OomKillDisable {
		l.OomKillDisable = true
		if r.Memory == 0 {
			warnings = append(warnings, "OOM killer is disabled for the container, but no memory limit is set, "+
				"this can result in the system running out of resources.")
		}
	}
	if r.PidsLimit != nil {
		n := *r.PidsLimit
		if n > 0 {
			l.PidsLimit = &n
		} else if update {
			n = -1 // every value that is not a limit means "unlimited"
			l.PidsLimit = &n
		}
	}
	if err := checkCPU(r); err != nil {
		return l, nil, err
	}
	for _, d := range r.BlkioWeightDevice {
		if d == nil || !path.IsAbs(d.Path) || d.Weight < 10 || d.Weight > 1000 {
			return l, nil, invalid("invalid block I/O weight of a device: it is a path and a weight from 10 to 1000")
		}
		l.BlkioWeightDevice = append(l.BlkioWeightDevice, container.Rate{Path: d.Path, Rate: uint64(d.Weight)})
	}
	for _, list := range [][]*blkiodev.ThrottleDevice{
		r.BlkioDeviceReadBps, r.BlkioDeviceWriteBps, r.BlkioDeviceReadIOps, r.BlkioDeviceWriteIOps,
	} {
		for _, d := range list {
			if d == nil || !path.IsAbs(d.Path) {
				return l, nil, invalid("invalid block I/O limit of a device: it is an absolute path and a rate")
			}
		}
	}
	if r.BlkioWeight != 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return l, nil, invalid("Range of blkio weight is from 10 to 1000")
	}
	for _, u := range r.Ulimits {
		if u == nil {
			continue
		}
		if _, err := u.GetRlimit(); err != nil {
			return l, nil, invalid("%w", err)
		}
		if u.Hard != -1 && (u.Soft == -1 || u.Soft > u.Hard) {
			return l, nil, invalid("ulimit soft limit must be less than or equal to hard limit: %d > %d", u.Soft, u.Hard)
		}
		l.Ulimits = append(l.Ulimits, container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, d := range r.Devices {
		if !path.IsAbs(d.PathOnHost) {
			return l, nil, invalid("invalid device %q: its path on the host must be absolute", d.PathOnHost)
		}
		target := d.PathInContainer
		if target == "" {
			target = d.PathOnHost
		}
		mode := d.CgroupPermissions
		if mode == "" {
			mode = "rwm"
		}
		if strings.Trim(mode, "rwm") != "" || !path.IsAbs(target) {
			return l, nil, invalid("invalid device specification: %s:%s:%s", d.PathOnHost, target, mode)
		}
		l.Devices = append(l.Devices, container.Device{Host: d.PathOnHost, Container: target, Permissions: mode})
	}
	for _, rule := range r.DeviceCgroupRules {
		if !validDeviceRule(rule) {
			return l, nil, invalid("invalid device cgroup rule format: '%s'", rule)
		}
	}
	return l, warnings, nil
}

func rates(list []*blkiodev.ThrottleDevice) []container.Rate {
	var out []container.Rate
	for _, d := range list {
		if d != nil {
			out = append(out, container.Rate{Path: d.Path, Rate: d.Rate})
		}
	}
	return out
}

func checkMemory(r *api.Resources, update bool) error {
	switch {
	case r.Memory != 0 && r.Memory < minMemory:
		return invalid("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0 && !update:
		return invalid("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return invalid("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation != 0 && r.MemoryReservation < minMemory:
		return invalid("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > 0 && r.Memory < r.MemoryReservation:
		return invalid("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	return nil
}

func checkCPU(r *api.Resources) error {
	cpus := int64(runtime.NumCPU())
	switch {
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > cpus*1e9:
		return invalid("range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", cpus)
	case r.CPUShares < 0:
		return invalid("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return invalid("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod:
		return invalid("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	for _, set := range []struct{ what, list string }{{"cpus", r.CpusetCpus}, {"mems", r.CpusetMems}} {
		if !validCPUList(set.list) {
			return invalid("Invalid value %.64s for cpuset %s", set.list, set.what)
		}
	}
	return nil
}

// validCPUList accepts "0-2,5". Its length is bounded, since a hostile list must cost nothing.
func validCPUList(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > 4096 {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		a, err1 := strconv.ParseUint(from, 10, 13)
		b, err2 := strconv.ParseUint(to, 10, 13)
		if err1 != nil || err2 != nil || a > b {
			return false
		}
	}
	return true
}

// validDeviceRule accepts "c 42:* rmw".
func validDeviceRule(rule string) bool {
	fields := strings.Split(rule, " ")
	if len(fields) != 3 || len(fields[0]) != 1 || !strings.Contains("abc", fields[0]) {
		return false
	}
	major, minor, ok := strings.Cut(fields[1], ":")
	number := func(s string) bool {
		_, err := strconv.ParseUint(s, 10, 31)
		return s == "*" || err == nil
	}
	mode := fields[2]
	return ok && number(major) && number(minor) && mode != "" && len(mode) <= 3 && strings.Trim(mode, "rwm") == ""
}

// security translates what the container may do and share.
func (q *createRequest) security(c *container.Config) ([]string, error) {
	hc := q.HostConfig
	s := container.Security{
		Privileged: hc.Privileged, CapAdd: hc.CapAdd, CapDrop: hc.CapDrop, Options: hc.SecurityOpt,
		MaskedPaths: hc.MaskedPaths, ReadonlyPaths: hc.ReadonlyPaths, Sysctls: hc.Sysctls,
		IpcMode: string(hc.IpcMode), PidMode: string(hc.PidMode), UTSMode: string(hc.UTSMode),
		UsernsMode: string(hc.UsernsMode), CgroupnsMode: string(hc.CgroupnsMode),
	}
	switch {
	case !hc.IpcMode.Valid() || hc.IpcMode.IsContainer() && hc.IpcMode.Container() == "":
		return nil, invalid("invalid IPC mode: %v", hc.IpcMode)
	case !hc.PidMode.Valid():
		return nil, invalid("invalid PID mode: %v", hc.PidMode)
	case !hc.UTSMode.Valid():
		return nil, invalid("invalid UTS mode: %v", hc.UTSMode)
	case !hc.CgroupnsMode.Valid():
		return nil, invalid("invalid cgroup namespace mode: %v", hc.CgroupnsMode)
	case hc.UTSMode.IsHost() && q.Hostname != "":
		return nil, invalid("conflicting options: hostname and the UTS mode")
	}
	for _, list := range []struct {
		name string
		caps []string
	}{{"CapAdd", s.CapAdd}, {"CapDrop", s.CapDrop}} {
		for _, name := range list.caps {
			if !knownCapability(name) {
				return nil, invalid("invalid %s: unknown capability: %q", list.name, name)
			}
		}
	}
	warnings, err := securityOptions(&s, hc.SecurityOpt)
	c.Security = s
	return warnings, err
}

// securityOptions reads the --security-opt strings.
func securityOptions(s *container.Security, options []string) ([]string, error) {
	var warnings []string
	for _, opt := range options {
		switch opt {
		case "no-new-privileges":
			s.NoNewPrivileges = true
			continue
		case "disable":
			s.Labels = append(s.Labels, "disable")
			continue
		}
		key, value, ok := strings.Cut(opt, "=")
		if colonKey, colonValue, colon := strings.Cut(opt, ":"); !ok && colon {
			key, value, ok = colonKey, colonValue, true
			warnings = append(warnings, "Security options with `:` as a separator are deprecated and will be "+
				"completely unsupported in 17.04, use `=` instead.")
		}
		if !ok {
			return nil, invalid("invalid --security-opt 1: %q", opt)
		}
		switch key {
		case "label":
			s.Labels = append(s.Labels, value)
		case "apparmor":
			s.AppArmor = value
		case "seccomp":
			if value == "builtin" {
				value = ""
			}
			if value != "" && value != "unconfined" && !json.Valid([]byte(value)) {
				return nil, invalid("Decoding seccomp profile failed: it is no JSON document")
			}
			s.Seccomp = value
		case "no-new-privileges":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return nil, invalid("invalid --security-opt 2: %q", opt)
			}
			s.NoNewPrivileges = on
		case "systempaths":
			if value != "unconfined" {
				return nil, invalid("invalid --security-opt 2: %q", opt)
			}
			s.MaskedPaths, s.ReadonlyPaths = []string{}, []string{}
		case "writable-cgroups":
			on, err := strconv.ParseBool(value)
			if err != nil {
				return nil, invalid("invalid --security-opt 2: %q", opt)
			}
			if on {
				return nil, unsupported("--security-opt writable-cgroups is not supported")
			}
		default:
			return nil, invalid("invalid --security-opt 2: %q", opt)
		}
	}
	return warnings, nil
}

// knownCapability accepts "NET_ADMIN", "cap_net_admin" and "ALL".
func knownCapability(name string) bool {
	name = strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	return name == "ALL" || slices.Contains(capabilities[:], name)
}

// capabilities is linux/capability.h.
var capabilities = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// network translates how the container is attached.
func (q *createRequest) network(c *container.Config) ([]string, error) {
	hc := q.HostConfig
	mode := hc.NetworkMode
	n := container.Network{
		Mode: string(mode), PublishAll: hc.PublishAllPorts, DNSSearch: hc.DNSSearch, DNSOptions: hc.DNSOptions,
		ExtraHosts: hc.ExtraHosts, MacAddress: q.MacAddress, Disabled: q.NetworkDisabled,
	}
	for _, a := range hc.DNS {
		if !a.IsValid() {
			return nil, invalid("invalid DNS address: it is empty")
		}
		n.DNS = append(n.DNS, a.String())
	}
	if err := errors.Join(oneLine("DNS search domain", n.DNSSearch), oneLine("DNS option", n.DNSOptions)); err != nil {
		return nil, err // each would write lines of its own into resolv.conf
	}
	for _, h := range hc.ExtraHosts {
		if err := checkExtraHost(h); err != nil {
			return nil, err
		}
	}
	for port := range q.ExposedPorts {
		if err := checkPort(port); err != nil {
			return nil, err
		}
		c.Exposed = append(c.Exposed, port.String())
	}
	slices.Sort(c.Exposed)
	ports, warnings, err := portsOf(hc.PortBindings)
	if err != nil {
		return nil, err
	}
	n.Ports = ports
	if err := checkLinks(hc.Links); err != nil {
		return nil, err
	}
	if n.Links = hc.Links; len(n.Links) > 0 && (mode.IsHost() || mode.IsNone() || mode.IsContainer()) {
		what := "host type networking"
		if mode.IsContainer() {
			what = "container type network"
		}
		return nil, invalid("conflicting options: %s can't be used with links. This would result in undefined behavior", what)
	}
	if mode.IsContainer() {
		if err := q.checkSharedNetwork(mode); err != nil {
			return nil, err
		}
	}
	if mode.IsHost() && len(n.Ports) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	n.Endpoints, err = q.endpoints(mode)
	c.Net = n
	return warnings, err
}

func (q *createRequest) checkSharedNetwork(mode api.NetworkMode) error {
	hc := q.HostConfig
	switch {
	case mode.ConnectedContainer() == "":
		return invalid("invalid container format container:<name|id>")
	case q.Hostname != "":
		return invalid("conflicting options: hostname and the network mode")
	case len(hc.DNS) > 0:
		return invalid("conflicting options: dns and the network mode")
	case len(hc.ExtraHosts) > 0:
		return invalid("conflicting options: custom host-to-IP mapping and the network mode")
	case q.MacAddress != "":
		return invalid("conflicting options: mac-address and the network mode")
	case len(hc.PortBindings) > 0 || hc.PublishAllPorts:
		return invalid("conflicting options: port publishing and the container type network mode")
	case len(q.ExposedPorts) > 0:
		return invalid("conflicting options: port exposing and the container type network mode")
	}
	return nil
}

// checkExtraHost accepts "name:ip" and "name:host-gateway".
func checkExtraHost(h string) error {
	name, ip, ok := strings.Cut(h, ":")
	if !ok || name == "" {
		return invalid("bad format for add-host: %q", h)
	}
	if strings.ContainsAny(name, " \t\r\n") {
		return invalid("bad format for add-host: %q", h)
	}
	if ip == "host-gateway" {
		return nil
	}
	if _, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")); err != nil {
		return invalid("invalid IP address in add-host: %q", ip)
	}
	return nil
}

func checkPort(p network.Port) error {
	switch p.Proto() {
	case network.TCP, network.UDP, network.SCTP:
	default:
		return invalid("invalid port specification: %q: the protocol must be tcp, udp or sctp", p.String())
	}
	if p.Num() == 0 {
		return invalid("invalid port specification: %q", p.String())
	}
	return nil
}

// portsOf translates published ports, in a stable order.
func portsOf(m network.PortMap) (ports []container.Port, warnings []string, err error) {
	keys := slices.SortedFunc(maps.Keys(m), func(a, b network.Port) int { return strings.Compare(a.String(), b.String()) })
	for _, p := range keys {
		if err := checkPort(p); err != nil {
			return nil, nil, err
		}
		bindings := m[p]
		if len(bindings) == 0 { // Docker takes it for "any free port"
			bindings = []network.PortBinding{{}}
			warnings = append(warnings, fmt.Sprintf("Container port %s is published to a free port of the host because "+
				"its list of bindings is empty.", p))
		}
		for _, b := range bindings {
			if b.HostPort != "" && b.HostPort != "0" {
				if r, err := network.ParsePortRange(b.HostPort); err != nil || r.Start() == 0 ||
					strings.Contains(b.HostPort, "/") {
					return nil, nil, invalid("invalid port specification: %q", b.HostPort)
				}
			}
			port := container.Port{Container: p.Num(), Proto: string(p.Proto()), HostPort: b.HostPort}
			if port.HostPort == "0" {
				port.HostPort = ""
			}
			if b.HostIP.IsValid() {
				port.HostIP = b.HostIP.String()
			}
			ports = append(ports, port)
		}
	}
	return ports, warnings, nil
}

// endpoints lists the networks to join: the one that the mode names comes first.
func (q *createRequest) endpoints(mode api.NetworkMode) ([]container.Endpoint, error) {
	given := q.NetworkingConfig.EndpointsConfig
	main := mode.NetworkName()
	if mode.IsHost() || mode.IsNone() || mode.IsContainer() {
		for name, settings := range given {
			if name == main {
				if settings == nil || mode.IsContainer() {
					continue
				}
				if _, err := endpointOf(name, settings); err != nil {
					return nil, err
				}
				if len(settings.DriverOpts) > 0 {
					return nil, invalid("options of an endpoint are for networks on which the container has an interface of its own, not for %q", name)
				}
				continue
			}
			if mode.IsNone() {
				return nil, invalid("container cannot be connected to multiple networks with one of the networks " +
					"in private (none) mode")
			}
			return nil, invalid("container sharing network namespace with another container or host cannot be " +
				"connected to any other network")
		}
		return nil, nil
	}
	if len(given) == 0 {
		given = map[string]*network.EndpointSettings{main: {}}
	}
	var list []container.Endpoint
	names := slices.SortedFunc(maps.Keys(given), func(a, b string) int {
		if (a == main) != (b == main) {
			if a == main {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if name == network.NetworkHost {
			return nil, invalid("cannot connect container to host network - container must be created in host network mode")
		}
		if name == network.NetworkNone {
			return nil, invalid("container cannot be connected to multiple networks with one of the networks " +
				"in private (none) mode")
		}
		e, err := endpointOf(name, given[name])
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// oneLine refuses words with what ends a line or makes a terminal obey.
func oneLine(what string, words []string) error {
	for _, w := range words {
		if strings.ContainsFunc(w, unicode.IsControl) {
			return invalid("invalid %s %q: it has a control character in it", what, w)
		}
	}
	return nil
}

func endpointOf(name string, s *network.EndpointSettings) (container.Endpoint, error) {
	if err := checkLinks(s.Links); err != nil {
		return container.Endpoint{}, err
	}
	if err := engine.CheckEgress(s.DriverOpts); err != nil {
		return container.Endpoint{}, err
	}
	if err := oneLine("network alias", s.Aliases); err != nil {
		return container.Endpoint{}, err
	}
	e := container.Endpoint{Network: name, Aliases: s.Aliases, Links: s.Links, DriverOpts: s.DriverOpts, GwPriority: s.GwPriority}
	if len(s.MacAddress) > 0 {
		e.MacAddress = net.HardwareAddr(s.MacAddress).String()
	}
	if ipam := s.IPAMConfig; ipam != nil {
		if ipam.IPv4Address.IsValid() {
			if !ipam.IPv4Address.Is4() {
				return e, invalid("invalid IPv4 address: %s", ipam.IPv4Address)
			}
			e.IPv4 = ipam.IPv4Address.String()
		}
		if ipam.IPv6Address.IsValid() {
			if !ipam.IPv6Address.Is6() || ipam.IPv6Address.Is4In6() {
				return e, invalid("invalid IPv6 address: %s", ipam.IPv6Address)
			}
			e.IPv6 = ipam.IPv6Address.String()
		}
		for _, ip := range ipam.LinkLocalIPs {
			if !ip.IsValid() || !ip.IsLinkLocalUnicast() {
				return e, invalid("invalid link-local IP address: %s", ip)
			}
			e.LinkLocal = append(e.LinkLocal, ip.String())
		}
	}
	switch name {
	case network.NetworkBridge, network.NetworkNone, network.NetworkHost:
		if e.IPv4 != "" || e.IPv6 != "" {
			return e, invalid("user specified IP address is supported on user defined networks only")
		}
		if len(e.Aliases) > 0 {
			return e, invalid("network-scoped alias is supported only for containers in user defined networks")
		}
	}
	return e, nil
}

// checkLinks accepts "container" and "container:alias".
func checkLinks(links []string) error {
	for _, l := range links {
		if parts := strings.Split(l, ":"); len(parts) > 2 || parts[0] == "" || parts[len(parts)-1] == "" {
			return invalid("bad format for links: %s", l)
		}
	}
	return nil
}

// isLocal says whether a subpath stays inside what it is relative to.
func isLocal(subpath string) bool { return filepath.IsLocal(subpath) }

// ulimitList is how the API shows resource limits.
func ulimitList(list []container.Ulimit) []*api.Ulimit {
	out := []*api.Ulimit{}
	for _, u := range list {
		out = append(out, &units.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out
}
