package registry

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// verified serves over TLS what a client that verifies it asks as registry.test.
func verified(t *testing.T, h http.HandlerFunc) (*Repository, string) {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	at := filepath.Join(dir, "registry.test")
	must(t, os.MkdirAll(at, 0o755))
	must(t, os.WriteFile(filepath.Join(at, "ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o644))
	must(t, os.WriteFile(filepath.Join(at, "hosts.toml"), []byte("server = \""+srv.URL+"\"\nca = \"ca.crt\"\n"), 0o644))
	c, err := New(Options{HostDirs: []string{dir}})
	must(t, err)
	c.backOff = time.Millisecond
	r, err := c.Repository(t.Context(), name(t, "registry.test/a/b"), &Auth{Username: "ann", Password: "secret"})
	must(t, err)
	t.Cleanup(r.Close)
	return r, srv.URL
}

// From a registry with verified TLS nothing leads into clear text, where others could answer in its name (CVE-2019-10214).
func TestNothingLeadsIntoClearText(t *testing.T) {
	var plain atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		plain.Add(1)
		_, _ = io.WriteString(w, `{"token":"abc"}`)
	}))
	defer elsewhere.Close()
	for what, answer := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"tokens": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+elsewhere.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		var asked atomic.Int64
		r, _ := verified(t, func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			answer(w, r)
		})
		_, err := r.Resolve(t.Context(), name(t, "registry.test/a/b:1"))
		if err == nil || !strings.Contains(err.Error(), "in clear text") || !strings.HasPrefix(err.Error(), `registry "127.0.0.1:`) || asked.Load() > 2 {
			t.Errorf("%s: %v after %d requests", what, err, asked.Load())
		}
	}
	if plain.Load() != 0 {
		t.Errorf("%d requests in clear text", plain.Load())
	}
	// What stays in TLS is followed.
	var at string
	there := httptest.NewTLSServer(&server{})
	defer there.Close()
	r, self := verified(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/there") {
			(&server{}).ServeHTTP(w, r)
			return
		}
		http.Redirect(w, r, at+r.URL.Path+"/there", http.StatusTemporaryRedirect)
	})
	at = self
	if _, err := r.Resolve(t.Context(), name(t, "registry.test/a/b:1")); err != nil {
		t.Error(err)
	}
}

// A registry can send its client to addresses of every kind, and nothing but http and https is one.
func TestRedirectsToNoAddress(t *testing.T) {
	for _, to := range []string{"file:///etc/passwd", "gopher://127.0.0.1:1/", "unix:///run/berth.sock", "//", "http://", "http://[::1", "data:,x", ""} {
		s := &scripted{last: true, script: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}}}
		r := s.start(t)
		_, err := r.Resolve(t.Context(), name(t, "x:1"))
		if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "root:") {
			t.Errorf("%q: %v", to, err)
		}
	}
}

// An answer with a token is not read without end.
func TestEndlessTokens(t *testing.T) {
	for _, auth := range []*Auth{nil, {Username: "ann", Password: "secret"}} {
		var sent atomic.Int64
		var self string
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/token" {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+self+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			_, _ = io.WriteString(w, `{"token":"`)
			for sent.Load() < 256<<20 {
				n, err := io.WriteString(w, strings.Repeat("a", 64<<10))
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		}))
		self = srv.URL
		c, err := New(Options{HostDirs: []string{}})
		must(t, err)
		c.backOff = time.Millisecond
		r, err := c.Repository(t.Context(), name(t, strings.TrimPrefix(srv.URL, "http://")+"/x"), auth)
		must(t, err)
		_, err = r.Resolve(t.Context(), name(t, "x:1"))
		r.Close()
		srv.Close()
		if err == nil || strings.Contains(err.Error(), "aaaa") || sent.Load() > 128<<20 {
			t.Errorf("%v after %d bytes", err, sent.Load())
		}
	}
}

// What a registry says does not steer the terminal it is shown on, and does not fill it.
func TestWordsOfARegistryAreOneLine(t *testing.T) {
	for _, text := range []string{`\u001b[2J\u001b]0;title\u0007\r\nroot@host:~#`, `a\n\n\nb`, strings.Repeat("x", 50_000), `\u202egnp.exe`, `\u0000`} {
		s := &scripted{last: true, script: []http.HandlerFunc{refuse(http.StatusForbidden, "", `{"errors":[{"code":"DENIED","message":"`+text+`"}]}`)}}
		r := s.start(t)
		_, err := r.Resolve(t.Context(), name(t, "x:1"))
		if err == nil || strings.ContainsAny(err.Error(), "\n\r\x1b\x07\x00\u202e") || len(err.Error()) > 1000 || !strings.Contains(err.Error(), "denied") {
			t.Errorf("%.40q: %.300q", text, err)
		}
	}
	if got := OneLine("denied:  a\tb\x1b[31mc"); got != "denied: a b\uFFFD[31mc" {
		t.Errorf("%q", got)
	}
}

