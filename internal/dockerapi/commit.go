package dockerapi

import (
	"net/http"
	"strings"

	"github.com/berth-engine/berth/internal/image"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	api "github.com/moby/moby/api/types/container"
)

// commit makes an image of a container; "squash" is Berth's own and makes one layer of it. What the body says of the image's configuration counts before what the container
// has, and changes count before both.
func (s *Server) commit(c *call) error {
	name := c.text("container")
	if name == "" {
		return invalid("bad parameter: container must not be empty")
	}
	var body api.Config
	if err := c.decodeOptional(&body); err != nil {
		return err
	}
	ref, err := repoTag(c.text("repo"), c.text("tag"))
	if err != nil {
		return err
	}
	rec, err := s.engine.Containers.Get(name)
	if err != nil {
		return err
	}
	own := configOf(&rec.Config)
	config := imageConfigOf(&body)
	image.MergeConfig(&config, imageConfigOf(own))
	img, err := s.engine.Commit(c.ctx(), rec.ID, image.CommitOptions{
		Ref: ref, Config: config, Changes: c.r.Form["changes"], CreatedBy: strings.Join(own.Cmd, " "),
		Author: c.text("author"), Comment: c.text("comment"), Squash: c.flag("squash"),
	}, c.flagOr("pause", true))
	if err != nil {
		return err
	}
	s.publish("image", "create", img.ID, map[string]string{"name": img.ID})
	return c.writeJSON(http.StatusCreated, api.CommitResponse{ID: img.ID})
}

// imageConfigOf is the part of a container's configuration that an image has too.
func imageConfigOf(c *api.Config) dockerspec.DockerOCIImageConfig {
	var out dockerspec.DockerOCIImageConfig
	out.User, out.Env, out.Cmd, out.Entrypoint = c.User, c.Env, c.Cmd, c.Entrypoint
	out.WorkingDir, out.Volumes, out.Labels, out.StopSignal = c.WorkingDir, c.Volumes, c.Labels, c.StopSignal
	out.OnBuild, out.Shell = c.OnBuild, c.Shell
	for port := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[port.String()] = struct{}{}
	}
	if h := c.Healthcheck; h != nil {
		out.Healthcheck = &dockerspec.HealthcheckConfig{Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries}
	}
	return out
}
