package dockerapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/archive"
)

// fileMode gives permission bits the API's type.
func fileMode(bits uint32) os.FileMode { return os.FileMode(bits) }

// pathStat is the header that tells a client what a path of a container is.
func pathStat(h http.Header, st archive.PathStat) error {
	data, err := json.Marshal(struct {
		Name       string      `json:"name"`
		Size       int64       `json:"size"`
		Mode       os.FileMode `json:"mode"`
		Mtime      time.Time   `json:"mtime"`
		LinkTarget string      `json:"linkTarget"`
	}{st.Name, st.Size, st.Mode, st.Mtime, st.LinkTarget})
	if err != nil {
		return fmt.Errorf("describe the path: %w", err)
	}
	h.Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(data))
	return nil
}

func (c *call) archivePath() (string, error) {
	path := c.text("path")
	if path == "" {
		return "", invalid("bad parameter: path must not be empty")
	}
	return path, nil
}

func (s *Server) archiveStat(c *call) error {
	path, err := c.archivePath()
	if err != nil {
		return err
	}
	st, err := s.engine.Files.Stat(c.ctx(), c.name(), path)
	if err != nil {
		return err
	}
	if err := pathStat(c.w.Header(), st); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) archiveGet(c *call) error {
	path, err := c.archivePath()
	if err != nil {
		return err
	}
	return c.download("application/x-tar", func(ctx context.Context, w *stream) error {
		return s.engine.Files.CopyOut(ctx, c.name(), path, func(st archive.PathStat) (io.Writer, error) {
			return w, pathStat(c.w.Header(), st)
		})
	})
}

func (s *Server) archivePut(c *call) error {
	path, err := c.archivePath()
	if err != nil {
		return err
	}
	o := archive.UnpackOptions{NoOverwriteDirNonDir: c.flag("noOverwriteDirNonDir")}
	if c.flag("copyUIDGID") {
		if o.Owner, err = s.copyOwner(c.name()); err != nil {
			return err
		}
	}
	if err := s.engine.Files.CopyIn(c.ctx(), c.name(), path, c.upload(), o); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// copyOwner is who owns what `docker cp -a` brings: the container's user, where the container has one of its own.
func (s *Server) copyOwner(ref string) (*archive.Owner, error) {
	rec, err := s.engine.Containers.Get(ref)
	if err != nil {
		return nil, err
	}
	user, group, hasGroup := strings.Cut(rec.Config.Process.User, ":")
	if user == "" || user == "root" && !hasGroup {
		return nil, nil
	}
	if !hasGroup {
		group = "0"
	}
	uid, err1 := strconv.ParseUint(user, 10, 31)
	gid, err2 := strconv.ParseUint(group, 10, 31)
	if err1 != nil || err2 != nil {
		return nil, unsupported("copying with the ownership of user %q is not supported: only numeric users are",
			rec.Config.Process.User)
	}
	return &archive.Owner{UID: int(uid), GID: int(gid)}, nil
}
