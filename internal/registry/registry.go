package registry

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the largest manifest or index that is read, in bytes.
const MaxManifest = 4 << 20

const dockerHub = "docker.io"

// Options are the settings of a Client. The zero value talks to any registry over verified TLS.
type Options struct {
	Mirrors   []string // of Docker Hub: URLs, asked before it
	Insecure  []string // hosts ("host", "host:port") and networks in CIDR notation that need no verified TLS
	HostDirs  []string // default /etc/berth/certs.d, /etc/docker/certs.d
	UserAgent string   // default "berth"
}

// Auth are the credentials of one request. They are sent to the registry of the name only.
type Auth struct {
	Username, Password string
	IdentityToken      string // instead of a password: an OAuth2 refresh token
	RegistryToken      string // instead of everything: a bearer token
	ServerAddress      string // where the client has them from; not looked at
}

// Client asks registries. Its methods may be called from any goroutine.
type Client struct {
	mirrors   []*url.URL
	hosts     []string
	nets      []netip.Prefix
	dirs      []string
	userAgent string
}

// New checks the options.
func New(o Options) (*Client, error) {
	c := &Client{dirs: o.HostDirs, userAgent: o.UserAgent}
	if c.dirs == nil {
		c.dirs = []string{"/etc/berth/certs.d", "/etc/docker/certs.d"}
	}
	if c.userAgent == "" {
		c.userAgent = "berth"
	}
	for _, m := range o.Mirrors {
		u, err := url.Parse(m)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" ||
			u.Fragment != "" {
			return nil, fmt.Errorf("registry mirror %q is no http or https URL: %w", m, errdefs.ErrInvalidArgument)
		}
		if u.User != nil {
			return nil, fmt.Errorf("registry mirror %q must not hold credentials: %w", u.Redacted(),
				errdefs.ErrInvalidArgument)
		}
		c.mirrors = append(c.mirrors, u)
	}
	for _, r := range o.Insecure {
		if p, err := netip.ParsePrefix(r); err == nil {
			c.nets = append(c.nets, p.Masked())
			continue
		}
		host := strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(r, "http://"), "https://"),
			"/"))
		if host == "" || strings.ContainsAny(host, "/ @?#") {
			return nil, fmt.Errorf("insecure registry %q is neither a host nor a network: %w", r,
				errdefs.ErrInvalidArgument)
		}
		c.hosts = append(c.hosts, host)
	}
	return c, nil
}

// Repository is a repository at its registry, for one request and its credentials. Close must be called.
type Repository struct {
	c        *Client
	name     reference.Named
	auth     *Auth
	insecure bool
	resolver remotes.Resolver
	hosts    docker.RegistryHosts

	mu      sync.Mutex
	clients []*http.Client // all that were made, to be closed
}

// Repository prepares to ask for the images of name, which has to be normalized. Nothing is sent yet.
func (c *Client) Repository(ctx context.Context, name reference.Named, auth *Auth) (*Repository, error) {
	r := &Repository{c: c, name: reference.TrimNamed(name), auth: auth}
	domain := reference.Domain(name)
	r.insecure = c.insecure(ctx, domain)
	o := config.HostOptions{
		HostDir:     c.hostDir,
		Credentials: r.credentials,
		UpdateClient: func(hc *http.Client) error {
			r.clients = append(r.clients, hc)
			hc.CheckRedirect = redirect
			return nil
		},
	}
	if r.insecure && !docker.IsLocalhost(domain) {
		// With both, HTTPS is tried first and HTTP when the other side does not speak TLS.
		o.DefaultScheme = "http"
		o.DefaultTLS = &tls.Config{InsecureSkipVerify: true}
	}
	configured := config.ConfigureHosts(ctx, o)
	known := map[string][]docker.RegistryHost{}
	// The resolver asks again for every blob. With one answer, connections and tokens are shared by all of them.
	r.hosts = func(host string) ([]docker.RegistryHost, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if hosts, ok := known[host]; ok {
			return slices.Clone(hosts), nil
		}
		hosts, err := configured(host)
		if err != nil {
			return nil, fmt.Errorf("configuration of registry %q: %w", host, err)
		}
		if dir, _ := c.hostDir(host); dir == "" && host == dockerHub {
			hosts = append(c.mirrorHosts(hosts[0].Client), hosts...)
		}
		for i := range hosts {
			if r.auth != nil && r.auth.RegistryToken != "" && r.trusted(hosts[i].Host) {
				hosts[i].Authorizer = &bearer{r.auth.RegistryToken, hosts[i].Host}
			}
		}
		known[host] = hosts
		return slices.Clone(hosts), nil
	}
	r.resolver = docker.NewResolver(docker.ResolverOptions{
		Hosts: r.hosts, Headers: http.Header{"User-Agent": {c.userAgent}},
	})
	return r, nil
}

