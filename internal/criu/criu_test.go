package criu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestRequest compares with what protoc makes of the same message (protoc --encode criu_req rpc.proto).
func TestRequest(t *testing.T) {
	o := &Options{Pid: 300, LeaveRunning: true, LogFile: "a", CgroupMode: CgroupSoft, External: []string{"net[1]:n"},
		ExternalMounts: []Pair{{"/k", "v"}}, CgroupRoots: []Pair{{"", "/g"}}, Inherit: []Inherit{{Key: "pipe:[7]"}}, EmptyNamespaces: 0x40000000}
	opts := "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + // images_dir_fd: -1
		"\x10\xac\x02" + // pid: 300
		"\x18\x01" + // leave_running
		"\x48\x04" + // log_level
		"\x52\x01a" + // log_file
		"\xba\x01\x07\x0a\x02/k\x12\x01v" + // ext_mnt
		"\xc0\x01\x01" + // manage_cgroups
		"\xca\x01\x04\x12\x02/g" + // cg_root without ctrl
		"\xda\x01\x0c\x0a\x08pipe:[7]\x10\x04" + // inherit_fd
		"\x90\x02\x03" + // manage_cgroups_mode
		"\xaa\x02\x08net[1]:n" + // external
		"\xb0\x02\x80\x80\x80\x80\x04" // empty_ns
	want := "\x08\x01\x12" + string(rune(len(opts))) + opts
	if got := string(request(Dump, o, false)); got != want {
		t.Errorf("%q\nwant %q", got, want)
	}
	if got := string(request(notify, nil, true)); got != "\x08\x06\x18\x01" {
		t.Errorf("%q", got)
	}
	if got := string(request(notify, nil, false)); got != "\x08\x06\x18\x00" {
		t.Errorf("%q", got)
	}
	if got := string(request(Features, nil, false)); got != "\x08\x09\x2a\x04\x08\x01\x10\x01" {
		t.Errorf("%q", got)
	}
}

func TestResponse(t *testing.T) {
	for text, want := range map[string]Response{
		"\x08\x02\x10\x01\x22\x03\x08\xac\x02":                                             {kind: Restore, Success: true, Pid: 300},
		"\x08\x01\x10\x00\x38\x05\x4a\x03why":                                              {kind: Dump, errno: 5, errorMessage: "why"},
		"\x08\x06\x10\x01\x2a\x06\x0a\x02at\x10\x07":                                       {kind: notify, Success: true, script: "at", Pid: 7},
		"\x08\x09\x10\x01\x42\x04\x08\x01\x10\x00":                                         {kind: Features, Success: true, MemTrack: true},
		"\x08\x0a\x10\x01\x52\x04\x08\x03\x10\x11":                                         {kind: Version, Success: true, Major: 3, Minor: 17},
		"\x08\x01\x10\x01\x1a\x02\x08\x01\xf8\x07\x01":                                     {kind: Dump, Success: true, Restored: true},
		"\x08\x01\x10\x01\xf9\x07\x01\x01\x01\x01\x01\x01\x01\x01\xfd\x07\x01\x01\x01\x01": {kind: Dump, Success: true},
	} {
		got, err := parseResponse([]byte(text))
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{"\x08", "\x80", "\x00\x00", "\x22\x05\x08", "\x22\x01\x08", "\x0b", "\x09\x01", "\x0d\x01",
		"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x4a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"} {
		if r, err := parseResponse([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, r)
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("\x08\x06\x10\x01\x2a\x06\x0a\x02at\x10\x07"))
	f.Add([]byte("\x08\x02\x10\x01\x22\x03\x08\xac\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseResponse(data)
		if err == nil && len(r.errorMessage)+len(r.script) > len(data) {
			t.Errorf("%q: %+v", data, r)
		}
	})
}

func TestParseCgroupMode(t *testing.T) {
	for name, want := range map[string]CgroupMode{"": CgroupSoft, "soft": CgroupSoft, "full": CgroupFull, "strict": CgroupStrict, "ignore": CgroupIgnore} {
		if m, err := ParseCgroupMode(name); m != want || err != nil {
			t.Error(name, m, err)
		}
	}
	if _, err := ParseCgroupMode("Soft"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Error(err)
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := find(t.TempDir()); !errors.Is(err, errdefs.ErrNotImplemented) || !strings.Contains(err.Error(), "apt-get install criu") {
		t.Error(err)
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "criu")
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := find(t.TempDir(), dir); got != name || err != nil {
		t.Error(got, err)
	}
}

// TestNoAnswer: a program that is not criu.
func TestNoAnswer(t *testing.T) {
	for _, script := range []string{"exit 0", "exit 1", "printf x >&3", "printf '\\010\\002\\020\\001' >&3"} {
		name := filepath.Join(t.TempDir(), "criu")
		if err := os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		c := Conversation{Program: name}
		r, err := c.Ask(context.Background(), Dump, &Options{})
		if err == nil {
			t.Errorf("%s: %+v", script, r)
		}
		if err = Explain("do it", r, err, name); err == nil || strings.Contains(err.Error(), "\x00") {
			t.Errorf("%s: %v", script, err)
		}
	}
}

func TestLastErrors(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	text := "(00.1) Error (criu/tun.c:85): tun: no\n(00.2) Error (a.c:1): one\n(00.2) Warn (x): y\n(00.3) Error (b.c:2): two\n" +
		"(00.4) Error (c.c:3): three\n(00.5) Error (criu/cr-dump.c:1867): Dumping FAILED.\nError (cut"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastErrors(name); got != "one; two; three" {
		t.Errorf("%q", got)
	}
	if got := lastErrors(name + "-missing"); got != "" {
		t.Errorf("%q", got)
	}
	if err := os.WriteFile(name, bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := lastErrors(name); got != "" {
		t.Errorf("%q", got)
	}
}
