package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// cniRoom is a room whose CNI configurations are these, by name; SCRIPTS is the directory of the test's own plugins, which
// are shell scripts, DATA one for what Debian's give out.
func cniRoom(t *testing.T, confs, scripts map[string]string) *Networks {
	t.Helper()
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		t.Skip("needs Debian's containernetworking-plugins")
	}
	conf, bin, data := t.TempDir(), t.TempDir(), t.TempDir()
	expand := strings.NewReplacer("SCRIPTS", bin, "DATA", data)
	for name, plugins := range confs {
		version := "1.0.0"
		if name == "watched" {
			version = "1.1.0"
		}
		text := fmt.Sprintf(`{"cniVersion":%q,"name":%q,"plugins":[%s]}`, version, name, expand.Replace(plugins))
		must(t, os.WriteFile(filepath.Join(conf, name+".conflist"), []byte(text), 0o600))
	}
	for name, body := range scripts {
		script := "#!/bin/sh\n" + `[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}'; exit; }` +
			"\necho $CNI_COMMAND $CNI_CONTAINERID >>" + data + "/log\n" + expand.Replace(body) + "\n"
		must(t, os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700))
	}
	n := room(t, func(o *Options) {
		o.CNIConfDir, o.CNIBinDirs = conf, []string{bin, "/usr/lib/cni"}
	})
	t.Setenv("CNI_TEST_DATA", data)
	return n
}

// calls are the plugins' of the test's own, so far.
func calls(t *testing.T) string {
	b, _ := os.ReadFile(filepath.Join(os.Getenv("CNI_TEST_DATA"), "log"))
	return string(b)
}

const (
	cniBridge = `{"type":"bridge","bridge":"btcni","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"DATA",
		"ranges":[[{"subnet":"10.214.7.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]},"capabilities":{"ips":true},"dns":{"nameservers":["192.0.2.53"],"search":["cni.test"]}}`
	cniPortmap  = `{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`
	cniFirewall = `{"type":"firewall","backend":"iptables"}`
	// makesLink gives the container an interface that leads nowhere, with an address.
	makesLink = `[ -n "$CNI_NETNS" ] || exit 0; in="nsenter --net=$CNI_NETNS ip"
		case $CNI_COMMAND in
		ADD) $in link add $CNI_IFNAME type ifb && $in addr add 10.214.8.5/24 dev $CNI_IFNAME && $in link set $CNI_IFNAME up || exit 1;;
		DEL) $in link del $CNI_IFNAME 2>/dev/null;;
		esac; `
	saysAddress = `[ $CNI_COMMAND != ADD ] || echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"$CNI_IFNAME\",\"sandbox\":\"$CNI_NETNS\"}],\"ips\":[{\"address\":\"10.214.8.5/24\",\"interface\":0}]}"`
)

// removeCNI takes away what Debian's plugin leaves of a bridge, as it does everywhere.
func removeCNI(t *testing.T) {
	t.Cleanup(func() { _ = run("ip", "link", "del", "btcni") })
}

