package seccomp

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	// Prog is an array of struct sock_filter in the byte order of this machine.
	Prog []byte
	// Flags are for seccomp(2). SECCOMP_FILTER_FLAG_NEW_LISTENER among them says that the profile notifies a
	// listener, and that seccomp(2) returns its descriptor.
	Flags uint32
}

// Notifies reports whether the profile hands system calls to a listener (SCMP_ACT_NOTIFY).
func (f *Filter) Notifies() bool { return f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// maxInstructions is the kernel's limit (linux/bpf_common.h, BPF_MAXINSNS).
const maxInstructions = 4096

// Compile makes the filter for a profile. Errors wrap errdefs.ErrInvalidArgument.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	prof, err := parse(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	w := &program{rets: map[uint32]int{}}
	next := w.ret(unix.SECCOMP_RET_KILL_PROCESS)
	for _, audit := range slices.Backward(prof.audits()) {
		w.goTo(w.search(prof.ranges(audit)))
		own := w.add(load(offNumber))
		next = w.near(next)
		next = w.add(jump(unix.BPF_JEQ, audit, uint8(w.over(own)), uint8(w.over(next))))
	}
	w.add(load(offArch))
	slices.Reverse(w.code)
	code := w.code
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("the profile needs %d instructions and the kernel takes %d: %w", len(code), maxInstructions,
			errdefs.ErrInvalidArgument)
	}
	prog := unsafe.Slice((*byte)(unsafe.Pointer(&code[0])), len(code)*int(unsafe.Sizeof(code[0])))
	return &Filter{Prog: slices.Clone(prog), Flags: prof.flags}, nil
}

// span is a range of numbers, up to the beginning of the next one, that have the same answer.
type span struct {
	first uint32
	answer
}

// answer is what happens to a call: the first rule that applies, otherwise always.
type answer struct {
	rules  []rule
	always uint32
}

// ranges lists the answers to all numbers of one of the kernel's architectures, from 0.
func (p *profile) ranges(audit uint32) []span {
	var spans []span
	x32 := false
	for _, a := range p.arches {
		if a.audit != audit {
			continue
		}
		base := uint32(0)
		if a.name == specs.ArchX32 {
			base, x32 = x32Bit, true
		}
		spans = append(spans, p.archRanges(&a, base)...)
	}
	if audit == unix.AUDIT_ARCH_X86_64 && !x32 {
		// −1 is the number a tracer sets to make the kernel do nothing; it is no x32 call.
		spans = append(spans, span{x32Bit, answer{always: unix.SECCOMP_RET_KILL_PROCESS}},
			span{^uint32(0), answer{always: p.otherwise}})
	}
	return slices.CompactFunc(spans, func(a, b span) bool {
		return a.rules == nil && b.rules == nil && a.always == b.always
	})
}

// archRanges lists the answers to the numbers from base.
func (p *profile) archRanges(a *arch, base uint32) []span {
	answers, last := p.answers(a)
	var spans []span
	next := base
	fill := func(to uint32) {
		if next < to && next <= last {
			spans = append(spans, span{next, answer{always: p.otherwise}})
			if last >= to {
				return
			}
			next = last + 1
		}
		if next < to {
			spans = append(spans, span{next, answer{always: p.unknown()}})
		}
	}
	for _, s := range answers {
		fill(s.first)
		spans = append(spans, s)
		next = s.first + 1
	}
	fill(^uint32(0))
	return spans
}

// answers lists the numbers that the profile names, in order, and the last of them, beyond which calls are unknown.
func (p *profile) answers(a *arch) (spans []span, last uint32) {
	if last = ^uint32(0); len(p.calls) > 0 {
		last = 0
	}
	found := false
	spans = make([]span, 0, len(p.calls)+len(p.calls)/8)
	muxed := map[string][]rule{}
	for _, c := range p.calls {
		nrs := a.numbers(c.index)
		through, number, ok := a.muxBy(c.index)
		if ok {
			muxed[through] = append(muxed[through], p.muxRules(c, number)...)
		}
		for _, nr := range nrs {
			if nr < armPrivate || a.name != specs.ArchARM {
				last, found = max(last, nr), true
			}
			if !c.defaults() {
				spans = append(spans, span{nr, p.answer(c, a.word)})
			}
		}
	}
	if !found {
		last = ^uint32(0)
	}
	for through, rules := range muxed {
		spans = p.addMux(a, spans, through, rules)
	}
	return mergeNames(inOrder(spans)), last
}

