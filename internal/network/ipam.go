package network

import (
	"cmp"
	"encoding/hex"
	"math"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
)

// addresses is what is taken in one network. It is memory only: after a restart Retain fills it again.
type addresses struct {
	subnets []Subnet
	taken   map[netip.Addr]string // who has it: a container's ID, or a word
	next    map[netip.Prefix]netip.Addr
}

// newAddresses reserves the gateways and auxiliary addresses.
func newAddresses(subnets []Subnet) *addresses {
	a := &addresses{subnets: subnets, taken: map[netip.Addr]string{}, next: map[netip.Prefix]netip.Addr{}}
	for _, s := range subnets {
		if s.Gateway.IsValid() {
			a.taken[s.Gateway] = "the gateway"
		}
		for name, addr := range s.Aux {
			a.taken[addr] = "the auxiliary address " + name
		}
	}
	return a
}

// take hands out the next free address of the family, or exactly want. Addresses go round the range, so that one which
// was just given back stays unused for as long as possible.
func (a *addresses) take(v6 bool, want netip.Addr, owner string) (netip.Prefix, Subnet, error) {
	if want.IsValid() {
		for _, s := range a.subnets {
			if !s.Prefix.Contains(want) {
				continue
			}
			if by, ok := a.taken[want]; ok {
				return netip.Prefix{}, s, failf(errdefs.ErrConflict, "Address already in use: %s belongs to %s", want, by)
			}
			if !usable(s.Prefix, want) {
				return netip.Prefix{}, s, failf(errdefs.ErrInvalidArgument,
					"%s names the whole of subnet %s and cannot be an endpoint's address", want, s.Prefix)
			}
			a.taken[want] = owner
			return netip.PrefixFrom(want, s.Prefix.Bits()), s, nil
		}
		return netip.Prefix{}, Subnet{}, failf(errdefs.ErrInvalidArgument,
			"no configured subnet or ip-range contain the IP address %s", want)
	}
	for _, s := range a.subnets {
		if s.Prefix.Addr().Is6() != v6 {
			continue
		}
		if addr, ok := a.free(s); ok {
			a.taken[addr] = owner
			return netip.PrefixFrom(addr, s.Prefix.Bits()), s, nil
		}
	}
	return netip.Prefix{}, Subnet{}, errExhausted
}

// errExhausted is what take says when a range is full.
var errExhausted = failf(errdefs.ErrResourceExhausted, "no available IP addresses on this network's address pools")

func (a *addresses) free(s Subnet) (netip.Addr, bool) {
	within := s.Prefix
	if s.Range.IsValid() {
		within = s.Range
	}
	start := a.next[s.Prefix]
	if !start.IsValid() {
		start = within.Addr()
	}
	for addr, wrapped := start, false; ; {
		if !within.Contains(addr) {
			if wrapped {
				return netip.Addr{}, false
			}
			addr, wrapped = within.Addr(), true
		}
		if _, used := a.taken[addr]; !used && usable(s.Prefix, addr) {
			a.next[s.Prefix] = addr.Next()
			return addr, true
		}
		if addr = addr.Next(); addr == start {
			return netip.Addr{}, false
		}
		if !addr.IsValid() { // the end of all addresses
			if wrapped {
				return netip.Addr{}, false
			}
			addr, wrapped = within.Addr(), true
			if addr == start {
				return netip.Addr{}, false
			}
		}
	}
}

func (a *addresses) give(p netip.Prefix) {
	if p.IsValid() {
		delete(a.taken, p.Addr())
	}
}

// wayOut is Docker's name of the auxiliary address that containers leave a bridge by, instead of the bridge's own.
func wayOut(v6 bool) string {
	if v6 {
		return "DefaultGatewayIPv6"
	}
	return "DefaultGatewayIPv4"
}

// wayOut is the default gateway of the network's containers.
func (nw *network) wayOut(s Subnet) netip.Addr {
	if a, ok := s.Aux[wayOut(s.Prefix.Addr().Is6())]; ok && nw.rec.Driver == driverBridge {
		return a
	}
	return s.Gateway
}

// usage counts the addresses of a subnet; those of free are nobody's, though they are taken.
func (a *addresses) usage(s Subnet, free map[netip.Addr]bool) Usage {
	within := s.Prefix
	if s.Range.IsValid() {
		within = s.Range
	}
	u := Usage{Prefix: s.Prefix}
	var gone uint64
	count := func(addr netip.Addr) {
		u.InUse++
		if within.Contains(addr) {
			gone++
		}
	}
	for addr := range a.taken {
		if s.Prefix.Contains(addr) && !free[addr] {
			count(addr)
		}
	}
	count(s.Prefix.Addr())
	if last := lastAddr(s.Prefix); !usable(s.Prefix, last) {
		count(last)
	}
	if left := within.Addr().BitLen() - within.Bits(); left < 64 {
		u.Free = 1<<left - gone
	} else { // nobody counts the difference
		u.Free = math.MaxUint64
	}
	return u
}

