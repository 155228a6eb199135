package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PartKind says what one of the manifests of an image is for.
type PartKind string

// The kinds of parts.
const (
	PartImage       PartKind = "image"
	PartAttestation PartKind = "attestation"
	PartUnknown     PartKind = "unknown"
)

// Annotations by which BuildKit binds what is attested to the manifest that it is about, as in-toto's media type and
// predicate stand in the manifest's layers.
const (
	annotationKind      = "vnd.docker.reference.type"
	annotationFor       = "vnd.docker.reference.digest"
	kindAttestation     = "attestation-manifest"
	mediaTypeInToto     = "application/vnd.in-toto+json"
	annotationPredicate = "in-toto.io/predicate-type"

	// maxStatement is the largest statement that is read, in bytes.
	maxStatement = 32 << 20

	// maxAttested is how many manifests of attestations of one image are fetched, and how many statements of each.
	maxAttested = 16
)

// Part is one of the manifests that an index lists, or the only one of an image without an index.
type Part struct {
	Kind      PartKind
	Manifest  ocispec.Descriptor
	For       digest.Digest // the manifest that an attestation is about
	Platform  ocispec.Platform
	Available bool  // it is here with all that it needs
	Content   int64 // bytes of its blobs that are here
	Unpacked  int64 // bytes of its unpacked layers
	Chain     digest.Digest
	Layers    []digest.Digest // of an image: the uncompressed layers
}

// Parts lists the manifests of an image, also those that are not here, in the order of its index.
func (im *Images) Parts(ctx context.Context, nameOrID string) ([]Part, error) {
	target, _, err := im.find(nameOrID)
	if err != nil {
		return nil, err
	}
	return im.parts(im.store.Context(ctx), target, top())
}

func (im *Images) parts(ctx context.Context, desc ocispec.Descriptor, at nesting) ([]Part, error) {
	if !images.IsIndexType(desc.MediaType) {
		return []Part{im.part(ctx, desc)}, nil
	}
	d, err := im.document(ctx, desc)
	if err != nil {
		return nil, err
	}
	var out []Part
	for _, m := range d.Manifests {
		if images.IsIndexType(m.MediaType) && at.depth < maxDepth {
			if here, _ := im.has(ctx, m); here {
				if below, first := at.down(m); first {
					found, err := im.parts(ctx, m, below)
					if err != nil {
						return nil, err
					}
					out = append(out, found...)
				}
				continue
			}
		}
		out = append(out, im.part(ctx, m))
	}
	return out, nil
}

// part looks at one manifest; what cannot be read of it is not available.
func (im *Images) part(ctx context.Context, m ocispec.Descriptor) Part {
	p := Part{Kind: PartUnknown, Manifest: m}
	if m.Platform != nil {
		p.Platform = *m.Platform
	}
	switch {
	case m.Annotations[annotationKind] == kindAttestation:
		p.Kind = PartAttestation
		p.For, _ = digest.Parse(m.Annotations[annotationFor]) // of a wrong one it is for nothing
	case images.IsManifestType(m.MediaType) && p.Platform.OS != "unknown":
		p.Kind = PartImage
	}
	if here, err := im.has(ctx, m); err != nil || !here || !images.IsManifestType(m.MediaType) {
		return p
	}
	p.Content = m.Size
	d, err := im.document(ctx, m)
	if err != nil {
		return p
	}
	p.Available = true
	for _, b := range append([]ocispec.Descriptor{*d.Config}, d.Layers...) {
		if here, err := im.has(ctx, b); err == nil && here {
			p.Content += b.Size
		} else {
			p.Available = false
		}
	}
	if p.Kind != PartImage {
		return p
	}
	img := &Image{}
	if im.fillConfig(ctx, img, d) != nil {
		p.Available = false
		return p
	}
	p.Platform, p.Chain, p.Layers = img.Config.Platform, img.Chain, img.Layers
	if usage, err := im.store.ChainUsage(ctx, img.Chain); err == nil {
		for _, u := range usage {
			p.Unpacked += u.Size
		}
	}
	return p
}

// Attestation is one statement that is attached to an image (in-toto attestation framework, statement).
type Attestation struct {
	Descriptor ocispec.Descriptor
	Predicate  string          // its predicate's type, a URI
	Statement  json.RawMessage // as it came; only if it was asked for
}

