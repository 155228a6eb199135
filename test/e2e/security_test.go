package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestSecurityRecord: what has gone wrong in other engines, one part per entry, named by it (docs/security.md is the table).
// Every part works with hostile images and containers against one daemon. Where the host must stay as it is, a folder
// full of bait says so: everything hostile points there, and after each part it is what it was.
func TestSecurityRecord(t *testing.T) {
	h := newHostile(t)
	for _, part := range []struct {
		name string
		run  func(t *testing.T, h *hostile)
	}{
		{"users", hostileUsers},
		{"capabilities", inheritedCapabilities},
		{"descriptors", leakedDescriptors},
		{"runtime file", overwrittenRuntime},
		{"links in the image", hostileLinks},
		{"masks", maskedPaths},
		{"devices", undeclaredDevices},
		{"groups", supplementaryGroups},
		{"identity files", identityFiles},
		{"environment", leakedEnvironment},
		{"labels", reservedLabels},
		{"volumes", hostileVolumes},
		{"working directory", hostileWorkdir},
		{"system calls", forbiddenCalls},
		{"host processes", hostProcesses},
		{"privileged", onlyPrivileged},
		{"copies", hostileCopies},
		{"part of a volume", swappedSubpath},
		{"images", escapingImages},
		{"bombs", bombs},
		{"foreign layers", foreignLayers},
		{"files of the daemon", privateFiles},
		{"requests", oversizedRequests},
		{"floods", floods},
		{"secrets", secretsInLogs},
		{"neighbours", hostileNeighbours},
	} {
		t.Run(part.name, func(t *testing.T) {
			part.run(t, h)
			h.unharmed(t)
		})
	}
}

// hostile is a daemon, and beside it a folder on the host that nothing of it may reach.
type hostile struct {
	d    *harness.Daemon
	b    harness.Client
	bait string // the folder
	was  string // what it looked like
	base []byte // a layer with what berth/box has
	// probe puts this program into an image (see TestMain).
	probe entry
	// hidden is a variable of the daemon's own environment.
	hidden string
}

// secret is the content of the bait: nothing that comes out of a container may contain it.
const secret = "the host's own words"

func newHostile(t *testing.T) *hostile {
	t.Helper()
	const hidden = "BERTH_TEST_HIDDEN"
	d := harness.Start(t, harness.Options{Env: []string{hidden + "=" + secret}, Args: []string{"--debug"}})
	h := &hostile{d: d, b: d.Berth(), bait: filepath.Join(d.Dir, "bait"), hidden: hidden}
	for _, dir := range []string{"", "sub", "etc"} {
		if err := os.MkdirAll(filepath.Join(h.bait, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"file", "sub/file", "passwd", "group", "hosts", "null"} {
		if err := os.WriteFile(filepath.Join(h.bait, file), []byte(secret+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.was = h.look(t)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	d.Must("$D create --name base berth/box true && $D export base >base.tar && $D rm base")
	if h.base, err = os.ReadFile(filepath.Join(d.Dir, "base.tar")); err != nil {
		t.Fatal(err)
	}
	h.probe = entry{name: "probe", kind: tar.TypeReg, text: string(self)}
	h.image(t, "plain", nil, h.probe)
	return h
}

// look describes everything in the bait.
func (h *hostile) look(t *testing.T) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(h.bait, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&s, "%s %v %d:%d", path, fi.Mode(), st.Uid, st.Gid)
		if fi.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&s, " %q", data)
		}
		s.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// unharmed checks that the bait is what it was, that the daemon lives, and that it still starts containers.
func (h *hostile) unharmed(t *testing.T) {
	t.Helper()
	if now := h.look(t); now != h.was {
		t.Errorf("the host's files were changed:\n%swere:\n%s", now, h.was)
	}
	if !h.d.Running() {
		t.Fatal("the daemon has died")
	}
	h.run(t, "$D run --rm plain echo well").Prints("well\n")
}

// run runs a line with our client; whatever it prints, it never is the host's secret.
func (h *hostile) run(t *testing.T, line string) harness.Result {
	t.Helper()
	r := h.d.ShellT(t, h.b, line)
	if strings.Contains(r.Out+r.Err, secret) {
		t.Errorf("%s\n  reached a file of the host: stdout %q, stderr %q", r.Line, r.Out, r.Err)
	}
	return r
}

// image loads an image made by hand: box below, entries on top, and a configuration that is taken as it is.
func (h *hostile) image(t *testing.T, name string, config map[string]any, entries ...entry) {
	t.Helper()
	layers := [][]byte{h.base}
	if len(entries) > 0 {
		layers = append(layers, makeTar(t, entries))
	}
	h.load(t, name, config, layers...).Exits(0)
}

// load gives the daemon an archive as docker save writes it.
func (h *hostile) load(t *testing.T, name string, config map[string]any, layers ...[]byte) harness.Result {
	t.Helper()
	merged := map[string]any{"Cmd": []string{"sh"}}
	for k, v := range config {
		merged[k] = v
	}
	var diffs, files []string
	var members []entry
	for i, l := range layers {
		file := fmt.Sprintf("%d.tar", i)
		diffs, files = append(diffs, blob(l)), append(files, file)
		members = append(members, entry{name: file, kind: tar.TypeReg, text: string(l), mode: 0o644})
	}
	c := mustJSON(t, map[string]any{"architecture": "amd64", "os": "linux", "config": merged,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	m := mustJSON(t, []any{map[string]any{"Config": "config.json", "RepoTags": []string{name + ":latest"}, "Layers": files}})
	members = append(members, entry{name: "config.json", kind: tar.TypeReg, text: c, mode: 0o644},
		entry{name: "manifest.json", kind: tar.TypeReg, text: m, mode: 0o644})
	return h.loadTar(t, makeTar(t, members))
}

func (h *hostile) loadTar(t *testing.T, data []byte) harness.Result {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.d.Dir, "load.tar"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return h.run(t, "timeout 60 $D load -q -i load.tar")
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// obey runs obligations with our client.
func (h *hostile) obey(t *testing.T, steps ...step) {
	t.Helper()
	obey(t, h.d, h.b, steps)
}
