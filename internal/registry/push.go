package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An upload of a blob:
//
//	HEAD blob ──200──▶ it exists
//	   │ 404
//	POST uploads/?mount=…&from=… ──201──▶ it is mounted from another repository
//	   │ 202 Location
//	   ├── small ──▶ PUT Location?digest=… with everything
//	   └── PATCH Location with the rest ──▶ PUT Location?digest=…
//	          │ broken off                      413: in pieces of smallPiece
//	          └── GET Location ──204 Range──▶ PATCH from there; anything else: POST again
const (
	monolithic = 4 << 20  // bytes of a blob that is sent by one request
	smallPiece = 16 << 20 // bytes of a piece for registries that want no more at once
)

// Blob is what PushBlob sends.
type Blob struct {
	Desc     ocispec.Descriptor
	Content  io.ReaderAt
	From     []string            // repositories at the same registry that may have it, without the host
	Progress func(current int64) // may be nil
}

// Pushed says how a blob came to the registry.
type Pushed struct {
	Existed     bool
	MountedFrom string // a repository; "" if the bytes were sent
}

// PushBlob brings a blob into the repository. What a registry has is not sent again; a transfer that breaks off is
// continued at the byte up to which the registry has it, or begun again where it does not say.
func (r *Repository) PushBlob(ctx context.Context, b Blob) (Pushed, error) {
	p, err := r.pusher(ctx)
	if err != nil {
		return Pushed{}, err
	}
	done, err := p.blob(ctx, b)
	if err != nil {
		return done, r.explainPush(ctx, err)
	}
	return done, nil
}

// PushManifest stores a manifest or an index, under a tag if that is not "". The bytes are those that were given. One that is about
// another one is listed where clients look for it, see referrers.go.
func (r *Repository) PushManifest(ctx context.Context, desc ocispec.Descriptor, data []byte, tag string) error {
	p, err := r.pusher(ctx)
	if err != nil {
		return err
	}
	if tag == "" {
		tag = desc.Digest.String()
	}
	resp, err := p.retry(p.scoped(ctx), request{method: http.MethodPut, address: p.address("manifests", tag),
		header: http.Header{"Content-Type": {desc.MediaType}}, body: strings.NewReader(string(data)),
		size: int64(len(data))}, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return r.explainPush(ctx, err)
	}
	drain(resp)
	if d := resp.Header.Get("Docker-Content-Digest"); d != "" && d != desc.Digest.String() {
		return fmt.Errorf("registry %q stored the manifest as %.100q where %s was sent: %w", reference.Domain(r.name), d,
			desc.Digest, errdefs.ErrUnavailable)
	}
	if resp.Header.Get("OCI-Subject") != "" {
		return nil
	}
	if err := p.refer(p.scoped(ctx), desc, data); err != nil {
		return r.explainPush(ctx, err)
	}
	return nil
}

// HasManifest tells whether the repository has a manifest or an index.
func (r *Repository) HasManifest(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	p, err := r.pusher(ctx)
	if err != nil {
		return false, err
	}
	ok, err := p.has(p.scoped(ctx), "manifests", desc)
	if err != nil {
		return false, r.explainPush(ctx, err)
	}
	return ok, nil
}

// explainPush is explain for what is sent.
func (r *Repository) explainPush(ctx context.Context, err error) error {
	code, detail := status(err)
	if ctx.Err() == nil && (code == http.StatusUnauthorized || code == http.StatusForbidden ||
		errors.Is(err, docker.ErrInvalidAuthorization)) {
		if detail == "" {
			detail = "denied: requested access to the resource is denied"
		}
		return &explained{fmt.Sprintf("push access denied for %s, repository does not exist or may require 'docker login': %s",
			reference.FamiliarName(r.name), detail), errdefs.ErrPermissionDenied, err}
	}
	return r.explain(ctx, nil, err)
}

// pusher is the one host of a registry that takes what is pushed.
type pusher struct{ peer }

