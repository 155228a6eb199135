package container

import "time"

// Config is what the user asked for when the container was created, complete and already merged with the image's
// defaults. It is saved inside the Record and never changes afterwards, except through Update.
type Config struct {
	// Image is the reference as the user typed it; ImageID the digest it resolved to.
	Image   string `json:"image"`
	ImageID string `json:"imageID"`

	Process  Process     `json:"process"`
	Hostname string      `json:"hostname"`
	Domain   string      `json:"domain,omitempty"`
	Labels   Map         `json:"labels,omitempty"`
	Exposed  []string    `json:"exposed,omitempty"` // "80/tcp"
	Volumes  []string    `json:"volumes,omitempty"` // anonymous volume destinations asked for by image or user
	Mounts   []Mount     `json:"mounts,omitempty"`
	Tmpfs    Map         `json:"tmpfs,omitempty"` // destination → options
	Net      Network     `json:"net"`
	Limits   Limits      `json:"limits"`
	Security Security    `json:"security"`
	Log      Log         `json:"log"`
	Restart  Restart     `json:"restart"`
	Health   *Health     `json:"health,omitempty"`
	Extra    Passthrough `json:"extra"`

	StopSignal  string   `json:"stopSignal,omitempty"`
	StopTimeout *int     `json:"stopTimeout,omitempty"` // seconds; nil means the daemon's default of 10
	AutoRemove  bool     `json:"autoRemove,omitempty"`
	Init        bool     `json:"init,omitempty"`
	ReadOnly    bool     `json:"readOnly,omitempty"`
	ShmSize     int64    `json:"shmSize,omitempty"` // bytes; 0 means 64 MiB
	Runtime     string   `json:"runtime,omitempty"` // "" means our own
	Platform    string   `json:"platform,omitempty"`
	CIDFile     string   `json:"cidFile,omitempty"`
	VolumesFrom []string `json:"volumesFrom,omitempty"`
}

// Map is a string map; a name of its own keeps the struct above readable.
type Map = map[string]string

// Process is the container's first process.
type Process struct {
	Entrypoint   []string `json:"entrypoint,omitempty"`
	Cmd          []string `json:"cmd,omitempty"`
	Env          []string `json:"env,omitempty"`
	WorkingDir   string   `json:"workingDir,omitempty"`
	User         string   `json:"user,omitempty"` // "", "name", "uid", "name:group", "uid:gid"
	Tty          bool     `json:"tty,omitempty"`
	OpenStdin    bool     `json:"openStdin,omitempty"`
	StdinOnce    bool     `json:"stdinOnce,omitempty"`
	AttachStdin  bool     `json:"attachStdin,omitempty"`
	AttachStdout bool     `json:"attachStdout,omitempty"`
	AttachStderr bool     `json:"attachStderr,omitempty"`
	ConsoleRows  uint     `json:"consoleRows,omitempty"`
	ConsoleCols  uint     `json:"consoleCols,omitempty"`
	GroupAdd     []string `json:"groupAdd,omitempty"`
}

// Argv is the entrypoint followed by the command.
func (p Process) Argv() []string {
	return append(append([]string(nil), p.Entrypoint...), p.Cmd...)
}

