package ocirun

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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
	_, key := filterName(dir, profile("mkdir"))
	if f, err := readFilter(name, key); err != nil || !bytes.Equal(f.Prog, want.Prog) || f.Flags != want.Flags {
		t.Error(f, err)
	}
	same("kept")
	if other, err := CompileFilter(dir, profile("rmdir")); err != nil || bytes.Equal(other.Prog, want.Prog) {
		t.Error("the filter of another profile", err)
	}
	// A file of that name that was made of another profile is not taken.
	if _, err := readFilter(name, append(bytes.Clone(key[:len(key)-1]), key[len(key)-1]^1)); err == nil {
		t.Error("the filter of another key is taken")
	}
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever stands there, the filter is that of the profile.
	for what, spoil := range map[string]func() error{
		"a bit flipped": func() error { b := bytes.Clone(good); b[len(b)-3] ^= 1; return os.WriteFile(name, b, 0o600) },
		"flags changed": func() error {
			b := bytes.Clone(good)
			b[len(b)-len(want.Prog)-4] ^= 1
			return os.WriteFile(name, b, 0o600)
		},
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
		if _, err := readFilter(name, key); err == nil && what != "the directory" {
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

// Each field of a profile counts.
func TestProfileKeys(t *testing.T) {
	n, zero := uint(1), uint(0)
	keys := map[string]string{}
	for what, p := range map[string]*specs.LinuxSeccomp{
		"empty":            {},
		"action":           {DefaultAction: "a"},
		"errno 0":          {DefaultErrnoRet: &zero},
		"errno 1":          {DefaultErrnoRet: &n},
		"architecture":     {Architectures: []specs.Arch{"a"}},
		"flag":             {Flags: []specs.LinuxSeccompFlag{"a"}},
		"listener":         {ListenerPath: "a"},
		"metadata":         {ListenerMetadata: "a"},
		"an empty call":    {Syscalls: []specs.LinuxSyscall{{}}},
		"names a, b":       {Syscalls: []specs.LinuxSyscall{{Names: []string{"a", "b"}}}},
		"name ab":          {Syscalls: []specs.LinuxSyscall{{Names: []string{"ab"}}}},
		"calls a and b":    {Syscalls: []specs.LinuxSyscall{{Names: []string{"a"}}, {Names: []string{"b"}}}},
		"a call's action":  {Syscalls: []specs.LinuxSyscall{{Action: "a"}}},
		"a call's errno 0": {Syscalls: []specs.LinuxSyscall{{ErrnoRet: &zero}}},
		"a call's errno 1": {Syscalls: []specs.LinuxSyscall{{ErrnoRet: &n}}},
		"an argument":      {Syscalls: []specs.LinuxSyscall{{Args: []specs.LinuxSeccompArg{{}}}}},
		"index":            {Syscalls: []specs.LinuxSyscall{{Args: []specs.LinuxSeccompArg{{Index: 1}}}}},
		"value":            {Syscalls: []specs.LinuxSyscall{{Args: []specs.LinuxSeccompArg{{Value: 1}}}}},
		"second value":     {Syscalls: []specs.LinuxSyscall{{Args: []specs.LinuxSeccompArg{{ValueTwo: 1}}}}},
		"operator":         {Syscalls: []specs.LinuxSyscall{{Args: []specs.LinuxSeccompArg{{Op: "a"}}}}},
	} {
		key := string(appendProfile(nil, p))
		if other, there := keys[key]; there {
			t.Errorf("%s and %s have one key", what, other)
		}
		keys[key] = what
	}
	for of, fields := range map[string]int{"LinuxSeccomp": reflect.TypeFor[specs.LinuxSeccomp]().NumField() - 7,
		"LinuxSyscall": reflect.TypeFor[specs.LinuxSyscall]().NumField() - 4, "LinuxSeccompArg": reflect.TypeFor[specs.LinuxSeccompArg]().NumField() - 4} {
		if fields != 0 {
			t.Errorf("%s has fields that appendProfile does not know", of)
		}
	}
}

func FuzzReadFilter(f *testing.F) {
	f.Add([]byte(filterMagic), []byte("key"))
	f.Add(make([]byte, 100), []byte(nil))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data, key []byte) {
		name := filepath.Join(dir, "filter")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFilter(name, key); err == nil && len(got.Prog)%8 != 0 {
			t.Error(got)
		}
	})
}
