package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
)

// RewireOptions change a container's network. An empty host address or port of Remove means any.
type RewireOptions struct {
	Add, Remove []container.Port
	// Shape holds options of endpoints (rx, tx) by network; the network "" is the container's first.
	Shape map[string]map[string]string
	// Egress is the policy of where the container may go, by all of its networks; nil leaves it as it is.
	Egress *string
}

// Rewire changes published ports and bounds of bandwidth: at once if the container runs, and for its next starts. Once it
// has begun it cannot be cancelled.
func (e *Engine) Rewire(ctx context.Context, ref string, o RewireOptions) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	ctx = context.WithoutCancel(ctx)
	if rec.State.Status == container.Removing || rec.State.Status == container.Dead {
		return fmt.Errorf("container is marked for removal and cannot be \"update\"%w", kind{errdefs.ErrConflict})
	}
	config := rec.Config.Net
	switch {
	case config.Disabled, config.Mode == "none" && len(config.Endpoints) == 0, config.Mode == "host", strings.HasPrefix(config.Mode, "container:"):
		return fmt.Errorf("container %s has no network of its own whose ports or bandwidth could change%w", rec.Name, kind{errdefs.ErrInvalidArgument})
	}
	if config.Ports, err = changedPorts(rec, o); err != nil {
		return err
	}
	if o.Egress != nil {
		o.Shape = withEgress(config, o.Shape, *o.Egress)
	}
	if config.Endpoints, err = reshaped(config, o.Shape); err != nil {
		return err
	}
	before := e.Networks.Attached(rec.ID)
	if !rec.State.Alive() {
		_, err = e.Containers.Change(rec.ID, func(r *container.Record) error { r.Config.Net = config; return nil })
		return err
	}
	if err := e.shapeNow(ctx, rec, config, o.Shape); err != nil {
		return err
	}
	att := e.Networks.Attached(rec.ID)
	if len(o.Add)+len(o.Remove) > 0 {
		r := network.PublishRequest{ContainerID: rec.ID, Name: rec.Name, Remove: portRequests(o.Remove), Add: portRequests(o.Add)}
		if att, err = e.Networks.Publish(ctx, r); err != nil {
			// The bounds go back to what they were, as far as they can.
			if undo := e.shapeNow(ctx, rec, rec.Config.Net, o.Shape); undo != nil {
				e.log.Error("take back bounds of bandwidth", "container", rec.ID, "error", undo)
			}
			return err
		}
	}
	if att == nil {
		att = &network.Attachment{}
	}
	if err := e.saveNetwork(rec.ID, config, att); err != nil {
		return err
	}
	e.updateEtc(rec, before, att) // a policy may have brought a name server
	e.publish(rec, "update", nil)
	return nil
}

func portRequests(ports []container.Port) []network.PortRequest {
	var rs []network.PortRequest
	for _, p := range ports {
		rs = append(rs, network.PortRequest{Container: p.Container, Proto: p.Proto, HostIP: p.HostIP, HostPort: p.HostPort})
	}
	return rs
}

// changedPorts are those of the next starts.
func changedPorts(rec container.Record, o RewireOptions) ([]container.Port, error) {
	ports := slices.Clone(rec.Config.Net.Ports)
	for _, q := range o.Remove {
		n := len(ports)
		ports = slices.DeleteFunc(ports, func(p container.Port) bool { return meant(q, p) })
		now := slices.ContainsFunc(rec.Published, func(p container.Published) bool {
			return p.Container == q.Container && p.Proto == q.Proto && (q.HostIP == "" || q.HostIP == p.HostIP) &&
				(q.HostPort == "" || q.HostPort == strconv.Itoa(int(p.HostPort)))
		})
		if len(ports) == n && now && rec.Config.Net.PublishAll {
			return nil, fmt.Errorf("port %d/%s of container %s is published because all its exposed ports are (--publish-all)%w",
				q.Container, q.Proto, rec.Name, kind{errdefs.ErrInvalidArgument})
		}
		if len(ports) == n && !now {
			return nil, fmt.Errorf("container %s does not publish port %s%d/%s%w", rec.Name, hostOf(q), q.Container, q.Proto, kind{errdefs.ErrNotFound})
		}
	}
	for _, p := range o.Add {
		if !slices.Contains(ports, p) {
			ports = append(ports, p)
		} else if p.HostPort != "" {
			return nil, fmt.Errorf("container %s publishes port %s%d/%s already%w", rec.Name, hostOf(p), p.Container, p.Proto, kind{errdefs.ErrConflict})
		}
	}
	return ports, nil
}

