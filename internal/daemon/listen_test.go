package daemon

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.sock")
	ln, err := listenUnix(path, strconv.Itoa(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	busy := "process " + strconv.Itoa(os.Getpid()) + " listens on"
	if _, err := listenUnix(path, "0"); err == nil || !strings.Contains(err.Error(), busy) {
		t.Errorf("a socket in use: %v", err)
	}
	// A daemon that was killed leaves its socket behind: nobody answers there.
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal("closing removed the socket, so nothing is stale")
	}
	again, err := listenUnix(path, "0")
	if err != nil {
		t.Fatal("a stale socket:", err)
	}
	defer again.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func TestUnixSocketLeavesOtherFilesAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(path, "0"); err == nil || !strings.Contains(err.Error(), "is no socket") {
		t.Errorf("%v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "x" {
		t.Error("the file is gone")
	}
	if _, err := listenUnix(filepath.Join(t.TempDir(), "s"), "no-such-group"); err == nil {
		t.Error("an unknown group is let pass")
	}
}

func TestListenAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	busy := filepath.Join(dir, "busy")
	if err := os.WriteFile(busy, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(dir, "first")
	if _, err := listen(&Config{Hosts: []string{"unix://" + first, "unix://" + busy}}); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(first); err == nil {
		t.Error("the first socket is still there")
	}
}

// A daemon that goes must not take away the socket of the one that came after it.
func TestClosingLeavesAnotherDaemonsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	c := &Config{Hosts: []string{"unix://" + path}}
	first, err := listen(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkHosts(c); err == nil {
		t.Error("a socket in use is let pass")
	}
	_ = first.all[0].Close() // killed, as it were: the file stays
	second, err := listen(c)
	if err != nil {
		t.Fatal(err)
	}
	first.close()
	if _, err := os.Stat(path); err != nil {
		t.Error("the second daemon's socket is gone")
	}
	second.close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is still there")
	}
}

func TestPassedSocketsNeedSystemd(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	if _, err := passedSockets(""); err == nil || !strings.Contains(err.Error(), "it passed none") {
		t.Errorf("%v", err)
	}
}

func TestSecondDaemonIsToldWhoIsFirst(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	lock, err := lockExecRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lockExecRoot(dir)
	if err == nil || !strings.Contains(err.Error(), "another berthd works on the exec root") ||
		!strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("%v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Error(err)
	}
	if lock, err = lockExecRoot(dir); err != nil {
		t.Fatal("after the first one has gone:", err)
	}
	_ = lock.Unlock()
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm()&0o066 != 0 {
		t.Errorf("others may look into the exec root: %v", fi.Mode()) // CVE-2021-41091
	}
}

func TestPidFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	for _, stale := range []string{"", "not a number", "999999999", "1"} { // pid 1 is no berthd
		if stale != "" {
			if err := os.WriteFile(path, []byte(stale), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := writePidFile(path); err != nil {
			t.Errorf("stale %q: %v", stale, err)
		}
		if data, _ := os.ReadFile(path); string(data) != strconv.Itoa(os.Getpid()) {
			t.Errorf("stale %q: the file says %q", stale, data)
		}
	}
}
