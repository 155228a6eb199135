package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newImages(a *app) *cobra.Command {
	var all, digests, noTrunc, quiet, tree bool
	var format string
	var filter filterValue
	cmd := command("images [OPTIONS] [REPOSITORY[:TAG]]", "List images", maxArgs(1),
		func(ctx context.Context, args []string) error {
			for _, other := range []struct {
				name string
				on   bool
			}{{"quiet", quiet}, {"no-trunc", noTrunc}, {"show-digest", digests}, {"format", format != ""}} {
				if tree && other.on {
					return fmt.Errorf("--%s is not yet supported with --tree", other.name)
				}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			filters := filter.filters
			if len(args) == 1 {
				if filters == nil {
					filters = client.Filters{}
				}
				filters.Add("reference", args[0])
			}
			result, err := api.ImageList(ctx, client.ImageListOptions{All: all, Filters: filters, Manifests: tree})
			if err != nil {
				return err
			}
			if tree {
				if err := a.imageTree(result.Items); err != nil {
					return err
				}
				return a.sharedLayers(ctx, result.Items)
			}
			if format == "" && !quiet {
				config, err := a.configFile()
				if err != nil {
					return err
				}
				format = config.ImagesFormat
			}
			if quiet && (format == "" || format == "table") {
				format = "{{.ID}}"
			}
			withDigests := digests || uses(format, "Digest")
			rows := imageRows(result.Items, withDigests, filters["dangling"]["true"])
			return imageListing(noTrunc, withDigests).print(a.Out, format, rows)
		})
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show intermediate images too")
	f.BoolVar(&digests, "digests", false, "Show digests")
	f.VarP(&filter, "filter", "f", "Show only what fits (name=value)")
	f.StringVar(&format, "format", "", formatUsage)
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.BoolVar(&tree, "tree", false, "Show the platforms of every image below it, and which layers images share")
	cmd.ValidArgsFunction = a.completeFirst(a.imageNames)
	return cmd
}

// imageRow is one name of an image.
type imageRow struct {
	image             image.Summary
	repo, tag, digest string
}

// imageRows gives every name of every image a row: those with a tag, with the digests of their repository where digests
// are shown, and those with a digest alone. An image without a name is "<none>".
func imageRows(images []image.Summary, digests, dangling bool) (rows []imageRow) {
	const none = "<none>"
	for _, i := range images {
		if len(i.RepoTags) == 0 && len(i.RepoDigests) == 0 || dangling && danglingOnly(i) {
			rows = append(rows, imageRow{i, none, none, none})
			continue
		}
		tags, digestOf := map[string][]string{}, map[string][]string{}
		var repos []string
		known := func(repo string) {
			if !slices.Contains(repos, repo) {
				repos = append(repos, repo)
			}
		}
		for _, name := range i.RepoTags {
			if ref, err := reference.ParseNormalizedNamed(name); err == nil {
				if tagged, ok := ref.(reference.Tagged); ok {
					repo := reference.FamiliarName(ref)
					tags[repo] = append(tags[repo], tagged.Tag())
					known(repo)
				}
			}
		}
		for _, name := range i.RepoDigests {
			if ref, err := reference.ParseNormalizedNamed(name); err == nil {
				if digested, ok := ref.(reference.Digested); ok {
					repo := reference.FamiliarName(ref)
					digestOf[repo] = append(digestOf[repo], digested.Digest().String())
					known(repo)
				}
			}
		}
		slices.Sort(repos)
		before := len(rows)
		for _, repo := range repos {
			switch {
			case len(tags[repo]) == 0:
				for _, d := range digestOf[repo] {
					rows = append(rows, imageRow{i, repo, none, d})
					if !digests {
						break
					}
				}
			case !digests || len(digestOf[repo]) == 0:
				for _, t := range tags[repo] {
					rows = append(rows, imageRow{i, repo, t, none})
				}
			default:
				for _, t := range tags[repo] {
					for _, d := range digestOf[repo] {
						rows = append(rows, imageRow{i, repo, t, d})
					}
				}
			}
		}
		if len(rows) == before {
			rows = append(rows, imageRow{i, none, none, none})
		}
	}
	return rows
}

func danglingOnly(i image.Summary) bool {
	return (len(i.RepoTags) == 0 || i.RepoTags[0] == "<none>:<none>") &&
		(len(i.RepoDigests) == 0 || i.RepoDigests[0] == "<none>@<none>")
}

func imageListing(noTrunc, digests bool) *listing[imageRow] {
	l := &listing[imageRow]{
		table: `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince}}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}`,
		columns: []column[imageRow]{
			{"Repository", "REPOSITORY", func(r imageRow) any { return r.repo }},
			{"Tag", "TAG", func(r imageRow) any { return r.tag }},
			{"Digest", "DIGEST", func(r imageRow) any { return r.digest }},
			{"ID", "IMAGE ID", func(r imageRow) any {
				if noTrunc {
					return r.image.ID
				}
				return shortDigest(r.image.ID)
			}},
			// As Docker has it, an image without a date is of 1970 if the server says 0, and of no time if it says the year 1.
			{"CreatedSince", "CREATED", func(r imageRow) any {
				at := time.Unix(r.image.Created, 0)
				if at.IsZero() {
					return ""
				}
				return units.HumanDuration(time.Since(at)) + " ago"
			}},
			{"CreatedAt", "CREATED AT", func(r imageRow) any { return time.Unix(r.image.Created, 0).String() }},
			{"Size", "SIZE", func(r imageRow) any { return units.HumanSizeWithPrecision(float64(r.image.Size), 3) }},
			{"SharedSize", "SHARED SIZE", func(r imageRow) any { return sizeOrNA(r.image.SharedSize) }},
			{"UniqueSize", "UNIQUE SIZE", func(r imageRow) any {
				if r.image.Size < 0 || r.image.SharedSize < 0 {
					return "N/A"
				}
				return units.HumanSize(float64(r.image.Size - r.image.SharedSize))
			}},
			{"VirtualSize", "SIZE", func(r imageRow) any { return units.HumanSize(float64(r.image.Size)) }},
			{"Containers", "CONTAINERS", func(r imageRow) any {
				if r.image.Containers < 0 {
					return "N/A"
				}
				return strconv.FormatInt(r.image.Containers, 10)
			}},
		},
	}
	if digests {
		l.table = strings.Replace(l.table, `{{.Tag}}`, `{{.Tag}}\t{{.Digest}}`, 1)
	}
	return l
}

func sizeOrNA(n int64) string {
	if n < 0 {
		return "N/A"
	}
	return units.HumanSize(float64(n))
}
