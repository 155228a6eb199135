package dockerapi

import (
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/build"
	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"
)

// version is the minor number of an API version; the major one has always been 1.
type version int

// The versions that are answered.
const (
	MinVersion version = 24
	MaxVersion version = 55
)

// String is "1.NN".
func (v version) String() string { return "1." + strconv.Itoa(int(v)) }

// parseVersion reads "1.41". Any other major number is too old or too new, and comes out below or above all others.
func parseVersion(s string) (version, bool) {
	major, minor, ok := strings.Cut(s, ".")
	if !ok {
		return 0, false
	}
	a, err1 := strconv.ParseUint(major, 10, 16)
	b, err2 := strconv.ParseUint(minor, 10, 16)
	if err1 != nil || err2 != nil {
		return 0, false
	}
	switch {
	case a < 1:
		return 0, true
	case a > 1:
		return 1 << 20, true
	}
	return version(b), true
}

// upgradeCreate gives a request of an older version the meaning it had then.
func upgradeCreate(q *createRequest, v version) ([]string, error) {
	hc := q.HostConfig
	if v < 25 { // the client removed the container itself
		hc.AutoRemove = false
	}
	if v < 40 && hc.IpcMode == "" {
		hc.IpcMode = api.IPCModeShareable
	}
	if v < 42 {
		hc.ConsoleSize = [2]uint{}
	}
	if v < 43 {
		hc.Annotations = nil
	}
	if v < 44 {
		if q.Healthcheck != nil {
			q.Healthcheck.StartInterval = 0
		}
		q.readOnlyNonRecursive = true
		if n := q.NetworkingConfig.EndpointsConfig; len(n) > 1 {
			return nil, invalid("Container cannot be created with multiple network endpoints: %s",
				strings.Join(slices.Sorted(maps.Keys(n)), ", "))
		}
	}
	for i := range hc.Mounts {
		if err := upgradeMount(&hc.Mounts[i], v); err != nil {
			return nil, err
		}
	}
	if v < 48 {
		for _, e := range q.NetworkingConfig.EndpointsConfig {
			e.GwPriority = 0
		}
	}
	return upgradeMAC(q, v)
}

func upgradeMount(m *mount.Mount, v version) error {
	if v < 40 && m.BindOptions != nil {
		m.BindOptions.NonRecursive = false
	}
	if v < 42 {
		if m.BindOptions != nil {
			m.BindOptions.CreateMountpoint = false
		}
		if m.Type != mount.TypeVolume {
			m.VolumeOptions = nil
		}
		if m.Type != mount.TypeTmpfs {
			m.TmpfsOptions = nil
		}
	} else {
		for _, o := range []struct {
			name  string
			given bool
			of    mount.Type
		}{
			{"VolumeOptions", m.VolumeOptions != nil, mount.TypeVolume},
			{"BindOptions", m.BindOptions != nil, mount.TypeBind},
			{"TmpfsOptions", m.TmpfsOptions != nil, mount.TypeTmpfs},
		} {
			if o.given && m.Type != o.of {
				return invalid("%s must not be specified on mount type %q", o.name, m.Type)
			}
		}
	}
	switch {
	case v < 44 && m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive:
		return invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
	case v < 45 && m.VolumeOptions != nil && m.VolumeOptions.Subpath != "":
		return invalid("VolumeOptions.Subpath needs API v1.45 or newer")
	case v < 46 && m.TmpfsOptions != nil && len(m.TmpfsOptions.Options) > 0:
		return invalid("TmpfsOptions.Options needs API v1.46 or newer")
	case v < 48 && m.Type == mount.TypeImage:
		return invalid(`Mount type "Image" needs API v1.48 or newer`)
	}
	return nil
}