func (r *Repository) pusher(ctx context.Context) (*pusher, error) {
	peers, err := r.peers()
	if err != nil {
		return nil, err
	}
	for _, p := range peers {
		if p.host.Capabilities.Has(docker.HostCapabilityPush) {
			return &pusher{*p}, nil
		}
	}
	return nil, fmt.Errorf("no host of registry %q takes what is pushed: look at its hosts.toml: %w",
		reference.Domain(r.name), errdefs.ErrFailedPrecondition)
}

func (p *pusher) scoped(ctx context.Context) context.Context {
	return docker.WithScope(ctx, "repository:"+reference.Path(p.name)+":pull,push")
}

func (p *pusher) has(ctx context.Context, kind string, desc ocispec.Descriptor) (bool, error) {
	header := http.Header{}
	if kind == "manifests" {
		header.Set("Accept", desc.MediaType+", */*")
	}
	resp, err := p.retry(ctx, request{method: http.MethodHead, address: p.address(kind, desc.Digest.String()),
		header: header}, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return false, err
	}
	drain(resp)
	return resp.StatusCode == http.StatusOK, nil
}

func (p *pusher) blob(ctx context.Context, b Blob) (done Pushed, err error) {
	plain := ctx
	ctx = p.scoped(ctx)
	if ok, err := p.has(ctx, "blobs", b.Desc); err != nil || ok {
		return Pushed{Existed: ok}, err
	}
	for _, from := range b.From {
		at, err := p.mount(docker.WithScope(p.scoped(plain), "repository:"+from+":pull"), b.Desc, from)
		if err != nil {
			return done, err
		}
		if at == nil {
			return Pushed{MountedFrom: from}, nil
		}
		if at.url != nil {
			// The registry began an upload instead, as it may.
			return done, p.upload(ctx, b, at)
		}
	}
	return done, p.upload(ctx, b, nil)
}

// place is where an upload goes on. It is trusted if it is at the registry's host: then credentials go along.
type place struct {
	url     *url.URL
	trusted bool
}

// mount asks for a blob of another repository. It returns nil if it is there now; else where to send it, which is
// nowhere if the other repository may not be read.
func (p *pusher) mount(ctx context.Context, desc ocispec.Descriptor, from string) (*place, error) {
	q := url.Values{"mount": {desc.Digest.String()}, "from": {from}}
	resp, err := p.retry(ctx, request{method: http.MethodPost, address: p.address("blobs", "uploads/") + "?" + q.Encode()},
		http.StatusCreated, http.StatusAccepted)
	if err != nil {
		if code, _ := status(err); code != 0 || errors.Is(err, docker.ErrInvalidAuthorization) {
			return &place{}, nil // the upload will tell what is wrong, if more is
		}
		return nil, err
	}
	drain(resp)
	if resp.StatusCode == http.StatusCreated {
		return nil, nil
	}
	return p.place(resp)
}

func (p *pusher) begin(ctx context.Context) (*place, error) {
	resp, err := p.retry(ctx, request{method: http.MethodPost, address: p.address("blobs", "uploads/")},
		http.StatusAccepted, http.StatusOK, http.StatusNoContent)
	if err != nil {
		return nil, err
	}
	drain(resp)
	return p.place(resp)
}

// place reads the Location of an answer. At the same host the scheme stays what it was: behind a proxy, registries
// name the wrong one.
func (p *pusher) place(resp *http.Response) (*place, error) {
	location := resp.Header.Get("Location")
	u, err := resp.Request.URL.Parse(location)
	if err != nil || location == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, badPlace("registry %q wants the blob at %.200q, which is no address", p.host.Host, location)
	}
	at := &place{url: u, trusted: u.Host == p.host.Host}
	if at.trusted {
		u.Scheme = p.host.Scheme
	} else if u.Scheme != "https" && !p.insecure {
		return nil, badPlace("registry %q wants the blob in clear text at %q", p.host.Host, u.Host)
	}
	return at, nil
}

func badPlace(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	return &explained{text, errdefs.ErrUnavailable, errors.New(text)}
}

