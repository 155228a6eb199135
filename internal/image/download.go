package image

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
)

// Download opens what is at an http or https address, through the proxy of the environment. An address without a scheme is one of
// http, as with Docker. What comes is nobody's that is trusted; it is for Import.
func (im *Images) Download(ctx context.Context, address string) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme == "" {
		u, err = url.Parse("http://" + address)
	}
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, withKind(errdefs.ErrInvalidArgument, "nothing can be imported from there: name a file, or an http or https address")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, withKind(errdefs.ErrInvalidArgument, "%s is no address", u.Redacted())
	}
	req.Header.Set("User-Agent", "berth")
	web := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute,
		DisableKeepAlives: true, DisableCompression: true}}
	resp, err := web.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, withKind(errdefs.ErrUnavailable, "cannot reach %s: %w", u.Redacted(), unwrapURL(err))
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, withKind(errdefs.ErrUnavailable, "%s answered %s", u.Redacted(), resp.Status)
	}
	return resp.Body, nil
}

// unwrapURL takes the address from an error, which may have a password in it.
func unwrapURL(err error) error {
	if u, ok := err.(*url.Error); ok {
		return u.Err
	}
	return err
}