// upgradeMAC moves the container-wide MAC address, which 1.44 deprecated and 1.52 dropped, to the endpoint it was for.
func upgradeMAC(q *createRequest, v version) ([]string, error) {
	if v >= 52 && q.MacAddress != "" {
		q.MacAddress = "" // as Docker, which does not say so: libraries that take the newest version still send it
		return []string{"The container-wide MacAddress field has no effect since API version 1.52: " +
			"give the address to an endpoint, in EndpointsConfig."}, nil
	}
	if q.MacAddress == "" {
		if v < 44 {
			for _, e := range q.NetworkingConfig.EndpointsConfig {
				e.MacAddress = nil
			}
		}
		return nil, nil
	}
	mac, err := net.ParseMAC(q.MacAddress)
	if err != nil || len(mac) != 6 {
		return nil, invalid("%s is not a valid mac address", q.MacAddress)
	}
	mode := q.HostConfig.NetworkMode
	if mode.IsContainer() {
		return nil, nil // refused with its own sentence
	}
	if mode.IsHost() || mode.IsNone() {
		q.MacAddress = ""
		return nil, nil
	}
	endpoints := q.NetworkingConfig.EndpointsConfig
	e := endpoints[mode.NetworkName()]
	if e == nil {
		if len(endpoints) > 0 {
			return nil, invalid("HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks")
		}
		e = &network.EndpointSettings{}
		endpoints[mode.NetworkName()] = e
	}
	if v >= 44 && len(e.MacAddress) > 0 && net.HardwareAddr(e.MacAddress).String() != mac.String() {
		return nil, invalid("the container-wide MAC address must match the endpoint-specific MAC address " +
			"for the main network, or be left empty")
	}
	e.MacAddress = network.HardwareAddr(mac)
	q.MacAddress = ""
	if v < 44 {
		return nil, nil
	}
	return []string{"The container-wide MacAddress field is now deprecated. " +
		"It should be specified in EndpointsConfig instead."}, nil
}

// legacyInspect is GET /containers/{id}/json as it was before 1.52.
type legacyInspect struct {
	*api.InspectResponse
	Config          *legacyConfig
	HostConfig      *legacyHostConfig
	NetworkSettings *legacyNetworkSettings
}

type legacyConfig struct {
	*api.Config
	OnBuild    []string // was shown even when empty
	MacAddress string   `json:",omitempty"`
}

type legacyHostConfig struct {
	*api.HostConfig
	KernelMemory    *int64 `json:",omitempty"`
	KernelMemoryTCP *int64 `json:",omitempty"`
}

// legacyNetworkSettings repeats the endpoint on the default bridge one level up, as before 1.52.
type legacyNetworkSettings struct {
	*api.NetworkSettings
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
}

// downgradeInspect shapes an inspect answer for version v.
func downgradeInspect(r *api.InspectResponse, v version) any {
	if v < 48 {
		r.ImageManifestDescriptor = nil
	}
	if r.NetworkSettings != nil {
		for _, e := range r.NetworkSettings.Networks {
			downgradeEndpoint(e, r.ID, v)
		}
	}
	if v >= 52 {
		r.GraphDriver = nil
		return r
	}
	r.Storage = nil
	old := &legacyInspect{
		InspectResponse: r,
		Config:          &legacyConfig{Config: r.Config, OnBuild: r.Config.OnBuild},
		HostConfig:      &legacyHostConfig{HostConfig: r.HostConfig},
		NetworkSettings: &legacyNetworkSettings{NetworkSettings: r.NetworkSettings},
	}
	if v < 42 {
		var zero int64
		old.HostConfig.KernelMemory, old.HostConfig.KernelMemoryTCP = &zero, &zero
	}
	if e := r.NetworkSettings.Networks[network.NetworkBridge]; e != nil {
		n := old.NetworkSettings
		n.EndpointID, n.MacAddress = e.EndpointID, e.MacAddress.String()
		n.IPPrefixLen, n.GlobalIPv6PrefixLen = e.IPPrefixLen, e.GlobalIPv6PrefixLen
		for _, a := range []struct {
			to   *string
			from interface {
				IsValid() bool
				String() string
			}
		}{
			{&n.Gateway, e.Gateway}, {&n.IPAddress, e.IPAddress}, {&n.IPv6Gateway, e.IPv6Gateway},
			{&n.GlobalIPv6Address, e.GlobalIPv6Address},
		} {
			if a.from.IsValid() {
				*a.to = a.from.String()
			}
		}
	}
	if e := r.NetworkSettings.Networks[r.HostConfig.NetworkMode.NetworkName()]; e != nil && v < 44 {
		old.Config.MacAddress = e.MacAddress.String()
	}
	return old
}

