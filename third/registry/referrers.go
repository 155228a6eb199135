package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A manifest may be about another one, its subject: a signature, say. Version 1.1 of the distribution specification lists what
// is about a manifest under /v2/<name>/referrers/<digest>, which distribution does not have yet. It is answered here, in front:
//
//	GET  …/referrers/D  ──▶ HEAD …/manifests/D behind: who may not pull gets its answer ──▶ the list
//	PUT  …/manifests/R  ──▶ behind ──201──▶ OCI-Subject, if it has a subject; the repository is looked through again
//	DELETE …/manifests/R ─▶ behind ──▶ the repository is looked through again
//
// There is no file of ours: the list is what the manifests of a repository say themselves, whoever pushed them by whatever way,
// looked through when it is first asked for. Lists that clients keep under tags go on being ordinary indexes.
const (
	maxManifest = 4 << 20 // what distribution takes
	pageItems   = 1000    // of a list that are answered at once; what is behind them has a Link
	pageBytes   = 3 << 20 // the same in bytes: clients read 4 MiB
)

type referrers struct {
	next http.Handler
	repo func(ctx context.Context, name reference.Named) (distribution.ManifestService, error)

	mu      sync.Mutex
	changes uint64 // how often something has changed
	about   map[string]subjects
}

// subjects are the manifests of a repository that have a subject, by it.
type subjects map[digest.Digest][]digest.Digest

func newReferrers(next http.Handler, images distribution.Namespace) *referrers {
	return &referrers{next: next, about: map[string]subjects{},
		repo: func(ctx context.Context, name reference.Named) (distribution.ManifestService, error) {
			r, err := images.Repository(ctx, name)
			if err != nil {
				return nil, err
			}
			return r.Manifests(ctx)
		}}
}

func (h *referrers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, _ := strings.CutPrefix(r.URL.Path, "/v2/")
	if name, _, ok := cutLast(path, "/manifests/"); ok && (r.Method == http.MethodPut || r.Method == http.MethodDelete) {
		h.changing(w, r, name)
	} else if name, ref, ok := cutLast(path, "/referrers/"); ok {
		h.list(w, r, name, ref)
	} else {
		h.next.ServeHTTP(w, r)
	}
}

// cutLast cuts a path around the component before its last.
func cutLast(path, sep string) (name, ref string, ok bool) {
	i := strings.LastIndex(path, sep)
	if i < 0 || strings.Contains(path[i+len(sep):], "/") {
		return "", "", false
	}
	return path[:i], path[i+len(sep):], true
}

// referring is what a manifest says of itself to the list it belongs to.
type referring struct {
	Subject      *ocispec.Descriptor
	ArtifactType string
	Config       struct{ MediaType string }
	Annotations  map[string]string
}

// referringOf reads a manifest; it is nil if it is about nothing.
func referringOf(data []byte) *referring {
	var m referring
	if json.Unmarshal(data, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return nil
	}
	return &m
}

// changing passes on what changes the manifests of a repository.
func (h *referrers) changing(w http.ResponseWriter, r *http.Request, name string) {
	// Twice, as others may look through it meanwhile.
	h.forget(name)
	defer h.forget(name)
	if r.Method != http.MethodPut {
		h.next.ServeHTTP(w, r)
		return
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxManifest+1))
	if err == nil && len(data) <= maxManifest {
		if m := referringOf(data); m != nil {
			w = &subjectWriter{w, m.Subject.Digest.String()}
		}
	}
	// What did not arrive is for distribution to find out.
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(data), r.Body), r.Body}
	h.next.ServeHTTP(w, r)
}

// subjectWriter says of a manifest that was taken that its subject was seen.
type subjectWriter struct {
	http.ResponseWriter
	subject string
}

