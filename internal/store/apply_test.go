package store

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestApplyKeepsEverything(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	suid := file("bin/su", "#!su")
	suid.Mode, suid.Uid, suid.Gid = 0o4755, 7, 8
	capable := file("bin/ping", "ping")
	capable.Uid, capable.Format = 3, tar.FormatPAX
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	capable.PAXRecords = map[string]string{paxXattr + "security.capability": capability, paxXattr +
		"user.colour": "red",
		paxXattr + "trusted.overlay.redirect": "/etc", paxXattr + "trusted.overlay.metacopy": ""}
	old := file("old", "")
	old.ModTime = time.Unix(-5, 0)
	dev := entry{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
	fifo := entry{tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}, ""}
	chain, err := stack(ctx, s, archive(t, dir("bin/", 0o1777), suid, hardlink("bin/sudo", "bin/su"), symlink("sh",
		"/bin/su"),
		capable, old, dev, fifo, file("/absolute", "abs"), file("./a/../dotted", "d")))
	must(t, err)
	root := mount(t, s, chain)
	stat := func(name string) syscall.Stat_t {
		var st syscall.Stat_t
		must(t, syscall.Lstat(filepath.Join(root, name), &st))
		return st
	}
	if st := stat("bin/su"); st.Mode != syscall.S_IFREG|0o4755 || st.Uid != 7 || st.Gid != 8 || st.Nlink != 2 ||
		st.Mtim.Sec != 1_500_000_000 || st.Ino != stat("bin/sudo").Ino {
		t.Errorf("bin/su: %+v", st)
	}
	if st := stat("bin"); st.Mode != syscall.S_IFDIR|0o1777 || st.Mtim.Sec != 1_500_000_000 {
		t.Errorf("bin: %+v", st)
	}
	if st := stat("dev/null"); st.Mode != syscall.S_IFCHR|0o666 || st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("dev/null: %+v", st)
	}
	if st := stat("pipe"); st.Mode != syscall.S_IFIFO|0o600 {
		t.Errorf("pipe: %+v", st)
	}
	if st := stat("old"); st.Mtim.Sec != 0 {
		t.Errorf("old: %+v", st)
	}
	if l, err := os.Readlink(filepath.Join(root, "sh")); l != "/bin/su" || stat("sh").Mtim.Sec != 1_500_000_000 {
		t.Errorf("sh: %q, %v", l, err)
	}
	for name, want := range map[string]string{"absolute": "abs", "dotted": "d"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	buf := make([]byte, 256)
	n, err := unix.Getxattr(filepath.Join(root, "bin/ping"), "security.capability", buf)
	if string(buf[:max(n, 0)]) != capability {
		t.Errorf("capability: %q, %v", buf[:max(n, 0)], err)
	}
	lowers, err := s.Lowers(ctx, chain)
	must(t, err)
	n, err = unix.Listxattr(filepath.Join(lowers[0], "bin/ping"), buf)
	if list := string(buf[:max(n, 0)]); strings.Contains(list, "overlay") || !strings.Contains(list, "user.colour") {
		t.Errorf("attributes: %q, %v", list, err)
	}
}

// Owner and mode are the archive's also where a file got others by its making: in a directory that hands its group on,
// under the daemon's umask, or in the place of another file.
func TestApplyOwnersAndModes(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	shared := dir("shared/", 0o2775)
	shared.Gid = 50
	with := func(e entry, mode int64, uid, gid int) entry {
		e.Mode, e.Uid, e.Gid = mode, uid, gid
		return e
	}
	chain, err := stack(ctx, s, archive(t, shared, with(file("shared/root", "x"), 0o644, 0, 0), with(file("shared/group", "x"), 0o664, 0, 50),
		with(file("open", "x"), 0o666, 0, 0), with(file("none", "x"), 0, 0, 0), with(file("suid", "x"), 0o4755, 0, 0),
		with(file("user", "x"), 0o600, 1000, 0), with(file("twice", "x"), 0o4777, 7, 7), with(file("twice", "y"), 0o640, 0, 0),
		with(file("last", "x"), 0o644, 0xfffffffe, 0xfffffffe)))
	must(t, err)
	root := mount(t, s, chain)
	for name, want := range map[string][3]uint32{"shared": {0o2775, 0, 50}, "shared/root": {0o644, 0, 0}, "shared/group": {0o664, 0, 50},
		"open": {0o666, 0, 0}, "none": {0, 0, 0}, "suid": {0o4755, 0, 0}, "user": {0o600, 1000, 0}, "twice": {0o640, 0, 0},
		"last": {0o644, 0xfffffffe, 0xfffffffe}} {
		var st syscall.Stat_t
		must(t, syscall.Lstat(filepath.Join(root, name), &st))
		if got := [3]uint32{st.Mode & 0o7777, st.Uid, st.Gid}; got != want {
			t.Errorf("%s has mode %o, owner %d:%d instead of %o, %d:%d", name, got[0], got[1], got[2], want[0], want[1], want[2])
		}
	}
}

