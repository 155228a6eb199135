package dockerapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxJSON is how much of a JSON body is read: what Docker allows, and no honest request comes near it.
const maxJSON = 4 << 20

// parseQuery reads the query of the URL into r.Form; a form body is never read.
func parseQuery(r *http.Request) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("invalid query: %w", err)
	}
	r.Form = values
	return values, nil
}

// text is a query parameter, "" when absent.
func (c *call) text(key string) string { return c.r.Form.Get(key) }

// flag is true unless the parameter is absent or one of the words Docker takes for false.
func (c *call) flag(key string) bool {
	switch strings.ToLower(strings.TrimSpace(c.text(key))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// flagOr is flag with a value for absence.
func (c *call) flagOr(key string, absent bool) bool {
	if _, there := c.r.Form[key]; !there {
		return absent
	}
	return c.flag(key)
}

// seconds is an optional number of seconds.
func (c *call) seconds(key string) (*int, error) {
	value := c.text(key)
	if value == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		return nil, invalid("invalid value %q for parameter %q: it must be a whole number", value, key)
	}
	return &n, nil
}

// size is a terminal's height or width.
func (c *call) size(key, what string) (uint16, error) {
	n, err := strconv.ParseUint(c.text(key), 10, 16)
	if err != nil {
		return 0, invalid("invalid resize %s %q: it must be a number from 0 to 65535", what, c.text(key))
	}
	return uint16(n), nil
}

// checkJSON refuses a body that does not say it is JSON. A request without any body passes.
func checkJSON(r *http.Request) error {
	content := r.Header.Get("Content-Type")
	if content == "" && r.ContentLength == 0 {
		return nil
	}
	if media, _, err := mime.ParseMediaType(content); err != nil || media != "application/json" {
		return invalid("unsupported Content-Type header (%s): must be 'application/json'", content)
	}
	return nil
}

// body reads the whole JSON body, which may be empty.
func (c *call) body() ([]byte, error) {
	if err := checkJSON(c.r); err != nil {
		return nil, err
	}
	if c.r.ContentLength > maxJSON {
		return nil, errTooLarge
	}
	data, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxJSON))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, errTooLarge
		}
		return nil, invalid("read the request body: %w", err)
	}
	return data, nil
}

// decode reads a JSON body that must be there into out.
func (c *call) decode(out any) error {
	data, err := c.body()
	if err != nil {
		return err
	}
	return decodeJSON(data, out)
}

// decodeOptional reads a JSON body into out if there is one.
func (c *call) decodeOptional(out any) error {
	data, err := c.body()
	if err != nil || len(bytes.TrimSpace(data)) == 0 {
		return err
	}
	return decodeJSON(data, out)
}

func decodeJSON(data []byte, out any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return invalid("invalid JSON: got EOF while reading request body")
	}
	if hasNUL(data) {
		// The kernel would end the string there, and what runs would not be what the record says.
		return invalid("invalid JSON: a string holds the character NUL")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(out); err != nil {
		var syntax *json.SyntaxError
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &syntax) || errors.As(err, &wrong) || errors.Is(err, io.ErrUnexpectedEOF) {
			return invalid("invalid JSON: %w", err)
		}
		return invalid("invalid value in the request: %w", err) // it is what an address, a port or the like reads that says so
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid("unexpected content after JSON")
	}
	return nil
}

// hasNUL finds \u0000 escapes; a raw NUL is no JSON anyway.
func hasNUL(data []byte) bool {
	for {
		i := bytes.Index(data, []byte(`\u0000`))
		if i < 0 {
			return false
		}
		slashes := 0
		for slashes < i && data[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return true
		}
		data = data[i+1:]
	}
}

// writeJSON answers with v.
func (c *call) writeJSON(status int, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Content-Length", strconv.Itoa(buf.Len()))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(buf.Bytes())
	return nil
}

// noContent answers 204.
func (c *call) noContent() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// moment reads a point in time as the API gives it: seconds since 1970 with or without a fraction, a date, or a
// duration that goes back from now. Empty is the zero time.
func moment(value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(value); err == nil && strings.ContainsAny(value, "hmsuµn") {
		return now.Add(-d), nil
	}
	whole, fraction, _ := strings.Cut(value, ".")
	if sec, err := strconv.ParseInt(whole, 10, 64); err == nil {
		if len(fraction) > 9 {
			fraction = fraction[:9]
		}
		var nano int64
		if fraction != "" {
			n, err := strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 32)
			if err != nil {
				return time.Time{}, invalid("invalid time %q", value)
			}
			nano = int64(n)
		}
		return time.Unix(sec, nano), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15:04Z07:00", "2006-01-02",
		"2006-01-02Z07:00",
	} {
		if t, err := time.ParseInLocation(layout, value, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, invalid("failed to parse value as time or duration: %q", value)
}

// platformJSON turns the OCI platform of a query parameter into "os/arch[/variant]"; "" stays "".
func platformJSON(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(value), &p); err != nil {
		return "", invalid("failed to parse platform: %w", err)
	}
	if p.OS == "" || p.Architecture == "" {
		return "", invalid("both OS and Architecture must be provided")
	}
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s, nil
}

// platformsJSON reads a parameter that names platforms, each as JSON.
func (c *call) platformsJSON(key string) ([]string, error) {
	var out []string
	for _, value := range c.r.Form[key] {
		p, err := platformJSON(value)
		if err != nil {
			return nil, err
		}
		if p != "" {
			out = append(out, p)
		}
	}
	return out, nil
}
