package cli

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

func newRmi(a *app) *cobra.Command {
	var force, noPrune bool
	var platforms []string
	cmd := command("rmi [OPTIONS] IMAGE [IMAGE...]", "Remove one or more images", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			o := client.ImageRemoveOptions{Force: force, PruneChildren: !noPrune}
			for _, s := range platforms {
				p, err := parsePlatform(s)
				if err != nil {
					return err
				}
				o.Platforms = append(o.Platforms, ocispec.Platform(*p))
			}
			var failed []error
			fatal := false
			for _, name := range args {
				result, err := api.ImageRemove(ctx, name, o)
				if err != nil {
					fatal = fatal || !errdefs.IsNotFound(err)
					failed = append(failed, err)
					continue
				}
				for _, item := range result.Items {
					if item.Deleted != "" {
						fmt.Fprintln(a.Out, "Deleted:", item.Deleted)
					} else {
						fmt.Fprintln(a.Out, "Untagged:", item.Untagged)
					}
				}
			}
			if force && !fatal {
				for _, err := range failed { // gone, as was wished
					fmt.Fprintln(a.Err, plainError(err))
				}
				return nil
			}
			return joined(failed)
		})
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Remove the image although something uses it")
	f.BoolVar(&noPrune, "no-prune", false, "Keep untagged parents")
	f.StringSliceVar(&platforms, "platform", nil, "Remove this platform's image alone (os/arch[/variant])")
	cmd.ValidArgsFunction = a.completeAll(a.imageNames)
	return cmd
}
