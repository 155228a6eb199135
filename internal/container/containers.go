package container

import (
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

// Containers is the set of all containers of one data root. Its methods may be called from any goroutine.
type Containers struct {
	root string

	mu      sync.Mutex // guards what follows; never held while a file is synced
	entries map[string]*entry
	names   map[string]string // name → ID, also of containers being created
}

// entry is one container. Its write lock orders the writers of its record file.
type entry struct {
	write sync.Mutex

	// Guarded by Containers.mu.
	rec     Record
	waiters []waiter
}

// Open reads every record under root, which is made when absent. The second result tells of records that could not
// be read and were set aside.
func Open(root string) (*Containers, []error, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the directory of containers: %w", err)
	}
	c := &Containers{root: root, entries: map[string]*entry{}, names: map[string]string{}}
	dirs, err := os.ReadDir(root)
	if err != nil {
		return nil, nil, fmt.Errorf("list containers: %w", err)
	}
	var damaged []error
	for _, d := range dirs {
		if !d.IsDir() || !isID(d.Name()) {
			continue
		}
		rec, err := read(c.path(d.Name()))
		if err == nil && rec.ID != d.Name() {
			err = fmt.Errorf("record says it is container %q", rec.ID)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist) && exists(c.path(d.Name())+".damaged"): // set aside by an earlier daemon
			damaged = append(damaged, fmt.Errorf("container %s is still set aside as %s.damaged", d.Name(), recordFile))
		case errors.Is(err, fs.ErrNotExist): // its creation or its removal was cut short
			if err := os.RemoveAll(c.Dir(d.Name())); err != nil {
				damaged = append(damaged, err)
			}
		case err != nil:
			damaged = append(damaged, fmt.Errorf("container %s is set aside as %s.damaged: %w", d.Name(), recordFile, err))
			_ = os.Rename(c.path(d.Name()), c.path(d.Name())+".damaged")
		default:
			c.entries[rec.ID] = &entry{rec: rec}
			c.names[rec.Name] = rec.ID
		}
	}
	return c, damaged, nil
}

const recordFile = "record.json"

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func read(path string) (Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return rec, fmt.Errorf("read %s: %w", path, err)
	}
	if rec.Version != recordVersion {
		return rec, fmt.Errorf("read %s: version %d is not known to this program, which writes version %d",
			path, rec.Version, recordVersion)
	}
	return rec, nil
}

// Damaged lists the containers whose records were set aside. Nobody can use them until the record is mended, and what
// they wrote is kept.
func (c *Containers) Damaged() ([]string, error) {
	dirs, err := os.ReadDir(c.root)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []string
	for _, d := range dirs {
		if _, err := os.Lstat(c.path(d.Name()) + ".damaged"); err == nil && isID(d.Name()) {
			out = append(out, d.Name())
		}
	}
	return out, nil
}

// Dir is the directory that belongs to container id: its record and its logs.
func (c *Containers) Dir(id string) string { return filepath.Join(c.root, id) }

func (c *Containers) path(id string) string { return filepath.Join(c.root, id, recordFile) }

// Reservation is a name and an ID that are taken, for a container that is being made.
type Reservation struct {
	ID, Name string
	c        *Containers
}

// Reserve takes a name, or makes one up when name is empty, and a fresh ID. The caller must Commit or Cancel it.
func (c *Containers) Reserve(name string) (*Reservation, error) {
	name = strings.TrimPrefix(name, "/")
	if name != "" && !validName(name) {
		return nil, fmt.Errorf("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed%w",
			name, kind{errdefs.ErrInvalidArgument})
	}
	var raw [32]byte
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		rand.Read(raw[:]) // never fails
		// An ID of digits only would be taken for a number by tools that use its short form as a host name.
		if id := hex.EncodeToString(raw[:]); c.entries[id] == nil && strings.ContainsAny(id[:12], "abcdef") {
			if name == "" {
				name = c.freeName()
			}
			if holder, taken := c.names[name]; taken {
				return nil, nameTaken(name, holder)
			}
			c.names[name] = id
			return &Reservation{ID: id, Name: name, c: c}, nil
		}
	}
}

func nameTaken(name, holder string) error {
	return conflict("Conflict. The container name %q is already in use by container %q. "+
		"You have to remove (or rename) that container to be able to reuse that name.", "/"+name, holder)
}

// Cancel gives the name back.
func (r *Reservation) Cancel() {
	_ = os.RemoveAll(r.c.Dir(r.ID))
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.c.names[r.Name] == r.ID && r.c.entries[r.ID] == nil {
		delete(r.c.names, r.Name)
	}
}

// Commit saves rec as a new container in the state "created". ID, Name and Version are filled in.
func (r *Reservation) Commit(rec Record) (Record, error) {
	rec.Version, rec.ID, rec.Name = recordVersion, r.ID, r.Name
	rec.State = State{Status: Created}
	if err := os.Mkdir(r.c.Dir(r.ID), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return rec, fmt.Errorf("make the directory of container %q: %w", r.Name, err)
	}
	saving := Durable
	if rec.Config.AutoRemove {
		saving = Volatile
	}
	e := &entry{rec: rec}
	if err := r.c.save(e, rec, saving); err != nil {
		return rec, err
	}
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.entries[rec.ID] = e
	return rec, nil
}

