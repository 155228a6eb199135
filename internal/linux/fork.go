package linux

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Program is what a freshly forked child does before it becomes another program: a list of system calls, prepared by
// the parent with all their memory. Between fork and execve the child runs nothing else, since a Go runtime with one
// thread of many cannot allocate, schedule or grow a stack.
//
//	parent                          child
//	  prepare ops, memory
//	  clone ───────────────────────▶ op 0, op 1, … each a raw system call
//	  wait on the report pipe        a call fails ─▶ {step, errno} into the pipe, exit
//	  EOF: execve has happened       execve closes the pipe (O_CLOEXEC)
//
// Results can be kept in slots and used as arguments of later calls, so that the child can open something and use it.
type Program struct {
	ops   []op
	steps []string
	keep  []any // memory the operations point into
}

// Slot names a place that holds the result of one operation.
type Slot uint8

// maxSlots is how many results a child can hold.
const maxSlots = 32

type op struct {
	nr     uintptr
	args   [6]uintptr
	use    [6]uint8 // slot + 1 whose value replaces the argument; 0: none
	save   uint8    // slot + 1 that gets the result; 0: none
	step   uint16
	ignore [3]syscall.Errno
	skip   uint16 // operations to pass over when the error was one to ignore
	kind   opKind
}

type opKind uint8

const (
	opCall    opKind = iota
	opData           // a read: nothing read is an error (the other side has ended)
	opFork           // clone once more with CLONE_PARENT: the first child tells the second's pid and ends
	opReport         // move the report pipe to the descriptor in args[0]
	opExec           // like a call, but an ignored EACCES is remembered for opExecEnd
	opExecEnd        // fail with the remembered error, or ENOENT
)

// Arg is an argument of an operation: a number, a slot, or a pointer to memory.
type Arg struct {
	v    uintptr
	slot uint8
	keep any
}

// N is a number.
func N[T ~int | ~uint | ~int32 | ~uint32 | ~uint64 | ~uintptr | ~int64](v T) Arg {
	return Arg{v: uintptr(v)}
}

// From is the value in a slot.
func From(s Slot) Arg { return Arg{slot: uint8(s) + 1} }

// Str is a pointer to a NUL-terminated copy of s. A NUL inside s ends it early, so callers refuse such strings before.
func Str(s string) Arg {
	b := append([]byte(s), 0)
	return Arg{v: uintptr(unsafe.Pointer(&b[0])), keep: b}
}

// Bytes is a pointer to b, which must not be empty.
func Bytes(b []byte) Arg { return Arg{v: uintptr(unsafe.Pointer(&b[0])), keep: b} }

// Ptr is a pointer to a structure.
func Ptr[T any](p *T) Arg { return Arg{v: uintptr(unsafe.Pointer(p)), keep: p} }

// Strs is a pointer to a NULL-terminated array of strings, as execve(2) wants it.
func Strs(list []string) Arg {
	ptrs := make([]*byte, len(list)+1)
	for i, s := range list {
		b := append([]byte(s), 0)
		ptrs[i] = &b[0]
	}
	return Arg{v: uintptr(unsafe.Pointer(&ptrs[0])), keep: ptrs}
}

// Step names what the following operations are for; an error tells it.
func (p *Program) Step(format string, args ...any) {
	p.steps = append(p.steps, fmt.Sprintf(format, args...))
}

// Call adds a system call.
func (p *Program) Call(nr uintptr, args ...Arg) *Call {
	o := op{nr: nr, step: uint16(max(len(p.steps)-1, 0))}
	for i, a := range args {
		o.args[i], o.use[i] = a.v, a.slot
		if a.keep != nil {
			p.keep = append(p.keep, a.keep)
		}
	}
	p.ops = append(p.ops, o)
	return &Call{p, len(p.ops) - 1}
}

// Call is an operation being described.
type Call struct {
	p *Program
	i int
}

// Save keeps the result in a slot.
func (c *Call) Save(s Slot) *Call {
	c.p.ops[c.i].save = uint8(s) + 1
	return c
}