func TestApplySparse(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	chain, err := stack(ctx, s, sparseArchive(2<<20))
	must(t, err)
	lowers, err := s.Lowers(ctx, chain)
	must(t, err)
	var st syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(lowers[0], "sparse"), &st))
	if st.Size != 2<<20 || st.Blocks*512 > 64<<10 {
		t.Errorf("size %d in %d blocks", st.Size, st.Blocks)
	}
	b, err := os.ReadFile(filepath.Join(lowers[0], "sparse"))
	must(t, err)
	if b[1<<20] != 'x' || b[1<<20-1] != 0 || b[1<<20+4096] != 0 {
		t.Error("content is in the wrong place")
	}
}

// TestApplyZeros: a long run of zeros becomes a hole also where the archive does not say so; every byte stays.
func TestApplyZeros(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	content := make([]byte, 9<<20+5)
	copy(content[3<<20+100:], "in the middle")
	copy(content[5<<20-3:], "across")
	content[len(content)-70_000] = 'e'
	chain, err := stack(ctx, s, archive(t, file("f", string(content)), file("zero", string(make([]byte, 1<<20)))))
	must(t, err)
	lowers, err := s.Lowers(ctx, chain)
	must(t, err)
	got, err := os.ReadFile(filepath.Join(lowers[0], "f"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("f: %d bytes of %d, or others, %v", len(got), len(content), err)
	}
	for name, want := range map[string]int64{"f": int64(len(content)), "zero": 1 << 20} {
		var st syscall.Stat_t
		must(t, syscall.Stat(filepath.Join(lowers[0], name), &st))
		if st.Size != want || st.Blocks > 1024 {
			t.Errorf("%s: %d bytes in %d blocks", name, st.Size, st.Blocks)
		}
	}
}

// sparseArchive holds a file of size bytes in GNU tar's sparse format 1.0: one piece of 4 KiB at 1 MiB. The package
// archive/tar does not write such headers.
func sparseArchive(size int64) []byte {
	pieces := "1\n1048576\n4096\n"
	body := pieces + strings.Repeat("\x00", 512-len(pieces)) + strings.Repeat("x", 4096)
	records := ""
	for _, r := range []string{"major=1", "minor=0", "name=sparse", fmt.Sprint("realsize=", size)} {
		line := " GNU.sparse." + r + "\n"
		records += fmt.Sprintf("%d%s", len(line)+2, line)
	}
	var buf bytes.Buffer
	buf.Write(rawHeader("PaxHeaders/sparse", 'x', int64(len(records))))
	buf.WriteString(records)
	buf.Write(make([]byte, (512-len(records)%512)%512))
	buf.Write(rawHeader("GNUSparseFile.0/sparse", '0', int64(len(body))))
	buf.WriteString(body)
	buf.Write(make([]byte, 1024))
	return buf.Bytes()
}

// paxArchive holds a file with records as they stand, and then a body.
func paxArchive(body string, records ...string) []byte {
	text := ""
	for _, r := range records {
		n := len(r) + 2
		for n != len(fmt.Sprintf("%d %s\n", n, r)) {
			n = len(fmt.Sprintf("%d %s\n", n, r))
		}
		text += fmt.Sprintf("%d %s\n", n, r)
	}
	var buf bytes.Buffer
	buf.Write(rawHeader("PaxHeaders/x", 'x', int64(len(text))))
	buf.WriteString(text)
	buf.Write(make([]byte, (512-len(text)%512)%512))
	buf.Write(rawHeader("x", '0', int64(len(body))))
	buf.WriteString(body)
	buf.Write(make([]byte, (512-len(body)%512)%512+1024))
	return buf.Bytes()
}

// rawHeader is a minimal ustar header.
func rawHeader(name string, typ byte, size int64) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00%011o\x00", size, 1_500_000_000))
	h[156] = typ
	copy(h[257:], "ustar\x0000")
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

func TestLayersOnEachOther(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	private := dir("private", 0o700)
	private.Uid = 42
	chain, err := stack(ctx, s,
		archive(t, private, file("private/old", "old"), dir("gone", 0o755), file("gone/x", "x"), file("single", "1"),
			dir("opaque", 0o755), file("opaque/hidden", "h"), dir("again", 0o755), file("again/hidden", "h"),
			dir("first", 0o755), file("first/hidden", "h"), file("target", "linked"), file("plain", "p"),
			file(".wh.ignored", "")),
		archive(t, file("private/new", "new"), file(".wh.gone", ""), file(".wh.single", ""),
			dir("opaque", 0o711), file("opaque/shown", "s"), file("opaque/.wh..wh..opq", ""),
			dir("again", 0o755), file("again/shown", "s"), file(".wh.again", ""),
			file(".wh.first", ""), file("first/shown", "s"), hardlink("link", "target"), hardlink("link2", "target"),
			file(".wh.plain", ""), file("plain", "P"), file(".wh..wh.plnk", "")),
		archive(t, file("private/newer", "newer"), dir("plain", 0o755), file("plain/x", "x")))
	must(t, err)
	root := mount(t, s, chain)
	var got []string
	must(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && path != root {
			got = append(got, strings.TrimPrefix(path, root+"/"))
		}
		return err
	}))
	want := "again again/shown first first/shown link link2 opaque opaque/shown plain plain/x private private/new " +
		"private/newer private/old target"
	if strings.Join(got, " ") != want {
		t.Errorf("have %s\nwant %s", strings.Join(got, " "), want)
	}
	var st, st2 syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(root, "private"), &st))
	if st.Mode&0o7777 != 0o700 || st.Uid != 42 || st.Mtim.Sec != 1_500_000_000 {
		t.Errorf("an implied directory lost its attributes: %o %d %d", st.Mode, st.Uid, st.Mtim.Sec)
	}
	must(t, syscall.Stat(filepath.Join(root, "link"), &st))
	must(t, syscall.Stat(filepath.Join(root, "target"), &st2))
	if st.Ino != st2.Ino || st.Nlink != 3 {
		t.Errorf("link and target are different: %d %d, %d links", st.Ino, st2.Ino, st.Nlink)
	}
	if b, err := os.ReadFile(filepath.Join(root, "link2")); string(b) != "linked" {
		t.Errorf("link2: %q, %v", b, err)
	}
}

