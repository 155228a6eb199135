package dockerapi

import (
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/plugin"
)

// The handlers here answer for what Berth does not do, so that a client learns it in a sentence and with Docker's
// status.

func noCluster(*Server, *call) error {
	return kindf(errdefs.ErrUnavailable, "This node is not a swarm manager. Use \"docker swarm init\" or "+
		"\"docker swarm join\" to connect this node to swarm and try again.")
}

func noSwarm(*Server, *call) error {
	return kindf(errdefs.ErrUnavailable, "Berth runs containers on one machine and has no swarm mode")
}

func noCheckpoints(*Server, *call) error { return unsupported("checkpoints are not supported") }

func noBuild(*Server, *call) error {
	return unsupported("building images is not supported yet: build elsewhere and use \"load\" or \"pull\"")
}

// buildPrune has nothing to do, and cleaning scripts call it.
func (s *Server) buildPrune(c *call) error {
	return c.writeJSON(http.StatusOK, struct {
		CachesDeleted  []string
		SpaceReclaimed uint64
	}{CachesDeleted: []string{}})
}

func noPlugins(*Server, *call) error { return unsupported("plugins are not supported") }

func noPlugin(_ *Server, c *call) error {
	return kindf(errdefs.ErrNotFound, "plugin %q not found", c.name())
}

// pluginList is empty, which is true.
func (s *Server) pluginList(c *call) error {
	return c.writeJSON(http.StatusOK, plugin.ListResponse{})
}
