package image

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestDownload(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/there":
			_, _ = io.WriteString(w, "content")
		case "/moved":
			http.Redirect(w, r, "/there", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	im := open(t)
	for _, address := range []string{srv.URL + "/there", srv.URL + "/moved", strings.TrimPrefix(srv.URL, "http://") + "/there"} {
		body, err := im.Download(t.Context(), address)
		must(t, err)
		text, err := io.ReadAll(body)
		if err != nil || string(text) != "content" {
			t.Errorf("%s: %q, %v", address, text, err)
		}
		must(t, body.Close())
	}
	for address, is := range map[string]func(error) bool{"": errdefs.IsInvalidArgument, "file:///etc/passwd": errdefs.IsInvalidArgument,
		"ftp://x/y": errdefs.IsInvalidArgument, "http://": errdefs.IsInvalidArgument, srv.URL + "/none": errdefs.IsUnavailable,
		srv.URL + "/file": errdefs.IsUnavailable, "http://ann:secret@127.0.0.1:1/": errdefs.IsUnavailable} {
		_, err := im.Download(t.Context(), address)
		if !is(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", address, err)
		}
	}
}