// Mount is a bind mount, a named or anonymous volume, a tmpfs, or an image.
type Mount struct {
	Type        string `json:"type"`             // "bind", "volume", "tmpfs", "image"
	Source      string `json:"source,omitempty"` // host path, volume name, image reference; "" for tmpfs
	Target      string `json:"target"`
	ReadOnly    bool   `json:"readOnly,omitempty"`
	Propagation string `json:"propagation,omitempty"` // "rprivate" …, bind only
	// Mode is what stood behind the last colon of -v, as the API shows it again ("z", "ro", "rw,rslave").
	Mode         string `json:"mode,omitempty"`
	NonRecursive bool   `json:"nonRecursive,omitempty"`
	// ReadOnlyNonRecursive leaves submounts of a read-only bind writable; ReadOnlyForceRecursive fails where the
	// kernel cannot make them read-only too.
	ReadOnlyNonRecursive   bool   `json:"readOnlyNonRecursive,omitempty"`
	ReadOnlyForceRecursive bool   `json:"readOnlyForceRecursive,omitempty"`
	CreateSource           bool   `json:"createSource,omitempty"` // -v makes a missing host directory; --mount does not
	NoCopy                 bool   `json:"noCopy,omitempty"`
	Driver                 string `json:"driver,omitempty"`
	DriverOpts             Map    `json:"driverOpts,omitempty"`
	Labels                 Map    `json:"labels,omitempty"`
	Subpath                string `json:"subpath,omitempty"`
	TmpfsSize              int64  `json:"tmpfsSize,omitempty"` // bytes
	TmpfsMode              uint32 `json:"tmpfsMode,omitempty"`
	TmpfsOptions           string `json:"tmpfsOptions,omitempty"`
	// Anonymous marks a volume whose name was made up; `rm -v` and --rm remove it.
	Anonymous bool `json:"anonymous,omitempty"`
	// FromAPI says whether the mount came as a bind string (-v) or as a mount object (--mount), so that inspect
	// can show HostConfig.Binds and HostConfig.Mounts as they were given.
	FromAPI string `json:"fromAPI,omitempty"` // "binds" or "mounts"
}

// Network is how the container is attached.
type Network struct {
	// Mode is "bridge" (or "default"), "none", "host", "container:<id>", or a network's name.
	Mode       string     `json:"mode"`
	Endpoints  []Endpoint `json:"endpoints,omitempty"`
	Ports      []Port     `json:"ports,omitempty"`
	PublishAll bool       `json:"publishAll,omitempty"`
	DNS        []string   `json:"dns,omitempty"`
	DNSSearch  []string   `json:"dnsSearch,omitempty"`
	DNSOptions []string   `json:"dnsOptions,omitempty"`
	ExtraHosts []string   `json:"extraHosts,omitempty"` // "name:ip"
	Links      []string   `json:"links,omitempty"`
	MacAddress string     `json:"macAddress,omitempty"`
	Disabled   bool       `json:"disabled,omitempty"`
	// Disconnected says that the user took the container off the network of its Mode, so that no Endpoints means none.
	Disconnected bool `json:"disconnected,omitempty"`
}

// Unplugged is the network, "host" or "none", of a container that has no interface of its own on any; "" for others.
func (n *Network) Unplugged() string {
	if n.Mode == "host" || n.Mode == "none" && len(n.Endpoints) == 0 && !n.Disconnected {
		return n.Mode
	}
	return ""
}

// Endpoint is one network the container joins, by the name the user gave.
type Endpoint struct {
	Network    string   `json:"network"`
	Aliases    []string `json:"aliases,omitempty"`
	IPv4       string   `json:"ipv4,omitempty"`
	IPv6       string   `json:"ipv6,omitempty"`
	MacAddress string   `json:"macAddress,omitempty"`
	DriverOpts Map      `json:"driverOpts,omitempty"`
	GwPriority int      `json:"gwPriority,omitempty"`
	Links      []string `json:"links,omitempty"`
	LinkLocal  []string `json:"linkLocal,omitempty"`
}

// Port is one published port as asked for; HostPort "" means any free one, "8000-8010" a range.
type Port struct {
	Container uint16 `json:"container"`
	Proto     string `json:"proto"` // "tcp", "udp", "sctp"
	HostIP    string `json:"hostIP,omitempty"`
	HostPort  string `json:"hostPort,omitempty"`
}

