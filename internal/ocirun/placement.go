package ocirun

import (
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// bitmap is a set of processors or memory nodes, as the kernel wants it: words of the machine's size.
type bitmap []uint64

// parseBitmap reads a list such as "0-2,7".
func parseBitmap(what, list string) (bitmap, error) {
	const most = 8192 // the kernel's largest configuration
	var b bitmap
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		from, err := strconv.ParseUint(first, 10, 16)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || to < from || to >= most {
			return nil, invalid("%s %q is not a list such as 0-2,7", what, list)
		}
		for n := from; n <= to; n++ {
			for int(n/64) >= len(b) {
				b = append(b, 0)
			}
			b[n/64] |= 1 << (n % 64)
		}
	}
	return b, nil
}

// affinity adds the processors of a process that is executed: the initial ones before it joins its cgroup, the final ones
// afterwards (config.md, "Linux Process").
func (e *execution) affinity(p *linux.Program, which func(*specs.CPUAffinity) string) error {
	a := e.process.ExecCPUAffinity
	if a == nil || which(a) == "" {
		return nil
	}
	mask, err := parseBitmap("CPU affinity", which(a))
	if err != nil {
		return err
	}
	p.Step("set the CPU affinity " + which(a))
	p.Call(unix.SYS_SCHED_SETAFFINITY, linux.N(0), linux.N(len(mask)*8), linux.Ptr(&mask[0]))
	return nil
}

func initialCPUs(a *specs.CPUAffinity) string { return a.Initial }
func finalCPUs(a *specs.CPUAffinity) string   { return a.Final }

func checkAffinity(a *specs.CPUAffinity) error {
	if a == nil {
		return nil
	}
	for _, list := range []string{a.Initial, a.Final} {
		if list != "" {
			if _, err := parseBitmap("CPU affinity", list); err != nil {
				return err
			}
		}
	}
	return nil
}

// memoryModes are the modes by their numbers (set_mempolicy(2)).
var memoryModes = [...]specs.MemoryPolicyModeType{specs.MpolDefault, specs.MpolPreferred, specs.MpolBind, specs.MpolInterleave,
	specs.MpolLocal, specs.MpolPreferredMany, specs.MpolWeightedInterleave}

// memoryFlags are the flags by their bits after the 13th.
var memoryFlags = [...]specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing, specs.MpolFRelativeNodes, specs.MpolFStaticNodes}

// memoryPolicy is the mode and the nodes of a policy.
func memoryPolicy(m *specs.LinuxMemoryPolicy) (mode int, nodes bitmap, err error) {
	mode = slices.Index(memoryModes[:], m.Mode)
	if mode < 0 {
		return 0, nil, invalid("memory policy %q is unknown", m.Mode)
	}
	for _, f := range m.Flags {
		bit := slices.Index(memoryFlags[:], f)
		if bit < 0 {
			return 0, nil, invalid("memory policy flag %q is unknown", f)
		}
		mode |= 1 << (13 + bit)
	}
	if m.Nodes != "" {
		nodes, err = parseBitmap("memory nodes", m.Nodes)
	}
	return mode, nodes, err
}

// memory adds the policy; it is inherited, and survives execve.
func (e *execution) memory(p *linux.Program, m *specs.LinuxMemoryPolicy) error {
	if m == nil {
		return nil
	}
	mode, nodes, err := memoryPolicy(m)
	if err != nil {
		return err
	}
	p.Step("set the memory policy " + string(m.Mode))
	if len(nodes) == 0 {
		p.Call(unix.SYS_SET_MEMPOLICY, linux.N(mode), linux.N(0), linux.N(0))
		return nil
	}
	// The kernel takes one bit less than it is told.
	p.Call(unix.SYS_SET_MEMPOLICY, linux.N(mode), linux.Ptr(&nodes[0]), linux.N(len(nodes)*64+1))
	return nil
}
