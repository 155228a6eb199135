package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestCNI: networks that are CNI configurations of the host's: Debian's plugins bridge, portmap and firewall, and a plugin of
// the test's own that fails.
func TestCNI(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "/usr/lib/cni/bridge", "ip")
	if !harness.OnAnotherHost(t) { // Debian's plugins leave chains and tables behind for the next container
		return
	}
	conf, bin := t.TempDir(), t.TempDir()
	d := harness.Start(t, harness.Options{Args: []string{"--cni-conf-dir", conf, "--cni-bin-dir", bin, "--cni-bin-dir", "/usr/lib/cni"}})
	link := d.Bridge + "c"
	t.Cleanup(func() { d.Shell(d.Berth(), `ip link del `+link+` 2>/dev/null; true`) })
	third := strings.TrimSuffix(strings.TrimSuffix(d.Subnet, "/24"), ".1")
	i := strings.LastIndexByte(third, '.')
	subnet := "10.253." + third[i+1:]
	files := map[string]string{
		"10-pods.conflist": `{"cniVersion":"1.0.0","name":"` + d.Bridge + `","plugins":[
			{"type":"bridge","bridge":"` + link + `","isGateway":true,"hairpinMode":true,"ipam":{"type":"host-local","dataDir":"` + bin + `/data",
			 "ranges":[[{"subnet":"` + subnet + `.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
			{"type":"portmap","capabilities":{"portMappings":true},"snat":true},{"type":"firewall","backend":"iptables"}]}`,
		"20-bad.conflist":  `{"cniVersion":"1.0.0","name":"bad","plugins":[{"type":"refuses"}]}`,
		"30-gone.conflist": `{"cniVersion":"1.0.0","name":"gone","plugins":[{"type":"nosuch"}]}`,
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(conf, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := "#!/bin/sh\ncase $CNI_COMMAND in\nVERSION) echo '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"1.0.0\"]}';;\n" +
		"ADD) echo '{\"code\":100,\"msg\":\"no cable\"}'; exit 1;;\nesac\n"
	if err := os.WriteFile(filepath.Join(bin, "refuses"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("{conf}", d.Bridge, "{subnet}", subnet)
	run := func(steps ...step) {
		t.Helper()
		for i := range steps {
			steps[i].line, steps[i].out = fill.Replace(steps[i].line), fill.Replace(steps[i].out)
		}
		obey(t, d, d.Berth(), steps)
	}
	run(
		step{line: `$D network create -d cni nothing`, code: 1, err: `no CNI configuration "nothing" in ` + conf},
		step{line: `$D network create -d cni gone`, code: 1, err: `no plugin "nosuch" in ` + bin + `, /usr/lib/cni: install it there, or name the directory that has it in cni-bin-dir`},
		step{line: `$D network create -d cni --internal -o conf={conf} pods`, code: 1, err: `takes no --internal: its CNI configuration decides that`},
		step{line: `$D network create -d cni -o conf={conf} pods >/dev/null && $D network inspect -f '{{.Driver}} {{.Options.conf}} {{len .IPAM.Config}}' pods`, out: "cni {conf} 0\n"},
		step{line: `$D network create -d cni bad >/dev/null && $D run --name refused --network bad berth/box true`, code: 125,
			err: `CNI configuration "bad": plugin type="refuses" failed (add): no cable`},
		step{line: `$D network rm bad && $D rm refused >/dev/null`, out: "bad\n"},
		step{line: `$D run -d --name web --network pods -p 127.0.0.1::80 berth/box sh -c 'while :; do echo web | nc -l -p 80; done' | wc -c`, out: "65\n"},
		step{line: `$D inspect -f '{{.NetworkSettings.Networks.pods.Gateway}} {{.NetworkSettings.Networks.pods.IPPrefixLen}}' web`, out: "{subnet}.1 24\n"},
		step{line: `[ "$($D exec web ip addr show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')" = "$($D inspect -f '{{.NetworkSettings.Networks.pods.IPAddress}}' web)" ] && echo same`, out: "same\n"},
		step{line: `$D run --rm --network pods berth/box sh -c '` + soon(`nc web 80 </dev/null`) + `'`, out: "web\n"},
		step{line: soon(`curl -s -m 10 telnet://$($D port web 80) </dev/null`), out: "web\n"},
		step{line: `$D run --rm --network pods --mac-address 02:00:00:00:00:31 berth/box true`, code: 125, err: `cannot give a MAC address that was asked for`},
		step{line: `$D run -d --name late berth/box sleep 1000 | wc -c; $D network connect --alias tardy pods late && $D exec late sh -c '` + soon(`nc web 80 </dev/null`) + `'`, out: "65\nweb\n"},
		step{line: `$D exec web ping -c 1 -W 5 tardy >/dev/null && echo up`, out: "up\n"},
		step{line: `$D network disconnect pods late && $D exec late ip link | grep -c eth1`, code: 1, out: "0\n"},
		step{line: `$D network rm pods`, code: 1, err: "has active endpoints"},
	)
	if t.Failed() {
		return
	}
	// A container ends while no daemon is there, another one lives on.
	d.Must(`$D run -d --name ends --network pods --stop-timeout 0 berth/box sleep 1000`)
	pid := strings.TrimSpace(d.Must(`$D inspect -f '{{.State.Pid}}' ends`))
	d.Kill()
	d.Shell(d.Berth(), `kill -9 `+pid).Exits(0)
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	run(
		step{line: `$D run --rm --network pods berth/box sh -c '` + soon(`nc web 80 </dev/null`) + `'`, out: "web\n"},
		step{line: soon(`curl -s -m 10 telnet://$($D port web 80) </dev/null`), out: "web\n"},
		step{line: `$D restart -t 0 web && $D run --rm --network pods berth/box sh -c '` + soon(`nc web 80 </dev/null`) + `'`, out: "web\nweb\n"},
		step{line: `$D rm -f web late ends | sort | tr '\n' ' '; $D network rm pods`, out: "ends late web pods\n"},
		step{line: `ls ` + bin + `/data/{conf} | grep -c '^{subnet}'`, code: 1, out: "0\n"},
		step{line: `iptables-save | grep -c {subnet}`, code: 1, out: "0\n"},
	)
}