// Ignore makes errors of these kinds (at most three) no errors.
func (c *Call) Ignore(errs ...syscall.Errno) *Call {
	copy(c.p.ops[c.i].ignore[:], errs)
	return c
}

// Skip passes over the next n operations when an error was ignored.
func (c *Call) Skip(n int) *Call {
	c.p.ops[c.i].skip = uint16(n)
	return c
}

// NeedsData makes a read that returns nothing an error (EPIPE).
func (c *Call) NeedsData() *Call {
	c.p.ops[c.i].kind = opData
	return c
}

// Len is how many operations there are, for Skip.
func (p *Program) Len() int { return len(p.ops) }

// SkipTo makes c pass over everything added since when its error was ignored.
func (c *Call) SkipTo() { c.p.ops[c.i].skip = uint16(len(c.p.ops) - 1 - c.i) }

// ForkAgain makes the child clone itself once more, as a sibling (CLONE_PARENT), and end; what follows runs in the second.
// It is how a process gets into a pid namespace that the first has entered, since entering counts for children only.
func (p *Program) ForkAgain() { p.special(opFork, 0) }

// MoveReport moves the report pipe to descriptor fd, so that everything above it can be closed.
func (p *Program) MoveReport(fd int) { p.special(opReport, uintptr(fd)) }

// ExecSearch tries to become each of paths in turn, as a shell looks along PATH: what is not there or cannot be run is
// passed over, and remembered when nothing else is found.
func (p *Program) ExecSearch(paths, argv, env []string) {
	a, e := Strs(argv), Strs(env)
	for _, path := range paths {
		p.Call(unix.SYS_EXECVE, Str(path), a, e).Ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		p.ops[len(p.ops)-1].kind = opExec
	}
	p.special(opExecEnd, 0)
}

func (p *Program) special(k opKind, arg uintptr) {
	p.ops = append(p.ops, op{kind: k, args: [6]uintptr{arg}, step: uint16(max(len(p.steps)-1, 0))})
}

// ForkError says which step of a Program failed.
type ForkError struct {
	Step  string
	Errno syscall.Errno
	Index int
}

func (e *ForkError) Error() string { return e.Step + ": " + e.Errno.Error() }

// Unwrap gives the errno.
func (e *ForkError) Unwrap() error { return e.Errno }

// ForkOptions say how the child is cloned.
type ForkOptions struct {
	Flags  uintptr  // CLONE_NEW…
	Cgroup *os.File // a cgroup v2 directory to be born in
}

// Child is a forked process whose Program may still run.
type Child struct {
	Pid    int
	Pidfd  *os.File
	report *os.File
	p      *Program
}

type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

type report struct {
	index int32
	errno int32
}

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// Fork clones a child that runs p. The caller waits for it (Child.Wait) and reaps it.
func (p *Program) Fork(o ForkOptions) (*Child, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	pidfd := int32(-1)
	args := cloneArgs{flags: uint64(o.Flags) | unix.CLONE_PIDFD, exitSignal: uint64(syscall.SIGCHLD),
		pidfd: uint64(uintptr(unsafe.Pointer(&pidfd)))}
	if o.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(o.Cgroup.Fd())
	}
	state := &childState{ops: p.ops, pipe: w.Fd()}
	state.again = cloneArgs{flags: unix.CLONE_PARENT} // the exit signal is the first child's
	syscall.ForkLock.Lock()
	pid, errno := forkChild(&args, state)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(p)
	runtime.KeepAlive(state)
	_ = w.Close()
	if errno != 0 {
		_ = r.Close()
		return nil, os.NewSyscallError("clone3", errno)
	}
	return &Child{Pid: int(pid), Pidfd: os.NewFile(uintptr(pidfd), "pidfd"), report: r, p: p}, nil
}

type childState struct {
	ops    []op
	pipe   uintptr
	slots  [maxSlots + 1]uintptr
	rep    report
	again  cloneArgs
	denied bool
}

