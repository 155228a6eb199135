// Package archive moves files between tar archives and trees that are not trusted: `docker cp`, `export`, `diff`, and
// filling a volume from an image. It owns no state.
//
// # How a hostile tree is kept out
//
// The tree belongs to a container that may run and may swap any directory for a symbolic link at any moment
// (CVE-2018-15664), and the archive comes from a client. Two rules hold everywhere:
//
//   - A path given by somebody is resolved by the kernel inside the tree (package confine), once, to a file descriptor.
//   - From there on every step is one name below a descriptor, never following a link.
//
// Refused: absolute or ".." names in archives that lead out of the destination (they are cleaned against it), hard links to
// things outside, device nodes where the caller has not allowed them, sockets. Nothing is ever executed, neither to
// decompress (CVE-2026-41567) nor to look up users.
package archive

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// PathStat is what the API tells of a path in a container.
type PathStat struct {
	Name       string
	Size       int64
	Mode       fs.FileMode
	Mtime      time.Time
	LinkTarget string // for a symbolic link: where it leads, as a path in the container
}

// Stat tells what is at name. The last element is not followed when it is a symbolic link, unless name ends in "/" or "/.".
func Stat(root *confine.Root, name string) (PathStat, error) {
	f, err := openLast(root, name)
	if err != nil {
		return PathStat{}, notFound(name, err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return PathStat{}, fmt.Errorf("look at %q in the container: %w", name, err)
	}
	st := PathStat{Name: path.Base(path.Clean("/" + name)), Size: fi.Size(), Mode: fi.Mode(), Mtime: fi.ModTime()}
	if fi.Mode()&fs.ModeSymlink != 0 {
		if target, err := root.Resolve(name); err == nil {
			st.LinkTarget = target
		} else if text, err := root.Readlink(name); err == nil {
			st.LinkTarget = text
			if !path.IsAbs(text) {
				st.LinkTarget = path.Join(path.Dir(path.Clean("/"+name)), text)
			}
		}
	}
	return st, nil
}

// openLast opens name as a place only (O_PATH), without following its last element.
func openLast(root *confine.Root, name string) (*os.File, error) {
	clean := path.Clean("/" + name)
	if clean == "/" || followsLast(name) {
		return root.OpenFile(clean, unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	return root.OpenFile(clean, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// followsLast says whether the caller means the directory behind a link: "x/" and "x/.".
func followsLast(name string) bool {
	return strings.HasSuffix(name, "/") || strings.HasSuffix(name, "/.")
}

// kind lets an error carry an errdefs kind without its words.
type kind struct{ error }

func (kind) Error() string   { return "" }
func (k kind) Unwrap() error { return k.error }

func notFound(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("Could not find the file %s in container%w", name, kind{errdefs.ErrNotFound})
	}
	return fmt.Errorf("open %q in the container: %w", name, err)
}
