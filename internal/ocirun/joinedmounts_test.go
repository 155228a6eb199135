package ocirun

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountHolder is a process in a mount namespace of its own, in which a script was run.
func mountHolder(t *testing.T, script string) (ns string, pid int) {
	t.Helper()
	needRoot(t)
	cmd := exec.Command(busybox, "sh", "-c", script+"\n"+busybox+" echo ready; exec "+busybox+" sleep 100000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return fmt.Sprintf("/proc/%d/ns/mnt", cmd.Process.Pid), cmd.Process.Pid
}

// joinMounts has a spec join a mount namespace.
func joinMounts(s *specs.Spec, ns string) {
	for i := range s.Linux.Namespaces {
		if n := &s.Linux.Namespaces[i]; n.Type == specs.MountNamespace {
			n.Path = ns
		}
	}
}

func rootOf(t *testing.T, pid int) string {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", pid))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// A mount namespace that is joined becomes the container's, as with runc: its root, its mounts and its masks are in it, and those that
// were there before are not. What others did to paths there leads nowhere.
func TestJoinedMountNamespace(t *testing.T) {
	noLeaks(t)
	for name, script := range map[string]string{
		"plain":   "",
		"hostile": "mount -t tmpfs x /proc; mount -t tmpfs x /dev; mount -t tmpfs x /sys; mount -t tmpfs x /tmp; mount -t tmpfs x /etc",
		"shared":  "mount --make-rshared /",
	} {
		for _, alone := range []bool{false, true} {
			ns, pid := mountHolder(t, script)
			link, err := os.Readlink(ns)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // and another after it
				s := newSpec(newRootfs(t), "sh", "-c", `readlink /proc/self/ns/mnt; ls /; cut -d' ' -f5 /proc/self/mountinfo; echo x >/dev/null && echo null
					cat /proc/interrupts; ls /sys/firmware; echo x 2>&- >/proc/sys/kernel/domainname || echo read-only`)
				ln(t, s.Root.Path, "cut")
				joinMounts(s, ns)
				out, _ := run(t, StartOptions{Spec: s, Alone: alone})
				has(t, out, link+"\nbin\ndev\netc\nproc\nroot\nsys\ntmp\n/\n", "\n/proc\n/dev\n", "null\nread-only\n")
				if strings.Count(out, "\n/\n") != 1 || strings.Contains(out, "CPU") {
					t.Errorf("%s: others' mounts are seen, or nothing is masked: %s", name, out)
				}
			}
			if got := rootOf(t, pid); got != "bin dev etc proc root sys tmp" {
				t.Errorf("%s: who was there has the root %q", name, got)
			}
		}
	}
	if rootOf(t, os.Getpid()) == "bin dev etc proc root sys tmp" {
		t.Error("and so have we")
	}
}

func ln(t *testing.T, rootfs, name string) {
	t.Helper()
	if err := os.Symlink("busybox", rootfs+"/bin/"+name); err != nil {
		t.Fatal(err)
	}
}

// What is executed in such a container is in its root, and hooks are run in the namespace.
func TestJoinedMountNamespaceOfALife(t *testing.T) {
	noLeaks(t)
	for _, hooks := range []bool{false, true} {
		ns, _ := mountHolder(t, "")
		s := newSpec(newRootfs(t), "sleep", "1000")
		joinMounts(s, ns)
		if hooks {
			s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: busybox, Args: []string{"sh", "-c", "readlink /proc/self/ns/mnt >" + s.Root.Path + "/tmp/ns"}}}}
		}
		p, err := Start(context.Background(), StartOptions{Spec: s})
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		link, _ := os.Readlink(ns)
		x, err := Exec(context.Background(), ExecOptions{Pid: p.Pid, Stdout: w, Process: &specs.Process{Args: []string{"/bin/busybox", "sh", "-c", "readlink /proc/self/ns/mnt; ls /"}, Cwd: "/",
			Env: []string{"PATH=/bin"}}})
		_ = w.Close()
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(r)
		_ = r.Close()
		if _, err := linux.WaitPidfd(x.Pidfd); err != nil {
			t.Error(err)
		}
		if string(out) != link+"\nbin\ndev\netc\nproc\nroot\nsys\ntmp\n" {
			t.Errorf("%s", out)
		}
		if got, err := os.ReadFile(s.Root.Path + "/tmp/ns"); hooks && (err != nil || string(got) != link+"\n") {
			t.Errorf("the hook was in %s: %v", got, err)
		}
		if err := errors.Join(x.Close(), p.discard()); err != nil {
			t.Error(err)
		}
	}
}

