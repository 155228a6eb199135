package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/containerd/errdefs"
	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// naive evaluates a profile as the package comment describes it, without any program. It shares only the tables and
// the values of actions with the compiler.
func naive(p *specs.LinuxSeccomp, audit uint32, nr uint32, args [6]uint64) uint32 {
	otherwise, _ := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	var a *arch
	listed := append([]specs.Arch{nativeArch()}, p.Architectures...)
	x32 := slices.Contains(listed, specs.ArchX32) && slices.Contains(listed, specs.ArchX86_64)
	for _, name := range listed {
		f, ok := findArch(name)
		if !ok || f.audit != audit || (f.name == specs.ArchX32) != (x32 && nr >= x32Bit && audit == unix.AUDIT_ARCH_X86_64) {
			continue
		}
		a = &f
		break
	}
	if a == nil {
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	if a.name == specs.ArchX86_64 && nr >= x32Bit {
		if nr == ^uint32(0) {
			return otherwise
		}
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	if a.word == 32 {
		for i := range args {
			args[i] = uint64(uint32(args[i]))
		}
	}
	last, known := uint32(0), false
	var decided, conditional *uint32
	for i := range p.Syscalls {
		s := &p.Syscalls[i]
		action, _ := parseAction(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			index := findCall(name)
			if index < 0 {
				continue
			}
			nrs := a.numbers(index)
			for _, n := range nrs {
				if a.name != specs.ArchARM || n < armPrivate {
					last, known = max(last, n), true
				}
			}
			if !slices.Contains(nrs, nr) || action == otherwise {
				continue
			}
			if len(s.Args) == 0 {
				if decided == nil {
					decided = &action
				}
			} else if conditional == nil && holds(s.Args, args, a.word) {
				conditional = &action
			}
		}
	}
	switch {
	case decided != nil:
		return *decided
	case conditional != nil:
		return *conditional
	case known && nr > last && otherwise != unix.SECCOMP_RET_ALLOW && otherwise != unix.SECCOMP_RET_LOG &&
		otherwise&unix.SECCOMP_RET_ACTION_FULL != unix.SECCOMP_RET_TRACE && !named(p, a, nr):
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return otherwise
}

// named reports whether the profile has a rule of its own about the number.
func named(p *specs.LinuxSeccomp, a *arch, nr uint32) bool {
	otherwise, _ := parseAction(p.DefaultAction, p.DefaultErrnoRet)
	for _, s := range p.Syscalls {
		action, _ := parseAction(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			index := findCall(name)
			if index >= 0 && action != otherwise && slices.Contains(a.numbers(index), nr) {
				return true
			}
		}
	}
	return false
}

func holds(conditions []specs.LinuxSeccompArg, args [6]uint64, word int) bool {
	twice := false
	for i, c := range conditions {
		for _, d := range conditions[:i] {
			twice = twice || c.Index == d.Index
		}
	}
	all, one := true, false
	for _, c := range conditions {
		v, want, want2 := args[c.Index], c.Value, c.ValueTwo
		if word == 32 {
			want, want2 = uint64(uint32(want)), uint64(uint32(want2))
		}
		ok := false
		switch c.Op {
		case specs.OpEqualTo:
			ok = v == want
		case specs.OpNotEqual:
			ok = v != want
		case specs.OpLessThan:
			ok = v < want
		case specs.OpLessEqual:
			ok = v <= want
		case specs.OpGreaterThan:
			ok = v > want
		case specs.OpGreaterEqual:
			ok = v >= want
		case specs.OpMaskedEqual:
			ok = v&want == want2&want
		}
		all, one = all && ok, one || ok
	}
	if twice {
		return one
	}
	return all
}

func defaultProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func compile(t testing.TB, p *specs.LinuxSeccomp) *Filter {
	t.Helper()
	f, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var audits = []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM,
	unix.AUDIT_ARCH_RISCV64}

// interesting are values around those that the profile compares with.
func interesting(p *specs.LinuxSeccomp, r *rand.Rand) (values []uint64) {
	values = []uint64{0, 1, 1<<32 - 1, 1 << 32, ^uint64(0), r.Uint64()}
	for _, s := range p.Syscalls {
		for _, a := range s.Args {
			for _, v := range []uint64{a.Value, a.ValueTwo} {
				values = append(values, v, v-1, v+1, v|1<<32, v^1<<40, v&0xffffffff, v|r.Uint64())
			}
		}
	}
	return values
}

func pick(values []uint64, r *rand.Rand) (args [6]uint64) {
	for i := range args {
		args[i] = values[r.IntN(len(values))]
	}
	return args
}

func compare(t *testing.T, p *specs.LinuxSeccomp, f *Filter, audit, nr uint32, args [6]uint64) {
	t.Helper()
	got, want := f.Simulate(audit, int32(nr), args), naive(p, audit, nr, args)
	if got != want {
		t.Fatalf("arch %#x, call %#x, arguments %#x: the filter gives %#x, the profile %#x", audit, nr, args, got, want)
	}
}

func TestDefaultProfile(t *testing.T) {
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN"},
		{"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_NET_ADMIN"}} {
		p := defaultProfile(t, caps...)
		f := compile(t, p)
		if f.Flags != unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW {
			t.Errorf("flags %#x", f.Flags)
		}
		if n := len(f.Prog) / 8; runtime.GOARCH == "amd64" && n > 400 { // the kernel translates each one while somebody waits
			t.Errorf("with %q: %d instructions", caps, n)
		}
		r := rand.New(rand.NewPCG(1, 2))
		values := interesting(p, r)
		for _, audit := range audits {
			if audit == unix.AUDIT_ARCH_I386 {
				continue // socketcall and ipc have a test of their own; the profile allows both
			}
			for _, base := range []uint32{0, x32Bit, armPrivate, 1 << 31, ^uint32(0) - 560} {
				for nr := base; nr < base+560; nr++ {
					compare(t, p, f, audit, nr, pick(values, r))
					compare(t, p, f, audit, nr, pick(values, r))
				}
			}
			compare(t, p, f, audit, ^uint32(0), [6]uint64{})
		}
	}
}

// Programs that are longer than a conditional jump reaches, with many different answers and with few.
func TestJumpsReach(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, answers := range []int{2, 3, 5, 20, 400} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}}
		start := 0
		for _, end := range callEnds {
			name := callNames[start:end]
			start = int(end)
			if name == "socketcall" || name == "ipc" { // naive knows nothing of calls within calls
				continue
			}
			c := specs.LinuxSyscall{Names: []string{name}, Action: specs.ActErrno, ErrnoRet: ptr(uint(1 + r.IntN(answers)))}
			if *c.ErrnoRet == 2 {
				c.Action, c.ErrnoRet = specs.ActAllow, nil
			}
			if r.IntN(40) == 0 {
				c.Args = []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpGreaterThan, Value: 7}}
			}
			p.Syscalls = append(p.Syscalls, c)
		}
		f := compile(t, p)
		t.Logf("with %d answers: %d instructions", answers, len(f.Prog)/8)
		for _, base := range []uint32{0, x32Bit} {
			for nr := base; nr < base+600; nr++ {
				for _, audit := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386} {
					if audit == unix.AUDIT_ARCH_I386 && (nr == 102 || nr == 117) {
						continue
					}
					compare(t, p, f, audit, nr, [6]uint64{0, uint64(r.IntN(16))})
				}
			}
		}
		compare(t, p, f, unix.AUDIT_ARCH_AARCH64, 1, [6]uint64{})
	}
}

