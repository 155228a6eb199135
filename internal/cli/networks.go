package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newNetworkLs(a *app) *cobra.Command {
	var noTrunc, quiet bool
	var format string
	var filter filterValue
	cmd := command("ls [OPTIONS]", "List networks", noArgs, func(ctx context.Context, _ []string) error {
		api, err := a.client()
		if err != nil {
			return err
		}
		if format == "" && !quiet {
			config, err := a.configFile()
			if err != nil {
				return err
			}
			format = config.NetworksFormat
		}
		result, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: filter.filters})
		if err != nil {
			return err
		}
		sortBy(result.Items, func(n network.Summary) string { return n.Name })
		if quiet && (format == "" || format == "table") {
			format = "{{.ID}}"
		}
		return networkListing(noTrunc).print(a.Out, format, result.Items)
	})
	f := cmd.Flags()
	f.VarP(&filter, "filter", "f", "Show only what fits (name=value)")
	f.StringVar(&format, "format", "", formatUsage)
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show IDs only")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func networkListing(noTrunc bool) *listing[network.Summary] {
	type summary = network.Summary
	return &listing[summary]{
		table: `{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}`,
		columns: []column[summary]{
			{"ID", "NETWORK ID", func(n summary) any {
				if noTrunc {
					return n.ID
				}
				return shortID(n.ID)
			}},
			{"Name", "NAME", func(n summary) any { return n.Name }},
			{"Driver", "DRIVER", func(n summary) any { return n.Driver }},
			{"Scope", "SCOPE", func(n summary) any { return n.Scope }},
			{"IPv4", "IPV4", func(n summary) any { return strconv.FormatBool(n.EnableIPv4) }},
			{"IPv6", "IPV6", func(n summary) any { return strconv.FormatBool(n.EnableIPv6) }},
			{"Internal", "INTERNAL", func(n summary) any { return strconv.FormatBool(n.Internal) }},
			{"Labels", "LABELS", func(n summary) any { return labelList(n.Labels) }},
			{"CreatedAt", "CREATED AT", func(n summary) any { return n.Created.String() }},
		},
		method: func(n summary, name string, args []any) (any, bool, error) {
			if name != "Label" || len(args) != 1 {
				return nil, false, nil
			}
			return n.Labels[printed(args[0])], true, nil
		},
	}
}

func newNetworkRm(a *app) *cobra.Command {
	var force bool
	cmd := command("rm NETWORK [NETWORK...]", "Remove one or more networks", minArgs(1),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			failed := false
			for _, name := range args {
				if _, err := api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); err != nil {
					if force && errdefs.IsNotFound(err) {
						continue
					}
					fmt.Fprintln(a.Err, plainError(err))
					failed = true
					continue
				}
				fmt.Fprintln(a.Out, name)
			}
			if failed {
				return &exitError{1, ""}
			}
			return nil
		})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "A network that is not there is no error")
	cmd.ValidArgsFunction = a.completeAll(a.networkNames)
	return cmd
}

func newNetworkConnect(a *app) *cobra.Command {
	var n networkSpec
	var ip, ip6 string
	var links, local, options []string
	cmd := command("connect [OPTIONS] NETWORK CONTAINER", "Connect a container to a network", exactArgs(2),
		func(ctx context.Context, args []string) error {
			var err error
			for _, p := range []struct {
				text string
				to   *netip.Addr
			}{{ip, &n.ip}, {ip6, &n.ip6}} {
				if p.text != "" {
					if *p.to, err = parseIP(p.text); err != nil {
						return err
					}
				}
			}
			for _, s := range local {
				addr, err := parseIP(s)
				if err != nil {
					return err
				}
				n.linkLocal = append(n.linkLocal, addr)
			}
			n.links = links
			for _, o := range options {
				if k, _, ok := strings.Cut(o, "="); !ok || k == "" {
					return fmt.Errorf("invalid key/value pair format in driver options: %q", o)
				}
				setKeyValue(&n.driverOpts, o)
			}
			endpoint, err := n.endpoint()
			if err != nil {
				return err
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			_, err = api.NetworkConnect(ctx, args[0], client.NetworkConnectOptions{Container: args[1], EndpointConfig: endpoint})
			return err
		})
	f := cmd.Flags()
	f.StringSliceVar(&n.aliases, "alias", nil, "Further name of the container on the network")
	f.StringSliceVar(&options, "driver-opt", nil, "Option of the network's driver (key=value)")
	f.IntVar(&n.gatewayOrder, "gw-priority", 0, "The network with the highest gives the default gateway")
	f.StringVar(&ip, "ip", "", "IPv4 address")
	f.StringVar(&ip6, "ip6", "", "IPv6 address")
	f.Var(&listValue{&links, validLink}, "link", "Link to another container")
	f.StringSliceVar(&local, "link-local-ip", nil, "Link-local address")
	cmd.ValidArgsFunction = a.completeFirst(a.networkNames)
	return cmd
}

func newNetworkDisconnect(a *app) *cobra.Command {
	var force bool
	cmd := command("disconnect [OPTIONS] NETWORK CONTAINER", "Disconnect a container from a network", exactArgs(2),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			_, err = api.NetworkDisconnect(ctx, args[0], client.NetworkDisconnectOptions{Container: args[1], Force: force})
			return err
		})
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Disconnect it in any state")
	cmd.ValidArgsFunction = a.completeFirst(a.networkNames)
	return cmd
}

// networkFlags are those of network create.
type networkFlags struct {
	aux, options, ipamOptions                         map[string]string
	attachable, configOnly, ingress, internal, v4, v6 bool
	configFrom, driver, ipamDriver, scope             string
	gateways, ranges, subnets, labels, egress         []string
}

