// Package specjson reads JSON into the structs of the runtime specification, and others as plain as those.
//
// A process that lives for some milliseconds reads one document. Package encoding/json prepares itself for many: for each struct it
// comes upon it builds coders for everything that can be reached from there, which takes longer than all else the start of a
// container does in user space. Here nothing is prepared but the names of the fields that are met.
//
// What is accepted, and what comes of it, is what encoding/json does with the same text, which a fuzz target compares:
//
//   - names of fields are found as they are written, else whatever the case of their letters; unknown ones are passed over;
//   - null leaves a plain value as it is and empties pointers, slices and maps;
//   - what is not UTF-8 is replaced by U+FFFD, and half a surrogate as well;
//   - of a name that stands twice in an object the later value wins, in what the earlier one made.
//
// The differences: the first thing wrong ends it, and the destination is then half filled and of no use; a slice that is given twice
// begins anew; and an any gets the text of its value, as a string. It takes bools, strings, whole numbers, pointers, slices (of bytes in
// base64), maps by string, structs (also embedded ones, but no pointers to those) and types with a method UnmarshalJSON; another kind of
// field is an error when the text has something for it.
package specjson

import (
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep values may be nested, as in encoding/json.
const maxDepth = 10000

// Unmarshal reads one value into *v. The text may be kept: strings in v can be parts of a copy of it.
func Unmarshal(text []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return errors.New("the destination is no pointer")
	}
	d := &reader{text: string(text)}
	err := d.value(p.Elem())
	if err == nil {
		d.space()
		if d.at < len(d.text) {
			err = d.bad("something follows the value")
		}
	}
	return err
}

// reader is one reading.
type reader struct {
	text   string
	at     int
	depth  int
	types  map[reflect.Type][]field
	twice  bool // an object had a name twice
	during string
}

// field is a field of a struct, maybe of one that is embedded.
type field struct {
	name  string
	index []int
}

func (d *reader) bad(format string, args ...any) error {
	return fmt.Errorf("at byte %d: "+format, append([]any{d.at}, args...)...)
}

func (d *reader) mismatch(t reflect.Type) error {
	what := "a value"
	if d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			what = "a string"
		case c == '{':
			what = "an object"
		case c == '[':
			what = "an array"
		case c == 't' || c == 'f':
			what = "a truth value"
		case c == '-' || c >= '0' && c <= '9':
			what = "this number"
		}
	}
	if d.during != "" {
		return d.bad("%q cannot be %s (%s)", d.during, what, t)
	}
	return d.bad("%s where there must be %s", what, t)
}

