package dockerapi

import (
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/store"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
)

func (s *Server) ping(c *call) error {
	h := c.w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", "1") // there is no BuildKit to talk to
	h.Set("Swarm", string(swarm.LocalNodeStateInactive))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	_, _ = c.w.Write([]byte("OK"))
	return nil
}

func (s *Server) versionInfo(c *call) error {
	kernel := s.o.Facts().Kernel
	details := map[string]string{
		"GitCommit": s.o.Commit, "ApiVersion": MaxVersion.String(), "MinAPIVersion": s.min.String(),
		"GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH, "BuildTime": s.o.BuildTime,
		"KernelVersion": kernel, "Experimental": "false",
	}
	r := system.VersionResponse{
		Platform: system.PlatformInfo{Name: "Berth"}, Version: s.o.Version,
		APIVersion: MaxVersion.String(), MinAPIVersion: s.min.String(),
		Os: runtime.GOOS, Arch: runtime.GOARCH, GitCommit: s.o.Commit, GoVersion: runtime.Version(),
		KernelVersion: kernel, BuildTime: s.o.BuildTime,
		Components: []system.ComponentVersion{
			{Name: "Engine", Version: s.o.Version, Details: details},
			{Name: RuntimeName, Version: s.o.Version, Details: map[string]string{"GitCommit": s.o.Commit}},
		},
	}
	return c.writeJSON(http.StatusOK, r)
}

func (s *Server) info(c *call) error {
	f := s.o.Facts()
	storage := s.engine.Storage()
	r := &system.Info{
		ID: f.ID, Driver: shownDriver(storage.Driver), DriverStatus: storageStatus(storage),
		Plugins: system.PluginsInfo{
			Volume: []string{"local"}, Network: []string{"bridge", "cni", "host", "ipvlan", "macvlan", "null"}, Log: []string{"json-file", "none"},
		},
		MemoryLimit: f.Controllers["memory"], SwapLimit: f.SwapLimit,
		CPUCfsPeriod: f.Controllers["cpu"], CPUCfsQuota: f.Controllers["cpu"], CPUShares: f.Controllers["cpu"],
		CPUSet: f.Controllers["cpuset"], PidsLimit: f.Controllers["pids"],
		IPv4Forwarding: f.Forwarding, Debug: f.Debug, OomKillDisable: f.OOMKillDisable,
		NFd: -1, NGoroutines: -1,
		SystemTime: time.Now().Format(time.RFC3339Nano), LoggingDriver: f.LogDriver,
		CgroupDriver: "cgroupfs", CgroupVersion: strconv.Itoa(f.CgroupVersion),
		KernelVersion: f.Kernel, OperatingSystem: f.OSName, OSVersion: f.OSVersion, OSType: runtime.GOOS,
		Architecture: machine(), NCPU: runtime.NumCPU(), MemTotal: f.Memory,
		IndexServerAddress: "https://index.docker.io/v1/", RegistryConfig: registryConfig(f),
		DockerRootDir: s.o.DataRoot, HTTPProxy: f.HTTPProxy, HTTPSProxy: f.HTTPSProxy, NoProxy: f.NoProxy,
		Name: f.Hostname, Labels: list(f.Labels), ServerVersion: s.o.Version,
		Runtimes:       map[string]system.RuntimeWithStatus{RuntimeName: {Runtime: system.Runtime{Path: f.RuntimePath}}},
		DefaultRuntime: RuntimeName, LiveRestoreEnabled: true, InitBinary: RuntimeName,
		Swarm:           swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive},
		RuncCommit:      system.Commit{ID: s.o.Commit},
		SecurityOptions: securityOptionsShown(f), CDISpecDirs: []string{},
		FirewallBackend: &system.FirewallInfo{Driver: s.engine.Networks.Firewall()}, Warnings: f.Warnings,
	}
	if f.Debug {
		r.NGoroutines = runtime.NumGoroutine()
		if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
			r.NFd = len(fds)
		}
	}
	for _, p := range f.AddressPools {
		r.DefaultAddressPools = append(r.DefaultAddressPools, system.NetworkAddressPool{Base: p.Base, Size: p.Size})
	}
	for _, rec := range s.engine.Containers.List() {
		r.Containers++
		switch rec.State.Status {
		case container.Running, container.Restarting:
			r.ContainersRunning++
		case container.Paused:
			r.ContainersPaused++
		default:
			r.ContainersStopped++
		}
	}
	images, err := s.engine.Images.Count(c.ctx())
	if err != nil {
		return err
	}
	r.Images = images
	return c.writeJSON(http.StatusOK, downgradeInfo(r, c.version))
}

