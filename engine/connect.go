package engine

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
)

// Connect puts a container on one more network: at once if it runs, otherwise at its next start. Once it has begun it
// cannot be cancelled.
func (e *Engine) Connect(ctx context.Context, ref string, ep container.Endpoint) error {
	nw, err := e.Networks.ResolveNetwork(networkName(ep.Network))
	if err != nil {
		return err
	}
	ep.Network = nw.Name
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	ctx = context.WithoutCancel(ctx)
	if err := mayConnect(rec, nw); err != nil {
		return err
	}
	alive := rec.State.Alive()
	if i := endpointOn(rec, nw.Name); i >= 0 && (!alive || slices.ContainsFunc(rec.Endpoints, attachedTo(nw.Name))) {
		return fmt.Errorf("endpoint with name %s already exists in network %s%w", rec.Name, nw.Name, kind{errdefs.ErrPermissionDenied})
	}
	config := rec.Config.Net
	config.Endpoints = slices.DeleteFunc(slices.Clone(config.Endpoints), func(o container.Endpoint) bool { return o.Network == nw.Name })
	ep = withPolicyOf(config.Endpoints, ep)
	config.Endpoints = append(config.Endpoints, ep)
	if !alive {
		req, err := endpointRequest(ep)
		if err != nil {
			return err
		}
		if err := e.Networks.CheckEndpoint(req); err != nil {
			return err
		}
		_, err = e.Containers.Change(rec.ID, func(r *container.Record) error {
			r.Config.Net.Endpoints = config.Endpoints
			return nil
		})
		if err == nil {
			e.publishNetwork("connect", nw.ID, rec.ID)
		}
		return err
	}
	wanted := rec
	wanted.Config.Net = config
	req, err := attachRequest(wanted, first(config.DNS, e.opts.DNS))
	if err != nil {
		return err
	}
	ns, err := e.netNS(ctx, rec)
	if err != nil {
		return err
	}
	defer ns.Close()
	before := e.Networks.Attached(rec.ID)
	att, err := e.Networks.Connect(ctx, network.ConnectRequest{ContainerID: rec.ID, Name: rec.Name, NetNS: ns,
		Hostname: rec.Config.Hostname, Endpoint: req.Endpoints[len(req.Endpoints)-1], Ports: req.Ports, DNS: req.DNS, Trusted: req.Trusted,
		Peers: e.peers(rec)})
	if err != nil {
		return err
	}
	if err := e.saveNetwork(rec.ID, config, att); err != nil {
		_, undoErr := e.Networks.Disconnect(ctx, network.DisconnectRequest{ContainerID: rec.ID, Name: rec.Name, NetNS: ns,
			Network: nw.Name})
		if undoErr != nil {
			e.log.Error("take a container off a network again", "container", rec.ID, "network", nw.Name, "error", undoErr)
		}
		return err
	}
	e.updateEtc(rec, before, att)
	e.publishNetwork("connect", nw.ID, rec.ID)
	return nil
}

// Disconnect takes a container off a network: at once if it runs, and for its next starts. With force a network or an
// interface that is broken is no hindrance.
func (e *Engine) Disconnect(ctx context.Context, ref, name string, force bool) error {
	l, rec, err := e.acquire(ctx, ref)
	if err != nil {
		return err
	}
	defer l.release()
	ctx = context.WithoutCancel(ctx)
	nw, err := e.Networks.ResolveNetwork(networkName(name))
	if endpointOn(rec, name) >= 0 && nw.Name != name { // a container that does not run may be on one that has been removed
		nw, err = network.Network{Name: name}, nil
	}
	if err != nil {
		return err
	}
	switch i := endpointOn(rec, nw.Name); {
	case rec.Config.Net.Mode == "host" && nw.Name == "host":
		return fmt.Errorf("container cannot be disconnected from host network or connected to host network%w", kind{errdefs.ErrPermissionDenied})
	case nw.Name == "none" && rec.Config.Net.Mode == "none" && len(rec.Config.Net.Endpoints) == 0 && !rec.Config.Net.Disconnected:
	case i < 0:
		return fmt.Errorf("container %s is not connected to network %s%w", rec.ID, nw.Name, kind{errdefs.ErrPermissionDenied})
	}
	if rec.State.Status == container.Removing || rec.State.Status == container.Dead {
		return errRemoving(rec)
	}
	config := rec.Config.Net
	config.Endpoints = slices.DeleteFunc(slices.Clone(config.Endpoints), func(o container.Endpoint) bool { return o.Network == nw.Name })
	config.Disconnected = len(config.Endpoints) == 0
	before := e.Networks.Attached(rec.ID)
	att := before
	if rec.State.Alive() && slices.ContainsFunc(rec.Endpoints, attachedTo(nw.Name)) {
		if att, err = e.unplug(ctx, rec, config, nw.Name); err != nil {
			if !force {
				return err
			}
			e.log.Warn("disconnect by force", "container", rec.ID, "network", nw.Name, "error", err)
			att = e.Networks.Attached(rec.ID)
		}
	}
	if att == nil {
		att = &network.Attachment{}
		if !rec.State.Alive() { // what it had at its last start, without this network
			_, err = e.Containers.Change(rec.ID, func(r *container.Record) error {
				r.Config.Net = config
				r.Endpoints = slices.DeleteFunc(slices.Clone(r.Endpoints), attachedTo(nw.Name))
				return nil
			})
			if err == nil {
				e.publishNetwork("disconnect", nw.ID, rec.ID)
			}
			return err
		}
	}
	if err := e.saveNetwork(rec.ID, config, att); err != nil {
		return err
	}
	e.updateEtc(rec, before, att)
	e.publishNetwork("disconnect", nw.ID, rec.ID)
	return nil
}

