package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Program is what a freshly forked child does before it becomes another program: a list of system calls, prepared by
// the parent with all their memory. Between fork and execve the child runs nothing else, since a Go runtime that has
// lost all threads but one cannot allocate, schedule or grow a stack.
//
//	parent                            child
//	  prepare calls and memory
//	  clone3 ────────────────────────▶ call 0, call 1, … each a raw system call
//	  Child.Wait: read the report      a call fails ─▶ {call, errno} into the report, exit 127
//	  end of file: execve happened ◀── execve closes the report (O_CLOEXEC)
//
// A small program that is executed first and then executes another can inherit the report without O_CLOEXEC, close it when
// that has happened, or write {-2, errno}: the last call failed.
//
// Results can be kept in slots and used as arguments of later calls. A call whose error was ignored leaves its slot
// failed, and calls that use a failed slot are left out: "mask this file if it is there" needs no branch.
//
// A Program is made for one Fork: the child's results go into the parent's copy only by way of the report.
//
// # A child that shows nothing
//
// A child that goes into a pid namespace is seen there by processes that may trace it, from the first moment. Sibling makes
// one that has nothing to show: the first child stays outside, gives up all that is its parent's, and makes a second one
// (CLONE_PARENT: the parent's child, not its own) that goes on with the program, while the first one ends.
//
//	parent            first child: outside             second child: inside
//	  clone3 ────────▶ setns(pid namespace)
//	                   close everything, drop rights
//	                   clone ─────────────────────────▶ the rest of the program ─▶ execve
//	  Child.Wait       exit
//
// The kernel writes the second child's number into memory that parent and first child share and the second one does not
// get (CLONE_PARENT_SETTID, MADV_DONTFORK), so the parent knows it whatever becomes of the first.
type Program struct {
	ops     []op
	steps   []string
	keep    []any  // memory that the calls point into
	slots   int    // given out by NewSlot
	err     error  // of the first thing that cannot be handed to the kernel
	sibling []byte // the shared memory of Sibling; nil without
	split   int    // the call that makes the sibling
}

// Slot names a place that holds the result of a call.
type Slot uint8

const maxSlots = 254

// NewSlot gives out a slot of its own.
func (p *Program) NewSlot() Slot {
	if p.slots++; p.slots > maxSlots {
		p.err = fmt.Errorf("a program cannot hold more than %d results: %w", maxSlots, unix.E2BIG)
		p.slots = maxSlots
	}
	return Slot(p.slots)
}

// ReportSlot holds the descriptor of the report. A program that moves it saves the new one here.
const ReportSlot Slot = 0

// failed is the value of a slot whose call did not succeed.
const failed = ^uintptr(0)

type op struct {
	nr     uintptr
	args   [6]uintptr
	use    [6]uint8 // slot+1 whose value replaces the argument; 0: none
	save   uint8    // slot+1 that gets the result; 0: none
	unless uint8    // slot+1: left out when that call succeeded; 0: none
	flags  uint8
	step   uint16
	ignore [3]syscall.Errno
	text   *byte  // not nil: must be "/" after the call, else ENOENT
	mem    *int32 // of opStore and opLoad
}

const (
	opNeedsData = 1 << iota // a result of 0 is EPIPE: the writer of the pipe has ended
	opFail                  // no call: ends the program with the error args[0]
	opSibling               // who makes the call ends; its child goes on
	opStore                 // no call: args[1] into *mem
	opLoad                  // no call: *mem is the result
)

// Arg is an argument of a call: a number, a slot, or memory.
type Arg struct {
	v    uintptr
	slot uint8
	keep any
	err  error
}

// N is a number.
func N[T ~int | ~uint | ~int32 | ~uint32 | ~uint64 | ~uintptr | ~int64](v T) Arg {
	return Arg{v: uintptr(v)}
}

// FD is the number of an open file, which must stay open until the program has been forked.
func FD(f *os.File) Arg { return Arg{v: f.Fd(), keep: f} }

// From is the value in a slot.
func From(s Slot) Arg { return Arg{slot: uint8(s) + 1} }

