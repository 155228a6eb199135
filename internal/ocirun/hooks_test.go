package ocirun

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func hook(script string, args ...string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: append([]string{"sh", "-c", script}, args...), Env: []string{"PATH=/usr/bin:/bin", "MARK=yes"}}
}

// Every hook runs when and where the specification says, with the state on its stdin.
func TestHooks(t *testing.T) {
	noLeaks(t)
	for _, held := range []bool{false, true} {
		t.Run(fmt.Sprint("held=", held), func(t *testing.T) {
			dir := t.TempDir()
			log := filepath.Join(dir, "log")
			note := func(kind string) specs.Hook {
				return hook(fmt.Sprintf(`read -r s; pid=$(echo "$s" | sed 's/.*"pid":\([0-9]*\).*/\1/')
					echo "%s $MARK net=$(readlink /proc/self/ns/net) its=$(readlink /proc/$pid/ns/net) pid=$(readlink /proc/self/ns/pid) root=$(ls -d %s/rootmark) inside=$(ls /proc/$pid/root/rootmark) $s" >> %s`,
					kind, "ROOT", log))
			}
			rootfs := newRootfs(t)
			write(t, rootfs+"/rootmark", "")
			fix := func(h specs.Hook) specs.Hook {
				h.Args[2] = strings.ReplaceAll(h.Args[2], "ROOT", rootfs)
				return h
			}
			o := StartOptions{ID: "hooked", Bundle: dir, Hold: held, Spec: newSpec(rootfs, "sh", "-c", "cat /tmp/log; echo process")}
			o.Spec.Annotations = map[string]string{"a": "b"}
			o.Spec.Hooks = &specs.Hooks{
				//lint:ignore SA1019 deprecated, and still to be run
				Prestart:        []specs.Hook{fix(note("prestart"))},
				CreateRuntime:   []specs.Hook{fix(note("createRuntime"))},
				CreateContainer: []specs.Hook{fix(note("createContainer"))},
				StartContainer:  []specs.Hook{hook(`read -r s; echo "startContainer $MARK $(id -u) $$ $(readlink /proc/self/ns/net) $s" >> /tmp/log`)},
				Poststart:       []specs.Hook{fix(note("poststart"))},
				Poststop:        []specs.Hook{hook("exit 3"), fix(note("poststop"))},
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			o.Stdout, o.Stderr = w, w
			o.StateDir = dir
			p, err := Start(context.Background(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			_ = w.Close()
			if held {
				if text, _ := os.ReadFile(log); strings.Contains(string(text), "poststart") {
					t.Error("poststart before the start")
				}
				if err := p.Release(); err != nil {
					t.Fatal(err)
				}
			}
			if len(p.Warnings) > 0 {
				t.Error(p.Warnings)
			}
			if _, err := linux.WaitPidfd(p.Pidfd); err != nil {
				t.Fatal(err)
			}
			st, err := ReadState(dir)
			if err != nil {
				t.Fatal(err)
			}
			warnings := Poststop(context.Background(), st)
			if len(warnings) != 1 || !strings.Contains(warnings[0], "poststop hook 0") || !strings.Contains(warnings[0], "exited with 3") {
				t.Error(warnings)
			}
			buf := make([]byte, 4096)
			n, _ := r.Read(buf)
			has(t, string(buf[:n]), "startContainer yes 0 ", `"status":"created"`, "process\n")
			text, _ := os.ReadFile(log)
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			host, _ := os.Readlink("/proc/self/ns/net")
			hostPid, _ := os.Readlink("/proc/self/ns/pid")
			for i, want := range []struct{ kind, status string }{{"prestart", "creating"}, {"createRuntime", "creating"},
				{"createContainer", "creating"}, {"poststart", "running"}, {"poststop", "stopped"}} {
				if i >= len(lines) {
					t.Fatalf("%d lines in %s", len(lines), text)
				}
				line := lines[i]
				has(t, line, want.kind+" yes ")
				var state specs.State
				if err := json.Unmarshal([]byte(line[strings.IndexByte(line, '{'):]), &state); err != nil {
					t.Fatal(line, err)
				}
				if string(state.Status) != want.status || state.ID != "hooked" || state.Bundle != dir || state.Annotations["a"] != "b" {
					t.Error(want, line)
				}
				onHost := strings.Contains(line, "net="+host) && strings.Contains(line, "pid="+hostPid)
				if onHost != (want.kind != "createContainer") {
					t.Error("in the wrong namespaces:", line)
				}
				// Before pivot_root the host's files are seen, the root among them, also from the container's mount namespace.
				if strings.Contains(line, "root="+rootfs) != true {
					t.Error("the root is not where it was:", line)
				}
				if want.status == "creating" && strings.Contains(line, "inside=/") {
					t.Error("after pivot_root:", line)
				}
				if want.kind == "prestart" && (strings.Contains(line, "its="+host) || !strings.Contains(line, "its=net:")) {
					t.Error("the process is not in its namespaces:", line)
				}
			}
			if len(lines) != 5 {
				t.Error(string(text))
			}
		})
	}
}

// A hook that changes the root before pivot_root changes the container's: the way devices are brought in by such hooks.
func TestCreateContainerHookMounts(t *testing.T) {
	noLeaks(t)
	out := sh(t, "cat /tmp/f; cat /proc/self/mountinfo", func(o *StartOptions) {
		root := o.Spec.Root.Path
		o.Spec.Root.Readonly = true
		o.Spec.Linux.RootfsPropagation = "shared"
		o.Spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{hook("mount -t tmpfs none " + root + "/tmp && echo from the hook > " + root + "/tmp/f")}}
	})
	has(t, out, "from the hook", " / ro,relatime shared:")
}

// A hook in the container's namespaces is in its user namespace too.
func TestHooksAndUserNamespace(t *testing.T) {
	noLeaks(t)
	log := filepath.Join(t.TempDir(), "log")
	out := sh(t, "cat /tmp/f; stat -c %u /tmp/f", func(o *StartOptions) {
		root := o.Spec.Root.Path
		if err := os.Chmod(filepath.Dir(root), 0o711); err != nil { // the container's root is nobody on the way there
			t.Fatal(err)
		}
		o.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook("readlink /proc/self/ns/user > " + log)},
			CreateContainer: []specs.Hook{hook("cat /proc/self/uid_map > " + root + "/tmp/f")},
			StartContainer:  []specs.Hook{hook("echo started >> /tmp/f")}}
		remapped(t)(o)
	})
	has(t, strings.Join(strings.Fields(out), " "), "0 200000 2000 started 0")
	own, _ := os.Readlink("/proc/self/ns/user")
	if text, _ := os.ReadFile(log); strings.TrimSpace(string(text)) != own {
		t.Errorf("%s, not %s", text, own)
	}
}

