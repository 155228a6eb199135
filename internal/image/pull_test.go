package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// tool skips a test when a program of another project is not installed; in CI it has to be.
func tool(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
}

// startRegistry runs Debian's docker-registry and returns its address.
func startRegistry(t testing.TB) string {
	t.Helper()
	tool(t, "docker-registry", "skopeo")
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	must(t, os.WriteFile(config,
		[]byte("version: 0.1\nlog: {accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: "+
			dir+"/data}}\nhttp: {addr: '127.0.0.1:0'}\n"), 0o600))
	cmd := exec.Command("docker-registry", "serve", config)
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, addr, ok := strings.Cut(lines.Text(), "listening on "); ok {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return addr[:strings.IndexAny(addr+"\" ", "\" ")]
		}
	}
	t.Fatal("docker-registry did not start")
	return ""
}

// push lets skopeo push an image.
func (b *built) push(t testing.TB, ref string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	must(t, os.WriteFile(file, b.layout(t, ""), 0o600))
	out, err := exec.Command("skopeo", "copy", "-q", "--all", "--preserve-digests", "--dest-tls-verify=false",
		"oci-archive:"+file,
		"docker://"+ref).CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo: %v: %s", err, out)
	}
}

// statuses collects progress.
type statuses struct {
	mu   sync.Mutex
	list []string
}

func (s *statuses) add(p Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, strings.TrimPrefix(p.ID+": "+p.Status, ": "))
}

func (s *statuses) count(suffix string) (n int) {
	for _, l := range s.list {
		if strings.HasSuffix(l, suffix) {
			n++
		}
	}
	return n
}

func TestPullFromDockersRegistry(t *testing.T) {
	addr := startRegistry(t)
	im := open(t)
	ctx := t.Context()
	b := build(t, ocispec.Image{}, rootTar(t, "one", "1", "d/", "", "d/x", "x"), rootTar(t, "two", "2"), rootTar(t,
		"three", "3", "d/.wh.x", ""))
	b.push(t, addr+"/team/app:v1")
	b.push(t, addr+"/team/app:v2")

	var s statuses
	img, err := im.Pull(ctx, addr+"/team/app:v1", PullOptions{Progress: s.add})
	must(t, err)
	if img.ID != b.target.Digest.String() || fileOf(t, im, img, "two") != "2" || !slices.Equal(img.RepoTags,
		[]string{addr + "/team/app:v1"}) {
		t.Errorf("%+v", img)
	}
	if s.list[0] != "v1: Pulling from team/app" || s.count(": Pulling fs layer") != 3 ||
		s.count(": Download complete") != 3 ||
		s.count(": Pull complete") != 3 || s.count("Digest: "+img.ID) != 1 ||
		s.list[len(s.list)-1] != "Status: Downloaded newer image for "+addr+"/team/app:v1" {
		t.Errorf("%q", s.list)
	}
	s.list = nil
	_, err = im.Pull(ctx, addr+"/team/app:v1", PullOptions{Progress: s.add})
	must(t, err)
	if s.count(": Already exists") != 3 ||
		s.list[len(s.list)-1] != "Status: Image is up to date for "+addr+"/team/app:v1" {
		t.Errorf("%q", s.list)
	}
	byDigest, err := im.Pull(ctx, addr+"/team/app@"+img.ID, PullOptions{})
	if err != nil || byDigest.ID != img.ID {
		t.Errorf("by digest: %v", err)
	}
	if _, err := im.Pull(ctx, addr+"/team/app", PullOptions{AllTags: true}); err != nil {
		t.Error(err)
	}
	img, err = im.Resolve(ctx, addr+"/team/app:v2", "")
	if err != nil || len(img.RepoTags) != 2 || len(img.RepoDigests) != 1 {
		t.Errorf("%+v, %v", img, err)
	}
	for ref, text := range map[string]string{
		addr + "/team/app:none": "manifest for " + addr + "/team/app:none not found",
		addr + "/team/none":     "manifest for " + addr + "/team/none:latest not found",
		addr + "/team/app@" + digest.FromString("x").String(): "manifest for " + addr + "/team/app@" +
			digest.FromString("x").String() + " not found",
	} {
		if _, err := im.Pull(ctx, ref, PullOptions{}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(),
			text) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := im.Pull(ctx, addr+"/team/none", PullOptions{AllTags: true}); !errdefs.IsNotFound(err) {
		t.Errorf("all tags of nothing: %v", err)
	}
	if _, err := im.Pull(ctx, addr+"/team/app:v1", PullOptions{AllTags: true}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("all tags of a tag: %v", err)
	}
	_, err = im.Remove(ctx, img.ID, RemoveOptions{Force: true})
	must(t, err)
	wantEmpty(t, im)
}

// What another program unpacks must be what we unpack.
func TestSameFilesAsUmoci(t *testing.T) {
	tool(t, "umoci")
	addr := startRegistry(t)
	base := t.TempDir()
	script := `set -e; cd "$1"; mkdir -p etc usr/bin tmp priv
		chmod 1777 tmp; chmod 700 priv; echo a > priv/a; cp /bin/busybox usr/bin/busybox
		ln usr/bin/busybox usr/bin/sh; ln -s usr/bin bin; chmod 4755 usr/bin/busybox
		mkfifo etc/fifo; mknod etc/null c 1 3; truncate -s 1M etc/sparse
		setfattr -n user.x -v y etc/sparse 2>/dev/null || true; chown -h 5:6 bin`
	if out, err := exec.Command("sh", "-c", script, "-", base).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	layer, err := exec.Command("tar", "--xattrs", "-C", base, "-c", ".").Output()
	must(t, err)
	b := &built{blobs: map[digest.Digest][]byte{}, noZstd: true} // which umoci does not read
	b.target = b.manifest(t, ocispec.Image{}, layer, rootTar(t, "priv/b", "b", "etc/.wh.fifo", "", "tmp/x", "x"))
	b.push(t, addr+"/x:1")
	im := open(t)
	img, err := im.Pull(t.Context(), addr+"/x:1", PullOptions{})
	must(t, err)
	lowers, err := im.store.Lowers(t.Context(), img.Chain)
	must(t, err)
	at := t.TempDir()
	must(t, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":")))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	dir := t.TempDir()
	if out, err := exec.Command("skopeo", "copy", "-q", "--src-tls-verify=false", "docker://"+addr+"/x:1",
		"oci:"+dir+"/oci:1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("umoci", "unpack", "--image", dir+"/oci:1",
		dir+"/bundle").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	list := func(root string) string {
		out, err := exec.Command("sh", "-c", `cd "$1" &&
			find . -printf '%P %y %m %U %G %s %l %n' \( -type d -printf '\n' -o -printf ' %TY%Tm%Td\n' \) |
			sed 's/ d \([0-9]*\) \([0-9]*\) \([0-9]*\) .*/ d \1 \2 \3/' | sort
			find . -type f | sort | xargs sha256sum; getfattr -R -d . 2>/dev/null || true`, "-", root).Output()
		must(t, err)
		return string(out)
	}
	if ours, theirs := list(at), list(dir+"/bundle/rootfs"); ours != theirs {
		t.Errorf("ours:\n%s\ntheirs:\n%s", ours, theirs)
	}
}

