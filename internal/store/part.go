package store

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Part opens what there is of a blob that has begun, by the reference of its writer, which the caller has open. The file
// grows with what is written, and stays readable when the blob is committed. The caller closes it.
func (s *Store) Part(ref string) (*os.File, error) {
	var backend string
	err := s.records("content", "ingests", func(name string, b *bolt.Bucket) {
		if name == ref {
			backend = string(b.Get([]byte("ref")))
		}
	})
	if err == nil && backend == "" {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("look for the beginning of %s: %w", ref, err)
	}
	// As containerd's local store lays them out.
	return os.OpenFile(filepath.Join(s.root, "content", "ingest", digest.FromString(backend).Encoded(), "data"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
}
