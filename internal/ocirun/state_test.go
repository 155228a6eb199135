package ocirun

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A state is the same however it is written and read, and every field of it is kept.
func TestStateIsKept(t *testing.T) {
	full := &State{Format: 1, OCIVersion: "1.3.0", ID: "a\"b", Pid: 5, StartTime: 1 << 63, Bundle: "/b\n", Rootfs: "/r\\é", Created: time.Now().UTC().Round(0),
		Held: true, Program: "sh", Searched: true, ExecFrom: 7, CgroupPath: "/c", Annotations: map[string]string{"a": "b", "c\x01": ""},
		Hooks: &specs.Hooks{Poststop: []specs.Hook{{Path: "/h"}}}, Process: &specs.Process{Args: []string{"a"}, Cwd: "/"},
		Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, Owner: 1000,
		Rdt: &Rdt{Dir: "/sys/fs/resctrl/c", Made: true, Group: "/g"}}
	for i := range reflect.TypeFor[State]().NumField() {
		if reflect.ValueOf(full).Elem().Field(i).IsZero() {
			t.Errorf("field %s is not tested", reflect.TypeFor[State]().Field(i).Name)
		}
	}
	for _, st := range []*State{full, {Format: 1}, {Format: 1, Hooks: &specs.Hooks{}}} {
		dir := t.TempDir()
		if err := WriteState(dir, st); err != nil {
			t.Fatal(err)
		}
		got, err := ReadState(dir)
		if err != nil || !reflect.DeepEqual(got, st) {
			t.Errorf("got %+v, %v\nwant %+v", got, err, st)
		}
		data, err := os.ReadFile(filepath.Join(dir, StateFile))
		if err != nil {
			t.Fatal(err)
		}
		var other State
		if err := json.Unmarshal(data, &other); err != nil || !reflect.DeepEqual(&other, st) {
			t.Errorf("encoding/json reads %+v, %v of %s", other, err, data)
		}
	}
}
