package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// scripted answers the first requests by the handlers it has, and all others as it should.
type scripted struct {
	data []byte

	mu     sync.Mutex
	script []http.HandlerFunc
	last   bool // the last of the script answers all that follow
	asks   []string
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asks = append(s.asks, strings.TrimSpace(r.Method+" "+r.Header.Get("Range")))
	var h http.HandlerFunc
	if len(s.script) > 0 {
		h = s.script[0]
		if !s.last || len(s.script) > 1 {
			s.script = s.script[1:]
		}
	}
	s.mu.Unlock()
	if h != nil {
		h(w, r)
		return
	}
	s.right(w, r)
}

func (s *scripted) right(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(s.data).String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.data))
}

// breakOff sends n bytes of what is asked for and closes the connection.
func (s *scripted) breakOff(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.right(&short{w, n}, r)
	}
}

type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	if len(p) > s.left {
		_, _ = s.ResponseWriter.Write(p[:s.left])
		s.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	s.left -= len(p)
	return s.ResponseWriter.Write(p)
}

func refuse(code int, retryAfter, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func asIs(data []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		if w.Header().Get("Content-Range") != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(data)
	}
}

// start serves s and returns a repository at it that is not patient.
func (s *scripted) start(t *testing.T) *Repository {
	t.Helper()
	if s.data == nil {
		s.data = bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	}
	srv := httptest.NewUnstartedServer(s)
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	c.backOff = time.Millisecond
	r, err := c.Repository(t.Context(), name(t, strings.TrimPrefix(srv.URL, "http://")+"/x"), nil)
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

func (s *scripted) fetch(t *testing.T, r *Repository, from int64) ([]byte, error) {
	t.Helper()
	rc, err := r.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(s.data), Size: int64(len(s.data))})
	must(t, err)
	defer rc.Close()
	if _, err := rc.(io.Seeker).Seek(from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return io.ReadAll(rc)
}

func TestFetchGoesOn(t *testing.T) {
	all := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	part := all[100_000:]
	s := &scripted{data: all}
	for name, c := range map[string]struct {
		script []http.HandlerFunc
		from   int64
		asks   string
	}{
		"at once":                     {nil, 0, "GET"},
		"from the middle":             {nil, 100_000, "GET bytes=100000-"},
		"from the end":                {nil, 640_000, ""},
		"busy":                        {[]http.HandlerFunc{refuse(503, "0", ""), refuse(429, "0", ""), refuse(500, "", "")}, 0, "GET GET GET GET"},
		"it breaks off":               {[]http.HandlerFunc{s.breakOff(200_000)}, 0, "GET GET bytes=200000-"},
		"it breaks off again":         {[]http.HandlerFunc{s.breakOff(100_000), s.breakOff(50_000), refuse(502, "", "")}, 0, "GET GET bytes=100000- GET bytes=150000- GET bytes=150000-"},
		"it breaks off at the start":  {[]http.HandlerFunc{s.breakOff(0)}, 0, "GET GET"},
		"ranges are ignored":          {[]http.HandlerFunc{asIs(all)}, 100_000, "GET bytes=100000-"},
		"another range":               {[]http.HandlerFunc{asIs(part, "Content-Range", "bytes 99999-639999/640000")}, 100_000, "GET bytes=100000- GET"},
		"another size":                {[]http.HandlerFunc{asIs(part, "Content-Range", "bytes 100000-639999/640001")}, 100_000, "GET bytes=100000- GET"},
		"a range without its end":     {[]http.HandlerFunc{asIs(part[:100], "Content-Range", "bytes 100000-100099/640000")}, 100_000, "GET bytes=100000- GET"},
		"no range in a part":          {[]http.HandlerFunc{asIs(part, "Content-Range", "x")}, 100_000, "GET bytes=100000- GET"},
		"a part that nobody wanted":   {[]http.HandlerFunc{asIs(part, "Content-Range", "bytes 100000-639999/640000")}, 0, "GET GET"},
		"range not satisfiable":       {[]http.HandlerFunc{refuse(416, "", "")}, 100_000, "GET bytes=100000- GET"},
		"another encoding":            {[]http.HandlerFunc{asIs(all, "Content-Encoding", "gzip")}, 0, "GET GET"},
		"the size of a part unknown":  {[]http.HandlerFunc{asIs(part, "Content-Range", "bytes 100000-639999/*")}, 100_000, "GET bytes=100000-"},
		"what is ignored breaks, too": {[]http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) { r.Header.Del("Range"); s.breakOff(50_000)(w, r) }}, 100_000, "GET bytes=100000- GET bytes=100000-"},
	} {
		t.Run(name, func(t *testing.T) {
			one := &scripted{data: all, script: c.script}
			got, err := one.fetch(t, one.start(t), c.from)
			if err != nil || !bytes.Equal(got, all[c.from:]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if asks := strings.Join(one.asks, " "); asks != c.asks {
				t.Errorf("it was asked for %q", asks)
			}
		})
	}
}

func TestFetchGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		is      func(error) bool
		text    string
		asks    int // at most
	}{
		"always busy": {refuse(503, "0", ""), errdefs.IsUnavailable, "answered 503 Service Unavailable", tries},
		"a rate limit for hours": {refuse(429, "21600", `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`),
			errdefs.IsResourceExhausted, "limits the rate of requests: toomanyrequests: You have reached your pull rate limit.", 1},
		"a rate limit": {refuse(429, "0", ""), errdefs.IsResourceExhausted, "limits the rate of requests", tries},
		"not there":    {refuse(404, "", ""), errdefs.IsNotFound, "not found", 1},
		"forbidden":    {refuse(403, "", ""), errdefs.IsNotFound, "pull access denied", 1},
		"longer":       {asIs(make([]byte, 640_001)), errdefs.IsInvalidArgument, "more bytes", 1},
		"shorter":      {asIs(make([]byte, 639_999), "Content-Length", "639999"), errdefs.IsInvalidArgument, "639999 bytes where 640000 are announced", 1},
		"longer, without saying so": {func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write(make([]byte, 640_001))
		}, errdefs.IsInvalidArgument, "more bytes", 1},
		"a byte at a time": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "640000")
			_, _ = w.Write([]byte("0"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, errdefs.IsUnavailable, "closed the connection", 2 * tries},
	} {
		t.Run(name, func(t *testing.T) {
			s := &scripted{script: []http.HandlerFunc{c.handler}, last: true}
			r := s.start(t)
			var mu sync.Mutex
			var pauses []Pause
			r.OnPause = func(p Pause) {
				mu.Lock()
				defer mu.Unlock()
				pauses = append(pauses, p)
			}
			_, err := s.fetch(t, r, 0)
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			if len(s.asks) > c.asks {
				t.Errorf("%d requests: %q", len(s.asks), s.asks)
			}
			if c.asks > 1 && (len(pauses) != tries-1 || pauses[0].Of != digest.FromBytes(s.data).String() || pauses[0].Why == "") {
				t.Errorf("it told of %v", pauses)
			}
		})
	}
}

func TestSilentBodies(t *testing.T) {
	quiet := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "640000")
		_, _ = w.Write(bytes.Repeat([]byte("0123456789abcdef"), 10_000))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	dead := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	s := &scripted{script: []http.HandlerFunc{quiet, dead}}
	r := s.start(t)
	r.c.silence = time.Second // in which a busy machine answers
	got, err := s.fetch(t, r, 0)
	if err != nil || !bytes.Equal(got, s.data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	s = &scripted{script: []http.HandlerFunc{dead}, last: true}
	r = s.start(t)
	r.c.silence = 20 * time.Millisecond
	if _, err = s.fetch(t, r, 0); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "it sends nothing") {
		t.Error(err)
	}
	// Somebody who does not want to wait is told at once.
	r.c.silence = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	rc, err := r.Fetch(ctx, ocispec.Descriptor{Digest: digest.FromBytes(s.data), Size: 640_000})
	must(t, err)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := io.ReadAll(rc); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, rc.Close())
}

func TestResolve(t *testing.T) {
	s := &scripted{data: []byte(manifest)}
	noHead := func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) }
	bare := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest+"; charset=utf-8")
		w.(http.Flusher).Flush() // no length
		_, _ = io.WriteString(w, manifest)
	}
	for name, script := range map[string][]http.HandlerFunc{
		"at once": nil, "busy": {refuse(503, "0", ""), refuse(503, "0", "")}, "no HEAD": {noHead, nil}, "no digest": {bare, bare},
		"broken off": {s.breakOff(0)},
	} {
		one := &scripted{data: s.data, script: script}
		r := one.start(t)
		desc, err := r.Resolve(t.Context(), r.name)
		if err != nil || desc.Digest != digest.FromString(manifest) || desc.Size != int64(len(manifest)) ||
			desc.MediaType != ocispec.MediaTypeImageManifest {
			t.Errorf("%s: %+v, %v", name, desc, err)
		}
	}
	limit := `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`
	s = &scripted{script: []http.HandlerFunc{refuse(429, "21600", limit)}, last: true}
	r := s.start(t)
	if _, err := r.Resolve(t.Context(), r.name); !errdefs.IsResourceExhausted(err) ||
		!strings.Contains(err.Error(), "You have reached your pull rate limit.") || len(s.asks) != 2 {
		t.Errorf("%v, %q", err, s.asks)
	}
}

// A token that has expired is renewed, also in the middle of a blob and where the registry does not say why it refuses it;
// a token server may be busy for a while.
func TestTokensAreRenewed(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	var (
		mu     sync.Mutex
		tokens int
		uses   = map[string]int{}
	)
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.URL.Path == "/token" {
			if tokens++; tokens == 1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = fmt.Fprintf(w, `{"token":"t%d","expires_in":300}`, tokens)
			return
		}
		token := r.Header.Get("Authorization")
		if uses[token]++; token == "" || token != fmt.Sprintf("Bearer t%d", tokens) || uses[token] > 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+srv.URL+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		(&scripted{data: data}).right(&short{w, 300_000}, r)
	}))
	defer srv.Close()
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	c.backOff = time.Millisecond
	r, err := c.Repository(t.Context(), name(t, strings.TrimPrefix(srv.URL, "http://")+"/x"), nil)
	must(t, err)
	defer r.Close()
	s := &scripted{data: data}
	got, err := s.fetch(t, r, 0)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if tokens < 4 {
		t.Errorf("%d tokens were fetched", tokens)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{"0": 0, "120": 2 * time.Minute, "Sat, 21 Nov 2026 12:00:30 GMT": 30 * time.Second,
		"Sat, 21 Nov 2026 11:00:30 GMT": 0, "": -1, "-1": -1, "soon": -1, "99999999999999999999": -1} {
		got, ok := parseRetryAfter(text, now)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-1/2", "bytes 5-9/*", "bytes */7", "bytes 9-5/10", "bytes -1-5/6", "bytes 0-9223372036854775807/1", "", "bytes 1-2/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		from, size, ok := parseContentRange(s)
		if ok && (from < 0 || size < -1 || size >= 0 && from >= size) {
			t.Errorf("%q: %d of %d", s, from, size)
		}
	})
}