// Str is a string. One with a NUL in it, which the kernel would read as a shorter one, makes Fork fail.
func Str(s string) Arg {
	b, err := syscall.BytePtrFromString(s)
	return Arg{v: uintptr(unsafe.Pointer(b)), keep: b, err: err}
}

// Bytes is the memory of b, which the caller leaves alone; nil is NULL.
func Bytes(b []byte) Arg {
	if len(b) == 0 {
		return Arg{}
	}
	return Arg{v: uintptr(unsafe.Pointer(&b[0])), keep: b}
}

// Ptr is the memory of *p, which the caller leaves alone.
func Ptr[T any](p *T) Arg { return Arg{v: uintptr(unsafe.Pointer(p)), keep: p} }

// Strs is a NULL-terminated array of strings, as execve(2) wants it.
func Strs(list []string) Arg {
	ptrs, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return Arg{err: err}
	}
	return Arg{v: uintptr(unsafe.Pointer(&ptrs[0])), keep: ptrs}
}

// StrsAround is Strs of list with the strings in first and last before and after it, which may come into that memory later. Each
// must end with a NUL; nil is none.
func StrsAround(first []byte, list []string, last []byte) Arg {
	inner, err := syscall.SlicePtrFromStrings(list)
	if err != nil {
		return Arg{err: err}
	}
	ptrs := make([]*byte, 0, len(inner)+2)
	if first != nil {
		ptrs = append(ptrs, &first[0])
	}
	ptrs = append(ptrs, inner[:len(list)]...)
	if last != nil {
		ptrs = append(ptrs, &last[0])
	}
	ptrs = append(ptrs, nil)
	return Arg{v: uintptr(unsafe.Pointer(&ptrs[0])), keep: ptrs}
}

// Step says what the calls that follow are for; the error of one that fails begins with it.
func (p *Program) Step(what string) { p.steps = append(p.steps, what) }

// Call adds a system call.
func (p *Program) Call(nr uintptr, args ...Arg) *Call {
	o := op{nr: nr, step: uint16(len(p.steps))}
	for i, a := range args {
		o.args[i], o.use[i] = a.v, a.slot
		if a.keep != nil {
			p.keep = append(p.keep, a.keep)
		}
		if a.err != nil && p.err == nil {
			p.err = fmt.Errorf("%s: %w", p.what(o.step), a.err)
		}
	}
	p.ops = append(p.ops, o)
	return &Call{p, len(p.ops) - 1}
}

// Fail ends the program with errno.
func (p *Program) Fail(errno syscall.Errno) {
	p.ops = append(p.ops, op{flags: opFail, args: [6]uintptr{uintptr(errno)}, step: uint16(len(p.steps))})
}

// Notify writes a mark into the report: the parent's Child.WaitMark returns.
func (p *Program) Notify() {
	p.Call(unix.SYS_WRITE, From(ReportSlot), Ptr(&report{index: markIndex}), N(unsafe.Sizeof(report{})))
}

// Send adds a message over a unix socket that carries the descriptors in these slots: the parent's RecvMsg gets them, with one byte.
func (p *Program) Send(conn Arg, files ...Slot) {
	oob := unix.UnixRights(make([]int, len(files))...)
	fds := unsafe.Slice((*int32)(unsafe.Pointer(&oob[unix.CmsgLen(0)])), len(files))
	for i, f := range files {
		p.Call(0, N(0), From(f))
		o := &p.ops[len(p.ops)-1]
		o.flags, o.mem = opStore, &fds[i]
	}
	b := make([]byte, 1)
	m := &unix.Msghdr{Iov: &unix.Iovec{Base: &b[0], Len: 1}, Iovlen: 1, Control: &oob[0], Controllen: uint64(len(oob))}
	p.Call(unix.SYS_SENDMSG, conn, Ptr(m), N(unix.MSG_NOSIGNAL))
}

