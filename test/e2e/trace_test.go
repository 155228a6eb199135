package e2e

import (
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// The drawing names the parts of the way, and what is wrong with it.
func TestNetworkTrace(t *testing.T) {
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`$D run -d --name web -p 127.0.0.1:0:80 -p 127.0.0.1:0:81 berth/box sh -c 'nc -l -p 80 >/got & touch /up; wait'`)
	d.Must(`$D exec web sh -c 'until grep -q ":0050 .* 0A " /proc/net/tcp /proc/net/tcp6; do sleep 0.01; done'`)
	d.Shell(b, `$D network trace web 80`).Exits(0).Shows("in the container  eth0", "bridge            "+d.Bridge, "output: dnat by @published_at: 127.0.0.1 . tcp",
		"listening inside: ", "Nothing was found that keeps packets from arriving.")
	d.Shell(b, `$D network trace web`).Exits(0).Shows("port 80/tcp", "port 81/tcp", "✗ nothing listens on port 81/tcp in the container")
	d.Shell(b, `$D network trace --format json web 81/tcp`).Exits(0).Shows(`"Port": 81`, `"nothing listens on port 81/tcp in the container"`)
	d.Shell(b, `$D network trace web 53/udp`).Exits(0).Shows("port 53/udp", "not published")
	d.Shell(b, `$D network trace --to 192.0.2.7:80 web 80`).Exits(0).Shows("to 192.0.2.7:80/tcp: leaves by eth0; no policy is about it")
	d.Must(`$D update --egress allow=192.0.2.0/24:80/tcp web`)
	d.Shell(b, `$D network trace --to 192.0.2.7:80 web 80`).Exits(0).Shows("the container's own policy: allow=192.0.2.0/24:80/tcp",
		"to 192.0.2.7:80/tcp: leaves by eth0; the container's own policy allows it (@member_allow4)")
	d.Shell(b, `$D network trace --to 192.0.2.7 web 80`).Exits(0).Shows("✗ packets to 192.0.2.7/icmp are refused: the container's own policy has no rule that allows it")
	d.Must(`$D run -d --name hosts --network host berth/box sleep 1000; $D create --name still berth/box true`)
	for line, text := range map[string]string{
		`$D network trace nobody`:             "No such container: nobody",
		`$D network trace still`:              "is not running",
		`$D network trace hosts`:              "no network of Berth's",
		`$D network trace web 70000`:          "invalid port",
		`$D network trace web 80/x`:           "invalid port",
		`$D network trace --format yaml web`:  "invalid --format",
		`$D network trace --to 1.2.3.4:x web`: "invalid destination",
	} {
		d.Shell(b, line).Exits(1).Complains(text)
	}
}
