package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// step writes a layer: "dir/" is a directory, "name=content" a file, "name>target" a hard link.
func step(t testing.TB, entries ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := tar.Header{Name: e, Typeflag: tar.TypeReg, Mode: 0o644}
		name, content, file := strings.Cut(e, "=")
		if from, to, link := strings.Cut(e, ">"); link {
			h.Name, h.Linkname, h.Typeflag = from, to, tar.TypeLink
		} else if file {
			h.Name, h.Size = name, int64(len(content))
		} else if strings.HasSuffix(e, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

func explored(x *Explored) (lines []string) {
	for _, l := range x.Layers {
		lines = append(lines, fmt.Sprintf("%d %q %d bytes +%d ~%d -%d hides %d", l.Number, l.CreatedBy, l.Size, l.Added, l.Changed, l.Removed, l.Hidden))
		for _, f := range l.Files {
			lines = append(lines, fmt.Sprintf("  %s %s %s %d over %d hides %d", f.Change, f.Kind, f.Path, f.Size, f.Below, f.Hidden))
		}
	}
	for _, w := range x.Waste {
		lines = append(lines, fmt.Sprintf("%s %d bytes in %d", w.Path, w.Bytes, w.Copies))
	}
	return append(lines, fmt.Sprintf("size %d wasted %d", x.Size, x.Wasted))
}

func TestExplore(t *testing.T) {
	ctx, im := t.Context(), open(t)
	b := build(t, ocispec.Image{History: []ocispec.History{{CreatedBy: "one"}, {CreatedBy: "nothing", EmptyLayer: true}, {Comment: "two"},
		{CreatedBy: "three"}}},
		step(t, "etc/", "etc/passwd=root", "d/", "d/a=aaa", "d/sub/b=bbbbb", "old=oldold", "gone=gone", "link>old"),
		// A whiteout after what the layer brings itself reaches what is below only.
		step(t, "etc/", "etc/passwd=root+1", "d/", "d/new=n", "d/.wh..wh..opq", ".wh.gone", ".wh.never", "old/", "old/in=i"),
		step(t, "etc/passwd=last", ".wh.d", "d/", "d/again=x", "implied/here=y"))
	_, err := im.Load(ctx, bytes.NewReader(b.layout(t, "docker.io/library/app:1")), LoadOptions{})
	must(t, err)
	for _, tc := range []struct {
		options ExploreOptions
		want    string
	}{
		{ExploreOptions{}, `1 "one" 22 bytes +8 ~0 -0 hides 0
2 "two" 8 bytes +2 ~2 -3 hides 22
3 "three" 6 bytes +3 ~1 -1 hides 7
/etc/passwd 10 bytes in 2
/old 6 bytes in 1
/d/sub/b 5 bytes in 1
/gone 4 bytes in 1
/d/a 3 bytes in 1
/d/new 1 bytes in 1
size 7 wasted 29`},
		{ExploreOptions{Layer: 2}, `1 "one" 22 bytes +8 ~0 -0 hides 0
2 "two" 8 bytes +2 ~2 -3 hides 22
  changed file /etc/passwd 6 over 1 hides 4
  added file /d/new 1 over 0 hides 0
  removed file /d/a 0 over 1 hides 3
  removed directory /d/sub 0 over 1 hides 5
  removed file /gone 0 over 1 hides 4
  changed directory /old 0 over 1 hides 6
  added file /old/in 1 over 0 hides 0
3 "three" 6 bytes +3 ~1 -1 hides 7
`},
		{ExploreOptions{Path: "d/sub/b/"}, `1 "one" 22 bytes +8 ~0 -0 hides 0
  added file /d/sub/b 5 over 0 hides 0
2 "two" 8 bytes +2 ~2 -3 hides 22
  removed directory /d/sub 0 over 1 hides 5
3 "three" 6 bytes +3 ~1 -1 hides 7
  removed directory /d 0 over 1 hides 1
`},
	} {
		x, err := im.Explore(ctx, "app:1", tc.options)
		must(t, err)
		if got := strings.Join(explored(x), "\n"); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%+v:\n%s\nwanted\n%s", tc.options, got, tc.want)
		}
	}
	if _, err := im.Explore(ctx, "app:1", ExploreOptions{Layer: 4}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if _, err := im.Explore(ctx, "nothing", ExploreOptions{}); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// FuzzExplore: layers that say anything give sums that fit each other.
func FuzzExplore(f *testing.F) {
	f.Add(step(f, "a/", "a/b=1", "c=2"), step(f, "a/.wh..wh..opq", ".wh.c", "a=x"))
	f.Add(step(f, ".wh..", ".wh..wh..wh.x", "..=1", "a//b/../c=1"), step(f, ".wh..wh..opq", "a=1", "a=22", "a/b=3", ".wh.a"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		x := &explorer{options: ExploreOptions{Path: "/"}, root: &place{kind: directory}, waste: map[string]*Waste{}}
		var size, hidden int64
		for i, data := range [][]byte{one, two} {
			l := &ExploredLayer{Number: i + 1}
			if x.layer(tar.NewReader(bytes.NewReader(data)), l) != nil {
				return
			}
			size, hidden = size+l.Size, hidden+l.Hidden
		}
		if hidden < 0 || size < hidden {
			t.Errorf("%d bytes, of which %d are hidden", size, hidden)
		}
	})
}
