package registry

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestReferrers: what is about an image is listed at a registry that does not do so by itself, each once, and nowhere else.
func TestReferrers(t *testing.T) {
	kept, knows, puts := map[string][]byte{}, false, 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, name, _ := strings.Cut(r.URL.Path, "/manifests/")
		if r.Method == http.MethodPut {
			puts++
			kept[name], _ = io.ReadAll(r.Body)
			if knows {
				w.Header().Set("OCI-Subject", "sha256:x")
			}
			w.WriteHeader(http.StatusCreated)
			return
		}
		if kept[name] == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(kept[name])
	}))
	defer srv.Close()
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	name, err := reference.ParseNormalizedNamed(strings.TrimPrefix(srv.URL, "http://") + "/a/b")
	must(t, err)
	repo, err := c.Repository(t.Context(), name, nil)
	must(t, err)
	defer repo.Close()
	push := func(m any) error {
		data, err := json.Marshal(m)
		must(t, err)
		return repo.PushManifest(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(data),
			Size: int64(len(data))}, data, "")
	}
	subject := &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	about := func(kind, config string) ocispec.Manifest {
		return ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Subject: subject, ArtifactType: kind,
			Config: ocispec.Descriptor{MediaType: config}, Annotations: map[string]string{"a": "b"}}
	}
	tag := "sha256-" + subject.Digest.Encoded()
	listed := func() (kinds string) {
		var ix ocispec.Index
		if kept[tag] != nil {
			must(t, json.Unmarshal(kept[tag], &ix))
		}
		for _, m := range ix.Manifests {
			kinds += m.ArtifactType + "," + m.Annotations["a"] + " "
		}
		return kinds
	}
	must(t, push(about("application/signature", "x")))
	must(t, push(about("", "application/sbom")))
	must(t, push(about("", "application/sbom")))
	if listed() != "application/signature,b application/sbom,b " || puts != 5 {
		t.Errorf("%q after %d requests", listed(), puts)
	}
	must(t, push(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}})) // about nothing
	must(t, push(map[string]any{"subject": map[string]any{"digest": "../x"}}))
	if puts != 7 {
		t.Errorf("%d requests", puts)
	}
	knows = true
	must(t, push(about("application/known", "x")))
	if puts != 8 || strings.Contains(listed(), "known") {
		t.Errorf("%q after %d requests", listed(), puts)
	}
	// A tag that only looks like a list's is not overwritten.
	knows, kept[tag] = false, []byte(`{"layers":[]}`)
	if err := push(about("application/late", "x")); err == nil || string(kept[tag]) != `{"layers":[]}` {
		t.Errorf("%v, %s", err, kept[tag])
	}
}
