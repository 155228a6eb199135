package dockerapi

import (
	"fmt"
	"net"
	"net/http"
	"strings"

	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
	api "github.com/moby/moby/api/types/network"
)

func networkOf(n network.Network) api.Network {
	out := api.Network{
		Name: n.Name, ID: n.ID, Created: n.Created, Scope: "local", Driver: n.Driver,
		EnableIPv4: n.IPv4 || isBuiltin(n.Name), EnableIPv6: n.IPv6, Internal: n.Internal, Attachable: n.Attachable,
		Options: n.Options, Labels: n.Labels,
		ConfigOnly: n.ConfigOnly, ConfigFrom: api.ConfigReference{Network: n.ConfigFrom},
		IPAM: api.IPAM{Driver: n.IPAMDriver, Options: n.IPAMOptions, Config: []api.IPAMConfig{}},
	}
	for _, s := range n.Subnets {
		out.IPAM.Config = append(out.IPAM.Config, api.IPAMConfig{
			Subnet: s.Prefix, IPRange: s.Range, Gateway: s.Gateway, AuxAddress: s.Aux,
		})
	}
	if out.Options == nil {
		out.Options = map[string]string{}
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	return out
}

// isBuiltin says whether a network is one of the three that are always there.
func isBuiltin(name string) bool {
	return name == api.NetworkBridge || name == api.NetworkHost || name == api.NetworkNone
}

func (s *Server) networkList(c *call) error {
	f, err := parseFilters(c.text("filters"), "dangling", "driver", "id", "label", "label!", "name", "scope", "type")
	if err != nil {
		return err
	}
	dangling, err := f.boolean("dangling", false)
	if err != nil {
		return err
	}
	for _, t := range f["type"] {
		if t != "custom" && t != "builtin" {
			return invalid("invalid filter: 'type'='%s'", t)
		}
	}
	used := s.networksInUse()
	out := []api.Inspect{}
	for _, n := range s.engine.Networks.List() {
		kind := "custom"
		if isBuiltin(n.Name) {
			kind = "builtin"
		}
		if !f.fuzzy("name", n.Name) || !matchPrefix(f, "id", n.ID) || !f.exact("driver", n.Driver) ||
			!f.exact("type", kind) || !f.exact("scope", "local") ||
			!f.pairs("label", n.Labels) || !f.pairs("label!", n.Labels) ||
			f.has("dangling") && (kind == "builtin" || used[n.Name]) == dangling {
			continue
		}
		out = append(out, api.Inspect{Network: networkOf(n), Containers: map[string]api.EndpointResource{}})
	}
	return c.writeJSON(http.StatusOK, out)
}

func matchPrefix(f filters, key, value string) bool {
	if !f.has(key) {
		return true
	}
	for _, p := range f[key] {
		if p != "" && strings.HasPrefix(value, p) {
			return true
		}
	}
	return false
}

// networksInUse are the names of the networks that a container has, whether it runs or not.
func (s *Server) networksInUse() map[string]bool {
	used := map[string]bool{}
	for _, rec := range s.engine.Containers.List() {
		for i := range rec.Config.Net.Endpoints {
			used[rec.Config.Net.Endpoints[i].Network] = true
		}
	}
	return used
}

func (s *Server) networkInspect(c *call) error {
	n, err := s.engine.Networks.Inspect(c.name())
	if err != nil {
		return err
	}
	if scope := c.text("scope"); scope != "" && scope != "local" {
		return kind{fmt.Errorf("network %s not found", c.name()), errdefs.ErrNotFound}
	}
	out := api.Inspect{Network: networkOf(n), Containers: map[string]api.EndpointResource{}}
	for id, e := range n.Endpoints {
		r := api.EndpointResource{Name: e.Name, EndpointID: e.EndpointID, IPv4Address: e.IPv4, IPv6Address: e.IPv6}
		if mac, err := net.ParseMAC(e.MAC); err == nil {
			r.MacAddress = api.HardwareAddr(mac)
		}
		out.Containers[id] = r
	}
	if n.Name == api.NetworkHost || n.Name == api.NetworkNone {
		for _, rec := range s.engine.Containers.List() {
			if rec.State.Alive() && rec.Config.Net.Unplugged() == n.Name {
				out.Containers[rec.ID] = api.EndpointResource{Name: rec.Name, EndpointID: endpointWithout(rec.ID, n.ID)}
			}
		}
	}
	if len(n.Usage) > 0 {
		out.Status = &api.Status{IPAM: api.IPAMStatus{Subnets: api.SubnetStatuses{}}}
		for _, u := range n.Usage {
			out.Status.IPAM.Subnets[u.Prefix] = api.SubnetStatus{IPsInUse: u.InUse, DynamicIPsAvailable: u.Free}
		}
	}
	return c.writeJSON(http.StatusOK, downgradeNetwork(&out, c.version))
}

func (s *Server) networkCreate(c *call) error {
	var q struct {
		api.CreateRequest
		CheckDuplicate bool // has been the only way since 1.44
	}
	if err := c.decode(&q); err != nil {
		return err
	}
	switch {
	case q.Ingress || q.Scope == "swarm":
		return noCluster(s, c)
	case q.Scope != "" && q.Scope != "local":
		return invalid("invalid scope %q: Berth's networks have the scope \"local\"", q.Scope)
	}
	r := network.CreateRequest{
		Name: q.Name, Driver: q.Driver, Internal: q.Internal, Attachable: q.Attachable,
		IPv4: q.EnableIPv4, IPv6: q.EnableIPv6, Options: q.Options, Labels: q.Labels,
	}
	r.ConfigOnly = q.ConfigOnly
	if q.ConfigFrom != nil {
		r.ConfigFrom = q.ConfigFrom.Network
	}
	if ipam := q.IPAM; ipam != nil {
		r.IPAMDriver, r.IPAMOptions = ipam.Driver, ipam.Options
		if r.IPAMDriver == "default" && r.ConfigFrom != "" { // the command line always says so
			r.IPAMDriver = ""
		}
		for _, cfg := range ipam.Config {
			r.Subnets = append(r.Subnets, network.Subnet{
				Prefix: cfg.Subnet, Range: cfg.IPRange, Gateway: cfg.Gateway, Aux: cfg.AuxAddress,
			})
		}
	}
	result, err := s.engine.Networks.Create(c.lasting(), r)
	if err != nil {
		return err
	}
	driver := driverOr(q.Driver)
	if q.ConfigOnly {
		driver = "null"
	}
	s.publish("network", "create", result.ID, map[string]string{"name": q.Name, "type": driver})
	return c.writeJSON(http.StatusCreated, api.CreateResponse{ID: result.ID, Warning: strings.Join(result.Warnings, "\n")})
}

func driverOr(driver string) string {
	if driver == "" {
		return "bridge"
	}
	return driver
}

func (s *Server) networkRemove(c *call) error {
	n, err := s.engine.Networks.ResolveNetwork(c.name())
	if err != nil {
		return err
	}
	if err := s.engine.Networks.Remove(c.lasting(), n.ID); err != nil {
		return err
	}
	s.publish("network", "destroy", n.ID, map[string]string{"name": n.Name, "type": n.Driver})
	return c.noContent()
}

func (s *Server) networkPrune(c *call) error {
	f, err := parseFilters(c.text("filters"), "label", "label!", "until")
	if err != nil {
		return err
	}
	until, err := untilFilter(f)
	if err != nil {
		return err
	}
	used := s.networksInUse()
	deleted, err := s.engine.Networks.Prune(c.lasting(), func(n network.Network) bool {
		return !used[n.Name] && (until.IsZero() || n.Created.Before(until)) &&
			f.pairs("label", n.Labels) && f.pairs("label!", n.Labels)
	})
	if err != nil {
		return err
	}
	s.publishPrune("network", 0)
	return c.writeJSON(http.StatusOK, api.PruneReport{NetworksDeleted: list(deleted)})
}

func (s *Server) networkConnect(c *call) error {
	var q api.ConnectRequest
	if err := c.decode(&q); err != nil {
		return err
	}
	n, err := s.networkFor(c.name(), q.Container)
	if err != nil {
		return err
	}
	if q.EndpointConfig == nil {
		q.EndpointConfig = &api.EndpointSettings{}
	}
	ep, err := endpointOf(n.Name, q.EndpointConfig)
	if err != nil {
		return err
	}
	if err := s.engine.Connect(c.lasting(), q.Container, ep); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) networkDisconnect(c *call) error {
	var q api.DisconnectRequest
	if err := c.decode(&q); err != nil {
		return err
	}
	if q.Container == "" {
		return invalid("the container to disconnect is not named")
	}
	if err := s.engine.Disconnect(c.lasting(), q.Container, c.name(), q.Force); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// networkFor looks for both, so that the client learns of a wrong name first.
func (s *Server) networkFor(netRef, ref string) (network.Network, error) {
	n, err := s.engine.Networks.ResolveNetwork(netRef)
	if err == nil {
		if ref == "" {
			return n, invalid("the container to connect is not named")
		}
		_, err = s.engine.Containers.Get(ref)
	}
	return n, err
}
