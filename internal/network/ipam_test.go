package network

import (
	"errors"
	"net/netip"
	"testing"
)

func TestAddressesGoRound(t *testing.T) {
	p := netip.MustParsePrefix("10.1.0.0/29")
	a := newAddresses([]Subnet{{Prefix: p, Gateway: netip.MustParseAddr("10.1.0.1")}})
	take := func() string {
		got, _, err := a.take(false, netip.Addr{}, "x")
		if err != nil {
			return err.Error()
		}
		return got.String()
	}
	for _, want := range []string{"10.1.0.2/29", "10.1.0.3/29"} {
		if got := take(); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	a.give(netip.MustParsePrefix("10.1.0.2/29"))
	for _, want := range []string{"10.1.0.4/29", "10.1.0.5/29", "10.1.0.6/29", "10.1.0.2/29", errExhausted.Error()} {
		if got := take(); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	a.give(netip.MustParsePrefix("10.1.0.5/29"))
	if got := take(); got != "10.1.0.5/29" {
		t.Errorf("%s", got)
	}
	if _, _, err := a.take(true, netip.Addr{}, "x"); !errors.Is(err, errExhausted) {
		t.Errorf("%v", err)
	}
}

// TestAddressesAtTheEnd uses the highest block there is, where counting on would leave all addresses.
func TestAddressesAtTheEnd(t *testing.T) {
	for _, prefix := range []string{"255.255.255.252/30", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"} {
		p := netip.MustParsePrefix(prefix)
		a := newAddresses([]Subnet{{Prefix: p, Gateway: p.Addr().Next()}})
		n := 0
		for {
			if _, _, err := a.take(p.Addr().Is6(), netip.Addr{}, "x"); err != nil {
				break
			}
			n++
		}
		if want := map[bool]int{false: 1, true: 2}[p.Addr().Is6()]; n != want {
			t.Errorf("%s: %d addresses", prefix, n)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		s    string
		in   string
		take int
		want Usage
	}{
		{"10.1.0.0/24", "", 0, Usage{InUse: 3, Free: 253}}, // the net, the gateway and everybody
		{"10.1.0.0/24", "", 4, Usage{InUse: 7, Free: 249}},
		{"10.1.0.0/24", "10.1.0.128/25", 2, Usage{InUse: 5, Free: 125}},
		{"10.1.0.0/24", "10.1.0.0/25", 2, Usage{InUse: 5, Free: 124}},
		{"10.1.0.0/30", "", 1, Usage{InUse: 4}},
		{"fd00::/120", "", 1, Usage{InUse: 3, Free: 253}},
		{"fd00::/64", "", 1, Usage{InUse: 3, Free: 1<<64 - 1}},
		{"fd00::/48", "", 0, Usage{InUse: 2, Free: 1<<64 - 1}},
	} {
		s := Subnet{Prefix: netip.MustParsePrefix(c.s)}
		s.Gateway = s.Prefix.Addr().Next()
		if c.in != "" {
			s.Range = netip.MustParsePrefix(c.in)
		}
		a, waits := newAddresses([]Subnet{s}), map[netip.Addr]bool{}
		for range c.take {
			if _, _, err := a.take(s.Prefix.Addr().Is6(), netip.Addr{}, "x"); err != nil {
				t.Fatal(err)
			}
		}
		c.want.Prefix = s.Prefix
		if got := a.usage(s, waits); got != c.want {
			t.Errorf("%s, of it %s, %d taken: %+v, not %+v", c.s, c.in, c.take, got, c.want)
		}
		if p, _, err := a.take(s.Prefix.Addr().Is6(), netip.Addr{}, "warm"); err == nil {
			waits[p.Addr()] = true
			if got := a.usage(s, waits); got != c.want {
				t.Errorf("%s: an address that waits for a container counts: %+v", c.s, got)
			}
		}
	}
}

func TestPickSubnet(t *testing.T) {
	pool := []Pool{{netip.MustParsePrefix("10.0.0.0/14"), 16}, {netip.MustParsePrefix("192.168.0.0/30"), 30}}
	for _, c := range []struct {
		used []netip.Prefix
		want string
	}{
		{nil, "10.0.0.0/16"},
		{prefixes("0.0.0.0/0"), "10.0.0.0/16"},
		{prefixes("10.0.3.0/24"), "10.1.0.0/16"},
		{prefixes("10.0.3.0/24", "10.1.0.0/32"), "10.2.0.0/16"},
		{prefixes("10.0.0.0/15"), "10.2.0.0/16"},
		{prefixes("10.0.0.0/8"), "192.168.0.0/30"},
		{prefixes("10.0.0.0/8", "192.168.0.0/16"), ""},
		{prefixes("fd00::/8", "10.0.0.0/16"), "10.1.0.0/16"},
	} {
		got, err := pickSubnet(pool, false, c.used)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("used %v: %s, %v", c.used, got, err)
		}
	}
	// The default pools hold thousands of networks, each found quickly.
	var used []netip.Prefix
	networks := 3000
	if testing.Short() {
		networks = 300
	}
	for range networks {
		p, err := pickSubnet(DefaultPools(), false, used)
		if err != nil {
			t.Fatalf("after %d networks: %v", len(used), err)
		}
		used = append(used, p)
	}
	for _, p := range DefaultPools() {
		o := Options{DataRoot: "x", RunDir: "x", Pools: []Pool{p}}
		if err := o.complete(); err != nil {
			t.Error(err)
		}
	}
}

func TestClash(t *testing.T) {
	local := prefixes("192.0.2.2/24", "10.5.0.1/16")
	for block, want := range map[string]bool{"192.0.2.0/24": true, "192.0.0.0/16": true, "192.0.2.128/25": false, "192.0.2.0/30": true,
		"10.5.7.0/24": false, "10.4.0.0/16": false, "10.0.0.0/8": true} {
		if got := clash(netip.MustParsePrefix(block), local) != nil; got != want {
			t.Errorf("%s: %v", block, got)
		}
	}
}
