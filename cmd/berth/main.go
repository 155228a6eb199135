// A life this short needs no look at the CPUs its cgroup allows, at its start or later: that reads three files and costs a goroutine.
//go:debug updatemaxprocs=0
//go:debug containermaxprocs=0

// Command berth is the command line of Berth. It holds nothing but the wiring: what it does is in internal/cli.
package main

import (
	"context"
	"os"

	"github.com/berth-engine/berth/internal/cli"
)

// Set by the linker: go build -ldflags "-X main.version=…".
var version, commit, buildTime = "dev", "", ""

func main() {
	os.Exit(cli.Main(context.Background(),
		cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ()},
		cli.Build{Version: version, Commit: commit, Time: buildTime},
		os.Args[1:]))
}
