package cli

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/client"
)

// listValue is a flag that may be given more than once. valid, when there is one, checks and rewrites each value.
type listValue struct {
	values *[]string
	valid  func(string) (string, error)
}

func (l *listValue) Set(s string) error {
	if l.valid != nil {
		v, err := l.valid(s)
		if err != nil {
			return err
		}
		s = v
	}
	*l.values = append(*l.values, s)
	return nil
}

func (l *listValue) Type() string { return "list" }

func (l *listValue) String() string {
	if l.values == nil || len(*l.values) == 0 {
		return ""
	}
	return fmt.Sprint(*l.values)
}

// mapValue is a repeatable flag of the form key=value. The last value of a key counts.
type mapValue struct {
	values *map[string]string
	valid  func(string) (string, error)
}

func (m *mapValue) Set(s string) error {
	if m.valid != nil {
		v, err := m.valid(s)
		if err != nil {
			return err
		}
		s = v
	}
	if *m.values == nil {
		*m.values = make(map[string]string)
	}
	k, v, _ := strings.Cut(s, "=")
	(*m.values)[k] = v
	return nil
}

func (m *mapValue) Type() string { return "map" }

func (m *mapValue) String() string {
	if m.values == nil || len(*m.values) == 0 {
		return ""
	}
	return fmt.Sprint(*m.values)
}

// parsedValue is a flag with a grammar of its own.
type parsedValue struct {
	kind string
	set  func(string) error
	text string
}

func (p *parsedValue) Set(s string) error {
	if err := p.set(s); err != nil {
		return err
	}
	p.text = s
	return nil
}
func (p *parsedValue) Type() string   { return p.kind }
func (p *parsedValue) String() string { return p.text }

// bytesValue is an amount of memory: a number and b, k, m, g, t or p, counted in powers of 1024.
func bytesValue(to *int64) *parsedValue {
	return &parsedValue{kind: "bytes", set: func(s string) error {
		n, err := units.RAMInBytes(s)
		if err != nil {
			return err
		}
		*to = n
		return nil
	}}
}

// swapValue is bytesValue with -1 for no limit.
func swapValue(to *int64) *parsedValue {
	return &parsedValue{kind: "bytes", set: func(s string) error {
		if s == "-1" {
			*to = -1
			return nil
		}
		return bytesValue(to).set(s)
	}}
}

// cpusValue is a number of processors with up to nine decimals, kept as billionths.
func cpusValue(to *int64) *parsedValue {
	return &parsedValue{kind: "decimal", set: func(s string) error {
		n, err := parseCPUs(s)
		if err != nil {
			return err
		}
		*to = n
		return nil
	}}
}

func parseCPUs(s string) (int64, error) {
	// SetString takes more than numbers: 1e999999999 would keep it busy until the memory is full.
	if len(s) > 32 || strings.ContainsAny(s, "eEpPxX_") {
		return 0, fmt.Errorf("failed to parse %s as a rational number", s)
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return 0, fmt.Errorf("failed to parse %s as a rational number", s)
	}
	nano := r.Mul(r, big.NewRat(1e9, 1))
	if !nano.IsInt() {
		return 0, errors.New("value is too precise")
	}
	if !nano.Num().IsInt64() {
		return 0, fmt.Errorf("%s is too many", s)
	}
	return nano.Num().Int64(), nil
}

// filterValue collects --filter name=value.
type filterValue struct{ filters client.Filters }

func (f *filterValue) Set(s string) error {
	if s == "" {
		return nil
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("bad format of filter (expected name=value)")
	}
	if f.filters == nil {
		f.filters = make(client.Filters)
	}
	f.filters.Add(strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value))
	return nil
}

func (f *filterValue) Type() string { return "filter" }

func (f *filterValue) String() string { return "" }

func label(s string) (string, error) {
	if k, _, _ := strings.Cut(s, "="); k == "" {
		return "", fmt.Errorf("invalid label '%s': empty name", s)
	}
	return s, nil
}

// keyValues makes a map of "k=v" and "k" texts.
func keyValues(list []string) map[string]string {
	m := make(map[string]string, len(list))
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		m[k] = v
	}
	return m
}

func parseBool(key, value string) (bool, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("invalid value for %s: %s", key, value)
	}
	return b, nil
}
