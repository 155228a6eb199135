package runtime

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestKubernetes has containerd make pods with our runtime, asked over the CRI as a kubelet asks. The pods have the host's network, so
// that no CNI plugin is needed.
func TestKubernetes(t *testing.T) {
	p := newPlace(t, "containerd", "ctr", "containerd-shim-runc-v2", "go")
	config := strings.NewReplacer("$DIR", p.dir, "$R", p.runtime).Replace(`version = 2
root = "$DIR/root"
state = "$DIR/state"
[grpc]
address = "$DIR/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/box:1"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "$DIR/none"
conf_dir = "$DIR/none"
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "berth"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.berth]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.berth.options]
BinaryName = "$R"
Root = "$DIR/rr"
`)
	if err := os.WriteFile(filepath.Join(p.dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p.archive("box.tar", "docker.io/library/box:1")
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(p.dir, "cri"), ".")
	build.Dir = filepath.Join(harness.Repo(t), "test/runtime/cri")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	p.env = []string{"C=ctr -n k8s.io -a " + p.dir + "/c.sock"}
	t.Cleanup(p.removeCgroups)
	t.Cleanup(func() {
		for _, dir := range []string{"/run/containerd/s", "/run/containerd"} {
			_ = syscall.Rmdir(dir)
		}
	})
	p.daemon("containerd", "--config", filepath.Join(p.dir, "config.toml"))
	t.Cleanup(func() {
		p.shell(`for c in $($C task ls -q); do $C task kill -s KILL $c; $C task rm -f $c; done; for c in $($C container ls -q); do $C container rm $c; done`)
	})
	p.await(`$C version && $C plugins ls id==cri | grep -q ok`)
	p.holds([]obligation{
		{line: `$C images import box.tar`, out: "*", says: "*"},
		{line: `./cri $DIR/c.sock docker.io/library/box:1 /$TAG berth`, out: kubernetesSays},
		{line: `ls $DIR/rr/k8s.io`, out: "@filters\n"},
	})
}

// kubernetesSays is what came of each step of test/runtime/cri.
const kubernetesSays = `CONTAINER_RUNNING
4 "7\n8\n8 66\n2\n500\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nSeccomp:\t2\n" ""
0 "" ""
0 "67108864\n" ""
0 "100663296\n" ""
true
DeadlineExceeded
true true
CONTAINER_EXITED 5
true <nil>
true
CONTAINER_EXITED 128
CONTAINER_EXITED 137
0 "" ""
CONTAINER_EXITED 137
0 "gone\n" ""
CONTAINER_RUNNING
`

// archive makes an archive of images with the plain one in it, as docker save does.
func (p *place) archive(file, name string) {
	p.t.Helper()
	layer, err := os.ReadFile(p.plainImage())
	if err != nil {
		p.t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Cmd": []string{"sleep", "1000"}, "Env": []string{"PATH=/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}}})
	if err != nil {
		p.t.Fatal(err)
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		p.t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name string
		data []byte
	}{{"config.json", config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o644}); err != nil {
			p.t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, file), b.Bytes(), 0o600); err != nil {
		p.t.Fatal(err)
	}
}
