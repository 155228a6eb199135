package store

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	layers "github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// openWith opens a store whose data root makes containers by the driver, on a file system on which that works; "plain" is vfs
// on an overlay, which cannot hold whiteouts.
func openWith(t *testing.T, driver string) *Store {
	t.Helper()
	at := t.TempDir()
	d := Driver(driver)
	switch d {
	case Btrfs:
		onLoop(t, at, "mkfs.btrfs", "-q")
	case "plain":
		lower, upper, work := t.TempDir(), t.TempDir(), t.TempDir()
		for _, dir := range []*string{&lower, &upper, &work} {
			*dir = filepath.Clean(*dir)
		}
		// One directory for both: they must lie on one file system.
		must(t, unix.Mount("overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)))
		t.Cleanup(func() { unmount(t, at) })
		d = VFS
	}
	s, err := Open(t.Context(), filepath.Join(at, "data"))
	must(t, err)
	t.Cleanup(func() {
		s.Settle() // closes what it notes layers in
		must(t, s.Close())
	})
	if err := s.Use(d); err != nil {
		if _, missing := exec.LookPath("fuse-overlayfs"); d == FuseOverlay && missing != nil {
			t.Skip("fuse-overlayfs is not installed: ", missing)
		}
		t.Fatal(err)
	}
	if s.plain != (driver == "plain") {
		t.Fatalf("plain form: %v", s.plain)
	}
	return s
}

// onLoop mounts a file with a file system at a directory.
func onLoop(t *testing.T, at, mkfs string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(mkfs); err != nil {
		t.Skip(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(disk, nil, 0o600))
	must(t, os.Truncate(disk, 256<<20))
	if out, err := exec.Command(mkfs, append(args, disk)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mkfs, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", disk, at).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		unmount(t, at)
	})
}

// unmount waits for what ends by itself, a fuse-overlayfs whose mount is gone for instance.
func unmount(t *testing.T, at string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := unix.Unmount(at, 0)
		if err == nil {
			return
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			t.Errorf("unmount %s: %v", at, err)
			return
		}
		runtime.GC() // containerd's content store leaves a file to it
		time.Sleep(10 * time.Millisecond)
	}
}

// forEachDriver runs a test with all of them.
func forEachDriver(t *testing.T, test func(t *testing.T, s *Store)) {
	for _, d := range []string{"overlay2", "fuse-overlayfs", "btrfs", "vfs", "plain"} {
		t.Run(d, func(t *testing.T) { test(t, openWith(t, d)) })
	}
}

// view lists what a tree shows: names with kinds, owners, modes, contents and links.
func view(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	links := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		var st syscall.Stat_t
		if err := syscall.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d %d", st.Mode, st.Uid, st.Gid, st.Rdev)
		switch {
		case d.Type().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %q", st.Mtim.Sec, data)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		buf := make([]byte, 100)
		if n, err := unix.Lgetxattr(p, "user.colour", buf); err == nil {
			line += " colour " + string(buf[:n])
		}
		if st.Nlink > 1 && !d.IsDir() {
			if first, ok := links[st.Ino]; ok {
				line += " = " + first
			} else {
				links[st.Ino] = name
			}
		}
		out[name] = line
		return nil
	}))
	return out
}

// images with everything that one layer can do to those below.
func threeLayers(t *testing.T, ctx context.Context, s *Store) digest.Digest {
	t.Helper()
	owned := dir("owned/", 0o1751)
	owned.Uid, owned.Gid = 12, 34
	suid := file("bin/su", "#!su")
	suid.Mode = 0o4755
	chain, err := stack(ctx, s,
		archive(t, dir("bin/", 0o755), suid, hardlink("bin/sudo", "bin/su"), file("gone", "x"), dir("opaque/", 0o755), file("opaque/old", "x"),
			dir("was-dir/", 0o755), file("was-dir/a", "a"), file("was-file", "x"), dir("deep/a/b/", 0o755), file("deep/a/b/c", "c"),
			symlink("link", "bin/su"), file("kept", "one"), owned, file("again", "first"), dir("again-dir/", 0o755), file("again-dir/old", "x")),
		archive(t, file(".wh.gone", ""), dir("opaque/", 0o700), file("opaque/.wh..wh..opq", ""), file("opaque/new", "n"),
			file(".wh.was-dir", ""), file("was-dir", "now a file"), file(".wh.was-file", ""), dir("was-file/", 0o755), file("was-file/x", "x"),
			file("deep/a/b/.wh.c", ""), file(".wh.again", ""), file(".wh.again-dir", "")),
		archive(t, file("kept", "three"), file("again", "second"), file("again-dir/new", "n"), hardlink("bin/third", "bin/su"), file("deep/a/b/d", "d")))
	must(t, err)
	return chain
}

