package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/store"
	"github.com/opencontainers/go-digest"
)

// CheckOptions say how thorough a check is and whether it mends what it finds.
type CheckOptions struct {
	Full   bool // read every blob and compare it with its digest
	Repair bool
}

// CheckReport is what a check has looked at and what it has found.
type CheckReport struct {
	Blobs, Layers, Images, Containers, Volumes int

	Bytes    int64 // read and compared with digests
	Busy     bool  // something was being brought in, so orphans were not looked for, and blobs not dropped
	Findings []store.Finding
}

func (r *CheckReport) find(f store.Finding) int {
	return slices.IndexFunc(r.Findings, func(g store.Finding) bool { return g.Kind == f.Kind && g.Object == f.Object })
}

// Check compares what is stored with what is known of it: databases, blobs, layers, images, containers and volumes.
//
// With Repair, damaged blobs are dropped, so that pulling brings whole ones, layers that have lost their directory are
// unpacked once more, orphans are removed and volumes get their directory back. What a container uses is never removed,
// nor is a container's or a volume's data. Cancelling ends a check, and not a repair that has begun.
func (e *Engine) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	found, r, err := e.examine(ctx, o.Full)
	if err != nil || !o.Repair || len(r.Findings) == 0 {
		return r, err
	}
	ctx = context.WithoutCancel(ctx)
	dropped, err := e.mend(ctx, found, r)
	if err != nil {
		return nil, err
	}
	_, after, err := e.examine(ctx, false)
	if err != nil {
		return nil, err
	}
	for i, f := range r.Findings {
		if left := after.find(f); left >= 0 {
			r.Findings[i].Remedy = after.Findings[left].Remedy
			continue
		}
		// That a content is wrong is not seen by the second look, which reads none.
		r.Findings[i].Repaired = f.Kind != "blob" || dropped
		if r.Findings[i].Repaired && f.Kind != "blob" {
			r.Findings[i].Remedy = ""
		}
	}
	for _, f := range after.Findings {
		if r.find(f) < 0 { // an image that lacks a blob which was dropped
			r.Findings = append(r.Findings, f)
		}
	}
	r.Busy = r.Busy || after.Busy || !dropped
	return r, nil
}

func (e *Engine) examine(ctx context.Context, full bool) (*store.CheckReport, *CheckReport, error) {
	found, err := e.store.Check(ctx, full)
	if err != nil {
		return nil, nil, err
	}
	r := &CheckReport{Blobs: found.Blobs, Layers: found.Layers, Bytes: found.Bytes, Busy: found.Busy, Findings: found.Findings}
	n, incomplete, err := e.Images.Check(ctx)
	if err != nil {
		return nil, nil, err
	}
	r.Images = n
	for _, i := range incomplete {
		r.Findings = append(r.Findings, store.Finding{Kind: "image", Object: i.Name, Problem: i.Lacks,
			Remedy: "pull or load it once more"})
	}
	if err := e.examineContainers(ctx, r); err != nil {
		return nil, nil, err
	}
	n, damage, err := e.Volumes.Check(ctx)
	if err != nil {
		return nil, nil, err
	}
	r.Volumes = n
	for _, d := range damage {
		r.Findings = append(r.Findings, store.Finding{Kind: "volume", Object: d.Name, Problem: d.Problem, Remedy: d.Remedy})
	}
	orphans, err := e.orphanLayers()
	for _, id := range orphans {
		r.Findings = append(r.Findings, store.Finding{Kind: "orphan", Object: e.containerLayer(id),
			Problem: "is what a container has written that is gone"})
	}
	return found, r, err
}

func (e *Engine) examineContainers(ctx context.Context, r *CheckReport) error {
	damaged, err := e.Containers.Damaged()
	if err != nil {
		return err
	}
	for _, id := range damaged {
		r.Containers++
		r.Findings = append(r.Findings, store.Finding{Kind: "container", Object: id, Problem: "has a record that cannot be read",
			Remedy: fmt.Sprintf("mend %s/record.json.damaged, name it record.json and start the daemon again; or remove the "+
				"directory, and what it has written goes with it", e.Containers.Dir(id))})
	}
	for _, rec := range e.Containers.List() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if rec.State.Status == container.Removing || rec.State.Status == container.Dead {
			continue
		}
		r.Containers++
		problems := e.containerProblems(ctx, rec)
		if len(problems) == 0 {
			continue
		}
		if now, err := e.Containers.Get(rec.ID); err != nil || now.State.Status == container.Removing {
			continue // removed meanwhile
		}
		r.Findings = append(r.Findings, problems...)
	}
	return nil
}

func (e *Engine) containerProblems(ctx context.Context, rec container.Record) []store.Finding {
	var out []store.Finding
	say := func(remedy, format string, args ...any) {
		out = append(out, store.Finding{Kind: "container", Object: rec.Name, Problem: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	upper, _ := e.store.Layer(rec.ID)
	if fi, err := os.Lstat(upper); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
		say("restore the directory from a copy, or remove the container", "has lost what it wrote, with the directory %s", upper)
	} else if err != nil {
		say("", "has a layer that cannot be looked at: %v", err)
	}
	if _, err := e.store.Lowers(ctx, digest.Digest(rec.Chain)); err != nil {
		say(fmt.Sprintf("pull or load the image %s once more", rec.Config.Image), "stands on layers that are not there: %v", err)
	}
	for _, v := range rec.Volumes {
		if _, err := e.Volumes.Get(v.Name); err != nil {
			say("make the volume, restore its content from a copy, and start the daemon again", "uses the volume %s, which is gone", v.Name)
		}
	}
	return out
}

// orphanLayers lists what containers have written of which there is no record.
func (e *Engine) orphanLayers() ([]string, error) {
	defer e.Images.Freeze()() // no container is made meanwhile
	damaged, err := e.Containers.Damaged()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, id := range damaged {
		known[id] = true
	}
	ids, err := e.store.LayerIDs()
	if err != nil {
		return nil, err
	}
	for _, rec := range e.Containers.List() {
		known[rec.ID] = true
	}
	return slices.DeleteFunc(ids, func(id string) bool { return known[id] }), nil
}

func (e *Engine) containerLayer(id string) string {
	upper, _ := e.store.Layer(id)
	return upper
}

// mend repairs what examine has found, and tells whether damaged blobs could be dropped.
func (e *Engine) mend(ctx context.Context, found *store.CheckReport, r *CheckReport) (bool, error) {
	dropped, err := e.Images.Mend(ctx, found, e.chainsInUse)
	if err != nil {
		return dropped, fmt.Errorf("repair: %w", err)
	}
	if _, _, err := e.store.RemoveOrphans(ctx); err != nil {
		return dropped, fmt.Errorf("repair: %w", err)
	}
	orphans, err := e.orphanLayers()
	if err != nil {
		return dropped, fmt.Errorf("repair: %w", err)
	}
	for _, id := range orphans {
		// One that has come into being since the check is not ours.
		if r.find(store.Finding{Kind: "orphan", Object: e.containerLayer(id)}) >= 0 {
			if err := e.store.RemoveLayer(id); err != nil {
				return dropped, fmt.Errorf("repair: %w", err)
			}
		}
	}
	_, damage, err := e.Volumes.Check(ctx)
	if err != nil {
		return dropped, fmt.Errorf("repair: %w", err)
	}
	for _, d := range damage {
		if d.NoData {
			if err := e.Volumes.Restore(ctx, d.Name); err != nil {
				return dropped, fmt.Errorf("repair: %w", err)
			}
		}
	}
	return dropped, nil
}
