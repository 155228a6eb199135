package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Control files are read and written with bare system calls: an *os.File for each would cost more than
// the kernel's own work, and the start of a container writes dozens.

// writeFile writes value to an existing control file, in one write.
func writeFile(path, value string) error {
	fd, err := open(path, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return write(fd, value)
}

// write is write(2), repeated when a signal interrupts it: lowering a memory limit waits, and gives up on signals.
func write(fd int, value string) error {
	for {
		n, err := unix.Write(fd, []byte(value))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n != len(value):
			return fmt.Errorf("short write of %q", value)
		default:
			return nil
		}
	}
}

// readFile returns the whole content of a control file.
func readFile(path string) (string, error) {
	fd, err := open(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 0, 4096)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			return string(buf), nil
		}
		buf = buf[:len(buf)+n]
	}
}

// readLine returns the content of a control file that holds one value.
func readLine(path string) (string, error) {
	s, err := readFile(path)
	return strings.TrimSpace(s), err
}

const unlimited = ^uint64(0)

func parseUint(s string) (uint64, error) {
	if s == "max" {
		return unlimited, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil && strings.HasPrefix(s, "-") {
		// Some v1 counters are printed as signed and read -1 for "no limit", or are below zero for a moment.
		if s == "-1" {
			return unlimited, nil
		}
		return 0, nil
	}
	return n, err
}

// eachPair calls fn for every line "key number" of a control file; other lines are passed over.
func eachPair(text string, fn func(key string, value uint64)) {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		if n, err := parseUint(value); err == nil {
			fn(key, n)
		}
	}
}

// readPair finds one key in a control file of lines "key number".
func readPair(path, key string) (n uint64, found bool, err error) {
	text, err := readFile(path)
	if err != nil {
		return 0, false, err
	}
	eachPair(text, func(k string, v uint64) {
		if k == key {
			n, found = v, true
		}
	})
	return n, found, nil
}

func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func openFile(path string, flags int) (*os.File, error) {
	fd, err := open(path, flags|unix.O_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func exists(path string) bool {
	return unix.Access(path, unix.F_OK) == nil
}

// gone reports whether an error says that a control file or a group is not there (any more).
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}
