package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/guest"
	"github.com/berth-engine/berth/test/harness"
)

// stock is a registry with four images of three layers each, of which they share the lowest, and an archive of them.
func stock(t *testing.T) (host string) {
	t.Helper()
	reg := &badRegistry{blobs: map[string][]byte{}, manifests: map[string][]byte{}}
	random := rand.NewChaCha8([32]byte{1})
	layer := func(name string, size int) []byte {
		data := make([]byte, size)
		_, _ = random.Read(data) // documented never to fail
		entries := []entry{{name: name + "/", kind: tar.TypeDir}, {name: name + "/big", kind: tar.TypeReg, text: string(data)}}
		for i := range 50 {
			entries = append(entries, entry{name: fmt.Sprintf("%s/%d", name, i), kind: tar.TypeReg, text: name})
		}
		return makeTar(t, entries)
	}
	base := layer("base", 2<<20)
	for i := range 4 {
		name := fmt.Sprintf("img%d", i)
		layers := [][]byte{base, layer(name, 1<<20), layer(name+"top", 100<<10)}
		var diffs, list []any
		for _, l := range layers {
			diffs = append(diffs, blob(l))
			list = append(list, map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob(l), "size": len(l)})
			reg.blobs[name+"@"+blob(l)] = l
		}
		config := toJSON(t, map[string]any{"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/" + name}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
		reg.blobs[name+"@"+blob(config)] = config
		reg.manifests[name+":1"] = toJSON(t, map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
			"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": blob(config), "size": len(config)},
			"layers": list})
	}
	srv := httptest.NewServer(reg)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func toJSON(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// storeLoad has images pulled, loaded, committed, removed and pruned, all at once, until ctx ends; done counts what
// succeeded. Everything may fail at any time, as one takes from the other, and as the daemon may be gone.
func storeLoad(ctx context.Context, d *harness.Daemon, host string) (wait func() (done int)) {
	b := d.Berth()
	var workers sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for _, lines := range [][]string{
		{`$D pull -q HOST/img0:1`, `$D rmi HOST/img0:1`, `$D pull -q HOST/img1:1`, `$D create HOST/img1:1`, `$D rmi -f HOST/img1:1`},
		{`$D pull -q HOST/img2:1 & $D pull -q HOST/img2:1; wait`, `$D pull -q HOST/img3:1`, `$D create HOST/img3:1`, `$D rmi -f HOST/img2:1`},
		{`$D load -i stock.tar`, `$D tag HOST/img1:1 other:1`, `$D rmi HOST/img1:1 HOST/img0:1 other:1`},
		{`$D commit work made:1`, `$D commit work made:1`, `tar c client | $D import - imported:1`, `$D rmi made:1`},
		{`$D image prune -f`, `$D ps -aq --filter status=created | head -n 3 | xargs -r $D rm`, `$D image prune -af`, `sleep 0.2`},
	} {
		workers.Go(func() {
			for ctx.Err() == nil {
				for _, line := range lines {
					if ctx.Err() == nil && d.Shell(b, strings.ReplaceAll(line, "HOST", host)).Code == 0 {
						mu.Lock()
						done++
						mu.Unlock()
					}
				}
			}
		})
	}
	return func() int {
		workers.Wait()
		return done
	}
}

// storeReady makes what the load needs.
func storeReady(t *testing.T, d *harness.Daemon, host string) {
	t.Helper()
	d.Must(`$D pull -q ` + host + `/img0:1 && $D pull -q ` + host + `/img1:1`)
	d.Must(`$D save -o stock.tar ` + host + `/img0:1 ` + host + `/img1:1`)
	d.Must(`$D inspect work || $D run --name work berth/box sh -c 'echo mine >/mine'`)
}

// TestKillStore kills the daemon at random moments while images come and go: every time the store opens and holds
// neither damage nor anything that nobody owns, and containers have all that they stand on. Short form: 10 rounds; make
// soak does 100, or BERTH_SOAK of them.
func TestKillStore(t *testing.T) {
	rounds := 10
	if n, err := strconv.Atoi(os.Getenv("BERTH_SOAK")); err == nil {
		rounds = n
	}
	d := harness.Start(t)
	b := d.Berth()
	host := stock(t)
	storeReady(t, d, host)
	total := 0
	for round := range rounds {
		ctx, cancel := context.WithCancel(t.Context())
		wait := storeLoad(ctx, d, host)
		time.Sleep(time.Duration(20+rand.IntN(600)) * time.Millisecond)
		cancel()
		d.Kill()
		total += wait()
		if err := d.Launch(); err != nil {
			t.Fatalf("round %d: the daemon does not start again: %v", round, err)
		}
		if r := d.Shell(b, `$D system check --full`); r.Code != 0 || !strings.Contains(r.Out, "Nothing is wrong.") {
			t.Fatalf("round %d: the store is not whole:\n%s%s", round, r.Out, r.Err)
		}
		if round%8 == 7 {
			d.Must(`$D ps -aq --filter status=created | xargs -r $D rm`)
		}
	}
	t.Logf("%d rounds, %d commands succeeded", rounds, total)
	d.Shell(b, `$D cp work:/mine - | tar xO`).Prints("mine\n")
	d.Must(`$D pull -q ` + host + `/img2:1`)
	d.Shell(b, `$D create `+host+`/img2:1`).Exits(0)
	d.Shell(b, `$D system check --full`).Exits(0)
}

// TestPowerCut takes the power from a virtual machine at random moments while images come and go in it, and looks each
// time with the next start whether the store is whole. Booting an emulated machine takes too long for every day: make
// soak does 33 rounds, or a third of BERTH_SOAK.
func TestPowerCut(t *testing.T) {
	if os.Getenv("BERTH_GUEST") != "" {
		t.Skip("this is the guest")
	}
	harness.Need(t)
	n, err := strconv.Atoi(os.Getenv("BERTH_SOAK"))
	if err != nil {
		t.Skip("boots a virtual machine for each round: make soak")
	}
	rounds := max(1, n/3)
	repo := harness.Repo(t)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	files := map[string]string{"/repo/go.mod": filepath.Join(repo, "go.mod")}
	for _, p := range []string{"berth", "berthd", "berth-runtime"} {
		files["/repo/bin/"+p] = filepath.Join(repo, "bin", p)
	}
	m := guest.Prepare(t, []guest.Program{{Name: "power cut", Package: "github.com/berth-engine/berth/test/e2e",
		Args: []string{"-test.run=^TestStoreAfterPowerCut$"}, Env: []string{"BERTH_E2E=1", "BERTH_GUEST=1", "BERTH_REPO=/repo"},
		Files: files, Modules: []string{"crc32c_generic", "ext4", "virtio_pci", "virtio_blk", "bridge", "nf_tables", "nft_ct", "nft_masq",
			"nft_nat", "nft_chain_nat", "nf_conntrack", "nft_fib_ipv4", "nft_fib_ipv6", "nft_fib_inet"}}})
	for round := range rounds {
		pause := time.Duration(rand.IntN(6000)) * time.Millisecond
		m.Cut(t, disk, pause)
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
	}
	m.Run(t, disk, "berth.last")
}

// TestStoreAfterPowerCut is the guest's side: it looks at what the last power cut left, and works until the next.
func TestStoreAfterPowerCut(t *testing.T) {
	if os.Getenv("BERTH_GUEST") == "" {
		t.Skip("runs in a virtual machine, see TestPowerCut")
	}
	const at = "/mnt"
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "ext4", "/dev/vda", at).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	d := harness.Start(t, harness.Options{DataRoot: filepath.Join(at, "data")})
	b := d.Berth()
	if r := d.Shell(b, `$D system check --full`); r.Code != 0 || !strings.Contains(r.Out, "Nothing is wrong.") {
		t.Fatalf("the store is not whole:\n%s%s", r.Out, r.Err)
	}
	if bytes.Contains(cmdline, []byte("berth.last")) {
		d.Shell(b, `$D cp work:/mine - | tar xO`).Prints("mine\n")
		return
	}
	host := stock(t)
	storeReady(t, d, host)
	if out, err := exec.Command("sync").CombinedOutput(); err != nil {
		t.Fatalf("sync: %v: %s", err, out)
	}
	fmt.Println(guest.CutLine) // from here on, the power may fail
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	storeLoad(ctx, d, host)()
}
