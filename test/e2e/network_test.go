package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// TestNetworkConnect: containers come to networks and leave them in every state, and across the death of the daemon.
func TestNetworkConnect(t *testing.T) {
	d := harness.Start(t)
	obey(t, d, d.Berth(), []step{
		{line: `$D network create a >/dev/null; $D network create b >/dev/null; $D network create --internal in >/dev/null; echo made`, out: "made\n"},
		{line: `$D run -d --name peer --network a berth/box sh -c 'while :; do echo peer | nc -l -p 80; done' | wc -c`, out: "65\n"},
		{line: `$D run -d --name web berth/box sleep 1000 | wc -c`, out: "65\n"},
		{line: `$D exec web cat /etc/resolv.conf`, out: "~nameserver"},

		// Running: interface, name, hosts file and name server at once.
		{line: `$D network connect --alias shop a web`},
		{line: `$D exec web sh -c 'ip link | grep -c "eth[01]"'`, out: "2\n"},
		{line: `$D exec web cat /etc/resolv.conf`, out: "~nameserver 127.0.0.11"},
		{line: `[ "$($D exec web hostname)" = "$($D exec web tail -n 1 /etc/hosts | cut -f 2)" ] && echo same`, out: "same\n"},
		{line: soon(`$D exec web nc peer 80 </dev/null`), out: "peer\n"},
		{line: `$D exec peer ping -c 1 -W 5 shop >/dev/null && echo up`, out: "up\n"},
		{line: `$D inspect -f '{{len .NetworkSettings.Networks}} {{index .NetworkSettings.Networks.a.Aliases 0}}' web`, out: "2 shop\n"},
		{line: `$D network inspect -f '{{len .Containers}}' a`, out: "2\n"},
		{line: `$D network connect a web`, code: 1, err: "endpoint with name web already exists in network a"},
		{line: `$D network rm a`, code: 1, err: "has active endpoints"},
		{line: `$D network disconnect in web`, code: 1, err: "is not connected to network in"},
		{line: `$D network disconnect nonexistent web`, code: 1, err: "network nonexistent not found"},
		{line: `$D network connect a nonexistent`, code: 1, err: "No such container: nonexistent"},
		{line: `$D network connect host web`, code: 1, err: "host network"},
		{line: `$D network connect none web`, code: 1, err: "none"},

		// Paused, with a priority for the way out.
		{line: `$D pause web && $D network connect --gw-priority 7 b web && $D unpause web`, out: "web\nweb\n"},
		{line: `[ "$($D exec web ip route | sed -n 's/default via \([0-9.]*\).*/\1/p')" = "$($D network inspect -f '{{(index .IPAM.Config 0).Gateway}}' b)" ] && echo b`, out: "b\n"},
		{line: `$D rename web shop2 && $D exec peer ping -c 1 -W 5 shop2 >/dev/null && echo renamed && $D rename shop2 web`, out: "renamed\n"},
	})
	if t.Failed() {
		return
	}
	d.Kill()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	obey(t, d, d.Berth(), []step{
		{line: `$D inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.GwPriority}} {{end}}' web`, out: "a=0 b=7 bridge=0 \n"},
		{line: soon(`$D exec web nc peer 80 </dev/null`), out: "peer\n"},
		{line: `$D network disconnect b web; $D network disconnect bridge web`},
		{line: `$D exec web sh -c 'ip link | grep -c "eth[0-9]"'`, out: "1\n"},
		{line: `[ "$($D exec web ip route | sed -n 's/default via \([0-9.]*\).*/\1/p')" = "$($D network inspect -f '{{(index .IPAM.Config 0).Gateway}}' a)" ] && echo a`, out: "a\n"},
		{line: `$D exec web grep -c "$($D exec web hostname)" /etc/hosts`, out: "1\n"},
		{line: `$D network disconnect a web; $D exec web ip link | grep -c eth`, code: 1, out: "0\n"},
		{line: `$D inspect -f '{{len .NetworkSettings.Networks}}' web`, out: "0\n"},
		// A restart does not bring back what was taken away; created and stopped containers are connected for later.
		{line: `$D restart -t 0 web && $D exec web ip link | grep -c eth`, code: 1, out: "web\n0\n"},
		{line: `$D network connect a web && ` + soon(`$D exec web nc peer 80 </dev/null`), out: "peer\n"},
		{line: `$D stop -t 0 web && $D network connect in web && $D network disconnect a web && $D start web`, out: "web\nweb\n"},
		{line: `$D inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' web`, out: "in \n"},
		{line: `$D network connect --ip 10.9.8.7 a web`, code: 1, err: "user specified IP address is supported only when connecting to networks with user configured subnets"},
		{line: `$D create --name later --network a berth/box sh -c 'ip link | grep -c ": eth"' | wc -c; $D network connect b later; $D start -a later`, out: "65\n2\n"},
		{line: `until $D network rm b 2>/dev/null; do sleep 0.05; done; $D network disconnect b later && $D start -a later`, out: "b\n1\n"},
		{line: `$D run --rm --network a --network name=in,alias=x,gw-priority=3,mac-address=02:00:00:00:00:55 berth/box sh -c 'ip link | grep -c ": eth"; ip link | grep -c 02:00:00:00:00:55'`, out: "2\n1\n"},
		{line: `$D run --rm --network none --name alone -d berth/box sleep 100 | wc -c`, out: "65\n"},
		{line: `$D network connect a alone`, code: 1, err: "private (none) mode"},
		{line: `$D network disconnect none alone && $D network connect a alone && ` + soon(`$D exec alone nc peer 80 </dev/null`), out: "peer\n"},
		{line: `$D run --rm --network container:peer berth/box true; $D create --network host --name hosted berth/box true | wc -c; $D network connect a hosted`, code: 1, out: "65\n", err: "sharing network namespace"},
		{line: `$D events --since 10m --until $(($(date +%s)+1)) --filter type=network --filter event=disconnect --format '{{.Actor.Attributes.name}}' | sort -u | tr '\n' ' '`, out: "~a b bridge "},
		{line: `$D network create -d macvlan -o macvlan_mode=bridge apart >/dev/null && $D network inspect -f '{{.Driver}} {{.Internal}}' apart`, out: "macvlan true\n"},
		{line: `$D run -d --name m1 --network apart berth/box sleep 100 | wc -c; $D run --rm --network apart berth/box ping -c 1 -W 5 m1 >/dev/null && echo up`, out: "65\nup\n"},
		{line: `$D network connect nonexistent m1`, code: 1, err: "network nonexistent not found"},
		{line: `$D network connect a m1 && $D network disconnect apart m1 && ` + soon(`$D exec m1 nc peer 80 </dev/null`) + ` && $D rm -f m1 && $D network rm apart`, out: "peer\nm1\napart\n"},
		{line: `$D network create -d macvlan -o parent=nonexistent x`, code: 1, err: "which the host does not have"},
		{line: `$D network create -d overlay x`, code: 1, err: "plugin \"overlay\" not found"},
		{line: `$D rm -f web peer later alone hosted | wc -l`, out: "5\n"},
		{line: `$D network rm a in`, out: "a\nin\n"},
	})
}

