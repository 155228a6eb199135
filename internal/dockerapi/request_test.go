package dockerapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func testCall(method, target, contentType, body string) *call {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	_, _ = parseQuery(r)
	return &call{w: httptest.NewRecorder(), r: r, version: MaxVersion}
}

func TestBodiesAreBoundedAndTyped(t *testing.T) {
	var out map[string]any
	for _, c := range []struct {
		contentType, body string
		status            int
	}{
		{"application/json", `{}`, 0},
		{"application/json; charset=utf-8", `{}`, 0},
		{"", `{}`, 400},
		{"text/plain", `{}`, 400},
		{"application/x-www-form-urlencoded", `{}`, 400},
		{"", ``, 400},
		{"application/json", ``, 400},
		{"application/json", `{}x`, 400},
		{"application/json", `{"a":"` + strings.Repeat("x", maxJSON) + `"}`, 413},
	} {
		err := testCall("POST", "/x", c.contentType, c.body).decode(&out)
		if c.status == 0 && err != nil || c.status != 0 && statusOf(err) != c.status {
			t.Errorf("%q with %.20q: %v, want status %d", c.contentType, c.body, err, c.status)
		}
	}
	// A body without a length must not slip through either (CVE-2026-34040).
	long := testCall("POST", "/x", "application/json", `{"a":"`+strings.Repeat("x", maxJSON)+`"}`)
	long.r.ContentLength = -1
	if err := long.decode(&out); statusOf(err) != http.StatusRequestEntityTooLarge {
		t.Errorf("a chunked body that is too long: %v", err)
	}
}

func TestNULInStrings(t *testing.T) {
	for body, want := range map[string]bool{
		`"a\u0000b"`: true, `"a\\u0000b"`: false, `"a\\\u0000"`: true, `"ab"`: false, `"\u00001\\u0000"`: true,
	} {
		if got := hasNUL([]byte(body)); got != want {
			t.Errorf("%s: %t", body, got)
		}
	}
}

func TestFlags(t *testing.T) {
	c := testCall("GET", "/x?a=1&b=0&c=false&d=True&e=&f=no&g=none&h=yes&i", "", "")
	for key, want := range map[string]bool{
		"a": true, "b": false, "c": false, "d": true, "e": false, "f": false, "g": false, "h": true, "i": false, "z": false,
	} {
		if c.flag(key) != want {
			t.Errorf("%s: %t", key, !want)
		}
	}
	if !c.flagOr("z", true) || c.flagOr("b", true) {
		t.Error("flagOr")
	}
}

func TestMoment(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                            {},
		"10m":                         now.Add(-10 * time.Minute),
		"1h30m":                       now.Add(-90 * time.Minute),
		"1136073600":                  time.Unix(1136073600, 0),
		"1136073600.000000001":        time.Unix(1136073600, 1),
		"1136073600.5":                time.Unix(1136073600, 500000000),
		"2006-01-02T15:04:05Z":        time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC),
		"2006-01-02T15:04:05.5+01:00": time.Date(2006, 1, 2, 14, 4, 5, 500000000, time.UTC),
		"2006-01-02":                  time.Date(2006, 1, 2, 0, 0, 0, 0, time.Local),
	} {
		got, err := moment(text, now)
		if err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"yesterday", "-", "12.x", "2006-13-01", "1e9"} {
		if got, err := moment(text, now); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func TestFilters(t *testing.T) {
	for _, param := range []string{`{"label":["a=b","c"]}`, `{"label":{"a=b":true,"c":true,"d":false}}`} {
		f, err := parseFilters(param, "label")
		if err != nil || len(f["label"]) != 2 {
			t.Errorf("%s: %v, %v", param, f, err)
		}
		if !f.pairs("label", map[string]string{"a": "b", "c": "x"}) || f.pairs("label", map[string]string{"a": "b"}) {
			t.Errorf("%s: matches wrongly", param)
		}
	}
	for param, want := range map[string]string{
		`{"x":["y"]}`: "invalid filter 'x'", `[]`: "invalid filter", `{"label":5}`: "invalid filter", `{`: "invalid filter",
	} {
		if _, err := parseFilters(param, "label"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", param, err)
		}
	}
	f, _ := parseFilters(`{"label!":["keep"],"name":["^we","db"]}`, "label!", "name")
	if f.pairs("label!", map[string]string{"keep": "1"}) || !f.pairs("label!", nil) {
		t.Error("label! matches wrongly")
	}
	for name, want := range map[string]bool{"web": true, "mydb1": true, "other": false} {
		if f.fuzzy("name", name) != want {
			t.Errorf("name %q", name)
		}
	}
	if _, err := (filters{"d": {"maybe"}}).boolean("d", false); err == nil {
		t.Error("maybe is a truth value")
	}
}

func FuzzFilters(f *testing.F) {
	f.Add(`{"label":["a=b"]}`, "web")
	f.Add(`{"name":{"(":true}}`, "(")
	f.Fuzz(func(_ *testing.T, param, name string) {
		if fs, err := parseFilters(param, "label", "name", "label!"); err == nil {
			fs.fuzzy("name", name)
			fs.pairs("label", map[string]string{name: name})
			fs.pairs("label!", map[string]string{name: name})
			_, _ = fs.boolean("name", false)
		}
	})
}
