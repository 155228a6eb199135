package dockerapi

import (
	"net/http"
	"strconv"
	"time"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/volume"
	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/volume"
)

func volumeOf(v volume.Volume) api.Volume {
	out := api.Volume{
		Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint, Scope: "local",
		CreatedAt: v.Created.UTC().Format(time.RFC3339), Labels: v.Labels, Options: v.Options,
	}
	return out
}

func (s *Server) volumeList(c *call) error {
	f, err := parseFilters(c.text("filters"), "dangling", "driver", "label", "label!", "name")
	if err != nil {
		return err
	}
	dangling, err := f.boolean("dangling", false)
	if err != nil {
		return err
	}
	out := api.ListResponse{Volumes: []api.Volume{}, Warnings: []string{}}
	for _, v := range s.engine.Volumes.List() {
		if !f.fuzzy("name", v.Name) || !f.exact("driver", v.Driver) || !f.pairs("label", v.Labels) ||
			!f.pairs("label!", v.Labels) || f.has("dangling") && (len(s.engine.Volumes.Holders(v.Name)) == 0) != dangling {
			continue
		}
		out.Volumes = append(out.Volumes, volumeOf(v))
	}
	return c.writeJSON(http.StatusOK, out)
}

func (s *Server) volumeInspect(c *call) error {
	v, err := s.engine.Volumes.Get(c.name())
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, volumeOf(v))
}

func (s *Server) volumeCreate(c *call) error {
	var q api.CreateRequest
	if err := c.decodeOptional(&q); err != nil {
		return err
	}
	if q.ClusterVolumeSpec != nil {
		return noCluster(s, c)
	}
	_, there := s.engine.Volumes.Get(q.Name)
	v, err := s.engine.Volumes.Create(c.lasting(), volume.Spec{
		Name: q.Name, Driver: q.Driver, Options: q.DriverOpts, Labels: q.Labels,
	})
	if err != nil {
		return err
	}
	if there != nil {
		s.publish("volume", "create", v.Name, map[string]string{"driver": v.Driver})
	}
	return c.writeJSON(http.StatusCreated, volumeOf(v))
}

func (s *Server) volumeRemove(c *call) error {
	v, err := s.engine.Volumes.Get(c.name())
	if err == nil {
		err = s.engine.Volumes.Remove(c.lasting(), c.name(), c.flag("force"))
	}
	if err != nil {
		if c.flag("force") && errdefs.IsNotFound(err) {
			return c.noContent()
		}
		return err
	}
	s.publish("volume", "destroy", v.Name, map[string]string{"driver": v.Driver})
	return c.noContent()
}

func (s *Server) volumePrune(c *call) error {
	f, err := parseFilters(c.text("filters"), "label", "label!", "all")
	if err != nil {
		return err
	}
	// Before 1.42 named volumes went too.
	all, err := f.boolean("all", pruneNamedVolumes(c.version))
	if err != nil {
		return err
	}
	choose := func(v volume.Volume) bool {
		return (all || v.Anonymous) && f.pairs("label", v.Labels) && f.pairs("label!", v.Labels)
	}
	sizes := map[string]int64{}
	for _, v := range s.engine.Volumes.List() {
		if choose(v) && len(s.engine.Volumes.Holders(v.Name)) == 0 {
			sizes[v.Name] = treeSize(c.ctx(), v.Mountpoint)
		}
	}
	var reclaimed int64
	gone, err := s.engine.Volumes.Prune(c.lasting(), choose)
	deleted := []string{}
	for _, v := range gone {
		deleted, reclaimed = append(deleted, v.Name), reclaimed+sizes[v.Name]
		s.publish("volume", "destroy", v.Name, map[string]string{"driver": v.Driver})
	}
	if err != nil {
		return err
	}
	s.publishPrune("volume", reclaimed)
	return c.writeJSON(http.StatusOK, api.PruneReport{VolumesDeleted: deleted, SpaceReclaimed: uint64(reclaimed)})
}

// publish tells of something that a room did without the engine's knowledge.
func (s *Server) publish(kind, action, id string, attrs map[string]string) {
	s.engine.Events.Publish(engine.Event{Type: kind, Action: action, ActorID: id, Attributes: attrs})
}

// publishPrune tells of a prune that has ended, with the bytes it freed.
func (s *Server) publishPrune(kind string, reclaimed int64) {
	s.publish(kind, "prune", "", map[string]string{"reclaimed": strconv.FormatInt(reclaimed, 10)})
}
