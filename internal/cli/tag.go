package cli

import (
	"context"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newTag(a *app) *cobra.Command {
	cmd := command("tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Give an image a further name", exactArgs(2),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			_, err = api.ImageTag(ctx, client.ImageTagOptions{Source: args[0], Target: args[1]})
			return err
		})
	cmd.ValidArgsFunction = a.completeAll(a.imageNames)
	return cmd
}
