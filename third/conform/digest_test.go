package conform

import (
	"crypto"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	theirs "github.com/opencontainers/go-digest"

	ours "github.com/berth-engine/berth/third/conform/ours/digest"
)

// pieces are what digests are made of, and what is nearly that.
var pieces = []string{"", ":", "sha256", "sha384", "sha512", "md5", "SHA256", "a", "a+b", "a.b_c-d", "+a", "a+", "a++b", "A",
	hex, hex[1:], hex + hex, hex + hex[:32], strings.ToUpper(hex), "=", "_", "-", " ", "\n", "ü", "g", "Zz9=_-"}

func checkDigest(t *testing.T, s string) {
	t.Helper()
	same := func(what string, our, their any) {
		t.Helper()
		if our != their {
			t.Errorf("%s(%q): %v, the original says %v", what, s, our, their)
		}
	}
	or, oerr := ours.Parse(s)
	tr, terr := theirs.Parse(s)
	same("Parse", fmt.Sprint(or, oerr), fmt.Sprint(tr, terr))
	same("Algorithm", caught(func() any { return or.Algorithm() }), caught(func() any { return tr.Algorithm() }))
	same("Encoded", caught(func() any { return or.Encoded() + or.Hex() }), caught(func() any { return tr.Encoded() + tr.Hex() }))
	same("FromString", string(ours.FromString(s)), string(theirs.FromString(s)))
	same("Verifier", caught(func() any { v := or.Verifier(); fmt.Fprint(v, "x"); return v.Verified() }),
		caught(func() any { v := tr.Verifier(); fmt.Fprint(v, "x"); return v.Verified() }))
	oa, ta := ours.Algorithm(s), theirs.Algorithm(s)
	same("Size", oa.Size(), ta.Size())
	same("Available", oa.Available(), ta.Available())
	same("FromBytes", caught(func() any { return string(oa.FromBytes([]byte(s))) }), caught(func() any { return string(ta.FromBytes([]byte(s))) }))
	same("Set", fmt.Sprint(oa.Set(s), oa), fmt.Sprint(ta.Set(s), ta))
	same("Validate", fmt.Sprint(ours.SHA256.Validate(s)), fmt.Sprint(theirs.SHA256.Validate(s)))
	same("NewDigestFromHex", string(ours.NewDigestFromHex(s, s)), string(theirs.NewDigestFromHex(s, s)))
}

// caught is what f gives, or what it panics with.
func caught(f func() any) (v string) {
	defer func() {
		if p := recover(); p != nil {
			v = fmt.Sprint("panic: ", p)
		}
	}()
	return fmt.Sprint(f())
}

func TestDigest(t *testing.T) {
	for _, a := range pieces {
		for _, b := range pieces {
			checkDigest(t, a+b)
			checkDigest(t, a+":"+b)
		}
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 2))
	for range 10_000 {
		var s strings.Builder
		for range 1 + rnd.IntN(6) {
			s.WriteString(pieces[rnd.IntN(len(pieces))])
		}
		checkDigest(t, s.String())
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	for _, f := range []crypto.Hash{crypto.SHA256, crypto.SHA512} {
		h := f.New()
		h.Write([]byte("x"))
		if o, r := ours.NewDigest(ours.SHA512, h), theirs.NewDigest(theirs.SHA512, h); string(o) != string(r) {
			t.Errorf("NewDigest: %s, the original says %s", o, r)
		}
	}
	for _, p := range [][2]interface{ String() string }{
		{ours.DigestRegexp, theirs.DigestRegexp}, {ours.DigestRegexpAnchored, theirs.DigestRegexpAnchored},
	} {
		if p[0].String() != p[1].String() {
			t.Errorf("pattern %s, the original has %s", p[0], p[1])
		}
	}
}

func FuzzDigest(f *testing.F) {
	for _, p := range pieces {
		f.Add("sha256:" + p)
	}
	f.Fuzz(checkDigest)
}
