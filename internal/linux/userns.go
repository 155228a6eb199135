package linux

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// IDMapping maps Size ids from Inside in a user namespace to ids from Outside (user_namespaces(7)).
type IDMapping struct{ Inside, Outside, Size uint32 }

func idMap(list []IDMapping) string {
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "%d %d %d\n", m.Inside, m.Outside, m.Size)
	}
	return b.String()
}

// NewUserNS makes a user namespace with these mappings and returns a descriptor that keeps it. No process stays in it.
func NewUserNS(uids, gids []IDMapping) (*os.File, error) {
	k, err := KeepNamespaces(nil, uids, gids, 0)
	if err != nil {
		return nil, err
	}
	ns := k.User
	k.User = nil
	return ns, k.Close()
}

// Keeper is a process that does nothing but stay in a user namespace and in others that belong to it. A thread of many cannot
// enter a user namespace (setns(2)), and a namespace belongs to the user namespace of who makes it.
type Keeper struct {
	User  *os.File // the user namespace
	Pidfd *os.File // of the process: setns(2) with it joins the others
	wake  *os.File
}

// KeepNamespaces makes the namespaces of flags (CLONE_NEW…, without pid) as ones that belong to the user namespace join, or to
// a new one with these mappings. Close ends the process.
func KeepNamespaces(join *os.File, uids, gids []IDMapping, flags int) (*Keeper, error) {
	if join != nil {
		return keep(join, flags, func(int) error { return nil })
	}
	return keep(nil, flags, func(pid int) error {
		dir := "/proc/" + strconv.Itoa(pid) + "/"
		for _, m := range []struct{ file, text string }{{"uid_map", idMap(uids)}, {"gid_map", idMap(gids)}} {
			if m.text == "" {
				continue
			}
			if err := os.WriteFile(dir+m.file, []byte(m.text), 0); err != nil {
				return fmt.Errorf("mappings %.200q of a user namespace: %w", strings.TrimSpace(m.text), err)
			}
		}
		return nil
	})
}

// KeepUserNS makes a user namespace whose mappings are written by fn, which gets the number of a process in it. Close ends that
// process.
func KeepUserNS(fn func(pid int) error) (*Keeper, error) { return keep(nil, 0, fn) }

func keep(join *os.File, flags int, mapIDs func(pid int) error) (k *Keeper, err error) {
	r, w, err := Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	k = &Keeper{wake: w}
	var p Program
	p.Call(unix.SYS_CLOSE, FD(w)) // so that it ends with the parent
	o := ForkOptions{Flags: unix.CLONE_NEWUSER}
	if join != nil {
		o.Flags = 0
		p.Step("join the user namespace")
		p.Call(unix.SYS_SETNS, FD(join), N(unix.CLONE_NEWUSER))
	}
	p.Step("wait for the mappings")
	p.Notify()
	wait := func() { p.Call(unix.SYS_READ, FD(r), Bytes(make([]byte, 1)), N(1)).NeedsData() }
	wait()
	p.Step("make namespaces")
	p.BecomeRoot()
	p.Call(unix.SYS_UNSHARE, N(flags))
	p.Notify()
	wait()
	c, err := p.Fork(o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a user namespace: %w", err), w.Close())
	}
	k.Pidfd = c.Pidfd
	defer func() {
		err = errors.Join(err, c.closeReport())
		if err != nil {
			err = errors.Join(err, k.Close())
			k = nil
		}
	}()
	if err := c.WaitMark(); err != nil {
		return k, err
	}
	if err := mapIDs(c.Pid); err != nil {
		return k, err
	}
	// Now, since a change of user closes it to all but root.
	if k.User, err = os.Open("/proc/" + strconv.Itoa(c.Pid) + "/ns/user"); err != nil {
		return k, err
	}
	if _, err := w.Write([]byte{0}); err != nil {
		return k, err
	}
	return k, c.WaitMark()
}

// InUserNamespace says whether this process is in another user namespace than the kernel's first, which has this number always
// (include/linux/proc_ns.h).
func InUserNamespace() bool {
	const first = 0xEFFFFFFD
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &st) == nil && st.Ino != first
}

// Capable says whether this process has the capability of this number in effect.
func Capable(capability int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[capability/32].Effective>>(capability%32)&1 != 0
}

// KeepCapabilities has the child keep all capabilities it has in its user namespace when it executes a program, whoever it is.
func (p *Program) KeepCapabilities() {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	all := &[2]unix.CapUserData{}
	last := 0
	for n := range 64 {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0); err != nil {
			break
		}
		all[n/32].Permitted |= 1 << (n % 32)
		last = n
	}
	for i := range all {
		all[i].Effective, all[i].Inheritable = all[i].Permitted, all[i].Permitted
	}
	p.Call(unix.SYS_CAPSET, Ptr(hdr), Ptr(all))
	for n := range last + 1 {
		p.Call(unix.SYS_PRCTL, N(unix.PR_CAP_AMBIENT), N(unix.PR_CAP_AMBIENT_RAISE), N(n), N(0), N(0))
	}
}

// BecomeRoot makes the child root of the user namespace it is in; where that has no root it stays who it is.
func (p *Program) BecomeRoot() {
	p.Call(unix.SYS_SETRESGID, N(0), N(0), N(0)).Ignore(unix.EINVAL)
	p.Call(unix.SYS_SETRESUID, N(0), N(0), N(0)).Ignore(unix.EINVAL)
}

// Close ends the process; namespaces that others are in or hold open stay.
func (k *Keeper) Close() error {
	var errs []error
	if err := PidfdSendSignal(k.Pidfd, unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	_, err := WaitPidfd(k.Pidfd)
	errs = append(errs, err)
	for _, f := range []*os.File{k.User, k.Pidfd, k.wake} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}
