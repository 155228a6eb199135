package cli

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newCommit(a *app) *cobra.Command {
	var o client.ContainerCommitOptions
	var pause, noPause bool
	var cmd *cobra.Command
	cmd = command("commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]", "Make an image of a container's files", rangeArgs(1, 2),
		func(ctx context.Context, args []string) error {
			if cmd.Flags().Changed("pause") && cmd.Flags().Changed("no-pause") {
				return fmt.Errorf("conflicting options: --no-pause and --pause cannot be used together")
			}
			o.NoPause = noPause || !pause
			if len(args) == 2 {
				o.Reference = args[1]
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			result, err := api.ContainerCommit(ctx, args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, result.ID)
			return nil
		})
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", `Author ("John Smith <john@example.com>")`)
	f.VarP(&listValue{&o.Changes, nil}, "change", "c", "Apply a Dockerfile instruction to the image")
	f.StringVarP(&o.Comment, "message", "m", "", "Message to keep with the image")
	f.BoolVarP(&pause, "pause", "p", true, "Pause the container in the meantime")
	f.Lookup("pause").Hidden = true
	f.BoolVar(&noPause, "no-pause", false, "Do not pause the container in the meantime")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(true))
	return cmd
}
