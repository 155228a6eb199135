package dockerapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/network"
)

// containerTrace shows the way of packets to and from a container.
func (s *Server) containerTrace(c *call) error {
	var port uint16
	number, proto, _ := strings.Cut(c.text("port"), "/")
	if number != "" {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || proto != "" && proto != "tcp" && proto != "udp" && proto != "sctp" {
			return invalid("invalid port %q: it is a number from 1 to 65535, and /tcp, /udp or /sctp behind it", c.text("port"))
		}
		port = uint16(n)
	}
	rec, t, err := s.engine.Trace(c.ctx(), c.name(), port, proto)
	if err != nil {
		return err
	}
	out := berthapi.Trace{Container: rec.Name, ID: rec.ID, Problems: t.Problems}
	for _, e := range t.Endpoints {
		out.Endpoints = append(out.Endpoints, berthapi.TraceEndpoint{
			Network: e.Network, Driver: e.Driver, Gateways: e.Gateways, Rules: e.Rules,
			Inside: berthapi.TraceLink(e.Inside), Host: traceLink(e.Host), Bridge: traceLink(e.Bridge),
		})
	}
	for _, p := range t.Ports {
		out.Ports = append(out.Ports, berthapi.TracePort(p))
	}
	return c.writeJSON(http.StatusOK, &out)
}

func traceLink(l *network.TraceLink) *berthapi.TraceLink {
	if l == nil {
		return nil
	}
	v := berthapi.TraceLink(*l)
	return &v
}
