package ocirun

import (
	"fmt"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// checkLabels refuses SELinux labels where the kernel has no SELinux, rather than leave a container without them.
func checkLabels(s *specs.Spec) error {
	label := s.Process.SelinuxLabel
	if s.Linux != nil && s.Linux.MountLabel != "" {
		label = s.Linux.MountLabel
	}
	if label == "" || selinux() {
		return nil
	}
	return fmt.Errorf("the SELinux label %q cannot be given: this kernel does not run with SELinux: %w", label, errdefs.ErrNotFound)
}

func selinux() bool {
	var sfs unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &sfs) == nil && sfs.Type == unix.SELINUX_MAGIC
}

// labelled adds the mount label to the options of a file system that is made for the container (config-linux.md, "Mount Label"). The
// kernel's own, proc and sysfs, have theirs from the policy.
func labelled(label, fstype string, data []linux.FsOption) []linux.FsOption {
	if label == "" || fstype == "proc" || fstype == "sysfs" || fstype == "cgroup" || fstype == "cgroup2" {
		return data
	}
	return append(append([]linux.FsOption{}, data...), linux.FsOption{Key: "context", Value: label})
}
