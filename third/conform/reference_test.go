package conform

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	theirs "github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	ours "github.com/berth-engine/berth/third/conform/ours/reference"
)

const (
	hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	sum = "sha256:" + hex
)

// words are what references are made of, and what is nearly that.
var words = []string{
	"a", "ubuntu", "library/", "docker.io/", "index.docker.io/", "localhost", "localhost/", "example.com", "192.168.0.1", "[::1]", "[fe80::1%25eth0]",
	"[]", "[", "]", "/", ":", "@", ".", "..", "_", "__", "___", "-", "--", "A", "Ubuntu", "K", "ü", "5000", ":80", ":8f", "latest", ":latest", "@" + sum, sum, hex, hex[1:],
	"@sha256:" + hex[:31], "@sha256:" + hex[:32], "@sha512:" + hex + hex, "@md5:" + hex[:32], "@sha256+b64:" + hex, "@a_b.c-d:" + hex, "@1a:" + hex,
	"@SHA256:" + strings.ToUpper(hex), "x.y:1/z", " ", "\n", "", "%", "*", "foo-", "-foo", "foo.", "f__b", "f___b", "f_.b",
	strings.Repeat("a", 128), strings.Repeat("a", 129), strings.Repeat("b", 255), strings.Repeat("b/", 64),
}

func say(v fmt.Stringer, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	return v.String()
}

// kinds tells what a reference says it is.
func kinds(v any) string {
	_, named := v.(interface{ Name() string })
	_, tagged := v.(interface{ Tag() string })
	_, digested := v.(interface{ Digest() digest.Digest })
	return fmt.Sprint(named, tagged, digested)
}

// checkReference compares every function on s; other is a second piece for those that take two.
func checkReference(t *testing.T, s, other string) {
	t.Helper()
	same := func(what string, our, their any) {
		t.Helper()
		if our != their {
			t.Errorf("%s(%q, %q): %v, the original says %v", what, s, other, our, their)
		}
	}
	o, oerr := ours.Parse(s)
	r, rerr := theirs.Parse(s)
	same("Parse", say(o, oerr), say(r, rerr))
	same("Parse kinds", kinds(o), kinds(r))
	for _, e := range [][2]error{
		{ours.ErrNameEmpty, theirs.ErrNameEmpty},
		{ours.ErrNameTooLong, theirs.ErrNameTooLong},
		{ours.ErrNameContainsUppercase, theirs.ErrNameContainsUppercase},
		{ours.ErrReferenceInvalidFormat, theirs.ErrReferenceInvalidFormat},
	} {
		same("Parse is "+e[1].Error(), errors.Is(oerr, e[0]), errors.Is(rerr, e[1]))
	}
	oany, oerr := ours.ParseAnyReference(s)
	tany, terr := theirs.ParseAnyReference(s)
	same("ParseAnyReference", say(oany, oerr), say(tany, terr))
	same("ParseAnyReference kinds", kinds(oany), kinds(tany))
	on, oerr := ours.ParseDockerRef(s)
	tn, terr := theirs.ParseDockerRef(s)
	same("ParseDockerRef", say(on, oerr), say(tn, terr))
	on, oerr = ours.ParseNamed(s)
	tn, terr = theirs.ParseNamed(s)
	same("ParseNamed", say(on, oerr), say(tn, terr))
	on, oerr = ours.WithName(s)
	tn, terr = theirs.WithName(s)
	same("WithName", say(on, oerr), say(tn, terr))
	var of ours.Field
	var tf theirs.Field
	same("Field", fmt.Sprint(of.UnmarshalText([]byte(s))), fmt.Sprint(tf.UnmarshalText([]byte(s))))

	on, oerr = ours.ParseNormalizedNamed(s)
	tn, terr = theirs.ParseNormalizedNamed(s)
	same("ParseNormalizedNamed", say(on, oerr), say(tn, terr))
	same("ParseNormalizedNamed kinds", kinds(on), kinds(tn))
	if oerr != nil || terr != nil {
		return
	}
	same("Domain", ours.Domain(on), theirs.Domain(tn))
	same("Path", ours.Path(on), theirs.Path(tn))
	same("FamiliarName", ours.FamiliarName(on), theirs.FamiliarName(tn))
	same("FamiliarString", ours.FamiliarString(on), theirs.FamiliarString(tn))
	same("TrimNamed", ours.TrimNamed(on).String(), theirs.TrimNamed(tn).String())
	same("TagNameOnly", ours.TagNameOnly(on).String(), theirs.TagNameOnly(tn).String())
	same("IsNameOnly", ours.IsNameOnly(on), theirs.IsNameOnly(tn))
	om, oerr := ours.FamiliarMatch(other, on)
	tm, terr := theirs.FamiliarMatch(other, tn)
	same("FamiliarMatch", fmt.Sprint(om, oerr), fmt.Sprint(tm, terr))
	ot, oerr := ours.WithTag(on, other)
	tt, terr := theirs.WithTag(tn, other)
	same("WithTag", say(ot, oerr), say(tt, terr))
	od, oerr := ours.WithDigest(on, digest.Digest(other))
	td, terr := theirs.WithDigest(tn, digest.Digest(other))
	same("WithDigest", say(od, oerr), say(td, terr))
}

func TestReference(t *testing.T) {
	for _, a := range words {
		for _, b := range words {
			checkReference(t, a+b, b)
			checkReference(t, a+"/"+b, a)
			checkReference(t, "x/"+a+b, "x*")
		}
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 10_000 {
		var s strings.Builder
		for range 1 + rnd.IntN(6) {
			s.WriteString(words[rnd.IntN(len(words))])
		}
		checkReference(t, s.String(), strings.TrimLeft(words[rnd.IntN(len(words))], "@:"))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func TestSort(t *testing.T) {
	for range 200 {
		list := slices.Clone(words)
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if o, r := ours.Sort(list), theirs.Sort(list); !slices.Equal(o, r) {
			t.Fatalf("Sort:\n%q\nthe original says\n%q", o, r)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, p := range [][2]interface{ String() string }{
		{ours.DomainRegexp, theirs.DomainRegexp}, {ours.NameRegexp, theirs.NameRegexp}, {ours.TagRegexp, theirs.TagRegexp},
		{ours.DigestRegexp, theirs.DigestRegexp}, {ours.IdentifierRegexp, theirs.IdentifierRegexp}, {ours.ReferenceRegexp, theirs.ReferenceRegexp},
	} {
		if p[0].String() != p[1].String() {
			t.Errorf("pattern %s, the original has %s", p[0], p[1])
		}
	}
}

func FuzzReference(f *testing.F) {
	for _, w := range words {
		f.Add(w, "x")
	}
	f.Fuzz(checkReference)
}