// TestCNI: Debian's plugins make the network, and it works as others do: names, ports, connect and disconnect, and a daemon
// that was killed.
func TestCNI(t *testing.T) {
	n := cniRoom(t, map[string]string{"pods": cniBridge + "," + cniPortmap + "," + cniFirewall, "watched": `{"type":"watched"}`},
		map[string]string{"watched": makesLink + saysAddress})
	removeCNI(t)
	out := outside(t, n)
	ctx := context.Background()
	v := network1(t, n, CreateRequest{Name: "pods", Driver: driverCNI})
	if v.Driver != driverCNI || len(v.Subnets) != 0 {
		t.Errorf("%+v", v)
	}
	id := newID()
	ports := []PortRequest{{Container: 80, Proto: "tcp", HostPort: "18131"}}
	a := attach(t, n, AttachRequest{ContainerID: id, Name: "a", Endpoints: on("pods").Endpoints, Ports: ports})
	b := attach(t, n, AttachRequest{Name: "b", Endpoints: []EndpointRequest{{Network: "pods", IPv4: netip.MustParseAddr("10.214.7.77")}}})
	e := a.Endpoints[0]
	if e.IPv4.Masked().String() != "10.214.7.0/24" || e.Gateway.String() != "10.214.7.1" || e.MAC == "" || len(a.Search) != 1 {
		t.Errorf("%+v %v", e, a.Search)
	}
	if addrOf(b) != "10.214.7.77" {
		t.Errorf("the address asked for: %s", addrOf(b))
	}
	serve(t, n, a.NetNS, "tcp", ":80")
	serve(t, n, b.NetNS, "tcp", ":80")
	serve(t, n, out, "tcp", ":82")
	reaches(t, n, "each other", a.NetNS, "tcp", at(b, 80), addrOf(a))
	reaches(t, n, "outside", a.NetNS, "tcp", outsideAddr+":82", "")
	reaches(t, n, "published, from outside", out, "tcp", hostAddr+":18131", outsideAddr)
	reaches(t, n, "published, from the host itself", n.hostNS, "tcp", "127.0.0.1:18131", "")
	for name, want := range map[string]string{"b.": addrOf(b), id[:12] + ".": addrOf(a)} {
		if got, _ := dig(t, n, a.NetNS, "udp", name, dns.TypeA); !strings.Contains(got, want) {
			t.Errorf("%s is %q", name, got)
		}
	}
	_, err := n.Attach(ctx, AttachRequest{ContainerID: newID(), Name: "c", Endpoints: on("pods").Endpoints, Ports: ports})
	if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "port is already allocated") {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := n.Publish(ctx, PublishRequest{ContainerID: id, Name: "a", Remove: ports}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("a port of the plugins': %v", err)
	}

	v2 := trace(t, n, a, id, sleeper(t, n, a.NetNS), 0)
	mentions(t, "the plugins' network", v2)
	if e, p := v2.Endpoints[0], v2.Ports[0]; e.Driver != driverCNI || e.Host == nil || e.Bridge == nil || e.Bridge.Name != "btcni" || len(p.Published) != 1 ||
		len(p.Listeners) == 0 || !strings.Contains(strings.Join(p.Rules, "\n"), `the rules of the plugins of CNI configuration "pods"`) {
		t.Errorf("traced: %+v, %+v", e, p)
	}
	if _, err := n.Publish(ctx, PublishRequest{ContainerID: id, Name: "a", Add: []PortRequest{{Container: 81, HostPort: "18132"}}}); err == nil ||
		!strings.Contains(err.Error(), "stop container a, change its ports and start it") {
		t.Errorf("one more port of the plugins': %v", err)
	}

	network1(t, n, CreateRequest{Name: "watched", Driver: driverCNI, Options: map[string]string{"gc": "true"}})
	w := newID()
	aw := attach(t, n, AttachRequest{ContainerID: w, Name: "w", Endpoints: on("watched").Endpoints})
	dead := newID()
	dw := attach(t, n, AttachRequest{ContainerID: dead, Name: "dead", Endpoints: on(defaultName).Endpoints})
	_, err = n.Connect(ctx, ConnectRequest{ContainerID: dead, Name: "dead", NetNS: dw.NetNS, Endpoint: EndpointRequest{Network: "watched"}})
	if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), `the plugins gave the address 10.214.8.5, which container "w" has`) {
		t.Errorf("an address given twice: %v", err)
	}

	// Another daemon takes them over, and cleans up after those that ended meanwhile.
	pid := sleeper(t, n, a.NetNS)
	die(n)
	m, err := Open(ctx, n.opts)
	must(t, err)
	defer m.Close()
	must(t, m.Retain(ctx, []Live{{ContainerID: id, Name: "a", Pid: pid, Endpoints: a.Endpoints, Ports: a.Ports},
		{ContainerID: w, Name: "w", Pid: sleeper(t, n, aw.NetNS), Endpoints: aw.Endpoints}}))
	<-m.swept
	m.work.Wait() // CHECK
	if warned := strings.Join(m.Warnings(), "\n"); strings.Contains(warned, "CNI") {
		t.Error(warned)
	}
	known, _ := m.plugins.List()
	if len(known) != 2 || known[0].Container != id && known[1].Container != id {
		t.Errorf("%+v", known)
	}
	must(t, m.Detach(ctx, w))
	if got, want := calls(t), "STATUS\nADD "+w+"\nADD "+dead+"\nDEL "+dead+"\nGC\nCHECK "+w+"\nDEL "+w+"\n"; got != want {
		t.Errorf("calls:\n%swant:\n%s", got, want)
	}
	reaches(t, m, "published, after the restart", out, "tcp", hostAddr+":18131", outsideAddr)
	b2 := attach(t, m, AttachRequest{Name: "b", Endpoints: []EndpointRequest{{Network: "pods", IPv4: netip.MustParseAddr("10.214.7.77")}}})
	if addrOf(b2) != "10.214.7.77" {
		t.Errorf("the address of a container that is gone was not freed: %s", addrOf(b2))
	}

	// Off the network and on another one, which publishes the port then, and back.
	at, err := m.Disconnect(ctx, DisconnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Network: "pods", Ports: ports})
	must(t, err)
	if len(at.Ports) != 0 || interfacesIn(t, m, a.NetNS) != "lo" {
		t.Errorf("%+v, interfaces %q", at, interfacesIn(t, m, a.NetNS))
	}
	doesNotReach(t, m, "no longer published", out, "tcp", hostAddr+":18131")
	at, err = m.Connect(ctx, ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Endpoint: EndpointRequest{Network: "pods"}, Ports: ports})
	must(t, err)
	if len(at.Ports) != 1 || at.Ports[0].HostPort != 18131 {
		t.Errorf("%+v", at)
	}
	reaches(t, m, "published again", out, "tcp", hostAddr+":18131", outsideAddr)
	at, err = m.Connect(ctx, ConnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Endpoint: EndpointRequest{Network: defaultName}, Ports: ports})
	must(t, err)
	if len(at.Endpoints) != 2 || len(at.Ports) != 1 {
		t.Errorf("%+v", at)
	}
	reaches(t, m, "published still", out, "tcp", hostAddr+":18131", outsideAddr)
	at, err = m.Disconnect(ctx, DisconnectRequest{ContainerID: id, Name: "a", NetNS: a.NetNS, Network: "pods", Ports: ports})
	must(t, err)
	if len(at.Ports) == 0 {
		t.Errorf("%+v", at)
	}
	reaches(t, m, "published by the bridge", out, "tcp", hostAddr+":18131", outsideAddr)
	must(t, m.Detach(ctx, id))
	if err := m.Remove(ctx, "pods"); err == nil {
		t.Error("a network with a container was removed")
	}
	rules, _ := exec.Command("iptables-save").CombinedOutput()
	if strings.Contains(string(rules), "18131") {
		t.Errorf("left behind:\n%s", rules)
	}
}