// upload sends a blob, to at or to where the registry says.
func (p *pusher) upload(ctx context.Context, b Blob, at *place) error {
	var offset, furthest int64
	piece := b.Desc.Size
	for try := 1; ; try++ {
		var err error
		if at == nil {
			offset = 0
			at, err = p.begin(ctx) // retries itself
			if err != nil {
				return err
			}
		}
		at, offset, err = p.transfer(ctx, b, at, offset, piece)
		if err == nil {
			return nil
		}
		// What was sent again is no headway: a registry may lose everything each time at the same point.
		if offset > furthest {
			furthest, try = offset, 1
		}
		code, _ := status(err)
		switch {
		case code == http.StatusRequestEntityTooLarge && piece > smallPiece:
			piece = smallPiece
		case try >= tries || ctx.Err() != nil || !transient(err) && !lost(code):
			return err
		default:
			if werr := p.r.wait(ctx, b.Desc.Digest.String(), err, try); werr != nil {
				return err
			}
		}
		at, offset = p.progress(ctx, at, b.Desc.Size)
	}
}

// lost tells whether a status means that the registry knows nothing of an upload any more, or of its state other than
// we do.
func lost(code int) bool {
	return code == http.StatusNotFound || code == http.StatusRequestedRangeNotSatisfiable
}

// transfer sends what is missing of a blob and closes the upload. It returns how far it came.
func (p *pusher) transfer(ctx context.Context, b Blob, at *place, offset, piece int64) (*place, int64, error) {
	size := b.Desc.Size
	if offset == 0 && size <= monolithic && piece == size {
		return at, 0, p.finish(ctx, b, at, io.NewSectionReader(b.Content, 0, size), size)
	}
	for offset < size {
		n := min(piece, size-offset)
		header := http.Header{"Content-Type": {"application/octet-stream"}}
		if n != size {
			header.Set("Content-Range", fmt.Sprintf("%d-%d", offset, offset+n-1))
		}
		resp, err := p.send(ctx, request{method: http.MethodPatch, address: at.url.String(), header: header,
			body: p.section(b, offset, n), size: n, stranger: !at.trusted}, http.StatusAccepted, http.StatusNoContent,
			http.StatusCreated)
		if err != nil {
			return at, offset, err
		}
		drain(resp)
		if resp.Header.Get("Location") != "" {
			if at, err = p.place(resp); err != nil {
				return at, offset, err
			}
		}
		offset += n
	}
	return at, offset, p.finish(ctx, b, at, nil, 0)
}

func (p *pusher) finish(ctx context.Context, b Blob, at *place, body io.ReadSeeker, size int64) error {
	u := *at.url
	q := u.Query()
	q.Set("digest", b.Desc.Digest.String())
	u.RawQuery = q.Encode()
	req := request{method: http.MethodPut, address: u.String(), size: size, stranger: !at.trusted,
		header: http.Header{"Content-Type": {"application/octet-stream"}}}
	if body != nil {
		req.body = &counted{body, 0, b.Progress}
	}
	resp, err := p.send(ctx, req, http.StatusCreated, http.StatusOK, http.StatusNoContent)
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}

// progress asks how much of a broken upload has arrived. The place is nil if it has to begin again.
func (p *pusher) progress(ctx context.Context, at *place, size int64) (*place, int64) {
	if at == nil {
		return nil, 0
	}
	resp, err := p.send(ctx, request{method: http.MethodGet, address: at.url.String(), stranger: !at.trusted},
		http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return nil, 0
	}
	drain(resp)
	last, ok := strings.CutPrefix(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "0-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 1 || n >= size {
		// "0-0" is what registries say of an empty upload, and of one with a single byte.
		return nil, 0
	}
	if resp.Header.Get("Location") != "" {
		if at, err = p.place(resp); err != nil {
			return nil, 0
		}
	}
	return at, n + 1
}

// section is a part of a blob that tells how much of the whole has been read.
func (p *pusher) section(b Blob, offset, n int64) io.ReadSeeker {
	return &counted{io.NewSectionReader(b.Content, offset, n), offset, b.Progress}
}

type counted struct {
	io.ReadSeeker
	base     int64
	progress func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	if n > 0 && c.progress != nil {
		if at, serr := c.ReadSeeker.Seek(0, io.SeekCurrent); serr == nil {
			c.progress(c.base + at)
		}
	}
	return n, err
}
