package ocirun

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-engine/berth/internal/linux"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func withMount(m specs.Mount) func(*StartOptions) {
	return func(o *StartOptions) { o.Spec.Mounts = append(o.Spec.Mounts, m) }
}

// An id-mapped mount shows and writes other owners than the disk has.
func TestIDMappedMount(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	dir := t.TempDir()
	write(t, dir+"/one", "")
	if err := os.Chown(dir+"/one", 1000, 1001); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	maps := func(host uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: 0, HostID: host, Size: 100}, {ContainerID: 1000, HostID: 0, Size: 10}}
	}
	for _, options := range [][]string{{"bind"}, {"rbind", "idmap"}, {"rbind", "ridmap", "nosuid"}} {
		_ = os.Remove(sub + "/new")
		out := sh(t, "stat -c '%u:%g' /m/one; touch /m/sub/new; stat -c '%u:%g' /m/sub/new",
			withMount(specs.Mount{Destination: "/m", Source: dir, Options: options, UIDMappings: maps(200), GIDMappings: maps(300)}))
		// Who is root in the container is user 0 of the mount, which the mapping makes 1000 on the disk.
		has(t, out, "0:1\n0:0\n")
		var st unix.Stat_t
		if err := unix.Stat(sub+"/new", &st); err != nil || st.Uid != 1000 || st.Gid != 1000 {
			t.Error(options, st.Uid, st.Gid, err)
		}
	}
}

// tmpcopyup brings what it covers, with owners, modes and links, and nothing that a link points to.
func TestTmpCopyUp(t *testing.T) {
	noLeaks(t)
	for _, options := range [][]string{{"tmpcopyup"}, {"tmpcopyup", "ro", "nosuid"}} {
		out := sh(t, `cd /data; stat -c '%n %a %u:%g' . dir dir/file p; readlink out; cat dir/file; touch dir/new || echo closed; grep " /data " /proc/self/mountinfo; ls /etc/secret`,
			func(o *StartOptions) {
				root := o.Spec.Root.Path
				for _, d := range []string{"/data", "/data/dir"} {
					if err := os.Mkdir(root+d, 0o751); err != nil {
						t.Fatal(err)
					}
				}
				write(t, root+"/data/dir/file", "content\n")
				for _, err := range []error{os.Chown(root+"/data/dir/file", 12, 34), os.Chmod(root+"/data/dir/file", 0o640|os.ModeSetuid),
					os.Symlink("/etc/passwd", root+"/data/out"), unix.Mkfifo(root+"/data/p", 0o600)} {
					if err != nil {
						t.Fatal(err)
					}
				}
				o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: options})
			})
		has(t, out, ". 751 0:0\ndir 751 0:0\ndir/file 4640 12:34\np 600 0:0\n/etc/passwd\ncontent\n", " - tmpfs tmpfs ")
		if len(options) > 1 {
			has(t, out, "closed", " /data ro,nosuid")
		}
	}
}

// A remount changes what an earlier entry mounted, and nothing of the host's.
func TestRemountOption(t *testing.T) {
	needRoot(t)
	noLeaks(t)
	dir := t.TempDir()
	out := sh(t, `touch /m/x || echo closed; grep " /m " /proc/self/mountinfo`, func(o *StartOptions) {
		o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/m", Source: dir, Options: []string{"rbind"}},
			specs.Mount{Destination: "/m", Options: []string{"remount", "bind", "ro", "noexec"}})
	})
	has(t, out, "closed", " /m ro,noexec")
	write(t, dir+"/still", "open")
	o := StartOptions{Spec: newSpec(newRootfs(t), "true")}
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/etc", Options: []string{"remount", "ro"}})
	if _, _, _, err := tryRun(t, o); err == nil {
		t.Error("remounted what is no mount")
	}
}

// Recursive attributes reach the mounts below, plain ones do not.
func TestRecursiveAttributes(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/below", 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := linux.NewMount("tmpfs", "tmpfs", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	at, err := os.Open(dir + "/below")
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if err := linux.MoveMount(tree, at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir+"/below", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for option, want := range map[string][]string{"ro": {" /m ro,relatime", " /m/below rw,relatime"}, "rro": {" /m ro,relatime", " /m/below ro,relatime"},
		"rnosuid": {" /m rw,nosuid,relatime", " /m/below rw,nosuid,relatime"}, "rnoatime": {" /m rw,noatime", " /m/below rw,noatime"}} {
		has(t, sh(t, "cat /proc/self/mountinfo", withMount(specs.Mount{Destination: "/m", Source: dir, Options: []string{"rbind", option}})), want...)
	}
}
