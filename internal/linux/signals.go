package linux

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Package os/signal hands each signal that is asked for to a thread of its own, waits for that, and keeps two goroutines: more than
// a millisecond for the nine that a process in the foreground passes on, while that process runs. Here the kernel calls some
// instructions that write the signal's number into a pipe.

// sigaction is the kernel's struct of that name (rt_sigaction(2)).
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// signalWriter is the handler, signalReturn what it returns to where the kernel brings nothing for that, 0 elsewhere.
func signalWriter() uintptr
func signalReturn() uintptr

// setSignalPipe tells the handler where to write. It stands in the code's own data: a handler has no arguments.
func setSignalPipe(fd int32)

// SignalPipe takes the signals of list away from the Go runtime: the number of each that comes is a byte to be read from the pipe. It is
// for the end of a program's main function, and called once.
func SignalPipe(list []unix.Signal) (*os.File, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	if err := unix.SetNonblock(fds[1], true); err != nil { // a handler does not wait
		return nil, os.NewSyscallError("fcntl", err)
	}
	setSignalPipe(int32(fds[1]))
	const restartable, onStack, withRestorer = 0x10000000, 0x08000000, 0x04000000
	a := &sigaction{handler: signalWriter(), flags: restartable | onStack, mask: ^uint64(0)}
	if a.restorer = signalReturn(); a.restorer != 0 {
		a.flags |= withRestorer
	}
	for _, sig := range list {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(a)), 0, unsafe.Sizeof(a.mask), 0, 0)
		if errno != 0 {
			return nil, os.NewSyscallError("rt_sigaction", errno)
		}
	}
	return os.NewFile(uintptr(fds[0]), "signals"), nil
}
