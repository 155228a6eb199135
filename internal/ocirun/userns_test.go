package ocirun

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/linux"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const firstUID, firstGID = 200000, 300000

// remapped gives the container a user namespace, and its root the files.
func remapped(t testing.TB) func(*StartOptions) {
	return func(o *StartOptions) {
		l := o.Spec.Linux
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstUID, Size: 2000}}
		l.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: firstGID, Size: 2000}}
		if err := filepath.WalkDir(o.Spec.Root.Path, func(p string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(p, firstUID, firstGID)
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUserNamespace(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	var root string
	out := sh(t, `id; echo pid $$; hostname; cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/mine /dev/shm/shm; mkdir /dev/x && rmdir /dev/x 2>/dev/null
		stat -c '%n %u:%g' /proc/1 /dev /dev/null /dev/shm /tmp/mine / /made; echo x >/dev/null && echo null is open; grep -E 'Cap(Prm|Bnd)' /proc/self/status
		cat /proc/self/mountinfo; cat /proc/keys | head -c 3; echo y > /proc/sys/kernel/hostname || echo sys is closed; cat /proc/self/limits
		mount -t tmpfs none /tmp || echo cannot mount; for n in user mnt net pid ipc uts; do readlink /proc/self/ns/$n; done`, func(o *StartOptions) {
		remapped(t)(o)
		root = o.Spec.Root.Path
		o.Spec.Process.Cwd = "/made"
		hard := uint64(100)
		o.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 50, Hard: hard}}
	})
	has(t, out, "uid=0(root) gid=0", "pid 1\n", "box\n", fmt.Sprintf("%10d %10d %10d\n", 0, firstUID, 2000), fmt.Sprintf("%10d %10d %10d\n", 0, firstGID, 2000),
		"/proc/1 0:0\n/dev 0:0\n/dev/null 0:0\n/dev/shm 0:0\n/tmp/mine 0:0\n/ 0:0\n/made 0:0\n", "null is open", "CapPrm:\t00000000a80425fb",
		"CapBnd:\t00000000a80425fb", " /proc rw,nosuid", " /sys ro,", " /dev/mqueue ", "sys is closed", "cannot mount",
		"Max open files            50                   100 ")
	var st unix.Stat_t
	if err := unix.Stat(root+"/tmp/mine", &st); err != nil || st.Uid != firstUID || st.Gid != firstGID {
		t.Error(st.Uid, st.Gid, err)
	}
	for _, kind := range []string{"user", "mnt", "net", "pid", "ipc", "uts"} {
		if own, err := os.Readlink("/proc/self/ns/" + kind); err != nil || strings.Contains(out, own) {
			t.Error("the host's namespace:", own, err)
		}
	}
}

// The container's namespaces are its own: its root may do in them what root may.
func TestUserNamespaceOwnsTheOthers(t *testing.T) {
	needRoot(t)
	all := capSet(1<<len(capNames) - 1).names()
	out := sh(t, `mount -t tmpfs none /tmp && echo mounted; hostname other && hostname; mount -t proc proc /tmp && ls /tmp/1/ns >/dev/null && echo proc; ip link set lo down && echo link
		mknod /dev/mem c 1 1 || echo no device; ls /proc/1/root/etc/passwd`, func(o *StartOptions) {
		remapped(t)(o)
		o.Spec.Linux.MaskedPaths, o.Spec.Linux.ReadonlyPaths = nil, nil
		o.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	})
	has(t, out, "mounted", "other\n", "proc\n", "link\n", "no device")
}