func (e *Engine) unplug(ctx context.Context, rec container.Record, config container.Network, name string) (*network.Attachment, error) {
	rec.Config.Net = config
	req, err := attachRequest(rec, nil)
	if err != nil {
		return nil, err
	}
	ns, err := e.netNS(ctx, rec)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return e.Networks.Disconnect(ctx, network.DisconnectRequest{ContainerID: rec.ID, Name: rec.Name, NetNS: ns,
		Network: name, Ports: req.Ports})
}

// mayConnect refuses what cannot be combined.
func mayConnect(rec container.Record, nw network.Network) error {
	config := rec.Config.Net
	bad := func(text string) error { return fmt.Errorf("%s%w", text, kind{errdefs.ErrPermissionDenied}) }
	switch {
	case rec.State.Status == container.Removing || rec.State.Status == container.Dead:
		return errRemoving(rec)
	case nw.Name == "host":
		return bad("container cannot be disconnected from host network or connected to host network")
	case config.Mode == "host" || len(config.Mode) > 10 && config.Mode[:10] == "container:":
		return bad("container sharing network namespace with another container or host cannot be connected to any other network")
	case config.Disabled:
		return bad("the container was made without a network")
	case nw.Name == "none", config.Mode == "none" && len(config.Endpoints) == 0 && !config.Disconnected:
		return bad("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	return nil
}

// withPolicyOf gives a further endpoint the egress policy that the container's others have, unless it brings its own: a
// container that is kept from somewhere must not get there by one more network.
func withPolicyOf(others []container.Endpoint, ep container.Endpoint) container.Endpoint {
	if _, own := ep.DriverOpts[network.OptionEgress]; own {
		return ep
	}
	for _, o := range others {
		if policy := o.DriverOpts[network.OptionEgress]; policy != "" {
			opts := container.Map{network.OptionEgress: policy}
			maps.Copy(opts, ep.DriverOpts)
			ep.DriverOpts = opts
			break
		}
	}
	return ep
}

func errRemoving(rec container.Record) error {
	return fmt.Errorf("container %s is marked for removal and cannot be connected or disconnected to the network%w", rec.ID, kind{errdefs.ErrConflict})
}

func endpointOn(rec container.Record, name string) int {
	return slices.IndexFunc(rec.Config.Net.Endpoints, func(o container.Endpoint) bool { return networkName(o.Network) == name })
}

func attachedTo(name string) func(container.Attached) bool {
	return func(a container.Attached) bool { return a.Network == name }
}

// netNS opens the network namespace of a container that runs.
func (e *Engine) netNS(ctx context.Context, rec container.Record) (*os.File, error) {
	rec, c, err := e.running(rec.ID)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", rec.State.Pid))
	if err == nil {
		// Had it ended before we looked, its number could be another process's by now: of the host, for instance.
		if err = c.Signal(ctx, 0); err == nil {
			return f, nil
		}
		f.Close()
	}
	e.log.Debug("open a network namespace", "container", rec.ID, "error", err)
	return nil, fmt.Errorf("container %s is not running%w", rec.ID, kind{errdefs.ErrConflict})
}

// saveNetwork writes down how a container that runs is attached now.
func (e *Engine) saveNetwork(id string, config container.Network, att *network.Attachment) error {
	_, err := e.Containers.Change(id, func(r *container.Record) error {
		r.Config.Net = config
		r.Endpoints, r.Published = attachedRecord(att)
		return nil
	})
	return err
}

// settleNetwork corrects the record of a container that was taken back: a daemon killed in the middle of Connect or
// Disconnect may have left one that is not true.
func (e *Engine) settleNetwork(id string) {
	rec, err := e.Containers.Get(id)
	if err != nil || !rec.State.Alive() {
		return
	}
	att := e.Networks.Attached(id)
	if att == nil {
		return
	}
	endpoints, published := attachedRecord(att)
	same := slices.EqualFunc(endpoints, rec.Endpoints, func(a, b container.Attached) bool { return a.EndpointID == b.EndpointID })
	if same {
		return
	}
	_, err = e.Containers.Change(id, func(r *container.Record) error {
		r.Endpoints, r.Published = endpoints, published
		return nil
	})
	if err != nil {
		e.log.Error("save a container's networks", "container", id, "error", err)
	}
}

// publishNetworks tells of all networks of a container that starts or has ended, also of those without an interface.
func (e *Engine) publishNetworks(action string, rec container.Record) {
	for i := range rec.Endpoints {
		e.publishNetwork(action, rec.Endpoints[i].NetworkID, rec.ID)
	}
	if name := rec.Config.Net.Unplugged(); name != "" && len(rec.Endpoints) == 0 {
		if nw, err := e.Networks.ResolveNetwork(name); err == nil {
			e.publishNetwork(action, nw.ID, rec.ID)
		}
	}
}

// publishNetwork tells that a container came to a network or left it.
func (e *Engine) publishNetwork(action, networkID, containerID string) {
	attrs := map[string]string{"container": containerID}
	if nw, err := e.Networks.ResolveNetwork(networkID); err == nil && networkID != "" {
		attrs["name"], attrs["type"] = nw.Name, nw.Driver
	}
	e.Events.Publish(Event{Type: "network", Action: action, ActorID: networkID, Attributes: attrs})
}