func (d *reader) space() {
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

// peek is the first byte of what comes, 0 at the end.
func (d *reader) peek() byte {
	d.space()
	if d.at == len(d.text) {
		return 0
	}
	return d.text[d.at]
}

func (d *reader) unexpected() error {
	if d.at >= len(d.text) {
		return d.bad("it ends in the middle")
	}
	r, _ := utf8.DecodeRuneInString(d.text[d.at:])
	return d.bad("unexpected %q", r)
}

// word takes a literal.
func (d *reader) word(w string) error {
	if !strings.HasPrefix(d.text[d.at:], w) {
		return d.unexpected()
	}
	d.at += len(w)
	return nil
}

func (d *reader) down() error {
	if d.depth++; d.depth > maxDepth {
		return d.bad("it is nested too deeply")
	}
	return nil
}

type unmarshaler interface{ UnmarshalJSON([]byte) error }

// value reads one value into v.
func (d *reader) value(v reflect.Value) error {
	c := d.peek()
	if c == 0 {
		return d.unexpected()
	}
	if c == 'n' && v.Kind() != reflect.Pointer && !d.special(v) {
		if err := d.word("null"); err != nil {
			return err
		}
		switch v.Kind() {
		case reflect.Slice, reflect.Map, reflect.Interface:
			v.SetZero()
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		if c == 'n' {
			v.SetZero()
			return d.word("null")
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return d.value(v.Elem())
	case reflect.Struct:
		if d.special(v) {
			begin := d.at
			if err := d.skip(); err != nil {
				return err
			}
			return v.Addr().Interface().(unmarshaler).UnmarshalJSON([]byte(d.text[begin:d.at]))
		}
		if c == '{' {
			return d.structure(v)
		}
	case reflect.Map:
		if c == '{' && v.Type().Key().Kind() == reflect.String {
			return d.mapping(v)
		}
	case reflect.Slice:
		if c == '[' {
			return d.slice(v)
		}
		if c == '"' && v.Type().Elem().Kind() == reflect.Uint8 {
			return d.bytes(v)
		}
	case reflect.String:
		if c == '"' {
			s, err := d.str()
			v.SetString(s)
			return err
		}
	case reflect.Bool:
		if c == 't' || c == 'f' {
			v.SetBool(c == 't')
			return d.word(strconv.FormatBool(c == 't'))
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if c == '-' || c >= '0' && c <= '9' {
			return d.whole(v)
		}
	case reflect.Interface:
		if v.NumMethod() == 0 {
			begin := d.at
			if err := d.skip(); err != nil {
				return err
			}
			v.Set(reflect.ValueOf(d.text[begin:d.at]))
			return nil
		}
	}
	if err := d.mistake(); err != nil {
		return err
	}
	return d.mismatch(v.Type())
}

// mistake says whether what comes is no value at all, which is said rather than that it is of the wrong kind.
func (d *reader) mistake() error {
	switch c := d.text[d.at]; {
	case c == '"' || c == '{' || c == '[' || c == 't' || c == 'f' || c == '-' || c >= '0' && c <= '9':
		return nil
	}
	return d.unexpected()
}

// special says whether v reads itself. Only structs are asked: the specification's other types are plain, and asking costs.
func (d *reader) special(v reflect.Value) bool {
	if v.Kind() != reflect.Struct || !v.CanAddr() {
		return false
	}
	_, is := v.Addr().Interface().(unmarshaler)
	return is
}

// number gives the text of a number.
func (d *reader) number() (string, error) {
	begin := d.at
	digits := func() bool {
		from := d.at
		for d.at < len(d.text) && d.text[d.at] >= '0' && d.text[d.at] <= '9' {
			d.at++
		}
		return d.at > from
	}
	is := func(set string) bool {
		if d.at < len(d.text) && strings.IndexByte(set, d.text[d.at]) >= 0 {
			d.at++
			return true
		}
		return false
	}
	is("-")
	if !is("0") && !digits() {
		return "", d.unexpected()
	}
	if is(".") && !digits() {
		return "", d.unexpected()
	}
	if is("eE") {
		is("+-")
		if !digits() {
			return "", d.unexpected()
		}
	}
	return d.text[begin:d.at], nil
}

// bytes reads what is written in base64.
func (d *reader) bytes(v reflect.Value) error {
	begin := d.at
	s, err := d.str()
	if err != nil {
		return err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		d.at = begin
		return d.bad("%w", err)
	}
	v.SetBytes(b)
	return nil
}

func (d *reader) whole(v reflect.Value) error {
	begin := d.at
	text, err := d.number()
	if err != nil {
		return err
	}
	if v.CanInt() {
		n, err := strconv.ParseInt(text, 10, 64)
		if err == nil && !v.OverflowInt(n) {
			v.SetInt(n)
			return nil
		}
	} else {
		n, err := strconv.ParseUint(text, 10, 64)
		if err == nil && !v.OverflowUint(n) {
			v.SetUint(n)
			return nil
		}
	}
	d.at = begin
	return d.mismatch(v.Type())
}

// str reads a string.
func (d *reader) str() (string, error) {
	d.at++
	begin := d.at
	for ; d.at < len(d.text); d.at++ {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return d.text[begin : d.at-1], nil
		case c == '\\' || c >= utf8.RuneSelf:
			return d.hardStr(begin)
		case c < ' ':
			return "", d.unexpected()
		}
	}
	return "", d.unexpected()
}

// hardStr reads a string that is not what it is written as.
func (d *reader) hardStr(begin int) (string, error) {
	b := []byte(d.text[begin:d.at])
	for d.at < len(d.text) {
		c := d.text[d.at]
		switch {
		case c == '"':
			d.at++
			return string(b), nil
		case c < ' ':
			return "", d.unexpected()
		case c == '\\':
			r, plain, err := d.escape()
			if err != nil {
				return "", err
			}
			if plain != 0 {
				b = append(b, plain)
			} else {
				b = utf8.AppendRune(b, r)
			}
		case c < utf8.RuneSelf:
			b = append(b, c)
			d.at++
		default:
			r, size := utf8.DecodeRuneInString(d.text[d.at:])
			b = utf8.AppendRune(b, r)
			d.at += size
		}
	}
	return "", d.unexpected()
}

// escape reads what begins with a backslash.
func (d *reader) escape() (r rune, plain byte, err error) {
	d.at++
	if d.at == len(d.text) {
		return 0, 0, d.unexpected()
	}
	const from, to = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	c := d.text[d.at]
	if i := strings.IndexByte(from, c); i >= 0 {
		d.at++
		return 0, to[i], nil
	}
	if c != 'u' {
		return 0, 0, d.unexpected()
	}
	d.at++
	if r, err = d.hex(); err != nil {
		return 0, 0, err
	}
	if utf16.IsSurrogate(r) {
		if strings.HasPrefix(d.text[d.at:], `\u`) {
			before := d.at
			d.at += 2
			second, err := d.hex()
			if err != nil {
				return 0, 0, err
			}
			if pair := utf16.DecodeRune(r, second); pair != utf8.RuneError {
				return pair, 0, nil
			}
			d.at = before
		}
		r = utf8.RuneError
	}
	return r, 0, nil
}

func (d *reader) hex() (r rune, err error) {
	for range 4 {
		if d.at == len(d.text) {
			return 0, d.unexpected()
		}
		c := d.text[d.at]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, d.unexpected()
		}
		r = r<<4 | rune(c)
		d.at++
	}
	return r, nil
}

// list calls one for each value between brackets; d.at is on the first of them.
func (d *reader) list(end byte, one func() error) error {
	if err := d.down(); err != nil {
		return err
	}
	defer func() { d.depth-- }()
	d.at++
	if d.peek() == end {
		d.at++
		return nil
	}
	for {
		if err := one(); err != nil {
			return err
		}
		switch d.peek() {
		case end:
			d.at++
			return nil
		case ',':
			d.at++
		default:
			return d.unexpected()
		}
	}
}

// object calls one for each name, which reads the value.
func (d *reader) object(one func(name string) error) error {
	return d.list('}', func() error {
		if d.peek() != '"' {
			return d.unexpected()
		}
		name, err := d.str()
		if err != nil {
			return err
		}
		if d.peek() != ':' {
			return d.unexpected()
		}
		d.at++
		return one(name)
	})
}

func (d *reader) structure(v reflect.Value) error {
	fields := d.fields(v.Type())
	var seen [2]uint64
	return d.object(func(name string) error {
		i := find(fields, name)
		if i < 0 {
			return d.skip()
		}
		if n := i % 128; seen[n/64]&(1<<(n%64)) != 0 {
			d.twice = true
		} else {
			seen[n/64] |= 1 << (n % 64)
		}
		d.during = fields[i].name
		return d.value(v.FieldByIndex(fields[i].index))
	})
}

// find finds a field by its name, else by one that differs in the case of letters only.
func find(fields []field, name string) int {
	for i := range fields {
		if fields[i].name == name {
			return i
		}
	}
	for i := range fields {
		if strings.EqualFold(fields[i].name, name) {
			return i
		}
	}
	return -1
}

// fields are those of a struct that text can be read into.
func (d *reader) fields(t reflect.Type) []field {
	list, known := d.types[t]
	if known {
		return list
	}
	list = gather(t, nil, nil)
	if d.types == nil {
		d.types = map[reflect.Type][]field{}
	}
	d.types[t] = list
	return list
}

func gather(t reflect.Type, prefix []int, list []field) []field {
	own := len(list)
	var embedded []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Tag.Get("json") == "-":
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct:
			embedded = append(embedded, f)
		case f.IsExported():
			if name == "" {
				name = f.Name
			}
			list = append(list, field{name, append(prefix[:len(prefix):len(prefix)], i)})
		}
	}
	for _, e := range embedded {
		for _, f := range gather(e.Type, append(prefix[:len(prefix):len(prefix)], e.Index...), nil) {
			hidden := false // by what is less deep
			for _, o := range list[own:] {
				hidden = hidden || o.name == f.name
			}
			if !hidden {
				list = append(list, f)
			}
		}
	}
	return list
}

