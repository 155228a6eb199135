package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver/factory"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
)

// account is ann's, whose password is "secret".
const account = "ann:$2a$05$xwWZHgb2C4tqUcl4tpcb.uez4mwu8AUBpHPyMBFOlfE3RVR9.fCTe\n"

// site is a registry as serve makes it.
type site struct {
	t    *testing.T
	root string
	o    options
	url  string
	user string
}

func newSite(t *testing.T, o options) *site {
	logrus.SetOutput(io.Discard)
	s := &site{t: t, root: t.TempDir(), o: o}
	s.o.listen, s.o.root = "127.0.0.1:5000", s.root
	config, err := s.o.config()
	if err != nil {
		t.Fatal(err)
	}
	driver, err := factory.Create(t.Context(), "filesystem", storageAt(s.root).Parameters())
	if err != nil {
		t.Fatal(err)
	}
	images, err := storage.NewRegistry(t.Context(), driver)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(newReferrers(handlers.NewApp(context.WithoutCancel(t.Context()), config), images))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *site) ask(method, path, mediaType string, body []byte) (*http.Response, []byte) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(string(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	if s.user != "" {
		req.SetBasicAuth(s.user, "secret")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp, data
}

func (s *site) blob(repo, text string) ocispec.Descriptor {
	s.t.Helper()
	d := digest.FromString(text)
	resp, _ := s.ask(http.MethodPost, "/v2/"+repo+"/blobs/uploads/", "", nil)
	at := strings.TrimPrefix(resp.Header.Get("Location"), s.url)
	if resp, said := s.ask(http.MethodPut, at+"&digest="+d.String(), "application/octet-stream", []byte(text)); resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("blob: %s %s", resp.Status, said)
	}
	return ocispec.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: d, Size: int64(len(text))}
}

// put stores a manifest and returns its digest; tag may be "".
func (s *site) put(repo, tag string, m any) (digest.Digest, http.Header) {
	s.t.Helper()
	data, ok := m.(raw)
	if !ok {
		data = mustJSON(s.t, m)
	}
	d := digest.FromBytes(data)
	if tag == "" {
		tag = d.String()
	}
	kind := ocispec.MediaTypeImageManifest
	if _, ok := m.(ocispec.Index); ok {
		kind = ocispec.MediaTypeImageIndex
	}
	resp, said := s.ask(http.MethodPut, "/v2/"+repo+"/manifests/"+tag, kind, data)
	if resp.StatusCode != http.StatusCreated {
		s.t.Fatalf("manifest: %s %s", resp.Status, said)
	}
	return d, resp.Header
}

// raw is a manifest as it stands.
type raw []byte

func (s *site) artifact(repo, kind, note string, subject digest.Digest) ocispec.Manifest {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: kind, Config: s.blob(repo, "{}"),
		Layers: []ocispec.Descriptor{s.blob(repo, "{}")}, Annotations: map[string]string{"note": note}}
	m.SchemaVersion = 2
	if subject != "" {
		m.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: subject, Size: 1}
	}
	return m
}

// list gets what is about a manifest, from all pages.
func (s *site) list(repo string, d digest.Digest, query string) (all []ocispec.Descriptor, pages int, header http.Header) {
	s.t.Helper()
	for next := "/v2/" + repo + "/referrers/" + d.String() + query; next != ""; pages++ {
		resp, data := s.ask(http.MethodGet, next, "", nil)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != ocispec.MediaTypeImageIndex {
			s.t.Fatalf("%s: %s %s %s", next, resp.Status, resp.Header.Get("Content-Type"), data)
		}
		var ix ocispec.Index
		if err := json.Unmarshal(data, &ix); err != nil || ix.SchemaVersion != 2 || ix.MediaType != ocispec.MediaTypeImageIndex || ix.Manifests == nil {
			s.t.Fatalf("%s: %v %s", next, err, data)
		}
		all, header = append(all, ix.Manifests...), resp.Header
		link := resp.Header.Get("Link")
		if next = ""; link != "" {
			next, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		}
	}
	return all, pages, header
}

func digests(list []ocispec.Descriptor) (out []digest.Digest) {
	for _, d := range list {
		out = append(out, d.Digest)
	}
	return out
}

