package linux

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// OpenFile is os.OpenFile for what is read or written at once: the file is not offered to the Go runtime's poller, whose making
// and asking takes longer than the reading of a small file. Reading a pipe or a terminal through it holds up a thread.
func OpenFile(path string, flags int, perm uint32) (*os.File, error) {
	fd, err := open(path, flags, perm)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func open(path string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, perm)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

var errNotRegular = errors.New("it is not a regular file")

// MostRead is how large a file may be for ReadFile and ReadRegular.
const MostRead = 64 << 20

// ReadFile is os.ReadFile by the same way, for files of at most MostRead bytes; larger ones are EFBIG.
func ReadFile(path string) ([]byte, error) { return readFile(path, 0) }

// ReadRegular is ReadFile for regular files. Anything else at the path is an error, and nothing is waited for: a FIFO would have its reader
// wait for who writes to it.
func ReadRegular(path string) ([]byte, error) { return readFile(path, unix.O_NONBLOCK) }

func readFile(path string, flags int) ([]byte, error) {
	fd, err := open(path, unix.O_RDONLY|flags, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	if kind := st.Mode & unix.S_IFMT; flags != 0 && kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	const least = 512
	data := make([]byte, 0, max(least, min(st.Size, 1<<20)+1)) // one more, to see the end
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return data, nil
		}
		if data = data[:len(data)+n]; len(data) > MostRead {
			return nil, &fs.PathError{Op: "read", Path: path, Err: unix.EFBIG}
		}
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
	}
}
