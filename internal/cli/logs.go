package cli

import (
	"context"
	"errors"
	"io"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newLogs(a *app) *cobra.Command {
	var o client.ContainerLogsOptions
	cmd := command("logs [OPTIONS] CONTAINER", "Show what a container wrote", exactArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			// Whether the container has a terminal decides how its output is written down.
			info, err := api.ContainerInspect(ctx, args[0], client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			o.ShowStdout, o.ShowStderr = true, true
			logs, err := api.ContainerLogs(ctx, info.Container.ID, o)
			if err != nil {
				return err
			}
			defer logs.Close()
			if info.Container.Config != nil && info.Container.Config.Tty {
				_, err = io.Copy(a.Out, logs)
			} else {
				err = demux(a.Out, a.Err, logs)
			}
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		})
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "Go on with what is written from now on")
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines from the end")
	f.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show when each line was written")
	f.StringVar(&o.Since, "since", "",
		`Only what was written since a time ("2013-01-02T13:23:37Z") or a duration ago ("42m")`)
	f.StringVar(&o.Until, "until", "",
		`Only what was written before a time ("2013-01-02T13:23:37Z") or a duration ago ("42m")`)
	f.BoolVar(&o.Details, "details", false, "Show extra attributes of the log driver")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(true))
	return cmd
}
