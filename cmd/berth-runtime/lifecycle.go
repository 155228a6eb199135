package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// start lets the process of a created container go on, and tells when it cannot become its program.
func start(c *cli, args []string) error {
	id, err := newFlags("berth-runtime start", "ID").id(args, 1)
	if err != nil {
		return err
	}
	st, dir, err := c.load(id)
	if err != nil {
		return err
	}
	switch s := status(st); s {
	case specs.StateCreated:
	case specs.StateRunning:
		return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrFailedPrecondition)
	case specs.StateStopped:
		return fmt.Errorf("cannot start a container that has stopped: %w", errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("cannot start a container in the %s state: %w", s, errdefs.ErrFailedPrecondition)
	}
	fifo := filepath.Join(dir, startFile)
	fd, err := unix.Open(fifo, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == unix.ENXIO {
		return fmt.Errorf("cannot start a container that has stopped: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("cannot start container %q: %w", id, err)
	}
	defer unix.Close(fd)
	var at unix.Stat_t
	if err := unix.Fstat(fd, &at); err != nil || at.Mode&unix.S_IFMT != unix.S_IFIFO { // of anything else nobody's end could be waited for
		return fmt.Errorf("cannot start container %q: its file %q is damaged: it is no FIFO; delete --force removes the container", id, fifo)
	}
	// Nobody else can start it from here on.
	if err := os.Remove(fifo); err != nil {
		return fmt.Errorf("container %q is being started already: %w", id, err)
	}
	if err := ocirun.StartHooks(context.Background(), st); err != nil {
		return errors.Join(err, end(st))
	}
	st.Held = false
	if err := ocirun.WriteState(dir, st); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte{0}); err != nil {
		return fmt.Errorf("start container %q: %w", id, err)
	}
	// The process is the only reader; its end of the FIFO closes with execve, or with its death.
	if err := untilNoReader(fd); err != nil {
		return err
	}
	if err := ocirun.ReadReport(filepath.Join(dir, reportFile), st); err != nil {
		return err
	}
	if err := ocirun.Poststart(context.Background(), st); err != nil {
		return errors.Join(err, end(st))
	}
	return nil
}

func untilNoReader(fd int) error {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(fds, -1)
		if err == unix.EINTR {
			continue
		}
		return os.NewSyscallError("poll", err)
	}
}

// status is the container's status, with "paused" as runc has it, whoever paused it: the kernel is asked.
func status(st *ocirun.State) specs.ContainerState {
	s := st.Status()
	if s == specs.StateStopped || st.CgroupPath == "" {
		return s
	}
	if g, err := group(st); err == nil {
		if frozen, err := g.Frozen(); err == nil && frozen {
			return "paused"
		}
	}
	return s
}