func TestHookFailures(t *testing.T) {
	noLeaks(t)
	one := 1
	for kind, set := range map[string]func(*specs.Hooks, specs.Hook){
		//lint:ignore SA1019 deprecated, and still to be run
		"prestart":        func(h *specs.Hooks, k specs.Hook) { h.Prestart = []specs.Hook{k} },
		"createRuntime":   func(h *specs.Hooks, k specs.Hook) { h.CreateRuntime = []specs.Hook{k} },
		"createContainer": func(h *specs.Hooks, k specs.Hook) { h.CreateContainer = []specs.Hook{k} },
		"startContainer":  func(h *specs.Hooks, k specs.Hook) { h.StartContainer = []specs.Hook{k} },
	} {
		for name, c := range map[string]struct {
			hook specs.Hook
			want string
		}{
			"fails":   {hook("echo it is broken >&2; exit 9"), "exited with 9: it is broken"},
			"slow":    {func() specs.Hook { h := hook("exec sleep 1000"); h.Timeout = &one; return h }(), "did not end within 1 s"},
			"missing": {specs.Hook{Path: "/nowhere"}, "no such file"},
		} {
			o := StartOptions{Spec: newSpec(newRootfs(t), "true")}
			o.Spec.Hooks = &specs.Hooks{}
			set(o.Spec.Hooks, c.hook)
			_, _, _, err := tryRun(t, o)
			if err == nil || !strings.Contains(err.Error(), kind+" hook 0") || !strings.Contains(err.Error(), c.want) {
				t.Error(kind, name, err)
			}
		}
	}
	zero := 0
	for name, h := range map[string]specs.Hook{"relative": {Path: "true"}, "timeout": {Path: "/bin/true", Timeout: &zero}, "NUL": {Path: "/bin/true\x00"}} {
		s := newSpec(t.TempDir(), "true")
		s.Hooks = &specs.Hooks{Poststop: []specs.Hook{h}}
		if err := Check(s); !errdefs.IsInvalidArgument(err) {
			t.Error(name, err)
		}
	}
}

// seenByHook is what a hook notes of the process that it is told of: its number, when it began, its namespaces.
const seenByHook = `read -r s; pid=$(echo "$s" | sed 's/.*"pid":\([0-9]*\).*/\1/'); set -- $(sed 's/.*) //' /proc/$pid/stat)
	echo "$pid ${20} $(cd /proc/$pid/ns && for n in cgroup ipc mnt net pid time user uts; do readlink $n; done | tr '\n' ' ')" >> `

