package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// uploads is a registry that takes blobs. before may answer in its place.
type uploads struct {
	mu      sync.Mutex
	before  func(w http.ResponseWriter, r *http.Request) bool
	partial []byte
	blobs   map[digest.Digest][]byte
	asks    []string
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asks = append(u.asks, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Range")))
	if u.before != nil && u.before(w, r) {
		return
	}
	place := func() {
		w.Header().Set("Location", "/v2/a/b/blobs/uploads/1?state=x")
		w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, len(u.partial)-1)))
	}
	switch {
	case r.Method == http.MethodHead:
		_, d, _ := strings.Cut(r.URL.Path, "/blobs/")
		if u.blobs[digest.Digest(d)] == nil {
			w.WriteHeader(http.StatusNotFound)
		}
	case r.Method == http.MethodPost:
		u.partial = nil
		place()
		w.WriteHeader(http.StatusAccepted)
	case r.URL.Query().Get("state") != "x":
		w.WriteHeader(http.StatusBadRequest)
	case r.Method == http.MethodGet:
		place()
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPatch:
		if c := r.Header.Get("Content-Range"); c != "" && !strings.HasPrefix(c, fmt.Sprint(len(u.partial), "-")) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		data, _ := io.ReadAll(r.Body)
		u.partial = append(u.partial, data...)
		place()
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut:
		data, _ := io.ReadAll(r.Body)
		u.partial = append(u.partial, data...)
		d := digest.Digest(r.URL.Query().Get("digest"))
		if digest.FromBytes(u.partial) != d {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		u.blobs[d] = u.partial
		w.WriteHeader(http.StatusCreated)
	}
}

func pushTo(t *testing.T, h http.Handler, auth *Auth, data []byte, from ...string) (Pushed, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	r, err := c.Repository(t.Context(), name(t, strings.TrimPrefix(srv.URL, "http://")+"/a/b"), auth)
	must(t, err)
	defer r.Close()
	return r.PushBlob(t.Context(), Blob{Content: bytes.NewReader(data), From: from, Desc: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(data), Size: int64(len(data))}})
}

// cut ends the connection of a request after n bytes of its body have been kept.
func cut(u *uploads, w http.ResponseWriter, r *http.Request, n int64) bool {
	data, _ := io.ReadAll(io.LimitReader(r.Body, n))
	u.partial = append(u.partial, data...)
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
	return true
}

func TestUploads(t *testing.T) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 6<<20/16)
	huge := bytes.Repeat([]byte("0123456789abcdef"), 33<<20/16)
	for _, c := range []struct {
		name   string
		data   []byte
		before func(u *uploads) func(w http.ResponseWriter, r *http.Request) bool
		asks   string
	}{
		{"small ones are sent at once", []byte("small"), nil, "HEAD POST PUT"},
		{"large ones are sent as a stream", big, nil, "HEAD POST PATCH PUT"},
		{"what broke off is continued", big, func(u *uploads) func(http.ResponseWriter, *http.Request) bool {
			n := 0
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch {
					return false
				}
				n++
				return n == 1 && cut(u, w, r, 2<<20)
			}
		}, "HEAD POST PATCH GET PATCH PUT"},
		{"what the registry has forgotten is begun again", big, func(u *uploads) func(http.ResponseWriter, *http.Request) bool {
			n := 0
			return func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case r.Method == http.MethodGet:
					w.WriteHeader(http.StatusNotFound)
					return true
				case r.Method == http.MethodPatch:
					n++
					return n == 1 && cut(u, w, r, 2<<20)
				}
				return false
			}
		}, "HEAD POST PATCH GET POST PATCH PUT"},
		{"pieces where a registry wants no more at once", huge, func(*uploads) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPatch || r.ContentLength <= smallPiece {
					return false
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return true
			}
		}, "HEAD POST PATCH GET POST PATCH PATCH PATCH PUT"},
		{"passing faults", []byte("x"), func(*uploads) func(http.ResponseWriter, *http.Request) bool {
			codes := map[string]int{"HEAD": 500, "POST": 429, "PUT": 503, "GET": 502}
			return func(w http.ResponseWriter, r *http.Request) bool {
				code := codes[r.Method]
				delete(codes, r.Method)
				if code != 0 {
					w.Header().Set("Retry-After", "0")
					w.WriteHeader(code)
				}
				return code != 0
			}
		}, "HEAD HEAD POST POST PUT GET POST PUT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &uploads{blobs: map[digest.Digest][]byte{}}
			if c.before != nil {
				u.before = c.before(u)
			}
			done, err := pushTo(t, u, nil, c.data)
			must(t, err)
			if methods(u.asks) != c.asks || done != (Pushed{}) {
				t.Errorf("%+v %q, want %s", done, u.asks, c.asks)
			}
			if !bytes.Equal(u.blobs[digest.FromBytes(c.data)], c.data) {
				t.Error("other bytes")
			}
		})
	}
}

