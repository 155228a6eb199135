package linux

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calmSlack is what Calm lets timers be late by, in nanoseconds: odd, so that it is known again. usualSlack is the kernel's own.
const (
	calmSlack  = 2_000_001
	usualSlack = 50_000
	// calmReach is how many processes and threads others may have made between our first thread and our second.
	calmReach = 32
)

// Calm keeps Go's watchman, the thread that looks whether others are stuck, off the processors. It first looks every 20 µs, which
// wakes it 10,000 times a second while there is something to do: where processors are few that takes a fifth of one from what is to be
// done, and where it wakes on another one each change of our memory's map must be told to that one, too. A thread's timers may be late
// by its slack. Threads that the watchman starts have its slack, and so do processes and programs that come of them: OnThread, InPlace and
// hooks give back the usual one, so that nothing in a container has it. Programs that are executed by other ways (a monitor, a plugin, a
// helper of ours) may have it, and come late by two milliseconds at most; where that matters, Usual is called before. Failing is no harm.
func Calm() {
	// Numbers are given in turn, and the watchman is the first thread that Go starts. The calls are raw: of others it would see that they
	// take a while, and give our processor away.
	pid := unix.Getpid()
	for tid := pid + 1; tid <= pid+calmReach; tid++ {
		if _, _, errno := unix.RawSyscall(unix.SYS_TGKILL, uintptr(pid), uintptr(tid), 0); errno != 0 {
			continue // somebody else's
		}
		path, slack := []byte("/proc/"+strconv.Itoa(tid)+"/timerslack_ns\x00"), []byte(strconv.Itoa(calmSlack))
		fd, _, errno := unix.RawSyscall6(unix.SYS_OPENAT, 0, uintptr(unsafe.Pointer(&path[0])), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
		if errno == 0 {
			_, _, _ = unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&slack[0])), uintptr(len(slack)))
			_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
		}
		return
	}
}

// Usual takes back what Calm has made of the calling thread, which is locked.
func Usual() {
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && slack == calmSlack {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, usualSlack, 0, 0, 0)
	}
}