// TestNewContainerHasNoChanges, however soon after its files one looks: two names of one file cannot be told from a new link otherwise.
func TestNewContainerHasNoChanges(t *testing.T) {
	s := openWith(t, "vfs")
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	chain := threeLayers(t, ctx, s)
	for range 20 {
		must(t, s.NewLayer(ctx, "c", chain))
		if changes, err := s.Changes(ctx, "c", chain); err != nil || len(changes) != 0 {
			t.Fatalf("%v, %v", changes, err)
		}
		must(t, s.RemoveLayer("c"))
		s.removals.Wait()
	}
}

// TestDriversShowTheSame: whatever makes a container's file system, its files are the image's, what it changes is told and
// packed alike, and is there after it has been mounted again.
func TestDriversShowTheSame(t *testing.T) {
	type result struct {
		image, changed, committed map[string]string
		changes                   []string
	}
	var first *result
	forEachDriver(t, func(t *testing.T, s *Store) {
		ctx, release, err := s.Lease(t.Context())
		must(t, err)
		defer release()
		chain := threeLayers(t, ctx, s)
		must(t, s.NewLayer(ctx, "c", chain))
		r := &result{}
		withMount := func(f func(root string)) {
			t.Helper()
			m, err := s.MountLayer(ctx, "c", chain, false)
			must(t, err)
			f(fmt.Sprintf("/proc/self/fd/%d", m.Fd()) + "/.")
			must(t, m.Close())
		}
		withMount(func(root string) { r.image = view(t, root) })
		if changes, err := s.Changes(ctx, "c", chain); err != nil || len(changes) != 0 {
			t.Errorf("changes before anything: %v, %v", changes, err)
		}
		if size, err := s.LayerSize(ctx, "c", chain); err != nil || size != 0 {
			t.Errorf("size before anything: %d, %v", size, err)
		}
		withMount(func(root string) { change(t, root); r.changed = view(t, root) })
		withMount(func(root string) {
			if again := view(t, root); !reflect.DeepEqual(again, r.changed) {
				t.Errorf("mounted again it shows\n%v\nand not\n%v", again, r.changed)
			}
		})
		m, err := s.MountToRead(ctx, "c", chain)
		must(t, err)
		if shown := view(t, fmt.Sprintf("/proc/self/fd/%d/.", m.Fd())); !reflect.DeepEqual(shown, r.changed) {
			t.Errorf("to be read it shows\n%v\nand not\n%v", shown, r.changed)
		}
		if err := unix.Mkdirat(int(m.Fd()), "no", 0o755); err != unix.EROFS {
			t.Errorf("writing to what is to be read: %v", err)
		}
		must(t, m.Close())
		all, err := s.Changes(ctx, "c", chain)
		must(t, err)
		for _, c := range all {
			if c.Path == "/again-dir/new" {
				continue // it went with its directory, of which an overlay knows only that it is another one now
			}
			r.changes = append(r.changes, fmt.Sprintf("%c %s", "CAD"[c.Kind], c.Path))
		}
		if size, err := s.LayerSize(ctx, "c", chain); err != nil || size == 0 {
			t.Errorf("size: %d, %v", size, err)
		}
		var packed bytes.Buffer
		must(t, s.PackLayer(ctx, "c", all, &packed, func(string) bool { return false }))
		st, err := s.Stage(ctx)
		must(t, err)
		must(t, st.Apply(ctx, &packed, false))
		committed := digest.FromString("committed")
		must(t, st.Commit(ctx, committed, chain))
		must(t, s.NewLayer(ctx, "d", committed))
		m, err = s.MountNew(ctx, "d", committed)
		must(t, err)
		r.committed = view(t, fmt.Sprintf("/proc/self/fd/%d/.", m.Fd()))
		must(t, m.Close())
		delete(r.committed, ".") // its own time
		delete(r.changed, ".")
		if !reflect.DeepEqual(r.committed, r.changed) {
			t.Errorf("what was committed shows\n%v\nand not\n%v", r.committed, r.changed)
		}
		if first == nil {
			first = r
			if !strings.Contains(strings.Join(r.changes, " "), "D /link") || len(r.changes) < 10 {
				t.Errorf("changes: %q", r.changes)
			}
		}
		for _, pair := range [][2]any{{r.image, first.image}, {r.changed, first.changed}, {r.changes, first.changes}} {
			if !reflect.DeepEqual(pair[0], pair[1]) {
				t.Errorf("another driver shows\n%v\nand not\n%v", pair[1], pair[0])
			}
		}
		must(t, s.RemoveLayer("c"))
		must(t, s.RemoveLayer("d"))
		s.removals.Wait()
		if left, err := s.LayerIDs(); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
		report, err := s.Check(t.Context(), true)
		must(t, err)
		if len(report.Findings) > 0 {
			t.Errorf("check: %v", report.Findings)
		}
	})
}

