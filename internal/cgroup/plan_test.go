package cgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// planText writes what a plan does, one line for each write.
func planText(s []setting, warnings []string, err error) string {
	var b strings.Builder
	for _, x := range s {
		fmt.Fprintf(&b, "%s: %s = %s", x.controller, x.file, x.value)
		if x.turn {
			b.WriteString(" (or after the next)")
		}
		for o := x.other; o != nil; o = o.other {
			fmt.Fprintf(&b, ", or %s = %s", o.file, o.value)
		}
		if x.warning != "" {
			b.WriteString(", or warn")
		}
		b.WriteByte('\n')
	}
	for _, w := range warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
	}
	return b.String()
}

// TestPlans compares the plans for the cases in testdata/plans.txt:
//
//	# title
//	{resources as JSON}
//	now: FILE = VALUE                a group that exists; any number of lines
//	v1: or v2:
//	what is written
func TestPlans(t *testing.T) {
	const path = "testdata/plans.txt"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for c := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		lines := strings.Split(c, "\n")
		var r specs.LinuxResources
		if err := json.Unmarshal([]byte(lines[1]), &r); err != nil {
			t.Fatalf("%s: %v", lines[0], err)
		}
		now := map[string]string{}
		var read reader
		fmt.Fprintf(&out, "%s\n%s\n", lines[0], lines[1])
		for _, l := range lines[2:] {
			if rest, ok := strings.CutPrefix(l, "now:"); ok {
				fmt.Fprintln(&out, l)
				file, value, _ := strings.Cut(rest, "=")
				now[strings.TrimSpace(file)] = strings.TrimSpace(value)
				read = func(_, file string) (string, error) {
					if v, ok := now[file]; ok {
						return v, nil
					}
					return "", unix.ENOENT
				}
			}
		}
		fmt.Fprintf(&out, "v1:\n%sv2:\n%s\n", planText(planV1(&r, read)), planText(planV2(&r, read)))
	}
	got := strings.TrimSpace(out.String()) + "\n"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got != string(text) {
		t.Errorf("the plans are (UPDATE=1 writes them to %s):\n%s", path, got)
	}
}

func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 1: 1, 2: 1, 3: 2, 10: 4, 100: 17, 512: 59, 1024: 100, 2048: 174,
		10240: 639, 262144: 10000, 1 << 40: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("%d shares are a weight of %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for shares := uint64(2); shares <= 262144; shares++ {
		w := cpuWeight(shares)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("%d shares are a weight of %d after %d", shares, w, last)
		}
		last = w
	}
	for weight, want := range map[uint16]uint64{10: 1, 100: 910, 500: 4950, 1000: 10000} {
		if got := ioWeight(weight); got != want {
			t.Errorf("blkio weight %d is %d, want %d", weight, got, want)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	n, w := ptr[int64], ptr[uint16]
	for name, r := range map[string]specs.LinuxResources{
		"negative memory":  {Memory: &specs.LinuxMemory{Limit: n(-2)}},
		"negative swap":    {Memory: &specs.LinuxMemory{Swap: n(-1 << 63)}},
		"swap < memory":    {Memory: &specs.LinuxMemory{Limit: n(10), Swap: n(9)}},
		"swappiness":       {Memory: &specs.LinuxMemory{Swappiness: ptr[uint64](101)}},
		"weight 9":         {BlockIO: &specs.LinuxBlockIO{Weight: w(9)}},
		"weight 1001":      {BlockIO: &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{Weight: w(1001)}}}},
		"page size":        {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2mb"}}},
		"page size dots":   {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB/../../x.2MB"}}},
		"key without dot":  {Unified: map[string]string{"memory": "1"}},
		"key with slash":   {Unified: map[string]string{"a/memory.max": "1"}},
		"key of the group": {Unified: map[string]string{"cgroup.kill": "1"}},
		"hidden key":       {Unified: map[string]string{".x": "1"}},
		"empty key":        {Unified: map[string]string{"": "1"}},
	} {
		if err := check(&r); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: n(-1), Swap: n(-1), Swappiness: ptr[uint64](0)},
		BlockIO: &specs.LinuxBlockIO{Weight: w(0)}, Unified: map[string]string{"memory.high": "1", "hugetlb.2MB.max": "0"},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "1GB"}, {Pagesize: "64KB"}}}
	if err := check(&good); err != nil {
		t.Error(err)
	}
}

// Every resource that a spec can have is written, warned of or refused on both versions: none is passed over in silence. One that a newer
// specification adds fails here until it has its place.
func TestNoResourceIsPassedOver(t *testing.T) {
	idle := map[string]string{ // what asks for nothing by itself
		"devices":                  "TestDeviceProgram and its like",
		"memory.checkBeforeUpdate": "TestPlans; the kernel of version 1 refuses of itself",
		"network.priorities.name":  "with its priority",
		"unified":                  "TestPlans",
		"rdma":                     "TestPlans",
		"hugepageLimits.pageSize":  "with its limit",
	}
	host := &Host{version: 2}
	for _, path := range leaves(reflect.TypeFor[specs.LinuxResources](), "") {
		if idle[path] != "" {
			delete(idle, path)
			continue
		}
		var r specs.LinuxResources
		fill(t, reflect.ValueOf(&r).Elem(), strings.Split(path, "."))
		if path == "memory.useHierarchy" { // which it is anyhow
			*r.Memory.UseHierarchy = false
		}
		for version, plan := range map[int]func(*specs.LinuxResources, reader) ([]setting, []string, error){1: planV1, 2: planV2} {
			s, warnings, err := plan(&r, func(_, file string) (string, error) { return "1000000", nil })
			s = append(s, (&Group{host: host}).planHugepages(&r)...)
			if len(s) == 0 && len(warnings) == 0 && err == nil && len(bygone(r.Memory)) == 0 && check(&r) == nil {
				t.Errorf("version %d: %s is passed over in silence", version, path)
			}
		}
	}
	for path := range idle {
		t.Errorf("%s is no resource", path)
	}
}

// leaves are the JSON paths of the fields that are no structures themselves.
func leaves(t reflect.Type, prefix string) (list []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		of := f.Type
		for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice {
			of = of.Elem()
		}
		switch {
		case f.Anonymous && name == "":
			list = append(list, leaves(of, prefix)...)
		case of.Kind() == reflect.Struct && prefix+name != "devices":
			list = append(list, leaves(of, prefix+name+".")...)
		case name != "major" && name != "minor": // of a device whose limit it is
			list = append(list, prefix+name)
		}
	}
	return list
}

// fill gives the field at path a value that asks for something.
func fill(t *testing.T, v reflect.Value, path []string) {
	t.Helper()
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), path)
		return
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), path)
		return
	}
	if len(path) == 0 {
		switch v.Kind() {
		case reflect.Bool:
			v.SetBool(true)
		case reflect.String:
			v.SetString("0")
		case reflect.Int64, reflect.Int, reflect.Int32:
			v.SetInt(1 << 20)
		case reflect.Uint64, reflect.Uint32, reflect.Uint16:
			v.SetUint(100)
		default:
			t.Fatal("no value for", v.Type())
		}
		return
	}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if v.Type().Field(i).Anonymous && name == "" {
			fill(t, v.Field(i), path)
			continue
		}
		if name == path[0] {
			fill(t, v.Field(i), path[1:])
		}
	}
}
