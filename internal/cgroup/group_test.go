package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The tests in this file make real groups, below /berth-test-<pid>. They run on the cgroup version that the machine
// has; the guest test runs them once more on version 2.

var groups atomic.Int64

func host(tb testing.TB) *Host {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("making groups needs root")
	}
	h, err := Detect()
	if err != nil {
		tb.Fatal(err)
	}
	return h
}

func parent() string { return fmt.Sprint("/berth-test-", os.Getpid()) }

// newPath gives the path of a group that is killed and removed at the end of the test, with the parent.
func newPath(tb testing.TB, h *Host) string {
	tb.Helper()
	path := fmt.Sprint(parent(), "/g", groups.Add(1))
	tb.Cleanup(func() {
		g := h.Open(path)
		if err := g.KillAll(); err != nil {
			tb.Error(err)
		}
		if err := g.Delete(); err != nil {
			tb.Error(err)
		}
		if err := h.Open(parent()).Prune(); err != nil && !errors.Is(err, unix.EBUSY) {
			tb.Error(err)
		}
	})
	return path
}

func create(tb testing.TB, h *Host, r *specs.LinuxResources) *Group {
	tb.Helper()
	g, warnings, err := h.Create(newPath(tb, h), r)
	if err != nil {
		tb.Fatal(err)
	}
	if len(warnings) > 0 {
		tb.Logf("warnings: %q", warnings)
	}
	return g
}

// child is a process in a group: a shell that joins, says so, and executes a script.
type child struct {
	*exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

func run(t *testing.T, g *Group, script string) *child {
	t.Helper()
	files, err := g.ProcsFiles()
	if err != nil {
		t.Fatal(err)
	}
	join := ""
	for i := range files {
		defer files[i].Close()
		join += fmt.Sprintf("echo 0 >/proc/self/fd/%d || exit 99\n", 3+i)
	}
	c := &child{Cmd: exec.Command("/bin/sh", "-c", join+"echo joined\n"+script)}
	c.ExtraFiles, c.Stderr = files, &c.stderr
	if c.in, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.in.Close()
		c.Process.Kill()
		c.Wait()
	})
	if line, err := c.out.ReadString('\n'); line != "joined\n" {
		t.Fatalf("child said %q, %v; %s", line, err, &c.stderr)
	}
	return c
}