// Receive adds the wait for a message that the parent sends over a unix socket: its bytes go into buf, and the one descriptor that
// comes with it into file, where that is not ReportSlot. When the parent closes its end instead, the child ends (EPIPE).
func (p *Program) Receive(conn *os.File, buf []byte, file Slot) {
	m := &unix.Msghdr{Iov: &unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}, Iovlen: 1}
	var fd *int32
	if file != ReportSlot {
		oob := make([]byte, unix.CmsgSpace(4))
		fd = (*int32)(unsafe.Pointer(&oob[unix.CmsgLen(0)]))
		*fd = -1
		m.Control, m.Controllen = &oob[0], uint64(len(oob))
	}
	p.Call(unix.SYS_RECVMSG, FD(conn), Ptr(m), N(unix.MSG_CMSG_CLOEXEC)).NeedsData()
	if fd != nil {
		p.Call(0).Save(file)
		o := &p.ops[len(p.ops)-1]
		o.flags, o.mem = opLoad, fd
	}
}

// Sibling makes the rest of the program that of a second child; see Program. It is called at most once.
func (p *Program) Sibling() {
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		p.err = os.NewSyscallError("mmap", err)
		return
	}
	p.sibling = page
	p.Call(unix.SYS_MADVISE, Bytes(page), N(len(page)), N(unix.MADV_DONTFORK))
	p.split = len(p.ops)
	// clone(2) and not clone3(2), which profiles forbid: the filter may be loaded already.
	p.Call(unix.SYS_CLONE, N(unix.CLONE_PARENT|unix.CLONE_PARENT_SETTID|uintptr(unix.SIGCHLD)), N(0), Bytes(page), N(0), N(0))
	p.ops[p.split].flags |= opSibling
}

// Discard gives up what a Program holds that was never forked.
func (p *Program) Discard() {
	if p.sibling != nil {
		_ = unix.Munmap(p.sibling)
		p.sibling = nil
	}
}

// Len is the number of calls.
func (p *Program) Len() int { return len(p.ops) }

func (p *Program) what(step uint16) string {
	if step == 0 || int(step) > len(p.steps) {
		return "prepare"
	}
	return p.steps[step-1]
}

// Call is a call that is being described.
type Call struct {
	p *Program
	i int
}

// Save keeps the result in a slot.
func (c *Call) Save(s Slot) *Call {
	c.p.ops[c.i].save = uint8(s) + 1
	return c
}

// Unless leaves the call out when the call that saved into s succeeded.
func (c *Call) Unless(s Slot) *Call {
	c.p.ops[c.i].unless = uint8(s) + 1
	return c
}

// Ignore makes errors of these kinds (at most three) no errors.
func (c *Call) Ignore(errs ...syscall.Errno) *Call {
	copy(c.p.ops[c.i].ignore[:], errs)
	return c
}

// NeedsData makes a read that returns nothing an error (EPIPE).
func (c *Call) NeedsData() *Call {
	c.p.ops[c.i].flags |= opNeedsData
	return c
}

// Rooted makes it an error (ENOENT) when buf, which the call fills, does not begin with "/" afterwards: getcwd(2) says
// "(unreachable)" of a directory outside the root.
func (c *Call) Rooted(buf []byte) *Call {
	c.p.ops[c.i].text = &buf[0]
	return c
}

// StepError says which step of a Program failed in the child.
type StepError struct {
	Step  string
	Errno syscall.Errno
	Call  int // its number, for those who know the program
}

func (e *StepError) Error() string { return e.Step + ": " + e.Errno.Error() }

// Unwrap gives the errno.
func (e *StepError) Unwrap() error { return e.Errno }

// ForkOptions say how the child is cloned.
type ForkOptions struct {
	Flags  uintptr  // CLONE_NEW…
	Cgroup *os.File // cgroup v2 directory to be born in
	// Report replaces the pipe between child and parent, for a child that the parent does not wait for.
	Report *os.File
}

