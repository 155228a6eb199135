// Package cgroup limits, counts, freezes and kills the processes of a container through the kernel's control groups,
// version 1 and 2 (kernel: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst), from the resources of an OCI spec.
//
// # A group's life
//
//	Create ── the directories exist, every limit is set ──▶ a process joins ──▶ Update, Stats, Freeze, KillAll ──▶ Delete
//	   │
//	   └── anything fails: nothing is left
//
// Create is called before the first process exists, so a process never runs outside its limits. There is no daemon
// state: a Group is a path, and Open gives one for a path made earlier, by whatever process.
//
// # Paths
//
// A path is absolute ("/berth/<id>") and counts from the root of each hierarchy as it is mounted here, as Docker's
// and runc's do: not from the group the caller itself is in. A caller that sits in a limited group itself (a daemon
// under a supervisor that limits it) therefore does not hand its limits on to its containers; who wants that gives
// the group's path as the parent. In a container without a cgroup namespace the mount shows only the container's
// own part, so that the same rule keeps groups inside it. Missing parents are made, and stay.
//
// # Version 1 and hybrid
//
// Every v1 hierarchy mounted below /sys/fs/cgroup gets the group's directory, including named ones ("name=systemd")
// and those with two controllers ("cpu,cpuacct"); which there are is read from /proc/self/mountinfo. On a hybrid
// host a controller that is bound to the v2 hierarchy beside them (hugetlb, say) is used there, and a
// group gets a directory there only when its resources ask for such a controller.
//
// A process joins by writing "0" to the files of ProcsFiles. On v1 these are the files named tasks, not
// cgroup.procs: they move the calling thread alone, which is the same thing for a process that was just forked, and
// only for a single thread that moves itself the kernel leaves out the lock that stops all forking, whose
// first taker waits for an RCU grace period (measured: 0.1 ms instead of 4.7 ms for nine hierarchies).
//
// A new v1 cpuset has no processors and no memory nodes. Parents that this package makes carry
// cgroup.clone_children, so that the kernel fills new groups from them; where they are empty all the same, they are
// copied from the nearest ancestor.
//
// # Version 2
//
// A group has a controller when every directory above it lists the controller in cgroup.subtree_control. Create
// writes what is missing, from the root down, and moves nobody: a group that has processes of its own cannot hand
// controllers down ("no internal processes"), and the error says which. DirFile is for clone3's CLONE_INTO_CGROUP;
// ProcsFiles works too, and is slower.
//
// Old units are translated where v2 has others:
//
//	cpu.shares 2…262144      → cpu.weight 1…10000   10^((l² + 125·l)/612 − 7/34), l = log2(shares): 1024 is 100
//	blkio.weight 10…1000     → io.bfq.weight as it is, or io.weight 1 + (w−10)·9999/990
//	memory+swap limit        → memory.swap.max = memory+swap − memory
//	reservation              → memory.low
//
// # What is not there
//
// Where a kernel cannot do what was asked and Docker drops it with a warning, so does this package, in Docker's words;
// Supports and Adapt tell before a container is made. Everything else that cannot be set is an error, as is a device that is
// not there; and all of it is for Strict, with which an OCI runtime's limits are made.
//
// # Devices
//
// A rule list is read from its beginning; the last rule that fits decides, for each of read, write and mknod by
// itself. Before the first rule everything is forbidden: a list is always an allowlist, and an empty one at Create
// is DefaultDevices. On v1 the list becomes devices.allow and devices.deny entries, and a list whose meaning v1
// cannot express is an error, never something looser. On v2 it becomes a program (see bpf.go). Update with an empty
// list leaves devices alone.
//
// # systemd
//
// Where systemd is to make the group (StartScope), its limits are told it as properties of a transient scope, and are written, too.
//
// # Events
//
// Waiting is by the kernel's own events: cgroup.events, pidfd, eventfd, inotify. The exception is v1's freezer,
// which reports nothing: Freeze looks again after giving up the processor and then at growing intervals, as long as
// its context allows.
//
// The package moves no process and touches no group it was not given the path of, except for parents as said above.
package cgroup
