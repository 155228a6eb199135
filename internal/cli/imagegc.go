package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func newImageGC(a *app) *cobra.Command {
	var dry bool
	cmd := command("gc [OPTIONS]", "Remove images that nothing uses until the disk is at the low water mark", noArgs,
		func(ctx context.Context, _ []string) error {
			var c berthapi.Collection
			if dry {
				if err := a.getOwn(ctx, berthapi.PlanPath, url.Values{}, &c); err != nil {
					return err
				}
			} else if err := a.askOwn(ctx, http.MethodPost, berthapi.CollectPath, url.Values{}, &c); err != nil {
				return err
			}
			_, err := io.WriteString(a.Out, collected(&c, dry))
			return err
		})
	cmd.Long = "Remove images that no container uses and that are not pinned, the longest unused first, until the disk is at the low " +
		"water mark (image-gc-low in daemon.json). The daemon does this by itself when the disk is fuller than image-gc-high, and " +
		"never when the marks are not set. \"berth system df --why\" tells of each image whether it may go."
	cmd.Flags().BoolVar(&dry, "dry-run", false, "Say what would be removed, and remove nothing")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

// collected is what a collection did or would do.
func collected(c *berthapi.Collection, dry bool) string {
	var b strings.Builder
	n := 0
	for i := range c.Images {
		m := &c.Images[i]
		if dry && m.Take || m.Taken {
			n++
			fmt.Fprintf(&b, "%s  %s  %s, last used %s ago\n", shortID(m.ID), imageLabel(m), units.HumanSize(float64(m.Unique)),
				units.HumanDuration(time.Since(m.Used)))
		}
	}
	switch {
	case c.High == "":
		b.WriteString(noMarks)
	case dry && n == 0 && c.Excess == 0:
		b.WriteString("Nothing would be removed: the disk is not above the low water mark.\n")
	case dry && n == 0:
		b.WriteString("Nothing would be removed: no image may be collected.\n")
	case dry:
		fmt.Fprintf(&b, "%d images would be removed.\n", n)
	default:
		fmt.Fprintf(&b, "%d images removed, %s came free.\n", n, units.HumanSize(float64(c.Freed)))
		if c.Excess > 0 {
			fmt.Fprintf(&b, "The disk is still %s above the low water mark, and no image is left that may be collected.\n",
				units.HumanSize(float64(c.Excess)))
		}
	}
	return b.String()
}

const noMarks = "Images are never collected unasked: image-gc-high and image-gc-low are not set in daemon.json.\n"

func imageLabel(m *berthapi.CollectionImage) string {
	if len(m.Names) == 0 {
		return "<none>"
	}
	return strings.Join(m.Names, ",")
}

// why explains what is on the disk and why it stays.
func (a *app) why(ctx context.Context, format string) error {
	var c berthapi.Collection
	if err := a.getOwn(ctx, berthapi.PlanPath, url.Values{}, &c); err != nil {
		return err
	}
	if format == "" || format == "table" {
		if _, err := io.WriteString(a.Out, whyHead(&c)); err != nil {
			return err
		}
	}
	return whyListing().print(a.Out, format, c.Images)
}

func whyHead(c *berthapi.Collection) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Disk: %s of %s used, %s free.\n", units.HumanSize(float64(c.Size-c.Free)), units.HumanSize(float64(c.Size)),
		units.HumanSize(float64(c.Free)))
	switch {
	case c.High == "":
		b.WriteString(noMarks)
	default:
		fmt.Fprintf(&b, "Images are collected above %s until %s, if unused for %s.", c.High, c.Low,
			strings.ToLower(units.HumanDuration(time.Duration(c.MinAge)*time.Second)))
		if c.Excess > 0 {
			fmt.Fprintf(&b, " %s have to come free until then.", units.HumanSize(float64(c.Excess)))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
	return b.String()
}

func whyListing() *listing[berthapi.CollectionImage] {
	type image = berthapi.CollectionImage
	return &listing[image]{
		table: `{{.ID}}\t{{.Names}}\t{{.Size}}\t{{.UniqueSize}}\t{{.LastUsed}}\t{{.Why}}`,
		columns: []column[image]{
			{"ID", "IMAGE ID", func(m image) any { return shortID(m.ID) }},
			{"Names", "NAMES", func(m image) any { return imageLabel(&m) }},
			{"Size", "SIZE", func(m image) any { return units.HumanSize(float64(m.Size)) }},
			{"UniqueSize", "UNIQUE SIZE", func(m image) any { return units.HumanSize(float64(m.Unique)) }},
			{"LastUsed", "LAST USED", func(m image) any { return units.HumanDuration(time.Since(m.Used)) + " ago" }},
			{"Why", "WHY", func(m image) any {
				switch {
				case m.Keep != "":
					return "stays: " + m.Keep
				case m.Take:
					return "goes with the next collection"
				}
				return "may be collected when the disk is fuller"
			}},
		},
	}
}
