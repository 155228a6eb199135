package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// within runs a command that must not wait for anybody.
func (b *bundle) within(args ...string) (out string, code int) {
	b.t.Helper()
	type result struct {
		out  string
		code int
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := b.command(args...)
	log := filepath.Join(b.t.TempDir(), "log")
	f, err := os.Create(log)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	_ = cmd.Wait()
	if ctx.Err() != nil {
		b.t.Errorf("%q waits for ever", args)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		b.t.Fatal(err)
	}
	r := result{string(data), cmd.ProcessState.ExitCode()}
	return r.out, r.code
}

// refuses wants a sentence and the exit code 1, and soon.
func (b *bundle) refuses(want string, args ...string) {
	b.t.Helper()
	if out, code := b.within(args...); code != failureOf(args) || !strings.Contains(out, "berth-runtime: ") || !strings.Contains(out, want) {
		b.t.Errorf("%q: exit code %d, no %q in: %s", args, code, want, out)
	}
}

// put replaces a file by what make makes.
func put(t *testing.T, name string, make func(name string) error) {
	t.Helper()
	if err := os.RemoveAll(name); err != nil {
		t.Fatal(err)
	}
	if err := make(name); err != nil {
		t.Fatal(err)
	}
}

func fifo(name string) error { return unix.Mkfifo(name, 0o600) }
func link(to string) func(string) error {
	return func(name string) error { return os.Symlink(to, name) }
}
func sparse(size int64) func(string) error {
	return func(name string) error { return errors.Join(os.WriteFile(name, nil, 0o600), os.Truncate(name, size)) }
}

// A config.json that is no file is not waited for, and one without an end is not read to it.
func TestConfigIsNoFile(t *testing.T) {
	b := newBundle(t, "true")
	name := b.dir + "/config.json"
	for want, make := range map[string]func(string) error{
		"not a regular file": fifo,
		"is a directory":     func(name string) error { return os.Mkdir(name, 0o700) },
		"file too large":     sparse(linux.MostRead + 1),
		"cannot be understood": func(name string) error {
			return os.WriteFile(name, []byte(strings.Repeat(`{"process":`, 100_000)), 0o600)
		},
	} {
		put(t, name, make)
		b.refuses(want, "run", "c")
	}
	put(t, name, link("/dev/zero"))
	b.refuses("not a regular file", "create", "c")
	put(t, name, link("/dev/zero"))
	b.spec.Process.Args = []string{"sleep", "999"}
	put(t, name, func(string) error { return nil })
	b.write()
	b.ok("run", "--detach", "c")
	b.refuses("file too large", "exec", "-p", "/dev/zero", "c")
	b.refuses("file too large", "update", "-r", "/dev/zero", "c")
}

// Whatever stands in the place of a file of the state, commands say so and do not wait, and "delete --force" takes it away.
func TestStateFilesAreNoFiles(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	mounts := b.mounted()
	for what, c := range map[string]struct {
		file string
		make func(string) error
		args []string
		want string
	}{
		"state FIFO":      {"state.json", fifo, []string{"state", "c"}, "not a regular file"},
		"state zero":      {"state.json", link("/dev/zero"), []string{"kill", "c"}, "not a regular file"},
		"state large":     {"state.json", sparse(1 << 40), []string{"start", "c"}, "file too large"},
		"start file":      {startFile, sparse(0), []string{"start", "c"}, "is no FIFO"},
		"start null":      {startFile, link("/dev/null"), []string{"start", "c"}, "is no FIFO"},
		"start directory": {startFile, func(name string) error { return os.Mkdir(name, 0o700) }, []string{"start", "c"}, "cannot start"},
		"report FIFO":     {reportFile, fifo, []string{"start", "c"}, "not a regular file"},
	} {
		b.ok("create", "c")
		put(t, b.root+"/c/"+c.file, c.make)
		b.refuses(c.want, c.args...)
		if out, code := b.within("list"); code != 0 {
			t.Error(what, code, out)
		}
		if out, code := b.within("delete", "--force", "c"); code != 0 {
			t.Error(what, code, out)
		}
		b.cleanAfter(what, 0, mounts)
	}
}

// A damaged directory without a group's name: who has another file open than the FIFO of a start is nobody's to end.
func TestDeleteSparesWhoHasAnotherFileOpen(t *testing.T) {
	b := newBundle(t, "true")
	victim := exec.Command("sleep", "1000")
	file, err := os.Create(filepath.Join(t.TempDir(), "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	victim.Stdin = file
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = victim.Process.Kill(); _ = victim.Wait() }()
	if err := os.Mkdir(b.root+"/c", 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, b.root+"/c/"+startFile, link(file.Name()))
	b.ok("delete", "--force", "c")
	if err := os.Mkdir(b.root+"/c", 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, b.root+"/c/"+startFile, func(name string) error { return os.Link(file.Name(), name) })
	b.ok("delete", "--force", "c")
	if err := victim.Process.Signal(unix.Signal(0)); err != nil {
		t.Error("who had a file open was killed: ", err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", victim.Process.Pid))
	if err != nil || strings.Contains(string(stat), ") Z ") {
		t.Errorf("who had a file open was killed: %s, %v", stat, err)
	}
}

// What another user says about a container is believed by nobody: it could name any process, and any group.
func TestStateOfSomebodyElse(t *testing.T) {
	b := newBundle(t, "sleep", "999")
	b.ok("run", "--detach", "c")
	const nobody = 65534
	dir := b.root + "/c"
	for what, change := range map[string]func() error{
		"owner": func() error { return os.Chown(dir, nobody, nobody) },
		"mode":  func() error { return os.Chmod(dir, 0o777) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"state", "c"}, {"kill", "c"}, {"delete", "--force", "c"}, {"exec", "c", "true"}} {
			b.refuses("run the command as that user", args...)
		}
		if err := errors.Join(os.Chown(dir, 0, 0), os.Chmod(dir, 0o711)); err != nil {
			t.Fatal(err)
		}
		if s := b.status(); s != "running" {
			t.Error(what, s)
		}
	}
	if err := os.Symlink(dir, b.root+"/d"); err != nil {
		t.Fatal(err)
	}
	b.refuses("is no directory", "delete", "--force", "d")
	if s := b.status(); s != "running" {
		t.Error(s)
	}
	if err := os.Remove(b.root + "/d"); err != nil {
		t.Error(err)
	}
}

// The file for a process's number is made anew: nothing that lies ready under its temporary name is written through or waited for.
func TestPidFileIsMadeAnew(t *testing.T) {
	b := newBundle(t, "true")
	dir := t.TempDir()
	victim := dir + "/victim"
	for _, make := range []func(string) error{link(victim), fifo, sparse(100)} {
		if err := os.WriteFile(victim, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		put(t, dir+"/.pid", make)
		if out, code := b.within("run", "--pid-file", dir+"/pid", "c"); code != 0 {
			t.Error(code, out)
		}
		if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
			t.Errorf("%q, %v", text, err)
		}
		if text, err := os.ReadFile(dir + "/pid"); err != nil || strings.Trim(string(text), "0123456789") != "" || len(text) == 0 {
			t.Errorf("%q, %v", text, err)
		}
	}
	if err := os.Mkdir(dir+"/taken", 0o700); err != nil {
		t.Fatal(err)
	}
	b.refuses("file exists", "create", "--pid-file", dir+"/taken", "c")
	if _, err := os.Lstat(dir + "/.taken"); !os.IsNotExist(err) {
		t.Error("left behind: ", err)
	}
}

func TestPreservedFilesAreCounted(t *testing.T) {
	b := newBundle(t, "true")
	for _, n := range []string{"-1", "65537", "9223372036854775807"} {
		b.refuses("cannot be preserved", "run", "--preserve-fds", n, "c")
		b.refuses("cannot be preserved", "create", "--preserve-fds="+n, "c")
	}
	b.refuses("is not open", "run", "--preserve-fds", "60000", "c")
}

// Nobody accepts at the console's socket: the create ends, and what it made goes.
func TestConsoleSocketThatNobodyServes(t *testing.T) {
	b := newBundle(t, "true")
	b.spec.Process.Terminal = true
	b.write()
	socket := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: socket}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", socket) // for which there is room
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	b.refuses("nobody accepts a connection", "create", "--console-socket", socket, "c")
	b.refuses("at most 107 bytes", "create", "--console-socket", "/tmp/"+strings.Repeat("x", 200), "c")
	b.gone()
}

// Numbers and names that the kernel would cut off, or nobody would heed, are refused before anything is made.
func TestFieldsOutOfRange(t *testing.T) {
	b := newBundle(t, "true")
	plain := *b.spec
	device := func(d specs.LinuxDevice) func(*specs.Spec) {
		return func(s *specs.Spec) { d.Path = "/dev/x"; s.Linux.Devices = []specs.LinuxDevice{d} }
	}
	much := uint32(1<<32 - 1)
	for want, change := range map[string]func(*specs.Spec){
		"host name":                  func(s *specs.Spec) { s.Hostname = "a\x00b" },
		"domain name":                func(s *specs.Spec) { s.Domainname = "a\x00b" },
		"umask 037777777777":         func(s *specs.Spec) { s.Process.User.Umask = &much },
		"user 4294967295:4294967295": func(s *specs.Spec) { s.Process.User.UID, s.Process.User.GID = much, much },
		`rlimit "RLIMIT_CORE" is given twice`: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CPU"}, {Type: "RLIMIT_CORE"}}
		},
		"70000 lines": func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 70000, Width: 80} },
		"I/O priority 8": func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		},
		"numbers 4096:0":  device(specs.LinuxDevice{Type: "c", Major: 4096}),
		"numbers 1:-1":    device(specs.LinuxDevice{Type: "b", Major: 1, Minor: -1}),
		"1099511627776:3": device(specs.LinuxDevice{Type: "c", Major: 1 << 40, Minor: 3}),
		"owner of device": device(specs.LinuxDevice{Type: "c", Major: 1, Minor: 3, UID: &much}),
		"a clock \"realtime\"": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {Secs: 1}}
		},
	} {
		spec, l, p := plain, *plain.Linux, *plain.Process
		spec.Linux, spec.Process = &l, &p
		change(&spec)
		b.spec = &spec
		b.write()
		b.refuses(want, "create", "c")
	}
	spec := plain
	b.spec = &spec
	for _, version := range []string{"", "1", "1.", "1.x", "1.0", "1.0.x", "1.2.3.4", "01.0.0", "1.00.0", "2.0.0", "1.-1.0", "1.0.0.-rc", "9.9.9", "x"} {
		spec.Version = version
		b.write()
		b.refuses(fmt.Sprintf("spec version %q is not one of 1.x", version), "run", "c")
	}
	for _, version := range []string{"1.0.0", "1.0.0-rc1", "1.0.2-dev", "1.99.0", "1.3.0+build.7"} {
		spec.Version = version
		b.write()
		b.ok("run", "c")
	}
}

// A path of a namespace that is none is neither waited for nor joined.
func TestNamespaceThatIsNone(t *testing.T) {
	b := newBundle(t, "true")
	dir := t.TempDir()
	put(t, dir+"/fifo", fifo)
	for i := range b.spec.Linux.Namespaces {
		n := &b.spec.Linux.Namespaces[i]
		for _, path := range []string{dir + "/fifo", dir, "/dev/zero", "/etc/passwd"} {
			n.Path = path
			b.write()
			b.refuses("is no namespace", "run", "c")
		}
		n.Path = ""
	}
}