// TestCNIBandwidth: bounds are the plugins' with the capability, Debian's among them, and stay as they are while the container
// is connected.
func TestCNIBandwidth(t *testing.T) {
	n := cniRoom(t, map[string]string{"bounded": cniBridge + `,{"type":"bandwidth","capabilities":{"bandwidth":true}}`, "free": cniBridge}, nil)
	removeCNI(t)
	ctx := context.Background()
	network1(t, n, CreateRequest{Name: "bounded", Driver: driverCNI})
	network1(t, n, CreateRequest{Name: "free", Driver: driverCNI})
	ten := map[string]string{"rx": "10mbit"}
	id := newID()
	a := attach(t, n, AttachRequest{ContainerID: id, Name: "a", Endpoints: []EndpointRequest{{Network: "bounded", DriverOpts: ten}}})
	links, err := whole(netlink.LinkList)
	must(t, err)
	bounds := 0
	for _, l := range links {
		qs, err := netlink.QdiscList(l)
		must(t, err)
		for _, q := range qs {
			if tbf, ok := q.(*netlink.Tbf); ok && tbf.Rate == 1250000 {
				bounds++
			}
		}
	}
	if bounds != 1 {
		t.Errorf("%d links have the bound", bounds)
	}
	change := func(n *Networks, to map[string]string) error {
		return n.Shape(ctx, ShapeRequest{ContainerID: id, NetNS: a.NetNS, Network: "bounded", Options: to})
	}
	const wayOut = "network connect --driver-opt rx=… --driver-opt tx=… bounded a"
	if err := change(n, map[string]string{"rx": "20mbit"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), wayOut) {
		t.Error(err)
	}
	must(t, change(n, ten))
	pid := sleeper(t, n, a.NetNS)
	die(n)
	m, err := Open(ctx, n.opts)
	must(t, err)
	defer m.Close()
	must(t, m.Retain(ctx, []Live{{ContainerID: id, Name: "a", Pid: pid, Endpoints: a.Endpoints}}))
	must(t, change(m, ten))
	if err := change(m, nil); err == nil || !strings.Contains(err.Error(), wayOut) {
		t.Error(err)
	}
	_, err = m.Attach(ctx, AttachRequest{ContainerID: newID(), Name: "b", Endpoints: []EndpointRequest{{Network: "free", DriverOpts: ten}}})
	if err == nil || !strings.Contains(err.Error(), `cannot bound what a container receives or sends: none of its plugins has the capability "bandwidth"`) {
		t.Error(err)
	}
	must(t, m.Detach(ctx, id))
}

