package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
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
	if c, ok := s.backend.(snapshots.Cleaner); ok {
		s.removals.Go(func() { _ = c.Cleanup(context.WithoutCancel(ctx)) })
	}
	return nil
}

// sweepIngests removes the beginnings of blobs that did not get a name, which the content store trips over.
func sweepIngests(root string) error {
	dir := filepath.Join(root, "content", "ingest")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for blobs that have begun: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if ref, err := os.ReadFile(filepath.Join(path, "ref")); err == nil && strings.TrimSpace(string(ref)) != "" {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove the beginning of a blob: %w", err)
		}
	}
	return nil
}
