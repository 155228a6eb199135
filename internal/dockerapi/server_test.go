package dockerapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// bare is a server without an engine: enough for what is answered before one is asked.
func bare(t *testing.T) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(New(Options{Version: "1.2.3"}))
	t.Cleanup(srv.Close)
	return srv
}

func request(t *testing.T, method, url, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(data)
}

func message(t *testing.T, body string) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatalf("%q is no error body: %v", body, err)
	}
	return m.Message
}

func TestPing(t *testing.T) {
	srv := bare(t)
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/_ping", "/v1.24/_ping", "/v1.55/_ping"} {
			resp, body := request(t, method, srv.URL+path, "")
			h := resp.Header
			if resp.StatusCode != 200 || h.Get("Api-Version") != "1.55" || h.Get("Ostype") != "linux" ||
				h.Get("Docker-Experimental") != "false" || !strings.HasPrefix(h.Get("Server"), "Berth/1.2.3") ||
				h.Get("Swarm") != "inactive" || method == "GET" && body != "OK" {
				t.Errorf("%s %s: %s %v %q", method, path, resp.Status, h, body)
			}
		}
	}
}

func TestVersionNegotiation(t *testing.T) {
	srv := bare(t)
	tooOld := " is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
	for path, want := range map[string]string{
		"/v1.23/_ping": "client version 1.23" + tooOld,
		"/v0.9/_ping":  "client version 1.0" + tooOld,
		"/v1.56/_ping": "client version 1.56 is too new. Maximum supported API version is 1.55",
	} {
		resp, body := request(t, "GET", srv.URL+path, "")
		if resp.StatusCode != 400 || message(t, body) != want {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

func TestUnknownPaths(t *testing.T) {
	srv := bare(t)
	for _, path := range []string{
		"/", "/nothing", "/v1.41/nothing", "/containers", "/v1.x/_ping", "/v1.54/images/a/attestations",
	} {
		resp, body := request(t, "GET", srv.URL+path, "")
		if resp.StatusCode != 404 || message(t, body) != "page not found" {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
	if resp, _ := request(t, "PATCH", srv.URL+"/_ping", ""); resp.StatusCode != 404 {
		t.Errorf("PATCH: %s", resp.Status)
	}
	if resp, _ := request(t, "OPTIONS", srv.URL+"/anything", ""); resp.StatusCode != 200 {
		t.Errorf("OPTIONS: %s", resp.Status)
	}
}

func TestAbsentFeatures(t *testing.T) {
	srv := bare(t)
	for _, c := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "/swarm", 503, "This node is not a swarm manager."},
		{"GET", "/services", 503, "This node is not a swarm manager."},
		{"POST", "/secrets/create", 503, "This node is not a swarm manager."},
		{"POST", "/build", 501, "building images is not supported yet"},
		{"GET", "/plugins/x/json", 404, `plugin "x" not found`},
		{"POST", "/containers/x/checkpoints", 501, "checkpoints are not supported"},
	} {
		resp, body := request(t, c.method, srv.URL+"/v1.41"+c.path, "")
		if resp.StatusCode != c.status || !strings.HasPrefix(message(t, body), c.says) {
			t.Errorf("%s %s: %s %s", c.method, c.path, resp.Status, body)
		}
	}
	if _, body := request(t, "GET", srv.URL+"/plugins", ""); strings.TrimSpace(body) == "" {
		t.Error("the list of plugins is empty text")
	}
}

// A handler that fails takes its own request down and nothing else. Without an engine, most of them do.
func TestPanicsAreContained(t *testing.T) {
	srv := bare(t)
	resp, body := request(t, "GET", srv.URL+"/containers/json", "")
	if resp.StatusCode != 500 || !strings.HasPrefix(message(t, body), "the daemon failed on this request") {
		t.Errorf("%s %s", resp.Status, body)
	}
	if resp, _ := request(t, "GET", srv.URL+"/_ping", ""); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
}

func TestStatusOf(t *testing.T) {
	for kind, want := range map[error]int{
		errdefs.ErrNotFound: 404, errdefs.ErrInvalidArgument: 400, errdefs.ErrConflict: 409, errdefs.ErrAlreadyExists: 409,
		errdefs.ErrPermissionDenied: 403, errdefs.ErrUnauthenticated: 401, errdefs.ErrUnavailable: 503,
		errdefs.ErrNotModified: 304, errdefs.ErrNotImplemented: 501, errdefs.ErrInternal: 500, errTooLarge: 413,
	} {
		if got := statusOf(fmt.Errorf("try: %w", kind)); got != want {
			t.Errorf("%v: %d, want %d", kind, got, want)
		}
	}
	if err := invalid("x: %w", io.EOF); err.Error() != "x: EOF" || !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v: a kind must not add to the text", err)
	}
}

// Content-Length tricks (CVE-2024-41110): a body that is there counts, whatever the header says of it.
func TestBodiesWithoutALength(t *testing.T) {
	srv := bare(t)
	body := io.MultiReader(strings.NewReader(`{"Privileged":true}`))
	req, _ := http.NewRequest("POST", srv.URL+"/containers/x/start", body)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req) // sent in chunks, without a length
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("start with a chunked body: %s", resp.Status)
	}
	if resp, body := request(t, "POST", srv.URL+"/containers/create", ""); resp.StatusCode != 400 ||
		!strings.Contains(body, "got EOF while reading request body") {
		t.Errorf("create without a body: %s %s", resp.Status, body)
	}
}
