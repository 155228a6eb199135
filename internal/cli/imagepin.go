package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/spf13/cobra"
)

func newImagePin(a *app) *cobra.Command {
	return pinCommand(a, "pin", "Keep images from being collected and pruned", true)
}

func newImageUnpin(a *app) *cobra.Command {
	return pinCommand(a, "unpin", "Let images be collected and pruned again", false)
}

func pinCommand(a *app, word, short string, on bool) *cobra.Command {
	cmd := command(word+" IMAGE [IMAGE...]", short, minArgs(1), func(ctx context.Context, args []string) error {
		var failed []error
		for _, name := range args {
			var p berthapi.Pinned
			// Slashes stay: the names of images have them.
			path := berthapi.PinPath(strings.ReplaceAll(url.PathEscape(name), "%2F", "/"), on)
			if err := a.askOwn(ctx, http.MethodPost, path, url.Values{}, &p); err != nil {
				failed = append(failed, err)
				continue
			}
			for _, n := range p.Names {
				fmt.Fprintln(a.Out, n)
			}
		}
		return errors.Join(failed...)
	})
	cmd.Long = short + ". A pin belongs to the name it was given by and goes with it to another image; given an ID, all names of the " +
		"image are meant. What is pinned can still be removed by \"berth rmi\"."
	cmd.ValidArgsFunction = a.completeAll(a.imageNames)
	return cmd
}
