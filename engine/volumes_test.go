package engine

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
)

func volumeAt(name, target string) func(*container.Config) {
	return func(c *container.Config) {
		c.Mounts = append(c.Mounts, container.Mount{Type: "volume", Source: name, Target: target})
	}
}

func TestAnEmptyVolumeGetsWhatTheImageHas(t *testing.T) {
	e := open(t)
	var all sync.WaitGroup
	for range 5 { // at the same time
		all.Go(func() { create(t, e, shell("true", volumeAt("grain1", "/seed"))) })
	}
	all.Wait()
	_, code, out := finish(t, e, shell("cat /seed/grain; stat -c %u:%g:%a /seed/grain; rm /seed/grain; echo rye > /seed/other",
		volumeAt("grain1", "/seed")))
	if code != 0 || out != "wheat\n7:8:640\n" {
		t.Errorf("%d %q", code, out)
	}
	// With content, it is left as it is.
	if _, code, out = finish(t, e, shell("ls /seed", volumeAt("grain1", "/seed"))); code != 0 || out != "other\n" {
		t.Errorf("%d %q", code, out)
	}
	if err := e.Volumes.Remove(t.Context(), "grain1", true); !errdefs.IsConflict(err) {
		t.Error("removed in use:", err)
	}
}

func TestVolumesFromAnotherContainer(t *testing.T) {
	e := open(t)
	first := create(t, e, shell("true", func(c *container.Config) { c.Volumes = []string{"/seed"} }))
	_, code, out := finish(t, e, shell("cat /seed/grain; touch /seed/x 2>/dev/null || echo refused", func(c *container.Config) {
		c.VolumesFrom = []string{first + ":ro"}
	}))
	if code != 0 || out != "wheat\nrefused\n" {
		t.Errorf("%d %q", code, out)
	}
	// Its volume outlives it as long as the other needs it.
	if err := e.Remove(t.Context(), first, RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	if left := e.Volumes.List(); len(left) != 1 {
		t.Error(left)
	}
}

func TestAnonymousVolumesGoWithTheirContainer(t *testing.T) {
	e := open(t)
	for _, c := range []struct {
		with bool
		left int
	}{{true, 0}, {false, 1}} {
		id := create(t, e, shell("true", func(c *container.Config) { c.Volumes = []string{"/seed"} }, volumeAt("named", "/n")))
		if err := e.Remove(t.Context(), id, RemoveOptions{Volumes: c.with}); err != nil {
			t.Fatal(err)
		}
		if left := e.Volumes.List(); len(left) != c.left+1 { // the named one stays
			t.Errorf("%+v: %v", c, left)
		}
	}
}

func TestAFailedCreationLeavesNoVolume(t *testing.T) {
	e := open(t)
	_, err := e.Create(t.Context(), shell("true", func(c *container.Config) {
		c.Volumes = []string{"/a", "/b"}
		c.Mounts = []container.Mount{{Type: "volume", Target: "/x"}, {Type: "bind", Source: "/no/such", Target: "/z"}}
	}))
	if err == nil {
		t.Fatal("created")
	}
	if left := e.Volumes.List(); len(left) != 0 {
		t.Error(left)
	}
}

// A volume on /etc must not hide the files that the engine writes there.
func TestNamesStayAboveAVolumeOnEtc(t *testing.T) {
	e := open(t)
	_, code, out := finish(t, e, shell("cat /etc/hostname; grep -c sailor /etc/passwd", volumeAt("etc1", "/etc"),
		func(c *container.Config) { c.Hostname = "tender" }))
	if code != 0 || out != "tender\n1\n" {
		t.Errorf("%d %q", code, out)
	}
}

func TestCopyingIntoAStoppedContainerReachesItsVolumes(t *testing.T) {
	e := open(t)
	shore := t.TempDir()
	if err := os.WriteFile(filepath.Join(shore, "stone"), []byte("granite"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := create(t, e, shell("cat /seed/new /bay/stone", volumeAt("seed1", "/seed"), func(c *container.Config) {
		c.Mounts = append(c.Mounts, container.Mount{Type: "bind", Source: shore, Target: "/bay", ReadOnly: true})
	}))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "new", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "oats"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	text := buf.Bytes()
	if err := e.Files.CopyIn(t.Context(), id, "/seed", bytes.NewReader(text), archive.UnpackOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Files.CopyIn(t.Context(), id, "/bay", bytes.NewReader(text), archive.UnpackOptions{}); err == nil {
		t.Error("copied into what is read-only")
	}
	v, err := e.Volumes.Get("seed1")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(v.Mountpoint, "new")); err != nil || string(data) != "oats" {
		t.Errorf("in the volume: %q, %v", data, err)
	}
	st, err := e.Files.Stat(t.Context(), id, "/bay/stone")
	if err != nil || st.Size != 7 {
		t.Error(st, err)
	}
	stream := attach(t, e, id, AttachOptions{Stream: true, Stdout: true})
	start(t, e, id)
	if out := await(t, "the output", stream); out != "oatsgranite" {
		t.Errorf("%q", out)
	}
}

func TestExportOfARunningContainer(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("echo tide > /seed/level; rm /etc/group; touch /up; while true; do sleep 1; done"))
	start(t, e, id)
	up(t, e, id)
	var buf bytes.Buffer
	if err := e.Files.Export(t.Context(), id, &buf); err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	all := "\n" + strings.Join(names, "\n") + "\n"
	if !strings.Contains(all, "\nseed/level\n") || strings.Contains(all, "etc/group") || !strings.Contains(all, "\nbin/busybox\n") {
		t.Error(all)
	}
	if code, _ := run(t, e, id, "sh", "-c", "echo x > /etc/passwd && mkdir /fresh"); code != 0 {
		t.Error("the container's own mount was disturbed:", code)
	}
}
