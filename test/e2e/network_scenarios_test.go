package e2e

import "testing"

// restarts: what stays and what does not when a container, or the daemon, is started again.
func (s *scene) restarts(t *testing.T) {
	const mac, ip = `cat /sys/class/net/eth0/address`, `$($D inspect -f '{{.NetworkSettings.Networks.n.IPAddress}}' `
	s.obey(t,
		// An address that was asked for stays; one that was made up is never another's.
		step{line: `$D run -d --name m1 --network n --mac-address 02:00:00:00:00:51 net sleep 1000 | wc -c; $D restart -t 0 m1; $D exec m1 ` + mac, out: "65\nm1\n02:00:00:00:00:51\n"},
		step{line: `$D run -d --name g1 --network n net | wc -c; $D stop -t 0 g1; $D run -d --name g2 --network n net | wc -c; $D start g1`, out: "65\ng1\n65\ng1\n"},
		step{line: `[ "$($D exec g1 ` + mac + `)" != "$($D exec g2 ` + mac + `)" ] && $D exec g1 sh -c 'until curl -s -o /dev/null http://g2/; do sleep 0.1; done' && echo apart`, out: "apart\n"},
		step{line: `$D network create --subnet 10.254.71.0/24 --ipv6 --subnet fd19:254:71::/64 fixed | wc -c; $D run -d --name f1 --network fixed --ip 10.254.71.77 --ip6 fd19:254:71::77 net | wc -c; $D restart -t 0 f1`, out: "65\n65\nf1\n"},
		step{line: `$D inspect -f '{{.NetworkSettings.Networks.fixed.IPAddress}} {{.NetworkSettings.Networks.fixed.GlobalIPv6Address}}' f1; $D exec f1 ip -br addr show eth0`, out: `~^10.254.71.77 fd19:254:71::77\n.*10.254.71.77/24 fd19:254:71::77/64`},
		step{line: `$D run --rm --network fixed --ip 10.254.71.77 net true`, code: 125, err: "Address already in use"},
		// A port that was asked for stays; any port is any port again, and none that others have.
		step{line: `$D run -d --name p1 --network n -p {p0}:80 -p 80 net | wc -c; $D restart -t 0 p1; $D exec out sh -c 'until curl -s http://{host}:{p0}/; do sleep 0.1; done'`, out: "65\np1\n{out}\n"},
		step{line: `any=$($D inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 2).HostPort}}' p1); $D exec out curl -s http://{host}:$any/; $D port p1 | wc -l`, out: "{out}\n4\n"},
		step{line: `$D inspect -f '{{json .NetworkSettings.Ports}} {{.NetworkSettings.Networks.n.IPAddress}} {{.NetworkSettings.Networks.n.MacAddress}}' p1 g1 >$DIR/before`},
	)
	s.d.Kill()
	if err := s.d.Launch(); err != nil {
		t.Fatal(err)
	}
	s.obey(t,
		step{line: `$D inspect -f '{{json .NetworkSettings.Ports}} {{.NetworkSettings.Networks.n.IPAddress}} {{.NetworkSettings.Networks.n.MacAddress}}' p1 g1 | diff - $DIR/before && echo same`, out: "same\n"},
		step{line: `any=$($D inspect -f '{{(index (index .NetworkSettings.Ports "80/tcp") 2).HostPort}}' p1); $D exec out curl -s http://{host}:$any/ http://{host}:{p0}/`, out: "{out}\n{out}\n"},
		step{line: `[ "$($D exec g1 dig +short p1)" = ` + ip + `p1) ] && echo known`, out: "known\n"},
		// Off its network a container is not reached from outside, and on it again it is.
		step{line: `$D network disconnect n p1; $D exec out curl -s -m 60 http://{host}:{p0}/`, code: 7},
		step{line: `$D network connect n p1; $D exec out curl -s http://{host}:{p0}/; $D exec g1 curl -s -o /dev/null http://p1/ && echo up`, out: "{out}\nup\n"},
		// An answer of UDP comes from who has the port now, also to who asks from the same port of his.
		step{line: `$D run -d --name u1 -p {p1}:53/udp net dnsmasq -k -u root --no-resolv --no-hosts --address=/u.test/192.0.2.9 | wc -c; until $D exec out dig +short +time=1 +tries=1 -b {out}#5555 @{host} -p {p1} u.test; do sleep 0.1; done`, out: "~192.0.2.9\n$"},
		step{line: `$D run -d --name spare net sleep 1000 | wc -c; $D rm -f u1; $D run -d --name u2 -p {p1}:53/udp net dnsmasq -k -u root --no-resolv --no-hosts --address=/u.test/192.0.2.10 | wc -c; until $D exec out dig +short +time=1 +tries=1 -b {out}#5555 @{host} -p {p1} u.test; do sleep 0.1; done`, out: "~\n192.0.2.10\n$"},
		step{line: `$D rm -f m1 g1 g2 f1 p1 u2 spare | wc -l; $D network rm fixed`, out: "7\nfixed\n"},
	)
}

