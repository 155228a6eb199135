package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// TestMainJob: a Debian made by mmdebstrap, pushed by skopeo to a registry on loopback, pulled and run by us with a
// terminal. The Debian is kept in the user's cache between runs, because making it takes a minute and a mirror.
func TestMainJob(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "mmdebstrap", "skopeo", "docker-registry", "umoci", "tmux")
	layout := debian(t)
	d := harness.Start(t)
	b := d.Berth()
	host := registry(t, d.Dir)

	out, err := exec.Command("skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", "oci:"+layout+":debian", "docker://"+host+"/debian:12").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo copy: %v: %s", err, out)
	}
	// On a terminal pull draws bars; what it says at the end is what scripts read.
	s := newScreen(t, d, b)
	s.types("$D pull "+host+"/debian:12; echo pulled $?", "Enter")
	s.sees("pulled 0")
	s.sees("Status: Downloaded newer image for " + host + "/debian:12")
	s.wipe()
	s.types("$D run -it --rm "+host+"/debian:12 bash; echo left with $?", "Enter")
	s.sees("root@")
	s.types(". /etc/os-release; echo this is $ID $VERSION_ID", "Enter")
	s.sees("this is debian 12")
	s.types("exit 3", "Enter")
	s.sees("left with 3")

	d.Shell(b, "$D run --rm "+host+"/debian:12 sh -c 'ls -d /var/lib/dpkg; id -u; getent passwd nobody | cut -d: -f3'").Prints("/var/lib/dpkg\n0\n65534\n")
	d.Shell(b, "$D run --rm "+host+"/debian:12 stat -c %a /tmp /usr/bin/passwd").Prints("1777\n4755\n")
	d.Shell(b, "$D pull "+host+"/debian:12").Exits(0).Shows("Image is up to date")
	d.Shell(b, "$D images --digests --format '{{.Digest}}' "+host+"/debian").Shows("sha256:")
	for _, c := range d.Clients() {
		d.Shell(c, "$D rmi "+host+"/debian:12").Exits(0)
		d.Shell(c, "$D pull -q "+host+"/debian:12").Prints(host + "/debian:12\n")
	}
	d.Shell(b, "$D pull "+host+"/debian:nonexistent").Exits(1).Complains("nonexistent")
}

// debian makes an OCI layout of Debian's minbase, once.
func debian(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	layout := filepath.Join(cache, "berth-test", "debian-12-oci")
	if _, err := os.Stat(filepath.Join(layout, "index.json")); err == nil {
		return layout
	}
	work := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", name, args, err, out)
		}
	}
	root := filepath.Join(work, "root.tar")
	mmdebstrap(t, "bookworm", root)
	run("umoci", "init", "--layout", "oci")
	run("umoci", "new", "--image", "oci:debian")
	run("umoci", "raw", "add-layer", "--image", "oci:debian", root)
	run("umoci", "config", "--image", "oci:debian", "--config.cmd", "bash", "--config.env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if err := os.MkdirAll(filepath.Dir(layout), 0o755); err != nil {
		t.Fatal(err)
	}
	run("cp", "-a", "oci", layout+".part")
	if err := os.Rename(layout+".part", layout); err != nil {
		t.Fatal(err)
	}
	return layout
}

// mmdebstrap makes a Debian with more programs than it must have. A mirror may fail once.
func mmdebstrap(t *testing.T, suite, archive string, include ...string) {
	t.Helper()
	args := append([]string{"--variant=minbase", "--quiet"}, include...)
	for try := 1; ; try++ {
		out, err := exec.Command("mmdebstrap", append(args, suite, archive)...).CombinedOutput()
		if err == nil {
			return
		}
		if try == 4 {
			t.Fatalf("mmdebstrap: %v: %s", err, out)
		}
		t.Logf("mmdebstrap, try %d: %v: %s", try, err, out)
		time.Sleep(time.Duration(try) * 5 * time.Second)
	}
}

// registry starts Debian's docker-registry on a free port of loopback.
func registry(t *testing.T, dir string) string {
	t.Helper()
	host := "127.0.0.1:" + harness.FreePort(t)
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\nhttp: {addr: \"%s\"}\n",
		filepath.Join(dir, "registry"), host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "registry.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
	})
	harness.Eventually(t, time.Minute, "the registry answers", func() bool {
		resp, err := http.Get("http://" + host + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return host
}
