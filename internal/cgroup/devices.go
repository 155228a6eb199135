package cgroup

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Access to a device, as the kernel numbers it for device programs (linux/bpf.h, BPF_DEVCG_ACC_*).
const (
	accessMknod = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

// wild stands for all major or minor numbers.
const wild = -1

// deviceRule is one checked rule about block ('b') or character ('c') devices.
type deviceRule struct {
	allow        bool
	kind         byte
	major, minor int64
	access       uint8
}

// DefaultDevices is the list for a container whose spec gives none: it may make any node but open only those that
// every container has (runtime-spec, config-linux.md, "Default Devices"), the console and pseudo-terminals.
func DefaultDevices() []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range [...]struct {
		kind         string
		major, minor int64
		access       string
	}{
		{"c", wild, wild, "m"}, {"b", wild, wild, "m"},
		{"c", 1, 3, "rwm"}, {"c", 1, 5, "rwm"}, {"c", 1, 7, "rwm"}, {"c", 1, 8, "rwm"}, {"c", 1, 9, "rwm"},
		{"c", 5, 0, "rwm"}, {"c", 5, 1, "rwm"}, {"c", 5, 2, "rwm"}, {"c", 136, wild, "rwm"},
	} {
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: d.kind, Access: d.access}
		if d.major != wild {
			rule.Major = &d.major
		}
		if d.minor != wild {
			rule.Minor = &d.minor
		}
		rules = append(rules, rule)
	}
	return rules
}

func (g *Group) setDevices(list []specs.LinuxDeviceCgroup, fresh bool) error {
	if len(list) == 0 {
		list = DefaultDevices()
	}
	rules, err := parseDevices(list)
	if err != nil {
		return err
	}
	if g.host.version == 2 {
		return g.setDeviceProgram(rules, fresh)
	}
	set, err := reduceDevices(rules)
	if err != nil {
		return err
	}
	t := g.host.tree("devices")
	if t == nil {
		if set.allow && len(set.except) == 0 {
			return nil
		}
		return fmt.Errorf("the devices controller is not available on this host: %w", errdefs.ErrFailedPrecondition)
	}
	return set.write(g.dir(t), fresh)
}

// parseDevices checks the rules and splits those about all devices into one about block and one about character
// devices.
func parseDevices(list []specs.LinuxDeviceCgroup) ([]deviceRule, error) {
	rules := make([]deviceRule, 0, len(list)+1)
	for _, d := range list {
		r := deviceRule{allow: d.Allow, major: wild, minor: wild, access: accessAll}
		if d.Access != "" {
			r.access = 0
			for _, c := range []byte(d.Access) {
				bit := strings.IndexByte("mrw", c)
				if bit < 0 {
					return nil, badDevice("access %q is not made of r, w and m", d.Access)
				}
				r.access |= 1 << bit
			}
		}
		for _, n := range [...]struct{ from, to *int64 }{{d.Major, &r.major}, {d.Minor, &r.minor}} {
			switch {
			case n.from == nil || *n.from == wild:
			case *n.from < 0 || *n.from > math.MaxUint32:
				return nil, badDevice("%d is not a device number", *n.from)
			default:
				*n.to = *n.from
			}
		}
		kinds := ""
		switch d.Type {
		case "", "a":
			kinds = "bc"
		case "b", "c":
			kinds = d.Type
		case "u":
			kinds = "c"
		default:
			return nil, badDevice("type %q is not a, b or c", d.Type)
		}
		for _, k := range []byte(kinds) {
			r.kind = k
			rules = append(rules, r)
		}
	}
	return rules, nil
}

