// A life this short needs no second look at the CPUs its cgroup allows: that costs an open file and a goroutine.
//go:debug updatemaxprocs=0
//go:debug containermaxprocs=0

// Command berth-runtime is the small program at a container's side, in two roles:
//
//	berth-runtime monitor …          the parent of a container, started by berthd (package monitor)
//	berth-runtime [flags] VERB …     the OCI runtime command, with runc's command line (package ocirun)
//
// The third role, the first steps of a container's process, needs no program: a Program of package linux runs them.
//
// It starts with every container, so nothing heavy is linked into it.
//
// # The OCI runtime command
//
// A container is a directory below --root, which lies on a tmpfs:
//
//	ROOT/ID/state.json   what it is (ocirun.State)
//	ROOT/ID/start        a FIFO: the created process waits until "start" writes a byte to it
//	ROOT/ID/report       why a process could not become its program after "start"
//	ROOT/@filters        compiled seccomp filters (ocirun.CompileFilter)
//	ROOT/ID/cgroup       a link whose text is the name of the group made for it; "cgroup.making" before it is known to be its own
//	ROOT/ID/rdt          a link whose text is the class of the Intel RDT made for it; "rdt.group" the group that counts
//	ROOT/ID/unit         a link whose text is the name of systemd's unit, where systemd made the group
//
// An ordinary user's command is executed again in the user namespace of his container: see rootless.go. His --root is below
// XDG_RUNTIME_DIR.
//
// The directory is made first, exclusively, and so names the container; a "create" that fails removes it. One that is killed
// leaves it, and "delete --force" then ends what is in the group.
package main

import (
	"os"

	"github.com/berth-engine/berth/internal/monitor"
)

// Set by the linker: go build -ldflags "-X main.version=…".
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "monitor" {
		os.Exit(monitor.Main(os.Args[2:]))
	}
	if len(os.Args) == 2 && os.Args[1] == keepVerb {
		os.Exit(keep())
	}
	os.Exit(command(os.Args[1:]))
}
