package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// A lease for work that may be continued, a pull, has a name made of what the work is for:
//
//	(absent) ──Continue──▶ in use ──end(false)──▶ (absent)
//	                        │  ▲
//	          end(true), or │  │ Continue
//	  the process has ended ▼  │
//	                        kept ──keptFor later, DropKept──▶ (absent)
//
// Whoever does the same work at the same time shares it. In the database, a kept one has the label by which the
// collector knows when it expires, and one in use does not.

const (
	// keptFor is how long it is kept what unfinished work has brought.
	keptFor = 7 * 24 * time.Hour

	keptPrefix  = "kept-"
	stagePrefix = "staged-"
	expireLabel = "containerd.io/gc.expire"
	whatLabel   = "berth.what"
)

// kept is a lease in use.
type kept struct {
	users int
	drop  bool // one of them has finished, or wants nothing to be kept
}

// Kept is what unfinished work has left for the next try.
type Kept struct {
	What  string // for people: what was being made
	Until time.Time
}

// Continue is Lease for work that the next one with the same key goes on with: key says exactly what is being made,
// what says it to people. end has to be called, with keep for what has failed and is worth to be continued; what was
// made is then kept for some days, as it is when the process ends without it.
func (s *Store) Continue(ctx context.Context, key, what string) (_ context.Context, end func(keep bool), err error) {
	ctx = s.Context(ctx)
	l := leases.Lease{ID: keptPrefix + digest.FromString(key).Encoded(), Labels: map[string]string{whatLabel: what}}
	unlock, err := s.Lock(ctx, "lease "+l.ID)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	s.begin.RLock()
	defer s.begin.RUnlock()
	s.mu.Lock()
	k := s.kept[l.ID]
	s.mu.Unlock()
	if k == nil {
		if err := s.relabel(ctx, l); err != nil {
			return nil, nil, fmt.Errorf("protect unfinished work: %w", err)
		}
		k = &kept{}
	}
	s.mu.Lock()
	s.kept[l.ID] = k
	k.users++
	s.mu.Unlock()
	s.working.Add(1)
	return leases.WithLease(ctx, l.ID), func(keep bool) { s.endContinued(context.WithoutCancel(ctx), l, keep) }, nil
}

func (s *Store) endContinued(ctx context.Context, l leases.Lease, keep bool) {
	defer s.working.Add(-1)
	unlock, err := s.Lock(ctx, "lease "+l.ID)
	if err != nil {
		return // ctx cannot be cancelled
	}
	defer unlock()
	s.mu.Lock()
	k := s.kept[l.ID]
	k.users--
	k.drop = k.drop || !keep
	last, drop := k.users == 0, k.drop
	if last {
		delete(s.kept, l.ID)
	}
	s.mu.Unlock()
	// What the database refuses here is done by the next Open.
	switch {
	case last && drop:
		_ = s.leases.Delete(ctx, l)
	case last:
		l.Labels[expireLabel] = expiry()
		_ = s.relabel(ctx, l)
	}
}

func expiry() string { return time.Now().Add(keptFor).UTC().Format(time.RFC3339) }

// relabel makes a lease, or gives it other labels, which the lease manager cannot: it is replaced in one commit.
func (s *Store) relabel(ctx context.Context, l leases.Lease) error {
	return s.Update(ctx, func(ctx context.Context) error {
		holds, err := s.leases.ListResources(ctx, l)
		if err == nil {
			err = s.leases.Delete(ctx, l)
		} else if errdefs.IsNotFound(err) {
			err = nil
		}
		if err != nil {
			return err
		}
		if _, err := s.leases.Create(ctx, leases.WithID(l.ID), leases.WithLabels(l.Labels)); err != nil {
			return err
		}
		for _, r := range holds {
			if err := s.leases.AddResource(ctx, l, r); err != nil {
				return err
			}
		}
		return nil
	})
}

// Kept lists what unfinished work has left.
func (s *Store) Kept(ctx context.Context) ([]Kept, error) {
	idle, err := s.idle(s.Context(ctx))
	if err != nil {
		return nil, fmt.Errorf("look for unfinished work: %w", err)
	}
	var out []Kept
	for _, l := range idle {
		until, _ := time.Parse(time.RFC3339, l.Labels[expireLabel])
		out = append(out, Kept{l.Labels[whatLabel], until})
	}
	return out, nil
}

// DropKept gives up what unfinished work has left, except for what is being continued. The next GC collects it.
func (s *Store) DropKept(ctx context.Context) error {
	ctx = s.Context(ctx)
	idle, err := s.idle(ctx)
	var errs []error
	for _, l := range idle {
		errs = append(errs, s.dropIdle(ctx, l))
	}
	if err = errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("give up unfinished work: %w", err)
	}
	return nil
}

func (s *Store) dropIdle(ctx context.Context, l leases.Lease) error {
	unlock, err := s.Lock(ctx, "lease "+l.ID)
	if err != nil {
		return err
	}
	defer unlock()
	s.mu.Lock()
	used := s.kept[l.ID] != nil
	s.mu.Unlock()
	if used {
		return nil
	}
	if err := s.leases.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// idle lists the leases that are kept and not in use.
func (s *Store) idle(ctx context.Context) ([]leases.Lease, error) {
	all, err := s.leases.List(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(all, func(l leases.Lease) bool {
		return !strings.HasPrefix(l.ID, keptPrefix) || s.kept[l.ID] != nil
	}), nil
}

// inheritLeases takes over what a process that is gone had begun: what may be continued is kept, all else is dropped
// and collected.
func (s *Store) inheritLeases(ctx context.Context) error {
	old, err := s.leases.List(ctx)
	if err != nil || len(old) == 0 {
		return err
	}
	for _, l := range old {
		switch {
		case !strings.HasPrefix(l.ID, keptPrefix):
			err = s.leases.Delete(ctx, l)
		case l.Labels[expireLabel] == "":
			if l.Labels == nil {
				l.Labels = map[string]string{}
			}
			l.Labels[expireLabel] = expiry()
			err = s.relabel(ctx, l)
		}
		if err != nil {
			return err
		}
	}
	// Nobody goes on with a layer that was half unpacked.
	// The snapshotter may have forgotten it, where the process was killed in the middle of a commit.
	names, err := s.chains()
	if err != nil {
		return err
	}
	for name := range names {
		if !strings.HasPrefix(name, stagePrefix) {
			continue
		}
		if err := s.snapshotter.Remove(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	// The expired ones go too.
	s.removals.Go(func() { _ = s.GC(context.WithoutCancel(ctx)) })
	return nil
}
