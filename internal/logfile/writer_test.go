package logfile

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files")

var moment = time.Date(2025, 11, 21, 10, 0, 0, 123456789, time.UTC)

func newWriter(t testing.TB, o WriterOptions) *Writer {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "c-json.log")
	}
	w, err := OpenWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func readAll(t testing.TB, path string, o ReadOptions) []Entry {
	t.Helper()
	o.Stdout, o.Stderr = true, true
	var got []Entry
	if err := Read(context.Background(), path, o, func(e Entry) error {
		e.Line = bytes.Clone(e.Line)
		got = append(got, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func text(entries []Entry) string {
	var b strings.Builder
	for _, e := range entries {
		b.Write(e.Line)
	}
	return b.String()
}

// The golden file has what Docker's encoder writes for the same lines.
func TestGolden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, WriterOptions{Path: path})
	at := moment
	for _, line := range []string{
		"hello\n", "\n", "no newline before the end", "\n",
		`quote " backslash \ less < greater > and &` + "\n",
		"tab\t return\r bell\x07 escape \x1b[31m nul\x00 delete\x7f\n",
		"grüße 世界 🚢 \u2028 \u2029 \ufffd\n",
		"broken \xff \xc3( \xe4\xb8 \xf0\x9f\x9a utf-8\n",
		"\xed\xa0\x80 surrogate\n",
	} {
		w.Write(Stdout, []byte(line), at)
		at = at.Add(1111 * time.Microsecond)
	}
	w.Write(Stderr, []byte("on stderr\nand the rest"), time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600)))
	w.Close()
	withAttrs := newWriter(t, WriterOptions{Path: path, Attrs: []byte(`{"env":"prod","n":"1"}`)})
	withAttrs.Write(Stdout, []byte("with attributes\n"), at)
	withAttrs.Close()

	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "golden.log")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for line := range bytes.Lines(got) {
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Whatever bytes a container prints, our encoding means the same as that of encoding/json.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("a<b>&\"\\\x00\n\xff\u2028é"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got := append(append([]byte{'"'}, appendString(nil, in)...), '"')
		var mine, theirs string
		if err := json.Unmarshal(got, &mine); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		enc, err := json.Marshal(string(in))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(enc, &theirs); err != nil || mine != theirs {
			t.Fatalf("%q became %q, not %q", in, mine, theirs)
		}
		for i := range in {
			want := 0
			for want < len(in[i:]) && strings.IndexByte("\"\\<>&", in[i+want]) < 0 && in[i+want] >= 0x20 && in[i+want] < 0x80 {
				want++
			}
			if n := plain(in[i:]); n != want {
				t.Fatalf("%q: %d bytes are plain, not %d", in[i:], n, want)
			}
		}
	})
}

func TestLongLines(t *testing.T) {
	for _, c := range []struct {
		name   string
		in     string
		pieces []int // lengths, with newline
	}{
		{"fits", strings.Repeat("x", MaxPiece-1) + "\n", []int{MaxPiece}},
		{"just not", strings.Repeat("x", MaxPiece) + "\n", []int{MaxPiece, 1}},
		{"two and a bit", strings.Repeat("x", 2*MaxPiece+5) + "\ny\n", []int{MaxPiece, MaxPiece, 6, 2}},
		{"no end", strings.Repeat("x", MaxPiece+5), []int{MaxPiece, 5}},
		{"characters stay whole", strings.Repeat("x", MaxPiece-1) + "世界\n", []int{MaxPiece - 1, 7}},
		{"four bytes", strings.Repeat("x", MaxPiece-3) + "🚢\n", []int{MaxPiece - 3, 5}},
		{"broken bytes are cut", strings.Repeat("\xff", MaxPiece+1) + "\n", []int{MaxPiece * 3, 4}},
		{"control characters", strings.Repeat("\x01", MaxPiece) + "\n", []int{MaxPiece, 1}},
	} {
		for _, step := range []int{1 << 20, 1000, 4096, MaxPiece, 7} {
			w := newWriter(t, WriterOptions{MaxSize: -1})
			now := moment
			for in := []byte(c.in); len(in) > 0; in = in[min(step, len(in)):] {
				w.Write(Stdout, in[:min(step, len(in))], now)
				now = now.Add(time.Nanosecond)
			}
			w.Close()
			got := readAll(t, w.o.Path, ReadOptions{Tail: -1})
			var lens []int
			for _, e := range got {
				lens = append(lens, len(e.Line))
			}
			if fmt.Sprint(lens) != fmt.Sprint(c.pieces) {
				t.Errorf("%s, %d at a time: pieces of %v, not %v", c.name, step, lens, c.pieces)
			}
			if text(got) != strings.ToValidUTF8(c.in, "") && utf8.ValidString(c.in) {
				t.Errorf("%s: the text has changed", c.name)
			}
			if len(c.pieces) == 2 && !got[0].Time.Equal(got[1].Time) && !strings.HasSuffix(c.in, "y\n") {
				t.Errorf("%s: pieces of one line have different times", c.name)
			}
		}
	}
}

