package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestNetworkPrograms: what Docker documents of its networks, asked of Debian's programs: curl and nginx, dig and dnsmasq,
// nc, iperf3, in containers and on a host outside.
func TestNetworkPrograms(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "mmdebstrap", "ip")
	archive := debianWithPrograms(t)
	s := &scene{d: harness.Start(t)}
	s.build(t, archive)
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"names", s.names}, {"closed", s.closed}, {"ports", s.ports}, {"relay", s.relay}, {"ipv6", s.ipv6}, {"gateway modes", s.gatewayModes},
		{"throughput", s.throughput}, {"restarts", s.restarts}, {"options", s.options}, {"others", s.others}, {"management", s.management},
	} {
		t.Run(part.name, part.run)
	}
	s.d.Shell(s.d.Berth(), `$D rm -f $($D ps -aq) >/dev/null; $D network prune -f >/dev/null; $D rmi net >/dev/null`).Exits(0)
}

// debianWithPrograms makes the archive of a Debian with the programs, once.
func debianWithPrograms(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	archive := filepath.Join(cache, "berth-test", "debian-12-network.tar")
	if _, err := os.Stat(archive); err == nil {
		return archive
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(filepath.Dir(archive), "part-debian-12-network.tar")
	t.Cleanup(func() { os.Remove(part) })
	const programs = "iperf3,curl,bind9-dnsutils,netcat-openbsd,nginx-light,iproute2,iputils-ping,iputils-arping,apache2-utils,dnsmasq-base"
	mmdebstrap(t, "bookworm", part, "--include="+programs)
	if err := os.Rename(part, archive); err != nil {
		t.Fatal(err)
	}
	return archive
}

// scene is a machine with a neighbour: the container "out" has no network of the engine's, but a cable to the host.
type scene struct {
	d *harness.Daemon
	// host and out are the addresses of the two ends of the cable, port the first of ten that nobody uses.
	host4, out4, host6, out6 string
	port                     int
}

// fill puts the scene's addresses and ports into lines: {host} {out} {host6} {out6}, {block} without the last number, {p0} to {p9},
// and {cable}, the host's end of it.
func (s *scene) fill(text string) string {
	pairs := []string{"{host}", s.host4, "{out}", s.out4, "{host6}", s.host6, "{out6}", s.out6, "{cable}", s.d.Bridge + "o",
		"{block}", strings.TrimSuffix(s.host4, "1")}
	for i := range 10 {
		pairs = append(pairs, "{p"+strconv.Itoa(i)+"}", strconv.Itoa(s.port+i))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

func (s *scene) obey(t *testing.T, steps ...step) {
	t.Helper()
	for i := range steps {
		steps[i].line, steps[i].out = s.fill(steps[i].line), s.fill(steps[i].out)
	}
	obey(t, s.d, s.d.Berth(), steps)
}

func (s *scene) build(t *testing.T, archive string) {
	t.Helper()
	tag, err := strconv.ParseUint(strings.TrimPrefix(s.d.Bridge, "bt"), 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	block := fmt.Sprintf("198.19.%d.", tag%256)
	block6 := fmt.Sprintf("fd19:%x:%x::", tag>>16, tag&0xffff)
	s.host4, s.out4, s.host6, s.out6 = block+"1", block+"2", block6+"1", block6+"2"
	s.port = 20000 + int(tag%1000)*10
	cable := s.d.Bridge + "o"
	const site = `server { listen 80; listen 81; listen [::]:80; location / { return 200 "$remote_addr\n"; } }`
	s.obey(t,
		step{line: `$D import ` + archive + ` net >/dev/null && $D run --name prep net sh -c 'echo '"'"'` + site + `'"'"' >/etc/nginx/sites-enabled/default' && $D commit -c 'CMD ["nginx","-g","daemon off;"]' prep net >/dev/null && $D rm prep`, out: "prep\n"},
		step{line: `$D run -d --name out --network none net >/dev/null; ip link add ` + cable + ` type veth peer name up0 netns $($D inspect -f '{{.State.Pid}}' out)`},
		step{line: `ip addr add {host}/24 dev ` + cable + `; ip -6 addr add {host6}/64 dev ` + cable + ` nodad; ip link set ` + cable + ` up`},
		step{line: `$D exec --privileged out sh -c 'echo 0 >/proc/sys/net/ipv6/conf/up0/disable_ipv6; ip addr add {out}/24 dev up0; ip -6 addr add {out6}/64 dev up0 nodad; ip link set up0 up'`},
		// Records longer than a datagram without EDNS, and a log of who asked for what.
		step{line: `long=$(printf '%0250d' 0); $D exec -d out dnsmasq -k -u root --no-resolv --no-hosts --log-queries --log-facility=/asked --address=/example.test/192.0.2.80 --txt-record=big.test,$long,$long,$long`},
		step{line: `$D exec -d out iperf3 -s`},
		step{line: `until $D exec out sh -c 'dig +short @127.0.0.1 up.example.test && curl -s 127.0.0.1 && nc -z 127.0.0.1 5201' >/dev/null 2>&1; do sleep 0.1; done`},
	)
	if t.Failed() {
		t.FailNow()
	}
}

func (s *scene) names(t *testing.T) {
	const ip = `$($D inspect -f '{{.NetworkSettings.Networks.n.IPAddress}}' web)`
	s.obey(t,
		step{line: `$D network create n | wc -c; $D run -d --name web --hostname harbour --network n --network-alias site net | wc -c; $D run -d --name web2 --network n --network-alias site net | wc -c`, out: "65\n65\n65\n"},
		step{line: `$D run -d --name cli --network n --dns {out} net sleep 1000 | wc -c`, out: "65\n"},
		step{line: `[ "$($D exec cli dig +short web)" = ` + ip + ` ] && echo same`, out: "same\n"},
		step{line: `[ "$($D exec cli dig +short $($D inspect -f '{{.Id}}' web | cut -c 1-12))" = ` + ip + ` ] && echo same`, out: "same\n"},
		step{line: `[ "$($D exec cli dig +short web.n)" = ` + ip + ` ] && echo same`, out: "same\n"},
		step{line: `[ "$($D exec cli dig +short harbour)" = ` + ip + ` ] && echo same`, out: "same\n"},
		step{line: `[ "$($D exec cli dig +short WEB.)" = ` + ip + ` ] && echo same`, out: "same\n"},
		step{line: `[ "$($D exec cli dig +tcp +short web)" = ` + ip + ` ] && echo same`, out: "same\n"},
		step{line: `$D exec cli dig +short site | sort -u | wc -l`, out: "2\n"},
		step{line: `$D exec cli sh -c 'for i in $(seq 30); do dig +short site | head -n 1; done | sort -u | wc -l'`, out: "2\n"},
		step{line: `$D exec cli dig +short -x ` + ip, out: "web.n.\n"},
		step{line: `$D exec cli getent hosts ` + ip, out: `~ web\.n\n$`},
		step{line: `$D exec cli dig web AAAA | grep -c 'status: NOERROR.*\|ANSWER: 0'`, out: "2\n"},
		step{line: `$D exec cli dig +bufsize=1232 web | grep -c 'EDNS: version: 0'`, out: "1\n"},
		step{line: `$D exec cli dig +noedns web | grep -c EDNS`, code: 1, out: "0\n"},
		step{line: `$D exec cli curl -s http://web/ http://site/ | sort -u | wc -l`, out: "1\n"},
		step{line: `$D exec cli dig @127.0.0.11 -t ANY +short +notcp web2 | head -c 1; $D exec cli dig nobody | grep -c 'status: \(NXDOMAIN\|REFUSED\|SERVFAIL\)'`, out: "~1\n$"},

		// What others know: by UDP, by TCP where the answer is too long, by UDP again with EDNS.
		step{line: `$D exec cli dig +short name.example.test`, out: "192.0.2.80\n"},
		step{line: `$D exec cli dig +noedns TXT big.test | grep -c 'Truncated, retrying in TCP mode'`, out: "1\n"},
		step{line: `$D exec cli dig +noedns +short TXT big.test | wc -c`, out: "759\n"},
		step{line: `$D exec cli dig +bufsize=1232 +ignore TXT big.test | grep -c 'flags:[^;]* tc'`, code: 1, out: "0\n"},
		step{line: `$D exec cli dig +bufsize=1232 +ignore +short TXT big.test | wc -c`, out: "759\n"},
		step{line: `$D exec cli curl -s --resolve x:80:{out} http://x/`, out: "{host}\n"},

		// Options of the resolver.
		step{line: `$D run --rm --network n --dns {out} --dns-search example.test --dns-option ndots:2 net sh -c 'grep -c "search example.test" /etc/resolv.conf; grep -c "ndots:2" /etc/resolv.conf; getent hosts short; getent hosts a.b'`,
			out: "~^1\n1\n192.0.2.80 +short.example.test\n192.0.2.80 +a.b.example.test\n$"},
		step{line: `$D run --rm --dns {out} --dns-search example.test net sh -c 'grep nameserver /etc/resolv.conf; getent hosts short'`, out: "~^nameserver {out}\n192.0.2.80 "},
		step{line: `$D run --rm --network n --dns {out} --dns-search . net grep -c search /etc/resolv.conf`, code: 1, out: "0\n"},

		// Names of our own never left.
		step{line: `$D exec out grep -c 'name.example.test' /asked`, out: "~^[1-9]"},
		step{line: `$D exec out grep -cw 'site\|web\|web2\|web.n' /asked`, code: 1, out: "0\n"},
		// A container that is gone is asked of others again.
		step{line: `$D rm -f web2 >/dev/null; $D exec cli dig +short site | wc -l`, out: "1\n"},
	)
}

func (s *scene) closed(t *testing.T) {
	s.obey(t,
		step{line: `$D network create --internal in | wc -c; $D run -d --name inner --network in net | wc -c; $D run -d --name closed --network in --dns {out} net sleep 1000 | wc -c`, out: "65\n65\n65\n"},
		step{line: `until $D exec inner curl -s http://127.0.0.1/ >/dev/null; do sleep 0.1; done`},
		step{line: `$D exec closed curl -s http://inner/ | grep -c .`, out: "1\n"},
		step{line: `$D exec closed dig leak.example.test | grep -c 'status: NXDOMAIN'`, out: "1\n"},
		step{line: `$D exec closed dig +tcp leak.example.test | grep -c 'status: NXDOMAIN'`, out: "1\n"},
		step{line: `$D exec closed curl -s -m 60 http://{out}/`, code: 7},
		step{line: `$D exec --privileged closed sh -c 'ip route add default via $(ip -4 route | sed -n "s,\([0-9.]*\)\.0/.*,\1.1,p") && curl -s -m 2 http://{out}/'`, code: 28},
		step{line: `$D exec closed dig +time=1 +tries=1 @{out} leak.example.test >/dev/null`, code: 9},
		step{line: `$D exec out grep -c leak /asked`, code: 1, out: "0\n"},
		step{line: `$D exec cli curl -s -m 2 http://$($D inspect -f '{{.NetworkSettings.Networks.in.IPAddress}}' inner)/`, code: 28},
	)
}

func (s *scene) ports(t *testing.T) {
	s.obey(t,
		step{line: `$D run -d --name pub --network n -p {p0}:80 -p 127.0.0.1:{p1}:80 -p {host}:{p2}:80 -p {p3}-{p4}:80 -p 80 -p {p5}-{p6}:80-81 -p {p7}:99/sctp net | wc -c`, out: "65\n"},
		step{line: `until $D exec pub curl -s http://127.0.0.1/ >/dev/null; do sleep 0.1; done; $D port pub 99/sctp; $D port pub 81`, out: "0.0.0.0:{p7}\n0.0.0.0:{p6}\n[::]:{p6}\n"},
		// From outside, with the address it comes from.
		step{line: `$D exec out curl -s http://{host}:{p0}/ http://{host}:{p2}/ http://{host}:{p5}/ http://{host}:{p6}/`, out: "{out}\n{out}\n{out}\n{out}\n"},
		step{line: `any=$($D inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 6).HostPort}}' pub); $D exec out curl -s http://{host}:$any/`, out: "{out}\n"},
		step{line: `$D exec out sh -c 'curl -s -m 60 http://{host}:{p3}/ || curl -s -m 60 http://{host}:{p4}/'`, out: "{out}\n"},
		step{line: `$D exec out curl -s -m 60 http://{host}:{p1}/`, code: 7},
		// From the host, by loopback and by address.
		step{line: `curl -s http://127.0.0.1:{p0}/ http://127.0.0.1:{p1}/ http://{host}:{p2}/ http://localhost:{p5}/ | wc -l`, out: "4\n"},
		step{line: `curl -s -m 60 http://127.0.0.1:{p2}/`, code: 7},
		// Hairpin: itself, a neighbour, a container of another network.
		step{line: `$D exec pub curl -s http://{host}:{p0}/ | wc -l; $D exec cli curl -s http://{host}:{p0}/ | wc -l; $D run --rm net curl -s http://{host}:{p0}/ | wc -l`, out: "1\n1\n1\n"},
		step{line: `$D run --rm net sh -c 'curl -s http://$(getent hosts host.docker.internal | cut -d " " -f 1):{p0}/' | wc -l`, out: "1\n"},
		step{line: `$D exec closed curl -s -m 2 http://{host}:{p0}/`, code: 28}, // it was given a way to the host
		// Taken is taken.
		step{line: `$D run --rm -p {p0}:80 net true`, code: 125, err: "port is already allocated"},
		step{line: `$D run --rm --network host net nc -l -p {p0}`, code: 1, err: "already in use"},
		// UDP, with the answer from the address that was asked.
		step{line: `$D run -d --name udp -p {p8}:5353/udp net dnsmasq -k -u root -p 5353 --no-resolv --no-hosts --address=/u.test/192.0.2.9 | wc -c`, out: "65\n"},
		step{line: `until $D exec out dig +short +time=1 +tries=1 @{host} -p {p8} u.test; do sleep 0.1; done`, out: "~192.0.2.9\n$"},
		step{line: `$D run --rm --network host net dig +short +time=5 @127.0.0.1 -p {p8} u.test; $D exec cli dig +short +time=5 @{host} -p {p8} u.test`, out: "192.0.2.9\n192.0.2.9\n"},
		step{line: `$D run --rm -p {p8}:53/udp net true`, code: 125, err: "port is already allocated"},
		// With the container its ports are free.
		step{line: `$D rm -f pub udp | wc -l; $D exec out curl -s -m 60 http://{host}:{p0}/`, code: 7, out: "2\n"},
		step{line: `$D run --rm -p {p0}-{p8}:80-88 net true; $D run -d --name all -P --expose 80-81 net | wc -c; $D port all | wc -l; $D rm -f all`, out: "65\n4\nall\n"},
	)
}

func (s *scene) ipv6(t *testing.T) {
	s.obey(t,
		step{line: `$D network create --ipv6 six | wc -c; $D run -d --name p6 --network six -p {p0}:80 -p '[{host6}]:{p1}:80' net | wc -c; $D run -d --name cli6 --network six net sleep 1000 | wc -c`, out: "65\n65\n65\n"},
		step{line: `until $D exec p6 curl -s http://[::1]/ >/dev/null; do sleep 0.1; done; $D exec cli6 dig +short p6 AAAA | grep -c :; $D exec cli6 curl -6 -s http://p6/ | grep -c :; $D exec cli6 curl -4 -s http://p6/ | grep -c '\.'`, out: "1\n1\n1\n"},
		step{line: `$D exec cli6 dig +short -x $($D exec cli6 dig +short p6 AAAA)`, out: "p6.six.\n"},
		step{line: `$D exec out curl -s http://[{host6}]:{p0}/ http://[{host6}]:{p1}/ http://{host}:{p0}/`, out: "{out6}\n{out6}\n{out}\n"},
		step{line: `$D exec cli6 curl -s http://[{out6}]/`, out: "{host6}\n"},
		step{line: `curl -s http://[{host6}]:{p0}/ | wc -l; $D exec cli6 curl -s http://[{host6}]:{p0}/ | wc -l`, out: "1\n1\n"},
		step{line: `$D exec --privileged out sh -c 'ip -6 route add default via {host6}; curl -s -m 2 http://['$($D inspect -f '{{.NetworkSettings.Networks.six.GlobalIPv6Address}}' p6)']/'`, code: 28},
		// The host's own ::1, where bridges do not hand frames to the rules first.
		step{line: `[ "$(cat /proc/sys/net/bridge/bridge-nf-call-ip6tables 2>/dev/null || echo 0)" != 0 ] || curl -s -m 20 http://[::1]:{p0}/`, out: `~^(.*:.*\n)?$`},
		step{line: `$D network create --ipv6 --ipv4=false only | wc -c; $D run --rm --network only net sh -c 'ip -4 addr show eth0 | grep -c inet; curl -s http://[{out6}]/'`, out: "65\n0\n{host6}\n"},
		step{line: `$D rm -f p6 cli6 | wc -l`, out: "2\n"},
	)
}

func (s *scene) gatewayModes(t *testing.T) {
	const address = `$($D inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' `
	s.obey(t,
		step{line: `for m in routed nat-unprotected nat; do $D network create -o com.docker.network.bridge.gateway_mode_ipv4=$m $m >/dev/null; $D run -d --name c-$m --network $m -p 80 net >/dev/null; done; $D network create --internal -o com.docker.network.bridge.gateway_mode_ipv4=isolated isolated | wc -c`, out: "65\n"},
		step{line: `$D exec --privileged out ip route add default via {host}; for m in routed nat-unprotected nat; do until $D exec c-$m curl -s http://127.0.0.1/; do sleep 0.1; done; done`, out: "127.0.0.1\n127.0.0.1\n127.0.0.1\n"},
		step{line: `$D exec out curl -s -m 20 http://` + address + `c-routed)/`, out: "{out}\n"},
		step{line: `$D exec out curl -s -m 2 http://` + address + `c-routed):81/`, code: 28},
		step{line: `$D exec c-routed curl -s -m 20 http://{out}/ | grep -c -x ` + address + `c-routed)`, out: "1\n"},
		step{line: `$D exec out curl -s -m 20 http://` + address + `c-nat-unprotected)/ http://` + address + `c-nat-unprotected):81/`, out: "{out}\n{out}\n"},
		step{line: `$D exec out curl -s -m 2 http://` + address + `c-nat)/`, code: 28},
		step{line: `$D exec c-nat curl -s -m 20 http://{out}/`, out: "{host}\n"},
		step{line: `ip -4 addr show br-$($D network inspect -f '{{.Id}}' isolated | cut -c 1-12) | grep -c inet`, code: 1, out: "0\n"},
		step{line: `$D run -d --name lone --network isolated net | wc -c; $D run --rm --network isolated net sh -c 'until curl -s http://lone/; do sleep 0.1; done | wc -l; ip route | grep -c default'`, code: 1, out: "65\n1\n0\n"},
		step{line: `$D rm -f lone c-routed c-nat c-nat-unprotected | wc -l`, out: "4\n"},
	)
}

// throughput: streams arrive whole in every direction; how fast is the benchmark's business.
func (s *scene) throughput(t *testing.T) {
	// A server that has not done with the stream before says so.
	const busy = `for i in $(seq 600); do `
	const received = ` -J >json; grep -q 'server is busy' json || break; sleep 0.5; done; sed -n 's/.*"error".*/failed/p' json`
	s.obey(t,
		step{line: `$D run -d --name i1 --network n -p {p0}:5201 -p {p0}:5201/udp net iperf3 -s | wc -c; until $D exec i1 nc -z 127.0.0.1 5201; do sleep 0.1; done`, out: "65\n"},
		step{line: busy + `$D exec cli iperf3 -c i1 -n 64M` + received},
		step{line: busy + `$D exec cli iperf3 -c i1 -R -n 64M` + received},
		step{line: busy + `$D exec cli iperf3 -c {out} -n 64M` + received},
		step{line: busy + `$D exec out iperf3 -c {host} -p {p0} -n 64M` + received},
		step{line: busy + `$D exec out iperf3 -c {host} -p {p0} -R -n 64M` + received},
		step{line: busy + `$D exec out iperf3 -c {host} -p {p0} -u -b 20M -n 2M` + received},
		step{line: busy + `$D run --rm --network host net iperf3 -c 127.0.0.1 -p {p0} -n 64M` + received},
		step{line: busy + `$D exec cli iperf3 -c {host} -p {p0} -n 64M` + received},
		step{line: `$D exec out ab -q -n 2000 -c 20 http://{host}:{p9}/ 2>&1 | grep -c refused; $D run -d --name web3 -p {p9}:80 net | wc -c; until $D exec out curl -s http://{host}:{p9}/ >/dev/null; do sleep 0.1; done; $D exec out ab -q -n 2000 -c 20 http://{host}:{p9}/ | grep 'Complete\|Failed' | tr -s ' '`,
			out: "1\n65\nComplete requests: 2000\nFailed requests: 0\n"},
		step{line: `$D rm -f i1 web3 | wc -l`, out: "2\n"},
	)
}
