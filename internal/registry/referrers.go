package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A manifest may be about another one, its subject: a signature, say, or what was found in an image. Registries of
// version 1.1 of the distribution specification list what is about a manifest, and say in the header OCI-Subject that they
// have seen it. At others it is the client that keeps the list, an index under the tag <algorithm>-<hex> of the subject.

// referring is what a manifest says of itself to such a list.
type referring struct {
	Subject      *ocispec.Descriptor
	ArtifactType string
	Config       struct{ MediaType string }
	Annotations  map[string]string
}

// referrersTag is where the list of what is about a manifest is kept.
func referrersTag(d digest.Digest) string {
	algorithm, hex := d.Algorithm().String(), d.Encoded()
	return algorithm[:min(32, len(algorithm))] + "-" + hex[:min(64, len(hex))]
}

// refer adds a manifest that was pushed to the list of its subject, if it has one.
func (p *pusher) refer(ctx context.Context, desc ocispec.Descriptor, data []byte) error {
	var m referring
	if json.Unmarshal(data, &m) != nil || m.Subject == nil || m.Subject.Digest.Validate() != nil {
		return nil
	}
	tag := referrersTag(m.Subject.Digest)
	list, err := p.referrers(ctx, tag)
	if err != nil {
		return fmt.Errorf("list what is about %s: %w", m.Subject.Digest, err)
	}
	if slices.ContainsFunc(list.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	entry := ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size, ArtifactType: m.ArtifactType,
		Annotations: m.Annotations}
	if entry.ArtifactType == "" {
		entry.ArtifactType = m.Config.MediaType
	}
	list.Manifests = append(list.Manifests, entry)
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	resp, err := p.retry(ctx, request{method: http.MethodPut, address: p.address("manifests", tag),
		header: http.Header{"Content-Type": {ocispec.MediaTypeImageIndex}}, body: strings.NewReader(string(text)), size: int64(len(text))},
		http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	drain(resp)
	return nil
}

// referrers reads such a list; it is empty when there is none.
func (p *pusher) referrers(ctx context.Context, tag string) (*ocispec.Index, error) {
	list := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{}}
	resp, err := p.retry(ctx, request{method: http.MethodGet, address: p.address("manifests", tag),
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex + ", */*"}}}, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return list, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest))
	if err != nil {
		return nil, err
	}
	list.MediaType, list.Manifests = "", nil
	if err := json.Unmarshal(text, list); err != nil || list.MediaType != ocispec.MediaTypeImageIndex {
		return nil, fmt.Errorf("what tag %q leads to is no such list: %w", tag, errdefs.ErrFailedPrecondition)
	}
	return list, nil
}
