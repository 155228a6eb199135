package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestMain makes this program, which is static, its own probe: hostile images carry it as /probe, and there it does what
// a hostile program would and prints what came of it.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "probe" {
		probe(os.Args[1:])
		return
	}
	os.Exit(m.Run())
}

func probe(args []string) {
	name, args := args[0], args[1:]
	switch name {
	case "fds":
		probeFds()
	case "open":
		for _, file := range args {
			f, err := os.Open(file)
			fmt.Println(file, cause(err))
			if err == nil {
				f.Close()
			}
		}
	case "calls":
		probeCalls()
	case "keyring":
		id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
		fmt.Println(id, cause(err))
	case "hunt":
		probeHunt()
	case "swap":
		probeSwap(args[0], args[1])
	case "serve":
		probeServe(args)
	case "connect", "reach": // the second for what is to succeed
		wait := map[string]time.Duration{"connect": 400 * time.Millisecond, "reach": time.Minute}[name]
		for _, addr := range args {
			probeConnect(addr, wait)
		}
	case "kill":
		pid, err := strconv.Atoi(args[0])
		if err == nil {
			err = syscall.Kill(pid, 0)
		}
		fmt.Println(cause(err))
	default:
		fmt.Println("unknown probe", name)
		os.Exit(2)
	}
}