// ociState is what state and list show: the specification's state and what runc adds to it.
type ociState struct {
	specs.State
	Pid     int       `json:"pid"` // 0 when it is stopped, and said so
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

func show(st *ocirun.State) ociState {
	s := ociState{State: specs.State{Version: st.OCIVersion, ID: st.ID, Status: status(st), Bundle: st.Bundle,
		Annotations: st.Annotations}, Pid: st.Pid, Rootfs: st.Rootfs, Created: st.Created, Owner: strconv.Itoa(st.Owner)}
	if s.Status == specs.StateStopped {
		s.Pid = 0
	}
	if st.Owner == 0 {
		s.Owner = "root"
	}
	return s
}

func state(c *cli, args []string) error {
	id, err := newFlags("berth-runtime state", "ID").id(args, 1)
	if err != nil {
		return err
	}
	st, _, err := c.load(id)
	if err != nil {
		return err
	}
	return c.printJSON(show(st))
}

func (c *cli) printJSON(v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = c.out.Write(append(data, '\n'))
	return err
}

func kill(c *cli, args []string) error {
	f := newFlags("berth-runtime kill", "[FLAGS] ID [SIGNAL]")
	var all bool
	f.bothBool(&all, "all", "a", "send it to all processes of the container")
	id, err := f.id(args, 2)
	if err != nil {
		return err
	}
	name := "SIGTERM"
	if f.NArg() > 1 {
		name = f.Arg(1)
	}
	sig, err := parseSignal(name)
	if err != nil {
		return err
	}
	st, _, err := c.load(id)
	if err != nil {
		return err
	}
	if all {
		return killAll(st, sig)
	}
	s := status(st)
	if s == specs.StateStopped {
		return fmt.Errorf("container not running: %q is %s: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	pidfd, err := openInit(st)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	if sig == unix.SIGKILL && st.CgroupPath != "" && (s == "paused" || !linux.IsPidNamespaceInit(st.Pid)) {
		// Its end must be the end of all, as it is in a pid namespace of their own; and v1's frozen processes die when they are thawed.
		return killAll(st, sig)
	}
	return linux.PidfdSendSignal(pidfd, sig)
}

// openInit opens the container's first process, and makes sure that it is still the same.
func openInit(st *ocirun.State) (*os.File, error) {
	pidfd, err := linux.PidfdOpen(st.Pid)
	if err == nil && st.Status() != specs.StateStopped {
		return pidfd, nil
	}
	if err == nil {
		_ = pidfd.Close()
	}
	return nil, fmt.Errorf("container not running: %q: %w", st.ID, errdefs.ErrFailedPrecondition)
}

func killAll(st *ocirun.State, sig unix.Signal) error {
	if sig == unix.SIGKILL && st.CgroupPath != "" {
		g, err := group(st)
		if err != nil {
			return err
		}
		return g.KillAll()
	}
	pids, err := pidsOf(st)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// hierarchies are the host's, which do not change in the life of a command; a limit that cannot be kept is an error there.
var hierarchies = sync.OnceValues(func() (*cgroup.Host, error) {
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	return host.Strict(), nil
})

// group is the container's cgroup.
func group(st *ocirun.State) (*cgroup.Group, error) {
	host, err := hierarchies()
	if err != nil {
		return nil, err
	}
	if st.CgroupPath == "" {
		return nil, fmt.Errorf("container %q has no cgroup, which its user may not make: %w", st.ID, errdefs.ErrFailedPrecondition)
	}
	return host.Open(st.CgroupPath), nil
}

// parseSignal reads a signal by its number or name, with or without SIG.
func parseSignal(name string) (unix.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n > 64 { // 0 asks whether there is somebody to send one to
			return 0, invalid("signal %d is not between 0 and 64", n)
		}
		return unix.Signal(n), nil
	}
	long := strings.ToUpper(name)
	if !strings.HasPrefix(long, "SIG") {
		long = "SIG" + long
	}
	if sig := unix.SignalNum(long); sig != 0 {
		return sig, nil
	}
	const rtmin, rtmax = 34, 64 // as the C library counts them
	for prefix, base := range map[string]int{"SIGRTMIN": rtmin, "SIGRTMAX": rtmax} {
		if rest, found := strings.CutPrefix(long, prefix); found {
			n := 0
			if rest != "" {
				var err error
				if n, err = strconv.Atoi(rest); err != nil {
					break
				}
			}
			if n += base; n >= rtmin && n <= rtmax {
				return unix.Signal(n), nil
			}
		}
	}
	return 0, invalid("unknown signal %q", name)
}

// remove deletes a container: the word is taken by Go.
func remove(c *cli, args []string) error {
	f := newFlags("berth-runtime delete", "[FLAGS] ID")
	var force bool
	f.bothBool(&force, "force", "f", "kill the container if it runs; do not complain if it does not exist")
	id, err := f.id(args, 1)
	if err != nil {
		return err
	}
	st, dir, err := c.load(id)
	if err != nil && force {
		// A create that was killed in the middle leaves a directory without a state; and what is damaged is removed as far as it can be.
		if dir, err = c.dir(id); err == nil {
			err = ownDir(dir) // what somebody else left there names no group to be ended
		}
		if err != nil {
			return err
		}
		return removeRemains(dir)
	}
	if err != nil {
		return err
	}
	switch s := status(st); {
	case s == specs.StateStopped:
	case force || s == specs.StateCreated:
		if err := end(st); err != nil {
			return err
		}
	default:
		return fmt.Errorf("cannot delete container %q that is not stopped: %s: %w", id, s, errdefs.ErrFailedPrecondition)
	}
	return c.destroy(st, dir)
}

// removeRemains removes a container of which no state tells: the processes in the group that was made for it, the group, the directory.
func removeRemains(dir string) error {
	host, err := hierarchies()
	if err != nil {
		return err
	}
	var errs []error
	if name, err := os.Readlink(filepath.Join(dir, groupMade)); err == nil {
		g := host.Open(name)
		errs = append(errs, g.KillAll(), stopUnit(dir), endGroup(g))
		g.PruneParents()
	} else if name, err := os.Readlink(filepath.Join(dir, groupMaking)); err == nil {
		// Whether the group was found empty is not known: one that has processes is somebody else's, and stays.
		g := host.Open(name)
		if pids, err := g.Pids(); err == nil && len(pids) == 0 {
			errs = append(errs, g.Delete())
			g.PruneParents()
		}
	} else {
		errs = append(errs, endWaiting(filepath.Join(dir, startFile)))
	}
	if err := errors.Join(append(errs, ocirun.RemoveRdt(dir), stopUnit(dir))...); err != nil {
		return err // the directory knows what is left, so that it can be tried again
	}
	return os.RemoveAll(dir)
}

// endGroup kills what is in a group and removes it. A process that was forked when its parent was killed may be on its way into the
// group still: it is killed when it has come, and one that comes too late ends for want of the group.
func endGroup(g *cgroup.Group) error {
	if err := g.KillAll(); err != nil {
		return err
	}
	deleted := make(chan error, 1)
	go func() { deleted <- g.Delete() }() // which waits for the processes' end
	for {
		select {
		case err := <-deleted:
			return err
		case <-time.After(20 * time.Millisecond):
			if err := g.KillAll(); err != nil {
				return err
			}
		}
	}
}

// end kills the container's first process and waits for its end, which is also the end of all others in its pid namespace.
func end(st *ocirun.State) error {
	pidfd, err := openInit(st)
	if err != nil {
		return nil // ended meanwhile
	}
	defer pidfd.Close()
	if status(st) == "paused" {
		if g, err := group(st); err == nil {
			if err := g.KillAll(); err != nil {
				return err
			}
		}
	}
	if err := linux.PidfdSendSignal(pidfd, unix.SIGKILL); err != nil {
		return nil
	}
	if err := awaitEnd(pidfd, time.Now().Add(10*time.Second)); err != nil {
		return fmt.Errorf("container %q does not end: process %d: %w", st.ID, st.Pid, err)
	}
	return nil
}

// awaitEnd waits until a process has ended.
func awaitEnd(pidfd *os.File, deadline time.Time) error {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}

// destroy removes what is left of a container that has ended.
func (c *cli) destroy(st *ocirun.State, dir string) error {
	if st.CgroupPath == "" {
		return c.destroyIn(st, dir, nil)
	}
	g, err := group(st)
	if err != nil {
		return errors.Join(err, c.destroyIn(st, dir, nil))
	}
	if err := c.destroyIn(st, dir, g); err != nil {
		return err
	}
	// Not by run, whose next start would have to make them again.
	g.PruneParents()
	return nil
}

// destroyIn is destroy of a container whose group is at hand; nil for none.
func (c *cli) destroyIn(st *ocirun.State, dir string, g *cgroup.Group) error {
	var errs []error
	if g != nil {
		// The unit first: systemd that finds its group gone does not notice that it is empty, and a stop then takes its time.
		errs = append(errs, g.KillAll(), stopUnit(dir), g.Delete())
	}
	err := errors.Join(append(errs, st.Rdt.Delete(), removeDir(dir))...)
	if err == nil {
		c.warn(ocirun.Poststop(context.Background(), st))
	}
	return err
}

// removeDir removes a container's directory: first what is known to be in it.
func removeDir(dir string) error {
	for _, name := range [...]string{ocirun.StateFile, groupMade, reportFile} {
		_ = unix.Unlink(dir + "/" + name)
	}
	if unix.Rmdir(dir) == nil {
		return nil
	}
	return os.RemoveAll(dir)
}

func list(c *cli, args []string) error {
	f := newFlags("berth-runtime list", "[FLAGS]")
	var format string
	var quiet bool
	f.both(&format, "format", "f", "table", "table or json")
	f.bothBool(&quiet, "quiet", "q", "show ids only")
	if err := f.parse(args); err != nil {
		return err
	}
	if format != "table" && format != "json" {
		return invalid("--format %q is neither table nor json", format)
	}
	entries, err := os.ReadDir(c.root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	states := []ociState{}
	for _, e := range entries {
		switch st, _, err := c.load(e.Name()); {
		case err == nil:
			states = append(states, show(st))
		case !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err): // one is being made, or it is none
			c.warn([]string{err.Error()})
		}
	}
	switch {
	case quiet:
		for _, s := range states {
			if _, err := fmt.Fprintln(c.out, s.ID); err != nil {
				return err
			}
		}
		return nil
	case format == "json":
		return c.printJSON(states)
	}
	w := tabwriter.NewWriter(c.out, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\n")
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", s.ID, s.Pid, s.Status, s.Bundle, s.Created.Format(time.RFC3339Nano), s.Owner)
	}
	return w.Flush()
}

func pause(c *cli, args []string) error  { return freeze(c, "pause", args, true) }
func resume(c *cli, args []string) error { return freeze(c, "resume", args, false) }

func freeze(c *cli, name string, args []string, frozen bool) error {
	id, err := newFlags("berth-runtime "+name, "ID").id(args, 1)
	if err != nil {
		return err
	}
	st, _, err := c.load(id)
	if err != nil {
		return err
	}
	want, not := []specs.ContainerState{specs.StateCreated, specs.StateRunning}, "container not running"
	if !frozen {
		want, not = []specs.ContainerState{"paused"}, "container not paused"
	}
	if s := status(st); !slices.Contains(want, s) {
		return fmt.Errorf("%s: cannot %s container %q that is %s: %w", not, name, id, s, errdefs.ErrFailedPrecondition)
	}
	g, err := group(st)
	if err != nil {
		return err
	}
	if !frozen {
		return g.Thaw(context.Background())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return g.Freeze(ctx)
}
