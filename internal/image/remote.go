package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-engine/berth/internal/registry"
)

// Remote is what a name leads to at its registry.
type Remote struct {
	Target    ocispec.Descriptor
	Platforms []ocispec.Platform // those of an index, or the one of a manifest; empty for an artifact
}

// Login asks a registry, named as in image names, whether it accepts credentials.
func (im *Images) Login(ctx context.Context, domain string, auth *Auth) error {
	return im.registry.Login(ctx, domain, auth)
}

// Remote looks a name up at its registry. It fetches the manifest, and of a single image its configuration, and
// keeps neither.
func (im *Images) Remote(ctx context.Context, ref string, auth *Auth) (*Remote, error) {
	name, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, badReference(ref, err)
	}
	ctx = im.store.Context(ctx)
	repo, err := im.registry.Repository(ctx, name, auth)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	target, err := repo.Resolve(ctx, reference.TagNameOnly(name))
	if err != nil {
		return nil, err
	}
	d, _, err := im.fetchManifest(ctx, target, repo.Fetch)
	if err != nil {
		return nil, err
	}
	out := &Remote{Target: target, Platforms: []ocispec.Platform{}}
	if images.IsIndexType(target.MediaType) {
		for _, m := range d.Manifests {
			if m.Platform != nil {
				out.Platforms = append(out.Platforms, *m.Platform)
			}
		}
		return out, nil
	}
	if d.artifact() != "" {
		return out, nil
	}
	data, err := im.fetchSmall(ctx, *d.Config, maxConfig, repo.Fetch)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	config, err := parseConfig(data, len(d.Layers))
	if err != nil {
		return nil, err
	}
	if config.OS != "" {
		out.Platforms = append(out.Platforms, platforms.Normalize(config.Platform))
	}
	return out, nil
}

// RegistryOf takes the registry's name, as it stands in image names, from what people and clients write for it: a host
// with or without a port, or a URL; "" is Docker Hub.
func RegistryOf(server string) (string, error) {
	host := strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	if server == "" || host == "docker.io" || host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io", nil
	}
	name, err := reference.ParseNormalizedNamed(host + "/a/b")
	if err != nil || reference.Domain(name) != host {
		return "", withKind(errdefs.ErrInvalidArgument, "%.200q is no address of a registry: name a host, as in "+
			"registry.example or registry.example:5000", server)
	}
	return host, nil
}

// maxSearch is the most repositories that a search gives; Docker Hub gives no more.
const maxSearch = 100

// Search asks for repositories. A term that begins with a registry, as an image name may, is asked of that one; others of
// Docker Hub. limit is at most 100, and 0 is the default.
func (im *Images) Search(ctx context.Context, term string, limit int, auth *Auth) ([]registry.Found, error) {
	if limit == 0 {
		limit = 25
	}
	if limit < 1 || limit > maxSearch {
		return nil, withKind(errdefs.ErrInvalidArgument, "limit %d is outside the range of [1, %d]", limit, maxSearch)
	}
	if strings.Contains(term, "://") {
		return nil, withKind(errdefs.ErrInvalidArgument, "invalid repository name: repository name (%s) should not have a scheme", term)
	}
	domain := "docker.io"
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		var err error
		if domain, err = RegistryOf(first); err != nil {
			return nil, err
		}
		term = rest
	}
	term = strings.TrimPrefix(term, "library/")
	return im.registry.Search(ctx, domain, term, limit, auth)
}
