package engine

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"unicode/utf8"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
)

// logAttrs are the options of a log that choose what every entry says of its container, as `docker logs --details` shows it.
var logAttrs = []string{"env", "env-regex", "labels", "labels-regex", "tag"}

// attributes returns what each entry of a container's log carries by the options of its driver, as a JSON object; nil for
// nothing. Options that no container could have are an error of the kind ErrInvalidArgument.
func attributes(rec container.Record, options map[string]string) ([]byte, error) {
	found := map[string]string{}
	env := map[string]string{}
	for _, kv := range rec.Config.Process.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	for _, from := range []struct {
		option string
		values map[string]string
	}{{"labels", rec.Config.Labels}, {"env", env}} {
		for _, name := range strings.Split(options[from.option], ",") {
			if v, ok := from.values[name]; ok {
				found[name] = v
			}
		}
		option := from.option + "-regex"
		if options[option] == "" {
			continue
		}
		re, err := regexp.Compile(options[option])
		if err != nil {
			return nil, fmt.Errorf("invalid value for %s: %w%w", option, err, kind{errdefs.ErrInvalidArgument})
		}
		for name, v := range from.values {
			if re.MatchString(name) {
				found[name] = v
			}
		}
	}
	if options["tag"] != "" {
		tag, err := logTag(rec, options["tag"])
		if err != nil {
			return nil, fmt.Errorf("invalid value for tag: %w%w", err, kind{errdefs.ErrInvalidArgument})
		}
		found["tag"] = tag
	}
	if len(found) == 0 {
		return nil, nil
	}
	return json.Marshal(found)
}

// logTag fills in a tag's template.
func logTag(rec container.Record, text string) (string, error) {
	t, err := template.New("tag").Funcs(tagFuncs).Option("missingkey=zero").Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, logSubject{rec}); err != nil {
		return "", err
	}
	return b.String(), nil
}

var tagFuncs = template.FuncMap{
	"json":  func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
	"join":  strings.Join,
	"split": strings.Split,
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"truncate": func(s string, n int) string {
		if n < 0 || utf8.RuneCountInString(s) <= n {
			return s
		}
		return string([]rune(s)[:n])
	},
}

// logSubject is what a tag's template can ask, under Docker's names.
type logSubject struct{ rec container.Record }

// ID is the container's short ID.
func (s logSubject) ID() string { return short(s.rec.ID) }

// FullID is the container's whole ID.
func (s logSubject) FullID() string { return s.rec.ID }

// Name is the container's name, without Docker's slash.
func (s logSubject) Name() string { return s.rec.Name }

// ImageID is the short ID of the image.
func (s logSubject) ImageID() string { return short(s.rec.Config.ImageID) }

// ImageFullID is the digest of the image's configuration.
func (s logSubject) ImageFullID() string { return s.rec.Config.ImageID }

// ImageName is the image as the user named it.
func (s logSubject) ImageName() string { return s.rec.Config.Image }

// short is the form of an ID that people see.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(len(id), 12)]
}

// DaemonName is who writes the log.
func (s logSubject) DaemonName() string { return "berthd" }

// Hostname is the host's name.
func (s logSubject) Hostname() (string, error) { return os.Hostname() }

// Command is what the container executes.
func (s logSubject) Command() string {
	p := s.rec.Config.Process
	return strings.Join(slices.Concat(p.Entrypoint, p.Cmd), " ")
}

// ContainerLabels are the container's labels.
func (s logSubject) ContainerLabels() map[string]string { return maps.Clone(s.rec.Config.Labels) }
