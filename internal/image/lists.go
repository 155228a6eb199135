package image

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/berth-engine/berth/internal/registry"
)

// maxLooked bounds the manifests of an index that are read at once, in bytes.
const maxLooked = 32 << 20

// Looked is what a name leads to at its registry.
type Looked struct {
	Target ocispec.Descriptor
	List   bool         // it is an index
	Parts  []RemotePart // of an index what it lists; else the one manifest
}

// RemotePart is a manifest at a registry.
type RemotePart struct {
	Ref        string             // how to ask for it
	Descriptor ocispec.Descriptor // with its platform: that of the index, or of the configuration
	Raw        []byte             // nil where only the index was read
}

// ListOptions say how to speak of manifests with registries.
type ListOptions struct {
	Insecure bool             // without verified TLS
	Content  bool             // Look reads the manifests of an index, too
	Auth     *Auth            // for the registry of the name
	Auths    map[string]*Auth // for others, by the host in names
}

func (im *Images) registryFor(o ListOptions) *registry.Client {
	if o.Insecure {
		return im.registry.Insecure()
	}
	return im.registry
}

// Look reads manifests at a registry and keeps nothing.
func (im *Images) Look(ctx context.Context, ref string, o ListOptions) (*Looked, error) {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badReference(ref, err)
	}
	name = reference.TagNameOnly(name)
	ctx = im.store.Context(ctx)
	repo, err := im.registryFor(o).Repository(ctx, name, o.Auth)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	target, err := repo.Resolve(ctx, name)
	if registry.Missing(err) {
		return nil, withKind(errdefs.ErrNotFound, "no such manifest: %s", reference.FamiliarString(name))
	}
	if err != nil {
		return nil, err
	}
	d, data, err := im.fetchManifest(ctx, target, repo.Fetch)
	if err != nil {
		return nil, err
	}
	out := &Looked{Target: target, List: images.IsIndexType(target.MediaType)}
	if !out.List {
		target.Platform, err = im.platformAt(ctx, d, repo.Fetch)
		out.Parts = []RemotePart{{Ref: name.String(), Descriptor: target, Raw: data}}
		return out, err
	}
	total := int64(0)
	for _, m := range d.Manifests {
		one, err := reference.WithDigest(name, m.Digest)
		if err != nil {
			return nil, badImage("the digest %.80q is not valid", m.Digest.String())
		}
		part := RemotePart{Ref: one.String(), Descriptor: m}
		if o.Content {
			if total += m.Size; total > maxLooked {
				return nil, badImage("the manifests that its index lists have more than %d bytes", maxLooked)
			}
			if part.Raw, err = im.fetchSmall(ctx, m, registry.MaxManifest, repo.Fetch); err != nil {
				return nil, err
			}
		}
		out.Parts = append(out.Parts, part)
	}
	return out, nil
}

// platformAt is the platform that the configuration of an image says; nil for what is no image.
func (im *Images) platformAt(ctx context.Context, d *document, fetch fetcher) (*ocispec.Platform, error) {
	if d.artifact() != "" {
		return nil, nil
	}
	data, err := im.fetchSmall(ctx, *d.Config, maxConfig, fetch)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	config, err := parseConfig(data, len(d.Layers))
	if err != nil {
		return nil, err
	}
	return &config.Platform, nil
}