// With the user namespace that it belongs to.
func TestJoinedMountNamespaceOfAUserNamespace(t *testing.T) {
	noLeaks(t)
	o := StartOptions{Spec: newSpec(newRootfs(t), "sleep", "1000")}
	remapped(t)(&o)
	first, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer first.discard()
	dir := fmt.Sprintf("/proc/%d/ns/", first.Pid)
	s := newSpec(newRootfs(t), "sh", "-c", "readlink /proc/self/ns/mnt; readlink /proc/self/ns/user; ls /; cat /proc/self/uid_map")
	joinMounts(s, dir+"mnt")
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: dir + "user"})
	out, _ := run(t, StartOptions{Spec: s})
	mnt, _ := os.Readlink(dir + "mnt")
	user, _ := os.Readlink(dir + "user")
	has(t, out, mnt+"\n"+user+"\nbin\n")
}

// A start that fails before the container has its root leaves the namespace to the others in it as it was.
func TestJoinedMountNamespaceRefused(t *testing.T) {
	noLeaks(t)
	ns, pid := mountHolder(t, "")
	before := rootOf(t, pid)
	lines := func() string {
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
		if err != nil {
			t.Fatal(err)
		}
		return string(info)
	}
	mounts := strings.Count(lines(), "\n")
	for what, change := range map[string]func(*specs.Spec){
		"mount": func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin/busybox", Type: "tmpfs"})
		},
		"no program": func(s *specs.Spec) { s.Process.Args = []string{"nothing"} },
	} {
		s := newSpec(newRootfs(t), "true")
		joinMounts(s, ns)
		change(s)
		if _, err := Start(context.Background(), StartOptions{Spec: s, Hold: true}); err == nil {
			t.Error(what, "is started")
		}
		if got := strings.Count(lines(), "\n"); got != mounts || rootOf(t, pid) != before {
			t.Errorf("%s: %d mounts, and there were %d; the root is %s", what, got, mounts, rootOf(t, pid))
		}
	}
	for what, change := range map[string]func(*specs.Spec){
		"the host's":           func(s *specs.Spec) { joinMounts(s, "/proc/self/ns/mnt") },
		"that of process 1":    func(s *specs.Spec) { joinMounts(s, "/proc/1/ns/mnt") },
		"a new user namespace": func(s *specs.Spec) { joinMounts(s, ns); remapped(t)(&StartOptions{Spec: s}) },
	} {
		s := newSpec(newRootfs(t), "true")
		change(s)
		// Where this test is in a container itself, the host's may be closed to it.
		if _, err := Start(context.Background(), StartOptions{Spec: s}); !errdefs.IsInvalidArgument(err) && !errors.Is(err, unix.EACCES) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for path, want := range map[string]string{"/proc/self/ns/net": "invalid argument", "/etc/passwd": "invalid argument", "/nowhere": "no such file", "/": "invalid argument"} {
		s := newSpec(newRootfs(t), "true")
		joinMounts(s, path)
		if _, err := Start(context.Background(), StartOptions{Spec: s}); err == nil || !strings.Contains(err.Error(), "join the mount namespace") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := rootOf(t, pid); got != before {
		t.Error("the root became", got)
	}
}