func (w *subjectWriter) WriteHeader(code int) {
	if code == http.StatusCreated {
		w.Header().Set("OCI-Subject", w.subject)
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *subjectWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (h *referrers) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changes++
	delete(h.about, name)
}

// list answers what is about a manifest.
func (h *referrers) list(w http.ResponseWriter, r *http.Request, name, ref string) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, errcode.ErrorCodeUnsupported.WithMessage("a list of referrers can only be read"))
		return
	}
	named, err := reference.WithName(name)
	if err != nil {
		refuse(w, errcode.ErrorCodeNameInvalid.WithDetail(err.Error()))
		return
	}
	subject, err := digest.Parse(ref)
	if err != nil {
		refuse(w, errcode.ErrorCodeDigestInvalid.WithDetail(err.Error()))
		return
	}
	if !h.mayPull(w, r, name, subject) {
		return
	}
	last, kind := r.URL.Query().Get("last"), r.URL.Query().Get("artifactType")
	index, more, err := h.page(r.Context(), named, subject, last, kind)
	if err == nil {
		err = writeList(w, index, more, name, kind)
	}
	if err != nil && r.Context().Err() == nil {
		refuse(w, errcode.ErrorCodeUnknown.WithDetail(err.Error()))
	}
}

func refuse(w http.ResponseWriter, err error) {
	_ = errcode.ServeJSON(w, err) // who has gone does not want to know
}

func writeList(w http.ResponseWriter, index *ocispec.Index, more, name, kind string) error {
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if more != "" {
		q := url.Values{"last": {index.Manifests[len(index.Manifests)-1].Digest.String()}}
		if kind != "" {
			q.Set("artifactType", kind)
		}
		w.Header().Set("Link", "</v2/"+name+"/referrers/"+more+"?"+q.Encode()+`>; rel="next"`)
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_, err = w.Write(data)
	return err
}

// mayPull asks behind for the subject. Whether it exists does not matter; every other refusal is the answer.
func (h *referrers) mayPull(w http.ResponseWriter, r *http.Request, name string, subject digest.Digest) bool {
	ask := r.Clone(r.Context())
	ask.Method, ask.Body, ask.ContentLength = http.MethodHead, http.NoBody, 0
	ask.URL = &url.URL{Path: "/v2/" + name + "/manifests/" + subject.String()}
	ask.RequestURI = ask.URL.Path
	ask.Header.Del("If-None-Match")
	ask.Header.Set("Accept", ocispec.MediaTypeImageManifest+", "+ocispec.MediaTypeImageIndex)
	said := &answer{header: http.Header{}}
	h.next.ServeHTTP(said, ask)
	if said.code == http.StatusOK || said.code == http.StatusNotFound {
		return true
	}
	for k, v := range said.header {
		w.Header()[k] = v
	}
	w.WriteHeader(said.code)
	_, _ = w.Write(said.body.Bytes())
	return false
}

// answer keeps what a handler answers.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(code int) {
	if a.code == 0 {
		a.code = code
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.body.Len() < 1<<20 {
		a.body.Write(p)
	}
	return len(p), nil
}

// page is a part of the list: what comes behind last. more is the subject again if there is more.
func (h *referrers) page(ctx context.Context, name reference.Named, subject digest.Digest, last, kind string) (*ocispec.Index, string, error) {
	index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{}}
	manifests, err := h.repo(ctx, name)
	if err != nil {
		return nil, "", err
	}
	known, err := h.lookThrough(ctx, name.Name(), manifests)
	if err != nil {
		return nil, "", err
	}
	total := 0
	for _, d := range known[subject] {
		if d.String() <= last {
			continue
		}
		mediaType, data, m, err := read(ctx, manifests, d)
		if err != nil {
			return nil, "", err
		}
		if m == nil { // removed meanwhile
			continue
		}
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data)), ArtifactType: m.ArtifactType,
			Annotations: m.Annotations}
		if desc.ArtifactType == "" {
			desc.ArtifactType = m.Config.MediaType
		}
		if kind != "" && desc.ArtifactType != kind {
			continue
		}
		text, err := json.Marshal(desc)
		if len(text) > pageBytes { // one that would make every list of it unreadable
			desc.Annotations = nil
			text, err = json.Marshal(desc)
		}
		if err != nil {
			return nil, "", err
		}
		total += len(text)
		if n := len(index.Manifests); n > 0 && (n == pageItems || total > pageBytes) {
			return index, subject.String(), nil
		}
		index.Manifests = append(index.Manifests, desc)
	}
	return index, "", nil
}

