package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func newImageExplore(a *app) *cobra.Command {
	var format, platform, name string
	var layer int
	var cmd *cobra.Command
	cmd = command("explore [OPTIONS] IMAGE", "Show which layer of an image brought which file", exactArgs(1),
		func(ctx context.Context, args []string) error {
			if format != "" && format != "json" {
				return fmt.Errorf("invalid --format %q: it is json, or nothing for a table and a tree", format)
			}
			query := url.Values{}
			if platform != "" {
				if _, err := parsePlatform(platform); err != nil {
					return err
				}
				query.Set("platform", platform)
			}
			if cmd.Flags().Changed("layer") {
				if layer < 1 {
					return errors.New("--layer is the number of a layer, and 1 is the bottom one")
				}
				query.Set("layer", strconv.Itoa(layer))
			}
			if name != "" {
				query.Set("path", name)
			}
			var x berthapi.Exploration
			if err := a.getOwn(ctx, berthapi.ExplorePath((&url.URL{Path: args[0]}).EscapedPath()), query, &x); err != nil {
				return err
			}
			if format == "json" {
				out, err := json.MarshalIndent(&x, "", "    ")
				if err == nil {
					_, err = fmt.Fprintln(a.Out, string(out))
				}
				return err
			}
			var err error
			switch {
			case name != "" && layer == 0:
				_, err = io.WriteString(a.Out, drawPath(&x))
			case layer > len(x.Layers):
				return fmt.Errorf("the daemon has told of %d layers alone", len(x.Layers))
			case layer > 0:
				_, err = io.WriteString(a.Out, drawLayer(&x.Layers[layer-1]))
			default:
				err = drawLayers(a.Out, &x)
			}
			return err
		})
	cmd.Long = "Show which layer of an image brought which file, what each step added, replaced and removed, and the bytes that are in " +
		"the image and in no container of it.\n\nWithout options it lists the layers, the bottom one first, and the paths that " +
		"waste most. --layer draws the files of one layer as a tree, --path tells of a path in every layer; together, of a path " +
		"in one layer. In trees, + is what a layer adds, ~ what it replaces or changes, - what it removes."
	f := cmd.Flags()
	f.StringVar(&format, "format", "", "json, or nothing for a table and a tree")
	f.IntVar(&layer, "layer", 0, "Draw the files of this layer (1 is the bottom one)")
	f.StringVar(&name, "path", "", "Tell of this path and those below it")
	f.StringVar(&platform, "platform", "", "Explore this platform's image (os/arch[/variant])")
	cmd.ValidArgsFunction = a.completeFirst(a.imageNames)
	return cmd
}

// visible is a text of somebody else's in which nothing steers a terminal.
func visible(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		text = strconv.Quote(text)
		return text[1 : len(text)-1]
	}
	return text
}

func bytesOf(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// drawLayers lists the layers and what is wasted.
func drawLayers(out io.Writer, x *berthapi.Exploration) error {
	names := x.Names
	if len(names) == 0 {
		names = []string{"<untagged>"}
	}
	fmt.Fprintf(out, "%s  %s  %s\n\n", visible(strings.Join(names, ", ")), shortDigest(x.Image), x.Platform)
	w := tabwriter.NewWriter(out, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "LAYER\tSIZE\tADDED\tCHANGED\tREMOVED\tHIDES\tCREATED BY")
	for _, l := range x.Layers {
		by := []rune(visible(strings.Join(strings.Fields(l.CreatedBy), " ")))
		if len(by) > 60 {
			by = append(by[:59], '…')
		}
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%s\t%s\n", l.Number, bytesOf(l.Size), l.Added, l.Changed, l.Removed, bytesOf(l.Hidden), string(by))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	share := 0.0
	if x.Size+x.Wasted > 0 {
		share = 100 * float64(x.Wasted) / float64(x.Size+x.Wasted)
	}
	fmt.Fprintf(out, "\n%s of files in a container, and %s (%.1f %%) that layers hide\n", bytesOf(x.Size), bytesOf(x.Wasted), share)
	if len(x.Waste) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	w = tabwriter.NewWriter(out, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "WASTED\tCOPIES\tPATH")
	for _, p := range x.Waste[:min(len(x.Waste), 20)] {
		fmt.Fprintf(w, "%s\t%d\t%s\n", bytesOf(p.Bytes), p.Copies, visible(p.Path))
	}
	return w.Flush()
}

// sign is how a change is drawn.
func sign(change string) string {
	switch change {
	case "added":
		return "+"
	case "changed":
		return "~"
	}
	return "-"
}

// describe is what there is to say of a file beside its name.
func describe(f *berthapi.ExploredFile) string {
	var parts []string
	if f.Change != "removed" {
		parts = append(parts, fmt.Sprintf("%04o %d:%d", f.Mode, f.UID, f.GID))
		if f.Kind == "file" {
			parts = append(parts, bytesOf(f.Size))
		} else {
			parts = append(parts, f.Kind)
		}
	}
	if f.Hidden > 0 {
		parts = append(parts, "hides "+bytesOf(f.Hidden))
	}
	if f.Below > 0 {
		parts = append(parts, fmt.Sprintf("of layer %d", f.Below))
	}
	return "(" + strings.Join(parts, ", ") + ")"
}

// drawPath tells of a path in every layer that touches it.
func drawPath(x *berthapi.Exploration) string {
	var b strings.Builder
	for _, l := range x.Layers {
		for i := range l.Files {
			f := &l.Files[i]
			fmt.Fprintf(&b, "layer %d  %s %s%s %s\n", l.Number, sign(f.Change), visible(f.Path), arrow(f), describe(f))
		}
	}
	if b.Len() == 0 {
		b.WriteString("No layer has this path.\n")
	}
	return b.String()
}

func arrow(f *berthapi.ExploredFile) string {
	if f.Link == "" {
		return ""
	}
	return " -> " + visible(f.Link)
}

// branch is a directory of the tree that is drawn.
type branch struct {
	file  *berthapi.ExploredFile // nil for a directory on the way
	below map[string]*branch
}

// drawLayer draws the files of a layer as a tree.
func drawLayer(l *berthapi.ExploredLayer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "layer %d  %s\n%s  %d added, %d changed, %d removed, hides %s\n/\n", l.Number, visible(strings.Join(strings.Fields(l.CreatedBy), " ")),
		bytesOf(l.Size), l.Added, l.Changed, l.Removed, bytesOf(l.Hidden))
	top := &branch{}
	for i := range l.Files {
		at := top
		for part := range strings.SplitSeq(strings.TrimPrefix(path.Clean(l.Files[i].Path), "/"), "/") {
			if at.below == nil {
				at.below = map[string]*branch{}
			}
			if at.below[part] == nil {
				at.below[part] = &branch{}
			}
			at = at.below[part]
		}
		at.file = &l.Files[i]
	}
	top.draw(&b, "")
	return b.String()
}

func (t *branch) draw(b *strings.Builder, indent string) {
	names := make([]string, 0, len(t.below))
	for n := range t.below {
		names = append(names, n)
	}
	slices.Sort(names)
	for i, n := range names {
		lead, next := "├─ ", "│  "
		if i == len(names)-1 {
			lead, next = "└─ ", "   "
		}
		below := t.below[n]
		b.WriteString(indent + lead)
		if f := below.file; f == nil {
			b.WriteString(visible(n) + "/\n")
		} else {
			slash := ""
			if f.Kind == "directory" {
				slash = "/"
			}
			fmt.Fprintf(b, "%s %s%s%s %s\n", sign(f.Change), visible(n), slash, arrow(f), describe(f))
		}
		below.draw(b, indent+next)
	}
}
