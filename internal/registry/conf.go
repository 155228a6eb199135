package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/pelletier/go-toml/v2"
)

// Podman's registries.conf, version 2 (containers-registries.conf(5)), as far as it says where images are. The file is read
// anew by every request, then the *.conf files in the directory beside it, FILE.d, in the order of their names: a later
// table replaces an earlier one of the same prefix. Of all tables, the one with the longest prefix of a name counts.
// What it says of short names is not looked at, for a short name is Docker Hub's here.

// maxConf is the largest such file that is read, in bytes.
const maxConf = 1 << 20

type registriesConf struct {
	Registries []confRegistry `toml:"registry"`
	Old        any            `toml:"registries"` // of version 1
}

// confRegistry is one table [[registry]].
type confRegistry struct {
	Prefix       string       `toml:"prefix"`
	Location     string       `toml:"location"`
	Insecure     bool         `toml:"insecure"`
	Blocked      bool         `toml:"blocked"`
	ByDigestOnly bool         `toml:"mirror-by-digest-only"`
	Mirrors      []confMirror `toml:"mirror"`

	file string
}

// confMirror is one table [[registry.mirror]].
type confMirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	Pull     string `toml:"pull-from-mirror"` // "", "all", "digest-only", "tag-only"
}

// site is where a repository may be.
type site struct {
	name     reference.Named
	insecure bool
	mirror   bool
	byTag    bool                 // tags may be asked for there
	hosts    docker.RegistryHosts // of its registry; set by Client.repository
}

// sites says where the images of name are, in the order in which to ask. byDigest tells that no tag is asked for.
func (c *Client) sites(name reference.Named, byDigest bool) ([]site, error) {
	conf, err := c.conf(name)
	if err != nil {
		return nil, err
	}
	if conf == nil {
		return []site{{name: name, byTag: true}}, nil
	}
	if conf.Blocked {
		return nil, fmt.Errorf("registry %s is blocked in %s: %w", conf.Prefix, conf.file, errdefs.ErrPermissionDenied)
	}
	var out []site
	for _, m := range conf.Mirrors {
		p := site{insecure: m.Insecure, mirror: true, byTag: !conf.ByDigestOnly && m.Pull != "digest-only"}
		if byDigest && m.Pull == "tag-only" {
			continue
		}
		if p.name, err = conf.rewrite(name, m.Location); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	p := site{insecure: conf.Insecure, byTag: true}
	if p.name, err = conf.rewrite(name, conf.Location); err != nil {
		return nil, err
	}
	return append(out, p), nil
}

// conf finds the table for a name, nil if there is none.
func (c *Client) conf(name reference.Named) (*confRegistry, error) {
	all, err := c.readConf()
	if err != nil {
		return nil, err
	}
	var best *confRegistry
	for i, r := range all {
		if r.matches(name.Name()) > 0 && (best == nil || len(r.Prefix) > len(best.Prefix)) {
			best = &all[i]
		}
	}
	return best, nil
}

func (c *Client) readConf() ([]confRegistry, error) {
	for _, file := range c.confs {
		files, err := filepath.Glob(file + ".d/*.conf")
		if err != nil {
			return nil, err // the name is ours
		}
		slices.Sort(files)
		if _, err := os.Stat(file); err == nil {
			files = append([]string{file}, files...)
		}
		if len(files) == 0 {
			continue
		}
		var all []confRegistry
		for _, f := range files {
			list, err := readConfFile(f)
			if err != nil {
				return nil, fmt.Errorf("registries configuration %q: %w", f, err)
			}
			for _, r := range list {
				all = slices.DeleteFunc(all, func(old confRegistry) bool { return old.Prefix == r.Prefix })
				all = append(all, r)
			}
		}
		return all, nil
	}
	return nil, nil
}

func readConfFile(file string) ([]confRegistry, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxConf {
		return nil, fmt.Errorf("it is larger than %d bytes: %w", maxConf, errdefs.ErrFailedPrecondition)
	}
	return parseConf(data, file)
}

// parseConf reads the tables of one file. The errors are the administrator's to mend.
func parseConf(data []byte, file string) ([]confRegistry, error) {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrFailedPrecondition)...)
	}
	var conf registriesConf
	if err := toml.Unmarshal(data, &conf); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ := at.Position()
			return nil, wrong("line %d: %s", line, strings.ReplaceAll(at.Error(), "\n", " "))
		}
		return nil, wrong("%s", strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if conf.Old != nil {
		return nil, wrong("it is of version 1, with a table [registries]: write [[registry]] tables")
	}
	for i := range conf.Registries {
		r := &conf.Registries[i]
		r.file = file
		r.Prefix, r.Location = strings.TrimRight(r.Prefix, "/"), strings.TrimRight(r.Location, "/")
		wild := strings.HasPrefix(r.Prefix, "*.")
		switch {
		case r.Prefix == "" && r.Location == "":
			return nil, wrong("a [[registry]] has neither prefix nor location")
		case r.Prefix == "":
			r.Prefix = r.Location
		case r.Location == "" && !wild:
			r.Location = r.Prefix
		}
		if wild && strings.ContainsAny(r.Prefix, "/:@") || strings.Contains(strings.TrimPrefix(r.Prefix, "*."), "*") {
			return nil, wrong("prefix %q: a * may only stand for the beginning of a host, as in *.example.com", r.Prefix)
		}
		for j := range r.Mirrors {
			m := &r.Mirrors[j]
			m.Location = strings.TrimRight(m.Location, "/")
			if m.Location == "" {
				return nil, wrong("a mirror of %q has no location", r.Prefix)
			}
			if r.ByDigestOnly && m.Pull != "" {
				return nil, wrong("%q says both mirror-by-digest-only and pull-from-mirror", r.Prefix)
			}
			if !slices.Contains([]string{"", "all", "digest-only", "tag-only"}, m.Pull) {
				return nil, wrong("pull-from-mirror of %q is %q: it can be all, digest-only or tag-only", r.Prefix, m.Pull)
			}
		}
		for _, l := range append([]string{r.Location}, locations(r.Mirrors)...) {
			if strings.Contains(l, "://") {
				return nil, wrong("location %q of %q has a scheme: write the host and the path alone", l, r.Prefix)
			}
		}
	}
	return conf.Registries, nil
}

