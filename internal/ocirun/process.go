package ocirun

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/berth-engine/berth/internal/cgroup"
	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execution is how a child becomes the process that was asked for: the same for a container's first process and for one
// that is executed in it.
type execution struct {
	process     *specs.Process
	file        string // what is executed, where that is not the process's first argument
	filter      []byte // compiled seccomp filter
	filterFlags uint
	stdio       [3]*os.File
	tty         bool
	preserve    []*os.File
	keepKeyring bool
	keepGroups  bool // since they cannot be set
	init        bool
	shield      bool // see small.go

	// sibling: the process goes into a pid namespace that has processes already, see linux.Program. moved: its parent puts
	// it into its cgroup, since the group has no room for two. remapped: it joins its user namespace before its root.
	sibling, moved, remapped bool
	pidNS                    *os.File  // joined by the first child: a namespace or a pidfd
	listener                 *listener // nil for none
	userNS                   *os.File  // joined by the first child: a namespace or a pidfd
	ids                      *ids      // of the user namespace

	nested      bool // this process is in a user namespace: see rootless.go
	freshPid    bool // the pid namespace begins with the process
	cloneFlags  uintptr
	newCgroupNS bool
	timeNS      *os.File   // joined by the child
	cgroupNS    *os.File   // likewise
	groupDir    *os.File   // cgroup v2: where to be born
	groupFiles  []*os.File // cgroup v1: what to write into
	rdtFiles    []*os.File // likewise, of resctrl

	hostProc   *os.File
	hold       *os.File
	hooksGate  *os.File // what a second child reads until the hooks have seen it
	lateReport *os.File
	small      *os.File // what is executed first, nil for the program itself

	own       capSets         // this process's capabilities
	lastLimit *unix.Rlimit    // of processes, set by a sibling
	lateSched *unix.SchedAttr // likewise
	env       []string
	home      []byte     // comes last in the environment, once it is known; nil for none
	order     []byte     // of a small program whose file is not known yet
	slave     linux.Slot // the terminal, which is received
	found     string     // the program's file, once it was looked up
	execFrom  int        // the first call that executes the program
	searched  bool
	warnings  []string
	files     []*os.File
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func (e *execution) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

// join adds the steps that make the child a session of its own in its cgroup.
func (e *execution) join(p *linux.Program) {
	if !e.sibling {
		e.session(p)
	}
	if !e.moved {
		e.joinGroup(p)
	}
	e.joinRdt(p)
	e.enterNamespaces(p)
}

// enterNamespaces adds the namespaces that are the child's to enter.
func (e *execution) enterNamespaces(p *linux.Program) {
	if e.newCgroupNS && e.userNS == nil {
		p.Step("make a cgroup namespace")
		p.Call(unix.SYS_UNSHARE, linux.N(unix.CLONE_NEWCGROUP))
	}
	if e.cgroupNS != nil {
		p.Step("join the cgroup namespace")
		p.Call(unix.SYS_SETNS, linux.FD(e.cgroupNS), linux.N(unix.CLONE_NEWCGROUP))
	}
	if e.timeNS != nil {
		p.Step("join the time namespace")
		p.Call(unix.SYS_SETNS, linux.FD(e.timeNS), linux.N(unix.CLONE_NEWTIME))
	}
	if e.pidNS != nil {
		p.Step("join the pid namespace")
		p.Call(unix.SYS_SETNS, linux.FD(e.pidNS), linux.N(unix.CLONE_NEWPID))
	}
}

func (e *execution) session(p *linux.Program) {
	p.Step("start a session")
	p.Call(unix.SYS_SETSID)
}

// takeTerminal makes the terminal the session's.
func (e *execution) takeTerminal(p *linux.Program) {
	if e.tty {
		p.Step("take the terminal")
		p.Call(unix.SYS_IOCTL, linux.N(0), linux.N(unix.TIOCSCTTY), linux.N(0))
	}
}

// openGroup opens the way into the cgroup while the host's paths can still be seen. pid is a process of the container that is
// in the group already, 0 when there is none.
func (e *execution) openGroup(g *cgroup.Group, pid int) (err error) {
	if g == nil {
		return nil
	}
	if pid == 0 {
		e.groupDir, err = g.DirFile()
	} else {
		e.groupDir, err = g.DirFileFor(pid)
	}
	if err == nil {
		e.files = append(e.files, e.groupDir)
		return nil
	}
	e.groupDir = nil
	if !errors.Is(err, errdefs.ErrNotImplemented) {
		return fmt.Errorf("join the cgroup: %w", err)
	}
	if e.groupFiles, err = g.ProcsFiles(); err != nil {
		return fmt.Errorf("join the cgroup: %w", err)
	}
	e.files = append(e.files, e.groupFiles...)
	return nil
}

// joinGroup writes "0" where the child could not be born in its group.
func (e *execution) joinGroup(p *linux.Program) { join(p, "join cgroup ", e.groupFiles) }

// join makes the child write "0", which means itself, into files.
func join(p *linux.Program, step string, files []*os.File) {
	zero := []byte("0")
	for _, f := range files {
		p.Step(step + f.Name())
		p.Call(unix.SYS_WRITE, linux.FD(f), linux.Bytes(zero), linux.N(1))
	}
}

// openRdt opens the way into a class of service.
func (e *execution) openRdt(t *Rdt) (err error) {
	e.rdtFiles, err = t.files()
	e.files = append(e.files, e.rdtFiles...)
	return err
}

// joinRdt is joinGroup for a class of service.
func (e *execution) joinRdt(p *linux.Program) { join(p, "join ", e.rdtFiles) }

// openStdio gives the null device, of the host, in place of what is not given.
func (e *execution) openStdio() error {
	var null *os.File
	for i, f := range e.stdio {
		if f != nil {
			continue
		}
		if null == nil {
			var err error
			if null, err = linux.OpenFile("/dev/null", unix.O_RDWR, 0); err != nil {
				return err
			}
			e.files = append(e.files, null)
		}
		e.stdio[i] = null
	}
	return nil
}

// stdioOps puts the three standard files in place. Sources below 3 could be overwritten by another's turn and are moved
// up first.
func (e *execution) stdioOps(p *linux.Program) {
	p.Step("set up stdio")
	var from [3]linux.Arg
	for i, f := range e.stdio {
		if e.slave != linux.ReportSlot {
			from[i] = linux.From(e.slave)
			continue
		}
		from[i] = linux.FD(f)
		if f.Fd() < 3 {
			s := p.NewSlot()
			p.Call(unix.SYS_FCNTL, linux.FD(f), linux.N(unix.F_DUPFD_CLOEXEC), linux.N(3)).Save(s)
			from[i] = linux.From(s)
		}
	}
	for i := range from {
		p.Call(unix.SYS_DUP3, from[i], linux.N(i), linux.N(0))
	}
	if !e.sibling {
		e.takeTerminal(p)
	}
}

// ownStdio gives pipes and terminals to the user, so that /dev/stdout can be opened by name, as Docker does.
func (e *execution) ownStdio() {
	for _, f := range e.stdio {
		if f == nil {
			continue
		}
		var st unix.Stat_t
		uid := e.ids.uid(e.process.User.UID)
		if unix.Fstat(int(f.Fd()), &st) != nil || int(st.Uid) == uid ||
			st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		// What cannot be given away (a file system that is read-only or not ours) stays as it is.
		_ = unix.Fchown(int(f.Fd()), uid, -1)
	}
}

// become adds the steps from a process in the container to the program of the container.
func (e *execution) become(p *linux.Program) (err error) {
	e.ownStdio()
	if err := e.checkGroups(); err != nil {
		return err
	}
	switch {
	case e.userNS != nil && !e.remapped:
		if err := e.privileged(p); err != nil {
			return err
		}
		e.joinUser(p)
		e.own = rootCaps()
	case e.userNS != nil:
		e.own = rootCaps()
	default:
		if e.own, err = ownCaps(); err != nil {
			return fmt.Errorf("read own capabilities: %w", err)
		}
		if err := e.attributes(p); err != nil {
			return err
		}
	}
	switch {
	case e.init:
		e.small, err = smallFile("docker-init", initCode())
	case e.shield:
		e.small, err = smallFile("shield", shieldCode())
	}
	if err != nil {
		return err
	}
	if e.small != nil {
		e.files = append(e.files, e.small)
	}
	e.keyring(p)
	e.descriptors(p)
	if err := e.limits(p); err != nil {
		return err
	}
	e.identity(p)
	return e.execute(p)
}

// attributes adds what is written to the child's own files of /proc, and the smaller settings.
func (e *execution) attributes(p *linux.Program) error {
	pr := e.process
	if pr.OOMScoreAdj != nil {
		e.writeSelf(p, "set oom_score_adj", "oom_score_adj", strconv.Itoa(*pr.OOMScoreAdj), unix.EACCES)
		own, err := readSelf(e.hostProc, "oom_score_adj")
		if err == nil && *pr.OOMScoreAdj < own && !e.mayRaise(e.own) {
			e.warn("oom_score_adj %d may not be granted: it needs CAP_SYS_RESOURCE to go below %d", *pr.OOMScoreAdj, own)
		}
	}
	if pr.ApparmorProfile != "" {
		e.writeSelf(p, fmt.Sprintf("set AppArmor profile %q", pr.ApparmorProfile), "attr/apparmor/exec",
			"exec "+pr.ApparmorProfile)
	}
	if pr.SelinuxLabel != "" {
		e.writeSelf(p, fmt.Sprintf("set SELinux label %q", pr.SelinuxLabel), "attr/exec", pr.SelinuxLabel)
	}
	return e.scheduling(p)
}

// writeSelf writes a file of the child's own in the host's /proc.
func (e *execution) writeSelf(p *linux.Program, step, name, text string, ignore ...unix.Errno) {
	p.Step(step)
	s := p.NewSlot()
	b := []byte(text)
	p.Call(unix.SYS_OPENAT, linux.FD(e.hostProc), linux.Str("self/"+name), linux.N(unix.O_WRONLY|unix.O_CLOEXEC), linux.N(0)).Save(s)
	p.Call(unix.SYS_WRITE, linux.From(s), linux.Bytes(b), linux.N(len(b))).Ignore(ignore...)
}

func readSelf(proc *os.File, name string) (int, error) {
	fd, err := unix.Openat(int(proc.Fd()), "self/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var buf [32]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(buf[:n])))
}

// keyring gives the process a session keyring of its own, so that it does not possess the host's keys. It has no name: one
// that has can be made by somebody else first.
func (e *execution) keyring(p *linux.Program) {
	if e.keepKeyring {
		return
	}
	p.Step("make a session keyring")
	p.Call(unix.SYS_KEYCTL, linux.N(unix.KEYCTL_JOIN_SESSION_KEYRING), linux.N(0)).Ignore(unix.ENOSYS, unix.EPERM)
}

// descriptors closes everything that is not the process's own: really, and before any path is looked up, so that
// /proc/self/fd leads nowhere (CVE-2024-21626). The few that are needed until execve come after those to keep.
//
//	0 1 2 │ preserved… │ report │ hold │ late report │ init │ listener's gate │ hooks' gate │ nothing
func (e *execution) descriptors(p *linux.Program) {
	p.Step("close descriptors")
	// All sources are first moved out of the way of all targets.
	const high = 3 + 6
	sources := append(append([]*os.File{}, e.preserve...), nil, e.hold, e.lateReport, e.small)
	switch {
	case e.listener != nil:
		sources = append(sources, e.listener.gate, e.hooksGate)
	case e.hooksGate != nil:
		sources = append(sources, nil, e.hooksGate)
	}
	moved := make([]linux.Slot, len(sources))
	base := high + len(e.preserve)
	for i, f := range sources {
		moved[i] = p.NewSlot()
		arg := linux.From(linux.ReportSlot)
		if i != len(e.preserve) {
			if f == nil {
				continue
			}
			arg = linux.FD(f)
		}
		p.Call(unix.SYS_FCNTL, arg, linux.N(unix.F_DUPFD_CLOEXEC), linux.N(base)).Save(moved[i])
	}
	for i, f := range sources {
		flags := unix.O_CLOEXEC
		if kept := len(e.preserve); i < kept || i <= kept+1 && e.small != nil { // which closes report and hold itself
			flags = 0
		}
		n := linux.N(3 + i)
		switch {
		case i == len(e.preserve):
			p.Call(unix.SYS_DUP3, linux.From(moved[i]), n, linux.N(flags)).Save(linux.ReportSlot)
		case f != nil:
			p.Call(unix.SYS_DUP3, linux.From(moved[i]), n, linux.N(flags))
		default:
			p.Call(unix.SYS_CLOSE, n).Ignore(unix.EBADF)
		}
	}
	p.Call(unix.SYS_CLOSE_RANGE, linux.N(3+len(sources)), linux.N(^uint32(0)), linux.N(0))
}

// reportNumber is where descriptors put the report; the others come after it.
func (e *execution) reportNumber() int { return 3 + len(e.preserve) }
func (e *execution) holdNumber() int   { return e.reportNumber() + 1 }
func (e *execution) lateNumber() int   { return e.reportNumber() + 2 }
func (e *execution) smallNumber() int  { return e.reportNumber() + 3 }

// limits adds the resource limits. A limit above the caller's own needs CAP_SYS_RESOURCE; without it the process gets what
// there is, and the user a warning, as with Docker.
func (e *execution) limits(p *linux.Program) error {
	raise := e.mayRaise(e.own)
	if e.userNS != nil { // where that right counts for nothing
		if host, err := ownCaps(); err == nil {
			raise = e.mayRaise(host) // and was used already
		}
	}
	files := false
	for _, l := range e.process.Rlimits {
		nr, there := rlimitNumber(l.Type)
		if !there {
			return fmt.Errorf("rlimit %q is unknown: %w", l.Type, errdefs.ErrInvalidArgument)
		}
		if l.Soft > l.Hard {
			return fmt.Errorf("rlimit %q: soft limit %d is above the hard limit %d: %w", l.Type, l.Soft, l.Hard,
				errdefs.ErrInvalidArgument)
		}
		files = files || nr == unix.RLIMIT_NOFILE
		lim := &unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if !raise {
			var own unix.Rlimit
			if err := unix.Getrlimit(nr, &own); err != nil {
				return fmt.Errorf("rlimit %q: %w", l.Type, err)
			}
			if lim.Max > own.Max {
				e.warn("rlimit %s %d is not granted: it needs CAP_SYS_RESOURCE to go above %d", l.Type, lim.Max, own.Max)
				lim.Max, lim.Cur = own.Max, min(lim.Cur, own.Max)
			}
		}
		if e.sibling && nr == unix.RLIMIT_NPROC {
			// There are two for a moment, and a limit is lowered without any right.
			e.lastLimit = lim
			lim = &unix.Rlimit{Cur: lim.Max, Max: lim.Max}
		}
		p.Step("set rlimit " + l.Type)
		p.Call(unix.SYS_PRLIMIT64, linux.N(0), linux.N(nr), linux.Ptr(lim), linux.N(0))
	}
	if !files {
		e.defaultFiles(p)
	}
	return nil
}

// defaultFiles undoes what the Go runtime did to this process's limit of open files: it raises the soft limit to one
// below the hard one (package syscall) and tells nobody what it was. 1024 is what the kernel and systemd start with, and
// what programs that use select(2) need.
func (e *execution) defaultFiles(p *linux.Program) {
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil || own.Max == 0 || own.Cur != own.Max-1 {
		return
	}
	p.Step("set rlimit RLIMIT_NOFILE")
	p.Call(unix.SYS_PRLIMIT64, linux.N(0), linux.N(unix.RLIMIT_NOFILE),
		linux.Ptr(&unix.Rlimit{Cur: min(1024, own.Max), Max: own.Max}), linux.N(0))
}

// rlimits are the limits by their numbers (setrlimit(2)).
var rlimits = [...]string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
	"SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"}

func rlimitNumber(name string) (int, bool) {
	short, ok := strings.CutPrefix(name, "RLIMIT_")
	nr := slices.Index(rlimits[:], short)
	return nr, ok && nr >= 0
}

// identity adds user, groups, capabilities and working directory. Afterwards the process has its final user, and, if a
// filter is to be loaded without no_new_privs, CAP_SYS_ADMIN beside its final capabilities.
func (e *execution) identity(p *linux.Program) {
	pr, own := e.process, e.own
	asked, unknown := parseCaps(pr.Capabilities)
	for _, name := range unknown {
		e.warn("capability %q is unknown and not granted", name)
	}
	caps, lost := asked.within(own)
	for _, name := range lost.names() {
		e.warn("capability %s is not granted: this process does not have it", name)
	}

	p.Step("set the working directory")
	inside := p.NewSlot()
	cwd := pr.Cwd
	chdir := func() *linux.Call {
		p.Step(stepCwd)
		return p.Call(unix.SYS_CHDIR, linux.Str(cwd))
	}
	// As root first: the directory may be closed to the user. If it is closed to root (a network file system), as the user.
	chdir().Save(inside).Ignore(unix.EACCES, unix.EPERM)

	p.Step("limit the capabilities")
	for n := range capNames {
		if own.bounding.has(n) && !caps.bounding.has(n) {
			p.Call(unix.SYS_PRCTL, linux.N(unix.PR_CAPBSET_DROP), linux.N(n), linux.N(0), linux.N(0), linux.N(0))
		}
	}
	p.Step("set the groups")
	if groups := pr.User.AdditionalGids; len(groups) > 0 {
		p.Call(unix.SYS_SETGROUPS, linux.N(len(groups)), linux.Ptr(&groups[0]))
	} else if !e.keepGroups {
		p.Call(unix.SYS_SETGROUPS, linux.N(0), linux.N(0))
	}
	p.Step("set the user")
	p.Call(unix.SYS_PRCTL, linux.N(unix.PR_SET_KEEPCAPS), linux.N(1), linux.N(0), linux.N(0), linux.N(0))
	gid, uid := linux.N(pr.User.GID), linux.N(pr.User.UID)
	p.Call(unix.SYS_SETRESGID, gid, gid, gid)
	p.Call(unix.SYS_SETRESUID, uid, uid, uid)
	umask := uint32(0o022)
	if pr.User.Umask != nil {
		umask = *pr.User.Umask
	}
	p.Call(unix.SYS_UMASK, linux.N(umask))

	before := caps
	if len(e.filter) > 0 && !pr.NoNewPrivileges {
		before.raise(own.permitted, unix.CAP_SYS_ADMIN)
	}
	if e.lateDeadline() {
		before.raise(own.permitted, unix.CAP_SYS_NICE)
	}
	p.Step("set the capabilities")
	capset(p, before)
	chdir().Unless(inside)
	buf := make([]byte, unix.PathMax)
	p.Step(stepEscape)
	p.Call(unix.SYS_GETCWD, linux.Bytes(buf), linux.N(len(buf))).Rooted(buf)
	if !e.sibling && e.listener == nil { // which is passed on before: by a create, not by its start
		e.wait(p)
	}
	e.last(p, before, caps)
}

// last adds what is left to do. From here on every call may be one that the profile forbids: only what must come last does.
// A sibling has no right that the container lacks, where the profile allows what it still has to do.
func (e *execution) last(p *linux.Program, before, caps capSets) {
	settled := e.process.NoNewPrivileges
	if settled {
		p.Step("set no_new_privs")
		p.Call(unix.SYS_PRCTL, linux.N(unix.PR_SET_NO_NEW_PRIVS), linux.N(1), linux.N(0), linux.N(0), linux.N(0))
	}
	finish := func() {
		if before != caps {
			p.Step("set the capabilities")
			capset(p, caps)
		}
		e.ambient(p, caps)
	}
	switch {
	case e.sibling && e.listener != nil:
		e.loadFilter(p)
		e.notify(p)
		p.Call(unix.SYS_CLOSE, linux.N(e.listenerNumber()))
		if e.lateDeadline() {
			e.enter(p)
			finish()
			return
		}
		finish()
		e.enter(p)
	case e.listener != nil:
		e.loadFilter(p)
		e.notify(p)
		e.wait(p)
		finish()
	case e.sibling && settled && !e.lateDeadline():
		finish()
		e.enter(p)
		e.loadFilter(p)
	case e.sibling && !e.lateDeadline() && e.passes():
		e.loadFilter(p)
		finish()
		e.enter(p)
	case settled:
		e.enter(p)
		finish()
		e.loadFilter(p)
	default:
		e.enter(p)
		e.loadFilter(p)
		finish()
	}
}

// wait adds the wait for a byte.
func (e *execution) wait(p *linux.Program) {
	if e.hold == nil {
		return
	}
	p.Step("wait to be started")
	p.Notify()
	if e.lateReport != nil { // from here on the parent does not listen any more
		flags := unix.O_CLOEXEC
		if e.small != nil {
			flags = 0
		}
		p.Call(unix.SYS_DUP3, linux.N(e.lateNumber()), linux.N(e.reportNumber()), linux.N(flags))
	}
	p.Call(unix.SYS_READ, linux.N(e.holdNumber()), linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
}

// The steps whose failure the caller's user can do something about.
const (
	stepCwd    = "chdir to cwd"
	stepEscape = "current working directory is outside of container mount namespace root"
	stepExec   = "exec"
	stepEnter  = "enter the container"
)

func capset(p *linux.Program, caps capSets) {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	p.Call(unix.SYS_CAPSET, linux.Ptr(hdr), linux.Ptr(caps.capData()))
}

func (e *execution) ambient(p *linux.Program, caps capSets) {
	if caps.ambient == 0 {
		return
	}
	p.Step("set the ambient capabilities")
	for n := range capNames {
		if caps.ambient.has(n) {
			p.Call(unix.SYS_PRCTL, linux.N(unix.PR_CAP_AMBIENT), linux.N(unix.PR_CAP_AMBIENT_RAISE), linux.N(n),
				linux.N(0), linux.N(0))
		}
	}
}

// loadFilter adds seccomp(2).
func (e *execution) loadFilter(p *linux.Program) {
	if len(e.filter) == 0 {
		return
	}
	p.Step("load the seccomp filter")
	prog := &unix.SockFprog{Len: uint16(len(e.filter) / int(unsafe.Sizeof(unix.SockFilter{}))),
		Filter: (*unix.SockFilter)(unsafe.Pointer(&e.filter[0]))}
	p.Call(unix.SYS_SECCOMP, linux.N(unix.SECCOMP_SET_MODE_FILTER), linux.N(e.filterFlags), linux.Ptr(prog))
}

// execute adds execve. A name without a slash is tried in every directory of PATH, by the kernel itself and as the user, and
// one that may not be executed there is passed over, as Docker's runtime does.
func (e *execution) execute(p *linux.Program) error {
	name := e.process.Args[0]
	if e.file != "" {
		name = e.file
	}
	files := []string{name}
	if !strings.ContainsRune(name, '/') {
		e.searched, files = true, e.candidates()
	}
	switch {
	case e.init:
		return e.executeSmall(p, append([]string{"/sbin/docker-init", "--"}, e.process.Args...))
	case e.small != nil && len(files) > 0:
		return e.executeSmall(p, e.process.Args, files...)
	}
	argv, env := linux.Strs(e.process.Args), linux.StrsAround(nil, e.env, e.home)
	p.Step(stepExec)
	e.execFrom = p.Len()
	for i, file := range files {
		c := p.Call(unix.SYS_EXECVE, linux.Str(file), argv, env)
		if i < len(files)-1 {
			c.Ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		}
	}
	if len(files) == 0 {
		p.Fail(unix.ENOENT)
	}
	return nil
}

// separator stands between the paths of an order.
const separator = "\x01"

// executeSmall adds the execve of a small program, with what it needs to know (see small.go). Without files the order comes later.
func (e *execution) executeSmall(p *linux.Program, argv []string, files ...string) error {
	if e.orderText("")[0] > 126 {
		return fmt.Errorf("%d files cannot be preserved: %w", len(e.preserve), errdefs.ErrInvalidArgument)
	}
	for _, f := range files {
		if strings.Contains(f, separator) {
			return &ExecError{Errno: unix.ENOENT, Path: e.process.Args[0], Step: stepExec}
		}
	}
	order := e.order
	if order == nil {
		order = append([]byte(e.orderText(files...)), 0)
	}
	p.Step(stepExec)
	e.execFrom = p.Len()
	p.Call(unix.SYS_EXECVEAT, linux.N(e.smallNumber()), linux.Str(""), linux.Strs(argv), linux.StrsAround(order, e.env, e.home),
		linux.N(unix.AT_EMPTY_PATH))
	return nil
}

func (e *execution) orderText(files ...string) string {
	const first = 32
	return string(rune(first+e.reportNumber())) + strings.Join(files, separator)
}

// candidates are the files that a name without a slash may mean.
func (e *execution) candidates() []string {
	list := defaultPath
	for _, kv := range e.env {
		if v, found := strings.CutPrefix(kv, "PATH="); found {
			list = v
		}
	}
	var files []string
	for dir := range strings.SplitSeq(list, ":") {
		if name := e.process.Args[0]; dir != "" && name != "" {
			files = append(files, strings.TrimRight(dir, "/")+"/"+name)
		}
	}
	return files
}

// environment is what the process gets of what was asked for: of several with one name the last, since most programs see the first;
// and no empty home.
func environment(env []string) []string {
	list := make([]string, 0, len(env))
	seen := make(map[string]struct{}, len(env))
	for i := len(env) - 1; i >= 0; i-- {
		name, _, _ := strings.Cut(env[i], "=")
		if _, again := seen[name]; !again && env[i] != "HOME=" {
			list = append(list, env[i])
		}
		seen[name] = struct{}{}
	}
	slices.Reverse(list)
	return list
}

func hasHome(env []string) bool {
	return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") })
}

// homeOf is a user's home directory by the container's passwd file.
func homeOf(root *confine.Root, user uint32) string {
	const maxPasswd = 10 << 20
	if data, err := root.ReadFile("/etc/passwd", maxPasswd); err == nil {
		uid := strconv.FormatUint(uint64(user), 10)
		for line := range strings.Lines(string(data)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) >= 6 && f[2] == uid && path.IsAbs(f[5]) && len(f[5]) < unix.PathMax {
				return f[5]
			}
		}
	}
	return "/"
}

// lookUp finds the program's file, where that has to be known before execve: for a process that will be held, whose releaser
// may not be there to hear of an error, and for one below an init. It looks as root and without /proc, so it reports only
// what is certain.
func (e *execution) lookUp(root *confine.Root, hold bool) error {
	if !hold && !e.init {
		return nil
	}
	name := e.process.Args[0]
	files := []string{name}
	if !strings.ContainsRune(name, '/') {
		e.searched, files = true, e.candidates()
	}
	for _, file := range files {
		e.found = file
		if !path.IsAbs(file) {
			file = path.Join(e.process.Cwd, file)
		}
		fi, err := root.Stat(file)
		if err != nil && !missing(err) || below(path.Clean(file), "/proc") {
			return nil
		}
		if err == nil {
			if fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return nil
			}
			if !e.searched {
				return &ExecError{Errno: unix.EACCES, Path: name, Step: stepExec}
			}
		}
	}
	return &ExecError{Errno: unix.ENOENT, Path: name, Step: stepExec, Searched: e.searched}
}

// fork clones the child.
func (e *execution) fork(p *linux.Program) (*linux.Child, error) {
	o := linux.ForkOptions{Flags: e.cloneFlags, Cgroup: e.groupDir}
	if e.moved {
		o.Cgroup = nil
	}
	return p.Fork(o)
}