// Links of an archive are followed inside of it, as a process in it would (CVE-2026-17106, CVE-2021-32760,
// CVE-2025-47290).
func TestLinksStayInside(t *testing.T) {
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "victim"), []byte("v"), 0o600))
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	victim := entry{tar.Header{Typeflag: tar.TypeReg, Name: "abs/victim", Mode: 0o4777, Size: 3, Uid: 99}, "new"}
	up := "../../../../../../../../../../../.."
	chain, err := stack(ctx, s, archive(t,
		symlink("abs", outside), victim,
		symlink("rel", up+outside), file("rel/created", "c"),
		dir("usr/lib", 0o755), symlink("lib", "usr/lib"), file("lib/a", "a"), dir("lib", 0o755), file("lib/b", "b"),
		symlink("chmod", outside+"/victim"), dir("chmod", 0o4777),
		symlink("self", "self2"), symlink("self2", "self/"),
		symlink("proc", "/proc/self/fd"),
	))
	must(t, err)
	root := mount(t, s, chain)
	for name, want := range map[string]string{outside + "/victim": "new", outside + "/created": "c", "usr/lib/a": "a",
		"lib/b": "b"} {
		if b, err := os.ReadFile(filepath.Join(root, name)); string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(outside, "victim")); err != nil || fi.Mode() != 0o600 || fi.Size() != 1 {
		t.Errorf("outside: %v, %v", fi, err)
	}
	if l, err := os.ReadDir(outside); err != nil || len(l) != 1 {
		t.Errorf("outside: %v, %v", l, err)
	}
}

