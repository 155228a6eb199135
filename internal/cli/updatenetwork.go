package cli

import (
	"fmt"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
)

// rewire makes the request of what update changes of a network; nil where it changes nothing.
func rewire(add, remove, options, egress []string) (*berthapi.Rewire, error) {
	if len(add)+len(remove)+len(options)+len(egress) == 0 {
		return nil, nil
	}
	r := &berthapi.Rewire{}
	if len(egress) > 0 {
		policy := strings.Join(egress, ",")
		r.Egress = &policy
	}
	for _, list := range []struct {
		specs []string
		to    *[]berthapi.Port
	}{{add, &r.Publish}, {remove, &r.Unpublish}} {
		_, bindings, err := parsePorts(list.specs, nil)
		if err != nil {
			return nil, err
		}
		for port, hosts := range bindings {
			for _, h := range hosts {
				p := berthapi.Port{Port: port.Num(), Proto: string(port.Proto()), HostPort: h.HostPort}
				if h.HostIP.IsValid() {
					p.HostIP = h.HostIP.String()
				}
				*list.to = append(*list.to, p)
			}
		}
	}
	for _, value := range options {
		name, opts, err := parseNetworkOpt(value)
		if err != nil {
			return nil, err
		}
		if r.Options == nil {
			r.Options = map[string]map[string]string{}
		}
		if r.Options[name] == nil {
			r.Options[name] = map[string]string{}
		}
		for k, v := range opts {
			r.Options[name][k] = v
		}
	}
	return r, nil
}

// parseNetworkOpt reads the value of --network-opt: [NETWORK:]KEY=VALUE[,KEY=VALUE]. Without a network it is about the
// container's first.
func parseNetworkOpt(value string) (network string, options map[string]string, err error) {
	rest := value
	if before, after, ok := strings.Cut(value, ":"); ok && !strings.Contains(before, "=") {
		network, rest = before, after
	}
	options = map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		k, v, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || k == "" || v == "" {
			return "", nil, fmt.Errorf("invalid network option %q: write it as rx=10mbit,tx=5mbit, and a network's name with a colon before it", value)
		}
		options[strings.ToLower(k)] = v
	}
	return network, options, nil
}