// forkedAgain is the index of a report that tells the second child's pid.
const forkedAgain = -1

// forkChild returns in the parent only. In the child it runs the operations: no allocation, no stack growth, no call but
// into the kernel.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func forkChild(args *cloneArgs, s *childState) (pid uintptr, errno syscall.Errno) {
	runtimeBeforeFork()
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		return pid, errno
	}
	runtimeAfterForkInChild()
	for i := 0; i < len(s.ops); i++ {
		o := &s.ops[i]
		for a := 0; a < 6; a++ {
			if u := o.use[a]; u != 0 {
				o.args[a] = s.slots[u]
			}
		}
		var r uintptr
		var e syscall.Errno
	again:
		switch o.kind {
		case opFork:
			r, _, e = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&s.again)), unsafe.Sizeof(s.again), 0, 0, 0, 0)
			if e == 0 && r != 0 {
				s.rep.index, s.rep.errno = forkedAgain, int32(r)
				syscall.RawSyscall6(unix.SYS_WRITE, s.pipe, uintptr(unsafe.Pointer(&s.rep)), unsafe.Sizeof(s.rep), 0, 0, 0)
				for {
					syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
				}
			}
		case opReport:
			if s.pipe != o.args[0] {
				_, _, e = syscall.RawSyscall6(unix.SYS_DUP3, s.pipe, o.args[0], unix.O_CLOEXEC, 0, 0, 0)
				s.pipe = o.args[0]
			}
		case opExecEnd:
			e = syscall.ENOENT
			if s.denied {
				e = syscall.EACCES
			}
		default:
			r, _, e = syscall.RawSyscall6(o.nr, o.args[0], o.args[1], o.args[2], o.args[3], o.args[4], o.args[5])
		}
		if e == syscall.EINTR {
			goto again
		}
		if e == 0 && o.kind == opData && r == 0 {
			e = syscall.EPIPE
		}
		if e != 0 && (e == o.ignore[0] || e == o.ignore[1] || e == o.ignore[2]) {
			if o.kind == opExec && e == syscall.EACCES {
				s.denied = true
			}
			i += int(o.skip)
			continue
		}
		if e != 0 {
			s.rep.index, s.rep.errno = int32(i), int32(e)
			syscall.RawSyscall6(unix.SYS_WRITE, s.pipe, uintptr(unsafe.Pointer(&s.rep)), unsafe.Sizeof(s.rep), 0, 0, 0)
			for {
				syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
			}
		}
		if o.save != 0 {
			s.slots[o.save] = r
		}
	}
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}

// Wait returns when the child's program has ended in execve, or with a *ForkError when one of its steps failed; the child
// is then dead and must still be reaped. After ForkAgain, Pid and Pidfd are the second child's, and the first has been
// reaped.
func (c *Child) Wait() error {
	defer c.report.Close()
	for {
		var buf [unsafe.Sizeof(report{})]byte
		n, err := io.ReadFull(c.report, buf[:])
		if n == 0 {
			return nil // closed by execve, or the child was killed: its exit status tells
		}
		if err != nil {
			return fmt.Errorf("the child's report is incomplete: %w", err)
		}
		rep := *(*report)(unsafe.Pointer(&buf[0]))
		if rep.index == forkedAgain {
			if err := c.follow(int(rep.errno)); err != nil {
				return err
			}
			continue
		}
		step := ""
		if i := int(c.p.ops[rep.index].step); i < len(c.p.steps) {
			step = c.p.steps[i]
		}
		return &ForkError{Step: step, Errno: syscall.Errno(rep.errno), Index: int(rep.index)}
	}
}

// follow makes the second child the one that c stands for. It is our child too, and not reaped, so its pid is its own.
func (c *Child) follow(pid int) error {
	var ws syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(c.Pid, &ws, 0, nil); err != syscall.EINTR {
			break
		}
	}
	_ = c.Pidfd.Close()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.Pid, c.Pidfd = pid, os.NewFile(uintptr(fd), "pidfd")
	return nil
}
