package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newUnpause(a *app) *cobra.Command {
	return simple(a, "unpause CONTAINER [CONTAINER...]", "Let the processes of paused containers go on",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerUnpause(ctx, name, client.ContainerUnpauseOptions{})
			return err
		})
}
