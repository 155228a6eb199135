package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/store"
)

const (
	// maxConfig is the largest configuration that is read, in bytes.
	maxConfig = 8 << 20

	// maxManifests is the most manifests an index may list.
	maxManifests = 10_000
)

// kinded gives an error a kind without the kind's name in its text.
type kinded struct{ err, kind error }

func (e *kinded) Error() string   { return e.err.Error() }
func (e *kinded) Unwrap() []error { return []error{e.err, e.kind} }

func withKind(kind error, format string, args ...any) error {
	return &kinded{fmt.Errorf(format, args...), kind}
}

// badImage is an error in what an image says.
func badImage(format string, args ...any) error {
	return withKind(errdefs.ErrInvalidArgument, "bad image: "+format, args...)
}

// readBlob reads a small blob. The store has verified it against its digest when it came in.
func readBlob(ctx context.Context, p content.Provider, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size < 0 || desc.Size > limit {
		return nil, badImage("%s has %d bytes, more than the %d that are read", desc.Digest, desc.Size, limit)
	}
	ra, err := p.ReaderAt(ctx, ocispec.Descriptor{Digest: desc.Digest})
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() != desc.Size {
		return nil, badImage("%s has %d bytes where %d are announced", desc.Digest, ra.Size(), desc.Size)
	}
	data := make([]byte, desc.Size)
	if _, err := io.ReadFull(io.NewSectionReader(ra, 0, desc.Size), data); err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return data, nil
}

// document is a manifest or an index, as far as we look into it.
type document struct {
	MediaType string               `json:"mediaType"`
	Config    *ocispec.Descriptor  `json:"config"`
	Artifact  string               `json:"artifactType"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// parseDocument reads a manifest or an index and refuses what could be taken for both.
func parseDocument(data []byte, mediaType string) (*document, error) {
	var raw struct {
		document
		SchemaVersion int             `json:"schemaVersion"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	// Names that differ in case only would be read as one by us and as several by others.
	if err := strictKeys(data, "manifest"); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, badImage("its manifest is no JSON of the right form: %w", err)
	}
	d := raw.document
	switch {
	case raw.SchemaVersion == 1 || raw.FSLayers != nil:
		return nil, badImage("its manifest has the schema 1, which is not supported any more")
	case raw.SchemaVersion != 2:
		return nil, badImage("its manifest has the unknown schema %d", raw.SchemaVersion)
	case d.Manifests != nil && (d.Layers != nil || d.Config != nil):
		return nil, badImage("its manifest has both layers and manifests")
	case d.MediaType != "" && d.MediaType != mediaType:
		return nil, badImage("its manifest says that it is %q and came as %q", d.MediaType, mediaType)
	case images.IsIndexType(mediaType):
		if len(d.Manifests) > maxManifests {
			return nil, badImage("its index lists %d manifests", len(d.Manifests))
		}
		if d.Layers != nil || d.Config != nil {
			return nil, badImage("its index has layers")
		}
	case images.IsManifestType(mediaType):
		if d.Config == nil {
			return nil, badImage("its manifest has no configuration")
		}
		if d.Manifests != nil {
			return nil, badImage("its manifest has manifests")
		}
		if len(d.Layers) > store.MaxLayers {
			return nil, badImage("it has %d layers, more than %d", len(d.Layers), store.MaxLayers)
		}
	default:
		return nil, badImage("%q is neither a manifest nor an index", mediaType)
	}
	all := slices.Concat(d.Layers, d.Manifests)
	if d.Config != nil {
		all = append(all, *d.Config)
	}
	for _, desc := range all {
		if err := desc.Digest.Validate(); err != nil {
			return nil, badImage("the digest %.80q is not valid", desc.Digest.String())
		}
		if desc.Size < 0 {
			return nil, badImage("%s has the size %d", desc.Digest, desc.Size)
		}
	}
	return &d, nil
}

// nesting is where a walk through indexes in indexes is. Each index is walked through once, however often it is listed: with
// some that list each other a thousand times there would be no end of ways.
type nesting struct {
	depth int
	been  map[digest.Digest]bool
}

func top() nesting { return nesting{been: map[digest.Digest]bool{}} }

// down goes on to what an index lists, and tells whether it is an index that was not walked through yet, or none.
func (n nesting) down(desc ocispec.Descriptor) (below nesting, first bool) {
	below = nesting{n.depth + 1, n.been}
	if !images.IsIndexType(desc.MediaType) {
		return below, true
	}
	first = !n.been[desc.Digest]
	n.been[desc.Digest] = true
	return below, first
}

