package e2e

import (
	"bufio"
	"net"
	"strconv"
	"testing"
	"time"
)

// relay: the host's addresses of IPv6 lead to containers that have IPv4 only, with and without the daemon.
func (s *scene) relay(t *testing.T) {
	const gateway = `$($D inspect -f '{{.NetworkSettings.Networks.n.Gateway}}' four)`
	s.obey(t,
		step{line: `$D run -d --name four --network n -p {p0}:80 -p {p1}:5353/udp -p {p2}:7 -p '[::1]:{p3}:80' -p 127.0.0.1:{p4}:80 net | wc -c; $D port four 80; $D port four 5353/udp`,
			out: "65\n0.0.0.0:{p0}\n[::]:{p0}\n[::1]:{p3}\n127.0.0.1:{p4}\n0.0.0.0:{p1}\n[::]:{p1}\n"},
		step{line: `$D ps --filter name=four --format '{{.Ports}}' | tr , '\n' | grep -c ':{p0}->80/tcp'`, out: "2\n"},
		step{line: `$D exec four sh -c 'until curl -s -o /dev/null http://127.0.0.1/; do sleep 0.1; done'; $D exec -d four dnsmasq -u root -p 5353 --no-resolv --no-hosts --address=/u.test/192.0.2.9`},
		step{line: `$D exec -d four sh -c 'mkfifo /back; nc -l -p 7 <>/back >/back'; $D exec four sh -c 'until grep -q :0007 /proc/net/tcp; do sleep 0.1; done'`},
		// By IPv6 the container sees its bridge, by IPv4 the client as before.
		step{line: `$D exec out curl -6 -s http://[{host6}]:{p0}/ | grep -c -x ` + gateway + `; curl -6 -s http://[::1]:{p0}/ http://[{host6}]:{p0}/ http://[::1]:{p3}/ | grep -c -x ` + gateway, out: "1\n3\n"},
		step{line: `$D exec out curl -4 -s http://{host}:{p0}/`, out: "{out}\n"},
		step{line: `$D exec out curl -6 -s -m 60 http://[{host6}]:{p3}/`, code: 7},
		step{line: `curl -6 -s -m 60 http://[::1]:{p4}/`, code: 7},
		// The answer comes from the address that was asked.
		step{line: `until $D exec out dig +short +time=1 +tries=1 @{host6} -p {p1} u.test; do sleep 0.1; done`, out: "~192.0.2.9\n$"},
		step{line: `$D run --rm --network host net dig +short +time=5 @::1 -p {p1} u.test`, out: "192.0.2.9\n"},
		step{line: `$D network trace four 80 | grep -c 'relay: the process berth-keeper listens on \[::\]:{p0}/tcp'`, out: "1\n"},
		step{line: `$D run --rm -p '[::]:{p0}:80' net true`, code: 125, err: "port is already allocated"},
		step{line: `$D run --rm --network host net nc -6 -l -p {p0}`, code: 1, err: "already in use"},
	)
	defer func() {
		if t.Failed() {
			s.obey(t, step{line: `$D rm -f four`, out: "four\n"}) // whose ports the next part has
		}
	}()
	if t.Failed() {
		return
	}
	c, err := net.DialTimeout("tcp", net.JoinHostPort("::1", strconv.Itoa(s.port+2)), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lines := bufio.NewReader(c)
	goesOn := func(when string) {
		t.Helper()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := c.Write([]byte(when + "\n")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if got, err := lines.ReadString('\n'); err != nil || got != when+"\n" {
			t.Fatalf("%s: %q, %v", when, got, err)
		}
	}
	goesOn("with the daemon")
	s.d.Kill()
	goesOn("without it")
	s.obey(t, step{line: `curl -6 -s http://[::1]:{p0}/ | wc -l`, out: "1\n"})
	if err := s.d.Launch(); err != nil {
		t.Fatal(err)
	}
	goesOn("with the next one")
	s.obey(t,
		step{line: `$D port four 80 | wc -l; curl -6 -s http://[::1]:{p0}/ | grep -c -x ` + gateway, out: "4\n1\n"},
		// Off the network nobody is reached, and with a network that has IPv6 the rules do it: the client is seen.
		step{line: `$D network disconnect n four; curl -6 -s -m 60 http://[::1]:{p0}/`, code: 7},
		step{line: `$D network create --ipv6 relay6 >/dev/null; $D network connect n four; $D network connect relay6 four; $D exec out sh -c 'until curl -6 -s http://[{host6}]:{p0}/; do sleep 0.1; done'`, out: "{out6}\n"},
		step{line: `$D network disconnect relay6 four; $D exec out curl -6 -s http://[{host6}]:{p0}/ | grep -c -x ` + gateway, out: "1\n"},
		step{line: `$D update --publish-rm {p0}:80 --publish-add {p5}:80 four; curl -6 -s http://[::1]:{p5}/ | wc -l; curl -6 -s -m 60 http://[::1]:{p0}/`, code: 7, out: "four\n1\n"},
		step{line: `$D rm -f four; $D network rm relay6; curl -6 -s -m 60 http://[::1]:{p5}/`, code: 7, out: "four\nrelay6\n"},
	)
}
