package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// column is one named value of the rows of a listing. Its name is what --format calls it.
type column[T any] struct {
	name, title string
	value       func(T) any
}

// listing is how a list command shows its items.
type listing[T any] struct {
	columns []column[T]
	table   string // the template without "table "
	method  func(item T, name string, args []any) (any, bool, error)
}

// row is one item under a listing's names. In a table nothing that somebody else has written steers a terminal or adds a line.
type row[T any] struct {
	l     *listing[T]
	item  T
	table bool
}

func (r row[T]) field(name string) (any, bool) {
	for _, c := range r.l.columns {
		if c.name == name {
			v := c.value(r.item)
			if text, ok := v.(string); ok && r.table {
				return visible(text), true
			}
			return v, true
		}
	}
	return nil, false
}

func (r row[T]) fieldNames() []string {
	var names []string
	for _, c := range r.l.columns {
		names = append(names, c.name)
	}
	return names
}

func (r row[T]) method(name string, args []any) (any, bool, error) {
	if r.l.method == nil {
		return nil, false, nil
	}
	v, ok, err := r.l.method(r.item, name, args)
	if text, is := v.(string); is && r.table {
		return visible(text), ok, err
	}
	return v, ok, err
}

func (r row[T]) values() map[string]any {
	m := make(map[string]any, len(r.l.columns))
	for _, c := range r.l.columns {
		m[c.name] = c.value(r.item)
	}
	return m
}

// jsonValue is the row as JSON. Docker escapes <, > and & here, and only here.
func (r row[T]) jsonValue() any {
	data, err := json.Marshal(r.values())
	if err != nil {
		return nil // columns are texts and lists
	}
	return json.RawMessage(data)
}

// titles are the column titles under the listing's names.
type titles[T any] struct{ l *listing[T] }

func (t titles[T]) field(name string) (any, bool) {
	for _, c := range t.l.columns {
		if c.name == name {
			return c.title, true
		}
	}
	return nil, false
}

func (t titles[T]) fieldNames() []string { return row[T]{l: t.l}.fieldNames() }

func (t titles[T]) method(name string, args []any) (any, bool, error) {
	if t.l.method == nil || len(args) == 0 {
		return nil, false, nil
	}
	return lastWord(printed(args[0])), true, nil // the label's own name heads its column
}

// lastWord is the title Docker gives to the column of a label: "com.example.tier" is "tier".
func lastWord(s string) string {
	s = strings.NewReplacer("-", " ", "_", " ").Replace(s)
	return s[strings.LastIndex(s, ".")+1:]
}

func (t titles[T]) jsonValue() any { return "" }

// print writes the items: a table, JSON lines, or a person's template.
func (l *listing[T]) print(w io.Writer, format string, items []T) error {
	header := false
	switch {
	case format == "" || format == "table":
		format, header = l.table, true
	case format == "json":
		format = "{{json .}}"
	case strings.HasPrefix(format, "table "):
		format, header = strings.TrimPrefix(format, "table "), true
	}
	format = unescape(format)
	template, err := parseTemplate(format)
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	var b strings.Builder
	out := io.Writer(&b)
	if header {
		tw := tabwriter.NewWriter(&b, 10, 1, 3, ' ', 0)
		head := *template
		head.header = true
		if err := head.execute(tw, titles[T]{l}); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
		fmt.Fprintln(tw)
		out = tw
	}
	for _, item := range items {
		if err := template.execute(out, row[T]{l, item, header}); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
		fmt.Fprintln(out)
	}
	if tw, ok := out.(*tabwriter.Writer); ok {
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// uses reports whether a format asks for a field, so that costly ones are fetched only when they are shown.
func uses(format, field string) bool { return strings.Contains(format, "."+field) }
