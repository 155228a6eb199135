package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// object is a JSON object with the order of its keys, so that what the server sent is shown as it was sent.
type object struct {
	keys   []string
	values map[string]any // nil for a map that is not there

	of reflect.Type // a struct or a map, if that is known; see shaped
}

// field finds a key as it is written, and else without regard to case, because templates written for Docker use the
// names of its Go fields: .ID and .Id, .HostConfig.NanoCPUs and .NanoCpus.
func (o *object) field(name string) (any, bool) {
	if v, ok := o.values[name]; ok {
		return v, true
	}
	for _, k := range o.keys {
		if strings.EqualFold(k, name) {
			return o.values[k], true
		}
	}
	return o.shapedField(name)
}

func (o *object) fieldNames() []string { return o.keys }

func (o *object) String() string { return fmt.Sprint(plain(o)) }

// MarshalJSON keeps the order.
func (o *object) MarshalJSON() ([]byte, error) {
	if o.values == nil {
		return []byte("null"), nil
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, k := range o.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := toJSON(k)
		if err != nil {
			return nil, err
		}
		value, err := toJSON(o.values[k])
		if err != nil {
			return nil, err
		}
		b.WriteString(key)
		b.WriteByte(':')
		b.WriteString(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// toJSON is JSON on one line, with <, > and & as they are.
func toJSON(v any) (string, error) {
	if r, ok := v.(interface{ jsonValue() any }); ok {
		v = r.jsonValue()
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// parseJSON reads one JSON document into the values templates work on. Whole numbers become int64.
func parseJSON(data []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := decodeValue(dec)
	if err != nil {
		return nil, fmt.Errorf("the daemon's answer is no valid JSON: %w", err)
	}
	return v, nil
}

func decodeValue(dec *json.Decoder) (any, error) {
	token, err := dec.Token()
	if err == io.EOF {
		return nil, io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		switch t {
		case '{':
			return decodeObject(dec)
		case '[':
			list := []any{}
			for dec.More() {
				v, err := decodeValue(dec)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := dec.Token()
			return list, err
		}
		return nil, errors.New("unexpected " + t.String())
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		return t.Float64()
	}
	return token, nil
}

func decodeObject(dec *json.Decoder) (any, error) {
	o := &object{values: make(map[string]any)}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		k, ok := key.(string)
		if !ok {
			return nil, errors.New("a key that is no string")
		}
		v, err := decodeValue(dec)
		if err != nil {
			return nil, err
		}
		if _, twice := o.values[k]; !twice {
			o.keys = append(o.keys, k)
		}
		o.values[k] = v
	}
	_, err := dec.Token()
	return o, err
}

// objectOf turns an API value into the values templates work on.
func objectOf(v any) (any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return parseJSON(data)
}