// ask sends a line to a child that echoes, and waits for the answer.
func (c *child) ask(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(c.in, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := c.out.ReadString('\n'); line != "hello\n" {
		t.Fatalf("child answered %q, %v", line, err)
	}
}

// wantValue checks a control file; v1 and v2 are "file=value", "" where the version has nothing to check.
func wantValue(t *testing.T, g *Group, controller, v1, v2 string) {
	t.Helper()
	want := v1
	if g.host.version == 2 {
		want = v2
	}
	file, value, _ := strings.Cut(want, "=")
	if file == "" {
		return
	}
	tree := g.host.tree(controller)
	if tree == nil && controller == "io" {
		tree = g.host.tree("blkio")
	}
	if tree == nil {
		t.Logf("no %s controller here", controller)
		return
	}
	if got, err := readLine(g.dir(tree) + "/" + file); err != nil || got != value {
		t.Errorf("%s is %q, %v; want %q", file, got, err, value)
	}
}

func ptr[T any](v T) *T { return &v }

// A process is in the group in every hierarchy, or its limits are void (CVE-2025-47291).
func TestLifeOfAGroup(t *testing.T) {
	h := host(t)
	g := create(t, h, &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](96 << 20),
			Reservation: ptr[int64](32 << 20)},
		Pids: &specs.LinuxPids{Limit: ptr[int64](17)},
		CPU: &specs.LinuxCPU{Shares: ptr[uint64](512), Quota: ptr[int64](50000), Period: ptr[uint64](200000),
			Cpus: "0", Mems: "0"},
	})
	wantValue(t, g, "memory", "memory.limit_in_bytes=67108864", "memory.max=67108864")
	wantValue(t, g, "memory", "memory.soft_limit_in_bytes=33554432", "memory.low=33554432")
	if h.Supports(SwapLimit) {
		wantValue(t, g, "memory", "memory.memsw.limit_in_bytes=100663296", "memory.swap.max=33554432")
	}
	wantValue(t, g, "pids", "pids.max=17", "pids.max=17")
	wantValue(t, g, "cpu", "cpu.shares=512", "cpu.weight=59")
	wantValue(t, g, "cpu", "cpu.cfs_quota_us=50000", "cpu.max=50000 200000")
	wantValue(t, g, "cpuset", "cpuset.cpus=0", "cpuset.cpus=0")

	c := run(t, g, "exec cat")
	c.ask(t)
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
		t.Errorf("pids %v, %v; want %d", pids, err, c.Process.Pid)
	}
	member, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
	if err != nil || strings.Count(string(member), ":"+g.path+"\n") != len(h.trees) {
		t.Errorf("the process is not in all %d hierarchies of %s: %s %v", len(h.trees), g.path, member, err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Process.Pid))
	if err != nil || !strings.Contains(string(status), "Cpus_allowed_list:\t0\n") {
		t.Errorf("the cpuset does not hold: %v", err)
	}

	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU.Usage == 0 || s.Memory.Usage == 0 || s.Memory.Limit != 64<<20 || len(s.Memory.Detail) < 10 ||
		s.Pids != (PidsStats{1, 17}) {
		t.Errorf("stats: %+v", s)
	}

	if err := g.KillAll(); err != nil {
		t.Error(err)
	}
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err == nil || c.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("the process ended with %v", err)
	}
	wantAbsent(t, g)
	if err := g.Delete(); err != nil {
		t.Errorf("second delete: %v", err)
	}
	if err := g.KillAll(); err != nil {
		t.Errorf("kill after delete: %v", err)
	}
	if pids, err := g.Pids(); err != nil || pids != nil {
		t.Errorf("pids after delete: %v, %v", pids, err)
	}
	if _, err := g.Stats(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stats after delete: %v", err)
	}
}

func TestCloneIntoGroup(t *testing.T) {
	h := host(t)
	g := create(t, h, nil)
	dir, err := g.DirFile()
	if h.version == 1 {
		if !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("on version 1: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	member := func(dir *os.File) string {
		t.Helper()
		cmd := exec.Command("/bin/sh", "-c", "cat /proc/self/cgroup")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Error(err)
		}
		return string(out)
	}
	if got := member(dir); got != "0::"+g.path+"\n" {
		t.Errorf("cloned into %q", got)
	}
	// A container that hands controllers down takes no more processes itself.
	c := run(t, g, "mkdir /sys/fs/cgroup"+g.path+"/init; echo 0 >/sys/fs/cgroup"+g.path+"/init/cgroup.procs; "+
		"echo +pids >/sys/fs/cgroup"+g.path+"/cgroup.subtree_control; exec cat")
	c.ask(t)
	further, err := g.DirFileFor(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer further.Close()
	if got := member(further); got != "0::"+g.path+"/init\n" {
		t.Errorf("a further process is in %q", got)
	}
	if f, err := g.DirFileFor(os.Getpid()); err == nil {
		f.Close()
		t.Error("followed a process that is elsewhere")
	}
}

func wantAbsent(t *testing.T, g *Group) {
	t.Helper()
	for _, tree := range g.host.all() {
		if exists(g.dir(&tree)) {
			t.Errorf("%s is left", g.dir(&tree))
		}
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h := host(t)
	path := newPath(t, h)
	for name, r := range map[string]*specs.LinuxResources{
		"cpuset": {CPU: &specs.LinuxCPU{Cpus: "4000-4001"}},
		"device": {Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}},
		"limit":  {Memory: &specs.LinuxMemory{Limit: ptr[int64](-7)}},
		"key":    {Unified: map[string]string{"memory.nothing": "1"}},
		"path":   {Unified: map[string]string{"../memory.max": "1"}},
		"core":   {Unified: map[string]string{"cgroup.procs": "1"}},
		"pages":  {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x", Limit: 1}}},
	} {
		if g, _, err := h.Create(path, r); err == nil {
			t.Errorf("%s was accepted", name)
			g.Delete()
		} else {
			t.Logf("%s: %v", name, err)
		}
		wantAbsent(t, h.Open(path))
	}
	for _, bad := range []string{"", "/", "berth", "/a/../b", "/a//b", "/a/", "/..", "/a/./b"} {
		if _, _, err := h.Create(bad, nil); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("path %q: %v", bad, err)
		}
	}
}

func TestCreateDoesNotTakeOver(t *testing.T) {
	h := host(t)
	g := create(t, h, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](5)}})
	fresh, _, err := h.Create(g.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantValue(t, fresh, "pids", "pids.max=max", "pids.max=max")
	c := run(t, g, "exec cat")
	if _, _, err := h.Create(g.path, nil); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("group in use: %v", err)
	}
	c.ask(t)
}

