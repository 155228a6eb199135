package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/confine"
	"github.com/berth-engine/berth/internal/container"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCapabilities(t *testing.T) {
	all := allCaps[:]
	for _, c := range []struct {
		add, drop []string
		has, not  []string
		count     int
	}{
		{nil, nil, []string{"CAP_CHOWN"}, []string{"CAP_SYS_ADMIN"}, len(defaultCaps)},
		{[]string{"sys_admin"}, []string{"CAP_CHOWN"}, []string{"CAP_SYS_ADMIN"}, []string{"CAP_CHOWN"}, len(defaultCaps)},
		{nil, []string{"ALL"}, nil, nil, 0},
		{[]string{"NET_ADMIN"}, []string{"all"}, []string{"CAP_NET_ADMIN"}, nil, 1},
		{[]string{"ALL"}, nil, []string{"CAP_BPF"}, nil, len(allCaps)},
		{[]string{"ALL"}, []string{"MKNOD"}, []string{"CAP_BPF"}, []string{"CAP_MKNOD"}, len(allCaps) - 1},
	} {
		got, err := capabilities(container.Security{CapAdd: c.add, CapDrop: c.drop}, all)
		if err != nil || len(got) != c.count {
			t.Errorf("+%v -%v: %v, %v", c.add, c.drop, got, err)
		}
		for _, want := range c.has {
			if !slices.Contains(got, want) {
				t.Errorf("+%v -%v lacks %s", c.add, c.drop, want)
			}
		}
		for _, bad := range c.not {
			if slices.Contains(got, bad) {
				t.Errorf("+%v -%v has %s", c.add, c.drop, bad)
			}
		}
	}
	if _, err := capabilities(container.Security{CapAdd: []string{"FLY"}}, all); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	// What this process does not have it cannot give, and does not try.
	got, err := capabilities(container.Security{Privileged: true}, []string{"CAP_CHOWN"})
	if err != nil || len(got) != 1 {
		t.Error(got, err)
	}
}

func TestNoInheritableOrAmbientCapabilities(t *testing.T) { // CVE-2022-24769, CVE-2022-29162
	for _, uid := range []uint32{0, 1000} {
		s := capabilitySets(defaultCaps[:], uid)
		if len(s.Inheritable)+len(s.Ambient) > 0 {
			t.Errorf("uid %d: inheritable %v, ambient %v", uid, s.Inheritable, s.Ambient)
		}
		if (len(s.Effective) > 0) != (uid == 0) {
			t.Errorf("uid %d: effective %v", uid, s.Effective)
		}
	}
}

func TestTheEnvironmentNeverHoldsTheHosts(t *testing.T) { // CVE-2026-57231
	t.Setenv("SECRET", "of the host")
	env := environment(container.Config{Process: container.Process{Env: []string{"SECRET", "*", "=x", "A=1", "PATH=/p", "A=2", "E="}}},
		execUser{Home: "/root"}, "box")
	want := []string{"PATH=/p", "HOSTNAME=box", "HOME=/root", "A=2", "E="}
	if !slices.Equal(env, want) {
		t.Errorf("%q, want %q", env, want)
	}
}

func TestAMountOfTheUserReplacesTheSystems(t *testing.T) {
	in := specInput{EtcFiles: "/run/x", Mounts: []specs.Mount{
		{Destination: "/dev/shm/deep", Type: "bind"}, {Destination: "/dev/", Type: "bind"}, {Destination: "/etc/hosts", Type: "bind"}}}
	var got []string
	for _, m := range mounts(in) {
		got = append(got, m.Type+":"+m.Destination)
	}
	want := "proc:/proc sysfs:/sys cgroup:/sys/fs/cgroup bind:/dev/ bind:/etc/hosts bind:/etc/resolv.conf bind:/etc/hostname bind:/dev/shm/deep"
	if strings.Join(got, " ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, " "), want)
	}
}

