package cli

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newRm(a *app) *cobra.Command {
	var o client.ContainerRemoveOptions
	cmd := simple(a, "rm [OPTIONS] CONTAINER [CONTAINER...]", "Remove one or more containers",
		func(ctx context.Context, api *client.Client, name string) error {
			name = strings.Trim(name, "/")
			if name == "" {
				return errors.New("container name cannot be empty")
			}
			_, err := api.ContainerRemove(ctx, name, o)
			if o.Force && errdefs.IsNotFound(err) {
				// It is gone, as was wished; the person is told all the same.
				a.warn("%v", err)
				return errGone
			}
			return err
		})
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return dropGone(run(cmd, args)) }
	f := cmd.Flags()
	f.BoolVarP(&o.Force, "force", "f", false, "Kill the container first when it runs")
	f.BoolVarP(&o.RemoveLinks, "link", "l", false, "Remove the link instead of the container")
	f.BoolVarP(&o.RemoveVolumes, "volumes", "v", false, "Remove its anonymous volumes too")
	cmd.ValidArgsFunction = a.completeAll(a.containerNames(true))
	return cmd
}

// errGone keeps what was never there from being printed as removed.
var errGone = errors.New("gone")

// dropGone takes errGone out of what each collected.
func dropGone(err error) error {
	if err == nil || err == errGone {
		return nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var left []error
		for _, e := range many.Unwrap() {
			if e != errGone {
				left = append(left, e)
			}
		}
		return joined(left)
	}
	return err
}
