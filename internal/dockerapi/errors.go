package dockerapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/berth-engine/berth/internal/monitor"
	"github.com/containerd/errdefs"
)

// kind gives an error a place in the table of statusOf without adding to its text, which users' scripts match.
type kind struct {
	error
	of error
}

func (k kind) Unwrap() []error { return []error{k.error, k.of} }

// kindf is fmt.Errorf for an error of the given errdefs kind.
func kindf(of error, format string, args ...any) error {
	return kind{fmt.Errorf(format, args...), of}
}

// invalid is an error about the request, answered with 400.
func invalid(format string, args ...any) error {
	return kind{fmt.Errorf(format, args...), errdefs.ErrInvalidArgument}
}

// unsupported is an error about something Berth knows and does not do, answered with 501.
func unsupported(format string, args ...any) error {
	return kind{fmt.Errorf(format, args...), errdefs.ErrNotImplemented}
}

// errTooLarge is answered with 413.
var errTooLarge = errors.New("the request body is larger than the 4 MiB that are allowed")

// statusOf is the one place where kinds of errors become HTTP statuses.
func statusOf(err error) int {
	var tooLarge *http.MaxBytesError
	var start *monitor.StartError
	switch {
	case errors.Is(err, errTooLarge), errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &start) && (start.Code == 126 || start.Code == 127):
		return http.StatusBadRequest // the program that was asked for cannot be run
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err), errdefs.IsFailedPrecondition(err),
		errdefs.IsResourceExhausted(err): // Docker blames the request when addresses have run out
		return http.StatusBadRequest
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err), errdefs.IsAborted(err):
		return http.StatusConflict
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	case errdefs.IsNotModified(err):
		return http.StatusNotModified
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// writeError answers with err, unless the answer has begun, when it can only be cut off.
func (s *Server) writeError(c *call, err error) {
	status := statusOf(err)
	switch {
	case c.ctx().Err() != nil: // the client has gone, or the daemon is going
		s.log.Debug("request cut short", "method", c.r.Method, "path", c.r.URL.Path, "error", err)
	case status >= 500 && status != http.StatusNotImplemented && status != http.StatusServiceUnavailable:
		s.log.Error("request failed", "method", c.r.Method, "path", c.r.URL.Path, "error", err)
	default:
		s.log.Debug("request refused", "method", c.r.Method, "path", c.r.URL.Path, "status", status, "error", err)
	}
	if status == http.StatusNotModified {
		c.w.WriteHeader(status)
		return
	}
	body, _ := json.Marshal(struct {
		Message string `json:"message"`
	}{err.Error()})
	h := c.w.Header()
	h.Del("Content-Length")
	h.Del("Content-Encoding")
	h.Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, _ = c.w.Write(append(body, '\n'))
}
