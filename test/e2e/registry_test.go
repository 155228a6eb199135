package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// ann's password is "secret".
const account = "ann:$2a$05$xwWZHgb2C4tqUcl4tpcb.uez4mwu8AUBpHPyMBFOlfE3RVR9.fCTe\n"

// serveImages runs `berth registry serve` on a free port of loopback and returns where, and how to stop it.
func serveImages(t *testing.T, d *harness.Daemon, root string, options ...string) (host string, stop func()) {
	t.Helper()
	host = "127.0.0.1:" + harness.FreePort(t)
	var log bytes.Buffer
	args := append([]string{"registry", "serve", "--root", root, "--listen", host}, options...)
	cmd := exec.Command(d.Berth().Path, args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v: %s", args, err, log.String())
		}
	}
	t.Cleanup(stop)
	harness.Eventually(t, time.Minute, "the registry answers", func() bool {
		c, err := net.Dial("tcp", host)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return host, stop
}

// aboutLayout writes an OCI layout with a manifest "s" that is about another one, and returns its digest.
func aboutLayout(t *testing.T, dir, subject string) string {
	t.Helper()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, data []byte) map[string]any {
		if err := os.WriteFile(filepath.Join(blobs, strings.TrimPrefix(blob(data), "sha256:")), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return map[string]any{"mediaType": mediaType, "digest": blob(data), "size": len(data)}
	}
	config := put("application/vnd.test.signature", []byte("{}"))
	manifest := put("application/vnd.oci.image.manifest.v1+json", toJSON(t, map[string]any{"schemaVersion": 2,
		"mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "annotations": map[string]string{"by": "test"},
		"layers":  []any{put("text/plain", []byte("signed"))},
		"subject": map[string]any{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject, "size": 1}}))
	manifest["annotations"] = map[string]string{"org.opencontainers.image.ref.name": "s"}
	for name, data := range map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json": toJSON(t, map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return manifest["digest"].(string)
}

// TestRegistry: what one engine pushes to `berth registry serve` the others pull: the same digests.
func TestRegistry(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "skopeo", "podman", "docker-registry", "openssl")
	d := harness.Start(t)
	b := d.Berth()
	digest := func(t *testing.T, ref string) string {
		t.Helper()
		return d.ShellT(t, b, "skopeo inspect --raw --tls-verify=false docker://"+ref+" | sha256sum").Exits(0).Out
	}
	root := filepath.Join(d.Dir, "images")

	t.Run("push and pull", func(t *testing.T) {
		host, stop := serveImages(t, d, root, "--allow-delete")
		d.ShellT(t, b, "$D registry serve --listen 127.0.0.1:1 --root "+root).Exits(1).Complains("in use")
		d.ShellT(t, b, "$D registry gc --root "+root).Exits(1).Complains("in use")
		id := strings.TrimSpace(d.ShellT(t, b, "$D image inspect --format '{{.Id}}' berth/box").Exits(0).Out)
		for i, c := range d.Clients() {
			ref := host + "/app" + string(rune('a'+i)) + ":1"
			d.ShellT(t, c, "$D tag berth/box "+ref+" && $D push "+ref+" && $D rmi "+ref+" && $D pull "+ref+" && $D rmi "+ref).Exits(0)
			if got := digest(t, ref); "sha256:"+got[:64] != id {
				t.Errorf("%s: digest %s, pushed %s", ref, got, id)
			}
		}
		d.ShellT(t, b, "env -u DOCKER_CONFIG podman --root $DIR/podman --runroot $DIR/podman-run --storage-driver vfs pull -q --tls-verify=false "+host+"/appa:1").Exits(0)
		d.ShellT(t, b, "skopeo copy -q --preserve-digests --src-tls-verify=false docker://"+host+"/appa:1 oci:$DIR/oci:1").Exits(0)
		d.ShellT(t, b, "skopeo copy -q --preserve-digests --dest-tls-verify=false oci:$DIR/oci:1 docker://"+host+"/skopeo:1").Exits(0)
		if digest(t, host+"/skopeo:1") != digest(t, host+"/appa:1") {
			t.Error("skopeo copied something else")
		}
		for _, repo := range []string{"skopeo", "appa", "appb", "appc"} {
			d.ShellT(t, b, "skopeo delete --tls-verify=false docker://"+host+"/"+repo+":1 || true")
		}
		stop()
		d.ShellT(t, b, "$D registry gc --untagged --root "+root).Exits(0).Shows("Reclaimed ")
		if out := d.ShellT(t, b, "find "+root+" -path '*blobs/sha256*' -name data | wc -l").Out; out != "0\n" {
			t.Errorf("%s blobs are left", out)
		}
	})

	t.Run("referrers", func(t *testing.T) {
		host, _ := serveImages(t, d, filepath.Join(d.Dir, "about"), "--allow-delete")
		d.ShellT(t, b, "$D tag berth/box "+host+"/app:1 && $D push -q "+host+"/app:1").Exits(0)
		subject := "sha256:" + digest(t, host+"/app:1")[:64]
		list := "curl -s -D $DIR/head http://" + host + "/v2/app/referrers/" + subject
		d.ShellT(t, b, list).Shows(`"manifests":[]`)
		// Skopeo brings something about the image into the repository, of which it knows no more than the bytes.
		signature := aboutLayout(t, filepath.Join(d.Dir, "signature"), subject)
		d.ShellT(t, b, "skopeo copy -q --preserve-digests --dest-tls-verify=false oci:$DIR/signature:s docker://"+host+"/app:by-skopeo").Exits(0)
		d.ShellT(t, b, list).Shows(signature, `"artifactType":"application/vnd.test.signature"`, `"by":"test"`)
		d.ShellT(t, b, list+"?artifactType=none && grep -i oci-filters-applied $DIR/head").Shows(`"manifests":[]`, "artifactType")
		// Ours pulls and pushes it, and leaves the list to the registry.
		d.ShellT(t, b, "$D pull -q "+host+"/app:by-skopeo && $D tag "+host+"/app:by-skopeo "+host+"/app:ours && $D push "+host+"/app:ours").Exits(0)
		d.ShellT(t, b, "curl -s http://"+host+"/v2/app/tags/list").Shows(`["1","by-skopeo","ours"]`)
		d.ShellT(t, b, "skopeo delete --tls-verify=false docker://"+host+"/app:ours").Exits(0)
		d.ShellT(t, b, list).Shows(`"manifests":[]`)
	})

	t.Run("read-only", func(t *testing.T) {
		host, stop := serveImages(t, d, root)
		d.ShellT(t, b, "$D tag berth/box "+host+"/keep:1 && $D push "+host+"/keep:1").Exits(0)
		d.ShellT(t, b, "skopeo delete --tls-verify=false docker://"+host+"/keep:1").Exits(1)
		stop()
		host, _ = serveImages(t, d, root, "--read-only")
		d.ShellT(t, b, "$D pull "+host+"/keep:1").Exits(0)
		d.ShellT(t, b, "$D tag berth/box "+host+"/new:1 && $D push "+host+"/new:1").Exits(1)
	})

	t.Run("accounts and TLS", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "htpasswd"), []byte(account), 0o600); err != nil {
			t.Fatal(err)
		}
		d.ShellT(t, b, "openssl req -x509 -newkey rsa:2048 -nodes -keyout "+dir+"/key -out "+dir+"/ca.crt -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1").Exits(0)
		host, _ := serveImages(t, d, filepath.Join(dir, "images"), "--htpasswd", dir+"/htpasswd", "--tls-cert", dir+"/ca.crt", "--tls-key", dir+"/key")
		set := "export DOCKER_CONFIG=" + dir + "; "
		ref := host + "/app:1"
		d.ShellT(t, b, set+"$D tag berth/box "+ref+" && $D push "+ref).Exits(1)
		d.ShellT(t, b, set+"echo wrong | $D login -u ann --password-stdin "+host).Exits(1).Complains("unauthorized")
		d.ShellT(t, b, set+"echo secret | $D login -u ann --password-stdin "+host+" && $D push "+ref+" && $D rmi "+ref+" && $D pull "+ref).Exits(0)
		d.ShellT(t, b, "skopeo inspect --creds ann:secret docker://"+ref).Exits(1).Complains("certificate")
		d.ShellT(t, b, "skopeo inspect --cert-dir "+dir+" --creds ann:secret docker://"+ref).Exits(0)
		d.ShellT(t, b, "skopeo inspect --tls-verify=false --no-creds docker://"+ref).Exits(1)
	})

	t.Run("cache", func(t *testing.T) {
		behind := registry(t, d.Dir)
		d.ShellT(t, b, "$D tag berth/box "+behind+"/far:1 && $D push "+behind+"/far:1").Exits(0)
		cache := filepath.Join(d.Dir, "cache")
		host, _ := serveImages(t, d, cache, "--mirror", "http://"+behind)
		if digest(t, host+"/far:1") != digest(t, behind+"/far:1") {
			t.Error("the cache has another digest")
		}
		d.ShellT(t, b, "skopeo copy -q --preserve-digests --src-tls-verify=false docker://"+host+"/far:1 oci:$DIR/far:1").Exits(0)
		harness.Eventually(t, time.Minute, "the layer is kept", func() bool {
			return d.ShellT(t, b, "find "+cache+" -path '*blobs/sha256*' -name data | wc -l").Out >= "2"
		})
		d.ShellT(t, b, "$D tag berth/box "+host+"/new:1 && $D push "+host+"/new:1").Exits(1)
	})

	d.Shell(b, "$D registry serve --listen 0.0.0.0:0 --root "+root).Exits(1).Complains("open to other machines")
}

