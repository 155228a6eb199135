package ocirun

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fakeResctrl is a directory like the kernel's, with the class "gold".
func fakeResctrl(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(root+"/gold/mon_groups", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, root+"/gold/schemata", "    MB:0=100;1=100\n    L3:0=00f;1=fff\n")
	write(t, root+"/gold/tasks", "")
	return root
}

func content(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func TestIntelRdt(t *testing.T) {
	needRoot(t)
	root := fakeResctrl(t)
	p, s := sleeper(t, func(o *StartOptions) {
		o.ID, o.Resctrl = "c", root
		o.Spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=0F", EnableMonitoring: true}
	})
	if a, b := content(t, root+"/gold/tasks"), content(t, root+"/gold/mon_groups/c/tasks"); a != "0" || b != "0" {
		t.Errorf("%q %q", a, b)
	}
	write(t, root+"/gold/tasks", "")
	proc := *s.Process
	proc.Args = []string{"true"}
	if _, ws, err := execIn(t, p, ExecOptions{Process: &proc, Rdt: p.Rdt}); err != nil || ws.Code != 0 {
		t.Fatal(ws, err)
	}
	if got := content(t, root+"/gold/tasks"); got != "0" {
		t.Errorf("exec: %q", got)
	}
	if err := os.Remove(root + "/gold/mon_groups/c/tasks"); err != nil {
		t.Fatal(err)
	}
	if err := p.Rdt.Delete(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(root + "/gold/mon_groups/c"); !os.IsNotExist(err) {
		t.Error("the group that counts is left:", err)
	}
	if _, err := os.Stat(root + "/gold"); err != nil {
		t.Error("a class that is not the container's is gone:", err)
	}
}

func TestIntelRdtClasses(t *testing.T) {
	root := fakeResctrl(t)
	// One of its own, which goes with the container.
	r, err := makeRdt(root, "own", "", &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", Schemata: []string{"L2:0=3"}})
	if err != nil || !r.Made || content(t, root+"/own/schemata") != "L3:0=f\nMB:0=20\nL2:0=3\n" {
		t.Fatal(r, err)
	}
	if err := os.Remove(root + "/own/schemata"); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(root + "/own"); !os.IsNotExist(err) {
		t.Error(err)
	}
	// One with a name is made and stays; the default one is the root.
	if r, err = makeRdt(root, "c", "", &specs.LinuxIntelRdt{ClosID: "silver", Schemata: []string{"L3:0=3"}}); err != nil || r.Made {
		t.Error(r, err)
	}
	if r, err = makeRdt(root, "c", "", &specs.LinuxIntelRdt{ClosID: "/"}); err != nil || r.Dir != filepath.Clean(root) || r.Made {
		t.Error(r, err)
	}
	for name, c := range map[string]struct {
		rdt  specs.LinuxIntelRdt
		is   func(error) bool
		text string
	}{
		"not there":      {specs.LinuxIntelRdt{ClosID: "bronze"}, errdefs.IsNotFound, "it is not there"},
		"other":          {specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=ff"}, errdefs.IsFailedPrecondition, "does not have"},
		"other domain":   {specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:2=f"}, errdefs.IsFailedPrecondition, "does not have"},
		"somebody's":     {specs.LinuxIntelRdt{}, errdefs.IsAlreadyExists, "somebody's"},
		"no such memory": {specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:1=99"}, errdefs.IsFailedPrecondition, "does not have"},
	} {
		if _, err := makeRdt(root, "gold", "", &c.rdt); !c.is(err) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, bad := range []specs.LinuxIntelRdt{{ClosID: ".."}, {ClosID: "a/b"}, {ClosID: "info"}, {L3CacheSchema: "L3:0=f\nMB:0=1"}, {MemBwSchema: "L3:0=f"},
		{Schemata: []string{"x"}}} {
		s := newSpec("/nowhere", "true")
		s.Linux.IntelRdt = &bad
		if err := Check(s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := os.Stat(resctrlRoot + "/schemata"); err != nil {
		if _, err := makeRdt("", "c", "", &specs.LinuxIntelRdt{}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no resctrl file system") {
			t.Error(err)
		}
	}
}

func TestLabelsNeedSELinux(t *testing.T) {
	if selinux() {
		t.Skip("this kernel runs with SELinux")
	}
	for _, change := range []func(*specs.Spec){
		func(s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:container_file_t:s0" },
		func(s *specs.Spec) { s.Process.SelinuxLabel = "system_u:system_r:container_t:s0" },
	} {
		s := newSpec("/nowhere", "true")
		change(s)
		if err := Check(s); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "does not run with SELinux") {
			t.Error(err)
		}
	}
}

func TestMountLabel(t *testing.T) {
	data := []linux.FsOption{{Key: "size", Value: "1m"}}
	if got := labelled("l:c1,c2", "tmpfs", data); len(got) != 2 || got[1].Key != "context" || got[1].Value != "l:c1,c2" || len(data) != 1 {
		t.Error(got)
	}
	for _, c := range [][2]string{{"", "tmpfs"}, {"l", "proc"}, {"l", "sysfs"}} {
		if got := labelled(c[0], c[1], data); len(got) != 1 {
			t.Error(c, got)
		}
	}
}

func TestExecPersonality(t *testing.T) {
	p, s := sleeper(t, nil)
	proc := *s.Process
	proc.Args = []string{"cat", "/proc/self/personality"}
	for domain, want := range map[specs.LinuxPersonalityDomain]string{specs.PerLinux32: "00000008\n", specs.PerLinux: "00000000\n"} {
		out, ws, err := execIn(t, p, ExecOptions{Process: &proc, Personality: &specs.LinuxPersonality{Domain: domain}})
		if err != nil || ws.Code != 0 || out != want {
			t.Errorf("%s: %q %v %v", domain, out, ws, err)
		}
	}
	if _, _, err := execIn(t, p, ExecOptions{Process: &proc, Personality: &specs.LinuxPersonality{Domain: "LINUX31"}}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

// TestRdtOfAKilledCreate: what was made, or was to be made, is known without a state, and what is somebody else's is left alone.
func TestRdtOfAKilledCreate(t *testing.T) {
	root, dir := fakeResctrl(t), t.TempDir()
	is := func(name string) bool { _, err := os.Lstat(name); return err == nil }
	// A class of its own; the kernel makes mon_groups.
	if _, err := makeRdt(root, "c", dir, &specs.LinuxIntelRdt{}); err != nil || !is(root+"/c") {
		t.Fatal(err)
	}
	write(t, root+"/c/tasks", "7\n")
	if err := RemoveRdt(dir); err != nil || !is(root+"/c") {
		t.Error("a class with a process was removed", err)
	}
	if err := os.Remove(root + "/c/tasks"); err != nil {
		t.Fatal(err)
	}
	if err := RemoveRdt(dir); err != nil || is(root+"/c") {
		t.Error("the class is left", err)
	}
	if err := RemoveRdt(dir); err != nil {
		t.Error("twice: ", err)
	}
	// A group that counts, in a class that stays.
	dir = t.TempDir()
	if _, err := makeRdt(root, "d", dir, &specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}); err != nil || !is(root+"/gold/mon_groups/d") {
		t.Fatal(err)
	}
	if err := RemoveRdt(dir); err != nil || is(root+"/gold/mon_groups/d") || !is(root+"/gold") {
		t.Error("the group is left, or the class is not", err)
	}
	if err := RemoveRdt(t.TempDir()); err != nil {
		t.Error("nothing: ", err)
	}
}

// An update writes what it is told into the class, and refuses what is no schema.
func TestRdtUpdate(t *testing.T) {
	root := fakeResctrl(t)
	class := &Rdt{Dir: root + "/gold"}
	write(t, root+"/gold/schemata", "")
	if err := class.Update(&specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=50"}); err != nil {
		t.Error(err)
	}
	if got := content(t, root+"/gold/schemata"); got != "L3:0=f\nMB:0=50\n" {
		t.Errorf("%q", got)
	}
	if err := class.Update(&specs.LinuxIntelRdt{MemBwSchema: "L3:0=f"}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := (*Rdt)(nil).Update(&specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

func TestRdtStats(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"info/L3/cbm_mask": "fff\n", "info/L3/min_cbm_bits": "2\n", "info/L3/num_closids": "16\n", "info/MB/num_closids": "8\n",
		"info/MB/bandwidth_gran": "10\n", "info/MB/min_bandwidth": "11\n", "schemata": "    L3:0=fff\n    MB:0=100\n",
		"gold/schemata": "    L3:0=00f\n    MB:0= 50\n", "gold/mon_groups/c/mon_data/mon_L3_00/mbm_total_bytes": "7\n",
		"gold/mon_groups/c/mon_data/mon_L3_00/mbm_local_bytes": "3\n", "gold/mon_groups/c/mon_data/mon_L3_01/llc_occupancy": "9\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, name), text)
	}
	got := (&Rdt{Dir: root + "/gold", Group: root + "/gold/mon_groups/c"}).Stats()
	want := RdtStats{L3Info: &RdtL3Info{"fff", 2, 16}, L3Root: "L3:0=fff", L3: "L3:0=00f", MemBwInfo: &RdtMBInfo{10, 0, 11, 8},
		MemBwRoot: "MB:0=100", MemBw: "MB:0= 50", Schemata: []string{"L3:0=00f", "MB:0= 50"}, Bandwidths: []RdtBytes{{7, 3}},
		Caches: []RdtCache{{9}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if all := (&Rdt{Dir: root}).Stats(); all.L3 != all.L3Root || all.L3 == "" {
		t.Errorf("%+v", all)
	}
	if none := (*Rdt)(nil).Stats(); !reflect.DeepEqual(none, RdtStats{}) {
		t.Errorf("%+v", none)
	}
}
