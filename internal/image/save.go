package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Save writes images as one tar archive that is both an OCI image layout and what older Docker loads. An image asked
// for by its ID is saved without a name. The blobs are those that came in, so digests stay; of an index, what is here
// is saved. With platforms, an index stays as it is and the other platforms' blobs are left out; of one platform, its
// manifest is saved in place of the index.
//
//	oci-layout  index.json      the images with their names, for OCI
//	manifest.json               the same for Docker, one platform of each
//	blobs/sha256/…              every blob once
func (im *Images) Save(ctx context.Context, w io.Writer, refs []string, platforms ...string) error {
	list, err := im.saved(ctx, refs)
	if err != nil {
		return err
	}
	// While this runs, a removal of one of them must not take its blobs away.
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return err
	}
	defer release()
	for _, s := range list {
		if ok, err := im.has(ctx, s.target); err != nil {
			return err
		} else if !ok {
			return &noSuchImage{s.target.Digest.String()}
		}
	}
	if len(platforms) > 0 {
		for i, s := range list {
			name := s.target.Digest.String()
			if len(s.names) > 0 {
				name = familiar(s.names[0])
			}
			parts, err := im.chosen(ctx, s.target, name, platforms)
			if err != nil {
				return err
			}
			if len(platforms) == 1 {
				list[i].target = parts[0].Manifest
			}
			list[i].only = map[digest.Digest]bool{}
			for _, p := range parts {
				list[i].only[p.Manifest.Digest] = true
			}
		}
	}
	a := &archiveWriter{tw: tar.NewWriter(w), im: im, written: map[digest.Digest]bool{}, index: ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}}
	err = a.write(ctx, list)
	return errors.Join(err, a.tw.Close())
}

// saved is one image to be saved.
type saved struct {
	target ocispec.Descriptor
	names  []string
	only   map[digest.Digest]bool // the manifests to be saved; nil for all that are here
}

func (im *Images) saved(ctx context.Context, refs []string) ([]*saved, error) {
	var list []*saved
	for _, r := range refs {
		if isBuiltin(r) {
			if err := im.EnsureBuiltin(ctx); err != nil {
				return nil, err
			}
		}
		target, name, err := im.find(r)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list, func(s *saved) bool { return s.target.Digest == target.Digest })
		if i < 0 {
			i, list = len(list), append(list, &saved{target: target})
		}
		if name != "" && !slices.Contains(list[i].names, name) && slices.Contains(im.namesOf(target.Digest), name) {
			list[i].names = append(list[i].names, name)
		}
	}
	return list, nil
}

// dockerManifest is an entry of manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

type archiveWriter struct {
	tw      *tar.Writer
	im      *Images
	written map[digest.Digest]bool
	index   ocispec.Index
	docker  []dockerManifest
}

func (a *archiveWriter) write(ctx context.Context, list []*saved) error {
	if err := a.file(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	for _, s := range list {
		if err := a.image(ctx, s); err != nil {
			return fmt.Errorf("save %s: %w", s.target.Digest, err)
		}
	}
	if err := a.json(ocispec.ImageIndexFile, a.index); err != nil {
		return err
	}
	return a.json("manifest.json", a.docker)
}

func (a *archiveWriter) json(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.file(name, data)
}

func (a *archiveWriter) image(ctx context.Context, s *saved) error {
	if err := a.tree(ctx, s.target, s.only, top()); err != nil {
		return err
	}
	target := ocispec.Descriptor{MediaType: s.target.MediaType, Digest: s.target.Digest, Size: s.target.Size}
	var tags []string
	for _, n := range s.names {
		d := target
		d.Annotations = map[string]string{images.AnnotationImageName: n}
		if ref, err := reference.ParseNormalizedNamed(n); err == nil {
			if t, ok := ref.(reference.Tagged); ok {
				tags = append(tags, reference.FamiliarString(ref))
				d.Annotations[ocispec.AnnotationRefName] = t.Tag()
			}
		}
		a.index.Manifests = append(a.index.Manifests, d)
	}
	if len(s.names) == 0 {
		a.index.Manifests = append(a.index.Manifests, target)
	}
	present := slices.DeleteFunc(a.im.manifests(ctx, target, top()), func(m ocispec.Descriptor) bool {
		return s.only != nil && !s.only[m.Digest]
	})
	best, ok := choose(present, platforms.Default())
	if !ok {
		if best, ok = choose(present, platforms.All); !ok {
			return nil
		}
	}
	d, err := a.im.document(ctx, best)
	if err != nil {
		return err
	}
	if d.artifact() != "" {
		return nil // Docker's list is of images
	}
	entry := dockerManifest{Config: blobPath(d.Config.Digest), RepoTags: tags, Layers: []string{}}
	for _, l := range d.Layers {
		entry.Layers = append(entry.Layers, blobPath(l.Digest))
	}
	a.docker = append(a.docker, entry)
	return nil
}

func blobPath(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// tree writes a manifest or an index with all below it that is there.
func (a *archiveWriter) tree(ctx context.Context, desc ocispec.Descriptor, only map[digest.Digest]bool, at nesting) error {
	if only != nil && images.IsManifestType(desc.MediaType) && !only[desc.Digest] {
		return nil
	}
	d, err := a.im.document(ctx, desc)
	if errdefs.IsNotFound(err) && at.depth > 0 || at.depth > maxDepth {
		return nil
	}
	if err != nil {
		return err
	}
	if err := a.blob(ctx, desc); err != nil {
		return err
	}
	for _, m := range d.Manifests {
		if !images.IsManifestType(m.MediaType) && !images.IsIndexType(m.MediaType) {
			continue
		}
		if below, first := at.down(m); first {
			if err := a.tree(ctx, m, only, below); err != nil {
				return err
			}
		}
	}
	if d.Config == nil {
		return nil
	}
	for _, b := range append([]ocispec.Descriptor{*d.Config}, d.Layers...) {
		if err := a.blob(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (a *archiveWriter) blob(ctx context.Context, desc ocispec.Descriptor) error {
	if a.written[desc.Digest] {
		return nil
	}
	ra, err := a.im.store.Content().ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return err
	}
	defer ra.Close()
	if err := a.header(blobPath(desc.Digest), ra.Size()); err != nil {
		return err
	}
	a.written[desc.Digest] = true
	_, err = io.Copy(a.tw, &cancelled{ctx, content.NewReader(ra)})
	return err
}

func (a *archiveWriter) file(name string, data []byte) error {
	if err := a.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err := a.tw.Write(data)
	return err
}

// header writes the same for the same content, whenever it is saved.
func (a *archiveWriter) header(name string, size int64) error {
	return a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o444,
		ModTime: time.Unix(0, 0)})
}
