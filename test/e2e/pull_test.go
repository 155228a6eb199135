package e2e

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// meter stands before a registry and counts the bytes of blobs that it passes on. It holds the next blob that is larger
// than limit after so many bytes, until whoever asked for it is gone.
type meter struct {
	proxy *httputil.ReverseProxy

	mu    sync.Mutex
	limit int64 // 0: nothing is held
	sent  map[string]int64
}

func startMeter(t *testing.T, registry string) (*meter, string) {
	t.Helper()
	m := &meter{sent: map[string]int64{}, proxy: &httputil.ReverseProxy{FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: registry})
		r.Out.Host = r.In.Host // the registry puts it into addresses it gives
	}}}
	m.proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.Contains(r.Request.URL.Path, "/blobs/sha256:") {
			m.mu.Lock()
			defer m.mu.Unlock()
			b := &metered{ReadCloser: r.Body, m: m, key: filepath.Base(r.Request.URL.Path), gone: r.Request.Context().Done()}
			if m.limit > 0 && r.ContentLength > m.limit {
				b.left, m.limit = m.limit, 0
				b.hold = true
			}
			r.Body = b
		}
		return nil
	}
	srv := httptest.NewServer(m.proxy)
	t.Cleanup(srv.Close)
	return m, strings.TrimPrefix(srv.URL, "http://")
}

type metered struct {
	io.ReadCloser
	m    *meter
	key  string
	hold bool
	left int64
	gone <-chan struct{}
}

func (b *metered) Read(p []byte) (int, error) {
	if b.hold {
		if b.left == 0 {
			<-b.gone
			return 0, io.ErrUnexpectedEOF
		}
		p = p[:min(int64(len(p)), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	b.m.mu.Lock()
	b.m.sent[b.key] += int64(n)
	b.m.mu.Unlock()
	return n, err
}

// take returns what was sent since it was called last, by blob.
func (m *meter) take() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	sent := m.sent
	m.sent = map[string]int64{}
	return sent
}

func (m *meter) holdAfter(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = n
}

// TestPullIsContinued: what a pull had when the daemon was killed, or the client gave up, is not fetched again.
func TestPullIsContinued(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "docker-registry")
	d := harness.Start(t)
	b := d.Berth()
	m, host := startMeter(t, registry(t, d.Dir))
	const big, half = 8 << 20, 4 << 20
	d.Shell(b, `$D run --name small berth/box sh -c 'head -c 1000000 /dev/urandom >/small' && $D commit small `+host+`/base:1`).Exits(0)
	d.Shell(b, `$D run --name big `+host+`/base:1 sh -c 'head -c 8388608 /dev/urandom >/big; sha256sum /big' >`+d.Dir+`/sum`).Exits(0)
	d.Shell(b, `$D commit big `+host+`/app:1 && $D push -q `+host+`/app:1 && $D rm small big && $D rmi `+host+`/app:1 `+host+`/base:1`).Exits(0)

	// part is how much of the big layer is there; begin pulls until that is the half.
	part := func() int64 {
		parts, _ := filepath.Glob(filepath.Join(d.DataRoot, "content/ingest/*/data"))
		for _, p := range parts {
			if st, err := os.Stat(p); err == nil && st.Size() >= half {
				return st.Size()
			}
		}
		return 0
	}
	begin := func(t *testing.T) *exec.Cmd {
		m.take()
		m.holdAfter(half)
		progress := filepath.Join(d.Dir, "progress")
		out, err := os.Create(progress)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		pull := exec.Command(b.Path, "pull", host+"/app:1")
		pull.Env, pull.Stdout = d.Env(), out
		if err := pull.Start(); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, time.Minute, "half of the layer has arrived and the small one is unpacked", func() bool {
			text, _ := os.ReadFile(progress)
			return part() == half && strings.Count(string(text), "Pull complete") == 1
		})
		m.take()
		return pull
	}
	finish := func() {
		t.Helper()
		d.Shell(b, `$D pull `+host+`/app:1`).Exits(0).Shows("Resuming at").Shows("Downloaded newer image")
		layers := 0
		for key, n := range m.take() {
			if n > 500_000 {
				layers++
				if n < big-half || n > big-half+1_000_000 {
					t.Errorf("%d bytes of the layer %s were sent again, %d were missing", n, key, big-half)
				}
			}
		}
		if layers != 1 {
			t.Errorf("%d layers were fetched", layers)
		}
		d.Shell(b, `$D run --rm `+host+`/app:1 sha256sum /big | cmp - `+d.Dir+`/sum`).Exits(0)
		d.Shell(b, `$D rmi `+host+`/app:1`).Exits(0)
	}

	t.Run("the daemon is killed", func(t *testing.T) {
		pull := begin(t)
		d.Kill()
		if pull.Wait() == nil {
			t.Error("the pull succeeded")
		}
		if err := d.Launch(); err != nil {
			t.Fatal(err)
		}
		if n := part(); n != half {
			t.Errorf("%d bytes of the layer are there after the daemon was started again", n)
		}
		finish()
	})
	t.Run("the daemon is stopped", func(t *testing.T) {
		pull := begin(t)
		d.Stop()
		if pull.Wait() == nil {
			t.Error("the pull succeeded")
		}
		if err := d.Launch(); err != nil {
			t.Fatal(err)
		}
		finish()
	})
	t.Run("the client is gone", func(t *testing.T) {
		pull := begin(t)
		_ = pull.Process.Kill()
		_ = pull.Wait()
		finish()
	})
	t.Run("two share one download", func(t *testing.T) {
		m.take()
		other := make(chan harness.Result, 1)
		go func() { other <- d.Shell(b, `$D pull -q `+host+`/app:1`) }()
		d.Shell(b, `$D pull -q `+host+`/app:1`).Exits(0)
		(<-other).Exits(0)
		for key, n := range m.take() {
			if n > big+1_000_000 {
				t.Errorf("%d bytes of %s were sent", n, key)
			}
		}
		d.Shell(b, `$D rmi `+host+`/app:1`).Exits(0)
	})
	t.Run("prune gives it up", func(t *testing.T) {
		pull := begin(t)
		d.Stop()
		_ = pull.Wait()
		if err := d.Launch(); err != nil {
			t.Fatal(err)
		}
		d.Shell(b, `$D image prune -f`).Exits(0).Shows("Total reclaimed space: 6") // half of the big layer, the small one packed and unpacked
		if n := part(); n != 0 {
			t.Errorf("%d bytes of the layer are there after a prune", n)
		}
	})
}