func TestUpdate(t *testing.T) {
	h := host(t)
	g := create(t, h, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](64 << 20),
		Swap: ptr[int64](64 << 20)}})
	update := func(m specs.LinuxMemory) {
		t.Helper()
		if _, err := g.Update(&specs.LinuxResources{Memory: &m}); err != nil {
			t.Fatal(err)
		}
	}
	update(specs.LinuxMemory{Limit: ptr[int64](128 << 20), Swap: ptr[int64](256 << 20)})
	wantValue(t, g, "memory", "memory.limit_in_bytes=134217728", "memory.max=134217728")
	wantValue(t, g, "memory", "memory.memsw.limit_in_bytes=268435456", "memory.swap.max=134217728")
	update(specs.LinuxMemory{Limit: ptr[int64](32 << 20), Swap: ptr[int64](48 << 20)})
	wantValue(t, g, "memory", "memory.memsw.limit_in_bytes=50331648", "memory.swap.max=16777216")
	update(specs.LinuxMemory{Swap: ptr[int64](40 << 20)})
	wantValue(t, g, "memory", "memory.memsw.limit_in_bytes=41943040", "memory.swap.max=8388608")
	update(specs.LinuxMemory{Limit: ptr[int64](-1)})
	wantValue(t, g, "memory", "memory.limit_in_bytes=9223372036854771712", "memory.max=max")
	wantValue(t, g, "memory", "memory.memsw.limit_in_bytes=9223372036854771712", "memory.swap.max=max")

	for _, c := range []struct {
		cpu    specs.LinuxCPU
		v1, v2 string
	}{
		{specs.LinuxCPU{Quota: ptr[int64](20000)}, "cpu.cfs_quota_us=20000", "cpu.max=20000 100000"},
		{specs.LinuxCPU{Period: ptr[uint64](50000)}, "cpu.cfs_period_us=50000", "cpu.max=20000 50000"},
		{specs.LinuxCPU{Quota: ptr[int64](-1)}, "cpu.cfs_quota_us=-1", "cpu.max=max 50000"},
		{specs.LinuxCPU{Shares: ptr[uint64](2)}, "cpu.shares=2", "cpu.weight=1"},
		{specs.LinuxCPU{Idle: ptr[int64](1)}, "cpu.idle=1", "cpu.idle=1"},
		{specs.LinuxCPU{Idle: ptr[int64](0), Shares: ptr[uint64](1024)}, "cpu.shares=1024", "cpu.weight=100"},
	} {
		if _, err := g.Update(&specs.LinuxResources{CPU: &c.cpu}); err != nil {
			t.Fatal(err)
		}
		wantValue(t, g, "cpu", c.v1, c.v2)
	}
	if _, err := g.Update(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](3)}}); err != nil {
		t.Fatal(err)
	}
	wantValue(t, g, "pids", "pids.max=3", "pids.max=3")
}

