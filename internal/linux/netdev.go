package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// LinkCounters are what the kernel counted of a network interface.
type LinkCounters struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// NetDev reads the counters of all interfaces in a process's network namespace, loopback included (/proc/PID/net/dev,
// proc(5)). The error wraps fs.ErrNotExist when there is no such process.
func NetDev(pid int) ([]LinkCounters, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil, err
	}
	var list []LinkCounters
	for line := range strings.Lines(string(data)) {
		// Name, eight counters received, eight sent. The two lines of the heading have no colon.
		name, rest, ok := strings.Cut(line, ":")
		v := strings.Fields(rest)
		if !ok || len(v) < 12 {
			continue
		}
		n := func(i int) uint64 { n, _ := strconv.ParseUint(v[i], 10, 64); return n }
		list = append(list, LinkCounters{strings.TrimSpace(name), n(0), n(1), n(2), n(3), n(8), n(9), n(10), n(11)})
	}
	return list, nil
}