// A list of tags that goes round in a circle, or has things in it that are no tags, is given up.
func TestTagsWithoutEnd(t *testing.T) {
	pages := 0
	text := `{"tags":[]}`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		pages++
		w.Header().Set("Link", fmt.Sprintf(`</v2/x/tags/list?last=%d>; rel="next"`, pages%2))
		_, _ = io.WriteString(w, text)
	}))
	defer srv.Close()
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	r, err := c.Repository(t.Context(), name(t, strings.TrimPrefix(srv.URL, "http://")+"/x"), nil)
	must(t, err)
	defer r.Close()
	if _, err := r.Tags(t.Context()); err == nil || pages > 6000 {
		t.Errorf("%v after %d pages", err, pages)
	}
	text, pages = `{"tags":["`+strings.Repeat("a", 1<<20)+`"]}`, 0
	if _, err := r.Tags(t.Context()); err == nil || pages != 1 || len(err.Error()) > 500 {
		t.Errorf("%.100v after %d pages", err, pages)
	}
}

// Challenges that are none, or a thousand.
func TestChallenges(t *testing.T) {
	for _, challenge := range []string{`Bearer`, `Bearer realm="`, `Bearer realm=""`, `Bearer realm="::"`, `Bearer realm="file:///etc/passwd"`, `Bearer realm="/token"`,
		`Bearer scope="a",,,=,"`, `Basic`, `Digest realm="x"`, "\x01", strings.Repeat(`Bearer realm="x",`, 5000), `Bearer realm="` + strings.Repeat("x", 100_000) + `"`} {
		s := &scripted{last: true, script: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		}}}
		r := s.start(t)
		_, err := r.Resolve(t.Context(), name(t, "x:1"))
		if err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 1000 {
			t.Errorf("%.40q: %.300v", challenge, err)
		}
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsUnavailable(err) {
			t.Errorf("%.40q: kind of %.300v", challenge, err)
		}
	}
}

// A registry that takes the bytes and then never the blob is given up, whatever it says of how much it has.
func TestUploadsThatNeverEnd(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16)
	for what, has := range map[string]string{"nothing": "", "the beginning": "0-5", "nearly all": "0-6000000", "all": "0-6291455", "more": "0-99999999", "no range": "x"} {
		u := &uploads{blobs: map[digest.Digest][]byte{}}
		u.before = func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case r.Method == http.MethodPatch:
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", "/v2/a/b/blobs/uploads/1?state=x")
				w.WriteHeader(http.StatusAccepted)
			case r.Method == http.MethodPut:
				w.Header().Set("Retry-After", "0")
				w.WriteHeader(http.StatusServiceUnavailable)
			case r.Method == http.MethodGet && has == "":
				w.WriteHeader(http.StatusNotFound)
			case r.Method == http.MethodGet:
				w.Header().Set("Range", has)
				w.WriteHeader(http.StatusNoContent)
			default:
				return false
			}
			return true
		}
		if _, err := pushTo(t, u, nil, big); !errdefs.IsUnavailable(err) || len(u.asks) > 60 {
			t.Errorf("it has %s: %v after %d requests", what, err, len(u.asks))
		}
	}
}
