package engine

import (
	"context"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
)

// Trace follows the way of packets to and from a container that runs; port 0 means every published one.
func (e *Engine) Trace(ctx context.Context, ref string, port uint16, proto string) (container.Record, *network.Trace, error) {
	rec, _, err := e.running(ref)
	if err != nil {
		return rec, nil, err
	}
	ns, err := e.netNS(ctx, rec)
	if err != nil {
		return rec, nil, err
	}
	defer ns.Close()
	t, err := e.Networks.Trace(ctx, network.TraceRequest{ContainerID: rec.ID, Pid: rec.State.Pid, NetNS: ns, Port: port, Proto: proto})
	return rec, t, err
}
