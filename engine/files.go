package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/decompress"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Files is the way into containers' file systems: cp, export, diff. Every path is resolved by the kernel inside the
// container's root, so that no link leads out of it, however it is swapped (CVE-2018-15664).
type Files struct{ e *Engine }

// view is a container's file system for the time of one operation.
type view struct {
	*confine.Root
	rec     container.Record
	release undoStack
}

// close ends the view.
func (v *view) close() {
	_ = v.Root.Close()
	v.release.run()
}

// view opens the container's file system as its processes see it, or, when it does not run, its layers with its volumes and
// binds on them. As long as that is open, the container cannot be started: two mounts of one layer may not be written to.
func (f *Files) view(ctx context.Context, ref string) (*view, error) {
	rec, err := f.e.Containers.Get(ref)
	if err != nil {
		return nil, err
	}
	if rec.State.Alive() {
		if v, err := f.running(ctx, rec); err == nil {
			return v, nil
		}
	}
	l, rec, err := f.e.acquire(ctx, rec.ID)
	if err != nil {
		return nil, err
	}
	if rec.State.Alive() { // started meanwhile
		defer l.release()
		return f.running(ctx, rec)
	}
	if err := l.settled(ctx); err != nil {
		l.release()
		return nil, err
	}
	v := &view{rec: rec, release: undoStack{l.release}}
	dir, err := f.e.mountRoot(ctx, rec)
	if err != nil {
		v.release.run()
		return nil, err
	}
	v.Root = confine.FromFile(dir)
	ns, err := f.e.mountStopped(ctx, rec, dir)
	if err != nil {
		v.close()
		return nil, err
	}
	v.release.add(func() { _ = ns.Close() })
	return v, nil
}

func (f *Files) running(ctx context.Context, rec container.Record) (*view, error) {
	rec, c, err := f.e.running(rec.ID)
	if err != nil {
		return nil, err
	}
	dir, err := os.Open(fmt.Sprintf("/proc/%d/root", rec.State.Pid))
	if err != nil {
		return nil, fmt.Errorf("container %q is not running%w", rec.Name, kind{errdefs.ErrConflict})
	}
	// Had it ended before we looked, its number could be another process's by now.
	if err := c.Signal(ctx, 0); err != nil {
		_ = dir.Close()
		return nil, fmt.Errorf("container %q is not running%w", rec.Name, kind{errdefs.ErrConflict})
	}
	return &view{Root: confine.FromFile(dir), rec: rec}, nil
}

// mountStopped puts a stopped container's volumes and binds on its root, which is a mount that stands nowhere. It does so in
// a mount namespace that nobody else sees, and that the file keeps.
func (e *Engine) mountStopped(ctx context.Context, rec container.Record, root *os.File) (*os.File, error) {
	var ns *os.File
	err := linux.OnThread(func() error {
		if err := linux.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		top, err := os.Open("/")
		if err != nil {
			return err
		}
		defer top.Close()
		// What is mounted here must not turn up in the host's namespace.
		if err := linux.MountSetattr(top, &unix.MountAttr{Propagation: unix.MS_PRIVATE}, true); err != nil {
			return err
		}
		// Sources are looked up here, since only what is in this namespace can be copied from within it.
		all, pinned, err := e.userMounts(ctx, rec)
		defer closeAll(pinned)
		if err != nil {
			return err
		}
		all = slices.DeleteFunc(all, func(m specs.Mount) bool { return m.Type != "bind" })
		slices.SortStableFunc(all, func(a, b specs.Mount) int {
			return strings.Count(path.Clean(a.Destination), "/") - strings.Count(path.Clean(b.Destination), "/")
		})
		place, err := os.Open(e.opts.ExecRoot)
		if err != nil {
			return err
		}
		defer place.Close()
		if err := linux.MoveMount(root, place); err != nil {
			return err
		}
		for _, m := range all {
			if err := bindBelow(root, m); err != nil {
				return fmt.Errorf("mount %q on %q: %w", m.Source, m.Destination, err)
			}
		}
		ns, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mount the volumes of container %q: %w", rec.Name, err)
	}
	return ns, nil
}

// bindBelow puts a copy of a host's tree on its place in the tree root, which is made when absent.
func bindBelow(root *os.File, m specs.Mount) error {
	recursive := slices.Contains(m.Options, "rbind")
	flags := uint(unix.OPEN_TREE_CLONE)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := linux.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return err
	}
	defer tree.Close()
	st, err := tree.Stat()
	if err != nil {
		return err
	}
	if slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro") {
		if err := linux.MountSetattr(tree, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}, recursive); err != nil {
			return err
		}
	}
	inside := confine.FromFile(root)
	target, err := inside.OpenPath(m.Destination)
	if errors.Is(err, fs.ErrNotExist) && st.IsDir() {
		target, err = inside.OpenDirAll(m.Destination, 0o755, 0, 0)
	} else if errors.Is(err, fs.ErrNotExist) {
		if err := inside.MkdirAll(path.Dir(path.Clean(m.Destination)), 0o755, 0, 0); err != nil {
			return err
		}
		target, err = inside.Create(m.Destination, 0o644, 0, 0)
	}
	if err != nil {
		return err
	}
	defer target.Close()
	return linux.MoveMount(tree, target)
}

// Stat tells what is at path.
func (f *Files) Stat(ctx context.Context, ref, path string) (archive.PathStat, error) {
	v, err := f.view(ctx, ref)
	if err != nil {
		return archive.PathStat{}, err
	}
	defer v.close()
	return archive.Stat(v.Root, path)
}

// CopyOut writes what is at path as a tar archive.
func (f *Files) CopyOut(ctx context.Context, ref, path string, begin func(archive.PathStat) (io.Writer, error)) error {
	v, err := f.view(ctx, ref)
	if err != nil {
		return err
	}
	defer v.close()
	st, err := archive.Stat(v.Root, path)
	if err != nil {
		return err
	}
	w, err := begin(st)
	if err != nil {
		return err
	}
	if err := archive.Pack(ctx, v.Root, path, w, archive.PackOptions{}); err != nil {
		return err
	}
	f.e.publish(v.rec, "archive-path", nil)
	return nil
}

// CopyIn unpacks a tar archive, compressed or not, into the directory at path.
func (f *Files) CopyIn(ctx context.Context, ref, path string, r io.Reader, o archive.UnpackOptions) error {
	v, err := f.view(ctx, ref)
	if err != nil {
		return err
	}
	defer v.close()
	plain, err := decompress.Reader(r)
	if err != nil {
		return err
	}
	defer plain.Close()
	if err := archive.Unpack(ctx, v.Root, path, plain, o); err != nil {
		return err
	}
	f.e.publish(v.rec, "extract-to-dir", nil)
	return nil
}

// Export writes the whole file system as a tar archive, without volumes and mounts.
func (f *Files) Export(ctx context.Context, ref string, w io.Writer) error {
	rec, err := f.e.Containers.Get(ref)
	if err != nil {
		return err
	}
	dir, err := f.e.mountToRead(ctx, rec)
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
	all, err := f.e.store.Changes(ctx, rec.ID, digest.Digest(rec.Chain))
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
