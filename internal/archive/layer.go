package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/berth-engine/berth/internal/confine"
	"golang.org/x/sys/unix"
)

// Names of a layer's archive that hide what lies below (OCI image specification, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"

	// fuseOpaque is a whiteout that fuse-overlayfs makes in an opaque directory beside whiteoutOpaque.
	fuseOpaque = ".wh..opq"
)

// PackLayer writes an overlay's upper directory as the archive of a layer: what the kernel keeps as a 0:0 character
// device or as an opaque directory becomes a whiteout. Paths for which skip is true ("/etc/hosts") are left out, though
// not what is below them.
func PackLayer(ctx context.Context, upper *confine.Root, w io.Writer, skip func(path string) bool) error {
	p := packer{ctx: ctx, tw: tar.NewWriter(w), links: map[inode]string{}, layer: true, skip: skip}
	if err := p.add(int(upper.File().Fd()), ".", ".", false, 0); err != nil {
		return fmt.Errorf("read the layer: %w", err)
	}
	return p.tw.Close()
}

// PackChanges writes the archive of a layer from a whole file system of which changed tells how it differs from what lies
// below. Paths for which skip is true are left out.
func PackChanges(ctx context.Context, root *confine.Root, w io.Writer, changed []Change, skip func(path string) bool) error {
	keep := map[string]bool{}
	p := packer{ctx: ctx, tw: tar.NewWriter(w), links: map[inode]string{}, skip: func(path string) bool { return !keep[path] }}
	for _, c := range changed {
		switch {
		case c.Kind != Deleted:
			keep[c.Path] = !skip(c.Path)
		case !skip(c.Path):
			if err := p.whiteout(strings.TrimPrefix(c.Path, "/")); err != nil {
				return err
			}
		}
	}
	if err := p.add(int(root.File().Fd()), ".", ".", true, 0); err != nil {
		return fmt.Errorf("read the layer: %w", err)
	}
	return p.tw.Close()
}

// whiteout writes an entry that hides name of the layers below.
func (p *packer) whiteout(name string) error {
	dir, base := "", name
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			dir, base = name[:i+1], name[i+1:]
			break
		}
	}
	return p.tw.WriteHeader(&tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: dir + whiteoutPrefix + base,
		Mode: 0o600})
}

// isWhiteout tells how overlayfs hides a name (kernel: Documentation/filesystems/overlayfs.rst).
func isWhiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// overlayState reads what overlayfs notes on a file of an upper directory.
func overlayState(fd int, name string) (opaque bool, err error) {
	one := make([]byte, 1)
	for _, moved := range []string{"trusted.overlay.redirect", "trusted.overlay.metacopy"} {
		if _, err := unix.Fgetxattr(fd, moved, nil); err == nil {
			return false, fmt.Errorf("%q is a copy that stands for a path of the image (%s): mount overlays with redirect_dir=off "+
				"and metacopy=off", name, moved)
		}
	}
	n, err := unix.Fgetxattr(fd, "trusted.overlay.opaque", one)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ERANGE) {
		return false, nil // overlayfs writes one letter; "x" is for directories with whiteouts of another kind
	}
	return err == nil && n == 1 && one[0] == 'y', err
}
