package cli

import (
	"context"
	"io"
	"os"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newImport(a *app) *cobra.Command {
	var o client.ImageImportOptions
	var platform string
	cmd := command("import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]", "Make an image of a tar archive of a file system",
		minArgs(1), func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			source := client.ImageImportSource{SourceName: "-"}
			var in io.ReadCloser
			switch {
			case args[0] == "-":
				source.Source = a.In
			case strings.HasPrefix(args[0], "http://"), strings.HasPrefix(args[0], "https://"):
				source.SourceName = args[0] // the daemon fetches it
			default:
				if in, err = os.Open(args[0]); err != nil {
					return err
				}
				defer in.Close()
				source.Source = in
			}
			ref := ""
			if len(args) > 1 {
				ref = args[1]
			}
			if platform != "" {
				p, err := parsePlatform(platform)
				if err != nil {
					return err
				}
				o.Platform = *p
			}
			body, err := api.ImageImport(ctx, source, ref, o)
			if err != nil {
				return err
			}
			return a.progress(a.Out).show(ctx, body, nil)
		})
	f := cmd.Flags()
	f.VarP(&listValue{&o.Changes, nil}, "change", "c", "Apply a Dockerfile instruction to the image")
	f.StringVarP(&o.Message, "message", "m", "", "Message to keep with the image")
	f.StringVar(&platform, "platform", "", "Platform of the image (os/arch[/variant])")
	return cmd
}
