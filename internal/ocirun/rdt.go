package ocirun

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Rdt is what a container has of the processor's caches and memory bandwidth (config-linux.md, "IntelRdt"), as directories of the
// kernel's resctrl file system:
//
//	/sys/fs/resctrl/                     the default class of service
//	/sys/fs/resctrl/CLOS/tasks           who is in the class
//	/sys/fs/resctrl/CLOS/schemata        what the class has
//	/sys/fs/resctrl/CLOS/mon_groups/ID   what is counted of this container
type Rdt struct {
	Dir   string `json:"dir"`             // of the class
	Made  bool   `json:"made,omitempty"`  // for this container, and removed with it
	Group string `json:"group,omitempty"` // that counts; removed with the container
}

const resctrlRoot = "/sys/fs/resctrl"

// What is made for a container is noted in its directory before it is made, as links whose texts are the directories' names: a create
// that is killed leaves no state that tells.
const (
	rdtClassNote = "rdt"
	rdtGroupNote = "rdt.group"
)

// RemoveRdt removes what the notes in a container's directory tell of, where no process is in it. The container's have been killed.
func RemoveRdt(dir string) error {
	t := &Rdt{}
	var err error
	if t.Group, err = os.Readlink(filepath.Join(dir, rdtGroupNote)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if t.Dir, err = os.Readlink(filepath.Join(dir, rdtClassNote)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// It may not have been made, and be somebody else's by now.
	if t.Made = t.Dir != "" && unusedRdt(t.Dir); t.Group != "" && !unusedRdt(t.Group) {
		t.Group = ""
	}
	return t.Delete()
}

func unusedRdt(dir string) bool {
	tasks, err := os.ReadFile(filepath.Join(dir, "tasks"))
	return len(tasks) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist))
}

func checkRdt(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	if r.ClosID != "" && r.ClosID != "/" && (r.ClosID != filepath.Base(r.ClosID) || slices.Contains([]string{".", "..", "info", "mon_data", "mon_groups"}, r.ClosID)) {
		return invalid("intelRdt: %q cannot be a class of service", r.ClosID)
	}
	if m := r.MemBwSchema; m != "" && !strings.HasPrefix(m, "MB:") {
		return invalid("intelRdt: memory bandwidth %q does not begin with \"MB:\"", m)
	}
	for _, line := range rdtLines(r) {
		if strings.Contains(line, "\n") || !strings.Contains(line, ":") {
			return invalid("intelRdt: %q is not one line of a schema", line)
		}
	}
	return nil
}

// rdtLines are the lines for the schemata file, in the order they are written.
func rdtLines(r *specs.LinuxIntelRdt) (lines []string) {
	for _, line := range [...]string{r.L3CacheSchema, r.MemBwSchema} {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return append(lines, r.Schemata...)
}

// makeRdt makes or finds the class of a container and the group that counts. root is "" but in tests, whose directories are ordinary
// ones: the kernel's have their files from the beginning. notes is the container's directory, "" for none.
func makeRdt(root, id, notes string, r *specs.LinuxIntelRdt) (_ *Rdt, err error) {
	note := func(name, text string) error {
		if notes == "" {
			return nil
		}
		return os.Symlink(text, filepath.Join(notes, name))
	}
	if root == "" {
		const magic = 0x7655821 // RDTGROUP_SUPER_MAGIC
		var sfs unix.Statfs_t
		if err := unix.Statfs(resctrlRoot, &sfs); err != nil || sfs.Type != magic {
			return nil, fmt.Errorf("intelRdt: no resctrl file system is mounted at %s; where the processor has it: mount -t resctrl resctrl %s: %w",
				resctrlRoot, resctrlRoot, errdefs.ErrNotFound)
		}
		root = resctrlRoot
	}
	name := r.ClosID
	if name == "" {
		name = id
	}
	t := &Rdt{Dir: filepath.Join(root, name)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("intelRdt: class %q: %w", name, err), t.Delete())
		}
	}()
	lines := rdtLines(r)
	there := true
	if _, err := os.Stat(t.Dir); errors.Is(err, fs.ErrNotExist) {
		there = false
	} else if err != nil {
		return nil, err
	}
	switch {
	case !there && r.ClosID != "" && len(lines) == 0:
		return nil, fmt.Errorf("it is not there, and nothing is said of what it shall have: %w", errdefs.ErrNotFound)
	case !there:
		if r.ClosID == "" {
			if err := note(rdtClassNote, t.Dir); err != nil {
				return nil, err
			}
		}
		if err := os.Mkdir(t.Dir, 0o755); err != nil {
			return nil, err
		}
		t.Made = true
		if err := writeSchemata(t.Dir, lines); err != nil {
			return nil, err
		}
		t.Made = r.ClosID == "" // one that has a name of its own stays
	case r.ClosID == "":
		return nil, fmt.Errorf("it is somebody's already: %w", errdefs.ErrAlreadyExists)
	default:
		if err := sameSchemata(t.Dir, lines); err != nil {
			return nil, err
		}
	}
	if r.EnableMonitoring {
		group := filepath.Join(t.Dir, "mon_groups", id)
		if err := note(rdtGroupNote, group); err != nil {
			return nil, err
		}
		if err := os.Mkdir(group, 0o755); err != nil {
			return nil, err
		}
		t.Group = group
	}
	return t, nil
}

