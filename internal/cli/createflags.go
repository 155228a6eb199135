package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"
)

// createFlags are the flags run and create share.
type createFlags struct {
	// How the command itself goes about it.
	name, cidfile, platform, pull string
	quiet, useAPISocket           bool

	// The process.
	attach, env, envFile, labels, labelFiles, groups []string
	entrypoint, user, workdir, stopSignal            string
	stopTimeout                                      int
	stdin, tty, init                                 bool
	annotations                                      map[string]string
	ulimits                                          map[string]*units.Ulimit

	// Its identity and namespaces.
	hostname, domainname, ipc, pid, uts, userns, cgroupns, isolation, runtime string

	// Files.
	volumes, volumesFrom, tmpfs, devices, storageOpts []string
	mounts                                            []mount.Mount
	volumeDriver                                      string
	readonly                                          bool
	shmSize                                           int64

	// Network.
	networks                                          []networkSpec
	publish, expose, aliases, links, hosts, linkLocal []string
	networkOpts, egress                               []string
	dns, dnsOptions, dnsSearch                        []string
	publishAll                                        bool
	ip, ip6, mac                                      string

	// Limits.
	memory, memoryReservation, memorySwap, swappiness                   int64
	cpuShares, cpuPeriod, cpuQuota, rtPeriod, rtRuntime, nanoCPUs, pids int64
	cpusetCPUs, cpusetMems, cgroupParent                                string
	blkioWeight                                                         uint16
	blkioWeights                                                        []*blkiodev.WeightDevice
	readBps, writeBps, readIOps, writeIOps                              []*blkiodev.ThrottleDevice
	deviceRules                                                         []string
	gpus                                                                []container.DeviceRequest
	oomKillDisable                                                      bool
	oomScore                                                            int

	// Rights.
	capAdd, capDrop, security []string
	privileged                bool
	sysctls                   map[string]string

	// Life.
	rm           bool
	restart      string
	logDriver    string
	logOpts      []string
	health       healthFlags
	contentTrust bool
}

type healthFlags struct {
	cmd                                           string
	interval, timeout, startPeriod, startInterval time.Duration
	retries                                       int
	none                                          bool
}

