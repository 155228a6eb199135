package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func skopeo(t *testing.T, args ...string) {
	t.Helper()
	tool(t, "skopeo")
	if out, err := exec.Command("skopeo", args...).CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v: %s", err, out)
	}
}

// Archives go to and fro between us and a program that is not ours, in both formats.
func TestArchivesWithSkopeo(t *testing.T) {
	dir := t.TempDir()
	b := &built{blobs: map[digest.Digest][]byte{}, noZstd: true}
	b.target = b.manifest(t, ocispec.Image{Config: ocispec.ImageConfig{Cmd: []string{"/x"}}}, rootTar(t, "one", "1"),
		rootTar(t, "two", "2"))
	must(t, os.WriteFile(filepath.Join(dir, "oci.tar"), b.layout(t, "docker.io/library/app:v1"), 0o600))

	// What older Docker saves: uncompressed layers, links between equal ones, manifest.json.
	skopeo(t, "copy", "-q", "oci-archive:"+dir+"/oci.tar", "docker-archive:"+dir+"/docker.tar:app:v2")
	im := open(t)
	data, err := os.ReadFile(filepath.Join(dir, "docker.tar"))
	must(t, err)
	names, err := im.Load(t.Context(), bytes.NewReader(data), LoadOptions{})
	if err != nil || !slices.Equal(names, []string{"app:v2"}) {
		t.Fatalf("%v, %v", names, err)
	}
	img, err := im.Resolve(t.Context(), "app:v2", "")
	must(t, err)
	if fileOf(t, im, img, "two") != "2" || img.Config.Config.Cmd[0] != "/x" || !slices.Equal(img.Layers,
		b.config.RootFS.DiffIDs) {
		t.Errorf("%+v", img)
	}
	_, err = im.Load(t.Context(), bytes.NewReader(b.layout(t, "docker.io/library/app:v1")), LoadOptions{})
	must(t, err)
	for _, ref := range []string{"app:v1", "app:v2"} {
		out, err := os.Create(filepath.Join(dir, "saved.tar"))
		must(t, err)
		must(t, im.Save(t.Context(), out, []string{ref}))
		must(t, out.Close())
		skopeo(t, "inspect", "oci-archive:"+dir+"/saved.tar")
		skopeo(t, "inspect", "docker-archive:"+dir+"/saved.tar:"+ref)
		must(t, os.RemoveAll(filepath.Join(dir, "x")))
		skopeo(t, "copy", "-q", "docker-archive:"+dir+"/saved.tar:"+ref, "dir:"+dir+"/x")
	}
}

func TestBadArchives(t *testing.T) {
	b := build(t, ocispec.Image{}, rootTar(t, "a", "b"))
	good := b.layout(t, "docker.io/library/x:1")
	missing := &built{blobs: map[digest.Digest][]byte{b.target.Digest: b.blobs[b.target.Digest]}, target: b.target}
	for name, data := range map[string][]byte{
		"empty": nil, "garbage": bytes.Repeat([]byte("garbage"), 999), "cut": good[:len(good)/2],
		"no image":      rootTar(t, "hello", "world"),
		"missing blobs": missing.layout(t, "docker.io/library/x:1"), "cut gzip": gzipped(t, good)[:300],
		"index garbage":    rootTar(t, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", "[]"),
		"no index":         rootTar(t, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`),
		"other version":    rootTar(t, "oci-layout", `{"imageLayoutVersion":"9"}`, "index.json", "{}"),
		"manifest garbage": rootTar(t, "manifest.json", "{"),
		"config missing": rootTar(t, "manifest.json",
			`[{"Config":"../../etc/passwd","RepoTags":["x:1"],"Layers":[]}]`),
		"bad tag": rootTar(t, "manifest.json", `[{"Config":"c","RepoTags":["UPPER CASE"],"Layers":[]}]`, "c",
			`{"os":"linux","rootfs":{"type":"layers"}}`),
		"deep": rootTar(t, "manifest.json", strings.Repeat("[", 1<<20)),
		"manifest twice": rootTar(t, "manifest.json", `[{"Config":"c","Config":"d","RepoTags":["x:1"],"Layers":[]}]`, "c",
			`{"os":"linux","rootfs":{"type":"layers"}}`),
		"layer out of the archive": rootTar(t, "manifest.json", `[{"Config":"c","RepoTags":["x:1"],"Layers":["/etc/passwd"]}]`, "c",
			`{"os":"linux","rootfs":{"type":"layers","diff_ids":["`+digest.FromString("x").String()+`"]}}`),
		"huge manifest": rootTar(t, "manifest.json", `[{"Config":"c","RepoTags":["`+strings.Repeat("x", 20<<20)+`"],"Layers":[]}]`),
		"100,000 layers": rootTar(t, "c", `{"os":"linux","rootfs":{"type":"layers"}}`, "manifest.json",
			`[{"Config":"c","RepoTags":["x:1"],"Layers":["c"`+strings.Repeat(`,"c"`, 100_000)+`]}]`),
		"reserved name": b.layout(t, "docker.io/berth/box:latest"),
		"xz":            append([]byte{0xfd, '7', 'z', 'X', 'Z', 0}, good...),
	} {
		t.Run(name, func(t *testing.T) {
			im := open(t)
			names, err := im.Load(t.Context(), bytes.NewReader(data), LoadOptions{})
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v, %v", names, err)
			}
			t.Log(err)
			wantEmpty(t, im)
		})
	}
}
