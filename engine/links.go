package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/network"
	"github.com/containerd/errdefs"
)

// A link is Docker's old way for containers of the default network to find each other: "container:alias" gives the
// container that has it a line of its hosts file and a set of variables. On networks of the users' a link is a name that
// only the container that has it can ask for.

// parseLink reads "container", "container:alias", or what inspect shows: "/container:/own-name/alias".
func parseLink(text string) (target, alias string, err error) {
	target, alias, both := strings.Cut(text, ":")
	target = strings.TrimPrefix(target, "/")
	if !both {
		alias = target
	}
	alias = path.Base(alias)
	if target == "" || alias == "." || alias == "/" || strings.ContainsAny(alias, ": \t\n") {
		return "", "", fmt.Errorf("bad format for links: %s%w", text, kind{errdefs.ErrInvalidArgument})
	}
	return target, alias, nil
}

// resolveLinks puts the IDs of containers in the place of their names in the links of the default network, and hands
// those that were given beside a network of the user's to that.
func (e *Engine) resolveLinks(cfg *container.Config) error {
	n := &cfg.Net
	for i := range n.Endpoints {
		for _, l := range n.Endpoints[i].Links {
			if _, _, err := parseLink(l); err != nil {
				return err
			}
		}
	}
	if len(n.Links) == 0 {
		return nil
	}
	links := make([]string, 0, len(n.Links))
	for _, text := range n.Links {
		target, alias, err := parseLink(text)
		if err != nil {
			return err
		}
		rec, err := e.Containers.Get(target)
		if err != nil {
			if errdefs.IsNotFound(err) { // that is not "not found" of the request: clients would take the image to be missing
				err = fmt.Errorf("%v%w", err, kind{errdefs.ErrInvalidArgument})
			}
			return fmt.Errorf("could not get container for %s: %w", target, err)
		}
		if rec.Config.Net.Mode == "host" {
			return fmt.Errorf("conflicting options: host type networking can't be used with links. This would result in "+
				"undefined behavior%w", kind{errdefs.ErrInvalidArgument})
		}
		links = append(links, rec.ID+":"+alias)
	}
	switch {
	case len(n.Endpoints) == 0:
		return fmt.Errorf("links need a network: this container has none of its own%w", kind{errdefs.ErrInvalidArgument})
	case n.Endpoints[0].Network == "bridge":
		n.Links = links
	default:
		n.Endpoints[0].Links = append(slices.Clone(n.Endpoints[0].Links), n.Links...)
		n.Links = nil
	}
	return nil
}

// linked is one link of a container that is about to start.
type linked struct {
	alias string
	rec   container.Record
	addr  netip.Addr
}

// links are the container's, each to one that runs on the default network. One that has been removed is no link any more.
func (e *Engine) links(rec container.Record) ([]linked, error) {
	var all []linked
	for _, text := range rec.Config.Net.Links {
		target, alias, err := parseLink(text)
		if err != nil {
			return nil, err
		}
		other, err := e.Containers.Get(target)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(other.Endpoints, attachedTo("bridge"))
		if !other.State.Alive() || i < 0 {
			return nil, fmt.Errorf("Cannot link to a non running container: /%s AS /%s/%s%w", other.Name, rec.Name, alias,
				kind{errdefs.ErrInvalidArgument})
		}
		p, err := netip.ParsePrefix(cmp.Or(other.Endpoints[i].IPv4, other.Endpoints[i].IPv6))
		if err != nil {
			continue
		}
		all = append(all, linked{alias, other, p.Addr()})
	}
	return all, nil
}

