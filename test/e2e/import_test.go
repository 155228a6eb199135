package e2e

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/berth-engine/berth/test/harness"
)

// TestImportFromURL: the daemon fetches an archive by itself, and says what it cannot fetch.
func TestImportFromURL(t *testing.T) {
	harness.Need(t)
	d := harness.Start(t)
	srv := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(d.Dir, "web"))))
	defer srv.Close()
	d.Must("mkdir $DIR/web && $D create --name source berth/box && $D export -o $DIR/web/root.tar source && echo no >$DIR/web/no.tar")
	for _, c := range d.Clients() {
		from := srv.URL + "/root.tar"
		d.Shell(c, `$D import -c 'CMD ["echo", "hello"]' `+from+` web:`+c.Name).Exits(0).Shows("Downloading from "+from, "sha256:")
		d.Shell(c, `$D run --rm web:`+c.Name).Prints("hello\n")
		d.Shell(c, `$D history --format '{{.Comment}}' web:`+c.Name).Prints("Imported from " + from + "\n")
		d.Shell(c, `$D import `+srv.URL+`/none.tar`).Exits(1).Complains("404 Not Found")
		d.Shell(c, `$D import `+srv.URL+`/no.tar`).Exits(1)
		d.Shell(c, `$D import http://127.0.0.1:1/x`).Exits(1).Complains("cannot reach")
	}
	d.Shell(d.Berth(), "curl -s -o - -w '%{http_code}' --unix-socket $DIR/run/berth.sock -X POST 'http://d/images/create?fromSrc=file:///etc/passwd'").
		Shows("name a file, or an http or https address", "400")
}
