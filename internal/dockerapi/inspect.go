package dockerapi

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/store"
	"github.com/moby/moby/api/types/blkiodev"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"
)

// storageDriver is the name of what keeps images' layers, and containers' unless another driver was asked for; the
// containerd snapshotter's, as Docker 29 shows it.
const storageDriver = "overlayfs"

func (s *Server) containerInspect(c *call) error {
	rec, err := s.engine.Containers.Get(c.name())
	if err != nil {
		return err
	}
	r := s.inspect(rec)
	if c.flag("size") {
		rw, root, err := s.sizes(c, rec)
		if err != nil {
			return err
		}
		r.SizeRw, r.SizeRootFs = &rw, &root
	}
	return c.writeJSON(http.StatusOK, downgradeInspect(r, c.version))
}

// inspect is the newest version's view of a record.
func (s *Server) inspect(rec container.Record) *api.InspectResponse {
	cfg := &rec.Config
	argv := cfg.Process.Argv()
	program, args := "", []string{}
	if len(argv) > 0 {
		program, args = argv[0], append(args, argv[1:]...)
	}
	driver, upper, work := s.engine.LayerDriver(rec.ID)
	etc := filepath.Join(s.o.ExecRoot, "containers", rec.ID, "etc")
	r := &api.InspectResponse{
		ID:              rec.ID,
		Created:         rec.Created.UTC().Format(time.RFC3339Nano),
		Path:            program,
		Args:            args,
		State:           stateOf(rec.State),
		Image:           cfg.ImageID,
		ResolvConfPath:  filepath.Join(etc, "resolv.conf"),
		HostnamePath:    filepath.Join(etc, "hostname"),
		HostsPath:       filepath.Join(etc, "hosts"),
		LogPath:         s.engine.LogPath(rec),
		Name:            "/" + rec.Name,
		RestartCount:    rec.State.Restarts,
		Driver:          shownDriver(driver),
		Platform:        "linux",
		AppArmorProfile: cfg.Security.AppArmor,
		ExecIDs:         s.engine.Execs.List(rec.ID),
		HostConfig:      hostConfigOf(cfg),
		GraphDriver:     &storage.DriverData{Name: shownDriver(driver), Data: map[string]string{"UpperDir": upper, "WorkDir": work}},
		Storage: &storage.Storage{RootFS: &storage.RootFSStorage{
			Snapshot: &storage.RootFSStorageSnapshot{Name: shownDriver(driver)},
		}},
		Mounts:          s.mountPoints(rec),
		Config:          configOf(cfg),
		NetworkSettings: s.networkSettingsOf(rec),
	}
	if driver == store.VFS || driver == store.Btrfs {
		r.GraphDriver.Data = map[string]string{"dir": upper}
	}
	r.HostConfig.Links = s.engine.Links(rec)
	if lc := &r.HostConfig.LogConfig; lc.Type == "" { // the daemon's default, of which there are two
		lc.Type = "none"
		if r.LogPath != "" {
			lc.Type = "json-file"
		}
	}
	return r
}

func stateOf(st container.State) *api.State {
	s := &api.State{
		Status:     api.ContainerState(st.Status),
		Running:    st.Alive() || st.Status == container.Restarting,
		Paused:     st.Status == container.Paused,
		Restarting: st.Status == container.Restarting,
		OOMKilled:  st.OOMKilled,
		Dead:       st.Status == container.Dead,
		Pid:        st.Pid,
		ExitCode:   st.ExitCode,
		Error:      st.Error,
		StartedAt:  st.StartedAt.UTC().Format(time.RFC3339Nano),
		FinishedAt: st.FinishedAt.UTC().Format(time.RFC3339Nano),
	}
	if h := st.Health; h != nil {
		s.Health = &api.Health{Status: api.HealthStatus(h.Status), FailingStreak: h.Failing, Log: []*api.HealthcheckResult{}}
		for _, p := range h.Log {
			s.Health.Log = append(s.Health.Log, &api.HealthcheckResult{
				Start: p.Start, End: p.End, ExitCode: p.ExitCode, Output: p.Output,
			})
		}
	}
	return s
}

