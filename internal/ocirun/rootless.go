package ocirun

import (
	"fmt"
	"os"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// In a user namespace, be it that of an ordinary user's container or an engine's own, root may do in the namespaces that belong to it
// what root may, but some the kernel keeps for the host's root: to make devices, to lower oom_score_adj and to raise limits. So the
// host's devices are bound in place of new ones, limits go no further than they are, and the host's mounts are left behind late,
// since a proc or sysfs can be mounted only where another one is in sight.

// mayRaise says whether the right to raise limits counts: it does in no other than the first user namespace.
func (e *execution) mayRaise(own capSets) bool {
	return !e.nested && own.permitted.has(unix.CAP_SYS_RESOURCE)
}

// checkGroups finds out whether groups can be set: not where who made the user namespace had no right to map them
// (user_namespaces(7), "The /proc/pid/setgroups file"). The process then keeps those of the user, which nothing in the container can be
// opened by or closed to that is not so for the user.
func (e *execution) checkGroups() error {
	if !e.nested {
		return nil
	}
	fd, err := unix.Openat(int(e.hostProc.Fd()), "self/setgroups", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("find out whether groups can be set: %w", err)
	}
	defer unix.Close(fd)
	var buf [16]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return fmt.Errorf("find out whether groups can be set: %w", err)
	}
	e.keepGroups = strings.TrimSpace(string(buf[:n])) == "deny"
	if e.keepGroups && len(e.process.User.AdditionalGids) > 0 {
		return invalid("groups %d cannot be set in a user namespace that was made without the right to; give its user a range in "+
			"/etc/subgid and map it (newgidmap), or leave process.user.additionalGids out", e.process.User.AdditionalGids)
	}
	return nil
}

// devicesFromHost copies the mounts of the devices that the container gets.
func (s *setup) devicesFromHost() error {
	if !s.exec.nested || s.bindsDev() {
		return nil
	}
	s.devMount = map[string]*os.File{}
	for _, d := range defaultDevices {
		if err := s.deviceFromHost(d.path, unix.S_IFCHR, unix.Mkdev(d.major, d.minor)); err != nil {
			return err
		}
	}
	for i := range s.lin.Devices {
		d := &s.lin.Devices[i]
		kind := uint32(unix.S_IFCHR)
		switch d.Type {
		case "b":
			kind = unix.S_IFBLK
		case "c", "u":
		default: // anybody can make the others
			continue
		}
		if err := s.deviceFromHost(d.Path, kind, unix.Mkdev(uint32(d.Major), uint32(d.Minor))); err != nil {
			return err
		}
		s.warnOfDevice(d)
	}
	return nil
}

func (s *setup) deviceFromHost(name string, kind uint32, dev uint64) error {
	tree, err := linux.OpenTree(unix.AT_FDCWD, name, unix.OPEN_TREE_CLONE)
	if err != nil {
		return fmt.Errorf("device %q: in a user namespace none can be made, and the host's cannot be had: %w", name, err)
	}
	s.keep(tree)
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return fmt.Errorf("device %q: %w", name, err)
	}
	if st.Mode&unix.S_IFMT != kind || st.Rdev != dev {
		return invalid("device %q: in a user namespace none can be made, and the host's of that name is another", name)
	}
	if err := linux.MountSetattr(tree, &unix.MountAttr{Propagation: unix.MS_PRIVATE}, false); err != nil {
		return fmt.Errorf("device %q: %w", name, err)
	}
	s.devMount[name] = tree
	return nil
}

// warnOfDevice tells what of a device cannot be as it was asked for: the host's stays as it is.
func (s *setup) warnOfDevice(d *specs.LinuxDevice) {
	var st unix.Stat_t
	if err := unix.Fstat(int(s.devMount[d.Path].Fd()), &st); err != nil {
		return
	}
	mode := d.FileMode != nil && uint32(*d.FileMode)&0o7777 != st.Mode&0o7777
	if mode || d.UID != nil && *d.UID != st.Uid || d.GID != nil && *d.GID != st.Gid {
		s.exec.warn("device %s has the host's owner and mode, %d:%d and %04o: in a user namespace they cannot be changed", d.Path, st.Uid,
			st.Gid, st.Mode&0o7777)
	}
}

// Owner is the user who makes a container, as the namespace outside knows him.
func Owner() int {
	uid := os.Geteuid()
	if !linux.InUserNamespace() {
		return uid
	}
	proc, err := openHostProc()
	if err != nil {
		return uid
	}
	defer proc.Close()
	if own, err := readIDs(proc, os.Getpid()); err == nil {
		uid = own.uid(uint32(uid))
	}
	return uid
}

// RootlessExample is Example for an ordinary user: a container whose root is that user, in the host's network.
func RootlessExample(uid, gid uint32) *specs.Spec {
	s := Example()
	l := s.Linux
	l.Resources = nil
	namespaces := l.Namespaces[:0]
	for _, n := range l.Namespaces {
		if n.Type != specs.NetworkNamespace && n.Type != specs.CgroupNamespace {
			namespaces = append(namespaces, n)
		}
	}
	l.Namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: uid, Size: 1}}
	l.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: gid, Size: 1}}
	mounts := s.Mounts[:0]
	for _, m := range s.Mounts {
		switch m.Destination {
		case "/sys/fs/cgroup":
			continue
		case "/sys": // a sysfs belongs to the network namespace
			m = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "rro"}}
		case "/dev/pts": // group 5 is not mapped
			m.Options = m.Options[:len(m.Options)-1]
		}
		mounts = append(mounts, m)
	}
	s.Mounts = mounts
	return s
}