// TestLinks: names and variables of linked containers, and the host's name in every container.
func TestLinks(t *testing.T) {
	d := harness.Start(t)
	obey(t, d, d.Berth(), []step{
		{line: `$D run -d --name db -e PASSWORD=x -e PATH=/bin --expose 5432 -h dbhost berth/box sh -c 'while :; do echo db | nc -l -p 5432; done' | wc -c`, out: "65\n"},
		{line: `$D run --rm --name web --link db:my-db berth/box sh -c 'env | grep MY_DB | sort | sed "s/[0-9.]*:5432/IP:5432/; s/ADDR=.*/ADDR=/"'`,
			out: "MY_DB_ENV_PASSWORD=x\nMY_DB_NAME=/web/my-db\nMY_DB_PORT=tcp://IP:5432\nMY_DB_PORT_5432_TCP=tcp://IP:5432\n" +
				"MY_DB_PORT_5432_TCP_ADDR=\nMY_DB_PORT_5432_TCP_PORT=5432\nMY_DB_PORT_5432_TCP_PROTO=tcp\n"},
		{line: `$D run --rm --link db:my-db berth/box sh -c '` + soon(`nc my-db 5432 </dev/null`) + `; grep -c "my-db.dbhost.db" /etc/hosts'`, out: "db\n1\n"},
		{line: `$D create --name linked --link db berth/box env | wc -c; $D inspect -f '{{.HostConfig.Links}}' linked`, out: "65\n[/db:/linked/db]\n"},
		{line: `$D start -a linked | grep -c DB_`, out: "7\n"},
		{line: `$D rm --link linked/db; $D start -a linked | grep -c DB_`, code: 1, out: "linked/db\n0\n"},
		{line: `$D rm --link linked/db`, code: 1, err: "no link"},
		{line: `$D run -d --name follower --link db:my-db berth/box sleep 1000 | wc -c; before=$($D exec follower grep my-db /etc/hosts); $D restart -t 0 db;
			for i in $(seq 600); do $D exec follower grep -q "^$before" /etc/hosts || break; sleep 0.1; done; ` + soon(`$D exec follower nc my-db 5432 </dev/null`) + `; $D rm -f follower`,
			out: "65\ndb\ndb\nfollower\n"},
		{line: `$D create --name gone --link db berth/box true | wc -c; $D stop -t 0 db >/dev/null; $D start gone`, code: 1, out: "65\n", err: "Cannot link to a non running container: /db AS /gone/db"},
		{line: `$D rm -f db >/dev/null; $D start gone`, out: "gone\n"},
		{line: `$D run --rm --link nonexistent berth/box true`, code: 125, err: "could not get container for nonexistent"},
		{line: `$D run --rm --link nonexistent berth/box true 2>&1 | grep -c "Unable to find image"`, code: 1, out: "0\n"}, // a 404 would be the image's

		{line: `$D network create n >/dev/null; $D run -d --name db --network n berth/box sh -c 'while :; do echo db | nc -l -p 80; done' | wc -c`, out: "65\n"},
		{line: soon(`$D run --rm --network n --link db:alias berth/box nc alias 80 </dev/null`), out: "db\n"},
		{line: `$D run --rm --network n berth/box nc alias 80 </dev/null`, code: 1, err: "alias"},
		{line: `$D run -d --name late berth/box sleep 100 | wc -c; $D network connect --link db:x n late; ` + soon(`$D exec late nc x 80 </dev/null`), out: "65\ndb\n"},

		{line: `$D run --rm berth/box sh -c 'ping -c 1 -W 5 host.docker.internal >/dev/null && echo up'`, out: "up\n"},
		{line: `$D run --rm --network n --add-host gw:host-gateway berth/box sh -c '[ "$(grep gw /etc/hosts | cut -f 1)" = "$(grep host.docker.internal /etc/hosts | cut -f 1)" ] && ping -c 1 -W 5 gw >/dev/null && echo same'`, out: "same\n"},
		{line: `$D run --rm --network host berth/box grep host.docker.internal /etc/hosts`, out: "127.0.0.1\thost.docker.internal\n"},
		{line: `$D run --rm --network host --add-host gw:host-gateway berth/box grep gw /etc/hosts`, out: "127.0.0.1\tgw\n"},
		{line: `[ "$($D run --rm --network none --add-host gw:host-gateway berth/box grep gw /etc/hosts | cut -f 1)" = "$($D network inspect -f '{{(index .IPAM.Config 0).Gateway}}' bridge)" ] && echo same`, out: "same\n"},
		{line: `$D run --rm --add-host host.docker.internal:1.2.3.4 berth/box grep host.docker.internal /etc/hosts`, out: "1.2.3.4\thost.docker.internal\n"},
		{line: `$D exec late grep -c host.docker.internal /etc/hosts; $D network disconnect bridge late`, out: "1\n"},
		{line: `[ "$($D exec late grep host.docker.internal /etc/hosts | cut -f 1)" = "$($D network inspect -f '{{(index .IPAM.Config 0).Gateway}}' n)" ] && echo n`, out: "n\n"},

		{line: `$D network create --config-only --subnet 10.254.77.0/24 cfg | wc -c; $D network create --config-from cfg real | wc -c`, out: "65\n65\n"},
		{line: `for i in $(seq 600); do $D events --since 10m --until 0s -f type=network -f event=create --format '{{.Actor.Attributes.name}} {{.Actor.Attributes.type}}' >$DIR/made; grep -q real $DIR/made && break; sleep 0.1; done; tail -2 $DIR/made`, out: "cfg null\nreal bridge\n"},
		{line: `$D run --rm --network container:late --link late:x berth/box true`, code: 125, err: "conflicting options: container type network can't be used with links"},
		{line: `$D network inspect -f '{{(index .IPAM.Config 0).Subnet}} {{.ConfigFrom.Network}}' real; $D network inspect -f '{{.ConfigOnly}}' cfg`, out: "10.254.77.0/24 cfg\ntrue\n"},
		{line: `$D network inspect -f '{{json .Status}}' real`, out: `{"IPAM":{"Subnets":{"10.254.77.0/24":{"IPsInUse":3,"DynamicIPsAvailable":253}}}}` + "\n"},
		{line: `$D run --rm --network real --ip6 fd00::9 berth/box true`, code: 125, err: "no configured subnet or ip-range contain the IP address fd00::9"},
		{line: `$D network connect --ip6 fd00::9 real late`, code: 1, err: "no configured subnet or ip-range contain the IP address fd00::9"},
		{line: `$D network rm cfg`, code: 1, err: "is in use"},
		{line: `$D run --rm --network name=real,ip=10.254.77.9,driver-opt=com.docker.network.endpoint.ifname=lan0,driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1 berth/box sh -c 'ip addr show lan0 | grep -c 10.254.77.9; cat /proc/sys/net/ipv4/conf/lan0/log_martians'`, out: "1\n1\n"},
		{line: `$D rm -f db late linked gone | wc -l; $D network rm real cfg n`, out: "4\nreal\ncfg\nn\n"},
	})
}