// configOf is the API's half of the configuration that travels with an image.
func configOf(cfg *container.Config) *api.Config {
	p := &cfg.Process
	c := &api.Config{
		Hostname: cfg.Hostname, Domainname: cfg.Domain, User: p.User,
		AttachStdin: p.AttachStdin, AttachStdout: p.AttachStdout, AttachStderr: p.AttachStderr,
		Tty: p.Tty, OpenStdin: p.OpenStdin, StdinOnce: p.StdinOnce,
		Env: p.Env, Cmd: p.Cmd, Image: cfg.Image, WorkingDir: p.WorkingDir, Entrypoint: p.Entrypoint,
		NetworkDisabled: cfg.Net.Disabled, OnBuild: cfg.Extra.OnBuild, Labels: cfg.Labels,
		StopSignal: cfg.StopSignal, StopTimeout: cfg.StopTimeout, Shell: cfg.Extra.Shell,
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	if h := cfg.Health; h != nil {
		c.Healthcheck = &api.HealthConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod,
			StartInterval: h.StartInterval, Retries: h.Retries,
		}
	}
	for _, text := range cfg.Exposed {
		if port, err := network.ParsePort(text); err == nil {
			if c.ExposedPorts == nil {
				c.ExposedPorts = network.PortSet{}
			}
			c.ExposedPorts[port] = struct{}{}
		}
	}
	for _, target := range cfg.Volumes {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[target] = struct{}{}
	}
	return c
}

// hostConfigOf is the half that belongs to the machine, as the creator gave it.
func hostConfigOf(cfg *container.Config) *api.HostConfig {
	sec, n := &cfg.Security, &cfg.Net
	hc := &api.HostConfig{
		ContainerIDFile: cfg.CIDFile,
		LogConfig:       api.LogConfig{Type: cfg.Log.Driver, Config: cfg.Log.Options},
		NetworkMode:     api.NetworkMode(n.Mode),
		PortBindings:    portMapOf(n.Ports),
		RestartPolicy: api.RestartPolicy{
			Name: api.RestartPolicyMode(cfg.Restart.Name), MaximumRetryCount: cfg.Restart.MaxRetries,
		},
		AutoRemove:      cfg.AutoRemove,
		VolumesFrom:     cfg.VolumesFrom,
		ConsoleSize:     [2]uint{cfg.Process.ConsoleRows, cfg.Process.ConsoleCols},
		Annotations:     cfg.Extra.Annotations,
		CapAdd:          sec.CapAdd,
		CapDrop:         sec.CapDrop,
		CgroupnsMode:    api.CgroupnsMode(sec.CgroupnsMode),
		DNS:             []netip.Addr{},
		DNSOptions:      list(n.DNSOptions),
		DNSSearch:       list(n.DNSSearch),
		ExtraHosts:      n.ExtraHosts,
		GroupAdd:        cfg.Process.GroupAdd,
		IpcMode:         api.IpcMode(sec.IpcMode),
		OomScoreAdj:     cfg.Limits.OomScoreAdj,
		PidMode:         api.PidMode(sec.PidMode),
		Privileged:      sec.Privileged,
		PublishAllPorts: n.PublishAll,
		ReadonlyRootfs:  cfg.ReadOnly,
		SecurityOpt:     sec.Options,
		Tmpfs:           cfg.Tmpfs,
		UTSMode:         api.UTSMode(sec.UTSMode),
		UsernsMode:      api.UsernsMode(sec.UsernsMode),
		ShmSize:         cfg.ShmSize,
		Sysctls:         sec.Sysctls,
		Runtime:         RuntimeName,
		StorageOpt:      cfg.Extra.StorageOpt,
		Resources:       resourcesOf(&cfg.Limits),
		MaskedPaths:     sec.MaskedPaths,
		ReadonlyPaths:   sec.ReadonlyPaths,
	}
	if hc.LogConfig.Config == nil {
		hc.LogConfig.Config = map[string]string{}
	}
	if hc.RestartPolicy.Name == "" {
		hc.RestartPolicy.Name = api.RestartPolicyDisabled
	}
	if hc.IpcMode == "" {
		hc.IpcMode = api.IPCModePrivate
	}
	if hc.ShmSize == 0 {
		hc.ShmSize = 64 << 20
	}
	for _, a := range n.DNS {
		if addr, err := netip.ParseAddr(a); err == nil {
			hc.DNS = append(hc.DNS, addr)
		}
	}
	if cfg.Init {
		on := true
		hc.Init = &on
	}
	for i := range cfg.Mounts {
		m := &cfg.Mounts[i]
		if m.FromAPI == "mounts" {
			hc.Mounts = append(hc.Mounts, mountObject(m))
			continue
		}
		bind := m.Source + ":" + m.Target
		if m.Mode != "" {
			bind += ":" + m.Mode
		}
		hc.Binds = append(hc.Binds, bind)
	}
	return hc
}

