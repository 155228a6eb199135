package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestFullDiskEverywhere lets the disk become full at one point after the other of a pull, a load, a commit, an import
// and a create: each either succeeds, or says that there is no room and leaves everything as it was.
func TestFullDiskEverywhere(t *testing.T) {
	harness.Need(t)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=40m", "berth-test", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a small tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	host := stock(t)
	d := harness.Start(t, harness.Options{DataRoot: filepath.Join(dir, "data")})
	b := d.Berth()
	storeReady(t, d, host)
	d.Must(`$D run --name big berth/box sh -c 'dd if=/dev/urandom of=/big bs=1M count=2 2>/dev/null' && $D rmi ` + host + `/img0:1 ` + host + `/img1:1`)
	state := `$D images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'; $D ps -a --format '{{.Names}}'`
	before := d.Must(state)
	filler := filepath.Join(dir, "filler")
	failed := map[string]int{}
	rooms := []int64{0, 40, 400, 1700, 3000, 5000, 12000} // KiB
	if os.Getenv("BERTH_SOAK") != "" {
		rooms = []int64{0, 4, 16, 40, 100, 200, 400, 800, 1200, 1700, 2300, 3000, 4000, 5000, 7000, 12000}
	}
	for _, room := range rooms {
		for _, line := range []string{
			`$D pull -q ` + host + `/img2:1`, `$D load -q -i stock.tar`, `$D commit big made:1`,
			`$D cp big:/big - | $D import - imported:1`, `$D create --name more berth/box true`,
		} {
			fill(t, filler, dir, room<<10)
			r := d.Shell(b, line)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if r.Code == 0 {
				d.Must(`$D rm more >/dev/null 2>&1; for i in ` + host + `/img2:1 ` + host + `/img0:1 ` + host + `/img1:1 made:1 imported:1; do $D rmi $i >/dev/null 2>&1; done; true`)
			} else {
				failed[line]++
				if !strings.Contains(r.Err, "no space") {
					t.Errorf("%d KiB of room: %s: %s", room, r.Line, r.Err)
				}
			}
			if after := d.Must(state); after != before {
				t.Fatalf("%d KiB of room: after %s there is\n%s\nand was\n%s", room, r.Line, after, before)
			}
			if c := d.Shell(b, `$D system check --full`); c.Code != 0 {
				t.Fatalf("%d KiB of room: after %s:\n%s%s", room, r.Line, c.Out, c.Err)
			}
		}
	}
	t.Logf("failures: %v", failed)
	if len(failed) < 4 { // what a create needs may come free from elsewhere
		t.Error("not every command met a full disk")
	}
	d.Shell(b, `$D image prune -f && $D run --rm berth/box echo fine`).Shows("fine\n")
}

// fill leaves room bytes free on the file system at dir.
func fill(t *testing.T, filler, dir string, room int64) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if size := int64(st.Bavail)*st.Bsize - room; size > 0 {
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
			t.Fatal(err)
		}
	}
}