// Attestations lists what is attested of an image for a platform, "" for the one that would run. predicates limits it to
// statements of these types, unless it is empty.
func (im *Images) Attestations(ctx context.Context, nameOrID, platform string, predicates []string, statements bool) ([]Attestation,
	error) {
	img, err := im.Resolve(ctx, nameOrID, platform)
	if err != nil {
		return nil, err
	}
	ctx = im.store.Context(ctx)
	parts, err := im.parts(ctx, img.Target, top())
	if err != nil {
		return nil, err
	}
	var out []Attestation
	for _, p := range parts {
		if p.Kind != PartAttestation || p.For != img.Manifest.Digest {
			continue
		}
		d, err := im.document(ctx, p.Manifest)
		if errdefs.IsNotFound(err) {
			continue // it has stayed at the registry
		}
		if err != nil {
			return nil, err
		}
		for _, l := range d.Layers {
			a := Attestation{Descriptor: l, Predicate: l.Annotations[annotationPredicate]}
			if l.MediaType != mediaTypeInToto || len(predicates) > 0 && !slices.Contains(predicates, a.Predicate) {
				continue
			}
			if statements {
				if a.Statement, err = readBlob(ctx, im.store.Content(), l, maxStatement); err != nil {
					return nil, err
				}
				if !json.Valid(a.Statement) {
					return nil, badImage("the statement %s is no JSON", l.Digest)
				}
			}
			out = append(out, a)
		}
	}
	return out, nil
}

// bringAttested fetches what an index says is attested of one of its manifests, and binds it to the index. It is no part of
// what runs: what the registry lacks stays away, and so does what is no in-toto statement of a reasonable size.
func (im *Images) bringAttested(ctx context.Context, index ocispec.Descriptor, about digest.Digest, fetch fetcher, at nesting) error {
	d, err := im.document(ctx, index)
	if err != nil {
		return err
	}
	var brought []ocispec.Descriptor
	for _, m := range d.Manifests {
		if images.IsIndexType(m.MediaType) && at.depth < maxDepth {
			if here, err := im.has(ctx, m); err != nil {
				return err
			} else if below, first := at.down(m); here && first {
				if err := im.bringAttested(ctx, m, about, fetch, below); err != nil {
					return err
				}
			}
			continue
		}
		if m.Annotations[annotationKind] != kindAttestation || m.Annotations[annotationFor] != about.String() ||
			!images.IsManifestType(m.MediaType) || len(brought) == maxAttested {
			continue
		}
		ok, err := im.bringStatements(ctx, m, fetch)
		if err != nil {
			return fmt.Errorf("attestation %s: %w", short(m.Digest), err)
		}
		if ok {
			brought = append(brought, m)
		}
	}
	return im.label(ctx, index.Digest, indexLabels(brought...))
}

// bringStatements fetches the manifest of an attestation and its statements, and tells whether they came.
func (im *Images) bringStatements(ctx context.Context, manifest ocispec.Descriptor, fetch fetcher) (bool, error) {
	d, data, err := im.fetchManifest(ctx, manifest, fetch)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if d.Config.Size > maxConfig || len(d.Layers) > maxAttested {
		return false, nil
	}
	for _, l := range d.Layers {
		if l.MediaType != mediaTypeInToto || l.Size > maxStatement {
			return false, nil
		}
	}
	for _, b := range append([]ocispec.Descriptor{*d.Config}, d.Layers...) {
		if here, err := im.has(ctx, b); err != nil {
			return false, err
		} else if here {
			continue
		}
		blob, err := im.fetchSmall(ctx, b, maxStatement, fetch)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if err := im.put(ctx, b, blob, nil); err != nil {
			return false, err
		}
	}
	return true, im.put(ctx, manifest, data, manifestLabels(d))
}

// keepAttestations binds to an index what is attested of the manifests that are kept, where all of it is in the store. It
// returns them.
func (im *Images) keepAttestations(ctx context.Context, index ocispec.Descriptor, kept []ocispec.Descriptor) ([]ocispec.Descriptor,
	error) {
	parts, err := im.parts(ctx, index, top())
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, p := range parts {
		about := slices.ContainsFunc(kept, func(m ocispec.Descriptor) bool { return m.Digest == p.For })
		if p.Kind != PartAttestation || !p.Available || !about {
			continue
		}
		d, err := im.document(ctx, p.Manifest)
		if err != nil {
			return nil, err
		}
		if err := im.label(ctx, p.Manifest.Digest, manifestLabels(d)); err != nil {
			return nil, err
		}
		out = append(out, p.Manifest)
	}
	return out, nil
}

// chosen are the manifests of a target for platforms, and what is attested of them. One that is not here is an error.
func (im *Images) chosen(ctx context.Context, target ocispec.Descriptor, nameOrID string, wanted []string) ([]Part, error) {
	parts, err := im.parts(ctx, target, top())
	if err != nil {
		return nil, err
	}
	var out []Part
	for _, w := range wanted {
		m, _, err := matcher(w)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(parts, func(p Part) bool {
			return p.Kind == PartImage && p.Available && m.Match(platforms.Normalize(p.Platform))
		})
		if i < 0 {
			return nil, withKind(errdefs.ErrNotFound,
				"image with reference %s was found but does not provide the specified platform (%s)", nameOrID, w)
		}
		if !slices.ContainsFunc(out, func(p Part) bool { return p.Manifest.Digest == parts[i].Manifest.Digest }) {
			out = append(out, parts[i])
		}
	}
	for _, p := range parts {
		about := slices.ContainsFunc(out, func(o Part) bool { return o.Kind == PartImage && o.Manifest.Digest == p.For })
		if p.Kind == PartAttestation && p.Available && about {
			out = append(out, p)
		}
	}
	return out, nil
}

