package confine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tree makes a directory "out" that must never be touched and an untrusted one beside it.
func tree(t testing.TB) (r *Root, dir, out string) {
	t.Helper()
	base := t.TempDir()
	dir, out = base+"/in", base+"/out"
	for _, d := range []string{dir, dir + "/run", dir + "/etc", dir + "/var", out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, out+"/secret", "secret")
	write(t, dir+"/etc/passwd", "inside")
	link(t, "/run", dir+"/var/run")
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, dir, out
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func TestLinksStayInside(t *testing.T) {
	r, dir, out := tree(t)
	for name, target := range map[string]string{"abs": "/etc/passwd", "up": "../../../../etc/passwd",
		"chain": "abs", "host": out + "/secret", "loop": "loop", "etc/dots": "../../../etc/../etc/passwd"} {
		link(t, target, dir+"/"+name)
	}
	for _, name := range []string{"/etc/passwd", "etc/passwd", "abs", "/up", "chain", "/../../etc/passwd", "etc/dots",
		"//etc//passwd"} {
		if data, err := r.ReadFile(name, 100); err != nil || string(data) != "inside" {
			t.Errorf("%q: %q %v", name, data, err)
		}
	}
	if _, err := r.ReadFile("host", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a link led to the host:", err)
	}
	if _, err := r.ReadFile("loop", 100); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if _, err := r.OpenPath("etc/passwd\x00x"); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	// Absolute links are ordinary: /var/run → /run (the regression of CVE-2026-41568's first fix).
	if err := r.MkdirAll("/var/run/app", 0o755, 0, 0); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(dir + "/run/app"); err != nil || !fi.IsDir() {
		t.Error(err)
	}
}

func TestMagicLinksAreRefused(t *testing.T) {
	f, err := os.OpenFile("/proc", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := FromFile(f)
	defer r.Close()
	for _, name := range []string{"self/root/etc/passwd", "self/fd/0", "self/exe", "thread-self/cwd"} {
		if _, err := r.OpenFile(name, unix.O_RDONLY, 0); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestReadFileTakesOnlySmallRegularFiles(t *testing.T) {
	r, dir, _ := tree(t)
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := r.ReadFile("fifo", 100)
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrNotRegular) {
			t.Error(err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("it waits for a FIFO")
	}
	if _, err := r.ReadFile("etc", 100); !errors.Is(err, ErrNotRegular) {
		t.Error(err)
	}
	write(t, dir+"/big", strings.Repeat("x", 1000))
	if _, err := r.ReadFile("big", 999); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if data, err := r.ReadFile("big", 1000); err != nil || len(data) != 1000 {
		t.Error(len(data), err)
	}
	if err := os.Truncate(dir+"/big", 1<<40); err != nil { // sparse
		t.Fatal(err)
	}
	if _, err := r.ReadFile("big", 10<<20); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	// Files of /proc say that they are empty; some have no end, and some have their reader wait until something happens.
	p, err := Open("/proc")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, name := range []string{"version", "kallsyms", "kmsg"} {
		if data, err := p.ReadFile(name, 4096); len(data) > 0 || err != nil && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestMkdirAllAndCreateFollowDanglingLinksInside(t *testing.T) {
	r, dir, out := tree(t)
	link(t, "/made/by/link", dir+"/dir-abs")
	link(t, "../../../up/dir", dir+"/etc/dir-up")
	link(t, "/run/resolve/stub.conf", dir+"/etc/resolv.conf")
	link(t, out+"/escape", dir+"/host")
	link(t, "b", dir+"/a")
	link(t, "a", dir+"/b")
	if err := os.MkdirAll(dir+"/deep/er", 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, "deep/er", dir+"/short")
	link(t, "../sibling", dir+"/deep/er/rel") // seen through "short", its ".." is still deep

	for name, want := range map[string]string{"dir-abs/x": "made/by/link/x", "etc/dir-up/x": "up/dir/x",
		"host/x": out[1:] + "/escape/x", "short/rel/x": "deep/sibling/x", "p/q/r/": "p/q/r", "m/../n": "n"} {
		if err := r.MkdirAll(name, 0o750, 0, 0); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if fi, err := os.Lstat(filepath.Join(dir, want)); err != nil || fi.Mode() != fs.ModeDir|0o750 {
			t.Errorf("%q: %v %v", name, fi, err)
		}
	}
	f, err := r.Create("/etc/resolv.conf", 0o640, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if fi, err := os.Lstat(dir + "/run/resolve/stub.conf"); err != nil || fi.Mode() != 0o640 {
		t.Error(fi, err)
	}
	if f, err = r.Create("/etc/passwd", 0o600, 0, 0); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if data, _ := os.ReadFile(dir + "/etc/passwd"); string(data) != "inside" {
		t.Error("a file that was there has changed")
	}
	if err := r.MkdirAll("a/x", 0o755, 0, 0); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if err := r.MkdirAll("etc/passwd/x", 0o755, 0, 0); !errors.Is(err, unix.ENOTDIR) {
		t.Error(err)
	}
	if _, err := r.Create("a", 0o644, 0, 0); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(out); len(entries) != 1 {
		t.Error("something was made outside:", entries)
	}
}

// What is neither there nor can be made is an error, and not tried for ever.
func TestLinksWithoutAnAnswer(t *testing.T) {
	const kthreadd = "/proc/2"
	if _, err := os.Readlink(kthreadd + "/exe"); !errors.Is(err, unix.ENOENT) {
		t.Skip("no kernel thread is to be seen:", err)
	}
	r, err := Open(kthreadd)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, name := range []string{"exe", "exe/x", "/exe/../exe"} {
		if err := r.MkdirAll(name, 0o755, 0, 0); err == nil {
			t.Error(name)
		}
		if f, err := r.Create(name, 0o644, 0, 0); err == nil {
			t.Error(name, f.Close())
		}
	}
}

func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r, dir, _ := tree(t)
	if err := r.MkdirAll("x/y", 0o711, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/x", "/x/y"} {
		var st unix.Stat_t
		if err := unix.Stat(dir+name, &st); err != nil || st.Uid != 1234 || st.Gid != 5678 || st.Mode&0o7777 != 0o711 {
			t.Error(name, st.Uid, st.Gid, st.Mode, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil || st.Uid != 0 {
		t.Error("the root's own owner has changed", err)
	}
}

func TestResolve(t *testing.T) {
	r, _, _ := tree(t)
	for name, want := range map[string]string{"/": "/", "": "/", "/var/run": "/run", "../../etc/": "/etc",
		"/var/run/../etc/passwd": "/etc/passwd"} {
		if got, err := r.Resolve(name); got != want || err != nil {
			t.Errorf("%q: %q %v", name, got, err)
		}
	}
	if _, err := r.Resolve("/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestEntries(t *testing.T) {
	r, dir, out := tree(t)
	if err := r.Symlink("/anything", "/var/run/l"); err != nil {
		t.Fatal(err)
	}
	if text, err := r.Readlink("run/l"); text != "/anything" || err != nil {
		t.Error(text, err)
	}
	if _, err := r.Readlink("etc"); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
	if fi, err := r.Lstat("run/l"); err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		t.Error(err)
	}
	link(t, out, dir+"/out")
	for _, name := range []string{"run/l", "out", "etc/passwd", "etc"} {
		if err := r.Remove(name); err != nil {
			t.Error(name, err)
		}
	}
	if _, err := os.Stat(out + "/secret"); err != nil {
		t.Error("removed through a link:", err)
	}
	for _, name := range []string{"/", "", ".", "var/..", "var/run/.."} {
		if err := r.Remove(name); err == nil {
			t.Errorf("%q was removed", name)
		}
	}
}

// A name that is a directory at one moment and a link to the host at the next never leads out.
func TestSwappedLinksNeverLeadOut(t *testing.T) {
	r, dir, out := tree(t)
	if err := os.Mkdir(dir+"/swap", 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, out, dir+"/evil")
	link(t, "../../../../../../.."+out, dir+"/evil2")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, other := range []string{"/evil", "/evil2"} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = unix.Renameat2(unix.AT_FDCWD, dir+"/swap", unix.AT_FDCWD, dir+other, unix.RENAME_EXCHANGE)
				}
			}
		})
	}
	for i := range 3000 {
		if data, err := r.ReadFile("swap/secret", 100); err == nil {
			t.Fatalf("read %q", data)
		}
		if i%10 == 0 {
			_ = r.MkdirAll("swap/made", 0o755, 0, 0)
			if f, err := r.Create("swap/file", 0o644, 0, 0); err == nil {
				_ = f.Close()
			}
		}
		_ = r.Remove("swap/secret")
	}
	close(stop)
	wg.Wait()
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != 1 || entries[0].Name() != "secret" {
		t.Error(entries, err)
	}
}

// Whatever the name and whatever a link says, nothing outside is read, made or removed.
func FuzzPaths(f *testing.F) {
	for _, seed := range []string{"a", "/a/../b", "l/x", "../../out/secret", "l/../l", "./..//", "a\x00b", "l/secret/"} {
		f.Add(seed, "../out")
		f.Add("l", seed)
	}
	f.Fuzz(func(t *testing.T, name, target string) {
		if len(name) > 300 || len(target) > 300 || strings.Count(name, "/")+strings.Count(target, "/") > 20 {
			t.Skip()
		}
		r, dir, out := tree(t)
		_ = os.Symlink(target, dir+"/l")
		before, err := os.Stat(out)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := r.ReadFile(name, 100); err == nil && string(data) == "secret" {
			t.Errorf("%q read the secret through %q", name, target)
		}
		_, _ = r.Resolve(name)
		_, _ = r.Readlink(name)
		if err := r.MkdirAll(name, 0o755, 0, 0); err == nil {
			if fi, err := r.Stat(name); err != nil || !fi.IsDir() {
				t.Errorf("%q was made but is %v %v", name, fi, err)
			}
		}
		if f, err := r.Create(name, 0o644, 0, 0); err == nil {
			_ = f.Close()
		}
		_ = r.Remove(name)
		after, err := os.Stat(out)
		if err != nil || !after.ModTime().Equal(before.ModTime()) {
			t.Errorf("%q with a link to %q changed a directory outside: %v", name, target, err)
		}
		if data, err := os.ReadFile(out + "/secret"); err != nil || string(data) != "secret" {
			t.Errorf("%q with a link to %q changed a file outside: %v", name, target, err)
		}
	})
}