// inOrder sorts by number and keeps the profile's order where two are the same. Sorting plain numbers is many times
// faster than moving spans about.
func inOrder(spans []span) []span {
	keys := make([]uint64, len(spans))
	for i, s := range spans {
		keys[i] = uint64(s.first)<<32 | uint64(i)
	}
	slices.Sort(keys)
	sorted := make([]span, len(spans))
	for i, k := range keys {
		sorted[i] = spans[uint32(k)]
	}
	return sorted
}

// mergeNames joins the answers to a call that has two names.
func mergeNames(spans []span) []span {
	merged := spans[:0]
	for _, s := range spans {
		if len(merged) == 0 || merged[len(merged)-1].first != s.first {
			merged = append(merged, s)
			continue
		}
		m := &merged[len(merged)-1]
		switch {
		case m.rules == nil:
		case s.rules == nil:
			*m = s
		default:
			m.rules = append(slices.Clip(m.rules), s.rules...)
		}
	}
	return merged
}

// answer gives what a call's own rules say.
func (p *profile) answer(c *call, word int) answer {
	if c.decided {
		return answer{always: c.always}
	}
	a := answer{rules: c.rules, always: p.otherwise}
	if word == 32 {
		a.rules = lowHalves(c.rules)
	}
	return a
}

// muxRules gives the rules about a call that is made as number through socketcall or ipc.
func (p *profile) muxRules(c *call, number uint32) (rules []rule) {
	// ipc keeps a version in the upper half of its first argument.
	same := []condition{{index: 0, op: specs.OpMaskedEqual, value: 0xffff, value2: uint64(number)}}
	if c.decided {
		return []rule{{same, c.always}}
	}
	for _, r := range c.rules {
		if strictness(r.action) > strictness(p.otherwise) {
			rules = append(rules, rule{same, r.action})
		}
	}
	return rules
}

// addMux puts the rules about calls through socketcall or ipc behind those about these calls themselves.
func (p *profile) addMux(a *arch, spans []span, through string, rules []rule) []span {
	rules = lowHalves(rules)
	index := findCall(through)
	if len(rules) == 0 || index < 0 || a.calls[index] == noCall {
		return spans
	}
	nr := uint32(a.calls[index])
	for i := range spans {
		if spans[i].first == nr {
			if spans[i].rules != nil {
				spans[i].rules = append(slices.Clip(spans[i].rules), rules...)
			}
			return spans
		}
	}
	return append(spans, span{nr, answer{rules: rules, always: p.otherwise}})
}

// unknown is the answer to numbers beyond those the profile's author knew.
func (p *profile) unknown() uint32 {
	switch p.otherwise & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return p.otherwise
	}
	return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
}

// strictness orders actions from those that let a call through to those that do not.
func strictness(action uint32) int {
	switch action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW:
		return 0
	case unix.SECCOMP_RET_LOG:
		return 1
	case unix.SECCOMP_RET_TRACE:
		return 2
	case unix.SECCOMP_RET_USER_NOTIF:
		return 3
	case unix.SECCOMP_RET_ERRNO:
		return 4
	case unix.SECCOMP_RET_TRAP:
		return 5
	}
	return 6
}

func lowHalves(rules []rule) []rule {
	out := make([]rule, len(rules))
	for i, r := range rules {
		out[i] = rule{make([]condition, len(r.conditions)), r.action}
		for j, c := range r.conditions {
			c.value, c.value2, c.low = uint64(uint32(c.value)), uint64(uint32(c.value2)), true
			out[i].conditions[j] = c
		}
	}
	return out
}
