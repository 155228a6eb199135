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
	var r network.TraceRequest
	number, proto, _ := strings.Cut(c.text("port"), "/")
	if number != "" {
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || proto != "" && proto != "tcp" && proto != "udp" && proto != "sctp" {
			return invalid("invalid port %q: it is a number from 1 to 65535, and /tcp, /udp or /sctp behind it", c.text("port"))
		}
		r.Port, r.Proto = uint16(n), proto
	}
	if text := c.text("to"); text != "" {
		to, err := network.ParseDestination(text)
		if err != nil {
			return invalid("invalid destination %q: it is ADDRESS:PORT, ADDRESS:PORT/PROTOCOL or ADDRESS, for a ping: %v", text, err)
		}
		r.To = &to
	}
	rec, t, err := s.engine.Trace(c.ctx(), c.name(), r)
	if err != nil {
		return err
	}
	out := berthapi.Trace{Container: rec.Name, ID: rec.ID, To: t.To, Problems: t.Problems}
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