func TestBadLayers(t *testing.T) {
	good := archive(t, file("a", strings.Repeat("x", 3000)))
	huge := entry{tar.Header{Typeflag: tar.TypeReg, Name: "x", Uid: 1 << 32, Format: tar.FormatGNU}, ""}
	for name, data := range map[string][]byte{
		"dots":                      archive(t, file("../x", "")),
		"dots inside":               archive(t, file("a/../../x", "")),
		"absolute dots":             archive(t, file("/../x", "")),
		"hard link out":             archive(t, hardlink("x", "../../etc/passwd")),
		"hard link to nothing":      archive(t, hardlink("x", "nothing")),
		"hard link to itself":       archive(t, file("x", ""), hardlink("x", "./x")),
		"hard link to a directory":  archive(t, dir("d", 0o755), hardlink("x", "d")),
		"whiteout of nothing":       archive(t, file(".wh.", "")),
		"whiteout of parent":        archive(t, file("a/.wh...", "")),
		"whiteout of itself":        archive(t, file("a/.wh..", "")),
		"through a file":            archive(t, file("a", ""), file("a/b", "")),
		"loop":                      archive(t, symlink("a", "b"), symlink("b", "a"), file("a/x", "")),
		"root is a file":            archive(t, file(".", "")),
		"user beyond 32 bits":       archive(t, huge),
		"truncated body":            good[:1024],
		"truncated header":          good[:100],
		"sparse file of 1 PiB":      sparseArchive(1 << 50),
		"size below zero":           append(rawHeader("x", '0', -1), make([]byte, 1024)...),
		"negative size by PAX":      paxArchive("x", "size=-1"),
		"sparse map of millions":    paxArchive("99999999\n"+strings.Repeat("0\n0\n", 2<<20), "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=9"),
		"sparse map below zero":     paxArchive("-1\n", "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=s", "GNU.sparse.realsize=9"),
		"PAX header of 2 MiB":       paxArchive("", "comment="+strings.Repeat("x", 2<<20)),
		"name of 8 MiB":             append(rawHeader("././@LongLink", 'L', 8<<20), make([]byte, 8<<20+1024)...),
		"zero in a PAX name":        paxArchive("", "path=a\x00b"),
		"attribute of 65 KiB":       paxArchive("", "SCHILY.xattr.user.x="+strings.Repeat("x", 65<<10)),
		"attribute's name too long": paxArchive("", "SCHILY.xattr.user."+strings.Repeat("x", 300)+"=x"),
		"attributes of 900 KB":      paxArchive("", attributes(900)...),
		"directories of 5000 bytes": paxArchive("", "path="+strings.Repeat("a/", 2500)+"x"),
		"garbage":                   bytes.Repeat([]byte("garbage"), 1000),
		"long name":                 archive(t, file(strings.Repeat("a", 300), "")),
		"unknown type":              append(rawHeader("x", 'Z', 0), make([]byte, 1024)...),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			ctx, release, err := s.Lease(t.Context())
			must(t, err)
			for _, below := range [][]byte{nil, archive(t, file("base", ""))} {
				layers := [][]byte{data}
				if below != nil {
					layers = [][]byte{below, data}
				}
				_, err = stack(ctx, s, layers...)
				if err == nil || !errdefs.IsInvalidArgument(err) {
					t.Errorf("accepted or wrong kind: %v", err)
				} else if strings.Contains(err.Error(), "\n") {
					t.Errorf("not one sentence: %q", err)
				}
			}
			release()
			must(t, s.GC(t.Context()))
			wantEmpty(t, s)
		})
	}
}

