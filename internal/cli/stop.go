package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newStop(a *app) *cobra.Command {
	var signal string
	var timeout int
	var cmd *cobra.Command
	cmd = simple(a, "stop [OPTIONS] CONTAINER [CONTAINER...]", "Stop one or more running containers",
		func(ctx context.Context, api *client.Client, name string) error {
			_, err := api.ContainerStop(ctx, name, client.ContainerStopOptions{Signal: signal, Timeout: given(cmd, timeout)})
			return err
		})
	stopFlags(cmd, &signal, &timeout)
	return cmd
}

func stopFlags(cmd *cobra.Command, signal *string, timeout *int) {
	f := cmd.Flags()
	f.StringVarP(signal, "signal", "s", "", "Signal to send first")
	f.IntVarP(timeout, "timeout", "t", 0, "Seconds to wait before killing the container (-1 waits for ever)")
	f.IntVar(timeout, "time", 0, "Seconds to wait before killing the container")
	f.Lookup("time").Hidden = true
}

// given is the timeout, when a person gave one.
func given(cmd *cobra.Command, timeout int) *int {
	if cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time") {
		return &timeout
	}
	return nil
}
