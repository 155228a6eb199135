package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func newSystemCheck(a *app) *cobra.Command {
	var full, repair bool
	var format string
	cmd := command("check [OPTIONS]", "Look whether everything that is stored is whole", noArgs,
		func(ctx context.Context, _ []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("invalid --format %q: it is json, or nothing for text", format)
			}
			method, query := http.MethodGet, url.Values{}
			if full {
				query.Set("full", "1")
			}
			if repair {
				method = http.MethodPost
			}
			var r berthapi.Check
			if err := a.askOwn(ctx, method, berthapi.CheckPath, query, &r); err != nil {
				return err
			}
			text := checkText(&r, repair)
			if format == "json" {
				out, err := json.MarshalIndent(&r, "", "    ")
				if err != nil {
					return err
				}
				text = string(out) + "\n"
			}
			if _, err := io.WriteString(a.Out, text); err != nil {
				return err
			}
			for _, f := range r.Findings {
				if !f.Repaired {
					return &exitError{code: 1}
				}
			}
			return nil
		})
	cmd.Long = "Compare the databases, blobs, layers, images, containers and volumes with each other and with the disk, and say " +
		"what is wrong. The exit code is 1 when something is.\n\n" +
		"--repair drops blobs that are damaged, so that pulling brings whole ones, unpacks layers once more that have lost " +
		"their directory, and removes what nobody owns. It never removes what a container uses, nor the data of a container or a volume."
	f := cmd.Flags()
	f.BoolVar(&full, "full", false, "Read every blob and compare it with its digest")
	f.BoolVar(&repair, "repair", false, "Mend what can be mended")
	f.StringVar(&format, "format", "", "json, or nothing for text")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// checkText is a check as people read it.
func checkText(r *berthapi.Check, repair bool) string {
	var b strings.Builder
	left := 0
	for _, f := range r.Findings {
		sign := "✗"
		if f.Repaired {
			sign = "✓"
		} else {
			left++
		}
		fmt.Fprintf(&b, "%s %s %s %s", sign, f.Kind, f.Object, f.Problem)
		if f.Repaired {
			b.WriteString(" (repaired)")
		}
		b.WriteString("\n")
		if f.Remedy != "" {
			fmt.Fprintf(&b, "    → %s\n", f.Remedy)
		}
	}
	fmt.Fprintf(&b, "Looked at %d blobs, %d layers, %d images, %d containers and %d volumes", r.Blobs, r.Layers, r.Images,
		r.Containers, r.Volumes)
	if r.Bytes > 0 {
		fmt.Fprintf(&b, "; compared %s with their digests", units.HumanSize(float64(r.Bytes)))
	}
	b.WriteString(".\n")
	if r.Busy {
		b.WriteString("Images are being brought in or read: whether something is stored that nobody owns was not looked at, " +
			"and no blob was dropped. Check again when that is over.\n")
	}
	switch {
	case len(r.Findings) == 0:
		b.WriteString("Nothing is wrong.\n")
	case left == 0:
		b.WriteString("All of it is repaired.\n")
	case !repair:
		fmt.Fprintf(&b, "%d found. \"berth system check --repair\" mends what can be mended.\n", left)
	default:
		fmt.Fprintf(&b, "%d left that cannot be mended here.\n", left)
	}
	return b.String()
}
