package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// TestBadInput: one clear sentence each, Docker's exit code, and nothing half-made.
func TestBadInput(t *testing.T) {
	d := harness.Start(t)
	d.Must("$D run --rm berth/box true") // the image is loaded when it is first asked for
	for _, c := range d.Clients() {
		t.Run(c.Name, func(t *testing.T) {
			before := d.ShellT(t, c, "$D ps -aq; $D volume ls -q; $D images -aq").Out
			obey(t, d, c, []step{
				{line: `$D run --rm berth/nonexistent:1 true`, code: 125, err: "berth/nonexistent"},
				{line: `$D run --rm --pull never berth/box:nonexistent true`, code: 125, err: "No such image: berth/box:nonexistent"},
				{line: `$D run --rm berth/box nonexistent`, code: 127},
				{line: `$D run --rm berth/box /etc/passwd`, code: 126},
				{line: `$D run --rm 'A B' true`, code: 125, err: "invalid reference format"},
				{line: `$D run --rm berth/BOX true`, code: 125, err: "must be lowercase"},
				{line: `$D run --rm -v relative/path:/x:nonsense berth/box true`, code: 125, err: "invalid"},
				{line: `$D run --rm -v /src:relative berth/box true`, code: 125, err: "absolute"},
				{line: `$D run --rm -v /a:/b:/c:/d berth/box true`, code: 125, err: "invalid"},
				{line: `$D run --rm --mount type=nonsense,target=/x berth/box true`, code: 125, err: "nonsense"},
				{line: `$D run --rm --mount type=bind,source=/nonexistent-source,target=/x berth/box true`, code: 125, err: "nonexistent-source"},
				{line: `$D run --rm -v /etc:/ berth/box true`, code: 125, err: "destination can't be '/'"},
				{line: `$D run --rm --dns-option "$(printf 'x\nnameserver 192.0.2.1')" berth/box true`, code: 125, err: "invalid DNS option"},
				{line: `$D network create lines >/dev/null; $D run --rm --network lines --network-alias "$(printf 'x\ny')" berth/box true; code=$?; $D network rm lines; exit $code`,
					code: 125, out: "lines\n", err: "invalid network alias"},
				{line: `$D run --rm --name 'bad name' berth/box true`, code: 125, err: "Invalid container name"},
				{line: `$D run --rm -m nonsense berth/box true`, code: 125, err: "invalid"},
				{line: `$D run --rm --cap-add NONSENSE berth/box true`, code: 125, err: "NONSENSE"},
				{line: `$D run --rm --security-opt seccomp=/nonexistent.json berth/box true`, code: 125, err: "seccomp"},
				{line: `$D run --rm --security-opt nonsense=1 berth/box true`, code: 125, err: "security-opt"},
				{line: `$D run --rm --network container:nonexistent berth/box true`, code: 125, err: "nonexistent"},
				{line: `$D run --rm --network container:nonexistent berth/box true 2>&1 | grep -c 'find image' || true`, out: "0\n"}, // nothing is pulled for it
				{line: `$D run --rm --restart nonsense berth/box true`, code: 125, err: "restart"},
				{line: `$D run --rm --restart always berth/box true`, code: 125, err: "--rm"},
				{line: `$D run --rm --device /nonexistent berth/box true; echo $?`, out: "~^12[57]\n$", err: "nonexistent"}, // clients differ
				{line: `$D run --rm --ulimit nonsense=1 berth/box true`, code: 125, err: "nonsense"},
				{line: `$D run --rm --sysctl kernel.nonsense=1 berth/box true`, code: 125, err: "sysctl"},
				{line: `$D run --rm -w relative berth/box true`, code: 125, err: "absolute"},
				{line: `$D run --rm --stop-signal NONSENSE berth/box true`, code: 125, err: "signal"},
				{line: `$D run --rm --log-driver nonsense berth/box true`, code: 125, err: "nonsense"},
				{line: `$D kill -s NONSENSE x`, code: 1},
				{line: `$D load -i /etc/passwd`, code: 1},
				{line: `$D load </dev/null`, code: 1},
				{line: `head -c 100000 /dev/urandom | $D import - bad:1`, code: 1},
				{line: `$D cp nonexistent:/x .`, code: 1, err: "No such container"},
				{line: `$D nonsense`, code: 1, err: "nonsense"},
			})
			after := d.ShellT(t, c, "$D ps -aq; $D volume ls -q; $D images -aq").Out
			if before != after {
				t.Errorf("something was left half-made: before %q, after %q", before, after)
			}
		})
	}
	t.Run("no daemon", func(t *testing.T) {
		d.ShellT(t, d.Berth(), "DOCKER_HOST=unix:///nonexistent/berth.sock BERTH_HOST=unix:///nonexistent/berth.sock $D ps").Exits(1).Complains("/nonexistent/berth.sock")
	})
	t.Run("statuses", func(t *testing.T) { statuses(t, d) })
	t.Run("hostile tar", func(t *testing.T) { hostileTar(t, d) })
}

