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
	d.Shell(d.Berth(), `$D search `+host+`/web`).Shows(`serves\x1b[31m pages`)
	d.Shell(d.Berth(), `$D search `+registry(t, d.Dir)+`/web`).Exits(1).Complains("has no search")
}