func TestDefaultProfileOnI386(t *testing.T) {
	p := defaultProfile(t)
	f := compile(t, p)
	r := rand.New(rand.NewPCG(1, 2))
	values := interesting(p, r)
	for nr := uint32(0); nr < 560; nr++ {
		compare(t, p, f, unix.AUDIT_ARCH_I386, nr, pick(values, r))
	}
}

// What everyone relies on, spelled out.
func TestDefaultProfileSpelledOut(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers are those of x86-64")
	}
	f := compile(t, defaultProfile(t))
	eperm, enosys := unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM), unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)
	for _, c := range []struct {
		what string
		nr   int32
		args [6]uint64
		want uint32
	}{
		{"read", unix.SYS_READ, [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{"execve", unix.SYS_EXECVE, [6]uint64{}, unix.SECCOMP_RET_ALLOW},
		{"mount", unix.SYS_MOUNT, [6]uint64{}, eperm},
		{"init_module", unix.SYS_INIT_MODULE, [6]uint64{}, eperm},
		{"clone of a thread", unix.SYS_CLONE, [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD}, unix.SECCOMP_RET_ALLOW},
		{"clone into a user namespace", unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER}, eperm},
		{"clone3", unix.SYS_CLONE3, [6]uint64{}, enosys},
		{"socket of inet", unix.SYS_SOCKET, [6]uint64{unix.AF_INET}, unix.SECCOMP_RET_ALLOW},
		{"socket of vsock", unix.SYS_SOCKET, [6]uint64{unix.AF_VSOCK}, eperm},
		{"personality 0", unix.SYS_PERSONALITY, [6]uint64{0}, unix.SECCOMP_RET_ALLOW},
		{"personality 1", unix.SYS_PERSONALITY, [6]uint64{1}, eperm},
		{"a call of the future", 1500, [6]uint64{}, enosys},
	} {
		if got := f.Simulate(unix.AUDIT_ARCH_X86_64, c.nr, c.args); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
	if got := f.Simulate(unix.AUDIT_ARCH_PPC64LE, 3, [6]uint64{}); got != unix.SECCOMP_RET_KILL_PROCESS {
		t.Errorf("foreign architecture: %#x", got)
	}
}

// steps counts the instructions the kernel executes for a call.
func steps(f *Filter, audit uint32, nr int32) int {
	n := 0
	var acc uint32
	for pc := 0; pc < len(f.Prog)/8; pc++ {
		n++
		i := f.Prog[8*pc:]
		k := binary.NativeEndian.Uint32(i[4:])
		op := binary.NativeEndian.Uint16(i)
		jumped := false
		switch op {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if acc = uint32(nr); k == offArch {
				acc = audit
			}
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(k)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jumped = acc == k
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jumped = acc >= k
		default:
			return n
		}
		if jumped {
			pc += int(i[2])
		} else {
			pc += int(i[3])
		}
	}
	return n
}

func TestSearchIsShort(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers are those of x86-64")
	}
	f := compile(t, defaultProfile(t))
	sum, most := 0, 0
	for nr := int32(0); nr < 460; nr++ {
		n := steps(f, unix.AUDIT_ARCH_X86_64, nr)
		sum, most = sum+n, max(most, n)
	}
	t.Logf("%.1f instructions in the mean, %d at most", float64(sum)/460, most)
	// The longest are those whose arguments are looked at.
	if sum > 12*460 || most > 24 {
		t.Errorf("a call takes %d instructions", most)
	}
}