// TestCNIPlugins: other plugins of Debian's in a container with two networks.
func TestCNIPlugins(t *testing.T) {
	ipam := `"ipam":{"type":"host-local","dataDir":"DATA","ranges":[[{"subnet":"10.214.%d.0/24"}]]%s}`
	n := cniRoom(t, map[string]string{
		"lan":    `{"type":"macvlan","master":"btout",` + fmt.Sprintf(ipam, 9, "") + `}`,
		"direct": `{"type":"ptp","ipMasq":true,` + fmt.Sprintf(ipam, 10, `,"routes":[{"dst":"0.0.0.0/0"}]`) + `}`,
	}, nil)
	out := outside(t, n)
	network1(t, n, CreateRequest{Name: "one", Driver: driverCNI, Options: map[string]string{"conf": "lan"}})
	network1(t, n, CreateRequest{Name: "two", Driver: driverCNI, Options: map[string]string{"conf": "direct"}})
	serve(t, n, out, "tcp", ":82")
	a := attach(t, n, on("two"))
	reaches(t, n, "outside", a.NetNS, "tcp", outsideAddr+":82", "")
	r := on("one", "two", defaultName)
	r.Endpoints[2].GwPriority = 1
	b, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "b", Endpoints: r.Endpoints})
	if err != nil && strings.Contains(err.Error(), "operation not supported") {
		t.Skip(err) // no macvlan
	}
	must(t, err)
	defer b.NetNS.Close()
	if got := interfacesIn(t, n, b.NetNS); !strings.Contains(got, "eth0") || !strings.Contains(got, "eth1") || !strings.Contains(got, "eth2") {
		t.Errorf("interfaces %q", got)
	}
	if via := defaultVia(t, n, b.NetNS); via != b.Endpoints[2].Gateway.String() {
		t.Errorf("default route via %s of %+v", via, b.Endpoints)
	}
	if b.Endpoints[0].Gateway.IsValid() {
		t.Errorf("a network without a default route: %+v", b.Endpoints[0])
	}
}

