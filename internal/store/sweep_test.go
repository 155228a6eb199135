package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// A process that is killed between a commit of the database and its effect on the disk leaves something on the disk.
// The next one removes it, and leaves what has an owner.
func TestOpenSweepsAfterAKill(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data")
	s, err := Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, release, err := s.Lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	chain := digest.FromString("layer")
	st, err := s.Stage(ctx)
	if err == nil {
		err = st.Commit(ctx, chain, "")
	}
	if err == nil {
		err = s.Pin(ctx, chain)
	}
	kept := digest.FromString("kept")
	if err == nil {
		err = content.WriteBlob(ctx, s.Content(), "kept", strings.NewReader("kept"),
			ocispec.Descriptor{Digest: kept, Size: 4}, content.WithLabels(map[string]string{rootLabel: "test"}))
	}
	release()
	// Two layers, one on the other, that the snapshotter has and the database does not.
	if err == nil {
		_, err = s.backend.Prepare(ctx, "berth/1/stray", "")
	}
	if err == nil {
		err = s.backend.Commit(ctx, "berth/2/stray", "berth/1/stray")
	}
	if err == nil {
		_, err = s.backend.Prepare(ctx, "berth/3/stray", "berth/2/stray")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	layers := filepath.Join(root, "snapshots/snapshots")
	blob := filepath.Join(root, "content/blobs/sha256", digest.FromString("stray").Encoded())
	ingest := filepath.Join(root, "content/ingest/4711")
	if err := os.WriteFile(blob, []byte("stray"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{ingest, filepath.Join(layers, "4711/fs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}

	if s, err = Open(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	s.removals.Wait()
	for _, path := range []string{blob, ingest} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	left, err := os.ReadDir(layers)
	if err != nil || len(left) != 1 {
		t.Errorf("directories of layers: %v, %v", left, err)
	}
	if _, err := s.Content().Info(s.Context(t.Context()), kept); err != nil {
		t.Error(err)
	}
	lowers, err := s.Lowers(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(lowers[0]); err != nil {
		t.Error(err)
	}
}

// A process that is killed in the middle of the commit of a layer, under a lease that is kept, leaves a name in the
// database that the snapshotter does not know any more. The next one removes it.
func TestOpenSweepsHalfACommit(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data")
	s, err := Open(t.Context(), root)
	must(t, err)
	ctx, end, err := s.Continue(t.Context(), "a pull", "a pull")
	must(t, err)
	st, err := s.Stage(ctx)
	must(t, err)
	var key string
	must(t, s.records("snapshots", SnapshotterName, func(name string, b *bolt.Bucket) {
		if name == st.Name() {
			key = string(b.Get([]byte("name")))
		}
	}))
	must(t, s.backend.Commit(s.Context(ctx), "berth/2/half", key))
	must(t, st.a.close())
	end(true)
	must(t, s.Close())
	s, err = Open(t.Context(), root)
	must(t, err)
	defer func() { _ = s.Close() }()
	if names, err := s.chains(); err != nil || len(names) > 0 {
		t.Errorf("left are %v, %v", names, err)
	}
	if _, found := checked(t, s); len(found) > 0 {
		t.Errorf("found: %q", found)
	}
}
