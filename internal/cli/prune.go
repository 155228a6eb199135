package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// confirm asks before something is lost. An end of the input is a no.
func (a *app) confirm(ctx context.Context, warning string) error {
	fmt.Fprintf(a.Out, "%s\nAre you sure you want to continue? [y/N] ", warning)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT)
	defer signal.Stop(interrupted)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		answer <- strings.TrimSpace(strings.ToLower(line))
	}()
	select {
	case word := <-answer:
		if word == "y" || word == "yes" {
			return nil
		}
	case <-interrupted:
		fmt.Fprintln(a.Out)
	case <-ctx.Done():
		fmt.Fprintln(a.Out)
	}
	return &exitError{0, ""} // saying no is no failure
}

// pruneResult is what a prune removed.
type pruneResult struct {
	title     string
	names     []string
	reclaimed uint64
	sized     bool
}

func (r *pruneResult) print(w io.Writer) {
	if len(r.names) > 0 {
		fmt.Fprintf(w, "%s:\n%s\n\n", r.title, strings.Join(r.names, "\n"))
	}
}

// newPrune makes a prune command: a warning, a confirmation, the call and what was removed.
func newPrune(a *app, use, short string, warning func() string,
	call func(context.Context, *client.Client, client.Filters) (*pruneResult, error)) (*cobra.Command, *filterValue) {
	var force bool
	filter := &filterValue{}
	cmd := command(use, short, noArgs, func(ctx context.Context, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		if !force {
			if err := a.confirm(ctx, warning()); err != nil {
				return err
			}
		}
		result, err := call(ctx, api, filter.filters)
		if err != nil {
			return err
		}
		result.print(a.Out)
		if result.sized {
			fmt.Fprintln(a.Out, "Total reclaimed space:", units.HumanSize(float64(result.reclaimed)))
		}
		return nil
	})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	cmd.Flags().Var(filter, "filter", "Remove only what fits (name=value)")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd, filter
}

func newContainerPrune(a *app) *cobra.Command {
	cmd, _ := newPrune(a, "prune [OPTIONS]", "Remove all stopped containers",
		func() string { return "WARNING! This will remove all stopped containers." }, pruneContainers)
	return cmd
}

func pruneContainers(ctx context.Context, api *client.Client, f client.Filters) (*pruneResult, error) {
	r, err := api.ContainerPrune(ctx, client.ContainerPruneOptions{Filters: f})
	return &pruneResult{"Deleted Containers", r.Report.ContainersDeleted, r.Report.SpaceReclaimed, true}, err
}

func newImagePrune(a *app) *cobra.Command {
	var all bool
	cmd, _ := newPrune(a, "prune [OPTIONS]", "Remove unused images", func() string {
		if all {
			return "WARNING! This will remove all images without at least one container associated to them."
		}
		return "WARNING! This will remove all dangling images."
	}, func(ctx context.Context, api *client.Client, f client.Filters) (*pruneResult, error) {
		return pruneImages(ctx, api, f, all)
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Remove all images no container uses, not only those without a name")
	return cmd
}

func pruneImages(ctx context.Context, api *client.Client, f client.Filters, all bool) (*pruneResult, error) {
	f = f.Clone()
	f.Add("dangling", fmt.Sprint(!all))
	r, err := api.ImagePrune(ctx, client.ImagePruneOptions{Filters: f})
	result := &pruneResult{"Deleted Images", nil, r.Report.SpaceReclaimed, true}
	for _, i := range r.Report.ImagesDeleted {
		if i.Untagged != "" {
			result.names = append(result.names, "untagged: "+i.Untagged)
		} else {
			result.names = append(result.names, "deleted: "+i.Deleted)
		}
	}
	return result, err
}

func newVolumePrune(a *app) *cobra.Command {
	var all bool
	cmd, _ := newPrune(a, "prune [OPTIONS]", "Remove volumes no container uses", func() string {
		if all {
			return "WARNING! This will remove all local volumes not used by at least one container."
		}
		return "WARNING! This will remove anonymous local volumes not used by at least one container."
	}, func(ctx context.Context, api *client.Client, f client.Filters) (*pruneResult, error) {
		return pruneVolumes(ctx, api, f, all)
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Remove volumes with a name too")
	return cmd
}

func pruneVolumes(ctx context.Context, api *client.Client, f client.Filters, all bool) (*pruneResult, error) {
	r, err := api.VolumePrune(ctx, client.VolumePruneOptions{All: all, Filters: f})
	return &pruneResult{"Deleted Volumes", r.Report.VolumesDeleted, r.Report.SpaceReclaimed, true}, err
}

func newNetworkPrune(a *app) *cobra.Command {
	cmd, _ := newPrune(a, "prune [OPTIONS]", "Remove networks no container uses",
		func() string {
			return "WARNING! This will remove all custom networks not used by at least one container."
		},
		pruneNetworks)
	return cmd
}

func pruneNetworks(ctx context.Context, api *client.Client, f client.Filters) (*pruneResult, error) {
	r, err := api.NetworkPrune(ctx, client.NetworkPruneOptions{Filters: f})
	return &pruneResult{"Deleted Networks", r.Report.NetworksDeleted, 0, false}, err
}

func newBuilderPrune(a *app) *cobra.Command {
	var all bool
	var keep int64
	cmd, _ := newPrune(a, "prune [OPTIONS]", "Remove build cache", func() string {
		if all {
			return "WARNING! This will remove all build cache."
		}
		return "WARNING! This will remove all dangling build cache."
	}, func(ctx context.Context, api *client.Client, f client.Filters) (*pruneResult, error) {
		return pruneBuilds(ctx, api, f, all, keep)
	})
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Remove all unused cache, not only what nothing leads to")
	cmd.Flags().Var(bytesValue(&keep), "keep-storage", "Keep this much of the cache")
	return cmd
}

func pruneBuilds(ctx context.Context, api *client.Client, f client.Filters, all bool,
	keep int64) (*pruneResult, error) {
	r, err := api.BuildCachePrune(ctx, client.BuildCachePruneOptions{All: all, ReservedSpace: keep, Filters: f})
	return &pruneResult{"Deleted build cache objects", r.Report.CachesDeleted, r.Report.SpaceReclaimed, true}, err
}