// add defines the flags. lookup is the person's environment.
func (c *createFlags) add(f *pflag.FlagSet, lookup lookupFunc) {
	list := func(to *[]string, name, short, usage string, valid func(string) (string, error)) {
		f.VarP(&listValue{to, valid}, name, short, usage)
	}
	parsed := func(name, short, kind, usage string, set func(string) error) {
		f.VarP(&parsedValue{kind: kind, set: set}, name, short, usage)
	}

	f.StringVar(&c.name, "name", "", "Name the container")
	f.StringVar(&c.cidfile, "cidfile", "", "Write the container's ID to this file")
	f.StringVar(&c.platform, "platform", "", "Platform of the image, where there are several (os/arch[/variant])")
	f.StringVar(&c.pull, "pull", "missing", `When to pull the image ("always", "missing", "never")`)
	f.BoolVarP(&c.quiet, "quiet", "q", false, "Do not show the progress of the pull")
	f.BoolVar(&c.useAPISocket, "use-api-socket", false,
		"Give the container the daemon's socket and the person's registry credentials")

	list(&c.attach, "attach", "a", "Attach to STDIN, STDOUT or STDERR", validAttach)
	list(&c.env, "env", "e", "Set an environment variable", variable(lookup))
	list(&c.envFile, "env-file", "", "Set environment variables from a file", nil)
	list(&c.labels, "label", "l", "Set a label", label)
	list(&c.labelFiles, "label-file", "", "Set labels from a file", nil)
	list(&c.groups, "group-add", "", "Add a group to those of the process", nil)
	f.StringVar(&c.entrypoint, "entrypoint", "", "Replace the image's entrypoint")
	f.StringVarP(&c.user, "user", "u", "", "User to run as (name|uid[:group|gid])")
	f.StringVarP(&c.workdir, "workdir", "w", "", "Working directory inside the container")
	f.StringVar(&c.stopSignal, "stop-signal", "", "Signal that stops the container")
	f.IntVar(&c.stopTimeout, "stop-timeout", 0, "Seconds to wait for the stop before killing")
	f.BoolVarP(&c.stdin, "interactive", "i", false, "Keep STDIN open")
	f.BoolVarP(&c.tty, "tty", "t", false, "Give the process a terminal")
	f.BoolVar(&c.init, "init", false, "Run an init process that forwards signals and reaps processes")
	f.Var(&mapValue{&c.annotations, keyValueOrError}, "annotation", "Add an annotation for the OCI runtime")
	parsed("ulimit", "", "ulimit", "Resource limit of the process (name=soft[:hard])", func(s string) error {
		l, err := units.ParseUlimit(s)
		if err != nil {
			return err
		}
		if c.ulimits == nil {
			c.ulimits = make(map[string]*units.Ulimit)
		}
		c.ulimits[l.Name] = l
		return nil
	})

	f.StringVarP(&c.hostname, "hostname", "h", "", "Host name of the container")
	f.StringVar(&c.domainname, "domainname", "", "NIS domain name of the container")
	f.StringVar(&c.ipc, "ipc", "", "IPC namespace (none|private|shareable|host|container:NAME)")
	f.StringVar(&c.pid, "pid", "", "PID namespace (host|container:NAME)")
	f.StringVar(&c.uts, "uts", "", "UTS namespace (host)")
	f.StringVar(&c.userns, "userns", "", "User namespace (host)")
	f.StringVar(&c.cgroupns, "cgroupns", "", "Cgroup namespace (host|private)")
	f.StringVar(&c.isolation, "isolation", "", "Isolation technology (default)")
	f.StringVar(&c.runtime, "runtime", "", "OCI runtime to use")

	list(&c.volumes, "volume", "v", "Mount a volume or a directory of the host", nil)
	list(&c.volumesFrom, "volumes-from", "", "Mount the volumes of another container", nil)
	list(&c.tmpfs, "tmpfs", "", "Mount a tmpfs (path[:options])", nil)
	list(&c.devices, "device", "", "Add a device of the host", nil)
	list(&c.storageOpts, "storage-opt", "", "Option of the container's storage (size=10G)", nil)
	parsed("mount", "", "mount", "Attach a file system", func(s string) error {
		m, err := parseMount(s)
		if err != nil {
			return err
		}
		c.mounts = append(c.mounts, m)
		return nil
	})
	f.StringVar(&c.volumeDriver, "volume-driver", "", "Driver of the volumes made for this container")
	f.BoolVar(&c.readonly, "read-only", false, "Mount the container's root file system read-only")
	f.Var(bytesValue(&c.shmSize), "shm-size", "Size of /dev/shm")

	network := func(s string) error {
		n, err := parseNetwork(s)
		if err != nil {
			return err
		}
		c.networks = append(c.networks, n)
		return nil
	}
	parsed("network", "", "network", "Connect the container to a network", network)
	parsed("net", "", "network", "Connect the container to a network", network)
	list(&c.publish, "publish", "p", "Publish a port or a range on the host", nil)
	list(&c.expose, "expose", "", "Expose a port or a range", nil)
	f.BoolVarP(&c.publishAll, "publish-all", "P", false, "Publish every exposed port on a free port of the host")
	list(&c.egress, "egress", "", egressUsage, nil)
	list(&c.networkOpts, "network-opt", "", "Bandwidth on a network ([NETWORK:]rx=10mbit,tx=5mbit)", nil)
	list(&c.aliases, "network-alias", "", "Further name of the container on its network", nil)
	list(&c.aliases, "net-alias", "", "Further name of the container on its network", nil)
	list(&c.links, "link", "", "Link to another container", validLink)
	list(&c.hosts, "add-host", "", "Add a line to /etc/hosts (name:address)", validHost)
	list(&c.linkLocal, "link-local-ip", "", "Link-local address", nil)
	list(&c.dns, "dns", "", "DNS server", validIP)
	list(&c.dnsOptions, "dns-option", "", "DNS option", nil)
	list(&c.dnsOptions, "dns-opt", "", "DNS option", nil)
	list(&c.dnsSearch, "dns-search", "", "DNS search domain", validDomain)
	f.StringVar(&c.ip, "ip", "", "IPv4 address")
	f.StringVar(&c.ip6, "ip6", "", "IPv6 address")
	f.StringVar(&c.mac, "mac-address", "", "MAC address")
	for _, hidden := range []string{"net", "net-alias", "dns-opt"} {
		f.Lookup(hidden).Hidden = true
	}

	c.addLimits(f, parsed, list)

	list(&c.capAdd, "cap-add", "", "Add a capability", nil)
	list(&c.capDrop, "cap-drop", "", "Drop a capability", nil)
	list(&c.security, "security-opt", "", "Security option", nil)
	f.BoolVar(&c.privileged, "privileged", false, "Give the container every right of the host's root")
	f.Var(&mapValue{&c.sysctls, sysctl}, "sysctl", "Set a namespaced kernel parameter")

	f.BoolVar(&c.rm, "rm", false, "Remove the container and its anonymous volumes when it exits")
	f.StringVar(&c.restart, "restart", "no", "When to restart the container (no|on-failure[:n]|always|unless-stopped)")
	f.StringVar(&c.logDriver, "log-driver", "", "Log driver")
	list(&c.logOpts, "log-opt", "", "Option of the log driver", nil)
	f.StringVar(&c.health.cmd, "health-cmd", "", "Command that checks the container's health")
	f.DurationVar(&c.health.interval, "health-interval", 0, "Time between checks (ms|s|m|h)")
	f.IntVar(&c.health.retries, "health-retries", 0, "Failures in a row until the container is unhealthy")
	f.DurationVar(&c.health.timeout, "health-timeout", 0, "Time one check may take (ms|s|m|h)")
	f.DurationVar(&c.health.startPeriod, "health-start-period", 0, "Time to start before failures count (ms|s|m|h)")
	f.DurationVar(&c.health.startInterval, "health-start-interval", 0, "Time between checks while starting (ms|s|m|h)")
	f.BoolVar(&c.health.none, "no-healthcheck", false, "Turn off the image's health check")

	f.BoolVar(&c.contentTrust, "disable-content-trust", true, "Images are not verified by Notary; only true is possible")
	f.Lookup("disable-content-trust").Hidden = true
	for _, w := range []struct{ name, kind, reason string }{
		{"cpu-count", "int", "is for Windows containers: use --cpus"},
		{"cpu-percent", "int", "is for Windows containers: use --cpus"},
		{"io-maxbandwidth", "bytes", "is for Windows containers: use --device-read-bps and --device-write-bps"},
		{"io-maxiops", "uint", "is for Windows containers: use --device-read-iops and --device-write-iops"},
		{"kernel-memory", "bytes", "sets a limit Linux no longer has: use --memory"},
	} {
		parsed(w.name, "", w.kind, "Not for Linux containers", func(string) error {
			return fmt.Errorf("--%s %s", w.name, w.reason)
		})
		f.Lookup(w.name).Hidden = true
	}
}

