package engine

import (
	"context"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/store"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Prune removes the containers that do not run and that choose picks.
func (e *Engine) Prune(ctx context.Context, choose func(container.Record) bool) (PruneReport, error) {
	var report PruneReport
	for _, rec := range e.Containers.List() {
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		if rec.State.Alive() || rec.State.Status == container.Restarting || rec.State.Status == container.Removing || !choose(rec) {
			continue
		}
		size := e.LayerSize(rec)
		err := e.Remove(ctx, rec.ID, RemoveOptions{})
		if errdefs.IsNotFound(err) || errdefs.IsConflict(err) { // removed or started meanwhile
			continue
		}
		if err != nil {
			return report, err
		}
		report.Deleted = append(report.Deleted, rec.ID)
		report.Reclaimed += size
	}
	return report, nil
}

// LayerSize is how many bytes the container has written into its own layer; 0 where that cannot be told.
func (e *Engine) LayerSize(rec container.Record) int64 {
	size, err := e.store.LayerSize(e.ctx, rec.ID, digest.Digest(rec.Chain))
	if err != nil {
		e.log.Warn("measure a container's layer", "container", rec.ID, "error", err)
	}
	return size
}

// StorageFacts is how containers' files are kept.
type StorageFacts struct {
	Driver     store.Driver // of new containers
	Why        string
	Filesystem string // that the data root lies on
	NoLimits   string // why --storage-opt size does not work; "" says that it does
}

// Storage tells how new containers' files are kept.
func (e *Engine) Storage() StorageFacts {
	d, why := e.store.Driver()
	return StorageFacts{d, why, e.store.Filesystem(), e.store.SizeLimits()}
}

// LayerDriver tells how a container's files are kept, and where.
func (e *Engine) LayerDriver(id string) (d store.Driver, upper, work string) {
	upper, work = e.store.Layer(id)
	return e.store.MadeBy(id), upper, work
}

// mergeLimits writes the fields of change that are set over l.
func mergeLimits(l *container.Limits, change container.Limits) {
	override(&l.Memory, change.Memory)
	override(&l.MemorySwap, change.MemorySwap)
	override(&l.MemoryReservation, change.MemoryReservation)
	override(&l.CPUShares, change.CPUShares)
	override(&l.CPURtPeriod, change.CPURtPeriod)
	override(&l.CPURtRuntime, change.CPURtRuntime)
	override(&l.CpusetCpus, change.CpusetCpus)
	override(&l.CpusetMems, change.CpusetMems)
	override(&l.BlkioWeight, change.BlkioWeight)
	override(&l.PidsLimit, change.PidsLimit)
	if change.NanoCPUs != 0 {
		l.NanoCPUs, l.CPUPeriod, l.CPUQuota = change.NanoCPUs, 0, 0
	}
	if change.CPUPeriod != 0 || change.CPUQuota != 0 {
		l.NanoCPUs = 0
		override(&l.CPUPeriod, change.CPUPeriod)
		override(&l.CPUQuota, change.CPUQuota)
	}
	if change.Memory > 0 && change.MemorySwap == 0 && l.MemorySwap > 0 && l.MemorySwap < l.Memory {
		l.MemorySwap = 2 * l.Memory
	}
}