// options: those of networks that the other parts do not need.
func (s *scene) options(t *testing.T) {
	const bridge = `br-$($D network inspect -f '{{.Id}}' `
	s.obey(t,
		step{line: `$D network create -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 here | wc -c; $D run -d --name h1 --network here -p {p0}:80 -p {host}:{p1}:80 net | wc -c; $D port h1`, out: "65\n65\n80/tcp -> 127.0.0.1:{p0}\n80/tcp -> {host}:{p1}\n"},
		step{line: `$D exec out sh -c 'until curl -s http://{host}:{p1}/; do sleep 0.1; done'; curl -s http://127.0.0.1:{p0}/ | wc -l; $D exec out curl -s -m 60 http://{host}:{p0}/`, code: 7, out: "{out}\n1\n"},
		step{line: `$D network create -o com.docker.network.driver.mtu=1400 small | wc -c; $D run -d --name s1 --network small net sleep 1000 | wc -c; $D exec s1 cat /sys/class/net/eth0/mtu; cat /sys/class/net/` + bridge + `small | cut -c 1-12)/mtu`, out: "65\n65\n1400\n1400\n"},
		step{line: `$D exec s1 ping -c 1 -W 5 -M do -s 1372 {host} >/dev/null && echo fits; $D exec s1 ping -c 1 -W 5 -M do -s 1373 {host}`, code: 1, out: "~^fits\n"},
		step{line: `$D exec s1 curl -s http://{out}/`, out: "{host}\n"},
		step{line: `$D network create -o com.docker.network.bridge.enable_icc=false apart | wc -c; for c in a1 a2; do $D run -d --name $c --network apart -p 80 net >/dev/null; done; $D exec a2 sh -c 'until curl -s http://127.0.0.1/; do sleep 0.1; done'`, out: "65\n127.0.0.1\n"},
		step{line: `$D exec a1 dig +short a2 | grep -c .; $D exec a1 curl -s -m 2 http://a2/`, code: 28, out: "1\n"},
		step{line: `$D exec a1 curl -s http://{out}/; $D exec out curl -s http://{host}:$($D port a2 80 | head -n 1 | sed 's/.*://')/`, out: "{host}\n{out}\n"},
		step{line: `ip addr add {block}9/24 dev {cable}; $D network create -o com.docker.network.host_ipv4={block}9 chosen | wc -c; $D run --rm --network chosen net curl -s http://{out}/; $D run --rm --network n net curl -s http://{out}/`, out: "65\n{block}9\n{host}\n"},
		step{line: `$D network create --ipv6 --subnet fd19:254:72::/64 -o com.docker.network.bridge.gateway_mode_ipv6=routed r6 | wc -c; $D run -d --name r1 --network r6 -p 80 net | wc -c; $D exec r1 sh -c 'until curl -s http://[::1]/; do sleep 0.1; done'`, out: "65\n65\n::1\n"},
		step{line: `six=$($D inspect -f '{{.NetworkSettings.Networks.r6.GlobalIPv6Address}}' r1); $D exec out curl -s -m 20 "http://[$six]/"; $D exec r1 curl -s -m 20 "http://[{out6}]/" | grep -c -x $six; $D exec out curl -s -m 2 "http://[$six]:81/"`, code: 28, out: "{out6}\n1\n"},
		// Two containers cannot have one port of SCTP; another protocol's is another one.
		step{line: `$D run -d --name c1 -p {p2}:99/sctp net sleep 1000 | wc -c; $D run --rm -p {p2}:99/udp -p {p2}:99/tcp net true; $D run --rm -p {p2}:99/sctp net true`, code: 125, out: "65\n", err: "port is already allocated"},
		step{line: `$D rm -f h1 s1 a1 a2 r1 c1 | wc -l; $D network rm here small apart chosen r6 | wc -l`, out: "6\n5\n"},
	)
}

