package engine

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// specInput is everything the OCI spec of one start depends on; buildSpec is a pure function of it.
type specInput struct {
	Record   container.Record
	User     execUser
	Mounts   []specs.Mount // of the user: binds, volumes, tmpfs; already resolved to host paths
	EtcFiles string        // directory that holds hosts, hostname and resolv.conf
	ShmFrom  string        // host path to bind on /dev/shm, or what a tree is handed over for; "" makes one
	Devices  []hostDevice  // --device and, when privileged, every device of the host
	Cgroup   cgroupTraits
	HostName string // the host's own, for --uts host
	// NetHost and so on say which namespaces are the host's.
	NetHost, IpcHost, PidHost, UTSHost, CgroupHost bool
	DefaultUlimits                                 []container.Ulimit
	CgroupPath                                     string
}

// execUser is a user as the kernel knows it, and the home the image's passwd file gives it.
type execUser struct {
	UID, GID uint32
	Groups   []uint32
	Home     string
}

type cgroupTraits struct {
	Version  int
	Supports func(controller string) bool
}

// hostDevice is a device node of the host that the container gets.
type hostDevice struct {
	Path         string // in the container
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         uint32
	UID, GID     uint32
	Access       string // "rwm"
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultCaps are the capabilities Docker leaves to a container's root.
var defaultCaps = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// allCaps are the capabilities by their numbers, so that the kernel's last one cuts the list.
var allCaps = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// The paths that show or change the host and are hidden from, or read-only in, a container: Docker's lists, with
// powercap (GHSA-jq35-85cj-fj4p) among them.
var (
	defaultMasked = [...]string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonly = [...]string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// capabilities resolves --cap-add and --cap-drop, which may say ALL and may leave out the prefix.
func capabilities(sec container.Security, known []string) ([]string, error) {
	if sec.Privileged {
		return slices.Clone(known), nil
	}
	add, err := capNames("cap-add", sec.CapAdd)
	if err != nil {
		return nil, err
	}
	drop, err := capNames("cap-drop", sec.CapDrop)
	if err != nil {
		return nil, err
	}
	var base []string
	switch {
	case slices.Contains(add, "ALL"):
		base = slices.Clone(known)
	case slices.Contains(drop, "ALL"):
	default:
		base = slices.Clone(defaultCaps[:])
	}
	if slices.Contains(drop, "ALL") {
		if slices.Contains(add, "ALL") { // --cap-drop ALL --cap-add ALL: Docker keeps what is named
			drop = nil
		}
	}
	for _, c := range add {
		if c != "ALL" && !slices.Contains(base, c) {
			base = append(base, c)
		}
	}
	base = slices.DeleteFunc(base, func(c string) bool {
		return !slices.Contains(known, c) || slices.Contains(drop, c) && !named(add, c, drop)
	})
	return base, nil
}

// named says whether a capability that is both added and dropped stays: adding wins over dropping ALL only.
func named(add []string, c string, drop []string) bool {
	return slices.Contains(add, c) && !slices.Contains(drop, c)
}

func capNames(option string, names []string) ([]string, error) {
	var out []string
	for _, n := range names {
		c := strings.ToUpper(strings.TrimSpace(n))
		if c == "ALL" {
			out = append(out, c)
			continue
		}
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if !slices.Contains(allCaps[:], c) {
			return nil, fmt.Errorf("invalid %s: unknown capability: %q%w", option, n, kind{errdefs.ErrInvalidArgument})
		}
		out = append(out, c)
	}
	return out, nil
}

// buildSpec writes the OCI spec of one start (runtime-spec 1.3).
func buildSpec(in specInput, caps []string) (*specs.Spec, error) {
	cfg := in.Record.Config
	p := cfg.Process
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: cfg.Hostname,
		Root:     &specs.Root{Path: "rootfs", Readonly: cfg.ReadOnly},
		Process: &specs.Process{
			Terminal:        p.Tty,
			Args:            p.Argv(),
			Cwd:             cwd(p.WorkingDir),
			User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Groups},
			Env:             environment(cfg, in.User, cfg.Hostname),
			NoNewPrivileges: cfg.Security.NoNewPrivileges,
			Capabilities:    capabilitySets(caps, in.User.UID),
		},
		Annotations: cfg.Extra.Annotations,
	}
	if cfg.Limits.OomScoreAdj != 0 {
		adj := cfg.Limits.OomScoreAdj
		s.Process.OOMScoreAdj = &adj
	}
	if p.Tty && (p.ConsoleRows > 0 || p.ConsoleCols > 0) {
		s.Process.ConsoleSize = &specs.Box{Height: p.ConsoleRows, Width: p.ConsoleCols}
	}
	var err error
	if s.Process.Rlimits, err = rlimits(cfg.Limits.Ulimits, in.DefaultUlimits); err != nil {
		return nil, err
	}
	if in.UTSHost {
		s.Hostname = ""
	} else {
		s.Domainname = cfg.Domain
	}
	s.Linux = &specs.Linux{
		CgroupsPath: in.CgroupPath,
		Sysctl:      sysctls(cfg, in),
		Namespaces:  namespaces(in),
		Resources:   resources(cfg, in),
		Devices:     deviceNodes(in.Devices),
	}
	if !cfg.Security.Privileged {
		s.Linux.MaskedPaths = defaultMasked[:]
		s.Linux.ReadonlyPaths = defaultReadonly[:]
	}
	if cfg.Security.MaskedPaths != nil {
		s.Linux.MaskedPaths = cfg.Security.MaskedPaths
	}
	if cfg.Security.ReadonlyPaths != nil {
		s.Linux.ReadonlyPaths = cfg.Security.ReadonlyPaths
	}
	s.Mounts = mounts(in)
	return s, nil
}

