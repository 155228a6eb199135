package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// List returns every network, oldest first, without endpoints.
func (n *Networks) List() []Network {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Network, 0, len(n.networks))
	for _, nw := range n.networks {
		if !nw.removing {
			all = append(all, nw.rec.view())
		}
	}
	slices.SortFunc(all, func(a, b Network) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// Inspect returns a network by name, ID or the beginning of one, with the containers that run on it.
func (n *Networks) Inspect(nameOrID string) (Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nw, err := n.lookup(nameOrID)
	if err != nil {
		return Network{}, err
	}
	v := nw.rec.view()
	v.Endpoints = map[string]Endpoint{}
	for e := range nw.endpoints {
		if e.container != "" {
			v.Endpoints[e.container] = Endpoint{ContainerID: e.container, Name: e.name, EndpointID: e.state.EndpointID,
				MAC: e.state.MAC, IPv4: e.state.IPv4, IPv6: e.state.IPv6}
		}
	}
	for _, s := range v.Subnets {
		v.Usage = append(v.Usage, nw.addrs.usage(s, nw.waiting()))
	}
	return v, nil
}

// waiting are the addresses of namespaces that no container has yet: they are the next ones to be had.
func (nw *network) waiting() map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for e := range nw.endpoints {
		if e.container == "" {
			out[e.state.IPv4.Addr()], out[e.state.IPv6.Addr()] = true, true
		}
	}
	return out
}

// ResolveNetwork is Inspect without the containers.
func (n *Networks) ResolveNetwork(nameOrID string) (Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nw, err := n.lookup(nameOrID)
	if err != nil {
		return Network{}, err
	}
	return nw.rec.view(), nil
}

// lookup finds by ID, then name, then beginning of an ID. "default" is Docker's other name of the default network.
func (n *Networks) lookup(ref string) (*network, error) {
	if nw := n.networks[ref]; nw != nil && !nw.removing {
		return nw, nil
	}
	name := ref
	if name == "default" {
		name = defaultName
	}
	var found *network
	for _, nw := range n.networks {
		if nw.rec.Name == name && !nw.removing {
			return nw, nil
		}
	}
	for _, nw := range n.networks {
		if ref == "" || nw.removing || !strings.HasPrefix(nw.rec.ID, ref) {
			continue
		}
		if found != nil {
			return nil, failf(errdefs.ErrInvalidArgument, "network %s is ambiguous (2 matches found based on ID prefix)", ref)
		}
		found = nw
	}
	if found == nil {
		return nil, failf(errdefs.ErrNotFound, "network %s not found", ref)
	}
	return found, nil
}

// Create makes a network. When it returns nil the network is durable and usable; otherwise nothing of it is left.
// Cancelling ctx is possible until another change of the networks that is under way has ended.
func (n *Networks) Create(ctx context.Context, r CreateRequest) (CreateResult, error) {
	if err := n.change(ctx); err != nil {
		return CreateResult{}, err
	}
	defer n.changed()
	rec, err := n.newRecord(r)
	if err != nil {
		return CreateResult{}, err
	}
	if rec.ConfigOnly {
		if err := n.save(&rec); err != nil {
			return CreateResult{}, err
		}
		n.mu.Lock()
		n.networks[rec.ID] = plainNetwork(rec)
		n.mu.Unlock()
		return CreateResult{ID: rec.ID}, nil
	}
	nw, err := n.newNetwork(rec)
	if err != nil {
		return CreateResult{}, err
	}
	if rec.IPv6 && rec.Driver == driverBridge {
		if err := n.enableForwarding(ip6); err != nil {
			return CreateResult{}, err
		}
	}
	ok := false
	undo := func(f func() error) {
		if !ok {
			if err := f(); err != nil {
				n.log.Error("undo the creation of a network", "network", rec.Name, "error", err)
			}
		}
	}
	// Written down first: a daemon that is killed here leaves a network that somebody can remove, and no link that nobody knows.
	defer undo(func() error { return n.removeRecord(rec.ID) })
	if err := n.save(&nw.rec); err != nil {
		return CreateResult{}, err
	}
	defer undo(func() error { return n.removeBridge(nw) })
	if err := n.ensureBridge(nw, false); err != nil {
		return CreateResult{}, err
	}
	switch {
	case isLAN(rec.Driver):
		err = n.tryLAN(nw)
	case rec.Driver == driverCNI:
		err = n.tryCNI(ctx, nw)
	}
	if err != nil {
		return CreateResult{}, err
	}
	n.mu.Lock()
	n.networks[rec.ID] = nw
	n.mu.Unlock()
	if rec.Internal {
		n.tellInner()
	}
	defer undo(func() error {
		n.mu.Lock()
		delete(n.networks, rec.ID)
		n.mu.Unlock()
		return n.settleRules()
	})
	if err := n.settleRules(); err != nil {
		return CreateResult{}, err
	}
	ok = true
	return CreateResult{ID: rec.ID}, nil
}

