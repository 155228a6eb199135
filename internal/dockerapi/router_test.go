package dockerapi

import (
	"strings"
	"testing"
)

func TestRoutes(t *testing.T) {
	rt := newRouter(routes())
	for _, c := range []struct{ method, path, pattern, name, second string }{
		{"GET", "/containers/json", "/containers/json", "", ""},
		{"GET", "/containers/web/json", "/containers/{name}/json", "web", ""},
		{"GET", "/containers//web/json", "/containers/{name}/json", "web", ""},
		{"GET", "/containers/web/attach/ws", "/containers/{name}/attach/ws", "web", ""},
		{"DELETE", "/containers/a/checkpoints/b", "/containers/{name}/checkpoints/{checkpoint}", "a", "b"},
		{"GET", "/images/json", "/images/json", "", ""},
		{"GET", "/images/reg.io:5000/a/b:c/json", "/images/{name...}/json", "reg.io:5000/a/b:c", ""},
		{"GET", "/images/json/json", "/images/{name...}/json", "json", ""},
		{"DELETE", "/images/a/b", "/images/{name...}", "a/b", ""},
		{"GET", "/images/get", "/images/get", "", ""},
		{"GET", "/images/a/get", "/images/{name...}/get", "a", ""},
		{"GET", "/networks/", "/networks", "", ""},
		{"POST", "/networks/create", "/networks/create", "", ""},
		{"HEAD", "/_ping", "/_ping", "", ""},
		{"HEAD", "/containers/a/archive", "/containers/{name}/archive", "a", ""},
	} {
		r, vars, ok := rt.match(c.method, c.path)
		if !ok || r.pattern != c.pattern || vars.name != c.name || vars.second != c.second {
			t.Errorf("%s %s: %q %+v %t", c.method, c.path, r.pattern, vars, ok)
		}
	}
	for _, path := range []string{"/", "/x", "/containers", "/containers/a/b/json", "/images//json/x"} {
		if r, _, ok := rt.match("GET", path); ok {
			t.Errorf("GET %s finds %q", path, r.pattern)
		}
	}
	if _, _, ok := rt.match("PATCH", "/info"); ok {
		t.Error("PATCH is answered")
	}
}

// The table must not hold two lines for one thing.
func TestRoutesAreUnambiguous(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range routes() {
		key := r.method + " " + r.pattern
		if seen[key] || r.handle == nil || !strings.HasPrefix(r.pattern, "/") || r.since > MaxVersion {
			t.Errorf("%s is there twice or incomplete", key)
		}
		seen[key] = true
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]version{"1.24": 24, "1.41": 41, "1.9": 9, "0.5": 0, "2.0": 1 << 20} {
		if v, ok := parseVersion(text); !ok || v != want {
			t.Errorf("%q: %d %t", text, v, ok)
		}
	}
	for _, text := range []string{"", "1", "a.b", "1.x", "-1.2", "1.2.3", "1.99999999"} {
		if v, ok := parseVersion(text); ok {
			t.Errorf("%q is version %d", text, v)
		}
	}
	if rest, v, ok := cutVersion("/v1.41/info"); rest != "/info" || v != 41 || !ok {
		t.Error(rest, v, ok)
	}
	for _, path := range []string{"/version", "/volumes", "/v1.41", "/vx/info"} {
		if _, _, ok := cutVersion(path); ok {
			t.Errorf("%q has a version", path)
		}
	}
}
