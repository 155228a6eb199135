// Package volume owns the directory `volumes/` under the data root: named places whose content outlives the containers
// that use them.
//
// # The life of a volume
//
//	Create ─▶ unused ──Claim──▶ in use by one or more holders ──Release──▶ unused ──Remove/Prune──▶ gone
//
// A holder is a container's ID. Claims are not saved: the engine makes them again from the containers' records when it
// opens, so that they can never disagree. A volume in use cannot be removed, by force neither.
//
// # The format
//
//	volumes/<name>/volume.json   version 1, replaced atomically and synced
//	volumes/<name>/_data/        the content, as Docker lays it out
//
// A volume whose name was made up for a container is pending until the container's record is saved (Settle). One that is
// still pending when the daemon opens belongs to a creation that was cut short, and Sweep removes it.
//
// The local driver's options `type`, `device` and `o` describe a file system that is mounted when a container starts,
// inside the container's own mount namespace only; such a volume has no content in `_data`.
//
// Refused: names that could leave the directory, drivers other than "local", unknown options.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-engine/berth/internal/durable"
	"github.com/containerd/errdefs"
)

const (
	recordVersion = 1
	recordFile    = "volume.json"
	dataDir       = "_data"
)

// AnonymousLabel is on every volume whose name was made up, as Docker has it: scripts find these volumes by it.
const AnonymousLabel = "com.docker.volume.anonymous"

// Volume is one volume as it stands on disk.
type Volume struct {
	Version   int               `json:"version"`
	Name      string            `json:"name"`
	Driver    string            `json:"driver"`
	Created   time.Time         `json:"created"`
	Labels    map[string]string `json:"labels,omitempty"`
	Options   map[string]string `json:"options,omitempty"`
	Anonymous bool              `json:"anonymous,omitempty"` // its name was made up
	Pending   string            `json:"pending,omitempty"`   // the holder it was made for, until that is saved

	// Mountpoint is the absolute path of its content on the host.
	Mountpoint string `json:"-"`
}

// Device says what to mount for a volume with options of its own: file system type, source and mount options. ok is false
// for an ordinary one, which is a directory.
func (v Volume) Device() (kind, source string, options []string, ok bool) {
	if v.Options["device"] == "" && v.Options["type"] == "" {
		return "", "", nil, false
	}
	if o := v.Options["o"]; o != "" {
		options = strings.Split(o, ",")
	}
	return v.Options["type"], v.Options["device"], options, true
}

// Spec describes a volume to be made.
type Spec struct {
	Name    string // "" makes one up
	Driver  string // "" is "local"
	Options map[string]string
	Labels  map[string]string
	// Holder claims the volume before anybody can remove it; "" claims nothing.
	Holder string
}

// Volumes is the set of all volumes of one data root. Its methods may be called from any goroutine.
type Volumes struct {
	root string

	mu      sync.Mutex // never held while a file is touched
	volumes map[string]Volume
	busy    map[string]chan struct{}       // volumes that somebody makes, fills or removes; closed when that is over
	holders map[string]map[string]struct{} // volume → container IDs
}

// Open reads every volume under root, which is made when absent. Volumes whose record cannot be read are told in the
// second result and left as they are.
func Open(root string) (*Volumes, []error, error) {
	if err := os.MkdirAll(root, 0o701); err != nil {
		return nil, nil, fmt.Errorf("make the directory of volumes: %w", err)
	}
	v := &Volumes{root: root, volumes: map[string]Volume{}, busy: map[string]chan struct{}{},
		holders: map[string]map[string]struct{}{}}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, nil, fmt.Errorf("list volumes: %w", err)
	}
	var damaged []error
	for _, d := range dirs {
		if !d.IsDir() || !validName(d.Name()) {
			continue
		}
		vol, err := v.read(d.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Its creation was cut short; a directory with content is somebody's data and stays.
			_ = os.Remove(filepath.Join(root, d.Name(), dataDir))
			_ = os.Remove(filepath.Join(root, d.Name()))
		case err != nil:
			damaged = append(damaged, err)
		default:
			v.volumes[vol.Name] = vol
		}
	}
	return v, damaged, nil
}

func (v *Volumes) read(name string) (Volume, error) {
	p := filepath.Join(v.root, name, recordFile)
	data, err := os.ReadFile(p)
	if err != nil {
		return Volume{}, err
	}
	var vol Volume
	if err := json.Unmarshal(data, &vol); err != nil {
		return vol, fmt.Errorf("volume %q: read %s: %w", name, p, err)
	}
	if vol.Version != recordVersion || vol.Name != name {
		return vol, fmt.Errorf("volume %q: %s is of version %d for %q, which this program does not know",
			name, p, vol.Version, vol.Name)
	}
	vol.Mountpoint = filepath.Join(v.root, name, dataDir)
	return vol, nil
}

