// Command berth-runtime is the small program at a container's side, in two roles:
//
//	berth-runtime monitor …          the parent of a container, started by berthd (package monitor)
//	berth-runtime [flags] VERB …     the OCI runtime command, with runc's command line (package ocirun)
//
// The third role, the first steps of a container's process, needs no program: a Program of package linux runs them.
//
// It starts with every container, so nothing heavy is linked into it.
package main

import (
	"os"

	"github.com/berth-engine/berth/internal/monitor"
)

// version is set by the linker.
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "monitor" {
		os.Exit(monitor.Main(os.Args[2:]))
	}
	os.Exit(runtimeCommand(os.Args[1:]))
}
