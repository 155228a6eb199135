package engine

import (
	"errors"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-engine/berth/internal/container"
	"github.com/berth-engine/berth/internal/seccomp"
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
