package e2e

import (
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// soon is a line that is tried again for a minute and more: a server that takes one connection at a time is not always there.
func soon(line string) string {
	return `i=0; until ` + line + `; do i=$((i+1)); [ $i -le 600 ] || break; sleep 0.1; done`
}

// TestLegacyIPTables: a daemon as on a kernel without nftables. Its rules are those of iptables-legacy, and of nobody else's.
func TestLegacyIPTables(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "iptables-legacy-restore", "curl")
	d := harness.Start(t, harness.Options{Args: []string{"--firewall-backend", "iptables"}})
	port := harness.FreePort(t)
	run := func(steps ...step) {
		t.Helper()
		fill := strings.NewReplacer("{bridge}", d.Bridge, "{port}", port)
		for i := range steps {
			steps[i].line, steps[i].out = fill.Replace(steps[i].line), fill.Replace(steps[i].out)
		}
		obey(t, d, d.Berth(), steps)
	}
	run(
		step{line: `$D info | grep -A 1 'Firewall Backend'`, out: "~iptables"},
		step{line: `$D info 2>&1`, out: "~containers of one network can pretend to be each other"},
		step{line: `$D network create --egress default=deny shut`, code: 1, err: `needs nftables, and the rules here are iptables' (firewall-backend iptables)`},
		step{line: `$D run --rm --egress default=deny berth/box true`, code: 125, err: `needs nftables, and the rules here are iptables' (firewall-backend iptables)`},
		step{line: `$D network create a >/dev/null; $D network create b >/dev/null; $D network create --internal in >/dev/null; echo made`, out: "made\n"},
		step{line: `$D run -d --name web --network a -p {port}:80 -p 127.0.0.1::81 berth/box sh -c 'while :; do echo web | nc -l -p 80; done & while :; do echo near | nc -l -p 81; done' | wc -c`, out: "65\n"},
		step{line: soon(`curl -s -m 10 telnet://127.0.0.1:{port} </dev/null`), out: "web\n"},
		step{line: soon(`curl -s -m 10 telnet://$($D port web 81) </dev/null`), out: "near\n"},
		step{line: `$D run --rm --network a berth/box sh -c '` + soon(`nc web 80 </dev/null`) + `'`, out: "web\n"},
		step{line: `gw=$($D network inspect -f '{{(index .IPAM.Config 0).Gateway}}' b); $D run --rm --network b berth/box sh -c '` + soon(`nc '$gw' {port} </dev/null`) + `'`, out: "web\n"},
		step{line: `ip=$($D inspect -f '{{.NetworkSettings.Networks.a.IPAddress}}' web); $D run --rm --network b berth/box sh -c "nc -w 1 $ip 80 </dev/null; echo code \$?"`, out: "code 1\n"},
		step{line: `iptables-legacy-save | grep -c -- "-A FORWARD -j BERTH-[A-Z]*-{bridge}"`, out: "2\n"},
		step{line: `nft list tables | grep -c berth-{bridge}`, code: 1, out: "0\n"},
	)
	if t.Failed() {
		return
	}
	d.Kill()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	run(
		step{line: soon(`curl -s -m 10 telnet://127.0.0.1:{port} </dev/null`), out: "web\n"},
		step{line: `iptables-legacy-save | grep -c -- "-A FORWARD -j BERTH-[A-Z]*-{bridge}"`, out: "2\n"},
		step{line: `$D network trace web`, out: "~--dport {port} -j DNAT"},
		step{line: `$D rm -f web; $D network rm a b in`, out: "web\na\nb\nin\n"},
		step{line: `iptables-legacy-save | grep -c -- "--dport {port}"`, code: 1, out: "0\n"},
	)
	d.Stop()
	for _, p := range []string{"iptables", "ip6tables"} {
		if r := d.Shell(d.Berth(), p+`-legacy-save`); strings.Contains(r.Out, d.Bridge) {
			t.Errorf("left behind:\n%s", r.Out)
		}
	}
}