// fakeRegistry serves an image, with faults.
type fakeRegistry struct {
	*built
	addr     string
	requests atomic.Int64
	mu       sync.Mutex
	users    []string
	// fault may answer instead, and then returns true. Requests come side by side: what it keeps is guarded by mu.
	fault func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t testing.TB, b *built) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{built: b}
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = nil
	s.Start()
	t.Cleanup(s.Close)
	f.addr = s.Listener.Addr().String()
	return f
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.requests.Add(1)
	if f.fault != nil && f.fault(w, r) {
		return
	}
	_, last, isManifest := strings.Cut(r.URL.Path, "/manifests/")
	if !isManifest {
		var ok bool
		if _, last, ok = strings.Cut(r.URL.Path, "/blobs/"); !ok {
			return
		}
	}
	d := digest.Digest(last)
	if d.Validate() != nil {
		d = f.target.Digest
	}
	data, ok := f.blobs[d]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if isManifest {
		var m struct{ MediaType string }
		_ = json.Unmarshal(data, &m)
		w.Header().Set("Content-Type", m.MediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func TestHostileRegistries(t *testing.T) {
	layer := rootTar(t, "f", strings.Repeat("content", 100))
	manifestWith := func(change func(b *built, m *ocispec.Manifest)) *built {
		b := build(t, ocispec.Image{}, layer)
		var m ocispec.Manifest
		must(t, json.Unmarshal(b.blobs[b.target.Digest], &m))
		change(b, &m)
		b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
		return b
	}
	raw := func(mediaType, text string) *built {
		b := &built{blobs: map[digest.Digest][]byte{}}
		b.target = b.add(mediaType, []byte(text))
		return b
	}
	config := func(text string) *built {
		return manifestWith(func(b *built, m *ocispec.Manifest) {
			m.Config = b.add(ocispec.MediaTypeImageConfig,
				[]byte(text))
		})
	}
	many := make([]ocispec.Descriptor, 0, 1000)
	for range 1000 {
		many = append(many, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("x"),
			Size: 1})
	}
	manifest, index := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	desc := `{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest.FromString("x").String() +
		`","size":1}`
	for name, c := range map[string]struct {
		b    *built
		text string
	}{
		"layer size too small": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Layers[0].Size-- }),
			"are announced"},
		"layer size too large": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Layers[0].Size++ }), ""},
		"negative size": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Layers[0].Size = -1 }),
			"size -1"},
		"config size too small": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Config.Size-- }), ""},
		"layer digest lies": {manifestWith(func(b *built, m *ocispec.Manifest) {
			b.blobs[m.Layers[0].Digest] = slices.Replace(slices.Clone(b.blobs[m.Layers[0].Digest]), 4, 5, 9)
		}), "what was sent as"},
		"config digest lies": {manifestWith(func(b *built, m *ocispec.Manifest) {
			b.blobs[m.Config.Digest] = bytes.Replace(b.blobs[m.Config.Digest], []byte("linux"), []byte("xinul"), 1)
		}), "what was sent as"},
		"layer truncated": {manifestWith(func(b *built, m *ocispec.Manifest) {
			b.blobs[m.Layers[0].Digest] = b.blobs[m.Layers[0].Digest][:50]
		}), ""},
		"layer is garbage": {manifestWith(func(b *built, m *ocispec.Manifest) {
			m.Layers[0] = b.add(ocispec.MediaTypeImageLayerGzip, []byte(strings.Repeat("garbage", 200)))
		}), "bad layer"},
		"layer is corrupted gzip": {manifestWith(func(b *built, m *ocispec.Manifest) {
			g := slices.Clone(b.blobs[m.Layers[0].Digest])
			g[30] ^= 0xff
			m.Layers[0] = b.add(ocispec.MediaTypeImageLayerGzip, g)
		}), "bad"},
		"another layer than the configuration says": {manifestWith(func(b *built, m *ocispec.Manifest) {
			m.Layers[0] = b.add(ocispec.MediaTypeImageLayerGzip, gzipped(t, rootTar(t, "evil", "x")))
		}), "as the configuration says"},
		"layer missing": {manifestWith(func(b *built, m *ocispec.Manifest) {
			delete(b.blobs,
				m.Layers[0].Digest)
		}), ""},
		"layer leads out": {build(t, ocispec.Image{}, rootTar(t, "../evil", "x")), "outside of its root"},
		"layer of unknown type": {manifestWith(func(_ *built,
			m *ocispec.Manifest) {
			m.Layers[0].MediaType = "text/plain"
		}), "unknown type"},
		"foreign layer": {manifestWith(func(_ *built, m *ocispec.Manifest) {
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
			m.Layers[0].URLs = []string{"http://127.0.0.1:1/x"}
		}), "foreign"},
		"bad digest": {manifestWith(func(_ *built,
			m *ocispec.Manifest) {
			m.Layers[0].Digest = "sha256:../../../etc"
		}), "digest"},
		"more diff IDs": {manifestWith(func(_ *built, m *ocispec.Manifest) {
			m.Layers = append(m.Layers,
				m.Layers[0])
		}), "layers and its manifest"},
		"1000 layers": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Layers = many }), "more than"},
		"artifact with a foreign layer": {manifestWith(func(_ *built, m *ocispec.Manifest) {
			m.Config.MediaType = "application/vnd.x.config+json"
			m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
		}), "foreign"},
		"100,000 layers": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Layers = slices.Repeat(many, 100) }), "bytes"},
		"index of 20,000": {raw(index, `{"schemaVersion":2,"mediaType":"`+index+`","manifests":[`+
			strings.TrimSuffix(strings.Repeat(`{"mediaType":"`+index+`","digest":"`+digest.FromString("x").String()+`","size":1},`, 20_000), ",")+`]}`), ""},
		"index of itself": {raw(index, `{"schemaVersion":2,"mediaType":"`+index+`","manifests":[{"mediaType":"`+index+`","digest":"sha256:`+
			strings.Repeat("0", 64)+`","size":1}]}`), ""},
		"deep": {raw(manifest, `{"schemaVersion":2,"mediaType":"`+manifest+`","config":`+desc+`,"layers":[],"annotations":`+
			strings.Repeat(`{"a":`, 400_000)+`1`+strings.Repeat(`}`, 400_000)+`}`), ""},
		"deep lists": {raw(manifest, strings.Repeat("[", 4<<20)), ""},
		"deep config": {config(`{"os":"linux","config":` + strings.Repeat(`{"Labels":`, 400_000) + `1` +
			strings.Repeat(`}`, 400_001)), ""},
		"config twice": {config(`{"os":"linux","rootfs":{"type":"layers","diff_ids":["` + digest.FromBytes(layer).String() +
			`"]},"rootfs":{"type":"layers","diff_ids":["` + digest.FromString("other").String() + `"]}}`), "twice"},
		"negative config size":         {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Config.Size = -1 }), "size -1"},
		"sizes that add up to nothing": {manifestWith(func(_ *built, m *ocispec.Manifest) { m.Layers[0].Size = 1<<63 - 1 }), ""},
		"a layer as configuration": {manifestWith(func(_ *built, m *ocispec.Manifest) {
			m.Config.Digest, m.Config.Size = m.Layers[0].Digest, m.Layers[0].Size
		}), "JSON"},
		"a manifest as configuration": {manifestWith(func(b *built, m *ocispec.Manifest) {
			m.Config.Digest, m.Config.Size = b.target.Digest, b.target.Size
		}), ""},
		"a configuration as layer": {manifestWith(func(b *built, m *ocispec.Manifest) {
			m.Layers[0].Digest, m.Layers[0].Size = m.Config.Digest, m.Config.Size
		}), "bad layer"},
		"digest twice": {raw(manifest, `{"schemaVersion":2,"mediaType":"`+manifest+`","config":`+
			strings.Replace(desc, `"digest"`, `"digest":"`+digest.FromString("y").String()+`","digest"`, 1)+`,"layers":[]}`), "twice"},
		"digest in two cases": {raw(manifest, `{"schemaVersion":2,"mediaType":"`+manifest+`","config":`+desc+`,"layers":[`+
			strings.Replace(desc, `"digest"`, `"Digest":"`+digest.FromString("y").String()+`","digest"`, 1)+`]}`), "twice"},
		"label twice": {config(`{"os":"linux","config":{"Labels":{"a":"1","A":"2","a":"3"}},"rootfs":{"type":"layers","diff_ids":["` +
			digest.FromBytes(layer).String() + `"]}}`), `"a" twice`},
		"no config": {raw(manifest, `{"schemaVersion":2,"mediaType":"`+manifest+`","layers":[]}`),
			"no configuration"},
		"both": {raw(manifest,
			`{"schemaVersion":2,"mediaType":"`+manifest+`","config":`+desc+`,"layers":[],"manifests":[]}`),
			"both layers and manifests"},
		"both as index": {raw(index, `{"schemaVersion":2,"mediaType":"`+index+`","manifests":[],"layers":[]}`),
			"both layers and manifests"},
		"type confusion": {raw(manifest,
			`{"schemaVersion":2,"mediaType":"`+index+`","config":`+desc+`,"layers":[]}`), ""},
		"key in two cases": {raw(manifest,
			`{"schemaVersion":2,"mediaType":"`+manifest+`","config":`+desc+`,"layers":[],"Manifests":[]}`), "key"},
		"key twice": {raw(manifest,
			`{"schemaVersion":2,"mediaType":"`+manifest+`","config":`+desc+`,"layers":[],"layers":[]}`), "twice"},
		"schema 1": {raw(manifest, `{"schemaVersion":1,"mediaType":"`+manifest+`","fsLayers":[]}`), "schema 1"},
		"no JSON":  {raw(manifest, `{"schemaVersion":2,"mediaType":"`+manifest+`",`), "JSON"},
		"array":    {raw(manifest, `[]`), ""},
		"empty index": {raw(index, `{"schemaVersion":2,"mediaType":"`+index+`","manifests":[]}`),
			"no matching manifest"},
		"huge manifest": {raw(manifest, `{"schemaVersion":2,"mediaType":"`+manifest+`","x":"`+strings.Repeat("x",
			5<<20)+`"}`), ""},
		"config garbage":  {config("garbage"), "JSON"},
		"config of lists": {config(`[1,2]`), "JSON"},
		"config null":     {config(`null`), ""},
		"config diff IDs": {config(`{"os":"linux","rootfs":{"type":"layers","diff_ids":["x"]}}`), "digest"},
		"config windows": {config(`{"os":"windows","rootfs":{"type":"layers","diff_ids":["` +
			digest.FromBytes(layer).String() + `"]}}`), "windows"},
		"config of 10 MB": {config(`{"os":"linux","config":{"Labels":{"x":"` + strings.Repeat("x", 10<<20) +
			`"}},"rootfs":{"type":"layers","diff_ids":["` +
			digest.FromBytes(layer).String() + `"]}}`), "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, c.b)
			im := open(t)
			for _, busy := range []int32{0, 1 << 20} { // decompressed apart from the making of files, and together with it
				im.extracting.Store(busy)
				_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
				if err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
					t.Errorf("error: %v", err)
				}
				t.Log(err)
				wantEmpty(t, im)
				if im.extracting.Load() != busy {
					t.Errorf("%d layers are still being unpacked", im.extracting.Load()-busy)
				}
			}
		})
	}
}

