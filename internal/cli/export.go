package cli

import (
	"context"
	"io"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newExport(a *app) *cobra.Command {
	var output string
	cmd := command("export [OPTIONS] CONTAINER", "Write a container's files to a tar archive", exactArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			return a.download(output, "export", func() (io.ReadCloser, error) {
				return api.ContainerExport(ctx, args[0], client.ContainerExportOptions{})
			})
		})
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to this file instead of STDOUT")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(true))
	return cmd
}
