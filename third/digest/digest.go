// Package digest names content by a hash of it: it is our own form of github.com/opencontainers/go-digest, with that
// module's path, exported names and errors, and stands in its place for every library we link (go.mod's replace), for the
// reason that third/reference does: five regular expressions compiled before main of every program.
//
//	digest    = algorithm ":" encoded          OCI image-spec, descriptor.md, "Digests"
//	algorithm = word { ( "+" | "." | "_" | "-" ) word }      word: [a-z0-9]+
//	encoded   = [a-zA-Z0-9=_-]+                lower case hexadecimal for the algorithms we can compute
package digest

import (
	"crypto"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// What validation can say.
var (
	ErrDigestInvalidFormat = errors.New("invalid checksum digest format")
	ErrDigestInvalidLength = errors.New("invalid checksum digest length")
	ErrDigestUnsupported   = errors.New("unsupported digest algorithm")
)

// Algorithm is a way of hashing.
type Algorithm string

// The algorithms that can be computed, if the program links them.
const (
	SHA256 Algorithm = "sha256"
	SHA384 Algorithm = "sha384"
	SHA512 Algorithm = "sha512"

	Canonical = SHA256
)

// function is the hash function of an algorithm, 0 for one we cannot compute.
func (a Algorithm) function() crypto.Hash {
	switch a {
	case SHA256:
		return crypto.SHA256
	case SHA384:
		return crypto.SHA384
	case SHA512:
		return crypto.SHA512
	}
	return 0
}

// Available tells whether the program can compute it.
func (a Algorithm) Available() bool { return a.function() != 0 && a.function().Available() }

func (a Algorithm) String() string { return string(a) }

// Size is the length of a hash in bytes, 0 for an unknown algorithm.
func (a Algorithm) Size() int {
	if f := a.function(); f != 0 {
		return f.Size()
	}
	return 0
}

// Set makes an Algorithm a flag's value; "" is Canonical.
func (a *Algorithm) Set(value string) error {
	*a = Algorithm(value)
	if value == "" {
		*a = Canonical
	}
	if !a.Available() {
		return ErrDigestUnsupported
	}
	return nil
}

// Hash begins a hash. It panics for an algorithm that is not Available.
func (a Algorithm) Hash() hash.Hash {
	if a == "" {
		panic("empty digest algorithm, validate before calling Algorithm.Hash()")
	}
	if !a.Available() {
		panic(string(a) + " not available (make sure it is imported)")
	}
	return a.function().New()
}

// Digester begins a digest; like Hash it panics for an algorithm that is not Available.
func (a Algorithm) Digester() Digester { return &digester{a, a.Hash()} }

// Encode writes a hash as it stands in a digest.
func (a Algorithm) Encode(d []byte) string { return hex.EncodeToString(d) }

// FromReader is the digest of all that r gives.
func (a Algorithm) FromReader(r io.Reader) (Digest, error) {
	h := a.Hash()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return NewDigest(a, h), nil
}

// FromBytes is the digest of p.
func (a Algorithm) FromBytes(p []byte) Digest {
	h := a.Hash()
	h.Write(p) // never fails: hash.Hash
	return NewDigest(a, h)
}

// FromString is the digest of s.
func (a Algorithm) FromString(s string) Digest { return a.FromBytes([]byte(s)) }

// Validate checks the encoded part of a digest.
func (a Algorithm) Validate(encoded string) error {
	size := a.Size()
	switch {
	case size == 0:
		return ErrDigestUnsupported
	case len(encoded) != 2*size:
		return ErrDigestInvalidLength
	case !all(encoded, func(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }):
		return ErrDigestInvalidFormat
	}
	return nil
}

// Digest is an algorithm and a hash.
type Digest string

// NewDigest is the digest of what was written to h.
func NewDigest(a Algorithm, h hash.Hash) Digest { return NewDigestFromBytes(a, h.Sum(nil)) }

// NewDigestFromBytes is the digest with this hash.
func NewDigestFromBytes(a Algorithm, p []byte) Digest { return NewDigestFromEncoded(a, a.Encode(p)) }

// NewDigestFromHex is the digest with this hash in hexadecimal; it is not checked.
func NewDigestFromHex(alg, hex string) Digest { return NewDigestFromEncoded(Algorithm(alg), hex) }

// NewDigestFromEncoded is the digest with this encoded hash; it is not checked.
func NewDigestFromEncoded(a Algorithm, encoded string) Digest {
	return Digest(string(a) + ":" + encoded)
}

// FromReader, FromBytes and FromString use Canonical.
func FromReader(r io.Reader) (Digest, error) { return Canonical.FromReader(r) }

// FromBytes is the canonical digest of p.
func FromBytes(p []byte) Digest { return Canonical.FromBytes(p) }

// FromString is the canonical digest of s.
func FromString(s string) Digest { return Canonical.FromString(s) }

// Parse gives s as a digest, with the error of Validate.
func Parse(s string) (Digest, error) { return Digest(s), Digest(s).Validate() }

// Validate checks the form, and the hash's length and letters for an algorithm that is Available; one that is not gives
// ErrDigestUnsupported.
func (d Digest) Validate() error {
	name, encoded, _ := strings.Cut(string(d), ":")
	a := Algorithm(name)
	switch {
	case name == "" || encoded == "":
		return ErrDigestInvalidFormat
	case a.Available():
		return a.Validate(encoded)
	case isAlgorithm(name) && all(encoded, func(c byte) bool { return isWord(c) || 'A' <= c && c <= 'Z' || c == '=' || c == '_' || c == '-' }):
		return ErrDigestUnsupported
	}
	return ErrDigestInvalidFormat
}

// Algorithm is the part before the colon; it panics without one.
func (d Digest) Algorithm() Algorithm { return Algorithm(d[:d.colon()]) }

// Encoded is the part behind the colon; it panics without one.
func (d Digest) Encoded() string { return string(d[d.colon()+1:]) }

// Hex is the older name of Encoded.
func (d Digest) Hex() string { return d.Encoded() }

func (d Digest) String() string { return string(d) }

// Verifier compares what is written to it with d.
func (d Digest) Verifier() Verifier { return verifier{d, d.Algorithm().Hash()} }

func (d Digest) colon() int {
	i := strings.IndexByte(string(d), ':')
	if i < 0 {
		panic("no ':' separator in digest " + strconv.Quote(string(d)))
	}
	return i
}

// Digester computes a digest of what is written to its Hash.
type Digester interface {
	Hash() hash.Hash
	Digest() Digest
}

type digester struct {
	algorithm Algorithm
	hash      hash.Hash
}

func (d *digester) Hash() hash.Hash { return d.hash }
func (d *digester) Digest() Digest  { return NewDigest(d.algorithm, d.hash) }

// Verifier tells whether what was written to it has the digest it was made from.
type Verifier interface {
	io.Writer
	Verified() bool
}

type verifier struct {
	digest Digest
	hash   hash.Hash
}

func (v verifier) Write(p []byte) (int, error) { return v.hash.Write(p) }
func (v verifier) Verified() bool {
	return v.digest == NewDigest(v.digest.Algorithm(), v.hash)
}

// isAlgorithm tells words with one separator between any two.
func isAlgorithm(s string) bool {
	apart := true
	for i := range len(s) {
		switch {
		case isWord(s[i]):
			apart = false
		case apart || !strings.Contains("+._-", s[i:i+1]):
			return false
		default:
			apart = true
		}
	}
	return !apart
}

func isWord(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func all(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

// Pattern is a regular expression that is compiled when it is first used.
type Pattern struct {
	text string
	get  func() *regexp.Regexp
}

func pattern(text string) *Pattern {
	return &Pattern{text, sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })}
}

// String is the expression.
func (p *Pattern) String() string { return p.text }

// MatchString tells whether the expression is found in s.
func (p *Pattern) MatchString(s string) bool { return p.get().MatchString(s) }

const re = `[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+`

// The form of a digest for those who put it into expressions of their own.
var (
	DigestRegexp         = pattern(re)
	DigestRegexpAnchored = pattern(`^` + re + `$`)
)
