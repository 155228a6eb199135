package cli

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// simple is a command that asks the server for one thing per container named, several at a time.
func simple(a *app, use, short string, call func(context.Context, *client.Client, string) error) *cobra.Command {
	cmd := command(use, short, minArgs(1), func(ctx context.Context, args []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		return each(ctx, args, func(ctx context.Context, name string) error {
			return call(ctx, api, name)
		}, func(name string) { fmt.Fprintln(a.Out, name) })
	})
	cmd.ValidArgsFunction = a.completeAll(a.containerNames(false))
	return cmd
}
