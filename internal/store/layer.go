package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// removedPrefix marks a layer that is gone for everybody and is still being taken off the disk.
const removedPrefix = ".removed-"

// NewLayer makes the directories a container writes into, for the file system that stands on chain: the root
// directory gets the mode and the owner that the image gives to its own. Without a chain they are 0755 and root's.
// The error wraps errdefs.ErrAlreadyExists when id has a layer.
//
// Nothing of an overlay is synced: without the container's record the layer is worth nothing.
func (s *Store) NewLayer(ctx context.Context, id string, chain digest.Digest) (err error) {
	if !validID(id) {
		return fmt.Errorf("%q cannot name a layer: %w", id, errdefs.ErrInvalidArgument)
	}
	dir := filepath.Join(s.root, "layers", id)
	if err := syscall.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("layer %q: %w", id, errdefs.ErrAlreadyExists)
		}
		return fmt.Errorf("make layer %q: %w", id, err)
	}
	if s.driver.whole() {
		err = s.newWhole(ctx, s.driver, id, chain)
	} else {
		err = s.newUpper(ctx, dir, chain)
	}
	if err != nil {
		_ = removeAll(dir)
		return fmt.Errorf("make layer %q: %w", id, err)
	}
	return nil
}

// newUpper makes the directories of an overlay.
func (s *Store) newUpper(ctx context.Context, dir string, chain digest.Digest) error {
	perm, uid, gid := uint32(0o755), -1, -1
	if chain != "" {
		lowers, err := s.Lowers(ctx, chain)
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(lowers[0], &st); err != nil {
			return fmt.Errorf("look at the image's root directory: %w", err)
		}
		perm, uid, gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
	}
	upper, work := filepath.Join(dir, s.driver.directory()), filepath.Join(dir, "work")
	err := errors.Join(syscall.Mkdir(work, 0o700), syscall.Mkdir(upper, 0o700), syscall.Chmod(upper, perm))
	if err == nil && uid > 0 || gid > 0 {
		err = errors.Join(syscall.Chown(upper, uid, gid), syscall.Chmod(upper, perm))
	}
	return err
}

// Layer tells where the directories of a container's layer are, whether they exist or not.
func (s *Store) Layer(id string) (upper, work string) {
	dir := filepath.Join(s.root, "layers", id)
	return filepath.Join(dir, s.MadeBy(id).directory()), filepath.Join(dir, "work")
}

// RemoveLayer removes a container's layer. The name is free when it returns; the space is freed soon after. It is no
// error if there is none.
func (s *Store) RemoveLayer(id string) error {
	if !validID(id) {
		return fmt.Errorf("%q cannot name a layer: %w", id, errdefs.ErrInvalidArgument)
	}
	gone := filepath.Join(s.root, "layers", removedPrefix+uniqueName())
	err := os.Rename(filepath.Join(s.root, "layers", id), gone)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove layer %q: %w", id, err)
	}
	s.removeSoon(gone)
	return nil
}

// removeRest is how long a removal waits before the files go. Whoever asked for it is on his way meanwhile, as is what he does next: where
// every directory that goes makes the disk discard something, he would wait for ours.
const removeRest = 50 * time.Millisecond

// removeSoon takes the directory of a removed layer off the disk, after others that wait for it. What cannot be removed now, an immutable
// file for instance, is tried again by the next SweepLayers.
func (s *Store) removeSoon(gone string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = append(s.gone, gone)
	if len(s.gone) > 1 {
		return // somebody is at it
	}
	s.removals.Go(func() {
		select {
		case <-time.After(removeRest):
		case <-s.closing:
		}
		for more := true; more; {
			s.mu.Lock()
			next := s.gone[0]
			s.mu.Unlock()
			s.removeLimited(next)
			s.mu.Lock()
			s.gone = s.gone[1:]
			more = len(s.gone) > 0
			s.mu.Unlock()
		}
	})
}

// SweepLayers removes the layers that keep does not want, and the rests of those removed before.
func (s *Store) SweepLayers(keep func(id string) bool) error {
	entries, err := os.ReadDir(filepath.Join(s.root, "layers"))
	if err != nil {
		return fmt.Errorf("list layers: %w", err)
	}
	var errs []error
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, removedPrefix):
			s.removeSoon(filepath.Join(s.root, "layers", name))
		case validID(name) && !keep(name):
			errs = append(errs, s.RemoveLayer(name))
		}
	}
	return errors.Join(errs...)
}

// removeAll removes a layer's directory, of which a part may be a subvolume.
func removeAll(dir string) error {
	sub := filepath.Join(dir, Btrfs.directory())
	if !linux.IsSubvolume(sub) {
		return os.RemoveAll(dir)
	}
	group, err := linux.SubvolumeID(sub)
	if rerr := linux.RemoveSubvolume(sub); rerr != nil {
		return rerr
	}
	if err == nil {
		_ = linux.DropQuotaGroup(dir, group) // newer kernels have done so, and most have none
	}
	return os.RemoveAll(dir)
}

// usage adds up the blocks of everything below dir, hard links once. The directory itself does not count.
func usage(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	var size int64
	seen := map[inode]struct{}{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var fi fs.FileInfo
		if err == nil && path != dir {
			fi, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) && path != dir {
			return nil
		}
		if err != nil || fi == nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if st.Nlink > 1 && !fi.IsDir() {
			if _, dup := seen[inode{st.Dev, st.Ino}]; dup {
				return nil
			}
			seen[inode{st.Dev, st.Ino}] = struct{}{}
		}
		size += st.Blocks * 512
		return nil
	})
	return size, err
}
