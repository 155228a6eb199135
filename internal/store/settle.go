package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The database says durably that a layer is there before the kernel has written the layer's files, which takes as
// long as the disk needs and must not be waited for. Until then the layer stands in the file "unsynced":
//
//	<boot id>
//	<chain ID>
//	…
//
// It is appended to and synced before each commit, and removed after a sync of the whole file system that follows the
// last one, in the background. A daemon that finds the file of an earlier boot takes the layers in it, and all above
// them, for lost: the machine went down before their files were written. Their blobs were synced, so they can be
// unpacked once more.

const unsyncedFile = "unsynced"

// unsynced is the state of that file.
type unsynced struct {
	f      *os.File // nil if there is none
	notes  int      // how many were ever written
	syncer bool     // somebody syncs
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("ask for the boot's ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// note writes down that a chain is about to be committed whose files are not synced.
func (s *Store) note(chain digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := filepath.Join(s.root, unsyncedFile)
	text := chain.String() + "\n"
	if s.unsynced.f == nil {
		boot, err := bootID()
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		dir, err := os.Open(s.root)
		if err == nil {
			err = errors.Join(dir.Sync(), dir.Close())
		}
		if err != nil {
			_ = f.Close()
			return err
		}
		s.unsynced.f, text = f, boot+"\n"+text
	}
	s.unsynced.notes++
	if _, err := s.unsynced.f.WriteString(text); err != nil {
		return err
	}
	return unix.Fdatasync(int(s.unsynced.f.Fd()))
}

// Settle has what was unpacked written to the disk, in the background. It is called after each piece of work.
func (s *Store) Settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsynced.f == nil || s.unsynced.syncer {
		return
	}
	s.unsynced.syncer = true
	s.removals.Go(s.settle)
}

func (s *Store) settle() {
	for {
		s.mu.Lock()
		notes := s.unsynced.notes
		s.mu.Unlock()
		dir, err := os.Open(s.root)
		if err == nil {
			err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
		}
		s.mu.Lock()
		if err == nil && notes != s.unsynced.notes {
			s.mu.Unlock()
			continue
		}
		s.unsynced.syncer = false
		if err == nil {
			// That the removal itself is not synced costs at most some work after a power cut.
			_ = s.unsynced.f.Close()
			_ = os.Remove(filepath.Join(s.root, unsyncedFile))
			s.unsynced.f = nil
		}
		s.mu.Unlock()
		return
	}
}

// dropUnsynced removes the layers whose files an earlier boot may not have written.
func (s *Store) dropUnsynced(ctx context.Context) error {
	path := filepath.Join(s.root, unsyncedFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	lines := bytes.Split(data, []byte("\n"))
	if string(lines[0]) == boot {
		// Only the process died: the kernel has all of it.
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		s.unsynced.f = f
		s.Settle()
		return nil
	}
	// The last line may be cut short, and then its layer was not committed.
	lost := map[string]bool{}
	for _, l := range lines[1:] {
		lost[string(l)] = true
	}
	n, err := s.dropLayers(ctx, lost)
	if err != nil {
		return err
	}
	s.lost = n > 0
	return os.Remove(path)
}

// dropLayers removes layers and all that stand on them, and says how many those were.
func (s *Store) dropLayers(ctx context.Context, lost map[string]bool) (int, error) {
	parents, err := s.chains()
	if err != nil {
		return 0, err
	}
	children := map[string][]string{}
	var begin []string
	for name, parent := range parents {
		children[parent] = append(children[parent], name)
		if lost[name] {
			begin = append(begin, name)
		}
	}
	removed := 0
	var drop func(name string) error
	drop = func(name string) error {
		for _, c := range children[name] {
			if err := drop(c); err != nil {
				return err
			}
		}
		err := s.snapshotter.Remove(ctx, name)
		if errdefs.IsNotFound(err) {
			return nil // it stood on another one that is lost
		}
		removed++
		return err
	}
	for _, name := range begin {
		if err := drop(name); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// Lost tells whether layers were lost in a power cut and have to be unpacked again.
func (s *Store) Lost() bool { return s.lost }
