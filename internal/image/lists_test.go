package image

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestLook(t *testing.T) {
	f := serve(t, severalPlatforms(t))
	im, ctx := open(t), t.Context()
	ref := f.addr + "/x:1"
	all, err := im.Look(ctx, ref, ListOptions{Content: true})
	must(t, err)
	if !all.List || len(all.Parts) != 4 || all.Target.Digest != f.target.Digest {
		t.Fatalf("%+v", all)
	}
	for _, p := range all.Parts {
		if p.Ref != ref+"@"+p.Descriptor.Digest.String() || digest.FromBytes(p.Raw) != p.Descriptor.Digest {
			t.Errorf("%+v", p)
		}
	}
	if short, err := im.Look(ctx, ref, ListOptions{}); err != nil || len(short.Parts) != 4 || short.Parts[1].Raw != nil {
		t.Errorf("%+v, %v", short, err)
	}
	one, err := im.Look(ctx, f.addr+"/x@"+all.Parts[1].Descriptor.Digest.String(), ListOptions{})
	if err != nil || one.List || len(one.Parts) != 1 || one.Parts[0].Descriptor.Platform.Architecture != "arm64" || one.Parts[0].Raw == nil {
		t.Errorf("%+v, %v", one, err)
	}
	// What is looked at stays nowhere.
	wantEmpty(t, im)

	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		http.NotFound(w, r)
		return true
	}
	if _, err := im.Look(ctx, ref, ListOptions{}); !errdefs.IsNotFound(err) || err.Error() != "no such manifest: "+ref {
		t.Error(err)
	}
	f.fault = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	if _, err := im.Look(ctx, ref, ListOptions{}); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Error(err)
	}
}

// An index whose manifests fill the memory is not read.
func TestLookIsBounded(t *testing.T) {
	b := &built{blobs: map[digest.Digest][]byte{}}
	ix := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for range 10 {
		ix.Manifests = append(ix.Manifests, b.add(ocispec.MediaTypeImageManifest, append([]byte(`{"a":"`), noise(4<<20-8)...)))
	}
	b.target = b.addJSON(t, ocispec.MediaTypeImageIndex, ix)
	f, im := serve(t, b), open(t)
	if _, err := im.Look(t.Context(), f.addr+"/x:1", ListOptions{Content: true}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestPushList(t *testing.T) {
	here, there := startRegistry(t), startRegistry(t)
	im, ctx := open(t), t.Context()
	ix := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	sources := map[digest.Digest]string{}
	for _, p := range []struct{ arch, ref string }{{"amd64", here + "/list:amd64"}, {"arm64", here + "/other:1"}, {"s390x", there + "/far:1"}} {
		b := build(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: p.arch}}, rootTar(t, "arch", p.arch),
			rootTar(t, "big", p.arch+string(noise(5<<20))))
		b.push(t, p.ref)
		d := b.target
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: p.arch}
		ix.Manifests = append(ix.Manifests, d)
		sources[d.Digest] = p.ref
	}
	raw, err := json.Marshal(ix)
	must(t, err)
	brought, index, err := im.PushList(ctx, here+"/list:1", raw, ix.MediaType, sources, ListOptions{})
	must(t, err)
	if want := []digest.Digest{ix.Manifests[1].Digest, ix.Manifests[2].Digest}; !slices.Equal(brought, want) || index != digest.FromBytes(raw) ||
		inspectDigest(t, here+"/list:1") != index.String() {
		t.Errorf("%v, %s", brought, index)
	}
	wantEmpty(t, im) // nothing of it went through the store
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		img, err := open(t).Pull(ctx, here+"/list:1", PullOptions{Platform: "linux/" + arch})
		if err != nil || img.Architecture != arch {
			t.Errorf("%s: %+v, %v", arch, img, err)
		}
	}

	for name, tc := range map[string]struct {
		ref, mediaType string
		raw            []byte
		sources        map[digest.Digest]string
		kind           func(error) bool
	}{
		"by a digest":    {here + "/list@" + index.String(), ix.MediaType, raw, sources, errdefs.IsInvalidArgument},
		"a bad name":     {"A/B:1", ix.MediaType, raw, sources, errdefs.IsInvalidArgument},
		"a bad source":   {here + "/list:2", ix.MediaType, raw, map[digest.Digest]string{ix.Manifests[0].Digest: "A/B"}, errdefs.IsInvalidArgument},
		"no list":        {here + "/list:2", ocispec.MediaTypeImageManifest, raw, sources, errdefs.IsInvalidArgument},
		"no JSON":        {here + "/list:2", ix.MediaType, []byte("{"), sources, errdefs.IsInvalidArgument},
		"another type":   {here + "/list:2", "application/vnd.docker.distribution.manifest.list.v2+json", raw, sources, errdefs.IsInvalidArgument},
		"not there":      {here + "/fresh:1", ix.MediaType, raw, nil, errdefs.IsNotFound},
		"a list in it":   {here + "/list:2", ix.MediaType, listOf(t, raw), map[digest.Digest]string{index: here + "/list:1"}, ok},
		"a list brought": {here + "/fresh:1", ix.MediaType, listOf(t, raw), map[digest.Digest]string{index: here + "/list:1"}, errdefs.IsInvalidArgument},
	} {
		if _, _, err := im.PushList(ctx, tc.ref, tc.raw, tc.mediaType, tc.sources, ListOptions{}); !tc.kind(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ok(err error) bool { return err == nil }

// listOf is an index that lists an index.
func listOf(t *testing.T, raw []byte) []byte {
	t.Helper()
	out, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}}})
	must(t, err)
	return out
}

// Credentials go to the registry they belong to, also when a list is put together of images from several.
func TestListCredentials(t *testing.T) {
	b := build(t, ocispec.Image{}, rootTar(t, "one", "1"))
	var servers []*fakeRegistry
	for range 2 {
		f := serve(t, b)
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			user, _, ok := r.BasicAuth()
			if !ok {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			f.mu.Lock()
			if !slices.Contains(f.users, user) {
				f.users = append(f.users, user)
			}
			f.mu.Unlock()
			if r.Method == http.MethodPut {
				w.WriteHeader(http.StatusCreated)
				return true
			}
			return false
		}
		servers = append(servers, f)
	}
	m := b.target
	raw, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{m}})
	must(t, err)
	o := ListOptions{Auth: &Auth{Username: "ann", Password: "x"}, Auths: map[string]*Auth{servers[1].addr: {Username: "bob", Password: "y"}}}
	_, _, err = open(t).PushList(t.Context(), servers[0].addr+"/list:1", raw, ocispec.MediaTypeImageIndex,
		map[digest.Digest]string{m.Digest: servers[1].addr + "/app:1"}, o)
	must(t, err)
	if a, b := servers[0].users, servers[1].users; !slices.Equal(a, []string{"ann"}) || !slices.Equal(b, []string{"bob"}) {
		t.Errorf("%q, %q", a, b)
	}
}