func locations(mirrors []confMirror) (out []string) {
	for _, m := range mirrors {
		out = append(out, m.Location)
	}
	return out
}

// matches tells how much of a name the prefix stands for, 0 if it is not its prefix.
func (r *confRegistry) matches(name string) int {
	host, _, _ := strings.Cut(name, "/")
	if rest, wild := strings.CutPrefix(r.Prefix, "*"); wild {
		bare, _, _ := strings.Cut(host, ":")
		if strings.HasSuffix(bare, rest) && len(bare) > len(rest) {
			return len(host)
		}
		return 0
	}
	if name == r.Prefix || strings.HasPrefix(name, r.Prefix+"/") {
		return len(r.Prefix)
	}
	return 0
}

// rewrite puts a location in the place of the prefix.
func (r *confRegistry) rewrite(name reference.Named, location string) (reference.Named, error) {
	if location == "" {
		return name, nil
	}
	to := location + name.Name()[r.matches(name.Name()):]
	out, err := reference.ParseNormalizedNamed(to)
	// What is no full name would become one of Docker Hub.
	if err != nil || out.Name() != to || !reference.IsNameOnly(out) {
		return nil, fmt.Errorf("registries configuration %q: %s would be looked for at %q, which is no name: %w", r.file,
			name.Name(), to, errdefs.ErrFailedPrecondition)
	}
	return out, nil
}

// confFiles are the files that are read: the one that Podman's variable names, or ours, or Podman's.
func confFiles() []string {
	if file := os.Getenv("CONTAINERS_REGISTRIES_CONF"); file != "" {
		return []string{file}
	}
	return []string{"/etc/berth/registries.conf", "/etc/containers/registries.conf"}
}
