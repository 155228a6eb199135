package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newSearch(a *app) *cobra.Command {
	var format string
	var filter filterValue
	var limit int
	var noTrunc bool
	cmd := command("search [OPTIONS] TERM", "Search a registry for images", exactArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			o := client.ImageSearchOptions{Filters: filter.filters, Limit: limit}
			if o.RegistryAuth, err = a.authFor(searched(args[0])); err != nil {
				return err
			}
			result, err := api.ImageSearch(ctx, args[0], o)
			if err != nil {
				return err
			}
			return searchListing(noTrunc).print(a.Out, format, result.Items)
		})
	cmd.Long = "Search a registry for images.\nDocker Hub, unless TERM begins with another registry (registry.example/web). Few others have a search."
	f := cmd.Flags()
	f.VarP(&filter, "filter", "f", "Show only what fits (stars=3, is-official=true)")
	f.StringVar(&format, "format", "", formatUsage)
	f.IntVar(&limit, "limit", 0, "Show at most this many (25, and no more than 100)")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// searched is a name at the registry that a term is searched at: the one it begins with, as names of images do, or Docker Hub.
func searched(term string) reference.Named {
	if first, _, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		if ref, err := reference.ParseNormalizedNamed(first + "/search"); err == nil {
			return ref
		}
	}
	hub, _ := reference.ParseNormalizedNamed("search") // a name
	return hub
}

func searchListing(noTrunc bool) *listing[registry.SearchResult] {
	type item = registry.SearchResult
	ok := func(on bool) any {
		if on {
			return "[OK]"
		}
		return ""
	}
	return &listing[item]{
		table: `{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}`,
		columns: []column[item]{
			{"Name", "NAME", func(i item) any { return visible(i.Name) }},
			{"Description", "DESCRIPTION", func(i item) any {
				text := visible(strings.Join(strings.Fields(i.Description), " "))
				if noTrunc {
					return text
				}
				return shorten(text, 45)
			}},
			{"StarCount", "STARS", func(i item) any { return strconv.Itoa(i.StarCount) }},
			{"IsOfficial", "OFFICIAL", func(i item) any { return ok(i.IsOfficial) }},
			{"IsAutomated", "AUTOMATED", func(item) any { return "" }},
		},
	}
}
