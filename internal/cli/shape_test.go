package cli

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
)

type shapedPart struct {
	Name  string
	Count int `json:"N,omitempty"`
}

type shapedBase struct {
	Based string `json:",omitempty"`
}

// shapedWhole has every kind of field that inspected objects have.
type shapedWhole struct {
	shapedBase
	ID      string            `json:"Id"`
	Text    string            `json:",omitempty"`
	Number  int64             `json:",omitempty"`
	Share   float64           `json:",omitempty"`
	On      bool              `json:",omitempty"`
	List    []string          `json:",omitempty"`
	Labels  map[string]string `json:",omitempty"`
	Parts   map[string]shapedPart
	Part    shapedPart
	Pointer *shapedPart `json:",omitempty"`
	At      time.Time
	Inner   map[string][]shapedPart
	Set     map[string]struct{}
	Nothing any
	Never   string `json:"-"`
}

// What the server leaves out is to a template what it is to one of Docker's client: an empty value and no mistake.
func TestTemplatesOfShapedValues(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for name, whole := range map[string]*shapedWhole{
		"empty": {},
		"full": {shapedBase{"b"}, "i", "t", 3, 1.5, true, []string{"a", "b"}, map[string]string{"k": "v"},
			map[string]shapedPart{"p": {"n", 2}}, shapedPart{"m", 0}, &shapedPart{"q", 4}, at,
			map[string][]shapedPart{"x": nil, "y": {{"z", 1}}}, map[string]struct{}{"s": {}}, nil, ""},
	} {
		data, err := json.Marshal(whole)
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseJSON(data)
		if err != nil {
			t.Fatal(err)
		}
		v = shaped(v, reflect.TypeOf(whole))
		for _, text := range []string{
			"{{.ID}}|{{.Text}}|{{.Number}}|{{.Share}}|{{.On}}|{{.List}}|{{.Labels}}|{{.Based}}", `{{index .Labels "k"}}{{index .Labels "none"}}`,
			`{{(index .Parts "none").Name}}|{{.Parts}}`, "{{.Part.Name}} {{.Part.Count}} {{.Part}}", "{{if .Pointer}}{{.Pointer.Name}}{{else}}-{{end}}",
			"{{with .Pointer}}{{.Count}}{{end}}", "{{range .List}}{{.}}{{else}}none{{end}}", "{{range $k, $v := .Labels}}{{$k}}{{$v}}{{else}}none{{end}}",
			"{{len .List}} {{len .Labels}}", "{{.At}}", "{{.Inner}}", "{{.Set}}", "{{if .Part}}a struct{{end}}", "{{range .Inner}}{{range .}}{{.Name}}{{end}}{{end}}",
			`{{printf "%v %s" .List .Text}}`, `{{eq .Text ""}} {{eq .Number 0}}`, "{{not .Labels}} {{and .On .List}}",
		} {
			var want bytes.Buffer
			if err := template.Must(template.New("").Parse(text)).Execute(&want, whole); err != nil {
				t.Fatal(err)
			}
			if got := execOurs(t, text, v); got != want.String() {
				t.Errorf("%s: %s\n  is     %q\n  wanted %q", name, text, got, want.String())
			}
		}
		if text := execOurs(t, "{{.Nothing}} {{.Never}}", v); text != "error" {
			t.Errorf("%s: a field that JSON does not have: %q", name, text)
		}
		if got := execOurs(t, "{{json .}}", v); got != string(data) {
			t.Errorf("%s: %s became %s", name, data, got)
		}
	}
}

func TestTemplatesOfInspectedObjects(t *testing.T) {
	v, err := parseJSON([]byte(`{"Id":"x","State":{"Status":"exited"},"Config":{"Labels":null,"ExposedPorts":null},"NetworkSettings":{"Networks":{"b":{}},
		"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"90/tcp":null}}}`))
	if err != nil {
		t.Fatal(err)
	}
	v = shaped(v, reflect.TypeOf(&container.InspectResponse{}))
	for text, want := range map[string]string{
		"{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}": "none",
		"{{.State.Health}}":                                    "<nil>",
		"{{json .State.Health}}":                               "null",
		"{{.State.Health.Status}}":                             "error",
		`{{index .Config.Labels "a"}}`:                         "",
		"{{json .Config.Labels}}":                              "null",
		"{{.Config.Entrypoint}}":                               "[]",
		"{{.HostConfig}}":                                      "<nil>",
		"{{.Nmae}}":                                            "error",
		"{{range .Mounts}}x{{end}}":                            "",
		"{{(index .NetworkSettings.Networks \"b\").Gateway}}|": "|",
		"{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}": "8080",
		"{{.Config.Image}}{{.RestartCount}}":                               "0",
	} {
		if got := execOurs(t, text, v); got != want {
			t.Errorf("%s: %q, wanted %q", text, got, want)
		}
	}
	for _, one := range []any{&image.InspectResponse{}, netip.Addr{}, "", 1, nil, map[string]any{}} {
		if got := shaped(nil, reflect.TypeOf(one)); got == (none{}) {
			t.Errorf("%T: %v", one, got)
		}
	}
}

func FuzzShaped(f *testing.F) {
	f.Add(`{"Id":1,"State":[],"Config":"x","NetworkSettings":{"Ports":{"80":7}}}`, "{{.Config.Labels}}{{.State.Health.Log}}")
	f.Add(`[{"Metadata":{"LastTagTime":"yesterday"}}]`, "{{json .}}")
	f.Fuzz(func(t *testing.T, data, text string) {
		v, err := parseJSON([]byte(data))
		if err != nil || strings.Contains(text, "pad") || strings.Contains(text, "printf") || strings.Contains(text, "range") {
			return
		}
		tmpl, err := parseTemplate(text)
		if err != nil {
			return
		}
		for _, of := range []any{&container.InspectResponse{}, image.InspectResponse{}} {
			_ = tmpl.execute(&bytes.Buffer{}, shaped(v, reflect.TypeOf(of)))
		}
	})
}
