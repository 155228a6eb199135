package main

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestScope(t *testing.T) {
	for text, want := range map[string][2]string{
		"":                                {"", "berth-c.scope"},
		"machine.slice:libpod:0123":       {"machine.slice", "libpod-0123.scope"},
		":cri-containerd:a":               {"", "cri-containerd-a.scope"},
		"-.slice::a.scope":                {"-.slice", "a.scope"},
		"machine-x.slice":                 {"machine-x.slice", "berth-c.scope"},
		"kubepods-pod1.slice:p:b@c\\x2dd": {"kubepods-pod1.slice", "p-b@c\\x2dd.scope"},
	} {
		if slice, unit, err := scope(text, "c"); err != nil || slice != want[0] || unit != want[1] {
			t.Errorf("%q: %q, %q, %v", text, slice, unit, err)
		}
	}
	for _, text := range []string{"/berth/c", "a:b", "a:b:c", "a:b:c:d", "a.slice:b:", "a.slice:b:c.slice", "../a.slice:b:c", "/a/b.slice", "a.slice:b/c:d",
		"a.slice:b:c d", "a.slice::.c", "a.slice:b:" + strings.Repeat("x", 256)} {
		if slice, unit, err := scope(text, "c"); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %q, %q, %v", text, slice, unit, err)
		}
	}
}

func TestSystemdCgroup(t *testing.T) {
	b := newBundle(t, "true")
	b.fails(`is not "slice:prefix:name"`, "--systemd-cgroup", "run", "c")
	b.spec.Linux.CgroupsPath = "berth.slice:test:c"
	b.write()
	b.fails("needs --systemd-cgroup", "run", "c")
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		t.Skip("systemd runs this machine")
	}
	b.fails("systemd does not run this machine", "--systemd-cgroup", "run", "c")
	if left, err := os.ReadDir(b.root); err != nil || len(left) != 0 {
		t.Error(left, err)
	}
	// An end needs systemd only for what systemd made.
	if got := b.ok("--systemd-cgroup", "list", "-q"); got != "" {
		t.Error(got)
	}
}