// usable is false for the addresses that mean the subnet itself and, in version 4, everybody in it.
func usable(p netip.Prefix, a netip.Addr) bool {
	return a != p.Masked().Addr() && (a.Is6() || a != lastAddr(p))
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// macFor is a locally administered hardware address made from an address, as Docker's: whoever gets the address next
// has the same one, so that no neighbour's cache is ever wrong.
func macFor(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{0x02, 0x42}, b[len(b)-4:]...)
}

// completeSubnets checks what a creator gave and fills in the gateways.
func completeSubnets(subnets []Subnet, gateway bool) ([]Subnet, error) {
	bad := func(format string, args ...any) error { return failf(errdefs.ErrInvalidArgument, format, args...) }
	out := slices.Clone(subnets)
	for i := range out {
		s := &out[i]
		if !s.Prefix.IsValid() {
			return nil, bad("invalid subnet: it needs an address and a prefix length, as in 10.1.0.0/16")
		}
		if s.Prefix != s.Prefix.Masked() {
			return nil, bad("invalid subnet %s: it should be %s", s.Prefix, s.Prefix.Masked())
		}
		if left := s.Prefix.Addr().BitLen() - s.Prefix.Bits(); left < 2 {
			return nil, bad("invalid subnet %s: it has no room for a gateway and a container", s.Prefix)
		}
		if block := reserved(s.Prefix); block.IsValid() {
			return nil, bad("invalid subnet %s: addresses of %s cannot be a container's", s.Prefix, block)
		}
		if s.Range.IsValid() && (!s.Prefix.Contains(s.Range.Addr()) || s.Range.Bits() < s.Prefix.Bits()) {
			return nil, bad("invalid ip-range %s: it is not inside of subnet %s", s.Range, s.Prefix)
		}
		s.Range = s.Range.Masked()
		for name, addr := range s.Aux {
			if !s.Prefix.Contains(addr) {
				return nil, bad("invalid auxiliary address %s=%s: it is not inside of subnet %s", name, addr, s.Prefix)
			}
		}
		if !s.Gateway.IsValid() && gateway {
			aux := map[netip.Addr]bool{}
			for _, addr := range s.Aux {
				aux[addr] = true
			}
			for s.Gateway = s.Prefix.Addr().Next(); aux[s.Gateway]; {
				s.Gateway = s.Gateway.Next()
			}
		}
		if s.Gateway.IsValid() && (!s.Prefix.Contains(s.Gateway) || !usable(s.Prefix, s.Gateway)) {
			return nil, bad("invalid gateway %s: it is not an address of subnet %s", s.Gateway, s.Prefix)
		}
		for name, addr := range s.Aux {
			if addr == s.Gateway {
				return nil, bad("auxiliary address %s=%s is the gateway's", name, addr)
			}
		}
		for _, other := range out[:i] {
			if other.Prefix.Overlaps(s.Prefix) {
				return nil, bad("the subnets %s and %s overlap", other.Prefix, s.Prefix)
			}
		}
	}
	return out, nil
}

// reserved is the block with a meaning of its own that a subnet meets: no host, the host itself, many hosts, IPv4 in the form of
// IPv6 (RFC 6890, RFC 4291). The zero value is none.
func reserved(p netip.Prefix) netip.Prefix {
	for _, text := range []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/127", "::ffff:0:0/96", "ff00::/8"} {
		if block := netip.MustParsePrefix(text); block.Overlaps(p) {
			return block
		}
	}
	return netip.Prefix{}
}

// pickSubnet is the first block of the pools that meets nothing in use.
func pickSubnet(pools []Pool, v6 bool, used []netip.Prefix) (netip.Prefix, error) {
	used = slices.Clone(used)
	for i := range used {
		used[i] = used[i].Masked()
	}
	slices.SortFunc(used, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	for _, p := range pools {
		if p.Base.Addr().Is6() != v6 {
			continue
		}
		if block, ok := p.free(used); ok {
			return block, nil
		}
	}
	return netip.Prefix{}, failf(errdefs.ErrResourceExhausted, "all predefined address pools have been fully subnetted: "+
		"remove networks that are not used (network prune), give the network a --subnet, or widen default-address-pools")
}

// free goes once through the pool and the sorted blocks in use.
func (p Pool) free(used []netip.Prefix) (netip.Prefix, bool) {
	block := netip.PrefixFrom(p.Base.Addr(), p.Size)
	for _, u := range used {
		switch {
		case u.Bits() == 0: // the default route meets everything and says nothing of who uses an address
		case u.Overlaps(block):
			after := lastAddr(block).Next()
			if u.Bits() < p.Size {
				after = lastAddr(u).Next()
			}
			if block = netip.PrefixFrom(after, p.Size); !p.Base.Contains(after) {
				return netip.Prefix{}, false
			}
		case block.Addr().Less(u.Addr()):
			return block, true
		}
	}
	return block, true
}

// uniqueLocal makes a network's own IPv6 block out of its ID (RFC 4193).
func uniqueLocal(id string) netip.Prefix {
	var b [16]byte
	b[0] = 0xfd
	raw, _ := hex.DecodeString(id[:14])
	copy(b[1:8], raw)
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}
