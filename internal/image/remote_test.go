package image

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestRegistryOf(t *testing.T) {
	for server, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io",
		"registry-1.docker.io": "docker.io", "localhost:5000": "localhost:5000", "https://r.example/v2/": "r.example",
		"http://r.example:80": "r.example:80", "[::1]:5000": "[::1]:5000",
	} {
		if got, err := RegistryOf(server); err != nil || got != want {
			t.Errorf("%q: %q, %v", server, got, err)
		}
	}
	for _, server := range []string{"https://", "/x", "name", "a b", "u:p@r.example", "r.example:x", "r.example?x=1",
		"r.example#x", "\x00", "ftp://r.example", strings.Repeat("a", 10000)} {
		if got, err := RegistryOf(server); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %q, %v", server, got, err)
		}
	}
}

func TestRemote(t *testing.T) {
	b := build(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}},
		rootTar(t, "f", "1"))
	f := serve(t, b)
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == want {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	im := open(t)
	ann := &Auth{Username: "ann", Password: "secret"}
	for _, ref := range []string{f.addr + "/x:1", f.addr + "/x@" + b.target.Digest.String()} {
		got, err := im.Remote(t.Context(), ref, ann)
		must(t, err)
		if got.Target.Digest != b.target.Digest || got.Target.Size != b.target.Size || len(got.Platforms) != 1 ||
			got.Platforms[0].Architecture != "arm64" || got.Platforms[0].OS != "linux" {
			t.Errorf("%s: %+v", ref, got)
		}
	}
	if _, err := im.Remote(t.Context(), f.addr+"/x:1", nil); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := im.Remote(t.Context(), "X", nil); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if list, err := im.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("looking is not pulling: %v, %v", list, err)
	}

	arm, amd := ocispec.Platform{OS: "linux", Architecture: "arm64"}, ocispec.Platform{OS: "linux", Architecture: "amd64"}
	one, two := b.target, b.target
	one.Platform, two.Platform = &arm, &amd
	b.target = b.addJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{one, two}})
	got, err := im.Remote(t.Context(), f.addr+"/x:1", ann)
	must(t, err)
	if len(got.Platforms) != 2 || got.Platforms[1].Architecture != "amd64" {
		t.Errorf("%+v", got)
	}

	b.target = b.add(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`))
	if _, err := im.Remote(t.Context(), f.addr+"/x:1", ann); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a manifest that is two things: %v", err)
	}
}
