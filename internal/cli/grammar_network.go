package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// networkSpec is one value of --network.
type networkSpec struct {
	name         string
	aliases      []string
	links        []string
	ip, ip6      netip.Addr
	linkLocal    []netip.Addr
	mac          string
	driverOpts   map[string]string
	gatewayOrder int
}

// parseNetwork reads the value of --network: a name, or fields separated by commas
//
//	name= alias= ip= ip6= mac-address= link-local-ip= driver-opt=k=v gw-priority=
func parseNetwork(value string) (networkSpec, error) {
	var n networkSpec
	if !longNetwork(value) {
		n.name = value
		return n, nil
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return n, err
	}
	for _, field := range fields {
		key, val, ok := strings.Cut(strings.ToLower(field), "=")
		if !ok || key == "" {
			return n, fmt.Errorf("invalid field %s", field)
		}
		_, plain, _ := strings.Cut(field, "=") // as it was written
		key, val, plain = strings.TrimSpace(key), strings.TrimSpace(val), strings.TrimSpace(plain)
		switch key {
		case "name":
			n.name = plain
		case "alias":
			n.aliases = append(n.aliases, plain)
		case "ip":
			n.ip, err = netip.ParseAddr(val)
		case "ip6":
			n.ip6, err = netip.ParseAddr(val)
		case "mac-address":
			n.mac, err = validMAC(val)
		case "link-local-ip":
			var a netip.Addr
			a, err = netip.ParseAddr(val)
			n.linkLocal = append(n.linkLocal, a)
		case "driver-opt":
			k, v, ok := strings.Cut(plain, "=")
			if !ok || k == "" {
				return n, errors.New("invalid key value pair format in driver options")
			}
			setKeyValue(&n.driverOpts, strings.ToLower(k)+"="+v)
		case "gw-priority":
			n.gatewayOrder, err = strconv.Atoi(val)
			if err != nil {
				return n, fmt.Errorf("invalid gw-priority (%s): %w", val, errors.Unwrap(err))
			}
		default:
			return n, fmt.Errorf("invalid field key %s", key)
		}
		if err != nil {
			return n, fmt.Errorf("invalid %s (%s): %w", key, val, err)
		}
	}
	if n.name == "" {
		return n, errors.New("network name/id is not specified")
	}
	return n, nil
}

// longNetwork tells the long form from a name, which may hold any character but those that begin a field.
func longNetwork(value string) bool {
	first, _, _ := strings.Cut(value, ",")
	key, _, ok := strings.Cut(first, "=")
	if !ok {
		return strings.Contains(value, ",") && strings.Contains(value, "=")
	}
	return key != "" && !strings.ContainsFunc(key, func(r rune) bool { return !letterOrDigit(r) && r != '-' && r != ' ' })
}

func validMAC(s string) (string, error) {
	if _, err := net.ParseMAC(strings.TrimSpace(s)); err != nil {
		return "", fmt.Errorf("%s is not a valid mac address", s)
	}
	return strings.TrimSpace(s), nil
}

// endpoint is the API's value.
func (n *networkSpec) endpoint() (*network.EndpointSettings, error) {
	e := &network.EndpointSettings{Aliases: n.aliases, Links: n.links, DriverOpts: n.driverOpts,
		GwPriority: n.gatewayOrder}
	if n.ip.IsValid() || n.ip6.IsValid() || len(n.linkLocal) > 0 {
		e.IPAMConfig = &network.EndpointIPAMConfig{IPv4Address: n.ip, IPv6Address: n.ip6, LinkLocalIPs: n.linkLocal}
	}
	if n.mac != "" {
		mac, err := net.ParseMAC(n.mac)
		if err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", n.mac)
		}
		e.MacAddress = network.HardwareAddr(mac)
	}
	return e, nil
}

// plain reports whether the endpoint says no more than its network's name.
func (n *networkSpec) plain() bool {
	return len(n.aliases) == 0 && len(n.links) == 0 && len(n.driverOpts) == 0 && n.gatewayOrder == 0 && n.mac == "" &&
		!n.ip.IsValid() && !n.ip6.IsValid() && len(n.linkLocal) == 0
}

// userDefined reports whether a network mode names a network somebody created.
func userDefined(name string) bool {
	switch name {
	case "default", "bridge", "host", "none":
		return false
	}
	return !strings.HasPrefix(name, "container:")
}
