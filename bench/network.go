package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The benchmark of networks (-network): streams by iperf3 and requests by ab to nginx, from Debian's packages, in containers of
// each engine. The outside is a container without a network, with a cable to the engine's host.

const (
	cableHost, cableOut = "198.18.9.1", "198.18.9.2"
	webPort, streamPort = "8080", "5201"
	// neighbourPort is of a server that the host has not used a minute ago, whose connections it would remember (docs/network).
	neighbourPort = "8081"
)

// networkEngines are Berth, and Docker with and without a process per published port.
func networkEngines() []func(*bench) *engine {
	return []func(*bench) *engine{newBerth,
		dockerWith("docker", "Docker", "10.214.2.1/24"),
		dockerWith("docker-noproxy", "Docker without proxy", "10.214.3.1/24", "--userland-proxy=false")}
}

// networkImage is the archive that the end-to-end tests make and keep, or one of our own.
func (b *bench) networkImage() error {
	if cache, err := os.UserCacheDir(); err == nil {
		b.image = filepath.Join(cache, "berth-test", "debian-12-network.tar")
		if _, err := os.Stat(b.image); err == nil {
			return nil
		}
	}
	progress("making a Debian with iperf3, ab and nginx")
	b.image = filepath.Join(b.dir, "network.tar")
	out, err := exec.Command("mmdebstrap", "--variant=minbase", "--quiet", "--include=iperf3,nginx-light,apache2-utils,iproute2,curl",
		"bookworm", b.image).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w: %s", err, lastLine(string(out)))
	}
	return nil
}

// measureNetwork goes through every row.
func (b *bench) measureNetwork() {
	for _, e := range b.alive() {
		progress("%s: containers and the outside", e.title)
		if err := e.networkScene(); err != nil {
			b.note("%s is not measured: %v", e.title, err)
			e.dead = true
		}
	}
	stream := func(from, to, port string) func(*engine) (float64, error) {
		return func(e *engine) (float64, error) { return e.stream(from, e.address(to), port, b.seconds) }
	}
	requests := func(from, to, port string) func(*engine) (float64, error) {
		return func(e *engine) (float64, error) {
			return e.requests(from, net.JoinHostPort(e.address(to), port), b.requests)
		}
	}
	b.inTurnsOf("stream, container → host", "Gbit/s", stream("cli", "gateway", "5301"))
	b.inTurnsOf("stream, container → container", "Gbit/s", stream("cli", "server", streamPort))
	b.inTurnsOf("stream, outside → published port", "Gbit/s", stream("out", cableHost, streamPort))
	b.inTurnsOf("stream, host → published port by 127.0.0.1", "Gbit/s", stream("host", "127.0.0.1", streamPort))
	b.inTurnsOf("requests, outside → published port", "1/s", requests("out", cableHost, webPort))
	b.inTurnsOf("requests, host → published port by 127.0.0.1", "1/s", requests("host", "127.0.0.1", webPort))
	b.inTurnsOf("requests, container → container's published port", "1/s", requests("cli", cableHost, neighbourPort))
	b.inTurnsOf("`network connect`", "ms", func(e *engine) (float64, error) {
		took, err := e.cli("network", "connect", "other", "cli")
		if err == nil {
			_, err = e.cli("network", "disconnect", "other", "cli")
		}
		return ms(took), err
	})
	b.inTurnsOf("`run -d` with 20 published ports", "ms", func(e *engine) (float64, error) {
		return e.manyPorts("20000-20019")
	})
	b.tenThousand()
}

