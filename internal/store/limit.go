package store

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// firstProject is where the projects of our layers begin, far from those that people number by hand.
const firstProject = 0x6272_0000

// LimitLayer bounds what a container can write into its layer, in bytes: the layer becomes a project of its own, to which the
// file system gives no more, or on btrfs a limited quota group. The error wraps errdefs.ErrInvalidArgument where there is no
// such thing.
func (s *Store) LimitLayer(id string, bytes int64) error {
	if !validID(id) {
		return fmt.Errorf("%q cannot name a layer: %w", id, errdefs.ErrInvalidArgument)
	}
	switch d := s.MadeBy(id); d {
	case VFS, FuseOverlay:
		return &noQuota{fmt.Errorf("--storage-opt size is not possible here: the storage driver %s cannot bound what a container writes; "+
			"overlay2 on XFS or ext4 with prjquota and btrfs can", d)}
	case Btrfs:
		dir, _ := s.Layer(id)
		if err := linux.LimitSubvolume(dir, bytes); err != nil {
			return fmt.Errorf("limit layer %q: %w", id, err)
		}
		return nil
	}
	project, err := s.newProject()
	if err != nil {
		return fmt.Errorf("limit layer %q: %w", id, err)
	}
	dir := filepath.Join(s.root, "layers", id)
	err = linux.SetProjectLimit(dir, project, bytes)
	upper, work := s.Layer(id)
	for _, d := range []string{dir, upper, work} {
		if err == nil {
			err = linux.SetProject(d, project)
		}
	}
	if linux.NoProjectQuotas(err) {
		return &noQuota{fmt.Errorf("--storage-opt size is not possible here: the data root %s lies on %s without project quotas; "+
			"XFS and ext4 have them when they are mounted with the option prjquota", s.root, s.Filesystem())}
	}
	if err != nil {
		return fmt.Errorf("limit layer %q: %w", id, err)
	}
	return nil
}

// noQuota gives an error its kind without the kind's name in the text.
type noQuota struct{ error }

func (e *noQuota) Unwrap() []error { return []error{e.error, errdefs.ErrInvalidArgument} }

// newProject is a number that no layer has.
func (s *Store) newProject() (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.project == 0 {
		entries, err := os.ReadDir(filepath.Join(s.root, "layers"))
		if err != nil {
			return 0, err
		}
		s.project = firstProject
		for _, e := range entries {
			// A file system that knows no projects says so when the limit is set.
			if p, err := linux.Project(filepath.Join(s.root, "layers", e.Name())); err == nil {
				s.project = max(s.project, p)
			}
		}
	}
	s.project++
	return s.project, nil
}

// removeLimited removes a layer that nobody can reach any more, and its limit.
func (s *Store) removeLimited(gone string) {
	project, err := linux.Project(gone)
	if removeAll(gone) == nil && err == nil && project > firstProject {
		// Where this fails, the limit of a number without files is left.
		_ = linux.SetProjectLimit(s.root, project, 0)
	}
}

// SizeLimits tells why LimitLayer does not work for new containers, in words; "" says that it does.
func (s *Store) SizeLimits() string {
	switch s.driver {
	case Btrfs:
		return ""
	case VFS, FuseOverlay:
		return "not with " + string(s.driver)
	}
	if linux.ProjectQuotas(s.root) != nil {
		return s.Filesystem() + " without project quotas"
	}
	return ""
}

// Filesystem names what the data root lies on, with Docker's names.
func (s *Store) Filesystem() string {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return "unknown"
	}
	switch st.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "extfs"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case 0x2fc12fc1: // ZFS_SUPER_MAGIC, which the kernel's headers do not have
		return "zfs"
	}
	return fmt.Sprintf("0x%x", st.Type)
}