// TestRegistryService: the daemon keeps a registry running: a team pushes to it and pulls from it, it outlives a killed daemon,
// and is off when it was stopped.
func TestRegistryService(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "podman", "openssl")
	d := harness.Start(t)
	b := d.Berth()
	host := "127.0.0.1:" + harness.FreePort(t)
	root := filepath.Join(d.Dir, "images")
	ref := host + "/team/app:1"
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			d.Shell(b, "$D registry stop")
		}
	})
	pid := func() string {
		t.Helper()
		return d.Must("$D registry status --format '{{.Pid}}'")
	}
	d.Shell(b, "$D registry status").Prints("The registry is off.\n")
	d.Shell(b, "$D registry stop").Exits(1).Complains("the registry is not on")
	d.Shell(b, "$D registry serve -d --listen 0.0.0.0:5000 --root "+root).Exits(1).Complains("is open to other machines")
	d.Shell(b, "$D registry serve -d --root "+root+" --listen "+host+" --htpasswd /nonexistent").Exits(1).Complains("no such file")
	d.Shell(b, "$D registry status").Prints("The registry is off.\n")

	d.Shell(b, "$D registry serve -d --allow-delete --root "+root+" --listen "+host).Prints("http://" + host + "\n")
	d.Shell(b, "$D registry serve -d --root "+root).Exits(1).Complains("the registry is on already, at http://" + host)
	d.Shell(b, "$D registry status").Shows("The registry answers at http://"+host, root, "registry.log")
	d.Shell(b, "$D info").Shows("Registry Service: http://" + host)
	d.Shell(b, "$D tag berth/box "+ref+" && $D push -q "+ref+" && $D rmi "+ref+" && $D pull -q "+ref).Exits(0)
	d.Shell(b, "env -u DOCKER_CONFIG podman --root $DIR/podman --runroot $DIR/podman-run --storage-driver vfs pull -q --tls-verify=false "+ref).Exits(0)
	d.Shell(b, "env -u DOCKER_CONFIG podman --root $DIR/podman --runroot $DIR/podman-run --storage-driver vfs push -q --tls-verify=false "+ref+" "+host+"/team/podman:1").Exits(0)
	d.Shell(b, "$D run --rm "+host+"/team/podman:1 echo pulled").Shows("pulled\n")

	// A killed daemon leaves it, and the next has it.
	first := pid()
	d.Kill()
	if c, err := net.Dial("tcp", host); err != nil {
		t.Errorf("without the daemon: %v", err)
	} else {
		c.Close()
	}
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, time.Minute, "the registry was taken back", func() bool { return pid() == first })
	// One that is killed comes back; one whose daemon stops in order comes with the next.
	d.Must("kill -9 " + first)
	harness.Eventually(t, time.Minute, "the registry runs again", func() bool {
		p := pid()
		return p != first && p != "0"
	})
	d.Shell(b, "$D registry status").Shows("restarts    1, the last because it ended\n")
	d.Stop()
	if c, err := net.Dial("tcp", host); err == nil {
		c.Close()
		t.Error("the registry outlives its daemon")
	}
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, time.Minute, "the registry runs again", func() bool { return pid() != "0" })
	d.Shell(b, "$D pull -q "+ref).Exits(0)
	d.Shell(b, "$D registry stop && $D registry status").Prints("The registry is off.\n")
	stopped = true
	d.Shell(b, "$D registry gc --untagged --root "+root).Exits(0)

	// The same by daemon.json, with TLS, accounts and nothing but pulls.
	dir := t.TempDir()
	d.Shell(b, "openssl req -x509 -newkey rsa:2048 -nodes -keyout "+dir+"/key -out "+dir+"/cert -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1").Exits(0)
	config := `{"registry":{"listen":"` + host + `","root":"` + root + `","htpasswd":"` + dir + `/htpasswd","tls-cert":"` + dir +
		`/cert","tls-key":"` + dir + `/key","read-only":true}}`
	for name, text := range map[string]string{"htpasswd": account, "daemon.json": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Stop()
	d.Args("--config-file", filepath.Join(dir, "daemon.json"))
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, time.Minute, "the registry of daemon.json runs", func() bool { return pid() != "0" })
	d.Shell(b, "$D registry status").Shows("https://"+host, "daemon.json", "only be pulled from", "htpasswd")
	d.Shell(b, "$D registry serve -d").Exits(1).Complains("the registry is on already")
	curl := "curl -s --cacert " + dir + "/cert https://" + host + "/v2/team/app/tags/list"
	d.Shell(b, curl).Shows("UNAUTHORIZED")
	d.Shell(b, curl+" -u ann:secret").Shows(`"tags":["1"]`)
	d.Shell(b, "curl -s -o out -w '%{http_code}' --cacert "+dir+"/cert -u ann:secret -X POST https://"+host+"/v2/team/app/blobs/uploads/").Prints("405")
	d.Must("$D registry stop")
	d.Shell(b, "$D registry serve -d").Exits(1).Complains("daemon.json says what the registry is")
}
