package dockerapi

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/moby/moby/api/types/mount"
)

// mounts translates binds, mount objects, tmpfs and anonymous volumes.
func (q *createRequest) mounts(c *container.Config) ([]string, error) {
	hc := q.HostConfig
	taken := map[string]bool{}
	claim := func(target string) error {
		if taken[path.Clean(target)] {
			return invalid("Duplicate mount point: %s", target)
		}
		taken[path.Clean(target)] = true
		return nil
	}
	var warnings []string
	for _, raw := range hc.Binds {
		m, err := parseBind(raw)
		if err != nil {
			return nil, err
		}
		if m.Type == mountBind && m.ReadOnly && q.readOnlyNonRecursive {
			m.ReadOnlyNonRecursive = true
		}
		if err := claim(m.Target); err != nil {
			return nil, err
		}
		if m.Type == mountVolume && m.Source == "" {
			c.Volumes = append(c.Volumes, m.Target)
			continue
		}
		c.Mounts = append(c.Mounts, m)
	}
	for i := range hc.Mounts {
		m, err := mountOf(&hc.Mounts[i])
		if err != nil {
			return nil, err
		}
		if m.Type == mountBind && m.ReadOnly && q.readOnlyNonRecursive && !m.ReadOnlyForceRecursive {
			m.ReadOnlyNonRecursive = true
		}
		if err := claim(m.Target); err != nil {
			return nil, err
		}
		c.Mounts = append(c.Mounts, m)
	}
	for _, target := range slices.Sorted(maps.Keys(q.Volumes)) {
		if err := checkTarget(target); err != nil {
			return nil, invalid("invalid volume %q: %w", target, err)
		}
		// A volume that -v or --mount already fills is not made a second time.
		if !taken[path.Clean(target)] && !slices.Contains(c.Volumes, path.Clean(target)) {
			c.Volumes = append(c.Volumes, path.Clean(target))
		}
	}
	for _, target := range slices.Sorted(maps.Keys(hc.Tmpfs)) {
		if err := checkTarget(target); err != nil {
			return nil, invalid("%w", err)
		}
		if err := claim(target); err != nil {
			return nil, err
		}
	}
	c.Tmpfs = hc.Tmpfs
	for _, from := range hc.VolumesFrom {
		if err := checkVolumesFrom(from); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

const (
	mountBind   = string(mount.TypeBind)
	mountVolume = string(mount.TypeVolume)
)

var errRootTarget = errors.New("invalid specification: destination can't be '/'")

func checkTarget(target string) error {
	if !path.IsAbs(target) {
		return fmt.Errorf("invalid mount path: '%s' mount path must be absolute", target)
	}
	if path.Clean(target) == "/" {
		return errRootTarget
	}
	return nil
}

// parseBind reads "source:target[:mode]", "name:target[:mode]" or "target".
func parseBind(raw string) (container.Mount, error) {
	spec := func(why error) error {
		if why != nil {
			return invalid("invalid volume specification: '%s': %w", raw, why)
		}
		return invalid("invalid volume specification: '%s'", raw)
	}
	m := container.Mount{Type: mountVolume, FromAPI: "binds"}
	parts := strings.Split(raw, ":")
	switch len(parts) {
	case 1:
		m.Target = parts[0]
	case 2:
		m.Source, m.Target = parts[0], parts[1]
		if validMode(m.Target) { // "/target:ro" has no source
			return m, spec(nil)
		}
	case 3:
		m.Source, m.Target, m.Mode = parts[0], parts[1], parts[2]
	default:
		return m, spec(nil)
	}
	if parts[0] == "" || m.Target == "" {
		return m, spec(nil)
	}
	if m.Mode != "" && !validMode(m.Mode) {
		return m, invalid("invalid mode: %s", m.Mode)
	}
	if err := checkTarget(m.Target); err != nil {
		return m, spec(fmt.Errorf("invalid mount config for type %q: %w", bindType(m.Source), err))
	}
	m.Target = path.Clean(m.Target)
	m.Type = bindType(m.Source)
	for option := range strings.SplitSeq(m.Mode, ",") {
		switch {
		case option == "ro":
			m.ReadOnly = true
		case option == "nocopy":
			m.NoCopy = true
		case slices.Contains(mount.Propagations, mount.Propagation(option)):
			if m.Type == mountVolume {
				return m, spec(errors.New(`invalid mount config for type "volume": field BindOptions must not be specified`))
			}
			m.Propagation = option
		}
	}
	if m.Type == mountBind {
		if m.NoCopy {
			return m, spec(errors.New(`invalid mount config for type "bind": field VolumeOptions must not be specified`))
		}
		m.Source = path.Clean(m.Source)
		m.CreateSource = true
	} else if m.Source != "" && !validVolumeName(m.Source) {
		return m, badVolumeName(m.Source)
	}
	return m, nil
}

func bindType(source string) string {
	if path.IsAbs(source) {
		return mountBind
	}
	return mountVolume
}

// badVolumeName is Docker's sentence, which many a forum answer quotes.
func badVolumeName(name string) error {
	return invalid("create %s: %q includes invalid characters for a local volume name, only "+
		"\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name, name)
}

func validVolumeName(name string) bool {
	for i, r := range []byte(name) {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return len(name) > 1 && len(name) <= 255
}

// validMode says whether s is a list of options of a bind string, at most one of each sort.
func validMode(s string) bool {
	if s == "" {
		return false
	}
	var access, label, propagation, copies, consistency int
	for option := range strings.SplitSeq(s, ",") {
		switch option {
		case "ro", "rw":
			access++
		case "z", "Z":
			label++
		case "nocopy":
			copies++
		case "consistent", "cached", "delegated", "default":
			consistency++
		default:
			if !slices.Contains(mount.Propagations, mount.Propagation(option)) {
				return false
			}
			propagation++
		}
	}
	return access <= 1 && label <= 1 && propagation <= 1 && copies <= 1 && consistency <= 1
}

func checkVolumesFrom(from string) error {
	id, mode, _ := strings.Cut(from, ":")
	if id == "" {
		return invalid("volumes-from specification cannot be an empty string")
	}
	for option := range strings.SplitSeq(mode, ",") {
		switch option {
		case "", "ro", "rw", "z", "Z":
		default:
			return invalid("invalid mode: %s", mode)
		}
	}
	return nil
}

// mountOf translates a mount object.
func mountOf(a *mount.Mount) (container.Mount, error) {
	bad := func(format string, args ...any) (container.Mount, error) {
		return container.Mount{}, invalid("invalid mount config for type %q: %w", a.Type, fmt.Errorf(format, args...))
	}
	m := container.Mount{
		Type: string(a.Type), Source: a.Source, Target: a.Target, ReadOnly: a.ReadOnly, FromAPI: "mounts",
	}
	if a.Target == "" {
		return bad("field Target must not be empty")
	}
	if err := checkTarget(a.Target); err != nil {
		return bad("%w", err)
	}
	m.Target = path.Clean(a.Target)
	type option struct {
		name  string
		given bool
		of    mount.Type
	}
	for _, o := range []option{
		{"BindOptions", a.BindOptions != nil, mount.TypeBind},
		{"VolumeOptions", a.VolumeOptions != nil, mount.TypeVolume},
		{"ImageOptions", a.ImageOptions != nil, mount.TypeImage},
		{"TmpfsOptions", a.TmpfsOptions != nil, mount.TypeTmpfs},
	} {
		if o.given && o.of != a.Type {
			return bad("field %s must not be specified", o.name)
		}
	}
	switch a.Type {
	case mount.TypeBind:
		if a.Source == "" {
			return bad("field Source must not be empty")
		}
		if !path.IsAbs(a.Source) {
			return bad("invalid mount path: '%s' mount path must be absolute", a.Source)
		}
		m.Source = path.Clean(a.Source)
		if o := a.BindOptions; o != nil {
			if o.Propagation != "" && !slices.Contains(mount.Propagations, o.Propagation) {
				return bad("invalid propagation mode: %s", o.Propagation)
			}
			if o.ReadOnlyForceRecursive {
				if !a.ReadOnly || o.NonRecursive || o.ReadOnlyNonRecursive {
					return bad("BindOptions.ReadOnlyForceRecursive needs a read-only, recursive mount")
				}
				if o.Propagation != "" && o.Propagation != mount.PropagationRPrivate {
					return bad("BindOptions.ReadOnlyForceRecursive needs BindOptions.Propagation to be rprivate")
				}
			}
			m.Propagation, m.NonRecursive = string(o.Propagation), o.NonRecursive
			m.CreateSource = o.CreateMountpoint
			m.ReadOnlyNonRecursive, m.ReadOnlyForceRecursive = o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
		}
	case mount.TypeVolume:
		if a.Source == "" && a.ReadOnly {
			return bad("must not set ReadOnly mode when using anonymous volumes")
		}
		if a.Source != "" && !validVolumeName(a.Source) {
			return m, badVolumeName(a.Source)
		}
		if o := a.VolumeOptions; o != nil {
			if o.Subpath != "" && a.Source == "" {
				return bad("must not set Subpath when using anonymous volumes")
			}
			if o.Subpath != "" && !isLocal(o.Subpath) {
				return bad("subpath must be a relative path within the volume")
			}
			m.NoCopy, m.Labels, m.Subpath = o.NoCopy, o.Labels, o.Subpath
			if d := o.DriverConfig; d != nil {
				if d.Name != "" && d.Name != "local" {
					return bad("error looking up volume plugin %s: plugin %q not found", d.Name, d.Name)
				}
				m.Driver, m.DriverOpts = d.Name, d.Options
			}
		}
	case mount.TypeTmpfs:
		if a.Source != "" {
			return bad("field Source must not be specified")
		}
		if o := a.TmpfsOptions; o != nil {
			if o.SizeBytes < 0 {
				return bad("the size of a tmpfs must not be negative")
			}
			m.TmpfsSize, m.TmpfsMode = o.SizeBytes, uint32(o.Mode)
			options, err := tmpfsOptions(o.Options)
			if err != nil {
				return bad("%w", err)
			}
			m.TmpfsOptions = options
		}
	case mount.TypeImage:
		if a.Source == "" {
			return bad("field Source must not be empty")
		}
		if o := a.ImageOptions; o != nil && o.Subpath != "" {
			if !isLocal(o.Subpath) {
				return bad("subpath must be a relative path within the image")
			}
			m.Subpath = o.Subpath
		}
	default:
		return bad("mount type unknown")
	}
	return m, nil
}

// tmpfsOptions joins the options of a tmpfs, each a word or a word and its value.
func tmpfsOptions(list [][]string) (string, error) {
	var options []string
	for _, o := range list {
		if len(o) < 1 || len(o) > 2 {
			return "", errors.New("invalid option array length")
		}
		switch o[0] {
		case "exec", "noexec":
		default:
			return "", fmt.Errorf("invalid option: %s", o[0])
		}
		options = append(options, strings.Join(o, "="))
	}
	return strings.Join(options, ","), nil
}
