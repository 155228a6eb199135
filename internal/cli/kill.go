package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newKill(a *app) *cobra.Command {
	var signal string
	cmd := simple(a, "kill [OPTIONS] CONTAINER [CONTAINER...]", "Send a signal to one or more running containers",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: signal})
			return err
		})
	cmd.Flags().StringVarP(&signal, "signal", "s", "", "Signal to send (SIGKILL when left out)")
	return cmd
}