// A small layer that becomes more than the disk holds ends with the disk's error, and everything is given back. What
// is only read through, because it comes to nothing on the disk, is told by its digest.
func TestBombs(t *testing.T) {
	at := t.TempDir()
	must(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	im := openAt(t, filepath.Join(at, "data"))
	t.Cleanup(func() { _ = im.store.Close() })
	size := 128 << 20
	if testing.Short() { // the race detector needs ten times as long
		size = 32 << 20
	}
	big := rootTar(t, "big", strings.Repeat("A", size))
	zeros := append(rootTar(t, "f", "x"), make([]byte, size)...)
	many := make([]string, 0, 40_000)
	for i := range 20_000 {
		many = append(many, fmt.Sprintf("d%d/f%d", i%50, i), "x")
	}
	// Of a layer that unpacks to something else than the configuration says it is known at its end only.
	lying := func(data []byte, pack func(testing.TB, []byte) []byte) *built {
		b := &built{blobs: map[digest.Digest][]byte{}}
		config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
		config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("other")}}
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Layers: []ocispec.Descriptor{b.add(ocispec.MediaTypeImageLayerGzip, pack(t, data))}}
		m.Config = b.addJSON(t, ocispec.MediaTypeImageConfig, config)
		b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
		return b
	}
	for name, c := range map[string]struct {
		b    *built
		text string
	}{
		"gzip":               {lying(big, gzipped), "no space left on device"},
		"zstd":               {lying(big, zstded), "no space left on device"},
		"many files":         {lying(rootTar(t, many...), gzipped), "no space left on device"},
		"behind the archive": {lying(zeros, gzipped), "as the configuration says"},
		"holes":              {lying(rootTar(t, "zeros", string(make([]byte, size))), zstded), "as the configuration says"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := im.Pull(t.Context(), serve(t, c.b).addr+"/x:1", PullOptions{})
			if err == nil || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error: %v", err)
			}
			wantEmpty(t, im)
		})
	}
	// And what fits still works.
	_, err := im.Pull(t.Context(), serve(t, build(t, ocispec.Image{}, rootTar(t, "f", "1"))).addr+"/x:1", PullOptions{})
	must(t, err)
}

