package ocirun

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/berth-engine/berth/internal/linux"
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

// A listener gets the descriptor and the container's state, and decides what a call of the container comes to.
func TestSeccompListener(t *testing.T) {
	needRoot(t)
	for _, held := range []bool{false, true} {
		for _, nnp := range []bool{false, true} {
			socket := filepath.Join(t.TempDir(), "socket")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
			if err != nil {
				t.Fatal(err)
			}
			type answer struct {
				state specs.ContainerProcessState
				nr    uint32
				err   error
			}
			answers := make(chan answer, 1)
			go func() {
				var a answer
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
			o := StartOptions{ID: "asked", Spec: newSpec(newRootfs(t), "sh", "-c", "mkdir /tmp/x; echo done"), Hold: held}
			o.Spec.Process.NoNewPrivileges = nnp
			o.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: socket, ListenerMetadata: "meta",
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActNotify}}}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			o.Stdout, o.Stderr = w, w
			p, err := Start(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			if held {
				if err := p.Release(); err != nil {
					t.Fatal(err)
				}
			}
			a := <-answers
			if a.err != nil || a.nr != unix.SYS_MKDIR && a.nr != unix.SYS_MKDIRAT {
				t.Error(a.nr, a.err)
			}
			st := a.state
			if st.Version != specs.Version || len(st.Fds) != 1 || st.Fds[0] != "seccompFd" || st.Pid != p.Pid || st.Metadata != "meta" ||
				st.State.ID != "asked" || st.State.Status != specs.StateCreating || st.State.Pid != p.Pid {
				t.Errorf("%+v", st)
			}
			out, _ := io.ReadAll(r)
			has(t, string(out), "Block device required", "done")
			if _, err := linux.WaitPidfd(p.Pidfd); err != nil {
				t.Error(err)
			}
			_, _, _ = p.Close(), l.Close(), r.Close()
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