func TestOtherMemorySettings(t *testing.T) {
	h := host(t)
	g, warnings, err := h.Create(newPath(t, h), &specs.LinuxResources{Memory: &specs.LinuxMemory{
		Swappiness: ptr[uint64](7), DisableOOMKiller: ptr(true), Limit: ptr[int64](32 << 20), Swap: ptr[int64](-1)}})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{noSwappiness, noOOMDisable}; h.version == 2 && !slices.Equal(warnings, want) {
		t.Errorf("warnings %q, want %q", warnings, want)
	} else if h.version == 1 && len(warnings) > 0 {
		t.Errorf("warnings %q", warnings)
	}
	wantValue(t, g, "memory", "memory.swappiness=7", "")
	if h.version == 1 {
		if n, _, err := readPair(g.oomFile(), "oom_kill_disable"); err != nil || n != 1 {
			t.Errorf("oom_kill_disable is %d, %v", n, err)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	h := host(t)
	limit := int64(24 << 20)
	g := create(t, h, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})
	event, err := g.OOMEvent()
	if err != nil {
		t.Fatal(err)
	}
	defer event.Close()
	if n, err := g.OOMCount(); n != 0 || err != nil {
		t.Errorf("%d kills before, %v", n, err)
	}
	c := run(t, g, "exec dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null")
	err = c.Wait()
	if err == nil || c.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
	event.SetReadDeadline(time.Now().Add(2 * time.Minute))
	if _, err := event.Read(make([]byte, 64)); err != nil {
		t.Errorf("no event: %v", err)
	}
	if n, err := g.OOMCount(); n != 1 || err != nil {
		t.Errorf("%d kills, %v", n, err)
	}
}

func TestPidsLimit(t *testing.T) {
	h := host(t)
	g := create(t, h, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](3)}})
	c := run(t, g, "for i in 1 2 3 4; do sleep 100 >/dev/null 2>&1 & done; echo no limit")
	if line, _ := c.out.ReadString('\n'); line != "" {
		t.Errorf("it said %q", line)
	}
	if pids, err := g.Pids(); err != nil || len(pids) > 3 {
		t.Errorf("pids %v, %v", pids, err)
	}
}

func TestQuotaThrottles(t *testing.T) {
	h := host(t)
	g := create(t, h, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr[int64](2000), Period: ptr[uint64](50000)}})
	c := run(t, g, "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done")
	if err := c.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &c.stderr)
	}
	s, err := g.Stats()
	if err != nil || s.CPU.Periods == 0 || s.CPU.ThrottledPeriods == 0 || s.CPU.ThrottledTime == 0 {
		t.Errorf("not throttled: %+v, %v", s, err)
	}
}

// A device list is what may be used, never what may not (GHSA-g54h-m393-cpwq).
func TestDevices(t *testing.T) {
	h := host(t)
	g := create(t, h, nil)
	node := filepath.Join(t.TempDir(), "kmsg")
	// 1:11 is /dev/kmsg, which the default list leaves out.
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 11))); err != nil {
		t.Skipf("no device nodes in %q: %v", filepath.Dir(node), err)
	}
	try := func(what, script string, works bool) {
		t.Helper()
		if err := run(t, g, script).Wait(); (err == nil) != works {
			t.Errorf("%s: %v, should work: %v", what, err, works)
		}
	}
	read, write := "exec 3<"+node, "exec 3>"+node
	mknod := fmt.Sprintf("mknod %s.$$ c 1 11", node)
	update := func(rules ...specs.LinuxDeviceCgroup) {
		t.Helper()
		list := append(DefaultDevices(), rules...)
		if _, err := g.Update(&specs.LinuxResources{Devices: list}); err != nil {
			t.Fatal(err)
		}
	}
	kmsg := func(allow bool, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: allow, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](11), Access: access}
	}
	try("null", "echo x >/dev/null", true)
	try("making a node", mknod, true)
	try("default list, read", read, false)
	try("default list, write", write, false)
	update(kmsg(true, "r"))
	try("after allowing r, read", read, true)
	try("after allowing r, write", write, false)
	try("after allowing r, both", "exec 3<>"+node, false)
	try("null still", "echo x >/dev/null", true)
	update(kmsg(true, "rw"), kmsg(false, "r"))
	try("after taking r back, read", read, false)
	try("after taking r back, write", write, true)
	update()
	try("default list again, write", write, false)
	try("null again", "echo x >/dev/null", true)

	all := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
	if _, err := g.Update(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{all}}); err != nil {
		t.Fatal(err)
	}
	try("privileged, read", read, true)
	if _, err := g.Update(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{all, kmsg(false, "w")}}); err != nil {
		t.Fatal(err)
	}
	try("all but one, read", read, true)
	try("all but one, write", write, false)
	update()
	try("back to the default list, read", read, false)
	// Other limits leave the devices alone.
	if _, err := g.Update(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](30)}}); err != nil {
		t.Fatal(err)
	}
	try("after another update, read", read, false)
	try("after another update, null", "echo x >/dev/null", true)
	if _, err := g.Update(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false}}}); err != nil {
		t.Fatal(err)
	}
	try("nothing allowed, making a node", mknod, false)
}