// Limits are what the kernel must enforce on the container's cgroup and processes. Zero means unset.
type Limits struct {
	Memory            int64    `json:"memory,omitempty"`     // bytes
	MemorySwap        int64    `json:"memorySwap,omitempty"` // bytes of memory plus swap; -1 unlimited
	MemoryReservation int64    `json:"memoryReservation,omitempty"`
	MemorySwappiness  *int64   `json:"memorySwappiness,omitempty"`
	OomKillDisable    bool     `json:"oomKillDisable,omitempty"`
	OomScoreAdj       int      `json:"oomScoreAdj,omitempty"`
	NanoCPUs          int64    `json:"nanoCPUs,omitempty"`
	CPUShares         int64    `json:"cpuShares,omitempty"`
	CPUPeriod         int64    `json:"cpuPeriod,omitempty"` // microseconds
	CPUQuota          int64    `json:"cpuQuota,omitempty"`  // microseconds
	CPURtPeriod       int64    `json:"cpuRtPeriod,omitempty"`
	CPURtRuntime      int64    `json:"cpuRtRuntime,omitempty"`
	CpusetCpus        string   `json:"cpusetCpus,omitempty"`
	CpusetMems        string   `json:"cpusetMems,omitempty"`
	PidsLimit         *int64   `json:"pidsLimit,omitempty"` // nil or ≤ 0: unlimited
	BlkioWeight       uint16   `json:"blkioWeight,omitempty"`
	BlkioWeightDevice []Rate   `json:"blkioWeightDevice,omitempty"`
	ReadBps           []Rate   `json:"readBps,omitempty"`
	WriteBps          []Rate   `json:"writeBps,omitempty"`
	ReadIOps          []Rate   `json:"readIOps,omitempty"`
	WriteIOps         []Rate   `json:"writeIOps,omitempty"`
	Ulimits           []Ulimit `json:"ulimits,omitempty"`
	Devices           []Device `json:"devices,omitempty"`
	DeviceRules       []string `json:"deviceRules,omitempty"` // "c 42:* rmw"
	CgroupParent      string   `json:"cgroupParent,omitempty"`
}

// Rate is a per-device limit: bytes or operations a second, or a weight.
type Rate struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}

// Ulimit is a resource limit by Docker's name ("nofile").
type Ulimit struct {
	Name string `json:"name"`
	Soft int64  `json:"soft"` // -1: unlimited
	Hard int64  `json:"hard"`
}

// Device is a host device given to the container.
type Device struct {
	Host        string `json:"host"`
	Container   string `json:"container"`
	Permissions string `json:"permissions"` // subset of "rwm"
}

// Security is what the container may do.
type Security struct {
	Privileged      bool     `json:"privileged,omitempty"`
	CapAdd          []string `json:"capAdd,omitempty"`
	CapDrop         []string `json:"capDrop,omitempty"`
	NoNewPrivileges bool     `json:"noNewPrivileges,omitempty"`
	// Seccomp is "" for the default profile, "unconfined", or the profile's JSON text.
	Seccomp  string   `json:"seccomp,omitempty"`
	AppArmor string   `json:"apparmor,omitempty"`
	Labels   []string `json:"labels,omitempty"` // SELinux label= options
	// Options are --security-opt strings as given, for inspect.
	Options       []string `json:"options,omitempty"`
	MaskedPaths   []string `json:"maskedPaths"`   // nil: Docker's defaults
	ReadonlyPaths []string `json:"readonlyPaths"` // nil: Docker's defaults
	Sysctls       Map      `json:"sysctls,omitempty"`
	IpcMode       string   `json:"ipcMode,omitempty"` // "", "private", "shareable", "host", "none", "container:<id>"
	PidMode       string   `json:"pidMode,omitempty"` // "", "host", "container:<id>"
	UTSMode       string   `json:"utsMode,omitempty"` // "", "host"
	UsernsMode    string   `json:"usernsMode,omitempty"`
	CgroupnsMode  string   `json:"cgroupnsMode,omitempty"` // "", "private", "host"
}

// Log says where output goes.
type Log struct {
	Driver  string `json:"driver"` // "json-file", "none", "local"
	Options Map    `json:"options,omitempty"`
}

// Restart is the restart policy.
type Restart struct {
	Name       string `json:"name"` // "", "no", "on-failure", "always", "unless-stopped"
	MaxRetries int    `json:"maxRetries,omitempty"`
}

// Health is a health check.
type Health struct {
	Test          []string      `json:"test,omitempty"`
	Interval      time.Duration `json:"interval,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	Retries       int           `json:"retries,omitempty"`
}

// Passthrough holds fields with no effect on the kernel that clients expect to read back unchanged.
type Passthrough struct {
	OnBuild     []string `json:"onBuild,omitempty"`
	Shell       []string `json:"shell,omitempty"`
	Annotations Map      `json:"annotations,omitempty"`
	StorageOpt  Map      `json:"storageOpt,omitempty"`
}
