package logfile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestFilters(t *testing.T) {
	w := newWriter(t, WriterOptions{MaxSize: 400, MaxFile: 10})
	at := func(i int) time.Time { return moment.Add(time.Duration(i) * time.Second) }
	for i := range 20 {
		w.Write(Stream(1+i%2), fmt.Appendf(nil, "%d\n", i), at(i))
	}
	w.Close()
	for _, c := range []struct {
		name string
		o    ReadOptions
		want string
	}{
		{"stdout", ReadOptions{Tail: 4, Stdout: true}, "16 18"},
		{"stderr", ReadOptions{Tail: 4, Stderr: true}, "17 19"},
		{"neither", ReadOptions{Tail: -1}, ""},
		{"since", ReadOptions{Tail: -1, Stdout: true, Stderr: true, Since: at(17)}, "17 18 19"},
		{"since between", ReadOptions{Tail: -1, Stdout: true, Stderr: true, Since: at(17).Add(1)}, "18 19"},
		{"until", ReadOptions{Tail: -1, Stdout: true, Stderr: true, Until: at(2)}, "0 1 2"},
		{"both", ReadOptions{Tail: -1, Stdout: true, Stderr: true, Since: at(9), Until: at(11)}, "9 10 11"},
		{"tail first, then time", ReadOptions{Tail: 5, Stdout: true, Stderr: true, Since: at(3), Until: at(16)}, "15 16"},
		{"followed until", ReadOptions{Tail: -1, Stdout: true, Stderr: true, Until: at(2), Follow: true}, "0 1 2"},
	} {
		var got []string
		if err := Read(context.Background(), w.o.Path, c.o, func(e Entry) error {
			got = append(got, strings.TrimSpace(string(e.Line)))
			return nil
		}); err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	stop := errors.New("enough")
	if err := Read(context.Background(), w.o.Path, ReadOptions{Tail: -1, Stdout: true}, func(Entry) error { return stop }); err != stop {
		t.Errorf("the function's own error became %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Read(ctx, w.o.Path, ReadOptions{Tail: -1, Follow: true}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if got := readAll(t, w.o.Path+"-missing", ReadOptions{Tail: -1}); len(got) != 0 {
		t.Errorf("a log that is not there has %d entries", len(got))
	}
}

func TestPassesOverRubbish(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	good := `{"log":"good\n","stream":"stdout","time":"2025-11-21T10:00:00Z"}` + "\n"
	huge := `{"log":"` + strings.Repeat("x", maxLine) + `","stream":"stdout","time":"2025-11-21T10:00:00Z"}` + "\n"
	bad, err := os.ReadFile(filepath.Join("testdata", "bad.log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(good+string(bad)+good+huge+good), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := text(readAll(t, path, ReadOptions{Tail: -1})); got != "good\ngood\ngood\n" {
		t.Errorf("%.200q", got)
	}
}

// Entries as other writers of the format make them.
func TestForeignEntries(t *testing.T) {
	for in, want := range map[string]Entry{
		` { "time" : "2025-11-21T11:00:00.5+01:00" , "stream":"stderr","log":"a\tb\/\u00e9\ud83d\udea2\ud800x" } `: {
			Stream: Stderr, Time: moment.Truncate(time.Second).Add(time.Second / 2), Line: []byte("a\tb/é🚢\ufffdx")},
		`{"x":[1,{"y":null},-1.5e+3,true,""],"z":{},"log":"","stream":"stdout","attrs":{"b":"1","a":"\""},"time":"2025-11-21T10:00:00Z"}`: {
			Stream: Stdout, Time: moment.Truncate(time.Second), Attrs: map[string]string{"a": `"`, "b": "1"}},
		`{"stream":"stdout","time":"2025-11-21T10:00:00.123456789Z"}`: {Stream: Stdout, Time: moment},
	} {
		var d decoder
		got, err := d.decode([]byte(in))
		if err != nil || got.Stream != want.Stream || !got.Time.Equal(want.Time) || string(got.Line) != string(want.Line) ||
			fmt.Sprint(got.Attrs) != fmt.Sprint(want.Attrs) {
			t.Errorf("%s: %+v %q, %v", in, got, got.Line, err)
		}
	}
}

// Whatever is in the file, the decoder neither fails badly nor disagrees with encoding/json.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"golden.log", "bad.log"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			f.Add(bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var d decoder
		got, err := d.decode(in)
		if !json.Valid(in) || !utf8.Valid(in) {
			return
		}
		var want struct {
			Log    *string           `json:"log"`
			Stream *string           `json:"stream"`
			Time   *time.Time        `json:"time"`
			Attrs  map[string]string `json:"attrs"`
		}
		// encoding/json takes keys in any case, last one wins, and null for nothing: only compare what both know.
		var keys map[string]json.RawMessage
		if json.Unmarshal(in, &keys) != nil || json.Unmarshal(in, &want) != nil || want.Stream == nil || want.Time == nil {
			return
		}
		for k := range keys {
			switch k {
			case "log", "stream", "time", "attrs":
			default:
				return
			}
		}
		if want.Log == nil || *want.Stream != "stdout" && *want.Stream != "stderr" || bytes.Contains(in, []byte("null")) {
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if string(got.Line) != *want.Log || got.Stream.String() != *want.Stream || !got.Time.Equal(*want.Time) {
			t.Fatalf("%q: %+v %q", in, got, got.Line)
		}
	})
}

type follower struct {
	lines  chan string
	result chan error
	done   chan struct{}
	cancel context.CancelFunc
}

func follow(t *testing.T, path string, tail int) *follower {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	f := &follower{make(chan string, 1<<20), make(chan error, 1), make(chan struct{}), cancel}
	t.Cleanup(cancel)
	go func() {
		f.result <- Read(ctx, path, ReadOptions{Tail: tail, Follow: true, Stdout: true, Stderr: true, Done: f.done},
			func(e Entry) error {
				f.lines <- string(e.Line)
				return nil
			})
		close(f.lines)
	}()
	return f
}

// expect waits for lines in their order.
func (f *follower) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got, ok := <-f.lines; !ok || got != w {
			t.Fatalf("got %q, %v; want %q", got, ok, w)
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	early := follow(t, path, -1) // before there is a file
	w := newWriter(t, WriterOptions{Path: path})
	write := func(s string) {
		w.Write(Stdout, []byte(s), moment)
		w.Flush()
	}
	write("1\n2\n")
	early.expect(t, "1\n", "2\n")
	late := follow(t, path, 1)
	late.expect(t, "2\n")
	none := follow(t, path, 0)
	write("3\nhalf")
	early.expect(t, "3\n")
	late.expect(t, "3\n")
	write(" done\n")
	early.expect(t, "half done\n")
	late.expect(t, "half done\n")
	// A torn entry is not an entry before its end came.
	raw, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	entry := appendEntry(nil, Stdout, []byte("torn"), true, nil, appendTail(nil, moment))
	for _, c := range entry {
		raw.Write([]byte{c})
	}
	early.expect(t, "torn\n")
	late.expect(t, "torn\n")
	late.cancel()
	if err := <-late.result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	raw.Write(appendEntry(nil, Stdout, []byte("last"), true, nil, appendTail(nil, moment)))
	close(early.done)
	early.expect(t, "last\n")
	if err := <-early.result; err != nil {
		t.Error(err)
	}
	close(none.done)
	if err := <-none.result; err != nil {
		t.Error(err)
	}
	for line := range none.lines { // it began somewhere after 2
		if line == "1\n" || line == "2\n" {
			t.Errorf("tail 0 gave %q", line)
		}
	}
}

func TestFollowAcrossRotation(t *testing.T) {
	for _, maxFile := range []int{1, 2, 5} {
		for _, compress := range []bool{false, true} {
			path := filepath.Join(t.TempDir(), "log")
			w := newWriter(t, WriterOptions{Path: path, MaxSize: 2000, MaxFile: maxFile, Rotated: func() {
				if compress {
					Compress(path)
				}
			}})
			w.Write(Stdout, []byte("first\n"), moment)
			w.Flush()
			f := follow(t, path, -1)
			f.expect(t, "first\n")
			for i := range 500 {
				w.Write(Stdout, fmt.Appendf(nil, "%d\n", i), moment)
				w.Flush()
				f.expect(t, fmt.Sprintf("%d\n", i)) // in step, so nothing may be missed
			}
			// Several rotations at once, but fewer than there are files.
			n := 0
			if maxFile == 5 {
				for n = range 60 {
					w.Write(Stdout, fmt.Appendf(nil, "burst %d\n", n), moment)
				}
				w.Flush()
				for i := range n + 1 {
					f.expect(t, fmt.Sprintf("burst %d\n", i))
				}
			}
			w.Write(Stdout, []byte("the end\n"), moment)
			w.Flush()
			close(f.done)
			f.expect(t, "the end\n")
			if err := <-f.result; err != nil {
				t.Error(err)
			}
		}
	}
}

// A follower that cannot keep up loses what was rotated away and nothing else, in order.
func TestFollowOvertaken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, WriterOptions{Path: path, MaxSize: 100_000, MaxFile: 3})
	w.Write(Stdout, []byte("0\n"), moment)
	w.Flush()
	f := follow(t, path, -1)
	f.expect(t, "0\n")
	const n = 200_000
	for i := 1; i <= n; i++ {
		w.Write(Stdout, fmt.Appendf(nil, "%d\n", i), moment)
	}
	w.Flush()
	close(f.done)
	last := 0
	for line := range f.lines {
		var i int
		fmt.Sscan(line, &i)
		if i <= last {
			t.Fatalf("%d after %d", i, last)
		}
		last = i
	}
	if err := <-f.result; err != nil || last != n {
		t.Errorf("ended at %d: %v", last, err)
	}
}

// BenchmarkRead reads a log of lines of 100 bytes; the rate is that of the lines, not of the file.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	w := newWriter(b, WriterOptions{Path: path, MaxSize: -1})
	const lines = 200_000
	for i := range lines {
		w.Write(Stdout, fmt.Appendf(nil, "%-99d\n", i), moment.Add(time.Duration(i)*time.Microsecond))
	}
	w.Close()
	b.SetBytes(lines * 100)
	for b.Loop() {
		n := 0
		if err := Read(context.Background(), path, ReadOptions{Tail: -1, Stdout: true}, func(e Entry) error {
			n += len(e.Line)
			return nil
		}); err != nil || n != lines*100 {
			b.Fatal(n, err)
		}
	}
}
