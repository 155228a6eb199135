package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newPush(a *app) *cobra.Command {
	var all, quiet, trust bool
	var platform string
	cmd := command("push [OPTIONS] NAME[:TAG]", "Upload an image to a registry", exactArgs(1),
		func(ctx context.Context, args []string) error {
			if !trust {
				return errNoTrust
			}
			return a.push(ctx, args[0], platform, all, quiet)
		})
	f := cmd.Flags()
	f.BoolVarP(&all, "all-tags", "a", false, "Upload every tag of the repository")
	f.BoolVarP(&quiet, "quiet", "q", false, "Print nothing but the image's name")
	f.StringVar(&platform, "platform", "", "Upload the image of this platform alone (os/arch[/variant])")
	f.BoolVar(&trust, "disable-content-trust", true, "Images are not signed with Notary; only true is possible")
	f.Lookup("disable-content-trust").Hidden = true
	cmd.ValidArgsFunction = a.completeFirst(a.imageNames)
	return cmd
}

func (a *app) push(ctx context.Context, name, platform string, all, quiet bool) error {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	switch {
	case all && !reference.IsNameOnly(ref):
		return errors.New("tag can't be used with --all-tags/-a")
	case !all && reference.IsNameOnly(ref):
		ref = reference.TagNameOnly(ref)
		if tagged, ok := ref.(reference.Tagged); ok && !quiet {
			fmt.Fprintf(a.Out, "Using default tag: %s\n", tagged.Tag())
		}
	}
	api, err := a.client()
	if err != nil {
		return err
	}
	auth, err := a.authFor(ref)
	if err != nil {
		return err
	}
	o := client.ImagePushOptions{All: all, RegistryAuth: auth}
	if o.RegistryAuth == "" {
		o.RegistryAuth = "e30=" // {}: daemons want the header even when it says nothing
	}
	if platform != "" {
		if o.Platform, err = parsePlatform(platform); err != nil {
			return err
		}
	}
	stream, err := api.ImagePush(ctx, ref.String(), o)
	if err != nil {
		return err
	}
	view := a.progress(a.Out)
	if quiet {
		view.w, view.terminal = io.Discard, false
	}
	// The notes that come besides (what a platform push left out) are for the end.
	var notes []string
	err = view.show(ctx, stream, func(raw json.RawMessage) {
		var note struct{ ManifestPushedInsteadOfIndex bool }
		if json.Unmarshal(raw, &note) == nil && note.ManifestPushedInsteadOfIndex {
			notes = append(notes, "Info -> Not all multiplatform-content is present and only the available single-platform "+
				"image was pushed")
		}
	})
	if err != nil {
		return err
	}
	for _, n := range notes {
		a.warn("%s", n)
	}
	if quiet {
		fmt.Fprintln(a.Out, ref.String())
	}
	return nil
}
