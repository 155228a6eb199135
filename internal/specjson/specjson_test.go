package specjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// sample has a field of every kind, and a struct that is embedded as one of the specification is.
type sample struct {
	specs.Spec
	Text   string             `json:"text"`
	Flag   bool               `json:"flag"`
	Small  int8               `json:"small"`
	Count  uint16             `json:"count"`
	Big    *uint64            `json:"big,omitempty"`
	When   time.Time          `json:"when"`
	Words  []string           `json:"words"`
	Map    map[string]*sample `json:"map"`
	Lists  [][]int64          `json:"lists"`
	Bytes  []byte             `json:"bytes"`
	Hidden string             `json:"-"`
	Named  specs.LinuxNamespaceType
}

// compare reads text with this package and with encoding/json.
func compare(t *testing.T, text string) {
	t.Helper()
	var got, want sample
	wantErr := json.Unmarshal([]byte(text), &want)
	d := &reader{text: text}
	gotErr := d.value(reflect.ValueOf(&got).Elem())
	if outer := Unmarshal([]byte(text), new(sample)); gotErr == nil && outer != nil {
		gotErr = outer
	}
	if (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("%q\n got error %v\nwant error %v", text, gotErr, wantErr)
	}
	if gotErr != nil || d.twice {
		return
	}
	for _, s := range []*sample{&got, &want} { // of which this package gives the text
		if s.Windows != nil {
			s.Windows.CredentialSpec = nil
		}
	}
	if !strings.Contains(text, "redentialSpec") && !reflect.DeepEqual(got, want) {
		t.Fatalf("%q\n got %#v\nwant %#v", text, got, want)
	}
}

var texts = []string{
	`{}`, ` {"text" : "a" , "flag":true} `, `{"text":null,"flag":null,"words":null,"map":null,"big":null,"when":null}`,
	`{"TEXT":"x","Words":["a",null,"b"],"words":[]}`, `{"text":"\u00e9\ud83d\ude00\ud83dx\udc00\n\/\"\\"}`, "{\"text\":\"\xff\xc3\xa9\"}",
	`{"small":127,"count":65535,"big":18446744073709551615}`, `{"small":128}`, `{"count":-1}`, `{"count":1.0}`, `{"count":1e2}`, `{"small":-0}`,
	`{"when":"2026-11-21T12:00:00.5Z"}`, `{"when":3}`, `{"bytes":"aGk="}`, `{"bytes":""}`, `{"bytes":null}`, `{"bytes":"aGk"}`, `{"bytes":"a\nGk="}`, `{"bytes":"\u0061Gk="}`, `{"bytes":[1,255]}`,
	`{"bytes":[256]}`, `{"bytes":3}`, `{"lists":[[1,2],[],null,[-3]]}`, `{"map":{"a":{"text":"b"},"c":null}}`,
	`{"unknown":{"a":[1,2.5e-3,{"b":null}],"c":"\ud800"},"Named":"pid"}`, `{"unknown":01}`, `{"unknown":[1,]}`, `{"unknown":{"a"}}`, `{"text":"a"}x`,
	``, ` `, `{`, `{"text"`, `{"text":`, `{"text":"`, `{"text":"\`, `{"text":"\u12`, `{"text":"\x"}`, "{\"text\":\"a\nb\"}", `nul`, `null`, `[]`, `"a"`, `3`,
	`{"text":3}`, `{"flag":"true"}`, `{"flag":truth}`, `{"words":{}}`, `{"words":[3]}`, `{"map":[]}`, `{"Hidden":"a"}`, `{"hidden":3}`, `{"-":"a"}`,
	`{"process":{"user":{"uid":1},"args":["a"],"capabilities":{"bounding":["CAP_KILL"]}},"root":{"path":"x","readonly":true}}`,
	`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10,"leafWeight":20}]}},"sysctl":{"a":"b"}}}`,
	`{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"syscalls":[{"names":["a"],"action":"b","args":[{"index":1,"op":"c"}]}]}}}`,
	`{"windows":{"credentialSpec":{"a":1}}}`, `{"small":1,"text":"a","text":"b"}`, "\ufeff{}", `{"big":"1"}`, `{"annotations":{"a":1}}`,
}

func TestUnmarshalAgreesWithTheStandardLibrary(t *testing.T) {
	for _, text := range texts {
		compare(t, text)
	}
	for _, depth := range []int{100, 9999, 10000, 10001} {
		compare(t, `{"unknown":`+strings.Repeat("[", depth-1)+strings.Repeat("]", depth-1)+`}`)
	}
}

func TestUnmarshalOfASpecification(t *testing.T) {
	yes, n := true, int64(-5)
	in := &specs.Spec{Version: "1.3.0", Hostname: "h", Annotations: map[string]string{"a": "é\"<>&\u2028"},
		Process: &specs.Process{Args: []string{"sh", "-c", "a\tb"}, Terminal: true, ConsoleSize: &specs.Box{Height: 1, Width: 2}, OOMScoreAdj: new(int)},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Options: []string{"ro"}}, {}},
		Hooks:   &specs.Hooks{Poststart: []specs.Hook{{Path: "/x", Timeout: new(int)}}},
		Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n, DisableOOMKiller: &yes},
			Devices: []specs.LinuxDeviceCgroup{{Allow: true, Major: &n}}, Unified: map[string]string{"memory.high": "1"}}}}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, in) {
		t.Fatalf("got %+v\nwant %+v", &got, in)
	}
}

