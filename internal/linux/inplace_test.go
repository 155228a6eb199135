package linux

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// where tells where the calling thread stands.
func where(t *testing.T) map[string]string {
	t.Helper()
	at := map[string]string{}
	for _, name := range []string{"ns/mnt", "ns/net", "ns/uts", "ns/ipc", "ns/user", "ns/pid_for_children", "cwd", "root"} {
		target, err := os.Readlink("/proc/thread-self/" + name)
		if err != nil {
			t.Fatal(err)
		}
		at[name] = target
	}
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Umask") {
			at["umask"] = line
		}
	}
	return at
}

func TestInPlacePutsEverythingBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dir := t.TempDir()
	t.Chdir(dir)
	before := where(t)
	tid := unix.Gettid()
	for _, want := range []error{nil, errors.New("it fails")} {
		err := InPlace(func() error {
			if unix.Gettid() != tid {
				t.Error("it runs on another thread")
			}
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			if err := errors.Join(unix.Chdir(dir), unix.Mkdir("old", 0o755), unix.PivotRoot(".", "old"), unix.Unmount("old", unix.MNT_DETACH)); err != nil {
				return err
			}
			unix.Umask(0)
			if _, err := os.Stat(dir); err == nil {
				t.Error("the host's files are in reach within")
			}
			return want
		})
		if !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
		after := where(t)
		for what, was := range before {
			if after[what] != was {
				t.Errorf("%s was %q and is %q", what, was, after[what])
			}
		}
		if entries, err := os.ReadDir("."); err != nil || len(entries) != 0 {
			t.Errorf("a mount within shows outside: %v, %v", entries, err)
		}
	}
}

func TestSignalPipe(t *testing.T) {
	r, err := SignalPipe([]unix.Signal{unix.SIGUSR1, unix.SIGUSR2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := func() unix.Signal {
		t.Helper()
		fds := []unix.PollFd{{Fd: int32(r.Fd()), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, 60_000)
			if n == 1 {
				break
			}
			if err != unix.EINTR {
				t.Fatal("no signal came", err)
			}
		}
		var b [1]byte
		if n, err := unix.Read(int(r.Fd()), b[:]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		return unix.Signal(b[0])
	}
	busy := make(chan struct{})
	done := make(chan struct{})
	go func() { // signals that meet running code do it no harm
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-busy:
				return
			default:
				if s := strings.Repeat("x", n%1000); len(s) != n%1000 {
					t.Error("a string has changed")
					return
				}
			}
		}
	}()
	for i := range 200 {
		sig := []unix.Signal{unix.SIGUSR1, unix.SIGUSR2}[i%2]
		if err := unix.Kill(unix.Getpid(), sig); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != sig {
			t.Fatalf("got signal %v, want %v", got, sig)
		}
	}
	close(busy)
	<-done
}

func TestReadFile(t *testing.T) {
	for _, size := range []int{0, 1, 511, 512, 513, 100_000} {
		name := filepath.Join(t.TempDir(), "file")
		want := strings.Repeat("x", size)
		if err := os.WriteFile(name, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(name); err != nil || string(got) != want {
			t.Errorf("of %d bytes came %d, %v", size, len(got), err)
		}
	}
	if data, err := ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(data), "VmRSS") { // which claims to be empty
		t.Errorf("%q, %v", data, err)
	}
	if _, err := ReadFile("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := ReadFile("/"); !errors.Is(err, unix.EISDIR) {
		t.Error(err)
	}
}
