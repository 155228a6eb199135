package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// explain turns an error of the protocol or the network into a sentence. ref may be nil.
func (r *Repository) explain(ctx context.Context, ref reference.Named, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var done *explained
	if errors.As(err, &done) {
		return err
	}
	text, kind := r.sentence(ref, err)
	return &explained{text, kind, err}
}

// explained keeps the cause for errors.As and shows the sentence only.
type explained struct {
	text  string
	kind  error
	cause error
}

func (e *explained) Error() string   { return e.text }
func (e *explained) Unwrap() []error { return []error{e.kind, e.cause} }

func (r *Repository) sentence(ref reference.Named, err error) (string, error) {
	domain, name := reference.Domain(r.name), reference.FamiliarName(r.name)
	code, detail := status(err)
	switch {
	case code == http.StatusUnauthorized, code == http.StatusForbidden, errors.Is(err, docker.ErrInvalidAuthorization):
		if ref == nil {
			return fmt.Sprintf("login to %q was refused: unauthorized: incorrect username or password", domain),
				errdefs.ErrUnauthenticated
		}
		if detail == "" {
			detail = "denied: requested access to the resource is denied"
		}
		return fmt.Sprintf("pull access denied for %s, repository does not exist or may require 'docker login': %s",
				name, detail),
			errdefs.ErrNotFound
	case code == http.StatusTooManyRequests:
		if detail == "" {
			detail = "toomanyrequests: too many requests"
		}
		return fmt.Sprintf("registry %q limits the rate of requests: %s", domain, detail), errdefs.ErrResourceExhausted
	case errdefs.IsNotFound(err) || code == http.StatusNotFound:
		if ref != nil && !reference.IsNameOnly(ref) {
			return fmt.Sprintf("manifest for %s not found: manifest unknown", reference.FamiliarString(ref)),
				errdefs.ErrNotFound
		}
		return fmt.Sprintf("repository %s not found or a part of it is missing at %q", name, domain),
			errdefs.ErrNotFound
	case code != 0:
		if detail != "" {
			detail = ": " + detail
		}
		return fmt.Sprintf("registry %q answered %d %s%s", domain, code, http.StatusText(code), detail),
			errdefs.ErrUnavailable
	}
	return fmt.Sprintf("cannot reach registry %q: %s", domain, network(err)), errdefs.ErrUnavailable
}

// status finds the HTTP status and the registry's own words in an error.
func status(err error) (code int, detail string) {
	var list docker.Errors
	if errors.As(err, &list) && len(list) > 0 {
		var one docker.Error
		if errors.As(list[0], &one) {
			detail = OneLine(strings.ToLower(one.Code.Error()) + ": " + one.Message)
		}
	}
	var u remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &u) {
		return u.StatusCode, detail
	}
	return 0, detail
}

// Missing tells whether an error is that the registry has no such thing, as opposed to that it does not show it.
func Missing(err error) bool {
	code, _ := status(err)
	return code == http.StatusNotFound
}

// network says in a few words why the other side could not be talked to.
func network(err error) string {
	var (
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		record  tls.RecordHeaderError
		u       *url.Error
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("no such host as %q", dns.Name)
	case errors.As(err, &dns):
		return fmt.Sprintf("the address of %q cannot be found out: %s", dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused: is it running?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to it"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return "it closed the connection"
	case errors.Is(err, errSilent):
		return errSilent.Error()
	case isTimeout(err):
		return "it did not answer in time"
	case errors.As(err, &unknown):
		return "its certificate is signed by an unknown authority: put the authority's certificate into /etc/berth/certs.d/HOST/ca.crt"
	case errors.As(err, &host), errors.As(err, &invalid):
		return "its certificate is not valid: " + err.Error()
	case errors.As(err, &record):
		return "it does not speak TLS: declare it as insecure if that is meant"
	case errors.As(err, &u):
		return u.Err.Error()
	}
	return err.Error()
}
