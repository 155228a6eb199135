package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"text/template"
	"time"
)

const templateData = `{"Name":"web","N":3,"Big":1048576,"F":1.5,"On":true,"Off":false,"Nil":null,"Empty":"","List":["a","b","c"],"Rows":[{"K":"x","V":1},{"K":"y","V":2}],"Map":{"b":2,"a":1},"None":[],"Deep":{"Er":{"Est":"here"}}}`

// templateCases are templates that text/template executes on the same data, to the same text.
func templateCases() []string {
	return []string{
		`{{.Name}}`, `{{ .Name }}-{{.N}}`, `{{.F}} {{.On}} {{.Big}}`, `{{.Deep.Er.Est}}`, `{{$}}{{$.Name}}`, `{{with .Deep}}{{.Er.Est}}{{end}}`,
		`{{range .List}}<{{.}}>{{end}}`, `{{range $i, $v := .List}}{{$i}}={{$v}} {{end}}`, `{{range $v := .List}}{{$v}}{{end}}`,
		`{{range .None}}x{{else}}none{{end}}`, `{{range $k, $v := .Map}}{{$k}}{{$v}},{{end}}`, `{{range .Rows}}{{.K}}:{{.V}} {{end}}`,
		`{{range .List}}{{if eq . "b"}}{{continue}}{{end}}{{.}}{{end}}`, `{{range .List}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}`,
		`{{if .On}}a{{else}}b{{end}}`, `{{if .Off}}a{{else if .Name}}b{{else}}c{{end}}`, `{{if not .Empty}}x{{end}}`, `{{if and .On .Name}}x{{end}}`,
		`{{or .Empty .Name}}`, `{{and .On .Empty}}|`, `{{if or .Off .Nil .None}}x{{else}}y{{end}}`,
		`{{eq .Name "web"}} {{ne .Name "x"}} {{lt .N 4}} {{ge .F 1.5}} {{eq .Name "a" "web"}}`, `{{lt "a" "b"}} {{gt "a" "b"}} {{le "a" "a"}}`,
		`{{len .List}} {{len .Name}} {{len .Map}}`, `{{index .List 1}} {{index .Map "a"}} {{index .Rows 1 "K"}}`, `{{index .Map "none"}}`,
		`{{slice .Name 1}} {{slice .Name 0 2}} {{slice .List 1 2}}`, `{{print 1 2 "x" "y" 3}}`, `{{println "a" 1}}`, `{{printf "%s|%5s|%-5s|%q" .Name "a" "b" "c"}}`,
		`{{printf "%d %v %t" 5 .List .On}}`, `{{html "<a&b>"}} {{urlquery "a b&c"}}`, `{{"quoted"}} {{5}} {{1.5}} {{true}} {{'a'}}`, "{{`raw`}}",
		`{{.Name | printf "%s!"}}`, `{{"x" | print "y"}}`, `{{(index .Rows 0).K}}`, `{{$x := .Name}}{{$x}}{{$x = "new"}}{{$x}}`,
		`{{if $x := .Name}}{{$x}}{{end}}`, `{{with $y := .Deep.Er}}{{$y.Est}}{{end}}`, `{{/* comment */}}x`, `a {{- .Name -}} b`, `{{define "t"}}[{{.}}]{{end}}{{template "t" .Name}}`,
		`{{.List}} {{.Map}} {{.None}}`, `{{.Nil}}`, `{{with .Nil}}x{{else}}y{{end}}`, `{{with .Empty}}x{{else with .Name}}{{.}}{{end}}`, `{{not .On}}`,
		`{{range $i := .List}}{{range $.Rows}}{{$i}}{{.V}}{{end}}{{end}}`,
	}
}

// The language of --format is text/template's.
func TestTemplatesMeanWhatTextTemplateMeans(t *testing.T) {
	ours, err := parseJSON([]byte(templateData))
	if err != nil {
		t.Fatal(err)
	}
	var theirs any
	if err := json.Unmarshal([]byte(templateData), &theirs); err != nil {
		t.Fatal(err)
	}
	theirs = wholeNumbers(theirs)
	for _, text := range templateCases() {
		if strings.Contains(text, "{{$}}") {
			continue // a whole object: its own order here
		}
		want := execTheirs(t, text, theirs)
		if got := execOurs(t, text, ours); got != want {
			t.Errorf("%s\n  is     %q\n  wanted %q", text, got, want)
		}
	}
}

