package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// FuseMount starts a program that serves a file system (fuse(4)), and returns the mount, which stands nowhere. The
// program's descriptor 3 is the connection; command gets its name, which libfuse takes in the place of a mount point. The
// program has a session of its own and outlives this process; it ends by itself when the mount is gone.
func FuseMount(readOnly bool, command func(dev string) []string) (*os.File, error) {
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	attrs := 0
	if readOnly {
		attrs = unix.MOUNT_ATTR_RDONLY
	}
	argv := command("/dev/fd/3")
	m, err := NewMount("fuse", argv[0], attrs, FsOption{"fd", strconv.Itoa(int(dev.Fd()))}, FsOption{"rootmode", "40000"},
		FsOption{"user_id", "0"}, FsOption{"group_id", "0"}, FsOption{"allow_other", ""}, FsOption{"default_permissions", ""})
	if err != nil {
		return nil, err
	}
	// Not a pipe: what it says later, when nobody reads any more, must not end it.
	fd, err := unix.MemfdCreate("fuse", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("memfd_create", err), m.Close())
	}
	said := os.NewFile(uintptr(fd), "fuse")
	defer said.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	proc, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")},
		Files: []*os.File{null, null, said, dev}, Sys: &syscall.SysProcAttr{Setsid: true}})
	err = errors.Join(err, null.Close(), dev.Close())
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	ended := make(chan struct{})
	go func() {
		_, _ = proc.Wait() // when it was asked to serve and failed, the mount says so
		close(ended)
	}()
	// This waits for its first answer, or for the end of the connection, of which only the program has a descriptor.
	var st unix.Stat_t
	err = unix.Fstatat(int(m.Fd()), ".", &st, 0)
	if err == nil {
		return m, nil
	}
	err = errors.Join(os.NewSyscallError("stat", err), m.Close())
	<-ended
	buf := make([]byte, 4096)
	n, _ := said.ReadAt(buf, 0) // up to its end
	if text := strings.TrimSpace(string(bytes.ToValidUTF8(buf[:n], nil))); text != "" {
		err = fmt.Errorf("%s: %w", text, err)
	}
	return nil, err
}
