package image

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// indexOf puts manifests or indexes into an index, again and again.
func (b *built) indexOf(t testing.TB, times int, of ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	ix := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for range times {
		ix.Manifests = append(ix.Manifests, of...)
	}
	return b.addJSON(t, ocispec.MediaTypeImageIndex, ix)
}

// An index that lists an index sixty times, which lists one sixty times, and so on, leads to the one image by more ways than
// anybody could go, and every one of these is gone once.
func TestIndexesThatListEachOther(t *testing.T) {
	b := build(t, ocispec.Image{}, rootTar(t, "f", "1"))
	for range maxDepth {
		b.target = b.indexOf(t, 60, b.target)
	}
	use := func(im *Images, ref string) {
		t.Helper()
		parts, err := im.Parts(t.Context(), ref)
		if err != nil || len(parts) != 60 {
			t.Errorf("%d parts, %v", len(parts), err)
		}
		must(t, im.Save(t.Context(), io.Discard, []string{ref}))
		if _, bad, err := im.Check(t.Context()); err != nil || len(bad) != 0 {
			t.Errorf("check: %v, %v", bad, err)
		}
		_, err = im.Attestations(t.Context(), ref, "", nil, false)
		must(t, err)
		if img, err := im.Resolve(t.Context(), ref, ""); err != nil || fileOf(t, im, img, "f") != "1" {
			t.Errorf("%v", err)
		}
		_, err = im.Remove(t.Context(), ref, RemoveOptions{Force: true})
		must(t, err)
		wantEmpty(t, im)
	}
	f := serve(t, b)
	im := open(t)
	_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
	must(t, err)
	use(im, f.addr+"/x:1")
	_, err = im.Load(t.Context(), bytes.NewReader(b.layout(t, "docker.io/library/x:1")), LoadOptions{})
	must(t, err)
	use(im, "x:1")

	// Fifty deep is too deep.
	for range 50 {
		b.target = b.indexOf(t, 1, b.target)
	}
	_, err = im.Pull(t.Context(), serve(t, b).addr+"/x:1", PullOptions{})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "too deep") {
		t.Errorf("pull: %v", err)
	}
	if _, err = im.Load(t.Context(), bytes.NewReader(b.layout(t, "docker.io/library/x:1")), LoadOptions{}); err == nil {
		t.Error("loaded")
	}
	wantEmpty(t, im)
}

// A registry that breaks off and sends the rest of something else is found out by the digest, and nothing of it stays.
func TestAnotherContentAfterABreak(t *testing.T) {
	b := build(t, ocispec.Image{}, rootTar(t, "big", string(noise(3<<20))))
	f := serve(t, b)
	f.fault = func(w http.ResponseWriter, r *http.Request) bool {
		data := f.blobs[digest.Digest(filepath.Base(r.URL.Path))]
		if len(data) < 1<<20 {
			return false
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, time.Now().UnixNano()))
		if r.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:len(data)/2])
			panic(http.ErrAbortHandler)
		}
		other := slices.Clone(data)
		for i := range other {
			other[i] ^= 0x55
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(other))
		return true
	}
	im := open(t)
	if _, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{}); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	wantEmpty(t, im)
	f.fault = nil
	_, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
	must(t, err)
}

// Compressed streams that ask for more than they give, go on behind their end, or consist of nothing.
func TestStrangeStreams(t *testing.T) {
	archive := rootTar(t, "f", "1")
	window := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff}, 1, 0, 0) // a window of 3.75 TiB
	skip := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, 1<<31)
	for name, c := range map[string]struct {
		mediaType   string
		data, plain []byte
		works       bool
	}{
		"a window of terabytes":            {ocispec.MediaTypeImageLayerZstd, window, nil, false},
		"a skippable frame that ends soon": {ocispec.MediaTypeImageLayerZstd, append(skip, 1, 2, 3), nil, false},
		"an empty frame and the archive":   {ocispec.MediaTypeImageLayerZstd, append(zstded(t, nil), zstded(t, archive)...), archive, true},
		"members of nothing":               {ocispec.MediaTypeImageLayerGzip, append(bytes.Repeat(gzipped(t, nil), 20_000), gzipped(t, archive)...), archive, true},
		"garbage behind the end":           {ocispec.MediaTypeImageLayerGzip, append(gzipped(t, archive), "garbage"...), archive, false},
		"garbage behind the end of zstd":   {ocispec.MediaTypeImageLayerZstd, append(zstded(t, archive), "garbage"...), archive, false},
		"gzip in gzip":                     {ocispec.MediaTypeImageLayerGzip, gzipped(t, gzipped(t, archive)), gzipped(t, archive), false},
		"nothing":                          {ocispec.MediaTypeImageLayerGzip, gzipped(t, nil), nil, true},
		"not even a stream":                {ocispec.MediaTypeImageLayerGzip, []byte{}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := &built{blobs: map[digest.Digest][]byte{}}
			config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
			config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(c.plain)}}
			m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
				Layers: []ocispec.Descriptor{b.add(c.mediaType, c.data)}}
			m.Config = b.addJSON(t, ocispec.MediaTypeImageConfig, config)
			b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
			f := serve(t, b)
			for _, busy := range []int32{0, 1 << 20} {
				im := open(t)
				im.extracting.Store(busy)
				img, err := im.Pull(t.Context(), f.addr+"/x:1", PullOptions{})
				if (err == nil) != c.works || err != nil && strings.Contains(err.Error(), "\n") {
					t.Errorf("busy %d: %v", busy, err)
				}
				if err == nil && len(c.plain) > 0 && fileOf(t, im, img, "f") != "1" {
					t.Error("f is something else")
				}
				if err != nil {
					wantEmpty(t, im)
				}
			}
		})
	}
}

