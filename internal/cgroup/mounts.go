package cgroup

import (
	"path"
	"slices"
	"strings"
)

// Mount is one part of what a container sees at /sys/fs/cgroup.
type Mount struct {
	// Name is the mount point below /sys/fs/cgroup ("memory", "cpu,cpuacct"); "" is /sys/fs/cgroup itself.
	Name string
	// Type and Data are for mount(2) from within a cgroup namespace whose root the container's group is:
	// "cgroup2" with no data, or "cgroup" with the controllers ("cpu,cpuacct", "none,name=systemd").
	Type, Data string
	// Source is the group's directory on the host, for a bind mount where there is no cgroup namespace.
	Source string
	// Links are names that programs expect beside Name, as symbolic links to it: cpu and cpuacct for "cpu,cpuacct".
	Links []string
}

// Mounts says how to show the group to its processes: on v2 one mount with an empty Name; on v1 a tmpfs is to be
// mounted at /sys/fs/cgroup and each of these in it.
func (g *Group) Mounts() []Mount {
	mounts := g.host.Mounts()
	for i := range mounts {
		mounts[i].Source = g.dir(&g.host.trees[i])
	}
	return mounts
}

// Mounts is that of a group for whichever a process is in: there is no Source, so it takes a cgroup namespace.
func (h *Host) Mounts() []Mount {
	var mounts []Mount
	for i := range h.trees {
		t := &h.trees[i]
		m := Mount{}
		if t.v2 {
			m.Type = "cgroup2"
		} else {
			m.Type, m.Name = "cgroup", path.Base(t.dir)
			m.Data = strings.Join(t.controllers, ",")
			if strings.HasPrefix(m.Data, "name=") {
				m.Data = "none," + m.Data
			}
			if len(t.controllers) > 1 {
				m.Links = slices.DeleteFunc(slices.Clone(t.controllers), func(c string) bool { return c == m.Name })
			}
		}
		mounts = append(mounts, m)
	}
	return mounts
}
