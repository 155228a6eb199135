package ocirun

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const mountAttrSize = unsafe.Sizeof(unix.MountAttr{})

// step names the calls that follow.
func (b *builder) step(format string, args ...any) { b.p.Step(fmt.Sprintf(format, args...)) }

// finishRoot makes the container's root the only one, and names the machine.
func (b *builder) finishRoot(o StartOptions) {
	s := o.Spec
	if s.Root != nil && s.Root.Readonly {
		b.p.Step("make the root file system read-only")
		b.p.Call(unix.SYS_MOUNT_SETATTR, linux.From(slotRoot), linux.Str(""), linux.N(unix.AT_EMPTY_PATH),
			linux.Ptr(&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}), linux.N(mountAttrSize))
	}
	b.p.Step("change the root")
	dot := linux.Str(".")
	b.p.Call(unix.SYS_FCHDIR, linux.From(slotRoot))
	b.p.Call(unix.SYS_PIVOT_ROOT, dot, dot) // the old root is now on top of the new one (pivot_root(2))
	b.p.Call(unix.SYS_UMOUNT2, dot, linux.N(unix.MNT_DETACH))
	b.p.Call(unix.SYS_CHDIR, linux.Str("/"))
	for _, n := range []struct {
		what, name string
		call       uintptr
	}{{"host name", s.Hostname, unix.SYS_SETHOSTNAME}, {"domain name", s.Domainname, unix.SYS_SETDOMAINNAME}} {
		if n.name == "" || !hasNamespace(s, specs.UTSNamespace) {
			continue
		}
		b.step("set the %s", n.what)
		b.p.Call(n.call, linux.Bytes([]byte(n.name)), linux.N(len(n.name)))
	}
}

// Descriptors of a child on its last steps: the report stays until execve, the others if asked for.
const (
	fdInit   = 3
	fdHold   = 4
	fdReport = rootFD + 20
)

// process is the second half of every child: from a root user inside the container's namespaces to the container's program.
func (b *builder) process(p *specs.Process, stdio [3]*os.File, terminal bool, filter []byte, init, hold *os.File, keyring string) error {
	b.p.Step("make a session")
	b.p.Call(unix.SYS_SETSID)
	b.p.Step("join the session keyring")
	b.p.Call(unix.SYS_KEYCTL, linux.N(unix.KEYCTL_JOIN_SESSION_KEYRING), linux.Str(keyring)).
		Ignore(unix.ENOSYS, unix.EPERM, unix.EDQUOT)
	if err := b.rlimits(p.Rlimits); err != nil {
		return err
	}
	if err := b.descriptors(stdio, terminal, init, hold); err != nil {
		return err
	}

	// From here on no descriptor leads to the host, so that the working directory cannot either (CVE-2024-21626).
	b.step("enter the working directory %q", p.Cwd)
	b.p.Call(unix.SYS_CHDIR, linux.Str(p.Cwd))
	cwd := make([]byte, unix.PathMax)
	b.p.Call(unix.SYS_GETCWD, linux.Bytes(cwd), linux.N(unix.PathMax)).Rooted(cwd)
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	b.p.Call(unix.SYS_UMASK, linux.N(umask))
	if hold != nil {
		b.p.Step("wait to be started")
		b.p.Call(unix.SYS_READ, linux.N(fdHold), linux.Bytes(make([]byte, 1)), linux.N(1)).NeedsData()
		b.p.Call(unix.SYS_CLOSE, linux.N(fdHold))
	}
	if err := b.identity(p, filter); err != nil {
		return err
	}
	b.step("%s", execStep)
	return b.exec(p, init)
}

// rlimits sets the limits. Raising one needs CAP_SYS_RESOURCE, which a daemon inside a container may lack: that is a
// warning, as with Docker.
func (b *builder) rlimits(limits []specs.POSIXRlimit) error {
	for _, l := range limits {
		which, ok := rlimitNumbers[l.Type]
		if !ok {
			return fmt.Errorf("unknown resource limit %q", l.Type)
		}
		if l.Soft > l.Hard {
			return fmt.Errorf("%s: the soft limit %d is above the hard limit %d", l.Type, l.Soft, l.Hard)
		}
		lim := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		var own unix.Rlimit
		if err := unix.Prlimit(0, which, nil, &own); err == nil && lim.Max > own.Max && !capable(unix.CAP_SYS_RESOURCE) {
			b.warnings = append(b.warnings, fmt.Sprintf("%s cannot be raised to %d without CAP_SYS_RESOURCE: it stays at %d",
				l.Type, lim.Max, own.Max))
			lim.Max = own.Max
			lim.Cur = min(lim.Cur, lim.Max)
		}
		b.step("set %s", l.Type)
		b.p.Call(unix.SYS_PRLIMIT64, linux.N(0), linux.N(which), linux.Ptr(&lim), linux.N(0))
	}
	return nil
}

