package store

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a layer says of a name last is what there is, whatever kind of thing it was before.
func TestOneNameOfEveryKind(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	device := func(name string) entry {
		return entry{tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
	}
	pipe := func(name string) entry { return entry{tar.Header{Typeflag: tar.TypeFifo, Name: name, Mode: 0o600}, ""} }
	kinds := map[string]func(string) entry{"file": func(n string) entry { return file(n, "new") }, "device": device, "pipe": pipe,
		"symlink": func(n string) entry { return symlink(n, "/etc") }, "dir": func(n string) entry { return dir(n, 0o711) },
		"hardlink": func(n string) entry { return hardlink(n, "other") }}
	modes := map[string]uint32{"file": unix.S_IFREG, "device": unix.S_IFCHR, "pipe": unix.S_IFIFO, "symlink": unix.S_IFLNK, "dir": unix.S_IFDIR,
		"hardlink": unix.S_IFREG}
	entries := []entry{file("other", "other")}
	for first, a := range kinds {
		for second, b := range kinds {
			n := first + "-" + second
			entries = append(entries, a(n))
			if first == "dir" {
				entries = append(entries, file(n+"/below", "b"))
			}
			entries = append(entries, b(n))
		}
	}
	chain, err := stack(ctx, s, archive(t, entries...))
	must(t, err)
	root := mount(t, s, chain)
	for first := range kinds {
		for second, mode := range modes {
			var st syscall.Stat_t
			must(t, syscall.Lstat(filepath.Join(root, first+"-"+second), &st))
			if st.Mode&unix.S_IFMT != mode {
				t.Errorf("%s-%s has the mode %o", first, second, st.Mode)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "other")); string(b) != "other" {
		t.Errorf("other: %q, %v", b, err)
	}
}

// Whiteouts hide names of the layers below, inside of the image, and nothing else, by whatever way their directory is named.
func TestWhiteoutsStayInside(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("v"), 0o600))
	up := strings.Repeat("../", 20)
	whiteout := func(name string, typ byte) entry {
		return entry{tar.Header{Typeflag: typ, Name: name, Linkname: "x", Mode: 0o755}, ""}
	}
	for name, layers := range map[string][][]byte{
		"through a link out": {archive(t, symlink("l", outside), symlink("r", up+outside)),
			archive(t, file("l/.wh.victim", ""), file("r/.wh.victim", ""), file("l/.wh..wh..opq", ""))},
		"through a link of the same layer": {archive(t, file("base", "")),
			archive(t, symlink("l", outside), file("l/.wh.victim", ""), file("l/.wh..wh..opq", ""))},
		"of a link out": {archive(t, symlink("l", outside)), archive(t, file(".wh.l", ""))},
		"of every kind": {archive(t, file("a", ""), file("b", ""), file("c", ""), file("d", "")), archive(t, whiteout(".wh.a", tar.TypeDir),
			whiteout(".wh.b", tar.TypeSymlink), whiteout(".wh.c", tar.TypeLink), whiteout(".wh.d", tar.TypeFifo))},
		"a device that is one": {archive(t, file("a", "")), archive(t, entry{tar.Header{Typeflag: tar.TypeChar, Name: "a"}, ""})},
		"before and after":     {archive(t, file("a", "")), archive(t, file(".wh.a", ""), file("a", "n"), file(".wh.a", ""), file(".wh.a", ""))},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			ctx, release, err := s.Lease(t.Context())
			must(t, err)
			defer release()
			chain, err := stack(ctx, s, layers...)
			must(t, err)
			root := mount(t, s, chain)
			for _, gone := range []string{"a", "b", "c", "d", "l"} {
				_, err := os.Lstat(filepath.Join(root, gone))
				hidden := gone == "l" && name == "of a link out" || gone != "l" && !(gone == "a" && name == "before and after")
				if hidden && !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there: %v", gone, err)
				}
			}
			list, err := filepath.Glob(filepath.Join(root, ".wh*"))
			if err != nil || len(list) != 0 {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
	if b, err := os.ReadFile(filepath.Join(outside, "victim")); string(b) != "v" {
		t.Errorf("outside: %q, %v", b, err)
	}
	if l, err := os.ReadDir(outside); err != nil || len(l) != 1 {
		t.Errorf("outside: %v, %v", l, err)
	}
}

// Hard links lead to files of the image: by no symbolic link elsewhere, and not to what is hidden.
func TestHardLinksStayInside(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("v"), 0o600))
	up := strings.Repeat("../", 20)
	for name, layers := range map[string][][]byte{
		"through a link":            {archive(t, symlink("l", outside), hardlink("h", "l/victim"))},
		"through a climbing link":   {archive(t, symlink("l", up+outside), hardlink("h", "l/victim"))},
		"through a link of below":   {archive(t, symlink("l", outside)), archive(t, hardlink("h", "l/victim"))},
		"to a whiteout":             {archive(t, file("a", "")), archive(t, file(".wh.a", ""), hardlink("h", "a"))},
		"to the name of a whiteout": {archive(t, file("a", "")), archive(t, file(".wh.a", ""), hardlink("h", ".wh.a"))},
		"through the process's own": {archive(t, hardlink("h", "proc/self/exe"))},
	} {
		s := open(t)
		ctx, release, err := s.Lease(t.Context())
		must(t, err)
		if chain, err := stack(ctx, s, layers...); err == nil {
			root := mount(t, s, chain)
			if b, err := os.ReadFile(filepath.Join(root, "h")); err == nil && string(b) == "v" {
				t.Errorf("%s: it leads to a file of the host", name)
			}
			if _, err := os.Lstat(filepath.Join(root, "h")); err == nil {
				t.Errorf("%s: there is a link", name)
			}
		}
		release()
	}
	// To a symbolic link itself is well, and does not follow it.
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	chain, err := stack(ctx, s, archive(t, symlink("l", outside+"/victim"), hardlink("h", "l"), file("h2", ""), hardlink("h2", "h")))
	must(t, err)
	if to, err := os.Readlink(filepath.Join(mount(t, s, chain), "h2")); to != outside+"/victim" {
		t.Errorf("%q, %v", to, err)
	}
	var st syscall.Stat_t
	must(t, syscall.Lstat(filepath.Join(outside, "victim"), &st))
	if st.Nlink != 1 {
		t.Errorf("the file outside has %d links", st.Nlink)
	}
}