// statuses asks the API itself: Docker's codes, JSON with a message.
func statuses(t *testing.T, d *harness.Daemon) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", d.Socket)
	}}}
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/_ping", "", 200},
		{"GET", "/v1.44/containers/nonexistent/json", "", 404},
		{"GET", "/v1.44/images/nonexistent/json", "", 404},
		{"GET", "/v1.44/nonsense", "", 404},
		{"GET", "/v9.99/containers/json", "", 400},
		{"GET", "/v1.10/containers/json", "", 400},
		{"POST", "/v1.44/containers/create", "{", 400},
		{"POST", "/v1.44/containers/create", `{"Image":"nonexistent:1"}`, 404},
		{"POST", "/v1.44/containers/create?name=bad%20name", `{"Image":"berth/box"}`, 400},
		{"POST", "/v1.44/containers/nonexistent/start", "", 404},
		{"POST", "/v1.44/containers/nonexistent/kill?signal=NONSENSE", "", 404},
		{"DELETE", "/v1.44/containers/nonexistent", "", 404},
		{"GET", "/v1.44/containers/json?filters=nonsense", "", 400},
		{"GET", "/v1.44/networks/nonexistent", "", 404},
		{"GET", "/v1.44/networks/bridge?scope=swarm", "", 404},
		{"GET", "/v1.44/volumes/nonexistent", "", 404},
	} {
		req, err := http.NewRequest(tc.method, "http://d"+tc.path, strings.NewReader(tc.body))
		if err != nil {
			t.Fatal(err)
		}
		if tc.body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tc.method, tc.path, err)
			continue
		}
		var answer struct{ Message string }
		err = json.NewDecoder(resp.Body).Decode(&answer)
		resp.Body.Close()
		if resp.StatusCode != tc.status {
			t.Errorf("%s %s: got %d %q, wanted %d", tc.method, tc.path, resp.StatusCode, answer.Message, tc.status)
		} else if tc.status >= 400 && (err != nil || answer.Message == "") {
			t.Errorf("%s %s: %d without a message (%v)", tc.method, tc.path, resp.StatusCode, err)
		}
	}
}

// entry is one member of a tar made by hand.
type entry struct {
	name, link, text string
	kind             byte
	mode             int64
}