func TestStreamsDoNotMix(t *testing.T) {
	w := newWriter(t, WriterOptions{})
	w.Write(Stdout, []byte("out "), moment)
	w.Write(Stderr, []byte("err "), moment)
	w.Write(Stdout, []byte("1\nout 2"), moment)
	if got := string(w.Pending(Stdout)); got != "out 2" {
		t.Errorf("pending %q", got)
	}
	w.Write(Stderr, []byte("1\n"), moment)
	w.End(Stdout, moment)
	w.Flush()
	got := readAll(t, w.o.Path, ReadOptions{Tail: -1})
	want := []string{"1out 1\n", "2err 1\n", "1out 2"}
	for i, e := range got {
		if s := fmt.Sprintf("%d%s", e.Stream, e.Line); i >= len(want) || s != want[i] {
			t.Errorf("entry %d: %q", i, s)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d entries", len(got))
	}
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, WriterOptions{Path: path, MaxSize: 10_000, MaxFile: 4})
	var all []string
	for i := range 2000 {
		line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", rand.IntN(300)))
		all = append(all, line)
		w.Write(Stdout, []byte(line), moment)
		if rand.IntN(4) == 0 {
			w.Flush()
		}
	}
	w.Close()
	files, _ := filepath.Glob(path + "*")
	if len(files) != 4 {
		t.Errorf("files: %v", files)
	}
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil || st.Size() > 10_000 || st.Mode().Perm() != 0o640 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
	}
	got := readAll(t, path, ReadOptions{Tail: -1})
	if want := strings.Join(all[len(all)-len(got):], ""); text(got) != want || len(got) < 100 {
		t.Errorf("%d entries, wrong ones", len(got))
	}
	for _, n := range []int{0, 1, 2, 30, 70, 100, len(got), len(got) + 1} {
		tail := readAll(t, path, ReadOptions{Tail: n})
		want := strings.Join(all[len(all)-min(n, len(got)):], "")
		if text(tail) != want {
			t.Errorf("tail %d: %d entries, wrong ones", n, len(tail))
		}
	}
}

func TestOneFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, WriterOptions{Path: path, MaxSize: 1000, MaxFile: 1})
	for i := range 100 {
		w.Write(Stdout, fmt.Appendf(nil, "line %d\n", i), moment)
	}
	w.Write(Stdout, append(bytes.Repeat([]byte("x"), 5000), '\n'), moment)
	w.Flush()
	if files, _ := filepath.Glob(path + "*"); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
	if got := readAll(t, path, ReadOptions{Tail: -1}); len(got) != 1 || len(got[0].Line) != 5001 {
		t.Errorf("a line larger than a file: %d entries", len(got))
	}
}

func TestCompress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	rotatedTimes := 0
	w := newWriter(t, WriterOptions{Path: path, MaxSize: 5000, MaxFile: 5, Rotated: func() { rotatedTimes++ }})
	var all []string
	for i := range 1000 {
		line := fmt.Sprintf("line %d\n", i)
		all = append(all, line)
		w.Write(Stderr, []byte(line), moment)
		if i%70 == 0 {
			w.Flush()
		}
		if i%200 == 0 {
			if err := Compress(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.Flush()
	if rotatedTimes == 0 {
		t.Error("nobody was told of a rotation")
	}
	check := func() {
		t.Helper()
		got := readAll(t, path, ReadOptions{Tail: -1})
		if want := strings.Join(all[len(all)-len(got):], ""); text(got) != want || len(got) < 100 {
			t.Errorf("%d entries, wrong ones", len(got))
		}
		for _, n := range []int{1, 60, 90, 140, len(got) - 1} {
			if tail := readAll(t, path, ReadOptions{Tail: n}); text(tail) != strings.Join(all[len(all)-n:], "") {
				t.Errorf("tail %d: %d entries, wrong ones", n, len(tail))
			}
		}
	}
	check()
	if err := Compress(path); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(path + ".*.gz"); len(files) != 4 {
		t.Errorf("compressed files: %v", files)
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 5 {
		t.Errorf("files: %v", files)
	}
	check()
	// A compressor killed before its last step.
	z, _ := os.Open(path + ".2.gz")
	defer z.Close()
	r, err := gzip.NewReader(z)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(r)
	os.WriteFile(path+".2", b[:len(b)/2], 0o640)
	check()
	for range 200 {
		w.Write(Stderr, []byte("more\n"), moment)
		all = append(all, "more\n")
	}
	w.Flush()
	check()
	if files, _ := filepath.Glob(path + "*"); len(files) != 5 {
		t.Errorf("files: %v", files)
	}
}

func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, WriterOptions{Path: path})
	w.Write(Stdout, []byte("one\ntwo\n"), moment)
	w.Close()
	whole, _ := os.ReadFile(path)
	second := bytes.IndexByte(whole, '\n') + 1
	for cut := second; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o640); err != nil {
			t.Fatal(err)
		}
		for _, tail := range []int{-1, 1, 5} {
			if got := text(readAll(t, path, ReadOptions{Tail: tail})); got != "one\n" {
				t.Fatalf("cut at %d, tail %d: %q", cut, tail, got)
			}
		}
		w := newWriter(t, WriterOptions{Path: path})
		w.Write(Stdout, []byte("three\n"), moment)
		w.Close()
		if got := text(readAll(t, path, ReadOptions{Tail: -1})); got != "one\nthree\n" {
			t.Fatalf("cut at %d, then written: %q", cut, got)
		}
	}
	// A torn line longer than any block that is read backwards.
	if err := os.WriteFile(path, append(bytes.Clone(whole), bytes.Repeat([]byte("x"), 300_000)...), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := text(readAll(t, path, ReadOptions{Tail: 1})); got != "two\n" {
		t.Errorf("tail: %q", got)
	}
	w = newWriter(t, WriterOptions{Path: path})
	if w.size != int64(len(whole)) {
		t.Errorf("cut to %d, not %d", w.size, len(whole))
	}
}

