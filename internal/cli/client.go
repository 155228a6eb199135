package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/moby/client"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
)

// apiVersion is what the daemon of this machine is spoken to in. It comes from the same release, so nobody asks.
const apiVersion = "1.55"

// host returns the server to talk to and whether a person named it.
func (a *app) host() (host string, named bool) {
	if len(a.global.hosts) == 1 {
		return normalHost(a.global.hosts[0]), true
	}
	for _, name := range []string{"BERTH_HOST", "DOCKER_HOST"} {
		if v := a.env[name]; v != "" {
			return normalHost(v), true
		}
	}
	if a.Host != "" {
		return a.Host, false
	}
	return DefaultHost, false
}

// normalHost fills in what people leave out: the protocol and the port.
func normalHost(host string) string {
	host = strings.TrimSpace(host)
	proto, addr, ok := strings.Cut(host, "://")
	switch {
	case !ok && strings.HasPrefix(host, "/"):
		return "unix://" + host
	case !ok:
		proto, addr = "tcp", host
	}
	if proto == "tcp" {
		address, path, _ := strings.Cut(addr, "/")
		if _, _, err := net.SplitHostPort(address); err != nil && address != "" {
			address = net.JoinHostPort(strings.Trim(address, "[]"), "2375")
		}
		if path != "" {
			address += "/" + path
		}
		addr = address
	}
	return proto + "://" + addr
}

// client returns the client of the API. It opens no connection.
func (a *app) client() (*client.Client, error) {
	if a.api != nil {
		return a.api, nil
	}
	host, named := a.host()
	proto, addr, _ := strings.Cut(host, "://")
	switch proto {
	case "unix", "tcp", "http", "https":
	case "ssh":
		return nil, fmt.Errorf("cannot reach %q: connections over ssh are not supported: forward the socket with "+
			"ssh -L and name it with -H unix://…", host)
	default:
		return nil, fmt.Errorf("invalid server address %q: use unix:///path/to/socket or tcp://address:port", host)
	}
	if v := a.env["DOCKER_CONTEXT"]; v != "" && v != "default" && !named {
		return nil, fmt.Errorf("there are no contexts: unset DOCKER_CONTEXT (%q) or name the server with DOCKER_HOST", v)
	}
	opts := []client.Opt{client.WithHost(host), client.WithUserAgent("berth/" + a.build.Version),
		client.WithTraceOptions(otelhttp.WithFilter(untraced))}
	tlsOpts, err := a.tlsOptions(proto)
	if err != nil {
		return nil, err
	}
	opts = append(opts, tlsOpts...)
	if v := a.env["DOCKER_API_VERSION"]; v != "" {
		opts = append(opts, client.WithAPIVersion(v))
	} else if !named || a.env["BERTH_HOST"] != "" && len(a.global.hosts) == 0 {
		opts = append(opts, client.WithAPIVersion(apiVersion))
	}
	if proto == "unix" {
		opts = append(opts, client.WithDialContext(a.dialer(addr, named)))
	}
	config, err := a.configFile()
	if err != nil {
		return nil, err
	}
	if len(config.HTTPHeaders) > 0 {
		opts = append(opts, client.WithHTTPHeaders(config.HTTPHeaders))
	}
	if a.global.debug {
		opts = append(opts, client.WithHTTPRequestHook(func(r *http.Request) error {
			fmt.Fprintf(a.Err, "%s %s\n", r.Method, r.URL.RequestURI())
			return nil
		}), client.WithHTTPResponseHook(func(r *http.Response) {
			fmt.Fprintf(a.Err, "  %s\n", r.Status)
		}))
	}
	a.api, err = client.New(opts...)
	return a.api, err
}

// untraced keeps requests out of OpenTelemetry: this program exports no traces, and making them ready costs each request.
func untraced(*http.Request) bool { return false }

func (a *app) tlsOptions(proto string) ([]client.Opt, error) {
	g := &a.global
	verify := g.tlsVerify || a.env["DOCKER_TLS_VERIFY"] != ""
	if !(verify || g.tls || a.env["DOCKER_TLS"] != "") || proto == "unix" {
		return nil, nil
	}
	dir := a.env["DOCKER_CERT_PATH"]
	if dir == "" {
		dir = a.configDir()
	}
	ca, cert, key := g.tlsCA, g.tlsCert, g.tlsKey
	if ca == "" {
		ca = filepath.Join(dir, "ca.pem")
	}
	if cert == "" {
		cert = filepath.Join(dir, "cert.pem")
	}
	if key == "" {
		key = filepath.Join(dir, "key.pem")
	}
	// A client certificate is used where there is one; one that was named must exist.
	if g.tlsCert == "" && g.tlsKey == "" && !exists(cert) && !exists(key) {
		cert, key = "", ""
	}
	if !verify {
		return nil, fmt.Errorf("refusing a TLS connection that is not verified: use --tlsverify, and --tlscacert " +
			"with the authority that signed the server's certificate")
	}
	return []client.Opt{client.WithTLSClientConfig(ca, cert, key), client.WithScheme("https")}, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// dialer connects to a unix socket. When nobody named the server and none answers, it starts the daemon.
func (a *app) dialer(path string, named bool) func(context.Context, string, string) (net.Conn, error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dial(ctx)
		if err == nil || !silent(err) {
			return conn, a.explain(err, path, named)
		}
		if named || a.env["BERTH_NO_AUTOSTART"] != "" {
			return nil, a.explain(err, path, named)
		}
		if err := a.autostart(ctx, path, func() bool {
			conn, err = dial(ctx)
			return err == nil
		}); err != nil {
			return nil, err
		}
		if conn == nil {
			conn, err = dial(ctx)
		}
		return conn, a.explain(err, path, named)
	}
}

// silent reports whether a dial failed because nobody listens.
func silent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// connectError is a failure to reach the server, with the next step to take.
type connectError struct{ text string }

func (e *connectError) Error() string { return e.text }

func (a *app) explain(err error, path string, named bool) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &connectError{fmt.Sprintf("permission denied on the daemon's socket %s: run this as root, or as a member "+
			"of the group that owns the socket", path)}
	case silent(err) && named:
		return &connectError{fmt.Sprintf("Cannot connect to the Docker daemon at unix://%s. Is the docker daemon running?",
			path)}
	case silent(err):
		return &connectError{fmt.Sprintf("cannot connect to the daemon at unix://%s. Is it running? "+
			"Start it with: berthd", path)}
	}
	return err
}

// plainError takes from an error what the layers around it say of the request and leaves what a person can use.
func plainError(err error) error {
	var connect *connectError
	if errors.As(err, &connect) {
		return connect
	}
	return err
}