// What hooks are told of is the process that becomes the program, where that is a second child as well; and like any other they find it
// before it leaves the host's mounts behind.
func TestHooksSeeTheFinalProcess(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	g := testGroup(t, nil)
	errno := uint(1)
	profile := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"swapon"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
	for _, c := range []struct {
		name                                 string
		joined, userns, held, group, settled bool
		profile                              *specs.LinuxSeccomp
		shut                                 bool // the working directory is closed to the user
	}{
		{name: "plain"}, {name: "userns", userns: true, held: true},
		{name: "joined", joined: true}, {name: "joined, held", joined: true, held: true, settled: true},
		{name: "joined, cgroup", joined: true, group: true, profile: profile}, {name: "joined, cgroup, held", joined: true, group: true, held: true},
		{name: "joined, userns", joined: true, userns: true, group: true, held: true, profile: profile},
		{name: "joined, filter", joined: true, profile: profile, settled: true, group: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "log")
			rootfs := newRootfs(t)
			if err := os.Chmod(filepath.Dir(rootfs), 0o711); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(rootfs+"/work", 0o755); err != nil {
				t.Fatal(err)
			}
			o := StartOptions{ID: "hooked", Hold: c.held, Spec: newSpec(rootfs, "sh", "-c",
				"cat f; pwd; ls -l /proc/self/fd; cat /proc/self/mountinfo; echo END; exec sleep 100000")}
			s := o.Spec
			s.Process.Cwd, s.Process.NoNewPrivileges, s.Linux.Seccomp = "/work", c.settled, c.profile
			s.Linux.RootfsPropagation = "shared"
			if c.group {
				o.Cgroup = g
			}
			if c.joined {
				other, _ := sleeper(t, nil)
				for i := range s.Linux.Namespaces {
					if n := &s.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
						n.Path = fmt.Sprintf("/proc/%d/ns/pid", other.Pid)
					}
				}
			}
			if c.userns {
				remapped(t)(&o)
			}
			s.Hooks = &specs.Hooks{
				//lint:ignore SA1019 deprecated, and still to be run
				Prestart:      []specs.Hook{hook(seenByHook + log)},
				CreateRuntime: []specs.Hook{hook(seenByHook + log)},
				CreateContainer: []specs.Hook{hook("mount -t tmpfs none " + rootfs + "/work && echo from the hook > " + rootfs +
					"/work/f && test -d /etc && readlink /proc/self/ns/mnt > " + rootfs + "/work/ns")},
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			o.Stdout, o.Stderr = w, w
			p, err := Start(context.Background(), o)
			_ = w.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := p.discard(); err != nil {
					t.Error(err)
				}
			}()
			if c.held {
				if err := p.Release(); err != nil {
					t.Fatal(err)
				}
			}
			want := fmt.Sprint(p.Pid, " ", p.StartTime, " ")
			for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
				link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.Pid, n))
				if err != nil {
					t.Fatal(err)
				}
				want += link + " "
			}
			if text, _ := os.ReadFile(log); string(text) != want+"\n"+want+"\n" {
				t.Errorf("hooks saw\n%s, the process is\n%s", text, want)
			}
			var out strings.Builder
			for lines := bufio.NewReader(r); ; {
				line, err := lines.ReadString('\n')
				if line == "END\n" {
					break
				}
				if out.WriteString(line); err != nil {
					t.Fatal(err, out.String())
				}
			}
			has(t, out.String(), "from the hook\n/work\n", " / rw,relatime shared:")
			for line := range strings.Lines(out.String()) {
				f := strings.Fields(line)
				if strings.Contains(line, " - ") && f[4] != "/" && !strings.HasPrefix(f[4], "/proc") && !strings.HasPrefix(f[4], "/dev") &&
					!strings.HasPrefix(f[4], "/sys") && f[4] != "/work" || strings.Contains(line, " 4 -> ") {
					t.Errorf("the host's: %s", line)
				}
			}
			if n := children(t); n != map[bool]int{false: 1, true: 2}[c.joined] {
				t.Errorf("%d children", n)
			}
		})
	}
}

// A profile that would leave the process more than its own rights while it waits for hooks, with the host's mounts around it, is refused.
func TestHooksInAPidNamespaceRefused(t *testing.T) {
	needRoot(t)
	errno := uint(1)
	other, _ := sleeper(t, nil)
	o := StartOptions{Spec: newSpec(newRootfs(t), "true")}
	for i := range o.Spec.Linux.Namespaces {
		if n := &o.Spec.Linux.Namespaces[i]; n.Type == specs.PIDNamespace {
			n.Path = fmt.Sprintf("/proc/%d/ns/pid", other.Pid)
		}
	}
	o.Spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"setsid"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
	if _, _, _, err := tryRun(t, o); err != nil {
		t.Error(err)
	}
	o.Spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{hook("true")}}
	if _, _, _, err := tryRun(t, o); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "hooks that does not allow") {
		t.Error(err)
	}
	o.Spec.Process.NoNewPrivileges = true
	if _, _, _, err := tryRun(t, o); err != nil {
		t.Error(err)
	}
}

// A program that a hook brings is not missed before the hook has run.
func TestHookBringsTheProgram(t *testing.T) {
	for _, held := range []bool{false, true} {
		o := StartOptions{Spec: newSpec(newRootfs(t), "brought"), Hold: held}
		root := o.Spec.Root.Path
		o.Spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{hook("cp " + root + "/bin/busybox " + root + "/bin/brought")}}
		p, err := Start(context.Background(), o)
		if err == nil && held {
			err = p.Release()
		}
		if err != nil {
			t.Fatal(err)
		}
		if ws, err := linux.WaitPidfd(p.Pidfd); err != nil || ws.Code != 127 && ws.Code != 0 {
			t.Error(ws, err)
		}
		_ = p.Close()
	}
}
