package store

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Staged is a layer on its way into the store. It is used by one goroutine at a time, and ends with Commit or Abort.
type Staged struct {
	s   *Store
	key string
	a   *applier
}

// Stage begins a layer. It must be called under a lease.
func (s *Store) Stage(ctx context.Context) (*Staged, error) {
	ctx = s.Context(ctx)
	key := stagePrefix + uniqueName()
	// One at a time: when its database cannot be written, on a full disk, the snapshotter removes the directory only after
	// it has let the next one in, which gets the same name.
	unlock, err := s.Lock(ctx, "stage")
	if err != nil {
		return nil, err
	}
	mounts, err := s.snapshotter.Prepare(ctx, key, "")
	unlock()
	if err != nil {
		return nil, fmt.Errorf("make a directory for a layer: %w", err)
	}
	st := &Staged{s: s, key: key}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		st.Abort(ctx)
		return nil, fmt.Errorf("make a directory for a layer: %w", errdefs.ErrInternal)
	}
	dir, err := os.Open(mounts[0].Source)
	if err != nil {
		st.Abort(ctx)
		return nil, fmt.Errorf("make a directory for a layer: %w", err)
	}
	st.a = newApplier(dir, s.plain)
	return st, nil
}

// Name is unique among all that is and was on its way.
func (st *Staged) Name() string { return st.key }

// Apply unpacks the tar stream of a layer. Bottom says that no layer is below, so there is nothing it could hide.
// What is behind the end of the archive is not read. An error in the stream wraps errdefs.ErrInvalidArgument.
func (st *Staged) Apply(ctx context.Context, r io.Reader, bottom bool) error {
	return st.a.apply(ctx, r, bottom)
}

// Commit gives the layer its name, the chain ID, above the layer parent, which is "" for the bottom one. When
// the chain exists already, this one is dropped without an error. Cancelling is not possible any more.
func (st *Staged) Commit(ctx context.Context, chain, parent digest.Digest) (err error) {
	ctx = context.WithoutCancel(st.s.Context(ctx))
	defer func() {
		if err != nil {
			st.Abort(ctx)
		}
	}()
	var lowers []string
	if parent != "" {
		if lowers, err = st.s.Lowers(ctx, parent); err != nil {
			return err
		}
		if len(lowers) >= MaxLayers {
			return fmt.Errorf("the image has more than %d layers: %w", MaxLayers, errdefs.ErrInvalidArgument)
		}
	}
	if err := st.a.seal(ctx, lowers); err != nil {
		return err
	}
	used, err := st.a.usage(ctx)
	if err != nil {
		return fmt.Errorf("see what layer %s takes of the disk: %w", chain, err)
	}
	if err := st.s.note(chain); err != nil {
		return fmt.Errorf("note layer %s: %w", chain, err)
	}
	opts := []snapshots.Opt{}
	if parent != "" {
		opts = append(opts, snapshots.WithParent(parent.String()))
	}
	err = st.s.snapshotter.Commit(withUsage(ctx, used), chain.String(), st.key, opts...)
	if errdefs.IsAlreadyExists(err) {
		st.Abort(ctx)
		return st.s.leaseChain(ctx, chain)
	}
	if err != nil {
		return fmt.Errorf("keep layer %s: %w", chain, err)
	}
	return st.a.close()
}

// Restart drops what is unpacked and begins anew. After an error, Abort is all that is left.
func (st *Staged) Restart(ctx context.Context) error {
	st.Abort(ctx)
	st.a = nil
	next, err := st.s.Stage(ctx)
	if err != nil {
		return err
	}
	st.key, st.a = next.key, next.a
	return nil
}

// Abort drops the layer. Its space is freed by the next GC.
func (st *Staged) Abort(ctx context.Context) {
	if st.a != nil {
		_ = st.a.close()
	}
	// When the database refuses, the end of the lease lets the collector have it.
	_ = st.s.snapshotter.Remove(context.WithoutCancel(st.s.Context(ctx)), st.key)
}

// leaseChain adds a chain to the lease of ctx, if there is one.
func (s *Store) leaseChain(ctx context.Context, chain digest.Digest) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return nil
	}
	err := s.leases.AddResource(ctx, leases.Lease{ID: id},
		leases.Resource{ID: chain.String(), Type: "snapshots/" + SnapshotterName})
	if err != nil {
		return fmt.Errorf("protect layer %s: %w", chain, err)
	}
	return nil
}

// badLayer is an error in what a layer says, as opposed to one of this machine.
func badLayer(format string, args ...any) error {
	return &layerError{fmt.Errorf(format, args...)}
}

type layerError struct{ err error }

func (e *layerError) Error() string   { return "bad layer: " + e.err.Error() }
func (e *layerError) Unwrap() []error { return []error{e.err, errdefs.ErrInvalidArgument} }

// sized is the snapshotter, but for one thing: how large a committed layer is it may be told, instead of walking through it while it
// holds the database.
type sized struct {
	snapshots.Snapshotter
	db *storage.MetaStore
}

type usageKey struct{}

// withUsage tells a Commit with the returned context the size of the layer.
func withUsage(ctx context.Context, u snapshots.Usage) context.Context {
	return context.WithValue(ctx, usageKey{}, u)
}

// Commit implements snapshots.Snapshotter.
func (s *sized) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	u, ok := ctx.Value(usageKey{}).(snapshots.Usage)
	if !ok {
		return s.Snapshotter.Commit(ctx, name, key, opts...)
	}
	return s.db.WithTransaction(ctx, true, func(ctx context.Context) error {
		if _, err := storage.CommitActive(ctx, key, name, u, opts...); err != nil {
			return fmt.Errorf("commit layer %s: %w", key, err)
		}
		return nil
	})
}

// Cleanup implements snapshots.Cleaner.
func (s *sized) Cleanup(ctx context.Context) error {
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}
