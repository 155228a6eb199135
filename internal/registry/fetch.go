package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is read goes to the hosts of the registry in their order; the first that has it is taken. When all refuse, and one
// of them for a reason that may pass, all are asked again after a pause. A body that breaks off or falls silent is continued:
//
//	GET ──200──▶ body ──breaks off──▶ pause ──▶ GET with Range ──206, from there──▶ body
//	                                                 └── anything else ──▶ GET, and what is known is read over
const (
	// silence is how long a body may say nothing.
	silence = time.Minute
	// headway is how many bytes make a further try count as the first one again.
	headway = 64 << 10
)

var manifestTypes = strings.Join([]string{images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList,
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, "*/*"}, ", ")

// askHosts calls ask for one host after the other, until one has an answer. The error that is returned is the last one in
// which a host said something.
func (r *Repository) askHosts(needs docker.HostCapabilities, ask func(*peer) error) error {
	peers, err := r.peers()
	if err != nil {
		return err
	}
	var said, other error
	for _, p := range peers {
		if !p.host.Capabilities.Has(needs) {
			continue
		}
		err := ask(p)
		if err == nil {
			return nil
		}
		if code, _ := status(err); code != 0 {
			said = err
		} else {
			other = err
		}
	}
	if said != nil {
		return said
	}
	if other == nil {
		return fmt.Errorf("no host of registry %q is asked for this: look at its hosts.toml: %w", reference.Domain(r.name),
			errdefs.ErrFailedPrecondition)
	}
	return other
}

// Resolve asks what a reference means at the moment: a tag of the repository, or a digest in it. The size in the
// descriptor is what the registry claims.
func (r *Repository) Resolve(ctx context.Context, ref reference.Named) (desc ocispec.Descriptor, err error) {
	var object string
	needs := docker.HostCapabilityPull
	if d, ok := ref.(reference.Digested); ok { // which alone counts where there is a tag, too
		object, desc.Digest = d.Digest().String(), d.Digest()
	} else if t, ok := reference.TagNameOnly(ref).(reference.Tagged); ok {
		object = t.Tag()
		needs |= docker.HostCapabilityResolve
	}
	var got ocispec.Descriptor
	for try := 1; ; try++ {
		err = r.askHosts(needs, func(p *peer) error {
			got, err = p.resolve(p.scoped(ctx), object)
			return err
		})
		if err == nil || try >= tries || ctx.Err() != nil || !transient(err) || r.wait(ctx, object, err, try) != nil {
			break
		}
	}
	if err != nil {
		return desc, r.explain(ctx, ref, err)
	}
	if desc.Digest == "" {
		desc.Digest = got.Digest
	}
	desc.MediaType, desc.Size = got.MediaType, got.Size
	if desc.Size < 0 || desc.Size > MaxManifest {
		return desc, fmt.Errorf("manifest for %s has %d bytes, more than the %d that are read: %w",
			reference.FamiliarString(ref), desc.Size, MaxManifest, errdefs.ErrInvalidArgument)
	}
	if err := desc.Digest.Validate(); err != nil {
		return desc, fmt.Errorf("manifest for %s has the digest %q: %w: %w",
			reference.FamiliarString(ref), desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	return desc, nil
}

// resolve asks by HEAD, which Docker Hub does not count, and by GET where that does not tell enough.
func (p *peer) resolve(ctx context.Context, object string) (desc ocispec.Descriptor, err error) {
	req := request{method: http.MethodHead, address: p.source("manifests", object),
		header: http.Header{"Accept": {manifestTypes}}}
	resp, err := p.send(ctx, req, http.StatusOK)
	if err == nil {
		drain(resp)
		desc = described(resp)
		if desc.Digest != "" && desc.Size >= 0 {
			return desc, nil
		}
	} else if code, _ := status(err); code == http.StatusNotFound || code == http.StatusUnauthorized ||
		transient(err) && code != http.StatusTooManyRequests || code == 0 {
		return desc, err
	}
	// An answer to HEAD cannot say what is wrong in words.
	req.method = http.MethodGet
	if resp, err = p.send(ctx, req, http.StatusOK); err != nil {
		return desc, err
	}
	defer resp.Body.Close()
	desc = described(resp)
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return desc, err
	}
	desc.Size = int64(len(data))
	if desc.Digest == "" {
		desc.Digest = digest.FromBytes(data)
	}
	return desc, nil
}

func described(resp *http.Response) ocispec.Descriptor {
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return ocispec.Descriptor{MediaType: strings.TrimSpace(mediaType), Size: resp.ContentLength,
		Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest"))}
}

// Fetch reads a blob or manifest of the repository, beginning at the byte that Seek chose. A reading that breaks off is
// continued where it stopped. That there are as many bytes as announced is verified, their digest is not. Addresses in
// the descriptor are not followed. The request is sent by the first Read.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Size < 0 {
		return nil, fmt.Errorf("%s cannot have %d bytes: %w", desc.Digest, desc.Size, errdefs.ErrInvalidArgument)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%.100q is no digest: %w: %w", desc.Digest, err, errdefs.ErrInvalidArgument)
	}
	g := &reading{r: r, desc: desc, kind: "blobs"}
	if images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType) {
		g.kind = "manifests"
	}
	g.ctx, g.stop = context.WithCancel(ctx)
	return g, nil
}

