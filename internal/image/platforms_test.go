package image

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const provenance = "https://slsa.dev/provenance/v1"

// several builds an index of images for amd64, arm64 and s390x and of what is attested of the first; without blobs of
// the last.
func several(t testing.TB) *built {
	t.Helper()
	b := &built{blobs: map[digest.Digest][]byte{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range []string{"amd64", "arm64"} {
		d := b.manifest(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}},
			rootTar(t, "same", "both"), rootTar(t, "arch", arch))
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, d)
	}
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 5,
		Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}}
	statement := b.add(mediaTypeInToto, []byte(`{"_type": "https://in-toto.io/Statement/v1"}`))
	statement.Annotations = map[string]string{annotationPredicate: provenance}
	config := b.addJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{statement.Digest}}})
	attestation := b.addJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{statement}})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{annotationKind: kindAttestation, annotationFor: index.Manifests[0].Digest.String()}
	index.Manifests = append(index.Manifests, absent, attestation)
	b.target = b.addJSON(t, ocispec.MediaTypeImageIndex, index)
	return b
}

// have lists the architectures of an image that are here.
func have(t *testing.T, im *Images, name string) (out string) {
	t.Helper()
	parts, err := im.Parts(t.Context(), name)
	must(t, err)
	for _, p := range parts {
		if p.Available {
			out += p.Platform.Architecture + " "
		}
	}
	return out
}

func TestPlatforms(t *testing.T) {
	ctx, im, b := t.Context(), open(t), several(t)
	_, err := im.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/app:1")), LoadOptions{})
	must(t, err)
	parts, err := im.Parts(ctx, "app:1")
	if err != nil || len(parts) != 4 || have(t, im, "app:1") != "amd64 arm64 unknown " {
		t.Fatalf("%+v, %v", parts, err)
	}
	for i, want := range []PartKind{PartImage, PartImage, PartImage, PartAttestation} {
		if p := parts[i]; p.Kind != want || p.Available != (i != 2) || (p.Content > 0) != (i != 2) || (p.Unpacked > 0) != (i < 2) {
			t.Errorf("%d: %+v", i, p)
		}
	}
	if parts[3].For != parts[0].Manifest.Digest || len(parts[0].Layers) != 2 || parts[0].Layers[0] != parts[1].Layers[0] {
		t.Errorf("%+v", parts)
	}

	// What is attested, of the platform that was asked for, and read on request alone.
	for _, tc := range []struct {
		platform   string
		predicates []string
		whole      bool
		want       int
	}{{"linux/amd64", nil, false, 1}, {"linux/amd64", []string{"x", provenance}, true, 1}, {"linux/amd64", []string{"x"}, false, 0}, {"linux/arm64", nil, false, 0}} {
		list, err := im.Attestations(ctx, "app:1", tc.platform, tc.predicates, tc.whole)
		if err != nil || len(list) != tc.want {
			t.Fatalf("%+v: %+v, %v", tc, list, err)
		}
		if tc.want > 0 && (list[0].Predicate != provenance || json.Valid(list[0].Statement) != tc.whole) {
			t.Errorf("%+v: %+v", tc, list)
		}
	}

	// Saved whole it is what was loaded, of several platforms it keeps its digest, and of one it is that manifest.
	for _, tc := range []struct {
		platforms []string
		id        digest.Digest
		have      string
	}{
		{nil, b.target.Digest, "amd64 arm64 unknown "},
		{[]string{"linux/arm64", "linux/amd64"}, b.target.Digest, "amd64 arm64 unknown "},
		{[]string{"linux/arm64"}, parts[1].Manifest.Digest, "arm64 "},
	} {
		var out bytes.Buffer
		must(t, im.Save(ctx, &out, []string{"app:1"}, tc.platforms...))
		other := open(t)
		_, err := other.Load(ctx, &out, LoadOptions{})
		must(t, err)
		img, err := other.Resolve(ctx, "app:1", "")
		if err != nil || img.ID != tc.id.String() || have(t, other, "app:1") != tc.have {
			t.Errorf("%v: %s, %s, %v", tc.platforms, img.ID, have(t, other, "app:1"), err)
		}
	}
	for _, p := range []string{"linux/s390x", "linux/riscv64"} {
		if err := im.Save(ctx, &bytes.Buffer{}, []string{"app:1"}, "linux/amd64", p); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", p, err)
		}
	}

	// Loaded in part: the same index, with less below it.
	part := open(t)
	if _, err := part.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/app:1")), LoadOptions{Platforms: []string{"linux/riscv64"}}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	wantEmpty(t, part)
	_, err = part.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/app:1")), LoadOptions{Platforms: []string{"linux/riscv64", "linux/arm64"}})
	if err != nil || have(t, part, "app:1") != "arm64 " {
		t.Errorf("%s, %v", have(t, part, "app:1"), err)
	}
	if img, err := part.Resolve(ctx, "app:1", ""); err != nil || fileOf(t, part, img, "arch") != "arm64" {
		t.Errorf("%v", err)
	}
}

