package dockerapi

import (
	"net/http"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/image"
)

// imagePlan tells which images would be collected and why others stay.
func (s *Server) imagePlan(c *call) error {
	plan, err := s.engine.PlanImages(c.ctx())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, planShown(plan))
}

func (s *Server) imageCollect(c *call) error {
	plan, err := s.engine.CollectImages(c.lasting())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, planShown(plan))
}

func (s *Server) imagePin(c *call) error {
	names, err := s.engine.Images.Pin(c.ctx(), c.name(), !strings.HasSuffix(c.r.URL.Path, "/unpin"))
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, &berthapi.Pinned{Names: names})
}

func planShown(p *image.Plan) *berthapi.Collection {
	out := &berthapi.Collection{Size: p.Size, Free: p.Free, High: p.Policy.High.String(), Low: p.Policy.Low.String(),
		MinAge: int64(p.Policy.MinAge.Seconds()), Over: p.Over, Excess: p.Excess, Freed: p.Freed, Images: []berthapi.CollectionImage{}}
	for i := range p.Images {
		c := &p.Images[i]
		out.Images = append(out.Images, berthapi.CollectionImage{ID: c.ID, Names: list(c.RepoTags), Size: c.Size, Unique: c.Unique,
			Used: c.Used, Pinned: c.Pinned, Keep: c.Keep, Take: c.Take, Taken: c.Taken})
	}
	return out
}