// peers are the container's links in the network room's words: what it reaches where containers of a network do not reach each
// other. One that is not there is none yet.
func (e *Engine) peers(rec container.Record) (peers []network.Peer) {
	add := func(on string, links []string) {
		for _, text := range links {
			target, _, err := parseLink(text)
			if err != nil {
				continue
			}
			other, err := e.Containers.Get(target)
			if err != nil {
				continue
			}
			p := network.Peer{Network: on, ContainerID: other.ID}
			for _, q := range linkPorts(other) {
				p.Ports = append(p.Ports, network.PeerPort{Port: q.Container, Proto: q.Proto})
			}
			peers = append(peers, p)
		}
	}
	add("bridge", rec.Config.Net.Links)
	for _, ep := range rec.Config.Net.Endpoints {
		add(networkName(ep.Network), ep.Links)
	}
	return peers
}

// findPeers tells the network room of containers whose links name one that has started, and was not there when they did.
func (e *Engine) findPeers(rec container.Record) {
	for _, other := range e.Containers.List() {
		if !other.State.Alive() || !slices.ContainsFunc(other.Config.Net.Endpoints, func(ep container.Endpoint) bool {
			return slices.ContainsFunc(ep.Links, func(text string) bool {
				target, _, err := parseLink(text)
				return err == nil && (target == rec.Name || strings.HasPrefix(rec.ID, target))
			})
		}) {
			continue
		}
		if err := e.Networks.SetPeers(e.ctx, other.ID, e.peers(other)); err != nil && !errdefs.IsNotFound(err) {
			e.log.Warn("open what a link reaches", "container", other.ID, "to", rec.ID, "error", err)
		}
	}
}

// linkPorts are the ports of a container that a link to it is about: exposed and published ones, in order.
func linkPorts(rec container.Record) []network.PortRequest {
	ports, err := exposedPorts(rec.Config.Exposed, nil)
	if err != nil {
		ports = nil
	}
	for _, p := range rec.Config.Net.Ports {
		ports = append(ports, network.PortRequest{Container: p.Container, Proto: p.Proto})
	}
	for i := range ports {
		ports[i].Proto = cmp.Or(ports[i].Proto, "tcp")
	}
	slices.SortFunc(ports, func(a, b network.PortRequest) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Proto, b.Proto))
	})
	return slices.CompactFunc(ports, func(a, b network.PortRequest) bool { return a.Container == b.Container && a.Proto == b.Proto })
}

// hosts is the link's line of the hosts file.
func (l linked) hosts() network.Host {
	names := []string{l.alias, l.rec.Config.Hostname}
	if l.alias != l.rec.Name {
		names = append(names, l.rec.Name)
	}
	return network.Host{Addr: l.addr, Names: slices.DeleteFunc(names, func(s string) bool { return s == "" })}
}

// relink tells the containers that are linked to one which has started where it is now.
func (e *Engine) relink(rec container.Record) {
	e.findPeers(rec)
	i := slices.IndexFunc(rec.Endpoints, attachedTo("bridge"))
	if i < 0 {
		return
	}
	p, err := netip.ParsePrefix(cmp.Or(rec.Endpoints[i].IPv4, rec.Endpoints[i].IPv6))
	if err != nil {
		return
	}
	for _, other := range e.Containers.List() {
		if len(other.Config.Net.Links) == 0 || !other.State.Alive() || strings.HasPrefix(other.Config.Net.Mode, "container:") {
			continue
		}
		for _, text := range other.Config.Net.Links {
			target, alias, err := parseLink(text)
			if err != nil || target != rec.ID {
				continue
			}
			names := linked{alias, rec, p.Addr()}.hosts().Names
			err = editFile(filepath.Join(e.runDir(other.ID), etcDir, "hosts"), func(hosts []byte) []byte {
				return network.MoveHosts(hosts, names, p.Addr())
			})
			if err != nil {
				e.log.Warn("update a link in the hosts file", "container", other.ID, "link", text, "error", err)
			}
		}
	}
}