// TestDaemonsNetworkSettings: what daemon.json says of networks, as containers have it.
func TestDaemonsNetworkSettings(t *testing.T) {
	d := harness.Start(t, harness.Options{Args: []string{"--ipv6", "--bip6=fd19:254:80::1/64", "--fixed-cidr-v6=fd19:254:80:0:1::/80",
		"--default-gateway-v6=fd19:254:80::7", "--host-gateway-ip=192.0.2.7", "--host-gateway-ip=2001:db8::7",
		"--default-network-opt=bridge=com.docker.network.driver.mtu=1290", "--default-network-opt=bridge=com.docker.network.enable_ipv6=true"}})
	obey(t, d, d.Berth(), []step{
		{line: `$D network inspect -f '{{.EnableIPv6}} {{json (index .IPAM.Config 1)}}' bridge`, out: `true {"Subnet":"fd19:254:80::/64","IPRange":"fd19:254:80:0:1::/80",` +
			`"Gateway":"fd19:254:80::1","AuxiliaryAddresses":{"DefaultGatewayIPv6":"fd19:254:80::7"}}` + "\n"},
		{line: `$D run --rm berth/box sh -c 'ip -6 addr show eth0 | grep -c "fd19:254:80:0:1:.*/64 scope global"; ip -6 route | grep default; cat /sys/class/net/eth0/mtu | grep -c 1290'`,
			code: 1, out: "1\ndefault via fd19:254:80::7 dev eth0\n0\n"},
		{line: `$D run --rm --add-host gw:host-gateway berth/box sh -c 'grep "gw\|host.docker" /etc/hosts'`,
			out: "192.0.2.7\tgw\n2001:db8::7\tgw\n192.0.2.7\thost.docker.internal\n2001:db8::7\thost.docker.internal\n"},
		{line: `$D network create plain >/dev/null; $D network create --ipv6=false -o com.docker.network.driver.mtu=1300 own >/dev/null; $D network inspect -f '{{.EnableIPv6}}' plain own`, out: "true\nfalse\n"},
		{line: `$D run --rm --network plain berth/box cat /sys/class/net/eth0/mtu; $D run --rm --network own berth/box cat /sys/class/net/eth0/mtu`, out: "1290\n1300\n"},
		{line: `$D network rm plain own`, out: "plain\nown\n"},
	})
}

