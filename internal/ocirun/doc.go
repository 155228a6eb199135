// Package ocirun starts processes in containers, as the OCI runtime specification 1.3 describes them (config.md,
// config-linux.md). It is called in-process, by the monitor and the builder, and by the berth-runtime command.
//
// # How a container starts
//
//	caller's goroutine      a thread of its own               the child (see linux.Program)
//	check the spec
//	make the cgroup
//	                        in the host's namespaces:
//	                          copy bind sources and root
//	                          (open_tree), make file systems
//	                        unshare and setns
//	                        fork ───────────────────────────▶ make /proc, hand its mount over
//	                        root in place, pivot_root,        session, cgroup; make cgroup mounts,
//	                          the host is out of reach          hand them over
//	                        mounts in their order, devices,
//	                          masks, sysctls
//	                        all is in place ────────────────▶ stdio
//	                        (the thread ends)                 limits, user, capabilities, seccomp
//	read the report ◀──────────────────────────────────────── execve
//
// Everything that looks at the container's files runs after pivot_root, on a thread whose root is the container's: a link
// in an image can lead nowhere else, whatever it says. Every mount target is opened through confine and the mount put on
// that descriptor. The child looks nothing up but its working directory and its program; it is forked early, since only it can make
// the mounts that belong to its pid and cgroup namespaces, and the kernel lists mounts by their age.
//
// The mounts are in no other process's namespace and have no other holder than the container, so they end with it; when a
// step fails the thread and the child end, and nothing is left but a cgroup, which is removed, and mount points that were
// made in the container's own files.
//
// With hooks that must run before pivot_root, it is the child that does that (or the runtime, see joined.go), once they have run; the
// targets are opened below the root's own descriptor in any case, so what an image says leads nowhere else then either.
//
// A container with a user namespace takes the same way, with two more processes: see userns.go.
//
// A mount namespace that is joined becomes the container's, as if it were new (docs/decisions/0026): what is the host's is copied before it
// is entered, and the child takes its root last, so that a start that fails leaves it to the others in it as it was.
//
// Where this process is itself in a user namespace, be it an ordinary user's or an engine's, some things are done otherwise: see
// rootless.go.
//
// # What holds between fork and execve
//
// The child is a copy of its parent and must show nothing of it. The parent is made not dumpable first, which the child
// inherits and loses by execve. All descriptors but 0, 1, 2 and those asked for are closed, by range, before the working
// directory is entered, and the directory must be inside the root (CVE-2024-21626). Files of /proc that the runtime
// writes belong to a procfs that is verified to be one (CVE-2025-52881). What masks a file is verified to be the null
// device (CVE-2025-31133), and a terminal is opened through its own master (CVE-2025-52565).
//
// # What is refused
//
// A field of the spec that is not honoured is an error that wraps errdefs.ErrNotImplemented, never silence; see check, and
// fields_test.go for what becomes of each.
//
// # How a process is executed in a container
//
// Others in its pid namespace see it from its first moment on, and some may trace it. So a first child, outside, does all that
// needs the host's descriptors and rights, gives them up, and makes the second child that is seen: see linux.Program.
//
//	caller's thread            first child, outside            second child, inside
//	join net, ipc, uts, mnt
//	open terminal, passwd
//	fork ────────────────────▶ cgroup, cgroup and time
//	                           namespace, stdio, /proc/self
//	                           close everything, limits,
//	                           user, capabilities
//	                           fork ──────────────────────────▶ session, terminal
//	read the report ◀────────────────────────────────────────── execve
//
// So is the first process of a container that joins a pid namespace: see joined.go.
//
// Who waits for the process, and reaps it, is the caller.
package ocirun
