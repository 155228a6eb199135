package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/berth-engine/berth/internal/tty"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// DefaultHost is where the daemon of this machine listens.
const DefaultHost = "unix:///run/berth/berth.sock"

// IO is what a command line touches of the process it runs in.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
	Env      []string // as os.Environ gives it

	// Host is the server where nobody names one, "" is DefaultHost; Daemon is the program that is started for it, "" is
	// the berthd beside this program; LogDir takes what it says, "" is /var/log.
	Host, Daemon, LogDir string
}

// Build says which program this is.
type Build struct {
	Version, Commit, Time string
}

// app is one run of the command line.
type app struct {
	IO
	build Build
	env   map[string]string
	args  []string

	global globalFlags
	api    *client.Client // connected on first use by (*app).client
	config *configFile    // read on first use by (*app).configFile
}

type globalFlags struct {
	hosts                  []string
	configDir, context     string
	debug                  bool
	logLevel               string
	tls, tlsVerify         bool
	tlsCA, tlsCert, tlsKey string
	version                bool
	tlsSet                 bool
}

// exitError ends the program with a status. Text is all that is printed, "" prints nothing.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

// Main runs one command line, args without the program's own name, and returns its exit status. Cancelling ctx gives
// up requests under way; what the server was already told is not taken back.
func Main(ctx context.Context, streams IO, build Build, args []string) int {
	a := &app{IO: streams, build: build, args: args, env: make(map[string]string, len(streams.Env))}
	for _, kv := range streams.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			a.env[k] = v
		}
	}
	root := newRoot(a, args)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if a.api != nil {
		a.api.Close()
	}
	if err == nil {
		return 0
	}
	var exit *exitError
	if errors.As(err, &exit) {
		if exit.text != "" {
			fmt.Fprintln(a.Err, exit.text)
		}
		return exit.code
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return 130 // as a shell reports SIGINT
	}
	for _, line := range allErrors(err) {
		fmt.Fprintln(a.Err, plainError(line))
	}
	return 1
}

// lookup is os.LookupEnv on the environment the command line was given.
func (a *app) lookup(name string) (string, bool) {
	v, ok := a.env[name]
	return v, ok
}

// terminal returns the descriptor of a stream that is a terminal.
func terminal(stream any) (fd int, ok bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return -1, false
	}
	fd = int(f.Fd())
	return fd, tty.IsTerminal(fd)
}

// width is the number of columns of standard output's terminal, or 0.
func (a *app) width() int {
	if fd, ok := terminal(a.Out); ok {
		if _, cols, err := tty.Size(fd); err == nil {
			return int(cols)
		}
	}
	return 0
}

// warn prints what a person should know although the command goes on.
func (a *app) warn(format string, args ...any) {
	switch a.global.logLevel {
	case "error", "fatal":
	default:
		fmt.Fprintf(a.Err, format+"\n", args...)
	}
}

// command is cobra's command with Docker's manners: no sorting out of errors and usage by cobra, and a run function
// that needs no more than the context and the arguments.
func command(use, short string, args cobra.PositionalArgs, run func(context.Context, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args, DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error { return run(cmd.Context(), args) },
	}
}

// allErrors takes joined errors apart.
func allErrors(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return many.Unwrap()
	}
	return []error{err}
}