// text writes a program for people.
func text(f *Filter) string {
	var b strings.Builder
	for pc := 0; pc < len(f.Prog)/8; pc++ {
		i := f.Prog[8*pc:]
		op, k := binary.NativeEndian.Uint16(i), binary.NativeEndian.Uint32(i[4:])
		fmt.Fprintf(&b, "%2d ", pc)
		to := func(d byte) int { return pc + 1 + int(d) }
		switch op {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			fmt.Fprintf(&b, "load %d", k)
		case unix.BPF_RET | unix.BPF_K:
			fmt.Fprintf(&b, "return %#x", k)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			fmt.Fprintf(&b, "and %#x", k)
		case unix.BPF_JMP | unix.BPF_JA:
			fmt.Fprintf(&b, "goto %d", pc+1+int(k))
		default:
			name := map[uint16]string{unix.BPF_JEQ: "==", unix.BPF_JGE: ">=", unix.BPF_JGT: ">"}[op&0xf0]
			fmt.Fprintf(&b, "%s %#x ? %d : %d", name, k, to(i[2]), to(i[3]))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestProgramText(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("the numbers are those of x86-64")
	}
	errno := uint(13)
	got := text(compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"read", "write", "open", "no_such_call"}, Action: specs.ActAllow},
		{Names: []string{"mprotect"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{
			{Index: 2, Op: specs.OpMaskedEqual, Value: 4, ValueTwo: 4}, {Index: 0, Op: specs.OpGreaterThan, Value: 1 << 32}}},
	}}))
	golden(t, "testdata/program.txt", got)
}

