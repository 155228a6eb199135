package image

import (
	"archive/tar"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names of a layer's archive that hide what lies below (OCI image specification, layer.md), and the kind of a directory.
const (
	directory  = "directory"
	hidePrefix = ".wh."
	hideAll    = ".wh..wh..opq"
)

// maxWaste is how many of the paths that waste most are told.
const maxWaste = 100

// ExploreOptions say what to look at.
type ExploreOptions struct {
	Platform string
	Layer    int    // the files of this layer alone, the bottom one is 1; 0 for none or, with Path, of all
	Path     string // the files at and below it alone
}

// Explored is what the layers of an image hold.
type Explored struct {
	Image  *Image
	Size   int64 // bytes of the files that a container sees
	Wasted int64 // bytes of files that layers above hide
	Layers []ExploredLayer
	Waste  []Waste // the worst first
}

// ExploredLayer is one step in the making of an image.
type ExploredLayer struct {
	Number    int // the bottom one is 1
	Diff      digest.Digest
	Blob      ocispec.Descriptor
	Created   time.Time
	CreatedBy string
	Size      int64 // bytes of its files
	Added     int   // paths that were not there
	Changed   int   // paths that take the place of others, or change a directory's owner or mode
	Removed   int   // paths that it takes away, each tree counted once
	Hidden    int64 // bytes of files below that it hides
	Files     []ExploredFile
}

// ExploredFile is what one layer does to one path.
type ExploredFile struct {
	Path   string // "/etc/passwd"
	Change string // "added", "changed", "removed"
	Kind   string // "file", "directory", "symlink", "hardlink", "device", "fifo"
	Link   string // where a link leads
	Mode   int64
	UID    int
	GID    int
	Size   int64
	Hidden int64 // bytes that it hides
	Below  int   // number of the layer that had it before, 0 for none
}

// Waste is a path whose bytes are in layers and in no container.
type Waste struct {
	Path   string
	Bytes  int64
	Copies int // how many files are hidden
}

// Explore tells which layer of an image brought which file, and what each replaced and hid. It reads the layers as they
// came.
func (im *Images) Explore(ctx context.Context, nameOrID string, o ExploreOptions) (*Explored, error) {
	ctx, release, err := im.store.Lease(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	img, err := im.Resolve(ctx, nameOrID, o.Platform)
	if err != nil {
		return nil, err
	}
	d, err := im.document(ctx, img.Manifest)
	if err != nil {
		return nil, err
	}
	if o.Layer < 0 || o.Layer > len(d.Layers) {
		return nil, withKind(errdefs.ErrInvalidArgument, "there is no layer %d: the image %q has %d", o.Layer, nameOrID, len(d.Layers))
	}
	if o.Path != "" {
		o.Path = path.Clean("/" + o.Path)
	}
	x := &explorer{options: o, root: &place{kind: directory}, waste: map[string]*Waste{}}
	out := &Explored{Image: img}
	steps := slices.DeleteFunc(slices.Clone(img.Config.History), func(h ocispec.History) bool { return h.EmptyLayer })
	for i, blob := range d.Layers {
		l := ExploredLayer{Number: i + 1, Diff: img.Layers[i], Blob: blob, Created: img.Created}
		if i < len(steps) {
			l.CreatedBy = steps[i].CreatedBy
			if l.CreatedBy == "" {
				l.CreatedBy = steps[i].Comment
			}
			if steps[i].Created != nil {
				l.Created = *steps[i].Created
			}
		}
		if err := im.exploreLayer(ctx, x, &l); err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", l.Number, short(blob.Digest), err)
		}
		out.Layers = append(out.Layers, l)
		out.Wasted += l.Hidden
		out.Size += l.Size - l.Hidden
	}
	for _, w := range x.waste {
		out.Waste = append(out.Waste, *w)
	}
	slices.SortFunc(out.Waste, func(a, b Waste) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Path, b.Path))
	})
	out.Waste = out.Waste[:min(len(out.Waste), maxWaste)]
	return out, nil
}

func (im *Images) exploreLayer(ctx context.Context, x *explorer, l *ExploredLayer) error {
	ra, err := im.store.Content().ReaderAt(ctx, ocispec.Descriptor{Digest: l.Blob.Digest})
	if errdefs.IsNotFound(err) {
		return withKind(errdefs.ErrNotFound, "it is missing: pull the image again")
	}
	if err != nil {
		return err
	}
	defer ra.Close()
	z, err := decompress(&cancelled{ctx, content.NewReader(ra)})
	if err != nil {
		return err
	}
	defer z.Close()
	return x.layer(tar.NewReader(z), l)
}

// place is a path that the layers so far have.
type place struct {
	kind  string
	layer int
	size  int64
	mode  int64
	owner [2]int
	below map[string]*place
}

// explorer puts layers on each other, as overlayfs would.
type explorer struct {
	options ExploreOptions
	root    *place
	waste   map[string]*Waste
}

// layer adds one layer. What it hides belongs to layers below: its own whiteouts do not reach its own files, whatever
// the order of the archive is.
func (x *explorer) layer(tr *tar.Reader, l *ExploredLayer) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return badImage("its archive cannot be read: %w", err)
		}
		name := path.Clean("/" + h.Name)
		dir, base := path.Split(name)
		switch {
		case base == hideAll:
			x.hideBelow(path.Clean(dir), l)
		case strings.HasPrefix(base, hidePrefix):
			x.hide(path.Join(dir, base[len(hidePrefix):]), l)
		default:
			x.put(name, h, l)
		}
	}
}