func TestExecInUserNamespace(t *testing.T) {
	needRoot(t)
	g := testGroup(t, nil)
	p, s := sleeper(t, func(o *StartOptions) {
		remapped(t)(o)
		o.Cgroup = g
		o.Spec.Mounts = append(o.Spec.Mounts, cgroupMount())
		o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	})
	proc := *s.Process
	for _, user := range []uint32{0, 1000} {
		proc.User = specs.User{UID: user, GID: user, AdditionalGids: []uint32{7}}
		proc.Args = []string{"sh", "-c", "id; readlink /proc/self/ns/user; ls -d /sys/fs/cgroup; echo x > /proc/self/fd/1; cat /proc/self/status"}
		out, ws, err := execIn(t, p, ExecOptions{Process: &proc, Cgroup: g})
		if err != nil || ws.Code != 0 {
			t.Fatal(out, ws, err)
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
		if err != nil {
			t.Fatal(err)
		}
		has(t, out, fmt.Sprintf("uid=%d", user), link, "CapBnd:\t00000000a80425fb")
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d", p.Pid), &st); err != nil || st.Uid != firstUID {
			t.Error(st.Uid, err)
		}
	}
	proc.User = specs.User{UID: 5000}
	if _, _, err := execIn(t, p, ExecOptions{Process: &proc, Cgroup: g}); err == nil || !strings.Contains(err.Error(), "set the user") {
		t.Error("a user that is not mapped:", err)
	}
	proc.User = specs.User{}
	proc.Args = []string{"sh", "-c", "tty; stat -c %u $(tty)"}
	if out, _, err := execIn(t, p, ExecOptions{Process: &proc, Terminal: true}); err != nil || out != "/dev/pts/0\r\n0\r\n" {
		t.Errorf("%q %v", out, err)
	}
}

// A user namespace that is there already is joined, and what is made belongs to it.
func TestJoinUserNamespace(t *testing.T) {
	needRoot(t)
	first, _ := sleeper(t, remapped(t))
	name := fmt.Sprintf("/proc/%d/ns/user", first.Pid)
	out := sh(t, "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id; stat -c %u /dev", func(o *StartOptions) {
		remapped(t)(o)
		l := o.Spec.Linux
		l.UIDMappings, l.GIDMappings = nil, nil
		l.Namespaces[len(l.Namespaces)-1].Path = name
		for i := range l.Namespaces {
			if l.Namespaces[i].Type == specs.NetworkNamespace {
				l.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/net", first.Pid)
			}
		}
	})
	for _, kind := range []string{"user", "net"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", first.Pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		has(t, out, link+"\n")
	}
	has(t, out, "uid=0(root)", "\n0\n")
}

// A mount with "idmap" and no mappings of its own takes the container's: files keep their owners' numbers inside.
func TestIDMapOfTheUserNamespace(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir+"/f", "")
	if err := os.Chown(dir+"/f", 12, 34); err != nil {
		t.Fatal(err)
	}
	out := sh(t, "stat -c %u:%g /m/f /plain/f; touch /m/new", func(o *StartOptions) {
		remapped(t)(o)
		o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/m", Source: dir, Options: []string{"rbind", "idmap"}},
			specs.Mount{Destination: "/plain", Source: dir, Options: []string{"rbind"}})
	})
	has(t, out, "12:34\n65534:65534\n")
	var st unix.Stat_t
	if err := unix.Stat(dir+"/new", &st); err != nil || st.Uid != 0 {
		t.Error(st.Uid, err)
	}
}

func TestUserNamespaceRefused(t *testing.T) {
	for name, change := range map[string]func(*specs.Linux){
		"no groups":    func(l *specs.Linux) { l.GIDMappings = nil },
		"empty":        func(l *specs.Linux) { l.UIDMappings[0].Size = 0 },
		"too large":    func(l *specs.Linux) { l.UIDMappings[0].Size = 1<<32 - 1 },
		"no namespace": func(l *specs.Linux) { l.Namespaces = l.Namespaces[:len(l.Namespaces)-1] },
	} {
		o := StartOptions{Spec: newSpec(t.TempDir(), "true")}
		remapped(t)(&o)
		change(o.Spec.Linux)
		if err := Check(o.Spec); !errdefs.IsInvalidArgument(err) {
			t.Error(name, err)
		}
	}
}

// A process on its way into a user namespace leaves nothing behind when the mappings are not to be had.
func TestKeeperErrors(t *testing.T) {
	needRoot(t)
	twice := []linux.IDMapping{{Inside: 0, Outside: 1, Size: 5}, {Inside: 3, Outside: 100, Size: 5}}
	if k, err := linux.KeepNamespaces(nil, twice, twice, 0); err == nil || k != nil || !strings.Contains(err.Error(), "mappings") {
		t.Error(k, err)
	}
}