func list(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

func resourcesOf(l *container.Limits) api.Resources {
	oom := l.OomKillDisable
	r := api.Resources{
		CPUShares: l.CPUShares, Memory: l.Memory, NanoCPUs: l.NanoCPUs, CgroupParent: l.CgroupParent,
		BlkioWeight: l.BlkioWeight, CPUPeriod: l.CPUPeriod, CPUQuota: l.CPUQuota,
		CPURealtimePeriod: l.CPURtPeriod, CPURealtimeRuntime: l.CPURtRuntime,
		CpusetCpus: l.CpusetCpus, CpusetMems: l.CpusetMems, DeviceCgroupRules: l.DeviceRules,
		MemoryReservation: l.MemoryReservation, MemorySwap: l.MemorySwap, MemorySwappiness: l.MemorySwappiness,
		OomKillDisable: &oom, PidsLimit: l.PidsLimit, Ulimits: ulimitList(l.Ulimits),
		Devices:              []api.DeviceMapping{},
		BlkioWeightDevice:    weightDevices(l.BlkioWeightDevice),
		BlkioDeviceReadBps:   throttleDevices(l.ReadBps),
		BlkioDeviceWriteBps:  throttleDevices(l.WriteBps),
		BlkioDeviceReadIOps:  throttleDevices(l.ReadIOps),
		BlkioDeviceWriteIOps: throttleDevices(l.WriteIOps),
	}
	for _, d := range l.Devices {
		r.Devices = append(r.Devices, api.DeviceMapping{
			PathOnHost: d.Host, PathInContainer: d.Container, CgroupPermissions: d.Permissions,
		})
	}
	return r
}

func weightDevices(rates []container.Rate) []*blkiodev.WeightDevice {
	out := []*blkiodev.WeightDevice{}
	for _, r := range rates {
		out = append(out, &blkiodev.WeightDevice{Path: r.Path, Weight: uint16(r.Rate)})
	}
	return out
}

func throttleDevices(rates []container.Rate) []*blkiodev.ThrottleDevice {
	out := []*blkiodev.ThrottleDevice{}
	for _, r := range rates {
		out = append(out, &blkiodev.ThrottleDevice{Path: r.Path, Rate: r.Rate})
	}
	return out
}

func portMapOf(ports []container.Port) network.PortMap {
	m := network.PortMap{}
	for _, p := range ports {
		key, ok := network.PortFrom(p.Container, network.IPProtocol(p.Proto))
		if !ok {
			continue
		}
		b := network.PortBinding{HostPort: p.HostPort}
		if p.HostIP != "" {
			b.HostIP, _ = netip.ParseAddr(p.HostIP)
		}
		m[key] = append(m[key], b)
	}
	return m
}

func mountObject(m *container.Mount) mount.Mount {
	a := mount.Mount{Type: mount.Type(m.Type), Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	switch a.Type {
	case mount.TypeBind:
		o := mount.BindOptions{
			Propagation: mount.Propagation(m.Propagation), NonRecursive: m.NonRecursive, CreateMountpoint: m.CreateSource,
			ReadOnlyNonRecursive: m.ReadOnlyNonRecursive, ReadOnlyForceRecursive: m.ReadOnlyForceRecursive,
		}
		if o != (mount.BindOptions{}) {
			a.BindOptions = &o
		}
	case mount.TypeVolume:
		if m.Anonymous {
			a.Source = ""
		}
		if m.NoCopy || len(m.Labels) > 0 || m.Subpath != "" || m.Driver != "" || len(m.DriverOpts) > 0 {
			a.VolumeOptions = &mount.VolumeOptions{NoCopy: m.NoCopy, Labels: m.Labels, Subpath: m.Subpath}
			if m.Driver != "" || len(m.DriverOpts) > 0 {
				a.VolumeOptions.DriverConfig = &mount.Driver{Name: m.Driver, Options: m.DriverOpts}
			}
		}
	case mount.TypeTmpfs:
		if m.TmpfsSize != 0 || m.TmpfsMode != 0 || m.TmpfsOptions != "" {
			a.TmpfsOptions = &mount.TmpfsOptions{SizeBytes: m.TmpfsSize, Mode: fileMode(m.TmpfsMode)}
			for option := range strings.SplitSeq(m.TmpfsOptions, ",") {
				if option != "" {
					a.TmpfsOptions.Options = append(a.TmpfsOptions.Options, strings.SplitN(option, "=", 2))
				}
			}
		}
	case mount.TypeImage:
		if m.Subpath != "" {
			a.ImageOptions = &mount.ImageOptions{Subpath: m.Subpath}
		}
	}
	return a
}

// mountPoints is what is mounted where, with the places on the host filled in.
func (s *Server) mountPoints(rec container.Record) []api.MountPoint {
	points := []api.MountPoint{}
	for i := range rec.Config.Mounts {
		m := &rec.Config.Mounts[i]
		p := api.MountPoint{
			Type: mount.Type(m.Type), Source: m.Source, Destination: m.Target, Mode: m.Mode, RW: !m.ReadOnly,
			Propagation: mount.Propagation(m.Propagation),
		}
		switch p.Type {
		case mount.TypeBind:
			if p.Propagation == "" {
				p.Propagation = mount.PropagationRPrivate
			}
		case mount.TypeVolume:
			s.volumePoint(&p, volumeAt(rec, m.Target))
			if m.FromAPI != "mounts" && p.Mode == "" && m.Source != "" && !m.Anonymous {
				p.Mode = "z"
			}
		}
		points = append(points, p)
	}
	for _, v := range rec.Volumes {
		if !slices.ContainsFunc(points, func(p api.MountPoint) bool { return p.Destination == v.Target }) {
			p := api.MountPoint{Type: mount.TypeVolume, Destination: v.Target, RW: true}
			s.volumePoint(&p, v.Name)
			points = append(points, p)
		}
	}
	return points
}

// volumeAt is the name of the volume that rec holds at target.
func volumeAt(rec container.Record, target string) string {
	for _, v := range rec.Volumes {
		if v.Target == target {
			return v.Name
		}
	}
	return ""
}

func (s *Server) volumePoint(p *api.MountPoint, name string) {
	p.Name, p.Driver = name, "local"
	if v, err := s.engine.Volumes.Get(name); err == nil {
		p.Source = v.Mountpoint
	}
}

// networkSettingsOf is how the container is attached now. Addresses are shown while it runs.
func (s *Server) networkSettingsOf(rec container.Record) *api.NetworkSettings {
	ns := &api.NetworkSettings{Networks: map[string]*network.EndpointSettings{}, Ports: network.PortMap{}}
	alive := rec.State.Alive()
	if alive {
		ns.SandboxID = rec.ID
		ns.SandboxKey = "/proc/" + strconv.Itoa(rec.State.Pid) + "/ns/net"
		ns.Ports = publishedPorts(rec)
	}
	for i := range rec.Config.Net.Endpoints {
		e := &rec.Config.Net.Endpoints[i]
		ns.Networks[e.Network] = endpointAsked(rec, e)
	}
	for i := range rec.Endpoints {
		a := &rec.Endpoints[i]
		e := ns.Networks[a.Network]
		if e == nil {
			e = &network.EndpointSettings{}
			ns.Networks[a.Network] = e
		}
		e.NetworkID = a.NetworkID
		if alive {
			endpointNow(e, a)
		}
	}
	if name := rec.Config.Net.Unplugged(); name != "" {
		e := &network.EndpointSettings{}
		if n, err := s.engine.Networks.ResolveNetwork(name); err == nil && !rec.State.StartedAt.IsZero() {
			if e.NetworkID = n.ID; alive {
				e.EndpointID = endpointWithout(rec.ID, n.ID)
			}
		}
		ns.Networks[name] = e
	}
	return ns
}

// endpointWithout is the ID of an endpoint on a network on which containers have no interface: clients want one.
func endpointWithout(containerID, networkID string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(containerID+networkID)))
}

