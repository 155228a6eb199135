package archive

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"github.com/berth-engine/berth/internal/confine"
	"golang.org/x/sys/unix"
)

// ChangeKind says what happened to a path; the numbers are the Docker API's.
type ChangeKind uint8

// The kinds of changes.
const (
	Modified ChangeKind = 0
	Added    ChangeKind = 1
	Deleted  ChangeKind = 2
)

// Change is one path that differs from the image.
type Change struct {
	Path string
	Kind ChangeKind
}

// Changes compares an overlay's upper directory with what lies below it. lower is opened only if something changed. A
// whiteout (a 0:0 character device, kernel documentation overlayfs.rst) is a deletion. With fuse it was written by
// fuse-overlayfs, which may hide a name by an empty file ".wh.name" as well; containers cannot make such files then.
func Changes(ctx context.Context, upper string, fuse bool, lower func() (*confine.Root, error)) ([]Change, error) {
	var out []Change
	var below *confine.Root
	defer func() {
		if below != nil {
			_ = below.Close()
		}
	}()
	err := filepath.WalkDir(upper, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // the container goes on while we look
				return nil
			}
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(upper, p)
		if err != nil || rel == "." {
			return err
		}
		name := path.Join("/", rel)
		hides := false
		if base, ok := strings.CutPrefix(path.Base(name), whiteoutPrefix); ok && fuse {
			if path.Base(name) == whiteoutOpaque || path.Base(name) == fuseOpaque {
				return nil
			}
			name, hides = path.Join(path.Dir(name), base), true
		}
		if below == nil {
			if below, err = lower(); err != nil {
				return err
			}
		}
		was, err := below.Lstat(name)
		there := err == nil
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return nil
		}
		switch {
		case hides || isWhiteout(&st):
			if there {
				out = append(out, Change{name, Deleted})
			}
		case there:
			_ = was
			out = append(out, Change{name, Modified})
		default:
			out = append(out, Change{name, Added})
		}
		return nil
	})
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, err
}
