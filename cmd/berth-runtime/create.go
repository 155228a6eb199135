package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/specjson"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// creation is what create and run have in common.
type creation struct {
	c                              *cli
	bundle, consoleSocket, pidFile string
	pidfdSocket                    string
	noPivot, noNewKeyring          bool
	preserve                       int

	id, dir string
	spec    *specs.Spec
	options ocirun.StartOptions
	begin   func(context.Context, ocirun.StartOptions) (*ocirun.Process, error) // ocirun.Start, or what takes its place
}

func (n *creation) flags(name string) *flags {
	f := newFlags("berth-runtime "+name, "[FLAGS] ID")
	n.place(f)
	f.StringVar(&n.pidfdSocket, "pidfd-socket", "", pidfdSocketHelp)
	f.BoolVar(&n.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	f.IntVar(&n.preserve, "preserve-fds", 0, "how many descriptors after 2 the process gets")
	n.begin = ocirun.Start
	return f
}

// place defines the flags about where a container is.
func (n *creation) place(f *flags) {
	f.both(&n.bundle, "bundle", "b", ".", "directory of config.json and the root file system")
	f.StringVar(&n.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	f.StringVar(&n.pidFile, "pid-file", "", "file for the process's number")
	f.BoolVar(&n.noPivot, "no-pivot", false, "for hosts that run from an initramfs, which pivot_root(2) cannot leave")
}

// create makes a container and leaves its process waiting.
func create(c *cli, args []string) error {
	linux.Calm()
	n := &creation{c: c}
	id, err := n.flags("create").id(args, 1)
	if err != nil {
		return err
	}
	if c.mustEnter() {
		if err := n.load(id); err != nil {
			return err
		}
		return n.enter()
	}
	p, err := n.make(id, true)
	if err != nil {
		return err
	}
	return p.Close()
}

// make reads the bundle, makes the container's directory and starts its process; held: until "start".
func (n *creation) make(id string, held bool) (_ *ocirun.Process, err error) {
	if err := n.load(id); err != nil {
		return nil, err
	}
	if n.spec.Process.Terminal != (n.consoleSocket != "") && held {
		if n.consoleSocket == "" {
			return nil, invalid("a terminal needs --console-socket, since nobody else would hold it")
		}
		return nil, invalid("--console-socket needs a process with a terminal")
	}
	var undo []func()
	defer func() {
		if err != nil {
			for i := len(undo) - 1; i >= 0; i-- {
				undo[i]()
			}
		}
	}()
	if err := n.c.makeDir(n.dir); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("container with given ID already exists: %q: %w", id, errdefs.ErrAlreadyExists)
		}
		return nil, err
	}
	undo = append(undo, func() { _ = os.RemoveAll(n.dir) })
	o := &n.options
	if held {
		closeFiles, err := n.hold()
		if err != nil {
			return nil, err
		}
		defer closeFiles()
	}
	release := func() {}
	if o.Cgroup, release, err = n.makeCgroup(); err != nil {
		return nil, err
	}
	defer func() { release() }() // before what is undone, which wants the group empty
	if o.Cgroup != nil {
		undo = append(undo, func() { _ = stopUnit(n.dir); _ = o.Cgroup.Delete(); o.Cgroup.PruneParents() })
	}
	p, err := n.begin(context.Background(), *o)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() {
		_ = linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL)
		_, _ = linux.WaitPidfd(p.Pidfd)
		_ = p.Rdt.Delete()
	})
	n.c.warn(p.Warnings)
	if n.consoleSocket != "" {
		if err := sendMaster(n.consoleSocket, p.Master); err != nil {
			return nil, err
		}
	}
	if err := sendPidfd(n.pidfdSocket, "standard", p.Pidfd); err != nil {
		return nil, err
	}
	return p, writePidFile(n.pidFile, p.Pid)
}

// load reads config.json and fills the options.
func (n *creation) load(id string) (err error) {
	n.id = id
	if n.dir, err = n.c.dir(id); err != nil {
		return err
	}
	if n.bundle, err = filepath.Abs(n.bundle); err != nil {
		return err
	}
	if n.spec, err = readConfig(n.bundle); err != nil {
		return err
	}
	if n.spec.Process == nil {
		return invalid("config.json has no process")
	}
	if l := n.spec.Linux; n.c.entered && l != nil { // it is ours
		l.Namespaces = slices.DeleteFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
		l.UIDMappings, l.GIDMappings = nil, nil
	}
	n.options = ocirun.StartOptions{ID: id, Spec: n.spec, StateDir: n.dir, Bundle: n.bundle, NoPivot: n.noPivot,
		NoNewKeyring: n.noNewKeyring, Filters: n.c.filters(), Alone: true}
	o := &n.options
	if n.spec.Process.Terminal {
		o.Terminal = true
		if box := n.spec.Process.ConsoleSize; box != nil {
			o.Rows, o.Cols = uint16(box.Height), uint16(box.Width)
		}
	} else {
		o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	o.PreserveFiles, err = preserved(n.preserve)
	return err
}

// preserved are the descriptors 3, 4, … that the caller left open for the process.
func preserved(count int) ([]*os.File, error) {
	if fds, err := strconv.Atoi(os.Getenv("LISTEN_FDS")); err == nil && fds > 0 && fds < 1<<10 {
		count += fds // of socket activation (sd_listen_fds(3))
	}
	var files []*os.File
	const most = 1 << 16
	if count < 0 || count > most {
		return nil, invalid("%d descriptors cannot be preserved", count)
	}
	for fd := 3; fd < 3+count; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return nil, invalid("descriptor %d is to be preserved and is not open", fd)
		}
		files = append(files, os.NewFile(uintptr(fd), "preserved"))
	}
	return files, nil
}

