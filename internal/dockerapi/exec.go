package dockerapi

import (
	"encoding/binary"
	"net/http"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/container"
)

func (s *Server) execCreate(c *call) error {
	id, _, err := s.newExec(c)
	if err != nil {
		return err
	}
	return c.writeJSON(http.StatusCreated, api.ExecCreateResponse{ID: id})
}

// newExec makes an exec of the container in the path, as the request's body describes it.
func (s *Server) newExec(c *call) (id string, cfg engine.ExecConfig, err error) {
	var q struct {
		api.ExecCreateRequest
		Cmd words
	}
	if err := c.decode(&q); err != nil {
		return "", cfg, err
	}
	if len(q.Cmd) == 0 {
		return "", cfg, invalid("No exec command specified")
	}
	rows, cols := consoleSize(q.ConsoleSize, c.version)
	cfg = engine.ExecConfig{
		Argv: q.Cmd, Env: q.Env, User: q.User, WorkingDir: q.WorkingDir, Tty: q.Tty, Privileged: q.Privileged,
		AttachStdin: q.AttachStdin, AttachStdout: q.AttachStdout, AttachStderr: q.AttachStderr,
		DetachKeys: q.DetachKeys, Rows: rows, Cols: cols,
	}
	id, err = s.engine.Execs.Create(c.ctx(), c.name(), cfg)
	return id, cfg, err
}

// execRun creates an exec and starts it on the connection of the same request, which ends with the exit code.
func (s *Server) execRun(c *call) error {
	id, cfg, err := s.newExec(c)
	if err != nil {
		return err
	}
	framed := s.engine.Execs.TellsExit(c.name())
	hj := c.hijack(cfg.Tty && !framed)
	hj.bodyTaken, hj.header = true, berthapi.ExecHeader+": "+id+"\r\n"
	defer hj.close()
	err = s.engine.Execs.Start(c.lasting(), id, engine.ExecStartOptions{Tty: cfg.Tty, Rows: cfg.Rows, Cols: cfg.Cols, TellExit: framed},
		hj.open)
	if err == nil || !c.taken && (errdefs.IsNotFound(err) || errdefs.IsConflict(err)) {
		return err
	}
	s.log.Debug("exec failed", "exec", id, "error", err)
	if rec, e := s.engine.Execs.Inspect(c.lasting(), id); e == nil && rec.ExitCode != nil && framed {
		hj.last = frame(nil, berthapi.ExitFrame, binary.BigEndian.AppendUint32(nil, uint32(*rec.ExitCode)))
	}
	hj.tell(err)
	return nil
}

func (s *Server) execStart(c *call) error {
	var q api.ExecStartRequest
	if err := c.decodeOptional(&q); err != nil {
		return err
	}
	rec, err := s.engine.Execs.Inspect(c.ctx(), c.name())
	if err != nil {
		return err
	}
	o := engine.ExecStartOptions{Detach: q.Detach, Tty: q.Tty}
	if q.Tty {
		o.Rows, o.Cols = consoleSize(q.ConsoleSize, c.version)
	}
	hj := c.hijack(rec.Config.Tty)
	defer hj.close()
	err = s.engine.Execs.Start(c.lasting(), c.name(), o, hj.open)
	if err == nil {
		if q.Detach {
			c.w.WriteHeader(http.StatusOK)
		}
		return nil
	}
	// What a client without a stream could have avoided is a status. For the rest the client wants its stream, and reads
	// there what went wrong: it has no eyes for the body of a refused upgrade.
	if q.Detach || !c.taken && (errdefs.IsNotFound(err) || errdefs.IsConflict(err)) {
		return err
	}
	s.log.Debug("exec failed", "container", rec.ContainerID, "exec", rec.ID, "error", err)
	hj.tell(err)
	return nil
}

func (s *Server) execResize(c *call) error {
	rows, err := c.size("h", "height")
	if err != nil {
		return err
	}
	cols, err := c.size("w", "width")
	if err != nil {
		return err
	}
	if err := s.engine.Execs.Resize(c.ctx(), c.name(), rows, cols); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) execInspect(c *call) error {
	rec, err := s.engine.Execs.Inspect(c.ctx(), c.name())
	if err != nil {
		return err
	}
	privileged := rec.Config.Privileged
	return c.writeJSON(http.StatusOK, api.ExecInspectResponse{
		ID: rec.ID, Running: rec.Running, ExitCode: rec.ExitCode, ContainerID: rec.ContainerID, Pid: rec.Pid,
		OpenStdin: rec.Config.AttachStdin, OpenStdout: rec.Config.AttachStdout, OpenStderr: rec.Config.AttachStderr,
		CanRemove: rec.CanRemove, DetachKeys: []byte(rec.Config.DetachKeys),
		ProcessConfig: &api.ExecProcessConfig{
			Tty: rec.Config.Tty, Entrypoint: rec.Config.Argv[0], Arguments: rec.Config.Argv[1:],
			Privileged: &privileged, User: rec.Config.User,
		},
	})
}
