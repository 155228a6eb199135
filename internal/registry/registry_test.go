package registry

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func name(t *testing.T, s string) reference.Named {
	t.Helper()
	ref, err := reference.ParseNormalizedNamed(s)
	must(t, err)
	return reference.TagNameOnly(ref)
}

const manifest = `{"schemaVersion":2}`

// server answers every request for a manifest or blob and keeps what it was asked.
type server struct {
	mu   sync.Mutex
	asks []string
	auth []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asks = append(s.asks, r.Method+" "+r.URL.String())
	if a := r.Header.Get("Authorization"); a != "" {
		s.auth = append(s.auth, a)
	}
	s.mu.Unlock()
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromString(manifest).String())
	_, _ = io.WriteString(w, manifest)
}

func resolve(t *testing.T, o Options, ref string, auth *Auth) error {
	t.Helper()
	if o.HostDirs == nil {
		o.HostDirs = []string{}
	}
	c, err := New(o)
	must(t, err)
	r, err := c.Repository(t.Context(), name(t, ref), auth)
	if err != nil {
		return err
	}
	defer r.Close()
	desc, err := r.Resolve(t.Context(), name(t, ref))
	if err != nil {
		return err
	}
	rc, err := r.Fetch(t.Context(), desc)
	if err != nil {
		return err
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err == nil && string(data) != manifest {
		err = errors.New("other content")
	}
	return err
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Mirrors: []string{"mirror"}}, {Mirrors: []string{"ftp://x"}},
		{Mirrors: []string{"https://u:p@x"}},
		{Insecure: []string{""}}, {Insecure: []string{"a/b"}}} {
		if _, err := New(o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", o, err)
		}
	}
}

func TestMirrorsOfDockerHub(t *testing.T) {
	mirror := &server{}
	s := httptest.NewServer(mirror)
	defer s.Close()
	auth := &Auth{Username: "ann", Password: "secret"}
	must(t, resolve(t, Options{Mirrors: []string{s.URL + "/sub/"}}, "busybox", auth))
	if len(mirror.asks) != 2 || !strings.HasPrefix(mirror.asks[0], "HEAD /sub/v2/library/busybox/manifests/latest") {
		t.Errorf("%q", mirror.asks)
	}
	// CVE-2021-41092 and its kind: credentials of Docker Hub are nobody else's.
	if len(mirror.auth) != 0 {
		t.Errorf("the mirror got credentials: %q", mirror.auth)
	}
}

func TestHostsToml(t *testing.T) {
	there := &server{}
	s := httptest.NewServer(there)
	defer s.Close()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "registry.example"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"),
		[]byte("server = \"https://registry.example\"\n[host.\""+s.URL+"\"]\ncapabilities = [\"pull\", \"resolve\"]\n"), 0o644))
	must(t, resolve(t, Options{HostDirs: []string{filepath.Join(dir, "none"), dir}}, "registry.example/a/b:v1",
		&Auth{Username: "ann", Password: "x"}))
	if len(there.asks) != 2 || there.asks[0] != "HEAD /v2/a/b/manifests/v1?ns=registry.example" ||
		len(there.auth) != 0 {
		t.Errorf("%q %q", there.asks, there.auth)
	}
}

func TestCertificatesAndInsecureRegistries(t *testing.T) {
	s := httptest.NewUnstartedServer(&server{})
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	// A name that is not local by its form, and leads to the local server.
	host := "registry.test:" + s.URL[strings.LastIndex(s.URL, ":")+1:]
	ref := strings.Replace(host, "registry.test", "127.0.0.1", 1) + "/x:1"
	must(t, resolve(t, Options{}, ref, nil)) // loopback: not verified, as with Docker
	plain := httptest.NewServer(&server{})
	defer plain.Close()
	must(t, resolve(t, Options{}, strings.TrimPrefix(plain.URL, "http://")+"/x:1", nil))

	c, err := New(Options{Insecure: []string{"reg.test:5000", "10.0.0.0/8", "http://other.test/", "bare.test"}})
	must(t, err)
	for domain, want := range map[string]bool{"reg.test:5000": true, "reg.test": false, "reg.test:5001": false,
		"10.1.2.3:80": true, "11.1.2.3": false,
		"other.test": true, "bare.test:9": true, "localhost:5000": true, "127.0.0.1": true, "127.9.9.9:1": true,
		"[::1]:5000": true} {
		if got := c.insecure(t.Context(), domain); got != want {
			t.Errorf("%s: insecure is %v", domain, got)
		}
	}
	// With the authority's certificate in Docker's layout, the same server is verified.
	dir := t.TempDir()
	at := filepath.Join(dir, strings.TrimSuffix(ref, "/x:1"))
	must(t, os.MkdirAll(at, 0o755))
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	must(t, os.WriteFile(filepath.Join(at, "ca.crt"), ca, 0o644))
	must(t, resolve(t, Options{HostDirs: []string{dir}}, ref, nil))
}

func TestErrorsAreSentences(t *testing.T) {
	for ref, want := range map[string]string{
		"no-such-host.invalid/x:1": `cannot reach registry "no-such-host.invalid": `,
		"127.0.0.1:1/x:1":          `cannot reach registry "127.0.0.1:1": connection refused: is it running?`,
	} {
		err := resolve(t, Options{}, ref, nil)
		if !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", ref, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	r, err := c.Repository(ctx, name(t, "127.0.0.1:1/x"), nil)
	must(t, err)
	if _, err := r.Resolve(ctx, name(t, "127.0.0.1:1/x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestTagsOnManyPages(t *testing.T) {
	next := "/v2/x/tags/list?n=1000&last=b"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", "<"+next+`>; rel="next"`)
			_, _ = io.WriteString(w, `{"tags":["a","b"]}`)
			return
		}
		_, _ = io.WriteString(w, `{"tags":["c"]}`)
	}))
	defer s.Close()
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	r, err := c.Repository(t.Context(), name(t, strings.TrimPrefix(s.URL, "http://")+"/x"), nil)
	must(t, err)
	defer r.Close()
	tags, err := r.Tags(t.Context())
	if err != nil || strings.Join(tags, "") != "abc" {
		t.Errorf("%v, %v", tags, err)
	}
	next = "http://127.0.0.1:1/v2/x/tags/list?last=b"
	if _, err := r.Tags(t.Context()); err == nil {
		t.Error("a page at another address was followed")
	}
}