func (d *reader) mapping(v reflect.Value) error {
	t := v.Type()
	if v.IsNil() {
		v.Set(reflect.MakeMap(t))
	}
	return d.object(func(name string) error {
		key := reflect.ValueOf(name).Convert(t.Key())
		d.twice = d.twice || v.MapIndex(key).IsValid()
		d.during = name
		value := reflect.New(t.Elem()).Elem()
		if err := d.value(value); err != nil {
			return err
		}
		v.SetMapIndex(key, value)
		return nil
	})
}

func (d *reader) slice(v reflect.Value) error {
	if list, is := v.Addr().Interface().(*[]string); is {
		return d.words(list)
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	during := d.during
	return d.list(']', func() error {
		d.during = during
		v.Grow(1)
		v.SetLen(v.Len() + 1)
		return d.value(v.Index(v.Len() - 1))
	})
}

// words reads what most of a specification is made of.
func (d *reader) words(to *[]string) error {
	list := []string{}
	err := d.list(']', func() error {
		switch d.peek() {
		case '"':
			s, err := d.str()
			list = append(list, s)
			return err
		case 'n':
			list = append(list, "")
			return d.word("null")
		case 0:
			return d.unexpected()
		}
		if err := d.mistake(); err != nil {
			return err
		}
		return d.mismatch(reflect.TypeFor[string]())
	})
	*to = list
	return err
}

// skip passes over a value.
func (d *reader) skip() error {
	switch c := d.peek(); c {
	case '{':
		return d.object(func(string) error { return d.skip() })
	case '[':
		return d.list(']', d.skip)
	case '"':
		_, err := d.str()
		return err
	case 't':
		return d.word("true")
	case 'f':
		return d.word("false")
	case 'n':
		return d.word("null")
	case 0:
		return d.unexpected()
	default:
		_, err := d.number()
		return err
	}
}

// AppendString appends text as JSON.
func AppendString(b []byte, text string) []byte {
	b = append(b, '"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ':
			const digits = "0123456789abcdef"
			b = append(b, `\u00`...)
			b = append(b, digits[r>>4], digits[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}