// RemovePlatforms removes the images of platforms from an index and leaves the others. users lists the containers on a
// chain of layers; what they stand on is not removed.
func (im *Images) RemovePlatforms(ctx context.Context, nameOrID string, wanted []string, users func(chain string) []string) ([]Removed,
	error) {
	removed, err := im.removePlatforms(ctx, nameOrID, wanted, users)
	if err != nil {
		return nil, err
	}
	return removed, im.store.GC(context.WithoutCancel(ctx))
}

func (im *Images) removePlatforms(ctx context.Context, nameOrID string, wanted []string, users func(chain string) []string) ([]Removed,
	error) {
	im.hold.Lock()
	defer im.hold.Unlock()
	target, _, err := im.find(nameOrID)
	if err != nil {
		return nil, err
	}
	sctx := im.store.Context(context.WithoutCancel(ctx))
	gone, err := im.chosen(sctx, target, nameOrID, wanted)
	if err != nil {
		return nil, err
	}
	all, err := im.parts(sctx, target, top())
	if err != nil {
		return nil, err
	}
	here := 0
	for _, p := range all {
		if p.Kind == PartImage && p.Available {
			here++
		}
	}
	c, labels := content.Info{Digest: target.Digest, Labels: map[string]string{}}, []string{}
	var out []Removed
	for _, p := range gone {
		if p.Kind == PartImage {
			here--
			if users != nil {
				if ids := users(p.Chain.String()); len(ids) > 0 {
					return nil, deleteConflict(p.Manifest.Digest.String(), "cannot be forced",
						"the image of platform "+platforms.Format(p.Platform)+" is being used by container "+shortID(ids[0]))
				}
			}
		}
		for key := range indexLabels(p.Manifest) {
			c.Labels[key] = ""
			labels = append(labels, "labels."+key)
		}
		out = append(out, Removed{Deleted: p.Manifest.Digest.String()})
	}
	if here == 0 {
		return nil, withKind(errdefs.ErrConflict,
			"conflict: no other platform of %s would be left: remove the image without naming a platform", nameOrID)
	}
	if _, err := im.store.Content().Update(sctx, c, labels...); err != nil {
		return nil, err
	}
	im.forget(target.Digest)
	return out, nil
}

// anyOf matches each of the platforms; all if there are none.
func anyOf(wanted []string) (platforms.MatchComparer, error) {
	if len(wanted) == 0 {
		return platforms.All, nil
	}
	var list []platforms.Matcher
	for _, w := range wanted {
		m, _, err := matcher(w)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return either(list), nil
}

// either matches what one of them does.
type either []platforms.Matcher

func (e either) Match(p ocispec.Platform) bool {
	return slices.ContainsFunc(e, func(m platforms.Matcher) bool { return m.Match(p) })
}

func (e either) Less(ocispec.Platform, ocispec.Platform) bool { return false }

// SharedLayer is an unpacked layer, with those below it, that several images stand on.
type SharedLayer struct {
	Chain  digest.Digest
	Diff   digest.Digest // of the uncompressed layer
	Size   int64         // bytes of it on the disk
	Images []string      // IDs, sorted
}

// SharedLayers lists the layers that are of more than one image, the largest first. They are on the disk once.
func (im *Images) SharedLayers(ctx context.Context) ([]SharedLayer, error) {
	ctx = im.store.Context(ctx)
	layers := map[digest.Digest]*SharedLayer{}
	for _, t := range im.targets() {
		parts, err := im.parts(ctx, t, top())
		if errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			usage, err := im.store.ChainUsage(ctx, p.Chain)
			if err != nil || !p.Available {
				continue
			}
			sizes := map[digest.Digest]int64{}
			for _, u := range usage {
				sizes[u.Chain] = u.Size
			}
			for i, chain := range chainsOf(p.Layers) {
				l := layers[chain]
				if l == nil {
					l = &SharedLayer{Chain: chain, Diff: p.Layers[i], Size: sizes[chain]}
					layers[chain] = l
				}
				if !slices.Contains(l.Images, t.Digest.String()) {
					l.Images = append(l.Images, t.Digest.String())
				}
			}
		}
	}
	var out []SharedLayer
	for _, l := range layers {
		if len(l.Images) > 1 {
			slices.Sort(l.Images)
			out = append(out, *l)
		}
	}
	slices.SortFunc(out, func(a, b SharedLayer) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Chain, b.Chain))
	})
	return out, nil
}