// artifact is what a manifest is if it is no image, "" if it is one.
func (d *document) artifact() string {
	switch {
	case d.Config == nil || images.IsConfigType(d.Config.MediaType):
		return ""
	case d.Artifact != "":
		return d.Artifact
	case d.Config.MediaType != "":
		return d.Config.MediaType
	}
	return "unknown"
}

// strictKeys refuses objects in which a key occurs twice, at any depth, or twice but for its case, since others may read the
// first where we read the last; and the keys of a manifest that are spelt in another case.
func strictKeys(data []byte, what string) error {
	if !json.Valid(data) { // which bounds the depth, too
		return badImage("its %s is no JSON of the right form", what)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return badImage("its %s is no JSON object", what)
	}
	type level struct {
		seen  map[string]bool // nil in a list
		exact bool            // its keys are people's, and those of all below
		key   string          // the last one, "" where one is expected
	}
	stack := []level{{seen: map[string]bool{}}}
	for len(stack) > 0 {
		t, err := dec.Token()
		if err != nil {
			return badImage("its %s is no JSON of the right form: %w", what, err)
		}
		top := &stack[len(stack)-1]
		if t == json.Delim('}') || t == json.Delim(']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if name, ok := t.(string); ok && top.seen != nil && top.key == "" {
			id := name
			if !top.exact {
				id = strings.ToLower(name)
			}
			if top.seen[id] {
				return badImage("its %s has the key %.40q twice", what, name)
			}
			top.seen[id] = true
			if proper := documentKey(id); len(stack) == 1 && what == "manifest" && proper != "" && proper != name {
				return badImage("its manifest has the key %.40q", name)
			}
			top.key = "x" + name // an empty key is a key
			continue
		}
		next := level{exact: top.exact}
		switch top.key {
		case "xannotations", "xLabels", "xExposedPorts", "xVolumes":
			next.exact = true
		}
		top.key = ""
		switch t {
		case json.Delim('{'):
			next.seen = map[string]bool{}
			stack = append(stack, next)
		case json.Delim('['):
			stack = append(stack, next)
		}
	}
	return nil
}

// documentKey is how a key of manifests and indexes is spelt, by its lower case; "" if it is none of ours.
func documentKey(lower string) string {
	for _, k := range []string{"schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers"} {
		if strings.ToLower(k) == lower {
			return k
		}
	}
	return ""
}

// choose picks the manifest of an index that fits best, by the matcher, among those that are usable at all.
func choose(list []ocispec.Descriptor, m platforms.MatchComparer) (ocispec.Descriptor, bool) {
	best, found := ocispec.Descriptor{}, false
	for _, d := range list {
		if !images.IsManifestType(d.MediaType) && !images.IsIndexType(d.MediaType) {
			continue
		}
		if d.Platform != nil {
			if d.Platform.OS == "unknown" || !m.Match(platforms.Normalize(*d.Platform)) {
				continue
			}
			if found && best.Platform != nil && !m.Less(*d.Platform, *best.Platform) {
				continue
			}
		} else if found {
			continue
		}
		best, found = d, true
	}
	return best, found
}

// matcher is what an image has to fit: the platform asked for and no other, or without one the host's. exact says
// that one was asked for.
func matcher(platform string) (m platforms.MatchComparer, exact bool, err error) {
	if platform == "" {
		return platforms.Default(), false, nil
	}
	p, err := platforms.Parse(platform)
	if err != nil {
		return nil, false, withKind(errdefs.ErrInvalidArgument, "invalid platform %q", platform)
	}
	return platforms.OnlyStrict(platforms.Normalize(p)), true, nil
}

// load reads an image from the store. Without a platform, any image that is there will do if the host's is not.
func (im *Images) load(ctx context.Context, target ocispec.Descriptor, platform string) (*Image, error) {
	key := cacheKey{target.Digest, platform}
	im.mu.Lock()
	img := im.cached[key]
	im.mu.Unlock()
	if img == nil {
		var err error
		if img, err = im.parse(im.store.Context(ctx), target, platform); err != nil {
			return nil, err
		}
		im.mu.Lock()
		if len(im.cached) >= maxCached {
			clear(im.cached)
		}
		im.cached[key] = img
		im.mu.Unlock()
	}
	out := *img
	im.fillNames(&out)
	return &out, nil
}

