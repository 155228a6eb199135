// Package criu asks the program criu to save the processes of a container to files and to bring them back. It owns the dialogue with
// that program and knows nothing of containers; which program it is, PATH says.
//
// # The dialogue
//
// "criu swrk N" is a worker that serves who started it over a socket that keeps messages apart, its descriptor N:
//
//	we                                                criu
//	start it, with descriptors for what is inherited
//	request (kind, options) ────────────────────────▶
//	                        ◀──────────────────────── notify (a point it has reached, pid) [+ descriptor]
//	notify (yes or no) ─────────────────────────────▶ …any number of times
//	                        ◀──────────────────────── response (success, pid | what is wrong)
//	wait for its end
//
// Each message is one of the protocol buffers of criu's rpc.proto. They are written and read here, field by field: there are four kinds
// of value in them, and the library for protocol buffers would be half as large as berth-runtime is.
//
// Descriptors in options are numbers of this process, which criu opens through /proc, but for those that are inherited: see Inherit.
//
// # What is refused
//
// An answer that is no answer is an error and nothing worse; see FuzzResponse. What criu says went wrong is taken from its log, where
// it says it in words, and quoted.
package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
)

// Kind is what criu is asked for.
type Kind int

// The kinds of requests (criu_req_type).
const (
	Dump     Kind = 1
	Restore  Kind = 2
	PreDump  Kind = 4
	notify   Kind = 6
	Features Kind = 9
	Version  Kind = 10
)

// CgroupMode says what criu does about control groups (criu_cg_mode).
type CgroupMode int

// Modes of --manage-cgroups-mode.
const (
	CgroupIgnore CgroupMode = 0
	CgroupSoft   CgroupMode = 3
	CgroupFull   CgroupMode = 4
	CgroupStrict CgroupMode = 5
)

// ParseCgroupMode reads the mode's name; "" is soft.
func ParseCgroupMode(name string) (CgroupMode, error) {
	switch name {
	case "", "soft":
		return CgroupSoft, nil
	case "full":
		return CgroupFull, nil
	case "strict":
		return CgroupStrict, nil
	case "ignore":
		return CgroupIgnore, nil
	}
	return 0, fmt.Errorf("%q is none of the modes soft, full, strict and ignore: %w", name, errdefs.ErrInvalidArgument)
}

// program finds one in PATH or in these directories, else it is "".
func program(name string, dirs []string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Pair is a name and what it stands for.
type Pair struct{ Key, Value string }

// Inherit hands criu a file that takes the place of one the processes had, named as criu does: "pipe:[123]".
type Inherit struct {
	Key  string
	File *os.File
}

// PageServer is where pages are sent to, or fetched from.
type PageServer struct {
	Address string
	Port    int
}

// Options of a request: criu_opts, as far as they are used here. Zero values are not sent.
type Options struct {
	ImagesDir, WorkDir *os.File
	Pid                int
	Root               string
	ParentImage        string
	LogFile            string // in WorkDir, or ImagesDir

	LeaveRunning, TCPEstablished, TCPSkipInFlight, ExtUnixSk, ShellJob, FileLocks bool
	TrackMem, AutoDedup, LazyPages, OrphanPtsMaster, EvasiveDevices, LinkRemap    bool
	RestoreSibling, NotifyScripts                                                 bool

	CgroupMode  CgroupMode
	CgroupRoots []Pair // controllers and the group that stands for the dumped processes' root
	FreezeGroup string

	EmptyNamespaces uint32 // CLONE_NEW… flags
	External        []string
	ExternalMounts  []Pair // of a dump: mount point and name; of a restore: name and path
	JoinNamespaces  []Pair // kind and file
	Inherit         []Inherit
	PageServer      *PageServer
	StatusFd        int // 0 for none
	LSMProfile      string
	LSMMountContext string
	// LockWithNftables keeps packets from connections that are saved without the program iptables-restore, which is asked otherwise.
	LockWithNftables bool
}

// Response is criu's answer.
type Response struct {
	Success  bool
	Pid      int // of Restore
	Restored bool
	MemTrack bool // of Features: changes of memory can be tracked
	Lazy     bool // likewise: pages can be restored when they are needed
	Major    int  // of Version
	Minor    int

	kind         Kind
	script       string
	errno        int
	errorMessage string
}

// Find finds the program: in PATH, or where administrators' programs are, which are not in everybody's PATH.
func Find() (string, error) { return find(administrators()...) }

func administrators() []string { return []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} }

// HasIptables says whether criu finds iptables-restore.
func HasIptables() bool { return program("iptables-restore", nil) != "" }

func find(dirs ...string) (string, error) {
	if name := program("criu", dirs); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("checkpoint and restore need the program criu, which is not installed (Debian: apt-get install criu): %w",
		errdefs.ErrNotImplemented)
}