func endpointAsked(rec container.Record, e *container.Endpoint) *network.EndpointSettings {
	s := &network.EndpointSettings{
		Aliases: e.Aliases, DriverOpts: e.DriverOpts, GwPriority: e.GwPriority, Links: e.Links,
	}
	if e.Network != network.NetworkBridge {
		s.DNSNames = append(append([]string{rec.Name}, e.Aliases...), rec.ID[:min(12, len(rec.ID))])
		if h := rec.Config.Hostname; h != "" && !slices.Contains(s.DNSNames, h) {
			s.DNSNames = append(s.DNSNames, h)
		}
	}
	if mac, err := net.ParseMAC(e.MacAddress); err == nil {
		s.MacAddress = network.HardwareAddr(mac)
	}
	if e.IPv4 != "" || e.IPv6 != "" || len(e.LinkLocal) > 0 {
		s.IPAMConfig = &network.EndpointIPAMConfig{}
		s.IPAMConfig.IPv4Address, _ = netip.ParseAddr(e.IPv4)
		s.IPAMConfig.IPv6Address, _ = netip.ParseAddr(e.IPv6)
		for _, ip := range e.LinkLocal {
			if a, err := netip.ParseAddr(ip); err == nil {
				s.IPAMConfig.LinkLocalIPs = append(s.IPAMConfig.LinkLocalIPs, a)
			}
		}
	}
	return s
}

