package container

import "time"

// recordVersion is the version of record.json this package writes.
const recordVersion = 1

// Status is where a container stands in its life; the words are the Docker API's.
type Status string

// The statuses; the package comment draws the ways between them.
const (
	Created    Status = "created"
	Running    Status = "running"
	Paused     Status = "paused"
	Restarting Status = "restarting"
	Removing   Status = "removing"
	Exited     Status = "exited"
	Dead       Status = "dead"
)

// Record is everything the engine keeps about one container, and the only shape that is saved.
type Record struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // 64 hexadecimal digits
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Config  Config    `json:"config"`
	State   State     `json:"state"`

	// Chain is the chain ID of the image's layers, so that the root file system can be put together when the image
	// has lost its name.
	Chain string `json:"chain"`
	// Volumes are the volumes this container holds, by name; Anonymous ones go with `rm -v`.
	Volumes []HeldVolume `json:"volumes,omitempty"`
	// Endpoints is how the network attached the container at its last start.
	Endpoints []Attached  `json:"endpoints,omitempty"`
	Published []Published `json:"published,omitempty"`
}

// State is what is true of a container now.
type State struct {
	Status     Status    `json:"status"`
	Pid        int       `json:"pid,omitempty"`        // of the first process, in the host's pid namespace; 0 when not running
	MonitorPid int       `json:"monitorPid,omitempty"` // of its monitor
	ExitCode   int       `json:"exitCode"`             // 0–255; 128+n after signal n
	Error      string    `json:"error,omitempty"`      // why the last start failed
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
	// Stopped says that a person ended it, so that "unless-stopped" and "on-failure" leave it alone.
	Stopped bool `json:"stopped,omitempty"`
	// DropVolumes says that the removal under way takes the anonymous volumes along.
	DropVolumes bool `json:"dropVolumes,omitempty"`
	// Restarts counts automatic restarts since the last start by a person; Backoff is the last pause before one.
	Restarts int           `json:"restarts,omitempty"`
	Backoff  time.Duration `json:"backoff,omitempty"`
	Health   *HealthState  `json:"health,omitempty"`
}

// Alive says whether the container has a process.
func (s State) Alive() bool { return s.Status == Running || s.Status == Paused }

// HealthState is the outcome of the health checks of a running container.
type HealthState struct {
	Status  string        `json:"status"` // "starting", "healthy", "unhealthy"
	Failing int           `json:"failing"`
	Log     []HealthProbe `json:"log,omitempty"` // the last five
}

// HealthProbe is one run of the health check.
type HealthProbe struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int       `json:"exitCode"`
	Output   string    `json:"output"` // its first 4 KiB
}

// HeldVolume is a volume in use by a container.
type HeldVolume struct {
	Name      string `json:"name"`
	Target    string `json:"target"`
	Anonymous bool   `json:"anonymous,omitempty"`
}

// Attached is one network endpoint as it stood after the last start.
type Attached struct {
	Network    string   `json:"network"` // name
	NetworkID  string   `json:"networkID"`
	EndpointID string   `json:"endpointID"`
	Interface  string   `json:"interface"`
	IPv4       string   `json:"ipv4,omitempty"` // CIDR
	Gateway    string   `json:"gateway,omitempty"`
	IPv6       string   `json:"ipv6,omitempty"` // CIDR
	Gateway6   string   `json:"gateway6,omitempty"`
	MAC        string   `json:"mac,omitempty"`
	Aliases    []string `json:"aliases,omitempty"`
	GwPriority int      `json:"gwPriority,omitempty"`
	LinkLocal  []string `json:"linkLocal,omitempty"` // CIDR
	Links      Map      `json:"links,omitempty"`     // alias → container
	Egress     string   `json:"egress,omitempty"`    // the policy of where it may go
}

// Published is one port that is open on the host.
type Published struct {
	Container uint16 `json:"container"`
	Proto     string `json:"proto"`
	HostIP    string `json:"hostIP"`
	HostPort  uint16 `json:"hostPort"`
}

// Exit is how a container's first process ended.
type Exit struct {
	Code      int
	OOMKilled bool
	At        time.Time
	Error     string
}
