package monitor

import (
	"os"
	"time"

	"github.com/berth-engine/berth/internal/ocirun"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Version is the version of the dialogue and of the document.
const Version = 1

// InitAnnotation is set to "true" in a spec whose program shall run below an init: a first process that passes
// signals on and reaps what nobody else does.
const InitAnnotation = "dev.berth.init"

// Config is the document a container is started from.
type Config struct {
	Version    int    // set by Start
	ID         string // of the container
	Dir        string // run directory: socket, exit record
	Spec       *specs.Spec
	CgroupPath string
	Seccomp    []byte // compiled filter

	Terminal   bool
	OpenStdin  bool // without it, the container's input is empty
	StdinOnce  bool // the input ends with the input of the first client
	Rows, Cols uint16

	Log LogConfig
	// Note is kept for later daemons and means nothing to the monitor; at most 16 KiB.
	Note []byte
}

// LogConfig says where output goes.
type LogConfig struct {
	Driver   string // "json-file" or "none"
	Path     string
	MaxSize  int64  // of each file, in bytes; 0: unlimited
	MaxFile  int    // how many files; 0: logfile.DefaultMaxFile
	Compress bool   // rotated files
	Attrs    []byte // a JSON object that every entry carries; nil for none
}

// Files are handed to the container. They stay the caller's.
type Files struct {
	Rootfs     *os.File // a mount that stands nowhere; nil: Spec.Root.Path
	Namespaces map[specs.LinuxNamespaceType]*os.File
	// Trees are mounts that stand nowhere, by the destination of the bind that each is for, instead of its source.
	Trees map[string]*os.File
}

// AttachOptions say what passes over an attached stream.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
	Mux                   bool // Docker's frames; otherwise bytes as they are, as always with a terminal that has no Exit
	// Exit adds a last frame with the exit code, ExitFrame, to what an exec prints. Only monitors whose Started says so know it.
	Exit       bool
	DetachKeys []byte // end the attachment when typed, on terminals; empty: nothing does
	Rows, Cols uint16 // size to give the terminal; 0: leave it
}

// ExitFrame is the kind of the frame that AttachOptions.Exit adds. Docker's own end at 3. It carries the exit code, four bytes in big
// endian, and nothing follows it.
const ExitFrame = 4

// AttachStream is a client that is attached from the first byte on.
type AttachStream struct {
	Conn    *os.File // a connected stream socket
	Options AttachOptions
}

// Started describes a running container.
type Started struct {
	Pid        int
	StartedAt  time.Time
	MonitorPid int
	Warnings   []string
	Note       []byte
	TellsExit  bool // AttachOptions.Exit is known
}

// StartError says why a container or an exec did not start.
type StartError struct {
	Code    int // Docker's exit code: 127 not found, 126 cannot be run, 125 anything else
	Message string
}

func (e *StartError) Error() string { return e.Message }

// Exit is how a process ended.
type Exit struct {
	Code       int // 128+signal for one that was killed
	Signal     int
	OOMKilled  bool
	OOMKills   uint64 // in the whole container since its start
	FinishedAt time.Time
	Error      string // what went wrong in clearing up
}

// EventKind says what happened.
type EventKind string

// The kinds of events.
const (
	EventExit     EventKind = "exit"      // the container has ended
	EventExecExit EventKind = "exec-exit" // an exec has
	EventOOM      EventKind = "oom"       // the kernel killed a process for want of memory
	EventDetach   EventKind = "detach"    // a client typed its detach keys
)

// Event is something that happened to a container.
type Event struct {
	Kind   EventKind
	ExecID string // "" for the container's own
	Exit   Exit   // of exit and exec-exit; of oom: OOMKills
}

// ExecConfig describes a further process of a container.
type ExecConfig struct {
	ID         string
	Process    *specs.Process
	Terminal   bool
	OpenStdin  bool
	Rows, Cols uint16

	Seccomp      []byte // compiled filter
	SeccompFlags uint32 // those of seccomp(2)
	// Listener is who a filter that notifies asks; nil for one that does not. Of its State only the annotations are looked at.
	Listener *ocirun.Listener
}

// ExecStarted describes a running exec.
type ExecStarted struct {
	Pid int
}

// document is what a start message holds.
type document struct {
	Config
	Files   []string // names of the descriptors, in their order
	Streams []AttachOptions
}

// Names of descriptors in a document. A namespace is nameNamespace and its type, a tree nameTree and its destination.
const (
	nameRootfs    = "rootfs"
	nameNamespace = "namespace:"
	nameTree      = "tree:"
	nameStream    = "stream"
)

// Files in the run directory.
const (
	socketName = "monitor.sock"
	recordName = "exit.json"
	errorsName = "monitor.err" // what nobody waits to hear; gone at the end if it is empty
)
