package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	"github.com/containerd/errdefs"
)

// maxToken is how much of an answer with a token is read, in bytes.
const maxToken = 1 << 20

// purpose is what a request is for; it goes along in its context.
type purpose struct {
	host  string // of the registry
	tls   bool   // it is asked over TLS and nothing else
	token bool   // to be allowed to ask
}

type purposeKey struct{}

func (p *peer) purpose(ctx context.Context, token bool) context.Context {
	return context.WithValue(ctx, purposeKey{}, purpose{p.host.Host, p.host.Scheme == "https" && !p.insecure, token})
}

// guard is the transport of all requests. From a registry that is asked over TLS nothing leads into clear text: no redirect, and no
// address of tokens, where somebody on the way could read a password or put another manifest in a tag's place. And an
// answer with a token is not read without end.
type guard struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	of, _ := req.Context().Value(purposeKey{}).(purpose)
	if of.tls && req.URL.Scheme != "https" {
		text := fmt.Sprintf("registry %q is asked over TLS and leads to %q, in clear text: declare it as insecure if that is meant",
			of.host, req.URL.Scheme+"://"+req.URL.Host)
		return nil, &explained{text, errdefs.ErrUnavailable, errors.New(text)}
	}
	resp, err := g.RoundTripper.RoundTrip(req)
	if err == nil && of.token {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxToken), resp.Body}
	}
	return resp, err
}

// CloseIdleConnections closes those of the transport behind.
func (g *guard) CloseIdleConnections() {
	if c, ok := g.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// unwrapped is the sentence in an error, without what http.Client puts before it.
func unwrapped(err error) error {
	var done *explained
	if errors.As(err, &done) {
		return done
	}
	return err
}

// maxSaid is how much of what a registry says is passed on, in characters.
const maxSaid = 400

// OneLine is somebody else's text, a registry's or an archive's, as it may stand in a sentence: one line, without what steers
// terminals, and not endless.
func OneLine(text string) string {
	var b strings.Builder
	n := 0
	for word := range strings.FieldsSeq(text) {
		if n > 0 {
			b.WriteByte(' ')
			n++
		}
		for _, r := range word {
			if !unicode.IsPrint(r) {
				r = '\uFFFD'
			}
			if n++; n > maxSaid {
				b.WriteString("…")
				return b.String()
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}