// Child is a forked process whose Program may still run. With a Sibling, Pid and Pidfd are those of the first child until
// WaitMark or Wait has returned, and afterwards of the second one if it was made.
type Child struct {
	Pid   int
	Pidfd *os.File

	report *os.File
	p      *Program
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

type report struct {
	index int32
	errno int32
}

const (
	markIndex  = -1
	lastIndex  = -2 // of the last call: written by a program that stands between execve and the one that was meant
	reportSize = int(unsafe.Sizeof(report{}))
)

// The runtime keeps these three for packages that fork by themselves (runtime/proc.go); package syscall's own fork uses
// them in the same way.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// Fork clones a child that runs p, in the namespaces of the calling thread. Whatever the outcome, the caller reaps the
// child of a nil error.
func (p *Program) Fork(o ForkOptions) (*Child, error) {
	if p.err != nil {
		p.Discard()
		return nil, p.err
	}
	c := &Child{p: p}
	w := o.Report
	if w == nil {
		var err error
		if c.report, w, err = Pipe(); err != nil {
			return nil, err
		}
		defer w.Close()
	}
	pidfd := new(int32)
	args := &cloneArgs{flags: uint64(o.Flags) | unix.CLONE_PIDFD, exitSignal: uint64(syscall.SIGCHLD),
		pidfd: uint64(uintptr(unsafe.Pointer(pidfd)))}
	if o.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(o.Cgroup.Fd())
	}
	s := &childState{ops: p.ops}
	for i := range s.slots {
		s.slots[i] = failed
	}
	s.slots[ReportSlot+1] = w.Fd()
	call := [6]uintptr{uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args)}

	syscall.ForkLock.Lock()
	pid, errno := forkChild(unix.SYS_CLONE3, &call, s)
	if errno == syscall.ENOSYS && o.Cgroup == nil {
		// Seccomp profiles that cannot look into clone3's structure answer ENOSYS, so that callers fall back.
		call = [6]uintptr{uintptr(args.flags) | uintptr(syscall.SIGCHLD), 0, uintptr(args.pidfd)}
		pid, errno = forkChild(unix.SYS_CLONE, &call, s)
	}
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(p)
	runtime.KeepAlive(s)
	runtime.KeepAlive(args)
	runtime.KeepAlive(w)
	runtime.KeepAlive(o)
	if errno != 0 {
		p.Discard()
		return nil, errors.Join(os.NewSyscallError("clone3", errno), c.closeReport())
	}
	c.Pid, c.Pidfd = int(pid), os.NewFile(uintptr(*pidfd), "pidfd")
	return c, nil
}

// Pipe is a pipe that blocks, as programs expect of one they inherit; os.Pipe's does not.
func Pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// childState is everything the child reads and writes: no other memory of the parent's matters to it.
type childState struct {
	ops   []op
	slots [maxSlots + 2]uintptr // by slot+1
	rep   report
}

// forkChild returns in the parent only. In the child it runs the calls: no allocation, no stack growth, nothing but the
// kernel, and so no function that is not nosplit.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func forkChild(nr uintptr, call *[6]uintptr, s *childState) (pid uintptr, errno syscall.Errno) {
	runtimeBeforeFork()
	pid, _, errno = syscall.RawSyscall6(nr, call[0], call[1], call[2], call[3], call[4], call[5])
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		return pid, errno
	}
	// Handlers become defaults and the signal mask is what it was before the fork.
	runtimeAfterForkInChild()
