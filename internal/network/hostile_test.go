package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// TestHostileNetworks: networks that cannot be, or that would reach further than they say.
func TestHostileNetworks(t *testing.T) {
	n := room(t)
	id := network1(t, n, CreateRequest{Name: "there", Subnets: sub("10.213.140.0/24")}).ID
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	one := func(s Subnet) CreateRequest { return CreateRequest{Name: "x", Subnets: []Subnet{s}} }
	option := func(k, v string) CreateRequest { return CreateRequest{Name: "x", Options: map[string]string{k: v}} }
	const free = "10.213.141.0/24"
	before := linkNames(t)
	for what, c := range map[string]struct {
		r    CreateRequest
		text string
	}{
		"everything":                 {one(Subnet{Prefix: prefix("0.0.0.0/0")}), "addresses of 0.0.0.0/8 cannot be a container's"},
		"everything of version 6":    {one(Subnet{Prefix: prefix("::/0")}), "addresses of ::/127 cannot be a container's"},
		"half of everything":         {one(Subnet{Prefix: prefix("128.0.0.0/1")}), "addresses of 224.0.0.0/4 cannot be a container's"},
		"around the loopback":        {one(Subnet{Prefix: prefix("64.0.0.0/2")}), "addresses of 127.0.0.0/8 cannot be a container's"},
		"up to the broadcast":        {one(Subnet{Prefix: prefix("248.0.0.0/5")}), "addresses of 255.255.255.255/32 cannot be a container's"},
		"version 4 in version 6":     {one(Subnet{Prefix: netip.PrefixFrom(addr("::ffff:10.9.0.0"), 112)}), "addresses of ::ffff:0.0.0.0/96 cannot be a container's"},
		"around version 4":           {one(Subnet{Prefix: prefix("::/64")}), "cannot be a container's"},
		"many hosts of version 6":    {one(Subnet{Prefix: prefix("ff05::/64")}), "addresses of ff00::/8 cannot be a container's"},
		"one address":                {one(Subnet{Prefix: prefix("10.213.141.7/32")}), "no room"},
		"one address of version 6":   {one(Subnet{Prefix: prefix("fd00:213:1::7/128")}), "no room"},
		"gateway is everybody":       {one(Subnet{Prefix: prefix(free), Gateway: addr("255.255.255.255")}), "invalid gateway"},
		"gateway of another version": {one(Subnet{Prefix: prefix(free), Gateway: addr("fd00::1")}), "invalid gateway"},
		"gateway with a zone":        {one(Subnet{Prefix: prefix("fd00:213:1::/64"), Gateway: addr("fd00:213:1::1%lo")}), "invalid gateway"},
		"gateway is taken":           {one(Subnet{Prefix: prefix(free), Gateway: addr("10.213.141.9"), Aux: map[string]netip.Addr{"r": addr("10.213.141.9")}}), "r=10.213.141.9 is the gateway's"},
		"range of another version":   {one(Subnet{Prefix: prefix(free), Range: prefix("fd00::/80")}), "ip-range"},
		"range around the subnet":    {one(Subnet{Prefix: prefix(free), Range: prefix("10.213.0.0/16")}), "ip-range"},
		"MTU 0":                      {option("com.docker.network.driver.mtu", "0"), `invalid value "0"`},
		"MTU 1":                      {option("com.docker.network.driver.mtu", "1"), `invalid value "1"`},
		"MTU 65536":                  {option("com.docker.network.driver.mtu", "65536"), `invalid value "65536"`},
		"MTU and a line":             {option("com.docker.network.driver.mtu", "1500\n"), `invalid value "1500\n"`},
		"option and a line":          {option("com.docker.network.driver.mtu\n", "1500"), `unknown option "com.docker.network.driver.mtu\n"`},
		"every link there is":        {option(bridgeOption+"name", "all"), `"all" cannot be the name of a link`},
		"every link to come":         {option(bridgeOption+"name", "default"), `"default" cannot be the name of a link`},
		"link and a line":            {option(bridgeOption+"name", "br\n0"), "cannot be the name of a link"},
		"link that is a format":      {option(bridgeOption+"name", "br%d"), "cannot be the name of a link"},
		"the loopback link":          {option(bridgeOption+"name", "lo"), "has a link of type"},
		"source that is many":        {option("com.docker.network.host_ipv4", "224.0.0.1"), "not an address that packets can come from"},
		"source that is all":         {option("com.docker.network.host_ipv4", "255.255.255.255"), "not an address that packets can come from"},
		"source of version 6":        {option("com.docker.network.host_ipv4", "fd00::1"), "not an address of version 4"},
		"source of version 4":        {option("com.docker.network.host_ipv6", "::ffff:192.0.2.1"), "not an address of version 6"},
		"bind to nonsense":           {option(bridgeOption+"host_binding_ipv4", "0.0.0.0/0"), "invalid value"},
		"name with a line":           {CreateRequest{Name: "a\nb"}, "invalid network name"},
		"name that a terminal obeys": {CreateRequest{Name: "a\x1b[2Jb"}, "invalid network name"},
		"name that reads backwards":  {CreateRequest{Name: "a\u202eb"}, "invalid network name"},
		"name that is no text":       {CreateRequest{Name: "a\xff"}, "invalid network name"},
		"name that is an ID":         {CreateRequest{Name: id}, `it is the ID of network "there"`},
		"name of a container":        {CreateRequest{Name: "container:x"}, "not permitted"},
	} {
		_, err := n.Create(context.Background(), c.r)
		if err == nil || !strings.Contains(err.Error(), c.text) || errdefs.IsInternal(err) || !errdefs.IsInvalidArgument(err) && !errdefs.IsPermissionDenied(err) &&
			!errdefs.IsConflict(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for l := range linkNames(t) {
		if !before[l] {
			t.Errorf("link %s was left behind", l)
		}
	}
	// A network called as the beginning of another's ID: names win over beginnings.
	short := network1(t, n, CreateRequest{Name: id[:12], Subnets: sub(free)}).ID
	for ref, want := range map[string]string{id[:12]: short, id: id, id[:13]: id, short: short, "there": id} {
		if v, err := n.Inspect(ref); err != nil || v.ID != want {
			t.Errorf("%s is %s, %v", ref, v.ID, err)
		}
	}
	// A hundred thousand addresses that others have, the gateway behind them.
	many := Subnet{Prefix: prefix("10.212.0.0/14"), Aux: map[string]netip.Addr{}}
	for a := prefix("10.212.0.0/14").Addr().Next(); len(many.Aux) < 100000; a = a.Next() {
		many.Aux[a.String()] = a
	}
	if subnets, err := completeSubnets([]Subnet{many}, true); err != nil || subnets[0].Gateway.String() != "10.213.134.161" {
		t.Errorf("%v, %v", subnets[0].Gateway, err)
	}
}

// TestHostileEndpoints: what a container may ask for of a network that is in order.
func TestHostileEndpoints(t *testing.T) {
	n := room(t)
	network1(t, n, CreateRequest{Name: "six", IPv6: new(true), Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.143.0/24")},
		{Prefix: netip.MustParsePrefix("fd00:213:143::/64")}}})
	addr := netip.MustParseAddr
	end := func(e EndpointRequest) AttachRequest {
		e.Network = "six"
		return AttachRequest{Endpoints: []EndpointRequest{e}}
	}
	port := func(p PortRequest) AttachRequest {
		return AttachRequest{Endpoints: on("six").Endpoints, Ports: []PortRequest{p}}
	}
	knob := func(key, value string) AttachRequest { return AttachRequest{Sysctls: map[string]string{key: value}} }
	option := func(k, v string) AttachRequest { return end(EndpointRequest{DriverOpts: map[string]string{k: v}}) }
	for what, c := range map[string]struct {
		r    AttachRequest
		text string
	}{
		"address of version 4 as 6":   {end(EndpointRequest{IPv6: addr("::ffff:10.213.143.9")}), "no configured subnet"},
		"address with a zone":         {end(EndpointRequest{IPv6: addr("fd00:213:143::9%lo")}), "no configured subnet"},
		"address that is the network": {end(EndpointRequest{IPv4: addr("10.213.143.0")}), "cannot be an endpoint's address"},
		"link-local with a zone":      {end(EndpointRequest{LinkLocal: []netip.Addr{addr("fe80::1%lo")}}), "invalid link-local"},
		"link-local of 4 as 6":        {end(EndpointRequest{LinkLocal: []netip.Addr{addr("::ffff:169.254.1.1")}}), "invalid link-local"},
		"link-local twice":            {end(EndpointRequest{LinkLocal: []netip.Addr{addr("169.254.1.1"), addr("169.254.1.1")}}), "already in use"},
		"MAC of many":                 {end(EndpointRequest{MAC: "03:00:00:00:00:01"}), "invalid MAC address"},
		"MAC of nobody":               {end(EndpointRequest{MAC: "00:00:00:00:00:00"}), "invalid MAC address"},
		"MAC of eight bytes":          {end(EndpointRequest{MAC: "02:00:00:00:00:00:00:01"}), "invalid MAC address"},
		"every interface":             {option(optionIfname, "all"), "cannot be the name of a link"},
		"every interface to come":     {option(optionIfname, "default"), "cannot be the name of a link"},
		"interface that is a path":    {option(optionIfname, ".."), "cannot be the name of a link"},
		"option and a line":           {option(optionIfname, "a\nb"), "cannot be the name of a link"},
		"sysctl of another":           {option(optionSysctls, "net.ipv4.conf.all.forwarding=1"), "IFNAME"},
		"sysctl that is a path":       {option(optionSysctls, "net.ipv4.conf.IFNAME/../all.x=1"), "IFNAME"},
		"sysctl that is long":         {option(optionSysctls, "net.ipv4.conf.IFNAME."+strings.Repeat("x", 5000)+"=1"), "cannot be"},
		"rate without an end":         {option(optionReceive, "1e309"), "bits per second"},
		"rate below nothing":          {option(optionSend, "-1mbit"), "bits per second"},

		"knob that is not the network's": {knob("kernel.core_pattern", "x"), "does not belong to the network"},
		"knob that climbs":               {knob("net.ipv4/../../kernel.core_pattern", "x"), `"net.ipv4/../../kernel.core_pattern"`},
		"knob that climbs otherwise":     {knob("net././././kernel.x", "x"), "net"},
		"knob with a zero":               {knob("net.ipv4.ip_forward\x00", "1"), "has no meaning"},
		"knob that is long":              {knob("net."+strings.Repeat("x", 5000), "1"), "cannot be"},
		"knob that is a folder":          {knob("net.ipv4", "1"), "cannot be"},
		"knob and a line":                {knob("net.ipv4.ip_forward\n", "1"), "cannot be"},

		"port on many hosts":           {port(PortRequest{Container: 80, HostIP: "224.0.0.1", HostPort: "18170"}), "the address of many hosts"},
		"port on all hosts":            {port(PortRequest{Container: 80, HostIP: "255.255.255.255", HostPort: "18170"}), "the address of many hosts"},
		"port on one link":             {port(PortRequest{Container: 80, HostIP: "fe80::1%lo", HostPort: "18170"}), "an address of one link only"},
		"port on one link, unnamed":    {port(PortRequest{Container: 80, HostIP: "[fe80::1]", HostPort: "18170"}), "an address of one link only"},
		"port on another host":         {port(PortRequest{Container: 80, HostIP: "192.0.2.99", HostPort: "18170"}), "the host has no address 192.0.2.99"},
		"port on another host, 4 in 6": {port(PortRequest{Container: 80, HostIP: "::ffff:192.0.2.99", HostPort: "18170"}), "the host has no address 192.0.2.99"},
		"port on a name":               {port(PortRequest{Container: 80, HostIP: "localhost", HostPort: "18170"}), `invalid host address "localhost"`},
		"range without a beginning":    {port(PortRequest{Container: 80, HostPort: "-18170"}), "invalid host port"},
		"range of ranges":              {port(PortRequest{Container: 80, HostPort: "1-2-3"}), "invalid host port"},
		"range from nothing":           {port(PortRequest{Container: 80, HostPort: "0-10"}), "invalid host port"},
		"port with a sign":             {port(PortRequest{Container: 80, HostPort: "+18170"}), "invalid host port"},
		"port with a line":             {port(PortRequest{Container: 80, HostPort: "18170\n"}), "invalid host port"},
		"the same port twice": {AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18170"}, {Container: 80, HostPort: "18170"}}},
			"port is already allocated"},
		"ranges that overlap": {AttachRequest{Ports: []PortRequest{{Container: 80, HostPort: "18170"}, {Container: 81, HostPort: "18171"},
			{Container: 82, HostPort: "18170-18171"}}}, "all ports are allocated"},
	} {
		c.r.ContainerID, c.r.Name = newID(), "bad"
		a, err := n.Attach(context.Background(), c.r)
		if err == nil {
			a.NetNS.Close()
			_ = n.Detach(context.Background(), c.r.ContainerID)
		}
		if err == nil || !strings.Contains(err.Error(), c.text) || !errdefs.IsInvalidArgument(err) && !errdefs.IsConflict(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(n.held) != 0 || len(n.ports) != 0 {
		t.Errorf("something is attached: %v, %v", n.held, n.ports)
	}
	// A port of SCTP is somebody's, too, and the same number of another protocol is not.
	sctp := []PortRequest{{Container: 80, Proto: "sctp", HostPort: "18170"}}
	attach(t, n, AttachRequest{Ports: sctp})
	if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "two", Ports: sctp}); !errdefs.IsConflict(err) ||
		!strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("a port of SCTP twice: %v", err)
	}
	attach(t, n, AttachRequest{Ports: []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18170"}, {Container: 80, Proto: "udp", HostPort: "18170"}}})
}

// TestEndpointRaces: of many who want the same address or the same port one gets it; and a network that goes and a container that
// comes do not both have their way.
func TestEndpointRaces(t *testing.T) {
	n := room(t)
	ctx := context.Background()
	network1(t, n, CreateRequest{Name: "fixed", Subnets: sub("10.213.144.0/24")})
	for what, r := range map[string]AttachRequest{
		"address": {Endpoints: []EndpointRequest{{Network: "fixed", IPv4: netip.MustParseAddr("10.213.144.77")}}},
		"MAC":     {Endpoints: []EndpointRequest{{Network: "fixed", MAC: "02:00:00:00:00:77"}}},
		"port":    {Ports: []PortRequest{{Container: 80, HostPort: "18171"}}},
		"range":   {Ports: []PortRequest{{Container: 80, HostPort: "18172-18172", Proto: "udp"}}},
	} {
		var all sync.WaitGroup
		var mu sync.Mutex
		var got []string
		for i := range 8 {
			r := r
			r.ContainerID, r.Name = newID(), fmt.Sprint("c", i)
			all.Go(func() {
				a, err := n.Attach(ctx, r)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					a.NetNS.Close()
					got = append(got, r.ContainerID)
				} else if !errdefs.IsConflict(err) {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		all.Wait()
		if len(got) != 1 {
			t.Errorf("%s: %d have it", what, len(got))
		}
		for _, id := range got {
			must(t, n.Detach(ctx, id))
		}
	}
	before := linkNames(t)
	for i := range 20 {
		name := fmt.Sprint("comes-and-goes", i)
		network1(t, n, CreateRequest{Name: name})
		r := on(name)
		r.ContainerID, r.Name = newID(), "late"
		var both sync.WaitGroup
		var a *Attachment
		var attached, removed error
		both.Go(func() { a, attached = n.Attach(ctx, r) })
		both.Go(func() { removed = n.Remove(ctx, name) })
		both.Wait()
		switch {
		case attached == nil && removed == nil:
			t.Error("a container is on a network that was removed")
		case attached != nil && !errors.Is(attached, errdefs.ErrNotFound):
			t.Errorf("attach: %v", attached)
		case removed != nil && (!errdefs.IsPermissionDenied(removed) || !strings.Contains(removed.Error(), "has active endpoints")):
			t.Errorf("remove: %v", removed)
		}
		if attached == nil {
			a.NetNS.Close()
			must(t, n.Detach(ctx, r.ContainerID))
		}
		if removed != nil {
			must(t, n.Remove(ctx, name))
		}
	}
	eventually(t, "the links go", func() bool {
		for l := range linkNames(t) {
			if !before[l] {
				return false
			}
		}
		return true
	})
}

// TestChosenSource: a network leaves with the address of the host that it names.
func TestChosenSource(t *testing.T) {
	n := room(t)
	out := outside(t, n)
	const source, source6 = "10.213.250.9", "fd00:213:250::9"
	must(t, run("ip", "addr", "add", source+"/24", "dev", "btout"))
	must(t, run("ip", "-6", "addr", "add", source6+"/64", "dev", "btout", "nodad"))
	network1(t, n, CreateRequest{Name: "chosen", IPv6: new(true), Options: map[string]string{"com.docker.network.host_ipv4": source,
		"com.docker.network.host_ipv6": source6}, Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.145.0/24")},
		{Prefix: netip.MustParsePrefix("fd00:213:145::/64")}, {Prefix: netip.MustParsePrefix("10.213.146.0/24")}}})
	serve(t, n, out, "tcp", ":82")
	a, b := attach(t, n, on("chosen")), attach(t, n, AttachRequest{})
	serve(t, n, a.NetNS, "tcp", ":80")
	reaches(t, n, "the chosen address", a.NetNS, "tcp", outsideAddr+":82", source)
	reaches(t, n, "the chosen address of version 6", a.NetNS, "tcp", "["+outsideAddr6+"]:82", source6)
	reaches(t, n, "another network", b.NetNS, "tcp", outsideAddr+":82", hostAddr)
	reaches(t, n, "neighbours keep theirs", attach(t, n, on("chosen")).NetNS, "tcp", at(a, 80), "")
	v := trace(t, n, a, n.owner(t, a), sleeper(t, n, a.NetNS), 0)
	if rules := strings.Join(v.Endpoints[0].Rules, "\n"); n.wall != nil && !strings.Contains(rules, "10.213.145.0/24 is in @behind") {
		t.Errorf("traced: %s", rules)
	}
}
