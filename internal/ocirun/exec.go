package ocirun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ExecOptions describe a process that is to be started in a container that runs.
type ExecOptions struct {
	Process *specs.Process
	Pid     int      // the container's first process
	Pidfd   *os.File // of the same; nil: opened from Pid. It stays the caller's
	Cgroup  *cgroup.Group
	Rdt     *Rdt // the container's
	// Personality is the execution domain; nil for this process's.
	Personality *specs.LinuxPersonality
	Seccomp     []byte // compiled filter; nil for none
	// SeccompFlags are those of seccomp(2).
	SeccompFlags uint32
	// Listener is who a filter with SECCOMP_FILTER_FLAG_NEW_LISTENER asks; nil for one without.
	Listener *Listener
	// File is the program's file, in the container; "" for the process's first argument.
	File string
	// The rest is as in StartOptions.
	Stdin, Stdout, Stderr *os.File
	Terminal              bool
	Rows, Cols            uint16
	PreserveFiles         []*os.File
	NoNewKeyring          bool
	Alone                 bool
}

// Exec starts a process in a running container: in its namespaces, its root and its cgroup. It returns when the process has
// become its program. The errors are those of Start; errdefs.ErrFailedPrecondition when the container has ended.
func Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	if err := checkProcess(o.Process); err != nil {
		return nil, err
	}
	if o.SeccompFlags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 && o.Listener == nil {
		return nil, missingFeature("a process executed under a seccomp profile whose listener is not known")
	}
	pidfd := o.Pidfd
	if pidfd == nil {
		var err error
		if pidfd, err = linux.PidfdOpen(o.Pid); err != nil {
			return nil, fmt.Errorf("container process %d: %w", o.Pid, err)
		}
		defer pidfd.Close()
	}
	j := &joining{o: &o, pidfd: pidfd}
	j.exec = execution{process: o.Process, filter: o.Seccomp, filterFlags: uint(o.SeccompFlags), preserve: o.PreserveFiles,
		keepKeyring: o.NoNewKeyring, stdio: [3]*os.File{o.Stdin, o.Stdout, o.Stderr}, shield: exposed(), sibling: true,
		file: o.File, nested: linux.InUserNamespace()}
	defer j.close()
	if o.Listener != nil {
		var err error
		if j.exec.listener, err = newListener(&seccomp.Filter{Prog: o.Seccomp}, o.Listener.Path, o.Listener.Metadata); err != nil {
			return nil, err
		}
		defer j.exec.listener.close()
		if err := errors.Join(j.exec.mayPass("a listener"), j.exec.listener.connect()); err != nil {
			return nil, err
		}
	}
	if err := linux.SetDumpable(false); err != nil {
		return nil, err
	}
	onThread := linux.OnThread
	if o.Alone {
		onThread = linux.InPlace
	}
	if err := onThread(func() error { return j.run(ctx) }); err != nil {
		err = errors.Join(err, j.reap())
		if ended, e := linux.Ended(pidfd); e == nil && ended {
			err = fmt.Errorf("the container has ended: %w", errors.Join(errdefs.ErrFailedPrecondition, err))
		}
		return nil, err
	}
	p := &Process{Pid: j.child.Pid, Pidfd: j.child.Pidfd, Master: j.master, Cgroup: o.Cgroup, StartedAt: time.Now(),
		Warnings: j.exec.warnings, child: j.child, exec: &j.exec}
	j.master = nil
	var err error
	if p.StartTime, _, err = linux.StartTime(p.Pid); err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// joining is a process on its way into a container.
type joining struct {
	o      *ExecOptions
	exec   execution
	pidfd  *os.File
	files  []*os.File
	master *os.File
	child  *linux.Child
}

func (j *joining) close() {
	for _, f := range append(j.files, j.exec.files...) {
		_ = f.Close()
	}
	if j.master != nil {
		_ = j.master.Close()
	}
}

