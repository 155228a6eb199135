package cli

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/berthapi"
	"github.com/spf13/cobra"
)

const (
	egressOption = "com.berth.network.egress"
	egressUsage  = "Where containers may go (allow=|deny=ADDRESS|CIDR|DOMAIN|all[:PORT][/PROTOCOL], default=allow|deny)"
)

func newNetworkUpdate(a *app) *cobra.Command {
	var egress []string
	cmd := command("update [OPTIONS] NETWORK", "Change a network while it is used", exactArgs(1),
		func(ctx context.Context, args []string) error {
			if len(egress) == 0 {
				return errors.New("nothing to change: give a policy with --egress")
			}
			policy := berthapi.Egress{Policy: strings.Join(egress, ",")}
			return a.sendOwn(ctx, http.MethodPost, berthapi.EgressPath(url.PathEscape(args[0])), nil, &policy, &struct{}{})
		})
	cmd.Flags().Var(&listValue{&egress, nil}, "egress", egressUsage+"; off for anywhere")
	cmd.ValidArgsFunction = a.completeFirst(a.networkNames)
	return cmd
}

func newNetworkLog(a *app) *cobra.Command {
	var noTrunc bool
	var format string
	cmd := command("log [OPTIONS] [CONTAINER|NETWORK]", "Show what egress policies have refused", rangeArgs(0, 1),
		func(ctx context.Context, args []string) error {
			query := url.Values{}
			if len(args) > 0 {
				query.Set("of", args[0])
			}
			var refused []berthapi.Refused
			if err := a.getOwn(ctx, berthapi.RefusedPath, query, &refused); err != nil {
				return err
			}
			return refusedListing(noTrunc).print(a.Out, format, refused)
		})
	cmd.Long = "Show what egress policies have refused lately, the latest last: destinations, and domains that were not resolved.\n\n" +
		"COUNT is how often it was told of. Of a container that tries very often the kernel tells a part."
	cmd.Flags().StringVar(&format, "format", "", formatUsage)
	cmd.Flags().BoolVar(&noTrunc, "no-trunc", false, "Do not shorten the output")
	cmd.ValidArgsFunction = a.completeFirst(a.containerNames(false))
	return cmd
}

func refusedListing(noTrunc bool) *listing[berthapi.Refused] {
	type refused = berthapi.Refused
	return &listing[refused]{
		table: `{{.Last}}\t{{.Container}}\t{{.Network}}\t{{.To}}\t{{.Count}}`,
		columns: []column[refused]{
			{"First", "FIRST", func(r refused) any { return r.First.Local().Format(time.DateTime) }},
			{"Last", "LAST", func(r refused) any { return r.Last.Local().Format(time.DateTime) }},
			{"Container", "CONTAINER", func(r refused) any {
				switch {
				case r.ContainerName != "":
					return r.ContainerName
				case noTrunc:
					return r.ContainerID
				}
				return shortID(r.ContainerID)
			}},
			{"ID", "CONTAINER ID", func(r refused) any {
				if noTrunc {
					return r.ContainerID
				}
				return shortID(r.ContainerID)
			}},
			{"Network", "NETWORK", func(r refused) any { return r.Network }},
			{"To", "TO", func(r refused) any { return refusedTo(r) }},
			{"Count", "COUNT", func(r refused) any { return strconv.Itoa(r.Count) }},
		},
	}
}

// refusedTo is 192.0.2.1:80/tcp, 192.0.2.1/icmp, or a domain.
func refusedTo(r berthapi.Refused) string {
	switch {
	case r.Domain != "":
		return r.Domain
	case r.Port == 0:
		return r.To.String() + "/" + r.Proto
	}
	return net.JoinHostPort(r.To.String(), strconv.Itoa(int(r.Port))) + "/" + r.Proto
}
