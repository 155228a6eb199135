package tty

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// DefaultDetachKeys is the sequence where the user gives none.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys turns a list of keys into the bytes a terminal sends for them. An empty list gives no bytes: a
// DetachScanner of those never detaches.
func ParseDetachKeys(keys string) ([]byte, error) {
	if keys == "" {
		return nil, nil
	}
	var seq []byte
	for _, key := range strings.Split(keys, ",") {
		b, ok := parseKey(key)
		if !ok {
			return nil, fmt.Errorf("%w: unknown key %q in detach keys %q: a key is one character or ctrl- "+
				`and one of a-z, @, [, \, ], ^, _`, errdefs.ErrInvalidArgument, key, keys)
		}
		seq = append(seq, b)
	}
	return seq, nil
}

func parseKey(key string) (b byte, ok bool) {
	if len(key) == 1 {
		return key[0], key[0] < 0x80
	}
	c, ok := strings.CutPrefix(key, "ctrl-")
	if !ok || len(c) != 1 {
		return 0, false
	}
	// A terminal sends the low five bits of the character: @ is NUL, a–z are 1–26, then [ \ ] ^ _.
	if c[0] == '@' || c[0] >= 'a' && c[0] <= 'z' || c[0] >= '[' && c[0] <= '_' {
		return c[0] & 0x1f, true
	}
	return 0, false
}

// DetachScanner finds the detach sequence in typed bytes, however they are cut into reads. Its zero value never
// detaches.
type DetachScanner struct {
	keys []byte
	// next[n] is how many bytes stay matched when the byte after n matched ones does not fit (the failure function
	// of Knuth, Morris and Pratt).
	next    []int
	matched int
}

// NewDetachScanner makes a scanner for the sequence keys, which it does not copy.
func NewDetachScanner(keys []byte) *DetachScanner {
	s := &DetachScanner{keys: keys, next: make([]int, len(keys)+1)}
	for i, k := 1, 0; i < len(keys); i++ {
		for k > 0 && keys[i] != keys[k] {
			k = s.next[k]
		}
		if keys[i] == keys[k] {
			k++
		}
		s.next[i+1] = k
	}
	return s
}

// Scan appends to dst what of the typed bytes is now certain not to belong to the sequence, including what earlier
// calls had held back, and returns dst. When the sequence was completed, detached is true, rest is what was typed
// after it, and the scanner starts anew. In the common case (nothing pending, no key of the sequence in typed) Scan
// only copies.
func (s *DetachScanner) Scan(dst, typed []byte) (out, rest []byte, detached bool) {
	if len(s.keys) == 0 {
		return append(dst, typed...), nil, false
	}
	for i, c := range typed {
		for s.matched > 0 && c != s.keys[s.matched] {
			// The held-back bytes are the sequence's own beginning; its first ones turn out to be input.
			keep := s.next[s.matched]
			dst = append(dst, s.keys[:s.matched-keep]...)
			s.matched = keep
		}
		if c != s.keys[s.matched] {
			dst = append(dst, c)
			continue
		}
		if s.matched++; s.matched == len(s.keys) {
			s.matched = 0
			return dst, typed[i+1:], true
		}
	}
	return dst, nil, false
}

// Flush appends the bytes held back to dst, for the end of the input: no more keys can complete the sequence.
func (s *DetachScanner) Flush(dst []byte) []byte {
	dst = append(dst, s.keys[:s.matched]...)
	s.matched = 0
	return dst
}
