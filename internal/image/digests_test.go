package image

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image may be named by digests of another algorithm, each of its parts by one of its own.
func TestDigestsOfAnotherAlgorithm(t *testing.T) {
	b := &built{blobs: map[digest.Digest][]byte{}}
	add := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.SHA512.FromBytes(data), Size: int64(len(data))}
		b.blobs[d.Digest] = data
		return d
	}
	layer := rootTar(t, "f", "1")
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}}
	data, err := json.Marshal(config)
	must(t, err)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{add(ocispec.MediaTypeImageLayerGzip, gzipped(t, layer))}, Config: add(ocispec.MediaTypeImageConfig, data)}
	data, err = json.Marshal(m)
	must(t, err)
	b.target = add(ocispec.MediaTypeImageManifest, data)
	f := serve(t, b)
	im := open(t)
	img, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
	must(t, err)
	if got := fileOf(t, im, img, "f"); got != "1" || img.ID != b.target.Digest.String() {
		t.Errorf("%s: f is %q", img.ID, got)
	}
	_, err = im.Remove(t.Context(), img.ID, RemoveOptions{Force: true})
	must(t, err)
	wantEmpty(t, im)
}
