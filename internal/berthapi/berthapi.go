// Package berthapi is what the daemon's API has beyond Docker's: paths below /berth, and the JSON they carry. Both ends
// share it, the faces in package dockerapi and the command line; nothing below the faces knows it.
//
//	GET /berth/containers/{name}/trace?port=80/tcp&to=192.0.2.7:443    → Trace
//	POST /berth/containers/{name}/network             ← Rewire
//	POST /berth/containers/{name}/exec                ← Docker's request that creates an exec; upgraded to its stream
//	GET  /berth/networks/refused?of=web               → []Refused
//	POST /berth/networks/{name}/egress                ← Egress
//	GET, POST /berth/system/check?full=1              → Check
//	GET       /berth/images/plan                      → Collection
//	POST      /berth/images/collect                   → Collection
//	POST      /berth/images/{name}/pin, …/unpin       → Pinned
//	GET /berth/images/{name}/explore?layer=2&path=/etc&platform=linux/arm64    → Exploration
//	GET       /berth/manifests/{name}?content=1&insecure=1   → Manifests
//	POST      /berth/manifests/{name}?insecure=1       ← ManifestList, → PushedList
//	GET, POST, DELETE /berth/registry                  ← RegistrySettings (POST), → Registry
//	GET /berth/layers                                  → []SharedLayer, those that several images have
//
// Fields are only ever added. These paths carry no API version: a client of another release reads the fields it knows.
package berthapi

