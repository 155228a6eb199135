package engine

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/image"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
)

// Create makes a container and starts nothing. Everything it took is given back when it fails.
func (e *Engine) Create(ctx context.Context, o CreateOptions) (CreateResult, error) {
	cfg := o.Config
	release := e.Images.Hold() // until a record says that the image is in use
	defer release()
	img, err := e.Images.Resolve(ctx, cfg.Image, o.Platform)
	if err != nil {
		return CreateResult{}, err
	}
	if img.Artifact != "" {
		return CreateResult{}, fmt.Errorf("%s is an artifact of the type %.80q and no image: it can be pulled and pushed, not run: %w",
			cfg.Image, img.Artifact, errdefs.ErrInvalidArgument)
	}
	cfg.ImageID = img.ID
	mergeImage(&cfg, img)
	warnings, err := e.check(&cfg)
	if err != nil {
		return CreateResult{}, err
	}

	name, err := e.Containers.Reserve(o.Name)
	if err != nil {
		return CreateResult{}, err
	}
	undo := undoStack{name.Cancel}
	defer func() { undo.run() }()

	if cfg.ShmSize == 0 {
		cfg.ShmSize = e.opts.ShmSize
	}
	if cfg.Hostname == "" && cfg.Security.UTSMode != "host" && cfg.Net.Mode != "host" {
		cfg.Hostname = name.ID[:12]
	}
	if err := e.store.NewLayer(ctx, name.ID, img.Chain); err != nil {
		return CreateResult{}, err
	}
	undo.add(func() { _ = e.store.RemoveLayer(name.ID) })
	if limit, err := layerLimit(&cfg); err != nil {
		return CreateResult{}, err
	} else if limit > 0 {
		if err := e.store.LimitLayer(name.ID, limit); err != nil {
			return CreateResult{}, err
		}
	}

	rec := container.Record{Created: time.Now().UTC(), Config: cfg, Chain: img.Chain.String()}
	if err := e.claimVolumes(ctx, name.ID, &rec, &undo); err != nil {
		return CreateResult{}, err
	}
	rec, err = name.Commit(rec)
	if err != nil {
		return CreateResult{}, err
	}
	undo = nil
	if len(rec.Volumes) > 0 {
		if err := e.Volumes.Settle(ctx, rec.ID, cfg.AutoRemove); err != nil {
			e.log.Error("save the volumes of a container", "container", rec.ID, "error", err) // Open tries again
		}
	}
	e.publish(rec, "create", nil)
	return CreateResult{ID: rec.ID, Warnings: warnings}, nil
}

// mergeImage completes what the user asked for with what the image says, by the rules of `docker run`: an entrypoint of
// the user's own drops the image's command, lists of variables and labels are merged with the user's winning.
func mergeImage(cfg *container.Config, img *image.Image) {
	ic := img.Config.Config
	p := &cfg.Process
	if len(p.Entrypoint) == 0 {
		if len(p.Cmd) == 0 {
			p.Cmd = ic.Cmd
		}
		if p.Entrypoint == nil {
			p.Entrypoint = ic.Entrypoint
		}
	}
	if len(p.Entrypoint) == 1 && p.Entrypoint[0] == "" {
		p.Entrypoint = nil
	}
	p.Env = mergeEnv(validEnv(ic.Env), p.Env)
	if p.User == "" {
		p.User = ic.User
	}
	if p.WorkingDir == "" {
		p.WorkingDir = ic.WorkingDir
	}
	if cfg.StopSignal == "" {
		cfg.StopSignal = ic.StopSignal
	}
	labels := container.Map{}
	for _, m := range []map[string]string{ic.Labels, cfg.Labels} {
		for k, v := range m {
			labels[k] = v
		}
	}
	cfg.Labels = labels
	for port := range ic.ExposedPorts {
		if !strings.Contains(port, "/") {
			port += "/tcp"
		}
		if !slices.Contains(cfg.Exposed, port) {
			cfg.Exposed = append(cfg.Exposed, port)
		}
	}
	slices.Sort(cfg.Exposed)
	for dest := range ic.Volumes {
		if !slices.Contains(cfg.Volumes, dest) {
			cfg.Volumes = append(cfg.Volumes, dest)
		}
	}
	slices.Sort(cfg.Volumes)
	if cfg.Health == nil || len(cfg.Health.Test) == 0 {
		if h := img.Health(); h != nil {
			mine := cfg.Health
			if mine == nil {
				mine = &container.Health{}
			}
			merged := container.Health{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
				StartInterval: h.StartInterval, Retries: h.Retries}
			override(&merged.Interval, mine.Interval)
			override(&merged.Timeout, mine.Timeout)
			override(&merged.StartPeriod, mine.StartPeriod)
			override(&merged.StartInterval, mine.StartInterval)
			override(&merged.Retries, mine.Retries)
			cfg.Health = &merged
		}
	}
	if cfg.Extra.OnBuild == nil {
		cfg.Extra.OnBuild = img.OnBuild()
	}
	if cfg.Extra.Shell == nil {
		cfg.Extra.Shell = img.Shell()
	}
}

