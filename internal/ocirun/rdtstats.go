package ocirun

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// RdtStats is what runc's events tell of a container's class of Intel RDT, in their form: what the machine has, what the class may use,
// and, where there is a group that counts, what was used in each domain.
type RdtStats struct {
	L3Info     *RdtL3Info `json:"l3_cache_info,omitempty"`
	L3Root     string     `json:"l3_cache_schema_root,omitempty"`
	L3         string     `json:"l3_cache_schema,omitempty"`
	MemBwInfo  *RdtMBInfo `json:"mem_bw_info,omitempty"`
	MemBwRoot  string     `json:"mem_bw_schema_root,omitempty"`
	MemBw      string     `json:"mem_bw_schema,omitempty"`
	Schemata   []string   `json:"schemata,omitempty"`
	Bandwidths []RdtBytes `json:"mbm_stats,omitempty"`
	Caches     []RdtCache `json:"cmt_stats,omitempty"`
}

// RdtL3Info is info/L3.
type RdtL3Info struct {
	CbmMask    string `json:"cbm_mask,omitempty"`
	MinCbmBits uint64 `json:"min_cbm_bits,omitempty"`
	NumClosids uint64 `json:"num_closids,omitempty"`
}

// RdtMBInfo is info/MB.
type RdtMBInfo struct {
	BandwidthGran uint64 `json:"bandwidth_gran,omitempty"`
	DelayLinear   uint64 `json:"delay_linear,omitempty"`
	MinBandwidth  uint64 `json:"min_bandwidth,omitempty"`
	NumClosids    uint64 `json:"num_closids,omitempty"`
}

// RdtBytes are bytes to and from memory, in one domain.
type RdtBytes struct {
	Total uint64 `json:"mbm_total_bytes,omitempty"`
	Local uint64 `json:"mbm_local_bytes,omitempty"`
}

// RdtCache is bytes of cache that are used, in one domain.
type RdtCache struct {
	Occupancy uint64 `json:"llc_occupancy,omitempty"`
}

// Stats reads them; nil has none. What the kernel does not have is left out.
func (t *Rdt) Stats() (s RdtStats) {
	if t == nil {
		return s
	}
	root := filepath.Dir(t.Dir)
	if _, err := os.Stat(filepath.Join(t.Dir, "info")); err == nil {
		root = t.Dir // the class that everybody else is in
	}
	text := func(elems ...string) string {
		data, _ := os.ReadFile(filepath.Join(elems...))
		return strings.TrimSpace(string(data))
	}
	number := func(elems ...string) uint64 {
		n, _ := strconv.ParseUint(text(elems...), 10, 64)
		return n
	}
	if l3 := filepath.Join(root, "info/L3"); text(l3, "num_closids") != "" {
		s.L3Info = &RdtL3Info{text(l3, "cbm_mask"), number(l3, "min_cbm_bits"), number(l3, "num_closids")}
	}
	if mb := filepath.Join(root, "info/MB"); text(mb, "num_closids") != "" {
		s.MemBwInfo = &RdtMBInfo{number(mb, "bandwidth_gran"), number(mb, "delay_linear"), number(mb, "min_bandwidth"), number(mb, "num_closids")}
	}
	_, s.L3Root, s.MemBwRoot = schemataOf(text(root, "schemata"))
	s.Schemata, s.L3, s.MemBw = schemataOf(text(t.Dir, "schemata"))
	group := t.Group
	if group == "" {
		group = t.Dir
	}
	domains, _ := filepath.Glob(filepath.Join(group, "mon_data/mon_L3_*"))
	for _, d := range domains {
		if text(d, "mbm_total_bytes") != "" {
			s.Bandwidths = append(s.Bandwidths, RdtBytes{number(d, "mbm_total_bytes"), number(d, "mbm_local_bytes")})
		}
		if text(d, "llc_occupancy") != "" {
			s.Caches = append(s.Caches, RdtCache{number(d, "llc_occupancy")})
		}
	}
	return s
}

// schemataOf are the lines of a schemata file, and those about the cache and the memory's bandwidth.
func schemataOf(text string) (lines []string, l3, mb string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "L3"):
			l3 = line
		case strings.HasPrefix(line, "MB"):
			mb = line
		}
		lines = append(lines, line)
	}
	return lines, l3, mb
}