// reading is a body that is being read, across all the answers it comes from. It is used by one goroutine.
type reading struct {
	r    *Repository
	ctx  context.Context // of Fetch, for as long as the body is read
	stop context.CancelFunc
	desc ocispec.Descriptor
	kind string

	offset int64    // of the next byte
	body   *watched // nil if there is none at the moment
	try    int      // that failed without headway
	failed int64    // the offset where the first of them did
	met    bool     // the registry has answered once
	whole  bool     // it does not know ranges
	end    error    // what all further reads return
}

// Read implements io.Reader.
func (g *reading) Read(p []byte) (n int, err error) {
	for n == 0 && len(p) > 0 && g.end == nil {
		if g.offset == g.desc.Size && g.body == nil {
			g.end = io.EOF
			break
		}
		if g.body == nil {
			err = g.open()
		}
		if err == nil {
			n, err = g.read(p)
		}
		if err != nil && err != io.EOF {
			g.drop()
			if err = g.pause(err); err != nil {
				g.end = err
			}
		} else if err == io.EOF {
			g.end = io.EOF
		}
	}
	if n > 0 {
		return n, nil
	}
	return 0, g.end
}

// read reads from the body that is there. io.EOF means that everything was read.
func (g *reading) read(p []byte) (int, error) {
	n, err := g.body.Read(p)
	left := g.desc.Size - g.offset
	if int64(n) > left {
		return 0, g.tooLong(g.desc.Size + 1)
	}
	g.offset += int64(n)
	switch {
	case err == io.EOF && g.offset < g.desc.Size:
		err = io.ErrUnexpectedEOF
	case err != nil && err != io.EOF && g.offset == g.desc.Size:
		err = io.EOF // what follows does not matter
	}
	if err == io.EOF {
		g.drop()
	}
	return n, err
}

func (g *reading) tooLong(n int64) error {
	if n > g.desc.Size {
		return &explained{fmt.Sprintf("it has more bytes than the %d that are announced", g.desc.Size),
			errdefs.ErrInvalidArgument, errLength}
	}
	return &explained{fmt.Sprintf("it has %d bytes where %d are announced", n, g.desc.Size), errdefs.ErrInvalidArgument,
		errLength}
}

var errLength = errors.New("other length")

// pause waits before the next try, or returns the error to end with.
func (g *reading) pause(err error) error {
	if g.try == 0 || g.offset-g.failed >= headway {
		g.try, g.failed = 0, g.offset
	}
	g.try++
	again := transient(err) || g.met && errors.Is(err, syscall.ECONNREFUSED)
	if g.try < tries && g.ctx.Err() == nil && again && g.r.wait(g.ctx, g.desc.Digest.String(), err, g.try) == nil {
		return nil
	}
	return g.r.explain(g.ctx, g.r.name, err)
}

func (g *reading) drop() {
	if g.body != nil {
		_ = g.body.Close()
		g.body = nil
	}
}

// open asks for the rest.
func (g *reading) open() error {
	return g.r.askHosts(docker.HostCapabilityPull, func(p *peer) error {
		ranged := g.offset > 0 && !g.whole
		err := g.openAt(p, ranged)
		var bad *rangeError
		code, _ := status(err)
		if ranged && (errors.As(err, &bad) || code == http.StatusRequestedRangeNotSatisfiable) {
			err = g.openAt(p, false)
			g.whole = err == nil
		}
		return err
	})
}

