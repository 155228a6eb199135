package cli

import (
	"context"
	"strings"

	"github.com/berth-engine/berth/internal/tty"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// completer lists the words a shell may offer.
type completer func(ctx context.Context, api *client.Client) []string

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// completeAll offers the words for every argument, completeFirst for the first alone.
func (a *app) completeAll(words completer) completion { return a.complete(words, false) }

func (a *app) completeFirst(words completer) completion { return a.complete(words, true) }

func (a *app) complete(words completer, first bool) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if first && len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		a.env["BERTH_NO_AUTOSTART"] = "1" // a press of the tab key starts nothing
		api, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var fitting []string
		for _, w := range words(cmd.Context(), api) {
			if strings.HasPrefix(w, typed) {
				fitting = append(fitting, w)
			}
		}
		return fitting, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) containerNames(all bool) completer {
	return func(ctx context.Context, api *client.Client) (names []string) {
		result, err := api.ContainerList(ctx, client.ContainerListOptions{All: all})
		if err != nil {
			return nil
		}
		for _, c := range result.Items {
			names = append(names, containerNames(c.Names, false))
		}
		return names
	}
}

func (a *app) imageNames(ctx context.Context, api *client.Client) (names []string) {
	result, err := api.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil
	}
	for _, i := range result.Items {
		names = append(names, i.RepoTags...)
	}
	return names
}

func (a *app) networkNames(ctx context.Context, api *client.Client) (names []string) {
	result, err := api.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil
	}
	for _, n := range result.Items {
		names = append(names, n.Name)
	}
	return names
}

func (a *app) volumeNames(ctx context.Context, api *client.Client) (names []string) {
	result, err := api.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		return nil
	}
	for _, v := range result.Items {
		names = append(names, v.Name)
	}
	return names
}

func checkDetachKeys(keys string) error {
	_, err := tty.ParseDetachKeys(keys)
	return err
}
