package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/container"
)

// load runs Load with a configuration file of the given content.
func load(t *testing.T, file string, args ...string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "daemon.json")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(append([]string{"--config-file", path}, args...))
}

func TestDefaults(t *testing.T) {
	c, err := load(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c.Hosts, []string{"unix:///run/berth/berth.sock"}) || c.PidFile != "/run/berth/berthd.pid" {
		t.Errorf("hosts %q, pid file %q", c.Hosts, c.PidFile)
	}
	c, err = load(t, "{}", "--exec-root=/tmp/x")
	if err != nil || c.Hosts[0] != "unix:///tmp/x/berth.sock" || c.PidFile != "/tmp/x/berthd.pid" {
		t.Errorf("%v, hosts %q, pid file %q", err, c.Hosts, c.PidFile)
	}
}

func TestFlags(t *testing.T) {
	c, err := load(t, "", "-DH", "unix:///a", "-H=tcp://127.0.0.1:1", "--tls=false", "-lwarn", "--host", "unix:///b",
		"-G", "5",
		"--log-opt", "max-size=1m", "--log-opt=max-file=2", "--default-ulimit=nofile=1:2", "--icc=0",
		"--default-address-pool", "base=10.9.0.0/16,size=24", "--default-shm-size=128M", "--userland-proxy=false",
		"--live-restore", "--storage-driver=overlayfs", "-b", "br9", "--publish-policy", "respect-host-firewall", "--bip", "10.9.9.1/24", "--dns=1.1.1.1")
	if err != nil {
		t.Fatal(err)
	}
	if !c.Debug || !reflect.DeepEqual(c.Hosts, []string{"unix:///a", "tcp://127.0.0.1:1", "unix:///b"}) ||
		c.LogLevel != "warn" || c.Group != "5" || c.ICC || c.UserlandProxy || c.Bridge != "br9" || c.PublishPolicy != policyRespect || c.ShmSize != 128<<20 {
		t.Errorf("%+v", c)
	}
	if !reflect.DeepEqual(c.LogOptions, map[string]string{"max-size": "1m", "max-file": "2"}) ||
		!reflect.DeepEqual(c.ulimits(), []container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}) ||
		!reflect.DeepEqual(c.Pools, []Pool{{"10.9.0.0/16", 24}}) {
		t.Errorf("%+v", c)
	}
}

func TestFile(t *testing.T) {
	c, err := load(t, "\xef\xbb\xbf"+`{"debug":true,"hosts":["unix:///a"],"log-opts":{"max-file":3,"compress":true},
		"mtu":1400,"default-ulimits":{"nofile":{"Name":"nofile","Soft":1,"Hard":2}},
		"default-address-pools":[{"base":"10.9.0.0/16","size":24}],
		"default-shm-size":"64M","live-restore":true,"userland-proxy":false,"proxies":{"http-proxy":"http://u:p@x"},
		"registry-mirrors":["https://m"],"insecure-registries":["r:5000"],"storage-driver":"overlay2","labels":null}`)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Debug || c.UserlandProxy || c.MTU != 1400 || c.LogOptions["max-file"] != "3" || c.LogOptions["compress"] != "true" ||
		c.Ulimits["nofile"].Hard != 2 || c.Pools[0].Size != 24 || c.HTTPProxy != "http://u:p@x" ||
		c.Mirrors[0] != "https://m" {
		t.Errorf("%+v", c)
	}
	if shown := withoutPassword(c.HTTPProxy); strings.Contains(shown, "p@") {
		t.Errorf("the proxy's password is shown: %s", shown)
	}
}

