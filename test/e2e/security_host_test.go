package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// statusOf reads a number of kB from the daemon's /proc/PID/status.
func (h *hostile) statusOf(t *testing.T, field string) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.d.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(field + `:\s+(\d+)`).FindSubmatch(data)
	if m == nil {
		t.Fatalf("no %s in the daemon's status", field)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n
}

// bounded runs f and checks that the daemon's memory did not grow by more than MiB megabytes at any moment of it.
func (h *hostile) bounded(t *testing.T, what string, MiB int, f func()) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", h.d.Pid), []byte("5"), 0); err != nil { // the peak begins anew
		t.Fatal(err)
	}
	before := h.statusOf(t, "VmHWM")
	f()
	if grown := (h.statusOf(t, "VmHWM") - before) >> 10; grown > MiB {
		t.Errorf("%s: the daemon grew by %d MiB", what, grown)
	}
}

// bombs: what comes with an image is bounded in memory, however small it looks (CVE-2017-14992, CVE-2023-25153,
// CVE-2021-21285).
func bombs(t *testing.T, h *hostile) {
	const size = 256 << 20
	for _, bomb := range []struct{ name, before, after string }{
		{"manifest.json", `[{"Config":"`, `"}]`},
		{"index.json", `{"schemaVersion":2,"manifests":[`, `]}`},
		{"blobs/sha256/" + strings.Repeat("0", 64), "", ""},
	} {
		var buf bytes.Buffer
		zw, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		tw := tar.NewWriter(zw)
		for _, e := range []entry{{name: "oci-layout", text: `{"imageLayoutVersion":"1.0.0"}`}} {
			_ = tw.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: int64(len(e.text)), Typeflag: tar.TypeReg})
			_, _ = io.WriteString(tw, e.text)
		}
		_ = tw.WriteHeader(&tar.Header{Name: bomb.name, Mode: 0o644, Size: int64(size + len(bomb.before) + len(bomb.after)), Typeflag: tar.TypeReg})
		_, _ = io.WriteString(tw, bomb.before)
		spaces := bytes.Repeat([]byte(" "), 1<<20)
		for range size >> 20 {
			_, _ = tw.Write(spaces)
		}
		_, _ = io.WriteString(tw, bomb.after)
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		h.bounded(t, bomb.name, 96, func() { h.loadTar(t, buf.Bytes()).Exits(1) })
	}
	// A layer whose next header is 256 MiB of name.
	var layer bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&layer, gzip.BestSpeed)
	head := makeTar(t, []entry{{name: "x", kind: tar.TypeReg}})[:512]
	head[156] = 'L'
	copy(head[124:136], fmt.Sprintf("%011o\x00", size))
	copy(head[148:156], "        ")
	sum := 0
	for _, b := range head {
		sum += int(b)
	}
	copy(head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	_, _ = zw.Write(head)
	for range size >> 20 {
		_, _ = zw.Write(bytes.Repeat([]byte("a"), 1<<20))
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	h.bounded(t, "a long name", 96, func() { h.load(t, "bomb", nil, layer.Bytes()).Exits(1) })
	if err := os.WriteFile(filepath.Join(h.d.Dir, "bomb.gz"), layer.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	h.bounded(t, "import", 96, func() { h.run(t, `$D import bomb.gz bomb:1`).Exits(1) })
	for _, bad := range []string{`null`, `[]`, `[null]`, `[{}]`, `{"a":1}`, `[{"Config":null,"Layers":null}]`, `[{"Config":"c","Layers":[null]}]`} {
		h.loadTar(t, makeTar(t, []entry{{name: "manifest.json", kind: tar.TypeReg, text: bad}, {name: "c", kind: tar.TypeReg, text: "null"}})).Exits(1)
	}
}

// foreignLayers: a layer's own address is not asked, least of all with somebody's password (CVE-2020-15157).
func foreignLayers(t *testing.T, h *hostile) {
	var asked atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("WWW-Authenticate", `Basic realm="thief"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer thief.Close()
	reg := &badRegistry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	srv := httptest.NewServer(reg)
	defer srv.Close()
	layer := makeTar(t, []entry{{name: "x", kind: tar.TypeReg, text: "x"}})
	config := mustJSON(t, map[string]any{"architecture": "amd64", "os": "linux", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{blob(layer)}}})
	reg.blobs["foreign@"+blob([]byte(config))] = []byte(config)
	for _, kind := range []string{"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar"} {
		reg.manifests["foreign:1"] = []byte(mustJSON(t, map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
			"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob([]byte(config)), "size": len(config)},
			"layers": []any{map[string]any{"mediaType": kind, "digest": blob(layer), "size": len(layer), "urls": []string{thief.URL + "/layer"}}}}))
		h.run(t, `$D pull -q `+strings.TrimPrefix(srv.URL, "http://")+`/foreign:1`).Exits(1)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the address in a manifest was asked %d times", n)
	}
}

// privateFiles: other users of the machine reach neither layers, volumes nor logs, nor the monitors' sockets (CVE-2021-41091,
// CVE-2021-41103, CVE-2024-25621), and no socket has a name that needs no file (CVE-2020-15257).
func privateFiles(t *testing.T, h *hostile) {
	h.obey(t, step{line: `$D run -d --name private -v private:/v plain sh -c 'cp /bin/box /v/setuid; cp /bin/box /setuid; chmod 4755 /v/setuid /setuid; echo ready; sleep 100' | wc -c`, out: "65\n"})
	harness.Eventually(t, time.Minute, "the container is ready", func() bool { return h.run(t, `$D logs private`).Out == "ready\n" })
	// The harness keeps others out of its folder; here it must be the daemon's doing.
	if err := os.Chmod(h.d.Dir, 0o711); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(h.d.Dir, 0o700)
	reached, sockets := 0, 0
	walk := func(root string) {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile
			}
			if e.Type()&fs.ModeSocket != 0 {
				sockets++
			}
			if !strings.HasSuffix(path, "/setuid") && !strings.HasSuffix(path, ".log") && !strings.HasSuffix(path, ".json") && !strings.HasSuffix(path, ".db") && e.Type()&fs.ModeSocket == 0 {
				return nil
			}
			reached++
			if closed(h.d.Dir, path) {
				return nil
			}
			t.Errorf("other users of the machine reach %s", path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk(h.d.DataRoot)
	walk(h.d.ExecRoot)
	if reached < 5 || sockets < 2 {
		t.Errorf("%d files and %d sockets were looked at: this shows nothing", reached, sockets)
	}
	// Abstract sockets of the daemon and of the monitor.
	inodes := map[string]bool{}
	monitors, err := exec.Command("pgrep", "-P", strconv.Itoa(h.d.Pid)).Output()
	if err != nil {
		t.Fatalf("the daemon has no child: %v", err)
	}
	for _, pid := range append(strings.Fields(string(monitors)), strconv.Itoa(h.d.Pid)) {
		fds, _ := filepath.Glob("/proc/" + pid + "/fd/*")
		for _, fd := range fds {
			if link, err := os.Readlink(fd); err == nil && strings.HasPrefix(link, "socket:[") {
				inodes[strings.Trim(link[7:], "[]")] = true
			}
		}
	}
	unix, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(unix)) {
		f := strings.Fields(line)
		if len(f) < 7 || !inodes[f[6]] {
			continue
		}
		if seen++; len(f) > 7 && strings.HasPrefix(f[7], "@") {
			t.Errorf("an abstract socket: %s", line)
		}
	}
	if seen == 0 {
		t.Error("no socket of the daemon was found: this shows nothing")
	}
	h.obey(t, step{line: `$D run --rm --network host plain sh -c 'grep -c "@.*berth" /proc/net/unix'`, code: 1, out: "0\n"},
		step{line: `$D rm -f private; $D volume rm private`, out: "private\nprivate\n"})
}

// closed tells whether some directory on the way to path, or the file itself, keeps other users out.
func closed(from, path string) bool {
	rel, err := filepath.Rel(from, path)
	if err != nil {
		return false
	}
	for _, part := range strings.Split(filepath.Dir(rel), "/") {
		from = filepath.Join(from, part)
		fi, err := os.Stat(from)
		if err != nil || fi.Mode().Perm()&0o001 == 0 {
			return true
		}
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return true
	}
	if fi.Mode().IsRegular() && fi.Mode()&fs.ModeSetuid == 0 {
		return fi.Mode().Perm()&0o004 == 0
	}
	return fi.Mode().Perm()&0o007 == 0
}

// request is one request by hand; it returns the status and what was answered.
func (h *hostile) request(t *testing.T, raw string, body io.Reader) string {
	t.Helper()
	conn, err := net.Dial("unix", h.d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	if body != nil {
		_, _ = io.Copy(conn, body) // it may be refused halfway
	}
	if c, ok := conn.(*net.UnixConn); ok {
		_ = c.CloseWrite()
	}
	answer, _ := io.ReadAll(io.LimitReader(conn, 1<<20)) // a connection that is broken off is an answer, too
	return string(answer)
}

// oversizedRequests: a body is as long as it is said to be, and no longer than is good (CVE-2024-41110, CVE-2026-34040,
// CVE-2018-20699).
func oversizedRequests(t *testing.T, h *hostile) {
	const create = `{"Image":"plain","Cmd":["true"]}`
	head := "POST /v1.44/containers/create?name=smuggled HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
	for _, raw := range []string{
		head + "Content-Length: 0\r\n\r\n" + create,
		head + "\r\n" + create,
		head + "Content-Length: 5\r\n\r\n" + create,
		head + "Content-Length: 0\r\nContent-Length: " + strconv.Itoa(len(create)) + "\r\n\r\n" + create,
		head + "Content-Length: -1\r\n\r\n" + create,
		head + "Content-Length: 0\r\nTransfer-Encoding: identity\r\n\r\n" + create,
		head + "Content-Length: 0\r\nTransfer-Encoding: chunked, chunked\r\n\r\n20\r\n" + create + "\r\n0\r\n\r\n",
	} {
		answer := h.request(t, raw, nil)
		if !strings.HasPrefix(answer, "HTTP/1.1 4") && !strings.HasPrefix(answer, "HTTP/1.1 501") {
			t.Errorf("%q was answered %.200q", strings.TrimPrefix(raw, head), answer)
		}
	}
	h.obey(t, step{line: `$D ps -aq --filter name=smuggled`})
	for _, path := range []string{"/v1.44/containers/create", "/v1.44/networks/create", "/v1.44/volumes/create", "/v1.44/auth"} {
		h.bounded(t, "an endless body for "+path, 64, func() {
			size := 200 << 20
			body := io.MultiReader(strings.NewReader(`{"Image":"`), io.LimitReader(endless{}, int64(size)))
			answer := h.request(t, "POST "+path+" HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: "+strconv.Itoa(size+10)+"\r\n\r\n", body)
			if answer != "" && !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%s: answered %.200q", path, answer)
			}
		})
	}
	h.bounded(t, "an endless header", 32, func() {
		h.request(t, "GET /_ping HTTP/1.1\r\nHost: d\r\nX: ", io.LimitReader(endless{}, 64<<20))
	})
	huge := strings.Repeat("0-1,", 200000) + "0"
	if err := os.WriteFile(filepath.Join(h.d.Dir, "huge.json"), []byte(`{"Image":"plain","HostConfig":{"CpusetCpus":"`+huge+`"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(filepath.Join(h.d.Dir, "huge.json"))
	answer := h.request(t, fmt.Sprintf("POST /v1.44/containers/create?name=cpus HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(data), data), nil)
	if !strings.HasPrefix(answer, "HTTP/1.1 ") {
		t.Errorf("a long list of processors takes longer than two minutes: %.100q", answer)
	}
	h.bounded(t, "many processors", 32, func() {
		h.obey(t, step{line: `timeout 60 $D create --cpuset-cpus 0-4294967295 plain`, code: 1, err: "cpu"},
			step{line: `timeout 60 $D create --cpuset-cpus 0-18446744073709551615 plain`, code: 1, err: "cpu"},
			step{line: `timeout 60 $D create --cpuset-mems 0-999999999 plain`, code: 1, err: ""})
	})
	h.run(t, `$D rm -f cpus 2>/dev/null`)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// floods: many resizes, and clients that go away in the middle, leave nothing behind in the daemon (CVE-2022-23471,
// CVE-2022-31030, CVE-2025-64329).
func floods(t *testing.T, h *hostile) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", h.d.Socket)
	}}}
	defer client.CloseIdleConnections()
	h.obey(t, step{line: `$D run -dt --name flood plain sleep 100 | wc -c`, out: "65\n"})
	files := func() int {
		list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.d.Pid))
		return len(list)
	}
	h.run(t, `$D exec flood true`)
	goAway := func() {
		for range 200 {
			conn, err := net.Dial("unix", h.d.Socket)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "POST /v1.44/containers/flood/attach?stream=1&stdout=1&stdin=1 HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
			_, _ = conn.Read(make([]byte, 12))
			conn.Close()
		}
		for _, path := range []string{"/v1.44/containers/flood/logs?follow=1&stdout=1", "/v1.44/events", "/v1.44/containers/flood/stats", "/v1.44/containers/flood/wait"} {
			for range 30 {
				conn, err := net.Dial("unix", h.d.Socket)
				if err != nil {
					t.Fatal(err)
				}
				method := "GET"
				if strings.HasSuffix(path, "/wait") {
					method = "POST"
				}
				_, _ = io.WriteString(conn, method+" "+path+" HTTP/1.1\r\nHost: d\r\n\r\n")
				_, _ = conn.Read(make([]byte, 12))
				conn.Close()
			}
		}
	}
	goAway() // the threads that so many clients need are made once
	before, threads := 0, h.statusOf(t, "Threads")
	harness.Eventually(t, time.Minute, "the daemon's files are closed", func() bool {
		now := files()
		same := now == before
		before = now
		return same
	})
	h.bounded(t, "resizes", 32, func() {
		for i := range 2000 {
			resp, err := client.Post(fmt.Sprintf("http://d/v1.44/containers/flood/resize?h=%d&w=%d", 20+i%50, 80), "", nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("resize: %d", resp.StatusCode)
			}
		}
	})
	h.bounded(t, "clients that go away", 48, func() {
		for range 3 {
			goAway()
		}
	})
	client.CloseIdleConnections()
	harness.Eventually(t, time.Minute, fmt.Sprintf("the daemon has %d files again", before), func() bool { return files() <= before+3 })
	if now := h.statusOf(t, "Threads"); now > threads+400 { // each of 960 clients could hold one; a busy machine makes some
		t.Errorf("the daemon has %d threads, had %d", now, threads)
	}
	h.obey(t, step{line: `$D exec flood echo well`, out: "well\n"}, step{line: `$D rm -f flood`, out: "flood\n"})
}

// secretsInLogs: what is confided to the daemon does not stand in its log, not even in detail (CVE-2019-13509, CVE-2021-41092).
func secretsInLogs(t *testing.T, h *hostile) {
	if !strings.Contains(h.d.LogFrom(0), "level=DEBUG") {
		t.Error("the daemon does not log in detail: this shows nothing")
	}
	var stranger atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			stranger.Add(1)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	const word = "Pa55wordOfTheUser"
	h.run(t, `printf %s `+word+` | $D login -u somebody --password-stdin `+host)
	h.run(t, `mkdir -p $DIR/creds; printf '{"auths":{"`+host+`":{"auth":"%s"}}}' $(printf somebody:`+word+` | base64) >$DIR/creds/config.json; DOCKER_CONFIG=$DIR/creds $D pull `+host+`/x:1`)
	if stranger.Load() == 0 {
		t.Error("the registry was never shown the password: this shows nothing")
	}
	h.run(t, `$D run --rm -e PASSWORD=`+word+` --label secret=`+word+` plain sh -c 'echo '`+word+` >/dev/null`)
	h.run(t, `$D run -d --name logs plain sleep 100; $D exec -e P=`+word+` logs true; $D rm -f logs`)
	log := h.d.LogFrom(0)
	for _, form := range []string{word, "c29tZWJvZHk6"} {
		if i := strings.Index(log, form); i >= 0 {
			t.Errorf("the daemon's log has the user's secret: …%s", log[max(0, i-200):i+len(form)])
		}
	}
}

// hostileNeighbours: the machine's own addresses are no way in for its neighbours, containers do not speak for its router, and
// names asked in a closed network stay there (CVE-2020-10749, CVE-2020-13401, CVE-2024-32473, CVE-2025-54388, CVE-2025-54410,
// CVE-2025-67499, CVE-2024-29018).
func hostileNeighbours(t *testing.T, h *hostile) {
	d := h.d
	tool := filepath.Join(d.Dir, "probe")
	if err := os.WriteFile(tool, []byte(h.probe.text), 0o755); err != nil {
		t.Fatal(err)
	}
	// A neighbour: a machine at the other end of a cable, 198.18.77.2, whose gateway we are.
	box := exec.Command("unshare", "-n", "sleep", "10000")
	if err := box.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Process.Kill(); _ = box.Wait() })
	pid := strconv.Itoa(box.Process.Pid)
	own, _ := os.Readlink("/proc/self/ns/net")
	harness.Eventually(t, time.Minute, "the neighbour has a network of its own", func() bool {
		its, err := os.Readlink("/proc/" + pid + "/ns/net")
		return err == nil && its != own
	})
	cable := d.Bridge + "n"
	in := func(line string) string { return "nsenter -t " + pid + " -n " + line }
	setup := `set -e; ip link add ` + cable + ` type veth peer name eth0 netns ` + pid + `; ip addr add 198.18.77.1/24 dev ` + cable + `; ip link set ` + cable + ` up;` +
		in(`ip addr add 198.18.77.2/24 dev eth0`) + `;` + in(`ip link set eth0 up`) + `;` + in(`ip link set lo up`) + `;` + in(`ip route add default via 198.18.77.1`)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", cable).Run() })
	h.run(t, setup).Exits(0)
	h.obey(t,
		step{line: `$D network create one | wc -c; $D network create two | wc -c; $D network create --internal closed | wc -c`, out: "65\n65\n65\n"},
		step{line: `$D run -d --name local -p 127.0.0.1::80 plain /probe serve :80 answer | wc -c`, out: "65\n"},
		step{line: `$D run -d --name public -p 80 plain /probe serve :80 answer | wc -c`, out: "65\n"},
		step{line: `$D run -d --name other --network two plain /probe serve :80 answer | wc -c`, out: "65\n"},
	)
	port := func(name string) string {
		out := d.Must(`$D port ` + name + ` 80/tcp | head -1`)
		return out[strings.LastIndex(out, ":")+1:]
	}
	ip := func(name string) string {
		return d.Must(`$D inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' ` + name)
	}
	local, public := port("local"), port("public")
	serve := exec.Command("nsenter", "-t", pid, "-n", tool, "serve", ":"+public, "neighbour", "198.18.77.2:53", filepath.Join(d.Dir, "asked"))
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = serve.Process.Kill(); _ = serve.Wait() })
	harness.Eventually(t, time.Minute, "everybody answers", func() bool {
		return h.run(t, tool+` connect 127.0.0.1:`+local+` 127.0.0.1:`+public+` 198.18.77.2:`+public).Out == "answer\nanswer\nneighbour\n"
	})
	refused := "~^(refused\n)+$"
	h.obey(t,
		// What is published to everybody is reached, what is published to this machine alone is not, by no address.
		step{line: in(tool + ` reach 198.18.77.1:` + public), out: "answer\n"},
		step{line: in(tool + ` connect 198.18.77.1:` + local + ` ` + ip("local") + `:80`), out: refused},
		step{line: in(`sh -c 'echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; ip addr flush dev lo; ip route del local 127.0.0.0/8 table local 2>/dev/null; ip route add 127.0.0.1 via 198.18.77.1 src 198.18.77.2; ` + tool + ` connect 127.0.0.1:` + local + ` 127.0.0.1:` + public + `'`), out: refused},
		// Traffic to somebody else's port of the same number is not caught.
		step{line: tool + ` reach 198.18.77.2:` + public, out: "neighbour\n"},
		step{line: `$D run --rm plain /probe reach 198.18.77.2:` + public, out: "neighbour\n"},
		// Networks are apart from each other, and a closed one from everything.
		step{line: `$D run --rm --network one plain /probe connect ` + ip("other") + `:80`, out: refused},
		step{line: `$D run --rm --network two plain /probe reach ` + ip("other") + `:80`, out: "answer\n"},
		step{line: `$D run --rm --network closed plain /probe connect 198.18.77.2:` + public + ` ` + ip("other") + `:80`, out: refused},
		// A name server outside hears from an open network, and nothing from a closed one.
		step{line: `$D run --rm --network one --dns 198.18.77.2 plain sh -c 'timeout 5 nslookup open.example >/dev/null 2>&1; true'`},
		step{line: `$D run --rm --network closed --dns 198.18.77.2 plain sh -c 'timeout 2 nslookup leak.example >/dev/null 2>&1; true'`},
		step{line: `grep -c open.example $DIR/asked`, out: "~^[1-9]"},
		step{line: `grep -c leak.example $DIR/asked`, code: 1, out: "0\n"},
		// No IPv6 where none was asked for; nobody's router advertisements are believed, here or there.
		step{line: `$D run --rm plain sh -c 'cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6; ip -6 addr show eth0 | grep -c inet6'`, code: 1, out: "1\n0\n"},
		step{line: `[ "$(cat /proc/sys/net/ipv6/conf/` + d.Bridge + `/accept_ra)" = 0 ] || [ "$(cat /proc/sys/net/ipv6/conf/` + d.Bridge + `/disable_ipv6)" = 1 ] && echo deaf`, out: "deaf\n"},
		step{line: `$D rm -f local public other >/dev/null; $D network rm one two closed`, out: "one\ntwo\nclosed\n"},
	)
	_ = syscall.Kill(box.Process.Pid, syscall.SIGKILL)
}
