package store

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const keptText = "what was fetched"

var keptBlob = ocispec.Descriptor{Digest: digest.FromString(keptText), Size: int64(len(keptText))}

// begin makes a blob, a layer and a part of a blob, as unfinished work leaves them.
func begin(t *testing.T, s *Store, key string) (end func(bool)) {
	t.Helper()
	ctx, end, err := s.Continue(t.Context(), key, "pull of "+key)
	if err != nil {
		t.Fatal(err)
	}
	err = content.WriteBlob(ctx, s.Content(), "blob", strings.NewReader(keptText), keptBlob)
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.Stage(ctx)
	if err == nil {
		err = st.Commit(ctx, digest.FromString("layer"), "")
	}
	if err == nil {
		_, err = s.Stage(ctx) // it is left as it is
	}
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.Content().Writer(ctx, content.WithRef("part"))
	if err == nil {
		_, err = w.Write([]byte("part"))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return end
}

func (s *Store) holds(t *testing.T) bool {
	t.Helper()
	if err := s.GC(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx := s.Context(t.Context())
	_, err := s.Content().Info(ctx, keptBlob.Digest)
	_, perr := s.Content().Status(ctx, "part")
	layer, lerr := s.HasChain(ctx, digest.FromString("layer"))
	if lerr != nil || (err == nil) != (perr == nil) || (err == nil) != layer {
		t.Fatalf("only a part is kept: %v, %v, %v %v", err, perr, layer, lerr)
	}
	return err == nil
}

func TestUnfinishedWorkIsKept(t *testing.T) {
	root := filepath.Join(t.TempDir(), "data")
	reopen := func(s *Store) *Store {
		if s != nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := reopen(nil)
	begin(t, s, "a")
	// While it is under way it is not unfinished.
	if k, err := s.Kept(t.Context()); err != nil || len(k) != 0 {
		t.Errorf("%v, %v", k, err)
	}
	if err := s.DropKept(t.Context()); err != nil || !s.holds(t) {
		t.Errorf("what is under way was dropped: %v", err)
	}
	// The process ends. What was being unpacked is of no use, the rest is.
	s = reopen(s)
	if !s.holds(t) {
		t.Error("what the process left is gone")
	}
	if st := staged(t, s); st != 0 {
		t.Errorf("%d layers are still being unpacked", st)
	}
	k, err := s.Kept(t.Context())
	if err != nil || len(k) != 1 || k[0].What != "pull of a" || time.Until(k[0].Until) < keptFor-time.Hour {
		t.Errorf("%v, %v", k, err)
	}
	// Two go on with it. It is theirs until the last one ends, and one of them has finished it.
	_, end1, err := s.Continue(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	_, end2, err := s.Continue(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	end1(false)
	if !s.holds(t) {
		t.Error("it was taken from the second")
	}
	end2(true)
	if s.holds(t) {
		t.Error("it is kept after it was finished")
	}
	begin(t, s, "b")(true)
	s = reopen(s)
	if !s.holds(t) {
		t.Error("what was kept is gone after a restart")
	}
	if err := s.DropKept(t.Context()); err != nil || s.holds(t) {
		t.Errorf("what was kept is there after it was given up: %v", err)
	}
	begin(t, s, "c")(true)
	ctx := s.Context(t.Context())
	list, err := s.idle(ctx)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	list[0].Labels[expireLabel] = time.Now().Add(-time.Second).Format(time.RFC3339)
	if err := s.relabel(ctx, list[0]); err != nil {
		t.Fatal(err)
	}
	if s.holds(t) {
		t.Error("what was kept did not expire")
	}
	if _, err := s.leases.ListResources(ctx, leases.Lease{ID: list[0].ID}); !errdefs.IsNotFound(err) {
		t.Errorf("the lease did not expire: %v", err)
	}
	s = reopen(s)
	wantEmpty(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func staged(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.snapshotter.Walk(s.Context(t.Context()), func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindActive {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
