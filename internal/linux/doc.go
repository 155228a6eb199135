// Package linux is where Berth talks to the kernel: mounts that stand nowhere, namespaces, descriptors of processes,
// descriptors sent between processes, sealed programs, and the one raw fork. Callers see Go values; every retry and
// every quirk of a call is dealt with here, with its reason from the manual page.
//
// It owns nothing, keeps no state and starts nothing that outlives a call. It decides nothing: the kernel's answer is
// the answer, as an errno inside the error. It refuses only what cannot be handed to the kernel, such as strings with a
// NUL in them.
//
// # Threads
//
// Namespaces, the root directory, the umask and the working directory belong to a thread. OnThread runs a function on a
// thread that is thrown away afterwards, so that no other goroutine ever runs with what the function changed. InPlace, for commands
// that do one thing, runs it on the caller's and goes back.
//
// # The raw fork
//
// A Program is a list of system calls with all their memory, prepared by the parent. Its child runs them one after the
// other, without a Go runtime, and ends in execve or in a report of what failed; see Program.
//
// # Kernel versions
//
// Linux 5.12 is the oldest kernel that has all that is used without a fallback (openat2 5.6, close_range 5.9,
// mount_setattr 5.12). What came later (overlay layers one by one, 6.5) has a fallback.
package linux
