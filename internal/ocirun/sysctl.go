package ocirun

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ipcSysctls are the settings outside fs.mqueue that belong to an IPC namespace.
var ipcSysctls = [...]string{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
	"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"}

// checkSysctl refuses settings that would be the host's. It judges the path that will be written, since a name can be
// said in several ways.
func checkSysctl(key string, private func(specs.LinuxNamespaceType) bool) error {
	p := sysctlPath(key)
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("sysctl %q: malformed name: %w", key, errdefs.ErrInvalidArgument)
		}
	}
	var need specs.LinuxNamespaceType
	switch {
	case slices.Contains(ipcSysctls[:], p) || strings.HasPrefix(p, "fs/mqueue/"):
		need = specs.IPCNamespace
	case strings.HasPrefix(p, "net/"):
		need = specs.NetworkNamespace
	case p == "kernel/domainname":
		need = specs.UTSNamespace
	case p == "kernel/hostname":
		return fmt.Errorf("sysctl %q: set the host name instead: %w", key, errdefs.ErrInvalidArgument)
	default:
		return fmt.Errorf("sysctl %q is not in a separate kernel namespace: %w", key, errdefs.ErrInvalidArgument)
	}
	if !private(need) {
		return fmt.Errorf("sysctl %q is not allowed in the host's %s namespace: %w", key, need, errdefs.ErrInvalidArgument)
	}
	return nil
}

// sysctls writes the settings through a procfs made for nothing else, so that no mount can stand in between
// (CVE-2025-52881). Which namespace a file is about depends on the thread that opens it.
func (s *setup) sysctls() error {
	if len(s.lin.Sysctl) == 0 {
		return nil
	}
	proc := s.hostProc  // which is verified, and writeProc crosses no mount
	if !s.exec.nested { // where none of the host's pid namespace can be made
		var err error
		proc, err = linux.NewMount("proc", "proc", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return err
		}
		defer proc.Close()
	}
	keys := make([]string, 0, len(s.lin.Sysctl))
	for k := range s.lin.Sysctl {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := writeProc(proc, "sys/"+sysctlPath(key), s.lin.Sysctl[key]); err != nil {
			return fmt.Errorf("sysctl %q: %w", key, err)
		}
	}
	return nil
}

// sysctlPath turns net.ipv4.ip_forward into a path. A name may use either separator; the first one found is it, so that
// net/ipv4/conf/eth0.1/forwarding can be said (sysctl(8)).
func sysctlPath(key string) string {
	i := strings.IndexAny(key, "./")
	if i < 0 || key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}
