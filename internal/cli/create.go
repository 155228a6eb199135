package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCreate(a *app) *cobra.Command {
	var c createFlags
	cmd := &cobra.Command{
		Use: "create [OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create a new container",
		Args: minArgs(1), DisableFlagsInUseLine: true, ValidArgsFunction: a.completeFirst(a.imageNames),
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	c.add(f, a.lookup)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request, err := c.request(f, args, a.lookup)
		if err != nil {
			return a.runError("create", err, 125)
		}
		id, err := a.create(cmd.Context(), &c, request)
		if err != nil {
			return a.runError("create", err, 1)
		}
		fmt.Fprintln(a.Out, id)
		return nil
	}
	return cmd
}
