// Package seccomp compiles an OCI seccomp profile (runtime-spec, config-linux.md, "Seccomp") to the program that the
// kernel evaluates at each system call, in pure Go.
//
// # What a profile means
//
// The meaning is that of runc with libseccomp, which every profile in use was written for:
//
//   - A rule applies when all its arguments' conditions hold; a rule with two conditions on the same argument stands
//     for one rule each.
//   - Rules that do what the default does anyway are left out.
//   - A rule without conditions decides its system call, whatever rules with conditions there are, and the first such
//     rule does. Otherwise the first rule whose conditions hold decides, otherwise the default.
//   - Names that an architecture does not have are passed over: profiles list the names of all.
//   - A system call whose number is above every one that the profile names fails with ENOSYS, unless the default
//     lets it pass: a profile older than the program must look like an older kernel, so that the program falls
//     back, and not like a refusal.
//   - A call through an architecture that the profile does not list kills the process. The machine's own one
//     is always listed.
//
// On 32-bit architectures, and for x32, only the lower half of a value is compared. There, 386 has two ways into the calls for
// sockets and System V IPC: by their own numbers, and by socketcall(2) and ipc(2) with the number of the
// call as the first argument. A rule about such a call covers both. Since the arguments proper are not visible in the
// second way, a rule with conditions extends to it only if it is stricter than the default, and then whatever
// they are.
//
// # The program
//
//	load architecture
//	is it the first?  load number; binary search over ranges of numbers ─┬─ return the action
//	is it the second? …                                                  └─ test arguments, return the action
//	kill
//
// Neighbouring numbers with the same answer form one range, so that Docker's default profile needs about eight
// steps for any call. Every leaf is complete in itself, and only such instructions lead to a leaf whose result the
// kernel can work out once, when it loads the program, for the calls that are allowed whatever their arguments:
// since Linux 5.11 those do not run it at all.
//
// Compile is a pure function; the result depends on the profile and the machine's architecture alone and may be
// kept as bytes. The names and numbers of system calls come from golang.org/x/sys (see gentables.go).
package seccomp

//go:generate go run gentables.go -o tables.go