// attributes are n extended attributes of 1000 bytes as PAX records.
func attributes(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprintf("SCHILY.xattr.user.a%d=%s", i, strings.Repeat("x", 1000)))
	}
	return list
}

// A layer cannot make more directories than it may have entries by passing through them.
func TestDirectoriesPassedThroughCount(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	st, err := s.Stage(ctx)
	must(t, err)
	defer st.Abort(ctx)
	st.a.entries = maxEntries - 10
	err = st.Apply(ctx, bytes.NewReader(archive(t, file(strings.Repeat("a/", 20)+"x", ""))), true)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "entries") {
		t.Errorf("20 directories where 9 are left: %v", err)
	}
}

// Files that are no larger than one may be are too large together.
func TestSizesAddUp(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	st, err := s.Stage(ctx)
	must(t, err)
	defer st.Abort(ctx)
	st.a.size = maxSize - 10
	err = st.Apply(ctx, bytes.NewReader(archive(t, file("a", "123456"), file("b", "123456"))), true)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `the 6 bytes of "b"`) {
		t.Errorf("12 bytes where 10 are left: %v", err)
	}
}

// Names are bytes: what is no UTF-8 is kept, linked to and hidden as it is.
func TestNamesAreBytes(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	const name = "caf\xe9\n\x1b[31m"
	raw := func(name, text string, typ byte) entry {
		return entry{tar.Header{Typeflag: typ, Name: name, Mode: 0o644, Size: int64(len(text)), Format: tar.FormatGNU}, text}
	}
	link := raw("link", "", tar.TypeLink)
	link.Linkname = name
	chain, err := stack(ctx, s, archive(t, raw(name, "x", tar.TypeReg), link, raw("gone\xff", "x", tar.TypeReg)),
		archive(t, raw(".wh.gone\xff", "", tar.TypeReg)))
	must(t, err)
	root := mount(t, s, chain)
	var a, b syscall.Stat_t
	must(t, syscall.Lstat(filepath.Join(root, name), &a))
	must(t, syscall.Lstat(filepath.Join(root, "link"), &b))
	if a.Ino != b.Ino {
		t.Error("the link leads elsewhere")
	}
	if _, err := os.Lstat(filepath.Join(root, "gone\xff")); !os.IsNotExist(err) {
		t.Errorf("what the upper layer removes: %v", err)
	}
}

func TestManyEntries(t *testing.T) {
	s := open(t)
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	defer release()
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		for i := range 100_000 {
			h := tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprintf("d%d/l%d", i%100, i), Linkname: "x"}
			if err := tw.WriteHeader(&h); err != nil {
				t.Error(err)
			}
		}
		w.CloseWithError(tw.Close())
	}()
	st, err := s.Stage(ctx)
	must(t, err)
	must(t, st.Apply(ctx, r, true))
	_, _ = io.Copy(io.Discard, r)
	must(t, st.Commit(ctx, "sha256:"+"00"+"0000000000000000000000000000000000000000000000000000000000000a", ""))
}

func TestDiskFull(t *testing.T) {
	at := t.TempDir()
	must(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=1m,nr_inodes=500"))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	s, err := Open(t.Context(), filepath.Join(at, "data"))
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	ctx, release, err := s.Lease(t.Context())
	must(t, err)
	_, err = stack(ctx, s, archive(t, file("big", strings.Repeat("x", 2<<20))))
	if err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("full disk: %v", err)
	}
	release()
	must(t, s.GC(t.Context()))
	wantEmpty(t, s)
}

// wantCounted checks what was counted of a sealed layer, against a walk.
func wantCounted(t *testing.T, a *applier) {
	t.Helper()
	counted, err := a.usage(t.Context())
	must(t, err)
	walked, err := fs.DiskUsage(t.Context(), a.root.Name())
	must(t, err)
	if counted != snapshots.Usage(walked) {
		t.Errorf("counted %+v, there is %+v", counted, walked)
	}
}