// run goes into the container with a thread, looks at its files from there, and forks.
func (j *joining) run(ctx context.Context) error {
	proc, err := openHostProc()
	if err != nil {
		return err
	}
	j.files = append(j.files, proc)
	j.exec.hostProc = proc
	if err := j.exec.openStdio(); err != nil {
		return err
	}
	if err := j.exec.openGroup(j.o.Cgroup, j.o.Pid); err != nil {
		return err
	}
	if err := j.exec.openRdt(j.o.Rdt); err != nil {
		return err
	}
	if err := j.enter(); err != nil {
		return err
	}
	dir, err := linux.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	j.files = append(j.files, dir)
	root := confine.FromFile(dir)
	if j.o.Terminal {
		if err := j.terminal(root); err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
	}
	if j.exec.env = environment(j.o.Process.Env); !hasHome(j.exec.env) {
		j.exec.env = append(j.exec.env, "HOME="+homeOf(root, j.o.Process.User.UID))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return j.launch()
}

// enter takes the thread into the container's namespaces, which also gives it the container's root. A user namespace cannot
// be entered by a thread of many: that and the pid namespace are for the child.
func (j *joining) enter() error {
	if err := linux.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	flags := 0
	for _, ns := range nsFlags {
		same, err := j.sameNS(ns.file)
		if err != nil {
			return err
		}
		switch {
		case same:
		case ns.flag == unix.CLONE_NEWPID:
			j.exec.pidNS = j.pidfd
		case ns.flag == unix.CLONE_NEWTIME, ns.flag == unix.CLONE_NEWCGROUP:
			f, err := j.openNS(ns.file)
			if err != nil {
				return err
			}
			if ns.flag == unix.CLONE_NEWTIME {
				j.exec.timeNS = f
			} else {
				// By the child, once it is in its group: from within the namespace nobody is moved into it whose own
				// group lies outside (cgroup-v2.rst, "nsdelegate").
				j.exec.cgroupNS = f
			}
		default:
			flags |= ns.flag
		}
	}
	if same, err := j.sameNS("user"); err == nil && !same {
		j.exec.userNS = j.pidfd
		if j.exec.ids, err = readIDs(j.exec.hostProc, j.o.Pid); err != nil {
			return err
		}
	}
	if flags == 0 {
		return nil
	}
	if err := linux.Setns(j.pidfd, flags); err != nil {
		return fmt.Errorf("join the container's namespaces: %w", err)
	}
	return nil
}

func (j *joining) nsName(file string) string { return strconv.Itoa(j.o.Pid) + "/ns/" + file }

// sameNS says whether the container is in the caller's namespace of a kind.
func (j *joining) sameNS(file string) (bool, error) {
	var own, other unix.Stat_t
	dir := int(j.exec.hostProc.Fd())
	if err := unix.Fstatat(dir, "self/ns/"+file, &own, 0); err != nil {
		return file == "time", nil // a kernel without time namespaces
	}
	if err := unix.Fstatat(dir, j.nsName(file), &other, 0); err != nil {
		return false, fmt.Errorf("look at the container's %s namespace: %w", file, err)
	}
	return own.Ino == other.Ino && own.Dev == other.Dev, nil
}

func (j *joining) openNS(file string) (*os.File, error) {
	fd, err := unix.Openat(int(j.exec.hostProc.Fd()), j.nsName(file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the container's %s namespace: %w", file, err)
	}
	f := os.NewFile(uintptr(fd), file)
	j.files = append(j.files, f)
	return f, nil
}

func (j *joining) terminal(root *confine.Root) (err error) {
	if j.master, err = containerPtmx(root, j.exec.hostProc); err != nil {
		return err
	}
	slave, err := openPeer(j.master, j.o.Rows, j.o.Cols)
	if err != nil {
		return err
	}
	j.files = append(j.files, slave)
	j.exec.stdio, j.exec.tty = [3]*os.File{slave, slave, slave}, true
	return nil
}