func hostOf(p container.Port) string {
	if p.HostIP == "" && p.HostPort == "" {
		return ""
	}
	return strings.TrimPrefix(p.HostIP+":"+p.HostPort+":", ":")
}

// meant reports whether a port that is to be removed is this wish. A wish for any host port is meant by each.
func meant(q, p container.Port) bool {
	_, err := strconv.ParseUint(p.HostPort, 10, 16)
	return q.Container == p.Container && q.Proto == p.Proto && (q.HostIP == "" || q.HostIP == p.HostIP) &&
		(q.HostPort == "" || q.HostPort == p.HostPort || err != nil || p.HostPort == "0")
}

// reshaped are the endpoints with other bounds.
func reshaped(config container.Network, shape map[string]map[string]string) ([]container.Endpoint, error) {
	endpoints := slices.Clone(config.Endpoints)
	if len(shape) > 0 && len(endpoints) == 0 && !config.Disconnected {
		endpoints = []container.Endpoint{{Network: networkName(config.Mode)}}
	}
	for _, name := range slices.Sorted(maps.Keys(shape)) {
		if _, err := network.CheckShape(shape[name]); err != nil {
			return nil, err
		}
		i := shapedEndpoint(endpoints, name)
		if i < 0 {
			return nil, fmt.Errorf("the container is not connected to network %q%w", name, kind{errdefs.ErrNotFound})
		}
		opts := maps.Clone(endpoints[i].DriverOpts)
		if opts == nil {
			opts = container.Map{}
		}
		maps.Copy(opts, shape[name])
		endpoints[i].DriverOpts = opts
	}
	return endpoints, nil
}

// withEgress adds an egress policy to the options of every network of the container.
func withEgress(config container.Network, shape map[string]map[string]string, policy string) map[string]map[string]string {
	all := map[string]map[string]string{}
	for name, options := range shape {
		all[name] = maps.Clone(options)
	}
	names := []string{""} // the network that the mode names
	if len(config.Endpoints) > 0 {
		names = nil
	}
	for i, ep := range config.Endpoints {
		name := networkName(ep.Network)
		if _, first := all[""]; first && i == 0 {
			name = ""
		}
		names = append(names, name)
	}
	for _, name := range names {
		if all[name] == nil {
			all[name] = map[string]string{}
		}
		all[name][network.OptionEgress] = policy
	}
	return all
}

func shapedEndpoint(endpoints []container.Endpoint, name string) int {
	if name == "" && len(endpoints) > 0 {
		return 0
	}
	return slices.IndexFunc(endpoints, func(ep container.Endpoint) bool { return networkName(ep.Network) == networkName(name) })
}

// shapeNow makes the bounds of the interfaces that shape is about those of config.
func (e *Engine) shapeNow(ctx context.Context, rec container.Record, config container.Network, shape map[string]map[string]string) error {
	if len(shape) == 0 {
		return nil
	}
	ns, err := e.netNS(ctx, rec)
	if err != nil {
		return err
	}
	defer ns.Close()
	for _, name := range slices.Sorted(maps.Keys(shape)) {
		r := network.ShapeRequest{ContainerID: rec.ID, NetNS: ns, Options: map[string]string{}, DNS: first(config.DNS, e.opts.DNS)}
		if i := shapedEndpoint(config.Endpoints, name); i >= 0 {
			r.Network = networkName(config.Endpoints[i].Network)
			for _, key := range []string{"rx", "tx", network.OptionEgress} {
				if v, ok := config.Endpoints[i].DriverOpts[key]; ok {
					r.Options[key] = v
				}
			}
		} else if len(rec.Endpoints) > 0 {
			r.Network = rec.Endpoints[0].Network
		}
		if err := e.Networks.Shape(ctx, r); err != nil {
			return err
		}
	}
	return nil
}
