package network

import (
	"net/netip"
	"strings"
	"testing"
)

// TestDefaultNetwork: the daemon's settings of the default network, each as what inspect and containers have of it.
func TestDefaultNetwork(t *testing.T) {
	addr := netip.MustParseAddr
	for _, c := range []struct {
		what    string
		set     func(*Options)
		subnets string // of inspect
		way     string // the gateways of a container
	}{
		{"IPv4 alone", func(*Options) {}, "BIP4", "10.213.X.1 invalid IP"},
		{"an own subnet of IPv6", func(o *Options) { o.IPv6, o.FixedCIDR6 = true, "fd13:1::/64" }, "BIP4 fd13:1::/64 fd13:1::1", "10.213.X.1 fd13:1::1"},
		{"an address of IPv6", func(o *Options) { o.IPv6, o.BIP6 = true, "fd13:2::99/64" }, "BIP4 fd13:2::/64 fd13:2::99", "10.213.X.1 fd13:2::99"},
		{"an address, and a part", func(o *Options) { o.IPv6, o.BIP6, o.FixedCIDR6 = true, "fd13:3::1/64", "fd13:3::a:0:0:0/80" },
			"BIP4 fd13:3::/64 fd13:3::1 fd13:3:0:0:a::/80", "10.213.X.1 fd13:3::1"},
		{"a pool", func(o *Options) {
			o.IPv6, o.Pools = true, append(o.Pools, Pool{netip.MustParsePrefix("fd13:4::/56"), 64})
		},
			"BIP4 fd13:4::/64 fd13:4::1", "10.213.X.1 fd13:4::1"},
		{"other gateways", func(o *Options) {
			o.IPv6, o.FixedCIDR6, o.Gateway6 = true, "fd13:5::/64", addr("fd13:5::7")
			o.Gateway = addr(strings.TrimSuffix(o.BIP, ".1/24") + ".7")
		}, "BIP4 10.213.X.7 fd13:5::/64 fd13:5::1 fd13:5::7", "10.213.X.7 fd13:5::7"},
	} {
		t.Run(c.what, func(t *testing.T) {
			n := room(t, c.set)
			v, err := n.Inspect(defaultName)
			must(t, err)
			bip := netip.MustParsePrefix(n.opts.BIP)
			x := strings.NewReplacer("BIP4", bip.Masked().String()+" "+bip.Addr().String(), "10.213.X.", strings.TrimSuffix(bip.Addr().String(), "1"))
			var got []string
			for _, s := range v.Subnets {
				got = append(got, s.Prefix.String(), s.Gateway.String())
				if s.Range.IsValid() {
					got = append(got, s.Range.String())
				}
				for _, a := range s.Aux {
					got = append(got, a.String())
				}
			}
			if want := x.Replace(c.subnets); strings.Join(got, " ") != want {
				t.Errorf("subnets %q, not %q", got, want)
			}
			e := attach(t, n, AttachRequest{}).Endpoints[0]
			if want := x.Replace(c.way); e.Gateway.String()+" "+e.Gateway6.String() != want {
				t.Errorf("leaves by %s and %s, not by %s", e.Gateway, e.Gateway6, want)
			}
			if e.IPv6.IsValid() != n.opts.IPv6 || v.IPv6 != n.opts.IPv6 {
				t.Errorf("IPv6: %s", e.IPv6)
			}
			if n.opts.FixedCIDR6 != "" && !netip.MustParsePrefix(n.opts.FixedCIDR6).Contains(e.IPv6.Addr()) {
				t.Errorf("%s is not in %s", e.IPv6, n.opts.FixedCIDR6)
			}
		})
	}
}

// TestDefaultNetworkChanges: a daemon that was told otherwise makes the network anew, and one that was told the same keeps it.
func TestDefaultNetworkChanges(t *testing.T) {
	n := room(t, func(o *Options) { o.IPv6, o.Warm = true, 1 })
	first, err := n.Inspect(defaultName)
	must(t, err)
	if len(first.Subnets) != 2 || !first.Subnets[1].Prefix.Overlaps(uniqueLocal(first.ID)) {
		t.Fatalf("%+v", first.Subnets)
	}
	out := outside(t, n)
	c := attach(t, n, AttachRequest{}) // one that was ready, or not yet
	serve(t, n, c.NetNS, "tcp", ":80")
	serve(t, n, out, "tcp", ":82")
	reaches(t, n, "a container of the default network, on its way out", c.NetNS, "tcp", "["+outsideAddr6+"]:82", hostAddr6)
	for _, on := range []bool{true, false, true} {
		o := n.opts
		die(n)
		o.IPv6, o.Warm = on, -1
		n = reopen(t, o)
		v, err := n.Inspect(defaultName)
		must(t, err)
		if v.ID != first.ID || v.IPv6 != on || len(v.Subnets) != map[bool]int{true: 2, false: 1}[on] {
			t.Errorf("IPv6 %t: %+v", on, v)
		}
		if on && v.Subnets[1].Prefix != first.Subnets[1].Prefix {
			t.Errorf("%s became %s", first.Subnets[1].Prefix, v.Subnets[1].Prefix)
		}
	}
}