// hold makes the files that "start" speaks through.
func (n *creation) hold() (closeFiles func(), err error) {
	o := &n.options
	fifo := filepath.Join(n.dir, startFile)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return nil, &fs.PathError{Op: "mkfifo", Path: fifo, Err: err}
	}
	// Opened for both, so that the process waits for its byte although nobody is there yet to write it.
	fd, err := unix.Open(fifo, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: fifo, Err: err}
	}
	o.HoldFile = os.NewFile(uintptr(fd), fifo)
	o.ReportFile, err = os.OpenFile(filepath.Join(n.dir, reportFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, errors.Join(err, o.HoldFile.Close())
	}
	o.Hold = true
	return func() {
		_ = o.HoldFile.Close()
		_ = o.ReportFile.Close()
	}, nil
}

const (
	startFile   = "start"
	reportFile  = "report"
	groupMaking = "cgroup.making"
	groupMade   = "cgroup"
)

// makeCgroup makes the container's group: the spec's, or one named after the container. release is for when its process is in it.
func (n *creation) makeCgroup() (_ *cgroup.Group, release func(), err error) {
	if n.spec.Linux == nil {
		n.spec.Linux = &specs.Linux{}
	}
	host, err := hierarchies()
	if err != nil {
		return nil, nil, err
	}
	if n.c.systemdCgroup {
		g, release, err := n.makeScope(host)
		if problem, refused := n.withoutCgroup(err); refused {
			return nil, func() {}, problem
		}
		return g, release, err
	}
	name := n.spec.Linux.CgroupsPath
	if name == "" {
		name = "/berth-runtime/" + n.id
		if n.c.ordinary() && host.Version() == 2 {
			// Beside our own group, where one may be the user's: in ours are processes, so that it can hand no controllers down.
			own, err := cgroup.Own()
			if err != nil {
				return nil, nil, err
			}
			name = filepath.Join(filepath.Dir(own), name)
		}
	}
	if strings.Count(name, ":") == 2 && !strings.Contains(name, "/") {
		return nil, nil, invalid("cgroup path %q has systemd's form, which needs --systemd-cgroup before the command", name)
	}
	name = filepath.Clean("/" + name)
	making, made := filepath.Join(n.dir, groupMaking), filepath.Join(n.dir, groupMade)
	if err := os.Symlink(name, making); err != nil {
		return nil, nil, err
	}
	g, warnings, err := host.Create(name, withDefaultDevices(n.spec.Linux.Resources))
	n.c.warn(warnings)
	if err != nil {
		if without, refused := n.withoutCgroup(err); refused {
			return nil, func() {}, errors.Join(without, os.Remove(making))
		}
		return nil, nil, err
	}
	if err := os.Rename(making, made); err != nil {
		return nil, nil, errors.Join(err, g.Delete())
	}
	return g, func() {}, nil
}

// withDefaultDevices adds to a spec's list the devices that every container has: what makes them must let them be opened, whatever
// the list says of all others (config-linux.md, "Default Devices").
func withDefaultDevices(r *specs.LinuxResources) *specs.LinuxResources {
	if r == nil || len(r.Devices) == 0 {
		return r // the list is theirs alone
	}
	more := *r
	more.Devices = slices.Concat(r.Devices, cgroup.DefaultDevices()[1:])
	return &more
}

// readConfig reads config.json of a bundle.
func readConfig(bundle string) (*specs.Spec, error) {
	name := filepath.Join(bundle, "config.json")
	data, err := linux.ReadRegular(name)
	if err != nil {
		return nil, err
	}
	return parseConfig(name, data)
}

func parseConfig(name string, data []byte) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if err := specjson.Unmarshal(data, spec); err != nil {
		return nil, invalid("%q cannot be understood: %v", name, err)
	}
	return spec, nil
}

func writePidFile(name string, pid int) error {
	if name == "" {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name))
	_ = os.Remove(tmp) // of one that was killed; what else is there is nothing to write through
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strconv.Itoa(pid))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(tmp))
	}
	return err
}

// sendMaster gives a terminal's master to who listens at a unix socket, as runc does: one message that carries it, with the
// terminal's name as text.
func sendMaster(socket string, master *os.File) error {
	// The descriptor that is sent shares its flags with ours, and those who get it expect it to block.
	if err := unix.SetNonblock(int(master.Fd()), false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	return sendFile("console", socket, "/dev/ptmx", master)
}

const pidfdSocketHelp = "unix socket that gets a pidfd of the process"

// sendPidfd gives a process's pidfd to who listens at a unix socket, as runc does; kind is "standard" for a container's first process
// and "setns" for one that is executed. No socket is none.
func sendPidfd(socket, kind string, pidfd *os.File) error {
	if socket == "" {
		return nil
	}
	return sendFile("pidfd", socket, kind, pidfd)
}

// sendFile sends one message with a text and an open file.
func sendFile(what, socket, text string, file *os.File) error {
	conn, err := linux.ConnectUnix(socket)
	if err != nil {
		return fmt.Errorf("%s socket %q: %w", what, socket, err)
	}
	defer conn.Close()
	if _, err := linux.SendMsg(conn, []byte(text), file); err != nil {
		return fmt.Errorf("%s socket %q: %w", what, socket, err)
	}
	return nil
}
