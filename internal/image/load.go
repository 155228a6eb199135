package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
)

// LoadOptions say how to load.
type LoadOptions struct {
	Platforms []string       // these alone, each "os/arch[/variant]"; all if there are none
	Progress  func(Progress) // may be nil; called by one goroutine at a time, and must not block
}

// Load reads the images of a tar archive, as `docker save` writes it or of an OCI image layout, plain or compressed
// by gzip, zstd or bzip2. It returns what was loaded: the names, and the IDs of images without one. All are loaded or
// none is.
func (im *Images) Load(ctx context.Context, r io.Reader, o LoadOptions) ([]string, error) {
	m, err := anyOf(o.Platforms)
	if err != nil {
		return nil, err
	}
	select {
	case im.loads <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-im.loads }()
	defer trim()
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	names, err := im.loadLeased(ctx, r, m, o)
	release()
	im.store.Settle()
	defer im.grown()
	// The archive's own index and what it holds besides images is garbage now.
	im.clean(ctx)
	if err != nil {
		return nil, err
	}
	return names, nil
}

func (im *Images) loadLeased(ctx context.Context, r io.Reader, m platforms.MatchComparer, o LoadOptions) ([]string,
	error) {
	z, err := decompress(&cancelled{ctx, r})
	if err != nil {
		return nil, err
	}
	defer z.Close()
	index, err := archive.ImportIndex(ctx, &archived{Store: im.store.Content()}, z)
	if err != nil {
		return nil, archiveError(err)
	}
	data, err := readBlob(ctx, im.store.Content(), index, registry.MaxManifest)
	if err != nil {
		return nil, err
	}
	d, err := parseDocument(data, index.MediaType)
	if err != nil {
		return nil, err
	}
	if len(d.Manifests) == 0 {
		return nil, badImage("the archive holds no image")
	}
	say := newReporter(o.Progress)
	c := change{set: map[string]ocispec.Descriptor{}}
	var loaded []string
	for _, desc := range d.Manifests {
		if desc.Platform != nil && desc.Platform.OS == "unknown" {
			continue // an attestation
		}
		if err := im.loadOne(ctx, desc, m, o.Platforms, say); err != nil {
			return nil, err
		}
		name := nameIn(desc)
		target := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
		if name == "" {
			loaded = append(loaded, desc.Digest.String())
			if len(im.namesOf(desc.Digest)) == 0 {
				c.set[danglingPrefix+desc.Digest.String()] = target
			}
			continue
		}
		if name == builtinName && !im.isOwn(desc.Digest) {
			return nil, withKind(errdefs.ErrInvalidArgument, "%s is the name of the image that ships with Berth",
				familiar(name))
		}
		c.set[name] = target
		loaded = append(loaded, familiar(name))
	}
	for name, target := range c.set {
		// One archive may name an image and hold it without a name as well.
		if hidden := danglingPrefix + target.Digest.String(); name != hidden {
			delete(c.set, hidden)
		}
	}
	if err := im.apply(context.WithoutCancel(ctx), c); err != nil {
		return nil, err
	}
	im.forget("")
	return loaded, nil
}

// archiveError tells apart what this machine could not do and what is wrong with the archive.
func archiveError(err error) error {
	var own *kinded
	var errno syscall.Errno
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &errno), isCancel(err):
		return fmt.Errorf("read the archive: %w", err)
	}
	return badImage("the archive is no image archive or is damaged: %s", registry.OneLine(err.Error()))
}

// nameIn is the full name an archive gives to an image, "" if it gives none.
func nameIn(desc ocispec.Descriptor) string {
	for _, key := range []string{images.AnnotationImageName, ocispec.AnnotationRefName} {
		name := desc.Annotations[key]
		// A layout of another program may have only a tag there, which names nothing by itself.
		if name == "" || key == ocispec.AnnotationRefName && !strings.ContainsAny(name, "/:") {
			continue
		}
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue
		}
		return storedName(ref)
	}
	return ""
}

// loadOne unpacks one image of the archive and binds its blobs to each other. Of an index, every platform whose blobs
// are there and that matches is kept and unpacked, with what is attested of it.
func (im *Images) loadOne(ctx context.Context, desc ocispec.Descriptor, m platforms.MatchComparer, wanted []string,
	say *reporter) error {
	local := func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		return nil, badImage("the archive lacks %s", desc.Digest)
	}
	if !images.IsIndexType(desc.MediaType) {
		if len(wanted) == 0 {
			return im.bringLeased(ctx, desc, "", local, say)
		}
		var err error
		for _, w := range wanted {
			if err = im.bringLeased(ctx, desc, w, local, say); !errdefs.IsNotFound(err) {
				break
			}
		}
		return err
	}
	data, err := im.fetchSmall(ctx, desc, registry.MaxManifest, local)
	if err != nil {
		return err
	}
	if _, err := parseDocument(data, desc.MediaType); err != nil {
		return err
	}
	way := top()
	found := im.manifests(ctx, desc, way)
	var kept []ocispec.Descriptor
	for _, c := range found {
		if c.Platform != nil && (c.Platform.OS == "unknown" || !m.Match(platforms.Normalize(*c.Platform))) {
			continue
		}
		if slices.ContainsFunc(kept, func(k ocispec.Descriptor) bool { return k.Digest == c.Digest }) {
			continue
		}
		if err := im.bringLeased(ctx, c, "", local, say); err != nil {
			return err
		}
		kept = append(kept, c)
	}
	if len(kept) == 0 {
		return noPlatform(strings.Join(wanted, ", "))
	}
	attested, err := im.keepAttestations(ctx, desc, kept)
	if err != nil {
		return err
	}
	for d := range way.been { // the indexes in this one
		attested = append(attested, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d})
	}
	return im.label(ctx, desc.Digest, indexLabels(append(kept, attested...)...))
}

// manifests lists the manifests below a target that are in the store.
func (im *Images) manifests(ctx context.Context, desc ocispec.Descriptor, at nesting) []ocispec.Descriptor {
	if !images.IsIndexType(desc.MediaType) {
		return []ocispec.Descriptor{desc}
	}
	d, err := im.document(ctx, desc)
	if err != nil || at.depth > maxDepth {
		return nil
	}
	var out []ocispec.Descriptor
	for _, c := range d.Manifests {
		if _, err := im.store.Content().Info(ctx, c.Digest); err == nil {
			if below, first := at.down(c); first {
				out = append(out, im.manifests(ctx, c, below)...)
			}
		}
	}
	return out
}
