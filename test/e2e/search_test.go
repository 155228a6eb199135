package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestSearch: every client searches a registry that can be searched, and hears in a sentence of one that cannot.
func TestSearch(t *testing.T) {
	harness.Need(t)
	harness.Tool(t, "docker-registry")
	d := harness.Start(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"results":[{"name":"team/web","description":"serves\u001b[31m pages","star_count":12,"is_official":false},` +
			`{"name":"web","description":"the one","star_count":3,"is_official":true}]}`))
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	for _, c := range d.Clients() {
		d.Shell(c, `$D search `+host+`/web`).Exits(0).Shows("NAME", "DESCRIPTION", "STARS", "OFFICIAL", "team/web", "the one", "[OK]")
		d.Shell(c, `$D search --filter is-official=true --format '{{.Name}} {{.StarCount}}' `+host+`/web`).Prints("web 3\n")
		d.Shell(c, `$D search --filter stars=5 --format '{{.Name}}' `+host+`/web`).Prints("team/web\n")
		d.Shell(c, `$D search --limit 1 --format '{{.Name}}' `+host+`/web`).Prints("team/web\n")
		d.Shell(c, `$D search --limit 101 `+host+`/web`).Exits(1).Complains("outside the range of [1, 100]")
		d.Shell(c, `$D search --filter colour=red `+host+`/web`).Exits(1).Complains("colour")
	}

	// One that wants to know who asks, after a login.
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "ann" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write([]byte(`{"results":[{"name":"team/private","description":"ours and nobody else's, which takes more words than a table has room for",` +
			`"star_count":1,"is_official":false}]}`))
	}))
	defer door.Close()
	behind := strings.TrimPrefix(door.URL, "http://")
	for _, c := range d.Clients() {
		set := "export DOCKER_CONFIG=" + t.TempDir() + "; "
		if c.Name == "berth" { // the others ask for a name, for ever
			d.Shell(c, set+`$D search `+behind+`/team`).Exits(1).Complains("unauthorized")
		}
		d.Shell(c, set+`echo secret | $D login -u ann --password-stdin `+behind).Exits(0)
		d.Shell(c, set+`$D search --no-trunc --format '{{.Name}}: {{.Description}}' `+behind+`/team`).
			Prints("team/private: ours and nobody else's, which takes more words than a table has room for\n")
		d.Shell(c, set+`$D search --format '{{.Description}}' `+behind+`/team`).Prints("ours and nobody else's, which takes more wor…\n")
	}
	d.Shell(d.Berth(), `$D search `+host+`/web`).Shows(`serves\x1b[31m pages`)
	d.Shell(d.Berth(), `$D search `+registry(t, d.Dir)+`/web`).Exits(1).Complains("has no search")
}
