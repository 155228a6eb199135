// Command berthd is the daemon of Berth: it runs containers and serves the Docker Engine API on a socket. Everything it
// does is wired in package daemon; see there for its settings, signals and sockets.
package main

import (
	"os"

	"github.com/berth-engine/berth/internal/daemon"
	"github.com/berth-engine/berth/internal/linux"
)

// Set by the linker: go build -ldflags "-X main.version=…".
var version, commit, buildTime = "dev", "", ""

func main() {
	linux.Calm()
	build := daemon.Build{Version: version, Commit: commit, Time: buildTime}
	os.Exit(daemon.Main(os.Args[1:], build, os.Stdout, os.Stderr))
}