// downgradeEndpoint: until 1.44 the aliases held the short ID, which DNSNames shows since.
func downgradeEndpoint(e *network.EndpointSettings, containerID string, v version) {
	if v >= 45 || e == nil || len(e.DNSNames) == 0 && e.EndpointID == "" {
		return
	}
	if short := containerID[:min(12, len(containerID))]; !slices.Contains(e.Aliases, short) {
		e.Aliases = append(slices.Clip(e.Aliases), short)
	}
	if v < 44 {
		e.DNSNames = nil
	}
}

// downgradeSummary shapes one line of the list of containers for version v.
func downgradeSummary(s *api.Summary, v version) {
	if v < 46 {
		s.HostConfig.Annotations = nil
	}
	if v < 48 {
		s.ImageManifestDescriptor = nil
	}
	if v < 52 {
		s.Health = nil
	}
}

// upgradeUpdate gives an update request of an older version the meaning it had then.
func upgradeUpdate(u *api.UpdateConfig, v version) {
	if v < 40 {
		u.PidsLimit = nil
	}
	if v < 55 { // were in the schema and without effect
		u.BlkioWeightDevice = nil
		u.BlkioDeviceReadBps, u.BlkioDeviceWriteBps = nil, nil
		u.BlkioDeviceReadIOps, u.BlkioDeviceWriteIOps = nil, nil
	}
}

// streamType is the media type of a container's output; the two were told apart since 1.42.
func streamType(tty bool, v version) string {
	if !tty && v >= 42 {
		return "application/vnd.docker.multiplexed-stream"
	}
	return "application/vnd.docker.raw-stream"
}

// waitsQuietly says whether the answer to a wait begins only when it ends.
func waitsQuietly(v version) bool { return v < 30 }

// stopSignalGiven: the signal of a stop is a parameter since 1.42.
func stopSignalGiven(signal string, v version) string {
	if v < 42 {
		return ""
	}
	return signal
}

// oneShotStats: since 1.41 the caller may ask for a sample without its predecessor.
func oneShotStats(asked bool, v version) bool { return asked && v >= 41 }

// consoleSize: exec takes it since 1.42.
func consoleSize(size *[2]uint, v version) (rows, cols uint) {
	if size == nil || v < 42 {
		return 0, 0
	}
	return size[0], size[1]
}

// websocketStreams: before 1.42 a websocket attached to all streams, whatever was asked.
func websocketStreams(c *call) (stdin, stdout, stderr bool) {
	if c.version < 42 {
		return true, true, true
	}
	return c.flag("stdin"), c.flag("stdout"), c.flag("stderr")
}

// createPlatform: the platform is a parameter since 1.41.
func createPlatform(platform string, v version) string {
	if v < 41 {
		return ""
	}
	return platform
}

// pruneNamedVolumes: before 1.42 a prune of volumes took the named ones too.
func pruneNamedVolumes(v version) bool { return v < 42 }

// legacyInfo is GET /info with the fields that have gone since.
type legacyInfo struct {
	*system.Info
	RegistryConfig                           *legacyRegistryConfig
	ContainerdCommit, RuncCommit, InitCommit legacyCommit
	BridgeNfIptables                         *bool `json:",omitempty"` // until 1.49
	BridgeNfIp6tables                        *bool `json:",omitempty"`
	KernelMemory                             *bool `json:",omitempty"` // until 1.41
	KernelMemoryTCP                          *bool `json:",omitempty"`
}

type legacyRegistryConfig struct {
	*registry.ServiceConfig
	AllowNondistributableArtifactsCIDRs     *[]string
	AllowNondistributableArtifactsHostnames *[]string
}

type legacyCommit struct {
	ID       string
	Expected string `json:",omitempty"`
}

