package engine

import (
	"context"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
)

// Trace follows the way of packets to and from a container that runs: of r the port and the destination count.
func (e *Engine) Trace(ctx context.Context, ref string, r network.TraceRequest) (container.Record, *network.Trace, error) {
	rec, _, err := e.running(ref)
	if err != nil {
		return rec, nil, err
	}
	ns, err := e.netNS(ctx, rec)
	if err != nil {
		return rec, nil, err
	}
	defer ns.Close()
	r.ContainerID, r.Pid, r.NetNS = rec.ID, rec.State.Pid, ns
	t, err := e.Networks.Trace(ctx, r)
	return rec, t, err
}
