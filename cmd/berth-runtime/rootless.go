package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/ocirun"
	"github.com/berth-engine/berth/internal/tty"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// An ordinary user may do in a user namespace of his own what root may, and there is nothing else that he needs. A thread of many cannot
// enter one, so this program is executed again in it, in a mount namespace of its own:
//
//	the user's command            a keeper (linux.KeepUserNS)      the same command, entered
//	  clone ─────────────────────▶ new user namespace
//	  newuidmap, newgidmap, or
//	  the one line that is free
//	  fork ────────────────────────────────────────────────────────▶ join it, new mount namespace,
//	                                                                 execve berth-runtime
//	  pass signals on                                                create, run or exec, as root does it
//	  end with its exit code                                         in a container without a user namespace
//
// Who is root already in a user namespace that an engine made (Podman's, for one) has the rights, and takes no such way.

// enteredVerb is no command for people: the rest of the arguments is a command line, in the container's user namespace.
const enteredVerb = "entered-user-namespace"

// mustEnter says that this process has not the rights to make a container.
func (c *cli) mustEnter() bool { return !c.entered && !linux.Capable(unix.CAP_SYS_ADMIN) }

// ordinary says that what only the host's root may do can be missing.
func (c *cli) ordinary() bool {
	return c.rootless == "true" || c.rootless == "auto" && notRoot()
}

// notRoot says that this process is an ordinary user's, or root only in a user namespace.
func notRoot() bool { return os.Geteuid() != 0 || linux.InUserNamespace() }

// enter has the command done in the spec's user namespace.
func (n *creation) enter() error {
	l := n.spec.Linux
	if l == nil {
		l = &specs.Linux{}
	}
	i := slices.IndexFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
	if i < 0 {
		return fmt.Errorf("user %d may make a container only with a user namespace, which config.json does not have; "+
			"\"berth-runtime spec --rootless\" writes one that has: %w", os.Geteuid(), errdefs.ErrPermissionDenied)
	}
	if err := ocirun.Check(n.spec); err != nil {
		return err
	}
	if path := l.Namespaces[i].Path; path != "" {
		ns, err := linux.OpenFile(path, unix.O_RDONLY, 0)
		if err != nil {
			return fmt.Errorf("join the user namespace: %w", err)
		}
		defer ns.Close()
		return n.c.enterIn(ns, nil)
	}
	if err := checkOwnMappings(l, &n.spec.Process.User); err != nil {
		return err
	}
	k, err := linux.KeepUserNS(func(pid int) error { return writeMappings(pid, l) })
	if err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES) {
			err = fmt.Errorf("%w; may ordinary users make user namespaces here? See sysctl user.max_user_namespaces, "+
				"kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns", err)
		}
		return err
	}
	return n.c.enterIn(k.User, k)
}

// checkOwnMappings refuses mappings with which nothing could be done.
func checkOwnMappings(l *specs.Linux, u *specs.User) error {
	for _, k := range [...]struct {
		what, flag string
		list       []specs.LinuxIDMapping
		own        int
		process    uint32
	}{{"user", "uidMappings", l.UIDMappings, os.Geteuid(), u.UID}, {"group", "gidMappings", l.GIDMappings, os.Getegid(), u.GID}} {
		holds := func(id func(specs.LinuxIDMapping) uint32, n uint32) bool {
			return slices.ContainsFunc(k.list, func(m specs.LinuxIDMapping) bool { return n >= id(m) && n-id(m) < m.Size })
		}
		inside := func(m specs.LinuxIDMapping) uint32 { return m.ContainerID }
		if !holds(func(m specs.LinuxIDMapping) uint32 { return m.HostID }, uint32(k.own)) {
			return invalid("linux.%s does not map %s %d, which is your own and whose files the container's are: add {containerID: 0, hostID: %d, "+
				"size: 1}", k.flag, k.what, k.own, k.own)
		}
		for _, id := range [...]uint32{0, k.process} {
			if !holds(inside, id) {
				return invalid("linux.%s maps nothing to the container's %s %d: add a mapping, from a range in /etc/sub%cid", k.flag, k.what, id, k.what[0])
			}
		}
	}
	return nil
}

