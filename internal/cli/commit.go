package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newCommit(a *app) *cobra.Command {
	var o client.ContainerCommitOptions
	var pause, noPause, squash bool
	var cmd *cobra.Command
	cmd = command("commit [OPTIONS] CONTAINER [REPOSITORY[:TAG]]", "Make an image of a container's files", rangeArgs(1, 2),
		func(ctx context.Context, args []string) error {
			if cmd.Flags().Changed("pause") && cmd.Flags().Changed("no-pause") {
				return fmt.Errorf("conflicting options: --no-pause and --pause cannot be used together")
			}
			o.NoPause = noPause || !pause
			if len(args) == 2 {
				o.Reference = args[1]
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			if squash {
				return a.commitSquashed(ctx, args[0], &o)
			}
			result, err := api.ContainerCommit(ctx, args[0], o)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.Out, result.ID)
			return nil
		})
	f := cmd.Flags()
	f.StringVarP(&o.Author, "author", "a", "", `Author ("John Smith <john@example.com>")`)
	f.VarP(&listValue{&o.Changes, nil}, "change", "c", "Apply a Dockerfile instruction to the image")
	f.StringVarP(&o.Comment, "message", "m", "", "Message to keep with the image")
	f.BoolVarP(&pause, "pause", "p", true, "Pause the container in the meantime")
	f.Lookup("pause").Hidden = true
	f.BoolVar(&noPause, "no-pause", false, "Do not pause the container in the meantime")
	f.BoolVar(&squash, "squash", false, "Make one layer of all files, and begin the history anew")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(true))
	return cmd
}

// commitSquashed asks for what Docker's API does not have a word for.
func (a *app) commitSquashed(ctx context.Context, name string, o *client.ContainerCommitOptions) error {
	query := url.Values{"container": {name}, "squash": {"1"}, "comment": {o.Comment}, "author": {o.Author}, "changes": o.Changes}
	if o.Reference != "" {
		ref, err := reference.ParseNormalizedNamed(o.Reference)
		if err != nil {
			return err
		}
		if _, ok := ref.(reference.Digested); ok {
			return errors.New("refusing to create a tag with a digest reference")
		}
		query.Set("repo", ref.Name())
		query.Set("tag", reference.TagNameOnly(ref).(reference.Tagged).Tag())
	}
	if o.NoPause {
		query.Set("pause", "0")
	}
	var made struct{ ID string }
	if err := a.askOwn(ctx, http.MethodPost, "/commit", query, &made); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.Out, made.ID)
	return err
}
