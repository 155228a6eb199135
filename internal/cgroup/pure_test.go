package cgroup

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestMountinfo(t *testing.T) {
	got := parseMountinfo(`23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
40 31 0:9 / /elsewhere/memory rw - cgroup cgroup rw,memory
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:10 master:3 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd
34 31 0:31 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
35 31 0:32 / /sys/fs/cgroup/odd\040name rw - cgroup none rw,pids
36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
37 31 0:33 / /mnt - cgroup
38 31 0:34 / /mnt2 rw - cgroupfs x rw,cpu
39 31 0:35 / /mnt3 rw - cgroup none rw,xattr
`)
	want := []tree{
		{"/sys/fs/cgroup/memory", false, []string{"memory"}},
		{"/sys/fs/cgroup/cpu,cpuacct", false, []string{"cpu", "cpuacct"}},
		{"/sys/fs/cgroup/systemd", false, []string{"name=systemd"}},
		{"/sys/fs/cgroup/odd name", false, []string{"pids"}},
		{"/sys/fs/cgroup/unified", true, nil},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	h := &Host{version: 1, trees: want[:4]}
	m := h.Open("/berth/x").Mounts()
	if m[1].Data != "cpu,cpuacct" || !slices.Equal(m[1].Links, []string{"cpu", "cpuacct"}) || m[1].Name != "cpu,cpuacct" ||
		m[2].Data != "none,name=systemd" || m[0].Source != "/sys/fs/cgroup/memory/berth/x" || m[0].Links != nil {
		t.Errorf("%+v", m)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("31 23 0:28 / /sys/fs/cgroup\\040x ro - cgroup cgroup rw,memory\n1 - cgroup\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, tree := range parseMountinfo(text) {
			if !tree.v2 && len(tree.controllers) == 0 {
				t.Errorf("%+v", tree)
			}
		}
	})
}

func TestStatLines(t *testing.T) {
	if got, want := ioEntries("8:0 Read 10\n8:0 Write 20\n8:0 Total 30\nTotal 30\n7:1 5\nx:y Read 1\n8:1 Read x\n"),
		([]IOEntry{{8, 0, "Read", 10}, {8, 0, "Write", 20}, {8, 0, "Total", 30}, {7, 1, "", 5}}); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
	bytes, ios := ioStat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n\n8:16 \n" +
		"bad rbytes=1\n253:0 rbytes=x wios=9\n")
	if !slices.Equal(bytes, []IOEntry{{8, 0, "read", 1}, {8, 0, "write", 2}}) ||
		!slices.Equal(ios, []IOEntry{{8, 0, "read", 3}, {8, 0, "write", 4}, {253, 0, "write", 9}}) {
		t.Errorf("%+v, %+v", bytes, ios)
	}
}

func rule(text string) specs.LinuxDeviceCgroup {
	f := strings.Fields(text)
	r := specs.LinuxDeviceCgroup{Allow: f[0] == "allow", Type: f[1], Access: f[3]}
	major, minor, _ := strings.Cut(f[2], ":")
	for _, n := range []struct {
		text string
		to   **int64
	}{{major, &r.Major}, {minor, &r.Minor}} {
		if v, err := parseUint(n.text); err == nil {
			*n.to = ptr(int64(v))
		}
	}
	return r
}

func ruleList(text string) (list []specs.LinuxDeviceCgroup) {
	for _, r := range strings.Split(text, ", ") {
		list = append(list, rule(r))
	}
	return list
}

