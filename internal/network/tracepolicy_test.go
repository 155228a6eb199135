package network

import (
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// TestTracePolicies: a trace shows the policies, what names have opened, and what they say about a destination.
func TestTracePolicies(t *testing.T) {
	w := newWorld(t)
	n := w.n
	w.says("a.example", "10.213.251.2")
	network1(t, n, CreateRequest{Name: "few", Options: map[string]string{OptionEgress: "allow=10.213.251.0/24 allow=*.example deny=10.213.251.7"}})
	r := AttachRequest{ContainerID: newID(), Name: "c", Endpoints: egressOn("few", "allow=10.213.251.1 allow=a.example:80-81 allow=10.213.252.0/24"),
		DNS: []string{outsideAddr}}
	a := attach(t, n, r)
	neighbour := attach(t, n, on("few"))
	pid := sleeper(t, n, a.NetNS)
	ask := func(to string) (lines string, v *Trace) {
		t.Helper()
		d, err := ParseDestination(to)
		must(t, err)
		v, err = n.Trace(t.Context(), TraceRequest{ContainerID: r.ContainerID, Pid: pid, NetNS: a.NetNS, To: &d})
		must(t, err)
		return strings.Join(v.To, "\n"), v
	}
	says := func(to string, problems int, texts ...string) {
		t.Helper()
		lines, v := ask(to)
		for _, text := range texts {
			if !strings.Contains(lines+strings.Join(v.Problems, "\n"), text) {
				t.Errorf("%s: %q is not said: %s %q", to, text, lines, v.Problems)
			}
		}
		if len(v.Problems) != problems {
			t.Errorf("%s: %q, want %d problems", to, v.Problems, problems)
		}
	}
	says("10.213.251.1:80", 0, "10.213.251.1:80/tcp: leaves by eth0; the policy of network few allows it (@network_allow4)",
		"the container's own policy allows it (@member_allow4)")
	says("10.213.251.2:80", 1, "the container's own policy has no rule that allows it", "packets to 10.213.251.2:80/tcp are refused")
	says("10.213.251.7:80/udp", 2, "network few denies it (@network_deny4)")
	says("10.213.252.1", 1, "10.213.252.1/icmp: leaves by eth0; the policy of network few has no rule that allows it")
	says(neighbour.Endpoints[0].IPv4.Addr().String()+":80", 0, "on the container's own network")
	says("a.example:80", 0, "has not asked for the name")
	says("evil.test:80", 1, "no policy of the container's networks means the name evil.test")
	if got := w.asks(t, a, "a.example", mdns.TypeA); got != "10.213.251.2" {
		t.Fatal(got)
	}
	says("a.example:80", 0, "10.213.251.2:80/tcp: leaves by eth0; the policy of network few allows it (@network_allow4)",
		"the container's own policy allows it for as long as a name stands for it")
	says("a.example:443", 1, "the container's own policy has no rule that allows it")
	_, v := ask("10.213.251.1:80")
	rules := strings.Join(v.Endpoints[0].Rules, "\n")
	for _, text := range []string{"network4, network6: the policy of network few: allow=10.213.251.0/24", "the container's own policy: allow=10.213.251.1,",
		"@member_names4: 10.213.251.2 is open by a.example for ", "@network_addresses4: 10.213.251.2 is open by a.example"} {
		if !strings.Contains(rules, text) {
			t.Errorf("%q is not said: %s", text, rules)
		}
	}
	must(t, n.changes.Close()) // nobody brings it back
	nft(t, "flush", "set", "inet", n.tableName(), "members4")
	if _, v = ask("10.213.251.1:80"); len(v.Problems) != 1 || !strings.Contains(v.Problems[0], `the set "members4" of firewall table inet`) {
		t.Errorf("an element is gone: %q", v.Problems)
	}
	nft(t, "delete", "table", "inet", n.tableName())
	if _, v = ask("10.213.251.1:80"); len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "family inet is gone") {
		t.Errorf("the table is gone: %q", v.Problems)
	}
}

var badDestinations = []string{"", ":", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4/x", "1.2.3.4/tcp", "1.2.3.4:80/icmp", "*.example:80",
	"fe80::1%lo", "[::1", "[::1]80", "10.0.0.0/8", "a..b:80"}

func TestParseDestination(t *testing.T) {
	for text, want := range map[string]string{"1.2.3.4:80": "1.2.3.4:80/tcp", "1.2.3.4": "1.2.3.4/icmp", "[::1]:53/udp": "[::1]:53/udp", "::1": "::1/icmp",
		"::ffff:1.2.3.4": "1.2.3.4/icmp", "Example.COM.:443": "example.com:443/tcp", "a.b/icmp": "a.b/icmp", "1.2.3.4:9/sctp": "1.2.3.4:9/sctp"} {
		if d, err := ParseDestination(text); err != nil || d.String() != want {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
	for _, text := range badDestinations {
		if d, err := ParseDestination(text); err == nil {
			t.Errorf("%q is taken as %v", text, d)
		}
	}
}

// FuzzParseDestination: what is taken can be written and read again.
func FuzzParseDestination(f *testing.F) {
	for _, s := range append(badDestinations, "1.2.3.4:80", "[fd00::1]:443/udp", "example.com:53") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDestination(text)
		if err != nil {
			return
		}
		if again, err := ParseDestination(d.String()); err != nil || again != d {
			t.Fatalf("%q is %q, which is %+v, %v", text, d, again, err)
		}
	})
}
