package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Finding is one thing that is wrong with what is stored.
type Finding struct {
	Kind     string // "database", "blob", "layer" or "orphan"; others have kinds of their own
	Object   string // its digest, name or path
	Problem  string // what is wrong, a sentence's second half
	Remedy   string // the next step for a person, "" when a repair does all
	Repaired bool
}

// CheckReport is what a check has looked at and what it has found.
type CheckReport struct {
	Blobs, Layers int
	Bytes         int64 // read and hashed
	// Busy says that something was being brought in or read, so that what nobody owns could not be told from what
	// nobody owns yet: orphans were not looked for.
	Busy     bool
	Findings []Finding

	BadBlobs []digest.Digest // missing, or not what their digest says
	Empty    []digest.Digest // layers that have lost their directory
	Unknown  []digest.Digest // layers that the snapshotter does not know any more
}

func (r *CheckReport) add(f Finding) { r.Findings = append(r.Findings, f) }

// Check compares everything in the store with what it says of itself: the structure of the databases, each blob with
// its size, and when full also with its digest, each layer with its directory, and the disk with the databases. It
// collects garbage first, so that what it calls an orphan is what the collector does not see. It changes nothing.
func (s *Store) Check(ctx context.Context, full bool) (*CheckReport, error) {
	ctx = s.Context(ctx)
	if err := s.GC(ctx); err != nil {
		return nil, err
	}
	r := &CheckReport{}
	for _, step := range []func() error{
		func() error { return s.checkDatabases(ctx, r) },
		func() error { return s.checkBlobs(ctx, r, full) },
		func() error { return s.checkLayers(ctx, r) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	alone, err := s.alone(func() error {
		strays, err := s.strays(ctx)
		for _, o := range strays {
			r.add(o.Finding)
		}
		return err
	})
	r.Busy = !alone
	return r, err
}

// alone runs f while nothing is brought in, read under a lease or collected, and returns false without running it when
// something is.
func (s *Store) alone(f func() error) (bool, error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.begin.Lock()
	defer s.begin.Unlock()
	if s.working.Load() > 0 {
		return false, nil
	}
	return true, f()
}

// checkDatabases looks at the pages of both databases.
func (s *Store) checkDatabases(ctx context.Context, r *CheckReport) error {
	look := func(name string, tx interface {
		Check(...bolt.CheckOption) <-chan error
	}) {
		for err := range tx.Check() {
			r.add(Finding{Kind: "database", Object: filepath.Join(s.root, name), Problem: "is damaged: " + err.Error(),
				Remedy: "keep a copy of the data root, and bring the images into a new one"})
		}
	}
	err := s.bolt.View(func(tx *bolt.Tx) error { look("meta.db", tx); return nil })
	if err != nil {
		return fmt.Errorf("look at the database: %w", err)
	}
	_, tr, err := s.layerDB.TransactionContext(ctx, false)
	if err != nil {
		return fmt.Errorf("look at the database of layers: %w", err)
	}
	if tx, ok := tr.(*bolt.Tx); ok {
		look("snapshots/metadata.db", tx)
	}
	return tr.Rollback()
}

func (s *Store) checkBlobs(ctx context.Context, r *CheckReport, full bool) error {
	var all []content.Info
	err := s.Content().Walk(ctx, func(i content.Info) error {
		all = append(all, i)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the blobs: %w", err)
	}
	buf := make([]byte, 256<<10)
	for _, i := range all {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		r.Blobs++
		problem := s.checkBlob(ctx, i, full, buf, r)
		if problem == "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if _, err := s.Content().Info(ctx, i.Digest); errdefs.IsNotFound(err) {
			continue // removed meanwhile
		}
		r.BadBlobs = append(r.BadBlobs, i.Digest)
		r.add(Finding{Kind: "blob", Object: i.Digest.String(), Problem: problem,
			Remedy: "repair, and then pull or load the images that have it once more"})
	}
	return nil
}

// checkBlob tells what is wrong with a blob, "" if nothing is.
func (s *Store) checkBlob(ctx context.Context, i content.Info, full bool, buf []byte, r *CheckReport) string {
	ra, err := s.blobs.ReaderAt(ctx, ocispec.Descriptor{Digest: i.Digest})
	if errdefs.IsNotFound(err) {
		return "is missing"
	}
	if err != nil {
		return fmt.Sprintf("cannot be read: %v", err)
	}
	defer ra.Close()
	if ra.Size() != i.Size {
		return fmt.Sprintf("has %d bytes where %d were stored", ra.Size(), i.Size)
	}
	if !full {
		return ""
	}
	h := i.Digest.Algorithm().Digester()
	for in := content.NewReader(ra); ctx.Err() == nil; {
		n, err := in.Read(buf)
		_, _ = h.Hash().Write(buf[:n]) // documented never to fail
		r.Bytes += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Sprintf("cannot be read: %v", err)
		}
	}
	if got := h.Digest(); got != i.Digest {
		return fmt.Sprintf("holds what has the digest %s", got)
	}
	return ""
}

func (s *Store) checkLayers(ctx context.Context, r *CheckReport) error {
	all, err := s.chains()
	if err != nil {
		return fmt.Errorf("list the layers: %w", err)
	}
	for name := range all {
		info, err := s.snapshotter.Stat(ctx, name)
		if err == nil && info.Kind != snapshots.KindCommitted {
			continue // on its way
		}
		problem := ""
		switch dir := info.Labels[upperLabel]; {
		case errdefs.IsNotFound(err):
			now, err := s.chains()
			if _, ok := now[name]; err != nil || !ok {
				continue // removed meanwhile
			}
			problem = "is not in the database of layers any more"
			r.Unknown = append(r.Unknown, digest.Digest(name))
		case err != nil:
			return fmt.Errorf("look at layer %s: %w", name, err)
		case dir == "":
			problem = "has no directory"
			r.Unknown = append(r.Unknown, digest.Digest(name))
		default:
			fi, err := os.Lstat(dir)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				problem = "has lost its directory " + dir
			case err != nil:
				problem = err.Error()
			case !fi.IsDir():
				problem = "has something else in the place of its directory " + dir
			}
			if _, serr := s.snapshotter.Stat(ctx, name); problem != "" && errdefs.IsNotFound(serr) {
				continue // removed meanwhile
			}
			if errors.Is(err, fs.ErrNotExist) {
				r.Empty = append(r.Empty, digest.Digest(name))
			}
		}
		r.Layers++
		if problem != "" {
			r.add(Finding{Kind: "layer", Object: name, Problem: problem,
				Remedy: "repair; if that does not help, pull or load the images that have it once more, and repair again"})
		}
	}
	return nil
}