func TestReduceDevices(t *testing.T) {
	for _, c := range []struct{ list, want string }{
		{"deny a *:* rwm", "deny"},
		{"allow a *:* rwm", "allow"},
		{"allow c 1:3 rwm", "deny c 1:3 mrw"},
		{"deny a *:* rwm, allow c 1:3 r, allow c 1:3 w", "deny c 1:3 rw"},
		// Written as it stands, v1 would take "a 1:3" for everything.
		{"allow a 1:3 rw", "deny b 1:3 rw c 1:3 rw"},
		{"allow a *:* m", "deny b *:* m c *:* m"},
		{"allow a *:* rwm, deny c 1:11 w", "allow c 1:11 w"},
		{"allow a *:* rwm, deny c 1:11 rwm, allow c 1:11 r", "allow c 1:11 mw"},
		{"allow c 1:3 rwm, deny c 1:* rwm", "deny"},
		{"allow c 1:3 rwm, deny c 1:* w", "deny c 1:3 mr"},
		{"allow c 1:3 rwm, deny b 1:3 rwm, deny c 2:3 rwm", "deny c 1:3 mrw"},
		{"allow c 1:* rwm, deny c 1:3 w", "error"},
		{"allow a *:* rwm, deny c 1:* w, allow c 1:3 w", "error"},
		{"allow c *:* m, deny c 1:3 w", "deny c *:* m"},
	} {
		rules, err := parseDevices(ruleList(c.list))
		if err != nil {
			t.Fatal(err)
		}
		set, err := reduceDevices(rules)
		got := "deny"
		if set.allow {
			got = "allow"
		}
		for _, e := range set.except {
			got += " " + e.String()
		}
		if errors.Is(err, errdefs.ErrInvalidArgument) {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.list, got, c.want)
		}
	}
	if rules, err := parseDevices(DefaultDevices()); err != nil || len(rules) != 13 {
		t.Errorf("the default list: %v, %v", rules, err)
	}
}

func TestBadDeviceRules(t *testing.T) {
	for _, d := range []specs.LinuxDeviceCgroup{{Type: "p"}, {Type: "bc"}, {Access: "x"}, {Access: "rwx"},
		{Type: "c", Major: ptr[int64](-2)}, {Type: "c", Minor: ptr[int64](1 << 32)}} {
		if _, err := parseDevices([]specs.LinuxDeviceCgroup{d}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %v", d, err)
		}
	}
	rules, err := parseDevices(make([]specs.LinuxDeviceCgroup, maxRuleCount))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deviceProgram(rules); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("too many rules: %v", err)
	}
	for _, text := range []string{"c 1:3", "c 1 rwm", "x 1:3 rwm", "c 1:3 q", "cc 1:3 r", "c x:3 r"} {
		if set, err := parseDeviceList(text); err == nil {
			t.Errorf("%q was read as %+v", text, set)
		}
	}
}

// allowed reads a rule list as the package comment says: for each kind of access by itself, the last rule that fits
// decides, and nothing is allowed at first.
func allowed(list []specs.LinuxDeviceCgroup, kind byte, major, minor int64, access uint8) bool {
	for bit := uint8(1); bit <= accessWrite; bit <<= 1 {
		if access&bit == 0 {
			continue
		}
		ok := false
		for _, r := range list {
			if (r.Type == "a" || r.Type[0] == kind) && (r.Major == nil || *r.Major == major) &&
				(r.Minor == nil || *r.Minor == minor) && strings.Contains(r.Access, map[uint8]string{1: "m", 2: "r", 4: "w"}[bit]) {
				ok = r.Allow
			}
		}
		if !ok {
			return false
		}
	}
	return true
}

// allowedV1 is what v1 makes of its exceptions (linux/security/device_cgroup.c): those of a group that forbids must
// cover the access, those of one that allows must not touch it.
func (s deviceSet) allowedV1(kind byte, major, minor int64, access uint8) bool {
	for _, e := range s.except {
		if e.kind != kind || e.major != wild && e.major != major || e.minor != wild && e.minor != minor {
			continue
		}
		if s.allow && e.access&access != 0 {
			return false
		}
		if !s.allow && access&^e.access == 0 {
			return true
		}
	}
	return s.allow
}

