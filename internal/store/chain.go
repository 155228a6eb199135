package store

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// MaxLayers is the most layers an image may have: what overlayfs can stack.
const MaxLayers = 499

// Lowers returns the directories of the layers of an unpacked image, the topmost first, as overlayfs wants them. An
// empty chain, of an image without layers, has one empty directory. The error wraps errdefs.ErrNotFound when the
// chain is not unpacked.
//
// It only reads, and what it found is kept in memory.
func (s *Store) Lowers(ctx context.Context, chain digest.Digest) ([]string, error) {
	if chain == "" {
		return []string{filepath.Join(s.root, "snapshots", "empty")}, nil
	}
	s.mu.Lock()
	dirs := s.lowers[chain]
	s.mu.Unlock()
	if dirs != nil {
		return dirs, nil
	}
	ctx = s.Context(ctx)
	for name := chain.String(); name != ""; {
		info, err := s.snapshotter.Stat(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("layer %s is not there: %w", name, err)
		}
		if info.Kind != snapshots.KindCommitted || info.Labels[upperLabel] == "" || len(dirs) > MaxLayers {
			return nil, fmt.Errorf("layer %s is not usable: %w", name, errdefs.ErrDataLoss)
		}
		dirs = append(dirs, info.Labels[upperLabel])
		name = info.Parent
	}
	s.mu.Lock()
	s.lowers[chain] = dirs
	s.mu.Unlock()
	return dirs, nil
}

// HasChain tells whether a chain is unpacked. Asked under a lease, the answer stays true while the lease lives.
func (s *Store) HasChain(ctx context.Context, chain digest.Digest) (bool, error) {
	if chain == "" {
		return true, nil
	}
	ctx = s.Context(ctx)
	if _, err := s.snapshotter.Stat(ctx, chain.String()); errdefs.IsNotFound(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	err := s.leaseChain(ctx, chain)
	if err != nil {
		return false, err
	}
	// Between the two it may have been collected.
	_, err = s.snapshotter.Stat(ctx, chain.String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// ChainUsage is the space every layer of a chain takes by itself, in bytes, the topmost first.
func (s *Store) ChainUsage(ctx context.Context, chain digest.Digest) ([]LayerUsage, error) {
	ctx = s.Context(ctx)
	var out []LayerUsage
	for name := chain.String(); name != "" && len(out) <= MaxLayers; {
		info, err := s.snapshotter.Stat(ctx, name)
		if err != nil {
			return nil, err
		}
		u, err := s.snapshotter.Usage(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, LayerUsage{Chain: digest.Digest(name), Size: u.Size})
		name = info.Parent
	}
	return out, nil
}

// LayerUsage is the space one layer takes.
type LayerUsage struct {
	Chain digest.Digest
	Size  int64
}

// Pin keeps a chain although no name reaches it, for containers whose image is removed. It lasts until Unpin, also
// across restarts.
func (s *Store) Pin(ctx context.Context, chain digest.Digest) error {
	return s.mark(ctx, chain, "pinned")
}

// Unpin ends Pin; the next GC may take the chain.
func (s *Store) Unpin(ctx context.Context, chain digest.Digest) error { return s.mark(ctx, chain, "") }

func (s *Store) mark(ctx context.Context, chain digest.Digest, value string) error {
	if chain == "" {
		return nil
	}
	labels := map[string]string{}
	if value != "" {
		labels[rootLabel] = value
	}
	_, err := s.snapshotter.Update(s.Context(ctx), snapshots.Info{Name: chain.String(), Labels: labels},
		"labels."+rootLabel)
	if errdefs.IsNotFound(err) && value == "" {
		return nil
	}
	return err
}

// Pinned lists the pinned chains.
func (s *Store) Pinned(ctx context.Context) ([]digest.Digest, error) {
	var out []digest.Digest
	err := s.snapshotter.Walk(s.Context(ctx), func(_ context.Context, info snapshots.Info) error {
		if _, ok := info.Labels[rootLabel]; ok {
			out = append(out, digest.Digest(info.Name))
		}
		return nil
	})
	return out, err
}

// IsPinned tells whether a chain is pinned.
func (s *Store) IsPinned(ctx context.Context, chain digest.Digest) (bool, error) {
	if chain == "" {
		return false, nil
	}
	info, err := s.snapshotter.Stat(s.Context(ctx), chain.String())
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	_, ok := info.Labels[rootLabel]
	return ok, err
}

// Usage is the space of all blobs, parts of blobs, layers, and what images were put together in, in bytes. Those of containers do
// not count.
func (s *Store) Usage(ctx context.Context) (int64, error) {
	ctx = s.Context(ctx)
	var sum int64
	err := s.Content().Walk(ctx, func(i content.Info) error {
		sum += i.Size
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure the blobs: %w", err)
	}
	begun, err := s.Content().ListStatuses(ctx)
	if err != nil {
		return 0, fmt.Errorf("measure the blobs that have begun: %w", err)
	}
	for _, b := range begun {
		sum += b.Offset
	}
	var names []string
	err = s.snapshotter.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			names = append(names, i.Name)
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("measure the layers: %w", err)
	}
	for _, n := range names {
		u, err := s.snapshotter.Usage(ctx, n)
		if err != nil && !errdefs.IsNotFound(err) {
			return 0, fmt.Errorf("measure the layers: %w", err)
		}
		sum += u.Size
	}
	trees, err := s.treesSize(ctx)
	return sum + trees, err
}
