package engine

import (
	"fmt"
	"strings"
	"sync"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/seccomp"
	"github.com/containerd/errdefs"
	profile "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
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

// maxFilters bounds the cache; profiles come from clients.
const maxFilters = 64

func newSeccompCache(standard string) *seccompCache {
	return &seccompCache{standard: standard, done: map[string]filter{}}
}

// filter is what to load for a container.
func (s *seccompCache) filter(sec container.Security, caps []string) (filter, error) {
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
	key := strings.Join(caps, ",") + "\n" + text
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, there := s.done[key]; there {
		return f, nil
	}
	f, err := compile(text, caps)
	if err != nil {
		return filter{}, err
	}
	if len(s.done) >= maxFilters {
		clear(s.done)
	}
	s.done[key] = f
	return f, nil
}

func compile(text string, caps []string) (filter, error) {
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
	f, err := seccomp.Compile(rules)
	if err != nil {
		return filter{}, fmt.Errorf("seccomp profile: %w%w", err, kind{errdefs.ErrInvalidArgument})
	}
	if f.Notifies() {
		return filter{}, fmt.Errorf("seccomp profile: SCMP_ACT_NOTIFY needs a listener, which this engine does not have%w",
			kind{errdefs.ErrInvalidArgument})
	}
	return filter{prog: f.Prog, flags: f.Flags, rules: rules}, nil
}
