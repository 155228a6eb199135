package dockerapi

import (
	"context"
	"time"

	"github.com/berth-engine/berth/engine"
	"github.com/berth-engine/berth/internal/cgroup"
	api "github.com/moby/moby/api/types/container"
)

// statsPeriod is how far two samples of a stream are apart; clients compute percentages over it.
const statsPeriod = time.Second

func (s *Server) containerStats(c *call) error {
	rec, err := s.engine.Containers.Get(c.name())
	if err != nil {
		return err
	}
	streaming := c.flagOr("stream", true)
	c.w.Header().Set("Content-Type", "application/json")
	out := newStream(c.w)

	var before *api.StatsResponse
	sample := func() (*api.StatsResponse, error) {
		now, err := s.sample(c.ctx(), rec.ID)
		if err != nil {
			return nil, err
		}
		if before != nil {
			now.PreRead, now.PreCPUStats = before.Read, before.CPUStats
		}
		before = now
		return now, nil
	}
	first, err := sample()
	if err != nil {
		return err
	}
	if !streaming && (oneShotStats(c.flag("one-shot"), c.version) || !rec.State.Alive()) {
		_ = out.encode(first)
		return nil
	}
	if streaming {
		if err := out.encode(first); err != nil {
			return nil
		}
	}
	tick := time.NewTicker(statsPeriod)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx().Done():
			return nil
		case <-tick.C:
		}
		now, err := sample()
		if err != nil { // the container is gone, and with it the stream
			if !out.begun {
				return err
			}
			return nil
		}
		if err := out.encode(now); err != nil || !streaming {
			return nil
		}
	}
}

// sample is one set of figures. A container that does not run has a name and zeros, as Docker answers.
func (s *Server) sample(ctx context.Context, id string) (*api.StatsResponse, error) {
	rec, err := s.engine.Containers.Get(id)
	if err != nil {
		return nil, err
	}
	r := &api.StatsResponse{ID: rec.ID, Name: "/" + rec.Name, OSType: "linux"}
	if !rec.State.Alive() {
		return r, nil
	}
	st, err := s.engine.Stats(ctx, id)
	if err != nil {
		if now, gone := s.engine.Containers.Get(id); gone == nil && !now.State.Alive() {
			return r, nil // it ended under our hands
		}
		return nil, err
	}
	fillStats(r, st)
	return r, nil
}

func fillStats(r *api.StatsResponse, st *engine.Stats) {
	r.Read = st.Read
	cpu := &st.Cgroup.CPU
	r.CPUStats = api.CPUStats{
		CPUUsage: api.CPUUsage{
			TotalUsage: cpu.Usage, UsageInUsermode: cpu.User, UsageInKernelmode: cpu.System, PercpuUsage: cpu.PerCPU,
		},
		SystemUsage: st.SystemCPU, OnlineCPUs: uint32(st.OnlineCPUs),
		ThrottlingData: api.ThrottlingData{
			Periods: cpu.Periods, ThrottledPeriods: cpu.ThrottledPeriods, ThrottledTime: cpu.ThrottledTime,
		},
	}
	mem := &st.Cgroup.Memory
	r.MemoryStats = api.MemoryStats{
		Usage: mem.Usage, MaxUsage: mem.MaxUsage, Failcnt: mem.FailCount, Stats: mem.Detail,
		// A container without a limit may have the whole machine.
		Limit: min(mem.Limit, st.MemoryTotal),
	}
	r.PidsStats = api.PidsStats{Current: st.Cgroup.Pids.Current, Limit: st.Cgroup.Pids.Limit}
	io := &st.Cgroup.IO
	for _, l := range []struct {
		to   *[]api.BlkioStatEntry
		from []cgroup.IOEntry
	}{
		{&r.BlkioStats.IoServiceBytesRecursive, io.ServiceBytes}, {&r.BlkioStats.IoServicedRecursive, io.Serviced},
		{&r.BlkioStats.IoQueuedRecursive, io.Queued}, {&r.BlkioStats.IoServiceTimeRecursive, io.ServiceTime},
		{&r.BlkioStats.IoWaitTimeRecursive, io.WaitTime}, {&r.BlkioStats.IoMergedRecursive, io.Merged},
		{&r.BlkioStats.IoTimeRecursive, io.Time}, {&r.BlkioStats.SectorsRecursive, io.Sectors},
	} {
		for _, e := range l.from {
			*l.to = append(*l.to, api.BlkioStatEntry{Major: e.Major, Minor: e.Minor, Op: e.Op, Value: e.Value})
		}
	}
	for name, n := range st.Networks {
		if r.Networks == nil {
			r.Networks = map[string]api.NetworkStats{}
		}
		r.Networks[name] = api.NetworkStats{
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
		}
	}
}
