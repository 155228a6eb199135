package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	tmpPrefix = "."
	tmpSuffix = ".new"
)

// ReplaceFile gives the file at path the content data and the permissions perm (whatever the umask), atomically and
// durably. The directory must exist.
func ReplaceFile(path string, data []byte, perm fs.FileMode) error {
	return replace(path, data, perm, true)
}

// WriteVolatile is ReplaceFile without syncing: atomic for readers, but lost or old after a crash of the machine.
func WriteVolatile(path string, data []byte, perm fs.FileMode) error {
	return replace(path, data, perm, false)
}

// IsTemporary reports whether name, without its directory, is one that an interrupted write may have left.
func IsTemporary(name string) bool {
	return len(name) > len(tmpPrefix)+len(tmpSuffix) &&
		strings.HasPrefix(name, tmpPrefix) && strings.HasSuffix(name, tmpSuffix)
}

// RemoveTemporary removes what interrupted writes left in dir. No writer may be at work in dir meanwhile.
func RemoveTemporary(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if IsTemporary(e.Name()) && e.Type().IsRegular() {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func replace(path string, data []byte, perm fs.FileMode, sync bool) (err error) {
	dir, name := filepath.Split(path)
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("replace %q: not the path of a file", path)
	}
	if dir == "" {
		dir = "."
	}
	tmp := filepath.Join(dir, tmpPrefix+name+tmpSuffix)
	f, err := openTemporary(tmp)
	if err != nil {
		return fmt.Errorf("replace %q: %w", path, err)
	}
	// Closing also frees the lock, so it comes last: nobody may find the name before it is renamed or removed.
	defer f.Close()
	err = fill(f, data, perm, sync)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("replace %q: %w", path, err)
	}
	if sync {
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("replace %q: %w", path, err)
		}
	}
	return nil
}

// openTemporary opens the temporary file, locked, empty, and certainly the one that the name stands for.
func openTemporary(tmp string) (*os.File, error) {
	for {
		// Not os.OpenFile, which offers it to the Go runtime's poller: to make that takes longer than to write a small file.
		fd, err := unix.Open(tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: tmp, Err: err}
		}
		f := os.NewFile(uintptr(fd), tmp)
		if err := lock(f, unix.LOCK_EX); err != nil {
			f.Close()
			return nil, os.NewSyscallError("flock", err)
		}
		// While we waited for the lock its holder may have renamed this very file over the target, where nobody
		// may write any more, or removed it.
		same, err := names(tmp, f)
		if err == nil && same {
			err = f.Truncate(0)
		}
		if err == nil && same {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

func names(path string, f *os.File) (bool, error) {
	var byName, byFile unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &byFile); err != nil {
		return false, os.NewSyscallError("fstat", err)
	}
	err := unix.Lstat(path, &byName)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, os.NewSyscallError("lstat", err)
	}
	return byName.Dev == byFile.Dev && byName.Ino == byFile.Ino, nil
}

func fill(f *os.File, data []byte, perm fs.FileMode, sync bool) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if sync {
		return f.Sync()
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lock is flock(2), repeated when a signal interrupts the wait.
func lock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}