func TestFreezeAndThaw(t *testing.T) {
	h := host(t)
	g := create(t, h, nil)
	c := run(t, g, "exec cat")
	c.ask(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for range 3 {
		if err := g.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		wantValue(t, g, "freezer", "freezer.state=FROZEN", "")
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			c.ask(t)
		}()
		select {
		case <-answered:
			t.Error("a frozen process answered")
		case <-time.After(20 * time.Millisecond):
		}
		if err := g.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
		<-answered
	}
	if err := g.Thaw(ctx); err != nil {
		t.Errorf("thawing twice: %v", err)
	}
	if err := g.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("it survived")
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := h.Open(parent() + "/none").Freeze(stopped); err == nil {
		t.Error("froze a group that is not there")
	}
}

func TestKillAllGetsAForkBomb(t *testing.T) {
	h := host(t)
	g := create(t, h, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr[int64](60)}})
	run(t, g, "f() { f | f & }; while :; do f 2>/dev/null; done 2>/dev/null")
	if err := g.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, g)
}

func TestDeleteRemovesGroupsBelow(t *testing.T) {
	h := host(t)
	g := create(t, h, nil)
	dir := g.dir(g.main())
	if err := os.MkdirAll(dir+"/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/c", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.Prune(); !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("prune of a group with groups below: %v", err)
	}
	if err := g.Delete(); err != nil {
		t.Error(err)
	}
	wantAbsent(t, g)
}

// TestPruneParents: parents that were made on the way to a group go with it when they are empty, and no others.
func TestPruneParents(t *testing.T) {
	h := host(t)
	top := newPath(t, h)
	var st unix.Stat_t
	is := func(path string) bool { return unix.Stat(h.trees[0].dir+path, &st) == nil }
	theirs, _, err := h.Create(top+"-theirs", nil) // a group of its own, as one made by somebody else
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Delete()
	for _, name := range []string{top + "/a/b/one", top + "/a/two", theirs.Path() + "/made/three"} {
		if _, _, err := h.Create(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(name string) {
		t.Helper()
		g := h.Open(name)
		if err := g.Delete(); err != nil {
			t.Fatal(err)
		}
		g.PruneParents()
	}
	remove(top + "/a/b/one")
	if is(top+"/a/b") || !is(top+"/a/two") {
		t.Error("the empty parent is left, or the other group is not")
	}
	remove(top + "/a/two")
	if is(top + "/a") {
		t.Error("the empty parent is left")
	}
	remove(theirs.Path() + "/made/three")
	if is(theirs.Path()+"/made") || !is(theirs.Path()) {
		t.Error("the parent that was made is left, or the one that was there is not")
	}
	h.Open(top + "/nothing/there").PruneParents()
}

func TestPidsSeesGroupsBelow(t *testing.T) {
	h := host(t)
	g := create(t, h, nil)
	dir := g.dir(g.main())
	c := run(t, g, "exec cat")
	if err := os.Mkdir(dir+"/below", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(dir+"/below/cgroup.procs", fmt.Sprint(c.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
		t.Errorf("pids %v, %v", pids, err)
	}
	if err := g.KillAll(); err != nil {
		t.Error(err)
	}
	if err := c.Wait(); err == nil {
		t.Error("it survived")
	}
}

func TestHugepages(t *testing.T) {
	h := host(t)
	if !h.Supports(Hugepages) {
		t.Skip("no hugetlb controller here")
	}
	g := create(t, h, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}})
	tree := h.tree("hugetlb")
	name := "hugetlb.2MB.limit_in_bytes"
	if tree.v2 {
		name = "hugetlb.2MB.max"
	}
	if got, err := readLine(g.dir(tree) + "/" + name); err != nil || got != "4194304" {
		t.Errorf("%s is %q, %v", name, got, err)
	}
	c := run(t, g, "exec cat")
	c.ask(t)
	member, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Process.Pid))
	if tree.v2 && !strings.Contains(string(member), "0::"+g.path+"\n") {
		t.Errorf("not in the v2 hierarchy: %s", member)
	}
}

