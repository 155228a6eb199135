package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/specjson"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execution are the flags of exec.
type execution struct {
	consoleSocket, pidfdSocket, pidFile, processFile, cwd, user, apparmor, label string
	env, caps, gids, cgroups                                                     words
	tty, detach, noNewPrivs, ignorePaused                                        bool
	preserve                                                                     int
}

func (x *execution) flags() *flags {
	f := newFlags("berth-runtime exec", "[FLAGS] ID COMMAND [ARGS…]")
	f.StringVar(&x.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	f.StringVar(&x.pidfdSocket, "pidfd-socket", "", pidfdSocketHelp)
	f.StringVar(&x.pidFile, "pid-file", "", "file for the process's number")
	f.both(&x.processFile, "process", "p", "", "file with the process as JSON, in place of COMMAND and the other flags")
	f.StringVar(&x.cwd, "cwd", "", "working directory")
	f.both(&x.user, "user", "u", "", "UID or UID:GID")
	f.Var(&x.env, "env", "NAME=VALUE, several times")
	f.Var(&x.env, "e", "NAME=VALUE, several times")
	f.Var(&x.caps, "cap", "capability to add, several times")
	f.Var(&x.caps, "c", "capability to add, several times")
	f.Var(&x.gids, "additional-gids", "group, several times")
	f.Var(&x.gids, "g", "group, several times")
	f.Var(&x.cgroups, "cgroup", "[CONTROLLERS:]PATH, a group that is there, below the container's; several times")
	f.bothBool(&x.tty, "tty", "t", "give it a terminal")
	f.bothBool(&x.detach, "detach", "d", "do not wait for its end")
	f.BoolVar(&x.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	f.BoolVar(&x.ignorePaused, "ignore-paused", false, "also in a paused container, where it waits")
	f.StringVar(&x.apparmor, "apparmor", "", "AppArmor profile")
	f.StringVar(&x.label, "process-label", "", "SELinux label")
	f.IntVar(&x.preserve, "preserve-fds", 0, "how many descriptors after 2 the process gets")
	f.Bool("no-subreaper", false, "accepted: this command is no subreaper")
	return f
}

// execute runs a process in a running container. What keeps it from running has an exit code that few programs have.
func execute(c *cli, args []string) error {
	linux.Calm()
	err := executeIn(c, args)
	var status exitStatus
	if err == nil || errors.As(err, &status) {
		return err
	}
	return failure{fmt.Errorf("exec failed: %w", err), 255}
}

func executeIn(c *cli, args []string) error {
	x := &execution{}
	f := x.flags()
	id, err := f.id(args, 0)
	if err != nil {
		return err
	}
	st, _, err := c.load(id)
	if err != nil {
		return err
	}
	switch s := status(st); {
	case s == specs.StateStopped:
		return fmt.Errorf("cannot exec in a stopped container: %w", errdefs.ErrFailedPrecondition)
	case s == "paused" && !x.ignorePaused:
		return fmt.Errorf("cannot exec in a paused container (use --ignore-paused to override): %w", errdefs.ErrFailedPrecondition)
	}
	if c.mustEnter() {
		return c.enterContainer(st)
	}
	spec, err := readConfig(st.Bundle)
	if err != nil {
		return err
	}
	proc, err := x.process(spec.Process, f.Args()[1:])
	if err != nil {
		return err
	}
	if x.detach && proc.Terminal != (x.consoleSocket != "") {
		return invalid("a terminal and --console-socket go together with --detach")
	}
	o := ocirun.ExecOptions{Process: proc, Pid: st.Pid, Terminal: proc.Terminal, Rdt: st.Rdt, Alone: true}
	if spec.Linux != nil {
		o.Personality = spec.Linux.Personality
	}
	if o.PreserveFiles, err = preserved(x.preserve); err != nil {
		return err
	}
	if box := proc.ConsoleSize; box != nil {
		o.Rows, o.Cols = uint16(box.Height), uint16(box.Width)
	}
	if !proc.Terminal {
		o.Stdin, o.Stdout, o.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if spec.Linux != nil && spec.Linux.Seccomp != nil {
		filter, err := ocirun.CompileFilter(c.filters(), spec.Linux.Seccomp)
		if err != nil {
			return err
		}
		o.Seccomp, o.SeccompFlags, o.Listener = filter.Prog, filter.Flags, ocirun.ListenerOf(filter, spec.Linux.Seccomp, st)
	}
	if st.CgroupPath != "" {
		if o.Cgroup, err = group(st); err != nil {
			return err
		}
	}
	for _, text := range x.cgroups {
		controllers, sub, some := strings.Cut(text, ":")
		if !some {
			controllers, sub = "", text
		}
		if o.Cgroup == nil {
			return invalid("--cgroup %q: the container has no cgroup of its own", text)
		}
		if o.Cgroup, err = o.Cgroup.Below(controllers, sub); err != nil {
			return fmt.Errorf("--cgroup %q: %w", text, err)
		}
	}
	return x.run(c, st, o)
}

func (x *execution) run(c *cli, st *ocirun.State, o ocirun.ExecOptions) (err error) {
	// The container could have ended and its number been given to another process since the state was read.
	if o.Pidfd, err = openInit(st); err != nil {
		return err
	}
	defer o.Pidfd.Close()
	p, err := ocirun.Exec(context.Background(), o)
	if err != nil {
		return err
	}
	defer p.Close()
	c.warn(p.Warnings)
	if x.consoleSocket != "" {
		err = sendMaster(x.consoleSocket, p.Master)
	}
	if err == nil {
		err = sendPidfd(x.pidfdSocket, "setns", p.Pidfd)
	}
	if err == nil {
		err = writePidFile(x.pidFile, p.Pid)
	}
	if err != nil {
		_ = linux.PidfdSendSignal(p.Pidfd, unix.SIGKILL)
		return err
	}
	if x.detach {
		return nil
	}
	code, err := attend(p, x.consoleSocket == "")
	if err == nil && code != 0 {
		err = exitStatus(code)
	}
	return err
}

// process is what shall run: what the file says, or the container's own process changed by the flags.
func (x *execution) process(own *specs.Process, argv []string) (*specs.Process, error) {
	if x.processFile != "" {
		data, err := linux.ReadFile(x.processFile)
		if err != nil {
			return nil, err
		}
		p := &specs.Process{}
		if err := specjson.Unmarshal(data, p); err != nil {
			return nil, invalid("%q cannot be understood: %v", x.processFile, err)
		}
		return p, nil
	}
	if len(argv) == 0 {
		return nil, invalid("exec: the command is missing")
	}
	if own == nil {
		return nil, invalid("config.json has no process")
	}
	p := *own
	p.Args, p.Terminal, p.ConsoleSize = argv, x.tty, nil
	p.Env = append(slices.Clone(p.Env), x.env...) // a later one wins
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	if x.apparmor != "" {
		p.ApparmorProfile = x.apparmor
	}
	if x.label != "" {
		p.SelinuxLabel = x.label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || x.noNewPrivs
	if err := x.identity(&p); err != nil {
		return nil, err
	}
	return &p, nil
}

// identity applies the flags about user, groups and capabilities. Numbers are numbers: nothing is looked up, and what is
// not a number is an error (crun's CVE-2026-30892 took "-u 1" for root).
func (x *execution) identity(p *specs.Process) error {
	if x.user != "" {
		uid, gid, both := strings.Cut(x.user, ":")
		var err error
		if p.User.UID, err = number(uid); err != nil {
			return err
		}
		if both {
			if p.User.GID, err = number(gid); err != nil {
				return err
			}
		}
	}
	p.User.AdditionalGids = slices.Clone(p.User.AdditionalGids)
	for _, g := range x.gids {
		gid, err := number(g)
		if err != nil {
			return err
		}
		p.User.AdditionalGids = append(p.User.AdditionalGids, gid)
	}
	if len(x.caps) == 0 {
		return nil
	}
	caps := specs.LinuxCapabilities{}
	if p.Capabilities != nil {
		caps = *p.Capabilities
	}
	// The inheritable set is left alone (CVE-2022-29162).
	for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
		*set = append(slices.Clone(*set), x.caps...)
	}
	p.Capabilities = &caps
	return nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, invalid("%q is not the number of a user or group", s)
	}
	return uint32(n), nil
}
