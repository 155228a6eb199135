package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReplaceGivesContentAndExactPermissions(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for name, write := range map[string]func(string, []byte, fs.FileMode) error{
		"ReplaceFile": ReplaceFile, "WriteVolatile": WriteVolatile,
	} {
		path := filepath.Join(t.TempDir(), "record.json")
		for _, content := range []string{"a longer first version", "second", ""} {
			if err := write(path, []byte(content), 0o644); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			wantFile(t, path, content)
			fi, err := os.Stat(path)
			if err != nil || fi.Mode() != 0o644 {
				t.Errorf("%s: mode %v, %v", name, fi.Mode(), err)
			}
		}
		wantOnly(t, filepath.Dir(path), "record.json")
	}
}

func TestLeftoverOfInterruptedWriteIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record.json")
	must(t, ReplaceFile(path, []byte("good"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, ".record.json.new"), bytes.Repeat([]byte("half"), 4096), 0o400))
	wantFile(t, path, "good")
	must(t, ReplaceFile(path, []byte("next"), 0o600))
	wantFile(t, path, "next")
	wantOnly(t, dir, "record.json")
}

func TestRemoveTemporary(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".a.new", ".b.json.new", "c.new", ".new", ".d", "e"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	must(t, os.Mkdir(filepath.Join(dir, ".dir.new"), 0o700))
	must(t, RemoveTemporary(dir))
	wantOnly(t, dir, ".d", ".dir.new", ".new", "c.new", "e")
}

func TestFailedReplaceKeepsTheOldContent(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	path := filepath.Join(dir, "record.json")
	must(t, ReplaceFile(path, []byte("old"), 0o600))
	err := ReplaceFile(path, make([]byte, 1<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), path) {
		t.Errorf("full disk: %v", err)
	}
	wantFile(t, path, "old")
	wantOnly(t, dir, "record.json")
}

func TestReplaceRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "victim"), []byte("v"), 0o600))
	must(t, os.Symlink("victim", filepath.Join(dir, ".linked.new")))
	for _, path := range []string{"", ".", "..", "/", dir + "/", dir + "/.", dir + "/none/x", dir + "/d",
		dir + "/linked"} {
		if err := ReplaceFile(path, []byte("x"), 0o600); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
	wantFile(t, filepath.Join(dir, "victim"), "v")
	wantOnly(t, dir, ".linked.new", "d", "victim")
}

// Readers must never see anything but one writer's whole content, with writers in competition.
func TestConcurrentWritersAndReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	version := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 5000+i*700) }
	must(t, WriteVolatile(path, version(0), 0o600))
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for r := 0; r < 2; r++ {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				b, err := os.ReadFile(path)
				if err != nil || len(b) == 0 || !bytes.Equal(b, version(int(b[0]-'a'))) {
					t.Errorf("a reader saw %d bytes, %v", len(b), err)
					return
				}
			}
		})
	}
	for w := 0; w < 4; w++ {
		writers.Go(func() {
			for n := 0; n < 100; n++ {
				if err := WriteVolatile(path, version(w), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	wantOnly(t, filepath.Dir(path), "f")
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := Lock(path)
	must(t, err)
	_, err = Lock(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("second lock: %v", err)
	}
	must(t, l.Unlock())
	if err := l.Unlock(); err == nil {
		t.Error("unlocked twice")
	}
	l, err = Lock(path)
	must(t, err)
	must(t, l.Unlock())
}

func TestLockOfDeadProcessIsFree(t *testing.T) {
	if os.Getenv("DURABLE_HOLD") != "" {
		if _, err := Lock(os.Getenv("DURABLE_HOLD")); err != nil {
			t.Fatal(err)
		}
		fmt.Println("held")
		select {}
	}
	path := filepath.Join(t.TempDir(), "lock") // not of the child, which is killed and removes nothing
	cmd := exec.Command(os.Args[0], "-test.run=^TestLockOfDeadProcessIsFree$")
	cmd.Env = append(os.Environ(), "DURABLE_HOLD="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", cmd.Process.Pid)) {
		t.Errorf("while it lives: %v", err)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	l, err := Lock(path)
	must(t, err)
	must(t, l.Unlock())
}

func BenchmarkReplaceFile(b *testing.B)   { benchmark(b, ReplaceFile) }
func BenchmarkWriteVolatile(b *testing.B) { benchmark(b, WriteVolatile) }

func benchmark(b *testing.B, write func(string, []byte, fs.FileMode) error) {
	path, data := filepath.Join(b.TempDir(), "f"), make([]byte, 4096)
	for b.Loop() {
		if err := write(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantFile(t *testing.T, path, content string) {
	t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != content {
		t.Errorf("%s holds %q, %v; want %q", path, b, err, content)
	}
}

func wantOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}