// cause is the name of the errno in err: "EPERM".
func cause(err error) string {
	if err == nil {
		return "ok"
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// probeFds prints what every open descriptor is.
func probeFds() {
	for fd := range 1024 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		// The Go runtime has a poller, and reads the limit of processors again and again.
		if err == nil && !strings.HasPrefix(link, "anon_inode:") && !strings.HasPrefix(link, "/sys/fs/cgroup/cpu") {
			fmt.Println(fd, link)
		}
	}
}

// probeCalls tries what the default seccomp profile forbids and a process without any capability could do.
func probeCalls() {
	raw := func(name string, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if errno == 0 {
			fmt.Println(name, "ok")
			return
		}
		fmt.Println(name, unix.ErrnoName(errno))
	}
	zero := make([]byte, 256)
	mem := uintptr(unsafe.Pointer(&zero[0]))
	root := append([]byte("/"), 0)
	path := uintptr(unsafe.Pointer(&root[0]))
	raw("keyctl", unix.SYS_KEYCTL, unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0)
	raw("add_key", unix.SYS_ADD_KEY, path, path, 0, 0, ^uintptr(2))
	raw("request_key", unix.SYS_REQUEST_KEY, path, path, 0, 0)
	raw("bpf", unix.SYS_BPF, 0, mem, 4)
	raw("perf_event_open", unix.SYS_PERF_EVENT_OPEN, mem, 0, ^uintptr(0), ^uintptr(0), 0)
	raw("userfaultfd", unix.SYS_USERFAULTFD, 1)
	raw("io_uring_setup", unix.SYS_IO_URING_SETUP, 1, mem)
	raw("mount", unix.SYS_MOUNT, path, path, path, 0, 0)
	raw("umount2", unix.SYS_UMOUNT2, path, 0)
	raw("pivot_root", unix.SYS_PIVOT_ROOT, path, path)
	raw("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, 0, mem, 0)
	raw("fsopen", unix.SYS_FSOPEN, path, 0)
	raw("open_tree", unix.SYS_OPEN_TREE, 0, path, 1)
	raw("move_mount", unix.SYS_MOVE_MOUNT, 0, path, 0, path, 0)
	raw("setns", unix.SYS_SETNS, 0, 0)
	raw("kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)
	raw("init_module", unix.SYS_INIT_MODULE, mem, 0, path)
	raw("delete_module", unix.SYS_DELETE_MODULE, path, 0)
	raw("swapon", unix.SYS_SWAPON, path, 0)
	raw("reboot", unix.SYS_REBOOT, 0, 0, 0, 0)
	raw("acct", unix.SYS_ACCT, path)
	raw("settimeofday", unix.SYS_SETTIMEOFDAY, 0, mem)
	raw("quotactl", unix.SYS_QUOTACTL, 0, path, 0, mem)
	raw("unshare-user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER|unix.CLONE_FS)
	raw("unshare-mount", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	raw("clone3", unix.SYS_CLONE3, 0, 0)
	raw("socket-alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	raw("socket-vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	raw("lookup_dcookie", 212, 0, mem, 8)
	raw("personality", unix.SYS_PERSONALITY, 0x0040000)
}

// probeHunt looks for processes that come into the container from outside, and tries to get through them at the host: by
// their program's file, their directories and descriptors, their memory. It ends when /stop appears.
func probeHunt() {
	known := map[string]bool{}
	counts := map[string]int{}
	fmt.Println("hunting")
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
		if _, err := os.Stat("/stop"); err == nil {
			break
		}
		dir, err := os.Open("/proc")
		if err != nil {
			break
		}
		names, _ := dir.Readdirnames(-1)
		dir.Close()
		for _, pid := range names {
			n, err := strconv.Atoi(pid)
			if err != nil || n == os.Getpid() {
				continue
			}
			if !known[pid] {
				known[pid] = true
				counts["seen"]++
			}
			prey(pid, counts)
		}
	}
	for _, what := range []string{"seen", "exe", "written", "descriptor", "outside"} {
		fmt.Println(what, counts[what])
	}
}

func prey(pid string, counts map[string]int) {
	link, err := os.Readlink("/proc/" + pid + "/exe")
	if err == nil && !strings.HasPrefix(link, "/bin/") && link != "/probe" { // not one of the container's own
		counts["exe"]++
		if f, err := os.OpenFile("/proc/"+pid+"/exe", os.O_RDONLY, 0); err == nil {
			for range 50 {
				w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
				if err != nil {
					continue
				}
				if _, err := w.WriteAt([]byte("#!/bin/false\n"), 0); err == nil {
					counts["written"]++
				}
				w.Close()
			}
			f.Close()
		}
	}
	for _, place := range []string{"cwd", "root"} {
		outside("/proc/"+pid+"/"+place, counts)
	}
	fds, err := os.ReadDir("/proc/" + pid + "/fd")
	if err != nil {
		return
	}
	for _, fd := range fds {
		if n, err := strconv.Atoi(fd.Name()); err == nil && n > 2 {
			outside("/proc/"+pid+"/fd/"+fd.Name(), counts)
		}
	}
}

// outside counts a directory that leads to the host: one whose top is not the container's root.
func outside(place string, counts map[string]int) {
	fd, err := unix.Open(place, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var own, top unix.Stat_t
	if unix.Stat("/", &own) != nil {
		return
	}
	up, err := unix.Openat(fd, strings.Repeat("../", 30)+".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return
	}
	defer unix.Close(up)
	if unix.Fstat(up, &top) == nil && (top.Ino != own.Ino || top.Dev != own.Dev) {
		counts["outside"]++
	}
}

// probeSwap exchanges two names as fast as it can, until /stop appears.
func probeSwap(a, b string) {
	fmt.Println("swapping")
	for i := 0; ; i++ {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			fmt.Println(cause(err))
			return
		}
		if i%1000 == 0 {
			if _, err := os.Stat("/stop"); err == nil {
				return
			}
		}
	}
}

// probeServe answers every connection with a text. With two more arguments it is a name server that answers nothing and notes
// in a file what it was asked.
func probeServe(args []string) {
	if len(args) == 4 {
		pc, err := net.ListenPacket("udp", args[2])
		if err != nil {
			fmt.Println(err)
			return
		}
		asked, err := os.Create(args[3])
		if err != nil {
			fmt.Println(err)
			return
		}
		go func() {
			buf := make([]byte, 1500)
			for {
				n, _, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				// Labels have their length before them: any of those is a dot to grep.
				fmt.Fprintln(asked, strings.Map(func(r rune) rune {
					if r < ' ' || r > '~' {
						return '.'
					}
					return r
				}, string(buf[:n])))
			}
		}()
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		fmt.Println(err)
		return
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(conn, args[1])
		conn.Close()
	}
}

func probeConnect(addr string, wait time.Duration) {
	conn, err := net.DialTimeout("tcp", addr, wait)
	if err != nil {
		fmt.Println("refused")
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	data, err := io.ReadAll(conn)
	if err != nil || len(data) == 0 {
		fmt.Println("refused")
		return
	}
	fmt.Print(string(data))
}
