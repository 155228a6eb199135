package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestImageParameters goes through the parameters of version 1.51 that the paths of images have: each does what the API says, or is
// refused with a sentence.
func TestImageParameters(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "docker-registry")
	d := harness.Start(t)
	host := registry(t, d.Dir)
	for _, arch := range []string{"amd64", "arm64"} {
		putImage(t, host, "app:"+arch, ocispec.Platform{OS: "linux", Architecture: arch}, "vnd.oci.image.manifest.v1")
	}
	many := host + "/many:1"
	d.Must("$D manifest create " + many + " " + host + "/app:amd64 " + host + "/app:arm64 && $D manifest push -p " + many)
	d.Must("$D pull -q " + many + " && $D run --name c1 -l a=b berth/box true")
	d.Must("tar cf root.tar client && tar c --transform 's,^,x/,' client >other.tar; $D save -o box.tar berth/box")
	web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
	}}}
	defer web.CloseIdleConnections()
	ask := func(t *testing.T, method, path string, body []byte) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "http://d/v1.51"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(path, "/commit") || strings.HasPrefix(path, "/auth") {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := web.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	q := func(pairs ...string) string {
		v := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			v.Add(pairs[i], pairs[i+1])
		}
		return "?" + v.Encode()
	}
	filter := func(key string, values ...string) string {
		return q("filters", string(toJSON(t, map[string][]string{key: values})))
	}
	amd, arm, s390 := `{"os":"linux","architecture":"amd64"}`, `{"os":"linux","architecture":"arm64"}`, `{"os":"linux","architecture":"s390x"}`
	file := func(name string) []byte { return []byte(d.Must("cat " + name)) }
	for _, c := range []struct {
		method, path string
		body         []byte
		code         int
		has, lacks   string // what the answer has to have, and may not have
	}{
		// The list.
		{"GET", "/images/json", nil, 200, "berth/box:latest", `"SharedSize":0`},
		{"GET", "/images/json?all=1&digests=1", nil, 200, "berth/box@sha256:", ""},
		{"GET", "/images/json?shared-size=1", nil, 200, `"SharedSize":0`, `"SharedSize":-1`},
		{"GET", "/images/json?manifests=1", nil, 200, `"Kind":"image"`, ""},
		{"GET", "/images/json" + filter("reference", "many", host+"/many"), nil, 200, many, "berth/box"},
		{"GET", "/images/json" + filter("dangling", "true"), nil, 200, "[]", "berth"},
		{"GET", "/images/json" + filter("label", "none"), nil, 200, "[]", "berth"},
		{"GET", "/images/json" + filter("label!", "none"), nil, 200, "berth/box", ""},
		{"GET", "/images/json" + filter("before", "berth/box"), nil, 200, many, "berth/box:latest"},
		{"GET", "/images/json" + filter("since", many), nil, 200, "berth/box", many + `"`},
		{"GET", "/images/json" + filter("until", "2021-01-01"), nil, 200, many, "berth/box"},
		{"GET", "/images/json" + filter("since", "nothing"), nil, 404, "No such image: nothing", ""},
		{"GET", "/images/json" + filter("dangling", "maybe"), nil, 400, "invalid filter", ""},
		{"GET", "/images/json" + filter("nope", "1"), nil, 400, "invalid filter 'nope'", ""},
		{"GET", "/images/json" + filter("until", "never"), nil, 400, "never", ""},
		{"GET", "/images/json?filters=%7B", nil, 400, "invalid filter", ""},
		// One image.
		{"GET", "/images/berth/box/json", nil, 200, `"Descriptor":`, `"Manifests":`},
		{"GET", "/images/" + many + "/json?manifests=1", nil, 200, `"Manifests":[`, ""},
		{"GET", "/images/" + many + "/json" + q("platform", amd), nil, 200, `"Architecture":"amd64"`, ""},
		{"GET", "/images/" + many + "/json" + q("platform", s390), nil, 404, "does not provide the specified platform", ""},
		{"GET", "/images/" + many + "/json" + q("platform", "linux/amd64"), nil, 400, "platform", ""},
		{"GET", "/images/" + many + "/json" + q("platform", amd, "manifests", "1"), nil, 400, "conflicting options", ""},
		{"GET", "/images/" + many + "/history" + q("platform", amd), nil, 200, `"CreatedBy"`, ""},
		{"GET", "/images/" + many + "/history" + q("platform", s390), nil, 404, "platform", ""},
		{"GET", "/images/" + many + "/history" + q("platform", `{"os":"linux"}`), nil, 400, "both OS and Architecture", ""},
		{"POST", "/images/berth/box/tag" + q("repo", "one/two", "tag", "three"), nil, 201, "", ""},
		{"GET", "/images/one/two:three/json", nil, 200, "one/two:three", ""},
		{"POST", "/images/berth/box/tag" + q("repo", "one/two:four"), nil, 201, "", ""},
		{"POST", "/images/berth/box/tag", nil, 400, "repository name", ""},
		{"POST", "/images/berth/box/tag" + q("repo", "ONE"), nil, 400, "lowercase", ""},
		{"POST", "/images/berth/box/tag" + q("repo", "one", "tag", "a b"), nil, 400, "invalid tag", ""},
		{"POST", "/images/nothing/tag" + q("repo", "one"), nil, 404, "No such image", ""},
		{"DELETE", "/images/one/two:three", nil, 200, `"Untagged":"one/two:three"`, "Deleted"},
		{"DELETE", "/images/one/two:four?force=true&noprune=true", nil, 200, `"Untagged":"one/two:four"`, "Deleted"},
		// Pull and import.
		{"POST", "/images/create" + q("fromImage", host+"/app", "tag", "amd64"), nil, 200, "Downloaded newer image", ""},
		{"POST", "/images/create" + q("fromImage", host+"/app:amd64"), nil, 200, "Image is up to date", ""},
		{"POST", "/images/create" + q("fromImage", host+"/many", "tag", "1", "platform", "linux/arm64"), nil, 200, "Digest: sha256:", "errorDetail"},
		{"POST", "/images/create" + q("fromImage", host+"/many", "tag", "1", "platform", "linux/s390x"), nil, 200, "no matching manifest for linux/s390x", ""},
		{"POST", "/images/create" + q("fromImage", host+"/many", "tag", "1", "platform", "a/b/c/d"), nil, 400, "platform", ""},
		{"POST", "/images/create" + q("fromImage", host+"/nothing", "tag", "1"), nil, 404, "not found", ""},
		{"POST", "/images/create" + q("fromImage", "A B"), nil, 400, "invalid reference format", ""},
		{"POST", "/images/create", nil, 400, "fromImage", ""},
		{"POST", "/images/create" + q("fromSrc", "-", "repo", "imported", "tag", "1", "message", "why", "platform", "linux/arm64", "changes", "ENV A=b\nUSER me", "changes",
			"LABEL x=y"), file("root.tar"), 200, "sha256:", "errorDetail"},
		{"GET", "/images/imported:1/json", nil, 200, `"Comment":"why"`, ""},
		{"GET", "/images/imported:1/json", nil, 200, `"Architecture":"arm64"`, ""},
		{"GET", "/images/imported:1/json", nil, 200, `"Env":["A=b"]`, ""},
		{"GET", "/images/imported:1/json", nil, 200, `"User":"me"`, ""},
		{"GET", "/images/json" + filter("label", "x=y"), nil, 200, "imported:1", "berth/box"},
		{"POST", "/images/create" + q("fromSrc", "-", "changes", "NONSENSE x"), file("other.tar"), 400, "NONSENSE", ""},
		{"POST", "/images/create" + q("fromSrc", "-", "platform", "no/such/plat/form"), file("other.tar"), 400, "platform", ""},
		{"POST", "/images/create" + q("fromSrc", "file:///etc/passwd"), nil, 400, "", "root:"},
		// Push, and what the registry says.
		{"POST", "/images/" + host + "/app/push" + q("tag", "amd64"), nil, 200, "digest: sha256:", "errorDetail"},
		{"POST", "/images/" + host + "/many/push" + q("tag", "1", "platform", arm), nil, 200, "digest: sha256:", "errorDetail"},
		{"POST", "/images/" + host + "/many/push" + q("tag", "1", "platform", s390), nil, 200, `"error":"image with reference ` + host + `/many was found but does not provide`, "digest:"},
		{"POST", "/images/" + host + "/many/push" + q("tag", "1", "platform", "arm"), nil, 400, "platform", ""},
		{"POST", "/images/" + host + "/many/push" + q("tag", "none"), nil, 404, "", ""},
		{"GET", "/distribution/" + host + "/app:amd64/json", nil, 200, `"Descriptor":{"mediaType"`, ""},
		{"GET", "/distribution/" + host + "/app:none/json", nil, 404, "", ""},
		// Out and in.
		{"GET", "/images/berth/box/get", nil, 200, "manifest.json", ""},
		{"GET", "/images/get" + q("names", "berth/box", "names", many), nil, 200, host, ""},
		{"GET", "/images/get" + q("names", many, "platform", s390), nil, 404, "platform", ""},
		{"GET", "/images/get" + q("names", many, "platform", amd), nil, 200, "manifest.json", ""},
		{"GET", "/images/get", nil, 400, "no image was named", ""},
		{"GET", "/images/get" + q("names", "nothing"), nil, 404, "No such image", ""},
		{"POST", "/images/load?quiet=0", file("box.tar"), 200, "Loaded image: berth/box:latest", ""},
		{"POST", "/images/load" + q("quiet", "1", "platform", amd), file("box.tar"), 200, "Loaded image: berth/box:latest", "progressDetail\":{\"current"},
		{"POST", "/images/load" + q("platform", s390), file("box.tar"), 404, "no matching manifest for linux/s390x", ""},
		{"POST", "/images/load" + q("platform", "x"), file("box.tar"), 400, "platform", ""},
		// Commit.
		{"POST", "/commit" + q("container", "c1", "repo", "made", "tag", "1", "comment", "because", "author", "me", "pause", "false", "changes", "ENV X=y\nEXPOSE 80",
			"changes", `CMD ["z"]`), []byte(`{"Labels":{"from":"body"}}`), 201, `"Id":"sha256:`, ""},
		{"GET", "/images/made:1/json", nil, 200, `"Comment":"because"`, ""},
		{"GET", "/images/made:1/json", nil, 200, `"Author":"me"`, ""},
		{"GET", "/images/made:1/json", nil, 200, `"80/tcp":{}`, ""},
		{"GET", "/images/made:1/json", nil, 200, `"Cmd":["z"]`, ""},
		{"GET", "/images/made:1/json", nil, 200, `"from":"body"`, ""},
		{"POST", "/commit" + q("container", "c1", "repo", "made", "changes", "NONSENSE"), nil, 400, "NONSENSE", ""},
		{"POST", "/commit" + q("container", "nothing"), nil, 404, "No such container", ""},
		{"POST", "/commit", nil, 400, "container", ""},
		// What of them goes, and how much there is.
		{"DELETE", "/images/" + many + q("platforms", arm), nil, 200, `"Deleted"`, ""},
		{"DELETE", "/images/" + many + q("platforms", s390), nil, 404, "platform", ""},
		{"DELETE", "/images/" + many + q("platforms", "x"), nil, 400, "platform", ""},
		{"DELETE", "/images/berth/box", nil, 409, "container", ""},
		{"GET", "/system/df?type=image", nil, 200, `"LayersSize"`, `"Volumes":[{`},
		{"GET", "/system/df?type=nonsense", nil, 400, "nonsense", ""},
		{"POST", "/images/prune" + filter("dangling", "false", "true"), nil, 400, "invalid filter", ""},
		{"POST", "/images/prune" + filter("nope", "1"), nil, 400, "invalid filter 'nope'", ""},
		{"POST", "/images/prune" + q("filters", `{"dangling":["false"],"label":["x=y"]}`), nil, 200, "imported:1", "made:1"},
		{"POST", "/images/prune" + q("filters", `{"dangling":["false"],"until":["2021-01-01"]}`), nil, 200, host + "/app:amd64", "made:1"},
		{"POST", "/images/prune" + q("filters", `{"dangling":["false"],"label!":["from"]}`), nil, 200, "SpaceReclaimed", "made:1"},
		{"GET", "/images/search" + q("term", "x", "limit", "a lot"), nil, 400, "limit", ""},
		{"GET", "/images/search" + q("term", "x", "filters", `{"stars":["many"]}`), nil, 400, "stars", ""},
		{"GET", "/images/search" + q("term", "x", "filters", `{"nope":["1"]}`), nil, 400, "invalid filter 'nope'", ""},
		{"GET", "/images/search", nil, 400, "term", ""},
		{"POST", "/auth", []byte(`{`), 400, "JSON", ""},
	} {
		t.Run(c.method+" "+c.path[:min(len(c.path), 70)], func(t *testing.T) {
			code, text := ask(t, c.method, c.path, c.body)
			if code != c.code || !strings.Contains(text, c.has) || c.lacks != "" && strings.Contains(text, c.lacks) {
				t.Errorf("%s %s: %d %.600s\nwanted %d with %q and without %q", c.method, c.path, code, text, c.code, c.has, c.lacks)
			}
			var said struct{ Message string }
			if code >= 400 && (json.Unmarshal([]byte(text), &said) != nil || said.Message == "" || strings.Contains(said.Message, "\n")) {
				t.Errorf("%s %s: %d without a sentence: %s", c.method, c.path, code, text)
			}
		})
	}
}
