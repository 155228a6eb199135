package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The fields of struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

func ret(value uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: value}
}

func jump(op uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | op, Jt: yes, Jf: no, K: k}
}

func skip(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}
}

// A program is written from its last instruction to its first: the kernel jumps forwards only, so what a jump leads to is there
// before it. Places count from the end.
type program struct {
	code []unix.SockFilter
	rets map[uint32]int // the newest place of a plain answer
}

// maxJump is how many instructions a conditional jump can pass over.
const maxJump = 255

func (p *program) add(i unix.SockFilter) (place int) {
	p.code = append(p.code, i)
	return len(p.code) - 1
}

// over is how many instructions the next one passes over on its way to a place.
func (p *program) over(place int) int { return len(p.code) - place - 1 }

// ret gives the place of an answer. The program has few different ones and each range of numbers leads to one, so those near enough
// are shared: the kernel translates each instruction when it loads the program, while somebody waits for a container.
func (p *program) ret(value uint32) (place int) {
	// The jump that will lead there comes after a neighbour that may need a skip of its own.
	if place, ok := p.rets[value]; ok && p.over(place) < maxJump-2 {
		return place
	}
	p.rets[value] = p.add(ret(value))
	return p.rets[value]
}

// goTo makes the next instruction lead to a place.
func (p *program) goTo(place int) {
	if n := p.over(place); n > 0 {
		p.add(skip(n))
	}
}

// near gives a place that leads to another and that the instruction after the next one can still jump to.
func (p *program) near(place int) int {
	if n := p.over(place); n >= maxJump {
		return p.add(skip(n))
	}
	return place
}

// search finds the number in the accumulator among spans, the first of which begins at or below it.
func (p *program) search(spans []span) (place int) {
	if len(spans) == 1 {
		return p.leaf(spans[0].answer)
	}
	mid := len(spans) / 2
	above := p.search(spans[mid:])
	below := p.search(spans[:mid])
	above = p.near(above)
	below = p.near(below)
	return p.add(jump(unix.BPF_JGE, spans[mid].first, uint8(p.over(above)), uint8(p.over(below))))
}

func (p *program) leaf(a answer) (place int) {
	if len(a.rules) == 0 {
		return p.ret(a.always)
	}
	place = p.add(ret(a.always))
	for _, r := range slices.Backward(a.rules) {
		for _, i := range slices.Backward(emitRule(r)) {
			place = p.add(i)
		}
	}
	return place
}

// test is an instruction whose jumps lead to the end of the rule (no), to the next condition (yes) or just on.
type test struct {
	unix.SockFilter
	onTrue, onFalse target
}

type target uint8

const (
	on target = iota
	yes
	no
)

// emitRule returns the rule's action, or falls through to what follows when a condition does not hold.
func emitRule(r rule) []unix.SockFilter {
	var tests [][]test
	size := 1
	for _, c := range r.conditions {
		t := emitCondition(c)
		size += len(t)
		tests = append(tests, t)
	}
	code := make([]unix.SockFilter, 0, size)
	for _, t := range tests {
		next := len(code) + len(t)
		for _, i := range t {
			// Jumps are relative to the next instruction; a rule has 6 conditions of at most 6 instructions.
			distance := func(to target) uint8 {
				switch to {
				case yes:
					return uint8(next - len(code) - 1)
				case no:
					return uint8(size - len(code) - 1)
				}
				return 0
			}
			if i.Code&7 == unix.BPF_JMP {
				i.Jt, i.Jf = distance(i.onTrue), distance(i.onFalse)
			}
			code = append(code, i.SockFilter)
		}
	}
	return append(code, ret(r.action))
}

// emitCondition compares the upper halves first; only where they are equal do the lower ones decide.
func emitCondition(c condition) []test {
	high, low := uint32(c.value>>32), uint32(c.value)
	get := func(upper bool) test {
		offset := uint32(offArgs + 8*c.index)
		if upper {
			offset += 4 // all of the tables' architectures are little-endian
		}
		return test{SockFilter: load(offset)}
	}
	if0 := func(op uint16, k uint32, onTrue, onFalse target) test {
		return test{jump(op, k, 0, 0), onTrue, onFalse}
	}
	var code []test
	upper := func(tests ...test) {
		if !c.low {
			code = append(append(code, get(true)), tests...)
		}
	}
	lower := func(tests ...test) { code = append(append(code, get(false)), tests...) }
	switch c.op {
	case specs.OpEqualTo:
		upper(if0(unix.BPF_JEQ, high, on, no))
		lower(if0(unix.BPF_JEQ, low, yes, no))
	case specs.OpNotEqual:
		upper(if0(unix.BPF_JEQ, high, on, yes))
		lower(if0(unix.BPF_JEQ, low, no, yes))
	case specs.OpGreaterThan:
		upper(if0(unix.BPF_JGT, high, yes, on), if0(unix.BPF_JEQ, high, on, no))
		lower(if0(unix.BPF_JGT, low, yes, no))
	case specs.OpGreaterEqual:
		upper(if0(unix.BPF_JGT, high, yes, on), if0(unix.BPF_JEQ, high, on, no))
		lower(if0(unix.BPF_JGE, low, yes, no))
	case specs.OpLessThan:
		upper(if0(unix.BPF_JGT, high, no, on), if0(unix.BPF_JEQ, high, on, yes))
		lower(if0(unix.BPF_JGE, low, no, yes))
	case specs.OpLessEqual:
		upper(if0(unix.BPF_JGT, high, no, on), if0(unix.BPF_JEQ, high, on, yes))
		lower(if0(unix.BPF_JGT, low, no, yes))
	case specs.OpMaskedEqual:
		mask := func(m uint32) test {
			return test{SockFilter: unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: m}}
		}
		want := c.value2 & c.value
		if high != 0 { // otherwise it fits anyway
			upper(mask(high), if0(unix.BPF_JEQ, uint32(want>>32), on, no))
		}
		lower(mask(low), if0(unix.BPF_JEQ, uint32(want), yes, no))
	}
	return code
}