func methods(asks []string) string {
	var out []string
	for _, a := range asks {
		m, _, _ := strings.Cut(a, " ")
		out = append(out, m)
	}
	return strings.Join(out, " ")
}

func TestMounts(t *testing.T) {
	for _, c := range []struct {
		status int
		want   Pushed
		asks   string
	}{
		{http.StatusCreated, Pushed{MountedFrom: "other/repo"}, "HEAD POST"},
		{0, Pushed{}, "HEAD POST PUT"},
		{http.StatusForbidden, Pushed{}, "HEAD POST POST PUT"},
	} {
		u := &uploads{blobs: map[digest.Digest][]byte{}}
		u.before = func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Query().Get("mount") == "" || c.status == 0 {
				return false
			}
			if r.URL.Query().Get("from") != "other/repo" {
				t.Errorf("%s", r.URL)
			}
			w.WriteHeader(c.status)
			return true
		}
		done, err := pushTo(t, u, nil, []byte("layer"), "other/repo")
		must(t, err)
		if done != c.want || methods(u.asks) != c.asks {
			t.Errorf("%d: %+v %q", c.status, done, u.asks)
		}
	}
}

func TestRefusedPush(t *testing.T) {
	u := &uploads{}
	u.before = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"not yours"}]}`)
		return true
	}
	_, err := pushTo(t, u, nil, []byte("x"))
	if !errdefs.IsPermissionDenied(err) || !strings.HasPrefix(err.Error(), "push access denied for ") || len(u.asks) != 1 {
		t.Errorf("%v %q", err, u.asks)
	}
	u = &uploads{before: func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}}
	if _, err = pushTo(t, u, nil, []byte("x")); !errdefs.IsResourceExhausted(err) || len(u.asks) != 1 {
		t.Errorf("%v %q", err, u.asks)
	}
}

// Credentials are the registry's: they go neither where it redirects to nor where it wants a blob, which differ here by the
// port alone, for which Go's client would send them along (CVE-2020-15157, CVE-2021-41092).
func TestCredentialsStayAtTheRegistry(t *testing.T) {
	for _, auth := range []*Auth{{Username: "ann", Password: "secret"}, {RegistryToken: "token"}} {
		var mu sync.Mutex
		var leaked []string
		stranger := &uploads{blobs: map[digest.Digest][]byte{}}
		stranger.before = func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if a := r.Header.Get("Authorization"); a != "" {
				leaked = append(leaked, r.Method+" "+a)
			}
			if r.Method == http.MethodPut {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusCreated)
			}
			return r.Method == http.MethodPut
		}
		elsewhere := httptest.NewServer(stranger)
		known := 0
		u := &uploads{before: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			known++
			if r.Method == http.MethodPost {
				w.Header().Set("Location", elsewhere.URL+"/v2/a/b/blobs/uploads/1?state=x")
				w.WriteHeader(http.StatusAccepted)
				return true
			}
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}}
		_, err := pushTo(t, u, auth, []byte("layer"))
		elsewhere.Close()
		must(t, err)
		if known == 0 || len(leaked) > 0 || len(stranger.asks) < 2 {
			t.Errorf("%d requests with credentials, leaked %q of %q", known, leaked, stranger.asks)
		}
	}
}