// others: namespaces that are somebody else's, and interfaces beside one of the host's.
func (s *scene) others(t *testing.T) {
	s.obey(t,
		step{line: `$D run -d --name w1 --network n net | wc -c; $D run --rm --network container:w1 net sh -c 'until curl -s http://127.0.0.1/; do sleep 0.1; done'`, out: "65\n127.0.0.1\n"},
		step{line: `$D run -d --name guest --network container:w1 net nc -lk -p 82 | wc -c; $D run --rm --network n net sh -c 'until nc -z w1 82; do sleep 0.1; done'; $D run --rm --network container:w1 -p {p1}:80 net true`, code: 125, out: "65\n", err: "conflicting options"},
		step{line: `$D network connect fixed w1`, code: 1, err: "network fixed not found"},
		step{line: `$D run --rm --network none net sh -c 'ip -o link | wc -l; curl -s -m 60 http://{out}/'`, code: 7, out: "1\n"},
		step{line: `$D run --rm --network host net sh -c 'ip -o link show {cable} | wc -l; curl -s http://{out}/'`, out: "1\n{host}\n"},
		step{line: `$D rm -f w1 guest | wc -l`, out: "2\n"},
		// Macvlan: a neighbour of the neighbour's, with its own address; the host itself is out of reach.
		step{line: `$D network create -d macvlan -o parent={cable} --subnet {block}0/24 --gateway {host} --ip-range {block}64/26 lan | wc -c; $D run -d --name l1 --network lan net | wc -c; $D run -d --name l2 --network lan net | wc -c`, out: "65\n65\n65\n"},
		step{line: `$D exec l1 curl -s http://{out}/ | grep -c -x $($D inspect -f '{{.NetworkSettings.Networks.lan.IPAddress}}' l1); $D exec l1 sh -c 'until curl -s -o /dev/null http://l2/; do sleep 0.1; done' && echo both`, out: "1\nboth\n"},
		step{line: `$D exec out curl -s -m 20 http://$($D inspect -f '{{.NetworkSettings.Networks.lan.IPAddress}}' l2)/; $D exec l1 ping -c 1 -W 1 {host} >/dev/null`, code: 1, out: "{out}\n"},
		step{line: `$D network create -d macvlan -o parent={cable} -o macvlan_mode=passthru b`, code: 1, err: "is already using parent interface"},
		step{line: `$D network create -d macvlan -o parent={cable} b | wc -c; $D network rm b`, out: "65\nb\n"},
		step{line: `$D network create -d ipvlan -o parent={cable} b >$DIR/ipvlan 2>&1 && $D network rm b || grep -ci 'CONFIG_IPVLAN\|already using' $DIR/ipvlan`, out: `~^(b|[1-9][0-9]*)\n$`},
		step{line: `$D rm -f l1 l2 | wc -l; $D network rm lan`, out: "2\nlan\n"},
	)
}

// management: networks by name and by ID, those that go and those that stay, and one whose bridge somebody took away.
func (s *scene) management(t *testing.T) {
	const bridge = `br-$($D network inspect -f '{{.Id}}' lost | cut -c 1-12)`
	s.obey(t,
		step{line: `id=$($D network inspect -f '{{.Id}}' n); $D network create $(echo $id | cut -c 1-12) | wc -c; $D network inspect -f '{{.Name}}' $(echo $id | cut -c 1-12) $(echo $id | cut -c 1-13) $id | uniq | wc -l; $D network rm $(echo $id | cut -c 1-12) | wc -c`, out: "65\n2\n13\n"},
		step{line: `$D network create --label keep=yes k1 | wc -c; $D network create --label old=yes k2 | wc -c; $D network create --label old=yes k3 | wc -c; $D run -d --name busy --network k3 net sleep 1000 | wc -c`, out: "65\n65\n65\n65\n"},
		step{line: `$D network prune -f --filter label=old --filter until=24h | grep -c k2`, code: 1, out: "0\n"},
		step{line: `$D network prune -f --filter label=old | grep -v '^$'; $D network ls -q --filter name='^k[123]$' | wc -l`, out: "Deleted Networks:\nk2\n2\n"},
		step{line: `$D network prune -f --filter label!=keep --filter label=old; $D rm -f busy; $D network prune -f --filter label!=keep --filter label=old | grep -v '^$'; $D network rm k1`, out: "busy\nDeleted Networks:\nk3\nk1\n"},
		// Somebody deletes a bridge, under the daemon and while there is none.
		step{line: `$D network create lost | wc -c; $D run -d --name left --network lost -p {p0}:80 net | wc -c; $D exec out sh -c 'until curl -s http://{host}:{p0}/; do sleep 0.1; done'`,
			out: "65\n65\n{out}\n"},
		step{line: `ip link del ` + bridge + `; until $D run --rm --network lost net curl -s -o /dev/null http://left/ 2>/dev/null; do sleep 0.1; done; $D exec out curl -s http://{host}:{p0}/`,
			out: "{out}\n"},
		step{line: `$D network trace left 2>&1 | grep -c 'is not a port of bridge'`, code: 1, out: "0\n"},
		step{line: `echo ` + bridge + ` >$DIR/bridge`},
	)
	s.d.Kill()
	s.obey(t, step{line: `ip link del $(cat $DIR/bridge)`})
	if err := s.d.Launch(); err != nil {
		t.Fatal(err)
	}
	s.obey(t,
		step{line: `$D run --rm --network lost net curl -s -o /dev/null http://left/ && echo again; $D exec out curl -s http://{host}:{p0}/`, out: "again\n{out}\n"},
		step{line: `$D rm -f left; $D network rm lost`, out: "left\nlost\n"},
	)
}
