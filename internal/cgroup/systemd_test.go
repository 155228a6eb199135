package cgroup

import (
	"math"
	"reflect"
	"testing"

	"github.com/berth-engine/berth/internal/sdbus"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestUnitProperties(t *testing.T) {
	p := func(n int64) *int64 { return &n }
	u := func(n uint64) *uint64 { return &n }
	w := uint16(500)
	got, err := unitProperties(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: p(64 << 20), Swap: p(96 << 20), Reservation: p(32 << 20)},
		CPU:    &specs.LinuxCPU{Shares: u(1024), Quota: p(150000), Period: u(50000), Cpus: "0-2,9", Mems: "0", Burst: u(5)},
		Pids:   &specs.LinuxPids{Limit: p(0)}, BlockIO: &specs.LinuxBlockIO{Weight: &w, WeightDevice: []specs.LinuxWeightDevice{{Weight: &w}}},
		Unified: map[string]string{"memory.high": "max", "memory.max": "1000", "memory.oom.group": "1"},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []sdbus.Property{{Name: "MemorySwapMax", Value: uint64(32 << 20)}, {Name: "MemoryMax", Value: uint64(1000)},
		{Name: "MemoryLow", Value: uint64(32 << 20)}, {Name: "CPUWeight", Value: uint64(100)},
		{Name: "CPUQuotaPerSecUSec", Value: uint64(3_000_000)}, {Name: "CPUQuotaPeriodUSec", Value: uint64(50000)},
		{Name: "AllowedCPUs", Value: []byte{7, 2}}, {Name: "AllowedMemoryNodes", Value: []byte{1}},
		{Name: "TasksMax", Value: uint64(1)}, {Name: "IOWeight", Value: uint64(4950)},
		{Name: "MemoryHigh", Value: uint64(math.MaxUint64)}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	// A lone quota keeps the period that the group has.
	got, err = unitProperties(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: p(10000)}},
		func(string, string) (string, error) { return "max 20000", nil })
	want = []sdbus.Property{{Name: "CPUQuotaPerSecUSec", Value: uint64(500_000)}, {Name: "CPUQuotaPeriodUSec", Value: uint64(20000)}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, r := range []*specs.LinuxResources{
		{CPU: &specs.LinuxCPU{Cpus: "x"}},
		{CPU: &specs.LinuxCPU{Cpus: "0-4294967295"}},
		{Unified: map[string]string{"memory.high": "much"}},
		{Unified: map[string]string{"cpu.max": "1 0"}},
		{Memory: &specs.LinuxMemory{Limit: p(-2)}},
	} {
		if got, err := unitProperties(r, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v, %v", r, got, err)
		}
	}
	h := &Host{version: 1}
	if _, _, err := h.StartScope(nil, "a.scope", "", 1, nil); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}