// layerLimit is how much a container may write into its layer, in bytes; 0 is no limit.
func layerLimit(cfg *container.Config) (int64, error) {
	for k := range cfg.Extra.StorageOpt {
		if k != "size" {
			return 0, fmt.Errorf("unknown option %q of --storage-opt: there is size, as in size=10G%w", k, kind{errdefs.ErrInvalidArgument})
		}
	}
	text, given := cfg.Extra.StorageOpt["size"]
	if !given {
		return 0, nil
	}
	size, err := units.RAMInBytes(text)
	if err != nil || size <= 0 {
		return 0, fmt.Errorf("--storage-opt size=%s is no size, such as 10G%w", text, kind{errdefs.ErrInvalidArgument})
	}
	return size, nil
}

func override[T comparable](to *T, v T) {
	var zero T
	if v != zero {
		*to = v
	}
}

// validEnv drops what is no variable: an image's entry without "=" must not stand for the host's value
// (CVE-2026-57231).
func validEnv(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		k, _, ok := strings.Cut(kv, "=")
		return !ok || k == ""
	})
}

// nameNetworks puts names in the place of the IDs by which networks may be given. One that is not there may still be made
// before the start.
func (e *Engine) nameNetworks(cfg *container.Config) error {
	cfg.Net.Endpoints = slices.Clone(cfg.Net.Endpoints)
	mode := cfg.Net.Mode
	if len(cfg.Net.Endpoints) == 0 && mode != "host" && mode != "none" && !strings.HasPrefix(mode, "container:") && !cfg.Net.Disabled {
		cfg.Net.Endpoints = []container.Endpoint{{Network: networkName(mode), MacAddress: cfg.Net.MacAddress}}
	}
	seen := map[string]bool{}
	for i := range cfg.Net.Endpoints {
		ep := &cfg.Net.Endpoints[i]
		if nw, err := e.Networks.ResolveNetwork(networkName(ep.Network)); err == nil {
			ep.Network = nw.Name
		}
		if seen[ep.Network] {
			return fmt.Errorf("network %q is named twice%w", ep.Network, kind{errdefs.ErrInvalidArgument})
		}
		seen[ep.Network] = true
	}
	return nil
}

