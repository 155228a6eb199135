package cgroup

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const mountRoot = "/sys/fs/cgroup"

// Host is what this machine offers. It does not change and may be used by several goroutines.
type Host struct {
	version int
	// trees are the hierarchies in which a group always gets a directory: one on v2.
	trees []tree
	// beside is the v2 hierarchy of a hybrid host, nil where there is none or it has no controllers.
	beside *tree
	strict bool
}

// Strict is the host for who is asked for limits by a specification, not by a person: what this kernel cannot keep is an error there and
// not a warning, unless nothing is lost by it.
func (h *Host) Strict() *Host {
	s := *h
	s.strict = true
	return &s
}

// tree is one mounted hierarchy.
type tree struct {
	dir         string // its mount point
	v2          bool
	controllers []string // "name=systemd" stands for a hierarchy without controllers
}

func (t *tree) has(controller string) bool {
	return slices.Contains(t.controllers, controller)
}

// Detect finds the hierarchies that are mounted. It is cheap enough to be called by each short-lived process.
func Detect() (*Host, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(mountRoot, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return unifiedHost(mountRoot)
	}
	info, err := readFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the mounted cgroup hierarchies: %w", err)
	}
	trees := parseMountinfo(info)
	var v1 []tree
	var v2 *tree
	for i := range trees {
		if !trees[i].v2 {
			v1 = append(v1, trees[i])
		} else if v2 == nil {
			v2 = &trees[i]
		}
	}
	switch {
	case len(v1) > 0:
		h := &Host{version: 1, trees: v1}
		if v2 != nil {
			b, err := unifiedHost(v2.dir)
			if err != nil {
				return nil, err
			}
			if len(b.trees[0].controllers) > 0 {
				h.beside = &b.trees[0]
			}
		}
		return h, nil
	case v2 != nil:
		return unifiedHost(v2.dir)
	}
	return nil, fmt.Errorf("no cgroup hierarchy is mounted; mount one: mount -t cgroup2 none %s: %w", mountRoot,
		errdefs.ErrNotFound)
}

func unifiedHost(dir string) (*Host, error) {
	list, err := readLine(dir + "/cgroup.controllers")
	if err != nil {
		return nil, fmt.Errorf("read the cgroup controllers of %q: %w", dir, err)
	}
	return &Host{version: 2, trees: []tree{{dir: dir, v2: true, controllers: strings.Fields(list)}}}, nil
}

// parseMountinfo finds the cgroup mounts in the text of /proc/PID/mountinfo (proc_pid_mountinfo(5)):
//
//	31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
//	           │ mount point        zero or more tags ┘ │ │ type  source  super options
//
// Of several mounts of one hierarchy the one below /sys/fs/cgroup is taken, else the first.
func parseMountinfo(text string) []tree {
	var trees []tree
	for line := range strings.Lines(text) {
		// Most lines are of no interest; do not cut them up.
		if !strings.Contains(line, " - cgroup") {
			continue
		}
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		t := tree{dir: unescape(l[4])}
		switch r[0] {
		case "cgroup2":
			t.v2 = true
		case "cgroup":
			for o := range strings.SplitSeq(r[2], ",") {
				if slices.Contains(v1Controllers[:], o) || strings.HasPrefix(o, "name=") {
					t.controllers = append(t.controllers, o)
				}
			}
			if len(t.controllers) == 0 {
				continue
			}
		default:
			continue
		}
		same := func(o tree) bool { return o.v2 == t.v2 && slices.Equal(o.controllers, t.controllers) }
		if i := slices.IndexFunc(trees, same); i < 0 {
			trees = append(trees, t)
		} else if path.Dir(t.dir) == mountRoot && path.Dir(trees[i].dir) != mountRoot {
			trees[i] = t
		}
	}
	return trees
}

// v1Controllers are all that Linux has had; among a mount's options stand others, too.
var v1Controllers = [...]string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb",
	"net_cls", "net_prio", "perf_event", "rdma", "misc", "debug"}

// unescape undoes the octal escapes of mountinfo: \040 is a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// Own is the group of version 2 that this process is in.
func Own() (string, error) {
	text, err := readFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find our own cgroup: %w", err)
	}
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok && path.IsAbs(name) && path.Clean(name) == name {
			return name, nil
		}
	}
	return "", fmt.Errorf("find our own cgroup in %q: %w", text, errdefs.ErrNotFound)
}

// Version is 1 or 2; a hybrid host is 1.
func (h *Host) Version() int { return h.version }

// Controllers names the controllers that can be used here. Named v1 hierarchies are not among them.
func (h *Host) Controllers() map[string]bool {
	found := map[string]bool{}
	for _, t := range h.all() {
		for _, c := range t.controllers {
			if !strings.HasPrefix(c, "name=") {
				found[c] = true
			}
		}
	}
	return found
}

// all are the trees in which groups may have a directory.
func (h *Host) all() []tree {
	if h.beside == nil {
		return h.trees
	}
	return append(slices.Clip(h.trees), *h.beside)
}

// tree is the hierarchy that has the controller, nil if none has.
func (h *Host) tree(controller string) *tree {
	for i := range h.trees {
		if h.trees[i].has(controller) {
			return &h.trees[i]
		}
	}
	if h.beside != nil && h.beside.has(controller) {
		return h.beside
	}
	return nil
}
