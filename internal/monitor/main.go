package monitor

import (
	"context"
	"os"
	"strconv"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/logfile"
	"github.com/berth-engine/berth/internal/ocirun"
	"golang.org/x/sys/unix"
)

// Words after "monitor" on the command line. Without one it is a spare, with its socket as descriptor 3.
const (
	verbWatch    = "watch"    // ID FD: goes on with what is described in descriptor FD
	verbCompress = "compress" // PATH: compresses what is rotated of a log, and ends
)

// socketFd is where a spare finds its socket.
const socketFd = 3

// backend is what a monitor starts processes with.
type backend struct {
	start func(context.Context, ocirun.StartOptions) (*ocirun.Process, error)
	exec  func(context.Context, ocirun.ExecOptions) (*ocirun.Process, error)
	exe   string // this program, for becoming small

	slimAfter time.Duration
}

func realBackend() backend {
	return backend{start: ocirun.Start, exec: ocirun.Exec, exe: "/proc/self/exe", slimAfter: slimAfter}
}

// Main is the process side: what "berth-runtime monitor ARGS…" does. It returns the exit code of the process.
func Main(args []string) int { return run(args, realBackend()) }

func run(args []string, rt backend) int {
	setName("berth-monitor")
	linux.Calm()
	switch {
	case len(args) == 0:
		return spare(rt)
	case len(args) == 3 && args[0] == verbWatch:
		fd, err := strconv.Atoi(args[2])
		if err != nil {
			break
		}
		m, err := resume(fd, rt)
		if err != nil {
			return fail(err)
		}
		return m.run()
	case len(args) == 2 && args[0] == verbCompress:
		// It shall disturb nobody. If it does anyway, that is all there is to lose.
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
		if err := logfile.Compress(args[1]); err != nil {
			return fail(err)
		}
		return 0
	}
	os.Stderr.WriteString("berth-runtime monitor: started by berthd, not by hand\n")
	return 2
}

func fail(err error) int {
	os.Stderr.WriteString("berth-runtime monitor: " + err.Error() + "\n")
	return 1
}

// setName is what ps shows; the file that was executed has no name worth showing.
func setName(name string) {
	b, err := unix.BytePtrFromString(name)
	if err == nil {
		_ = unix.Prctl(unix.PR_SET_NAME, ptr(b), 0, 0, 0)
	}
}
