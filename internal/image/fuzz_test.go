package image

import (
	"bytes"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func FuzzDocument(f *testing.F) {
	b := build(f, ocispec.Image{}, rootTar(f, "a", "b"))
	f.Add(b.blobs[b.target.Digest], ocispec.MediaTypeImageManifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"digest":"sha256:x"}]}`), ocispec.MediaTypeImageIndex)
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		d, err := parseDocument(data, mediaType)
		if err != nil {
			return
		}
		if (d.Config == nil) == (d.Manifests == nil) && d.Config != nil {
			t.Error("taken for a manifest and for an index")
		}
	})
}

func FuzzConfig(f *testing.F) {
	b := build(f, ocispec.Image{}, rootTar(f, "a", "b"))
	for _, data := range b.blobs {
		f.Add(data, 1)
	}
	f.Fuzz(func(t *testing.T, data []byte, layers int) {
		c, err := parseConfig(data, layers)
		if err == nil && len(c.RootFS.DiffIDs) != layers {
			t.Error("layers do not fit")
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"a", "a:b", "a/b@sha256:" + "00", "sha256:ab", "localhost:5000/x",
		"docker.io/berth/box"} {
		f.Add(s)
	}
	im := open(f)
	f.Fuzz(func(t *testing.T, s string) {
		if _, _, err := im.find(s); err == nil {
			t.Errorf("%q was found", s)
		}
		if ref, err := parseName(s); err == nil {
			if again, err := parseName(ref.String()); err != nil || again.String() != ref.String() {
				t.Errorf("%q does not stay %q", s, ref)
			}
		}
	})
}

func FuzzChange(f *testing.F) {
	for _, s := range []string{`CMD ["a"]`, `ENV A=b "c d"=e\`, "EXPOSE 1-9/udp", "HEALTHCHECK --interval=1s CMD x",
		"WORKDIR a b"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		var c dockerspec.DockerOCIImageConfig
		for _, line := range instructions([]string{s}) {
			_ = applyChange(&c, line)
		}
	})
}

func FuzzLoad(f *testing.F) {
	b := build(f, ocispec.Image{}, rootTar(f, "a", "b"))
	f.Add(b.layout(f, "docker.io/library/x:1"))
	f.Add(several(f).layout(f, "docker.io/library/x:1"))
	f.Add(rootTar(f, "manifest.json", `[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]`, "c",
		`{"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`, "l", ""))
	im := open(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		names, err := im.Load(t.Context(), bytes.NewReader(data), LoadOptions{})
		if err != nil {
			return
		}
		for _, n := range names {
			_, _ = im.Remove(t.Context(), n, RemoveOptions{Force: true})
		}
	})
}