func TestBlockIO(t *testing.T) {
	h := host(t)
	disk := func() (major, minor int64, ok bool) {
		entries, _ := os.ReadDir("/sys/block")
		entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "loop") }) // others' come and go
		for _, e := range entries {
			text, err := readLine("/sys/block/" + e.Name() + "/dev")
			if a, b, ok := deviceNumbers(text); err == nil && ok {
				return int64(a), int64(b), true
			}
		}
		return 0, 0, false
	}
	major, minor, ok := disk()
	if !ok {
		t.Skip("no disk here")
	}
	rate := specs.LinuxThrottleDevice{Rate: 1 << 20}
	rate.Major, rate.Minor = major, minor
	r := &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr[uint16](300),
		ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{rate}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{rate}}}
	g, warnings, err := h.Create(newPath(t, h), r)
	if err != nil {
		t.Fatal(err)
	}
	if (len(warnings) > 0) == h.Supports(IOWeight) {
		t.Errorf("weights are supported: %v, but warned %q", h.Supports(IOWeight), warnings)
	}
	dev := deviceNumber(major, minor)
	wantValue(t, g, "io", "blkio.throttle.read_bps_device="+dev+" 1048576",
		"io.max="+dev+" rbps=1048576 wbps=max riops=max wiops=1048576")
}

func TestMounts(t *testing.T) {
	h := host(t)
	g := create(t, h, nil)
	mounts := g.Mounts()
	if len(mounts) != len(h.trees) {
		t.Errorf("%d mounts for %d hierarchies", len(mounts), len(h.trees))
	}
	for _, m := range mounts {
		if !exists(m.Source + "/cgroup.procs") {
			t.Errorf("%+v: no group there", m)
		}
		// The same hierarchy must come up when it is mounted by type and data.
		at := t.TempDir()
		if err := unix.Mount("none", at, m.Type, 0, m.Data); err != nil {
			t.Errorf("%+v: %v", m, err)
			continue
		}
		if !exists(at + g.path + "/cgroup.procs") {
			t.Errorf("%+v is another hierarchy", m)
		}
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}

func TestHostTellsWhatItHas(t *testing.T) {
	h := host(t)
	t.Logf("version %d, controllers %v, warnings %q", h.Version(), h.Controllers(), h.Warnings())
	for _, c := range []string{"memory", "pids", "cpu"} {
		if !h.Controllers()[c] {
			t.Errorf("no %s controller", c)
		}
	}
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](1 << 20), DisableOOMKiller: ptr(true)}}
	got, warnings := h.Adapt(r)
	if r.Memory.DisableOOMKiller == nil || got.Memory.Limit == nil {
		t.Error("adapt changed what it should not")
	}
	if (got.Memory.DisableOOMKiller == nil) != (h.version == 2) || (len(warnings) == 1) != (h.version == 2) {
		t.Errorf("adapted to %+v, %q", got.Memory, warnings)
	}
}

func typical() *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr[int64](256 << 20), Swap: ptr[int64](512 << 20)},
		Pids:    &specs.LinuxPids{Limit: ptr[int64](512)},
		Devices: DefaultDevices(),
	}
}

// BenchmarkCreateDelete is what a container's start and end cost here.
func BenchmarkCreateDelete(b *testing.B) {
	h := host(b)
	path, r := newPath(b, h), typical()
	for b.Loop() {
		g, _, err := h.Create(path, r)
		if err == nil {
			err = g.Delete()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDetect(b *testing.B) {
	host(b)
	for b.Loop() {
		if _, err := Detect(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	g := create(b, host(b), typical())
	for b.Loop() {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}
