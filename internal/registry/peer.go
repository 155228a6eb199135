package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/distribution/reference"
)

const (
	tries    = 6
	backOff  = 250 * time.Millisecond // doubled by every further try
	maxPause = 30 * time.Second       // of what Retry-After may ask for
)

// peer talks to one host of a registry.
type peer struct {
	r        *Repository
	host     docker.RegistryHost
	name     reference.Named // of the repository there
	insecure bool
}

func (p *peer) address(parts ...string) string {
	return p.host.Scheme + "://" + p.host.Host + p.host.Path + "/" + reference.Path(p.name) + "/" +
		strings.Join(parts, "/")
}

// source is the address of what is read. A mirror is told whose mirror it is to be, for it may be one of several.
func (p *peer) source(parts ...string) string {
	a := p.address(parts...)
	if domain := reference.Domain(p.name); p.host.Host != domain &&
		(domain != dockerHub || p.host.Host != "registry-1.docker.io") {
		a += "?ns=" + domain
	}
	return a
}

// scoped asks for a token to read with.
func (p *peer) scoped(ctx context.Context) context.Context {
	return docker.WithScope(ctx, "repository:"+reference.Path(p.name)+":pull")
}

// request is one that can be sent several times.
type request struct {
	method, address string
	header          http.Header
	body            io.ReadSeeker
	size            int64
	stranger        bool // it goes to another host than the registry's, without credentials
}

// retry sends a request until it is answered by other than a passing fault.
func (p *peer) retry(ctx context.Context, req request, want ...int) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := p.send(ctx, req, want...)
		if err == nil || try >= tries || ctx.Err() != nil || !transient(err) {
			return resp, err
		}
		if p.r.wait(ctx, "", err, try) != nil {
			return nil, err
		}
	}
}

// transient tells whether a fault may be gone at the next try.
func transient(err error) bool {
	code, _ := status(err)
	switch code {
	case 0:
		return !permanent(err)
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// permanent tells whether the other side cannot be talked to, however often it is tried.
func permanent(err error) bool {
	var (
		done   *explained
		dns    *net.DNSError
		cert   *tls.CertificateVerificationError
		record tls.RecordHeaderError
	)
	return errors.Is(err, docker.ErrInvalidAuthorization) || errors.Is(err, errRedirect) || errors.As(err, &done) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &dns) && dns.IsNotFound || errors.As(err, &cert) ||
		errors.As(err, &record)
}

// Pause is why and for how long a Repository waits before it tries again.
type Pause struct {
	Of  string // the digest, or the tag, that was asked for
	Why string
	For time.Duration
}

// wait pauses before the next try: as long as the registry asked for, or twice as long each time.
func (r *Repository) wait(ctx context.Context, of string, err error, try int) error {
	d := r.c.backOff << (try - 1)
	d += rand.N(d / 2)
	var later *retryAfter
	if errors.As(err, &later) {
		if d = later.pause; d > maxPause {
			return err
		}
	}
	if r.OnPause != nil {
		why, _ := r.sentence(r.name, err)
		r.OnPause(Pause{of, why, d})
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryAfter is a refusal that says when to come back.
type retryAfter struct {
	error
	pause time.Duration
}

func (e *retryAfter) Unwrap() error { return e.error }

// send sends a request once, or again where the registry asks who we are.
func (p *peer) send(ctx context.Context, q request, want ...int) (*http.Response, error) {
	h := p.host
	plain, ctx := ctx, p.purpose(ctx, false)
	var seen []*http.Response
	for {
		req, err := p.build(ctx, q)
		if err != nil {
			return nil, err
		}
		if h.Authorizer != nil && !q.stranger {
			if err := h.Authorizer.Authorize(p.purpose(plain, true), req); err != nil {
				p.r.forgetHosts() // the authorizer would remember the failure
				return nil, unwrapped(err)
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, unwrapped(err)
		}
		if slices.Contains(want, resp.StatusCode) {
			return resp, nil
		}
		err = refusal(resp)
		_ = resp.Body.Close()
		seen = append(seen, resp)
		staleToken(resp)
		if resp.StatusCode == http.StatusUnauthorized && h.Authorizer != nil && !q.stranger && len(seen) < 3 &&
			h.Authorizer.AddResponses(ctx, seen) == nil {
			continue
		}
		return nil, err
	}
}

// staleToken has the authorizer fetch another token where a registry refuses one without saying that it has expired.
func staleToken(resp *http.Response) {
	challenge := resp.Header.Get("WWW-Authenticate")
	if strings.HasPrefix(resp.Request.Header.Get("Authorization"), "Bearer ") &&
		strings.HasPrefix(challenge, "Bearer ") && !strings.Contains(challenge, "error=") {
		resp.Header.Set("WWW-Authenticate", challenge+`,error="invalid_token"`)
	}
}

func (p *peer) build(ctx context.Context, q request) (*http.Request, error) {
	var body io.Reader
	if q.body != nil && q.size > 0 {
		if _, err := q.body.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		body = io.NopCloser(q.body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, q.address, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.ContentLength = q.size
	}
	for k, v := range p.host.Header {
		if !q.stranger {
			req.Header[k] = v
		}
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", p.r.c.userAgent)
	return req, nil
}

// refusal reads what a registry says with a status that is not wanted.
func refusal(resp *http.Response) error {
	err := remoteerrors.NewUnexpectedStatusErr(resp)
	var u remoteerrors.ErrUnexpectedStatus
	var said docker.Errors
	if errors.As(err, &u) && json.Unmarshal(u.Body, &said) == nil && len(said) > 0 {
		err = errors.Join(err, said)
	}
	if d, ok := parseRetryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		return &retryAfter{err, d}
	}
	return err
}

// parseRetryAfter reads the header of that name: seconds or a date (RFC 9110, section 10.2.3).
func parseRetryAfter(text string, now time.Time) (time.Duration, bool) {
	if s, err := strconv.ParseInt(text, 10, 32); err == nil && s >= 0 {
		return time.Duration(s) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now)), true
	}
	return 0, false
}

// drain lets the connection be used again.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}

var errRedirect = errors.New("the registry sends what was to be kept between us to another host")

// redirect follows an answer elsewhere without the credentials: Go's client would take them to any port of the same
// host, and to hosts below it.
func redirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("the registry redirects in circles")
	}
	from := via[0].URL
	if req.URL.Scheme == from.Scheme && req.URL.Host == from.Host {
		return nil
	}
	req.Header.Del("Authorization")
	req.Header.Del("Cookie")
	if req.Method == http.MethodPost && req.ContentLength != 0 {
		return errRedirect // the body of a request for a token, with a password in it
	}
	return nil
}