// Create makes a volume, or returns the one of that name when it was made with the same options.
func (v *Volumes) Create(ctx context.Context, s Spec) (Volume, error) {
	if s.Driver == "" {
		s.Driver = "local"
	}
	if s.Driver != "local" {
		return Volume{}, fmt.Errorf("create %s: error looking up volume plugin %s: plugin %q not found: %w",
			s.Name, s.Driver, s.Driver, kind{errdefs.ErrNotFound})
	}
	if err := checkOptions(s.Options); err != nil {
		return Volume{}, err
	}
	anonymous := s.Name == ""
	if anonymous {
		var raw [32]byte
		rand.Read(raw[:]) // never fails
		s.Name = hex.EncodeToString(raw[:])
		labels := map[string]string{AnonymousLabel: ""}
		maps.Copy(labels, s.Labels)
		s.Labels = labels
	}
	if !validName(s.Name) {
		return Volume{}, fmt.Errorf("create %s: %q includes invalid characters for a local volume name, only "+
			"\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path%w",
			s.Name, s.Name, kind{errdefs.ErrInvalidArgument})
	}
	if err := v.enter(ctx, s.Name); err != nil {
		return Volume{}, err
	}
	defer v.leave(s.Name)
	if old, err := v.Get(s.Name); err == nil {
		if len(s.Options) > 0 && !maps.Equal(old.Options, s.Options) {
			return Volume{}, fmt.Errorf("volume %q exists with other options; remove it first or choose another name%w",
				s.Name, kind{errdefs.ErrConflict})
		}
		v.claim(s.Name, s.Holder)
		return old, nil
	}
	vol := Volume{Version: recordVersion, Name: s.Name, Driver: s.Driver, Created: time.Now().UTC(),
		Labels: s.Labels, Options: s.Options, Anonymous: anonymous,
		Mountpoint: filepath.Join(v.root, s.Name, dataDir)}
	if anonymous {
		vol.Pending = s.Holder
	}
	if err := v.write(vol, vol.Pending != ""); err != nil {
		// Only what is empty: a directory without a record may be somebody's data.
		_ = os.Remove(vol.Mountpoint)
		_ = os.Remove(filepath.Dir(vol.Mountpoint))
		return Volume{}, fmt.Errorf("create volume %q: %w", s.Name, err)
	}
	v.mu.Lock()
	v.volumes[vol.Name] = vol
	v.mu.Unlock()
	v.claim(s.Name, s.Holder)
	return vol, nil
}