func cwd(dir string) string {
	if dir == "" {
		return "/"
	}
	return path.Clean(dir)
}

// capabilitySets gives caps to the bounding set always, and to the effective and permitted sets of root only. The
// inheritable and ambient sets stay empty (CVE-2022-24769): a non-root user gets its capabilities from files alone.
func capabilitySets(caps []string, uid uint32) *specs.LinuxCapabilities {
	sets := &specs.LinuxCapabilities{Bounding: caps}
	if uid == 0 {
		sets.Effective, sets.Permitted = caps, caps
	}
	return sets
}

// environment puts together what every container gets, the image's and the user's variables; the last one wins. An entry
// without "=" is a mistake of the image or the client and is left out: it must never pull in the host's own value.
func environment(cfg container.Config, u execUser, hostname string) []string {
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname}
	if cfg.Process.Tty {
		env = append(env, "TERM=xterm")
	}
	if u.Home != "" {
		env = append(env, "HOME="+u.Home)
	}
	return mergeEnv(env, cfg.Process.Env)
}

func mergeEnv(base, over []string) []string {
	out := slices.Clone(base)
	at := make(map[string]int, len(base)+len(over))
	for i, kv := range out {
		k, _, _ := strings.Cut(kv, "=")
		at[k] = i
	}
	for _, kv := range over {
		k, _, ok := strings.Cut(kv, "=")
		if !ok || k == "" {
			continue
		}
		if i, there := at[k]; there {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}

func rlimits(asked, defaults []container.Ulimit) ([]specs.POSIXRlimit, error) {
	byName := map[string]container.Ulimit{}
	for _, u := range defaults {
		byName[u.Name] = u
	}
	for _, u := range asked {
		byName[u.Name] = u
	}
	var out []specs.POSIXRlimit
	for name, u := range byName {
		if !slices.Contains(ulimitNames[:], name) {
			return nil, fmt.Errorf("invalid ulimit type: %s%w", name, kind{errdefs.ErrInvalidArgument})
		}
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Type < out[j].Type })
	return out, nil
}

var ulimitNames = [...]string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
	"nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}

func sysctls(cfg container.Config, in specInput) map[string]string {
	out := map[string]string{}
	for k, v := range cfg.Security.Sysctls {
		out[k] = v
	}
	return out
}

func namespaces(in specInput) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, n := range []struct {
		kind specs.LinuxNamespaceType
		host bool
	}{
		{specs.NetworkNamespace, in.NetHost},
		{specs.UTSNamespace, in.UTSHost},
		{specs.PIDNamespace, in.PidHost},
		{specs.IPCNamespace, in.IpcHost},
		{specs.CgroupNamespace, in.CgroupHost},
	} {
		if !n.host {
			ns = append(ns, specs.LinuxNamespace{Type: n.kind})
		}
	}
	return ns
}

func mounts(in specInput) []specs.Mount {
	cfg := in.Record.Config
	sysOpts := []string{"nosuid", "noexec", "nodev", "ro"}
	cgroupOpts := []string{"ro", "nosuid", "noexec", "nodev"}
	if cfg.Security.Privileged {
		sysOpts = []string{"nosuid", "noexec", "nodev"}
		cgroupOpts = []string{"nosuid", "noexec", "nodev"}
	}
	system := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sysOpts},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroupOpts},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	switch {
	case in.ShmFrom != "":
		system = append(system, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: in.ShmFrom,
			Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev"}})
	case cfg.Security.IpcMode != "none":
		size := cfg.ShmSize
		if size == 0 {
			size = 64 << 20
		}
		system = append(system, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", size)}})
	}
	user := slices.Clone(in.Mounts)
	if in.EtcFiles != "" {
		ro := "rw"
		if cfg.ReadOnly {
			ro = "ro"
		}
		for _, name := range []string{"resolv.conf", "hostname", "hosts"} {
			m := specs.Mount{Destination: "/etc/" + name, Type: "bind",
				Source: path.Join(in.EtcFiles, name), Options: []string{"bind", "rprivate", ro}}
			if !slices.ContainsFunc(user, func(u specs.Mount) bool { return path.Clean(u.Destination) == m.Destination }) {
				user = append(user, m) // a volume on /etc comes below it
			}
		}
	}
	// A mount of the user replaces the system's at the same place, and on /dev everything below it.
	sort.SliceStable(user, func(i, j int) bool {
		return strings.Count(path.Clean(user[i].Destination), "/") < strings.Count(path.Clean(user[j].Destination), "/")
	})
	system = slices.DeleteFunc(system, func(m specs.Mount) bool {
		return slices.ContainsFunc(user, func(u specs.Mount) bool {
			dest := path.Clean(u.Destination)
			return m.Destination == dest || dest == "/dev" && strings.HasPrefix(m.Destination, "/dev/")
		})
	})
	return append(system, user...)
}

func deviceNodes(devs []hostDevice) []specs.LinuxDevice {
	var out []specs.LinuxDevice
	for _, d := range devs {
		mode, uid, gid := fileMode(d.Mode), d.UID, d.GID
		out = append(out, specs.LinuxDevice{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor,
			FileMode: &mode, UID: &uid, GID: &gid})
	}
	return out
}
