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
	done map[string][]byte
}

// maxFilters bounds the cache; profiles come from clients.
const maxFilters = 64

func newSeccompCache(standard string) *seccompCache {
	return &seccompCache{standard: standard, done: map[string][]byte{}}
}

// filter is the program to load for a container, nil for none.
func (s *seccompCache) filter(sec container.Security, caps []string) ([]byte, error) {
	text := sec.Seccomp
	if text == "" && sec.Privileged {
		return nil, nil
	}
	if text == "" || text == "builtin" {
		text = s.standard
	}
	if text == "unconfined" {
		return nil, nil
	}
	key := strings.Join(caps, ",") + "\n" + text
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, there := s.done[key]; there {
		return f, nil
	}
	f, err := compile(text, caps)
	if err != nil {
		return nil, err
	}
	if len(s.done) >= maxFilters {
		clear(s.done)
	}
	s.done[key] = f
	return f, nil
}

func compile(text string, caps []string) ([]byte, error) {
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
		return nil, fmt.Errorf("decoding seccomp profile failed: %w%w", err, kind{errdefs.ErrInvalidArgument})
	}
	if rules == nil {
		return nil, nil
	}
	f, err := seccomp.Compile(rules)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w%w", err, kind{errdefs.ErrInvalidArgument})
	}
	return f.Prog, nil
}
