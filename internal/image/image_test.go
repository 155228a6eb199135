package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB) *Images {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "data"))
}

func openAt(t testing.TB, root string) *Images {
	t.Helper()
	s, err := store.Open(t.Context(), root)
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	im, err := Open(s, Options{Registry: registry.Options{HostDirs: []string{}}})
	must(t, err)
	return im
}

// rootTar is a tar archive of files by name and content; a name that ends in "/" is a directory.
func rootTar(t testing.TB, files ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i+1 < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(files[i+1])),
			ModTime: time.Unix(1e9, 0)}
		if strings.HasSuffix(files[i], "/") {
			h.Typeflag = tar.TypeDir
		}
		must(t, w.WriteHeader(h))
		_, err := io.WriteString(w, files[i+1])
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(data)
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(data, nil)
}

// built is an image in memory: blobs by digest.
type built struct {
	blobs  map[digest.Digest][]byte
	target ocispec.Descriptor
	config ocispec.Image
	noZstd bool
}

func (b *built) add(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	b.blobs[d.Digest] = data
	return d
}

func (b *built) addJSON(t testing.TB, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return b.add(mediaType, data)
}

// build makes an image of layers, gzip, zstd and plain in turn.
func build(t testing.TB, config ocispec.Image, layers ...[]byte) *built {
	t.Helper()
	b := &built{blobs: map[digest.Digest][]byte{}}
	b.target = b.manifest(t, config, layers...)
	return b
}

func (b *built) manifest(t testing.TB, config ocispec.Image, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	if config.OS == "" {
		config.OS, config.Architecture = "linux", "amd64"
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Layers: []ocispec.Descriptor{}}
	for i, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		switch {
		case i%3 == 0 || b.noZstd:
			m.Layers = append(m.Layers, b.add(ocispec.MediaTypeImageLayerGzip, gzipped(t, l)))
		case i%3 == 1:
			m.Layers = append(m.Layers, b.add(ocispec.MediaTypeImageLayerZstd, zstded(t, l)))
		default:
			m.Layers = append(m.Layers, b.add(ocispec.MediaTypeImageLayer, l))
		}
	}
	m.Config = b.addJSON(t, ocispec.MediaTypeImageConfig, config)
	b.config = config
	return b.addJSON(t, ocispec.MediaTypeImageManifest, m)
}

// layout is the image as an OCI layout in a tar archive.
func (b *built) layout(t testing.TB, name string) []byte {
	t.Helper()
	target := b.target
	if name != "" {
		target.Annotations = map[string]string{"io.containerd.image.name": name}
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		Manifests: []ocispec.Descriptor{target}})
	must(t, err)
	files := []string{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", string(index)}
	for d, data := range b.blobs {
		files = append(files, "blobs/sha256/"+d.Encoded(), string(data))
	}
	return rootTar(t, files...)
}

// fileOf reads a file of an image's merged layers.
func fileOf(t testing.TB, im *Images, img *Image, name string) string {
	t.Helper()
	lowers, err := im.store.Lowers(t.Context(), img.Chain)
	must(t, err)
	for _, dir := range lowers {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return string(data)
		}
	}
	t.Fatalf("%s is in no layer", name)
	return ""
}

// wantEmpty checks that the store holds nothing at all.
func wantEmpty(t testing.TB, im *Images) {
	t.Helper()
	must(t, im.store.GC(t.Context()))
	if n, err := im.Count(t.Context()); n != 0 || err != nil {
		t.Errorf("%d images are left, %v", n, err)
	}
	list, err := im.store.Names().List(im.store.Context(t.Context()))
	if err != nil || len(list) != 0 {
		t.Errorf("names are left: %v, %v", list, err)
	}
	for _, d := range []string{"snapshots/snapshots", "content/blobs/sha256", "content/ingest"} {
		left, err := os.ReadDir(filepath.Join(im.store.Root(), d))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("left over: %s/%s", d, e.Name())
		}
	}
}

