package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newLogout(a *app) *cobra.Command {
	cmd := command("logout [SERVER]", "Forget the credentials of a registry", maxArgs(1),
		func(_ context.Context, args []string) error {
			server := hubServer
			if len(args) == 1 && registryHost(args[0]) != "docker.io" && registryHost(args[0]) != "index.docker.io" {
				server = registryHost(args[0])
			}
			config, err := a.configFile()
			if err != nil {
				return err
			}
			fmt.Fprintf(a.Out, "Removing login credentials for %s\n", server)
			if err := config.erase(server); err != nil {
				return fmt.Errorf("could not erase credentials: %w", err)
			}
			return nil
		})
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}