// Archives of images whose members are not what they are taken for.
func TestStrangeArchives(t *testing.T) {
	type member struct {
		tar.Header
		text string
	}
	pack := func(members ...member) []byte {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, m := range members {
			m.Size = int64(len(m.text))
			must(t, w.WriteHeader(&m.Header))
			_, err := io.WriteString(w, m.text)
			must(t, err)
		}
		must(t, w.Close())
		return buf.Bytes()
	}
	file := func(name, text string) member {
		return member{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, text}
	}
	link := func(kind byte, name, to string) member {
		return member{tar.Header{Typeflag: kind, Name: name, Linkname: to}, ""}
	}
	layer := string(rootTar(t, "f", "1"))
	config := `{"os":"linux","rootfs":{"type":"layers","diff_ids":["` + digest.FromString(layer).String() + `"]}}`
	list := func(layer string) member {
		return file("manifest.json", `[{"Config":"c","RepoTags":["x:1"],"Layers":["`+layer+`"]}]`)
	}
	if _, err := open(t).Load(t.Context(), bytes.NewReader(pack(file("c", config), file("l", layer), list("l"))), LoadOptions{}); err != nil {
		t.Fatal(err) // as it should be
	}
	for name, data := range map[string][]byte{
		"manifest is a link":             pack(link(tar.TypeSymlink, "manifest.json", "/etc/passwd")),
		"manifest is a device":           pack(member{tar.Header{Typeflag: tar.TypeChar, Name: "manifest.json", Devmajor: 1, Devminor: 5}, ""}),
		"configuration is a link":        pack(link(tar.TypeSymlink, "c", "../../../../etc/passwd"), file("l", layer), list("l")),
		"layer is a link out":            pack(file("c", config), link(tar.TypeSymlink, "l", "/etc/passwd"), list("l")),
		"layer is a link to itself":      pack(file("c", config), link(tar.TypeSymlink, "l", "l"), list("l")),
		"layers are links to each other": pack(file("c", config), link(tar.TypeSymlink, "l", "m"), link(tar.TypeSymlink, "m", "l"), list("l")),
		"layer is a hard link out":       pack(file("c", config), link(tar.TypeLink, "l", "/etc/passwd"), list("l")),
		"layer is a pipe":                pack(file("c", config), member{tar.Header{Typeflag: tar.TypeFifo, Name: "l"}, ""}, list("l")),
		"configuration of 64 MB":         pack(file("c", strings.Repeat(" ", 64<<20)+config), file("l", layer), list("l")),
		"configuration is the layer":     pack(file("c", layer), list("c")),
		"layer is the configuration":     pack(file("c", config), list("c")),
		"layer is the manifest":          pack(file("c", config), list("manifest.json")),
		"layer is another":               pack(file("c", config), file("l", string(rootTar(t, "f", "2"))), list("l")),
		"steering name":                  pack(file("c", config), file("l", layer), file("manifest.json", `[{"Config":"c","RepoTags":["x\u001b[2J:1"],"Layers":["l"]}]`)),
		"50,000 layers of gzip": pack(file("c", config), file("l", string(gzipped(t, []byte(layer)))), file("manifest.json",
			`[{"Config":"c","RepoTags":["x:1"],"Layers":["l"`+strings.Repeat(`,"l"`, 50_000)+`]}]`)),
		"blob under another's digest": pack(file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("blobs/sha256/"+digest.FromString("x").Encoded(), "y"),
			file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"`+
				digest.FromString("x").String()+`"}]}`)),
		"index of itself": pack(file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`),
			file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","size":1,"digest":"sha256:`+strings.Repeat("0", 64)+`"}]}`)),
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && len(data) > 60<<20 {
				t.Skip("more than 60 MiB are unpacked, which takes long under the race detector: the whole form has it")
			}
			im := open(t)
			names, err := im.Load(t.Context(), bytes.NewReader(data), LoadOptions{})
			if !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") || strings.ContainsRune(err.Error(), 0x1b) {
				t.Errorf("%v, %v", names, err)
			}
			t.Log(err)
			wantEmpty(t, im)
		})
	}
}

