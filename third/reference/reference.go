// Package reference names images: it is our own form of github.com/distribution/reference, with that module's path,
// exported names, grammar and errors, and stands in its place for every library we link (go.mod's replace).
//
// The original compiles ten regular expressions before main begins, half a millisecond of every command a person types.
// The grammar is small and never backtracks, so here it is read by hand, and the expressions that others ask for
// are compiled when they do. third/conform holds this package against the original.
//
//	reference  = name [ ":" tag ] [ "@" digest ]
//	name       = [ domain "/" ] component { "/" component }
//	domain     = ( label { "." label } | "[" { hexdigit | ":" } "]" ) [ ":" digit { digit } ]
//	label      = alphanumeric, with hyphens inside
//	component  = lower { ( "." | "_" | "__" | "-" { "-" } ) lower }      lower: [a-z0-9]+
//	tag        = [A-Za-z0-9_] { [A-Za-z0-9_.-] }                         128 characters at most
//	digest     = algorithm ":" hexdigit { hexdigit }                     32 digits at least
//	algorithm  = word { ( "-" | "_" | "+" | "." ) word }                 word: a letter, then alphanumeric
//
// A first component that can be a domain is one; ParseNormalizedNamed has Docker's other idea of it.
package reference

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// RepositoryNameTotalLengthMax is how long a name without its domain may be, in bytes.
const RepositoryNameTotalLengthMax = 255

// NameTotalLengthMax is the older name of RepositoryNameTotalLengthMax.
const NameTotalLengthMax = RepositoryNameTotalLengthMax

// What parsing can say.
var (
	ErrReferenceInvalidFormat = errors.New("invalid reference format")
	ErrTagInvalidFormat       = errors.New("invalid tag format")
	ErrDigestInvalidFormat    = errors.New("invalid digest format")
	ErrNameContainsUppercase  = errors.New("repository name must be lowercase")
	ErrNameEmpty              = errors.New("repository name must have at least one component")
	ErrNameTooLong            = errors.New("repository name must not be more than " + strconv.Itoa(RepositoryNameTotalLengthMax) + " characters")
	ErrNameNotCanonical       = errors.New("repository name must be canonical")
)

// Docker Hub's names: the domain, what it was called before, the space of its own images, and the tag nobody types.
const (
	hub        = "docker.io"
	hubBefore  = "index.docker.io"
	hubLibrary = "library/"
	latest     = "latest"
)

// Reference is any way of naming an image.
type Reference interface {
	String() string
}

// Named has a name.
type Named interface {
	Reference
	Name() string
}

// Tagged has a tag.
type Tagged interface {
	Reference
	Tag() string
}

// NamedTagged has a name and a tag.
type NamedTagged interface {
	Named
	Tag() string
}

// Digested has a digest.
type Digested interface {
	Reference
	Digest() digest.Digest
}

// Canonical has a name and a digest.
type Canonical interface {
	Named
	Digest() digest.Digest
}

// The five kinds of reference there are. Which methods one has says what it holds.
type (
	repository struct{ domain, path string }
	tagged     struct {
		repository
		tag string
	}
	canonical struct {
		repository
		digest digest.Digest
	}
	full struct {
		repository
		tag    string
		digest digest.Digest
	}
	bare digest.Digest // no name
)

func (r repository) Domain() string { return r.domain }
func (r repository) Path() string   { return r.path }
func (r repository) String() string { return r.Name() }
func (r repository) Name() string {
	if r.domain == "" {
		return r.path
	}
	return r.domain + "/" + r.path
}

func (t tagged) Tag() string    { return t.tag }
func (t tagged) String() string { return t.Name() + ":" + t.tag }

func (c canonical) Digest() digest.Digest { return c.digest }
func (c canonical) String() string        { return c.Name() + "@" + c.digest.String() }

func (f full) Tag() string           { return f.tag }
func (f full) Digest() digest.Digest { return f.digest }
func (f full) String() string        { return f.Name() + ":" + f.tag + "@" + f.digest.String() }

func (b bare) Digest() digest.Digest { return digest.Digest(b) }
func (b bare) String() string        { return string(b) }

// familiar is implemented by the references of this package that have a name.
type familiar interface{ short() Named }

