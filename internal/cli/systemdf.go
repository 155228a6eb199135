package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
	"github.com/spf13/cobra"
)

func newSystemDf(a *app) *cobra.Command {
	var format string
	var verbose, why bool
	cmd := command("df [OPTIONS]", "Show how the disk is used", noArgs, func(ctx context.Context, _ []string) error {
		if verbose && format != "" && format != "json" && format != "table" {
			if _, err := parseTemplate(format); err != nil {
				return err
			}
		}
		if why {
			if verbose {
				return errors.New("--why and --verbose are two different lists: give one of them")
			}
			return a.why(ctx, format)
		}
		api, err := a.client()
		if err != nil {
			return err
		}
		usage, err := api.DiskUsage(ctx, client.DiskUsageOptions{Images: true, Containers: true, Volumes: true,
			BuildCache: true, Verbose: verbose})
		if err != nil {
			return err
		}
		if verbose {
			return a.verboseUsage(usage, format)
		}
		if versions.LessThan(api.ClientVersion(), "1.52") {
			usage.Images.Reclaimable = reclaimable(usage.Images)
		}
		return usageListing().print(a.Out, format, usageRows(usage))
	})
	f := cmd.Flags()
	f.StringVar(&format, "format", "", formatUsage)
	f.BoolVarP(&verbose, "verbose", "v", false, "Show every image, container and volume")
	f.BoolVar(&why, "why", false, "Show how full the disk is, and of every image whether it may be collected and why not")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// reclaimable is what Docker's client shows of a server that does not add up itself: everything but what images in use alone
// have. Newer servers, ours among them, say what is free once the unused are gone.
func reclaimable(u client.ImagesDiskUsage) int64 {
	left := u.TotalSize
	for _, i := range u.Items {
		if i.Containers != 0 && i.Size >= 0 && i.SharedSize >= 0 {
			left -= i.Size - i.SharedSize
		}
	}
	return left
}

// usageRow is the disk use of one kind of object.
type usageRow struct {
	kind                             string
	total, active, size, reclaimable int64
}

func usageRows(u client.DiskUsageResult) []usageRow {
	return []usageRow{
		{"Images", u.Images.TotalCount, u.Images.ActiveCount, u.Images.TotalSize, u.Images.Reclaimable},
		{"Containers", u.Containers.TotalCount, u.Containers.ActiveCount, u.Containers.TotalSize, u.Containers.Reclaimable},
		{"Local Volumes", u.Volumes.TotalCount, u.Volumes.ActiveCount, u.Volumes.TotalSize, u.Volumes.Reclaimable},
		{"Build Cache", u.BuildCache.TotalCount, u.BuildCache.ActiveCount, u.BuildCache.TotalSize, u.BuildCache.Reclaimable},
	}
}

func usageListing() *listing[usageRow] {
	return &listing[usageRow]{
		table: `{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}`,
		columns: []column[usageRow]{
			{"Type", "TYPE", func(r usageRow) any { return r.kind }},
			{"TotalCount", "TOTAL", func(r usageRow) any { return strconv.FormatInt(r.total, 10) }},
			{"Active", "ACTIVE", func(r usageRow) any { return strconv.FormatInt(r.active, 10) }},
			{"Size", "SIZE", func(r usageRow) any { return units.HumanSize(float64(r.size)) }},
			{"Reclaimable", "RECLAIMABLE", func(r usageRow) any {
				s := units.HumanSize(float64(r.reclaimable))
				if r.size > 0 && r.kind != "Build Cache" {
					s += fmt.Sprintf(" (%v%%)", r.reclaimable*100/r.size)
				}
				return s
			}},
		},
	}
}

// verboseUsage prints a table per kind, or all of them as one object under a person's template.
func (a *app) verboseUsage(u client.DiskUsageResult, format string) error {
	// Only a table is for people: everything else has whole names, as with Docker.
	people := format == "" || format == "table"
	images := imageListing(!people, false)
	images.table = `{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}` +
		`\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}`
	// Of an image with several names, the first: there is one image on the disk.
	var imageList []imageRow
	for _, i := range u.Images.Items {
		row := imageRows([]image.Summary{i}, false, false)[0]
		if len(i.RepoTags) > 0 {
			if ref, err := reference.ParseNormalizedNamed(i.RepoTags[0]); err == nil {
				if tagged, ok := ref.(reference.Tagged); ok {
					row.repo, row.tag = reference.FamiliarName(ref), tagged.Tag()
				}
			}
		}
		if !people {
			row.digest = ""
		}
		imageList = append(imageList, row)
	}
	for i := range u.Containers.Items {
		u.Containers.Items[i].SizeRootFs = 0 // the image's part stands above
	}
	containers := containerListing(!people, true)
	containers.table = `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}` +
		`\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}`
	volumes := volumeListing()
	volumes.table = `{{.Name}}\t{{.Links}}\t{{.Size}}`
	caches := cacheListing()
	if !people {
		return a.printObject(format, struct{ Images, Containers, Volumes, BuildCache []any }{
			rowValues(images, imageList), rowValues(containers, u.Containers.Items), rowValues(volumes, u.Volumes.Items),
			rowValues(caches, u.BuildCache.Items)})
	}
	for _, part := range []struct {
		title string
		print func(io.Writer) error
	}{
		{"Images space usage:\n\n", func(w io.Writer) error { return images.print(w, "", imageList) }},
		{"\nContainers space usage:\n\n", func(w io.Writer) error { return containers.print(w, "", u.Containers.Items) }},
		{"\nLocal Volumes space usage:\n\n", func(w io.Writer) error { return volumes.print(w, "", u.Volumes.Items) }},
		{fmt.Sprintf("\nBuild cache usage: %s\n\n", units.HumanSize(float64(u.BuildCache.TotalSize))),
			func(w io.Writer) error { return caches.print(w, "", u.BuildCache.Items) }},
	} {
		if _, err := io.WriteString(a.Out, part.title); err != nil {
			return err
		}
		if err := part.print(a.Out); err != nil {
			return err
		}
	}
	return nil
}

func rowValues[T any](l *listing[T], items []T) []any {
	values := []any{}
	for _, item := range items {
		values = append(values, row[T]{l: l, item: item}.values())
	}
	return values
}

func cacheListing() *listing[build.CacheRecord] {
	type record = build.CacheRecord
	return &listing[record]{
		table: `{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}`,
		columns: []column[record]{
			{"ID", "CACHE ID", func(r record) any {
				id := shortID(r.ID)
				if r.InUse {
					id += "*"
				}
				return id
			}},
			{"Parent", "PARENT", func(r record) any {
				if len(r.Parents) == 0 {
					return ""
				}
				return shortID(r.Parents[0])
			}},
			{"CacheType", "CACHE TYPE", func(r record) any { return r.Type }},
			{"Description", "DESCRIPTION", func(r record) any { return r.Description }},
			{"Size", "SIZE", func(r record) any { return units.HumanSizeWithPrecision(float64(r.Size), 3) }},
			{"CreatedAt", "CREATED", func(r record) any { return r.CreatedAt.String() }},
			{"CreatedSince", "CREATED", func(r record) any { return units.HumanDuration(time.Since(r.CreatedAt)) + " ago" }},
			{"LastUsedAt", "LAST USED", func(r record) any { return lastUse(r.LastUsedAt, time.Time.String) }},
			{"LastUsedSince", "LAST USED", func(r record) any {
				return lastUse(r.LastUsedAt, func(t time.Time) string { return units.HumanDuration(time.Since(t)) + " ago" })
			}},
			{"UsageCount", "USAGE", func(r record) any { return strconv.Itoa(r.UsageCount) }},
			{"InUse", "IN USE", func(r record) any { return strconv.FormatBool(r.InUse) }},
			{"Shared", "SHARED", func(r record) any { return strconv.FormatBool(r.Shared) }},
		},
	}
}

func lastUse(t *time.Time, text func(time.Time) string) string {
	if t == nil {
		return ""
	}
	return text(*t)
}