// at finds a path; nil if it is not there.
func (x *explorer) at(name string) *place {
	p := x.root
	for part := range strings.SplitSeq(strings.TrimPrefix(name, "/"), "/") {
		if part == "" {
			continue
		}
		if p = p.below[part]; p == nil {
			return nil
		}
	}
	return p
}

// parent is the directory that a path is in, made where an archive leaves it out.
func (x *explorer) parent(name string, layer int) *place {
	p := x.root
	for part := range strings.SplitSeq(strings.TrimPrefix(path.Dir(name), "/"), "/") {
		if part == "" {
			continue
		}
		next := p.below[part]
		if next == nil {
			next = &place{kind: directory, layer: layer, mode: 0o755}
			if p.below == nil {
				p.below = map[string]*place{}
			}
			p.below[part] = next
		}
		p = next
	}
	return p
}

func (x *explorer) put(name string, h *tar.Header, l *ExploredLayer) {
	if name == "/" {
		return
	}
	now := &place{kind: "file", layer: l.Number, mode: h.Mode & 0o7777, owner: [2]int{h.Uid, h.Gid}}
	f := ExploredFile{Path: name, Change: "added", Mode: now.mode, UID: h.Uid, GID: h.Gid}
	switch h.Typeflag {
	case tar.TypeDir:
		now.kind = directory
	case tar.TypeSymlink:
		now.kind, f.Link = "symlink", h.Linkname
	case tar.TypeLink:
		now.kind, f.Link = "hardlink", path.Clean("/"+h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		now.kind = "device"
	case tar.TypeFifo:
		now.kind = "fifo"
	default:
		f.Size, now.size = h.Size, h.Size
	}
	f.Kind = now.kind
	up := x.parent(name, l.Number)
	base := path.Base(name)
	switch old := up.below[base]; {
	case old == nil:
		l.Added++
	case old.kind == directory && now.kind == directory:
		now.below, now.layer = old.below, old.layer
		same := old.mode == now.mode && old.owner == now.owner
		if same || old.layer == l.Number {
			up.below[base] = now
			return // packers name directories on the way
		}
		f.Change, f.Below = "changed", old.layer
		l.Changed++
	default:
		f.Change, f.Below, f.Hidden = "changed", old.layer, x.drop(name, old, l.Number)
		l.Changed++
		if old.layer == l.Number {
			l.Size -= old.size // the archive has it twice, and the last one counts
		}
	}
	if up.below == nil {
		up.below = map[string]*place{}
	}
	up.below[base] = now
	l.Size += f.Size
	l.Hidden += f.Hidden
	x.keep(f, l)
}

// hide takes away what layers below have at a path.
func (x *explorer) hide(name string, l *ExploredLayer) {
	old := x.at(name)
	if old == nil || old == x.root || !hasOlder(old, l.Number) {
		return
	}
	f := ExploredFile{Path: name, Change: "removed", Kind: old.kind, Below: old.layer, Hidden: x.drop(name, old, l.Number)}
	up := x.parent(name, l.Number)
	if own := split(old, l.Number); own != nil {
		up.below[path.Base(name)] = own
	} else {
		delete(up.below, path.Base(name))
	}
	l.Removed++
	l.Hidden += f.Hidden
	x.keep(f, l)
}

// hideBelow takes away what layers below have in a directory.
func (x *explorer) hideBelow(name string, l *ExploredLayer) {
	dir := x.at(name)
	if dir == nil {
		return
	}
	names := make([]string, 0, len(dir.below))
	for n := range dir.below {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		x.hide(path.Join(name, n), l)
	}
}

// hasOlder tells whether a path or anything below it is of a layer below.
func hasOlder(p *place, layer int) bool {
	if p.layer < layer {
		return true
	}
	for _, b := range p.below {
		if hasOlder(b, layer) {
			return true
		}
	}
	return false
}

// split is what of a path the layer itself has brought, nil for nothing.
func split(p *place, layer int) *place {
	out := &place{kind: p.kind, layer: layer, size: p.size, mode: p.mode, owner: p.owner}
	for n, b := range p.below {
		if own := split(b, layer); own != nil {
			if out.below == nil {
				out.below = map[string]*place{}
			}
			out.below[n] = own
		}
	}
	if p.layer < layer && out.below == nil {
		return nil
	}
	return out
}

// drop adds up what is hidden of a path and all below it, and notes it as wasted.
func (x *explorer) drop(name string, p *place, layer int) (n int64) {
	if p.size > 0 && p.layer < layer {
		n = p.size
		w := x.waste[name]
		if w == nil {
			w = &Waste{Path: name}
			x.waste[name] = w
		}
		w.Bytes += n
		w.Copies++
	}
	for base, b := range p.below {
		n += x.drop(path.Join(name, base), b, layer)
	}
	return n
}

// keep notes a file if it was asked for.
func (x *explorer) keep(f ExploredFile, l *ExploredLayer) {
	o := x.options
	if o.Layer == 0 && o.Path == "" || o.Layer > 0 && o.Layer != l.Number {
		return
	}
	if o.Path != "" && o.Path != "/" && f.Path != o.Path && !strings.HasPrefix(f.Path, o.Path+"/") {
		// A tree that is taken away takes along what was asked for.
		if f.Change != "removed" || !strings.HasPrefix(o.Path, f.Path+"/") {
			return
		}
	}
	l.Files = append(l.Files, f)
}
