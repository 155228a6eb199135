package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
)

// ownsItsNetwork is true for a container that was given power over its network: it may be a router, or have addresses
// that come and go.
func ownsItsNetwork(sec container.Security) bool {
	return sec.Privileged || slices.ContainsFunc(sec.CapAdd, func(c string) bool {
		c = strings.TrimPrefix(strings.ToUpper(c), "CAP_")
		return c == "ALL" || c == "NET_ADMIN"
	})
}

// attachRequest turns a container's wishes into the network room's words.
func attachRequest(rec container.Record, dns []string) (network.AttachRequest, error) {
	cfg := rec.Config.Net
	req := network.AttachRequest{ContainerID: rec.ID, Name: rec.Name, Hostname: rec.Config.Hostname, DNS: dns,
		Trusted: ownsItsNetwork(rec.Config.Security),
		None:    cfg.Disabled || len(cfg.Endpoints) == 0 && (cfg.Mode == "none" || cfg.Disconnected), Sysctls: map[string]string{}}
	for k, v := range rec.Config.Security.Sysctls {
		if strings.HasPrefix(k, "net.") {
			req.Sysctls[k] = v
		}
	}
	if req.None {
		return req, nil
	}
	endpoints := cfg.Endpoints
	if len(endpoints) == 0 {
		endpoints = []container.Endpoint{{Network: networkName(cfg.Mode), MacAddress: cfg.MacAddress}}
	}
	for i, ep := range endpoints {
		if ep.MacAddress == "" && i == 0 {
			ep.MacAddress = cfg.MacAddress
		}
		e, err := endpointRequest(ep)
		if err != nil {
			return req, err
		}
		req.Endpoints = append(req.Endpoints, e)
	}
	for _, p := range cfg.Ports {
		req.Ports = append(req.Ports, network.PortRequest{Container: p.Container, Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort})
	}
	if cfg.PublishAll {
		ports, err := exposedPorts(rec.Config.Exposed, cfg.Ports)
		if err != nil {
			return req, err
		}
		req.Ports = append(req.Ports, ports...)
	}
	return req, nil
}

func endpointRequest(ep container.Endpoint) (network.EndpointRequest, error) {
	e := network.EndpointRequest{Network: networkName(ep.Network), Aliases: ep.Aliases, MAC: ep.MacAddress,
		GwPriority: ep.GwPriority, DriverOpts: ep.DriverOpts, Links: endpointLinks(ep), LinkLocal: make([]netip.Addr, len(ep.LinkLocal))}
	type field struct {
		text string
		to   *netip.Addr
	}
	fields := []field{{ep.IPv4, &e.IPv4}, {ep.IPv6, &e.IPv6}}
	for i, text := range ep.LinkLocal {
		fields = append(fields, field{text, &e.LinkLocal[i]})
	}
	for _, f := range fields {
		if f.text == "" {
			continue
		}
		addr, err := netip.ParseAddr(f.text)
		if err != nil {
			return e, fmt.Errorf("invalid IP address: %q%w", f.text, kind{errdefs.ErrInvalidArgument})
		}
		*f.to = addr
	}
	return e, nil
}

// endpointLinks are the names that only this container knows, and for whom they stand.
func endpointLinks(ep container.Endpoint) map[string]string {
	if len(ep.Links) == 0 {
		return nil
	}
	links := map[string]string{}
	for _, text := range ep.Links {
		if target, alias, err := parseLink(text); err == nil {
			links[alias] = target
		}
	}
	return links
}

// CheckEgress refuses options of an endpoint with an egress policy that cannot be understood.
func CheckEgress(options map[string]string) error {
	return network.CheckEgress(options[network.OptionEgress])
}

// refused tells what an egress policy has kept a container from.
func (e *Engine) refused(r network.Refused) {
	rec, err := e.Containers.Get(r.ContainerID)
	if err != nil {
		return
	}
	attrs := map[string]string{"domain": r.Domain}
	if r.To.IsValid() {
		attrs = map[string]string{"network": r.Network, "to": r.To.String(), "protocol": r.Proto}
		if r.Port > 0 {
			attrs["port"] = strconv.Itoa(int(r.Port))
		}
	}
	e.publish(rec, "egress_refused", attrs)
}

func networkName(mode string) string {
	if mode == "" || mode == "default" {
		return "bridge"
	}
	return mode
}

// exposedPorts are those of exposed ("80/tcp", "8000-8010/udp") that are not published by name already.
func exposedPorts(exposed []string, published []container.Port) ([]network.PortRequest, error) {
	var out []network.PortRequest
	for _, text := range exposed {
		ports, proto, _ := strings.Cut(text, "/")
		var from, to uint16
		if _, err := fmt.Sscanf(ports, "%d-%d", &from, &to); err != nil {
			if _, err := fmt.Sscanf(ports, "%d", &from); err != nil {
				return nil, fmt.Errorf("exposed port %q is no number%w", text, kind{errdefs.ErrInvalidArgument})
			}
			to = from
		}
	next:
		for p := int(from); p <= int(to); p++ {
			for _, have := range published {
				if have.Container == uint16(p) && have.Proto == proto {
					continue next
				}
			}
			out = append(out, network.PortRequest{Container: uint16(p), Proto: proto})
		}
	}
	return out, nil
}

