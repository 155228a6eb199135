package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Somebody who can write to a container's files swaps a directory on the way to mount points, masks, devices and the working
// directory for a link that leads out, as fast as can be. Nothing outside is made, mounted on, hidden or changed.
func TestMountTargetsAreSwapped(t *testing.T) {
	b := newBundle(t, "true")
	outside := t.TempDir()
	for _, name := range []string{"secret", "file", "ro/x"} {
		if err := os.MkdirAll(filepath.Dir(outside+"/"+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(outside+"/"+name, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look := func() (found []string) {
		err := filepath.WalkDir(outside, func(path string, d os.DirEntry, err error) error {
			text := ""
			if err == nil && d.Type().IsRegular() {
				data, _ := os.ReadFile(path)
				text = "=" + string(data)
			}
			found = append(found, strings.TrimPrefix(path, outside)+text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	want := strings.Join(look(), " ")
	way, other := b.dir+"/rootfs/way", b.dir+"/rootfs/other"
	for _, dir := range []string{"/sub", "/ro"} {
		if err := os.MkdirAll(way+dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, other); err != nil {
		t.Fatal(err)
	}
	b.spec.Root.Readonly = false
	b.spec.Mounts = append(b.spec.Mounts,
		specs.Mount{Destination: "/way/sub", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/way/new/deep", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/way/file", Type: "bind", Source: "/etc/hostname", Options: []string{"bind"}})
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/way/secret")
	b.spec.Linux.ReadonlyPaths = append(b.spec.Linux.ReadonlyPaths, "/way/ro")
	b.spec.Linux.Devices = append(b.spec.Linux.Devices, specs.LinuxDevice{Path: "/way/null", Type: "c", Major: 1, Minor: 3})
	b.spec.Process.Cwd = "/way/cwd"
	b.write()
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, way, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			}
		}
	}()
	ran := 0
	for i := range 20 {
		args := []string{"run", "c"}
		if i%4 == 3 {
			args = []string{"run", "--no-pivot", "c"}
		}
		out, code := b.run(args...)
		if code == 0 {
			ran++
		} else if !strings.Contains(out, "berth-runtime: ") {
			t.Errorf("exit code %d: %s", code, out)
		}
		if got := strings.Join(look(), " "); got != want {
			t.Fatalf("outside there is now\n%s, and there was\n%s", got, want)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), outside) || strings.Contains(string(mounts), b.dir) {
			t.Fatalf("mounts show outside: %v\n%s", err, mounts)
		}
		if left, _ := os.ReadDir(b.root); len(left) > 0 {
			t.Fatal("left behind:", left)
		}
	}
	close(end)
	<-done
	t.Logf("%d of 20 could be started", ran)
}
