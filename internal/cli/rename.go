package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRename(a *app) *cobra.Command {
	cmd := command("rename CONTAINER NEW_NAME", "Rename a container", exactArgs(2),
		func(ctx context.Context, args []string) error {
			old, name := strings.TrimSpace(args[0]), strings.TrimSpace(args[1])
			if old == "" || name == "" {
				return errors.New("Error: Neither old nor new names may be empty")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			_, err = api.ContainerRename(ctx, old, client.ContainerRenameOptions{NewName: name})
			return err
		})
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(true))
	return cmd
}