// chains lists all layers of the database with their parents, also those whose other half the snapshotter has lost.
func (s *Store) chains() (map[string]string, error) {
	out := map[string]string{}
	err := s.records("snapshots", SnapshotterName, func(name string, b *bolt.Bucket) {
		out[name] = string(b.Get([]byte("parent")))
	})
	return out, err
}

// records goes through a bucket of containerd's schema: v1/<namespace>/<path>/<name>/….
func (s *Store) records(a, b string, f func(name string, b *bolt.Bucket)) error {
	return s.bolt.View(func(tx *bolt.Tx) error {
		at := tx.Bucket([]byte("v1"))
		for _, part := range []string{namespace, a, b} {
			if at != nil {
				at = at.Bucket([]byte(part))
			}
		}
		if at == nil {
			return nil
		}
		return at.ForEachBucket(func(k []byte) error {
			f(string(k), at.Bucket(k))
			return nil
		})
	})
}

// stray is something on the disk that is in no database, and how to take it away.
type stray struct {
	Finding
	remove func() error
}

// strays finds what the databases do not know. Nobody else may be at work.
func (s *Store) strays(ctx context.Context) ([]stray, error) {
	var out []stray
	orphan := func(object, problem string, remove func() error) {
		out = append(out, stray{Finding{Kind: "orphan", Object: object, Problem: problem}, remove})
	}
	err := s.blobs.Walk(ctx, func(i content.Info) error {
		_, err := s.Content().Info(ctx, i.Digest)
		if !errdefs.IsNotFound(err) {
			return err
		}
		orphan(i.Digest.String(), fmt.Sprintf("is a blob of %d bytes that the database does not know", i.Size),
			func() error { return s.blobs.Delete(ctx, i.Digest) })
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for blobs that nobody owns: %w", err)
	}
	known := map[string]bool{}
	err = s.records("snapshots", SnapshotterName, func(_ string, b *bolt.Bucket) { known[string(b.Get([]byte("name")))] = true })
	dirs := map[string]bool{}
	if err == nil {
		err = s.backend.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
			dirs[filepath.Base(filepath.Dir(i.Labels[upperLabel]))] = true
			if !known[i.Name] {
				orphan(i.Name, "is a layer that the database does not know",
					func() error { return s.backend.Remove(ctx, i.Name) })
			}
			return nil
		})
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("look for layers that nobody owns: %w", err)
	}
	unknown, err := s.unknownIn(filepath.Join("snapshots", "snapshots"), func(path string) bool { return dirs[filepath.Base(path)] })
	if err != nil {
		return nil, err
	}
	for _, path := range unknown {
		orphan(path, "is the directory of a layer that the database does not know", func() error { return os.RemoveAll(path) })
	}
	if unknown, err = s.strayTrees(false); err != nil {
		return nil, err
	}
	for _, path := range unknown {
		orphan(path, "is an image put together for btrfs that the database does not know", func() error { return linux.RemoveSubvolume(path) })
	}
	if unknown, err = s.strayIngests(); err != nil {
		return nil, err
	}
	for _, path := range unknown {
		orphan(path, "is the beginning of a blob that the database does not know", func() error { return os.RemoveAll(path) })
	}
	return out, nil
}