// golden compares with a file; UPDATE=1 writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%v; got\n%s\nwant\n%s", err, got, want)
	}
}

func TestX32(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("x32 is of x86-64")
	}
	p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX32, specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"ptrace"}, Action: specs.ActErrno}}}
	f := compile(t, p)
	eperm := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	// The call can be made by three numbers, and must not get by through any.
	for _, nr := range []uint32{101, x32Bit | 101, x32Bit | 521} {
		if got := f.Simulate(unix.AUDIT_ARCH_X86_64, int32(nr), [6]uint64{}); got != eperm {
			t.Errorf("ptrace as %#x: %#x", nr, got)
		}
	}
	p.Architectures = nil
	f = compile(t, p)
	for nr, want := range map[uint32]uint32{
		x32Bit: unix.SECCOMP_RET_KILL_PROCESS, x32Bit | 101: unix.SECCOMP_RET_KILL_PROCESS,
		^uint32(0): unix.SECCOMP_RET_ALLOW, 5000: unix.SECCOMP_RET_ALLOW, 101: eperm} {
		if got := f.Simulate(unix.AUDIT_ARCH_X86_64, int32(nr), [6]uint64{}); got != want {
			t.Errorf("x32 not listed, call %#x: %#x, want %#x", nr, got, want)
		}
	}
}

func TestSocketcallAndIPC(t *testing.T) {
	socket := func(action specs.LinuxSeccompAction, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"socket"}, Action: action, Args: args}
	}
	vsock := specs.LinuxSeccompArg{Index: 0, Op: specs.OpEqualTo, Value: unix.AF_VSOCK}
	eperm := unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	for _, c := range []struct {
		what         string
		otherwise    specs.LinuxSeccompAction
		rules        []specs.LinuxSyscall
		call, number uint64 // socketcall is 102, ipc 117
		want         uint32
	}{
		{"allowed", specs.ActErrno, []specs.LinuxSyscall{socket(specs.ActAllow)}, 102, 1, unix.SECCOMP_RET_ALLOW},
		{"another", specs.ActErrno, []specs.LinuxSyscall{socket(specs.ActAllow)}, 102, 2, eperm},
		{"allowed for some", specs.ActErrno, []specs.LinuxSyscall{socket(specs.ActAllow, vsock)}, 102, 1, eperm},
		{"forbidden for some", specs.ActAllow, []specs.LinuxSyscall{socket(specs.ActErrno, vsock)}, 102, 1, eperm},
		{"another of those", specs.ActAllow, []specs.LinuxSyscall{socket(specs.ActErrno, vsock)}, 102, 3,
			unix.SECCOMP_RET_ALLOW},
		{"socketcall itself", specs.ActErrno, []specs.LinuxSyscall{socket(specs.ActKill),
			{Names: []string{"socketcall"}, Action: specs.ActAllow}}, 102, 1, unix.SECCOMP_RET_ALLOW},
		{"accept", specs.ActErrno, []specs.LinuxSyscall{{Names: []string{"accept"}, Action: specs.ActAllow}}, 102, 5,
			unix.SECCOMP_RET_ALLOW},
		{"shmat", specs.ActAllow, []specs.LinuxSyscall{{Names: []string{"shmat"}, Action: specs.ActErrno}}, 117,
			1<<16 | 21, eperm},
	} {
		p := &specs.LinuxSeccomp{DefaultAction: c.otherwise, Architectures: []specs.Arch{specs.ArchX86}, Syscalls: c.rules}
		if got := compile(t, p).Simulate(unix.AUDIT_ARCH_I386, int32(c.call), [6]uint64{c.number}); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
}

