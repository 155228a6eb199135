package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newTop(a *app) *cobra.Command {
	cmd := command("top CONTAINER [ps OPTIONS]", "Show the processes of a container", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			result, err := api.ContainerTop(ctx, args[0], client.ContainerTopOptions{Arguments: args[1:]})
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(a.Out, 20, 1, 3, ' ', 0)
			fmt.Fprintln(w, strings.Join(result.Titles, "\t"))
			for _, process := range result.Processes {
				fmt.Fprintln(w, strings.Join(process, "\t"))
			}
			return w.Flush()
		})
	cmd.Flags().SetInterspersed(false)
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(false))
	return cmd
}
