package ocirun

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-engine/berth/internal/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestFiltersAreKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "filters")
	profile := func(call string) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
			Syscalls: []specs.LinuxSyscall{{Names: []string{call}, Action: specs.ActErrno}}}
	}
	want, err := seccomp.Compile(profile("mkdir"))
	if err != nil {
		t.Fatal(err)
	}
	same := func(what string) {
		t.Helper()
		f, err := CompileFilter(dir, profile("mkdir"))
		if err != nil || !bytes.Equal(f.Prog, want.Prog) || f.Flags != want.Flags {
			t.Error(what, f, err)
		}
	}
	same("compiled")
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	name := filepath.Join(dir, files[0].Name())
	if f, err := readFilter(name); err != nil || !bytes.Equal(f.Prog, want.Prog) || f.Flags != want.Flags {
		t.Error(f, err)
	}
	same("kept")
	if other, err := CompileFilter(dir, profile("rmdir")); err != nil || bytes.Equal(other.Prog, want.Prog) {
		t.Error("the filter of another profile", err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever stands there, the filter is that of the profile.
	for what, spoil := range map[string]func() error{
		"a bit flipped":    func() error { b := bytes.Clone(good); b[len(b)-3] ^= 1; return os.WriteFile(name, b, 0o600) },
		"flags changed":    func() error { b := bytes.Clone(good); b[len(filterMagic)+32] ^= 1; return os.WriteFile(name, b, 0o600) },
		"cut short":        func() error { return os.WriteFile(name, good[:len(good)-8], 0o600) },
		"empty":            func() error { return os.WriteFile(name, nil, 0o600) },
		"writable by more": func() error { return os.Chmod(name, 0o666) },
		"a FIFO":           func() error { _ = os.Remove(name); return unix.Mkfifo(name, 0o600) },
		"a link":           func() error { _ = os.Remove(name); return os.Symlink("/etc/passwd", name) },
		"a directory":      func() error { _ = os.Remove(name); return os.Mkdir(name, 0o600) },
		"the directory":    func() error { return os.Chmod(dir, 0o777) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(what, err)
		}
		if _, err := readFilter(name); err == nil && what != "the directory" {
			t.Error(what, "is taken for a filter")
		}
		same(what)
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = os.RemoveAll(name)
		same("again after " + what)
	}
	for i := range maxFilters {
		write(t, filepath.Join(dir, fmt.Sprint(i)), "")
	}
	_ = os.Remove(name)
	same("in a full directory")
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Error(len(files), "files are kept")
	}
	dir = "/proc/nowhere"
	same("without a directory")
}

func FuzzReadFilter(f *testing.F) {
	f.Add([]byte(filterMagic))
	f.Add(make([]byte, 100))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(dir, "filter")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFilter(name); err == nil && len(got.Prog)%8 != 0 {
			t.Error(got)
		}
	})
}