// wholeNumbers makes numbers without a fraction int64, as parseJSON does, for text/template.
func wholeNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = wholeNumbers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = wholeNumbers(v[i])
		}
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return v
}

func execTheirs(t *testing.T, text string, data any) string {
	tmpl, err := template.New("").Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var b bytes.Buffer
	if err := tmpl.Execute(&b, data); err != nil {
		return "error"
	}
	return b.String()
}

func execOurs(t *testing.T, text string, data any) string {
	tmpl, err := parseTemplate(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	var b bytes.Buffer
	if err := tmpl.execute(&b, data); err != nil {
		return "error"
	}
	return b.String()
}

func TestTemplateErrorsSayWhere(t *testing.T) {
	data, _ := parseJSON([]byte(templateData))
	for text, want := range map[string]string{
		`{{.Nmae}}`:              `at <.Nmae>: map has no entry for key "Nmae"; did you mean .Name or .None?`,
		`{{.Name.X}}`:            `can't evaluate field X in a string`,
		`{{index .List 9}}`:      `index out of range: 9`,
		`{{index .Map 1}}`:       `should be a string`,
		`{{range .On}}x{{end}}`:  `range can't iterate over true`,
		`{{lt .Name 1}}`:         `incompatible types for comparison`,
		`{{template "x"}}`:       `template "x" not defined`,
		`{{.Name "x"}}`:          `has arguments but cannot be invoked as function`,
		`{{truncate .Name "x"}}`: `expected a number`,
		`{{len .N}}`:             `len of a number`,
		`{{.Nil.X}}`:             `nil data`,
		`{{define "r"}}{{template "r" .}}{{end}}{{template "r" .}}`: `maximum template depth`,
	} {
		tmpl, err := parseTemplate(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := tmpl.execute(&bytes.Buffer{}, data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v does not say %q", text, err, want)
		}
	}
	for _, text := range []string{`{{`, `{{nosuch 1}}`, `{{if}}`, `{{$x}}`} {
		if _, err := parseTemplate(text); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestDockersTemplateFunctions(t *testing.T) {
	data, _ := parseJSON([]byte(templateData))
	for text, want := range map[string]string{
		`{{json .Rows}}`:                    `[{"K":"x","V":1},{"K":"y","V":2}]`,
		`{{json .Map}}`:                     `{"b":2,"a":1}`, // as the server sent it
		`{{json "<&>"}}`:                    `"<&>"`,
		`{{join .List "-"}}`:                "a-b-c",
		`{{join (split "a:b" ":") " "}}`:    "a b",
		`{{title "hello big world"}}`:       "Hello Big World",
		`{{upper .Name}}{{lower "ABC"}}`:    "WEBabc",
		`{{pad .Name 1 2}}|{{pad "" 3 3}}|`: " web  ||",
		`{{truncate .Name 2}}`:              "we",
		`{{truncate .Name 9}}`:              "web",
		`{{.name}} {{.DEEP.er.EST}}`:        "web here",
	} {
		if got := execOurs(t, text, data); got != want {
			t.Errorf("%s is %q, wanted %q", text, got, want)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, text := range templateCases() {
		f.Add(text)
	}
	data, _ := parseJSON([]byte(templateData))
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 200 || strings.Contains(text, "printf") || strings.Contains(text, "range 1") {
			return // widths and counts can be as large as one likes
		}
		tmpl, err := parseTemplate(text)
		if err != nil {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			tmpl.execute(&limited{left: 1 << 16}, data)
		}()
		select {
		case <-done:
		case <-time.After(2 * time.Minute):
			t.Fatalf("%q does not end", text)
		}
	})
}

// limited fails when too much is written.
type limited struct{ left int }

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, bytes.ErrTooLarge
	}
	return len(p), nil
}

func FuzzParseJSON(f *testing.F) {
	f.Add([]byte(templateData))
	f.Add([]byte(`[1,-2.5e3,"x",null,{"a":{}}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := parseJSON(data)
		if err != nil {
			return
		}
		text, err := toJSON(v)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", data, err)
		}
		if !json.Valid([]byte(text)) {
			t.Errorf("%q became %q", data, text)
		}
	})
}
