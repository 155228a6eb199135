package dockerapi

import (
	"net/http"
	"net/netip"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/container"
)

// containerRewire changes published ports and bandwidth of a container.
func (s *Server) containerRewire(c *call) error {
	var r berthapi.Rewire
	if err := c.decode(&r); err != nil {
		return err
	}
	o := engine.RewireOptions{Shape: r.Options, Egress: r.Egress}
	for _, p := range []struct {
		from []berthapi.Port
		to   *[]container.Port
	}{{r.Publish, &o.Add}, {r.Unpublish, &o.Remove}} {
		for _, port := range p.from {
			switch port.Proto {
			case "":
				port.Proto = "tcp"
			case "tcp", "udp", "sctp":
			default:
				return invalid("invalid protocol %q of port %d: it is tcp, udp or sctp", port.Proto, port.Port)
			}
			if port.Port == 0 {
				return invalid("invalid container port 0: ports are 1 to 65535")
			}
			if port.HostIP != "" {
				addr, err := netip.ParseAddr(port.HostIP)
				if err != nil {
					return invalid("invalid host address %q of port %d", port.HostIP, port.Port)
				}
				port.HostIP = addr.Unmap().String()
			}
			*p.to = append(*p.to, container.Port{Container: port.Port, Proto: port.Proto, HostIP: port.HostIP, HostPort: port.HostPort})
		}
	}
	if len(o.Add)+len(o.Remove)+len(o.Shape) == 0 && o.Egress == nil {
		return invalid("nothing is asked for: neither ports nor options of an endpoint nor an egress policy")
	}
	if err := s.engine.Rewire(c.lasting(), c.name(), o); err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, struct{}{})
}