// networkScene starts what is measured with.
func (e *engine) networkScene() error {
	const image = "bench:1"
	for _, args := range [][]string{
		{"network", "create", "other"},
		{"run", "-d", "--name", "out", "--network", "none", image, "sleep", "100000"},
		{"run", "-d", "--name", "host", "--network", "host", image, "iperf3", "-s", "-p", "5301"},
		{"run", "-d", "--name", "cli", image, "sleep", "100000"},
		{"run", "-d", "--name", "server", "-p", webPort + ":80", "-p", streamPort + ":" + streamPort, image, "sh", "-c",
			"iperf3 -s -D; exec nginx -g 'daemon off;'"},
		{"run", "-d", "--name", "neighbour", "-p", neighbourPort + ":80", image, "nginx", "-g", "daemon off;"},
	} {
		if _, err := e.cli(args...); err != nil {
			return err
		}
	}
	pid, err := e.say("inspect", "-f", "{{.State.Pid}}", "out")
	if err != nil {
		return err
	}
	for _, line := range []string{"ip link add out0 type veth peer name up0 netns " + pid, "ip addr add " + cableHost + "/24 dev out0",
		"ip link set out0 up"} {
		if _, err := e.run(nil, strings.Fields(line)...); err != nil {
			return err
		}
	}
	for _, line := range []string{"ip addr add " + cableOut + "/24 dev up0", "ip link set up0 up"} {
		if _, err := e.run(nil, append([]string{"nsenter", "-t", pid, "-n"}, strings.Fields(line)...)...); err != nil {
			return err
		}
	}
	ready := fmt.Sprintf("until curl --fail-early -s http://%[1]s:%[2]s/ http://%[1]s:%[3]s/ >/dev/null && : <>/dev/tcp/%[1]s/%[4]s; do sleep 0.1; done",
		cableHost, webPort, neighbourPort, streamPort)
	_, err = e.cli("exec", "out", "timeout", "60", "bash", "-c", ready)
	return err
}

// say is what a command of the engine prints.
func (e *engine) say(args ...string) (string, error) {
	return e.output(e.env, slices.Concat(e.client, args)...)
}

// address is that of a container, "gateway" for the one of the host on the default network, or what it was given.
func (e *engine) address(of string) string {
	format := "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
	switch of {
	case "gateway":
		of, format = "cli", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}"
	case "server":
	default:
		return of
	}
	text, _ := e.say("inspect", "-f", format, of) // iperf3 says what is wrong with an empty one
	return text
}

// stream is the rate at which bytes arrive.
func (e *engine) stream(from, to, port string, seconds int) (float64, error) {
	text, err := e.say("exec", from, "iperf3", "-J", "-c", to, "-p", port, "-t", strconv.Itoa(seconds))
	if err != nil {
		return 0, err
	}
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return 0, fmt.Errorf("iperf3: %w", err)
	}
	if r.Error != "" {
		return 0, errors.New("iperf3: " + r.Error)
	}
	return r.End.Received.BitsPerSecond / 1e9, nil
}

var perSecond = regexp.MustCompile(`Requests per second: +([0-9.]+)`)

// requests is how many connections with one request each are served in a second, 16 at a time.
func (e *engine) requests(from, at string, count int) (float64, error) {
	text, err := e.say("exec", from, "ab", "-q", "-n", strconv.Itoa(count), "-c", "16", "http://"+at+"/")
	if err != nil {
		return 0, err
	}
	m := perSecond.FindStringSubmatch(text)
	if m == nil {
		return 0, errors.New("ab: " + lastLine(text))
	}
	return strconv.ParseFloat(m[1], 64)
}

// manyPorts starts a container with a range of ports, and removes it.
func (e *engine) manyPorts(ports string) (float64, error) {
	took, err := e.cli("run", "-d", "--name", "many", "-p", ports+":"+ports, "bench:1", "sleep", "100000")
	_, rmErr := e.cli(slices.Concat(e.remove, []string{"many"})...)
	return ms(took), errors.Join(err, rmErr)
}

