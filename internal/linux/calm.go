package linux

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// calmSlack is what Calm lets timers be late by, in nanoseconds: odd, so that it is known again. usualSlack is the kernel's own.
const (
	calmSlack  = 2_000_001
	usualSlack = 50_000
)

// Calm keeps Go's watchman, the thread that looks whether others are stuck, off the processors. It first looks every 20 µs, which
// wakes it 10,000 times a second while there is something to do, and where processors are few that takes a fifth of one from what is
// to be done. A thread's timers may be late by its slack. Threads that the watchman starts have its slack, and so do processes and
// programs that come of them: OnThread gives back the usual one, and who executes a program by other ways calls Usual before.
// Failing is no harm.
func Calm() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	// Numbers are given in turn, and the watchman is the first thread that Go starts.
	const numbers = 1 << 22
	self, first := unix.Getpid(), 0
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err == nil && tid != self && (first == 0 || (tid-self+numbers)%numbers < (first-self+numbers)%numbers) {
			first = tid
		}
	}
	if first != 0 {
		_ = os.WriteFile("/proc/"+strconv.Itoa(first)+"/timerslack_ns", strconv.AppendInt(nil, calmSlack, 10), 0)
	}
}

// Usual takes back what Calm has made of the calling thread, which is locked.
func Usual() {
	if slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err == nil && slack == calmSlack {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, usualSlack, 0, 0, 0)
	}
}
