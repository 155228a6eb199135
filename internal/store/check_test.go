package store

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// checked runs a full check and returns what it says, one line per finding.
func checked(t *testing.T, s *Store) (*CheckReport, []string) {
	t.Helper()
	r, err := s.Check(t.Context(), true)
	must(t, err)
	if r.Busy {
		t.Error("the store is busy")
	}
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.Kind+" "+f.Object+" "+f.Problem)
	}
	slices.Sort(out)
	return r, out
}

// write stores a blob that the collector leaves alone.
func write(t *testing.T, s *Store, text string) digest.Digest {
	t.Helper()
	d := digest.FromString(text)
	must(t, content.WriteBlob(s.Context(t.Context()), s.Content(), "test-"+text, strings.NewReader(text),
		ocispec.Descriptor{Digest: d, Size: int64(len(text))}, content.WithLabels(map[string]string{rootLabel: "test"})))
	return d
}

// A damaged store: each fault is found once, nothing else is, and what the store can mend by itself it mends.
func TestCheck(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	layer := archive(t, dir("d", 0o755), file("d/f", "text"))
	bottom, err := stack(ctx, s, layer)
	must(t, err)
	top, err := stack(ctx, s, layer, archive(t, file("g", "more")))
	must(t, err)
	must(t, s.Pin(ctx, top))
	other, err := stack(ctx, s, archive(t, file("other", "")))
	must(t, err)
	must(t, s.Pin(ctx, other))
	if r, err := s.Check(t.Context(), false); err != nil || !r.Busy {
		t.Errorf("work under way is not seen: %+v, %v", r, err)
	}
	if _, alone, err := s.RemoveOrphans(t.Context()); alone || err != nil {
		t.Errorf("orphans are removed while somebody works: %v", err)
	}
	release()
	whole, changed, short, gone := write(t, s, "whole"), write(t, s, "changed"), write(t, s, "short"), write(t, s, "gone")
	if r, found := checked(t, s); len(found) > 0 || r.Blobs != 4 || r.Layers != 3 || r.Bytes != 21 {
		t.Fatalf("a store without faults: %+v %q", r, found)
	}

	blob := func(d digest.Digest) string { return filepath.Join(s.root, "content/blobs/sha256", d.Encoded()) }
	lowers, err := s.Lowers(t.Context(), top)
	must(t, err)
	strayBlob := digest.FromString("stray")
	strayDir := filepath.Join(s.root, "snapshots/snapshots/4711")
	strayIngest := filepath.Join(s.root, "content/ingest/4711")
	// The snapshotter alone has one, and has forgotten another.
	_, err = s.backend.Prepare(s.Context(ctx), "berth/99/stray", "")
	must(t, err)
	var key string
	must(t, s.records("snapshots", SnapshotterName, func(name string, b *bolt.Bucket) {
		if name == other.String() {
			key = string(b.Get([]byte("name")))
		}
	}))
	must(t, s.backend.Remove(s.Context(ctx), key))
	for _, err := range []error{
		os.Chmod(blob(changed), 0o600), os.WriteFile(blob(changed), []byte("chAnged"), 0o600),
		os.Chmod(blob(short), 0o600), os.Truncate(blob(short), 2), os.Remove(blob(gone)),
		os.WriteFile(blob(strayBlob), []byte("stray"), 0o600), os.RemoveAll(lowers[1]),
		os.MkdirAll(filepath.Join(strayDir, "fs"), 0o700), os.MkdirAll(strayIngest, 0o700),
	} {
		must(t, err)
	}
	_, found := checked(t, s)
	want := []string{
		"blob " + changed.String() + " holds what has the digest " + digest.FromString("chAnged").String(),
		"blob " + short.String() + " has 2 bytes where 5 were stored",
		"blob " + gone.String() + " is missing",
		"layer " + bottom.String() + " has lost its directory " + lowers[1],
		"layer " + other.String() + " is not in the database of layers any more",
		"orphan " + strayBlob.String() + " is a blob of 5 bytes that the database does not know",
		"orphan " + strayDir + " is the directory of a layer that the database does not know",
		"orphan berth/99/stray is a layer that the database does not know",
	}
	slices.Sort(want)
	// The snapshotter's directory of a layer it has forgotten is one more.
	found = slices.DeleteFunc(found, func(f string) bool {
		return strings.Contains(f, "directory of a layer") && !strings.Contains(f, "4711")
	})
	if !slices.Equal(found, want) {
		t.Errorf("found:\n%s\nwanted:\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
	}

	r, _ := checked(t, s)
	if alone, err := s.DropDamaged(t.Context(), r.BadBlobs, r.Unknown); !alone || err != nil {
		t.Fatal(alone, err)
	}
	for _, chain := range r.Empty {
		must(t, s.Refill(t.Context(), chain, func(st *Staged) error {
			return st.Apply(t.Context(), bytes.NewReader(layer), true)
		}))
	}
	if _, alone, err := s.RemoveOrphans(t.Context()); !alone || err != nil {
		t.Fatal(alone, err)
	}
	if _, found := checked(t, s); len(found) > 0 {
		t.Errorf("after the repair: %q", found)
	}
	if _, err := os.Lstat(strayIngest); !os.IsNotExist(err) {
		t.Errorf("the beginning of a blob is left: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(lowers[1], "d/f")); err != nil || string(text) != "text" {
		t.Errorf("the layer that was unpacked once more: %q, %v", text, err)
	}
	if _, err := s.Content().Info(s.Context(t.Context()), whole); err != nil {
		t.Errorf("what was whole: %v", err)
	}
	// What was damaged can be brought in again.
	write(t, s, "changed")
	if _, found := checked(t, s); len(found) > 0 {
		t.Errorf("a blob that came again: %q", found)
	}
}