func (im *Images) parse(ctx context.Context, target ocispec.Descriptor, platform string) (*Image, error) {
	m, exact, err := matcher(platform)
	if err != nil {
		return nil, err
	}
	img := &Image{ID: target.Digest.String(), Target: target}
	d, err := im.document(ctx, target)
	if err != nil {
		return nil, err
	}
	img.Manifest, img.blobs = target, target.Size
	img.parts = []ocispec.Descriptor{target}
	if images.IsIndexType(target.MediaType) {
		// Also those of an index in the index.
		present := slices.DeleteFunc(im.manifests(ctx, target, top()), func(c ocispec.Descriptor) bool {
			return !images.IsManifestType(c.MediaType)
		})
		c, ok := choose(present, m)
		if !ok && !exact {
			c, ok = choose(present, platforms.All)
		}
		if !ok {
			return nil, withKind(errdefs.ErrNotFound, "the index %s has no manifest for the platform", target.Digest)
		}
		img.Manifest = c
		img.blobs += c.Size
		img.parts = append(img.parts, c)
		if d, err = im.document(ctx, c); err != nil {
			return nil, err
		}
	}
	if err := im.fillConfig(ctx, img, d); err != nil {
		return nil, err
	}
	have := platforms.Normalize(ocispec.Platform{OS: img.OS, Architecture: img.Architecture, Variant: img.Variant})
	if exact && img.Manifest.Platform == nil && img.OS != "" && !m.Match(have) {
		return nil, withKind(errdefs.ErrNotFound, "its platform is %s and not %s", platforms.Format(have), platform)
	}
	img.Size = img.blobs
	usage, err := im.store.ChainUsage(ctx, img.Chain)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	for _, u := range usage {
		img.Size += u.Size
	}
	return img, nil
}

func (im *Images) document(ctx context.Context, desc ocispec.Descriptor) (*document, error) {
	data, err := readBlob(ctx, im.store.Content(), desc, registry.MaxManifest)
	if err != nil {
		return nil, err
	}
	return parseDocument(data, desc.MediaType)
}

func (im *Images) fillConfig(ctx context.Context, img *Image, d *document) error {
	seen := map[digest.Digest]bool{}
	for _, part := range append([]ocispec.Descriptor{*d.Config}, d.Layers...) {
		if !seen[part.Digest] { // one that occurs twice is stored once
			img.blobs += part.Size
			img.parts = append(img.parts, part)
		}
		seen[part.Digest] = true
	}
	if img.Artifact = d.artifact(); img.Artifact != "" {
		return nil
	}
	data, err := readBlob(ctx, im.store.Content(), *d.Config, maxConfig)
	if err != nil {
		return err
	}
	config, err := parseConfig(data, len(d.Layers))
	if err != nil {
		return err
	}
	img.Config, img.Docker = config.Image, config.Config.DockerOCIImageConfigExt
	img.Config.Config = config.Config.ImageConfig
	img.OS, img.Architecture, img.Variant = img.Config.OS, img.Config.Architecture, img.Config.Variant
	if img.Config.Created != nil {
		img.Created = *img.Config.Created
	}
	if n := len(img.Config.History); n > 0 {
		img.Comment = img.Config.History[n-1].Comment
	}
	img.Layers = img.Config.RootFS.DiffIDs
	img.Chain = chainOf(img.Layers)
	return nil
}

// parseConfig reads an image's configuration and checks that it fits the manifest.
func parseConfig(data []byte, layers int) (*dockerspec.DockerOCIImage, error) {
	if err := strictKeys(data, "configuration"); err != nil {
		return nil, err
	}
	var config dockerspec.DockerOCIImage
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, badImage("its configuration is no JSON of the right form: %w", err)
	}
	if t := config.RootFS.Type; t != "layers" && (t != "" || layers > 0) {
		return nil, badImage("its root file system has the unknown type %.40q", t)
	}
	if len(config.RootFS.DiffIDs) != layers {
		return nil, badImage("its configuration has %d layers and its manifest %d", len(config.RootFS.DiffIDs), layers)
	}
	for _, d := range config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return nil, badImage("the digest %.80q is not valid", d.String())
		}
	}
	return &config, nil
}

// chainOf is the chain ID of the topmost of the layers; "" if there are none.
func chainOf(layers []digest.Digest) digest.Digest { return identity.ChainID(layers) }

// chainsOf are the chain IDs of each of the layers.
func chainsOf(layers []digest.Digest) []digest.Digest { return identity.ChainIDs(slices.Clone(layers)) }
