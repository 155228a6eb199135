package logfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// Entry is one entry of a log.
type Entry struct {
	Stream Stream
	Time   time.Time
	// Line ends in "\n", except for the pieces of a long line before its last. It is valid until the function it was
	// given to returns.
	Line  []byte
	Attrs map[string]string // nil when there are none; not to be changed
}

var errEntry = errors.New("not a log entry")

// decoder reads entries, one line of the file at a time. It reuses its memory.
type decoder struct {
	in   []byte
	pos  int
	line []byte
	key  []byte
	text []byte

	second [19]byte // the text of the second that was parsed last
	unix   int64    // and what it means

	attrsText []byte
	attrs     map[string]string
}

// decode reads the entry in one line of the file. The members may come in any order, and unknown ones are passed over.
func (d *decoder) decode(in []byte) (e Entry, err error) {
	d.in, d.pos, d.line = in, 0, d.line[:0]
	if !d.take('{') {
		return e, errEntry
	}
	haveTime := false
	if !d.take('}') {
		for {
			if d.key, err = d.string(d.key[:0]); err != nil {
				return e, err
			}
			if !d.take(':') {
				return e, errEntry
			}
			switch string(d.key) {
			case "log":
				if d.line, err = d.string(d.line[:0]); err != nil {
					return e, err
				}
			case "stream":
				if d.text, err = d.string(d.text[:0]); err != nil {
					return e, err
				}
				switch string(d.text) {
				case "stdout":
					e.Stream = Stdout
				case "stderr":
					e.Stream = Stderr
				default:
					return e, errEntry
				}
			case "time":
				if d.text, err = d.string(d.text[:0]); err != nil {
					return e, err
				}
				if e.Time, err = d.time(d.text); err != nil {
					return e, errEntry
				}
				haveTime = true
			case "attrs":
				if e.Attrs, err = d.attributes(); err != nil {
					return e, err
				}
			default:
				if err = d.skip(0); err != nil {
					return e, err
				}
			}
			if d.take('}') {
				break
			}
			if !d.take(',') {
				return e, errEntry
			}
		}
	}
	d.space()
	if d.pos != len(d.in) || !haveTime || e.Stream == 0 {
		return e, errEntry
	}
	e.Line = d.line
	return e, nil
}

func (d *decoder) space() {
	for d.pos < len(d.in) {
		switch d.in[d.pos] {
		case ' ', '\t', '\r', '\n':
			d.pos++
		default:
			return
		}
	}
}

// take consumes c if it comes next, whatever white space is before it.
func (d *decoder) take(c byte) bool {
	if d.pos < len(d.in) && d.in[d.pos] == c { // our own files have no spaces
		d.pos++
		return true
	}
	d.space()
	if d.pos < len(d.in) && d.in[d.pos] == c {
		d.pos++
		return true
	}
	return false
}

// string appends the JSON string that comes next to dst. Bytes that should have been escaped are taken as they are.
func (d *decoder) string(dst []byte) ([]byte, error) {
	if !d.take('"') {
		return dst, errEntry
	}
	for {
		rest := d.in[d.pos:]
		quote := bytes.IndexByte(rest, '"')
		if quote < 0 {
			return dst, errEntry
		}
		slash := bytes.IndexByte(rest[:quote], '\\')
		run := quote
		if slash >= 0 {
			run = slash
		}
		dst = append(dst, rest[:run]...)
		if slash < 0 {
			d.pos += quote + 1
			return dst, nil
		}
		// Escapes often follow each other, and the end: do not look for the quote again.
		for d.pos += slash; d.pos < len(d.in) && d.in[d.pos] == '\\'; {
			var err error
			if dst, err = d.escape(dst); err != nil {
				return dst, err
			}
		}
		if d.pos < len(d.in) && d.in[d.pos] == '"' {
			d.pos++
			return dst, nil
		}
	}
}