func TestSharedLayers(t *testing.T) {
	ctx, im, b := t.Context(), open(t), several(t)
	_, err := im.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/app:1")), LoadOptions{})
	must(t, err)
	if shared, err := im.SharedLayers(ctx); err != nil || len(shared) != 0 {
		t.Errorf("within one image: %+v, %v", shared, err)
	}
	other := build(t, ocispec.Image{}, rootTar(t, "same", "both"), rootTar(t, "other", "o"))
	_, err = im.Load(ctx, bytes.NewReader(other.layout(t, "docker.io/library/other:1")), LoadOptions{})
	must(t, err)
	want := []string{b.target.Digest.String(), other.target.Digest.String()}
	slices.Sort(want)
	shared, err := im.SharedLayers(ctx)
	if err != nil || len(shared) != 1 || !slices.Equal(shared[0].Images, want) || shared[0].Size == 0 || shared[0].Diff != other.config.RootFS.DiffIDs[0] {
		t.Errorf("%+v, %v", shared, err)
	}
}

func TestRemovePlatforms(t *testing.T) {
	ctx, im, b := t.Context(), open(t), several(t)
	_, err := im.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/app:1")), LoadOptions{})
	must(t, err)
	parts, err := im.Parts(ctx, "app:1")
	must(t, err)
	chain := parts[1].Chain.String()
	users := func(c string) []string {
		if c == chain {
			return []string{strings.Repeat("f", 64)}
		}
		return nil
	}
	if _, err := im.RemovePlatforms(ctx, "app:1", []string{"linux/arm64"}, users); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "ffffffffffff") {
		t.Errorf("in use: %v", err)
	}
	if _, err := im.RemovePlatforms(ctx, "app:1", []string{"linux/s390x"}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("absent: %v", err)
	}
	if _, err := im.RemovePlatforms(ctx, "app:1", []string{"linux/arm64", "linux/amd64"}, nil); !errdefs.IsConflict(err) {
		t.Errorf("all: %v", err)
	}
	removed, err := im.RemovePlatforms(ctx, "app:1", []string{"linux/amd64"}, users)
	must(t, err)
	want := []Removed{{Deleted: parts[0].Manifest.Digest.String()}, {Deleted: parts[3].Manifest.Digest.String()}}
	if !slices.Equal(removed, want) || have(t, im, "app:1") != "arm64 " {
		t.Errorf("%+v, left %s", removed, have(t, im, "app:1"))
	}
	img, err := im.Resolve(ctx, "app:1", "")
	if err != nil || img.ID != b.target.Digest.String() || fileOf(t, im, img, "arch") != "arm64" {
		t.Errorf("%v", err)
	}
	_, err = im.Remove(ctx, "app:1", RemoveOptions{})
	must(t, err)
	wantEmpty(t, im)
}

func TestPullBringsWhatIsAttested(t *testing.T) {
	ctx := t.Context()
	pull := func(b *built, platform string) (*Images, error) {
		im := open(t)
		_, err := im.Pull(ctx, serve(t, b).addr+"/app:1", PullOptions{Platform: platform})
		return im, err
	}
	only := func(im *Images) string {
		t.Helper()
		all, err := im.List(ctx)
		if err != nil || len(all) != 1 {
			t.Fatalf("%+v, %v", all, err)
		}
		return all[0].ID
	}
	b := several(t)
	statement := digest.FromString(`{"_type": "https://in-toto.io/Statement/v1"}`)
	for _, tc := range []struct {
		platform, have string
		want           int
	}{{"linux/amd64", "amd64 unknown ", 1}, {"linux/arm64", "arm64 ", 0}} {
		im, err := pull(b, tc.platform)
		must(t, err)
		id := only(im)
		list, err := im.Attestations(ctx, id, tc.platform, nil, true)
		if err != nil || len(list) != tc.want || have(t, im, id) != tc.have {
			t.Errorf("%s: %+v, %q, %v", tc.platform, list, have(t, im, id), err)
		}
		must(t, im.store.GC(ctx))
		if list, err := im.Attestations(ctx, id, tc.platform, nil, true); err != nil || len(list) != tc.want {
			t.Errorf("%s, collected: %+v, %v", tc.platform, list, err)
		}
		// It goes with its image.
		_, err = im.Remove(ctx, id, RemoveOptions{Force: true})
		must(t, err)
		wantEmpty(t, im)
	}

	// What the registry does not have, the image does not need; what it lies about is refused with everything else.
	lacking := several(t)
	delete(lacking.blobs, statement)
	im, err := pull(lacking, "linux/amd64")
	must(t, err)
	if list, err := im.Attestations(ctx, only(im), "linux/amd64", nil, true); err != nil || len(list) != 0 {
		t.Errorf("a statement that the registry lacks: %+v, %v", list, err)
	}
	lying := several(t)
	lying.blobs[statement] = []byte(`{"_type": "https://in-toto.io/Statement/v2"}`)
	im, err = pull(lying, "linux/amd64")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "what was sent as") {
		t.Errorf("a statement that is another: %v", err)
	}
	wantEmpty(t, im)
}
