package seccomp

import (
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// profile is a checked profile, by system call.
type profile struct {
	otherwise uint32 // the kernel's value for the default action
	flags     uint32
	arches    []arch
	calls     []*call
}

// call is what a profile says about one system call.
type call struct {
	name  string
	index int // in the tables
	// A call is decided by its first rule without conditions, and then is always answered that way.
	decided bool
	always  uint32
	rules   []rule // those with conditions, in order
}

// defaults reports whether the profile names the call without saying anything of its own about it.
func (c *call) defaults() bool { return !c.decided && len(c.rules) == 0 }

// rule is an action if all conditions hold.
type rule struct {
	conditions []condition
	action     uint32
}

// condition compares an argument; low means its lower half only.
type condition struct {
	index         uint
	op            specs.LinuxSeccompOperator
	value, value2 uint64
	low           bool
}

// The kernel's flags by their names. SECCOMP_FILTER_FLAG_TSYNC is understood but has no bit here: filters are loaded
// by a process with one thread.
func parseFlag(f specs.LinuxSeccompFlag) (uint32, bool) {
	switch f {
	case "SECCOMP_FILTER_FLAG_TSYNC":
		return 0, true
	case specs.LinuxSeccompFlagLog:
		return unix.SECCOMP_FILTER_FLAG_LOG, true
	case specs.LinuxSeccompFlagSpecAllow:
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, true
	case specs.LinuxSeccompFlagWaitKillableRecv:
		return unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, true
	}
	return 0, false
}

// parseAction gives the kernel's value of an action. Only an error number and a tracer's message carry data.
func parseAction(name specs.LinuxSeccompAction, data *uint) (uint32, error) {
	value := uint32(unix.EPERM)
	if data != nil {
		if *data > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("error number %d of %q is larger than %d", *data, name, unix.SECCOMP_RET_DATA)
		}
		value = uint32(*data)
	}
	switch name {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | value, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | value, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fmt.Errorf("unknown action %q", name)
}

func parse(p *specs.LinuxSeccomp) (*profile, error) {
	if p == nil {
		return nil, errors.New("there is no profile")
	}
	out := &profile{}
	var err error
	if out.otherwise, err = parseAction(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return nil, err
	}
	if out.otherwise == unix.SECCOMP_RET_USER_NOTIF {
		return nil, fmt.Errorf("%q cannot be the default action: whoever passes the listener on would notify it and wait",
			specs.ActNotify)
	}
	if p.Flags == nil {
		// What runc and crun do where a profile says nothing, not even an empty list: a filter alone is no reason for
		// the slower mode of processors with speculative store bypass.
		out.flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	for _, f := range p.Flags {
		bits, ok := parseFlag(f)
		if !ok {
			return nil, fmt.Errorf("unknown flag %q", f)
		}
		out.flags |= bits
	}
	if err := out.parseArches(p.Architectures); err != nil {
		return nil, err
	}
	for i := range p.Syscalls {
		if err := out.parseRule(&p.Syscalls[i]); err != nil {
			return nil, err
		}
	}
	if out.flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
		// It is about waiting for a listener; without one the kernel calls it invalid.
		out.flags &^= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	return out, nil
}

// parseArches puts the machine's own architecture first, where most calls find it, and passes over those that cannot
// run here.
func (p *profile) parseArches(names []specs.Arch) error {
	native := nativeArch()
	if native == "" {
		return errors.New("there are no system call numbers for this architecture")
	}
	for _, name := range append([]specs.Arch{native}, names...) {
		if !knownArch(name) {
			return fmt.Errorf("unknown architecture %q", name)
		}
		a, ok := findArch(name)
		if ok && !slices.ContainsFunc(p.arches, func(o arch) bool { return o.name == name }) {
			p.arches = append(p.arches, a)
		}
	}
	// x32 continues the numbers of x86-64, so it must come after it, and cannot be without it.
	i := slices.IndexFunc(p.arches, func(a arch) bool { return a.name == specs.ArchX32 })
	if i < 0 {
		return nil
	}
	x32 := p.arches[i]
	p.arches = slices.Delete(p.arches, i, i+1)
	if !slices.ContainsFunc(p.arches, func(a arch) bool { return a.name == specs.ArchX86_64 }) {
		return nil // a machine that is not x86-64
	}
	p.arches = append(p.arches, x32)
	return nil
}

// audits lists the kernel's architectures, each once.
func (p *profile) audits() (list []uint32) {
	for _, a := range p.arches {
		if !slices.Contains(list, a.audit) {
			list = append(list, a.audit)
		}
	}
	return list
}

func (p *profile) parseRule(s *specs.LinuxSyscall) error {
	action, err := parseAction(s.Action, s.ErrnoRet)
	if err != nil {
		return err
	}
	rules, err := parseConditions(s.Args, action)
	if err != nil {
		return err
	}
	if len(s.Names) == 0 {
		return errors.New("a rule names no system call")
	}
	for _, name := range s.Names {
		if name == "" {
			return errors.New("a rule has an empty name")
		}
		if action == unix.SECCOMP_RET_USER_NOTIF {
			if name == "write" {
				return fmt.Errorf("%q cannot be used for write: whoever passes the listener on needs it", specs.ActNotify)
			}
			p.flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		}
		c := p.call(name)
		if c == nil || action == p.otherwise {
			continue
		}
		if len(rules) > 0 {
			c.rules = append(c.rules, rules...)
		} else if !c.decided {
			c.decided, c.always = true, action
		}
	}
	return nil
}

// call finds or adds the entry for a name, nil when no architecture knows it.
func (p *profile) call(name string) *call {
	index := findCall(name)
	if index < 0 {
		return nil
	}
	at, there := slices.BinarySearchFunc(p.calls, index, func(c *call, index int) int { return c.index - index })
	if !there {
		p.calls = slices.Insert(p.calls, at, &call{name: name, index: index})
	}
	return p.calls[at]
}

// parseConditions makes one rule of conditions on different arguments, and one rule each where two are on the same.
func parseConditions(args []specs.LinuxSeccompArg, action uint32) (rules []rule, err error) {
	var conditions []condition
	var seen [6]bool
	twice := false
	for _, a := range args {
		if a.Index >= uint(len(seen)) {
			return nil, fmt.Errorf("argument %d is beyond the sixth", a.Index)
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
			specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("unknown operator %q", a.Op)
		}
		twice = twice || seen[a.Index]
		seen[a.Index] = true
		conditions = append(conditions, condition{index: a.Index, op: a.Op, value: a.Value, value2: a.ValueTwo})
	}
	switch {
	case len(conditions) == 0:
		return nil, nil
	case !twice:
		return []rule{{conditions, action}}, nil
	}
	for _, c := range conditions {
		rules = append(rules, rule{[]condition{c}, action})
	}
	return rules, nil
}
