package cli

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

func newPort(a *app) *cobra.Command {
	cmd := command("port CONTAINER [PRIVATE_PORT[/PROTO]]", "Show where a container's ports are published",
		rangeArgs(1, 2),
		func(ctx context.Context, args []string) error {
			api, err := a.client()
			if err != nil {
				return err
			}
			info, err := api.ContainerInspect(ctx, args[0], client.ContainerInspectOptions{})
			if err != nil {
				return err
			}
			var ports network.PortMap
			if info.Container.NetworkSettings != nil {
				ports = info.Container.NetworkSettings.Ports
			}
			if len(args) == 2 {
				return a.onePort(ports, args[1], args[0])
			}
			for _, p := range sortedPorts(ports) {
				for _, b := range ports[p] {
					fmt.Fprintf(a.Out, "%s -> %s\n", p, address(b))
				}
			}
			return nil
		})
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(false))
	return cmd
}

// sortedPorts orders by number, and then by protocol.
func sortedPorts(ports network.PortMap) []network.Port {
	var all []network.Port
	for p := range ports {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b network.Port) int {
		return compareAll(compareInt(a.Num(), b.Num()), strings.Compare(string(a.Proto()), string(b.Proto())))
	})
	return all
}

func (a *app) onePort(ports network.PortMap, asked, container string) error {
	port, err := network.ParsePort(asked)
	if err != nil {
		return fmt.Errorf("Error: invalid port (%s): %w", asked, err)
	}
	if len(ports[port]) == 0 {
		return fmt.Errorf("Error: No public port '%s' published for %s", asked, container)
	}
	for _, b := range ports[port] {
		fmt.Fprintln(a.Out, address(b))
	}
	return nil
}

func address(b network.PortBinding) string {
	host := ""
	if b.HostIP.IsValid() {
		host = b.HostIP.String()
	}
	return net.JoinHostPort(host, b.HostPort)
}
