package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestSystemCheck damages a data root in every way a disk or a hand can: what is wrong is named, what can be mended is,
// and nothing that a container uses or that is somebody's data goes.
func TestSystemCheck(t *testing.T) {
	d := harness.Start(t)
	b := d.Berth()
	d.Shell(b, `$D system check`).Exits(0).Shows("Nothing is wrong.")
	d.Must(`$D run --name work -v data:/data berth/box sh -c 'echo mine >/mine; echo kept >/data/kept'`)
	d.Must(`$D run -d --name live berth/box sleep 100000`)
	d.Must(`$D commit work test/made:1 && $D save -o made.tar test/made:1`)
	d.Must(`$D create --name made test/made:1 cat /mine`)
	d.Shell(b, `$D system check --full`).Exits(0).Shows("2 images, 3 containers and 1 volumes; compared ").Shows("Nothing is wrong.")

	// Layers lose their directories, also one that a container uses.
	for _, dir := range layerDirs(t, d) {
		if err := os.RemoveAll(filepath.Join(dir, "fs")); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"snapshots/snapshots/4711/fs", "layers/nobody/upper", "volumes/lost/_data"} {
		if err := os.MkdirAll(filepath.Join(d.DataRoot, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(d.DataRoot, "volumes/lost/_data/file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := d.Shell(b, `$D system check`).Exits(1).Shows("has lost its directory", "snapshots/4711 is the directory of a layer",
		"layers/nobody/upper is what a container has written that is gone", "volume lost has no record", "--repair")
	if n := strings.Count(r.Out, "✗"); n != 5 { // two layers, two orphans, a volume
		t.Errorf("%d findings, wanted 5:\n%s", n, r.Out)
	}
	d.Shell(b, `$D system check --repair`).Exits(1).Shows("(repaired)", "✗ volume lost", "1 left that cannot be mended here")
	d.Must(`rm -r ` + filepath.Join(d.DataRoot, "volumes/lost"))
	d.Shell(b, `$D system check`).Exits(0).Shows("Nothing is wrong.")
	d.Shell(b, `$D start -a made`).Prints("mine\n")
	d.Must(`$D restart -t 0 live`)
	d.Shell(b, `$D run --rm berth/box echo yes`).Prints("yes\n")

	// A blob changes; the container that stands on the image keeps its layers.
	blobs, err := filepath.Glob(filepath.Join(d.DataRoot, "content/blobs/sha256/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	for _, path := range blobs {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.Shell(b, `$D system check --full`).Exits(1).Shows("holds what has the digest")
	d.Shell(b, `$D system check --full --repair`).Exits(1).Shows("image test/made:1 lacks the manifest")
	d.Shell(b, `$D start -a made`).Prints("mine\n")
	d.Shell(b, `$D exec live echo alive`).Prints("alive\n")
	d.Must(`$D load -i made.tar && $D pull berth/box`)
	d.Shell(b, `$D system check --full`).Exits(0).Shows("Nothing is wrong.")
	d.Shell(b, `$D run --rm test/made:1 cat /mine`).Prints("mine\n")

	// A record that cannot be read costs nobody what the container wrote.
	id := d.Must(`$D inspect -f '{{.Id}}' work`)
	record := filepath.Join(d.DataRoot, "containers", id, "record.json")
	good, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	d.Stop()
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second start finds it set aside already
		if err := d.Launch(); err != nil {
			t.Fatal(err)
		}
		d.Shell(b, `$D system check --repair`).Exits(1).Shows("container "+id+" has a record that cannot be read", "record.json.damaged")
		d.Stop()
	}
	if err := os.WriteFile(record, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(record + ".damaged"); err != nil {
		t.Fatal(err)
	}
	if err := d.Launch(); err != nil {
		t.Fatal(err)
	}
	d.Shell(b, `$D cp work:/mine - | tar xO`).Prints("mine\n")
	d.Shell(b, `$D system check --format json`).Exits(0).Shows(`"Findings": []`)
	d.Shell(b, `$D system check --format yaml`).Exits(1).Complains(`invalid --format "yaml"`)
}

func layerDirs(t *testing.T, d *harness.Daemon) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(d.DataRoot, "snapshots/snapshots/*"))
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	return dirs
}
