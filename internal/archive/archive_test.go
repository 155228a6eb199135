package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

var ctx = context.Background()

func root(t *testing.T, dir string) *confine.Root {
	t.Helper()
	r, err := confine.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, data []byte) (out []string) {
	t.Helper()
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err != nil {
			sort.Strings(out)
			return out
		}
		out = append(out, h.Name)
	}
}

func TestARoundTripKeepsEverything(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	dir := filepath.Join(from, "d")
	old := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	must(t, os.MkdirAll(filepath.Join(dir, "sub/empty"), 0o755),
		os.WriteFile(filepath.Join(dir, "f"), []byte("hello"), 0o600),
		os.Chown(filepath.Join(dir, "f"), 11, 22), os.Chmod(filepath.Join(dir, "f"), 0o640|fs.ModeSetuid),
		unix.Setxattr(filepath.Join(dir, "f"), "user.note", []byte("x\x00y"), 0),
		os.Link(filepath.Join(dir, "f"), filepath.Join(dir, "sub/g")),
		os.Symlink("/absolute", filepath.Join(dir, "l")),
		unix.Mkfifo(filepath.Join(dir, "p"), 0o600),
		unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.Chtimes(filepath.Join(dir, "f"), old, old), os.Chtimes(filepath.Join(dir, "sub"), old, old))
	var buf bytes.Buffer
	must(t, Pack(ctx, root(t, from), "/d", &buf, PackOptions{}))
	want := "d/ d/f d/l d/null d/p d/sub/ d/sub/empty/ d/sub/g"
	if got := strings.Join(names(t, buf.Bytes()), " "); got != want {
		t.Errorf("entries %q, want %q", got, want)
	}
	must(t, Unpack(ctx, root(t, to), "/", &buf, UnpackOptions{Devices: true}))
	var a, b unix.Stat_t
	must(t, unix.Stat(filepath.Join(to, "d/f"), &a), unix.Stat(filepath.Join(to, "d/sub/g"), &b))
	if a.Ino != b.Ino || a.Uid != 11 || a.Gid != 22 || a.Mode != unix.S_IFREG|0o4640 || a.Mtim.Nano() != old.UnixNano() {
		t.Errorf("%+v", a)
	}
	value := make([]byte, 8)
	n, err := unix.Getxattr(filepath.Join(to, "d/f"), "user.note", value)
	if err != nil || string(value[:n]) != "x\x00y" {
		t.Error("attribute lost", err)
	}
	if l, _ := os.Readlink(filepath.Join(to, "d/l")); l != "/absolute" {
		t.Error("link", l)
	}
	must(t, unix.Lstat(filepath.Join(to, "d/null"), &a), unix.Lstat(filepath.Join(to, "d/p"), &b))
	if a.Rdev != unix.Mkdev(1, 3) || b.Mode&unix.S_IFMT != unix.S_IFIFO {
		t.Error("device or FIFO lost")
	}
	must(t, unix.Stat(filepath.Join(to, "d/sub"), &a))
	if a.Mtim.Nano() != old.UnixNano() {
		t.Error("a directory's time was lost")
	}
}