// check refuses what cannot be, and warns of what the machine will not do, before anything is made.
func (e *Engine) check(cfg *container.Config) ([]string, error) {
	bad := func(format string, args ...any) ([]string, error) {
		return nil, fmt.Errorf(format+"%w", append(args, kind{errdefs.ErrInvalidArgument})...)
	}
	if len(cfg.Process.Argv()) == 0 {
		return bad("no command specified")
	}
	if cfg.Process.Argv()[0] == "" {
		return bad("the command is empty; name a program to run")
	}
	if wd := cfg.Process.WorkingDir; wd != "" && !path.IsAbs(wd) {
		return bad("the working directory '%s' is invalid, it needs to be an absolute path", wd)
	}
	if cfg.Restart.Name != "" && cfg.Restart.Name != "no" && cfg.AutoRemove {
		return bad("can't create 'AutoRemove' container with restart policy")
	}
	if _, err := capabilities(cfg.Security, e.caps); err != nil {
		return nil, err
	}
	if _, err := rlimits(cfg.Limits.Ulimits, nil); err != nil {
		return nil, err
	}
	for _, text := range cfg.Limits.DeviceRules {
		if _, err := parseDeviceRule(text); err != nil {
			return nil, err
		}
	}
	if _, err := e.logConfig(container.Record{Config: *cfg}); err != nil {
		return nil, err
	}
	if cfg.StopSignal != "" {
		if _, err := parseSignal(cfg.StopSignal); err != nil {
			return nil, err
		}
	}
	if cfg.Security.Seccomp != "" && cfg.Security.Seccomp != "unconfined" {
		if _, err := e.seccomp.filter(cfg.Security, defaultCaps[:], false); err != nil {
			return nil, err
		}
	}
	if _, err := layerLimit(cfg); err != nil {
		return nil, err
	}
	if err := e.nameNetworks(cfg); err != nil {
		return nil, err
	}
	if err := e.resolveLinks(cfg); err != nil {
		return nil, err
	}
	if h := cfg.Health; h != nil && len(h.Test) > 0 && !slices.Contains([]string{"NONE", "CMD", "CMD-SHELL"}, h.Test[0]) {
		return bad("unknown kind of health check %q: it begins with NONE, CMD or CMD-SHELL", h.Test[0])
	}
	if err := checkSecurity(cfg.Security); err != nil {
		return nil, err
	}
	if cfg.Runtime != "" && cfg.Runtime != runtimeName {
		return bad("unknown or invalid runtime name: %s", cfg.Runtime)
	}
	if err := e.checkNamespaces(cfg); err != nil {
		return nil, err
	}
	if err := checkSysctls(cfg); err != nil {
		return nil, err
	}
	warnings, err := e.checkLimits(&cfg.Limits)
	if err != nil {
		return nil, err
	}
	return append(warnings, e.labelWarnings(cfg.Security)...), nil
}

// labelWarnings tells of security modules that are asked for and not there.
func (e *Engine) labelWarnings(sec container.Security) []string {
	var out []string
	if sec.AppArmor != "" && sec.AppArmor != "unconfined" && !e.apparmor {
		out = append(out, fmt.Sprintf("AppArmor is not enabled on this host; the profile %q is not applied.", sec.AppArmor))
	}
	if slices.ContainsFunc(sec.Labels, func(l string) bool { return l != "disable" }) {
		out = append(out, "SELinux labels are not supported and not applied.")
	}
	return out
}

// checkSecurity refuses the modes that this engine does not have: none may be taken and then ignored.
func checkSecurity(sec container.Security) error {
	for _, m := range []struct {
		what, mode string
		known      []string
	}{
		{"IPC", sec.IpcMode, []string{"", "private", "shareable", "host", "none", "container:"}},
		{"PID", sec.PidMode, []string{"", "host", "container:"}},
		{"UTS", sec.UTSMode, []string{"", "host"}},
		{"user namespace", sec.UsernsMode, []string{"", "host"}},
		{"cgroup namespace", sec.CgroupnsMode, []string{"", "private", "host"}},
	} {
		if slices.Contains(m.known, m.mode) || strings.HasPrefix(m.mode, "container:") && slices.Contains(m.known, "container:") {
			continue
		}
		return fmt.Errorf("invalid %s mode: %s%w", m.what, m.mode, kind{errdefs.ErrInvalidArgument})
	}
	return nil
}

// checkNamespaces resolves "container:x" to an ID, so that a rename does not break it.
func (e *Engine) checkNamespaces(cfg *container.Config) error {
	for _, mode := range []*string{&cfg.Net.Mode, &cfg.Security.PidMode, &cfg.Security.IpcMode} {
		ref, ok := strings.CutPrefix(*mode, "container:")
		if !ok {
			continue
		}
		other, err := e.Containers.Get(ref)
		if errdefs.IsNotFound(err) { // clients take a 404 for an image that is missing, and pull it
			return fmt.Errorf("%s%w", err.Error(), kind{errdefs.ErrInvalidArgument})
		}
		if err != nil {
			return err
		}
		*mode = "container:" + other.ID
	}
	if cfg.Net.Mode == "host" && cfg.Hostname != "" && cfg.Security.UTSMode == "host" {
		return fmt.Errorf("conflicting options: hostname and the UTS mode%w", kind{errdefs.ErrInvalidArgument})
	}
	return nil
}