func makeTar(t *testing.T, entries []entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.mode == 0 {
			e.mode = 0o755
		}
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.text)), Devmajor: 1, Devminor: 3}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// hostileTar: archives that climb out, link out, or bring devices, as a layer and as input of cp.
func hostileTar(t *testing.T, d *harness.Daemon) {
	b := d.Berth()
	outside := filepath.Join(d.Dir, "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Must("$D create --name victim berth/box true")
	for i, entries := range [][]entry{
		{{name: "../../../../../../../.." + outside, kind: tar.TypeReg, text: "overwritten"}},
		{{name: outside, kind: tar.TypeReg, text: "overwritten"}},
		{{name: "l", kind: tar.TypeSymlink, link: d.Dir}, {name: "l/outside", kind: tar.TypeReg, text: "overwritten"}},
		{{name: "l", kind: tar.TypeSymlink, link: "../../../../../../../.." + d.Dir}, {name: "l/outside", kind: tar.TypeReg, text: "overwritten"}},
		{{name: "h", kind: tar.TypeLink, link: outside}, {name: "h", kind: tar.TypeReg, text: "overwritten"}},
		{{name: "h", kind: tar.TypeLink, link: "../../../../../../../.." + outside}},
		{{name: "dev0", kind: tar.TypeChar}, {name: "dev0", kind: tar.TypeReg, text: "x"}},
	} {
		file := filepath.Join(d.Dir, "hostile.tar")
		if err := os.WriteFile(file, makeTar(t, entries), 0o644); err != nil {
			t.Fatal(err)
		}
		// Refused or kept inside, both are right.
		d.ShellT(t, b, "$D cp - victim:/tmp <hostile.tar")
		r := d.ShellT(t, b, "$D import hostile.tar hostile:1")
		if r.Code == 0 {
			d.ShellT(t, b, "$D rmi hostile:1").Exits(0)
		}
		if data, err := os.ReadFile(outside); err != nil || string(data) != "untouched" {
			t.Fatalf("archive %d reached a file of the host: %q, %v", i, data, err)
		}
	}
	d.Must("$D rm victim")
}

// blob names bytes by their digest.
func blob(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// badRegistry serves one image per kind of lie.
type badRegistry struct {
	mu        sync.Mutex
	blobs     map[string][]byte // what is served under a digest, true or not
	manifests map[string][]byte
}

// manifest finds one by tag or digest; every repository here has one.
func (r *badRegistry) manifest(name, ref string) []byte {
	if data := r.manifests[name+":1"]; ref == "1" || blob(data) == ref {
		return data
	}
	return nil
}

func (r *badRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	parts := strings.Split(req.URL.Path, "/") // /v2/NAME/manifests|blobs/REF
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	switch {
	case req.URL.Path == "/v2/":
	case len(parts) == 5 && parts[3] == "manifests" && r.manifest(parts[2], parts[4]) != nil:
		data := r.manifest(parts[2], parts[4])
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Docker-Content-Digest", blob(data))
		http.ServeContent(w, req, "", zeroTime(), bytes.NewReader(data))
	case len(parts) == 5 && parts[3] == "blobs" && r.blobs[parts[2]+"@"+parts[4]] != nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, req, "", zeroTime(), bytes.NewReader(r.blobs[parts[2]+"@"+parts[4]]))
	default:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	}
}

// TestLyingRegistry: truncated and corrupted layers, wrong sizes and digests, two shapes at once.
func TestLyingRegistry(t *testing.T) {
	d := harness.Start(t)
	reg := &badRegistry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	srv := httptest.NewServer(reg)
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")

	raw := makeTar(t, []entry{{name: "bin/", kind: tar.TypeDir}, {name: "bin/x", kind: tar.TypeReg, text: strings.Repeat("data", 5000)}})
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	if _, err := zw.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	layer := zipped.Bytes()
	config := []byte(fmt.Sprintf(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["%s"]}}`, blob(raw)))
	type descriptor = map[string]any
	publish := func(name string, config, layer []byte, change func(manifest map[string]any, config, layer descriptor)) {
		c := descriptor{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(config), "size": len(config)}
		l := descriptor{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": blob(layer), "size": len(layer)}
		m := map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": c, "layers": []any{l}}
		reg.blobs[name+"@"+blob(config)] = config
		reg.blobs[name+"@"+blob(layer)] = layer
		if change != nil {
			change(m, c, l)
		}
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		reg.manifests[name+":1"] = data
	}
	publish("good", config, layer, nil)
	publish("truncated", config, layer, func(_ map[string]any, _, l descriptor) {
		reg.blobs["truncated@"+l["digest"].(string)] = layer[:len(layer)/2]
	})
	publish("corrupted", config, layer, func(_ map[string]any, _, l descriptor) {
		bad := bytes.Clone(layer)
		bad[len(bad)/2] ^= 0xff
		reg.blobs["corrupted@"+l["digest"].(string)] = bad
	})
	publish("wrongsize", config, layer, func(_ map[string]any, _, l descriptor) { l["size"] = len(layer) + 7 })
	publish("smaller", config, layer, func(_ map[string]any, _, l descriptor) { l["size"] = len(layer) - 7 })
	publish("missing", config, layer, func(_ map[string]any, _, l descriptor) { delete(reg.blobs, "missing@"+l["digest"].(string)) })
	publish("wrongdiff", bytes.Replace(config, []byte(blob(raw)), []byte(blob([]byte("other"))), 1), layer, nil)
	publish("notgzip", config, []byte("this is not a layer at all"), nil)
	publish("baddigest", config, layer, func(_ map[string]any, _, l descriptor) { l["digest"] = "sha256:../../etc/passwd" })
	publish("notjson", []byte("not json"), layer, nil)
	publish("both", config, layer, func(m map[string]any, _, l descriptor) {
		m["manifests"] = []any{l} // an index and a manifest at once (CVE-2021-41190)
	})
	b := d.Berth()
	d.Shell(b, "$D pull "+host+"/good:1").Exits(0)
	d.Shell(b, "$D rmi "+host+"/good:1").Exits(0)
	for _, name := range []string{"truncated", "corrupted", "wrongsize", "smaller", "missing", "wrongdiff", "notgzip", "baddigest", "notjson", "both", "nothing"} {
		t.Run(name, func(t *testing.T) {
			r := d.ShellT(t, b, "$D pull -q "+host+"/"+name+":1").Exits(1)
			if text := strings.TrimSpace(r.Err); text == "" || strings.Count(text, "\n") > 1 {
				t.Errorf("pull %s: wanted one sentence, got %q", name, r.Err)
			}
			d.ShellT(t, b, "$D images -q "+host+"/"+name).Prints("")
		})
	}
}

// TestFullDisk: a data root without room gives an error, not a wreck, and works again when there is room.
func TestFullDisk(t *testing.T) {
	harness.Need(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=24m", "berth-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	d := harness.Start(t, harness.Options{DataRoot: filepath.Join(dir, "data")})
	b := d.Berth()
	d.Must("$D run --rm berth/box true")
	d.Shell(b, `$D run --rm berth/box sh -c 'dd if=/dev/zero of=/big bs=1M count=100 2>&1; echo code $?'`).Shows("no space", "code 1")
	d.Shell(b, `head -c 30000000 /dev/urandom >rnd && tar c rnd | $D import - big:1`).Exits(1).Complains("no space")
	d.Shell(b, `$D images -q big`).Prints("")
	if err := os.WriteFile(filepath.Join(dir, "filler"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	_ = exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(dir, "filler"), "bs=4k").Run() // ends with "no space", as it should
	d.Shell(b, `$D run --name full berth/box true`).Exits(125)
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
	d.Shell(b, `$D ps -aq --filter name=full`).Prints("")
	d.Shell(b, `$D run --rm berth/box echo again`).Prints("again\n")
}

func zeroTime() (t time.Time) { return t }
