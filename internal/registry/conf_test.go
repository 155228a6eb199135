package registry

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

func confClient(t *testing.T, text string) *Client {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.conf")
	must(t, os.WriteFile(file, []byte(text), 0o644))
	c, err := New(Options{HostDirs: []string{}, Confs: []string{filepath.Join(t.TempDir(), "none.conf"), file}})
	must(t, err)
	return c
}

func TestRegistriesConf(t *testing.T) {
	c := confClient(t, `
unqualified-search-registries = ["quay.io"] # is not looked at
[[registry]]
location = "example.com"
[[registry.mirror]]
location = "mirror.local:5000/com/"
insecure = true

[[registry]]
prefix = "example.com/team"
location = "internal.test/bar"
mirror-by-digest-only = true
[[registry.mirror]]
location = "one.test"

[[registry]]
prefix = "*.wild.test"
[[registry.mirror]]
location = "two.test/w"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "three.test"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "*.to.test"
location = "there.test:443"
insecure = true

[[registry]]
prefix = "docker.io/library/bad"
blocked = true

[[registry]]
prefix = "docker.io"
location = "hub.test/mirror"
`)
	for name, want := range map[string]string{
		"example.com/a/b:1":            "mirror.local:5000/com/a/b(mirror,insecure) example.com/a/b",
		"example.community/a":          "example.community/a",
		"example.com/team/x":           "one.test/x(mirror,no tags) internal.test/bar/x",
		"example.com/teams/x":          "mirror.local:5000/com/teams/x(mirror,insecure) example.com/teams/x",
		"a.wild.test/x:1":              "two.test/w/x(mirror) three.test/x(mirror,no tags) a.wild.test/x",
		"a.b.wild.test:81/x@" + someID: "three.test/x(mirror,no tags) a.b.wild.test:81/x",
		"wild.test/x":                  "wild.test/x",
		"a.to.test:5000/y/z":           "there.test:443/y/z(insecure)",
		"busybox":                      "hub.test/mirror/library/busybox",
		"docker.io/library/bad:1":      "blocked",
		"bad/x":                        "hub.test/mirror/bad/x",
	} {
		ref, err := reference.ParseNormalizedNamed(name)
		must(t, err)
		_, byDigest := ref.(reference.Digested)
		sites, err := c.sites(reference.TrimNamed(ref), byDigest)
		var got []string
		for _, s := range sites {
			var notes []string
			for note, yes := range map[string]bool{"mirror": s.mirror, "insecure": s.insecure, "no tags": !s.byTag} {
				if yes {
					notes = append(notes, note)
				}
			}
			text := s.name.Name()
			if len(notes) > 0 {
				text += "(" + strings.Join(sortedNotes(notes), ",") + ")"
			}
			got = append(got, text)
		}
		if errdefs.IsPermissionDenied(err) && strings.HasPrefix(err.Error(), "registry docker.io/library/bad is blocked in ") {
			got = []string{"blocked"}
		} else if err != nil {
			t.Error(err)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

const someID = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// sortedNotes puts them in the order of the table above.
func sortedNotes(notes []string) (out []string) {
	for _, n := range []string{"mirror", "insecure", "no tags"} {
		for _, have := range notes {
			if have == n {
				out = append(out, n)
			}
		}
	}
	return out
}

// A later file replaces what an earlier one says of a prefix.
func TestRegistriesConfDropIns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "registries.conf")
	must(t, os.MkdirAll(file+".d", 0o755))
	write := func(name, text string) { must(t, os.WriteFile(name, []byte(text), 0o644)) }
	write(file, "[[registry]]\nlocation = 'a.test'\nblocked = true\n[[registry]]\nlocation = 'b.test'\nblocked = true\n")
	write(file+".d/20.conf", "[[registry]]\nprefix = 'a.test'\nlocation = 'd.test'\n")
	write(file+".d/10.conf", "[[registry]]\nprefix = 'a.test'\nlocation = 'c.test'\n[aliases]\n'x' = 'y/z'\n")
	write(file+".d/30.txt", "[[registry]]\nprefix = 'a.test'\nlocation = 'e.test'\n")
	c, err := New(Options{HostDirs: []string{}, Confs: []string{file}})
	must(t, err)
	sites, err := c.sites(name(t, "a.test/x"), false)
	if err != nil || len(sites) != 1 || sites[0].name.Name() != "d.test/x" {
		t.Errorf("%v, %v", sites, err)
	}
	if _, err := c.sites(name(t, "b.test/x"), false); !errdefs.IsPermissionDenied(err) {
		t.Error(err)
	}
	must(t, os.Remove(file))
	if sites, err = c.sites(name(t, "b.test/x"), false); err != nil || len(sites) != 1 {
		t.Errorf("%v, %v", sites, err)
	}
}

func TestBadRegistriesConf(t *testing.T) {
	for text, want := range map[string]string{
		"[[registry":                                         "line 1: ",
		"[[registry]]\nlocation = 1":                         "line 2: ",
		"[[registry]]\nblocked = true":                       "neither prefix nor location",
		"[[registry]]\nlocation = 'https://x.test'":          "has a scheme",
		"[[registry]]\nprefix = 'x.*.test'":                  "a * may only stand for the beginning",
		"[[registry]]\nprefix = '*.x.test/y'":                "a * may only stand for the beginning",
		"[[registry]]\nlocation = 'x'\n[[registry.mirror]]":  "has no location",
		"[registries.search]\nregistries = ['x']":            "version 1",
		"[[registry]]\nprefix = 'x.test'\nlocation = 'x..'":  "which is no name",
		"[[registry]]\nprefix = 'x.test'\nlocation = 'x'":    "which is no name",
		"[[registry]]\nprefix = 'x.test'\nlocation = 'y.z@'": "which is no name",
		"[[registry]]\nlocation = 'x'\n[[registry.mirror]]\nlocation = 'y'\npull-from-mirror = 'never'": "all, digest-only or tag-only",
	} {
		_, err := confClient(t, text).sites(name(t, "x.test/y"), false)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzRegistriesConf(f *testing.F) {
	f.Add("[[registry]]\nprefix = '*.x.test'\nlocation = 'y.test/z'\n[[registry.mirror]]\nlocation = 'm.test'", "a.x.test/b")
	f.Add("[[registry]]\nlocation = 'x.test'\nblocked = true", "x.test/y")
	f.Fuzz(func(t *testing.T, text, image string) {
		list, err := parseConf([]byte(text), "file")
		ref, nerr := reference.ParseNormalizedNamed(image)
		if err != nil || nerr != nil {
			return
		}
		ref = reference.TrimNamed(ref)
		for _, r := range list {
			if r.matches(ref.Name()) > len(ref.Name()) {
				t.Fatalf("%q matches %q", r.Prefix, ref)
			}
			if r.matches(ref.Name()) > 0 {
				_, _ = r.rewrite(ref, r.Location)
			}
		}
	})
}

// A mirror is asked first, and when it fails in the middle of a blob, the next host goes on.
func TestMirrorsOfAnyRegistry(t *testing.T) {
	upstream := &server{}
	up := httptest.NewServer(upstream)
	defer up.Close()
	mirror := &server{}
	down := httptest.NewServer(mirror)
	defer down.Close()
	host := strings.TrimPrefix(up.URL, "http://")
	auth := &Auth{Username: "ann", Password: "secret"}
	must(t, resolve(t, Options{Mirrors: []string{host + "=" + down.URL + "/sub"}}, host+"/a/b:v1", auth))
	if len(upstream.asks) != 0 || len(mirror.asks) != 2 || mirror.asks[0] != "HEAD /sub/v2/a/b/manifests/v1?ns="+strings.Replace(host, ":", "%3A", 1) &&
		mirror.asks[0] != "HEAD /sub/v2/a/b/manifests/v1?ns="+host {
		t.Errorf("%q, %q", mirror.asks, upstream.asks)
	}
	if len(mirror.auth) != 0 {
		t.Errorf("the mirror got credentials: %q", mirror.auth)
	}
	// Other registries are not asked there.
	must(t, resolve(t, Options{Mirrors: []string{"other.test=" + down.URL}}, host+"/a/b:v1", auth))
	if len(upstream.asks) != 2 || len(mirror.asks) != 2 {
		t.Errorf("%q, %q", mirror.asks, upstream.asks)
	}
	// A mirror that has nothing, or is not there, is passed over.
	empty := httptest.NewServer(http.NotFoundHandler())
	defer empty.Close()
	must(t, resolve(t, Options{Mirrors: []string{host + "=" + empty.URL, host + "=http://127.0.0.1:1"}}, host+"/a/b:v1", auth))
	if len(upstream.asks) != 4 {
		t.Errorf("%q", upstream.asks)
	}
	for _, bad := range []string{"=https://x", "x.test=", "x.test=ftp://y", "x.test=https://u:p@y", "BAD_=https://y", "https://", "x.test=y"} {
		if _, err := New(Options{Mirrors: []string{bad}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAFailingMirrorIsLeftInTheMiddle(t *testing.T) {
	data := strings.Repeat("0123456789abcdef", 40_000)
	upstream, mirror := &scripted{data: []byte(data)}, &scripted{data: []byte(data)}
	gone := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
	mirror.script, mirror.last = []http.HandlerFunc{mirror.breakOff(200_000), gone}, true
	up, down := httptest.NewServer(upstream), httptest.NewServer(mirror)
	defer up.Close()
	defer down.Close()
	host := strings.TrimPrefix(up.URL, "http://")
	c, err := New(Options{HostDirs: []string{}, Mirrors: []string{host + "=" + down.URL}})
	must(t, err)
	r, err := c.Repository(t.Context(), name(t, host+"/x"), nil)
	must(t, err)
	defer r.Close()
	got, err := upstream.fetch(t, r, 0)
	if err != nil || string(got) != data {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if strings.Join(upstream.asks, " ") != "GET bytes=200000-" {
		t.Errorf("%q", upstream.asks)
	}
}
