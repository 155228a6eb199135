package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PidfdOpen opens a descriptor of the process pid (pidfd_open(2)). It is readable when the process has ended.
func PidfdOpen(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// PidfdSendSignal sends a signal to the process behind pidfd; for a process that has ended the error is
// os.ErrProcessDone.
func PidfdSendSignal(pidfd *os.File, sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(pidfd.Fd()), sig, nil, 0)
	if err == unix.ESRCH {
		return os.ErrProcessDone
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// WaitStatus is how a process ended.
type WaitStatus struct {
	Code   int         // exit code; 128+signal for one that was killed, as shells and Docker count
	Signal unix.Signal // 0 when it exited by itself
	Core   bool
}

// siginfo is siginfo_t of SIGCHLD on 64-bit Linux, which x/sys leaves opaque.
type siginfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// WaitPidfd waits for the child behind pidfd and reaps it (waitid(2), P_PIDFD).
func WaitPidfd(pidfd *os.File) (WaitStatus, error) {
	var si siginfo
	for {
		err := unix.Waitid(unix.P_PIDFD, int(pidfd.Fd()), (*unix.Siginfo)(unsafe.Pointer(&si)), unix.WEXITED, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return WaitStatus{}, os.NewSyscallError("waitid", err)
		}
		break
	}
	const exited, dumped = 1, 3 // CLD_EXITED, CLD_DUMPED; between them CLD_KILLED
	if si.code == exited {
		return WaitStatus{Code: int(si.status)}, nil
	}
	return WaitStatus{Code: 128 + int(si.status), Signal: unix.Signal(si.status), Core: si.code == dumped}, nil
}

// Ended tells, without waiting, whether the process behind pidfd has ended.
func Ended(pidfd *os.File) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return n > 0, os.NewSyscallError("poll", err)
	}
}

// StartTime is when the process pid started, in clock ticks after boot: with the pid it names a process for good
// (proc(5), stat, field 22). State is the process state's letter (field 3).
func StartTime(pid int) (ticks uint64, state byte, err error) {
	var buf [1024]byte
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if err == unix.ENOENT {
			err = unix.ESRCH
		}
		return 0, 0, fmt.Errorf("process %d: %w", pid, err)
	}
	n, err := unix.Read(fd, buf[:])
	_ = unix.Close(fd)
	if err != nil {
		return 0, 0, fmt.Errorf("process %d: %w", pid, err)
	}
	// The name in field 2 may hold anything; the last parenthesis ends it.
	text := string(buf[:n])
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("process %d: its stat file has %d fields", pid, len(fields))
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, fields[0][0], err
}

// IsPidNamespaceInit tells whether a process is the first of its pid namespace, with which all others there end.
func IsPidNamespaceInit(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if numbers, found := strings.CutPrefix(line, "NSpid:"); found {
			f := strings.Fields(numbers)
			return len(f) > 0 && f[len(f)-1] == "1"
		}
	}
	return false
}

// SealedCopy copies a program into memory that nobody can change any more, so that a container that gets hold of the
// running file cannot rewrite it for the next one (CVE-2019-5736). It is executed by execveat(2) with AT_EMPTY_PATH or
// through /proc/self/fd.
func SealedCopy(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	f, err := sealed(path, src)
	if err != nil {
		return nil, fmt.Errorf("copy %q into memory: %w", path, err)
	}
	return f, nil
}

// SealedBytes is SealedCopy of a program that is in memory already; name is what /proc shows.
func SealedBytes(name string, program []byte) (*os.File, error) {
	return sealed(name, strings.NewReader(string(program)))
}

func sealed(name string, src io.Reader) (*os.File, error) {
	base := name[strings.LastIndexByte(name, '/')+1:]
	fd, err := unix.MemfdCreate(base, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 every memfd could be executed
		fd, err = unix.MemfdCreate(base, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := io.Copy(f, src); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := unix.Fchmod(fd, 0o555); err != nil {
		return nil, errors.Join(os.NewSyscallError("fchmod", err), f.Close())
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(os.NewSyscallError("seal", err), f.Close())
	}
	return f, nil
}

// SetDumpable says whether other processes of the same user may trace this one and open its /proc files. A child
// inherits it, until it executes another program.
func SetDumpable(on bool) error {
	v := uintptr(0)
	if on {
		v = 1
	}
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_DUMPABLE, v, 0, 0, 0))
}

// TerminalPeer opens the other end of a pseudo-terminal's master and unlocks it. The kernel hands it out by the master
// itself (ioctl_tty(2), TIOCGPTPEER): a path below /dev/pts could be anything.
func TerminalPeer(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer uintptr
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		if err := unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			errno = err.(unix.Errno)
			return
		}
		peer, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	})
	if err == nil && errno != 0 {
		err = os.NewSyscallError("ioctl TIOCGPTPEER", errno)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(peer, "terminal"), nil
}