// Conversation is what is asked of one criu.
type Conversation struct {
	Program string
	// Stdio are criu's own; nil is /dev/null.
	Stdin, Stdout, Stderr *os.File
	// Started is called when criu has started and before it is asked; nil for none. Its namespaces are those of the calling thread.
	Started func(pid int) error
	// Notified is called at the points that criu tells of when Options.NotifyScripts is set, with the process that is dumped or
	// restored and a file that came along, or nil, which the callee closes. An error ends the request.
	Notified func(point string, pid int, file *os.File) error
}

// Ask starts criu from the calling thread, asks it for one thing and waits for its end. Cancelling ctx kills it.
func (c *Conversation) Ask(ctx context.Context, kind Kind, o *Options) (*Response, error) {
	ours, theirs, err := linux.BlockingPair()
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	const socket = 3
	cmd := exec.CommandContext(ctx, c.Program, "swrk", fmt.Sprint(socket))
	cmd.ExtraFiles = []*os.File{theirs}
	for _, in := range o.inherited() {
		cmd.ExtraFiles = append(cmd.ExtraFiles, in.File)
	}
	// A nil *os.File in an interface is not nil.
	for _, f := range []struct {
		from *os.File
		to   func(*os.File)
	}{{c.Stdin, func(f *os.File) { cmd.Stdin = f }}, {c.Stdout, func(f *os.File) { cmd.Stdout = f }},
		{c.Stderr, func(f *os.File) { cmd.Stderr = f }}} {
		if f.from != nil {
			f.to(f.from)
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start criu: %w", err), theirs.Close())
	}
	err = theirs.Close()
	if err == nil && c.Started != nil {
		err = c.Started(cmd.Process.Pid)
	}
	var r *Response
	if err == nil {
		r, err = c.converse(ours, kind, o)
	}
	if err != nil {
		_ = ours.Close() // it hears the end of the socket, undoes what it has done and ends
	}
	// A worker that is done waits for the next request, until nobody is there to send one.
	closeErr := ours.Close()
	if errors.Is(closeErr, os.ErrClosed) {
		closeErr = nil
	}
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if err == nil && r == nil && waitErr != nil {
		err = fmt.Errorf("criu: %w", waitErr)
	}
	return r, errors.Join(err, closeErr)
}

func (c *Conversation) converse(conn *os.File, kind Kind, o *Options) (*Response, error) {
	if _, err := linux.SendMsg(conn, request(kind, o, false)); err != nil {
		return nil, fmt.Errorf("ask criu: %w", err)
	}
	const most = 64 << 10
	buf := make([]byte, most)
	for {
		n, files, err := linux.RecvMsg(conn, buf, 1)
		if err != nil {
			return nil, fmt.Errorf("hear from criu: %w", err)
		}
		var file *os.File
		if len(files) > 0 {
			file = files[0]
		}
		if n == 0 {
			closeFile(file)
			return nil, errEnded
		}
		r, err := parseResponse(buf[:n])
		if err != nil {
			closeFile(file)
			return nil, err
		}
		if r.kind != notify {
			closeFile(file)
			if r.kind != kind {
				return nil, fmt.Errorf("criu answers another question: %d, not %d", r.kind, kind)
			}
			return r, nil
		}
		if c.Notified == nil {
			closeFile(file)
		} else if err := c.Notified(r.script, r.Pid, file); err != nil {
			_, sendErr := linux.SendMsg(conn, request(notify, nil, false))
			return nil, errors.Join(err, sendErr)
		}
		if _, err := linux.SendMsg(conn, request(notify, nil, true)); err != nil {
			return nil, fmt.Errorf("answer criu: %w", err)
		}
	}
}

var errEnded = errors.New("criu has ended without an answer")

func closeFile(f *os.File) {
	if f != nil {
		_ = f.Close()
	}
}

// Explain makes an error of an answer that is no success, or of a conversation that failed, with what the log has to say.
func Explain(what string, r *Response, err error, logFile string) error {
	if err != nil && !errors.Is(err, errEnded) {
		return err
	}
	if err == nil && r.Success {
		return nil
	}
	said := ""
	if r != nil {
		said = r.errorMessage
	}
	if line := lastErrors(logFile); line != "" {
		said = line
	}
	if said == "" && r != nil && r.errno != 0 {
		said = fmt.Sprintf("error %d", r.errno)
	}
	if said == "" {
		said = "it does not say why"
	}
	return fmt.Errorf("criu cannot %s: %s (see %s): %w", what, said, logFile, errdefs.ErrInternal)
}

// lastErrors are the last lines of a log of criu's that tell of an error, "(00.004142) Error (criu/tty.c:1867): tty: …", but for those
// that only say that it has failed. The first ones may be of what criu found missing and did without.
func lastErrors(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 3
	var said []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		_, after, found := strings.Cut(lines.Text(), "Error (")
		_, text, complete := strings.Cut(after, "): ")
		if text = strings.TrimSpace(text); !found || !complete || text == "" || strings.HasSuffix(text, "FAILED.") {
			continue
		}
		if said = append(said, text); len(said) > most {
			said = said[1:]
		}
	}
	return strings.Join(said, "; ")
}