// env are the link's variables, by Docker's names.
func (l linked) env(own string) []string {
	prefix := strings.ReplaceAll(strings.ToUpper(l.alias), "-", "_")
	env := []string{prefix + "_NAME=/" + own + "/" + l.alias}
	for i, p := range linkPorts(l.rec) {
		proto := p.Proto
		number := strconv.Itoa(int(p.Container))
		url := proto + "://" + netip.AddrPortFrom(l.addr, p.Container).String()
		name := prefix + "_PORT_" + number + "_" + strings.ToUpper(proto)
		if i == 0 {
			env = append(env, prefix+"_PORT="+url)
		}
		env = append(env, name+"="+url, name+"_ADDR="+l.addr.String(), name+"_PORT="+number, name+"_PROTO="+proto)
	}
	for _, kv := range l.rec.Config.Process.Env {
		k, v, ok := strings.Cut(kv, "=")
		if ok && k != "" && k != "HOME" && k != "PATH" {
			env = append(env, prefix+"_ENV_"+k+"="+v)
		}
	}
	return env
}

// Unlink takes a link away from a container: ref is "container/alias".
func (e *Engine) Unlink(ref string) error {
	name, alias, ok := strings.Cut(strings.Trim(ref, "/"), "/")
	if !ok || alias == "" {
		return fmt.Errorf("cannot remove the link %s: it is named as container/alias%w", ref, kind{errdefs.ErrInvalidArgument})
	}
	rec, err := e.Containers.Get(name)
	if err != nil {
		return err
	}
	is := func(text string) bool { _, a, err := parseLink(text); return err == nil && a == alias }
	if !slices.ContainsFunc(rec.Config.Net.Links, is) {
		return fmt.Errorf("cannot get name for link %s: container %s has no link %q%w", ref, rec.Name, alias, kind{errdefs.ErrNotFound})
	}
	rec, err = e.Containers.Change(rec.ID, func(r *container.Record) error {
		r.Config.Net.Links = slices.DeleteFunc(slices.Clone(r.Config.Net.Links), is)
		return nil
	})
	if err != nil || e.Networks.Attached(rec.ID) == nil {
		return err
	}
	err = e.Networks.SetPeers(context.Background(), rec.ID, e.peers(rec))
	if errdefs.IsNotFound(err) { // it has ended
		return nil
	}
	return err
}

// Links are the container's as inspect shows them: "/container:/own-name/alias".
func (e *Engine) Links(rec container.Record) []string {
	var out []string
	for _, text := range rec.Config.Net.Links {
		target, alias, err := parseLink(text)
		if err != nil {
			continue
		}
		if other, err := e.Containers.Get(target); err == nil {
			out = append(out, "/"+other.Name+":/"+rec.Name+"/"+alias)
		}
	}
	return out
}

// dockerHost is the name by which containers reach the host, with Docker Desktop and Podman as here.
const dockerHost = "host.docker.internal"

// hostGateway is the address by which a container reaches its host: the gateway it leaves by, or where it cannot leave
// the first of its networks'.
func (e *Engine) hostGateway(att *network.Attachment) netip.Addr {
	var best netip.Addr
	var most int
	if att == nil {
		return best
	}
	for _, v6 := range []bool{false, true} {
		for i, ep := range att.Endpoints {
			gw := ep.Gateway
			if v6 {
				gw = ep.Gateway6
			}
			if gw = e.bridgeAddr(ep.NetworkID, gw); gw.IsValid() && (!best.IsValid() || ep.GwPriority > most && best.Is6() == gw.Is6()) {
				best, most = gw, att.Endpoints[i].GwPriority
			}
		}
	}
	return best
}

// bridgeAddr is the host's address in the subnet of a gateway, which may be another machine's.
func (e *Engine) bridgeAddr(networkID string, gateway netip.Addr) netip.Addr {
	if n, err := e.Networks.ResolveNetwork(networkID); err == nil && gateway.IsValid() {
		for _, s := range n.Subnets {
			if s.Gateway.IsValid() && s.Prefix.Contains(gateway) {
				return s.Gateway
			}
		}
	}
	return gateway
}
