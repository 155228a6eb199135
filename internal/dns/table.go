package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Place is where a container stands on one network. A table keeps it as it is: nobody may change what it points at.
type Place struct {
	Network string         `json:"network"` // what tells networks apart
	Domain  string         `json:"domain"`  // the network's name, by which "name.domain" is known
	Named   bool           `json:"named,omitempty"`
	Leaves  bool           `json:"leaves,omitempty"` // the outside is reached through the network
	Subnets []netip.Prefix `json:"subnets,omitempty"`
	Name    string         `json:"name"`             // the answer to who asks for one of the addresses
	Called  []string       `json:"called,omitempty"` // what the addresses are found by: lower case, no final dot
	Addrs   []netip.Addr   `json:"addrs,omitempty"`
	// Links are names that only this container can ask for, and the names they stand for on the network.
	Links map[string]string `json:"links,omitempty"`
}

// Table knows which container is called what and where. The zero value is empty; all methods may be called at once.
type Table struct {
	mu         sync.RWMutex
	containers map[string][]*Place
	names      map[tableName][]*Place
	addrs      map[tableAddr]*Place
}

type tableName struct{ network, name string }

type tableAddr struct {
	network string
	addr    netip.Addr
}

// Set makes places all that a container has; none makes it unknown.
func (t *Table) Set(container string, places []Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.containers == nil {
		t.containers, t.names, t.addrs = map[string][]*Place{}, map[tableName][]*Place{}, map[tableAddr]*Place{}
	}
	for _, p := range t.containers[container] {
		t.forget(p)
	}
	delete(t.containers, container)
	for _, p := range places {
		t.containers[container] = append(t.containers[container], &p)
		if !p.Named {
			continue
		}
		for _, name := range p.Called {
			key := tableName{p.Network, name}
			t.names[key] = append(t.names[key], &p)
		}
		for _, a := range p.Addrs {
			t.addrs[tableAddr{p.Network, a}] = &p
		}
	}
}

func (t *Table) forget(p *Place) {
	for _, name := range p.Called {
		key := tableName{p.Network, name}
		t.names[key] = slices.DeleteFunc(t.names[key], func(o *Place) bool { return o == p })
		if len(t.names[key]) == 0 {
			delete(t.names, key)
		}
	}
	for _, a := range p.Addrs {
		if key := (tableAddr{p.Network, a}); t.addrs[key] == p {
			delete(t.addrs, key)
		}
	}
}

// View is what one container may know: the names of its own networks.
func (t *Table) View(container string) Names { return view{t, container} }

// Leaves reports whether the container can reach more than its own networks.
func (t *Table) Leaves(container string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.ContainsFunc(t.containers[container], func(p *Place) bool { return p.Leaves })
}

type view struct {
	t         *Table
	container string
}

// Addresses knows "name" on any of the networks and "name.network", and the container's own links first.
func (v view) Addresses(name string) (addrs []netip.Addr, known bool) {
	v.t.mu.RLock()
	defer v.t.mu.RUnlock()
	for _, own := range v.t.containers[v.container] {
		if !own.Named {
			continue
		}
		asked := name
		if target, ok := own.Links[name]; ok {
			asked = target
		}
		found := v.t.names[tableName{own.Network, asked}]
		if short, ok := strings.CutSuffix(name, "."+strings.ToLower(own.Domain)); ok && len(found) == 0 {
			found = v.t.names[tableName{own.Network, short}]
		}
		for _, p := range found {
			known = true
			addrs = append(addrs, p.Addrs...)
		}
	}
	return addrs, known
}

// Name knows every address of the networks' subnets, most of which have none.
func (v view) Name(a netip.Addr) (name string, known bool) {
	v.t.mu.RLock()
	defer v.t.mu.RUnlock()
	for _, own := range v.t.containers[v.container] {
		if !slices.ContainsFunc(own.Subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
			continue
		}
		known = true
		if p := v.t.addrs[tableAddr{own.Network, a}]; p != nil {
			return p.Name + "." + p.Domain, true
		}
	}
	return "", known
}