func endpointNow(e *network.EndpointSettings, a *container.Attached) {
	e.EndpointID = a.EndpointID
	if p, err := netip.ParsePrefix(a.IPv4); err == nil {
		e.IPAddress, e.IPPrefixLen = p.Addr(), p.Bits()
	}
	if p, err := netip.ParsePrefix(a.IPv6); err == nil {
		e.GlobalIPv6Address, e.GlobalIPv6PrefixLen = p.Addr(), p.Bits()
	}
	e.Gateway, _ = netip.ParseAddr(a.Gateway)
	e.IPv6Gateway, _ = netip.ParseAddr(a.Gateway6)
	if mac, err := net.ParseMAC(a.MAC); err == nil {
		e.MacAddress = network.HardwareAddr(mac)
	}
}

// publishedPorts is every port the container listens on: those open on the host with where, the others with null.
func publishedPorts(rec container.Record) network.PortMap {
	m := network.PortMap{}
	if len(rec.Endpoints) == 0 { // on the host's network, or on none: no port of its own is anywhere
		return m
	}
	for _, text := range rec.Config.Exposed {
		if p, err := network.ParsePort(text); err == nil {
			m[p] = nil
		}
	}
	for _, p := range rec.Published {
		key, ok := network.PortFrom(p.Container, network.IPProtocol(p.Proto))
		if !ok {
			continue
		}
		b := network.PortBinding{HostPort: strconv.Itoa(int(p.HostPort))}
		if p.HostPort == 0 { // on a routed network: at the container's own address
			b.HostPort = ""
		}
		b.HostIP, _ = netip.ParseAddr(p.HostIP)
		m[key] = append(m[key], b)
	}
	return m
}