func TestHostGateway(t *testing.T) {
	want := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}
	for _, from := range [][]string{{"", "--host-gateway-ip=fd00::3", "--host-gateway-ip", "10.1.2.3"}, {`{"host-gateway-ips":["10.1.2.3","fd00::3"]}`},
		{`{"host-gateway-ip":"10.1.2.3","host-gateway-ips":["fd00::3"]}`}} {
		c, err := load(t, from[0], from[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.hostGateway(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %v %v", from, got, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		file, flags, want string
	}{
		{"{", "", "it is no JSON object"},
		{"[]", "", "it is no JSON object"},
		{"{} {}", "", "something after the JSON object"},
		{`{"nope":1,"debug":true,"what":2}`, "", "the following directives don't match any configuration option: nope, what"},
		{`{"userns-remap":"default"}`, "", `"userns-remap" is dockerd's; berthd does not support it`},
		{`{"debug":"yes"}`, "", `"debug": must be a bool, not a string`},
		{`{"hosts":"unix:///a"}`, "", `"hosts": must be a []string, not a string`},
		{`{"log-opts":{"max-size":[1]}}`, "", `the value of "max-size" must be a string`},
		{`{"live-restore":false}`, "", `"live-restore": it can only be true: containers always outlive the daemon`},
		{`{"userland-proxy":"yes"}`, "", `"userland-proxy": must be a bool, not a string`},
		{`{"registry":{"listen":"0.0.0.0:5000"}}`, "", `"registry": the registry's address "0.0.0.0:5000" is open to other machines`},
		{`{"registry":{"listen":"5000"}}`, "", `is not ADDRESS:PORT`},
		{`{"registry":{"listen":"127.0.0.1:0"}}`, "", `is not ADDRESS:PORT`},
		{`{"registry":{"tls-cert":"/c"}}`, "", `tls-cert and tls-key belong together`},
		{`{"registry":{"root":"images"}}`, "", `root "images" must be an absolute path`},
		{`{"registry":{"mirror":"https://a","read-only":true}}`, "", `neither read-only nor does it allow-delete`},
		{`{"registry":{"mirror":"ftp://a"}}`, "", `is no http or https URL`},
		{`{"registry":{"colour":"red"}}`, "", `"registry": json: unknown field "colour"`},
		{`{"registry":[]}`, "", `"registry": must be a`},
		{`{"storage-driver":"aufs"}`, "", `"aufs" is no storage driver: overlay2, fuse-overlayfs, btrfs and vfs are`},
		{`{"default-ulimits":{"nope":{"Soft":1,"Hard":1}}}`, "", "invalid ulimit name"},
		{`{"debug":true}`, "-D", "both as a flag and in the configuration file: debug: (from flag: true, from file: true)"},
		{`{"hosts":["unix:///a"]}`, "-H unix:///b", "hosts: (from flag: unix:///b, from file: [\"unix:///a\"])"},
		{"", "--nope", "unknown flag --nope"},
		{"", "-x", `unknown flag -x in "-x"`},
		{"", "--userns-remap=default", "flag --userns-remap is dockerd's; berthd does not support it"},
		{"", "run", `unexpected argument "run"`},
		{"", "--data-root", "flag --data-root needs a value"},
		{"", "--data-root=x", `data-root "x" must be an absolute path`},
		{"", "--data-root=/a --exec-root=/a", "must not be the same directory"},
		{"", "--mtu=-1", `invalid value for --mtu: "-1" is not a whole number of at least 0`},
		{"", "--mtu=99999", "the MTU 99999 is outside of 68 to 65535"},
		{"", "--ipv6 --mtu=1279", "the MTU 1279 of the default network is too small for IPv6, which needs 1280"},
		{"", "--bridge=a/b", `"a/b" cannot be the name of a link`},
		{"", "--default-address-pool=base=10.0.0.0/16,size=31", "cannot be cut into networks of /31"},
		{"", "--firewall-backend=pf", `firewall-backend "pf" is neither auto, nftables nor iptables`},
		{`{"publish-policy":"respect-host-firewall","firewall-backend":"iptables"}`, "", "publish-policy respect-host-firewall needs nftables"},
		{"", "--publish-policy=closed", `publish-policy "closed" is neither open nor respect-host-firewall`},
		{`{"publish-policy":"respect-host-firewall","iptables":false}`, "", "publish-policy respect-host-firewall needs firewall rules"},
		{"", "--icc=maybe", `invalid value for --icc: "maybe" is neither true nor false`},
		{"", "--userland-proxy=no", `invalid value for --userland-proxy: "no" is neither true nor false`},
		{"", "--live-restore=false", "invalid value for --live-restore: it can only be true"},
		{"", "--icc=false --iptables=false", "You specified --iptables=false with --icc=false"},
		{"", "--bip=10.0.0.1", `bip "10.0.0.1" is not an IPv4 address with a prefix length, such as 10.1.0.1/24`},
		{"", "--ipv6 --bip6=10.0.0.1/24", `bip6 "10.0.0.1/24" is not an IPv6 address with a prefix length, such as fd00:1::1/64`},
		{"", "--bip6=fd00::1/64", `bip6 is about IPv6, which the default network has with ipv6 only: add "ipv6": true`},
		{`{"fixed-cidr-v6":"fd00::/64"}`, "", `fixed-cidr-v6 is about IPv6`},
		{"", "--fixed-cidr=fd00::/64", `fixed-cidr "fd00::/64" is not an IPv4 address`},
		{"", "--default-gateway=10.0.0.1/24", `default-gateway "10.0.0.1/24" is not an IPv4 address, such as 10.1.0.1`},
		{"", "--ipv6 --default-gateway-v6=x", `default-gateway-v6 "x" is not an IPv6 address`},
		{"", "-b none --default-gateway=10.0.0.1", "default-gateway is about the default network's bridge"},
		{"", "--default-network-opt=bridge=x", `"bridge=x" is not of the form DRIVER=KEY=VALUE`},
		{"", "--default-network-opt=overlay=a=b", `default-network-opts: driver "overlay" has no default options`},
		{`{"default-network-opts":{"bridge":{"com.docker.network.driver.mtu":"x"}}}`, "", `default-network-opts: invalid value "x"`},
		{`{"default-network-opts":{"bridge":"mtu"}}`, "", `"default-network-opts": must be a map[string]string`},
		{"", "-b none --bip=10.0.0.1/24", "says that there is no bridge"},
		{"", "--default-address-pool=base=10.0.0.0/16,size=8", "default address pool"},
		{"", "--default-address-pool=bass=10.0.0.0/16", `unknown field "bass"`},
		{"", "--log-driver=journald", `log-driver "journald" is not supported`},
		{"", "--log-opt=x", `"x" is not of the form KEY=VALUE`},
		{"", "--log-level=loud", `log-level "loud"`},
		{"", "--label=x", `label "x" is not of the form KEY=VALUE`},
		{"", "--dns=x", `dns "x" is not an address`},
		{"", "--host-gateway-ip=x", `host-gateway-ips: "x" is not an address`},
		{"", "--host-gateway-ip=1.2.3.4 --host-gateway-ip=1.2.3.5", "only one IPv4 and one IPv6 address can be given, not also 1.2.3.5"},
		{`{"host-gateway-ip":["1.2.3.4"]}`, "", `"host-gateway-ip": must be a string`},
		{"", "-H /run/x", `host "/run/x" has no scheme`},
		{"", "-H unix://x", "the path of the socket must be absolute"},
		{"", "-H ssh://x", "unknown scheme"},
		{"", "-H tcp://0.0.0.0:2375", "gives root on this machine to whoever reaches it"},
		{"", "-H tcp://x --tls=false", "is not of the form tcp://ADDRESS:PORT"},
		{"", "--tlsverify", "TLS needs --tlscert and --tlskey"},
		{"", "--tlsverify --tlscert=a --tlskey=b", "--tlsverify needs --tlscacert"},
		{"", "--tlsverify --tls=false", "--tls=false contradicts --tlsverify"},
		{"", "--min-api-version=1.12", "min-api-version \"1.12\" must be from 1.24"},
	} {
		_, err := load(t, c.file, strings.Fields(c.flags)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("file %s flags %s:\n got %v\nwant %s", c.file, c.flags, err, c.want)
		}
	}
	if _, err := Load([]string{"--config-file=/nonexistent/daemon.json"}); err == nil {
		t.Error("a configuration file that was named and is absent is let pass")
	}
}

// Each line of the table has a place in Config, a text, and a name of its own.
func TestSettings(t *testing.T) {
	seen := map[string]bool{}
	c := defaults()
	for _, s := range settings() {
		for _, name := range []string{"--" + s.flag, "-" + s.short, s.key} {
			if strings.Trim(name, "-") != "" && seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
		if s.to(&c) == nil || s.flag != "" && s.help == "" {
			t.Errorf("%s is incomplete", s.flag)
		}
	}
	for _, name := range foreign() {
		if seen["--"+name] || seen[name] {
			t.Errorf("%s is both supported and not", name)
		}
	}
	if a, b := defaults(), defaults(); differing(&a, &b) != nil {
		t.Errorf("two defaults differ in %v", differing(&a, &b))
	}
	d := defaults()
	d.MTU, d.Ulimits = 9000, map[string]container.Ulimit{"core": {Name: "core"}}
	if got := differing(&c, &d); !reflect.DeepEqual(got, []string{"mtu", "default-ulimits"}) {
		t.Errorf("differing: %v", got)
	}
}

func FuzzConfigFile(f *testing.F) {
	f.Add([]byte(`{"debug":true,"log-opts":{"a":1},"default-ulimits":{"core":{"Soft":1}},"proxies":{}}`))
	f.Add([]byte(`{"hosts":null,"live-restore":true,"default-shm-size":"1k"}`))
	f.Fuzz(func(_ *testing.T, data []byte) {
		c := defaults()
		_ = applyFile(&c, data, nil)
	})
}