var rlimitNumbers = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// capable says whether this process has a capability in its effective set.
func capable(c int) bool {
	var data [2]unix.CapUserData
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	return unix.Capget(&h, &data[0]) == nil && data[c/32].Effective&(1<<(c%32)) != 0
}

// descriptors puts the standard streams in their places and closes all others. They go through high numbers first, so
// that no source is overwritten before its turn.
func (b *builder) descriptors(stdio [3]*os.File, terminal bool, init, hold *os.File) error {
	const high = rootFD + 10
	b.p.Step("connect the standard streams")
	for i, f := range stdio {
		if f == nil {
			var err error
			if f, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return err
			}
			b.own(f)
		}
		if fi, err := f.Stat(); err != nil || fi.IsDir() {
			return errors.Join(fmt.Errorf("stream %d is a directory, which would lead out of the container", i), err)
		}
		b.p.Call(unix.SYS_DUP3, linux.FD(f), linux.N(high+i), linux.N(unix.O_CLOEXEC))
	}
	for i, f := range []*os.File{init, hold} {
		if f != nil {
			b.p.Call(unix.SYS_DUP3, linux.FD(f), linux.N(high+3+i), linux.N(unix.O_CLOEXEC))
		}
	}
	for i := range stdio {
		b.p.Call(unix.SYS_DUP3, linux.N(high+i), linux.N(i), linux.N(0))
	}
	b.p.Call(unix.SYS_DUP3, linux.From(linux.ReportSlot), linux.N(fdReport), linux.N(unix.O_CLOEXEC)).Save(linux.ReportSlot)
	above := 3
	for i, f := range []*os.File{init, hold} {
		if f != nil {
			b.p.Call(unix.SYS_DUP3, linux.N(high+3+i), linux.N(fdInit+i), linux.N(unix.O_CLOEXEC))
			above = fdInit + i + 1
		}
	}
	if init == nil && hold != nil {
		b.p.Call(unix.SYS_CLOSE, linux.N(fdInit)).Ignore(unix.EBADF)
	}
	b.step("close all other descriptors")
	b.p.Call(unix.SYS_CLOSE_RANGE, linux.N(above), linux.N(fdReport-1), linux.N(0))
	b.p.Call(unix.SYS_CLOSE_RANGE, linux.N(fdReport+1), linux.N(^uint32(0)), linux.N(0))
	if terminal {
		b.p.Step("take the terminal")
		b.p.Call(unix.SYS_IOCTL, linux.N(0), linux.N(unix.TIOCSCTTY), linux.N(0))
	}
	return nil
}