// An archive of more files than anybody's image has is given up, before it has filled the store with them.
func TestArchiveOfTooManyFiles(t *testing.T) {
	a := &archived{members: maxMembers}
	if _, err := a.Writer(t.Context()); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// No program of the host's is run on what is in an archive.
func TestNoProgramDecompresses(t *testing.T) {
	if os.Getenv("BERTH_TEST_LOAD") == "" { // in a process of its own, as the reader of archives looks for programs once
		dir := t.TempDir()
		for _, name := range []string{"igzip", "unpigz"} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho >"+dir+"/ran\nexec cat\n"), 0o755))
		}
		self, err := os.Executable()
		must(t, err)
		cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestNoProgramDecompresses$")
		cmd.Env = append(os.Environ(), "BERTH_TEST_LOAD=1", "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "ran")); !os.IsNotExist(err) {
			t.Errorf("it ran: %v", err)
		}
		return
	}
	layer := rootTar(t, "f", "1")
	_, err := open(t).Load(t.Context(), bytes.NewReader(rootTar(t, "l", string(gzipped(t, layer)), "c",
		`{"os":"linux","rootfs":{"type":"layers","diff_ids":["`+digest.FromBytes(layer).String()+`"]}}`, "manifest.json",
		`[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]`)), LoadOptions{})
	must(t, err)
}

// CVE-2021-20291: a layer that cannot be unpacked stops those who want it, and nobody else, at the same time or later.
func TestABadLayerStopsNobodyElse(t *testing.T) {
	shared, bad := rootTar(t, "shared", string(noise(300<<10))), rootTar(t, "../evil", "x")
	wrong := build(t, ocispec.Image{}, shared, bad)
	right := build(t, ocispec.Image{}, shared, rootTar(t, "f", "1"))
	f, g := serve(t, wrong), serve(t, right)
	im := open(t)
	var pulls sync.WaitGroup
	for i := range 8 {
		pulls.Go(func() {
			from, want := f.addr, false
			if i%2 == 0 {
				from, want = g.addr, true
			}
			if _, err := im.Pull(t.Context(), fmt.Sprintf("%s/x:%d", from, i), PullOptions{}); (err == nil) != want {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	pulls.Wait()
	img, err := im.Resolve(t.Context(), g.addr+"/x:0", "")
	must(t, err)
	if fileOf(t, im, img, "f") != "1" || len(img.RepoTags) != 4 {
		t.Errorf("%v", img.RepoTags)
	}
	_, err = im.Remove(t.Context(), img.ID, RemoveOptions{Force: true})
	must(t, err)
	wantEmpty(t, im)
}

// CVE-2024-36620: a history that does not fit the layers is shown as far as it goes.
func TestHistoriesThatDoNotFit(t *testing.T) {
	layer := rootTar(t, "f", "1")
	for name, history := range map[string]string{"none": "", "null": `,"history":null`, "of nothing": `,"history":[{}]`, "with null": `,"history":[null,null]`,
		"too long":  `,"history":[{"created_by":"a"},{"created_by":"b"},{"created_by":"c"}]`,
		"too short": `,"history":[{"created_by":"a","empty_layer":true}]`, "of no layers": `,"history":[]`,
		"long": `,"history":[{"created_by":"a"}` + strings.Repeat(`,{"empty_layer":true}`, 50_000) + `]`} {
		b := &built{blobs: map[digest.Digest][]byte{}}
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Layers: []ocispec.Descriptor{b.add(ocispec.MediaTypeImageLayer, layer)}}
		m.Config = b.add(ocispec.MediaTypeImageConfig, []byte(`{"os":"linux","created":null,"rootfs":{"type":"layers","diff_ids":["`+
			digest.FromBytes(layer).String()+`"]}`+history+`}`))
		b.target = b.addJSON(t, ocispec.MediaTypeImageManifest, m)
		im := open(t)
		_, err := im.Pull(t.Context(), serve(t, b).addr+"/x:1", PullOptions{})
		must(t, err)
		for _, i := range im.targets() {
			if _, err := im.History(t.Context(), i.Digest.String(), ""); err != nil {
				t.Errorf("history %s: %v", name, err)
			}
			if _, err := im.Explore(t.Context(), i.Digest.String(), ExploreOptions{}); err != nil {
				t.Errorf("explore %s: %v", name, err)
			}
		}
	}
}
