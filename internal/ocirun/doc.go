// Package ocirun makes containers: it turns an OCI spec (runtime-spec 1.3) into a process. It keeps no daemon, writes no
// state of its own, and owns nothing after the process runs: its caller reaps it.
//
// # How a container is made
//
//	caller's process                                     child
//	  make /dev, /dev/pts, tmpfs, binds, masks as
//	  mounts that stand nowhere
//	  compile everything below to a linux.Program
//	  clone3(new namespaces) ──────────────────────────▶ join cgroup, shared namespaces
//	                                                     root := the detached mount, moved in
//	                                                     each mount: open target inside the root, move the mount on it
//	                                                     proc, sysfs, mqueue, cgroup (they belong to the new namespaces)
//	                                                     sysctl, masked and read-only paths
//	                                                     pivot_root, detach the host's tree
//	                                                     rlimits, stdio, terminal, close everything else
//	                                                     user, capabilities, no_new_privs, seccomp
//	  report pipe closes ◀───────────────────────────────  execve
//
// The child never runs Go: see package linux. Whatever can fail with an explanation is done by the caller's process; the
// child's steps have names, and an error tells the step and the kernel's reason.
//
// # What keeps a hostile image out
//
// The root file system is the image's, so every path in it is opened by openat2 with RESOLVE_IN_ROOT and
// RESOLVE_NO_MAGICLINKS, to a descriptor; mounts are moved onto that descriptor, never onto a path (CVE-2021-30465,
// CVE-2025-31133, CVE-2025-52565). /dev/null for masks is the host's, and checked. All other descriptors are closed before
// the working directory is entered (CVE-2024-21626). The child is not dumpable from its first instruction on, so no
// process of the container can look into it (CVE-2016-9962).
//
// # What is refused
//
// Fields of the spec that this version does not carry out are errors, not silence: see check.
package ocirun
