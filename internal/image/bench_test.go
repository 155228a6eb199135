package image

import (
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkPull measures a pull of the gzip layers in the directory BERTH_BENCH_LAYERS (files *.tar and *.tar.gz of
// the same names) against decompressing and unpacking them by other programs, in parallel, with nothing hashed,
// written twice or recorded.
func BenchmarkPull(b *testing.B) {
	dir := os.Getenv("BERTH_BENCH_LAYERS")
	if dir == "" {
		b.Skip("BERTH_BENCH_LAYERS is not set")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.tar.gz"))
	must(b, err)
	im := &built{blobs: map[digest.Digest][]byte{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS.Type = "layers"
	for _, f := range files {
		data, err := os.ReadFile(f)
		must(b, err)
		m.Layers = append(m.Layers, im.add(ocispec.MediaTypeImageLayerGzip, data))
		plain, err := os.Open(f[:len(f)-3])
		must(b, err)
		h := sha256.New()
		_, err = io.Copy(h, plain)
		must(b, err)
		_ = plain.Close()
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.NewDigest(digest.SHA256, h))
	}
	m.Config = im.addJSON(b, ocispec.MediaTypeImageConfig, config)
	im.target = im.addJSON(b, ocispec.MediaTypeImageManifest, m)
	ref := startRegistry(b) + "/bench:1"
	im.push(b, ref)
	b.Run("berth", func(b *testing.B) {
		defer cpuTime(b, syscall.RUSAGE_SELF)()
		for b.Loop() {
			b.StopTimer()
			_ = exec.Command("sync").Run()
			root := filepath.Join(b.TempDir(), "data")
			images := openAt(b, root)
			b.StartTimer()
			_, err := images.Pull(b.Context(), ref, PullOptions{})
			must(b, err)
			b.StopTimer()
			must(b, images.store.Close())
			must(b, os.RemoveAll(root))
			b.StartTimer()
		}
	})
	b.Run("floor", func(b *testing.B) {
		defer cpuTime(b, syscall.RUSAGE_CHILDREN)()
		for b.Loop() {
			b.StopTimer()
			_ = exec.Command("sync").Run()
			root := b.TempDir()
			b.StartTimer()
			out, err := exec.Command("sh", "-c",
				`for f in "$1"/*.tar.gz; do d="$2/$(basename $f)"; mkdir "$d"; (igzip -dc "$f" | tar -x -C "$d") & done; wait`,
				"-", dir, root).CombinedOutput()
			if err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			b.StopTimer()
			must(b, os.RemoveAll(root))
			b.StartTimer()
		}
	})
}

// cpuTime reports the processor time between its call and that of its result, which a busy machine disturbs less.
func cpuTime(b *testing.B, who int) func() {
	total := func() (user, system float64) {
		var r syscall.Rusage
		must(b, syscall.Getrusage(who, &r))
		return float64(r.Utime.Nano()) / 1e9, float64(r.Stime.Nano()) / 1e9
	}
	u, s := total()
	return func() {
		u2, s2 := total()
		b.ReportMetric((u2-u)/float64(b.N), "user-s/op")
		b.ReportMetric((s2-s)/float64(b.N), "sys-s/op")
	}
}
