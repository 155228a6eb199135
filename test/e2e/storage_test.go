package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestNoLayerSize: where the file system cannot bound a layer, nobody is told that it is bounded.
func TestNoLayerSize(t *testing.T) {
	harness.Need(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=32m", "berth-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	d := harness.Start(t, harness.Options{DataRoot: filepath.Join(dir, "data")})
	b := d.Berth()
	d.Shell(b, `$D info`).Shows("Backing Filesystem: tmpfs", "Supports size limits: false (tmpfs without project quotas)")
	d.Shell(b, `$D create --storage-opt size=10m berth/box`).Exits(1).Complains("tmpfs without project quotas", "prjquota")
	d.Shell(b, `$D run --storage-opt size=nonsense berth/box`).Exits(125).Complains("size=nonsense is no size")
	d.Shell(b, `$D run --storage-opt color=blue berth/box`).Exits(125).Complains(`unknown option "color"`)
	d.Shell(b, `$D ps -aq`).Prints("")
	d.Shell(b, `$D system check`).Exits(0)
}

// sizeDisk makes a disk with ext4 and project quotas; xfs.img on it holds XFS.
func sizeDisk(t *testing.T) string {
	t.Helper()
	harness.Tool(t, "mkfs.ext4", "mkfs.xfs")
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	files := filepath.Join(dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, size := range map[string]int64{disk: 1 << 30, filepath.Join(files, "xfs.img"): 400 << 20} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"mkfs.xfs", "-q", filepath.Join(files, "xfs.img")},
		{"mkfs.ext4", "-q", "-F", "-O", "project,quota", "-E", "quotatype=prjquota", "-d", files, disk}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args[0], err, out)
		}
	}
	return disk
}

// TestLayerSize: --storage-opt size bounds what a container writes, on ext4 and on XFS. It runs in a virtual machine, see
// TestOnCgroupVersion2, as not every kernel has the quotas.
func TestLayerSize(t *testing.T) {
	if os.Getenv("BERTH_GUEST") == "" {
		t.Skip("runs in a virtual machine, see TestOnCgroupVersion2")
	}
	for _, fs := range []struct{ name, shown, source, options string }{
		{"ext4", "extfs", "/dev/vda", "prjquota"}, {"xfs", "xfs", "/mnt/ext4/xfs.img", "loop,prjquota"},
	} {
		at := "/mnt/" + fs.name
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mount", "-t", fs.name, "-o", fs.options, fs.source, at).CombinedOutput(); err != nil {
			t.Fatalf("mount %s: %v: %s", fs.source, err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
				t.Errorf("umount: %v: %s", err, out)
			}
		})
		t.Run(fs.name, func(t *testing.T) { layerSize(t, at, fs.shown) })
	}
}

func layerSize(t *testing.T, at, shown string) {
	d := harness.Start(t, harness.Options{DataRoot: filepath.Join(at, "data")})
	b := d.Berth()
	d.Shell(b, `$D info`).Shows("Backing Filesystem: "+shown, "Supports size limits: true")
	// written is how much a container can write, in MiB.
	written := func(options string) int {
		t.Helper()
		out := d.Must(`$D run --rm --network none ` + options + ` berth/box sh -c 'dd if=/dev/zero of=/big bs=1M count=30 >/dev/null 2>&1; stat -c %s /big'`)
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		return n >> 20
	}
	for options, want := range map[string][2]int{
		"": {30, 30}, "--storage-opt size=8m": {6, 8}, "--storage-opt size=16m": {14, 16},
		// Who may write beyond a quota on ext4 may not here.
		"--cap-add SYS_RESOURCE --storage-opt size=8m": {6, 8}, "--privileged --storage-opt size=8m": {6, 8},
	} {
		if n := written(options); n < want[0] || n > want[1] {
			t.Errorf("%q: %d MiB were written, wanted %d to %d", options, n, want[0], want[1])
		}
	}
	// Layers do not count together, nor after the daemon has forgotten which projects it gave.
	fill := ` berth/box sh -c 'dd if=/dev/zero of=/big bs=1M count=6 2>/dev/null'`
	d.Must(`$D run --network none --name first --storage-opt size=8m` + fill)
	d.Stop()
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	d.Must(`$D run --network none --name second --storage-opt size=8m` + fill)
	d.Shell(b, `$D start -a first`).Exits(0)
	d.Shell(b, `$D inspect -f '{{.HostConfig.StorageOpt.size}}' first`).Prints("8m\n")
	d.Shell(b, `$D system check`).Exits(0)
}