func newNetworkCreate(a *app) *cobra.Command {
	var n networkFlags
	var cmd *cobra.Command
	cmd = command("create [OPTIONS] NETWORK", "Create a network", exactArgs(1),
		func(ctx context.Context, args []string) error {
			o, err := n.request()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("ipv4") {
				o.EnableIPv4 = &n.v4
			}
			if cmd.Flags().Changed("ipv6") {
				o.EnableIPv6 = &n.v6
			}
			api, err := a.client()
			if err != nil {
				return err
			}
			result, err := api.NetworkCreate(ctx, args[0], o)
			if err != nil {
				return err
			}
			for _, w := range result.Warning {
				a.warn("WARNING: %s", w)
			}
			fmt.Fprintln(a.Out, result.ID)
			return nil
		})
	f := cmd.Flags()
	f.BoolVar(&n.attachable, "attachable", false, "Let containers be connected by hand")
	f.Var(&mapValue{&n.aux, keyValueOrError}, "aux-address", "Address the driver keeps for itself (name=address)")
	f.StringVar(&n.configFrom, "config-from", "", "Network to take the configuration from")
	f.BoolVar(&n.configOnly, "config-only", false, "Create a configuration alone")
	f.StringVarP(&n.driver, "driver", "d", "bridge", "Driver of the network")
	f.StringSliceVar(&n.gateways, "gateway", nil, "Gateway of a subnet")
	f.Var(&listValue{&n.egress, nil}, "egress", egressUsage)
	f.BoolVar(&n.ingress, "ingress", false, "Create the routing mesh of a swarm")
	f.BoolVar(&n.internal, "internal", false, "No way out of the network")
	f.StringSliceVar(&n.ranges, "ip-range", nil, "Take addresses from this part of a subnet")
	f.StringVar(&n.ipamDriver, "ipam-driver", "default", "Driver that gives addresses")
	f.Var(&mapValue{&n.ipamOptions, keyValueOrError}, "ipam-opt", "Option of that driver (key=value)")
	f.BoolVar(&n.v4, "ipv4", true, "Give IPv4 addresses")
	f.BoolVar(&n.v6, "ipv6", false, "Give IPv6 addresses")
	f.Var(&listValue{&n.labels, label}, "label", "Set a label")
	f.VarP(&mapValue{&n.options, keyValueOrError}, "opt", "o", "Option of the driver (key=value)")
	f.StringVar(&n.scope, "scope", "", "Scope of the network")
	f.StringSliceVar(&n.subnets, "subnet", nil, "Subnet (192.168.0.0/24)")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	return cmd
}

func (n *networkFlags) request() (client.NetworkCreateOptions, error) {
	o := client.NetworkCreateOptions{Driver: n.driver, Scope: n.scope, Internal: n.internal, Attachable: n.attachable,
		Ingress: n.ingress, ConfigOnly: n.configOnly, ConfigFrom: n.configFrom, Options: n.options,
		Labels: keyValues(n.labels)}
	if o.Options == nil {
		o.Options = map[string]string{}
	}
	if len(n.egress) > 0 {
		o.Options[egressOption] = strings.Join(n.egress, ",")
	}
	if n.configOnly && n.configFrom != "" {
		return o, fmt.Errorf("conflicting options: cannot specify both --config-only and --config-from")
	}
	config, err := n.ipam()
	if err != nil {
		return o, err
	}
	o.IPAM = &network.IPAM{Driver: n.ipamDriver, Options: n.ipamOptions, Config: config}
	if o.IPAM.Options == nil {
		o.IPAM.Options = map[string]string{}
	}
	return o, nil
}

// ipam gives every gateway, range and kept address to the subnet that holds it.
func (n *networkFlags) ipam() ([]network.IPAMConfig, error) {
	if len(n.subnets) < len(n.ranges) || len(n.subnets) < len(n.gateways) {
		return nil, fmt.Errorf("every ip-range or gateway must have a corresponding subnet")
	}
	list := []network.IPAMConfig{}
	for _, s := range n.subnets {
		_, parsed, err := net.ParseCIDR(s)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: %w", s, err)
		}
		subnet, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %s: %w", parsed, err)
		}
		for _, other := range list {
			if other.Subnet.Overlaps(subnet) {
				return nil, fmt.Errorf("multiple overlapping subnet configuration is not supported")
			}
		}
		list = append(list, network.IPAMConfig{Subnet: subnet})
	}
	holder := func(a netip.Addr) *network.IPAMConfig {
		for i := range list {
			if list[i].Subnet.Contains(a) {
				return &list[i]
			}
		}
		return nil
	}
	for _, s := range n.ranges {
		r, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid ip-range %s: %w", s, err)
		}
		c := holder(r.Addr())
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for range %s", s)
		case c.IPRange.IsValid():
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", s, c.IPRange, c.Subnet)
		}
		c.IPRange = r
	}
	for _, s := range n.gateways {
		g, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("invalid gateway %s: %w", s, err)
		}
		c := holder(g)
		switch {
		case c == nil:
			return nil, fmt.Errorf("no matching subnet for gateway %s", s)
		case c.Gateway.IsValid():
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", s, c.Gateway,
				c.Subnet)
		}
		c.Gateway = g
	}
	for _, name := range sortedKeys(n.aux) {
		g, err := netip.ParseAddr(n.aux[name])
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %s: %w", n.aux[name], err)
		}
		c := holder(g)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", g)
		}
		if c.AuxAddress == nil {
			c.AuxAddress = map[string]netip.Addr{}
		}
		c.AuxAddress[name] = g
	}
	return list, nil
}