func (r repository) short() Named { return r.shorten() }
func (t tagged) short() Named     { return tagged{t.shorten(), t.tag} }
func (c canonical) short() Named  { return canonical{c.shorten(), c.digest} }
func (f full) short() Named       { return full{f.shorten(), f.tag, f.digest} }

// shorten leaves out what Docker's users do not type.
func (r repository) shorten() repository {
	if r.domain != hub {
		return r
	}
	if rest, ok := strings.CutPrefix(r.path, hubLibrary); ok && !strings.Contains(rest, "/") {
		return repository{path: rest}
	}
	return repository{path: r.path}
}

// parts is what this package's references, and others that know it, say of themselves.
type parts interface {
	Domain() string
	Path() string
}

// kept is a name as WithTag and WithDigest keep it: one of another make is all path.
func kept(named Named) repository {
	if p, ok := named.(parts); ok {
		return repository{p.Domain(), p.Path()}
	}
	return repository{path: named.Name()}
}

// split is a name of whatever make, read once more where it has to be.
func split(named Named) repository {
	if _, ok := named.(parts); !ok {
		if r, ok := readName(named.Name()); ok {
			return r
		}
	}
	return kept(named)
}

// Domain is the registry's part of a name, "" without one.
func Domain(named Named) string {
	return split(named).domain
}

// Path is the name without its domain.
func Path(named Named) string {
	return split(named).path
}

// TrimNamed removes tag and digest.
func TrimNamed(ref Named) Named {
	return split(ref)
}

// Parse reads a reference as the grammar has it. Docker's shorthand is ParseNormalizedNamed's.
func Parse(s string) (Reference, error) {
	name, tag, dgst, ok := read(s)
	if !ok {
		if s == "" {
			return nil, ErrNameEmpty
		}
		if _, _, _, ok := read(strings.ToLower(s)); ok {
			return nil, ErrNameContainsUppercase
		}
		return nil, ErrReferenceInvalidFormat
	}
	if len(name.path) > RepositoryNameTotalLengthMax {
		return nil, ErrNameTooLong
	}
	if dgst == "" {
		if tag == "" {
			return name, nil
		}
		return tagged{name, tag}, nil
	}
	d, err := digest.Parse(dgst)
	if err != nil {
		return nil, err
	}
	if tag == "" {
		return canonical{name, d}, nil
	}
	return full{name, tag, d}, nil
}

// ParseNamed reads a reference that is already in its full form.
func ParseNamed(s string) (Named, error) {
	named, err := ParseNormalizedNamed(s)
	if err != nil {
		return nil, err
	}
	if named.String() != s {
		return nil, ErrNameNotCanonical
	}
	return named, nil
}

// ParseNormalizedNamed reads a reference as Docker's users type it: without a domain it is one of Docker Hub's, without
// a directory there one of its own.
func ParseNormalizedNamed(s string) (Named, error) {
	if isIdentifier(s) {
		return nil, errors.New("invalid repository name (" + s + "), cannot specify 64-byte hexadecimal strings")
	}
	domain, rest := normalize(s)
	name, _, _ := strings.Cut(rest, ":")
	if strings.ToLower(name) != name {
		return nil, errors.New("invalid reference format: repository name (" + name + ") must be lowercase")
	}
	ref, err := Parse(domain + "/" + rest)
	if err != nil {
		return nil, err
	}
	return ref.(Named), nil // Parse gives nothing without a name
}

// normalize finds the domain in what was typed: a first component with a dot, a port or an upper case letter, or localhost.
func normalize(s string) (domain, rest string) {
	first, after, ok := strings.Cut(s, "/")
	switch {
	case !ok:
		domain, rest = hub, s
	case first == hubBefore:
		domain, rest = hub, after
	case first == "localhost", strings.ContainsAny(first, ".:"), strings.ToLower(first) != first:
		domain, rest = first, after
	default:
		domain, rest = hub, s
	}
	if domain == hub && !strings.Contains(rest, "/") {
		rest = hubLibrary + rest
	}
	return domain, rest
}

// ParseDockerRef reads a reference as Docker's users type it and gives what a registry is asked for: the digest when
// there is one, otherwise a tag.
func ParseDockerRef(ref string) (Named, error) {
	named, err := ParseNormalizedNamed(ref)
	if err != nil {
		return nil, err
	}
	if f, ok := named.(full); ok {
		return canonical{f.repository, f.digest}, nil
	}
	return TagNameOnly(named), nil
}