// TestCNIHostile: plugins that fail, lie, babble and hang are refused with a sentence, and leave nothing.
func TestCNIHostile(t *testing.T) {
	scripts := map[string]string{
		"fails":   makesLink + `[ $CNI_COMMAND != ADD ] || { printf '{"code":7,"msg":"no\\u001b[31m luck","details":"today"}'; exit 1; }`,
		"leaves":  `case $CNI_COMMAND in DEL) exit 0;; esac; ` + makesLink + ` echo such a day >&2; exit 3`,
		"garbage": `echo '}{'`,
		"empty":   `[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"1.0.0","ips":[]}'`,
		"nolink":  saysAddress,
		"lies":    makesLink + strings.ReplaceAll(saysAddress, "10.214.8.5", "10.214.8.6"),
		"steals":  strings.ReplaceAll(makesLink+saysAddress, "10.214.8.5", "10.213.200.5"),
		"endless": `[ $CNI_COMMAND != ADD ] || exec yes`,
		"hangs":   `[ $CNI_COMMAND != ADD ] || { sleep 1000 & sleep 1000; }`,
		"index":   makesLink + strings.ReplaceAll(saysAddress, `:0}`, `:7}`),
		"twice":   makesLink + saysAddress,
	}
	confs := map[string]string{}
	for name := range scripts {
		confs[name] = fmt.Sprintf(`{"type":%q}`, name)
	}
	n := cniRoom(t, confs, scripts)
	network1(t, n, CreateRequest{Name: "mine", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.213.200.0/24")}}})
	live := attach(t, n, AttachRequest{ContainerID: newID(), Name: "live"})
	ctx := context.Background()
	before := linkNames(t)
	for name, want := range map[string]string{
		"fails":   `CNI configuration "fails": plugin type="fails" failed (add): no [31m luck; today`,
		"leaves":  `it ended with "exit status 3": such a day`,
		"garbage": "failed (add)",
		"empty":   `its result has no address for interface "eth1"`,
		"nolink":  `the plugins say they made interface "eth1", and the container has none`,
		"lies":    `the plugins say they gave interface "eth1" the address 10.214.8.6/24, which it does not have`,
		"steals":  `the plugins gave the address 10.213.200.5, which is in the subnet 10.213.200.0/24 of network "mine"`,
		"endless": "it printed more than 1048576 bytes",
		"hangs":   "it did not end in time and was killed",
		"index":   "its result gives an address to interface 7 of 1",
	} {
		t.Run(name, func(t *testing.T) {
			if name == "hangs" { // alone: for the others the deadline is one that a busy machine keeps
				o := n.opts
				o.Bridge, o.BIP, o.DataRoot, o.CNITimeout = o.Bridge+"h", "10.213.201.1/24", t.TempDir(), 5*time.Second
				n := reopen(t, o)
				live := attach(t, n, AttachRequest{ContainerID: newID(), Name: "live"})
				refusesCNI(t, n, live, name, want)
				return
			}
			refusesCNI(t, n, live, name, want)
		})
	}
	network1(t, n, CreateRequest{Name: "twice", Driver: driverCNI})
	attach(t, n, AttachRequest{Name: "first", Endpoints: on("twice").Endpoints})
	_, err := n.Attach(ctx, AttachRequest{ContainerID: newID(), Name: "second", Endpoints: on("twice").Endpoints})
	if !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), `the plugins gave the address 10.214.8.5, which container "first" has`) {
		t.Errorf("an address given twice: %v", err)
	}
	if after := linkNames(t); len(after) > len(before)+1 { // the bridge of "hangs" is gone again
		t.Errorf("links %v before, %v after", before, after)
	}
	if left, damaged := n.plugins.List(); len(left) != 1 || len(damaged) != 0 {
		t.Errorf("written down: %+v %v", left, damaged)
	}
}

// refusesCNI connects a container that lives to a network whose plugins are not good.
func refusesCNI(t *testing.T, n *Networks, live *Attachment, conf, want string) {
	t.Helper()
	ctx := context.Background()
	network1(t, n, CreateRequest{Name: "x" + conf, Driver: driverCNI, Options: map[string]string{"conf": conf}})
	var id string
	for _, v := range n.held {
		id = v.endpoints[0].container
	}
	for range 2 { // the second time as the first
		_, err := n.Connect(ctx, ConnectRequest{ContainerID: id, Name: "live", NetNS: live.NetNS, Endpoint: EndpointRequest{Network: "x" + conf}})
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%v\nwant %s", err, want)
		}
		if got := interfacesIn(t, n, live.NetNS); got != "lo eth0" {
			t.Errorf("interfaces %q", got)
		}
	}
	_, err := n.Attach(ctx, AttachRequest{ContainerID: newID(), Name: "new", Endpoints: on("x" + conf).Endpoints,
		Ports: []PortRequest{{Container: 80, HostPort: "18141"}}})
	if err == nil || !strings.Contains(err.Error(), `cannot publish ports: none of its plugins has the capability "portMappings"`) {
		t.Errorf("%v", err)
	}
	must(t, n.Remove(ctx, "x"+conf))
	if c := calls(t); conf != "garbage" && !strings.Contains(c, "DEL "+id) {
		t.Errorf("no DEL of %s:\n%s", id, c)
	}
}

