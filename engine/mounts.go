package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/archive"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/volume"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// claimVolumes makes and claims every volume a new container needs, fills the empty ones from the image, and notes them
// in the record.
func (e *Engine) claimVolumes(ctx context.Context, id string, rec *container.Record, undo *undoStack) error {
	cfg := &rec.Config
	if err := e.volumesFrom(cfg); err != nil {
		return err
	}
	for _, dest := range cfg.Volumes {
		dest = path.Clean(dest)
		if _, isTmpfs := cfg.Tmpfs[dest]; isTmpfs || slices.ContainsFunc(cfg.Mounts, func(m container.Mount) bool {
			return path.Clean(m.Target) == dest
		}) {
			continue
		}
		cfg.Mounts = append(cfg.Mounts, container.Mount{Type: "volume", Target: dest, Anonymous: true})
	}
	undo.add(func() { e.Volumes.Release(id) })
	seen := map[string]bool{}
	for dest := range cfg.Tmpfs {
		seen[path.Clean(dest)] = true
	}
	for i := range cfg.Mounts {
		m := &cfg.Mounts[i]
		if err := checkMount(*m); err != nil {
			return err
		}
		if dest := path.Clean(m.Target); seen[dest] {
			return fmt.Errorf("Duplicate mount point: %s%w", m.Target, kind{errdefs.ErrInvalidArgument})
		} else {
			seen[dest] = true
		}
		switch m.Type {
		case "bind":
			if err := bindSource(*m); err != nil {
				return err
			}
		case "volume":
			if err := e.claimVolume(ctx, id, rec, m, undo); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) claimVolume(ctx context.Context, id string, rec *container.Record, m *container.Mount, undo *undoStack) error {
	_, err := e.Volumes.Get(m.Source)
	fresh := errdefs.IsNotFound(err)
	v, err := e.Volumes.Create(ctx, volume.Spec{Name: m.Source, Driver: m.Driver, Options: m.DriverOpts, Labels: m.Labels,
		Holder: id})
	if err != nil {
		return err
	}
	if m.Source == "" {
		m.Source, m.Anonymous = v.Name, true
	}
	if fresh {
		e.Events.Publish(Event{Type: "volume", Action: "create", ActorID: v.Name, Attributes: map[string]string{"driver": v.Driver}})
		if m.Anonymous {
			undo.add(func() {
				ctx, cancel := undoContext(ctx)
				defer cancel()
				_ = e.Volumes.Remove(ctx, v.Name, true)
			})
		}
	}
	undo.add(func() { e.Volumes.Release(id) }) // before the removal above, which needs it unclaimed
	rec.Volumes = append(rec.Volumes, container.HeldVolume{Name: v.Name, Target: m.Target, Anonymous: m.Anonymous})
	if _, _, _, isDevice := v.Device(); isDevice || m.NoCopy || m.Subpath != "" {
		return nil
	}
	return e.fillVolume(ctx, id, rec.Chain, v.Name, m.Target)
}

// fillVolume copies what the image has at the mount's place into a volume that is empty, with its owner and mode.
func (e *Engine) fillVolume(ctx context.Context, id, chain, name, target string) error {
	return e.Volumes.Fill(ctx, name, func(dir string) error {
		lower, err := e.store.MountNew(ctx, id, digest.Digest(chain))
		if err != nil {
			return fmt.Errorf("mount the image: %w", err)
		}
		root := confine.FromFile(lower)
		defer root.Close()
		if err := archive.CopyUp(ctx, root, target, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("fill volume %q from the image's %q: %w", name, target, err)
		}
		return nil
	})
}

// volumesFrom takes over the mounts of other containers: --volumes-from NAME[:ro|rw].
func (e *Engine) volumesFrom(cfg *container.Config) error {
	for _, from := range cfg.VolumesFrom {
		ref, mode, _ := strings.Cut(from, ":")
		if mode != "" && mode != "ro" && mode != "rw" && mode != "z" && mode != "Z" {
			return fmt.Errorf("invalid mode for --volumes-from: %q%w", from, kind{errdefs.ErrInvalidArgument})
		}
		other, err := e.Containers.Get(ref)
		if err != nil {
			return err
		}
		for _, m := range other.Config.Mounts {
			if m.Type == "tmpfs" || slices.ContainsFunc(cfg.Mounts, func(own container.Mount) bool {
				return path.Clean(own.Target) == path.Clean(m.Target)
			}) {
				continue
			}
			m.ReadOnly = m.ReadOnly || mode == "ro"
			m.Anonymous, m.NoCopy, m.FromAPI = false, true, ""
			cfg.Mounts = append(cfg.Mounts, m)
		}
	}
	return nil
}

func checkMount(m container.Mount) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("invalid mount config for type %q: "+format+"%w", append(append([]any{m.Type}, args...),
			kind{errdefs.ErrInvalidArgument})...)
	}
	switch {
	case m.Target == "":
		return bad("field Target must not be empty")
	case !path.IsAbs(m.Target):
		return bad("invalid mount path: '%s' mount path must be absolute", m.Target)
	case path.Clean(m.Target) == "/":
		return bad("invalid specification: destination can't be '/'")
	}
	switch m.Type {
	case "bind":
		if m.Source == "" {
			return bad("field Source must not be empty")
		}
		if !path.IsAbs(m.Source) {
			return bad("invalid mount path: '%s' mount path must be absolute", m.Source)
		}
		if !slices.Contains([]string{"", "private", "rprivate", "shared", "rshared", "slave", "rslave"}, m.Propagation) {
			return bad("invalid propagation mode: %s", m.Propagation)
		}
	case "tmpfs":
		if m.Source != "" {
			return bad("field Source must not be specified")
		}
	case "volume":
		if m.Subpath != "" && (m.Source == "" || !filepath.IsLocal(m.Subpath)) {
			return bad("subpath must be a relative path within the volume")
		}
	default:
		return fmt.Errorf("invalid mount type %q: this engine has bind, volume and tmpfs%w", m.Type, kind{errdefs.ErrInvalidArgument})
	}
	return nil
}

