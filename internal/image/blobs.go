package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/store"
)

// fetcher reads a blob from wherever an image comes from. If what it returns can seek, an interrupted blob is
// continued.
type fetcher func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)

// Labels by which the collector goes from a blob to what it needs.
const (
	refContent  = "containerd.io/gc.ref.content."
	refSnapshot = "containerd.io/gc.ref.snapshot." + store.SnapshotterName
)

// configLabels are the references of a configuration.
func configLabels(chain digest.Digest) map[string]string {
	if chain == "" {
		return nil
	}
	return map[string]string{refSnapshot: chain.String()}
}

// manifestLabels are the references of a manifest.
func manifestLabels(d *document) map[string]string {
	labels := map[string]string{refContent + "config": d.Config.Digest.String()}
	for i, l := range d.Layers {
		labels[fmt.Sprintf("%sl.%d", refContent, i)] = l.Digest.String()
	}
	return labels
}

// indexLabels are the references of an index to those of its manifests that are there.
func indexLabels(manifests ...ocispec.Descriptor) map[string]string {
	labels := map[string]string{}
	for _, m := range manifests {
		labels[refContent+"m."+short(m.Digest)] = m.Digest.String()
	}
	return labels
}

// blob is a small one, in memory, with the labels it is to have.
type blob struct {
	desc   ocispec.Descriptor
	data   []byte
	labels map[string]string
}

func (im *Images) putAll(ctx context.Context, blobs []blob) error {
	for _, b := range blobs {
		if err := im.put(ctx, b.desc, b.data, b.labels); err != nil {
			return err
		}
	}
	return nil
}

// put stores a small blob and sets labels on it, also when it is there already.
func (im *Images) put(ctx context.Context, desc ocispec.Descriptor, data []byte, labels map[string]string) error {
	cs := im.store.Content()
	err := content.WriteBlob(ctx, cs, "blob-"+desc.Digest.String(), bytes.NewReader(data),
		ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size}, content.WithLabels(labels))
	if err != nil {
		return fmt.Errorf("store %s: %w", desc.Digest, err)
	}
	return im.label(ctx, desc.Digest, labels)
}

// label sets labels on a blob and leaves its others.
func (im *Images) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	if len(labels) == 0 {
		return nil
	}
	info, err := im.store.Content().Info(ctx, d)
	if err != nil {
		return err
	}
	var paths []string
	for k, v := range labels {
		if info.Labels[k] != v {
			paths = append(paths, "labels."+k)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	_, err = im.store.Content().Update(ctx, content.Info{Digest: d, Labels: labels}, paths...)
	return err
}

// has tells whether a blob is in the store, and protects it by the lease of ctx if so.
func (im *Images) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	info, err := im.store.Content().Info(ctx, desc.Digest)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size != desc.Size {
		return false, badImage("%s has %d bytes where %d are announced", desc.Digest, info.Size, desc.Size)
	}
	w, err := im.store.Content().Writer(ctx, content.WithRef("blob-"+desc.Digest.String()),
		content.WithDescriptor(ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size}))
	if errdefs.IsAlreadyExists(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, w.Close() // collected since
}

// fetchManifest reads a manifest or an index, as fetchSmall does, and takes it apart.
func (im *Images) fetchManifest(ctx context.Context, desc ocispec.Descriptor, fetch fetcher) (*document, []byte, error) {
	data, err := im.fetchSmall(ctx, desc, registry.MaxManifest, fetch)
	if err != nil {
		return nil, nil, err
	}
	d, err := parseDocument(data, desc.MediaType)
	return d, data, err
}

// fetchSmall reads a manifest or a configuration, from the store or from the source, and verifies it.
func (im *Images) fetchSmall(ctx context.Context, desc ocispec.Descriptor, limit int64, fetch fetcher) ([]byte, error) {
	if ok, err := im.has(ctx, desc); err != nil {
		return nil, err
	} else if ok {
		return readBlob(ctx, im.store.Content(), desc, limit)
	}
	if desc.Size < 0 || desc.Size > limit {
		return nil, badImage("%s has %d bytes, more than the %d that are read", desc.Digest, desc.Size, limit)
	}
	rc, err := fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != desc.Size {
		return nil, badImage("%s has %s bytes where %d are announced", desc.Digest, atLeast(int64(len(data)),
			desc.Size), desc.Size)
	}
	if got := desc.Digest.Algorithm().FromBytes(data); got != desc.Digest {
		return nil, badImage("what was sent as %s is %s", desc.Digest, got)
	}
	return data, nil
}

func atLeast(got, want int64) string {
	if got > want {
		return fmt.Sprintf("more than %d", want)
	}
	return fmt.Sprint(got)
}

// short is the form of a digest in which people see it.
func short(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(12, len(hex))]
}

// shortID is short for an ID as text.
func shortID(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		hex = id
	}
	return hex[:min(12, len(hex))]
}
