package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newVolumeLs(a *app) *cobra.Command {
	var quiet bool
	var format string
	var filter filterValue
	cmd := command("ls [OPTIONS]", "List volumes", noArgs, func(ctx context.Context, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		if format == "" && !quiet {
			config, err := a.configFile()
			if err != nil {
				return err
			}
			format = config.VolumesFormat
		}
		result, err := api.VolumeList(ctx, client.VolumeListOptions{Filters: filter.filters})
		if err != nil {
			return err
		}
		for _, w := range result.Warnings {
			a.warn("WARNING: %s", w)
		}
		sortBy(result.Items, func(v volume.Volume) string { return v.Name })
		if quiet && (format == "" || format == "table") {
			format = "{{.Name}}"
		}
		return volumeListing().print(a.Out, format, result.Items)
	})
	f := cmd.Flags()
	f.VarP(&filter, "filter", "f", "Show only what fits (name=value)")
	f.StringVar(&format, "format", "", formatUsage)
	f.BoolVarP(&quiet, "quiet", "q", false, "Show names only")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func sortBy[T any](items []T, key func(T) string) {
	slices.SortStableFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
}

func volumeListing() *listing[volume.Volume] {
	return &listing[volume.Volume]{
		table: `{{.Driver}}\t{{.Name}}`,
		columns: []column[volume.Volume]{
			{"Name", "VOLUME NAME", func(v volume.Volume) any { return v.Name }},
			{"Driver", "DRIVER", func(v volume.Volume) any { return v.Driver }},
			{"Scope", "SCOPE", func(v volume.Volume) any { return v.Scope }},
			{"Mountpoint", "MOUNTPOINT", func(v volume.Volume) any { return v.Mountpoint }},
			{"Labels", "LABELS", func(v volume.Volume) any { return labelList(v.Labels) }},
			{"Links", "LINKS", func(v volume.Volume) any {
				if v.UsageData == nil {
					return "N/A"
				}
				return strconv.FormatInt(v.UsageData.RefCount, 10)
			}},
			{"Size", "SIZE", func(v volume.Volume) any {
				if v.UsageData == nil {
					return "N/A"
				}
				return units.HumanSize(float64(v.UsageData.Size))
			}},
			{"Availability", "AVAILABILITY", func(volume.Volume) any { return "N/A" }},
			{"Group", "GROUP", func(volume.Volume) any { return "N/A" }},
			{"Status", "STATUS", func(volume.Volume) any { return "N/A" }},
		},
		method: func(v volume.Volume, name string, args []any) (any, bool, error) {
			if name != "Label" || len(args) != 1 {
				return nil, false, nil
			}
			return v.Labels[printed(args[0])], true, nil
		},
	}
}

func newVolumeCreate(a *app) *cobra.Command {
	var o client.VolumeCreateOptions
	var name string
	var labels []string
	var options map[string]string
	cmd := command("create [OPTIONS] [VOLUME]", "Create a volume", maxArgs(1),
		func(ctx context.Context, args []string) error {
			if len(args) == 1 {
				if name != "" {
					return errors.New("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
				}
				name = args[0]
			}
			o.Name, o.Labels, o.DriverOpts = name, keyValues(labels), options
			if o.DriverOpts == nil {
				o.DriverOpts = map[string]string{}
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			result, err := api.VolumeCreate(ctx, o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, result.Volume.Name)
			return nil
		})
	f := cmd.Flags()
	f.StringVarP(&o.Driver, "driver", "d", "local", "Driver of the volume")
	f.Var(&listValue{&labels, label}, "label", "Set a label")
	f.VarP(&mapValue{&options, keyValueOrError}, "opt", "o", "Option of the driver (key=value)")
	f.StringVar(&name, "name", "", "Name of the volume")
	f.Lookup("name").Hidden = true
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func newVolumeRm(a *app) *cobra.Command {
	var o client.VolumeRemoveOptions
	cmd := command("rm [OPTIONS] VOLUME [VOLUME...]", "Remove one or more volumes no container uses", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range args {
				if _, err := api.VolumeRemove(ctx, name, o); err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintln(a.Out, name)
			}
			return joined(failed)
		})
	cmd.Flags().BoolVarP(&o.Force, "force", "f", false, "A volume that is not there is no error")
	cmd.ValidArgsFunction = a.completeAll(a.volumeNames)
	return cmd
}
