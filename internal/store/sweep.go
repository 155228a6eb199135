package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// The collector compares the disk with the database only after it has taken something out of the database. A process
// that is killed between the two, or between writing a blob and the commit that owns it, leaves something on the disk
// that no later collection would look at. So Open looks once, while nobody else is at work.

// sweep removes what is on the disk and in no database. The directories of layers go in the background.
func (s *Store) sweep(ctx context.Context, blobs content.Store) error {
	err := blobs.Walk(ctx, func(i content.Info) error {
		_, err := s.Content().Info(ctx, i.Digest)
		if errdefs.IsNotFound(err) {
			err = blobs.Delete(ctx, i.Digest)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("remove blobs without an owner: %w", err)
	}
	known := map[string]bool{}
	err = s.snapshotter.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		known[i.Labels[upperLabel]] = true
		return nil
	})
	var stray []string
	if err == nil {
		err = s.backend.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
			if !known[i.Labels[upperLabel]] {
				stray = append(stray, i.Name)
			}
			return nil
		})
	}
	// In a new data root the snapshotter's database has nothing yet, not even the place for layers.
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for layers without an owner: %w", err)
	}
	// A layer goes after those that stand on it. One that somebody stands on who has an owner stays.
	for removed := true; removed && len(stray) > 0; {
		removed = false
		var left []string
		for _, name := range stray {
			if s.backend.Remove(ctx, name) == nil {
				removed = true
			} else {
				left = append(left, name)
			}
		}
		stray = left
	}
	// A check that looked meanwhile would take for orphans what is on its way out.
	s.collecting.Lock()
	s.removals.Go(func() {
		defer s.collecting.Unlock()
		_ = s.backend.Cleanup(context.WithoutCancel(ctx))
	})
	return nil
}

// sweepIngests removes the beginnings of blobs that the database does not know. Nobody may be writing blobs.
func (s *Store) sweepIngests() error {
	list, err := s.strayIngests()
	if err != nil {
		return err
	}
	for _, path := range list {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove the beginning of a blob: %w", err)
		}
	}
	return nil
}

// strayIngests lists them. The name of one may be missing, where the disk was full or the process was killed.
func (s *Store) strayIngests() ([]string, error) {
	refs := map[string]bool{}
	err := s.records("content", "ingests", func(_ string, b *bolt.Bucket) { refs[string(b.Get([]byte("ref")))] = true })
	if err != nil {
		return nil, fmt.Errorf("look for blobs that have begun: %w", err)
	}
	return s.unknownIn(filepath.Join("content", "ingest"), func(path string) bool {
		ref, err := os.ReadFile(filepath.Join(path, "ref"))
		return err == nil && refs[string(ref)]
	})
}

// unknownIn lists what is in a directory of the data root and is not known.
func (s *Store) unknownIn(dir string, known func(path string) bool) ([]string, error) {
	dir = filepath.Join(s.root, dir)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for what nobody owns: %w", err)
	}
	var out []string
	for _, e := range entries {
		if path := filepath.Join(dir, e.Name()); !known(path) {
			out = append(out, path)
		}
	}
	return out, nil
}