func (c *createFlags) addLimits(f *pflag.FlagSet, parsed func(name, short, kind, usage string, set func(string) error),
	list func(to *[]string, name, short, usage string, valid func(string) (string, error))) {
	f.VarP(bytesValue(&c.memory), "memory", "m", "Limit of memory")
	f.Var(bytesValue(&c.memoryReservation), "memory-reservation", "Memory to fall back to when the host runs short")
	f.Var(swapValue(&c.memorySwap), "memory-swap", "Limit of memory and swap together: -1 for any amount of swap")
	f.Int64Var(&c.swappiness, "memory-swappiness", -1, "How readily the container's memory is swapped (0 to 100)")
	f.Int64VarP(&c.cpuShares, "cpu-shares", "c", 0, "CPU weight relative to other containers")
	f.Int64Var(&c.cpuPeriod, "cpu-period", 0, "Period of the CPU limit in microseconds")
	f.Int64Var(&c.cpuQuota, "cpu-quota", 0, "CPU time per period in microseconds")
	f.Int64Var(&c.rtPeriod, "cpu-rt-period", 0, "Period of the real-time limit in microseconds")
	f.Int64Var(&c.rtRuntime, "cpu-rt-runtime", 0, "Real-time CPU time per period in microseconds")
	f.Var(cpusValue(&c.nanoCPUs), "cpus", "Number of CPUs")
	f.StringVar(&c.cpusetCPUs, "cpuset-cpus", "", "CPUs to run on (0-3, 0,1)")
	f.StringVar(&c.cpusetMems, "cpuset-mems", "", "Memory nodes to use (0-3, 0,1)")
	f.Int64Var(&c.pids, "pids-limit", 0, "Limit of processes (-1 for any number)")
	f.StringVar(&c.cgroupParent, "cgroup-parent", "", "Parent cgroup of the container")
	f.Uint16Var(&c.blkioWeight, "blkio-weight", 0, "Block I/O weight between 10 and 1000, or 0")
	parsed("blkio-weight-device", "", "list", "Block I/O weight for a device (/dev/sda:500)", func(s string) error {
		w, err := parseWeight(s)
		c.blkioWeights = append(c.blkioWeights, w)
		return err
	})
	for _, t := range []struct {
		name, usage string
		to          *[]*blkiodev.ThrottleDevice
		parse       func(string) (*blkiodev.ThrottleDevice, error)
	}{
		{"device-read-bps", "Limit of bytes read per second (/dev/sda:1mb)", &c.readBps, parseBps},
		{"device-write-bps", "Limit of bytes written per second (/dev/sda:1mb)", &c.writeBps, parseBps},
		{"device-read-iops", "Limit of reads per second (/dev/sda:1000)", &c.readIOps, parseIOps},
		{"device-write-iops", "Limit of writes per second (/dev/sda:1000)", &c.writeIOps, parseIOps},
	} {
		parsed(t.name, "", "list", t.usage, func(s string) error {
			d, err := t.parse(s)
			*t.to = append(*t.to, d)
			return err
		})
	}
	list(&c.deviceRules, "device-cgroup-rule", "", "Allow devices by rule ('c 1:3 rwm')", validDeviceRule)
	parsed("gpus", "", "gpu-request", "GPUs to add (all, a number, or device=…)", func(s string) error {
		g, err := parseGPUs(s)
		if err == nil {
			c.gpus = append(c.gpus, g)
		}
		return err
	})
	f.BoolVar(&c.oomKillDisable, "oom-kill-disable", false, "Do not kill processes when memory runs out")
	f.IntVar(&c.oomScore, "oom-score-adj", 0, "The host's preference for killing the container (-1000 to 1000)")
}

