package archive

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/confine"
	"golang.org/x/sys/unix"
)

// upperDirectory makes what overlayfs leaves of a container that changed a few things.
func upperDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "etc/hosts"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "etc/own"), []byte("text"), 0o644),
		os.Link(filepath.Join(dir, "etc/own"), filepath.Join(dir, "etc/same")),
		os.Mkdir(filepath.Join(dir, "replaced"), 0o700),
		os.WriteFile(filepath.Join(dir, "replaced/in"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mknod(filepath.Join(dir, "gone"), unix.S_IFCHR, 0); err != nil {
		t.Skip("needs root:", err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "replaced"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skip("the file system has no trusted attributes:", err)
	}
	if err := unix.Setxattr(filepath.Join(dir, "etc/own"), "user.kept", []byte("v"), 0); err != nil {
		t.Skip("the file system has no attributes:", err)
	}
	return dir
}

func packLayer(t *testing.T, dir string, skip ...string) (map[string]*tar.Header, error) {
	t.Helper()
	root, err := confine.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var buf bytes.Buffer
	if err := PackLayer(t.Context(), root, &buf, func(path string) bool { return slices.Contains(skip, path) }); err != nil {
		return nil, err
	}
	out := map[string]*tar.Header{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = h
	}
}

func TestPackLayer(t *testing.T) {
	dir := upperDirectory(t)
	got, err := packLayer(t, dir, "/etc", "/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]byte{"./": tar.TypeDir, "etc/own": tar.TypeReg, "etc/same": tar.TypeLink,
		"replaced/": tar.TypeDir, "replaced/.wh..wh..opq": tar.TypeReg, "replaced/in": tar.TypeReg, ".wh.gone": tar.TypeReg} {
		if h := got[name]; h == nil || h.Typeflag != kind {
			t.Errorf("%s: %+v", name, h)
		}
		delete(got, name)
	}
	if len(got) != 0 {
		t.Errorf("%d more entries: %v", len(got), got)
	}
	got, err = packLayer(t, dir)
	if err != nil || got["etc/own"].PAXRecords["SCHILY.xattr.user.kept"] != "v" || got["etc/hosts"] == nil {
		t.Errorf("%v, %v", got, err)
	}
	for name, h := range got {
		for key := range h.PAXRecords {
			if strings.Contains(key, "overlay") {
				t.Errorf("%s has %s", name, key)
			}
		}
	}
}

// A directory that was renamed by reference alone would lose its content.
func TestPackLayerRefusesWhatLiesElsewhere(t *testing.T) {
	dir := upperDirectory(t)
	if err := unix.Setxattr(filepath.Join(dir, "etc"), "trusted.overlay.redirect", []byte("/old"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := packLayer(t, dir); err == nil || !strings.Contains(err.Error(), "redirect_dir=off") {
		t.Error(err)
	}
}
