package cgroup

import (
	"reflect"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestPressure(t *testing.T) {
	got := parsePressure("some avg10=1.50 avg60=0.25 avg300=0.00 total=123\nfull avg10=0.00 avg60=x avg300=2.00 total=4\nnew avg10=3\n\n")
	want := &Pressure{Some: PressureLine{1.5, 0.25, 0, 123}, Full: PressureLine{0, 0, 2, 4}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if p := parsePressure(""); p != nil {
		t.Error(p)
	}
}

func TestDetails(t *testing.T) {
	g := create(t, host(t), &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr[int64](32 << 20)}})
	d, err := g.Details()
	if err != nil {
		t.Fatal(err)
	}
	// On version 2 a group has the files of cpuset only where its parents hand that down.
	if g.host.version == 1 && g.host.tree("cpuset") != nil && (len(d.CPUs) == 0 || len(d.Mems) == 0) || len(d.PerCPUUser) != len(d.PerCPUSystem) {
		t.Errorf("%+v", d)
	}
}
