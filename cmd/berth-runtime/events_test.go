package main

import (
	"bufio"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/cgroup"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestEvents(t *testing.T) {
	// It fills a shell's memory until the kernel ends a child of it, and then lives on.
	b := newBundle(t, "sh", "-c", "while ! test -f /tmp/go; do sleep 0.05; done; (x=x; while true; do x=$x$x; done); sleep 1000")
	limit := int64(16 << 20)
	b.spec.Root.Readonly = false
	b.spec.Linux.Resources.Memory = memoryLimit(limit)
	b.write()
	b.ok("run", "--detach", "c")

	out := b.ok("events", "--stats", "c")
	var e struct {
		Type, ID string
		Data     struct {
			Memory struct {
				Usage, Swap struct{ Limit, Usage uint64 }
				Raw         map[string]uint64
			}
			Cpuset            map[string]any
			Hugetlb           map[string]any
			IntelRdt          map[string]any `json:"intel_rdt"`
			Pids              struct{ Current uint64 }
			CPU               struct{ Usage struct{ Total uint64 } }
			NetworkInterfaces []any `json:"network_interfaces"`
		}
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err, out)
	}
	if d := e.Data; e.Type != "stats" || e.ID != "c" || d.Memory.Usage.Limit != uint64(limit) || d.Memory.Usage.Usage == 0 ||
		len(d.Memory.Raw) == 0 || d.Cpuset == nil || d.Hugetlb == nil || d.IntelRdt == nil || d.Pids.Current == 0 || d.CPU.Usage.Total == 0 {
		t.Errorf("%s", out)
	}

	follow := b.command("events", "--interval", "50ms", "c")
	pipe, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for s := bufio.NewScanner(pipe); s.Scan(); {
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			t.Fatal(err, s.Text())
		}
		seen[e.Type]++
		if seen["stats"] == 2 {
			b.ok("exec", "c", "sh", "-c", ": >/tmp/go")
		}
		if e.Type == "oom" && seen["oom"] == 1 {
			b.ok("kill", "c", "KILL") // its end ends the events
		}
	}
	if err := follow.Wait(); err != nil || seen["oom"] == 0 || seen["stats"] < 2 {
		t.Errorf("%v, %v", err, seen)
	}
	for _, args := range [][]string{{"events", "--stats", "c"}, {"events", "--interval", "0s", "c"}, {"events", "none"}, {"events"}} {
		if out, code := b.run(args...); code != 1 || out == "" {
			t.Errorf("%v: %d, %s", args, code, out)
		}
	}
}

// Whoever froze the container, it is paused; and resume thaws it.
func TestPausedIsWhatTheKernelSays(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("run", "--detach", "c")
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Open(b.spec.Linux.CgroupsPath).Freeze(context.Background()); err != nil {
		t.Fatal(err)
	}
	if out := b.ok("state", "c"); !strings.Contains(out, `"status": "paused"`) {
		t.Errorf("%s", out)
	}
	if out, code := b.run("exec", "c", "true"); code == 0 || !strings.Contains(out, "paused") {
		t.Errorf("exec: %d, %s", code, out)
	}
	b.ok("resume", "c")
	if out := b.ok("state", "c"); !strings.Contains(out, `"status": "running"`) {
		t.Errorf("%s", out)
	}
	b.ok("pause", "c")
	if out, code := b.run("pause", "c"); code == 0 {
		t.Errorf("paused twice: %s", out)
	}
	b.ok("delete", "--force", "c") // also a frozen one
}

func memoryLimit(bytes int64) *specs.LinuxMemory { return &specs.LinuxMemory{Limit: &bytes} }