next:
	for i := 0; i < len(s.ops); i++ {
		o := &s.ops[i]
		if o.unless != 0 && s.slots[o.unless] != failed {
			continue
		}
		for a := 0; a < 6; a++ {
			if u := o.use[a]; u != 0 {
				o.args[a] = s.slots[u]
				if o.args[a] == failed {
					if o.save != 0 {
						s.slots[o.save] = failed
					}
					continue next
				}
			}
		}
		var r uintptr
		var e syscall.Errno
		if o.flags&opFail != 0 {
			e = syscall.Errno(o.args[0])
		} else if o.flags&opStore != 0 {
			*o.mem = int32(o.args[1])
		} else if o.flags&opLoad != 0 {
			r = uintptr(*o.mem)
		} else {
			for {
				r, _, e = syscall.RawSyscall6(o.nr, o.args[0], o.args[1], o.args[2], o.args[3], o.args[4], o.args[5])
				if e != syscall.EINTR {
					break
				}
			}
		}
		if e == 0 && o.flags&opNeedsData != 0 && r == 0 {
			e = syscall.EPIPE
		}
		if e == 0 && o.text != nil && *o.text != '/' {
			e = syscall.ENOENT
		}
		if e != 0 {
			if e != o.ignore[0] && e != o.ignore[1] && e != o.ignore[2] {
				s.rep.index, s.rep.errno = int32(i), int32(e)
				syscall.RawSyscall6(unix.SYS_WRITE, s.slots[ReportSlot+1], uintptr(unsafe.Pointer(&s.rep)),
					unsafe.Sizeof(s.rep), 0, 0, 0)
				for {
					endChild(127)
				}
			}
			r = failed
		}
		if o.flags&opSibling != 0 && r != 0 {
			break
		}
		if o.save != 0 {
			s.slots[o.save] = r
		}
	}
	for {
		endChild(0)
	}
}

// endChild ends the child. A seccomp profile that forbids even that has it killed by a fault, whose handler is the default one.
//
//go:noinline
//go:norace
//go:nosplit
//go:nocheckptr
func endChild(code uintptr) {
	syscall.RawSyscall6(unix.SYS_EXIT_GROUP, code, 0, 0, 0, 0, 0)
	var nowhere *byte
	*nowhere = 0
}

// Wait returns nil when the child has become another program, and a *StepError when one of its steps failed; the child
// then ends, and must still be reaped. A child that was killed on its way also gives nil: its exit status tells.
func (c *Child) Wait() error {
	_, err := c.next()
	defer c.p.Discard()
	return errors.Join(err, c.closeReport(), c.follow())
}

// follow turns to the second child and reaps the first. The number cannot be another process's: nobody else reaps ours.
func (c *Child) follow() error {
	page := c.p.sibling
	if page == nil {
		return nil
	}
	pid := atomic.LoadInt32((*int32)(unsafe.Pointer(&page[0])))
	if pid == 0 {
		return nil // not yet
	}
	defer c.p.Discard()
	pidfd, err := PidfdOpen(int(pid))
	if err != nil { // no descriptors left: nobody could look after it
		_ = unix.Kill(int(pid), unix.SIGKILL)
		_, _ = unix.Wait4(int(pid), nil, 0, nil)
		return err
	}
	_, err = WaitPidfd(c.Pidfd)
	err = errors.Join(err, c.Pidfd.Close())
	c.Pid, c.Pidfd = int(pid), pidfd
	return err
}

// WaitMark returns when the child has come to the program's Notify; Wait is then still to be called. ErrNoMark means
// that the child ended or became another program without it.
func (c *Child) WaitMark() error {
	marked, err := c.next()
	if err == nil && !marked {
		err = ErrNoMark
	}
	return errors.Join(err, c.follow())
}

// ErrNoMark is the answer of Child.WaitMark for a child that ended.
var ErrNoMark = errors.New("the process ended before it was ready")

func (c *Child) next() (marked bool, err error) {
	var buf [reportSize]byte
	_, err = io.ReadFull(c.report, buf[:])
	if err == io.EOF {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the report of process %d: %w", c.Pid, err)
	}
	return c.p.decode(buf)
}

func (p *Program) decode(buf [reportSize]byte) (marked bool, err error) {
	rep := *(*report)(unsafe.Pointer(&buf))
	if rep.index == markIndex {
		return true, nil
	}
	if rep.index == lastIndex {
		rep.index = int32(len(p.ops)) - 1
	}
	if rep.index < 0 || int(rep.index) >= len(p.ops) {
		return false, fmt.Errorf("the process reported an unknown step %d", rep.index)
	}
	return false, &StepError{Step: p.what(p.ops[rep.index].step), Errno: syscall.Errno(rep.errno), Call: int(rep.index)}
}

func (c *Child) closeReport() error {
	if c.report == nil {
		return nil
	}
	f := c.report
	c.report = nil
	return f.Close()
}
