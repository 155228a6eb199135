// Package engine is Berth as a Go library. It opens the rooms (images, containers, networks, volumes), and runs the
// flows that cross them: create, start, exec, attach, stop, remove, and taking containers back after a restart.
//
// A room decides, the engine acts: container.Step says what follows from a fact, and the engine starts monitors, makes
// mounts, attaches networks and publishes events accordingly.
//
// # The start of a container
//
//	Create   image.Resolve → merge the image's defaults → reserve name → claim volumes → layer directories → record
//	Start    detached overlay mount → user, groups, files under /etc → network namespace from the pool → OCI spec
//	         → monitor.Start (one message; returns when execve has succeeded) → record "running", event "start"
//	exit     monitor writes the exit record and tells → record "exited", event "die" → network, ports given back
//
// No mount of a container ever stands in the host's mount namespace: the overlay is made detached, its file descriptor
// goes to the monitor, and only the container's own namespace holds it. What a crash leaves behind is therefore files,
// and Open sweeps those.
//
// # Locks
//
// Each container has one operation slot (see live), taken by start, stop, restart, remove, rename and update, with the
// caller's context. Facts from the monitor (exit, out of memory) take no slot: they go through container.Apply, which is
// atomic, so an exit is never held up by an operation.
package engine