// change does to a container's files what programs do.
func change(t *testing.T, root string) {
	t.Helper()
	at := func(n string) string { return filepath.Join(root, n) }
	old := time.Unix(1_600_000_000, 0)
	write := func(name, text string) {
		t.Helper()
		must(t, os.WriteFile(at(name), []byte(text), 0o640))
		must(t, os.Chtimes(at(name), old, old))
	}
	write("kept", "changed")
	write("fresh", "f")
	must(t, os.Mkdir(at("newdir"), 0o711))
	write("newdir/x", "x")
	must(t, os.Remove(at("link")))
	must(t, os.RemoveAll(at("opaque")))
	must(t, os.Remove(at("deep/a/b/d")))
	must(t, os.Chown(at("owned"), 99, 98))
	must(t, os.RemoveAll(at("again-dir")))
	must(t, os.Mkdir(at("again-dir"), 0o755))
	write("again-dir/more", "m")
	must(t, unix.Setxattr(at("again"), "user.colour", []byte("red"), 0))
	must(t, os.Symlink("nowhere", at("sym")))
	must(t, unix.Mknod(at("fifo"), unix.S_IFIFO|0o600, 0))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
}

// TestSameSizeSameTime: a file whose content changes while size and time stay is changed.
func TestSameSizeSameTime(t *testing.T) {
	for _, d := range []string{"vfs", "btrfs"} {
		t.Run(d, func(t *testing.T) {
			s := openWith(t, d)
			ctx, release, err := s.Lease(t.Context())
			must(t, err)
			defer release()
			chain, err := stack(ctx, s, archive(t, file("a", "aaaa"), file("b", "bbbb")))
			must(t, err)
			must(t, s.NewLayer(ctx, "c", chain))
			root, _ := s.Layer("c")
			for name, text := range map[string]string{"a": "abba", "b": "bbbb"} {
				p := filepath.Join(root, name)
				fi, err := os.Stat(p)
				must(t, err)
				must(t, os.WriteFile(p, []byte(text), 0o644))
				must(t, os.Chtimes(p, fi.ModTime(), fi.ModTime()))
			}
			all, err := s.Changes(ctx, "c", chain)
			must(t, err)
			if len(all) != 1 || all[0] != (layers.Change{Path: "/a", Kind: layers.Modified}) {
				t.Errorf("changes: %v", all)
			}
		})
	}
}