func TestNamesOfCopies(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755), os.WriteFile(filepath.Join(dir, "a/b/f"), nil, 0o644),
		os.Symlink("a/b", filepath.Join(dir, "link")))
	for name, want := range map[string]string{
		"/a/b": "b/ b/f", "/a/b/": "b/ b/f", "/a/b/.": "./ ./f", "/a/b/f": "f", "/link": "link", "/link/": "link/ link/f",
		"/link/.": "./ ./f", "a/../a/b": "b/ b/f",
	} {
		var buf bytes.Buffer
		if err := Pack(ctx, root(t, dir), name, &buf, PackOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Join(names(t, buf.Bytes()), " "); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if err := Pack(ctx, root(t, dir), "/none", &bytes.Buffer{}, PackOptions{}); !errdefs.IsNotFound(err) ||
		err.Error() != "Could not find the file /none in container" {
		t.Error(err)
	}
}

func TestStat(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "run"), 0o755), os.WriteFile(filepath.Join(dir, "run/f"), []byte("123"), 0o644),
		os.Symlink("/run", filepath.Join(dir, "var")))
	r := root(t, dir)
	st, err := Stat(r, "/var/f")
	if err != nil || st.Name != "f" || st.Size != 3 {
		t.Error(st, err)
	}
	st, err = Stat(r, "/var")
	if err != nil || st.Mode&fs.ModeSymlink == 0 || st.LinkTarget != "/run" {
		t.Error(st, err)
	}
	st, err = Stat(r, "/var/")
	if err != nil || !st.Mode.IsDir() {
		t.Error(st, err)
	}
	if _, err = Stat(r, "/x"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// archiveOf makes an archive of entries as they are, however hostile.
func archiveOf(t *testing.T, entries ...tar.Header) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range entries {
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, tw.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := tw.Write([]byte("evil"))
			must(t, err)
		}
	}
	must(t, tw.Close())
	return &buf
}

func TestAHostileArchiveStaysInside(t *testing.T) {
	for name, entries := range map[string][]tar.Header{
		"dot dot":                  {{Name: "../../out", Typeflag: tar.TypeReg}},
		"absolute":                 {{Name: "/out", Typeflag: tar.TypeReg}},
		"through a link":           {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l/out", Typeflag: tar.TypeReg}},
		"through an absolute link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, {Name: "l/out", Typeflag: tar.TypeReg}},
		"hard link out":            {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../outside/secret"}},
		"hard link to a link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside/secret"},
			{Name: "h", Typeflag: tar.TypeLink, Linkname: "l"}, {Name: "h", Typeflag: tar.TypeReg}},
		"file over a link":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside/secret"}, {Name: "l", Typeflag: tar.TypeReg}},
		"directory over a link": {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../outside"}, {Name: "l", Typeflag: tar.TypeDir, Mode: 0o777}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			in, outside := filepath.Join(top, "in"), filepath.Join(top, "outside")
			must(t, os.Mkdir(in, 0o755), os.Mkdir(outside, 0o700),
				os.WriteFile(filepath.Join(outside, "secret"), []byte("keep"), 0o600))
			_ = Unpack(ctx, root(t, in), "/", archiveOf(t, entries...), UnpackOptions{})
			left, _ := os.ReadDir(top)
			out, _ := os.ReadDir(outside)
			data, _ := os.ReadFile(filepath.Join(outside, "secret"))
			fi, err := os.Stat(outside)
			if len(left) != 2 || len(out) != 1 || string(data) != "keep" || err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("changed outside: %v %v %q", left, out, data)
			}
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(outside, "secret"), &st))
			if st.Nlink != 1 {
				t.Error("linked from inside")
			}
		})
	}
}

func TestWhatIsRefused(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755), os.WriteFile(filepath.Join(dir, "f"), nil, 0o644))
	r := root(t, dir)
	dev := tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 8}
	if err := Unpack(ctx, r, "/", archiveOf(t, dev), UnpackOptions{}); !errdefs.IsPermissionDenied(err) {
		t.Error("a device node:", err)
	}
	o := UnpackOptions{NoOverwriteDirNonDir: true}
	if err := Unpack(ctx, r, "/", archiveOf(t, tar.Header{Name: "d", Typeflag: tar.TypeReg}), o); !errdefs.IsInvalidArgument(err) {
		t.Error("a file over a directory:", err)
	}
	if err := Unpack(ctx, r, "/f", archiveOf(t), o); !errdefs.IsInvalidArgument(err) || err.Error() != "extraction point is not a directory" {
		t.Error(err)
	}
	if err := Unpack(ctx, r, "/none", archiveOf(t), o); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	for _, junk := range []string{"not an archive at all, but long enough to look like one", "\x1f\x8bjunk", "\x28\xb5\x2f\xfdjunk", "\xfd7zXZ"} {
		if err := Unpack(ctx, r, "/", strings.NewReader(junk), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", junk, err)
		}
	}
	truncated := archiveOf(t, tar.Header{Name: "half", Typeflag: tar.TypeReg}).Bytes()[:514]
	if err := Unpack(ctx, r, "/", bytes.NewReader(truncated), o); err == nil {
		t.Error("half an archive was taken")
	}
	if _, err := os.Stat(filepath.Join(dir, "half")); err == nil {
		t.Error("half a file was left")
	}
}

