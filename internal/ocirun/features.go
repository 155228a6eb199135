package ocirun

import (
	"slices"

	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features is what this runtime can do, as the OCI runtime specification wants it told (features.md).
func Features(version string) *features.Features {
	yes := new(bool)
	*yes = true
	known := seccomp.Knows()
	f := &features.Features{
		OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version,
		Hooks: []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		Linux: &features.Linux{
			Capabilities: capNames[:],
			Cgroup:       &features.Cgroup{V1: yes, V2: yes, Systemd: yes, SystemdUser: yes, Rdma: yes},
			Seccomp: &features.Seccomp{Enabled: yes, Actions: words(known.Actions), Operators: words(known.Operators),
				Archs: words(known.Arches), KnownFlags: words(known.Flags), SupportedFlags: words(known.Supported)},
			MemoryPolicy:    &features.MemoryPolicy{Modes: words(memoryModes[:]), Flags: words(memoryFlags[:])},
			Apparmor:        &features.Apparmor{Enabled: yes},
			Selinux:         &features.Selinux{Enabled: yes},
			IntelRdt:        &features.IntelRdt{Enabled: yes, Schemata: yes, Monitoring: yes},
			NetDevices:      &features.NetDevices{Enabled: yes},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: yes}},
		},
		// The second is how runc tells that it has checkpoint and restore, of which the specification does not know.
		Annotations: map[string]string{"dev.berth.runtime.version": version, "org.opencontainers.runc.checkpoint.enabled": "true"},
	}
	for _, ns := range nsFlags {
		f.Linux.Namespaces = append(f.Linux.Namespaces, string(ns.kind))
	}
	f.Linux.Namespaces = append(f.Linux.Namespaces, string(specs.UserNamespace))
	for _, a := range attrWords {
		f.MountOptions = append(f.MountOptions, a.name, "r"+a.name)
	}
	for _, word := range [...]string{"private", "slave", "shared", "unbindable"} {
		f.MountOptions = append(f.MountOptions, word, "r"+word)
	}
	f.MountOptions = append(f.MountOptions, "bind", "rbind", "defaults", "async", "sync", "dirsync", "lazytime", "nolazytime",
		"mand", "nomand", "silent", "loud", "acl", "noacl", "iversion", "noiversion",
		"remount", "tmpcopyup", "idmap", "ridmap")
	slices.Sort(f.MountOptions)
	slices.Sort(f.Linux.Namespaces)
	return f
}

// words are names of the specification as plain text, in their order.
func words[T ~string](names []T) (list []string) {
	for _, n := range names {
		list = append(list, string(n))
	}
	slices.Sort(list)
	return list
}

// Example is a spec to begin with: a shell on the terminal, with few rights.
func Example() *specs.Spec {
	caps := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: specs.Version, Hostname: "berth", Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Terminal: true, Args: []string{"sh"}, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=" + defaultPath, "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
				Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}},
			MaskedPaths: []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi", "/proc/interrupts"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}