// PushList pushes an index that a client has put together. The manifests it lists are brought from where sources, by their
// digests, has them; those that are in the same repository are left where they are. Blobs are mounted from repositories of the same
// registry, and copied from others. It returns the digests of those that were brought, in the order of the index, and the index's.
func (im *Images) PushList(ctx context.Context, ref string, list []byte, mediaType string, sources map[digest.Digest]string,
	o ListOptions) (brought []digest.Digest, index digest.Digest, err error) {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, "", badReference(ref, err)
	}
	if _, ok := name.(reference.Digested); ok {
		return nil, "", withKind(errdefs.ErrInvalidArgument, "cannot push a digest reference")
	}
	name = reference.TagNameOnly(name)
	if !images.IsIndexType(mediaType) || len(list) > registry.MaxManifest {
		return nil, "", withKind(errdefs.ErrInvalidArgument, "%d bytes of %.80q are no manifest list", len(list), mediaType)
	}
	d, err := parseDocument(list, mediaType)
	if err != nil {
		return nil, "", err
	}
	repo, err := im.registryFor(o).Repository(ctx, name, o.Auth)
	if err != nil {
		return nil, "", err
	}
	defer repo.Close()
	ctx = im.store.Context(ctx)
	for _, m := range d.Manifests {
		done, err := im.bringPart(ctx, repo, name, m, sources[m.Digest], o)
		if err != nil {
			return brought, "", err
		}
		if done {
			brought = append(brought, m.Digest)
		}
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(list), Size: int64(len(list))}
	if err := repo.PushManifest(ctx, desc, list, objectOf(name)); err != nil {
		return brought, "", err
	}
	return brought, desc.Digest, nil
}

// bringPart brings a manifest and its blobs from one repository to another, if they are two.
func (im *Images) bringPart(ctx context.Context, to *registry.Repository, name reference.Named, m ocispec.Descriptor, source string,
	o ListOptions) (bool, error) {
	from, err := reference.ParseNormalizedNamed(source)
	if source != "" && err != nil {
		return false, badReference(source, err)
	}
	if source == "" || from.Name() == name.Name() {
		there, err := to.HasManifest(ctx, m)
		if err == nil && !there {
			err = withKind(errdefs.ErrNotFound, "manifest %s is not in %s any more: make the list anew", m.Digest, reference.FamiliarName(name))
		}
		return false, err
	}
	auth := o.Auths[reference.Domain(from)]
	if reference.Domain(from) == reference.Domain(name) {
		auth = o.Auth
	}
	repo, err := im.registryFor(o).Repository(ctx, from, auth)
	if err != nil {
		return false, err
	}
	defer repo.Close()
	d, data, err := im.fetchManifest(ctx, m, repo.Fetch)
	if err != nil {
		return false, fmt.Errorf("manifest %s: %w", source, err)
	}
	if d.Config == nil {
		return false, withKind(errdefs.ErrInvalidArgument, "%s is a manifest list", source)
	}
	var mounts []string
	if reference.Domain(from) == reference.Domain(name) {
		mounts = []string{reference.Path(from)}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	seen := map[digest.Digest]bool{}
	for _, b := range append(slices.Clone(d.Layers), *d.Config) {
		if images.IsNonDistributable(b.MediaType) || seen[b.Digest] {
			continue
		}
		seen[b.Digest] = true
		g.Go(func() error {
			r := &remoteBlob{ctx: gctx, fetch: repo.Fetch, desc: b}
			defer r.close()
			_, err := to.PushBlob(gctx, registry.Blob{Desc: b, Content: r, From: mounts})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return false, fmt.Errorf("manifest %s: %w", source, err)
	}
	return true, to.PushManifest(ctx, m, data, "")
}

// remoteBlob reads a blob at a registry from anywhere, best from front to back. Nothing is asked for before it is read.
type remoteBlob struct {
	ctx   context.Context // of the copy, which is one call
	fetch fetcher
	desc  ocispec.Descriptor

	mu sync.Mutex
	rc io.ReadCloser
	at int64
}

// ReadAt implements io.ReaderAt.
func (r *remoteBlob) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rc == nil {
		rc, err := r.fetch(r.ctx, r.desc)
		if err != nil {
			return 0, err
		}
		r.rc, r.at = rc, 0
	}
	if off != r.at {
		s, ok := r.rc.(io.Seeker)
		if !ok {
			return 0, errdefs.ErrNotImplemented
		}
		if _, err := s.Seek(off, io.SeekStart); err != nil {
			return 0, err
		}
		r.at = off
	}
	n, err := io.ReadFull(r.rc, p)
	r.at += int64(n)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

func (r *remoteBlob) close() {
	if r.rc != nil {
		_ = r.rc.Close()
	}
}