// lookThrough finds which manifests of a repository are about others.
func (h *referrers) lookThrough(ctx context.Context, name string, manifests distribution.ManifestService) (subjects, error) {
	h.mu.Lock()
	known, changes := h.about[name], h.changes
	h.mu.Unlock()
	if known != nil {
		return known, nil
	}
	known = subjects{}
	err := enumerate(ctx, manifests, func(d digest.Digest) error {
		_, _, m, err := read(ctx, manifests, d)
		if m != nil {
			known[m.Subject.Digest] = append(known[m.Subject.Digest], d)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, list := range known {
		slices.Sort(list)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changes == changes {
		if len(h.about) > 1000 {
			clear(h.about)
		}
		h.about[name] = known
	}
	return known, nil
}

// enumerate names every manifest of a repository, which may not exist.
func enumerate(ctx context.Context, manifests distribution.ManifestService, each func(digest.Digest) error) error {
	all, ok := manifests.(distribution.ManifestEnumerator)
	if !ok {
		return errors.New("the manifests of this registry cannot be listed")
	}
	err := all.Enumerate(ctx, func(d digest.Digest) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return each(d)
	})
	if missing := (driver.PathNotFoundError{}); errors.As(err, &missing) {
		return nil
	}
	return err
}

// read gets a manifest; m is nil if it is gone, is none, or is about nothing.
func read(ctx context.Context, manifests distribution.ManifestService, d digest.Digest) (mediaType string, data []byte, m *referring, err error) {
	found, err := manifests.Get(ctx, d)
	if disk := (*fs.PathError)(nil); err != nil && ctx.Err() == nil && !errors.As(err, &disk) {
		return "", nil, nil, nil
	}
	if err != nil {
		return "", nil, nil, err
	}
	if mediaType, data, err = found.Payload(); err != nil {
		return "", nil, nil, err
	}
	return mediaType, data, referringOf(data), nil
}

// A collection of what has no tag leaves what is about something that stays: nobody tags a signature.

// keeping is a registry whose manifests have a tag also by being about one that has, or that one with a tag leads to.
type keeping struct{ distribution.Namespace }

func (k keeping) Enumerate(ctx context.Context, each func(string) error) error {
	return k.Namespace.(distribution.RepositoryEnumerator).Enumerate(ctx, each)
}

func (k keeping) Repository(ctx context.Context, name reference.Named) (distribution.Repository, error) {
	r, err := k.Namespace.Repository(ctx, name)
	if err != nil {
		return nil, err
	}
	kept, err := keptBySubject(ctx, r)
	return keepingRepository{r, kept}, err
}

type keepingRepository struct {
	distribution.Repository
	kept map[digest.Digest]bool
}

func (r keepingRepository) Tags(ctx context.Context) distribution.TagService {
	return keepingTags{r.Repository.Tags(ctx), r.kept}
}

type keepingTags struct {
	distribution.TagService
	kept map[digest.Digest]bool
}

func (t keepingTags) Lookup(ctx context.Context, desc ocispec.Descriptor) ([]string, error) {
	if t.kept[desc.Digest] {
		return []string{"its subject's"}, nil
	}
	return t.TagService.Lookup(ctx, desc)
}

// keptBySubject finds what stays in a repository because of its subject.
func keptBySubject(ctx context.Context, r distribution.Repository) (map[digest.Digest]bool, error) {
	manifests, err := r.Manifests(ctx)
	if err != nil {
		return nil, err
	}
	stays, kept := map[digest.Digest]bool{}, map[digest.Digest]bool{}
	leadsTo, about := map[digest.Digest][]digest.Digest{}, subjects{}
	var stay func(d digest.Digest)
	stay = func(d digest.Digest) {
		if stays[d] {
			return
		}
		stays[d] = true
		for _, to := range leadsTo[d] {
			stay(to)
		}
		for _, by := range about[d] {
			kept[by] = true
			stay(by)
		}
	}
	var tagged []digest.Digest
	err = enumerate(ctx, manifests, func(d digest.Digest) error {
		tags, err := r.Tags(ctx).Lookup(ctx, ocispec.Descriptor{Digest: d})
		if err != nil {
			return err
		}
		if len(tags) > 0 {
			tagged = append(tagged, d)
		}
		_, _, m, err := read(ctx, manifests, d)
		if err != nil {
			return err
		}
		if m != nil {
			about[m.Subject.Digest] = append(about[m.Subject.Digest], d)
		}
		found, err := manifests.Get(ctx, d)
		if err != nil {
			return nil // what is no manifest leads nowhere
		}
		for _, to := range found.References() {
			leadsTo[d] = append(leadsTo[d], to.Digest)
		}
		return nil
	})
	for _, d := range tagged {
		stay(d)
	}
	return kept, err
}