// createRequest is what the flags and arguments ask the server for.
type createRequest struct {
	config   *container.Config
	host     *container.HostConfig
	network  *network.NetworkingConfig
	platform *ocispec.Platform
}

// request puts the flags together with the image and the command.
func (c *createFlags) request(f *pflag.FlagSet, args []string, lookup lookupFunc) (*createRequest, error) {
	if err := c.conflicts(f); err != nil {
		return nil, err
	}
	config, err := c.processConfig(f, args, lookup)
	if err != nil {
		return nil, err
	}
	host := &container.HostConfig{
		ContainerIDFile: c.cidfile, AutoRemove: c.rm, Privileged: c.privileged, PublishAllPorts: c.publishAll,
		ReadonlyRootfs: c.readonly, OomScoreAdj: c.oomScore, ShmSize: c.shmSize, Runtime: c.runtime,
		IpcMode: container.IpcMode(c.ipc), PidMode: container.PidMode(c.pid), UTSMode: container.UTSMode(c.uts),
		UsernsMode: container.UsernsMode(c.userns), CgroupnsMode: container.CgroupnsMode(c.cgroupns),
		Isolation: container.Isolation(c.isolation), Links: c.links, ExtraHosts: c.hosts, GroupAdd: c.groups,
		CapAdd: c.capAdd, CapDrop: c.capDrop, DNSOptions: c.dnsOptions, DNSSearch: c.dnsSearch,
		VolumesFrom: c.volumesFrom, VolumeDriver: c.volumeDriver, Mounts: c.mounts, Sysctls: c.sysctls,
		Annotations: c.annotations,
		Resources:   c.resources(),
	}
	if len(c.storageOpts) > 0 {
		host.StorageOpt = make(map[string]string)
		for _, o := range c.storageOpts {
			k, v, ok := strings.Cut(o, "=")
			if !ok {
				return nil, fmt.Errorf("invalid storage option: write %q as key=value", o)
			}
			host.StorageOpt[k] = v
		}
	}
	if f.Changed("init") {
		host.Init = &c.init
	}
	if err := c.files(config, host); err != nil {
		return nil, err
	}
	if err := c.modes(host); err != nil {
		return nil, err
	}
	if host.RestartPolicy, err = parseRestart(c.restart); err != nil {
		return nil, err
	}
	if host.SecurityOpt, host.MaskedPaths, host.ReadonlyPaths, err = parseSecurity(c.security); err != nil {
		return nil, err
	}
	if host.LogConfig, err = c.logConfig(); err != nil {
		return nil, err
	}
	for _, s := range c.dns {
		addr, err := parseIP(s)
		if err != nil {
			return nil, err
		}
		host.DNS = append(host.DNS, addr)
	}
	if config.ExposedPorts, host.PortBindings, err = parsePorts(c.publish, c.expose); err != nil {
		return nil, err
	}
	for _, d := range c.devices {
		if cdiName(d) {
			host.DeviceRequests = appendCDI(host.DeviceRequests, d)
			continue
		}
		if _, err := validDevice(d); err != nil {
			return nil, err
		}
		device, err := parseDevice(d)
		if err != nil {
			return nil, err
		}
		host.Devices = append(host.Devices, device)
	}
	net, err := c.endpoints(host)
	if err != nil {
		return nil, err
	}
	r := &createRequest{config: config, host: host, network: net}
	if c.platform != "" {
		if r.platform, err = parsePlatform(c.platform); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// conflicts finds flags that cannot be or not stand together.
func (c *createFlags) conflicts(f *pflag.FlagSet) error {
	switch {
	case !c.contentTrust:
		return errors.New("images are not verified by Notary: leave --disable-content-trust out")
	case c.isolation != "" && c.isolation != "default":
		return fmt.Errorf("--isolation %s is for Windows containers: leave it out", c.isolation)
	case c.swappiness != -1 && (c.swappiness < 0 || c.swappiness > 100):
		return fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", c.swappiness)
	case !slices.Contains([]string{"always", "missing", "never"}, c.pull):
		return fmt.Errorf("invalid pull option: '%s': must be one of \"always\", \"missing\" or \"never\"", c.pull)
	case c.rm && c.restart != "no" && c.restart != "":
		return errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	if c.mac != "" {
		if _, err := validMAC(c.mac); err != nil {
			return err
		}
	}
	return nil
}

func (c *createFlags) processConfig(f *pflag.FlagSet, args []string, lookup lookupFunc) (*container.Config, error) {
	env, err := environment(c.envFile, c.env, lookup)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for _, path := range c.labelFiles {
		more, err := readKeyValueFile(path, nil)
		if err != nil {
			return nil, err
		}
		for k, v := range keyValues(more) {
			labels[k] = v
		}
	}
	for k, v := range keyValues(c.labels) {
		labels[k] = v
	}
	health, err := c.health.config()
	if err != nil {
		return nil, err
	}
	config := &container.Config{
		Hostname: c.hostname, Domainname: c.domainname, User: c.user, Tty: c.tty, OpenStdin: c.stdin, Env: env,
		Image: args[0], Volumes: map[string]struct{}{}, WorkingDir: c.workdir, Labels: labels, StopSignal: c.stopSignal,
		Healthcheck:  health,
		AttachStdin:  slices.Contains(c.attach, "stdin") || c.stdin && len(c.attach) == 0,
		AttachStdout: slices.Contains(c.attach, "stdout") || len(c.attach) == 0,
		AttachStderr: slices.Contains(c.attach, "stderr") || len(c.attach) == 0,
	}
	if len(args) > 1 {
		config.Cmd = args[1:]
	}
	if c.entrypoint != "" {
		config.Entrypoint = []string{c.entrypoint}
	} else if f.Changed("entrypoint") {
		config.Entrypoint = []string{""} // the image's is dropped
	}
	if f.Changed("stop-timeout") {
		config.StopTimeout = &c.stopTimeout
	}
	config.StdinOnce = config.OpenStdin && config.AttachStdin
	return config, nil
}

func (h *healthFlags) config() (*container.HealthConfig, error) {
	set := h.cmd != "" || h.interval != 0 || h.timeout != 0 || h.startPeriod != 0 || h.startInterval != 0 || h.retries != 0
	if h.none {
		if set {
			return nil, errors.New("--no-healthcheck conflicts with --health-* options")
		}
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	}
	if !set {
		return nil, nil
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"interval", h.interval}, {"timeout", h.timeout}, {"start-period", h.startPeriod},
		{"start-interval", h.startInterval}} {
		if d.value < 0 {
			return nil, fmt.Errorf("--health-%s cannot be negative", d.name)
		}
	}
	if h.retries < 0 {
		return nil, errors.New("--health-retries cannot be negative")
	}
	config := &container.HealthConfig{Interval: h.interval, Timeout: h.timeout, StartPeriod: h.startPeriod,
		StartInterval: h.startInterval, Retries: h.retries}
	if h.cmd != "" {
		config.Test = []string{"CMD-SHELL", h.cmd}
	}
	return config, nil
}

func (c *createFlags) resources() container.Resources {
	r := container.Resources{
		Memory: c.memory, MemoryReservation: c.memoryReservation, MemorySwap: c.memorySwap, MemorySwappiness: &c.swappiness,
		CPUShares: c.cpuShares, CPUPeriod: c.cpuPeriod, CPUQuota: c.cpuQuota, CPURealtimePeriod: c.rtPeriod,
		CPURealtimeRuntime: c.rtRuntime, NanoCPUs: c.nanoCPUs, CpusetCpus: c.cpusetCPUs, CpusetMems: c.cpusetMems,
		CgroupParent: c.cgroupParent, PidsLimit: &c.pids, BlkioWeight: c.blkioWeight, BlkioWeightDevice: c.blkioWeights,
		BlkioDeviceReadBps: c.readBps, BlkioDeviceWriteBps: c.writeBps, BlkioDeviceReadIOps: c.readIOps,
		BlkioDeviceWriteIOps: c.writeIOps, DeviceCgroupRules: c.deviceRules, DeviceRequests: c.gpus,
		OomKillDisable: &c.oomKillDisable, Devices: []container.DeviceMapping{},
	}
	for _, name := range sortedKeys(c.ulimits) {
		r.Ulimits = append(r.Ulimits, c.ulimits[name])
	}
	return r
}

// files sorts the values of -v and --tmpfs into the request.
func (c *createFlags) files(config *container.Config, host *container.HostConfig) error {
	for _, value := range c.volumes {
		v, err := parseVolume(value)
		if err != nil {
			return err
		}
		if v.Source == "" {
			config.Volumes[v.Target] = struct{}{}
		} else if !slices.Contains(host.Binds, v.Bind) {
			host.Binds = append(host.Binds, v.Bind)
		}
	}
	for _, value := range c.tmpfs {
		if host.Tmpfs == nil {
			host.Tmpfs = make(map[string]string)
		}
		path, options, _ := strings.Cut(value, ":")
		host.Tmpfs[path] = options
	}
	return nil
}

func (c *createFlags) modes(host *container.HostConfig) error {
	switch {
	case !host.PidMode.Valid():
		return errors.New("--pid: invalid PID mode")
	case !host.UTSMode.Valid():
		return errors.New("--uts: invalid UTS mode")
	case !host.UsernsMode.Valid():
		return errors.New("--userns: invalid USER mode")
	case !host.CgroupnsMode.Valid():
		return errors.New("--cgroupns: invalid CGROUP mode")
	}
	return nil
}

func (c *createFlags) logConfig() (container.LogConfig, error) {
	if c.logDriver == "none" && len(c.logOpts) > 0 {
		return container.LogConfig{}, errors.New("invalid logging opts for driver none")
	}
	return container.LogConfig{Type: c.logDriver, Config: keyValues(c.logOpts)}, nil
}

// endpoints makes the networks of the request. The flags that are about one network without naming it are about the
// first.
func (c *createFlags) endpoints(host *container.HostConfig) (*network.NetworkingConfig, error) {
	networks := slices.Clone(c.networks)
	if len(networks) == 0 {
		networks = []networkSpec{{name: "default"}}
		host.NetworkMode = "default"
	} else {
		host.NetworkMode = container.NetworkMode(networks[0].name)
	}
	if err := c.firstNetwork(&networks[0]); err != nil {
		return nil, err
	}
	if err := c.networkOptions(networks); err != nil {
		return nil, err
	}
	config := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{}}
	own, builtin := false, false
	for i := range networks {
		n := &networks[i]
		if userDefined(n.name) {
			own = true
		} else {
			builtin = true
		}
		if _, twice := config.EndpointsConfig[n.name]; twice {
			return nil, fmt.Errorf("network %q is specified multiple times", n.name)
		}
		if strings.TrimSpace(n.name) == "" {
			return nil, errors.New("no name set for network")
		}
		if !userDefined(n.name) && (len(n.aliases) > 0 || len(n.links) > 0) {
			if len(n.aliases) > 0 {
				return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
			}
			return nil, errors.New("links are only supported for user-defined networks")
		}
		if len(networks) == 1 && n.plain() {
			continue // the mode says it all
		}
		e, err := n.endpoint()
		if err != nil {
			return nil, err
		}
		config.EndpointsConfig[n.name] = e
	}
	if own && builtin {
		return nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return config, nil
}

// networkOptions gives the values of --network-opt to their networks.
func (c *createFlags) networkOptions(networks []networkSpec) error {
	for _, value := range c.networkOpts {
		name, options, err := parseNetworkOpt(value)
		if err != nil {
			return err
		}
		i := 0
		if name != "" {
			i = slices.IndexFunc(networks, func(n networkSpec) bool { return n.name == name })
		}
		if i < 0 {
			return fmt.Errorf("invalid network option %q: the container is not on network %q", value, name)
		}
		if mode := container.NetworkMode(networks[i].name); mode.IsHost() || mode.IsNone() || mode.IsContainer() {
			return fmt.Errorf("invalid network option %q: with network %q the container has no interface of its own", value, mode)
		}
		for k, v := range options {
			setKeyValue(&networks[i].driverOpts, k+"="+v)
		}
	}
	for i := range networks {
		if len(c.egress) == 0 {
			break
		}
		if mode := container.NetworkMode(networks[i].name); mode.IsHost() || mode.IsNone() || mode.IsContainer() {
			return fmt.Errorf("conflicting options: --egress and the network %q, with which the container has no interface of its own", mode)
		}
		setKeyValue(&networks[i].driverOpts, egressOption+"="+strings.Join(c.egress, ","))
	}
	return nil
}

func (c *createFlags) firstNetwork(n *networkSpec) error {
	conflict := func(a, b string) error {
		return fmt.Errorf("conflicting options: cannot specify both %s and %s", a, b)
	}
	switch {
	case len(n.aliases) > 0 && len(c.aliases) > 0:
		return conflict("--network-alias", "per-network alias")
	case n.ip.IsValid() && c.ip != "":
		return conflict("--ip", "per-network IPv4 address")
	case n.ip6.IsValid() && c.ip6 != "":
		return conflict("--ip6", "per-network IPv6 address")
	case n.mac != "" && c.mac != "":
		return conflict("--mac-address", "per-network MAC address")
	case len(n.linkLocal) > 0 && len(c.linkLocal) > 0:
		return conflict("--link-local-ip", "per-network link-local IP addresses")
	}
	var err error
	n.aliases = append(n.aliases, c.aliases...)
	if userDefined(n.name) {
		n.links = append(n.links, c.links...)
	}
	if c.ip != "" {
		if n.ip, err = parseIP(c.ip); err != nil {
			return fmt.Errorf("invalid IPv4 address: %s", c.ip)
		}
	}
	if c.ip6 != "" {
		if n.ip6, err = parseIP(c.ip6); err != nil {
			return fmt.Errorf("invalid IPv6 address: %s", c.ip6)
		}
	}
	for _, s := range c.linkLocal {
		a, err := parseIP(s)
		if err != nil {
			return fmt.Errorf("invalid link-local address: %s", s)
		}
		n.linkLocal = append(n.linkLocal, a)
	}
	if c.mac != "" {
		n.mac = strings.TrimSpace(c.mac)
	}
	return nil
}

// appendCDI collects the names of CDI devices in one request.
func appendCDI(requests []container.DeviceRequest, name string) []container.DeviceRequest {
	for i := range requests {
		if requests[i].Driver == "cdi" {
			requests[i].DeviceIDs = append(requests[i].DeviceIDs, name)
			return requests
		}
	}
	return append(requests, container.DeviceRequest{Driver: "cdi", DeviceIDs: []string{name}})
}

func validAttach(s string) (string, error) {
	s = strings.ToLower(s)
	if s == "stdin" || s == "stdout" || s == "stderr" {
		return s, nil
	}
	return "", errors.New("valid streams are STDIN, STDOUT and STDERR")
}

func keyValueOrError(s string) (string, error) {
	if k, _, ok := strings.Cut(s, "="); !ok || k == "" {
		return "", fmt.Errorf("invalid format %q: write it as key=value", s)
	}
	return s, nil
}

func sysctl(s string) (string, error) {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" || v == "" {
		return "", fmt.Errorf("sysctl '%s' is not allowed: write it as name=value", s)
	}
	return s, nil
}

func parseIP(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return a, fmt.Errorf("%s is not an ip address", s)
	}
	return a, nil
}

