package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/berth-engine/berth/internal/durable"
)

const (
	// namespace is where all our objects live in containerd's schema.
	namespace = "berth"

	// SnapshotterName is the name under which labels refer to unpacked layers.
	SnapshotterName = "overlayfs"

	// upperLabel is the label by which the snapshotter tells where a layer's directory is.
	upperLabel = "containerd.io/snapshot/overlay.upperdir"

	rootLabel = "containerd.io/gc.root"
)

// Store is an open data root. Its methods may be called from any goroutine.
type Store struct {
	root        string
	lock        *durable.FileLock
	bolt        *bolt.DB
	db          *metadata.DB
	blobs       content.Store      // as the disk has them, whatever the database says
	layerDB     *storage.MetaStore // the snapshotter's
	backend     *sized
	snapshotter snapshots.Snapshotter
	leases      leases.Manager

	driver Driver // of new containers, see Use
	why    string
	plain  bool // see probePlain

	removals sync.WaitGroup // work behind the caller's back: directories being removed, files being synced
	closed   sync.Once
	closing  chan struct{} // closed by Close: what waits for a better time does so no longer
	lost     bool          // layers were lost, see Lost

	// collecting is held by who collects or repairs. begin is held for reading while a lease is made, and for writing
	// to keep others from beginning. They come before mu, in this order.
	collecting sync.Mutex
	begin      sync.RWMutex
	working    atomic.Int64 // leases of this process

	mu       sync.Mutex
	project  uint32 // the highest project of a layer; 0 before one was asked for
	unsynced unsynced
	gone     []string // removed layers that are still on the disk
	lowers   map[digest.Digest][]string
	busy     map[string]chan struct{} // what somebody works on, see Lock
	kept     map[string]*kept         // leases in use that outlive the process, see kept.go

	treeSizes map[string]int64 // as far as they were asked for, see TreeSize
}

// Open takes the data root, making it if it is absent. New containers are made by overlay2 until Use says otherwise. The
// error wraps errdefs.ErrConflict when another process has it.
func Open(ctx context.Context, root string) (_ *Store, err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("data root: %w", err)
	}
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, fmt.Errorf("make the data root: %w", err)
	}
	// The libraries write what they think of the file system to the standard error through a logger of their own. What
	// matters of it comes back as an error as well.
	_ = log.SetLevel("error")
	s := &Store{root: root, driver: Overlay, lowers: map[digest.Digest][]string{}, busy: map[string]chan struct{}{},
		kept: map[string]*kept{}, closing: make(chan struct{}), treeSizes: map[string]int64{}}
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			_ = undo[i]()
		}
	}()

	s.lock, err = durable.Lock(filepath.Join(root, "lock"))
	if errors.Is(err, durable.ErrLocked) {
		return nil, &conflict{fmt.Errorf("data root %q is in use by another daemon: %w", root, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("data root %q: %w", root, err)
	}
	undo = append(undo, s.lock.Unlock)

	// The content store makes its directory of blobs with the first blob, and cannot collect without it.
	for _, dir := range []string{"content/blobs", "snapshots/empty", "layers"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return nil, fmt.Errorf("data root %q: %w", root, err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "snapshots/empty"), 0o755); err != nil {
		return nil, fmt.Errorf("data root %q: %w", root, err)
	}
	if err := s.probePlain(); err != nil {
		return nil, fmt.Errorf("try what the file system of %q can do: %w", root, err)
	}
	// The lock is ours, so a database that is locked all the same is opened by a stranger: do not wait for it.
	o := bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		NoStatistics: true}
	s.bolt, err = bolt.Open(filepath.Join(root, "meta.db"), 0o600, &o)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", filepath.Join(root, "meta.db"), err)
	}
	undo = append(undo, s.bolt.Close)

	if err := s.sweepIngests(); err != nil {
		return nil, err
	}
	s.blobs, err = local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open the blobs of %q: %w", root, err)
	}
	s.layerDB, err = storage.NewMetaStore(filepath.Join(root, "snapshots", "metadata.db"), func(b *bolt.Options) error {
		*b = o
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open the layers of %q: %w", root, err)
	}
	layers, err := overlay.NewSnapshotter(filepath.Join(root, "snapshots"), overlay.WithUpperdirLabel,
		overlay.WithMetaStore(s.layerDB), overlay.AsynchronousRemove)
	if err != nil {
		return nil, fmt.Errorf("open the layers of %q: %w", root, err)
	}
	s.backend = &sized{layers, s.layerDB}
	undo = append(undo, s.backend.Close)

	s.db = metadata.NewDB(s.bolt, s.blobs, map[string]snapshots.Snapshotter{SnapshotterName: s.backend})
	if err := s.db.Init(ctx); err != nil {
		return nil, fmt.Errorf("prepare %q: %w", filepath.Join(root, "meta.db"), err)
	}
	s.snapshotter = s.db.Snapshotter(SnapshotterName)
	s.leases = metadata.NewLeaseManager(s.db)
	if err := s.sweep(s.Context(ctx), s.blobs); err != nil {
		return nil, fmt.Errorf("clean up after an earlier daemon: %w", err)
	}
	if err := s.inheritLeases(s.Context(ctx)); err != nil {
		return nil, fmt.Errorf("take over what an earlier daemon left: %w", err)
	}
	if err := s.dropUnsynced(s.Context(ctx)); err != nil {
		return nil, fmt.Errorf("drop the layers that were not written before the machine went down: %w", err)
	}
	if err := s.sweepTrees(ctx, true); err != nil {
		return nil, fmt.Errorf("clean up after an earlier daemon: %w", err)
	}
	return s, nil
}

