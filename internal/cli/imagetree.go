package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
)

// imageTree prints every image with the platforms it has below it, as Docker's client does.
func (a *app) imageTree(images []image.Summary) error {
	head := treeLine{"IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"}
	var lines []treeLine
	for _, i := range images {
		lines = append(lines, treeOf(i)...)
	}
	width := 0
	for _, l := range append(lines, head) {
		width = max(width, utf8.RuneCountInString(l.name))
	}
	var b strings.Builder
	total := width + len("   812489b7b8cd   DISK USAGE   CONTENT SIZE   EXTRA")
	fmt.Fprintf(&b, "%*s\n\n", total, "Info →   U  In Use")
	for n, l := range append([]treeLine{head}, lines...) {
		if l == (treeLine{}) {
			if n < len(lines) {
				b.WriteByte('\n')
			}
			continue
		}
		text := fmt.Sprintf("%-*s   %-12s   %10s   %12s   %s", width, l.name, l.id, l.disk, l.content, l.extra)
		b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
	_, err := io.WriteString(a.Out, b.String())
	return err
}

// treeLine is a line of the tree; the zero value is an empty one.
type treeLine struct{ name, id, disk, content, extra string }

// treeOf are the lines of one image: its names, of which the last has its sizes, its platforms, and an empty one.
func treeOf(i image.Summary) (lines []treeLine) {
	size := func(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }
	top := treeLine{name: "<untagged>", id: shortDigest(i.ID), disk: size(i.Size)}
	var content int64
	used := len(i.Manifests) == 0 && i.Containers > 0
	var platforms []treeLine
	for _, m := range i.Manifests {
		content += m.Size.Content
		if m.Kind != image.ManifestKindImage || m.ImageData == nil {
			continue
		}
		used = used || len(m.ImageData.Containers) > 0
		p := m.ImageData.Platform
		platforms = append(platforms, treeLine{"├─ " + strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"), shortDigest(m.ID),
			size(m.Size.Total), size(m.Size.Content), mark(len(m.ImageData.Containers) > 0)})
	}
	if n := len(platforms); n > 0 {
		platforms[n-1].name = "└" + strings.TrimPrefix(platforms[n-1].name, "├")
	}
	top.content, top.extra = size(content), mark(used)
	for n, name := range i.RepoTags {
		if top.name = name; n < len(i.RepoTags)-1 {
			lines = append(lines, treeLine{name: name})
		}
	}
	return append(append(append(lines, top), platforms...), treeLine{})
}

// mark is U for what containers stand on.
func mark(on bool) string {
	if on {
		return "U"
	}
	return ""
}

// sharedLayers prints the layers that more than one of the images has. A daemon that is not Berth's does not tell.
func (a *app) sharedLayers(ctx context.Context, images []image.Summary) error {
	var layers []berthapi.SharedLayer
	if err := a.getOwn(ctx, berthapi.LayersPath, nil, &layers); errors.Is(err, errUnknownRequest) {
		return nil
	} else if err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.Out, 10, 1, 3, ' ', 0)
	lines := 0
	for _, l := range layers {
		var names []string
		for _, i := range images {
			if !slices.Contains(l.Images, i.ID) {
				continue
			}
			if len(i.RepoTags) > 0 {
				names = append(names, i.RepoTags[0])
			} else {
				names = append(names, shortDigest(i.ID))
			}
		}
		if len(names) < 2 {
			continue
		}
		if lines == 0 {
			fmt.Fprintln(w, "\nSHARED LAYER\tSIZE\tIMAGES")
		}
		lines++
		fmt.Fprintf(w, "%s\t%s\t%s\n", shortDigest(l.Digest), units.HumanSizeWithPrecision(float64(l.Size), 3), strings.Join(names, ", "))
	}
	return w.Flush()
}