// downgradeInfo shapes an info answer for version v.
func downgradeInfo(r *system.Info, v version) any {
	if v < 44 {
		for name, rt := range r.Runtimes {
			rt.Status = nil
			r.Runtimes[name] = rt
		}
	}
	if v < 49 {
		r.FirewallBackend = nil
	}
	if v < 25 { // options had names only
		for i, o := range r.SecurityOptions {
			o, _, _ = strings.Cut(strings.TrimPrefix(o, "name="), ",")
			r.SecurityOptions[i] = o
		}
	}
	if v >= 50 {
		return r
	}
	off := false
	old := &legacyInfo{Info: r, BridgeNfIptables: &off, BridgeNfIp6tables: &off,
		RegistryConfig:   &legacyRegistryConfig{ServiceConfig: r.RegistryConfig},
		ContainerdCommit: legacyCommit{ID: r.ContainerdCommit.ID}, RuncCommit: legacyCommit{ID: r.RuncCommit.ID},
		InitCommit: legacyCommit{ID: r.InitCommit.ID}}
	if v < 49 {
		for _, c := range []*legacyCommit{&old.ContainerdCommit, &old.RuncCommit, &old.InitCommit} {
			c.Expected = c.ID
		}
	}
	if v < 42 {
		old.KernelMemory, old.KernelMemoryTCP = &off, &off
	}
	return old
}

// diskUsage is GET /system/df before it is shaped for a version.
type diskUsage struct {
	system.DiskUsage
	layers     int64 // bytes of all images, layers they share counted once
	images     []image.Summary
	containers []api.Summary
	volumes    []volume.Volume
	asked      map[system.DiskUsageObject]bool
}

// legacyDiskUsage has lists where 1.52 has sums.
type legacyDiskUsage struct {
	LayersSize        int64
	Images            []legacyImageSummary
	Containers        []api.Summary
	Volumes           []volume.Volume
	BuildCache        []build.CacheRecord
	BuilderSize       *int64 `json:",omitempty"` // until 1.41
	*system.DiskUsage `json:",omitempty"`
}

// downgradeDiskUsage: the lists went with 1.53, 1.52 has both unless the sums were asked for in detail.
func downgradeDiskUsage(u *diskUsage, verbose bool, v version) any {
	if v >= 53 || v == 52 && verbose {
		return &u.DiskUsage
	}
	old := &legacyDiskUsage{}
	if v == 52 {
		old.DiskUsage = &u.DiskUsage
	}
	if u.asked[system.ImageObject] {
		old.LayersSize = u.layers
		old.Images = []legacyImageSummary{}
		for i := range u.images {
			users := u.images[i].Containers
			line := downgradeImage(&u.images[i], v)
			line.Containers = users // has always been counted here
			old.Images = append(old.Images, line)
		}
	}
	if u.asked[system.ContainerObject] {
		old.Containers = u.containers
		for i := range old.Containers {
			downgradeSummary(&old.Containers[i], v)
		}
	}
	if u.asked[system.VolumeObject] {
		old.Volumes = u.volumes
	}
	if u.asked[system.BuildCacheObject] {
		old.BuildCache = []build.CacheRecord{}
	}
	if v < 42 {
		old.BuilderSize = new(int64)
	}
	return old
}

// diskUsageTypes: since 1.42 a caller may choose what to add up.
func diskUsageTypes(types []string, v version) []string {
	if v < 42 {
		return nil
	}
	return types
}

// legacyImageSummary is a line of the list of images with what has gone since.
type legacyImageSummary struct {
	*image.Summary
	VirtualSize *int64 `json:",omitempty"` // until 1.43
}

// downgradeImage shapes a line of the list of images for version v.
func downgradeImage(s *image.Summary, v version) legacyImageSummary {
	old := legacyImageSummary{Summary: s}
	if v < 43 {
		if len(s.RepoTags) == 0 {
			s.RepoTags = []string{"<none>:<none>"}
		}
		if len(s.RepoDigests) == 0 {
			s.RepoDigests = []string{"<none>@<none>"}
		}
	}
	if v < 44 {
		old.VirtualSize = &s.Size
	}
	if v < 47 {
		s.Manifests = nil
	}
	if v < 48 {
		s.Descriptor = nil
	}
	if v < 51 {
		s.Containers = -1
	}
	return old
}

