package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// TestImagesAreCollected: above the high water mark the longest unused images go, by themselves and down to the low one;
// what is used or pinned stays, and without marks nothing ever goes.
func TestImagesAreCollected(t *testing.T) {
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
	host := stock(t)
	root := filepath.Join(dir, "data")
	d := harness.Start(t, harness.Options{DataRoot: root, Args: []string{"--image-gc-high", "99%", "--image-gc-low", "2%", "--image-gc-min-age", "0"}})
	b := d.Berth()
	for _, name := range []string{"img0", "img1", "img2"} {
		d.Must(`$D pull -q ` + host + `/` + name + `:1`)
	}
	d.Must(`$D create --name user ` + host + `/img0:1`)
	d.Shell(b, `$D image pin `+host+`/img1:1`).Prints(host + "/img1:1\n")
	d.Shell(b, `$D image pin nothing`).Exits(1).Complains("No such image: nothing")
	d.Shell(b, `$D system df --why`).Exits(0).Shows("of 33.55MB used", "collected above 99% used until 2% used", "container user stands on it",
		"stays: it is pinned", "goes with the next collection")
	d.Shell(b, `$D system df --why -v`).Exits(1)
	d.Shell(b, `$D image gc --dry-run`).Exits(0).Shows(host+"/img2:1", "1 images would be removed.")
	d.Shell(b, `$D images -q `+host+`/img2`).Shows("\n")
	d.Shell(b, `$D image gc`).Exits(0).Shows(host+"/img2:1", "1 images removed", "no image is left that may be collected")
	d.Shell(b, `$D images --format '{{.Repository}}'`).Prints(host + "/img1\n" + host + "/img0\n")
	d.Shell(b, `$D image unpin `+host+`/img1:1 && $D image prune -af && $D images --format '{{.Repository}}'`).Exits(0).Shows(host + "/img0\n")
	d.Shell(b, `$D rm user && $D rmi `+host+`/img0:1`).Exits(0)

	// A daemon with marks that the pulls exceed does it by itself.
	d.Stop()
	e := harness.Start(t, harness.Options{DataRoot: root, Args: []string{"--image-gc-high", "33%", "--image-gc-low", "31%", "--image-gc-min-age", "0"}})
	e.Must(`$D pull -q ` + host + `/img0:1`)
	e.Must(`$D create --name user ` + host + `/img0:1`)
	for _, name := range []string{"img1", "img2", "img3"} {
		e.Must(`$D pull -q ` + host + `/` + name + `:1`)
	}
	harness.Eventually(t, time.Minute, "the longest unused images are collected", func() bool {
		return e.Shell(b, `$D images --format '{{.Repository}}'`).Out == host+"/img3\n"+host+"/img0\n"
	})
	e.Shell(b, `$D system check --full`).Exits(0)

	// Without marks nothing goes.
	e.Stop()
	f := harness.Start(t, harness.Options{DataRoot: root})
	f.Must(`$D pull -q ` + host + `/img1:1`)
	f.Shell(b, `$D image gc`).Exits(1).Complains("no water marks are set")
	f.Shell(b, `$D system df --why`).Exits(0).Shows("never collected unasked")
	f.Shell(b, `$D images -q | wc -l`).Prints("3\n")
}

// TestDiskUsage compares what system df says with what is on the disk.
func TestDiskUsage(t *testing.T) {
	d := harness.Start(t)
	host := stock(t)
	d.Must(`$D pull -q ` + host + `/img0:1 && $D pull -q ` + host + `/img1:1 && $D create ` + host + `/img0:1`)
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Socket)
	}}}
	resp, err := web.Get("http://d/v1.44/system/df")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var said struct {
		LayersSize int64
		Images     []struct {
			Size, SharedSize, Containers int64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		t.Fatal(err)
	}
	onDisk := func() (sum int64) {
		for _, dir := range []string{"content/blobs", "snapshots/snapshots"} {
			n, err := strconv.ParseInt(d.Must(`du -s -B1 `+filepath.Join(d.DataRoot, dir)+` | cut -f1`), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	const slack = 400 << 10 // directories above the layers, and the ends of blocks
	total := onDisk()
	if said.LayersSize > total || total-said.LayersSize > slack {
		t.Errorf("system df says %d bytes, du %d", said.LayersSize, total)
	}
	// They share a layer of 2 MB, as a blob and unpacked.
	if len(said.Images) != 2 {
		t.Fatalf("images: %+v", said.Images)
	}
	var unused int64
	for _, i := range said.Images {
		if i.SharedSize < 4<<20 || i.SharedSize > 4<<20+slack || i.SharedSize != said.Images[0].SharedSize {
			t.Errorf("shared are %d bytes, where it should be somewhat more than 4 MiB", i.SharedSize)
		}
		if i.Containers == 0 {
			unused = i.Size - i.SharedSize
		}
	}
	// What only the unused one has can be reclaimed, and comes free when it is removed.
	d.Shell(d.Berth(), `$D system df --format '{{.Type}} {{.Reclaimable}}'`).Shows("Images " + humanSize(unused))
	d.Must(`$D rmi ` + host + `/img1:1`)
	if freed := total - onDisk(); freed < unused || freed-unused > slack {
		t.Errorf("%d bytes came free of an image with %d of its own", freed, unused)
	}
}

// humanSize is the beginning of a size as the command line shows it.
func humanSize(n int64) string { return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) }