// TestCNIRefused: what is known to be wrong when the network is made is told then.
func TestCNIRefused(t *testing.T) {
	n := cniRoom(t, map[string]string{"ok": cniBridge, "open": cniBridge + "," + cniPortmap, "missing": `{"type":"nosuchplugin"}`, "path": `{"type":"../bridge"}`},
		map[string]string{"unused": ""})
	yes := true
	for _, c := range []struct {
		r    CreateRequest
		kind error
		want string
	}{
		{CreateRequest{Name: "nothere"}, errdefs.ErrNotFound, `no CNI configuration "nothere" in `},
		{CreateRequest{Name: "nothere"}, errdefs.ErrNotFound, `; there are: missing, ok, open, path`},
		{CreateRequest{Name: "missing"}, nil, `no plugin "nosuchplugin" in `},
		{CreateRequest{Name: "path"}, nil, `"../bridge" is not the name of a plugin`},
		{CreateRequest{Name: "ok", Internal: true}, errdefs.ErrInvalidArgument, "takes no --internal: its CNI configuration decides that"},
		{CreateRequest{Name: "ok", IPv6: &yes}, errdefs.ErrInvalidArgument, "takes no --ipv6"},
		{CreateRequest{Name: "ok", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("10.0.0.0/24")}}}, errdefs.ErrInvalidArgument, "takes no subnet"},
		{CreateRequest{Name: "ok", Options: map[string]string{"parent": "eth0"}}, errdefs.ErrInvalidArgument, `unknown option "parent"`},
		{CreateRequest{Name: "ok", Options: map[string]string{"conf": ""}}, errdefs.ErrInvalidArgument, `invalid value "" of option "conf"`},
	} {
		c.r.Driver = driverCNI
		_, err := n.Create(context.Background(), c.r)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%+v: %v, want %s", c.r, err, c.want)
		}
	}
	network1(t, n, CreateRequest{Name: "ok", Driver: driverCNI})
	for _, c := range []struct {
		e    EndpointRequest
		want string
	}{
		{EndpointRequest{MAC: "02:00:00:00:00:09"}, `cannot give a MAC address that was asked for: none of its plugins has the capability "mac"`},
		{EndpointRequest{DriverOpts: map[string]string{OptionEgress: "allow=10.0.0.0/8;default=deny"}}, "is not for networks of the driver cni"},
		{EndpointRequest{LinkLocal: []netip.Addr{netip.MustParseAddr("169.254.3.4")}}, "gives no link-local addresses"},
	} {
		c.e.Network = "ok"
		if _, err := n.Attach(context.Background(), AttachRequest{ContainerID: newID(), Endpoints: []EndpointRequest{c.e}}); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.e, err, c.want)
		}
	}
	if left, _ := n.plugins.List(); len(left) != 0 {
		t.Errorf("written down: %+v", left)
	}
	o := n.opts
	o.Bridge, o.BIP, o.DataRoot, o.RunDir, o.RespectFirewall = o.Bridge+"r", "10.213.202.1/24", t.TempDir(), t.TempDir(), true
	m := reopen(t, o)
	network1(t, m, CreateRequest{Name: "open", Driver: driverCNI, Options: map[string]string{"conf": "open"}})
	_, err := m.Attach(context.Background(), AttachRequest{ContainerID: newID(), Name: "c", Endpoints: on("open").Endpoints, Ports: []PortRequest{{Container: 80, HostPort: "18142"}}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "publish-policy is respect-host-firewall") || len(m.ports) != 0 {
		t.Errorf("ports that nobody asks the host's firewall about: %v, %v", err, m.ports)
	}
}