// legacyImageInspect is GET /images/{name}/json with what has gone since.
type legacyImageInspect struct {
	*image.InspectResponse
	Config *legacyImageConfig
	// Shown even when empty until 1.51.
	Parent, Comment, DockerVersion, Author string
	Container                              *string     `json:",omitempty"` // until 1.44
	ContainerConfig                        *api.Config `json:",omitempty"` // until 1.44
	VirtualSize                            *int64      `json:",omitempty"` // until 1.43
}

// legacyImageConfig shows what 1.52 leaves out when it is empty, and until 1.49 fields that were never an image's.
type legacyImageConfig struct {
	Hostname     *string `json:",omitempty"`
	Domainname   *string `json:",omitempty"`
	AttachStdin  *bool   `json:",omitempty"`
	AttachStdout *bool   `json:",omitempty"`
	AttachStderr *bool   `json:",omitempty"`
	Tty          *bool   `json:",omitempty"`
	OpenStdin    *bool   `json:",omitempty"`
	StdinOnce    *bool   `json:",omitempty"`
	Image        *string `json:",omitempty"`

	User         string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Env          []string
	Cmd          []string
	Healthcheck  *api.HealthConfig `json:",omitempty"`
	Volumes      map[string]struct{}
	WorkingDir   string
	Entrypoint   []string
	OnBuild      []string
	Labels       map[string]string
	StopSignal   string   `json:",omitempty"`
	Shell        []string `json:",omitempty"`
}

// downgradeImageInspect shapes an image's inspection for version v.
func downgradeImageInspect(r *image.InspectResponse, v version) any {
	if v < 48 {
		r.Descriptor, r.Manifests = nil, nil
	}
	if v < 53 {
		r.Identity = nil
	}
	if v >= 52 {
		return r
	}
	r.GraphDriver = &storage.DriverData{Name: storageDriver}
	c := &legacyImageConfig{}
	if n := r.Config; n != nil {
		c.User, c.ExposedPorts, c.Env, c.Cmd, c.Volumes = n.User, n.ExposedPorts, n.Env, n.Cmd, n.Volumes
		c.WorkingDir, c.Entrypoint, c.Labels, c.StopSignal = n.WorkingDir, n.Entrypoint, n.Labels, n.StopSignal
		c.Healthcheck, c.OnBuild, c.Shell = n.Healthcheck, n.OnBuild, n.Shell
	}
	old := &legacyImageInspect{InspectResponse: r, Config: c, Comment: r.Comment, Author: r.Author}
	if v < 50 {
		off, empty := false, ""
		c.Hostname, c.Domainname, c.Image = &empty, &empty, &empty
		c.AttachStdin, c.AttachStdout, c.AttachStderr = &off, &off, &off
		c.Tty, c.OpenStdin, c.StdinOnce = &off, &off, &off
	}
	if v < 45 {
		old.Container, old.ContainerConfig = new(string), &api.Config{}
	}
	if v < 44 {
		old.VirtualSize = &r.Size
		if r.Created == "" {
			r.Created = "0001-01-01T00:00:00Z"
		}
	}
	return old
}

// downgradeNetwork shapes a network's inspection for version v.
func downgradeNetwork(r *network.Inspect, v version) *network.Inspect {
	if v < 52 {
		r.Status = nil
	}
	return r
}

// legacyMessage is a progress line with the two fields that clients of before 1.8 read, and many still do.
type legacyMessage struct {
	jsonstream.Message
	ErrorText string `json:"error,omitempty"`
}

// legacyProgress adds them.
func legacyProgress(m jsonstream.Message) legacyMessage {
	old := legacyMessage{Message: m}
	if m.Error != nil {
		old.ErrorText = m.Error.Message
	}
	return old
}
