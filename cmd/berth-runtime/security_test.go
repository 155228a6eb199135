package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Entries of docs/security.md that a runtime alone can have, and that are not shown against a daemon.

// TestLongStrings: what is too long for a message to the kernel, whose length has 16 bits, must not become another message
// (CVE-2021-43784).
func TestLongStrings(t *testing.T) {
	b := newBundle(t, "true")
	// 65536 bytes and a little, which a length of 16 bits takes for the little.
	long := "/" + strings.Repeat("x", 1<<16+7)
	for name, change := range map[string]func(s *specs.Spec){
		"source of a bind": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: long, Options: []string{"bind"}})
		},
		"place of a mount":     func(s *specs.Spec) { s.Mounts = append(s.Mounts, specs.Mount{Destination: long, Type: "tmpfs"}) },
		"option of a mount":    func(s *specs.Spec) { s.Mounts[1].Options = append(s.Mounts[1].Options, "size="+long) },
		"namespace":            func(s *specs.Spec) { s.Linux.Namespaces[1].Path = long },
		"host name":            func(s *specs.Spec) { s.Hostname = long },
		"root":                 func(s *specs.Spec) { s.Root.Path = long },
		"working directory":    func(s *specs.Spec) { s.Process.Cwd = long },
		"network device":       func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{long: {}} },
		"cgroup":               func(s *specs.Spec) { s.Linux.CgroupsPath = "/berth-test-runtime/" + long },
		"seccomp listener":     func(s *specs.Spec) { s.Linux.Seccomp = notifying(long) },
		"time offset's length": func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{long: {}} },
	} {
		whole := *b.spec
		l, r, p := *b.spec.Linux, *b.spec.Root, *b.spec.Process
		l.Namespaces = append([]specs.LinuxNamespace(nil), l.Namespaces...)
		whole.Linux, whole.Root, whole.Process = &l, &r, &p
		whole.Mounts = append([]specs.Mount(nil), whole.Mounts...)
		change(&whole)
		broken := *b
		broken.spec = &whole
		broken.write()
		out, code := b.run("run", "c")
		if code != 1 || strings.Contains(out, "panic") {
			t.Errorf("%s: exit code %d: %.200s", name, code, out)
		}
		b.fails("container does not exist", "state", "c")
	}
	b.write()
	b.ok("run", "c")
	if err := os.RemoveAll(b.root + "/@filters"); err != nil { // which outlive a container
		t.Error(err)
	}
}

func notifying(path string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: path,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}
}

// TestEnvironmentOfTheRuntime: nothing of it reaches the container, a process executed there, or a hook (CVE-2021-3602).
func TestEnvironmentOfTheRuntime(t *testing.T) {
	b := newBundle(t, "sh", "-c", "env; exec sleep 1000")
	log := filepath.Join(t.TempDir(), "log")
	if _, err := os.Stat("/usr/bin/env"); err != nil {
		t.Skip(err)
	}
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "/usr/bin/env >" + log}}}}
	b.write()
	t.Setenv("BERTH_SECRET", "of the host")
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := b.start(out, "run", "-d", "c"); err != nil {
		t.Fatal(err)
	}
	b.waits("the container's environment", func() bool { data, _ := os.ReadFile(out.Name()); return strings.Contains(string(data), "TERM=") })
	first, _ := os.ReadFile(out.Name())
	hook, err := os.ReadFile(log)
	if err != nil {
		t.Error(err)
	}
	for _, text := range []string{string(first), string(hook), b.ok("exec", "c", "env")} {
		if strings.Contains(text, "SECRET") {
			t.Error(text)
		}
	}
	b.ok("delete", "--force", "c")
}

// TestAnnotationsSteerNothing: they are the image's and the user's words, not the administrator's (CVE-2024-3154, CVE-2026-53492).
func TestAnnotationsSteerNothing(t *testing.T) {
	b := newBundle(t, "sh", "-c", "id -u; cat /proc/self/oom_score_adj; echo $(ls /dev | cat)")
	plain := b.ok("run", "c")
	made := filepath.Join(t.TempDir(), "made")
	b.spec.Annotations = map[string]string{
		"org.systemd.property.ExecStartPre": "['/bin/touch " + made + "']", "org.systemd.property.OOMScoreAdjust": "-900",
		"org.criu.config": made, "run.oci.hooks.stdout": made, "run.oci.systemd.subgroup": made, "run.oci.seccomp_bpf_data": "AAAA",
		"cdi.k8s.io/x": "vendor.com/device=all", "io.kubernetes.cri-o.Devices": "/dev/kmsg:/dev/kmsg:rwm"}
	b.write()
	if out := b.ok("run", "c"); out != plain {
		t.Errorf("%q, not %q", out, plain)
	}
	if _, err := os.Stat(made); err == nil {
		t.Error("an annotation has made a file")
	}
}

// TestStateIsNobodyElses: users of the host cannot read what a container is or what it had in memory (CVE-2021-41103, CVE-2024-25621).
func TestStateIsNobodyElses(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	root := filepath.Join(t.TempDir(), "new")
	own := *b
	own.root = root
	own.detached("run", "-d", "c")
	defer own.ok("delete", "--force", "c")
	for name, want := range map[string]os.FileMode{root: 0o711, root + "/c": 0o711, root + "/c/state.json": 0o600} {
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got&^want != 0 {
			t.Errorf("%s has mode %o, which is more than %o", name, got, want)
		}
	}
	// Nobody else's file is written in a directory that is.
	if err := os.Symlink(filepath.Join(b.dir, "config.json"), root+"/other"); err != nil {
		t.Fatal(err)
	}
	own.fails("", "run", "other")
	if err := os.Remove(root + "/other"); err != nil {
		t.Error(err)
	}
}

// TestLimitsHoldInAUserNamespace: the processes are in the group that has the limits (CVE-2025-47291).
func TestLimitsHoldInAUserNamespace(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = ids, ids
	pids := int64(4)
	b.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	for _, dir := range []string{b.dir, filepath.Dir(b.dir), b.dir + "/rootfs"} { // its root is a user of the host
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.write()
	b.detached("run", "-d", "c")
	var st specs.State
	b.state(&st)
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", st.Pid))
	if err != nil || !strings.Contains(string(groups), b.spec.Linux.CgroupsPath+"\n") {
		t.Errorf("%s, %v", groups, err)
	}
	out, code := b.run("exec", "c", "sh", "-c", "sleep 9 & sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo all")
	if code == 0 || strings.Contains(out, "all") {
		t.Errorf("%d %s", code, out)
	}
	b.ok("delete", "--force", "c")
}
