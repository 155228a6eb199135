package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

const (
	// hubIndex is where Docker Hub is searched, which its registry is not.
	hubIndex = "index.docker.io"

	// maxFound bounds an answer, in bytes.
	maxFound = 4 << 20
)

// Found is a repository that a search gave.
type Found struct {
	Name        string
	Description string
	Stars       int
	Official    bool
}

// basic is an authorizer with a name and a password, for a host that asks for none and shows more to whom it knows.
type basic struct{ user, password, host string }

// Authorize implements docker.Authorizer.
func (b *basic) Authorize(_ context.Context, req *http.Request) error {
	if req.URL.Host == b.host && req.URL.Scheme == "https" {
		req.SetBasicAuth(b.user, b.password)
	}
	return nil
}

// AddResponses implements docker.Authorizer: there is nothing more to show.
func (b *basic) AddResponses(context.Context, []*http.Response) error {
	return docker.ErrInvalidAuthorization
}

// Search asks a registry, named as in image names, for repositories. Only Docker Hub and a few others answer: it is of the
// protocol's first version (GET /v1/search), which the distribution specification has nothing in place of. Who has logged in at Docker
// Hub finds what is private there, too.
func (c *Client) Search(ctx context.Context, domain, term string, limit int, auth *Auth) ([]Found, error) {
	name, err := reference.ParseNormalizedNamed(domain + "/berth/search")
	if err != nil {
		return nil, fmt.Errorf("registry %q: %w: %w", domain, err, errdefs.ErrInvalidArgument)
	}
	r := c.repository(ctx, name, auth, []site{{name: reference.TrimNamed(name), byTag: true}})
	defer r.Close()
	peers, err := r.peers()
	if err != nil {
		return nil, err
	}
	if len(peers) == 0 {
		return nil, fmt.Errorf("no host of registry %q is asked: look at its hosts.toml: %w", domain, errdefs.ErrFailedPrecondition)
	}
	p := *peers[len(peers)-1]
	if domain == dockerHub && p.host.Host == "registry-1.docker.io" {
		p.host.Host, p.host.Authorizer = hubIndex, nil
		if auth != nil && auth.Password != "" {
			p.host.Authorizer = &basic{auth.Username, auth.Password, hubIndex}
		}
	}
	query := url.Values{"q": {term}, "n": {strconv.Itoa(limit)}}
	address := p.host.Scheme + "://" + p.host.Host + "/v1/search?" + query.Encode()
	resp, err := p.retry(ctx, request{method: http.MethodGet, address: address}, http.StatusOK)
	if code, _ := status(err); slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone, http.StatusNotImplemented}, code) {
		return nil, &explained{fmt.Sprintf("registry %q has no search: pull the image by its name", domain), errdefs.ErrNotImplemented, err}
	}
	if err != nil {
		return nil, r.explain(ctx, nil, err)
	}
	defer resp.Body.Close()
	var answer struct {
		Results []struct {
			Name        string
			Description string
			StarCount   int  `json:"star_count"`
			IsOfficial  bool `json:"is_official"`
		}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxFound)).Decode(&answer); err != nil {
		return nil, &explained{fmt.Sprintf("registry %q has answered the search with something else than a list", domain), errdefs.ErrUnavailable, err}
	}
	var out []Found
	for _, f := range answer.Results[:min(len(answer.Results), limit)] {
		out = append(out, Found{Name: f.Name, Description: f.Description, Stars: f.StarCount, Official: f.IsOfficial})
	}
	return out, nil
}