// A full disk costs entries, never the writer; and it is said how many.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "log")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 40<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWriter(t, WriterOptions{Path: path, MaxSize: 30 << 10, MaxFile: 2})
	for i := range 1000 {
		w.Write(Stdout, fmt.Appendf(nil, "before %d\n", i), moment)
		if i%10 == 0 {
			w.Flush()
		}
	}
	w.Flush()
	entries, size := w.Lost()
	if entries == 0 || size == 0 {
		t.Fatal("nothing was lost on a full disk")
	}
	before := readAll(t, path, ReadOptions{Tail: -1})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	w.Write(Stdout, []byte("after\n"), moment)
	w.Flush()
	got := readAll(t, path, ReadOptions{Tail: -1})
	if len(got) < 3 || text(got[len(got)-1:]) != "after\n" {
		t.Fatalf("%d entries, the last %q", len(got), text(got[len(got)-1:]))
	}
	want := fmt.Sprintf("[berth: %d log entries (%d bytes) could not be written: no space left on device]\n", entries, size)
	if r := got[len(got)-2]; string(r.Line) != want || r.Stream != Stderr {
		t.Errorf("report %q, not %q", r.Line, want)
	}
	if n, _ := w.Lost(); n != 0 {
		t.Errorf("still %d lost", n)
	}
	raw, _ := os.ReadFile(path)
	for line := range bytes.Lines(raw) {
		if !json.Valid(line) {
			t.Errorf("broken line %q", line)
		}
	}
	if len(before) == 0 {
		t.Error("nothing was written before the disk was full")
	}
}

func TestOpenWriterRefuses(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/hostname", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dir, filepath.Join(dir, "no", "log")} {
		w, err := OpenWriter(WriterOptions{Path: path})
		if err == nil {
			t.Errorf("%q was opened", path)
		} else if !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", path, err)
		}
		w.Write(Stdout, []byte("lost\n"), moment)
		w.Flush()
		if n, _ := w.Lost(); n != 1 {
			t.Errorf("%q: %d entries were lost", path, n)
		}
		w.Close()
	}
	// What could not be opened first may be opened later.
	later := filepath.Join(dir, "later")
	w, err := OpenWriter(WriterOptions{Path: filepath.Join(later, "log")})
	if err == nil {
		t.Fatal("opened a log in a directory that is not there")
	}
	w.Write(Stdout, []byte("lost\n"), moment)
	w.Flush()
	if err := os.Mkdir(later, 0o700); err != nil {
		t.Fatal(err)
	}
	w.Write(Stdout, []byte("kept\n"), moment)
	w.Close()
	if got := text(readAll(t, w.o.Path, ReadOptions{Tail: -1})); !strings.HasSuffix(got, "no such file or directory]\nkept\n") {
		t.Errorf("%q", got)
	}
	if _, err := OpenWriter(WriterOptions{Path: filepath.Join(dir, "no", "log")}); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// BenchmarkWrite writes lines of 100 bytes, fetched 64 KiB at a time.
func BenchmarkWrite(b *testing.B) {
	var chunk []byte
	for i := 0; len(chunk) < 64<<10; i++ {
		chunk = fmt.Appendf(chunk, "%-99d\n", i)
	}
	chunk = chunk[:64<<10/100*100]
	path := filepath.Join(b.TempDir(), "log")
	w := newWriter(b, WriterOptions{Path: path, Buffer: make([]byte, BufferSize)})
	b.SetBytes(int64(len(chunk)))
	now := moment
	for b.Loop() {
		now = now.Add(time.Microsecond)
		w.Write(Stdout, chunk, now)
		w.Flush()
	}
}