// TestNetworksWithoutInterface: containers on the host's network and on none are on a network as all others are, for who asks.
func TestNetworksWithoutInterface(t *testing.T) {
	d := harness.Start(t)
	both := func(step string) string { return `for n in host none; do ` + step + `; done` }
	obey(t, d, d.Berth(), []step{
		{line: both(`$D run -d --name on-$n --network $n berth/box sleep 1000 >/dev/null; $D network inspect -f '{{.EnableIPv4}} {{range .Containers}}{{.Name}} {{len .EndpointID}}{{end}}' $n`),
			out: "true on-host 64\ntrue on-none 64\n"},
		{line: both(`[ "$($D inspect -f "{{with .NetworkSettings.Networks.$n}}{{.NetworkID}} {{.EndpointID}}{{end}}" on-$n)" = ` +
			`"$($D network inspect -f '{{.Id}} {{range .Containers}}{{.EndpointID}}{{end}}' $n)" ] && echo same`), out: "same\nsame\n"},
		{line: both(`$D ps --filter network=$n --format '{{.Names}} {{.Networks}}'; $D stop -t 0 on-$n; $D network inspect -f '{{len .Containers}}' $n`),
			out: "on-host host\non-host\n0\non-none none\non-none\n0\n"},
		{line: both(`$D inspect -f "{{with .NetworkSettings.Networks.$n}}{{len .NetworkID}} {{len .EndpointID}}{{end}}" on-$n`), out: "64 0\n64 0\n"},
		{line: `for i in $(seq 600); do [ $($D events --since 10m --until 0s -f type=network -f event=disconnect --format x | wc -l) = 2 ] && break; sleep 0.1; done
			$D events --since 10m --until 0s -f type=network --format '{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}'`,
			out: "connect host host\nconnect none null\ndisconnect host host\ndisconnect none null\n"},
		{line: both(`$D run -d --name ports --network $n --expose 80 -p 81:81 berth/box sleep 1000 >/dev/null 2>&1; $D inspect -f '{{json .NetworkSettings.Ports}}' ports; $D ps --filter name=ports --format '[{{.Ports}}]'; $D rm -f ports`),
			out: "{}\n[]\nports\n{}\n[]\nports\n"},
		{line: `$D rm on-host on-none`, out: "on-host\non-none\n"},
	})
}

