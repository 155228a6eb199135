package engine

import (
	"context"
	"net"
	"time"

	"github.com/berth-engine/berth/internal/container"
)

// CreateOptions describes a new container. Config is as the user gave it: Create merges the image's defaults into it.
type CreateOptions struct {
	Name     string // "" makes one up
	Config   container.Config
	Platform string // "os/arch[/variant]"; "" is the host's
}

// CreateResult is what came of it.
type CreateResult struct {
	ID       string
	Warnings []string
}

// StartOptions change one start.
type StartOptions struct {
	DetachKeys string
}

// StopOptions say how to end a container.
type StopOptions struct {
	Signal  string // "" is the container's own stop signal
	Timeout *int   // seconds until it is killed; negative waits for ever, nil is the container's or 10
}

// RemoveOptions say what a removal may do.
type RemoveOptions struct {
	Force   bool // kill it when it runs
	Volumes bool // remove its anonymous volumes too
}

// UpdateOptions are live changes; nil leaves things as they are. Of Limits, the fields that are not zero change.
type UpdateOptions struct {
	Limits  *container.Limits
	Restart *container.Restart
}

// AttachOptions select what an attached client gets.
type AttachOptions struct {
	Stream                bool // live streams; without it only Logs
	Stdin, Stdout, Stderr bool
	Logs                  bool // what was written before comes first
	DetachKeys            string
}

// Opener turns the caller's request into a raw connection, after every check has passed: it is called at most once, and
// from then on the engine owns the connection. The bytes are input that was already read from it.
type Opener func() (net.Conn, []byte, error)

// ExecConfig describes a further process in a running container.
type ExecConfig struct {
	Argv                                    []string
	Env                                     []string
	User                                    string // "" is the container's
	WorkingDir                              string // "" is the container's
	Tty, Privileged                         bool
	AttachStdin, AttachStdout, AttachStderr bool
	DetachKeys                              string
	Rows, Cols                              uint
}

// ExecStartOptions say how to run it.
type ExecStartOptions struct {
	Detach, Tty bool
	Rows, Cols  uint
	// TellExit ends the stream with a frame that holds the exit code (monitor.ExitFrame), and has output in frames with a terminal
	// too. Only what Execs.TellsExit is true of can do that.
	TellExit bool
}

// ExecRecord is what is known of an exec.
type ExecRecord struct {
	ID, ContainerID string
	Config          ExecConfig
	Running         bool
	ExitCode        *int // nil until it ended
	Pid             int
	CanRemove       bool
}

// PruneReport is what a prune removed.
type PruneReport struct {
	Deleted   []string
	Reclaimed int64 // bytes
}

// Deadlines of work that must end although nobody waits for it.
const (
	undoTime    = 10 * time.Second
	defaultStop = 10 // seconds, Docker's
)

// undoContext is for giving back what an operation took: it ends on its own, not with the caller.
func undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTime)
}
