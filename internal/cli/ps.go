package cli

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newPs(a *app) *cobra.Command {
	var all, latest, noTrunc, quiet, size bool
	var last int
	var format string
	var filter filterValue
	cmd := command("ps [OPTIONS]", "List containers", noArgs, func(ctx context.Context, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		if format == "" && !quiet {
			config, err := a.configFile()
			if err != nil {
				return err
			}
			format = config.PsFormat
		}
		l := containerListing(noTrunc, size)
		shown := format
		if quiet && (format == "" || format == "table") {
			shown = "{{.ID}}"
		} else if quiet && format == "json" {
			shown = "{{.ID}}"
		}
		options := client.ContainerListOptions{All: all, Limit: max(last, 0), Filters: filter.filters,
			Size: size || uses(shown, "Size")}
		if latest && last < 0 {
			options.Limit = 1
		}
		result, err := api.ContainerList(ctx, options)
		if err != nil {
			return err
		}
		return l.print(a.Out, shown, result.Items)
	})
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Show all containers, not only running ones")
	f.VarP(&filter, "filter", "f", "Show only what fits (name=value)")
	f.StringVar(&format, "format", "", formatUsage)
	f.IntVarP(&last, "last", "n", -1, "Show the last `n` containers created, in any state")
	f.BoolVarP(&latest, "latest", "l", false, "Show the container created last, in any state")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	f.BoolVarP(&size, "size", "s", false, "Show sizes")
	return cmd
}

const formatUsage = `How to print: "table", "table TEMPLATE", "json", or a Go template`

func containerListing(noTrunc, size bool) *listing[container.Summary] {
	type summary = container.Summary
	l := &listing[summary]{
		table: `{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}`,
		columns: []column[summary]{
			{"ID", "CONTAINER ID", func(c summary) any {
				if noTrunc {
					return c.ID
				}
				return shortID(c.ID)
			}},
			{"Names", "NAMES", func(c summary) any { return containerNames(c.Names, noTrunc) }},
			{"Image", "IMAGE", func(c summary) any { return shownImage(c, noTrunc) }},
			{"Command", "COMMAND", func(c summary) any {
				if noTrunc {
					return strconv.Quote(c.Command)
				}
				return strconv.Quote(shorten(c.Command, 20))
			}},
			{"CreatedAt", "CREATED AT", func(c summary) any { return time.Unix(c.Created, 0).String() }},
			{"RunningFor", "CREATED", func(c summary) any { return ago(c.Created) }},
			{"Ports", "PORTS", func(c summary) any { return shownPorts(c.Ports) }},
			{"State", "STATE", func(c summary) any { return string(c.State) }},
			{"Status", "STATUS", func(c summary) any { return c.Status }},
			{"Size", "SIZE", func(c summary) any {
				s := units.HumanSizeWithPrecision(float64(c.SizeRw), 3)
				if c.SizeRootFs > 0 {
					s += " (virtual " + units.HumanSizeWithPrecision(float64(c.SizeRootFs), 3) + ")"
				}
				return s
			}},
			{"Labels", "LABELS", func(c summary) any { return labelList(c.Labels) }},
			{"Mounts", "MOUNTS", func(c summary) any { return mountNames(c.Mounts, noTrunc) }},
			{"LocalVolumes", "LOCAL VOLUMES", func(c summary) any { return localVolumes(c.Mounts) }},
			{"Networks", "NETWORKS", func(c summary) any {
				if c.NetworkSettings == nil {
					return ""
				}
				return strings.Join(sortedKeys(c.NetworkSettings.Networks), ",")
			}},
			{"Platform", "PLATFORM", func(c summary) any {
				if c.ImageManifestDescriptor == nil || c.ImageManifestDescriptor.Platform == nil {
					return nil
				}
				p := c.ImageManifestDescriptor.Platform
				return strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")
			}},
			{"HealthStatus", "HEALTH STATUS", func(c summary) any {
				if c.Health == nil {
					return ""
				}
				return string(c.Health.Status)
			}},
		},
		method: func(c summary, name string, args []any) (any, bool, error) {
			if name != "Label" || len(args) != 1 {
				return nil, false, nil
			}
			return c.Labels[printed(args[0])], true, nil
		},
	}
	if size {
		l.table += `\t{{.Size}}`
	}
	return l
}

