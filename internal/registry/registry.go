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
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
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
	silence   time.Duration // of a body before it is asked for again
	backOff   time.Duration // before the second try
}

// New checks the options.
func New(o Options) (*Client, error) {
	c := &Client{dirs: o.HostDirs, userAgent: o.UserAgent, silence: silence,
		backOff: backOff}
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
	// OnPause is told when a request waits to be tried again. It may be nil, is set before the first request, must not
	// block, and may be called from several goroutines.
	OnPause func(Pause)

	c        *Client
	name     reference.Named
	auth     *Auth
	insecure bool

	configured docker.RegistryHosts

	mu      sync.Mutex
	known   map[string][]docker.RegistryHost // answers of configured
	clients []*http.Client                   // all that were made, to be closed
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
	r.configured = config.ConfigureHosts(ctx, o)
	return r, nil
}

// hosts are those to be asked for the images of a registry, in order. With one answer for all requests, they share
// connections and tokens.
func (r *Repository) hosts(host string) ([]docker.RegistryHost, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if hosts, ok := r.known[host]; ok {
		return slices.Clone(hosts), nil
	}
	hosts, err := r.configured(host)
	if err != nil {
		return nil, fmt.Errorf("configuration of registry %q: %w", host, err)
	}
	if dir, _ := r.c.hostDir(host); dir == "" && host == dockerHub {
		hosts = append(r.c.mirrorHosts(hosts[0].Client), hosts...)
	}
	for i := range hosts {
		if r.auth != nil && r.auth.RegistryToken != "" && r.trusted(hosts[i].Host) {
			hosts[i].Authorizer = &bearer{r.auth.RegistryToken, hosts[i].Host}
		}
	}
	if r.known == nil {
		r.known = map[string][]docker.RegistryHost{}
	}
	r.known[host] = hosts
	return slices.Clone(hosts), nil
}

// forgetHosts has the next request begin without connections and tokens.
func (r *Repository) forgetHosts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known = nil
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

// Tags lists the tags of the repository.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	hosts, err := r.hosts(reference.Domain(r.name))
	if err != nil {
		return nil, err
	}
	ctx = r.scoped(ctx)
	for _, h := range hosts {
		var tags []string
		if tags, err = (&peer{r, h}).tags(ctx); err == nil {
			return tags, nil
		}
	}
	return nil, r.explain(ctx, r.name, err)
}

func (p *peer) tags(ctx context.Context) ([]string, error) {
	const page, maxTags = 1000, 100_000
	var out []string
	next := p.source("tags", "list")
	next += map[bool]string{false: "?", true: "&"}[strings.Contains(next, "?")] + fmt.Sprintf("n=%d", page)
	for next != "" && len(out) < maxTags {
		resp, err := p.retry(ctx, request{method: http.MethodGet, address: next}, http.StatusOK)
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
	resp, err := (&peer{r, h}).send(ctx, request{method: http.MethodGet, address: h.Scheme + "://" + h.Host + h.Path + "/"},
		http.StatusOK)
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
