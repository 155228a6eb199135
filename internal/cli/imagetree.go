package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

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