// bindSource refuses a missing host path, or makes it a directory where -v asked for that.
func bindSource(m container.Mount) error {
	_, err := os.Stat(m.Source)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bind source path %q: %w", m.Source, err)
	}
	if !m.CreateSource {
		return fmt.Errorf("invalid mount config for type \"bind\": bind source path does not exist: %s%w", m.Source,
			kind{errdefs.ErrInvalidArgument})
	}
	if err := os.MkdirAll(m.Source, 0o755); err != nil {
		return fmt.Errorf("error while creating mount source path '%s': %w", m.Source, err)
	}
	return nil
}

// userMounts turns the container's mounts into the OCI spec's. The files it returns, also beside an error, are what some of
// the sources point at: the caller closes them when the mounts are made.
func (e *Engine) userMounts(_ context.Context, rec container.Record) (out []specs.Mount, pinned []*os.File, err error) {
	for _, m := range rec.Config.Mounts {
		switch m.Type {
		case "bind":
			if err := bindSource(m); err != nil {
				return nil, pinned, err
			}
			out = append(out, bindMount(m, m.Source))
		case "volume":
			v, err := e.Volumes.Get(m.Source)
			if err != nil {
				return nil, pinned, err
			}
			if kind, source, options, ok := v.Device(); ok {
				if m.ReadOnly {
					options = append(slices.Clone(options), "ro")
				}
				if kind == "" || kind == "none" {
					kind = "bind"
				}
				out = append(out, specs.Mount{Destination: m.Target, Type: kind, Source: source, Options: options})
				continue
			}
			source := v.Mountpoint
			if m.Subpath != "" {
				place, err := subpath(v, m.Subpath)
				if err != nil {
					return nil, pinned, err
				}
				pinned = append(pinned, place)
				source = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), place.Fd())
			}
			out = append(out, bindMount(m, source))
		case "tmpfs":
			out = append(out, specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: tmpfsOptions(m)})
		}
	}
	for dest, text := range rec.Config.Tmpfs {
		options := []string{"nosuid", "nodev", "noexec"}
		if text != "" {
			for o := range strings.SplitSeq(text, ",") {
				if inverse := map[string]string{"exec": "noexec", "suid": "nosuid", "dev": "nodev"}[o]; inverse != "" {
					options = slices.DeleteFunc(options, func(have string) bool { return have == inverse })
				}
				if !slices.Contains(options, o) {
					options = append(options, o)
				}
			}
		}
		out = append(out, specs.Mount{Destination: dest, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	return out, pinned, nil
}

// subpath finds a directory or file inside a volume, without leaving it by a link. It gives the place and not its path: a
// container that has the volume can put a link there at any moment.
func subpath(v volume.Volume, sub string) (*os.File, error) {
	root, err := confine.Open(v.Mountpoint)
	if err != nil {
		return nil, fmt.Errorf("volume %q: %w", v.Name, err)
	}
	defer root.Close()
	place, err := root.OpenPath("/" + sub)
	if err != nil {
		return nil, fmt.Errorf("volume %q has no %q: %w", v.Name, sub, err)
	}
	return place, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

func bindMount(m container.Mount, source string) specs.Mount {
	options := []string{"rbind"}
	if m.NonRecursive {
		options = []string{"bind"}
	}
	switch {
	case !m.ReadOnly:
		options = append(options, "rw")
	case m.ReadOnlyNonRecursive || m.NonRecursive:
		options = append(options, "ro")
	default:
		options = append(options, "rro")
	}
	propagation := m.Propagation
	if propagation == "" {
		propagation = "rprivate"
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: source, Options: append(options, propagation)}
}

func tmpfsOptions(m container.Mount) []string {
	options := []string{"nosuid", "nodev", "noexec"}
	if m.TmpfsSize > 0 {
		options = append(options, fmt.Sprintf("size=%d", m.TmpfsSize))
	}
	if m.TmpfsMode != 0 {
		options = append(options, fmt.Sprintf("mode=%o", m.TmpfsMode))
	}
	if m.TmpfsOptions != "" {
		options = append(options, strings.Split(m.TmpfsOptions, ",")...)
	}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return options
}
