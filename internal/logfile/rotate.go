package logfile

import (
	"strconv"

	"golang.org/x/sys/unix"
)

const gz = ".gz"

// numbered is the name of the file that is n rotations old.
func numbered(path string, n int) string {
	if n == 0 {
		return path
	}
	return path + "." + strconv.Itoa(n)
}

// rotate moves every file on by one number. The next write begins a new one. When it fails in the middle, a
// number is missing, which does not disturb anybody.
func (w *Writer) rotate() error {
	if w.o.Rotating != nil {
		w.o.Rotating()
	}
	last := w.o.MaxFile - 1
	for _, suffix := range [...]string{"", gz} {
		if err := unix.Unlink(numbered(w.o.Path, last) + suffix); err != nil && err != unix.ENOENT {
			return err
		}
	}
	for n := last - 1; n >= 0; n-- {
		from, to := numbered(w.o.Path, n), numbered(w.o.Path, n+1)
		// A compressor that was killed between its last two steps leaves both forms. The compressed one is whole.
		if n > 0 {
			switch err := unix.Rename(from+gz, to+gz); err {
			case nil:
				if err := unix.Unlink(from); err != nil && err != unix.ENOENT {
					return err
				}
				continue
			case unix.ENOENT:
			default:
				return err
			}
		}
		if err := unix.Rename(from, to); err != nil && err != unix.ENOENT {
			return err
		}
	}
	unix.Close(w.fd)
	w.fd = -1
	if last > 0 && w.o.Rotated != nil {
		w.o.Rotated()
	}
	return nil
}