// What is read with this package has only kinds of fields that it reads as encoding/json does.
func TestTheSpecificationIsPlain(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(where string, ty reflect.Type)
	walk = func(where string, ty reflect.Type) {
		if seen[ty] {
			return
		}
		seen[ty] = true
		self := reflect.PointerTo(ty).Implements(reflect.TypeFor[json.Unmarshaler]())
		if self && ty.Kind() != reflect.Struct {
			t.Errorf("%s: %s is no struct and reads itself", where, ty)
		}
		switch ty.Kind() {
		case reflect.Pointer, reflect.Slice:
			walk(where, ty.Elem())
		case reflect.Map:
			walk(where, ty.Elem())
		case reflect.Struct:
			if self {
				return
			}
			for f := range ty.Fields() {
				tag := f.Tag.Get("json")
				if _, options, _ := strings.Cut(tag, ","); strings.Contains(options, "string") {
					t.Errorf("%s.%s: the option string is not known here", where, f.Name)
				}
				walk(where+"."+f.Name, f.Type)
			}
		case reflect.Float32, reflect.Float64, reflect.Array, reflect.Chan, reflect.Func:
			t.Errorf("%s has the kind %s", where, ty.Kind())
		}
	}
	walk("Spec", reflect.TypeFor[specs.Spec]())
	walk("State", reflect.TypeFor[specs.State]())
}

func TestErrorsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		`{"process":{"args":"a"}}`: `"args" cannot be a string`,
		`{"process":{"args":[}}`:   `at byte 20: unexpected '}'`,
		`{"hostname":"a`:           `it ends in the middle`,
		`{"hostname":7}`:           `"hostname" cannot be this number (string)`,
		`[]`:                       `an array where there must be specs.Spec`,
	} {
		err := Unmarshal([]byte(text), new(specs.Spec))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}
	if err := Unmarshal([]byte("{}"), specs.Spec{}); err == nil {
		t.Error("no pointer was taken")
	}
}

func TestAppendString(t *testing.T) {
	for _, text := range []string{"", "a", "a\"\\/\b\n\x00\x1f\x7f", "é😀\u2028", "\xff\xc3(", "</script>&"} {
		var got string
		if err := json.Unmarshal(AppendString(nil, text), &got); err != nil || got != string([]rune(text)) {
			t.Errorf("%q becomes %q, %v", text, got, err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, text := range texts {
		f.Add(text)
	}
	f.Fuzz(compare)
}

func BenchmarkUnmarshalOnce(b *testing.B) {
	text, err := json.Marshal(&specs.Spec{Process: &specs.Process{Args: []string{"a"}}, Linux: &specs.Linux{}})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := Unmarshal(text, new(specs.Spec)); err != nil {
			b.Fatal(err)
		}
	}
}