// RemoveOrphans removes what is on the disk and in no database, and returns the findings it has dealt with. It does
// nothing and returns false while something is being brought in.
func (s *Store) RemoveOrphans(ctx context.Context) (done []Finding, _ bool, _ error) {
	ctx = s.Context(ctx)
	alone, err := s.alone(func() error {
		strays, err := s.strays(ctx)
		if err != nil {
			return err
		}
		var errs []error
		// A layer goes after those that stand on it, so several rounds may be needed.
		for again := true; again; {
			again = false
			for i := range strays {
				if strays[i].Repaired {
					continue
				}
				err := strays[i].remove()
				if errdefs.IsFailedPrecondition(err) {
					continue
				}
				again, strays[i].Repaired = true, true
				if err != nil && !errdefs.IsNotFound(err) {
					errs = append(errs, fmt.Errorf("remove %s: %w", strays[i].Object, err))
					continue
				}
				done = append(done, strays[i].Finding)
			}
		}
		return errors.Join(append(errs, s.backend.Cleanup(ctx))...)
	})
	return done, alone, err
}

// DropDamaged takes blobs that are not what they should be out of the store, so that whole ones can take their place,
// and the records of layers that the snapshotter does not know, with all that stand on them. The caller has pinned the
// chains that containers stand on. It does nothing and returns false while something is being brought in.
func (s *Store) DropDamaged(ctx context.Context, blobs, layers []digest.Digest) (bool, error) {
	ctx = s.Context(ctx)
	return s.alone(func() error {
		for _, d := range blobs {
			err := s.Content().Delete(ctx, d)
			if err == nil || errdefs.IsNotFound(err) {
				err = s.blobs.Delete(ctx, d)
			}
			if err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("drop the damaged blob %s: %w", d, err)
			}
		}
		if len(layers) == 0 {
			return nil
		}
		lost := map[string]bool{}
		for _, l := range layers {
			lost[l.String()] = true
		}
		if _, err := s.dropLayers(ctx, lost); err != nil {
			return fmt.Errorf("drop layers that are lost: %w", err)
		}
		return s.collect(ctx)
	})
}

// Above lists a layer and all that stand on it.
func (s *Store) Above(chain digest.Digest) (map[digest.Digest]bool, error) {
	parents, err := s.chains()
	if err != nil {
		return nil, err
	}
	out := map[digest.Digest]bool{}
	for name := range parents {
		for at, n := name, 0; at != "" && n <= MaxLayers; at, n = parents[at], n+1 {
			if at == chain.String() {
				out[digest.Digest(name)] = true
			}
		}
	}
	return out, nil
}

// Refill gives a layer that has lost its directory a new one; fill applies the layer's archive to it. Those below must
// be whole. Nothing is changed when it fails, or when the directory is there.
func (s *Store) Refill(ctx context.Context, chain digest.Digest, fill func(st *Staged) error) (err error) {
	ctx = s.Context(ctx)
	info, err := s.snapshotter.Stat(ctx, chain.String())
	if err != nil {
		return err
	}
	dir := info.Labels[upperLabel]
	if _, err := os.Lstat(dir); dir == "" || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lowers []string
	if info.Parent != "" {
		if lowers, err = s.Lowers(ctx, digest.Digest(info.Parent)); err != nil {
			return err
		}
	}
	next := dir + ".new"
	if err := errors.Join(os.RemoveAll(next), os.MkdirAll(filepath.Dir(dir), 0o700), os.Mkdir(next, 0o755)); err != nil {
		return fmt.Errorf("make a directory for layer %s: %w", chain, err)
	}
	f, err := os.Open(next)
	if err != nil {
		return fmt.Errorf("make a directory for layer %s: %w", chain, err)
	}
	st := &Staged{s: s, key: "refill-" + uniqueName(), a: newApplier(f, s.plain)}
	defer func() {
		if err = errors.Join(err, st.a.close()); err != nil {
			_ = os.RemoveAll(next)
		}
	}()
	if err := fill(st); err != nil {
		return err
	}
	if err := st.a.seal(ctx, lowers); err != nil {
		return err
	}
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write layer %s: %w", chain, err)
	}
	return os.Rename(next, dir)
}

// LayerIDs lists the containers' layers, those being removed left out.
func (s *Store) LayerIDs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, "layers"))
	if err != nil {
		return nil, fmt.Errorf("list the containers' layers: %w", err)
	}
	var out []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), removedPrefix) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}