func sorted(list ...digest.Digest) []digest.Digest {
	slices.Sort(list)
	return list
}

func TestReferrers(t *testing.T) {
	s := newSite(t, options{remove: true})
	const repo = "team/referrers/app" // a name that looks like the path
	image, header := s.put(repo, "1", s.artifact(repo, "", "image", ""))
	if header.Get("OCI-Subject") != "" {
		t.Error("a manifest about nothing has a subject")
	}
	if all, _, _ := s.list(repo, image, ""); len(all) != 0 {
		t.Errorf("at first: %v", all)
	}
	sign, header := s.put(repo, "", s.artifact(repo, "application/signature", "sign", image))
	if header.Get("OCI-Subject") != image.String() {
		t.Errorf("OCI-Subject: %q", header.Get("OCI-Subject"))
	}
	plain := s.artifact(repo, "", "plain", image)
	plain.Config.MediaType = "application/vnd.test.config"
	sbom, _ := s.put(repo, "by-tag", plain)
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Subject: plain.Subject, ArtifactType: "application/signature"}
	index.SchemaVersion = 2
	index.Manifests = []ocispec.Descriptor{}
	many, header := s.put(repo, "", index)
	if header.Get("OCI-Subject") != image.String() {
		t.Errorf("OCI-Subject of an index: %q", header.Get("OCI-Subject"))
	}
	// One about what is not here is taken and listed; another repository has none of them.
	early := digest.FromString("not yet")
	late, _ := s.put(repo, "", s.artifact(repo, "x", "early", early))
	if all, _, _ := s.list(repo, early, ""); !slices.Equal(digests(all), sorted(late)) {
		t.Errorf("about what is not here: %v", all)
	}
	if all, _, _ := s.list("other", image, ""); len(all) != 0 {
		t.Errorf("in another repository: %v", all)
	}

	all, _, header := s.list(repo, image, "")
	if !slices.Equal(digests(all), sorted(sign, sbom, many)) || header.Get("OCI-Filters-Applied") != "" {
		t.Errorf("all: %v, %v", all, header)
	}
	for _, d := range all {
		want := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/signature"}
		note := "sign"
		switch d.Digest {
		case sbom:
			want.ArtifactType, note = "application/vnd.test.config", "plain"
		case many:
			want.MediaType, note = ocispec.MediaTypeImageIndex, ""
		}
		if d.MediaType != want.MediaType || d.ArtifactType != want.ArtifactType || d.Annotations["note"] != note || d.Size < 50 {
			t.Errorf("%+v", d)
		}
	}
	all, _, header = s.list(repo, image, "?artifactType=application%2Fsignature")
	if !slices.Equal(digests(all), sorted(sign, many)) || header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("by type: %v, %v", all, header)
	}
	if all, _, _ = s.list(repo, image, "?artifactType=none"); len(all) != 0 {
		t.Errorf("of no type: %v", all)
	}

	// A client that keeps the list itself goes on doing so, and a manifest that is removed is off the list.
	tag := "sha256-" + image.Encoded()
	index.Subject, index.Manifests = nil, []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: sign, Size: 1}}
	s.put(repo, tag, index)
	if all, _, _ = s.list(repo, image, ""); len(all) != 3 {
		t.Errorf("with a list under a tag: %v", all)
	}
	if resp, data := s.ask(http.MethodDelete, "/v2/"+repo+"/manifests/"+many.String(), "", nil); resp.StatusCode != http.StatusAccepted {
		t.Fatalf("delete: %s %s", resp.Status, data)
	}
	if all, _, _ = s.list(repo, image, ""); !slices.Equal(digests(all), sorted(sign, sbom)) {
		t.Errorf("after a removal: %v", all)
	}

	for path, code := range map[string]int{
		"/v2/team/referrers/referrers/" + image.String():  http.StatusOK,
		"/v2/a/referrers/sha256:x":                        http.StatusBadRequest,
		"/v2/a/referrers/latest":                          http.StatusBadRequest,
		"/v2/a/referrers/md5:" + image.Encoded():          http.StatusBadRequest,
		"/v2/A/referrers/" + image.String():               http.StatusBadRequest,
		"/v2/../../x/referrers/" + image.String():         http.StatusBadRequest,
		"/v2/a%2f..%2f..%2fb/referrers/" + image.String(): http.StatusBadRequest,
		"/v2/a/referrers/":                                http.StatusBadRequest,
		"/v2/" + repo + "/manifests/1":                    http.StatusNotFound, // no Accept
	} {
		if resp, data := s.ask(http.MethodGet, path, "", nil); resp.StatusCode != code {
			t.Errorf("%s: %s %s", path, resp.Status, data)
		}
	}
	if resp, _ := s.ask(http.MethodPost, "/v2/"+repo+"/referrers/"+image.String(), "", nil); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", resp.Status)
	}
	if resp, _ := s.ask(http.MethodPut, "/v2/"+repo+"/manifests/big", ocispec.MediaTypeImageManifest, make([]byte, maxManifest+1)); resp.StatusCode < 400 {
		t.Errorf("too big a manifest: %s", resp.Status)
	}
}

