package image

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/store"
)

// Incomplete is an image that lacks something.
type Incomplete struct {
	Name  string // one of its names, or its ID
	Lacks string // what is missing or wrong, a sentence's second half
}

// Check looks whether everything that images consist of is there, and returns how many images it looked at.
func (im *Images) Check(ctx context.Context) (int, []Incomplete, error) {
	ctx = im.store.Context(ctx)
	var out []Incomplete
	targets := im.targets()
	for _, t := range targets {
		if err := ctx.Err(); err != nil {
			return 0, nil, context.Cause(ctx)
		}
		lacks := im.lacks(ctx, t, top())
		if lacks == "" {
			if img, err := im.load(ctx, t, ""); err != nil {
				lacks = err.Error()
			} else if _, err := im.store.Lowers(ctx, img.Chain); err != nil {
				lacks = "is not unpacked: " + err.Error()
			}
		}
		if lacks == "" || !im.exists(t.Digest) { // removed meanwhile
			continue
		}
		name := t.Digest.String()
		if names := im.namesOf(t.Digest); len(names) > 0 {
			name = familiar(names[0])
		}
		out = append(out, Incomplete{name, lacks})
	}
	return len(targets), out, nil
}

// lacks tells what an image has not that its documents name, "" if it has all of it.
func (im *Images) lacks(ctx context.Context, desc ocispec.Descriptor, at nesting) string {
	missing := func(what string, d digest.Digest, err error) string {
		if errdefs.IsNotFound(err) {
			return fmt.Sprintf("lacks %s %s", what, d)
		}
		return fmt.Sprintf("has %s %s, which cannot be used: %v", what, d, err)
	}
	what := "the manifest"
	if images.IsIndexType(desc.MediaType) {
		what = "the index"
	}
	data, err := readBlob(ctx, im.store.Content(), desc, registry.MaxManifest)
	if err != nil {
		return missing(what, desc.Digest, err)
	}
	d, err := parseDocument(data, desc.MediaType)
	if err != nil {
		return missing(what, desc.Digest, err)
	}
	if images.IsIndexType(desc.MediaType) {
		here := 0
		for _, c := range d.Manifests {
			// Those of other platforms were never fetched.
			if _, err := im.store.Content().Info(ctx, c.Digest); err != nil || at.depth >= maxDepth {
				continue
			}
			here++
			if below, first := at.down(c); first {
				if lacks := im.lacks(ctx, c, below); lacks != "" {
					return lacks
				}
			}
		}
		if here == 0 {
			return fmt.Sprintf("lacks every manifest of the index %s", desc.Digest)
		}
		return ""
	}
	if _, err := readBlob(ctx, im.store.Content(), *d.Config, maxConfig); err != nil {
		return missing("the configuration", d.Config.Digest, err)
	}
	for _, l := range d.Layers {
		if _, err := im.store.Content().Info(ctx, l.Digest); err != nil {
			return missing("the layer", l.Digest, err)
		}
	}
	return ""
}

// Freeze keeps images from being removed and containers from being made until release is called; it must be short.
func (im *Images) Freeze() (release func()) {
	im.hold.Lock()
	return im.hold.Unlock
}

// Mend takes out of the store what a check found damaged in it, and makes anew what can be made of the blobs that are
// whole: layers are unpacked once more. The layers in inUse, which containers stand on, are kept whatever happens. It
// does nothing and returns false while something is being brought in.
func (im *Images) Mend(ctx context.Context, found *store.CheckReport, inUse func() map[string]bool) (bool, error) {
	defer im.forget("")
	alone, err := im.dropDamaged(ctx, found, inUse)
	if err != nil || !alone {
		return alone, err
	}
	if err := im.refill(ctx, found.Empty); err != nil {
		return true, err
	}
	if len(found.Unknown) == 0 {
		return true, nil
	}
	return true, im.repair(ctx)
}

func (im *Images) dropDamaged(ctx context.Context, found *store.CheckReport, inUse func() map[string]bool) (bool, error) {
	defer im.Freeze()()
	used := inUse()
	// A configuration that goes takes the layers along that only it leads to.
	for chain := range used {
		if err := im.store.Pin(ctx, digest.Digest(chain)); err != nil && !errdefs.IsNotFound(err) {
			return false, fmt.Errorf("keep the layers of containers: %w", err)
		}
	}
	var drop []digest.Digest
	for _, chain := range found.Unknown {
		above, err := im.store.Above(chain)
		if err != nil {
			return false, err
		}
		free := true
		for a := range above {
			free = free && !used[a.String()]
		}
		if free {
			drop = append(drop, chain)
		}
	}
	return im.store.DropDamaged(ctx, found.BadBlobs, drop)
}

// refill unpacks layers once more that have lost their directories. One whose blob is missing stays as it is.
func (im *Images) refill(ctx context.Context, chains []digest.Digest) error {
	if len(chains) == 0 {
		return nil
	}
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	empty := map[digest.Digest]bool{}
	for _, c := range chains {
		empty[c] = true
	}
	for _, t := range im.targets() {
		for _, m := range im.manifests(ctx, t, top()) {
			img := &Image{}
			d, err := im.document(ctx, m)
			if err != nil || im.fillConfig(ctx, img, d) != nil {
				continue
			}
			u := &unpacking{im: im, layers: d.Layers, diffs: img.Layers, chains: chainsOf(img.Layers), say: newReporter(nil)}
			for i, chain := range u.chains {
				if !empty[chain] {
					continue
				}
				err := im.store.Refill(ctx, chain, func(st *store.Staged) error { return u.moveLocal(ctx, i, st) })
				if isCancel(err) {
					return err
				}
				if err != nil {
					break // what stands on it cannot be whole either
				}
				delete(empty, chain)
			}
		}
	}
	return nil
}