// storageStatus tells what layers lie on and what that makes possible.
func storageStatus(f engine.StorageFacts) [][2]string {
	size := "true"
	if f.NoLimits != "" {
		size = "false (" + f.NoLimits + ")"
	}
	return [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}, {"Backing Filesystem", f.Filesystem}, {"Supports size limits", size},
		{"Chosen because", f.Why}}
}

// shownDriver is a storage driver's name for clients: overlay2 is called as Docker 29 calls it, by containerd's name.
func shownDriver(d store.Driver) string {
	if d == store.Overlay {
		return storageDriver
	}
	return string(d)
}

// machine is the processor's name as the kernel gives it.
func machine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

func securityOptionsShown(f Facts) []string {
	profile := f.Seccomp
	if profile == "" {
		profile = "builtin"
	}
	options := []string{"name=seccomp,profile=" + profile, "name=cgroupns"}
	if f.NoNewPrivs {
		options = append(options, "name=no-new-privileges")
	}
	return options
}

func registryConfig(f Facts) *registry.ServiceConfig {
	// Those of other registries are written HOST=URL.
	hubs := slices.DeleteFunc(slices.Clone(list(f.RegistryMirrors)), func(m string) bool {
		host, _, named := strings.Cut(m, "=")
		return named && !strings.Contains(host, "/")
	})
	r := &registry.ServiceConfig{
		InsecureRegistryCIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Mirrors:               list(f.RegistryMirrors),
		IndexConfigs: map[string]*registry.IndexInfo{
			"docker.io": {Name: "docker.io", Mirrors: hubs, Secure: true, Official: true},
		},
	}
	for _, text := range f.Insecure {
		if p, err := netip.ParsePrefix(text); err == nil {
			r.InsecureRegistryCIDRs = append(r.InsecureRegistryCIDRs, p)
			continue
		}
		r.IndexConfigs[text] = &registry.IndexInfo{Name: text, Mirrors: []string{}}
	}
	return r
}

var allObjects = []system.DiskUsageObject{
	system.ContainerObject, system.ImageObject, system.VolumeObject, system.BuildCacheObject,
}

func (s *Server) diskUsage(c *call) error {
	types := diskUsageTypes(c.r.Form["type"], c.version)
	u := &diskUsage{asked: map[system.DiskUsageObject]bool{}}
	for _, t := range types {
		if !slices.Contains(allObjects, system.DiskUsageObject(t)) {
			return invalid("unknown object type: %s", t)
		}
		u.asked[system.DiskUsageObject(t)] = true
	}
	if len(types) == 0 {
		for _, t := range allObjects {
			u.asked[t] = true
		}
	}
	verbose := c.flag("verbose")
	for _, part := range []struct {
		of  system.DiskUsageObject
		add func(*call, *diskUsage, bool) error
	}{
		{system.ContainerObject, s.containerUsage}, {system.ImageObject, s.imageUsage},
		{system.VolumeObject, s.volumeUsage}, {system.BuildCacheObject, buildUsage},
	} {
		if !u.asked[part.of] {
			continue
		}
		if err := part.add(c, u, verbose); err != nil {
			return err
		}
	}
	return c.writeJSON(http.StatusOK, downgradeDiskUsage(u, verbose, c.version))
}
