package dockerapi

import (
	"net/http"
	"strconv"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/berth-engine/berth/internal/image"
	"github.com/containerd/platforms"
)

// imageExplore tells which layer of an image brought which file.
func (s *Server) imageExplore(c *call) error {
	o := image.ExploreOptions{Platform: c.text("platform"), Path: c.text("path")}
	if text := c.text("layer"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return invalid("invalid layer %q: it is a number, and 1 is the bottom one", text)
		}
		o.Layer = n
	}
	x, err := s.engine.Images.Explore(c.ctx(), c.name(), o)
	if err != nil {
		return err
	}
	out := berthapi.Exploration{Image: x.Image.ID, Names: x.Image.RepoTags, Platform: platforms.Format(x.Image.Config.Platform),
		Size: x.Size, Wasted: x.Wasted, Layers: []berthapi.ExploredLayer{}, Waste: []berthapi.Waste{}}
	for _, l := range x.Layers {
		line := berthapi.ExploredLayer{Number: l.Number, Digest: l.Diff.String(), Blob: l.Blob.Digest.String(), Compressed: l.Blob.Size,
			Created: l.Created, CreatedBy: l.CreatedBy, Size: l.Size, Added: l.Added, Changed: l.Changed, Removed: l.Removed,
			Hidden: l.Hidden}
		for _, f := range l.Files {
			line.Files = append(line.Files, berthapi.ExploredFile(f))
		}
		out.Layers = append(out.Layers, line)
	}
	for _, w := range x.Waste {
		out.Waste = append(out.Waste, berthapi.Waste(w))
	}
	return c.writeJSON(http.StatusOK, &out)
}

// sharedLayers lists what several images have in common.
func (s *Server) sharedLayers(c *call) error {
	shared, err := s.engine.Images.SharedLayers(c.ctx())
	if err != nil {
		return err
	}
	out := []berthapi.SharedLayer{}
	for _, l := range shared {
		out = append(out, berthapi.SharedLayer{Digest: l.Diff.String(), Chain: l.Chain.String(), Size: l.Size, Images: l.Images})
	}
	return c.writeJSON(http.StatusOK, out)
}
