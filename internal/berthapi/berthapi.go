// Package berthapi is what the daemon's API has beyond Docker's: paths below /berth, and the JSON they carry. Both ends
// share it, the faces in package dockerapi and the command line; nothing below the faces knows it.
//
//	GET /berth/containers/{name}/trace?port=80/tcp    → Trace
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