// rangeError says that an answer is no part, or not the one that was asked for.
type rangeError struct{ text string }

func (e *rangeError) Error() string { return e.text }

func (g *reading) openAt(p *peer, ranged bool) error {
	// As it lies there: what is compressed on the way has another length and other ranges.
	req := request{method: http.MethodGet, address: p.source(g.kind, g.desc.Digest.String()),
		header: http.Header{"Accept-Encoding": {"identity"}, "Accept": {"*/*"}}}
	if g.kind == "manifests" {
		req.header.Set("Accept", g.desc.MediaType+", */*")
	}
	if ranged {
		req.header.Set("Range", fmt.Sprintf("bytes=%d-", g.offset))
	}
	ctx, cancel := context.WithCancelCause(p.scoped(g.ctx))
	w := &watched{silence: g.r.c.silence, cancel: cancel}
	w.timer = time.AfterFunc(w.silence, func() { cancel(errSilent) })
	resp, err := p.send(ctx, req, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		err = w.explain(ctx, err)
		w.stop()
		return err
	}
	g.met = true
	w.timer.Stop() // it runs while it is read
	w.ctx, w.ReadCloser = ctx, resp.Body
	if err := g.check(resp, ranged); err != nil {
		_ = w.Close()
		return err
	}
	if resp.StatusCode == http.StatusOK && g.offset > 0 {
		if _, err := io.CopyN(io.Discard, w, g.offset); err != nil {
			_ = w.Close()
			return err
		}
	}
	g.body = w
	return nil
}

// check looks whether an answer is what was asked for, before it is read.
func (g *reading) check(resp *http.Response, ranged bool) error {
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &rangeError{fmt.Sprintf("the registry sends it encoded as %.40q", e)}
	}
	if resp.StatusCode == http.StatusOK {
		if resp.ContentLength >= 0 && resp.ContentLength != g.desc.Size {
			return g.tooLong(resp.ContentLength)
		}
		return nil
	}
	from, size, ok := parseContentRange(resp.Header.Get("Content-Range"))
	if !ranged || !ok || from != g.offset || size >= 0 && size != g.desc.Size ||
		resp.ContentLength >= 0 && resp.ContentLength != g.desc.Size-g.offset {
		return &rangeError{fmt.Sprintf("the registry sent the range %.60q and was asked for the bytes from %d of %d",
			resp.Header.Get("Content-Range"), g.offset, g.desc.Size)}
	}
	return nil
}

// parseContentRange reads the header of that name (RFC 9110, section 14.4). size is -1 if it is not said.
func parseContentRange(text string) (from, size int64, ok bool) {
	text, ok = strings.CutPrefix(strings.TrimSpace(text), "bytes ")
	part, total, ok2 := strings.Cut(text, "/")
	first, last, ok3 := strings.Cut(part, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	from, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	to, err2 := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	if err != nil || err2 != nil || from < 0 || to < from {
		return 0, 0, false
	}
	if total = strings.TrimSpace(total); total == "*" {
		return from, -1, true
	}
	size, err = strconv.ParseInt(total, 10, 64)
	return from, size, err == nil && size > to
}

// Seek chooses where to read on, from the beginning.
func (g *reading) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart || offset < 0 || offset > g.desc.Size {
		return g.offset, errors.ErrUnsupported
	}
	if offset != g.offset {
		g.drop()
		g.offset, g.end = offset, nil
	}
	return offset, nil
}

// Close implements io.Closer.
func (g *reading) Close() error {
	g.drop()
	g.stop()
	g.end = errors.New("it was closed")
	return nil
}

var errSilent = errors.New("it sends nothing")

// watched is a body that must not be silent for too long.
type watched struct {
	io.ReadCloser
	ctx     context.Context // of its request
	cancel  context.CancelCauseFunc
	silence time.Duration
	timer   *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.silence)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop() // who reads may take its time
	if err != nil && err != io.EOF {
		err = w.explain(w.ctx, err)
	}
	return n, err
}

// explain tells our own impatience from everything else.
func (w *watched) explain(ctx context.Context, err error) error {
	if context.Cause(ctx) == errSilent {
		return errSilent
	}
	return err
}

func (w *watched) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

func (w *watched) Close() error {
	w.stop()
	return w.ReadCloser.Close()
}