// save writes rec unless a newer one has been written since.
func (c *Containers) save(e *entry, rec Record, saving Saving) error {
	if saving == NotSaved {
		return nil
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode the record of container %q: %w", rec.Name, err)
	}
	if saving == Durable {
		err = durable.ReplaceFile(c.path(rec.ID), data, 0o600)
	} else {
		err = durable.WriteVolatile(c.path(rec.ID), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("save container %q: %w", rec.Name, err)
	}
	return nil
}

// Get finds a container by its full ID, its name (with or without a leading slash) or a unique prefix of its ID.
func (c *Containers) Get(ref string) (Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, err := c.find(ref)
	if err != nil {
		return Record{}, err
	}
	return e.rec, nil
}

func (c *Containers) find(ref string) (*entry, error) {
	if e := c.entries[ref]; e != nil {
		return e, nil
	}
	if e := c.entries[c.names[strings.TrimPrefix(ref, "/")]]; e != nil {
		return e, nil
	}
	var found *entry
	if ref != "" && len(ref) < 64 {
		for id, e := range c.entries {
			if !strings.HasPrefix(id, ref) {
				continue
			}
			if found != nil {
				return nil, fmt.Errorf("multiple IDs found with provided prefix: %s%w", ref, kind{errdefs.ErrInvalidArgument})
			}
			found = e
		}
	}
	if found == nil {
		return nil, fmt.Errorf("No such container: %s%w", ref, kind{errdefs.ErrNotFound})
	}
	return found, nil
}

// List is every container, the newest first.
func (c *Containers) List() []Record {
	c.mu.Lock()
	recs := make([]Record, 0, len(c.entries))
	for _, e := range c.entries {
		recs = append(recs, e.rec)
	}
	c.mu.Unlock()
	slices.SortFunc(recs, func(a, b Record) int { return b.Created.Compare(a.Created) })
	return recs
}

// Apply lets fact happen to the container id: it takes the Step, saves as told, tells the waiters and returns what is
// left for the caller to do. The state changes even if saving fails, since the fact is true; the error then says so
// beside a valid Outcome.
func (c *Containers) Apply(id string, fact Fact) (Outcome, error) {
	c.mu.Lock()
	e := c.entries[id]
	if e == nil {
		c.mu.Unlock()
		return Outcome{}, fmt.Errorf("No such container: %s%w", id, kind{errdefs.ErrNotFound})
	}
	o, err := Step(e.rec, fact)
	if err != nil {
		c.mu.Unlock()
		return o, err
	}
	e.rec = o.Record
	c.tell(e, o)
	c.mu.Unlock()
	return o, c.saveLatest(e, o.Save)
}

// saveLatest writes the record as it is when its turn has come, so that an older one never replaces a newer.
func (c *Containers) saveLatest(e *entry, saving Saving) error {
	if saving == NotSaved {
		return nil
	}
	e.write.Lock()
	defer e.write.Unlock()
	c.mu.Lock()
	rec, there := e.rec, c.entries[e.rec.ID] == e
	c.mu.Unlock()
	if !there {
		return nil
	}
	return c.save(e, rec, saving)
}

// Change replaces the container's record with what edit makes of it, durably; edit must not change the state.
func (c *Containers) Change(id string, edit func(*Record) error) (Record, error) {
	c.mu.Lock()
	e := c.entries[id]
	if e == nil {
		c.mu.Unlock()
		return Record{}, fmt.Errorf("No such container: %s%w", id, kind{errdefs.ErrNotFound})
	}
	rec := e.rec
	if err := edit(&rec); err != nil {
		c.mu.Unlock()
		return rec, err
	}
	e.rec = rec
	c.mu.Unlock()
	saving := Durable
	if rec.Config.AutoRemove {
		saving = Volatile
	}
	return rec, c.saveLatest(e, saving)
}

// Rename gives container id a new name.
func (c *Containers) Rename(id, name string) (Record, error) {
	name = strings.TrimPrefix(name, "/")
	if !validName(name) {
		return Record{}, fmt.Errorf("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed%w",
			name, kind{errdefs.ErrInvalidArgument})
	}
	c.mu.Lock()
	e := c.entries[id]
	if e == nil {
		c.mu.Unlock()
		return Record{}, fmt.Errorf("No such container: %s%w", id, kind{errdefs.ErrNotFound})
	}
	old := e.rec.Name
	if holder, taken := c.names[name]; taken {
		c.mu.Unlock()
		if holder == id {
			return Record{}, fmt.Errorf("Renaming a container with the same name as its current name%w",
				kind{errdefs.ErrInvalidArgument})
		}
		return Record{}, nameTaken(name, holder)
	}
	e.rec.Name = name
	delete(c.names, old)
	c.names[name] = id
	rec := e.rec
	c.mu.Unlock()
	return rec, c.saveLatest(e, Durable)
}

// Delete forgets container id and removes its directory. Waiters for "removed" are told.
func (c *Containers) Delete(id string) error {
	c.mu.Lock()
	e := c.entries[id]
	if e == nil {
		c.mu.Unlock()
		return nil
	}
	name := e.rec.Name
	delete(c.entries, id)
	c.mu.Unlock()

	// The record goes first: without it the rest is what Open sweeps up after a crash.
	e.write.Lock()
	err := os.Remove(c.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	e.write.Unlock()
	c.mu.Lock()
	if c.names[name] == id {
		delete(c.names, name)
	}
	c.tellRemoved(e, err)
	c.mu.Unlock()
	if rest := os.RemoveAll(c.Dir(id)); err == nil {
		err = rest
	}
	if err != nil {
		return fmt.Errorf("remove the directory of container %q: %w", name, err)
	}
	return nil
}

// Names maps every name to its container's ID.
func (c *Containers) Names() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.names)
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

func isID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 64
}

// now is the clock of this package's records.
func now() time.Time { return time.Now().UTC() }