import (
	"net/netip"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Prefix begins every path that Docker does not have.
const Prefix = "/berth"

// TracePath is where the trace of a container's network is; the query parameter "port" (80, 53/udp) asks for one port,
// "to" (192.0.2.7:443, example.com:53/udp, 192.0.2.7) for the way to a destination.
func TracePath(container string) string { return Prefix + "/containers/" + container + "/trace" }

// Trace is the way of packets between the host and a container, as the kernel has it at this moment.
type Trace struct {
	Container string // its name
	ID        string
	Endpoints []TraceEndpoint
	Ports     []TracePort
	To        []string `json:",omitempty"` // what becomes of packets to the destination that was asked for, in sentences
	Problems  []string // what keeps packets from arriving, in sentences; empty: nothing was found
}

// TraceLink is a network interface.
type TraceLink struct {
	Name      string
	Index     int
	Kind      string // "veth", "bridge" …
	MAC       string
	MTU       int // bytes
	Up        bool
	Carrier   bool
	Addresses []netip.Prefix
}

// TraceEndpoint is one interface of the container and what it hangs on.
type TraceEndpoint struct {
	Network  string
	Driver   string
	Inside   TraceLink
	Host     *TraceLink `json:",omitempty"` // the other end of the pair
	Bridge   *TraceLink `json:",omitempty"`
	Gateways []netip.Addr
	Rules    []string // firewall rules for packets that leave
}

// TracePort is one port of the container.
type TracePort struct {
	Port      uint16
	Proto     string
	Published []netip.AddrPort // on the host
	Rules     []string         // firewall rules that lead to the container
	Listeners []netip.AddrPort // sockets in the container
	Flows     []string         // connections that the kernel tracks
}

// RewirePath is where published ports and bandwidth of a container are changed.
func RewirePath(container string) string { return Prefix + "/containers/" + container + "/network" }

// Rewire changes the network of a container, at once if it runs.
type Rewire struct {
	Publish   []Port `json:",omitempty"`
	Unpublish []Port `json:",omitempty"` // an empty HostIP or HostPort means any
	// Options of endpoints by network, "" for the container's first: "rx" and "tx", as "10mbit", or "0" for no bound.
	Options map[string]map[string]string `json:",omitempty"`
	// Egress is where the container may go by any of its networks: "allow=10.0.0.0/8:443/tcp,allow=*.example.com", or "off".
	Egress *string `json:",omitempty"`
}

// RefusedPath is where it is told what egress policies have refused lately; the query parameter "of" is a container or a
// network.
const RefusedPath = Prefix + "/networks/refused"

// Refused is a destination or a name that a container was kept from.
type Refused struct {
	First, Last   time.Time
	Count         int // what was told of it, which is a part of many
	ContainerID   string
	ContainerName string
	Network       string     `json:",omitempty"`
	To            netip.Addr `json:",omitzero"`
	Proto         string     `json:",omitempty"`
	Port          uint16     `json:",omitempty"`
	Domain        string     `json:",omitempty"` // that was asked for and not resolved
}

// EgressPath is where a network gets another egress policy.
func EgressPath(network string) string { return Prefix + "/networks/" + network + "/egress" }

// Egress is where the containers of a network may go.
type Egress struct {
	Policy string // "allow=10.0.0.0/8:443/tcp,allow=*.example.com", "off" for anywhere
}

// Port is a port of a container and where it is published; HostPort "" is any free one, "8000-8010" one of a range.
type Port struct {
	Port             uint16
	Proto            string // "" is tcp
	HostIP, HostPort string `json:",omitempty"`
}

// ExecPath is where a command is run in a container with one request: it takes what Docker's POST /containers/{name}/exec takes,
// and the connection becomes the stream, as with Docker's POST /exec/{id}/start. The answer's header ExecHeader has the exec's id. If
// its Content-Type is application/vnd.docker.multiplexed-stream, output comes in frames, a terminal's too (as standard output), and the
// last is an ExitFrame; a container of an older release may have none, and Docker's GET /exec/{id}/json tells its code then.
func ExecPath(container string) string { return Prefix + "/containers/" + container + "/exec" }

// ExecHeader names the exec in the answer to ExecPath.
const ExecHeader = "Berth-Exec"

// ExitFrame is the kind of the frame that ends the stream of an exec. Its payload is the exit code, four bytes in big endian.
const ExitFrame = 4

// CheckPath is where the stores are checked: GET looks, POST repairs too. The query parameter "full" has every blob
// compared with its digest.
const CheckPath = Prefix + "/system/check"

// Check is what a check has looked at and what it has found.
type Check struct {
	Blobs, Layers, Images, Containers, Volumes int

	Bytes    int64 // read and compared with digests
	Busy     bool  // something was being brought in, so orphans were not looked for
	Findings []Finding
}

// Finding is one thing that is wrong.
type Finding struct {
	Kind     string // "database", "blob", "layer", "image", "container", "volume" or "orphan"
	Object   string // its digest, name or path
	Problem  string // what is wrong, a sentence's second half
	Remedy   string // the next step for a person, "" when there is none left or a repair does all
	Repaired bool
}

// PlanPath is where it is told which images would be collected (GET), CollectPath where they are (POST).
const (
	PlanPath    = Prefix + "/images/plan"
	CollectPath = Prefix + "/images/collect"
)

// PinPath is where an image is pinned, or with on false unpinned (POST).
func PinPath(image string, on bool) string {
	if on {
		return Prefix + "/images/" + image + "/pin"
	}
	return Prefix + "/images/" + image + "/unpin"
}

// Pinned are the names that were pinned or unpinned.
type Pinned struct{ Names []string }

// Collection is what the collector of images would do, or has done.
type Collection struct {
	Size, Free int64  // bytes of the file system that images lie on
	High, Low  string // water marks, "85% used" or "20GB free"; "" when none are set, and then nothing is collected
	MinAge     int64  // seconds since the last use of what is collected
	Over       bool   // the file system is fuller than the high mark
	Excess     int64  // bytes that have to come free until the low mark
	Freed      int64  // bytes that came free
	Images     []CollectionImage
}

// CollectionImage is an image as the collector sees it; the longest unused comes first.
type CollectionImage struct {
	ID     string
	Names  []string
	Size   int64 // bytes
	Unique int64 // bytes that no other image has
	Used   time.Time
	Pinned bool
	Keep   string // why it stays, a sentence's second half; "" when it may be collected
	Take   bool   // it goes when images are collected now
	Taken  bool   // it is gone
}

// ExplorePath is where the exploration of an image is. The query parameters "layer" (1 is the bottom one) and "path" ask for
// the files of a layer, at and below a path; without one of them no files are listed.
func ExplorePath(image string) string { return Prefix + "/images/" + image + "/explore" }

// Exploration is what the layers of an image hold.
type Exploration struct {
	Image    string   // its ID
	Names    []string `json:",omitempty"`
	Platform string   // "linux/amd64"
	Size     int64    // bytes of the files that a container sees
	Wasted   int64    // bytes of files that layers above hide
	Layers   []ExploredLayer
	Waste    []Waste // the paths that waste most, the worst first
}

// ExploredLayer is one step in the making of an image.
type ExploredLayer struct {
	Number     int    // the bottom one is 1
	Digest     string // of the uncompressed layer
	Blob       string // digest of what came over the wire
	Compressed int64  // bytes of that
	Created    time.Time
	CreatedBy  string
	Size       int64          // bytes of its files
	Added      int            // paths that were not there
	Changed    int            // paths that take the place of others, or change a directory's owner or mode
	Removed    int            // paths that it takes away
	Hidden     int64          // bytes of files below that it hides
	Files      []ExploredFile `json:",omitempty"`
}

// ExploredFile is what one layer does to one path.
type ExploredFile struct {
	Path   string
	Change string // "added", "changed", "removed"
	Kind   string // "file", "directory", "symlink", "hardlink", "device", "fifo"
	Link   string `json:",omitempty"` // where a link leads
	Mode   int64  // permission bits with setuid, setgid and sticky
	UID    int
	GID    int
	Size   int64
	Hidden int64 `json:",omitempty"` // bytes that it hides
	Below  int   `json:",omitempty"` // number of the layer that had it before
}

// Waste is a path whose bytes are in layers and in no container.
type Waste struct {
	Path   string
	Bytes  int64
	Copies int // how many files are hidden
}

// LayersPath is where the layers are told that several images have.
const LayersPath = Prefix + "/layers"

// SharedLayer is an unpacked layer that several images stand on, and that is on the disk once.
type SharedLayer struct {
	Digest string   // of the uncompressed layer
	Chain  string   // of the layer and those below it
	Size   int64    // bytes on the disk
	Images []string // IDs
}

// ManifestsPath is where the manifests at a registry are read (GET) and a manifest list is pushed (POST). Docker's header
// X-Registry-Auth has the credentials for the registry of the name, and X-Registry-Config those for others. The query parameter
// "insecure" asks it without verified TLS; "content" reads the manifests that a list names, too.
func ManifestsPath(name string) string { return Prefix + "/manifests/" + name }

// Manifests are what a name leads to at its registry.
type Manifests struct {
	MediaType string
	List      bool
	Manifests []Manifest // of a list those it names; else the one
}

// Manifest is a manifest at a registry.
type Manifest struct {
	Ref        string             // how to ask for it
	Descriptor ocispec.Descriptor // with its platform, if it is known
	Raw        []byte             `json:",omitempty"`
}

// ManifestList is an index to be pushed, and where to find the manifests it names.
type ManifestList struct {
	MediaType string
	Raw       []byte
	Sources   []Manifest // Raw is not needed
}

// PushedList is what was pushed.
type PushedList struct {
	Digest string   // of the list
	Copied []string // digests of the manifests that were brought into the repository
}

// RegistryPath is where the daemon's registry is: GET tells how it is, POST starts it, DELETE stops it.
const RegistryPath = Prefix + "/registry"

// RegistrySettings are those of `berth registry serve`.
type RegistrySettings struct {
	Listen      string `json:",omitempty"` // "" is 127.0.0.1:5000
	Root        string `json:",omitempty"` // "" is /var/lib/berth-registry
	Htpasswd    string `json:",omitempty"`
	TLSCert     string `json:",omitempty"`
	TLSKey      string `json:",omitempty"`
	Mirror      string `json:",omitempty"` // without a password when it is told
	AllowDelete bool   `json:",omitempty"`
	ReadOnly    bool   `json:",omitempty"`
	Insecure    bool   `json:",omitempty"`
}

// Registry is how the daemon's registry is.
type Registry struct {
	On       bool // it was started and not stopped
	Running  bool // it answers
	Fixed    bool // daemon.json says what it is
	URL      string
	Pid      int
	Since    time.Time
	Settings RegistrySettings
	Log      string // the file
	Failure  string // why it does not run, or ended last
	Restarts int
}