// By no attribute does a layer speak to overlayfs: what it hides and where its directories are is not an image's to say.
func TestAttributesOfOverlayfs(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	records := map[string]string{}
	for _, n := range []string{"opaque", "redirect", "metacopy", "origin", "impure", "nlink", "upper", "uuid", "whiteout", "xwhiteout", "verity", "protattr"} {
		records[paxXattr+"trusted.overlay."+n] = "y"
		records[paxXattr+"user.overlay."+n] = "/etc"
		records[paxXattr+"trusted.overlay.overlay."+n] = "y"
	}
	d, f := dir("d", 0o755), file("f", "lower")
	f.PAXRecords, f.Format, d.PAXRecords, d.Format = records, tar.FormatPAX, records, tar.FormatPAX
	chain, err := stack(ctx, s, archive(t, dir("d", 0o755), file("d/below", "b"), file("f", "x")), archive(t, d, f))
	must(t, err)
	lowers, err := s.Lowers(ctx, chain)
	must(t, err)
	buf := make([]byte, 4096)
	for _, l := range lowers {
		for _, n := range []string{"d", "f"} {
			size, err := unix.Listxattr(filepath.Join(l, n), buf)
			if err != nil || strings.Contains(string(buf[:max(size, 0)]), "overlay") {
				t.Errorf("%s: %q, %v", n, buf[:max(size, 0)], err)
			}
		}
	}
	if b, err := os.ReadFile(filepath.Join(mount(t, s, chain), "d/below")); string(b) != "b" {
		t.Errorf("the layer below is hidden: %q, %v", b, err)
	}
}
