package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// putImage puts an image of one small file into a registry. Its manifest is written as Docker writes them: its clients before
// 23.0 cannot push any others in a list.
func putImage(t *testing.T, host, ref string, p ocispec.Platform, kind string) {
	t.Helper()
	repo, tag, _ := strings.Cut(ref, ":")
	send := func(method, path, contentType string, body []byte) *http.Response {
		t.Helper()
		if !strings.HasPrefix(path, "http") {
			path = "http://" + host + path
		}
		req, err := http.NewRequest(method, path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if said, _ := io.ReadAll(resp.Body); resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s: %s", method, path, resp.Status, said)
		}
		return resp
	}
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		at := send("POST", "/v2/"+repo+"/blobs/uploads/", "application/octet-stream", nil).Header.Get("Location")
		send("PUT", at+map[bool]string{false: "?", true: "&"}[strings.Contains(at, "?")]+"digest="+d.Digest.String(), "application/octet-stream", data)
		return d
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "platform", Mode: 0o644, Size: int64(len(p.Architecture))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, p.Architecture); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	created := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	config, err := json.Marshal(ocispec.Image{Created: &created, Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}}})
	if err != nil {
		t.Fatal(err)
	}
	types := [2]string{"application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar"}
	if strings.Contains(kind, "oci") {
		types = [2]string{ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayer}
	}
	type part struct {
		MediaType string        `json:"mediaType"`
		Size      int64         `json:"size"`
		Digest    digest.Digest `json:"digest"`
	}
	partOf := func(mediaType string, data []byte) part {
		d := blob(mediaType, data)
		return part{d.MediaType, d.Size, d.Digest}
	}
	manifest, err := json.MarshalIndent(struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
		Config        part   `json:"config"`
		Layers        []part `json:"layers"`
	}{2, "application/" + kind + "+json", partOf(types[0], config), []part{partOf(types[1], layer.Bytes())}}, "", "   ")
	if err != nil {
		t.Fatal(err)
	}
	send("PUT", "/v2/"+repo+"/manifests/"+tag, "application/"+kind+"+json", manifest)
}

// TestManifestLists: a list of images for several platforms is put together, annotated, shown, pushed and pulled by platform, at
// Debian's docker-registry and at our own. Docker's clients do the same, and print and push the same.
func TestManifestLists(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "docker-registry", "skopeo")
	d := harness.Start(t)
	b := d.Berth()
	own, _ := serveImages(t, d, filepath.Join(d.Dir, "images"))
	hosts := map[string]string{"docker-registry": registry(t, d.Dir), "our own": own}
	far := hosts["docker-registry"]

	for _, host := range hosts {
		putImage(t, host, "app:amd64", ocispec.Platform{OS: "linux", Architecture: "amd64"}, "vnd.docker.distribution.manifest.v2")
		putImage(t, host, "app:arm64", ocispec.Platform{OS: "linux", Architecture: "arm64"}, "vnd.docker.distribution.manifest.v2")
		putImage(t, host, "other/app:arm", ocispec.Platform{OS: "linux", Architecture: "arm"}, "vnd.docker.distribution.manifest.v2")
		putImage(t, host, "app:oci", ocispec.Platform{OS: "linux", Architecture: "s390x"}, "vnd.oci.image.manifest.v1")
	}
	for name, host := range hosts {
		t.Run(name, func(t *testing.T) {
			said := map[string][]string{}
			for _, c := range d.Clients() {
				said[c.Name] = manifestList(t, d, c, host)
			}
			for name, lines := range said {
				for i, line := range lines {
					if ours := said["berth"][i]; line != ours {
						t.Errorf("%s says\n%s\nand berth\n%s", name, line, ours)
					}
				}
			}
		})
	}

	// An image from another registry is copied, which Docker's clients do not do.
	d.Shell(b, "$D manifest create "+own+"/copied:1 "+far+"/app:oci "+own+"/app:amd64 && $D manifest push -p "+own+"/copied:1").Exits(0).
		Shows("Pushed ref " + own + "/copied@sha256:")
	d.Shell(b, "$D pull -q --platform linux/s390x "+own+"/copied:1 && $D image inspect --platform linux/s390x --format '{{.Architecture}}' "+own+"/copied:1").
		Exits(0).Shows("s390x")

	// What one client has begun the other pushes.
	for i, c := range d.Clients()[1:] {
		list := own + "/begun:" + string(rune('a'+i))
		set := "export DOCKER_CONFIG=" + t.TempDir() + " DOCKER_CLI_EXPERIMENTAL=enabled; "
		d.Shell(c, set+"$D manifest create --insecure "+list+" "+own+"/app:amd64 "+own+"/app:arm64 && "+b.Path+" manifest push "+list).Exits(0)
		d.Shell(c, set+b.Path+" manifest create "+list+"x "+own+"/app:amd64 "+own+"/app:arm64 && $D manifest push --insecure "+list+"x").Exits(0)
		same := "skopeo inspect --raw --tls-verify=false docker://"
		if one, two := d.Must(same+list), d.Must(same+list+"x"); one != two {
			t.Errorf("%s: %s and %s", c.Name, one, two)
		}
	}
}

