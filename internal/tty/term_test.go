package tty

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// openPty returns the two sides of a new pseudo-terminal.
func openPty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestSize(t *testing.T) {
	master, slave := openPty(t)
	if rows, cols, err := Size(int(slave.Fd())); rows != 0 || cols != 0 || err != nil {
		t.Errorf("fresh: %d×%d, %v", rows, cols, err)
	}
	if err := SetSize(int(master.Fd()), 33, 101); err != nil {
		t.Fatal(err)
	}
	if rows, cols, err := Size(int(slave.Fd())); rows != 33 || cols != 101 || err != nil {
		t.Errorf("%d×%d, %v", rows, cols, err)
	}
}

func TestRawMode(t *testing.T) {
	master, slave := openPty(t)
	before, err := attributes(int(slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	restore, err := MakeRaw(int(slave.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	// In raw mode a carriage return and an interrupt arrive as they are, at once, and are not echoed.
	if _, err := master.Write([]byte("a\r\x03")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := slave.Read(buf); err != nil || string(buf[:n]) != "a\r\x03" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	if _, err := slave.Write([]byte("out\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := master.Read(buf); err != nil || string(buf[:n]) != "out\n" {
		t.Errorf("the terminal shows %q, %v", buf[:n], err)
	}
	for range 2 {
		if err := restore(); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := attributes(int(slave.Fd())); err != nil || *after != *before {
		t.Errorf("restored to %+v, %v; was %+v", after, err, before)
	}
}

func TestNotATerminal(t *testing.T) {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, slave := openPty(t)
	if !IsTerminal(int(slave.Fd())) || IsTerminal(int(f.Fd())) || IsTerminal(-1) {
		t.Error("a terminal was taken for something else, or the other way round")
	}
	if _, err := MakeRaw(int(f.Fd())); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("raw: %v", err)
	}
	if _, _, err := Size(int(f.Fd())); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("size: %v", err)
	}
	if err := SetSize(int(f.Fd()), 1, 1); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("set size: %v", err)
	}
}