func TestAContainersAbsoluteLinksWork(t *testing.T) { // the regression that os.Root brought: /var/run → /run
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "run"), 0o755), os.MkdirAll(filepath.Join(dir, "var"), 0o755),
		os.Symlink("/run", filepath.Join(dir, "var/run")))
	r := root(t, dir)
	must(t, Unpack(ctx, r, "/var/run", archiveOf(t, tar.Header{Name: "pid", Typeflag: tar.TypeReg}), UnpackOptions{}))
	if _, err := os.Stat(filepath.Join(dir, "run/pid")); err != nil {
		t.Error(err)
	}
	must(t, Unpack(ctx, r, "/", archiveOf(t, tar.Header{Name: "var/run/two", Typeflag: tar.TypeReg}), UnpackOptions{}))
	if _, err := os.Stat(filepath.Join(dir, "run/two")); err != nil {
		t.Error(err)
	}
}

func TestCopyUp(t *testing.T) {
	img, vol := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(img, "data/sub"), 0o755), os.WriteFile(filepath.Join(img, "data/sub/f"), []byte("x"), 0o600),
		os.Chown(filepath.Join(img, "data"), 5, 6), os.Chmod(filepath.Join(img, "data"), 0o750))
	must(t, CopyUp(ctx, root(t, img), "/data", vol))
	var st unix.Stat_t
	must(t, unix.Stat(vol, &st))
	if _, err := os.Stat(filepath.Join(vol, "sub/f")); err != nil || st.Uid != 5 || st.Mode&0o777 != 0o750 {
		t.Error(err, st.Uid, st.Mode)
	}
	if err := CopyUp(ctx, root(t, img), "/none", t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestChanges(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(lower, "etc"), 0o755), os.WriteFile(filepath.Join(lower, "etc/a"), nil, 0o644),
		os.WriteFile(filepath.Join(lower, "gone"), nil, 0o644),
		os.MkdirAll(filepath.Join(upper, "etc"), 0o755), os.WriteFile(filepath.Join(upper, "etc/a"), []byte("x"), 0o644),
		os.WriteFile(filepath.Join(upper, "etc/new"), nil, 0o644), unix.Mknod(filepath.Join(upper, "gone"), unix.S_IFCHR, 0))
	got, err := Changes(ctx, upper, false, func() (*confine.Root, error) { return confine.Open(lower) })
	must(t, err)
	want := []Change{{"/etc", Modified}, {"/etc/a", Modified}, {"/etc/new", Added}, {"/gone", Deleted}}
	if len(got) != len(want) {
		t.Fatal(got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%v, want %v", got[i], want[i])
		}
	}
}

func FuzzUnpack(f *testing.F) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	_ = tw.WriteHeader(&tar.Header{Name: "a/b", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644})
	_, _ = tw.Write([]byte("x"))
	_ = tw.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/../.."})
	_ = tw.WriteHeader(&tar.Header{Name: "l/x", Typeflag: tar.TypeDir, Mode: 0o755})
	_ = tw.Close()
	f.Add(buf.Bytes())
	f.Add([]byte("\x1f\x8b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		if err := os.Mkdir(filepath.Join(top, "in"), 0o755); err != nil {
			t.Fatal(err)
		}
		r, err := confine.Open(filepath.Join(top, "in"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_ = Unpack(ctx, r, "/", bytes.NewReader(data), UnpackOptions{})
		if left, _ := os.ReadDir(top); len(left) != 1 {
			t.Fatal("something was made outside")
		}
	})
}
