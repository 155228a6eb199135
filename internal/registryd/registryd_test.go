package registryd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// fake is a berth-registry of shell: it takes no lock, writes its pid where that would be, and answers nobody.
const fake = `#!/bin/bash
for a; do case $a in --root=*) root=${a#--root=};; --listen=*) listen=${a#--listen=};; esac; done
case $listen in *:1) echo 'berth-registry: the address is taken' >&2; exit 1;; esac
mkdir -p $root; echo $$ >$root/lock
echo ready >&3; exec 3>&-
echo "mirror is $BERTH_REGISTRY_MIRROR"
exec -a berth-registry bash -c 'trap "exit 0" TERM; while :; do sleep 60 & wait $!; done' "${@:1:0}" "$@"
`

func service(t *testing.T, dir string) *Service {
	t.Helper()
	program := filepath.Join(dir, "program")
	// The command line is what the service looks for, so the fake keeps its own: it is the interpreter's argument.
	if err := os.WriteFile(program, []byte(fake), 0o755); err != nil {
		t.Fatal(err)
	}
	s := Open(Options{Dir: dir, Run: dir, Log: slog.New(slog.DiscardHandler), Program: func() (string, error) { return program, nil }})
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestStartAndStop(t *testing.T) {
	dir := t.TempDir()
	s := service(t, dir)
	ctx := t.Context()
	if err := s.Stop(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("stop when off: %v", err)
	}
	if err := s.Start(ctx, Settings{Listen: "127.0.0.1:1", Root: filepath.Join(dir, "r")}); err == nil || err.Error() != "the address is taken" {
		t.Errorf("a start that fails: %v", err)
	}
	if st := s.Status(); st.On || st.Failure != "the address is taken" {
		t.Errorf("after that: %+v", st)
	}
	set := Settings{Listen: freePort(t), Root: filepath.Join(dir, "r"), Mirror: "http://user:secret@a"}
	if err := s.Start(ctx, set); err != nil {
		t.Fatal(err)
	}
	st := s.Status()
	if !st.On || !st.Running || st.Pid == 0 || st.URL != "http://"+set.Listen {
		t.Errorf("running: %+v", st)
	}
	if strings.Contains(strings.Join(s.argv(set), " "), "secret") {
		t.Error("the mirror's password is on the command line")
	}
	if err := s.Start(ctx, set); !errdefs.IsConflict(err) {
		t.Errorf("started twice: %v", err)
	}
	fi, err := os.Stat(filepath.Join(dir, "registry.json"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("settings: %v, %v", fi, err)
	}
	// Killed, it comes back.
	pidfd, err := linux.PidfdOpen(st.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := linux.PidfdSendSignal(pidfd, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if now := s.Status(); now.Running && now.Pid != st.Pid {
			if now.Restarts != 1 || now.Failure != "it was ended by SIGKILL" {
				t.Errorf("again: %+v", now)
			}
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it does not come back: %+v", s.Status())
		}
	}
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "registry.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("settings after a stop: %v", err)
	}
	if st := s.Status(); st.On || st.Running || st.Pid != 0 {
		t.Errorf("stopped: %+v", st)
	}
}

// TestResume: what was on is on again with the next daemon, unless daemon.json says otherwise.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	s := service(t, dir)
	set := Settings{Listen: freePort(t), Root: filepath.Join(dir, "r")}
	if err := s.Start(t.Context(), set); err != nil {
		t.Fatal(err)
	}
	s.Close(t.Context())
	if st := s.Status(); st.Running {
		t.Errorf("closed: %+v", st)
	}
	again := service(t, dir)
	if err := again.Resume(nil); err != nil {
		t.Fatal(err)
	}
	running(t, again)
	if st := again.Status(); st.Settings != set || st.Fixed {
		t.Errorf("resumed: %+v", st)
	}
	again.Close(t.Context())
	fixed := service(t, dir)
	other := Settings{Listen: freePort(t), Root: filepath.Join(dir, "other")}
	if err := fixed.Resume(&other); err != nil {
		t.Fatal(err)
	}
	running(t, fixed)
	if st := fixed.Status(); st.Settings != other || !st.Fixed {
		t.Errorf("fixed: %+v", st)
	}
	if err := fixed.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := fixed.Start(t.Context(), set); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "daemon.json") {
		t.Errorf("start of another: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "registry.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := service(t, dir).Resume(nil); err == nil {
		t.Error("damaged settings are taken")
	}
}

func running(t *testing.T, s *Service) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !s.Status().Running; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not run: %+v", s.Status())
		}
	}
}

func TestCheck(t *testing.T) {
	for _, bad := range []Settings{
		{Listen: "x"}, {Listen: "127.0.0.1:0"}, {Listen: "127.0.0.1:70000"}, {Listen: ":5000"}, {Listen: "10.0.0.1:5000"}, {Root: "a"},
		{TLSCert: "/a"}, {TLSKey: "/a"}, {Htpasswd: "a"}, {Mirror: "a"}, {Mirror: "https://a", AllowDelete: true}, {Mirror: "file:///a"},
	} {
		if err := bad.Check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, good := range []Settings{{}, {Listen: "localhost:5001"}, {Listen: "[::1]:5000"}, {Listen: ":5000", Insecure: true},
		{Listen: "0.0.0.0:443", TLSCert: "/a", TLSKey: "/b"}, {Mirror: "https://u:p@a/"}} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
}