// Close drops idle connections.
func (r *Repository) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clients {
		c.CloseIdleConnections()
	}
}

func (c *Client) hostDir(host string) (string, error) {
	for _, dir := range c.dirs {
		found, err := config.HostDirFromRoot(dir)(host)
		if err == nil || !errdefs.IsNotFound(err) {
			return found, err
		}
	}
	return "", errdefs.ErrNotFound
}

func (c *Client) mirrorHosts(client *http.Client) []docker.RegistryHost {
	var out []docker.RegistryHost
	for _, u := range c.mirrors {
		// It gets an authorizer without credentials: a mirror may hand out tokens to everybody.
		out = append(out, docker.RegistryHost{
			Client: client, Authorizer: docker.NewDockerAuthorizer(docker.WithAuthClient(client)),
			Host: u.Host, Scheme: u.Scheme, Path: strings.TrimSuffix(u.Path, "/") + "/v2",
			Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
		})
	}
	return out
}

// trusted tells whether a host is the registry of the name, to which the credentials belong.
func (r *Repository) trusted(host string) bool {
	domain := reference.Domain(r.name)
	return host == domain || domain == dockerHub && host == "registry-1.docker.io"
}

func (r *Repository) credentials(host string) (user, secret string, err error) {
	if r.auth == nil || !r.trusted(host) {
		return "", "", nil
	}
	if r.auth.IdentityToken != "" {
		return "", r.auth.IdentityToken, nil
	}
	return r.auth.Username, r.auth.Password, nil
}

// bearer is an authorizer with a token of the client's own, which is for one host.
type bearer struct{ token, host string }

// Authorize implements docker.Authorizer.
func (b *bearer) Authorize(_ context.Context, req *http.Request) error {
	if req.URL.Host == b.host {
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	return nil
}

// AddResponses implements docker.Authorizer: a token that is refused cannot be renewed.
func (b *bearer) AddResponses(context.Context, []*http.Response) error {
	return docker.ErrInvalidAuthorization
}

// insecure tells whether a registry may be asked without verified TLS.
func (c *Client) insecure(ctx context.Context, domain string) bool {
	if docker.IsLocalhost(domain) || slices.Contains(c.hosts, strings.ToLower(domain)) {
		return true
	}
	host, _, err := net.SplitHostPort(domain)
	if err != nil {
		host = domain
	}
	if slices.Contains(c.hosts, strings.ToLower(host)) {
		return true
	}
	if len(c.nets) == 0 {
		return false
	}
	addrs := []netip.Addr{}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		addrs = append(addrs, a)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		return slices.ContainsFunc(c.nets, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
	})
}

// Resolve asks what a reference means at the moment: a tag of the repository, or a digest in it. The size in the
// descriptor is what the registry claims.
func (r *Repository) Resolve(ctx context.Context, ref reference.Named) (ocispec.Descriptor, error) {
	_, desc, err := r.resolver.Resolve(ctx, resolvable(ref))
	if err != nil {
		return desc, r.explain(ctx, ref, err)
	}
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

// resolvable drops the tag where there is a digest too, which alone counts.
func resolvable(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return reference.TrimNamed(ref).Name() + "@" + d.Digest().String()
	}
	return reference.TagNameOnly(ref).String()
}

// Fetch reads a blob or manifest of the repository. A reading that breaks off is continued where it stopped.
// The content is not verified here. Addresses in the descriptor are not followed.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	desc.URLs = nil
	f, err := r.resolver.Fetcher(ctx, r.name.Name()+"@"+desc.Digest.String())
	if err != nil {
		return nil, r.explain(ctx, r.name, err)
	}
	rc, err := f.Fetch(ctx, desc)
	if err != nil {
		return nil, r.explain(ctx, r.name, err)
	}
	return &reading{ReadCloser: rc, ctx: ctx, r: r}, nil
}

