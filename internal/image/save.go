package image

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Save writes images as one tar archive that is both an OCI image layout and what older Docker loads. An image asked for by ID is
// saved without a name. The blobs are those that came in, so digests stay.
func (im *Images) Save(ctx context.Context, w io.Writer, refs []string) error {
	type saved struct {
		target ocispec.Descriptor
		names  []string
	}
	var list []*saved
	byDigest := map[digest.Digest]*saved{}
	for _, r := range refs {
		if isBuiltin(r) {
			if err := im.EnsureBuiltin(ctx); err != nil {
				return err
			}
		}
		target, name, err := im.find(r)
		if err != nil {
			return err
		}
		s := byDigest[target.Digest]
		if s == nil {
			s = &saved{target: target}
			byDigest[target.Digest] = s
			list = append(list, s)
		}
		if name != "" && !slices.Contains(s.names, name) && slices.Contains(im.namesOf(target.Digest), name) {
			s.names = append(s.names, name)
		}
	}
	// While this runs, a removal of one of them must not take its blobs away.
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	opts := []archive.ExportOpt{archive.WithPlatform(platforms.All), archive.WithAllPlatforms(), archive.WithSkipMissing(im.store.Content())}
	for _, s := range list {
		if err := im.protect(ctx, s.target); err != nil {
			return err
		}
		opts = append(opts, archive.WithManifest(s.target, s.names...))
	}
	if err := archive.Export(ctx, im.store.Content(), w, opts...); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// protect adds a blob, and through its labels all it needs, to the lease of ctx.
func (im *Images) protect(ctx context.Context, desc ocispec.Descriptor) error {
	ok, err := im.has(ctx, desc)
	if err == nil && !ok {
		err = &noSuchImage{desc.Digest.String()}
	}
	return err
}
