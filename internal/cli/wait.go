package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newWait(a *app) *cobra.Command {
	cmd := command("wait CONTAINER [CONTAINER...]", "Wait until containers stop and print their exit codes", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			var failed []error
			for _, name := range args {
				wait := api.ContainerWait(ctx, name, client.ContainerWaitOptions{})
				select {
				case err := <-wait.Error:
					failed = append(failed, plainError(err))
				case result := <-wait.Result:
					if result.Error != nil && result.Error.Message != "" {
						failed = append(failed, errors.New(result.Error.Message))
					}
					fmt.Fprintln(a.Out, result.StatusCode)
				}
			}
			return joined(failed)
		})
	cmd.ValidArgsFunction = a.completeAll(a.containerNames(false))
	return cmd
}