// runProgram evaluates a device program as the kernel does.
func runProgram(t *testing.T, p []instruction, kind byte, major, minor int64, access uint8) bool {
	t.Helper()
	word := uint32(access)<<16 | kindChar
	if kind == 'b' {
		word = uint32(access)<<16 | kindBlock
	}
	context := map[int16]uint64{0: uint64(word), 4: uint64(uint32(major)), 8: uint64(uint32(minor))}
	var r [11]uint64
	for pc := 0; pc < len(p); pc++ {
		i := p[pc]
		dst, src, imm := i.regs&15, i.regs>>4, uint64(int64(i.imm))
		switch i.op {
		case bpfLoadWord:
			r[dst] = context[i.offset]
		case bpfMoveImm:
			r[dst] = imm
		case bpfMoveReg:
			r[dst] = r[src]
		case bpfAndImm:
			r[dst] &= imm
		case bpfAndReg:
			r[dst] &= r[src]
		case bpfOrImm:
			r[dst] |= imm
		case bpfXorImm:
			r[dst] ^= imm
		case bpfShiftImm:
			r[dst] >>= imm
		case bpfJumpNe:
			if r[dst] != imm {
				pc += int(i.offset)
			}
		case bpfMoveReg32:
			r[dst] = uint64(uint32(r[src]))
		case bpfXorImm32:
			r[dst] = uint64(uint32(r[dst] ^ imm))
		case bpfOrReg32:
			r[dst] = uint64(uint32(r[dst] | r[src]))
		case bpfJumpEq:
			if r[dst] == imm {
				pc += int(i.offset)
			}
		case bpfExit:
			return r[0] == 1
		default:
			t.Fatalf("instruction %d is unknown: %+v", pc, i)
		}
	}
	t.Fatal("the program does not end")
	return false
}

// FuzzDevices compares both versions' devices with a plain reading of the rules. v1 may be stricter where two rules
// each allow a part of what is asked, and never looser.
func FuzzDevices(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Add([]byte{1, 0, 0, 0, 7, 0, 1, 3, 3, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		var list []specs.LinuxDeviceCgroup
		for ; len(data) >= 5 && len(list) < 40; data = data[5:] {
			number := func(b byte) string {
				if b%4 == 0 {
					return "*"
				}
				return fmt.Sprint(b % 4)
			}
			access := ""
			for i, c := range "mrw" {
				if data[4]&(1<<i) != 0 {
					access += string(c)
				}
			}
			if access == "" {
				continue
			}
			list = append(list, rule(fmt.Sprintf("%s %c %s:%s %s", []string{"deny", "allow"}[data[0]%2], "abc"[data[1]%3],
				number(data[2]), number(data[3]), access)))
		}
		rules, err := parseDevices(list)
		if err != nil {
			t.Fatal(err)
		}
		program, err := deviceProgram(rules)
		if err != nil {
			t.Fatal(err)
		}
		set, v1err := reduceDevices(rules)
		r := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			kind, major, minor, access := "bc"[r.IntN(2)], r.Int64N(5), r.Int64N(5), uint8(1+r.IntN(7))
			want := allowed(list, kind, major, minor, access)
			if got := runProgram(t, program, kind, major, minor, access); got != want {
				t.Fatalf("%v: %c %d:%d %d is %v in the program", rules, kind, major, minor, access, got)
			}
			if v1err == nil && set.allowedV1(kind, major, minor, access) && !want {
				t.Fatalf("%v: %c %d:%d %d is allowed on v1", rules, kind, major, minor, access)
			}
			if single := access&(access-1) == 0; v1err == nil && single && set.allowedV1(kind, major, minor, access) != want {
				t.Fatalf("%v: %c %d:%d %d is %v on v1", rules, kind, major, minor, access, !want)
			}
		}
	})
}

// The kernel must take programs of any length that deviceProgram makes.
func TestKernelTakesDevicePrograms(t *testing.T) {
	host(t)
	for _, n := range []int{0, 1, 30, maxRuleCount} {
		list := make([]specs.LinuxDeviceCgroup, n)
		for i := range list {
			list[i] = rule(fmt.Sprintf("%s c %d:%d rw", []string{"deny", "allow"}[i%2], i, i*7))
		}
		rules, err := parseDevices(list)
		if err != nil {
			t.Fatal(err)
		}
		program, err := deviceProgram(rules)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := loadProgram(program)
		if err != nil {
			t.Errorf("%d rules: %v", n, err)
			continue
		}
		unix.Close(fd)
	}
}
