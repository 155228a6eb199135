package network

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// golden compares got with testdata/<name>, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update writes it):\n%s", path, got)
	}
}

func TestRenderResolvConf(t *testing.T) {
	host := ResolvConf{Nameservers: []string{"192.0.2.53", "2001:db8::53"}, Search: []string{"lan", "example.org"}, Options: []string{"edns0", "trust-ad"}}
	four := &Attachment{Endpoints: []EndpointState{{IPv4: netip.MustParsePrefix("172.17.0.2/16")}}}
	six := &Attachment{Endpoints: []EndpointState{{IPv6: netip.MustParsePrefix("fd00::2/64")}}}
	inner := &Attachment{Resolvers: []string{"127.0.0.11"}}
	for name, c := range map[string]struct {
		chosen ResolvConf
		at     *Attachment
	}{
		"host-network":  {ResolvConf{}, nil},
		"ipv4":          {ResolvConf{}, four},
		"ipv6":          {ResolvConf{}, six},
		"dns":           {ResolvConf{Nameservers: []string{"9.9.9.9", "2620:fe::fe"}}, four},
		"search":        {ResolvConf{Search: []string{"a.example", "b.example"}}, four},
		"no-search":     {ResolvConf{Search: []string{"."}}, four},
		"options":       {ResolvConf{Options: []string{"ndots:2"}}, four},
		"own-resolver":  {ResolvConf{Nameservers: []string{"9.9.9.9"}, Search: []string{"x"}}, inner},
		"everything":    {ResolvConf{[]string{"9.9.9.9"}, []string{"x"}, []string{"rotate", "timeout:1"}}, six},
		"only-ipv6-dns": {ResolvConf{}, four},
	} {
		t.Run(name, func(t *testing.T) {
			h := host
			if name == "only-ipv6-dns" {
				h.Nameservers = h.Nameservers[1:]
			}
			golden(t, name+".resolv.conf", renderResolvConf(h, c.chosen, c.at))
		})
	}
	if !slices.Equal(host.Nameservers, []string{"192.0.2.53", "2001:db8::53"}) || !slices.Equal(host.Search, []string{"lan", "example.org"}) {
		t.Errorf("the host's configuration was changed: %+v", host)
	}
}

func TestParseResolvConf(t *testing.T) {
	got := ParseResolvConf([]byte("# comment\n; another\nnameserver 192.0.2.1 # with a comment\ndomain gone\nsearch a b\n" +
		"nameserver fe80::1%eth0\nnameserver\noptions ndots:1\n options edns0 rotate \nsortlist 1.2.3.4\nnameserver 127.0.0.53"))
	want := ResolvConf{[]string{"192.0.2.1", "fe80::1%eth0", "127.0.0.53"}, []string{"a", "b"}, []string{"ndots:1", "edns0", "rotate"}}
	if !slices.Equal(got.Nameservers, want.Nameservers) || !slices.Equal(got.Search, want.Search) || !slices.Equal(got.Options, want.Options) {
		t.Errorf("%+v", got)
	}
	for server, want := range map[string]bool{"192.0.2.1": true, "127.0.0.53": false, "::1": false, "fe80::1%eth0": false, "0.0.0.0": false, "x": false, "2001:db8::1": true} {
		if reachable(server) != want {
			t.Errorf("%s reachable: %v", server, !want)
		}
	}
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\nsearch a b\noptions x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := ParseResolvConf(b)
		for _, list := range [][]string{c.Nameservers, c.Search, c.Options} {
			for _, s := range list {
				if s == "" || strings.ContainsAny(s, " \n\t") {
					t.Errorf("%q", s)
				}
			}
		}
		again := ParseResolvConf(renderResolvConf(c, ResolvConf{}, nil))
		if !slices.Equal(again.Nameservers, c.Nameservers) || !slices.Equal(again.Options, c.Options) {
			t.Errorf("%+v became %+v", c, again)
		}
	})
}

func TestRenderHosts(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("fd00::2")}
	extra := []Host{{netip.MustParseAddr("10.0.0.9"), []string{"db", "db.lan"}}}
	golden(t, "container.hosts", RenderHosts([]string{"web.example.org", "web"}, own, extra))
	golden(t, "nameless.hosts", RenderHosts([]string{""}, own, nil))
	golden(t, "host-network.hosts", AppendHosts([]byte("127.0.0.1 localhost"), extra))
}

// FuzzKernelMessages feeds what a kernel would not send.
func FuzzKernelMessages(f *testing.F) {
	var r requests
	r.add(veth{host: "a", inner: "b", mac: make([]byte, 6), hairpin: true})
	f.Add(r.buf)
	f.Fuzz(func(t *testing.T, b []byte) {
		transactionEnd(b, []uint32{1})
		if len(b) >= 20 {
			_ = parseAck(b, 0)
		}
	})
}

// FuzzRecord reads damaged records.
func FuzzRecord(f *testing.F) {
	id := strings.Repeat("a", 64)
	f.Add([]byte(`{"version":1,"id":"` + id + `","name":"x","driver":"bridge","ipv4":true,"link":"br-x","subnets":[{"prefix":"10.1.0.0/24","gateway":"10.1.0.1"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "r.json")
		must(t, os.WriteFile(path, b, 0o600))
		r, err := readRecord(path, id)
		if err != nil || r.Driver != driverBridge {
			return
		}
		a := newAddresses(r.Subnets)
		for range 3 {
			_, _, _ = a.take(false, netip.Addr{}, "x")
			_, _, _ = a.take(true, netip.Addr{}, "x")
		}
	})
}

func TestMoveHosts(t *testing.T) {
	hosts := "127.0.0.1\tlocalhost\n10.0.0.2\tdb host\n# 10.0.0.9 db host\nbad db host\n10.0.0.3\tdb\nfe80::1 db  host"
	to := netip.MustParseAddr("10.0.0.7")
	want := "127.0.0.1\tlocalhost\n10.0.0.7\tdb host\n# 10.0.0.9 db host\nbad db host\n10.0.0.3\tdb\n10.0.0.7\tdb host\n"
	got := string(MoveHosts([]byte(hosts), []string{"db", "host"}, to))
	if got != want {
		t.Errorf("%q", got)
	}
	if again := string(MoveHosts([]byte(got), []string{"db", "host"}, to)); again != got {
		t.Errorf("the second time: %q", again)
	}
}
