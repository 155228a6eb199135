package cgroup

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// Huge numbers and lists must not cost anything (CVE-2018-20699).
func TestCheckCpuset(t *testing.T) {
	h := host(t)
	for _, good := range []string{"", "0", "0,0", "0-0"} {
		if err := h.CheckCpuset(good, good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"x", ",", "0,", "-1", "1-", "1-0", "0--1", " 0", "0x1", "99999999999999999999",
		"0-4294967295",
		"8191", "8192", "0-8191", "0:1", strings.Repeat("0,", 20000) + "0"} {
		err := h.CheckCpuset(bad, "")
		if !errors.Is(err, errdefs.ErrInvalidArgument) || len(err.Error()) > 300 {
			t.Errorf("cpus %.40q: %v", bad, err)
		}
		if err := h.CheckCpuset("", bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("mems %.40q: %v", bad, err)
		}
	}
}

func TestCPUListContains(t *testing.T) {
	for _, c := range []struct {
		list, asked string
		want        bool
	}{
		{"0-3", "1-2", true}, {"0-3", "3-4", false}, {"0,1,2", "0-2", true}, {"4-7,0-3", "2-6", true},
		{"0-1,3", "0-3", false},
		{"0-5,2-9", "1-9", true}, {"5", "4", false},
	} {
		list, err1 := parseCPUList(c.list)
		asked, err2 := parseCPUList(c.asked)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if got := list.contain(asked[0]); got != c.want {
			t.Errorf("%q contains %q: %v", c.list, c.asked, got)
		}
	}
}

func FuzzCPUList(f *testing.F) {
	f.Add("0-3,7", uint64(2), uint64(3))
	f.Fuzz(func(t *testing.T, text string, first, last uint64) {
		list, err := parseCPUList(text)
		if err != nil || first > last || last > 100 {
			return
		}
		var all []uint64
		for _, r := range list {
			for n := r.first; n <= r.last && n <= 100; n++ {
				all = append(all, n)
			}
		}
		want := true
		for n := first; n <= last; n++ {
			want = want && slices.Contains(all, n)
		}
		if got := list.contain(cpuRange{first, last}); got != want {
			t.Errorf("%q contains %d-%d: %v", text, first, last, got)
		}
	})
}
