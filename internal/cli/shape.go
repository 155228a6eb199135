package cli

import (
	"encoding"
	"reflect"
	"slices"
	"strings"
	"time"
)

// shaped gives a value that came as JSON the shape of a Go type, which is what templates written for Docker are about: what the
// server left out, or sent as null, is there and empty, and a time is printed as Go prints it. JSON stays as it was sent.
func shaped(v any, t reflect.Type) any {
	if t == nil || t.Kind() == reflect.Interface {
		return v
	}
	if t.Kind() == reflect.Pointer {
		if v == nil {
			return nilPointer{}
		}
		return shaped(v, t.Elem())
	}
	switch v := v.(type) {
	case nil:
		return empty(t)
	case []any:
		if k := t.Kind(); k == reflect.Slice || k == reflect.Array {
			for i := range v {
				v[i] = shaped(v[i], t.Elem())
			}
		}
	case *object:
		v.shape(t)
	case string:
		if t == reflect.TypeFor[time.Time]() {
			if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
				return moment{at, v}
			}
		}
	}
	return v
}

func (o *object) shape(t reflect.Type) {
	switch {
	case t.Kind() == reflect.Map:
		o.of = t
		for k, v := range o.values {
			o.values[k] = shaped(v, t.Elem())
		}
	case isPlainStruct(t):
		o.of = t
		for _, f := range structFields(t) {
			if v, ok := o.values[f.key]; ok {
				o.values[f.key] = shaped(v, f.of)
			}
		}
	}
}

// isPlainStruct tells whether a type is a struct that is an object in JSON.
func isPlainStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !t.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// structField is a field of a struct: its name in Go, and in JSON.
type structField struct {
	name, key string
	of        reflect.Type
}

func structFields(t reflect.Type) (list []structField) {
	for _, f := range reflect.VisibleFields(t) {
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || key == "-" || f.Anonymous && key == "" {
			continue
		}
		if key == "" {
			key = f.Name
		}
		list = append(list, structField{f.Name, key, f.Type})
	}
	return list
}

// shapedField finds what an object of a known type has under the name of a field in Go, or nothing of it.
func (o *object) shapedField(name string) (any, bool) {
	if o.of == nil || o.of.Kind() != reflect.Struct {
		return nil, false
	}
	fields := structFields(o.of)
	i := slices.IndexFunc(fields, func(f structField) bool { return f.name == name })
	if i < 0 {
		i = slices.IndexFunc(fields, func(f structField) bool { return strings.EqualFold(f.key, name) })
	}
	if i < 0 {
		return nil, false
	}
	if v, ok := o.values[fields[i].key]; ok {
		return v, true
	}
	return empty(fields[i].of), true
}

// empty is the zero value of a type.
func empty(t reflect.Type) any {
	switch t.Kind() {
	case reflect.String:
		return ""
	case reflect.Bool:
		return false
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return int64(0)
	case reflect.Float32, reflect.Float64:
		return float64(0)
	case reflect.Slice, reflect.Array:
		return []any(nil)
	case reflect.Map:
		return &object{of: t}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return moment{text: "0001-01-01T00:00:00Z"}
		}
		if isPlainStruct(t) {
			return &object{of: t, values: map[string]any{}}
		}
		return "" // an address, say
	}
	return nilPointer{}
}

// structText is how Go prints a struct: what is embedded in it has braces of its own.
func (o *object) structText() goText { return o.textAs(o.of) }

func (o *object) textAs(t reflect.Type) goText {
	var words []string
	for i := range t.NumField() {
		f := t.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && key == "" && f.Type.Kind() == reflect.Struct {
			words = append(words, string(o.textAs(f.Type)))
			continue
		}
		if key == "" {
			key = f.Name
		}
		v, ok := o.values[key]
		if !ok {
			v = empty(f.Type)
		}
		words = append(words, printed(v))
	}
	return goText("{" + strings.Join(words, " ") + "}")
}

// goText is a text that stands for a value.
type goText string

// nilPointer is what a pointer that leads nowhere is to a template.
type nilPointer struct{}

func (nilPointer) String() string               { return "<nil>" }
func (nilPointer) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

// moment is a time as it was sent, printed as Go prints it.
type moment struct {
	at   time.Time
	text string
}

func (m moment) String() string               { return m.at.String() }
func (m moment) MarshalJSON() ([]byte, error) { return []byte(`"` + m.text + `"`), nil }