// Update changes what the class has, which others may be in as well. The error wraps errdefs.ErrFailedPrecondition where there is none.
func (t *Rdt) Update(r *specs.LinuxIntelRdt) error {
	if t == nil {
		return fmt.Errorf("it has no Intel RDT class whose schema could change: %w", errdefs.ErrFailedPrecondition)
	}
	err := checkRdt(r)
	if err == nil {
		err = writeSchemata(t.Dir, rdtLines(r))
	}
	if err != nil {
		return fmt.Errorf("intelRdt: class %q: %w", filepath.Base(t.Dir), err)
	}
	return nil
}

func writeSchemata(dir string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(dir, "schemata"), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	for _, line := range lines {
		if _, err = f.WriteString(line + "\n"); err != nil {
			err = fmt.Errorf("the kernel refuses %q (see %s/info/last_cmd_status): %w", line, filepath.Dir(dir), errnoOf(err))
			break
		}
	}
	return errors.Join(err, f.Close())
}

// sameSchemata says that a class has what these lines ask for: "L3:0=0f;1=f" is the kernel's "    L3:0=00f;1=00f;2=fff".
func sameSchemata(dir string, lines []string) error {
	data, err := os.ReadFile(filepath.Join(dir, "schemata"))
	if err != nil && len(lines) > 0 {
		return err
	}
	has := map[string]string{}
	collect := func(line string, visit func(key, value string)) {
		resource, list, _ := strings.Cut(strings.TrimSpace(line), ":")
		for part := range strings.SplitSeq(list, ";") {
			domain, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			visit(resource+":"+domain, strings.ToLower(strings.TrimLeft(value, "0")))
		}
	}
	for line := range strings.Lines(string(data)) {
		collect(line, func(key, value string) { has[key] = value })
	}
	for _, line := range lines {
		err = nil
		collect(line, func(key, value string) {
			if has[key] != value {
				err = fmt.Errorf("it is there and does not have %q, but: %q: %w", line, data, errdefs.ErrFailedPrecondition)
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Delete removes what was made for the container, which has ended. nil has nothing.
func (t *Rdt) Delete() error {
	if t == nil {
		return nil
	}
	var errs []error
	remove := func(dir string) {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			errs = append(errs, &fs.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	if t.Group != "" {
		remove(t.Group)
	}
	if t.Made {
		remove(t.Dir)
	}
	return errors.Join(errs...)
}

// files opens what a process writes itself into.
func (t *Rdt) files() (files []*os.File, err error) {
	if t == nil {
		return nil, nil
	}
	for _, dir := range []string{t.Dir, t.Group} {
		if dir == "" {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return files, fmt.Errorf("intelRdt: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}
