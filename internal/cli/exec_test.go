package cli

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/berthapi"
)

// Berth's daemon runs an exec with one request, Docker's with three; what a person sees is the same.
func TestExecWithOneRequestOrThree(t *testing.T) {
	one := func(head, stream string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nServer: Berth/1\r\n"+head+"\r\n"+stream)
		}
	}
	refuse := func(server string, status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Server", server)
			reply(w, status, map[string]string{"message": text})
		}
	}
	const (
		framed = "Content-Type: application/vnd.docker.multiplexed-stream\r\nBerth-Exec: e1\r\n"
		raw    = "Content-Type: application/vnd.docker.raw-stream\r\nBerth-Exec: e1\r\n"
	)
	said := frame(1, "out\n") + frame(2, "err\n")
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		tty     bool
		want    outcome
		asked   int // requests after the first
	}{
		"Berth":                     {one(framed, said+frame(berthapi.ExitFrame, "\x00\x00\x00\x09")), false, outcome{9, "out\n", "err\n"}, 0},
		"Berth, a terminal":         {one(framed, frame(1, "out\r\n")+frame(berthapi.ExitFrame, "\x00\x00\x00\x00")), true, outcome{0, "out\r\n", ""}, 0},
		"an older monitor":          {one(framed, said), false, outcome{5, "out\n", "err\n"}, 1},
		"an older one's terminal":   {one(raw, "out\r\n"), true, outcome{5, "out\r\n", ""}, 1},
		"Berth refuses":             {refuse("Berth/1 (linux)", 409, "container web is not running"), false, outcome{1, "", "Error response from daemon: container web is not running\n"}, 0},
		"Berth of an older release": {refuse("Berth/1 (linux)", 404, "page not found"), false, outcome{5, "out\n", "err\n"}, 3},
		"Docker":                    {refuse("Docker/29 (linux)", 404, "page not found"), false, outcome{5, "out\n", "err\n"}, 3},
		"Podman":                    {refuse("Libpod/5", 404, "Not Found"), false, outcome{5, "out\n", "err\n"}, 3},
	} {
		s := newFakeServer(t)
		s.handle("POST "+berthapi.ExecPath("web"), c.handler)
		args := []string{"exec", "web", "true"}
		if c.tty {
			args = []string{"exec", "-t", "web", "true"}
		}
		if got := s.berth("", nil, args...); got != c.want {
			t.Errorf("%s: %+v", name, got)
		}
		n := 0
		for _, r := range s.requests {
			if !strings.HasPrefix(r.path, berthapi.Prefix) {
				n++
			}
		}
		if n != c.asked {
			t.Errorf("%s: %d more requests: %v", name, n, s.requests)
		}
	}
}
