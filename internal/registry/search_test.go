package registry

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestSearch: what a registry answers to a search, and what it may answer instead.
func TestSearch(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/search" {
			t.Errorf("asked for %s", r.URL)
		}
		switch user, _, _ := r.BasicAuth(); {
		case r.URL.Query().Get("q") == "private" && user != "ann":
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Query().Get("q") == "none":
			w.WriteHeader(http.StatusNotFound)
		case r.URL.Query().Get("q") == "page":
			_, _ = io.WriteString(w, "<html>")
		case r.URL.Query().Get("q") == "endless":
			for range 5000 {
				_, _ = io.WriteString(w, strings.Repeat(" ", 1000))
			}
		default:
			fmt.Fprintf(w, `{"num_results":3,"query":"q","results":[{"name":"web","description":"n=%s","star_count":7,"is_official":true},{"name":"b"},{"name":"c"}]}`,
				r.URL.Query().Get("n"))
		}
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	c, err := New(Options{HostDirs: []string{}})
	must(t, err)
	for _, auth := range []*Auth{nil, {Username: "ann", Password: "secret"}} {
		term := "we b&n=9"
		if auth != nil {
			term = "private"
		}
		found, err := c.Search(t.Context(), host, term, 2, auth)
		if err != nil || len(found) != 2 || found[0] != (Found{"web", "n=2", 7, true}) {
			t.Errorf("%+v, %v", found, err)
		}
	}
	for term, is := range map[string]func(error) bool{"none": errdefs.IsNotImplemented, "page": errdefs.IsUnavailable, "endless": errdefs.IsUnavailable,
		"private": errdefs.IsUnauthorized} {
		_, err := c.Search(t.Context(), host, term, 25, nil)
		if !is(err) {
			t.Errorf("%s: %v", term, err)
		}
	}
}

// The password for Docker Hub goes along with a search there, encrypted and to nobody else.
func TestSearchCredentials(t *testing.T) {
	b := &basic{"ann", "secret", hubIndex}
	for address, want := range map[string]bool{"https://" + hubIndex + "/v1/search": true, "http://" + hubIndex + "/v1/search": false,
		"https://mirror.example/v1/search": false} {
		req, err := http.NewRequest(http.MethodGet, address, nil)
		must(t, err)
		must(t, b.Authorize(t.Context(), req))
		if _, _, told := req.BasicAuth(); told != want {
			t.Errorf("%s: %t", address, told)
		}
	}
}