// tenThousand is asked of Berth alone: of others it would take minutes, or 20,000 processes.
func (b *bench) tenThousand() {
	i := slices.IndexFunc(b.alive(), func(e *engine) bool { return e.name == "berth" })
	if i < 0 || !b.match.MatchString("10,000 published ports") {
		return
	}
	progress("10,000 published ports")
	e := b.alive()[i]
	memory := func() float64 {
		time.Sleep(rest) // what the daemon let go of before is given back by then
		sum := 0.0
		for _, p := range processes() {
			if strings.Contains(strings.Join(p.args, " "), filepath.Join(b.dir, e.name)) {
				sum += pss(p.pid)
			}
		}
		return sum
	}
	plain := row{what: "`run -d`", unit: "ms", values: map[string][]float64{}}
	times := row{what: "`run -d` with 10,000 published ports", unit: "ms", values: map[string][]float64{}}
	grown := row{what: "memory of 10,000 published ports, daemon and helpers", unit: "MB", values: map[string][]float64{}}
	for range b.rounds {
		took, err := e.cli("run", "-d", "--name", "many", "bench:1", "sleep", "100000")
		plain.add(e.name, ms(took))
		_, rmErr := e.cli("rm", "-f", "many")
		before := memory()
		if err == nil && rmErr == nil {
			took, err = e.cli("run", "-d", "--name", "many", "-p", "20000-29999:20000-29999", "bench:1", "sleep", "100000")
			times.add(e.name, ms(took))
			grown.add(e.name, memory()-before)
			_, rmErr = e.cli("rm", "-f", "many")
		}
		if err = errors.Join(err, rmErr); err != nil {
			b.note("10,000 ports: %v", err)
			return
		}
	}
	b.rows = append(b.rows, plain, times, grown)
}

// pause is how long an engine has to finish what goes on behind the answer to its last command, so that the next one does not pay.
const pause = 300 * time.Millisecond

// inTurnsOf measures all engines round by round, each round beginning with another; the first round warms up and does not count.
func (b *bench) inTurnsOf(what, unit string, once func(*engine) (float64, error)) {
	if !b.match.MatchString(what) {
		return
	}
	progress("%s", what)
	r := row{what: what, unit: unit, values: map[string][]float64{}}
	failed := map[string]bool{}
	for round := range b.rounds + 1 {
		alive := b.alive()
		for i := range alive {
			e := alive[(i+round)%len(alive)]
			if failed[e.name] {
				continue
			}
			time.Sleep(pause)
			v, err := once(e)
			if err != nil {
				b.note("%s, %s: %v", what, e.title, err)
				failed[e.name] = true
				continue
			}
			if round > 0 {
				r.add(e.name, v)
			}
		}
	}
	b.rows = append(b.rows, r)
}

// networkReport writes the table.
func (b *bench) networkReport() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Benchmark of networks\n\nMade by `make bench-net` on %s in %s; medians of %d rounds in turns, streams of %d s, %d requests on as many connections.\n"+
		"What counts are ratios within one row. For streams and requests more is better, for times less. A ratio is the median of the rounds' "+
		"own ratios; in brackets their quartiles: where 1 lies between them no difference is shown.\n\n",
		b.started.UTC().Format("2006-01-02 15:04 MST"), time.Since(b.started).Round(time.Second), b.rounds, b.seconds, b.requests)
	s.WriteString("| | unit |")
	for _, e := range b.engines {
		fmt.Fprintf(&s, " %s %s |", e.title, e.version)
	}
	s.WriteString(" Berth ÷ Docker | ÷ without proxy |\n|---|---|" + strings.Repeat("---:|", len(b.engines)+2) + "\n")
	for _, r := range b.rows {
		fmt.Fprintf(&s, "| %s | %s |", r.what, r.unit)
		for _, e := range b.engines {
			if v, ok := r.median(e.name); ok {
				fmt.Fprintf(&s, " %.4g |", v)
			} else {
				s.WriteString(" – |")
			}
		}
		for _, other := range []string{"docker", "docker-noproxy"} {
			s.WriteString(" " + r.ratios("berth", other) + " |")
		}
		s.WriteString("\n")
	}
	for _, n := range b.notes {
		fmt.Fprintf(&s, "\n- %s", n)
	}
	s.WriteString("\n")
	return s.String()
}