func TestImport(t *testing.T) {
	im := open(t)
	plain := rootTar(t, "bin/", "", "bin/sh", "shell", "etc/os", "berth")
	for name, data := range map[string][]byte{"plain": plain, "gzip": gzipped(t, plain), "zstd": zstded(t, plain)} {
		img, err := im.Import(t.Context(), "made/"+name, bytes.NewReader(data), []string{
			"CMD echo hi", `ENTRYPOINT ["/bin/sh","-c"]`, "ENV A=1 B=\"two words\"", "ENV C the rest",
			"EXPOSE 80 53/udp",
			"LABEL containerd.io/gc.root=yes x.y='z'", "USER 12:34", `VOLUME ["/data","/x"]`, "WORKDIR /srv",
			"WORKDIR sub",
			"STOPSIGNAL SIGINT", "HEALTHCHECK --interval=5s --retries=3 CMD test -e /x", "ONBUILD RUN true",
			`SHELL ["/bin/x","-c"]`,
		}, "a message", "")
		must(t, err)
		c := img.Config.Config
		if strings.Join(c.Cmd, "|") != "/bin/sh|-c|echo hi" || strings.Join(c.Entrypoint, "|") != "/bin/sh|-c" ||
			strings.Join(c.Env, "|") != "A=1|B=two words|C=the rest" || len(c.ExposedPorts) != 2 || c.User != "12:34" ||
			len(c.Volumes) != 2 || c.WorkingDir != "/srv/sub" || c.StopSignal != "SIGINT" || c.Labels["x.y"] != "z" ||
			img.Health().Interval != 5*time.Second || img.Health().Test[1] != "test -e /x" ||
			img.Shell()[0] != "/bin/x" ||
			img.OnBuild()[0] != "RUN true" || img.Comment != "a message" || img.OS != "linux" {
			t.Errorf("%s: %+v %+v", name, c, img.Docker)
		}
		if img.Layers[0] != digest.FromBytes(plain) {
			t.Errorf("%s: layer %s", name, img.Layers[0])
		}
		if got := fileOf(t, im, img, "bin/sh"); got != "shell" {
			t.Errorf("%s: %q", name, got)
		}
		if !slices.Equal(img.RepoTags, []string{"made/" + name + ":latest"}) || img.Size == 0 {
			t.Errorf("%s: %v %d", name, img.RepoTags, img.Size)
		}
		_, err = im.Remove(t.Context(), img.ID, RemoveOptions{})
		must(t, err)
	}
	wantEmpty(t, im)
	for _, bad := range []string{"RUN true", "CMD", "EXPOSE 99999", "EXPOSE 1/icmp", "ENV A", "LABEL x", `ENV A="x`,
		"HEALTHCHECK --foo=1 CMD x",
		"HEALTHCHECK CMD", "SHELL x", "EXPOSE 9-3", `VOLUME [""]`} {
		if _, err := im.Import(t.Context(), "", bytes.NewReader(plain), []string{bad},
			"", ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for name, data := range map[string][]byte{"garbage": []byte(strings.Repeat("garbage", 999)), "cut": gzipped(t,
		plain)[:60],
		"outside": rootTar(t, "../../x", "y"), "cut plain": plain[:700]} {
		if _, err := im.Import(t.Context(), "bad", bytes.NewReader(data), nil, "", ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, ref := range []string{"UPPER", "a b", "x@sha256:" + strings.Repeat("a", 64), "berth/box"} {
		if _, err := im.Import(t.Context(), ref, bytes.NewReader(plain), nil, "", ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	wantEmpty(t, im)
}

func TestResolve(t *testing.T) {
	im := open(t)
	one, err := im.Import(t.Context(), "one", bytes.NewReader(rootTar(t, "a", "1")), nil, "", "")
	must(t, err)
	two, err := im.Import(t.Context(), "reg.example:5000/x/two:v2", bytes.NewReader(rootTar(t, "a", "2")), nil, "", "")
	must(t, err)
	hex := strings.TrimPrefix(one.ID, "sha256:")
	for ref, id := range map[string]string{
		"one": one.ID, "one:latest": one.ID, "docker.io/library/one": one.ID, "library/one": one.ID,
		"docker.io/one:latest": one.ID,
		one.ID:                 one.ID, hex: one.ID, hex[:12]: one.ID, "sha256:" + hex[:12]: one.ID,
		"one@" + one.ID: one.ID, "one:other@" + one.ID: one.ID, "reg.example:5000/x/two:v2": two.ID,
		"reg.example:5000/x/two@" + two.ID: two.ID,
	} {
		if img, err := im.Resolve(t.Context(), ref, ""); err != nil || img.ID != id {
			t.Errorf("%s: %v", ref, err)
		}
	}
	none := digest.FromString("none").String()
	for ref, text := range map[string]string{
		"three": "No such image: three:latest", "one:v2": "No such image: one:v2", none: "No such image: " + none,
		"reg.example:5000/x/two": "No such image: reg.example:5000/x/two:latest", "one@" +
			two.ID: "No such image: one@" + two.ID,
		"deadbeef0": "No such image: deadbeef0:latest", "sha256:zz": "No such image: sha256:zz",
	} {
		if _, err := im.Resolve(t.Context(), ref, ""); !errdefs.IsNotFound(err) || err.Error() != text {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for _, ref := range []string{"", "One", "one:", "a b", "-x", "one@sha256:short", strings.Repeat("x/", 300)} {
		if _, err := im.Resolve(t.Context(), ref, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := im.Resolve(t.Context(), "one", "linux/arm64"); !errdefs.IsNotFound(err) ||
		!strings.Contains(err.Error(), "does not provide the specified platform (linux/arm64)") {
		t.Errorf("platform: %v", err)
	}
	if _, err := im.Resolve(t.Context(), "one", "linux/amd64"); err != nil {
		t.Errorf("platform: %v", err)
	}
	if _, err := im.Resolve(t.Context(), "one", "a/b/c/d"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("platform: %v", err)
	}
}

func TestTagListAndDangling(t *testing.T) {
	im := open(t)
	a, err := im.Import(t.Context(), "a", bytes.NewReader(rootTar(t, "f", "1")), nil, "", "")
	must(t, err)
	b, err := im.Import(t.Context(), "b", bytes.NewReader(rootTar(t, "f", "2")), nil, "", "")
	must(t, err)
	must(t, im.Tag(t.Context(), "a", "c:v1"))
	must(t, im.Tag(t.Context(), a.ID[:19], "c:v2"))
	img, err := im.Resolve(t.Context(), "c:v2", "")
	must(t, err)
	if strings.Join(img.RepoTags, " ") != "a:latest c:v1 c:v2" || len(img.RepoDigests) != 2 {
		t.Errorf("%v %v", img.RepoTags, img.RepoDigests)
	}
	must(t, im.Tag(t.Context(), "a", "b")) // b loses its only name
	list, err := im.List(t.Context())
	must(t, err)
	if len(list) != 2 || len(list[0].RepoTags)+len(list[1].RepoTags) != 4 {
		t.Errorf("%+v", list)
	}
	must(t, im.Tag(t.Context(), b.ID, "d")) // and has one again
	names, err := im.store.Names().List(im.store.Context(t.Context()))
	must(t, err)
	if len(names) != 5 {
		t.Errorf("names: %v", names)
	}
	for _, bad := range []string{"UPPER", "x@" + a.ID, ""} {
		if err := im.Tag(t.Context(), "a", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := im.Tag(t.Context(), "nothing", "x"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	// The names are read again by the next daemon.
	must(t, im.store.Close())
	im = openAt(t, im.store.Root())
	if img, err := im.Resolve(t.Context(), "d", ""); err != nil || img.ID != b.ID {
		t.Error(err)
	}
}

func TestRemoveRules(t *testing.T) {
	im := open(t)
	ctx := t.Context()
	img, err := im.Import(ctx, "app", bytes.NewReader(rootTar(t, "f", "1")), nil, "", "")
	must(t, err)
	used := func(string) []string { return []string{"0123456789abcdef"} }
	yes := func(string) bool { return true }
	short := img.ID[7:19]
	refused := func(ref string, o RemoveOptions, text string) {
		t.Helper()
		if _, err := im.Remove(ctx, ref, o); !errdefs.IsConflict(err) || err.Error() != text {
			t.Errorf("%s: %v", ref, err)
		}
	}
	refused("app", RemoveOptions{InUse: used},
		`conflict: unable to remove repository reference "app" (must force) - container 0123456789ab`+
			` is using its referenced image `+short)
	refused(img.ID, RemoveOptions{InUse: used}, "conflict: unable to delete "+short+
		" (must be forced) - image is being used by stopped container 0123456789ab")
	refused(short, RemoveOptions{InUse: used, Running: yes, Force: true}, "conflict: unable to delete "+short+
		" (cannot be forced) - image is being used by running container 0123456789ab")
	must(t, im.Tag(ctx, "app", "other/app"))
	refused(img.ID, RemoveOptions{},
		"conflict: unable to delete "+short+" (must be forced) - image is referenced in multiple repositories")

	// One of two names: the image stays, whoever uses it.
	removed, err := im.Remove(ctx, "other/app", RemoveOptions{InUse: used, Running: yes})
	if err != nil || len(removed) != 1 || removed[0].Untagged != "other/app:latest" {
		t.Errorf("%v, %v", removed, err)
	}
	// By force under a running container: only the name goes.
	removed, err = im.Remove(ctx, "app", RemoveOptions{InUse: used, Running: yes, Force: true})
	if err != nil || len(removed) != 1 || removed[0].Untagged != "app:latest" {
		t.Errorf("%v, %v", removed, err)
	}
	if again, err := im.Resolve(ctx, img.ID, ""); err != nil || len(again.RepoTags) != 0 ||
		len(again.RepoDigests) != 0 {
		t.Errorf("dangling: %v, %v", again, err)
	}
	// By force under a stopped one: the image goes and its layers stay until the container goes.
	removed, err = im.Remove(ctx, img.ID, RemoveOptions{InUse: used, Force: true})
	if err != nil || len(removed) != 1 || removed[0].Deleted != img.ID {
		t.Errorf("%v, %v", removed, err)
	}
	if got := fileOf(t, im, img, "f"); got != "1" {
		t.Errorf("layer: %q", got)
	}
	im.ReleaseLayers(img.Chain.String(), func() map[string]bool { return map[string]bool{img.Chain.String(): true} })
	if got := fileOf(t, im, img, "f"); got != "1" {
		t.Errorf("layer: %q", got)
	}
	im.ReleaseLayers(img.Chain.String(), func() map[string]bool { return nil })
	wantEmpty(t, im)
	if _, err := im.Remove(ctx, "app", RemoveOptions{}); !errdefs.IsNotFound(err) ||
		err.Error() != "No such image: app:latest" {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	im := open(t)
	ctx := t.Context()
	var ids []string
	for _, f := range []string{"1", "2", "3"} {
		img, err := im.Import(ctx, "app", strings.NewReader(string(rootTar(t, "f", strings.Repeat(f, 9999)))), nil, "", "")
		must(t, err)
		ids = append(ids, img.ID)
	}
	report, err := im.Prune(ctx, PruneOptions{InUse: func(id string) []string {
		if id == ids[0] {
			return []string{"c"}
		}
		return nil
	}})
	must(t, err)
	if len(report.Removed) != 1 || report.Removed[0].Deleted != ids[1] || report.Reclaimed < 9999 {
		t.Errorf("%+v", report)
	}
	report, err = im.Prune(ctx, PruneOptions{Choose: func(Image) bool { return true }})
	must(t, err)
	if len(report.Removed) != 3 {
		t.Errorf("%+v", report)
	}
	wantEmpty(t, im)
	if u, err := im.Usage(ctx); u != 0 || err != nil {
		t.Errorf("usage %d, %v", u, err)
	}
}

func TestLoadAndSave(t *testing.T) {
	im := open(t)
	ctx := t.Context()
	created := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	b := build(t, ocispec.Image{Created: &created, Config: ocispec.ImageConfig{Cmd: []string{"/x"}},
		History: []ocispec.History{
			{CreatedBy: "one", Created: &created}, {CreatedBy: "nothing", EmptyLayer: true}, {CreatedBy: "two"},
			{CreatedBy: "three"}, {CreatedBy: "four"}}},
		rootTar(t, "one", "1", "same", "old"), rootTar(t, "two", "2", "same", "new"), rootTar(t, "three", "3"))
	for name, data := range map[string][]byte{"plain": b.layout(t, "docker.io/library/app:v1"), "gzip": gzipped(t,
		b.layout(t, "docker.io/library/app:v1")),
		"zstd": zstded(t, b.layout(t, "docker.io/library/app:v1"))} {
		names, err := im.Load(ctx, bytes.NewReader(data), LoadOptions{})
		if err != nil || !slices.Equal(names, []string{"app:v1"}) {
			t.Fatalf("%s: %v, %v", name, names, err)
		}
	}
	img, err := im.Resolve(ctx, "app:v1", "")
	must(t, err)
	if img.ID != b.target.Digest.String() || fileOf(t, im, img, "same") != "new" || fileOf(t, im, img,
		"one") != "1" || !img.Created.Equal(created) {
		t.Errorf("%+v", img)
	}
	history, err := im.History(ctx, "app:v1", "")
	must(t, err)
	if len(history) != 5 || history[0].CreatedBy != "four" || history[0].ID != img.ID ||
		history[4].CreatedBy != "one" || history[4].Size == 0 ||
		history[3].Size != 0 || history[1].Size == 0 {
		t.Errorf("%+v", history)
	}
	var out bytes.Buffer
	must(t, im.Save(ctx, &out, []string{"app:v1"}))
	var byID bytes.Buffer
	must(t, im.Save(ctx, &byID, []string{img.ID}))
	if err := im.Save(ctx, io.Discard, []string{"nothing"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	other := open(t)
	names, err := other.Load(ctx, &out, LoadOptions{})
	if err != nil || !slices.Equal(names, []string{"app:v1"}) {
		t.Fatalf("%v, %v", names, err)
	}
	if got, err := other.Resolve(ctx, "app:v1", ""); err != nil || got.ID != img.ID {
		t.Errorf("%v", err)
	}
	third := open(t)
	names, err = third.Load(ctx, &byID, LoadOptions{})
	if err != nil || !slices.Equal(names, []string{img.ID}) {
		t.Fatalf("%v, %v", names, err)
	}
	_, err = third.Remove(ctx, img.ID, RemoveOptions{})
	must(t, err)
	wantEmpty(t, third)
}

// CVE-2026-53488: what an image says of itself must not steer the store.
func TestLabelsOfImagesStayInImages(t *testing.T) {
	im := open(t)
	b := &built{blobs: map[digest.Digest][]byte{}}
	evil := map[string]string{"containerd.io/gc.root": "1", "containerd.io/gc.ref.content.0": "sha256:" +
		strings.Repeat("a", 64),
		"containerd.io/snapshot/uidmapping": "0:1000:1", "containerd.io/snapshot.ref": "x"}
	target := b.manifest(t, ocispec.Image{Config: ocispec.ImageConfig{Labels: evil}}, rootTar(t, "f", "1"))
	var m ocispec.Manifest
	must(t, json.Unmarshal(b.blobs[target.Digest], &m))
	m.Annotations, m.Config.Annotations, m.Layers[0].Annotations = evil, evil, evil
	b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
	b.target.Annotations = evil
	_, err := im.Load(t.Context(), bytes.NewReader(b.layout(t, "docker.io/library/evil:latest")), LoadOptions{})
	must(t, err)
	if p, err := im.store.Pinned(t.Context()); err != nil || len(p) != 0 {
		t.Errorf("pinned: %v, %v", p, err)
	}
	_, err = im.Remove(t.Context(), "evil", RemoveOptions{})
	must(t, err)
	wantEmpty(t, im)
}

func TestBuiltin(t *testing.T) {
	im := open(t)
	_, err := builtinFiles.Open("builtin/files/rootfs.tar.gz")
	if err != nil {
		_, err := im.Resolve(t.Context(), "berth/box", "")
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "make build") {
			t.Error(err)
		}
		return
	}
	img, err := im.Resolve(t.Context(), "berth/box", "")
	must(t, err)
	var lines []string
	again, err := im.Pull(t.Context(), "docker.io/berth/box:latest",
		PullOptions{Progress: func(p Progress) { lines = append(lines, p.Status) }})
	must(t, err)
	if again.ID != img.ID || len(lines) != 2 || img.Config.Config.Cmd[0] != "/bin/sh" {
		t.Errorf("%v %v", lines, img.Config.Config)
	}
	other := open(t)
	same, err := other.Resolve(t.Context(), "berth/box:latest", "")
	if err != nil || same.ID != img.ID {
		t.Errorf("not reproducible: %v", err)
	}
}

func TestHoldKeepsImages(t *testing.T) {
	im := open(t)
	_, err := im.Import(t.Context(), "app", bytes.NewReader(rootTar(t, "f", "1")), nil, "", "")
	must(t, err)
	release := im.Hold()
	done := make(chan error)
	go func() {
		_, err := im.Remove(context.Background(), "app", RemoveOptions{})
		done <- err
	}()
	if _, err := im.Resolve(t.Context(), "app", ""); err != nil {
		t.Error(err)
	}
	select {
	case <-done:
		t.Error("removed while held")
	default:
	}
	release()
	must(t, <-done)
}

func BenchmarkResolve(b *testing.B) {
	im := open(b)
	_, err := im.Import(b.Context(), "app", bytes.NewReader(rootTar(b, "f", "1")), nil, "", "")
	must(b, err)
	for b.Loop() {
		_, err := im.Resolve(b.Context(), "app", "")
		must(b, err)
	}
}

func TestLostLayersAreUnpackedAgain(t *testing.T) {
	im := open(t)
	b := build(t, ocispec.Image{}, rootTar(t, "one", "1"), rootTar(t, "two", "2"))
	_, err := im.Load(t.Context(), bytes.NewReader(b.layout(t, "docker.io/library/app:v1")), LoadOptions{})
	must(t, err)
	must(t, im.store.Close())
	note := "another-boot\n" + chainsOf(b.config.RootFS.DiffIDs)[0].String() + "\n"
	must(t, os.WriteFile(filepath.Join(im.store.Root(), "unsynced"), []byte(note), 0o600))
	im = openAt(t, im.store.Root())
	img, err := im.Resolve(t.Context(), "app:v1", "")
	must(t, err)
	if fileOf(t, im, img, "one") != "1" || fileOf(t, im, img, "two") != "2" {
		t.Error("content differs")
	}
}
