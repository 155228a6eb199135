package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRestart(a *app) *cobra.Command {
	var signal string
	var timeout int
	var cmd *cobra.Command
	cmd = simple(a, "restart [OPTIONS] CONTAINER [CONTAINER...]", "Restart one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerRestart(ctx, name, client.ContainerRestartOptions{Signal: signal,
				Timeout: given(cmd, timeout)})
			return err
		})
	stopFlags(cmd, &signal, &timeout)
	return cmd
}
