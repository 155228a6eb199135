package cgroup

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxCPU bounds the numbers in a list, as the kernel's largest configuration does. Lists come from users and are
// kept as ranges here, so that "0-4294967295" costs nothing.
const maxCPU = 8192

// CheckCpuset reports, in Docker's words, whether lists of processors and memory nodes ("0-2,7", "" for no wish)
// are well formed and available here. Errors wrap errdefs.ErrInvalidArgument.
func (h *Host) CheckCpuset(cpus, mems string) error {
	for _, c := range [...]struct{ asked, kind, files, online, missing string }{
		{cpus, "cpus", "cpuset.effective_cpus cpuset.cpus.effective cpuset.cpus", "/sys/devices/system/cpu/online",
			"Requested CPUs are not available"},
		{mems, "mems", "cpuset.effective_mems cpuset.mems.effective cpuset.mems", "/sys/devices/system/node/online",
			"Requested memory nodes are not available"},
	} {
		if c.asked == "" {
			continue
		}
		asked, err := parseCPUList(c.asked)
		if err != nil {
			return fmt.Errorf("Invalid value %.64s for cpuset %s: %w: %w", c.asked, c.kind, err, errdefs.ErrInvalidArgument)
		}
		text, err := h.available(c.files, c.online)
		if err != nil {
			return fmt.Errorf("find the available cpuset %s: %w", c.kind, err)
		}
		available, err := parseCPUList(text)
		if err != nil {
			return fmt.Errorf("read the available cpuset %s %q: %w", c.kind, text, err)
		}
		for _, a := range asked {
			if !available.contain(a) {
				return fmt.Errorf("%s - requested %.64s, available: %s: %w", c.missing, c.asked, text,
					errdefs.ErrInvalidArgument)
			}
		}
	}
	return nil
}

// available reads the root group's list, from the first file that this kernel has, else what is online.
func (h *Host) available(files, online string) (string, error) {
	if t := h.tree("cpuset"); t != nil {
		for f := range strings.FieldsSeq(files) {
			if text, err := readLine(t.dir + "/" + f); err == nil && text != "" {
				return text, nil
			}
		}
	}
	return readLine(online)
}

type cpuRange struct{ first, last uint64 }

type cpuList []cpuRange

// contain reports whether every number of r is in the list, whose ranges may touch and overlap.
func (l cpuList) contain(r cpuRange) bool {
	for again := true; again; {
		again = false
		for _, o := range l {
			if o.first <= r.first && r.first <= o.last {
				if r.last <= o.last {
					return true
				}
				r.first, again = o.last+1, true
			}
		}
	}
	return false
}

// parseCPUList reads the kernel's list format: numbers and ranges, separated by commas.
func parseCPUList(text string) (list cpuList, err error) {
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		r := cpuRange{}
		if r.first, err = strconv.ParseUint(first, 10, 32); err != nil {
			return nil, fmt.Errorf("%.32q is not a number or a range", part)
		}
		r.last = r.first
		if isRange {
			if r.last, err = strconv.ParseUint(last, 10, 32); err != nil || r.last < r.first {
				return nil, fmt.Errorf("%.32q is not a number or a range", part)
			}
		}
		if r.last >= maxCPU {
			return nil, fmt.Errorf("%d is larger than %d", r.last, maxCPU-1)
		}
		if list = append(list, r); len(list) > maxCPU {
			return nil, errors.New("the list is too long")
		}
	}
	return list, nil
}