// What is in a blob behind the archive, or behind the compressed stream, belongs to its digests, however it is unpacked.
func TestBothWaysOfUnpacking(t *testing.T) {
	archive := append(rootTar(t, "f", "content", "g", string(noise(1<<20))), "behind the end"...)
	for _, busy := range []int32{0, 1 << 20} {
		b := build(t, ocispec.Image{}, rootTar(t, "below", "x"), archive)
		im := open(t)
		im.extracting.Store(busy)
		img, err := im.Pull(t.Context(), serve(t, b).addr+"/x:1", PullOptions{})
		must(t, err)
		if got := fileOf(t, im, img, "f"); got != "content" {
			t.Errorf("busy %d: f is %q", busy, got)
		}
		if got := fileOf(t, im, img, "g"); got != string(noise(1<<20)) {
			t.Errorf("busy %d: g is something else", busy)
		}
	}
}

// What is no image passes through: its bytes come, stay under their digests, and go, and nothing looks into them.
func TestArtifacts(t *testing.T) {
	b := &built{blobs: map[digest.Digest][]byte{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.x.chart", Config: b.add("application/vnd.oci.empty.v1+json", []byte("{}")),
		Layers: []ocispec.Descriptor{b.add("text/plain", []byte("no archive")), b.add("application/x-other", noise(1<<20))}}
	b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
	f := serve(t, b)
	im := open(t)
	ctx := t.Context()
	img, err := im.Pull(ctx, f.addr+"/charts/x:1", PullOptions{})
	must(t, err)
	if img.Artifact != "application/vnd.x.chart" || img.Chain != "" || img.Size < 1<<20 || img.ID != b.target.Digest.String() {
		t.Errorf("%+v", img)
	}
	must(t, im.store.GC(ctx))
	if n, bad, err := im.Check(ctx); n != 1 || len(bad) != 0 || err != nil {
		t.Errorf("%d, %v, %v", n, bad, err)
	}
	addr := startRegistry(t)
	must(t, im.Tag(ctx, f.addr+"/charts/x:1", addr+"/charts/x:1"))
	if _, err := im.Push(ctx, addr+"/charts/x:1", PushOptions{}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	must(t, im.Save(ctx, &archive, []string{addr + "/charts/x:1"}))
	_, err = im.Remove(ctx, img.ID, RemoveOptions{Force: true})
	must(t, err)
	wantEmpty(t, im)
	_, err = im.Load(ctx, &archive, LoadOptions{})
	must(t, err)
	_, err = im.Remove(ctx, img.ID, RemoveOptions{Force: true})
	must(t, err)
	wantEmpty(t, im)
	// A registry of others has it with the same digest.
	if img, err = im.Pull(ctx, addr+"/charts/x:1", PullOptions{}); err != nil || img.ID != b.target.Digest.String() {
		t.Errorf("%v", err)
	}
}

// CVE-2020-15157: addresses in a manifest are not asked, with or without credentials.
func TestAddressesInManifestsAreNotAsked(t *testing.T) {
	other := serve(t, build(t, ocispec.Image{}))
	b := build(t, ocispec.Image{}, rootTar(t, "f", "1"))
	var m ocispec.Manifest
	must(t, json.Unmarshal(b.blobs[b.target.Digest], &m))
	m.Layers[0].URLs = []string{"http://" + other.addr + "/v2/x/blobs/" + m.Layers[0].Digest.String()}
	b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
	f := serve(t, b)
	_, err := open(t).Pull(t.Context(), f.addr+"/x:1", PullOptions{Auth: &Auth{Username: "u", Password: "p"}})
	must(t, err)
	if n := other.requests.Load(); n != 0 {
		t.Errorf("%d requests to the address in the manifest", n)
	}
}

// severalPlatforms is an index of three platforms, with an attestation before them.
func severalPlatforms(t *testing.T) *built {
	b := &built{blobs: map[digest.Digest][]byte{}}
	ix := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range []string{"arm64", "amd64", "s390x"} {
		d := b.manifest(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}, rootTar(t,
			"arch", arch))
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		ix.Manifests = append(ix.Manifests, d)
	}
	d := b.manifest(t, ocispec.Image{}, rootTar(t, "attestation", "x"))
	d.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	ix.Manifests = append([]ocispec.Descriptor{d}, ix.Manifests...)
	b.target = b.addJSON(t, ocispec.MediaTypeImageIndex, ix)
	return b
}

// What an index says of a platform counts, also where the configuration says something else.
func TestPullForAnnotatedPlatform(t *testing.T) {
	b := &built{blobs: map[digest.Digest][]byte{}}
	d := b.manifest(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}}, rootTar(t, "f", "x"))
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"}
	b.target = b.addJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}})
	f, im := serve(t, b), open(t)
	img, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{Platform: "linux/arm/v6"})
	must(t, err)
	if again, err := im.Resolve(t.Context(), f.addr+"/x:1", "linux/arm/v6"); err != nil || again.ID != img.ID {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := open(t).Pull(t.Context(), f.addr+"/x:1", PullOptions{Platform: "linux/arm/v7"}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func TestPullForPlatform(t *testing.T) {
	b := severalPlatforms(t)
	f := serve(t, b)
	im := open(t)
	ctx := t.Context()
	foreign, err := im.Pull(ctx, f.addr+"/x:1", PullOptions{Platform: "linux/s390x"})
	must(t, err)
	if fileOf(t, im, foreign, "arch") != "s390x" || foreign.Architecture != "s390x" ||
		foreign.ID != b.target.Digest.String() {
		t.Errorf("%+v", foreign)
	}
	// It is the only one there, so it is what the name means.
	if img, err := im.Resolve(ctx, f.addr+"/x:1", ""); err != nil || img.Architecture != "s390x" {
		t.Errorf("%v, %v", img, err)
	}
	_, err = im.Pull(ctx, f.addr+"/x:1", PullOptions{})
	must(t, err)
	for platform, arch := range map[string]string{"": "amd64", "linux/s390x": "s390x", "linux/amd64": "amd64"} {
		img, err := im.Resolve(ctx, f.addr+"/x:1", platform)
		if err != nil || fileOf(t, im, img, "arch") != arch {
			t.Errorf("%q: %v", platform, err)
		}
	}
	_, err = im.Pull(ctx, f.addr+"/x:1", PullOptions{Platform: "linux/riscv64"})
	if !errdefs.IsNotFound(err) ||
		err.Error() != "no matching manifest for linux/riscv64 in the manifest list entries" {
		t.Error(err)
	}
	_, err = im.Resolve(ctx, f.addr+"/x:1", "linux/arm64")
	if !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	must(t, im.store.GC(ctx))
	if img, err := im.Resolve(ctx, f.addr+"/x:1", "linux/s390x"); err != nil || fileOf(t, im, img, "arch") != "s390x" {
		t.Errorf("a collection took a platform away: %v", err)
	}
	var out bytes.Buffer
	must(t, im.Save(ctx, &out, []string{f.addr + "/x:1"}))
	other := open(t)
	names, err := other.Load(ctx, &out, LoadOptions{})
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	if img, err := other.Resolve(ctx, f.addr+"/x:1", "linux/s390x"); err != nil || img.ID != foreign.ID {
		t.Errorf("%v", err)
	}
	_, err = im.Remove(ctx, foreign.ID, RemoveOptions{})
	must(t, err)
	wantEmpty(t, im)
}

func TestCredentials(t *testing.T) {
	f := serve(t, build(t, ocispec.Image{}, rootTar(t, "f", "1")))
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
	for name, auth := range map[string]*Auth{"none": nil, "wrong": {Username: "ann", Password: "x"}} {
		_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{Auth: auth})
		if !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "pull access denied for "+f.addr+
			"/x, repository does not exist or may require 'docker login'") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{Auth: &Auth{Username: "ann", Password: "secret"}})
	must(t, err)
	if err := im.registry.Login(t.Context(), f.addr, &Auth{Username: "ann", Password: "secret"}); err != nil {
		t.Error(err)
	}
	if err := im.registry.Login(t.Context(), f.addr, &Auth{Username: "ann",
		Password: "x"}); !errdefs.IsUnauthorized(err) {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	f := serve(t, build(t, ocispec.Image{}, rootTar(t, "f", "1")))
	var scope string
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			u, p, _ := r.BasicAuth()
			if u != "ann" || p != "secret" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			f.mu.Lock()
			scope = r.URL.Query().Get("scope")
			f.mu.Unlock()
			_, _ = io.WriteString(w, `{"token":"abc","expires_in":300}`)
			return true
		}
		if r.Header.Get("Authorization") == "Bearer abc" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+f.addr+`/token",service="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	_, err := open(t).Pull(t.Context(), f.addr+"/a/b:1", PullOptions{Auth: &Auth{Username: "ann", Password: "secret"}})
	must(t, err)
	if scope != "repository:a/b:pull" {
		t.Errorf("scope %q", scope)
	}
	_, err = open(t).Pull(t.Context(), f.addr+"/a/b:1", PullOptions{Auth: &Auth{RegistryToken: "abc"}})
	must(t, err)
}

// noise cannot be compressed.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func TestRegistryFaults(t *testing.T) {
	big := noise(3 << 20)
	b := build(t, ocispec.Image{}, rootTar(t, "big", string(big)), rootTar(t, "f", "1"))
	answer := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(code)
			return true
		}
	}
	t.Run("reset in the middle", func(t *testing.T) {
		f := serve(t, b)
		var once sync.Once
		f.fault = func(w http.ResponseWriter, r *http.Request) (done bool) {
			if !strings.Contains(r.URL.Path, "/blobs/") || r.Header.Get("Range") != "" {
				return false
			}
			data := f.blobs[digest.Digest(filepath.Base(r.URL.Path))]
			if len(data) > 1<<20 {
				once.Do(func() {
					w.Header().Set("Content-Length", fmt.Sprint(len(data)))
					_, _ = w.Write(data[:len(data)/2])
					conn, _, err := w.(http.Hijacker).Hijack()
					if err == nil {
						_ = conn.Close()
					}
					done = true
				})
			}
			return done
		}
		im := open(t)
		img, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
		must(t, err)
		if fileOf(t, im, img, "big") != string(big) {
			t.Error("content differs")
		}
	})
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		check func(error) bool
		text  string
	}{
		"429": {answer(http.StatusTooManyRequests), errdefs.IsResourceExhausted, "limits the rate of requests"},
		"404": {answer(http.StatusNotFound), errdefs.IsNotFound, "not found"},
		"403": {answer(http.StatusForbidden), errdefs.IsNotFound, "pull access denied"},
	} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, b)
			f.fault = c.fault
			im := open(t)
			_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
			if err == nil || !c.check(err) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(),
				"\n") {
				t.Errorf("%v", err)
			}
			wantEmpty(t, im)
		})
	}
	t.Run("503 for a while", func(t *testing.T) {
		f := serve(t, b)
		var seen sync.Map
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if _, again := seen.LoadOrStore(r.Method+r.URL.Path, true); again {
				return false
			}
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		var st statuses
		_, err := open(t).Pull(t.Context(), f.addr+"/x:1", PullOptions{Progress: st.add})
		must(t, err)
		if st.list[0] != "1: Retrying in 0 seconds: registry \""+f.addr+"\" answered 503 Service Unavailable" ||
			st.count("answered 503 Service Unavailable") != 5 {
			t.Errorf("%q", st.list)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		// A port that is taken, and that nobody listens to.
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		must(t, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
		at, err := unix.Getsockname(fd)
		must(t, err)
		addr := fmt.Sprintf("127.0.0.1:%d", at.(*unix.SockaddrInet4).Port)
		_, err = open(t).Pull(t.Context(), addr+"/x:1", PullOptions{})
		if !errdefs.IsUnavailable(err) ||
			err.Error() != fmt.Sprintf("cannot reach registry %q: connection refused: is it running?", addr) {
			t.Error(err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		f := serve(t, b)
		ctx, cancel := context.WithCancel(t.Context())
		f.fault = func(w http.ResponseWriter, r *http.Request) bool {
			data := f.blobs[digest.Digest(filepath.Base(r.URL.Path))]
			if len(data) < 1<<20 {
				return false
			}
			_, _ = w.Write(data[:1<<20])
			w.(http.Flusher).Flush()
			cancel()
			<-r.Context().Done()
			return true
		}
		im := open(t)
		if _, err := im.Pull(ctx, f.addr+"/x:1", PullOptions{}); !isCancel(err) {
			t.Error(err)
		}
		// What it has serves the next pull, or is given up.
		if kept, err := im.store.Kept(t.Context()); err != nil || len(kept) != 1 {
			t.Errorf("%v is kept, %v", kept, err)
		}
		must(t, im.store.DropKept(t.Context()))
		wantEmpty(t, im)
	})
}

func TestTwoPullsShareTheWork(t *testing.T) {
	layers := [][]byte{}
	for i := range 6 {
		layers = append(layers, rootTar(t, fmt.Sprintf("f%d", i), strings.Repeat(fmt.Sprint(i), 200_000)))
	}
	f := serve(t, build(t, ocispec.Image{}, layers...))
	var blobs atomic.Int64
	f.fault = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		return false
	}
	im := open(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, err := im.Pull(t.Context(), fmt.Sprintf("%s/x:%d", f.addr, i%3), PullOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// The configuration is small and may be asked for by each.
	if n := blobs.Load(); n > 6+8 {
		t.Errorf("%d blobs were fetched", n)
	}
	if n, _ := im.Count(t.Context()); n != 1 {
		t.Errorf("%d images", n)
	}
	img, err := im.Resolve(t.Context(), f.addr+"/x:2", "")
	must(t, err)
	if len(img.RepoTags) != 3 {
		t.Error(img.RepoTags)
	}
}

func TestDiskFull(t *testing.T) {
	for _, size := range []string{"1m", "3m"} {
		at := t.TempDir()
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size="+size))
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
		im := openAt(t, filepath.Join(at, "data"))
		t.Cleanup(func() { _ = im.store.Close() })
		big := noise(2 << 20)
		b := build(t, ocispec.Image{}, rootTar(t, "f", "1"), rootTar(t, "big", string(big)), rootTar(t, "big2",
			string(big)))
		f := serve(t, b)
		_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
		if err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("pull: %v", err)
		}
		wantEmpty(t, im)
		_, err = im.Load(t.Context(), bytes.NewReader(b.layout(t, "docker.io/library/x:1")), LoadOptions{})
		if err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("load: %v", err)
		}
		wantEmpty(t, im)
		_, err = im.Import(t.Context(), "x", bytes.NewReader(rootTar(t, "a", string(big), "b", string(big))), nil, "", "")
		if err == nil || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("import: %v", err)
		}
		wantEmpty(t, im)
		// What fits still works.
		_, err = im.Import(t.Context(), "x", bytes.NewReader(rootTar(t, "a", "small")), nil, "", "")
		must(t, err)
		must(t, im.store.Close())
	}
}
