package dockerapi

import (
	"net/http"

	"github.com/berth-engine/berth/internal/berthapi"
)

// networkRefused tells what egress policies have refused, of all, or of one container or network.
func (s *Server) networkRefused(c *call) error {
	var container, name string
	if of := c.text("of"); of != "" {
		if rec, err := s.engine.Containers.Get(of); err == nil {
			container = rec.ID
		} else if n, nerr := s.engine.Networks.ResolveNetwork(of); nerr == nil {
			name = n.Name
		} else {
			return err
		}
	}
	out := []berthapi.Refused{}
	for _, r := range s.engine.Networks.Refused() {
		if container != "" && r.ContainerID != container || name != "" && r.Network != name {
			continue
		}
		out = append(out, berthapi.Refused{First: r.First, Last: r.Last, Count: r.Count, ContainerID: r.ContainerID, ContainerName: r.Name,
			Network: r.Network, To: r.To, Proto: r.Proto, Port: r.Port, Domain: r.Domain})
	}
	return c.writeJSON(http.StatusOK, out)
}

// networkEgress gives a network another egress policy.
func (s *Server) networkEgress(c *call) error {
	var q berthapi.Egress
	if err := c.decode(&q); err != nil {
		return err
	}
	n, err := s.engine.Networks.ResolveNetwork(c.name())
	if err != nil {
		return err
	}
	if err := s.engine.Networks.SetEgress(c.lasting(), n.ID, q.Policy); err != nil {
		return err
	}
	s.publish("network", "update", n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	return c.writeJSON(http.StatusOK, struct{}{})
}
