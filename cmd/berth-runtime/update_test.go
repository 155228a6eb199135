package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-engine/berth/internal/cgroup"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// limitsOf are the resources of one flag.
func limitsOf(t *testing.T, flag, value string) (*specs.LinuxResources, error) {
	t.Helper()
	limits := updateLimits()
	i := slices.IndexFunc(limits, func(l limit) bool { return l.flag == flag })
	if i < 0 {
		t.Fatal("no flag", flag)
	}
	values := make([]string, len(limits))
	values[i] = value
	return givenLimits(limits, values)
}

func TestUpdateFlags(t *testing.T) {
	r := func(flag, value string) *specs.LinuxResources {
		t.Helper()
		r, err := limitsOf(t, flag, value)
		if err != nil {
			t.Fatal(flag, value, err)
		}
		return r
	}
	for name, ok := range map[string]bool{
		"blkio-weight":       *r("blkio-weight", "500").BlockIO.Weight == 500,
		"cpu-period":         *r("cpu-period", "50000").CPU.Period == 50000,
		"cpu-quota":          *r("cpu-quota", "-1").CPU.Quota == -1,
		"cpu-burst":          *r("cpu-burst", "0").CPU.Burst == 0,
		"cpu-share":          *r("cpu-share", "2").CPU.Shares == 2,
		"cpu-rt-period":      *r("cpu-rt-period", "9").CPU.RealtimePeriod == 9,
		"cpu-rt-runtime":     *r("cpu-rt-runtime", "0").CPU.RealtimeRuntime == 0,
		"cpu-idle":           *r("cpu-idle", "1").CPU.Idle == 1,
		"cpuset-cpus":        r("cpuset-cpus", "0-1").CPU.Cpus == "0-1",
		"cpuset-mems":        r("cpuset-mems", "0").CPU.Mems == "0",
		"memory":             *r("memory", "64m").Memory.Limit == 64<<20,
		"memory in bytes":    *r("memory", "12345678").Memory.Limit == 12345678,
		"memory-reservation": *r("memory-reservation", "1g").Memory.Reservation == 1<<30,
		"memory-swap":        *r("memory-swap", "-1").Memory.Swap == -1,
		"pids-limit":         *r("pids-limit", "-1").Pids.Limit == -1,
	} {
		if !ok {
			t.Error(name)
		}
	}
	// A number that does not fit must not become another one.
	for flag, values := range map[string][]string{
		"blkio-weight": {"65546", "-1", "x"}, "cpu-share": {"-1", "1.5"}, "cpu-period": {"-1"}, "cpu-burst": {"-1"},
		"cpu-quota": {"9223372036854775808"}, "cpu-idle": {"true"}, "memory": {"-2", "64q", "m", "."}, "memory-swap": {"-10m"},
		"pids-limit": {"10k"},
	} {
		for _, v := range values {
			if _, err := limitsOf(t, flag, v); err == nil || !strings.Contains(err.Error(), "--"+flag) {
				t.Errorf("--%s %q: %v", flag, v, err)
			}
		}
	}
}

func TestUpdate(t *testing.T) {
	b := newBundle(t, "sleep", "1000")
	b.ok("run", "-d", "c")
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	check := func(memory, pids uint64) {
		t.Helper()
		s, err := host.Open(b.spec.Linux.CgroupsPath).Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.Memory.Limit != memory || s.Pids.Limit != pids {
			t.Errorf("limits of %d bytes and %d processes, not %d and %d", s.Memory.Limit, s.Pids.Limit, memory, pids)
		}
	}
	b.ok("update", "--memory", "64m", "--pids-limit", "44", "--cpu-share", "512", "c")
	check(64<<20, 44)
	b.ok("update", "--cpu-quota", "20000", "--cpu-period", "50000", "c")
	check(64<<20, 44)
	document := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(document, []byte(`{"memory":{"limit":33554432},"pids":{"limit":33}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.ok("update", "-r", document, "--pids-limit", "11", "c") // the document wins
	check(32<<20, 33)
	cmd := b.command("update", "--resources", "-", "c")
	cmd.Stdin = strings.NewReader(`{"pids":{"limit":22}}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	check(32<<20, 22)
	log := filepath.Join(t.TempDir(), "log")
	b.ok("--log", log, "update", "--kernel-memory", "1g", "c")
	if text, err := os.ReadFile(log); err != nil || !strings.Contains(string(text), "kernel memory settings are ignored") {
		t.Error(string(text), err)
	}
	b.fails("Intel RDT", "update", "--l3-cache-schema", "L3:0=f", "c")
	b.fails("--memory", "update", "--memory", "much", "c")
	b.fails("blkio weight", "update", "--blkio-weight", "5", "c")
	if err := os.WriteFile(document, []byte(`{"memory":`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.fails("cannot be understood", "update", "-r", document, "c")
	check(32<<20, 22)
	b.ok("kill", "c", "KILL")
	b.until("stopped")
	b.fails("stopped", "update", "--memory", "64m", "c")
}

func FuzzUpdateFlags(f *testing.F) {
	for _, s := range []string{"64m", "-1", "0", "1.5g", "", "9e99", "0-2,7"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		limits := updateLimits()
		values := make([]string, len(limits))
		for i := range limits {
			clear(values)
			values[i] = value
			if r, err := givenLimits(limits, values); (r == nil) == (err == nil) {
				t.Errorf("--%s %q: %v, %v", limits[i].flag, value, r, err)
			}
		}
	})
}
