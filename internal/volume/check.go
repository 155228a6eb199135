package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Damage is something that is wrong with a volume.
type Damage struct {
	Name    string
	Problem string // a sentence's second half
	Remedy  string // the next step for a person
	NoData  bool   // its directory is missing, which Restore makes
}

// Check looks whether every volume has its record and its directory, and returns how many volumes there are.
func (v *Volumes) Check(ctx context.Context) (int, []Damage, error) {
	dirs, err := os.ReadDir(v.root)
	if err != nil {
		return 0, nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []Damage
	n := 0
	for _, d := range dirs {
		if !d.IsDir() || !validName(d.Name()) {
			continue
		}
		n++
		damage, err := v.examine(ctx, d.Name())
		if err != nil {
			return 0, nil, err
		}
		if damage.Problem != "" {
			out = append(out, damage)
		}
	}
	for _, vol := range v.List() {
		_, err := os.Lstat(filepath.Dir(vol.Mountpoint))
		if _, there := v.Get(vol.Name); there == nil && errors.Is(err, fs.ErrNotExist) {
			n++
			out = append(out, Damage{Name: vol.Name, Problem: "has lost its directory " + filepath.Dir(vol.Mountpoint),
				Remedy: "remove the volume"})
		}
	}
	return n, out, nil
}

func (v *Volumes) examine(ctx context.Context, name string) (Damage, error) {
	out := Damage{Name: name}
	if err := v.enter(ctx, name); err != nil {
		return out, err
	}
	defer v.leave(name)
	dir := filepath.Join(v.root, name)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return out, nil // removed meanwhile
	}
	vol, err := v.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		out.Problem = "has no record, so nothing can use what is in " + dir
		out.Remedy = "take what you need from there, remove the directory and start the daemon again"
		return out, nil
	case err != nil:
		out.Problem = "has a record that cannot be used: " + err.Error()
		out.Remedy = "take what you need from " + dir + ", remove the directory and start the daemon again"
		return out, nil
	}
	fi, err := os.Lstat(vol.Mountpoint)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		out.Problem, out.NoData = "has lost its content with the directory "+vol.Mountpoint, true
		out.Remedy = "restore the directory from a copy, or repair, which makes an empty one"
	case err != nil:
		out.Problem = "cannot be looked at: " + err.Error()
	case !fi.IsDir():
		out.Problem = "has something else in the place of its directory " + vol.Mountpoint
		out.Remedy = "move it away and repair, which makes an empty directory"
	}
	return out, nil
}

// Restore makes the directory of a volume that has lost it.
func (v *Volumes) Restore(ctx context.Context, name string) error {
	if err := v.enter(ctx, name); err != nil {
		return err
	}
	defer v.leave(name)
	vol, err := v.Get(name)
	if err != nil {
		return err
	}
	if err := os.Mkdir(vol.Mountpoint, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the directory of volume %q: %w", name, err)
	}
	return nil
}
