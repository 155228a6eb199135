package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// repair unpacks once more what was lost when the machine went down before it was on the disk. An image whose blobs
// do not suffice for it stays as it is; what wants to use it is told.
func (im *Images) repair(ctx context.Context) error {
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return err
	}
	defer im.store.Settle()
	defer release()
	none := func(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		return nil, fmt.Errorf("%s is missing", desc.Digest)
	}
	for _, t := range im.targets() {
		for _, m := range im.manifests(ctx, t, top()) {
			img := &Image{}
			d, err := im.document(ctx, m)
			if err == nil {
				err = im.fillConfig(ctx, img, d)
			}
			if err == nil && img.Artifact == "" {
				err = im.unpack(ctx, d.Layers, img.Layers, none, newReporter(nil))
			}
			if isCancel(err) || errors.Is(err, syscall.ENOSPC) {
				return fmt.Errorf("unpack image %s once more: %w", t.Digest, err)
			}
		}
	}
	return nil
}
