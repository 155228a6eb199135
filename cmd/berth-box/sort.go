package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// sortKey is one -k: the fields it spans (from 1; to 0 is the end of the line) and its own flags.
type sortKey struct {
	from, to int
	numeric  bool
	reverse  bool
}

func sortLines(c *call) int {
	o, err := getopt(c.args, "nruhfbVk:t:o:sc", map[string]byte{"numeric-sort": 'n', "reverse": 'r', "unique": 'u',
		"key": 'k', "field-separator": 't', "output": 'o', "stable": 's', "human-numeric-sort": 'h',
		"version-sort": 'V', "ignore-case": 'f', "check": 'c'})
	if err != nil {
		return c.usage("%v", err)
	}
	keys, err := sortKeys(o)
	if err != nil {
		return c.usage("%v", err)
	}
	var all []string
	code := c.each(o.rest, func(_ string, r io.Reader) error {
		list, err := readLines(r)
		all = append(all, list...)
		return err
	})
	compare := func(a, b string) int {
		for _, k := range keys {
			if d := compareText(field(a, k, o), field(b, k, o), k.numeric, o); d != 0 {
				if k.reverse {
					return -d
				}
				return d
			}
		}
		if o.has('u') || o.has('s') {
			return 0
		}
		d := strings.Compare(a, b)
		if o.has('r') {
			return -d
		}
		return d
	}
	if o.has('c') {
		for i := 1; i < len(all); i++ {
			if compare(all[i-1], all[i]) > 0 {
				return c.fail("line %d is out of order: %s", i+1, all[i])
			}
		}
		return code
	}
	slices.SortStableFunc(all, compare)
	if o.has('u') {
		all = slices.CompactFunc(all, func(a, b string) bool { return compare(a, b) == 0 })
	}
	var w io.Writer = c.out
	if name := o.last('o', ""); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return c.report(err)
		}
		defer f.Close()
		w = f
	}
	for _, line := range all {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return c.report(err)
		}
	}
	return code
}

func sortKeys(o *options) ([]sortKey, error) {
	whole := sortKey{from: 1, numeric: o.has('n') || o.has('h'), reverse: o.has('r')}
	if !o.has('k') {
		return []sortKey{whole}, nil
	}
	var keys []sortKey
	for _, spec := range o.value['k'] {
		k := whole
		first, last, has := strings.Cut(spec, ",")
		for _, end := range []string{first, last} {
			k.numeric = k.numeric || strings.Contains(end, "n")
			k.reverse = k.reverse || strings.Contains(end, "r")
		}
		field := func(s string) int {
			s, _, _ = strings.Cut(strings.TrimRight(s, "nrbfh"), ".")
			return number(s)
		}
		if k.from = field(first); k.from < 1 {
			return nil, fmt.Errorf("invalid key %q", spec)
		}
		if has {
			if k.to = field(last); k.to < k.from {
				return nil, fmt.Errorf("invalid key %q", spec)
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// field cuts the part of a line a key compares.
func field(line string, k sortKey, o *options) string {
	if k.from == 1 && k.to == 0 {
		return line
	}
	var fields []string
	sep := o.last('t', "")
	if sep != "" {
		fields = strings.Split(line, sep)
	} else {
		fields, sep = strings.Fields(line), " "
	}
	if k.from > len(fields) {
		return ""
	}
	to := len(fields)
	if k.to > 0 {
		to = min(to, k.to)
	}
	return strings.Join(fields[k.from-1:to], sep)
}

func compareText(a, b string, numeric bool, o *options) int {
	if numeric {
		x, y := leadingNumber(a, o.has('h')), leadingNumber(b, o.has('h'))
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	if o.has('b') {
		a, b = strings.TrimLeft(a, " \t"), strings.TrimLeft(b, " \t")
	}
	if o.has('f') {
		a, b = strings.ToUpper(a), strings.ToUpper(b)
	}
	if o.has('V') {
		return compareVersions(a, b)
	}
	return strings.Compare(a, b)
}

// leadingNumber reads the number a line begins with; none counts as 0. With human, K, M, G, T multiply.
func leadingNumber(s string, human bool) float64 {
	s = strings.TrimLeft(s, " \t")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || end == 0 && (s[end] == '-' || s[end] == '+')) {
		end++
	}
	v, err := strconv.ParseFloat(s[:end], 64)
	if err != nil {
		return 0
	}
	if human && end < len(s) {
		if i := strings.IndexByte("KMGTP", s[end]&^0x20); i >= 0 {
			for range i + 1 {
				v *= 1024
			}
		}
	}
	return v
}

// compareVersions compares digit runs as numbers and the rest as text.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			n, m := strings.TrimLeft(a[:x], "0"), strings.TrimLeft(b[:y], "0")
			if len(n) != len(m) {
				return len(n) - len(m)
			}
			if d := strings.Compare(n, m); d != 0 {
				return d
			}
			a, b = a[x:], b[y:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
