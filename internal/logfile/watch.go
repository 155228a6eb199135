package logfile

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch tells when something happens in the directory of a log.
type watch struct {
	changed chan struct{} // holds one token after any number of changes
	f       *os.File
}

func newWatch(path string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	dir := filepath.Dir(path)
	// The directory covers changes of the files in it, new names and new meanings of names.
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		unix.Close(fd)
		return nil, &os.PathError{Op: "watch", Path: dir, Err: err}
	}
	w := &watch{changed: make(chan struct{}, 1), f: os.NewFile(uintptr(fd), "inotify")}
	go w.pump()
	return w, nil
}

// pump ends when the descriptor is closed.
func (w *watch) pump() {
	var buf [4096]byte
	for {
		if _, err := w.f.Read(buf[:]); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() { w.f.Close() }
