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
	"syscall"
	"time"

	layers "github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Containers made by vfs and btrfs have a directory with all of their files:
//
//	layers/<id>/vfs     a copy of what the image's layers show
//	layers/<id>/btrfs   a snapshot of trees/<chain>, a subvolume made of the image's layers once
//	layers/<id>/made    its change time is when that was done
//
// A tree shares the data of the layers (FICLONE). It is on the disk before it has its name, and goes when the collector
// has taken the chain.

const (
	treesDir  = "trees"
	newPrefix = ".new-"
	madeFile  = "made"
)

// newWhole makes a container's directory with the files of chain.
func (s *Store) newWhole(ctx context.Context, d Driver, id string, chain digest.Digest) (err error) {
	dir := filepath.Join(s.root, "layers", id)
	root := filepath.Join(dir, d.directory())
	if d == Btrfs {
		tree, unlock, err := s.tree(ctx, chain)
		if err != nil {
			return err
		}
		defer unlock()
		if err := linux.Snapshot(tree, root); err != nil {
			return err
		}
	} else {
		lowers, err := s.Lowers(ctx, chain)
		if err != nil {
			return err
		}
		if err := syscall.Mkdir(root, 0o700); err != nil {
			return err
		}
		if err := copyMerged(ctx, lowers, root); err != nil {
			return err
		}
		// The container's record says that it has these files: they must outlive what it outlives.
		if err := syncfs(dir); err != nil {
			return err
		}
	}
	return markMade(filepath.Join(dir, madeFile), root)
}

// markMade makes the file whose change time is later than that of everything below root, whose own was set last. The kernel's clock
// of files goes in steps of some milliseconds.
func markMade(name, root string) error {
	var last, made unix.Stat_t
	if err := unix.Stat(root, &last); err != nil {
		return &fs.PathError{Op: "stat", Path: root, Err: err}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err := unix.Fstat(int(f.Fd()), &made); err != nil {
			return &fs.PathError{Op: "stat", Path: name, Err: err}
		}
		if made.Ctim.Nano() > last.Ctim.Nano() {
			return nil
		}
		time.Sleep(time.Millisecond)
		if err := f.Chmod(0o600); err != nil { // which sets the change time
			return err
		}
	}
}

func syncfs(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))), f.Close())
}

// tree returns the subvolume with the files of a chain, and makes it first if it is not there. It stays until unlock.
func (s *Store) tree(ctx context.Context, chain digest.Digest) (_ string, unlock func(), err error) {
	name := "empty"
	if chain != "" {
		name = chain.Encoded()
	}
	if unlock, err = s.Lock(ctx, "tree "+name); err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	dir := filepath.Join(s.root, treesDir)
	path := filepath.Join(dir, name)
	if linux.IsSubvolume(path) {
		return path, unlock, nil
	}
	lowers, err := s.Lowers(ctx, chain)
	if err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", nil, err
	}
	next := filepath.Join(dir, newPrefix+uniqueName())
	if err := linux.NewSubvolume(next); err != nil {
		return "", nil, err
	}
	err = copyMerged(ctx, lowers, next)
	if err == nil {
		err = syncfs(next)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return "", nil, errors.Join(err, linux.RemoveSubvolume(next))
	}
	return path, unlock, nil
}

// An entry is what the file system keeps of a file beside its data. Up to inlineData, the data lies in the entry and is not
// shared by clones.
const (
	entryCost  = 512
	inlineData = 2048
)

// TreeSize is the space that the tree of a chain takes beside the layers whose data it shares, in bytes; 0 if there is none. It
// is an estimate of what btrfs tells of nothing but a whole file system.
func (s *Store) TreeSize(ctx context.Context, chain digest.Digest) int64 {
	if chain == "" {
		return 0
	}
	return s.treeSize(ctx, chain.Encoded())
}

func (s *Store) treeSize(ctx context.Context, name string) (size int64) {
	path := filepath.Join(s.root, treesDir, name)
	if _, err := os.Lstat(path); err != nil {
		return 0
	}
	s.mu.Lock()
	size, known := s.treeSizes[name]
	s.mu.Unlock()
	if known { // nobody changes one
		return size
	}
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		size += entryCost
		fi, err := d.Info()
		if err == nil && fi.Mode().IsRegular() && fi.Size() <= inlineData {
			size += fi.Size()
		}
		return err
	})
	if err != nil {
		return 0 // it goes at this moment
	}
	s.mu.Lock()
	s.treeSizes[name] = size
	s.mu.Unlock()
	return size
}