// conflict gives an error the kind without its name in the text.
type conflict struct{ error }

func (e *conflict) Unwrap() []error { return []error{e.error, errdefs.ErrConflict} }

// Close waits for removals under way and gives the data root back.
func (s *Store) Close() error {
	s.closed.Do(func() { close(s.closing) })
	s.removals.Wait()
	return errors.Join(s.db.Close(), s.backend.Close(), s.lock.Unlock())
}

// Root is the data root.
func (s *Store) Root() string { return s.root }

// Context returns ctx as the methods of Content, Names and Snapshotter want it.
func (s *Store) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// Content is the store of blobs.
func (s *Store) Content() content.Store { return s.db.ContentStore() }

// Names is the store of image names.
func (s *Store) Names() images.Store { return metadata.NewImageStore(s.db) }

// Snapshotter is the store of layers, as BuildKit wants it.
func (s *Store) Snapshotter() snapshots.Snapshotter { return s.snapshotter }

// Leases is the store of leases.
func (s *Store) Leases() leases.Manager { return s.leases }

// Update runs f as one database transaction. Calls to Content, Names, Leases and to the store with the context that f
// gets are part of it.
func (s *Store) Update(ctx context.Context, f func(ctx context.Context) error) error {
	return s.db.Update(func(tx *bolt.Tx) error { return f(boltutil.WithTransaction(ctx, tx)) })
}

// Lease protects what is made with the returned context from collection until release is called, which has to happen
// also when ctx has been cancelled.
func (s *Store) Lease(ctx context.Context) (_ context.Context, release func(), err error) {
	ctx = s.Context(ctx)
	s.begin.RLock()
	defer s.begin.RUnlock()
	l, err := s.leases.Create(ctx, leases.WithID(uniqueName()))
	if err != nil {
		return nil, nil, fmt.Errorf("protect unfinished work: %w", err)
	}
	s.working.Add(1)
	return leases.WithLease(ctx, l.ID), func() {
		defer s.working.Add(-1)
		// What cannot be deleted here is dropped by the next Open.
		_ = s.leases.Delete(context.WithoutCancel(ctx), l)
	}, nil
}

// GC removes every blob and layer that no name, lease or pinned chain reaches. It returns when their space is free.
func (s *Store) GC(ctx context.Context) error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	// The database does not know of a blob whose beginning met a full disk, so the collector does not either.
	s.begin.Lock()
	if s.working.Load() == 0 {
		if err := s.sweepIngests(); err != nil {
			s.begin.Unlock()
			return err
		}
	}
	s.begin.Unlock()
	return s.collect(s.Context(ctx))
}

// collect is GC with the lock held.
func (s *Store) collect(ctx context.Context) error {
	if _, err := s.db.GarbageCollect(ctx); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	if err := s.sweepTrees(ctx, false); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	s.mu.Lock()
	clear(s.lowers)
	s.mu.Unlock()
	return nil
}

// Disk is the size of the file system that the data root lies on and what is free of it, in bytes, as df counts: without
// what only root may use.
func (s *Store) Disk() (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return 0, 0, fmt.Errorf("look how full %q is: %w", s.root, err)
	}
	free = int64(st.Bavail) * st.Bsize
	return int64(st.Blocks-st.Bfree)*st.Bsize + free, free, nil
}

// Label sets a label of a blob, soon and on nobody's time. That it is lost with the process is no harm.
func (s *Store) Label(d digest.Digest, key, value string) {
	s.removals.Go(func() {
		_, _ = s.Content().Update(s.Context(context.Background()), content.Info{Digest: d, Labels: map[string]string{key: value}}, "labels."+key)
	})
}

// Lock makes the caller the only one to work on what key names. It waits for another one that does; unlock must be
// called.
func (s *Store) Lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		s.mu.Lock()
		busy := s.busy[key]
		if busy == nil {
			done := make(chan struct{})
			s.busy[key] = done
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				delete(s.busy, key)
				s.mu.Unlock()
				close(done)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// uniqueName is a name nobody else uses: for leases, staged layers and ingests.
func uniqueName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	return hex.EncodeToString(b[:])
}

// validID tells whether id may become the name of a directory.
func validID(id string) bool {
	return id != "" && len(id) <= 128 && id[0] != '.' && strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '.' ||
			r == '-')
	}) < 0
}