func TestUsageIsCounted(t *testing.T) {
	device, fifo, value := file("c", ""), file("p", ""), file("x", "x")
	device.Typeflag, device.Devmajor, device.Devminor = tar.TypeChar, 1, 3
	fifo.Typeflag = tar.TypeFifo
	value.PAXRecords = map[string]string{"SCHILY.xattr.user.x": strings.Repeat("v", 2000)}
	lower := t.TempDir()
	must(t, os.Mkdir(filepath.Join(lower, "below"), 0o755))
	must(t, os.WriteFile(filepath.Join(lower, "f"), []byte("f"), 0o644))
	for name, c := range map[string]struct {
		entries []entry
		walk    bool
	}{
		"nothing":                  {},
		"ordinary":                 {[]entry{dir("a", 0o755), file("a/b", "x"), file("big", strings.Repeat("x", 100_000)), dir("d", 0o700)}, false},
		"links":                    {[]entry{file("a", "x"), hardlink("b", "a"), symlink("s", "a"), symlink("t", strings.Repeat("a/", 500))}, false},
		"devices":                  {[]entry{device, fifo, value}, false},
		"the root":                 {[]entry{dir("./", 0o755), file("a", "")}, false},
		"a directory twice":        {[]entry{dir("a", 0o755), dir("b", 0o755), dir("a", 0o700)}, false},
		"entered before named":     {[]entry{file("a/b/c", "x"), dir("a/b", 0o755), dir("a", 0o755)}, false},
		"of the layer below":       {[]entry{file("below/c", "x")}, false},
		"never named":              {[]entry{file("a/b/c", "x")}, true},
		"a file twice":             {[]entry{file("a", strings.Repeat("x", 10_000)), file("a", "y")}, true},
		"a directory for a file":   {[]entry{file("a", "x"), dir("a", 0o755), file("a/b", "y")}, true},
		"a file for a directory":   {[]entry{dir("a", 0o755), file("a/b", "x"), file("a", "y")}, true},
		"whiteouts":                {[]entry{file(".wh.f", ""), dir("d", 0o755), file("d/.wh..wh..opq", "")}, true},
		"a link to a file below":   {[]entry{hardlink("l", "f")}, true},
		"a directory for a hidden": {[]entry{file(".wh.below", ""), dir("below", 0o755)}, true},
	} {
		for _, plain := range []bool{false, true} {
			d, err := os.Open(t.TempDir())
			must(t, err)
			a := newApplier(d, plain)
			must(t, a.apply(t.Context(), bytes.NewReader(archive(t, c.entries...)), false))
			must(t, a.seal(t.Context(), []string{lower}))
			if walk := a.used.walk || int64(len(a.used.inodes)) != a.used.directories; walk != c.walk {
				t.Errorf("%s: walk %v, %+v", name, walk, a.used)
			}
			wantCounted(t, a)
			must(t, a.close())
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add(archive(f, dir("a", 0o755), file("a/b", "x"), symlink("l", "/a"), file("l/c", "y"), hardlink("h", "a/b")))
	f.Add(archive(f, file(".wh.x", ""), dir("x", 0o700), file("x/.wh..wh..opq", "")))
	lower := f.TempDir()
	must(f, os.MkdirAll(filepath.Join(lower, "a/b"), 0o711))
	must(f, os.WriteFile(filepath.Join(lower, "f"), []byte("f"), 0o644))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 64<<10 {
			return
		}
		for _, plain := range []bool{false, true} {
			fuzzApply(t, data, lower, plain)
		}
	})
}

func fuzzApply(t *testing.T, data []byte, lower string, plain bool) {
	top := t.TempDir()
	must(t, os.Mkdir(filepath.Join(top, "root"), 0o755))
	d, err := os.Open(filepath.Join(top, "root"))
	must(t, err)
	a := newApplier(d, plain)
	if err := a.apply(t.Context(), bytes.NewReader(data), false); err == nil {
		if a.seal(t.Context(), []string{lower}) == nil {
			wantCounted(t, a)
		}
	}
	must(t, a.close())
	left, err := os.ReadDir(top)
	if err != nil || len(left) != 1 {
		t.Errorf("outside of the root: %v, %v", left, err)
	}
}
