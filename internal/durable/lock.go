package durable

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is wrapped by the error of Lock when another owner holds the lock.
var ErrLocked = errors.New("locked")

// FileLock is a lock that is held. The kernel frees it when the process ends.
type FileLock struct {
	f *os.File
}

// Lock takes the lock file at path, creating it if need be, and does not wait. When it is taken, by another process
// or by this one, the error wraps ErrLocked and names the holder's process id if it is known.
func Lock(path string) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = lock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		pid := holder(f)
		if pid > 0 && unix.Kill(pid, 0) == unix.ESRCH {
			return inherit(path, f, pid)
		}
		defer f.Close()
		if pid > 0 {
			return nil, fmt.Errorf("%q is %w by process %d", path, ErrLocked, pid)
		}
		return nil, fmt.Errorf("%q is %w by another process", path, ErrLocked)
	}
	if err == nil {
		err = note(f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", path, err)
	}
	return &FileLock{f}, nil
}

// inherit takes a lock whose owner was killed while it forked: the child holds copies of its files until it has executed
// its program, which is a moment.
func inherit(path string, f *os.File, pid int) (*FileLock, error) {
	taken := make(chan error, 1)
	go func() {
		err := lock(f, unix.LOCK_EX)
		if err == nil {
			err = note(f)
		}
		taken <- err
	}()
	t := time.NewTimer(inheritTime)
	defer t.Stop()
	select {
	case err := <-taken:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
		}
		return &FileLock{f}, nil
	case <-t.C:
		go func() { // nobody can interrupt flock(2)
			<-taken
			f.Close()
		}()
		return nil, fmt.Errorf("%q is %w by what process %d has left running", path, ErrLocked, pid)
	}
}

// inheritTime bounds how long a child of a killed owner is waited for.
const inheritTime = 5 * time.Second

// Unlock frees the lock. The file stays, empty. A second call returns an error.
func (l *FileLock) Unlock() error {
	// The explicit unlock also reaches copies of the descriptor that a process forked a moment ago still holds. The
	// content is only for messages, so an error while emptying it matters less than the unlocking.
	terr := l.f.Truncate(0)
	uerr := lock(l.f, unix.LOCK_UN)
	return errors.Join(terr, uerr, l.f.Close())
}

// note writes our process id into the lock file.
func note(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder reads the process id from the lock file, 0 if there is none: its holder may not have written it yet.
func holder(f *os.File) int {
	var buf [16]byte
	n, _ := f.ReadAt(buf[:], 0)
	pid := 0
	for _, c := range buf[:n] {
		if c < '0' || c > '9' {
			break
		}
		pid = pid*10 + int(c-'0')
	}
	return pid
}