func badDevice(format string, args ...any) error {
	return fmt.Errorf("device rule: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// deviceSet is what v1 can express: everything is forbidden, or allowed, except for some rules. v1 looks only
// whether there is an exception; it knows no order.
type deviceSet struct {
	allow  bool
	except []deviceRule
}

// reduceDevices brings a list in which the last fitting rule decides into the form of v1. What cannot be
// expressed there is an error.
func reduceDevices(rules []deviceRule) (set deviceSet, err error) {
	for i := 0; i < len(rules); i++ {
		r := rules[i]
		if r.everything() && i+1 < len(rules) && rules[i+1].everything() && r.kind != rules[i+1].kind &&
			r.allow == rules[i+1].allow {
			set = deviceSet{allow: r.allow}
			i++
			continue
		}
		if r.allow == set.allow {
			if set.except, err = withoutDevice(set.except, r); err != nil {
				return set, err
			}
			continue
		}
		same := func(e deviceRule) bool { return e.kind == r.kind && e.major == r.major && e.minor == r.minor }
		if j := slices.IndexFunc(set.except, same); j >= 0 {
			set.except[j].access |= r.access
		} else {
			set.except = append(set.except, r)
		}
	}
	return set, nil
}

func (r deviceRule) everything() bool {
	return r.major == wild && r.minor == wild && r.access == accessAll
}

// withoutDevice takes what r is about out of the exceptions.
func withoutDevice(except []deviceRule, r deviceRule) ([]deviceRule, error) {
	kept := except[:0:0]
	for _, e := range except {
		inside := e.kind == r.kind && (r.major == wild || r.major == e.major) && (r.minor == wild || r.minor == e.minor)
		touches := e.kind == r.kind && e.access&r.access != 0 &&
			(r.major == wild || e.major == wild || r.major == e.major) &&
			(r.minor == wild || e.minor == wild || r.minor == e.minor)
		if touches && !inside {
			return nil, fmt.Errorf("rule %q takes back only a part of %q, which cgroup v1 cannot express: %w", r, e,
				errdefs.ErrInvalidArgument)
		}
		if inside {
			e.access &^= r.access
		}
		if e.access != 0 {
			kept = append(kept, e)
		}
	}
	return kept, nil
}

// String is the rule as devices.allow and devices.deny take it.
func (r deviceRule) String() string {
	number := func(n int64) string {
		if n == wild {
			return "*"
		}
		return decimal(n)
	}
	s := string(r.kind) + " " + number(r.major) + ":" + number(r.minor) + " "
	for i, c := range "mrw" {
		if r.access&(1<<i) != 0 {
			s += string(c)
		}
	}
	return s
}

// write sets the rules of the v1 group in dir. A group that runs keeps, while it changes, what it had before and will
// have after.
func (s deviceSet) write(dir string, fresh bool) error {
	var now deviceSet
	if !fresh {
		list, err := readFile(dir + "/devices.list")
		if err != nil {
			return err
		}
		if now, err = parseDeviceList(list); err != nil {
			return err
		}
	}
	files := [...]string{dir + "/devices.deny", dir + "/devices.allow"}
	agree, differ := files[0], files[1]
	if s.allow {
		agree, differ = differ, agree
	}
	var cancel, add []string
	if fresh || now.allow || s.allow {
		// Also forgets all exceptions; those of a group that allows by default cannot be listed.
		cancel, now.except = []string{"a"}, nil
	}
	for _, e := range now.except {
		if !slices.ContainsFunc(s.except, func(o deviceRule) bool { return o.covers(e) }) {
			cancel = append(cancel, e.String())
		}
	}
	for _, e := range s.except {
		if !slices.ContainsFunc(now.except, func(o deviceRule) bool { return o.covers(e) && e.covers(o) }) {
			add = append(add, e.String())
		}
	}
	if err := writeAll(agree, cancel); err != nil {
		return err
	}
	return writeAll(differ, add)
}

// covers reports whether e is a rule about the same devices and not more access.
func (r deviceRule) covers(e deviceRule) bool {
	return r.kind == e.kind && r.major == e.major && r.minor == e.minor && e.access&^r.access == 0
}

// parseDeviceList reads devices.list: "a *:* rwm" alone when everything is allowed but for exceptions that it does not
// show, else what is allowed.
func parseDeviceList(text string) (set deviceSet, err error) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return set, fmt.Errorf("devices.list has the unexpected line %q", line)
		}
		if f[0] == "a" {
			return deviceSet{allow: true}, nil
		}
		major, minor, ok := strings.Cut(f[1], ":")
		if !ok || len(f[0]) != 1 {
			return set, fmt.Errorf("devices.list has the unexpected line %q", line)
		}
		d := specs.LinuxDeviceCgroup{Allow: true, Type: f[0], Access: f[2]}
		for _, n := range [...]struct {
			text string
			to   **int64
		}{{major, &d.Major}, {minor, &d.Minor}} {
			if n.text != "*" {
				v, err := parseUint(n.text)
				if err != nil {
					return set, fmt.Errorf("devices.list has the unexpected line %q", line)
				}
				number := int64(v)
				*n.to = &number
			}
		}
		rules, err := parseDevices([]specs.LinuxDeviceCgroup{d})
		if err != nil {
			return set, err
		}
		set.except = append(set.except, rules...)
	}
	return set, nil
}

// writeAll writes the values to one file, each by itself, as the devices controller wants it.
func writeAll(path string, values []string) error {
	if len(values) == 0 {
		return nil
	}
	fd, err := open(path, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open %q: %w", path, err)
	}
	defer unix.Close(fd)
	for _, v := range values {
		if err := write(fd, v); err != nil {
			return fmt.Errorf("write %q to %q: %w", v, path, err)
		}
	}
	return nil
}