// treesSize adds up all trees.
func (s *Store) treesSize(ctx context.Context) (sum int64, err error) {
	list, err := s.unknownIn(treesDir, func(path string) bool { return strings.HasPrefix(filepath.Base(path), newPrefix) })
	for _, path := range list {
		sum += s.treeSize(ctx, filepath.Base(path))
	}
	return sum, err
}

// sweepTrees removes the trees of chains that are gone, and those that were never finished when nobody is making one.
func (s *Store) sweepTrees(ctx context.Context, alone bool) error {
	list, err := s.strayTrees(alone)
	if err != nil {
		return err
	}
	for _, path := range list {
		unlock, err := s.Lock(ctx, "tree "+filepath.Base(path))
		if err != nil {
			return err
		}
		err = linux.RemoveSubvolume(path)
		s.mu.Lock()
		delete(s.treeSizes, filepath.Base(path))
		s.mu.Unlock()
		unlock()
		if err != nil {
			return fmt.Errorf("remove what an image's files were put together in: %w", err)
		}
	}
	return nil
}

// strayTrees lists them.
func (s *Store) strayTrees(alone bool) ([]string, error) {
	chains, err := s.chains()
	if err != nil {
		return nil, err
	}
	known := map[string]bool{"empty": true}
	for c := range chains {
		_, name, _ := strings.Cut(c, ":")
		known[name] = true
	}
	return s.unknownIn(treesDir, func(path string) bool {
		name := filepath.Base(path)
		return known[name] || !alone && strings.HasPrefix(name, newPrefix)
	})
}

// Changes lists what a container on the chain has changed in its files.
func (s *Store) Changes(ctx context.Context, id string, chain digest.Digest) ([]layers.Change, error) {
	d := s.MadeBy(id)
	if d.whole() {
		c, err := s.compare(ctx, id, chain)
		if err != nil {
			return nil, err
		}
		return c.out, nil
	}
	upper, _ := s.Layer(id)
	lower := func() (*confine.Root, error) {
		f, err := s.mountImage(ctx, d, chain)
		if err != nil {
			return nil, err
		}
		return confine.FromFile(f), nil
	}
	return layers.Changes(ctx, upper, d == FuseOverlay, lower)
}

func (s *Store) compare(ctx context.Context, id string, chain digest.Digest) (*comparer, error) {
	lowers, err := s.Lowers(ctx, chain)
	if err != nil {
		return nil, err
	}
	tree, _ := s.Layer(id)
	var made unix.Stat_t
	if err := unix.Stat(filepath.Join(s.root, "layers", id, madeFile), &made); err != nil {
		made.Ctim = unix.Timespec{} // everything is looked into
	}
	return compare(ctx, tree, lowers, made.Ctim)
}

// PackLayer writes what a container on the chain has changed as the archive of a layer. all is what Changes has said, and
// what skip is true for is left out of it.
func (s *Store) PackLayer(ctx context.Context, id string, all []layers.Change, w io.Writer, skip func(path string) bool) error {
	dir, _ := s.Layer(id)
	root, err := confine.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if s.MadeBy(id).whole() {
		return layers.PackChanges(ctx, root, w, all, skip)
	}
	return layers.PackLayer(ctx, root, w, skip)
}

// LayerSize is the space a container's layer on the chain takes on the disk, in bytes, without what it was made with. Files
// that go away meanwhile do not count.
func (s *Store) LayerSize(ctx context.Context, id string, chain digest.Digest) (size int64, err error) {
	if !validID(id) {
		return 0, fmt.Errorf("%q cannot name a layer: %w", id, errdefs.ErrInvalidArgument)
	}
	if upper, _ := s.Layer(id); !s.MadeBy(id).whole() {
		size, err = usage(ctx, upper)
	} else if c, cerr := s.compare(ctx, id, chain); cerr == nil {
		size = c.size
	} else {
		err = cerr
	}
	if err != nil {
		return 0, fmt.Errorf("measure layer %q: %w", id, err)
	}
	return size, nil
}
