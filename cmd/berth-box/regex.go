package main

import (
	"regexp"
	"strings"
)

// posixRegexp compiles a POSIX regular expression: basic (\( \) \{ \} \+ \? \| special when escaped) or extended.
// Back-references do not exist in Go's engine and are refused.
func posixRegexp(pattern string, extended, fold bool) (*regexp.Regexp, error) {
	var b strings.Builder
	if fold {
		b.WriteString("(?i)")
	}
	if extended {
		b.WriteString(pattern)
		return regexp.Compile(b.String())
	}
	for i := 0; i < len(pattern); i++ {
		ch := pattern[i]
		switch {
		case ch == '\\' && i+1 < len(pattern):
			i++
			if strings.IndexByte("(){}+?|", pattern[i]) >= 0 {
				b.WriteByte(pattern[i])
			} else {
				b.WriteByte('\\')
				b.WriteByte(pattern[i])
			}
		case strings.IndexByte("(){}+?|", ch) >= 0:
			b.WriteByte('\\')
			b.WriteByte(ch)
		case ch == '*' && (i == 0 || pattern[i-1] == '^' && i == 1 || strings.HasSuffix(pattern[:i], "\\(")):
			b.WriteString("\\*")
		case ch == '^' && i > 0 && !strings.HasSuffix(pattern[:i], "\\(") && !strings.HasSuffix(pattern[:i], "\\|"):
			b.WriteString("\\^")
		case ch == '$' && i+1 < len(pattern) && !strings.HasPrefix(pattern[i+1:], "\\)") &&
			!strings.HasPrefix(pattern[i+1:], "\\|"):
			b.WriteString("\\$")
		case ch == '[':
			end := bracketEnd(pattern, i)
			b.WriteString(strings.ReplaceAll(pattern[i:end], "\\", "\\\\"))
			i = end - 1
		default:
			b.WriteByte(ch)
		}
	}
	return regexp.Compile(b.String())
}

// bracketEnd finds the end of a bracket expression; "]" first and classes like [:alpha:] do not end it.
func bracketEnd(p string, start int) int {
	i := start + 1
	if i < len(p) && p[i] == '^' {
		i++
	}
	if i < len(p) && p[i] == ']' {
		i++
	}
	for i < len(p) && p[i] != ']' {
		if p[i] == '[' && i+1 < len(p) && p[i+1] == ':' {
			if j := strings.Index(p[i:], ":]"); j > 0 {
				i += j + 2
				continue
			}
		}
		i++
	}
	return min(i+1, len(p))
}
