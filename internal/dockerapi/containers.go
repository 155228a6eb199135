package dockerapi

import (
	"context"
	"fmt"
	"net/http"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/platforms"
	api "github.com/moby/moby/api/types/container"
)

func (s *Server) containerCreate(c *call) error {
	data, err := c.body()
	if err != nil {
		return err
	}
	q, warnings, err := decodeCreate(data, c.version)
	if err != nil {
		return err
	}
	config, more, err := q.config(s.o.DefaultInit)
	if err != nil {
		return err
	}
	platform := createPlatform(c.text("platform"), c.version)
	if platform != "" {
		if _, err := platforms.Parse(platform); err != nil {
			return invalid("%w", err)
		}
	}
	result, err := s.engine.Create(c.lasting(), engine.CreateOptions{
		Name: c.text("name"), Config: config, Platform: platform,
	})
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, api.CreateResponse{
		ID:       result.ID,
		Warnings: append(append(append([]string{}, warnings...), more...), result.Warnings...),
	})
}

func (s *Server) containerStart(c *call) error {
	if c.r.ContentLength > 7 || c.r.ContentLength == -1 { // "{}" and "null" have always been let through
		return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if c.text("checkpoint") != "" {
		return noCheckpoints(s, c)
	}
	if err := s.engine.Start(c.lasting(), c.name(), engine.StartOptions{DetachKeys: c.text("detachKeys")}); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) stopOptions() (engine.StopOptions, error) {
	timeout, err := c.seconds("t")
	return engine.StopOptions{Signal: stopSignalGiven(c.text("signal"), c.version), Timeout: timeout}, err
}

func (s *Server) containerStop(c *call) error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	if err := s.engine.Stop(c.lasting(), c.name(), o); err != nil {
		return err
	}
	return c.noContent()
}

func (s *Server) containerRestart(c *call) error {
	o, err := c.stopOptions()
	if err != nil {
		return err
	}
	if err := s.engine.Restart(c.lasting(), c.name(), o); err != nil {
		return err
	}
	return c.noContent()
}

func (s *Server) containerKill(c *call) error {
	if err := s.engine.Kill(c.lasting(), c.name(), c.text("signal")); err != nil {
		return fmt.Errorf("cannot kill container: %s: %w", c.name(), err)
	}
	return c.noContent()
}

func (s *Server) containerPause(c *call) error {
	if err := s.engine.Pause(c.lasting(), c.name()); err != nil {
		return err
	}
	return c.noContent()
}

func (s *Server) containerUnpause(c *call) error {
	if err := s.engine.Unpause(c.lasting(), c.name()); err != nil {
		return err
	}
	return c.noContent()
}

func (s *Server) containerRename(c *call) error {
	name := c.text("name")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if err := s.engine.Rename(c.lasting(), c.name(), name); err != nil {
		return err
	}
	return c.noContent()
}

func (s *Server) containerRemove(c *call) error {
	if c.flag("link") {
		if err := s.engine.Unlink(c.name()); err != nil {
			return err
		}
		return c.noContent()
	}
	if err := s.engine.Remove(c.lasting(), c.name(), engine.RemoveOptions{
		Force: c.flag("force"), Volumes: c.flag("v"),
	}); err != nil {
		return err
	}
	return c.noContent()
}

func (s *Server) containerUpdate(c *call) error {
	var u api.UpdateConfig
	if err := c.decode(&u); err != nil {
		return err
	}
	upgradeUpdate(&u, c.version)
	limits, warnings, err := limitsOf(&u.Resources, true)
	if err != nil {
		return err
	}
	o := engine.UpdateOptions{Limits: &limits}
	if u.RestartPolicy.Name != "" {
		if err := api.ValidateRestartPolicy(u.RestartPolicy); err != nil {
			return invalid("%w", err)
		}
		o.Restart = &container.Restart{
			Name: string(u.RestartPolicy.Name), MaxRetries: u.RestartPolicy.MaximumRetryCount,
		}
	}
	more, err := s.engine.Update(c.lasting(), c.name(), o)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusOK, api.UpdateResponse{Warnings: append(append([]string{}, warnings...), more...)})
}

func (s *Server) containerTop(c *call) error {
	titles, rows, err := s.engine.Top(c.ctx(), c.name(), c.text("ps_args"))
	if err != nil {
		return err
	}
	if rows == nil {
		rows = [][]string{}
	}
	return c.writeJSON(http.StatusOK, api.TopResponse{Titles: titles, Processes: rows})
}

func (s *Server) containerResize(c *call) error {
	rows, err := c.size("h", "height")
	if err != nil {
		return err
	}
	cols, err := c.size("w", "width")
	if err != nil {
		return err
	}
	if err := s.engine.Resize(c.ctx(), c.name(), rows, cols); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) containerWait(c *call) error {
	condition := c.text("condition")
	if waitsQuietly(c.version) {
		condition = ""
	}
	ch, err := s.engine.Wait(c.ctx(), c.name(), condition)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "application/json")
	if !waitsQuietly(c.version) {
		// `docker run` starts the container only when it has seen these headers: only then is the wait registered.
		c.w.WriteHeader(http.StatusOK)
		if http.NewResponseController(c.w).Flush() != nil {
			return nil // the client has gone
		}
	}
	select {
	case <-c.ctx().Done():
		return nil
	case r, ok := <-ch:
		if !ok {
			return nil
		}
		answer := api.WaitResponse{StatusCode: int64(r.Code)}
		if r.Err != nil {
			answer.Error = &api.WaitExitError{Message: r.Err.Error()}
		}
		_ = newStream(c.w).encode(answer) // who is left to be told that it failed?
		return nil
	}
}

func (s *Server) containerPrune(c *call) error {
	f, err := parseFilters(c.text("filters"), "until", "label", "label!")
	if err != nil {
		return err
	}
	until, err := untilFilter(f)
	if err != nil {
		return err
	}
	report, err := s.engine.Prune(c.lasting(), func(rec container.Record) bool {
		return (until.IsZero() || rec.Created.Before(until)) &&
			f.pairs("label", rec.Config.Labels) && f.pairs("label!", rec.Config.Labels)
	})
	if err != nil {
		return err
	}
	s.publishPrune("container", report.Reclaimed)
	return c.writeJSON(http.StatusOK, api.PruneReport{
		ContainersDeleted: list(report.Deleted), SpaceReclaimed: uint64(max(0, report.Reclaimed)),
	})
}

func (s *Server) containerChanges(c *call) error {
	list, err := s.engine.Files.Changes(c.ctx(), c.name())
	if err != nil {
		return err
	}
	out := []api.FilesystemChange{}
	for _, change := range list {
		out = append(out, api.FilesystemChange{Kind: api.ChangeType(change.Kind), Path: change.Path})
	}
	return c.writeJSON(http.StatusOK, out)
}

func (s *Server) containerExport(c *call) error {
	return c.download("application/octet-stream", func(ctx context.Context, w *stream) error {
		return s.engine.Files.Export(ctx, c.name(), w)
	})
}
