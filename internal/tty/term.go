package tty

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// IsTerminal reports whether fd is a terminal.
func IsTerminal(fd int) bool {
	_, err := attributes(fd)
	return err == nil
}

// Foreground says whether the process has a terminal and is in the group of processes that it sends its signals to (tty_ioctl(4)).
func Foreground() bool {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// MakeRaw passes every byte typed at the terminal fd on as it is: no echo, no line editing, no signals, no
// translation of output. The function it returns puts the terminal back as it was and may be called more than once.
func MakeRaw(fd int) (restore func() error, err error) {
	old, err := attributes(fd)
	if err != nil {
		return nil, err
	}
	raw := *old
	// The flags are those of cfmakeraw(3).
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP |
		unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag &^= unix.CSIZE | unix.PARENB
	raw.Cflag |= unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := setAttributes(fd, &raw); err != nil {
		return nil, err
	}
	saved := *old
	return func() error { return setAttributes(fd, &saved) }, nil
}

// WithoutEcho runs fn while the terminal fd does not show what is typed, and puts it back as it was.
func WithoutEcho(fd int, fn func() error) error {
	old, err := attributes(fd)
	if err != nil {
		return err
	}
	silent := *old
	silent.Lflag &^= unix.ECHO
	if err := setAttributes(fd, &silent); err != nil {
		return err
	}
	return errors.Join(fn(), setAttributes(fd, old))
}

// Size returns the size of the terminal's window in characters, 0 by 0 where it was never set.
func Size(fd int) (rows, cols uint16, err error) {
	var ws *unix.Winsize
	err = retry("get the size of the terminal", func() (err error) {
		ws, err = unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ)
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return ws.Row, ws.Col, nil
}

// SetSize sets the size of the terminal's window. When that changes it, the kernel sends SIGWINCH to the terminal's
// foreground process group. fd may be either side of a pseudo-terminal.
func SetSize(fd int, rows, cols uint16) error {
	return retry("set the size of the terminal", func() error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
}

func attributes(fd int) (t *unix.Termios, err error) {
	err = retry("get the attributes of the terminal", func() error {
		t, err = unix.IoctlGetTermios(fd, unix.TCGETS)
		return err
	})
	return t, err
}

func setAttributes(fd int, t *unix.Termios) error {
	return retry("set the attributes of the terminal", func() error {
		return unix.IoctlSetTermios(fd, unix.TCSETS, t)
	})
}

func retry(what string, fn func() error) error {
	for {
		err := fn()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError(what, err)
		}
	}
}
