package network

import (
	"net/netip"
	"os"
	"time"
)

// Network is a network as others see it. Values are copies.
type Network struct {
	ID         string // 64 hexadecimal digits
	Name       string
	Driver     string // "bridge", "host", "null"
	Created    time.Time
	Internal   bool
	Attachable bool
	IPv4, IPv6 bool
	Subnets    []Subnet
	// IPAMOptions and Options are what the creator gave, for inspect.
	IPAMOptions map[string]string
	Options     map[string]string
	Labels      map[string]string
	// Link is the bridge's name on the host; "" for the drivers without one.
	Link       string
	IPAMDriver string // "default" or "null"
	// ConfigOnly is no network but settings for others, ConfigFrom the name of the one whose settings this has.
	ConfigOnly bool
	ConfigFrom string
	// Endpoints are the running containers attached, by container ID, and Usage how full the subnets are, in their order; only
	// Inspect fills them in.
	Endpoints map[string]Endpoint
	Usage     []Usage
}

// Usage is how many addresses of a subnet are taken or kept back, and how many are left of its range; both end at 2⁶⁴-1.
type Usage struct {
	Prefix      netip.Prefix
	InUse, Free uint64
}

// Endpoint is a running container's place in a network.
type Endpoint struct {
	ContainerID, Name string
	EndpointID, MAC   string
	IPv4, IPv6        netip.Prefix
}

// Subnet is one block of a network's addresses.
type Subnet struct {
	Prefix  netip.Prefix `json:"prefix"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	// Range is the part given out without being asked for; the zero value is all of it.
	Range netip.Prefix `json:"range,omitzero"`
	// Aux are addresses that others on the network have, by name.
	Aux map[string]netip.Addr `json:"aux,omitempty"`
}

// CreateRequest asks for a network.
type CreateRequest struct {
	Name        string
	Driver      string // "" is "bridge"
	Internal    bool
	Attachable  bool
	IPv4        *bool // nil is true
	IPv6        *bool // nil is false, or true when a subnet of version 6 is given
	Subnets     []Subnet
	IPAMDriver  string // "" or "default"; "null" gives no addresses
	ConfigOnly  bool   // keep the settings for others, make nothing
	ConfigFrom  string // take subnets, options and versions from this one
	IPAMOptions map[string]string
	Options     map[string]string
	Labels      map[string]string
}

// CreateResult tells of the new network.
type CreateResult struct {
	ID       string
	Warnings []string
}

// EndpointRequest is one network a container wants to be on.
type EndpointRequest struct {
	Network    string // name, ID or unique prefix of one
	Aliases    []string
	IPv4, IPv6 netip.Addr // zero: any
	MAC        string     // "": made from the address
	// GwPriority decides which network has the default route: the highest, the first of equals.
	GwPriority int
	DriverOpts map[string]string
	// LinkLocal are further addresses of the interface, in 169.254.0.0/16 or fe80::/10.
	LinkLocal []netip.Addr
	// Links are names that only this container can ask for, and the names they stand for on this network.
	Links map[string]string
}

// PortRequest is one port to publish. HostPort "" or "0" is any free one, "8000-8010" the first free one of them.
type PortRequest struct {
	Container uint16
	Proto     string // "tcp", "udp", "sctp"
	HostIP    string // "" is Options.HostIP
	HostPort  string
}

// AttachRequest asks for a network namespace for one start of a container.
type AttachRequest struct {
	ContainerID string
	Name        string
	// Hostname is one more name by which neighbours find it; "" is none.
	Hostname string
	// Endpoints in the order of the interfaces; none means the default network.
	Endpoints []EndpointRequest
	Ports     []PortRequest
	// DNS are the servers to ask for names of the outside; none means the host's.
	DNS []string
	// Trusted lets the container send what is not from its own addresses, as a router does.
	Trusted bool
	// None gives a namespace with a loopback link only.
	None bool
	// Sysctls are applied in the namespace; only names that begin with "net." may be among them.
	Sysctls map[string]string
	// Peers are containers that it has links to, and reaches also on networks where icc is off.
	Peers []Peer
}

// Attachment is a namespace with everything in it.
type Attachment struct {
	// NetNS is the caller's to close; the namespace lives as long as somebody has it open or runs in it.
	NetNS     *os.File
	Endpoints []EndpointState
	Ports     []PublishedPort
	// Resolvers stand in for the host's name servers; none means that those are used.
	Resolvers []string
	// Search are domains that the networks name.
	Search []string
}

// EndpointState is one interface of a container. Its owner saves it and gives it back to Retain.
type EndpointState struct {
	Network, NetworkID string
	EndpointID         string // 64 hexadecimal digits
	Interface          string // inside
	IPv4, IPv6         netip.Prefix
	Gateway, Gateway6  netip.Addr // set where the network has one, also when another network has the default route
	MAC                string
	Aliases            []string
	GwPriority         int
	LinkLocal          []netip.Prefix
	Links              map[string]string
	Egress             string // where the container may go by it; "" is everywhere

	host string // the link on our side, where its name does not come from EndpointID
}

// ConnectRequest asks for one more interface in the namespace of a container that runs.
type ConnectRequest struct {
	ContainerID, Name string
	Hostname          string   // as in AttachRequest
	NetNS             *os.File // of the container; stays the caller's
	Endpoint          EndpointRequest
	// Ports are all that the container wants to publish; they are where it had no way out of its networks until now.
	Ports []PortRequest
	DNS   []string // as in AttachRequest
	// Trusted is as in AttachRequest.
	Trusted bool
	Peers   []Peer // as in AttachRequest
}

// DisconnectRequest asks for the end of an interface of a container that runs.
type DisconnectRequest struct {
	ContainerID, Name string
	NetNS             *os.File // of the container; stays the caller's
	Network           string
	Ports             []PortRequest // as in ConnectRequest
}

// PublishedPort is a port that is open on the host. Its owner saves it and gives it back to Retain.
type PublishedPort struct {
	Container uint16
	Proto     string
	HostIP    netip.Addr
	HostPort  uint16
}

// Live is a container that runs while the daemon starts. Where Endpoints is empty the addresses are read from the
// namespace of Pid.
type Live struct {
	ContainerID, Name string
	Hostname          string // as in AttachRequest
	Pid               int
	Endpoints         []EndpointState
	Ports             []PublishedPort
	DNS               []string // as in AttachRequest
	Trusted           bool     // as in AttachRequest
	Peers             []Peer   // as in AttachRequest
}