// TestImagesServeEveryDriver: a data root is used with one driver after the other: images are not unpacked again, and
// containers stay with what made them.
func TestImagesServeEveryDriver(t *testing.T) {
	s := openWith(t, "btrfs")
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	chain := threeLayers(t, ctx, s)
	all := []Driver{Btrfs, Overlay, VFS, FuseOverlay}
	for _, d := range all {
		if err := s.Use(d); err != nil && d == FuseOverlay {
			t.Log(err)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		must(t, s.NewLayer(ctx, "by-"+string(d), chain))
	}
	must(t, s.Use(""))
	if d, why := s.Driver(); d != Overlay || why != "it is the default" {
		t.Errorf("chosen: %s, because %s", d, why)
	}
	for _, d := range all {
		if by := s.MadeBy("by-" + string(d)); by != d && d != FuseOverlay {
			t.Errorf("made by %s, wanted %s", by, d)
		}
		m, err := s.MountLayer(ctx, "by-"+string(d), chain, false)
		if err != nil && d == FuseOverlay {
			continue
		}
		must(t, err)
		if fd, err := unix.Openat(int(m.Fd()), "bin/third", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			t.Errorf("%s: %v", d, err)
		} else {
			must(t, unix.Close(fd))
		}
		must(t, m.Close())
	}
}

// TestChoosesWhatWorks: on an overlay, overlayfs cannot be, and the choice says why.
func TestChoosesWhatWorks(t *testing.T) {
	s := openWith(t, "plain")
	if err := s.Use(Overlay); err == nil || !strings.Contains(err.Error(), "overlayfs can not hold what overlayfs hides files with") {
		t.Errorf("overlay on overlay: %v", err)
	}
	if err := s.Use(Btrfs); err == nil || !strings.Contains(err.Error(), "lies on overlayfs and not on btrfs") {
		t.Errorf("btrfs on overlay: %v", err)
	}
	must(t, s.Use(""))
	if d, why := s.Driver(); d != VFS && d != FuseOverlay || !strings.Contains(why, "overlay2 does not work: overlayfs can not hold") {
		t.Errorf("chosen: %s, because %s", d, why)
	}
	if err := s.NewLayer(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	if err := s.LimitLayer("c", 1<<20); err == nil || !strings.Contains(err.Error(), "cannot bound what a container writes") {
		t.Errorf("a size: %v", err)
	}
}

// TestBtrfsLayers: subvolumes that a container makes in its own go with it, also read-only ones; a size bounds it; what images
// were put together in goes with them, also after a daemon that died while it did so.
func TestBtrfsLayers(t *testing.T) {
	s := openWith(t, "btrfs")
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	chain := threeLayers(t, ctx, s)
	usage := func() int64 {
		n, err := s.Usage(ctx)
		must(t, err)
		return n
	}
	plain := usage()
	if n := s.TreeSize(ctx, chain); n != 0 {
		t.Errorf("a tree that was not made takes %d bytes", n)
	}
	must(t, s.NewLayer(ctx, "c", chain))
	// Every file of the tree counts with its entry, and its data with the layers alone.
	if n := s.TreeSize(ctx, chain); n == 0 || n != usage()-plain || n > 1<<20 {
		t.Errorf("%d bytes of a tree, of %d in all and %d without it", n, usage(), plain)
	}
	root, _ := s.Layer("c")
	must(t, os.Mkdir(filepath.Join(root, "d"), 0o755))
	must(t, linux.NewSubvolume(filepath.Join(root, "d", "nested")))
	must(t, linux.NewSubvolume(filepath.Join(root, "d", "nested", "deeper")))
	if out, err := exec.Command("btrfs", "property", "set", "-ts", filepath.Join(root, "d", "nested"), "ro", "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, s.RemoveLayer("c"))
	s.removals.Wait()
	if left, err := os.ReadDir(filepath.Join(s.root, "layers")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}

	must(t, s.NewLayer(ctx, "limited", chain))
	must(t, s.NewLayer(ctx, "other", chain))
	must(t, s.LimitLayer("limited", 8<<20))
	written := func(id string) (n int64) {
		root, _ := s.Layer(id)
		f, err := os.Create(filepath.Join(root, "big"))
		must(t, err)
		defer f.Close()
		for n < 32<<20 {
			k, err := f.Write(bytes.Repeat([]byte{1}, 1<<20))
			if n += int64(k); err != nil {
				if !strings.Contains(err.Error(), "quota exceeded") {
					t.Error(err)
				}
				break
			}
		}
		return n
	}
	if n := written("limited"); n < 4<<20 || n > 8<<20 {
		t.Errorf("%d bytes were written to a layer of 8 MiB", n)
	}
	if n := written("other"); n != 32<<20 {
		t.Errorf("%d bytes were written to a layer without a limit", n)
	}

	tree := filepath.Join(s.root, treesDir, chain.Encoded())
	if !linux.IsSubvolume(tree) {
		t.Fatalf("%s is no subvolume", tree)
	}
	must(t, s.GC(ctx))
	if !linux.IsSubvolume(tree) {
		t.Error("a tree in use was collected")
	}
	must(t, s.RemoveLayer("limited"))
	must(t, s.RemoveLayer("other"))
	must(t, linux.NewSubvolume(filepath.Join(s.root, treesDir, newPrefix+"half")))
	release()
	must(t, s.GC(t.Context()))
	if n := s.TreeSize(t.Context(), chain); linux.IsSubvolume(tree) || n != 0 {
		t.Errorf("the tree of a collected image stays, or counts with %d bytes", n)
	}
	must(t, s.sweepTrees(t.Context(), true)) // as the next Open does
	if left, err := os.ReadDir(filepath.Join(s.root, treesDir)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