func TestActions(t *testing.T) {
	seven := uint(7)
	for _, c := range []struct {
		action specs.LinuxSeccompAction
		data   *uint
		want   uint32
	}{
		{specs.ActAllow, nil, unix.SECCOMP_RET_ALLOW}, {specs.ActLog, nil, unix.SECCOMP_RET_LOG},
		{specs.ActKill, nil, unix.SECCOMP_RET_KILL_THREAD}, {specs.ActKillThread, nil, unix.SECCOMP_RET_KILL_THREAD},
		{specs.ActKillProcess, nil, unix.SECCOMP_RET_KILL_PROCESS}, {specs.ActTrap, &seven, unix.SECCOMP_RET_TRAP},
		{specs.ActErrno, nil, unix.SECCOMP_RET_ERRNO | 1}, {specs.ActErrno, &seven, unix.SECCOMP_RET_ERRNO | 7},
		{specs.ActTrace, &seven, unix.SECCOMP_RET_TRACE | 7}, {specs.ActNotify, nil, unix.SECCOMP_RET_USER_NOTIF},
	} {
		p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(99)),
			Syscalls: []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: c.action, ErrnoRet: c.data}}}
		f := compile(t, p)
		a, _ := findArch(nativeArch())
		nr := a.numbers(findCall("getpid"))[0]
		if got := f.Simulate(a.audit, int32(nr), [6]uint64{}); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.action, got, c.want)
		}
		if f.Notifies() != (c.action == specs.ActNotify) {
			t.Errorf("%s: notifies %v", c.action, f.Notifies())
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		flags []specs.LinuxSeccompFlag
		want  uint32
	}{
		{nil, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{[]specs.LinuxSeccompFlag{}, 0},
		{[]specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog}, unix.SECCOMP_FILTER_FLAG_LOG},
		{[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, 0},
	} {
		if f := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: c.flags}); f.Flags != c.want {
			t.Errorf("%q: %#x, want %#x", c.flags, f.Flags, c.want)
		}
	}
}

