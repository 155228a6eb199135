package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newSystemPrune(a *app) *cobra.Command {
	var all, force, volumes bool
	var filter filterValue
	cmd := command("prune [OPTIONS]", "Remove everything that is not used", noArgs,
		func(ctx context.Context, _ []string) error {
			if volumes && filter.filters["until"] != nil {
				return errors.New(`ERROR: The "until" filter is not supported with "--volumes"`)
			}
			if !force {
				if err := a.confirm(ctx, systemPruneWarning(all, volumes, filter.filters)); err != nil {
					return err
				}
			}
			return a.systemPrune(ctx, all, volumes, filter.filters)
		})
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove all unused images, not only those without a name")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.BoolVar(&volumes, "volumes", false, "Remove anonymous volumes too")
	f.Var(&filter, "filter", "Remove only what fits (name=value)")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func systemPruneWarning(all, volumes bool, filters client.Filters) string {
	list := []string{"all stopped containers", "all networks not used by at least one container"}
	if volumes {
		list = append(list, "all anonymous volumes not used by at least one container")
	}
	if all {
		list = append(list, "all images without at least one container associated to them", "all build cache")
	} else {
		list = append(list, "all dangling images", "unused build cache")
	}
	var b strings.Builder
	b.WriteString("WARNING! This will remove:\n")
	for _, l := range list {
		b.WriteString("  - " + l + "\n")
	}
	if len(filters) > 0 {
		b.WriteString("\n  Items to be pruned will be filtered with:\n")
		for _, k := range sortedKeys(filters) {
			for _, v := range sortedKeys(filters[k]) {
				b.WriteString("  - " + k + "=" + v + "\n")
			}
		}
	}
	return b.String()
}

// systemPrune removes in the order in which things hold each other: containers hold networks, volumes and images.
func (a *app) systemPrune(ctx context.Context, all, volumes bool, f client.Filters) error {
	api, err := a.client()
	if err != nil {
		return err
	}
	var total uint64
	for _, step := range []struct {
		on   bool
		call func() (*pruneResult, error)
	}{
		{true, func() (*pruneResult, error) { return pruneContainers(ctx, api, f) }},
		{true, func() (*pruneResult, error) { return pruneNetworks(ctx, api, f) }},
		{volumes, func() (*pruneResult, error) { return pruneVolumes(ctx, api, f, false) }},
		{true, func() (*pruneResult, error) { return pruneImages(ctx, api, f, all) }},
		{true, func() (*pruneResult, error) {
			r, err := pruneBuilds(ctx, api, f, all, 0)
			if errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err) {
				return &pruneResult{}, nil // a server that cannot build has no build cache
			}
			return r, err
		}},
	} {
		if !step.on {
			continue
		}
		r, err := step.call()
		if err != nil {
			return err
		}
		r.print(a.Out)
		total += r.reclaimed
	}
	fmt.Fprintln(a.Out, "Total reclaimed space:", units.HumanSize(float64(total)))
	return nil
}
