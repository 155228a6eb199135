package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
)

// Files is the way into containers' file systems: cp, export, diff. Every path is resolved by the kernel inside the
// container's root, so that no link leads out of it, however it is swapped (CVE-2018-15664).
type Files struct{ e *Engine }

// root opens the container's file system as its processes see it, or, when it does not run, its layers with its volumes.
func (f *Files) root(ctx context.Context, ref string) (container.Record, *confine.Root, error) {
	rec, err := f.e.Containers.Get(ref)
	if err != nil {
		return rec, nil, err
	}
	if rec.State.Alive() {
		dir, err := os.Open(fmt.Sprintf("/proc/%d/root", rec.State.Pid))
		if err == nil {
			return rec, confine.FromFile(dir), nil
		}
	}
	dir, err := f.e.mountRoot(ctx, rec)
	if err != nil {
		return rec, nil, err
	}
	return rec, confine.FromFile(dir), nil
}

// Stat tells what is at path.
func (f *Files) Stat(ctx context.Context, ref, path string) (archive.PathStat, error) {
	_, root, err := f.root(ctx, ref)
	if err != nil {
		return archive.PathStat{}, err
	}
	defer root.Close()
	return archive.Stat(root, path)
}

// CopyOut writes what is at path as a tar archive.
func (f *Files) CopyOut(ctx context.Context, ref, path string, begin func(archive.PathStat) (io.Writer, error)) error {
	rec, root, err := f.root(ctx, ref)
	if err != nil {
		return err
	}
	defer root.Close()
	st, err := archive.Stat(root, path)
	if err != nil {
		return err
	}
	w, err := begin(st)
	if err != nil {
		return err
	}
	if err := archive.Pack(ctx, root, path, w, archive.PackOptions{}); err != nil {
		return err
	}
	f.e.publish(rec, "archive-path", nil)
	return nil
}

// CopyIn unpacks a tar archive into the directory at path.
func (f *Files) CopyIn(ctx context.Context, ref, path string, r io.Reader, o archive.UnpackOptions) error {
	rec, root, err := f.root(ctx, ref)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := archive.Unpack(ctx, root, path, r, o); err != nil {
		return err
	}
	f.e.publish(rec, "extract-to-dir", nil)
	return nil
}

// Export writes the whole file system as a tar archive, without volumes and mounts.
func (f *Files) Export(ctx context.Context, ref string, w io.Writer) error {
	rec, err := f.e.Containers.Get(ref)
	if err != nil {
		return err
	}
	dir, err := f.e.mountRoot(ctx, rec)
	if err != nil {
		return err
	}
	root := confine.FromFile(dir)
	defer root.Close()
	if err := archive.Pack(ctx, root, "/", w, archive.PackOptions{Contents: true}); err != nil {
		return err
	}
	f.e.publish(rec, "export", nil)
	return nil
}

// Changes lists what the container has changed in its file system.
func (f *Files) Changes(ctx context.Context, ref string) ([]archive.Change, error) {
	rec, err := f.e.Containers.Get(ref)
	if err != nil {
		return nil, err
	}
	upper, _ := f.e.store.Layer(rec.ID)
	all, err := archive.Changes(ctx, upper, func() (*confine.Root, error) {
		lower, err := f.e.mountLower(ctx, rec)
		if err != nil {
			return nil, err
		}
		return confine.FromFile(lower), nil
	})
	if err != nil {
		return nil, err
	}
	return withoutMountPoints(all, rec), nil
}

// withoutMountPoints leaves out the empty files and directories that were made for mounts, and the directories that changed
// for nothing but those.
func withoutMountPoints(all []archive.Change, rec container.Record) []archive.Change {
	points := map[string]bool{"/etc/hosts": true, "/etc/hostname": true, "/etc/resolv.conf": true, "/proc": true,
		"/sys": true, "/dev": true}
	for _, m := range rec.Config.Mounts {
		points[path.Clean(m.Target)] = true
	}
	for dest := range rec.Config.Tmpfs {
		points[path.Clean(dest)] = true
	}
	parents := map[string]bool{} // of mount points
	rest := slices.DeleteFunc(slices.Clone(all), func(c archive.Change) bool {
		made := c.Kind == archive.Added && points[c.Path]
		for dir := path.Dir(c.Path); made && dir != "/"; dir = path.Dir(dir) {
			parents[dir] = true
		}
		return made
	})
	return slices.DeleteFunc(rest, func(c archive.Change) bool {
		return parents[c.Path] && c.Kind != archive.Deleted && !slices.ContainsFunc(rest, func(other archive.Change) bool {
			return strings.HasPrefix(other.Path, c.Path+"/") && !parents[other.Path]
		})
	})
}

func ownerOf(fi os.FileInfo) uint32 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Uid
	}
	return 0
}
