package ocirun

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capNames are the capabilities by number (capabilities(7)).
var capNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capSet is a set of capabilities, a bit for each number.
type capSet uint64

func (c capSet) has(n int) bool { return c>>n&1 != 0 }

func (c capSet) names() []string {
	var list []string
	for n := range 64 {
		if c.has(n) && n < len(capNames) {
			list = append(list, capNames[n])
		}
	}
	return list
}

// capSets are the five sets of a process.
type capSets struct{ bounding, effective, permitted, inheritable, ambient capSet }

// parseCaps turns names into sets. Unknown names are returned, for a warning (config.md, "Linux Process").
func parseCaps(c *specs.LinuxCapabilities) (sets capSets, unknown []string) {
	if c == nil {
		return sets, nil
	}
	for _, part := range [...]struct {
		names []string
		set   *capSet
	}{{c.Bounding, &sets.bounding}, {c.Effective, &sets.effective}, {c.Permitted, &sets.permitted},
		{c.Inheritable, &sets.inheritable}, {c.Ambient, &sets.ambient}} {
		for _, name := range part.names {
			n := slices.Index(capNames[:], strings.ToUpper(name))
			if n < 0 {
				if !slices.Contains(unknown, name) {
					unknown = append(unknown, name)
				}
				continue
			}
			*part.set |= 1 << n
		}
	}
	return sets, unknown
}

// raise adds one that is needed for a moment, if the caller has it.
func (c *capSets) raise(own capSet, n int) {
	c.permitted |= 1 << n & own
	c.effective |= 1 << n & own
}

// within cuts the sets to what the caller has itself, and gives what fell away.
func (c capSets) within(own capSets) (capSets, capSet) {
	cut := capSets{c.bounding & own.bounding, c.effective & own.permitted, c.permitted & own.permitted,
		c.inheritable & own.permitted, c.ambient & own.permitted & c.inheritable & c.permitted}
	lost := c.bounding&^cut.bounding | c.effective&^cut.effective | c.permitted&^cut.permitted |
		c.inheritable&^cut.inheritable
	return cut, lost
}

// ownCaps reads the caller's bounding and permitted set.
func ownCaps() (own capSets, err error) {
	for n := range 64 {
		// EINVAL: above the last one this kernel knows.
		r, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
		if err != nil {
			break
		}
		own.bounding |= capSet(r) << n
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return own, err
	}
	own.permitted = capSet(data[0].Permitted) | capSet(data[1].Permitted)<<32
	return own, nil
}

// capData is the argument of capset(2).
func (c capSets) capData() *[2]unix.CapUserData {
	return &[2]unix.CapUserData{
		{Effective: uint32(c.effective), Permitted: uint32(c.permitted), Inheritable: uint32(c.inheritable)},
		{Effective: uint32(c.effective >> 32), Permitted: uint32(c.permitted >> 32), Inheritable: uint32(c.inheritable >> 32)},
	}
}