func validIP(s string) (string, error) {
	a, err := parseIP(s)
	if err != nil {
		return "", fmt.Errorf("IP address is not correctly formatted: %s", s)
	}
	return a.String(), nil
}

// validDomain checks a search domain. A dot alone means none.
func validDomain(s string) (string, error) {
	s = strings.TrimSpace(s)
	if s == "." {
		return s, nil
	}
	name := strings.TrimSuffix(s, ".")
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || len(part) > 63 || strings.ContainsFunc(part, func(r rune) bool {
			return !letterOrDigit(r) && r != '-' && r != '_'
		}) || strings.Trim(name, "0123456789.-_") == "" {
			return "", fmt.Errorf("%s is not a valid domain", s)
		}
	}
	if len(name) > 255 {
		return "", fmt.Errorf("%s is not a valid domain", s)
	}
	return s, nil
}

// parsePlatform reads os[/arch[/variant]].
func parsePlatform(s string) (*ocispec.Platform, error) {
	parts := strings.Split(s, "/")
	strange := func(r rune) bool { return !letterOrDigit(r) && !strings.ContainsRune("_-.", r) }
	for _, p := range parts {
		if p == "" || strings.ContainsFunc(p, strange) {
			return nil, fmt.Errorf("invalid platform %q: write it as os/arch or os/arch/variant, like linux/arm64", s)
		}
	}
	p := &ocispec.Platform{}
	switch len(parts) {
	case 3:
		p.Variant = parts[2]
		fallthrough
	case 2:
		p.OS, p.Architecture = strings.ToLower(parts[0]), architecture(parts[1])
	case 1:
		p.OS, p.Architecture = "linux", architecture(parts[0])
		if strings.EqualFold(parts[0], "linux") {
			p.Architecture = runtime.GOARCH
		}
	default:
		return nil, fmt.Errorf("invalid platform %q: write it as os/arch or os/arch/variant, like linux/arm64", s)
	}
	return p, nil
}

// architecture gives the name Go and OCI have for what uname and others call otherwise.
func architecture(s string) string {
	s = strings.ToLower(s)
	switch s {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
