package image

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
)

const (
	// maxMembers is how many files an archive of images may have; each becomes a blob.
	maxMembers = 100_000

	// maxOpened is how many blobs are looked at to find out how the layers of an archive are compressed.
	maxOpened = 10_000
)

// archived is the store as the reader of archives may use it, which by itself has no bounds: the archive says which of
// its files is a configuration, and that is read whole.
type archived struct {
	content.Store
	members, opened int
}

// Writer implements content.Ingester.
func (a *archived) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if a.members++; a.members > maxMembers {
		return nil, badImage("the archive has more than %d files", maxMembers)
	}
	return a.Store.Writer(ctx, opts...)
}

// ReaderAt implements content.Provider.
func (a *archived) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if a.opened++; a.opened > maxOpened {
		return nil, badImage("the archive names more than %d layers", maxOpened)
	}
	limit := int64(-1)
	switch {
	case images.IsConfigType(desc.MediaType):
		limit = maxConfig
	case images.IsManifestType(desc.MediaType), images.IsIndexType(desc.MediaType):
		limit = registry.MaxManifest
	}
	ra, err := a.Store.ReaderAt(ctx, desc)
	if err != nil || limit < 0 || ra.Size() <= limit {
		return ra, err
	}
	defer ra.Close()
	return nil, badImage("%s has %d bytes, more than the %d that are read", desc.Digest, ra.Size(), limit)
}