// writeMappings maps the ids of the user namespace that process pid is in. The one line that maps nothing but ourselves is anybody's to
// write; for others the system has two programs that know who may use what.
func writeMappings(pid int, l *specs.Linux) error {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	for _, k := range [...]struct {
		file, program, ranges string
		list                  []specs.LinuxIDMapping
		own                   int
	}{{"uid_map", "newuidmap", "/etc/subuid", l.UIDMappings, os.Geteuid()}, {"gid_map", "newgidmap", "/etc/subgid", l.GIDMappings, os.Getegid()}} {
		if len(k.list) == 1 && k.list[0].Size == 1 && int(k.list[0].HostID) == k.own {
			if k.file == "gid_map" { // whoever maps a group without the right to must give up setting any
				if err := os.WriteFile(proc+"setgroups", []byte("deny"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("map the container's groups: %w", err)
				}
			}
			line := fmt.Sprintf("%d %d 1\n", k.list[0].ContainerID, k.list[0].HostID)
			if err := os.WriteFile(proc+k.file, []byte(line), 0); err != nil {
				return fmt.Errorf("map the container's ids: %w", err)
			}
			continue
		}
		args := []string{strconv.Itoa(pid)}
		for _, m := range k.list {
			for _, n := range [...]uint32{m.ContainerID, m.HostID, m.Size} {
				args = append(args, strconv.FormatUint(uint64(n), 10))
			}
		}
		program, err := exec.LookPath(k.program)
		if err != nil {
			return fmt.Errorf("more than your own id is to be mapped, which needs the program %s: apt-get install uidmap, or shadow-utils "+
				"elsewhere (or map only %d: spec --rootless): %w", k.program, k.own, errdefs.ErrFailedPrecondition)
		}
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s does not map %q: %s (%w); it maps what %s gives user %d, and his own id", k.program, args[1:],
				strings.TrimSpace(string(out)), err, k.ranges, os.Geteuid())
		}
	}
	return nil
}

// enterContainer has the command done in a container's own user namespace.
func (c *cli) enterContainer(st *ocirun.State) error {
	pidfd, err := openInit(st)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	return c.enterIn(pidfd, nil)
}

// enterIn executes the command again in a user namespace, given by itself or by a process in it, and closes the keeper of that, if
// there is one, once that is done.
func (c *cli) enterIn(ns *os.File, k *linux.Keeper) error {
	letGo := func() (err error) {
		if k != nil {
			err, k = k.Close(), nil
		}
		return err
	}
	defer func() { _ = letGo() }()
	root, err := filepath.Abs(c.root)
	if err != nil {
		return err
	}
	argv := append([]string{os.Args[0], enteredVerb, "--root", root}, os.Args[1:]...)
	var p linux.Program
	p.Step("join the user namespace")
	p.Call(unix.SYS_SETNS, linux.FD(ns), linux.N(unix.CLONE_NEWUSER))
	p.Step("make a mount namespace")
	p.Call(unix.SYS_UNSHARE, linux.N(unix.CLONE_NEWNS))
	p.Step("keep the rights")
	p.KeepCapabilities()
	p.Step("end with the command") // after what takes that back: a change of rights does
	p.Call(unix.SYS_PRCTL, linux.N(unix.PR_SET_PDEATHSIG), linux.N(unix.SIGKILL), linux.N(0), linux.N(0), linux.N(0))
	// And not go on if that has happened already: who waits for a byte hears of it.
	r, w, err := linux.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	p.Call(unix.SYS_CLOSE, linux.FD(w))
	p.Notify()
	p.Call(unix.SYS_READ, linux.FD(r), linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
	p.Step("execute berth-runtime there")
	p.Call(unix.SYS_EXECVE, linux.Str("/proc/self/exe"), linux.Strs(argv), linux.Strs(os.Environ()))
	signals, err := linux.SignalPipe(passedOn[:]) // from now on: those that come meanwhile are passed on later
	if err != nil {
		return err
	}
	defer signals.Close()
	child, err := p.Fork(linux.ForkOptions{})
	if err != nil {
		return err
	}
	defer child.Pidfd.Close()
	started := child.WaitMark()
	if started == nil {
		_, started = w.Write([]byte{0})
	}
	if started != nil {
		_ = w.Close() // which ends it
	}
	started = errors.Join(started, child.Wait(), letGo())
	code, err := relay(child.Pidfd, signals)
	switch {
	case started != nil:
		return fmt.Errorf("enter the container's user namespace: %w", started)
	case err == nil && code != 0:
		err = exitStatus(code)
	}
	return err
}

// relay passes signals on until the process has ended, and gives its exit code. What a terminal sends, it sends to that process as well.
func relay(pidfd, signals *os.File) (int, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}, {Fd: int32(signals.Fd()), Events: unix.POLLIN}}
	for fds[0].Revents == 0 {
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			return 0, os.NewSyscallError("poll", err)
		}
		if fds[1].Revents == 0 {
			continue
		}
		var buf [64]byte
		n, err := unix.Read(int(fds[1].Fd), buf[:])
		if err != nil {
			continue
		}
		for _, b := range buf[:n] {
			if sig := unix.Signal(b); !fromTerminal(sig) {
				_ = linux.PidfdSendSignal(pidfd, sig) // an error: it has ended
			}
		}
	}
	ws, err := linux.WaitPidfd(pidfd)
	return ws.Code, err
}