// attachedRecord is what a start saves of its network.
func attachedRecord(att *network.Attachment) ([]container.Attached, []container.Published) {
	var eps []container.Attached
	for _, ep := range att.Endpoints {
		a := container.Attached{Network: ep.Network, NetworkID: ep.NetworkID, EndpointID: ep.EndpointID,
			Interface: ep.Interface, MAC: ep.MAC, Aliases: ep.Aliases, GwPriority: ep.GwPriority, Links: ep.Links, Egress: ep.Egress}
		for _, p := range ep.LinkLocal {
			a.LinkLocal = append(a.LinkLocal, p.String())
		}
		for _, f := range []struct {
			valid bool
			text  string
			to    *string
		}{
			{ep.IPv4.IsValid(), ep.IPv4.String(), &a.IPv4}, {ep.IPv6.IsValid(), ep.IPv6.String(), &a.IPv6},
			{ep.Gateway.IsValid(), ep.Gateway.String(), &a.Gateway}, {ep.Gateway6.IsValid(), ep.Gateway6.String(), &a.Gateway6},
		} {
			if f.valid {
				*f.to = f.text
			}
		}
		eps = append(eps, a)
	}
	var ports []container.Published
	for _, p := range att.Ports {
		ports = append(ports, container.Published{Container: p.Container, Proto: p.Proto, HostIP: p.HostIP.String(), HostPort: p.HostPort})
	}
	return eps, ports
}

// retained turns the saved network back into the room's words. What cannot be read is left out: the room then looks into
// the namespace itself.
func retained(rec container.Record) []network.EndpointState {
	var out []network.EndpointState
	for _, a := range rec.Endpoints {
		ep := network.EndpointState{Network: a.Network, NetworkID: a.NetworkID, EndpointID: a.EndpointID,
			Interface: a.Interface, MAC: a.MAC, Aliases: a.Aliases, GwPriority: a.GwPriority, Links: a.Links, Egress: a.Egress}
		for _, text := range a.LinkLocal {
			if p, err := netip.ParsePrefix(text); err == nil {
				ep.LinkLocal = append(ep.LinkLocal, p)
			}
		}
		ep.IPv4, _ = netip.ParsePrefix(a.IPv4)
		ep.IPv6, _ = netip.ParsePrefix(a.IPv6)
		ep.Gateway, _ = netip.ParseAddr(a.Gateway)
		ep.Gateway6, _ = netip.ParseAddr(a.Gateway6)
		out = append(out, ep)
	}
	return out
}

func retainedPorts(rec container.Record) []network.PublishedPort {
	var out []network.PublishedPort
	for _, p := range rec.Published {
		ip, err := netip.ParseAddr(p.HostIP)
		if err != nil {
			continue
		}
		out = append(out, network.PublishedPort{Container: p.Container, Proto: p.Proto, HostIP: ip, HostPort: p.HostPort})
	}
	return out
}

// extraHosts reads "name:address" entries of --add-host; "host-gateway" is the host as the container reaches it. One that cannot
// reach it learns the address that others reach it by, as Docker's do: files written for all containers must not fail there.
func (e *Engine) extraHosts(cfg container.Network, att *network.Attachment) ([]network.Host, error) {
	var out []network.Host
	for _, entry := range cfg.ExtraHosts {
		name, text, ok := strings.Cut(entry, ":")
		if eq, rest, isEq := strings.Cut(entry, "="); isEq && (!ok || len(eq) < len(name)) {
			name, text = eq, rest
		}
		if text == "host-gateway" {
			addrs := e.hostAddrs(cfg.Mode, att)
			if n, err := e.Networks.ResolveNetwork("bridge"); len(addrs) == 0 && err == nil && len(n.Subnets) > 0 {
				addrs = valid(n.Subnets[0].Gateway)
			}
			if len(addrs) == 0 {
				return nil, fmt.Errorf("unable to derive the IP value for host-gateway: neither the container nor the default "+
					"network has a gateway, and the daemon no host-gateway-ips%w", kind{errdefs.ErrInvalidArgument})
			}
			for _, addr := range addrs {
				out = append(out, network.Host{Addr: addr, Names: []string{name}})
			}
			continue
		}
		addr, err := netip.ParseAddr(strings.Trim(text, "[]"))
		if name == "" || err != nil {
			return nil, fmt.Errorf("invalid IP address in add-host: %q%w", text, kind{errdefs.ErrInvalidArgument})
		}
		out = append(out, network.Host{Addr: addr, Names: []string{name}})
	}
	return out, nil
}