// TestReferrersPages: a list comes in pages that clients can read, and nothing is lost between them.
func TestReferrersPages(t *testing.T) {
	s := newSite(t, options{})
	image := digest.FromString("x")
	var want []digest.Digest
	for i := range 4 {
		d, _ := s.put("a", "", s.artifact("a", fmt.Sprintf("kind/%d", i%2), strings.Repeat(string(rune('a'+i)), 2<<20), image))
		want = append(want, d)
	}
	// Escaped, this one's annotations are longer than any list may be.
	d, _ := s.put("a", "", raw(fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"subject":{"digest":%q},"config":%s,"layers":[],"annotations":{"x":"%s"}}`,
		ocispec.MediaTypeImageManifest, image, mustJSON(t, s.blob("a", "{}")), strings.Repeat("<", 1<<20)))) // 6 MiB
	all, pages, _ := s.list("a", image, "")
	if !slices.Equal(digests(all), sorted(append(want, d)...)) || pages < 4 {
		t.Errorf("%d on %d pages", len(all), pages)
	}
	all, pages, header := s.list("a", image, "?artifactType=kind%2F1")
	if len(all) != 2 || pages != 2 || header.Get("OCI-Filters-Applied") != "artifactType" {
		t.Errorf("filtered: %d on %d pages", len(all), pages)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReferrersAreForWhoMayPull: the list is behind the same accounts, and there in a registry that is only read.
func TestReferrersAreForWhoMayPull(t *testing.T) {
	accounts := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(accounts, []byte(account), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, options{htpasswd: accounts, readOnly: true})
	path := "/v2/a/referrers/" + digest.FromString("x").String()
	for _, user := range []string{"", "bob"} {
		s.user = user
		resp, data := s.ask(http.MethodGet, path, "", nil)
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(resp.Header.Get("WWW-Authenticate"), "berth") || !strings.Contains(string(data), "UNAUTHORIZED") {
			t.Errorf("%q: %s %s", user, resp.Status, data)
		}
	}
	s.user = "ann"
	if resp, data := s.ask(http.MethodGet, path, "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("ann: %s %s", resp.Status, data)
	}
}

// TestCollectionLeavesReferrers: what is about something that stays stays, and goes with it.
func TestCollectionLeavesReferrers(t *testing.T) {
	s := newSite(t, options{remove: true})
	child, _ := s.put("a", "", s.artifact("a", "", "child", ""))
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{
		{MediaType: ocispec.MediaTypeImageManifest, Digest: child, Size: int64(len(mustJSON(t, s.artifact("a", "", "child", ""))))}}}
	index.SchemaVersion = 2
	s.put("a", "1", index)
	sign, _ := s.put("a", "", s.artifact("a", "sign", "", child))
	countersign, _ := s.put("a", "", s.artifact("a", "sign", "", sign))
	loose, _ := s.put("a", "", s.artifact("a", "", "loose", ""))
	about, _ := s.put("a", "", s.artifact("a", "sign", "", loose))
	nothing, _ := s.put("a", "", s.artifact("a", "sign", "", digest.FromString("gone")))
	has := func(d digest.Digest) bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, s.url+"/v2/a/manifests/"+d.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}
	var out, errOut strings.Builder
	if run([]string{"gc", "--untagged", "--root", s.root}, &out, &errOut) != 0 {
		t.Fatal(errOut.String())
	}
	for d, stays := range map[digest.Digest]bool{child: true, sign: true, countersign: true, loose: false, about: false, nothing: false} {
		if has(d) != stays {
			t.Errorf("%s: stays %t", d, !stays)
		}
	}
}

// What has gone wrong in registries: CVE-2026-41888 (a tag is removed where nothing may be), CVE-2023-2253 (a catalog of as many
// entries as a client likes), CVE-2017-11468 (a body without end), CVE-2025-24976 (a token with a key of its own),
// CVE-2026-35172 (a blob that is removed is still served).
func TestWhatHasGoneWrongInRegistries(t *testing.T) {
	s := newSite(t, options{})
	d, _ := s.put("a", "1", s.artifact("a", "x", "", ""))
	for _, path := range []string{"/v2/a/manifests/1", "/v2/a/manifests/" + d.String(), "/v2/a/blobs/" + digest.FromString("{}").String()} {
		if resp, data := s.ask(http.MethodDelete, path, "", nil); resp.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(string(data), "UNSUPPORTED") {
			t.Errorf("DELETE %s: %s %s", path, resp.Status, data)
		}
	}
	if _, data := s.ask(http.MethodGet, "/v2/a/tags/list", "", nil); !strings.Contains(string(data), `"1"`) {
		t.Errorf("tags: %s", data)
	}
	for _, n := range []string{"1000000000000", "9223372036854775807", "-1", "x", "1001"} {
		resp, data := s.ask(http.MethodGet, "/v2/_catalog?n="+n, "", nil)
		if resp.StatusCode != http.StatusBadRequest || len(data) > 1000 {
			t.Errorf("n=%s: %s %.200s", n, resp.Status, data)
		}
	}
	if resp, _ := s.ask(http.MethodPut, "/v2/a/manifests/big", ocispec.MediaTypeImageManifest, make([]byte, maxManifest+1)); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("too big a manifest: %s", resp.Status)
	}

	accounts := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(accounts, []byte(account), 0o600); err != nil {
		t.Fatal(err)
	}
	closed := newSite(t, options{htpasswd: accounts})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, closed.url+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, auth := range []string{"", "Bearer eyJhbGciOiJub25lIn0.e30.", "Bearer x", "Basic ", "Basic " + strings.Repeat("A", 10_000)} {
		req.Header.Set("Authorization", auth)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%.40q: %s", auth, resp.Status)
		}
	}

	open := newSite(t, options{remove: true})
	gone := open.blob("a", "gone").Digest.String()
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if resp, data := open.ask(method, "/v2/a/blobs/"+gone, "", nil); resp.StatusCode >= 400 {
			t.Errorf("%s: %s %s", method, resp.Status, data)
		}
	}
	if resp, _ := open.ask(http.MethodGet, "/v2/a/blobs/"+gone, "", nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a blob that is gone: %s", resp.Status)
	}
}

// CVE-2026-33540: the password for the registry behind a cache goes to it, and not to where somebody's tokens are said to be.
func TestACacheKeepsItsPassword(t *testing.T) {
	var leaked atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Method == http.MethodPost {
			leaked.Add(1)
		}
		_, _ = io.WriteString(w, `{"token":"x"}`)
	}))
	defer evil.Close()
	behind := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+evil.URL+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer behind.Close()
	s := newSite(t, options{mirror: strings.Replace(behind.URL, "http://", "http://ann:secret@", 1)})
	if resp, _ := s.ask(http.MethodGet, "/v2/a/manifests/1", "", nil); resp.StatusCode < 400 {
		t.Errorf("%s", resp.Status)
	}
	if leaked.Load() != 0 {
		t.Error("somebody else got the password")
	}
}

// FuzzReferring: whatever a manifest is, what it says of its subject is believed only if it is a digest.
func FuzzReferring(f *testing.F) {
	for _, s := range []string{"", "{}", `{"subject":null}`, `{"subject":{"digest":"sha256:x"}}`, `{"subject":[]}`,
		`{"subject":{"digest":"` + digest.FromString("x").String() + `"},"annotations":{"a":"b"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if m := referringOf(data); m != nil && m.Subject.Digest.Validate() != nil {
			t.Errorf("%q: %v", data, m)
		}
	})
}
