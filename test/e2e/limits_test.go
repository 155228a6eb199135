package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-engine/berth/test/harness"
)

// kernelFile reads a file of a container's cgroup, by its name on cgroup v1 or v2, whichever exists.
func kernelFile(t *testing.T, d *harness.Daemon, id, v1, v2 string) string {
	t.Helper()
	text := kernelFileOrEmpty(d, id, v1, v2)
	if text == "" {
		t.Errorf("container %.12s has neither %s nor %s", id, v1, v2)
	}
	return text
}

func kernelFileOrEmpty(d *harness.Daemon, id, v1, v2 string) string {
	controller, _, _ := strings.Cut(v1, ".")
	for _, p := range []string{
		filepath.Join("/sys/fs/cgroup", controller, d.Cgroup, id, v1),
		filepath.Join("/sys/fs/cgroup", d.Cgroup, id, v2),
	} {
		if data, err := os.ReadFile(p); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return ""
}

// TestLimits: what was asked for is what the kernel enforces.
func TestLimits(t *testing.T) {
	d := harness.Start(t)
	v2 := fileExists("/sys/fs/cgroup/cgroup.controllers")
	for _, tc := range []struct{ flags, v1, v2, want1, want2 string }{
		{"-m 64m", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
		{"-m 64m --memory-reservation 32m", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"},
		{"--cpus 0.5", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
		{"--cpu-period 50000 --cpu-quota 25000", "cpu.cfs_quota_us", "cpu.max", "25000", "25000 50000"},
		{"--cpu-shares 512", "cpu.shares", "cpu.weight", "512", ""},
		{"--cpuset-cpus 0", "cpuset.cpus", "cpuset.cpus", "0", "0"},
		{"--pids-limit 17", "pids.max", "pids.max", "17", "17"},
	} {
		t.Run(tc.flags, func(t *testing.T) {
			id := d.Must("$D run -d " + tc.flags + " berth/box sleep 100")
			want := tc.want1
			if v2 {
				want = tc.want2
			}
			if got := kernelFile(t, d, id, tc.v1, tc.v2); want != "" && got != want {
				t.Errorf("%s: the kernel has %s = %q, wanted %q", tc.flags, tc.v1, got, want)
			}
			d.Must("$D rm -f " + id)
		})
	}
	t.Run("a parent of one's own", func(t *testing.T) {
		top := d.Cgroup + "-own"
		there := func() bool {
			return fileExists(filepath.Join("/sys/fs/cgroup/pids", top)) || fileExists(filepath.Join("/sys/fs/cgroup", top))
		}
		ids := d.Must("$D run -d --cgroup-parent " + top + "/below berth/box sleep 100; $D run -d --cgroup-parent " + top + "/below berth/box sleep 100")
		first, second, _ := strings.Cut(ids, "\n")
		d.Must("$D rm -f " + first)
		if !there() {
			t.Error("the parent is gone while a container is in it")
		}
		d.Must("$D rm -f " + second)
		if there() {
			t.Error("the parent that was made for the containers is left behind")
		}
	})
	b := d.Berth()
	t.Run("out of memory", func(t *testing.T) {
		d.ShellT(t, b, `$D run --name oom -m 16m berth/box sh -c 'x=$(yes | head -c 300000000); echo no'`).Exits(137)
		d.ShellT(t, b, `$D inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' oom`).Prints("true 137\n")
		d.ShellT(t, b, `sleep 1; $D events --since 1 --until $(date +%s) --filter container=oom --format '{{.Action}}'`).Shows("oom\n")
	})
	t.Run("fork bomb", func(t *testing.T) {
		// How the bomb ends is its own affair; that it stays inside its limit is ours.
		id := d.Must(`$D run -d --pids-limit 20 berth/box sh -c 'for i in $(seq 50); do sleep 5 & done; wait' 2>/dev/null`)
		for range 20 {
			if n, err := strconv.Atoi(kernelFileOrEmpty(d, id, "pids.current", "pids.current")); err == nil && n > 20 {
				t.Errorf("%d processes and threads in a container limited to 20", n)
			}
			time.Sleep(20 * time.Millisecond)
		}
		d.ShellT(t, b, `$D rm -f `+id).Exits(0)
		d.ShellT(t, b, `$D run --rm berth/box echo unharmed`).Prints("unharmed\n")
	})
	t.Run("cpu", func(t *testing.T) {
		d.ShellT(t, b, `$D run --rm --cpus 0.2 berth/box sh -c 'timeout 1 yes >/dev/null; cat /sys/fs/cgroup/cpu/cpu.stat /sys/fs/cgroup/cpu.stat 2>/dev/null | grep nr_throttled'`).
			Exits(0).Shows("nr_throttled")
	})
	t.Run("impossible", func(t *testing.T) {
		d.ShellT(t, b, `$D run --rm --cpuset-cpus 99 berth/box true`).Exits(125).Complains("cpu")
		d.ShellT(t, b, `$D run --rm -m 1k berth/box true`).Exits(125).Complains("memory limit")
		d.ShellT(t, b, `$D run --rm --cpus 1000 berth/box true`).Exits(125).Complains("cpus")
		d.ShellT(t, b, `$D run --rm -m 64m --memory-swap 32m berth/box true`).Exits(125).Complains("memoryswap")
	})
	t.Run("a hard limit that may not be raised is a warning", func(t *testing.T) {
		d.ShellT(t, b, `$D run --rm --ulimit nofile=1000000:1000000 berth/box echo ran`).Exits(0).Shows("ran")
	})
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}
