package dockerapi

import (
	"net/http"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/berthapi"
)

// systemCheck looks whether the stores are whole; as POST it repairs too.
func (s *Server) systemCheck(c *call) error {
	r, err := s.engine.Check(c.ctx(), engine.CheckOptions{Full: c.flag("full"), Repair: c.r.Method == http.MethodPost})
	if err != nil {
		return err
	}
	out := berthapi.Check{Blobs: r.Blobs, Layers: r.Layers, Images: r.Images, Containers: r.Containers, Volumes: r.Volumes,
		Bytes: r.Bytes, Busy: r.Busy, Findings: []berthapi.Finding{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, berthapi.Finding(f))
	}
	return c.writeJSON(http.StatusOK, &out)
}
