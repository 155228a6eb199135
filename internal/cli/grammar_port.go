package cli

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"strings"

	"github.com/docker/go-connections/nat"
	"github.com/moby/moby/api/types/network"
)

// parsePorts reads the values of -p, each [[address:][host port[-last]]:]port[-last][/tcp|udp|sctp] or the long form
// published=8080,target=80,protocol=tcp, and those of --expose, each port[-last][/protocol].
func parsePorts(publish, expose []string) (network.PortSet, network.PortMap, error) {
	exposed, bindings := network.PortSet{}, network.PortMap{}
	for _, spec := range publish {
		if strings.Contains(spec, "=") {
			short, err := shortPort(spec)
			if err != nil {
				return nil, nil, err
			}
			spec = short
		}
		mappings, err := nat.ParsePortSpec(spec)
		if err != nil {
			return nil, nil, err
		}
		for _, m := range mappings {
			port, err := network.ParsePort(string(m.Port))
			if err != nil {
				return nil, nil, err
			}
			binding := network.PortBinding{HostPort: m.Binding.HostPort}
			if m.Binding.HostIP != "" {
				if binding.HostIP, err = netip.ParseAddr(m.Binding.HostIP); err != nil {
					return nil, nil, fmt.Errorf("invalid IP address: %s", m.Binding.HostIP)
				}
			}
			exposed[port] = struct{}{}
			bindings[port] = append(bindings[port], binding)
		}
	}
	for _, spec := range expose {
		if strings.Contains(spec, ":") {
			return nil, nil, fmt.Errorf("invalid port format for --expose: %s", spec)
		}
		ports, err := network.ParsePortRange(spec)
		if err != nil {
			return nil, nil, fmt.Errorf("invalid range format for --expose: %s, error: %w", spec, err)
		}
		for port := range ports.All() {
			exposed[port] = struct{}{}
		}
	}
	return exposed, bindings, nil
}

// shortPort turns the long form into the short one.
func shortPort(spec string) (string, error) {
	fields, err := csv.NewReader(strings.NewReader(spec)).Read()
	if err != nil {
		return "", err
	}
	target, published, protocol := "", "", "tcp"
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !ok || value == "" {
			return "", fmt.Errorf("invalid port format %q: invalid field format %q: write it as key=value", spec, field)
		}
		switch key {
		case "target":
			target = value
		case "published":
			published = value
		case "protocol":
			protocol = value
		case "mode":
			if value != "ingress" && value != "host" {
				return "", fmt.Errorf("invalid port format %q: invalid publish mode value (%s): "+
					"must be 'ingress' or 'host'", spec, value)
			}
		default:
			return "", fmt.Errorf("invalid port format %q: unknown option '%s'", spec, key)
		}
	}
	if _, err := network.ParsePortRange(target); err != nil || strings.Contains(target, "/") {
		return "", fmt.Errorf("invalid port format %q: 'target' must be a port number, or a range of them", spec)
	}
	return published + ":" + target + "/" + protocol, nil
}
