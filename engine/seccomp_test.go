package engine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/linux"
	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The flags of a profile hold for the container's process and for every exec, as the kernel tells of their filters.
func TestAProfilesFlagsReachTheKernel(t *testing.T) {
	e := open(t)
	id := create(t, e, shell("while true; do sleep 1; done", func(c *container.Config) {
		c.Security.Seccomp = `{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],
			"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`
	}))
	start(t, e, id)
	rec, err := e.Containers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	execID, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: []string{"sleep", "100"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Execs.Start(t.Context(), execID, ExecStartOptions{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	ex, err := e.Execs.Inspect(t.Context(), execID)
	if err != nil {
		t.Fatal(err)
	}
	for what, pid := range map[string]int{"container": rec.State.Pid, "exec": ex.Pid} {
		flags, err := filterFlags(pid)
		if errors.Is(err, unix.EIO) {
			t.Skip("this kernel does not tell of filters (CONFIG_CHECKPOINT_RESTORE)")
		}
		if err != nil || flags != unix.SECCOMP_FILTER_FLAG_LOG {
			t.Errorf("%s: flags %#x, %v", what, flags, err)
		}
	}
}

// filterFlags asks the kernel for the flags of a process's newest filter (PTRACE_SECCOMP_GET_METADATA).
func filterFlags(pid int) (uint64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return 0, err
	}
	defer unix.PtraceDetach(pid)
	if err := unix.PtraceInterrupt(pid); err != nil {
		return 0, err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return 0, err
	}
	meta := struct{ filter, flags uint64 }{}
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, 0x420d, uintptr(pid), unsafe.Sizeof(meta), uintptr(unsafe.Pointer(&meta)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return meta.flags, nil
}

// asked is what a seccomp agent was told and which call it decided about.
type asked struct {
	state specs.ContainerProcessState
	nr    uint32
}

// agent listens for seccomp descriptors, and answers the first call of each with ENOTBLK.
func agent(t *testing.T) (socket string, answers chan asked) {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") // the names of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	answers = make(chan asked, 4)
	go func() {
		defer close(answers)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			a, err := answer(conn)
			_ = conn.Close()
			if err != nil {
				t.Error("the agent: ", err)
				return
			}
			answers <- a
		}
	}()
	return socket, answers
}

func answer(conn *net.UnixConn) (a asked, err error) {
	buf := make([]byte, 1<<16)
	n, files, err := linux.RecvMsg(conn, buf, 1)
	if err != nil || len(files) != 1 {
		return a, errors.Join(err, fmt.Errorf("%d descriptors", len(files)))
	}
	defer files[0].Close()
	rest, err := io.ReadAll(conn)
	if err == nil {
		err = json.Unmarshal(append(buf[:n:n], rest...), &a.state)
	}
	if err != nil {
		return a, err
	}
	var req [80]byte  // struct seccomp_notif
	var resp [24]byte // struct seccomp_notif_resp
	for _, call := range []struct {
		nr  uintptr
		arg *byte
	}{{unix.SECCOMP_IOCTL_NOTIF_RECV, &req[0]}, {unix.SECCOMP_IOCTL_NOTIF_SEND, &resp[0]}} {
		copy(resp[:8], req[:8])
		minus := -int32(unix.ENOTBLK)
		binary.NativeEndian.PutUint32(resp[16:], uint32(minus))
		errno := unix.EINTR
		for errno == unix.EINTR {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, files[0].Fd(), call.nr, uintptr(unsafe.Pointer(call.arg)))
		}
		if errno != 0 {
			return a, errno
		}
	}
	a.nr = binary.NativeEndian.Uint32(req[16:])
	return a, nil
}

// Who listens at a profile's listenerPath decides about the calls of the container and of every exec, and is told whose they are.
func TestASeccompListenerDecides(t *testing.T) {
	e := open(t)
	socket, answers := agent(t)
	id := create(t, e, shell("mkdir /asked || echo refused; while true; do sleep 1; done", func(c *container.Config) {
		c.Extra.Annotations = container.Map{"com.example": "here"}
		c.Security.Seccomp = fmt.Sprintf(`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":%q,"listenerMetadata":"meta",
			"syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_NOTIFY"}]}`, socket)
	}))
	start(t, e, id)
	rec, err := e.Containers.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	check := func(a asked, status specs.ContainerState) {
		t.Helper()
		if a.nr != unix.SYS_MKDIRAT && a.nr != unix.SYS_MKDIR {
			t.Error("decided about call", a.nr)
		}
		if st := a.state; st.Metadata != "meta" || st.State.ID != rec.ID || st.State.Status != status || st.State.Pid != rec.State.Pid ||
			st.State.Annotations["com.example"] != "here" || len(st.Fds) != 1 || st.Fds[0] != specs.SeccompFdName {
			t.Errorf("%+v", st)
		}
	}
	check(await(t, "the container's call", answers), specs.StateCreating)
	execID, err := e.Execs.Create(t.Context(), id, ExecConfig{Argv: []string{"mkdir", "/asked"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Execs.Start(t.Context(), execID, ExecStartOptions{Detach: true}, nil); err != nil {
		t.Fatal(err)
	}
	second := await(t, "the exec's call", answers)
	check(second, specs.StateRunning)
	if second.state.Pid <= 0 || second.state.Pid == rec.State.Pid {
		t.Errorf("the exec's process is %d", second.state.Pid)
	}
	if ex, err := e.Execs.Inspect(t.Context(), execID); err != nil || ex.Pid != 0 && ex.Pid != second.state.Pid {
		t.Errorf("%+v, %v", ex, err)
	}

	// Nobody there, or nobody named: an error, and not a container that hangs.
	for path, want := range map[string]string{`"listenerPath":"` + socket + `-none",`: "no such file", "": "listenerPath"} {
		cfg := shell("true", func(c *container.Config) {
			c.Security.Seccomp = `{"defaultAction":"SCMP_ACT_ALLOW",` + path + `"syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]}`
		})
		made, err := e.Create(t.Context(), cfg)
		if err == nil {
			err = e.Start(t.Context(), made.ID, StartOptions{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestNoWayOutOfASize: what bounds a container's layer cannot be left by ioctl(2) under the default profile, whatever the upper
// half of the request is, and every other request passes. Without a bound nothing is refused.
func TestNoWayOutOfASize(t *testing.T) {
	arch, nr := uint32(unix.AUDIT_ARCH_X86_64), int32(unix.SYS_IOCTL)
	if runtime.GOARCH == "arm64" {
		arch = unix.AUDIT_ARCH_AARCH64
	}
	cache := newSeccompCache("")
	for bounded, want := range map[bool]uint32{true: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTTY), false: unix.SECCOMP_RET_ALLOW} {
		f, err := cache.filter(container.Security{}, nil, bounded)
		if err != nil {
			t.Fatal(err)
		}
		compiled := seccomp.Filter{Prog: f.prog}
		for _, e := range escapes {
			for _, request := range []uint64{e, e | 1<<32, e | 0xffffffff<<32} {
				if got := compiled.Simulate(arch, nr, [6]uint64{3, request}); got != want {
					t.Errorf("bounded %v: ioctl %#x: %#x, wanted %#x", bounded, request, got, want)
				}
			}
		}
		for _, request := range []uint64{0, unix.TCGETS, unix.FICLONE, unix.FS_IOC_SETFLAGS, 0x801c581f, 0xffffffff} {
			if got := compiled.Simulate(arch, nr, [6]uint64{3, request}); got != unix.SECCOMP_RET_ALLOW {
				t.Errorf("bounded %v: ioctl %#x: %#x", bounded, request, got)
			}
		}
	}
}
