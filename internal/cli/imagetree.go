package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
)

// imageTree prints every image with the platforms it has below it.
func (a *app) imageTree(images []image.Summary) error {
	w := tabwriter.NewWriter(a.Out, 10, 1, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tDISK USAGE\tCONTENT SIZE\tIN USE")
	for _, i := range images {
		names := i.RepoTags
		if len(names) == 0 {
			names = []string{"<untagged>"}
		}
		var content, unpacked int64
		used := false
		var platforms []image.ManifestSummary
		for _, m := range i.Manifests {
			content += m.Size.Content
			unpacked += m.Size.Total
			if m.Kind == image.ManifestKindImage && m.ImageData != nil && m.Available {
				used = used || len(m.ImageData.Containers) > 0
				platforms = append(platforms, m)
			}
		}
		if len(i.Manifests) == 0 {
			unpacked, used = i.Size, i.Containers > 0
		}
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, shortDigest(i.ID), units.HumanSizeWithPrecision(float64(unpacked), 3),
				units.HumanSizeWithPrecision(float64(content), 3), mark(used))
		}
		for n, m := range platforms {
			branch := "├─"
			if n == len(platforms)-1 {
				branch = "└─"
			}
			p := m.ImageData.Platform
			fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\t%s\n", branch, strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/"),
				shortDigest(m.ID), units.HumanSizeWithPrecision(float64(m.Size.Total), 3),
				units.HumanSizeWithPrecision(float64(m.Size.Content), 3), mark(len(m.ImageData.Containers) > 0))
		}
	}
	return w.Flush()
}

func mark(on bool) string {
	if on {
		return "✔"
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
