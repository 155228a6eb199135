package ocirun

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// decide answers the first notification with an error, and gives the number of the system call.
func decide(notify *os.File, errno unix.Errno) (nr uint32, err error) {
	var req [80]byte
	var resp [24]byte
	ioctl := func(call uintptr, p *byte) error {
		for {
			_, _, e := unix.Syscall(unix.SYS_IOCTL, notify.Fd(), call, uintptr(unsafe.Pointer(p)))
			if e == unix.EINTR {
				continue
			}
			if e != 0 {
				return e
			}
			return nil
		}
	}
	if err := ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, &req[0]); err != nil {
		return 0, err
	}
	copy(resp[:8], req[:8])
	answer := -int32(errno)
	binary.NativeEndian.PutUint32(resp[16:], uint32(answer))
	return binary.NativeEndian.Uint32(req[16:]), ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, &resp[0])
}

// asked is what an agent was told and asked.
type asked struct {
	state specs.ContainerProcessState
	nr    uint32
	err   error
}

// agent listens for one process, and answers the first of its calls with ENOTBLK.
func agent(t *testing.T) (socket string, answers chan asked) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	answers = make(chan asked, 1)
	go func() {
		var a asked
		defer func() { answers <- a }()
		conn, err := l.AcceptUnix()
		if a.err = err; err != nil {
			return
		}
		defer conn.Close()
		buf := make([]byte, 1<<16)
		n, files, err := linux.RecvMsg(conn, buf, 1)
		if a.err = err; err != nil {
			return
		}
		rest, _ := io.ReadAll(conn)
		if a.err = json.Unmarshal(append(buf[:n:n], rest...), &a.state); a.err != nil || len(files) != 1 {
			return
		}
		defer files[0].Close()
		a.nr, a.err = decide(files[0], unix.ENOTBLK)
	}()
	return socket, answers
}

func asksAbout(socket string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: socket, ListenerMetadata: "meta",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
}

func (a *asked) check(t *testing.T, pid int, status specs.ContainerState, containerPid int) {
	t.Helper()
	if a.err != nil || a.nr != unix.SYS_MKDIR && a.nr != unix.SYS_MKDIRAT {
		t.Error(a.nr, a.err)
	}
	st := a.state
	if st.Version != specs.Version || len(st.Fds) != 1 || st.Fds[0] != "seccompFd" || st.Pid != pid || st.Metadata != "meta" ||
		st.State.ID != "asked" || st.State.Status != status || st.State.Pid != containerPid {
		t.Errorf("%+v, of process %d", st, pid)
	}
}

// A listener gets the descriptor and the container's state, and decides what a call of the container comes to.
func TestSeccompListener(t *testing.T) {
	needRoot(t)
	for _, kind := range []string{"", "held", "joined"} {
		for _, nnp := range []bool{false, true} {
			socket, answers := agent(t)
			o := StartOptions{ID: "asked", Spec: newSpec(newRootfs(t), "sh", "-c", "mkdir /tmp/x; echo done"), Hold: kind == "held"}
			o.Spec.Process.NoNewPrivileges = nnp
			o.Spec.Linux.Seccomp = asksAbout(socket)
			if kind == "joined" {
				other, _ := sleeper(t, nil)
				o.Spec.Linux.Namespaces[slices.IndexFunc(o.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
					return n.Type == specs.PIDNamespace
				})].Path = fmt.Sprintf("/proc/%d/ns/pid", other.Pid)
				o.Spec.Process.Args[2] += "; test $$ != 1 && test -e /proc/1 && echo joined"
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			o.Stdout, o.Stderr = w, w
			p, err := Start(context.Background(), o)
			if err != nil {
				t.Fatal(kind, err)
			}
			_ = w.Close()
			if o.Hold {
				if err := p.Release(); err != nil {
					t.Fatal(err)
				}
			}
			a := <-answers
			a.check(t, p.Pid, specs.StateCreating, p.Pid)
			out, _ := io.ReadAll(r)
			has(t, string(out), "Block device required", "done")
			if kind == "joined" {
				has(t, string(out), "joined")
			}
			if _, err := linux.WaitPidfd(p.Pidfd); err != nil {
				t.Error(err)
			}
			_, _ = p.Close(), r.Close()
		}
	}
}