func shortID(id string) string {
	_, hex, ok := strings.Cut(id, ":")
	if !ok {
		hex = id
	}
	if len(hex) > 12 {
		return hex[:12]
	}
	return hex
}

// containerNames leaves the names other containers gave by links to those who asked for everything.
func containerNames(names []string, all bool) string {
	var shown []string
	for _, n := range names {
		n = strings.TrimPrefix(n, "/")
		if all || !strings.Contains(n, "/") {
			shown = append(shown, n)
		}
	}
	return strings.Join(shown, ",")
}

func shownImage(c container.Summary, noTrunc bool) string {
	if c.Image == "" {
		return "<no image>"
	}
	if noTrunc {
		return c.Image
	}
	// Where the reference is the ID alone, it is as long as no other column.
	if shortID(c.ImageID) == shortID(c.Image) {
		return shortID(c.Image)
	}
	// A digest beside a tag is left out.
	if name, digest, ok := strings.Cut(c.Image, "@"); ok && strings.HasPrefix(digest, "sha256:") {
		return name
	}
	return c.Image
}

func ago(unix int64) string {
	if unix <= 0 {
		return "N/A"
	}
	return units.HumanDuration(time.Since(time.Unix(unix, 0))) + " ago"
}

func labelList(labels map[string]string) string {
	var list []string
	for _, k := range sortedKeys(labels) {
		list = append(list, k+"="+labels[k])
	}
	return strings.Join(list, ",")
}

func mountNames(mounts []container.MountPoint, noTrunc bool) string {
	var names []string
	for _, m := range mounts {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		if !noTrunc {
			name = shorten(name, 15)
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

func localVolumes(mounts []container.MountPoint) string {
	n := 0
	for _, m := range mounts {
		if m.Type == mount.TypeVolume && m.Driver == "local" {
			n++
		}
	}
	return strconv.Itoa(n)
}

// shownPorts joins neighbouring ports to ranges: "0.0.0.0:8000-8002->8000-8002/tcp, 9000/udp".
func shownPorts(ports []container.PortSummary) string {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b container.PortSummary) int {
		return compareAll(compareInt(a.PrivatePort, b.PrivatePort), a.IP.Compare(b.IP),
			compareInt(a.PublicPort, b.PublicPort), strings.Compare(a.Type, b.Type))
	})
	type group struct {
		ip    netip.Addr
		proto string
	}
	type span struct{ first, last uint16 }
	groups := map[group]*span{}
	var order []group
	var shown, singles []string
	for _, p := range ports {
		if p.PublicPort != 0 && p.PublicPort != p.PrivatePort {
			// Not the same port on both sides: stands for itself.
			singles = append(singles, publishedPort(p.IP, p.PublicPort, p.PublicPort, p.PrivatePort, p.PrivatePort, p.Type))
			continue
		}
		g := group{proto: p.Type}
		if p.PublicPort != 0 {
			g.ip = p.IP
		}
		s := groups[g]
		switch {
		case s == nil:
			groups[g] = &span{p.PrivatePort, p.PrivatePort}
			order = append(order, g)
		case p.PrivatePort == s.last+1:
			s.last++
		case p.PrivatePort == s.last: // twice the same
		default:
			shown = append(shown, publishedRange(g.ip, s.first, s.last, g.proto))
			*s = span{p.PrivatePort, p.PrivatePort}
		}
	}
	for _, g := range order {
		s := groups[g]
		shown = append(shown, publishedRange(g.ip, s.first, s.last, g.proto))
	}
	return strings.Join(append(shown, singles...), ", ")
}

func publishedRange(ip netip.Addr, first, last uint16, proto string) string {
	if !ip.IsValid() {
		return portRange(first, last) + "/" + proto
	}
	return publishedPort(ip, first, last, first, last, proto)
}

func publishedPort(ip netip.Addr, first, last, toFirst, toLast uint16, proto string) string {
	host := ip.String()
	switch {
	case !ip.IsValid():
		host = ""
	case ip.Is6():
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%s->%s/%s", host, portRange(first, last), portRange(toFirst, toLast), proto)
}

func portRange(first, last uint16) string {
	if first == last {
		return strconv.Itoa(int(first))
	}
	return strconv.Itoa(int(first)) + "-" + strconv.Itoa(int(last))
}

func compareInt[N int | int64 | uint16 | uint64 | float64](a, b N) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func compareAll(results ...int) int {
	for _, r := range results {
		if r != 0 {
			return r
		}
	}
	return 0
}
