package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Group is a group by its path: the directories of that path in every hierarchy.
type Group struct {
	host *Host
	path string
	sub  map[string]string // where it is another one below, by the hierarchy's mount point; see Below
}

// Open gives the group at path, whether it exists or not.
func (h *Host) Open(groupPath string) *Group {
	return &Group{host: h, path: path.Clean("/" + groupPath)}
}

// Path is the group's path from the root of the hierarchies.
func (g *Group) Path() string { return g.path }

// dir is the group's directory in t.
func (g *Group) dir(t *tree) string { return t.dir + g.path + g.sub[t.dir] }

// Below is the group, for those who join it, with the group at sub below it in place of itself: in the hierarchies of these
// controllers, a list with commas, or in all. It must exist: the error wraps errdefs.ErrNotFound when it does not.
func (g *Group) Below(controllers, sub string) (*Group, error) {
	n := &Group{host: g.host, path: g.path, sub: map[string]string{}}
	for k, v := range g.sub {
		n.sub[k] = v
	}
	sub = path.Clean("/" + sub)
	for _, c := range strings.Split(controllers, ",") {
		found := false
		for _, t := range g.host.all() {
			if controllers != "" && !t.has(c) && !(t.has("name=" + c)) {
				continue
			}
			dir := t.dir + g.path + sub
			var st unix.Stat_t
			switch err := unix.Stat(dir, &st); {
			case err == unix.ENOENT && g.host.version == 1 && t.v2:
				continue // no limit of this group needed the hierarchy beside
			case err == unix.ENOENT:
				return nil, fmt.Errorf("cgroup %q is not there: %w", dir, errdefs.ErrNotFound)
			case err != nil:
				return nil, fmt.Errorf("cgroup %q: %w", dir, err)
			}
			n.sub[t.dir], found = sub, true
		}
		if !found {
			return nil, fmt.Errorf("this machine has no cgroup controller %q: %w", c, errdefs.ErrNotFound)
		}
	}
	return n, nil
}

// file is the path of a control file, "" when the host lacks the controller.
func (g *Group) file(controller, name string) string {
	t := g.host.tree(controller)
	if t == nil {
		return ""
	}
	return g.dir(t) + "/" + name
}

// Create makes the group at path and sets every limit of r, which may be nil. Missing parents are made. The group
// must not exist, but an empty one that an earlier run left is replaced by a fresh one. Warnings are for the user,
// in Docker's words. After an error nothing is left of the group.
//
// Errors wrap errdefs.ErrInvalidArgument for values that no kernel would take and errdefs.ErrAlreadyExists for a
// group in use; what the kernel refused is wrapped as its errno.
func (h *Host) Create(groupPath string, r *specs.LinuxResources) (_ *Group, warnings []string, err error) {
	if groupPath == "/" || !path.IsAbs(groupPath) || path.Clean(groupPath) != groupPath {
		return nil, nil, fmt.Errorf("cgroup path %q is not clean, absolute and below the root: %w", groupPath,
			errdefs.ErrInvalidArgument)
	}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	g := &Group{host: h, path: groupPath}
	trees := h.trees
	if h.beside != nil && slices.ContainsFunc(h.beside.controllers, func(c string) bool { return asks(r, c) }) {
		trees = h.all()
	}
	made := 0
	defer func() {
		if err != nil {
			for i := range trees[:made] {
				unix.Rmdir(g.dir(&trees[i]))
			}
		}
	}()
	for i := range trees {
		if err := h.makeDir(&trees[i], groupPath); err != nil {
			return nil, nil, fmt.Errorf("make cgroup %q: %w", g.dir(&trees[i]), err)
		}
		made++
	}
	if err := g.prepare(trees, r); err != nil {
		return nil, nil, err
	}
	if warnings, err = g.set(r, true); err != nil {
		return nil, nil, err
	}
	return g, warnings, nil
}

// Update changes the limits that r sets and leaves the others. After an error some may have been changed.
func (g *Group) Update(r *specs.LinuxResources) (warnings []string, err error) {
	return g.set(r, false)
}

// makeDir makes the group's own directory in one hierarchy.
func (h *Host) makeDir(t *tree, groupPath string) error {
	dir := t.dir + groupPath
	// A group that somebody removes between our making its parent and itself costs another round.
	for range 8 {
		err := unix.Mkdir(dir, 0o755)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ENOENT):
			err = h.makeParents(t, path.Dir(groupPath))
		case errors.Is(err, unix.EEXIST):
			// Counters and limits of another run must not be taken over.
			err = unix.Rmdir(dir)
			if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) {
				return fmt.Errorf("it exists and has processes or groups in it: %w", errdefs.ErrAlreadyExists)
			}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return fmt.Errorf("its parent is being removed again and again: %w", unix.ENOENT)
}

