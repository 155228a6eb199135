package cli

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
)

// parseMount reads the value of --mount: fields separated by commas, quoted as in CSV, each key=value or one of the
// keys that stand alone for true.
//
//	type=bind|volume|tmpfs|image   volume when left out
//	source|src   target|dst|destination   readonly|ro   consistency
//	bind-propagation  bind-recursive=enabled|disabled|writable|readonly  bind-nonrecursive  bind-create-src
//	volume-nocopy  volume-label=k=v  volume-driver  volume-opt=k=v  volume-subpath
//	tmpfs-size  tmpfs-mode  image-subpath
//
// A relative bind source that begins with a dot is taken from the working directory.
func parseMount(value string) (mount.Mount, error) {
	value = strings.TrimSpace(value)
	if value == "" {
		return mount.Mount{}, errors.New("value is empty")
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return mount.Mount{}, err
	}
	m := mountParser{Mount: mount.Mount{Type: mount.TypeVolume}}
	for _, field := range fields {
		key, val, has := strings.Cut(field, "=")
		if k := strings.TrimSpace(key); k != key {
			return m.Mount, fmt.Errorf("invalid option '%s' in '%s': option should not have whitespace", key, field)
		}
		if has {
			if val == "" && !slices.Contains([]string{"consistency", "volume-driver"}, key) {
				return m.Mount, fmt.Errorf("invalid value for '%s': value is empty", key)
			}
			if v := strings.TrimSpace(val); v != val {
				return m.Mount, fmt.Errorf("invalid value for '%s' in '%s': value should not have whitespace", key, field)
			}
		} else {
			switch key {
			case "readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src":
				val = "true"
			default:
				return m.Mount, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
			}
		}
		if err := m.set(key, val, field); err != nil {
			return m.Mount, err
		}
	}
	if err := m.check(); err != nil {
		return m.Mount, err
	}
	return m.Mount, nil
}

type mountParser struct{ mount.Mount }

func (m *mountParser) bind() *mount.BindOptions {
	if m.BindOptions == nil {
		m.BindOptions = &mount.BindOptions{}
	}
	return m.BindOptions
}

func (m *mountParser) volume() *mount.VolumeOptions {
	if m.VolumeOptions == nil {
		m.VolumeOptions = &mount.VolumeOptions{}
	}
	return m.VolumeOptions
}

func (m *mountParser) driver() *mount.Driver {
	v := m.volume()
	if v.DriverConfig == nil {
		v.DriverConfig = &mount.Driver{}
	}
	return v.DriverConfig
}

func (m *mountParser) image() *mount.ImageOptions {
	if m.ImageOptions == nil {
		m.ImageOptions = &mount.ImageOptions{}
	}
	return m.ImageOptions
}

func (m *mountParser) tmpfs() *mount.TmpfsOptions {
	if m.TmpfsOptions == nil {
		m.TmpfsOptions = &mount.TmpfsOptions{}
	}
	return m.TmpfsOptions
}

func (m *mountParser) set(key, val, field string) (err error) {
	switch key {
	case "type":
		m.Type = mount.Type(strings.ToLower(val))
	case "source", "src":
		m.Source = val
		if val == "." || strings.HasPrefix(val, "./") || val == ".." || strings.HasPrefix(val, "../") {
			if m.Source, err = filepath.Abs(val); err != nil {
				return err
			}
		}
	case "target", "dst", "destination":
		m.Target = val
	case "readonly", "ro":
		m.ReadOnly, err = parseBool(key, val)
	case "consistency":
		m.Consistency = mount.Consistency(strings.ToLower(val))
	case "bind-propagation":
		m.bind().Propagation = mount.Propagation(strings.ToLower(val))
	case "bind-nonrecursive":
		m.bind().NonRecursive, err = parseBool(key, val)
	case "bind-create-src":
		m.bind().CreateMountpoint, err = parseBool(key, val)
	case "bind-recursive":
		switch val {
		case "enabled": // as without it
		case "disabled":
			m.bind().NonRecursive = true
		case "writable":
			m.bind().ReadOnlyNonRecursive = true
		case "readonly":
			m.bind().ReadOnlyForceRecursive = true
		default:
			return fmt.Errorf(`invalid value for %s: %s (must be "enabled", "disabled", "writable", or "readonly")`, key, val)
		}
	case "volume-subpath":
		m.volume().Subpath = val
	case "volume-nocopy":
		m.volume().NoCopy, err = parseBool(key, val)
	case "volume-label":
		setKeyValue(&m.volume().Labels, val)
	case "volume-driver":
		m.driver().Name = val
	case "volume-opt":
		setKeyValue(&m.driver().Options, val)
	case "image-subpath":
		m.image().Subpath = val
	case "tmpfs-size":
		size, err := units.RAMInBytes(val)
		if err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		m.tmpfs().SizeBytes = size
	case "tmpfs-mode":
		mode, err := strconv.ParseUint(val, 8, 32)
		if err != nil {
			return fmt.Errorf("invalid value for %s: %s", key, val)
		}
		m.tmpfs().Mode = os.FileMode(mode)
	default:
		return fmt.Errorf("unexpected key '%s' in '%s'", key, field)
	}
	return err
}

func setKeyValue(to *map[string]string, s string) {
	if *to == nil {
		*to = make(map[string]string)
	}
	k, v, _ := strings.Cut(s, "=")
	(*to)[k] = v
}

// check looks at the fields together.
func (m *mountParser) check() error {
	switch m.Type {
	case mount.TypeBind, mount.TypeVolume, mount.TypeTmpfs, mount.TypeImage:
	case mount.TypeNamedPipe, mount.TypeCluster:
		return fmt.Errorf("mounts of type %q are not for Linux containers of one machine", m.Type)
	default:
		return fmt.Errorf("invalid value for 'type': unknown mount type %q: use bind, volume, tmpfs or image", m.Type)
	}
	if m.Target == "" {
		return errors.New("target is required")
	}
	for _, o := range []struct {
		prefix string
		given  bool
		kind   mount.Type
	}{
		{"bind-*", m.BindOptions != nil, mount.TypeBind},
		{"volume-*", m.VolumeOptions != nil, mount.TypeVolume},
		{"image-*", m.ImageOptions != nil, mount.TypeImage},
		{"tmpfs-*", m.TmpfsOptions != nil, mount.TypeTmpfs},
	} {
		if o.given && m.Type != o.kind {
			return fmt.Errorf("cannot mix '%s' options with mount type '%s'", o.prefix, m.Type)
		}
	}
	b := m.BindOptions
	if b == nil {
		return nil
	}
	if b.ReadOnlyNonRecursive && !m.ReadOnly {
		return errors.New("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
	}
	if b.ReadOnlyForceRecursive {
		if !m.ReadOnly {
			return errors.New("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
		}
		if b.Propagation != mount.PropagationRPrivate {
			return errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified " +
				"in conjunction")
		}
	}
	return nil
}
