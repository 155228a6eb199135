package tty

import (
	"bytes"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

func TestParseDetachKeys(t *testing.T) {
	for keys, want := range map[string]string{
		"":                              "",
		"ctrl-p,ctrl-q":                 "\x10\x11",
		"a":                             "a",
		"~,.":                           "~.",
		"ctrl-@,ctrl-a,ctrl-z":          "\x00\x01\x1a",
		`ctrl-[,ctrl-\,ctrl-],ctrl-^`:   "\x1b\x1c\x1d\x1e",
		"ctrl-_,Z":                      "\x1fZ",
		"c,t,r,l,-":                     "ctrl-",
		DefaultDetachKeys + ",ctrl-c,b": "\x10\x11\x03b",
	} {
		if got, err := ParseDetachKeys(keys); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", keys, got, err, want)
		}
	}
	for _, keys := range []string{",", "a,", ",a", "ctrl-", "ctrl-ab", "ctrl-A", "ctrl-1", "ctrl", "ab", "é", "Ctrl-p",
		"ctrl-p ctrl-q", "ctrl-p, ctrl-q", "ctrl-,", "\x80", "shift-a"} {
		if got, err := ParseDetachKeys(keys); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q was accepted as %q, %v", keys, got, err)
		}
	}
}

func FuzzParseDetachKeys(f *testing.F) {
	f.Add(DefaultDetachKeys)
	f.Add("a,ctrl-@")
	f.Fuzz(func(t *testing.T, keys string) {
		if seq, err := ParseDetachKeys(keys); err == nil && len(seq) > len(keys) {
			t.Errorf("%q gave %q", keys, seq)
		}
	})
}

func TestDetachScanner(t *testing.T) {
	for _, c := range []struct {
		keys, typed, out, rest string
		detached               bool
	}{
		{"", "abc\x10\x11", "abc\x10\x11", "", false},
		{"\x10\x11", "ls\r", "ls\r", "", false},
		{"\x10\x11", "ls\x10\x11more", "ls", "more", true},
		{"\x10\x11", "\x10x\x11", "\x10x\x11", "", false},
		{"\x10\x11", "\x10\x10\x11", "\x10", "", true},
		{"\x10\x11", "\x11\x10", "\x11\x10", "", false},
		{"aab", "aaab", "a", "", true},
		{"abac", "ababac!", "ab", "!", true},
		{"abab", "aabab", "a", "", true},
		{"a", "xa", "x", "", true},
	} {
		// Whole, and cut into single bytes.
		for _, size := range []int{len(c.typed) + 1, 1, 2, 3} {
			out, rest, detached := feed(NewDetachScanner([]byte(c.keys)), []byte(c.typed), size)
			if string(out) != c.out || string(rest) != c.rest || detached != c.detached {
				t.Errorf("keys %q, typed %q in pieces of %d: %q, %q, %v", c.keys, c.typed, size, out, rest, detached)
			}
		}
	}
}

func TestDetachScannerHoldsBackOnlyWhatMayMatch(t *testing.T) {
	s := NewDetachScanner([]byte("\x10\x11"))
	out, _, _ := s.Scan(nil, []byte("ab\x10"))
	if string(out) != "ab" {
		t.Errorf("handed on %q", out)
	}
	out, _, _ = s.Scan(nil, []byte("c"))
	if string(out) != "\x10c" {
		t.Errorf("handed on %q", out)
	}
	s.Scan(nil, []byte("\x10"))
	if out := s.Flush(nil); string(out) != "\x10" {
		t.Errorf("flushed %q", out)
	}
	if out := s.Flush(nil); len(out) != 0 {
		t.Errorf("flushed again %q", out)
	}
	var zero DetachScanner
	if out, _, detached := zero.Scan(nil, []byte("x")); string(out) != "x" || detached {
		t.Errorf("zero scanner: %q, %v", out, detached)
	}
}

// The scanner must agree with a search in the whole input, wherever the reads cut it.
func FuzzDetachScanner(f *testing.F) {
	f.Add([]byte("\x10\x11"), []byte("ls\r\x10\x10\x11rest"), 1)
	f.Add([]byte("aab"), []byte("aaaaab"), 2)
	f.Add([]byte("abacab"), []byte("abacabacab"), 3)
	f.Fuzz(func(t *testing.T, keys, typed []byte, size int) {
		if size < 1 || len(keys) > 64 {
			return
		}
		wantOut, wantRest, wantDetached := typed, []byte(nil), false
		if i := bytes.Index(typed, keys); i >= 0 && len(keys) > 0 {
			wantOut, wantRest, wantDetached = typed[:i], typed[i+len(keys):], true
		}
		out, rest, detached := feed(NewDetachScanner(keys), typed, size)
		if !bytes.Equal(out, wantOut) || !bytes.Equal(rest, wantRest) || detached != wantDetached {
			t.Errorf("%q, %q, %v; want %q, %q, %v", out, rest, detached, wantOut, wantRest, wantDetached)
		}
	})
}

// feed gives typed to the scanner in pieces of at most size bytes, as a reader would.
func feed(s *DetachScanner, typed []byte, size int) (out, rest []byte, detached bool) {
	for len(typed) > 0 {
		n := min(size, len(typed))
		out, rest, detached = s.Scan(out, typed[:n])
		typed = typed[n:]
		if detached {
			return out, append(bytes.Clone(rest), typed...), true
		}
	}
	return s.Flush(out), nil, false
}