func TestDefaultsProtectTheHost(t *testing.T) {
	cfg := container.Config{Process: container.Process{Cmd: []string{"true"}}}
	s, err := buildSpec(specInput{Record: container.Record{Config: cfg}}, defaultCaps[:])
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/proc/kcore", "/proc/scsi", "/proc/acpi", "/sys/firmware", "/sys/devices/virtual/powercap"} {
		if !slices.Contains(s.Linux.MaskedPaths, p) {
			t.Errorf("%s is not masked", p)
		}
	}
	first := s.Linux.Resources.Devices[0]
	if first.Allow || first.Access != "rwm" || first.Type != "" {
		t.Errorf("devices are not denied first: %+v", first)
	}
	cfg.Security.Privileged = true
	if s, err = buildSpec(specInput{Record: container.Record{Config: cfg}}, allCaps[:]); err != nil {
		t.Fatal(err)
	}
	if len(s.Linux.MaskedPaths)+len(s.Linux.ReadonlyPaths) > 0 || !s.Linux.Resources.Devices[0].Allow {
		t.Error("a privileged container is confined")
	}
}

func identityRoot(t *testing.T, passwd, group string) *confine.Root {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := confine.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestUsers(t *testing.T) {
	r := identityRoot(t, "root:x:0:0::/root:/bin/sh\n1000:x:0:0:evil:/:/bin/sh\nann:x:12:34::/home/ann:/bin/sh\n",
		"root:x:0:\nwheel:x:10:root,ann\nann:x:34:\n2000:x:0:\n")
	for _, c := range []struct {
		spec     string
		uid, gid uint32
		groups   []uint32
		home     string
	}{
		{"", 0, 0, []uint32{0, 10}, "/root"},
		{"ann", 12, 34, []uint32{34, 10}, "/home/ann"},
		{"ann:wheel", 12, 10, []uint32{10}, "/home/ann"},
		{"1000", 1000, 0, []uint32{0}, "/"}, // a number is never a name: CVE-2016-3697, CVE-2026-46680
		{"1000:2000", 1000, 2000, []uint32{2000}, "/"},
		{"12", 12, 34, []uint32{34, 10}, "/home/ann"},
	} {
		u, err := resolveUser(r, c.spec, nil)
		if err != nil || u.UID != c.uid || u.GID != c.gid || u.Home != c.home || !slices.Equal(u.Groups, c.groups) {
			t.Errorf("%q: %+v, %v", c.spec, u, err)
		}
	}
	for _, bad := range []string{"nobody", "4294967296", "2147483648", "-1", "1:4294967295", "99999999999999999999", "ann:none"} {
		if u, err := resolveUser(r, bad, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", bad, u, err)
		}
	}
	u, err := resolveUser(r, "ann", []string{"wheel", "77"})
	if err != nil || !slices.Equal(u.Groups, []uint32{34, 10, 77}) {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestHostileIdentityFiles(t *testing.T) { // CVE-2026-47262
	r := identityRoot(t, "", "")
	dir := r.File().Name()
	for _, name := range []string{"etc/passwd", "etc/group"} {
		p := filepath.Join(dir, name)
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mkfifo(p, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := resolveUser(r, "x", nil); err == nil {
			t.Errorf("a FIFO as %s was read", name)
		}
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, 1<<40); err != nil {
			t.Fatal(err)
		}
		if _, err := resolveUser(r, "x", nil); err == nil {
			t.Errorf("a huge %s was read", name)
		}
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/passwd", p); err != nil { // a loop inside, the host's file outside
			t.Fatal(err)
		}
		if _, err := resolveUser(r, "daemon", nil); err == nil {
			t.Error("the host's users were read")
		}
		_ = os.Remove(p)
	}
	if u, err := resolveUser(r, "", nil); err != nil || u.UID != 0 || u.Home != "/" {
		t.Errorf("an image without users: %+v, %v", u, err)
	}
}

func TestDeviceRules(t *testing.T) {
	for text, ok := range map[string]bool{"c 42:* rmw": true, "b *:* r": true, "a *:* rwm": true, "c 1:3 x": false,
		"c 1 r": false, "x 1:1 r": false, "c 1:1": false, "": false, "c -1:0 r": false, "c 99999999999:0 r": false} {
		if _, err := parseDeviceRule(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestColumnsOfTop(t *testing.T) {
	for args, want := range map[string]string{"": "UID PID PPID C STIME TTY TIME CMD", "aux": "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-o pid,comm": "PID COMMAND", "-eo pid,args": "PID CMD"} {
		cols, err := psColumns(args)
		var got []string
		for _, c := range cols {
			got = append(got, c.title)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %v, %v", args, got, err)
		}
	}
	for _, bad := range []string{"-o", "-o comm", "--version", "; rm -rf /", "-o pid,secret"} {
		if _, err := psColumns(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