// checkSysctls allows those that belong to a namespace of the container's own.
func checkSysctls(cfg *container.Config) error {
	for key := range cfg.Security.Sysctls {
		switch {
		case strings.HasPrefix(key, "net."):
			if cfg.Net.Mode == "host" {
				return fmt.Errorf("sysctl %q is not allowed with the host's network%w", key, kind{errdefs.ErrInvalidArgument})
			}
		case strings.HasPrefix(key, "fs.mqueue."), slices.Contains(ipcSysctls[:], key):
			if mode := cfg.Security.IpcMode; mode == "host" || strings.HasPrefix(mode, "container:") {
				return fmt.Errorf("sysctl %q is not allowed with an IPC namespace that is not the container's own%w", key,
					kind{errdefs.ErrInvalidArgument})
			}
		case key == "kernel.domainname", key == "kernel.hostname":
			if cfg.Security.UTSMode == "host" {
				return fmt.Errorf("sysctl %q is not allowed with the host's UTS namespace%w", key, kind{errdefs.ErrInvalidArgument})
			}
		default:
			return fmt.Errorf("invalid sysctl %q: it belongs to the whole machine, not to a container%w",
				key, kind{errdefs.ErrInvalidArgument})
		}
	}
	return nil
}

var ipcSysctls = [...]string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
	"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"}

// checkLimits refuses impossible limits and warns, in Docker's words, of the ones that this kernel does not have.
func (e *Engine) checkLimits(l *container.Limits) ([]string, error) {
	const minMemory = 6 << 20
	bad := func(format string, args ...any) ([]string, error) {
		return nil, fmt.Errorf(format+"%w", append(args, kind{errdefs.ErrInvalidArgument})...)
	}
	switch {
	case l.Memory != 0 && l.Memory < minMemory:
		return bad("Minimum memory limit allowed is 6MB")
	case l.Memory == 0 && l.MemorySwap > 0:
		return bad("You should always set the Memory limit when using Memoryswap limit, see usage")
	case l.MemorySwap > 0 && l.MemorySwap < l.Memory:
		return bad("Minimum memoryswap limit should be larger than memory limit, see usage")
	case l.MemoryReservation != 0 && l.MemoryReservation < minMemory:
		return bad("Minimum memory reservation allowed is 6MB")
	case l.Memory > 0 && l.MemoryReservation > l.Memory:
		return bad("Minimum memory limit can not be less than memory reservation limit, see usage")
	case l.MemorySwappiness != nil && (*l.MemorySwappiness < -1 || *l.MemorySwappiness > 100):
		return bad("Invalid value: %d, valid memory swappiness range is 0-100", *l.MemorySwappiness)
	case l.NanoCPUs < 0 || l.NanoCPUs > int64(e.cpus)*1e9:
		return bad("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", e.cpus, e.cpus)
	case l.NanoCPUs > 0 && (l.CPUPeriod > 0 || l.CPUQuota > 0):
		return bad("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
	case l.CPUShares < 0:
		return bad("invalid CPU shares (%d): value must be a positive integer", l.CPUShares)
	case l.CPUPeriod != 0 && (l.CPUPeriod < 1000 || l.CPUPeriod > 1_000_000):
		return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case l.CPUQuota > 0 && l.CPUQuota < 1000:
		return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case l.BlkioWeight > 0 && (l.BlkioWeight < 10 || l.BlkioWeight > 1000):
		return bad("Range of blkio weight is from 10 to 1000")
	case l.OomScoreAdj < -1000 || l.OomScoreAdj > 1000:
		return bad("Invalid value %d, range for oom score adj is [-1000, 1000]", l.OomScoreAdj)
	}
	if err := e.cgroups.CheckCpuset(l.CpusetCpus, l.CpusetMems); err != nil {
		return nil, err
	}
	for _, list := range [][]container.Rate{l.BlkioWeightDevice, l.ReadBps, l.WriteBps, l.ReadIOps, l.WriteIOps} {
		for _, d := range list {
			if _, _, err := blockDevice(d.Path); err != nil {
				return nil, fmt.Errorf("%w%w", err, kind{errdefs.ErrInvalidArgument})
			}
		}
	}
	if l.Memory > 0 && l.MemorySwap == 0 {
		l.MemorySwap = 2 * l.Memory // Docker's default: as much swap as memory
	}
	_, warnings := e.cgroups.Adapt(limitResources(*l))
	return warnings, nil
}