// TestDefaultOptions: options that the daemon gives to networks that are made without them, and what of that is refused.
func TestDefaultOptions(t *testing.T) {
	const mtu, icc = "com.docker.network.driver.mtu", bridgeOption + "enable_icc"
	n := room(t, func(o *Options) {
		o.DriverOptions = map[string]map[string]string{"bridge": {mtu: "1234", icc: "false"}}
	})
	plain := network1(t, n, CreateRequest{Name: "plain"})
	own := network1(t, n, CreateRequest{Name: "own", Options: map[string]string{mtu: "1300"}})
	if plain.Options[mtu] != "1234" || plain.Options[icc] != "false" || own.Options[mtu] != "1300" || own.Options[icc] != "false" {
		t.Errorf("%v %v", plain.Options, own.Options)
	}
	if v, err := n.Inspect(defaultName); err != nil || v.Options[mtu] == "1234" || v.Options[icc] != "true" {
		t.Errorf("the default network has them, too: %v %v", v.Options, err)
	}
	kept := network1(t, n, CreateRequest{Name: "kept", ConfigOnly: true})
	from := network1(t, n, CreateRequest{Name: "from", ConfigFrom: "kept"})
	if len(kept.Options) != 0 || from.Options[mtu] != "1234" {
		t.Errorf("%v %v", kept.Options, from.Options)
	}
	for _, o := range []Options{
		{DriverOptions: map[string]map[string]string{"overlay": {mtu: "1"}}}, {DriverOptions: map[string]map[string]string{"bridge": {mtu: "x"}}},
		{DriverOptions: map[string]map[string]string{"macvlan": {icc: "true"}}}, {BIP6: "fd00::1/64"}, {FixedCIDR6: "fd00::/64"},
		{Gateway6: netip.MustParseAddr("fd00::1")},
	} {
		o.DataRoot, o.RunDir = "/d", "/r"
		if o.complete() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

// TestPublishAddress: ports without an address go where the daemon says, and are refused where the container cannot be reached there.
func TestPublishAddress(t *testing.T) {
	for _, c := range []struct{ ip, network, proto, want string }{
		{"127.0.0.1", "four", "tcp", "127.0.0.1"}, {"127.0.0.1", "dual", "tcp", "127.0.0.1"}, {"127.0.0.1", "six", "tcp", "where the daemon publishes ports"},
		{"0.0.0.0", "dual", "tcp", "0.0.0.0 ::"}, {"0.0.0.0", "six", "tcp", "::"}, {"::1", "dual", "tcp", "::1"},
		{"::1", "four", "sctp", `port 80 cannot be published on ::1, where the daemon publishes ports ("ip")`},
	} {
		n := room(t, func(o *Options) { o.HostIP = netip.MustParseAddr(c.ip) })
		network1(t, n, CreateRequest{Name: "four"})
		network1(t, n, CreateRequest{Name: "dual", IPv6: new(true)})
		network1(t, n, CreateRequest{Name: "six", IPv4: new(false), IPv6: new(true)})
		id := newID()
		a, err := n.Attach(t.Context(), AttachRequest{ContainerID: id, Name: "c", Endpoints: on(c.network).Endpoints,
			Ports: []PortRequest{{Container: 80, Proto: c.proto, HostPort: "18104"}}})
		var got []string
		if err != nil {
			got = append(got, err.Error())
		} else {
			for _, p := range a.Ports {
				got = append(got, p.HostIP.String())
			}
			a.NetNS.Close()
			must(t, n.Detach(t.Context(), id))
		}
		if text := strings.Join(got, " "); text != c.want && (err == nil || !strings.Contains(text, c.want)) {
			t.Errorf("%s on %s: %s", c.ip, c.network, text)
		}
	}
}

// TestDirectRouting: other hosts reach a published port at the container's own address, too, and nothing else.
func TestDirectRouting(t *testing.T) {
	n := room(t, func(o *Options) { o.DirectRouting = true })
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "in", Subnets: sub("10.213.164.0/24")})
	c := attach(t, n, AttachRequest{Endpoints: on("in").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18103"},
		{Container: 83, HostIP: "127.0.0.1", HostPort: "18105"}}})
	serve(t, n, c.NetNS, "tcp", ":80")
	serve(t, n, c.NetNS, "tcp", ":81")
	serve(t, n, c.NetNS, "tcp", ":83")
	serve(t, n, out, "tcp", ":82")
	reaches(t, n, "a published port, at its own address", out, "tcp", at(c, 80), outsideAddr)
	doesNotReach(t, n, "a port that is not published", out, "tcp", at(c, 81))
	doesNotReach(t, n, "a port that is published for the host alone", out, "tcp", at(c, 83))
	reaches(t, n, "through the host", out, "tcp", hostAddr+":18103", outsideAddr)
	reaches(t, n, "on its way out", c.NetNS, "tcp", outsideAddr+":82", hostAddr)
}
