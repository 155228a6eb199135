package cli

import (
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func manifestOf(ref, mediaType, arch string) berthapi.Manifest {
	raw := []byte(`{ "schemaVersion": 2, "of": "` + ref + `" }`)
	m := berthapi.Manifest{Ref: ref, Raw: raw,
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}}
	if arch != "" {
		m.Descriptor.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	}
	return m
}

func TestManifestLists(t *testing.T) {
	const schema2 = "application/vnd.docker.distribution.manifest.v2+json"
	s := newFakeServer(t)
	for ref, arch := range map[string]string{"r.example/app:amd64": "amd64", "r.example/app:arm64": "arm64", "s.example/bare:latest": ""} {
		s.answer("GET "+berthapi.ManifestsPath(ref), http.StatusOK, berthapi.Manifests{MediaType: schema2,
			Manifests: []berthapi.Manifest{manifestOf(ref, schema2, arch)}})
	}
	s.answer("GET "+berthapi.ManifestsPath("r.example/many:1"), http.StatusOK, berthapi.Manifests{List: true, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []berthapi.Manifest{manifestOf("r.example/many:1@x", ocispec.MediaTypeImageManifest, "arm64")}})
	s.answer("GET "+berthapi.ManifestsPath("r.example/none:1"), http.StatusNotFound, map[string]string{"message": "no such manifest: r.example/none:1"})
	s.answer("POST "+berthapi.ManifestsPath("r.example/list:1"), http.StatusOK, berthapi.PushedList{Digest: "sha256:dd", Copied: []string{"sha256:cc"}})

	dir := t.TempDir()
	login := base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	config := `{"auths":{"r.example":{"auth":"` + login + `"},"s.example":{"auth":"` + login + `"},"u.example":{"auth":"` + login + `"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	step := func(args, out, complaint string) string {
		t.Helper()
		r := s.berth("", nil, append([]string{"--config", dir, "manifest"}, strings.Fields(args)...)...)
		if complaint != "" && (r.code != 1 || strings.TrimSpace(r.err) != complaint) || complaint == "" && r.code != 0 {
			t.Errorf("%s: %d, %q, %q", args, r.code, r.out, r.err)
		}
		if out != "*" && r.out != out {
			t.Errorf("%s: %q, wanted %q", args, r.out, out)
		}
		return r.out
	}
	step("inspect r.example/none:1", "", "no such manifest: r.example/none:1")
	step("create r.example/list:1 r.example/app:amd64 r.example/none:1", "", "no such manifest: r.example/none:1")
	step("push r.example/list:1", "", "No such manifest: r.example/list:1") // nothing was written down
	step("create --insecure r.example/list:1 r.example/app:amd64 r.example/app:arm64", "Created manifest list r.example/list:1\n", "")
	if asked := s.took("GET", "/app:arm64"); len(asked) != 1 || asked[0].query.Get("insecure") != "1" || asked[0].header.Get("X-Registry-Auth") == "" {
		t.Errorf("%+v", asked)
	}
	step("create r.example/list:1 r.example/app:amd64", "", "refusing to amend an existing manifest list with no --amend flag")
	step("create --amend r.example/list:1 r.example/many:1", "", "r.example/many:1 is a manifest list")
	step("create -a r.example/list:1 s.example/bare", "Created manifest list r.example/list:1\n", "")
	step("push r.example/list:1", "", "manifest s.example/bare:latest must have an OS and Architecture to be pushed to a registry")
	step("annotate r.example/list:1 s.example/bare --arch nope --os linux", "", "manifest entry for image has unsupported os/arch combination: linux/nope")
	step("annotate r.example/list:1 r.example/app --arch arm", "", "manifest for image r.example/app does not exist in r.example/list:1")
	step("annotate r.example/list:1 s.example/bare --arch arm --os linux --variant v7 --os-features a,b --os-features b,c --os-version 3", "", "")

	list := step("inspect r.example/list:1", "*", "")
	for _, line := range []string{"{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"application/vnd.docker.distribution.manifest.list.v2+json\",\n",
		`"architecture": "arm64"`, `"os.version": "3"`, `"variant": "v7"`} {
		if !strings.Contains(list, line) {
			t.Errorf("%q is not in %s", line, list)
		}
	}
	if strings.Count(list, `"c"`) != 1 || strings.Count(list, `"b"`) != 1 {
		t.Error(list)
	}
	step("inspect r.example/list:1 r.example/app:amd64", "{\n\t\"schemaVersion\": 2,\n\t\"of\": \"r.example/app:amd64\"\n}\n", "")
	step("inspect r.example/list:1 r.example/app:no", "", "No such manifest: r.example/app:no")
	if all := step("inspect -v r.example/list:1", "*", ""); strings.Count(all, `"SchemaV2Manifest": {`) != 3 {
		t.Error(all)
	}
	if remote := step("inspect r.example/many:1", "*", ""); !strings.Contains(remote, `"mediaType": "application/vnd.oci.image.index.v1+json"`) {
		t.Error(remote)
	}

	step("push --purge r.example/list:1", "Pushed ref r.example/list@sha256:cc with digest: sha256:cc\nsha256:dd\n", "")
	pushed := s.took("POST", "/list:1")
	if len(pushed) != 1 {
		t.Fatalf("%+v", pushed)
	}
	// Each registry gets its own credentials, by what the list names, and others none.
	others, err := base64.URLEncoding.DecodeString(pushed[0].header.Get("X-Registry-Config"))
	if err != nil || !strings.Contains(string(others), "s.example") || strings.Contains(string(others), "u.example") ||
		!strings.Contains(pushed[0].body, `"Ref":"s.example/bare:latest"`) ||
		!strings.Contains(pushed[0].body, base64.StdEncoding.EncodeToString([]byte(strings.TrimSuffix(list, "\n")))) {
		t.Errorf("%s, %v, %+v", others, err, pushed[0])
	}
	step("rm r.example/list:1 r.example/list:2", "", "No such manifest: r.example/list:1\nNo such manifest: r.example/list:2")
}

// A list that Docker's client has begun goes on here, also one of a client that keeps no raw manifests.
func TestForeignManifestLists(t *testing.T) {
	s, dir := newFakeServer(t), t.TempDir()
	at := filepath.Join(dir, "manifests", "docker.io_library_list-1")
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	text := `{"Ref":"docker.io/library/app:1","Descriptor":{"mediaType":"application/vnd.docker.distribution.manifest.v2+json",` +
		`"digest":"sha256:` + strings.Repeat("a", 64) + `","size":522,"platform":{"architecture":"amd64","os":"linux"}},` +
		`"SchemaV2Manifest":{"schemaVersion":2}}`
	for name, data := range map[string]string{"docker.io_library_app-1": text, ".being-written": "{"} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r := s.berth("", nil, "--config", dir, "manifest", "inspect", "list:1", "app:1"); r.out != "{\n\t\"schemaVersion\": 2\n}\n" {
		t.Errorf("%+v", r)
	}
	if r := s.berth("", nil, "--config", dir, "manifest", "inspect", "list:1"); !strings.Contains(r.out, `"size": 522`) {
		t.Errorf("%+v", r)
	}
	if err := os.WriteFile(filepath.Join(at, "docker.io_library_app-2"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.berth("", nil, "--config", dir, "manifest", "push", "list:1"); r.code != 1 || !strings.Contains(r.err, "is damaged") {
		t.Errorf("%+v", r)
	}
}