// manifestList puts a list together by one client and returns what was printed, line by line, in words that are the same for all.
func manifestList(t *testing.T, d *harness.Daemon, c harness.Client, host string) (said []string) {
	t.Helper()
	dir, list := t.TempDir(), host+"/list-"+c.Name+":1"
	set := "export DOCKER_CONFIG=" + dir + " DOCKER_CLI_EXPERIMENTAL=enabled; "
	step := func(code int, line string) {
		t.Helper()
		r := d.ShellT(t, c, set+"$D manifest "+strings.ReplaceAll(line, "LIST", list)).Exits(code)
		var kept []string
		for l := range strings.Lines(r.Out + r.Err) {
			if !strings.Contains(l, `"Raw": "`) { // which Docker's clients print since 23.0
				kept = append(kept, l)
			}
		}
		said = append(said, line+"\n"+strings.ReplaceAll(strings.Join(kept, ""), "list-"+c.Name, "LIST"))
	}
	step(0, "create --insecure LIST "+host+"/app:amd64 "+host+"/app:arm64 "+host+"/other/app:arm")
	step(1, "create --insecure LIST "+host+"/app:amd64")
	step(1, "create --insecure --amend LIST "+host+"/none:1")
	step(0, "annotate LIST "+host+"/other/app:arm --variant v6")
	step(0, "annotate LIST "+host+"/app:arm64 --os-features a,b --os-version 3") // so nothing matches it
	step(1, "annotate LIST "+host+"/app:none --arch arm")
	step(0, "inspect LIST")
	step(0, "inspect -v LIST")
	step(0, "inspect LIST "+host+"/app:amd64")
	step(0, "inspect -v LIST "+host+"/app:arm64")
	step(1, "inspect LIST "+host+"/app:none")
	step(0, "push --insecure LIST")
	step(0, "push --insecure --purge LIST") // and the same digest once more
	if left, err := os.ReadDir(filepath.Join(dir, "manifests")); err != nil || len(left) != 0 {
		t.Errorf("%s: %v, %v", c.Name, left, err)
	}
	step(1, "push --insecure LIST")
	step(0, "inspect --insecure LIST")
	step(0, "inspect --insecure -v LIST")
	step(0, "inspect --insecure "+host+"/app:arm64")
	step(0, "inspect --insecure -v "+host+"/app:arm64")
	step(1, "inspect --insecure "+host+"/none:1")
	step(1, "create --insecure "+host+"/more:1 LIST")
	step(0, "create --insecure LIST "+host+"/app:amd64")
	step(0, "rm LIST")
	step(1, "rm LIST")
	for _, arch := range []string{"amd64", "arm/v6"} {
		want := strings.TrimSuffix(arch, "/v6")
		d.ShellT(t, d.Berth(), "$D pull -q --platform linux/"+arch+" "+list+" && $D image inspect --platform linux/"+arch+
			" --format '{{.Architecture}}' "+list+" && $D rmi "+list).Exits(0).Shows(want + "\n")
	}
	return said
}