func (n *Networks) change(ctx context.Context) error {
	select {
	case n.changing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.shut {
		<-n.changing
		return failf(errdefs.ErrUnavailable, "the networks are closed")
	}
	return nil
}

func (n *Networks) changed() { <-n.changing }

// newRecord checks a request and completes it.
func (n *Networks) newRecord(r CreateRequest) (record, error) {
	bad := func(format string, args ...any) (record, error) {
		return record{}, failf(errdefs.ErrInvalidArgument, format, args...)
	}
	switch r.Driver {
	case "", "default":
		r.Driver = driverBridge
	case driverBridge, driverMacvlan, driverIpvlan, driverCNI:
	case driverHost, driverNull:
		return record{}, failf(errdefs.ErrPermissionDenied, "only one instance of %q network is allowed", r.Driver)
	default:
		return record{}, failf(errdefs.ErrNotFound, "plugin %q not found: Berth's networks have the drivers "+
			"\"bridge\", \"macvlan\", \"ipvlan\" and \"cni\"", r.Driver)
	}
	switch r.IPAMDriver {
	case "", "default":
		r.IPAMDriver = ""
	case ipamNull:
		if len(r.Subnets) > 0 {
			return bad("the ipam driver %q gives no addresses and takes no subnet", ipamNull)
		}
	default:
		return record{}, failf(errdefs.ErrNotFound, "ipam driver %q not found: Berth has the drivers \"default\" and \"null\"", r.IPAMDriver)
	}
	if len(r.IPAMOptions) > 0 {
		return bad("the default ipam driver takes no options")
	}
	if r.Name == "" || strings.TrimSpace(r.Name) != r.Name || strings.ContainsFunc(r.Name, notInNames) {
		return bad("invalid network name %q: it must not be empty, nor begin or end with a space, nor have a slash or a control character in it", r.Name)
	}
	if r.Name == "default" || strings.HasPrefix(r.Name, "container:") {
		return record{}, failf(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network", r.Name)
	}
	n.mu.Lock()
	for _, nw := range n.networks {
		if nw.rec.Name == r.Name {
			n.mu.Unlock()
			if nw.rec.predefined() {
				return record{}, failf(errdefs.ErrPermissionDenied, "operation is not permitted on predefined %s network", r.Name)
			}
			return record{}, failf(errdefs.ErrConflict, "network with name %s already exists", r.Name)
		}
	}
	if other := n.networks[r.Name]; other != nil { // whoever names the one would get the other
		n.mu.Unlock()
		return record{}, failf(errdefs.ErrConflict, "network with name %s already exists: it is the ID of network %q", r.Name, other.rec.Name)
	}
	n.mu.Unlock()
	if r.ConfigFrom != "" {
		if err := n.takeConfig(&r); err != nil {
			return record{}, err
		}
	}
	if r.ConfigOnly {
		return n.configRecord(r)
	}
	if defaults := n.opts.DriverOptions[r.Driver]; len(defaults) > 0 {
		options := maps.Clone(defaults)
		maps.Copy(options, r.Options)
		r.Options = options
	}
	var o bridgeOptions
	var lan lanOptions
	var err error
	switch {
	case r.Driver == driverCNI:
		if err = checkCNI(r); err == nil {
			_, err = parseCNIOptions(r.Name, r.Options)
		}
	case isLAN(r.Driver):
		lan, err = parseLANOptions(r.Driver, r.Options)
	default:
		o, err = parseBridgeOptions(r.Options)
	}
	if err == nil && o.egress != nil && n.exits == nil {
		err = n.noRules(fmt.Sprintf("option %q", OptionEgress))
	}
	if err != nil {
		return record{}, err
	}
	for f, m := range o.modes {
		if m == modeIsolated && !r.Internal {
			return bad("gateway mode %q of %s is for internal networks only (--internal)", m, map[family]string{ip4: "IPv4", ip6: "IPv6"}[f])
		}
	}
	for _, v := range []struct {
		option string
		flag   **bool
	}{{optionIPv4, &r.IPv4}, {optionIPv6, &r.IPv6}} {
		if text, ok := r.Options[v.option]; ok && *v.flag == nil {
			on, _ := strconv.ParseBool(text) // was read above
			*v.flag = &on
		}
	}
	id := newID()
	rec := record{ID: id, Name: r.Name, Driver: r.Driver, Created: time.Now().UTC(), Internal: r.Internal,
		Attachable: r.Attachable, IPv4: r.IPv4 == nil || *r.IPv4, IPAMOptions: r.IPAMOptions, Options: r.Options,
		Labels: r.Labels, Link: o.link, Configured: len(r.Subnets) > 0, IPAMDriver: r.IPAMDriver, ConfigFrom: r.ConfigFrom}
	switch {
	case r.Driver == driverCNI:
		return rec, nil
	case isLAN(r.Driver) && lan.parent == "":
		rec.Link, rec.Internal = "dm-"+id[:12], true // nothing leads out
	case isLAN(r.Driver):
		rec.Link = lan.parent
		n.mu.Lock()
		err := n.checkParent(&rec, lan)
		n.mu.Unlock()
		if err != nil {
			return record{}, err
		}
	case rec.Link == "":
		rec.Link = "br-" + id[:12]
	}
	if rec.Subnets, err = n.planSubnets(&rec, r); err != nil {
		return record{}, err
	}
	return rec, nil
}

// notInNames are a slash, and what a terminal would not show but obey.
func notInNames(c rune) bool {
	return c == '/' || c == utf8.RuneError || unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c)
}

// takeConfig completes a request with the settings of a network made for that.
func (n *Networks) takeConfig(r *CreateRequest) error {
	if r.ConfigOnly {
		return failf(errdefs.ErrInvalidArgument, "a configuration network cannot depend on another one")
	}
	if len(r.Subnets)+len(r.Options)+len(r.IPAMOptions) > 0 || r.IPAMDriver != "" || r.IPv4 != nil && !*r.IPv4 || r.IPv6 != nil && *r.IPv6 {
		return failf(errdefs.ErrPermissionDenied, "user supplied configurations are not supported if the network depends on a "+
			"configuration network")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	from, err := n.lookup(r.ConfigFrom)
	if err != nil {
		return failf(errdefs.ErrNotFound, "configuration network %q does not exist", r.ConfigFrom)
	}
	if !from.rec.ConfigOnly {
		return failf(errdefs.ErrPermissionDenied, "network %q is not a configuration network", r.ConfigFrom)
	}
	c := from.rec
	labels := maps.Clone(c.Labels)
	for k, v := range r.Labels {
		if labels == nil {
			labels = map[string]string{}
		}
		labels[k] = v
	}
	r.ConfigFrom, r.Subnets, r.Options, r.Labels = c.Name, slices.Clone(c.Subnets), maps.Clone(c.Options), labels
	r.IPAMDriver, r.IPAMOptions, r.IPv4, r.IPv6 = c.IPAMDriver, maps.Clone(c.IPAMOptions), &c.IPv4, nil
	if c.IPv6 {
		r.IPv6 = &c.IPv6
	}
	return nil
}

// configRecord is settings for other networks; whether they fit each other is seen when one of those is made.
func (n *Networks) configRecord(r CreateRequest) (record, error) {
	rec := record{ID: newID(), Name: r.Name, Driver: driverNull, Created: time.Now().UTC(), IPv4: r.IPv4 == nil || *r.IPv4,
		IPv6: r.IPv6 != nil && *r.IPv6, IPAMDriver: r.IPAMDriver, IPAMOptions: r.IPAMOptions, Options: r.Options, Labels: r.Labels,
		Subnets: r.Subnets, ConfigOnly: true}
	if len(r.Subnets) > 0 {
		for _, s := range r.Subnets {
			if !s.Prefix.IsValid() {
				return record{}, failf(errdefs.ErrInvalidArgument, "every ip-range or gateway must have a corresponding subnet")
			}
		}
		if _, err := completeSubnets(r.Subnets, true); err != nil {
			return record{}, err
		}
	}
	return rec, nil
}

// planSubnets checks the subnets asked for against everything known, and picks those left open.
func (n *Networks) planSubnets(rec *record, r CreateRequest) ([]Subnet, error) {
	var has4, has6 bool
	for _, s := range r.Subnets {
		has4 = has4 || s.Prefix.Addr().Is4()
		has6 = has6 || s.Prefix.Addr().Is6()
		if !s.Prefix.IsValid() && (s.Gateway.IsValid() || s.Range.IsValid() || len(s.Aux) > 0) {
			return nil, failf(errdefs.ErrInvalidArgument, "every ip-range or gateway must have a corresponding subnet")
		}
	}
	rec.IPv6 = has6
	if r.IPv6 != nil {
		rec.IPv6 = *r.IPv6
	}
	switch {
	case has6 && !rec.IPv6:
		return nil, failf(errdefs.ErrInvalidArgument, "a subnet of IPv6 was given and IPv6 turned off")
	case has4 && !rec.IPv4:
		return nil, failf(errdefs.ErrInvalidArgument, "a subnet of IPv4 was given and IPv4 turned off")
	case !rec.IPv4 && !rec.IPv6:
		return nil, failf(errdefs.ErrInvalidArgument, "IPv4 or IPv6 must be enabled")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); rec.IPv6 && err != nil {
		return nil, failf(errdefs.ErrNotImplemented, "the network cannot have IPv6: it is disabled in the kernel")
	}
	if r.IPAMDriver == ipamNull {
		return nil, nil
	}
	subnets := slices.DeleteFunc(slices.Clone(r.Subnets), func(s Subnet) bool { return !s.Prefix.IsValid() })
	used, local, err := n.used(nil)
	if err != nil {
		return nil, err
	}
	if rec.IPv4 && !has4 {
		p, err := pickSubnet(n.opts.Pools, false, used)
		if err != nil {
			return nil, err
		}
		subnets = append(subnets, Subnet{Prefix: p})
	}
	if rec.IPv6 && !has6 {
		p, err := pickSubnet(n.opts.Pools, true, used)
		if err != nil {
			p = uniqueLocal(rec.ID)
		}
		subnets = append(subnets, Subnet{Prefix: p})
	}
	if subnets, err = completeSubnets(subnets, true); err != nil {
		return nil, err
	}
	if isLAN(rec.Driver) { // such a network is where its parent is
		local = nil
	}
	return subnets, n.checkOverlap(subnets, local)
}

func (n *Networks) checkOverlap(subnets []Subnet, local []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range subnets {
		for _, nw := range n.networks {
			if nw.rec.ConfigOnly {
				continue
			}
			for _, other := range nw.rec.Subnets {
				if other.Prefix.Overlaps(s.Prefix) {
					return failf(errdefs.ErrPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space: "+
						"%s meets %s of network %q", s.Prefix, other.Prefix, nw.rec.Name)
				}
			}
		}
		if l := clash(s.Prefix, local); l != nil {
			return failf(errdefs.ErrPermissionDenied, "invalid pool request: Pool overlaps with other one on this address space: "+
				"%s meets the host's own network %s", s.Prefix, l)
		}
	}
	return nil
}

// Remove deletes a network on which no container runs.
func (n *Networks) Remove(ctx context.Context, nameOrID string) error {
	if err := n.change(ctx); err != nil {
		return err
	}
	defer n.changed()
	n.mu.Lock()
	nw, err := n.lookup(nameOrID)
	if err == nil {
		err = nw.removable()
	}
	if err == nil && nw.rec.ConfigOnly {
		for _, other := range n.networks {
			if other.rec.ConfigFrom == nw.rec.Name {
				err = failf(errdefs.ErrPermissionDenied, "configuration network %q is in use by network %q", nw.rec.Name, other.rec.Name)
			}
		}
	}
	if err != nil {
		n.mu.Unlock()
		return err
	}
	nw.removing = true
	n.mu.Unlock()

	// The record goes last: a daemon that is killed here leaves a network whose link is made again, and no link that nobody knows.
	err = n.removeBridge(nw)
	if err == nil {
		err = n.removeRecord(nw.rec.ID)
	}
	n.mu.Lock()
	if err != nil {
		nw.removing = false
	} else {
		delete(n.networks, nw.rec.ID)
	}
	n.mu.Unlock()
	return errors.Join(err, n.settleRules())
}

func (nw *network) removable() error {
	if nw.rec.predefined() {
		return failf(errdefs.ErrPermissionDenied, "%s is a pre-defined network and cannot be removed", nw.rec.Name)
	}
	for e := range nw.endpoints {
		if e.container != "" {
			return failf(errdefs.ErrPermissionDenied,
				"error while removing network: network %s has active endpoints (name:%q id:%q)",
				nw.rec.Name, e.name, e.state.EndpointID[:12])
		}
	}
	if nw.busy > 0 {
		return failf(errdefs.ErrPermissionDenied, "error while removing network: network %s has active endpoints", nw.rec.Name)
	}
	return nil
}

func (n *Networks) removeRecord(id string) error {
	if err := os.Remove(n.recordPath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of a network: %w", err)
	}
	return nil
}

// Prune removes every network of the users' on which no container runs and of which want (nil: all) approves, and returns
// their names.
func (n *Networks) Prune(ctx context.Context, want func(Network) bool) ([]string, error) {
	var removed []string
	var errs []error
	for _, v := range n.List() {
		n.mu.Lock()
		nw := n.networks[v.ID]
		free := nw != nil && !nw.rec.ConfigOnly && nw.removable() == nil
		n.mu.Unlock()
		if !free || want != nil && !want(v) {
			continue
		}
		switch err := n.Remove(ctx, v.ID); {
		case err == nil:
			removed = append(removed, v.Name)
		case errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err): // somebody was faster
		default:
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return removed, errors.Join(errs...)
}
