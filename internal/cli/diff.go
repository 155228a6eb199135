package cli

import (
	"context"
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newDiff(a *app) *cobra.Command {
	var format string
	cmd := command("diff CONTAINER", "Show which files of a container differ from its image's", exactArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			result, err := api.ContainerDiff(ctx, args[0], client.ContainerDiffOptions{})
			if err != nil {
				return err
			}
			if format == "" {
				format = "{{.Type}} {{.Path}}"
			}
			type change = container.FilesystemChange
			l := &listing[change]{table: `{{.Type}}\t{{.Path}}`, columns: []column[change]{
				{"Type", "CHANGE TYPE", func(c change) any { return changeLetter(c.Kind) }},
				{"Path", "PATH", func(c change) any {
					if _, people := terminal(a.Out); people {
						return visible(c.Path) // a container's own names, which may steer a terminal
					}
					return c.Path
				}},
			}}
			return l.print(a.Out, format, result.Changes)
		})
	cmd.Flags().StringVar(&format, "format", "", formatUsage)
	cmd.Flags().Lookup("format").Hidden = true
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(true))
	return cmd
}

func changeLetter(k container.ChangeType) string {
	switch k {
	case container.ChangeModify:
		return "C"
	case container.ChangeAdd:
		return "A"
	case container.ChangeDelete:
		return "D"
	}
	return fmt.Sprint(k)
}
