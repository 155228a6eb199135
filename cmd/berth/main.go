// A life this short needs no second look at the CPUs its cgroup allows: that costs an open file and a goroutine.
//go:debug updatemaxprocs=0
//go:debug containermaxprocs=0

// Command berth is the command line of Berth. It holds nothing but the wiring: what it does is in internal/cli.
package main

import (
	"context"
	"os"

	"github.com/berth-engine/berth/internal/cli"
	"github.com/berth-engine/berth/internal/linux"
)

// Set by the linker: go build -ldflags "-X main.version=…".
var version, commit, buildTime = "dev", "", ""

func main() {
	linux.Calm()
	os.Exit(cli.Main(context.Background(),
		cli.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Environ()},
		cli.Build{Version: version, Commit: commit, Time: buildTime},
		os.Args[1:]))
}