// makeParents makes every missing directory down to parent.
func (h *Host) makeParents(t *tree, parent string) error {
	for end := 1; end <= len(parent); end++ {
		if end < len(parent) && parent[end] != '/' {
			continue
		}
		dir := t.dir + parent[:end]
		err := unix.Mkdir(dir, 0o755)
		if errors.Is(err, unix.EEXIST) || parent == "/" {
			continue
		}
		if err != nil {
			return err
		}
		_ = unix.Lsetxattr(dir, madeMark, []byte("1"), 0) // without it the group stays
		if t.has("cpuset") && !t.v2 {
			if err := inheritCpuset(t, parent[:end]); err != nil {
				return err
			}
			if err := writeFile(dir+"/cgroup.clone_children", "1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// prepare gives a new group the controllers it needs, before limits are set.
func (g *Group) prepare(trees []tree, r *specs.LinuxResources) error {
	for i := range trees {
		t := &trees[i]
		var err error
		switch {
		case t.v2:
			err = enableControllers(t, g.path, func(c string) bool { return asks(r, c) })
		case t.has("cpuset"):
			err = inheritCpuset(t, g.path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inheritCpuset fills the empty processors and memory nodes of a v1 group, and where need be of its ancestors, from
// the next group above that has some.
func inheritCpuset(t *tree, groupPath string) error {
	for _, name := range [...]string{"/cpuset.cpus", "/cpuset.mems"} {
		if _, err := inheritFile(t, groupPath, name); err != nil {
			return fmt.Errorf("copy %s into cgroup %q: %w", name[1:], t.dir+groupPath, err)
		}
	}
	return nil
}

func inheritFile(t *tree, groupPath, name string) (string, error) {
	dir := t.dir + groupPath
	value, err := readLine(dir + name)
	if err != nil || value != "" || groupPath == "/" {
		return value, err
	}
	if value, err = inheritFile(t, path.Dir(groupPath), name); err != nil {
		return "", err
	}
	return value, writeFile(dir+name, value)
}

// ProcsFiles opens the files through which a process joins the group by writing "0". The writer must have a
// single thread: see the package comment for why. The caller closes them.
func (g *Group) ProcsFiles() (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
		}
	}()
	for _, t := range g.host.all() {
		name := "/tasks"
		if t.v2 {
			name = "/cgroup.procs"
		}
		f, err := openFile(g.dir(&t)+name, unix.O_WRONLY)
		if gone(err) && g.host.version == 1 && t.v2 {
			continue // no limit of this group needed the hierarchy beside
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// DirFile opens the group's directory for clone3(2) with CLONE_INTO_CGROUP. There is one only on a v2 host;
// elsewhere the error wraps errdefs.ErrNotImplemented.
func (g *Group) DirFile() (*os.File, error) {
	if g.host.version != 2 {
		return nil, fmt.Errorf("a process cannot be cloned into cgroup %q of version 1: %w", g.path,
			errdefs.ErrNotImplemented)
	}
	return openFile(g.dir(&g.host.trees[0]), unix.O_PATH|unix.O_DIRECTORY)
}

// DirFileFor is DirFile for a further process of the container that pid is in. Once a container hands controllers
// down to groups that it makes itself (an init system does), v2 allows no process in its own group any more; the
// newcomer then goes where pid is.
func (g *Group) DirFileFor(pid int) (*os.File, error) {
	if g.host.version != 2 || g.sub != nil {
		return g.DirFile()
	}
	t := &g.host.trees[0]
	handed, err := readLine(g.dir(t) + "/cgroup.subtree_control")
	if err != nil {
		return nil, fmt.Errorf("read cgroup.subtree_control of cgroup %q: %w", g.path, err)
	}
	if handed == "" {
		return g.DirFile()
	}
	member, err := readLine("/proc/" + decimal(int64(pid)) + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	below, ok := strings.CutPrefix(member, "0::"+g.path+"/")
	if !ok || path.Clean("/"+below) != "/"+below {
		return nil, fmt.Errorf("process %d is in %q and not below cgroup %q", pid, member, g.path)
	}
	return openFile(g.dir(t)+"/"+below, unix.O_PATH|unix.O_DIRECTORY)
}

// main is the hierarchy that is asked who is in the group.
func (g *Group) main() *tree {
	for _, c := range [...]string{"pids", "memory", "devices", "freezer"} {
		if t := g.host.tree(c); t != nil && (t.v2 == (g.host.version == 2)) {
			return t
		}
	}
	return &g.host.trees[0]
}

// Pids lists the processes in the group and in the groups below it. A group that does not exist has none.
func (g *Group) Pids() ([]int, error) {
	var pids []int
	err := walk(g.dir(g.main()), func(dir string) error {
		text, err := readFile(dir + "/cgroup.procs")
		// A threaded group of v2 does not tell; its processes are listed by the domain above.
		if gone(err) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list the processes of cgroup %q: %w", dir, err)
		}
		for line := range strings.Lines(text) {
			if n, err := parseUint(strings.TrimSpace(line)); err == nil {
				pids = append(pids, int(n))
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// walk calls fn for dir and the groups below it, parents first. Groups that vanish meanwhile are passed over.
func walk(dir string, fn func(dir string) error) error {
	if err := fn(dir); err != nil {
		return err
	}
	below, err := children(dir)
	if err != nil {
		return err
	}
	for _, c := range below {
		if err := walk(c, fn); err != nil {
			return err
		}
	}
	return nil
}

// children lists the groups directly below dir.
func children(dir string) ([]string, error) {
	var st unix.Stat_t
	// A directory's link count tells whether there is anything to list: two, and one for each directory in it.
	if err := unix.Lstat(dir, &st); err == nil && st.Nlink == 2 || gone(err) {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var below []string
	for _, e := range entries {
		if e.IsDir() {
			below = append(below, dir+"/"+e.Name())
		}
	}
	return below, nil
}
