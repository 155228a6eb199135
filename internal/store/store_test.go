package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func open(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "data"))
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}, body}
}

func dir(name string, mode int64) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, ""}
}

func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, ""}
}

func hardlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}, ""}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1_500_000_000, 0)
		}
		must(t, w.WriteHeader(&e.Header))
		_, err := w.Write([]byte(e.body))
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

// stack commits the layers on each other and returns the chain.
func stack(ctx context.Context, s *Store, layers ...[]byte) (digest.Digest, error) {
	var parent digest.Digest
	for i, l := range layers {
		st, err := s.Stage(ctx)
		if err != nil {
			return "", err
		}
		if err := st.Apply(ctx, bytes.NewReader(l), i == 0); err != nil {
			st.Abort(ctx)
			return "", err
		}
		chain := digest.FromString(parent.String() + digest.FromBytes(l).String())
		if err := st.Commit(ctx, chain, parent); err != nil {
			return "", err
		}
		parent = chain
	}
	return parent, nil
}

// mount shows a chain as a container would see it.
func mount(t *testing.T, s *Store, chain digest.Digest) string {
	t.Helper()
	lowers, err := s.Lowers(t.Context(), chain)
	must(t, err)
	at := t.TempDir()
	lowers = append(lowers, filepath.Join(s.Root(), "snapshots/empty"))
	must(t, unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lowers, ":")))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	return at
}

func TestSecondOpenIsRefused(t *testing.T) {
	s := open(t)
	_, err := Open(t.Context(), s.Root())
	if !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "in use by another daemon") ||
		!strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second open: %v", err)
	}
	must(t, s.Close())
	again, err := Open(t.Context(), s.Root())
	must(t, err)
	must(t, again.Close())
}

// CVE-2021-41091: set-user-ID programs of images must not be reachable for everybody.
func TestNothingIsReachableForOthers(t *testing.T) {
	s := open(t)
	for _, name := range []string{"content", "snapshots", "layers", "meta.db", "lock", "snapshots/metadata.db"} {
		fi, err := os.Stat(filepath.Join(s.Root(), name))
		if name == "snapshots/metadata.db" && errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(t, err)
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, fi.Mode())
		}
	}
}