// fromTerminal guesses who sent a signal: the terminal, when it has such keys and we are in its foreground.
func fromTerminal(sig unix.Signal) bool {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH:
		return tty.Foreground()
	}
	return false
}

// makeDir makes the directory of a container's state.
func (c *cli) makeDir(dir string) error {
	err := os.MkdirAll(c.root, 0o711)
	if err == nil {
		err = os.Mkdir(dir, 0o711)
	}
	if errors.Is(err, fs.ErrPermission) && c.ordinary() && os.Getenv("XDG_RUNTIME_DIR") == "" {
		err = fmt.Errorf("%w; set XDG_RUNTIME_DIR, as logging in does, or give --root", err)
	}
	return err
}

// withoutCgroup says whether a group that was refused to an ordinary user can be done without, and what to do if not.
func (n *creation) withoutCgroup(err error) (problem error, refused bool) {
	if !n.c.ordinary() || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) && !errdefs.IsFailedPrecondition(err) &&
		!errdefs.IsPermissionDenied(err) {
		return nil, false
	}
	if names := limits(n.spec.Linux.Resources); len(names) > 0 {
		return fmt.Errorf("the limits of linux.resources (%s) cannot be set: %w; have systemd delegate a group (on cgroup version 2: "+
			"systemd-run --user --scope -p Delegate=yes …, or --systemd-cgroup in a user's session), or leave them out", strings.Join(names, ", "), err), true
	}
	n.spec.Linux.CgroupsPath = "" // or it would be made
	return nil, true
}

// limits names what is asked of a group. The rules of devices are not: in a user namespace nobody can make a device.
func limits(r *specs.LinuxResources) (names []string) {
	if r == nil {
		return nil
	}
	for _, k := range [...]struct {
		name  string
		there bool
	}{{"memory", r.Memory != nil && *r.Memory != (specs.LinuxMemory{})}, {"cpu", r.CPU != nil && *r.CPU != (specs.LinuxCPU{})},
		{"pids", r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0}, {"blockIO", r.BlockIO != nil}, {"hugepageLimits", len(r.HugepageLimits) > 0},
		{"network", r.Network != nil && (r.Network.ClassID != nil || len(r.Network.Priorities) > 0)}, {"rdma", len(r.Rdma) > 0},
		{"unified", len(r.Unified) > 0}} {
		if k.there {
			names = append(names, k.name)
		}
	}
	return names
}

// pidsOf are the processes of a container: those in its group or, where it has none, in the pid namespace that began with it.
func pidsOf(st *ocirun.State) ([]int, error) {
	if st.CgroupPath != "" {
		g, err := group(st)
		if err != nil {
			return nil, err
		}
		return g.Pids()
	}
	if st.Status() == specs.StateStopped {
		return nil, nil
	}
	own, err := pidNamespace("self")
	if err != nil {
		return nil, err
	}
	theirs, err := pidNamespace(strconv.Itoa(st.Pid))
	if err != nil {
		return nil, fmt.Errorf("look for the processes of container %q: %w", st.ID, err)
	}
	if own == theirs {
		return nil, fmt.Errorf("container %q has neither a cgroup nor a pid namespace, so its processes cannot be told: %w", st.ID,
			errdefs.ErrFailedPrecondition)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ns, err := pidNamespace(e.Name()); err == nil && ns == theirs { // an error: it has ended, or is another user's
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func pidNamespace(pid string) (string, error) { return os.Readlink("/proc/" + pid + "/ns/pid") }

// endWaiting ends the processes of a container without a group that is being made or waits to be started: those that have the FIFO open.
// One that was looked at before may have forked, so they are looked for until there are none.
func endWaiting(fifo string) error {
	want, err := os.Lstat(fifo)
	if err != nil || want.Mode()&fs.ModeNamedPipe == 0 { // of another file everybody may be a holder
		return nil // it was not made yet, or is started
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		found, err := endHolders(want, deadline)
		if err != nil || !found {
			return err
		}
	}
}

// endHolders kills the processes that have a file open, and waits for their end.
func endHolders(want fs.FileInfo, deadline time.Time) (found bool, err error) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return false, err
	}
	for _, link := range links {
		if fi, err := os.Stat(link); err != nil || !os.SameFile(fi, want) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || pid == os.Getpid() {
			continue
		}
		pidfd, err := linux.PidfdOpen(pid)
		if err != nil {
			continue // it has ended
		}
		if fi, statErr := os.Stat(link); statErr == nil && os.SameFile(fi, want) { // and the number is still that process's
			found = true
			if err = linux.PidfdSendSignal(pidfd, unix.SIGKILL); err == nil {
				err = awaitEnd(pidfd, deadline)
			}
		}
		if err = errors.Join(err, pidfd.Close()); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return found, fmt.Errorf("end process %d: %w", pid, err)
		}
	}
	return found, nil
}