// escape appends what the escape that comes next stands for.
func (d *decoder) escape(dst []byte) ([]byte, error) {
	if d.pos+2 > len(d.in) {
		return dst, errEntry
	}
	c := d.in[d.pos+1]
	d.pos += 2
	switch c {
	case 'n':
		return append(dst, '\n'), nil
	case '"', '\\', '/':
		return append(dst, c), nil
	case 'r':
		return append(dst, '\r'), nil
	case 't':
		return append(dst, '\t'), nil
	case 'b':
		return append(dst, '\b'), nil
	case 'f':
		return append(dst, '\f'), nil
	case 'u':
		r, ok := d.hex()
		if !ok {
			return dst, errEntry
		}
		if !utf16.IsSurrogate(r) {
			return utf8.AppendRune(dst, r), nil
		}
		// A pair of surrogates is one character; a single one is none.
		back := d.pos
		if d.pos+2 <= len(d.in) && d.in[d.pos] == '\\' && d.in[d.pos+1] == 'u' {
			d.pos += 2
			low, ok := d.hex()
			if !ok {
				return dst, errEntry
			}
			if both := utf16.DecodeRune(r, low); both != utf8.RuneError {
				return utf8.AppendRune(dst, both), nil
			}
			d.pos = back
		}
		return utf8.AppendRune(dst, utf8.RuneError), nil
	}
	return dst, errEntry
}

// hex reads four hexadecimal digits.
func (d *decoder) hex() (r rune, ok bool) {
	if d.pos+4 > len(d.in) {
		return 0, false
	}
	for _, c := range d.in[d.pos : d.pos+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	d.pos += 4
	return r, true
}

// time parses RFC 3339. Neighbouring entries are mostly of one second, whose calendar is worked out once.
func (d *decoder) time(s []byte) (time.Time, error) {
	if len(s) < 20 || s[len(s)-1] != 'Z' || s[19] != '.' && len(s) != 20 || len(s) > 30 || len(s) == 21 {
		return time.Parse(time.RFC3339Nano, string(s))
	}
	if string(s[:19]) != string(d.second[:]) {
		t, err := time.Parse(time.RFC3339, string(s[:19])+"Z")
		if err != nil {
			return t, err
		}
		copy(d.second[:], s)
		d.unix = t.Unix()
	}
	var nanos int64
	scale := int64(1e9)
	for i := 20; i < len(s)-1; i++ {
		c := s[i]
		if c < '0' || c > '9' {
			return time.Time{}, errEntry
		}
		nanos = nanos*10 + int64(c-'0')
		scale /= 10
	}
	return time.Unix(d.unix, nanos*scale).UTC(), nil
}

// attributes reads the object of extra attributes. It is the same in every entry of a log.
func (d *decoder) attributes() (map[string]string, error) {
	d.space()
	from := d.pos
	if err := d.skip(0); err != nil {
		return nil, err
	}
	text := d.in[from:d.pos]
	if d.attrs != nil && bytes.Equal(text, d.attrsText) {
		return d.attrs, nil
	}
	var m map[string]string
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, errEntry
	}
	if len(m) == 0 {
		m = nil
	}
	d.attrsText, d.attrs = append(d.attrsText[:0], text...), m
	return m, nil
}

// maxDepth bounds the nesting of values that are passed over.
const maxDepth = 32

// skip passes over the value that comes next. It is checked only as far as finding its end needs.
func (d *decoder) skip(depth int) (err error) {
	d.space()
	if d.pos >= len(d.in) || depth > maxDepth {
		return errEntry
	}
	switch c := d.in[d.pos]; c {
	case '"':
		d.text, err = d.string(d.text[:0])
		return err
	case '{', '[':
		d.pos++
		if d.take(c + 2) { // } and ] are two after { and [
			return nil
		}
		for {
			if c == '{' {
				if d.text, err = d.string(d.text[:0]); err != nil {
					return err
				}
				if !d.take(':') {
					return errEntry
				}
			}
			if err := d.skip(depth + 1); err != nil {
				return err
			}
			if d.take(c + 2) {
				return nil
			}
			if !d.take(',') {
				return errEntry
			}
		}
	}
	from := d.pos
	for d.pos < len(d.in) {
		c := d.in[d.pos]
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '+' || c == '.' || c == 'E' {
			d.pos++
			continue
		}
		break
	}
	if !json.Valid(d.in[from:d.pos]) {
		return errEntry
	}
	return nil
}