// reading explains the errors that come up while a blob is read; the request itself is sent by the first Read.
type reading struct {
	io.ReadCloser
	ctx context.Context
	r   *Repository
}

func (g *reading) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if errdefs.IsFailedPrecondition(err) {
		return n, &explained{"it has more bytes than are announced", errdefs.ErrInvalidArgument, err}
	}
	if err != nil && err != io.EOF {
		err = g.r.explain(g.ctx, g.r.name, err)
	}
	return n, err
}

// Seek moves to where an earlier reading had stopped.
func (g *reading) Seek(offset int64, whence int) (int64, error) {
	s, ok := g.ReadCloser.(io.Seeker)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return s.Seek(offset, whence)
}

// Tags lists the tags of the repository.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	hosts, err := r.hosts(reference.Domain(r.name))
	if err != nil {
		return nil, err
	}
	ctx = docker.WithScope(ctx, "repository:"+reference.Path(r.name)+":pull")
	for _, h := range hosts {
		var tags []string
		if tags, err = r.tags(ctx, h); err == nil {
			return tags, nil
		}
	}
	return nil, r.explain(ctx, r.name, err)
}

func (r *Repository) tags(ctx context.Context, h docker.RegistryHost) ([]string, error) {
	const page, maxTags = 1000, 100_000
	var out []string
	next := h.Scheme + "://" + h.Host + h.Path + "/" + reference.Path(r.name) + fmt.Sprintf("/tags/list?n=%d", page)
	for next != "" && len(out) < maxTags {
		resp, err := r.get(ctx, h, next)
		if err != nil {
			return nil, err
		}
		var list struct{ Tags []string }
		err = json.NewDecoder(io.LimitReader(resp.Body, MaxManifest)).Decode(&list)
		_ = resp.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("list of tags: %w", err)
		}
		out = append(out, list.Tags...)
		if next, err = nextPage(resp); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// nextPage reads the Link header. A page elsewhere is not followed: the credentials would go along.
func nextPage(resp *http.Response) (string, error) {
	link, _, _ := strings.Cut(resp.Header.Get("Link"), ">")
	link = strings.TrimPrefix(strings.TrimSpace(link), "<")
	if link == "" {
		return "", nil
	}
	u, err := resp.Request.URL.Parse(link)
	if err != nil || u.Host != resp.Request.URL.Host || u.Scheme != resp.Request.URL.Scheme ||
		u.String() == resp.Request.URL.String() {
		return "", fmt.Errorf("the next page of the list of tags is at %q, which is not followed", link)
	}
	return u.String(), nil
}

func (r *Repository) get(ctx context.Context, h docker.RegistryHost, address string) (*http.Response, error) {
	var seen []*http.Response
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return nil, err
		}
		req.Header = h.Header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("User-Agent", r.c.userAgent)
		if h.Authorizer != nil {
			if err := h.Authorizer.Authorize(ctx, req); err != nil {
				return nil, err
			}
		}
		resp, err := h.Client.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		_ = resp.Body.Close()
		seen = append(seen, resp)
		if resp.StatusCode == http.StatusUnauthorized && h.Authorizer != nil && len(seen) < 3 &&
			h.Authorizer.AddResponses(ctx, seen) == nil {
			continue
		}
		return nil, statusError(resp.StatusCode)
	}
}

// Login checks credentials with a registry, which is named as in image names.
func (c *Client) Login(ctx context.Context, domain string, auth *Auth) error {
	name, err := reference.ParseNormalizedNamed(domain + "/berth/login")
	if err != nil {
		return fmt.Errorf("registry %q: %w: %w", domain, err, errdefs.ErrInvalidArgument)
	}
	r, err := c.Repository(ctx, name, auth)
	if err != nil {
		return err
	}
	defer r.Close()
	hosts, err := r.hosts(domain)
	if err != nil {
		return err
	}
	h := hosts[len(hosts)-1]
	resp, err := r.get(ctx, h, h.Scheme+"://"+h.Host+h.Path+"/")
	if err != nil {
		return r.explain(ctx, nil, err)
	}
	return resp.Body.Close()
}

// isTimeout covers what the network says when nobody answers.
func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, os.ErrDeadlineExceeded)
}