func TestBadProfiles(t *testing.T) {
	rule := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{s}}
	}
	many := make([]string, 0, 400)
	for nr := 0; nr < 600; nr += 2 {
		for i := range callCount {
			start := 0
			if i > 0 {
				start = int(callEnds[i-1])
			}
			if int(amd64Calls[i]) == nr {
				many = append(many, callNames[start:callEnds[i]])
			}
		}
	}
	var args []specs.LinuxSeccompArg
	for i := range uint(6) {
		args = append(args, specs.LinuxSeccompArg{Index: i, Op: specs.OpMaskedEqual, Value: 1})
	}
	for name, p := range map[string]*specs.LinuxSeccomp{
		"nil":            nil,
		"no default":     {},
		"unknown action": {DefaultAction: "SCMP_ACT_MAYBE"},
		"notify default": {DefaultAction: specs.ActNotify},
		"big errno":      {DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(1 << 20))},
		"unknown arch":   {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_Z80"}},
		"unknown flag":   {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_X"}},
		"no name":        rule(specs.LinuxSyscall{Action: specs.ActErrno}),
		"empty name":     rule(specs.LinuxSyscall{Names: []string{""}, Action: specs.ActErrno}),
		"rule's action":  rule(specs.LinuxSyscall{Names: []string{"read"}, Action: "x"}),
		"rule's errno": rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno,
			ErrnoRet: ptr(uint(1 << 16))}),
		"notify write": rule(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}),
		"operator": rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ABOUT"}}}),
		"argument": rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		"too long": rule(specs.LinuxSyscall{Names: many, Action: specs.ActErrno, Args: args}),
	} {
		if f, err := Compile(p); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

func TestTables(t *testing.T) {
	for i := 1; i < callCount; i++ {
		if callEnds[i] <= callEnds[i-1] {
			t.Fatal("a name is empty")
		}
	}
	if findCall("") >= 0 || findCall("reada") >= 0 || findCall("READ") >= 0 || findCall("zzz") >= 0 {
		t.Error("found a name that is not there")
	}
	check := func(name specs.Arch, call string, want ...uint32) {
		t.Helper()
		a, _ := findArch(name)
		if i := findCall(call); i < 0 || !slices.Equal(a.numbers(i), want) {
			t.Errorf("%s on %s is not %d", call, name, want)
		}
	}
	check(specs.ArchX86_64, "read", 0)
	check(specs.ArchX86_64, "clone3", 435)
	check(specs.ArchX86, "socketcall", 102)
	check(specs.ArchX86, "clone3", 435)
	check(specs.ArchAARCH64, "newfstatat", 79)
	check(specs.ArchAARCH64, "open")
	check(specs.ArchARM, "cacheflush", 0xf0002)
	check(specs.ArchARM, "set_tls", 0xf0005)
	check(specs.ArchX32, "execve", x32Bit|59, x32Bit|520)
	check(specs.ArchX32, "pwritev2", x32Bit|328, x32Bit|547)

	out, err := exec.Command("go", "run", "gentables.go").Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no go command to generate the tables with")
	}
	if err != nil {
		t.Fatal(err)
	}
	if have, err := os.ReadFile("tables.go"); err != nil || string(have) != string(out) {
		t.Errorf("tables.go is not what gentables.go makes, run go generate: %v", err)
	}
}

// The kernel must take the filter and do what it says.
func TestKernelAgrees(t *testing.T) {
	if nativeArch() != specs.ArchX86_64 && nativeArch() != specs.ArchAARCH64 {
		t.Skip("the calls below have 64-bit arguments")
	}
	if os.Getenv("SECCOMP_TEST_CHILD") != "" {
		loaded(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestKernelAgrees$", "-test.v")
	cmd.Env = append(os.Environ(), "SECCOMP_TEST_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// loaded runs in a process of its own, since a filter cannot be taken back.
func loaded(t *testing.T) {
	runtime.LockOSThread()
	p := defaultProfile(t)
	p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{"getsid"}, Action: specs.ActErrno,
		ErrnoRet: ptr(uint(unix.EXDEV)), Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 1<<40 | 5}}})
	// A rule without conditions would win.
	for i := range p.Syscalls {
		p.Syscalls[i].Names = slices.DeleteFunc(p.Syscalls[i].Names, func(n string) bool {
			return n == "getsid" && len(p.Syscalls[i].Args) == 0
		})
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(s specs.LinuxSyscall) bool { return len(s.Names) == 0 })
	f := compile(t, p)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	prog := unix.SockFprog{Len: uint16(len(f.Prog) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&f.Prog[0]))}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		uintptr(f.Flags|unix.SECCOMP_FILTER_FLAG_TSYNC), uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Fatalf("the kernel refuses the filter: %v", errno)
	}
	try := func(what string, nr, arg uint64, want error) {
		t.Helper()
		_, _, errno := unix.Syscall(uintptr(nr), uintptr(arg), 0, 0)
		if (want == nil) != (errno == 0) || want != nil && errno != want {
			t.Errorf("%s: %v, want %v", what, errno, want)
		}
	}
	try("getpid", unix.SYS_GETPID, 0, nil)
	try("acct", unix.SYS_ACCT, 0, unix.EPERM)
	try("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUTS, unix.EPERM)
	try("personality", unix.SYS_PERSONALITY, 0x77, unix.EPERM)
	try("socket of vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.EPERM)
	try("clone3", unix.SYS_CLONE3, 0, unix.ENOSYS)
	try("a call of the future", 1500, 0, unix.ENOSYS)
	try("getsid of the value", unix.SYS_GETSID, 1<<40|5, unix.EXDEV)
	try("getsid of another", unix.SYS_GETSID, 5, unix.EPERM)
}

// FuzzCompile makes a profile of the bytes and compares the filter with the naive reading of it.
func FuzzCompile(f *testing.F) {
	f.Add([]byte("a profile of sorts"), uint64(1))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}, uint64(2))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		p := fuzzed(data)
		filter, err := Compile(p)
		if err != nil {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		values := interesting(p, r)
		for range 200 {
			audit := audits[r.IntN(len(audits))]
			nr := uint32(r.IntN(600))
			switch r.IntN(6) {
			case 0:
				nr |= x32Bit
			case 1:
				nr = r.Uint32()
			case 2:
				nr = armPrivate + nr%8
			}
			if audit == unix.AUDIT_ARCH_I386 && (nr == 102 || nr == 117) {
				continue // naive knows nothing of calls within calls
			}
			compare(t, p, filter, audit, nr, pick(values, r))
		}
	})
}