// identity gives up what the container's program must not have. The order is the kernel's: the bounding set while
// CAP_SETPCAP is there, groups before the user, the filter while CAP_SYS_ADMIN or no_new_privs allows it, and the final
// capabilities last.
func (b *builder) identity(p *specs.Process, filter []byte) error {
	caps, err := parseCaps(p.Capabilities)
	if err != nil {
		return err
	}
	b.p.Step("drop capabilities from the bounding set")
	for c := range 64 {
		if c <= unix.CAP_LAST_CAP && caps.bounding&(1<<c) == 0 {
			b.p.Call(unix.SYS_PRCTL, linux.N(unix.PR_CAPBSET_DROP), linux.N(c), linux.N(0), linux.N(0), linux.N(0)).Ignore(unix.EINVAL)
		}
	}
	b.p.Step("set the supplementary groups")
	groups := p.User.AdditionalGids
	if len(groups) == 0 {
		b.p.Call(unix.SYS_SETGROUPS, linux.N(0), linux.N(0))
	} else {
		b.p.Call(unix.SYS_SETGROUPS, linux.N(len(groups)), linux.Ptr(&groups[0]))
	}
	b.step("become user %d:%d", p.User.UID, p.User.GID)
	b.p.Call(unix.SYS_PRCTL, linux.N(unix.PR_SET_KEEPCAPS), linux.N(1), linux.N(0), linux.N(0), linux.N(0))
	gid, uid := linux.N(p.User.GID), linux.N(p.User.UID)
	b.p.Call(unix.SYS_SETRESGID, gid, gid, gid)
	b.p.Call(unix.SYS_SETRESUID, uid, uid, uid)
	if p.NoNewPrivileges {
		b.p.Step("set no_new_privs")
		b.p.Call(unix.SYS_PRCTL, linux.N(unix.PR_SET_NO_NEW_PRIVS), linux.N(1), linux.N(0), linux.N(0), linux.N(0))
	}
	if len(filter) > 0 {
		if !p.NoNewPrivileges {
			const admin = 1 << unix.CAP_SYS_ADMIN
			with := caps
			with.permitted |= admin
			with.effective |= admin
			b.capset(with)
		}
		if len(filter)%8 != 0 || len(filter)/8 > 0xffff {
			return fmt.Errorf("the seccomp filter has %d bytes, which is not a number of instructions", len(filter))
		}
		prog := &unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
		b.p.Step("load the seccomp filter")
		b.p.Call(unix.SYS_SECCOMP, linux.N(unix.SECCOMP_SET_MODE_FILTER), linux.N(0), linux.Ptr(prog))
	}
	b.capset(caps)
	b.p.Step("set the ambient capabilities")
	b.p.Call(unix.SYS_PRCTL, linux.N(unix.PR_CAP_AMBIENT), linux.N(unix.PR_CAP_AMBIENT_CLEAR_ALL), linux.N(0), linux.N(0), linux.N(0)).
		Ignore(unix.EINVAL)
	for c := range 64 {
		if caps.ambient&(1<<c) != 0 {
			b.p.Call(unix.SYS_PRCTL, linux.N(unix.PR_CAP_AMBIENT), linux.N(unix.PR_CAP_AMBIENT_RAISE), linux.N(c), linux.N(0), linux.N(0))
		}
	}
	return nil
}

type capSets struct{ bounding, effective, permitted, inheritable, ambient uint64 }

func (b *builder) capset(c capSets) {
	data := &[2]unix.CapUserData{
		{Effective: uint32(c.effective), Permitted: uint32(c.permitted), Inheritable: uint32(c.inheritable)},
		{Effective: uint32(c.effective >> 32), Permitted: uint32(c.permitted >> 32), Inheritable: uint32(c.inheritable >> 32)},
	}
	b.p.Step("set the capabilities")
	b.p.Call(unix.SYS_CAPSET, linux.Ptr(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}), linux.Ptr(data))
}

// capNames are the capabilities by their numbers (capability.h).
var capNames = [...]string{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"}

func parseCaps(c *specs.LinuxCapabilities) (s capSets, err error) {
	if c == nil {
		return s, nil
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted}, {c.Inheritable, &s.inheritable},
		{c.Ambient, &s.ambient}} {
		for _, name := range set.names {
			i := -1
			for n, known := range capNames {
				if strings.TrimPrefix(name, "CAP_") == known {
					i = n
				}
			}
			if i < 0 {
				return s, fmt.Errorf("unknown capability %q", name)
			}
			*set.bits |= 1 << i
		}
	}
	return s, nil
}

// exec ends the child's steps in the container's program, or in init, which starts it.
func (b *builder) exec(p *specs.Process, init *os.File) error {
	if init != nil {
		b.p.Call(unix.SYS_EXECVEAT, linux.N(fdInit), linux.Str(""), linux.Strs(append([]string{"/sbin/docker-init", "--"}, p.Args...)),
			linux.Strs(p.Env), linux.N(unix.AT_EMPTY_PATH))
		return nil
	}
	if strings.Contains(p.Args[0], "/") {
		b.p.Call(unix.SYS_EXECVE, linux.Str(p.Args[0]), linux.Strs(p.Args), linux.Strs(p.Env))
		return nil
	}
	argv, env := linux.Strs(p.Args), linux.Strs(p.Env)
	for _, name := range searchPaths(p.Args[0], p.Env) {
		b.p.Call(unix.SYS_EXECVE, linux.Str(name), argv, env).Ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES).Sticky()
	}
	b.p.Fail(unix.ENOENT)
	return nil
}

// searchPaths are where a program without a slash in its name may be: along the PATH it will see itself.
func searchPaths(name string, env []string) []string {
	var paths []string
	for _, kv := range env {
		value, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		paths = nil // the last one counts
		for dir := range strings.SplitSeq(value, ":") {
			if path.IsAbs(dir) { // never the working directory
				paths = append(paths, path.Join(dir, name))
			}
		}
	}
	return paths
}