// ParseAnyReference also reads digests without a name, and SHA-256 sums as IDs.
func ParseAnyReference(ref string) (Reference, error) {
	if isIdentifier(ref) {
		return bare("sha256:" + ref), nil
	}
	if d, err := digest.Parse(ref); err == nil {
		return bare(d), nil
	}
	return ParseNormalizedNamed(ref)
}

// TagNameOnly adds the tag "latest" to a name without tag and digest.
func TagNameOnly(ref Named) Named {
	if !IsNameOnly(ref) {
		return ref
	}
	r := kept(ref)
	return tagged{r, latest}
}

// WithName makes a reference of a name alone.
func WithName(name string) (Named, error) {
	r, ok := readName(name)
	if !ok {
		return nil, ErrReferenceInvalidFormat
	}
	if len(r.path) > RepositoryNameTotalLengthMax {
		return nil, ErrNameTooLong
	}
	return r, nil
}

// WithTag gives a reference a tag, beside its digest if it has one.
func WithTag(name Named, tag string) (NamedTagged, error) {
	if !isTag(tag) {
		return nil, ErrTagInvalidFormat
	}
	r := kept(name)
	if c, ok := name.(Canonical); ok {
		return full{r, tag, c.Digest()}, nil
	}
	return tagged{r, tag}, nil
}

// WithDigest gives a reference a digest, beside its tag if it has one.
func WithDigest(name Named, dgst digest.Digest) (Canonical, error) {
	if !isDigest(dgst.String()) {
		return nil, ErrDigestInvalidFormat
	}
	r := kept(name)
	if t, ok := name.(Tagged); ok {
		return full{r, t.Tag(), dgst}, nil
	}
	return canonical{r, dgst}, nil
}

// IsNameOnly tells a reference with neither tag nor digest.
func IsNameOnly(ref Named) bool {
	switch ref.(type) {
	case NamedTagged, Canonical:
		return false
	}
	return true
}

// FamiliarName is the name as users type it.
func FamiliarName(ref Named) string {
	if f, ok := ref.(familiar); ok {
		return f.short().Name()
	}
	return ref.Name()
}

// FamiliarString is the reference as users type it.
func FamiliarString(ref Reference) string {
	if f, ok := ref.(familiar); ok {
		return f.short().String()
	}
	return ref.String()
}

// FamiliarMatch tells whether the reference as users type it, or its name, fits a pattern of path.Match.
func FamiliarMatch(pattern string, ref Reference) (bool, error) {
	matched, err := path.Match(pattern, FamiliarString(ref))
	if named, ok := ref.(Named); ok && !matched {
		matched, _ = path.Match(pattern, FamiliarName(named))
	}
	return matched, err
}

// Field is a reference in a document.
type Field struct{ reference Reference }

// AsField wraps a reference for a document.
func AsField(reference Reference) Field { return Field{reference} }

// Reference is what the field holds, nil when it was never set.
func (f Field) Reference() Reference { return f.reference }

// MarshalText writes the reference.
func (f Field) MarshalText() ([]byte, error) { return []byte(f.reference.String()), nil }

// UnmarshalText reads a reference as Parse does.
func (f *Field) UnmarshalText(p []byte) error {
	r, err := Parse(string(p))
	if err == nil {
		f.reference = r
	}
	return err
}

// Sort puts the most precise references first: name with tag and digest, with tag, with digest, name alone, digest
// alone; equals by their text, and what is no reference last.
func Sort(references []string) []string {
	type ranked struct {
		rank int
		text string
	}
	list := make([]ranked, 0, len(references))
	for _, s := range references {
		ref, err := ParseAnyReference(s)
		if err != nil {
			list = append(list, ranked{6, s})
			continue
		}
		rank := 0
		switch ref.(type) {
		case full:
			rank = 1
		case tagged:
			rank = 2
		case canonical:
			rank = 3
		case repository:
			rank = 4
		default:
			rank = 5
		}
		list = append(list, ranked{rank, ref.String()})
	}
	slices.SortFunc(list, func(a, b ranked) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		return strings.Compare(a.text, b.text)
	})
	var sorted []string
	for _, r := range list {
		sorted = append(sorted, r.text)
	}
	return sorted
}