func fuzzed(data []byte) *specs.LinuxSeccomp {
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b)
	}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActLog, specs.ActTrap,
		specs.ActKillProcess, specs.ActTrace, specs.ActKill}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	arches := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM,
		specs.ArchMIPS}
	values := []uint64{0, 1, 5, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 | 5, ^uint64(0)}
	p := &specs.LinuxSeccomp{DefaultAction: actions[next()%len(actions)]}
	for n := next() % 5; n > 0; n-- {
		p.Architectures = append(p.Architectures, arches[next()%len(arches)])
	}
	for len(data) > 0 && len(p.Syscalls) < 64 {
		s := specs.LinuxSyscall{Action: actions[next()%len(actions)], ErrnoRet: ptr(uint(1 + next()%3))}
		for n := 1 + next()%4; n > 0; n-- {
			i := (next()<<8 | next()) % callCount
			start := 0
			if i > 0 {
				start = int(callEnds[i-1])
			}
			s.Names = append(s.Names, callNames[start:callEnds[i]])
		}
		for n := next() % 4; n > 0; n-- {
			s.Args = append(s.Args, specs.LinuxSeccompArg{Index: uint(next() % 6), Op: ops[next()%len(ops)],
				Value: values[next()%len(values)], ValueTwo: values[next()%len(values)]})
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func BenchmarkCompile(b *testing.B) {
	p := defaultProfile(b)
	for b.Loop() {
		compile(b, p)
	}
}

// What is told to be known is understood, each by itself.
func TestWhatIsKnownIsUnderstood(t *testing.T) {
	k := Knows()
	if len(k.Actions) != 9 || len(k.Operators) != 7 || len(k.Arches) != 5 || len(k.Flags) != 4 || !slices.Contains(k.Supported, specs.LinuxSeccompFlagLog) {
		t.Errorf("%+v", k)
	}
	for _, a := range k.Actions {
		for _, op := range k.Operators {
			p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: k.Arches, Flags: k.Flags, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir"}, Action: a, Args: []specs.LinuxSeccompArg{{Index: 1, Op: op}}}}}
			if _, err := Compile(p); err != nil {
				t.Error(a, op, err)
			}
		}
	}
	for _, a := range k.Arches {
		if _, ok := findArch(a); !ok {
			t.Error(a)
		}
	}
}
