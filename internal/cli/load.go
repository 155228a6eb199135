package cli

import (
	"context"
	"errors"
	"os"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newLoad(a *app) *cobra.Command {
	var input string
	var quiet bool
	var platforms []string
	cmd := command("load [OPTIONS]", "Read images from a tar archive", noArgs,
		func(ctx context.Context, _ []string) error {
			in := a.In
			if input != "" && input != "-" {
				f, err := os.Open(input)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			} else if _, ok := terminal(a.In); ok {
				return errors.New("requested load from stdin, but stdin is empty")
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			list, err := platformList(platforms)
			if err != nil {
				return err
			}
			view := a.progress(a.Out)
			options := []client.ImageLoadOption{client.ImageLoadWithQuiet(quiet || !view.terminal)}
			if len(list) > 0 {
				options = append(options, client.ImageLoadWithPlatforms(list...))
			}
			result, err := api.ImageLoad(ctx, in, options...)
			if err != nil {
				return err
			}
			return view.show(ctx, result, nil)
		})
	f := cmd.Flags()
	f.StringVarP(&input, "input", "i", "", "Read this file instead of STDIN")
	f.BoolVarP(&quiet, "quiet", "q", false, "Do not show the progress")
	f.StringSliceVar(&platforms, "platform", nil, "Read these platforms' images alone (os/arch[/variant])")
	return cmd
}