// TestLinksApart: with --icc=false who has a link reaches the exposed ports of the other, and nobody anything else; also after
// the other was started again, and the daemon was killed.
func TestLinksApart(t *testing.T) {
	d := harness.Start(t, harness.Options{Args: []string{"--icc=false"}})
	const serve = `sh -c 'for p in 80 81; do while :; do echo served | nc -l -p $p; done & done; wait'`
	linked := []step{
		{line: `for i in $(seq 600); do $D exec web nc -w 5 db 80 </dev/null && break; sleep 0.1; done`, out: "served\n"},
		{line: `$D exec web nc -w 1 db 81 </dev/null`, code: 1},
		{line: `$D exec other nc -w 1 $(cat $DIR/db) 80 </dev/null`, code: 1},
		{line: `$D exec db nc -w 1 $(cat $DIR/web) 80 </dev/null`, code: 1},
	}
	addresses := step{line: `for c in db web; do $D inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' $c >$DIR/$c; done`}
	obey(t, d, d.Berth(), append([]step{
		{line: `$D run -d --name db --expose 80 berth/box ` + serve + ` | wc -c`, out: "65\n"},
		{line: `$D run -d --name web --link db berth/box ` + serve + ` | wc -c; $D run -d --name other berth/box sleep 1000 | wc -c`, out: "65\n65\n"},
		addresses}, linked...))
	obey(t, d, d.Berth(), append([]step{{line: `$D stop -t 0 db; $D run -d --name thief berth/box sleep 1000 | wc -c; $D start db`, out: "db\n65\ndb\n"},
		addresses}, linked...))
	d.Kill()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	obey(t, d, d.Berth(), append(linked,
		step{line: `$D rm --link web/db && $D exec web nc -w 1 db 80 </dev/null`, code: 1, out: "web/db\n"},
		step{line: `$D rm -f db web other thief | wc -l`, out: "4\n"}))
}

