package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newHistory(a *app) *cobra.Command {
	var format, platform string
	var human, noTrunc, quiet bool
	cmd := command("history [OPTIONS] IMAGE", "Show how an image was made", exactArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var options []client.ImageHistoryOption
			if platform != "" {
				p, err := parsePlatform(platform)
				if err != nil {
					return err
				}
				options = append(options, client.ImageHistoryWithPlatform(*p))
			}
			result, err := api.ImageHistory(ctx, args[0], options...)
			if err != nil {
				return err
			}
			if quiet && (format == "" || format == "table") {
				format = "{{.ID}}"
			}
			return historyListing(human, noTrunc).print(a.Out, format, result.Items)
		})
	f := cmd.Flags()
	f.StringVar(&format, "format", "", formatUsage)
	f.BoolVarP(&human, "human", "H", true, "Print sizes and dates for people")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.StringVar(&platform, "platform", "", "Show the history of this platform's image (os/arch[/variant])")
	cmd.ValidArgsFunction = a.completeFirst(a.imageNames)
	return cmd
}

func historyListing(human, noTrunc bool) *listing[image.HistoryResponseItem] {
	type item = image.HistoryResponseItem
	created := func(i item) any { return time.Unix(i.Created, 0).Format(time.RFC3339) }
	l := &listing[item]{
		table: `{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}`,
		columns: []column[item]{
			{"ID", "IMAGE", func(i item) any {
				if noTrunc {
					return i.ID
				}
				return shortDigest(i.ID)
			}},
			{"CreatedAt", "CREATED AT", created},
			{"CreatedSince", "CREATED", func(i item) any {
				if !human {
					return created(i)
				}
				return ago(i.Created)
			}},
			{"CreatedBy", "CREATED BY", func(i item) any {
				by := strings.ReplaceAll(i.CreatedBy, "\t", " ")
				if noTrunc {
					return by
				}
				return shorten(by, 45)
			}},
			{"Size", "SIZE", func(i item) any {
				if human {
					return units.HumanSizeWithPrecision(float64(i.Size), 3)
				}
				return strconv.FormatInt(i.Size, 10)
			}},
			{"Comment", "COMMENT", func(i item) any { return i.Comment }},
		},
	}
	if !human {
		l.table = strings.Replace(l.table, "CreatedSince", "CreatedAt", 1)
	}
	return l
}