// A process that is executed is decided about, too.
func TestExecWithSeccompListener(t *testing.T) {
	p, s := sleeper(t, nil)
	for _, nnp := range []bool{false, true} {
		socket, answers := agent(t)
		profile := asksAbout(socket)
		f, err := seccomp.Compile(profile)
		if err != nil {
			t.Fatal(err)
		}
		proc := *s.Process
		proc.NoNewPrivileges = nnp
		proc.Args = []string{"sh", "-c", "echo $$; mkdir /tmp/x; echo done; ls -l /proc/self/fd"}
		out, code, err := execIn(t, p, ExecOptions{Process: &proc, Seccomp: f.Prog, SeccompFlags: f.Flags,
			Listener: ListenerOf(f, profile, &State{OCIVersion: specs.Version, ID: "asked", Pid: p.Pid, StartTime: p.StartTime})})
		if err != nil || code.Code != 0 {
			t.Fatal(nnp, code, err)
		}
		a := <-answers
		a.check(t, a.state.Pid, specs.StateRunning, p.Pid)
		if a.state.Pid == p.Pid || a.state.Pid <= 0 {
			t.Errorf("%+v", a.state)
		}
		has(t, out, "Block device required", "done")
		if strings.Contains(out, "seccomp") {
			t.Error("the descriptor is left to the process: ", out)
		}
	}

	proc := *s.Process
	for name, c := range map[string]struct {
		path string
		call string
		want string
	}{"nobody listens": {filepath.Join(t.TempDir(), "none"), "mkdir", "no such file"}, "no path": {"", "mkdir", "listenerPath"},
		"a call that is needed": {"/x", "clone", "does not allow"}} {
		profile := asksAbout(c.path)
		profile.Syscalls[0].Names = []string{c.call}
		f, err := seccomp.Compile(profile)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := execIn(t, p, ExecOptions{Process: &proc, Seccomp: f.Prog, SeccompFlags: f.Flags,
			Listener: ListenerOf(f, profile, &State{Pid: p.Pid})}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Error(name, err)
		}
	}
}

func TestSeccompListenerRefused(t *testing.T) {
	needRoot(t)
	for name, c := range map[string]struct {
		l    specs.LinuxSeccomp
		want string
	}{
		"no path":   {specs.LinuxSeccomp{}, "listenerPath"},
		"no socket": {specs.LinuxSeccomp{ListenerPath: filepath.Join(t.TempDir(), "none")}, "no such file"},
		"read":      {specs.LinuxSeccomp{ListenerPath: "/x", Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActNotify}}}, "allow read"},
	} {
		o := StartOptions{Spec: newSpec(newRootfs(t), "true")}
		c.l.DefaultAction = specs.ActAllow
		c.l.Syscalls = append(c.l.Syscalls, specs.LinuxSyscall{Names: []string{"mkdir"}, Action: specs.ActNotify})
		o.Spec.Linux.Seccomp = &c.l
		if _, _, _, err := tryRun(t, o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Error(name, err)
		}
	}
}

func TestMemoryPolicy(t *testing.T) {
	const numa = "cat /proc/self/numa_maps"
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Skip("this kernel has no NUMA policies:", err)
	}
	has(t, sh(t, numa, func(o *StartOptions) {
		o.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
	}), " bind=static:0 ")
	has(t, sh(t, numa, func(o *StartOptions) {
		o.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal}
	}), " local ")
	for name, m := range map[string]specs.LinuxMemoryPolicy{"mode": {Mode: "x"}, "flag": {Mode: specs.MpolBind, Flags: []specs.MemoryPolicyFlagType{"x"}},
		"nodes": {Mode: specs.MpolBind, Nodes: "3-1"}, "number": {Mode: specs.MpolBind, Nodes: "99999"}} {
		s := newSpec(t.TempDir(), "true")
		s.Linux.MemoryPolicy = &m
		if err := Check(s); !errdefs.IsInvalidArgument(err) {
			t.Error(name, err)
		}
	}
}

func TestExecCPUAffinity(t *testing.T) {
	p, s := sleeper(t, nil)
	proc := *s.Process
	proc.Args = []string{"grep", "Cpus_allowed_list", "/proc/self/status"}
	for _, c := range []struct {
		a    specs.CPUAffinity
		want string
	}{{specs.CPUAffinity{Initial: "0"}, ":\t0\n"}, {specs.CPUAffinity{Initial: "0-1", Final: "0"}, ":\t0\n"}, {specs.CPUAffinity{Final: "0"}, ":\t0\n"}} {
		proc.ExecCPUAffinity = &c.a
		out, _, err := execIn(t, p, ExecOptions{Process: &proc})
		if err != nil {
			t.Fatal(err)
		}
		has(t, out, c.want)
	}
	proc.ExecCPUAffinity = &specs.CPUAffinity{Final: "1-"}
	if _, _, err := execIn(t, p, ExecOptions{Process: &proc}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}
