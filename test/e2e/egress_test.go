package e2e

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
	mdns "github.com/miekg/dns"
)

// TestEgress: where containers may go is said on the command line and by Docker's clients, holds from the first packet,
// changes while they run, outlives the daemon, and what was refused is told.
func TestEgress(t *testing.T) {
	d := harness.Start(t)
	gateway := netip.MustParsePrefix(d.Subnet).Addr().String()
	greet := func() string {
		l, err := net.Listen("tcp", gateway+":0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("hello\n"))
				c.Close()
			}
		}()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return port
	}
	one, two := greet(), greet()
	pc, err := net.ListenPacket("udp", gateway+":53")
	if err != nil {
		t.Fatal(err)
	}
	s := &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		if strings.HasSuffix(q.Question[0].Name, ".example.") && q.Question[0].Qtype == mdns.TypeA {
			m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60}, A: net.ParseIP(gateway)}}
		}
		_ = w.WriteMsg(m)
	})}
	t.Cleanup(func() { _ = s.Shutdown() })
	go func() { _ = s.ActivateAndServe() }()

	get := func(in, host, port string) string {
		return `$D exec ` + in + ` nc -w 20 ` + host + ` ` + port + ` </dev/null`
	}
	not := func(in, host, port string) string {
		return `$D exec ` + in + ` nc -w 20 ` + host + ` ` + port + ` </dev/null >/dev/null 2>&1; [ $? -ne 0 ] && echo refused`
	}
	obey(t, d, d.Berth(), []step{
		{line: `$D run --rm --egress allow=` + gateway + `:` + one + `/tcp berth/box nc -w 20 ` + gateway + ` ` + one + ` </dev/null`, out: "hello\n"},
		{line: `$D run -d --name web --egress allow=` + gateway + `:` + one + ` --egress 'allow=ok.example:` + two + `' --dns ` + gateway + ` berth/box sleep 1000 | wc -c`, out: "65\n"},
		{line: get("web", gateway, one), out: "hello\n"},
		{line: not("web", gateway, two), out: "refused\n"},
		{line: get("web", "ok.example", two), out: "hello\n"},
		{line: not("web", "other.example", two), out: "refused\n"},
		{line: `i=0; until [ $($D network log web | wc -l) -ge 3 ] || [ $i -ge 600 ]; do i=$((i+1)); sleep 0.1; done`}, // the kernel tells of them later
		{line: `$D network log web | awk '{print $(NF-1)}' | sort`, out: gateway + ":" + two + "/tcp\nTO\nother.example\n"},
		{line: `$D network log --format '{{.Container}} {{.Network}} {{.To}}' bridge`, out: "web bridge " + gateway + ":" + two + "/tcp\n"},
		{line: `$D events --since 10m --until "$(($(date +%s)+1))" --filter event=egress_refused | grep -o 'to=[^,)]*\|domain=[^,)]*\|name=[^,)]*' | sort -u`,
			out: "domain=other.example\nname=web\nto=" + gateway + "\n"},
		{line: `$D inspect -f '{{index .NetworkSettings.Networks.bridge.DriverOpts "com.berth.network.egress"}}' web`, out: "allow=" + gateway + ":" + one + ",allow=ok.example:" + two + "\n"},
		{line: `$D update --egress deny=all:` + one + `/tcp web && ` + not("web", gateway, one), out: "web\nrefused\n"},
		{line: get("web", gateway, two), out: "hello\n"},
		{line: `$D update --egress off web && ` + get("web", gateway, one), out: "web\nhello\n"},
		{line: `$D update --egress allow=` + gateway + `:` + one + ` web`, out: "web\n"},

		{line: `$D network create --egress deny=` + gateway + `:` + one + ` few | wc -c; $D network inspect -f '{{index .Options "com.berth.network.egress"}}' few`, out: "65\ndeny=" + gateway + ":" + one + "\n"},
		{line: `$D run -d --name in --network few berth/box sleep 1000 | wc -c`, out: "65\n"},
		{line: not("in", gateway, one), out: "refused\n"},
		{line: get("in", gateway, two), out: "hello\n"},
		{line: `$D network update --egress default=deny few && ` + not("in", gateway, two), out: "refused\n"},
		// One more network is no way around.
		{line: `$D network create free | wc -c; $D run -d --name two --network few --egress allow=` + gateway + `:` + two + ` berth/box sleep 1000 | wc -c; $D network connect free two; $D network disconnect few two`, out: "65\n65\n"},
		{line: get("two", gateway, two), out: "hello\n"},
		{line: not("two", gateway, one), out: "refused\n"},

		{line: `$D run --rm --egress allow= berth/box true`, code: 125, err: "no address and no domain"},
		{line: `$D run --rm --egress 10.0.0.0/8 berth/box true`, code: 125, err: "allow=WHERE"},
		{line: `$D create --egress allow=10.0.0.1/8 berth/box true`, code: 1, err: "10.0.0.0/8"},
		{line: `$D run --rm --network host --egress default=deny berth/box true`, code: 125, err: "conflicting options: --egress"},
		{line: `$D network create --egress nonsense b`, code: 1, err: "invalid value"},
		{line: `$D network update --egress nonsense few`, code: 1, err: "invalid egress policy"},
		{line: `$D network update few`, code: 1, err: "nothing to change"},
		{line: `$D network update --egress off bridge`, code: 1, err: "give one to its containers"},
		{line: `$D update --egress nonsense web`, code: 1, err: "invalid value"},
		{line: `$D network log nobody`, code: 1, err: "No such container: nobody"},
	})
	for _, c := range d.Clients()[1:] {
		obey(t, d, c, []step{
			{line: `$D network create -o com.berth.network.egress='allow=` + gateway + `:` + two + `;resolve=all' theirs | wc -c`, out: "65\n"},
			{line: `$D run -d --name there --network theirs berth/box sleep 1000 | wc -c`, out: "65\n"},
			{line: get("there", gateway, two), out: "hello\n"},
			{line: not("there", gateway, one), out: "refused\n"},
			{line: `$D run -d --name mine --network name=bridge,driver-opt=com.berth.network.egress=deny=all:` + one + ` berth/box sleep 1000 | wc -c`, out: "65\n"},
			{line: not("mine", gateway, one), out: "refused\n"},
			{line: get("mine", gateway, two), out: "hello\n"},
			{line: `$D rm -f there mine >/dev/null; $D network rm theirs`, out: "theirs\n"},
		})
	}
	if t.Failed() {
		return
	}
	kept := []step{
		{line: get("web", gateway, one), out: "hello\n"},
		{line: not("web", gateway, two), out: "refused\n"},
		{line: not("in", gateway, two), out: "refused\n"},
	}
	d.Kill()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	obey(t, d, d.Berth(), append(kept,
		step{line: `$D restart -t 0 web && ` + get("web", gateway, one), out: "web\nhello\n"},
		step{line: not("web", gateway, two), out: "refused\n"}))
}
