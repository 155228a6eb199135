package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

const savedVersion = 1

// saved is one file of the state directory.
type saved struct {
	Version int `json:"version"`
	Attachment
	Conf   json.RawMessage `json:"conf"`             // the list that Add had
	Result *Result         `json:"result,omitempty"` // none: Add had not ended
}

func (h *Host) path(id string) string { return filepath.Join(h.opts.StateDir, id+".json") }

func (h *Host) save(s *saved) error {
	s.Version = savedVersion
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return fmt.Errorf("write CNI attachment down: %w", err)
	}
	if err := durable.ReplaceFile(h.path(s.ID), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write CNI attachment down: %w", err)
	}
	return nil
}

func (h *Host) forget(id string) error {
	if err := os.Remove(h.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget CNI attachment: %w", err)
	}
	return nil
}

func (h *Host) load(id string) (*saved, error) {
	b, err := os.ReadFile(h.path(id))
	if err != nil {
		return nil, err
	}
	return parseSaved(b, id)
}

func parseSaved(b []byte, id string) (*saved, error) {
	s := &saved{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("the record of CNI attachment %.12s is damaged: %w", id, err)
	}
	if s.Version != savedVersion || s.ID != id {
		return nil, fmt.Errorf("the record of CNI attachment %.12s is damaged: version %d of %.12q", id, s.Version, s.ID)
	}
	if _, _, err := s.again(""); err != nil {
		return nil, err
	}
	return s, nil
}

// again is what libcni is told about an attachment that it made.
func (s *saved) again(netns string) (*libcni.NetworkConfigList, *libcni.RuntimeConf, error) {
	list, err := libcni.NetworkConfFromBytes(s.Conf)
	if err != nil {
		return nil, nil, fmt.Errorf("the record of CNI attachment %.12s is damaged: %w", s.ID, err)
	}
	rt, err := s.wants(&Config{list.Name, list}, netns)
	return list, rt, err
}

// Known is an attachment that was written down.
type Known struct {
	Attachment
	Result *Result // nil: Add had not ended
}

// List is every attachment that was made and not cleaned up. Records that cannot be read are set aside, and in damaged.
func (h *Host) List() (all []Known, damaged []error) {
	if err := durable.RemoveTemporary(h.opts.StateDir); err != nil {
		damaged = append(damaged, err)
	}
	entries, err := os.ReadDir(h.opts.StateDir)
	if err != nil {
		return nil, append(damaged, fmt.Errorf("read the directory of CNI attachments: %w", err))
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || !e.Type().IsRegular() {
			continue
		}
		s, err := h.load(id)
		if err != nil {
			damaged = append(damaged, errors.Join(err, os.Rename(h.path(id), h.path(id)+".damaged")))
			continue
		}
		all = append(all, Known{s.Attachment, s.Result})
	}
	return all, damaged
}

// readResult takes from what plugins say they made what is about one interface of the container.
func readResult(made types.Result, name string) (*Result, error) {
	r, err := types100.NewResultFromResult(made)
	if err != nil {
		return nil, fmt.Errorf("its result is not one of CNI's: %w", err)
	}
	out := &Result{}
	for _, ip := range r.IPs {
		if ip.Interface != nil {
			if *ip.Interface < 0 || *ip.Interface >= len(r.Interfaces) {
				return nil, fmt.Errorf("its result gives an address to interface %d of %d", *ip.Interface, len(r.Interfaces))
			}
			if on := r.Interfaces[*ip.Interface]; on.Sandbox == "" || on.Name != name {
				continue // the host's, or another one
			}
		}
		p, ok := prefixOf(ip.Address)
		if !ok || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().IsLoopback() {
			return nil, fmt.Errorf("its result has the address %s, which no container can have", plain([]byte(ip.Address.String())))
		}
		gw, _ := netip.AddrFromSlice(ip.Gateway)
		to, via, unspecified := &out.IPv4, &out.Gateway, netip.IPv4Unspecified()
		if p.Addr().Is6() {
			to, via, unspecified = &out.IPv6, &out.Gateway6, netip.IPv6Unspecified()
		}
		if to.IsValid() {
			continue // the first one is the container's
		}
		*to = p
		*via = leadsOut(r.Routes, gw.Unmap(), unspecified)
	}
	if !out.IPv4.IsValid() && !out.IPv6.IsValid() {
		return nil, fmt.Errorf("its result has no address for interface %q", name)
	}
	for _, l := range r.Interfaces {
		if l.Sandbox != "" && l.Name == name {
			if mac, err := net.ParseMAC(l.Mac); err == nil && len(mac) == 6 {
				out.MAC = mac.String()
			}
			out.MTU = l.Mtu
		}
	}
	for _, text := range r.DNS.Nameservers {
		if a, err := netip.ParseAddr(text); err == nil {
			out.Nameservers = append(out.Nameservers, a.Unmap())
		}
	}
	for _, d := range append(slices.Clone(r.DNS.Search), r.DNS.Domain) {
		if d != "" && plain([]byte(d)) == d && !strings.ContainsAny(d, " \t") && len(d) < 254 {
			out.Search = append(out.Search, d)
		}
	}
	return out, nil
}

// leadsOut is the gateway of the default route, the unspecified address where that has none, and invalid without a route.
func leadsOut(routes []*types.Route, gateway, unspecified netip.Addr) netip.Addr {
	for _, r := range routes {
		p, ok := prefixOf(r.Dst)
		if !ok || p.Bits() != 0 || p.Addr().Is4() != unspecified.Is4() {
			continue
		}
		if via, ok := netip.AddrFromSlice(r.GW); ok && !via.IsUnspecified() {
			return via.Unmap()
		}
		if gateway.IsValid() && gateway.Is4() == unspecified.Is4() {
			return gateway
		}
		return unspecified
	}
	return netip.Addr{}
}

func prefixOf(n net.IPNet) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	a = a.Unmap()
	ones, bits := n.Mask.Size()
	if bits == 128 && a.Is4() {
		ones -= 96
	}
	p := netip.PrefixFrom(a, ones)
	return p, ok && len(n.Mask) > 0 && p.IsValid()
}
