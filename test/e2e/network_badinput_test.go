package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestNetworkBadInput: what cannot be is said in a sentence, and leaves nothing behind.
func TestNetworkBadInput(t *testing.T) {
	d := harness.Start(t, harness.Options{Args: []string{"--default-address-pool", "base=10.254.88.0/23,size=24"}})
	// A port of either protocol that a program of the host has.
	tcp, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	port := func(a net.Addr) string {
		text := a.String()
		return text[strings.LastIndexByte(text, ':')+1:]
	}
	taken, takenUDP := port(tcp.Addr()), port(udp.LocalAddr())
	// A link that has the name somebody wants for a bridge.
	link := d.Bridge + "x"
	if out, err := exec.Command("ip", "link", "add", link, "type", "veth", "peer", "name", link+"y").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", link).Run() })
	below, err := strconv.Atoi(taken)
	if err != nil {
		t.Fatal(err)
	}
	obey(t, d, d.Berth(), []step{
		{line: `$D network create --subnet 10.254.90.0/24 a | wc -c`, out: "65\n"},
		{line: `$D network create --subnet 10.254.90.128/25 b`, code: 1, err: "Pool overlaps with other one on this address space"},
		{line: `$D network create --subnet 10.254.0.0/16 b`, code: 1, err: "Pool overlaps"},
		{line: `$D network create --subnet ` + strings.Replace(d.Subnet, ".1/", ".0/", 1) + ` b`, code: 1, err: "Pool overlaps"},
		{line: `$D network create --subnet 10.254.91.0/24 --gateway 10.254.92.1 b`, code: 1, err: "no matching subnet for gateway 10.254.92.1"},
		{line: `$D network create --subnet 10.254.91.0/24 --ip-range 10.254.92.0/25 b`, code: 1, err: "no matching subnet for range 10.254.92.0/25"},
		{line: `$D network create --subnet 10.254.91.0/31 b`, code: 1, err: "no room"},
		{line: `$D network create --subnet 10.254.91.7/24 b`, code: 1, err: "10.254.91.0/24"},
		{line: `$D network create -o com.docker.network.bridge.name=` + link + ` b`, code: 1, err: "has a link of type"},
		{line: `$D network create -o com.docker.network.bridge.name=` + d.Bridge + ` b`, code: 1, err: "bridge"},
		{line: `$D network create -o com.docker.network.bridge.name=much-too-long-for-a-link b`, code: 1, err: "cannot be the name of a link"},
		{line: `$D network create -o berth.bridge.allow_spoofing=perhaps b`, code: 1, err: "invalid value"},
		{line: `$D network create -o berth.bridge.nonsense=1 b`, code: 1, err: "unknown option"},
		{line: `$D network create --subnet 0.0.0.0/0 b`, code: 1, err: "cannot be a container's"},
		{line: `$D network create --subnet 10.254.91.7/32 b`, code: 1, err: "no room"},
		{line: `$D network create --subnet 10.254.91.0/24 --gateway 10.254.91.9 --aux-address r=10.254.91.9 b`, code: 1, err: "gateway"},
		{line: `for mtu in 0 1 65536 "$(printf '1500\nx')"; do $D network create -o com.docker.network.driver.mtu="$mtu" b 2>&1 | grep -c 'invalid value'; done`, out: "1\n1\n1\n1\n"},
		{line: `$D network create -o com.docker.network.bridge.name=all b`, code: 1, err: "cannot be the name of a link"},
		{line: `$D network create "$(printf 'a\033[2Jb')"`, code: 1, err: "invalid network name"},
		{line: `$D network create $($D network inspect -f '{{.Id}}' a)`, code: 1, err: "already exists"},

		// Pools and subnets come to an end.
		{line: `$D network create p1 | wc -c; $D network create p2 | wc -c; $D network create p3`, code: 1, out: "65\n65\n", err: "all predefined address pools have been fully subnetted"},
		{line: `$D network rm p1 >/dev/null; $D network create p3 | wc -c`, out: "65\n"},
		{line: `$D network create --subnet 10.254.91.0/29 small | wc -c; for i in 1 2 3 4 5; do $D run -d --name s$i --network small berth/box sleep 1000 | wc -c; done`, out: strings.Repeat("65\n", 6)},
		{line: `$D run --rm --network small berth/box true`, code: 125, err: "no available IP addresses"},
		{line: `$D run --rm --network small --ip 10.254.91.2 berth/box true`, code: 125, err: "Address already in use"},
		{line: `$D run --rm --network small --ip 10.254.90.2 berth/box true`, code: 125, err: "no configured subnet"},
		{line: `$D rm -f s1 >/dev/null; $D run --rm --network small berth/box echo free`, out: "free\n"},

		// Taken ports: one sentence, nothing is published, and what had been taken is free again.
		{line: `$D run --rm -p ` + taken + `:80 berth/box true`, code: 125, err: "port is already allocated"},
		{line: `$D run --rm -p ` + takenUDP + `:80/udp berth/box true`, code: 125, err: "port is already allocated"},
		{line: `$D run --rm -p 127.0.0.1:` + taken + `:80 berth/box true`, code: 125, err: "port is already allocated"},
		{line: fmt.Sprintf(`$D run --rm -p %d-%d:80-82 berth/box true`, below-1, below+1), code: 125, err: "port is already allocated"},
		{line: fmt.Sprintf(`$D run --rm -p %d:80/udp berth/box echo free`, below-1), out: "free\n"},
		{line: `$D run --rm -p 203.0.113.77:1234:80 berth/box true`, code: 125, err: "the host has no address 203.0.113.77"},
		{line: `$D run --rm -p 70000:80 berth/box true`, code: 125, err: "70000"},
		{line: `$D run --rm -p 80-70:80-70 berth/box true`, code: 125, err: "80-70"},
		{line: fmt.Sprintf(`$D run --rm -p %d-%d:80-81 -p %d:90 berth/box true`, below-2, below-1, below-1), code: 125, err: "port is already allocated"},
		{line: `$D run --rm -p 8000-8002:80-81 berth/box true`, code: 125, err: "8000-8002"},
		{line: `$D run --rm -p '[fe80::1]:1234:80' berth/box true`, code: 125, err: "one link only"},
		{line: `$D run --rm -p 224.0.0.1:1234:80 berth/box true`, code: 125, err: "many hosts"},
		{line: `$D run --rm --sysctl net.ipv4/../../kernel.core_pattern=x berth/box true`, code: 125, err: "sysctl"},

		// Names and addresses of interfaces.
		{line: `$D run --rm --network name=a,driver-opt=com.docker.network.endpoint.ifname=eth0 --network name=small,driver-opt=com.docker.network.endpoint.ifname=eth0 berth/box true`, code: 125, err: "interface \"eth0\" already"},
		{line: `$D run -d --name one --network name=a,mac-address=02:00:00:00:00:07 berth/box sleep 1000 | wc -c; $D run --rm --network name=a,mac-address=02:00:00:00:00:07 berth/box true`, code: 125, out: "65\n", err: "already in use"},
		{line: `$D run --rm --network name=a,mac-address=01:00:00:00:00:07 berth/box true`, code: 125, err: "mac"},
		{line: `$D run --rm --network name=a --network name=a berth/box true`, code: 125},
		{line: `$D exec --privileged one ip link set eth0 down; $D network connect --driver-opt com.docker.network.endpoint.ifname=eth0 small one`, code: 1, err: "eth0"},
		{line: `$D exec one ls /sys/class/net | tr '\n' ' '`, out: "eth0 lo "},
		{line: `$D rm -f one s2 s3 s4 s5 | wc -l; $D ps -aq | wc -l; $D network rm a p2 p3 small`, out: "5\n0\na\np2\np3\nsmall\n"},
	})
}