func TestLayersOfContainers(t *testing.T) {
	s := open(t)
	must(t, s.NewLayer(t.Context(), "c1", ""))
	upper, work := s.Layer("c1")
	if !strings.HasSuffix(upper, "/layers/c1/upper") || !strings.HasSuffix(work, "/layers/c1/work") {
		t.Errorf("Layer gives %q, %q", upper, work)
	}
	must(t, os.WriteFile(filepath.Join(upper, "x"), make([]byte, 8192), 0o600))
	must(t, os.Link(filepath.Join(upper, "x"), filepath.Join(upper, "y")))
	if size, err := s.LayerSize(t.Context(), "c1", ""); err != nil || size != 8192 {
		t.Errorf("size %d, %v", size, err)
	}
	if err := s.NewLayer(t.Context(), "c1", ""); !errdefs.IsAlreadyExists(err) {
		t.Errorf("made twice: %v", err)
	}
	for _, id := range []string{"", ".", "..", "a/b", "../x", ".hidden", strings.Repeat("a", 200)} {
		if err := s.NewLayer(t.Context(), id, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("NewLayer(%q): %v", id, err)
		}
		if err := s.RemoveLayer(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("RemoveLayer(%q): %v", id, err)
		}
	}
	must(t, s.NewLayer(t.Context(), "c2", ""))
	must(t, os.MkdirAll(filepath.Join(s.Root(), "layers", removedPrefix+"old", "upper"), 0o700))
	must(t, s.SweepLayers(func(id string) bool { return id == "c2" }))
	must(t, s.RemoveLayer("c2"))
	must(t, s.RemoveLayer("c2"))
	s.removals.Wait()
	if left, err := os.ReadDir(filepath.Join(s.Root(), "layers")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestLayerTakesTheModeOfTheImagesRoot(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	root := dir("./", 0o1751)
	root.Uid, root.Gid = 12, 34
	chain, err := stack(ctx, s, archive(t, root, file("a", "a")), archive(t, file("b", "b")))
	must(t, err)
	must(t, s.NewLayer(ctx, "c", chain))
	upper, _ := s.Layer("c")
	var st syscall.Stat_t
	must(t, syscall.Stat(upper, &st))
	if st.Mode&0o7777 != 0o1751 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("root of the container: %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
}

func TestLowers(t *testing.T) {
	s := open(t)
	if dirs, err := s.Lowers(t.Context(), ""); err != nil || len(dirs) != 1 {
		t.Errorf("empty chain: %v, %v", dirs, err)
	}
	if _, err := s.Lowers(t.Context(), digest.FromString("nothing")); !errdefs.IsNotFound(err) {
		t.Errorf("unknown chain: %v", err)
	}
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	chain, err := stack(ctx, s, archive(t, file("one", "1")), archive(t, file("two", "2")), archive(t, file("three",
		"3")))
	must(t, err)
	dirs, err := s.Lowers(t.Context(), chain)
	must(t, err)
	for i, name := range []string{"three", "two", "one"} {
		if _, err := os.Stat(filepath.Join(dirs[i], name)); err != nil {
			t.Errorf("layer %d from the top: %v", i, err)
		}
	}
	// Pinned, it outlives the lease, a collection and a restart; unpinned it goes.
	must(t, s.Pin(ctx, chain))
	release()
	must(t, s.GC(t.Context()))
	must(t, s.Close())
	s, err = Open(t.Context(), s.Root())
	must(t, err)
	defer s.Close()
	must(t, s.GC(t.Context()))
	if ok, err := s.HasChain(t.Context(), chain); err != nil || !ok {
		t.Fatalf("a pinned chain is gone: %v", err)
	}
	if p, err := s.Pinned(t.Context()); err != nil || len(p) != 1 || p[0] != chain {
		t.Errorf("pinned: %v, %v", p, err)
	}
	must(t, s.Unpin(t.Context(), chain))
	must(t, s.GC(t.Context()))
	wantEmpty(t, s)
}

// wantEmpty checks that neither blob nor layer is left.
func wantEmpty(t *testing.T, s *Store) {
	t.Helper()
	for _, d := range []string{"snapshots/snapshots", "content/blobs/sha256", "content/ingest"} {
		left, err := os.ReadDir(filepath.Join(s.Root(), d))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range left {
			t.Errorf("left over: %s/%s", d, e.Name())
		}
	}
}

func TestLeasesOfADeadDaemonAreDropped(t *testing.T) {
	s := open(t)
	ctx, _, err := s.Lease(t.Context())
	must(t, err)
	_, err = stack(ctx, s, archive(t, file("a", "a")))
	must(t, err)
	st, err := s.Stage(ctx)
	must(t, err)
	must(t, st.Apply(ctx, bytes.NewReader(archive(t, file("b", "b"))), true))
	must(t, content.WriteBlob(ctx, s.Content(), "blob", strings.NewReader("blob"),
		ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 4}))
	must(t, s.Close())
	s, err = Open(t.Context(), s.Root())
	must(t, err)
	s.removals.Wait()
	wantEmpty(t, s)
	must(t, s.Close())
}

func TestNamesKeepBlobs(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	desc := ocispec.Descriptor{Digest: digest.FromString("blob"), Size: 4, MediaType: "text/plain"}
	must(t, content.WriteBlob(ctx, s.Content(), "blob", strings.NewReader("blob"), desc))
	must(t, s.Update(ctx, func(ctx context.Context) error {
		_, err := s.Names().Create(ctx, images.Image{Name: "docker.io/library/x:latest", Target: desc})
		return err
	}))
	release()
	must(t, s.GC(ctx))
	if _, err := s.Content().Info(ctx, desc.Digest); err != nil {
		t.Error(err)
	}
	must(t, s.Names().Delete(ctx, "docker.io/library/x:latest"))
	must(t, s.GC(ctx))
	wantEmpty(t, s)
}

func TestOneFetchesWhileOthersWait(t *testing.T) {
	s := open(t)
	d := "x"
	unlock, err := s.Lock(t.Context(), d)
	must(t, err)
	got := make(chan func())
	go func() {
		u, err := s.Lock(context.Background(), d)
		if err != nil {
			t.Error(err)
		}
		got <- u
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lock(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	unlock()
	(<-got)()
}

func BenchmarkOpen(b *testing.B) {
	root := b.TempDir()
	for b.Loop() {
		s, err := Open(b.Context(), root)
		must(b, err)
		must(b, s.Close())
	}
}

func BenchmarkLowers(b *testing.B) {
	s := open(b)
	ctx, release, err := s.Lease(b.Context())
	must(b, err)
	defer release()
	chain, err := stack(ctx, s, archive(b, file("one", "1")), archive(b, file("two", "2")))
	must(b, err)
	for b.Loop() {
		_, err := s.Lowers(ctx, chain)
		must(b, err)
	}
}

// What the machine had not written when it went down must not be taken for good.
func TestLayersOfAPowerCutAreDropped(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	safe, err := stack(ctx, s, archive(t, file("safe", "1")))
	must(t, err)
	must(t, s.Pin(ctx, safe))
	s.Settle()
	s.removals.Wait()
	if _, err := os.Stat(filepath.Join(s.Root(), unsyncedFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note stays: %v", err)
	}
	top, err := stack(ctx, s, archive(t, file("safe", "1")), archive(t, file("lost", "2")), archive(t, file("above", "3")))
	must(t, err)
	must(t, s.Pin(ctx, top))
	release()
	note := filepath.Join(s.Root(), unsyncedFile)
	data, err := os.ReadFile(note)
	must(t, err)
	must(t, s.Close())

	// After the death of the process alone, everything is there.
	s, err = Open(t.Context(), s.Root())
	must(t, err)
	if ok, err := s.HasChain(t.Context(), top); !ok || s.Lost() {
		t.Errorf("lost without need: %v", err)
	}
	must(t, s.Close())
	if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note stays: %v", err)
	}
	// Of the note of another boot only the second line is kept, of the layer in the middle.
	lines := strings.Split(string(data), "\n")
	must(t, os.WriteFile(note, []byte("another-boot\n"+lines[len(lines)-3]+"\nsha256:cu"), 0o600))
	s, err = Open(t.Context(), s.Root())
	must(t, err)
	defer s.Close()
	if ok, err := s.HasChain(t.Context(), top); ok || !s.Lost() {
		t.Errorf("taken for good: %v", err)
	}
	if ok, err := s.HasChain(t.Context(), safe); !ok {
		t.Errorf("a layer below is gone: %v", err)
	}
}