// Settle says that the holder is saved, and with it the volumes that were made for it. Volatile spares the sync: for
// volumes that go with a container that removes itself.
func (v *Volumes) Settle(ctx context.Context, holder string, volatile bool) error {
	for _, vol := range v.List() {
		if vol.Pending != holder || holder == "" {
			continue
		}
		if err := v.settle(ctx, vol.Name, volatile); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volumes) settle(ctx context.Context, name string, volatile bool) error {
	if err := v.enter(ctx, name); err != nil {
		return err
	}
	defer v.leave(name)
	vol, err := v.Get(name)
	if err != nil {
		return err
	}
	vol.Pending = ""
	if err := v.write(vol, volatile); err != nil {
		return fmt.Errorf("save volume %q: %w", name, err)
	}
	v.mu.Lock()
	v.volumes[name] = vol
	v.mu.Unlock()
	return nil
}

// Sweep removes what was made for holders that were never saved, and settles the rest.
func (v *Volumes) Sweep(ctx context.Context, saved func(holder string) bool) error {
	var errs []error
	for _, vol := range v.List() {
		switch {
		case vol.Pending == "":
		case saved(vol.Pending):
			errs = append(errs, v.settle(ctx, vol.Name, true))
		default:
			errs = append(errs, v.Remove(ctx, vol.Name, true))
		}
	}
	return errors.Join(errs...)
}

// enter waits until nobody makes, fills or removes the volume name, and keeps others from it until leave.
func (v *Volumes) enter(ctx context.Context, name string) error {
	for {
		v.mu.Lock()
		other := v.busy[name]
		if other == nil {
			v.busy[name] = make(chan struct{})
		}
		v.mu.Unlock()
		if other == nil {
			return nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *Volumes) leave(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	close(v.busy[name])
	delete(v.busy, name)
}

// Fill lets fill put the first content into a volume that is empty; one with content is left as it is (CVE-2020-1726).
// Of a filling that fails nothing stays. Who fills the same volume at the same time waits, and finds it filled.
func (v *Volumes) Fill(ctx context.Context, name string, fill func(dir string) error) error {
	if err := v.enter(ctx, name); err != nil {
		return err
	}
	defer v.leave(name)
	vol, err := v.Get(name)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(vol.Mountpoint)
	if err != nil {
		return fmt.Errorf("look into volume %q: %w", name, err)
	}
	if len(entries) > 0 {
		return nil
	}
	err = fill(vol.Mountpoint)
	if err == nil {
		return nil
	}
	partial, listErr := os.ReadDir(vol.Mountpoint)
	errs := []error{err, listErr}
	for _, e := range partial {
		errs = append(errs, os.RemoveAll(filepath.Join(vol.Mountpoint, e.Name())))
	}
	return errors.Join(errs...)
}

func (v *Volumes) write(vol Volume, volatile bool) error {
	if err := os.MkdirAll(vol.Mountpoint, 0o755); err != nil {
		return err
	}
	// The parents keep other users of the host out of setuid programs inside (CVE-2021-41091).
	if err := os.Chmod(filepath.Dir(vol.Mountpoint), 0o701); err != nil {
		return err
	}
	data, err := json.Marshal(vol)
	if err != nil {
		return err
	}
	p := filepath.Join(v.root, vol.Name, recordFile)
	if volatile {
		return durable.WriteVolatile(p, data, 0o600)
	}
	return durable.ReplaceFile(p, data, 0o600)
}

func checkOptions(o map[string]string) error {
	for k := range o {
		if k != "type" && k != "o" && k != "device" {
			return fmt.Errorf("invalid option: %q: the local driver knows type, o and device%w", k, kind{errdefs.ErrInvalidArgument})
		}
	}
	if o["device"] != "" && o["type"] == "" && !strings.Contains(o["o"], "bind") {
		return fmt.Errorf("missing required option: \"type\"%w", kind{errdefs.ErrInvalidArgument})
	}
	if o["type"] != "" && o["device"] == "" {
		return fmt.Errorf("missing device in volume options%w", kind{errdefs.ErrInvalidArgument})
	}
	return nil
}

// Get finds a volume by its exact name.
func (v *Volumes) Get(name string) (Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	vol, there := v.volumes[name]
	if !there {
		return Volume{}, fmt.Errorf("get %s: no such volume%w", name, kind{errdefs.ErrNotFound})
	}
	return vol, nil
}

// List is every volume by name.
func (v *Volumes) List() []Volume {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.volumes), func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
}

// Claim notes that holder uses the volume, so that nobody removes it.
func (v *Volumes) Claim(name, holder string) error {
	if !v.claim(name, holder) {
		return fmt.Errorf("get %s: no such volume%w", name, kind{errdefs.ErrNotFound})
	}
	return nil
}

func (v *Volumes) claim(name, holder string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, there := v.volumes[name]; !there || holder == "" {
		return there
	}
	if v.holders[name] == nil {
		v.holders[name] = map[string]struct{}{}
	}
	v.holders[name][holder] = struct{}{}
	return true
}

// Release ends holder's claims on every volume.
func (v *Volumes) Release(holder string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for name, hs := range v.holders {
		delete(hs, holder)
		if len(hs) == 0 {
			delete(v.holders, name)
		}
	}
}

// Holders are the containers that use the volume, sorted.
func (v *Volumes) Holders(name string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Sorted(maps.Keys(v.holders[name]))
}

// Remove deletes a volume nobody uses, with its content. With force, a volume that is not there is no error.
func (v *Volumes) Remove(ctx context.Context, name string, force bool) error {
	if err := v.enter(ctx, name); err != nil {
		return err
	}
	defer v.leave(name)
	vol, err := v.detach(name)
	if force && errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	// The record goes last: a removal cut short leaves a volume that can be removed again.
	err = os.RemoveAll(vol.Mountpoint)
	if err == nil {
		err = os.RemoveAll(filepath.Dir(vol.Mountpoint))
	}
	if err != nil {
		v.mu.Lock()
		v.volumes[name] = vol
		v.mu.Unlock()
		return fmt.Errorf("remove volume %q: %w", name, err)
	}
	return nil
}

// detach takes a volume nobody uses off the list, so that nobody can claim it any more.
func (v *Volumes) detach(name string) (Volume, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	vol, there := v.volumes[name]
	if !there {
		return vol, fmt.Errorf("get %s: no such volume%w", name, kind{errdefs.ErrNotFound})
	}
	if hs := v.holders[name]; len(hs) > 0 {
		return vol, fmt.Errorf("remove %s: volume is in use - [%s]%w", name,
			strings.Join(slices.Sorted(maps.Keys(hs)), ", "), kind{errdefs.ErrConflict})
	}
	delete(v.volumes, name)
	return vol, nil
}

// Prune removes the volumes that nobody uses and that choose picks, and returns them.
func (v *Volumes) Prune(ctx context.Context, choose func(Volume) bool) ([]Volume, error) {
	var gone []Volume
	for _, vol := range v.List() {
		if ctx.Err() != nil {
			return gone, ctx.Err()
		}
		if len(v.Holders(vol.Name)) > 0 || !choose(vol) {
			continue
		}
		err := v.Remove(ctx, vol.Name, false)
		if errdefs.IsConflict(err) || errdefs.IsNotFound(err) { // claimed or removed meanwhile
			continue
		}
		if err != nil {
			return gone, err
		}
		gone = append(gone, vol)
	}
	return gone, nil
}

func validName(name string) bool {
	for i, r := range []byte(name) {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || r != '_' && r != '.' && r != '-') {
			return false
		}
	}
	return len(name) > 1 && len(name) <= 255
}

// kind lets an error carry an errdefs kind without its words, so that the text is exactly the sentence.
type kind struct{ error }

func (kind) Error() string   { return "" }
func (k kind) Unwrap() error { return k.error }
