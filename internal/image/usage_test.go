package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-engine/berth/internal/registry"
	"github.com/berth-engine/berth/internal/store"
)

// TestSharedSizeOnBtrfs: on btrfs an image has a tree of its layers besides, from which containers are made. It is nobody else's, and
// what images share is the same with and without it.
func TestSharedSizeOnBtrfs(t *testing.T) {
	tool(t, "mkfs.btrfs")
	at, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, 256<<20))
	if out, err := exec.Command("mkfs.btrfs", "-q", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", disk, at).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			err := unix.Unmount(at, 0)
			if err == nil {
				return
			}
			if err != unix.EBUSY || time.Now().After(end) {
				t.Error(err)
				return
			}
			runtime.GC() // containerd's content store leaves a file to it
		}
	})
	s, err := store.Open(t.Context(), filepath.Join(at, "data"))
	must(t, err)
	t.Cleanup(func() {
		s.Settle()
		must(t, s.Close())
	})
	must(t, s.Use(store.Btrfs))
	im, err := Open(s, Options{Registry: registry.Options{HostDirs: []string{}}})
	must(t, err)
	ctx := t.Context()
	base := rootTar(t, "base", string(noise(1<<20)))
	for name, layer := range map[string][]byte{"one": rootTar(t, "one", string(noise(100<<10))), "two": rootTar(t, "two", string(noise(200<<10)))} {
		b := build(t, ocispec.Image{}, base, layer)
		_, err := im.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/"+name+":1")), LoadOptions{})
		must(t, err)
	}
	look := func() (shared int64) {
		t.Helper()
		list, err := im.List(ctx)
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		for _, i := range list {
			// The layer of 1 MiB that cannot be compressed, as a blob and unpacked.
			if i.SharedSize < 2<<20 || i.SharedSize > 2<<20+100<<10 || i.SharedSize >= i.Size || i.SharedSize != list[0].SharedSize {
				t.Errorf("%v: %d bytes of %d are shared", i.RepoTags, i.SharedSize, i.Size)
			}
		}
		all, err := im.UsedBy(ctx, func(string) bool { return true })
		must(t, err)
		whole, err := im.Usage(ctx)
		must(t, err)
		if all != whole {
			t.Errorf("the images have %d bytes, and the store %d", all, whole)
		}
		return list[0].SharedSize
	}
	before := look()
	for _, name := range []string{"one", "two"} {
		img, err := im.Resolve(ctx, name+":1", "")
		must(t, err)
		must(t, s.NewLayer(ctx, name, img.Chain))
	}
	if after := look(); after != before {
		t.Errorf("%d bytes were shared, and with trees %d", before, after)
	}
	must(t, s.RemoveLayer("one"))
	must(t, s.RemoveLayer("two"))
}
