package reference

import (
	"regexp"
	"strings"
	"sync"
)

// read takes a reference apart. Only a name holds "/", only a digest follows "@": nothing is ever tried twice but the
// first component, which is a domain if it can be.
func read(s string) (name repository, tag, dgst string, ok bool) {
	rest, dgst, hasDigest := strings.Cut(s, "@")
	slash := strings.LastIndexByte(rest, '/') + 1
	last, tag, hasTag := strings.Cut(rest[slash:], ":")
	if hasDigest && !isDigest(dgst) || hasTag && !isTag(tag) {
		return repository{}, "", "", false
	}
	name, ok = readName(rest[:slash+len(last)])
	return name, tag, dgst, ok
}

func readName(s string) (repository, bool) {
	if domain, path, found := strings.Cut(s, "/"); found && isDomain(domain) && isPath(path) {
		return repository{domain, path}, true
	}
	return repository{path: s}, isPath(s)
}

func isPath(s string) bool {
	for c := range strings.SplitSeq(s, "/") {
		if !isComponent(c) {
			return false
		}
	}
	return true
}

func isComponent(s string) bool {
	for {
		n := span(s, func(c byte) bool { return isLower(c) || isDigit(c) })
		if n == 0 {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		switch n := span(s, func(c byte) bool { return c == '-' }); {
		case n > 0:
			s = s[n:]
		case strings.HasPrefix(s, "__"):
			s = s[2:]
		case s[0] == '.' || s[0] == '_':
			s = s[1:]
		default:
			return false
		}
	}
}

func isDomain(s string) bool {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 2 || !all(s[1:end], func(c byte) bool { return isHex(c) || c == ':' }) {
			return false
		}
		port, hasPort := strings.CutPrefix(s[end+1:], ":")
		return port == "" && !hasPort || hasPort && isPort(port)
	}
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && !isPort(port) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' ||
			!all(label, func(c byte) bool { return isAlnum(c) || c == '-' }) {
			return false
		}
	}
	return true
}

func isPort(s string) bool { return s != "" && all(s, isDigit) }

func isTag(s string) bool {
	return s != "" && len(s) <= 128 && (isAlnum(s[0]) || s[0] == '_') &&
		all(s, func(c byte) bool { return isAlnum(c) || c == '_' || c == '.' || c == '-' })
}

func isDigest(s string) bool {
	algorithm, hex, ok := strings.Cut(s, ":")
	if !ok || len(hex) < 32 || !all(hex, isHex) {
		return false
	}
	return isAlgorithm(algorithm)
}

func isAlgorithm(s string) bool {
	for {
		n := span(s, isAlnum)
		if n == 0 || isDigit(s[0]) {
			return false
		}
		if s = s[n:]; s == "" {
			return true
		}
		if !strings.ContainsRune("-_+.", rune(s[0])) {
			return false
		}
		s = s[1:]
	}
}

func isIdentifier(s string) bool {
	return len(s) == 64 && all(s, func(c byte) bool { return isDigit(c) || 'a' <= c && c <= 'f' })
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isAlnum(c byte) bool { return isLower(c) || 'A' <= c && c <= 'Z' || isDigit(c) }
func isHex(c byte) bool   { return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F' }

// span counts the leading bytes for which is holds.
func span(s string, is func(byte) bool) int {
	for i := range len(s) {
		if !is(s[i]) {
			return i
		}
	}
	return len(s)
}

func all(s string, is func(byte) bool) bool { return span(s, is) == len(s) }

// Pattern is a part of the grammar as a regular expression, compiled when it is first used.
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

// FindString gives the first place in s where the expression is found.
func (p *Pattern) FindString(s string) string { return p.get().FindString(s) }

// FindStringSubmatch gives that place and its groups.
func (p *Pattern) FindStringSubmatch(s string) []string { return p.get().FindStringSubmatch(s) }

const (
	reLabel     = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	reDomain    = `(?:` + reLabel + `(?:\.` + reLabel + `)*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?`
	reComponent = `[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*`
	reName      = `(?:` + reDomain + `/)?` + reComponent + `(?:/` + reComponent + `)*`
	reTag       = `[\w][\w.-]{0,127}`
	reDigest    = `[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*[:][[:xdigit:]]{32,}`
)

// The grammar's parts for those who put them into expressions of their own.
var (
	DomainRegexp     = pattern(reDomain)
	NameRegexp       = pattern(reName)
	TagRegexp        = pattern(reTag)
	DigestRegexp     = pattern(reDigest)
	IdentifierRegexp = pattern(`([a-f0-9]{64})`)
	ReferenceRegexp  = pattern(`^(` + reName + `)(?::(` + reTag + `))?(?:@(` + reDigest + `))?$`)
)
