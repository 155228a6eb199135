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
	"path/filepath"
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
	Mirrors   []string // URLs that are asked before Docker Hub, and HOST=URL, before that registry
	Insecure  []string // hosts ("host", "host:port") and networks in CIDR notation that need no verified TLS
	HostDirs  []string // default /etc/berth/certs.d, /etc/docker/certs.d
	Confs     []string // files as Podman's registries.conf, the first that exists counts; default see confFiles
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
	mirrors   map[string][]*url.URL // by the host in names
	hosts     []string
	nets      []netip.Prefix
	dirs      []string
	confs     []string
	userAgent string
	silence   time.Duration // of a body before it is asked for again
	backOff   time.Duration // before the second try
	lax       bool          // every registry is insecure
}

// Insecure is the client for a person who wants a registry to be asked without verified TLS this time.
func (c *Client) Insecure() *Client {
	out := *c
	out.lax = true
	return &out
}

// New checks the options.
func New(o Options) (*Client, error) {
	c := &Client{dirs: o.HostDirs, userAgent: o.UserAgent, silence: silence,
		backOff: backOff, confs: o.Confs, mirrors: map[string][]*url.URL{}}
	if c.confs == nil {
		c.confs = confFiles()
	}
	if c.dirs == nil {
		c.dirs = []string{"/etc/berth/certs.d", "/etc/docker/certs.d"}
	}
	if c.userAgent == "" {
		c.userAgent = "berth"
	}
	for _, m := range o.Mirrors {
		host, u, err := parseMirror(m)
		if err != nil {
			return nil, err
		}
		c.mirrors[host] = append(c.mirrors[host], u)
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

// parseMirror reads a mirror of Docker Hub, URL, or of any registry, HOST=URL.
func parseMirror(text string) (host string, u *url.URL, err error) {
	wrong := func(format string, args ...any) (string, *url.URL, error) {
		return "", nil, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	host, address, named := strings.Cut(text, "=")
	if !named || strings.Contains(host, "/") {
		host, address = dockerHub, text
	}
	u, err = url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" {
		return wrong("registry mirror %q is no http or https URL", text)
	}
	if u.User != nil {
		return wrong("registry mirror %q must not hold credentials", u.Redacted())
	}
	name, err := reference.ParseNormalizedNamed(host + "/a/b")
	if err != nil || reference.Domain(name) != host && host != "index.docker.io" {
		return wrong("registry mirror %q is for %q, which is no host as in image names", text, host)
	}
	return reference.Domain(name), u, nil
}

// Repository is a repository at its registry, for one request and its credentials. Close must be called.
type Repository struct {
	// OnPause is told when a request waits to be tried again. It may be nil, is set before the first request, must not
	// block, and may be called from several goroutines.
	OnPause func(Pause)

	c     *Client
	name  reference.Named
	auth  *Auth
	sites []site

	mu      sync.Mutex
	known   []*peer        // at all sites, nil if it was not looked yet
	clients []*http.Client // all that were made, to be closed
}

// Repository prepares to ask for the images of name, which has to be normalized. Nothing is sent yet.
func (c *Client) Repository(ctx context.Context, name reference.Named, auth *Auth) (*Repository, error) {
	_, byDigest := name.(reference.Digested)
	sites, err := c.sites(reference.TrimNamed(name), byDigest)
	if err != nil {
		return nil, err
	}
	return c.repository(ctx, name, auth, sites), nil
}

func (c *Client) repository(ctx context.Context, name reference.Named, auth *Auth, sites []site) *Repository {
	r := &Repository{c: c, name: reference.TrimNamed(name), auth: auth, sites: sites}
	for i := range r.sites {
		s := &r.sites[i]
		domain := reference.Domain(s.name)
		s.insecure = s.insecure || c.insecure(ctx, domain)
		o := config.HostOptions{
			HostDir:     c.hostDir,
			Credentials: r.credentials,
			UpdateClient: func(hc *http.Client) error {
				r.clients = append(r.clients, hc)
				hc.CheckRedirect = redirect
				if _, done := hc.Transport.(*guard); !done {
					hc.Transport = &guard{hc.Transport}
				}
				return nil
			},
		}
		if s.insecure && !docker.IsLocalhost(domain) {
			// With both, HTTPS is tried first and HTTP when the other side does not speak TLS.
			o.DefaultScheme = "http"
			o.DefaultTLS = &tls.Config{InsecureSkipVerify: true}
		}
		s.hosts = config.ConfigureHosts(ctx, o)
	}
	return r
}

// peers are the hosts to be asked, in order. With one answer for all requests, they share connections and tokens.
func (r *Repository) peers() ([]*peer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known != nil {
		return r.known, nil
	}
	var out []*peer
	for _, s := range r.sites {
		domain := reference.Domain(s.name)
		hosts, err := s.hosts(domain)
		if err != nil {
			return nil, fmt.Errorf("configuration of registry %q: %w", domain, err)
		}
		if mirrors := r.c.mirrors[domain]; len(mirrors) > 0 && len(hosts) > 0 && !r.c.hasHostsFile(domain) {
			hosts = append(mirrorHosts(mirrors, hosts[0].Client), hosts...)
		}
		for _, h := range hosts {
			if r.auth != nil && r.auth.RegistryToken != "" && r.trusted(h.Host) {
				h.Authorizer = &bearer{r.auth.RegistryToken, h.Host}
			}
			if s.mirror {
				h.Capabilities &^= docker.HostCapabilityPush
			}
			if !s.byTag {
				h.Capabilities &^= docker.HostCapabilityResolve
			}
			out = append(out, &peer{r, h, s.name, s.insecure})
		}
	}
	r.known = out
	return out, nil
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

// hasHostsFile tells whether a hosts.toml says all about a registry.
func (c *Client) hasHostsFile(host string) bool {
	dir, err := c.hostDir(host)
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(dir, "hosts.toml"))
	return err == nil
}

func mirrorHosts(mirrors []*url.URL, client *http.Client) []docker.RegistryHost {
	var out []docker.RegistryHost
	for _, u := range mirrors {
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
	if c.lax || docker.IsLocalhost(domain) || slices.Contains(c.hosts, strings.ToLower(domain)) {
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
func (r *Repository) Tags(ctx context.Context) (tags []string, err error) {
	err = r.askHosts(docker.HostCapabilityPull|docker.HostCapabilityResolve, func(p *peer) error {
		tags, err = p.tags(p.scoped(ctx))
		return err
	})
	if err != nil {
		return nil, r.explain(ctx, r.name, err)
	}
	return tags, nil
}

func (p *peer) tags(ctx context.Context) ([]string, error) {
	const page, maxTags, maxPages, maxTag = 1000, 100_000, 5000, 128
	var out []string
	next := p.source("tags", "list")
	next += map[bool]string{false: "?", true: "&"}[strings.Contains(next, "?")] + fmt.Sprintf("n=%d", page)
	for pages := 0; next != "" && len(out) < maxTags; pages++ {
		if pages == maxPages {
			return nil, fmt.Errorf("the list of tags of %q has no end", reference.Path(p.name))
		}
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
		if i := slices.IndexFunc(list.Tags, func(t string) bool { return len(t) > maxTag }); i >= 0 {
			return nil, fmt.Errorf("list of tags: %.40q is none", list.Tags[i])
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
	// The credentials are for the registry itself, wherever its images are.
	r := c.repository(ctx, name, auth, []site{{name: reference.TrimNamed(name), byTag: true}})
	defer r.Close()
	peers, err := r.peers()
	if err != nil {
		return err
	}
	if len(peers) == 0 {
		return fmt.Errorf("no host of registry %q is asked: look at its hosts.toml: %w", domain, errdefs.ErrFailedPrecondition)
	}
	p := peers[len(peers)-1]
	resp, err := p.send(ctx, request{method: http.MethodGet, address: p.host.Scheme + "://" + p.host.Host + p.host.Path + "/"},
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