// TestConnectKilled kills the daemon at random moments while containers are connected and disconnected. Afterwards they
// have what inspect says, and no link is left. Short form: 4 rounds; BERTH_SOAK makes it long.
func TestConnectKilled(t *testing.T) {
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("BERTH_SOAK")); err == nil {
		rounds = n
	}
	d := harness.Start(t)
	b := d.Berth()
	d.Must(`$D network create a; $D network create b; $D run -d --name c0 berth/box sleep 100000; $D run -d --name c1 berth/box sleep 100000`)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var workers sync.WaitGroup
	var done atomic.Int64
	for w := range 2 {
		workers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				n := "ab"[i%2 : i%2+1]
				if d.Shell(b, fmt.Sprintf(`$D network connect %s c%d; $D network disconnect %s c%d`, n, w, n, w)).Code == 0 {
					done.Add(1)
				}
			}
		})
	}
	for round := range rounds {
		before := done.Load()
		harness.Eventually(t, 2*time.Minute, "somebody is connected and disconnected", func() bool { return done.Load() > before })
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		d.Kill()
		if err := d.Launch(); err != nil {
			cancel()
			workers.Wait()
			t.Fatalf("round %d: the daemon does not start again: %v", round, err)
		}
	}
	cancel()
	workers.Wait()
	t.Logf("%d times in %d rounds", done.Load(), rounds)
	for _, c := range []string{"c0", "c1"} {
		d.Shell(b, `for n in a b; do $D network disconnect $n `+c+` 2>/dev/null; done; true`)
		d.Shell(b, `$D inspect -f '{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}' `+c).Prints("bridge \n")
		d.Shell(b, `$D exec `+c+` sh -c 'ls /sys/class/net | tr "\n" " "'`).Prints("eth0 lo ")
		d.Shell(b, `$D exec `+c+` sh -c 'ping -c 1 -W 5 host.docker.internal >/dev/null && echo up'`).Prints("up\n")
	}
	for _, n := range []string{"a", "b"} {
		link := `/sys/class/net/br-` + d.Must(`$D network inspect -f '{{.Id}}' ` + n)[:12] + `/brif`
		harness.Eventually(t, 2*time.Minute, "no link is left on network "+n, func() bool {
			left, err := os.ReadDir(link)
			return err == nil && len(left) == 0
		})
		d.Shell(b, `$D network rm `+n).Prints(n + "\n")
	}
}

// TestNetworkUpdate: ports and bandwidth of a container change while it runs, and stay so.
func TestNetworkUpdate(t *testing.T) {
	d := harness.Start(t)
	one, two := harness.FreePort(t), harness.FreePort(t)
	obey(t, d, d.Berth(), []step{
		{line: `$D run -d --name web --network-opt rx=50mbit,tx=20mbit -p 127.0.0.1:` + one + `:80 berth/box sh -c 'while :; do echo served | nc -l -p 80; done' | wc -c`, out: "65\n"},
		{line: `$D inspect -f '{{index .NetworkSettings.Networks.bridge.DriverOpts "rx"}} {{index .NetworkSettings.Networks.bridge.DriverOpts "tx"}}' web`, out: "50mbit 20mbit\n"},
		{line: `$D update --publish-add 127.0.0.1:` + two + `:80 --publish-rm ` + one + `:80 --network-opt tx=0 web`, out: "web\n"},
		{line: `$D port web`, out: "80/tcp -> 127.0.0.1:" + two + "\n"},
		{line: `$D inspect -f '{{index .NetworkSettings.Networks.bridge.DriverOpts "tx"}}' web`, out: "0\n"},
		{line: soon(`$D run --rm --network host berth/box nc 127.0.0.1 ` + two + ` </dev/null`), out: "served\n"},
		{line: `$D run --rm --network host berth/box nc -w 2 127.0.0.1 ` + one + ` </dev/null >/dev/null 2>&1; [ $? -ne 0 ] && echo closed`, out: "closed\n"},
		{line: `$D update --publish-rm 81 web`, code: 1, err: "does not publish port 81/tcp"},
		{line: `$D update --publish-add ` + two + `:80 web`, code: 1, err: "port is already allocated"},
		{line: `$D update --network-opt rx=fast web`, code: 1, err: `invalid value "fast" of option "rx"`},
		{line: `$D update --network-opt other:rx=1mbit web`, code: 1, err: `not connected to network "other"`},
		{line: `$D update --network-opt rx web`, code: 1, err: "invalid network option"},
		{line: `$D restart -t 0 web && $D port web`, out: "web\n80/tcp -> 127.0.0.1:" + two + "\n"},
		{line: `$D stop -t 0 web && $D update --publish-add 127.0.0.1:` + one + `:80 web && $D start web && $D port web | wc -l`, out: "web\nweb\nweb\n2\n"},
		{line: `$D run -d --name quiet --network none berth/box sleep 1000 | wc -c`, out: "65\n"},
		{line: `$D update --publish-add 80 quiet`, code: 1, err: "no network of its own"},
	})
	if t.Failed() {
		return
	}
	d.Kill()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	obey(t, d, d.Berth(), []step{
		{line: `$D port web | wc -l`, out: "2\n"},
		{line: soon(`$D run --rm --network host berth/box nc 127.0.0.1 ` + one + ` </dev/null`), out: "served\n"},
		{line: `$D update --publish-rm 80 web && $D port web | wc -l`, out: "web\n0\n"},
	})
}
