package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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

// TestStorageDrivers: everyday commands, and all that has to do with containers' files, whatever makes them.
func TestStorageDrivers(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "mkfs.btrfs", "fuse-overlayfs")
	for _, c := range []struct{ name, mount, driver, limits string }{
		{"btrfs", "mkfs.btrfs -q disk && mount -o loop disk $AT", "btrfs", "true"},
		{"vfs", "", "vfs", "false (not with vfs)"},
		{"fuse-overlayfs", "", "fuse-overlayfs", "false (not with fuse-overlayfs)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			at := filepath.Join(dir, "at")
			if err := os.Mkdir(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if c.mount != "" {
				cmd := exec.Command("sh", "-c", "truncate -s 512M disk && "+c.mount)
				cmd.Dir, cmd.Env = dir, append(os.Environ(), "AT="+at)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				t.Cleanup(func() { umount(t, at) })
			}
			d := harness.Start(t, harness.Options{DataRoot: filepath.Join(at, "data"), Args: []string{"--storage-driver", c.driver}})
			d.Shell(d.Berth(), `$D info`).Shows("Storage Driver: "+c.driver, "Supports size limits: "+c.limits, "Chosen because: it was asked for")
			for _, part := range [][]step{runSteps(), fileSteps(), copySteps(), imageSteps(), driverSteps(c.driver), pruneSteps()} {
				obey(t, d, d.Berth(), part)
				d.Must("$D ps -aq | xargs -r $D rm -f -v >/dev/null")
			}
			if c.driver == "btrfs" {
				obey(t, d, d.Berth(), []step{
					{line: `$D run --rm --storage-opt size=8m berth/box sh -c 'dd if=/dev/zero of=/big bs=1M count=30 2>&1; stat -c %s /big' | tail -1`,
						out: "~^[4-8][0-9]{6}\n$"},
					{line: `$D run --rm berth/box sh -c 'dd if=/dev/zero of=/big bs=1M count=30 2>/dev/null; stat -c %s /big'`, out: "31457280\n"},
				})
			} else {
				d.Shell(d.Berth(), `$D create --storage-opt size=8m berth/box`).Exits(1).Complains("the storage driver " + c.driver + " cannot bound")
			}
			// The daemon goes, and comes back with another driver: what runs goes on, and what is there stays with its own.
			d.Must(`$D run -d --name on berth/box sh -c '[ -e /f ] || echo kept >/f; sleep 1000' && $D run --name off berth/box sh -c 'echo kept >/f'`)
			d.Kill()
			if err := d.Launch(); err != nil {
				t.Fatal(err)
			}
			d.Shell(d.Berth(), `$D exec on cat /f && $D cp off:/f - | tar xO && $D diff off`).Prints("kept\nkept\nA /f\n")
			d.Stop()
			d.Args("--storage-driver", "overlay2")
			if err := d.Launch(); err != nil {
				t.Fatal(err)
			}
			d.Shell(d.Berth(), `$D info`).Shows("Storage Driver: overlayfs")
			d.Shell(d.Berth(), `$D exec on cat /f && $D restart -t 0 on && $D exec on cat /f`).Prints("kept\non\nkept\n")
			d.Shell(d.Berth(), `$D inspect -f '{{.Driver}}' off`).Prints(c.driver + "\n")
			d.Shell(d.Berth(), `$D commit off kept && $D run --rm kept cat /f`).Shows("kept\n")
			d.Shell(d.Berth(), `$D system check`).Exits(0)
		})
	}
}

// driverSteps are about what a container has changed.
func driverSteps(driver string) []step {
	return []step{
		{line: `$D run --name cc berth/box sh -c 'echo a >/a; rm /etc/group; mkdir /new; echo x >>/etc/passwd; ln /etc/passwd /hard; chmod 700 /tmp'`},
		{line: `$D diff cc`, out: "A /a\nC /etc\nD /etc/group\nC /etc/passwd\nA /hard\nA /new\nC /tmp\n"},
		{line: `$D diff cc | sort | sha256sum | wc -l`, out: "1\n"},
		{line: `$D ps -as --format '{{.Size}}' | cut -d' ' -f1`, out: "~^[0-9.]+k?B\n$"},
		{line: `$D commit cc made | wc -c; $D run --rm made sh -c 'cat /a; ls /etc/group; stat -c %h /hard; stat -c %a /tmp'`, code: 0, out: "~^72\na\n2\n700\n$"},
		{line: `$D history -q made | wc -l`, out: "~^[2-9]"},
		{line: `$D commit cc squashed >/dev/null; $D export cc | $D import - flat >/dev/null; $D run --rm flat /bin/sh -c 'cat /a; ls /etc/group'`, code: 1, out: "a\n"},
		{line: `$D create --name ss made true | wc -c; echo y >y; $D cp y ss:/y; $D cp ss:/y - | tar xO; $D diff ss`, out: "65\ny\nA /y\n"},
		{line: `$D rm cc ss; $D rmi made squashed flat | grep -c Deleted`, out: "~^cc\nss\n[0-9]+\n$"},
		{line: `$D inspect -f '{{.Driver}}' $($D create --name ii berth/box true)`, out: driver + "\n"},
		{line: `$D system check >/dev/null`},
	}
}

// TestDriverIsChosen: where overlayfs cannot work another driver is taken, and info says why; the one that cannot work and is
// asked for is refused.
func TestDriverIsChosen(t *testing.T) {
	harness.Need(t)
	dir := t.TempDir()
	cmd := exec.Command("sh", "-c", "mkdir l u w at && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay at")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := filepath.Join(dir, "at")
	t.Cleanup(func() { umount(t, at) })
	d := harness.Start(t, harness.Options{DataRoot: filepath.Join(at, "data")})
	d.Shell(d.Berth(), `$D info`).Shows("Chosen because: overlay2 does not work: overlayfs can not hold what overlayfs hides files with")
	d.Shell(d.Berth(), `$D run --rm berth/box echo hi`).Prints("hi\n")
	d.Stop()
	d.Args("--storage-driver", "btrfs")
	if err := d.Launch(); err == nil || !strings.Contains(err.Error(), "the storage driver btrfs does not work with the data root") ||
		!strings.Contains(err.Error(), "lies on overlayfs and not on btrfs") {
		t.Errorf("btrfs on an overlay: %v", err)
	}
	d.Args("--storage-driver", "vfs")
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	obey(t, d, d.Berth(), driverSteps("vfs"))
}

// umount waits for what ends by itself, a fuse-overlayfs whose mount is gone for instance.
func umount(t *testing.T, at string) {
	t.Helper()
	harness.Eventually(t, time.Minute, "unmount "+at, func() bool {
		err := syscall.Unmount(at, 0)
		return err == nil || errors.Is(err, syscall.EINVAL)
	})
}
