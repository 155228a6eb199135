// Package berthapi is what the daemon's API has beyond Docker's: paths below /berth, and the JSON they carry. Both ends
// share it, the faces in package dockerapi and the command line; nothing below the faces knows it.
//
//	GET /berth/containers/{name}/trace?port=80/tcp    → Trace
//	GET, POST /berth/system/check?full=1              → Check
//
// Fields are only ever added. These paths carry no API version: a client of another release reads the fields it knows.
package berthapi

import "net/netip"

// Prefix begins every path that Docker does not have.
const Prefix = "/berth"

// TracePath is where the trace of a container's network is; the query parameter "port" (80, 53/udp) asks for one port.
func TracePath(container string) string { return Prefix + "/containers/" + container + "/trace" }

// Trace is the way of packets between the host and a container, as the kernel has it at this moment.
type Trace struct {
	Container string // its name
	ID        string
	Endpoints []TraceEndpoint
	Ports     []TracePort
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
