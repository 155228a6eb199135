package confine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func tree(t *testing.T) (*Root, string) {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "run/lock"), 0o755))
	must(os.MkdirAll(filepath.Join(dir, "var"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "run/pid"), []byte("inside"), 0o644))
	must(os.Symlink("/run", filepath.Join(dir, "var/run")))
	must(os.Symlink("../../../../../../etc", filepath.Join(dir, "up")))
	must(os.Symlink("/proc/self/root", filepath.Join(dir, "magic")))
	must(os.Symlink("loop", filepath.Join(dir, "loop")))
	must(os.Symlink("/made/later", filepath.Join(dir, "dangling")))
	r, err := Open(dir)
	must(err)
	t.Cleanup(func() { r.Close() })
	return r, dir
}

func TestAbsoluteLinksStayInside(t *testing.T) {
	r, _ := tree(t)
	data, err := r.ReadFile("/var/run/pid", 100)
	if err != nil || string(data) != "inside" {
		t.Errorf("%q, %v", data, err)
	}
	if got, err := r.Resolve("/var/run/lock/../pid"); err != nil || got != "/run/pid" {
		t.Error(got, err)
	}
	if got, err := r.Resolve("/../../.."); err != nil || got != "/" {
		t.Error(got, err)
	}
}

func TestNothingLeadsOut(t *testing.T) {
	r, _ := tree(t)
	for _, name := range []string{"/up/passwd", "/up/../../etc/passwd", "/../../../../etc/passwd", "/magic/etc/passwd",
		"/proc/self/root/etc/passwd", "loop", "/run/pid/", "a\x00b"} {
		if data, err := r.ReadFile(name, 1<<20); err == nil {
			t.Errorf("%q was read: %.20q", name, data)
		}
	}
}

func TestOnlyRegularFilesOfBoundedSizeAreRead(t *testing.T) {
	r, dir := tree(t)
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "run/pid"), 1<<40); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fifo", "run", "run/pid"} {
		if _, err := r.ReadFile(name, 1<<20); err == nil {
			t.Errorf("%q was read", name)
		}
	}
}

func TestMkdirAll(t *testing.T) {
	r, dir := tree(t)
	for name, want := range map[string]string{
		"/a/b/c": "a/b/c", "/var/run/x": "run/x", "/up/y": "etc/y", "/dangling/z": "made/later/z", "/dangling": "made/later",
	} {
		if err := r.MkdirAll(name, 0o750, 12, 34); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, want), &st); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if st.Uid != 12 || st.Gid != 34 || st.Mode&0o777 != 0o750 {
			t.Errorf("%s is of %d:%d, mode %o", name, st.Uid, st.Gid, st.Mode)
		}
	}
	if err := r.MkdirAll("/run/pid/x", 0o755, 0, 0); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
	if err := r.MkdirAll("/loop/x", 0o755, 0, 0); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "run"), &st); err != nil || st.Uid != 0 {
		t.Error("a directory that was there changed its owner", st.Uid, err)
	}
}

func TestASwappedLinkNeverLeadsOut(t *testing.T) {
	r, dir := tree(t)
	outside := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "swap"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "evil")); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "swap"), unix.AT_FDCWD, filepath.Join(dir, "evil"), unix.RENAME_EXCHANGE)
			}
		}
	})
	for range 2000 {
		_ = r.MkdirAll("/swap/in", 0o755, 0, 0)
		if f, err := r.Create("/swap/file", 0o600, 0, 0); err == nil {
			f.Close()
		}
	}
	close(stop)
	wg.Wait()
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("%d names were made outside", len(left))
	}
}

func TestRemove(t *testing.T) {
	r, dir := tree(t)
	for _, name := range []string{"/var/run", "/run/lock", "/run/pid"} {
		if err := r.Remove(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "run")); err != nil {
		t.Error("what a link pointed to is gone")
	}
	if err := r.Remove("/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func FuzzResolve(f *testing.F) {
	for _, s := range []string{"/", "a/../../b", "/magic/x", "/up/..", strings.Repeat("../", 100)} {
		f.Add(s)
	}
	dir := f.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root/a/b"), 0o755); err != nil {
		f.Fatal(err)
	}
	for from, to := range map[string]string{"up": "../../..", "abs": "/a", "a/self": "/proc/self/fd"} {
		if err := os.Symlink(to, filepath.Join(dir, "root", from)); err != nil {
			f.Fatal(err)
		}
	}
	r, err := Open(filepath.Join(dir, "root"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if len(name) > 512 {
			return
		}
		_ = r.MkdirAll(name, 0o755, 0, 0)
		if got, err := r.Resolve(name); err == nil && !strings.HasPrefix(got, "/") {
			t.Errorf("%q resolves to %q", name, got)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Fatalf("%q made something outside", name)
		}
	})
}
