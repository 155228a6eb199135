package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newUpdate(a *app) *cobra.Command {
	var r container.Resources
	var pids int64
	var restart string
	var publish, unpublish, networkOpts, egress []string
	var cmd *cobra.Command
	cmd = command("update [OPTIONS] CONTAINER [CONTAINER...]", "Change limits, published ports and bandwidth of one or more containers", minArgs(1),
		func(ctx context.Context, args []string) error {
			f := cmd.Flags()
			if f.NFlag() == 0 {
				return errors.New("you must provide one or more flags when using this command")
			}
			o := client.ContainerUpdateOptions{Resources: &r}
			if f.Changed("pids-limit") {
				r.PidsLimit = &pids
			}
			if restart != "" {
				policy, err := parseRestart(restart)
				if err != nil {
					return err
				}
				o.RestartPolicy = &policy
			}
			net, err := rewire(publish, unpublish, networkOpts, egress)
			if err != nil {
				return err
			}
			limits := false // there is more to change than the network
			f.Visit(func(f *pflag.Flag) {
				limits = limits || f.Name != "publish-add" && f.Name != "publish-rm" && f.Name != "network-opt" && f.Name != "egress"
			})
			api, err := a.client()
			if err != nil {
				return err
			}
			var failed []error
			var warnings []string
			for _, name := range args {
				var result client.ContainerUpdateResult
				if limits {
					if result, err = api.ContainerUpdate(ctx, name, o); err != nil {
						failed = append(failed, err)
						continue
					}
				}
				if net != nil {
					path := berthapi.RewirePath(url.PathEscape(name))
					if err := a.sendOwn(ctx, http.MethodPost, path, nil, net, &struct{}{}); err != nil {
						failed = append(failed, err)
						continue
					}
				}
				fmt.Fprintln(a.Out, name)
				warnings = append(warnings, result.Warnings...)
			}
			if len(warnings) > 0 {
				fmt.Fprintln(a.Out, strings.Join(warnings, "\n"))
			}
			return joined(failed)
		})
	f := cmd.Flags()
	f.Uint16Var(&r.BlkioWeight, "blkio-weight", 0, "Block I/O weight between 10 and 1000, or 0")
	f.Int64Var(&r.CPUPeriod, "cpu-period", 0, "Period of the CPU limit in microseconds")
	f.Int64Var(&r.CPUQuota, "cpu-quota", 0, "CPU time per period in microseconds")
	f.Int64Var(&r.CPURealtimePeriod, "cpu-rt-period", 0, "Period of the real-time limit in microseconds")
	f.Int64Var(&r.CPURealtimeRuntime, "cpu-rt-runtime", 0, "Real-time CPU time per period in microseconds")
	f.Int64VarP(&r.CPUShares, "cpu-shares", "c", 0, "CPU weight relative to other containers")
	f.Var(cpusValue(&r.NanoCPUs), "cpus", "Number of CPUs")
	f.StringVar(&r.CpusetCpus, "cpuset-cpus", "", "CPUs to run on (0-3, 0,1)")
	f.StringVar(&r.CpusetMems, "cpuset-mems", "", "Memory nodes to use (0-3, 0,1)")
	f.StringArrayVar(&egress, "egress", nil, egressUsage+"; off for anywhere")
	f.VarP(bytesValue(&r.Memory), "memory", "m", "Limit of memory")
	f.Var(bytesValue(&r.MemoryReservation), "memory-reservation", "Memory to fall back to when the host runs short")
	f.Var(swapValue(&r.MemorySwap), "memory-swap", "Limit of memory and swap together: -1 for any amount of swap")
	f.StringArrayVar(&networkOpts, "network-opt", nil, "Bandwidth on a network ([NETWORK:]rx=10mbit,tx=5mbit; 0 for no bound)")
	f.StringArrayVar(&publish, "publish-add", nil, "Publish a port of the container ([IP:][HOST:]PORT[/PROTO])")
	f.StringArrayVar(&unpublish, "publish-rm", nil, "Publish a port no more")
	f.Int64Var(&pids, "pids-limit", 0, "Limit of processes (-1 for any number)")
	f.StringVar(&restart, "restart", "", "When to restart the container (no|on-failure[:n]|always|unless-stopped)")
	cmd.ValidArgsFunction = a.completeAll(a.containerNames(true))
	return cmd
}
