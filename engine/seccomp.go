package engine

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/seccomp"
	"github.com/containerd/errdefs"
	profile "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccompCache keeps compiled filters: a profile gives the same one for the same capabilities.
type seccompCache struct {
	standard string // JSON text that replaces the built-in profile, "unconfined", or ""

	mu   sync.Mutex
	done map[string]filter
}

// filter is a compiled profile; the zero value is none. With flags, the program alone does not say everything that the
// profile asks of seccomp(2), and the runtime compiles the rules itself.
type filter struct {
	prog  []byte
	flags uint32
	rules *specs.LinuxSeccomp
}

// listener is who decides about the calls of an exec; nil where nobody is asked.
func (f *filter) listener(annotations map[string]string) *ocirun.Listener {
	if f.flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
		return nil
	}
	return &ocirun.Listener{Path: f.rules.ListenerPath, Metadata: f.rules.ListenerMetadata, State: specs.State{Annotations: annotations}}
}

// maxFilters bounds the cache; profiles come from clients.
const maxFilters = 64

func newSeccompCache(standard string) *seccompCache {
	return &seccompCache{standard: standard, done: map[string]filter{}}
}

// filter is what to load for a container. bounded says that --storage-opt size bounds what it writes.
func (s *seccompCache) filter(sec container.Security, caps []string, bounded bool) (filter, error) {
	text := sec.Seccomp
	if text == "" && sec.Privileged {
		return filter{}, nil
	}
	if text == "" || text == "builtin" {
		text = s.standard
	}
	if text == "unconfined" {
		return filter{}, nil
	}
	key := fmt.Sprint(bounded, strings.Join(caps, ","), "\n", text)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, there := s.done[key]; there {
		return f, nil
	}
	f, err := compile(text, caps, bounded)
	if err != nil {
		return filter{}, err
	}
	if len(s.done) >= maxFilters {
		clear(s.done)
	}
	s.done[key] = f
	return f, nil
}

func compile(text string, caps []string, bounded bool) (filter, error) {
	// A profile may depend on the capabilities, which it reads from the spec's bounding set.
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}}
	var rules *specs.LinuxSeccomp
	var err error
	if text == "" {
		rules, err = profile.GetDefaultProfile(spec)
	} else {
		rules, err = profile.LoadProfile(text, spec)
	}
	if err != nil {
		return filter{}, fmt.Errorf("decoding seccomp profile failed: %w%w", err, kind{errdefs.ErrInvalidArgument})
	}
	if rules == nil {
		return filter{}, nil
	}
	if bounded && text == "" {
		keepBound(rules)
	}
	f, err := seccomp.Compile(rules)
	if err != nil {
		return filter{}, fmt.Errorf("seccomp profile: %w%w", err, kind{errdefs.ErrInvalidArgument})
	}
	if f.Notifies() && rules.ListenerPath == "" {
		return filter{}, fmt.Errorf("seccomp profile: SCMP_ACT_NOTIFY needs who decides: give its socket as listenerPath%w",
			kind{errdefs.ErrInvalidArgument})
	}
	return filter{prog: f.Prog, flags: f.Flags, rules: rules}, nil
}

// escapes are requests of ioctl(2) by which who owns a file can take it out of what bounds a layer: the kernel asks for no
// capability, only for the host's user namespace (fs/file_attr.c, fileattr_set_prepare). file_setattr(2), which does the same
// since Linux 6.17, is not among what the profile allows.
var escapes = [...]uint64{
	0x401c5820, // FS_IOC_FSSETXATTR: another project
	0x5000940e, // BTRFS_IOC_SUBVOL_CREATE: a subvolume has a quota group of its own
	0x50009418, // BTRFS_IOC_SUBVOL_CREATE_V2
	0x50009401, // BTRFS_IOC_SNAP_CREATE
	0x50009417, // BTRFS_IOC_SNAP_CREATE_V2
}

// keepBound makes the built-in profile refuse escapes, as a file system would that does not know them.
func keepBound(rules *specs.LinuxSeccomp) {
	for i := range rules.Syscalls {
		if r := &rules.Syscalls[i]; r.Action == specs.ActAllow && len(r.Args) == 0 {
			r.Names = slices.DeleteFunc(slices.Clone(r.Names), func(n string) bool { return n == "ioctl" })
		}
	}
	unknown := uint(unix.ENOTTY)
	// The kernel looks at the lower half of a request only.
	arg := func(mask, value uint64) []specs.LinuxSeccompArg {
		return []specs.LinuxSeccompArg{{Index: 1, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}}
	}
	for _, e := range escapes {
		rules.Syscalls = append(rules.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActErrno, ErrnoRet: &unknown,
			Args: arg(0xffffffff, e)})
	}
	// The first rule whose conditions hold decides, and this one's always do.
	rules.Syscalls = append(rules.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActAllow, Args: arg(0, 0)})
}
